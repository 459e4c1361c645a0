//! What records cost in memory, for the limit on a whole state.

use serde_bytes::ByteBuf;

use crate::model::{Ghost, Identity, Inode, Mount, Xattr};
use crate::packed::{IdentityRef, InodeRef, MarkRef, Place};
use crate::section::FrameRef;

/// What an allocator adds to a piece, and the least that it gives, in bytes: those
/// of glibc.
const OVERHEAD: usize = 8;
const LEAST: usize = 32;

fn heap(bytes: &[u8]) -> usize {
    match bytes.len() {
        0 => 0,
        n => (n + OVERHEAD).max(LEAST),
    }
}

fn path(components: &[ByteBuf]) -> usize {
    components
        .iter()
        .map(|c| size_of::<ByteBuf>() + heap(c))
        .sum()
}

fn ghost(ghost: &Ghost) -> usize {
    let xattrs = ghost.xattrs.iter();
    let xattrs: usize = xattrs
        .map(|x| size_of::<Xattr>() + heap(&x.name) + heap(&x.value))
        .sum();
    heap(&ghost.target) + xattrs
}

/// Bytes that the record of an inode takes up.
pub(crate) fn of_inode(inode: &InodeRef<'_>) -> usize {
    let more = match inode.place {
        Place::Child { name, .. } => heap(name),
        Place::Path { components, .. } => path(components),
        Place::Handle { bytes, .. } => heap(bytes),
        Place::Root | Place::Lost { .. } => 0,
    };
    size_of::<Inode>() + more
}

/// Bytes that the record of an identity takes up.
pub(crate) fn of_identity(identity: &IdentityRef<'_>) -> usize {
    let more = match identity.mark {
        MarkRef::Handle { bytes, .. } => heap(bytes),
        MarkRef::Numbers { .. } => 0,
    };
    size_of::<Identity>() + more
}

/// Bytes that the records of a frame take up, to within the allocator's habits.
pub(crate) fn of_frame(frame: FrameRef<'_>) -> u64 {
    let bytes = match frame {
        FrameRef::Session(session) => size_of_val(session),
        FrameRef::Counters(counters) => size_of_val(counters),
        FrameRef::Mounts(mounts) => {
            let paths: usize = mounts.iter().map(|m: &Mount| path(&m.path)).sum();
            size_of_val(mounts) + paths
        }
        FrameRef::Inodes(inodes) => inodes.iter().map(|i| of_inode(&i.into())).sum(),
        FrameRef::Handles(handles) => size_of_val(handles),
        FrameRef::FileSystems(all) => {
            size_of_val(all) + all.iter().map(|fs| heap(&fs.boot)).sum::<usize>()
        }
        FrameRef::Identities(all) => all.iter().map(|i| of_identity(&i.into())).sum(),
        FrameRef::Locks(locks) => size_of_val(locks),
        FrameRef::Requests(requests) => size_of_val(requests),
        FrameRef::Ghosts(ghosts) => {
            let more: usize = ghosts.iter().map(ghost).sum();
            size_of_val(ghosts) + more
        }
        FrameRef::GhostData(data) => {
            size_of_val(data) + data.iter().map(|piece| heap(&piece.bytes)).sum::<usize>()
        }
    };
    bytes as u64
}
