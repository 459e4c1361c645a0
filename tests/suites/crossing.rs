//! Machines that move between daemons: what crosses, in every format and mode.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

use ferryfs_frontend::call::{self, Payload};
use ferryfs_frontend::fuse::{Attr, ATTR_SUBMOUNT, ROOT_ID};
use ferryfs_frontend::memory::{GuestBuffer, PAGE_SIZE};
use ferryfs_frontend::queue::Segment;
use ferryfs_frontend::spawn::Daemon;
use ferryfs_frontend::vmm::LoadOrder;
use ferryfs_frontend::{encode_rdev, Vm, VmConfig};
use ferryfs_tests::script::pattern;
use ferryfs_tests::{errno, eventually, host, mounts, programs, text, Guest, Host, FORMATS, MODES};

/// File handles need CAP_DAC_READ_SEARCH.
fn modes() -> &'static [&'static str] {
    match programs::is_root("--migration-mode file-handles") {
        true => &MODES,
        false => &MODES[..1],
    }
}

#[track_caller]
fn migrate(vm: &mut Vm, to: &Daemon) {
    if let Err(error) = vm.migrate_to(to.socket()) {
        panic!("{}\ndestination:\n{}", text(&error), to.stderr());
    }
}

/// What of an inode must be the same before and after, and as on disk.
fn identity(attr: &Attr) -> (u64, u32, u64, u32, u32, u32) {
    (
        attr.ino, attr.mode, attr.size, attr.uid, attr.gid, attr.rdev,
    )
}

#[test]
fn everything_a_guest_has_crosses_and_comes_back() {
    let cases = FORMATS
        .iter()
        .flat_map(|format| modes().iter().map(move |mode| (format, mode)))
        .zip(
            ["prefer", "never"]
                .into_iter()
                .cycle()
                .flat_map(|kind| [kind; 3]),
        );
    for ((format, mode), inodes) in cases {
        let inodes = format!("--inode-file-handles={inodes}");
        chain(&["--state-format", format, "--migration-mode", mode, &inodes]);
    }
}

/// A to B to C to A, with a bit of everything.
fn chain(options: &[&str]) {
    let host = Host::new();
    let root = rustix::process::geteuid().is_root();
    fs::create_dir(host.at("d")).expect("mkdir");
    let odd: &[u8] = b"\xff\xfe not utf-8 \n (deleted)";
    fs::write(host.at("d").join(OsStr::from_bytes(odd)), "odd").expect("write");
    fs::write(host.at("d/data"), pattern(200_000)).expect("write");
    fs::write(host.at("d/secret"), "mode 000").expect("write");
    fs::create_dir(host.at("d/closed")).expect("mkdir");
    fs::write(host.at("d/closed/inside"), "inside").expect("write");
    std::os::unix::fs::symlink("data", host.at("d/link")).expect("symlink");
    std::os::unix::fs::symlink("../../sentinel", host.at("d/out")).expect("symlink");

    let mut daemons: Vec<_> = (0..3)
        .map(|_| {
            let mut all = vec!["--keep-listening", "--xattr"];
            all.extend(options);
            host.daemon(&all)
        })
        .collect();
    let mut vm = Vm::boot(daemons[0].socket()).expect("boot");
    let mut guest = Guest::of(&vm);
    let d = guest.walk("d").nodeid;
    let fifo = guest.mknod(d, "fifo", libc::S_IFIFO | 0o644, 0);
    guest.entry(fifo).expect("MKNOD");
    if root {
        let null = guest.mknod(d, "null", libc::S_IFCHR | 0o666, encode_rdev(1, 3));
        guest.entry(null).expect("MKNOD");
    }
    let secret = guest.open_path("d/secret", libc::O_RDWR);
    let data = guest.open_path("d/data", libc::O_RDWR);
    let odd_file = guest.open_path([b"d/", odd].concat(), libc::O_RDONLY);
    for mode_zero in ["d/secret", "d/closed"] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o000);
        fs::set_permissions(host.at(mode_zero), mode).expect("chmod");
    }
    let mut names: Vec<&[u8]> = vec![b"data", b"secret", b"link", b"out", b"fifo", odd];
    if root {
        names.extend([b"null".as_slice(), b"closed"]);
        guest.walk("d/closed/inside");
    }
    let held: Vec<_> = names
        .iter()
        .map(|name| (*name, guest.walk([b"d/".as_slice(), name].concat())))
        .collect();

    for (hop, to) in [1, 2, 0].into_iter().enumerate() {
        let place = format!("hop {hop} with {options:?}");
        migrate(&mut vm, &daemons[to]);
        for (name, entry) in &held {
            let disk = fs::symlink_metadata(host.at("d").join(OsStr::from_bytes(name)));
            let disk = disk.expect("on disk");
            let now = guest.getattr(entry.nodeid, None).expect("GETATTR").attr;
            assert_eq!(
                identity(&now).0,
                disk.ino(),
                "{place}: {}",
                name.escape_ascii()
            );
            assert_eq!(now.size, disk.size(), "{place}");
            assert_eq!(now.mode, disk.mode(), "{place}");
            let found = guest.walk([b"d/".as_slice(), name].concat());
            assert_eq!(
                found.nodeid,
                entry.nodeid,
                "{place}: {}",
                name.escape_ascii()
            );
            assert_eq!(identity(&found.attr), identity(&now), "{place}");
        }
        let by_name = |name: &[u8]| held.iter().find(|(n, _)| *n == name).expect("held").1;
        let target = guest.readlink(by_name(b"out").nodeid).expect("READLINK");
        assert_eq!(target, b"../../sentinel", "{place}");
        assert_ne!(errno(guest.open(by_name(b"fifo").nodeid, 0)), 0, "{place}");

        let at = 1000 * hop as u64;
        let read = guest.read(data.0, data.1, at + 5000, 100).expect("READ");
        assert_eq!(
            read,
            pattern(200_000)[5000 + at as usize..][..100],
            "{place}"
        );
        let stamp = format!("hop {hop}");
        guest
            .write(data.0, data.1, at, stamp.as_bytes())
            .expect("WRITE");
        guest
            .write(secret.0, secret.1, 0, stamp.as_bytes())
            .expect("WRITE");
        assert_eq!(
            guest.read(odd_file.0, odd_file.1, 0, 9).expect("READ"),
            b"odd"
        );
        let mut bytes = vec![0; stamp.len()];
        let file = fs::File::open(host.at("d/data")).expect("open");
        file.read_exact_at(&mut bytes, at).expect("read");
        assert_eq!(bytes, stamp.as_bytes(), "{place}");
    }
    // What the guest looked up, once more and not less, it can give back.
    let data_lookups = guest.lookups()[&data.0];
    assert!(data_lookups > 4);
    guest.forget(data.0, data_lookups - 1).expect("FORGET");
    guest.getattr(data.0, None).expect("still known");
    guest.forget(data.0, 1).expect("FORGET");
    guest.release(data.0, data.1).expect("RELEASE");
    assert_ne!(errno(guest.getattr(data.0, None)), 0);
    for daemon in &mut daemons {
        host::assert_well(daemon);
        assert_eq!(host::lines(daemon, "ERROR"), [""; 0], "{options:?}");
    }
    host.assert_untouched_outside();
}

#[test]
fn paths_longer_than_path_max_cross() {
    for mode in modes() {
        for inodes in ["never", "prefer"] {
            let host = Host::new();
            let inodes = format!("--inode-file-handles={inodes}");
            let options = ["--migration-mode", mode, &inodes];
            let (source, mut destination) = (host.daemon(&options), host.daemon(&options));
            let mut vm = Vm::boot(source.socket()).expect("boot");
            let mut guest = Guest::of(&vm);
            let name = "n".repeat(250);
            let mut at = ROOT_ID;
            for _ in 0..20 {
                let made = guest.mkdir(at, &name, 0o755);
                at = guest.entry(made).expect("MKDIR").nodeid;
            }
            let made = guest.create(at, "deep", (libc::O_CREAT | libc::O_RDWR) as u32, 0o644);
            let (file, fh) = guest.created(made).expect("CREATE");
            migrate(&mut vm, &destination);
            guest
                .write(file.nodeid, fh, 0, b"deep down")
                .expect("WRITE");
            assert_eq!(
                guest.lookup(at, "deep").expect("LOOKUP").nodeid,
                file.nodeid
            );
            let path = vec![name.as_str(); 20].join("/");
            let parent = rustix::fs::open(
                host.share(),
                rustix::fs::OFlags::PATH,
                rustix::fs::Mode::empty(),
            );
            let mut parent = parent.expect("open");
            for component in path.split('/').chain(["deep"]) {
                let flags = rustix::fs::OFlags::RDONLY;
                parent = rustix::fs::openat(&parent, component, flags, rustix::fs::Mode::empty())
                    .expect("openat");
            }
            let mut bytes = [0; 9];
            fs::File::from(parent)
                .read_exact_at(&mut bytes, 0)
                .expect("read");
            assert_eq!(&bytes, b"deep down");
            host::assert_well(&mut destination);
        }
    }
}

#[test]
fn two_thousand_open_files_cross() {
    for mode in modes() {
        let host = Host::new();
        for i in 0..2000 {
            fs::write(host.at(format!("f{i}")), format!("file {i}")).expect("write");
        }
        let options = ["--migration-mode", mode, "--inode-file-handles=never"];
        let (source, mut destination) = (host.daemon(&options), host.daemon(&options));
        let mut vm = Vm::boot(source.socket()).expect("boot");
        let mut guest = Guest::of(&vm);
        let files: Vec<_> = (0..2000)
            .map(|i| guest.open_path(format!("f{i}"), libc::O_RDWR))
            .collect();
        let handles: BTreeSet<_> = files.iter().map(|(_, fh)| *fh).collect();
        assert_eq!(handles.len(), 2000);
        migrate(&mut vm, &destination);
        for (i, (node, fh)) in files.iter().enumerate() {
            let read = guest.read(*node, *fh, 0, 100).expect("READ");
            assert_eq!(read, format!("file {i}").as_bytes());
            guest.write(*node, *fh, 0, b"FILE").expect("WRITE");
        }
        // A new file gets neither a number nor a handle that is in use.
        let made = guest.create(ROOT_ID, "new", (libc::O_CREAT | libc::O_RDWR) as u32, 0o644);
        let (new, fh) = guest.created(made).expect("CREATE");
        assert!(!handles.contains(&fh) && files.iter().all(|(node, _)| *node != new.nodeid));
        for i in 0..2000 {
            let bytes = fs::read(host.at(format!("f{i}"))).expect("read");
            assert_eq!(bytes, format!("FILE {i}").as_bytes());
        }
        guest.let_go();
        host::assert_well(&mut destination);
    }
}

#[test]
fn a_mount_below_the_share_crosses() {
    if !programs::is_root("mounting") {
        return;
    }
    // On a thread of its own: the namespace is the thread's, and ends with it.
    std::thread::spawn(|| {
        if let Err(error) = mounts::own_namespace() {
            println!("skipped: no mount namespace: {error}");
            return;
        }
        for mode in MODES {
            let host = Host::new();
            let below = host.at("dir/below");
            fs::create_dir_all(&below).expect("mkdir");
            mounts::tmpfs(&below).expect("mount");
            fs::write(below.join("file"), "on another file system").expect("write");
            // So that inode numbers alone do not tell the two apart.
            fs::create_dir(below.join("dir")).expect("mkdir");
            let options = ["--migration-mode", mode];
            let (source, mut destination) = (host.daemon(&options), host.daemon(&options));
            let mut vm = Vm::boot(source.socket()).expect("boot");
            let mut guest = Guest::of(&vm);
            let mount = guest.walk("dir/below");
            assert_eq!(mount.attr.flags & ATTR_SUBMOUNT, ATTR_SUBMOUNT);
            let file = guest.open_path("dir/below/file", libc::O_RDWR);
            migrate(&mut vm, &destination);
            let again = guest.walk("dir/below");
            assert_eq!(again.nodeid, mount.nodeid, "{mode}");
            assert_eq!(again.attr.flags & ATTR_SUBMOUNT, ATTR_SUBMOUNT, "{mode}");
            let read = guest.read(file.0, file.1, 0, 100).expect("READ");
            assert_eq!(read, b"on another file system", "{mode}");
            assert_eq!(guest.walk("dir/below/file").nodeid, file.0, "{mode}");
            let made = guest.mkdir(mount.nodeid, "made", 0o755).expect("MKDIR");
            let disk = fs::metadata(below.join("made")).expect("on disk");
            assert_eq!(made.attr.ino, disk.ino(), "{mode}");
            let whole = guest.statfs(ROOT_ID).expect("STATFS");
            let part = guest.statfs(mount.nodeid).expect("STATFS");
            assert_ne!(whole.blocks, part.blocks, "{mode}");
            host::assert_well(&mut destination);
            drop((source, destination));
            mounts::unmount(&below).expect("umount");
        }
    })
    .join()
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// Writes in flight while the machine is stopped and moved, round after round.
#[test]
fn requests_in_flight_are_neither_lost_nor_done_twice() {
    const DEPTH: usize = 32;
    const SIZE: usize = 16 << 10;
    // Whether a new daemon is kicked, or must look into the ring by itself.
    for initial_kick in [true, false] {
        let host = Host::new();
        let daemons = [
            host.daemon(&["--keep-listening"]),
            host.daemon(&["--keep-listening"]),
        ];
        let config = VmConfig {
            queue_size: 64,
            initial_kick,
            ..VmConfig::default()
        };
        let mut vm = Vm::boot_with(daemons[0].socket(), config).expect("boot");
        let mut guest = Guest::of(&vm);
        let flags = libc::O_CREAT | libc::O_WRONLY;
        let made = guest.create(ROOT_ID, "places", flags as u32, 0o644);
        let (places, places_fh) = guest.created(made).expect("CREATE");
        let made = guest.create(ROOT_ID, "log", (flags | libc::O_APPEND) as u32, 0o644);
        let (log, log_fh) = guest.created(made).expect("CREATE");
        let block = |n: usize| {
            let mut block = vec![n as u8 ^ 0x5a; SIZE];
            block[..8].copy_from_slice(&(n as u64).to_le_bytes());
            block
        };
        let (mut submitted, mut stopped_in_the_middle) = (0, 0);
        for round in 0..12 {
            let mut pending = Vec::new();
            let mut submit = |vm: &Vm, count: usize| {
                for n in submitted..submitted + count {
                    let client = vm.client();
                    let append = libc::O_APPEND as u32;
                    let call = match n % 2 {
                        0 => {
                            let at = (n * SIZE) as u64;
                            let bytes = Payload::Bytes(block(n));
                            call::write(places.nodeid, places_fh, at, bytes, 0, 0)
                        }
                        _ => {
                            let bytes = Payload::Bytes(block(n));
                            call::write(log.nodeid, log_fh, 0, bytes, 0, append)
                        }
                    };
                    pending.push(client.submit(call).expect("submit"));
                }
                submitted += count;
            };
            submit(&vm, DEPTH / 2);
            vm.start_precopy().expect("precopy");
            submit(&vm, DEPTH / 4);
            let bases = vm.stop().expect("stop");
            // The stopped device does nothing about these.
            submit(&vm, DEPTH / 4);
            let used = vm.queues()[1].with(|queue| queue.ring().used_idx());
            assert_eq!(
                used, bases[1],
                "what was taken was not completed, or the reverse"
            );
            let waiting = vm.queues()[1]
                .with(|queue| queue.avail_idx())
                .wrapping_sub(bases[1]);
            assert!(usize::from(waiting) >= DEPTH / 4);
            stopped_in_the_middle += usize::from(usize::from(waiting) > DEPTH / 4);
            let state = vm.save_state().expect("save");
            assert_eq!(used, vm.queues()[1].with(|queue| queue.ring().used_idx()));
            // To the other daemon and back, and one time in three on the same one.
            if round % 3 == 2 {
                vm.cancel_precopy().expect("cancel");
                vm.resume().expect("resume");
            } else {
                let to = &daemons[usize::from(round % 3 == 0)];
                vm.resume_on(to.socket(), Some(&state)).expect("resume on");
            }
            for write in pending {
                assert_eq!(write.wait().expect("WRITE"), SIZE as u32);
            }
            assert_eq!(vm.queues()[1].with(|queue| queue.in_flight()), 0);
        }
        println!("stopped with requests not yet taken: {stopped_in_the_middle} of 12 times");

        let disk = fs::File::open(host.at("places")).expect("open");
        let mut bytes = vec![0; SIZE];
        for n in (0..submitted).step_by(2) {
            disk.read_exact_at(&mut bytes, (n * SIZE) as u64)
                .expect("read");
            assert!(bytes == block(n), "block {n} differs");
        }
        let log = fs::read(host.at("log")).expect("read");
        assert_eq!(log.len(), submitted / 2 * SIZE, "records lost or doubled");
        let mut seen = BTreeSet::new();
        for record in log.chunks(SIZE) {
            let n = u64::from_le_bytes(record[..8].try_into().expect("8 bytes")) as usize;
            assert!(record == block(n), "record {n} is torn");
            assert!(n % 2 == 1 && seen.insert(n), "record {n} came twice");
        }
    }
}

/// Names that change while they are being collected.
#[test]
fn renames_and_unlinks_during_precopy_are_followed() {
    for mode in modes() {
        let host = Host::new();
        for dir in ["a", "b", "a/deep"] {
            fs::create_dir(host.at(dir)).expect("mkdir");
        }
        for i in 0..200 {
            fs::write(host.at(format!("a/deep/{i}")), format!("file {i}")).expect("write");
        }
        let options = ["--migration-mode", mode];
        let (source, mut destination) = (host.daemon(&options), host.daemon(&options));
        let mut vm = Vm::boot(source.socket()).expect("boot");
        let mut guest = Guest::of(&vm);
        let (a, b) = (guest.walk("a").nodeid, guest.walk("b").nodeid);
        let deep = guest.walk("a/deep").nodeid;
        let files: Vec<_> = (0..200)
            .map(|i| guest.open_path(format!("a/deep/{i}"), libc::O_RDWR))
            .collect();
        vm.start_precopy().expect("precopy");
        // Directories move, files move, change places, and get new names.
        for i in 0..50 {
            guest
                .rename(deep, i.to_string(), b, format!("moved {i}"))
                .expect("RENAME");
        }
        guest.rename(a, "deep", b, "deeper").expect("RENAME");
        for i in (50..100).step_by(2) {
            let (one, other) = (i.to_string(), (i + 1).to_string());
            guest
                .rename2(deep, one, deep, other, libc::RENAME_EXCHANGE)
                .expect("RENAME2");
        }
        for (i, (node, _)) in files.iter().enumerate().take(150).skip(100) {
            guest
                .link(*node, ROOT_ID, format!("kept {i}"))
                .expect("LINK");
            guest.unlink(deep, i.to_string()).expect("UNLINK");
        }
        // Somebody else's file takes a name that was the guest's.
        fs::write(host.at("b/deeper/0"), "an impostor").expect("write");
        guest.release(files[199].0, files[199].1).expect("RELEASE");
        guest.unlink(deep, "199").expect("UNLINK");
        let made = guest.create(deep, "late", (libc::O_CREAT | libc::O_RDWR) as u32, 0o644);
        let (late, late_fh) = guest.created(made).expect("CREATE");
        migrate(&mut vm, &destination);
        for (i, (node, fh)) in files.iter().enumerate().take(199) {
            let read = guest.read(*node, *fh, 0, 100).expect("READ");
            assert_eq!(read, format!("file {i}").as_bytes(), "{mode}");
            let by_node = guest.open(*node, libc::O_RDONLY as u32).expect("OPEN");
            let read = guest.read(*node, by_node.fh, 0, 100).expect("READ");
            assert_eq!(read, format!("file {i}").as_bytes(), "{mode}");
        }
        guest
            .write(late.nodeid, late_fh, 0, b"late")
            .expect("WRITE");
        assert_eq!(fs::read(host.at("b/deeper/late")).expect("read"), b"late");
        assert_eq!(guest.walk("b/deeper").nodeid, deep);
        assert_eq!(
            guest.lookup(deep, "50").expect("LOOKUP").nodeid,
            files[51].0
        );
        let impostor = guest.lookup(deep, "0").expect("LOOKUP");
        assert!(files.iter().all(|(node, _)| *node != impostor.nodeid));
        assert_eq!(errno(guest.lookup(deep, "199")), libc::ENOENT);
        host::assert_well(&mut destination);
    }
}

#[test]
fn a_cancelled_migration_leaves_no_trace_and_can_be_tried_again() {
    for mode in modes() {
        let host = Host::new();
        fs::write(host.at("file"), "contents").expect("write");
        let options = ["--migration-mode", mode, "--keep-listening"];
        let (mut source, destination) = (host.daemon(&options), host.daemon(&options));
        let mut vm = Vm::boot(source.socket()).expect("boot");
        let mut guest = Guest::of(&vm);
        let (node, fh) = guest.open_path("file", libc::O_RDWR);
        for round in 0..3 {
            vm.start_precopy().expect("precopy");
            guest.write(node, fh, 0, b"contents").expect("WRITE");
            if round == 1 {
                // As far as the stop, and the state thrown away.
                vm.stop().expect("stop");
                assert!(!vm.save_state().expect("save").is_empty());
                vm.cancel_precopy().expect("cancel");
                vm.resume().expect("resume");
            } else {
                vm.cancel_precopy().expect("cancel");
            }
            // A name that is not UTF-8 is looked up as ever.
            let odd = b"\xff";
            fs::write(host.at(OsStr::from_bytes(odd)), "odd").expect("write");
            let found = guest.lookup(ROOT_ID, odd);
            guest.entry(found).expect("LOOKUP");
            guest.unlink(ROOT_ID, odd).expect("UNLINK");
            assert_eq!(guest.read(node, fh, 0, 100).expect("READ"), b"contents");
        }
        migrate(&mut vm, &destination);
        assert_eq!(guest.read(node, fh, 0, 100).expect("READ"), b"contents");
        assert_eq!(host::lines(&source, "ERROR"), [""; 0]);
        assert_eq!(host::lines(&source, "WARN"), [""; 0]);
        host::assert_well(&mut source);
    }
}

#[test]
fn a_state_from_a_file_serves_twice() {
    for format in FORMATS {
        let host = Host::new();
        fs::write(host.at("file"), "snapshot").expect("write");
        let options = ["--keep-listening", "--state-format", format];
        let source = host.daemon(&options);
        let mut vm = Vm::boot(source.socket()).expect("boot");
        let mut guest = Guest::of(&vm);
        let (node, fh) = guest.open_path("file", libc::O_RDWR);
        // Without precopy, as a snapshot is taken.
        vm.stop().expect("stop");
        let path = host.socket().with_extension("state");
        let mut file = fs::File::create(&path).expect("create");
        let bytes = vm.save_state_to(&mut file).expect("save");
        assert_eq!(bytes as u64, file.metadata().expect("metadata").len());
        let state = fs::read(&path).expect("read");
        for (round, order) in [LoadOrder::First, LoadOrder::AfterMemory]
            .into_iter()
            .enumerate()
        {
            let restored = host.daemon(&options);
            vm.config_mut().load_order = order;
            let moved = vm.resume_on(restored.socket(), Some(&state));
            drop(moved.expect("resume on"));
            let stamp = format!("{format} {round}");
            let wrote = guest.write(node, fh, 0, stamp.as_bytes());
            wrote.expect("WRITE");
            let disk = fs::read(host.at("file")).expect("read");
            assert_eq!(disk[..stamp.len()], *stamp.as_bytes());
            vm.stop().expect("stop");
            // The same state again, word for word: nothing has changed meanwhile.
            assert_eq!(vm.save_state().expect("save"), state, "{format}");
        }
    }
}

/// Pages in which `len` bytes at `gpa` lie.
fn pages(gpa: u64, len: u64) -> impl Iterator<Item = u64> {
    let last = (gpa + len - 1) / PAGE_SIZE;
    (gpa / PAGE_SIZE..=last).map(|page| page * PAGE_SIZE)
}

#[test]
fn the_dirty_log_has_exactly_the_pages_that_the_daemon_wrote() {
    let host = Host::new();
    fs::write(host.at("file"), pattern(70_000)).expect("write");
    let daemon = host.daemon(&["--keep-listening"]);
    for indirect in [true, false] {
        let config = VmConfig {
            indirect,
            ..VmConfig::default()
        };
        let mut vm = Vm::boot_with(daemon.socket(), config).expect("boot");
        let mut guest = Guest::of(&vm);
        let (node, fh) = guest.open_path("file", libc::O_RDWR);
        let memory = vm.memory().clone();
        let alloc = |len| -> GuestBuffer { memory.alloc(len).expect("memory") };
        let (request, head, data) = (alloc(4096), alloc(4096), alloc(128 << 10));
        let used_of = |index: usize| vm.queues()[index].with(|queue| queue.ring().used_gpa());
        let used = used_of(1);
        // Another thread asks for kicks there in its own time.
        let of_forgets: BTreeSet<_> = pages(used_of(0), 6 + 8 * 128).collect();
        let patience = Duration::from_secs(10);

        for logged in [false, true, false, true] {
            if logged {
                vm.start_precopy().expect("precopy");
            }
            for (offset, size) in [
                (0, 4096),
                (1, 10_000),
                (69_990, 65536),
                (70_000, 4096),
                (0, 1),
            ] {
                let read = call::read(node, fh, offset, size, 0);
                let header = guest.header(read.opcode, node, read.args.len()).to_bytes();
                request.write_at(0, &header).expect("memory");
                request.write_at(header.len(), &read.args).expect("memory");
                let len = (header.len() + read.args.len()) as u32;
                // The reply's header and its body are apart, neither at the start of a page.
                let segments = [
                    Segment {
                        gpa: request.gpa(),
                        len,
                        writable: false,
                    },
                    Segment {
                        gpa: head.gpa() + 4000,
                        len: 16,
                        writable: true,
                    },
                    Segment {
                        gpa: data.gpa() + 500,
                        len: size,
                        writable: true,
                    },
                ];
                if let Some(log) = vm.dirty_log() {
                    log.take();
                }
                let queue = &vm.queues()[1];
                let token = queue
                    .submit(&segments, [None, None, None], patience)
                    .expect("submit");
                let written = u64::from(queue.wait(token, patience).expect("READ"));
                let expected = 16 + 70_000u64.saturating_sub(offset).min(u64::from(size));
                assert_eq!(written, expected);
                let Some(log) = vm.dirty_log() else { continue };
                let mut due: BTreeSet<_> = pages(used, 6 + 8 * 128).collect();
                due.extend(pages(head.gpa() + 4000, 16));
                if written > 16 {
                    due.extend(pages(data.gpa() + 500, written - 16));
                }
                let dirty: BTreeSet<_> = log.take().into_iter().collect();
                let dirty = &dirty - &of_forgets;
                assert_eq!(dirty, due, "READ of {size} bytes at {offset}");
            }
            if logged {
                vm.cancel_precopy().expect("cancel");
            }
        }
        // Nothing is marked in a log that was taken back.
        vm.start_precopy().expect("precopy");
        let log = ferryfs_frontend::dirty::DirtyLog::new(memory.end()).expect("log");
        vm.frontend().set_log_base(&log).expect("SET_LOG_BASE");
        vm.cancel_precopy().expect("cancel");
        log.take();
        guest.getattr(node, None).expect("GETATTR");
        assert_eq!(log.take(), [0; 0]);
    }
}

#[test]
fn a_source_goes_on_when_the_destination_is_not_there() {
    let host = Host::new();
    fs::write(host.at("file"), "contents").expect("write");
    let mut source = host.daemon(&[]);
    let mut vm = Vm::boot(source.socket()).expect("boot");
    let mut guest = Guest::of(&vm);
    let (node, fh) = guest.open_path("file", libc::O_RDWR);
    for _ in 0..3 {
        assert!(vm.migrate_to(host.socket()).is_err());
        assert_eq!(guest.read(node, fh, 0, 100).expect("READ"), b"contents");
    }
    let destination = host.daemon(&[]);
    migrate(&mut vm, &destination);
    assert_eq!(guest.read(node, fh, 0, 100).expect("READ"), b"contents");
    // The machine has left: the source ends by itself.
    let status = source.wait(Duration::from_secs(10)).expect("end");
    assert_eq!(status.code(), Some(0), "{}", source.stderr());
}

/// As many files as fill more frames than one thread deals with. The threads that
/// encode and decode them begin behind the list of system calls.
#[test]
fn many_inodes_cross_between_confined_daemons() {
    const FILES: usize = 40_000;
    let host = Host::new();
    for n in 0..FILES {
        fs::File::create(host.at(format!("file-{n}"))).expect("create");
    }
    let options = ["--seccomp", "kill", "--state-format", "postcard+zstd"];
    let (source, mut target) = (host.daemon(&options), host.daemon(&options));
    let mut vm = Vm::boot(source.socket()).expect("boot");
    let mut guest = Guest::of(&vm);
    let open = guest.opendir(ROOT_ID);
    let dir = guest.opened_dir(ROOT_ID, open).expect("OPENDIR");
    let mut offset = 0;
    loop {
        let entries = guest
            .readdirplus(ROOT_ID, dir, offset, 512 << 10)
            .expect("READDIRPLUS");
        let Some(last) = entries.last() else { break };
        offset = last.dirent.off;
        guest.listed(&entries);
    }
    let (&node, _) = guest.lookups().last_key_value().expect("a file");
    assert!(guest.lookups().len() > FILES - 1);
    let before = guest.getattr(node, None).expect("GETATTR").attr;

    migrate(&mut vm, &target);
    let loaded = format!("{} inodes, 1 handles, 0 not found", FILES + 1);
    eventually("all of it is there", || target.stderr().contains(&loaded));
    let after = guest.getattr(node, None).expect("GETATTR").attr;
    assert_eq!(identity(&after), identity(&before));
    host::assert_well(&mut target);
}

/// On before the second daemon has looked for what it was given, and half of it
/// forgotten on the way.
#[test]
fn a_machine_moves_on_before_all_is_located() {
    const FILES: usize = 3000;
    for mode in modes() {
        let host = Host::new();
        fs::create_dir(host.at("d")).expect("mkdir");
        for n in 0..FILES {
            fs::write(host.at(format!("d/f{n}")), "").expect("write");
        }
        let options = ["--migration-mode", mode, "--restore-first", "0"];
        let daemons: Vec<_> = (0..3).map(|_| host.daemon(&options)).collect();
        let mut vm = Vm::boot(daemons[0].socket()).expect("boot");
        let mut guest = Guest::of(&vm);
        let files: Vec<_> = (0..FILES).map(|n| guest.walk(format!("d/f{n}"))).collect();
        let open = guest.open_path("d/f7", libc::O_RDWR);
        let at_first = daemons[0].figures().expect("figures").fds;

        migrate(&mut vm, &daemons[1]);
        let fs = vm.client();
        for file in files.iter().skip(10).step_by(2) {
            fs.forget(file.nodeid, 1).expect("FORGET");
        }
        fs.write(open.0, open.1, 0, b"from the second")
            .expect("WRITE");
        migrate(&mut vm, &daemons[2]);
        let fs = vm.client();
        for (n, file) in files.iter().enumerate() {
            if n >= 10 && n % 2 == 0 {
                continue;
            }
            let found = fs.getattr(file.nodeid, None).expect("GETATTR").attr;
            assert_eq!(found.ino, file.attr.ino, "f{n}, {mode}");
        }
        assert_eq!(errno(fs.getattr(files[10].nodeid, None)), libc::EBADF);
        assert_eq!(fs::read(host.at("d/f7")).expect("read"), b"from the second");
        // What is found by name is what the guest knows by number.
        let d = fs.lookup(ROOT_ID, "d").expect("LOOKUP").nodeid;
        for n in (1..FILES).step_by(2) {
            let found = fs.lookup(d, format!("f{n}")).expect("LOOKUP");
            assert_eq!(found.nodeid, files[n].nodeid, "f{n}, {mode}");
        }
        let again = fs.lookup(d, "f10").expect("LOOKUP").nodeid;
        assert_ne!(again, files[10].nodeid, "it was forgotten");
        let kept = daemons[2].figures().expect("figures").fds;
        // Kept ones, of directories and of what was last worked with, come on top.
        assert!(
            kept < at_first + 1200,
            "{kept} descriptors, {at_first} at first"
        );
    }
}
