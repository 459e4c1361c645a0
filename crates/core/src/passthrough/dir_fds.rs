//! Descriptors of the directories last worked in, where inodes are held by
//! handle: opening one by handle costs more than what is then done in it.
//!
//! A few slots, one directory each. A descriptor is let go of when another
//! directory needs its slot, or when the guest forgets the directory: it keeps
//! the mount busy.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::inode::{Inode, InodeFd, Place};
use crate::errno::FsResult;
use crate::types::NodeId;

/// Directories kept open.
const SLOTS: usize = 64;

// Known by the inode itself and not by its number, which means another directory
// after a crossing. The weak reference keeps its address from being used again.
type Kept = Option<(Weak<Inode>, Arc<OwnedFd>)>;
type Slot = Mutex<Kept>;

/// See the module's text.
pub(super) struct DirFds {
    slots: Box<[Slot]>,
}

impl DirFds {
    pub(super) fn new() -> DirFds {
        DirFds {
            slots: (0..SLOTS).map(|_| Slot::default()).collect(),
        }
    }

    fn slot(&self, node: NodeId) -> MutexGuard<'_, Kept> {
        self.slots[node.0 as usize % SLOTS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// An `O_PATH` descriptor of a directory that is about to be worked in. As
    /// [`Inode::fd`] otherwise.
    pub(super) fn get<'a>(&self, inode: &'a Arc<Inode>) -> FsResult<InodeFd<'a>> {
        if !inode.is_dir() || !matches!(inode.place(), Place::Handle { .. }) {
            return inode.fd();
        }
        if let Some((kept, fd)) = &*self.slot(inode.id()) {
            if std::ptr::eq(kept.as_ptr(), Arc::as_ptr(inode)) {
                return Ok(InodeFd::Shared(fd.clone()));
            }
        }
        let fd = match inode.fd()? {
            InodeFd::Owned(fd) => Arc::new(fd),
            other => return Ok(other),
        };
        let kept = (Arc::downgrade(inode), fd.clone());
        let old = self.slot(inode.id()).replace(kept);
        // Closed here, not under the lock.
        drop(old);
        Ok(InodeFd::Shared(fd))
    }

    /// Lets go of the directory that `node` was: the guest has forgotten it.
    pub(super) fn forget(&self, node: NodeId) {
        let old = {
            let mut slot = self.slot(node);
            match &*slot {
                Some((kept, _)) if kept.upgrade().is_none_or(|kept| kept.id() == node) => {
                    slot.take()
                }
                _ => None,
            }
        };
        drop(old);
    }

    /// Lets go of all.
    pub(super) fn clear(&self) {
        for slot in &self.slots {
            let old = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            drop(old);
        }
    }
}
