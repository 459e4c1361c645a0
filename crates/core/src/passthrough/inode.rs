//! The inodes that the guest knows: nodeid to inode, and a host object's
//! identity to the inode that it already is.
//!
//! An inode lives as long as the guest holds lookups of it, or as another known
//! inode's name is remembered in it (a *pin*: a directory that the guest has
//! forgotten before what lies in it; see [`super::names`]). Both are in one
//! atomic word, so that exactly one thread sees it become zero; zero is final.

mod held;
mod table;

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;

use super::handle_bytes::FileHandle;
use super::links::Links;
use super::sys;
use crate::errno::{Errno, FsResult};
use crate::types::NodeId;

use held::LateFd;
pub use held::{InodeFd, PathFd, Place};
pub(super) use table::{shard_of, NumberMap};
pub use table::{Inodes, SHARDS};

/// The bit of `refs` that is the pin.
const PIN: u64 = 1 << 63;
/// The four bits of `refs` that are the file type (`S_IFMT`, shifted down), which never
/// change: a word of its own for them would cost each inode eight bytes.
const KIND: u64 = 0xf << KIND_SHIFT;
const KIND_SHIFT: u32 = 59;
/// The rest counts lookups.
const LOOKUPS: u64 = (1 << KIND_SHIFT) - 1;

/// Whether an inode with these `refs` is dead.
fn is_dead(refs: u64) -> bool {
    refs & (PIN | LOOKUPS) == 0
}

/// The numbers by which `statx` tells an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Numbers {
    /// Mount id; 0 where unknown.
    pub mnt_id: u32,
    /// Device, as `makedev` has it.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
}

/// What makes a host object the same as one seen before.
///
/// Inode numbers are used again after a deletion. A handle carries a generation
/// that tells reuse apart; where there is none, the descriptor that the inode
/// holds keeps the number from being used again.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// Its numbers.
    pub numbers: Numbers,
    /// Its file handle, where inodes on its mount are held by handle.
    pub handle: Option<&'a FileHandle>,
}

/// A new inode, without a nodeid yet.
#[derive(Debug)]
pub struct NewInode {
    /// The `S_IFMT` part of `st_mode`.
    pub kind: u32,
    /// Its numbers.
    pub numbers: Numbers,
    /// Where it is held.
    pub place: Place,
}

impl NewInode {
    /// An `O_PATH` descriptor of it.
    ///
    /// # Errors
    /// As [`Inode::fd`].
    pub(super) fn open_path(&self) -> FsResult<InodeFd<'_>> {
        match &self.place {
            Place::Fd(fd) => Ok(InodeFd::Borrowed(fd.as_fd())),
            Place::Handle { mount, handle } => {
                handle.open(mount.fd(), libc::O_PATH).map(InodeFd::Owned)
            }
            Place::Lost(errno) => Err(*errno),
        }
    }
}

/// A reference to an inode. Not one of the standard library's: that would count weak
/// references too, of which there are none, in eight bytes of each inode.
pub type InodeArc = triomphe::Arc<Inode>;

/// An inode that the guest has looked up.
pub struct Inode {
    id: NodeId,
    refs: AtomicU64,
    ino: u64,
    // As the kernel has it: it gives 12 bits to the major number and 20 to the minor one.
    dev: u32,
    // Of an inode held by handle whose last name is gone: nothing else may keep
    // the object alive, and the guest can have it as its working directory, or
    // write its times back.
    last: LateFd,
    place: Place,
    pub(super) links: Mutex<Links>,
}

impl Inode {
    fn new(id: NodeId, refs: u64, mut new: NewInode) -> Inode {
        match &mut new.place {
            Place::Fd(fd) => fd.mnt_id = new.numbers.mnt_id,
            Place::Handle { mount, .. } => debug_assert_eq!(mount.id(), new.numbers.mnt_id),
            Place::Lost(_) => {}
        }
        Inode {
            id,
            refs: AtomicU64::new(
                refs & LOOKUPS | u64::from((new.kind & libc::S_IFMT) >> 12) << KIND_SHIFT,
            ),
            ino: new.numbers.ino,
            dev: sys::kernel_dev(new.numbers.dev),
            last: LateFd::default(),
            place: new.place,
            links: Mutex::new(Links::default()),
        }
    }

    /// The nodeid.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// The `S_IFMT` part of `st_mode`; an inode never changes it.
    pub fn kind(&self) -> u32 {
        let refs = self.refs.load(Ordering::Relaxed);
        ((refs & KIND) >> KIND_SHIFT << 12) as u32
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind() == libc::S_IFDIR
    }

    /// Mount, device and inode number.
    pub fn numbers(&self) -> Numbers {
        let mnt_id = match &self.place {
            Place::Fd(fd) => fd.mnt_id,
            Place::Handle { mount, .. } => mount.id(),
            Place::Lost(_) => 0,
        };
        Numbers {
            mnt_id,
            dev: sys::makedev(self.dev),
            ino: self.ino,
        }
    }

    /// Where it is held.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What makes it itself; `None` for a lost one.
    pub fn identity(&self) -> Option<Identity<'_>> {
        let handle = match &self.place {
            Place::Fd(_) => None,
            Place::Handle { handle, .. } => Some(handle),
            Place::Lost(_) => return None,
        };
        Some(Identity {
            numbers: self.numbers(),
            handle,
        })
    }

    /// Lookups that the guest holds. 0 for a directory that is only pinned.
    pub fn lookups(&self) -> u64 {
        self.refs.load(Ordering::Acquire) & LOOKUPS
    }

    /// An `O_PATH` descriptor of it.
    ///
    /// # Errors
    /// `ESTALE` when an inode held by handle is gone, the inode's own error for
    /// a lost one, `EMFILE` and `ENFILE`.
    pub fn fd(&self) -> FsResult<InodeFd<'_>> {
        match &self.place {
            Place::Fd(fd) => Ok(InodeFd::Borrowed(fd.as_fd())),
            Place::Handle { mount, handle } => match self.last.get() {
                Some(fd) => Ok(InodeFd::Borrowed(fd)),
                None => handle.open(mount.fd(), libc::O_PATH).map(InodeFd::Owned),
            },
            Place::Lost(errno) => Err(*errno),
        }
    }

    /// Keeps the object alive by `fd`, an `O_PATH` descriptor of it, until the
    /// guest forgets it. For inodes held by handle; others keep one anyway.
    pub(super) fn keep(&self, fd: OwnedFd) {
        // It may be kept already, by another of its last names.
        self.last.set(fd);
    }

    /// Whether it is held by handle, and kept alive although its last name is gone.
    pub(super) fn is_kept(&self) -> bool {
        self.last.get().is_some()
    }

    /// Opens it with `flags` (`O_*`). Only regular files and directories are
    /// opened: a fifo could block, a device or socket could act.
    ///
    /// # Errors
    /// `EBADF` for any other kind of file (`ELOOP` for a symbolic link), as
    /// [`Inode::fd`], and whatever opening gives.
    pub fn open(&self, proc_self_fd: BorrowedFd<'_>, flags: i32) -> FsResult<OwnedFd> {
        match self.kind() {
            libc::S_IFREG | libc::S_IFDIR => {}
            libc::S_IFLNK => return Err(Errno::ELOOP),
            _ => return Err(Errno::EBADF),
        }
        // The object is already found; the magic link in /proc has to be followed.
        let flags = flags & !(libc::O_NOFOLLOW | libc::O_CREAT | libc::O_EXCL);
        match &self.place {
            Place::Fd(fd) => {
                let name = sys::FdName::new(fd.as_fd().as_raw_fd());
                sys::openat(proc_self_fd, name.as_c_str(), flags, 0)
            }
            Place::Handle { mount, handle } => handle.open(mount.fd(), flags),
            Place::Lost(errno) => Err(*errno),
        }
    }

    /// Takes one more lookup, unless the inode is dead. Answers whether it is the first.
    fn acquire(&self) -> Option<bool> {
        self.refs
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |refs| {
                // The count cannot reach the pin: each lookup is a request.
                (!is_dead(refs)).then(|| refs + 1)
            })
            .ok()
            .map(|before| before & LOOKUPS == 0)
    }

    /// Gives `count` lookups back, at most those there are (the root keeps one).
    /// Answers whether the inode has died by it, which is true for one caller.
    pub(super) fn release(&self, count: u64) -> bool {
        let keep = u64::from(self.id == NodeId::ROOT);
        let before = self
            .refs
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |refs| {
                let lookups = refs & LOOKUPS;
                let left = lookups.saturating_sub(count).max(keep.min(lookups));
                (left != lookups).then_some(left | (refs & !LOOKUPS))
            });
        match before {
            Ok(before) => {
                before & PIN == 0 && (before & LOOKUPS).saturating_sub(count) == 0 && keep == 0
            }
            Err(_) => false,
        }
    }

    /// Leaves one lookup, and no pin.
    fn forget_all_but_one(&self) {
        let refs = self.refs.load(Ordering::Acquire);
        self.refs.store(refs & KIND | 1, Ordering::Release);
    }

    /// Keeps the inode without a lookup; false when it is dead already.
    /// Called under the lock of its `links`.
    pub(super) fn pin(&self) -> bool {
        self.refs
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |refs| {
                (!is_dead(refs)).then_some(refs | PIN)
            })
            .is_ok()
    }

    /// Takes the pin away; answers whether the inode has died by it.
    /// Called under the lock of its `links`.
    pub(super) fn unpin(&self) -> bool {
        self.refs.fetch_and(!PIN, Ordering::AcqRel) & (PIN | LOOKUPS) == PIN
    }
}

impl fmt::Debug for Inode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inode")
            .field("id", &self.id)
            .field("lookups", &self.lookups())
            .field("kind", &format_args!("{:o}", self.kind()))
            .field("numbers", &self.numbers())
            .finish_non_exhaustive()
    }
}
