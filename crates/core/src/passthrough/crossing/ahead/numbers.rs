//! The numbers that a stream has for file systems and mounts.

use std::collections::HashSet;

use ferryfs_state::{FileSystem, Mount};
use serde_bytes::ByteBuf;

use super::super::super::inode::{Inode, InodeArc};
use super::super::super::Passthrough;
use super::super::identity::file_system_of;

/// File systems and mounts that have been met; their numbers are their positions.
pub(super) struct Numbers {
    boot: Option<[u8; 16]>,
    devices: Vec<(u64, FileSystem)>,
    /// Those that cannot be described.
    dumb: HashSet<u64>,
    mounts: Vec<Met>,
    /// Those that are not to be found in the share.
    elsewhere: HashSet<u32>,
}

struct Met {
    id: u32,
    /// One that lies on it.
    inode: InodeArc,
    /// `None`: not looked for yet.
    path: Option<Vec<ByteBuf>>,
}

impl Numbers {
    pub(super) fn new(boot: Option<[u8; 16]>) -> Numbers {
        Numbers {
            boot,
            devices: Vec::new(),
            dumb: HashSet::new(),
            mounts: Vec::new(),
            elsewhere: HashSet::new(),
        }
    }

    /// The number of the file system that `inode` lies on; `None` for one that cannot be
    /// described.
    pub(super) fn device(&mut self, inode: &Inode) -> Option<u32> {
        let device = inode.numbers().dev;
        let known = self.devices.iter().position(|(known, _)| *known == device);
        if known.is_some() || self.dumb.contains(&device) {
            return known.map(|at| at as u32);
        }
        match file_system_of(inode, self.boot) {
            Ok(described) => {
                self.devices.push((device, described));
                Some(self.devices.len() as u32 - 1)
            }
            Err(_) => {
                self.dumb.insert(device);
                None
            }
        }
    }

    /// The number of mount `id`, which `inode` lies on; `None` for one that `fs` does not
    /// find in the share. Where there is no `fs`, it is looked for later.
    pub(super) fn mount(
        &mut self,
        id: u32,
        inode: &InodeArc,
        fs: Option<&Passthrough>,
    ) -> Option<u32> {
        let known = self.mounts.iter().position(|met| met.id == id);
        if known.is_some() || self.elsewhere.contains(&id) {
            return known.map(|at| at as u32);
        }
        let path = match fs {
            Some(fs) => match fs.mount_path(id, inode) {
                Some(path) => Some(path),
                None => {
                    self.elsewhere.insert(id);
                    return None;
                }
            },
            None => None,
        };
        self.mounts.push(Met {
            id,
            inode: inode.clone(),
            path,
        });
        Some(self.mounts.len() as u32 - 1)
    }

    /// Finds all mounts that have been met, anew. False where some are not to be found: the
    /// others have other numbers now.
    pub(super) fn find_mounts(&mut self, fs: &Passthrough) -> bool {
        // What could not be had while the guest went on may be had now.
        let mut same = self.dumb.is_empty() && self.elsewhere.is_empty();
        self.dumb.clear();
        self.elsewhere.clear();
        for met in &mut self.mounts {
            met.path = fs.mount_path(met.id, &met.inode);
            if met.path.is_none() {
                same = false;
                self.elsewhere.insert(met.id);
            }
        }
        self.mounts.retain(|met| met.path.is_some());
        same
    }

    /// Gives numbers in the order of `devices` and `mounts`, and forgets what is not among
    /// these. Whether they had these numbers already.
    pub(super) fn set_order(&mut self, devices: &[u64], mounts: &[u32]) -> bool {
        let had: Vec<u64> = self.devices.iter().map(|(device, _)| *device).collect();
        let were: Vec<u32> = self.mounts.iter().map(|met| met.id).collect();
        if had == devices && were == mounts {
            return true;
        }
        let place = |device: &u64| devices.iter().position(|one| one == device);
        self.devices.retain(|(device, _)| devices.contains(device));
        self.devices.sort_by_key(|(device, _)| place(device));
        self.mounts.retain(|met| mounts.contains(&met.id));
        let place = |id: &u32| mounts.iter().position(|one| one == id);
        self.mounts.sort_by_key(|met| place(&met.id));
        // What comes last may go without anything that is left being another.
        had.starts_with(devices) && were.starts_with(mounts)
    }

    /// As records of a state.
    pub(super) fn into_records(self) -> (Vec<FileSystem>, Vec<Mount>) {
        let numbered = self.devices.into_iter().zip(0..);
        let file_systems = numbered.map(|((_, described), id)| FileSystem { id, ..described });
        let mounts = self.mounts.into_iter().zip(0..).map(|(met, id)| Mount {
            id,
            path: met.path.unwrap_or_default(),
        });
        (file_systems.collect(), mounts.collect())
    }
}
