//! Source side: inodes as records.

use std::collections::HashSet;
use std::os::fd::AsFd;

use ferryfs_state::{FileHandle, Identity, Inode as InodeRecord, Location, Mark};
use serde_bytes::ByteBuf;

use super::super::config::MigrationMode;
use super::super::handle_bytes;
use super::super::inode::{Inode, InodeArc, Inodes, Place};
use super::super::names::Names;
use super::ghost::gather::is_unlinked;
use super::identity::{known_mark, root_mark};
use crate::errno::Errno;
use crate::types::NodeId;

/// What it takes to describe inodes.
#[derive(Clone, Copy)]
pub(super) struct Describer<'a> {
    pub(super) inodes: &'a Inodes,
    pub(super) names: &'a Names,
    pub(super) mode: MigrationMode,
    /// Inodes that are known to be nowhere.
    pub(super) lost: &'a HashSet<NodeId>,
}

/// Inodes that have been described, by ascending id.
#[derive(Default)]
pub(super) struct Described {
    /// The mounts of file handles are positions in `mounts`.
    pub(super) records: Vec<InodeRecord>,
    /// Their file systems are positions in `devices`.
    pub(super) identities: Vec<Identity>,
    /// Of each device that was met, an inode that lies on it.
    pub(super) devices: Vec<InodeArc>,
    /// Of each mount that was met, its id and an inode that lies on it.
    pub(super) mounts: Vec<(u32, InodeArc)>,
    /// Directories by which others are described: where they are, and whether the guest
    /// knows them, is in the records.
    pub(super) above: Vec<NodeId>,
    /// One of them that the guest knows.
    known: Option<NodeId>,
    /// Those that cannot be described.
    pub(super) losses: Vec<Loss>,
    /// Whether something was looked up that others on the host can change unseen.
    pub(super) fleeting: bool,
    /// What records that are done with had their bytes in: thousands of small pieces of memory
    /// that would be given back, and asked for again, each time.
    spare: Vec<Vec<u8>>,
}

/// An inode that cannot cross as it is.
#[derive(Clone)]
pub(super) struct Loss {
    pub(super) inode: InodeArc,
    /// `None`: no name leads to it.
    pub(super) why: Option<&'static str>,
}

/// What the guest gets from an inode that is nowhere.
pub(super) const LOST: Location = Location::Lost {
    errno: Errno::ESTALE.raw(),
};

/// Why an inode whose mount is gone is lost.
const NO_MOUNT: &str = "the mount that it is on cannot be found in the share";

impl Described {
    pub(super) fn with_capacity(inodes: usize) -> Described {
        Described {
            records: Vec::with_capacity(inodes),
            identities: Vec::with_capacity(inodes),
            ..Described::default()
        }
    }

    /// Forgets everything, and keeps the memory for what is described next.
    pub(super) fn clear(&mut self) {
        let mut spare = std::mem::take(&mut self.spare);
        let names = self
            .records
            .drain(..)
            .filter_map(|record| match record.location {
                Location::Child { name, .. } => Some(name),
                Location::Handle(handle) => Some(handle.bytes),
                _ => None,
            });
        let marks = self.identities.drain(..).filter_map(|one| match one.mark {
            Mark::Handle { bytes, .. } => Some(bytes),
            Mark::Numbers { .. } => None,
        });
        spare.extend(names.chain(marks).map(|bytes| {
            let mut bytes = bytes.into_vec();
            bytes.clear();
            bytes
        }));
        *self = Described {
            records: std::mem::take(&mut self.records),
            identities: std::mem::take(&mut self.identities),
            spare,
            ..Described::default()
        };
    }

    /// Room for a record's bytes, which is empty.
    fn bytes(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// The position of the device that `inode` lies on.
    fn device(&mut self, inode: &InodeArc) -> u32 {
        let device = inode.numbers().dev;
        let known = self
            .devices
            .iter()
            .rposition(|one| one.numbers().dev == device);
        known.unwrap_or_else(|| {
            self.devices.push(inode.clone());
            self.devices.len() - 1
        }) as u32
    }

    /// The position of mount `mnt_id`, which `inode` lies on.
    fn mount(&mut self, mnt_id: u32, inode: &InodeArc) -> u32 {
        let known = self.mounts.iter().rposition(|(id, _)| *id == mnt_id);
        known.unwrap_or_else(|| {
            self.mounts.push((mnt_id, inode.clone()));
            self.mounts.len() - 1
        }) as u32
    }

    fn depends_on(&mut self, directory: NodeId) {
        // Neighbours lie in one directory.
        if self.above.last() != Some(&directory) {
            self.above.push(directory);
        }
    }

    /// Puts the stream's numbers in the place of positions. What lies on a mount that has
    /// none is lost; a file system that has none tells nothing.
    pub(super) fn number(
        &mut self,
        inodes: &Inodes,
        mounts: &[Option<u32>],
        devices: &[Option<u32>],
    ) {
        let number = |numbers: &[Option<u32>], at: u32| numbers.get(at as usize).copied().flatten();
        let mut homeless = Vec::new();
        for record in &mut self.records {
            let Location::Handle(handle) = &mut record.location else {
                continue;
            };
            match number(mounts, handle.mount) {
                Some(mount) => handle.mount = mount,
                None => {
                    homeless.push(record.id);
                    record.location = LOST;
                }
            }
        }
        self.identities.retain_mut(|identity| {
            if homeless.binary_search(&identity.inode).is_ok() {
                return false;
            }
            let number = number(devices, identity.file_system);
            identity.file_system = number.unwrap_or_default();
            number.is_some()
        });
        let homeless = homeless.into_iter();
        let homeless = homeless.filter_map(|id| inodes.get_or_pinned(NodeId(id)));
        self.losses.extend(homeless.map(|inode| Loss {
            inode,
            why: Some(NO_MOUNT),
        }));
        self.losses.sort_by_key(|loss| loss.inode.id());
    }
}

impl Describer<'_> {
    /// Describes `inode`, if the guest knows it.
    pub(super) fn describe(&self, inode: &InodeArc, out: &mut Described) {
        let lookups = inode.lookups();
        if lookups == 0 {
            return;
        }
        let (location, mark) = match inode.id() {
            NodeId::ROOT => {
                let mark = root_mark(inode);
                if let Err(e) = &mark {
                    log::warn!("the share's root crosses without its identity: {e}");
                }
                (Location::Root, mark.ok())
            }
            _ => match self.mode {
                MigrationMode::FindPaths => {
                    let location = self.place_by_name(inode, out);
                    let mark = match location {
                        Location::Lost { .. } => None,
                        _ => known_mark(inode, || out.bytes()),
                    };
                    (location, mark)
                }
                // A handle is an identity itself; which share it is of is told by the
                // root's.
                MigrationMode::FileHandles => {
                    let location = self.place_by_handle(inode, out);
                    let is_placed = matches!(location, Location::Handle(_));
                    // For the sake of those that have no name: see `lazy::split`.
                    let mark = match is_placed && self.has_no_name(inode, out) {
                        true => known_mark(inode, || out.bytes()),
                        false => None,
                    };
                    (location, mark)
                }
            },
        };
        if let Some(mark) = mark {
            let file_system = out.device(inode);
            out.identities.push(Identity {
                inode: inode.id().0,
                file_system,
                mark,
            });
        }
        out.records.push(InodeRecord {
            id: inode.id().0,
            lookups,
            kind: inode.kind(),
            location,
        });
    }

    fn place_by_name(&self, inode: &Inode, out: &mut Described) -> Location {
        if let Place::Lost(errno) = inode.place() {
            return Location::Lost { errno: errno.raw() };
        }
        if self.lost.contains(&inode.id()) {
            return LOST;
        }
        let mut name = out.bytes();
        let Some(parent) = self.names.read_primary(inode, &mut name) else {
            return LOST;
        };
        out.depends_on(parent);
        // What was known for a neighbour's sake may be forgotten since, and has left a
        // mark then.
        if out.known == Some(parent) || self.inodes.knows(parent) {
            out.known = Some(parent);
            return Location::Child {
                parent: parent.0,
                name: ByteBuf::from(name),
            };
        }
        // Up to a directory that the guest still knows.
        let mut components = vec![ByteBuf::from(name)];
        let mut at = parent;
        for _ in 0..=self.inodes.len() {
            if self.inodes.knows(at) {
                components.reverse();
                return Location::Path {
                    from: at.0,
                    components,
                };
            }
            let Some((above, name)) = self.names.primary(self.inodes, at) else {
                break;
            };
            out.depends_on(above);
            components.push(ByteBuf::from(name.into_vec()));
            at = above;
        }
        LOST
    }

    fn place_by_handle(&self, inode: &InodeArc, out: &mut Described) -> Location {
        let found = match inode.place() {
            Place::Lost(errno) => return Location::Lost { errno: errno.raw() },
            Place::Handle { mount, handle } => Ok((handle.clone(), mount.id())),
            Place::Fd(fd) => handle_bytes::FileHandle::of_fd(fd.as_fd()),
        };
        let why = match found {
            Ok((handle, mnt_id)) => {
                let mut bytes = out.bytes();
                bytes.extend_from_slice(handle.bytes());
                return Location::Handle(FileHandle {
                    mount: out.mount(mnt_id, inode),
                    kind: handle.kind(),
                    bytes: ByteBuf::from(bytes),
                });
            }
            Err(_) if is_unlinked(inode) => None,
            Err(_) => Some("its file system has no file handles"),
        };
        out.losses.push(Loss {
            inode: inode.clone(),
            why,
        });
        LOST
    }

    /// Whether an inode that is described by handle is known to have no name. Most are
    /// not looked at for it.
    fn has_no_name(&self, inode: &Inode, out: &mut Described) -> bool {
        match inode.place() {
            Place::Handle { .. } => inode.is_kept(),
            Place::Fd(_) => {
                let nameless = self.names.primary_of(inode).is_none();
                out.fleeting |= nameless;
                nameless && is_unlinked(inode)
            }
            Place::Lost(_) => false,
        }
    }
}
