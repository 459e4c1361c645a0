//! Records of many inodes in little memory: some 25 bytes each instead of a hundred and
//! an allocation, and half the time to decode them. For who keeps them and looks at a few
//! at a time, as a destination does.
//!
//! - [`PackedState`] is a [`State`](crate::State) whose inodes and identities are packed;
//!   [`read_packed`](crate::read_packed) reads it.
//! - [`InodePack`] and [`IdentityPack`] are the records of one frame, and are decoded
//!   straight from its payload: no record of its own is made of any of them.
//! - [`InodeRef`] and [`IdentityRef`] are what records look like, packed or not.
//!
//! No wire format; it can be another in each release.

mod decode;
mod identities;
mod inodes;
mod state;
mod strings;
#[cfg(test)]
mod tests;

use serde_bytes::ByteBuf;

use crate::model::{FileHandle, Identity, Inode, Location, Mark};

pub use identities::{IdentityPack, PackedIdentities};
pub(crate) use inodes::Lead;
pub use inodes::{InodePack, PackedInodes, Way, PIECE};
pub use state::{PackedFrame, PackedFs, PackedState};

/// Most records that one pack may have; their bytes stay below 4 GiB.
pub const MOST_PACKED: usize = 1 << 16;

/// How an inode is found: a [`Location`], borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// [`Location::Root`].
    Root,
    /// [`Location::Child`].
    Child {
        /// Nodeid of the directory.
        parent: u64,
        /// One component.
        name: &'a [u8],
    },
    /// [`Location::Path`].
    Path {
        /// Nodeid of the directory to start in.
        from: u64,
        /// Components.
        components: &'a [ByteBuf],
    },
    /// [`Location::Handle`].
    Handle {
        /// [`Mount::id`](crate::Mount::id).
        mount: u32,
        /// `handle_type`.
        kind: i32,
        /// `f_handle`.
        bytes: &'a [u8],
    },
    /// [`Location::Lost`].
    Lost {
        /// What the guest gets.
        errno: i32,
    },
}

impl Place<'_> {
    /// Nodeid of the directory from which a name, or names, lead to it.
    pub fn above(&self) -> Option<u64> {
        match self {
            Place::Child { parent, .. } => Some(*parent),
            Place::Path { from, .. } => Some(*from),
            Place::Root | Place::Handle { .. } | Place::Lost { .. } => None,
        }
    }
}

/// An [`Inode`], borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InodeRef<'a> {
    /// FUSE nodeid.
    pub id: u64,
    /// Lookups that the guest holds.
    pub lookups: u64,
    /// File type: the `S_IFMT` part of `st_mode`.
    pub kind: u32,
    /// How to find it.
    pub place: Place<'a>,
}

impl<'a> From<&'a Inode> for InodeRef<'a> {
    fn from(record: &'a Inode) -> InodeRef<'a> {
        InodeRef {
            id: record.id,
            lookups: record.lookups,
            kind: record.kind,
            place: match &record.location {
                Location::Root => Place::Root,
                Location::Child { parent, name } => Place::Child {
                    parent: *parent,
                    name,
                },
                Location::Path { from, components } => Place::Path {
                    from: *from,
                    components,
                },
                Location::Handle(FileHandle { mount, kind, bytes }) => Place::Handle {
                    mount: *mount,
                    kind: *kind,
                    bytes,
                },
                Location::Lost { errno } => Place::Lost { errno: *errno },
            },
        }
    }
}

impl InodeRef<'_> {
    /// The record that it was made of.
    pub fn to_record(&self) -> Inode {
        Inode {
            id: self.id,
            lookups: self.lookups,
            kind: self.kind,
            location: match self.place {
                Place::Root => Location::Root,
                Place::Child { parent, name } => Location::Child {
                    parent,
                    name: ByteBuf::from(name),
                },
                Place::Path { from, components } => Location::Path {
                    from,
                    components: components.to_vec(),
                },
                Place::Handle { mount, kind, bytes } => Location::Handle(FileHandle {
                    mount,
                    kind,
                    bytes: ByteBuf::from(bytes),
                }),
                Place::Lost { errno } => Location::Lost { errno },
            },
        }
    }
}

/// A [`Mark`], borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkRef<'a> {
    /// [`Mark::Handle`].
    Handle {
        /// `handle_type`.
        kind: i32,
        /// `f_handle`.
        bytes: &'a [u8],
    },
    /// [`Mark::Numbers`].
    Numbers {
        /// Inode number.
        ino: u64,
        /// Time of birth in nanoseconds since 1970.
        born: Option<i64>,
    },
}

impl<'a> From<&'a Mark> for MarkRef<'a> {
    fn from(mark: &'a Mark) -> MarkRef<'a> {
        match mark {
            Mark::Handle { kind, bytes } => MarkRef::Handle { kind: *kind, bytes },
            Mark::Numbers { ino, born } => MarkRef::Numbers {
                ino: *ino,
                born: *born,
            },
        }
    }
}

impl MarkRef<'_> {
    /// The same, owned.
    pub fn to_mark(self) -> Mark {
        match self {
            MarkRef::Handle { kind, bytes } => Mark::Handle {
                kind,
                bytes: ByteBuf::from(bytes),
            },
            MarkRef::Numbers { ino, born } => Mark::Numbers { ino, born },
        }
    }
}

/// An [`Identity`], borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdentityRef<'a> {
    /// Nodeid.
    pub inode: u64,
    /// [`FileSystem::id`](crate::FileSystem::id).
    pub file_system: u32,
    /// What tells it on there.
    pub mark: MarkRef<'a>,
}

impl<'a> From<&'a Identity> for IdentityRef<'a> {
    fn from(record: &'a Identity) -> IdentityRef<'a> {
        IdentityRef {
            inode: record.inode,
            file_system: record.file_system,
            mark: MarkRef::from(&record.mark),
        }
    }
}

impl IdentityRef<'_> {
    /// The record that it was made of.
    pub fn to_record(&self) -> Identity {
        Identity {
            inode: self.inode,
            file_system: self.file_system,
            mark: self.mark.to_mark(),
        }
    }
}

/// Where `id` is in `ids`, which ascend. Ids of a daemon that has not run for long have
/// few gaps, and then the first look finds it.
fn search(ids: &[u64], id: u64) -> Option<usize> {
    let ahead = id.checked_sub(*ids.first()?)?;
    let guess = usize::try_from(ahead).ok()?;
    match ids.get(guess) == Some(&id) {
        true => Some(guess),
        false => ids.binary_search(&id).ok(),
    }
}
