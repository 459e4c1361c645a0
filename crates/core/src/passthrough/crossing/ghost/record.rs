//! Source side: unlinked objects as records of a state.

use std::collections::HashSet;
use std::os::fd::AsFd;

use ferryfs_state::validate::ROOT_ID;
use ferryfs_state::{FsState, Ghost, GhostData, Location, Time, Xattr};
use serde_bytes::ByteBuf;

use super::super::super::inode::Inode;
use super::super::super::{sys, Passthrough};
use super::super::collect::Losses;
use super::super::precopy::candidates;
use super::gather::Gathered;
use crate::errno::FsResult;
use crate::types::NodeId;

impl Passthrough {
    /// Puts what no name leads to into `state`, of whose inodes `directories` are those
    /// that something can be made in: with contents, of which those in `gathered` need not
    /// be read again. What cannot go along is added to `losses`.
    ///
    /// # Errors
    /// More is open than may cross, and what cannot cross makes the crossing fail.
    pub(in super::super) fn add_ghosts(
        &self,
        state: &mut FsState,
        directories: impl FnOnce(&FsState) -> HashSet<u64>,
        mut gathered: Gathered,
        losses: &mut Losses,
    ) -> Result<(), String> {
        let unlinked = std::mem::take(&mut losses.unlinked);
        let unlinked = unlinked.into_iter().filter(|inode| inode.lookups() > 0);
        let candidates = candidates(unlinked, &self.handles, &self.names);
        if candidates.is_empty() {
            return Ok(());
        }
        let gatherer = self.gatherer();
        let (selection, too_much) = gatherer.select(&mut gathered, candidates);
        if let Some(too_much) = too_much.filter(|_| self.refuses()) {
            return Err(too_much.text());
        }
        for (candidate, why) in &selection.left {
            losses.add(candidate.inode.id(), why, candidate.open);
        }
        let directories = Directories {
            fs: self,
            known: directories(state),
        };
        for (inode, pieces) in selection.ghosts {
            let node = inode.id();
            let directory = directories.near(&inode, gatherer.components(&inode));
            match self.ghost(&inode, directory) {
                Ok(ghost) => {
                    // A piece may have been behind the end by the time of the last look.
                    let pieces = pieces.into_iter().filter_map(|(offset, mut bytes)| {
                        let room = ghost.size.checked_sub(offset).filter(|room| *room > 0)?;
                        bytes.truncate(usize::try_from(room).unwrap_or(usize::MAX));
                        Some(GhostData {
                            inode: node.0,
                            offset,
                            bytes,
                        })
                    });
                    state.ghost_data.extend(pieces);
                    state.ghosts.push(ghost);
                }
                Err(e) => {
                    log::warn!("inode {node}: failed to read its attributes: {e}");
                    let open = losses.is_open(node);
                    losses.add(
                        node,
                        "it has been unlinked, and its attributes cannot be read",
                        open,
                    );
                }
            }
        }
        log::info!(
            "{} unlinked objects cross with {} bytes of contents, {} of which were read with the \
             device stopped",
            state.ghosts.len(),
            selection.bytes,
            selection.read_now
        );
        Ok(())
    }

    fn ghost(&self, inode: &Inode, directory: u64) -> FsResult<Ghost> {
        let fd = inode.fd()?;
        let stx = sys::statx(fd.as_fd())?;
        let time = |t: &rustix::fs::StatxTimestamp| Time {
            seconds: t.tv_sec,
            nanoseconds: t.tv_nsec,
        };
        let kind = inode.kind();
        let is_device = matches!(kind, libc::S_IFCHR | libc::S_IFBLK);
        let target = match kind {
            libc::S_IFLNK => rustix::fs::readlinkat(fd.as_fd(), c"", Vec::new())?.into_bytes(),
            _ => Vec::new(),
        };
        let xattrs = self.xattrs_of(fd.as_fd())?.into_iter();
        Ok(Ghost {
            inode: inode.id().0,
            directory,
            number: self.ghosts.number(inode.id()).unwrap_or(stx.stx_ino),
            mode: u32::from(stx.stx_mode) & 0o7777,
            uid: stx.stx_uid,
            gid: stx.stx_gid,
            device: match is_device {
                true => libc::makedev(stx.stx_rdev_major, stx.stx_rdev_minor),
                false => 0,
            },
            size: match kind {
                libc::S_IFREG => stx.stx_size,
                _ => 0,
            },
            accessed: time(&stx.stx_atime),
            modified: time(&stx.stx_mtime),
            target: ByteBuf::from(target),
            linkable: self.ghosts.is_linkable(inode.id()),
            xattrs: xattrs
                .map(|(name, value)| Xattr {
                    name: ByteBuf::from(name),
                    value: ByteBuf::from(value),
                })
                .collect(),
        })
    }
}

/// Nodeids of the directories of a state that something can be made in.
pub(in super::super) fn directories_of(state: &FsState) -> HashSet<u64> {
    let directories = state.inodes.iter().filter(|record| {
        record.kind == libc::S_IFDIR && !matches!(record.location, Location::Lost { .. })
    });
    directories.map(|record| record.id).collect()
}

/// The same, and what it takes to choose one.
struct Directories<'a> {
    fs: &'a Passthrough,
    known: HashSet<u64>,
}

impl Directories<'_> {
    /// A directory on the file system of `inode`: the deepest that there still is on the
    /// path that it had, else any. The root, where there is none.
    fn near(&self, inode: &Inode, path: Option<Vec<Vec<u8>>>) -> u64 {
        let fs = self.fs;
        let fits = |directory: &Inode| {
            self.known.contains(&directory.id().0) && directory.numbers().dev == inode.numbers().dev
        };
        let mut found = fs.inode(NodeId::ROOT).ok().filter(|root| fits(root));
        let mut at = NodeId::ROOT;
        for name in path.iter().flatten() {
            let Some(next) = fs.names.known(&fs.inodes, at, name) else {
                break;
            };
            at = next.id();
            if fits(&next) {
                found = Some(next);
            }
        }
        let found = found.or_else(|| {
            let all = self
                .known
                .iter()
                .filter_map(|id| fs.inodes.get(NodeId(*id)));
            all.filter(|directory| fits(directory))
                .min_by_key(|directory| directory.id())
        });
        found.map_or(ROOT_ID, |directory| directory.id().0)
    }
}
