//! `ferryctl`: looks into ferryfs state streams, checks and converts them.

mod diff;
mod inspect;
mod json;
mod paths;
mod qemu;
mod remap;
mod show;
mod state;
mod stream;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::state::Outcome;

/// Looks into ferryfs state streams, checks and converts them.
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
}

fn main() -> ExitCode {
    let Command::State(command) = Cli::parse().command;
    // diff's "different" is no failure, and must not look like one.
    let failure = match &command {
        state::Command::Diff { .. } => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    };
    match state::run(&command) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Different) => ExitCode::FAILURE,
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ferryctl: {}", ferryfs_state::error_line(&error));
            failure
        }
    }
}
