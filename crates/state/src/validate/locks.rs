//! What the guest's locks must be like: what one kernel could have granted.

use super::links::{Index, Inodes};
use super::{invalid, Invalid, Problem, Subject, LOCK_END, S_IFREG};
use crate::model::{FsState, Lock, LockKind};

pub(super) fn fail(lock: &Lock, problem: Problem) -> Invalid {
    let subject = Subject::Lock {
        inode: lock.inode,
        owner: lock.owner,
        start: lock.start,
    };
    invalid(subject, problem)
}

/// The locks so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Locks {
    count: u64,
    last: Option<Lock>,
}

impl Locks {
    /// Whether there has been none.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Checks the next lock by itself, and against the one before: of one owner, no
    /// two overlap.
    pub(super) fn next(&mut self, lock: &Lock, limit: u64) -> Result<(), Problem> {
        let &Lock { start, end, .. } = lock;
        if start > end || end > LOCK_END {
            return Err(Problem::LockRange { start, end });
        }
        if lock.kind == LockKind::Flock && (start, end) != (0, LOCK_END) {
            return Err(Problem::LockWhole { start, end });
        }
        if let Some(last) = self.last.replace(lock.clone()) {
            if last.order() > lock.order() {
                return Err(Problem::LockOrder);
            }
            let whose = |l: &Lock| (l.inode, l.kind, l.owner);
            if whose(&last) == whose(lock) && lock.start <= last.end {
                let Lock { start, end, .. } = last;
                return Err(Problem::LockOverlap { start, end });
            }
        }
        self.count += 1;
        match self.count > limit {
            true => Err(Problem::TooMany(limit)),
            false => Ok(()),
        }
    }
}

/// Checks locks against the rest of the state, and against each other's.
pub(super) fn check<I: Inodes + ?Sized>(
    rest: &FsState,
    index: &Index<'_, I>,
) -> Result<(), Invalid> {
    for lock in &rest.locks {
        let inode = lock.inode;
        let Some(position) = index.position(inode) else {
            return Err(fail(lock, Problem::MissingInode(inode)));
        };
        let kind = index.inodes.kind(position);
        if kind != S_IFREG {
            return Err(fail(lock, Problem::LockKind { inode, kind }));
        }
        let Some(handle) = lock.handle else { continue };
        let Ok(at) = rest.handles.binary_search_by_key(&handle, |h| h.id) else {
            return Err(fail(lock, Problem::MissingHandle(handle)));
        };
        let of = rest.handles[at].inode;
        if of != inode {
            return Err(fail(lock, Problem::LockHandle { handle, inode: of }));
        }
    }
    let of_one = |a: &Lock, b: &Lock| (a.inode, a.kind) == (b.inode, b.kind);
    rest.locks.chunk_by(of_one).try_for_each(conflicts)
}

/// How far locks that begin at or before some byte go, and who has them.
#[derive(Default)]
struct Reach {
    /// The one that goes farthest: its end and owner.
    farthest: Option<(u64, u64)>,
    /// The one that goes farthest of those of other owners.
    other: Option<(u64, u64)>,
}

impl Reach {
    fn add(&mut self, end: u64, owner: u64) {
        match self.farthest {
            Some((far, who)) if who == owner => self.farthest = Some((far.max(end), owner)),
            Some((far, _)) if far >= end => {
                if self.other.is_none_or(|(other, _)| other < end) {
                    self.other = Some((end, owner));
                }
            }
            before => {
                self.farthest = Some((end, owner));
                self.other = before;
            }
        }
    }

    /// Who else than `owner` has a lock that goes as far as `byte`.
    fn at(&self, byte: u64, owner: u64) -> Option<u64> {
        [self.farthest, self.other]
            .into_iter()
            .flatten()
            .find(|&(end, who)| who != owner && end >= byte)
            .map(|(_, who)| who)
    }
}

/// Checks that none of the locks of one file and kind excludes another's.
fn conflicts(locks: &[Lock]) -> Result<(), Invalid> {
    let mut by_start: Vec<&Lock> = locks.iter().collect();
    by_start.sort_by_key(|lock| lock.start);
    let (mut all, mut writers) = (Reach::default(), Reach::default());
    for lock in by_start {
        let against = match lock.write {
            true => &all,
            false => &writers,
        };
        if let Some(owner) = against.at(lock.start, lock.owner) {
            return Err(fail(lock, Problem::LockConflict { owner }));
        }
        all.add(lock.end, lock.owner);
        if lock.write {
            writers.add(lock.end, lock.owner);
        }
    }
    Ok(())
}
