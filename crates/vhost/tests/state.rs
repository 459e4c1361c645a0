//! The device's state: precopy, save, load.
//!
//! | trap | test |
//! |---|---|
//! | a corrupt state leaves a daemon that can take no other | `a_refused_state_leaves_a_device_that_takes_another` |
//! | CHECK_DEVICE_STATE with no transfer, SET_DEVICE_STATE_FD during one | `transfers_out_of_order_are_refused` |
//! | a save while the guest runs | `a_running_device_is_neither_saved_nor_loaded` |
//! | a front-end that goes, with the pipe still open | `a_front_end_may_go_during_a_transfer` |
//! | a reader that goes | `a_reader_that_closes_early_makes_the_save_fail` |
//! | cancelling precopy blocks the front-end | `cancelling_precopy_does_not_hold_the_front_end` |
//! | rings started during a transfer race with it | `requests_during_a_transfer_are_served_after_it` |
//! | a failed save leaves a dead source | `a_failed_save_leaves_the_source_serving` |

mod common;

use std::io::{Read, Write};
use std::os::fd::AsFd;

use common::*;
use ferryfs_vhost::{DeviceConfig, MigrationType};

const Q: u16 = 1;
#[test]
fn state_crosses_whole() {
    let source = Daemon::plain();
    let destination = Daemon::plain();
    // Far more than any pipe holds.
    let state: Vec<u8> = (0..5_000_000u32).map(|i| (i * 7) as u8).collect();
    source.server.with(|s| s.stream = state.clone());
    let vmm = source.paused(Q);
    let (saved, code) = vmm.save();
    assert_eq!(code, 0);
    assert!(saved == state);
    let mut other = destination.connect();
    other.negotiate(BASIC);
    assert_eq!(other.load(&saved), 0);
    assert!(destination.server.with(|s| s.stream == state));
    other.set_mem_table(&[(0, MEM_SIZE)]);
    other.start_queue(Q - 1, 0);
    other.start_queue(Q, 0);
    other.assert_serves(Q);
    // A snapshot goes to a file as well, and again, with nothing before it.
    let mut file = tempfile::tempfile().unwrap();
    assert_eq!(vmm.set_device_state(SAVE, file.as_fd()), ACCEPTED);
    assert_eq!(vmm.check_device_state(), 0);
    let mut saved = Vec::new();
    std::io::Seek::rewind(&mut file).unwrap();
    file.read_to_end(&mut saved).unwrap();
    assert!(saved == state);
}

#[test]
fn an_empty_state_crosses() {
    let daemon = Daemon::plain();
    let vmm = daemon.paused(Q);
    assert_eq!(vmm.save(), (Vec::new(), 0));
    assert_eq!(vmm.load(b""), 0);
}

#[test]
fn a_refused_state_leaves_a_device_that_takes_another() {
    let daemon = Daemon::plain();
    let vmm = daemon.paused(Q);
    assert_eq!(vmm.load(b"corrupt"), 1);
    assert_eq!(vmm.load(b"corrupt as well"), 1);
    assert_eq!(vmm.load(b"good"), 0);
    assert_eq!(daemon.server.with(|s| s.stream.clone()), b"good");
}

#[test]
fn a_failed_save_leaves_the_source_serving() {
    let daemon = Daemon::plain();
    let mut vmm = daemon.paused(Q);
    daemon.server.with(|s| s.saving_fails = true);
    assert_eq!(vmm.save(), (Vec::new(), 1));
    vmm.start_queue(Q, 1);
    vmm.assert_serves(Q);
    daemon.server.with(|s| s.saving_fails = false);
    vmm.stop_queue(Q);
    assert_eq!(vmm.save().1, 0);
}

#[test]
fn a_running_device_is_neither_saved_nor_loaded() {
    let daemon = Daemon::plain();
    let mut vmm = daemon.boot(2, BASIC);
    for direction in [SAVE, LOAD] {
        assert_eq!(
            vmm.set_device_state(direction, vmm.mem.file.as_fd()),
            REFUSED
        );
    }
    vmm.stop_queue(0);
    assert_eq!(vmm.set_device_state(SAVE, vmm.mem.file.as_fd()), REFUSED);
    assert_eq!(vmm.check_device_state(), 1);
    assert_eq!(daemon.server.calls(), [""; 0]);
    vmm.assert_serves(Q);
}

#[test]
fn transfers_out_of_order_are_refused() {
    let daemon = Daemon::plain();
    let vmm = daemon.paused(Q);
    assert_eq!(vmm.check_device_state(), 1);
    let (read, write) = pipe();
    assert_eq!(vmm.set_device_state(LOAD, read.as_fd()), ACCEPTED);
    let (_other, second) = pipe();
    assert_eq!(vmm.set_device_state(SAVE, second.as_fd()), REFUSED);
    (&write).write_all(b"the first").unwrap();
    drop(write);
    assert_eq!(vmm.check_device_state(), 0);
    assert_eq!(daemon.server.with(|s| s.stream.clone()), b"the first");
    assert_eq!(vmm.check_device_state(), 1, "an outcome is told once");
    // A transfer whose outcome nobody asked for is no obstacle.
    let (mut read, write) = pipe();
    assert_eq!(vmm.set_device_state(SAVE, write.as_fd()), ACCEPTED);
    drop(write);
    read.read_to_end(&mut Vec::new()).unwrap();
    let saves = || {
        daemon
            .server
            .calls()
            .iter()
            .filter(|&&c| c == "save")
            .count()
    };
    eventually("the transfer is over", || saves() == 1);
    eventually("another is taken", || {
        let (_read, write) = pipe();
        vmm.set_device_state(SAVE, write.as_fd()) == ACCEPTED
    });
}

#[test]
fn migration_that_is_switched_off_is_refused() {
    let config = DeviceConfig {
        migration: MigrationType::None,
        ..DeviceConfig::default()
    };
    let daemon = Daemon::start(config, true);
    let vmm = daemon.paused(Q);
    assert_eq!(vmm.set_device_state(SAVE, vmm.mem.file.as_fd()), REFUSED);
    assert_eq!(daemon.server.calls(), [""; 0]);
}

#[test]
fn a_reader_that_closes_early_makes_the_save_fail() {
    let daemon = Daemon::plain();
    daemon.server.with(|s| s.stream = vec![1; 8 << 20]);
    let vmm = daemon.paused(Q);
    let (mut read, write) = pipe();
    assert_eq!(vmm.set_device_state(SAVE, write.as_fd()), ACCEPTED);
    drop(write);
    read.read_exact(&mut [0; 1000]).unwrap();
    drop(read);
    assert_eq!(vmm.check_device_state(), 1);
    daemon.server.with(|s| s.stream = b"small".to_vec());
    assert_eq!(vmm.save(), (b"small".to_vec(), 0));
}

#[test]
fn a_front_end_may_go_during_a_transfer() {
    let daemon = Daemon::plain();
    // With the pipe in someone's hands, and with the check asked for or not.
    for check in [false, true] {
        let vmm = daemon.paused(Q);
        let (read, write) = pipe();
        assert_eq!(vmm.set_device_state(LOAD, read.as_fd()), ACCEPTED);
        (&write).write_all(b"some").unwrap();
        if check {
            vmm.send(CHECK_DEVICE_STATE, 0, &[], &[]);
            meanwhile();
        }
        drop(vmm);
        daemon.boot(2, BASIC).assert_serves(Q);
        drop(write);
    }
    assert_eq!(daemon.server.with(|s| s.stream.len()), 0, "half a state");
    // So does the daemon's own end.
    let vmm = daemon.paused(Q);
    let (_read, write) = pipe();
    daemon.server.with(|s| s.stream = vec![1; 8 << 20]);
    assert_eq!(vmm.set_device_state(SAVE, write.as_fd()), ACCEPTED);
    vmm.send(CHECK_DEVICE_STATE, 0, &[], &[]);
    daemon.stop_and_join();
}

#[test]
fn precopy_follows_the_dirty_log() {
    let daemon = Daemon::plain();
    let server = daemon.server.clone();
    let vmm = daemon.paused(Q);
    assert_eq!(server.calls(), [""; 0]);
    vmm.set_features(BASIC | F_LOG_ALL);
    eventually("precopy begins", || server.calls() == ["begin"]);
    vmm.set_features(BASIC);
    eventually("precopy is cancelled", || {
        server.calls() == ["begin", "cancel"]
    });
    vmm.set_features(BASIC | F_LOG_ALL);
    // A save comes after all that was asked for before.
    assert_eq!(vmm.save().1, 0);
    assert_eq!(server.calls()[2..], ["begin", "save"]);
    // The front-end of a source goes when all is done.
    drop(vmm);
    eventually("the server is reset", || server.calls().contains(&"reset"));
    assert_eq!(server.calls()[4..], ["cancel", "reset"]);
}

#[test]
fn cancelling_precopy_does_not_hold_the_front_end() {
    let daemon = Daemon::plain();
    let server = daemon.server.clone();
    let mut vmm = daemon.boot(2, BASIC | F_LOG_ALL);
    eventually("precopy begins", || server.calls() == ["begin"]);
    server.with(|s| s.cancel_is_slow = true);
    vmm.set_features(BASIC);
    assert_eq!(server.calls(), ["begin"]);
    vmm.assert_serves(Q);
    vmm.set_features(BASIC | F_LOG_ALL);
    vmm.set_features(BASIC);
    vmm.set_features(BASIC | F_LOG_ALL);
    server.with(|s| s.cancel_is_slow = false);
    // The last word counts, after the cancel that was under way.
    eventually("precopy begins again", || {
        server.calls() == ["begin", "cancel", "begin"]
    });
    // A migration that begins shares nothing with one that was given up, however soon.
    server.with(|s| s.begin_is_slow = true);
    vmm.set_features(BASIC);
    vmm.set_features(BASIC | F_LOG_ALL);
    eventually("precopy begins anew", || server.calls().len() == 5);
    for _ in 0..2 {
        vmm.set_features(BASIC);
        vmm.set_features(BASIC | F_LOG_ALL);
    }
    server.with(|s| s.begin_is_slow = false);
    eventually("precopy begins anew", || server.calls().len() == 7);
    meanwhile();
    assert_eq!(server.calls()[3..], ["cancel", "begin", "cancel", "begin"]);
}

#[test]
fn requests_during_a_transfer_are_served_after_it() {
    let daemon = Daemon::plain();
    let server = daemon.server.clone();
    let mut vmm = daemon.paused(Q);
    server.with(|s| s.save_is_slow = true);
    let (mut read, write) = pipe();
    assert_eq!(vmm.set_device_state(SAVE, write.as_fd()), ACCEPTED);
    drop(write);
    vmm.start_queue(Q, 1);
    vmm.queue(Q, Op::Echo(b"too early".to_vec()));
    vmm.kick(Q);
    meanwhile();
    assert_eq!(vmm.completions(Q), 0);
    server.with(|s| s.save_is_slow = false);
    read.read_to_end(&mut Vec::new()).unwrap();
    vmm.completion(Q);
    assert_eq!(vmm.check_device_state(), 0);
    vmm.assert_serves(Q);
}
