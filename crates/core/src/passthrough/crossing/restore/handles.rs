//! What the guest has open, opened again.

use std::os::fd::OwnedFd;

use ferryfs_state::Handle;

use super::super::super::handle::{HandleKind, Handles, OpenFile};
use super::super::super::inode::{Inode, Inodes, Place};
use super::super::super::Passthrough;
use super::Planner;
use crate::errno::{Errno, FsResult};
use crate::parallel::in_parallel;
use crate::types::{HandleId, NodeId};

/// Files that one thread opens at a time.
const PIECE: usize = if cfg!(test) { 16 } else { 1024 };

impl Planner<'_> {
    pub(super) fn open_handles(&mut self, records: &[Handle], session_flags: u64) -> Handles {
        let opener = Opener {
            fs: self.fs,
            inodes: &self.inodes,
            session_flags,
        };
        let pieces: Vec<_> = records.chunks(PIECE).collect();
        let opened = in_parallel(&pieces, |piece| {
            let open = |record| opener.open(record);
            piece.iter().map(open).collect::<Vec<_>>()
        });
        let handles = Handles::new();
        for (record, (file, flags)) in records.iter().zip(opened.into_iter().flatten()) {
            let file = file.map_err(|failure| match failure {
                // Told already.
                Failure::Inode(e) => e,
                Failure::Open(e) => {
                    self.errors.push(format!(
                        "handle {} of inode {}: failed to open it with flags {flags:#o}: {e}",
                        record.id, record.inode
                    ));
                    e
                }
            });
            let kind = match record.directory {
                true => HandleKind::Dir,
                false => HandleKind::File,
            };
            let node = NodeId(record.inode);
            let open = OpenFile::new(node, kind, file, record.guest_flags, flags);
            handles.insert(HandleId(record.id), open);
        }
        handles
    }
}

/// Why a file is not open again.
enum Failure {
    /// The inode was not found.
    Inode(Errno),
    /// It cannot be opened.
    Open(Errno),
}

/// What it takes to open files; several threads do.
struct Opener<'a> {
    fs: &'a Passthrough,
    inodes: &'a Inodes,
    session_flags: u64,
}

impl Opener<'_> {
    /// Opens what `record` says, and answers the flags with which it is, or was to be.
    fn open(&self, record: &Handle) -> (Result<OwnedFd, Failure>, u32) {
        let flags = self.flags(record);
        let file = match self.inodes.get(NodeId(record.inode)) {
            None => Err(Failure::Inode(Errno::EBADF)),
            Some(inode) => match inode.place() {
                Place::Lost(e) => Err(Failure::Inode(*e)),
                _ => self.open_handle(&inode, flags).map_err(Failure::Open),
            },
        };
        (file, flags)
    }

    /// This daemon's policy over the guest's flags decides, as at the first open;
    /// the source's access mode is kept where it was wider.
    fn flags(&self, record: &Handle) -> u32 {
        if record.directory {
            return (libc::O_RDONLY | libc::O_DIRECTORY) as u32;
        }
        let both = libc::O_ACCMODE as u32;
        let flags = self
            .fs
            .effective_flags(record.guest_flags, self.session_flags)
            & !(libc::O_TRUNC as u32);
        match record.host_flags & both == libc::O_RDWR as u32 {
            true => (flags & !both) | libc::O_RDWR as u32,
            false => flags,
        }
    }

    fn open_handle(&self, inode: &Inode, flags: u32) -> FsResult<OwnedFd> {
        let noatime = libc::O_NOATIME as u32;
        match inode.open(self.fs.proc_self_fd(), flags as i32) {
            // The owner may have changed since; reading is what counts.
            Err(Errno::EPERM) if flags & noatime != 0 => {
                inode.open(self.fs.proc_self_fd(), (flags & !noatime) as i32)
            }
            other => other,
        }
    }
}
