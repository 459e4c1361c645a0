//! What became of a cell.

use std::fmt;

/// How a cell ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All as it should be.
    Passes,
    /// The guest goes on, but not all answers are those of one that stayed.
    Loses(Vec<String>),
    /// A writer gave no state; its words.
    WriterRefuses(String),
    /// A reader did not take the state; its words.
    ReaderRefuses(String),
    /// A daemon of the cell does not exist.
    NotBuilt(String),
    /// Something went wrong that is no refusal.
    Fails(String),
}

impl Outcome {
    /// Its kind, as in the expectations.
    pub fn kind(&self) -> &'static str {
        match self {
            Outcome::Passes => "passes",
            Outcome::Loses(_) => "loses",
            Outcome::WriterRefuses(_) => "writer refuses",
            Outcome::ReaderRefuses(_) => "reader refuses",
            Outcome::NotBuilt(_) => "not built",
            Outcome::Fails(_) => "fails",
        }
    }

    /// What there is to say beside the kind.
    pub fn detail(&self) -> String {
        match self {
            Outcome::Passes => String::new(),
            Outcome::Loses(what) => what.join("; "),
            Outcome::WriterRefuses(why)
            | Outcome::ReaderRefuses(why)
            | Outcome::NotBuilt(why)
            | Outcome::Fails(why) => why.clone(),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.detail() {
            detail if detail.is_empty() => f.write_str(self.kind()),
            detail => write!(f, "{}: {detail}", self.kind()),
        }
    }
}
