//! The host's end of the line to the agent in the guest.

use std::path::Path;
use std::time::{Duration, Instant};

use ferry_guest::{Expectation, READY};

use super::lines::Lines;
use crate::fail::{need, Context, Fail, Result};

/// From power-on to the agent; a guest under emulation takes a few seconds.
const BOOT: Duration = Duration::from_secs(180);
/// The slowest command under emulation takes a few seconds.
const ANSWER: Duration = Duration::from_secs(120);
/// QEMU makes the socket at its start.
const CONNECT: Duration = Duration::from_secs(30);

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
    pub fn call(&mut self, command: &str) -> Result<String> {
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
            let kind = words.next();
            let text = words.next().unwrap_or_default().to_owned();
            need(kind == Some("ok"), || text.clone())?;
            return Ok(text);
        }
        Err(Fail::new(format!(
            "no answer to `{command}` after {} s",
            ANSWER.as_secs()
        )))
    }

    /// Has the guest end check `name`; what must be in the share now.
    pub fn finish(&mut self, name: &str) -> Result<Vec<Expectation>> {
        self.call(&format!("finish {name}"))?
            .split_whitespace()
            .map(|word| {
                Expectation::from_word(word)
                    .ok_or("not an expectation")
                    .context(word)
            })
            .collect()
    }
}
