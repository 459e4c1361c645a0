//! How much a reader takes from a stream before it refuses it.

/// Bounds on a stream that is read. A stream is hostile until it has been checked:
/// whatever lengths it claims, no memory is set aside before the bytes have come,
/// and never more than this allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Length of the whole stream in bytes.
    pub stream_bytes: u64,
    /// Length of one frame's payload in bytes, as it is in the stream and also once
    /// it is no longer compressed.
    pub frame_bytes: u32,
    /// Memory in bytes that the records of the whole stream may take up once they
    /// are decoded, which a compressed stream says nothing of.
    pub memory_bytes: u64,
    /// Number of mounts, and of file systems.
    pub mounts: u64,
    /// Number of inodes.
    pub inodes: u64,
    /// Number of handles.
    pub handles: u64,
    /// Number of locks, and of requests that wait for one.
    pub locks: u64,
    /// Number of unlinked inodes that cross with their contents.
    pub ghosts: u64,
    /// Length in bytes of their contents in all.
    pub ghost_bytes: u64,
}

impl Default for Limits {
    /// 8 GiB, 64 MiB a frame, 16 GiB in memory, 65,536 mounts, 100 million inodes,
    /// 16 million handles, 16 million locks, a million ghosts with 4 GiB of contents.
    fn default() -> Self {
        Limits {
            stream_bytes: 8 << 30,
            frame_bytes: 64 << 20,
            memory_bytes: 16 << 30,
            mounts: 1 << 16,
            inodes: 100_000_000,
            handles: 1 << 24,
            locks: 1 << 24,
            ghosts: 1 << 20,
            ghost_bytes: 4 << 30,
        }
    }
}
