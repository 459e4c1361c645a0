//! State version 3: what ferryfs 0.3 added to version 2. FROZEN once 0.3.0 is
//! released, as [`v1`](crate::v1) is. No record of version 2 has changed; what is new
//! has sections of its own.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::bounded;

pub use crate::v2::{
    Counters, FileHandle, FileSystem, Handle, Identity, Inode, Location, Lock, LockKind, Mark,
    Mount, Request, Session,
};

/// A point in time, as `struct statx_timestamp` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Time {
    /// Seconds since 1970; before it they are negative.
    pub seconds: i64,
    /// Nanoseconds behind that second, below 1,000,000,000.
    pub nanoseconds: u32,
}

/// An extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Xattr {
    /// Its name as it is on the host; 1 to 255 bytes without a NUL.
    pub name: ByteBuf,
    /// Its value; at most 64 KiB.
    pub value: ByteBuf,
}

/// An inode that the guest still uses and to which no name leads any more: it crosses
/// with its contents, and is made again at the destination, as unlinked as it was.
/// The inode's record says `Location::Lost`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ghost {
    /// Nodeid: an inode of this stream.
    pub inode: u64,
    /// Nodeid of a directory of this stream that lies on the same file system.
    pub directory: u64,
    /// `st_ino`, as the guest knows it: the object that is made again has another one.
    pub number: u64,
    /// Permissions: `st_mode` without its file type, which the inode's record has.
    pub mode: u32,
    /// The owner, as the source's host has it.
    pub uid: u32,
    /// The group, as the source's host has it.
    pub gid: u32,
    /// Of a device, `st_rdev`, as `makedev` has it; otherwise 0.
    pub device: u64,
    /// Of a regular file, its size in bytes; otherwise 0.
    pub size: u64,
    /// When it was last read.
    pub accessed: Time,
    /// When its contents last changed.
    pub modified: Time,
    /// Of a symbolic link, what it says; otherwise empty.
    pub target: ByteBuf,
    /// Whether it may be given a name: a file that never had one (`O_TMPFILE`).
    pub linkable: bool,
    /// Its extended attributes, ACLs among them.
    #[serde(deserialize_with = "bounded::xattrs")]
    pub xattrs: Vec<Xattr>,
}

/// A piece of the contents of a ghost that is a regular file. What no piece covers is
/// a hole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GhostData {
    /// `Ghost::inode`.
    pub inode: u64,
    /// Where the piece begins, in bytes from the file's start.
    pub offset: u64,
    /// What is there; 1 byte to 1 MiB.
    pub bytes: ByteBuf,
}
