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
    tests(Cmd::cargo().args(["test", "--workspace", "--no-fail-fast"]))?;
    progress::step("cross again with everything located late that can be");
    for suite in CROSSINGS {
        let tests_of = ["test", "-p", "ferryfs-tests", "--test", suite];
        tests(
            Cmd::cargo()
                .args(tests_of)
                .env("FERRYFS_TEST_OPTIONS", "--restore-first 0"),
        )?;
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

/// Runs `cargo test`, and says at the end once more what failed: it stands between
/// thousands of lines, of which a log may keep the last only.
fn tests(command: Cmd) -> Result<()> {
    let mut failures = Failures::default();
    let run = command
        .dir(&workspace::root())
        .run_seen(|line| failures.see(line));
    if run.is_err() && !failures.lines.is_empty() {
        println!("\nwhat failed, once more:\n");
        for line in &failures.lines {
            println!("{line}");
        }
    }
    run
}

/// What the test harness says of tests that failed.
#[derive(Default)]
struct Failures {
    within: bool,
    lines: Vec<String>,
}

impl Failures {
    fn see(&mut self, line: &str) {
        self.within |= line == "failures:";
        if self.within {
            self.lines.push(line.to_owned());
        }
        // The last of what it says of one executable.
        self.within &= !line.starts_with("test result:");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_found_between_what_passed() {
        let said = "\
running 2 tests
test good ... ok
test bad ... FAILED

failures:

---- bad stdout ----
thread 'bad' panicked at here

failures:
    bad

test result: FAILED. 1 passed; 1 failed
running 1 test
test another ... ok
test result: ok. 1 passed; 0 failed";
        let mut failures = Failures::default();
        said.lines().for_each(|line| failures.see(line));
        let found = failures.lines.join("\n");
        assert!(found.starts_with("failures:"), "{found}");
        assert!(found.contains("panicked at here"), "{found}");
        assert!(found.ends_with("1 failed"), "{found}");
        assert!(!found.contains("good") && !found.contains("another"));
    }
}
