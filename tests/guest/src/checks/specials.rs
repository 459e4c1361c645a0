//! Objects that are neither files nor directories: they are held by O_PATH, and
//! the fifo is in use, while the guest crosses.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use ferry_guest::expectation::Object;
use ferry_guest::Expectation;
use rustix::fs::{FileType, Mode, OFlags, CWD};

use super::{in_share, Live};
use crate::sys::{self, need, At, Result};

/// (name, type, mode, device)
const NODES: [(&str, FileType, u32, (u32, u32)); 4] = [
    ("fifo", FileType::Fifo, 0o600, (0, 0)),
    ("null", FileType::CharacterDevice, 0o666, (1, 3)),
    ("device", FileType::CharacterDevice, 0o000, (200, 12_345)),
    ("socket", FileType::Socket, 0o640, (0, 0)),
];
const TARGET: &[u8] = b"no/such/\xff/target";

struct Specials {
    dir: PathBuf,
    held: Vec<(&'static str, OwnedFd, u64)>,
    fifo: File,
}

fn hold(dir: &Path, name: &'static str) -> Result<(&'static str, OwnedFd, u64)> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(CWD, dir.join(name), flags, Mode::empty())
        .at(format_args!("open {name} with O_PATH"))?;
    let ino = sys::ino(&fd)?;
    Ok((name, fd, ino))
}

/// Makes one of each.
pub fn prepare() -> Result<Box<dyn Live>> {
    use std::os::unix::ffi::OsStrExt;
    let dir = super::own_dir("specials")?;
    let mut held = Vec::new();
    for (name, kind, mode, (major, minor)) in NODES {
        rustix::fs::mknodat(
            CWD,
            dir.join(name),
            kind,
            Mode::from_raw_mode(mode),
            rustix::fs::makedev(major, minor),
        )
        .at(format_args!("mknod {name}"))?;
        held.push(hold(&dir, name)?);
    }
    std::os::unix::fs::symlink(std::ffi::OsStr::from_bytes(TARGET), dir.join("symlink"))
        .at("symlink")?;
    held.push(hold(&dir, "symlink")?);
    let mut fifo = OpenOptions::new()
        .read(true)
        .write(true)
        .open(dir.join("fifo"))
        .at("open the fifo")?;
    fifo.write_all(b"before").at("write to the fifo")?;
    Ok(Box::new(Specials { dir, held, fifo }))
}

impl Live for Specials {
    fn verify(&mut self) -> Result<()> {
        for (name, fd, ino) in &self.held {
            let (held, found) = (sys::ino(fd)?, sys::path_ino(&self.dir.join(name))?);
            need(held == *ino && found == *ino, || {
                format!("{name}: inode {ino} is now {held} as held, {found} by path")
            })?;
        }
        for (name, kind, mode, (major, minor)) in NODES {
            let stat = rustix::fs::lstat(self.dir.join(name)).at(format_args!("lstat {name}"))?;
            let wanted = (kind, mode, rustix::fs::makedev(major, minor));
            let got = (
                FileType::from_raw_mode(stat.st_mode),
                stat.st_mode & 0o7777,
                stat.st_rdev,
            );
            need(got == wanted, || {
                format!("{name}: {got:?} instead of {wanted:?}")
            })?;
        }
        let target = rustix::fs::readlink(self.dir.join("symlink"), Vec::new()).at("readlink")?;
        need(target.as_bytes() == TARGET, || {
            format!("symlink leads to {target:?}")
        })?;
        let mut got = [0; 6];
        self.fifo.read_exact(&mut got).at("read from the fifo")?;
        need(got == *b"before", || format!("the fifo held {got:?}"))?;
        self.fifo.write_all(b"before").at("write to the fifo")?;
        std::fs::write(self.dir.join("null"), b"gone").at("write to null")
    }

    fn finish(self: Box<Self>) -> Result<Vec<Expectation>> {
        let mut all: Vec<_> = NODES
            .iter()
            .map(|(name, kind, _, (major, minor))| {
                let object = match kind {
                    FileType::Fifo => Object::Fifo,
                    FileType::Socket => Object::Socket,
                    _ => Object::CharDevice(rustix::fs::makedev(*major, *minor)),
                };
                Expectation::new(in_share(&self.dir.join(name)), object)
            })
            .collect();
        all.push(Expectation::new(
            in_share(&self.dir.join("symlink")),
            Object::Symlink(TARGET.to_vec()),
        ));
        Ok(all)
    }
}
