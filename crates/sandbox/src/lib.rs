//! Confinement of the daemon: which part of the host it can still reach once it
//! serves a guest.
//!
//! [`enter`] is called once, in the main thread, before any other thread is
//! started (capabilities are a thread's own) and after everything that needs the
//! host's name space has been opened: the share, the listening socket,
//! `/proc/self/fd`.

mod capabilities;
mod limits;

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

pub use capabilities::{drop_capabilities, KEPT as KEPT_CAPABILITIES};
pub use limits::{raise_open_file_limit, LimitError};

/// How far the daemon is confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Not at all. The file system core still never walks out of the share.
    None,
    /// The share becomes the root directory, by chroot(2). Needs root.
    Chroot,
}

/// Why the daemon could not be confined.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// chroot(2) is for root.
    #[error(
        "--sandbox chroot needs CAP_SYS_CHROOT; start the daemon as root or use --sandbox none"
    )]
    ChrootNotPermitted(#[source] io::Error),
    /// chroot(2) takes directories.
    #[error("--sandbox chroot needs a directory, and {} is none; use --sandbox none", .0.display())]
    NotADirectory(PathBuf),
    /// chroot(2) or chdir(2) failed.
    #[error("failed to make {} the root directory", path.display())]
    Chroot {
        /// The share.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// PR_SET_NO_NEW_PRIVS failed.
    #[error("failed to give up new privileges (PR_SET_NO_NEW_PRIVS)")]
    NoNewPrivs(#[source] io::Error),
    /// Capabilities could not be dropped.
    #[error("failed to drop capabilities: {0}")]
    Capabilities(String),
}

/// Confines the process to `share` as `mode` says, drops every capability that
/// serving files does not need, and gives up gaining new privileges.
///
/// # Errors
/// See [`SandboxError`]; the process may then be confined in part and must end.
pub fn enter(mode: Mode, share: &Path) -> Result<(), SandboxError> {
    if mode == Mode::Chroot {
        chroot(share)?;
    }
    drop_capabilities().map_err(SandboxError::Capabilities)?;
    rustix::thread::set_no_new_privs(true).map_err(|e| SandboxError::NoNewPrivs(e.into()))?;
    Ok(())
}

fn chroot(share: &Path) -> Result<(), SandboxError> {
    let failed = |source: io::Error| SandboxError::Chroot {
        path: share.to_owned(),
        source,
    };
    if !share.metadata().map_err(failed)?.is_dir() {
        return Err(SandboxError::NotADirectory(share.to_owned()));
    }
    let path = CString::new(share.as_os_str().as_bytes())
        .map_err(|_| failed(io::Error::from_raw_os_error(libc::EINVAL)))?;
    // SAFETY: `path` is a NUL-terminated string that outlives the call.
    if unsafe { libc::chroot(path.as_ptr()) } != 0 {
        let e = io::Error::last_os_error();
        return Err(match e.raw_os_error() {
            Some(libc::EPERM) => SandboxError::ChrootNotPermitted(e),
            _ => failed(e),
        });
    }
    rustix::process::chdir("/").map_err(|e| failed(e.into()))
}
