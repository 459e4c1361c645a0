//! The memory of names by itself, without a file system.

use std::fs::File;

use super::super::handle_bytes::{FileHandle, MountRef};
use super::super::inode::{InodeArc, NewInode, Numbers, Place};
use super::*;

/// Tables with made-up inodes; nothing here touches a file system.
struct Tree {
    inodes: Inodes,
    names: Names,
}

fn made_up(kind: u32, ino: u64) -> NewInode {
    NewInode {
        kind,
        numbers: Numbers {
            mnt_id: 1,
            dev: 1,
            ino,
        },
        place: Place::Fd(std::os::fd::OwnedFd::from(File::open("/").unwrap()).into()),
    }
}

impl Tree {
    fn new() -> Tree {
        Tree {
            inodes: Inodes::new(made_up(libc::S_IFDIR, 1)),
            names: Names::new(),
        }
    }

    fn root(&self) -> InodeArc {
        self.inodes.get(NodeId::ROOT).unwrap()
    }

    /// A lookup of `name` in `parent` that finds inode number `ino`.
    fn look(&self, parent: &InodeArc, name: &str, kind: u32, ino: u64, links: u32) -> InodeArc {
        let (inode, _) = self.inodes.publish(made_up(kind, ino));
        self.names
            .insert(&self.inodes, parent, name.as_bytes(), &inode, links);
        inode
    }

    fn dir(&self, parent: &InodeArc, name: &str, ino: u64) -> InodeArc {
        self.look(parent, name, libc::S_IFDIR, ino, 1)
    }

    fn file(&self, parent: &InodeArc, name: &str, ino: u64) -> InodeArc {
        self.look(parent, name, libc::S_IFREG, ino, 1)
    }

    fn path(&self, inode: &Inode) -> Option<String> {
        let path = self.names.path(&self.inodes, inode.id())?;
        let parts: Vec<_> = path.iter().map(|c| String::from_utf8_lossy(c)).collect();
        Some(parts.join("/"))
    }

    fn known(&self, parent: &Inode, name: &str) -> Option<NodeId> {
        let known = self.names.known(&self.inodes, parent.id(), name.as_bytes());
        known.map(|inode| inode.id())
    }

    fn forget(&self, inode: &Inode, count: u64) {
        self.names.forget(&self.inodes, inode.id(), count);
    }

    /// Only the root, and nothing remembered.
    fn assert_empty(&self) {
        assert_eq!(self.inodes.len(), 1);
        assert_eq!(self.names.len(), 0);
        assert_eq!(lock(&self.root().links).children, 0);
        assert_eq!(self.root().lookups(), 1);
    }
}

#[test]
fn a_directory_that_is_renamed_takes_along_what_lies_in_it() {
    let t = Tree::new();
    let a = t.dir(&t.root(), "a", 10);
    let b = t.dir(&a, "b", 11);
    let f = t.file(&b, "f", 12);
    assert_eq!(t.path(&f).unwrap(), "a/b/f");
    t.names
        .rename(&t.inodes, (NodeId::ROOT, b"a"), &t.root(), b"z");
    assert_eq!(t.path(&f).unwrap(), "z/b/f");
    t.names.rename(&t.inodes, (a.id(), b"b"), &t.root(), b"y");
    assert_eq!(t.path(&f).unwrap(), "y/f");
    assert_eq!(t.known(&t.root(), "a"), None);
    assert_eq!(t.known(&a, "b"), None);
    for inode in [&f, &b, &a] {
        t.forget(inode, 1);
    }
    t.assert_empty();
}

#[test]
fn a_replaced_target_loses_its_name() {
    let t = Tree::new();
    let a = t.file(&t.root(), "a", 10);
    let b = t.file(&t.root(), "b", 11);
    t.names
        .rename(&t.inodes, (NodeId::ROOT, b"a"), &t.root(), b"b");
    assert_eq!(t.path(&a).unwrap(), "b");
    assert_eq!(t.path(&b), None);
    assert_eq!(t.names.primary(&t.inodes, b.id()), None);
    // A source that the guest has not looked up replaces it just as well.
    t.names
        .rename(&t.inodes, (NodeId::ROOT, b"x"), &t.root(), b"b");
    assert_eq!(t.path(&a), None);
    t.forget(&a, 1);
    t.forget(&b, 1);
    t.assert_empty();
}

#[test]
fn a_lookup_that_finds_another_takes_the_name_away() {
    let t = Tree::new();
    let a = t.file(&t.root(), "x", 10);
    let b = t.file(&t.root(), "x", 11);
    assert_eq!(t.path(&a), None);
    assert_eq!(t.path(&b).unwrap(), "x");
    // Moved by others, seen again elsewhere: the old name is no longer true.
    t.file(&t.root(), "y", 11);
    assert_eq!(t.path(&b).unwrap(), "y");
    assert_eq!(t.known(&t.root(), "x"), None);
    t.forget(&a, 1);
    t.forget(&b, 2);
    t.assert_empty();
}

#[test]
fn a_hard_link_steps_in_when_the_primary_name_goes() {
    let t = Tree::new();
    let d = t.dir(&t.root(), "d", 9);
    let f = t.look(&t.root(), "one", libc::S_IFREG, 10, 3);
    t.look(&d, "two", libc::S_IFREG, 10, 3);
    t.look(&d, "three", libc::S_IFREG, 10, 3);
    assert_eq!(t.names.all_of(&f).len(), 3);
    assert_eq!(t.path(&f).unwrap(), "d/three");
    t.names.remove(&t.inodes, d.id(), b"three");
    assert_eq!(t.path(&f).unwrap(), "d/two");
    t.names.remove(&t.inodes, d.id(), b"two");
    assert_eq!(t.path(&f).unwrap(), "one");
    t.names.remove(&t.inodes, NodeId::ROOT, b"one");
    assert_eq!(t.path(&f), None);
    t.names.remove(&t.inodes, NodeId::ROOT, b"one");
    t.forget(&d, 1);
    t.forget(&f, 3);
    t.assert_empty();
}

#[test]
fn more_links_than_are_kept_leave_no_trace() {
    let t = Tree::new();
    let mut last = None;
    for i in 0..(MOST_EXTRA + 20) {
        last = Some(t.look(&t.root(), &format!("l{i}"), libc::S_IFREG, 10, 99));
    }
    let f = last.unwrap();
    assert_eq!(t.names.all_of(&f).len(), MOST_EXTRA + 1);
    assert_eq!(t.names.len(), MOST_EXTRA + 1);
    // With a single link left on the host, one name is left here.
    t.look(&t.root(), "l5", libc::S_IFREG, 10, 1);
    assert_eq!(t.names.all_of(&f).len(), 1);
    assert_eq!(t.path(&f).unwrap(), "l5");
    t.forget(&f, u64::MAX);
    t.assert_empty();
}

#[test]
fn renaming_one_link_over_another_of_the_same_file_does_nothing() {
    let t = Tree::new();
    let f = t.look(&t.root(), "one", libc::S_IFREG, 10, 2);
    t.look(&t.root(), "two", libc::S_IFREG, 10, 2);
    t.names
        .rename(&t.inodes, (NodeId::ROOT, b"one"), &t.root(), b"two");
    assert_eq!(t.known(&t.root(), "one"), Some(f.id()));
    assert_eq!(t.known(&t.root(), "two"), Some(f.id()));
    t.forget(&f, 2);
    t.assert_empty();
}

#[test]
fn an_exchange_swaps_also_when_only_one_is_known() {
    let t = Tree::new();
    let d = t.dir(&t.root(), "d", 9);
    let a = t.file(&t.root(), "a", 10);
    let b = t.file(&d, "b", 11);
    t.names.exchange(&t.inodes, (&t.root(), b"a"), (&d, b"b"));
    assert_eq!(t.path(&a).unwrap(), "d/b");
    assert_eq!(t.path(&b).unwrap(), "a");
    t.names
        .exchange(&t.inodes, (&t.root(), b"a"), (&d, b"unknown"));
    assert_eq!(t.path(&b).unwrap(), "d/unknown");
    assert_eq!(t.known(&t.root(), "a"), None);
    t.names
        .exchange(&t.inodes, (&t.root(), b"nobody"), (&d, b"unknown"));
    assert_eq!(t.path(&b).unwrap(), "nobody");
    for inode in [&a, &b, &d] {
        t.forget(inode, 1);
    }
    t.assert_empty();
}

#[test]
fn a_forgotten_directory_stays_while_something_known_lies_in_it() {
    let t = Tree::new();
    let a = t.dir(&t.root(), "a", 10);
    let b = t.dir(&a, "b", 11);
    let f = t.file(&b, "f", 12);
    t.forget(&a, 1);
    t.forget(&b, 1);
    assert!(t.inodes.get(a.id()).is_none(), "the guest knows it no more");
    assert_eq!(t.path(&f).unwrap(), "a/b/f");
    // Looked up again, it is the same, and a rename of it is seen by `f`.
    let again = t.dir(&t.root(), "a", 10);
    assert!(InodeArc::ptr_eq(&a, &again));
    t.names
        .rename(&t.inodes, (NodeId::ROOT, b"a"), &t.root(), b"c");
    assert_eq!(t.path(&f).unwrap(), "c/b/f");
    t.forget(&a, 1);
    t.forget(&f, 1);
    t.assert_empty();
}

#[test]
fn a_chain_deeper_than_any_stack_goes_in_one_forget() {
    let t = Tree::new();
    let mut all = vec![t.root()];
    // One descriptor for all, rather than 3,000.
    for i in 0..3000u64 {
        let parent = all.last().unwrap().clone();
        let new = NewInode {
            place: Place::Lost(crate::errno::Errno::EIO),
            ..made_up(libc::S_IFDIR, 100 + i)
        };
        let (inode, _) = t.inodes.publish(new);
        t.names.insert(&t.inodes, &parent, b"d", &inode, 1);
        all.push(inode);
    }
    for inode in &all[1..3000] {
        t.forget(inode, 1);
    }
    assert_eq!(t.inodes.len(), 3001);
    let deepest = all.pop().unwrap();
    assert_eq!(t.names.path(&t.inodes, deepest.id()).unwrap().len(), 3000);
    t.forget(&deepest, 1);
    t.assert_empty();
}

#[test]
fn changes_are_noted_only_while_they_are_wanted() {
    let t = Tree::new();
    let before = t.names.generation();
    let a = t.file(&t.root(), "a", 10);
    assert!(t.names.generation() > before);
    assert!(t.names.take_changed().is_empty());
    t.names.track(true);
    t.file(&t.root(), "a", 10);
    assert!(t.names.take_changed().is_empty(), "seen where it was");
    let b = t.file(&t.root(), "b", 11);
    t.names
        .rename(&t.inodes, (NodeId::ROOT, b"b"), &t.root(), b"a");
    assert_eq!(t.names.take_changed(), HashSet::from([a.id(), b.id()]));
    t.forget(&a, 2);
    assert_eq!(t.names.take_changed(), HashSet::from([a.id()]));
    t.names.track(false);
    t.forget(&b, 1);
    assert!(t.names.take_changed().is_empty());
}

#[test]
fn names_of_the_dead_and_in_the_dead_are_not_taken() {
    let t = Tree::new();
    let d = t.dir(&t.root(), "d", 10);
    t.forget(&d, 1);
    let f = t.file(&d, "f", 11);
    assert_eq!(t.path(&f), None);
    t.forget(&f, 1);
    t.names.insert(&t.inodes, &t.root(), b"f", &f, 1);
    t.assert_empty();
}

#[test]
fn threads_that_rename_look_up_and_forget_leave_no_trace() {
    let t = Tree::new();
    let dirs: Vec<_> = (0..4)
        .map(|i| t.dir(&t.root(), &format!("d{i}"), 10 + i))
        .collect();
    std::thread::scope(|scope| {
        for thread in 0..4usize {
            let (t, dirs) = (&t, &dirs);
            scope.spawn(move || {
                for i in 0..4000usize {
                    let (from, to) = (&dirs[(i + thread) % 4], &dirs[(i * 7 + thread) % 4]);
                    let name = [b'a' + (i % 5) as u8];
                    let links = 1 + (i % 2) as u32;
                    let (inode, _) = t.inodes.publish(NewInode {
                        place: Place::Fd(
                            std::os::fd::OwnedFd::from(File::open("/").unwrap()).into(),
                        ),
                        ..made_up(libc::S_IFREG, 100 + (i % 6) as u64)
                    });
                    {
                        let _hold = t.names.hold(from.id(), &name);
                        t.names.insert(&t.inodes, from, &name, &inode, links);
                    }
                    {
                        let (a, b) = ((from.id(), &name[..]), (to.id(), &b"t"[..]));
                        let _hold = t.names.hold_changes(a, b);
                        t.names.rename(&t.inodes, a, to, b"t");
                    }
                    {
                        let _hold = t.names.hold_change(to.id(), b"t");
                        t.names.remove(&t.inodes, to.id(), b"t");
                    }
                    t.names.release(&t.inodes, inode, 1);
                }
            });
        }
    });
    for dir in &dirs {
        t.forget(dir, 1);
    }
    t.assert_empty();
}

#[test]
fn what_a_rename_costs_does_not_depend_on_what_lies_below() {
    const CHILDREN: u64 = 100_000;
    const DEPTH: u64 = 1_500;
    let t = Tree::new();
    let mount = Arc::new(MountRef::made_up(1, File::open("/").unwrap().into()));
    let look = |parent: &InodeArc, name: &str, kind: u32, ino: u64| {
        let (inode, _) = t.inodes.publish(NewInode {
            kind,
            numbers: Numbers {
                mnt_id: 1,
                dev: 1,
                ino,
            },
            place: Place::Handle {
                mount: mount.clone(),
                handle: FileHandle::new(1, &ino.to_le_bytes()).unwrap(),
            },
        });
        t.names
            .insert(&t.inodes, parent, name.as_bytes(), &inode, 1);
        inode
    };
    let top = look(&t.root(), "top", libc::S_IFDIR, 2);
    let mut deepest = top.clone();
    for n in 0..DEPTH {
        deepest = look(&deepest, "d", libc::S_IFDIR, 10 + n);
    }
    let mut last = None;
    for n in 0..CHILDREN {
        let name = format!("file-{n}");
        last = Some(look(&deepest, &name, libc::S_IFREG, 10_000 + n));
    }
    t.names.track(true);
    let before = t.names.generation();
    t.names
        .rename(&t.inodes, (NodeId::ROOT, b"top"), &t.root(), b"moved");
    assert_eq!(t.names.generation() - before, 1, "one step");
    assert_eq!(t.names.take_changed(), HashSet::from([top.id()]));
    let path = t.path(&last.unwrap()).unwrap();
    assert!(path.starts_with("moved/d/d/") && path.ends_with("/d/file-99999"));
    assert_eq!(path.matches('/').count() as u64, DEPTH + 1);
    // And so it is for one in the middle that goes elsewhere.
    let (middle, _) = t.names.primary(&t.inodes, deepest.id()).unwrap();
    let before = t.names.generation();
    t.names
        .rename(&t.inodes, (middle, b"d"), &t.root(), b"elsewhere");
    assert_eq!(t.names.generation() - before, 1);
    assert_eq!(t.path(&deepest).unwrap(), "elsewhere");
    assert_eq!(t.names.take_changed(), HashSet::from([deepest.id()]));
}
