//! Lookups, names and the operations that change them.

use std::os::unix::fs::MetadataExt;

use super::support::*;
use crate::errno::Errno;
use crate::fs::{FileSystem, InitOffer, SetAttr, SetTime};
use crate::passthrough::inode::Place;
use crate::types::NodeId;

#[test]
fn both_modes_are_what_they_say() {
    in_both_modes(|share| {
        share.write_file("f", b"");
        let node = share.lookup(ROOT, "f").unwrap().node;
        let inode = share.fs.inodes().get(node).unwrap();
        match inode.place() {
            Place::Fd(_) => assert!(!share.is_by_handle()),
            Place::Handle { mount, handle } => {
                assert!(share.is_by_handle());
                assert_eq!(mount.id(), inode.numbers().mnt_id);
                assert!(!handle.bytes().is_empty());
            }
            Place::Lost(_) => panic!("lost"),
        }
    });
}

#[test]
fn a_lookup_is_the_same_inode_until_it_is_forgotten() {
    in_both_modes(|share| {
        share.write_file("f", b"12345");
        let base = descriptors_in(share);
        let first = share.lookup(ROOT, "f").unwrap();
        assert_eq!(first.node, NodeId(2));
        assert_eq!(first.attr.size, 5);
        assert_eq!(
            first.attr.ino,
            std::fs::metadata(share.path("f")).unwrap().ino()
        );
        for _ in 0..9 {
            assert_eq!(share.lookup(ROOT, "f").unwrap().node, first.node);
        }
        let held = usize::from(!share.is_by_handle());
        assert_eq!(descriptors_in(share), base + held);
        share.fs.forget(first.node, 9);
        assert!(share.fs.getattr(&root(), first.node, None).is_ok());
        share.fs.forget(first.node, 1);
        assert_eq!(
            share.fs.getattr(&root(), first.node, None).unwrap_err(),
            Errno::EBADF
        );
        assert_eq!(descriptors_in(share), base);
        assert_eq!(share.lookup(ROOT, "f").unwrap().node, NodeId(3));
        share.fs.forget(NodeId(3), u64::MAX);
        share.fs.forget(NodeId(99), 1);
        share.fs.forget(ROOT, u64::MAX);
        assert!(share.fs.getattr(&root(), ROOT, None).is_ok());
        assert_eq!(share.lookup(ROOT, "absent").unwrap_err(), Errno::ENOENT);
        assert_eq!(share.lookup(NodeId(99), "f").unwrap_err(), Errno::EBADF);
    });
}

#[test]
fn a_replaced_file_is_another_inode_even_with_the_same_number() {
    in_both_modes(|share| {
        share.write_file("f", b"");
        let mut seen = vec![share.lookup(ROOT, "f").unwrap().node];
        // ext4 gives the number just freed to the next file; by handle nothing
        // keeps it busy.
        for _ in 0..20 {
            std::fs::remove_file(share.path("f")).unwrap();
            share.write_file("f", b"");
            let entry = share.lookup(ROOT, "f").unwrap();
            assert!(!seen.contains(&entry.node));
            assert_eq!(share.remembered(*seen.last().unwrap()), None);
            seen.push(entry.node);
        }
        let old = share.fs.getattr(&root(), seen[0], None);
        match old {
            Ok(reply) => assert_eq!(reply.attr.nlink, 0),
            Err(e) => assert_eq!(e, Errno::ESTALE),
        }
    });
}

#[test]
fn what_others_remove_is_gone_and_no_longer_remembered() {
    in_both_modes(|share| {
        share.write_file("f", b"");
        let node = share.lookup(ROOT, "f").unwrap().node;
        assert_eq!(share.remembered(node).unwrap(), "f");
        std::fs::remove_file(share.path("f")).unwrap();
        assert_eq!(share.lookup(ROOT, "f").unwrap_err(), Errno::ENOENT);
        assert_eq!(share.remembered(node), None);
    });
}

#[test]
fn making_and_removing_each_kind() {
    in_both_modes(|share| {
        let fs = &share.fs;
        let ctx = root();
        let dir = fs.mkdir(&ctx, ROOT, name("d"), 0o755, 0).unwrap();
        assert!(share.path("d").is_dir());
        let sub = fs.mkdir(&ctx, dir.node, name("sub"), 0o700, 0).unwrap();
        let link = fs
            .symlink(&ctx, c"../else\xffwhere", dir.node, name("l"))
            .unwrap();
        assert_eq!(fs.readlink(&ctx, link.node).unwrap(), b"../else\xffwhere");
        assert_eq!(link.attr.mode & libc::S_IFMT, libc::S_IFLNK);
        let fifo = fs
            .mknod(&ctx, dir.node, name("p"), libc::S_IFIFO | 0o600, 0, 0)
            .unwrap();
        assert_eq!(fifo.attr.mode & libc::S_IFMT, libc::S_IFIFO);
        if is_root() {
            // 259:70000 in the kernel's 32-bit form.
            let rdev = (70000 & 0xff) | (259 << 8) | ((70000 & !0xff) << 12);
            let mode = libc::S_IFCHR | 0o600;
            let dev = fs.mknod(&ctx, dir.node, name("c"), mode, rdev, 0).unwrap();
            assert_eq!(dev.attr.rdev, rdev);
            let on_disk = std::fs::symlink_metadata(share.path("d/c")).unwrap().rdev();
            assert_eq!(on_disk, libc::makedev(259, 70000));
            fs.unlink(&ctx, dir.node, name("c")).unwrap();
        }
        assert_eq!(share.remembered(sub.node).unwrap(), "d/sub");
        assert_eq!(
            fs.rmdir(&ctx, ROOT, name("d")).unwrap_err(),
            Errno::ENOTEMPTY
        );
        assert_eq!(share.remembered(dir.node).unwrap(), "d", "nothing happened");
        assert_eq!(
            fs.unlink(&ctx, dir.node, name("sub")).unwrap_err(),
            Errno::EISDIR
        );
        fs.rmdir(&ctx, dir.node, name("sub")).unwrap();
        fs.unlink(&ctx, dir.node, name("l")).unwrap();
        fs.unlink(&ctx, dir.node, name("p")).unwrap();
        fs.rmdir(&ctx, ROOT, name("d")).unwrap();
        assert!(!share.path("d").exists());
        assert_eq!(share.remembered(sub.node), None);
        assert_eq!(fs.unlink(&ctx, ROOT, name("d")).unwrap_err(), Errno::ENOENT);
    });
}

#[test]
fn renames_move_replace_and_exchange() {
    in_both_modes(|share| {
        let fs = &share.fs;
        let ctx = root();
        let a = fs.mkdir(&ctx, ROOT, name("a"), 0o755, 0).unwrap().node;
        let b = fs.mkdir(&ctx, ROOT, name("b"), 0o755, 0).unwrap().node;
        share.write_file("a/one", b"one");
        share.write_file("b/two", b"two");
        let one = share.lookup(a, "one").unwrap().node;
        let two = share.lookup(b, "two").unwrap().node;
        let exchange = libc::RENAME_EXCHANGE;
        fs.rename(&ctx, a, name("one"), b, name("two"), exchange)
            .unwrap();
        assert_eq!(share.read_file("a/one"), b"two");
        assert_eq!(share.remembered(one).unwrap(), "b/two");
        assert_eq!(share.remembered(two).unwrap(), "a/one");
        let noreplace = libc::RENAME_NOREPLACE;
        let refused = fs.rename(&ctx, a, name("one"), b, name("two"), noreplace);
        assert_eq!(refused.unwrap_err(), Errno::EEXIST);
        assert_eq!(share.remembered(two).unwrap(), "a/one");
        fs.rename(&ctx, a, name("one"), b, name("two"), 0).unwrap();
        assert_eq!(share.read_file("b/two"), b"two");
        assert_eq!(share.remembered(two).unwrap(), "b/two");
        assert_eq!(share.remembered(one), None);
        fs.rename(&ctx, ROOT, name("b"), a, name("inner"), 0)
            .unwrap();
        assert_eq!(share.remembered(two).unwrap(), "a/inner/two");
        assert_eq!(share.read_file("a/inner/two"), b"two");
        // The lookups by the new way are the old inodes.
        assert_eq!(share.lookup(a, "inner").unwrap().node, b);
        assert_eq!(share.lookup(b, "two").unwrap().node, two);
    });
}

#[test]
fn a_whiteout_takes_the_old_name() {
    if !is_root() {
        return;
    }
    in_both_modes(|share| {
        share.write_file("f", b"x");
        let node = share.lookup(ROOT, "f").unwrap().node;
        let flags = libc::RENAME_WHITEOUT;
        let done = share
            .fs
            .rename(&root(), ROOT, name("f"), ROOT, name("g"), flags);
        if done == Err(Errno::EINVAL) {
            return; // this file system has none
        }
        done.unwrap();
        assert_eq!(share.remembered(node).unwrap(), "g");
        let whiteout = share.lookup(ROOT, "f").unwrap();
        assert_ne!(whiteout.node, node);
        assert_eq!(whiteout.attr.mode & libc::S_IFMT, libc::S_IFCHR);
        assert_eq!(whiteout.attr.rdev, 0);
        assert_eq!(share.read_file("g"), b"x");
    });
}

#[test]
fn hard_links_are_one_inode_with_two_names() {
    in_both_modes(|share| {
        let fs = &share.fs;
        let ctx = root();
        let dir = fs.mkdir(&ctx, ROOT, name("d"), 0o755, 0).unwrap().node;
        share.write_file("f", b"x");
        let node = share.lookup(ROOT, "f").unwrap().node;
        let linked = fs.link(&ctx, node, dir, name("g")).unwrap();
        assert_eq!((linked.node, linked.attr.nlink), (node, 2));
        assert_eq!(std::fs::metadata(share.path("d/g")).unwrap().nlink(), 2);
        assert_eq!(fs.inodes().get(node).unwrap().lookups(), 2);
        fs.unlink(&ctx, dir, name("g")).unwrap();
        assert_eq!(share.remembered(node).unwrap(), "f");
        fs.link(&ctx, node, dir, name("h")).unwrap();
        fs.unlink(&ctx, ROOT, name("f")).unwrap();
        assert_eq!(share.remembered(node).unwrap(), "d/h");
        // A symbolic link itself can be linked, and is not followed.
        let link = fs
            .symlink(&ctx, c"/etc/passwd", ROOT, name("l"))
            .unwrap()
            .node;
        let again = fs.link(&ctx, link, dir, name("l2")).unwrap();
        assert_eq!(again.node, link);
        let target = std::fs::read_link(share.path("d/l2")).unwrap();
        assert_eq!(target.to_str(), Some("/etc/passwd"));
        assert_eq!(
            fs.link(&ctx, dir, ROOT, name("dirlink")).unwrap_err(),
            Errno::EPERM
        );
    });
}

#[test]
fn links_are_never_followed() {
    in_both_modes(|share| {
        std::os::unix::fs::symlink("/etc", share.path("out")).unwrap();
        let out = share.lookup(ROOT, "out").unwrap();
        assert_eq!(out.attr.mode & libc::S_IFMT, libc::S_IFLNK);
        assert_eq!(
            share.lookup(out.node, "passwd").unwrap_err(),
            Errno::ENOTDIR
        );
        let made = share.fs.mkdir(&root(), out.node, name("x"), 0o755, 0);
        assert_eq!(made.unwrap_err(), Errno::ENOTDIR);
        assert_eq!(
            share.fs.opendir(&root(), out.node, 0).unwrap_err(),
            Errno::ENOTDIR
        );
    });
}

#[test]
fn paths_deeper_than_path_max() {
    in_both_modes(|share| {
        let long = "n".repeat(200);
        let mut node = ROOT;
        let mut all = Vec::new();
        for _ in 0..40 {
            let made = share
                .fs
                .mkdir(&root(), node, name(&long), 0o755, 0)
                .unwrap();
            all.push(node);
            node = made.node;
        }
        let flags = libc::O_RDWR as u32;
        let (file, opened) = share
            .fs
            .create(&root(), node, name("deep"), 0o600, 0, flags, false)
            .unwrap();
        share
            .write(file.node, opened.handle, 0, b"down here", 0, false)
            .unwrap();
        let again = share.lookup(node, "deep").unwrap();
        assert_eq!(again.node, file.node);
        assert_eq!(again.attr.size, 9);
        let path = share.remembered(file.node).unwrap();
        assert!(path.len() > libc::PATH_MAX as usize);
        // Taken down again from below: the temporary directory's own removal is
        // not to be relied on for such paths.
        share.fs.unlink(&root(), node, name("deep")).unwrap();
        for parent in all.into_iter().rev() {
            share.fs.rmdir(&root(), parent, name(&long)).unwrap();
        }
    });
}

#[test]
fn destroy_lets_go_of_everything_but_the_counters() {
    in_both_modes(|share| {
        let base = descriptors_in(share);
        let mut last = (0, 0);
        for i in 0..5 {
            let (entry, opened) = share.create(&format!("f{i}"), libc::O_RDWR).unwrap();
            last = (entry.node.0, opened.handle.0);
        }
        share.fs.mkdir(&root(), ROOT, name("d"), 0o755, 0).unwrap();
        assert!(descriptors_in(share) > base);
        share.fs.destroy();
        assert_eq!(descriptors_in(share), base);
        assert_eq!(share.fs.inodes().len(), 1);
        assert!(share.fs.handles().is_empty() && share.fs.names().is_empty());
        assert_eq!(share.fs.session_flags(), 0);
        let offer = InitOffer {
            minor: 38,
            flags: u64::MAX,
            max_readahead: 0,
        };
        share.fs.adopt_session(share.fs.init(&offer).unwrap().flags);
        let (entry, opened) = share.create("f0", libc::O_RDWR).unwrap();
        assert!(entry.node.0 > last.0 && opened.handle.0 > last.1);
        assert_eq!(share.remembered(entry.node).unwrap(), "f0");
    });
}

#[test]
fn threads_that_look_up_and_forget_see_one_file() {
    in_both_modes(|share| {
        share.write_file("f", b"x");
        let base = descriptors_in(share);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let node = share.lookup(ROOT, "f").unwrap().node;
                        let attr = share.fs.getattr(&root(), node, None).unwrap().attr;
                        assert_eq!(attr.size, 1);
                        share.fs.forget(node, 1);
                    }
                });
            }
        });
        assert_eq!(share.fs.inodes().len(), 1);
        assert!(share.fs.names().is_empty());
        assert_eq!(descriptors_in(share), base);
    });
}

#[test]
fn threads_that_make_rename_and_remove_leave_no_trace() {
    in_both_modes(|share| {
        let fs = &share.fs;
        let base = descriptors_in(share);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    for i in 0..200 {
                        let (x, y) = (
                            name(["a", "b", "c"][i % 3]),
                            name(["b", "c", "d"][(i + thread) % 3]),
                        );
                        let flags = libc::O_RDWR as u32;
                        if let Ok((entry, opened)) =
                            fs.create(&root(), ROOT, x, 0o600, 0, flags, false)
                        {
                            let _ = fs.rename(&root(), ROOT, x, ROOT, y, 0);
                            let _ = fs.unlink(&root(), ROOT, y);
                            fs.release(&root(), entry.node, opened.handle).unwrap();
                            fs.forget(entry.node, 1);
                        }
                    }
                });
            }
        });
        assert_eq!(fs.inodes().len(), 1);
        assert!(fs.names().is_empty() && fs.handles().is_empty());
        assert_eq!(descriptors_in(share), base);
    });
}

#[test]
fn what_has_lost_its_last_name_is_there_until_it_is_forgotten() {
    in_both_modes(|share| {
        let base = descriptors_in(share);
        for n in ["unlinked", "replaced", "new", "linked"] {
            share.write_file(n, n.as_bytes());
        }
        std::fs::hard_link(share.path("linked"), share.path("other")).unwrap();
        std::fs::create_dir(share.path("dir")).unwrap();
        std::fs::create_dir(share.path("full")).unwrap();
        share.write_file("full/f", b"");
        let look = |n| share.lookup(ROOT, n).unwrap().node;
        let gone = [look("unlinked"), look("replaced"), look("dir")];
        let (linked, full, new) = (look("linked"), look("full"), look("new"));
        let known = descriptors_in(share);
        share.fs.unlink(&root(), ROOT, name("unlinked")).unwrap();
        share
            .fs
            .rename(&root(), ROOT, name("new"), ROOT, name("replaced"), 0)
            .unwrap();
        share.fs.rmdir(&root(), ROOT, name("dir")).unwrap();
        // Neither of these is gone.
        share.fs.unlink(&root(), ROOT, name("linked")).unwrap();
        assert_eq!(
            share.fs.rmdir(&root(), ROOT, name("full")).unwrap_err(),
            Errno::ENOTEMPTY
        );
        let kept = if share.is_by_handle() { 3 } else { 0 };
        let root_cached = usize::from(share.is_by_handle());
        assert!(descriptors_in(share) <= known + kept + root_cached);

        // As a guest does that writes the times of what it has just removed back.
        let times = SetAttr {
            mtime: Some(SetTime::At(1_000_000_000, 0)),
            ..SetAttr::default()
        };
        for node in gone {
            let attr = share.fs.setattr(&root(), node, None, &times).unwrap().attr;
            assert_eq!((attr.nlink, attr.mtime), (0, 1_000_000_000));
            share.fs.forget(node, 1);
        }
        for node in [linked, full, new] {
            assert!(share.fs.getattr(&root(), node, None).unwrap().attr.nlink > 0);
            share.fs.forget(node, 1);
        }
        share.fs.destroy();
        assert_eq!(descriptors_in(share), base);
    });
}
