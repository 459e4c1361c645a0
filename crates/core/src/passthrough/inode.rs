//! The inodes that the guest knows: nodeid to inode, and a host object's
//! identity to the inode that it already is.
//!
//! An inode lives as long as the guest holds lookups of it, or as another known
//! inode's name is remembered in it (a *pin*: a directory that the guest has
//! forgotten before what lies in it; see [`super::names`]). Both are in one
//! atomic word, so that exactly one thread sees it become zero; zero is final.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use hashbrown::HashTable;

use super::handle_bytes::{FileHandle, MountRef};
use super::links::Links;
use super::marks::Marks;
use super::sys;
use crate::errno::{Errno, FsResult};
use crate::types::NodeId;

/// Inodes that are looked for in a table before any of them is touched.
const AT_ONCE: usize = 16;

/// Shards of each table.
pub const SHARDS: usize = 256;

/// Which shard a number falls into, by ten of its bits. Shards are not of one size: a
/// table doubles when it is full, and if all did so at once, half of the slots would be
/// empty right then.
pub(super) fn shard_of(bits: u64) -> usize {
    const SLOTS: usize = 4 * SHARDS;
    const SHARD: [u8; SLOTS] = {
        let mut slots = [0; SLOTS];
        let (mut slot, mut shard) = (0, 0);
        while shard < SHARDS {
            // 3, 4 and 5 of them: two of each three double at another time.
            let end = slot + 3 + shard % 3;
            while slot < end && slot < SLOTS {
                slots[slot] = shard as u8;
                slot += 1;
            }
            shard += 1;
        }
        slots
    };
    usize::from(SHARD[bits as usize % SLOTS])
}

/// The bit of `refs` that is the pin.
const PIN: u64 = 1 << 63;
/// The four bits of `refs` that are the file type (`S_IFMT`, shifted down), which never
/// change: a word of its own for them would cost each inode eight bytes.
const KIND: u64 = 0xf << KIND_SHIFT;
const KIND_SHIFT: u32 = 59;
/// The rest counts lookups.
const LOOKUPS: u64 = (1 << KIND_SHIFT) - 1;

/// Whether an inode with these `refs` is dead.
fn is_dead(refs: u64) -> bool {
    refs & (PIN | LOOKUPS) == 0
}

/// Hashes what is already a hash, or a number that nobody can choose.
#[derive(Default)]
pub(super) struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }
    fn write_u64(&mut self, n: u64) {
        // Fibonacci hashing: consecutive numbers spread over the high bits,
        // which the map's control bytes come from.
        self.0 = (self.0 ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 32;
    }
}

/// A map whose keys are nodeids, handles or hashes.
pub(super) type NumberMap<V> = HashMap<u64, V, BuildHasherDefault<Spread>>;

/// Where an inode is held.
#[derive(Debug)]
pub enum Place {
    /// By an `O_PATH` descriptor.
    Fd(PathFd),
    /// By a kernel file handle on a mount.
    Handle {
        /// The mount.
        mount: Arc<MountRef>,
        /// The handle.
        handle: FileHandle,
    },
    /// Nowhere: a crossing could not find it, and the guest gets this error.
    Lost(Errno),
}

/// An `O_PATH` descriptor that an inode is held by, and what the object's handle would tell
/// or its mount.
#[derive(Debug)]
pub struct PathFd {
    fd: OwnedFd,
    // What the descriptor is on; 0 where unknown.
    mnt_id: u32,
    // Nanoseconds since 1970, or one of the two below. It never changes, and stands where a
    // handle would have its bytes.
    born: AtomicI64,
}

/// Nobody has asked yet.
const BIRTH_UNKNOWN: i64 = i64::MIN;
/// The file system does not tell.
const NO_BIRTH: i64 = i64::MIN + 1;

impl From<OwnedFd> for PathFd {
    fn from(fd: OwnedFd) -> PathFd {
        PathFd {
            fd,
            mnt_id: 0,
            born: AtomicI64::new(BIRTH_UNKNOWN),
        }
    }
}

impl AsFd for PathFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl PathFd {
    /// When the object came to be, in nanoseconds since 1970: asked for once. `None` where
    /// its file system does not tell.
    pub(super) fn born(&self) -> Option<i64> {
        match self.born.load(Ordering::Relaxed) {
            BIRTH_UNKNOWN => {
                let stx = sys::statx_born(self.fd.as_fd()).ok()?;
                let born = sys::born_of(&stx);
                self.set_born(born);
                born
            }
            NO_BIRTH => None,
            born => Some(born),
        }
    }

    /// Says what somebody has seen anyway.
    pub(super) fn set_born(&self, born: Option<i64>) {
        self.born.store(born.unwrap_or(NO_BIRTH), Ordering::Relaxed);
    }
}

/// The numbers by which `statx` tells an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Numbers {
    /// Mount id; 0 where unknown.
    pub mnt_id: u32,
    /// Device, as `makedev` has it.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
}

/// What makes a host object the same as one seen before.
///
/// Inode numbers are used again after a deletion. A handle carries a generation
/// that tells reuse apart; where there is none, the descriptor that the inode
/// holds keeps the number from being used again.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// Its numbers.
    pub numbers: Numbers,
    /// Its file handle, where inodes on its mount are held by handle.
    pub handle: Option<&'a FileHandle>,
}

/// A new inode, without a nodeid yet.
#[derive(Debug)]
pub struct NewInode {
    /// The `S_IFMT` part of `st_mode`.
    pub kind: u32,
    /// Its numbers.
    pub numbers: Numbers,
    /// Where it is held.
    pub place: Place,
}

impl NewInode {
    /// An `O_PATH` descriptor of it.
    ///
    /// # Errors
    /// As [`Inode::fd`].
    pub(super) fn open_path(&self) -> FsResult<InodeFd<'_>> {
        match &self.place {
            Place::Fd(fd) => Ok(InodeFd::Borrowed(fd.as_fd())),
            Place::Handle { mount, handle } => {
                handle.open(mount.fd(), libc::O_PATH).map(InodeFd::Owned)
            }
            Place::Lost(errno) => Err(*errno),
        }
    }
}

/// A descriptor that may come later, once, and stays. `OnceLock` would take eight bytes.
#[derive(Debug)]
struct LateFd(AtomicI32);

/// No descriptor has come.
const NO_FD: RawFd = -1;

impl LateFd {
    fn get(&self) -> Option<BorrowedFd<'_>> {
        match self.0.load(Ordering::Acquire) {
            NO_FD => None,
            // SAFETY: the descriptor is this one's own, which keeps it open until it is
            // dropped, and nothing takes it out before.
            fd => Some(unsafe { BorrowedFd::borrow_raw(fd) }),
        }
    }

    /// Takes `fd`, unless there is one.
    fn set(&self, fd: OwnedFd) {
        let raw = fd.as_raw_fd();
        let set = self
            .0
            .compare_exchange(NO_FD, raw, Ordering::AcqRel, Ordering::Acquire);
        if set.is_ok() {
            // It is this one's own now.
            let _ = fd.into_raw_fd();
        }
    }
}

impl Default for LateFd {
    fn default() -> LateFd {
        LateFd(AtomicI32::new(NO_FD))
    }
}

impl Drop for LateFd {
    fn drop(&mut self) {
        match *self.0.get_mut() {
            NO_FD => {}
            // SAFETY: `set` has taken the descriptor over, and nobody else closes it.
            fd => drop(unsafe { OwnedFd::from_raw_fd(fd) }),
        }
    }
}

/// A reference to an inode. Not one of the standard library's: that would count weak
/// references too, of which there are none, in eight bytes of each inode.
pub type InodeArc = triomphe::Arc<Inode>;

/// An inode that the guest has looked up.
pub struct Inode {
    id: NodeId,
    refs: AtomicU64,
    ino: u64,
    // As the kernel has it: it gives 12 bits to the major number and 20 to the minor one.
    dev: u32,
    // Of an inode held by handle whose last name is gone: nothing else may keep
    // the object alive, and the guest can have it as its working directory, or
    // write its times back.
    last: LateFd,
    place: Place,
    pub(super) links: Mutex<Links>,
}

/// A descriptor of an inode: its own, or one opened for the occasion. `O_PATH`.
#[derive(Debug)]
pub enum InodeFd<'a> {
    /// The inode's own.
    Borrowed(BorrowedFd<'a>),
    /// Opened by file handle.
    Owned(OwnedFd),
    /// Opened by file handle, and kept for the next who works there.
    Shared(Arc<OwnedFd>),
}

impl AsFd for InodeFd<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            InodeFd::Borrowed(fd) => *fd,
            InodeFd::Owned(fd) => fd.as_fd(),
            InodeFd::Shared(fd) => fd.as_fd(),
        }
    }
}

impl Inode {
    fn new(id: NodeId, refs: u64, mut new: NewInode) -> Inode {
        match &mut new.place {
            Place::Fd(fd) => fd.mnt_id = new.numbers.mnt_id,
            Place::Handle { mount, .. } => debug_assert_eq!(mount.id(), new.numbers.mnt_id),
            Place::Lost(_) => {}
        }
        Inode {
            id,
            refs: AtomicU64::new(
                refs & LOOKUPS | u64::from((new.kind & libc::S_IFMT) >> 12) << KIND_SHIFT,
            ),
            ino: new.numbers.ino,
            dev: sys::kernel_dev(new.numbers.dev),
            last: LateFd::default(),
            place: new.place,
            links: Mutex::new(Links::default()),
        }
    }

    /// The nodeid.
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// The `S_IFMT` part of `st_mode`; an inode never changes it.
    pub fn kind(&self) -> u32 {
        let refs = self.refs.load(Ordering::Relaxed);
        ((refs & KIND) >> KIND_SHIFT << 12) as u32
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind() == libc::S_IFDIR
    }

    /// Mount, device and inode number.
    pub fn numbers(&self) -> Numbers {
        let mnt_id = match &self.place {
            Place::Fd(fd) => fd.mnt_id,
            Place::Handle { mount, .. } => mount.id(),
            Place::Lost(_) => 0,
        };
        Numbers {
            mnt_id,
            dev: sys::makedev(self.dev),
            ino: self.ino,
        }
    }

    /// Where it is held.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What makes it itself; `None` for a lost one.
    pub fn identity(&self) -> Option<Identity<'_>> {
        let handle = match &self.place {
            Place::Fd(_) => None,
            Place::Handle { handle, .. } => Some(handle),
            Place::Lost(_) => return None,
        };
        Some(Identity {
            numbers: self.numbers(),
            handle,
        })
    }

    /// Lookups that the guest holds. 0 for a directory that is only pinned.
    pub fn lookups(&self) -> u64 {
        self.refs.load(Ordering::Acquire) & LOOKUPS
    }

    /// An `O_PATH` descriptor of it.
    ///
    /// # Errors
    /// `ESTALE` when an inode held by handle is gone, the inode's own error for
    /// a lost one, `EMFILE` and `ENFILE`.
    pub fn fd(&self) -> FsResult<InodeFd<'_>> {
        match &self.place {
            Place::Fd(fd) => Ok(InodeFd::Borrowed(fd.as_fd())),
            Place::Handle { mount, handle } => match self.last.get() {
                Some(fd) => Ok(InodeFd::Borrowed(fd)),
                None => handle.open(mount.fd(), libc::O_PATH).map(InodeFd::Owned),
            },
            Place::Lost(errno) => Err(*errno),
        }
    }

    /// Keeps the object alive by `fd`, an `O_PATH` descriptor of it, until the
    /// guest forgets it. For inodes held by handle; others keep one anyway.
    pub(super) fn keep(&self, fd: OwnedFd) {
        // It may be kept already, by another of its last names.
        self.last.set(fd);
    }

    /// Whether it is held by handle, and kept alive although its last name is gone.
    pub(super) fn is_kept(&self) -> bool {
        self.last.get().is_some()
    }

    /// Opens it with `flags` (`O_*`). Only regular files and directories are
    /// opened: a fifo could block, a device or socket could act.
    ///
    /// # Errors
    /// `EBADF` for any other kind of file (`ELOOP` for a symbolic link), as
    /// [`Inode::fd`], and whatever opening gives.
    pub fn open(&self, proc_self_fd: BorrowedFd<'_>, flags: i32) -> FsResult<OwnedFd> {
        match self.kind() {
            libc::S_IFREG | libc::S_IFDIR => {}
            libc::S_IFLNK => return Err(Errno::ELOOP),
            _ => return Err(Errno::EBADF),
        }
        // The object is already found; the magic link in /proc has to be followed.
        let flags = flags & !(libc::O_NOFOLLOW | libc::O_CREAT | libc::O_EXCL);
        match &self.place {
            Place::Fd(fd) => {
                let name = sys::FdName::new(fd.as_fd().as_raw_fd());
                sys::openat(proc_self_fd, name.as_c_str(), flags, 0)
            }
            Place::Handle { mount, handle } => handle.open(mount.fd(), flags),
            Place::Lost(errno) => Err(*errno),
        }
    }

    /// Takes one more lookup, unless the inode is dead. Answers whether it is the first.
    fn acquire(&self) -> Option<bool> {
        self.refs
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |refs| {
                // The count cannot reach the pin: each lookup is a request.
                (!is_dead(refs)).then(|| refs + 1)
            })
            .ok()
            .map(|before| before & LOOKUPS == 0)
    }

    /// Gives `count` lookups back, at most those there are (the root keeps one).
    /// Answers whether the inode has died by it, which is true for one caller.
    pub(super) fn release(&self, count: u64) -> bool {
        let keep = u64::from(self.id == NodeId::ROOT);
        let before = self
            .refs
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |refs| {
                let lookups = refs & LOOKUPS;
                let left = lookups.saturating_sub(count).max(keep.min(lookups));
                (left != lookups).then_some(left | (refs & !LOOKUPS))
            });
        match before {
            Ok(before) => {
                before & PIN == 0 && (before & LOOKUPS).saturating_sub(count) == 0 && keep == 0
            }
            Err(_) => false,
        }
    }

    /// Leaves one lookup, and no pin.
    fn forget_all_but_one(&self) {
        let refs = self.refs.load(Ordering::Acquire);
        self.refs.store(refs & KIND | 1, Ordering::Release);
    }

    /// Keeps the inode without a lookup; false when it is dead already.
    /// Called under the lock of its `links`.
    pub(super) fn pin(&self) -> bool {
        self.refs
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |refs| {
                (!is_dead(refs)).then_some(refs | PIN)
            })
            .is_ok()
    }

    /// Takes the pin away; answers whether the inode has died by it.
    /// Called under the lock of its `links`.
    pub(super) fn unpin(&self) -> bool {
        self.refs.fetch_and(!PIN, Ordering::AcqRel) & (PIN | LOOKUPS) == PIN
    }
}

impl fmt::Debug for Inode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inode")
            .field("id", &self.id)
            .field("lookups", &self.lookups())
            .field("kind", &format_args!("{:o}", self.kind()))
            .field("numbers", &self.numbers())
            .finish_non_exhaustive()
    }
}

fn same(a: &Identity<'_>, b: &Identity<'_>) -> bool {
    match (a.handle, b.handle) {
        // A handle says more than the numbers.
        (Some(x), Some(y)) => a.numbers.mnt_id == b.numbers.mnt_id && x == y,
        (None, None) => a.numbers == b.numbers,
        _ => false,
    }
}

/// Inodes, found by a hash of what they have in them. A slot is one word, and inodes with
/// the same hash lie side by side.
type Table = HashTable<InodeArc>;

fn hash_id(id: u64) -> u64 {
    let mut hasher = Spread::default();
    hasher.write_u64(id);
    hasher.finish()
}

fn find_id(table: &Table, id: NodeId) -> Option<&InodeArc> {
    table.find(hash_id(id.0), |inode| inode.id == id)
}

fn insert_id(table: &mut Table, inode: InodeArc) {
    table.insert_unique(hash_id(inode.id.0), inode, |inode| hash_id(inode.id.0));
}

/// Takes `inode` itself out.
fn take_out(table: &mut Table, hash: u64, inode: &InodeArc) -> Option<InodeArc> {
    let entry = table.find_entry(hash, |other| InodeArc::ptr_eq(other, inode));
    entry.ok().map(|entry| entry.remove().0)
}

/// Every inode that the guest knows. No system call is made, and no descriptor
/// closed, under any of its locks.
pub struct Inodes {
    ids: Box<[RwLock<Table>]>,
    identities: Box<[RwLock<Table>]>,
    hasher: RandomState,
    hash_mask: u64,
    next: AtomicU64,
    marks: Arc<Marks>,
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Inodes {
    /// The tables with `root` as nodeid 1, with one lookup.
    pub fn new(root: NewInode) -> Inodes {
        Inodes::with_hash_mask(root, u64::MAX)
    }

    fn with_hash_mask(root: NewInode, hash_mask: u64) -> Inodes {
        let inodes = Inodes {
            ids: (0..SHARDS).map(|_| RwLock::default()).collect(),
            identities: (0..SHARDS).map(|_| RwLock::default()).collect(),
            hasher: RandomState::new(),
            hash_mask,
            next: AtomicU64::new(NodeId::ROOT.0 + 1),
            marks: Arc::default(),
        };
        inodes.insert(NodeId::ROOT, 1, root);
        inodes
    }

    /// Where changes leave their marks.
    pub(super) fn marks(&self) -> &Arc<Marks> {
        &self.marks
    }

    /// One more lookup of `inode`, unless it is dead.
    fn take_one(&self, inode: &Inode) -> bool {
        let Some(first) = inode.acquire() else {
            return false;
        };
        self.marks.changed(inode.id);
        if first {
            self.marks.changed_above(inode.id);
        }
        true
    }

    /// Keeps the object that `inode` is by `fd`; see [`Inode::keep`].
    pub(super) fn keep(&self, inode: &Inode, fd: OwnedFd) {
        inode.keep(fd);
        self.marks.changed(inode.id);
    }

    /// Empty tables beside these but for `root`, to be filled with
    /// [`Inodes::insert`] and put in place with [`Inodes::replace_with`].
    pub fn sibling(&self, root: NewInode) -> Inodes {
        let mut other = Inodes::new(root);
        other.rehash_with(self.hasher.clone(), self.hash_mask);
        other
    }

    fn rehash_with(&mut self, hasher: RandomState, hash_mask: u64) {
        self.hasher = hasher;
        self.hash_mask = hash_mask;
        let all: Vec<_> = self
            .identities
            .iter()
            .flat_map(|shard| std::mem::take(&mut *write(shard)))
            .collect();
        for inode in all {
            self.index(inode);
        }
    }

    fn hash(&self, identity: &Identity<'_>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        identity.numbers.mnt_id.hash(&mut hasher);
        match identity.handle {
            Some(handle) => handle.hash(&mut hasher),
            None => (identity.numbers.dev, identity.numbers.ino).hash(&mut hasher),
        }
        hasher.finish() & self.hash_mask
    }

    fn identity_shard(&self, hash: u64) -> &RwLock<Table> {
        // Neither the bits that tell a table's slots nor those it marks them with.
        &self.identities[shard_of(hash >> 40)]
    }

    /// The inode, if any is alive, with this identity.
    fn find<'t>(table: &'t Table, hash: u64, identity: &Identity<'_>) -> Option<&'t InodeArc> {
        table.find(hash, |inode| {
            // A dead one is on its way out.
            inode.identity().is_some_and(|own| same(&own, identity))
                && !is_dead(inode.refs.load(Ordering::Acquire))
        })
    }

    fn hash_of(&self, inode: &Inode) -> u64 {
        inode.identity().map_or(0, |identity| self.hash(&identity))
    }

    fn id_shard(&self, id: NodeId) -> &RwLock<Table> {
        &self.ids[shard_of(id.0)]
    }

    /// The inode that the guest knows by `id`.
    pub fn get(&self, id: NodeId) -> Option<InodeArc> {
        self.get_or_pinned(id).filter(|inode| inode.lookups() > 0)
    }

    /// Whether the guest knows an inode by `id`.
    pub fn knows(&self, id: NodeId) -> bool {
        find_id(&read(self.id_shard(id)), id).is_some_and(|inode| inode.lookups() > 0)
    }

    /// As [`Inodes::get`], and also a directory that the guest has forgotten,
    /// while something that it knows is remembered to lie in it.
    pub fn get_or_pinned(&self, id: NodeId) -> Option<InodeArc> {
        find_id(&read(self.id_shard(id)), id).cloned()
    }

    /// [`Inodes::get_or_pinned`] of each of `ids`, in their order: a shard's lock is taken
    /// once for all that are in it.
    pub(super) fn get_all(&self, ids: &[u64]) -> Vec<Option<InodeArc>> {
        if ids.len() < SHARDS {
            let each = ids.iter().map(|id| self.get_or_pinned(NodeId(*id)));
            return each.collect();
        }
        // Positions in `ids`, by shard, put in place by counting.
        let mut ends = [0; SHARDS];
        for id in ids {
            ends[shard_of(*id)] += 1;
        }
        let mut before = 0;
        for end in &mut ends {
            before += std::mem::replace(end, before);
        }
        let mut positions = vec![0u32; ids.len()];
        for (at, id) in ids.iter().enumerate() {
            let place = &mut ends[shard_of(*id)];
            positions[*place] = at as u32;
            *place += 1;
        }
        let mut found = vec![None; ids.len()];
        let mut start = 0;
        for (shard, end) in ends.into_iter().enumerate() {
            if start == end {
                continue;
            }
            let table = read(&self.ids[shard]);
            for some in positions[start..end].chunks(AT_ONCE) {
                // All are looked for before any of them is counted: a processor goes on with
                // the next while one is on its way from memory, but for what is atomic.
                let mut here = [None; AT_ONCE];
                for (here, at) in here.iter_mut().zip(some) {
                    *here = find_id(&table, NodeId(ids[*at as usize]));
                }
                for (here, at) in here.iter().zip(some) {
                    found[*at as usize] = here.cloned();
                }
            }
            start = end;
        }
        found
    }

    /// The inode that is this host object, with one more lookup.
    #[cfg(test)]
    fn acquire(&self, identity: &Identity<'_>) -> Option<InodeArc> {
        self.acquire_hashed(self.hash(identity), identity)
    }

    fn acquire_hashed(&self, hash: u64, identity: &Identity<'_>) -> Option<InodeArc> {
        let shard = read(self.identity_shard(hash));
        Inodes::find(&shard, hash, identity)
            .filter(|inode| self.take_one(inode))
            .cloned()
    }

    /// One more lookup of an inode that is already in hand; false when the guest
    /// has let go of it meanwhile.
    pub fn acquire_again(&self, inode: &Inode) -> bool {
        self.take_one(inode)
    }

    /// Gives `new` a nodeid and one lookup; where another thread was faster, one
    /// more lookup of its inode, and `new` is dropped. Answers whether it is new.
    pub fn publish(&self, new: NewInode) -> (InodeArc, bool) {
        let mut inode = Inode::new(NodeId(0), 1, new);
        let Some(identity) = inode.identity() else {
            // A lost inode is only ever restored, under its own number.
            inode.id = NodeId(self.next.fetch_add(1, Ordering::Relaxed));
            let inode = InodeArc::new(inode);
            insert_id(&mut write(self.id_shard(inode.id)), inode.clone());
            self.marks.changed(inode.id);
            return (inode, true);
        };
        let hash = self.hash(&identity);
        // First with a lock that others can hold as well.
        if let Some(known) = self.acquire_hashed(hash, &identity) {
            return (known, false);
        }
        let mut shard = write(self.identity_shard(hash));
        let known = Inodes::find(&shard, hash, &identity);
        if let Some(known) = known.filter(|known| self.take_one(known)) {
            let known = known.clone();
            drop(shard);
            // Closes a descriptor: not under the lock.
            drop(inode);
            return (known, false);
        }
        inode.id = NodeId(self.next.fetch_add(1, Ordering::Relaxed));
        let inode = InodeArc::new(inode);
        // First the number, then the identity: who finds the inode by its
        // identity may tell the guest the number.
        insert_id(&mut write(self.id_shard(inode.id)), inode.clone());
        shard.insert_unique(hash, inode.clone(), |inode| self.hash_of(inode));
        drop(shard);
        self.marks.changed(inode.id);
        (inode, true)
    }

    /// Puts an inode under a given number, with that many lookups; for tables
    /// being filled. [`Inodes::set_next`] must be told of it.
    pub fn insert(&self, id: NodeId, lookups: u64, new: NewInode) -> InodeArc {
        let inode = InodeArc::new(Inode::new(id, lookups, new));
        insert_id(&mut write(self.id_shard(id)), inode.clone());
        self.index(inode.clone());
        self.marks.changed(id);
        inode
    }

    fn index(&self, inode: InodeArc) {
        let Some(hash) = inode.identity().map(|identity| self.hash(&identity)) else {
            return;
        };
        let mut shard = write(self.identity_shard(hash));
        shard.insert_unique(hash, inode, |inode| self.hash_of(inode));
    }

    /// Takes a dead inode out of the tables.
    pub(super) fn remove(&self, inode: &InodeArc) {
        let by_id = take_out(
            &mut write(self.id_shard(inode.id)),
            hash_id(inode.id.0),
            inode,
        );
        let mut by_identity = None;
        if let Some(hash) = inode.identity().map(|identity| self.hash(&identity)) {
            by_identity = take_out(&mut write(self.identity_shard(hash)), hash, inode);
        }
        // The caller has a reference, so nothing is closed here either way.
        drop((by_id, by_identity));
    }

    /// Forgets every inode but the root, which keeps one lookup. Numbers go on.
    pub(super) fn clear(&self) {
        for shard in &self.identities {
            let old = {
                let mut shard = write(shard);
                let old = std::mem::take(&mut *shard);
                if let Some(root) = old.iter().find(|inode| inode.id == NodeId::ROOT) {
                    let root = root.clone();
                    let hash = self.hash_of(&root);
                    shard.insert_unique(hash, root, |inode| self.hash_of(inode));
                }
                old
            };
            drop(old);
        }
        for shard in &self.ids {
            let old = {
                let mut shard = write(shard);
                let old = std::mem::take(&mut *shard);
                if let Some(root) = find_id(&old, NodeId::ROOT) {
                    root.forget_all_but_one();
                    *root.links.lock().unwrap_or_else(PoisonError::into_inner) = Links::default();
                    insert_id(&mut shard, root.clone());
                }
                old
            };
            drop(old);
        }
        self.marks.changed_all();
    }

    /// Takes the contents of tables made by [`Inodes::sibling`] over in place of
    /// everything there is. No request may be running.
    pub fn replace_with(&self, other: Inodes) {
        for (mine, theirs) in self.ids.iter().zip(&other.ids) {
            let old = std::mem::replace(&mut *write(mine), std::mem::take(&mut *write(theirs)));
            drop(old);
        }
        for (mine, theirs) in self.identities.iter().zip(&other.identities) {
            let old = std::mem::replace(&mut *write(mine), std::mem::take(&mut *write(theirs)));
            drop(old);
        }
        self.set_next(other.next());
        self.marks.changed_all();
    }

    /// How many there are, with the root.
    pub fn len(&self) -> usize {
        self.ids.iter().map(|shard| read(shard).len()).sum()
    }

    /// Never true: there is always the root.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything in shard `shard` (below [`SHARDS`]) as it is now, pinned
    /// directories too, in no order. Shard by shard, so that a walk over millions
    /// of inodes stops nobody for long.
    pub fn shard(&self, shard: usize) -> Vec<InodeArc> {
        read(&self.ids[shard]).iter().cloned().collect()
    }

    /// The nodeids of [`Inodes::shard`], in no order.
    pub(super) fn ids_in(&self, shard: usize, ids: &mut Vec<u64>) {
        ids.extend(read(&self.ids[shard]).iter().map(|inode| inode.id.0));
    }

    /// The number that the next new inode gets.
    pub fn next(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Lets numbers go on from `next`; they never go back.
    pub fn set_next(&self, next: u64) {
        self.next.fetch_max(next, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "inode_tests.rs"]
mod tests;
