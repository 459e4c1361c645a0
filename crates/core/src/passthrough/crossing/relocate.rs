//! Finding an object again that is no longer where the guest last saw it:
//! `/proc/self/fd` knows its name now.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::super::inode::InodeArc;
use super::super::lookup::Object;
use super::super::{sys, Passthrough};
use super::verify::leads_to;
use crate::errno::{Errno, FsResult};
use crate::types::NodeId;

/// What became of an inode.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Whereabouts {
    /// Found, and its name remembered.
    Found,
    /// It has no name any more: unlinked.
    Unlinked,
    /// It exists, but no name in the share is known to lead to it.
    Unknown,
}

/// The components from `root` to the object that `fd` is, as the kernel prints them in
/// `proc_self_fd`; `None` when it is not below `root`.
pub(super) fn path_below(
    proc_self_fd: BorrowedFd<'_>,
    root: BorrowedFd<'_>,
    fd: BorrowedFd<'_>,
) -> FsResult<Option<Vec<Vec<u8>>>> {
    let path_of = |fd: BorrowedFd<'_>| -> FsResult<Vec<u8>> {
        let name = sys::FdName::new(fd.as_raw_fd());
        let path = rustix::fs::readlinkat(proc_self_fd, name.as_c_str(), Vec::new())?;
        Ok(path.into_bytes())
    };
    let (base, path) = (path_of(root)?, path_of(fd)?);
    let rest = match base.as_slice() {
        // In a chroot, or sharing all: the root has no path of its own.
        b"/" => path.strip_prefix(b"/"),
        base => path
            .strip_prefix(base)
            .and_then(|rest| rest.strip_prefix(b"/")),
    };
    Ok(rest
        .filter(|rest| !rest.is_empty())
        .map(|rest| rest.split(|&b| b == b'/').map(<[u8]>::to_vec).collect()))
}

impl Passthrough {
    /// Looks for `inode` and corrects its remembered name. The device is stopped.
    ///
    /// # Errors
    /// A system call's, such as `ESTALE` for an object that is gone.
    pub(super) fn relocate(&self, inode: &InodeArc) -> FsResult<Whereabouts> {
        let fd = inode.fd()?;
        if sys::statx(fd.as_fd())?.stx_nlink == 0 {
            return Ok(Whereabouts::Unlinked);
        }
        // Another remembered link will do.
        for link in self.names.all_of(inode) {
            let right = self
                .inodes
                .get_or_pinned(link.parent)
                .and_then(|parent| {
                    let dir = parent.fd().ok()?;
                    leads_to(dir.as_fd(), &link.name, inode).ok()
                })
                .unwrap_or(false);
            if right {
                self.names_insert_again(&link.parent, &link.name, inode);
                return Ok(Whereabouts::Found);
            }
            self.names.remove(&self.inodes, link.parent, &link.name);
        }
        let Some(components) = self.path_in_share(fd.as_fd())? else {
            return Ok(Whereabouts::Unknown);
        };
        drop(fd);
        self.remember_path(inode, &components)
    }

    fn names_insert_again(&self, parent: &NodeId, name: &[u8], inode: &InodeArc) {
        if let Some(parent) = self.inodes.get_or_pinned(*parent) {
            // 2: the other names may be right as well.
            self.names.insert(&self.inodes, &parent, name, inode, 2);
        }
    }

    /// The components from the share's root to the object that `fd` is, as the
    /// kernel prints them; `None` when it is not below the root.
    fn path_in_share(&self, fd: BorrowedFd<'_>) -> FsResult<Option<Vec<Vec<u8>>>> {
        path_below(self.proc_self_fd(), self.config.root.as_fd(), fd)
    }

    /// Walks `components` from the root, and where they lead to `inode`,
    /// remembers them. Directories on the way that the guest does not know are
    /// kept by what lies in them, as those are that it has forgotten.
    fn remember_path(&self, inode: &InodeArc, components: &[Vec<u8>]) -> FsResult<Whereabouts> {
        let Some((last, directories)) = components.split_last() else {
            return Ok(Whereabouts::Unknown);
        };
        let mut borrowed = Vec::with_capacity(directories.len());
        let mut at = self.inode(NodeId::ROOT)?;
        let result = (|| {
            for component in directories {
                let name = CString::new(component.as_slice()).map_err(|_| Errno::EINVAL)?;
                let fd = sys::openat(at.fd()?.as_fd(), &name, libc::O_PATH | libc::O_NOFOLLOW, 0)?;
                let (next, _) = self.adopt(Object::Path(fd))?;
                borrowed.push(next.clone());
                self.names.insert(&self.inodes, &at, component, &next, 1);
                at = next;
            }
            if !leads_to(at.fd()?.as_fd(), last, inode)? {
                return Ok(Whereabouts::Unknown);
            }
            self.names.insert(&self.inodes, &at, last, inode, 1);
            Ok(Whereabouts::Found)
        })();
        for directory in borrowed {
            self.names.release(&self.inodes, directory, 1);
        }
        match result {
            // Moved again between the two looks, or not ours to enter.
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(Whereabouts::Unknown),
            other => other,
        }
    }
}
