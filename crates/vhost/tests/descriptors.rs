//! Descriptors and threads that the daemon holds. In a binary of its own, because
//! it counts those of the whole process, and so one test at a time.
//!
//! | trap | test |
//! |---|---|
//! | an eventfd per queue leaks with every connection | `connections_leave_no_descriptor_and_no_thread` |
//! | a kick that was replaced wakes the queue's thread forever | `a_replaced_kick_is_not_watched_any_more` |

mod common;

use std::fs;
use std::os::fd::AsFd;
use std::sync::Mutex;

use common::*;
use ferryfs_vhost::DeviceConfig;

static ALONE: Mutex<()> = Mutex::new(());

fn count(what: &str) -> usize {
    fs::read_dir(format!("/proc/self/{what}")).unwrap().count()
}

/// Descriptors that any epoll set of this process watches.
fn watched() -> usize {
    fs::read_dir("/proc/self/fdinfo")
        .unwrap()
        .filter_map(|entry| fs::read_to_string(entry.unwrap().path()).ok())
        .map(|info| info.matches("tfd:").count())
        .sum()
}

#[test]
fn connections_leave_no_descriptor_and_no_thread() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let config = DeviceConfig {
        request_queues: 3,
        ..DeviceConfig::default()
    };
    let daemon = Daemon::start(config, true);
    let mut seen = Vec::new();
    for cycle in 0..21 {
        let mut vmm = daemon.boot(4, BASIC);
        vmm.assert_serves(3);
        match cycle % 3 {
            0 => {}
            // Whatever the connection ends in.
            1 => vmm.send(9999, 0, b"?", &[]),
            _ => {
                let (_read, write) = pipe();
                for queue in 0..4 {
                    vmm.stop_queue(queue);
                }
                assert_eq!(vmm.set_device_state(LOAD, write.as_fd()), 0x100);
            }
        }
        drop(vmm);
        let resets = || {
            daemon
                .server
                .calls()
                .iter()
                .filter(|&&c| c == "reset")
                .count()
        };
        eventually("the connection is over", || resets() == cycle + 1);
        if cycle >= 3 {
            seen.push((count("fd"), count("task")));
        }
    }
    assert!(seen.iter().all(|&now| now == seen[0]), "{seen:?}");
}

#[test]
fn a_replaced_kick_is_not_watched_any_more() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let daemon = Daemon::plain();
    let mut vmm = daemon.boot(2, BASIC);
    vmm.assert_serves(1);
    let before = watched();
    assert!(before >= 2, "{before} descriptors watched");
    for _ in 0..10 {
        vmm.replace_kick(1);
    }
    vmm.assert_serves(1);
    assert_eq!(watched(), before);
    vmm.stop_queue(1);
    assert!(watched() < before);
}
