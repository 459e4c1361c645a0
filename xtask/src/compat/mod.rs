//! `compat-matrix`: every daemon that may have written a state against every one that
//! may have to read it, as real processes.
//!
//! The daemons are the working tree's, older releases of ours built from history, and
//! stock virtiofsd ([`candidate`]). What is done with each pair is a [`cell`]; what
//! became of it is compared with `tests/compat/expected.toml` ([`expected`]).

mod candidate;
mod cell;
mod expected;
mod life;
mod outcome;
mod report;
mod special;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::fail::{need, Context, Fail, Result};
use crate::{binaries, progress, workspace};
use candidate::Candidate;
use cell::Cell;
use expected::Expected;
use life::Bench;
use report::{Done, Report};

/// Options of `compat-matrix`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Do only the cells whose name contains this (repeatable)
    #[arg(value_name = "CELL")]
    filter: Vec<String>,

    /// Take only the newest older release, and of virtiofsd only what is there already: the
    /// release in VIRTIOFSD or PATH, or of an earlier run
    #[arg(long)]
    quick: bool,

    /// List the cells
    #[arg(long)]
    list: bool,

    /// Test this daemon instead of the working tree's
    #[arg(long, value_name = "PATH")]
    daemon: Option<PathBuf>,

    /// Cells at a time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = jobs())]
    jobs: u8,
}

fn jobs() -> clap::builder::RangedI64ValueParser<u8> {
    clap::value_parser!(u8).range(1..=64)
}

/// Runs what `args` asks for.
pub fn run(args: &Args) -> Result<()> {
    need(rustix::process::geteuid().is_root(), || {
        "compat-matrix needs root: its guests act as several users, and file handles can only \
         be opened by root"
            .into()
    })?;
    let expected = expected::read()?;
    let releases = candidate::releases()?;
    let this = match &args.daemon {
        Some(path) => path.canonicalize().context(path.display())?,
        None => binaries::build("ferryfsd", "dev")?,
    };
    let ferryctl = binaries::build("ferryctl", "dev")?;
    let candidates = releases.candidates(this, args.quick)?;
    let cells = cell::all(&candidates);
    let left_out = releases.left_out(&candidates);
    if !left_out.is_empty() {
        progress::step(format_args!("left out by --quick: {}", left_out.join(", ")));
    }
    let wanted = |c: &Cell| args.filter.is_empty() || args.filter.iter().any(|f| c.id.contains(f));
    let chosen: Vec<_> = cells.iter().filter(|c| wanted(c)).cloned().collect();
    need(!chosen.is_empty(), || {
        "no cell has such a name; see --list".into()
    })?;
    if args.list {
        for cell in chosen {
            println!("{}", cell.id);
        }
        return Ok(());
    }
    let done = do_all(&candidates, ferryctl, &expected, &chosen, args.jobs);
    need(done.len() == chosen.len(), || {
        "a cell did not come to its end".into()
    })?;
    let report = Report {
        candidates: &candidates,
        done: &done,
        expected: &expected,
    };
    println!("\n{}", report.tables());
    keep(&report)?;
    let whole = !args.quick && args.filter.is_empty();
    let mut wrong: Vec<_> = done
        .iter()
        .filter_map(|d| Some(format!("\"{}\": {}", d.cell.id, d.wrong.as_ref()?)))
        .collect();
    if whole {
        let page = workspace::root().join("docs/compat-matrix.md");
        std::fs::write(&page, report.page()).context(page.display())?;
        progress::step(format_args!("written: {}", page.display()));
        let stale = expected.stale(&cells);
        wrong.extend(stale.iter().map(|p| format!("no cell is called \"{p}\"")));
    }
    verdict(&done, &wrong, &left_out)
}

/// Puts the JSON where tools find it.
fn keep(report: &Report<'_>) -> Result<()> {
    let path = workspace::target()?.join("compat-matrix.json");
    let text = serde_json::to_string_pretty(&report.json()).context("JSON")?;
    std::fs::write(&path, text).context(path.display())?;
    progress::step(format_args!("written: {}", path.display()));
    Ok(())
}

fn do_all(
    candidates: &[Candidate],
    ferryctl: PathBuf,
    expected: &Expected,
    cells: &[Cell],
    jobs: u8,
) -> Vec<Done> {
    life::hush();
    let bench = Bench::new(candidates, ferryctl);
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|threads| {
        for _ in 0..usize::from(jobs).min(cells.len()) {
            threads.spawn(|| loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                let Some(cell) = cells.get(n) else { break };
                let start = progress::seconds();
                let outcome = bench.run(cell);
                let wrong = expected.judge(cell, &outcome);
                let mark = wrong.as_ref().map_or("", |_| "UNEXPECTED: ");
                let all = cells.len();
                progress::step(format_args!("{}/{all} {}: {mark}{outcome}", n + 1, cell.id));
                let one = Done {
                    cell: cell.clone(),
                    outcome,
                    wrong,
                    seconds: progress::seconds() - start,
                };
                let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                done.push((n, one));
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(n, _)| *n);
    done.into_iter().map(|(_, done)| done).collect()
}

fn verdict(done: &[Done], wrong: &[String], left_out: &[String]) -> Result<()> {
    let passed = |d: &&Done| d.outcome == outcome::Outcome::Passes;
    let left = match left_out {
        [] => String::new(),
        some => format!("; left out by --quick: {}", some.join(", ")),
    };
    println!(
        "{} cells, {} pass, {} end otherwise{left}",
        done.len(),
        done.iter().filter(passed).count(),
        done.iter().filter(|d| !passed(d)).count(),
    );
    match wrong {
        [] => Ok(()),
        some => Err(Fail::new(format!(
            "not as expected (tests/compat/expected.toml):\n  {}",
            some.join("\n  ")
        ))),
    }
}
