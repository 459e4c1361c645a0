//! Another file system that the host has mounted inside the share: the guest
//! sees where it begins, before and after.

use std::path::{Path, PathBuf};

use ferry_guest::{fixture, Expectation, MOUNT};

use super::held::Held;
use super::Live;
use crate::sys::{need, At, Result};

struct Submount {
    dir: PathBuf,
    held: Vec<Held>,
    dev: u64,
    blocks: u64,
}

fn dev(path: &Path) -> Result<u64> {
    Ok(rustix::fs::stat(path).at("stat")?.st_dev)
}

/// Bytes of the file system at `path`.
fn size(path: &Path) -> Result<u64> {
    let s = rustix::fs::statfs(path).at("statfs")?;
    Ok(s.f_blocks * s.f_bsize as u64)
}

/// Works in it.
pub fn prepare() -> Result<Box<dyn Live>> {
    let dir = Path::new(MOUNT).join(fixture::SUBMOUNT);
    std::fs::create_dir(dir.join("below")).at("mkdir")?;
    let mut sub = Submount {
        held: vec![
            Held::create(dir.join("top"), 50, 4_000)?,
            Held::create(dir.join("below/file"), 51, 4_000)?,
        ],
        dev: dev(&dir)?,
        blocks: size(&dir)?,
        dir,
    };
    sub.verify()?;
    Ok(Box::new(sub))
}

impl Live for Submount {
    fn verify(&mut self) -> Result<()> {
        let here = dev(&self.dir)?;
        need(here == self.dev, || {
            format!("st_dev {here} instead of {}", self.dev)
        })?;
        need(here != dev(Path::new(MOUNT))?, || {
            "the submount has the share's st_dev".into()
        })?;
        need(here == dev(&self.dir.join("below"))?, || {
            "a directory in the submount has another st_dev".into()
        })?;
        let blocks = size(&self.dir)?;
        need(blocks == self.blocks, || {
            format!("statfs: {blocks} bytes instead of {}", self.blocks)
        })?;
        need(blocks != size(Path::new(MOUNT))?, || {
            "statfs answers for the share instead of the submount".into()
        })?;
        self.held.iter_mut().try_for_each(Held::check)
    }

    fn finish(self: Box<Self>) -> Result<Vec<Expectation>> {
        Ok(self.held.iter().map(Held::expectation).collect())
    }
}
