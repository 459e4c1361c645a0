//! What the guest has open, opened again.

use std::os::fd::OwnedFd;

use ferryfs_state::Handle;

use super::super::super::handle::{HandleKind, Handles, OpenFile};
use super::super::super::inode::{Inode, Place};
use super::Planner;
use crate::errno::{Errno, FsResult};
use crate::types::{HandleId, NodeId};

impl Planner<'_> {
    pub(super) fn open_handles(&mut self, records: &[Handle], session_flags: u64) -> Handles {
        let handles = Handles::new();
        for record in records {
            let node = NodeId(record.inode);
            let flags = self.flags(record, session_flags);
            let file = match self.inodes.get(node) {
                None => Err(Errno::EBADF),
                Some(inode) => match inode.place() {
                    // Told already.
                    Place::Lost(e) => Err(*e),
                    _ => self.open_handle(&inode, flags).inspect_err(|e| {
                        self.errors.push(format!(
                            "handle {} of inode {}: failed to open it with flags {flags:#o}: {e}",
                            record.id, record.inode
                        ));
                    }),
                },
            };
            let kind = match record.directory {
                true => HandleKind::Dir,
                false => HandleKind::File,
            };
            let open = OpenFile::new(node, kind, file, record.guest_flags, flags);
            handles.insert(HandleId(record.id), open);
        }
        handles
    }

    /// This daemon's policy over the guest's flags decides, as at the first open;
    /// the source's access mode is kept where it was wider.
    fn flags(&self, record: &Handle, session_flags: u64) -> u32 {
        if record.directory {
            return (libc::O_RDONLY | libc::O_DIRECTORY) as u32;
        }
        let both = libc::O_ACCMODE as u32;
        let flags =
            self.fs.effective_flags(record.guest_flags, session_flags) & !(libc::O_TRUNC as u32);
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
