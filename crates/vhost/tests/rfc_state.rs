//! The state protocol of 2023, as a front-end speaks it that follows the RFC, and as
//! one that does not.

mod common;

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use common::*;
use ferryfs_vhost::DeviceConfig;
use rustix::fs::{fcntl_add_seals, ftruncate, memfd_create, MemfdFlags, SealFlags};

const SET_STATE_FD: u32 = 41;
const GET_STATE: u32 = 42;
const SET_STATE: u32 = 43;
/// As QEMU's patch has it.
const CHUNK: u64 = 4 << 20;
const Q: u16 = 1;

fn daemon() -> Daemon {
    let config = DeviceConfig {
        rfc_state_protocol: true,
        ..DeviceConfig::default()
    };
    Daemon::start(config, true)
}

fn connected(daemon: &Daemon) -> Vmm {
    let vmm = daemon.connect();
    vmm.negotiate(BASIC);
    vmm
}

fn memfd(size: u64, seals: SealFlags) -> File {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = memfd_create("vhost-fs-state", flags).unwrap();
    ftruncate(&fd, size).unwrap();
    fcntl_add_seals(&fd, seals).unwrap();
    fd.into()
}

fn sealed(size: u64) -> File {
    memfd(size, SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW)
}

fn two(offset: u64, size: u64) -> Vec<u8> {
    [offset.to_ne_bytes(), size.to_ne_bytes()].concat()
}

fn attach(vmm: &Vmm, area: &File, size: u64) -> bool {
    vmm.ack(SET_STATE_FD, &size.to_ne_bytes(), &[area.as_fd()])
        .unwrap()
}

fn detach(vmm: &Vmm) -> bool {
    vmm.ack(SET_STATE_FD, &[0; 8], &[]).unwrap()
}

/// What is left from `offset` on, or `None` for a failure.
fn get(vmm: &Vmm, offset: u64, size: u64) -> Option<u64> {
    vmm.send(GET_STATE, 0, &two(offset, size), &[]);
    let (request, payload) = vmm.receive().unwrap();
    assert_eq!((request, payload.len()), (GET_STATE, 16));
    assert_eq!(payload[..8], offset.to_ne_bytes());
    let left = u64::from_ne_bytes(payload[8..].try_into().unwrap());
    (left <= i64::MAX as u64).then_some(left)
}

fn set(vmm: &Vmm, offset: u64, size: u64) -> bool {
    vmm.ack(SET_STATE, &two(offset, size), &[]).unwrap()
}

fn state_of(size: u64) -> Vec<u8> {
    (0..size).map(|i| (i * 7 + (i >> 13)) as u8).collect()
}

/// The save loop of QEMU's patch: on while a whole chunk came.
fn save(vmm: &Vmm, area: &File) -> (Vec<u8>, usize) {
    let (mut state, mut asked) = (Vec::new(), 0);
    loop {
        let left = get(vmm, state.len() as u64, CHUNK).expect("a piece");
        asked += 1;
        let mut piece = vec![0; left.min(CHUNK) as usize];
        area.read_exact_at(&mut piece, 0).unwrap();
        state.extend(piece);
        if left < CHUNK {
            return (state, asked);
        }
    }
}

/// The load loop of QEMU's patch: at least one piece, be it empty.
fn load(vmm: &Vmm, area: &File, state: &[u8]) {
    let mut offset = 0;
    loop {
        let piece = &state[offset..state.len().min(offset + CHUNK as usize)];
        area.write_all_at(piece, 0).unwrap();
        assert!(set(vmm, offset as u64, piece.len() as u64));
        offset += piece.len();
        if offset == state.len() {
            return;
        }
    }
}

#[test]
fn states_of_all_sizes_cross() {
    for (size, pieces) in [
        (0, 1),
        (1, 1),
        (CHUNK - 1, 1),
        // A whole number of chunks is followed by an empty one.
        (CHUNK, 2),
        (2 * CHUNK, 3),
        (100 << 20, 26),
    ] {
        let (source, destination) = (daemon(), daemon());
        let state = state_of(size);
        source.server.with(|s| s.stream = state.clone());
        let vmm = connected(&source);
        let area = sealed(CHUNK);
        assert!(attach(&vmm, &area, CHUNK));
        let (saved, asked) = save(&vmm, &area);
        assert!(saved == state, "{size}");
        assert_eq!(asked, pieces, "{size}");
        assert!(detach(&vmm));

        let vmm = connected(&destination);
        let area = sealed(CHUNK);
        assert!(attach(&vmm, &area, CHUNK));
        load(&vmm, &area, &saved);
        assert!(detach(&vmm), "{size}");
        assert!(destination.server.with(|s| s.stream == state), "{size}");
        assert_eq!(destination.server.calls().last(), Some(&"load"), "{size}");
    }
}

#[test]
fn both_protocols_are_spoken_on_one_connection() {
    let daemon = daemon();
    daemon.server.with(|s| s.stream = b"state".to_vec());
    let vmm = connected(&daemon);
    let area = sealed(CHUNK);
    assert!(attach(&vmm, &area, CHUNK));
    assert_eq!(get(&vmm, 0, CHUNK), Some(5));
    // Today's 42 and 43.
    let (mut read, write) = pipe();
    assert_eq!(vmm.set_device_state(SAVE, write.as_fd()), 0x100);
    drop(write);
    let mut state = String::new();
    std::io::Read::read_to_string(&mut read, &mut state).unwrap();
    assert_eq!((state.as_str(), vmm.check_device_state()), ("state", 0));
    // Pieces can be had in any order, and again.
    assert_eq!(get(&vmm, 3, 1), Some(2));
    assert_eq!(get(&vmm, 0, 2), Some(5));
    assert_eq!(get(&vmm, 5, CHUNK), Some(0));
    assert!(detach(&vmm));
}

#[test]
fn areas_that_could_betray_are_refused() {
    let vmm = daemon();
    let daemon = vmm;
    let vmm = connected(&daemon);
    let plain = tempfile::tempfile().unwrap();
    plain.set_len(CHUNK).unwrap();
    assert!(!attach(&vmm, &plain, CHUNK), "no memfd");
    assert!(
        !attach(&vmm, &memfd(CHUNK, SealFlags::GROW), CHUNK),
        "can shrink"
    );
    assert!(!attach(&vmm, &sealed(CHUNK - 1), CHUNK), "too small");
    assert!(!attach(&vmm, &sealed(CHUNK), u64::MAX), "far too small");
    assert_eq!(get(&vmm, 0, 0), None, "nothing is attached after all that");
    assert!(attach(&vmm, &sealed(CHUNK), CHUNK));
    assert!(detach(&vmm));
}

#[test]
fn what_is_out_of_order_has_an_answer() {
    let daemon = daemon();
    daemon.server.with(|s| s.stream = state_of(100));
    let vmm = connected(&daemon);
    let area = sealed(CHUNK);
    // Nothing attached.
    assert!(!detach(&vmm));
    assert_eq!(get(&vmm, 0, 1), None);
    assert!(!set(&vmm, 0, 1));
    // A load that has been refused a piece stays refused until it is detached.
    assert!(!detach(&vmm));

    assert!(attach(&vmm, &area, CHUNK));
    assert_eq!(get(&vmm, 0, CHUNK + 1), None, "more than the area holds");
    assert_eq!(get(&vmm, 101, 1), None, "beyond the end");
    assert_eq!(get(&vmm, u64::MAX, 1), None);
    assert_eq!(get(&vmm, 100, 1), Some(0));
    // Attached again, the save goes on in the other area.
    let other = sealed(8);
    assert!(attach(&vmm, &other, 8));
    assert_eq!(get(&vmm, 90, 8), Some(10));
    let mut piece = [0; 8];
    other.read_exact_at(&mut piece, 0).unwrap();
    assert_eq!(piece[..], state_of(98)[90..]);
    assert!(!set(&vmm, 0, 8), "a save is no load");
    assert!(detach(&vmm));

    for pieces in [
        &[(8, 8)][..],
        &[(0, 8), (16, 8)],
        &[(0, 8), (0, 8)],
        &[(0, 8), (u64::MAX - 3, 8)],
        &[(0, u64::MAX)],
        &[(0, CHUNK + 1)],
    ] {
        assert!(attach(&vmm, &area, CHUNK));
        let (last, first) = pieces.split_last().unwrap();
        for &(offset, size) in first {
            assert!(set(&vmm, offset, size));
        }
        assert!(!set(&vmm, last.0, last.1), "{pieces:?}");
        assert!(!set(&vmm, 8, 8), "{pieces:?}: it has failed already");
        assert_eq!(get(&vmm, 0, 8), None, "{pieces:?}");
        assert!(!detach(&vmm), "{pieces:?}");
    }
    assert!(
        daemon.server.with(|s| s.stream == state_of(100)),
        "nothing was loaded"
    );

    // And after all that a good one.
    assert!(attach(&vmm, &area, CHUNK));
    load(&vmm, &area, b"good");
    assert!(detach(&vmm));
    assert_eq!(daemon.server.with(|s| s.stream.clone()), b"good");
}

#[test]
fn a_state_that_is_refused_shows_when_the_area_goes() {
    let daemon = daemon();
    let vmm = connected(&daemon);
    let area = sealed(CHUNK);
    for _ in 0..2 {
        assert!(attach(&vmm, &area, CHUNK));
        load(&vmm, &area, b"corrupt");
        assert!(!detach(&vmm));
    }
    assert!(attach(&vmm, &area, CHUNK));
    load(&vmm, &area, b"good");
    assert!(detach(&vmm));
    drop(vmm);
    // Nobody to tell: the front-end is hung up on.
    let vmm = connected(&daemon);
    let size = CHUNK.to_ne_bytes();
    vmm.send(SET_STATE_FD, 0, &size, &[area.as_fd()]);
    area.write_all_at(b"corrupt", 0).unwrap();
    vmm.send(SET_STATE, 0, &two(0, 7), &[]);
    vmm.send(SET_STATE_FD, 0, &[0; 8], &[]);
    assert!(vmm.hung_up_on());
}

#[test]
fn a_running_device_is_neither_saved_nor_loaded() {
    let daemon = daemon();
    let mut vmm = daemon.boot(2, BASIC);
    let area = sealed(CHUNK);
    assert!(attach(&vmm, &area, CHUNK));
    assert_eq!(get(&vmm, 0, CHUNK), None);
    assert!(!set(&vmm, 0, 1));
    assert!(!detach(&vmm));
    vmm.stop_queue(0);
    vmm.stop_queue(Q);
    assert!(attach(&vmm, &area, CHUNK));
    assert_eq!(get(&vmm, 0, CHUNK), Some(0));
    assert!(detach(&vmm));
    vmm.start_queue(Q, 0);
    vmm.assert_serves(Q);
}

#[test]
fn a_failed_save_is_told_and_can_be_tried_again() {
    let daemon = daemon();
    let vmm = connected(&daemon);
    let area = sealed(CHUNK);
    assert!(attach(&vmm, &area, CHUNK));
    daemon.server.with(|s| s.saving_fails = true);
    assert_eq!(get(&vmm, 0, CHUNK), None);
    daemon.server.with(|s| {
        s.saving_fails = false;
        s.stream = b"state".to_vec();
    });
    assert_eq!(get(&vmm, 0, CHUNK), Some(5));
    assert!(detach(&vmm));
}

#[test]
fn a_front_end_may_go_in_the_midst_of_a_load() {
    let daemon = daemon();
    let vmm = connected(&daemon);
    let area = sealed(CHUNK);
    assert!(attach(&vmm, &area, CHUNK));
    assert!(set(&vmm, 0, 100));
    drop(vmm);
    let vmm = connected(&daemon);
    assert_eq!(get(&vmm, 0, 1), None, "the area went with its front-end");
    assert!(attach(&vmm, &area, CHUNK));
    load(&vmm, &area, b"good");
    assert!(detach(&vmm));
}

#[test]
fn without_the_option_the_old_meaning_is_refused() {
    let daemon = Daemon::plain();
    let area = sealed(CHUNK);
    let vmm = connected(&daemon);
    vmm.send(SET_STATE_FD, 8, &CHUNK.to_ne_bytes(), &[area.as_fd()]);
    assert!(vmm.hung_up_on());
    for request in [GET_STATE, SET_STATE] {
        let vmm = connected(&daemon);
        vmm.send(request, 8, &two(0, 1), &[]);
        assert!(vmm.hung_up_on(), "{request}");
    }
    // With it, what has neither shape.
    let daemon = self::daemon();
    for (request, payload, fd) in [
        (SET_STATE_FD, &two(0, 1)[..], true),
        (SET_STATE_FD, &CHUNK.to_ne_bytes()[..], false),
        (GET_STATE, &two(0, 1)[..], true),
        (SET_STATE, &[0; 8][..], false),
    ] {
        let vmm = connected(&daemon);
        let fds = if fd { vec![area.as_fd()] } else { vec![] };
        vmm.send(request, 8, payload, &fds);
        assert!(vmm.hung_up_on(), "{request}");
    }
    connected(&daemon);
}
