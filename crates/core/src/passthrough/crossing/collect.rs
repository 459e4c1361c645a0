//! Source side: the tables as a state, once the device is stopped.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::AtomicBool;
use std::sync::Arc;

use ferryfs_state::validate::{GUEST_FLAGS, HOST_FLAGS};
use ferryfs_state::{Format, FsState, Handle, Inode as InodeRecord, Location};
use serde_bytes::ByteBuf;

use super::super::config::{MigrationMode, MigrationOnError};
use super::super::handle::{HandleKind, OpenFile};
use super::super::inode::{InodeArc, Place};
use super::super::Passthrough;
use super::ahead::Ahead;
use super::describe::{Described, Describer, Loss, LOST};
use super::everything;
use super::ghost::record::directories_of;
use super::identity::Collector;
use super::mounts::MountTable;
use super::precopy::Found;
use super::relocate::Whereabouts;
use super::verify::{self, Suspects};
use crate::errno::Errno;
use crate::migrate::Collected;
use crate::parallel::{drop_later, in_parallel};
use crate::types::{HandleId, NodeId};

/// Objects named in the log before the rest is only counted.
const NAMED: usize = 20;

/// Most inodes that are looked at once more with the device stopped although nothing
/// is known to have changed about them.
const LOOKED_AT_AGAIN: usize = 1 << 14;

/// Inodes that one thread describes, or looks for, at a time.
const PIECE: usize = 4096;

/// Inodes whose names one thread looks at, at a time; up to so many are not worth another.
const LOOKS: usize = 512;
const FEW_LOOKS: usize = 2048;

/// Inodes that cannot cross as they are, with why.
pub(super) struct Losses {
    /// What the guest has open.
    open: HashSet<NodeId>,
    /// Of consequence: the guest would notice.
    needed: Vec<(NodeId, &'static str)>,
    /// All of them.
    lost: HashSet<NodeId>,
    /// Those that no name leads to, which may cross with their contents.
    pub(super) unlinked: Vec<InodeArc>,
}

impl Passthrough {
    /// The whole state. See [`crate::migrate::MigrateFs::collect`].
    pub(super) fn collect_state(&self) -> Result<FsState, String> {
        let found = self.stop_precopy(true);
        self.inodes.marks().end();
        self.collect_whole(found)
    }

    /// The state, in pieces where it can be; those in `format`. See
    /// [`crate::migrate::MigrateFs::collect_in`].
    pub(super) fn collect_pieces(&self, format: &Arc<dyn Format>) -> Result<Collected, String> {
        let mut found = self.stop_precopy(true);
        let marks = self.inodes.marks();
        if self.unlocated.any() {
            marks.end();
            return self.collect_whole(found).map(Collected::Whole);
        }
        let mut losses = Losses::new(self.handles.nodes());
        if self.config.migration_mode == MigrationMode::FindPaths {
            self.find_all_again(found.as_ref(), &mut losses);
        }
        let taken = marks.take();
        marks.end();
        let ahead = found.as_mut().and_then(|found| found.ahead.take());
        let ahead = ahead.filter(|ahead| ahead.is_in(&**format));
        let ahead = ahead.unwrap_or_else(|| self.nothing_ahead(format));
        let describer = self.describer(&losses.lost);
        let mut whole = ahead.finish(self, &describer, &taken)?;
        log::debug!(
            "{} ranges of inodes in the state, {} encoded with the device stopped",
            whole.pieces.len(),
            whole.late
        );
        #[cfg(test)]
        self.precopy
            .late
            .store(whole.late, std::sync::atomic::Ordering::SeqCst);
        #[cfg(test)]
        whole.is_as_if_made_now(
            self.nothing_ahead(format)
                .finish(self, &describer, &taken)?,
        );
        losses.add_all(std::mem::take(&mut whole.losses));

        let mut state = self.counters();
        let gathered = found.map(|found| found.gathered).unwrap_or_default();
        self.add_ghosts(&mut state, |_| whole.directories(), gathered, &mut losses)?;
        self.judge(&losses)?;
        state.mounts = whole.mounts;
        state.file_systems = whole.file_systems;
        let knows = |node: u64| self.inodes.knows(NodeId(node));
        state.handles = self.handle_records(&self.handles.all(), knows);
        state.locks = self.locks.collect();
        state.locks.retain(|lock| knows(lock.inode));
        state.inodes = self.referred(&state, &losses.lost);
        Ok(Collected::Pieces {
            rest: state,
            pieces: whole.pieces,
        })
    }

    /// Of the inodes that anything in `state` is of, what it takes to see that they belong
    /// together.
    fn referred(&self, state: &FsState, lost: &HashSet<NodeId>) -> Vec<InodeRecord> {
        let handles = state.handles.iter().map(|handle| handle.inode);
        let locks = state.locks.iter().map(|lock| lock.inode);
        let ghosts = state.ghosts.iter().map(|ghost| ghost.inode);
        let ids: BTreeSet<u64> = handles.chain(locks).chain(ghosts).collect();
        let inodes = ids.into_iter().filter_map(|id| self.inodes.get(NodeId(id)));
        let record = |inode: InodeArc| InodeRecord {
            id: inode.id().0,
            lookups: inode.lookups(),
            kind: inode.kind(),
            location: match inode.place() {
                Place::Lost(errno) => Location::Lost { errno: errno.raw() },
                _ if lost.contains(&inode.id()) => LOST,
                _ => Location::Child {
                    parent: NodeId::ROOT.0,
                    name: ByteBuf::new(),
                },
            },
        };
        inodes.map(record).collect()
    }

    /// A state that has nothing but the counters.
    fn counters(&self) -> FsState {
        FsState {
            next_inode: self.inodes.next(),
            next_handle: self.handles.next(),
            ..FsState::default()
        }
    }

    fn describer<'a>(&'a self, lost: &'a HashSet<NodeId>) -> Describer<'a> {
        Describer {
            inodes: &self.inodes,
            names: &self.names,
            mode: self.config.migration_mode,
            lost,
        }
    }

    /// The whole state as records.
    fn collect_whole(&self, found: Option<Found>) -> Result<FsState, String> {
        // From here on what is not located stays so.
        let unlocated = self.unlocated.locator();
        if let Some(locator) = &unlocated {
            locator.settle(self.config.migration_mode);
        }
        let _still = unlocated.as_ref().map(|locator| locator.hold());
        let mut losses = Losses::new(self.handles.nodes());
        if self.config.migration_mode == MigrationMode::FindPaths {
            self.find_all_again(found.as_ref(), &mut losses);
        }
        let mut inodes = everything(&self.inodes);
        // What the guest has forgotten stays behind; its children say a path.
        inodes.retain(|inode| inode.lookups() > 0);
        inodes.sort_by_cached_key(|inode| inode.id());

        let mut state = self.counters();
        let mut identities = Collector::new(self.config.boot_id);
        let mut mounts = MountTable::default();
        state.inodes.reserve_exact(inodes.len());
        let pieces: Vec<_> = inodes.chunks(PIECE).collect();
        let describer = self.describer(&losses.lost);
        let described = in_parallel(&pieces, |piece| {
            let mut described = Described::with_capacity(piece.len());
            for inode in *piece {
                describer.describe(inode, &mut described);
            }
            described
        });
        for mut described in described {
            let met = described.mounts.iter();
            let mounts: Vec<_> = met
                .map(|(id, inode)| mounts.number(self, *id, inode))
                .collect();
            let met = described.devices.iter();
            let devices: Vec<_> = met.map(|inode| identities.number(inode)).collect();
            described.number(&self.inodes, &mounts, &devices);
            losses.add_all(described.losses);
            state.inodes.extend(described.records);
            identities.identities.extend(described.identities);
        }
        let gathered = found.map(|found| found.gathered).unwrap_or_default();
        self.add_ghosts(&mut state, directories_of, gathered, &mut losses)?;
        self.judge(&losses)?;
        if let Some(locator) = &unlocated {
            locator.collect(&mut state, &mut identities, &mut mounts);
            state.inodes.sort_unstable_by_key(|record| record.id);
            let all = &mut identities.identities;
            all.sort_unstable_by_key(|identity| identity.inode);
        }
        drop_later(inodes.len(), inodes);
        state.mounts = mounts.records;
        state.file_systems = identities.file_systems;
        state.identities = identities.identities;
        let inodes = &state.inodes;
        let knows = |node: u64| {
            inodes
                .binary_search_by_key(&node, |record| record.id)
                .is_ok()
        };
        state.handles = self.handle_records(&self.handles.all(), knows);
        state.locks = self.locks.collect();
        state.locks.retain(|lock| knows(lock.inode));
        Ok(state)
    }

    /// Looks once more at the names that may be wrong: at all of them, where precopy has
    /// not looked. The device is stopped.
    fn find_all_again(&self, found: Option<&Found>, losses: &mut Losses) {
        let again: Vec<InodeArc> = match found {
            Some(found) if !self.config.migration_confirm_paths => {
                let mut again = self.crucial(&losses.open, found.ahead.as_ref());
                again.extend(&found.suspects);
                again.extend(&found.changed);
                // Neighbours lie in one directory.
                let mut again: Vec<u64> = again.into_iter().map(|node| node.0).collect();
                again.sort_unstable();
                self.inodes.get_all(&again).into_iter().flatten().collect()
            }
            // Asked for, or no precopy, as for a snapshot: all of it now.
            _ => everything(&self.inodes),
        };
        self.names.track(true);
        self.find_again(&again, losses);
        self.find_displaced(losses);
        self.find_again_in_removed(losses);
        drop_later(again.len(), again);
    }

    /// Those whose names are looked at in any case, in the last moment before they are
    /// written: what is open, and directories, since a single one that somebody has
    /// renamed takes everything in it along. The rest is as precopy has last seen it.
    fn crucial(&self, open: &HashSet<NodeId>, ahead: Option<&Ahead>) -> HashSet<NodeId> {
        let mut crucial = open.clone();
        let mut add = |directory: NodeId| {
            if crucial.len() < LOOKED_AT_AGAIN {
                crucial.insert(directory);
            }
        };
        match ahead.filter(|ahead| !ahead.is_empty()) {
            // What has come since has changed.
            Some(ahead) => ahead.directories(&self.inodes, &mut add),
            None => everything(&self.inodes)
                .iter()
                .filter(|inode| inode.is_dir())
                .for_each(|inode| add(inode.id())),
        }
        crucial
    }

    /// Checks the names of what has lost one since tracking was switched on, and switches
    /// it off: where one inode has been found again may be the name by which another was
    /// remembered, which nobody has looked at since others moved the first one there.
    fn find_displaced(&self, losses: &mut Losses) {
        loop {
            let displaced: Vec<InodeArc> = self
                .names
                .take_changed()
                .into_iter()
                .filter(|node| !losses.lost.contains(node))
                .filter_map(|node| self.inodes.get_or_pinned(node))
                .filter(|inode| self.names.primary_of(inode).is_none())
                .collect();
            if displaced.is_empty() {
                break;
            }
            // Each that is not found is lost, so that this comes to an end.
            self.find_again(&displaced, losses);
        }
        self.names.track(false);
    }

    /// Checks the names of what is remembered to lie in directories that have turned out
    /// to be removed: it has been removed as well, or lies elsewhere.
    fn find_again_in_removed(&self, losses: &mut Losses) {
        let mut inodes = Vec::new();
        loop {
            let removed = losses.unlinked.iter().filter(|inode| inode.is_dir());
            let removed: HashSet<NodeId> = removed.map(|inode| inode.id()).collect();
            let lies_in_one = |inode: &&InodeArc| {
                let link = self.names.primary_of(inode);
                link.is_some_and(|link| removed.contains(&link.parent))
            };
            if removed.is_empty() {
                return;
            }
            if inodes.is_empty() {
                inodes = everything(&self.inodes);
            }
            let left: Vec<InodeArc> = inodes.iter().filter(lies_in_one).cloned().collect();
            let left: Vec<InodeArc> = left
                .into_iter()
                .filter(|inode| !losses.lost.contains(&inode.id()))
                .collect();
            if left.is_empty() {
                return;
            }
            let before = losses.lost.len();
            self.find_again(&left, losses);
            if losses.lost.len() == before {
                return;
            }
        }
    }

    /// Checks the names of `nodes` and corrects those that are wrong.
    fn find_again(&self, nodes: &[InodeArc], losses: &mut Losses) {
        let never = AtomicBool::new(false);
        let few = nodes.len() <= FEW_LOOKS;
        let pieces: Vec<_> = nodes.chunks(if few { FEW_LOOKS } else { LOOKS }).collect();
        let look = |piece: &&[InodeArc]| verify::verify(&self.inodes, &self.names, piece, &never);
        let suspects: Suspects = in_parallel(&pieces, look).into_iter().flatten().collect();
        for inode in nodes.iter().filter(|inode| suspects.contains(&inode.id())) {
            let (why, needed) = match self.relocate(inode) {
                Ok(Whereabouts::Found) => continue,
                // Nobody but the guest can reach it any more.
                Ok(Whereabouts::Unlinked) => {
                    losses.unlinked(inode);
                    continue;
                }
                Err(Errno::ESTALE) => {
                    ("it has been unlinked", losses.is_open(inode.id()))
                }
                Ok(Whereabouts::Unknown) if !inode.is_dir() => (
                    "it was renamed or has other hard links, and none of its names in the share is \
                     known; look it up in the guest by one of them",
                    true,
                ),
                Ok(Whereabouts::Unknown) => ("no name in the share leads to it", true),
                Err(e) => {
                    log::warn!("inode {}: failed to look for its name: {e}", inode.id());
                    ("its name cannot be found out", true)
                }
            };
            losses.add(inode.id(), why, needed);
        }
    }

    /// One log line for each object that the guest would miss; an error when that
    /// is to stop the crossing.
    fn judge(&self, losses: &Losses) -> Result<(), String> {
        let Some(&(first, why)) = losses.needed.first() else {
            return Ok(());
        };
        let mode = match self.config.migration_mode {
            MigrationMode::FindPaths => "find-paths",
            MigrationMode::FileHandles => "file-handles",
        };
        for (node, why) in losses.needed.iter().take(NAMED) {
            log::error!(
                "inode {node} ({}) cannot cross in {mode} mode: {why}",
                self.last_name(*node)
            );
        }
        if losses.needed.len() > NAMED {
            log::error!("and {} more inodes", losses.needed.len() - NAMED);
        }
        if self.config.migration_on_error == MigrationOnError::GuestError {
            return Ok(());
        }
        Err(format!(
            "{} of the guest's inodes cannot cross in {mode} mode, the first is inode {first} ({}): \
             {why}; let the guest close it and try again, use the other --migration-mode, or let it \
             be lost with --migration-on-error guest-error",
            losses.needed.len(),
            self.last_name(first)
        ))
    }

    /// For messages.
    pub(super) fn last_name(&self, node: NodeId) -> String {
        match self.names.path(&self.inodes, node) {
            Some(path) if !path.is_empty() => {
                let path: Vec<u8> = path.join(&b'/');
                format!("\"{}\"", path.escape_ascii())
            }
            _ => match self.inodes.get(node).and_then(|i| self.gatherer().was(&i)) {
                Some(path) => format!("\"{path}\", unlinked"),
                None => "without a name".to_owned(),
            },
        }
    }

    fn handle_records(
        &self,
        handles: &[(HandleId, Arc<OpenFile>)],
        knows: impl Fn(u64) -> bool,
    ) -> Vec<Handle> {
        handles
            .iter()
            .filter(|(id, file)| {
                let there = knows(file.node().0);
                if !there {
                    // No Linux guest does that.
                    log::warn!(
                        "handle {id} is left behind: the guest has forgotten its inode {}",
                        file.node()
                    );
                }
                there
            })
            .map(|(id, file)| Handle {
                id: id.0,
                inode: file.node().0,
                directory: file.kind() == HandleKind::Dir,
                // Whatever else a guest has set in there means nothing to anybody.
                guest_flags: file.guest_flags() & GUEST_FLAGS,
                host_flags: file.host_flags() & HOST_FLAGS,
            })
            .collect()
    }
}

impl Losses {
    /// None, of a guest that has these inodes open.
    fn new(open: HashSet<NodeId>) -> Losses {
        Losses {
            open,
            needed: Vec::new(),
            lost: HashSet::new(),
            unlinked: Vec::new(),
        }
    }

    /// Whether the guest has `node` open.
    pub(super) fn is_open(&self, node: NodeId) -> bool {
        self.open.contains(&node)
    }

    /// Adds what could not be described.
    fn add_all(&mut self, losses: Vec<Loss>) {
        for Loss { inode, why } in losses {
            match why {
                Some(why) => {
                    let needed = inode.is_dir() || self.is_open(inode.id());
                    self.add(inode.id(), why, needed);
                }
                None => self.unlinked(&inode),
            }
        }
    }

    fn unlinked(&mut self, inode: &InodeArc) {
        self.lost.insert(inode.id());
        self.unlinked.push(inode.clone());
    }

    pub(super) fn add(&mut self, node: NodeId, why: &'static str, needed: bool) {
        self.lost.insert(node);
        if needed {
            self.needed.push((node, why));
        } else {
            log::debug!("inode {node} crosses as lost: {why}, and nothing of it is open");
        }
    }
}
