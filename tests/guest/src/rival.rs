//! Locks that are asked for from outside, so that two guests on one share can be set
//! against each other: `fcntl` by open file descriptions, and `flock`.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;

use ferry_guest::{fixture, text, MOUNT};

use crate::sys::{need, At, Failure, Result};

/// What a guest has of each of the files.
#[derive(Default)]
pub struct Rival {
    locked: Option<File>,
    waiting: Option<JoinHandle<(i32, File)>>,
    counting: Option<Counting>,
}

struct Counting {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64>>,
}

fn path(name: &str) -> PathBuf {
    Path::new(MOUNT).join(name)
}

fn open(name: &str) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options.open(path(name)).at(format_args!("open {name}"))
}

fn errno(rc: libc::c_int) -> i32 {
    match rc {
        0 => 0,
        _ => std::io::Error::last_os_error().raw_os_error().unwrap_or(-1),
    }
}

/// `ok`, or the error's name.
fn outcome(errno: i32) -> String {
    match errno {
        0 => "ok".to_owned(),
        e => text::errno_name(e),
    }
}

fn fcntl(file: &File, wait: bool, kind: libc::c_int, start: i64, len: i64) -> i32 {
    let lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: len,
        l_pid: 0,
    };
    let command = if wait {
        libc::F_OFD_SETLKW
    } else {
        libc::F_OFD_SETLK
    };
    // SAFETY: the command takes a `struct flock`, which outlives the call.
    errno(unsafe { libc::fcntl(file.as_raw_fd(), command, &lock) })
}

fn flock(file: &File, operation: libc::c_int) -> i32 {
    // SAFETY: the call takes no pointer.
    errno(unsafe { libc::flock(file.as_raw_fd(), operation) })
}

impl Rival {
    /// Runs `command` and its words.
    pub fn run(&mut self, command: &str) -> Result<String> {
        let words: Vec<&str> = command.split(' ').collect();
        let number = |word: &str| word.parse::<i64>().map_err(|e| e.to_string()).at(word);
        let kind = |word: &str| match word {
            "read" => Ok(libc::F_RDLCK),
            "write" => Ok(libc::F_WRLCK),
            "unlock" => Ok(libc::F_UNLCK),
            _ => Err(Failure::new(format!("no kind of lock {word:?}"))),
        };
        match words[..] {
            ["open"] => {
                self.locked = Some(open(fixture::CONTESTED)?);
                Ok(String::new())
            }
            ["close"] => {
                self.locked = None;
                Ok(String::new())
            }
            ["fcntl", how, start, len] => {
                let (start, len) = (number(start)?, number(len)?);
                Ok(outcome(fcntl(self.file()?, false, kind(how)?, start, len)))
            }
            ["flock", how] => {
                let operation = match kind(how)? {
                    libc::F_RDLCK => libc::LOCK_SH,
                    libc::F_WRLCK => libc::LOCK_EX,
                    _ => libc::LOCK_UN,
                };
                Ok(outcome(flock(self.file()?, operation | libc::LOCK_NB)))
            }
            ["wait", start, len] => {
                let (start, len) = (number(start)?, number(len)?);
                need(self.waiting.is_none(), || "one waits already".into())?;
                let file = open(fixture::CONTESTED)?;
                let wait = move || (fcntl(&file, true, libc::F_WRLCK, start, len), file);
                self.waiting = Some(std::thread::spawn(wait));
                Ok(String::new())
            }
            // Whoever has waited keeps the lock until it is asked.
            ["waited"] => match self.waiting.take() {
                Some(thread) if !thread.is_finished() => {
                    self.waiting = Some(thread);
                    Ok("waiting".to_owned())
                }
                Some(thread) => match thread.join() {
                    Ok((errno, _file)) => Ok(outcome(errno)),
                    Err(_) => Err(Failure::new("the thread that waited panicked")),
                },
                None => Err(Failure::new("none waits")),
            },
            ["count", "fcntl"] => self.count(true),
            ["count", "flock"] => self.count(false),
            ["counted"] => self.counted(),
            _ => Err(Failure::new(format!("no such command: {command:?}"))),
        }
    }

    fn file(&self) -> Result<&File> {
        self.locked
            .as_ref()
            .ok_or_else(|| Failure::new("not opened"))
    }

    fn count(&mut self, by_fcntl: bool) -> Result<String> {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let thread = std::thread::spawn(move || {
            let lock = open(fixture::CONTESTED_COUNT)?;
            let mut count = 0;
            while !seen.load(Ordering::Relaxed) {
                increment(&lock, by_fcntl)?;
                count += 1;
            }
            Ok(count)
        });
        self.counting = Some(Counting { stop, thread });
        Ok(String::new())
    }

    fn counted(&mut self) -> Result<String> {
        let counting = self
            .counting
            .take()
            .ok_or_else(|| Failure::new("nothing is counted"))?;
        counting.stop.store(true, Ordering::Relaxed);
        let count = counting.thread.join();
        let count = count.unwrap_or_else(|_| Err(Failure::new("the counter panicked")))?;
        Ok(count.to_string())
    }
}

/// Adds one to the number in the file, as a program would that has a lock for it.
fn increment(lock: &File, by_fcntl: bool) -> Result<()> {
    let set = |kind, operation| {
        let errno = match by_fcntl {
            true => fcntl(lock, true, kind, 0, 0),
            false => flock(lock, operation),
        };
        need(errno == 0, || format!("a lock: {}", outcome(errno)))
    };
    set(libc::F_WRLCK, libc::LOCK_EX)?;
    let path = path(fixture::CONTESTED_COUNT);
    let number = std::fs::read_to_string(&path).at("read the number")?;
    let number: u64 = number
        .trim()
        .parse()
        .map_err(|e| format!("{number:?}: {e}"))
        .at("the number")?;
    let next = fixture::contested_number(number + 1);
    let mut options = OpenOptions::new();
    let file = options.write(true).open(&path).at("open the number")?;
    std::os::unix::fs::FileExt::write_all_at(&file, next.as_bytes(), 0).at("write the number")?;
    drop(file);
    set(libc::F_UNLCK, libc::LOCK_UN)
}
