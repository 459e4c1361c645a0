//! Locks: GETLK, SETLK, SETLKW.

use std::mem::size_of;

use super::call::Call;
use super::{out_header, Server};
use crate::abi::*;
use crate::errno::{Errno, FsResult};
use crate::fs::{FileSystem, LockAnswer, LockArgs, LockFound, LockKind, LockMode, LockWait};
use crate::service::{Answer, Later};
use crate::types::HandleId;

/// `OFFSET_MAX`: the last byte that a file can have, and in a lock the end of the
/// file, wherever that is.
const LAST_BYTE: u64 = i64::MAX as u64;

impl<F: FileSystem> Server<F> {
    pub(super) fn getlk(&self, call: &mut Call<'_>) -> FsResult<()> {
        let (handle, lock) = lock_args(call)?;
        call.need_room(size_of::<LkOut>())?;
        // `flock` has no such question.
        if lock.mode.is_none() || lock.kind == LockKind::Flock {
            return Err(Errno::EINVAL);
        }
        let found = self.fs.getlk(&call.context(), call.node(), handle, &lock)?;
        let lk = match found {
            Some(LockFound {
                start,
                end,
                mode,
                pid,
            }) => FileLock {
                start,
                end,
                type_: match mode {
                    LockMode::Read => libc::F_RDLCK as u32,
                    LockMode::Write => libc::F_WRLCK as u32,
                },
                pid,
            },
            None => FileLock {
                start: lock.start,
                end: lock.end,
                type_: libc::F_UNLCK as u32,
                pid: 0,
            },
        };
        call.reply(LkOut { lk })
    }

    pub(super) fn setlk(&self, call: &mut Call<'_>) -> FsResult<()> {
        let (handle, lock) = lock_args(call)?;
        self.fs
            .setlk(&call.context(), call.node(), handle, &lock, None)
    }

    /// As `setlk`, but the lock is waited for, in this thread or with the request
    /// standing over.
    pub(super) fn setlkw(
        &self,
        call: &mut Call<'_>,
        later: Option<&dyn Later>,
        stands_over: &mut bool,
    ) -> FsResult<()> {
        let (handle, lock) = lock_args(call)?;
        let mut wait = Standing {
            unique: call.header.unique,
            later,
            stands_over,
        };
        let (ctx, node) = (call.context(), call.node());
        self.fs.setlk(&ctx, node, handle, &lock, Some(&mut wait))
    }
}

fn lock_args(call: &mut Call<'_>) -> FsResult<(HandleId, LockArgs)> {
    let arg: LkIn = call.read()?;
    let (kind, flag) = match arg.lk_flags & FUSE_LK_FLOCK {
        0 => (LockKind::Posix, FUSE_POSIX_LOCKS),
        _ => (LockKind::Flock, FUSE_FLOCK_LOCKS),
    };
    if call.flags & flag == 0 {
        return Err(Errno::ENOSYS);
    }
    let mode = match arg.lk.type_ as libc::c_int {
        libc::F_RDLCK => Some(LockMode::Read),
        libc::F_WRLCK => Some(LockMode::Write),
        libc::F_UNLCK => None,
        _ => return Err(Errno::EINVAL),
    };
    if arg.lk.end > LAST_BYTE || arg.lk.start > arg.lk.end {
        return Err(Errno::EINVAL);
    }
    let lock = LockArgs {
        kind,
        owner: arg.owner,
        start: arg.lk.start,
        end: arg.lk.end,
        mode,
        pid: arg.lk.pid,
    };
    Ok((HandleId(arg.fh), lock))
}

/// A SETLKW before it is known whether it has to wait.
struct Standing<'a> {
    unique: u64,
    later: Option<&'a dyn Later>,
    stands_over: &'a mut bool,
}

impl LockWait for Standing<'_> {
    fn defer(&mut self) -> FsResult<Option<Box<dyn LockAnswer>>> {
        let Some(later) = self.later else {
            return Ok(None);
        };
        let answer = later.defer().ok_or(Errno::ENOLCK)?;
        *self.stands_over = true;
        Ok(Some(Box::new(Reply {
            unique: self.unique,
            answer,
        })))
    }
}

/// See [`LockAnswer`].
struct Reply {
    unique: u64,
    answer: Box<dyn Answer>,
}

impl LockAnswer for Reply {
    fn send(self: Box<Self>, result: FsResult<()>) -> bool {
        self.answer.send(&out_header(self.unique, result, 0))
    }
}
