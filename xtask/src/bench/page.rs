//! Pages of which tasks write parts, each between two comments, and leave the rest.

use std::path::Path;

use crate::fail::{Context, Result};
use crate::{progress, workspace};

/// A part of a page that a task writes.
pub struct Part<'a> {
    /// What the comments around it call it.
    pub name: &'a str,
    /// What it says.
    pub text: &'a str,
}

/// Writes `part` into the page at `path` below the root; `intro` is what a page that is
/// not there yet begins with.
pub fn put(path: &Path, intro: &str, part: &Part<'_>) -> Result<()> {
    let path = workspace::root().join(path);
    let page = match std::fs::read_to_string(&path) {
        Ok(page) => page,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => intro.to_owned(),
        Err(e) => return Err(e).context(path.display()),
    };
    std::fs::write(&path, with(&page, part)).context(path.display())?;
    progress::step(format_args!("written to {}", path.display()));
    Ok(())
}

/// The page with another text in that part, which comes last if it is new.
fn with(page: &str, part: &Part<'_>) -> String {
    let begin = format!(
        "<!-- {}: written by cargo xtask, not by hand -->\n",
        part.name
    );
    let end = format!("<!-- end of {} -->\n", part.name);
    let text = part.text.trim_end();
    let whole = format!("{begin}\n{text}\n\n{end}");
    let found = page.find(&begin).and_then(|from| {
        let len = page[from..].find(&end)?;
        Some((from, from + len + end.len()))
    });
    match found {
        Some((from, to)) => format!("{}{whole}{}", &page[..from], &page[to..]),
        None => format!("{}\n\n{whole}", page.trim_end()),
    }
}

/// Rows as a table in Markdown; the first column to the left, others to the right.
pub fn table(head: &[String], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut out = line(head);
    out.push_str("|---|");
    out.push_str(&"--:|".repeat(head.len().saturating_sub(1)));
    out.push('\n');
    for row in rows {
        out.push_str(&line(row));
    }
    out
}

/// A number with three significant digits, or all before the point.
pub fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_replaced_and_the_rest_stays() {
        let part = |name, text| Part { name, text };
        let first = with("# Title\n\nBy hand.\n", &part("a", "one\n"));
        assert_eq!(
            first,
            "# Title\n\nBy hand.\n\n<!-- a: written by cargo xtask, not by hand -->\n\none\n\n\
             <!-- end of a -->\n"
        );
        let both = with(&first, &part("b", "two"));
        assert!(both.starts_with(&first) && both.contains("two"));
        let again = with(&both, &part("a", "three"));
        assert!(!again.contains("one") && again.contains("three") && again.contains("two"));
        assert_eq!(with(&again, &part("a", "one")), both);
    }

    #[test]
    fn tables_are_markdown() {
        let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let text = table(&words(&["x", "y", "z"]), &[words(&["a", "1", "2"])]);
        assert_eq!(text, "| x | y | z |\n|---|--:|--:|\n| a | 1 | 2 |\n");
        assert_eq!([0.123, 12.34, 123.4].map(number), ["0.12", "12.3", "123"]);
    }
}
