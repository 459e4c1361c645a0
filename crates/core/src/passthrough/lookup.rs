//! Finding an object by name, and giving the guest a reference to it.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::Statx;

use super::handle_bytes::{FileHandle, MountKnown, MountRef, Mounts};
use super::inode::{Inode, InodeArc, NewInode, Numbers, PathFd, Place};
use super::{sys, Passthrough};
use crate::abi;
use crate::errno::{Errno, FsResult};
use crate::fs::Entry;
use crate::types::{Name, NodeId};

/// A descriptor of an object, in the way that it came.
pub(crate) enum Object<'a> {
    /// An `O_PATH` descriptor, which an inode may keep.
    Path(OwnedFd),
    /// An open file that somebody else keeps.
    Open(BorrowedFd<'a>),
}

impl Object<'_> {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Object::Path(fd) => fd.as_fd(),
            Object::Open(fd) => *fd,
        }
    }
}

pub(super) fn numbers_of(stx: &Statx) -> Numbers {
    Numbers {
        mnt_id: sys::mnt_id_of(stx),
        dev: sys::dev_of(stx),
        ino: stx.stx_ino,
    }
}

pub(super) fn kind_of(stx: &Statx) -> u32 {
    u32::from(stx.stx_mode) & libc::S_IFMT
}

/// `st_nlink` as the memory of names wants it.
pub(super) fn links_of(stx: &Statx) -> u32 {
    if kind_of(stx) == libc::S_IFDIR {
        1
    } else {
        stx.stx_nlink
    }
}

/// Opens a name as it is, without following it, or acting on it.
pub(crate) fn open_path(dir: BorrowedFd<'_>, name: &Name) -> FsResult<OwnedFd> {
    sys::openat(dir, name.as_c_str(), libc::O_PATH | libc::O_NOFOLLOW, 0)
}

/// How new inodes are held.
#[derive(Clone)]
pub(super) struct Holding {
    /// Whether inodes are held by handle where their mount allows it.
    pub(super) use_handles: bool,
    pub(super) mandatory: bool,
    pub(super) mounts: Arc<Mounts>,
    pub(super) proc_self_fd: Arc<OwnedFd>,
}

impl Holding {
    /// The handle by which an object is to be held; `None`: by descriptor.
    fn handle_of(
        &self,
        fd: BorrowedFd<'_>,
        numbers: Numbers,
        kind: u32,
    ) -> FsResult<Option<(Arc<MountRef>, FileHandle)>> {
        if !self.use_handles {
            return Ok(None);
        }
        let (id, dev) = (numbers.mnt_id, numbers.dev);
        let known = self
            .mounts
            .find(self.proc_self_fd.as_fd(), fd, id, dev, kind)?;
        let why = match known {
            MountKnown::Usable(mount) => match FileHandle::of_fd(fd) {
                Ok((handle, _)) => return Ok(Some((mount, handle))),
                Err(why @ (Errno::EOPNOTSUPP | Errno::EOVERFLOW)) => why,
                Err(e) => return Err(e),
            },
            MountKnown::Unusable(why) => why,
        };
        match self.mandatory {
            true => Err(why),
            false => Ok(None),
        }
    }

    /// [`Passthrough::describe`] of an object whose attributes are in hand.
    pub(super) fn describe_as(&self, object: Object<'_>, stx: &Statx) -> FsResult<NewInode> {
        let (numbers, kind) = (numbers_of(stx), kind_of(stx));
        let place = match self.handle_of(object.fd(), numbers, kind)? {
            Some((mount, handle)) => Place::Handle { mount, handle },
            None => Place::Fd(PathFd::from(match object {
                Object::Path(fd) => fd,
                Object::Open(fd) => {
                    let name = sys::FdName::new(fd.as_raw_fd());
                    let proc_self_fd = self.proc_self_fd.as_fd();
                    sys::openat(proc_self_fd, name.as_c_str(), libc::O_PATH, 0)?
                }
            })),
        };
        Ok(NewInode {
            kind,
            numbers,
            place,
        })
    }

    /// [`Passthrough::describe`] of what `name` in `dir` is, without a descriptor of it, and
    /// with the time of its `birth` where that is asked for; `None` where it takes a
    /// descriptor.
    ///
    /// Others may put something else there between the two calls that ask what it is.
    /// It shows in the inode number, which the handle has in it. Where both numbers are
    /// the same nevertheless, the first object was gone before the second got its number:
    /// then the handle leads nowhere, whatever the attributes are.
    pub(super) fn describe_name(
        &self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        birth: bool,
    ) -> FsResult<Option<(NewInode, Statx)>> {
        if !self.use_handles {
            return Ok(None);
        }
        let (handle, id) = match FileHandle::of_name(dir, name) {
            Ok(found) => found,
            Err(Errno::EOPNOTSUPP | Errno::EOVERFLOW) => return Ok(None),
            Err(e) => return Err(e),
        };
        let Some(mount) = self.mounts.usable(id) else {
            return Ok(None);
        };
        let Some(ino) = mount.ino_in(&handle) else {
            return Ok(None);
        };
        let stx = match birth {
            true => sys::statx_born_at(dir, name)?,
            false => sys::statx_at(dir, name)?,
        };
        let numbers = numbers_of(&stx);
        if (numbers.mnt_id, numbers.ino) != (id, ino) {
            return Ok(None);
        }
        let new = NewInode {
            kind: kind_of(&stx),
            numbers,
            place: Place::Handle { mount, handle },
        };
        Ok(Some((new, stx)))
    }
}

impl Passthrough {
    /// What a new inode for an object is made of, held as configured.
    ///
    /// # Errors
    /// The system calls'; `EOPNOTSUPP` and the like where handles are mandatory
    /// and the object has none.
    pub(crate) fn describe(&self, object: Object<'_>) -> FsResult<(NewInode, Statx)> {
        let stx = sys::statx(object.fd())?;
        Ok((self.holding.describe_as(object, &stx)?, stx))
    }

    /// The inode that an object is, new or known, with one more lookup.
    pub(super) fn adopt(&self, object: Object<'_>) -> FsResult<(InodeArc, Statx)> {
        if self.unlocated.any() {
            self.unlocated.find_object(object.fd());
        }
        let (new, stx) = self.describe(object)?;
        Ok((self.inodes.publish(new).0, stx))
    }

    /// [`Passthrough::adopt`] of what `name` in `dir` is, without a descriptor of it;
    /// `None` where it takes one.
    pub(super) fn adopt_name(
        &self,
        dir: BorrowedFd<'_>,
        name: &Name,
    ) -> FsResult<Option<(InodeArc, Statx)>> {
        // What is not located yet is compared with descriptors.
        if self.unlocated.any() {
            return Ok(None);
        }
        let described = self.holding.describe_name(dir, name.as_c_str(), false)?;
        Ok(described.map(|(new, stx)| (self.inodes.publish(new).0, stx)))
    }

    /// The guest's view of `inode`, which lies in `parent`.
    pub(super) fn entry(&self, parent: Option<&Inode>, inode: &Inode, stx: &Statx) -> Entry {
        let numbers = numbers_of(stx);
        // A directory on another mount or device is where a host file system
        // begins; the guest gives it a device number of its own.
        let submount = inode.is_dir()
            && self.negotiated(abi::FUSE_SUBMOUNTS)
            && parent.is_some_and(|parent| {
                let above = parent.numbers();
                above.mnt_id != numbers.mnt_id || above.dev != numbers.dev
            });
        let flags = if submount { abi::FUSE_ATTR_SUBMOUNT } else { 0 };
        let timeout = self.config.cache.timeout();
        let mut attr = self.attr(stx, flags);
        if let Some(number) = self.ghosts.number(inode.id()) {
            attr.ino = number;
        }
        Entry {
            node: inode.id(),
            generation: 0,
            attr,
            entry_timeout: timeout,
            attr_timeout: timeout,
        }
    }

    /// LOOKUP.
    pub(super) fn do_lookup(&self, parent: NodeId, name: &Name) -> FsResult<Entry> {
        let parent = self.inode(parent)?;
        let dir = self.kept_fds.get(&parent)?;
        let _hold = self.names.hold(parent.id(), name.as_bytes());
        self.lookup_in(&parent, dir.as_fd(), name)
    }

    /// Looks `name` up in the directory `parent`, of which `dir` is a descriptor.
    /// The name is held by the caller.
    pub(super) fn lookup_in(
        &self,
        parent: &InodeArc,
        dir: BorrowedFd<'_>,
        name: &Name,
    ) -> FsResult<Entry> {
        if let Some(known) = self.names.known(&self.inodes, parent.id(), name.as_bytes()) {
            match self.still_there(&known, dir, name) {
                Ok(Some(stx)) if self.inodes.acquire_again(&known) => {
                    self.remember(parent, name, &known, &stx);
                    return Ok(self.entry(Some(parent), &known, &stx));
                }
                Ok(_) => {}
                Err(Errno::ENOENT) => {
                    self.names
                        .remove(&self.inodes, parent.id(), name.as_bytes());
                    return Err(Errno::ENOENT);
                }
                Err(e) => return Err(e),
            }
        }
        let (inode, stx) = match self.adopt_name(dir, name)? {
            Some(adopted) => adopted,
            None => {
                let there = open_path(dir, name)?;
                if !self.use_handles {
                    self.budget.admit(there.as_fd())?;
                }
                self.adopt(Object::Path(there))?
            }
        };
        self.remember(parent, name, &inode, &stx);
        Ok(self.entry(Some(parent), &inode, &stx))
    }

    /// Whether `name` in `dir` still is `known`, found without opening it.
    ///
    /// By descriptor: the inode's own keeps its number from being used again, so
    /// equal numbers are the same object. By handle: the same handle is the same
    /// object, and the numbers tell that the attributes are its as well.
    fn still_there(
        &self,
        known: &Inode,
        dir: BorrowedFd<'_>,
        name: &Name,
    ) -> FsResult<Option<Statx>> {
        match known.place() {
            Place::Fd(_) => {}
            Place::Handle { mount, handle } => {
                match handle.is_name(mount.id(), dir, name.as_c_str()) {
                    Ok(true) => {}
                    Ok(false) | Err(Errno::EOPNOTSUPP) => return Ok(None),
                    Err(e) => return Err(e),
                }
            }
            Place::Lost(_) => return Ok(None),
        }
        let stx = sys::statx_at(dir, name.as_c_str())?;
        let same = numbers_of(&stx) == known.numbers() && kind_of(&stx) == known.kind();
        Ok(same.then_some(stx))
    }

    pub(super) fn remember(&self, parent: &InodeArc, name: &Name, inode: &InodeArc, stx: &Statx) {
        let links = links_of(stx);
        self.names
            .insert(&self.inodes, parent, name.as_bytes(), inode, links);
    }
}
