//! Guest memory: memfd regions that both sides map, and an allocator for buffers.
//!
//! Addresses are guest-physical (GPA). The daemon writes to this memory while we
//! read it, so no reference into it is ever handed out: bytes are copied in and out,
//! ring indices go through atomics.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU16;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustix::mm::{mmap, munmap, MapFlags, ProtFlags};

/// Bytes of a page, the unit of the dirty log and of region sizes.
pub const PAGE_SIZE: u64 = 4096;
/// Smallest buffer given out; also the alignment of small ones.
const MIN_BUFFER: u64 = 64;

/// What can go wrong with guest memory.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// A memfd could not be made or sized.
    #[error("cannot create a memfd of {size} bytes")]
    Create {
        /// Bytes asked for.
        size: u64,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A memfd could not be mapped.
    #[error("cannot map {size} bytes of guest memory")]
    Map {
        /// Bytes asked for.
        size: u64,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A region that makes no sense or overlaps another.
    #[error("bad region at {gpa:#x} of {size:#x} bytes: {why}")]
    BadRegion {
        /// Guest-physical start.
        gpa: u64,
        /// Bytes.
        size: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// No region holds the whole of a range.
    #[error("no region holds {len:#x} bytes at {gpa:#x}")]
    OutOfRange {
        /// Guest-physical start.
        gpa: u64,
        /// Bytes.
        len: u64,
    },
    /// No room left for a buffer.
    #[error("guest memory is full: no room for {len} bytes")]
    Full {
        /// Bytes asked for.
        len: u64,
    },
}

/// Where a region lies and how large it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionConfig {
    /// Guest-physical start, a multiple of the page size.
    pub gpa: u64,
    /// Bytes, a multiple of the page size.
    pub size: u64,
}

/// One region: a memfd, mapped.
pub struct Region {
    gpa: u64,
    size: u64,
    fd: std::fs::File,
    base: NonNull<u8>,
    heap: Mutex<Heap>,
}

// SAFETY: the mapping lives as long as the Region; all access to it goes through
// copies by raw pointer or atomics, both of which may happen from any thread.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Region {{ gpa: {:#x}, size: {:#x} }}",
            self.gpa, self.size
        )
    }
}

impl Region {
    fn new(config: RegionConfig) -> Result<Self, MemoryError> {
        let RegionConfig { gpa, size } = config;
        let bad = |why| MemoryError::BadRegion { gpa, size, why };
        if size == 0 || size % PAGE_SIZE != 0 || gpa % PAGE_SIZE != 0 {
            return Err(bad("address and size must be multiples of the page size"));
        }
        if gpa.checked_add(size).is_none() {
            return Err(bad("it reaches past the end of the address space"));
        }
        let create = |source| MemoryError::Create { size, source };
        let memfd = memfd::MemfdOptions::default()
            .close_on_exec(true)
            .create("guest-memory")
            .map_err(|e| create(std::io::Error::other(e)))?;
        memfd.as_file().set_len(size).map_err(create)?;
        let fd = memfd.into_file();
        let base = map_shared(fd.as_fd(), size)?;
        Ok(Region {
            gpa,
            size,
            fd,
            base,
            heap: Mutex::new(Heap::new(size)),
        })
    }

    /// Guest-physical start.
    pub fn gpa(&self) -> u64 {
        self.gpa
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The address at which this process sees the region: the "user address" of the
    /// vhost-user memory table.
    pub fn user_addr(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// The memfd.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn contains(&self, gpa: u64, len: u64) -> bool {
        gpa >= self.gpa && gpa - self.gpa <= self.size && len <= self.size - (gpa - self.gpa)
    }

    /// Pointer to `len` bytes at `gpa`.
    fn at(&self, gpa: u64, len: u64) -> Result<*mut u8, MemoryError> {
        if !self.contains(gpa, len) {
            return Err(MemoryError::OutOfRange { gpa, len });
        }
        Ok(self.base.as_ptr().wrapping_add((gpa - self.gpa) as usize))
    }

    /// Copies bytes out of the region.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`].
    pub fn read(&self, gpa: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        let from = self.at(gpa, buf.len() as u64)?;
        // SAFETY: `at` checked that the range lies in the mapping, and `buf` is not
        // part of it. The daemon may write meanwhile: then the bytes are whatever
        // they are, as they would be for a guest.
        unsafe { std::ptr::copy_nonoverlapping(from, buf.as_mut_ptr(), buf.len()) };
        Ok(())
    }

    /// Copies bytes into the region.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`].
    pub fn write(&self, gpa: u64, buf: &[u8]) -> Result<(), MemoryError> {
        let to = self.at(gpa, buf.len() as u64)?;
        // SAFETY: as in `read`.
        unsafe { std::ptr::copy_nonoverlapping(buf.as_ptr(), to, buf.len()) };
        Ok(())
    }

    /// A 16-bit word shared with the daemon: a ring's index, flags or event index.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`], also for an odd address.
    pub fn atomic_u16(&self, gpa: u64) -> Result<&AtomicU16, MemoryError> {
        if gpa % 2 != 0 {
            return Err(MemoryError::OutOfRange { gpa, len: 2 });
        }
        let at = self.at(gpa, 2)?;
        // SAFETY: in the mapping, aligned (the mapping is page-aligned and so is
        // `self.gpa`), and borrowed from the Region that keeps it mapped.
        Ok(unsafe { AtomicU16::from_ptr(at.cast()) })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this size; nothing borrows from it any more.
        // A failure to unmap leaves the range mapped, which harms nobody.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.size as usize) };
    }
}

/// Maps `size` bytes of `fd`, shared.
pub(crate) fn map_shared(fd: BorrowedFd<'_>, size: u64) -> Result<NonNull<u8>, MemoryError> {
    let map = |source| MemoryError::Map { size, source };
    // SAFETY: a new mapping at an address the kernel chooses; it aliases nothing.
    let base = unsafe {
        mmap(
            std::ptr::null_mut(),
            size as usize,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED | MapFlags::NORESERVE,
            fd,
            0,
        )
    };
    let base = base.map_err(|e| map(e.into()))?;
    NonNull::new(base.cast()).ok_or_else(|| map(std::io::ErrorKind::OutOfMemory.into()))
}

/// Buffers of one region: free lists by power of two over a bump pointer.
#[derive(Debug)]
struct Heap {
    next: u64,
    end: u64,
    free: BTreeMap<u64, Vec<u64>>,
}

impl Heap {
    fn new(end: u64) -> Self {
        Heap {
            next: 0,
            end,
            free: BTreeMap::new(),
        }
    }

    /// Offset of a free block of `class` bytes.
    fn take(&mut self, class: u64) -> Option<u64> {
        if let Some(offset) = self.free.get_mut(&class).and_then(Vec::pop) {
            return Some(offset);
        }
        let align = class.min(PAGE_SIZE);
        let start = self.next.next_multiple_of(align);
        let end = start.checked_add(class)?;
        if end > self.end {
            return None;
        }
        self.next = end;
        Some(start)
    }

    fn give_back(&mut self, class: u64, offset: u64) {
        self.free.entry(class).or_default().push(offset);
    }
}

/// Size class for `len` bytes.
fn class_of(len: u64) -> Option<u64> {
    len.max(MIN_BUFFER).checked_next_power_of_two()
}

/// The guest's memory: one or more regions that may grow and shrink.
#[derive(Debug, Default)]
pub struct GuestMemory {
    regions: RwLock<Vec<Arc<Region>>>,
}

impl GuestMemory {
    /// Memory of the given regions.
    ///
    /// # Errors
    /// As [`add_region`](Self::add_region).
    pub fn new(regions: &[RegionConfig]) -> Result<Arc<Self>, MemoryError> {
        let memory = GuestMemory::default();
        for region in regions {
            memory.add_region(*region)?;
        }
        Ok(Arc::new(memory))
    }

    /// Adds a region. The daemon learns of it by SET_MEM_TABLE or ADD_MEM_REG.
    ///
    /// # Errors
    /// [`MemoryError::BadRegion`], [`MemoryError::Create`], [`MemoryError::Map`].
    pub fn add_region(&self, config: RegionConfig) -> Result<Arc<Region>, MemoryError> {
        let region = Arc::new(Region::new(config)?);
        let mut regions = self.regions.write().unwrap_or_else(PoisonError::into_inner);
        let end = config.gpa + config.size;
        if regions
            .iter()
            .any(|r| config.gpa < r.gpa + r.size && r.gpa < end)
        {
            return Err(MemoryError::BadRegion {
                gpa: config.gpa,
                size: config.size,
                why: "it overlaps another region",
            });
        }
        regions.push(Arc::clone(&region));
        regions.sort_by_key(|r| r.gpa);
        Ok(region)
    }

    /// Takes a region out. Buffers in it keep it mapped here until they are dropped.
    pub fn remove_region(&self, gpa: u64) -> Option<Arc<Region>> {
        let mut regions = self.regions.write().unwrap_or_else(PoisonError::into_inner);
        let at = regions.iter().position(|r| r.gpa == gpa)?;
        Some(regions.remove(at))
    }

    /// The regions, by address.
    pub fn regions(&self) -> Vec<Arc<Region>> {
        self.regions
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// First address past the highest region.
    pub fn end(&self) -> u64 {
        let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
        regions.last().map_or(0, |r| r.gpa + r.size)
    }

    /// The region that holds `len` bytes at `gpa`.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`].
    pub fn region_of(&self, gpa: u64, len: u64) -> Result<Arc<Region>, MemoryError> {
        let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
        let found = regions.iter().find(|r| r.contains(gpa, len));
        found.cloned().ok_or(MemoryError::OutOfRange { gpa, len })
    }

    /// Copies bytes out of guest memory.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`]; a range over two regions counts as such.
    pub fn read(&self, gpa: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        self.region_of(gpa, buf.len() as u64)?.read(gpa, buf)
    }

    /// Copies bytes into guest memory.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn write(&self, gpa: u64, buf: &[u8]) -> Result<(), MemoryError> {
        self.region_of(gpa, buf.len() as u64)?.write(gpa, buf)
    }

    /// A buffer of `len` bytes in the first region with room. Its contents are what
    /// was there before.
    ///
    /// # Errors
    /// [`MemoryError::Full`].
    pub fn alloc(&self, len: usize) -> Result<GuestBuffer, MemoryError> {
        let regions = self.regions.read().unwrap_or_else(PoisonError::into_inner);
        regions
            .iter()
            .find_map(|region| GuestBuffer::new(region, len as u64))
            .ok_or(MemoryError::Full { len: len as u64 })
    }

    /// A buffer in the region that starts at `gpa`.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] without such a region, [`MemoryError::Full`].
    pub fn alloc_in(&self, gpa: u64, len: usize) -> Result<GuestBuffer, MemoryError> {
        let region = self.region_of(gpa, 1)?;
        GuestBuffer::new(&region, len as u64).ok_or(MemoryError::Full { len: len as u64 })
    }
}

/// A piece of guest memory that is ours until dropped. Small buffers are aligned to
/// their size, those of a page and more to the page.
#[derive(Debug)]
pub struct GuestBuffer {
    region: Arc<Region>,
    offset: u64,
    len: u64,
}

impl GuestBuffer {
    fn new(region: &Arc<Region>, len: u64) -> Option<Self> {
        let class = class_of(len)?;
        let mut heap = region.heap.lock().unwrap_or_else(PoisonError::into_inner);
        let offset = heap.take(class)?;
        drop(heap);
        Some(GuestBuffer {
            region: Arc::clone(region),
            offset,
            len,
        })
    }

    /// Guest-physical address.
    pub fn gpa(&self) -> u64 {
        self.region.gpa + self.offset
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The region it lies in.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Copies bytes in at `offset`.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] past the buffer's end.
    pub fn write_at(&self, offset: usize, bytes: &[u8]) -> Result<(), MemoryError> {
        self.check(offset, bytes.len())?;
        self.region.write(self.gpa() + offset as u64, bytes)
    }

    /// Copies bytes out from `offset`.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] past the buffer's end.
    pub fn read_at(&self, offset: usize, bytes: &mut [u8]) -> Result<(), MemoryError> {
        self.check(offset, bytes.len())?;
        self.region.read(self.gpa() + offset as u64, bytes)
    }

    /// `len` bytes from `offset`, or as many as there are.
    pub fn to_vec(&self, offset: usize, len: usize) -> Vec<u8> {
        let offset = offset.min(self.len());
        let mut bytes = vec![0; len.min(self.len() - offset)];
        // The range was just clamped to the buffer.
        let _ = self.read_at(offset, &mut bytes);
        bytes
    }

    fn check(&self, offset: usize, len: usize) -> Result<(), MemoryError> {
        if offset
            .checked_add(len)
            .is_none_or(|end| end as u64 > self.len)
        {
            return Err(MemoryError::OutOfRange {
                gpa: self.gpa().saturating_add(offset as u64),
                len: len as u64,
            });
        }
        Ok(())
    }
}

impl Drop for GuestBuffer {
    fn drop(&mut self) {
        if let Some(class) = class_of(self.len) {
            let mut heap = self
                .region
                .heap
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            heap.give_back(class, self.offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn regions_are_checked() {
        let memory = GuestMemory::new(&[RegionConfig { gpa: 0, size: MIB }]).expect("memory");
        for (gpa, size) in [
            (0, 0),
            (1, PAGE_SIZE),
            (MIB - PAGE_SIZE, MIB),
            (u64::MAX - 4095, MIB),
        ] {
            memory
                .add_region(RegionConfig { gpa, size })
                .expect_err("bad region");
        }
        memory
            .add_region(RegionConfig {
                gpa: MIB,
                size: MIB,
            })
            .expect("adjacent is fine");
        assert_eq!(memory.end(), 2 * MIB);
        memory
            .write(MIB - 4, &[1; 8])
            .expect_err("over two regions");
        memory.write(MIB - 8, &[1; 8]).expect("at the end");
        memory
            .read(u64::MAX, &mut [0; 2])
            .expect_err("past everything");
        assert!(memory.remove_region(MIB).is_some());
        assert!(memory.remove_region(MIB).is_none());
    }

    #[test]
    fn buffers_do_not_overlap_and_come_back() {
        let memory = GuestMemory::new(&[RegionConfig {
            gpa: 0x10000,
            size: MIB,
        }])
        .expect("memory");
        let a = memory.alloc(100).expect("alloc");
        let b = memory.alloc(5000).expect("alloc");
        assert_eq!(b.gpa() % PAGE_SIZE, 0);
        assert!(a.gpa() + 100 <= b.gpa() || b.gpa() + 5000 <= a.gpa());
        a.write_at(0, &[7; 100]).expect("write");
        a.write_at(1, &[7; 100]).expect_err("past the end");
        assert_eq!(a.to_vec(98, 10), [7, 7]);
        let gpa = a.gpa();
        drop(a);
        assert_eq!(memory.alloc(128).expect("alloc").gpa(), gpa);
        memory.alloc(2 << 20).expect_err("too large");
    }
}
