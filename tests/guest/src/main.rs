//! The agent: process 1 of the end-to-end guest. It mounts the share, then
//! answers one command per line on the second serial port.
//!
//! It keeps what it has opened, mapped and started over the guest's crossings,
//! which is what is tested. The same executable is the program that is run from
//! the share.

mod agent;
mod census;
mod checks;
mod init;
mod program;
mod programs;
mod rival;
mod sys;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let result = match args.next().as_deref().and_then(|a| a.to_str()) {
        Some(program::ARG) => program::run(),
        Some(checks::groups::ARG) => checks::groups::create(args.next()),
        _ if std::process::id() == 1 => init::run(),
        _ => Err(sys::Failure::new(
            "this is the agent of the end-to-end guest: it runs as process 1 there",
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("ferry-guest: {e}");
            ExitCode::FAILURE
        }
    }
}
