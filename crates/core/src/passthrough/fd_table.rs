//! Room in the process' table of descriptors.
//!
//! Linux makes the table larger as descriptors come, a power of two at a time. Where threads
//! share it, whoever asks for the one that no longer fits waits until every processor has
//! been through a quiet state (`expand_fdtable`, `synchronize_rcu`): 8 to 24 ms have been
//! measured, in a guest's OPEN or, several times, while a guest stands still. So there is
//! room from the start, when there is one thread yet, and what needs more says so at once.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use rustix::process::{getrlimit, Resource};

/// Descriptors that there is room for from the start: 132 KiB of the kernel's memory.
const FROM_THE_START: usize = 16_384;

/// Descriptors that may come beside those that are counted.
const OTHERS: usize = 512;

/// Makes room for what most guests need. `any` is some descriptor.
pub(super) fn make_room_from_the_start(any: BorrowedFd<'_>) {
    extend(any, FROM_THE_START);
}

/// Makes room for `count` descriptors that are about to come, beside those that there are.
/// Costs a few system calls where there is room.
pub(super) fn make_room_for(any: BorrowedFd<'_>, count: usize) {
    // The lowest that is free: all below are in use.
    let Ok(free) = rustix::io::fcntl_dupfd_cloexec(any, 0) else {
        return;
    };
    let in_use = free.as_raw_fd() as usize;
    drop(free);
    extend(any, count.saturating_add(in_use + OTHERS));
}

/// Extends the table to `size`, or to what the process may have. It never becomes smaller.
fn extend(any: BorrowedFd<'_>, size: usize) {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let last = RawFd::try_from(limit.min(size as u64)).unwrap_or(RawFd::MAX) - 1;
    // One with a high number, for a moment.
    match rustix::io::fcntl_dupfd_cloexec(any, last) {
        Ok(fd) => drop(fd),
        // The last one is taken: then there is room for it. Or there is no memory for
        // the table, which who needs it will be told.
        Err(e) => log::debug!("no room is made for descriptor {last}: {e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    /// What the table has room for now.
    fn size() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("FDSize:"));
        line.unwrap().trim().parse().unwrap()
    }

    #[test]
    fn there_is_room_before_descriptors_come() {
        let any = std::fs::File::open("/").unwrap();
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        make_room_from_the_start(any.as_fd());
        assert!(size() >= FROM_THE_START.min(limit), "{}", size());
        make_room_for(any.as_fd(), FROM_THE_START);
        assert!(size() >= (FROM_THE_START + OTHERS).min(limit), "{}", size());
        // None was kept.
        let kept = format!("/proc/self/fd/{}", FROM_THE_START.min(limit) - 1);
        assert!(!std::path::Path::new(&kept).exists());
    }

    #[test]
    fn more_than_may_be_had_is_no_failure() {
        let any = std::fs::File::open("/").unwrap();
        let limit = getrlimit(Resource::Nofile).current;
        if limit.is_some_and(|limit| limit < 1 << 20) {
            make_room_for(any.as_fd(), usize::MAX);
        }
        make_room_for(any.as_fd(), 0);
        std::fs::File::open("/").unwrap();
    }
}
