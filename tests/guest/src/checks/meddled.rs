//! Files whose names others change on the host while the guest crosses; the host does
//! what [`ferry_guest::meddling`] says.

use std::path::PathBuf;

use ferry_guest::{meddling, Expectation};

use super::held::Held;
use super::{in_share, Live};
use crate::sys::{At, Result};

struct Meddled {
    dir: PathBuf,
    moved: Held,
    replaced: Held,
    removed: Held,
    odd: Held,
}

/// Opens them.
pub fn prepare() -> Result<Box<dyn Live>> {
    let dir = super::own_dir(meddling::DIR)?;
    std::fs::create_dir_all(dir.join(meddling::MOVED).join("inner")).at("mkdir")?;
    std::fs::create_dir(dir.join(meddling::ELSEWHERE)).at("mkdir")?;
    Ok(Box::new(Meddled {
        moved: Held::create(dir.join(meddling::MOVED).join("inner/file"), 91, 20_000)?,
        replaced: Held::create(dir.join(meddling::REPLACED), 92, 20_000)?,
        removed: Held::create(dir.join(meddling::REMOVED), 93, 20_000)?,
        odd: Held::create(dir.join(meddling::odd()), 94, 20_000)?,
        dir,
    }))
}

impl Live for Meddled {
    /// Through the descriptors it is what it was, whatever the names are.
    fn verify(&mut self) -> Result<()> {
        self.moved.check_open()?;
        self.replaced.check_open()?;
        self.removed.check_open()?;
        self.odd.check_open()
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Expectation>> {
        let moved = self.dir.join(meddling::ELSEWHERE).join(meddling::MOVED);
        self.moved.moved(moved.join("inner/file"));
        self.odd.moved(self.dir.join(meddling::odder()));
        for held in [&mut self.moved, &mut self.odd] {
            // Found by its new name it is the one that is open.
            held.check()?;
        }
        let impostor = self.dir.join(meddling::REPLACED);
        Ok(vec![
            self.moved.expectation(),
            self.odd.expectation(),
            Expectation::file(in_share(&impostor), meddling::IMPOSTOR),
        ])
    }
}
