//! When a file was made, and its flags (lsattr, chattr): what STATX and IOCTL tell.

use std::fs::File;
use std::path::{Path, PathBuf};

use ferry_guest::Expectation;
use rustix::fs::{ioctl_getflags, ioctl_setflags, statx, AtFlags, IFlags, StatxFlags, CWD};

use super::Live;
use crate::sys::{need, At, Result};

struct MadeAt {
    path: PathBuf,
    file: File,
    made: (i64, u32),
    no_dump: bool,
}

fn made(path: &Path) -> Result<(i64, u32)> {
    // Not from the guest's cache, which has no such time for what it has just made.
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let stx = statx(CWD, path, AtFlags::STATX_FORCE_SYNC, wanted).at("statx")?;
    need(stx.stx_mask & StatxFlags::BTIME.bits() != 0, || {
        format!("statx does not tell when {} was made", path.display())
    })?;
    Ok((stx.stx_btime.tv_sec, stx.stx_btime.tv_nsec))
}

/// Makes a file and looks at it.
pub fn prepare() -> Result<Box<dyn Live>> {
    let dir = super::own_dir("made-at")?;
    let path = dir.join("file");
    let file = File::create(&path).at("create")?;
    let flags = ioctl_getflags(&file).at("FS_IOC_GETFLAGS")?;
    Ok(Box::new(MadeAt {
        made: made(&path)?,
        no_dump: flags.contains(IFlags::NODUMP),
        path,
        file,
    }))
}

impl Live for MadeAt {
    fn verify(&mut self) -> Result<()> {
        let now = made(&self.path)?;
        need(now == self.made, || {
            format!("made at {now:?}, and before at {:?}", self.made)
        })?;
        let flags = ioctl_getflags(&self.file).at("FS_IOC_GETFLAGS")?;
        need(flags.contains(IFlags::NODUMP) == self.no_dump, || {
            format!("flags are {flags:?}, no dump was {}", self.no_dump)
        })?;
        ioctl_setflags(&self.file, flags ^ IFlags::NODUMP).at("FS_IOC_SETFLAGS")?;
        self.no_dump = !self.no_dump;
        // By its name as well, and for its directory.
        let other = File::open(&self.path).at("open")?;
        let seen = ioctl_getflags(&other).at("FS_IOC_GETFLAGS")?;
        need(seen.contains(IFlags::NODUMP) == self.no_dump, || {
            format!("flags are {seen:?} after a change")
        })?;
        let dir = File::open(self.path.parent().unwrap_or(Path::new("/"))).at("open")?;
        ioctl_getflags(&dir).at("FS_IOC_GETFLAGS of a directory")?;
        let immutable = ioctl_setflags(&self.file, seen | IFlags::IMMUTABLE);
        need(immutable == Err(rustix::io::Errno::PERM), || {
            format!("making a host's file immutable: {immutable:?}")
        })
    }

    fn finish(self: Box<Self>) -> Result<Vec<Expectation>> {
        Ok(vec![Expectation::file("made-at/file", b"")])
    }
}
