//! Inodes that a state has brought and that nobody has looked for yet.
//!
//! After a lazy restore the tables have what is open, and some more; the rest is in a
//! [`store`], as it was received. An inode leaves it for the tables when a request needs
//! it, or when the background pass comes to it. Until then the guest's nodeid, the
//! object and its name belong together all the same:
//!
//! - A request that names the nodeid locates it first (`Passthrough::inode`), and what
//!   is above it.
//! - A request that finds an object by name asks here before it makes a new inode of it
//!   ([`Unlocated::find_object`]): the object's mark leads to the inode that it already
//!   is, so that there are never two of one object. That is why only objects with a mark
//!   that is theirs alone are left for later.
//! - A request that takes a name away asks first what had it
//!   ([`Unlocated::find_named`]).
//! - FORGET takes lookups back in the store.
//! - A crossing passes on what has not been located as it was received.
//!
//! Locks, in the order of taking: a stripe of the names, the gate, a claim of one record.
//! Nobody waits for a stripe or the gate with a claim, so nobody waits in a circle.

mod collect;
mod index;
mod locate;
mod pass;
mod split;
mod store;

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ferryfs_state::Mount;

use super::super::handle_bytes::MountRef;
use super::super::inode::{InodeArc, Inodes};
use super::super::lookup::{open_path, Holding};
use super::super::names::Names;
use super::super::Passthrough;
use super::identity::Here;
use crate::errno::{Errno, FsResult};
use crate::types::{Name, NodeId};
use pass::Pass;
use store::{At, Store};

pub(super) use split::{split, Later};

/// Where what is not located can be asked for. Empty most of the time.
#[derive(Default)]
pub(in super::super) struct Unlocated {
    shared: Arc<Shared>,
    pass: Mutex<Option<Pass>>,
}

#[derive(Default)]
struct Shared {
    any: AtomicBool,
    locator: RwLock<Option<Arc<Locator>>>,
}

/// What it takes to locate the inodes of one state.
pub(super) struct Locator {
    store: Store,
    inodes: Arc<Inodes>,
    names: Arc<Names>,
    holding: Holding,
    here: Here,
    /// The stream's mounts.
    mounts: HashMap<u32, Result<Arc<MountRef>, Errno>>,
    mount_records: Vec<Mount>,
    /// Directories, by device and inode number, that are known to lie in the share.
    beneath: Mutex<HashSet<(u64, u64)>>,
    /// Held for reading while an inode is on its way into the tables, for writing by who
    /// must see the tables and the store as one. True: the guest has gone, and nothing
    /// goes into the tables any more.
    gate: RwLock<bool>,
    /// Directories that stay known, though the guest may forget them, as long as what
    /// lies in them may still be looked for.
    kept: Mutex<Vec<NodeId>>,
    /// Names of what was found under another one.
    more_names: Mutex<Vec<At>>,
    /// How many were not found.
    faulted: AtomicU64,
}

impl Unlocated {
    /// Whether there is anything that is not located.
    pub(in super::super) fn any(&self) -> bool {
        self.shared.any.load(Ordering::Acquire)
    }

    /// Whoever asks later, from another thread, whether there is anything left.
    pub(super) fn asker(&self) -> impl Fn() -> bool + Send + 'static {
        let shared = self.shared.clone();
        move || shared.any.load(Ordering::Acquire)
    }

    pub(super) fn locator(&self) -> Option<Arc<Locator>> {
        if !self.any() {
            return None;
        }
        self.shared
            .locator
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The guest's inode `node`, which is not in the tables.
    ///
    /// # Errors
    /// `EBADF` where the guest knows no such inode; what looking for it gives.
    pub(in super::super) fn locate(&self, node: NodeId) -> FsResult<InodeArc> {
        self.locator().ok_or(Errno::EBADF)?.inode(node)
    }

    /// Sees to it that the inode which the object `fd` is, if the guest knows it, is in
    /// the tables.
    pub(in super::super) fn find_object(&self, fd: BorrowedFd<'_>) {
        if let Some(locator) = self.locator() {
            locator.find_object(fd);
        }
    }

    /// The same for what has `name` in `parent`, of which `dir` is a descriptor, before
    /// that name is taken away. The caller holds the name.
    pub(in super::super) fn find_named(&self, parent: &InodeArc, dir: BorrowedFd<'_>, name: &Name) {
        let Some(locator) = self.locator() else {
            return;
        };
        let known = locator
            .names
            .known(&locator.inodes, parent.id(), name.as_bytes());
        if known.is_some() {
            return;
        }
        if let Ok(there) = open_path(dir, name) {
            if let Some((inode, links)) = locator.find_object(there.as_fd()) {
                let name = name.as_bytes();
                locator
                    .names
                    .insert(&locator.inodes, parent, name, &inode, links);
            }
        }
    }

    /// FORGET of an inode that is not in the tables. False when it is not here either.
    pub(in super::super) fn forget(&self, node: NodeId, count: u64) -> bool {
        self.locator()
            .is_some_and(|locator| locator.forget(node, count))
    }

    /// Drops everything: the guest has gone, or has brought another state.
    pub(in super::super) fn clear(&self) {
        let locator = self
            .shared
            .locator
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        self.shared.any.store(false, Ordering::Release);
        let pass = self
            .pass
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(pass) = &pass {
            pass.stop();
        }
        if let Some(locator) = locator {
            // Whoever is at it gets to its end first.
            *locator.gate.write().unwrap_or_else(PoisonError::into_inner) = true;
        }
        drop(pass);
    }

    /// How many are not located.
    #[cfg(test)]
    pub(super) fn left(&self) -> usize {
        self.locator().map_or(0, |locator| locator.store.left())
    }

    /// Takes over what a plan has left for later, and starts to look for it.
    pub(super) fn set(&self, fs: &Passthrough, later: Later) {
        let locator = Arc::new(Locator {
            store: later.store,
            inodes: fs.inodes.clone(),
            names: fs.names.clone(),
            holding: fs.holding.clone(),
            here: later.here,
            mounts: later.mounts,
            mount_records: later.mount_records,
            beneath: Mutex::new(later.beneath),
            gate: RwLock::default(),
            kept: Mutex::default(),
            more_names: Mutex::default(),
            faulted: AtomicU64::new(0),
        });
        // What is in the tables already, and has others below it.
        for node in later.directories {
            if let Some(inode) = fs.inodes.get(node) {
                locator.keep(&inode);
            }
        }
        *self
            .shared
            .locator
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(locator.clone());
        self.shared.any.store(true, Ordering::Release);
        let pass = Pass::start(self.shared.clone(), locator);
        *self.pass.lock().unwrap_or_else(PoisonError::into_inner) = pass;
    }
}

impl Drop for Unlocated {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Shared {
    /// Everything has been located: lets go of `locator`, if it is still the one.
    fn done(&self, locator: &Arc<Locator>) {
        let mut current = self.locator.write().unwrap_or_else(PoisonError::into_inner);
        if current
            .as_ref()
            .is_some_and(|one| Arc::ptr_eq(one, locator))
        {
            *current = None;
            self.any.store(false, Ordering::Release);
        }
    }
}
