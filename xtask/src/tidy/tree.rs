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
/// Their sums, as sha256sum writes and checks them.
const SUMS: &str = "SHA256SUMS";

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
    let checked = Cmd::new("sha256sum")
        .args(["--check", "--quiet", "--strict", SUMS])
        .dir(&dir)
        .output();
    if let Err(e) = checked {
        let what = format!("a golden has changed; write a new one beside it instead: {e}");
        findings.push(Finding::new(&Path::new(GOLDENS).join(SUMS), 0, what));
    }
    Ok(findings)
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
