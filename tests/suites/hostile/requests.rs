//! Requests that no kernel sends.

use std::fs;
use std::os::unix::fs::MetadataExt;

use ferryfs_frontend::call::{self, InitRequest};
use ferryfs_frontend::fuse::{opcode, OUT_HEADER, ROOT_ID};
use ferryfs_frontend::{Vm, VmConfig};
use ferryfs_tests::hostile::requests::bytes;
use ferryfs_tests::script::pattern;
use ferryfs_tests::{errno, Guest};

use crate::scene::{send, Scene, EINVAL};

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
