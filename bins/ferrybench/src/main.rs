//! `ferrybench`: a load generator and judge for vhost-user-fs daemons.

mod bare;
mod bench;
mod cli;
mod daemon;
mod engine;
mod error;
mod machine;
mod migrate;
mod process;
mod report;
mod strace;
mod workload;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use crate::cli::{Bench, Cli, Command, Output};
use crate::error::BenchError;
use crate::machine::{Machine, Progress};
use crate::report::{html, table, Report};

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(bench) => run(&bench, 1, None, &["ferryfsd"]),
        Command::Compare(compare) => run(
            &compare.bench,
            usize::from(compare.rounds),
            Some(compare.base.as_deref()),
            &["ferryfsd", "virtiofsd"],
        ),
        Command::Migrate(options) => migrate::run(&options),
        Command::Workloads => {
            list_workloads();
            Ok(true)
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ferrybench: {}", error::chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn list_workloads() {
    for workload in workload::Workload::value_variants() {
        if let Some(value) = workload.to_possible_value() {
            let help = value.get_help().map(ToString::to_string);
            println!("{:12} {}", value.get_name(), help.unwrap_or_default());
        }
    }
}

/// Writes `text` where an option says, if it was given.
///
/// # Errors
/// [`BenchError::Io`].
pub fn write_file(path: Option<&Path>, text: impl FnOnce() -> String) -> Result<(), BenchError> {
    let Some(path) = path else { return Ok(()) };
    std::fs::write(path, text()).map_err(BenchError::io("write", path))
}

/// JSON of a report and the HTML that goes with it, where they are wanted.
///
/// # Errors
/// [`BenchError::Io`].
pub fn write_output(
    output: &Output,
    report: &impl serde::Serialize,
    html: impl FnOnce() -> String,
) -> Result<(), BenchError> {
    // Reports hold nothing that JSON cannot.
    let json = || serde_json::to_string_pretty(report).unwrap_or_default();
    write_file(output.json.as_deref(), json)?;
    write_file(output.html.as_deref(), html)
}

/// Prints where it was measured and what came out, to be pasted into Markdown.
///
/// # Errors
/// [`BenchError::Io`], unless nobody reads on.
pub fn print_tables(machine: &Machine, tables: &[String]) -> Result<(), BenchError> {
    let mut text = format!("{}\n\n    {}\n", machine.line(), machine.command);
    for table in tables.iter().filter(|table| !table.is_empty()) {
        text.push('\n');
        text.push_str(table.trim_end());
        text.push('\n');
    }
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(BenchError::io("write", Path::new("standard output"))(e))
        }
        _ => Ok(()),
    }
}

/// Measures all cases; whether none failed. `base` is none for no ratios, or what the
/// command line says about the base.
fn run(
    bench: &Bench,
    rounds: usize,
    base: Option<Option<&str>>,
    default: &[&str],
) -> Result<bool, BenchError> {
    let daemons = cli::daemons(&bench.daemon, default)?;
    let position = |name: &str| daemons.iter().position(|spec| spec.name == name);
    let base = match base {
        None => None,
        Some(Some(name)) => match position(name) {
            Some(index) => Some(index),
            None => return Err(BenchError::Usage(format!("no daemon is called {name}"))),
        },
        Some(None) => Some(position("virtiofsd").unwrap_or(0)),
    };
    let mut options = bench.options(rounds);
    if options.syscalls && ferryfs_frontend::spawn::find("STRACE", "strace").is_none() {
        eprintln!("ferrybench: no strace found; system calls are not counted");
        options.syscalls = false;
    }
    let mut progress = Progress::new(bench.output.quiet);
    let cases = bench.cases();
    let mut report = Report {
        machine: Machine::here(&options.dir),
        daemons: daemons
            .iter()
            .map(|spec| (spec.name.clone(), spec.command_line()))
            .collect(),
        base: base.map(|base| daemons[base].name.clone()),
        rounds,
        cases: Vec::new(),
    };
    let mut good = true;
    for (index, case) in cases.iter().enumerate() {
        progress.at(|| format!("{} ({}/{})", case.label(), index + 1, cases.len()));
        let case = bench::run_case(case, &daemons, base, &options, &mut progress)?;
        for daemon in &case.daemons {
            if let Some(error) = &daemon.error {
                good = false;
                eprintln!("ferrybench: {} on {}: {error}", case.label, daemon.daemon);
            }
        }
        report.cases.push(case);
    }
    write_output(&bench.output, &report, || html::report(&report))?;
    let syscalls = table::syscalls(&report);
    print_tables(
        &report.machine,
        &[table::ratios(&report), table::all(&report), syscalls],
    )?;
    Ok(good)
}
