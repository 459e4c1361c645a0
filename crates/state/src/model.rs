//! The current state model. Its structs are those of the newest frozen version
//! ([`v1`](crate::v1)), under names without a version.

pub use crate::v1::{Counters, FileHandle, Handle, Inode, Location, Mount, Session};

/// A file system's whole state, without the session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FsState {
    /// The nodeid that the next new inode gets; above every id in use.
    pub next_inode: u64,
    /// The `fh` that the next open gets; above every id in use.
    pub next_handle: u64,
    /// Mounts, by ascending id.
    pub mounts: Vec<Mount>,
    /// Inodes, by ascending id.
    pub inodes: Vec<Inode>,
    /// Handles, by ascending id.
    pub handles: Vec<Handle>,
}

/// Everything a stream carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// `None`: no guest has mounted yet.
    pub session: Option<Session>,
    /// The file system's part.
    pub fs: FsState,
}

impl FsState {
    /// The part of the state that the `counters` section carries.
    pub fn counters(&self) -> Counters {
        Counters {
            next_inode: self.next_inode,
            next_handle: self.next_handle,
        }
    }
}
