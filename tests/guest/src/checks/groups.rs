//! A user who may create in a directory only by a supplementary group.

use std::ffi::OsString;
use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;

use ferry_guest::Expectation;

use super::{in_share, Live};
use crate::sys::{self, need, At, Failure, Result};

/// First argument that makes the agent's executable the creating process.
pub const ARG: &str = "create-as-user";
const USER: u32 = 1_000;
const GROUP: u32 = 2_000;

struct Groups {
    dir: PathBuf,
    created: usize,
}

/// Makes the directory, and creates the first file.
pub fn prepare() -> Result<Box<dyn Live>> {
    let dir = super::own_dir("groups")?;
    std::os::unix::fs::chown(&dir, Some(0), Some(GROUP)).at("chown")?;
    std::fs::set_permissions(&dir, Permissions::from_mode(0o770)).at("chmod")?;
    let mut groups = Groups { dir, created: 0 };
    groups.verify()?;
    Ok(Box::new(groups))
}

/// In a process of its own: becomes the user and creates `path`.
pub fn create(path: Option<OsString>) -> Result<()> {
    let path = path.ok_or_else(|| Failure::new("a path is needed"))?;
    sys::become_user(USER, GROUP)?;
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .at("create by a supplementary group")?;
    Ok(())
}

impl Live for Groups {
    fn verify(&mut self) -> Result<()> {
        let path = self.dir.join(format!("file-{}", self.created));
        let out = Command::new("/proc/self/exe")
            .arg(ARG)
            .arg(&path)
            .output()
            .at("start a process")?;
        need(out.status.success(), || {
            String::from_utf8_lossy(&out.stderr).trim().to_owned()
        })?;
        self.created += 1;
        let meta = path.metadata().at("stat")?;
        need((meta.uid(), meta.gid()) == (USER, USER), || {
            format!("belongs to {}:{}", meta.uid(), meta.gid())
        })
    }

    fn finish(self: Box<Self>) -> Result<Vec<Expectation>> {
        Ok((0..self.created)
            .map(|n| Expectation::file(in_share(&self.dir.join(format!("file-{n}"))), b""))
            .collect())
    }
}
