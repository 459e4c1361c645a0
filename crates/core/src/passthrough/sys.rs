//! Thin wrappers of the system calls that rustix does not have, or not in the
//! form needed. Each reads `errno` directly after its call.

use std::cell::Cell;
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

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

/// `statx` of the object that `fd` is, with the fields of `mask`, and by the
/// `AT_STATX_*` of `flags`.
pub(super) fn statx_with(fd: BorrowedFd<'_>, flags: AtFlags, mask: StatxFlags) -> FsResult<Statx> {
    Ok(rustix::fs::statx(
        fd,
        c"",
        AtFlags::EMPTY_PATH | flags,
        mask,
    )?)
}

/// `statx` of `name` in `dir`; a symbolic link is not followed and an automount
/// point is not mounted.
pub(super) fn statx_at(dir: BorrowedFd<'_>, name: &CStr) -> FsResult<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    Ok(rustix::fs::statx(dir, name, flags, WANTED)?)
}

/// [`statx`] that also asks when the object came to be; a share on FUSE may have to
/// ask its server for that.
pub(super) fn statx_born(fd: BorrowedFd<'_>) -> FsResult<Statx> {
    let wanted = WANTED.union(StatxFlags::BTIME);
    Ok(rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, wanted)?)
}

/// [`statx_at`] that also asks when the object came to be.
pub(super) fn statx_born_at(dir: BorrowedFd<'_>, name: &CStr) -> FsResult<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let wanted = WANTED.union(StatxFlags::BTIME);
    Ok(rustix::fs::statx(dir, name, flags, wanted)?)
}

/// When the object came to be, in nanoseconds since 1970, where that is known.
pub(super) fn born_of(stx: &Statx) -> Option<i64> {
    if stx.stx_mask & StatxFlags::BTIME.bits() == 0 {
        return None;
    }
    let seconds = stx.stx_btime.tv_sec.checked_mul(1_000_000_000)?;
    seconds.checked_add(stx.stx_btime.tv_nsec.into())
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

/// A device number in the kernel's own encoding (`new_encode_dev`), which has 12 bits of
/// the major number and 20 of the minor one: all that any device has.
pub(super) fn kernel_dev(device: u64) -> u32 {
    let (major, minor) = (libc::major(device), libc::minor(device));
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}

/// As glibc has it.
pub(super) fn makedev(kernel_dev: u32) -> u64 {
    let major = kernel_dev >> 8 & 0xfff;
    let minor = kernel_dev & 0xff | kernel_dev >> 12 & 0xf_ff00;
    libc::makedev(major, minor)
}

fn check(rc: libc::c_int) -> FsResult<()> {
    if rc < 0 {
        Err(Errno::last())
    } else {
        Ok(())
    }
}

/// `fchmodat` on the object that `fd` (of any kind) is.
pub(super) fn chmod(proc_self_fd: BorrowedFd<'_>, fd: BorrowedFd<'_>, mode: u32) -> FsResult<()> {
    let name = FdName::new(fd.as_raw_fd());
    // SAFETY: the name ends with NUL and outlives the call.
    check(unsafe { libc::fchmodat(proc_self_fd.as_raw_fd(), name.as_c_str().as_ptr(), mode, 0) })
}

/// `fchownat` on the object that `fd` (of any kind) is; `u32::MAX` leaves an id.
pub(super) fn chown(fd: BorrowedFd<'_>, uid: u32, gid: u32) -> FsResult<()> {
    // SAFETY: the path is a constant that ends with NUL.
    check(unsafe { libc::fchownat(fd.as_raw_fd(), c"".as_ptr(), uid, gid, libc::AT_EMPTY_PATH) })
}

/// `utimensat` on the object that `fd` (of any kind) is: access time, then
/// modification time.
pub(super) fn utimens(
    proc_self_fd: BorrowedFd<'_>,
    fd: BorrowedFd<'_>,
    times: &[libc::timespec; 2],
) -> FsResult<()> {
    let name = FdName::new(fd.as_raw_fd());
    // SAFETY: the name ends with NUL, `times` are two timespecs; both outlive the
    // call.
    check(unsafe {
        libc::utimensat(
            proc_self_fd.as_raw_fd(),
            name.as_c_str().as_ptr(),
            times.as_ptr(),
            0,
        )
    })
}

/// `mknodat`.
pub(super) fn mknodat(dir: BorrowedFd<'_>, name: &CStr, mode: u32, dev: u64) -> FsResult<()> {
    // SAFETY: the name ends with NUL and outlives the call.
    check(unsafe { libc::mknodat(dir.as_raw_fd(), name.as_ptr(), mode, dev) })
}

/// `mkdirat`.
pub(super) fn mkdirat(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> FsResult<()> {
    // SAFETY: the name ends with NUL and outlives the call.
    check(unsafe { libc::mkdirat(dir.as_raw_fd(), name.as_ptr(), mode) })
}

/// Links the object that `fd` (of any kind) is to `name` in `dir`.
pub(super) fn link(
    proc_self_fd: BorrowedFd<'_>,
    fd: BorrowedFd<'_>,
    dir: BorrowedFd<'_>,
    name: &CStr,
) -> FsResult<()> {
    let from = FdName::new(fd.as_raw_fd());
    // SAFETY: both names end with NUL and outlive the call.
    check(unsafe {
        libc::linkat(
            proc_self_fd.as_raw_fd(),
            from.as_c_str().as_ptr(),
            dir.as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_FOLLOW,
        )
    })
}

/// Fills `buf` with bytes that nobody can guess.
pub(super) fn random(buf: &mut [u8]) -> FsResult<()> {
    // SAFETY: the kernel writes at most `buf.len()` bytes into `buf`.
    let n = unsafe { libc::getrandom(buf.as_mut_ptr().cast(), buf.len(), 0) };
    match usize::try_from(n) {
        Ok(n) if n == buf.len() => Ok(()),
        // Up to 256 bytes come at once or not at all.
        Ok(_) => Err(Errno::EIO),
        Err(_) => Err(Errno::last()),
    }
}

/// `getdents64`: fills `buf` with whole entries; 0 at the directory's end.
pub(super) fn getdents(dir: BorrowedFd<'_>, buf: &mut [u8]) -> FsResult<usize> {
    // SAFETY: the kernel writes at most `buf.len()` bytes into `buf`.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_getdents64,
            dir.as_raw_fd(),
            buf.as_mut_ptr(),
            buf.len(),
        )
    };
    if rc < 0 {
        return Err(Errno::last());
    }
    Ok(rc as usize)
}

/// `lseek`; answers the position reached.
pub(super) fn lseek(fd: BorrowedFd<'_>, offset: i64, whence: i32) -> FsResult<u64> {
    // SAFETY: the call takes no pointer.
    let rc = unsafe { libc::lseek64(fd.as_raw_fd(), offset, whence) };
    if rc < 0 {
        return Err(Errno::last());
    }
    Ok(rc as u64)
}

/// Closes `fd` and says what that gave: a network file system may only now find
/// that it cannot write.
pub(super) fn close(fd: OwnedFd) -> FsResult<()> {
    let fd = fd.into_raw_fd();
    // SAFETY: the descriptor was owned, and is given up here.
    check(unsafe { libc::close(fd) })
}

thread_local! {
    // Whether this thread has its own file mode mask and working directory.
    static OWN_FS: Cell<bool> = const { Cell::new(false) };
}

/// Parts this thread's working directory and file mode mask from the process':
/// the mask becomes 0 (the guest has applied its caller's already), and the
/// directory `/proc/self/fd`, so that calls that take only a path reach any
/// descriptor by its number. Once for each thread.
///
/// # Errors
/// What `unshare` or `fchdir` gives; nothing has changed for the process then.
pub(super) fn own_fs(proc_self_fd: BorrowedFd<'_>) -> FsResult<()> {
    if OWN_FS.get() {
        return Ok(());
    }
    // SAFETY: neither call takes a pointer; they change this thread's own
    // working directory and mask alone once `unshare` has parted them.
    unsafe {
        check(libc::unshare(libc::CLONE_FS))?;
        check(libc::fchdir(proc_self_fd.as_raw_fd()))?;
        libc::umask(0);
    }
    OWN_FS.set(true);
    Ok(())
}

/// The calling thread, which has its own file mode mask, makes things under
/// another than 0 as long as this lives.
#[must_use]
pub(super) struct Masked {
    // The guard belongs to the thread that made it.
    not_send: std::marker::PhantomData<*const ()>,
}

/// See [`Masked`]; `None` where the thread has no mask of its own (see
/// [`own_fs`]).
pub(super) fn masked(mask: u32) -> Option<Masked> {
    if !OWN_FS.get() {
        return None;
    }
    // SAFETY: the call takes no pointer, and the mask is this thread's alone.
    unsafe { libc::umask((mask & 0o777) as libc::mode_t) };
    Some(Masked {
        not_send: std::marker::PhantomData,
    })
}

impl Drop for Masked {
    fn drop(&mut self) {
        // SAFETY: as in `masked`.
        unsafe { libc::umask(0) };
    }
}
