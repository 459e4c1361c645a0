//! Does the remembered name of an inode still lead to it? One system call each.

use std::collections::HashSet;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use super::super::handle_bytes::FileHandle;
use super::super::inode::{Inode, Inodes, Place};
use super::super::names::Names;
use super::super::sys;
use crate::errno::FsResult;
use crate::types::NodeId;

/// Whether `name` in `dir` is `inode`.
///
/// # Errors
/// The system call's; `ENOENT` is not one.
pub(super) fn leads_to(dir: BorrowedFd<'_>, name: &[u8], inode: &Inode) -> FsResult<bool> {
    look(dir, name, inode).map(|seen| seen.is_it)
}

/// What one look at a name tells.
#[derive(Default)]
struct Seen {
    /// Whether it leads to the inode.
    is_it: bool,
    /// When the object came to be, where that was asked.
    born: Option<i64>,
}

#[cfg(test)]
thread_local! {
    /// Looks that this thread has taken, each a system call.
    pub(super) static LOOKS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

fn look(dir: BorrowedFd<'_>, name: &[u8], inode: &Inode) -> FsResult<Seen> {
    #[cfg(test)]
    LOOKS.set(LOOKS.get() + 1);
    let Ok(name) = CString::new(name) else {
        return Ok(Seen::default());
    };
    let found = match inode.place() {
        // A handle tells an inode number that was used again from the old one.
        Place::Handle { mount, handle } => {
            FileHandle::of_name(dir, &name).map(|(found, mnt_id)| Seen {
                is_it: mnt_id == mount.id() && found == *handle,
                born: None,
            })
        }
        // The descriptor keeps its number from being used again.
        Place::Fd(_) => sys::statx_born_at(dir, &name).map(|stx| {
            let numbers = inode.numbers();
            Seen {
                is_it: sys::mnt_id_of(&stx) == numbers.mnt_id
                    && sys::dev_of(&stx) == numbers.dev
                    && stx.stx_ino == numbers.ino,
                born: sys::born_of(&stx),
            }
        }),
        Place::Lost(_) => return Ok(Seen::default()),
    };
    match found {
        Err(e) if e.raw() == libc::ENOENT => Ok(Seen::default()),
        other => other,
    }
}

/// Inodes whose name is unknown, no longer leads to them, or cannot be checked.
pub(super) type Suspects = HashSet<NodeId>;

/// Inodes between two looks at whether to stop, where each costs next to nothing.
const OFTEN: usize = 1024;

/// Checks `nodes`. Ends early, with what there is, once `stop` is set.
///
/// May run beside requests: a name that a request is changing at this moment is
/// held still for one system call, no longer.
pub(super) fn verify(
    inodes: &Inodes,
    names: &Names,
    nodes: &[Arc<Inode>],
    stop: &AtomicBool,
) -> Suspects {
    let mut suspects = Suspects::new();
    // Directory and position, all that it takes to put them in order.
    let mut named: Vec<(NodeId, usize)> = Vec::with_capacity(nodes.len());
    for (at, inode) in nodes.iter().enumerate() {
        if at % OFTEN == 0 && stop.load(Ordering::Relaxed) {
            return suspects;
        }
        if inode.id() == NodeId::ROOT || matches!(inode.place(), Place::Lost(_)) {
            continue;
        }
        match names.directory_of(inode) {
            Some(parent) => named.push((parent, at)),
            None => {
                suspects.insert(inode.id());
            }
        }
    }
    // By directory, so that each is opened once.
    named.sort_unstable();
    for group in named.chunk_by(|(a, _), (b, _)| a == b) {
        let above = group[0].0;
        let parent = inodes.get_or_pinned(above);
        let dir = parent.as_ref().and_then(|parent| parent.fd().ok());
        for &(_, at) in group {
            if stop.load(Ordering::Relaxed) {
                return suspects;
            }
            let inode = &nodes[at];
            // Renamed or removed by the guest since: that has been noted.
            let Some(link) = names.primary_of(inode).filter(|link| link.parent == above) else {
                continue;
            };
            let _still = names.hold(link.parent, &link.name);
            if !names.is_primary(inode, &link) {
                continue;
            }
            let seen = dir
                .as_ref()
                .and_then(|dir| look(dir.as_fd(), &link.name, inode).ok())
                .unwrap_or_default();
            if seen.is_it {
                // What the look told anyway.
                if let Place::Fd(fd) = inode.place() {
                    fd.set_born(seen.born);
                }
            } else {
                // Also where the guest has forgotten it: what lies in it is found by it.
                suspects.insert(inode.id());
            }
        }
    }
    suspects
}
