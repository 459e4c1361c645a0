//! Inodes encoded while the guest goes on. In each crossing in pieces, here and elsewhere,
//! what was encoded ahead is compared with what is encoded after the stop
//! (`Whole::is_as_if_made_now`); these see to it that there is something to compare.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;

use ferryfs_state::Location;

use super::super::super::config::{InodeFileHandles, MigrationMode};
use super::super::super::tests::mounts::{mount_tmpfs, with_own_mounts};
use super::super::super::tests::support::is_root;
use super::super::super::Passthrough;
use super::{
    c, collect, daemon, encode_ahead, format, lookup, mount, open, received, restore, walk, ways,
    written, CTX, FIND,
};
use crate::fs::FileSystem;
use crate::migrate::MigrateFs;
use crate::types::{Name, NodeId};

/// Something that happens between the look and the stop: it may change what is said of so
/// many inodes, by name and by handle.
struct Change {
    what: &'static str,
    by_name: usize,
    by_handle: usize,
    change: fn(&Passthrough, &Path),
}

fn node(fs: &Passthrough, path: &[&[u8]]) -> NodeId {
    let all = path.iter().try_fold(NodeId::ROOT, |at, name| {
        fs.names.known(&fs.inodes, at, name).map(|inode| inode.id())
    });
    all.unwrap_or_else(|| panic!("{path:?} is not known"))
}

fn rename(fs: &Passthrough, from: (NodeId, &[u8]), to: (NodeId, &[u8]), flags: u32) {
    let (old, new) = (c(from.1), c(to.1));
    let (old, new) = (Name::new(&old).unwrap(), Name::new(&new).unwrap());
    fs.rename(&CTX, from.0, old, to.0, new, flags).unwrap();
}

const CHANGES: &[Change] = &[
    Change {
        what: "nothing",
        by_name: 0,
        by_handle: 0,
        change: |_, _| {},
    },
    Change {
        what: "a lookup of what is known",
        by_name: 1,
        by_handle: 1,
        change: |fs, _| {
            lookup(fs, node(fs, &[b"d"]), b"one").unwrap();
        },
    },
    Change {
        what: "a lookup of what is new",
        by_name: 1,
        by_handle: 1,
        change: |fs, share| {
            fs::write(share.join("d/new"), "new").unwrap();
            lookup(fs, node(fs, &[b"d"]), b"new").unwrap();
        },
    },
    Change {
        what: "a lookup by another name",
        by_name: 1,
        by_handle: 1,
        change: |fs, share| {
            fs::hard_link(share.join("d/one"), share.join("other")).unwrap();
            lookup(fs, NodeId::ROOT, b"other").unwrap();
        },
    },
    Change {
        what: "a file that is created",
        by_name: 1,
        by_handle: 1,
        change: |fs, _| {
            let (name, flags) = (c(b"made"), (libc::O_RDWR | libc::O_CREAT) as u32);
            let name = Name::new(&name).unwrap();
            fs.create(&CTX, NodeId::ROOT, name, 0o600, 0, flags, false)
                .unwrap();
        },
    },
    Change {
        what: "a file without a name",
        by_name: 1,
        by_handle: 1,
        change: |fs, _| {
            fs.tmpfile(&CTX, NodeId::ROOT, 0o600, 0, libc::O_RDWR as u32)
                .unwrap();
        },
    },
    Change {
        what: "a hard link",
        by_name: 1,
        by_handle: 1,
        change: |fs, _| {
            let name = c(b"linked");
            let name = Name::new(&name).unwrap();
            fs.link(&CTX, node(fs, &[b"d", b"one"]), NodeId::ROOT, name)
                .unwrap();
        },
    },
    Change {
        what: "a lookup given back of two",
        by_name: 1,
        by_handle: 1,
        change: |fs, _| fs.forget(node(fs, &[b"d", b"twice"]), 1),
    },
    Change {
        what: "a file that is forgotten",
        by_name: 1,
        by_handle: 1,
        change: |fs, _| fs.forget(node(fs, &[b"d", b"one"]), 1),
    },
    Change {
        what: "a directory that is forgotten before what is in it",
        // It, and five that say a path now.
        by_name: 6,
        by_handle: 1,
        change: |fs, _| fs.forget(node(fs, &[b"d"]), 1),
    },
    Change {
        what: "a directory that is known again",
        // It, and the one in it.
        by_name: 2,
        by_handle: 1,
        change: |fs, _| {
            lookup(fs, NodeId::ROOT, b"pinned").unwrap();
        },
    },
    Change {
        what: "a rename",
        by_name: 1,
        by_handle: 1,
        change: |fs, _| {
            let d = node(fs, &[b"d"]);
            rename(fs, (d, b"one"), (NodeId::ROOT, b"moved"), 0);
        },
    },
    Change {
        what: "a rename over another file",
        by_name: 2,
        by_handle: 2,
        change: |fs, _| {
            let d = node(fs, &[b"d"]);
            rename(fs, (d, b"one"), (d, b"twice"), 0);
        },
    },
    Change {
        what: "two files that change places",
        by_name: 2,
        by_handle: 2,
        change: |fs, _| {
            let d = node(fs, &[b"d"]);
            rename(fs, (d, b"one"), (d, b"twice"), libc::RENAME_EXCHANGE);
        },
    },
    Change {
        what: "a directory that is renamed",
        // What is in it says where it is by nodeid.
        by_name: 1,
        by_handle: 1,
        change: |fs, _| {
            rename(fs, (NodeId::ROOT, b"d"), (NodeId::ROOT, b"e"), 0);
        },
    },
    Change {
        what: "a file that is unlinked",
        by_name: 1,
        by_handle: 1,
        change: |fs, _| {
            let name = c(b"one");
            fs.unlink(&CTX, node(fs, &[b"d"]), Name::new(&name).unwrap())
                .unwrap();
        },
    },
    Change {
        what: "a directory that others rename",
        // Seen after the stop.
        by_name: 1,
        by_handle: 0,
        change: |_, share| fs::rename(share.join("d"), share.join("e")).unwrap(),
    },
    Change {
        what: "an open file that others unlink",
        by_name: 1,
        by_handle: 0,
        change: |_, share| fs::remove_file(share.join("d/open")).unwrap(),
    },
    Change {
        what: "a forgotten directory that others rename",
        // What is in it says a path that has its name.
        by_name: 2,
        by_handle: 0,
        change: |_, share| fs::rename(share.join("pinned"), share.join("p")).unwrap(),
    },
    Change {
        what: "another guest",
        by_name: usize::MAX,
        by_handle: usize::MAX,
        change: |fs, _| {
            fs.destroy();
            fs.adopt_session(0);
            walk(fs, &[b"d", b"deep", b"file"]);
        },
    },
];

/// What the guest knows before the look.
fn look_around(fs: &Passthrough) {
    for path in [
        &[&b"d"[..], b"one"][..],
        &[b"d", b"twice"],
        &[b"d", b"open"],
        &[b"d", b"deep", b"file"],
        &[b"pinned", b"inside"],
    ] {
        walk(fs, path);
    }
    let d = node(fs, &[b"d"]);
    fs.forget(d, 3);
    lookup(fs, d, b"twice").unwrap();
    open(fs, node(fs, &[b"d", b"open"]), libc::O_RDWR);
    fs.forget(node(fs, &[b"pinned"]), 1);
}

#[test]
fn each_kind_of_change_leaves_its_mark() {
    for (mode, held) in ways() {
        for Change {
            what,
            by_name,
            by_handle,
            change,
        } in CHANGES
        {
            let dir = tempfile::tempdir().unwrap();
            let share = dir.path();
            fs::create_dir_all(share.join("d/deep")).unwrap();
            fs::create_dir(share.join("pinned")).unwrap();
            for file in ["d/one", "d/twice", "d/open", "d/deep/file", "pinned/inside"] {
                fs::write(share.join(file), file).unwrap();
            }
            let source = daemon(share, mode, held);
            let flags = mount(&source);
            look_around(&source);
            encode_ahead(&source, 0);
            change(&source, share);
            let collected = source.collect_in(&format()).unwrap();
            let late = source.precopy.late.load(Ordering::SeqCst);
            let most = if mode == FIND { *by_name } else { *by_handle };
            let way = format!("{what}: {mode:?}, {held:?}");
            // Where a descriptor holds what has no name, it is always looked at again.
            let again = usize::from(mode != FIND && held == InodeFileHandles::Never);
            assert!(late <= most.saturating_add(again), "{way}: {late}");
            assert!(late >= most.min(1), "{way}");
            let state = received(written(collected));
            let target = daemon(share, mode, held);
            assert_eq!(restore(&target, state, flags), Ok(0), "{way}");
        }
    }
}

/// A share with so many files that they take several frames, and a guest that knows, and
/// uses, much of it.
fn large(share: &Path, held: InodeFileHandles, mode: MigrationMode) -> Passthrough {
    for dir in 0..6 {
        let dir = share.join(format!("dir-{dir}"));
        fs::create_dir_all(dir.join("empty")).unwrap();
        for file in 0..1500 {
            fs::write(dir.join(format!("file-{file}")), "").unwrap();
        }
    }
    let fs = daemon(share, mode, held);
    mount(&fs);
    for dir in 0..6 {
        let entry = walk(&fs, &[format!("dir-{dir}").as_bytes()]);
        lookup(&fs, entry.node, b"empty").unwrap();
        for file in 0..1500 {
            let found = lookup(&fs, entry.node, format!("file-{file}").as_bytes()).unwrap();
            match file % 500 {
                7 => drop(open(&fs, found.node, libc::O_RDWR)),
                8 => fs.forget(found.node, 1),
                _ => {}
            }
        }
        if dir == 3 {
            fs.forget(entry.node, 1);
        }
    }
    let name = c(b"file-7");
    let d = node(&fs, &[b"dir-0"]);
    fs.unlink(&CTX, d, Name::new(&name).unwrap()).unwrap();
    fs
}

#[test]
fn a_state_in_pieces_is_byte_for_byte_that_of_its_records() {
    for (mode, held) in [
        (FIND, InodeFileHandles::Prefer),
        (MigrationMode::FileHandles, InodeFileHandles::Prefer),
        (FIND, InodeFileHandles::Never),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let fs = large(dir.path(), held, mode);
        let records = written(super::Collected::Whole(collect(&fs)));
        // A snapshot.
        let pieces = fs.collect_in(&format()).unwrap();
        let super::Collected::Pieces { pieces: all, .. } = &pieces else {
            panic!("not in pieces");
        };
        assert!(all.len() >= 3, "{}", all.len());
        assert!(written(pieces) == records, "{mode:?}, {held:?}");
        // And ahead.
        encode_ahead(&fs, 12);
        let pieces = fs.collect_in(&format()).unwrap();
        // Where something is unlinked.
        assert!(fs.precopy.late.load(Ordering::SeqCst) <= 1);
        assert!(written(pieces) == records, "{mode:?}, {held:?}");
    }
}

/// What is on a mount is numbered by the order in which mounts and file systems are met,
/// and that order changes.
#[test]
fn numbers_of_file_systems_and_mounts_follow_the_guest() {
    if !is_root() {
        return;
    }
    with_own_mounts(|| {
        for (mode, held) in ways() {
            let dir = tempfile::tempdir().unwrap();
            for name in ["a", "b"] {
                let at = dir.path().join(name);
                fs::create_dir(&at).unwrap();
                mount_tmpfs(&at);
                fs::write(at.join("file"), name).unwrap();
            }
            let source = daemon(dir.path(), mode, held);
            let flags = mount(&source);
            walk(&source, &[b"a", b"file"]);
            walk(&source, &[b"b", b"file"]);
            encode_ahead(&source, 0);
            // The first on `a` comes behind the first on `b` from here on.
            source.forget(node(&source, &[b"a", b"file"]), 1);
            source.forget(node(&source, &[b"a"]), 1);
            walk(&source, &[b"a", b"file"]);
            let state = received(written(source.collect_in(&format()).unwrap()));
            assert_eq!(state.inodes, collect(&source).inodes);
            assert_eq!(state.mounts, collect(&source).mounts);
            assert_eq!(state.identities, collect(&source).identities);
            if mode != FIND {
                assert_eq!(state.mounts[0].path, [&b"b"[..]], "{held:?}");
            }
            let target = daemon(dir.path(), mode, held);
            assert_eq!(restore(&target, state, flags), Ok(0));
        }
    });
}

/// As long as a state that has come lazily is not located, the next one is collected as
/// records.
#[test]
fn what_is_not_located_is_passed_on_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    for n in 0..20 {
        fs::write(dir.path().join(format!("f{n}")), "").unwrap();
    }
    let source = daemon(dir.path(), FIND, InodeFileHandles::Prefer);
    let flags = mount(&source);
    for n in 0..20 {
        lookup(&source, NodeId::ROOT, format!("f{n}").as_bytes()).unwrap();
    }
    encode_ahead(&source, 0);
    let state = received(written(source.collect_in(&format()).unwrap()));
    let middle = super::daemon_with(dir.path(), |config| {
        config.restore = super::Restore::Lazy { first: 0 };
    });
    assert_eq!(restore(&middle, state.clone(), flags), Ok(0));
    middle.begin_precopy_in(&format());
    let again = received(written(middle.collect_in(&format()).unwrap()));
    assert_eq!(again.inodes, state.inodes);
    let by_name = |inode: &&ferryfs_state::Inode| matches!(inode.location, Location::Child { .. });
    assert_eq!(again.inodes.iter().filter(by_name).count(), 20);
}

#[test]
fn nothing_is_marked_when_precopy_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let fs = daemon(dir.path(), FIND, InodeFileHandles::Prefer);
    mount(&fs);
    encode_ahead(&fs, 0);
    assert!(fs.inodes.marks().are_on());
    fs.cancel_precopy();
    assert!(!fs.inodes.marks().are_on());
    for _ in 0..2 {
        encode_ahead(&fs, 0);
        fs.collect_in(&format()).unwrap();
        assert!(!fs.inodes.marks().are_on());
    }
    encode_ahead(&fs, 0);
    collect(&fs);
    assert!(!fs.inodes.marks().are_on());
}
