//! What is going on: a bar where a person looks on, a line now and then elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Time between two lines of a log.
const LINE_EVERY: Duration = Duration::from_secs(2);
/// Time between two looks of a bar.
const BAR_EVERY: Duration = Duration::from_millis(100);
/// Characters of a full bar.
const BAR: usize = 30;

/// How far a job is, on standard error.
#[derive(Debug)]
pub struct Progress {
    start: Instant,
    last: Option<Instant>,
    style: Style,
    /// Steps done, of how many.
    done: usize,
    of: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Quiet,
    Lines,
    Bar,
}

impl Progress {
    /// Of a job with `steps` steps. Says nothing at all if `quiet`.
    pub fn new(quiet: bool, steps: usize) -> Self {
        let style = match (quiet, std::io::stderr().is_terminal()) {
            (true, _) => Style::Quiet,
            (false, false) => Style::Lines,
            (false, true) => Style::Bar,
        };
        Progress {
            start: Instant::now(),
            last: None,
            style,
            done: 0,
            of: steps,
        }
    }

    /// `what` is being done now.
    pub fn at(&mut self, what: impl FnOnce() -> String) {
        let every = match self.style {
            Style::Quiet => return,
            Style::Lines => LINE_EVERY,
            Style::Bar => BAR_EVERY,
        };
        let last = self.last.unwrap_or(self.start);
        if last.elapsed() < every && self.last.is_some() {
            return;
        }
        // What is over soon need not be told in a log.
        if self.style == Style::Lines && self.last.is_none() && last.elapsed() < every {
            return;
        }
        self.last = Some(Instant::now());
        let line = line(self.done, self.of, self.start.elapsed(), &what());
        let mut err = std::io::stderr().lock();
        // Whoever closed standard error does not want to know.
        let _ = match self.style {
            Style::Bar => write!(err, "\r\x1b[K{}{line}", bar(self.done, self.of)),
            Style::Lines | Style::Quiet => writeln!(err, "{line}"),
        };
        let _ = err.flush();
    }

    /// A step is done.
    pub fn step(&mut self) {
        self.done += 1;
    }

    /// Writes `text`, which is worth more than a look.
    pub fn say(&mut self, text: &str) {
        self.clear();
        eprintln!("{text}");
    }

    fn clear(&self) {
        if self.style == Style::Bar && self.last.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn bar(done: usize, of: usize) -> String {
    let full = (BAR * done.min(of)).checked_div(of).unwrap_or(0);
    format!("[{:<BAR$}] ", "#".repeat(full))
}

fn line(done: usize, of: usize, elapsed: Duration, what: &str) -> String {
    let seconds = elapsed.as_secs();
    let left = match done {
        0 => String::new(),
        // As the steps so far.
        done => {
            let left = elapsed.as_secs_f64() * of.saturating_sub(done) as f64 / done as f64;
            format!(", about {left:.0} s to go")
        }
    };
    format!("{done}/{of} in {seconds} s{left}: {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_fill_up() {
        assert_eq!(bar(0, 4), format!("[{}] ", " ".repeat(BAR)));
        assert_eq!(
            bar(2, 4),
            format!("[{}{}] ", "#".repeat(15), " ".repeat(15))
        );
        assert_eq!(bar(4, 4), format!("[{}] ", "#".repeat(BAR)));
        assert_eq!(bar(0, 0).len(), BAR + 3);
    }

    #[test]
    fn what_is_left_is_guessed_from_what_was() {
        let ten = Duration::from_secs(10);
        assert_eq!(line(0, 4, ten, "x"), "0/4 in 10 s: x");
        assert_eq!(line(1, 4, ten, "x"), "1/4 in 10 s, about 30 s to go: x");
        assert_eq!(line(4, 4, ten, "x"), "4/4 in 10 s, about 0 s to go: x");
    }
}
