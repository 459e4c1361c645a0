//! Source side: mounts, and where they lie in the share.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};

use ferryfs_state::Mount;
use serde_bytes::ByteBuf;

use super::super::inode::Inode;
use super::super::{sys, Passthrough};
use super::everything;
use super::relocate::path_below;
use super::restore::open_child;
use crate::types::NodeId;

/// The stream's mounts, numbered as they are met.
#[derive(Default)]
pub(super) struct MountTable {
    /// Mount id here to number in the stream; `None`: not to be found.
    numbers: HashMap<u32, Option<u32>>,
    pub(super) records: Vec<Mount>,
}

impl MountTable {
    /// The number of a mount as another state had it.
    pub(super) fn received(&mut self, mount: &Mount) -> u32 {
        let known = self.records.iter().find(|own| own.path == mount.path);
        if let Some(known) = known {
            return known.id;
        }
        let id = self.records.len() as u32;
        self.records.push(Mount {
            id,
            path: mount.path.clone(),
        });
        id
    }

    /// The number of mount `mnt_id`, which `inode` lies on; `None` for one that is not to
    /// be found in the share.
    pub(super) fn number(&mut self, fs: &Passthrough, mnt_id: u32, inode: &Inode) -> Option<u32> {
        if let Some(known) = self.numbers.get(&mnt_id) {
            return *known;
        }
        let number = fs.mount_path(mnt_id, inode).map(|path| {
            let id = self.records.len() as u32;
            self.records.push(Mount { id, path });
            id
        });
        self.numbers.insert(mnt_id, number);
        number
    }
}

impl Passthrough {
    /// Where mount `mnt_id`, on which `inode` lies, is mounted in the share.
    pub(super) fn mount_path(&self, mnt_id: u32, inode: &Inode) -> Option<Vec<ByteBuf>> {
        let root = self.inode(NodeId::ROOT).ok()?;
        if root.numbers().mnt_id == mnt_id {
            return Some(Vec::new());
        }
        self.mount_path_by_name(mnt_id, inode.id())
            .or_else(|| {
                let mount = self.mounts.usable(mnt_id)?;
                self.mount_path_by_descriptor(mnt_id, mount.fd())
            })
            .or_else(|| {
                let all = everything(&self.inodes).into_iter();
                all.filter(|inode| inode.numbers().mnt_id == mnt_id)
                    .find_map(|inode| {
                        self.mount_path_by_name(mnt_id, inode.id()).or_else(|| {
                            let fd = inode.fd().ok()?;
                            self.mount_path_by_descriptor(mnt_id, fd.as_fd())
                        })
                    })
            })
    }

    /// By where the kernel says that `fd`, which lies there, is now: what has come by file
    /// handle has no remembered name until the guest looks it up.
    fn mount_path_by_descriptor(&self, mnt_id: u32, fd: BorrowedFd<'_>) -> Option<Vec<ByteBuf>> {
        let root = self.config.root.as_fd();
        let path = path_below(self.proc_self_fd(), root, fd).ok()??;
        let mut at = root.try_clone_to_owned().ok()?;
        let mut walked = Vec::new();
        for component in path {
            // Unlinked meanwhile, or another mount lies over it.
            at = open_child(at.as_fd(), &component).ok()?;
            walked.push(ByteBuf::from(component));
            if sys::mnt_id_of(&sys::statx(at.as_fd()).ok()?) == mnt_id {
                return Some(walked);
            }
        }
        None
    }

    /// Up by the remembered names until the mount's own root.
    fn mount_path_by_name(&self, mnt_id: u32, inode: NodeId) -> Option<Vec<ByteBuf>> {
        let mut top = inode;
        for _ in 0..=self.inodes.len() {
            let (parent, _) = self.names.primary(&self.inodes, top)?;
            let above = self.inodes.get_or_pinned(parent)?;
            if above.numbers().mnt_id != mnt_id {
                let path = self.names.path(&self.inodes, top)?;
                return Some(
                    path.into_iter()
                        .map(|name| ByteBuf::from(name.into_vec()))
                        .collect(),
                );
            }
            top = parent;
        }
        None
    }
}
