//! The sections of a stream and the frames that carry them.

use std::fmt;

use crate::model::{Counters, Handle, Inode, Location, Mount, Session};

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
    /// The end of the stream; its payload is fixed bytes, not the format's.
    pub const END: SectionId = SectionId(0xffff);

    /// The section's name, where this build knows it.
    pub fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::SESSION => "session",
            Self::COUNTERS => "counters",
            Self::MOUNTS => "mounts",
            Self::INODES => "inodes",
            Self::HANDLES => "handles",
            Self::END => "end",
            _ => return None,
        })
    }
}

impl fmt::Display for SectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{} (unknown)", self.0),
        }
    }
}

/// Most records that a writer puts into one frame: what one worker can encode or
/// decode in a millisecond or so, and one buffer can hold.
pub const RECORDS_PER_FRAME: usize = 4096;

/// Names in bytes after which a writer closes a frame early, so that records with
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
        }
    }

    /// Number of records.
    pub fn records(&self) -> usize {
        match self {
            FrameRef::Session(_) | FrameRef::Counters(_) => 1,
            FrameRef::Mounts(m) => m.len(),
            FrameRef::Inodes(i) => i.len(),
            FrameRef::Handles(h) => h.len(),
        }
    }
}

/// Records that can be cut into frames.
pub trait Record: Sized {
    /// Bytes of names in this record: what makes one record larger than another.
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

/// Cuts records into the frames that a whole state is written in. The cuts depend
/// on the records alone, so that the same state always makes the same stream.
pub fn frames<T: Record>(mut records: &[T]) -> impl Iterator<Item = FrameRef<'_>> {
    std::iter::from_fn(move || {
        if records.is_empty() {
            return None;
        }
        let mut weight = 0;
        let mut n = 0;
        for record in records.iter().take(RECORDS_PER_FRAME) {
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
