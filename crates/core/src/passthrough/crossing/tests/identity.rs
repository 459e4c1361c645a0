//! What has the guest's name at the destination must be the guest's.

use ferryfs_state::Mark;

use super::*;

const HELD: [InodeFileHandles; 2] = [InodeFileHandles::Never, InodeFileHandles::Prefer];

fn failing(share: &Path, held: InodeFileHandles, on_error: MigrationOnError) -> Passthrough {
    daemon_with(share, |config| {
        config.inode_file_handles = held;
        config.migration_on_error = on_error;
    })
}

/// What is replaced, and how.
type Replacement = (&'static str, fn(&Path));

/// Third parties put something else where the guest's `d/f` is.
fn replacements() -> [Replacement; 3] {
    [
        ("d/f", |share| {
            fs::write(share.join("new"), "impostor").unwrap();
            fs::rename(share.join("new"), share.join("d/f")).unwrap();
        }),
        // The inode number may be used again.
        ("d/f", |share| {
            fs::remove_file(share.join("d/f")).unwrap();
            fs::write(share.join("d/f"), "impostor").unwrap();
        }),
        ("d", |share| {
            fs::rename(share.join("d"), share.join("old")).unwrap();
            fs::create_dir(share.join("d")).unwrap();
            fs::write(share.join("d/f"), "impostor").unwrap();
        }),
    ]
}

#[test]
fn a_replaced_file_is_refused_with_its_path_or_faulted_alone() {
    for (source_holds, target_holds) in HELD.into_iter().flat_map(|a| HELD.map(|b| (a, b))) {
        for (replaced, replace) in replacements() {
            let dir = tempfile::tempdir().unwrap();
            let share = dir.path();
            fs::create_dir(share.join("d")).unwrap();
            fs::write(share.join("d/f"), "the guest's").unwrap();
            fs::write(share.join("stays"), "stays").unwrap();
            let source = daemon(share, FIND, source_holds);
            let flags = mount(&source);
            let file = walk(&source, &[b"d", b"f"]);
            let handle = open(&source, file.node, libc::O_RDWR);
            let stays = walk(&source, &[b"stays"]);
            let state = collect(&source);
            // As for a snapshot: what nobody holds any more is free to be used again.
            drop(source);
            replace(share);

            let target = failing(share, target_holds, MigrationOnError::Abort);
            let error = restore(&target, state.clone(), flags).unwrap_err();
            let named = format!("\"{replaced}\" is another object than the one");
            assert!(error.contains(&named), "{error}");
            let inode = state.inodes.iter().find(|i| match &i.location {
                Location::Child { name, .. } => replaced.as_bytes().ends_with(name),
                _ => false,
            });
            let inode = format!("the first: inode {} (", inode.unwrap().id);
            assert!(error.contains(&inode), "{error}");
            assert_eq!(target.inodes().len(), 1);

            let target = failing(share, target_holds, MigrationOnError::GuestError);
            assert!(restore(&target, state, flags).unwrap() > 0);
            assert_eq!(ino(&target, file.node).unwrap_err(), Errno::ESTALE);
            assert_eq!(read(&target, file.node, handle), Err(Errno::ESTALE));
            assert!(ino(&target, stays.node).is_ok());
            assert_eq!(fs::read(share.join("d/f")).unwrap(), b"impostor");
            // What has the name now is another inode to the guest.
            let now = walk(&target, &[b"d", b"f"]);
            assert_ne!(now.node, file.node);
            let opened = open(&target, now.node, libc::O_RDONLY);
            assert_eq!(read(&target, now.node, opened).unwrap(), b"impostor");
        }
    }
}

#[test]
fn what_is_below_forgotten_directories_is_compared_too() {
    for held in HELD {
        let dir = tempfile::tempdir().unwrap();
        let share = dir.path();
        fs::create_dir_all(share.join("a/b")).unwrap();
        fs::write(share.join("a/b/f"), "the guest's").unwrap();
        let source = daemon(share, FIND, held);
        let flags = mount(&source);
        let file = walk(&source, &[b"a", b"b", b"f"]);
        for path in [&[&b"a"[..], b"b"][..], &[b"a"]] {
            let node = walk(&source, path).node;
            source.forget(node, u64::MAX);
        }
        let state = collect(&source);
        assert!(matches!(
            state.inodes[1].location,
            Location::Path { from: 1, .. }
        ));
        let target = daemon(share, FIND, held);
        assert_eq!(restore(&target, state.clone(), flags).unwrap(), 0);
        assert!(ino(&target, file.node).is_ok());
        fs::write(share.join("new"), "impostor").unwrap();
        fs::rename(share.join("new"), share.join("a/b/f")).unwrap();
        let target = daemon(share, FIND, held);
        let error = restore(&target, state, flags).unwrap_err();
        assert!(error.contains("\"a/b/f\" is another object"), "{error}");
    }
}

#[test]
fn a_state_says_what_its_objects_are() {
    for held in HELD {
        let dir = tempfile::tempdir().unwrap();
        let share = dir.path();
        fs::write(share.join("f"), "").unwrap();
        fs::write(share.join("gone"), "").unwrap();
        let source = daemon(share, FIND, held);
        mount(&source);
        let file = walk(&source, &[b"f"]);
        let gone = walk(&source, &[b"gone"]);
        fs::remove_file(share.join("gone")).unwrap();
        let state = collect(&source);
        let marked: Vec<u64> = state.identities.iter().map(|i| i.inode).collect();
        assert_eq!(marked, [1, file.node.0], "not of inode {}", gone.node);
        assert_eq!(state.file_systems.len(), 1);
        let metadata = fs::metadata(share.join("f")).unwrap();
        assert_eq!(state.file_systems[0].device, metadata.dev());
        match (held, &state.identities[1].mark) {
            (InodeFileHandles::Never, Mark::Numbers { ino, born }) => {
                assert_eq!(*ino, metadata.ino());
                let created = metadata.created().ok();
                let created = created.map(|t| t.duration_since(std::time::UNIX_EPOCH).unwrap());
                assert_eq!(*born, created.map(|t| t.as_nanos() as i64));
            }
            (_, Mark::Handle { bytes, .. }) => assert!(!bytes.is_empty()),
            other => panic!("{other:?}"),
        }
        // The same with precopy, which looks at each anyway.
        source.begin_precopy();
        assert_eq!(collect(&source), state);
    }
}

#[test]
fn what_cannot_be_compared_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let share = dir.path();
    fs::write(share.join("f"), "the guest's").unwrap();
    let source = daemon(share, FIND, InodeFileHandles::Never);
    let flags = mount(&source);
    let file = walk(&source, &[b"f"]);
    let handle = open(&source, file.node, libc::O_RDONLY);
    let state = collect(&source);
    fs::write(share.join("new"), "impostor").unwrap();
    fs::rename(share.join("new"), share.join("f")).unwrap();
    let taken = |change: &dyn Fn(&mut FsState)| {
        let mut state = state.clone();
        change(&mut state);
        check(&state);
        let target = daemon(share, FIND, InodeFileHandles::Never);
        restore(&target, state, flags).map(|_| read(&target, file.node, handle).unwrap())
    };
    assert!(taken(&|_| {}).is_err());
    // An older source, or one that was told to say no more than such a one.
    let nothing = |state: &mut FsState| {
        state.identities.clear();
        state.file_systems.clear();
    };
    assert_eq!(taken(&nothing).unwrap(), b"impostor");
    // A file system of which nobody can say whether it is this one.
    let unknown = |state: &mut FsState| {
        state.file_systems[0].fsid = 0;
        state.file_systems[0].boot.clear();
    };
    assert_eq!(taken(&unknown).unwrap(), b"impostor");
    // Another share.
    let copy = |state: &mut FsState| match &mut state.identities[0].mark {
        Mark::Handle { bytes, .. } => bytes[0] ^= 1,
        Mark::Numbers { ino, .. } => *ino += 1,
    };
    assert_eq!(taken(&copy).unwrap(), b"impostor");
    // The same share, but the file was on another file system there.
    let elsewhere = |state: &mut FsState| {
        let mut other = state.file_systems[0].clone();
        other.id = 1;
        other.magic += 1;
        state.file_systems.push(other);
        state.identities[1].file_system = 1;
    };
    assert!(taken(&elsewhere).unwrap_err().contains("another object"));
}

#[test]
fn a_directory_above_the_right_one_is_refused_by_file_handle() {
    let dir = tempfile::tempdir().unwrap();
    let share = dir.path().join("right");
    fs::create_dir_all(share.join("d")).unwrap();
    fs::write(share.join("f"), "f").unwrap();
    for held in HELD {
        let make = |share: &Path, on_error| {
            daemon_with(share, |config| {
                config.migration_mode = MigrationMode::FileHandles;
                config.inode_file_handles = held;
                config.migration_on_error = on_error;
            })
        };
        let source = make(&share, MigrationOnError::Abort);
        let flags = mount(&source);
        walk(&source, &[b"d"]);
        let file = walk(&source, &[b"f"]);
        let handle = open(&source, file.node, libc::O_RDWR);
        let state = collect(&source);
        assert_eq!(state.identities.len(), 1, "the root's tells the share");
        // All that it refers to lies below, and could be opened.
        for on_error in [MigrationOnError::Abort, MigrationOnError::GuestError] {
            let target = make(dir.path(), on_error);
            let error = restore(&target, state.clone(), flags).unwrap_err();
            assert!(error.contains("shares another directory"), "{error}");
            assert_eq!(target.inodes().len(), 1);
        }
        let target = make(&share, MigrationOnError::Abort);
        assert_eq!(restore(&target, state, flags).unwrap(), 0);
        assert_eq!(read(&target, file.node, handle).unwrap(), b"f");
    }
}

#[test]
fn locks_are_taken_or_the_state_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "").unwrap();
    let source = daemon(dir.path(), FIND, InodeFileHandles::Prefer);
    let flags = mount(&source);
    let file = walk(&source, &[b"f"]);
    let mut state = collect(&source);
    state.locks.push(ferryfs_state::Lock {
        handle: None,
        inode: file.node.0,
        owner: 1,
        kind: ferryfs_state::LockKind::Posix,
        write: true,
        start: 0,
        end: 9,
        pid: 1,
    });
    check(&state);
    let locking = || {
        daemon_with(dir.path(), |config| {
            config.posix_lock = true;
            config.flock = true;
        })
    };
    let first = locking();
    restore(&first, state.clone(), flags).unwrap();
    let error = restore(&locking(), state.clone(), flags).unwrap_err();
    assert!(
        error.contains("inode 2: failed to take over a write lock on bytes 0 to 9"),
        "{error}"
    );
    first.let_go();
    let second = locking();
    restore(&second, state.clone(), flags).unwrap();
    assert_eq!(collect(&second).locks, state.locks);
    // The first one's guest goes on after all, and is told.
    first.take_back();
    assert!(collect(&first).locks.is_empty());
}
