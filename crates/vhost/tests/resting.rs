//! The high-priority queue, whose thread rests while its driver is busy.
//!
//! | trap | test |
//! |---|---|
//! | what comes during a rest waits for a kick, for which nobody asks | `what_comes_during_a_rest_needs_no_kick` |
//! | the thread sleeps after a rest, and no kick is asked for | `kicks_are_asked_for_after_a_rest_in_vain` |
//! | a ring is stopped during a rest: it is taken from, or left without asking for kicks | `a_rest_ends_with_the_ring` |

mod common;

use std::time::{Duration, Instant};

use common::*;

/// FORGET and INTERRUPT.
const Q: u16 = 0;

/// One request after the other, as fast as can be.
fn is_busy(vmm: &mut Vmm) {
    for _ in 0..4 {
        vmm.queue(Q, Op::Echo(b"and another".to_vec()));
        vmm.kick(Q);
        comes(vmm, Duration::from_secs(10));
        vmm.completion(Q);
    }
}

/// Whether a request is completed in time.
fn comes(vmm: &Vmm, time: Duration) -> bool {
    let start = Instant::now();
    while vmm.completions(Q) == 0 && start.elapsed() < time {
        std::thread::yield_now();
    }
    vmm.completions(Q) > 0
}

/// The driver is busy, until the thread has rested.
fn rests(vmm: &mut Vmm) {
    eventually("the thread rests", || {
        is_busy(vmm);
        // Longer than any look that nobody asked for lasts.
        let start = Instant::now();
        while start.elapsed() < Duration::from_micros(80) {
            std::thread::yield_now();
        }
        vmm.queue(Q, Op::Echo(b"no kick".to_vec()));
        let rested = comes(vmm, Duration::from_millis(2));
        vmm.kick(Q);
        vmm.completion(Q);
        rested
    });
}

fn asks_for_kicks(vmm: &Vmm, features: u64) -> bool {
    let avail_event = used_at(Q) + 4 + u64::from(QUEUE_SIZE) * 8;
    match features & F_EVENT_IDX {
        0 => vmm.mem.u16(used_at(Q)) == 0,
        _ => vmm.mem.u16(avail_event) == vmm.mem.u16(used_at(Q) + 2),
    }
}

#[test]
fn what_comes_during_a_rest_needs_no_kick() {
    for features in [BASIC, BASIC | F_EVENT_IDX] {
        let daemon = Daemon::plain();
        let mut vmm = daemon.boot(2, features);
        for _ in 0..5 {
            rests(&mut vmm);
        }
    }
}

#[test]
fn kicks_are_asked_for_after_a_rest_in_vain() {
    for features in [BASIC, BASIC | F_EVENT_IDX] {
        let daemon = Daemon::plain();
        let mut vmm = daemon.boot(2, features);
        for _ in 0..50 {
            is_busy(&mut vmm);
            eventually("a kick is wanted", || asks_for_kicks(&vmm, features));
            vmm.assert_serves(Q);
        }
    }
}

#[test]
fn a_rest_ends_with_the_ring() {
    for features in [BASIC, BASIC | F_EVENT_IDX] {
        let daemon = Daemon::plain();
        let mut vmm = daemon.boot(2, features);
        for _ in 0..20 {
            is_busy(&mut vmm);
            let base = vmm.stop_queue(Q);
            assert_eq!(base, vmm.mem.u16(used_at(Q) + 2));
            assert!(asks_for_kicks(&vmm, features));
            // What is queued from now on is left alone.
            vmm.queue(Q, Op::Echo(b"hello?".to_vec()));
            vmm.kick(Q);
            let before = vmm.mem.read(0, MEM_SIZE as usize);
            std::thread::sleep(Duration::from_millis(1));
            assert!(vmm.mem.read(0, MEM_SIZE as usize) == before);
            vmm.start_queue(Q, base);
            vmm.completion(Q);
        }
        rests(&mut vmm);
        // A ring that is disabled, a device that is reset, a front-end that goes.
        vmm.enable(Q, false);
        vmm.enable(Q, true);
        rests(&mut vmm);
        vmm.must(RESET_DEVICE, &[], &[]);
        drop(vmm);
        let mut vmm = daemon.boot(2, features);
        rests(&mut vmm);
    }
}
