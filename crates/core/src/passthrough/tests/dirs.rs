//! Listings: complete, each name once, whatever happens meanwhile.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;

use super::support::*;
use crate::errno::Errno;
use crate::fs::FileSystem;
use crate::types::HandleId;

fn opendir(share: &Share) -> HandleId {
    share.fs.opendir(&root(), ROOT, 0).unwrap().handle
}

#[test]
fn a_listing_of_3000_entries_can_be_resumed_anywhere() {
    in_both_modes(|share| {
        for i in 0..3000 {
            share.write_file(&format!("file-{i}"), b"");
        }
        let handle = opendir(share);
        // In requests of odd sizes: each entry once.
        let mut all = Vec::new();
        let mut offset = 0;
        for room in (1..).map(|i| 1 + i % 37) {
            let some = share.list_some(ROOT, handle, offset, room, false).unwrap();
            let Some(last) = some.last() else { break };
            offset = last.offset;
            all.extend(some);
        }
        assert_eq!(all.len(), 3002);
        let names: HashSet<_> = all.iter().map(|e| e.name.clone()).collect();
        assert_eq!(names.len(), 3002);
        assert!(names.contains(&b"."[..]) && names.contains(&b".."[..]));
        // From any position, by this handle or a new one, what comes next is the
        // same.
        let other = opendir(share);
        for at in [0, 1, 77, 1500, 2999, 3000] {
            for handle in [handle, other] {
                let some = share
                    .list_some(ROOT, handle, all[at].offset, 5, false)
                    .unwrap();
                let want: Vec<_> = all[at + 1..].iter().take(5).map(|e| &e.name).collect();
                let got: Vec<_> = some.iter().map(|e| &e.name).collect();
                assert_eq!(got, want, "behind entry {at}");
            }
        }
        let end = share
            .list_some(ROOT, handle, all[3001].offset, 5, false)
            .unwrap();
        assert!(end.is_empty());
        // Rewound, it shows what has changed.
        std::fs::remove_file(share.path("file-5")).unwrap();
        let again = share.list_some(ROOT, handle, 0, 9999, false).unwrap();
        assert_eq!(again.len(), 3001);
        assert!(share.fs.inodes().len() == 1, "nothing was looked up");
    });
}

#[test]
fn readdirplus_gives_a_reference_for_each_entry_listed_and_no_more() {
    in_both_modes(|share| {
        for i in 0..20 {
            share.write_file(&format!("f{i}"), &vec![0; i]);
        }
        let handle = opendir(share);
        let some = share.list_some(ROOT, handle, 0, 10, true).unwrap();
        let given: Vec<_> = some.iter().filter_map(|e| e.entry).collect();
        let dots = some
            .iter()
            .filter(|e| e.name == b"." || e.name == b"..")
            .count();
        assert_eq!(given.len(), some.len() - dots);
        assert_eq!(share.fs.inodes().len(), 1 + given.len());
        let again = share.list_some(ROOT, handle, 0, 10, true).unwrap();
        for (a, b) in some.iter().zip(&again) {
            assert_eq!(a.entry.map(|e| e.node), b.entry.map(|e| e.node));
        }
        for entry in given {
            let found = share.fs.inodes().get(entry.node).unwrap();
            assert_eq!(found.lookups(), 2);
            share.fs.forget(entry.node, 2);
        }
        assert_eq!(share.fs.inodes().len(), 1);
        assert!(share.fs.names().is_empty());
    });
}

#[test]
fn an_entry_that_vanishes_is_still_listed() {
    in_both_modes(|share| {
        for i in 0..50 {
            share.write_file(&format!("f{i}"), b"");
        }
        let handle = opendir(share);
        let dir = share.dir.path().to_owned();
        let mut emptied = false;
        let mut listing = Listing {
            plus: true,
            room: 999,
            got: Vec::new(),
            // With the first one listed, all the others go.
            each: Box::new(move |name| {
                if !emptied && name != b"." && name != b".." {
                    emptied = true;
                    for entry in std::fs::read_dir(&dir).unwrap() {
                        std::fs::remove_file(entry.unwrap().path()).unwrap();
                    }
                }
            }),
        };
        share
            .fs
            .readdir(&root(), ROOT, handle, 0, &mut listing)
            .unwrap();
        assert_eq!(listing.got.len(), 52);
        let with = listing.got.iter().filter(|e| e.entry.is_some()).count();
        assert_eq!(with, 1);
        assert_eq!(share.fs.inodes().len(), 2);
    });
}

#[test]
fn names_of_any_bytes_are_listed_found_and_remembered() {
    in_both_modes(|share| {
        let odd: &[u8] = b"caf\xe9 \xff\n\x01";
        share.write_file("plain", b"x");
        std::fs::rename(
            share.path("plain"),
            share.dir.path().join(std::ffi::OsStr::from_bytes(odd)),
        )
        .unwrap();
        let handle = opendir(share);
        let all = share.list_some(ROOT, handle, 0, 9, true).unwrap();
        let listed = all.iter().find(|e| e.name == odd).unwrap();
        let node = listed.entry.unwrap().node;
        assert_eq!(
            share
                .fs
                .lookup(&root(), ROOT, name_bytes(odd))
                .unwrap()
                .node,
            node
        );
        let (parent, name) = share.fs.names().primary(share.fs.inodes(), node).unwrap();
        assert_eq!((parent, &*name), (ROOT, odd));
    });
}

#[test]
fn handles_of_files_and_directories_are_not_mixed() {
    in_both_modes(|share| {
        let (file, opened) = share.create("f", libc::O_RDWR).unwrap();
        let dir = opendir(share);
        assert_eq!(share.read(ROOT, dir, 0, 1).unwrap_err(), Errno::EBADF);
        assert_eq!(share.read(file.node, dir, 0, 1).unwrap_err(), Errno::EBADF);
        assert!(share
            .list_some(file.node, opened.handle, 0, 1, false)
            .is_err());
        assert_eq!(
            share.fs.opendir(&root(), file.node, 0).unwrap_err(),
            Errno::ENOTDIR
        );
        assert_eq!(
            share.fs.release(&root(), ROOT, dir).unwrap_err(),
            Errno::EBADF
        );
        share.fs.fsyncdir(&root(), ROOT, dir, false).unwrap();
        share.fs.releasedir(&root(), ROOT, dir).unwrap();
        assert!(share.list_some(ROOT, dir, 0, 1, false).is_err());
    });
}

#[test]
fn a_position_that_no_file_system_gave_is_an_error_or_the_end() {
    in_both_modes(|share| {
        share.write_file("f", b"");
        let handle = opendir(share);
        for offset in [u64::MAX, 1 << 63, (1 << 63) + 5] {
            let listed = share.list_some(ROOT, handle, offset, 9, true);
            assert!(listed.map_or(true, |l| l.is_empty()));
        }
        // And the handle is none the worse for it.
        assert_eq!(share.list_some(ROOT, handle, 0, 9, false).unwrap().len(), 3);
    });
}
