//! The mount, and its end.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{mount, unmount, MountFlags, UnmountFlags};

const DEVICE: &str = "/dev/fuse";
/// The type that `/proc/self/mountinfo` shows.
const TYPE: &str = "fuse.ferryfs";

/// Why nothing is mounted, or still is.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A path does not lead anywhere.
    #[error("cannot find {path}", path = .0.display())]
    Find(PathBuf, #[source] io::Error),
    /// What is served would be reached through itself.
    #[error(
        "{inner} lies in {outer}, which is served: a request for it would wait for itself; mount \
         elsewhere",
        inner = .inner.display(),
        outer = .outer.display()
    )]
    Inside {
        /// The mount point.
        inner: PathBuf,
        /// The shared directory.
        outer: PathBuf,
    },
    /// The kernel has no FUSE, or not for this user.
    #[error("cannot open {DEVICE}: is the fuse module there?")]
    Device(#[source] io::Error),
    /// `mount` failed.
    #[error("cannot mount on {path}: it needs CAP_SYS_ADMIN", path = .0.display())]
    Mount(PathBuf, #[source] io::Error),
    /// `umount` failed.
    #[error("cannot unmount {path}", path = .0.display())]
    Unmount(PathBuf, #[source] io::Error),
}

/// A mounted file system whose requests come out of a device.
pub struct Mount {
    device: OwnedFd,
    at: PathBuf,
}

/// `mount`'s data: as Linux itself sets them for a virtio-fs, where they cannot be
/// changed.
struct Options {
    device: i32,
    kind: u32,
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "fd={},rootmode={:o},user_id=0,group_id=0,default_permissions,allow_other",
            self.device, self.kind
        )
    }
}

impl Mount {
    /// Mounts a file system at `at`, for what is in `shared`.
    ///
    /// # Errors
    /// See [`MountError`].
    pub fn new(shared: &Path, at: &Path) -> Result<Mount, MountError> {
        let find = |path: &Path| {
            path.canonicalize()
                .map_err(|e| MountError::Find(path.to_owned(), e))
        };
        let (shared, at) = (find(shared)?, find(at)?);
        // On the directory itself it may be: that is held open from before.
        if at != shared && at.starts_with(&shared) {
            return Err(MountError::Inside {
                inner: at,
                outer: shared,
            });
        }
        let device = rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| MountError::Device(e.into()))?;
        let stat = rustix::fs::stat(&at).map_err(|e| MountError::Find(at.clone(), e.into()))?;
        let options = Options {
            device: device.as_raw_fd(),
            kind: stat.st_mode & libc::S_IFMT,
        };
        let failed = |e: Errno| MountError::Mount(at.clone(), e.into());
        let options = CString::new(options.to_string()).map_err(|_| failed(Errno::INVAL))?;
        mount(shared, &at, TYPE, MountFlags::empty(), options.as_c_str()).map_err(failed)?;
        Ok(Mount { device, at })
    }

    /// Where requests come from and replies go.
    pub fn device(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    /// Takes it off the tree of directories. Where it is in use it is served until it
    /// no longer is.
    ///
    /// # Errors
    /// [`MountError::Unmount`], as when somebody else was faster.
    pub fn unmount(&self) -> Result<(), MountError> {
        let failed = |e: Errno| MountError::Unmount(self.at.clone(), e.into());
        match unmount(&self.at, UnmountFlags::empty()) {
            Err(Errno::BUSY) => {
                log::warn!(
                    "{} is in use: it is served until it no longer is; the signal again ends it \
                     at once",
                    self.at.display()
                );
                unmount(&self.at, UnmountFlags::DETACH).map_err(failed)
            }
            done => done.map_err(failed),
        }
    }
}
