//! Confinement of the daemon: which part of the host it can still reach once it
//! serves a guest.
//!
//! Two steps, both in the main thread. [`enter`] comes before any other thread is
//! started (capabilities are a thread's own) and behind what needs the host's name
//! space: the listening socket. It answers the share as the confined process sees
//! it. [`seccomp::apply`] comes last, right before the first request, when nothing
//! is left to be set up; it covers the threads there are and those to come.

mod capabilities;
mod chroot;
mod idmap;
mod limits;
mod namespace;
pub mod seccomp;
mod waiting;

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode as FileMode, OFlags, CWD};
use rustix::mount::{open_tree, OpenTreeFlags};

pub use capabilities::{
    drop_capabilities, held_capabilities, CapabilityChanges, KEPT as KEPT_CAPABILITIES,
};
pub use idmap::{IdMap, IdMapError, IdMaps};
pub use limits::{raise_open_file_limit, LimitError};
pub use waiting::{ChildEnd, WaitError, Waiting};

/// How far the daemon is confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Not at all. The file system core still never walks out of the share.
    None,
    /// The share becomes the root directory, by chroot(2). Needs root.
    Chroot,
    /// Mount, process id and network namespaces of its own (and a user namespace,
    /// for a user who is not root), with the share as the only thing mounted.
    Namespace,
}

/// What [`enter`] is asked for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How far.
    pub mode: Mode,
    /// Users and groups of the user namespace that a user who is not root gets
    /// with [`Mode::Namespace`].
    pub id_maps: IdMaps,
    /// Capabilities to keep beside, or not of, [`KEPT_CAPABILITIES`].
    pub capabilities: CapabilityChanges,
}

/// The share as the confined process sees it.
#[derive(Debug)]
pub struct Confined {
    /// The share's root, an `O_PATH` descriptor.
    pub root: OwnedFd,
    /// `/proc/self/fd` where it cannot be opened any more.
    pub proc_self_fd: Option<OwnedFd>,
}

/// Which process this is, behind [`enter`].
#[derive(Debug)]
pub enum Role {
    /// It is confined, and is to serve.
    Serve(Confined),
    /// It has started the process that serves, and has only to wait for it.
    Wait(Waiting),
}

/// Why the daemon could not be confined.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The share cannot be opened.
    #[error("failed to open the shared directory {}", path.display())]
    Share {
        /// As given.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
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
    /// `/proc/self/fd` cannot be opened.
    #[error("cannot open /proc/self/fd: is /proc mounted?")]
    Proc(#[source] io::Error),
    /// The kernel gives no namespaces.
    #[error(
        "--sandbox namespace: no new {what} namespace; the kernel or the container forbids it: \
         use --sandbox chroot (as root) or --sandbox none"
    )]
    Unshare {
        /// Which kinds.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The user namespace's ids could not be mapped.
    #[error("--sandbox namespace: failed to map ids")]
    IdMap(#[source] IdMapError),
    /// Making the share the only thing mounted failed.
    #[error(
        "--sandbox namespace: failed to {what}; if this host cannot do it, use --sandbox chroot \
         (as root) or --sandbox none"
    )]
    Mount {
        /// The step.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The path led to something else than before.
    #[error("the shared directory {} was replaced while the daemon was starting", .0.display())]
    Replaced(PathBuf),
    /// The process that serves could not be started.
    #[error("--sandbox namespace: failed to {what}")]
    Process {
        /// The step.
        what: &'static str,
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

/// Confines the process to `share`, drops every capability that serving files does
/// not need, and gives up gaining new privileges.
///
/// With [`Mode::Namespace`] this forks: the new process comes back with
/// [`Role::Serve`] and does not see the host any more, this one with [`Role::Wait`].
/// Both then have SIGTERM, SIGINT and SIGHUP blocked.
///
/// # Errors
/// See [`SandboxError`]; the process may then be confined in part and must end.
pub fn enter(settings: &Settings, share: &Path) -> Result<Role, SandboxError> {
    let confined = match settings.mode {
        Mode::None => Confined {
            root: open_share(share)?,
            proc_self_fd: None,
        },
        Mode::Chroot => {
            let root = open_share(share)?;
            let proc_self_fd = proc_self_fd()?;
            chroot::chroot(share)?;
            Confined {
                root,
                proc_self_fd: Some(proc_self_fd),
            }
        }
        Mode::Namespace => match namespace::enter(settings, share)? {
            Role::Serve(confined) => confined,
            waiting @ Role::Wait(_) => return Ok(waiting),
        },
    };
    drop_capabilities(&settings.capabilities.apply()).map_err(SandboxError::Capabilities)?;
    rustix::thread::set_no_new_privs(true).map_err(|e| SandboxError::NoNewPrivs(e.into()))?;
    Ok(Role::Serve(confined))
}

/// The share, by the path the operator gave.
fn open_share(path: &Path) -> Result<OwnedFd, SandboxError> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, FileMode::empty()).map_err(|e| SandboxError::Share {
        path: path.to_owned(),
        source: e.into(),
    })
}

/// `/proc/self/fd` as a descriptor that leads nowhere else.
///
/// As a mount of its own that is attached nowhere, it has no parent directory: what
/// was taken over cannot climb from it to `/proc/sys` and other processes. Where
/// such a mount cannot be had, a plain descriptor.
fn proc_self_fd() -> Result<OwnedFd, SandboxError> {
    let path = OsStr::new("/proc/self/fd");
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if let Ok(fd) = open_tree(CWD, path, clone) {
        return Ok(fd);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, FileMode::empty())
        .map_err(|e| SandboxError::Proc(e.into()))
}
