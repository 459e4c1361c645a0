//! `bench`: ferryfsd beside other projects' daemons and the bare system calls, workload
//! by workload. `ferrybench` measures and judges; this makes a page of it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::page::{self, number, Part};
use super::{ferrybench, grouped, INTRODUCTION, PAGE};
use crate::fail::{Context, Fail, Result};
use crate::{progress, workspace};

/// Options of `bench` itself.
#[derive(clap::Args, Debug)]
// A name of its own beside that of the whole command.
#[group(skip)]
pub struct Args {
    /// A dozen cases within two minutes; nothing is written to docs/
    #[arg(long)]
    quick: bool,
    /// Seconds for all rounds together [default: 600, with --quick 90]
    #[arg(long, value_name = "SECONDS")]
    budget: Option<u32>,
    /// Rounds per daemon and case, each of the three times that it is started; ratios are the
    /// medians of all [default: 5, with --quick 3]
    #[arg(long, value_name = "N")]
    rounds: Option<u16>,
    /// At real-time priority: for a machine that has something else to do, which waits meanwhile
    #[arg(long)]
    realtime: bool,
    /// Directory for the shares, whose file system is measured along [default: /dev/shm, where
    /// the file system costs least]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// What ratios are to.
const BASE: &str = "virtiofsd";
/// How often daemons and shares are made anew.
const REPEAT: u16 = 3;
/// The picture beside the page.
const PICTURE: &str = "docs/benchmarks.svg";

/// Measures, prints, and writes the page.
pub fn run(args: &Args) -> Result<()> {
    let (suite, budget, rounds) = match args.quick {
        true => ("quick", 90, 3),
        false => ("full", 600, 5),
    };
    let budget = args.budget.unwrap_or(budget);
    let rounds = args.rounds.unwrap_or(rounds);
    let dir = super::share_dir(args.dir.as_deref());
    let peers = super::peers()?;
    let program = ferrybench()?;
    let kept = super::kept("benchmarks")?;
    let mut words = vec!["compare".to_owned()];
    words.extend(
        peers
            .iter()
            .flat_map(|peer| ["--peer", peer])
            .map(str::to_owned),
    );
    words.extend(["--suite", suite].map(str::to_owned));
    words.extend([
        format!("--repeat={REPEAT}"),
        format!("--rounds={rounds}"),
        "--warmup=0.1".to_owned(),
        format!("--budget={budget}"),
        "--file-size=32".to_owned(),
    ]);
    if args.realtime {
        words.push("--realtime".to_owned());
    }
    let shown = format!("ferrybench {}", words.join(" "));
    progress::step(format_args!("{shown} (at most about {budget} s)"));
    let svg = kept.with_extension("svg");
    let measured = super::measure(&program, &words, &dir, &kept)?;
    let report: Value = serde_json::from_str(&measured).context("ferrybench's report")?;
    let text = part(&report, &shown)?;
    print!("{text}");
    progress::step(format_args!("all figures and plots: {}.*", kept.display()));
    if args.quick {
        return Ok(());
    }
    let picture = workspace::root().join(PICTURE);
    std::fs::copy(&svg, &picture).context(picture.display())?;
    let part = Part {
        name: "daemons",
        text: &text,
    };
    page::put(Path::new(PAGE), INTRODUCTION, &part)
}

/// One daemon's figures in one case, where there are any.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Cell {
    ops: f64,
    cpu: f64,
    percentiles: [f64; 3],
    mb: f64,
    /// Operations per second and CPU beside the base.
    ratio: Option<(f64, f64)>,
}

impl Cell {
    fn of(daemon: &Value) -> Option<Cell> {
        let median = daemon.get("median").filter(|median| !median.is_null())?;
        let figure = |name: &str| median[name].as_f64();
        let ratio = |name: &str| daemon["ratios"][name]["median"].as_f64();
        Some(Cell {
            ops: figure("ops_per_s")?,
            cpu: figure("cpu_us")?,
            percentiles: [figure("p50_us")?, figure("p99_us")?, figure("p999_us")?],
            mb: figure("mb_per_s")?,
            ratio: ratio("ops").zip(ratio("cpu")),
        })
    }
}

/// A case: its name, what the bare system calls need, and a cell per daemon.
struct Row {
    label: String,
    bare: Option<f64>,
    cells: Vec<Option<Cell>>,
}

fn rows(report: &Value, names: &[String]) -> Result<Vec<Row>> {
    let cases = report["cases"]
        .as_array()
        .ok_or_else(|| Fail::new("the report has no cases"))?;
    let row = |case: &Value| {
        let daemons = case["daemons"].as_array().map_or(&[][..], Vec::as_slice);
        let cell = |name: &String| {
            let own = daemons.iter().find(|daemon| daemon["daemon"] == **name);
            own.and_then(Cell::of)
        };
        Row {
            label: case["label"].as_str().unwrap_or_default().to_owned(),
            bare: case["bare"]["us"].as_f64(),
            cells: names.iter().map(cell).collect(),
        }
    };
    Ok(cases.iter().map(row).collect())
}

fn part(report: &Value, command: &str) -> Result<String> {
    let daemons = report["daemons"]
        .as_array()
        .ok_or_else(|| Fail::new("the report names no daemons"))?;
    let names: Vec<String> = daemons
        .iter()
        .filter_map(|daemon| daemon[0].as_str().map(str::to_owned))
        .collect();
    let rows = rows(report, &names)?;
    let mut text = format!(
        "## Workloads\n\n`cargo xtask bench` makes this part, by\n\n    {command}\n\n{}\n\n{}\n",
        super::machine(report),
        super::versions(&names)?
    );
    text.push_str(&format!(
        "\n![Ratios as bars]({})\n\n### Operations per second\n\nRatios are to {BASE}: above 1 is faster.\n\n",
        PICTURE.trim_start_matches("docs/")
    ));
    text.push_str(&throughput(&names, &rows));
    text.push_str(
        "\n### Daemon CPU per operation\n\nIn us, and beside it the time of the bare system calls \
         for the same.\n\n",
    );
    text.push_str(&cpu(&names, &rows));
    text.push_str("\n### Latency\n\n50th, 99th and 99.9th percentile in us.\n\n");
    text.push_str(&latency(&names, &rows));
    text.push_str("\n### Behind\n\n");
    text.push_str(&behind(&rows));
    Ok(text)
}

fn throughput(names: &[String], rows: &[Row]) -> String {
    let mut head = vec!["workload".to_owned()];
    head.extend(names.iter().map(|name| format!("{name} ops/s")));
    head.extend(names.iter().filter(|name| *name != BASE).cloned());
    head.push("MB/s".to_owned());
    let line = |row: &Row| {
        let mut line = vec![row.label.clone()];
        let dash = || "-".to_owned();
        let ops = |cell: &Option<Cell>| cell.map_or_else(dash, |c| grouped(c.ops.round() as u64));
        line.extend(row.cells.iter().map(ops));
        for (name, cell) in names.iter().zip(&row.cells) {
            if name != BASE {
                let ratio = cell.and_then(|cell| cell.ratio);
                line.push(ratio.map_or_else(dash, |(ops, _)| format!("{ops:.2}x")));
            }
        }
        let mb = row.cells.first().copied().flatten().map(|cell| cell.mb);
        line.push(mb.filter(|mb| *mb > 0.0).map_or_else(dash, number));
        line
    };
    page::table(&head, &rows.iter().map(line).collect::<Vec<_>>())
}

fn cpu(names: &[String], rows: &[Row]) -> String {
    let mut head = vec!["workload".to_owned()];
    head.extend(names.iter().cloned());
    head.extend(["bare".to_owned(), format!("ferryfsd / {BASE}")]);
    let line = |row: &Row| {
        let mut line = vec![row.label.clone()];
        let dash = || "-".to_owned();
        let cells = row.cells.iter();
        line.extend(cells.map(|cell| cell.map_or_else(dash, |c| number(c.cpu))));
        line.push(row.bare.map_or_else(dash, number));
        let own = row.cells.first().copied().flatten();
        let ratio = own.and_then(|cell| cell.ratio);
        line.push(ratio.map_or_else(dash, |(_, cpu)| format!("{cpu:.2}x")));
        line
    };
    page::table(&head, &rows.iter().map(line).collect::<Vec<_>>())
}

fn latency(names: &[String], rows: &[Row]) -> String {
    let mut head = vec!["workload".to_owned()];
    head.extend(names.iter().cloned());
    let line = |row: &Row| {
        let mut line = vec![row.label.clone()];
        line.extend(row.cells.iter().map(|cell| match cell {
            Some(cell) => cell.percentiles.map(number).join(" / "),
            None => "-".to_owned(),
        }));
        line
    };
    page::table(&head, &rows.iter().map(line).collect::<Vec<_>>())
}

/// The cases in which ferryfsd is slower than the base, or takes more of the CPU.
fn behind(rows: &[Row]) -> String {
    let of = |row: &Row| row.cells.first().copied().flatten()?.ratio;
    let slower = rows.iter().filter_map(|row| {
        let (ops, cpu) = of(row)?;
        let mut what = Vec::new();
        if ops < 1.0 {
            what.push(format!("{ops:.2}x ops/s"));
        }
        if cpu > 1.0 {
            what.push(format!("{cpu:.2}x CPU"));
        }
        (!what.is_empty()).then(|| format!("- {}: {}\n", row.label, what.join(", ")))
    });
    let lines: String = slower.collect();
    match lines.is_empty() {
        true => {
            format!("In no workload is ferryfsd slower than {BASE}, or takes more of the CPU.\n")
        }
        false => {
            format!("Where ferryfsd is slower than {BASE}, or takes more of the CPU:\n\n{lines}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Value {
        let median = |ops: f64| {
            serde_json::json!({
                "ops_per_s": ops, "cpu_us": 2.5, "p50_us": 50.0, "p99_us": 99.0,
                "p999_us": 123.4, "mb_per_s": 0.0
            })
        };
        serde_json::json!({
            "machine": {"cpu": "c", "cpus": 2, "kernel": "6.1", "file_system": "tmpfs"},
            "daemons": [["ferryfsd", "x"], ["virtiofsd", "y"]],
            "cases": [{
                "label": "open depth 8",
                "bare": {"us": 1.25},
                "daemons": [
                    {"daemon": "ferryfsd", "median": median(12_345.0),
                     "ratios": {"ops": {"median": 0.9}, "cpu": {"median": 0.5}}},
                    {"daemon": "virtiofsd", "median": null, "ratios": null}
                ]
            }]
        })
    }

    #[test]
    fn cells_hold_what_was_measured() {
        let names = ["ferryfsd".to_owned(), "virtiofsd".to_owned()];
        let rows = rows(&report(), &names).unwrap();
        assert_eq!(rows[0].cells[1], None);
        let table = throughput(&names, &rows);
        assert!(
            table.contains("| open depth 8 | 12,345 | - | 0.90x | - |"),
            "{table}"
        );
        let table = cpu(&names, &rows);
        assert!(
            table.contains("| open depth 8 | 2.50 | - | 1.25 | 0.50x |"),
            "{table}"
        );
        let table = latency(&names, &rows);
        assert!(table.contains("| 50.0 / 99.0 / 123 | - |"), "{table}");
    }

    #[test]
    fn who_is_behind_is_said() {
        let names = ["ferryfsd".to_owned(), "virtiofsd".to_owned()];
        let mut rows = rows(&report(), &names).unwrap();
        assert!(behind(&rows).contains("- open depth 8: 0.90x ops/s\n"));
        rows[0].cells[0].as_mut().unwrap().ratio = Some((1.0, 1.0));
        assert!(behind(&rows).starts_with("In no workload"));
    }
}
