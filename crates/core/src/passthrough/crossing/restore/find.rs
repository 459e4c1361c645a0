//! Inodes of a state, found: looked for on all processors, and entered in the order in
//! which one alone would have come to them.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use ferryfs_state::packed::{IdentityRef, MarkRef};
use ferryfs_state::{FileHandle as Handle, Ghost, Inode as InodeRecord, Location};
use serde_bytes::ByteBuf;

use super::super::super::handle_bytes::{FileHandle, MountRef};
use super::super::super::inode::{Inode, InodeArc, NewInode, Place};
use super::super::super::lookup::{links_of, Holding, Object};
use super::super::super::sys;
use super::super::identity::{Comparer, Unfit};
use super::words::{kind_name, What};
use super::{fits_kind, is_beneath, is_ghost, lost, open_child, Planner};
use crate::errno::{Errno, FsResult};
use crate::parallel::in_parallel;
use crate::types::NodeId;

/// Inodes of one directory that one thread looks for at a time.
const PIECE: usize = 128;

/// Inodes that are looked for before any of them is entered: what is held of each until
/// then is no more than this many.
const BATCH: usize = if cfg!(test) { 300 } else { 8192 };

/// Inodes that are not worth a thread.
const FEW: usize = 64;

/// Records that say a name, by the directory that it starts in.
type Children<'r> = [(u64, &'r InodeRecord)];

/// Some inodes that are found from one directory.
struct Piece<'c, 'r> {
    parent: InodeArc,
    records: &'c Children<'r>,
}

/// An object that has been found, and is what it was.
pub(super) struct Found {
    pub(super) new: NewInode,
    links: u32,
    /// Where it has no name: once the source has ended, nobody but this daemon keeps it.
    unlinked: Option<OwnedFd>,
}

/// What looking for one object gives.
type Outcome = Result<Found, Unfit>;

/// What it takes to look for objects, on whatever thread.
struct Finder<'a> {
    holding: &'a Holding,
    comparer: &'a Comparer,
    mounts: &'a Mounts,
}

/// The stream's mounts.
type Mounts = HashMap<u32, Result<Arc<MountRef>, Errno>>;

impl Finder<'_> {
    /// Looks for all of a piece; those that are found by more than one component are left
    /// to who enters them.
    fn look(&self, piece: &Piece<'_, '_>) -> FsResult<Vec<Option<Outcome>>> {
        let fd = piece.parent.fd()?;
        let look = |(_, record): &(u64, &InodeRecord)| match &record.location {
            Location::Child { name, .. } => Some(self.child(fd.as_fd(), name, record)),
            _ => None,
        };
        Ok(piece.records.iter().map(look).collect())
    }

    fn child(&self, dir: BorrowedFd<'_>, name: &[u8], record: &InodeRecord) -> Outcome {
        let own = self.comparer.identity(record.id);
        // A directory is asked for what lies in it next: it takes a descriptor anyway.
        if record.kind != libc::S_IFDIR {
            if let Some(found) = self.by_name(dir, name, record, own) {
                return found;
            }
        }
        self.examine(open_child(dir, name), record, own)
    }

    fn handle(&self, handle: &Handle, record: &InodeRecord) -> Outcome {
        let mount = match self.mounts.get(&handle.mount) {
            Some(Ok(mount)) => mount,
            Some(Err(e)) => return Err(Unfit::Errno(*e)),
            None => return Err(Unfit::Errno(Errno::ENXIO)),
        };
        let handle = FileHandle::new(handle.kind, &handle.bytes).ok_or(Errno::EINVAL)?;
        let found = handle.open(mount.fd(), libc::O_PATH);
        self.examine(found, record, self.comparer.identity(record.id))
    }

    /// Without a descriptor of it. `None` where it takes one, if only to say what is wrong.
    fn by_name(
        &self,
        dir: BorrowedFd<'_>,
        name: &[u8],
        record: &InodeRecord,
        own: Option<IdentityRef<'_>>,
    ) -> Option<Outcome> {
        let name = CString::new(name).ok()?;
        let described = self.holding.describe_name(dir, &name, asks_birth(own));
        let (new, stx) = described.ok()??;
        let judge = || {
            fits_kind(record.kind, new.kind)?;
            self.comparer.check(own, &new, &stx)
        };
        let judged = judge();
        (stx.stx_nlink > 0).then(|| {
            judged.map(|()| Found {
                new,
                links: links_of(&stx),
                unlinked: None,
            })
        })
    }

    /// A found object as an inode, with its link count; it must be what it was.
    fn examine(
        &self,
        found: FsResult<OwnedFd>,
        record: &InodeRecord,
        own: Option<IdentityRef<'_>>,
    ) -> Outcome {
        let found = found?;
        let stx = match asks_birth(own) {
            true => sys::statx_born(found.as_fd())?,
            false => sys::statx(found.as_fd())?,
        };
        let unlinked = match stx.stx_nlink {
            0 => Some(found.try_clone().map_err(Errno::from)?),
            _ => None,
        };
        let new = self.holding.describe_as(Object::Path(found), &stx)?;
        fits_kind(record.kind, new.kind)?;
        self.comparer.check(own, &new, &stx)?;
        Ok(Found {
            new,
            links: links_of(&stx),
            unlinked,
        })
    }
}

/// Whether it takes the time of its birth to tell what has this identity.
fn asks_birth(own: Option<IdentityRef<'_>>) -> bool {
    own.is_some_and(|own| matches!(own.mark, MarkRef::Numbers { born: Some(_), .. }))
}

impl Planner<'_> {
    fn finder(&self) -> Finder<'_> {
        Finder {
            holding: &self.fs.holding,
            comparer: &self.comparer,
            mounts: &self.mounts,
        }
    }

    /// From the root down, so that each directory is there before what lies in it.
    pub(super) fn find_inodes(
        &mut self,
        records: &[InodeRecord],
        open: &HashSet<u64>,
        ghosts: &[Ghost],
    ) {
        let mut gone_directories = Vec::new();
        let mut by_handle: Vec<(&Handle, &InodeRecord)> = Vec::new();
        let mut children: Vec<(u64, &InodeRecord)> = Vec::with_capacity(records.len());
        let mut ready = vec![NodeId::ROOT];
        for record in records {
            match &record.location {
                Location::Child { parent, .. } => children.push((*parent, record)),
                Location::Path { from, .. } => children.push((*from, record)),
                Location::Root => {}
                Location::Handle(handle) => {
                    by_handle.push((handle, record));
                    ready.push(NodeId(record.id));
                }
                // Made again when all others are there; nothing can lie in it.
                Location::Lost { .. } if is_ghost(ghosts, record.id) => {
                    gone_directories.push(record.id);
                }
                Location::Lost { errno } => {
                    // The source has decided, and said so, that this may be.
                    self.insert(record, lost(record.kind, Errno::from_raw(*errno)));
                    ready.push(NodeId(record.id));
                }
            }
        }
        self.find_by_handle(&by_handle, open);
        children.sort_unstable_by_key(|(parent, record)| (*parent, record.id));
        while let Some(directory) = gone_directories.pop() {
            for (_, record) in children_of(&children, directory) {
                self.insert(record, lost(record.kind, Errno::ESTALE));
                gone_directories.push(record.id);
            }
        }
        while !ready.is_empty() {
            ready = self.find_children(&ready, &children);
        }
    }

    /// Finds what is said by handle.
    fn find_by_handle(&mut self, records: &[(&Handle, &InodeRecord)], open: &HashSet<u64>) {
        let mut gone = Vec::new();
        let mut count = 0u64;
        for batch in records.chunks(BATCH) {
            let finder = self.finder();
            let look = |piece: &&[(&Handle, &InodeRecord)]| -> Vec<Outcome> {
                let piece = piece.iter();
                piece
                    .map(|(handle, record)| finder.handle(handle, record))
                    .collect()
            };
            let pieces: Vec<_> = batch.chunks(PIECE).collect();
            let found = in_parallel(&pieces, look);
            for ((_, record), found) in batch.iter().zip(found.into_iter().flatten()) {
                if matches!(found, Err(Unfit::Errno(Errno::ESTALE))) && !open.contains(&record.id) {
                    gone.push(*record);
                    self.insert(record, lost(record.kind, Errno::ESTALE));
                } else if let Some((inode, _)) = self.take(record, found, What::Handle) {
                    count += 1;
                    self.confine(&inode);
                }
            }
        }
        self.judge_gone(&gone, count);
    }

    /// Finds what lies in `directories`; answers the directories among it.
    fn find_children(&mut self, directories: &[NodeId], children: &Children<'_>) -> Vec<NodeId> {
        let mut below = Vec::new();
        let (mut batch, mut count) = (Vec::new(), 0);
        for directory in directories {
            let here = children_of(children, directory.0);
            let parent = self.inodes.get(*directory).filter(|_| !here.is_empty());
            let Some(parent) = parent else { continue };
            for records in here.chunks(PIECE) {
                let parent = parent.clone();
                batch.push(Piece { parent, records });
                count += records.len();
                if count >= BATCH {
                    self.find_batch(&batch, count, &mut below);
                    batch.clear();
                    count = 0;
                }
            }
        }
        self.find_batch(&batch, count, &mut below);
        below
    }

    /// Finds the `count` inodes of `batch`.
    fn find_batch(&mut self, batch: &[Piece<'_, '_>], count: usize, below: &mut Vec<NodeId>) {
        let finder = self.finder();
        let look = |piece: &Piece<'_, '_>| finder.look(piece);
        let found: Vec<_> = match count <= FEW {
            true => batch.iter().map(look).collect(),
            false => in_parallel(batch, look),
        };
        for (Piece { parent, records }, found) in batch.iter().zip(found) {
            match found {
                Ok(outcomes) => {
                    for ((_, record), outcome) in records.iter().zip(outcomes) {
                        self.enter_child(parent, record, outcome);
                    }
                }
                // The directory's own error has been told.
                Err(e) => {
                    for (_, record) in *records {
                        self.insert(record, lost(record.kind, e));
                    }
                }
            }
            let directories = records.iter().filter(|(_, r)| r.kind == libc::S_IFDIR);
            below.extend(directories.map(|(_, record)| NodeId(record.id)));
        }
    }

    /// Enters what was found from `parent` on, or looks for it there.
    fn enter_child(&mut self, parent: &InodeArc, record: &InodeRecord, outcome: Option<Outcome>) {
        match (&record.location, outcome) {
            (Location::Child { name, .. }, Some(found)) => {
                let what = What::Name(parent, name);
                if let Some((inode, links)) = self.take(record, found, what) {
                    self.names.insert(&self.inodes, parent, name, &inode, links);
                }
            }
            (Location::Path { components, .. }, _) => {
                self.find_by_path(parent, components, record);
            }
            _ => {}
        }
    }

    fn find_by_path(&mut self, parent: &InodeArc, components: &[ByteBuf], record: &InodeRecord) {
        let what = What::Path(parent, components);
        let Some((last, directories)) = components.split_last() else {
            return;
        };
        let found = self.enter(parent, directories.iter().map(|c| c.as_slice()));
        let (above, found) = match found {
            Ok(above) => {
                let found = above.fd().and_then(|fd| open_child(fd.as_fd(), last));
                (Some(above), found)
            }
            Err(e) => (None, Err(e)),
        };
        let found = self.examine(found, record);
        let taken = self.take(record, found, what);
        let Some(above) = above else { return };
        if let Some((inode, links)) = taken {
            self.names.insert(&self.inodes, &above, last, &inode, links);
        }
        if above.id() != parent.id() {
            // From here on what lies in it keeps it.
            self.names.release(&self.inodes, above, 1);
        }
    }

    /// Walks down from `parent` through directories that the guest need not know.
    /// The answer, where it is not `parent`, has a lookup to be given back.
    fn enter<'c>(
        &self,
        parent: &InodeArc,
        directories: impl Iterator<Item = &'c [u8]>,
    ) -> FsResult<InodeArc> {
        let mut at = parent.clone();
        for component in directories {
            let next = (|| {
                let fd = open_child(at.fd()?.as_fd(), component)?;
                let (new, _) = self.fs.describe(Object::Path(fd))?;
                if new.kind != libc::S_IFDIR {
                    return Err(Errno::ENOTDIR);
                }
                let (next, _) = self.inodes.publish(new);
                self.names.insert(&self.inodes, &at, component, &next, 1);
                Ok(next)
            })();
            if at.id() != parent.id() {
                self.names.release(&self.inodes, at, 1);
            }
            at = next?;
        }
        Ok(at)
    }

    fn examine(&self, found: FsResult<OwnedFd>, record: &InodeRecord) -> Outcome {
        let own = self.comparer.identity(record.id);
        self.finder().examine(found, record, own)
    }

    /// Complains of a directory that was found by handle outside the share: the
    /// wrong directory is shared here, or the state means harm. A handle opens
    /// anything on its file system, so this is looked at step by step upwards.
    ///
    /// Of a file nothing says where it lies, and of a removed directory neither.
    fn confine(&mut self, inode: &Inode) {
        if !inode.is_dir() {
            return;
        }
        let beneath = match inode.fd() {
            Ok(fd) => is_beneath(&mut self.beneath, fd.as_fd()),
            Err(e) => Err(e),
        };
        match beneath {
            Ok(true) => {}
            Ok(false) => self.errors.push(format!(
                "inode {} (directory): its file handle leads out of the shared directory",
                inode.id()
            )),
            Err(e) => self.errors.push(format!(
                "inode {} (directory): failed to find out where its file handle leads: {e}",
                inode.id()
            )),
        }
    }

    /// Enters what was found, or its error, under the record's number.
    fn take(
        &mut self,
        record: &InodeRecord,
        found: Outcome,
        what: What<'_>,
    ) -> Option<(InodeArc, u32)> {
        let unfit = match found {
            Ok(found) => {
                let inode = self.insert(record, found.new);
                if let Some(fd) = found.unlinked {
                    if matches!(inode.place(), Place::Handle { .. }) {
                        inode.keep(fd);
                    }
                }
                return Some((inode, found.links));
            }
            Err(unfit) => unfit,
        };
        let (id, kind) = (record.id, kind_name(record.kind));
        let error = match unfit {
            Unfit::Errno(e) => format!("inode {id} ({kind}): failed to find {what}: {e}"),
            // Told by `confine`.
            Unfit::Outside => format!("inode {id} ({kind}): {what} leads out of the share"),
            Unfit::Replaced => {
                self.replaced.push(self.errors.len());
                format!(
                    "inode {id} ({kind}): \"{}\" is another object than the one that the guest \
                     knows by that name",
                    self.path_of(&what)
                )
            }
        };
        self.errors.push(error);
        self.insert(record, lost(record.kind, unfit.errno()));
        None
    }
}

/// Of `children`, in order, those in `directory`.
fn children_of<'c, 'r>(children: &'c Children<'r>, directory: u64) -> &'c Children<'r> {
    let from = children.partition_point(|(parent, _)| *parent < directory);
    let here = &children[from..];
    &here[..here.partition_point(|(parent, _)| *parent == directory)]
}
