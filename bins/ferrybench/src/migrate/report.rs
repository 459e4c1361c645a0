//! What a sweep of crossings amounts to: tables, and one picture of all of them.

use serde::Serialize;

use super::{Crossing, Point};
use crate::cli::Output;
use crate::error::BenchError;
use crate::machine::Machine;
use crate::report::plot::{sheet, Line, Plot};
use crate::report::{bytes, html, number, table, time};

/// A whole sweep.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where it was measured.
    pub machine: Machine,
    /// Daemons in order: name and command.
    pub daemons: Vec<(String, String)>,
    /// All points, by number of inodes, mode and daemon.
    pub points: Vec<Point>,
}

impl Report {
    /// Prints the tables, and writes what the command line asks for.
    ///
    /// # Errors
    /// [`BenchError::Io`].
    pub fn write(&self, output: &Output) -> Result<(), BenchError> {
        let picture = || sheet(&self.machine.line(), &plots(self), 2);
        crate::write_output(output, self, || page(self), picture)?;
        let tables = [times_table(self), memory_table(self), ratio_table(self)];
        crate::print_tables(&self.machine, &tables)
    }
}

fn rows(
    report: &Report,
    columns: usize,
    cells: fn(&Crossing, u64) -> Vec<String>,
) -> Vec<Vec<String>> {
    let row = |point: &Point| {
        let mut row = vec![
            format!("{} {}", point.daemon, point.mode),
            point.inodes.to_string(),
        ];
        match &point.crossing {
            Some(crossing) => row.extend(cells(crossing, point.inodes)),
            None => row.extend(std::iter::repeat_n("failed".to_owned(), columns)),
        }
        row
    };
    report.points.iter().map(row).collect()
}

fn times_table(report: &Report) -> String {
    let head = [
        "daemon",
        "inodes",
        "collect",
        "CPU",
        "busy p99",
        "collecting",
        "stop",
        "stop and save",
        "state",
        "B/inode",
        "load",
        "us/inode",
        "first answer",
        "checked",
    ];
    let rows = rows(report, 12, |c, inodes| {
        let measured = |seconds: f64| match seconds > 0.0 {
            true => time(seconds),
            false => "-".to_owned(),
        };
        vec![
            time(c.collect_s),
            time(c.collect_cpu_s),
            measured(c.busy_p99_s),
            measured(c.collecting_p99_s),
            time(c.stop_s),
            time(c.save_s),
            bytes(c.state_bytes as f64),
            number(c.state_bytes as f64 / inodes as f64),
            time(c.load_s),
            number(c.load_s * 1e6 / inodes as f64),
            time(c.first_answer_s),
            c.verified.to_string(),
        ]
    });
    table::render(&head, &rows)
}

fn memory_table(report: &Report) -> String {
    let head = [
        "daemon",
        "inodes",
        "source",
        "peak over idle",
        "B/inode",
        "fds",
        "destination",
        "peak over idle",
        "B/inode",
        "fds",
    ];
    let rows = rows(report, 8, |c, inodes| {
        let per_inode = |grown: u64| number(grown as f64 / inodes as f64);
        vec![
            bytes(c.source_rss as f64),
            bytes(c.source_peak_grown as f64),
            per_inode(c.source_peak_grown),
            c.source_fds.to_string(),
            bytes(c.destination_rss as f64),
            bytes(c.destination_peak_grown as f64),
            per_inode(c.destination_peak_grown),
            c.destination_fds.to_string(),
        ]
    });
    table::render(&head, &rows)
}

/// Each daemon beside virtiofsd, or beside the first one. Empty for one daemon.
fn ratio_table(report: &Report) -> String {
    let named = |name: &str| report.daemons.iter().any(|(daemon, _)| daemon == name);
    let base = match (named("virtiofsd"), report.daemons.first()) {
        (true, _) => "virtiofsd".to_owned(),
        (false, Some((first, _))) => first.clone(),
        (false, None) => return String::new(),
    };
    let mut rows = Vec::new();
    for point in report.points.iter().filter(|point| point.daemon != base) {
        let beside = report.points.iter().find(|other| {
            other.daemon == base && (other.mode, other.inodes) == (point.mode, point.inodes)
        });
        let (Some(a), Some(b)) = (point.crossing, beside.and_then(|other| other.crossing)) else {
            continue;
        };
        let ratio = |figure: fn(&Crossing) -> f64| format!("{:.2}x", figure(&a) / figure(&b));
        rows.push(vec![
            format!("{} / {base} {}", point.daemon, point.mode),
            point.inodes.to_string(),
            ratio(|c| c.collect_s),
            match a.busy_p99_s > 0.0 {
                true => format!("{:.2} / {:.2}", a.slowdown(), b.slowdown()),
                false => "-".to_owned(),
            },
            ratio(|c| c.save_s),
            ratio(|c| c.state_bytes as f64),
            ratio(|c| c.load_s),
            ratio(Crossing::downtime_s),
            ratio(|c| c.source_peak_grown as f64),
            ratio(|c| c.destination_peak_grown as f64),
        ]);
    }
    let head = [
        "ratio",
        "inodes",
        "collect",
        "p99 collecting / idle",
        "stop and save",
        "state",
        "load",
        "downtime",
        "source peak",
        "destination peak",
    ];
    match rows.is_empty() {
        true => String::new(),
        false => table::render(&head, &rows),
    }
}

/// Lines of all daemons and modes, those of a mode alike.
fn lines(report: &Report, figure: fn(&Crossing) -> f64) -> Vec<Line> {
    let (mut names, mut modes, mut daemons) = (Vec::new(), Vec::new(), Vec::new());
    let add = |list: &mut Vec<String>, name: &str| {
        if !list.iter().any(|known| known == name) {
            list.push(name.to_owned());
        }
    };
    for point in &report.points {
        add(&mut daemons, &point.daemon);
        add(&mut modes, point.mode);
        let name = (point.daemon.clone(), point.mode);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let index = |list: &[String], name: &str| list.iter().position(|known| known == name);
    let line = |(daemon, mode): &(String, &'static str)| {
        let own = report.points.iter();
        let own = own.filter(|p| (&p.daemon, p.mode) == (daemon, *mode));
        let at = |p: &Point| Some((p.inodes as f64, figure(p.crossing.as_ref()?)));
        Line {
            name: format!("{daemon} {mode}"),
            colour: index(&daemons, daemon).unwrap_or(0),
            dashes: index(&modes, mode).unwrap_or(0),
            points: own.filter_map(at).collect(),
        }
    };
    names.iter().map(line).collect()
}

fn plots(report: &Report) -> Vec<Plot> {
    let plot = |title: &str, show, figure| Plot {
        title: title.to_owned(),
        lines: lines(report, figure),
        show,
    };
    vec![
        plot("Collect, while the guest runs", time, |c| c.collect_s),
        plot("Stop and save", time, |c| c.save_s),
        plot("Load, to CHECK_DEVICE_STATE", time, |c| c.load_s),
        plot("Connect, load and first answer", time, |c| c.first_answer_s),
        plot("State", bytes, |c| c.state_bytes as f64),
        plot("Descriptors of the source", number, |c| c.source_fds as f64),
        plot("Source: peak memory over idle", bytes, |c| {
            c.source_peak_grown as f64
        }),
        plot("Destination: peak memory over idle", bytes, |c| {
            c.destination_peak_grown as f64
        }),
    ]
}

fn page(report: &Report) -> String {
    let plots = sheet("", &plots(report), 2);
    let sections = [
        ("Over the number of inodes".to_owned(), plots),
        ("Ratios".to_owned(), html::pre(&ratio_table(report))),
        ("Times".to_owned(), html::pre(&times_table(report))),
        ("Memory".to_owned(), html::pre(&memory_table(report))),
    ];
    let machine = &report.machine;
    html::page(
        "ferrybench migrate",
        &machine.line(),
        &machine.command,
        &sections,
    )
}
