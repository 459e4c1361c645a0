//! Each operation: what the file system is asked, and the reply's bytes.

use super::*;

/// A request that every server takes, what the file system must be asked then,
/// and the reply's body.
pub(super) struct Example {
    pub(super) opcode: u32,
    pub(super) body: Vec<u8>,
    pub(super) asked: &'static [&'static str],
    pub(super) reply: Vec<u8>,
}

fn entry_bytes() -> Vec<u8> {
    EntryOut {
        nodeid: 42,
        generation: 3,
        entry_valid: 5,
        entry_valid_nsec: 6,
        attr_valid: 7,
        attr_valid_nsec: 8,
        attr: attr(),
    }
    .as_slice()
    .to_vec()
}

fn attr_bytes() -> Vec<u8> {
    AttrOut {
        attr_valid: 1,
        attr_valid_nsec: 500_000_000,
        dummy: 0,
        attr: attr(),
    }
    .as_slice()
    .to_vec()
}

fn open_bytes() -> Vec<u8> {
    cat(&[&9u64.to_ne_bytes(), &2u32.to_ne_bytes(), &[0; 4]])
}

fn u32s(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_ne_bytes()).collect()
}

fn u64s(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_ne_bytes()).collect()
}

fn setattr(valid: u32) -> SetattrIn {
    SetattrIn {
        valid,
        fh: 9,
        size: 123,
        atime: -5i64 as u64,
        atimensec: 6,
        mtime: 7,
        mtimensec: 8,
        mode: 0o644,
        uid: 1,
        gid: 2,
        ..SetattrIn::default()
    }
}

/// Written out in numbers: these are the structures of fuse.h, whatever ours say.
pub(super) fn examples() -> Vec<Example> {
    let example = |opcode, body: &[&[u8]], asked, reply: &[&[u8]]| Example {
        opcode,
        body: cat(body),
        asked,
        reply: cat(reply),
    };
    let (entry, attr, open) = (&entry_bytes()[..], &attr_bytes()[..], &open_bytes()[..]);
    let all_set = FATTR_MODE | FATTR_UID | FATTR_GID | FATTR_SIZE | FATTR_ATIME | FATTR_MTIME;
    let copy = u64s(&[9, 1 << 40, 6, 10, 5, u64::MAX, 0]);
    vec![
        example(
            FUSE_LOOKUP,
            &[b"a\xff\0"],
            &[r#"lookup(5, "a\xff")"#],
            &[entry],
        ),
        example(FUSE_FORGET, &[&u64s(&[3])], &["forget(5, 3)"], &[]),
        example(
            FUSE_GETATTR,
            &[&u32s(&[1, 0]), &u64s(&[9])],
            &["getattr(5, Some(HandleId(9)))"],
            &[attr],
        ),
        example(
            FUSE_GETATTR,
            &[&u32s(&[0, 0]), &u64s(&[9])],
            &["getattr(5, None)"],
            &[attr],
        ),
        example(
            FUSE_SETATTR,
            &[setattr(all_set).as_slice()],
            &[
                "setattr(5, None, SetAttr { mode: Some(420), uid: Some(1), gid: Some(2), \
               size: Some(123), atime: Some(At(-5, 6)), mtime: Some(At(7, 8)), \
               kill_suidgid: false })",
            ],
            &[attr],
        ),
        example(
            FUSE_SETATTR,
            &[setattr(
                FATTR_FH
                    | FATTR_ATIME
                    | FATTR_ATIME_NOW
                    | FATTR_MTIME_NOW
                    | FATTR_KILL_SUIDGID
                    | FATTR_CTIME
                    | FATTR_LOCKOWNER,
            )
            .as_slice()],
            &[
                "setattr(5, Some(HandleId(9)), SetAttr { mode: None, uid: None, gid: None, \
               size: None, atime: Some(Now), mtime: Some(Now), kill_suidgid: true })",
            ],
            &[attr],
        ),
        example(FUSE_READLINK, &[], &["readlink5"], &[b"value"]),
        example(
            FUSE_SYMLINK,
            &[b"name\0../to/where\0"],
            &[r#"symlink("../to/where", 5, "name")"#],
            &[entry],
        ),
        example(
            FUSE_MKNOD,
            &[&u32s(&[0o020600, 0x0801, 0o22, 0]), b"n\0"],
            &[r#"mknod(5, "n", 8576, 2049, 18)"#],
            &[entry],
        ),
        example(
            FUSE_MKDIR,
            &[&u32s(&[0o755, 0o22]), b"d\0"],
            &[r#"mkdir(5, "d", 493, 18)"#],
            &[entry],
        ),
        example(FUSE_UNLINK, &[b"a\0"], &[r#"unlink(5, "a")"#], &[]),
        example(FUSE_RMDIR, &[b"a\0"], &[r#"rmdir(5, "a")"#], &[]),
        example(
            FUSE_RENAME,
            &[&u64s(&[6]), b"a\0b\0"],
            &[r#"rename(5, "a", 6, "b", 0)"#],
            &[],
        ),
        example(
            FUSE_RENAME2,
            &[&u64s(&[6]), &u32s(&[5, 0]), b"a\0b\0"],
            &[r#"rename(5, "a", 6, "b", 5)"#],
            &[],
        ),
        example(
            FUSE_LINK,
            &[&u64s(&[6]), b"l\0"],
            &[r#"link(6, 5, "l")"#],
            &[entry],
        ),
        example(FUSE_OPEN, &[&u32s(&[2, 1])], &["open(5, 2, true)"], &[open]),
        example(
            FUSE_READ,
            &[
                &u64s(&[9, 2]),
                &u32s(&[3, 0]),
                &u64s(&[0]),
                &u32s(&[0o100000, 0]),
            ],
            &["read(5, 9, 2, 3, 32768)"],
            &[b"llo"],
        ),
        example(
            FUSE_WRITE,
            &[
                &u64s(&[9, 5]),
                &u32s(&[3, 5]),
                &u64s(&[0]),
                &u32s(&[1, 0]),
                b"abc",
            ],
            &[
                "write(5, 9, WriteArgs { offset: 5, size: 3, flags: 1, from_cache: true, \
               kill_suidgid: true })",
            ],
            &[&u32s(&[3, 0])],
        ),
        example(
            FUSE_STATFS,
            &[],
            &["statfs5"],
            &[&u64s(&[1, 0, 0, 0, 0]), &u32s(&[512, 255, 0, 0]), &[0; 24]],
        ),
        example(
            FUSE_RELEASE,
            &[&u64s(&[9]), &u32s(&[2, 0]), &u64s(&[0])],
            &["release(5, 9)"],
            &[],
        ),
        example(
            FUSE_FSYNC,
            &[&u64s(&[9]), &u32s(&[1, 0])],
            &["fsync(5, 9, true)"],
            &[],
        ),
        example(
            FUSE_SETXATTR,
            &[&u32s(&[3, 1, 1, 0]), b"user.x\0v\0w"],
            &[r#"setxattr(5, "user.x", "v\0w", 1, true)"#],
            &[],
        ),
        example(
            FUSE_GETXATTR,
            &[&u32s(&[64, 0]), b"user.x\0"],
            &[r#"getxattr(5, "user.x", 64)"#],
            &[b"value"],
        ),
        example(
            FUSE_GETXATTR,
            &[&u32s(&[0, 0]), b"user.x\0"],
            &[r#"getxattr(5, "user.x", 0)"#],
            &[&u32s(&[5, 0])],
        ),
        example(
            FUSE_LISTXATTR,
            &[&u32s(&[64, 0])],
            &["listxattr(5, 64)"],
            &[b"value"],
        ),
        example(
            FUSE_REMOVEXATTR,
            &[b"user.x\0"],
            &[r#"removexattr(5, "user.x")"#],
            &[],
        ),
        example(
            FUSE_FLUSH,
            &[&u64s(&[9]), &u32s(&[0, 0]), &u64s(&[33])],
            &["flush(5, 9, 33)"],
            &[],
        ),
        example(
            FUSE_OPENDIR,
            &[&u32s(&[0o200000, 0])],
            &["opendir(5, 65536)"],
            &[open],
        ),
        example(
            FUSE_READDIR,
            &[
                &u64s(&[9, 0]),
                &u32s(&[4096, 0]),
                &u64s(&[0]),
                &u32s(&[0, 0]),
            ],
            &["readdir(5, 9, 0)"],
            &[],
        ),
        example(
            FUSE_READDIRPLUS,
            &[
                &u64s(&[9, 0]),
                &u32s(&[4096, 0]),
                &u64s(&[0]),
                &u32s(&[0, 0]),
            ],
            &["readdirplus(5, 9, 0)"],
            &[],
        ),
        example(
            FUSE_RELEASEDIR,
            &[&u64s(&[9]), &u32s(&[2, 0]), &u64s(&[0])],
            &["releasedir(5, 9)"],
            &[],
        ),
        example(
            FUSE_FSYNCDIR,
            &[&u64s(&[9]), &u32s(&[0, 0])],
            &["fsyncdir(5, 9, false)"],
            &[],
        ),
        example(FUSE_ACCESS, &[&u32s(&[5, 0])], &["access(5, 5)"], &[]),
        example(
            FUSE_CREATE,
            &[&u32s(&[0o101, 0o640, 0o22, 1]), b"c\0"],
            &[r#"create(5, "c", 416, 18, 65, true)"#],
            &[entry, open],
        ),
        example(
            FUSE_TMPFILE,
            &[&u32s(&[2, 0o600, 0o22, 0]), b"/\0"],
            &["tmpfile(5, 384, 18, 2)"],
            &[entry, open],
        ),
        example(FUSE_INTERRUPT, &[&u64s(&[17])], &["interrupt(17)"], &[]),
        example(
            FUSE_BATCH_FORGET,
            &[&u32s(&[2, 0]), &u64s(&[6, 1, 7, 2])],
            &["forget(6, 1)", "forget(7, 2)"],
            &[],
        ),
        example(
            FUSE_FALLOCATE,
            &[&u64s(&[9, 4096, 8192]), &u32s(&[3, 0])],
            &["fallocate(5, 9, 3, 4096, 8192)"],
            &[],
        ),
        example(
            FUSE_LSEEK,
            &[&u64s(&[9, 5]), &u32s(&[libc::SEEK_DATA as u32, 0])],
            &["lseek(5, 9, 5, 3)"],
            &[&u64s(&[0x1_0000_0001])],
        ),
        example(
            FUSE_LSEEK,
            &[
                &u64s(&[9, -2i64 as u64]),
                &u32s(&[libc::SEEK_END as u32, 0]),
            ],
            &["lseek(5, 9, -2, 2)"],
            &[&u64s(&[0x1_0000_0001])],
        ),
        example(
            FUSE_COPY_FILE_RANGE,
            &[&copy],
            &["copy_file_range((NodeId(5), HandleId(9), 1099511627776), \
               (NodeId(6), HandleId(10), 5), 2147479552, 0)"],
            &[&u32s(&[0x7fff_f000, 0])],
        ),
        example(
            FUSE_COPY_FILE_RANGE_64,
            &[&copy],
            &["copy_file_range((NodeId(5), HandleId(9), 1099511627776), \
               (NodeId(6), HandleId(10), 5), 2147479552, 0)"],
            &[&u64s(&[0x7fff_f000])],
        ),
        example(
            FUSE_STATX,
            &[&u32s(&[1, 0]), &u64s(&[9]), &u32s(&[0x2000, 0xfff])],
            &["statx(5, Some(HandleId(9)), 8192, 4095)"],
            &[
                &u64s(&[1]),
                &u32s(&[500_000_000, 0]),
                &u64s(&[0, 0]),
                // mask, blksize; attributes; nlink, uid, gid; mode and 2 bytes of none
                &u32s(&[0xfff, 0, 0, 0, 0, 7, 0, 0o644]),
                // ino, size, blocks, attributes_mask
                &u64s(&[0; 4]),
                &[0; 16],
                &u64s(&[-5i64 as u64]),
                &u32s(&[6, 0]),
                &[0; 32],
                // rdev, dev
                &u32s(&[0, 3, 0, 0]),
                &u64s(&[0; 14]),
            ],
        ),
        example(
            FUSE_IOCTL,
            &[
                &u64s(&[9]),
                &u32s(&[1 << 4, 0x4008_6602]),
                &u64s(&[0xdead]),
                &u32s(&[3, 4]),
                b"abc",
            ],
            &["ioctl(5, 9, 1074292226, [97, 98, 99], [0, 0, 0, 0])"],
            &[&u32s(&[0; 4]), b"!!!!"],
        ),
        example(FUSE_SYNCFS, &[&u64s(&[0])], &["syncfs5"], &[]),
        example(
            FUSE_GETLK,
            &[
                &u64s(&[9, 77, 10, i64::MAX as u64]),
                &u32s(&[libc::F_WRLCK as u32, 123, 0, 0]),
            ],
            &["getlk(5, 9, Posix, 77, 10, 9223372036854775807, Some(Write), 123)"],
            &[&u64s(&[12, 13]), &u32s(&[libc::F_RDLCK as u32, 456])],
        ),
        example(
            FUSE_SETLK,
            &[
                &u64s(&[9, 77, 10, 19]),
                &u32s(&[libc::F_RDLCK as u32, 123, 0, 0]),
            ],
            &["setlk(5, 9, Posix, 77, 10, 19, Some(Read), 123)"],
            &[],
        ),
        example(
            FUSE_SETLKW,
            &[
                &u64s(&[9, 77, 0, i64::MAX as u64]),
                &u32s(&[libc::F_UNLCK as u32, 123, 1, 0]),
            ],
            &["setlkw(5, 9, Flock, 77, 0, 9223372036854775807, None, 123)"],
            &[],
        ),
    ]
}

pub(super) fn no_reply(opcode: u32) -> bool {
    matches!(
        opcode,
        FUSE_FORGET | FUSE_BATCH_FORGET | FUSE_INTERRUPT | FUSE_NOTIFY_REPLY
    )
}

fn write_file(server: &Server<Mock>, contents: &[u8]) {
    rustix::io::pwrite(&server.fs().file, contents, 0).unwrap();
}

#[test]
fn every_operation_is_decoded_and_answered_byte_for_byte() {
    let server = server();
    write_file(&server, b"hello");
    for e in examples() {
        let reply = call(&server, e.opcode, 5, &e.body);
        let name = opcode_name(e.opcode).unwrap();
        if no_reply(e.opcode) {
            assert_eq!(reply, None, "{name}");
        } else {
            assert_eq!(reply, Reply::ok(&e.reply), "{name}");
        }
        assert_eq!(server.fs().taken(), e.asked, "{name}");
    }
    // WRITE's data is in the file, and no byte more.
    let mut contents = [0; 16];
    let n = rustix::io::pread(&server.fs().file, &mut contents, 0).unwrap();
    assert_eq!(&contents[..n], b"helloabc");
}

#[test]
fn every_error_of_the_file_system_reaches_the_guest_with_no_body() {
    let server = server();
    *server.fs().fail.lock().unwrap() = Some(Errno::EDQUOT);
    for e in examples() {
        let want = (!no_reply(e.opcode)).then(|| Reply::err(Errno::EDQUOT).unwrap());
        assert_eq!(call(&server, e.opcode, 5, &e.body), want, "{}", e.opcode);
    }
}

#[test]
fn that_a_name_is_absent_can_be_kept() {
    let server = server();
    *server.fs().absent_for.lock().unwrap() = Some(Duration::new(3, 4));
    let lookup = || call(&server, FUSE_LOOKUP, 5, b"a\0");
    assert_eq!(lookup(), Reply::ok(&entry_bytes()));
    *server.fs().fail.lock().unwrap() = Some(Errno::EACCES);
    assert_eq!(lookup(), Reply::err(Errno::EACCES));
    *server.fs().fail.lock().unwrap() = Some(Errno::ENOENT);
    let kept = cat(&[&u64s(&[0, 0, 3, 0]), &u32s(&[4, 0]), &[0; 88]]);
    assert_eq!(lookup(), Reply::ok(&kept));
    *server.fs().absent_for.lock().unwrap() = None;
    assert_eq!(lookup(), Reply::err(Errno::ENOENT));
}

#[test]
fn operations_that_are_not_served_answer_enosys() {
    let server = server();
    let served: Vec<_> = examples().iter().map(|e| e.opcode).collect();
    for opcode in (0..100).chain([4096, u32::MAX, 0x1a00_0000]) {
        if served.contains(&opcode) || matches!(opcode, FUSE_INIT | FUSE_DESTROY) {
            continue;
        }
        let want = (opcode != FUSE_NOTIFY_REPLY).then(|| Reply::err(Errno::ENOSYS).unwrap());
        assert_eq!(call(&server, opcode, 1, &[0; 256]), want, "{opcode}");
    }
    assert!(server.fs().taken().is_empty());
}

#[test]
fn an_ioctl_moves_what_its_number_can_say_and_no_more() {
    let server = server();
    let ioctl = |flags: u32, sizes: [u32; 2]| {
        let body = cat(&[
            &u64s(&[9]),
            &u32s(&[flags, 0x8008_6601]),
            &u64s(&[0]),
            &u32s(&sizes),
            b"abc",
        ]);
        call(&server, FUSE_IOCTL, 5, &body)
    };
    for (flags, sizes, errno) in [
        (FUSE_IOCTL_UNRESTRICTED, [0, 0], Errno::ENOTTY),
        (0, [1 << 14, 0], Errno::ENOTTY),
        (0, [0, 1 << 14], Errno::ENOTTY),
        (0, [0, u32::MAX], Errno::ENOTTY),
        (0, [4, 0], Errno::EINVAL),
    ] {
        assert_eq!(ioctl(flags, sizes), Reply::err(errno), "{sizes:?}");
    }
    assert!(server.fs().taken().is_empty());
    let most = ioctl(0, [0, 2000]).unwrap();
    assert_eq!(most.body.len(), 16 + 2000);
}

#[test]
fn arguments_that_no_file_system_must_see_are_refused() {
    let server = server();
    let big = 1u64 << 63;
    let long_name = [&[b'x'; 256][..], b"\0"].concat();
    let mut utime_now = setattr(FATTR_ATIME);
    utime_now.atimensec = libc::UTIME_NOW as u32;
    let mut utime_omit = setattr(FATTR_MTIME);
    utime_omit.mtimensec = libc::UTIME_OMIT as u32;
    let huge = SetattrIn {
        size: big,
        ..setattr(FATTR_SIZE)
    };
    let cases: &[(u32, Vec<u8>, Errno)] = &[
        (FUSE_LOOKUP, b"..\0".to_vec(), Errno::EINVAL),
        (FUSE_LOOKUP, b".\0".to_vec(), Errno::EINVAL),
        (FUSE_LOOKUP, b"a/b\0".to_vec(), Errno::EINVAL),
        (FUSE_LOOKUP, b"\0".to_vec(), Errno::EINVAL),
        (FUSE_LOOKUP, b"no nul".to_vec(), Errno::EINVAL),
        (FUSE_LOOKUP, b"".to_vec(), Errno::EINVAL),
        (FUSE_LOOKUP, long_name.clone(), Errno::ENAMETOOLONG),
        (FUSE_LOOKUP, vec![b'x'; 8000], Errno::ENAMETOOLONG),
        (FUSE_UNLINK, b"../x\0".to_vec(), Errno::EINVAL),
        (FUSE_RMDIR, b"..\0".to_vec(), Errno::EINVAL),
        (
            FUSE_MKDIR,
            cat(&[&u32s(&[0o755, 0]), b"a/b\0"]),
            Errno::EINVAL,
        ),
        (FUSE_MKNOD, cat(&[&u32s(&[0; 4]), b"..\0"]), Errno::EINVAL),
        (FUSE_CREATE, cat(&[&u32s(&[0; 4]), b"/\0"]), Errno::EINVAL),
        (
            FUSE_CREATE,
            cat(&[&u32s(&[0; 4]), &long_name]),
            Errno::ENAMETOOLONG,
        ),
        (FUSE_SYMLINK, b"..\0target\0".to_vec(), Errno::EINVAL),
        (FUSE_SYMLINK, b"name\0no nul".to_vec(), Errno::EINVAL),
        (
            FUSE_SYMLINK,
            cat(&[b"name\0", &[b'x'; 4096], b"\0"]),
            Errno::ENAMETOOLONG,
        ),
        (FUSE_LINK, cat(&[&u64s(&[6]), b"a/b\0"]), Errno::EINVAL),
        (FUSE_RENAME, cat(&[&u64s(&[6]), b"a\0..\0"]), Errno::EINVAL),
        (FUSE_RENAME, cat(&[&u64s(&[6]), b"a\0b"]), Errno::EINVAL),
        (
            FUSE_RENAME2,
            cat(&[&u64s(&[6]), &u32s(&[8, 0]), b"a\0b\0"]),
            Errno::EINVAL,
        ),
        (FUSE_SETATTR, utime_now.as_slice().to_vec(), Errno::EINVAL),
        (FUSE_SETATTR, utime_omit.as_slice().to_vec(), Errno::EINVAL),
        (FUSE_SETATTR, huge.as_slice().to_vec(), Errno::EINVAL),
        (
            FUSE_READ,
            cat(&[&u64s(&[9, big]), &u32s(&[1, 0]), &u64s(&[0, 0])]),
            Errno::EINVAL,
        ),
        (
            FUSE_WRITE,
            cat(&[&u64s(&[9, big]), &u32s(&[1, 0]), &u64s(&[0, 0]), b"x"]),
            Errno::EINVAL,
        ),
        (
            FUSE_WRITE,
            cat(&[&u64s(&[9, 0]), &u32s(&[2, 0]), &u64s(&[0, 0]), b"x"]),
            Errno::EINVAL,
        ),
        (FUSE_FALLOCATE, u64s(&[9, big, 1, 0]), Errno::EINVAL),
        (FUSE_FALLOCATE, u64s(&[9, 1, big, 0]), Errno::EINVAL),
        (
            FUSE_LSEEK,
            u64s(&[9, big, libc::SEEK_SET as u64]),
            Errno::EINVAL,
        ),
        (
            FUSE_LSEEK,
            u64s(&[9, big, libc::SEEK_HOLE as u64]),
            Errno::EINVAL,
        ),
        (
            FUSE_COPY_FILE_RANGE,
            u64s(&[9, big, 6, 10, 0, 1, 0]),
            Errno::EINVAL,
        ),
        (
            FUSE_COPY_FILE_RANGE_64,
            u64s(&[9, 0, 6, 10, big, 1, 0]),
            Errno::EINVAL,
        ),
        (
            FUSE_COPY_FILE_RANGE,
            u64s(&[9, 0, 6, 10, 0, 1, 1]),
            Errno::EINVAL,
        ),
        (FUSE_ACCESS, u32s(&[8, 0]), Errno::EINVAL),
        (
            FUSE_SETXATTR,
            cat(&[&u32s(&[65537, 0, 0, 0]), b"user.x\0"]),
            Errno::E2BIG,
        ),
        (
            FUSE_SETXATTR,
            cat(&[&u32s(&[9, 0, 0, 0]), b"user.x\0v"]),
            Errno::EINVAL,
        ),
        (
            FUSE_SETXATTR,
            cat(&[&u32s(&[1, 0, 0, 0]), b"user.x\0vw"]),
            Errno::EINVAL,
        ),
        (
            FUSE_SETXATTR,
            cat(&[&u32s(&[0, 0, 0, 0]), b"\0"]),
            Errno::ERANGE,
        ),
        (
            FUSE_GETXATTR,
            cat(&[&u32s(&[64, 0]), &long_name]),
            Errno::ERANGE,
        ),
        (
            FUSE_GETXATTR,
            cat(&[&u32s(&[64, 0]), b"user.x"]),
            Errno::EINVAL,
        ),
        (FUSE_REMOVEXATTR, b"\0".to_vec(), Errno::ERANGE),
    ];
    for (opcode, body, errno) in cases {
        assert_eq!(
            call(&server, *opcode, 5, body),
            Reply::err(*errno),
            "{:?} {:?}",
            opcode_name(*opcode),
            body.escape_ascii()
        );
    }
    assert!(server.fs().taken().is_empty());
}

#[test]
fn long_names_and_targets_are_taken_up_to_their_limits() {
    let server = server();
    let name = [b'x'; 255];
    let target = [b'y'; 4095];
    assert_eq!(
        call(&server, FUSE_LOOKUP, 1, &cat(&[&name, b"\0"]))
            .unwrap()
            .error,
        0
    );
    let symlink = cat(&[&name, b"\0", &target, b"\0"]);
    assert_eq!(call(&server, FUSE_SYMLINK, 1, &symlink).unwrap().error, 0);
    let value = vec![b'v'; 65536];
    let body = cat(&[&u32s(&[65536, 0, 0, 0]), &name, b"\0", &value]);
    assert_eq!(call(&server, FUSE_SETXATTR, 1, &body).unwrap().error, 0);
    let asked = server.fs().taken();
    assert_eq!(asked.len(), 3);
    assert!(asked[1].contains(&"y".repeat(4095)));
    assert!(asked[2].contains(&"v".repeat(65536)));
}

#[test]
fn padding_behind_the_last_name_does_no_harm() {
    let server = server();
    call(&server, FUSE_LOOKUP, 1, b"a\0\0\0\0junk");
    call(
        &server,
        FUSE_MKDIR,
        1,
        &cat(&[&u32s(&[0o755, 0]), b"d\0\0\0\0"]),
    );
    assert_eq!(
        server.fs().taken(),
        [r#"lookup(1, "a")"#, r#"mkdir(1, "d", 493, 0)"#]
    );
}

#[test]
fn values_that_do_not_fit_are_erange() {
    let server = server();
    *server.fs().value.lock().unwrap() = vec![b'v'; 100];
    let body = cat(&[&u32s(&[99, 0]), b"user.x\0"]);
    assert_eq!(
        call(&server, FUSE_GETXATTR, 1, &body),
        Reply::err(Errno::ERANGE)
    );
    assert_eq!(
        call(&server, FUSE_LISTXATTR, 1, &u32s(&[99, 0])),
        Reply::err(Errno::ERANGE)
    );
    // The guest asks for more than its own buffer takes.
    let body = cat(&[&u32s(&[4096, 0]), b"user.x\0"]);
    let request = cat(&[header(FUSE_GETXATTR, 1, 40 + body.len()).as_slice(), &body]);
    for (room, want) in [
        (OUT_HEADER_LEN + 99, Reply::err(Errno::ERANGE)),
        (OUT_HEADER_LEN, Reply::err(Errno::ERANGE)),
        (OUT_HEADER_LEN + 100, Reply::ok(&[b'v'; 100])),
    ] {
        assert_eq!(send(&server, &request, room), want, "{room}");
    }
    assert_eq!(
        call(&server, FUSE_READLINK, 1, &[]),
        Reply::ok(&[b'v'; 100])
    );
}

#[test]
fn a_read_is_clamped_to_the_room_of_its_reply() {
    let server = server();
    write_file(&server, b"0123456789");
    let body = cat(&[&u64s(&[9, 0]), &u32s(&[u32::MAX, 0]), &u64s(&[0, 0])]);
    let request = cat(&[header(FUSE_READ, 1, 80).as_slice(), &body]);
    assert_eq!(send(&server, &request, 16 + 4), Reply::ok(b"0123"));
    assert_eq!(server.fs().taken(), ["read(1, 9, 0, 4, 0)"]);
}

#[test]
fn a_write_ends_where_its_size_says_whatever_the_chain_holds() {
    let server = server();
    let body = cat(&[
        &u64s(&[9, 0]),
        &u32s(&[4, 0]),
        &u64s(&[0, 0]),
        b"0123456789",
    ]);
    assert_eq!(
        call(&server, FUSE_WRITE, 1, &body),
        Reply::ok(&u32s(&[4, 0]))
    );
    let mut contents = [0; 16];
    let n = rustix::io::pread(&server.fs().file, &mut contents, 0).unwrap();
    assert_eq!(&contents[..n], b"0123");
}

#[test]
fn a_batch_of_forgets_is_taken_as_far_as_it_goes() {
    let server = server();
    let items: Vec<u8> = (1..=150u64).flat_map(|i| u64s(&[i, 1])).collect();
    for count in [150, u32::MAX] {
        assert_eq!(
            call(
                &server,
                FUSE_BATCH_FORGET,
                0,
                &cat(&[&u32s(&[count, 0]), &items])
            ),
            None
        );
        let asked = server.fs().taken();
        assert_eq!(asked.len(), 150);
        assert_eq!(asked[149], "forget(150, 1)");
    }
}

#[test]
fn waits_are_interrupted_while_the_device_stops() {
    let server = server();
    Service::interrupt(&server);
    server.resume();
    assert_eq!(server.fs().taken(), ["interrupt_waits", "allow_waits"]);
}
