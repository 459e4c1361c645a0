//! Which inodes of a state are looked for before it is taken over, and which later.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ferryfs_state::packed::{InodePack, PackedFs, PackedIdentities, PackedInodes, Way};
use ferryfs_state::{Inode as InodeRecord, Mount};

use super::super::super::config::Restore;
use super::super::super::handle_bytes::MountRef;
use super::super::super::Passthrough;
use super::super::identity::{Comparer, Here};
use super::Store;
use crate::errno::Errno;
use crate::parallel::in_parallel;
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
        (inodes, split): (PackedInodes, Split),
        comparer: Comparer,
        mounts: HashMap<u32, Result<Arc<MountRef>, Errno>>,
        mount_records: Vec<Mount>,
        beneath: HashSet<(u64, u64)>,
    ) -> Later {
        let (here, identities) = comparer.into_parts();
        Later {
            directories: split.directories(&inodes),
            store: Store::new(inodes, identities, &split.now),
            here,
            mounts,
            mount_records,
            beneath,
        }
    }
}

/// Which inodes of a state are looked for before it is taken over: some, not all.
pub(in super::super) struct Split {
    /// Where they are, in order.
    now: Vec<usize>,
}

impl Split {
    /// Those that are looked for before.
    pub(in super::super) fn records(&self, inodes: &PackedInodes) -> Vec<InodeRecord> {
        let now = self.now.iter();
        now.map(|at| inodes.get(*at).to_record()).collect()
    }

    /// The directories among them.
    fn directories(&self, inodes: &PackedInodes) -> Vec<NodeId> {
        let now = self.now.iter();
        now.filter(|at| inodes.kind(**at) == libc::S_IFDIR)
            .map(|at| NodeId(inodes.id(*at)))
            .collect()
    }
}

/// Which inodes of `state` are looked for now. `None` where that is all.
pub(in super::super) fn split(
    fs: &Passthrough,
    state: &PackedFs,
    comparer: &Comparer,
) -> Option<Split> {
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
    let all = now.iter().enumerate();
    let now: Vec<usize> = all.filter(|(_, now)| **now).map(|(at, _)| at).collect();
    (now.len() < count).then_some(Split { now })
}

/// Which inodes cannot wait: what is open or locked, and what could not be told later.
fn needed(state: &PackedFs, identities: &PackedIdentities) -> Vec<bool> {
    let pieces = state.inodes.pieces();
    let mut now = in_parallel(pieces, |piece| needed_of(piece, identities)).concat();
    let rest = &state.rest;
    let used = rest.handles.iter().map(|handle| handle.inode);
    let used = used.chain(rest.locks.iter().map(|lock| lock.inode));
    // What has no name is made again beside a directory.
    for id in used.chain(rest.ghosts.iter().map(|ghost| ghost.directory)) {
        if let Some(at) = state.inodes.position(id) {
            now[at] = true;
        }
    }
    now
}

/// Which of these could not be told later.
fn needed_of(piece: &InodePack, identities: &PackedIdentities) -> Vec<bool> {
    let first = piece.ids().first().copied().unwrap_or(0);
    let mut identities = identities.lasting_from(first);
    let mut next = identities.next();
    let needs = |(at, id): (usize, &u64)| {
        while next.is_some_and(|(inode, _)| inode < *id) {
            next = identities.next();
        }
        let own = next.filter(|(inode, _)| inode == id);
        match piece.way(at) {
            // With an identity beside it, it has no name: who does not hold it before
            // the source has ended comes too late.
            Way::Handle => own.is_some(),
            // Where an inode number is all that tells it, it may be used again for another.
            Way::Child => !own.is_some_and(|(_, lasting)| lasting),
            Way::Other => true,
        }
    };
    piece.ids().iter().enumerate().map(needs).collect()
}

/// Adds what it takes to come to those.
fn add_ancestors(inodes: &PackedInodes, now: &mut [bool]) {
    for start in 0..inodes.len() {
        let mut at = start;
        // Those above one that is wanted already have been, or will be, seen to.
        while now[at] {
            let Some(above) = inodes.get(at).place.above() else {
                break;
            };
            match inodes.position(above) {
                Some(parent) if !now[parent] => {
                    now[parent] = true;
                    at = parent;
                }
                _ => break,
            }
        }
    }
}
