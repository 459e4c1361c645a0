//! What a stream carries, with its inodes and identities packed.

use super::{IdentityPack, IdentityRef, InodePack, InodeRef, PackedIdentities, PackedInodes};
use crate::model::{FsState, Session, State};
use crate::section::{Frame, SectionId};

/// A [`FsState`] whose inodes and identities are packed.
#[derive(Clone, Debug, Default)]
pub struct PackedFs {
    /// By ascending id.
    pub inodes: PackedInodes,
    /// By ascending inode.
    pub identities: PackedIdentities,
    /// Everything else; its inodes and identities are empty.
    pub rest: FsState,
}

/// A [`State`] whose inodes and identities are packed.
#[derive(Clone, Debug, Default)]
pub struct PackedState {
    /// `None`: no guest has mounted yet.
    pub session: Option<Session>,
    /// The file system's part.
    pub fs: PackedFs,
}

/// Of a validated state.
impl From<FsState> for PackedFs {
    fn from(mut fs: FsState) -> PackedFs {
        let inodes = std::mem::take(&mut fs.inodes);
        let identities = std::mem::take(&mut fs.identities);
        PackedFs {
            inodes: inodes.iter().map(InodeRef::from).collect(),
            identities: identities.iter().map(IdentityRef::from).collect(),
            rest: fs,
        }
    }
}

impl From<PackedFs> for FsState {
    fn from(packed: PackedFs) -> FsState {
        FsState {
            inodes: packed.inodes.into_records(),
            identities: packed.identities.into_records(),
            ..packed.rest
        }
    }
}

/// Of a validated state.
impl From<State> for PackedState {
    fn from(state: State) -> PackedState {
        PackedState {
            session: state.session,
            fs: state.fs.into(),
        }
    }
}

impl From<PackedState> for State {
    fn from(packed: PackedState) -> State {
        State {
            session: packed.session,
            fs: packed.fs.into(),
        }
    }
}

/// What one frame carries, decoded, and packed where that is worth it.
#[derive(Clone, Debug)]
pub enum PackedFrame {
    /// Section [`SectionId::INODES`].
    Inodes(InodePack),
    /// Section [`SectionId::IDENTITIES`].
    Identities(IdentityPack),
    /// Any other section.
    Other(Frame),
}

impl PackedFrame {
    /// The section that this belongs to.
    pub fn section(&self) -> SectionId {
        match self {
            PackedFrame::Inodes(_) => SectionId::INODES,
            PackedFrame::Identities(_) => SectionId::IDENTITIES,
            PackedFrame::Other(frame) => frame.as_ref().section(),
        }
    }

    /// Number of records.
    pub fn records(&self) -> usize {
        match self {
            PackedFrame::Inodes(pack) => pack.len(),
            PackedFrame::Identities(pack) => pack.len(),
            PackedFrame::Other(frame) => frame.as_ref().records(),
        }
    }
}

/// Packs what can be packed: frames of no more records, and bytes, than any frame of a
/// stream can have.
impl From<Frame> for PackedFrame {
    fn from(frame: Frame) -> PackedFrame {
        match &frame {
            Frame::Inodes(records) => {
                let mut pack = InodePack::default();
                if records.iter().all(|record| pack.push(record.into())) {
                    return PackedFrame::Inodes(pack);
                }
            }
            Frame::Identities(records) => {
                let mut pack = IdentityPack::default();
                if records.iter().all(|record| pack.push(record.into())) {
                    return PackedFrame::Identities(pack);
                }
            }
            _ => {}
        }
        PackedFrame::Other(frame)
    }
}

impl From<PackedFrame> for Frame {
    fn from(packed: PackedFrame) -> Frame {
        match packed {
            PackedFrame::Inodes(pack) => {
                Frame::Inodes(pack.iter().map(|record| record.to_record()).collect())
            }
            PackedFrame::Identities(pack) => {
                Frame::Identities(pack.iter().map(|record| record.to_record()).collect())
            }
            PackedFrame::Other(frame) => frame,
        }
    }
}
