//! What records cost in memory, for the limit on a whole state.

use serde_bytes::ByteBuf;

use crate::model::{Ghost, Location, Mark, Mount, Xattr};
use crate::section::FrameRef;

/// What an allocator adds to a piece, and the least that it gives, in bytes: those
/// of glibc.
const OVERHEAD: usize = 8;
const LEAST: usize = 32;

fn heap(bytes: &ByteBuf) -> usize {
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

/// Bytes that the records of a frame take up, to within the allocator's habits.
pub(crate) fn of_frame(frame: FrameRef<'_>) -> u64 {
    let bytes = match frame {
        FrameRef::Session(session) => size_of_val(session),
        FrameRef::Counters(counters) => size_of_val(counters),
        FrameRef::Mounts(mounts) => {
            let paths: usize = mounts.iter().map(|m: &Mount| path(&m.path)).sum();
            size_of_val(mounts) + paths
        }
        FrameRef::Inodes(inodes) => {
            let names: usize = inodes
                .iter()
                .map(|inode| match &inode.location {
                    Location::Child { name, .. } => heap(name),
                    Location::Path { components, .. } => path(components),
                    Location::Handle(handle) => heap(&handle.bytes),
                    Location::Root | Location::Lost { .. } => 0,
                })
                .sum();
            size_of_val(inodes) + names
        }
        FrameRef::Handles(handles) => size_of_val(handles),
        FrameRef::FileSystems(all) => {
            size_of_val(all) + all.iter().map(|fs| heap(&fs.boot)).sum::<usize>()
        }
        FrameRef::Identities(identities) => {
            let marks: usize = identities
                .iter()
                .map(|identity| match &identity.mark {
                    Mark::Handle { bytes, .. } => heap(bytes),
                    Mark::Numbers { .. } => 0,
                })
                .sum();
            size_of_val(identities) + marks
        }
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
