//! `tests/compat/expected.toml`: the cells that do not pass, and why. What a run
//! shows must be what is written there, no better and no worse.

use serde::Deserialize;

use super::cell::Cell;
use super::outcome::Outcome;
use crate::fail::{Context, Fail, Result};
use crate::workspace;

/// The file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    #[serde(default)]
    expect: Vec<Entry>,
}

/// One expectation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Names of cells; `*` stands for anything.
    cells: Vec<String>,
    /// The kind of outcome, as [`Outcome::kind`] has it.
    outcome: String,
    /// What has to occur in a refusal.
    #[serde(default)]
    text: String,
    /// What the guest loses, all of it.
    #[serde(default)]
    lost: Vec<String>,
    /// Why, for people.
    pub why: String,
}

/// Reads the file.
pub fn read() -> Result<Expected> {
    let path = workspace::root().join("tests/compat/expected.toml");
    let text = std::fs::read_to_string(&path).context(path.display())?;
    toml::from_str(&text).context(path.display())
}

impl Expected {
    /// The entry about a cell, with its number.
    ///
    /// # Errors
    /// There are two.
    pub fn entry(&self, id: &str) -> Result<Option<(usize, &Entry)>> {
        let mut about = self
            .expect
            .iter()
            .enumerate()
            .filter(|(_, e)| e.cells.iter().any(|pattern| matches(pattern, id)));
        match (about.next(), about.next()) {
            (first, None) => Ok(first),
            (Some((_, a)), Some((_, b))) => Err(Fail::new(format!(
                "two expectations are about \"{id}\": {} and {}",
                a.why, b.why
            ))),
            (None, Some(_)) => Ok(None),
        }
    }

    /// What is wrong with an outcome, if anything.
    pub fn judge(&self, cell: &Cell, outcome: &Outcome) -> Option<String> {
        let entry = match self.entry(&cell.id) {
            Ok(entry) => entry.map(|(_, entry)| entry),
            Err(e) => return Some(e.to_string()),
        };
        let Some(entry) = entry else {
            return (*outcome != Outcome::Passes).then(|| format!("should pass, but {outcome}"));
        };
        let kind = outcome.kind();
        if kind != entry.outcome {
            return Some(format!(
                "should be \"{}\" ({}), but {outcome}",
                entry.outcome, entry.why
            ));
        }
        match outcome {
            Outcome::Loses(lost) if *lost != entry.lost => Some(format!(
                "should lose {:?} ({}), but loses {lost:?}",
                entry.lost, entry.why
            )),
            _ if !outcome.detail().contains(&entry.text) => Some(format!(
                "should say \"{}\" ({}), but {outcome}",
                entry.text, entry.why
            )),
            _ => None,
        }
    }

    /// Expectations that are about no cell at all.
    pub fn stale(&self, cells: &[Cell]) -> Vec<String> {
        let about_some = |pattern: &String| cells.iter().any(|c| matches(pattern, &c.id));
        self.expect
            .iter()
            .flat_map(|entry| &entry.cells)
            .filter(|pattern| !about_some(pattern))
            .cloned()
            .collect()
    }
}

/// Whether `text` is what `pattern` says, where `*` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let mut parts: Vec<_> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::super::cell::{Kind, Mode};
    use super::*;

    #[test]
    fn a_star_is_anything() {
        for (pattern, fits) in [
            ("this -> 0.1.0, postcard", true),
            ("this -> 0.1.0", false),
            ("this -> *, postcard", true),
            ("*", true),
            ("* -> 0.1.0, *", true),
            ("* -> 0.2.0, *", false),
            ("this*card", true),
            ("this -> 0.1.0, postcard*postcard", false),
        ] {
            assert_eq!(
                matches(pattern, "this -> 0.1.0, postcard"),
                fits,
                "{pattern}"
            );
        }
    }

    fn cell(id: &str) -> Cell {
        Cell {
            kind: Kind::Life,
            path: vec![0, 1],
            format: "postcard".to_owned(),
            state_version: None,
            mode: Mode::Paths,
            id: id.to_owned(),
        }
    }

    fn expected() -> Expected {
        toml::from_str(
            r#"
            [[expect]]
            cells = ["a -> *"]
            outcome = "reader refuses"
            text = "state version 2"
            why = "too new"
            [[expect]]
            cells = ["b -> c"]
            outcome = "loses"
            lost = ["LINK"]
            why = "known"
            [[expect]]
            cells = ["gone"]
            outcome = "fails"
            why = "once"
            "#,
        )
        .unwrap()
    }

    #[test]
    fn no_better_and_no_worse() {
        let expected = expected();
        let refused = |why: &str| Outcome::ReaderRefuses(why.to_owned());
        let lost = |what: &str| Outcome::Loses(vec![what.to_owned()]);
        let judge = |id: &str, outcome: &Outcome| expected.judge(&cell(id), outcome);
        assert_eq!(judge("a -> b", &refused("of state version 2")), None);
        let wrong = judge("a -> b", &refused("of the moon")).unwrap();
        assert!(wrong.contains("should say"), "{wrong}");
        let wrong = judge("a -> b", &Outcome::Passes).unwrap();
        assert!(
            wrong.contains("too new") && wrong.contains("passes"),
            "{wrong}"
        );
        assert_eq!(judge("b -> c", &lost("LINK")), None);
        assert!(judge("b -> c", &lost("READ")).is_some());
        assert_eq!(judge("c -> d", &Outcome::Passes), None);
        assert!(judge("c -> d", &lost("READ"))
            .unwrap()
            .contains("should pass"));
        let not_built = Outcome::NotBuilt("no compiler".to_owned());
        assert!(judge("c -> d", &not_built).unwrap().contains("no compiler"));
    }

    #[test]
    fn what_is_about_nothing_is_told() {
        let cells = [cell("a -> b"), cell("b -> c")];
        assert_eq!(expected().stale(&cells), ["gone"]);
        let twice: Expected = toml::from_str(
            "[[expect]]\ncells = [\"a*\"]\noutcome = \"fails\"\nwhy = \"x\"\n\
             [[expect]]\ncells = [\"*b\"]\noutcome = \"fails\"\nwhy = \"y\"\n",
        )
        .unwrap();
        let wrong = twice.judge(&cells[0], &Outcome::Passes).unwrap();
        assert!(wrong.contains("two expectations"), "{wrong}");
    }
}
