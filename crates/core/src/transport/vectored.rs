//! `preadv2` and `pwritev2` over the slices that the chain reader and writer hand
//! out. The crate's own implementation for `File` cannot take `RWF_*` flags and
//! puts its iovecs on the heap.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use fuse_backend_rs::file_buf::FileVolatileSlice;
use fuse_backend_rs::file_traits::FileReadWriteVolatile;

/// `UIO_MAXIOV`: more iovecs in one call are an error, so a longer list is moved
/// in part, which callers must expect of any read or write.
const IOV_MAX: usize = 1024;

/// A borrowed descriptor with the flags that its next writes shall have.
pub(super) struct VectoredFile<'a> {
    file: BorrowedFd<'a>,
    rwf_flags: i32,
}

impl<'a> VectoredFile<'a> {
    pub(super) fn new(file: BorrowedFd<'a>, rwf_flags: i32) -> Self {
        VectoredFile { file, rwf_flags }
    }

    /// Runs `call` with the iovecs of `bufs`. `offset` is checked first: -1 would
    /// mean the descriptor's own position to the kernel.
    fn with_iovecs(
        bufs: &[FileVolatileSlice<'_>],
        offset: u64,
        call: impl FnOnce(*const libc::iovec, i32, i64) -> isize,
    ) -> io::Result<usize> {
        let offset =
            i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        let mut iovecs = [const { MaybeUninit::<libc::iovec>::uninit() }; IOV_MAX];
        let mut count = 0;
        for (slot, buf) in iovecs.iter_mut().zip(bufs.iter().filter(|b| !b.is_empty())) {
            slot.write(libc::iovec {
                iov_base: buf.as_ptr().cast(),
                iov_len: buf.len(),
            });
            count += 1;
        }
        let done = call(iovecs.as_ptr().cast(), count, offset);
        usize::try_from(done).map_err(|_| io::Error::last_os_error())
    }
}

impl FileReadWriteVolatile for VectoredFile<'_> {
    fn read_vectored_at_volatile(
        &mut self,
        bufs: &[FileVolatileSlice<'_>],
        offset: u64,
    ) -> io::Result<usize> {
        let fd = self.file.as_raw_fd();
        Self::with_iovecs(bufs, offset, |iovecs, count, offset| {
            // SAFETY: `iovecs` points to `count` initialised entries, each of which
            // names memory that its slice keeps mapped for the call; guest memory
            // is never referenced by Rust, so the kernel may write to it.
            unsafe { libc::preadv64(fd, iovecs, count, offset) }
        })
    }

    fn write_vectored_at_volatile(
        &mut self,
        bufs: &[FileVolatileSlice<'_>],
        offset: u64,
    ) -> io::Result<usize> {
        let fd = self.file.as_raw_fd();
        let flags = self.rwf_flags;
        Self::with_iovecs(bufs, offset, |iovecs, count, offset| {
            if flags == 0 {
                // SAFETY: as in `read_vectored_at_volatile`, and the kernel only
                // reads.
                unsafe { libc::pwritev64(fd, iovecs, count, offset) }
            } else {
                // SAFETY: as above.
                unsafe { libc::pwritev2(fd, iovecs, count, offset, flags) }
            }
        })
    }

    fn read_at_volatile(&mut self, slice: FileVolatileSlice<'_>, offset: u64) -> io::Result<usize> {
        self.read_vectored_at_volatile(&[slice], offset)
    }

    fn write_at_volatile(
        &mut self,
        slice: FileVolatileSlice<'_>,
        offset: u64,
    ) -> io::Result<usize> {
        self.write_vectored_at_volatile(&[slice], offset)
    }

    // A `VectoredFile` has no position of its own: everything is at an offset.

    fn read_volatile(&mut self, _: FileVolatileSlice<'_>) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn write_volatile(&mut self, _: FileVolatileSlice<'_>) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
