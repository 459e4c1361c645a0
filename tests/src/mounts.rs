//! A mount namespace for one test.

use std::ffi::{CStr, CString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Gives the calling thread, and the processes it starts from now on, a mount
/// namespace of their own, from which nothing gets out. It is gone with the last of
/// them.
///
/// # Errors
/// Without the right to (CAP_SYS_ADMIN).
pub fn own_namespace() -> io::Result<()> {
    // SAFETY: changes this thread's view of mounts, and its working directory is no
    // longer shared with other threads; no memory is concerned.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(io::Error::last_os_error());
    }
    mount(
        None,
        Path::new("/"),
        None,
        libc::MS_REC | libc::MS_PRIVATE,
        None,
    )
}

/// Mounts an empty tmpfs on `at`.
///
/// # Errors
/// Of mount(2).
pub fn tmpfs(at: &Path) -> io::Result<()> {
    mount(Some(c"tmpfs"), at, Some(c"tmpfs"), 0, None)
}

/// Mounts an empty tmpfs on `at`, with mount(2)'s flags and options such as `size=1m`.
///
/// # Errors
/// Of mount(2).
pub fn tmpfs_with(at: &Path, flags: libc::c_ulong, options: &CStr) -> io::Result<()> {
    mount(Some(c"tmpfs"), at, Some(c"tmpfs"), flags, Some(options))
}

/// Takes the mount at `at` away from this namespace.
///
/// # Errors
/// Of umount2(2).
pub fn unmount(at: &Path) -> io::Result<()> {
    let at = CString::new(at.as_os_str().as_bytes())?;
    // SAFETY: `at` is a string that ends with NUL and lives until the call returns.
    match unsafe { libc::umount2(at.as_ptr(), libc::MNT_DETACH) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn mount(
    source: Option<&CStr>,
    at: &Path,
    kind: Option<&CStr>,
    flags: libc::c_ulong,
    options: Option<&CStr>,
) -> io::Result<()> {
    let at = CString::new(at.as_os_str().as_bytes())?;
    let pointer = |s: Option<&CStr>| s.map_or(std::ptr::null(), |s| s.as_ptr());
    // SAFETY: all strings end with NUL (or are null where mount(2) allows it) and
    // live until the call returns.
    let done = unsafe {
        libc::mount(
            pointer(source),
            at.as_ptr(),
            pointer(kind),
            flags,
            pointer(options).cast(),
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
