//! Looking for one inode: on behalf of a request, or of the background pass.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::sync::{PoisonError, RwLockReadGuard};

use ferryfs_state::packed::{InodeRef, MarkRef, Place};

use super::super::super::handle_bytes::FileHandle;
use super::super::super::inode::{InodeArc, NewInode};
use super::super::super::lookup::{links_of, Object};
use super::super::super::sys;
use super::super::identity::Unfit;
use super::super::restore::{fits_kind, is_beneath, kind_name, lost, open_child};
use super::super::verify::leads_to;
use super::store::Key;
use super::{At, Locator};
use crate::errno::{Errno, FsResult};
use crate::types::NodeId;

/// Inodes that are not found are named in the log up to this many.
const NAMED: u64 = 20;

/// A record that nobody else is at, and that may go into the tables.
struct Claim<'a> {
    locator: &'a Locator,
    at: At,
    done: bool,
    _gate: RwLockReadGuard<'a, bool>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.locator.store.release(self.at, self.done);
    }
}

/// What says nothing of the object: there are too few descriptors or too little memory
/// at the moment, or the directory's server does not answer.
fn will_pass(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EINTR | Errno::EAGAIN | Errno::EIO
    )
}

impl Locator {
    /// The guest's inode `node`.
    pub(super) fn inode(&self, node: NodeId) -> FsResult<InodeArc> {
        let at = self.store.position(node.0).ok_or(Errno::EBADF)?;
        if !self.store.is_done(at) {
            if self.store.lookups(at) == 0 {
                return Err(Errno::EBADF);
            }
            self.locate_at(at)?;
        }
        self.inodes.get(node).ok_or(Errno::EBADF)
    }

    /// Locates a record, and the directories above it first.
    ///
    /// # Errors
    /// What will pass. An object that is not there is located as lost.
    pub(super) fn locate_at(&self, at: At) -> FsResult<()> {
        // A list, not a recursion: paths can be deeper than a stack.
        let mut chain = vec![at];
        while let Some(&top) = chain.last() {
            if self.store.is_done(top) {
                break;
            }
            let above = self.store.get(top).place.above();
            match above.and_then(|above| self.store.position(above)) {
                Some(above) if !self.store.is_done(above) => chain.push(above),
                _ => break,
            }
        }
        while let Some(at) = chain.pop() {
            self.locate_one(at)?;
        }
        Ok(())
    }

    /// Locates a record whose directory is in the tables.
    fn locate_one(&self, at: At) -> FsResult<()> {
        let record = self.store.get(at);
        match record.place {
            Place::Child { parent, name } => {
                let parent = self
                    .inodes
                    .get_or_pinned(NodeId(parent))
                    .ok_or(Errno::ESTALE);
                let dir = parent.as_ref().map_err(|e| *e).and_then(|p| p.fd());
                if let Some(e) = dir.as_ref().err().filter(|e| will_pass(**e)) {
                    return Err(*e);
                }
                let _still = parent
                    .as_ref()
                    .ok()
                    .map(|parent| self.names.hold(parent.id(), name));
                let Some(claim) = self.claim(at) else {
                    return Ok(());
                };
                let found = dir
                    .map_err(Unfit::Errno)
                    .and_then(|dir| Ok(open_child(dir.as_fd(), name)?))
                    .and_then(|fd| self.examine(at, Object::Path(fd)));
                if let Some((inode, links)) = self.enter(claim, &record, found)? {
                    if let Ok(parent) = &parent {
                        self.names.insert(&self.inodes, parent, name, &inode, links);
                    }
                }
            }
            Place::Handle { mount, kind, bytes } => {
                let Some(claim) = self.claim(at) else {
                    return Ok(());
                };
                let found = self
                    .open_handle(mount, kind, bytes)
                    .and_then(|fd| self.examine(at, Object::Path(fd)));
                let found = match found {
                    Ok((new, links)) => self.confine(&new).map(|()| (new, links)),
                    other => other,
                };
                self.enter(claim, &record, found)?;
            }
            // Looked for before.
            Place::Root | Place::Path { .. } | Place::Lost { .. } => {}
        }
        Ok(())
    }

    /// `None`: it is in the tables, or forgotten, or there is nobody for whom.
    fn claim(&self, at: At) -> Option<Claim<'_>> {
        let gate = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        if *gate || !self.store.claim(at) {
            return None;
        }
        Some(Claim {
            locator: self,
            at,
            done: false,
            _gate: gate,
        })
    }

    fn open_handle(
        &self,
        mount: u32,
        kind: i32,
        bytes: &[u8],
    ) -> Result<std::os::fd::OwnedFd, Unfit> {
        let mount = match self.mounts.get(&mount) {
            Some(Ok(mount)) => mount,
            Some(Err(e)) => return Err(Unfit::Errno(*e)),
            None => return Err(Unfit::Errno(Errno::ENXIO)),
        };
        let handle = FileHandle::new(kind, bytes).ok_or(Errno::EINVAL)?;
        Ok(handle.open(mount.fd(), libc::O_PATH)?)
    }

    /// A found object as an inode, with its link count; it must be what it was.
    fn examine(&self, at: At, object: Object<'_>) -> Result<(NewInode, u32), Unfit> {
        let mark = self.store.mark(at);
        let stx = match mark {
            Some((_, MarkRef::Numbers { born: Some(_), .. })) => sys::statx_born(object.fd())?,
            _ => sys::statx(object.fd())?,
        };
        let new = self.holding.describe_as(object, &stx)?;
        fits_kind(self.store.get(at).kind, new.kind)?;
        // A handle on the stream's mount has led here itself.
        if let Some((Some(file_system), mark)) = mark {
            self.here.check(file_system, mark, &new, &stx)?;
        }
        Ok((new, links_of(&stx)))
    }

    /// A directory that was found by handle must lie in the share.
    fn confine(&self, new: &NewInode) -> Result<(), Unfit> {
        if new.kind != libc::S_IFDIR {
            return Ok(());
        }
        let mut beneath = self.beneath.lock().unwrap_or_else(PoisonError::into_inner);
        let fd = new.open_path()?;
        match is_beneath(&mut beneath, fd.as_fd())? {
            true => Ok(()),
            false => Err(Unfit::Outside),
        }
    }

    /// Puts a found object, or its error, into the tables.
    fn enter(
        &self,
        mut claim: Claim<'_>,
        record: &InodeRef<'_>,
        found: Result<(NewInode, u32), Unfit>,
    ) -> FsResult<Option<(InodeArc, u32)>> {
        let (new, links) = match found {
            Ok(found) => found,
            Err(Unfit::Errno(e)) if will_pass(e) => return Err(e),
            Err(unfit) => {
                self.complain(record, unfit);
                (lost(record.kind, unfit.errno()), 0)
            }
        };
        claim.done = true;
        let lookups = self.store.lookups(claim.at);
        let directory = new.kind == libc::S_IFDIR || record.kind == libc::S_IFDIR;
        if lookups == 0 && !directory {
            return Ok(None);
        }
        // One more, lest it be gone before it is kept.
        let id = NodeId(record.id);
        let inode = self.inodes.insert(id, lookups + 1, new);
        if directory {
            self.keep(&inode);
        }
        self.names.release(&self.inodes, inode.clone(), 1);
        Ok((links > 0).then_some((inode, links)))
    }

    /// Keeps a directory for what lies in it, whatever the guest forgets.
    pub(super) fn keep(&self, directory: &InodeArc) {
        if self.names.pin(directory) {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.push(directory.id());
        }
    }

    /// Lets go of all directories that were kept.
    pub(super) fn let_go(&self) {
        let kept = std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner));
        for directory in kept {
            self.names.unpin(&self.inodes, directory);
        }
    }

    fn complain(&self, record: &InodeRef<'_>, unfit: Unfit) {
        let before = self.faulted.fetch_add(1, Ordering::Relaxed);
        if before >= NAMED {
            return;
        }
        let (id, kind) = (record.id, kind_name(record.kind));
        let place = match record.place {
            Place::Child { parent, name } => {
                let above = self.names.path(&self.inodes, NodeId(parent));
                let mut path = above.unwrap_or_default();
                path.push(name.into());
                format!("\"{}\"", path.join(&b'/').escape_ascii())
            }
            _ => "by its file handle".to_owned(),
        };
        let errno = unfit.errno();
        let why = match unfit {
            Unfit::Errno(e) => format!("failed to find {place}: {e}"),
            Unfit::Replaced => {
                format!("{place} is another object than the one that the guest knows by that name")
            }
            Unfit::Outside => "its file handle leads out of the shared directory".to_owned(),
        };
        log::error!(
            "inode {id} ({kind}): {why}; the guest gets \"{errno}\" for it. It was looked for \
             after the state had been taken over: --restore eager refuses such a state"
        );
    }

    /// Sees to it that the inode which the object `fd` is, if it is one of these, is in
    /// the tables; answers it, with its link count, where that was done here.
    pub(super) fn find_object(&self, fd: BorrowedFd<'_>) -> Option<(InodeArc, u32)> {
        let stx = sys::statx(fd).ok()?;
        let mut candidates = self.store.candidates(Key::Ino(stx.stx_ino));
        if let Ok((handle, _)) = FileHandle::of_fd(fd) {
            let (kind, bytes) = (handle.kind(), handle.bytes());
            candidates.extend(self.store.candidates(Key::Handle { kind, bytes }));
        }
        for at in candidates {
            // No stripe is taken here: the caller has one.
            let Some(claim) = self.claim(at) else {
                continue;
            };
            let record = self.store.get(at);
            if let Place::Handle { mount, .. } = record.place {
                let here = self
                    .mounts
                    .get(&mount)
                    .and_then(|mount| mount.as_ref().ok());
                if here.is_none_or(|mount| mount.id() != sys::mnt_id_of(&stx)) {
                    continue;
                }
            }
            // Not this one: it is looked for where it should be when its turn comes.
            let Ok(found) = self.examine(at, Object::Open(fd)) else {
                continue;
            };
            let Ok(Some((inode, links))) = self.enter(claim, &record, Ok(found)) else {
                continue;
            };
            if matches!(record.place, Place::Child { .. }) && links > 1 {
                let mut more = self
                    .more_names
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                more.push(at);
            }
            return Some((inode, links));
        }
        None
    }

    /// Remembers the names under which the state had files that were found by others.
    /// The caller holds no name.
    pub(super) fn add_names(&self) {
        let more = std::mem::take(
            &mut *self
                .more_names
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for at in more {
            let record = self.store.get(at);
            let Place::Child { parent, name } = record.place else {
                continue;
            };
            if let Some(above) = self.store.position(parent) {
                let _ = self.locate_at(above);
            }
            let (Some(parent), Some(inode)) = (
                self.inodes.get_or_pinned(NodeId(parent)),
                self.inodes.get(NodeId(record.id)),
            ) else {
                continue;
            };
            let Ok(dir) = parent.fd() else { continue };
            let _still = self.names.hold(parent.id(), name);
            if leads_to(dir.as_fd(), name, &inode).unwrap_or(false) {
                // 2: what it was found by is right as well.
                self.names.insert(&self.inodes, &parent, name, &inode, 2);
            }
        }
    }

    /// FORGET; false when the inode is not (or no longer) here.
    pub(super) fn forget(&self, node: NodeId, count: u64) -> bool {
        let Some(at) = self.store.position(node.0) else {
            return false;
        };
        let Some(mut claim) = self.claim(at) else {
            return false;
        };
        if self.store.give_back(at, count) == 0 {
            // What lies in a directory is still to be found by it.
            claim.done = self.store.get(at).kind != libc::S_IFDIR;
        }
        true
    }
}
