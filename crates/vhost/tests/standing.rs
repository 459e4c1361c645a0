//! Requests that stand over: answered later, out of order, and across stops.

mod common;

use std::os::fd::AsFd;

use common::{
    avail_at, eventually, meanwhile, pipe, used_at, Daemon, Op, Vmm, BASIC, CHECK_DEVICE_STATE,
    F_EVENT_IDX, LOAD, MEM_SIZE, QUEUE_SIZE, SAVE,
};
use ferryfs_core::service::StandingRequest;

const Q: u16 = 1;

/// Queues a request that stands over, and waits until it does.
fn defer(daemon: &Daemon, vmm: &mut Vmm) -> u16 {
    let before = daemon.server.with(|s| s.deferred.len());
    let head = vmm.queue(Q, Op::Defer);
    vmm.kick(Q);
    eventually("a request stands over", || {
        daemon.server.with(|s| s.deferred.len()) == before + 1
    });
    head
}

#[track_caller]
fn assert_answered(vmm: &mut Vmm, head: u16, error: i32) {
    let (done, len) = vmm.completion(Q);
    assert_eq!((done, len), (head, 16));
    assert_eq!(vmm.reply(Q, head, len), (error, Vec::new()));
}

#[test]
fn what_stands_over_holds_nobody_up() {
    for features in [BASIC, BASIC | F_EVENT_IDX] {
        let daemon = Daemon::plain();
        let mut vmm = daemon.boot(2, features);
        let first = defer(&daemon, &mut vmm);
        let second = defer(&daemon, &mut vmm);
        // The driver's first slots are taken.
        for slot in [2, 3] {
            let head = vmm.queue(Q, Op::Echo(vec![slot; 20]));
            vmm.kick(Q);
            let (done, len) = vmm.completion(Q);
            assert_eq!(done, head);
            assert_eq!(vmm.reply(Q, head, len), (0, vec![slot; 20]));
        }
        // Out of order.
        let last = daemon.server.with(|s| s.deferred.pop().unwrap());
        let mut header = [0; 16];
        header[0] = 16;
        assert!(last.send(&header));
        assert_answered(&mut vmm, second, 0);
        assert!(daemon.server.answer(-libc::EINTR));
        assert_answered(&mut vmm, first, -libc::EINTR);
        vmm.assert_serves(Q);
    }
}

#[test]
fn a_driver_is_told_of_a_late_answer_as_it_asks() {
    let daemon = Daemon::plain();
    let mut vmm = daemon.boot(2, BASIC | F_EVENT_IDX);
    let used_event = avail_at(Q) + 4 + u64::from(QUEUE_SIZE) * 2;
    vmm.mem.write(used_event, &0u16.to_le_bytes());
    let head = defer(&daemon, &mut vmm);
    assert!(!vmm.interrupted(Q));
    assert!(daemon.server.answer(0));
    assert_answered(&mut vmm, head, 0);
    eventually("an interrupt comes", || vmm.interrupted(Q));
}

#[test]
fn half_of_the_queue_stays_free() {
    let daemon = Daemon::plain();
    let mut vmm = daemon.boot(2, BASIC);
    // Two descriptors each.
    let heads: Vec<u16> = (0..QUEUE_SIZE / 4)
        .map(|_| defer(&daemon, &mut vmm))
        .collect();
    let head = vmm.queue(Q, Op::Defer);
    vmm.kick(Q);
    let (done, len) = vmm.completion(Q);
    assert_eq!(done, head);
    assert_eq!(vmm.reply(Q, head, len), (-libc::ENOLCK, Vec::new()));
    for head in heads {
        assert!(daemon.server.answer(0));
        assert_answered(&mut vmm, head, 0);
    }
    // Room again.
    vmm.assert_serves(Q);
    let head = defer(&daemon, &mut vmm);
    daemon.server.answer(0);
    assert_answered(&mut vmm, head, 0);
}

#[test]
fn a_stop_waits_for_none_and_a_start_goes_on() {
    let daemon = Daemon::plain();
    let mut vmm = daemon.boot(2, BASIC);
    let head = defer(&daemon, &mut vmm);
    assert!(!daemon.server.with(|s| s.suspended));
    let bases = [vmm.stop_queue(0), vmm.stop_queue(Q)];
    assert!(daemon.server.with(|s| s.suspended));
    assert_eq!(bases[1], 1, "the request has been taken");
    assert_eq!(vmm.mem.u16(used_at(Q) + 2), 0, "and not been answered");
    assert!(!daemon.server.calls().contains(&"interrupt"));
    // An answer that comes now waits for the ring.
    let before = vmm.mem.read(0, MEM_SIZE as usize);
    assert!(daemon.server.answer(0));
    meanwhile();
    assert!(
        vmm.mem.read(0, MEM_SIZE as usize) == before,
        "memory changed"
    );
    vmm.start_queue(0, bases[0]);
    assert!(!daemon.server.with(|s| s.suspended));
    meanwhile();
    assert_eq!(vmm.completions(Q), 0);
    vmm.start_queue(Q, bases[1]);
    assert_answered(&mut vmm, head, 0);
    vmm.assert_serves(Q);
}

#[test]
fn a_disabled_ring_keeps_its_answers() {
    let daemon = Daemon::plain();
    let mut vmm = daemon.boot(2, BASIC);
    let head = defer(&daemon, &mut vmm);
    vmm.enable(Q, false);
    assert!(
        !daemon.server.with(|s| s.suspended),
        "the other queue goes on"
    );
    assert!(daemon.server.answer(0));
    meanwhile();
    assert_eq!(vmm.completions(Q), 0);
    vmm.enable(Q, true);
    assert_answered(&mut vmm, head, 0);
}

#[test]
fn a_driver_that_was_reset_is_not_answered() {
    let daemon = Daemon::plain();
    let mut vmm = daemon.boot(2, BASIC);
    defer(&daemon, &mut vmm);
    defer(&daemon, &mut vmm);
    assert_eq!(vmm.stop_queue(Q), 2);
    assert!(daemon.server.answer(0), "nobody knows yet");
    // The rings of a driver that begins anew.
    vmm.mem.write(avail_at(Q), &[0; 0x1000]);
    vmm.mem.write(used_at(Q), &[0; 0x1000]);
    vmm.start_queue(Q, 0);
    vmm.assert_serves(Q);
    assert_eq!(vmm.completions(Q), 0);
    assert!(!daemon.server.answer(0));
    vmm.assert_serves(Q);
    assert_eq!(vmm.mem.u16(used_at(Q) + 2), 2);
}

#[test]
fn what_stands_over_crosses_with_the_state() {
    let source = Daemon::plain();
    let mut vmm = source.boot(2, BASIC);
    let heads = [defer(&source, &mut vmm), defer(&source, &mut vmm)];
    source.server.with(|s| s.stream = b"state".to_vec());
    let bases = [vmm.stop_queue(0), vmm.stop_queue(Q)];
    // What has been answered meanwhile goes along as if it had not.
    assert!(source.server.answer(0));
    let (mut read, write) = pipe();
    vmm.set_device_state(SAVE, write.as_fd());
    drop(write);
    let mut state = Vec::new();
    std::io::Read::read_to_end(&mut read, &mut state).unwrap();
    assert_eq!(vmm.get(CHECK_DEVICE_STATE), 0);
    let standing: Vec<_> = heads
        .iter()
        .map(|&head| StandingRequest { queue: Q, head })
        .collect();
    assert_eq!(source.server.with(|s| s.standing.clone()), standing);

    let destination = Daemon::plain();
    destination.server.with(|s| s.standing = standing);
    let mut moved = destination.connect();
    std::mem::swap(&mut moved.mem, &mut vmm.mem);
    moved.negotiate(BASIC);
    moved.set_mem_table(&[(0, MEM_SIZE)]);
    let (read, mut write) = pipe();
    moved.set_device_state(LOAD, read.as_fd());
    std::io::Write::write_all(&mut write, &state).unwrap();
    drop((write, read));
    assert_eq!(moved.get(CHECK_DEVICE_STATE), 0);
    moved.start_queue(0, bases[0]);
    moved.start_queue(Q, bases[1]);
    eventually("they stand over again", || {
        destination.server.with(|s| s.deferred.len()) == 2
    });
    moved.assert_serves(0);
    // Stopped and started like any other.
    let base = moved.stop_queue(Q);
    assert_eq!(base, bases[1]);
    moved.start_queue(Q, base);
    for head in heads {
        assert!(destination.server.answer(0));
        assert_answered(&mut moved, head, 0);
    }
    moved.assert_serves(Q);
}

#[test]
fn a_state_that_tells_tales_does_no_harm() {
    let daemon = Daemon::plain();
    let tales = [(Q, 3), (Q, u16::MAX), (40, 0), (Q, 3)];
    let tales = tales.map(|(queue, head)| StandingRequest { queue, head });
    daemon.server.with(|s| s.standing = tales.to_vec());
    let mut vmm = daemon.connect();
    vmm.negotiate(BASIC);
    vmm.set_mem_table(&[(0, MEM_SIZE)]);
    let (read, write) = pipe();
    vmm.set_device_state(LOAD, read.as_fd());
    drop((write, read));
    assert_eq!(vmm.get(CHECK_DEVICE_STATE), 0);
    // Even where the indices agree with it.
    vmm.mem.write(avail_at(Q) + 2, &3u16.to_le_bytes());
    for queue in 0..2 {
        vmm.start_queue(queue, if queue == Q { 3 } else { 0 });
    }
    for head in [3, 3] {
        assert_eq!(vmm.completion(Q), (head, 0));
    }
    vmm.assert_serves(Q);
    vmm.assert_serves(0);
}

#[test]
fn the_end_of_a_connection_waits_for_none() {
    let daemon = Daemon::plain();
    let mut vmm = daemon.boot(2, BASIC);
    defer(&daemon, &mut vmm);
    drop(vmm);
    eventually("the server is reset", || {
        daemon.server.calls().contains(&"reset")
    });
    let mut vmm = daemon.boot(2, BASIC);
    assert!(!daemon.server.answer(0), "its ring is gone");
    vmm.assert_serves(Q);
}

#[test]
fn a_panic_behind_a_deferral_is_completed_once() {
    let daemon = Daemon::plain();
    let mut vmm = daemon.boot(2, BASIC);
    let head = vmm.queue(Q, Op::DeferAndPanic);
    vmm.kick(Q);
    assert_eq!(vmm.completion(Q), (head, 0));
    assert!(!daemon.server.answer(0));
    vmm.assert_serves(Q);
}
