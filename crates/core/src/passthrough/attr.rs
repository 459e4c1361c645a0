//! Attributes: GETATTR, STATX, SETATTR, ACCESS, STATFS.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Statx, StatxFlags};

use super::ids::{GuestId, HostId, IdTable};
use super::inode::Inode;
use super::{creds, sys, Passthrough};
use crate::abi::SxTime;
use crate::errno::{Errno, FsResult};
use crate::fs::{self, Attr, AttrReply, Context, Kstatfs, SetAttr, SetTime, StatxReply};
use crate::types::{HandleId, NodeId};

/// The guest's form of a device number: the kernel's `new_encode_dev`.
fn encode_dev(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// What [`encode_dev`] has made, for `mknod`: the kernel's `new_decode_dev`.
pub(super) fn decode_dev(dev: u32) -> u64 {
    let major = (dev & 0x000f_ff00) >> 8;
    let minor = (dev & 0xff) | ((dev >> 12) & 0x000f_ff00);
    libc::makedev(major, minor)
}

/// `statx` as FUSE has it; `flags` are `FUSE_ATTR_*`.
fn attr_of(stx: &Statx, flags: u32) -> Attr {
    Attr {
        ino: stx.stx_ino,
        size: stx.stx_size,
        blocks: stx.stx_blocks,
        // Seconds are signed; the guest reads them as such.
        atime: stx.stx_atime.tv_sec as u64,
        mtime: stx.stx_mtime.tv_sec as u64,
        ctime: stx.stx_ctime.tv_sec as u64,
        atimensec: stx.stx_atime.tv_nsec,
        mtimensec: stx.stx_mtime.tv_nsec,
        ctimensec: stx.stx_ctime.tv_nsec,
        mode: u32::from(stx.stx_mode),
        nlink: stx.stx_nlink,
        uid: stx.stx_uid,
        gid: stx.stx_gid,
        rdev: encode_dev(stx.stx_rdev_major, stx.stx_rdev_minor),
        blksize: stx.stx_blksize,
        flags,
    }
}

fn timespec(time: Option<SetTime>) -> FsResult<libc::timespec> {
    let (sec, nsec) = match time {
        None => (0, libc::UTIME_OMIT),
        Some(SetTime::Now) => (0, libc::UTIME_NOW),
        // The two special values are nobody's to send.
        Some(SetTime::At(_, nsec)) if nsec >= 1_000_000_000 => return Err(Errno::EINVAL),
        Some(SetTime::At(sec, nsec)) => (sec, i64::from(nsec)),
    };
    // Not a literal of the whole struct: some targets pad it.
    // SAFETY: zeros are a valid `timespec`.
    let mut time: libc::timespec = unsafe { std::mem::zeroed() };
    time.tv_sec = sec as libc::time_t;
    time.tv_nsec = nsec as libc::c_long;
    Ok(time)
}

impl Passthrough {
    /// Runs `f` with a descriptor of what is meant: the open file where the guest
    /// names one, otherwise the inode's (`O_PATH`).
    fn with_object<T>(
        &self,
        node: NodeId,
        handle: Option<HandleId>,
        f: impl FnOnce(BorrowedFd<'_>) -> FsResult<T>,
    ) -> FsResult<T> {
        match handle {
            Some(handle) => f(self.handles.find_any(handle, node)?.fd()?),
            None => {
                let inode = self.inode(node)?;
                let fd = self.kept_fds.get(&inode)?;
                f(fd.as_fd())
            }
        }
    }

    /// What the guest is told of an object; `flags` are `FUSE_ATTR_*`.
    pub(super) fn attr(&self, stx: &Statx, flags: u32) -> Attr {
        let mut attr = attr_of(stx, flags);
        attr.uid = self.config.uids.to_guest(HostId(attr.uid)).0;
        attr.gid = self.config.gids.to_guest(HostId(attr.gid)).0;
        attr
    }

    fn attr_reply(&self, node: NodeId, fd: BorrowedFd<'_>) -> FsResult<AttrReply> {
        let mut attr = self.attr(&sys::statx(fd)?, 0);
        if let Some(number) = self.ghosts.number(node) {
            attr.ino = number;
        }
        Ok(AttrReply {
            attr,
            timeout: self.config.cache.timeout(),
        })
    }

    pub(super) fn do_getattr(&self, node: NodeId, handle: Option<HandleId>) -> FsResult<AttrReply> {
        self.with_object(node, handle, |fd| self.attr_reply(node, fd))
    }

    pub(super) fn do_statx(
        &self,
        node: NodeId,
        handle: Option<HandleId>,
        flags: u32,
        mask: u32,
    ) -> FsResult<StatxReply> {
        let sync = AtFlags::STATX_FORCE_SYNC | AtFlags::STATX_DONT_SYNC;
        let flags = AtFlags::from_bits_truncate(flags) & sync;
        // The kernel that asks takes no answer that leaves any of the basic ones out.
        let mask = StatxFlags::from_bits_truncate(mask) & StatxFlags::BTIME;
        let wanted = StatxFlags::BASIC_STATS | mask;
        self.with_object(node, handle, |fd| {
            let mut stat = self.statx_of(&sys::statx_with(fd, flags, wanted)?);
            if let Some(number) = self.ghosts.number(node) {
                stat.ino = number;
            }
            Ok(StatxReply {
                stat,
                timeout: self.config.cache.timeout(),
            })
        })
    }

    fn statx_of(&self, stx: &Statx) -> fs::Statx {
        let time = |time: &rustix::fs::StatxTimestamp| SxTime {
            tv_sec: time.tv_sec,
            tv_nsec: time.tv_nsec,
            reserved: 0,
        };
        let known = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        fs::Statx {
            mask: stx.stx_mask & known.bits(),
            blksize: stx.stx_blksize,
            attributes: stx.stx_attributes.bits(),
            nlink: stx.stx_nlink,
            uid: self.config.uids.to_guest(HostId(stx.stx_uid)).0,
            gid: self.config.gids.to_guest(HostId(stx.stx_gid)).0,
            mode: stx.stx_mode,
            ino: stx.stx_ino,
            size: stx.stx_size,
            blocks: stx.stx_blocks,
            attributes_mask: stx.stx_attributes_mask.bits(),
            atime: time(&stx.stx_atime),
            btime: time(&stx.stx_btime),
            ctime: time(&stx.stx_ctime),
            mtime: time(&stx.stx_mtime),
            rdev_major: stx.stx_rdev_major,
            rdev_minor: stx.stx_rdev_minor,
            ..fs::Statx::default()
        }
    }

    pub(super) fn do_setattr(
        &self,
        node: NodeId,
        handle: Option<HandleId>,
        set: &SetAttr,
    ) -> FsResult<AttrReply> {
        let times = [timespec(set.atime)?, timespec(set.mtime)?];
        let inode = self.inode(node)?;
        self.with_object(node, handle, |fd| {
            // The owner before the mode: a change of owner clears bits that the
            // mode may set. The size before the times, which it changes.
            // Nothing at all is what Linux sends of chown(-1, -1), which changes ctime
            // and takes set-id bits away.
            if set.uid.is_some() || set.gid.is_some() || set.is_nothing() {
                let host = |table: &IdTable, id: Option<u32>| match id {
                    Some(id) => table.to_host(GuestId(id)).map(|id| id.0),
                    None => Ok(u32::MAX),
                };
                let uid = host(&self.config.uids, set.uid)?;
                let gid = host(&self.config.gids, set.gid)?;
                sys::chown(fd, uid, gid)?;
                self.kill_capability(inode.kind(), fd, handle.is_some())?;
            }
            if let Some(mode) = set.mode {
                sys::chmod(self.proc_self_fd(), fd, mode & 0o7777)?;
            }
            if let Some(size) = set.size {
                self.truncate(&inode, handle.map(|_| fd), size, set.kill_suidgid)?;
            }
            if set.atime.is_some() || set.mtime.is_some() {
                sys::utimens(self.proc_self_fd(), fd, &times)?;
            }
            self.attr_reply(node, fd)
        })
    }

    fn truncate(
        &self,
        inode: &Inode,
        open: Option<BorrowedFd<'_>>,
        size: u64,
        kill_suidgid: bool,
    ) -> FsResult<()> {
        if size > i64::MAX as u64 {
            return Err(Errno::EFBIG);
        }
        // Opened before the capabilities change.
        let opened = match open {
            Some(_) => None,
            None => {
                if inode.is_dir() {
                    return Err(Errno::EISDIR);
                }
                Some(inode.open(self.proc_self_fd(), libc::O_WRONLY | libc::O_NONBLOCK)?)
            }
        };
        let _without = kill_suidgid.then(creds::without_fsetid).transpose()?;
        if let Some(fd) = opened.as_ref().map(AsFd::as_fd).or(open) {
            self.kill_capability(inode.kind(), fd, true)?;
            rustix::fs::ftruncate(fd, size)?;
            self.ghosts.wrote(inode.id());
        }
        Ok(())
    }

    pub(super) fn do_access(&self, ctx: &Context<'_>, node: NodeId, mask: u32) -> FsResult<()> {
        let mask = mask & (libc::R_OK | libc::W_OK | libc::X_OK) as u32;
        let inode = self.inode(node)?;
        let attr = self.attr(&sys::statx(self.kept_fds.get(&inode)?.as_fd())?, 0);
        let mode = attr.mode;
        if ctx.uid == 0 {
            // Root may do all but run what nobody may.
            let runs = inode.is_dir() || mode & 0o111 != 0;
            let asks = mask & libc::X_OK as u32 != 0;
            return if asks && !runs {
                Err(Errno::EACCES)
            } else {
                Ok(())
            };
        }
        let in_group = ctx.gid == attr.gid
            || ctx
                .supplementary_groups
                .is_some_and(|g| g.contains(&attr.gid));
        let granted = if ctx.uid == attr.uid {
            mode >> 6
        } else if in_group {
            mode >> 3
        } else {
            mode
        };
        if mask & !granted & 7 == 0 {
            Ok(())
        } else {
            Err(Errno::EACCES)
        }
    }

    pub(super) fn do_statfs(&self, node: NodeId) -> FsResult<Kstatfs> {
        let inode = self.inode(node)?;
        let st = rustix::fs::fstatvfs(self.kept_fds.get(&inode)?)?;
        Ok(Kstatfs {
            blocks: st.f_blocks,
            bfree: st.f_bfree,
            bavail: st.f_bavail,
            files: st.f_files,
            ffree: st.f_ffree,
            bsize: st.f_bsize as u32,
            namelen: st.f_namemax as u32,
            frsize: st.f_frsize as u32,
            ..Kstatfs::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_go_there_and_back() {
        for (major, minor) in [
            (0, 0),
            (1, 3),
            (8, 255),
            (8, 256),
            (259, 0xfffff),
            (0xfff, 7),
        ] {
            let dev = decode_dev(encode_dev(major, minor));
            assert_eq!((libc::major(dev), libc::minor(dev)), (major, minor));
        }
    }

    #[test]
    fn times_before_1970_and_the_special_ones() {
        let time = timespec(Some(SetTime::At(-5, 999_999_999))).unwrap();
        assert_eq!((time.tv_sec, time.tv_nsec), (-5, 999_999_999));
        assert_eq!(timespec(None).unwrap().tv_nsec, libc::UTIME_OMIT);
        assert_eq!(
            timespec(Some(SetTime::Now)).unwrap().tv_nsec,
            libc::UTIME_NOW
        );
        let special = Some(SetTime::At(0, libc::UTIME_OMIT as u32));
        assert_eq!(timespec(special).unwrap_err(), Errno::EINVAL);
    }
}
