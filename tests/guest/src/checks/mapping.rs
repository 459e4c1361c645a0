//! A file mapped shared: old pages, pages first touched after the crossing, and
//! what was written through the mapping.

use std::fs::File;

use ferry_guest::{pattern, Expectation};
use rustix::mm::{Advice, MapFlags, MsyncFlags, ProtFlags};

use super::held::Held;
use super::Live;
use crate::sys::{need, At, Failure, Result};

const LEN: usize = 1 << 20;
const PAGE: usize = 4096;

/// A shared mapping from the beginning of a file.
pub struct Mapping {
    start: *mut std::ffi::c_void,
    len: usize,
}

impl Mapping {
    /// Maps `len` bytes of `file`.
    pub fn new(file: &File, len: usize) -> Result<Self> {
        // SAFETY: the kernel picks the place, so nothing that exists is touched.
        let start = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                0,
            )
        }
        .at("mmap")?;
        Ok(Self { start, len })
    }

    fn range(&self, at: usize, len: usize) -> Result<*mut u8> {
        need(at.saturating_add(len) <= self.len, || {
            format!("{at}+{len} is outside of the mapping")
        })?;
        Ok(self.start.cast::<u8>().wrapping_add(at))
    }

    /// Copies `len` bytes at `at` out of it.
    pub fn read(&self, at: usize, len: usize) -> Result<Vec<u8>> {
        let from = self.range(at, len)?;
        let mut out = vec![0; len];
        // SAFETY: checked to lie in the mapping, which lives as long as self.
        unsafe { from.copy_to_nonoverlapping(out.as_mut_ptr(), len) };
        Ok(out)
    }

    /// Copies `data` into it at `at`.
    pub fn write(&mut self, at: usize, data: &[u8]) -> Result<()> {
        let to = self.range(at, data.len())?;
        // SAFETY: checked to lie in the mapping; no reference into it exists.
        unsafe { to.copy_from_nonoverlapping(data.as_ptr(), data.len()) };
        Ok(())
    }

    /// Writes it to the file.
    pub fn flush(&self) -> Result<()> {
        // SAFETY: exactly the mapping made in `new`.
        unsafe { rustix::mm::msync(self.start, self.len, MsyncFlags::SYNC) }.at("msync")
    }

    /// Lets go of its pages, so that the next access asks the file again.
    pub fn forget_pages(&self) -> Result<()> {
        // SAFETY: a shared file mapping: its pages come back from the file.
        unsafe { rustix::mm::madvise(self.start, self.len, Advice::LinuxDontNeed) }.at("madvise")
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `new`; nothing refers to it any
        // more. An error would mean that it does not exist, which is as good.
        let _ = unsafe { rustix::mm::munmap(self.start, self.len) };
    }
}

struct Mapped {
    held: Held,
    map: Mapping,
    crossings: usize,
}

/// Maps a megabyte and touches the first quarter.
pub fn prepare() -> Result<Box<dyn Live>> {
    let path = super::own_dir("mmap")?.join("file");
    let mut held = Held::create(path, 7, LEN)?;
    let (file, content) = held.parts();
    let mut map = Mapping::new(file, LEN)?;
    for page in 0..64 {
        let at = page * PAGE + page;
        let new = pattern::bytes(8, at, 32);
        map.write(at, &new)?;
        content[at..at + 32].copy_from_slice(&new);
    }
    Ok(Box::new(Mapped {
        held,
        map,
        crossings: 0,
    }))
}

impl Mapped {
    fn compare(&mut self, when: &str) -> Result<()> {
        let got = self.map.read(0, LEN)?;
        let (_, content) = self.held.parts();
        match pattern::difference(&got, &content[..LEN]) {
            Some(wrong) => Err(Failure::new(format!("{when}: {wrong}"))),
            None => Ok(()),
        }
    }
}

impl Live for Mapped {
    fn verify(&mut self) -> Result<()> {
        self.compare("mapping after the crossing")?;
        self.crossings += 1;
        for page in 0..16 {
            let at = (page * 16 + self.crossings % 16) * PAGE + 1_000;
            let new = pattern::bytes(9 + self.crossings as u64, at, 64);
            self.map.write(at, &new)?;
            self.held.parts().1[at..at + 64].copy_from_slice(&new);
        }
        self.map.flush()?;
        self.map.forget_pages()?;
        crate::sys::drop_caches("1")?;
        self.compare("mapping written and read again")?;
        // The same file by its descriptor sees the same, and adds to it.
        self.held.check()
    }

    fn finish(self: Box<Self>) -> Result<Vec<Expectation>> {
        self.map.flush()?;
        Ok(vec![self.held.expectation()])
    }
}
