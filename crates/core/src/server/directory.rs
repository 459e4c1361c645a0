//! Directories: OPENDIR, READDIR, READDIRPLUS, RELEASEDIR, FSYNCDIR.

use std::cell::Cell;
use std::mem::size_of;

use vm_memory::ByteValued;

use super::call::{entry_out, Call};
use super::Server;
use crate::abi::*;
use crate::errno::{Errno, FsResult};
use crate::fs::{DirSink, Entry, FileSystem};
use crate::io::ReplyWriter;
use crate::types::HandleId;

impl<F: FileSystem> Server<F> {
    pub(super) fn opendir(&self, call: &mut Call<'_>) -> FsResult<()> {
        let arg: OpenIn = call.read()?;
        call.need_room(size_of::<OpenOut>())?;
        let opened = self.fs.opendir(&call.context(), call.node(), arg.flags)?;
        call.reply_opened(&opened)
    }

    pub(super) fn readdir(&self, call: &mut Call<'_>, plus: bool) -> FsResult<()> {
        let arg: ReadIn = call.read()?;
        let (ctx, node) = (call.context(), call.node());
        let room = (arg.size as usize).min(call.out.remaining());
        let mut sink = DirWriter::new(&mut *call.out, room, plus);
        let result = self
            .fs
            .readdir(&ctx, node, HandleId(arg.fh), arg.offset, &mut sink);
        let (entries, refused) = (sink.entries, sink.refused.get());
        let flushed = sink.finish();
        match result {
            // Entries of READDIRPLUS carry references that the guest must learn
            // of; the error comes again when it goes on behind them.
            Err(_) if entries > 0 => flushed,
            Err(errno) => Err(errno),
            // Not one entry fits: an empty reply would be the directory's end.
            Ok(()) if entries == 0 && refused => Err(Errno::EINVAL),
            Ok(()) => flushed,
        }
    }

    pub(super) fn releasedir(&self, call: &mut Call<'_>) -> FsResult<()> {
        let arg: ReleaseIn = call.read()?;
        self.fs
            .releasedir(&call.context(), call.node(), HandleId(arg.fh))
    }

    pub(super) fn fsyncdir(&self, call: &mut Call<'_>) -> FsResult<()> {
        let arg: FsyncIn = call.read()?;
        let datasync = arg.fsync_flags & FUSE_FSYNC_FDATASYNC != 0;
        self.fs
            .fsyncdir(&call.context(), call.node(), HandleId(arg.fh), datasync)
    }
}

/// Entries on their way to guest memory, gathered so that few writes are made.
struct DirWriter<'a> {
    out: &'a mut dyn ReplyWriter,
    /// Bytes that entries may still take.
    room: usize,
    plus: bool,
    entries: usize,
    /// `fits` has said no.
    refused: Cell<bool>,
    failed: bool,
    buf: [u8; 4096],
    used: usize,
}

impl<'a> DirWriter<'a> {
    fn new(out: &'a mut dyn ReplyWriter, room: usize, plus: bool) -> DirWriter<'a> {
        DirWriter {
            out,
            room,
            plus,
            entries: 0,
            refused: Cell::new(false),
            failed: false,
            buf: [0; 4096],
            used: 0,
        }
    }

    /// What an entry takes: `FUSE_DIRENT_SIZE`, or `FUSE_DIRENTPLUS_SIZE`.
    fn entry_size(&self, name_len: usize) -> usize {
        let fixed = size_of::<Dirent>() + if self.plus { size_of::<EntryOut>() } else { 0 };
        (fixed + name_len).next_multiple_of(8)
    }

    fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.used == self.buf.len() {
                self.flush();
            }
            let count = bytes.len().min(self.buf.len() - self.used);
            let (head, tail) = bytes.split_at(count);
            self.buf[self.used..self.used + count].copy_from_slice(head);
            self.used += count;
            bytes = tail;
        }
    }

    fn flush(&mut self) {
        // `room` is no more than `out` has, so this fails only if memory does.
        self.failed |= self.out.write_all(&self.buf[..self.used]).is_err();
        self.used = 0;
    }

    fn finish(mut self) -> FsResult<()> {
        self.flush();
        if self.failed {
            return Err(Errno::EIO);
        }
        Ok(())
    }
}

impl DirSink for DirWriter<'_> {
    fn plus(&self) -> bool {
        self.plus
    }

    fn fits(&self, name_len: usize) -> bool {
        let fits = self.entry_size(name_len) <= self.room;
        if !fits {
            self.refused.set(true);
        }
        fits
    }

    fn add(&mut self, ino: u64, offset: u64, dtype: u8, name: &[u8], entry: Option<&Entry>) {
        let size = self.entry_size(name.len());
        if size > self.room {
            debug_assert!(false, "an entry is added only where `fits` agreed");
            return;
        }
        self.room -= size;
        self.entries += 1;
        let mut unpadded = size_of::<Dirent>() + name.len();
        if self.plus {
            unpadded += size_of::<EntryOut>();
            self.push(entry.map(entry_out).unwrap_or_default().as_slice());
        }
        self.push(
            Dirent {
                ino,
                off: offset,
                namelen: name.len() as u32,
                type_: dtype.into(),
            }
            .as_slice(),
        );
        self.push(name);
        self.push(&[0; 8][..size - unpadded]);
    }
}
