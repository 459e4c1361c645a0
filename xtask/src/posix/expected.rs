//! What is known to differ, and why; and what differs.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::setups::Setup;
use super::suites::Outcomes;
use crate::fail::{need, Context, Result};
use crate::workspace;

/// Where it is written.
pub const FILE: &str = "tests/posix/expected.toml";

/// The list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    #[serde(default)]
    differs: Vec<Difference>,
}

/// A test with lines that come out differently.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// Suites that it is in.
    suites: Vec<String>,
    /// The test's name.
    test: String,
    /// Setups in which it differs; all, if none is named.
    #[serde(default)]
    setups: Vec<String>,
    /// Where it differs: on a mount, in a guest; in both, if neither is named.
    #[serde(default)]
    places: Vec<Place>,
    /// What the bare file system says and the other does not, and the other way
    /// round: all of these lines and no other. A line is given without what it says
    /// for a step.
    lines: Vec<[String; 2]>,
    /// Whether it depends on the moment, so that each of the lines may also come out
    /// the same.
    #[serde(default)]
    sometimes: bool,
    /// Whose doing it is.
    reason: String,
}

/// Where the suites run.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// On a mount of this machine's.
    Mount,
    /// In a guest whose root the file system is.
    Guest,
}

impl Expected {
    /// Reads the list.
    pub fn read() -> Result<Expected> {
        let path = workspace::root().join(FILE);
        let text = std::fs::read_to_string(&path).context(path.display())?;
        Expected::parse(&text).context(FILE)
    }

    fn parse(text: &str) -> Result<Expected> {
        let expected: Expected = toml::from_str(text).context("cannot be read")?;
        for difference in &expected.differs {
            need(difference.reason.len() > 20, || {
                format!("{}: no reason given", difference.test)
            })?;
        }
        Ok(expected)
    }

    /// What differs in a suite with a setup.
    pub fn of(&self, suite: &str, setup: &Setup, place: Place) -> Vec<Difference> {
        let applies = |d: &&Difference| {
            d.suites.iter().any(|s| s == suite)
                && (d.places.is_empty() || d.places.contains(&place))
                && (d.setups.is_empty() || d.setups.iter().any(|name| name == setup.name))
        };
        self.differs.iter().filter(applies).cloned().collect()
    }
}

/// A test that is not as it should be.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    test: String,
    /// The bare file system's line and the mount's.
    lines: Vec<[String; 2]>,
    /// Lines that were expected to differ and do not.
    missing: Vec<[String; 2]>,
}

impl Finding {
    /// For the person at the terminal.
    pub fn text(&self, all: bool) -> String {
        let mut text = format!("{} differs", self.test);
        if self.lines.is_empty() {
            text = format!("{} does not differ where it was expected to", self.test);
        }
        let shown = if all { usize::MAX } else { 2 };
        for [bare, mount] in self.lines.iter().take(shown) {
            text.push_str(&format!("\n    bare:  {bare}\n    mount: {mount}"));
        }
        if self.lines.len() > shown {
            text.push_str(&format!("\n    and {} more", self.lines.len() - shown));
        }
        for [bare, mount] in self.missing.iter().take(shown) {
            text.push_str(&format!("\n    expected: {bare}\n        and:  {mount}"));
        }
        text
    }
}

/// What differs other than as `listed`.
pub fn compare(bare: &Outcomes, mount: &Outcomes, listed: &[Difference]) -> Vec<Finding> {
    let names: BTreeSet<_> = bare.keys().chain(mount.keys()).collect();
    let mut findings = Vec::new();
    for name in names {
        let (bare, mount) = (bare.get(name), mount.get(name));
        let mut lines = match (bare, mount) {
            (Some(bare), Some(mount)) => differing(bare, mount),
            (Some(_), None) => vec![["a test".into(), "none of the name".into()]],
            _ => vec![["none of the name".into(), "a test".into()]],
        };
        let expected = listed.iter().filter(|d| d.test == *name);
        let mut missing = Vec::new();
        let expected = expected.flat_map(|d| d.lines.iter().map(|line| (line, d.sometimes)));
        for (expected, sometimes) in expected {
            match lines.iter().position(|line| line == expected) {
                Some(at) => drop(lines.remove(at)),
                None if sometimes => {}
                None => missing.push(expected.clone()),
            }
        }
        if !lines.is_empty() || !missing.is_empty() {
            findings.push(Finding {
                test: name.clone(),
                lines,
                missing,
            });
        }
    }
    // A test that is listed and is none would be expected for ever.
    for d in listed.iter().filter(|d| !bare.contains_key(&d.test)) {
        findings.push(Finding {
            test: d.test.clone(),
            lines: Vec::new(),
            missing: d.lines.clone(),
        });
    }
    findings
}

/// Lines that are not the same. The same steps are taken, so that they need not be
/// searched for; where one is missing, all from there on differ. A step that says
/// nothing of what it is about ("is: ...") gets the one before it in front.
fn differing(bare: &str, mount: &str) -> Vec<[String; 2]> {
    let (mut a, mut b) = (bare.lines(), mount.lines());
    let mut differing = Vec::new();
    let mut before = "";
    loop {
        let (a, b) = match (a.next(), b.next()) {
            (None, None) => return differing,
            (a, b) => (a.unwrap_or("(no more)"), b.unwrap_or("(no more)")),
        };
        if a != b {
            let whole = |line: &str| match line.split_once(": ") {
                Some((step, _)) if !step.contains(['(', ' ']) && !before.is_empty() => {
                    format!("{before} | {line}")
                }
                _ => line.to_owned(),
            };
            differing.push([whole(a), whole(b)]);
        }
        let step = a.split(": ").next().unwrap_or_default();
        if step.contains(['(', ' ']) {
            before = step;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "
[[differs]]
suites = [\"own\"]
test = \"one\"
setups = [\"x\"]
lines = [[\"b y: 2\", \"b y: 3\"]]
reason = \"the client of the kernel does that\"
";

    fn outcomes(list: &[(&str, &str)]) -> Outcomes {
        let own = |(name, outcome): &(&str, &str)| (name.to_string(), outcome.to_string());
        list.iter().map(own).collect()
    }

    #[test]
    fn what_is_listed_has_to_differ_in_just_that_way() {
        let expected = Expected::parse(LIST).unwrap();
        let setup = |name| Setup {
            name,
            options: Vec::new(),
        };
        let of = |suite, name| expected.of(suite, &setup(name), Place::Mount);
        let listed = of("own", "x");
        assert_eq!(listed.len(), 1);
        assert_eq!(of("own", "y").len(), 0);
        assert_eq!(of("fsx", "x").len(), 0);
        let elsewhere = LIST.replace("setups", "places = [\"guest\"]\nsetups");
        let elsewhere = Expected::parse(&elsewhere).unwrap();
        assert_eq!(elsewhere.of("own", &setup("x"), Place::Mount).len(), 0);
        assert_eq!(elsewhere.of("own", &setup("x"), Place::Guest).len(), 1);
        let bare = outcomes(&[("one", "a x: 1\nb y: 2\n"), ("two", "ok")]);
        let as_listed = outcomes(&[("one", "a x: 1\nb y: 3\n"), ("two", "ok")]);
        assert_eq!(compare(&bare, &as_listed, &listed), []);
        assert_eq!(compare(&bare, &as_listed, &[]).len(), 1);
        let found = compare(&bare, &bare, &listed);
        assert!(
            found[0].text(false).contains("does not differ"),
            "{found:?}"
        );
        let otherwise = outcomes(&[("one", "a x: 1\nb y: 4\n"), ("two", "ok")]);
        let found = &compare(&bare, &otherwise, &listed)[0];
        assert_eq!((found.lines.len(), found.missing.len()), (1, 1));
        let sometimes = LIST.replace("reason", "sometimes = true\nreason");
        let sometimes = Expected::parse(&sometimes).unwrap();
        let sometimes = sometimes.of("own", &setup("x"), Place::Mount);
        assert_eq!(compare(&bare, &bare, &sometimes), []);
        assert_eq!(compare(&bare, &as_listed, &sometimes), []);
        assert_eq!(compare(&bare, &otherwise, &sometimes).len(), 1);
        let less = outcomes(&[("one", "a x: 1\nb y: 3\n")]);
        assert_eq!(compare(&bare, &less, &listed)[0].test, "two");
        let other = outcomes(&[("two", "ok")]);
        assert_eq!(compare(&other, &other, &listed)[0].test, "one");
    }

    #[test]
    fn lines_say_which_step_they_follow() {
        let found = differing(
            "chmod f: done\nis: 644\nis: 1\n",
            "chmod f: done\nis: 600\n",
        );
        assert_eq!(found[0], ["chmod f | is: 644", "chmod f | is: 600"]);
        assert_eq!(found[1][1], "(no more)");
    }

    #[test]
    fn a_reason_is_needed() {
        let no_reason = LIST.replace("the client of the kernel does that", "x");
        assert!(Expected::parse(&no_reason).is_err());
        assert!(Expected::parse("[[difers]]\n").is_err());
    }
}
