//! A request in plain buffers: [`BufIo`], for tests and for transports that copy.

use std::io;
use std::os::fd::BorrowedFd;

use crate::io::{ReplyWriter, RequestIo, RequestReader};

/// Length of a `fuse_out_header` in bytes.
const OUT_HEADER: usize = 16;

/// A request in one buffer, and room for its reply in another.
pub struct BufIo<'a> {
    reader: BufReader<'a>,
    header: Option<&'a mut [u8; OUT_HEADER]>,
    body: BufWriter<'a>,
}

impl<'a> BufIo<'a> {
    /// `request` begins with a `fuse_in_header`; `reply` is all the room there is
    /// for a reply, its header included.
    pub fn new(request: &'a [u8], reply: &'a mut [u8]) -> BufIo<'a> {
        let (header, body) = match reply.split_first_chunk_mut() {
            Some((header, body)) => (Some(header), body),
            None => (None, Default::default()),
        };
        BufIo {
            reader: BufReader { rest: request },
            header,
            body: BufWriter { room: body },
        }
    }
}

impl<'a> RequestIo for BufIo<'a> {
    type Reader = BufReader<'a>;
    type Writer = BufWriter<'a>;

    fn reader(&mut self) -> &mut Self::Reader {
        &mut self.reader
    }

    fn can_reply(&self) -> bool {
        self.header.is_some()
    }

    fn body(&mut self) -> &mut Self::Writer {
        &mut self.body
    }

    fn split(&mut self) -> (&mut Self::Reader, &mut Self::Writer) {
        (&mut self.reader, &mut self.body)
    }

    fn finish(self, header: &[u8; 16]) -> io::Result<usize> {
        let room = self.header.ok_or(io::ErrorKind::WriteZero)?;
        room.copy_from_slice(header);
        Ok(u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize)
    }
}

/// The request's bytes.
pub struct BufReader<'a> {
    rest: &'a [u8],
}

impl RequestReader for BufReader<'_> {
    fn remaining(&self) -> usize {
        self.rest.len()
    }

    fn read_exact(&mut self, buf: &mut [u8]) -> io::Result<()> {
        let (head, rest) = self
            .rest
            .split_at_checked(buf.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(head);
        self.rest = rest;
        Ok(())
    }

    fn write_to_file(
        &mut self,
        file: BorrowedFd<'_>,
        count: usize,
        offset: u64,
        rwf_flags: i32,
    ) -> io::Result<usize> {
        let count = count.min(self.rest.len());
        let written = rustix::io::pwritev2(
            file,
            &[io::IoSlice::new(&self.rest[..count])],
            file_offset(offset)?,
            rustix::io::ReadWriteFlags::from_bits_retain(rwf_flags as u32),
        )?;
        self.rest = &self.rest[written..];
        Ok(written)
    }
}

/// The room for a reply's body.
pub struct BufWriter<'a> {
    room: &'a mut [u8],
}

impl BufWriter<'_> {
    /// Takes `count` bytes, which have been written, off the room.
    fn advance(&mut self, count: usize) {
        self.room = &mut std::mem::take(&mut self.room)[count..];
    }
}

impl ReplyWriter for BufWriter<'_> {
    fn remaining(&self) -> usize {
        self.room.len()
    }

    fn write_all(&mut self, buf: &[u8]) -> io::Result<()> {
        self.room
            .get_mut(..buf.len())
            .ok_or(io::ErrorKind::WriteZero)?
            .copy_from_slice(buf);
        self.advance(buf.len());
        Ok(())
    }

    fn read_from_file(
        &mut self,
        file: BorrowedFd<'_>,
        count: usize,
        offset: u64,
    ) -> io::Result<usize> {
        let count = count.min(self.room.len());
        let read = rustix::io::pread(file, &mut self.room[..count], file_offset(offset)?)?;
        self.advance(read);
        Ok(read)
    }
}

/// Refuses what the kernel would take for a negative offset, as the chain
/// transport does: -1 means the descriptor's own position to `pwritev2`.
fn file_offset(offset: u64) -> io::Result<u64> {
    if offset > i64::MAX as u64 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    Ok(offset)
}
