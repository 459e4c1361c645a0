//! `ferrybench`: a load generator and judge for vhost-user-fs daemons.

mod bare;
mod bench;
mod budget;
mod case;
mod cli;
mod daemon;
mod engine;
mod error;
mod machine;
mod memory;
mod migrate;
mod preset;
mod process;
mod progress;
mod report;
mod rig;
mod sample;
mod strace;
mod workload;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use crate::budget::Budget;
use crate::cli::{Bench, Cli, Command, Output};
use crate::engine::Goal;
use crate::error::BenchError;
use crate::machine::Machine;
use crate::progress::Progress;
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

/// JSON of a report, and the HTML and the picture that go with it, where they are
/// wanted.
///
/// # Errors
/// [`BenchError::Io`].
pub fn write_output(
    output: &Output,
    report: &impl serde::Serialize,
    html: impl FnOnce() -> String,
    picture: impl FnOnce() -> String,
) -> Result<(), BenchError> {
    // Reports hold nothing that JSON cannot.
    let json = || serde_json::to_string_pretty(report).unwrap_or_default();
    write_file(output.json.as_deref(), json)?;
    write_file(output.html.as_deref(), html)?;
    write_file(output.svg.as_deref(), picture)
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

/// Goes on at real-time priority, where that is allowed; whether it is.
fn at_realtime_priority() -> bool {
    let error = match process::be_realtime() {
        Ok(()) => return true,
        Err(error) => error,
    };
    eprintln!(
        "ferrybench: not at real-time priority: {error}; it takes CAP_SYS_NICE, or an rtprio in \
         limits.conf"
    );
    false
}

/// Measures all cases; whether none failed. `base` is none for no ratios, or what the
/// command line says about the base.
fn run(
    bench: &Bench,
    rounds: usize,
    base: Option<Option<&str>>,
    default: &[&str],
) -> Result<bool, BenchError> {
    let daemons = bench.daemons.specs(default)?;
    let base = base.map(|name| bench.daemons.base(&daemons, name));
    let base = base.transpose()?;
    let mut options = bench.options(rounds);
    if options.syscalls && ferryfs_frontend::spawn::find("STRACE", "strace").is_none() {
        eprintln!("ferrybench: no strace found; system calls are not counted");
        options.syscalls = false;
    }
    // Before there are threads and daemons: they inherit it.
    let realtime = bench.realtime && at_realtime_priority();
    let cases = bench.cases();
    let mut progress = Progress::new(bench.output.quiet, cases.len());
    let budget = bench.budget.map(std::time::Duration::from_secs_f64);
    let mut budget = budget.map(|time| Budget::new(time, daemons.len(), rounds, options.repeat));
    let longest = options.goal;
    let mut report = Report {
        machine: Machine::here(&options.dir, realtime),
        daemons: daemons
            .iter()
            .map(|spec| (spec.name.clone(), spec.command_line()))
            .collect(),
        base: base.map(|base| daemons[base].name.clone()),
        rounds: options.all_rounds(),
        cases: Vec::new(),
    };
    let mut good = true;
    for (index, case) in cases.iter().enumerate() {
        progress.at(|| case.label());
        let start = std::time::Instant::now();
        if let (Some(budget), Goal::Time(longest)) = (&budget, longest) {
            options.goal = Goal::Time(budget.round(cases.len() - index, longest));
        }
        let case = bench::run_case(case, &daemons, base, &options, &mut progress)?;
        if let (Some(budget), Goal::Time(round)) = (&mut budget, options.goal) {
            budget.took(start.elapsed(), round);
        }
        progress.step();
        for daemon in &case.daemons {
            if let Some(error) = &daemon.error {
                good = false;
                let (label, name) = (&case.label, &daemon.daemon);
                progress.say(&format!("ferrybench: {label} on {name}: {error}"));
            }
        }
        report.cases.push(case);
    }
    drop(progress);
    write_output(
        &bench.output,
        &report,
        || html::report(&report),
        || html::picture(&report),
    )?;
    let syscalls = table::syscalls(&report);
    print_tables(
        &report.machine,
        &[table::ratios(&report), table::all(&report), syscalls],
    )?;
    Ok(good)
}
