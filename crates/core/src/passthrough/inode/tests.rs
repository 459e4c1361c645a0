//! Tests of the tables of inodes.

use super::super::held::LateFd;
use super::super::{Numbers, Place};
use super::*;
use crate::errno::Errno;
use crate::passthrough::handle_bytes::{FileHandle, MountRef};
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::sync::Barrier;

fn numbers(ino: u64) -> Numbers {
    Numbers {
        mnt_id: 1,
        dev: 2,
        ino,
    }
}

fn made_up(ino: u64, handle: &[u8]) -> NewInode {
    NewInode {
        kind: libc::S_IFREG,
        numbers: numbers(ino),
        place: Place::Handle {
            mount: mount(),
            handle: FileHandle::new(1, handle).unwrap(),
        },
    }
}

fn mount() -> Arc<MountRef> {
    Arc::new(MountRef::made_up(1, File::open("/").unwrap().into()))
}

fn by_fd(ino: u64) -> NewInode {
    NewInode {
        kind: libc::S_IFREG,
        numbers: numbers(ino),
        place: Place::Fd(OwnedFd::from(File::open("/").unwrap()).into()),
    }
}

#[test]
fn numbers_go_up_and_are_never_used_again() {
    let inodes = Inodes::new(by_fd(1));
    let (a, new) = inodes.publish(by_fd(10));
    assert!(new);
    assert_eq!(a.id(), NodeId(2));
    assert!(a.release(1));
    inodes.remove(&a);
    assert!(inodes.get(NodeId(2)).is_none());
    let (b, new) = inodes.publish(by_fd(10));
    assert!(new);
    assert_eq!(b.id(), NodeId(3));
    inodes.clear();
    assert_eq!(inodes.len(), 1);
    assert_eq!(inodes.publish(by_fd(10)).0.id(), NodeId(4));
}

#[test]
fn more_forgets_than_lookups_do_not_underflow() {
    let inodes = Inodes::new(by_fd(1));
    let (a, _) = inodes.publish(by_fd(10));
    assert!(a.release(u64::MAX));
    assert!(!a.release(1), "dies once");
    assert_eq!(a.lookups(), 0);
    assert!(!inodes.acquire_again(&a), "death is final");
    let root = inodes.get(NodeId::ROOT).unwrap();
    assert!(!root.release(u64::MAX));
    assert_eq!(root.lookups(), 1);
    let pinned = inodes.publish(by_fd(11)).0;
    assert!(pinned.pin());
    assert!(!pinned.release(5));
    assert!(inodes.get(pinned.id()).is_none());
    assert!(inodes.get_or_pinned(pinned.id()).is_some());
    assert!(pinned.unpin());
}

#[test]
fn a_reused_inode_number_with_another_handle_is_another_inode() {
    let inodes = Inodes::new(by_fd(1));
    let (a, _) = inodes.publish(made_up(10, b"generation 1"));
    let (b, new) = inodes.publish(made_up(10, b"generation 2"));
    assert!(new);
    assert_ne!(a.id(), b.id());
    let (again, new) = inodes.publish(made_up(10, b"generation 1"));
    assert!(!new);
    assert!(InodeArc::ptr_eq(&a, &again));
    assert_eq!(a.lookups(), 2);
}

#[test]
fn colliding_hashes_keep_inodes_apart() {
    let inodes = Inodes::with_hash_mask(by_fd(1), 0);
    let all: Vec<_> = (10..20).map(|ino| inodes.publish(by_fd(ino)).0).collect();
    for (inode, ino) in all.iter().zip(10..) {
        let identity = Identity {
            numbers: Numbers {
                mnt_id: 1,
                dev: 2,
                ino,
            },
            handle: None,
        };
        assert_eq!(inodes.acquire(&identity).unwrap().id(), inode.id());
        assert!(inode.release(2));
        inodes.remove(inode);
        assert!(inodes.acquire(&identity).is_none());
    }
    assert_eq!(inodes.len(), 1);
}

#[test]
fn forget_against_lookup_neither_loses_nor_doubles_an_inode() {
    let inodes = Inodes::new(by_fd(1));
    let barrier = Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                barrier.wait();
                for _ in 0..5000 {
                    let (inode, _) = inodes.publish(made_up(7, b"one file"));
                    assert!(inode.lookups() >= 1);
                    let known = inodes.get(inode.id()).expect("held by this thread");
                    assert!(InodeArc::ptr_eq(&known, &inode));
                    if inode.release(1) {
                        inodes.remove(&inode);
                    }
                }
            });
        }
    });
    assert_eq!(inodes.len(), 1);
    let indexed: usize = inodes
        .identities
        .iter()
        .map(|shard| read(shard).len())
        .sum();
    assert_eq!(indexed, 1, "only the root is left in the other table");
}

#[test]
fn a_sibling_takes_the_place_of_what_was_there() {
    let inodes = Inodes::new(by_fd(1));
    let (old, _) = inodes.publish(by_fd(10));
    let other = inodes.sibling(by_fd(1));
    other.insert(NodeId(77), 3, by_fd(50));
    other.set_next(100);
    inodes.replace_with(other);
    assert!(inodes.get(old.id()).is_none());
    let restored = inodes.get(NodeId(77)).unwrap();
    assert_eq!(restored.lookups(), 3);
    let (same, new) = inodes.publish(by_fd(50));
    assert!(!new && InodeArc::ptr_eq(&same, &restored));
    assert_eq!(inodes.publish(by_fd(51)).0.id(), NodeId(100));
}

#[test]
fn a_descriptor_that_comes_late_stays_and_is_closed_at_the_end() {
    let made = |path: &str| OwnedFd::from(File::open(path).unwrap());
    let late = LateFd::default();
    assert!(late.get().is_none());
    let (first, second) = (made("/"), made("/proc"));
    let (first_number, second_number) = (first.as_raw_fd(), second.as_raw_fd());
    let same = |fd: RawFd, path: &str| {
        let link = std::fs::read_link(format!("/proc/self/fd/{fd}"));
        link.is_ok_and(|link| link == Path::new(path))
    };
    late.set(first);
    late.set(second);
    assert_eq!(late.get().unwrap().as_raw_fd(), first_number);
    assert!(same(first_number, "/"));
    assert!(
        !same(second_number, "/proc"),
        "it was not taken, and is closed"
    );
    // Known by what it is on: other tests may be given the number.
    let kept = std::fs::File::from(made("/dev/null"));
    let late = LateFd::default();
    late.set(kept.try_clone().unwrap().into());
    let number = late.get().unwrap().as_raw_fd();
    assert!(same(number, "/dev/null"));
    drop(late);
    assert!(!same(number, "/dev/null"));
}

#[test]
fn an_inode_is_small() {
    // With the counter of its references, one allocation of 112 bytes, which has
    // room for 104. Its place in three tables comes on top of it.
    let size = std::mem::size_of::<Inode>() + 8;
    assert!(size <= 104, "{size} bytes");
}

#[test]
fn many_are_found_at_once_as_one_by_one() {
    let lost = || NewInode {
        kind: libc::S_IFREG,
        numbers: by_fd(1).numbers,
        place: Place::Lost(Errno::ESTALE),
    };
    let inodes = Inodes::new(by_fd(1));
    let known: Vec<u64> = (2..3000)
        .chain([1 << 20, 1 << 40, (1 << 40) + 1024])
        .collect();
    for id in known.iter().filter(|id| *id % 7 != 0) {
        inodes.insert(NodeId(*id), 1, lost());
    }
    let pinned = inodes.get(NodeId(9)).unwrap();
    assert!(pinned.pin() && !pinned.release(1));
    let backwards: Vec<u64> = known.iter().rev().copied().collect();
    for ids in [&known[..], &backwards, &known[..SHARDS], &known[..3], &[]] {
        let found = inodes.get_all(ids);
        assert_eq!(found.len(), ids.len());
        for (id, found) in ids.iter().zip(found) {
            let one = inodes.get_or_pinned(NodeId(*id));
            assert_eq!(one.is_some(), id % 7 != 0, "{id}");
            assert_eq!(
                found.map(|inode| inode.id()),
                one.map(|inode| inode.id()),
                "{id}"
            );
        }
    }
}
