//! Files that have their data in common, where the host's file system can: made by
//! copy_file_range(2), which is what `cp --reflink=auto` comes to.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use ferry_guest::expectation::Object;
use ferry_guest::{fixture, pattern, Expectation, MOUNT};
use rustix::fs::{copy_file_range, ioctl_ficlone};
use rustix::io::Errno;

use crate::checks::{in_share, Live};
use crate::sys::{need, need_error, At, Result};

const LEN: usize = 512 << 10;
const SEED: u64 = 80;

struct Clones {
    dir: PathBuf,
    original: File,
    made: usize,
}

fn create(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    options
        .open(path)
        .at(format_args!("create {}", path.display()))
}

/// Makes the original, and the first one.
pub fn prepare() -> Result<Box<dyn Live>> {
    let dir = Path::new(MOUNT).join(fixture::CLONING);
    std::fs::write(dir.join("original"), pattern::bytes(SEED, 0, LEN)).at("write")?;
    let original = File::open(dir.join("original")).at("open")?;
    // Extents are shared that are on the disk.
    original.sync_all().at("fsync")?;
    // Linux' FUSE client has no request for it; programs go on with a copy.
    let refused = create(&dir.join("refused"))?;
    need_error(
        "FICLONE",
        ioctl_ficlone(&refused, &original),
        Errno::OPNOTSUPP,
    )?;
    let mut clones = Clones {
        dir,
        original,
        made: 0,
    };
    clones.verify()?;
    Ok(Box::new(clones))
}

impl Live for Clones {
    fn verify(&mut self) -> Result<()> {
        let path = self.dir.join(format!("clone-{}", self.made));
        let clone = create(&path)?;
        let mut done = 0;
        while done < LEN as u64 {
            let (mut from, mut to) = (done, done);
            let left = LEN - done as usize;
            let count =
                copy_file_range(&self.original, Some(&mut from), &clone, Some(&mut to), left)
                    .at("copy_file_range")?;
            need(count > 0, || format!("copy_file_range: nothing at {done}"))?;
            done += count as u64;
        }
        let data = std::fs::read(&path).at("read")?;
        let wrong = pattern::difference(&data, &pattern::bytes(SEED, 0, LEN));
        need(wrong.is_none(), || wrong.unwrap_or_default())?;
        self.made += 1;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Vec<Expectation>> {
        let data = pattern::bytes(SEED, 0, LEN);
        let mut expected = Vec::new();
        for n in 0..self.made {
            let path = in_share(&self.dir.join(format!("clone-{n}")));
            expected.push(Expectation::file(path.clone(), &data));
            expected.push(Expectation::new(path, Object::Cloned));
        }
        Ok(expected)
    }
}
