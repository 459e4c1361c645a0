//! Memory, the dirty log, stopped rings, and a machine that moves between two stock
//! daemons.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use common::Share;
use ferryfs_frontend::call::{self, InitRequest};
use ferryfs_frontend::fuse::ROOT_ID;
use ferryfs_frontend::memory::{RegionConfig, PAGE_SIZE};
use ferryfs_frontend::state::{read_qemu_framed, write_qemu_framed};
use ferryfs_frontend::vmm::{LoadOrder, Vm, VmConfig, VmError};

const RDWR: u32 = libc::O_RDWR as u32;
const MIB: u64 = 1 << 20;

#[test]
fn buffers_in_several_regions_and_a_hot_added_one() {
    let Some(share) = Share::new() else { return };
    let content: Vec<u8> = (0..100_000u32).map(|i| (i % 253) as u8).collect();
    std::fs::write(share.path().join("data"), &content).expect("write");
    let daemon = share.daemon(&[]);
    let regions = [(0, 4 * MIB), (16 * MIB, 4 * MIB), (1 << 32, 8 * MIB)];
    let memory = regions
        .map(|(gpa, size)| RegionConfig { gpa, size })
        .to_vec();
    let config = VmConfig {
        memory,
        ..VmConfig::default()
    };
    let mut vm = Vm::boot_with(daemon.socket(), config).expect("boot");
    let fs = vm.client();
    let file = fs.lookup(ROOT_ID, "data").expect("lookup").nodeid;
    let fh = fs.open(file, libc::O_RDONLY as u32).expect("open").fh;
    let added = RegionConfig {
        gpa: 2 << 32,
        size: 2 * MIB,
    };
    vm.hot_add(added).expect("hot add");
    for gpa in regions.map(|r| r.0).into_iter().chain([added.gpa]) {
        let sink = Arc::new(vm.memory().alloc_in(gpa, content.len()).expect("alloc"));
        assert_eq!(
            fs.read_into(file, fh, 0, 100_000, &sink).expect("read"),
            content.len()
        );
        assert!(sink.to_vec(0, content.len()) == content, "region {gpa:#x}");
    }
    vm.hot_add(added).expect_err("overlap");
    vm.hot_remove(added.gpa).expect("hot remove");
    assert_eq!(vm.memory().regions().len(), 3);
    fs.getattr(file, Some(fh)).expect("still alive");
}

#[test]
fn the_dirty_log_shows_the_pages_that_were_written() {
    let Some(share) = Share::new() else { return };
    std::fs::write(share.path().join("data"), vec![7; 64 << 10]).expect("write");
    let daemon = share.daemon(&[]);
    let mut vm = Vm::boot(daemon.socket()).expect("boot");
    let fs = vm.client();
    let file = fs.lookup(ROOT_ID, "data").expect("lookup").nodeid;
    let fh = fs.open(file, libc::O_RDONLY as u32).expect("open").fh;
    vm.start_precopy().expect("precopy");
    vm.dirty_log().expect("log").take();
    let sink = Arc::new(vm.memory().alloc(64 << 10).expect("alloc"));
    // Three pages and a byte of the fourth.
    let n = fs
        .read_into(file, fh, 0, 3 * 4096 + 1, &sink)
        .expect("read");
    assert_eq!(n, 3 * 4096 + 1);

    let dirty: BTreeSet<u64> = vm.dirty_log().expect("log").take().into_iter().collect();
    let data: BTreeSet<u64> = (0..4).map(|i| sink.gpa() + i * PAGE_SIZE).collect();
    let (used, avail, desc) = vm.queues()[1].with(|q| {
        let ring = q.ring();
        (ring.used_gpa(), ring.avail_gpa(), ring.desc_gpa())
    });
    assert!(data.is_subset(&dirty), "{dirty:x?}");
    assert!(dirty.contains(&used));
    assert!(!dirty.contains(&avail) && !dirty.contains(&desc));
    // What is left is the page with the reply's header.
    assert_eq!(dirty.len(), 6, "{dirty:x?}");
    assert!(vm.dirty_log().expect("log").peek().is_empty());

    // Memory beyond the log makes it grow, and what was in it stays.
    fs.getattr(file, None).expect("getattr");
    let far = RegionConfig {
        gpa: 1 << 34,
        size: MIB,
    };
    vm.hot_add(far).expect("hot add");
    let log = vm.dirty_log().expect("log");
    assert!(log.end() >= far.gpa + far.size);
    assert!(log.take().contains(&used));
    let sink = Arc::new(vm.memory().alloc_in(far.gpa, 4096).expect("alloc"));
    fs.read_into(file, fh, 0, 4096, &sink).expect("read");
    assert!(vm.dirty_log().expect("log").take().contains(&sink.gpa()));

    vm.cancel_precopy().expect("cancel");
    assert!(vm.dirty_log().is_none());
    fs.getattr(file, None).expect("goes on");
}

#[test]
fn a_stopped_ring_goes_on_where_it_stopped() {
    let Some(share) = Share::new() else { return };
    let daemon = share.daemon(&[]);
    for event_idx in [true, false] {
        let daemon = if event_idx {
            &daemon
        } else {
            &share.daemon(&[])
        };
        let config = VmConfig {
            event_idx,
            queue_size: 8,
            ..VmConfig::default()
        };
        let mut vm = Vm::boot_with(daemon.socket(), config).expect("boot");
        let fs = vm.client();
        for _ in 0..10 {
            fs.getattr(ROOT_ID, None).expect("getattr");
        }
        let bases = vm.stop().expect("stop");
        // INIT and ten requests, all answered.
        assert_eq!(bases, [0, 11]);
        assert!(!vm.is_running());
        assert!(matches!(vm.stop(), Err(VmError::WrongState { .. })));
        // Left in the ring, unseen by the daemon.
        let left = fs.submit(call::lookup(ROOT_ID, b"absent")).expect("submit");
        std::thread::sleep(Duration::from_millis(20));
        assert!(!left.is_done().expect("queue is sane"));
        vm.resume().expect("resume");
        assert_eq!(
            left.wait().expect_err("no such file").errno(),
            Some(libc::ENOENT)
        );
        assert_eq!(vm.stop().expect("stop"), [0, 12]);
    }
}

#[test]
fn a_machine_moves_with_its_open_files() {
    let Some(share) = Share::new() else { return };
    std::fs::create_dir(share.path().join("d")).expect("mkdir");
    std::fs::write(share.path().join("d/old"), b"before").expect("write");
    for load_order in [LoadOrder::First, LoadOrder::AfterMemory] {
        let (source, destination) = (share.daemon(&[]), share.daemon(&[]));
        let config = VmConfig {
            load_order,
            ..VmConfig::default()
        };
        let mut vm = Vm::boot_with(source.socket(), config).expect("boot");
        let fs = vm.client();
        let old = fs.lookup_path(ROOT_ID, "d/old").expect("lookup").nodeid;
        let old_fh = fs.open(old, libc::O_RDONLY as u32).expect("open").fh;
        let name = format!("new-{load_order:?}");
        let (new, handle) = fs.create(ROOT_ID, &name, RDWR, 0o600).expect("create");
        fs.write(new.nodeid, handle.fh, 0, b"from A")
            .expect("write");

        vm.start_precopy().expect("precopy");
        fs.write(new.nodeid, handle.fh, 6, b", still A")
            .expect("write");
        vm.stop().expect("stop");
        // A request the source never sees crosses in the ring.
        let left = fs.submit(call::getattr(old, None)).expect("submit");
        let mut state = Vec::new();
        let size = vm.save_state_to(&mut state).expect("save");
        assert!(size > 0 && size == state.len());
        let mut file = Vec::new();
        write_qemu_framed(&state, &mut file).expect("frame");
        let state = read_qemu_framed(&mut file.as_slice(), MIB).expect("unframe");
        drop(
            vm.resume_on(destination.socket(), Some(&state))
                .expect("resume"),
        );
        drop(source);

        assert_eq!(
            left.wait().expect("answered by the destination").attr.size,
            6
        );
        assert_eq!(fs.read(old, old_fh, 0, 100).expect("read"), b"before");
        fs.write(new.nodeid, handle.fh, 15, b", now B")
            .expect("write");
        let on_disk = std::fs::read(share.path().join(&name)).expect("read");
        assert_eq!(on_disk, b"from A, still A, now B");
        fs.forget(new.nodeid, 1)
            .expect("the high-priority queue works too");
    }
}

#[test]
fn a_migration_that_fails_leaves_the_machine_where_it_was() {
    let Some(share) = Share::new() else { return };
    let source = share.daemon(&[]);
    let mut vm = Vm::boot(source.socket()).expect("boot");
    let fs = vm.client();
    let (file, handle) = fs.create(ROOT_ID, "f", RDWR, 0o600).expect("create");
    assert!(matches!(vm.save_state(), Err(VmError::WrongState { .. })));

    // A destination that cannot make sense of the state.
    let bad = share.daemon(&[]);
    vm.start_precopy().expect("precopy");
    vm.stop().expect("stop");
    vm.save_state().expect("save");
    let error = vm
        .resume_on(bad.socket(), Some(b"\xff\xff\xff no state"))
        .expect_err("nonsense");
    let error = std::error::Error::source(&error)
        .expect("source")
        .to_string();
    assert!(error.contains("CHECK_DEVICE_STATE answered 0x1"), "{error}");
    vm.cancel_precopy().expect("cancel");
    vm.resume().expect("resume");
    fs.write(file.nodeid, handle.fh, 0, b"still here")
        .expect("write");
    assert_eq!(
        std::fs::read(share.path().join("f")).expect("read"),
        b"still here"
    );

    // Nobody listens.
    let error = vm
        .migrate_to("/nonexistent/socket")
        .expect_err("nobody there");
    assert_eq!(error.to_string(), "connecting");
    fs.getattr(file.nodeid, Some(handle.fh)).expect("goes on");

    // The same machine still migrates, and from there once more.
    let mut hosts = Vec::new();
    for _ in 0..2 {
        let next = share.daemon(&[]);
        vm.migrate_to(next.socket()).expect("migrate");
        assert!(vm.is_running() && vm.dirty_log().is_none());
        fs.write(file.nodeid, handle.fh, 0, b"somewhere else")
            .expect("write");
        hosts.push(next);
    }
    assert_eq!(
        std::fs::read(share.path().join("f")).expect("read"),
        b"somewhere else"
    );
}

#[test]
fn a_reboot_starts_over() {
    let Some(share) = Share::new() else { return };
    let daemon = share.daemon(&[]);
    let mut vm = Vm::boot(daemon.socket()).expect("boot");
    let fs = vm.client();
    let (file, handle) = fs.create(ROOT_ID, "f", RDWR, 0o600).expect("create");
    vm.reboot().expect("reboot");
    let error = fs
        .read(file.nodeid, handle.fh, 0, 1)
        .expect_err("the handle is gone");
    assert_eq!(error.errno(), Some(libc::EBADF));
    fs.lookup(ROOT_ID, "f").expect("the file is not");
}

#[test]
fn a_daemon_that_dies_is_an_error_not_a_hang() {
    let Some(share) = Share::new() else { return };
    let mut daemon = share.daemon(&[]);
    let config = VmConfig {
        timeout: Duration::from_secs(2),
        ..VmConfig::default()
    };
    let mut vm = Vm::boot_with(daemon.socket(), config).expect("boot");
    let fs = vm.client().with_timeout(Duration::from_millis(200));
    daemon.kill().expect("kill");
    let error = fs.getattr(ROOT_ID, None).expect_err("nobody answers");
    assert_eq!(error.to_string(), "GETATTR of node 1 got no answer");
    let error = vm.stop().expect_err("nobody answers");
    assert_eq!(error.to_string(), "disabling a ring");

    // The next daemon answers what the first one left in the ring.
    let next = share.daemon(&[]);
    let left = fs.with_timeout(Duration::from_secs(20));
    let left = left
        .submit(call::init(&InitRequest::default()))
        .expect("submit");
    assert_eq!(vm.take_back().expect("take back"), [0, 1]);
    vm.resume_on(next.socket(), None).expect("resume");
    assert_eq!(
        left.wait().expect("a session with the next daemon").major,
        7
    );
    vm.client().getattr(ROOT_ID, None).expect("goes on");
}
