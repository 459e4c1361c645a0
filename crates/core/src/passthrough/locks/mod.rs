//! The guest's locks, made real on the host: whoever locks there too, another guest
//! on the same share included, is kept out by them and keeps them out.
//!
//! On the host they belong to open file descriptions, since the daemon is one process
//! for all of the guest's. A lock of `flock` is set on the handle's own: one open file
//! of the guest is one of the host. `fcntl` locks belong to an owner, the guest's
//! process, through whichever of its open files they are set; for each owner in a file
//! that file is opened once more, and the kernel's rules for open file descriptions
//! (`F_OFD_SETLK`) between two of these are those that the guest expects between two
//! processes. What is held is remembered as well: the guest wants to know which of its
//! processes is in its way, and in a crossing the locks go along.
//!
//! - [`ranges`]: what one owner holds of one file; `host`: system calls.
//! - `wait`: locks that are waited for.
//! - `crossing`: source and destination can be on the same host, where only one of
//!   them can hold a lock.

mod crossing;
mod host;
pub(super) mod ranges;
#[cfg(test)]
mod tests;
mod wait;

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::handle::{HandleKind, OpenFile};
use super::Passthrough;
use crate::errno::{Errno, FsResult};
use crate::fs::{LockArgs, LockFound, LockKind, LockMode, LockWait};
use crate::types::{HandleId, NodeId};
use host::{Access, LockFile};
use ranges::{Range, Ranges};
use wait::Waits;

pub(super) use crossing::Planned;

/// The most ranges that a guest can hold: each is an object in the host's kernel too,
/// in a list for each file that it goes through under a lock of its own.
const MAX_RANGES: usize = 1 << 14;

/// The part of the process' descriptors that owners of locks may take.
const SHARE_OF_LIMIT: u64 = 4;

/// A request about a lock, with the open file that it names.
#[derive(Clone)]
pub(super) struct Request {
    pub(super) node: NodeId,
    pub(super) handle: HandleId,
    pub(super) file: Arc<OpenFile>,
    pub(super) lock: LockArgs,
}

/// All locks of a guest.
pub(super) struct Locks(Arc<Shared>);

/// What threads that wait for a lock have to do with as well.
struct Shared {
    proc_self_fd: Arc<OwnedFd>,
    nodes: Mutex<HashMap<NodeId, Arc<Node>>>,
    /// Files in `nodes`, and waits: most of the time there are none.
    active: AtomicUsize,
    ranges: AtomicUsize,
    files: Arc<AtomicUsize>,
    most_files: usize,
    complained: AtomicBool,
    waits: Waits,
    /// Everything has been let go, and is still known.
    away: Mutex<bool>,
}

/// A file with locks. One that has none is in the table only for as long as its lock
/// is held.
struct Node(Mutex<NodeLocks>);

#[derive(Default)]
struct NodeLocks {
    owners: HashMap<u64, Owner>,
    flocks: HashMap<HandleId, Flock>,
    /// Not in the table any more.
    dead: bool,
}

/// What one owner holds of a file by `fcntl`.
struct Owner {
    file: Arc<LockFile>,
    _slot: Slot,
    ranges: Ranges,
    /// Requests that wait with `file`.
    waits: usize,
}

/// What an open file holds by `flock`.
struct Flock {
    file: Arc<OpenFile>,
    mode: LockMode,
    owner: u64,
    pid: u32,
}

/// One of the descriptors that owners may take.
struct Slot(Arc<AtomicUsize>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Passthrough {
    /// A request of the guest's with the open file that it names.
    pub(super) fn lock_request(
        &self,
        node: NodeId,
        handle: HandleId,
        lock: &LockArgs,
    ) -> FsResult<Request> {
        Ok(Request {
            node,
            handle,
            file: self.handles.find(handle, node, HandleKind::File)?,
            lock: *lock,
        })
    }
}

impl Locks {
    /// None so far.
    pub(super) fn new(proc_self_fd: Arc<OwnedFd>) -> Locks {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let most = limit.map_or(usize::MAX, |limit| (limit / SHARE_OF_LIMIT) as usize);
        Locks(Arc::new(Shared {
            proc_self_fd,
            nodes: Mutex::default(),
            active: AtomicUsize::new(0),
            ranges: AtomicUsize::new(0),
            files: Arc::default(),
            most_files: most.max(1),
            complained: AtomicBool::new(false),
            waits: Waits::default(),
            away: Mutex::new(false),
        }))
    }

    /// Whether anything is held or waited for.
    pub(super) fn any(&self) -> bool {
        self.0.active.load(Ordering::Relaxed) != 0
    }

    /// What is in the way of a lock of `fcntl`.
    pub(super) fn find(&self, request: &Request) -> FsResult<Option<LockFound>> {
        let lock = &request.lock;
        let mode = lock.mode.ok_or(Errno::EINVAL)?;
        let fd = request.file.fd()?;
        let ask = |locks: Option<&NodeLocks>| {
            // This guest's own first: of these it is known whose they are.
            if let Some(found) = locks.and_then(|locks| locks.in_the_way(lock, mode)) {
                return Ok(Some(found));
            }
            let own = locks.and_then(|locks| locks.owners.get(&lock.owner));
            let fd = own.map_or(fd, |owner| owner.file.as_fd());
            let found = host::blocker(fd, lock.start, lock.end, mode)?;
            Ok(found.map(|found| LockFound {
                start: found.start,
                end: found.end,
                mode: found.mode,
                // A number of the host's would be somebody else in the guest.
                pid: 0,
            }))
        };
        match self.0.on_known(request.node, |locks| ask(Some(locks))) {
            Some(found) => found,
            None => ask(None),
        }
    }

    /// Locks or unlocks; with `wait`, as request `unique`, waiting for as long as it
    /// takes.
    pub(super) fn set(
        &self,
        request: Request,
        wait: Option<&mut dyn LockWait>,
        unique: u64,
    ) -> FsResult<()> {
        match wait {
            Some(wait) if request.lock.mode.is_some() => self.0.set_or_wait(request, wait, unique),
            _ => self
                .0
                .on(request.node, |locks| self.0.apply(locks, &request)),
        }
    }

    /// The guest's process `owner` has closed a descriptor of the file: all that it
    /// holds of it by `fcntl` goes.
    pub(super) fn flush(&self, node: NodeId, owner: u64) {
        self.0.on_known(node, |locks| {
            self.0
                .drop_ranges(locks, owner, 0, host::LAST_BYTE, |_| true);
        });
    }

    /// An open file is no more: its `flock` goes, and what was set through it by
    /// owners that never flush, which the guest's own open file descriptions are.
    pub(super) fn release(&self, node: NodeId, handle: HandleId) {
        self.0
            .waits
            .end_where(Errno::EBADF, |r| (r.node, r.handle) == (node, handle));
        self.0.on_known(node, |locks| {
            if let Some(flock) = locks.flocks.remove(&handle) {
                // The descriptor may be in use for a moment yet.
                if let Ok(fd) = flock.file.fd() {
                    let _ = host::set_whole(fd, None);
                }
            }
            let through = |range: &Range| range.handle == handle;
            let owners: Vec<u64> = locks
                .owners
                .iter()
                .filter(|(_, owner)| owner.ranges.iter().any(through))
                .map(|(id, _)| *id)
                .collect();
            for owner in owners {
                self.0
                    .drop_ranges(locks, owner, 0, host::LAST_BYTE, through);
            }
        });
    }

    /// The guest has forgotten the file.
    pub(super) fn forget(&self, node: NodeId) {
        self.0.waits.end_where(Errno::EBADF, |r| r.node == node);
        self.0.on_known(node, |locks| self.0.empty(locks));
    }

    /// The guest is gone.
    pub(super) fn clear(&self) {
        self.0.waits.end_where(Errno::EINTR, |_| true);
        let nodes: Vec<NodeId> = lock(&self.0.nodes).keys().copied().collect();
        for node in nodes {
            self.0.on_known(node, |locks| self.0.empty(locks));
        }
        self.0.complained.store(false, Ordering::Relaxed);
        *lock(&self.0.away) = false;
    }

    /// Request `unique` is to wait no longer.
    pub(super) fn interrupt(&self, unique: u64) {
        self.0.waits.interrupt(unique);
    }

    /// See [`crate::fs::FileSystem::interrupt_waits`].
    pub(super) fn interrupt_callers(&self, on: bool) {
        self.0.waits.interrupt_callers(on);
    }

    /// See [`crate::fs::FileSystem::suspend`].
    pub(super) fn suspend(&self) {
        self.0.waits.suspend();
    }

    /// Ends [`Locks::suspend`].
    pub(super) fn resume(&self) {
        self.0.waits.resume();
    }
}

impl Drop for Locks {
    fn drop(&mut self) {
        // Threads that wait would do so for ever.
        self.clear();
    }
}

impl Shared {
    /// Works on the locks of `node`.
    fn on<T>(&self, node: NodeId, work: impl FnOnce(&mut NodeLocks) -> T) -> T {
        loop {
            let entry = lock(&self.nodes)
                .entry(node)
                .or_insert_with(|| {
                    self.active.fetch_add(1, Ordering::Relaxed);
                    Arc::new(Node(Mutex::default()))
                })
                .clone();
            let locks = lock(&entry.0);
            // Otherwise it has just been taken out of the table.
            if !locks.dead {
                return self.work_on(node, locks, work);
            }
        }
    }

    /// As [`Shared::on`], if there are any.
    fn on_known<T>(&self, node: NodeId, work: impl FnOnce(&mut NodeLocks) -> T) -> Option<T> {
        let entry = lock(&self.nodes).get(&node).cloned()?;
        let locks = lock(&entry.0);
        (!locks.dead).then(|| self.work_on(node, locks, work))
    }

    fn work_on<T>(
        &self,
        node: NodeId,
        mut locks: MutexGuard<'_, NodeLocks>,
        work: impl FnOnce(&mut NodeLocks) -> T,
    ) -> T {
        let answer = work(&mut locks);
        if locks.owners.is_empty() && locks.flocks.is_empty() {
            locks.dead = true;
            lock(&self.nodes).remove(&node);
            self.active.fetch_sub(1, Ordering::Relaxed);
        }
        answer
    }

    fn empty(&self, locks: &mut NodeLocks) {
        for owner in locks.owners.values() {
            owner.unlock_all();
            self.ranges.fetch_sub(owner.ranges.len(), Ordering::Relaxed);
        }
        for flock in locks.flocks.values() {
            if let Ok(fd) = flock.file.fd() {
                let _ = host::set_whole(fd, None);
            }
        }
        locks.owners.clear();
        locks.flocks.clear();
    }

    /// Does what can be done at once.
    fn apply(&self, locks: &mut NodeLocks, request: &Request) -> FsResult<()> {
        let lock = &request.lock;
        match (lock.kind, lock.mode) {
            (LockKind::Flock, mode) => locks.set_flock(request, mode),
            (LockKind::Posix, Some(mode)) => self.set_range(locks, request, mode),
            (LockKind::Posix, None) => {
                request.file.fd()?;
                self.clear_range(locks, lock.owner, lock.start, lock.end)
            }
        }
    }

    fn set_range(&self, locks: &mut NodeLocks, request: &Request, mode: LockMode) -> FsResult<()> {
        let lock = &request.lock;
        if self.ranges.load(Ordering::Relaxed) >= MAX_RANGES {
            self.complain("the guest holds as many locks as it may", Errno::ENOLCK);
            return Err(Errno::ENOLCK);
        }
        let owner = self.owner(locks, request, mode)?;
        let done = host::set_range(owner.file.as_fd(), lock.start, lock.end, Some(mode));
        if done.is_ok() {
            self.change(owner, |ranges| {
                ranges.set(Range {
                    start: lock.start,
                    end: lock.end,
                    mode,
                    pid: lock.pid,
                    handle: request.handle,
                });
            });
        }
        locks.tidy(lock.owner);
        done
    }

    fn clear_range(&self, locks: &mut NodeLocks, owner: u64, start: u64, end: u64) -> FsResult<()> {
        let Some(held) = locks.owners.get_mut(&owner) else {
            return Ok(());
        };
        host::set_range(held.file.as_fd(), start, end, None)?;
        self.change(held, |ranges| {
            ranges.cut(start, end);
        });
        locks.tidy(owner);
        Ok(())
    }

    /// Unlocks those of an owner's ranges that `which` says, between `start` and `end`.
    fn drop_ranges(
        &self,
        locks: &mut NodeLocks,
        owner: u64,
        start: u64,
        end: u64,
        which: impl Fn(&Range) -> bool,
    ) {
        let Some(held) = locks.owners.get(&owner) else {
            return;
        };
        let inside = |range: &&Range| range.start >= start && range.end <= end && which(range);
        let going: Vec<Range> = held.ranges.iter().filter(inside).copied().collect();
        if going.len() == held.ranges.len() && held.waits == 0 {
            // Closing its descriptor unlocks them all, and cannot fail; but a thread
            // that has waited with it may not have put it away yet.
            held.unlock_all();
            self.ranges.fetch_sub(going.len(), Ordering::Relaxed);
            locks.owners.remove(&owner);
            return;
        }
        for range in going {
            if let Err(e) = self.clear_range(locks, owner, range.start, range.end) {
                log::error!(
                    "failed to unlock bytes {} to {}: {e}",
                    range.start,
                    range.end
                );
            }
        }
    }

    fn change(&self, owner: &mut Owner, change: impl FnOnce(&mut Ranges)) {
        let before = owner.ranges.len();
        change(&mut owner.ranges);
        let after = owner.ranges.len();
        self.ranges.fetch_add(after, Ordering::Relaxed);
        self.ranges.fetch_sub(before, Ordering::Relaxed);
    }

    /// The owner that `request` names, with a descriptor that is good for `mode`.
    fn owner<'a>(
        &self,
        locks: &'a mut NodeLocks,
        request: &Request,
        mode: LockMode,
    ) -> FsResult<&'a mut Owner> {
        let (id, needed) = (request.lock.owner, Access::of(mode));
        if !Access::of_flags(request.file.guest_flags()).covers(needed) {
            return Err(Errno::EBADF);
        }
        let fd = request.file.fd()?;
        let had = locks.owners.get(&id).map(|owner| owner.file.access());
        match had {
            Some(had) if had.covers(needed) => {}
            Some(had) => {
                let (file, slot) = self.open(fd, had.and(needed))?;
                if let Some(owner) = locks.owners.get_mut(&id) {
                    owner.move_to(file, slot)?;
                }
            }
            None => {
                let (file, slot) = self.open(fd, needed)?;
                let owner = Owner {
                    file: Arc::new(file),
                    _slot: slot,
                    ranges: Ranges::default(),
                    waits: 0,
                };
                locks.owners.insert(id, owner);
            }
        }
        locks.owners.get_mut(&id).ok_or(Errno::ENOLCK)
    }

    fn open(&self, fd: std::os::fd::BorrowedFd<'_>, needed: Access) -> FsResult<(LockFile, Slot)> {
        let before = self.files.fetch_add(1, Ordering::Relaxed);
        let slot = Slot(self.files.clone());
        if before >= self.most_files {
            self.complain(
                "owners of locks take as many descriptors as they may, see --rlimit-nofile",
                Errno::ENOLCK,
            );
            return Err(Errno::ENOLCK);
        }
        match LockFile::open(self.proc_self_fd.as_fd(), fd, needed) {
            Ok(file) => Ok((file, slot)),
            Err(e) => {
                self.complain("failed to open a file for a lock", e);
                Err(Errno::ENOLCK)
            }
        }
    }

    /// Says once per guest why it gets `ENOLCK`.
    fn complain(&self, what: &str, errno: Errno) {
        if !self.complained.swap(true, Ordering::Relaxed) {
            log::warn!("{what}: {errno}; the guest gets ENOLCK, this is not said again");
        }
    }
}

impl NodeLocks {
    fn in_the_way(&self, lock: &LockArgs, mode: LockMode) -> Option<LockFound> {
        self.blockers(lock, mode)
            .map(|(_, range)| *range)
            .min_by_key(|range| range.start)
            .map(|range| LockFound {
                start: range.start,
                end: range.end,
                mode: range.mode,
                pid: range.pid,
            })
    }

    /// What other owners of this guest hold against a lock of `fcntl`.
    fn blockers<'a>(
        &'a self,
        lock: &'a LockArgs,
        mode: LockMode,
    ) -> impl Iterator<Item = (u64, &'a Range)> {
        let others = self.owners.iter().filter(|(id, _)| **id != lock.owner);
        others
            .flat_map(|(id, owner)| owner.ranges.iter().map(|range| (*id, range)))
            .filter(move |(_, range)| range.conflicts(lock.start, lock.end, mode))
    }

    fn set_flock(&mut self, request: &Request, mode: Option<LockMode>) -> FsResult<()> {
        let done = host::set_whole(request.file.fd()?, mode);
        match mode {
            Some(mode) if done.is_ok() => {
                let flock = Flock {
                    file: request.file.clone(),
                    mode,
                    owner: request.lock.owner,
                    pid: request.lock.pid,
                };
                self.flocks.insert(request.handle, flock);
            }
            // Changing a lock is unlocking and locking, and the first has been done.
            _ => {
                self.flocks.remove(&request.handle);
            }
        }
        done
    }

    /// Lets go of an owner that neither holds nor waits for anything.
    fn tidy(&mut self, owner: u64) {
        if let Some(held) = self.owners.get(&owner) {
            if held.ranges.is_empty() && held.waits == 0 {
                self.owners.remove(&owner);
            }
        }
    }
}

impl Owner {
    fn unlock_all(&self) {
        let _ = host::set_range(self.file.as_fd(), 0, host::LAST_BYTE, None);
    }

    /// Goes on with a descriptor that is good for more. What it holds is held by both
    /// for a moment, which readers can.
    fn move_to(&mut self, file: LockFile, slot: Slot) -> FsResult<()> {
        if self
            .ranges
            .iter()
            .any(|range| range.mode == LockMode::Write)
        {
            return Err(Errno::ENOLCK);
        }
        for range in self.ranges.iter() {
            host::set_range(file.as_fd(), range.start, range.end, Some(range.mode))?;
        }
        self.file = Arc::new(file);
        self._slot = slot;
        Ok(())
    }
}
