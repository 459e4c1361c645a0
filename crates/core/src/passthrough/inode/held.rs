//! Where an inode is held: by a descriptor, by a file handle, or nowhere.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicI64, Ordering};
use std::sync::Arc;

use super::super::handle_bytes::{FileHandle, MountRef};
use super::super::sys;
use crate::errno::Errno;

/// Where an inode is held.
#[derive(Debug)]
pub enum Place {
    /// By an `O_PATH` descriptor.
    Fd(PathFd),
    /// By a kernel file handle on a mount.
    Handle {
        /// The mount.
        mount: Arc<MountRef>,
        /// The handle.
        handle: FileHandle,
    },
    /// Nowhere: a crossing could not find it, and the guest gets this error.
    Lost(Errno),
}

/// An `O_PATH` descriptor that an inode is held by, and what the object's handle would tell
/// or its mount.
#[derive(Debug)]
pub struct PathFd {
    fd: OwnedFd,
    // What the descriptor is on; 0 where unknown.
    pub(super) mnt_id: u32,
    // Nanoseconds since 1970, or one of the two below. It never changes, and stands where a
    // handle would have its bytes.
    born: AtomicI64,
}

/// Nobody has asked yet.
const BIRTH_UNKNOWN: i64 = i64::MIN;
/// The file system does not tell.
const NO_BIRTH: i64 = i64::MIN + 1;

impl From<OwnedFd> for PathFd {
    fn from(fd: OwnedFd) -> PathFd {
        PathFd {
            fd,
            mnt_id: 0,
            born: AtomicI64::new(BIRTH_UNKNOWN),
        }
    }
}

impl AsFd for PathFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl PathFd {
    /// When the object came to be, in nanoseconds since 1970: asked for once. `None` where
    /// its file system does not tell.
    pub(in super::super) fn born(&self) -> Option<i64> {
        match self.born.load(Ordering::Relaxed) {
            BIRTH_UNKNOWN => {
                let stx = sys::statx_born(self.fd.as_fd()).ok()?;
                let born = sys::born_of(&stx);
                self.set_born(born);
                born
            }
            NO_BIRTH => None,
            born => Some(born),
        }
    }

    /// Says what somebody has seen anyway.
    pub(in super::super) fn set_born(&self, born: Option<i64>) {
        self.born.store(born.unwrap_or(NO_BIRTH), Ordering::Relaxed);
    }
}

/// A descriptor that may come later, once, and stays. `OnceLock` would take eight bytes.
#[derive(Debug)]
pub(super) struct LateFd(AtomicI32);

/// No descriptor has come.
const NO_FD: RawFd = -1;

impl LateFd {
    pub(super) fn get(&self) -> Option<BorrowedFd<'_>> {
        match self.0.load(Ordering::Acquire) {
            NO_FD => None,
            // SAFETY: the descriptor is this one's own, which keeps it open until it is
            // dropped, and nothing takes it out before.
            fd => Some(unsafe { BorrowedFd::borrow_raw(fd) }),
        }
    }

    /// Takes `fd`, unless there is one.
    pub(super) fn set(&self, fd: OwnedFd) {
        let raw = fd.as_raw_fd();
        let set = self
            .0
            .compare_exchange(NO_FD, raw, Ordering::AcqRel, Ordering::Acquire);
        if set.is_ok() {
            // It is this one's own now.
            let _ = fd.into_raw_fd();
        }
    }
}

impl Default for LateFd {
    fn default() -> LateFd {
        LateFd(AtomicI32::new(NO_FD))
    }
}

impl Drop for LateFd {
    fn drop(&mut self) {
        match *self.0.get_mut() {
            NO_FD => {}
            // SAFETY: `set` has taken the descriptor over, and nobody else closes it.
            fd => drop(unsafe { OwnedFd::from_raw_fd(fd) }),
        }
    }
}

/// A descriptor of an inode: its own, or one opened for the occasion. `O_PATH`.
#[derive(Debug)]
pub enum InodeFd<'a> {
    /// The inode's own.
    Borrowed(BorrowedFd<'a>),
    /// Opened by file handle.
    Owned(OwnedFd),
    /// Opened by file handle, and kept for the next who works there.
    Shared(Arc<OwnedFd>),
}

impl AsFd for InodeFd<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            InodeFd::Borrowed(fd) => *fd,
            InodeFd::Owned(fd) => fd.as_fd(),
            InodeFd::Shared(fd) => fd.as_fd(),
        }
    }
}
