//! The passthrough file system: a host directory, or one regular file, as it is.
//!
//! - [`config`]: what it is told to do.
//! - [`inode`], [`names`], [`handle`]: what the guest holds; a crossing collects
//!   these and fills them again.
//! - [`ids`]: user and group ids that are others on the host; [`xattr_map`]: extended attributes under other names.
//! - [`handle_bytes`]: kernel file handles and the mounts they belong to.
//! - `lookup`, `create`, `attr`, `data`, `dir`, `xattr`, `ioctl`: the operations; `label`:
//!   security labels of what is made.
//! - `budget`, `kept_fds`, `fd_table`: descriptors, how many, which, and room for them.
//! - `locks`: the guest's locks, on the host.
//! - `marks`: what has changed since a crossing last looked.
//! - `creds`: acting as the guest's user. `sys`: bare system calls.
//!
//! Nothing is ever found by a path: each step is one component, opened in a
//! directory that is held, without following links.

mod attr;
mod budget;
pub mod config;
mod create;
mod creds;
mod crossing;
mod data;
mod dir;
mod fd_table;
pub mod handle;
pub mod handle_bytes;
pub mod ids;
pub mod inode;
mod ioctl;
mod kept_fds;
mod label;
mod links;
mod locks;
mod lookup;
mod marks;
pub mod names;
mod ops;
mod sys;
#[cfg(test)]
mod tests;
mod xattr;
pub mod xattr_map;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;

use crate::abi;
use crate::errno::{Errno, FsResult};
use crate::types::NodeId;
use config::{Config, InodeFileHandles, Negotiate};
use handle::Handles;
use handle_bytes::{MountKnown, MountRef, Mounts};
use inode::{InodeArc, Inodes, NewInode, Numbers, Place};
use names::Names;

/// Why a passthrough file system cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// `/proc/self/fd` is needed to open what is held by an `O_PATH` descriptor.
    #[error("cannot open /proc/self/fd: is /proc mounted?")]
    Proc(#[source] Errno),
    /// The root cannot be examined.
    #[error("cannot examine the shared directory")]
    Root(#[source] Errno),
    /// The root is neither a directory nor a regular file.
    #[error("the share is neither a directory nor a regular file (st_mode {0:#o})")]
    RootKind(u32),
    /// Ids in ACLs would not be translated.
    #[error(
        "--translate-uid and --translate-gid cannot be used with --posix-acl: the ids in ACLs \
         would stay the guest's"
    )]
    AclIds,
    /// Handles are mandatory, and the share has none.
    #[error(
        "file handles cannot be used on the shared directory (they need a file system that has \
         them, and CAP_DAC_READ_SEARCH); use --inode-file-handles=prefer or =never"
    )]
    Handles(#[source] Errno),
}

/// A host directory, or one regular file, as a FUSE file system.
pub struct Passthrough {
    pub(crate) config: Config,
    // Shared with the thread that prepares a crossing, as others are.
    pub(crate) proc_self_fd: Arc<OwnedFd>,
    pub(crate) inodes: Arc<Inodes>,
    pub(crate) names: Arc<Names>,
    pub(crate) handles: Arc<Handles>,
    pub(crate) mounts: Arc<Mounts>,
    // The root's mount stays known while nothing but the root is.
    #[allow(dead_code)]
    root_mount: Option<Arc<MountRef>>,
    kept_fds: kept_fds::KeptFds,
    budget: budget::Budget,
    // That a user of the guest is nobody here was said.
    told_of_ids: AtomicBool,
    locks: locks::Locks,
    // Whether inodes are held by handle where their mount allows it.
    use_handles: bool,
    holding: lookup::Holding,
    // Inodes that a crossing has brought and that are not located yet.
    unlocated: crossing::Unlocated,
    precopy: crossing::Precopy,
    // What precopy wants to know of requests.
    ghosts: Arc<crossing::Ghosts>,
    // What INIT answered; 0 before.
    session: AtomicU64,
    // Where the guest's `security.capability` is kept, if not under that name.
    capability: Option<std::ffi::CString>,
}

impl Passthrough {
    /// Makes the file system. Where [`Config::inode_file_handles`] is `Prefer`
    /// and handles cannot be used, says so in the log and goes on with
    /// descriptors.
    ///
    /// # Errors
    /// See [`SetupError`].
    pub fn new(mut config: Config) -> Result<Passthrough, SetupError> {
        // Found out now, and not while a guest stands still.
        ferryfs_state::processors();
        let translates = !config.uids.is_empty() || !config.gids.is_empty();
        if translates && config.posix_acl != Negotiate::Never {
            return Err(SetupError::AclIds);
        }
        config.xattr |= config.security_label != Negotiate::Never
            || config.posix_acl != Negotiate::Never
            || config.xattr_map.is_some();
        let proc_self_fd = match config.proc_self_fd.take() {
            Some(fd) => fd,
            None => {
                let flags = libc::O_PATH | libc::O_DIRECTORY;
                sys::openat(rustix::fs::CWD, c"/proc/self/fd", flags, 0)
                    .map_err(SetupError::Proc)?
            }
        };
        fd_table::make_room_from_the_start(proc_self_fd.as_fd());
        let root = Passthrough::root_inode(config.root.as_fd()).map_err(SetupError::Root)?;
        if root.kind != libc::S_IFDIR && root.kind != libc::S_IFREG {
            return Err(SetupError::RootKind(root.kind));
        }
        let mounts = Arc::new(Mounts::new());
        let root_mount = match config.inode_file_handles {
            InodeFileHandles::Never => None,
            wanted => {
                let known = mounts.find(
                    proc_self_fd.as_fd(),
                    config.root.as_fd(),
                    root.numbers.mnt_id,
                    root.numbers.dev,
                    root.kind,
                );
                let why = match known {
                    Ok(MountKnown::Usable(mount)) => Ok(mount),
                    Ok(MountKnown::Unusable(why)) | Err(why) => Err(why),
                };
                match why {
                    Ok(mount) => Some(mount),
                    Err(why) if wanted == InodeFileHandles::Mandatory => {
                        return Err(SetupError::Handles(why));
                    }
                    Err(why) => {
                        log::info!(
                            "file handles cannot be used on the share ({why}): each inode that \
                             the guest knows takes a descriptor; see --rlimit-nofile"
                        );
                        None
                    }
                }
            }
        };
        let capability = config
            .xattr_map
            .as_ref()
            .and_then(xattr::remapped_capability);
        let proc_self_fd = Arc::new(proc_self_fd);
        let inodes = Arc::new(Inodes::new(root));
        let holding = lookup::Holding {
            use_handles: root_mount.is_some(),
            mandatory: config.inode_file_handles == InodeFileHandles::Mandatory,
            mounts: mounts.clone(),
            proc_self_fd: proc_self_fd.clone(),
        };
        Ok(Passthrough {
            holding,
            unlocated: crossing::Unlocated::default(),
            capability,
            locks: locks::Locks::new(proc_self_fd.clone()),
            kept_fds: kept_fds::KeptFds::new(),
            budget: budget::Budget::new(),
            told_of_ids: AtomicBool::new(false),
            use_handles: root_mount.is_some(),
            root_mount,
            names: Arc::new(Names::marking(inodes.marks().clone())),
            inodes,
            handles: Arc::new(Handles::new()),
            mounts,
            proc_self_fd,
            precopy: crossing::Precopy::default(),
            ghosts: Arc::default(),
            session: AtomicU64::new(0),
            config,
        })
    }

    /// The root as a new inode. Always by descriptor: it is there anyway.
    fn root_inode(root: BorrowedFd<'_>) -> FsResult<NewInode> {
        let stx = sys::statx(root)?;
        Ok(NewInode {
            kind: u32::from(stx.stx_mode) & libc::S_IFMT,
            numbers: Numbers {
                mnt_id: sys::mnt_id_of(&stx),
                dev: sys::dev_of(&stx),
                ino: stx.stx_ino,
            },
            place: Place::Fd(root.try_clone_to_owned().map_err(Errno::from)?.into()),
        })
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The inodes that the guest knows.
    pub fn inodes(&self) -> &Inodes {
        &self.inodes
    }

    /// The names under which it knows them.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// What it has open.
    pub fn handles(&self) -> &Handles {
        &self.handles
    }

    /// The mounts that inodes are held on by handle.
    pub fn mounts(&self) -> &Mounts {
        &self.mounts
    }

    /// `/proc/self/fd`, which works behind a `chroot` too.
    pub fn proc_self_fd(&self) -> BorrowedFd<'_> {
        self.proc_self_fd.as_fd()
    }

    /// The negotiated `FUSE_*` INIT flags; 0 before INIT.
    pub fn session_flags(&self) -> u64 {
        self.session.load(Ordering::Relaxed)
    }

    /// Whether the guest may keep one more descriptor.
    fn room_for_one(&self) -> FsResult<()> {
        self.budget.check(self.proc_self_fd())
    }

    fn negotiated(&self, flag: u64) -> bool {
        self.session_flags() & flag != 0
    }

    /// The inode that the guest calls `node`.
    ///
    /// # Errors
    /// `EBADF` when the guest does not know such a one; what it takes to locate one that
    /// a crossing has brought.
    pub(crate) fn inode(&self, node: NodeId) -> FsResult<InodeArc> {
        match self.inodes.get(node) {
            Some(inode) => Ok(inode),
            None => self.unlocated.locate(node).or_else(|e| match e {
                // Located, and the store gone, between the two looks?
                Errno::EBADF => self.inodes.get(node).ok_or(e),
                _ => Err(e),
            }),
        }
    }

    /// The `O_*` flags that a file is opened with on the host, in a session with
    /// `session_flags`, when the guest opens it with `guest_flags`. The one place
    /// where this is decided: for OPEN, CREATE, TMPFILE, and a handle opened
    /// again after a crossing. `O_TRUNC` stays, `O_CREAT` and `O_EXCL` go.
    pub fn effective_flags(&self, guest_flags: u32, session_flags: u64) -> u32 {
        // What is not listed is the guest kernel's own business, or acts on its
        // path walk, or (O_PATH, O_TMPFILE, O_ASYNC) would make another thing of
        // the descriptor. O_APPEND is done for each write: the guest's page cache
        // writes at offsets that are right, also to an append-only file.
        let mut allowed = libc::O_ACCMODE
            | libc::O_TRUNC
            | libc::O_NONBLOCK
            | libc::O_SYNC
            | libc::O_DSYNC
            | libc::O_LARGEFILE;
        if self.config.allow_direct_io {
            allowed |= libc::O_DIRECT;
        }
        if self.config.preserve_noatime {
            allowed |= libc::O_NOATIME;
        }
        let mut flags = guest_flags as i32 & allowed;
        // The guest's page cache reads what it writes only a part of.
        if session_flags & abi::FUSE_WRITEBACK_CACHE != 0
            && flags & libc::O_ACCMODE == libc::O_WRONLY
        {
            flags = (flags & !libc::O_ACCMODE) | libc::O_RDWR;
        }
        flags as u32
    }
}
