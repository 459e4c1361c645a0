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
mod record;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::types::NodeId;

/// What `--ghost-limit` is if nobody says.
pub const DEFAULT_LIMIT: u64 = 64 << 20;

/// What requests have to do with ghosts; almost nothing, most of the time.
#[derive(Default)]
pub(in super::super) struct Ghosts {
    pub(super) watch: Watch,
    linkable: Linkable,
}

impl Ghosts {
    /// The guest has changed the contents of `node`: to be called behind the change.
    #[inline]
    pub(in super::super) fn wrote(&self, node: NodeId) {
        if self.watch.on.load(Ordering::SeqCst) {
            self.watch.note(node);
        }
    }

    /// `node` has been made without a name, and may be given one.
    pub(in super::super) fn add_linkable(&self, node: NodeId) {
        self.linkable.change(|set| {
            set.insert(node);
        });
    }

    /// `node` has been given a name, or is forgotten.
    pub(in super::super) fn not_linkable(&self, node: NodeId) {
        if self.has_linkable() {
            self.linkable.change(|set| {
                set.remove(&node);
            });
        }
    }

    /// Whether anything may be given its first name.
    pub(in super::super) fn has_linkable(&self) -> bool {
        self.linkable.any.load(Ordering::Acquire)
    }

    /// Whether `node` never had a name and may be given one.
    pub(super) fn is_linkable(&self, node: NodeId) -> bool {
        self.has_linkable() && lock(&self.linkable.nodes).contains(&node)
    }

    /// Forgets what an earlier guest had, and knows `nodes` as linkable.
    pub(in super::super) fn set_linkable(&self, nodes: HashSet<NodeId>) {
        self.linkable.change(|set| *set = nodes);
    }
}

/// Inodes that were made with `O_TMPFILE` and may be linked, which nothing on the host
/// tells of a file.
#[derive(Default)]
struct Linkable {
    any: AtomicBool,
    nodes: Mutex<HashSet<NodeId>>,
}

impl Linkable {
    fn change(&self, change: impl FnOnce(&mut HashSet<NodeId>)) {
        let mut nodes = lock(&self.nodes);
        change(&mut nodes);
        self.any.store(!nodes.is_empty(), Ordering::Release);
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
