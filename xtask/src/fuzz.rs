//! `fuzz`: the fuzz targets for a while, on stable Rust. See fuzz/README.md.

use crate::binaries;
use crate::command::Cmd;
use crate::fail::Result;
use crate::workspace;

/// Options of `fuzz`: those of the runner.
#[derive(clap::Args, Debug)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// Handed on; --help tells
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

/// Builds the runner, with the checks of a debug build, and runs it.
pub fn run(args: &Args) -> Result<()> {
    let runner = binaries::build("ferryfs-fuzz", "dev")?;
    Cmd::new(runner)
        .args(&args.rest)
        .dir(&workspace::root())
        .run()
}
