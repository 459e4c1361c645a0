//! The dirty log, as a front-end reads it.
//!
//! | trap | test |
//! |---|---|
//! | pages of data, reply and used ring must all be logged, no others | `exactly_what_was_written_is_logged` |
//! | log lost after a second SET_MEM_TABLE | `the_log_survives_a_second_memory_table` |
//! | regions added while logging have no log | `a_region_added_while_logging_is_logged` |
//! | LOG_ALL cleared is ignored | `clearing_log_all_ends_logging` |
//! | a log that was replaced is written on | `a_replaced_log_is_not_written_any_more` |
//! | a second migration finds no log | `logging_can_be_started_again` |
//! | requests between the exchange of the map and the device's knowledge of it | `no_page_is_lost_while_memory_is_mapped_anew` |
//! | a log too small for memory | `a_log_too_small_is_refused_and_the_daemon_stays` |
//! | memory that outgrows the log in use | `a_region_beyond_the_log_is_refused` |

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::*;

const ONE_QUEUE: u16 = 2; // hiprio and the request queue
const Q: u16 = 1;

fn log() -> Shared {
    Shared::new(MEM_SIZE / 0x1000 / 8)
}

/// What is logged, but for the used ring of the other queue: its thread has a look
/// at the ring after the start, at a time of its own.
fn pages(log: &Shared) -> Vec<u64> {
    let mut pages = log.pages();
    pages.retain(|&page| page != used_at(0) / 0x1000);
    pages
}

fn logging(daemon: &Daemon, log: &Shared) -> Vmm {
    let vmm = daemon.boot(ONE_QUEUE, BASIC);
    vmm.set_log(log).unwrap();
    vmm.set_features(BASIC | F_LOG_ALL);
    vmm
}

/// A request with a 64 KiB reply in the given place; the pages it must have dirtied.
fn fill(vmm: &mut Vmm, at: u64) -> Vec<u64> {
    vmm.queue_at(Q, Op::Fill(0xfff0), (at, 0x1_0000));
    vmm.kick(Q);
    assert_eq!(vmm.completion(Q).1, 0x1_0000);
    eventually("the ring is idle again", || {
        vmm.mem.u16(used_at(Q)) == 0 // VRING_USED_F_NO_NOTIFY has been cleared
    });
    let mut pages: Vec<u64> = (0..16).map(|i| at / 0x1000 + i).collect();
    pages.push(used_at(Q) / 0x1000);
    pages.sort_unstable();
    pages
}

#[test]
fn exactly_what_was_written_is_logged() {
    let daemon = Daemon::plain();
    let log = log();
    let mut vmm = logging(&daemon, &log);
    // Starting a ring writes nothing to it but the flags.
    let expected = fill(&mut vmm, BIG);
    assert_eq!(pages(&log), expected);
    // A reply that ends in the middle of its room dirties no page behind.
    log.clear();
    vmm.queue_at(Q, Op::Fill(100), (BIG, 0x1_0000));
    vmm.kick(Q);
    assert_eq!(vmm.completion(Q).1, 116);
    eventually("the ring is idle again", || vmm.mem.u16(used_at(Q)) == 0);
    let mut expected = vec![used_at(Q) / 0x1000, BIG / 0x1000];
    expected.sort_unstable();
    assert_eq!(pages(&log), expected);
}

#[test]
fn the_log_survives_a_second_memory_table() {
    let daemon = Daemon::plain();
    let log = log();
    let mut vmm = logging(&daemon, &log);
    vmm.set_mem_table(&[(0, HALF), (HALF, HALF)]);
    log.clear();
    let expected = fill(&mut vmm, HALF + BIG);
    assert_eq!(pages(&log), expected);
}

/// Ends the other thread, also when this one fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn no_page_is_lost_while_memory_is_mapped_anew() {
    let daemon = Daemon::plain();
    let log = log();
    let mut vmm = logging(&daemon, &log);
    let remap = vmm.remapper();
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let remapping = scope.spawn(|| remap(&enough));
        let end = End(&enough);
        for i in 0..2000 {
            let at = BIG + i % 512 * 0x1000;
            log.clear();
            vmm.queue_at(Q, Op::Fill(100), (at, 0x1000));
            vmm.kick(Q);
            vmm.completion(Q);
            // In time for the next message, at the latest: the front-end looks at the
            // log for the last time when it has stopped the ring.
            eventually("the page is logged", || {
                log.pages().contains(&(at / 0x1000))
            });
        }
        drop(end);
        let times = remapping.join().unwrap();
        assert!(times > 10, "memory was mapped {times} times only");
    });
}

#[test]
fn a_region_added_while_logging_is_logged() {
    let daemon = Daemon::plain();
    let log = log();
    let mut vmm = daemon.connect();
    vmm.negotiate(BASIC);
    vmm.set_mem_table(&[(0, HALF)]);
    vmm.start_queue(0, 0);
    vmm.start_queue(Q, 0);
    vmm.set_log(&log).unwrap();
    vmm.set_features(BASIC | F_LOG_ALL);
    assert_eq!(vmm.add_region((HALF, HALF)), Some(true));
    log.clear();
    let expected = fill(&mut vmm, HALF + BIG);
    assert_eq!(pages(&log), expected);
    // And what was there before is still logged.
    log.clear();
    assert_eq!(vmm.remove_region((HALF, HALF)), Some(true));
    let expected = fill(&mut vmm, BIG);
    assert_eq!(pages(&log), expected);
}

#[test]
fn clearing_log_all_ends_logging() {
    let daemon = Daemon::plain();
    let log = log();
    let mut vmm = logging(&daemon, &log);
    fill(&mut vmm, BIG);
    vmm.set_features(BASIC);
    log.clear();
    fill(&mut vmm, BIG);
    assert_eq!(pages(&log), Vec::<u64>::new());
}

#[test]
fn a_log_alone_is_not_logging() {
    let daemon = Daemon::plain();
    let log = log();
    let mut vmm = daemon.boot(ONE_QUEUE, BASIC);
    vmm.set_log(&log).unwrap();
    fill(&mut vmm, BIG);
    assert_eq!(pages(&log), Vec::<u64>::new());
}

#[test]
fn logging_can_be_started_again() {
    let daemon = Daemon::plain();
    let first = log();
    let mut vmm = logging(&daemon, &first);
    vmm.set_features(BASIC);
    // With the same log, and with another.
    vmm.set_features(BASIC | F_LOG_ALL);
    let expected = fill(&mut vmm, BIG);
    assert_eq!(pages(&first), expected);
    vmm.set_features(BASIC);
    let second = log();
    vmm.set_log(&second).unwrap();
    vmm.set_features(BASIC | F_LOG_ALL);
    let expected = fill(&mut vmm, BIG);
    assert_eq!(pages(&second), expected);
}

#[test]
fn a_replaced_log_is_not_written_any_more() {
    let daemon = Daemon::plain();
    let old = log();
    let mut vmm = logging(&daemon, &old);
    let new = log();
    vmm.set_log(&new).unwrap();
    old.clear();
    let expected = fill(&mut vmm, BIG);
    assert_eq!(pages(&new), expected);
    assert_eq!(pages(&old), Vec::<u64>::new());
}

#[test]
fn a_log_too_small_is_refused_and_the_daemon_stays() {
    let daemon = Daemon::plain();
    let vmm = daemon.boot(ONE_QUEUE, BASIC);
    assert_eq!(vmm.set_log(&Shared::new(0x10)), None);
    drop(vmm);
    daemon.boot(ONE_QUEUE, BASIC).assert_serves(Q);
}

#[test]
fn a_region_beyond_the_log_is_refused() {
    let daemon = Daemon::plain();
    let vmm = daemon.connect();
    vmm.negotiate(BASIC);
    vmm.set_mem_table(&[(0, HALF)]);
    let log = Shared::new(HALF / 0x1000 / 8);
    vmm.set_log(&log).unwrap();
    vmm.set_features(BASIC | F_LOG_ALL);
    assert_eq!(vmm.add_region((HALF, HALF)), Some(false));
    drop(vmm);
    daemon.boot(ONE_QUEUE, BASIC).assert_serves(Q);
}
