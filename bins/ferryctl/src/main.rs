//! `ferryctl`: looks into ferryfs state streams, checks and converts them.

mod inspect;
mod json;
mod state;
mod stream;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    match state::run(&command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ferryctl: {}", ferryfs_state::error_line(&error));
            ExitCode::FAILURE
        }
    }
}
