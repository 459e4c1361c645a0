//! How a request's bytes are reached, whatever carried them.
//!
//! The virtio-fs transport ([`ChainIo`](crate::transport::ChainIo)) sits
//! behind these traits, so that another chain walker can take its place, and so
//! that the dispatcher can be tested on plain buffers.

use std::io;
use std::os::fd::BorrowedFd;

/// The readable half of a request: headers, names, and the data of a WRITE.
pub trait RequestReader {
    /// Bytes not yet taken.
    fn remaining(&self) -> usize;

    /// Fills `buf` from the request.
    ///
    /// # Errors
    /// `UnexpectedEof` when fewer than `buf.len()` bytes remain.
    fn read_exact(&mut self, buf: &mut [u8]) -> io::Result<()>;

    /// Writes up to `count` of the remaining bytes to `file` at `offset` with one
    /// `pwritev2`, straight from where they lie, and takes as many as were
    /// written. `rwf_flags` are `RWF_*`.
    ///
    /// # Errors
    /// The system call's; then nothing is taken.
    fn write_to_file(
        &mut self,
        file: BorrowedFd<'_>,
        count: usize,
        offset: u64,
        rwf_flags: i32,
    ) -> io::Result<usize>;
}

/// The writable half of a request, behind the reply header: what a reply's body
/// is written to.
pub trait ReplyWriter {
    /// Bytes that still fit.
    fn remaining(&self) -> usize;

    /// Appends `buf` to the reply's body.
    ///
    /// # Errors
    /// `WriteZero` when it does not fit; then nothing is written.
    fn write_all(&mut self, buf: &[u8]) -> io::Result<()>;

    /// Appends up to `count` bytes read from `file` at `offset` with one
    /// `preadv2`, straight to where they belong; answers how many. 0 is the
    /// file's end.
    ///
    /// # Errors
    /// The system call's; then nothing is appended.
    fn read_from_file(
        &mut self,
        file: BorrowedFd<'_>,
        count: usize,
        offset: u64,
    ) -> io::Result<usize>;
}

/// One request: its bytes in, and room for its reply.
///
/// The reply's 16-byte header is written last, when the body's length and the
/// error are known; the body is written first, behind the room kept for it.
pub trait RequestIo {
    /// The readable half.
    type Reader: RequestReader;
    /// The body's room.
    type Writer: ReplyWriter;

    /// The readable half.
    fn reader(&mut self) -> &mut Self::Reader;

    /// Whether at least a reply header fits. FORGET comes with no room at all.
    fn can_reply(&self) -> bool;

    /// The room behind the reply header (0 bytes when `!can_reply()`).
    fn body(&mut self) -> &mut Self::Writer;

    /// Both halves at once, for operations that move data while they answer.
    fn split(&mut self) -> (&mut Self::Reader, &mut Self::Writer);

    /// Writes the reply header in front of the body and ends the request;
    /// answers how many bytes of the writable half are in use. `header` is a
    /// `fuse_out_header` whose `len` already counts itself and the body; with an
    /// error the body is dropped by the caller's `len` of 16.
    ///
    /// # Errors
    /// `WriteZero` when there is no room for a header.
    fn finish(self, header: &[u8; 16]) -> io::Result<usize>;
}
