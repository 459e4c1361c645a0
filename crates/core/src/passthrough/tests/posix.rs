//! What `cargo xtask posix` has found to differ from a bare file system.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use rustix::fs::XattrFlags;

use super::support::*;
use crate::abi;
use crate::errno::Errno;
use crate::fs::{FileSystem, InitOffer, SetAttr, XattrReply};
use crate::passthrough::config::{CachePolicy, Config};

fn mode(share: &Share, n: &str) -> u32 {
    let meta = std::fs::symlink_metadata(share.path(n)).unwrap();
    meta.mode() & 0o7777
}

fn set_mode(share: &Share, n: &str, mode: u32) {
    std::fs::set_permissions(share.path(n), PermissionsExt::from_mode(mode)).unwrap();
}

#[test]
fn a_user_s_truncating_open_clears_set_id_bits() {
    if !is_root() {
        return;
    }
    let truncate = (libc::O_WRONLY | libc::O_TRUNC) as u32;
    in_both_modes(|share| {
        share.write_file("f", b"program");
        let node = share.lookup(ROOT, "f").unwrap().node;
        let open = |uid, flags| share.fs.open(&user(uid, uid), node, flags, false).unwrap();
        set_mode(share, "f", 0o6777);
        open(1000, libc::O_WRONLY as u32);
        assert_eq!(mode(share, "f"), 0o6777, "not truncated");
        open(0, truncate);
        assert_eq!(mode(share, "f"), 0o6777, "root may");
        open(1000, truncate);
        assert_eq!(mode(share, "f"), 0o777);
        set_mode(share, "f", 0o6777);
        let ctx = user(1000, 1000);
        share
            .fs
            .create(&ctx, ROOT, name("f"), 0o644, 0, truncate, false)
            .unwrap();
        assert_eq!(mode(share, "f"), 0o777);
        // A guest that has left it to the host says so where it wants it.
        let flags = share.fs.session_flags() | abi::FUSE_HANDLE_KILLPRIV_V2;
        share.fs.adopt_session(flags);
        set_mode(share, "f", 0o6777);
        open(1000, truncate);
        assert_eq!(mode(share, "f"), 0o6777);
    });
}

#[test]
fn special_files_that_have_lost_their_name_can_be_asked_about() {
    in_both_modes(|share| {
        let base = descriptors_in(share);
        let made = [
            ("fifo", libc::S_IFIFO),
            ("socket", libc::S_IFSOCK),
            ("file", libc::S_IFREG),
        ];
        for (n, kind) in made {
            let entry = share
                .fs
                .mknod(&root(), ROOT, name(n), kind | 0o600, 0, 0)
                .unwrap();
            share.fs.unlink(&root(), ROOT, name(n)).unwrap();
            let attr = share.fs.getattr(&root(), entry.node, None).unwrap().attr;
            assert_eq!((attr.nlink, attr.mode), (0, kind | 0o600), "{n}");
            share.fs.forget(entry.node, 1);
        }
        let link = share
            .fs
            .symlink(&root(), c"target", ROOT, name("link"))
            .unwrap();
        share.fs.unlink(&root(), ROOT, name("link")).unwrap();
        assert_eq!(share.fs.readlink(&root(), link.node).unwrap(), b"target");
        share.fs.forget(link.node, 1);
        // Nor longer than that.
        assert_eq!(descriptors_in(share), base);
    });
}

#[test]
fn users_see_no_trusted_attributes() {
    let xattr = |config: &mut Config| config.xattr = true;
    in_both_modes_with(xattr, |share| {
        share.write_file("f", b"");
        let path = share.path("f");
        let set = |n: &str| rustix::fs::setxattr(&path, n, b"v", XattrFlags::empty());
        if set("trusted.a").and_then(|()| set("user.a")).is_err() {
            return;
        }
        let node = share.lookup(ROOT, "f").unwrap().node;
        let list = |uid, size| share.fs.listxattr(&user(uid, uid), node, size);
        match list(1000, 100).unwrap() {
            XattrReply::Value(names) => assert_eq!(names, b"user.a\0"),
            XattrReply::Size(_) => panic!("not a list"),
        }
        assert!(matches!(list(1000, 0).unwrap(), XattrReply::Size(7)));
        assert_eq!(list(0, 8).err(), Some(Errno::ERANGE));
        assert!(matches!(list(0, 0).unwrap(), XattrReply::Size(17)));
    });
}

#[test]
fn setting_nothing_is_a_change_of_owner_to_the_same() {
    in_both_modes(|share| {
        share.write_file("f", b"program");
        set_mode(share, "f", 0o4755);
        let node = share.lookup(ROOT, "f").unwrap().node;
        let before = std::fs::metadata(share.path("f")).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        let nothing = SetAttr::default();
        let attr = share.fs.setattr(&root(), node, None, &nothing).unwrap();
        let after = std::fs::metadata(share.path("f")).unwrap();
        assert_eq!(attr.attr.mode & 0o7777, 0o755);
        assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
        let ctime = |meta: &std::fs::Metadata| (meta.ctime(), meta.ctime_nsec());
        assert!(ctime(&after) > ctime(&before));
        assert_eq!(after.mtime_nsec(), before.mtime_nsec());
    });
}

#[test]
fn a_whiteout_is_the_user_s_who_renamed() {
    if !is_root() {
        return;
    }
    in_both_modes(|share| {
        share.write_file("f", b"x");
        share.write_file("g", b"x");
        let flags = libc::RENAME_WHITEOUT;
        let rename = |from, to| {
            let (from, to) = (name(from), name(to));
            let ctx = user(1000, 1001);
            share.fs.rename(&ctx, ROOT, from, ROOT, to, flags)
        };
        match rename("f", "moved") {
            // Not every file system has them.
            Err(Errno::EINVAL) => return,
            done => done.unwrap(),
        }
        let owner = |n: &str| {
            let meta = std::fs::symlink_metadata(share.path(n)).unwrap();
            (meta.mode() & libc::S_IFMT, meta.uid(), meta.gid())
        };
        assert_eq!(owner("f"), (libc::S_IFCHR, 1000, 1001));
        assert_eq!(owner("moved"), (libc::S_IFREG, 0, 0));
        std::os::unix::fs::chown(share.dir.path(), None, Some(7)).unwrap();
        std::fs::set_permissions(share.dir.path(), PermissionsExt::from_mode(0o2777)).unwrap();
        rename("g", "away").unwrap();
        assert_eq!(owner("g"), (libc::S_IFCHR, 1000, 7));
    });
}

#[test]
fn nothing_is_written_back_where_nothing_is_cached() {
    let offer = InitOffer {
        minor: 38,
        flags: u64::MAX,
        max_readahead: 0,
    };
    for (cache, written_back) in [
        (CachePolicy::auto(), true),
        (CachePolicy::always(), true),
        (CachePolicy::metadata(), false),
        (CachePolicy::Never, false),
    ] {
        let share = Share::new(|config| {
            config.writeback = true;
            config.cache = cache;
        });
        let wish = share.fs.init(&offer).unwrap();
        let wished = wish.flags & abi::FUSE_WRITEBACK_CACHE != 0;
        assert_eq!(wished, written_back, "{cache:?}");
        // A guest that does come with it is taken all the same.
        let session = share.fs.session_flags() | abi::FUSE_WRITEBACK_CACHE;
        share.fs.check_session(session).unwrap();
    }
}
