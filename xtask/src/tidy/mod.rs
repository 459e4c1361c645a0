//! `tidy`: what compiler and clippy do not check. Each rule is a function from a
//! file to what is wrong with it, or one over the whole tree.

mod manifest;
mod text;
mod tree;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::fail::{need, Context, Result};
use crate::{progress, workspace};

/// Something that is not as it must be.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    /// Relative to the workspace's root.
    file: PathBuf,
    /// Counted from 1; 0 stands for the file as a whole.
    line: usize,
    what: String,
}

impl Finding {
    fn new(file: &Path, line: usize, what: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line,
            what: what.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": {}", self.what)
    }
}

/// A rule about one text file.
type Rule = fn(&Path, &str) -> Vec<Finding>;

const RULES: &[Rule] = &[
    text::whitespace,
    text::banned,
    text::module_docs,
    text::safety,
    text::links,
    manifest::inherits,
];

/// Checks the tree.
pub fn run() -> Result<()> {
    let root = workspace::root();
    let files = workspace::files()?;
    let mut findings = tree::licences(&root);
    findings.extend(tree::goldens(&root)?);
    findings.extend(tree::spec(&root)?);
    let mut texts = 0;
    for file in &files {
        let bytes = std::fs::read(root.join(file)).context(file.display())?;
        // What is not UTF-8 is no text of ours.
        let Ok(content) = String::from_utf8(bytes) else {
            continue;
        };
        texts += 1;
        findings.extend(RULES.iter().flat_map(|rule| rule(file, &content)));
        findings.extend(tree::link_targets(&root, file, &content));
        findings.extend(tree::named_tests(&root, file, &content));
    }
    for finding in &findings {
        eprintln!("{finding}");
    }
    need(findings.is_empty(), || {
        format!("{} findings in {texts} files", findings.len())
    })?;
    progress::step(format_args!("{texts} files are tidy"));
    Ok(())
}
