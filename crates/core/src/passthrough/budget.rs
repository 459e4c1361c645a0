//! How many descriptors the guest may keep open here: fewer than the process may
//! have, so that with all of them in use the daemon can still do everything else,
//! closing and forgetting first of all.
//!
//! The kernel gives out the lowest number that is free, so a number tells how many
//! are in use at least; nothing is counted. What goes over the mark is let through,
//! since by then a file may have been made or truncated. The next one is refused.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::errno::{Errno, FsResult};

/// Descriptors that are not for the guest: kept directories, queues, memory regions,
/// a crossing's. A part of the limit, and no more than this.
const MOST_RESERVED: u64 = 2048;
const RESERVED_PART: u64 = 4;

/// See the module's text.
pub(super) struct Budget {
    /// Descriptors from this number on are not for the guest.
    most: RawFd,
    /// The last one that was seen was over the mark.
    tight: AtomicBool,
    told: AtomicBool,
}

impl Budget {
    /// For the limit that the process has now.
    pub(super) fn new() -> Budget {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let most = limit.map_or(u64::MAX, |n| n - (n / RESERVED_PART).min(MOST_RESERVED));
        Budget::up_to(RawFd::try_from(most).unwrap_or(RawFd::MAX))
    }

    fn up_to(most: RawFd) -> Budget {
        Budget {
            most,
            tight: AtomicBool::new(false),
            told: AtomicBool::new(false),
        }
    }

    /// Whether `count` descriptors of the guest's are within the limit at all.
    pub(super) fn has_room_for(&self, count: usize) -> bool {
        usize::try_from(self.most).is_ok_and(|most| count < most)
    }

    /// Takes note of a descriptor that the guest keeps.
    pub(super) fn note(&self, fd: BorrowedFd<'_>) {
        if fd.as_raw_fd() >= self.most {
            self.tight.store(true, Ordering::Relaxed);
        }
    }

    /// Whether there is room for one more, before anything is done for it. Costs
    /// nothing as long as there was, the last time. `any` is some descriptor.
    ///
    /// # Errors
    /// `ENFILE`, as Linux has it for a system with too many open files.
    pub(super) fn check(&self, any: BorrowedFd<'_>) -> FsResult<()> {
        if !self.tight.load(Ordering::Relaxed) {
            return Ok(());
        }
        let next = rustix::io::fcntl_dupfd_cloexec(any, 0)?;
        self.admit(next.as_fd())
    }

    /// Whether the guest may keep `fd`, which is closed if it may not.
    ///
    /// # Errors
    /// `ENFILE`.
    pub(super) fn admit(&self, fd: BorrowedFd<'_>) -> FsResult<()> {
        let over = fd.as_raw_fd() >= self.most;
        if self.tight.load(Ordering::Relaxed) != over {
            self.tight.store(over, Ordering::Relaxed);
        }
        if !over {
            return Ok(());
        }
        if !self.told.swap(true, Ordering::Relaxed) {
            log::warn!(
                "the guest keeps some {} files open and gets ENFILE for more; raise \
                 --rlimit-nofile, or use --inode-file-handles=prefer if it is not in use",
                self.most
            );
        }
        Err(Errno::ENFILE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_over_the_mark_is_the_last() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let fd = file.as_fd();
        let wide = Budget::up_to(RawFd::MAX);
        wide.note(fd);
        assert_eq!(wide.check(fd), Ok(()));
        assert_eq!(wide.admit(fd), Ok(()));
        let narrow = Budget::up_to(0);
        assert_eq!(narrow.check(fd), Ok(()), "nothing was seen yet");
        narrow.note(fd);
        assert_eq!(narrow.check(fd), Err(Errno::ENFILE));
        assert_eq!(narrow.admit(fd), Err(Errno::ENFILE));
        // Room again.
        let roomy = Budget {
            tight: AtomicBool::new(true),
            ..Budget::up_to(RawFd::MAX)
        };
        assert_eq!(roomy.check(fd), Ok(()));
        assert!(!roomy.tight.load(Ordering::Relaxed));
    }
}
