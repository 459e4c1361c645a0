//! IOCTL: a file's flags (lsattr and chattr) and extended ones (project ids), and
//! nothing else. What a number makes a driver or a file system do is the host's
//! business; these are the commands that the guest's own kernel has checked and taken
//! apart before they come here.
//!
//! FICLONE and FICLONERANGE never come: Linux asks a FUSE file system for no
//! reflinks by them. COPY_FILE_RANGE makes them where the host can.

use std::os::fd::{AsRawFd, BorrowedFd};

use super::create::NewMode;
use super::Passthrough;
use crate::errno::{Errno, FsResult};
use crate::fs::Context;
use crate::types::{HandleId, NodeId};

/// `FS_IOC_GETFLAGS`: `_IOR('f', 1, long)`.
const GETFLAGS: u32 = 0x8008_6601;
/// `FS_IOC_SETFLAGS`: `_IOW('f', 2, long)`.
const SETFLAGS: u32 = 0x4008_6602;
/// `FS_IOC32_GETFLAGS`: `_IOR('f', 1, int)`.
const GETFLAGS_32: u32 = 0x8004_6601;
/// `FS_IOC32_SETFLAGS`: `_IOW('f', 2, int)`.
const SETFLAGS_32: u32 = 0x4004_6602;
/// `FS_IOC_FSGETXATTR`: `_IOR('X', 31, struct fsxattr)`.
const FSGETXATTR: u32 = 0x801c_581f;
/// `FS_IOC_FSSETXATTR`: `_IOW('X', 32, struct fsxattr)`.
const FSSETXATTR: u32 = 0x401c_5820;

/// Length of `struct fsxattr`.
const FSXATTR: usize = 28;

/// A command that is honoured.
struct Command {
    /// What the host is asked with. Of its `long` the kernel uses an `int`.
    number: libc::c_ulong,
    /// Lengths of its argument, in bytes.
    lengths: &'static [usize],
    changes: bool,
}

impl Command {
    fn of(number: u32) -> Option<Command> {
        let command = |number: libc::c_ulong, lengths, changes| Command {
            number,
            lengths,
            changes,
        };
        Some(match number {
            GETFLAGS | GETFLAGS_32 => command(FS_IOC_GETFLAGS, &[4, 8], false),
            SETFLAGS | SETFLAGS_32 => command(FS_IOC_SETFLAGS, &[4, 8], true),
            FSGETXATTR => command(FSGETXATTR as libc::c_ulong, &[FSXATTR], false),
            FSSETXATTR => command(FSSETXATTR as libc::c_ulong, &[FSXATTR], true),
            _ => return None,
        })
    }
}

/// This host's numbers; where a `long` has 32 bits they are others than the guest's.
#[allow(clippy::unnecessary_cast)]
const FS_IOC_GETFLAGS: libc::c_ulong = libc::FS_IOC_GETFLAGS as libc::c_ulong;
#[allow(clippy::unnecessary_cast)]
const FS_IOC_SETFLAGS: libc::c_ulong = libc::FS_IOC_SETFLAGS as libc::c_ulong;

fn ioctl(fd: BorrowedFd<'_>, number: libc::c_ulong, argument: &mut [u8; FSXATTR]) -> FsResult<()> {
    // SAFETY: of the four commands that come here, each reads or writes at most the 28
    // bytes of a `struct fsxattr`, which the argument has.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), number as _, argument.as_mut_ptr()) };
    if rc < 0 {
        return Err(Errno::last());
    }
    Ok(())
}

impl Passthrough {
    pub(super) fn do_ioctl(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        number: u32,
        input: &[u8],
        output: &mut [u8],
    ) -> FsResult<()> {
        let command = Command::of(number).ok_or(Errno::ENOTTY)?;
        let file = self.handles.find_any(handle, node)?;
        let (given, wanted) = match command.changes {
            true => (input.len(), output.len()),
            false => (output.len(), input.len()),
        };
        if !command.lengths.contains(&given) || wanted != 0 {
            return Err(Errno::EINVAL);
        }
        let mut argument = [0; FSXATTR];
        if !command.changes {
            ioctl(file.fd()?, command.number, &mut argument)?;
            output.copy_from_slice(&argument[..given]);
            return Ok(());
        }
        argument[..given].copy_from_slice(input);
        // Whose file it is, and who may make it immutable, is looked at by the host's
        // kernel: as the caller. Guests that do not tell who that is change nothing.
        if ctx.uid == u32::MAX || ctx.gid == u32::MAX {
            return Err(Errno::EPERM);
        }
        let _caller = self.acting(ctx, &NewMode::NONE)?;
        ioctl(file.fd()?, command.number, &mut argument)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_header() {
        let ioc = |direction: u32, group: u8, number: u32, size: u32| {
            direction << 30 | size << 16 | u32::from(group) << 8 | number
        };
        assert_eq!(GETFLAGS, ioc(2, b'f', 1, 8));
        assert_eq!(SETFLAGS, ioc(1, b'f', 2, 8));
        assert_eq!(GETFLAGS_32, ioc(2, b'f', 1, 4));
        assert_eq!(SETFLAGS_32, ioc(1, b'f', 2, 4));
        assert_eq!(FSGETXATTR, ioc(2, b'X', 31, FSXATTR as u32));
        assert_eq!(FSSETXATTR, ioc(1, b'X', 32, FSXATTR as u32));
        if size_of::<libc::c_long>() == 8 && cfg!(target_arch = "x86_64") {
            assert_eq!(FS_IOC_GETFLAGS, u64::from(GETFLAGS));
            assert_eq!(FS_IOC_SETFLAGS, u64::from(SETFLAGS));
        }
        assert!(Command::of(0x5412).is_none(), "TIOCSTI");
    }
}
