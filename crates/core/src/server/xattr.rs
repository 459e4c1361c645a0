//! Extended attributes.

use std::ffi::CStr;
use std::mem::size_of;

use super::call::{split_c_str, Call, Scratch};
use super::Server;
use crate::abi::*;
use crate::errno::{Errno, FsResult};
use crate::fs::{FileSystem, XattrReply};

/// `XATTR_NAME_MAX`, in bytes.
const NAME_MAX: usize = 255;
/// `XATTR_SIZE_MAX` and `XATTR_LIST_MAX`: the longest value and list, in bytes.
const SIZE_MAX: u32 = 65536;

impl<F: FileSystem> Server<F> {
    pub(super) fn setxattr(&self, call: &mut Call<'_>) -> FsResult<()> {
        let arg = if call.flags & FUSE_SETXATTR_EXT != 0 {
            call.read()?
        } else {
            let short: SetxattrIn = call.read()?;
            SetxattrInExt {
                size: short.size,
                flags: short.flags,
                ..SetxattrInExt::default()
            }
        };
        if arg.size > SIZE_MAX {
            return Err(Errno::E2BIG);
        }
        let mut scratch = Scratch::new();
        let max = NAME_MAX + 1 + arg.size as usize;
        let bytes = call.rest(&mut scratch, max, Errno::ERANGE)?;
        let (name, value) = split_c_str(bytes)?;
        // The whole value and nothing else: a request of the other of the two
        // forms does not pass for one of this.
        if value.len() != arg.size as usize {
            return Err(Errno::EINVAL);
        }
        self.fs.setxattr(
            &call.context(),
            call.node(),
            check_name(name)?,
            value,
            arg.flags,
            arg.setxattr_flags & FUSE_SETXATTR_ACL_KILL_SGID != 0,
        )
    }

    pub(super) fn getxattr(&self, call: &mut Call<'_>) -> FsResult<()> {
        let arg: GetxattrIn = call.read()?;
        let mut scratch = Scratch::new();
        let bytes = call.rest(&mut scratch, Scratch::INLINE, Errno::ERANGE)?;
        let name = check_name(split_c_str(bytes)?.0)?;
        let size = value_room(call, arg.size)?;
        let reply = self.fs.getxattr(&call.context(), call.node(), name, size)?;
        reply_value(call, size, reply)
    }

    pub(super) fn listxattr(&self, call: &mut Call<'_>) -> FsResult<()> {
        let arg: GetxattrIn = call.read()?;
        let size = value_room(call, arg.size)?;
        let reply = self.fs.listxattr(&call.context(), call.node(), size)?;
        reply_value(call, size, reply)
    }

    pub(super) fn removexattr(&self, call: &mut Call<'_>) -> FsResult<()> {
        let mut scratch = Scratch::new();
        let bytes = call.rest(&mut scratch, Scratch::INLINE, Errno::ERANGE)?;
        let name = check_name(split_c_str(bytes)?.0)?;
        self.fs.removexattr(&call.context(), call.node(), name)
    }
}

/// As the system calls have it: `ERANGE` for an empty name or one too long.
fn check_name(name: &CStr) -> FsResult<&CStr> {
    if name.is_empty() || name.count_bytes() > NAME_MAX {
        return Err(Errno::ERANGE);
    }
    Ok(name)
}

/// How long a value may be so that it fits in what was asked for and in the reply;
/// 0 asks for the length.
fn value_room(call: &Call<'_>, size: u32) -> FsResult<u32> {
    if size == 0 {
        call.need_room(size_of::<GetxattrOut>())?;
        return Ok(0);
    }
    let room = u32::try_from(call.out.remaining()).unwrap_or(u32::MAX);
    match size.min(SIZE_MAX).min(room) {
        // Must not be taken for the question for the length.
        0 => Err(Errno::ERANGE),
        size => Ok(size),
    }
}

fn reply_value(call: &mut Call<'_>, size: u32, reply: XattrReply) -> FsResult<()> {
    match (reply, size) {
        (XattrReply::Size(size), 0) => call.reply(GetxattrOut { size, padding: 0 }),
        (XattrReply::Value(value), 0) => call.reply(GetxattrOut {
            size: u32::try_from(value.len()).map_err(|_| Errno::E2BIG)?,
            padding: 0,
        }),
        (XattrReply::Value(value), size) if value.len() <= size as usize => {
            call.out.write_all(&value).map_err(|_| Errno::EIO)
        }
        (XattrReply::Value(_) | XattrReply::Size(_), _) => Err(Errno::ERANGE),
    }
}
