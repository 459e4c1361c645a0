//! Failures in words, and the few calls that the standard library lacks.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use ferry_guest::text;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Gid, Uid};
use rustix::termios::{tcgetattr, tcsetattr, OptionalActions};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};

/// Something is not as it must be.
#[derive(Debug)]
pub struct Failure(String);

/// Outcome of anything here.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure in these words.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Says what was tried when it failed.
pub trait At<T> {
    /// Puts `what` before the error's name.
    fn at(self, what: impl fmt::Display) -> Result<T>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|e| Failure(format!("{what}: {}", text::error(&e))))
    }
}

impl<T> At<T> for rustix::io::Result<T> {
    fn at(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(io::Error::from).at(what)
    }
}

impl<T> At<T> for std::result::Result<T, String> {
    fn at(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|e| Failure(format!("{what}: {e}")))
    }
}

/// Fails with `text` unless `holds`.
pub fn need(holds: bool, text: impl FnOnce() -> String) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(Failure(text()))
    }
}

/// Mounts `kind`.
pub fn mount(source: &str, target: &str, kind: &str) -> Result<()> {
    std::fs::create_dir_all(target).at(format_args!("mkdir {target}"))?;
    rustix::mount::mount(source, target, kind, MountFlags::empty(), None)
        .at(format_args!("mount {kind} {source} on {target}"))
}

/// Unmounts `target`.
pub fn unmount(target: &str) -> Result<()> {
    rustix::mount::unmount(target, UnmountFlags::empty()).at(format_args!("umount {target}"))
}

/// Turns a terminal into a plain pipe of bytes: no echo, no newline mapping.
pub fn raw_terminal(file: &File) -> Result<()> {
    let mut settings = tcgetattr(file).at("tcgetattr")?;
    settings.make_raw();
    tcsetattr(file, OptionalActions::Now, &settings).at("tcsetattr")
}

/// Runs `work` with the calling thread's file system identity being `id` (user
/// and group), as an NFS server does for its clients.
pub fn as_user<T>(id: u32, work: impl FnOnce() -> T) -> T {
    as_ids(id, id, work)
}

/// As [`as_user`], with a group of another number.
pub fn as_ids<T>(uid: u32, gid: u32, work: impl FnOnce() -> T) -> T {
    // SAFETY: these calls take plain numbers and touch no memory.
    unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
    }
    let result = work();
    // SAFETY: as above.
    unsafe {
        libc::setfsuid(0);
        libc::setfsgid(0);
    }
    result
}

/// Becomes user `id` with the one supplementary group `group`, for good. For a
/// process with one thread.
pub fn become_user(id: u32, group: u32) -> Result<()> {
    set_thread_groups(&[Gid::from_raw(group)]).at("setgroups")?;
    set_thread_gid(Gid::from_raw(id)).at("setgid")?;
    set_thread_uid(Uid::from_raw(id)).at("setuid")
}

/// Runs `work` under a file mode mask. For a time when no other thread makes files.
pub fn masked<T>(mask: u32, work: impl FnOnce() -> T) -> T {
    let before = rustix::process::umask(rustix::fs::Mode::from_bits_retain(mask));
    let result = work();
    rustix::process::umask(before);
    result
}

/// The extended attribute `name` of `path`, symbolic links not followed; `None` if
/// there is none.
pub fn xattr(path: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    let mut value = vec![0; 4_096];
    match rustix::fs::lgetxattr(path, name, &mut value[..]) {
        Ok(len) => {
            value.truncate(len);
            Ok(Some(value))
        }
        Err(rustix::io::Errno::NODATA) => Ok(None),
        Err(e) => Err(e).at(format_args!("getxattr {name} of {}", path.display())),
    }
}

/// Fails unless `got` is the error `want`.
pub fn need_error<T>(
    what: impl fmt::Display,
    got: rustix::io::Result<T>,
    want: rustix::io::Errno,
) -> Result<()> {
    let name = |e: rustix::io::Errno| text::errno_name(e.raw_os_error());
    match got {
        Err(e) if e == want => Ok(()),
        Err(e) => Err(Failure(format!(
            "{what}: {} instead of {}",
            name(e),
            name(want)
        ))),
        Ok(_) => Err(Failure(format!("{what}: done, instead of {}", name(want)))),
    }
}

/// Sets the clock to so many nanoseconds since 1970.
pub fn set_clock(nanoseconds: &str) -> Result<()> {
    let since: i64 = nanoseconds
        .parse()
        .map_err(|_| format!("{nanoseconds:?}"))
        .at("no time")?;
    let time = rustix::time::Timespec {
        tv_sec: since / 1_000_000_000,
        tv_nsec: since % 1_000_000_000,
    };
    rustix::time::clock_settime(rustix::time::ClockId::Realtime, time).at("clock_settime")
}

/// Drops clean pages (1), unused inodes (2) or both (3), so that what follows is
/// asked of the daemon.
pub fn drop_caches(which: &str) -> Result<()> {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", which).at("drop_caches")
}

/// The inode number that the open file has.
pub fn ino(file: impl AsFd) -> Result<u64> {
    Ok(rustix::fs::fstat(file).at("fstat")?.st_ino)
}

/// The inode number that the path has, symbolic links not followed.
pub fn path_ino(path: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(path
        .symlink_metadata()
        .at(format_args!("lstat {}", path.display()))?
        .ino())
}
