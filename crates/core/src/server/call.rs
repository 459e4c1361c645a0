//! One request being served: what is left of its body, and its reply.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use vm_memory::ByteValued;

use crate::abi::*;
use crate::errno::{Errno, FsResult};
use crate::fs::{AttrReply, Context, Entry, Opened};
use crate::io::{ReplyWriter, RequestReader};
use crate::types::{Name, NodeId};

/// A request whose header has been checked.
pub(super) struct Call<'a> {
    pub(super) header: InHeader,
    pub(super) body: Body<'a>,
    pub(super) out: &'a mut dyn ReplyWriter,
    /// Negotiated INIT flags.
    pub(super) flags: u64,
    /// The guest's protocol minor.
    pub(super) guest_minor: u32,
}

impl<'a> Call<'a> {
    pub(super) fn new(
        header: InHeader,
        reader: &'a mut dyn RequestReader,
        body: usize,
        out: &'a mut dyn ReplyWriter,
        flags: u64,
        guest_minor: u32,
    ) -> Call<'a> {
        Call {
            header,
            body: Body {
                inner: reader,
                left: body,
            },
            out,
            flags,
            guest_minor,
        }
    }

    pub(super) fn node(&self) -> NodeId {
        NodeId(self.header.nodeid)
    }

    /// Who asks, without extensions.
    pub(super) fn context(&self) -> Context<'static> {
        Context {
            unique: self.header.unique,
            uid: self.header.uid,
            gid: self.header.gid,
            pid: self.header.pid,
            supplementary_groups: None,
            security_context: None,
        }
    }

    /// Takes the operation's structure off the body.
    pub(super) fn read<T: ByteValued + Default>(&mut self) -> FsResult<T> {
        let mut value = T::default();
        self.body
            .read_exact(value.as_mut_slice())
            .map_err(|_| Errno::EINVAL)?;
        Ok(value)
    }

    /// Takes the rest of the body, of at most `max` bytes.
    pub(super) fn rest<'s>(
        &mut self,
        scratch: &'s mut Scratch,
        max: usize,
        too_long: Errno,
    ) -> FsResult<&'s [u8]> {
        let len = self.body.left;
        if len > max {
            return Err(too_long);
        }
        let buf = scratch.take(len);
        self.body.read_exact(buf).map_err(|_| Errno::EINVAL)?;
        Ok(buf)
    }

    /// Takes the rest of the body, which begins with one name.
    pub(super) fn name<'s>(&mut self, scratch: &'s mut Scratch) -> FsResult<&'s Name> {
        let bytes = self.rest(scratch, Scratch::INLINE, Errno::ENAMETOOLONG)?;
        Name::new(split_c_str(bytes)?.0)
    }

    /// Takes the rest of the body, which begins with two names.
    pub(super) fn two_names<'s>(
        &mut self,
        scratch: &'s mut Scratch,
    ) -> FsResult<(&'s Name, &'s Name)> {
        let bytes = self.rest(scratch, Scratch::INLINE, Errno::ENAMETOOLONG)?;
        let (first, bytes) = split_c_str(bytes)?;
        let (second, _) = split_c_str(bytes)?;
        Ok((Name::new(first)?, Name::new(second)?))
    }

    /// Refuses the request while nothing is done yet, if a reply body of `len`
    /// bytes does not fit.
    pub(super) fn need_room(&self, len: usize) -> FsResult<()> {
        if self.out.remaining() < len {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    /// Appends a structure to the reply.
    pub(super) fn reply<T: ByteValued>(&mut self, value: T) -> FsResult<()> {
        // Room has been checked before anything was done.
        self.out.write_all(value.as_slice()).map_err(|_| Errno::EIO)
    }

    pub(super) fn reply_entry(&mut self, entry: &Entry) -> FsResult<()> {
        self.reply(entry_out(entry))
    }

    pub(super) fn reply_attr(&mut self, reply: &AttrReply) -> FsResult<()> {
        self.reply(AttrOut {
            attr_valid: reply.timeout.as_secs(),
            attr_valid_nsec: reply.timeout.subsec_nanos(),
            dummy: 0,
            attr: reply.attr,
        })
    }

    pub(super) fn reply_opened(&mut self, opened: &Opened) -> FsResult<()> {
        self.reply(OpenOut {
            fh: opened.handle.0,
            open_flags: opened.fopen_flags,
            passthrough: 0,
        })
    }
}

/// `struct fuse_entry_out`.
pub(super) fn entry_out(entry: &Entry) -> EntryOut {
    let split = |d: Duration| (d.as_secs(), d.subsec_nanos());
    let (entry_valid, entry_valid_nsec) = split(entry.entry_timeout);
    let (attr_valid, attr_valid_nsec) = split(entry.attr_timeout);
    EntryOut {
        nodeid: entry.node.0,
        generation: entry.generation,
        entry_valid,
        attr_valid,
        entry_valid_nsec,
        attr_valid_nsec,
        attr: entry.attr,
    }
}

/// Splits bytes behind their first NUL. What lies behind the last name is not
/// looked at: guests whose structures are padded send some bytes there.
pub(super) fn split_c_str(bytes: &[u8]) -> FsResult<(&CStr, &[u8])> {
    let name = CStr::from_bytes_until_nul(bytes).map_err(|_| Errno::EINVAL)?;
    Ok((name, &bytes[name.count_bytes() + 1..]))
}

/// Refuses an offset that no file has.
pub(super) fn check_offset(offset: u64) -> FsResult<u64> {
    if offset > i64::MAX as u64 {
        return Err(Errno::EINVAL);
    }
    Ok(offset)
}

/// The body as far as the header's `len` goes; a chain may hold more.
pub(super) struct Body<'a> {
    inner: &'a mut dyn RequestReader,
    pub(super) left: usize,
}

impl RequestReader for Body<'_> {
    fn remaining(&self) -> usize {
        self.left
    }

    fn read_exact(&mut self, buf: &mut [u8]) -> io::Result<()> {
        if buf.len() > self.left {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.inner.read_exact(buf)?;
        self.left -= buf.len();
        Ok(())
    }

    fn write_to_file(
        &mut self,
        file: BorrowedFd<'_>,
        count: usize,
        offset: u64,
        rwf_flags: i32,
    ) -> io::Result<usize> {
        let written = self
            .inner
            .write_to_file(file, count.min(self.left), offset, rwf_flags)?;
        self.left -= written;
        Ok(written)
    }
}

/// Where names and values are read to: on the stack, as long as they are short.
pub(super) struct Scratch {
    inline: [MaybeUninit<u8>; Scratch::INLINE],
    heap: Vec<u8>,
}

impl Scratch {
    /// Bytes that need no allocation: two names, or one with its extensions.
    pub(super) const INLINE: usize = 1024;

    pub(super) fn new() -> Scratch {
        Scratch {
            inline: [const { MaybeUninit::uninit() }; Scratch::INLINE],
            heap: Vec::new(),
        }
    }

    /// `len` bytes of zero.
    pub(super) fn take(&mut self, len: usize) -> &mut [u8] {
        let Some(inline) = self.inline.get_mut(..len) else {
            self.heap.resize(len, 0);
            return &mut self.heap;
        };
        for byte in &mut *inline {
            byte.write(0);
        }
        // SAFETY: every byte has just been initialised, and `MaybeUninit<u8>` has
        // the layout of `u8`.
        unsafe { &mut *(inline as *mut [MaybeUninit<u8>] as *mut [u8]) }
    }
}
