//! What is done as the guest's users, and with which modes.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::support::*;
use crate::abi;
use crate::errno::Errno;
use crate::fs::{Context, FileSystem};

fn status() -> String {
    std::fs::read_to_string("/proc/thread-self/status")
        .unwrap()
        .lines()
        .filter(|l| {
            ["Uid", "Gid", "Groups", "CapEff"]
                .iter()
                .any(|k| l.starts_with(k))
        })
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn what_a_user_makes_is_the_users() {
    if !is_root() {
        return;
    }
    in_both_modes(|share| {
        std::fs::set_permissions(share.dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let ctx = user(1000, 1001);
        let before = status();
        let fs = &share.fs;
        fs.mkdir(&ctx, ROOT, name("dir"), 0o755, 0).unwrap();
        assert_eq!(status(), before);
        fs.mknod(&ctx, ROOT, name("fifo"), libc::S_IFIFO | 0o600, 0, 0)
            .unwrap();
        assert_eq!(status(), before);
        fs.symlink(&ctx, c"target", ROOT, name("link")).unwrap();
        assert_eq!(status(), before);
        let flags = libc::O_RDWR as u32;
        fs.create(&ctx, ROOT, name("file"), 0o640, 0, flags, false)
            .unwrap();
        assert_eq!(status(), before);
        let (entry, _) = fs.tmpfile(&ctx, ROOT, 0o600, 0, flags).unwrap();
        assert_eq!((entry.attr.uid, entry.attr.gid), (1000, 1001));
        assert_eq!(status(), before);
        for made in ["dir", "fifo", "link", "file"] {
            let meta = std::fs::symlink_metadata(share.path(made)).unwrap();
            assert_eq!((meta.uid(), meta.gid()), (1000, 1001), "{made}");
        }
        // Failing ones go back as well.
        assert_eq!(
            fs.mkdir(&ctx, ROOT, name("dir"), 0o755, 0).unwrap_err(),
            Errno::EEXIST
        );
        assert_eq!(status(), before);
        let excl = (libc::O_RDWR | libc::O_EXCL) as u32;
        let again = fs.create(&ctx, ROOT, name("file"), 0o640, 0, excl, false);
        assert_eq!(again.unwrap_err(), Errno::EEXIST);
        assert_eq!(status(), before);
    });
}

#[test]
fn groups_sent_count_for_one_request_only() {
    if !is_root() {
        return;
    }
    in_both_modes(|share| {
        let dir = share.path("team");
        std::fs::create_dir(&dir).unwrap();
        std::os::unix::fs::chown(&dir, Some(0), Some(4242)).unwrap();
        std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o770)).unwrap();
        let team = share.lookup(ROOT, "team").unwrap().node;
        let groups = [4242];
        let with = |uid, gid| Context {
            supplementary_groups: Some(&groups),
            ..user(uid, gid)
        };
        let make = |ctx: &Context<'_>, n: &str| {
            let flags = libc::O_RDWR as u32;
            share
                .fs
                .create(ctx, team, name(n), 0o600, 0, flags, false)
                .map(drop)
        };
        // As the guest's root first: no group may be left on this thread.
        make(&with(0, 0), "root").unwrap();
        assert_eq!(make(&user(1000, 1000), "no").unwrap_err(), Errno::EACCES);
        make(&with(1000, 1000), "member").unwrap();
        assert_eq!(make(&user(1000, 1000), "no").unwrap_err(), Errno::EACCES);
        assert!(!dir.join("no").exists());
        // A guest that does not tell groups has checked by itself.
        let flags = share.fs.session_flags() & !abi::FUSE_CREATE_SUPP_GROUP;
        share.fs.adopt_session(flags);
        make(&user(1000, 1000), "trusted").unwrap();
        assert_eq!(std::fs::metadata(dir.join("trusted")).unwrap().uid(), 1000);
    });
}

#[test]
fn modes_are_as_asked_whatever_the_process_mask() {
    in_both_modes(|share| {
        let fs = &share.fs;
        let ctx = root();
        let mode = |n: &str| std::fs::symlink_metadata(share.path(n)).unwrap().mode();
        fs.mkdir(&ctx, ROOT, name("d"), 0o1777, 0).unwrap();
        assert_eq!(mode("d") & 0o7777, 0o1777);
        fs.mknod(&ctx, ROOT, name("n"), libc::S_IFREG | 0o666, 0, 0)
            .unwrap();
        assert_eq!(mode("n") & 0o7777, 0o666);
        let flags = libc::O_RDWR as u32;
        fs.create(
            &ctx,
            ROOT,
            name("c"),
            libc::S_IFREG | 0o666,
            0o022,
            flags,
            false,
        )
        .unwrap();
        assert_eq!(mode("c") & 0o7777, 0o666, "the guest has masked");
        fs.adopt_session(fs.session_flags() | abi::FUSE_DONT_MASK);
        fs.mkdir(&ctx, ROOT, name("masked"), 0o777, 0o027).unwrap();
        assert_eq!(mode("masked") & 0o7777, 0o750);
    });
}

#[test]
fn bits_are_killed_by_writes_and_truncations_that_ask_for_it() {
    if !is_root() {
        return;
    }
    use crate::fs::{SetAttr, WriteArgs};
    in_both_modes_with(
        |config| config.killpriv_v2 = true,
        |share| {
            share.write_file("f", b"data");
            let path = share.path("f");
            let arm = || {
                std::fs::set_permissions(&path, PermissionsExt::from_mode(0o6775)).unwrap();
            };
            let mode = || std::fs::metadata(&path).unwrap().mode() & 0o7777;
            let node = share.lookup(ROOT, "f").unwrap().node;
            let handle = share.open(node, libc::O_RDWR).unwrap();
            let write = |kill_suidgid| {
                let args = WriteArgs {
                    offset: 0,
                    size: 1,
                    flags: 0,
                    from_cache: false,
                    kill_suidgid,
                };
                let mut data = Bytes(vec![b'x']);
                share
                    .fs
                    .write(&root(), node, handle, &args, &mut data)
                    .unwrap();
            };
            arm();
            write(false);
            assert_eq!(mode(), 0o6775);
            write(true);
            assert_eq!(mode(), 0o775);
            for handle in [None, Some(handle)] {
                arm();
                let mut set = SetAttr {
                    size: Some(2),
                    ..SetAttr::default()
                };
                share.fs.setattr(&root(), node, handle, &set).unwrap();
                assert_eq!(mode(), 0o6775);
                set.kill_suidgid = true;
                share.fs.setattr(&root(), node, handle, &set).unwrap();
                assert_eq!(mode(), 0o775);
            }
            arm();
            let flags = (libc::O_RDWR | libc::O_TRUNC) as u32;
            share.fs.open(&root(), node, flags, true).unwrap();
            assert_eq!(mode(), 0o775);
            assert_eq!(share.read_file("f"), b"");
        },
    );
}

#[test]
fn access_follows_the_mode() {
    in_both_modes(|share| {
        share.write_file("f", b"");
        std::fs::set_permissions(share.path("f"), PermissionsExt::from_mode(0o640)).unwrap();
        let entry = share.lookup(ROOT, "f").unwrap();
        let (owner, group) = (entry.attr.uid, entry.attr.gid);
        let can = |uid, gid, mask| share.fs.access(&user(uid, gid), entry.node, mask).is_ok();
        let (r, w, x) = (libc::R_OK as u32, libc::W_OK as u32, libc::X_OK as u32);
        assert!(can(0, 0, r | w));
        assert!(!can(0, 0, x), "nobody may run it");
        if owner != 4711 {
            assert!(can(4711, group, r));
            assert!(!can(4711, group, w));
            assert!(!can(4711, group + 1, r));
        }
        assert!(owner == 0 || can(owner, 9, r | w));
    });
}
