//! The same operations as bare system calls: what no daemon can beat.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{
    self as rfs, AtFlags, Mode, OFlags, RawDir, RenameFlags, StatxFlags, Timespec, Timestamps,
    XattrFlags,
};
use rustix::io::Errno;
use rustix::time::{clock_gettime, ClockId};
use serde::Serialize;

use crate::engine::Goal;
use crate::error::BenchError;
use crate::workload::{own, Random, Sizes, Workload, FILES};

/// One bare run.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Bare {
    /// Operations.
    pub ops: u64,
    /// Time per operation in us.
    pub us: f64,
    /// CPU time per operation in us.
    pub cpu_us: f64,
}

/// A loop of bare system calls in a directory of its own.
pub struct BareLoop {
    op: Box<dyn FnMut(u64) -> Result<(), Errno> + Send>,
    done: u64,
    path: PathBuf,
    uid: u32,
}

fn cpu_ns() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// From now on this thread uses files as `uid`.
fn use_files_as(uid: u32) {
    // SAFETY: setfsgid and setfsuid change credentials of the calling thread only and
    // touch no memory. They report no failure; the operations then fail themselves.
    unsafe {
        libc::setfsgid(uid);
        libc::setfsuid(uid);
    }
}

impl BareLoop {
    /// Makes its files in `path` and gets ready.
    ///
    /// # Errors
    /// [`BenchError::Io`].
    pub fn new(
        workload: Workload,
        path: &Path,
        uid: u32,
        sizes: Sizes,
    ) -> Result<Self, BenchError> {
        std::fs::create_dir_all(path).map_err(BenchError::io("make", path))?;
        own(path, uid)?;
        let op = prepare(workload, path, uid, sizes);
        let op = op.map_err(BenchError::io("prepare", path))?;
        Ok(BareLoop {
            op,
            done: 0,
            path: path.to_owned(),
            uid,
        })
    }

    /// Runs in a thread of its own until the goal.
    ///
    /// # Errors
    /// [`BenchError::Io`] for a system call that failed.
    pub fn run(&mut self, goal: Goal) -> Result<Bare, BenchError> {
        let ran = std::thread::scope(|scope| {
            let thread = scope.spawn(|| self.run_here(goal));
            thread.join().unwrap_or(Err(Errno::CANCELED))
        });
        let path = self.path.clone();
        ran.map_err(|e| BenchError::io("run bare system calls in", &path)(e.into()))
    }

    fn run_here(&mut self, goal: Goal) -> Result<Bare, Errno> {
        if !rustix::process::geteuid().as_raw().eq(&self.uid) {
            use_files_as(self.uid);
        }
        let (start, cpu) = (Instant::now(), cpu_ns());
        let mut ops = 0;
        loop {
            let more = match goal {
                Goal::Ops(most) => ops < most,
                Goal::Time(time) => start.elapsed() < time,
            };
            if !more {
                break;
            }
            // The clock is not looked at after each, or it would be measured too.
            let batch = match goal {
                Goal::Ops(most) => (most - ops).min(16),
                Goal::Time(_) => 16,
            };
            for _ in 0..batch {
                (self.op)(self.done)?;
                self.done += 1;
                ops += 1;
            }
        }
        let per_op = |ns: u128| ns as f64 / 1000.0 / ops.max(1) as f64;
        Ok(Bare {
            ops,
            us: per_op(start.elapsed().as_nanos()),
            cpu_us: per_op(u128::from(cpu_ns() - cpu)),
        })
    }
}

type Op = Box<dyn FnMut(u64) -> Result<(), Errno> + Send>;

fn stat(dir: impl AsFd, name: &str) -> Result<(), Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    rfs::statx(dir, name, flags, StatxFlags::BASIC_STATS).map(drop)
}

fn list(dir: &OwnedFd, plus: bool, buffer: &mut [MaybeUninit<u8>]) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rfs::openat(dir, ".", flags, Mode::empty())?;
    let mut entries = RawDir::new(&opened, buffer);
    while let Some(entry) = entries.next() {
        if plus {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            rfs::statx(dir, entry?.file_name(), flags, StatxFlags::BASIC_STATS)?;
        } else {
            entry?;
        }
    }
    Ok(())
}

/// All that is needed made, and the operation as a closure.
fn prepare(workload: Workload, path: &Path, uid: u32, sizes: Sizes) -> std::io::Result<Op> {
    let dir = rfs::open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
    let names: Vec<String> = (0..FILES).map(|i| format!("file-{i:04}")).collect();
    let name = move |n: u64| names[n as usize % FILES].clone();
    let file = |name: &str, len: u64| -> std::io::Result<OwnedFd> {
        let mode = Mode::from_raw_mode(0o644);
        let file = rfs::openat(&dir, name, OFlags::RDWR | OFlags::CREATE, mode)?;
        let chunk = vec![b'b'; 1 << 20];
        let mut at = 0;
        while at < len {
            let n = (len - at).min(chunk.len() as u64) as usize;
            at += rustix::io::pwrite(&file, &chunk[..n], at)? as u64;
        }
        if uid != rustix::process::geteuid().as_raw() {
            let uid = rfs::Uid::from_raw(uid);
            rfs::fchown(&file, Some(uid), Some(rfs::Gid::from_raw(uid.as_raw())))?;
        }
        Ok(file)
    };
    let block = move |random: &mut Option<Random>, n: u64, size: u64| {
        let count = (sizes.file / size).max(1);
        size * random.as_mut().map_or(n % count, |r| r.below(count))
    };
    let make = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o644);
    let files = |n: usize| -> std::io::Result<Vec<OwnedFd>> {
        (0..n).map(|i| file(&format!("file-{i:04}"), 8)).collect()
    };
    Ok(match workload {
        Workload::Getattr => {
            let files = files(FILES)?;
            Box::new(move |n| stat(&files[n as usize % FILES], ""))
        }
        Workload::Lookup | Workload::LookupNew => {
            files(FILES)?;
            Box::new(move |n| stat(&dir, &name(n)))
        }
        Workload::LookupMiss => Box::new(move |_| match stat(&dir, "absent-0000") {
            Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(e),
            Ok(()) => Err(Errno::EXIST),
        }),
        Workload::LookupWalk => {
            let mut dirs = vec![dir];
            for level in 0..8 {
                let name = format!("component-{level}");
                let parent = &dirs[level];
                rfs::mkdirat(parent, &name, Mode::from_raw_mode(0o755))?;
                let flags = OFlags::PATH | OFlags::DIRECTORY;
                dirs.push(rfs::openat(parent, &name, flags, Mode::empty())?);
            }
            let names: Vec<String> = (0..8).map(|i| format!("component-{i}")).collect();
            Box::new(move |_| {
                let mut walk = dirs.iter().zip(&names);
                walk.try_for_each(|(dir, name)| stat(dir, name))
            })
        }
        Workload::Open => {
            files(FILES)?;
            let flags = OFlags::RDWR | OFlags::CLOEXEC;
            Box::new(move |n| rfs::openat(&dir, name(n), flags, Mode::empty()).map(drop))
        }
        Workload::Read4k | Workload::Read128k | Workload::Read1m => {
            let data = file("data", sizes.file)?;
            let mut buffer = vec![0; workload.data(&sizes)];
            let mut random = (workload == Workload::Read4k).then(|| Random::new(7));
            Box::new(move |n| {
                let at = block(&mut random, n, buffer.len() as u64);
                rustix::io::pread(&data, &mut buffer[..], at).map(drop)
            })
        }
        Workload::Write4k | Workload::Write128k | Workload::Write1m | Workload::Fsync => {
            let data = file("data", sizes.file)?;
            let buffer = vec![b'w'; workload.data(&sizes)];
            let sync = workload == Workload::Fsync;
            let sequential = matches!(workload, Workload::Write128k | Workload::Write1m);
            let mut random = (!sequential).then(|| Random::new(7));
            Box::new(move |n| {
                let at = block(&mut random, n, buffer.len() as u64);
                rustix::io::pwrite(&data, &buffer, at)?;
                if sync {
                    rfs::fsync(&data)?;
                }
                Ok(())
            })
        }
        Workload::Readdir | Workload::Readdirplus => {
            for i in 0..sizes.entries {
                file(&format!("entry-{i:06}"), 0)?;
            }
            let plus = workload == Workload::Readdirplus;
            let mut buffer = vec![MaybeUninit::uninit(); sizes.dir_buffer as usize];
            Box::new(move |_| list(&dir, plus, &mut buffer))
        }
        Workload::Create => Box::new(move |n| {
            let name = format!("made-{n}");
            drop(rfs::openat(&dir, &name, make, mode)?);
            rfs::unlinkat(&dir, &name, AtFlags::empty())
        }),
        Workload::Mkdir => Box::new(move |n| {
            let name = format!("made-{n}");
            rfs::mkdirat(&dir, &name, Mode::from_raw_mode(0o755))?;
            rfs::unlinkat(&dir, &name, AtFlags::REMOVEDIR)
        }),
        Workload::Rename => {
            file("here", 8)?;
            Box::new(move |n| {
                let (from, to) = match n % 2 {
                    0 => ("here", "there"),
                    _ => ("there", "here"),
                };
                rfs::renameat_with(&dir, from, &dir, to, RenameFlags::empty())
            })
        }
        Workload::Chmod => {
            let files = files(FILES)?;
            Box::new(move |n| {
                let mode = Mode::from_raw_mode(0o600 + (n % 64) as u32);
                rfs::fchmod(&files[n as usize % FILES], mode)
            })
        }
        Workload::Utimes => {
            let files = files(FILES)?;
            Box::new(move |n| {
                let time = Timespec {
                    tv_sec: 1_000_000_000 + n as i64,
                    tv_nsec: 5,
                };
                let times = Timestamps {
                    last_access: time,
                    last_modification: time,
                };
                rfs::futimens(&files[n as usize % FILES], &times)
            })
        }
        Workload::SmallFiles => Box::new(move |n| {
            let name = format!("small-{n}");
            let mut data = [b's'; 4096];
            if stat(&dir, &name) != Err(Errno::NOENT) {
                return Err(Errno::EXIST);
            }
            let file = rfs::openat(&dir, &name, make, mode)?;
            rustix::io::pwrite(&file, &data, 0)?;
            drop(file);
            stat(&dir, &name)?;
            let file = rfs::openat(&dir, &name, OFlags::RDONLY, mode)?;
            rustix::io::pread(&file, &mut data[..], 0)?;
            drop(file);
            rfs::unlinkat(&dir, &name, AtFlags::empty())
        }),
        Workload::Xattr => {
            let file = file("file", 8)?;
            let mut buffer = vec![0; 4096];
            let name = "user.ferrybench";
            Box::new(move |_| {
                rfs::fsetxattr(&file, name, &[b'v'; 32], XattrFlags::empty())?;
                rfs::fgetxattr(&file, name, &mut buffer[..])?;
                rfs::flistxattr(&file, &mut buffer[..])?;
                rfs::fremovexattr(&file, name)
            })
        }
    })
}
