//! Operations on open files.

use std::mem::size_of;

use super::call::{check_offset, Call, Scratch};
use super::Server;
use crate::abi::*;
use crate::errno::{Errno, FsResult};
use crate::fs::{FileSystem, ReadArgs, WriteArgs};
use crate::types::{HandleId, NodeId};

/// What Linux copies at most by one `copy_file_range`, in bytes; it fits in the
/// 32 bits of the older reply.
const MAX_COPY: u64 = 0x7fff_f000;

/// What the number of an ioctl can say of its argument's size, in bytes
/// (`_IOC_SIZEMASK`).
const MAX_IOCTL: u32 = (1 << 14) - 1;

impl<F: FileSystem> Server<F> {
    pub(super) fn open(&self, call: &mut Call<'_>) -> FsResult<()> {
        let arg: OpenIn = call.read()?;
        call.need_room(size_of::<OpenOut>())?;
        let kill_suidgid = arg.fuse_flags & FUSE_OPEN_KILL_SUIDGID != 0;
        let opened = self
            .fs
            .open(&call.context(), call.node(), arg.flags, kill_suidgid)?;
        call.reply_opened(&opened)
    }

    pub(super) fn read(&self, call: &mut Call<'_>) -> FsResult<()> {
        let arg: ReadIn = call.read()?;
        let args = ReadArgs {
            offset: check_offset(arg.offset)?,
            size: clamp_to(arg.size, call.out.remaining()),
            flags: arg.flags,
        };
        let (ctx, node) = (call.context(), call.node());
        self.fs
            .read(&ctx, node, HandleId(arg.fh), &args, &mut *call.out)
            .map(drop)
    }

    pub(super) fn write(&self, call: &mut Call<'_>) -> FsResult<()> {
        let arg: WriteIn = call.read()?;
        if arg.size as usize > call.body.left {
            return Err(Errno::EINVAL);
        }
        // The file system sees as many bytes as it shall write, not the rest of
        // the chain.
        call.body.left = arg.size as usize;
        call.need_room(size_of::<WriteOut>())?;
        let args = WriteArgs {
            offset: check_offset(arg.offset)?,
            size: arg.size,
            flags: arg.flags,
            from_cache: arg.fuse_flags & FUSE_WRITE_CACHE != 0,
            kill_suidgid: arg.fuse_flags & FUSE_WRITE_KILL_SUIDGID != 0,
        };
        let (ctx, node) = (call.context(), call.node());
        let written = self
            .fs
            .write(&ctx, node, HandleId(arg.fh), &args, &mut call.body)?;
        call.reply(WriteOut {
            size: clamp_to(arg.size, written),
            padding: 0,
        })
    }

    pub(super) fn release(&self, call: &mut Call<'_>) -> FsResult<()> {
        let arg: ReleaseIn = call.read()?;
        self.fs
            .release(&call.context(), call.node(), HandleId(arg.fh))
    }

    pub(super) fn fsync(&self, call: &mut Call<'_>) -> FsResult<()> {
        let arg: FsyncIn = call.read()?;
        let datasync = arg.fsync_flags & FUSE_FSYNC_FDATASYNC != 0;
        self.fs
            .fsync(&call.context(), call.node(), HandleId(arg.fh), datasync)
    }

    pub(super) fn flush(&self, call: &mut Call<'_>) -> FsResult<()> {
        let arg: FlushIn = call.read()?;
        self.fs.flush(
            &call.context(),
            call.node(),
            HandleId(arg.fh),
            arg.lock_owner,
        )
    }

    pub(super) fn fallocate(&self, call: &mut Call<'_>) -> FsResult<()> {
        let arg: FallocateIn = call.read()?;
        self.fs.fallocate(
            &call.context(),
            call.node(),
            HandleId(arg.fh),
            arg.mode,
            check_offset(arg.offset)?,
            check_offset(arg.length)?,
        )
    }

    pub(super) fn lseek(&self, call: &mut Call<'_>) -> FsResult<()> {
        let arg: LseekIn = call.read()?;
        call.need_room(size_of::<LseekOut>())?;
        // Only these can be negative.
        if !matches!(arg.whence as i32, libc::SEEK_CUR | libc::SEEK_END) {
            check_offset(arg.offset)?;
        }
        let handle = HandleId(arg.fh);
        let offset = self
            .fs
            .lseek(&call.context(), call.node(), handle, arg.offset, arg.whence)?;
        call.reply(LseekOut { offset })
    }

    pub(super) fn copy_file_range(&self, call: &mut Call<'_>) -> FsResult<()> {
        let copied = self.copy(call)?;
        call.reply(WriteOut {
            // `copy` asks for less than 2^31 bytes.
            size: copied.min(MAX_COPY) as u32,
            padding: 0,
        })
    }

    pub(super) fn copy_file_range_64(&self, call: &mut Call<'_>) -> FsResult<()> {
        let bytes_copied = self.copy(call)?;
        call.reply(CopyFileRangeOut { bytes_copied })
    }

    /// Both forms take the same request, and a reply of 8 bytes.
    fn copy(&self, call: &mut Call<'_>) -> FsResult<u64> {
        let arg: CopyFileRangeIn = call.read()?;
        call.need_room(size_of::<CopyFileRangeOut>())?;
        // copy_file_range(2) has no flags.
        if arg.flags != 0 {
            return Err(Errno::EINVAL);
        }
        let copied = self.fs.copy_file_range(
            &call.context(),
            (
                call.node(),
                HandleId(arg.fh_in),
                check_offset(arg.offset_in)?,
            ),
            (
                NodeId(arg.nodeid_out),
                HandleId(arg.fh_out),
                check_offset(arg.offset_out)?,
            ),
            arg.len.min(MAX_COPY),
            arg.flags,
        )?;
        Ok(copied as u64)
    }

    pub(super) fn ioctl(&self, call: &mut Call<'_>) -> FsResult<()> {
        let arg: IoctlIn = call.read()?;
        // Of a file system, the kernel asks only for as much as the command's number
        // says (`_IOC_SIZE`).
        if arg.flags & FUSE_IOCTL_UNRESTRICTED != 0 || arg.in_size.max(arg.out_size) > MAX_IOCTL {
            return Err(Errno::ENOTTY);
        }
        let room = arg.out_size as usize;
        call.need_room(size_of::<IoctlOut>() + room)?;
        let mut scratch = Scratch::new();
        let input = call.rest(&mut scratch, call.body.left, Errno::E2BIG)?;
        let input = input.get(..arg.in_size as usize).ok_or(Errno::EINVAL)?;
        let mut output = Scratch::new();
        let output = output.take(room);
        let handle = HandleId(arg.fh);
        self.fs
            .ioctl(&call.context(), call.node(), handle, arg.cmd, input, output)?;
        call.reply(IoctlOut::default())?;
        call.out.write_all(output).map_err(|_| Errno::EIO)
    }

    pub(super) fn syncfs(&self, call: &mut Call<'_>) -> FsResult<()> {
        let _: SyncfsIn = call.read()?;
        self.fs.syncfs(&call.context(), call.node())
    }
}

/// `size`, or `most` where that is less.
fn clamp_to(size: u32, most: usize) -> u32 {
    u32::try_from(most).map_or(size, |most| size.min(most))
}
