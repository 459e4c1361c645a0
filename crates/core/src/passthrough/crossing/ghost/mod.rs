//! Objects without a name that the guest still uses: open files, working directories,
//! whatever else is held of what has been unlinked.
//!
//! By file handle they cross like everything else. Where there is none they go along as
//! *ghosts*: attributes and contents are in the state, and the destination makes them
//! again, as unlinked as they were.
//!
//! The device-state channel carries nothing before the device is stopped. So precopy
//! copies the contents beside the guest's requests ([`gather`]), watches who writes
//! ([`Watch`]), and reads again what has changed, as long as it takes; after the stop
//! only what changed since the last look is read. What it amounts to is known all the
//! time, and a crossing that would be refused is announced before the guest is stopped.
//!
//! - [`gather`]: the source; `record`: what it writes.
//! - [`make`]: the destination.

pub(super) mod gather;
pub(super) mod make;
pub(super) mod record;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ferryfs_state::Ghost;

use crate::types::NodeId;

/// What `--ghost-limit` is if nobody says.
pub const DEFAULT_LIMIT: u64 = 64 << 20;

/// What requests have to do with ghosts; almost nothing, most of the time.
#[derive(Default)]
pub(in super::super) struct Ghosts {
    pub(super) watch: Watch,
    /// Whether there is anything in `known`.
    any: AtomicBool,
    known: Mutex<Known>,
}

/// What nothing on the host tells of an object without a name.
#[derive(Default)]
pub(in super::super) struct Known {
    /// Inodes that were made with `O_TMPFILE` and may be linked.
    linkable: HashSet<NodeId>,
    /// The `st_ino` that the guest knows of those that have been made again.
    numbers: HashMap<NodeId, u64>,
}

impl Known {
    /// Of what a state brings.
    pub(super) fn of(ghosts: &[Ghost]) -> Known {
        let node = |ghost: &Ghost| NodeId(ghost.inode);
        let linkable = ghosts.iter().filter(|ghost| ghost.linkable);
        Known {
            linkable: linkable.map(node).collect(),
            numbers: ghosts
                .iter()
                .map(|ghost| (node(ghost), ghost.number))
                .collect(),
        }
    }
}

impl Ghosts {
    /// The guest has changed the contents of `node`: to be called behind the change.
    #[inline]
    pub(in super::super) fn wrote(&self, node: NodeId) {
        if self.watch.on.load(Ordering::SeqCst) {
            self.watch.note(node);
        }
    }

    fn change(&self, change: impl FnOnce(&mut Known)) {
        let mut known = lock(&self.known);
        change(&mut known);
        let any = !known.linkable.is_empty() || !known.numbers.is_empty();
        self.any.store(any, Ordering::Release);
    }

    /// Whether anything is known of any inode.
    #[inline]
    pub(in super::super) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// `node` has been made without a name, and may be given one.
    pub(in super::super) fn add_linkable(&self, node: NodeId) {
        self.change(|known| {
            known.linkable.insert(node);
        });
    }

    /// `node` has been given a name: it is an object like any other from here on, and its
    /// number is that which its directory says.
    pub(in super::super) fn linked(&self, node: NodeId) {
        if self.any() {
            self.change(|known| {
                known.linkable.remove(&node);
                known.numbers.remove(&node);
            });
        }
    }

    /// The guest knows `node` no more.
    pub(in super::super) fn forget(&self, node: NodeId) {
        self.change(|known| {
            known.linkable.remove(&node);
            known.numbers.remove(&node);
        });
    }

    /// Whether `node` never had a name and may be given one.
    pub(super) fn is_linkable(&self, node: NodeId) -> bool {
        self.any() && lock(&self.known).linkable.contains(&node)
    }

    /// The `st_ino` that the guest knows of `node`, where it is not that on the host.
    #[inline]
    pub(in super::super) fn number(&self, node: NodeId) -> Option<u64> {
        match self.any() {
            true => lock(&self.known).numbers.get(&node).copied(),
            false => None,
        }
    }

    /// Knows what a state has brought, and nothing of an earlier guest's.
    pub(in super::super) fn set(&self, new: Known) {
        self.change(|known| *known = new);
    }
}

/// Which files have been written since they were copied.
#[derive(Default)]
pub(super) struct Watch {
    on: AtomicBool,
    /// Those that are copied, with whether they have been written since.
    files: Mutex<HashMap<NodeId, bool>>,
}

impl Watch {
    #[cold]
    fn note(&self, node: NodeId) {
        if let Some(written) = lock(&self.files).get_mut(&node) {
            *written = true;
        }
    }

    /// `node` is about to be copied: from here on every write counts.
    fn begin(&self, node: NodeId) {
        lock(&self.files).insert(node, false);
        self.on.store(true, Ordering::SeqCst);
    }

    /// Whether the copy of `node` is as the guest has left it.
    pub(super) fn is_clean(&self, node: NodeId) -> bool {
        lock(&self.files).get(&node) == Some(&false)
    }

    /// Nothing is copied any more.
    pub(super) fn end(&self) {
        self.on.store(false, Ordering::SeqCst);
        lock(&self.files).clear();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
