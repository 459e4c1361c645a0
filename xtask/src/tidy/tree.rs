//! Rules that look at more than one file.

use std::path::{Path, PathBuf};

use super::text::markdown_links;
use super::Finding;
use crate::command::Cmd;
use crate::fail::{Context, Result};

const LICENCES: &[&str] = &["LICENSE-Apache-2.0", "LICENSE-BSD-3-Clause"];
/// Streams of released state versions: what was written stays readable, so they
/// never change.
const GOLDENS: &str = "crates/state/goldens";
/// Their sums, as sha256sum writes and checks them; those of the modules with the
/// structs of these versions are there as well.
const SUMS: &str = "SHA256SUMS";
/// Where those modules are: `v1.rs` and so on.
const MODULES: &str = "crates/state/src";
/// The page that describes the stream, and between which lines it lists the sums of
/// what it describes.
const SPEC: &str = "docs/state-format.md";
const SPEC_SUMS: (&str, &str) = ("<!-- described sources", "-->");

/// The licences are there.
pub fn licences(root: &Path) -> Vec<Finding> {
    LICENCES
        .iter()
        .filter(|name| std::fs::metadata(root.join(name)).map_or(true, |m| m.len() == 0))
        .map(|name| Finding::new(Path::new(name), 0, "is missing or empty"))
        .collect()
}

/// What a page links to exists.
pub fn link_targets(root: &Path, file: &Path, text: &str) -> Vec<Finding> {
    let dir = root.join(file.parent().unwrap_or(Path::new("")));
    markdown_links(file, text)
        .filter(|(_, target)| !dir.join(target).exists())
        .map(|(n, target)| Finding::new(file, n, format!("link to {target} leads nowhere")))
        .collect()
}

/// Goldens that have a sum have not changed, and none is without a sum once
/// there is a list.
pub fn goldens(root: &Path) -> Result<Vec<Finding>> {
    let dir = root.join(GOLDENS);
    let Ok(sums) = std::fs::read_to_string(dir.join(SUMS)) else {
        return Ok(Vec::new());
    };
    let listed: Vec<&str> = sums
        .lines()
        .filter_map(|line| Some(line.split_once("  ")?.1.trim_start_matches("./")))
        .collect();
    let mut findings = Vec::new();
    for name in streams(&dir).context(dir.display())? {
        if !listed.iter().any(|l| Path::new(l) == name) {
            findings.push(Finding::new(
                &Path::new(GOLDENS).join(name),
                0,
                format!("has no line in {SUMS}"),
            ));
        }
    }
    for module in frozen_modules(root)? {
        let line = format!("../src/{module}");
        if !listed.contains(&line.as_str()) {
            findings.push(Finding::new(
                &Path::new(MODULES).join(&module),
                0,
                format!("a version's records, without a line for {line} in {GOLDENS}/{SUMS}"),
            ));
        }
    }
    let checked = Cmd::new("sha256sum")
        .args(["--check", "--quiet", "--strict", SUMS])
        .dir(&dir)
        .output();
    if let Err(e) = checked {
        let what = format!(
            "a golden or a frozen module has changed; write a new one beside it instead: {e}"
        );
        findings.push(Finding::new(&Path::new(GOLDENS).join(SUMS), 0, what));
    }
    Ok(findings)
}

/// The modules that have the structs of one state version each.
fn frozen_modules(root: &Path) -> Result<Vec<String>> {
    let dir = root.join(MODULES);
    let Ok(entries) = std::fs::read_dir(&dir) else {
        return Ok(Vec::new());
    };
    let mut modules = Vec::new();
    for entry in entries {
        let name = entry.context(dir.display())?.file_name();
        let name = name.to_string_lossy().into_owned();
        let number = name.strip_prefix('v').and_then(|n| n.strip_suffix(".rs"));
        if number.is_some_and(|n| n.parse::<u32>().is_ok()) {
            modules.push(name);
        }
    }
    modules.sort();
    Ok(modules)
}

/// The page that describes the state stream has been looked at since the source that
/// it describes was changed.
pub fn spec(root: &Path) -> Result<Vec<Finding>> {
    let page = Path::new(SPEC);
    let Ok(text) = std::fs::read_to_string(root.join(page)) else {
        return Ok(Vec::new());
    };
    let (begin, end) = SPEC_SUMS;
    let Some(start) = text.find(begin) else {
        let what = format!("lacks the list that begins with {begin}");
        return Ok(vec![Finding::new(page, 0, what)]);
    };
    let first = text[..start].lines().count() + 2;
    let list = text[start..].lines().skip(1).take_while(|l| *l != end);
    let mut findings = Vec::new();
    for (line, entry) in (first..).zip(list) {
        let Some((sum, file)) = entry.split_once("  ") else {
            findings.push(Finding::new(page, line, "is no sum and file"));
            continue;
        };
        let now = Cmd::new("sha256sum").args([file]).dir(root).output()?;
        let now = now.split_whitespace().next().unwrap_or_default();
        if now != sum {
            let what = format!(
                "{file} has changed since this page was looked at: make the page true, then put \
                 {now} here"
            );
            findings.push(Finding::new(page, line, what));
        }
    }
    Ok(findings)
}

/// A document that says `` `path.rs::name` `` means a function that is there.
pub fn named_tests(root: &Path, file: &Path, text: &str) -> Vec<Finding> {
    if file.extension().is_none_or(|e| e != "md") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (n, line) in (1..).zip(text.lines()) {
        for word in line.split('`').skip(1).step_by(2) {
            let Some((path, name)) = word.split_once(".rs::") else {
                continue;
            };
            let source = std::fs::read_to_string(root.join(format!("{path}.rs")));
            let what = match source {
                Ok(source) if source.contains(&format!("fn {name}(")) => continue,
                Ok(_) => format!("there is no function {name} in {path}.rs"),
                Err(e) => format!("{path}.rs: {e}"),
            };
            findings.push(Finding::new(file, n, what));
        }
    }
    findings
}

/// Files in the directories of `dir`, relative to it.
fn streams(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for version in std::fs::read_dir(dir)? {
        let version = version?;
        if !version.file_type()?.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(version.path())? {
            all.push(Path::new(&version.file_name()).join(file?.file_name()));
        }
    }
    all.sort();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_and_unlisted_goldens_are_found() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join(GOLDENS);
        std::fs::create_dir_all(dir.join("v1")).unwrap();
        std::fs::write(dir.join("v1/a"), b"hello\n").unwrap();
        // Without a list there is nothing to compare with.
        assert_eq!(goldens(root.path()).unwrap(), []);
        let sum = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        std::fs::write(dir.join(SUMS), format!("{sum}  v1/a\n")).unwrap();
        assert_eq!(goldens(root.path()).unwrap(), []);
        std::fs::write(dir.join("v1/b"), b"new\n").unwrap();
        let found = goldens(root.path()).unwrap();
        assert!(
            found.len() == 1 && found[0].file.ends_with("v1/b"),
            "{found:?}"
        );
        std::fs::remove_file(dir.join("v1/b")).unwrap();
        std::fs::write(dir.join("v1/a"), b"changed\n").unwrap();
        let found = goldens(root.path()).unwrap();
        assert!(
            found.len() == 1 && found[0].what.contains("has changed"),
            "{found:?}"
        );
    }

    #[test]
    fn frozen_modules_without_a_sum_or_with_another_are_found() {
        let root = tempfile::tempdir().unwrap();
        let (goldens_dir, src) = (root.path().join(GOLDENS), root.path().join(MODULES));
        std::fs::create_dir_all(&goldens_dir).unwrap();
        std::fs::create_dir_all(&src).unwrap();
        for name in ["v1.rs", "validate.rs", "version.rs"] {
            std::fs::write(src.join(name), b"hello\n").unwrap();
        }
        std::fs::write(goldens_dir.join(SUMS), "").unwrap();
        let found = goldens(root.path()).unwrap();
        assert!(found.iter().any(|f| f.file.ends_with("v1.rs")), "{found:?}");
        let sum = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        let sums = format!("{sum}  ../src/v1.rs\n");
        std::fs::write(goldens_dir.join(SUMS), &sums).unwrap();
        assert_eq!(goldens(root.path()).unwrap(), []);
        std::fs::write(src.join("v1.rs"), b"changed\n").unwrap();
        let found = goldens(root.path()).unwrap();
        assert!(
            found.len() == 1 && found[0].what.contains("frozen module has changed"),
            "{found:?}"
        );
    }

    #[test]
    fn a_page_that_was_not_looked_at_is_found() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("docs")).unwrap();
        let page = root.path().join(SPEC);
        std::fs::write(root.path().join("source"), b"hello\n").unwrap();
        std::fs::write(&page, "text\n").unwrap();
        let found = spec(root.path()).unwrap();
        assert!(found[0].what.contains("lacks the list"), "{found:?}");
        let sum = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        let text = format!("text\n\n<!-- described sources\n{sum}  source\n-->\n");
        std::fs::write(&page, text).unwrap();
        assert_eq!(spec(root.path()).unwrap(), []);
        std::fs::write(root.path().join("source"), b"changed\n").unwrap();
        let found = spec(root.path()).unwrap();
        assert_eq!((found.len(), found[0].line), (1, 4));
        assert!(found[0].what.contains("source has changed"), "{found:?}");
    }

    #[test]
    fn tests_that_are_named_are_there() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("a.rs"), "fn there() {}").unwrap();
        let text = "`a.rs::there`, `a.rs::gone` and\n`b.rs::there`, `no test`\n";
        let found = named_tests(root.path(), Path::new("page.md"), text);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].line == 1 && found[0].what.contains("gone"));
        assert!(found[1].line == 2 && found[1].what.contains("b.rs"));
        assert_eq!(named_tests(root.path(), Path::new("a.rs"), text), []);
    }

    #[test]
    fn missing_licences_and_dead_links_are_found() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(licences(root.path()).len(), LICENCES.len());
        std::fs::write(root.path().join("there.md"), "x").unwrap();
        let text = "[a](there.md#x) [b](gone.md)\n";
        let found = link_targets(root.path(), Path::new("page.md"), text);
        assert_eq!(found.len(), 1);
        assert!(found[0].what.contains("gone.md"));
    }
}
