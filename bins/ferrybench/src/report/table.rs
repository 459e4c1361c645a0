//! Tables in Markdown, aligned so that a terminal shows them as well.

use std::fmt::Write;

use super::{number, Report};
use crate::bench::{CaseReport, DaemonReport};

/// Rows as a table; columns of words are aligned left, those of numbers right.
pub fn render(head: &[&str], rows: &[Vec<String>]) -> String {
    let words = |i: usize| i == 0 || ["daemon", CALLS].contains(&head[i]);
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    let line = |out: &mut String, cells: &mut dyn Iterator<Item = &str>| {
        for (i, (cell, width)) in cells.zip(&widths).enumerate() {
            // Writing to a string cannot fail.
            let _ = match words(i) {
                true => write!(out, "| {cell:<width$} "),
                false => write!(out, "| {cell:>width$} "),
            };
        }
        out.push_str("|\n");
    };
    line(&mut out, &mut head.iter().copied());
    for (i, width) in widths.iter().enumerate() {
        let dashes = "-".repeat(*width);
        out.push_str(&match words(i) {
            true => format!("| {dashes} "),
            false => format!("| {}: ", &dashes[1..]),
        });
    }
    out.push_str("|\n");
    for row in rows {
        line(&mut out, &mut row.iter().map(String::as_str));
    }
    out
}

/// Heading of the column that lists calls by name.
const CALLS: &str = "system calls per operation";

/// What stands where a figure would.
fn absent(daemon: &DaemonReport) -> &'static str {
    match daemon.skipped {
        Some(_) => "-",
        None => "failed",
    }
}

fn figures(case: &CaseReport, daemon: &DaemonReport, syscalls: bool) -> Vec<String> {
    let mut row = vec![case.label.clone(), daemon.daemon.clone()];
    let bare = case.bare.map_or_else(|| "-".to_owned(), |b| number(b.us));
    match &daemon.median {
        Some(sample) => {
            let figures = [
                sample.ops_per_s,
                sample.p50_us,
                sample.p99_us,
                sample.p999_us,
                sample.mb_per_s,
                sample.cpu_us,
                sample.switches,
            ];
            row.extend(figures.map(number));
        }
        None => row.extend(std::iter::repeat_n(absent(daemon).to_owned(), 7)),
    }
    if syscalls {
        let all = daemon.syscalls.as_ref().map(|calls| calls.values().sum());
        row.push(all.map_or_else(|| "-".to_owned(), number));
    }
    row.push(bare);
    row
}

/// All figures: a row per case and daemon.
pub fn all(report: &Report) -> String {
    let entries = || report.cases.iter().flat_map(|case| &case.daemons);
    let syscalls = entries().any(|daemon| daemon.syscalls.is_some());
    let mut head = vec![
        "workload",
        "daemon",
        "ops/s",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "MB/s",
        "CPU us/op",
        "switches/op",
    ];
    if syscalls {
        head.push("syscalls/op");
    }
    head.push("bare us/op");
    let mut rows = Vec::new();
    for case in &report.cases {
        for daemon in &case.daemons {
            rows.push(figures(case, daemon, syscalls));
        }
    }
    render(&head, &rows)
}

/// Each daemon beside the base: a row per case. Empty without a base.
pub fn ratios(report: &Report) -> String {
    let Some(base) = &report.base else {
        return String::new();
    };
    let mut out = String::new();
    for (name, _) in report.daemons.iter().filter(|(name, _)| name != base) {
        let mut rows = Vec::new();
        for case in &report.cases {
            let find = |name: &String| case.daemons.iter().find(|d| &d.daemon == name);
            let (Some(daemon), Some(base)) = (find(name), find(base)) else {
                continue;
            };
            let mut row = vec![case.label.clone()];
            let cell = |d: &DaemonReport, figure: fn(&crate::sample::Sample) -> f64| {
                d.median
                    .as_ref()
                    .map_or_else(|| absent(d).to_owned(), |sample| number(figure(sample)))
            };
            let ratio = |pick: fn(&crate::sample::Ratios) -> f64| {
                daemon
                    .ratios
                    .as_ref()
                    .map_or_else(|| "-".to_owned(), |ratios| format!("{:.2}x", pick(ratios)))
            };
            row.push(cell(daemon, |s| s.ops_per_s));
            row.push(cell(base, |s| s.ops_per_s));
            row.push(ratio(|r| r.ops.median));
            let range = daemon.ratios.as_ref().map(|r| r.ops);
            row.push(range.map_or_else(
                || "-".to_owned(),
                |ops| format!("{:.2}-{:.2}", ops.min, ops.max),
            ));
            row.push(ratio(|r| r.p50.median));
            row.push(ratio(|r| r.p99.median));
            row.push(cell(daemon, |s| s.cpu_us));
            row.push(cell(base, |s| s.cpu_us));
            row.push(ratio(|r| r.cpu.median));
            row.push(
                case.bare
                    .map_or_else(|| "-".to_owned(), |b| number(b.cpu_us)),
            );
            rows.push(row);
        }
        let (ops, base_ops) = (format!("{name} ops/s"), format!("{base} ops/s"));
        let (cpu, base_cpu) = (format!("{name} CPU us"), format!("{base} CPU us"));
        let head = [
            "workload",
            &ops,
            &base_ops,
            "ops/s",
            "range",
            "p50",
            "p99",
            &cpu,
            &base_cpu,
            "CPU",
            "bare CPU us",
        ];
        let _ = writeln!(
            out,
            "{name} beside {base}; ratios are medians over {} rounds, ops/s above 1 and times below 1 are in favour of {name}:\n",
            report.rounds
        );
        out.push_str(&render(&head, &rows));
        out.push('\n');
    }
    out
}

/// System calls per operation by name, most frequent first.
pub fn syscalls(report: &Report) -> String {
    let mut rows = Vec::new();
    for case in &report.cases {
        for daemon in &case.daemons {
            let Some(calls) = &daemon.syscalls else {
                continue;
            };
            let mut calls: Vec<_> = calls.iter().filter(|(_, n)| **n >= 0.01).collect();
            calls.sort_by(|a, b| b.1.total_cmp(a.1));
            let list: Vec<String> = calls
                .iter()
                .map(|(name, n)| format!("{name} {}", number(**n)))
                .collect();
            rows.push(vec![
                case.label.clone(),
                daemon.daemon.clone(),
                list.join(", "),
            ]);
        }
    }
    match rows.is_empty() {
        true => String::new(),
        false => render(&["workload", "daemon", CALLS], &rows),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned() {
        let rows = [
            vec!["a".into(), "1.00".into()],
            vec!["long".into(), "20".into()],
        ];
        let expected = "\
| x    |    y |
| ---- | ---: |
| a    | 1.00 |
| long |   20 |
";
        assert_eq!(render(&["x", "y"], &rows), expected);
    }
}
