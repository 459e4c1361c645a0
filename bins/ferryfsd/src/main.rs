//! The stock ferryfs daemon: the passthrough file system with all built-in state
//! formats. Everything is in `ferryfs_daemon`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ferryfs_daemon::main("ferryfsd", env!("CARGO_PKG_VERSION"))
}
