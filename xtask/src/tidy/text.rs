//! Rules about single files.

use std::path::Path;

use super::Finding;

/// (what must not be there, only in Rust files, why). The words are in two
/// pieces, so that this file may be checked, too.
const BANNED: &[(&str, bool, &str)] = &[
    (concat!("todo", "!("), true, "finish it"),
    (concat!("unimplemented", "!("), true, "finish it"),
    (concat!("dbg", "!("), true, "left over from debugging"),
    (
        concat!("#[", "ignore"),
        true,
        "a test that does not run is none",
    ),
    (concat!("/ro", "ot/"), false, "a path of one machine"),
    (concat!("/ho", "me/"), false, "a path of one machine"),
    (concat!("/wo", "rk/"), false, "a path of one machine"),
    (concat!("/tmp/tar", "get"), false, "a path of one machine"),
    (
        concat!("deb.deb", "ian.org"),
        false,
        "the machine's own mirror is used",
    ),
    (
        concat!("index.cra", "tes.io"),
        false,
        "the user's own registry is used",
    ),
    (
        concat!("static.cra", "tes.io"),
        false,
        "the user's own registry is used",
    ),
];
/// So far above an unsafe block may its reason stand: a statement may have begun
/// some lines before.
const SAFETY_LINES: usize = 8;

fn is_rust(file: &Path) -> bool {
    file.extension().is_some_and(|e| e == "rs")
}

/// Lines with their numbers from 1.
fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.split('\n'))
}

/// No blanks at the end of lines, and one newline at the end of the file.
pub fn whitespace(file: &Path, text: &str) -> Vec<Finding> {
    let mut findings: Vec<_> = numbered(text)
        .filter(|(_, line)| line.ends_with([' ', '\t', '\r']))
        .map(|(n, _)| Finding::new(file, n, "blanks at the end of the line"))
        .collect();
    if !text.is_empty() && (!text.ends_with('\n') || text.ends_with("\n\n")) {
        findings.push(Finding::new(file, 0, "must end with one newline"));
    }
    findings
}

/// None of [`BANNED`].
pub fn banned(file: &Path, text: &str) -> Vec<Finding> {
    // Written by cargo.
    if file == Path::new("Cargo.lock") {
        return Vec::new();
    }
    numbered(text)
        .flat_map(|(n, line)| {
            BANNED
                .iter()
                .filter(move |(word, rust, _)| (!rust || is_rust(file)) && has(line, word))
                .map(move |(word, _, why)| Finding::new(file, n, format!("`{word}`: {why}")))
        })
        .collect()
}

/// Whether `word` is in `line`; a path only where it begins, not as the rest of
/// another one.
fn has(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let goes_on = |c: char| c.is_alphanumeric() || "}._-/".contains(c);
        !(word.starts_with('/') && before.is_some_and(goes_on))
    })
}

/// A Rust file says first what it is.
pub fn module_docs(file: &Path, text: &str) -> Vec<Finding> {
    let said = text
        .lines()
        .find(|line| !line.starts_with("#!") && !line.trim().is_empty())
        .is_some_and(|line| line.starts_with("//! ") && line.len() > 8);
    if is_rust(file) && !said {
        return vec![Finding::new(
            file,
            1,
            "must begin with `//!` and what it is",
        )];
    }
    Vec::new()
}

/// Above an unsafe block stands why it is sound.
pub fn safety(file: &Path, text: &str) -> Vec<Finding> {
    if !is_rust(file) {
        return Vec::new();
    }
    let lines: Vec<&str> = text.split('\n').collect();
    (1usize..)
        .zip(&lines)
        .filter(|(_, line)| {
            let code = line.split("//").next().unwrap_or_default();
            [concat!("unsafe", " {"), concat!("unsafe", " impl")]
                .iter()
                .any(|word| code.contains(word))
        })
        .filter(|(n, _)| {
            let above = &lines[n.saturating_sub(SAFETY_LINES + 1)..*n];
            !above.iter().any(|line| line.contains("SAFETY:"))
        })
        .map(|(n, _)| Finding::new(file, n, "no `// SAFETY:` above"))
        .collect()
}

/// Links to files are relative, so that they work wherever the tree is.
pub fn links(file: &Path, text: &str) -> Vec<Finding> {
    markdown_links(file, text)
        .filter(|(_, target)| target.starts_with('/'))
        .map(|(n, target)| Finding::new(file, n, format!("link to {target} is not relative")))
        .collect()
}

/// Targets of a Markdown file's links, without those to other sites and within
/// the page.
pub fn markdown_links<'a>(
    file: &Path,
    text: &'a str,
) -> impl Iterator<Item = (usize, &'a str)> + use<'a> {
    let is_markdown = file.extension().is_some_and(|e| e == "md");
    numbered(text)
        .filter(move |_| is_markdown)
        .flat_map(|(n, line)| {
            line.split("](")
                .skip(1)
                .filter_map(move |rest| Some((n, rest.split_once(')')?.0)))
        })
        .filter(|(_, target)| !target.contains("://") && !target.starts_with(['#', '<']))
        .map(|(n, target)| (n, target.split('#').next().unwrap_or(target)))
}

#[cfg(test)]
mod tests {
    use super::super::Rule;
    use super::*;

    /// (rule, file name, text, lines with findings)
    #[test]
    fn rules_find_what_they_are_for() {
        let todo = concat!("//! x y z\nfn f() { todo", "!() }\n");
        let mirror = concat!("get it from deb.deb", "ian.org\n");
        let bare = concat!("//! A file.\nfn f() {\n    unsafe", " { g() }\n}\n");
        let said = concat!(
            "//! A file.\n// SAFETY: g is.\nlet x = unsafe",
            " { g() };\n"
        );
        let cases: &[(Rule, &str, &str, &[usize])] = &[
            (whitespace, "a", "x \ny\n", &[1]),
            (whitespace, "a", "x\ny", &[0]),
            (whitespace, "a", "x\n\n", &[0]),
            (whitespace, "a", "x\n", &[]),
            (banned, "a.rs", todo, &[2]),
            (banned, "a.md", todo, &[]),
            (banned, "a.md", mirror, &[1]),
            (banned, "a.md", concat!("see /ro", "ot/x\n"), &[1]),
            (banned, "a.md", concat!("/proc/1/ro", "ot/x\n"), &[]),
            (banned, "Cargo.lock", mirror, &[]),
            (module_docs, "a.rs", "fn main() {}\n", &[1]),
            (module_docs, "a.rs", "//!\nfn main() {}\n", &[1]),
            (module_docs, "a.rs", "//! What it is.\n", &[]),
            (module_docs, "a.md", "text\n", &[]),
            (safety, "a.rs", bare, &[3]),
            (safety, "a.rs", said, &[]),
            (links, "a.md", "[x](/y)\n", &[1]),
            (links, "a.md", "[x](y) [z](https://z)\n", &[]),
        ];
        for (rule, name, text, lines) in cases {
            let found: Vec<_> = rule(Path::new(name), text).iter().map(|f| f.line).collect();
            assert_eq!(&found, lines, "{name}: {text:?}");
        }
    }

    #[test]
    fn link_targets_come_without_their_anchors() {
        let text = "see [a](docs/a.md#part) and [b](#here)\n[c](c.md)\n";
        let found: Vec<_> = markdown_links(Path::new("x.md"), text).collect();
        assert_eq!(found, [(1, "docs/a.md"), (2, "c.md")]);
    }
}
