//! Does the remembered name of an inode still lead to it? One system call each.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::inode::{Inode, InodeArc, Inodes, Place};
use super::super::names::Names;
use super::super::sys;
use crate::errno::FsResult;
use crate::types::NodeId;

/// Whether `name` in `dir` is `inode`.
///
/// # Errors
/// The system call's; `ENOENT` is not one.
pub(super) fn leads_to(dir: BorrowedFd<'_>, name: &[u8], inode: &Inode) -> FsResult<bool> {
    match CString::new(name) {
        Ok(name) => look(dir, &name, inode).map(|seen| seen.is_it),
        Err(_) => Ok(false),
    }
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

fn look(dir: BorrowedFd<'_>, name: &CStr, inode: &Inode) -> FsResult<Seen> {
    #[cfg(test)]
    LOOKS.set(LOOKS.get() + 1);
    let found = match inode.place() {
        // A handle tells an inode number that was used again from the old one.
        Place::Handle { mount, handle } => handle
            .is_name(mount.id(), dir, name)
            .map(|is_it| Seen { is_it, born: None }),
        // The descriptor keeps its number from being used again.
        Place::Fd(_) => sys::statx_born_at(dir, name).map(|stx| {
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
    nodes: &[InodeArc],
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
    // By directory, so that each is opened once. They are nearly in that order.
    named.sort();
    let mut eye = Eye::default();
    for group in named.chunk_by(|(a, _), (b, _)| a == b) {
        let above = group[0].0;
        let parent = inodes.get_or_pinned(above);
        let dir = parent.as_ref().and_then(|parent| parent.fd().ok());
        for &(_, at) in group {
            if stop.load(Ordering::Relaxed) {
                return suspects;
            }
            let inode = &nodes[at];
            let dir = dir.as_ref().map(|dir| dir.as_fd());
            if eye.is_where_it_was(names, (above, dir), inode) == Some(false) {
                // Also where the guest has forgotten it: what lies in it is found by it.
                suspects.insert(inode.id());
            }
        }
    }
    suspects
}

/// Looks at one name after the other.
#[derive(Default)]
struct Eye {
    /// The name, with its NUL.
    name: Vec<u8>,
}

impl Eye {
    /// Whether `inode` is under the name that is known of it, in directory `above`. `None`
    /// where the guest has renamed or removed it since: that has been noted.
    fn is_where_it_was(
        &mut self,
        names: &Names,
        (above, dir): (NodeId, Option<BorrowedFd<'_>>),
        inode: &Inode,
    ) -> Option<bool> {
        if !self.read(names, above, inode) {
            return None;
        }
        // Where it leads there it does, whatever a request is about to change.
        if self.see(dir, inode) {
            return Some(true);
        }
        // Where it does not, a request may be just renaming it. One that has been held still
        // from the reading of the name to the look tells.
        let name = self.name.strip_suffix(&[0])?.to_vec();
        let _still = names.hold(above, &name);
        let same = self.read(names, above, inode) && self.name.strip_suffix(&[0])? == name;
        same.then(|| self.see(dir, inode))
    }

    /// Takes the name that is known of `inode`. False where that is in another directory.
    fn read(&mut self, names: &Names, above: NodeId, inode: &Inode) -> bool {
        let parent = names.read_primary(inode, &mut self.name);
        self.name.push(0);
        parent == Some(above)
    }

    /// Whether the name leads to `inode`.
    fn see(&self, dir: Option<BorrowedFd<'_>>, inode: &Inode) -> bool {
        let (Some(dir), Ok(name)) = (dir, CStr::from_bytes_with_nul(&self.name)) else {
            return false;
        };
        let seen = look(dir, name, inode).unwrap_or_default();
        if let (true, Place::Fd(fd)) = (seen.is_it, inode.place()) {
            // What the look told anyway.
            fd.set_born(seen.born);
        }
        seen.is_it
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::OwnedFd;

    use super::super::super::inode::{NewInode, Numbers};
    use super::*;

    /// What is in the share's root, by descriptor.
    fn found(dir: &std::path::Path, name: &str) -> NewInode {
        let fd = OwnedFd::from(File::open(dir.join(name)).unwrap());
        let stx = sys::statx(fd.as_fd()).unwrap();
        NewInode {
            kind: u32::from(stx.stx_mode) & libc::S_IFMT,
            numbers: Numbers {
                mnt_id: sys::mnt_id_of(&stx),
                dev: sys::dev_of(&stx),
                ino: stx.stx_ino,
            },
            place: Place::Fd(fd.into()),
        }
    }

    #[test]
    fn a_name_leads_there_does_not_or_is_another_by_now() {
        let share = tempfile::tempdir().unwrap();
        let here = share.path();
        std::fs::create_dir(here.join("d")).unwrap();
        std::fs::write(here.join("f"), b"").unwrap();
        let inodes = Inodes::new(found(here, "."));
        let names = Names::new();
        let root = inodes.get(NodeId::ROOT).unwrap();
        let (directory, _) = inodes.publish(found(here, "d"));
        let (file, _) = inodes.publish(found(here, "f"));
        names.insert(&inodes, &root, b"f", &file, 1);
        let dir = root.fd().unwrap();
        let mut eye = Eye::default();
        let mut looks = |above: NodeId| {
            let before = LOOKS.get();
            let seen = eye.is_where_it_was(&names, (above, Some(dir.as_fd())), &file);
            (seen, LOOKS.get() - before)
        };
        assert_eq!(looks(NodeId::ROOT), (Some(true), 1));
        assert_eq!(looks(directory.id()), (None, 0), "it lies elsewhere");
        // Somebody else renames it: looked at again with its name held still.
        std::fs::rename(here.join("f"), here.join("g")).unwrap();
        assert_eq!(looks(NodeId::ROOT), (Some(false), 2));
        // The guest does.
        names.rename(&inodes, (NodeId::ROOT, b"f"), &root, b"g");
        assert_eq!(looks(NodeId::ROOT), (Some(true), 1));
        names.remove(&inodes, NodeId::ROOT, b"g");
        assert_eq!(looks(NodeId::ROOT), (None, 0), "it has no name");
        // Nothing can be told of a directory that cannot be opened.
        names.insert(&inodes, &root, b"g", &file, 1);
        let blind = eye.is_where_it_was(&names, (NodeId::ROOT, None), &file);
        assert_eq!(blind, Some(false));
    }
}
