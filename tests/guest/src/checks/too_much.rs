//! An unlinked file that is open, with more in it than the daemon lets cross. It keeps
//! the guest where it is until the file is closed.

use std::path::PathBuf;

use ferry_guest::expectation::Object;
use ferry_guest::{fixture, Expectation};

use super::held::Held;
use super::{in_share, Live};
use crate::sys::{At, Result};

struct TooMuch {
    path: PathBuf,
    held: Held,
}

/// Makes it, and takes its name away.
pub fn prepare() -> Result<Box<dyn Live>> {
    let path = super::own_dir("too-much")?.join("large");
    let held = Held::create(path.clone(), 120, 3 * fixture::GHOST_LIMIT)?;
    std::fs::remove_file(&path).at("unlink large")?;
    Ok(Box::new(TooMuch { path, held }))
}

impl Live for TooMuch {
    fn verify(&mut self) -> Result<()> {
        self.held.check_open()
    }

    /// Closes it.
    fn finish(mut self: Box<Self>) -> Result<Vec<Expectation>> {
        self.held.check_open()?;
        let gone = in_share(&self.path);
        Ok(vec![Expectation::new(gone, Object::Absent)])
    }
}
