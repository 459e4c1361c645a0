//! Thin wrappers of the system calls that rustix does not have, or not in the
//! form needed. Each reads `errno` directly after its call.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::fs::{AtFlags, Statx, StatxFlags};

use crate::errno::{Errno, FsResult};

/// Fields asked of every `statx`.
const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::MNT_ID);

/// A descriptor's number as text with a NUL, without an allocation: its name in
/// `/proc/self/fd`.
pub(super) struct FdName {
    buf: [u8; 12],
    start: usize,
}

impl FdName {
    pub(super) fn new(fd: RawFd) -> FdName {
        let mut buf = [0u8; 12];
        let mut start = buf.len() - 1;
        // Descriptors are never negative.
        let mut rest = fd.unsigned_abs();
        loop {
            start -= 1;
            buf[start] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        FdName { buf, start }
    }

    pub(super) fn as_c_str(&self) -> &CStr {
        // The buffer ends with the one NUL it has.
        CStr::from_bytes_with_nul(&self.buf[self.start..]).unwrap_or(c"")
    }
}

/// Opens `name` relative to `dir`. `flags` are `O_*`; `O_CLOEXEC` is added.
pub(super) fn openat(dir: BorrowedFd<'_>, name: &CStr, flags: i32, mode: u32) -> FsResult<OwnedFd> {
    // SAFETY: `name` is a NUL-terminated string that outlives the call; the call
    // takes no other pointer.
    let fd = unsafe {
        libc::openat(
            dir.as_raw_fd(),
            name.as_ptr(),
            flags | libc::O_CLOEXEC,
            mode as libc::c_uint,
        )
    };
    if fd < 0 {
        return Err(Errno::last());
    }
    // SAFETY: the call has just made this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `statx` of the object that `fd` is.
pub(super) fn statx(fd: BorrowedFd<'_>) -> FsResult<Statx> {
    Ok(rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, WANTED)?)
}

/// `statx` of `name` in `dir`; a symbolic link is not followed and an automount
/// point is not mounted.
pub(super) fn statx_at(dir: BorrowedFd<'_>, name: &CStr) -> FsResult<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    Ok(rustix::fs::statx(dir, name, flags, WANTED)?)
}

/// The mount that the object is on, as the 32-bit id that `name_to_handle_at`
/// and `/proc/self/mountinfo` use as well; 0 where the kernel is too old to say.
pub(super) fn mnt_id_of(stx: &Statx) -> u32 {
    if stx.stx_mask & StatxFlags::MNT_ID.bits() != 0 {
        stx.stx_mnt_id as u32
    } else {
        0
    }
}

/// The device that the object lies on.
pub(super) fn dev_of(stx: &Statx) -> u64 {
    libc::makedev(stx.stx_dev_major, stx.stx_dev_minor)
}
