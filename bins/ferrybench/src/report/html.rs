//! A report as one HTML file that loads nothing from elsewhere.

use super::plot::{bars, escape, BarRow};
use super::{table, Report};
use crate::bench::Ratios;

const STYLE: &str = "body{font-family:sans-serif;max-width:72em;margin:2em auto;padding:0 1em;\
color-scheme:light dark}pre{overflow-x:auto;font-size:12px}svg{max-width:100%;height:auto}";

/// A page with a title, the machine's line and sections of (heading, markup).
pub fn page(title: &str, machine: &str, command: &str, sections: &[(String, String)]) -> String {
    let mut body = String::new();
    for (heading, markup) in sections {
        body.push_str(&format!("<h2>{}</h2>\n{markup}\n", escape(heading)));
    }
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}</title>\n<style>{STYLE}</style></head><body>\n<h1>{0}</h1>\n<p>{1}</p>\n<pre>{2}</pre>\n{body}</body></html>\n",
        escape(title),
        escape(machine),
        escape(command)
    )
}

/// Text as it is.
pub fn pre(text: &str) -> String {
    format!("<pre>{}</pre>", escape(text))
}

/// The report of a run or comparison.
pub fn report(report: &Report) -> String {
    let mut sections = Vec::new();
    if let Some(base) = &report.base {
        let others: Vec<String> = report
            .daemons
            .iter()
            .map(|(name, _)| name.clone())
            .filter(|name| name != base)
            .collect();
        let rows = |pick: fn(&Ratios) -> f64| -> Vec<BarRow> {
            let row = |case: &crate::bench::CaseReport| {
                let value = |name: &String| {
                    let daemon = case.daemons.iter().find(|d| &d.daemon == name)?;
                    daemon.ratios.as_ref().map(pick)
                };
                (case.label.clone(), others.iter().map(value).collect())
            };
            report.cases.iter().map(row).collect()
        };
        let chart = |pick| bars(&others, &rows(pick), "x");
        let heading = |what: &str, better: &str| format!("{what} beside {base} ({better})");
        sections.push((
            heading("Operations per second", "longer is better"),
            chart(|r| r.ops.median),
        ));
        sections.push((
            heading("Daemon CPU per operation", "shorter is better"),
            chart(|r| r.cpu.median),
        ));
        sections.push((
            heading("Median latency", "shorter is better"),
            chart(|r| r.p50.median),
        ));
        sections.push(("Ratios".to_owned(), pre(&table::ratios(report))));
    }
    let names: Vec<String> = report
        .daemons
        .iter()
        .map(|(name, _)| name.clone())
        .collect();
    let times_bare: Vec<BarRow> = report
        .cases
        .iter()
        .filter_map(|case| {
            let bare = case.bare?.cpu_us;
            let value = |d: &crate::bench::DaemonReport| Some(d.median?.cpu_us / bare);
            (bare > 0.0).then(|| (case.label.clone(), case.daemons.iter().map(value).collect()))
        })
        .collect();
    if !times_bare.is_empty() {
        let heading = "Daemon CPU as a multiple of the bare system calls'".to_owned();
        sections.push((heading, bars(&names, &times_bare, "x")));
    }
    sections.push(("All figures".to_owned(), pre(&table::all(report))));
    let syscalls = table::syscalls(report);
    if !syscalls.is_empty() {
        sections.push(("System calls".to_owned(), pre(&syscalls)));
    }
    let commands: Vec<String> = report
        .daemons
        .iter()
        .map(|(name, command)| format!("{name}: {command}"))
        .collect();
    sections.push(("Daemons".to_owned(), pre(&commands.join("\n"))));
    let machine = &report.machine;
    page("ferrybench", &machine.line(), &machine.command, &sections)
}
