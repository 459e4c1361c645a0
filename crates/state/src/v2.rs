//! State version 2: what ferryfs 0.2 added to version 1. FROZEN once 0.2.0 is
//! released, as [`v1`](crate::v1) is. No record of version 1 has changed, so that
//! its frames stay what they were; what is new has sections of its own.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

pub use crate::v1::{Counters, FileHandle, Handle, Inode, Location, Mount, Session};

/// A file system that inodes of the stream lie on, as the source's kernel tells it
/// from others. Two of these are the same file system where `magic` agrees, and
/// either `fsid` (not 0), or `boot` (not empty) and `device`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSystem {
    /// Number of this file system in this stream; means nothing elsewhere.
    pub id: u32,
    /// Its type: `f_type` of `statfs`, the magic number of `linux/magic.h`.
    pub magic: u64,
    /// `f_fsid` of `statfs`, the first word in the lower half; 0 where there is
    /// none, or where it is made of the device number and says nothing on another
    /// host.
    pub fsid: u64,
    /// `st_dev` of what lies on it, as `makedev` has it.
    pub device: u64,
    /// The kernel's boot id, 16 bytes: within one boot of one host, and only there,
    /// device numbers tell file systems apart. Empty where it could not be had.
    pub boot: ByteBuf,
}

/// What tells one object on a file system from whatever takes its name, or its
/// inode number, later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Mark {
    /// By the kernel's file handle, in which a generation tells a number that is
    /// used again.
    Handle {
        /// `handle_type`.
        kind: i32,
        /// `f_handle`; at most 128 bytes (`MAX_HANDLE_SZ`).
        bytes: ByteBuf,
    },
    /// By inode number, and by the time at which it came to be.
    Numbers {
        /// `stx_ino`.
        ino: u64,
        /// `stx_btime` in nanoseconds since 1970; `None` where the file system
        /// keeps none.
        born: Option<i64>,
    },
}

/// Which object an inode of the stream was at the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Nodeid: an inode of this stream.
    pub inode: u64,
    /// `FileSystem::id`.
    pub file_system: u32,
    /// What tells it on there.
    pub mark: Mark,
}

/// Whose rules a lock follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LockKind {
    /// `fcntl`: ranges of bytes, which an owner may set over its own.
    Posix,
    /// `flock`: the whole file.
    Flock,
}

/// A lock that the guest holds. Those that it waits for are [`Request`]s.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// `Handle::id` of the open file that it was set through, where that is known
    /// and still open.
    pub handle: Option<u64>,
    /// Nodeid of the file.
    pub inode: u64,
    /// `lock_owner` (FUSE): a number of the guest kernel's for whoever holds it.
    pub owner: u64,
    /// Whose rules it follows.
    pub kind: LockKind,
    /// Whether it excludes everybody (`F_WRLCK`, `LOCK_EX`) or writers alone.
    pub write: bool,
    /// First byte; 0 for [`LockKind::Flock`].
    pub start: u64,
    /// Last byte, inclusive, at most 2^63 - 1 (`OFFSET_MAX`), which stands for the
    /// file's end wherever that is; it is that for [`LockKind::Flock`].
    pub end: u64,
    /// The guest's process that set it, which `F_GETLK` names; 0 where unknown.
    pub pid: u32,
}

/// A request that the source has taken from a virtqueue and not answered: it waits for
/// a lock. Its bytes are in the guest's memory, where its chain leads, and whoever goes
/// on with the queue serves it again from the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Index of the virtqueue: 0 is the high-priority queue.
    pub queue: u16,
    /// Head of its descriptor chain: an index in the queue's descriptor table.
    pub head: u16,
}
