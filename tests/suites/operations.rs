//! Operations that virtiofsd does not have, and what happens where the host's
//! resources end. The daemon is confined as usual, so that a system call missing from
//! its list would end it.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use ferryfs_frontend::call::SetAttr;
use ferryfs_frontend::fuse::{fattr, ROOT_ID};
use ferryfs_frontend::{Caller, Vm};
use ferryfs_tests::{errno, host, mounts, programs, Guest, Host};

const RDONLY: u32 = libc::O_RDONLY as u32;
const RDWR: u32 = libc::O_RDWR as u32;
const GETFLAGS: u32 = 0x8008_6601;
const SETFLAGS: u32 = 0x4008_6602;
const FSGETXATTR: u32 = 0x801c_581f;
const FSSETXATTR: u32 = 0x401c_5820;

#[test]
fn statx_tells_when_a_file_was_made() {
    let host = Host::new();
    fs::write(host.at("file"), "contents").expect("write");
    let mut daemon = host.daemon(&[]);
    let vm = Vm::boot(daemon.socket()).expect("boot");
    let mut guest = Guest::of(&vm);
    let (node, fh) = guest.open_path("file", libc::O_RDWR);
    let attr = guest.getattr(node, None).expect("GETATTR").attr;
    let on_host = fs::metadata(host.at("file")).expect("stat");
    let everything = libc::STATX_BASIC_STATS | libc::STATX_BTIME;
    for handle in [None, Some(fh)] {
        let found = guest.statx(node, handle, everything).expect("STATX");
        assert_eq!(found.attr, attr);
        assert_eq!(found.attr_valid, 1);
        match on_host.created() {
            Ok(time) => {
                let time = time.duration_since(std::time::UNIX_EPOCH).expect("time");
                let btime = (time.as_secs() as i64, time.subsec_nanos());
                assert_eq!(found.btime, btime);
                assert_eq!(found.mask, everything);
            }
            Err(_) => assert_eq!(found.mask, libc::STATX_BASIC_STATS),
        }
    }
    // What is not asked for, or unknown, does no harm.
    let basic = guest.statx(node, None, 0).expect("STATX");
    assert_eq!(
        basic.mask & libc::STATX_BASIC_STATS,
        libc::STATX_BASIC_STATS
    );
    guest.statx(node, None, u32::MAX).expect("STATX");
    // An unlinked file is asked by its handle.
    guest.unlink(ROOT_ID, "file").expect("UNLINK");
    let gone = guest.statx(node, Some(fh), everything).expect("STATX");
    assert_eq!((gone.attr.nlink, gone.attr.size), (0, 8));
    assert_ne!(errno(guest.statx(4711, None, everything)), 0);
    assert_ne!(errno(guest.statx(node, Some(4711), everything)), 0);
    host::assert_well(&mut daemon);
}

/// The flags of a file on the host; none where its file system has none.
fn flags_on_host(path: &Path) -> Option<u32> {
    let file = fs::File::open(path).expect("open");
    let mut flags = [0u8; 8];
    // SAFETY: the command writes an `int` to where the pointer leads.
    let rc = unsafe { libc::ioctl(file.as_raw_fd(), GETFLAGS as _, flags.as_mut_ptr()) };
    (rc == 0).then(|| u32::from_le_bytes([flags[0], flags[1], flags[2], flags[3]]))
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes[..4].try_into().expect("4 bytes"))
}

#[test]
fn file_flags_are_the_owner_s_to_change() {
    const NODUMP: u32 = 0x40;
    const NOATIME: u32 = 0x80;
    const IMMUTABLE: u32 = 0x10;
    if !programs::is_root("files of other users") {
        return;
    }
    let host = Host::new();
    let all = fs::Permissions::from_mode(0o777);
    fs::set_permissions(host.share(), all).expect("chmod");
    if flags_on_host(host.share()).is_none() {
        println!("skipped: the file system has no file flags");
        return;
    }
    let mut daemon = host.daemon(&[]);
    let vm = Vm::boot(daemon.socket()).expect("boot");
    let root = vm.client();
    let user = |uid| root.as_caller(Caller::user(uid, 1001));
    let (file, opened) = user(1000)
        .create(ROOT_ID, "mine", RDWR, 0o666)
        .expect("CREATE");
    let at = (file.nodeid, opened.fh);
    let set = |client: &ferryfs_frontend::FsClient, flags: u32| {
        client.ioctl(at, SETFLAGS, &flags.to_le_bytes(), 0)
    };
    let before = number(&root.ioctl(at, GETFLAGS, &[], 4).expect("GETFLAGS"));
    assert_eq!(Some(before), flags_on_host(&host.at("mine")));
    set(&user(1000), before | NODUMP).expect("the owner's flag");
    assert_eq!(errno(set(&user(2000), before)), libc::EPERM);
    assert_eq!(flags_on_host(&host.at("mine")), Some(before | NODUMP));
    set(&root, before | NODUMP | NOATIME).expect("root's flag");
    // Nobody in a guest makes a host's file immutable: that takes a capability that
    // the daemon has given up.
    assert_eq!(errno(set(&root, before | IMMUTABLE)), libc::EPERM);
    assert_eq!(
        flags_on_host(&host.at("mine")),
        Some(before | NODUMP | NOATIME)
    );
    // The older form, of a `long`.
    let long = root.ioctl(at, GETFLAGS, &[], 8).expect("GETFLAGS");
    assert_eq!((long.len(), number(&long)), (8, before | NODUMP | NOATIME));

    let mut attributes = root.ioctl(at, FSGETXATTR, &[], 28).expect("FSGETXATTR");
    const XFLAG_NODUMP: u32 = 0x80;
    assert_ne!(number(&attributes) & XFLAG_NODUMP, 0);
    let less = number(&attributes) & !XFLAG_NODUMP;
    attributes[..4].copy_from_slice(&less.to_le_bytes());
    let refused = user(2000).ioctl(at, FSSETXATTR, &attributes, 0);
    assert_eq!(errno(refused), libc::EPERM);
    let done = user(1000).ioctl(at, FSSETXATTR, &attributes, 0);
    done.expect("FSSETXATTR");
    assert_eq!(flags_on_host(&host.at("mine")), Some(before | NOATIME));

    let dir = root.opendir(ROOT_ID).expect("OPENDIR").fh;
    let flags = root.ioctl((ROOT_ID, dir), GETFLAGS, &[], 4);
    assert_eq!(
        Some(number(&flags.expect("GETFLAGS"))),
        flags_on_host(host.share())
    );
    host::assert_well(&mut daemon);
}

#[test]
fn ioctls_that_are_not_served_are_harmless() {
    let host = Host::new();
    fs::write(host.at("file"), "contents").expect("write");
    for options in [&["--keep-listening"][..], &["--readonly"]] {
        let mut daemon = host.daemon(options);
        let vm = Vm::boot(daemon.socket()).expect("boot");
        let client = vm.client();
        let node = client.lookup(ROOT_ID, "file").expect("LOOKUP").nodeid;
        let at = (node, client.open(node, RDONLY).expect("OPEN").fh);
        let readonly = options == ["--readonly"];
        for (command, input, room) in [
            // TIOCSTI, FITRIM, FICLONE, FS_IOC_SETVERSION, FS_IOC_ENABLE_VERITY, BLKDISCARD
            (0x5412, 1, 0),
            (0xc018_5879, 24, 24),
            (0x4004_9409, 4, 0),
            (0x4008_7602, 8, 0),
            (0x4080_6685, 128, 0),
            (0x1277, 16, 0),
            (u32::MAX, 0, 0),
        ] {
            let refused = errno(client.ioctl(at, command, &vec![0; input], room));
            let want = match readonly && input > 0 {
                true => libc::EROFS,
                false => libc::ENOTTY,
            };
            assert_eq!(refused, want, "{command:#x}");
        }
        for (command, input, room) in [
            (GETFLAGS, 0, 0),
            (GETFLAGS, 0, 5),
            (GETFLAGS, 0, 4096),
            (FSGETXATTR, 0, 27),
            (FSGETXATTR, 0, 29),
        ] {
            let refused = errno(client.ioctl(at, command, &vec![0; input], room));
            assert_eq!(refused, libc::EINVAL, "{command:#x} with {room}");
        }
        let set = errno(client.ioctl(at, SETFLAGS, &[0; 3], 0));
        assert_eq!(set, if readonly { libc::EROFS } else { libc::EINVAL });
        assert_ne!(errno(client.ioctl((node, 4711), GETFLAGS, &[], 4)), 0);
        host::assert_well(&mut daemon);
    }
}

#[test]
fn positions_beyond_four_gigabytes() {
    let host = Host::new();
    let mut daemon = host.daemon(&["--cache=never"]);
    let vm = Vm::boot(daemon.socket()).expect("boot");
    let client = vm.client();
    let (file, opened) = client.create(ROOT_ID, "big", RDWR, 0o644).expect("CREATE");
    let (node, fh) = (file.nodeid, opened.fh);
    // Behind 2 and 4 GiB, where 31 and 32 bits end, and far from both.
    let places = [(1 << 31) - 3, (1 << 32) - 3, (1u64 << 40) + 5];
    for place in places {
        let written = client.write(node, fh, place, b"beyond").expect("WRITE");
        assert_eq!(written, 6);
    }
    let on_host = fs::File::open(host.at("big")).expect("open");
    for place in places {
        let read = client.read(node, fh, place, 6).expect("READ");
        assert_eq!(read, b"beyond", "{place}");
        let mut found = [0; 6];
        on_host.read_exact_at(&mut found, place).expect("read");
        assert_eq!(&found, b"beyond", "{place}");
    }
    let size = |client: &ferryfs_frontend::FsClient| {
        let attr = client.getattr(node, None).expect("GETATTR").attr;
        assert_eq!(
            attr.size,
            fs::metadata(host.at("big")).expect("stat").size()
        );
        attr.size
    };
    assert_eq!(size(&client), (1 << 40) + 11);
    // Data and holes are found where they are.
    let seek = |at, whence: i32| client.lseek(node, fh, at, whence as u32).expect("LSEEK");
    assert_eq!(seek(0, libc::SEEK_HOLE), 0);
    let data = seek(1 << 33, libc::SEEK_DATA);
    assert!(data > 1 << 39 && data <= places[2], "{data:#x}");
    assert_eq!(seek(data, libc::SEEK_HOLE), (1 << 40) + 11);
    let after_all = client.lseek(node, fh, 1 << 41, libc::SEEK_DATA as u32);
    assert_eq!(errno(after_all), libc::ENXIO);
    // Copied, reserved and cut off there.
    let copied = client
        .copy_file_range((node, fh, places[2]), (node, fh, 1 << 41), 6)
        .expect("COPY_FILE_RANGE");
    assert_eq!(copied, 6);
    assert_eq!(client.read(node, fh, 1 << 41, 10).expect("READ"), b"beyond");
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    client
        .fallocate(node, fh, 1 << 41, 6, punch as u32)
        .expect("FALLOCATE");
    assert_eq!(client.read(node, fh, 1 << 41, 10).expect("READ"), [0; 6]);
    let cut = SetAttr {
        valid: fattr::SIZE,
        size: (1 << 40) + 7,
        ..SetAttr::default()
    };
    client.setattr(node, &cut).expect("SETATTR");
    assert_eq!(size(&client), (1 << 40) + 7);
    assert_eq!(client.read(node, fh, places[2], 10).expect("READ"), b"be");
    // Where the host's file system ends.
    let beyond = errno(client.write(node, fh, i64::MAX as u64 - 10, b"x"));
    assert!([libc::EFBIG, libc::EINVAL].contains(&beyond), "{beyond}");
    host::assert_well(&mut daemon);
}

#[test]
fn a_full_file_system_is_told_and_survived() {
    let test = || {
        if mounts::own_namespace().is_err() {
            println!("skipped: mounting needs CAP_SYS_ADMIN");
            return;
        }
        let host = Host::new();
        mounts::tmpfs_with(host.share(), 0, c"size=256k,nr_inodes=20").expect("tmpfs");
        let mut daemon = host.daemon(&[]);
        let vm = Vm::boot(daemon.socket()).expect("boot");
        let mut guest = Guest::of(&vm);
        let made = guest.create(ROOT_ID, "full", RDWR, 0o644);
        let (file, fh) = guest.created(made).expect("CREATE");
        let block = vec![7; 64 << 10];
        let mut end = 0u64;
        let full = loop {
            match guest.write(file.nodeid, fh, end, &block) {
                Ok(written) => end += u64::from(written),
                Err(e) => break e.errno(),
            }
            assert!(end <= 256 << 10, "more than there is room for");
        };
        assert_eq!(full, Some(libc::ENOSPC));
        let on_host = fs::read(host.at("full")).expect("read");
        assert_eq!(on_host.len() as u64, end, "what was written is there");
        let reserve = guest.fallocate(file.nodeid, fh, 0, 1 << 20, 0);
        assert_eq!(errno(reserve), libc::ENOSPC);
        assert_eq!(guest.statfs(ROOT_ID).expect("STATFS").bfree, 0);
        // Room again.
        let empty = SetAttr {
            valid: fattr::SIZE,
            ..SetAttr::default()
        };
        guest.setattr(file.nodeid, &empty).expect("SETATTR");
        guest
            .write(file.nodeid, fh, 0, &block)
            .expect("there is room");
        // No inodes.
        let mut made = Vec::new();
        let full = loop {
            let name = format!("dir {}", made.len());
            match guest.mkdir(ROOT_ID, &name, 0o755) {
                Ok(entry) => made.push(entry.nodeid),
                Err(e) => break e.errno(),
            }
            assert!(made.len() < 20);
        };
        assert_eq!(full, Some(libc::ENOSPC));
        let refused = guest.create(ROOT_ID, "one more", RDWR, 0o644);
        assert_eq!(errno(refused), libc::ENOSPC);
        guest.rmdir(ROOT_ID, "dir 0").expect("RMDIR");
        guest.forget(made[0], 1).expect("FORGET");
        let made = guest.create(ROOT_ID, "one more", RDWR, 0o644);
        guest.created(made).expect("there is room");
        host::assert_well(&mut daemon);
        drop((vm, daemon));
        mounts::unmount(host.share()).expect("umount");
    };
    std::thread::spawn(test).join().expect("the test passes");
}

#[test]
fn running_out_of_descriptors_is_survived() {
    const FILES: usize = 300;
    const LIMIT: usize = 128;
    for handles in ["never", "prefer"] {
        let host = Host::new();
        for n in 0..FILES {
            fs::write(host.at(format!("{n}")), n.to_string()).expect("write");
        }
        let inodes = format!("--inode-file-handles={handles}");
        let limit = format!("--rlimit-nofile={LIMIT}");
        let mut daemon = host.daemon(&[&inodes, &limit, "--keep-listening"]);
        // More than once, with the same daemon: nothing is used up for good.
        for round in 0..3 {
            let vm = Vm::boot(daemon.socket()).expect("boot");
            let mut guest = Guest::of(&vm);
            let mut known = Vec::new();
            let mut out = None;
            for n in 0..FILES {
                let found = guest.lookup(ROOT_ID, n.to_string());
                match guest.entry(found) {
                    Ok(entry) => known.push(entry.nodeid),
                    Err(e) => {
                        out = e.errno();
                        break;
                    }
                }
            }
            let by_handle = known.len() == FILES;
            if !by_handle {
                assert_eq!(out, Some(libc::ENFILE), "round {round}");
                assert!((30..LIMIT).contains(&known.len()), "{}", known.len());
                // What is known is served, what is not gets an error, and what is let
                // go makes room.
                guest.getattr(known[0], None).expect("GETATTR");
                let listed = guest.opendir(ROOT_ID);
                assert_eq!(errno(listed), libc::ENFILE);
                let made = guest.create(ROOT_ID, "made", RDWR, 0o644);
                assert_eq!(errno(made), libc::ENFILE);
                assert!(!host.at("made").exists());
                guest.let_go();
                let found = guest.lookup(ROOT_ID, "0");
                known = vec![guest.entry(found).expect("LOOKUP").nodeid];
            }
            let mut opened = 0;
            let full = loop {
                let node = known[opened % known.len()];
                let file = guest.open(node, RDONLY);
                match guest.opened(node, file) {
                    Ok(_) => opened += 1,
                    Err(e) => break e.errno(),
                }
                assert!(opened < LIMIT);
            };
            assert_eq!(full, Some(libc::ENFILE));
            assert!(opened > 30, "{opened}");
            // Everything else goes on: attributes, names, data.
            for node in &known {
                guest.getattr(*node, None).expect("GETATTR");
            }
            guest
                .rename(ROOT_ID, "0", ROOT_ID, "renamed")
                .expect("RENAME");
            guest
                .rename(ROOT_ID, "renamed", ROOT_ID, "0")
                .expect("RENAME");
            let made = guest.create(ROOT_ID, "made", RDWR, 0o644);
            assert_eq!(errno(made), libc::ENFILE);
            assert!(!host.at("made").exists());
            if handles == "prefer" && by_handle {
                guest.mkdir(ROOT_ID, "dir", 0o755).expect("MKDIR");
                guest.rmdir(ROOT_ID, "dir").expect("RMDIR");
            }
            guest.let_go();
            let (node, fh) = guest.open_path("7", libc::O_RDONLY);
            assert_eq!(guest.read(node, fh, 0, 10).expect("READ"), b"7");
        }
        assert_eq!(host::lines(&daemon, "WARN").len(), 1, "{}", daemon.stderr());
        host::assert_well(&mut daemon);
    }
}
