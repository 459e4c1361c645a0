//! Files that the guest goes on with in a copy of the share, in which a directory of them
//! lies elsewhere.

use std::path::PathBuf;

use ferry_guest::{fixture, Expectation, MOUNT};

use super::held::Held;
use super::Live;
use crate::sys::{self, need, At, Result};

struct Copied {
    /// Where it is in both.
    stays: Held,
    /// Under two names.
    linked: Held,
    other_name: PathBuf,
    /// In the directory that lies elsewhere.
    moves: Held,
}

/// Opens them.
pub fn prepare() -> Result<Box<dyn Live>> {
    let dir = super::own_dir("copied")?;
    let moving = PathBuf::from(MOUNT).join(fixture::LIES_HERE);
    std::fs::create_dir_all(moving.join("inner")).at("mkdir")?;
    let copied = Copied {
        stays: Held::create(dir.join("stays"), 130, 20_000)?,
        linked: Held::create(dir.join("one name"), 131, 20_000)?,
        other_name: dir.join("other name"),
        moves: Held::create(moving.join("inner/file"), 132, 20_000)?,
    };
    std::fs::hard_link(copied.linked.path(), &copied.other_name).at("link")?;
    Ok(Box::new(copied))
}

impl Live for Copied {
    /// A copy of a file has a number of its own: what counts is that names and
    /// descriptors lead to the same file.
    fn verify(&mut self) -> Result<()> {
        let elsewhere = PathBuf::from(MOUNT).join(fixture::LIES_THERE);
        if elsewhere.exists() {
            self.moves.moved(elsewhere.join("inner/file"));
        }
        for held in [&mut self.stays, &mut self.linked, &mut self.moves] {
            held.renumbered()?;
            held.check()?;
        }
        let (one, other) = (
            sys::path_ino(self.linked.path())?,
            sys::path_ino(&self.other_name)?,
        );
        need(one == other, || {
            format!("two names of one file lead to inodes {one} and {other}")
        })
    }

    fn finish(self: Box<Self>) -> Result<Vec<Expectation>> {
        let held = [&self.stays, &self.linked, &self.moves];
        Ok(held.map(Held::expectation).into())
    }
}
