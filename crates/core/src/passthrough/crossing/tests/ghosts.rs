//! What no name leads to any more, and the guest still uses.

use std::os::unix::fs::FileTypeExt;
use std::time::{Duration, Instant};

use ferryfs_state::Ghost;

use super::*;
use crate::fs::{LockArgs, LockKind, LockMode, SetAttr};

const HELD: [InodeFileHandles; 2] = [InodeFileHandles::Never, InodeFileHandles::Prefer];

fn make(share: &Path, held: InodeFileHandles, change: impl FnOnce(&mut Config)) -> Passthrough {
    daemon_with(share, |config| {
        config.inode_file_handles = held;
        config.xattr = true;
        change(config);
    })
}

fn unlink(fs: &Passthrough, parent: NodeId, name: &[u8]) {
    let name = c(name);
    fs.unlink(&CTX, parent, Name::new(&name).unwrap()).unwrap();
}

fn rmdir(fs: &Passthrough, parent: NodeId, name: &[u8]) {
    let name = c(name);
    fs.rmdir(&CTX, parent, Name::new(&name).unwrap()).unwrap();
}

fn ghost_of(state: &FsState, node: NodeId) -> &Ghost {
    let ghosts = &state.ghosts;
    ghosts.iter().find(|ghost| ghost.inode == node.0).unwrap()
}

/// Names in the share, all the way down.
fn names(share: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut ways = vec![share.to_owned()];
    while let Some(way) = ways.pop() {
        for entry in fs::read_dir(way).unwrap() {
            let entry = entry.unwrap();
            all.push(
                entry
                    .path()
                    .strip_prefix(share)
                    .unwrap()
                    .to_string_lossy()
                    .into_owned(),
            );
            if entry.file_type().unwrap().is_dir() {
                ways.push(entry.path());
            }
        }
    }
    all.sort();
    all
}

/// Waits until precopy has copied `node`.
fn copied(source: &Passthrough, node: NodeId) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !source.ghosts.watch.is_clean(node) {
        assert!(Instant::now() < deadline, "precopy does not copy it");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn unlinked_open_files_go_on_with_all_that_they_are() {
    for held in HELD {
        for precopy in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let share = dir.path();
            fs::create_dir(share.join("d")).unwrap();
            fs::write(share.join("d/gone"), "gone but open").unwrap();
            fs::write(share.join("stays"), "stays").unwrap();
            let source = make(share, held, |_| {});
            let flags = mount(&source);
            let parent = walk(&source, &[b"d"]);
            let gone = walk(&source, &[b"d", b"gone"]);
            let handle = open(&source, gone.node, libc::O_RDWR);
            let again = open(&source, gone.node, libc::O_RDONLY);
            let (name, value) = (c(b"user.tag"), b"a tag\0");
            source
                .setxattr(&CTX, gone.node, &name, value, 0, false)
                .unwrap();
            let set = SetAttr {
                mode: Some(0o4751),
                uid: Some(12),
                gid: Some(34),
                ..SetAttr::default()
            };
            source.setattr(&CTX, gone.node, None, &set).unwrap();
            if precopy {
                source.begin_precopy();
            }
            unlink(&source, parent.node, b"gone");
            if precopy {
                copied(&source, gone.node);
                // Behind its back, and read again.
                write(&source, gone.node, handle, 9, b"OPEN");
            }
            let before = source.getattr(&CTX, gone.node, None).unwrap().attr;
            let state = collect(&source);
            assert_eq!(ghost_of(&state, gone.node).directory, parent.node.0);
            let target = make(share, held, |_| {});
            assert_eq!(restore(&target, state, flags).unwrap(), 0);
            drop(source);

            assert_eq!(names(share), ["d", "stays"], "nothing is left of making it");
            let text: &[u8] = if precopy {
                b"gone but OPEN"
            } else {
                b"gone but open"
            };
            let after = target.getattr(&CTX, gone.node, None).unwrap().attr;
            assert_eq!(after.nlink, 0);
            assert_eq!((after.mode, after.ino), (before.mode, before.ino));
            assert_eq!((after.uid, after.gid, after.size), (12, 34, 13));
            assert_eq!(
                (after.mtime, after.mtimensec),
                (before.mtime, before.mtimensec)
            );
            assert_eq!(
                (after.atime, after.atimensec),
                (before.atime, before.atimensec)
            );
            assert_eq!(read(&target, gone.node, handle).unwrap(), text);
            let crate::fs::XattrReply::Value(found) =
                target.getxattr(&CTX, gone.node, &name, 100).unwrap()
            else {
                panic!("a value was asked for");
            };
            assert_eq!(found, value);
            // One object through both handles.
            write(&target, gone.node, handle, 0, b"GONE");
            assert_eq!(&read(&target, gone.node, again).unwrap()[..4], b"GONE");
            // What has been unlinked gets no name again, as ever.
            let name = c(b"back");
            let linked = target.link(&CTX, gone.node, NodeId::ROOT, Name::new(&name).unwrap());
            assert_eq!(linked.unwrap_err(), Errno::ENOENT);
            // And on from there.
            let onward = make(share, held, |_| {});
            assert_eq!(restore(&onward, collect(&target), flags).unwrap(), 0);
            drop(target);
            assert_eq!(&read(&onward, gone.node, again).unwrap()[..4], b"GONE");
            for handle in [handle, again] {
                onward.release(&CTX, gone.node, handle).unwrap();
            }
            onward.forget(gone.node, 1);
            assert_eq!(ino(&onward, gone.node).unwrap_err(), Errno::EBADF);
        }
    }
}

#[test]
fn everything_else_that_has_no_name_goes_on_too() {
    for held in HELD {
        let dir = tempfile::tempdir().unwrap();
        let share = dir.path();
        fs::create_dir_all(share.join("a/cwd")).unwrap();
        fs::create_dir(share.join("open")).unwrap();
        std::os::unix::fs::symlink("to nowhere", share.join("link")).unwrap();
        let kinds = [
            ("fifo", rustix::fs::FileType::Fifo, 0),
            ("socket", rustix::fs::FileType::Socket, 0),
            (
                "null",
                rustix::fs::FileType::CharacterDevice,
                libc::makedev(1, 3),
            ),
        ];
        for (name, kind, device) in kinds {
            let at = share.join(name);
            rustix::fs::mknodat(rustix::fs::CWD, at, kind, 0o640.into(), device).unwrap();
        }
        fs::write(share.join("one"), "two names").unwrap();
        fs::hard_link(share.join("one"), share.join("two")).unwrap();
        fs::write(share.join("held"), "by O_PATH").unwrap();
        fs::write(share.join("others"), "not the guest").unwrap();
        let source = make(share, held, |_| {});
        let flags = mount(&source);
        // A working directory is looked up and not open, and so are those above it.
        let cwd = walk(&source, &[b"a", b"cwd"]);
        let above = walk(&source, &[b"a"]);
        let listed = walk(&source, &[b"open"]);
        let listing = source.opendir(&CTX, listed.node, 0).unwrap().handle;
        let special: Vec<Entry> = [&b"fifo"[..], b"socket", b"null"]
            .iter()
            .map(|name| walk(&source, &[name]))
            .collect();
        let link = walk(&source, &[b"link"]);
        let one = walk(&source, &[b"one"]);
        assert_eq!(walk(&source, &[b"two"]).node, one.node);
        let handle = open(&source, one.node, libc::O_RDWR);
        let by_path = walk(&source, &[b"held"]);
        let by_others = walk(&source, &[b"others"]);
        let kept = open(&source, by_others.node, libc::O_RDONLY);

        source.begin_precopy();
        rmdir(&source, above.node, b"cwd");
        rmdir(&source, NodeId::ROOT, b"a");
        rmdir(&source, NodeId::ROOT, b"open");
        for name in [
            &b"fifo"[..],
            b"socket",
            b"null",
            b"link",
            b"one",
            b"two",
            b"held",
        ] {
            unlink(&source, NodeId::ROOT, name);
        }
        fs::remove_file(share.join("others")).unwrap();
        // Precopy believes what it has seen; this one looks at all.
        source.cancel_precopy();
        let state = collect(&source);
        assert_eq!(state.ghosts.len(), 10, "{:?}", state.ghosts);
        let target = make(share, held, |_| {});
        assert_eq!(restore(&target, state, flags).unwrap(), 0);
        drop(source);
        assert_eq!(names(share), [""; 0], "nothing is left of making them");

        let attr = |node| target.getattr(&CTX, node, None).unwrap().attr;
        for directory in [&cwd, &above, &listed] {
            assert_eq!(attr(directory.node).mode & libc::S_IFMT, libc::S_IFDIR);
            assert_eq!(
                lookup(&target, directory.node, b"x").unwrap_err(),
                Errno::ENOENT
            );
            let name = c(b"new");
            let made = target.mkdir(&CTX, directory.node, Name::new(&name).unwrap(), 0o755, 0);
            assert_eq!(made.unwrap_err(), Errno::ENOENT, "it has been removed");
        }
        target.releasedir(&CTX, listed.node, listing).unwrap();
        for (entry, (_, kind, device)) in special.iter().zip(kinds) {
            let now = attr(entry.node);
            assert_eq!(now.mode, kind.as_raw_mode() | 0o640);
            assert_eq!((now.nlink, u64::from(now.rdev)), (0, device));
        }
        assert_eq!(target.readlink(&CTX, link.node).unwrap(), b"to nowhere");
        assert_eq!(read(&target, one.node, handle).unwrap(), b"two names");
        let reopened = open(&target, by_path.node, libc::O_RDONLY);
        assert_eq!(read(&target, by_path.node, reopened).unwrap(), b"by O_PATH");
        assert_eq!(
            read(&target, by_others.node, kept).unwrap(),
            b"not the guest"
        );
        assert!(fs::symlink_metadata("/dev/null")
            .unwrap()
            .file_type()
            .is_char_device());
    }
}

#[test]
fn holes_stay_holes_and_sizes_sizes() {
    for held in HELD {
        let dir = tempfile::tempdir().unwrap();
        let share = dir.path();
        let source = make(share, held, |_| {});
        let flags = mount(&source);
        let name = c(b"sparse");
        let (entry, opened) = source
            .create(
                &CTX,
                NodeId::ROOT,
                Name::new(&name).unwrap(),
                0o600,
                0,
                libc::O_RDWR as u32,
                false,
            )
            .unwrap();
        const FAR: u64 = 40 << 30;
        write(&source, entry.node, opened.handle, FAR, b"far out");
        write(
            &source,
            entry.node,
            opened.handle,
            2 << 20,
            &vec![b'm'; 3 << 20],
        );
        let size = SetAttr {
            size: Some(FAR + (1 << 30)),
            ..SetAttr::default()
        };
        source
            .setattr(&CTX, entry.node, Some(opened.handle), &size)
            .unwrap();
        unlink(&source, NodeId::ROOT, b"sparse");
        let state = collect(&source);
        let bytes: usize = state.ghost_data.iter().map(|piece| piece.bytes.len()).sum();
        assert!(bytes < 4 << 20, "{bytes}");
        assert!(state.ghost_data.len() >= 4, "pieces of up to 1 MiB");
        let target = make(share, held, |_| {});
        assert_eq!(restore(&target, state, flags).unwrap(), 0);
        let attr = target.getattr(&CTX, entry.node, None).unwrap().attr;
        assert_eq!(attr.size, FAR + (1 << 30));
        assert!(attr.blocks * 512 < 4 << 20, "{}", attr.blocks);
        let open_file = target
            .handles()
            .find_any(opened.handle, entry.node)
            .unwrap();
        let mut buf = [0; 9];
        rustix::io::pread(open_file.fd().unwrap(), &mut buf, FAR).unwrap();
        assert_eq!(&buf, b"far out\0\0");
        rustix::io::pread(open_file.fd().unwrap(), &mut buf, (5 << 20) - 5).unwrap();
        assert_eq!(&buf, b"mmmmm\0\0\0\0");
    }
}

#[test]
fn more_than_the_limit_is_refused_before_the_switch_over() {
    for held in HELD {
        let dir = tempfile::tempdir().unwrap();
        let share = dir.path();
        fs::create_dir(share.join("d")).unwrap();
        fs::write(share.join("d/large"), vec![b'l'; 300_000]).unwrap();
        fs::write(share.join("small"), vec![b's'; 10_000]).unwrap();
        let limited = |on_error| {
            make(share, held, |config| {
                config.ghost_limit = 200_000;
                config.migration_on_error = on_error;
            })
        };
        let source = limited(MigrationOnError::Abort);
        let flags = mount(&source);
        let parent = walk(&source, &[b"d"]);
        let large = walk(&source, &[b"d", b"large"]);
        let small = walk(&source, &[b"small"]);
        let handle = open(&source, large.node, libc::O_RDWR);
        let other = open(&source, small.node, libc::O_RDWR);
        unlink(&source, NodeId::ROOT, b"small");
        source.may_save().unwrap();
        source.begin_precopy();
        unlink(&source, parent.node, b"large");
        let deadline = Instant::now() + Duration::from_secs(30);
        let error = loop {
            if let Err(error) = source.may_save() {
                break error;
            }
            assert!(Instant::now() < deadline, "precopy does not see it");
            std::thread::sleep(Duration::from_millis(10));
        };
        let said = |error: &str, was: &str| {
            let inode = large.node;
            assert!(
                error.starts_with("the guest has 2 unlinked file(s) open with ")
                    && error.contains("more than --ghost-limit 200000 lets cross")
                    && error.contains(&format!("the largest is inode {inode} ({was}")),
                "{error}"
            );
        };
        said(&error, "\"d/large\" before it was unlinked");
        said(&source.collect().unwrap_err(), "\"d/large\"");
        // As a snapshot says it.
        said(&source.collect().unwrap_err(), "\"d/large\"");
        assert_eq!(read(&source, large.node, handle).unwrap()[..2], *b"ll");
        // It goes on as before, and may go once there is less of it.
        for _ in 0..3 {
            source.begin_precopy();
            source.cancel_precopy();
        }
        let size = SetAttr {
            size: Some(100_000),
            ..SetAttr::default()
        };
        source
            .setattr(&CTX, large.node, Some(handle), &size)
            .unwrap();
        source.begin_precopy();
        let state = collect(&source);
        let target = limited(MigrationOnError::Abort);
        assert_eq!(restore(&target, state, flags).unwrap(), 0);
        let attr = target.getattr(&CTX, large.node, None).unwrap().attr;
        assert_eq!(attr.size, 100_000);
        assert_eq!(read(&target, small.node, other).unwrap()[..2], *b"ss");

        // Lost by choice, as much as does not fit.
        let source = limited(MigrationOnError::GuestError);
        mount(&source);
        fs::write(share.join("d/large"), vec![b'l'; 300_000]).unwrap();
        fs::write(share.join("small"), vec![b's'; 10_000]).unwrap();
        let large = walk(&source, &[b"d", b"large"]);
        let small = walk(&source, &[b"small"]);
        let handle = open(&source, large.node, libc::O_RDWR);
        let other = open(&source, small.node, libc::O_RDWR);
        fs::remove_dir_all(share.join("d")).unwrap();
        fs::remove_file(share.join("small")).unwrap();
        source.may_save().unwrap();
        let state = collect(&source);
        let target = limited(MigrationOnError::GuestError);
        restore(&target, state, flags).unwrap();
        assert_eq!(
            read(&target, large.node, handle).unwrap_err(),
            Errno::ESTALE
        );
        assert_eq!(read(&target, small.node, other).unwrap()[..2], *b"ss");
        target.release(&CTX, large.node, handle).unwrap();
    }
}

#[test]
fn what_is_not_open_gives_way_and_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let share = dir.path();
    for held in HELD {
        fs::write(share.join("open"), vec![b'o'; 60_000]).unwrap();
        fs::write(share.join("idle"), vec![b'i'; 60_000]).unwrap();
        let limited = || make(share, held, |config| config.ghost_limit = 100_000);
        let source = limited();
        let flags = mount(&source);
        let idle = walk(&source, &[b"idle"]);
        let used = walk(&source, &[b"open"]);
        let handle = open(&source, used.node, libc::O_RDONLY);
        unlink(&source, NodeId::ROOT, b"idle");
        unlink(&source, NodeId::ROOT, b"open");
        let state = collect(&source);
        assert_eq!(state.ghosts.len(), 1);
        let target = limited();
        assert_eq!(restore(&target, state, flags).unwrap(), 0);
        assert_eq!(read(&target, used.node, handle).unwrap()[..2], *b"oo");
        assert_eq!(ino(&target, idle.node).unwrap_err(), Errno::ESTALE);
    }
}

#[test]
fn a_file_that_never_had_a_name_can_still_be_given_one() {
    for held in HELD {
        let dir = tempfile::tempdir().unwrap();
        let share = dir.path();
        let source = make(share, held, |_| {});
        let flags = mount(&source);
        let tmpfile = |flags: i32| {
            let flags = (libc::O_RDWR | flags) as u32;
            source.tmpfile(&CTX, NodeId::ROOT, 0o600, 0, flags).unwrap()
        };
        let (free, opened) = tmpfile(0);
        let (never, _) = tmpfile(libc::O_EXCL);
        let (named, _) = tmpfile(0);
        write(&source, free.node, opened.handle, 0, b"nameless");
        let link = |fs: &Passthrough, node, name: &[u8]| {
            let name = c(name);
            fs.link(&CTX, node, NodeId::ROOT, Name::new(&name).unwrap())
        };
        link(&source, named.node, b"named").unwrap();
        unlink(&source, NodeId::ROOT, b"named");
        let state = collect(&source);
        let target = make(share, held, |_| {});
        assert_eq!(restore(&target, state, flags).unwrap(), 0);
        let onward = make(share, held, |_| {});
        assert_eq!(restore(&onward, collect(&target), flags).unwrap(), 0);
        for node in [never.node, named.node] {
            assert_eq!(link(&onward, node, b"no").unwrap_err(), Errno::ENOENT);
        }
        link(&onward, free.node, b"at last").unwrap();
        assert_eq!(fs::read(share.join("at last")).unwrap(), b"nameless");
        assert_eq!(walk(&onward, &[b"at last"]).node, free.node);
        // From here on it has a name like any other.
        assert!(collect(&onward)
            .ghosts
            .iter()
            .all(|g| g.inode != free.node.0));
        // A guest that starts over has nothing of it.
        onward.destroy();
        assert!(!onward.ghosts.any());
    }
}

#[test]
fn locks_of_what_is_unlinked_go_along() {
    for held in HELD {
        let dir = tempfile::tempdir().unwrap();
        let share = dir.path();
        fs::write(share.join("f"), "locked").unwrap();
        let locking = || {
            make(share, held, |config| {
                config.posix_lock = true;
                config.flock = true;
            })
        };
        let source = locking();
        let flags = mount(&source);
        let file = walk(&source, &[b"f"]);
        let handle = open(&source, file.node, libc::O_RDWR);
        let other = open(&source, file.node, libc::O_RDWR);
        let lock = |owner| LockArgs {
            owner,
            start: 0,
            end: 99,
            mode: Some(LockMode::Write),
            pid: 7,
            kind: LockKind::Posix,
        };
        source
            .setlk(&CTX, file.node, handle, &lock(1), None)
            .unwrap();
        unlink(&source, NodeId::ROOT, b"f");
        let state = collect(&source);
        assert_eq!(state.locks.len(), 1);
        source.let_go();
        let target = locking();
        assert_eq!(restore(&target, state, flags).unwrap(), 0);
        let taken = target.setlk(&CTX, file.node, other, &lock(2), None);
        assert_eq!(taken.unwrap_err(), Errno::EAGAIN);
    }
}

#[test]
fn where_nothing_can_be_made_the_state_is_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let share = dir.path();
    fs::create_dir(share.join("d")).unwrap();
    fs::write(share.join("d/f"), "x").unwrap();
    let source = make(share, InodeFileHandles::Never, |_| {});
    let flags = mount(&source);
    let file = walk(&source, &[b"d", b"f"]);
    open(&source, file.node, libc::O_RDWR);
    fs::remove_file(share.join("d/f")).unwrap();
    let mut state = collect(&source);
    // As long as a size that no file system has.
    state.ghosts[0].size = i64::MAX as u64;
    let target = make(share, InodeFileHandles::Never, |_| {});
    let error = restore(&target, state.clone(), flags).unwrap_err();
    assert!(
        error.contains("failed to make it again, unlinked as it was, beside inode 2: "),
        "{error}"
    );
    assert_eq!(target.inodes().len(), 1);
    let target = make(share, InodeFileHandles::Never, |config| {
        config.migration_on_error = MigrationOnError::GuestError;
    });
    assert_eq!(restore(&target, state, flags).unwrap(), 1);
    assert!(ino(&target, file.node).is_err());
    assert_eq!(names(share), ["d"]);
}

#[test]
fn a_file_that_changes_all_the_time_is_read_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let share = dir.path();
    fs::write(share.join("busy"), vec![0; 100_000]).unwrap();
    let source = make(share, InodeFileHandles::Never, |_| {});
    let flags = mount(&source);
    let file = walk(&source, &[b"busy"]);
    let handle = open(&source, file.node, libc::O_RDWR);
    source.begin_precopy();
    unlink(&source, NodeId::ROOT, b"busy");
    copied(&source, file.node);
    let end = Instant::now() + Duration::from_millis(1500);
    let mut last = 0;
    while Instant::now() < end {
        last += 1;
        write(&source, file.node, handle, 50_000, &u64::to_le_bytes(last));
        std::thread::sleep(Duration::from_millis(1));
    }
    let state = collect(&source);
    assert!(
        !source.ghosts.watch.is_clean(file.node),
        "nothing is watched any more"
    );
    let target = make(share, InodeFileHandles::Never, |_| {});
    assert_eq!(restore(&target, state, flags).unwrap(), 0);
    let open_file = target.handles().find_any(handle, file.node).unwrap();
    let mut found = [0; 8];
    rustix::io::pread(open_file.fd().unwrap(), &mut found, 50_000).unwrap();
    assert_eq!(u64::from_le_bytes(found), last);
}
