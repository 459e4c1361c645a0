//! Which object an inode was at the source, and whether what has its name at the
//! destination is that one.
//!
//! A name, or an inode number, can be another file's by the time it is looked at.
//! The source says by what it tells its objects; the destination compares where that
//! means anything there:
//!
//! - Its root is the source's root, on the same file system: it is the same share,
//!   and every file must be the one that it was.
//! - Its root is another directory: it is a copy, of which nothing but names and
//!   types can be expected to be the same. Nothing else is compared.
//! - A state by file handle presupposes the same share; another root is refused.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use ferryfs_state::packed::{
    IdentityRef, MarkRef, PackedFs, PackedIdentities, Place as PackedPlace,
};
use ferryfs_state::validate::ROOT_ID;
use ferryfs_state::{FileSystem, Identity, Mark};
use rustix::fs::Statx;
use serde_bytes::ByteBuf;

use super::super::handle_bytes;
use super::super::inode::{Inode, NewInode, Place};
use super::super::sys;
use crate::errno::{Errno, FsResult};

/// `FUSE_SUPER_MAGIC`.
const FUSE: u64 = 0x6573_5546;

/// The file system that `fd` is on, as a stream has it, without a number. `boot` is
/// the host's boot id.
///
/// # Errors
/// What `statfs` gives.
fn describe(fd: BorrowedFd<'_>, device: u64, boot: Option<[u8; 16]>) -> FsResult<FileSystem> {
    let magic = rustix::fs::fstatfs(fd)?.f_type as u64;
    let fsid = rustix::fs::fstatvfs(fd)?.f_fsid;
    // A server of FUSE can number its files anew whenever nobody holds them: what
    // differs there need not be another file.
    let boot = boot.filter(|_| magic != FUSE);
    Ok(FileSystem {
        id: 0,
        magic,
        // XFS and others make it of the device number, which another host has for
        // something else.
        fsid: match fsid == u64::from(sys::kernel_dev(device)) {
            true => 0,
            false => fsid,
        },
        device,
        boot: ByteBuf::from(boot.map_or(Vec::new(), |boot| boot.to_vec())),
    })
}

/// Whether two descriptions are of one file system; `None` where they do not tell.
fn same(a: &FileSystem, b: &FileSystem) -> Option<bool> {
    if a.magic != b.magic {
        return Some(false);
    }
    if a.fsid != 0 && b.fsid != 0 {
        return Some(a.fsid == b.fsid);
    }
    if !a.boot.is_empty() && a.boot == b.boot {
        return Some(a.device == b.device);
    }
    None
}

/// The mark of an object with this handle, in `bytes`, which are empty.
fn handle_mark(handle: &handle_bytes::FileHandle, mut bytes: Vec<u8>) -> Mark {
    bytes.extend_from_slice(handle.bytes());
    Mark::Handle {
        kind: handle.kind(),
        bytes: ByteBuf::from(bytes),
    }
}

/// The mark of the object that `fd` is: its handle where it has one.
fn mark_of(fd: BorrowedFd<'_>, stx: &Statx) -> Mark {
    match handle_bytes::FileHandle::of_fd(fd) {
        Ok((handle, _)) => handle_mark(&handle, Vec::new()),
        Err(_) => Mark::Numbers {
            ino: stx.stx_ino,
            born: sys::born_of(stx),
        },
    }
}

/// The mark of an inode by what is known of it: its handle, or its number and when it was
/// born. `None` for a lost one. What it has of bytes it has in those of `bytes`.
pub(super) fn known_mark(inode: &Inode, bytes: impl FnOnce() -> Vec<u8>) -> Option<Mark> {
    match inode.place() {
        Place::Handle { handle, .. } => Some(handle_mark(handle, bytes())),
        Place::Fd(fd) => Some(Mark::Numbers {
            ino: inode.numbers().ino,
            born: fd.born(),
        }),
        Place::Lost(_) => None,
    }
}

/// The mark of the share's root, by what it takes to tell it: once for a state.
///
/// # Errors
/// What looking at it gives.
pub(super) fn root_mark(root: &Inode) -> FsResult<Mark> {
    let fd = root.fd()?;
    let stx = sys::statx_born(fd.as_fd())?;
    Ok(mark_of(fd.as_fd(), &stx))
}

/// The file system that `inode` lies on, as a stream has it, without a number.
///
/// # Errors
/// What `statfs` gives.
pub(super) fn file_system_of(inode: &Inode, boot: Option<[u8; 16]>) -> FsResult<FileSystem> {
    let fd = inode.fd()?;
    describe(fd.as_fd(), inode.numbers().dev, boot)
}

/// The identities of a state being collected.
pub(super) struct Collector {
    boot: Option<[u8; 16]>,
    /// By device; `None` for one that cannot be described.
    numbers: HashMap<u64, Option<u32>>,
    pub(super) file_systems: Vec<FileSystem>,
    pub(super) identities: Vec<Identity>,
}

impl Collector {
    pub(super) fn new(boot: Option<[u8; 16]>) -> Collector {
        Collector {
            boot,
            numbers: HashMap::new(),
            file_systems: Vec::new(),
            identities: Vec::new(),
        }
    }

    /// Adds one as another state had it.
    pub(super) fn add_received(
        &mut self,
        inode: u64,
        file_system: Option<&FileSystem>,
        mark: MarkRef<'_>,
    ) {
        let Some(file_system) = file_system else {
            return;
        };
        let known = self
            .file_systems
            .iter()
            .find(|own| same(own, file_system) == Some(true));
        let number = match known {
            Some(known) => known.id,
            None => {
                let id = self.file_systems.len() as u32;
                let mut received = file_system.clone();
                received.id = id;
                self.file_systems.push(received);
                id
            }
        };
        self.identities.push(Identity {
            inode,
            file_system: number,
            mark: mark.to_mark(),
        });
    }

    /// The number of the file system that an inode lies on; `None` for one that cannot be
    /// described.
    pub(super) fn number(&mut self, inode: &Inode) -> Option<u32> {
        let device = inode.numbers().dev;
        if let Some(known) = self.numbers.get(&device) {
            return *known;
        }
        let described = file_system_of(inode, self.boot);
        let number = described.ok().map(|mut described| {
            described.id = self.file_systems.len() as u32;
            self.file_systems.push(described);
            self.file_systems.len() as u32 - 1
        });
        self.numbers.insert(device, number);
        number
    }
}

/// Why what was found is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// It cannot be looked at, or is of another type.
    Errno(Errno),
    /// It is not what the guest knows by that name.
    Replaced,
    /// It does not lie in the share.
    Outside,
}

impl From<Errno> for Unfit {
    fn from(errno: Errno) -> Unfit {
        Unfit::Errno(errno)
    }
}

impl Unfit {
    /// What the guest gets.
    pub(super) fn errno(self) -> Errno {
        match self {
            Unfit::Errno(errno) => errno,
            Unfit::Replaced | Unfit::Outside => Errno::ESTALE,
        }
    }
}

/// What a destination compares what it finds with.
pub(super) struct Comparer {
    /// The root here is the source's.
    related: bool,
    here: Here,
    /// None where nothing is to be compared.
    identities: PackedIdentities,
}

/// The stream's file systems, and which of those here they are.
pub(super) struct Here {
    boot: Option<[u8; 16]>,
    file_systems: Vec<FileSystem>,
    /// By number in the stream and device number here.
    known: Mutex<HashMap<(u32, u64), Option<bool>>>,
}

/// What the root here is to the source's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Root {
    /// It is the same.
    Same,
    /// It looks the same, but on another file system, or on one of which that cannot
    /// be told.
    Alike,
    /// It is another object.
    Other,
}

impl Here {
    /// Whether the stream's file system `number` is the one that `fd` lies on, whose
    /// device number is `device`; `None` where that cannot be told.
    fn is(&self, number: u32, fd: BorrowedFd<'_>, device: u64) -> FsResult<Option<bool>> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known().get(&(number, device)) {
            return Ok(*known);
        }
        let here = describe(fd, device, self.boot)?;
        let is_it = self.file_system(number).and_then(|one| same(one, &here));
        known().insert((number, device), is_it);
        Ok(is_it)
    }

    /// The stream's file system `number`.
    pub(super) fn file_system(&self, number: u32) -> Option<&FileSystem> {
        let at = self.file_systems.binary_search_by_key(&number, |f| f.id);
        at.ok().map(|at| &self.file_systems[at])
    }

    /// Whether `new`, with attributes `stx`, is what has `mark` on the stream's file
    /// system `file_system`.
    ///
    /// # Errors
    /// [`Unfit::Replaced`], and what the system calls give.
    pub(super) fn check(
        &self,
        file_system: u32,
        mark: MarkRef<'_>,
        new: &NewInode,
        stx: &Statx,
    ) -> Result<(), Unfit> {
        let fd = match &new.place {
            Place::Fd(fd) => fd.as_fd(),
            // Any descriptor on its mount tells the file system.
            Place::Handle { mount, .. } => mount.fd(),
            Place::Lost(e) => return Err(Unfit::Errno(*e)),
        };
        match self.is(file_system, fd, new.numbers.dev)? {
            Some(true) => {}
            Some(false) => return Err(Unfit::Replaced),
            None => return Ok(()),
        }
        let is_it = match (mark, &new.place) {
            (MarkRef::Numbers { ino, born }, _) => is_numbered(stx, ino, born),
            (MarkRef::Handle { kind, bytes }, Place::Handle { handle, .. }) => {
                is_handle(handle, kind, bytes)
            }
            (MarkRef::Handle { kind, bytes }, _) => match handle_bytes::FileHandle::of_fd(fd) {
                Ok((handle, _)) => is_handle(&handle, kind, bytes),
                Err(Errno::EOPNOTSUPP | Errno::EOVERFLOW) => true,
                Err(e) => return Err(Unfit::Errno(e)),
            },
        };
        match is_it {
            true => Ok(()),
            false => Err(Unfit::Replaced),
        }
    }

    /// What `root`, the share here, is to the one that `source` tells.
    fn root(&self, root: BorrowedFd<'_>, source: IdentityRef<'_>) -> FsResult<Root> {
        let stx = sys::statx_born(root)?;
        let is_it = match source.mark {
            MarkRef::Handle { kind, bytes } => match handle_bytes::FileHandle::of_fd(root) {
                Ok((here, _)) => is_handle(&here, kind, bytes),
                // Where there are no handles it is not what had one there.
                Err(_) => false,
            },
            MarkRef::Numbers { ino, born } => is_numbered(&stx, ino, born),
        };
        let here = self.is(source.file_system, root, sys::dev_of(&stx))?;
        Ok(match (is_it, here) {
            (true, Some(true)) => Root::Same,
            (true, _) => Root::Alike,
            (false, _) => Root::Other,
        })
    }
}

impl Comparer {
    /// Takes the identities out of `state`, and finds out whether they mean anything
    /// here, where `root` is what is shared.
    ///
    /// # Errors
    /// In words: the state has file handles, and they are of another share.
    pub(super) fn new(
        state: &mut PackedFs,
        root: BorrowedFd<'_>,
        boot: Option<[u8; 16]>,
    ) -> Result<Comparer, String> {
        let mut comparer = Comparer {
            related: false,
            here: Here {
                boot,
                file_systems: std::mem::take(&mut state.rest.file_systems),
                known: Mutex::default(),
            },
            identities: std::mem::take(&mut state.identities),
        };
        let first = comparer.identities.first();
        let related = match first.filter(|first| first.inode == ROOT_ID) {
            // An older source, or one that was told to say nothing of it.
            None => None,
            Some(source) => Some(
                comparer
                    .here
                    .root(root, source)
                    .map_err(|e| format!("cannot examine the shared directory: {e}"))?,
            ),
        };
        let by_handle = || {
            let mut places = state.inodes.iter().map(|inode| inode.place);
            places.any(|place| matches!(place, PackedPlace::Handle { .. }))
        };
        match related {
            Some(Root::Same) => {
                comparer.related = true;
                return Ok(comparer);
            }
            Some(Root::Other) if by_handle() => {
                return Err(
                    "the source shares another directory than this daemon, and its file handles \
                     lead there: start this daemon with the --shared-dir that the guest knows, or \
                     the source with --migration-mode find-paths where this is a copy of it"
                        .to_owned(),
                );
            }
            Some(Root::Other) => log::info!(
                "the shared directory is another than the source's, as where it is a copy: files \
                 are taken by name, and nothing but their types is compared"
            ),
            Some(Root::Alike) => log::info!(
                "the shared directory's file system cannot be told to be the source's: whether a \
                 file was replaced meanwhile is not looked at"
            ),
            None => {}
        }
        comparer.identities.clear();
        Ok(comparer)
    }

    /// By what inode `id` is told; `None` where nothing is to be compared.
    pub(super) fn identity(&self, id: u64) -> Option<IdentityRef<'_>> {
        self.identities.find(id)
    }

    /// Whether `new`, with attributes `stx`, is what the source told by `own`.
    ///
    /// # Errors
    /// [`Unfit::Replaced`], and what the system calls give.
    pub(super) fn check(
        &self,
        own: Option<IdentityRef<'_>>,
        new: &NewInode,
        stx: &Statx,
    ) -> Result<(), Unfit> {
        match own {
            Some(own) => self.here.check(own.file_system, own.mark, new, stx),
            None => Ok(()),
        }
    }

    /// Whether the share here is the source's: objects can be told.
    pub(super) fn is_related(&self) -> bool {
        self.related
    }

    /// None where nothing is to be compared.
    pub(super) fn identities(&self) -> &PackedIdentities {
        &self.identities
    }

    /// What identities are compared by, and the identities.
    pub(super) fn into_parts(self) -> (Here, PackedIdentities) {
        (self.here, self.identities)
    }
}

fn is_handle(handle: &handle_bytes::FileHandle, kind: i32, bytes: &[u8]) -> bool {
    handle.kind() == kind && handle.bytes() == bytes
}

fn is_numbered(stx: &Statx, was: u64, born: Option<i64>) -> bool {
    let same_birth = match (born, sys::born_of(stx)) {
        (Some(then), Some(now)) => then == now,
        // One of the two does not say.
        _ => true,
    };
    stx.stx_ino == was && same_birth
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn file_system(magic: u64, fsid: u64, device: u64, boot: &[u8]) -> FileSystem {
        FileSystem {
            id: 0,
            magic,
            fsid,
            device,
            boot: ByteBuf::from(boot),
        }
    }

    #[test]
    fn file_systems_are_told_by_fsid_and_else_by_device_within_one_boot() {
        let boot = [7; 16];
        let ext4 = file_system(0xef53, 5, 1, &boot);
        for (other, verdict) in [
            (file_system(0xef53, 5, 9, &[8; 16]), Some(true)),
            (file_system(0xef53, 6, 1, &boot), Some(false)),
            (file_system(0x6969, 5, 1, &boot), Some(false)),
            // No fsid on one side.
            (file_system(0xef53, 0, 1, &boot), Some(true)),
            (file_system(0xef53, 0, 2, &boot), Some(false)),
            (file_system(0xef53, 0, 1, &[8; 16]), None),
            (file_system(0xef53, 0, 1, b""), None),
        ] {
            assert_eq!(same(&ext4, &other), verdict, "{other:?}");
            assert_eq!(same(&other, &ext4), verdict, "{other:?}");
        }
        // No boot id is not the same boot.
        let nowhere = file_system(0xef53, 0, 1, b"");
        assert_eq!(same(&nowhere, &nowhere), None);
    }

    #[test]
    fn an_fsid_made_of_the_device_number_counts_for_nothing() {
        let device = libc::makedev(0x103, 0x12345);
        // linux/kdev_t.h: the minor's low byte, 12 bits of the major, the rest.
        assert_eq!(sys::kernel_dev(device), 0x1231_0345);
        assert_eq!(sys::kernel_dev(libc::makedev(8, 1)), 0x801);
        for device in [device, libc::makedev(8, 1), libc::makedev(0xfff, 0xf_ffff)] {
            assert_eq!(sys::makedev(sys::kernel_dev(device)), device);
        }
        let dir = File::open(std::env::temp_dir()).unwrap();
        let stx = sys::statx(dir.as_fd()).unwrap();
        let described = describe(dir.as_fd(), sys::dev_of(&stx), None).unwrap();
        assert_ne!(described.fsid, u64::from(sys::kernel_dev(described.device)));
        assert_ne!(described.magic, 0);
        assert_eq!(described.boot.len(), 0);
    }

    #[test]
    fn a_number_that_is_used_again_is_told_by_its_birth() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("f")).unwrap();
        let stx = sys::statx_born(file.as_fd()).unwrap();
        let (ino, born) = (stx.stx_ino, sys::born_of(&stx));
        assert!(is_numbered(&stx, ino, born));
        assert!(is_numbered(&stx, ino, None));
        assert!(!is_numbered(&stx, ino + 1, None));
        if let Some(born) = born {
            assert!(!is_numbered(&stx, ino, Some(born - 1)));
        }
    }
}
