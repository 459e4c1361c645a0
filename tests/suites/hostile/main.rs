//! A guest and a VMM that send what nobody should: errors where there is somebody to
//! tell, and a daemon that goes on.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use ferryfs_frontend::call::{self, Call, InitRequest};
use ferryfs_frontend::frontend::{mem_region, protocol, state};
use ferryfs_frontend::fuse::{opcode, IN_HEADER, OUT_HEADER, ROOT_ID};
use ferryfs_frontend::queue::QueueError;
use ferryfs_frontend::raw::InHeader;
use ferryfs_frontend::ring::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE};
use ferryfs_frontend::spawn::Daemon;
use ferryfs_frontend::wire::{self, request, WireError};
use ferryfs_frontend::{Frontend, Vm, VmConfig};
use ferryfs_tests::chains::{desc, offer};
use ferryfs_tests::script::pattern;
use ferryfs_tests::{errno, eventually, host, Guest, Host};

const EINVAL: i32 = libc::EINVAL;

struct Scene {
    host: Host,
    daemon: Daemon,
    pid: u32,
}

impl Scene {
    fn new(options: &[&str]) -> Scene {
        let host = Host::new();
        fs::create_dir(host.at("dir")).expect("mkdir");
        fs::write(host.at("file"), pattern(10_000)).expect("write");
        let mut all = vec!["--keep-listening", "--xattr"];
        all.extend(options);
        let daemon = host.daemon(&all);
        let pid = daemon.pid();
        Scene { host, daemon, pid }
    }

    fn boot(&self) -> Vm {
        Vm::boot(self.daemon.socket()).expect("boot")
    }

    /// A good request is answered well.
    #[track_caller]
    fn serves(&self, vm: &Vm) {
        let fs = vm.client();
        let file = fs.lookup(ROOT_ID, "file").expect("LOOKUP");
        let opened = fs.open(file.nodeid, libc::O_RDONLY as u32).expect("OPEN");
        let read = fs.read(file.nodeid, opened.fh, 1, 20_000).expect("READ");
        assert!(read == pattern(10_000)[1..], "wrong contents");
        fs.release(file.nodeid, opened.fh).expect("RELEASE");
        fs.forget(file.nodeid, 1).expect("FORGET");
    }

    /// At the end: the same process, well, and nothing has happened that was not
    /// asked for.
    #[track_caller]
    fn ends_well<T>(mut self, machine: T) {
        // The daemon has one front-end at a time.
        drop(machine);
        self.serves(&self.boot());
        host::assert_well(&mut self.daemon);
        assert_eq!(self.daemon.pid(), self.pid);
        self.host.assert_untouched_outside();
        assert!(fs::read(self.host.at("file")).expect("read") == pattern(10_000));
    }
}

/// A request's bytes, header and all, which may then be spoiled.
fn bytes<R>(vm: &Vm, call: &Call<R>) -> Vec<u8> {
    let header = vm
        .client()
        .header(call.opcode, call.nodeid, call.args.len());
    [header.to_bytes().as_slice(), &call.args].concat()
}

/// Sends `request` with one piece of room for the answer; the errno, if there was one.
#[track_caller]
fn send(vm: &Vm, request: &[u8], room: usize) -> Option<i32> {
    let writable: &[usize] = if room == 0 { &[] } else { &[room] };
    let reply = vm.client().exchange(&[request], writable, false);
    let reply = reply.expect("the chain comes back");
    if let (Some(errno), Some((len, _, _))) = (reply.errno(), reply.header()) {
        assert_eq!(
            len, reply.written,
            "the header's length is not what was written"
        );
        assert!(errno == 0 || len as usize == OUT_HEADER);
        assert!((0..4096).contains(&errno));
    } else {
        assert_eq!(reply.written, 0, "half an answer");
    }
    reply.errno()
}

#[test]
fn offsets_beyond_any_file() {
    let scene = Scene::new(&[]);
    let vm = scene.boot();
    let mut guest = Guest::of(&vm);
    let (node, fh) = guest.open_path("file", libc::O_RDWR);
    let dir = guest.opendir(ROOT_ID).expect("OPENDIR").fh;
    let fresh = scene.host.at("scratch");
    fs::write(&fresh, "scratch").expect("write");
    let (scratch, out) = guest.open_path("scratch", libc::O_RDWR);
    for offset in [1 << 63, (1 << 63) + 4096, u64::MAX, u64::MAX - 4095] {
        assert_eq!(errno(guest.read(node, fh, offset, 4096)), EINVAL);
        assert_eq!(errno(guest.write(scratch, out, offset, b"x")), EINVAL);
        assert_eq!(errno(guest.fallocate(scratch, out, offset, 1, 0)), EINVAL);
        assert_eq!(errno(guest.fallocate(scratch, out, 0, offset, 0)), EINVAL);
        assert_eq!(
            errno(guest.lseek(node, fh, offset, libc::SEEK_SET as u32)),
            EINVAL
        );
        errno(guest.lseek(node, fh, offset, libc::SEEK_DATA as u32));
        errno(guest.lseek(node, fh, offset, 77));
        errno(guest.copy_file_range((node, fh, offset), (scratch, out, 0), 10));
        errno(guest.copy_file_range((node, fh, 0), (scratch, out, offset), 10));
        // A directory's cookie may have any value; the listing may be empty or refused.
        let _ = guest.readdir(ROOT_ID, dir, offset, 4096);
        let _ = guest.readdirplus(ROOT_ID, dir, offset, 4096);
        scene.serves(&vm);
    }
    // The largest offset that is one.
    let last = i64::MAX as u64;
    let _ = guest.read(node, fh, last, 4096);
    errno(guest.write(scratch, out, last, b"xy"));
    // More than a file has, or a count beyond all.
    let _ = guest.copy_file_range((node, fh, 0), (scratch, out, 0), u64::MAX);
    scene.serves(&vm);
    assert!(fs::metadata(&fresh).expect("stat").size() <= 10_000);
    scene.ends_well(vm);
}

#[test]
fn replies_without_room() {
    let scene = Scene::new(&[]);
    let vm = scene.boot();
    let mut guest = Guest::of(&vm);
    let (node, fh) = guest.open_path("file", libc::O_RDWR);
    let dir = guest.opendir(ROOT_ID).expect("OPENDIR").fh;
    let requests: Vec<(&str, Vec<u8>, usize)> = vec![
        ("READ", bytes(&vm, &call::read(node, fh, 0, 4096, 0)), 0),
        (
            "READDIR",
            bytes(&vm, &call::readdir(ROOT_ID, dir, 0, 4096)),
            0,
        ),
        (
            "READDIRPLUS",
            bytes(&vm, &call::readdirplus(ROOT_ID, dir, 0, 4096)),
            0,
        ),
        ("LOOKUP", bytes(&vm, &call::lookup(ROOT_ID, b"file")), 128),
        ("GETATTR", bytes(&vm, &call::getattr(ROOT_ID, None)), 104),
        ("STATFS", bytes(&vm, &call::statfs(ROOT_ID)), 80),
        ("OPEN", bytes(&vm, &call::open(node, 0, 0)), 16),
        ("LSEEK", bytes(&vm, &call::lseek(node, fh, 0, 0)), 8),
        (
            "GETXATTR",
            bytes(&vm, &call::getxattr_size(node, b"user.x")),
            8,
        ),
        (
            "MKDIR",
            bytes(&vm, &call::mkdir(ROOT_ID, b"made", 0o755, 0)),
            128,
        ),
        (
            "MKNOD",
            bytes(
                &vm,
                &call::mknod(ROOT_ID, b"made", libc::S_IFREG | 0o644, 0, 0),
            ),
            128,
        ),
        (
            "SYMLINK",
            bytes(&vm, &call::symlink(ROOT_ID, b"made", b"x")),
            128,
        ),
        ("LINK", bytes(&vm, &call::link(node, ROOT_ID, b"made")), 128),
        (
            "CREATE",
            bytes(
                &vm,
                &call::create(ROOT_ID, b"made", libc::O_RDWR as u32, 0o644, 0, 0),
            ),
            144,
        ),
        ("UNLINK", bytes(&vm, &call::unlink(ROOT_ID, b"file")), 0),
        (
            "RENAME",
            bytes(&vm, &call::rename(ROOT_ID, b"file", ROOT_ID, b"made")),
            0,
        ),
    ];
    for (what, request, fixed) in &requests {
        for room in [0, 1, 8, 15] {
            // Nobody can be told; nothing may be done.
            assert_eq!(send(&vm, request, room), None, "{what} with {room}");
        }
        for room in [
            OUT_HEADER,
            OUT_HEADER + 1,
            OUT_HEADER + fixed / 2,
            OUT_HEADER + fixed - 1,
        ] {
            if (OUT_HEADER..OUT_HEADER + fixed).contains(&room) {
                assert_eq!(send(&vm, request, room), Some(EINVAL), "{what} with {room}");
            }
        }
        assert!(
            !scene.host.at("made").exists(),
            "{what} was done without an answer"
        );
        scene.serves(&vm);
    }
    // Room for some data is room enough.
    let some = vm
        .client()
        .exchange(&[&requests[0].1], &[OUT_HEADER + 10], false);
    assert_eq!(some.expect("READ").body(), &pattern(10)[..]);
    // Lookups that could not be told are not counted: one FORGET is enough.
    guest.let_go();
    assert_ne!(errno(guest.getattr(node, None)), 0);
    scene.ends_well(vm);
}

#[test]
fn names_that_are_none() {
    // Without a sandbox nothing but the daemon's own care keeps names in the share.
    for sandbox in ferryfs_tests::programs::sandboxes() {
        let scene = Scene::new(&["--sandbox", sandbox]);
        let vm = scene.boot();
        let mut guest = Guest::of(&vm);
        let dir = guest.walk("dir").nodeid;
        let file = guest.walk("file").nodeid;
        let long = vec![b'n'; 256];
        let longer = vec![b'n'; 5000];
        let names: Vec<&[u8]> = vec![
            b"",
            b".",
            b"..",
            b"/",
            b"../sentinel",
            b"../outside",
            b"a/b",
            b"/etc/passwd",
            b"../outside/sentinel",
            b"dir/",
            &long,
            &longer,
        ];
        for name in names {
            let show = name.escape_ascii().to_string();
            let mut all = vec![
                ("LOOKUP", errno(guest.lookup(dir, name))),
                ("MKDIR", errno(guest.mkdir(dir, name, 0o755))),
                (
                    "MKNOD",
                    errno(guest.mknod(dir, name, libc::S_IFREG | 0o644, 0)),
                ),
                ("SYMLINK", errno(guest.symlink(dir, name, "x"))),
                (
                    "CREATE",
                    errno(guest.create(dir, name, libc::O_RDWR as u32, 0o644)),
                ),
                ("UNLINK", errno(guest.unlink(dir, name))),
                ("RMDIR", errno(guest.rmdir(dir, name))),
                ("LINK", errno(guest.link(file, dir, name))),
                (
                    "RENAME from",
                    errno(guest.rename(dir, name, ROOT_ID, "stolen")),
                ),
                ("RENAME to", errno(guest.rename(ROOT_ID, "file", dir, name))),
                (
                    "RENAME2",
                    errno(guest.rename2(dir, name, ROOT_ID, "file", libc::RENAME_EXCHANGE)),
                ),
            ];
            all.retain(|(_, errno)| ![EINVAL, libc::ENAMETOOLONG].contains(errno));
            assert_eq!(all, [], "\"{show}\" in sandbox {sandbox}");
            scene.host.assert_untouched_outside();
        }
        assert!(!scene.host.at("stolen").exists());
        assert_eq!(
            fs::read_dir(scene.host.at("dir")).expect("readdir").count(),
            0
        );
        // A link out of the share is the guest's to follow, not the daemon's.
        let out = guest.symlink(dir, "out", "../../outside").expect("SYMLINK");
        assert_ne!(errno(guest.lookup(out.nodeid, "sentinel")), 0);
        assert_ne!(errno(guest.mkdir(out.nodeid, "made", 0o755)), 0);
        assert_ne!(errno(guest.open(out.nodeid, libc::O_RDONLY as u32)), 0);
        // Extended attributes are no files.
        let _ = guest.setxattr(file, vec![b'x'; 300], b"v", 0);
        let _ = guest.getxattr(file, "", 100);
        scene.serves(&vm);
        scene.ends_well(vm);
    }
}

#[test]
fn bodies_that_lie() {
    let scene = Scene::new(&[]);
    let vm = scene.boot();
    let mut guest = Guest::of(&vm);
    let (node, fh) = guest.open_path("file", libc::O_RDONLY);
    fs::write(scene.host.at("scratch"), "0123456789").expect("write");
    let (scratch, out) = guest.open_path("scratch", libc::O_RDWR);
    let room = 4096;

    // Names without their NUL.
    for mut request in [
        bytes(&vm, &call::lookup(ROOT_ID, b"file")),
        bytes(&vm, &call::mkdir(ROOT_ID, b"made", 0o755, 0)),
        bytes(&vm, &call::unlink(ROOT_ID, b"file")),
        bytes(&vm, &call::symlink(ROOT_ID, b"made", b"target")),
        bytes(&vm, &call::rename(ROOT_ID, b"file", ROOT_ID, b"made")),
        bytes(&vm, &call::getxattr(node, b"user.x", 10)),
        bytes(&vm, &call::removexattr(node, b"user.x")),
    ] {
        request.pop();
        let len = request.len() as u32;
        request[..4].copy_from_slice(&len.to_le_bytes());
        assert_eq!(send(&vm, &request, room), Some(EINVAL), "{}", request[4]);
        scene.serves(&vm);
    }
    // Every operation with every body that is too short for it.
    for code in (1..=53).chain([0, 54, 1000, 4096, u32::MAX]) {
        if [opcode::DESTROY, opcode::INIT].contains(&code) {
            continue;
        }
        for body in 0..48 {
            let body = vec![0xff; body];
            let header = vm.client().header(code, ROOT_ID, body.len()).to_bytes();
            let got = send(&vm, &[&header[..], &body].concat(), room);
            let whole = match code {
                opcode::STATFS => 0,
                opcode::GETATTR => 16,
                opcode::SYNCFS | opcode::ACCESS | opcode::LISTXATTR => 8,
                opcode::OPEN | opcode::OPENDIR => 8,
                _ => usize::MAX,
            };
            assert!(
                got != Some(0) || body.len() >= whole,
                "opcode {code} with {} bytes",
                body.len()
            );
        }
        scene.serves(&vm);
    }
    for code in [0, 54, 1000, 4096, u32::MAX, opcode::POLL, opcode::BMAP] {
        let reply = vm
            .client()
            .raw(code, ROOT_ID, &[0; 64], room)
            .expect("reply");
        assert_eq!(reply.errno(), Some(libc::ENOSYS), "opcode {code}");
    }
    // The header's length, both ways.
    let good = bytes(&vm, &call::lookup(ROOT_ID, b"file"));
    for len in [
        0u32,
        1,
        39,
        40,
        41,
        good.len() as u32 + 1,
        5000,
        1 << 21,
        u32::MAX,
    ] {
        let mut request = good.clone();
        request[..4].copy_from_slice(&len.to_le_bytes());
        let got = send(&vm, &request, room);
        assert!(
            matches!(got, Some(EINVAL | libc::E2BIG)),
            "length {len}: {got:?}"
        );
    }
    for len in [0, 1, 39] {
        assert_eq!(send(&vm, &good[..len.max(1)], room), None);
    }
    // WRITE with more and with less than it says: no byte too many in the file.
    let write = call::write(scratch, out, 0, call::Payload::None, 0, 0);
    for (size, carried, ok) in [(4u32, 16, true), (16, 4, false), (u32::MAX, 4, false)] {
        let mut request = bytes(&vm, &write);
        request[IN_HEADER + 16..IN_HEADER + 20].copy_from_slice(&size.to_le_bytes());
        request.extend(vec![b'W'; carried]);
        let len = request.len() as u32;
        request[..4].copy_from_slice(&len.to_le_bytes());
        let got = send(&vm, &request, room);
        assert_eq!(
            got == Some(0),
            ok,
            "WRITE of {size} with {carried}: {got:?}"
        );
        let disk = fs::read(scene.host.at("scratch")).expect("read");
        assert_eq!(disk, b"WWWW456789");
    }
    // READ of less, and of more, than there is room for.
    let reply = vm.client().exchange(
        &[&bytes(&vm, &call::read(node, fh, 0, 10, 0))],
        &[OUT_HEADER + 4096],
        false,
    );
    assert_eq!(reply.expect("READ").body(), &pattern(10)[..]);
    let reply = vm.client().exchange(
        &[&bytes(&vm, &call::read(node, fh, 0, u32::MAX, 0))],
        &[16, 7, 1, 100],
        false,
    );
    assert_eq!(reply.expect("READ").body(), &pattern(108)[..]);
    // A header in pieces.
    let mut pieces: Vec<_> = good.chunks(3).collect();
    let reply = vm
        .client()
        .exchange(&pieces, &[5, 11, 1, 200], false)
        .expect("LOOKUP");
    assert_eq!(reply.errno(), Some(0));
    pieces.truncate(5);
    assert!(vm
        .client()
        .exchange(&pieces, &[200], false)
        .expect("nothing")
        .is_empty());
    // SETXATTR with a size that is not its value's.
    for size in [0u32, 5, 70_000, u32::MAX] {
        let set = call::setxattr(node, b"user.x", b"abc", 0, Some(0));
        let mut request = bytes(&vm, &set);
        request[IN_HEADER..IN_HEADER + 4].copy_from_slice(&size.to_le_bytes());
        let got = send(&vm, &request, room);
        assert!(
            size == 0 || matches!(got, Some(1..)),
            "size {size}: {got:?}"
        );
    }
    // Sizes that must not be allocated because somebody says so.
    for size in [1 << 20, 1 << 30, u32::MAX] {
        for call in [call::getxattr(node, b"user.y", 0), call::listxattr(node, 0)] {
            let mut request = bytes(&vm, &call);
            request[IN_HEADER..IN_HEADER + 4].copy_from_slice(&size.to_le_bytes());
            assert!(send(&vm, &request, room).is_some());
        }
    }
    scene.serves(&vm);
    scene.ends_well(vm);
}

#[test]
fn extensions_that_lie() {
    let scene = Scene::new(&[]);
    let vm = scene.boot();
    let group = |size: u32, kind: u32, count: u32, groups: usize| {
        let mut ext = Vec::new();
        for word in [size, kind, count] {
            ext.extend_from_slice(&word.to_le_bytes());
        }
        ext.extend(vec![0x11; groups * 4]);
        ext.resize(ext.len().next_multiple_of(8), 0);
        ext
    };
    let kind = ferryfs_frontend::fuse::EXT_GROUPS;
    let cases = [
        ("count beyond the size", group(16, kind, 1000, 1), None),
        ("count beyond all", group(16, kind, u32::MAX, 1), None),
        ("size 0", group(0, kind, 1, 1), None),
        ("size below its header", group(4, kind, 1, 1), None),
        ("size beyond the request", group(4096, kind, 1, 1), None),
        ("size beyond all", group(u32::MAX, kind, 1, 1), None),
        (
            "extlen beyond the body",
            group(16, kind, 1, 1),
            Some(u16::MAX),
        ),
        (
            "extlen of the body and more",
            group(16, kind, 1, 1),
            Some(5),
        ),
        (
            "twice",
            [group(16, kind, 1, 1), group(16, kind, 1, 1)].concat(),
            None,
        ),
        ("an unknown kind", group(16, 99, 1, 1), None),
        ("half an extension", vec![16, 0, 0, 0, 32, 0, 0, 0], None),
    ];
    for (n, (what, ext, extlen)) in cases.into_iter().enumerate() {
        let name = format!("made{n}");
        let call = call::mkdir(ROOT_ID, name.as_bytes(), 0o755, 0);
        let header = InHeader {
            len: (IN_HEADER + call.args.len() + ext.len()) as u32,
            total_extlen: extlen.unwrap_or((ext.len() / 8) as u16),
            uid: 1000,
            gid: 1000,
            ..vm.client().header(call.opcode, ROOT_ID, 0)
        };
        let got = send(
            &vm,
            &[&header.to_bytes()[..], &call.args, &ext].concat(),
            4096,
        );
        assert!(matches!(got, Some(1..)), "{what}: {got:?}");
        assert!(!scene.host.at(&name).exists(), "{what}");
        scene.serves(&vm);
    }
    scene.ends_well(vm);
}

#[test]
fn sessions_out_of_order() {
    let scene = Scene::new(&[]);
    let config = VmConfig {
        init: None,
        ..VmConfig::default()
    };
    let vm = Vm::boot_with(scene.daemon.socket(), config).expect("boot");
    let guest = vm.client();
    // Before INIT there is nothing to talk about.
    assert_eq!(errno(guest.lookup(ROOT_ID, "file")), libc::ENOTCONN);
    assert_eq!(errno(guest.getattr(ROOT_ID, None)), libc::ENOTCONN);
    assert_eq!(errno(guest.mkdir(ROOT_ID, "made", 0o755)), libc::ENOTCONN);
    guest.forget(1, 1).expect("FORGET");
    guest.destroy().expect("DESTROY");
    for (major, minor) in [(6, 40), (7, 8), (7, 0), (0, 0)] {
        let old = InitRequest {
            major,
            minor,
            flags: 0,
            ..InitRequest::default()
        };
        assert_eq!(errno(guest.init(&old)), libc::EPROTO, "{major}.{minor}");
    }
    let newer = InitRequest {
        major: 8,
        ..InitRequest::default()
    };
    assert_eq!(guest.init(&newer).expect("INIT").major, 7);
    assert_eq!(errno(guest.getattr(ROOT_ID, None)), libc::ENOTCONN);
    guest.init(&InitRequest::default()).expect("INIT");
    scene.serves(&vm);
    let file = guest.lookup(ROOT_ID, "file").expect("LOOKUP");
    let fh = guest.open(file.nodeid, 0).expect("OPEN").fh;
    // A second INIT begins anew.
    guest.init(&InitRequest::default()).expect("INIT");
    assert_ne!(errno(guest.getattr(file.nodeid, None)), 0);
    assert_ne!(errno(guest.read(file.nodeid, fh, 0, 1)), 0);
    scene.serves(&vm);
    guest.destroy().expect("DESTROY");
    assert_eq!(errno(guest.lookup(ROOT_ID, "file")), libc::ENOTCONN);
    guest.init(&InitRequest::default()).expect("INIT");
    scene.serves(&vm);
    assert!(!scene.host.at("made").exists());
    scene.ends_well(vm);
}

#[test]
fn forgets_beyond_what_was_looked_up() {
    let scene = Scene::new(&[]);
    let vm = scene.boot();
    let mut guest = Guest::of(&vm);
    let file = guest.walk("file").nodeid;
    for count in [0, 1, 2, u64::MAX, u64::MAX] {
        guest.forget(ROOT_ID, count).expect("FORGET");
        guest.forget(file, count).expect("FORGET");
        guest.forget(12345, count).expect("FORGET");
        guest
            .batch_forget(&[(ROOT_ID, count), (77, count), (0, count), (u64::MAX, count)])
            .expect("BATCH_FORGET");
        // The root is there as long as the session is.
        guest.getattr(ROOT_ID, None).expect("GETATTR");
        scene.serves(&vm);
    }
    // More entries announced than there are, and less.
    for count in [3u32, 1000, 65_536, 1 << 28, u32::MAX] {
        let mut forget = call::batch_forget(&[(5, 1), (6, 1)]);
        forget.args[..4].copy_from_slice(&count.to_le_bytes());
        for hiprio in [true, false] {
            let request = bytes(&vm, &forget);
            let reply = vm
                .client()
                .exchange(&[&request], &[64], hiprio)
                .expect("comes back");
            // FORGET has no answer, not even to nonsense.
            assert!(reply.is_empty(), "count {count}: {reply:?}");
        }
        scene.serves(&vm);
    }
    scene.ends_well(vm);
}

/// Chains that make no sense, each in a ring that is used on.
#[test]
fn chains_that_make_no_sense() {
    let scene = Scene::new(&[]);
    let config = VmConfig {
        queue_size: 64,
        ..VmConfig::default()
    };
    let mut vm = Vm::boot_with(scene.daemon.socket(), config).expect("boot");
    let memory = vm.memory().clone();
    let end = memory.end();
    let request = memory.alloc(4096).expect("memory");
    let reply = memory.alloc(4096).expect("memory");
    let table = &memory.alloc(64 << 10).expect("memory");
    let getattr = bytes(&vm, &call::getattr(ROOT_ID, None));
    request.write_at(0, &getattr).expect("memory");
    let (req, len, rep) = (request.gpa(), getattr.len() as u32, reply.gpa());
    let (next, write, indirect) = (DESC_F_NEXT, DESC_F_WRITE, DESC_F_INDIRECT);
    let set = |at: u16, d: ferryfs_frontend::ring::Descriptor| {
        table
            .write_at(16 * usize::from(at), &d.to_bytes())
            .expect("memory");
    };
    let patience = Duration::from_secs(10);
    type Make<'a> = Box<dyn Fn(&ferryfs_frontend::ring::Ring, u16) + 'a>;
    let put = |ring: &ferryfs_frontend::ring::Ring, at: u16, d| {
        ring.write_desc(at, d).expect("descriptor");
    };
    // Two descriptors that are right, but for one thing.
    let pair = |first: ferryfs_frontend::ring::Descriptor, second| -> Make<'_> {
        Box::new(move |ring, head| {
            let other = (head + 1) % 64;
            put(ring, head, desc(first.addr, first.len, first.flags, other));
            put(ring, other, second);
        })
    };
    let in_table = |head_len: u32, first: ferryfs_frontend::ring::Descriptor, second| -> Make<'_> {
        Box::new(move |ring, head| {
            set(0, first);
            set(1, second);
            put(ring, head, desc(table.gpa(), head_len, indirect, 0));
        })
    };
    let good = (desc(req, len, next, 1), desc(rep, 256, write, 0));
    let kinds: Vec<(&str, Make<'_>)> = vec![
        (
            "a loop of one",
            Box::new(|ring, head| put(ring, head, desc(req, len, next, head))),
        ),
        (
            "a loop of two",
            Box::new(|ring, head| {
                let other = (head + 1) % 64;
                put(ring, head, desc(req, 1, next, other));
                put(ring, other, desc(req, 1, next, head));
            }),
        ),
        (
            "a loop of writable ones",
            Box::new(|ring, head| {
                let other = (head + 1) % 64;
                put(ring, head, desc(req, len, next, other));
                put(ring, other, desc(rep, 16, next | write, other));
            }),
        ),
        (
            "next out of the table",
            Box::new(|ring, head| {
                put(ring, head, desc(req, len, next, 64));
            }),
        ),
        (
            "next far out of the table",
            Box::new(|ring, head| {
                put(ring, head, desc(req, len, next, u16::MAX));
            }),
        ),
        (
            "nothing but room",
            Box::new(|ring, head| put(ring, head, desc(rep, 256, write, 0))),
        ),
        (
            "no room",
            Box::new(|ring, head| put(ring, head, desc(req, len, 0, 0))),
        ),
        (
            "zero bytes",
            Box::new(|ring, head| put(ring, head, desc(req, 0, 0, 0))),
        ),
        ("zero bytes of room", pair(good.0, desc(rep, 0, write, 0))),
        (
            "room before the request",
            pair(desc(rep, 256, write | next, 0), desc(req, len, 0, 0)),
        ),
        (
            "a request behind the end",
            pair(desc(end, len, next, 0), good.1),
        ),
        (
            "a request across the end",
            pair(desc(end - 8, len, next, 0), good.1),
        ),
        (
            "a request far away",
            pair(desc(1 << 60, len, next, 0), good.1),
        ),
        (
            "a request that wraps",
            pair(desc(u64::MAX - 8, len, next, 0), good.1),
        ),
        (
            "a request of 4 GiB",
            pair(desc(0, u32::MAX, next, 0), good.1),
        ),
        (
            "room behind the end",
            pair(good.0, desc(end, 256, write, 0)),
        ),
        (
            "room across the end",
            pair(good.0, desc(end - 20, 256, write, 0)),
        ),
        (
            "room that wraps",
            pair(good.0, desc(u64::MAX, 256, write, 0)),
        ),
        ("a table of no entry", in_table(0, good.0, good.1)),
        ("a table of half an entry", in_table(24, good.0, good.1)),
        ("a table of 4 GiB", in_table(!15, good.0, good.1)),
        ("a table that ends early", in_table(16, good.0, good.1)),
        (
            "a loop in a table",
            in_table(32, desc(req, 1, next, 1), desc(req, 1, next, 0)),
        ),
        (
            "a self-loop in a table",
            in_table(32, desc(req, 1, next, 0), good.1),
        ),
        (
            "next out of a table",
            in_table(32, desc(req, 1, next, 2), good.1),
        ),
        (
            "a table in a table",
            in_table(32, desc(table.gpa(), 32, indirect, 0), good.1),
        ),
        (
            "a table behind the request in a table",
            in_table(32, good.0, desc(table.gpa(), 32, indirect, 0)),
        ),
        (
            "a table behind the end",
            Box::new(|ring, head| {
                put(ring, head, desc(end, 32, indirect, 0));
            }),
        ),
        (
            "a table that wraps",
            Box::new(|ring, head| {
                put(ring, head, desc(u64::MAX - 15, 32, indirect, 0));
            }),
        ),
        (
            "a table that is not aligned",
            Box::new(|ring, head| {
                put(ring, head, desc(table.gpa() + 8, 32, indirect, 0));
            }),
        ),
        (
            "a table and a next",
            Box::new(|ring, head| {
                set(0, good.0);
                set(1, good.1);
                put(
                    ring,
                    head,
                    desc(table.gpa(), 32, indirect | next, (head + 1) % 64),
                );
                put(ring, (head + 1) % 64, desc(table.gpa(), 32, indirect, 0));
            }),
        ),
        (
            "a table of 4,000 entries of one byte",
            Box::new(|ring, head| {
                for i in 0..4000 {
                    set(i, desc(req, 1, next, i + 1));
                }
                set(3999, desc(rep, 256, write, 0));
                put(ring, head, desc(table.gpa(), 64_000, indirect, 0));
            }),
        ),
        (
            "the ring itself as a request",
            Box::new(|ring, head| {
                put(
                    ring,
                    head,
                    desc(ring.desc_gpa(), 1024, next, (head + 1) % 64),
                );
                put(ring, (head + 1) % 64, desc(rep, 256, write, 0));
            }),
        ),
    ];
    for (what, make) in &kinds {
        reply.write_at(0, &[0xee; 4096]).expect("memory");
        match offer(&vm, patience, make) {
            Ok(written) => {
                let bytes = reply.to_vec(0, 4096);
                let touched = bytes
                    .iter()
                    .rposition(|b| *b != 0xee)
                    .map_or(0, |at| at + 1);
                assert!(
                    touched <= written as usize,
                    "{what}: wrote {touched}, said {written}"
                );
            }
            Err(QueueError::Timeout { .. }) => {
                // Left alone: a driver that resets the device gets it back.
                vm.reboot()
                    .unwrap_or_else(|e| panic!("{what}: {}", ferryfs_tests::text(&e)));
            }
            Err(e) => panic!("{what}: {e}"),
        }
        scene.serves(&vm);
    }
    // Replies go where the guest says, if that is memory at all.
    let ok = offer(&vm, patience, pair(good.0, good.1)).expect("a good chain");
    assert_eq!(ok, 120);
    scene.serves(&vm);
    scene.ends_well(vm);
}

/// Indices that no driver publishes. A ring that makes no sense may be left alone
/// until the driver resets the device; the other ring must not suffer.
#[test]
fn rings_that_make_no_sense() {
    let scene = Scene::new(&[]);
    let mut vm = scene.boot();
    type Spoil = fn(&ferryfs_frontend::ring::Ring, u16);
    let kinds: [(&str, Spoil); 5] = [
        ("a head out of the table", |ring, at| {
            ring.write_avail(at, 128).expect("slot");
            ring.set_avail_idx(at.wrapping_add(1));
        }),
        ("a head far out of the table", |ring, at| {
            ring.write_avail(at, u16::MAX).expect("slot");
            ring.set_avail_idx(at.wrapping_add(1));
        }),
        ("an index that jumps", |ring, at| {
            ring.set_avail_idx(at.wrapping_add(129))
        }),
        ("an index that jumps far", |ring, at| {
            ring.set_avail_idx(at.wrapping_add(0x8000))
        }),
        ("an index that goes back", |ring, at| {
            ring.set_avail_idx(at.wrapping_sub(1))
        }),
    ];
    for (what, spoil) in kinds {
        vm.queues()[1].with(|queue| {
            spoil(queue.ring(), queue.avail_idx());
            queue.kick_now().expect("kick");
        });
        // The high-priority queue is served as ever.
        let forget = bytes(&vm, &call::forget(99, 1));
        let reply = vm.client().exchange(&[&forget], &[], true);
        reply.unwrap_or_else(|e| panic!("{what}: {}", ferryfs_tests::text(&e)));
        vm.reboot()
            .unwrap_or_else(|e| panic!("{what}: {}", ferryfs_tests::text(&e)));
        scene.serves(&vm);
    }
    scene.ends_well(vm);
}

/// Bytes at random in the place of requests: the same in every run.
#[test]
fn noise() {
    let scene = Scene::new(&["--sandbox", "none"]);
    let vm = scene.boot();
    let mut guest = Guest::of(&vm);
    guest.walk("dir");
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    for round in 0..4000 {
        let len = random(200) as usize;
        let mut body: Vec<u8> = (0..len).map(|_| random(256) as u8).collect();
        if random(2) == 0 {
            // Mostly small numbers reach further.
            body.iter_mut()
                .enumerate()
                .filter(|(i, _)| i % 4 != 0)
                .for_each(|(_, b)| *b = 0);
        }
        let code = random(54) as u32;
        // What would undo the test: DESTROY, INIT, and changes to the file that is read.
        if [opcode::DESTROY, opcode::INIT, opcode::SETATTR].contains(&code) {
            continue;
        }
        let mut header = vm.client().header(code, 1 + random(2), len);
        if random(8) == 0 {
            header.len = random(1 << 20) as u32;
        }
        header.total_extlen = if random(4) == 0 { random(30) as u16 } else { 0 };
        let room = [0, 10, 16, 60, 4096][random(5) as usize];
        send(&vm, &[&header.to_bytes()[..], &body].concat(), room);
        if round % 500 == 0 {
            scene.serves(&vm);
        }
    }
    scene.serves(&vm);
    scene.ends_well(vm);
}

#[test]
fn messages_that_make_no_sense() {
    let scene = Scene::new(&[]);
    let connect = || {
        let mut frontend = Frontend::connect(scene.daemon.socket()).expect("connect");
        frontend.connection().set_timeout(Duration::from_secs(10));
        frontend
            .negotiate(VmConfig::default().protocol_features)
            .expect("negotiate");
        frontend
    };
    // A file that is too small for what is said about it.
    let small = tempfile::tempfile().expect("file");
    small.set_len(4096).expect("truncate");
    let table = |regions: &[[u8; 32]]| {
        let mut payload = (regions.len() as u32).to_ne_bytes().to_vec();
        payload.extend_from_slice(&[0; 4]);
        payload.extend(regions.iter().flatten());
        payload
    };
    let one = table(&[mem_region(0, 1 << 20, 0x1000_0000, 0)]);
    let overlapping = table(&[
        mem_region(0, 4096, 0x1000_0000, 0),
        mem_region(2048, 4096, 0x2000_0000, 0),
    ]);
    let huge = table(&[mem_region(0, u64::MAX, 0, 0)]);
    let offset = table(&[mem_region(0, 4096, 0x1000_0000, u64::MAX - 100)]);
    let empty = table(&[mem_region(0, 0, 0x1000_0000, 0)]);
    let lying = [9u32.to_ne_bytes().as_slice(), &one[4..]].concat();
    let log = |size: u64, offset: u64| [size.to_ne_bytes(), offset.to_ne_bytes()].concat();
    let cases: Vec<(u32, Vec<u8>, usize)> = vec![
        (0, vec![], 0),
        (44, vec![], 0),
        (999, vec![1; 100], 0),
        (u32::MAX, vec![], 0),
        (request::SET_FEATURES, u64::MAX.to_ne_bytes().to_vec(), 0),
        (request::SET_FEATURES, vec![1; 7], 0),
        (request::SET_FEATURES, vec![0; 4000], 0),
        (request::SET_PROTOCOL_FEATURES, vec![], 0),
        (request::SET_MEM_TABLE, one.clone(), 1),
        (request::SET_MEM_TABLE, one.clone(), 0),
        (request::SET_MEM_TABLE, one.clone(), 3),
        (request::SET_MEM_TABLE, overlapping, 2),
        (request::SET_MEM_TABLE, huge, 1),
        (request::SET_MEM_TABLE, offset, 1),
        (request::SET_MEM_TABLE, empty, 1),
        (request::SET_MEM_TABLE, lying, 1),
        (request::SET_MEM_TABLE, vec![0xff; 8], 0),
        (
            request::ADD_MEM_REG,
            [vec![0; 8], one[8..].to_vec()].concat(),
            1,
        ),
        (request::ADD_MEM_REG, vec![0; 3], 1),
        (
            request::REM_MEM_REG,
            [vec![0; 8], one[8..].to_vec()].concat(),
            0,
        ),
        (request::SET_LOG_BASE, log(4096, 0), 0),
        (request::SET_LOG_BASE, log(u64::MAX, 0), 1),
        (request::SET_LOG_BASE, log(1, u64::MAX), 1),
        (request::SET_VRING_NUM, state(0, 0).to_vec(), 0),
        (request::SET_VRING_NUM, state(0, 100).to_vec(), 0),
        (request::SET_VRING_NUM, state(0, u32::MAX).to_vec(), 0),
        (request::SET_VRING_NUM, state(77, 128).to_vec(), 0),
        (request::SET_VRING_BASE, state(u32::MAX, 0).to_vec(), 0),
        (request::SET_VRING_BASE, state(0, u32::MAX).to_vec(), 0),
        (
            request::SET_VRING_ADDR,
            [state(0, 0).to_vec(), vec![0xff; 32]].concat(),
            0,
        ),
        (
            request::SET_VRING_ADDR,
            [state(99, 0).to_vec(), vec![0; 32]].concat(),
            0,
        ),
        (request::SET_VRING_KICK, 99u64.to_ne_bytes().to_vec(), 1),
        // A plain file is no eventfd.
        (request::SET_VRING_KICK, 0u64.to_ne_bytes().to_vec(), 1),
        (request::SET_VRING_CALL, 1u64.to_ne_bytes().to_vec(), 1),
        (request::SET_VRING_KICK, 0u64.to_ne_bytes().to_vec(), 2),
        (request::SET_VRING_ENABLE, state(99, 1).to_vec(), 0),
        (request::SET_VRING_ENABLE, state(0, 7).to_vec(), 0),
        (request::GET_VRING_BASE, state(99, 0).to_vec(), 0),
        (request::GET_CONFIG, vec![0xff; 12], 0),
        (request::SET_CONFIG, vec![0; 52], 0),
        (request::SET_DEVICE_STATE_FD, state(7, 0).to_vec(), 1),
        (request::SET_DEVICE_STATE_FD, state(0, 9).to_vec(), 1),
        (request::SET_DEVICE_STATE_FD, state(0, 0).to_vec(), 0),
        (request::CHECK_DEVICE_STATE, vec![], 0),
        (request::GET_INFLIGHT_FD, vec![0; 24], 0),
    ];
    for (n, (code, payload, fds)) in cases.iter().enumerate() {
        let what = format!(
            "case {n}: {} of {} bytes, {fds} descriptors",
            wire::request_name(*code),
            payload.len()
        );
        let mut frontend = connect();
        let fds: Vec<_> = std::iter::repeat_n(small.as_fd(), *fds).collect();
        // Told so, ignored or hung up on.
        let told = frontend.connection().request_acked(*code, payload, &fds);
        let stuck = matches!(told, Err(WireError::Timeout { .. }));
        assert!(!stuck, "{what}: no answer, no hang-up");
        drop(frontend);
        scene.serves(&scene.boot());
        let log = scene.daemon.stderr();
        assert!(!log.contains("panic"), "{what}:\n{log}");
    }
    // Bytes that are no message: a huge one announced, half a header, noise.
    for noise in [
        wire::header(request::SET_MEM_TABLE, 1, u32::MAX).to_vec(),
        wire::header(request::GET_FEATURES, 0x7, 0).to_vec(),
        wire::header(request::GET_FEATURES, 0xffff_fff0, 0).to_vec(),
        vec![1, 0, 0],
        vec![0xa5; 100_000],
    ] {
        let socket =
            std::os::unix::net::UnixStream::connect(scene.daemon.socket()).expect("connect");
        let _ = wire::send_bytes(&socket, &noise, &[]);
        drop(socket);
        scene.serves(&scene.boot());
    }
    scene.ends_well(());
}

#[test]
fn front_ends_that_leave_in_the_middle() {
    let scene = Scene::new(&[]);
    let features = VmConfig::default().protocol_features;
    // A machine's set-up, message by message, and gone after each.
    for steps in 0..9 {
        let vm = scene.boot();
        drop(vm);
        let mut frontend = Frontend::connect(scene.daemon.socket()).expect("connect");
        let memory = ferryfs_frontend::memory::GuestMemory::new(&VmConfig::default().memory);
        let memory = memory.expect("memory");
        let queue = ferryfs_frontend::queue::Queue::new(
            &memory,
            ferryfs_frontend::queue::QueueConfig {
                size: 128,
                indirect: true,
                event_idx: true,
            },
        )
        .expect("queue");
        for step in 0..steps {
            match step {
                0 => frontend.get_features().map(drop).expect("GET_FEATURES"),
                1 => frontend.negotiate(features).expect("negotiate"),
                2 => {
                    let bits = ferryfs_frontend::frontend::feature::VERSION_1
                        | ferryfs_frontend::frontend::feature::PROTOCOL_FEATURES;
                    frontend.set_features(bits).expect("SET_FEATURES");
                }
                3 => frontend.set_mem_table(&memory).expect("SET_MEM_TABLE"),
                4 => frontend.set_vring_num(0, 128).expect("SET_VRING_NUM"),
                5 => frontend.set_vring_addr(0, &queue).expect("SET_VRING_ADDR"),
                6 => frontend.start_vring(0, &queue, 0).expect("start"),
                7 => {
                    let log = ferryfs_frontend::dirty::DirtyLog::new(memory.end()).expect("log");
                    frontend.set_log_base(&log).expect("SET_LOG_BASE");
                    frontend.set_log_all(true).expect("LOG_ALL");
                }
                _ => unreachable!("eight steps"),
            }
        }
        drop(frontend);
        scene.serves(&scene.boot());
    }
    // In the middle of a state's transfer, both ways, with the pipe left open.
    for direction in [
        ferryfs_frontend::state::Direction::Save,
        ferryfs_frontend::state::Direction::Load,
    ] {
        let (read, write) = rustix::pipe::pipe().expect("pipe");
        let mut frontend = Frontend::connect(scene.daemon.socket()).expect("connect");
        frontend
            .negotiate(features | protocol::DEVICE_STATE)
            .expect("negotiate");
        let theirs = if direction == ferryfs_frontend::state::Direction::Save {
            &write
        } else {
            &read
        };
        frontend
            .set_device_state_fd(direction, 0, theirs)
            .expect("SET_DEVICE_STATE_FD");
        drop(frontend);
        scene.serves(&scene.boot());
    }
    // With requests in its rings.
    for _ in 0..10 {
        let vm = scene.boot();
        let client = vm.client();
        for _ in 0..20 {
            let call = call::getattr(ROOT_ID, None);
            drop(client.submit(call).expect("submit"));
        }
        drop(vm);
    }
    let fds = || scene.daemon.figures().expect("figures").fds;
    let vm = scene.boot();
    drop(vm);
    eventually("descriptors are closed", || fds() < 60);
    scene.ends_well(());
}
