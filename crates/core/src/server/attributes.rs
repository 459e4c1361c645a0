//! GETATTR, STATX, SETATTR, STATFS, ACCESS.

use std::mem::size_of;

use super::call::{check_offset, Call};
use super::Server;
use crate::abi::*;
use crate::errno::{Errno, FsResult};
use crate::fs::{FileSystem, SetAttr, SetTime};
use crate::types::HandleId;

impl<F: FileSystem> Server<F> {
    pub(super) fn getattr(&self, call: &mut Call<'_>) -> FsResult<()> {
        let arg: GetattrIn = call.read()?;
        call.need_room(size_of::<AttrOut>())?;
        let handle = (arg.flags & FUSE_GETATTR_FH != 0).then_some(HandleId(arg.fh));
        let reply = self.fs.getattr(&call.context(), call.node(), handle)?;
        call.reply_attr(&reply)
    }

    pub(super) fn statx(&self, call: &mut Call<'_>) -> FsResult<()> {
        let arg: StatxIn = call.read()?;
        call.need_room(size_of::<StatxOut>())?;
        let handle = (arg.getattr_flags & FUSE_GETATTR_FH != 0).then_some(HandleId(arg.fh));
        let ctx = call.context();
        let reply = self
            .fs
            .statx(&ctx, call.node(), handle, arg.sx_flags, arg.sx_mask)?;
        call.reply(StatxOut {
            attr_valid: reply.timeout.as_secs(),
            attr_valid_nsec: reply.timeout.subsec_nanos(),
            stat: reply.stat,
            ..StatxOut::default()
        })
    }

    pub(super) fn setattr(&self, call: &mut Call<'_>) -> FsResult<()> {
        let arg: SetattrIn = call.read()?;
        call.need_room(size_of::<AttrOut>())?;
        let has = |bit| arg.valid & bit != 0;
        let set = SetAttr {
            mode: has(FATTR_MODE).then_some(arg.mode),
            uid: has(FATTR_UID).then_some(arg.uid),
            gid: has(FATTR_GID).then_some(arg.gid),
            size: has(FATTR_SIZE)
                .then(|| check_offset(arg.size))
                .transpose()?,
            atime: time(
                has(FATTR_ATIME),
                has(FATTR_ATIME_NOW),
                arg.atime,
                arg.atimensec,
            )?,
            mtime: time(
                has(FATTR_MTIME),
                has(FATTR_MTIME_NOW),
                arg.mtime,
                arg.mtimensec,
            )?,
            kill_suidgid: has(FATTR_KILL_SUIDGID),
        };
        let handle = has(FATTR_FH).then_some(HandleId(arg.fh));
        let reply = self
            .fs
            .setattr(&call.context(), call.node(), handle, &set)?;
        call.reply_attr(&reply)
    }

    pub(super) fn statfs(&self, call: &mut Call<'_>) -> FsResult<()> {
        call.need_room(size_of::<StatfsOut>())?;
        let st = self.fs.statfs(&call.context(), call.node())?;
        call.reply(StatfsOut { st })
    }

    pub(super) fn access(&self, call: &mut Call<'_>) -> FsResult<()> {
        let arg: AccessIn = call.read()?;
        // As access(2) has it.
        if arg.mask & !((libc::R_OK | libc::W_OK | libc::X_OK) as u32) != 0 {
            return Err(Errno::EINVAL);
        }
        self.fs.access(&call.context(), call.node(), arg.mask)
    }
}

/// One of SETATTR's times. Nanoseconds above a second would be `UTIME_NOW` and
/// `UTIME_OMIT` to the kernel, or an error.
fn time(valid: bool, now: bool, seconds: u64, nanoseconds: u32) -> FsResult<Option<SetTime>> {
    match (valid, now) {
        (_, true) => Ok(Some(SetTime::Now)),
        (true, false) if nanoseconds > 999_999_999 => Err(Errno::EINVAL),
        (true, false) => Ok(Some(SetTime::At(seconds as i64, nanoseconds))),
        (false, false) => Ok(None),
    }
}
