//! Extended attributes, of files of every kind.
//!
//! An `O_PATH` descriptor has no attributes for the system calls that take a
//! descriptor, and opening a device or fifo is out of the question. So the calls
//! that take a path get the descriptor's number, relative to `/proc/self/fd`,
//! which is this thread's working directory (see [`super::sys::own_fs`]). What
//! such a link leads to is never followed further, so a symbolic link's own
//! attributes are reached.

use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::xattr_map::XattrMap;
use super::{creds, sys, Passthrough};
use crate::abi;
use crate::errno::{Errno, FsResult};
use crate::fs::{Context, XattrReply};
use crate::types::NodeId;

/// `XATTR_SIZE_MAX` and `XATTR_LIST_MAX`: what Linux takes, in bytes.
const MOST: usize = 65536;

const ACCESS_ACL: &[u8] = b"system.posix_acl_access";
const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";
/// What attributes begin with that are root's alone.
const TRUSTED: &[u8] = b"trusted.";

/// File capabilities, which the kernel takes away from a file that is written,
/// truncated, or given to another owner.
const CAPABILITY: &CStr = c"security.capability";

/// Where `map` keeps [`CAPABILITY`], if under another name: from there the host's
/// kernel does not take it away.
pub(super) fn remapped_capability(map: &XattrMap) -> Option<CString> {
    match map.to_host(CAPABILITY) {
        Ok(Cow::Owned(name)) => Some(name),
        _ => None,
    }
}

fn length(rc: libc::ssize_t) -> FsResult<usize> {
    if rc < 0 {
        Err(Errno::last())
    } else {
        Ok(rc as usize)
    }
}

/// `setxattr`; `flags` are `XATTR_*`.
fn set(path: &CStr, name: &CStr, value: &[u8], flags: u32) -> FsResult<()> {
    // SAFETY: path and name end with NUL, the value has the length given; all
    // outlive the call.
    let rc = unsafe {
        libc::setxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            flags as libc::c_int,
        )
    };
    length(rc as libc::ssize_t).map(drop)
}

impl Passthrough {
    /// Sets an attribute of what `fd` (of any kind) is.
    pub(super) fn set_xattr_of(
        &self,
        fd: BorrowedFd<'_>,
        name: &CStr,
        value: &[u8],
    ) -> FsResult<()> {
        sys::own_fs(self.proc_self_fd())?;
        set(sys::FdName::new(fd.as_raw_fd()).as_c_str(), name, value, 0)
    }

    /// All attributes of what `fd` (of any kind) is, under the host's names. None where
    /// the file system has no attributes.
    pub(super) fn xattrs_of(&self, fd: BorrowedFd<'_>) -> FsResult<Vec<(Vec<u8>, Vec<u8>)>> {
        sys::own_fs(self.proc_self_fd())?;
        let path = sys::FdName::new(fd.as_raw_fd());
        let path = path.as_c_str();
        let mut names = vec![0u8; MOST];
        // SAFETY: the path ends with NUL; the kernel writes at most `names.len()` bytes.
        let rc = unsafe { libc::listxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
        match length(rc) {
            Ok(n) => names.truncate(n),
            Err(Errno::EOPNOTSUPP) => return Ok(Vec::new()),
            Err(e) => return Err(e),
        }
        let mut all = Vec::new();
        let mut value = vec![0u8; MOST];
        for name in names.split_inclusive(|&byte| byte == 0) {
            let Ok(name) = CStr::from_bytes_with_nul(name) else {
                continue;
            };
            // SAFETY: path and name end with NUL; the kernel writes at most
            // `value.len()` bytes.
            let rc = unsafe {
                libc::getxattr(
                    path.as_ptr(),
                    name.as_ptr(),
                    value.as_mut_ptr().cast(),
                    value.len(),
                )
            };
            match length(rc) {
                Ok(n) => all.push((name.to_bytes().to_vec(), value[..n].to_vec())),
                // Gone meanwhile, or listed and not to be had.
                Err(Errno::ENODATA | Errno::EOPNOTSUPP) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(all)
    }

    /// Whether an attribute is one by which the host's kernel would grant or deny
    /// access, while the guest's does not know that it has to ask for it.
    fn hidden(&self, name: &[u8]) -> bool {
        (name == ACCESS_ACL || name == DEFAULT_ACL) && !self.negotiated(abi::FUSE_POSIX_ACL)
    }

    /// Runs `call` with a path, relative to the working directory, of the inode.
    fn with_path<T>(&self, node: NodeId, call: impl FnOnce(&CStr) -> FsResult<T>) -> FsResult<T> {
        if !self.config.xattr {
            // The guest kernel asks no more.
            return Err(Errno::ENOSYS);
        }
        let inode = self.inode(node)?;
        let fd = self.kept_fds.get(&inode)?;
        sys::own_fs(self.proc_self_fd())?;
        call(sys::FdName::new(fd.as_fd().as_raw_fd()).as_c_str())
    }

    fn with_attribute<T>(
        &self,
        node: NodeId,
        name: &CStr,
        call: impl FnOnce(&CStr, &CStr) -> FsResult<T>,
    ) -> FsResult<T> {
        self.with_path(node, |path| {
            if self.hidden(name.to_bytes()) {
                return Err(Errno::EOPNOTSUPP);
            }
            let name = self.host_name(name)?;
            // Nor by way of a map.
            if self.hidden(name.to_bytes()) {
                return Err(Errno::EOPNOTSUPP);
            }
            call(path, &name)
        })
    }

    /// The host's name of the guest's attribute `name`.
    pub(super) fn host_name<'n>(&self, name: &'n CStr) -> FsResult<Cow<'n, CStr>> {
        match &self.config.xattr_map {
            None => Ok(Cow::Borrowed(name)),
            Some(map) => map.to_host(name),
        }
    }

    /// The guest's name of the host's attribute `name`; `None` where it has none.
    fn guest_name<'n>(&self, name: &'n [u8]) -> Option<&'n [u8]> {
        let shown = match &self.config.xattr_map {
            None => name,
            Some(map) => map.to_guest(name)?,
        };
        (!self.hidden(name) && !self.hidden(shown)).then_some(shown)
    }

    /// Takes the guest's file capabilities away from a file that is about to
    /// change, where the host's kernel does not know them as such. `open`: `fd` is
    /// of more than `O_PATH`.
    pub(super) fn kill_capability(
        &self,
        inode_kind: u32,
        fd: BorrowedFd<'_>,
        open: bool,
    ) -> FsResult<()> {
        let Some(name) = &self.capability else {
            return Ok(());
        };
        if inode_kind != libc::S_IFREG {
            return Ok(());
        }
        let removed = if open {
            // SAFETY: the name ends with NUL and outlives the call.
            unsafe { libc::fremovexattr(fd.as_raw_fd(), name.as_ptr()) }
        } else {
            sys::own_fs(self.proc_self_fd())?;
            let path = sys::FdName::new(fd.as_raw_fd());
            // SAFETY: both end with NUL and outlive the call.
            unsafe { libc::removexattr(path.as_c_str().as_ptr(), name.as_ptr()) }
        };
        match length(removed as libc::ssize_t) {
            Ok(_) | Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(()),
            Err(e) => Err(e),
        }
    }

    pub(super) fn do_setxattr(
        &self,
        node: NodeId,
        name: &CStr,
        value: &[u8],
        flags: u32,
        acl_kill_sgid: bool,
    ) -> FsResult<()> {
        if acl_kill_sgid && name.to_bytes() == ACCESS_ACL {
            return self.set_acl_of_stranger(node, name, value, flags);
        }
        self.with_attribute(node, name, |path, name| set(path, name, value, flags))
    }

    /// Sets the access ACL for a caller who is not in the file's group, nor has
    /// `CAP_FSETID`: the set-group-id bit goes.
    fn set_acl_of_stranger(
        &self,
        node: NodeId,
        name: &CStr,
        value: &[u8],
        flags: u32,
    ) -> FsResult<()> {
        self.with_attribute(node, name, |path, name| {
            let _without = creds::without_fsetid()?;
            set(path, name, value, flags)
        })?;
        // The kernel leaves it where the daemon itself is in the file's group.
        let inode = self.inode(node)?;
        let fd = self.kept_fds.get(&inode)?;
        let mode = u32::from(sys::statx(fd.as_fd())?.stx_mode) & 0o7777;
        if mode & libc::S_ISGID != 0 {
            sys::chmod(self.proc_self_fd(), fd.as_fd(), mode & !libc::S_ISGID)?;
        }
        Ok(())
    }

    pub(super) fn do_getxattr(&self, node: NodeId, name: &CStr, size: u32) -> FsResult<XattrReply> {
        let found = self.with_attribute(node, name, |path, name| {
            let mut value = vec![0u8; (size as usize).min(MOST)];
            // SAFETY: path and name end with NUL; the kernel writes at most
            // `value.len()` bytes, and with 0 none.
            let rc = unsafe {
                libc::getxattr(
                    path.as_ptr(),
                    name.as_ptr(),
                    value.as_mut_ptr().cast(),
                    value.len(),
                )
            };
            let len = length(rc)?;
            if size == 0 {
                return Ok(XattrReply::Size(len as u32));
            }
            value.truncate(len);
            Ok(XattrReply::Value(value))
        });
        match found {
            // What a map keeps from the guest is not there, for one who looks.
            Err(Errno::EPERM) if self.denied(name) => Err(Errno::ENODATA),
            found => found,
        }
    }

    /// Whether the map keeps an attribute from the guest.
    fn denied(&self, name: &CStr) -> bool {
        self.host_name(name).is_err()
    }

    pub(super) fn do_listxattr(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        size: u32,
    ) -> FsResult<XattrReply> {
        // Users are not to know of them. The host's kernel leaves them out by who
        // the daemon is, and the guest's shows what it gets.
        let kept_from_users = |name: &[u8]| ctx.uid != 0 && name.starts_with(TRUSTED);
        self.with_path(node, |path| {
            // SAFETY: the path ends with NUL; with size 0 nothing is written.
            let len = unsafe { libc::listxattr(path.as_ptr(), std::ptr::null_mut(), 0) };
            // Room for what may be added meanwhile.
            let mut list = vec![0u8; (length(len)? + 256).min(MOST)];
            // SAFETY: as above; at most `list.len()` bytes are written.
            let len =
                unsafe { libc::listxattr(path.as_ptr(), list.as_mut_ptr().cast(), list.len()) };
            list.truncate(length(len)?);
            let mut shown = Vec::with_capacity(list.len());
            for name in list.split(|byte| *byte == 0).filter(|n| !n.is_empty()) {
                if let Some(name) = self.guest_name(name).filter(|n| !kept_from_users(n)) {
                    shown.extend_from_slice(name);
                    shown.push(0);
                }
            }
            match size as usize {
                0 => Ok(XattrReply::Size(shown.len() as u32)),
                size if size < shown.len() => Err(Errno::ERANGE),
                _ => Ok(XattrReply::Value(shown)),
            }
        })
    }

    pub(super) fn do_removexattr(&self, node: NodeId, name: &CStr) -> FsResult<()> {
        self.with_attribute(node, name, |path, name| {
            // SAFETY: path and name end with NUL and outlive the call.
            let rc = unsafe { libc::removexattr(path.as_ptr(), name.as_ptr()) };
            length(rc as libc::ssize_t).map(drop)
        })
    }
}
