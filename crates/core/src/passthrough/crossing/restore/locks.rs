//! The guest's locks, taken again.

use std::os::fd::AsFd;

use ferryfs_state::Lock;

use super::super::super::handle::Handles;
use super::super::super::locks::Planned;
use super::Planner;
use crate::errno::Errno;

impl Planner<'_> {
    /// Takes the guest's locks, which its source has let go of. What relies on one that
    /// cannot be had must not go on.
    pub(super) fn take_locks(&mut self, records: &[Lock], handles: &Handles) -> Planned {
        let inodes = &self.inodes;
        let open = |node| {
            let inode = inodes.get(node).ok_or(Errno::EBADF)?;
            Ok(inode.fd()?.as_fd().try_clone_to_owned()?)
        };
        let (planned, refused) = self.fs.locks.plan(records, handles, open);
        for refused in refused {
            self.errors.push(format!(
                "inode {}: failed to take over a {}; let go of it, or of what else runs on the \
                 share, and try again",
                refused.node, refused.text
            ));
            if let Some(handle) = refused.handle {
                handles.spoil(handle, Errno::EIO);
            }
        }
        planned
    }
}
