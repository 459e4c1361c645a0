//! One half of a descriptor chain: slices of guest memory, and how far they are used up.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::bitmap::BitmapSlice;
use vm_memory::VolatileSlice;

/// Slices that are kept without an allocation: those of any request but long reads and
/// writes.
const INLINE: usize = 6;

/// `UIO_MAXIOV`: more iovecs in one call are an error, so a longer list is moved in part,
/// which callers must expect of any read or write.
const IOV_MAX: usize = 1024;

/// The readable or the writable half of a chain.
pub(super) struct Half<'a, S> {
    // Empty ones are left out.
    inline: [Option<VolatileSlice<'a, S>>; INLINE],
    count: usize,
    rest: Vec<VolatileSlice<'a, S>>,
    at: Position,
    remaining: usize,
}

/// A place in a half: a slice and a byte of it.
#[derive(Clone, Copy, Default)]
struct Position {
    slice: usize,
    offset: usize,
}

impl<'a, S: BitmapSlice> Half<'a, S> {
    pub(super) fn new() -> Half<'a, S> {
        Half {
            inline: [const { None }; INLINE],
            count: 0,
            rest: Vec::new(),
            at: Position::default(),
            remaining: 0,
        }
    }

    pub(super) fn push(&mut self, slice: VolatileSlice<'a, S>) {
        if slice.is_empty() {
            return;
        }
        // Chains of more bytes than a `u32` counts end before.
        self.remaining += slice.len();
        match self.inline.get_mut(self.count) {
            Some(place) => *place = Some(slice),
            None => self.rest.push(slice),
        }
        self.count += 1;
    }

    /// Bytes not used up.
    pub(super) fn remaining(&self) -> usize {
        self.remaining
    }

    fn get(&self, index: usize) -> Option<&VolatileSlice<'a, S>> {
        match self.inline.get(index) {
            Some(slice) => slice.as_ref(),
            None => self.rest.get(index - INLINE),
        }
    }

    /// Calls `each` with the slices of `count` bytes from `at` on, as long as it answers
    /// true, and with how many bytes were before. Answers the place behind them.
    fn walk(
        &self,
        mut at: Position,
        count: usize,
        mut each: impl FnMut(&VolatileSlice<'_, S>, usize) -> bool,
    ) -> Position {
        let mut done = 0;
        while done < count {
            let Some(slice) = self.get(at.slice) else {
                break;
            };
            let len = (slice.len() - at.offset).min(count - done);
            // Within the slice by the line above.
            if !slice
                .subslice(at.offset, len)
                .is_ok_and(|part| each(&part, done))
            {
                break;
            }
            done += len;
            at.offset += len;
            if at.offset == slice.len() {
                at.slice += 1;
                at.offset = 0;
            }
        }
        at
    }

    /// Uses `count` bytes up, of those that remain.
    pub(super) fn skip(&mut self, count: usize) {
        self.at = self.walk(self.at, count, |_, _| true);
        self.remaining -= count;
    }

    /// Fills `buf`, which is no longer than what remains.
    pub(super) fn read(&mut self, buf: &mut [u8]) {
        self.at = self.walk(self.at, buf.len(), |part, done| {
            part.copy_to(&mut buf[done..done + part.len()]);
            true
        });
        self.remaining -= buf.len();
    }

    /// Writes `buf`, which is no longer than what remains.
    pub(super) fn write(&mut self, buf: &[u8]) {
        self.at = self.put(self.at, buf);
        self.remaining -= buf.len();
    }

    /// Writes `buf` to the beginning, whatever is used up.
    pub(super) fn write_first(&self, buf: &[u8]) {
        self.put(Position::default(), buf);
    }

    fn put(&self, at: Position, buf: &[u8]) -> Position {
        self.walk(at, buf.len(), |part, done| {
            // Marks what it has written as dirty.
            part.copy_from(&buf[done..done + part.len()]);
            true
        })
    }

    /// Runs `call` with the iovecs of up to `count` bytes that remain, and with `offset`;
    /// answers how many bytes it says it has moved. Nothing is used up.
    ///
    /// # Errors
    /// `EINVAL` for an offset of 2^63 or more: -1 would mean the descriptor's own position
    /// to the kernel. Otherwise `errno`, where `call` answers a negative number.
    fn move_data(
        &self,
        count: usize,
        offset: u64,
        call: impl FnOnce(*const libc::iovec, i32, i64) -> isize,
    ) -> io::Result<usize> {
        let offset =
            i64::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        let mut iovecs = [const { MaybeUninit::<libc::iovec>::uninit() }; IOV_MAX];
        let mut used = 0;
        self.walk(self.at, count, |part, _| {
            let Some(iovec) = iovecs.get_mut(used) else {
                return false;
            };
            iovec.write(libc::iovec {
                iov_base: part.ptr_guard_mut().as_ptr().cast(),
                iov_len: part.len(),
            });
            used += 1;
            true
        });
        if used == 0 {
            return Ok(0);
        }
        let moved = call(iovecs.as_ptr().cast(), used as i32, offset);
        usize::try_from(moved).map_err(|_| io::Error::last_os_error())
    }

    /// Reads up to `count` bytes of `file` at `offset` by one `preadv`, and uses up as
    /// many as came.
    pub(super) fn read_from_file(
        &mut self,
        file: BorrowedFd<'_>,
        count: usize,
        offset: u64,
    ) -> io::Result<usize> {
        let count = count.min(self.remaining);
        let read = self.move_data(count, offset, |iovecs, used, offset| {
            // SAFETY: `iovecs` points to `used` initialised entries, each of which names
            // memory that its slice keeps mapped for the call; guest memory is never
            // referenced by Rust, so the kernel may write to it.
            unsafe { libc::preadv64(file.as_raw_fd(), iovecs, used, offset) }
        })?;
        self.at = self.walk(self.at, read, |part, _| {
            part.bitmap().mark_dirty(0, part.len());
            true
        });
        self.remaining -= read;
        Ok(read)
    }

    /// Writes up to `count` bytes to `file` at `offset` by one `pwritev2`, and uses up as
    /// many as it took. `rwf_flags` are `RWF_*`.
    pub(super) fn write_to_file(
        &mut self,
        file: BorrowedFd<'_>,
        count: usize,
        offset: u64,
        rwf_flags: i32,
    ) -> io::Result<usize> {
        let count = count.min(self.remaining);
        let written = self.move_data(count, offset, |iovecs, used, offset| {
            let fd = file.as_raw_fd();
            if rwf_flags == 0 {
                // SAFETY: as in `read_from_file`, and the kernel only reads.
                unsafe { libc::pwritev64(fd, iovecs, used, offset) }
            } else {
                // SAFETY: as above.
                unsafe { libc::pwritev2(fd, iovecs, used, offset, rwf_flags) }
            }
        })?;
        self.skip(written);
        Ok(written)
    }
}
