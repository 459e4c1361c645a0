//! `test`: every test of the workspace.

use crate::command::Cmd;
use crate::fail::Result;
use crate::{e2e, progress, setup, workspace};

/// Options of `test`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Also let real guests cross; installs what that needs
    #[arg(long)]
    e2e: bool,
}

/// The suites of which crossings are most.
const CROSSINGS: &[&str] = &[
    "crossing",
    "endurance",
    "external",
    "ghosts",
    "identity",
    "locks",
    "refusals",
];

/// Runs them.
pub fn run(args: &Args) -> Result<()> {
    // The suites over processes look for the executables beside themselves.
    progress::step("build the executables");
    cargo(&["build", "--workspace", "--bins"])?;
    progress::step("run the tests of all crates");
    cargo(&["test", "--workspace", "--no-fail-fast"])?;
    progress::step("cross again with everything located late that can be");
    for suite in CROSSINGS {
        Cmd::cargo()
            .args(["test", "-p", "ferryfs-tests", "--test", suite])
            .env("FERRYFS_TEST_OPTIONS", "--restore-first 0")
            .dir(&workspace::root())
            .run()?;
    }
    if !args.e2e {
        progress::step("skipped: the end-to-end tests with real guests (add --e2e)");
        return Ok(());
    }
    setup::run()?;
    e2e::run(&e2e::Args::default())
}

fn cargo(args: &[&str]) -> Result<()> {
    Cmd::cargo().args(args).dir(&workspace::root()).run()
}
