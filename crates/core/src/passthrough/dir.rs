//! Directories: OPENDIR and reading them.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;
use std::sync::PoisonError;

use super::handle::HandleKind;
use super::{sys, Passthrough};
use crate::errno::{Errno, FsResult};
use crate::fs::{DirSink, Opened};
use crate::types::{HandleId, Name, NodeId};

/// Bytes that are read of a directory at once.
const BUFFER: usize = 32 * 1024;

/// Length of a `struct linux_dirent64` in front of its name.
const HEADER: usize = 19;

/// Where the reading of a directory handle is.
///
/// What the guest had no room for is kept for its next request, so that one
/// system call serves several.
pub(super) struct DirState {
    buf: Vec<u8>,
    // The entries not listed yet.
    start: usize,
    end: usize,
    // The position in front of `start`, as the guest would ask for it.
    next: u64,
}

struct DirEntry<'a> {
    ino: u64,
    // Position behind it.
    offset: u64,
    kind: u8,
    name: &'a CStr,
    len: usize,
}

/// Takes the first entry of what `getdents64` has filled; `None` for what no
/// kernel writes.
fn first(buf: &[u8]) -> Option<DirEntry<'_>> {
    let word = |at: usize| -> Option<u64> {
        Some(u64::from_ne_bytes(buf.get(at..at + 8)?.try_into().ok()?))
    };
    let len = usize::from(u16::from_ne_bytes(buf.get(16..18)?.try_into().ok()?));
    let entry = buf.get(..len)?;
    Some(DirEntry {
        ino: word(0)?,
        offset: word(8)?,
        kind: *entry.get(18)?,
        name: CStr::from_bytes_until_nul(entry.get(HEADER..)?).ok()?,
        len,
    })
}

impl DirState {
    fn new() -> DirState {
        DirState {
            buf: Vec::new(),
            start: 0,
            end: 0,
            next: 0,
        }
    }

    /// Reads on; false at the end.
    fn fill(&mut self, dir: BorrowedFd<'_>) -> FsResult<bool> {
        self.buf.resize(BUFFER, 0);
        (self.start, self.end) = (0, 0);
        self.end = sys::getdents(dir, &mut self.buf)?;
        if self.end == 0 {
            // A directory that is read to its end is seldom read again.
            self.buf = Vec::new();
        }
        Ok(self.end != 0)
    }

    /// Goes to the position that the guest asks for.
    fn seek(&mut self, dir: BorrowedFd<'_>, offset: u64) -> FsResult<()> {
        // Position 0 is always read anew, so that a rewound listing shows what
        // has changed.
        if offset == self.next && offset != 0 {
            return Ok(());
        }
        (self.start, self.end) = (0, 0);
        // Some file systems have positions that lseek does not take as such.
        if offset > i64::MAX as u64 {
            return self.search(dir, offset);
        }
        sys::lseek(dir, offset as i64, libc::SEEK_SET)?;
        self.next = offset;
        Ok(())
    }

    fn search(&mut self, dir: BorrowedFd<'_>, offset: u64) -> FsResult<()> {
        // Nothing that the guest would ask for, until the place is found.
        self.next = 0;
        sys::lseek(dir, 0, libc::SEEK_SET)?;
        while self.fill(dir)? {
            while self.start < self.end {
                let entry = first(&self.buf[self.start..self.end]).ok_or(Errno::EIO)?;
                let found = entry.offset == offset;
                self.start += entry.len;
                if found {
                    self.next = offset;
                    return Ok(());
                }
            }
        }
        Err(Errno::EINVAL)
    }
}

impl Passthrough {
    pub(super) fn do_opendir(&self, node: NodeId, flags: u32) -> FsResult<Opened> {
        let inode = self.inode(node)?;
        if !inode.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        self.room_for_one()?;
        let mut host_flags = libc::O_RDONLY | libc::O_DIRECTORY;
        if self.config.preserve_noatime {
            host_flags |= flags as i32 & libc::O_NOATIME;
        }
        let file = inode.open(self.proc_self_fd(), host_flags)?;
        Ok(self.add_handle(node, HandleKind::Dir, file, flags, host_flags as u32))
    }

    pub(super) fn do_readdir(
        &self,
        node: NodeId,
        handle: HandleId,
        offset: u64,
        sink: &mut dyn DirSink,
    ) -> FsResult<()> {
        let file = self.handles.find(handle, node, HandleKind::Dir)?;
        let dir = file.fd()?;
        // Only to be looked up in; a plain listing needs the handle alone.
        let parent = if sink.plus() {
            Some(self.inode(node)?)
        } else {
            None
        };
        let mut state = file.dir.lock().unwrap_or_else(PoisonError::into_inner);
        let state = state.get_or_insert_with(|| Box::new(DirState::new()));
        state.seek(dir, offset)?;
        let mut listed = false;
        loop {
            if state.start == state.end {
                match state.fill(dir) {
                    Ok(true) => {}
                    Ok(false) => return Ok(()),
                    // The guest has references by now that an error would lose.
                    Err(_) if listed => return Ok(()),
                    Err(e) => return Err(e),
                }
            }
            let entry = first(&state.buf[state.start..state.end]).ok_or(Errno::EIO)?;
            let bytes = entry.name.to_bytes();
            if !sink.fits(bytes.len()) {
                return Ok(());
            }
            let found = match (&parent, Name::new(entry.name)) {
                (Some(parent), Ok(name)) => {
                    let _hold = self.names.hold(node, bytes);
                    // One that is gone meanwhile, or that cannot be reached, is
                    // still listed; whoever looks at it gets the error.
                    self.lookup_in(parent, dir, name).ok()
                }
                // "." and "..", which the guest knows by itself.
                _ => None,
            };
            let ino = found.as_ref().map_or(entry.ino, |found| found.attr.ino);
            sink.add(ino, entry.offset, entry.kind, bytes, found.as_ref());
            listed = true;
            state.next = entry.offset;
            state.start += entry.len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_that_no_kernel_writes_are_refused() {
        assert!(first(&[]).is_none());
        assert!(first(&[0; 18]).is_none());
        let mut entry = vec![0u8; 24];
        entry[16] = 24;
        entry[19] = b'a';
        assert_eq!(first(&entry).unwrap().name, c"a");
        entry[16] = 25;
        assert!(first(&entry).is_none(), "longer than the buffer");
        entry[16] = 0;
        assert!(
            first(&entry).is_none(),
            "of no length: would be read for ever"
        );
        entry[16] = 24;
        entry[19..].fill(b'x');
        assert!(first(&entry).is_none(), "a name without an end");
    }
}
