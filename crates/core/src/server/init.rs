//! FUSE_INIT: what both sides will use.
//!
//! The minor that is answered is 45, the newest this project knows, whatever the
//! guest's: since 7.27 every feature that changes how a request or a reply looks
//! is negotiated by a flag, and every later operation may be answered `ENOSYS`,
//! so that nothing depends on the minor alone. The exception, where extensions
//! are, follows the guest's minor (see `extensions`).

use std::mem::size_of;

use ferryfs_state::Session;

use super::call::Call;
use super::Server;
use crate::abi::*;
use crate::errno::{Errno, FsResult};
use crate::fs::{FileSystem, InitOffer};

/// The minor that is answered.
pub(super) const OUR_MINOR: u32 = FUSE_KERNEL_MINOR_VERSION;
/// The oldest minor of a guest: older ones send other structures, and none of
/// them has virtio-fs (Linux 5.4 came with 7.31).
pub(super) const MIN_MINOR: u32 = 27;

/// What the dispatcher serves by itself, with any file system behind it.
pub(super) const SERVED: u64 = FUSE_ASYNC_READ
    | FUSE_ATOMIC_O_TRUNC
    | FUSE_BIG_WRITES
    | FUSE_ASYNC_DIO
    | FUSE_PARALLEL_DIROPS
    | FUSE_MAX_PAGES
    | FUSE_INIT_EXT
    | FUSE_CREATE_SUPP_GROUP;

/// What a file system may wish for: its behaviour, no operations or messages that
/// the dispatcher does not have (ioctl, notifications, DAX, lookups of `.` and `..`,
/// transports other than this).
const CARRIED: u64 = FUSE_POSIX_LOCKS
    | FUSE_FLOCK_LOCKS
    | FUSE_DONT_MASK
    | FUSE_AUTO_INVAL_DATA
    | FUSE_DO_READDIRPLUS
    | FUSE_READDIRPLUS_AUTO
    | FUSE_WRITEBACK_CACHE
    | FUSE_NO_OPEN_SUPPORT
    | FUSE_HANDLE_KILLPRIV
    | FUSE_POSIX_ACL
    | FUSE_CACHE_SYMLINKS
    | FUSE_NO_OPENDIR_SUPPORT
    | FUSE_EXPLICIT_INVAL_DATA
    | FUSE_SUBMOUNTS
    | FUSE_HANDLE_KILLPRIV_V2
    | FUSE_SETXATTR_EXT
    | FUSE_SECURITY_CTX
    | FUSE_DIRECT_IO_ALLOW_MMAP
    | FUSE_NO_EXPORT_SUPPORT
    | FUSE_ALLOW_IDMAP;

/// All that a session with this dispatcher can have.
pub(super) const POSSIBLE: u64 = SERVED | CARRIED;

impl<F: FileSystem> Server<F> {
    pub(super) fn init(&self, call: &mut Call<'_>) -> FsResult<()> {
        let arg: InitIn = call.read()?;
        call.need_room(size_of::<InitOut>())?;
        let mut offered = u64::from(arg.flags);
        if offered & FUSE_INIT_EXT != 0 {
            let more: InitIn2 = call.read()?;
            offered |= u64::from(more.flags2) << 32;
        }

        // Whoever sends INIT begins anew: a guest that was reset says no DESTROY.
        let mut session = self.session.lock();
        if session.is_some() {
            self.drop_session(&mut session);
        }
        if arg.major > FUSE_KERNEL_VERSION {
            // The guest comes back with a version that we know.
            return call.reply(InitOut {
                major: FUSE_KERNEL_VERSION,
                minor: OUR_MINOR,
                ..InitOut::default()
            });
        }
        if arg.major < FUSE_KERNEL_VERSION || arg.minor < MIN_MINOR {
            log::error!(
                "INIT refused: guest speaks FUSE {}.{}, oldest supported is {}.{MIN_MINOR}; \
                 use a newer guest kernel",
                arg.major,
                arg.minor,
                FUSE_KERNEL_VERSION
            );
            return Err(Errno::EPROTO);
        }

        let wish = self.fs.init(&InitOffer {
            minor: arg.minor,
            flags: offered,
            max_readahead: arg.max_readahead,
        })?;
        let flags = offered & (SERVED | (wish.flags & CARRIED));
        let max_pages = if flags & FUSE_MAX_PAGES != 0 {
            self.config.max_pages
        } else {
            0
        };
        let new = Session {
            guest_minor: arg.minor,
            minor: OUR_MINOR,
            offered_flags: offered,
            flags,
            max_write: self.config.max_write,
            max_pages,
            max_readahead: arg.max_readahead,
            max_background: self.config.max_background,
            congestion_threshold: self.config.congestion_threshold,
            time_gran: 1,
        };
        log::info!(
            "INIT: guest speaks FUSE 7.{}, session uses {}",
            new.guest_minor,
            init_flag_names(flags)
        );
        self.fs.adopt_session(flags);
        call.reply(init_out(&new))?;
        session.set(Some(new));
        Ok(())
    }
}

fn init_out(session: &Session) -> InitOut {
    InitOut {
        major: FUSE_KERNEL_VERSION,
        minor: session.minor,
        max_readahead: session.max_readahead,
        flags: session.flags as u32,
        max_background: session.max_background,
        congestion_threshold: session.congestion_threshold,
        max_write: session.max_write,
        time_gran: session.time_gran,
        max_pages: session.max_pages,
        flags2: (session.flags >> 32) as u32,
        ..InitOut::default()
    }
}
