//! Where a file's data lie (`FS_IOC_FIEMAP`, Documentation/filesystems/fiemap.rst).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// `FS_IOC_FIEMAP`: `_IOWR('f', 11, struct fiemap)`.
const FS_IOC_FIEMAP: libc::c_ulong = 0xc020_660b;
const FIEMAP_FLAG_SYNC: u32 = 1;
/// In an extent's flags: other files have it as well.
const FIEMAP_EXTENT_SHARED: u32 = 0x2000;
const MOST: usize = 256;

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// `struct fiemap` with room for what it tells.
#[repr(C)]
struct Map {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [Extent; MOST],
}

/// Whether the file has data, and none that is its own alone.
///
/// # Errors
/// As of the ioctl: file systems may not know.
pub fn all_shared(file: &File) -> io::Result<bool> {
    let mut map = Map {
        start: 0,
        length: u64::MAX,
        flags: FIEMAP_FLAG_SYNC,
        mapped: 0,
        count: MOST as u32,
        reserved: 0,
        extents: [Extent::default(); MOST],
    };
    // SAFETY: the kernel writes at most `count` extents behind the header, which is as
    // many as there is room for, and `map` outlives the call.
    let rc = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP as _, &mut map) };
    if rc != 0 {
        return Err(io::Error::last_os_error());
    }
    let told = &map.extents[..(map.mapped as usize).min(MOST)];
    Ok(!told.is_empty() && told.iter().all(|e| e.flags & FIEMAP_EXTENT_SHARED != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_are_the_kernels() {
        assert_eq!(std::mem::size_of::<Extent>(), 56);
        assert_eq!(std::mem::offset_of!(Map, extents), 32);
    }

    #[test]
    fn a_file_of_its_own_is_no_clone() {
        let path = std::env::temp_dir().join(format!("extents-{}", std::process::id()));
        std::fs::write(&path, [7; 100_000]).unwrap();
        let shared = all_shared(&File::open(&path).unwrap());
        std::fs::remove_file(&path).unwrap();
        // A file system that does not know says so.
        assert!(!matches!(shared, Ok(true)), "{shared:?}");
    }
}
