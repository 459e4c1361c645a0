//! The matrix as a page, and as JSON.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::json;

use super::candidate::{Candidate, Maker};
use super::cell::{Cell, Kind, Mode};
use super::expected::Expected;
use super::outcome::Outcome;

/// A cell and what became of it.
pub struct Done {
    /// The cell.
    pub cell: Cell,
    /// What became of it.
    pub outcome: Outcome,
    /// What is wrong with that, if anything.
    pub wrong: Option<String>,
    /// Seconds that it took.
    pub seconds: f64,
}

/// What there is to tell.
pub struct Report<'a> {
    /// The daemons.
    pub candidates: &'a [Candidate],
    /// All cells.
    pub done: &'a [Done],
    /// Why those that do not pass do not.
    pub expected: &'a Expected,
}

/// A table of words.
struct Table(Vec<Vec<String>>);

impl Table {
    fn new<S: Into<String>>(head: impl IntoIterator<Item = S>) -> Table {
        Table(vec![head.into_iter().map(Into::into).collect()])
    }

    fn render(&self) -> String {
        let columns = self.0[0].len();
        let width = |c: usize| {
            let cells = self.0.iter().map(|row| row[c].chars().count());
            cells.max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let mut out = String::new();
        for (n, row) in self.0.iter().enumerate() {
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(out, "| {cell:width$} ");
            }
            out.push_str("|\n");
            if n == 0 {
                for width in &widths {
                    let _ = write!(out, "|{}", "-".repeat(width + 2));
                }
                out.push_str("|\n");
            }
        }
        out
    }
}

impl Report<'_> {
    /// Footnote numbers are those of the expectations.
    fn short(&self, done: &Done) -> String {
        let word = match &done.outcome {
            Outcome::Passes => "passes",
            Outcome::Loses(_) => "loses",
            Outcome::WriterRefuses(_) | Outcome::ReaderRefuses(_) => "refused",
            Outcome::NotBuilt(_) => "not built",
            Outcome::Fails(_) => "fails",
        };
        if done.wrong.is_some() {
            return format!("**{word}, unexpected**");
        }
        match self.expected.entry(&done.cell.id) {
            Ok(Some((n, _))) => format!("{word}[^{}]", n + 1),
            _ => word.to_owned(),
        }
    }

    /// The outcomes of several cells in as few words as possible.
    fn together<'d>(&self, cells: impl Iterator<Item = &'d Done>) -> String {
        let mut words: Vec<(String, Vec<&str>)> = Vec::new();
        for done in cells {
            let short = self.short(done);
            match words.iter_mut().find(|(word, _)| *word == short) {
                Some((_, formats)) => formats.push(&done.cell.format),
                None => words.push((short, vec![&done.cell.format])),
            }
        }
        match words.as_slice() {
            [] => "-".to_owned(),
            [(word, _)] => word.clone(),
            _ => words
                .iter()
                .map(|(word, formats)| format!("{}: {word}", formats.join(", ")))
                .collect::<Vec<_>>()
                .join("; "),
        }
    }

    fn name(&self, i: usize) -> &str {
        &self.candidates[i].name
    }

    fn crossings(&self, mode: Mode) -> String {
        let names = self.candidates.iter().map(|c| c.name.clone());
        let mut table = Table::new(["from \\ to".to_owned()].into_iter().chain(names));
        let of = |done: &&Done| {
            let cell = &done.cell;
            cell.kind == Kind::Life && cell.path.len() == 2 && cell.mode == mode
        };
        let cells: Vec<_> = self.done.iter().filter(of).collect();
        for w in 0..self.candidates.len() {
            let versions: BTreeSet<_> = cells
                .iter()
                .filter(|d| d.cell.path[0] == w)
                .map(|d| d.cell.state_version)
                .collect();
            for version in versions {
                let label = match version {
                    None => self.name(w).to_owned(),
                    Some(n) => format!("{} with --state-version {n}", self.name(w)),
                };
                let row = (0..self.candidates.len()).map(|r| {
                    let is_it =
                        |d: &&&Done| d.cell.path == [w, r] && d.cell.state_version == version;
                    self.together(cells.iter().filter(is_it).copied())
                });
                table.0.push([label].into_iter().chain(row).collect());
            }
        }
        table.render()
    }

    /// Rows of paths, columns of modes, for cells of one kind.
    fn paths(&self, wanted: impl Fn(&Cell) -> bool) -> String {
        let modes = [Mode::Paths, Mode::Handles];
        let mut table = Table::new(["path", modes[0].name(), modes[1].name()]);
        let mut seen = BTreeSet::new();
        for done in self.done.iter().filter(|d| wanted(&d.cell)) {
            let cell = &done.cell;
            if !seen.insert((cell.path.clone(), cell.state_version)) {
                continue;
            }
            let names: Vec<_> = cell.path.iter().map(|i| self.name(*i)).collect();
            let at = cell.state_version;
            let at = at.map_or_else(String::new, |n| format!(", --state-version {n}"));
            let mut row = vec![format!("{}{at}", names.join(" -> "))];
            row.extend(modes.map(|mode| {
                let same = |d: &&Done| {
                    let c = &d.cell;
                    wanted(c)
                        && c.path == cell.path
                        && c.state_version == cell.state_version
                        && c.mode == mode
                };
                self.together(self.done.iter().filter(same))
            }));
            table.0.push(row);
        }
        table.render()
    }

    /// The tables, for the terminal and the page.
    pub fn tables(&self) -> String {
        let mut out = String::new();
        for mode in [Mode::Paths, Mode::VerifiedPaths, Mode::Handles] {
            let _ = write!(
                out,
                "## One crossing, {}\n\n{}\n",
                mode.name(),
                self.crossings(mode)
            );
        }
        for (title, kind) in [
            ("Two crossings", Kind::Life),
            ("A file whose name is not UTF-8", Kind::OddName),
            ("The state goes by a file", Kind::External),
            (
                "A guest with a lock on the host (state version 2)",
                Kind::Lock,
            ),
            (
                "A guest with an unlinked file open (state version 3)",
                Kind::Unlinked,
            ),
            ("Damaged streams", Kind::Damaged),
            (
                "The stream of a fork of virtiofsd (CubeSandbox)",
                Kind::Foreign,
            ),
        ] {
            let wanted = |c: &Cell| c.kind == kind && (kind != Kind::Life || c.path.len() > 2);
            if self.done.iter().any(|d| wanted(&d.cell)) {
                let _ = write!(out, "## {title}\n\n{}\n", self.paths(wanted));
            }
        }
        out
    }

    /// `docs/compat-matrix.md`.
    pub fn page(&self) -> String {
        let mut daemons = Table::new(["daemon", "from"]);
        for c in self.candidates {
            let from = match c.maker {
                Maker::This => format!("the working tree: {}", c.origin),
                _ => c.origin.clone(),
            };
            daemons.0.push(vec![c.name.clone(), from]);
        }
        let mut out = format!("{HEAD}\n{}\n{}", daemons.render(), self.tables());
        let mut notes = BTreeSet::new();
        for done in self.done {
            if let Ok(Some((n, entry))) = self.expected.entry(&done.cell.id) {
                let lost = match &done.outcome {
                    Outcome::Loses(lost) => format!(" Answered otherwise: {}.", lost.join(", ")),
                    _ => String::new(),
                };
                notes.insert((n + 1, format!("{}.{lost}", entry.why)));
            }
        }
        for (n, note) in notes {
            let _ = writeln!(out, "[^{n}]: {note}");
        }
        out
    }

    /// Every cell by itself.
    pub fn json(&self) -> serde_json::Value {
        let cell = |done: &Done| {
            let path: Vec<_> = done.cell.path.iter().map(|i| self.name(*i)).collect();
            json!({
                "cell": done.cell.id,
                "path": path,
                "format": done.cell.format,
                "state_version": done.cell.state_version,
                "mode": done.cell.mode.name(),
                "outcome": done.outcome.kind(),
                "detail": done.outcome.detail(),
                "unexpected": done.wrong,
                "seconds": done.seconds,
            })
        };
        let daemon = |c: &Candidate| json!({ "name": c.name, "from": c.origin, "not_built": c.program.as_ref().err() });
        json!({
            "daemons": self.candidates.iter().map(daemon).collect::<Vec<_>>(),
            "cells": self.done.iter().map(cell).collect::<Vec<_>>(),
        })
    }
}

const HEAD: &str = "\
# Who can hand a guest to whom

Made by `cargo xtask compat-matrix`; do not edit. What is not plain here is said in
`tests/compat/expected.toml`, and a run that shows anything else fails, be it better
or worse.

In each cell of the first tables real daemon processes serve a share, and the
built-in front-end plays VMM and guest: it looks files up, opens, reads and writes,
half-reads a directory, sets attributes; it crosses; then it goes on with what it held,
and a hundred answers, and what is on disk, are compared with those of a guest that
stayed where it was.

- **passes**: no answer is other than the first or the last daemon gives a guest that
  stays.
- **loses**: the guest goes on, and some answers are others.
- **refused**: one of the daemons says no, in words, and the guest stays where it was.

Between daemons of ours a cell stands for all four formats; to and from virtiofsd it is
the format of that release.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let mut table = Table::new(["a", "b"]);
        table.0.push(vec!["longer".into(), "x".into()]);
        assert_eq!(
            table.render(),
            "| a      | b |\n|--------|---|\n| longer | x |\n"
        );
    }

    #[test]
    fn formats_that_end_alike_are_one_word() {
        let candidates = [
            Candidate::fake("this", Maker::This),
            Candidate::fake("0.1.0", Maker::Older { state_version: 1 }),
        ];
        let expected: Expected = toml::from_str(
            "[[expect]]\ncells = [\"1\"]\noutcome = \"loses\"\nlost = [\"LINK\"]\nwhy = \"so it is\"",
        )
        .unwrap();
        let done = |id: &str, format: &str, outcome, wrong: Option<&str>| Done {
            cell: Cell {
                kind: Kind::Life,
                path: vec![0, 1],
                format: format.to_owned(),
                state_version: None,
                mode: Mode::Paths,
                id: id.to_owned(),
            },
            outcome,
            wrong: wrong.map(str::to_owned),
            seconds: 0.0,
        };
        let lost = Outcome::Loses(vec!["LINK".to_owned()]);
        let all = [
            done("0", "postcard", Outcome::Passes, None),
            done("1", "msgpack", lost.clone(), None),
            done("2", "zstd", Outcome::Passes, None),
        ];
        let report = |done| Report {
            candidates: &candidates,
            done,
            expected: &expected,
        };
        assert_eq!(
            report(&all).together(all.iter()),
            "postcard, zstd: passes; msgpack: loses[^1]"
        );
        let page = report(&all).page();
        assert!(
            page.contains("[^1]: so it is. Answered otherwise: LINK.\n"),
            "{page}"
        );
        let wrong = [done("2", "zstd", lost, Some("should pass"))];
        let page = report(&wrong).page();
        assert!(page.contains("**loses, unexpected**"), "{page}");
        assert_eq!(
            report(&wrong).json()["cells"][0]["unexpected"],
            "should pass"
        );
    }
}
