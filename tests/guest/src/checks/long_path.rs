//! A file whose path is longer than PATH_MAX (4,096 bytes): reached step by
//! step, as the kernel allows.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use ferry_guest::expectation::Object;
use ferry_guest::Expectation;
use rustix::fs::{Mode, OFlags};

use super::held::Held;
use super::{in_share, Live};
use crate::sys::{self, need, At, Result};

const LEVELS: usize = 40;
const NAME_LEN: usize = 120;

struct LongPath {
    top: PathBuf,
    bottom: OwnedFd,
    held: Held,
    crossings: usize,
}

fn name(level: usize) -> String {
    format!("{level:02}{}", "d".repeat(NAME_LEN - 2))
}

fn whole(top: &std::path::Path) -> PathBuf {
    (0..LEVELS).fold(top.to_owned(), |path, level| path.join(name(level)))
}

fn open_dir(dir: &OwnedFd, name: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty()).at("open a level")
}

fn create(dir: &OwnedFd, name: &str) -> Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o644))
        .at(format_args!("create {name}"))?;
    Ok(File::from(file))
}

/// Makes the tree, and keeps a file and the directory at its bottom open.
pub fn prepare() -> Result<Box<dyn Live>> {
    let top = super::own_dir("long-path")?;
    let mut dir = OwnedFd::from(File::open(&top).at("open the top")?);
    for level in 0..LEVELS {
        rustix::fs::mkdirat(&dir, name(level), Mode::from_raw_mode(0o755))
            .at(format_args!("mkdir level {level}"))?;
        dir = open_dir(&dir, &name(level))?;
    }
    let file = create(&dir, "file")?;
    Ok(Box::new(LongPath {
        held: Held::fill(whole(&top).join("file"), file, 30, 5_000)?,
        top,
        bottom: dir,
        crossings: 0,
    }))
}

impl Live for LongPath {
    fn verify(&mut self) -> Result<()> {
        self.held.check_open()?;
        self.crossings += 1;
        create(&self.bottom, &format!("new-{}", self.crossings))?;
        // Down again from the top leads to the same directory.
        let mut dir = OwnedFd::from(File::open(&self.top).at("open the top")?);
        for level in 0..LEVELS {
            dir = open_dir(&dir, &name(level))?;
        }
        let (found, held) = (sys::ino(&dir)?, sys::ino(&self.bottom)?);
        need(found == held, || {
            format!("bottom is inode {found} by path, {held} as held")
        })
    }

    fn finish(self: Box<Self>) -> Result<Vec<Expectation>> {
        let bottom = in_share(&whole(&self.top));
        let mut all = vec![
            self.held.expectation(),
            Expectation::new(bottom.clone(), Object::Directory),
        ];
        all.extend(
            (1..=self.crossings).map(|n| Expectation::file(bottom.join(format!("new-{n}")), b"")),
        );
        Ok(all)
    }
}
