//! Calls in a form that is short to write down: names relative to a directory, flags
//! as numbers.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Uid};
use rustix::io::{Errno, Result};

/// `O_*` for reading and writing what is made if need be.
pub const RW_CREATE: i32 = libc::O_RDWR | libc::O_CREAT;

/// `openat`.
pub fn open(dir: impl AsFd, name: &str, flags: i32, mode: u32) -> Result<OwnedFd> {
    let flags = OFlags::from_bits_retain(flags as u32) | OFlags::CLOEXEC;
    fs::openat(dir, name, flags, Mode::from_bits_retain(mode))
}

/// A file with something in it.
pub fn file(dir: impl AsFd, name: &str, mode: u32, content: &[u8]) -> Result<OwnedFd> {
    let file = open(dir, name, RW_CREATE | libc::O_EXCL, mode)?;
    write_at(&file, content, 0)?;
    Ok(file)
}

/// Opens what `fd` is anew, through its link in `/proc`.
pub fn reopen(fd: impl AsFd, flags: i32) -> Result<OwnedFd> {
    open(
        fs::CWD,
        proc_link(fd).to_str().unwrap_or_default(),
        flags,
        0,
    )
}

/// The link of a descriptor in `/proc`.
pub fn proc_link(fd: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

/// All of `data`, at `offset`.
pub fn write_at(fd: impl AsFd, data: &[u8], offset: u64) -> Result<usize> {
    let mut done = 0;
    while done < data.len() {
        done += rustix::io::pwrite(&fd, &data[done..], offset + done as u64)?;
    }
    Ok(done)
}

/// Up to `count` bytes from `offset`.
pub fn read_at(fd: impl AsFd, count: usize, offset: u64) -> Result<Vec<u8>> {
    let mut data = vec![0; count];
    let mut done = 0;
    while done < count {
        match rustix::io::pread(&fd, &mut data[done..], offset + done as u64)? {
            0 => break,
            n => done += n,
        }
    }
    data.truncate(done);
    Ok(data)
}

/// All that is in `name`, without waiting for somebody to write to a fifo.
pub fn content(dir: impl AsFd, name: &str) -> Result<Vec<u8>> {
    let flags = libc::O_RDONLY | libc::O_NONBLOCK;
    read_at(open(dir, name, flags, 0)?, 1 << 20, 0)
}

/// `mkdirat`.
pub fn mkdir(dir: impl AsFd, name: &str, mode: u32) -> Result<()> {
    fs::mkdirat(dir, name, Mode::from_bits_retain(mode))
}

/// A directory, opened.
pub fn open_dir(dir: impl AsFd, name: &str) -> Result<OwnedFd> {
    open(dir, name, libc::O_RDONLY | libc::O_DIRECTORY, 0)
}

/// `mknodat`.
pub fn mknod(dir: impl AsFd, name: &str, kind: FileType, mode: u32, dev: (u32, u32)) -> Result<()> {
    let dev = fs::makedev(dev.0, dev.1);
    fs::mknodat(dir, name, kind, Mode::from_bits_retain(mode), dev)
}

/// `unlinkat`.
pub fn unlink(dir: impl AsFd, name: &str) -> Result<()> {
    fs::unlinkat(dir, name, AtFlags::empty())
}

/// `unlinkat` with `AT_REMOVEDIR`.
pub fn rmdir(dir: impl AsFd, name: &str) -> Result<()> {
    fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
}

/// `renameat2`, within a directory.
pub fn rename(dir: impl AsFd, from: &str, to: &str, flags: u32) -> Result<()> {
    let flags = RenameFlags::from_bits_retain(flags);
    fs::renameat_with(&dir, from, &dir, to, flags)
}

/// `linkat`, within a directory.
pub fn link(dir: impl AsFd, from: &str, to: &str) -> Result<()> {
    fs::linkat(&dir, from, &dir, to, AtFlags::empty())
}

/// Gives an open file a name.
pub fn link_open(fd: impl AsFd, dir: impl AsFd, name: &str) -> Result<()> {
    fs::linkat(fs::CWD, proc_link(fd), dir, name, AtFlags::SYMLINK_FOLLOW)
}

/// `symlinkat`.
pub fn symlink(target: &str, dir: impl AsFd, name: &str) -> Result<()> {
    fs::symlinkat(target, dir, name)
}

/// `readlinkat`.
pub fn readlink(dir: impl AsFd, name: &str) -> Result<Vec<u8>> {
    Ok(fs::readlinkat(dir, name, Vec::new())?.into_bytes())
}

/// `fstatat`, of a symbolic link itself.
pub fn stat(dir: impl AsFd, name: &str) -> Result<Stat> {
    fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// `fchmodat`.
pub fn chmod(dir: impl AsFd, name: &str, mode: u32) -> Result<()> {
    fs::chmodat(dir, name, Mode::from_bits_retain(mode), AtFlags::empty())
}

/// `fchmod`.
pub fn fchmod(fd: impl AsFd, mode: u32) -> Result<()> {
    fs::fchmod(fd, Mode::from_bits_retain(mode))
}

fn id<T>(id: i64, make: impl FnOnce(u32) -> T) -> Option<T> {
    u32::try_from(id).ok().map(make)
}

/// `fchownat`, of a symbolic link itself; -1 leaves an id.
pub fn chown(dir: impl AsFd, name: &str, uid: i64, gid: i64) -> Result<()> {
    let (uid, gid) = (id(uid, Uid::from_raw), id(gid, Gid::from_raw));
    fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
}

/// `fchown`; -1 leaves an id.
pub fn fchown(fd: impl AsFd, uid: i64, gid: i64) -> Result<()> {
    fs::fchown(fd, id(uid, Uid::from_raw), id(gid, Gid::from_raw))
}

/// `truncate`, through a descriptor that is opened for it.
pub fn truncate(dir: impl AsFd, name: &str, size: u64) -> Result<()> {
    // Not truncate(2), which takes no directory.
    fs::ftruncate(open(dir, name, libc::O_WRONLY, 0)?, size)
}

/// The names in a directory, sorted, with their types.
pub fn list(dir: impl AsFd, name: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::Dir::read_from(open_dir(dir, name)?)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            names.push(format!("{name} {:?}", entry.file_type()));
        }
    }
    names.sort();
    Ok(names)
}

/// Succeeds or not, whatever it gives.
pub fn drop_value<T>(result: Result<T>) -> Result<()> {
    result.map(drop)
}

/// The error of a call of libc.
pub fn check(rc: libc::c_int) -> Result<i32> {
    if rc < 0 {
        let e = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&e).unwrap_or(Errno::IO));
    }
    Ok(rc)
}
