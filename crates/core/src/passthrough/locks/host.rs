//! Locks as the host's kernel has them, and how a thread that waits for one is woken.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use super::super::sys;
use crate::errno::{Errno, FsResult};
use crate::fs::LockMode;

/// `OFFSET_MAX`: the last byte of a range that goes to the end of the file.
pub(super) const LAST_BYTE: u64 = i64::MAX as u64;

/// What a lock's descriptor must be open for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) read: bool,
    pub(super) write: bool,
}

impl Access {
    /// What the kernel asks of the descriptor of a lock.
    pub(super) fn of(mode: LockMode) -> Access {
        Access {
            read: mode == LockMode::Read,
            write: mode == LockMode::Write,
        }
    }

    /// As `O_*` flags of an open file say it.
    pub(super) fn of_flags(flags: u32) -> Access {
        let mode = flags & libc::O_ACCMODE as u32;
        Access {
            read: mode != libc::O_WRONLY as u32,
            write: mode != libc::O_RDONLY as u32,
        }
    }

    pub(super) fn covers(self, needed: Access) -> bool {
        (self.read || !needed.read) && (self.write || !needed.write)
    }

    pub(super) fn and(self, other: Access) -> Access {
        Access {
            read: self.read || other.read,
            write: self.write || other.write,
        }
    }
}

/// Opens the file that `fd` is once more: an open file description of its own, whose
/// locks are its own. No wider than needed: a file that is open for writing anywhere
/// cannot be executed.
pub(super) fn open_again(
    proc_self_fd: BorrowedFd<'_>,
    fd: BorrowedFd<'_>,
    needed: Access,
) -> FsResult<(OwnedFd, Access)> {
    let name = sys::FdName::new(fd.as_raw_fd());
    let open = |flags| {
        let flags = flags | libc::O_NONBLOCK | libc::O_NOCTTY;
        sys::openat(proc_self_fd, name.as_c_str(), flags, 0)
    };
    if !needed.write {
        return Ok((open(libc::O_RDONLY)?, needed));
    }
    let both = Access {
        read: true,
        write: true,
    };
    match open(libc::O_RDWR) {
        // A file that may be written but not read.
        Err(Errno::EACCES) if !needed.read => Ok((open(libc::O_WRONLY)?, needed)),
        opened => Ok((opened?, both)),
    }
}

fn range(kind: libc::c_int, start: u64, end: u64) -> libc::flock {
    // Both are at most OFFSET_MAX.
    let len = if end >= LAST_BYTE { 0 } else { end - start + 1 };
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start as libc::off_t,
        l_len: len as libc::off_t,
        l_pid: 0,
    }
}

fn kind_of(mode: Option<LockMode>) -> libc::c_int {
    match mode {
        Some(LockMode::Read) => libc::F_RDLCK,
        Some(LockMode::Write) => libc::F_WRLCK,
        None => libc::F_UNLCK,
    }
}

fn ofd(fd: BorrowedFd<'_>, command: libc::c_int, lock: &mut libc::flock) -> FsResult<()> {
    // SAFETY: the command takes a `struct flock`, which outlives the call; the
    // kernel writes into it for F_OFD_GETLK.
    let rc = unsafe { libc::fcntl(fd.as_raw_fd(), command, std::ptr::from_mut(lock)) };
    match rc {
        0.. => Ok(()),
        _ => Err(match Errno::last() {
            // Which of them it is is the file system's choice.
            Errno::EACCES => Errno::EAGAIN,
            e => e,
        }),
    }
}

/// Locks or unlocks a range for the open file description `fd`.
pub(super) fn set_range(
    fd: BorrowedFd<'_>,
    start: u64,
    end: u64,
    mode: Option<LockMode>,
) -> FsResult<()> {
    ofd(fd, libc::F_OFD_SETLK, &mut range(kind_of(mode), start, end))
}

/// As [`set_range`], waiting until it can be had; `EINTR` by [`wake`].
pub(super) fn wait_for_range(
    fd: BorrowedFd<'_>,
    start: u64,
    end: u64,
    mode: LockMode,
) -> FsResult<()> {
    let mut lock = range(kind_of(Some(mode)), start, end);
    ofd(fd, libc::F_OFD_SETLKW, &mut lock)
}

/// A lock that the kernel knows of.
pub(super) struct Blocker {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) mode: LockMode,
    /// Process on this host, as far as it can be seen from here; -1 for an open file
    /// description, as another daemon's are.
    pub(super) pid: i32,
}

/// What keeps the open file description `fd` from locking a range.
pub(super) fn blocker(
    fd: BorrowedFd<'_>,
    start: u64,
    end: u64,
    mode: LockMode,
) -> FsResult<Option<Blocker>> {
    let mut lock = range(kind_of(Some(mode)), start, end);
    ofd(fd, libc::F_OFD_GETLK, &mut lock)?;
    let mode = match libc::c_int::from(lock.l_type) {
        libc::F_RDLCK => LockMode::Read,
        libc::F_WRLCK => LockMode::Write,
        _ => return Ok(None),
    };
    let start = lock.l_start.max(0) as u64;
    let end = match lock.l_len {
        1.. => (start + lock.l_len as u64 - 1).min(LAST_BYTE),
        _ => LAST_BYTE,
    };
    Ok(Some(Blocker {
        start,
        end,
        mode,
        pid: lock.l_pid,
    }))
}

fn flock(fd: BorrowedFd<'_>, operation: libc::c_int) -> FsResult<()> {
    // SAFETY: the call takes no pointer.
    match unsafe { libc::flock(fd.as_raw_fd(), operation) } {
        0.. => Ok(()),
        _ => Err(Errno::last()),
    }
}

fn operation_of(mode: Option<LockMode>) -> libc::c_int {
    match mode {
        Some(LockMode::Read) => libc::LOCK_SH,
        Some(LockMode::Write) => libc::LOCK_EX,
        None => libc::LOCK_UN,
    }
}

/// `flock` on the open file description `fd`. Where it changes a lock and fails, the
/// lock that was there is gone.
pub(super) fn set_whole(fd: BorrowedFd<'_>, mode: Option<LockMode>) -> FsResult<()> {
    flock(fd, operation_of(mode) | libc::LOCK_NB)
}

/// As [`set_whole`], waiting until it can be had; `EINTR` by [`wake`].
pub(super) fn wait_for_whole(fd: BorrowedFd<'_>, mode: LockMode) -> FsResult<()> {
    flock(fd, operation_of(Some(mode)))
}

/// Ends a wait for a lock with `EINTR`. By default it does nothing to a process, so
/// that one that comes from elsewhere, or late, does no harm.
const WAKE: libc::c_int = libc::SIGURG;

extern "C" fn nothing(_: libc::c_int) {}

/// A thread that can be woken from a wait for a lock.
#[derive(Clone, Copy)]
pub(super) struct Waiter(libc::pid_t);

impl Waiter {
    /// The calling thread.
    ///
    /// # Errors
    /// The signal that wakes it cannot be had.
    pub(super) fn current() -> FsResult<Waiter> {
        static HANDLED: OnceLock<Result<(), Errno>> = OnceLock::new();
        (*HANDLED.get_or_init(|| {
            // SAFETY: an all-zero sigaction is a valid one, with an empty mask and
            // without SA_RESTART, which is what makes the wait end.
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
            // SAFETY: the handler does nothing, so it may run anywhere, at any time.
            match unsafe { libc::sigaction(WAKE, &action, std::ptr::null_mut()) } {
                0 => Ok(()),
                _ => Err(Errno::last()),
            }
        }))?;
        Ok(Waiter(rustix::thread::gettid().as_raw_nonzero().get()))
    }

    /// Wakes the thread, if it waits. If it is only about to, the signal is lost.
    pub(super) fn wake(self) {
        // SAFETY: the call takes no pointer. Whatever thread of this process has the
        // number, nothing happens to it.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), self.0, WAKE) };
    }
}

/// A descriptor that keeps an owner's locks.
#[derive(Debug)]
pub(super) struct LockFile {
    fd: OwnedFd,
    access: Access,
}

impl LockFile {
    /// Opens one of its own for the file that `fd` is.
    pub(super) fn open(
        proc_self_fd: BorrowedFd<'_>,
        fd: BorrowedFd<'_>,
        needed: Access,
    ) -> FsResult<LockFile> {
        let (fd, access) = open_again(proc_self_fd, fd, needed)?;
        Ok(LockFile { fd, access })
    }

    pub(super) fn access(&self) -> Access {
        self.access
    }
}

impl AsFd for LockFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
