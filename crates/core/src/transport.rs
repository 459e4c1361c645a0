//! A virtqueue descriptor chain as a request: [`ChainIo`].
//!
//! File data moves by one system call between the file and the guest pages that
//! the descriptors name; nothing is copied on the way. Bytes written to guest
//! memory are marked in the memory's dirty bitmap, whatever type that is.

use std::io::{self, Read, Write};
use std::ops::Deref;
use std::os::fd::BorrowedFd;

use fuse_backend_rs::transport::{Error as FbrError, Reader, VirtioFsWriter};
use virtio_queue::DescriptorChain;
use vm_memory::bitmap::{BitmapSlice, MS};
use vm_memory::GuestMemory;

use crate::io::{ReplyWriter, RequestIo, RequestReader};

#[cfg(test)]
mod tests;
mod vectored;

use vectored::VectoredFile;

/// Length of a `fuse_out_header` in bytes.
const OUT_HEADER: usize = 16;

/// Why a descriptor chain is no request. The device completes such a chain with
/// length 0 and goes on.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// A readable descriptor is outside guest memory, or too long.
    #[error("bad device-readable descriptor: {0}")]
    Readable(#[source] FbrError),
    /// A writable descriptor is outside guest memory, or too long.
    #[error("bad device-writable descriptor: {0}")]
    Writable(#[source] FbrError),
}

/// A FUSE request in a virtqueue descriptor chain. `S` is the dirty bitmap of
/// the guest memory that it lies in.
pub struct ChainIo<'a, S: BitmapSlice> {
    reader: ChainReader<'a, S>,
    /// The first 16 bytes of the writable half, or all of it where it is shorter.
    header: VirtioFsWriter<'a, S>,
    body: ChainWriter<'a, S>,
}

impl<'a, S: BitmapSlice> ChainIo<'a, S> {
    /// Takes a chain whose descriptors lie in `mem`. Descriptors are read from
    /// guest memory here, and never again.
    ///
    /// # Errors
    /// A descriptor that is not wholly inside one region of `mem`, or lengths
    /// whose sum overflows.
    #[allow(clippy::type_complexity)] // `MS` is what the bitmap's slice type is called.
    pub fn new<M>(
        mem: &'a M::Target,
        chain: DescriptorChain<M>,
    ) -> Result<ChainIo<'a, MS<'a, M::Target>>, ChainError>
    where
        M: Deref + Clone,
        M::Target: GuestMemory + Sized,
    {
        let reader =
            Reader::from_descriptor_chain(mem, chain.clone()).map_err(ChainError::Readable)?;
        let mut header = VirtioFsWriter::new(mem, chain).map_err(ChainError::Writable)?;
        let room = header.available_bytes();
        let body = header
            .split_at(room.min(OUT_HEADER))
            .map_err(ChainError::Writable)?;
        Ok(ChainIo {
            reader: ChainReader {
                remaining: reader.available_bytes(),
                inner: reader,
            },
            body: ChainWriter {
                remaining: room.saturating_sub(OUT_HEADER),
                inner: body,
            },
            header,
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
        self.header.available_bytes() >= OUT_HEADER
    }

    fn body(&mut self) -> &mut Self::Writer {
        &mut self.body
    }

    fn split(&mut self) -> (&mut Self::Reader, &mut Self::Writer) {
        (&mut self.reader, &mut self.body)
    }

    fn finish(mut self, header: &[u8; 16]) -> io::Result<usize> {
        if !self.can_reply() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.header.write_all(header)?;
        Ok(u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize)
    }
}

/// The device-readable half of a chain.
pub struct ChainReader<'a, S: BitmapSlice> {
    inner: Reader<'a, S>,
    // Counted here: asking the crate walks all descriptors.
    remaining: usize,
}

impl<S: BitmapSlice> RequestReader for ChainReader<'_, S> {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn read_exact(&mut self, buf: &mut [u8]) -> io::Result<()> {
        if buf.len() > self.remaining {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.inner.read_exact(buf)?;
        self.remaining -= buf.len();
        Ok(())
    }

    fn write_to_file(
        &mut self,
        file: BorrowedFd<'_>,
        count: usize,
        offset: u64,
        rwf_flags: i32,
    ) -> io::Result<usize> {
        let count = count.min(self.remaining);
        let written = self
            .inner
            .read_to_at(VectoredFile::new(file, rwf_flags), count, offset)?;
        self.remaining -= written;
        Ok(written)
    }
}

/// The device-writable half of a chain, behind the reply header.
pub struct ChainWriter<'a, S: BitmapSlice> {
    inner: VirtioFsWriter<'a, S>,
    remaining: usize,
}

impl<S: BitmapSlice> ReplyWriter for ChainWriter<'_, S> {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn write_all(&mut self, buf: &[u8]) -> io::Result<()> {
        if buf.len() > self.remaining {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.inner.write_all(buf)?;
        self.remaining -= buf.len();
        Ok(())
    }

    fn read_from_file(
        &mut self,
        file: BorrowedFd<'_>,
        count: usize,
        offset: u64,
    ) -> io::Result<usize> {
        let count = count.min(self.remaining);
        let read = self
            .inner
            .write_from_at(VectoredFile::new(file, 0), count, offset)?;
        self.remaining -= read;
        Ok(read)
    }
}
