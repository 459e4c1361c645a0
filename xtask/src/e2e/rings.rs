//! What a device's virtqueues look like from outside, for the report of a guest
//! that hangs: who waits for whom is written in its memory (virtio 1.2, 2.7).

use std::fmt;

use serde_json::{json, Value};

use super::qmp::Qmp;
use crate::fail::{Context, Fail, Result};

/// One split virtqueue whose driver and device use `VIRTIO_RING_F_EVENT_IDX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Its index.
    pub queue: u16,
    /// `avail->idx`: requests that the driver has offered.
    pub offered: u16,
    /// `used->idx`: requests that the device has completed.
    pub completed: u16,
    /// `used_event`: the driver wants an interrupt when the device completes the
    /// request after this one.
    pub used_event: u16,
    /// `avail_event`: the device wants a kick when the driver offers the request
    /// after this one.
    pub avail_event: u16,
}

impl fmt::Display for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            queue,
            offered,
            completed,
            used_event,
            avail_event,
        } = self;
        write!(
            f,
            "queue {queue}: {offered} offered, {completed} completed, interrupt wanted beyond \
             {used_event}, kick wanted beyond {avail_event}: "
        )?;
        if offered != completed {
            let pending = offered.wrapping_sub(*completed);
            write!(f, "the device has {pending} requests to complete")
        } else if used_event != completed {
            write!(f, "the driver has not looked at what is completed")
        } else {
            write!(f, "nothing is under way")
        }
    }
}

/// The virtqueues of the VM's virtio-fs device.
///
/// # Errors
/// QEMU does not tell.
pub fn of(qmp: &mut Qmp) -> Result<Vec<Ring>> {
    let devices = qmp.execute("x-query-virtio", json!({}))?;
    let path = devices
        .as_array()
        .into_iter()
        .flatten()
        .find(|d| d["name"].as_str().is_some_and(|n| n.ends_with("-fs")))
        .and_then(|d| d["path"].as_str())
        .ok_or_else(|| Fail::new("QEMU names no virtio-fs device"))?
        .to_owned();
    let mut rings = Vec::new();
    for queue in 0.. {
        let place = json!({ "path": path, "queue": queue });
        let Ok(status) = qmp.execute("x-query-virtio-queue-status", place) else {
            break;
        };
        let number = |key: &str| status[key].as_u64().ok_or("no number").context(key);
        let (size, avail, used) = (
            number("vring-num")?,
            number("vring-avail")?,
            number("vring-used")?,
        );
        if size == 0 || avail == 0 {
            break;
        }
        rings.push(Ring {
            queue,
            offered: word(qmp, avail + 2)?,
            completed: word(qmp, used + 2)?,
            used_event: word(qmp, avail + 4 + 2 * size)?,
            avail_event: word(qmp, used + 4 + 8 * size)?,
        });
    }
    Ok(rings)
}

/// The 16-bit word at a guest-physical address.
fn word(qmp: &mut Qmp, address: u64) -> Result<u16> {
    let command = json!({ "command-line": format!("xp /1hx {address:#x}") });
    let said = qmp.execute("human-monitor-command", command)?;
    parse(&said).ok_or_else(|| Fail::new(format!("not a dump of memory: {said}")))
}

/// Takes the word out of `0000000001234567: 0x89ab`.
fn parse(said: &Value) -> Option<u16> {
    let hex = said.as_str()?.split_once(": 0x")?.1.trim();
    u16::from_str_radix(hex, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dumped_word_is_read() {
        assert_eq!(parse(&json!("0000000001234566: 0x89ab\r\n")), Some(0x89ab));
        assert_eq!(parse(&json!("Cannot access memory\r\n")), None);
    }

    #[test]
    fn a_report_says_who_waits() {
        let ring = Ring {
            queue: 1,
            offered: 2,
            completed: 65_535,
            used_event: 65_535,
            avail_event: 2,
        };
        assert!(ring
            .to_string()
            .ends_with("the device has 3 requests to complete"));
        let lost = Ring {
            completed: 2,
            ..ring
        };
        assert!(lost.to_string().contains("has not looked"), "{lost}");
    }
}
