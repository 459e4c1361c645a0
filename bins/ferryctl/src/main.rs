//! `ferryctl`: looks into ferryfs state streams, checks and converts them, and gets
//! them out of daemons and into them.

mod daemon;
mod diff;
mod inspect;
mod json;
mod qemu;
mod show;
mod state;
mod stream;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::state::Outcome;

/// Looks into ferryfs state streams, checks and converts them, and gets them out of
/// daemons and into them.
#[derive(Debug, Parser)]
#[command(name = "ferryctl", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Work on a state stream, from a file or (as "-") from standard input
    #[command(subcommand)]
    State(state::Command),
    /// Save the state of a daemon: by its control socket while its VM is stopped, or
    /// while no VMM is connected (one with --keep-state whose VMM has gone, or one with
    /// --state-file before its VMM has come)
    Save(daemon::Save),
    /// Load a state into a daemon, for a VMM that brings none: by its control socket
    /// before its VM runs, or into one with --keep-state before its VMM comes
    Load(daemon::Load),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::State(command) => work_on(&command),
        Command::Save(args) => ended(daemon::save(&args)),
        Command::Load(args) => ended(daemon::load(&args)),
    }
}

fn ended(result: Result<(), daemon::Error>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ferryctl: {}", ferryfs_state::error_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn work_on(command: &state::Command) -> ExitCode {
    // diff's "different" is no failure, and must not look like one.
    let failure = match command {
        state::Command::Diff { .. } => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    };
    match state::run(command) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Different) => ExitCode::FAILURE,
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ferryctl: {}", ferryfs_state::error_line(&error));
            failure
        }
    }
}
