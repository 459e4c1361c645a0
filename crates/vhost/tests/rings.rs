//! Virtqueues: their start, their end, and drivers that misbehave.
//!
//! | trap | test |
//! |---|---|
//! | requests queued before the start wait for another kick | `requests_queued_before_the_start_are_served` |
//! | GET_VRING_BASE with a request in service loses it | `stopping_a_ring_waits_for_its_request` |
//! | a request that waits for a lock holds GET_VRING_BASE | `stopping_a_ring_interrupts_a_request_that_waits` |
//! | guest memory is written after GET_VRING_BASE | `a_stopped_ring_is_left_alone` |
//! | a disabled ring is served | `a_ring_is_served_only_while_enabled` |
//! | handle_event's error, or a kick that is not there, ends the queue's thread | `a_kick_replaced_while_running_is_heard`, `a_kick_that_is_no_eventfd_is_refused` |
//! | many queues share a thread | `every_queue_has_its_own_thread` |
//! | an impossible available index | `an_impossible_ring_is_left_alone_until_it_is_set_up_anew` |
//! | malformed chains end the daemon | `malformed_chains_are_completed_with_nothing` |
//! | a panic ends the queue's thread | `a_panic_costs_one_request` |
//! | interrupts nobody wants | `interrupts_come_as_the_driver_asks` |

mod common;

use std::os::fd::AsFd;

use common::*;
use ferryfs_vhost::DeviceConfig;

const Q: u16 = 1;

#[test]
fn requests_queued_before_the_start_are_served() {
    let daemon = Daemon::plain();
    let mut vmm = daemon.boot(1, BASIC);
    vmm.set_up_queue(Q, 0);
    let head = vmm.queue(Q, Op::Echo(b"early".to_vec()));
    // No kick at all, as after a migration: the source has taken it.
    vmm.set_kick(Q);
    meanwhile();
    assert_eq!(vmm.completions(Q), 0, "not enabled yet");
    vmm.enable(Q, true);
    let (done, len) = vmm.completion(Q);
    assert_eq!(done, head);
    assert_eq!(vmm.reply(Q, head, len), (0, b"early".to_vec()));
}

#[test]
fn stopping_a_ring_waits_for_its_request() {
    let daemon = Daemon::plain();
    let mut vmm = daemon.boot(2, BASIC);
    vmm.assert_serves(Q);
    vmm.queue(Q, Op::Insist);
    vmm.queue(Q, Op::Echo(b"not any more".to_vec()));
    vmm.kick(Q);
    let server = daemon.server.clone();
    eventually("the request is in service", || {
        server.with(|s| s.waiting == 1)
    });
    let release = std::thread::spawn(move || {
        meanwhile();
        server.with(|s| s.released = 1);
    });
    let base = vmm.stop_queue(Q);
    release.join().unwrap();
    // The request that was in service is done, and only that.
    assert_eq!(base, 2);
    assert_eq!(vmm.mem.u16(used_at(Q) + 2), base);
    assert_eq!(vmm.completions(Q), 1);
    assert!(vmm.interrupted(Q), "the driver was told before the end");
    // The next is served when the ring is started where it stopped.
    vmm.completion(Q);
    vmm.start_queue(Q, base);
    vmm.completion(Q);
    vmm.assert_serves(Q);
}

#[test]
fn stopping_a_ring_interrupts_a_request_that_waits() {
    let daemon = Daemon::plain();
    let mut vmm = daemon.boot(2, BASIC);
    let head = vmm.queue(Q, Op::Wait);
    vmm.kick(Q);
    let server = &daemon.server;
    eventually("the request waits", || server.with(|s| s.waiting == 1));
    assert_eq!(vmm.stop_queue(Q), 1);
    let (_, len) = vmm.completion(Q);
    assert_eq!(vmm.reply(Q, head, len), (-libc::EINTR, Vec::new()));
    assert_eq!(server.calls(), ["interrupt", "resume"]);
    // Nothing is interrupted where nothing waits.
    vmm.start_queue(Q, 1);
    vmm.assert_serves(Q);
    vmm.stop_queue(Q);
    assert_eq!(server.calls(), ["interrupt", "resume"]);
}

#[test]
fn a_stopped_ring_is_left_alone() {
    let daemon = Daemon::plain();
    let mut vmm = daemon.boot(2, BASIC);
    vmm.assert_serves(Q);
    assert_eq!(vmm.stop_queue(Q), 1);
    vmm.queue(Q, Op::Echo(b"hello?".to_vec()));
    let before = vmm.mem.read(0, MEM_SIZE as usize);
    vmm.kick(Q);
    meanwhile();
    assert!(
        vmm.mem.read(0, MEM_SIZE as usize) == before,
        "memory changed"
    );
    assert_eq!(daemon.server.with(|s| s.requests), 1);
}

#[test]
fn a_ring_is_served_only_while_enabled() {
    let daemon = Daemon::plain();
    let mut vmm = daemon.boot(2, BASIC);
    vmm.assert_serves(Q);
    vmm.enable(Q, false);
    vmm.queue(Q, Op::Echo(b"hello?".to_vec()));
    vmm.kick(Q);
    meanwhile();
    assert_eq!(vmm.completions(Q), 0);
    vmm.enable(Q, true);
    vmm.completion(Q);
    vmm.assert_serves(Q);
}

#[test]
fn without_protocol_features_rings_start_enabled() {
    let daemon = Daemon::plain();
    let mut vmm = daemon.connect();
    vmm.negotiate(BASIC & !F_PROTOCOL);
    vmm.set_mem_table(&[(0, MEM_SIZE)]);
    for queue in 0..2 {
        vmm.set_up_queue(queue, 0);
        vmm.set_kick(queue);
    }
    vmm.assert_serves(Q);
}

#[test]
fn a_kick_replaced_while_running_is_heard() {
    let daemon = Daemon::plain();
    let mut vmm = daemon.boot(2, BASIC);
    vmm.assert_serves(Q);
    for _ in 0..50 {
        vmm.kick(Q);
        vmm.replace_kick(Q);
        vmm.assert_serves(Q);
    }
}

#[test]
fn a_kick_that_is_no_eventfd_is_refused() {
    let daemon = Daemon::plain();
    let mut vmm = daemon.boot(2, BASIC);
    vmm.assert_serves(Q);
    let (read, write) = pipe();
    drop(write); // readable forever
    let payload = u64::from(Q).to_ne_bytes();
    vmm.must(SET_VRING_KICK, &payload, &[read.as_fd()]);
    vmm.queue(Q, Op::Echo(b"hello?".to_vec()));
    meanwhile();
    assert_eq!(vmm.completions(Q), 0);
    // Nothing is lost.
    vmm.set_kick(Q);
    vmm.completion(Q);
    vmm.assert_serves(Q);
}

#[test]
fn every_queue_has_its_own_thread() {
    let config = DeviceConfig {
        request_queues: 63,
        ..DeviceConfig::default()
    };
    let daemon = Daemon::start(config, true);
    let mut vmm = daemon.boot(64, BASIC);
    assert_eq!(vmm.get(GET_QUEUE_NUM), 64);
    for queue in 1..64 {
        vmm.queue(queue, Op::Insist);
        vmm.kick(queue);
    }
    let server = &daemon.server;
    eventually("all wait at once", || server.with(|s| s.waiting == 63));
    vmm.assert_serves(0);
    server.with(|s| s.released = 63);
    for queue in 1..64 {
        vmm.completion(queue);
        vmm.assert_serves(queue);
    }
}

#[test]
fn an_impossible_ring_is_left_alone_until_it_is_set_up_anew() {
    let daemon = Daemon::plain();
    let mut vmm = daemon.boot(2, BASIC);
    vmm.assert_serves(Q);
    // More entries than the ring has.
    vmm.mem.write(avail_at(Q) + 2, &100u16.to_le_bytes());
    for _ in 0..10 {
        vmm.kick(Q);
        meanwhile();
    }
    assert_eq!(vmm.completions(Q), 0);
    vmm.assert_serves(0);
    // Not even a good index wakes it.
    vmm.mem.write(avail_at(Q) + 2, &1u16.to_le_bytes());
    vmm.queue(Q, Op::Echo(b"hello?".to_vec()));
    vmm.kick(Q);
    meanwhile();
    assert_eq!(vmm.completions(Q), 0);
    assert_eq!(vmm.stop_queue(Q), 1);
    vmm.start_queue(Q, 1);
    vmm.completion(Q);
    vmm.assert_serves(Q);
}

#[test]
fn rings_outside_memory_do_no_harm() {
    let daemon = Daemon::plain();
    let mut vmm = daemon.boot(2, BASIC);
    // The memory goes away under the rings.
    vmm.set_mem_table(&[(HALF, HALF)]);
    vmm.kick(Q);
    vmm.kick(0);
    meanwhile();
    vmm.set_mem_table(&[(0, MEM_SIZE)]);
    for queue in [0, Q] {
        vmm.stop_queue(queue);
        vmm.start_queue(queue, 0);
        vmm.assert_serves(queue);
    }
}

#[test]
fn malformed_chains_are_completed_with_nothing() {
    let daemon = Daemon::plain();
    let mut vmm = daemon.boot(2, BASIC);
    let (input, room) = Vmm::buffers(Q, 0);
    vmm.mem.write(input, b"ehello");
    const NEXT: u16 = 1;
    const WRITE: u16 = 2;
    const INDIRECT: u16 = 4;
    let served_nothing = |vmm: &mut Vmm, what: &str| {
        vmm.offer(Q, 0);
        vmm.kick(Q);
        let (head, len) = vmm.completion(Q);
        assert_eq!((head, len), (0, 0), "{what}");
        vmm.assert_serves(0);
    };
    vmm.put_desc(Q, 0, (MEM_SIZE + 0x1000, 6), NEXT, 1);
    vmm.put_desc(Q, 1, (room, 0x1000), WRITE, 0);
    served_nothing(&mut vmm, "readable descriptor outside memory");
    vmm.put_desc(Q, 0, (input, 6), NEXT, 1);
    vmm.put_desc(Q, 1, (MEM_SIZE - 8, 0x1000), WRITE, 0);
    served_nothing(&mut vmm, "writable descriptor that leaves memory");
    vmm.put_desc(Q, 1, (u64::MAX - 8, 0x1000), WRITE, 0);
    served_nothing(&mut vmm, "writable descriptor that wraps around");
    vmm.put_desc(Q, 1, (room, 8), WRITE, 0);
    served_nothing(&mut vmm, "no room for a reply's header");
    vmm.put_desc(Q, 0, (input, 0), 0, 0);
    served_nothing(&mut vmm, "empty");
    vmm.put_desc(Q, 0, (room, 0x1000), WRITE, 0);
    served_nothing(&mut vmm, "nothing to read");
    vmm.put_desc(Q, 0, (input, 5), INDIRECT, 0);
    served_nothing(&mut vmm, "indirect table of an odd length");
    vmm.put_desc(Q, 0, (MEM_SIZE, 32), INDIRECT, 0);
    served_nothing(&mut vmm, "indirect table outside memory");
    // A loop ends somewhere; what is read of it is as much as a request has.
    vmm.put_desc(Q, 0, (room, 1), NEXT, 0);
    served_nothing(&mut vmm, "loop");
    // No such descriptor: there is nothing that could be completed.
    vmm.offer(Q, QUEUE_SIZE);
    vmm.offer(Q, u16::MAX);
    vmm.kick(Q);
    vmm.put_desc(Q, 0, (input, 6), NEXT, 1);
    vmm.put_desc(Q, 1, (room, 0x1000), WRITE, 0);
    vmm.offer(Q, 0);
    vmm.kick(Q);
    assert_eq!(vmm.completion(Q), (0, 21));
}

#[test]
fn a_panic_costs_one_request() {
    let daemon = Daemon::plain();
    let mut vmm = daemon.boot(2, BASIC);
    let head = vmm.queue(Q, Op::Panic);
    vmm.kick(Q);
    assert_eq!(vmm.completion(Q), (head, 0));
    vmm.assert_serves(Q);
}

#[test]
fn interrupts_come_as_the_driver_asks() {
    // Without VIRTIO_RING_F_EVENT_IDX, a flag is heeded.
    let daemon = Daemon::plain();
    let mut vmm = daemon.boot(2, BASIC);
    vmm.assert_serves(Q);
    eventually("an interrupt comes", || vmm.interrupted(Q));
    vmm.mem.write(avail_at(Q), &1u16.to_le_bytes());
    vmm.assert_serves(Q);
    vmm.stop_queue(Q); // what was in service is over
    assert!(!vmm.interrupted(Q));
    drop(vmm);

    // With it, the driver names the completion that it wants to hear of.
    let mut vmm = daemon.boot(2, BASIC | F_EVENT_IDX);
    let used_event = avail_at(Q) + 4 + u64::from(QUEUE_SIZE) * 2;
    vmm.mem.write(used_event, &2u16.to_le_bytes());
    for _ in 0..2 {
        vmm.assert_serves(Q);
    }
    vmm.enable(Q, false);
    assert!(!vmm.interrupted(Q));
    vmm.enable(Q, true);
    vmm.assert_serves(Q);
    eventually("an interrupt comes", || vmm.interrupted(Q));
    // And is told from which request on a kick is wanted.
    let avail_event = used_at(Q) + 4 + u64::from(QUEUE_SIZE) * 8;
    eventually("a kick is wanted", || vmm.mem.u16(avail_event) == 3);
}

#[test]
fn a_long_run_over_many_wraps() {
    for features in [BASIC, BASIC | F_EVENT_IDX] {
        let daemon = Daemon::plain();
        let mut vmm = daemon.boot(2, features);
        for round in 0..500u32 {
            let batch = 1 + round % 8;
            let heads: Vec<u16> = (0..batch)
                .map(|i| vmm.queue(Q, Op::Echo(vec![i as u8; 40])))
                .collect();
            vmm.kick(Q);
            for (i, head) in heads.into_iter().enumerate() {
                let (done, len) = vmm.completion(Q);
                assert_eq!(done, head);
                assert_eq!(vmm.reply(Q, head, len), (0, vec![i as u8; 40]));
            }
        }
    }
}
