//! What must be known of shared memory before it is mapped.
//!
//! The message handler maps what a front-end names without asking how much of it
//! there is; touching a page behind the end of a file ends the process (SIGBUS).

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{fstat, FileType};

use crate::relay::Message;

const SET_MEM_TABLE: u32 = 5;
const SET_LOG_BASE: u32 = 6;
const ADD_MEM_REG: u32 = 37;

/// `VhostUserMemoryRegion`: guest address, size, user address, mmap offset.
const REGION_LONGS: usize = 4;

/// Refuses a message that shares more memory than its file has. Everything else
/// about it is left to the message handler.
pub(crate) fn vet(message: &Message) -> Result<(), String> {
    let (skip, stride, size_at, offset_at) = match message.request() {
        SET_MEM_TABLE => (8, REGION_LONGS, 1, 3),
        // A region behind 8 bytes of padding.
        ADD_MEM_REG => (8, REGION_LONGS, 1, 3),
        // `VhostUserLog`: size, offset.
        SET_LOG_BASE => (0, 2, 0, 1),
        _ => return Ok(()),
    };
    let areas = message
        .payload()
        .get(skip..)
        .unwrap_or_default()
        .chunks_exact(stride * 8);
    for (area, fd) in areas.zip(&message.fds) {
        let long = |at: usize| {
            let bytes: [u8; 8] = std::array::from_fn(|i| area[at * 8 + i]);
            u64::from_ne_bytes(bytes)
        };
        let (size, offset) = (long(size_at), long(offset_at));
        let end = offset
            .checked_add(size)
            .ok_or_else(|| format!("shared memory of {size} bytes at {offset:#x} of its file"))?;
        match file_size(fd.as_fd()) {
            Some(has) if has < end => {
                return Err(format!(
                    "request {}: shared memory ends at {end:#x} of a file of {has:#x} bytes",
                    message.request()
                ))
            }
            _ => {}
        }
    }
    Ok(())
}

/// Size of a file that has one: memory may also be a device.
fn file_size(fd: BorrowedFd<'_>) -> Option<u64> {
    let stat = fstat(fd).ok()?;
    let regular = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    regular.then(|| u64::try_from(stat.st_size).unwrap_or(0))
}
