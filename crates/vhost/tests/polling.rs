//! Queues whose threads look for requests instead of sleeping, and completions that a
//! driver is told of together.
//!
//! | trap | test |
//! |---|---|
//! | GET_VRING_BASE, a reset or the end waits for a thread that looks | `stopping_does_not_wait_for_a_look` |
//! | a look takes requests while a state is transferred | `a_look_ends_with_a_transfer` |
//! | a driver is asked for kicks that nobody needs, or not asked before the thread sleeps | `no_kick_is_needed_while_looking`, `kicks_are_asked_for_after_a_look_in_vain` |
//! | a ring is left without asking for kicks, and the next daemon waits for one | `who_goes_on_is_kicked` |
//! | a completion is not told while a later request takes long | `a_request_that_takes_long_keeps_no_other_from_being_told` |

mod common;

use std::os::fd::AsFd;
use std::time::Duration;

use common::*;
use ferryfs_vhost::DeviceConfig;

const Q: u16 = 1;

/// Longer than any test waits for anything.
const FOR_EVER: Duration = Duration::from_secs(3600);

fn polling(poll: Duration) -> Daemon {
    let config = DeviceConfig {
        poll,
        ..DeviceConfig::default()
    };
    Daemon::start(config, true)
}

/// The thread of queue 1 has served a request and looks for the next.
fn looks(vmm: &mut Vmm) {
    eventually("the thread looks", || {
        vmm.assert_serves(Q);
        vmm.queue(Q, Op::Echo(b"no kick".to_vec()));
        meanwhile();
        let looks = vmm.completions(Q) > 0;
        vmm.kick(Q);
        vmm.completion(Q);
        looks
    });
}

#[test]
fn no_kick_is_needed_while_looking() {
    for features in [BASIC, BASIC | F_EVENT_IDX] {
        let daemon = polling(FOR_EVER);
        let mut vmm = daemon.boot(2, features);
        vmm.assert_serves(Q);
        // Over many wraps of the ring.
        for i in 0..200u8 {
            let heads = [i, !i].map(|byte| (vmm.queue(Q, Op::Echo(vec![byte; 30])), byte));
            for (head, byte) in heads {
                let (done, len) = vmm.completion(Q);
                assert_eq!(done, head);
                assert_eq!(vmm.reply(Q, head, len), (0, vec![byte; 30]));
            }
        }
        // And the driver is not asked for any.
        match features & F_EVENT_IDX {
            0 => assert_eq!(vmm.mem.u16(used_at(Q)), 1, "NO_NOTIFY"),
            _ => {
                let avail_event = used_at(Q) + 4 + u64::from(QUEUE_SIZE) * 8;
                assert!(vmm.mem.u16(avail_event) < 401);
            }
        }
    }
}

#[test]
fn kicks_are_asked_for_after_a_look_in_vain() {
    for features in [BASIC, BASIC | F_EVENT_IDX] {
        let daemon = polling(Duration::from_micros(50));
        let mut vmm = daemon.boot(2, features);
        for served in 1..100u16 {
            vmm.assert_serves(Q);
            let avail_event = used_at(Q) + 4 + u64::from(QUEUE_SIZE) * 8;
            eventually("a kick is wanted", || match features & F_EVENT_IDX {
                0 => vmm.mem.u16(used_at(Q)) == 0,
                _ => vmm.mem.u16(avail_event) == served,
            });
        }
    }
}

#[test]
fn stopping_does_not_wait_for_a_look() {
    let daemon = polling(FOR_EVER);
    let mut vmm = daemon.boot(2, BASIC | F_EVENT_IDX);
    looks(&mut vmm);
    let base = vmm.stop_queue(Q);
    assert_eq!(base, vmm.mem.u16(used_at(Q) + 2));
    // What is queued from now on is left alone.
    vmm.queue(Q, Op::Echo(b"hello?".to_vec()));
    let before = vmm.mem.read(0, MEM_SIZE as usize);
    meanwhile();
    assert!(vmm.mem.read(0, MEM_SIZE as usize) == before);
    vmm.start_queue(Q, base);
    vmm.completion(Q);
    looks(&mut vmm);
    // A ring that is disabled, a device that is reset, a front-end that goes.
    vmm.enable(Q, false);
    vmm.enable(Q, true);
    looks(&mut vmm);
    vmm.must(RESET_DEVICE, &[], &[]);
    drop(vmm);
    let mut vmm = daemon.boot(2, BASIC);
    looks(&mut vmm);
    // Ends with the daemon.
    drop(daemon);
}

#[test]
fn who_goes_on_is_kicked() {
    for features in [BASIC, BASIC | F_EVENT_IDX] {
        let avail_event = used_at(Q) + 4 + u64::from(QUEUE_SIZE) * 8;
        let daemon = polling(FOR_EVER);
        let mut vmm = daemon.boot(2, features);
        looks(&mut vmm);
        let base = vmm.stop_queue(Q);
        // A look has been cut short, and so has the service of a request.
        for _ in 0..2 {
            match features & F_EVENT_IDX {
                0 => assert_eq!(vmm.mem.u16(used_at(Q)), 0, "NO_NOTIFY"),
                _ => assert_eq!(vmm.mem.u16(avail_event), vmm.mem.u16(used_at(Q) + 2)),
            }
            vmm.start_queue(Q, vmm.mem.u16(used_at(Q) + 2));
            vmm.queue(Q, Op::Echo(b"last".to_vec()));
            vmm.kick(Q);
            vmm.completion(Q);
            assert!(vmm.stop_queue(Q) > base);
        }
    }
}

#[test]
fn a_look_ends_with_a_transfer() {
    let daemon = polling(FOR_EVER);
    let mut vmm = daemon.boot(2, BASIC);
    looks(&mut vmm);
    let base = vmm.stop_queue(Q);
    vmm.stop_queue(0);
    daemon.server.with(|s| s.save_is_slow = true);
    let (_read, write) = pipe();
    vmm.set_device_state(SAVE, write.as_fd());
    drop(write);
    // Started during the transfer, it is served after it.
    vmm.start_queue(Q, base);
    vmm.queue(Q, Op::Echo(b"hello?".to_vec()));
    vmm.kick(Q);
    meanwhile();
    assert_eq!(vmm.completions(Q), 0);
    daemon.server.with(|s| s.save_is_slow = false);
    vmm.completion(Q);
    assert_eq!(vmm.check_device_state(), 0);
    looks(&mut vmm);
}

#[test]
fn a_request_that_takes_long_keeps_no_other_from_being_told() {
    for features in [BASIC, BASIC | F_EVENT_IDX] {
        let daemon = Daemon::plain();
        let mut vmm = daemon.boot(2, features);
        let used_event = avail_at(Q) + 4 + u64::from(QUEUE_SIZE) * 2;
        for round in 0..20u16 {
            // The driver wants to hear of the second completion.
            let at = vmm.mem.u16(used_at(Q) + 2);
            vmm.mem.write(used_event, &(at + 1).to_le_bytes());
            vmm.interrupted(Q);
            for _ in 0..2 {
                vmm.queue(Q, Op::Echo(b"quick".to_vec()));
            }
            vmm.queue(Q, Op::Insist);
            for _ in 0..5 {
                vmm.queue(Q, Op::Echo(b"later".to_vec()));
            }
            vmm.kick(Q);
            let server = &daemon.server;
            eventually("it takes long", || server.with(|s| s.waiting == 1));
            assert_eq!(vmm.completions(Q), 2, "round {round}");
            eventually("the driver is told", || vmm.interrupted(Q));
            server.with(|s| s.released = 1);
            for _ in 0..8 {
                vmm.completion(Q);
            }
        }
    }
}
