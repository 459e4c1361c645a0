//! The control socket, and the types of migration.
//!
//! | trap | test |
//! |---|---|
//! | a state is had while the guest runs | `an_operator_waits_for_the_guest_to_stop` |
//! | with type external a front-end gets, or gives, a state | `with_external_nothing_goes_through_the_front_end` |
//! | with type external a guest is lost, as nobody can fetch its state | `with_external_a_save_that_nobody_could_follow_is_refused` |
//! | a failed migration cannot be tried again with a newer state | `an_operator_gives_a_state_until_the_guest_has_been_here` |
//! | a VMM that starts, and resets its devices, loses the guest it is to go on with | `a_reset_before_the_guest_has_come_keeps_its_state` |
//! | a guest's live state is overwritten | `an_operator_gives_a_state_until_the_guest_has_been_here` |
//! | a front-end starts rings in the middle of an operator's transfer | `a_front_end_that_comes_ends_an_operators_transfer` |
//! | an operator that hangs, or goes, holds the device | `operators_may_go_or_send_nonsense` |

mod common;

use std::io::Write;
use std::os::fd::AsFd;

use common::*;
use ferryfs_core::service::StandingRequest;
use ferryfs_vhost::{DeviceConfig, MigrationType, OnDisconnect};

const Q: u16 = 1;

fn external() -> DeviceConfig {
    DeviceConfig {
        migration: MigrationType::External,
        control_socket: true,
        ..DeviceConfig::default()
    }
}

#[test]
fn an_operator_waits_for_the_guest_to_stop() {
    let daemon = Daemon::plain();
    daemon.server.with(|s| s.stream = b"the guest".to_vec());
    let mut vmm = daemon.boot(2, BASIC);
    vmm.assert_serves(Q);
    let operator = daemon.operator();
    let (_read, write) = pipe();
    for direction in [SAVE, LOAD] {
        let asked = operator.set_device_state(direction, write.as_fd());
        assert_eq!(asked, REFUSED);
    }
    assert_eq!(operator.check_device_state(), 1);
    vmm.assert_serves(Q);
    vmm.stop_queue(0);
    vmm.stop_queue(Q);
    // While the front-end is still connected, again and again, and it goes on.
    for _ in 0..2 {
        assert_eq!(operator.save(), (b"the guest".to_vec(), 0));
        assert_eq!(vmm.save(), (b"the guest".to_vec(), 0));
    }
    vmm.start_queue(Q, 2);
    vmm.assert_serves(Q);
}

#[test]
fn a_state_is_had_when_the_front_end_has_gone() {
    let keeps = DeviceConfig {
        on_disconnect: OnDisconnect::Keep,
        ..external()
    };
    let daemon = Daemon::start(keeps, true);
    daemon.server.with(|s| s.stream = b"the guest".to_vec());
    drop(daemon.paused(Q));
    assert_eq!(daemon.operator().save(), (b"the guest".to_vec(), 0));
    assert!(!daemon.server.calls().contains(&"reset"));
}

#[test]
fn with_external_nothing_goes_through_the_front_end() {
    let daemon = Daemon::start(external(), true);
    daemon.server.with(|s| s.stream = b"the guest".to_vec());
    let vmm = daemon.paused(Q);
    assert_eq!(vmm.save(), (Vec::new(), 0));
    assert_eq!(vmm.load(b"a state"), 1);
    assert_eq!(daemon.server.with(|s| s.stream.clone()), b"the guest");
    // An operator has all of it.
    assert_eq!(daemon.operator().save(), (b"the guest".to_vec(), 0));
    // At the destination, what says that there is nothing to load is taken.
    let destination = Daemon::start(external(), true);
    let mut other = destination.connect();
    other.negotiate(BASIC);
    assert_eq!(destination.operator().load(b"the guest"), 0);
    assert_eq!(other.load(b"the guest again"), 1);
    assert_eq!(other.load(b""), 0);
    other.set_mem_table(&[(0, MEM_SIZE)]);
    other.start_queue(0, 0);
    other.start_queue(Q, 0);
    other.assert_serves(Q);
}

#[test]
fn with_external_a_save_that_nobody_could_follow_is_refused() {
    let config = DeviceConfig {
        control_socket: false,
        ..external()
    };
    let daemon = Daemon::start(config, true);
    let vmm = daemon.paused(Q);
    let (_read, write) = pipe();
    assert_eq!(vmm.set_device_state(SAVE, write.as_fd()), REFUSED);
}

#[test]
fn with_none_an_operator_has_nothing_either() {
    let config = DeviceConfig {
        migration: MigrationType::None,
        ..external()
    };
    let daemon = Daemon::start(config, true);
    let (_read, write) = pipe();
    let operator = daemon.operator();
    assert_eq!(operator.set_device_state(SAVE, write.as_fd()), REFUSED);
    assert_eq!(daemon.server.calls(), [""; 0]);
}

#[test]
fn an_operator_gives_a_state_until_the_guest_has_been_here() {
    let daemon = Daemon::start(external(), true);
    let operator = daemon.operator();
    assert_eq!(operator.load(b"first try"), 0);
    // What came to nothing, with a front-end or without, takes nothing away.
    let vmm = daemon.connect();
    vmm.negotiate(BASIC);
    assert_eq!(vmm.load(b""), 0);
    drop(vmm);
    assert_eq!(operator.load(b"second try"), 0);
    assert_eq!(operator.load(b"corrupt"), 1);
    assert_eq!(operator.save(), (b"second try".to_vec(), 0));
    assert!(!daemon.server.calls().contains(&"reset"));
    // The guest comes.
    let vmm = daemon.paused(Q);
    let (read, _write) = pipe();
    assert_eq!(operator.set_device_state(LOAD, read.as_fd()), REFUSED);
    drop(vmm);
    eventually("it is forgotten with its front-end", || {
        daemon.server.calls().contains(&"reset")
    });
    assert_eq!(operator.load(b"another guest"), 0);
}

#[test]
fn a_reset_before_the_guest_has_come_keeps_its_state() {
    let daemon = Daemon::start(external(), true);
    assert_eq!(daemon.operator().load(b"the guest"), 0);
    let mut vmm = daemon.connect();
    vmm.negotiate(BASIC);
    vmm.must(RESET_DEVICE, &[], &[]);
    vmm.set_features(BASIC);
    assert_eq!(vmm.load(b""), 0);
    assert!(!daemon.server.calls().contains(&"reset"));
    // Features are negotiated anew after a reset.
    vmm.set_features(BASIC);
    vmm.set_mem_table(&[(0, MEM_SIZE)]);
    vmm.start_queue(0, 0);
    vmm.start_queue(Q, 0);
    vmm.assert_serves(Q);
    // Later it is a reset like any other.
    vmm.must(RESET_DEVICE, &[], &[]);
    assert!(daemon.server.calls().contains(&"reset"));
}

#[test]
fn requests_that_stand_over_come_with_an_operators_state() {
    let daemon = Daemon::start(external(), true);
    let standing = vec![StandingRequest { queue: Q, head: 3 }];
    daemon.server.with(|s| s.standing = standing.clone());
    let operator = daemon.operator();
    assert_eq!(operator.load(b"a guest"), 0);
    // They go on with the state, whether a front-end is there or not.
    let saved = || {
        daemon.server.with(|s| s.standing.clear());
        assert_eq!(operator.save().1, 0);
        daemon.server.with(|s| s.standing.clone())
    };
    assert_eq!(saved(), standing);
    let vmm = daemon.connect();
    vmm.negotiate(BASIC);
    assert_eq!(saved(), standing);
}

#[test]
fn a_front_end_that_comes_ends_an_operators_transfer() {
    let daemon = Daemon::start(external(), true);
    let operator = daemon.operator();
    let (read, write) = pipe();
    assert_eq!(operator.set_device_state(LOAD, read.as_fd()), ACCEPTED);
    (&write).write_all(b"half a state").unwrap();
    let mut vmm = daemon.boot(2, BASIC);
    vmm.assert_serves(Q);
    assert_eq!(operator.check_device_state(), 1);
    assert_eq!(daemon.server.with(|s| s.stream.clone()), b"");
    // And so does one that goes.
    vmm.stop_queue(0);
    vmm.stop_queue(Q);
    let (_read, write) = pipe();
    daemon.server.with(|s| s.stream = vec![1; 8 << 20]);
    assert_eq!(operator.set_device_state(SAVE, write.as_fd()), ACCEPTED);
    drop(vmm);
    assert_eq!(operator.check_device_state(), 1);
}

#[test]
fn operators_may_go_or_send_nonsense() {
    let daemon = Daemon::start(external(), true);
    daemon.server.with(|s| s.stream = b"the guest".to_vec());
    let good = || assert_eq!(daemon.operator().save(), (b"the guest".to_vec(), 0));
    // In the middle of a transfer whose pipe stays open, asked about or not.
    for asked in [false, true] {
        let (read, _write) = pipe();
        let operator = daemon.operator();
        assert_eq!(operator.set_device_state(LOAD, read.as_fd()), ACCEPTED);
        if asked {
            operator.send(CHECK_DEVICE_STATE, 0, &[], &[]);
        }
        drop(operator);
        good();
    }
    // What belongs to a front-end, and what to nobody.
    let two = |a: u32, b: u32| [a.to_ne_bytes(), b.to_ne_bytes()].concat();
    let (read, _write) = pipe();
    for (request, payload, fds) in [
        (SET_VRING_NUM, two(0, 16), 0),
        (GET_VRING_BASE, two(0, 0), 0),
        (SET_MEM_TABLE, two(0, 0), 0),
        (SET_DEVICE_STATE_FD, two(0, 0), 0),
        (SET_DEVICE_STATE_FD, two(0, 0), 2),
        (SET_FEATURES, u64::MAX.to_ne_bytes().to_vec(), 0),
        (SET_PROTOCOL_FEATURES, 1u64.to_ne_bytes().to_vec(), 0),
        (999, vec![0; 100], 0),
    ] {
        let operator = daemon.operator();
        operator.send(request, 0, &payload, &vec![read.as_fd(); fds]);
        assert!(operator.hung_up_on(), "{request}");
        good();
    }
    let operator = daemon.operator();
    for payload in [two(2, 0), two(0, 1), two(u32::MAX, u32::MAX)] {
        operator.send(SET_DEVICE_STATE_FD, 0, &payload, &[read.as_fd()]);
        let (_, answer) = operator.receive().expect("an answer");
        assert_eq!(answer, REFUSED.to_ne_bytes());
    }
    drop(operator);
    good();
}
