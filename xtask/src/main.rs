//! Tasks of the workspace: `cargo xtask <task>`.

mod bench;
mod binaries;
mod command;
mod compat;
mod demo;
mod e2e;
mod fail;
mod fuzz;
mod posix;
mod progress;
mod setup;
mod suite;
mod tidy;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::fail::Result;

#[derive(Parser)]
#[command(
    bin_name = "cargo xtask",
    about = "Build, test and check ferryfs",
    max_term_width = 100
)]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Show the main job: two daemons, a crossing in each format, everything verified
    Demo(demo::Args),
    /// Install what the end-to-end tests need: QEMU, a guest kernel, busybox (root and apt)
    SetupE2e,
    /// Fetch and build other projects' daemons for `bench` (the one in C: root and apt)
    SetupPeers,
    /// Let real guests under QEMU live on a daemon and cross to others
    E2e(e2e::Args),
    /// Compare a mount with the bare file system, test by test, in POSIX suites (root)
    Posix(posix::Args),
    /// Let guests move between this daemon, older releases and stock virtiofsd, each with each
    CompatMatrix(compat::Args),
    /// Run every test of the workspace
    Test(suite::Args),
    /// Run the fuzz targets for a while: [TARGET] [--seconds N | --runs N] [--seed N]
    Fuzz(fuzz::Args),
    /// Measure what docs/ has figures of
    Bench(bench::Args),
    /// Check what compiler and clippy do not: see xtask/src/tidy
    Tidy,
}

fn main() -> ExitCode {
    progress::start();
    match run(Args::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Demo(args) => demo::run(&args),
        Task::SetupE2e => setup::run().map(drop),
        Task::SetupPeers => setup::peers(),
        Task::E2e(args) => e2e::run(&args),
        Task::Posix(args) => posix::run(&args),
        Task::CompatMatrix(args) => compat::run(&args),
        Task::Test(args) => suite::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Tidy => tidy::run(),
    }
}
