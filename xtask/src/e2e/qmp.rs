//! QEMU's monitor (docs/interop/qmp-spec.rst): commands, answers, events.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{json, Value};

use super::lines::Lines;
use crate::fail::{need, Context, Fail, Result};

/// A command that takes longer than this has failed.
const ANSWER: Duration = Duration::from_secs(30);
/// From the start of QEMU to its monitor.
const CONNECT: Duration = Duration::from_secs(30);

/// A monitor connection.
pub struct Qmp {
    lines: Lines,
    events: Vec<Event>,
}

/// Something that QEMU reported by itself.
#[derive(Clone, Debug)]
pub struct Event {
    /// Such as `STOP`.
    pub name: String,
    /// Seconds since 1970, by the host's clock.
    pub time: f64,
}

/// How a migration stands.
#[derive(Clone, Debug)]
pub struct Migration {
    /// QEMU's `MigrationStatus`.
    pub status: String,
    /// Bytes of guest memory sent.
    pub sent: u64,
    /// What went wrong, in QEMU's words.
    pub error: String,
}

impl Qmp {
    /// Connects and leaves capability negotiation.
    pub fn connect(path: &Path) -> Result<Self> {
        let mut qmp = Self {
            lines: Lines::connect("QEMU's monitor", path, CONNECT)?,
            events: Vec::new(),
        };
        let greeting = qmp.next(CONNECT)?;
        need(greeting.is_some_and(|v| v.get("QMP").is_some()), || {
            "QEMU's monitor does not greet".into()
        })?;
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let message = json!({ "execute": command, "arguments": arguments });
        self.lines
            .send(&message.to_string())
            .context(format_args!("QMP {command}"))?;
        let start = Instant::now();
        while let Some(left) = ANSWER.checked_sub(start.elapsed()) {
            let Some(mut answer) = self.next(left).context(format_args!("QMP {command}"))? else {
                break;
            };
            if let Some(error) = answer.get("error") {
                return Err(Fail::new(format!("QMP {command}: {}", error["desc"])));
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
        Err(Fail::new(format!("QMP {command}: no answer")))
    }

    /// The next message that is no event.
    fn next(&mut self, limit: Duration) -> Result<Option<Value>> {
        loop {
            let Some(line) = self.lines.receive(limit)? else {
                return Ok(None);
            };
            let value: Value = serde_json::from_str(&line).context("QMP message")?;
            match event(&value) {
                Some(event) => self.events.push(event),
                None => return Ok(Some(value)),
            }
        }
    }

    /// The last event `name` so far.
    pub fn last_event(&self, name: &str) -> Option<&Event> {
        self.events.iter().rev().find(|e| e.name == name)
    }

    /// Whether the virtual processors run.
    pub fn running(&mut self) -> Result<bool> {
        let status = self.execute("query-status", json!({}))?;
        Ok(status["running"].as_bool() == Some(true))
    }

    /// How the migration stands.
    pub fn migration(&mut self) -> Result<Migration> {
        let info = self.execute("query-migrate", json!({}))?;
        Ok(Migration {
            status: info["status"].as_str().unwrap_or("none").to_owned(),
            sent: info["ram"]["transferred"].as_u64().unwrap_or(0),
            error: info["error-desc"].as_str().unwrap_or_default().to_owned(),
        })
    }

    /// Sets how fast a migration goes on that is under way, in bytes per second.
    pub fn bandwidth(&mut self, bandwidth: u64) -> Result<()> {
        let parameters = json!({ "max-bandwidth": bandwidth });
        self.execute("migrate-set-parameters", parameters).map(drop)
    }

    /// Sets what a migration may use. `bandwidth` in bytes per second.
    pub fn migration_settings(&mut self, return_path: bool, bandwidth: u64) -> Result<()> {
        self.execute(
            "migrate-set-capabilities",
            json!({ "capabilities": [
                { "capability": "events", "state": true },
                { "capability": "return-path", "state": return_path },
            ]}),
        )?;
        self.execute(
            "migrate-set-parameters",
            // Under emulation the guest dirties memory slowly, and the emulator
            // copies slowly: a generous limit makes precopy end at once.
            json!({ "max-bandwidth": bandwidth, "downtime-limit": 2_000 }),
        )
        .map(drop)
    }
}

fn event(value: &Value) -> Option<Event> {
    let time = &value["timestamp"];
    Some(Event {
        name: value.get("event")?.as_str()?.to_owned(),
        time: time["seconds"].as_f64()? + time["microseconds"].as_f64()? / 1e6,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_a_time() {
        let text = r#"{"timestamp": {"seconds": 10, "microseconds": 250000}, "event": "STOP"}"#;
        let e = event(&serde_json::from_str(text).unwrap()).unwrap();
        assert_eq!((e.name.as_str(), e.time), ("STOP", 10.25));
        assert!(event(&json!({ "return": {} })).is_none());
    }
}
