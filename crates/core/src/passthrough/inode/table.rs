//! All inodes, by nodeid and by what they are.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use hashbrown::HashTable;

use super::super::links::Links;
use super::super::marks::Marks;
use super::{is_dead, Identity, Inode, InodeArc, NewInode};
use crate::types::NodeId;

/// Inodes that are looked for in a table before any of them is touched.
const AT_ONCE: usize = 16;

/// Shards of each table.
pub const SHARDS: usize = 256;

/// Which shard a number falls into, by ten of its bits. Shards are not of one size: a
/// table doubles when it is full, and if all did so at once, half of the slots would be
/// empty right then.
pub(in super::super) fn shard_of(bits: u64) -> usize {
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

/// Hashes what is already a hash, or a number that nobody can choose.
#[derive(Default)]
pub(in super::super) struct Spread(u64);

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
pub(in super::super) type NumberMap<V> = HashMap<u64, V, BuildHasherDefault<Spread>>;

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
    pub(in super::super) fn marks(&self) -> &Arc<Marks> {
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
    pub(in super::super) fn keep(&self, inode: &Inode, fd: OwnedFd) {
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
    pub(in super::super) fn get_all(&self, ids: &[u64]) -> Vec<Option<InodeArc>> {
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
    pub(in super::super) fn remove(&self, inode: &InodeArc) {
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
    pub(in super::super) fn clear(&self) {
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
    pub(in super::super) fn ids_in(&self, shard: usize, ids: &mut Vec<u64>) {
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
#[path = "tests.rs"]
mod tests;
