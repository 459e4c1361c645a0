//! Where the guest last saw each inode: its parent's nodeid and its name in it.
//!
//! Always kept, so that a crossing never has to search: it costs no system call
//! and each operation a constant time, a directory's rename too, since what lies
//! in a directory refers to it by nodeid. What others change on the host is not
//! seen here; whoever uses a name checks that it leads to the inode.
//!
//! Which lock guards what, in the order of taking:
//! 1. a *stripe* for each (parent, name) in play, for writing around a host
//!    operation that changes names and what it changes here, for reading around
//!    a lookup. So the two never disagree for longer than an operation lasts. A
//!    host operation that hangs holds up only names of the same stripe.
//! 2. an inode's `links`: which names it has. Never two inodes' at once.
//! 3. a shard of `dentries`: which inode a name has. A name is in both or in
//!    neither.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::inode::{shard_of, Inode, InodeArc, Inodes, NumberMap, SHARDS};
use super::links::LinkRef;
use super::marks::Marks;
use crate::types::NodeId;

/// Locks for names; a power of two, well above the number of threads.
const STRIPES: usize = 256;

/// Hard links remembered of an inode beside its primary name. More are not worth
/// their memory: one that leads there is enough.
const MOST_EXTRA: usize = 16;

/// One name of an inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The directory.
    pub parent: NodeId,
    /// One component.
    pub name: Box<[u8]>,
}

/// Holds names still, as long as it lives.
#[derive(Debug)]
pub struct ReadHold<'a>(#[allow(dead_code)] RwLockReadGuard<'a, ()>);

/// Holds one or two names for a change, as long as it lives.
#[derive(Debug)]
pub struct WriteHold<'a>(
    #[allow(dead_code)] RwLockWriteGuard<'a, ()>,
    #[allow(dead_code)] Option<RwLockWriteGuard<'a, ()>>,
);

/// The memory of names. See the module's text.
pub struct Names {
    stripes: Box<[RwLock<()>]>,
    dentries: Box<[Mutex<NumberMap<u64>>]>,
    // Keyed by chance, so that no guest can choose names that collide. Two names
    // with the same 64 bits would make the memory forget one of them.
    hasher: RandomState,
    generation: AtomicU64,
    tracking: AtomicBool,
    changed: Mutex<HashSet<NodeId>>,
    marks: Arc<Marks>,
    // Of those, the ones that have lost their last known name.
    orphans: Mutex<HashSet<NodeId>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Names {
    fn default() -> Names {
        Names::new()
    }
}

impl Names {
    /// No names.
    pub fn new() -> Names {
        Names::marking(Arc::default())
    }

    /// No names, of inodes whose changes leave `marks`.
    pub(super) fn marking(marks: Arc<Marks>) -> Names {
        Names {
            marks,
            stripes: (0..STRIPES).map(|_| RwLock::default()).collect(),
            dentries: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            generation: AtomicU64::new(0),
            tracking: AtomicBool::new(false),
            changed: Mutex::default(),
            orphans: Mutex::default(),
        }
    }

    fn hash(&self, parent: NodeId, name: &[u8]) -> u64 {
        self.hasher.hash_one((parent.0, name))
    }

    fn dentries(&self, hash: u64) -> MutexGuard<'_, NumberMap<u64>> {
        lock(&self.dentries[shard_of(hash >> 40)])
    }

    fn dentry(&self, hash: u64) -> Option<NodeId> {
        self.dentries(hash).get(&hash).copied().map(NodeId)
    }

    fn forget_dentry(&self, hash: u64, node: NodeId) {
        let mut dentries = self.dentries(hash);
        if dentries.get(&hash) == Some(&node.0) {
            dentries.remove(&hash);
        }
    }

    fn stripe(&self, parent: NodeId, name: &[u8]) -> usize {
        self.hash(parent, name) as usize % STRIPES
    }

    /// Holds a name still for a lookup.
    pub fn hold(&self, parent: NodeId, name: &[u8]) -> ReadHold<'_> {
        let stripe = &self.stripes[self.stripe(parent, name)];
        ReadHold(stripe.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Holds a name for an operation that changes it.
    pub fn hold_change(&self, parent: NodeId, name: &[u8]) -> WriteHold<'_> {
        let stripe = &self.stripes[self.stripe(parent, name)];
        WriteHold(stripe.write().unwrap_or_else(PoisonError::into_inner), None)
    }

    /// Holds two names for an operation that changes both.
    pub fn hold_changes(
        &self,
        (a_parent, a_name): (NodeId, &[u8]),
        (b_parent, b_name): (NodeId, &[u8]),
    ) -> WriteHold<'_> {
        let (a, b) = (self.stripe(a_parent, a_name), self.stripe(b_parent, b_name));
        // Always in the same order, and a shared one once.
        let write = |at: usize| {
            self.stripes[at]
                .write()
                .unwrap_or_else(PoisonError::into_inner)
        };
        let first = write(a.min(b));
        let second = (a != b).then(|| write(a.max(b)));
        WriteHold(first, second)
    }

    /// The name under which `inode` was last seen; `None` for the root, and for
    /// what has no name (any more) or never had one.
    pub fn primary_of(&self, inode: &Inode) -> Option<Link> {
        lock(&inode.links).primary().map(LinkRef::to_link)
    }

    /// The same without an allocation: puts the name into `name`, and answers its directory.
    pub(super) fn read_primary(&self, inode: &Inode, name: &mut Vec<u8>) -> Option<NodeId> {
        name.clear();
        let links = lock(&inode.links);
        let link = links.primary()?;
        name.extend_from_slice(link.name);
        Some(link.parent)
    }

    /// The directory of that name.
    pub(super) fn directory_of(&self, inode: &Inode) -> Option<NodeId> {
        lock(&inode.links).primary().map(|link| link.parent)
    }

    /// As [`Names::primary_of`], by nodeid; pinned directories are found as well.
    pub fn primary(&self, inodes: &Inodes, node: NodeId) -> Option<(NodeId, Box<[u8]>)> {
        let inode = inodes.get_or_pinned(node)?;
        let link = self.primary_of(&inode)?;
        Some((link.parent, link.name))
    }

    /// Every name known of `inode`, the primary one first.
    pub fn all_of(&self, inode: &Inode) -> Vec<Link> {
        lock(&inode.links).iter().map(LinkRef::to_link).collect()
    }

    /// The components that lead from the root to `node`, as far as is known:
    /// `None` where it or a directory above it has no name.
    pub fn path(&self, inodes: &Inodes, node: NodeId) -> Option<Vec<Box<[u8]>>> {
        let mut path = Vec::new();
        let mut at = node;
        // A loop would take two renames seen in the wrong order; no path is
        // longer than there are inodes.
        let mut left = inodes.len() + 1;
        while at != NodeId::ROOT {
            let (parent, name) = self.primary(inodes, at)?;
            path.push(name);
            at = parent;
            left = left.checked_sub(1)?;
        }
        path.reverse();
        Some(path)
    }

    /// The inode that `name` in `parent` is known to be.
    pub fn known(&self, inodes: &Inodes, parent: NodeId, name: &[u8]) -> Option<InodeArc> {
        let inode = inodes.get_or_pinned(self.dentry(self.hash(parent, name))?)?;
        let is = lock(&inode.links).has(parent, name);
        is.then_some(inode)
    }

    /// Goes up with every change of a name or death of an inode.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Starts or stops to note which inodes change; what was noted is dropped.
    pub fn track(&self, on: bool) {
        let mut changed = lock(&self.changed);
        *changed = HashSet::new();
        *lock(&self.orphans) = HashSet::new();
        self.tracking.store(on, Ordering::Release);
    }

    /// Whether changes are noted: a crossing is being prepared.
    pub fn is_tracking(&self) -> bool {
        self.tracking.load(Ordering::Acquire)
    }

    /// Takes what was noted since [`Names::track`] or the last call: inodes that
    /// are new, have other names, or are gone.
    pub fn take_changed(&self) -> HashSet<NodeId> {
        std::mem::take(&mut *lock(&self.changed))
    }

    /// Inodes that have lost their last known name since [`Names::track`], or never had
    /// one, and which the guest still knows; they may have got one since.
    pub fn orphans(&self, inodes: &Inodes) -> Vec<InodeArc> {
        let mut orphans = lock(&self.orphans);
        // Most are gone with their names.
        let mut alive = Vec::new();
        orphans.retain(|node| {
            let inode = inodes.get(*node);
            let is_alive = inode.is_some();
            alive.extend(inode);
            is_alive
        });
        alive
    }

    /// Notes that `inode` has no name.
    pub fn note_orphan(&self, inode: &Inode) {
        self.note(inode);
        if self.tracking.load(Ordering::Acquire) {
            lock(&self.orphans).insert(inode.id());
        }
    }

    fn note_removal(&self, inode: &Inode, last: bool) {
        match last {
            true => self.note_orphan(inode),
            false => self.note(inode),
        }
    }

    /// Notes a change of `inode`: to be called behind it.
    pub fn note(&self, inode: &Inode) {
        let node = inode.id();
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.marks.changed(node);
        if inode.lookups() == 0 {
            // What lies in it says a path that has its name.
            self.marks.changed_above(node);
        }
        if self.tracking.load(Ordering::Acquire) {
            let mut changed = lock(&self.changed);
            // Asked again under the lock: nothing is noted after the end.
            if self.tracking.load(Ordering::Relaxed) {
                changed.insert(node);
            }
        }
    }

    /// `child` was seen as, or made, `name` in `parent`. With `links` (its
    /// `st_nlink`; 1 for a directory) above 1 its other names are kept beside it;
    /// otherwise they are no longer true.
    pub fn insert(
        &self,
        inodes: &Inodes,
        parent: &InodeArc,
        name: &[u8],
        child: &InodeArc,
        links: u32,
    ) {
        {
            let own = lock(&child.links);
            let first = own.primary().is_some_and(|l| l.is(parent.id(), name));
            // Most lookups end here: seen again where it was.
            if first && (links > 1 || !own.has_more()) {
                return;
            }
        }
        if child.id() == NodeId::ROOT || child.id() == parent.id() || !self.pin(parent) {
            return;
        }
        let hash = self.hash(parent.id(), name);
        let mut lost = Vec::new();
        let before;
        {
            let mut own = lock(&child.links);
            if own.dead {
                drop(own);
                self.unpin(inodes, parent.id());
                return;
            }
            before = self.dentries(hash).insert(hash, child.id().0);
            if own.take(parent.id(), name) {
                // Pinned twice now.
                lost.push(parent.id());
            }
            own.put_first(parent.id(), name);
            let most = if links > 1 { 1 + MOST_EXTRA } else { 1 };
            for link in own.take_from(most) {
                self.forget_dentry(self.hash(link.parent, &link.name), child.id());
                lost.push(link.parent);
            }
        }
        self.displaced(inodes, before, child.id(), (parent.id(), name, hash));
        for parent in lost {
            self.unpin(inodes, parent);
        }
        self.note(child);
    }

    /// `name` in `parent` is no more.
    pub fn remove(&self, inodes: &Inodes, parent: NodeId, name: &[u8]) {
        let hash = self.hash(parent, name);
        let Some(node) = self.dentry(hash) else {
            return;
        };
        let Some(inode) = inodes.get_or_pinned(node) else {
            return;
        };
        let had = {
            let mut own = lock(&inode.links);
            let had = own.take(parent, name);
            if had {
                self.forget_dentry(hash, node);
            }
            had.then_some(own.is_empty())
        };
        if let Some(last) = had {
            self.unpin(inodes, parent);
            self.note_removal(&inode, last);
        }
    }

    /// `old` became `new`; what was `new` before has lost that name.
    pub fn rename(
        &self,
        inodes: &Inodes,
        old: (NodeId, &[u8]),
        new_parent: &InodeArc,
        new_name: &[u8],
    ) {
        let new = (new_parent.id(), new_name);
        if old == new {
            return;
        }
        let moved = self.known(inodes, old.0, old.1);
        let there = self.known(inodes, new.0, new.1);
        match (moved, there) {
            // Two links of one file: the host's rename does nothing either.
            (Some(moved), Some(there)) if InodeArc::ptr_eq(&moved, &there) => {}
            (Some(moved), _) => {
                self.relink(inodes, &moved, old, new_parent, new_name, true);
                self.note(&moved);
            }
            (None, _) => self.remove(inodes, new.0, new.1),
        }
    }

    /// `a` and `b` changed places.
    pub fn exchange(
        &self,
        inodes: &Inodes,
        (a_parent, a_name): (&InodeArc, &[u8]),
        (b_parent, b_name): (&InodeArc, &[u8]),
    ) {
        let a = (a_parent.id(), a_name);
        let b = (b_parent.id(), b_name);
        if a == b {
            return;
        }
        let was_a = self.known(inodes, a.0, a.1);
        let was_b = self.known(inodes, b.0, b.1);
        if let (Some(x), Some(y)) = (&was_a, &was_b) {
            if InodeArc::ptr_eq(x, y) {
                return;
            }
        }
        if let Some(inode) = &was_a {
            self.relink(inodes, inode, a, b_parent, b_name, false);
        }
        if let Some(inode) = &was_b {
            self.relink(inodes, inode, b, a_parent, a_name, false);
        }
        for inode in [was_a, was_b].into_iter().flatten() {
            self.note(&inode);
        }
    }

    /// Gives `inode` the new name in place of the old one. What had the new name
    /// loses it, if `displace`; otherwise the caller gives it another at once.
    fn relink(
        &self,
        inodes: &Inodes,
        inode: &InodeArc,
        old: (NodeId, &[u8]),
        new_parent: &InodeArc,
        new_name: &[u8],
        displace: bool,
    ) {
        if !self.pin(new_parent) {
            return self.remove(inodes, old.0, old.1);
        }
        let hash = self.hash(new_parent.id(), new_name);
        let twice;
        let before = {
            let mut own = lock(&inode.links);
            if !own.take(old.0, old.1) {
                drop(own);
                return self.unpin(inodes, new_parent.id());
            }
            self.forget_dentry(self.hash(old.0, old.1), inode.id());
            let before = self.dentries(hash).insert(hash, inode.id().0);
            twice = own.take(new_parent.id(), new_name);
            own.put_first(new_parent.id(), new_name);
            before
        };
        self.unpin(inodes, old.0);
        if twice {
            self.unpin(inodes, new_parent.id());
        }
        if displace {
            let place = (new_parent.id(), new_name, hash);
            self.displaced(inodes, before, inode.id(), place);
        }
    }

    /// `before` had the name that `now` has.
    fn displaced(
        &self,
        inodes: &Inodes,
        before: Option<u64>,
        now: NodeId,
        (parent, name, hash): (NodeId, &[u8], u64),
    ) {
        let Some(before) = before.map(NodeId).filter(|before| *before != now) else {
            return;
        };
        let Some(inode) = inodes.get_or_pinned(before) else {
            return;
        };
        let had = {
            let mut own = lock(&inode.links);
            // Unless it has got the name back meanwhile.
            let had = self.dentry(hash) != Some(before) && own.take(parent, name);
            had.then_some(own.is_empty())
        };
        if let Some(last) = had {
            self.unpin(inodes, parent);
            self.note_removal(&inode, last);
        }
    }

    /// One more known name lies in `parent`. False when it is dead.
    pub(super) fn pin(&self, parent: &Inode) -> bool {
        let mut own = lock(&parent.links);
        if own.dead || !parent.pin() {
            return false;
        }
        own.children = own.children.saturating_add(1);
        true
    }

    /// One known name less lies in `parent`.
    pub(super) fn unpin(&self, inodes: &Inodes, parent: NodeId) {
        let Some(parent) = inodes.get_or_pinned(parent) else {
            return;
        };
        let died = {
            let mut own = lock(&parent.links);
            own.children = own.children.saturating_sub(1);
            own.children == 0 && parent.unpin()
        };
        if died {
            self.bury(inodes, parent);
        }
    }

    /// FORGET: gives lookups back, and takes the inode out of the tables when
    /// nothing holds it any more. Whether the guest does not know it any more.
    pub fn forget(&self, inodes: &Inodes, node: NodeId, count: u64) -> bool {
        match inodes.get_or_pinned(node) {
            Some(inode) => self.release(inodes, inode, count),
            None => true,
        }
    }

    /// As [`Names::forget`], for an inode in hand.
    pub fn release(&self, inodes: &Inodes, inode: InodeArc, count: u64) -> bool {
        let died = inode.release(count);
        let gone = inode.lookups() == 0;
        self.marks.changed(inode.id());
        if gone {
            // What lies in it says a path from above it from now on.
            self.marks.changed_above(inode.id());
        }
        if died {
            self.bury(inodes, inode);
        }
        gone
    }

    /// Takes the dead inode out of the tables, and the directories above that
    /// only its name has kept.
    fn bury(&self, inodes: &Inodes, inode: InodeArc) {
        // A loop, not a recursion: paths can be deeper than a stack.
        let mut dead = vec![inode];
        while let Some(inode) = dead.pop() {
            inodes.remove(&inode);
            let links = {
                let mut own = lock(&inode.links);
                own.dead = true;
                let links = own.take_from(0);
                for link in &links {
                    self.forget_dentry(self.hash(link.parent, &link.name), inode.id());
                }
                links
            };
            for link in links {
                let Some(parent) = inodes.get_or_pinned(link.parent) else {
                    continue;
                };
                let died = {
                    let mut own = lock(&parent.links);
                    own.children = own.children.saturating_sub(1);
                    own.children == 0 && parent.unpin()
                };
                if died {
                    dead.push(parent);
                }
            }
            self.note(&inode);
            // Here `inode`'s descriptor is closed, under no lock.
        }
    }

    /// Forgets every name; [`Inodes::clear`] goes with it.
    pub(super) fn clear(&self) {
        for shard in &self.dentries {
            drop(std::mem::take(&mut *lock(shard)));
        }
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// How many names are known, of inodes alive.
    pub fn len(&self) -> usize {
        self.dentries.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Whether no name is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Empty names beside these, for tables being filled.
    pub fn sibling(&self) -> Names {
        Names {
            hasher: self.hasher.clone(),
            ..Names::new()
        }
    }

    /// Takes the names made by [`Names::sibling`] over in place of everything
    /// there is. No request may be running.
    pub fn replace_with(&self, other: Names) {
        for (mine, theirs) in self.dentries.iter().zip(&other.dentries) {
            let new = std::mem::take(&mut *lock(theirs));
            drop(std::mem::replace(&mut *lock(mine), new));
        }
        self.generation.fetch_add(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;
