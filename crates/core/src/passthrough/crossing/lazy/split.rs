//! Which inodes of a state are looked for before it is taken over, and which later.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ferryfs_state::{FsState, Identity, Inode as InodeRecord, Location, Mark, Mount};

use super::super::super::config::Restore;
use super::super::super::handle_bytes::MountRef;
use super::super::super::Passthrough;
use super::super::identity::{Comparer, Here};
use super::Store;
use crate::errno::Errno;
use crate::types::NodeId;

/// What a plan leaves for later, and what it takes to find it.
pub(in super::super) struct Later {
    pub(super) store: Store,
    pub(super) here: Here,
    pub(super) mounts: HashMap<u32, Result<Arc<MountRef>, Errno>>,
    pub(super) mount_records: Vec<Mount>,
    pub(super) beneath: HashSet<(u64, u64)>,
    /// Directories that are looked for before.
    pub(super) directories: Vec<NodeId>,
}

impl Later {
    /// What is to be looked for later, with the plan's mounts and what it knows to lie
    /// in the share.
    pub(in super::super) fn new(
        (records, directories): (Vec<InodeRecord>, Vec<NodeId>),
        comparer: Comparer,
        mounts: HashMap<u32, Result<Arc<MountRef>, Errno>>,
        mount_records: Vec<Mount>,
        beneath: HashSet<(u64, u64)>,
    ) -> Later {
        let (here, identities) = comparer.into_parts();
        Later {
            store: Store::new(records, identities),
            here,
            mounts,
            mount_records,
            beneath,
            directories,
        }
    }
}

/// Whether an object can be told by its mark alone, however long it was not held.
fn is_certain(mark: &Mark) -> bool {
    match mark {
        Mark::Handle { .. } => true,
        // The number may be used again for another object.
        Mark::Numbers { born, .. } => born.is_some(),
    }
}

/// Takes out of `state` the inodes that may be looked for later; with them, the
/// directories that stay. `None` where that is all or nothing.
pub(in super::super) fn split(
    fs: &Passthrough,
    state: &mut FsState,
    comparer: &Comparer,
) -> Option<(Vec<InodeRecord>, Vec<NodeId>)> {
    let Restore::Lazy { first } = fs.config.restore else {
        return None;
    };
    let count = state.inodes.len();
    if count <= first as usize || count > u32::MAX as usize || !comparer.is_related() {
        return None;
    }
    // Each takes a descriptor, and whether there are as many is known now.
    if !fs.use_handles && !fs.budget.has_room_for(count) {
        return None;
    }
    let mut now = needed(state, comparer.identities());
    let mut sample = first as usize;
    let step = count.div_ceil(sample.max(1));
    for at in (0..count).step_by(step) {
        if sample == 0 {
            break;
        }
        now[at] = true;
        sample -= 1;
    }
    add_ancestors(&state.inodes, &mut now);
    let (mut stay, mut later) = (Vec::new(), Vec::with_capacity(count));
    let mut directories = Vec::new();
    for (record, now) in std::mem::take(&mut state.inodes).into_iter().zip(now) {
        if !now {
            later.push(record);
            continue;
        }
        if record.kind == libc::S_IFDIR {
            directories.push(NodeId(record.id));
        }
        stay.push(record);
    }
    state.inodes = stay;
    (!later.is_empty()).then_some((later, directories))
}

/// Which inodes cannot wait: what is open or locked, and what could not be told later.
fn needed(state: &FsState, identities: &[Identity]) -> Vec<bool> {
    let mut identities = identities.iter().peekable();
    let mut now: Vec<bool> = state
        .inodes
        .iter()
        .map(|record| {
            while identities
                .next_if(|identity| identity.inode < record.id)
                .is_some()
            {}
            let own = identities.next_if(|identity| identity.inode == record.id);
            match record.location {
                // With an identity beside it, it has no name: who does not hold it before
                // the source has ended comes too late.
                Location::Handle(_) => own.is_some(),
                Location::Child { .. } => !own.is_some_and(|own| is_certain(&own.mark)),
                Location::Root | Location::Path { .. } | Location::Lost { .. } => true,
            }
        })
        .collect();
    let used = state.handles.iter().map(|handle| handle.inode);
    let used = used.chain(state.locks.iter().map(|lock| lock.inode));
    // What has no name is made again beside a directory.
    for id in used.chain(state.ghosts.iter().map(|ghost| ghost.directory)) {
        if let Ok(at) = state.inodes.binary_search_by_key(&id, |record| record.id) {
            now[at] = true;
        }
    }
    now
}

/// Adds what it takes to come to those.
fn add_ancestors(records: &[InodeRecord], now: &mut [bool]) {
    for start in 0..records.len() {
        let mut at = start;
        // Those above one that is wanted already have been, or will be, seen to.
        while now[at] {
            let above = match &records[at].location {
                Location::Child { parent, .. } => *parent,
                Location::Path { from, .. } => *from,
                _ => break,
            };
            match records.binary_search_by_key(&above, |record| record.id) {
                Ok(parent) if !now[parent] => {
                    now[parent] = true;
                    at = parent;
                }
                _ => break,
            }
        }
    }
}
