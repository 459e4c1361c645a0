//! A virtqueue descriptor chain as a request: [`ChainIo`].
//!
//! The chain is walked once, and where it leads is kept without an allocation. File data
//! moves by one system call between the file and the guest pages that the descriptors
//! name; nothing is copied on the way. Bytes written to guest memory are marked in the
//! memory's dirty bitmap, whatever type that is, once they are written.

use std::io;
use std::ops::Deref;
use std::os::fd::BorrowedFd;

use virtio_queue::DescriptorChain;
use vm_memory::bitmap::{BitmapSlice, MS};
use vm_memory::{GuestMemory, GuestMemoryError};

use crate::io::{ReplyWriter, RequestIo, RequestReader};

mod half;
#[cfg(test)]
mod tests;

use half::Half;

/// Length of a `fuse_out_header` in bytes.
const OUT_HEADER: usize = 16;

/// Why a descriptor chain is no request. The device completes such a chain with
/// length 0 and goes on.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// A readable descriptor is not wholly inside one region of guest memory.
    #[error("bad device-readable descriptor: {0}")]
    Readable(#[source] GuestMemoryError),
    /// A writable descriptor is not wholly inside one region of guest memory.
    #[error("bad device-writable descriptor: {0}")]
    Writable(#[source] GuestMemoryError),
}

/// A FUSE request in a virtqueue descriptor chain. `S` is the dirty bitmap of
/// the guest memory that it lies in.
pub struct ChainIo<'a, S: BitmapSlice> {
    reader: ChainReader<'a, S>,
    body: ChainWriter<'a, S>,
    can_reply: bool,
}

impl<'a, S: BitmapSlice> ChainIo<'a, S> {
    /// Takes a chain whose descriptors lie in `mem`. Descriptors are read from
    /// guest memory here, and never again.
    ///
    /// # Errors
    /// A descriptor that is not wholly inside one region of `mem`.
    #[allow(clippy::type_complexity)] // `MS` is what the bitmap's slice type is called.
    pub fn new<M>(
        mem: &'a M::Target,
        chain: DescriptorChain<M>,
    ) -> Result<ChainIo<'a, MS<'a, M::Target>>, ChainError>
    where
        M: Deref + Clone,
        M::Target: GuestMemory + Sized,
    {
        let (mut readable, mut writable) = (Half::new(), Half::new());
        for descriptor in chain {
            let slice = mem.get_slice(descriptor.addr(), descriptor.len() as usize);
            match descriptor.is_write_only() {
                true => writable.push(slice.map_err(ChainError::Writable)?),
                false => readable.push(slice.map_err(ChainError::Readable)?),
            }
        }
        let room = writable.remaining();
        writable.skip(room.min(OUT_HEADER));
        Ok(ChainIo {
            reader: ChainReader(readable),
            body: ChainWriter(writable),
            can_reply: room >= OUT_HEADER,
        })
    }
}

impl<'a, S: BitmapSlice> RequestIo for ChainIo<'a, S> {
    type Reader = ChainReader<'a, S>;
    type Writer = ChainWriter<'a, S>;

    fn reader(&mut self) -> &mut Self::Reader {
        &mut self.reader
    }

    fn can_reply(&self) -> bool {
        self.can_reply
    }

    fn body(&mut self) -> &mut Self::Writer {
        &mut self.body
    }

    fn split(&mut self) -> (&mut Self::Reader, &mut Self::Writer) {
        (&mut self.reader, &mut self.body)
    }

    fn finish(self, header: &[u8; 16]) -> io::Result<usize> {
        if !self.can_reply {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.body.0.write_first(header);
        Ok(u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize)
    }
}

/// The device-readable half of a chain.
pub struct ChainReader<'a, S: BitmapSlice>(Half<'a, S>);

impl<S: BitmapSlice> RequestReader for ChainReader<'_, S> {
    fn remaining(&self) -> usize {
        self.0.remaining()
    }

    fn read_exact(&mut self, buf: &mut [u8]) -> io::Result<()> {
        if buf.len() > self.remaining() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.0.read(buf);
        Ok(())
    }

    fn write_to_file(
        &mut self,
        file: BorrowedFd<'_>,
        count: usize,
        offset: u64,
        rwf_flags: i32,
    ) -> io::Result<usize> {
        self.0.write_to_file(file, count, offset, rwf_flags)
    }
}

/// The device-writable half of a chain, behind the reply header.
pub struct ChainWriter<'a, S: BitmapSlice>(Half<'a, S>);

impl<S: BitmapSlice> ReplyWriter for ChainWriter<'_, S> {
    fn remaining(&self) -> usize {
        self.0.remaining()
    }

    fn write_all(&mut self, buf: &[u8]) -> io::Result<()> {
        if buf.len() > self.remaining() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.0.write(buf);
        Ok(())
    }

    fn read_from_file(
        &mut self,
        file: BorrowedFd<'_>,
        count: usize,
        offset: u64,
    ) -> io::Result<usize> {
        self.0.read_from_file(file, count, offset)
    }
}
