//! The host's end of the line to the agent in the guest.

use std::path::Path;
use std::time::{Duration, Instant};

use ferry_guest::{Expectation, READY};

use super::lines::Lines;
use crate::fail::{need, Context, Fail, Result};
use crate::progress::step;

/// From power-on to the agent; a guest under emulation takes a few seconds.
const BOOT: Duration = Duration::from_secs(180);
/// The slowest command under emulation takes a few seconds.
const ANSWER: Duration = Duration::from_secs(120);
/// QEMU makes the socket at its start.
const CONNECT: Duration = Duration::from_secs(30);
/// A command that has taken so long is worth a line.
const SLOW: Duration = Duration::from_secs(2);

/// A connection to the guest's second serial port.
pub struct Agent {
    lines: Lines,
    number: u32,
}

impl Agent {
    /// Connects to the port. `number` is that of the last command that this
    /// guest was given.
    pub fn connect(path: &Path, number: u32) -> Result<Self> {
        let lines = Lines::connect("the guest's serial port", path, CONNECT)?;
        Ok(Self { lines, number })
    }

    /// The number of the last command.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Waits for a guest that boots.
    pub fn wait_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        while let Some(left) = BOOT.checked_sub(start.elapsed()) {
            match self.lines.receive(left)? {
                Some(line) if line == READY => return Ok(()),
                Some(_) => {}
                None => break,
            }
        }
        Err(Fail::new(format!(
            "the guest was not up after {} s",
            BOOT.as_secs()
        )))
    }

    /// Has the guest run `command`; its answer's text.
    ///
    /// # Errors
    /// The guest says no, or nothing.
    pub fn call(&mut self, command: &str) -> Result<String> {
        self.ask(command)?
    }

    /// Has the guest run `command`; what it says of the outcome.
    ///
    /// # Errors
    /// The guest says nothing: there is no point in asking it anything else.
    pub fn ask(&mut self, command: &str) -> Result<Result<String>> {
        self.number += 1;
        let number = self.number.to_string();
        self.lines.send(&format!("{number} {command}"))?;
        let start = Instant::now();
        while let Some(left) = ANSWER.checked_sub(start.elapsed()) {
            let Some(line) = self.lines.receive(left)? else {
                break;
            };
            let mut words = line.splitn(3, ' ');
            // Anything else was left over from before a crossing.
            if words.next() != Some(number.as_str()) {
                continue;
            }
            if start.elapsed() > SLOW {
                let seconds = start.elapsed().as_secs_f64();
                step(format_args!("{command} took {seconds:.1} s"));
            }
            let kind = words.next();
            let text = words.next().unwrap_or_default().to_owned();
            return Ok(need(kind == Some("ok"), || text.clone()).map(|()| text));
        }
        Err(Fail::new(format!(
            "no answer to `{command}` after {} s",
            ANSWER.as_secs()
        )))
    }

    /// Has the guest end check `name`; what must be in the share now.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn finish(&mut self, name: &str) -> Result<Result<Vec<Expectation>>> {
        Ok(self.ask(&format!("finish {name}"))?.and_then(|text| {
            text.split_whitespace()
                .map(|word| {
                    Expectation::from_word(word)
                        .ok_or("not an expectation")
                        .context(word)
                })
                .collect()
        }))
    }
}
