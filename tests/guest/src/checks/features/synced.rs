//! What is written to a file system that is mounted in the share is on its disk once
//! the guest has synced that one.

use std::path::{Path, PathBuf};

use ferry_guest::expectation::Object;
use ferry_guest::{fixture, pattern, Expectation, MOUNT};
use rustix::fs::{syncfs, Mode, OFlags};

use crate::checks::Live;
use crate::sys::{At, Result};

/// A block of the disk.
const BLOCK: usize = 4_096;
const BLOCKS: usize = 16;

struct Synced {
    dir: PathBuf,
    rounds: u64,
}

/// Writes the first file.
pub fn prepare() -> Result<Box<dyn Live>> {
    let mut synced = Synced {
        dir: Path::new(MOUNT).join(fixture::CLONING),
        rounds: 0,
    };
    synced.verify()?;
    Ok(Box::new(synced))
}

fn content(round: u64) -> Vec<u8> {
    pattern::bytes(1_000 + round, 0, BLOCK * BLOCKS)
}

impl Live for Synced {
    fn verify(&mut self) -> Result<()> {
        let name = format!("synced-{}", self.rounds);
        std::fs::write(self.dir.join(name), content(self.rounds)).at("write")?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let dir = rustix::fs::open(&self.dir, flags, Mode::empty()).at("open")?;
        syncfs(&dir).at("syncfs")?;
        self.rounds += 1;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Vec<Expectation>> {
        let mut expected = Vec::new();
        for round in 0..self.rounds {
            for block in content(round).chunks(BLOCK).step_by(BLOCKS - 1) {
                let holds = Object::Holds {
                    block: BLOCK as u64,
                    fnv: pattern::fnv(block),
                };
                expected.push(Expectation::new(fixture::CLONING_IMAGE, holds));
            }
        }
        Ok(expected)
    }
}
