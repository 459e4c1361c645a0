//! Looking names up without a descriptor.

use std::os::fd::{AsFd, OwnedFd};

use super::support::*;
use crate::fs::FileSystem;
use crate::passthrough::config::InodeFileHandles;
use crate::passthrough::inode::InodeArc;
use crate::passthrough::lookup::{kind_of, numbers_of, open_path, Object};
use crate::passthrough::sys;

/// A share by handle, and its directory; none where names are not looked up without a
/// descriptor.
fn share() -> Option<(Share, OwnedFd)> {
    let share = Share::new(|config| config.inode_file_handles = InodeFileHandles::Prefer);
    let dir = OwnedFd::from(std::fs::File::open(share.dir.path()).unwrap());
    share.write_file("probe", b"");
    let adopted = share.fs.adopt_name(dir.as_fd(), name("probe"));
    if adopted.unwrap().is_none() {
        eprintln!("skipped: no file handles, or none with a number");
        return None;
    }
    Some((share, dir))
}

#[test]
fn a_name_leads_to_the_same_inode_with_and_without_a_descriptor() {
    let Some((share, dir)) = share() else { return };
    share.write_file("file", b"data");
    std::fs::hard_link(share.path("file"), share.path("link")).unwrap();
    std::fs::create_dir(share.path("dir")).unwrap();
    std::os::unix::fs::symlink("nowhere", share.path("symlink")).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(&dir, "fifo", rustix::fs::FileType::Fifo, mode, 0).unwrap();
    for n in ["file", "link", "dir", "symlink", "fifo"] {
        let adopted = share.fs.adopt_name(dir.as_fd(), name(n)).unwrap();
        let (without, stx) = adopted.unwrap_or_else(|| panic!("{n} takes a descriptor"));
        assert_eq!(without.numbers(), numbers_of(&stx), "{n}");
        assert_eq!(without.kind(), kind_of(&stx), "{n}");
        let there = open_path(dir.as_fd(), name(n)).unwrap();
        let (with, _) = share.fs.adopt(Object::Path(there)).unwrap();
        assert!(InodeArc::ptr_eq(&with, &without), "{n}");
        let fd = with.fd().unwrap();
        assert_eq!(
            numbers_of(&sys::statx(fd.as_fd()).unwrap()),
            numbers_of(&stx)
        );
    }
}

#[test]
fn what_is_exchanged_meanwhile_is_never_taken_for_the_other() {
    let Some((share, dir)) = share() else { return };
    share.write_file("x", b"data");
    std::fs::create_dir(share.path("y")).unwrap();
    let mut seen = std::collections::HashSet::new();
    std::thread::scope(|scope| {
        let exchanger = scope.spawn(|| {
            let exchange = rustix::fs::RenameFlags::EXCHANGE;
            for _ in 0..100_000 {
                rustix::fs::renameat_with(&dir, "x", &dir, "y", exchange).unwrap();
            }
        });
        while !exchanger.is_finished() {
            let entry = share.lookup(ROOT, "x").unwrap();
            let inode = share.fs.inodes().get(entry.node).unwrap();
            // By its handle.
            let is = sys::statx(inode.fd().unwrap().as_fd()).unwrap();
            assert_eq!(inode.numbers(), numbers_of(&is));
            assert_eq!(inode.kind(), kind_of(&is));
            assert_eq!(entry.attr.ino, is.stx_ino);
            assert_eq!(entry.attr.mode & libc::S_IFMT, kind_of(&is));
            seen.insert(entry.attr.ino);
            share.fs.forget(entry.node, 1);
        }
    });
    assert_eq!(seen.len(), 2, "they were exchanged");
}
