//! `bench migrate`: what a live migration costs, over the number of inodes that the
//! guest knows. `ferrybench migrate` measures; this makes a part of a page of it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::page::{self, number, Part};
use super::{ferrybench, grouped, INTRODUCTION, PAGE};
use crate::fail::{Context, Fail, Result};
use crate::{progress, workspace};

/// Options of `bench migrate`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Numbers of inodes that the guest has looked up
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000, 1_000_000])]
    inodes: Vec<u64>,
    /// Files among them that are open
    #[arg(long, default_value_t = 100)]
    handles: u64,
    /// Crossings per point; medians are reported
    #[arg(long, default_value_t = 1)]
    rounds: u16,
    /// Directory for the shares [default: /dev/shm]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Only print; nothing is written to docs/
    #[arg(long)]
    dry_run: bool,
}

/// Ours with the format that is not compressed.
const PLAIN: &str = "ferryfsd-postcard=@ferryfsd --state-format postcard";

/// The picture.
const PICTURE: &str = "docs/migration-sweep.svg";

/// Measures, prints, and writes the part.
pub fn run(args: &Args) -> Result<()> {
    let dir = super::share_dir(args.dir.as_deref());
    // The others do not migrate.
    let peer = "virtiofsd";
    let program = ferrybench()?;
    let kept = super::kept("migration-sweep")?;
    let inodes: Vec<String> = args.inodes.iter().map(u64::to_string).collect();
    let words = [
        "migrate".to_owned(),
        "--daemon=ferryfsd".to_owned(),
        format!("--daemon={PLAIN}"),
        format!("--peer={peer}"),
        format!("--inodes={}", inodes.join(",")),
        format!("--handles={}", args.handles),
        format!("--rounds={}", args.rounds),
    ];
    let quoted = words.iter().map(|word| match word.contains(' ') {
        true => format!("'{word}'"),
        false => word.clone(),
    });
    let shown = format!("ferrybench {}", quoted.collect::<Vec<_>>().join(" "));
    progress::step(&shown);
    let measured = super::measure(&program, &words, &dir, &kept)?;
    let report: Value = serde_json::from_str(&measured).context("ferrybench's report")?;
    let text = part(&report, &shown)?;
    print!("{text}");
    progress::step(format_args!("all figures and plots: {}.*", kept.display()));
    if args.dry_run {
        return Ok(());
    }
    let picture = workspace::root().join(PICTURE);
    std::fs::copy(kept.with_extension("svg"), &picture).context(picture.display())?;
    let part = Part {
        name: "migration",
        text: &text,
    };
    page::put(Path::new(PAGE), INTRODUCTION, &part)
}

fn part(report: &Value, command: &str) -> Result<String> {
    let points = report["points"]
        .as_array()
        .ok_or_else(|| Fail::new("the report has no points"))?;
    let names = ["ferryfsd".to_owned(), "virtiofsd".to_owned()];
    let mut text = format!(
        "## Migration\n\n`cargo xtask bench migrate` makes this part, by\n\n    {command}\n\n{}\n\n{}\n",
        super::machine(report),
        super::versions(&names)?
    );
    text.push_str(&format!(
        "\nA guest that has looked up so many files, some of them open, crosses from one daemon to \
         another of the same kind. *ferryfsd-postcard* writes a state that is not compressed. \
         *collect* is what the source does in the background from \
         `VHOST_F_LOG_ALL` on, while the guest runs; *stop, save* is from the first \
         `GET_VRING_BASE` to the answer to `CHECK_DEVICE_STATE`; *load* the same on the \
         destination; *first answer* is from connecting to the destination, load included, to the \
         guest's first answer. Memory is the most that the process had over what it had before \
         the guest came.\n\n![The sweep, on logarithmic scales]({})\n\n",
        PICTURE.trim_start_matches("docs/")
    ));
    text.push_str(&times(points));
    text.push('\n');
    text.push_str(&memory(points));
    Ok(text)
}

fn heading(point: &Value) -> Vec<String> {
    let word = |name: &str| point[name].as_str().unwrap_or_default();
    vec![
        format!("{} {}", word("daemon"), word("mode")),
        grouped(point["inodes"].as_u64().unwrap_or(0)),
    ]
}

fn rows(points: &[Value], cells: impl Fn(&Value, f64) -> Vec<String>) -> Vec<Vec<String>> {
    let row = |point: &Value| {
        let mut row = heading(point);
        let inodes = point["inodes"].as_f64().unwrap_or(1.0).max(1.0);
        match point.get("crossing").filter(|crossing| !crossing.is_null()) {
            Some(crossing) => row.extend(cells(crossing, inodes)),
            None => row.push(point["error"].as_str().unwrap_or("failed").to_owned()),
        }
        row
    };
    points.iter().map(row).collect()
}

fn head(columns: &[&str]) -> Vec<String> {
    let first = ["daemon and mode", "inodes"];
    first
        .iter()
        .chain(columns)
        .map(|c| (*c).to_owned())
        .collect()
}

fn times(points: &[Value]) -> String {
    let columns = [
        "collect",
        "stop, save",
        "state",
        "B/inode",
        "load",
        "us/inode",
        "first answer",
    ];
    let rows = rows(points, |crossing, inodes| {
        let figure = |name: &str| crossing[name].as_f64().unwrap_or(0.0);
        vec![
            time(figure("collect_s")),
            time(figure("save_s")),
            bytes(figure("state_bytes")),
            number(figure("state_bytes") / inodes),
            time(figure("load_s")),
            number(figure("load_s") * 1e6 / inodes),
            time(figure("first_answer_s")),
        ]
    });
    page::table(&head(&columns), &rows)
}

fn memory(points: &[Value]) -> String {
    let columns = [
        "source: peak",
        "B/inode",
        "descriptors",
        "destination: peak",
        "B/inode",
        "descriptors",
    ];
    let rows = rows(points, |crossing, inodes| {
        let mut row = Vec::new();
        for side in ["source", "destination"] {
            let figure = |name: &str| crossing[format!("{side}_{name}")].as_f64().unwrap_or(0.0);
            row.extend([
                bytes(figure("peak_grown")),
                number(figure("peak_grown") / inodes),
                grouped(figure("fds") as u64),
            ]);
        }
        row
    });
    page::table(&head(&columns), &rows)
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{} s", number(s)),
        s => format!("{} ms", number(s * 1e3)),
    }
}

fn bytes(bytes: f64) -> String {
    match bytes {
        b if b >= 1e6 => format!("{} MB", number(b / 1e6)),
        b => format!("{} kB", number(b / 1e3)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_become_rows_and_failures_stay_visible() {
        let points = [
            serde_json::json!({
                "daemon": "ferryfsd", "mode": "find-paths", "inodes": 2000, "error": null,
                "crossing": {
                    "collect_s": 0.0125, "save_s": 2.0, "state_bytes": 64_000, "load_s": 0.004,
                    "first_answer_s": 0.005, "source_peak_grown": 2_000_000, "source_fds": 1234,
                    "destination_peak_grown": 1_000_000, "destination_fds": 12
                }
            }),
            serde_json::json!({
                "daemon": "other", "mode": "find-paths", "inodes": 2000, "crossing": null,
                "error": "no DEVICE_STATE"
            }),
        ];
        let table = times(&points);
        let row = "| ferryfsd find-paths | 2,000 | 12.5 ms | 2.00 s | 64.0 kB | 32.0 | 4.00 ms | \
                   2.00 | 5.00 ms |";
        assert!(table.contains(row), "{table}");
        assert!(
            table.contains("| other find-paths | 2,000 | no DEVICE_STATE |"),
            "{table}"
        );
        let table = memory(&points);
        assert!(
            table.contains("| 2.00 MB | 1000 | 1,234 | 1.00 MB | 500 | 12 |"),
            "{table}"
        );
    }
}
