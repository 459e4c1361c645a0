//! The sections of a stream and the frames that carry them.

use std::fmt;

use crate::model::{
    Counters, FileSystem, Ghost, GhostData, Handle, Identity, Inode, Location, Lock, Mark, Mount,
    Request, Session,
};
use crate::version::{SectionVersion, StateVersion};

/// Number of a section. `0x8000..=0xfffe` are for variants of the daemon: they mean
/// something only together with the writer's vendor name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SectionId(pub u16);

impl SectionId {
    /// One [`Session`]; absent when no guest has mounted.
    pub const SESSION: SectionId = SectionId(1);
    /// One [`Counters`]; always there.
    pub const COUNTERS: SectionId = SectionId(2);
    /// [`Mount`]s.
    pub const MOUNTS: SectionId = SectionId(3);
    /// [`Inode`]s.
    pub const INODES: SectionId = SectionId(4);
    /// [`Handle`]s.
    pub const HANDLES: SectionId = SectionId(5);
    /// [`FileSystem`]s.
    pub const FILE_SYSTEMS: SectionId = SectionId(6);
    /// [`Identity`]s.
    pub const IDENTITIES: SectionId = SectionId(7);
    /// [`Lock`]s.
    pub const LOCKS: SectionId = SectionId(8);
    /// [`Request`]s.
    pub const REQUESTS: SectionId = SectionId(9);
    /// [`Ghost`]s.
    pub const GHOSTS: SectionId = SectionId(10);
    /// [`GhostData`].
    pub const GHOST_DATA: SectionId = SectionId(11);
    /// The end of the stream; its payload is fixed bytes, not the format's.
    pub const END: SectionId = SectionId(0xffff);

    /// What this build knows of the section.
    fn known(self) -> Option<&'static Known> {
        KNOWN.iter().find(|known| known.id == self)
    }

    /// The section's name, where this build knows it.
    pub fn name(self) -> Option<&'static str> {
        self.known().map(|known| known.name)
    }

    /// The newest version of its records that this build knows.
    pub fn newest(self) -> Option<SectionVersion> {
        self.known().map(|known| known.newest)
    }

    /// The state version that the section came with.
    pub fn since(self) -> Option<StateVersion> {
        self.known().map(|known| known.since)
    }

    /// Whether a reader that does not know the section must refuse the stream. What
    /// is optional makes a crossing safer; a guest loses nothing without it.
    pub fn is_critical(self) -> bool {
        self.known().is_none_or(|known| known.critical)
    }
}

/// A section that this build knows.
struct Known {
    id: SectionId,
    name: &'static str,
    newest: SectionVersion,
    since: StateVersion,
    critical: bool,
}

const fn known(id: SectionId, name: &'static str, since: u32, critical: bool) -> Known {
    Known {
        id,
        name,
        newest: SectionVersion(1),
        since: StateVersion(since),
        critical,
    }
}

const KNOWN: &[Known] = &[
    known(SectionId::SESSION, "session", 1, true),
    known(SectionId::COUNTERS, "counters", 1, true),
    known(SectionId::MOUNTS, "mounts", 1, true),
    known(SectionId::INODES, "inodes", 1, true),
    known(SectionId::HANDLES, "handles", 1, true),
    known(SectionId::FILE_SYSTEMS, "file-systems", 2, false),
    known(SectionId::IDENTITIES, "identities", 2, false),
    known(SectionId::LOCKS, "locks", 2, true),
    known(SectionId::REQUESTS, "requests", 2, true),
    known(SectionId::GHOSTS, "ghosts", 3, true),
    known(SectionId::GHOST_DATA, "ghost-data", 3, true),
    known(SectionId::END, "end", 1, true),
];

impl fmt::Display for SectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{} (unknown)", self.0),
        }
    }
}

/// Most records that a writer puts into one frame: what one worker can encode or
/// decode in a millisecond or so, and one buffer can hold. For readers of state version 2
/// and before, identities are four times as many: such a reader may not know the section,
/// and says so for each frame.
pub const RECORDS_PER_FRAME: usize = 4096;

/// Names and contents in bytes after which a writer closes a frame early, so that records with
/// long paths stay below any reader's frame limit.
pub(crate) const WEIGHT_PER_FRAME: usize = 4 << 20;

/// What one frame carries, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Section [`SectionId::SESSION`].
    Session(Session),
    /// Section [`SectionId::COUNTERS`].
    Counters(Counters),
    /// Section [`SectionId::MOUNTS`].
    Mounts(Vec<Mount>),
    /// Section [`SectionId::INODES`].
    Inodes(Vec<Inode>),
    /// Section [`SectionId::HANDLES`].
    Handles(Vec<Handle>),
    /// Section [`SectionId::FILE_SYSTEMS`].
    FileSystems(Vec<FileSystem>),
    /// Section [`SectionId::IDENTITIES`].
    Identities(Vec<Identity>),
    /// Section [`SectionId::LOCKS`].
    Locks(Vec<Lock>),
    /// Section [`SectionId::REQUESTS`].
    Requests(Vec<Request>),
    /// Section [`SectionId::GHOSTS`].
    Ghosts(Vec<Ghost>),
    /// Section [`SectionId::GHOST_DATA`].
    GhostData(Vec<GhostData>),
}

impl Frame {
    /// The same, borrowed.
    pub fn as_ref(&self) -> FrameRef<'_> {
        match self {
            Frame::Session(s) => FrameRef::Session(s),
            Frame::Counters(c) => FrameRef::Counters(c),
            Frame::Mounts(m) => FrameRef::Mounts(m),
            Frame::Inodes(i) => FrameRef::Inodes(i),
            Frame::Handles(h) => FrameRef::Handles(h),
            Frame::FileSystems(f) => FrameRef::FileSystems(f),
            Frame::Identities(i) => FrameRef::Identities(i),
            Frame::Locks(l) => FrameRef::Locks(l),
            Frame::Requests(r) => FrameRef::Requests(r),
            Frame::Ghosts(g) => FrameRef::Ghosts(g),
            Frame::GhostData(d) => FrameRef::GhostData(d),
        }
    }
}

/// What one frame is to carry, borrowed from the state that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameRef<'a> {
    /// Section [`SectionId::SESSION`].
    Session(&'a Session),
    /// Section [`SectionId::COUNTERS`].
    Counters(&'a Counters),
    /// Section [`SectionId::MOUNTS`].
    Mounts(&'a [Mount]),
    /// Section [`SectionId::INODES`].
    Inodes(&'a [Inode]),
    /// Section [`SectionId::HANDLES`].
    Handles(&'a [Handle]),
    /// Section [`SectionId::FILE_SYSTEMS`].
    FileSystems(&'a [FileSystem]),
    /// Section [`SectionId::IDENTITIES`].
    Identities(&'a [Identity]),
    /// Section [`SectionId::LOCKS`].
    Locks(&'a [Lock]),
    /// Section [`SectionId::REQUESTS`].
    Requests(&'a [Request]),
    /// Section [`SectionId::GHOSTS`].
    Ghosts(&'a [Ghost]),
    /// Section [`SectionId::GHOST_DATA`].
    GhostData(&'a [GhostData]),
}

impl FrameRef<'_> {
    /// The section that this belongs to.
    pub fn section(&self) -> SectionId {
        match self {
            FrameRef::Session(_) => SectionId::SESSION,
            FrameRef::Counters(_) => SectionId::COUNTERS,
            FrameRef::Mounts(_) => SectionId::MOUNTS,
            FrameRef::Inodes(_) => SectionId::INODES,
            FrameRef::Handles(_) => SectionId::HANDLES,
            FrameRef::FileSystems(_) => SectionId::FILE_SYSTEMS,
            FrameRef::Identities(_) => SectionId::IDENTITIES,
            FrameRef::Locks(_) => SectionId::LOCKS,
            FrameRef::Requests(_) => SectionId::REQUESTS,
            FrameRef::Ghosts(_) => SectionId::GHOSTS,
            FrameRef::GhostData(_) => SectionId::GHOST_DATA,
        }
    }

    /// The version of its section's records: the lowest that can say them. No
    /// section has more than one so far.
    pub fn version(&self) -> SectionVersion {
        SectionVersion(1)
    }

    /// Number of records.
    pub fn records(&self) -> usize {
        match self {
            FrameRef::Session(_) | FrameRef::Counters(_) => 1,
            FrameRef::Mounts(m) => m.len(),
            FrameRef::Inodes(i) => i.len(),
            FrameRef::Handles(h) => h.len(),
            FrameRef::FileSystems(f) => f.len(),
            FrameRef::Identities(i) => i.len(),
            FrameRef::Locks(l) => l.len(),
            FrameRef::Requests(r) => r.len(),
            FrameRef::Ghosts(g) => g.len(),
            FrameRef::GhostData(d) => d.len(),
        }
    }
}

/// Records that can be cut into frames.
pub trait Record: Sized {
    /// Bytes of names or contents in this record: what makes one record larger than another.
    fn weight(&self) -> usize;
    /// A frame of these records.
    fn frame(records: &[Self]) -> FrameRef<'_>;
}

fn path_weight(components: &[serde_bytes::ByteBuf]) -> usize {
    components.iter().map(|c| c.len() + 8).sum()
}

impl Record for Mount {
    fn weight(&self) -> usize {
        path_weight(&self.path)
    }
    fn frame(records: &[Self]) -> FrameRef<'_> {
        FrameRef::Mounts(records)
    }
}

impl Record for Inode {
    fn weight(&self) -> usize {
        match &self.location {
            Location::Child { name, .. } => name.len(),
            Location::Path { components, .. } => path_weight(components),
            Location::Handle(h) => h.bytes.len(),
            Location::Root | Location::Lost { .. } => 0,
        }
    }
    fn frame(records: &[Self]) -> FrameRef<'_> {
        FrameRef::Inodes(records)
    }
}

impl Record for Handle {
    fn weight(&self) -> usize {
        0
    }
    fn frame(records: &[Self]) -> FrameRef<'_> {
        FrameRef::Handles(records)
    }
}

impl Record for FileSystem {
    fn weight(&self) -> usize {
        self.boot.len()
    }
    fn frame(records: &[Self]) -> FrameRef<'_> {
        FrameRef::FileSystems(records)
    }
}

impl Record for Identity {
    fn weight(&self) -> usize {
        match &self.mark {
            Mark::Handle { bytes, .. } => bytes.len(),
            Mark::Numbers { .. } => 0,
        }
    }
    fn frame(records: &[Self]) -> FrameRef<'_> {
        FrameRef::Identities(records)
    }
}

impl Record for Lock {
    fn weight(&self) -> usize {
        0
    }
    fn frame(records: &[Self]) -> FrameRef<'_> {
        FrameRef::Locks(records)
    }
}

impl Record for Request {
    fn weight(&self) -> usize {
        0
    }
    fn frame(records: &[Self]) -> FrameRef<'_> {
        FrameRef::Requests(records)
    }
}

impl Record for Ghost {
    fn weight(&self) -> usize {
        let xattrs = self.xattrs.iter();
        let xattrs: usize = xattrs.map(|x| x.name.len() + x.value.len() + 16).sum();
        self.target.len() + xattrs
    }
    fn frame(records: &[Self]) -> FrameRef<'_> {
        FrameRef::Ghosts(records)
    }
}

impl Record for GhostData {
    fn weight(&self) -> usize {
        self.bytes.len()
    }
    fn frame(records: &[Self]) -> FrameRef<'_> {
        FrameRef::GhostData(records)
    }
}

/// Cuts records into frames of [`RECORDS_PER_FRAME`]. The cuts depend on the records
/// alone, so that the same state always makes the same stream.
///
/// In a whole state for readers of today, inodes and identities are cut by
/// [ranges of ids](crate::pieces) before.
pub fn frames<T: Record>(records: &[T]) -> impl Iterator<Item = FrameRef<'_>> {
    frames_of(records, RECORDS_PER_FRAME)
}

/// [`frames`] of up to `most` records.
pub(crate) fn frames_of<T: Record>(
    mut records: &[T],
    most: usize,
) -> impl Iterator<Item = FrameRef<'_>> {
    std::iter::from_fn(move || {
        if records.is_empty() {
            return None;
        }
        let mut weight = 0;
        let mut n = 0;
        for record in records.iter().take(most) {
            weight += record.weight();
            n += 1;
            if weight >= WEIGHT_PER_FRAME {
                break;
            }
        }
        let (now, later) = records.split_at(n);
        records = later;
        Some(T::frame(now))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_bytes::ByteBuf;

    #[test]
    fn frames_are_cut_by_count_and_by_weight() {
        let handle = Handle {
            id: 0,
            inode: 1,
            directory: false,
            guest_flags: 0,
            host_flags: 0,
        };
        let handles = vec![handle; RECORDS_PER_FRAME * 2 + 1];
        let sizes: Vec<_> = frames(&handles).map(|f| f.records()).collect();
        assert_eq!(sizes, [RECORDS_PER_FRAME, RECORDS_PER_FRAME, 1]);
        assert_eq!(frames::<Handle>(&[]).count(), 0);

        let deep = Inode {
            id: 2,
            lookups: 1,
            kind: 0o100000,
            location: Location::Path {
                from: 1,
                components: vec![ByteBuf::from(vec![b'x'; 248]); WEIGHT_PER_FRAME / 256],
            },
        };
        let sizes: Vec<_> = frames(&vec![deep; 3]).map(|f| f.records()).collect();
        assert_eq!(sizes, [1, 1, 1]);
    }
}
