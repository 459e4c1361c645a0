//! Open files that nobody could open again by their mode: 000, in a directory of
//! mode 000, and one that an ordinary user opened before it lost its rights.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ferry_guest::Expectation;

use super::held::Held;
use super::Live;
use crate::sys::{self, At, Result};

struct ModeZero {
    held: Vec<Held>,
}

fn close_up(path: &Path) -> Result<()> {
    std::fs::set_permissions(path, Permissions::from_mode(0o000)).at("chmod 000")
}

/// Opens them.
pub fn prepare() -> Result<Box<dyn Live>> {
    let dir = super::own_dir("mode-zero")?;
    std::fs::set_permissions(&dir, Permissions::from_mode(0o777)).at("chmod 777")?;
    let inner = dir.join("closed");
    std::fs::create_dir(&inner).at("mkdir")?;
    let held = vec![
        Held::create(dir.join("of-root"), 40, 3_000)?,
        Held::create(inner.join("inside"), 41, 3_000)?,
        sys::as_user(1_000, || Held::create(dir.join("of-user"), 42, 3_000))?,
    ];
    held.iter().try_for_each(|h| close_up(h.path()))?;
    close_up(&inner)?;
    Ok(Box::new(ModeZero { held }))
}

impl Live for ModeZero {
    fn verify(&mut self) -> Result<()> {
        let (of_root, of_user) = self.held.split_at_mut(2);
        of_root.iter_mut().try_for_each(Held::check)?;
        // The user goes on with what it holds.
        sys::as_user(1_000, || of_user.iter_mut().try_for_each(Held::check_open))
    }

    fn finish(self: Box<Self>) -> Result<Vec<Expectation>> {
        Ok(self.held.iter().map(Held::expectation).collect())
    }
}
