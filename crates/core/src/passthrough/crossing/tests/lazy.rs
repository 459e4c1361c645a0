//! Inodes that are located when they are used, or by and by.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ferryfs_state::Inode as InodeRecord;

use super::*;
use crate::fs::DirSink;

const HELD: [InodeFileHandles; 2] = [InodeFileHandles::Never, InodeFileHandles::Prefer];

fn lazy(share: &Path, mode: MigrationMode, held: InodeFileHandles) -> Passthrough {
    daemon_with(share, |config| {
        config.migration_mode = mode;
        config.inode_file_handles = held;
        config.restore = Restore::Lazy { first: 0 };
    })
}

/// Restores, and leaves what is not needed unlocated until [`go_on`].
fn restore_and_hold(fs: &Passthrough, state: FsState, flags: u64) {
    // While names are tracked, the pass waits.
    fs.names().track(true);
    assert_eq!(restore(fs, state, flags).unwrap(), 0);
}

/// Lets the pass go on to its end.
fn go_on(fs: &Passthrough) {
    fs.names().track(false);
    let start = Instant::now();
    while fs.unlocated.any() {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn name(bytes: &[u8], with: impl FnOnce(&Name)) {
    with(Name::new(&c(bytes)).unwrap());
}

fn record(state: &FsState, node: NodeId) -> &InodeRecord {
    state.inodes.iter().find(|i| i.id == node.0).unwrap()
}

/// `count` files in `d`, all looked up; their nodes.
fn many(share: &Path, fs: &Passthrough, count: usize) -> Vec<(String, NodeId)> {
    fs::create_dir_all(share.join("d")).unwrap();
    let d = walk(fs, &[b"d"]).node;
    let file = |n| {
        let name = format!("f{n}");
        fs::write(share.join("d").join(&name), &name).unwrap();
        let node = lookup(fs, d, name.as_bytes()).unwrap().node;
        (name, node)
    };
    (0..count).map(file).collect()
}

/// Descriptors of what lies in `share`.
fn open_in(share: &Path) -> usize {
    let all = fs::read_dir("/proc/self/fd").unwrap();
    let links = all.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    links
        .filter(|link| link.starts_with(share.join("d")))
        .count()
}

#[test]
fn only_what_is_open_is_located_before_and_the_rest_by_its_node() {
    for (mode, held) in ways() {
        let dir = tempfile::tempdir().unwrap();
        let share = dir.path();
        let source = daemon(share, mode, held);
        let flags = mount(&source);
        let files = many(share, &source, 20);
        let handle = open(&source, files[7].1, libc::O_RDWR);
        let state = collect(&source);
        let target = lazy(share, mode, held);
        restore_and_hold(&target, state, flags);
        // By name, it takes the directory as well.
        let located = match mode {
            MigrationMode::FindPaths => 2,
            MigrationMode::FileHandles => 1,
        };
        assert_eq!(target.unlocated.left(), 21 - located);
        assert_eq!(read(&target, files[7].1, handle).unwrap(), b"f7");
        for (name, node) in &files {
            let on_disk = fs::metadata(share.join("d").join(name)).unwrap().ino();
            assert_eq!(ino(&target, *node).unwrap(), on_disk);
        }
        assert_eq!(ino(&target, NodeId(1 << 40)).unwrap_err(), Errno::EBADF);
        go_on(&target);
        assert_eq!(target.inodes().len(), 22);
    }
}

#[test]
fn an_object_is_one_inode_however_it_is_found() {
    for (mode, held) in ways() {
        let dir = tempfile::tempdir().unwrap();
        let share = dir.path();
        let source = daemon(share, mode, held);
        let flags = mount(&source);
        let files = many(share, &source, 4);
        let d = walk(&source, &[b"d"]).node;
        let state = collect(&source);
        // Others give it more names, or another one.
        fs::hard_link(share.join("d/f1"), share.join("link")).unwrap();
        fs::rename(share.join("d/f2"), share.join("moved")).unwrap();
        let target = lazy(share, mode, held);
        restore_and_hold(&target, state, flags);
        assert_eq!(walk(&target, &[b"link"]).node, files[1].1);
        assert_eq!(walk(&target, &[b"moved"]).node, files[2].1);
        assert_eq!(walk(&target, &[b"d"]).node, d);
        assert_eq!(lookup(&target, d, b"f0").unwrap().node, files[0].1);
        assert_eq!(lookup(&target, d, b"f1").unwrap().node, files[1].1);
        let located = target.unlocated.left();
        assert_eq!(located, 1, "f3");
        go_on(&target);
        // 1 of the state, and as many as have been looked up since.
        assert_eq!(target.inodes().get(files[0].1).unwrap().lookups(), 2);
        assert_eq!(target.inodes().get(files[1].1).unwrap().lookups(), 3);
        assert_eq!(lookup(&target, d, b"f3").unwrap().node, files[3].1);
        assert_eq!(target.inodes().len(), 6);
        // What was found by a name that the state did not have has that of the state too.
        if mode == FIND {
            fs::remove_file(share.join("link")).unwrap();
            let state = collect(&target);
            assert!(matches!(&record(&state, files[1].1).location,
                Location::Child { name, .. } if **name == *b"f1"));
        }
    }
}

#[test]
fn what_was_replaced_meanwhile_is_faulted_alone() {
    for held in HELD {
        let dir = tempfile::tempdir().unwrap();
        let share = dir.path();
        let source = daemon(share, FIND, held);
        let flags = mount(&source);
        let files = many(share, &source, 4);
        let d = walk(&source, &[b"d"]).node;
        let state = collect(&source);
        drop(source);
        let target = lazy(share, FIND, held);
        restore_and_hold(&target, state, flags);
        fs::write(share.join("new"), "impostor").unwrap();
        fs::rename(share.join("new"), share.join("d/f0")).unwrap();
        fs::remove_file(share.join("d/f1")).unwrap();
        fs::write(share.join("d/f1"), "impostor").unwrap();
        fs::remove_file(share.join("d/f2")).unwrap();
        // What has the name now is another file to the guest, whoever comes first.
        let now = lookup(&target, d, b"f0").unwrap().node;
        assert_ne!(now, files[0].1);
        assert_eq!(ino(&target, files[0].1).unwrap_err(), Errno::ESTALE);
        assert_eq!(ino(&target, files[1].1).unwrap_err(), Errno::ESTALE);
        assert_ne!(lookup(&target, d, b"f1").unwrap().node, files[1].1);
        assert_eq!(ino(&target, files[2].1).unwrap_err(), Errno::ENOENT);
        go_on(&target);
        let handle = open(&target, now, libc::O_RDONLY);
        assert_eq!(read(&target, now, handle).unwrap(), b"impostor");
        assert_eq!(
            ino(&target, files[3].1).unwrap(),
            fs::metadata(share.join("d/f3")).unwrap().ino()
        );
        target.forget(files[0].1, 1);
        assert_eq!(ino(&target, files[0].1).unwrap_err(), Errno::EBADF);
    }
}

#[test]
fn what_is_forgotten_before_it_is_located_is_forgotten() {
    for (mode, held) in ways() {
        let dir = tempfile::tempdir().unwrap();
        let share = dir.path();
        let source = daemon(share, mode, held);
        let flags = mount(&source);
        let files = many(share, &source, 3);
        let d = walk(&source, &[b"d"]).node;
        for _ in 0..4 {
            lookup(&source, d, b"f2").unwrap();
        }
        let state = collect(&source);
        let target = lazy(share, mode, held);
        restore_and_hold(&target, state, flags);
        target.forget(files[0].1, 1);
        target.forget(files[2].1, 3);
        target.forget(d, u64::MAX);
        for gone in [files[0].1, d] {
            assert_eq!(ino(&target, gone).unwrap_err(), Errno::EBADF);
        }
        // A file in a forgotten directory is still found.
        assert!(ino(&target, files[1].1).is_ok());
        let onward = collect(&target);
        let ids: Vec<u64> = onward.inodes.iter().map(|i| i.id).collect();
        assert_eq!(ids, [1, files[1].1 .0, files[2].1 .0]);
        assert_eq!(record(&onward, files[2].1).lookups, 2);
        if mode == FIND {
            for file in [&files[1], &files[2]] {
                assert!(matches!(
                    record(&onward, file.1).location,
                    Location::Path { from: 1, .. }
                ));
            }
        }
        go_on(&target);
        assert_eq!(target.inodes().get(files[2].1).unwrap().lookups(), 2);
        let again = walk(&target, &[b"d", b"f0"]).node;
        assert_ne!(again, files[0].1);
        target.forget(files[2].1, 2);
        assert!(target.inodes().get(files[2].1).is_none());
    }
}

#[test]
fn what_is_not_located_crosses_as_it_was_received() {
    for (mode, held) in ways() {
        let dir = tempfile::tempdir().unwrap();
        let share = dir.path();
        let source = daemon(share, mode, held);
        let flags = mount(&source);
        let files = many(share, &source, 30);
        let handle = open(&source, files[3].1, libc::O_RDWR);
        let state = collect(&source);
        let target = lazy(share, mode, held);
        restore_and_hold(&target, state.clone(), flags);
        assert_eq!(collect(&target), state);
        // And a second time, and with a part located meanwhile.
        for (_, node) in files.iter().step_by(3) {
            ino(&target, *node).unwrap();
        }
        target.names().track(true);
        assert_eq!(collect(&target), state);
        // By the other mode it has to be located first.
        let other = match mode {
            MigrationMode::FindPaths => MigrationMode::FileHandles,
            MigrationMode::FileHandles => FIND,
        };
        let between = lazy(share, other, held);
        restore_and_hold(&between, state, flags);
        let state = collect(&between);
        assert_eq!(between.unlocated.left(), 0);
        let last = lazy(share, FIND, held);
        restore_and_hold(&last, state, flags);
        assert_eq!(read(&last, files[3].1, handle).unwrap(), b"f3");
        for (name, node) in &files {
            let on_disk = fs::metadata(share.join("d").join(name)).unwrap().ino();
            assert_eq!(ino(&last, *node).unwrap(), on_disk);
        }
    }
}

#[test]
fn what_the_guest_renames_or_removes_is_located_first() {
    for held in HELD {
        let dir = tempfile::tempdir().unwrap();
        let share = dir.path();
        let source = daemon(share, FIND, held);
        let flags = mount(&source);
        let files = many(share, &source, 6);
        fs::create_dir(share.join("d/sub")).unwrap();
        let sub = walk(&source, &[b"d", b"sub"]).node;
        fs::write(share.join("d/sub/below"), "below").unwrap();
        let below = lookup(&source, sub, b"below").unwrap().node;
        let d = walk(&source, &[b"d"]).node;
        let state = collect(&source);
        drop(source);
        let target = lazy(share, FIND, held);
        restore_and_hold(&target, state, flags);
        let rename = |from: &[u8], to: &[u8], flags: u32| {
            name(from, |from| {
                name(to, |to| {
                    target.rename(&CTX, d, from, d, to, flags).unwrap();
                });
            });
        };
        rename(b"f0", b"renamed", 0);
        rename(b"sub", b"moved", 0);
        rename(b"f1", b"f2", 0);
        rename(b"f4", b"f5", libc::RENAME_EXCHANGE);
        name(b"f3", |name| target.unlink(&CTX, d, name).unwrap());
        // Removed or replaced, and the guest holds them.
        for gone in [files[2].1, files[3].1] {
            let attr = target.getattr(&CTX, gone, None).unwrap().attr;
            assert_eq!(attr.nlink, 0);
            target.forget(gone, 1);
        }
        let state = collect(&target);
        let onward = daemon(share, FIND, held);
        assert_eq!(restore(&onward, state, flags).unwrap(), 0);
        for (node, path) in [
            (files[0].1, "d/renamed"),
            (files[1].1, "d/f2"),
            (files[4].1, "d/f5"),
            (files[5].1, "d/f4"),
            (sub, "d/moved"),
            (below, "d/moved/below"),
        ] {
            let on_disk = fs::metadata(share.join(path)).unwrap().ino();
            assert_eq!(ino(&onward, node).unwrap(), on_disk, "{path}");
        }
    }
}

struct Listing(Vec<(Vec<u8>, Option<NodeId>)>);

impl DirSink for Listing {
    fn plus(&self) -> bool {
        true
    }
    fn fits(&self, _: usize) -> bool {
        true
    }
    fn add(&mut self, _: u64, _: u64, _: u8, name: &[u8], entry: Option<&Entry>) {
        self.0.push((name.to_vec(), entry.map(|entry| entry.node)));
    }
}

#[test]
fn a_listing_names_the_inodes_that_the_guest_knows() {
    for (mode, held) in ways() {
        let dir = tempfile::tempdir().unwrap();
        let share = dir.path();
        let source = daemon(share, mode, held);
        let flags = mount(&source);
        let files = many(share, &source, 50);
        let d = walk(&source, &[b"d"]).node;
        let listing = source.opendir(&CTX, d, 0).unwrap().handle;
        let state = collect(&source);
        let target = lazy(share, mode, held);
        restore_and_hold(&target, state, flags);
        let mut sink = Listing(Vec::new());
        target.readdir(&CTX, d, listing, 0, &mut sink).unwrap();
        for (name, node) in &files {
            let listed = sink.0.iter().find(|(own, _)| own == name.as_bytes());
            assert_eq!(listed.unwrap().1, Some(*node));
        }
        assert_eq!(target.unlocated.left(), 0);
    }
}

#[test]
fn requests_and_the_pass_agree_on_one_inode_for_each_object() {
    for (mode, held) in ways() {
        let dir = tempfile::tempdir().unwrap();
        let share = dir.path();
        let source = daemon(share, mode, held);
        let flags = mount(&source);
        let files = many(share, &source, 600);
        let d = walk(&source, &[b"d"]).node;
        let state = collect(&source);
        drop(source);
        let target = lazy(share, mode, held);
        assert_eq!(restore(&target, state, flags).unwrap(), 0);
        std::thread::scope(|scope| {
            let (files, target) = (&files, &target);
            // Forwards and backwards, by name and by node, renaming to and fro.
            scope.spawn(move || {
                for (name, node) in files {
                    let found = lookup(target, d, name.as_bytes());
                    // Unless it has its other name at the moment.
                    assert!(found.map_or(true, |found| found.node == *node));
                }
            });
            scope.spawn(move || {
                for (_, node) in files.iter().rev() {
                    ino(target, *node).unwrap();
                }
            });
            scope.spawn(move || {
                for (own, _) in files.iter().step_by(3) {
                    for (from, to) in [(own.as_str(), "other"), ("other", own.as_str())] {
                        name(from.as_bytes(), |from| {
                            name(to.as_bytes(), |to| {
                                target.rename(&CTX, d, from, d, to, 0).unwrap();
                            });
                        });
                    }
                }
            });
            scope.spawn(move || {
                for (_, node) in files.iter().step_by(7) {
                    target.forget(*node, 0);
                }
            });
        });
        go_on(&target);
        assert_eq!(target.inodes().len(), 602);
        for (name, node) in &files {
            assert_eq!(lookup(&target, d, name.as_bytes()).unwrap().node, *node);
        }
        // Each has the name that it has.
        let state = collect(&target);
        let onward = daemon(share, FIND, held);
        assert_eq!(restore(&onward, state, flags).unwrap(), 0);
    }
}

#[test]
fn a_path_can_be_deeper_than_a_stack() {
    let dir = tempfile::tempdir().unwrap();
    let share = dir.path();
    let source = daemon(share, FIND, InodeFileHandles::Prefer);
    let flags = mount(&source);
    let mut nodes = vec![NodeId::ROOT];
    for _ in 0..1500 {
        let above = *nodes.last().unwrap();
        name(b"d", |name| {
            nodes.push(source.mkdir(&CTX, above, name, 0o755, 0).unwrap().node);
        });
    }
    let state = collect(&source);
    let target = lazy(share, FIND, InodeFileHandles::Prefer);
    restore_and_hold(&target, state, flags);
    assert_eq!(target.unlocated.left(), 1500);
    let deepest = *nodes.last().unwrap();
    assert_eq!(
        ino(&target, deepest).unwrap(),
        ino(&source, deepest).unwrap()
    );
    assert_eq!(target.unlocated.left(), 0);
    go_on(&target);
    // Too long for one call of anybody's.
    for node in nodes.iter().skip(1).rev() {
        let (above, own) = target.names().primary(target.inodes(), *node).unwrap();
        name(&own, |name| target.rmdir(&CTX, above, name).unwrap());
    }
}

#[test]
fn what_is_in_the_middle_ends_with_the_guest() {
    for held in HELD {
        let dir = tempfile::tempdir().unwrap();
        let share = dir.path();
        let source = daemon(share, FIND, held);
        let flags = mount(&source);
        let files = many(share, &source, 300);
        let state = collect(&source);
        drop(source);
        let target = lazy(share, FIND, held);
        let ended = AtomicBool::new(false);
        for round in 0..6 {
            assert_eq!(restore(&target, state.clone(), flags).unwrap(), 0);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    for (_, node) in &files {
                        let found = ino(&target, *node);
                        if ended.load(Ordering::Acquire) {
                            break;
                        }
                        assert!(found.is_ok() || found.unwrap_err() == Errno::EBADF);
                    }
                });
                if round % 2 == 0 {
                    std::thread::sleep(Duration::from_millis(2));
                }
                target.destroy();
            });
            // What a request that was under way has kept to work with.
            target.destroy();
            assert!(!target.unlocated.any());
            assert_eq!(target.inodes().len(), 1);
            assert_eq!(open_in(share), 0);
        }
    }
}

#[test]
fn a_state_takes_the_place_of_one_that_was_not_located() {
    let dir = tempfile::tempdir().unwrap();
    let share = dir.path();
    let source = daemon(share, FIND, InodeFileHandles::Prefer);
    let flags = mount(&source);
    let files = many(share, &source, 10);
    let old = collect(&source);
    source.forget(files[0].1, 1);
    let new = collect(&source);
    let target = lazy(share, FIND, InodeFileHandles::Prefer);
    restore_and_hold(&target, old.clone(), flags);
    restore_and_hold(&target, new, flags);
    assert_eq!(ino(&target, files[0].1).unwrap_err(), Errno::EBADF);
    assert!(ino(&target, files[1].1).is_ok());
    go_on(&target);
    // What is few is located at once.
    let few = daemon(share, FIND, InodeFileHandles::Prefer);
    assert_eq!(restore(&few, old, flags).unwrap(), 0);
    assert!(!few.unlocated.any());
}

#[test]
fn where_objects_cannot_be_told_all_are_located_before() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for dir in [&one, &two] {
        fs::create_dir(dir.path().join("d")).unwrap();
        for n in 0..5 {
            fs::write(dir.path().join(format!("d/f{n}")), "").unwrap();
        }
    }
    let source = daemon(one.path(), FIND, InodeFileHandles::Prefer);
    let flags = mount(&source);
    many(one.path(), &source, 5);
    let state = collect(&source);
    // A copy.
    let target = lazy(two.path(), FIND, InodeFileHandles::Prefer);
    assert_eq!(restore(&target, state.clone(), flags).unwrap(), 0);
    assert!(!target.unlocated.any());
    // A state without identities, and one with numbers that may be used again.
    for without in [true, false] {
        let mut state = state.clone();
        state.identities.retain(|i| !without || i.inode == 0);
        for identity in state.identities.iter_mut().skip(1) {
            let node = NodeId(identity.inode);
            identity.mark = ferryfs_state::Mark::Numbers {
                ino: ino(&source, node).unwrap(),
                born: None,
            };
        }
        let target = lazy(one.path(), FIND, InodeFileHandles::Never);
        assert_eq!(restore(&target, state, flags).unwrap(), 0);
        assert!(!target.unlocated.any());
    }
}

#[test]
fn a_link_to_what_is_not_located_is_its_own() {
    for held in HELD {
        let dir = tempfile::tempdir().unwrap();
        let share = dir.path();
        let source = daemon(share, FIND, held);
        let flags = mount(&source);
        let files = many(share, &source, 2);
        let state = collect(&source);
        let target = lazy(share, FIND, held);
        restore_and_hold(&target, state, flags);
        name(b"more", |name| {
            let entry = target.link(&CTX, files[0].1, NodeId::ROOT, name).unwrap();
            assert_eq!(entry.node, files[0].1);
            assert_eq!(entry.attr.nlink, 2);
        });
        assert_eq!(walk(&target, &[b"more"]).node, files[0].1);
        assert_eq!(walk(&target, &[b"d", b"f1"]).node, files[1].1);
    }
}

/// With the device stopped, only what changed is looked at, whatever lies below it.
#[test]
fn a_moved_directory_is_one_look_with_the_device_stopped() {
    use super::super::verify::LOOKS;
    for held in HELD {
        let dir = tempfile::tempdir().unwrap();
        let share = dir.path();
        let source = daemon(share, FIND, held);
        let flags = mount(&source);
        let files = many(share, &source, 2000);
        source.begin_precopy();
        name(b"d", |d| {
            name(b"moved", |moved| {
                source
                    .rename(&CTX, NodeId::ROOT, d, NodeId::ROOT, moved, 0)
                    .unwrap();
            });
        });
        let before = LOOKS.get();
        let state = collect(&source);
        let looks = LOOKS.get() - before;
        assert!(looks <= 2, "{looks} looks");
        let target = daemon(share, FIND, held);
        assert_eq!(restore(&target, state, flags).unwrap(), 0);
        for (name, node) in files.iter().step_by(100) {
            let on_disk = fs::metadata(share.join("moved").join(name)).unwrap().ino();
            assert_eq!(ino(&target, *node).unwrap(), on_disk);
        }
    }
}
