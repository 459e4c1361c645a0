//! One error type for all tasks: words for the person at the terminal.

use std::fmt;

/// What went wrong, outermost first.
#[derive(Debug)]
pub struct Fail(String);

/// Outcome of a task.
pub type Result<T> = std::result::Result<T, Fail>;

impl Fail {
    /// A failure in these words.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Says what was tried when it failed.
pub trait Context<T> {
    /// Puts `what` before the error.
    fn context(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|e| Fail(format!("{what}: {e}")))
    }
}

/// Fails with `text` unless `holds`.
pub fn need(holds: bool, text: impl FnOnce() -> String) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(Fail(text()))
    }
}
