//! The current state model. Its structs are those of the newest frozen version
//! ([`v3`](crate::v3)), under names without a version.

pub use crate::v3::{
    Counters, FileHandle, FileSystem, Ghost, GhostData, Handle, Identity, Inode, Location, Lock,
    LockKind, Mark, Mount, Request, Session, Time, Xattr,
};

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
    /// File systems that identities refer to, by ascending id.
    pub file_systems: Vec<FileSystem>,
    /// Which objects inodes were at the source, as far as it says, by ascending
    /// inode.
    pub identities: Vec<Identity>,
    /// The guest's locks, in the order of [`Lock::order`].
    pub locks: Vec<Lock>,
    /// Requests that wait for a lock, in the order in which they came, queue by queue.
    pub requests: Vec<Request>,
    /// Inodes that have no name any more and cross with their contents, by ascending
    /// inode.
    pub ghosts: Vec<Ghost>,
    /// The contents of those that are files, by ascending inode and offset.
    pub ghost_data: Vec<GhostData>,
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

/// What locks are ordered by: inode, kind, owner, first byte.
pub type LockOrder = (u64, LockKind, u64, u64);

impl Lock {
    /// Locks stand in ascending order of this.
    pub fn order(&self) -> LockOrder {
        (self.inode, self.kind, self.owner, self.start)
    }
}
