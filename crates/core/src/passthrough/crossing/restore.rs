//! Destination side: everything in a state is found and opened beside what is
//! live (the plan), then put in its place.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use ferryfs_state::packed::PackedFs;
use ferryfs_state::validate::KIND_UNKNOWN;
use ferryfs_state::{Ghost, Inode as InodeRecord, Mount};

use super::super::config::MigrationOnError;
use super::super::handle::Handles;
use super::super::handle_bytes::MountRef;
use super::super::inode::{InodeArc, Inodes, NewInode, Numbers, Place};
use super::super::locks::Planned;
use super::super::names::Names;
use super::super::{fd_table, sys, Passthrough};
use super::ghost::Known;
use super::identity::Comparer;
use super::lazy::{self, Later};
use crate::errno::{Errno, FsResult};
use crate::types::NodeId;
pub(super) use words::kind_name;
use words::{path_text, What};

mod find;
mod ghosts;
mod handles;
mod locks;
mod words;

/// Objects named in the log before the rest is only counted.
const NAMED: usize = 20;

/// Tables made of a state, complete and beside the live ones.
pub struct Plan {
    later: Option<Later>,
    inodes: Inodes,
    names: Names,
    handles: Handles,
    locks: Planned,
    known: Known,
    faulted: u64,
}

/// Puts a plan in place.
pub(super) fn apply(fs: &Passthrough, plan: Plan) -> u64 {
    fs.stop_precopy(false);
    fs.unlocated.clear();
    fs.handles.replace_with(plan.handles);
    fs.names.replace_with(plan.names);
    fs.inodes.replace_with(plan.inodes);
    fs.locks.replace_with(plan.locks);
    fs.ghosts.set(plan.known);
    if let Some(later) = plan.later {
        fs.unlocated.set(fs, later);
    }
    plan.faulted
}

/// Finds everything. See [`crate::migrate::MigrateFs::plan_packed`].
pub(super) fn plan(
    fs: &Passthrough,
    mut packed: PackedFs,
    session_flags: u64,
) -> Result<Plan, String> {
    let root = Passthrough::root_inode(fs.config.root.as_fd())
        .map_err(|e| format!("cannot examine the shared directory: {e}"))?;
    check_root(&packed, root.kind)?;
    let comparer = Comparer::new(&mut packed, fs.config.root.as_fd(), fs.config.boot_id)?;
    let split = lazy::split(fs, &packed, &comparer);
    // What is looked for now becomes records; what is not stays as it is.
    let mut state = packed.rest;
    let later = match split {
        Some(split) => {
            state.inodes = split.records(&packed.inodes);
            Some((packed.inodes, split))
        }
        None => {
            state.inodes = packed.inodes.into_records();
            None
        }
    };
    let held = match fs.use_handles {
        true => 0,
        false => state.inodes.len(),
    };
    fd_table::make_room_for(fs.proc_self_fd(), state.handles.len().saturating_add(held));
    let root_numbers = root.numbers;
    let inodes = fs.inodes.sibling(root);
    // New directories met on the way must not take a number of the state's.
    inodes.set_next(state.next_inode);
    let mut planner = Planner {
        fs,
        names: fs.names.sibling(),
        inodes,
        mounts: HashMap::new(),
        comparer,
        beneath: HashSet::from([(root_numbers.dev, root_numbers.ino)]),
        errors: Vec::new(),
        replaced: Vec::new(),
    };
    planner.open_mounts(&state.mounts);
    let open = state.handles.iter().map(|handle| handle.inode).collect();
    planner.find_inodes(&state.inodes, &open, &state.ghosts);
    let ghosts = planner.make_ghosts(&state);
    // Their contents are on disk.
    state.ghost_data = Vec::new();
    let handles = planner.open_handles(&state.handles, session_flags);
    handles.set_next(state.next_handle);
    let locks = planner.take_locks(&state.locks, &handles);
    planner.finish_ghosts(&state.ghosts, &ghosts);
    planner.judge()?;
    let Planner {
        inodes,
        names,
        mounts,
        comparer,
        beneath,
        errors,
        ..
    } = planner;
    let later = later.map(|later| Later::new(later, comparer, mounts, state.mounts, beneath));
    Ok(Plan {
        later,
        locks,
        known: Known::of(&state.ghosts),
        faulted: errors.len() as u64,
        inodes,
        names,
        handles,
    })
}

fn check_root(state: &PackedFs, kind: u32) -> Result<(), String> {
    match state.inodes.iter().next() {
        Some(record) if record.kind != kind => Err(format!(
            "the source shared a {}, this daemon shares a {}; start it with the --shared-dir that \
             the guest knows",
            kind_name(record.kind),
            kind_name(kind)
        )),
        _ => Ok(()),
    }
}

struct Planner<'a> {
    fs: &'a Passthrough,
    inodes: Inodes,
    names: Names,
    /// The stream's mounts.
    mounts: HashMap<u32, Result<Arc<MountRef>, Errno>>,
    /// What found objects are compared with.
    comparer: Comparer,
    /// Directories, by device and inode number, that are known to lie in the share.
    beneath: HashSet<(u64, u64)>,
    /// One text for each object that is not found.
    errors: Vec<String>,
    /// Which of those are of objects that are others than the guest's.
    replaced: Vec<usize>,
}

impl Planner<'_> {
    fn judge(&self) -> Result<(), String> {
        let Some(first) = self.errors.first() else {
            return Ok(());
        };
        for error in self.errors.iter().take(NAMED) {
            log::error!("{error}");
        }
        if self.errors.len() > NAMED {
            log::error!("and {} more", self.errors.len() - NAMED);
        }
        if self.fs.config.migration_on_error == MigrationOnError::GuestError {
            return Ok(());
        }
        if let Some(&first) = self.replaced.first() {
            return Err(format!(
                "{} of the guest's files have been replaced since the source looked, the first: \
                 {}; let the VM go on at the source, which follows what was only moved, and \
                 migrate again; --migration-on-error guest-error takes the rest over, and of a \
                 state without identities (--state-version 1) whatever has the names is taken",
                self.replaced.len(),
                self.errors[first]
            ));
        }
        Err(format!(
            "{} of the guest's files cannot be found or opened here, the first: {first}; is \
             --shared-dir the directory that the source shares, with the same contents? \
             --migration-on-error guest-error takes the rest over",
            self.errors.len()
        ))
    }

    fn open_mounts(&mut self, mounts: &[Mount]) {
        for mount in mounts {
            let opened = self.open_mount(mount);
            if let Err(e) = &opened {
                log::error!(
                    "mount {} of the state (\"{}\"): failed to open it by file handle: {e}{}",
                    mount.id,
                    path_text(&mount.path),
                    match *e {
                        Errno::EPERM => "; that needs CAP_DAC_READ_SEARCH",
                        _ => "",
                    }
                );
            }
            self.mounts.insert(mount.id, opened);
        }
    }

    fn open_mount(&self, mount: &Mount) -> FsResult<Arc<MountRef>> {
        let mut at = self.fs.config.root.try_clone()?;
        for component in &mount.path {
            at = open_child(at.as_fd(), component)?;
        }
        let fd_name = sys::FdName::new(std::os::fd::AsRawFd::as_raw_fd(&at));
        let kind = u32::from(sys::statx(at.as_fd())?.stx_mode) & libc::S_IFMT;
        if kind != libc::S_IFDIR && kind != libc::S_IFREG {
            return Err(Errno::ENOTDIR);
        }
        let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
        let opened = sys::openat(self.fs.proc_self_fd(), fd_name.as_c_str(), flags, 0)?;
        Ok(self.fs.mounts.add(MountRef::probe(opened)?))
    }

    /// What was removed, and is not open: nothing holds it any more. The source
    /// would answer the guest with the same error, so it is no loss. Where nothing
    /// at all is found, though, this is another file system.
    fn judge_gone(&mut self, gone: &[&InodeRecord], found: u64) {
        if found > 0 {
            if !gone.is_empty() {
                log::info!("{} inodes have been removed and are not open", gone.len());
            }
            return;
        }
        for record in gone {
            self.errors.push(format!(
                "inode {} ({}): failed to find its file handle: {}",
                record.id,
                kind_name(record.kind),
                Errno::ESTALE
            ));
        }
    }

    /// For messages: from the share's root, as far as the names lead there.
    fn path_of(&self, what: &What<'_>) -> String {
        let (above, rest) = match what {
            What::Handle => return what.to_string(),
            What::Name(above, name) => (above, name.escape_ascii().to_string()),
            What::Path(above, components) => (above, path_text(components)),
        };
        match self.names.path(&self.inodes, above.id()) {
            Some(path) if !path.is_empty() => {
                format!("{}/{rest}", path.join(&b'/').escape_ascii())
            }
            _ => rest,
        }
    }

    fn insert(&self, record: &InodeRecord, new: NewInode) -> InodeArc {
        self.inodes.insert(NodeId(record.id), record.lookups, new)
    }
}

fn is_ghost(ghosts: &[Ghost], id: u64) -> bool {
    ghosts.binary_search_by_key(&id, |g| g.inode).is_ok()
}

/// Whether the share's root is above the directory `fd`, or is it. `beneath` has those
/// that are known to lie in the share, by device and inode number.
pub(super) fn is_beneath(beneath: &mut HashSet<(u64, u64)>, fd: BorrowedFd<'_>) -> FsResult<bool> {
    let mut stx = sys::statx(fd)?;
    if stx.stx_nlink == 0 {
        return Ok(true);
    }
    let mut at = fd.try_clone_to_owned()?;
    let mut seen = Vec::new();
    loop {
        let here = (sys::dev_of(&stx), stx.stx_ino);
        if beneath.contains(&here) {
            beneath.extend(seen);
            return Ok(true);
        }
        if seen.last() == Some(&here) {
            // The host's own root: its parent is itself.
            return Ok(false);
        }
        seen.push(here);
        at = match sys::openat(at.as_fd(), c"..", libc::O_PATH | libc::O_DIRECTORY, 0) {
            Ok(above) => above,
            // Not connected to what the confined process sees.
            Err(Errno::ENOENT) => return Ok(false),
            Err(e) => return Err(e),
        };
        stx = sys::statx(at.as_fd())?;
    }
}

/// Whether an object of type `is` can be what was of type `was`.
pub(super) fn fits_kind(was: u32, is: u32) -> Result<(), Errno> {
    match (was, is) {
        _ if was == is || was == KIND_UNKNOWN => Ok(()),
        (_, libc::S_IFDIR) => Err(Errno::EISDIR),
        (libc::S_IFDIR, _) => Err(Errno::ENOTDIR),
        _ => Err(Errno::ESTALE),
    }
}

pub(super) fn lost(kind: u32, errno: Errno) -> NewInode {
    NewInode {
        kind,
        numbers: Numbers {
            mnt_id: 0,
            dev: 0,
            ino: 0,
        },
        place: Place::Lost(errno),
    }
}

pub(super) fn open_child(dir: BorrowedFd<'_>, name: &[u8]) -> FsResult<OwnedFd> {
    let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
    sys::openat(dir, &name, libc::O_PATH | libc::O_NOFOLLOW, 0)
}
