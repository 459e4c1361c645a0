//! Source side: the tables as a state, once the device is stopped.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::AtomicBool;
use std::sync::Arc;

use ferryfs_state::validate::{GUEST_FLAGS, HOST_FLAGS};
use ferryfs_state::{FileHandle, FsState, Handle, Identity, Inode as InodeRecord, Location, Mount};
use serde_bytes::ByteBuf;

use super::super::config::{MigrationMode, MigrationOnError};
use super::super::handle::{HandleKind, OpenFile};
use super::super::handle_bytes;
use super::super::inode::{Inode, Place};
use super::super::{sys, Passthrough};
use super::everything;
use super::ghost::gather::is_unlinked;
use super::identity::{known_mark, Collector};
use super::relocate::{path_below, Whereabouts};
use super::restore::open_child;
use super::verify::{self, Verdict};
use crate::errno::Errno;
use crate::parallel::{drop_later, in_parallel};
use crate::types::{HandleId, NodeId};

/// Objects named in the log before the rest is only counted.
const NAMED: usize = 20;

/// Most inodes that are looked at once more with the device stopped although nothing
/// is known to have changed about them.
const LOOKED_AT_AGAIN: usize = 1 << 14;

/// Those whose names are looked at in any case, in the last moment before they are
/// written: what is open, and directories, since a single one that somebody has renamed
/// takes everything in it along. The rest is as precopy has last seen it.
fn crucial(inodes: &[Arc<Inode>], open: &HashSet<NodeId>) -> HashSet<NodeId> {
    let directories = inodes.iter().filter(|inode| inode.is_dir());
    let crucial = open
        .iter()
        .copied()
        .chain(directories.map(|inode| inode.id()));
    crucial.take(LOOKED_AT_AGAIN).collect()
}

/// Inodes that one thread describes at a time.
const PIECE: usize = 4096;

/// Inodes described by name.
struct Described {
    records: Vec<InodeRecord>,
    /// Their file systems are positions in `devices`.
    identities: Vec<Identity>,
    /// Of each device that was met, an inode that lies on it.
    devices: Vec<Arc<Inode>>,
}

/// Inodes that cannot cross as they are, with why.
#[derive(Default)]
pub(super) struct Losses {
    /// Of consequence: the guest would notice.
    needed: Vec<(NodeId, &'static str)>,
    /// All of them.
    lost: HashSet<NodeId>,
    /// Those that no name leads to, which may cross with their contents.
    pub(super) unlinked: Vec<Arc<Inode>>,
}

impl Passthrough {
    /// The whole state. See [`crate::migrate::MigrateFs::collect`].
    pub(super) fn collect_state(&self) -> Result<FsState, String> {
        let mut found = self.stop_precopy(true);
        // From here on what is not located stays so.
        let unlocated = self.unlocated.locator();
        if let Some(locator) = &unlocated {
            locator.settle(self.config.migration_mode);
        }
        let _still = unlocated.as_ref().map(|locator| locator.hold());
        let mut inodes = everything(&self.inodes);
        let handles = self.handles.all();
        let open: HashSet<NodeId> = handles.iter().map(|(_, file)| file.node()).collect();

        let mut losses = Losses::default();
        let mut born = HashMap::new();
        if self.config.migration_mode == MigrationMode::FindPaths {
            let again: Vec<Arc<Inode>> = match &found {
                Some(found) if !self.config.migration_confirm_paths => {
                    let mut again = crucial(&inodes, &open);
                    again.extend(&found.verdict.suspects);
                    again.extend(&found.changed);
                    again
                        .iter()
                        .filter_map(|id| self.inodes.get_or_pinned(*id))
                        .collect()
                }
                // Asked for, or no precopy, as for a snapshot: all of it now.
                _ => inodes.clone(),
            };
            let next = self.inodes.next();
            self.names.track(true);
            let mut seen = self.find_again(&again, &mut losses);
            seen.extend(self.find_displaced(&mut losses));
            if self.inodes.next() != next {
                // Directories that were found on the way are known now.
                inodes = everything(&self.inodes);
            }
            if let Some(found) = &mut found {
                born = std::mem::take(&mut found.verdict.born);
            }
            born.extend(seen);
            self.find_again_in_removed(&inodes, &mut losses);
        }
        // What the guest has forgotten stays behind; its children say a path.
        inodes.retain(|inode| inode.lookups() > 0);
        inodes.sort_by_cached_key(|inode| inode.id());

        let mut state = FsState {
            next_inode: self.inodes.next(),
            next_handle: self.handles.next(),
            ..FsState::default()
        };
        let mut identities = Collector::new(self.config.boot_id);
        if let Some(root) = inodes.first().filter(|inode| inode.id() == NodeId::ROOT) {
            identities.add_root(root);
        }
        let mut mounts = MountTable::default();
        match self.config.migration_mode {
            MigrationMode::FindPaths => {
                state.inodes.reserve_exact(inodes.len());
                let pieces: Vec<_> = inodes.chunks(PIECE).collect();
                for described in in_parallel(&pieces, |piece| {
                    self.describe_by_name(piece, &losses, &born)
                }) {
                    state.inodes.extend(described.records);
                    identities.add_all(described.identities, &described.devices);
                }
            }
            // A handle is an identity itself; which share it is of is told by the
            // root's.
            MigrationMode::FileHandles => {
                state.inodes = inodes
                    .iter()
                    .map(|inode| {
                        let location = self.place_by_handle(inode, &open, &mut mounts, &mut losses);
                        let is_placed = matches!(location, Location::Handle(_));
                        if is_placed && self.has_no_name(inode) {
                            // For the sake of those that have no name: see `lazy::split`.
                            identities.add_known(inode, None);
                        }
                        self.record(inode, location)
                    })
                    .collect();
            }
        }
        let gathered = found.map(|found| found.gathered).unwrap_or_default();
        self.add_ghosts(&mut state, gathered, &mut losses)?;
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
        state.handles = self.handle_records(&handles, &state.inodes);
        state.locks = self.locks.collect();
        state.locks.retain(|lock| {
            let there = state
                .inodes
                .binary_search_by_key(&lock.inode, |record| record.id);
            there.is_ok()
        });
        Ok(state)
    }

    /// Whether an inode that is described by handle is known to have no name. Most are
    /// not looked at for it.
    fn has_no_name(&self, inode: &Inode) -> bool {
        match inode.place() {
            Place::Handle { .. } => inode.is_kept(),
            Place::Fd(_) => self.names.primary_of(inode).is_none() && is_unlinked(inode),
            Place::Lost(_) => false,
        }
    }

    /// Checks the names of what has lost one since tracking was switched on, and switches
    /// it off: where one inode has been found again may be the name by which another was
    /// remembered, which nobody has looked at since others moved the first one there.
    fn find_displaced(&self, losses: &mut Losses) -> HashMap<NodeId, Option<i64>> {
        let mut born = HashMap::new();
        loop {
            let displaced: Vec<Arc<Inode>> = self
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
            born.extend(self.find_again(&displaced, losses));
        }
        self.names.track(false);
        born
    }

    /// Checks the names of what is remembered to lie in directories that have turned out
    /// to be removed: it has been removed as well, or lies elsewhere.
    fn find_again_in_removed(&self, inodes: &[Arc<Inode>], losses: &mut Losses) {
        loop {
            let removed = losses.unlinked.iter().filter(|inode| inode.is_dir());
            let removed: HashSet<NodeId> = removed.map(|inode| inode.id()).collect();
            let lies_in_one = |inode: &&Arc<Inode>| {
                let link = self.names.primary_of(inode);
                link.is_some_and(|link| removed.contains(&link.parent))
            };
            let left: Vec<Arc<Inode>> = match removed.is_empty() {
                true => return,
                false => inodes.iter().filter(lies_in_one).cloned().collect(),
            };
            let left: Vec<Arc<Inode>> = left
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

    /// Checks the names of `nodes` and corrects those that are wrong. Answers when
    /// those that are held by descriptor came to be.
    fn find_again(
        &self,
        nodes: &[Arc<Inode>],
        losses: &mut Losses,
    ) -> HashMap<NodeId, Option<i64>> {
        let never = AtomicBool::new(false);
        let Verdict { suspects, born } = verify::verify(&self.inodes, &self.names, nodes, &never);
        for inode in nodes.iter().filter(|inode| suspects.contains(&inode.id())) {
            let (why, needed) = match self.relocate(inode) {
                Ok(Whereabouts::Found) => continue,
                // Nobody but the guest can reach it any more.
                Ok(Whereabouts::Unlinked) => {
                    losses.unlinked(inode);
                    continue;
                }
                Err(Errno::ESTALE) => {
                    let open = self.handles.all();
                    let is_open = open.iter().any(|(_, file)| file.node() == inode.id());
                    ("it has been unlinked", is_open)
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
        born
    }

    fn record(&self, inode: &Inode, location: Location) -> InodeRecord {
        InodeRecord {
            id: inode.id().0,
            lookups: inode.lookups(),
            kind: inode.kind(),
            location,
        }
    }

    /// Records, and identities of what is not lost.
    fn describe_by_name(
        &self,
        inodes: &[Arc<Inode>],
        losses: &Losses,
        born: &HashMap<NodeId, Option<i64>>,
    ) -> Described {
        let mut described = Described {
            records: Vec::with_capacity(inodes.len()),
            identities: Vec::with_capacity(inodes.len()),
            devices: Vec::new(),
        };
        // Neighbours are in one directory, on one device.
        let mut above = NodeId::ROOT;
        let mut last = None;
        for inode in inodes {
            let location = self.place_by_name(inode, losses, &mut above);
            let mark = match location {
                Location::Root | Location::Lost { .. } => None,
                _ if born.is_empty() => known_mark(inode, None),
                _ => known_mark(inode, born.get(&inode.id()).copied()),
            };
            if let Some(mark) = mark {
                let device = inode.numbers().dev;
                let file_system = match last {
                    Some((known, at)) if known == device => at,
                    _ => {
                        let known = described.devices.iter();
                        let known = known.map(|inode| inode.numbers().dev);
                        let at = known.clone().position(|known| known == device);
                        let at = at.unwrap_or_else(|| {
                            described.devices.push(inode.clone());
                            described.devices.len() - 1
                        });
                        last = Some((device, at as u32));
                        at as u32
                    }
                };
                described.identities.push(Identity {
                    inode: inode.id().0,
                    file_system,
                    mark,
                });
            }
            described.records.push(self.record(inode, location));
        }
        described
    }

    /// `above` is a directory that the guest is known to know.
    fn place_by_name(&self, inode: &Inode, losses: &Losses, above: &mut NodeId) -> Location {
        if inode.id() == NodeId::ROOT {
            return Location::Root;
        }
        if let Place::Lost(errno) = inode.place() {
            return Location::Lost { errno: errno.raw() };
        }
        let lost = Location::Lost {
            errno: Errno::ESTALE.raw(),
        };
        if losses.lost.contains(&inode.id()) {
            return lost;
        }
        let Some(link) = self.names.primary_of(inode) else {
            return lost;
        };
        if link.parent == *above || self.inodes.knows(link.parent) {
            *above = link.parent;
            return Location::Child {
                parent: link.parent.0,
                name: ByteBuf::from(link.name.into_vec()),
            };
        }
        // Up to a directory that the guest still knows.
        let mut components = vec![ByteBuf::from(link.name.into_vec())];
        let mut at = link.parent;
        for _ in 0..=self.inodes.len() {
            if self.inodes.get(at).is_some() {
                components.reverse();
                return Location::Path {
                    from: at.0,
                    components,
                };
            }
            let Some((parent, name)) = self.names.primary(&self.inodes, at) else {
                break;
            };
            components.push(ByteBuf::from(name.into_vec()));
            at = parent;
        }
        lost
    }

    fn place_by_handle(
        &self,
        inode: &Arc<Inode>,
        open: &HashSet<NodeId>,
        mounts: &mut MountTable,
        losses: &mut Losses,
    ) -> Location {
        if inode.id() == NodeId::ROOT {
            return Location::Root;
        }
        let found = match inode.place() {
            Place::Lost(errno) => return Location::Lost { errno: errno.raw() },
            Place::Handle { mount, handle } => Ok((handle.clone(), mount.id())),
            Place::Fd(fd) => handle_bytes::FileHandle::of_fd(fd.as_fd()),
        };
        let why = match found {
            Ok((handle, mnt_id)) => match mounts.number(self, mnt_id, inode) {
                Some(mount) => {
                    return Location::Handle(FileHandle {
                        mount,
                        kind: handle.kind(),
                        bytes: ByteBuf::from(handle.bytes()),
                    })
                }
                None => "the mount that it is on cannot be found in the share",
            },
            Err(_) if is_unlinked(inode) => {
                losses.unlinked(inode);
                return Location::Lost {
                    errno: Errno::ESTALE.raw(),
                };
            }
            Err(_) => "its file system has no file handles",
        };
        losses.add(
            inode.id(),
            why,
            inode.is_dir() || open.contains(&inode.id()),
        );
        Location::Lost {
            errno: Errno::ESTALE.raw(),
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
        inodes: &[InodeRecord],
    ) -> Vec<Handle> {
        handles
            .iter()
            .filter(|(id, file)| {
                let there = inodes
                    .binary_search_by_key(&file.node().0, |record| record.id)
                    .is_ok();
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
    fn unlinked(&mut self, inode: &Arc<Inode>) {
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

/// The stream's mounts, numbered as they are met.
#[derive(Default)]
pub(super) struct MountTable {
    /// Mount id here to number in the stream; `None`: not to be found.
    numbers: HashMap<u32, Option<u32>>,
    records: Vec<Mount>,
}

impl MountTable {
    /// The number of a mount as another state had it.
    pub(super) fn received(&mut self, mount: &Mount) -> u32 {
        let known = self.records.iter().find(|own| own.path == mount.path);
        if let Some(known) = known {
            return known.id;
        }
        let id = self.records.len() as u32;
        self.records.push(Mount {
            id,
            path: mount.path.clone(),
        });
        id
    }

    fn number(&mut self, fs: &Passthrough, mnt_id: u32, inode: &Inode) -> Option<u32> {
        if let Some(known) = self.numbers.get(&mnt_id) {
            return *known;
        }
        let number = fs.mount_path(mnt_id, inode).map(|path| {
            let id = self.records.len() as u32;
            self.records.push(Mount { id, path });
            id
        });
        self.numbers.insert(mnt_id, number);
        number
    }
}

impl Passthrough {
    /// Where mount `mnt_id`, on which `inode` lies, is mounted in the share.
    fn mount_path(&self, mnt_id: u32, inode: &Inode) -> Option<Vec<ByteBuf>> {
        let root = self.inode(NodeId::ROOT).ok()?;
        if root.numbers().mnt_id == mnt_id {
            return Some(Vec::new());
        }
        self.mount_path_by_name(mnt_id, inode.id())
            .or_else(|| {
                let mount = self.mounts.usable(mnt_id)?;
                self.mount_path_by_descriptor(mnt_id, mount.fd())
            })
            .or_else(|| {
                let all = everything(&self.inodes).into_iter();
                all.filter(|inode| inode.numbers().mnt_id == mnt_id)
                    .find_map(|inode| {
                        self.mount_path_by_name(mnt_id, inode.id()).or_else(|| {
                            let fd = inode.fd().ok()?;
                            self.mount_path_by_descriptor(mnt_id, fd.as_fd())
                        })
                    })
            })
    }

    /// By where the kernel says that `fd`, which lies there, is now: what has come by file
    /// handle has no remembered name until the guest looks it up.
    fn mount_path_by_descriptor(&self, mnt_id: u32, fd: BorrowedFd<'_>) -> Option<Vec<ByteBuf>> {
        let root = self.config.root.as_fd();
        let path = path_below(self.proc_self_fd(), root, fd).ok()??;
        let mut at = root.try_clone_to_owned().ok()?;
        let mut walked = Vec::new();
        for component in path {
            // Unlinked meanwhile, or another mount lies over it.
            at = open_child(at.as_fd(), &component).ok()?;
            walked.push(ByteBuf::from(component));
            if sys::mnt_id_of(&sys::statx(at.as_fd()).ok()?) == mnt_id {
                return Some(walked);
            }
        }
        None
    }

    /// Up by the remembered names until the mount's own root.
    fn mount_path_by_name(&self, mnt_id: u32, inode: NodeId) -> Option<Vec<ByteBuf>> {
        let mut top = inode;
        for _ in 0..=self.inodes.len() {
            let (parent, _) = self.names.primary(&self.inodes, top)?;
            let above = self.inodes.get_or_pinned(parent)?;
            if above.numbers().mnt_id != mnt_id {
                let path = self.names.path(&self.inodes, top)?;
                return Some(
                    path.into_iter()
                        .map(|name| ByteBuf::from(name.into_vec()))
                        .collect(),
                );
            }
            top = parent;
        }
        None
    }
}
