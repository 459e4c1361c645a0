//! Locks in a crossing.
//!
//! A lock on the host has one holder, and source and destination can be on the same
//! host, or on the same file server. So the source lets go of all locks before the end
//! of its state can be read anywhere, and the destination takes them before it agrees
//! to the state. Should the guest go on at the source after all, it takes them back.
//! Between the two anybody can be quicker: at the destination that is an error like
//! that of a file that cannot be found; at the source the guest goes on already, and
//! all that is left is to fail whatever it does through the handles in question, since
//! a process that relies on a lock must not go on without.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferryfs_state::{Lock, LockKind as Kind};

use super::super::handle::{HandleKind, Handles, OpenFile};
use super::host::{self, Access};
use super::{lock, Flock, Locks, NodeLocks, Owner, Range, Ranges, Shared};
use crate::errno::{Errno, FsResult};
use crate::fs::LockMode;
use crate::types::{HandleId, NodeId};

/// How long a destination tries, for all locks together: it is the guest's downtime.
/// The source has let go by now, but others may hold a lock for a moment.
const PATIENCE: Duration = Duration::from_secs(1);

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(5);

/// A lock that cannot be had, or not any more.
#[derive(Debug)]
pub(in super::super) struct Refused {
    /// The file.
    pub(in super::super) node: NodeId,
    /// The open file that it was set through, where that is known.
    pub(in super::super) handle: Option<HandleId>,
    /// What lock, and why.
    pub(in super::super) text: String,
}

/// Locks that a destination has taken, beside those that are live.
#[derive(Default)]
pub(in super::super) struct Planned {
    nodes: HashMap<NodeId, NodeLocks>,
}

fn mode_of(record: &Lock) -> LockMode {
    match record.write {
        true => LockMode::Write,
        false => LockMode::Read,
    }
}

fn mode_name(mode: LockMode) -> &'static str {
    match mode {
        LockMode::Read => "read",
        LockMode::Write => "write",
    }
}

/// Why a range cannot be locked, for an operator.
fn why_not(fd: BorrowedFd<'_>, range: (u64, u64), mode: LockMode, errno: Errno) -> String {
    let bytes = match range {
        (0, host::LAST_BYTE) => "the whole file".to_owned(),
        (start, host::LAST_BYTE) => format!("bytes {start} to the end"),
        (start, end) => format!("bytes {start} to {end}"),
    };
    let found = match errno {
        Errno::EAGAIN => host::blocker(fd, range.0, range.1, mode).ok().flatten(),
        _ => None,
    };
    let by = match found.map(|found| found.pid) {
        Some(pid @ 1..) => format!("process {pid} of this host holds a lock there"),
        Some(_) => "an open file of this host, another daemon's maybe, has a lock there".into(),
        None => errno.to_string(),
    };
    format!("{} lock on {bytes}: {by}", mode_name(mode))
}

fn whole_why_not(mode: LockMode, errno: Errno) -> String {
    let by = match errno {
        Errno::EAGAIN => "somebody else has locked the file".to_owned(),
        e => e.to_string(),
    };
    format!("{} lock of flock: {by}", mode_name(mode))
}

impl Locks {
    /// All that is held, in the order of [`Lock::order`].
    pub(in super::super) fn collect(&self) -> Vec<Lock> {
        let mut all = Vec::new();
        for (node, _) in self.0.nodes() {
            self.0.on_known(node, |locks| locks.collect(node, &mut all));
        }
        all.sort_unstable_by_key(Lock::order);
        // Of one owner through two open files: no guest in its right mind, and no
        // reader would take it.
        all.dedup_by(|next, last| last.kind == Kind::Flock && next.order() == last.order());
        all
    }

    /// Lets go of everything on the host, and goes on knowing it.
    pub(in super::super) fn let_go(&self) {
        let mut away = lock(&self.0.away);
        if std::mem::replace(&mut *away, true) {
            return;
        }
        for (node, _) in self.0.nodes() {
            self.0.on_known(node, |locks| {
                for owner in locks.owners.values() {
                    owner.unlock_all();
                }
                for flock in locks.flocks.values() {
                    let _ = flock.file.fd().and_then(|fd| host::set_whole(fd, None));
                }
            });
        }
    }

    /// Takes back what [`Locks::let_go`] gave up. Answers what somebody else has got
    /// meanwhile; the guest does not hold that any more.
    pub(in super::super) fn take_back(&self) -> Vec<Refused> {
        let mut away = lock(&self.0.away);
        let mut refused = Vec::new();
        if !std::mem::replace(&mut *away, false) {
            return refused;
        }
        for (node, _) in self.0.nodes() {
            self.0
                .on_known(node, |locks| self.0.retake(node, locks, &mut refused));
        }
        refused
    }

    /// Takes the locks of a state, through `handles`, or through what `open` gives for
    /// a file of which none is open. Answers what cannot be had.
    pub(in super::super) fn plan(
        &self,
        records: &[Lock],
        handles: &Handles,
        open: impl Fn(NodeId) -> FsResult<OwnedFd>,
    ) -> (Planned, Vec<Refused>) {
        let mut planner = Planner {
            shared: &self.0,
            handles,
            deadline: Instant::now() + PATIENCE,
            planned: Planned::default(),
            refused: Vec::new(),
        };
        // An owner's stand together.
        for group in
            records.chunk_by(|a, b| (a.inode, a.kind, a.owner) == (b.inode, b.kind, b.owner))
        {
            match group[0].kind {
                Kind::Posix => planner.take_ranges(group, &open),
                Kind::Flock => group.iter().for_each(|record| planner.take_whole(record)),
            }
        }
        (planner.planned, planner.refused)
    }

    /// Takes a plan over in place of everything there is.
    pub(in super::super) fn replace_with(&self, planned: Planned) {
        self.clear();
        for (node, new) in planned.nodes {
            let count: usize = new.owners.values().map(|owner| owner.ranges.len()).sum();
            self.0.ranges.fetch_add(count, Ordering::Relaxed);
            self.0.on(node, |locks| *locks = new);
        }
    }
}

impl Shared {
    fn nodes(&self) -> Vec<(NodeId, Arc<super::Node>)> {
        let nodes = lock(&self.nodes);
        nodes.iter().map(|(id, node)| (*id, node.clone())).collect()
    }

    fn retake(&self, node: NodeId, locks: &mut NodeLocks, refused: &mut Vec<Refused>) {
        for owner in locks.owners.values_mut() {
            let mut lost = Vec::new();
            for range in owner.ranges.iter() {
                let fd = owner.file.as_fd();
                if let Err(e) = host::set_range(fd, range.start, range.end, Some(range.mode)) {
                    let text = why_not(fd, (range.start, range.end), range.mode, e);
                    refused.push(Refused {
                        node,
                        handle: Some(range.handle).filter(|handle| handle.0 != 0),
                        text,
                    });
                    lost.push(*range);
                }
            }
            self.change(owner, |ranges| {
                for range in lost {
                    ranges.cut(range.start, range.end);
                }
            });
        }
        locks
            .owners
            .retain(|_, owner| !owner.ranges.is_empty() || owner.waits > 0);
        locks.flocks.retain(|handle, flock| {
            let done = flock
                .file
                .fd()
                .and_then(|fd| host::set_whole(fd, Some(flock.mode)));
            if let Err(e) = done {
                refused.push(Refused {
                    node,
                    handle: Some(*handle),
                    text: whole_why_not(flock.mode, e),
                });
            }
            done.is_ok()
        });
    }
}

impl NodeLocks {
    fn collect(&self, node: NodeId, all: &mut Vec<Lock>) {
        for (id, owner) in &self.owners {
            all.extend(owner.ranges.iter().map(|range| Lock {
                handle: Some(range.handle.0).filter(|handle| *handle != 0),
                inode: node.0,
                owner: *id,
                kind: Kind::Posix,
                write: range.mode == LockMode::Write,
                start: range.start,
                end: range.end,
                pid: range.pid,
            }));
        }
        all.extend(self.flocks.iter().map(|(handle, flock)| Lock {
            handle: Some(handle.0),
            inode: node.0,
            owner: flock.owner,
            kind: Kind::Flock,
            write: flock.mode == LockMode::Write,
            start: 0,
            end: host::LAST_BYTE,
            pid: flock.pid,
        }));
    }
}

struct Planner<'a> {
    shared: &'a Shared,
    handles: &'a Handles,
    deadline: Instant,
    planned: Planned,
    refused: Vec<Refused>,
}

impl Planner<'_> {
    fn handle(&self, record: &Lock) -> Option<Arc<OpenFile>> {
        let id = HandleId(record.handle?);
        self.handles
            .find(id, NodeId(record.inode), HandleKind::File)
            .ok()
    }

    fn refuse(&mut self, record: &Lock, text: String) {
        self.refused.push(Refused {
            node: NodeId(record.inode),
            handle: record.handle.map(HandleId),
            text,
        });
    }

    /// Tries until the time is up.
    fn patiently(&self, mut attempt: impl FnMut() -> FsResult<()>) -> FsResult<()> {
        loop {
            match attempt() {
                Err(Errno::EAGAIN) if Instant::now() < self.deadline => std::thread::sleep(PAUSE),
                done => return done,
            }
        }
    }

    /// What one owner holds of one file.
    fn take_ranges(&mut self, group: &[Lock], open: &impl Fn(NodeId) -> FsResult<OwnedFd>) {
        let node = NodeId(group[0].inode);
        let needed = group.iter().fold(Access::default(), |all, record| {
            all.and(Access::of(mode_of(record)))
        });
        let through = group.iter().find_map(|record| self.handle(record));
        let opened = match &through {
            Some(handle) => handle.fd().and_then(|fd| self.shared.open(fd, needed)),
            None => open(node).and_then(|fd| self.shared.open(fd.as_fd(), needed)),
        };
        let (file, slot) = match opened {
            Ok(opened) => opened,
            Err(e) => {
                for record in group {
                    let what = mode_name(mode_of(record));
                    self.refuse(
                        record,
                        format!("{what} lock: failed to open the file for it: {e}"),
                    );
                }
                return;
            }
        };
        let mut ranges = Ranges::default();
        for record in group {
            let (start, end, mode) = (record.start, record.end, mode_of(record));
            match self.patiently(|| host::set_range(file.as_fd(), start, end, Some(mode))) {
                Ok(()) => ranges.set(Range {
                    start,
                    end,
                    mode,
                    pid: record.pid,
                    handle: HandleId(record.handle.unwrap_or(0)),
                }),
                Err(e) => self.refuse(record, why_not(file.as_fd(), (start, end), mode, e)),
            }
        }
        if ranges.is_empty() {
            return;
        }
        let owner = Owner {
            file: Arc::new(file),
            _slot: slot,
            ranges,
            waits: 0,
        };
        let locks = self.planned.nodes.entry(node).or_default();
        locks.owners.insert(group[0].owner, owner);
    }

    fn take_whole(&mut self, record: &Lock) {
        let mode = mode_of(record);
        let Some((id, file)) = record.handle.zip(self.handle(record)) else {
            self.refuse(record, whole_why_not(mode, Errno::EBADF));
            return;
        };
        let done = match file.fd() {
            Ok(fd) => self.patiently(|| host::set_whole(fd, Some(mode))),
            Err(e) => Err(e),
        };
        match done {
            Ok(()) => {
                let flock = Flock {
                    file,
                    mode,
                    owner: record.owner,
                    pid: record.pid,
                };
                let locks = self.planned.nodes.entry(NodeId(record.inode)).or_default();
                locks.flocks.insert(HandleId(id), flock);
            }
            Err(e) => self.refuse(record, whole_why_not(mode, e)),
        }
    }
}
