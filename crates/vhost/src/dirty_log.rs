//! The dirty log: which guest pages the device has written since a migration
//! began.
//!
//! The front-end hands over one shared bitmap for all guest memory
//! (`VHOST_USER_SET_LOG_BASE`), a bit per 4 KiB page of guest physical address, and
//! wants it kept while `VHOST_F_LOG_ALL` is among the features. A [`DirtyLog`] is
//! the device's single place for it; every region's [`LogBitmap`] points there.
//! So a region that arrives while logging is on is logged from its first byte, a
//! request that still holds an older memory map marks the log that is valid now,
//! and one store ends all logging.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use vhost_user_backend::bitmap::{AtomicBitmapMmap, BitmapReplace, MemRegionBitmap, MmapLogReg};
use vm_memory::bitmap::{Bitmap, RefSlice, WithBitmapSlice};
use vm_memory::mmap::NewBitmap;
use vm_memory::{GuestAddress, GuestMemoryRegion, GuestMemoryRegionBytes, GuestUsize};

/// `VHOST_LOG_PAGE`: bytes of guest memory per bit of the log.
const LOG_PAGE: u64 = 0x1000;

/// Bytes of guest memory per byte of the log.
const LOG_BYTE_SPAN: u64 = LOG_PAGE * 8;

/// The dirty log of one device, attached or not.
#[derive(Debug, Default)]
pub struct DirtyLog {
    /// Looked at first and alone while no migration runs.
    logging: AtomicBool,
    /// Held for reading while a page is marked, so that a log that has been
    /// replaced, or ended, is not written any more once the front-end is told.
    log: RwLock<Option<Attached>>,
}

#[derive(Debug)]
struct Attached {
    map: Arc<MmapLogReg>,
    /// Length of the map; beyond it indexing would panic.
    bytes: u64,
}

impl DirtyLog {
    /// A log that nothing is attached to.
    pub fn new() -> Arc<DirtyLog> {
        Arc::default()
    }

    /// Starts or ends logging (`VHOST_F_LOG_ALL`). When it returns, the log is
    /// not written any more if `on` is false. The attached bitmap stays for a later
    /// start.
    pub fn set_logging(&self, on: bool) {
        let attached = self.log.write().unwrap_or_else(PoisonError::into_inner);
        self.logging.store(on, Ordering::Relaxed);
        if on && attached.is_none() {
            log::warn!(
                "front-end asks for dirty logging (VHOST_F_LOG_ALL) but has not sent a log \
                 (SET_LOG_BASE): pages written until it does are not logged"
            );
        }
    }

    /// Whether logging is on.
    pub fn is_logging(&self) -> bool {
        self.logging.load(Ordering::Relaxed)
    }

    /// Ends logging and lets go of the front-end's memory.
    pub fn detach(&self) {
        let mut attached = self.log.write().unwrap_or_else(PoisonError::into_inner);
        self.logging.store(false, Ordering::Relaxed);
        *attached = None;
    }

    /// Attaches a log in place of any other. When it returns, the other is not
    /// written any more.
    fn attach(&self, map: &Arc<MmapLogReg>, bytes: u64) {
        let mut attached = self.log.write().unwrap_or_else(PoisonError::into_inner);
        let known = attached.as_ref().is_some_and(|a| Arc::ptr_eq(&a.map, map));
        if !known {
            *attached = Some(Attached {
                map: Arc::clone(map),
                bytes,
            });
        }
    }

    /// Whether every page up to guest physical address `last` has its bit, as far
    /// as there is a log.
    pub(crate) fn covers(&self, last: u64) -> bool {
        let attached = self.log.read().unwrap_or_else(PoisonError::into_inner);
        attached
            .as_ref()
            .is_none_or(|a| last / LOG_BYTE_SPAN < a.bytes)
    }

    /// Marks `len` bytes from guest physical address `start`. The bytes have been
    /// written before.
    #[inline]
    fn mark(&self, start: u64, len: usize) {
        if self.logging.load(Ordering::Relaxed) && len != 0 {
            self.mark_slow(start, len);
        }
    }

    #[cold]
    fn mark_slow(&self, start: u64, len: usize) {
        let attached = self.log.read().unwrap_or_else(PoisonError::into_inner);
        // Again, under the lock that ending takes: not one page after the end.
        if !self.logging.load(Ordering::Relaxed) {
            return;
        }
        let Some(attached) = &*attached else { return };
        let first = start / LOG_PAGE;
        let last = start.saturating_add(len as u64 - 1) / LOG_PAGE;
        set_bits(first, last, |word, mask| {
            if word < attached.bytes {
                mark_word(&attached.map[word as usize], mask);
            }
        });
    }

    fn is_marked(&self, address: u64) -> bool {
        let attached = self.log.read().unwrap_or_else(PoisonError::into_inner);
        let page = address / LOG_PAGE;
        attached.as_ref().is_some_and(|a| {
            page / 8 < a.bytes
                && a.map[(page / 8) as usize].load(Ordering::Relaxed) & (1 << (page % 8)) != 0
        })
    }
}

/// Sets `mask` in a byte of the log. Rereads first: a hot page's byte is nearly
/// always set already, and need not travel between processors for that.
fn mark_word(word: &AtomicU8, mask: u8) {
    if word.load(Ordering::Relaxed) & mask != mask {
        word.fetch_or(mask, Ordering::Relaxed);
    }
}

/// Calls `set(byte, mask)` for each byte of a bitmap that holds a bit of
/// `first..=last`.
fn set_bits(first: u64, last: u64, mut set: impl FnMut(u64, u8)) {
    for word in first / 8..=last / 8 {
        let low = if word == first / 8 { first % 8 } else { 0 };
        let high = if word == last / 8 { last % 8 } else { 7 };
        set(word, (0xff << low) & (0xff >> (7 - high)));
    }
}

/// The dirty bitmap of one region of guest memory: where the region lies, and the
/// device's [`DirtyLog`].
///
/// The message handler makes regions, and puts them to use, before it tells the
/// device; a request may write to a region in between. Until the device has
/// placed the bitmap it therefore keeps marks of its own, and hands them on then.
#[derive(Clone, Debug, Default)]
pub struct LogBitmap(Arc<Region>);

#[derive(Debug, Default)]
struct Region {
    place: OnceLock<Place>,
    /// Length of the region in bytes.
    len: usize,
    early: Mutex<Early>,
}

#[derive(Debug)]
struct Place {
    log: Arc<DirtyLog>,
    /// Guest physical address of the region's first byte.
    base: u64,
}

/// What happened to a region before it was placed.
#[derive(Debug, Default)]
struct Early {
    /// A bit per 4 KiB from the region's first byte; empty until the first mark.
    marks: Vec<u8>,
    log: Option<RegionLog>,
}

impl LogBitmap {
    /// Tells the bitmap where its region lies. Only the first call counts.
    pub fn place(&self, log: &Arc<DirtyLog>, base: GuestAddress) {
        let mut early = self.early();
        if self.0.place.get().is_some() {
            return;
        }
        let base = base.0;
        if let Some(region_log) = early.log.take() {
            log.attach(&region_log.map, region_log.bytes);
        }
        for (i, &byte) in early.marks.iter().enumerate() {
            for bit in (0..8).filter(|bit| byte & (1 << bit) != 0) {
                let offset = (i as u64 * 8 + bit) * LOG_PAGE;
                log.mark(base.saturating_add(offset), LOG_PAGE as usize);
            }
        }
        early.marks = Vec::new();
        // Still under the lock of `early`: a mark is either in what was handed on
        // above, or finds the place.
        let _ = self.0.place.set(Place {
            log: Arc::clone(log),
            base,
        });
    }

    fn early(&self) -> MutexGuard<'_, Early> {
        self.0.early.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cold]
    fn mark_early(&self, offset: usize, len: usize) {
        let mut early = self.early();
        if let Some(place) = self.0.place.get() {
            return place
                .log
                .mark(place.base.saturating_add(offset as u64), len);
        }
        let pages = self.0.len.div_ceil(LOG_PAGE as usize);
        if len == 0 || pages == 0 {
            return;
        }
        if early.marks.is_empty() {
            early.marks = vec![0; pages.div_ceil(8)];
        }
        let first = offset as u64 / LOG_PAGE;
        let last = offset.saturating_add(len - 1) as u64 / LOG_PAGE;
        set_bits(first, last.min(pages as u64 - 1), |word, mask| {
            if let Some(byte) = early.marks.get_mut(word as usize) {
                *byte |= mask;
            }
        });
    }
}

impl<'a> WithBitmapSlice<'a> for LogBitmap {
    // A borrow: an `Arc` per slice costs a small request as much as all the rest.
    type S = RefSlice<'a, LogBitmap>;
}

impl Bitmap for LogBitmap {
    #[inline]
    fn mark_dirty(&self, offset: usize, len: usize) {
        match self.0.place.get() {
            Some(place) => place.log.mark(place.base.wrapping_add(offset as u64), len),
            None => self.mark_early(offset, len),
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        match self.0.place.get() {
            Some(place) => place
                .log
                .is_marked(place.base.saturating_add(offset as u64)),
            None => {
                let page = offset / LOG_PAGE as usize;
                let early = self.early();
                early
                    .marks
                    .get(page / 8)
                    .is_some_and(|byte| byte & (1 << (page % 8)) != 0)
            }
        }
    }

    fn slice_at(&self, offset: usize) -> RefSlice<'_, LogBitmap> {
        RefSlice::new(self, offset)
    }
}

impl NewBitmap for LogBitmap {
    fn with_len(len: usize) -> LogBitmap {
        LogBitmap(Arc::new(Region {
            len,
            ..Region::default()
        }))
    }
}

impl BitmapReplace for LogBitmap {
    type InnerBitmap = RegionLog;

    fn replace(&self, log: RegionLog) {
        let mut early = self.early();
        match self.0.place.get() {
            Some(place) => place.log.attach(&log.map, log.bytes),
            None => early.log = Some(log),
        }
    }
}

/// A front-end's log, found large enough for one region.
#[derive(Debug)]
pub struct RegionLog {
    map: Arc<MmapLogReg>,
    bytes: u64,
}

impl MemRegionBitmap for RegionLog {
    fn new<R: GuestMemoryRegion>(region: &R, map: Arc<MmapLogReg>) -> io::Result<RegionLog> {
        AtomicBitmapMmap::new(region, Arc::clone(&map)).inspect_err(|_| {
            log::error!(
                "refused the dirty log (SET_LOG_BASE): too small for the memory region at {:#x}, \
                 {} bytes long",
                region.start_addr().0,
                region.len()
            );
        })?;
        let bytes = map_len(&map);
        Ok(RegionLog { map, bytes })
    }
}

/// Length of a log in bytes. The crate keeps it to itself, but says for any region
/// whether a log covers it: the greatest address that is covered tells.
fn map_len(map: &Arc<MmapLogReg>) -> u64 {
    let covers = |bytes: u64| {
        let start = (bytes - 1) * LOG_BYTE_SPAN;
        AtomicBitmapMmap::new(&Probe(start), Arc::clone(map)).is_ok()
    };
    // 2^47 bytes of log would be for 2^62 bytes of memory; more cannot be mapped.
    let (mut enough, mut beyond) = (0, 1 << 47);
    while beyond - enough > 1 {
        let middle = enough + (beyond - enough) / 2;
        if covers(middle) {
            enough = middle;
        } else {
            beyond = middle;
        }
    }
    enough
}

/// A region of one byte at an address, with no memory behind it.
struct Probe(u64);

impl GuestMemoryRegion for Probe {
    type B = ();

    fn len(&self) -> GuestUsize {
        1
    }

    fn start_addr(&self) -> GuestAddress {
        GuestAddress(self.0)
    }

    fn bitmap(&self) {}
}

impl GuestMemoryRegionBytes for Probe {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_bits_covers_exactly_the_range() {
        for first in 0..40u64 {
            for last in first..40 {
                let mut bytes = [0u8; 5];
                set_bits(first, last, |word, mask| bytes[word as usize] |= mask);
                for page in 0..40 {
                    let set = bytes[page as usize / 8] & (1 << (page % 8)) != 0;
                    assert_eq!(
                        set,
                        (first..=last).contains(&page),
                        "{first}..={last}: {page}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_region_keeps_marks_until_it_is_placed() {
        let bitmap = LogBitmap::with_len(0x10_0000);
        bitmap.slice_at(0x3000).mark_dirty(0x800, 0x1000);
        // Past the end: no panic, nothing kept.
        bitmap.mark_dirty(usize::MAX, 2);
        for page in 0..0x100 {
            assert_eq!(bitmap.dirty_at(page * 0x1000), page == 3 || page == 4);
        }
        bitmap.place(&DirtyLog::new(), GuestAddress(0x4000_0000));
        assert!(!bitmap.dirty_at(0x3000), "nothing is kept once placed");
        bitmap.mark_dirty(0x3000, 1);
        assert!(!bitmap.dirty_at(0x3000), "no log: nowhere to mark");
    }

    #[test]
    fn a_log_can_be_asked_for_before_it_comes() {
        let log = DirtyLog::new();
        log.set_logging(true);
        assert!(log.is_logging() && log.covers(u64::MAX));
        log.mark(0, 1 << 20);
        log.detach();
        assert!(!log.is_logging());
    }
}
