//! Security labels of what the guest makes (`FUSE_SECURITY_CTX`).
//!
//! A regular file gets its label before it gets its name, where the host file
//! system can make files without one. For everything else Linux has no such
//! way, other than by its own security module: the label is set right behind,
//! and what cannot be labelled is removed again. The guest hears of it only
//! after that, and its requests about the name wait meanwhile.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, XattrFlags};

use super::create::NewMode;
use super::lookup::open_path;
use super::{sys, Passthrough};
use crate::errno::{Errno, FsResult};
use crate::fs::{Context, SecurityContext};
use crate::types::Name;

/// Whether two descriptors are of one object.
fn same(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> FsResult<bool> {
    let (a, b) = (sys::statx(a)?, sys::statx(b)?);
    Ok(a.stx_ino == b.stx_ino && sys::dev_of(&a) == sys::dev_of(&b))
}

impl Passthrough {
    /// Labels an open file.
    pub(super) fn label_open(
        &self,
        file: BorrowedFd<'_>,
        label: &SecurityContext<'_>,
    ) -> FsResult<()> {
        Ok(rustix::fs::fsetxattr(
            file,
            &*self.host_name(label.name)?,
            label.value,
            XattrFlags::empty(),
        )?)
    }

    /// Makes a regular file that has its label when it gets its name, and opens
    /// it; the second descriptor is an `O_PATH` one, found by the name, unless
    /// others have put something else there already. `None` where that cannot be
    /// done, or where the usual way gives the better error.
    pub(super) fn create_hidden(
        &self,
        ctx: &Context<'_>,
        dir: BorrowedFd<'_>,
        name: &Name,
        host_flags: i32,
        mode: &NewMode,
        label: &SecurityContext<'_>,
    ) -> FsResult<Option<(OwnedFd, Option<OwnedFd>)>> {
        // The kernel makes nameless files for writing only.
        if host_flags & libc::O_ACCMODE == libc::O_RDONLY {
            return Ok(None);
        }
        let made = {
            let _acting = self.acting(ctx, mode)?;
            let flags = (host_flags & !libc::O_TRUNC) | libc::O_TMPFILE;
            sys::openat(dir, c".", flags, mode.mode)
        };
        let Ok(file) = made else { return Ok(None) };
        self.label_open(file.as_fd(), label)?;
        {
            let _acting = self.acting(ctx, mode)?;
            sys::link(self.proc_self_fd(), file.as_fd(), dir, name.as_c_str())?;
        }
        // The file's own descriptor will say for ever that it has no name.
        let named = open_path(dir, name)
            .ok()
            .filter(|fd| same(fd.as_fd(), file.as_fd()).unwrap_or(false));
        Ok(Some((file, named)))
    }

    /// Labels a file that has just been made under `name`; where that fails, the
    /// name is removed.
    pub(super) fn label_new_file(
        &self,
        dir: BorrowedFd<'_>,
        name: &Name,
        file: BorrowedFd<'_>,
        label: &SecurityContext<'_>,
    ) -> FsResult<()> {
        self.label_open(file, label)
            .inspect_err(|e| self.unmake(dir, name, file, AtFlags::empty(), *e))
    }

    /// Labels what has just been made under `name`, of `kind` (`S_IFMT`); where
    /// that fails, it is removed.
    pub(super) fn label_name(
        &self,
        dir: BorrowedFd<'_>,
        name: &Name,
        kind: u32,
        label: &SecurityContext<'_>,
    ) -> FsResult<()> {
        let made = open_path(dir, name)?;
        if u32::from(sys::statx(made.as_fd())?.stx_mode) & libc::S_IFMT != kind {
            // Others have put something else there, which is not to be labelled.
            return Err(Errno::ESTALE);
        }
        let flags = match kind {
            libc::S_IFDIR => AtFlags::REMOVEDIR,
            _ => AtFlags::empty(),
        };
        self.host_name(label.name)
            .and_then(|name| self.set_xattr_of(made.as_fd(), &name, label.value))
            .inspect_err(|e| self.unmake(dir, name, made.as_fd(), flags, *e))
    }

    /// Removes what has just been made, and no other.
    fn unmake(
        &self,
        dir: BorrowedFd<'_>,
        name: &Name,
        made: BorrowedFd<'_>,
        flags: AtFlags,
        why: Errno,
    ) {
        let removed = open_path(dir, name).and_then(|there| {
            if same(there.as_fd(), made)? {
                rustix::fs::unlinkat(dir, name.as_c_str(), flags)?;
            }
            Ok(())
        });
        match removed {
            Ok(()) => log::debug!("{name:?} cannot be labelled ({why}): it is removed again"),
            Err(e) => log::error!(
                "{name:?} cannot be labelled ({why}), nor removed ({e}): it stays without a label"
            ),
        }
    }
}
