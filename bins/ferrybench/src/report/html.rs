//! A report as one HTML file that loads nothing from elsewhere.

use super::plot::{bars, compose, escape, BarRow, Drawing, Ground};
use super::{table, Report};
use crate::bench::{CaseReport, DaemonReport};
use crate::sample::Ratios;

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

/// Ratios of all daemons but the base, as bars: none without a base.
fn ratio_charts(report: &Report, titles: bool) -> Vec<(String, Drawing)> {
    let Some(base) = &report.base else {
        return Vec::new();
    };
    let names = report.daemons.iter().map(|(name, _)| name);
    let others: Vec<String> = names.filter(|name| *name != base).cloned().collect();
    let rows = |pick: fn(&Ratios) -> f64| -> Vec<BarRow> {
        let row = |case: &CaseReport| {
            let value = |name: &String| {
                let daemon = case.daemons.iter().find(|d| &d.daemon == name)?;
                daemon.ratios.as_ref().map(pick)
            };
            (case.label.clone(), others.iter().map(value).collect())
        };
        let rows = report.cases.iter().map(row);
        // Where none can be compared there is nothing to be seen.
        rows.filter(|(_, values): &BarRow| values.iter().any(Option::is_some))
            .collect()
    };
    let chart = |what: &str, better: &str, pick| {
        let title = format!("{what} beside {base} ({better})");
        let shown = if titles { title.as_str() } else { "" };
        let drawing = bars(shown, &others, &rows(pick), "x");
        (title, drawing)
    };
    vec![
        chart("Operations per second", "longer is better", |r| {
            r.ops.median
        }),
        chart("Daemon CPU per operation", "shorter is better", |r| {
            r.cpu.median
        }),
        chart("Median latency", "shorter is better", |r| r.p50.median),
    ]
}

/// Daemon CPU beside the bare system calls', as bars: none without those.
fn bare_chart(report: &Report, title: &str) -> Option<Drawing> {
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
            let value = |d: &DaemonReport| Some(d.median?.cpu_us / bare);
            (bare > 0.0).then(|| (case.label.clone(), case.daemons.iter().map(value).collect()))
        })
        .collect();
    (!times_bare.is_empty()).then(|| bars(title, &names, &times_bare, "x"))
}

const TIMES_BARE: &str = "Daemon CPU as a multiple of the bare system calls' (shorter is better)";

/// All charts in one SVG.
pub fn picture(report: &Report) -> String {
    let mut charts: Vec<Drawing> = ratio_charts(report, true)
        .into_iter()
        .map(|(_, chart)| chart)
        .collect();
    charts.extend(bare_chart(report, TIMES_BARE));
    compose(&report.machine.line(), &charts, 1, Ground::White)
}

/// The report of a run or comparison.
pub fn report(report: &Report) -> String {
    let mut sections = Vec::new();
    let on_page = |chart| compose("", &[chart], 1, Ground::Page);
    for (title, chart) in ratio_charts(report, false) {
        sections.push((title, on_page(chart)));
    }
    if report.base.is_some() {
        sections.push(("Ratios".to_owned(), pre(&table::ratios(report))));
    }
    if let Some(chart) = bare_chart(report, "") {
        sections.push((TIMES_BARE.to_owned(), on_page(chart)));
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
