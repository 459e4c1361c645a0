//! What no name leads to, made again.

use std::os::fd::{AsFd, OwnedFd};

use ferryfs_state::{FsState, Ghost, GhostData, Inode as InodeRecord};

use super::super::super::inode::{InodeArc, Place};
use super::super::super::lookup::Object;
use super::super::ghost::make;
use super::words::kind_name;
use super::{lost, Planner};
use crate::errno::{Errno, FsResult};
use crate::types::NodeId;

/// Ghosts that have been made, with where they are in the state.
pub(super) struct Made(Vec<(InodeArc, usize)>);

impl Planner<'_> {
    /// Makes all ghosts of a state, whose other inodes have been found. They can be
    /// opened by this daemon until [`Planner::finish_ghosts`] gives them the guest's
    /// permissions.
    pub(super) fn make_ghosts(&mut self, state: &FsState) -> Made {
        let mut made = Vec::with_capacity(state.ghosts.len());
        let mut data = state.ghost_data.as_slice();
        for (at, ghost) in state.ghosts.iter().enumerate() {
            let pieces = data.partition_point(|piece| piece.inode <= ghost.inode);
            let (own, rest) = data.split_at(pieces);
            data = rest;
            let at_record = state
                .inodes
                .binary_search_by_key(&ghost.inode, |record| record.id);
            let Ok(record) = at_record.map(|at| &state.inodes[at]) else {
                // Validation has seen to it.
                continue;
            };
            match self.make_ghost(record, ghost, own) {
                Ok(inode) => made.push((inode, at)),
                Err(e) => {
                    self.errors.push(format!(
                        "inode {} ({}): failed to make it again, unlinked as it was, beside inode \
                         {}: {e}{}",
                        ghost.inode,
                        kind_name(record.kind),
                        ghost.directory,
                        make::remedy(e)
                    ));
                    self.insert(record, lost(record.kind, e));
                }
            }
        }
        Made(made)
    }

    fn make_ghost(
        &mut self,
        record: &InodeRecord,
        ghost: &Ghost,
        data: &[GhostData],
    ) -> FsResult<InodeArc> {
        let directory = self.inodes.get(NodeId(ghost.directory));
        let directory = directory.ok_or(Errno::ENOENT)?;
        let fd = make::make(self.fs, directory.fd()?.as_fd(), record.kind, ghost, data)?;
        // Held by handle or not, this is all that keeps it alive.
        let keep: OwnedFd = fd.try_clone()?;
        let (new, _) = self.fs.describe(Object::Path(fd))?;
        let inode = self.insert(record, new);
        if matches!(inode.place(), Place::Handle { .. }) {
            inode.keep(keep);
        }
        Ok(inode)
    }

    /// Gives ghosts the permissions and times that they had: all that the guest has open
    /// of them is open, and locked.
    pub(super) fn finish_ghosts(&mut self, ghosts: &[Ghost], made: &Made) {
        for (inode, at) in &made.0 {
            let ghost = &ghosts[*at];
            let done = inode
                .fd()
                .and_then(|fd| make::finish(self.fs, fd.as_fd(), inode.kind(), ghost));
            if let Err(e) = done {
                self.errors.push(format!(
                    "inode {} ({}): failed to set the permissions and times of what has been made \
                     again: {e}{}",
                    ghost.inode,
                    kind_name(inode.kind()),
                    make::remedy(e)
                ));
            }
        }
    }
}
