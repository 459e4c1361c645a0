//! Destination side: unlinked objects made again.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use ferryfs_state::{Ghost, GhostData, Time};
use rustix::fs::AtFlags;

use super::super::super::{sys, Passthrough};
use crate::errno::{Errno, FsResult};

/// How often another hidden name is tried where one is taken.
const TRIES: usize = 8;

/// What a ghost is made with until everything of it has been opened.
const MEANWHILE: u32 = 0o600;

/// `name` in a directory, for as long as it takes to open what has it.
fn hidden_name() -> FsResult<CString> {
    let mut random = [0; 16];
    sys::random(&mut random)?;
    let digits: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    CString::new(format!(".ferryfs-{digits}")).map_err(|_| Errno::EINVAL)
}

/// Lets `make` make and open something under a hidden name in `dir`, and removes the name.
fn made_and_unlinked(
    dir: BorrowedFd<'_>,
    remove: AtFlags,
    make: impl Fn(&CStr) -> FsResult<OwnedFd>,
) -> FsResult<OwnedFd> {
    for _ in 0..TRIES {
        let name = hidden_name()?;
        let made = make(&name);
        if matches!(made, Err(Errno::EEXIST)) {
            continue;
        }
        // Also where it was made and could not be opened.
        let removed = rustix::fs::unlinkat(dir, name.as_c_str(), remove);
        let made = made?;
        removed?;
        return Ok(made);
    }
    Err(Errno::EEXIST)
}

/// What `made_and_unlinked` has opened by name must have lost its last name with that:
/// nobody has put something else there in between, to have it given away.
fn really_unlinked(made: OwnedFd) -> FsResult<OwnedFd> {
    match sys::statx(made.as_fd())?.stx_nlink {
        0 => Ok(made),
        _ => Err(Errno::EAGAIN),
    }
}

/// Makes what `ghost`, of `kind` (`S_IFMT`), was, in the file system of `dir`, with its
/// contents, owner and attributes. Its permissions come later ([`finish`]), so that it
/// can be opened as it was. Answers an `O_PATH` descriptor, which is all that keeps it.
pub(in super::super) fn make(
    fs: &Passthrough,
    dir: BorrowedFd<'_>,
    kind: u32,
    ghost: &Ghost,
    data: &[GhostData],
) -> FsResult<OwnedFd> {
    let path_flags = libc::O_PATH | libc::O_NOFOLLOW;
    let open = |name: &CStr| sys::openat(dir, name, path_flags, 0);
    let made = match kind {
        libc::S_IFREG => {
            let file = new_file(dir, ghost.linkable)?;
            fill(file.as_fd(), ghost, data)?;
            let name = sys::FdName::new(file.as_raw_fd());
            sys::openat(fs.proc_self_fd(), name.as_c_str(), libc::O_PATH, 0)?
        }
        libc::S_IFDIR => really_unlinked(made_and_unlinked(dir, AtFlags::REMOVEDIR, |name| {
            sys::mkdirat(dir, name, 0o700)?;
            sys::openat(dir, name, path_flags | libc::O_DIRECTORY, 0)
        })?)?,
        libc::S_IFLNK => {
            let target = CString::new(ghost.target.as_slice()).map_err(|_| Errno::EINVAL)?;
            really_unlinked(made_and_unlinked(dir, AtFlags::empty(), |name| {
                rustix::fs::symlinkat(target.as_c_str(), dir, name)?;
                open(name)
            })?)?
        }
        kind => really_unlinked(made_and_unlinked(dir, AtFlags::empty(), |name| {
            sys::mknodat(dir, name, kind | MEANWHILE, ghost.device)?;
            open(name)
        })?)?,
    };
    let stx = sys::statx(made.as_fd())?;
    if (stx.stx_uid, stx.stx_gid) != (ghost.uid, ghost.gid) {
        sys::chown(made.as_fd(), ghost.uid, ghost.gid)?;
    }
    set_xattrs(fs, made.as_fd(), ghost)?;
    Ok(made)
}

/// A new regular file without a name, open for reading and writing.
fn new_file(dir: BorrowedFd<'_>, linkable: bool) -> FsResult<OwnedFd> {
    // The kernel refuses to link what has been unlinked; with O_EXCL it refuses to link
    // this, too.
    let once = if linkable { 0 } else { libc::O_EXCL };
    let flags = libc::O_TMPFILE | libc::O_RDWR | libc::O_NONBLOCK | once;
    match sys::openat(dir, c".", flags, MEANWHILE) {
        // Not on every file system; kernels that do not know it see a directory.
        Err(Errno::EOPNOTSUPP | Errno::EISDIR) => {}
        other => return other,
    }
    if linkable {
        log::warn!(
            "the file system has no O_TMPFILE: a file of the guest's that never had a name crosses \
             without the right to be given one"
        );
    }
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_RDWR;
    made_and_unlinked(dir, AtFlags::empty(), |name| {
        sys::openat(dir, name, flags, MEANWHILE)
    })
}

fn fill(file: BorrowedFd<'_>, ghost: &Ghost, data: &[GhostData]) -> FsResult<()> {
    rustix::fs::ftruncate(file, ghost.size)?;
    for piece in data {
        let mut at = 0;
        while at < piece.bytes.len() {
            match rustix::io::pwrite(file, &piece.bytes[at..], piece.offset + at as u64) {
                Ok(0) => return Err(Errno::EIO),
                Ok(n) => at += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(())
}

fn set_xattrs(fs: &Passthrough, fd: BorrowedFd<'_>, ghost: &Ghost) -> FsResult<()> {
    for xattr in &ghost.xattrs {
        let name = CString::new(xattr.name.as_slice()).map_err(|_| Errno::EINVAL)?;
        match fs.set_xattr_of(fd, &name, &xattr.value) {
            // What the host's own security modules keep there is theirs to decide, and
            // nothing that a guest without this daemon's xattrs has seen is missed.
            Err(e) if is_host_label(&xattr.name) || !fs.config().xattr => log::debug!(
                "inode {}: its attribute {name:?} cannot be set here: {e}",
                ghost.inode
            ),
            other => other?,
        }
    }
    Ok(())
}

fn is_host_label(name: &[u8]) -> bool {
    name.starts_with(b"security.") && name != b"security.capability"
}

/// Everything of it has been opened: permissions and times, as they were.
pub(in super::super) fn finish(
    fs: &Passthrough,
    fd: BorrowedFd<'_>,
    kind: u32,
    ghost: &Ghost,
) -> FsResult<()> {
    if kind != libc::S_IFLNK {
        sys::chmod(fs.proc_self_fd(), fd, ghost.mode)?;
    }
    let time = |time: Time| libc::timespec {
        tv_sec: time.seconds as libc::time_t,
        tv_nsec: time.nanoseconds as libc::c_long,
    };
    let times = [time(ghost.accessed), time(ghost.modified)];
    sys::utimens(fs.proc_self_fd(), fd, &times)
}

/// What a ghost's error means, for an operator.
pub(in super::super) fn remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::ENOSPC | Errno::EDQUOT => "; make room in the share",
        Errno::EROFS => "; the share must be writable for it",
        Errno::EPERM | Errno::EACCES => {
            "; this daemon may not make it: give it the source's user and capabilities"
        }
        _ => "",
    }
}
