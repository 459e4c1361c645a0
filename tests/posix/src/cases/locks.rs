//! Locks between openings of one process and between processes, as far as one
//! kernel keeps them.

use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{self, FlockOperation};
use rustix::io::Result;

use super::Plain;
use crate::sys::*;
use crate::world::World;
use crate::{step, take};

pub const ALL: &[Plain] = &[
    ("locks-flock", flock),
    ("locks-open-file", open_file),
    ("locks-posix", posix),
    ("locks-leases", leases),
];

fn flock(w: &mut World) {
    let Ok(a) = take!(w, file(&w.dir, "f", 0o644, b"x")) else {
        return;
    };
    let Ok(b) = take!(w, open(&w.dir, "f", libc::O_RDONLY, 0)) else {
        return;
    };
    step!(w, fs::flock(&a, FlockOperation::NonBlockingLockShared));
    step!(w, fs::flock(&b, FlockOperation::NonBlockingLockShared));
    step!(w, fs::flock(&a, FlockOperation::NonBlockingLockExclusive));
    step!(w, fs::flock(&b, FlockOperation::Unlock));
    step!(w, fs::flock(&a, FlockOperation::NonBlockingLockExclusive));
    step!(w, fs::flock(&b, FlockOperation::NonBlockingLockShared));
    let Ok(copy) = take!(w, rustix::io::dup(&a)) else {
        return;
    };
    drop(a);
    step!(w, fs::flock(&b, FlockOperation::NonBlockingLockShared));
    drop(copy);
    step!(w, fs::flock(&b, FlockOperation::NonBlockingLockShared));
    // Directories can be locked too.
    step!(
        w,
        fs::flock(&w.dir, FlockOperation::NonBlockingLockExclusive)
    );
    let again = open_dir(&w.dir, ".");
    step!(
        w,
        again.and_then(|dir| fs::flock(dir, FlockOperation::NonBlockingLockShared))
    );
}

fn lock(fd: impl AsFd, command: i32, kind: i32, start: i64, len: i64) -> Result<String> {
    // SAFETY: numbers only, for which 0 is a value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as i16;
    lock.l_whence = libc::SEEK_SET as i16;
    lock.l_start = start;
    lock.l_len = len;
    // SAFETY: these commands read and write one `flock`.
    check(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), command, &mut lock) })?;
    Ok(format!(
        "type {} {}+{}",
        lock.l_type, lock.l_start, lock.l_len
    ))
}

fn open_file(w: &mut World) {
    let Ok(a) = take!(w, file(&w.dir, "f", 0o644, b"0123456789")) else {
        return;
    };
    let Ok(b) = take!(w, open(&w.dir, "f", libc::O_RDWR, 0)) else {
        return;
    };
    let (set, get) = (libc::F_OFD_SETLK, libc::F_OFD_GETLK);
    let (read, write, none) = (libc::F_RDLCK, libc::F_WRLCK, libc::F_UNLCK);
    step!(w, lock(&a, set, write, 10, 20));
    step!(w, lock(&b, get, read, 0, 100));
    step!(w, lock(&b, set, read, 0, 100));
    step!(w, lock(&b, set, read, 0, 10));
    step!(w, lock(&b, set, write, 30, 0));
    step!(w, lock(&a, get, write, 0, 0));
    step!(w, lock(&a, set, none, 15, 5));
    step!(w, lock(&b, set, write, 15, 5));
    step!(w, lock(&b, set, write, 14, 1));
    step!(w, lock(&a, set, read, 10, 5));
    step!(w, lock(&b, set, read, 12, 1));
    let ended = a;
    drop(ended);
    step!(w, lock(&b, set, write, 0, 0));
    let read_only = open(&w.dir, "f", libc::O_RDONLY, 0);
    step!(w, read_only.and_then(|fd| lock(fd, set, write, 0, 1)));
    step!(w, lock(&b, set, write, -5, 1));
}

fn posix(w: &mut World) {
    let Ok(a) = take!(w, file(&w.dir, "f", 0o644, b"0123456789")) else {
        return;
    };
    let (set, get) = (libc::F_SETLK, libc::F_GETLK);
    let (read, write, none) = (libc::F_RDLCK, libc::F_WRLCK, libc::F_UNLCK);
    step!(w, lock(&a, set, write, 0, 5));
    step!(w, lock(&a, get, write, 0, 5));
    // The process' own locks are no obstacle to it, those of an opening are.
    let Ok(b) = take!(w, open(&w.dir, "f", libc::O_RDWR, 0)) else {
        return;
    };
    step!(w, lock(&b, set, read, 0, 10));
    step!(w, lock(&b, libc::F_OFD_SETLK, write, 0, 1));
    step!(w, lock(&b, set, none, 2, 1));
    step!(w, lock(&b, libc::F_OFD_SETLK, write, 2, 1));
    // Any descriptor that is closed takes all of them along.
    let Ok(c) = take!(w, open(&w.dir, "f", libc::O_RDONLY, 0)) else {
        return;
    };
    drop(c);
    step!(w, lock(&b, libc::F_OFD_SETLK, write, 0, 0));
}

fn leases(w: &mut World) {
    let Ok(a) = take!(w, file(&w.dir, "f", 0o644, b"x")) else {
        return;
    };
    let lease = |fd: &std::os::fd::OwnedFd, kind: i32| {
        // SAFETY: the commands take a number.
        check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, kind) })
    };
    step!(w, lease(&a, libc::F_WRLCK));
    // SAFETY: the command takes nothing.
    let got = check(unsafe { libc::fcntl(a.as_raw_fd(), libc::F_GETLEASE) });
    w.say("the lease", &got);
    step!(w, lease(&a, libc::F_UNLCK));
}
