//! `bench`: figures for the pages in docs/ that have some.

mod state;

use clap::Subcommand;

use crate::fail::Result;

/// Options of `bench`.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Size, time and memory of a state in each format: writes docs/state-bench.md
    State(state::Args),
}

/// Measures.
pub fn run(args: &Args) -> Result<()> {
    match &args.what {
        What::State(args) => state::run(args),
    }
}
