//! Files that are made without a name (`O_TMPFILE`), and get one later.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ferry_guest::Expectation;
use rustix::fs::{linkat, AtFlags, CWD};
use rustix::io::Errno;

use crate::checks::held::Held;
use crate::checks::{own_dir, Live};
use crate::sys::{need, need_error, At, Result};

const LEN: usize = 5_000;

/// A new file in `dir` that has no name.
fn nameless(dir: &Path, flags: i32) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o640);
    let file = options
        .custom_flags(libc::O_TMPFILE | flags)
        .open(dir)
        .at("open with O_TMPFILE")?;
    links(&file, 0)?;
    Ok(file)
}

fn links(file: &File, want: u64) -> Result<()> {
    let got = file.metadata().at("fstat")?.nlink();
    need(got == want, || format!("{got} links instead of {want}"))
}

fn name(file: &File, path: &Path) -> rustix::io::Result<()> {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    linkat(CWD, link, CWD, path, AtFlags::SYMLINK_FOLLOW)
}

/// Those that have a name when the guest crosses.
struct Named {
    dir: PathBuf,
    held: Vec<Held>,
}

/// Makes and names the first one.
pub fn prepare() -> Result<Box<dyn Live>> {
    let mut named = Named {
        dir: own_dir("tmpfile")?,
        held: Vec::new(),
    };
    named.make()?;
    Ok(Box::new(named))
}

impl Named {
    fn make(&mut self) -> Result<()> {
        let n = self.held.len();
        let path = self.dir.join(format!("named-{n}"));
        let mut held = Held::fill(path.clone(), nameless(&self.dir, 0)?, 60 + n as u64, LEN)?;
        held.check_open()?;
        name(held.parts().0, &path).at("linkat")?;
        links(held.parts().0, 1)?;
        held.check()?;
        self.held.push(held);
        // One that shall never have a name.
        let file = nameless(&self.dir, libc::O_EXCL)?;
        need_error("linkat", name(&file, &self.dir.join("no")), Errno::NOENT)
    }
}

impl Live for Named {
    fn verify(&mut self) -> Result<()> {
        self.held.iter_mut().try_for_each(Held::check)?;
        self.make()
    }

    fn finish(self: Box<Self>) -> Result<Vec<Expectation>> {
        Ok(self.held.iter().map(Held::expectation).collect())
    }
}

/// One without a name when the guest crosses.
struct Nameless {
    held: Held,
}

/// Makes it.
pub fn prepare_nameless() -> Result<Box<dyn Live>> {
    let dir = own_dir("tmpfile-held")?;
    let file = nameless(&dir, 0)?;
    let held = Held::fill(dir.join("named-at-last"), file, 70, LEN)?;
    Ok(Box::new(Nameless { held }))
}

impl Live for Nameless {
    fn verify(&mut self) -> Result<()> {
        links(self.held.parts().0, 0)?;
        self.held.check_open()
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Expectation>> {
        let path = self.held.path().to_owned();
        name(self.held.parts().0, &path).at("linkat")?;
        // It may have been made again in a crossing, and has with its name the number that
        // listings tell.
        self.held.renumbered()?;
        self.held.check()?;
        Ok(vec![self.held.expectation()])
    }
}
