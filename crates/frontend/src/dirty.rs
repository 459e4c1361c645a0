//! The dirty log: one bit per page of guest memory, set by the daemon for every page
//! it writes while VHOST_F_LOG_ALL is on.

use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::munmap;

use crate::memory::{map_shared, MemoryError, PAGE_SIZE};

/// A dirty log in a memfd, for SET_LOG_BASE.
#[derive(Debug)]
pub struct DirtyLog {
    fd: std::fs::File,
    base: NonNull<u64>,
    size: u64,
}

// SAFETY: the mapping lives as long as the DirtyLog and is only touched by atomics.
unsafe impl Send for DirtyLog {}
// SAFETY: as above.
unsafe impl Sync for DirtyLog {}

impl DirtyLog {
    /// A clean log for guest-physical addresses below `end`.
    ///
    /// # Errors
    /// [`MemoryError::Create`], [`MemoryError::Map`].
    pub fn new(end: u64) -> Result<Self, MemoryError> {
        // One byte more than needed: some back-ends want the log to reach past the
        // last page. Whole pages, because both sides map it.
        let size = (end / PAGE_SIZE / 8 + 1).next_multiple_of(PAGE_SIZE);
        let create = |source| MemoryError::Create { size, source };
        let memfd = memfd::MemfdOptions::default()
            .close_on_exec(true)
            .create("dirty-log")
            .map_err(|e| create(std::io::Error::other(e)))?;
        memfd.as_file().set_len(size).map_err(create)?;
        let base = map_shared(memfd.as_file().as_fd(), size)?.cast();
        Ok(DirtyLog {
            fd: memfd.into_file(),
            base,
            size,
        })
    }

    /// The memfd.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Bytes of the log.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// First guest-physical address that the log has no bit for.
    pub fn end(&self) -> u64 {
        self.size * 8 * PAGE_SIZE
    }

    /// Adds what is dirty in another log, which must not be larger.
    pub fn merge(&self, other: &DirtyLog) {
        for (ours, theirs) in self.words().iter().zip(other.words()) {
            ours.fetch_or(theirs.load(Ordering::Acquire), Ordering::AcqRel);
        }
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: mapped by `new` with this size, page-aligned, borrowed from self;
        // AtomicU64 allows that the daemon changes it meanwhile.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().cast(), self.size as usize / 8) }
    }

    /// Guest-physical addresses of the dirty pages, in order, and cleans the log.
    pub fn take(&self) -> Vec<u64> {
        self.collect(|word| word.swap(0, Ordering::AcqRel))
    }

    /// Guest-physical addresses of the dirty pages, in order.
    pub fn peek(&self) -> Vec<u64> {
        self.collect(|word| word.load(Ordering::Acquire))
    }

    fn collect(&self, read: impl Fn(&AtomicU64) -> u64) -> Vec<u64> {
        let mut pages = Vec::new();
        for (i, word) in self.words().iter().enumerate() {
            // The log is bytes: bit n of byte m is page 8 m + n.
            let mut bits = u64::from_le(read(word));
            while bits != 0 {
                pages.push((i as u64 * 64 + u64::from(bits.trailing_zeros())) * PAGE_SIZE);
                bits &= bits - 1;
            }
        }
        pages
    }
}

impl Drop for DirtyLog {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this size; nothing borrows from it any more.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.size as usize) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn bits_are_pages() {
        let log = DirtyLog::new(1 << 30).expect("log");
        assert!(log.take().is_empty());
        // Written through the descriptor, as the daemon's mapping would.
        log.fd.write_all_at(&[0b1000_0001], 0).expect("write");
        log.fd.write_all_at(&[0b10], 100).expect("write");
        let expected = [0, 7 * PAGE_SIZE, 801 * PAGE_SIZE];
        assert_eq!(log.peek(), expected);
        assert_eq!(log.take(), expected);
        assert!(log.take().is_empty());
    }

    #[test]
    fn merging_keeps_both() {
        let (small, large) = (DirtyLog::new(1 << 20), DirtyLog::new(1 << 40));
        let (small, large) = (small.expect("log"), large.expect("log"));
        assert!(small.end() >= 1 << 20 && large.end() >= 1 << 40);
        small.fd.write_all_at(&[0b10], 0).expect("write");
        large.fd.write_all_at(&[0b1], 0).expect("write");
        large.merge(&small);
        assert_eq!(large.take(), [0, PAGE_SIZE]);
        assert_eq!(small.take(), [PAGE_SIZE]);
    }
}
