//! Open files: what is read, written, allocated and copied.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::support::*;
use crate::abi;
use crate::errno::Errno;
use crate::fs::{FileSystem, InitOffer, SetAttr, SetTime, XattrReply};
use crate::passthrough::config::{CachePolicy, InodeFileHandles};
use crate::types::{HandleId, NodeId};

fn status_flags(share: &Share, node: NodeId, handle: HandleId) -> i32 {
    let file = share.fs.handles().find_any(handle, node).unwrap();
    rustix::fs::fcntl_getfl(file.fd().unwrap()).unwrap().bits() as i32
}

#[test]
fn data_goes_there_and_back_in_pieces() {
    in_both_modes(|share| {
        let (entry, opened) = share.create("f", libc::O_RDWR).unwrap();
        let data: Vec<u8> = (0..5000u32).map(|i| i as u8).collect();
        let n = share
            .write(entry.node, opened.handle, 10, &data, 0, false)
            .unwrap();
        assert_eq!(n, 5000);
        let disk = share.read_file("f");
        assert_eq!(&disk[10..], data);
        assert_eq!(disk[..10], [0; 10]);
        let got = share.read(entry.node, opened.handle, 5, 9999).unwrap();
        assert_eq!(got, disk[5..]);
        assert!(share
            .read(entry.node, opened.handle, 5010, 10)
            .unwrap()
            .is_empty());
        share
            .fs
            .flush(&root(), entry.node, opened.handle, 0)
            .unwrap();
        share
            .fs
            .fsync(&root(), entry.node, opened.handle, true)
            .unwrap();
        share
            .fs
            .fsync(&root(), entry.node, opened.handle, false)
            .unwrap();
        share
            .fs
            .release(&root(), entry.node, opened.handle)
            .unwrap();
        let gone = share.read(entry.node, opened.handle, 0, 1);
        assert_eq!(gone.unwrap_err(), Errno::EBADF);
    });
}

#[test]
fn positions_beyond_what_linux_has_are_refused() {
    in_both_modes(|share| {
        let (entry, opened) = share.create("f", libc::O_RDWR).unwrap();
        for offset in [1 << 63, u64::MAX, i64::MAX as u64] {
            assert!(share.read(entry.node, opened.handle, offset, 10).is_err());
            assert!(share
                .write(entry.node, opened.handle, offset, b"0123456789", 0, false)
                .is_err());
        }
        let fs = &share.fs;
        let h = opened.handle;
        assert_eq!(
            fs.fallocate(&root(), entry.node, h, 0, 1 << 63, 1)
                .unwrap_err(),
            Errno::EINVAL
        );
        let set = SetAttr {
            size: Some(u64::MAX),
            ..SetAttr::default()
        };
        assert_eq!(
            fs.setattr(&root(), entry.node, None, &set).unwrap_err(),
            Errno::EFBIG
        );
        assert_eq!(
            fs.copy_file_range(&root(), (entry.node, h, 1 << 63), (entry.node, h, 0), 1, 0)
                .unwrap_err(),
            Errno::EINVAL
        );
        assert_eq!(share.read_file("f"), b"");
    });
}

#[test]
fn appending_is_done_per_write_and_not_by_the_descriptor() {
    in_both_modes(|share| {
        share.write_file("f", b"old");
        for make in [true, false] {
            let (node, handle) = if make {
                let (entry, opened) = share.create("f", libc::O_WRONLY | libc::O_APPEND).unwrap();
                (entry.node, opened.handle)
            } else {
                let node = share.lookup(ROOT, "f").unwrap().node;
                (
                    node,
                    share.open(node, libc::O_WRONLY | libc::O_APPEND).unwrap(),
                )
            };
            assert_eq!(status_flags(share, node, handle) & libc::O_APPEND, 0);
            share.write_file("f", b"old");
            share
                .write(node, handle, 0, b"+new", libc::O_APPEND, false)
                .unwrap();
            assert_eq!(share.read_file("f"), b"old+new");
            // From the page cache, the offset is right as it is.
            share
                .write(node, handle, 0, b"OLD", libc::O_APPEND, true)
                .unwrap();
            assert_eq!(share.read_file("f"), b"OLD+new");
        }
    });
}

#[test]
fn with_writeback_every_writable_file_can_be_read() {
    in_both_modes_with(
        |config| config.writeback = true,
        |share| {
            let (made, h1) = share.create("f", libc::O_WRONLY).unwrap();
            let h2 = share.open(made.node, libc::O_WRONLY).unwrap();
            let (again, h3) = share.create("f", libc::O_WRONLY).unwrap();
            assert_eq!(again.node, made.node);
            let (tmp, h4) = share
                .fs
                .tmpfile(&root(), ROOT, 0o600, 0, libc::O_WRONLY as u32)
                .unwrap();
            for (node, handle) in [
                (made.node, h1.handle),
                (made.node, h2),
                (made.node, h3.handle),
                (tmp.node, h4.handle),
            ] {
                assert_eq!(
                    status_flags(share, node, handle) & libc::O_ACCMODE,
                    libc::O_RDWR
                );
                share.write(node, handle, 0, b"x", 0, true).unwrap();
                assert_eq!(share.read(node, handle, 0, 1).unwrap(), b"x");
                let file = share.fs.handles().find_any(handle, node).unwrap();
                assert_eq!(file.guest_flags() as i32 & libc::O_ACCMODE, libc::O_WRONLY);
                assert_eq!(file.host_flags() as i32 & libc::O_ACCMODE, libc::O_RDWR);
            }
        },
    );
}

#[test]
fn flags_that_are_not_allowed_do_not_reach_the_host_by_any_way() {
    let odd = libc::O_DIRECT | libc::O_NOATIME | libc::O_NOFOLLOW | libc::O_PATH;
    in_both_modes(|share| {
        let (made, opened) = share.create("f", libc::O_RDWR | odd).unwrap();
        let again = share.open(made.node, libc::O_RDWR | odd).unwrap();
        for handle in [opened.handle, again] {
            let flags = status_flags(share, made.node, handle);
            assert_eq!(flags & (libc::O_DIRECT | libc::O_NOATIME | libc::O_PATH), 0);
        }
    });
    let share = Share::new(|config| {
        config.allow_direct_io = true;
        config.preserve_noatime = true;
    });
    let flags = share.fs.effective_flags((libc::O_RDWR | odd) as u32, 0) as i32;
    assert_eq!(flags, libc::O_RDWR | libc::O_DIRECT | libc::O_NOATIME);
}

#[test]
fn create_opens_what_is_there_and_truncates_when_asked() {
    in_both_modes(|share| {
        share.write_file("f", b"data");
        let known = share.lookup(ROOT, "f").unwrap();
        let (entry, opened) = share.create("f", libc::O_RDWR).unwrap();
        assert_eq!(entry.node, known.node);
        assert_eq!(
            share.read(entry.node, opened.handle, 0, 10).unwrap(),
            b"data"
        );
        let (entry, _) = share.create("f", libc::O_RDWR | libc::O_TRUNC).unwrap();
        assert_eq!(entry.attr.size, 0);
        assert_eq!(share.read_file("f"), b"");
        assert_eq!(share.fs.inodes().get(known.node).unwrap().lookups(), 3);
    });
}

#[test]
fn create_that_fails_leaves_no_reference() {
    in_both_modes(|share| {
        std::fs::create_dir(share.path("dir")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", share.path("link")).unwrap();
        share
            .fs
            .mknod(&root(), ROOT, name("fifo"), libc::S_IFIFO | 0o600, 0, 0)
            .unwrap();
        let fifo = share.lookup(ROOT, "fifo").unwrap().node;
        let flags = libc::O_RDWR;
        assert_eq!(share.create("dir", flags).unwrap_err(), Errno::EISDIR);
        assert_eq!(share.create("link", flags).unwrap_err(), Errno::ELOOP);
        assert_eq!(share.create("fifo", flags).unwrap_err(), Errno::EBADF);
        assert_eq!(share.fs.inodes().get(fifo).unwrap().lookups(), 2);
        assert_eq!(share.fs.inodes().len(), 2, "the root and the fifo");
        assert!(share.fs.handles().is_empty());
    });
}

#[test]
fn only_regular_files_are_ever_opened() {
    in_both_modes(|share| {
        std::os::unix::fs::symlink("f", share.path("link")).unwrap();
        std::fs::create_dir(share.path("dir")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(share.path("sock")).unwrap();
        share
            .fs
            .mknod(&root(), ROOT, name("fifo"), libc::S_IFIFO | 0o600, 0, 0)
            .unwrap();
        for (what, want) in [
            ("link", Errno::ELOOP),
            ("dir", Errno::EISDIR),
            ("sock", Errno::EBADF),
            ("fifo", Errno::EBADF),
        ] {
            let node = share.lookup(ROOT, what).unwrap().node;
            assert_eq!(
                share.open(node, libc::O_RDONLY).unwrap_err(),
                want,
                "{what}"
            );
        }
    });
}

#[test]
fn a_file_of_mode_0_and_an_unlinked_one_stay_usable() {
    in_both_modes(|share| {
        let (entry, opened) = share.create("f", libc::O_RDWR).unwrap();
        share
            .write(entry.node, opened.handle, 0, b"kept", 0, false)
            .unwrap();
        std::fs::set_permissions(share.path("f"), PermissionsExt::from_mode(0o0)).unwrap();
        if is_root() {
            share.open(entry.node, libc::O_RDONLY).unwrap();
        }
        share.fs.unlink(&root(), ROOT, name("f")).unwrap();
        assert_eq!(
            share.read(entry.node, opened.handle, 0, 9).unwrap(),
            b"kept"
        );
        let attr = share
            .fs
            .getattr(&root(), entry.node, Some(opened.handle))
            .unwrap()
            .attr;
        assert_eq!((attr.nlink, attr.size), (0, 4));
        let attr = share.fs.getattr(&root(), entry.node, None).unwrap().attr;
        assert_eq!(attr.nlink, 0);
    });
}

#[test]
fn a_nameless_file_can_be_given_a_name() {
    in_both_modes(|share| {
        let flags = libc::O_RDWR as u32;
        let (entry, opened) = share.fs.tmpfile(&root(), ROOT, 0o600, 0, flags).unwrap();
        assert_eq!(entry.attr.nlink, 0);
        assert_eq!(share.remembered(entry.node), None);
        share
            .write(entry.node, opened.handle, 0, b"tmp", 0, false)
            .unwrap();
        let linked = share
            .fs
            .link(&root(), entry.node, ROOT, name("named"))
            .unwrap();
        assert_eq!(linked.node, entry.node);
        assert_eq!(linked.attr.nlink, 1);
        assert_eq!(share.read_file("named"), b"tmp");
        assert_eq!(share.remembered(entry.node).unwrap(), "named");
        assert_eq!(share.lookup(ROOT, "named").unwrap().node, entry.node);
        let excl = flags | libc::O_EXCL as u32;
        let (entry, _) = share.fs.tmpfile(&root(), ROOT, 0o600, 0, excl).unwrap();
        let linked = share.fs.link(&root(), entry.node, ROOT, name("never"));
        assert_eq!(linked.unwrap_err(), Errno::ENOENT);
    });
}

#[test]
fn setattr_sets_each_and_all() {
    in_both_modes(|share| {
        share.write_file("f", b"data");
        let node = share.lookup(ROOT, "f").unwrap().node;
        let open = share.open(node, libc::O_RDWR).unwrap();
        for handle in [None, Some(open)] {
            let set = SetAttr {
                mode: Some(libc::S_IFREG | 0o4711),
                size: Some(5_000_000_000),
                atime: Some(SetTime::At(-77, 5)),
                mtime: Some(SetTime::At(1_000_000_000, 999_999_999)),
                uid: is_root().then_some(1234),
                ..SetAttr::default()
            };
            let attr = share.fs.setattr(&root(), node, handle, &set).unwrap().attr;
            let meta = std::fs::metadata(share.path("f")).unwrap();
            assert_eq!(meta.mode() & 0o7777, 0o4711, "set after the owner");
            assert_eq!(meta.len(), 5_000_000_000);
            assert_eq!((meta.atime(), meta.atime_nsec()), (-77, 5));
            assert_eq!(
                (meta.mtime(), meta.mtime_nsec()),
                (1_000_000_000, 999_999_999)
            );
            assert_eq!(attr.atime as i64, -77);
            assert_eq!(attr.size, 5_000_000_000);
            if is_root() {
                assert_eq!((meta.uid(), meta.gid()), (1234, 0), "the group is left");
            }
            let now = SetAttr {
                mtime: Some(SetTime::Now),
                size: Some(1),
                ..SetAttr::default()
            };
            share.fs.setattr(&root(), node, handle, &now).unwrap();
            let meta = std::fs::metadata(share.path("f")).unwrap();
            assert!(meta.mtime() > 1_700_000_000);
            assert_eq!(
                (meta.atime(), meta.len()),
                (-77, 1),
                "the other time is left"
            );
        }
    });
}

#[test]
fn setattr_of_a_link_never_touches_what_it_leads_to() {
    in_both_modes(|share| {
        share.write_file("f", b"");
        let before = std::fs::metadata(share.path("f")).unwrap();
        let link = share
            .fs
            .symlink(&root(), c"f", ROOT, name("l"))
            .unwrap()
            .node;
        let set = SetAttr {
            mtime: Some(SetTime::At(12345, 0)),
            uid: is_root().then_some(77),
            ..SetAttr::default()
        };
        share.fs.setattr(&root(), link, None, &set).unwrap();
        let mode = SetAttr {
            mode: Some(0o777),
            ..SetAttr::default()
        };
        assert!(share.fs.setattr(&root(), link, None, &mode).is_err());
        let meta = std::fs::symlink_metadata(share.path("l")).unwrap();
        assert_eq!(meta.mtime(), 12345);
        let after = std::fs::metadata(share.path("f")).unwrap();
        assert_eq!(after.mtime(), before.mtime());
        assert_eq!((after.uid(), after.mode()), (before.uid(), before.mode()));
        assert_eq!(share.fs.readlink(&root(), link).unwrap(), b"f");
        let file = share.lookup(ROOT, "f").unwrap().node;
        assert_eq!(share.fs.readlink(&root(), file).unwrap_err(), Errno::EINVAL);
    });
}

#[test]
fn holes_copies_and_room() {
    in_both_modes(|share| {
        let fs = &share.fs;
        let (a, ha) = share.create("a", libc::O_RDWR).unwrap();
        let (b, hb) = share.create("b", libc::O_RDWR).unwrap();
        share
            .write(a.node, ha.handle, 1 << 20, b"far", 0, false)
            .unwrap();
        let data = fs
            .lseek(&root(), a.node, ha.handle, 0, libc::SEEK_DATA as u32)
            .unwrap();
        assert_eq!(data, 1 << 20);
        let hole = fs
            .lseek(&root(), a.node, ha.handle, 0, libc::SEEK_HOLE as u32)
            .unwrap();
        assert_eq!(hole, 0);
        assert_eq!(
            fs.lseek(&root(), a.node, ha.handle, 1 << 30, libc::SEEK_DATA as u32)
                .unwrap_err(),
            Errno::ENXIO
        );
        let from = (a.node, ha.handle, 1 << 20);
        let n = fs
            .copy_file_range(&root(), from, (b.node, hb.handle, 1), u64::MAX, 0)
            .unwrap();
        assert_eq!(n, 3);
        assert_eq!(share.read_file("b"), b"\0far");
        fs.fallocate(&root(), b.node, hb.handle, 0, 0, 100).unwrap();
        assert_eq!(share.read_file("b").len(), 100);
        let st = fs.statfs(&root(), a.node).unwrap();
        assert!(st.blocks > 0 && st.bsize > 0 && st.namelen >= 255);
        fs.syncfs(&root(), ROOT).unwrap();
    });
}

#[test]
fn attributes_of_every_kind_of_file() {
    in_both_modes_with(
        |config| config.xattr = true,
        |share| {
            let fs = &share.fs;
            share.write_file("file", b"");
            std::fs::create_dir(share.path("dir")).unwrap();
            std::os::unix::fs::symlink("file", share.path("link")).unwrap();
            fs.mknod(&root(), ROOT, name("fifo"), libc::S_IFIFO | 0o600, 0, 0)
                .unwrap();
            // Only trusted attributes go on all kinds; user ones where data is.
            let all: &[&str] = if is_root() {
                &["file", "dir", "link", "fifo"]
            } else {
                &[]
            };
            for n in all {
                let node = share.lookup(ROOT, n).unwrap().node;
                fs.setxattr(&root(), node, c"trusted.t", b"value", 0, false)
                    .unwrap();
                let size = fs.getxattr(&root(), node, c"trusted.t", 0).unwrap();
                assert!(matches!(size, XattrReply::Size(5)), "{n}");
                let value = fs.getxattr(&root(), node, c"trusted.t", 100).unwrap();
                assert!(matches!(value, XattrReply::Value(v) if v == b"value"));
                assert_eq!(
                    fs.getxattr(&root(), node, c"trusted.t", 2).unwrap_err(),
                    Errno::ERANGE
                );
                let Ok(XattrReply::Value(list)) = fs.listxattr(&root(), node, 1000) else {
                    panic!("no list");
                };
                assert_eq!(list, b"trusted.t\0");
                assert_eq!(fs.listxattr(&root(), node, 3).unwrap_err(), Errno::ERANGE);
                let create = libc::XATTR_CREATE as u32;
                assert_eq!(
                    fs.setxattr(&root(), node, c"trusted.t", b"", create, false)
                        .unwrap_err(),
                    Errno::EEXIST
                );
                fs.removexattr(&root(), node, c"trusted.t").unwrap();
                assert_eq!(
                    fs.getxattr(&root(), node, c"trusted.t", 100).unwrap_err(),
                    Errno::ENODATA
                );
            }
            let node = share.lookup(ROOT, "file").unwrap().node;
            for acl in [c"system.posix_acl_access", c"system.posix_acl_default"] {
                let refused = fs.setxattr(&root(), node, acl, b"x", 0, false);
                assert_eq!(refused.unwrap_err(), Errno::EOPNOTSUPP);
            }
        },
    );
    let share = Share::new(|_| {});
    let off = share.fs.getxattr(&root(), ROOT, c"user.x", 0);
    assert_eq!(off.unwrap_err(), Errno::ENOSYS);
}

#[test]
fn the_cache_policy_decides_what_the_guest_keeps() {
    let direct = abi::FOPEN_DIRECT_IO | abi::FOPEN_PARALLEL_DIRECT_WRITES;
    let keep_dir = abi::FOPEN_CACHE_DIR | abi::FOPEN_KEEP_CACHE;
    for (cache, file, dir, seconds) in [
        (CachePolicy::Never, direct, 0, 0),
        (CachePolicy::metadata(), direct, keep_dir, 86_400),
        (CachePolicy::auto(), 0, 0, 1),
        (
            CachePolicy::always(),
            abi::FOPEN_KEEP_CACHE,
            keep_dir,
            86_400,
        ),
    ] {
        let share = Share::new(|config| config.cache = cache);
        let (entry, opened) = share.create("f", libc::O_RDWR).unwrap();
        assert_eq!(opened.fopen_flags, file);
        assert_eq!(entry.entry_timeout.as_secs(), seconds);
        let opened = share.fs.opendir(&root(), ROOT, 0).unwrap();
        assert_eq!(opened.fopen_flags, dir);
        // Closing what was only read asks for nothing.
        for (flags, more) in [
            (libc::O_RDONLY, abi::FOPEN_NOFLUSH),
            (libc::O_WRONLY, 0),
            (libc::O_RDWR, 0),
        ] {
            let opened = share.fs.open(&root(), entry.node, flags as u32, false);
            assert_eq!(opened.unwrap().fopen_flags, file | more);
        }
        // Links do not change; that something is not there may.
        let offer = InitOffer {
            minor: 45,
            flags: u64::MAX,
            max_readahead: 0,
        };
        let wish = share.fs.init(&offer).unwrap().flags;
        let links = wish & abi::FUSE_CACHE_SYMLINKS != 0;
        assert_eq!(links, cache != CachePolicy::Never);
        let absent = share.fs.absent_for().map_or(0, |time| time.as_secs());
        let alone = matches!(cache, CachePolicy::Always { .. });
        assert_eq!(absent, if alone { 86_400 } else { 0 });
    }
}

#[test]
fn a_regular_file_can_be_the_share() {
    for mode in [InodeFileHandles::Never, InodeFileHandles::Prefer] {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"alone").unwrap();
        let root_fd = std::fs::File::open(file.path()).unwrap();
        let mut config = crate::passthrough::config::Config::new(root_fd.into());
        config.inode_file_handles = mode;
        let fs = crate::passthrough::Passthrough::new(config).unwrap();
        let attr = fs.getattr(&root(), ROOT, None).unwrap().attr;
        assert_eq!((attr.mode & libc::S_IFMT, attr.size), (libc::S_IFREG, 5));
        let opened = fs.open(&root(), ROOT, libc::O_RDWR as u32, false).unwrap();
        let mut out = Room(Vec::new(), 10);
        let args = crate::fs::ReadArgs {
            offset: 0,
            size: 10,
            flags: 0,
        };
        fs.read(&root(), ROOT, opened.handle, &args, &mut out)
            .unwrap();
        assert_eq!(out.0, b"alone");
        let inside = fs.lookup(&root(), ROOT, name("x"));
        assert_eq!(inside.unwrap_err(), Errno::ENOTDIR);
    }
}

#[test]
fn sessions_that_cannot_be_honoured_are_refused_with_the_remedy() {
    let share = Share::new(|_| {});
    let check = |flags| share.fs.check_session(flags);
    assert!(check(share.fs.session_flags()).is_ok());
    assert!(check(abi::FUSE_WRITEBACK_CACHE)
        .unwrap_err()
        .contains("--writeback"));
    assert!(check(abi::FUSE_HANDLE_KILLPRIV_V2)
        .unwrap_err()
        .contains("--killpriv-v2"));
    assert!(check(abi::FUSE_POSIX_ACL)
        .unwrap_err()
        .contains("FUSE_POSIX_ACL"));
    assert_eq!(share.fs.session_flags() & abi::FUSE_WRITEBACK_CACHE, 0);
    let other = Share::new(|config| config.writeback = true);
    assert!(other.fs.check_session(abi::FUSE_WRITEBACK_CACHE).is_ok());
}
