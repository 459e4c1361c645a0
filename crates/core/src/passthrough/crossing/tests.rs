//! Crossings between two file systems over the same directory, or a copy.

use std::ffi::{CString, OsStr};
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use ferryfs_format_postcard::Postcard;
use ferryfs_state::pieces::write_pieces;
use ferryfs_state::validate::validate;
use ferryfs_state::{
    read_state, write_state, Format, FsState, Limits, Location, Registry, Session, State,
    WriterInfo,
};

use super::super::config::{Config, InodeFileHandles, MigrationMode, MigrationOnError, Restore};
use super::super::Passthrough;
use crate::abi;
use crate::buffer::BufIo;
use crate::errno::{Errno, FsResult};
use crate::fs::{Context, Entry, FileSystem, InitOffer, ReadArgs, WriteArgs};
use crate::io::RequestIo;
use crate::migrate::{Collected, MigrateFs};
use crate::types::{HandleId, Name, NodeId};

const CTX: Context<'static> = Context {
    unique: 1,
    uid: 0,
    gid: 0,
    pid: 1,
    supplementary_groups: None,
    security_context: None,
};

const FIND: MigrationMode = MigrationMode::FindPaths;

fn daemon_with(share: &Path, change: impl FnOnce(&mut Config)) -> Passthrough {
    let root = fs::File::open(share).unwrap();
    let mut config = Config::new(root.into());
    change(&mut config);
    Passthrough::new(config).unwrap()
}

fn daemon(share: &Path, mode: MigrationMode, handles: InodeFileHandles) -> Passthrough {
    daemon_with(share, |config| {
        config.migration_mode = mode;
        config.inode_file_handles = handles;
    })
}

/// Mounts as a guest does; answers the session's flags.
fn mount(fs: &Passthrough) -> u64 {
    let offer = InitOffer {
        minor: 38,
        flags: u64::MAX,
        max_readahead: 0,
    };
    let flags = fs.init(&offer).unwrap().flags;
    fs.adopt_session(flags);
    flags
}

fn c(bytes: &[u8]) -> CString {
    CString::new(bytes).unwrap()
}

fn lookup(fs: &Passthrough, parent: NodeId, name: &[u8]) -> FsResult<Entry> {
    let name = c(name);
    fs.lookup(&CTX, parent, Name::new(&name).unwrap())
}

fn walk(fs: &Passthrough, path: &[&[u8]]) -> Entry {
    let mut at = NodeId::ROOT;
    let mut entry = None;
    for name in path {
        let found = lookup(fs, at, name).unwrap();
        at = found.node;
        entry = Some(found);
    }
    entry.unwrap()
}

fn open(fs: &Passthrough, node: NodeId, flags: i32) -> HandleId {
    fs.open(&CTX, node, flags as u32, false).unwrap().handle
}

fn read(fs: &Passthrough, node: NodeId, handle: HandleId) -> FsResult<Vec<u8>> {
    let mut reply = vec![0; 4096];
    let mut io = BufIo::new(&[], &mut reply);
    let args = ReadArgs {
        offset: 0,
        size: 1024,
        flags: 0,
    };
    let n = fs.read(&CTX, node, handle, &args, io.body())?;
    Ok(reply[16..16 + n].to_vec())
}

fn write(fs: &Passthrough, node: NodeId, handle: HandleId, offset: u64, data: &[u8]) {
    let mut reply = [0; 64];
    let mut io = BufIo::new(data, &mut reply);
    let args = WriteArgs {
        offset,
        size: data.len() as u32,
        flags: 0,
        from_cache: false,
        kill_suidgid: false,
    };
    let n = fs.write(&CTX, node, handle, &args, io.reader()).unwrap();
    assert_eq!(n, data.len());
}

fn ino(fs: &Passthrough, node: NodeId) -> FsResult<u64> {
    Ok(fs.getattr(&CTX, node, None)?.attr.ino)
}

/// What a stream would carry, having passed what each reader checks.
fn collect(fs: &Passthrough) -> FsState {
    let state = fs.collect().unwrap();
    check(&state);
    state
}

fn session() -> Session {
    Session {
        guest_minor: 38,
        minor: 38,
        offered_flags: u64::MAX,
        flags: 0,
        max_write: 1 << 20,
        max_pages: 256,
        max_readahead: 0,
        max_background: 1,
        congestion_threshold: 1,
        time_gran: 1,
    }
}

fn check(state: &FsState) {
    let state = State {
        session: Some(session()),
        fs: state.clone(),
    };
    validate(&state, &Limits::default()).unwrap();
}

fn format() -> Arc<dyn Format> {
    Arc::new(Postcard)
}

/// Begins precopy, and has inodes encoded in blocks of `1 << shift` ids: all that there
/// are, when this returns.
fn encode_ahead(fs: &Passthrough, shift: u32) {
    fs.precopy.blocks.store(shift + 1, Ordering::SeqCst);
    fs.begin_precopy_in(&format());
    fs.precopy.encoded();
}

/// The stream of what has been collected.
fn written(collected: Collected) -> Vec<u8> {
    let mut bytes = Vec::new();
    let writer = WriterInfo::new("test", "0");
    let session = Some(session());
    match collected {
        Collected::Whole(fs) => {
            let state = State { session, fs };
            write_state(&state, &Postcard, &writer, &mut bytes)
        }
        Collected::Pieces { rest: fs, pieces } => {
            let state = State { session, fs };
            write_pieces(state, &pieces, &Postcard, &writer, None, &mut bytes)
        }
    }
    .unwrap();
    bytes
}

/// As it comes out of a stream at the other end.
fn received(bytes: Vec<u8>) -> FsState {
    let registry = Registry::new().with(Postcard);
    let (_, state) = read_state(&mut &bytes[..], &registry, &Limits::default()).unwrap();
    state.fs
}

fn restore(fs: &Passthrough, state: FsState, flags: u64) -> Result<u64, String> {
    let plan = fs.plan_restore(state, flags)?;
    fs.adopt_session(flags);
    Ok(fs.apply(plan))
}

fn ways() -> [(MigrationMode, InodeFileHandles); 4] {
    use InodeFileHandles::{Never, Prefer};
    [
        (FIND, Never),
        (FIND, Prefer),
        (MigrationMode::FileHandles, Never),
        (MigrationMode::FileHandles, Prefer),
    ]
}

#[test]
fn what_the_guest_holds_goes_on_at_the_destination() {
    let late = Restore::Lazy { first: 0 };
    let both = |way| [Restore::Eager, late].map(|restore| (way, restore));
    for ((mode, held), restore_when) in ways().into_iter().flat_map(both) {
        let dir = tempfile::tempdir().unwrap();
        let share = dir.path();
        fs::create_dir_all(share.join("a/b")).unwrap();
        fs::write(share.join("a/b/file"), "content").unwrap();
        fs::write(share.join("hidden"), "secret").unwrap();
        fs::set_permissions(share.join("hidden"), fs::Permissions::from_mode(0o0)).unwrap();
        std::os::unix::fs::symlink("nowhere", share.join("link")).unwrap();
        fs::write(share.join(OsStr::from_bytes(b"\xff\xfe")), "bytes").unwrap();
        fs::hard_link(share.join("a/b/file"), share.join("second")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            share.join("fifo"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from(0o600),
            0,
        )
        .unwrap();

        let source = daemon(share, mode, held);
        let flags = mount(&source);
        let file = walk(&source, &[b"a", b"b", b"file"]);
        let second = lookup(&source, NodeId::ROOT, b"second").unwrap();
        assert_eq!(file.node, second.node);
        let dir_b = walk(&source, &[b"a", b"b"]);
        let names: [&[u8]; 4] = [b"hidden", b"link", b"\xff\xfe", b"fifo"];
        let others: Vec<Entry> = names
            .iter()
            .map(|n| lookup(&source, NodeId::ROOT, n).unwrap())
            .collect();
        let handle = open(&source, file.node, libc::O_RDWR | libc::O_APPEND);
        let hidden = open(&source, others[0].node, libc::O_RDONLY);
        let listing = source.opendir(&CTX, dir_b.node, 0).unwrap().handle;

        source.begin_precopy();
        // Renamed by the guest while precopy runs; unlinked under one name.
        let (a, moved) = (c(b"a"), c(b"moved"));
        let (a, moved) = (Name::new(&a).unwrap(), Name::new(&moved).unwrap());
        source
            .rename(&CTX, NodeId::ROOT, a, NodeId::ROOT, moved, 0)
            .unwrap();
        let second = c(b"second");
        source
            .unlink(&CTX, NodeId::ROOT, Name::new(&second).unwrap())
            .unwrap();
        let state = collect(&source);
        assert_eq!(state.handles.len(), 3);
        assert_eq!(
            state.handles[0].guest_flags,
            (libc::O_RDWR | libc::O_APPEND) as u32
        );
        let at_source = state.inodes.iter().find(|i| i.id == file.node.0).unwrap();
        assert_eq!(at_source.lookups, 2);

        let target = daemon_with(share, |config| {
            config.migration_mode = mode;
            config.inode_file_handles = held;
            config.restore = restore_when;
        });
        assert_eq!(restore(&target, state.clone(), flags).unwrap(), 0);
        assert_eq!(read(&target, file.node, handle).unwrap(), b"content");
        assert_eq!(read(&target, others[0].node, hidden).unwrap(), b"secret");
        assert_eq!(
            ino(&target, file.node).unwrap(),
            fs::metadata(share.join("moved/b/file")).unwrap().ino()
        );
        for (entry, name) in others.iter().zip(names) {
            let on_disk = fs::symlink_metadata(share.join(OsStr::from_bytes(name))).unwrap();
            assert_eq!(ino(&target, entry.node).unwrap(), on_disk.ino());
            // Looked up again, it is the inode that the guest knows.
            let again = lookup(&target, NodeId::ROOT, name).unwrap();
            assert_eq!(again.node, entry.node);
        }
        assert_eq!(walk(&target, &[b"moved", b"b"]).node, dir_b.node);
        target.releasedir(&CTX, dir_b.node, listing).unwrap();
        // Numbers go on where they were: nothing that the guest knows is reused.
        fs::write(share.join("fresh"), "").unwrap();
        let fresh = lookup(&target, NodeId::ROOT, b"fresh").unwrap();
        assert!(fresh.node.0 >= state.next_inode);
        assert!(open(&target, fresh.node, 0).0 >= state.next_handle);
        // And on from there, and by name as well.
        target.forget(fresh.node, 1);
        let onward = daemon(share, FIND, held);
        let state = collect(&target);
        assert_eq!(restore(&onward, state, flags).unwrap(), 0);
        assert_eq!(read(&onward, file.node, handle).unwrap(), b"content");
    }
}

#[test]
fn a_copy_of_the_share_will_do_where_names_are_what_counts() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (dir, text) in [(&one, "one"), (&two, "two")] {
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/f"), text).unwrap();
    }
    let source = daemon(one.path(), FIND, InodeFileHandles::Prefer);
    let flags = mount(&source);
    let file = walk(&source, &[b"d", b"f"]);
    let handle = open(&source, file.node, libc::O_RDWR);
    let target = daemon(two.path(), FIND, InodeFileHandles::Prefer);
    restore(&target, collect(&source), flags).unwrap();
    assert_eq!(read(&target, file.node, handle).unwrap(), b"two");
    write(&target, file.node, handle, 0, b"TWO");
    assert_eq!(fs::read(two.path().join("d/f")).unwrap(), b"TWO");
    assert_eq!(fs::read(one.path().join("d/f")).unwrap(), b"one");
}

#[test]
fn what_others_renamed_is_found_again() {
    for held in [InodeFileHandles::Never, InodeFileHandles::Prefer] {
        for early in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let share = dir.path();
            fs::create_dir_all(share.join("a/b")).unwrap();
            fs::write(share.join("a/b/file"), "content").unwrap();
            fs::write(share.join("a/other"), "other").unwrap();
            let source = daemon(share, FIND, held);
            let flags = mount(&source);
            let file = walk(&source, &[b"a", b"b", b"file"]);
            let other = walk(&source, &[b"a", b"other"]);
            let handle = open(&source, file.node, libc::O_RDONLY);
            let rename = || {
                fs::create_dir_all(share.join("new/deep")).unwrap();
                fs::rename(share.join("a/b"), share.join("new/deep/bb")).unwrap();
                fs::rename(share.join("a/other"), share.join("elsewhere")).unwrap();
            };
            if early {
                rename();
                source.begin_precopy();
            } else {
                // Names that precopy has found right are believed; a snapshot
                // looks at all of them.
                source.begin_precopy();
                rename();
                source.cancel_precopy();
            }
            let state = collect(&source);
            let dir_b = state.inodes.iter().find(|i| i.id == file.node.0).unwrap();
            assert!(matches!(dir_b.location, Location::Child { .. }));
            assert!(
                state.inodes.iter().any(|i| matches!(&i.location,
                    Location::Path { from: 1, components } if components.len() == 3)),
                "a directory below two that the guest does not know: {state:?}"
            );
            let target = daemon(share, FIND, held);
            assert_eq!(restore(&target, state, flags).unwrap(), 0);
            assert_eq!(read(&target, file.node, handle).unwrap(), b"content");
            assert_eq!(
                lookup(&target, NodeId::ROOT, b"elsewhere").unwrap().node,
                other.node
            );
            let again = walk(&target, &[b"new", b"deep", b"bb", b"file"]);
            assert_eq!(again.node, file.node);
            // The directories on the way are the guest's now, and go on crossing.
            let onward = daemon(share, FIND, held);
            assert_eq!(restore(&onward, collect(&target), flags).unwrap(), 0);
            assert_eq!(read(&onward, file.node, handle).unwrap(), b"content");
        }
    }
}

#[test]
fn unlinked_and_renamed_files_cross_by_file_handle() {
    let dir = tempfile::tempdir().unwrap();
    let share = dir.path();
    fs::create_dir(share.join("d")).unwrap();
    fs::write(share.join("d/gone"), "gone").unwrap();
    fs::write(share.join("moved"), "moved").unwrap();
    let mode = MigrationMode::FileHandles;
    let source = daemon(share, mode, InodeFileHandles::Prefer);
    let flags = mount(&source);
    let gone = walk(&source, &[b"d", b"gone"]);
    let moved = walk(&source, &[b"moved"]);
    let handle = open(&source, gone.node, libc::O_RDWR);
    fs::remove_file(share.join("d/gone")).unwrap();
    fs::rename(share.join("moved"), share.join("d/there")).unwrap();
    let target = daemon(share, mode, InodeFileHandles::Prefer);
    assert_eq!(restore(&target, collect(&source), flags).unwrap(), 0);
    drop(source);
    assert_eq!(read(&target, gone.node, handle).unwrap(), b"gone");
    assert_eq!(walk(&target, &[b"d", b"there"]).node, moved.node);
}

#[test]
fn a_refused_state_changes_nothing() {
    let (right, wrong) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(right.path().join("f"), "right").unwrap();
    fs::write(right.path().join("g"), "g").unwrap();
    let source = daemon(right.path(), FIND, InodeFileHandles::Prefer);
    let flags = mount(&source);
    let file = walk(&source, &[b"f"]);
    let handle = open(&source, file.node, libc::O_RDWR);
    let first = collect(&source);
    walk(&source, &[b"g"]);
    let second = collect(&source);

    let target = daemon(wrong.path(), FIND, InodeFileHandles::Prefer);
    let error = restore(&target, first.clone(), flags).unwrap_err();
    assert!(
        error.contains("\"f\" in inode 1") && error.contains("--shared-dir"),
        "{error}"
    );
    assert_eq!(target.inodes().len(), 1);

    // A daemon that has taken one state and refuses another keeps the first.
    let target = daemon(right.path(), FIND, InodeFileHandles::Prefer);
    restore(&target, first, flags).unwrap();
    fs::remove_file(right.path().join("g")).unwrap();
    fs::create_dir(right.path().join("g")).unwrap();
    let error = restore(&target, second, flags).unwrap_err();
    assert!(error.contains("Is a directory"), "{error}");
    assert_eq!(read(&target, file.node, handle).unwrap(), b"right");
    assert_eq!(target.inodes().len(), 2);
}

#[test]
fn open_flags_mean_the_same_on_the_other_side() {
    let dir = tempfile::tempdir().unwrap();
    let share = dir.path();
    let make = || daemon_with(share, |config| config.writeback = true);
    let source = make();
    let flags = mount(&source);
    assert_ne!(flags & abi::FUSE_WRITEBACK_CACHE, 0);
    let name = c(b"log");
    let (entry, opened) = source
        .create(
            &CTX,
            NodeId::ROOT,
            Name::new(&name).unwrap(),
            0o644,
            0,
            (libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT | libc::O_TRUNC) as u32,
            false,
        )
        .unwrap();
    write(&source, entry.node, opened.handle, 0, b"0123456789");
    let state = collect(&source);
    assert_eq!(
        state.handles[0].guest_flags,
        (libc::O_WRONLY | libc::O_APPEND) as u32
    );
    let target = make();
    restore(&target, state, flags).unwrap();
    // Not truncated; readable for the guest's page cache; and what that writes
    // back goes to its offset, not to the end.
    assert_eq!(
        read(&target, entry.node, opened.handle).unwrap(),
        b"0123456789"
    );
    write(&target, entry.node, opened.handle, 2, b"xx");
    assert_eq!(fs::read(share.join("log")).unwrap(), b"01xx456789");
}

#[test]
fn a_cancelled_precopy_leaves_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "").unwrap();
    let source = daemon(dir.path(), FIND, InodeFileHandles::Never);
    mount(&source);
    walk(&source, &[b"f"]);
    for _ in 0..3 {
        source.begin_precopy();
        source.begin_precopy();
        source.cancel_precopy();
        source.cancel_precopy();
    }
    fs::write(dir.path().join("g"), "").unwrap();
    walk(&source, &[b"g"]);
    assert!(source.names().take_changed().is_empty());
    assert!(!source.precopy.is_running());
    assert_eq!(collect(&source).inodes.len(), 3);
}

#[test]
fn paths_longer_than_path_max_cross() {
    let dir = tempfile::tempdir().unwrap();
    let component = [b'n'; 250];
    let mut at = fs::File::open(dir.path()).unwrap();
    for _ in 0..24 {
        let name = OsStr::from_bytes(&component);
        rustix::fs::mkdirat(&at, name, 0o755.into()).unwrap();
        let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::RDONLY;
        at = rustix::fs::openat(&at, name, flags, rustix::fs::Mode::empty())
            .unwrap()
            .into();
    }
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    let file = rustix::fs::openat(&at, "deep", flags, 0o644.into()).unwrap();
    rustix::io::write(&file, b"deep down").unwrap();
    let deep_ino = rustix::fs::fstat(file.as_fd()).unwrap().st_ino;
    for held in [InodeFileHandles::Never, InodeFileHandles::Prefer] {
        let source = daemon(dir.path(), FIND, held);
        let flags = mount(&source);
        let mut path = vec![&component[..]; 24];
        path.push(b"deep");
        let file = walk(&source, &path);
        let handle = open(&source, file.node, libc::O_RDONLY);
        source.begin_precopy();
        let target = daemon(dir.path(), FIND, held);
        assert_eq!(restore(&target, collect(&source), flags).unwrap(), 0);
        assert_eq!(ino(&target, file.node).unwrap(), deep_ino);
        assert_eq!(read(&target, file.node, handle).unwrap(), b"deep down");
    }
}

#[test]
fn collecting_and_restoring_leaks_no_descriptor() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..50 {
        fs::write(dir.path().join(format!("f{i}")), "x").unwrap();
    }
    // Counted by what refers to the share: other tests run beside this one.
    let open_here = || {
        fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|e| fs::read_link(e.unwrap().path()).ok())
            .filter(|target| target.starts_with(dir.path()))
            .count()
    };
    let before = open_here();
    {
        let source = daemon(dir.path(), FIND, InodeFileHandles::Never);
        let flags = mount(&source);
        for i in 0..50 {
            let file = walk(&source, &[format!("f{i}").as_bytes()]);
            open(&source, file.node, libc::O_RDWR);
        }
        let held = open_here();
        let state = collect(&source);
        assert_eq!(open_here(), held);
        let target = daemon(dir.path(), FIND, InodeFileHandles::Never);
        let alone = open_here();
        for _ in 0..3 {
            restore(&target, state.clone(), flags).unwrap();
            assert_eq!(open_here() - alone, 100);
        }
        target.destroy();
        assert_eq!(open_here(), alone);
    }
    assert_eq!(open_here(), before);
}

mod ahead;
mod escapes;
mod features;
mod ghosts;
mod identity;
mod lazy;
mod many;
mod model;
mod mounts;
mod texts;

#[test]
fn file_handles_that_lead_out_of_the_share_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for d in ["right/d/deep", "wrong"] {
        fs::create_dir_all(dir.path().join(d)).unwrap();
    }
    let mode = MigrationMode::FileHandles;
    for held in [InodeFileHandles::Never, InodeFileHandles::Prefer] {
        let source = daemon(&dir.path().join("right"), mode, held);
        let flags = mount(&source);
        let deep = walk(&source, &[b"d", b"deep"]);
        let mut state = collect(&source);
        // As an older source says it, which does not tell its root from others.
        state.identities.clear();
        state.file_systems.clear();
        // The same file system, another directory: the handles can be opened.
        let target = daemon(&dir.path().join("wrong"), mode, held);
        let error = restore(&target, state.clone(), flags).unwrap_err();
        assert!(error.contains("out of the shared directory"), "{error}");
        assert_eq!(target.inodes().len(), 1);
        let target = daemon(&dir.path().join("right"), mode, held);
        assert_eq!(restore(&target, state, flags).unwrap(), 0);
        assert!(ino(&target, deep.node).is_ok());
    }
}

#[test]
fn what_is_removed_and_not_open_stops_no_crossing_by_file_handle() {
    let dir = tempfile::tempdir().unwrap();
    let mode = MigrationMode::FileHandles;
    for held in [InodeFileHandles::Never, InodeFileHandles::Prefer] {
        for n in ["stays", "unlinked", "by others"] {
            fs::write(dir.path().join(n), n).unwrap();
        }
        fs::create_dir(dir.path().join("dir")).unwrap();
        let source = daemon(dir.path(), mode, held);
        let flags = mount(&source);
        let stays = walk(&source, &[b"stays"]);
        let gone: Vec<Entry> = [&b"unlinked"[..], b"by others", b"dir"]
            .iter()
            .map(|n| walk(&source, &[n]))
            .collect();
        let (unlinked, directory) = (c(b"unlinked"), c(b"dir"));
        let name = Name::new(&unlinked).unwrap();
        source.unlink(&CTX, NodeId::ROOT, name).unwrap();
        let name = Name::new(&directory).unwrap();
        source.rmdir(&CTX, NodeId::ROOT, name).unwrap();
        fs::remove_file(dir.path().join("by others")).unwrap();
        let state = collect(&source);
        // As for a snapshot: nothing keeps them alive any more.
        drop(source);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let target = loop {
            let target = daemon(dir.path(), mode, held);
            assert_eq!(restore(&target, state.clone(), flags).unwrap(), 0);
            assert!(ino(&target, stays.node).is_ok());
            let found: Vec<_> = gone.iter().map(|entry| ino(&target, entry.node)).collect();
            if found.iter().all(|found| *found == Err(Errno::ESTALE)) {
                break target;
            }
            // A child that another test has just forked has all descriptors of this
            // process, until it executes something.
            assert!(std::time::Instant::now() < deadline, "{found:?}");
        };
        // Nothing of it found: not the file system that the guest knows.
        drop(target);
        fs::remove_file(dir.path().join("stays")).unwrap();
        let error = loop {
            let target = daemon(dir.path(), mode, held);
            if let Err(error) = restore(&target, state.clone(), flags) {
                break error;
            }
            assert!(std::time::Instant::now() < deadline, "taken");
        };
        assert!(error.contains("--shared-dir"), "{error}");
    }
}
