//! A crossing that begins before everything has been located: what has not passes on as
//! it was received.

use std::sync::{PoisonError, RwLockWriteGuard};

use ferryfs_state::packed::{InodeRef, Place};
use ferryfs_state::{FsState, Inode as InodeRecord, Location};
use serde_bytes::ByteBuf;

use super::super::super::config::MigrationMode;
use super::super::identity::Collector;
use super::super::mounts::MountTable;
use super::{At, Locator};
use crate::errno::Errno;
use crate::types::NodeId;

impl Locator {
    /// Gets everything ready to be passed on in `mode`. The device is stopped.
    pub(in super::super) fn settle(&self, mode: MigrationMode) {
        // What was received by name goes on by name, and by handle by handle; anything
        // else has to be found first.
        let passes = |at: At| {
            let by_name = matches!(self.store.get(at).place, Place::Child { .. });
            by_name == (mode == MigrationMode::FindPaths)
        };
        for at in self.store.all() {
            if !self.store.is_done(at) && !passes(at) {
                // What cannot be had at the moment is passed on after all.
                let _ = self.locate_at(at);
            }
        }
        self.add_names();
    }

    /// Nothing goes into the tables as long as the answer lives.
    pub(in super::super) fn hold(&self) -> RwLockWriteGuard<'_, bool> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds to `state` what has not been located. Under [`Locator::hold`].
    pub(in super::super) fn collect(
        &self,
        state: &mut FsState,
        identities: &mut Collector,
        mounts: &mut MountTable,
    ) {
        for at in self.store.all() {
            let lookups = match self.store.is_done(at) {
                true => 0,
                false => self.store.lookups(at),
            };
            if lookups == 0 {
                continue;
            }
            let record = self.store.get(at);
            let location = self.location(&record, mounts);
            if !matches!(location, Location::Handle(_) | Location::Lost { .. }) {
                if let Some((Some(file_system), mark)) = self.store.mark(at) {
                    let file_system = self.here.file_system(file_system);
                    identities.add_received(record.id, file_system, mark);
                }
            }
            state.inodes.push(InodeRecord {
                lookups,
                location,
                ..record.to_record()
            });
        }
    }

    /// Whether the guest knows inode `id`.
    fn is_known(&self, id: u64) -> bool {
        let here = || {
            let at = self.store.position(id);
            at.is_some_and(|at| !self.store.is_done(at) && self.store.lookups(at) > 0)
        };
        self.inodes.get(NodeId(id)).is_some() || here()
    }

    fn location(&self, record: &InodeRef<'_>, mounts: &mut MountTable) -> Location {
        let (parent, name) = match record.place {
            Place::Child { parent, name } => (parent, name),
            Place::Handle { mount, .. } => {
                let own = self.mount_records.iter().find(|own| own.id == mount);
                let Location::Handle(mut handle) = record.to_record().location else {
                    return LOST;
                };
                let Some(own) = own else { return LOST };
                handle.mount = mounts.received(own);
                return Location::Handle(handle);
            }
            // Looked for before: these are in the tables.
            Place::Root | Place::Path { .. } | Place::Lost { .. } => return LOST,
        };
        if self.is_known(parent) {
            return Location::Child {
                parent,
                name: ByteBuf::from(name),
            };
        }
        // Up to a directory that the guest still knows.
        let mut components = vec![ByteBuf::from(name)];
        let mut above = parent;
        for _ in 0..=self.inodes.len() + self.store.len() {
            if self.is_known(above) {
                components.reverse();
                return Location::Path {
                    from: above,
                    components,
                };
            }
            let next = self.names.primary(&self.inodes, NodeId(above));
            let next = next.map(|(parent, name)| (parent.0, name.into_vec()));
            let next = next.or_else(|| {
                let at = self.store.position(above)?;
                match self.store.get(at).place {
                    Place::Child { parent, name } => Some((parent, name.to_vec())),
                    _ => None,
                }
            });
            let Some((parent, name)) = next else { break };
            components.push(ByteBuf::from(name));
            above = parent;
        }
        LOST
    }
}

const LOST: Location = Location::Lost {
    errno: Errno::ESTALE.raw(),
};
