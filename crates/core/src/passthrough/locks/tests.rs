//! Locks of one guest, and of those who lock beside it.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{channel, Receiver, Sender};
use std::time::Duration;

use super::super::config::Config;
use super::super::tests::support::*;
use super::host;
use crate::abi;
use crate::errno::{Errno, FsResult};
use crate::fs::{
    Context, FileSystem, LockAnswer, LockArgs, LockFound, LockKind, LockMode, LockWait,
};
use crate::types::{HandleId, NodeId};

const LAST: u64 = host::LAST_BYTE;
const R: Option<LockMode> = Some(LockMode::Read);
const W: Option<LockMode> = Some(LockMode::Write);

fn locking(config: &mut Config) {
    config.posix_lock = true;
    config.flock = true;
}

fn share() -> Share {
    let share = Share::new(locking);
    share.write_file("f", b"0123456789");
    share
}

fn posix(owner: u64, (start, end): (u64, u64), mode: Option<LockMode>) -> LockArgs {
    LockArgs {
        kind: LockKind::Posix,
        owner,
        start,
        end,
        mode,
        pid: owner as u32 + 100,
    }
}

fn whole(owner: u64, mode: Option<LockMode>) -> LockArgs {
    LockArgs {
        kind: LockKind::Flock,
        ..posix(owner, (0, LAST), mode)
    }
}

impl Share {
    fn file(&self, flags: i32) -> (NodeId, HandleId) {
        let node = self.lookup(ROOT, "f").unwrap().node;
        (node, self.open(node, flags).unwrap())
    }

    fn lock(&self, at: (NodeId, HandleId), lock: LockArgs) -> FsResult<()> {
        self.fs.setlk(&root(), at.0, at.1, &lock, None)
    }

    fn find(&self, at: (NodeId, HandleId), lock: LockArgs) -> Option<LockFound> {
        self.fs.getlk(&root(), at.0, at.1, &lock).unwrap()
    }

    /// Waits for a lock; the answer comes through the channel if not at once.
    fn wait(
        &self,
        unique: u64,
        at: (NodeId, HandleId),
        lock: LockArgs,
    ) -> FsResult<Option<Receiver<FsResult<()>>>> {
        let (told, heard) = channel();
        let mut standing = Standing {
            told: Some(told),
            gone: false,
        };
        let ctx = Context { unique, ..root() };
        let done = self.fs.setlk(&ctx, at.0, at.1, &lock, Some(&mut standing));
        match standing.told {
            None => Ok(Some(heard)),
            Some(_) => done.map(|()| None),
        }
    }

    fn waits(&self, unique: u64, at: (NodeId, HandleId), lock: LockArgs) -> Receiver<FsResult<()>> {
        self.wait(unique, at, lock).unwrap().expect("waits")
    }

    /// A descriptor of somebody else on the host.
    fn other(&self) -> File {
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).open(self.path("f")).unwrap()
    }
}

struct Standing {
    told: Option<Sender<FsResult<()>>>,
    gone: bool,
}

struct Answer(Sender<FsResult<()>>, bool);

impl LockWait for Standing {
    fn defer(&mut self) -> FsResult<Option<Box<dyn LockAnswer>>> {
        let told = self.told.take().expect("once");
        Ok(Some(Box::new(Answer(told, self.gone))))
    }
}

impl LockAnswer for Answer {
    fn send(self: Box<Self>, result: FsResult<()>) -> bool {
        let _ = self.0.send(result);
        !self.1
    }
}

/// A request that cannot stand over.
struct InThread;

impl LockWait for InThread {
    fn defer(&mut self) -> FsResult<Option<Box<dyn LockAnswer>>> {
        Ok(None)
    }
}

#[track_caller]
fn answer(heard: &Receiver<FsResult<()>>) -> FsResult<()> {
    heard
        .recv_timeout(Duration::from_secs(20))
        .expect("an answer")
}

#[track_caller]
fn assert_waits(heard: &Receiver<FsResult<()>>) {
    let none = heard.recv_timeout(Duration::from_millis(50));
    assert!(none.is_err(), "{none:?}");
}

/// Locks as any process of the host does.
fn host_lock(file: &File, range: (u64, u64), mode: Option<LockMode>) -> FsResult<()> {
    host::set_range(file.as_fd(), range.0, range.1, mode)
}

#[test]
fn owners_keep_each_other_out_and_not_themselves() {
    let share = share();
    let a = share.file(libc::O_RDWR);
    let b = share.file(libc::O_RDWR);
    share.lock(a, posix(1, (0, 9), W)).unwrap();
    // The same owner through another open file.
    share.lock(b, posix(1, (5, 14), R)).unwrap();
    assert_eq!(share.lock(a, posix(2, (0, 0), R)), Err(Errno::EAGAIN));
    assert_eq!(share.lock(a, posix(2, (14, 14), W)), Err(Errno::EAGAIN));
    share.lock(a, posix(2, (5, 20), R)).unwrap();
    assert_eq!(share.lock(a, posix(1, (20, 20), W)), Err(Errno::EAGAIN));
    assert_eq!(
        share.find(b, posix(2, (0, LAST), W)),
        Some(LockFound {
            start: 0,
            end: 4,
            mode: LockMode::Write,
            pid: 101
        })
    );
    assert_eq!(share.find(b, posix(1, (0, 4), W)), None);
    // Unlocking in the middle.
    share.lock(b, posix(1, (2, 2), None)).unwrap();
    share.lock(a, posix(3, (2, 2), W)).unwrap();
    assert_eq!(share.lock(a, posix(3, (1, 1), R)), Err(Errno::EAGAIN));
}

#[test]
fn the_host_sees_them_and_is_seen() {
    let share = share();
    let at = share.file(libc::O_RDWR);
    let other = share.other();
    share.lock(at, posix(1, (0, 9), W)).unwrap();
    assert_eq!(host_lock(&other, (9, 9), R), Err(Errno::EAGAIN));
    host_lock(&other, (10, 19), W).unwrap();
    assert_eq!(share.lock(at, posix(1, (0, 10), W)), Err(Errno::EAGAIN));
    let found = share.find(at, posix(1, (0, LAST), R)).unwrap();
    assert_eq!((found.start, found.end, found.pid), (10, 19, 0));
    assert_eq!(found, share.find(at, posix(7, (10, LAST), R)).unwrap());
    share.lock(at, whole(5, W)).unwrap();
    assert_eq!(host::set_whole(other.as_fd(), R), Err(Errno::EAGAIN));
    share.lock(at, whole(5, R)).unwrap();
    host::set_whole(other.as_fd(), R).unwrap();
    assert_eq!(share.lock(at, whole(5, W)), Err(Errno::EAGAIN));
    // Which has cost the one that there was, as flock(2) says.
    host::set_whole(other.as_fd(), W).unwrap();
}

#[test]
fn closing_unlocks() {
    let share = share();
    let other = share.other();
    let a = share.file(libc::O_RDWR);
    let b = share.file(libc::O_RDWR);
    let nothing = descriptors_in(&share);
    // By any descriptor of the file, of that owner.
    share.lock(a, posix(1, (0, 9), W)).unwrap();
    share.lock(a, posix(2, (10, 19), W)).unwrap();
    share.fs.flush(&root(), b.0, b.1, 1).unwrap();
    host_lock(&other, (0, 9), W).unwrap();
    assert_eq!(host_lock(&other, (10, 10), W), Err(Errno::EAGAIN));
    // An owner that is an open file in the guest: by its end.
    share.lock(b, posix(3, (20, 29), W)).unwrap();
    share.fs.release(&root(), a.0, a.1).unwrap();
    host_lock(&other, (10, 19), W).unwrap();
    assert_eq!(host_lock(&other, (20, 20), W), Err(Errno::EAGAIN));
    share.lock(b, whole(9, W)).unwrap();
    share.fs.release(&root(), b.0, b.1).unwrap();
    host_lock(&other, (0, LAST), W).unwrap();
    host::set_whole(other.as_fd(), W).unwrap();
    assert!(!share.fs.locks.any());
    assert_eq!(descriptors_in(&share), nothing - 2);

    host_lock(&other, (0, LAST), None).unwrap();
    let at = share.file(libc::O_RDWR);
    share.lock(at, posix(1, (0, 9), W)).unwrap();
    share.fs.destroy();
    host_lock(&other, (0, LAST), W).unwrap();
    assert!(!share.fs.locks.any());
}

#[test]
fn forgetting_a_file_unlocks_it() {
    let share = share();
    let (node, handle) = share.file(libc::O_RDWR);
    share.lock((node, handle), posix(1, (0, 9), W)).unwrap();
    share.fs.forget(node, 100);
    host_lock(&share.other(), (0, LAST), W).unwrap();
}

#[test]
fn a_handle_locks_as_it_is_open() {
    let share = share();
    let other = share.other();
    let read = share.file(libc::O_RDONLY);
    let write = share.file(libc::O_WRONLY);
    assert_eq!(share.lock(read, posix(1, (0, 0), W)), Err(Errno::EBADF));
    assert_eq!(share.lock(write, posix(1, (0, 0), R)), Err(Errno::EBADF));
    // First for reading, then for writing: the first is not lost for a moment.
    share.lock(read, posix(1, (0, 9), R)).unwrap();
    share.lock(write, posix(1, (5, 14), W)).unwrap();
    assert_eq!(host_lock(&other, (0, 0), W), Err(Errno::EAGAIN));
    host_lock(&other, (0, 4), R).unwrap();
    assert_eq!(host_lock(&other, (5, 5), R), Err(Errno::EAGAIN));
    // flock does not care.
    share.lock(read, whole(2, W)).unwrap();
    assert_eq!(host::set_whole(other.as_fd(), R), Err(Errno::EAGAIN));
    let handle = HandleId(9999);
    assert_eq!(
        share.lock((read.0, handle), posix(1, (0, 0), R)),
        Err(Errno::EBADF)
    );
}

#[test]
fn a_wait_ends_when_the_other_unlocks() {
    let share = share();
    let at = share.file(libc::O_RDWR);
    share.lock(at, posix(1, (0, 9), W)).unwrap();
    let heard = share.waits(50, at, posix(2, (5, 5), W));
    assert_waits(&heard);
    share.lock(at, posix(1, (5, 5), None)).unwrap();
    assert_eq!(answer(&heard), Ok(()));
    assert_eq!(share.lock(at, posix(1, (5, 5), R)), Err(Errno::EAGAIN));
    // Somebody on the host.
    let other = share.other();
    host_lock(&other, (20, 29), W).unwrap();
    let heard = share.waits(52, at, posix(1, (25, 35), R));
    assert_waits(&heard);
    host_lock(&other, (20, 29), None).unwrap();
    assert_eq!(answer(&heard), Ok(()));
    assert_eq!(host_lock(&other, (35, 35), W), Err(Errno::EAGAIN));
    // And what can be had at once is not waited for.
    assert!(share.wait(54, at, posix(1, (40, 41), W)).unwrap().is_none());

    let b = share.file(libc::O_RDWR);
    share.lock(at, whole(1, R)).unwrap();
    let heard = share.waits(56, b, whole(2, W));
    assert_waits(&heard);
    share.lock(at, whole(1, None)).unwrap();
    assert_eq!(answer(&heard), Ok(()));
    assert_eq!(host::set_whole(other.as_fd(), R), Err(Errno::EAGAIN));
}

#[test]
fn an_owner_unlocks_while_it_waits() {
    // Two threads of one process.
    let share = share();
    let at = share.file(libc::O_RDWR);
    let other = share.other();
    host_lock(&other, (5, 5), W).unwrap();
    share.lock(at, posix(1, (0, 0), W)).unwrap();
    let heard = share.waits(50, at, posix(1, (0, 9), W));
    share.fs.flush(&root(), at.0, at.1, 1).unwrap();
    assert_waits(&heard);
    host_lock(&other, (0, 0), W).unwrap();
    host_lock(&other, (0, 9), None).unwrap();
    assert_eq!(answer(&heard), Ok(()));
    assert_eq!(host_lock(&other, (0, 0), R), Err(Errno::EAGAIN));
    share.fs.flush(&root(), at.0, at.1, 1).unwrap();
    host_lock(&other, (0, LAST), W).unwrap();
    // The thread ends in its own time.
    while share.fs.locks.any() {
        std::thread::yield_now();
    }
}

#[test]
fn a_wait_can_be_interrupted_whenever() {
    let share = share();
    let at = share.file(libc::O_RDWR);
    let other = share.other();
    host_lock(&other, (0, LAST), W).unwrap();
    host::set_whole(other.as_fd(), W).unwrap();
    for (unique, lock) in [(50, posix(1, (0, 9), W)), (52, whole(1, R))] {
        let heard = share.waits(unique, at, lock);
        share.fs.interrupt(unique + 1000);
        assert_waits(&heard);
        share.fs.interrupt(unique);
        assert_eq!(answer(&heard), Err(Errno::EINTR));
    }
    // The other queue was quicker.
    share.fs.interrupt(54);
    let early = share.wait(54, at, posix(1, (0, 9), W));
    assert_eq!(early.map(drop), Err(Errno::EINTR));
    // Whatever the guest had is as it was.
    host_lock(&other, (0, LAST), None).unwrap();
    share.lock(at, posix(1, (0, 9), W)).unwrap();
}

#[test]
fn a_wait_in_its_caller_s_thread_is_interrupted_by_a_stop() {
    let share = share();
    let at = share.file(libc::O_RDWR);
    let other = share.other();
    host_lock(&other, (0, LAST), W).unwrap();
    let wait = || {
        let lock = posix(1, (0, 9), W);
        share
            .fs
            .setlk(&root(), at.0, at.1, &lock, Some(&mut InThread))
    };
    std::thread::scope(|scope| {
        let waiting = scope.spawn(wait);
        while !share.fs.locks.any() {
            std::thread::yield_now();
        }
        share.fs.interrupt_waits();
        assert_eq!(waiting.join().unwrap(), Err(Errno::EINTR));
        assert_eq!(wait(), Err(Errno::EINTR));
        share.fs.allow_waits();
        let waiting = scope.spawn(wait);
        host_lock(&other, (0, LAST), None).unwrap();
        assert_eq!(waiting.join().unwrap(), Ok(()));
    });
}

#[test]
fn nothing_is_granted_while_suspended() {
    let share = share();
    let at = share.file(libc::O_RDWR);
    let other = share.other();
    host_lock(&other, (0, 29), W).unwrap();
    let before = share.waits(50, at, posix(1, (0, 9), W));
    share.fs.suspend();
    // One that comes late, as by another queue.
    let late = share.waits(52, at, posix(2, (20, 20), R));
    host_lock(&other, (0, 29), None).unwrap();
    assert_waits(&before);
    assert_waits(&late);
    host_lock(&other, (0, 29), W).unwrap();
    share.fs.proceed();
    assert_waits(&before);
    host_lock(&other, (0, 29), None).unwrap();
    assert_eq!((answer(&before), answer(&late)), (Ok(()), Ok(())));
}

#[test]
fn a_deadlock_within_the_guest_is_told() {
    let share = share();
    share.write_file("g", b"");
    let f = share.file(libc::O_RDWR);
    let g = share.lookup(ROOT, "g").unwrap().node;
    let g = (g, share.open(g, libc::O_RDWR).unwrap());
    share.lock(f, posix(1, (0, 0), W)).unwrap();
    share.lock(g, posix(2, (0, 0), W)).unwrap();
    share.lock(g, posix(3, (1, 1), W)).unwrap();
    let one = share.waits(50, f, posix(2, (0, 0), R));
    let two = share.waits(52, g, posix(3, (0, 0), R));
    let three = share.wait(54, g, posix(1, (1, 1), W));
    assert_eq!(three.map(drop), Err(Errno::EDEADLK));
    share.lock(f, posix(1, (0, 0), None)).unwrap();
    assert_eq!(answer(&one), Ok(()));
    share.lock(g, posix(2, (0, 0), None)).unwrap();
    assert_eq!(answer(&two), Ok(()));
}

#[test]
fn a_wait_that_nobody_hears_of_leaves_nothing_locked() {
    let share = share();
    let at = share.file(libc::O_RDWR);
    let other = share.other();
    host_lock(&other, (0, 9), W).unwrap();
    let (told, heard) = channel();
    let mut standing = Standing {
        told: Some(told),
        gone: true,
    };
    let lock = posix(1, (0, 9), W);
    let done = share
        .fs
        .setlk(&root(), at.0, at.1, &lock, Some(&mut standing));
    assert_eq!(done, Ok(()));
    host_lock(&other, (0, 9), None).unwrap();
    assert_eq!(answer(&heard), Ok(()));
    while share.fs.locks.any() {
        std::thread::yield_now();
    }
    host_lock(&other, (0, 9), W).unwrap();
}

#[test]
fn what_a_guest_may_have_has_an_end() {
    let share = share();
    let at = share.file(libc::O_RDWR);
    let other = share.other();
    host_lock(&other, (0, 0), W).unwrap();
    let waiting: Vec<_> = (0..super::wait::MAX_WAITS as u64)
        .map(|i| share.waits(2 * i, at, posix(1, (0, 0), R)))
        .collect();
    let more = share.wait(1, at, posix(1, (0, 0), R));
    assert_eq!(more.map(drop), Err(Errno::ENOLCK));
    // What does not wait goes on.
    share.lock(at, posix(1, (5, 5), W)).unwrap();
    share.fs.destroy();
    assert!(waiting.iter().all(|w| answer(w) == Err(Errno::EINTR)));

    let at = share.file(libc::O_RDWR);
    host_lock(&other, (0, 0), None).unwrap();
    // As if it held most of them elsewhere.
    share
        .fs
        .locks
        .0
        .ranges
        .fetch_add(super::MAX_RANGES - 2, Ordering::Relaxed);
    share.lock(at, posix(1, (0, 0), W)).unwrap();
    share.lock(at, posix(1, (2, 2), W)).unwrap();
    let beyond = posix(1, (LAST, LAST), W);
    assert_eq!(share.lock(at, beyond), Err(Errno::ENOLCK));
    share.lock(at, posix(1, (0, LAST), None)).unwrap();
    share.lock(at, beyond).unwrap();
}

#[test]
fn descriptors_for_owners_have_an_end() {
    let share = share();
    let at = share.file(libc::O_RDWR);
    let most = share.fs.locks.0.most_files;
    share.fs.locks.0.files.store(most - 1, Ordering::Relaxed);
    share.lock(at, posix(1, (0, 0), W)).unwrap();
    share.lock(at, posix(1, (1, 1), W)).unwrap();
    assert_eq!(share.lock(at, posix(2, (2, 2), W)), Err(Errno::ENOLCK));
    share.lock(at, posix(1, (0, 9), None)).unwrap();
    share.lock(at, posix(2, (2, 2), W)).unwrap();
}

#[test]
fn sessions_go_where_locks_are_served() {
    let none = Share::new(|_| {});
    let all = share();
    let flags = all.fs.session_flags();
    let both = abi::FUSE_POSIX_LOCKS | abi::FUSE_FLOCK_LOCKS;
    assert_eq!(flags & both, both);
    assert_eq!(none.fs.session_flags() & both, 0);
    assert!(all.fs.check_session(flags).is_ok());
    assert!(all.fs.check_session(flags & !both).is_ok());
    for (flag, option) in [
        (abi::FUSE_POSIX_LOCKS, "--posix-lock"),
        (abi::FUSE_FLOCK_LOCKS, "--flock"),
    ] {
        let error = none.fs.check_session(flag).unwrap_err();
        assert!(error.contains(option), "{error}");
    }
}
