//! Descriptors of the objects last worked with, where inodes are held by handle:
//! opening one by handle costs more than what is then done with it.
//!
//! A few slots, one object each. A descriptor is let go of when another object
//! needs its slot, or when the guest forgets the object: it keeps the mount busy,
//! and the space of a removed file taken.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::inode::{Inode, InodeArc, InodeFd, Place};
use crate::errno::{Errno, FsResult};
use crate::types::NodeId;

/// Directories kept open: those in which names are looked up, made and removed.
const DIRECTORIES: usize = 64;

/// The most other objects kept open, and which part of the process' descriptors
/// they may take.
const OBJECTS: u64 = 1024;
const SHARE_OF_LIMIT: u64 = 16;

// Known by the inode itself and not by its number, which means another directory
// after a crossing. The reference keeps its address from being used again.
type Kept = Option<(InodeArc, Arc<OwnedFd>)>;
type Slot = Mutex<Kept>;

/// See the module's text.
pub(super) struct KeptFds {
    directories: Box<[Slot]>,
    others: Box<[Slot]>,
}

fn slots(count: usize) -> Box<[Slot]> {
    (0..count).map(|_| Slot::default()).collect()
}

impl KeptFds {
    pub(super) fn new() -> KeptFds {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let others = limit.map_or(OBJECTS, |limit| (limit / SHARE_OF_LIMIT).clamp(1, OBJECTS));
        KeptFds {
            directories: slots(DIRECTORIES),
            others: slots(others as usize),
        }
    }

    /// Directories and other objects do not take each other's slots: a listing
    /// that looks at a thousand files goes on in the one directory.
    fn slot_in(slots: &[Slot], node: NodeId) -> MutexGuard<'_, Kept> {
        slots[node.0 as usize % slots.len()]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, inode: &Inode) -> MutexGuard<'_, Kept> {
        let slots = match inode.is_dir() {
            true => &self.directories,
            false => &self.others,
        };
        KeptFds::slot_in(slots, inode.id())
    }

    /// An `O_PATH` descriptor of an object that is about to be worked with. As
    /// [`Inode::fd`] otherwise.
    pub(super) fn get<'a>(&self, inode: &'a InodeArc) -> FsResult<InodeFd<'a>> {
        if !matches!(inode.place(), Place::Handle { .. }) {
            return inode.fd();
        }
        if let Some((kept, fd)) = &*self.slot(inode) {
            if InodeArc::ptr_eq(kept, inode) {
                return Ok(InodeFd::Shared(fd.clone()));
            }
        }
        let found = match inode.fd() {
            // These are the first to go.
            Err(Errno::EMFILE | Errno::ENFILE) => {
                self.clear();
                inode.fd()
            }
            found => found,
        };
        let fd = match found? {
            InodeFd::Owned(fd) => Arc::new(fd),
            other => return Ok(other),
        };
        let kept = (inode.clone(), fd.clone());
        let old = self.slot(inode).replace(kept);
        // Closed here, not under the lock.
        drop(old);
        Ok(InodeFd::Shared(fd))
    }

    /// Lets go of the object that `node` was: the guest has forgotten it. And of another one
    /// in its place that it has forgotten.
    pub(super) fn forget(&self, node: NodeId) {
        for slots in [&self.directories, &self.others] {
            let old = {
                let mut slot = KeptFds::slot_in(slots, node);
                slot.take_if(|(kept, _)| kept.id() == node || kept.lookups() == 0)
            };
            drop(old);
        }
    }

    /// Lets go of all.
    pub(super) fn clear(&self) {
        for slot in self.directories.iter().chain(&self.others) {
            let old = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            drop(old);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::handle_bytes::{FileHandle, MountRef};
    use super::super::inode::{Inodes, NewInode, Numbers};
    use super::*;
    use std::os::fd::{AsFd, AsRawFd};

    /// Inodes of one directory of the host with these nodeids, held by handle; none where it
    /// cannot be opened by one.
    fn inodes(ids: &[u64]) -> Option<Vec<InodeArc>> {
        let open = || OwnedFd::from(std::fs::File::open("/").unwrap());
        let mount = Arc::new(MountRef::probe(open()).ok()?);
        let handle = FileHandle::of_fd(open().as_fd()).ok()?.0;
        let new = |ino| NewInode {
            kind: libc::S_IFDIR,
            numbers: Numbers {
                mnt_id: mount.id(),
                dev: 1,
                ino,
            },
            place: Place::Handle {
                mount: mount.clone(),
                handle: handle.clone(),
            },
        };
        let tables = Inodes::new(new(1));
        let insert = |id: &u64| tables.insert(NodeId(*id), 1, new(*id));
        Some(ids.iter().map(insert).collect())
    }

    #[test]
    fn what_the_guest_has_forgotten_is_not_kept() {
        let far = DIRECTORIES as u64;
        // Of one slot, and of another.
        let Some(all) = inodes(&[5, 5 + far, 6, 5 + 2 * far]) else {
            eprintln!("skipped: no file handles here");
            return;
        };
        let kept = KeptFds::new();
        let number = |inode: &InodeArc| match kept.get(inode).unwrap() {
            InodeFd::Shared(fd) => fd.as_raw_fd(),
            other => panic!("{other:?}"),
        };
        let holds = |inode: &InodeArc| {
            let slot = kept.slot(inode);
            slot.as_ref()
                .is_some_and(|(one, _)| InodeArc::ptr_eq(one, inode))
        };
        let first = number(&all[0]);
        assert_eq!(number(&all[0]), first, "it is opened once");
        number(&all[2]);
        kept.forget(NodeId(5));
        assert!(!holds(&all[0]) && holds(&all[2]));
        // Another one takes the slot, is forgotten by something else than FORGET, and goes
        // with the next of its slot that is.
        number(&all[1]);
        kept.forget(NodeId(5));
        assert!(holds(&all[1]), "the guest knows it");
        all[1].release(1);
        kept.forget(NodeId(5 + 2 * far));
        assert!(!holds(&all[1]));
        kept.clear();
        assert!(!holds(&all[2]));
    }
}
