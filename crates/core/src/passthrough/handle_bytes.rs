//! Kernel file handles, and the mounts by which they are opened.
//!
//! A handle of `name_to_handle_at` is 8 to 128 bytes; ext4's has 8, btrfs' 20.
//! It is kept in as few bytes as it has, since there is one for each inode.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::sys;
use crate::errno::{Errno, FsResult};

/// `MAX_HANDLE_SZ`: the longest `f_handle`, in bytes.
pub const MAX_HANDLE_BYTES: usize = 128;

/// `f_type` of file systems whose handles are known to have the inode's number in them.
const EXT4: u64 = 0xef53;
const TMPFS: u64 = 0x0102_1994;
const XFS: u64 = 0x5846_5342;

/// `FILEID_INO32_GEN`, and XFS' number for the same with 64 bits.
const INO32_GEN: i32 = 1;
const XFS_INO64_GEN: i32 = 0x81;

/// `struct file_handle` with room for the longest handle.
#[repr(C)]
struct RawHandle {
    handle_bytes: u32,
    handle_type: i32,
    f_handle: [u8; MAX_HANDLE_BYTES],
}

impl RawHandle {
    /// The handle of `name` in `dir` if it has no more than `most` bytes, and its mount id.
    /// The kernel sets as many aside as it is asked for.
    fn at(dir: BorrowedFd<'_>, name: &CStr, flags: i32, most: usize) -> FsResult<(RawHandle, u32)> {
        let mut raw = RawHandle {
            handle_bytes: most.min(MAX_HANDLE_BYTES) as u32,
            handle_type: 0,
            f_handle: [0; MAX_HANDLE_BYTES],
        };
        let mut mnt_id: libc::c_int = 0;
        // SAFETY: `raw` is laid out as `struct file_handle` followed by at least as
        // many bytes as `handle_bytes` says, `mnt_id` is an int, `name` ends with
        // NUL; all outlive the call.
        let rc = unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                dir.as_raw_fd(),
                name.as_ptr(),
                &mut raw,
                &mut mnt_id,
                flags,
            )
        };
        match rc {
            0.. => Ok((raw, mnt_id as u32)),
            _ => Err(Errno::last()),
        }
    }

    fn bytes(&self) -> &[u8] {
        let len = (self.handle_bytes as usize).min(MAX_HANDLE_BYTES);
        &self.f_handle[..len]
    }
}

/// Bytes that are kept without an allocation: two words with everything else, which is
/// what ext4, tmpfs and XFS need.
const INLINE: usize = 13;

#[derive(Clone, PartialEq, Eq, Hash)]
enum Repr {
    // Every `handle_type` of the kernel's is below 0x100.
    Inline {
        kind: u8,
        len: u8,
        data: [u8; INLINE],
    },
    // Boxed as a whole, so that the pointer is one word: a length beside it would
    // cost every inode 8 bytes for the sake of the few with long handles.
    Heap(Box<(i32, Box<[u8]>)>),
}

/// A kernel file handle, `struct file_handle`, without its mount.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct FileHandle(Repr);

impl FileHandle {
    /// Makes a handle of `handle_type` and `f_handle`; `None` above
    /// [`MAX_HANDLE_BYTES`].
    pub fn new(kind: i32, bytes: &[u8]) -> Option<FileHandle> {
        if bytes.len() > MAX_HANDLE_BYTES {
            return None;
        }
        let mut data = [0; INLINE];
        let repr = match (u8::try_from(kind), data.get_mut(..bytes.len())) {
            (Ok(kind), Some(inline)) => {
                inline.copy_from_slice(bytes);
                Repr::Inline {
                    kind,
                    len: bytes.len() as u8,
                    data,
                }
            }
            _ => Repr::Heap(Box::new((kind, bytes.into()))),
        };
        Some(FileHandle(repr))
    }

    /// `handle_type`.
    pub fn kind(&self) -> i32 {
        match &self.0 {
            Repr::Inline { kind, .. } => i32::from(*kind),
            Repr::Heap(whole) => whole.0,
        }
    }

    /// `f_handle`.
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Repr::Inline { len, data, .. } => &data[..usize::from(*len)],
            Repr::Heap(whole) => &whole.1,
        }
    }

    /// The inode number in a handle of a file system with `f_type`, where it is known to
    /// have one. The rest is a generation: another object with this number, now or later,
    /// has another handle.
    fn ino(&self, f_type: u64) -> Option<u64> {
        let bytes = self.bytes();
        let word = |at: usize| -> Option<u64> {
            let word = bytes.get(at..at + 4)?.try_into().ok()?;
            Some(u64::from(u32::from_ne_bytes(word)))
        };
        match (f_type, self.kind(), bytes.len()) {
            (EXT4 | XFS, INO32_GEN, 8) => word(0),
            (TMPFS, INO32_GEN, 12) => Some(word(4)? | word(8)? << 32),
            (XFS, XFS_INO64_GEN, 12) => Some(u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?)),
            _ => None,
        }
    }

    /// The handle of the object that `fd` is (`O_PATH` will do), and its mount id.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where the file system has none, and the system call's.
    pub fn of_fd(fd: BorrowedFd<'_>) -> FsResult<(FileHandle, u32)> {
        FileHandle::at(fd, c"", libc::AT_EMPTY_PATH)
    }

    /// The handle of `name` in `dir`, not following it, and its mount id.
    ///
    /// # Errors
    /// As [`FileHandle::of_fd`], and `ENOENT`.
    pub fn of_name(dir: BorrowedFd<'_>, name: &CStr) -> FsResult<(FileHandle, u32)> {
        FileHandle::at(dir, name, 0)
    }

    /// Whether `name` in `dir`, not following it, is what has this handle on mount `mnt_id`.
    ///
    /// # Errors
    /// As [`FileHandle::of_fd`], and `ENOENT`.
    pub fn is_name(&self, mnt_id: u32, dir: BorrowedFd<'_>, name: &CStr) -> FsResult<bool> {
        let bytes = self.bytes();
        match RawHandle::at(dir, name, 0, bytes.len()) {
            Ok((raw, found)) => {
                Ok(found == mnt_id && raw.handle_type == self.kind() && raw.bytes() == bytes)
            }
            // It has a longer one.
            Err(Errno::EOVERFLOW) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn at(dir: BorrowedFd<'_>, name: &CStr, flags: i32) -> FsResult<(FileHandle, u32)> {
        let (raw, mnt_id) = RawHandle::at(dir, name, flags, MAX_HANDLE_BYTES)?;
        let handle = FileHandle::new(raw.handle_type, raw.bytes()).ok_or(Errno::EIO)?;
        Ok((handle, mnt_id))
    }

    /// Opens the object with `flags` (`O_*`; `O_CLOEXEC` is added). `mount` is a
    /// descriptor, not `O_PATH`, of anything on the handle's mount.
    ///
    /// # Errors
    /// `ESTALE` when the object is gone, `EPERM` without `CAP_DAC_READ_SEARCH`,
    /// and whatever opening gives.
    pub fn open(&self, mount: BorrowedFd<'_>, flags: i32) -> FsResult<OwnedFd> {
        let bytes = self.bytes();
        let mut raw = RawHandle {
            handle_bytes: bytes.len() as u32,
            handle_type: self.kind(),
            f_handle: [0; MAX_HANDLE_BYTES],
        };
        raw.f_handle[..bytes.len()].copy_from_slice(bytes);
        // SAFETY: `raw` is laid out as `struct file_handle` and outlives the
        // call, which does not write to it.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_open_by_handle_at,
                mount.as_raw_fd(),
                &raw,
                flags | libc::O_CLOEXEC,
            )
        };
        if fd < 0 {
            return Err(Errno::last());
        }
        // SAFETY: the call has just made this descriptor, and nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
    }
}

impl fmt::Debug for FileHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileHandle({}:", self.kind())?;
        for byte in self.bytes() {
            write!(f, "{byte:02x}")?;
        }
        f.write_str(")")
    }
}

/// A mount on which inodes are held by handle.
#[derive(Debug)]
pub struct MountRef {
    id: u32,
    fd: OwnedFd,
    // Its `f_type`, if its handles are as such a file system's are known to be.
    f_type: Option<u64>,
}

impl MountRef {
    /// A mount known by `fd`: a descriptor, not `O_PATH`, of a directory or
    /// regular file on it. Tries once whether handles can be opened there.
    ///
    /// # Errors
    /// What `name_to_handle_at` or `open_by_handle_at` gives: `EOPNOTSUPP` where
    /// the file system has no handles, `EPERM` without `CAP_DAC_READ_SEARCH`.
    pub fn probe(fd: OwnedFd) -> FsResult<MountRef> {
        let (handle, id) = FileHandle::of_fd(fd.as_fd())?;
        handle.open(fd.as_fd(), libc::O_PATH)?;
        let f_type = rustix::fs::fstatfs(&fd)?.f_type as u64;
        let ino = sys::statx(fd.as_fd())?.stx_ino;
        let f_type = (handle.ino(f_type) == Some(ino)).then_some(f_type);
        Ok(MountRef { id, fd, f_type })
    }

    #[cfg(test)]
    pub(super) fn made_up(id: u32, fd: OwnedFd) -> MountRef {
        MountRef {
            id,
            fd,
            f_type: None,
        }
    }

    /// The mount id, as in `/proc/self/mountinfo`.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The inode number that a handle of this mount has in it, where that is known.
    pub(super) fn ino_in(&self, handle: &FileHandle) -> Option<u64> {
        handle.ino(self.f_type?)
    }

    /// What handles of this mount are opened with.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What is known of a mount id.
#[derive(Clone, Debug)]
pub(super) enum MountKnown {
    Usable(Arc<MountRef>),
    Unusable(Errno),
}

enum Slot {
    // Not a strong reference: the descriptor keeps the mount busy, and has to go
    // with the last inode on it.
    Usable(Weak<MountRef>),
    // Which device was there, since the id is used again after an unmount.
    Unusable { dev: u64, why: Errno },
}

/// Mounts by id.
#[derive(Default)]
pub struct Mounts {
    known: Mutex<HashMap<u32, Slot>>,
}

impl Mounts {
    /// No mounts.
    pub fn new() -> Mounts {
        Mounts::default()
    }

    /// What is known of mount `id`, if anything.
    pub(super) fn get(&self, id: u32, dev: u64) -> Option<MountKnown> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get(&id)? {
            Slot::Usable(mount) => mount.upgrade().map(MountKnown::Usable),
            Slot::Unusable { dev: seen, why } if *seen == dev => Some(MountKnown::Unusable(*why)),
            Slot::Unusable { .. } => None,
        }
    }

    /// The mount with `id`, if it is one whose handles can be opened and it is
    /// in use.
    pub fn usable(&self, id: u32) -> Option<Arc<MountRef>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get(&id)? {
            Slot::Usable(mount) => mount.upgrade(),
            Slot::Unusable { .. } => None,
        }
    }

    /// Every usable mount that is in use, by ascending id.
    pub fn all(&self) -> Vec<Arc<MountRef>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = known
            .values()
            .filter_map(|slot| match slot {
                Slot::Usable(mount) => mount.upgrade(),
                Slot::Unusable { .. } => None,
            })
            .collect();
        drop(known);
        all.sort_by_key(|mount| mount.id());
        all
    }

    /// Adds a usable mount; where another thread was faster, answers its.
    pub fn add(&self, mount: MountRef) -> Arc<MountRef> {
        let mount = Arc::new(mount);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Slot::Usable(other)) = known.get(&mount.id) {
            if let Some(other) = other.upgrade() {
                // `mount`, and with it a descriptor, is dropped behind the lock.
                drop(known);
                return other;
            }
        }
        known.retain(|_, slot| match slot {
            Slot::Usable(mount) => mount.strong_count() > 0,
            Slot::Unusable { .. } => true,
        });
        known.insert(mount.id, Slot::Usable(Arc::downgrade(&mount)));
        mount
    }

    /// Remembers that handles cannot be used on a mount.
    pub(super) fn add_unusable(&self, id: u32, dev: u64, why: Errno) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(id, Slot::Unusable { dev, why });
    }

    /// Finds or makes the mount that `object` (an `O_PATH` descriptor of a
    /// directory or regular file, with its mount id and device) is on.
    pub(super) fn find(
        &self,
        proc_self_fd: BorrowedFd<'_>,
        object: BorrowedFd<'_>,
        id: u32,
        dev: u64,
        kind: u32,
    ) -> FsResult<MountKnown> {
        if let Some(known) = self.get(id, dev) {
            return Ok(known);
        }
        if kind != libc::S_IFDIR && kind != libc::S_IFREG {
            // Opening anything else could block or act. Something else of this
            // mount that can be opened will tell.
            return Ok(MountKnown::Unusable(Errno::EOPNOTSUPP));
        }
        let name = sys::FdName::new(object.as_raw_fd());
        let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
        let opened = sys::openat(proc_self_fd, name.as_c_str(), flags, 0);
        match opened.and_then(MountRef::probe) {
            Ok(mount) => Ok(MountKnown::Usable(self.add(mount))),
            Err(why @ (Errno::EOPNOTSUPP | Errno::EPERM | Errno::EOVERFLOW | Errno::ENOSYS)) => {
                self.add_unusable(id, dev, why);
                Ok(MountKnown::Unusable(why))
            }
            // One object that cannot be read says nothing of its mount.
            Err(Errno::EACCES) => Ok(MountKnown::Unusable(Errno::EACCES)),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::{BuildHasher, RandomState};

    #[test]
    fn short_and_long_handles_are_kept_whole() {
        for len in [0, 1, 8, 13, 14, 15, 20, 40, 127, 128] {
            let bytes: Vec<u8> = (0..len).map(|i| i as u8 + 1).collect();
            let handle = FileHandle::new(7, &bytes).unwrap();
            assert_eq!(handle.bytes(), bytes);
            assert_eq!(handle.kind(), 7);
            let hasher = RandomState::new();
            assert_eq!(hasher.hash_one(&handle), hasher.hash_one(handle.clone()));
        }
        assert!(FileHandle::new(1, &[0; 129]).is_none());
        assert_ne!(FileHandle::new(1, &[0; 8]), FileHandle::new(1, &[0; 9]));
        assert_ne!(FileHandle::new(1, &[0; 8]), FileHandle::new(2, &[0; 8]));
        for kind in [-1, 0, 255, 256, i32::MAX, i32::MIN] {
            let handle = FileHandle::new(kind, b"short").unwrap();
            assert_eq!((handle.kind(), handle.bytes()), (kind, &b"short"[..]));
        }
    }

    #[test]
    fn a_name_is_told_by_handle_and_mount() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["one", "other"] {
            std::fs::write(dir.path().join(name), b"").unwrap();
        }
        let dir = std::fs::File::open(dir.path()).unwrap();
        let dir = dir.as_fd();
        let Ok((one, mnt_id)) = FileHandle::of_name(dir, c"one") else {
            eprintln!("skipped: no file handles here");
            return;
        };
        let is = |handle: &FileHandle, mnt_id, name| handle.is_name(mnt_id, dir, name);
        assert_eq!(is(&one, mnt_id, c"one"), Ok(true));
        assert_eq!(is(&one, mnt_id, c"other"), Ok(false));
        assert_eq!(is(&one, mnt_id + 1, c"one"), Ok(false), "another mount");
        assert_eq!(is(&one, mnt_id, c"none"), Err(Errno::ENOENT));
        let bytes = one.bytes();
        let shorter = FileHandle::new(one.kind(), &bytes[..bytes.len() - 1]).unwrap();
        assert_eq!(
            is(&shorter, mnt_id, c"one"),
            Ok(false),
            "the kernel's is longer"
        );
        let longer = FileHandle::new(one.kind(), &[bytes, &[0]].concat()).unwrap();
        assert_eq!(is(&longer, mnt_id, c"one"), Ok(false));
        let other_kind = FileHandle::new(one.kind() + 1, bytes).unwrap();
        assert_eq!(is(&other_kind, mnt_id, c"one"), Ok(false));
    }

    #[test]
    fn only_handles_that_are_known_have_a_number() {
        let handle = |kind, bytes: &[u8]| FileHandle::new(kind, bytes).unwrap();
        let words = |words: &[u32]| -> Vec<u8> {
            words.iter().flat_map(|word| word.to_ne_bytes()).collect()
        };
        let ext4 = handle(1, &words(&[7, 99]));
        assert_eq!(ext4.ino(EXT4), Some(7));
        assert_eq!(ext4.ino(TMPFS), None);
        assert_eq!(ext4.ino(0x9123_683e), None, "btrfs");
        let tmpfs = handle(1, &words(&[99, 7, 1]));
        assert_eq!(tmpfs.ino(TMPFS), Some(1 << 32 | 7));
        assert_eq!(tmpfs.ino(EXT4), None);
        let xfs = handle(0x81, &[&7u64.to_ne_bytes()[..], &words(&[99])].concat());
        assert_eq!(xfs.ino(XFS), Some(7));
        assert_eq!(xfs.ino(EXT4), None);
        // With a parent, as nobody here asks for.
        assert_eq!(handle(2, &words(&[7, 99, 5])).ino(EXT4), None);
    }

    #[test]
    fn a_handle_costs_two_words() {
        assert_eq!(std::mem::size_of::<FileHandle>(), 16);
    }
}
