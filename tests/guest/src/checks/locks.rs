//! Locks of `fcntl` and `flock` that are held, and one that is waited for, over the
//! crossings. Another open file of the same process stands for another process: locks
//! that belong to an open file (`F_OFD_SETLK`) are kept out by the process' own.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::thread::JoinHandle;

use ferry_guest::Expectation;

use super::{in_share, Live};
use crate::sys::{need, At, Failure, Result};

const CONTENT: &[u8] = b"locked";

/// Bytes that are held, that are held for reading, and that are waited for.
const HELD: (i64, i64) = (0, 10);
const SHARED: (i64, i64) = (20, 10);
const WAITED: (i64, i64) = (5, 1);

struct Locks {
    path: PathBuf,
    /// Closing any descriptor of it would unlock what the process holds.
    file: File,
    other: File,
    whole: File,
    waiting: JoinHandle<(i32, File)>,
}

/// `fcntl` with a lock on `(start, length)`; its errno.
fn fcntl(file: &File, command: libc::c_int, kind: libc::c_int, (start, len): (i64, i64)) -> i32 {
    let lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: len,
        l_pid: 0,
    };
    // SAFETY: the command takes a `struct flock`, which outlives the call.
    let rc = unsafe { libc::fcntl(file.as_raw_fd(), command, &lock) };
    errno(rc)
}

fn flock(file: &File, operation: libc::c_int) -> i32 {
    // SAFETY: the call takes no pointer.
    errno(unsafe { libc::flock(file.as_raw_fd(), operation | libc::LOCK_NB) })
}

fn errno(rc: libc::c_int) -> i32 {
    match rc {
        0 => 0,
        _ => std::io::Error::last_os_error().raw_os_error().unwrap_or(-1),
    }
}

fn expect(what: &str, got: i32, want: i32) -> Result<()> {
    need(got == want, || {
        format!("{what}: errno {got} instead of {want}")
    })
}

/// Takes them, and lets a thread wait.
pub fn prepare() -> Result<Box<dyn Live>> {
    let path = super::own_dir("locks")?.join("file");
    std::fs::write(&path, CONTENT).at("write")?;
    let open = || {
        let mut options = OpenOptions::new();
        options.read(true).write(true).open(&path).at("open")
    };
    let (file, other, whole) = (open()?, open()?, open()?);
    expect(
        "write lock",
        fcntl(&file, libc::F_SETLK, libc::F_WRLCK, HELD),
        0,
    )?;
    expect(
        "read lock",
        fcntl(&file, libc::F_SETLK, libc::F_RDLCK, SHARED),
        0,
    )?;
    expect("flock", flock(&whole, libc::LOCK_EX), 0)?;
    let waiter = open()?;
    let waiting = std::thread::spawn(move || {
        let got = fcntl(&waiter, libc::F_OFD_SETLKW, libc::F_WRLCK, WAITED);
        (got, waiter)
    });
    Ok(Box::new(Locks {
        path,
        file,
        other,
        whole,
        waiting,
    }))
}

impl Live for Locks {
    fn verify(&mut self) -> Result<()> {
        let try_other = |kind, range| fcntl(&self.other, libc::F_OFD_SETLK, kind, range);
        expect("what is held", try_other(libc::F_RDLCK, HELD), libc::EAGAIN)?;
        expect(
            "what is shared",
            try_other(libc::F_WRLCK, SHARED),
            libc::EAGAIN,
        )?;
        expect("reading it", try_other(libc::F_RDLCK, SHARED), 0)?;
        expect("giving it back", try_other(libc::F_UNLCK, SHARED), 0)?;
        expect("what is free", try_other(libc::F_WRLCK, (100, 0)), 0)?;
        expect("freeing it", try_other(libc::F_UNLCK, (100, 0)), 0)?;
        expect("flock", flock(&self.other, libc::LOCK_SH), libc::EAGAIN)?;
        need(!self.waiting.is_finished(), || {
            "who waited for a lock does not any more".to_owned()
        })
    }

    fn finish(self: Box<Self>) -> Result<Vec<Expectation>> {
        let Locks {
            path,
            file,
            other,
            whole,
            waiting,
        } = *self;
        let unlocked = fcntl(&file, libc::F_SETLK, libc::F_UNLCK, HELD);
        expect("unlocking", unlocked, 0)?;
        let Ok((got, _waiter)) = waiting.join() else {
            return Err(Failure::new("the thread that waited panicked"));
        };
        expect("the lock that was waited for", got, 0)?;
        let taken = fcntl(&other, libc::F_OFD_SETLK, libc::F_RDLCK, WAITED);
        expect("and that is held now", taken, libc::EAGAIN)?;
        drop(whole);
        // Nobody waits for the request that a last close sends.
        let mut tries = 0..500;
        while flock(&other, libc::LOCK_EX) != 0 {
            need(tries.next().is_some(), || {
                "flock is still held behind a close".to_owned()
            })?;
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Ok(vec![Expectation::file(in_share(&path), CONTENT)])
    }
}
