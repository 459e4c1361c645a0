//! The rule about manifests: what is common to all crates is said once.

use std::path::Path;

use super::Finding;

/// Lines that a member's manifest must have.
const INHERITED: &[&str] = &[
    "version.workspace = true",
    "edition.workspace = true",
    "rust-version.workspace = true",
    "license.workspace = true",
    "publish.workspace = true",
    "[lints]",
];

/// A member inherits from the workspace and describes itself.
pub fn inherits(file: &Path, text: &str) -> Vec<Finding> {
    let is_member = file.file_name().is_some_and(|n| n == "Cargo.toml")
        && file.parent().is_some_and(|dir| dir != Path::new(""));
    if !is_member {
        return Vec::new();
    }
    let mut findings: Vec<_> = INHERITED
        .iter()
        .filter(|wanted| !text.lines().any(|line| line == **wanted))
        .map(|wanted| Finding::new(file, 0, format!("lacks `{wanted}`")))
        .collect();
    if !text.lines().any(|line| line.starts_with("description = ")) {
        findings.push(Finding::new(file, 0, "lacks a description"));
    }
    findings.extend(
        (1..)
            .zip(text.lines())
            .filter(|(_, line)| has_own_version(line))
            .map(|(n, _)| Finding::new(file, n, "versions belong into the workspace's manifest")),
    );
    findings
}

/// Whether the line is a dependency with a version of its own.
fn has_own_version(line: &str) -> bool {
    let Some((name, value)) = line.split_once('=') else {
        return false;
    };
    let value = value.trim();
    let names_version = value.contains("version =") || value.starts_with("\"^");
    let plain = value
        .strip_prefix('"')
        .is_some_and(|v| v.starts_with(|c: char| c.is_ascii_digit()));
    name.trim() != "rust-version" && name.trim() != "version" && (names_version || plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_inherit() {
        let good = format!(
            "description = \"x\"\n{}\nworkspace = true\n",
            INHERITED.join("\n")
        );
        let member = Path::new("crates/a/Cargo.toml");
        assert_eq!(inherits(member, &good), []);
        let dependency = format!("{good}[dependencies]\nlibc.workspace = true\nx = \"1\"\n");
        assert_eq!(inherits(member, &dependency).len(), 1);
        assert_eq!(inherits(member, "").len(), INHERITED.len() + 1);
        assert_eq!(inherits(Path::new("Cargo.toml"), ""), []);
    }

    #[test]
    fn versions_are_told_from_paths() {
        assert!(has_own_version("a = { version = \"1\", features = [] }"));
        assert!(has_own_version("a = \"0.3\""));
        assert!(!has_own_version("a = { path = \"../a\" }"));
        assert!(!has_own_version(
            "a = { workspace = true, features = [\"x\"] }"
        ));
        assert!(!has_own_version("name = \"a\""));
    }
}
