//! State version 1: the records as ferryfs 0.1 wrote them. FROZEN once 0.1.0 is
//! released: a later release adds a module beside this one and converts step by
//! step, it never edits this one. The order of the fields is wire format (postcard
//! has no names), and so are their names (msgpack has no order).

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::bounded;

/// The complete outcome of FUSE_INIT, and what else the guest relies on and will
/// never ask for again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// Protocol minor that the guest speaks (its INIT), major being 7.
    pub guest_minor: u32,
    /// Protocol minor that was answered.
    pub minor: u32,
    /// All 64 INIT flag bits that the guest offered.
    pub offered_flags: u64,
    /// All 64 INIT flag bits in the answer: what both sides use.
    pub flags: u64,
    /// `max_write` in the answer, in bytes.
    pub max_write: u32,
    /// `max_pages` in the answer, in 4 KiB pages.
    pub max_pages: u16,
    /// `max_readahead` in the answer, in bytes.
    pub max_readahead: u32,
    /// `max_background` in the answer, in requests.
    pub max_background: u16,
    /// `congestion_threshold` in the answer, in requests.
    pub congestion_threshold: u16,
    /// `time_gran` in the answer, in nanoseconds.
    pub time_gran: u32,
}

/// A mount inside the share that file handles refer to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// Number of this mount in this stream; means nothing elsewhere.
    pub id: u32,
    /// Where it is mounted: components from the share's root; none for the
    /// share's own mount.
    #[serde(deserialize_with = "bounded::components")]
    pub path: Vec<ByteBuf>,
}

/// A kernel file handle (`struct file_handle`) on one of the stream's mounts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileHandle {
    /// `Mount::id`.
    pub mount: u32,
    /// `handle_type`.
    pub kind: i32,
    /// `f_handle`; at most 128 bytes (`MAX_HANDLE_SZ`).
    pub bytes: ByteBuf,
}

/// How the destination finds an inode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Location {
    /// The share's root; only ever inode 1.
    Root,
    /// `name` in the directory that inode `parent` of this stream is.
    Child {
        /// Nodeid of the directory.
        parent: u64,
        /// One component.
        name: ByteBuf,
    },
    /// By components from the directory that inode `from` of this stream is,
    /// where the guest no longer knows the directories between.
    Path {
        /// Nodeid of the directory to start in.
        from: u64,
        /// Components, at least one.
        #[serde(deserialize_with = "bounded::components")]
        components: Vec<ByteBuf>,
    },
    /// By kernel file handle.
    Handle(FileHandle),
    /// The source could not say where it is; the guest gets this errno.
    Lost {
        /// Positive errno.
        errno: i32,
    },
}

/// An inode that the guest has looked up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inode {
    /// FUSE nodeid.
    pub id: u64,
    /// Lookups that the guest holds; at least 1.
    pub lookups: u64,
    /// File type: the `S_IFMT` part of `st_mode`; 0 where the writer cannot know.
    pub kind: u32,
    /// How to find it.
    pub location: Location,
}

/// An open file or directory of the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handle {
    /// FUSE file handle (`fh`).
    pub id: u64,
    /// Nodeid of the inode.
    pub inode: u64,
    /// Whether it came from OPENDIR.
    pub directory: bool,
    /// The guest's `O_*` flags at open, without those that act only once
    /// (`O_CREAT`, `O_EXCL`, `O_TRUNC`).
    pub guest_flags: u32,
    /// The `O_*` flags that the source's own descriptor had and the
    /// destination's must have: what was left of the guest's after the daemon's
    /// policy (write-back needs to read, `O_APPEND` is done per write, ...).
    pub host_flags: u32,
}

/// Where numbering goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counters {
    /// The nodeid that the next new inode gets; above every id in use.
    pub next_inode: u64,
    /// The `fh` that the next open gets; above every id in use.
    pub next_handle: u64,
}
