//! `bench state`: what a state costs in bytes, time and memory, in each format and
//! beside postcard on the same records with nothing around it.
//!
//! Each cell is a process of its own (formats/zstd/examples/state-bench.rs), so that
//! its peak of memory is its own. Times are the shortest of several rounds, in which
//! all cells take turns: what else the machine does, it does to all of them.

use std::fmt::Write;
use std::num::NonZero;
use std::path::{Path, PathBuf};

use super::grouped;
use crate::command::Cmd;
use crate::fail::{need, Context, Fail, Result};
use crate::{progress, workspace};

/// Options of `bench state`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Numbers of inodes
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 100_000, 1_000_000])]
    inodes: Vec<u64>,
    /// Rounds over all cells; the shortest time of a cell counts
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Where the page goes
    #[arg(long, default_value = "docs/state-bench.md")]
    page: PathBuf,
}

/// Most that our postcard may cost of what bare postcard costs.
const BOUND: f64 = 1.5;

const BARE: &str = "bare";
const FORMATS: [&str; 5] = [BARE, "postcard", "msgpack", "postcard+zstd", "msgpack+zstd"];

/// Threads beside the one that writes or reads: none, and as many as there are
/// processors, at most the four that the library uses.
fn threads() -> [usize; 2] {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    [0, processors.min(4)]
}

#[derive(Clone, Copy, Debug)]
struct Figures {
    bytes: u64,
    nanoseconds: u64,
    memory: u64,
}

impl Figures {
    fn parse(line: &str) -> Result<Self> {
        let value: serde_json::Value = serde_json::from_str(line).context("state-bench")?;
        let field = |name: &str| {
            value[name]
                .as_u64()
                .ok_or_else(|| Fail::new(format!("state-bench prints no {name}: {line}")))
        };
        Ok(Self {
            bytes: field("bytes")?,
            nanoseconds: field("nanoseconds")?,
            memory: field("memory")?,
        })
    }

    fn best(self, other: Self) -> Self {
        Self {
            bytes: other.bytes,
            nanoseconds: self.nanoseconds.min(other.nanoseconds),
            memory: self.memory.max(other.memory),
        }
    }
}

/// One row of a table.
#[derive(Clone, Debug)]
struct Row {
    format: &'static str,
    threads: usize,
    write: Figures,
    read: Figures,
}

/// Measures, prints, and writes the page.
pub fn run(args: &Args) -> Result<()> {
    need(args.rounds > 0 && !args.inodes.is_empty(), || {
        "nothing to measure".into()
    })?;
    let program = build()?;
    let file = workspace::target()?.join("state-bench.state");
    let mut tables = Vec::new();
    for &inodes in &args.inodes {
        tables.push((inodes, table(&program, &file, inodes, args.rounds)?));
    }
    // A page of another place must not be cited for this one.
    let _ = std::fs::remove_file(&file);
    let page = page(&tables);
    print!("{page}");
    let path = workspace::root().join(&args.page);
    std::fs::write(&path, &page).context(path.display())?;
    progress::step(format_args!("written to {}", path.display()));
    within_bound(&tables)
}

fn build() -> Result<PathBuf> {
    progress::step("build state-bench (release)");
    Cmd::cargo()
        .args(["build", "--quiet", "--release"])
        .args([
            "--package",
            "ferryfs-format-zstd",
            "--example",
            "state-bench",
        ])
        .dir(&workspace::root())
        .run()?;
    Ok(workspace::target()?.join("release/examples/state-bench"))
}

fn table(program: &Path, file: &Path, inodes: u64, rounds: u32) -> Result<Vec<Row>> {
    // Short runs are repeated within one process, too.
    let repeat = (2_000_000 / inodes.max(1)).clamp(1, 200);
    let measure = |job: &str, format: &str, threads: usize| {
        let line = Cmd::new(program)
            .args([job, format])
            .args([inodes.to_string(), threads.to_string(), repeat.to_string()])
            .args([file])
            .output()?;
        Figures::parse(line.trim())
    };
    let mut rows: Vec<Row> = Vec::new();
    for round in 0..rounds {
        progress::step(format_args!(
            "{inodes} inodes, round {} of {rounds}",
            round + 1
        ));
        let cells = FORMATS
            .into_iter()
            .flat_map(|format| threads().map(|threads| (format, threads)))
            .filter(|(format, threads)| *format != BARE || *threads == 0);
        for (n, (format, threads)) in cells.enumerate() {
            let write = measure("write", format, threads)?;
            let read = measure("read", format, threads)?;
            match rows.get_mut(n) {
                Some(row) => {
                    row.write = row.write.best(write);
                    row.read = row.read.best(read);
                }
                None => rows.push(Row {
                    format,
                    threads,
                    write,
                    read,
                }),
            }
        }
    }
    Ok(rows)
}

fn ratio(one: u64, of: u64) -> f64 {
    one as f64 / of.max(1) as f64
}

/// Our postcard on one thread, against the requirement.
fn within_bound(tables: &[(u64, Vec<Row>)]) -> Result<()> {
    let mut over = Vec::new();
    for (inodes, rows) in tables {
        let Some(bare) = rows.iter().find(|row| row.format == BARE) else {
            continue;
        };
        for row in rows.iter().filter(|row| row.format == "postcard") {
            for (what, ours, theirs) in [
                ("writing", row.write, bare.write),
                ("reading", row.read, bare.read),
            ] {
                let ratio = ratio(ours.nanoseconds, theirs.nanoseconds);
                if row.threads == 0 && ratio > BOUND {
                    over.push(format!("{what} {inodes} inodes takes {ratio:.2} times"));
                }
            }
        }
    }
    need(over.is_empty(), || {
        format!(
            "postcard is beyond {BOUND} times bare postcard: {}",
            over.join(", ")
        )
    })
}

fn page(tables: &[(u64, Vec<Row>)]) -> String {
    let mut page = INTRODUCTION.replace("{MACHINE}", &machine());
    for (inodes, rows) in tables {
        // Writing to a string does not fail.
        let _ = write_table(&mut page, *inodes, rows);
    }
    page.push_str(REMARKS);
    page
}

const INTRODUCTION: &str = "\
# What a state costs

Made by `cargo xtask bench state`, which writes this page; nothing in it is written by
hand. {MACHINE}

A state as a guest leaves it that has walked a large tree: directories of a thousand
files, a handle for every hundredth. Written to a channel that takes everything at
once, read from a file in the page cache. *bare* is postcard on the same records
(`to_stdvec`, `from_bytes`) with no envelope, no checksum and no validation: the
yardstick for time. Our own stream may take 1.5 times as long in postcard, and the
task fails where it does on one thread.

Memory is what the process needed at its peak beyond what it had before: for writing,
beside the records; for reading, with the records, which are the result. *threads* are
those beside the one that writes or reads.
";

const REMARKS: &str = "
Times are of one machine at one time, and of interest as ratios within a table only. Where
other work has the processors, threads bring nothing; the bytes are the same either way.
";

fn write_table(page: &mut String, inodes: u64, rows: &[Row]) -> std::fmt::Result {
    let Some(bare) = rows.iter().find(|row| row.format == BARE) else {
        return Ok(());
    };
    writeln!(page, "\n## {} inodes\n", grouped(inodes))?;
    writeln!(
        page,
        "| format | threads | bytes | per inode | write | of bare | memory | read | of bare | memory |"
    )?;
    writeln!(page, "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")?;
    for row in rows {
        writeln!(
            page,
            "| {} | {} | {} | {:.1} | {} | {:.2} | {} | {} | {:.2} | {} |",
            row.format,
            row.threads,
            grouped(row.write.bytes),
            ratio(row.write.bytes, inodes),
            milliseconds(row.write.nanoseconds),
            ratio(row.write.nanoseconds, bare.write.nanoseconds),
            mebibytes(row.write.memory),
            milliseconds(row.read.nanoseconds),
            ratio(row.read.nanoseconds, bare.read.nanoseconds),
            mebibytes(row.read.memory),
        )?;
    }
    Ok(())
}

fn milliseconds(nanoseconds: u64) -> String {
    let ms = nanoseconds as f64 / 1e6;
    match ms {
        _ if ms < 10.0 => format!("{ms:.3} ms"),
        _ => format!("{ms:.0} ms"),
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// What kind of machine this is: processors, memory, load; no names.
fn machine() -> String {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let memory = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
            line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
        })
        .map_or_else(String::new, |kib| {
            format!(", {} GiB of memory", (kib + (1 << 19)) >> 20)
        });
    let load = std::fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| text.split(' ').nth(1).map(str::to_owned))
        .map_or_else(String::new, |load| {
            format!("; load average while measuring: {load}")
        });
    format!("Measured on a machine with {processors} processors{memory}{load}.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(format: &'static str, threads: usize, nanoseconds: u64) -> Row {
        let figures = Figures {
            bytes: 26_978_722,
            nanoseconds,
            memory: 3 << 20,
        };
        Row {
            format,
            threads,
            write: figures,
            read: figures,
        }
    }

    #[test]
    fn the_bound_is_for_our_postcard_on_one_thread() {
        let tables = |ours| {
            vec![(
                1000,
                vec![
                    row(BARE, 0, 1_000_000),
                    row("postcard", 0, ours),
                    row("postcard", 2, 9_000_000),
                    row("msgpack", 0, 9_000_000),
                ],
            )]
        };
        within_bound(&tables(1_500_000)).unwrap();
        let error = within_bound(&tables(1_510_000)).unwrap_err().to_string();
        assert!(error.contains("writing 1000 inodes takes 1.51"), "{error}");
        assert!(error.contains("reading"), "{error}");
    }

    #[test]
    fn rows_show_sizes_times_and_ratios() {
        let mut page = String::new();
        let rows = [row(BARE, 0, 2_000_000), row("postcard", 0, 25_000_000)];
        write_table(&mut page, 1_000_000, &rows).unwrap();
        assert!(page.starts_with("\n## 1,000,000 inodes\n"), "{page}");
        let expected = "| postcard | 0 | 26,978,722 | 27.0 | 25 ms | 12.50 | 3.0 MiB | 25 ms | \
                        12.50 | 3.0 MiB |";
        assert!(page.contains(expected), "{page}");
        assert!(page.contains("| 2.000 ms | 1.00 |"), "{page}");
        let figures = Figures::parse("{\"bytes\":1,\"nanoseconds\":2,\"memory\":3}").unwrap();
        assert_eq!((figures.bytes, figures.memory), (1, 3));
        assert!(Figures::parse("{\"bytes\":1}").is_err());
    }
}
