//! The directory that is shared with the guest.

use std::path::{Path, PathBuf};

use ferry_guest::{fixture, Expectation};
use rustix::mount::{
    mount, mount_change, unmount, MountFlags, MountPropagationFlags, UnmountFlags,
};
use rustix::thread::UnshareFlags;

use crate::fail::{need, Context, Result};

/// Size of the file system that is mounted inside the share.
const SUBMOUNT_SIZE: &std::ffi::CStr = c"size=16m,mode=755";
/// Wrong expectations that are listed; the rest is counted.
const LISTED: usize = 10;

/// Goes where mounts end together with this process and are seen by nobody
/// else; whether that is permitted.
pub fn private_mounts() -> bool {
    // SAFETY: only the mount namespace changes, which no other thread uses: the
    // task has just begun.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.is_ok()
        && mount_change(
            "/",
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )
        .is_ok()
}

/// The directory.
pub struct Share {
    path: PathBuf,
    submount: Option<PathBuf>,
}

impl Share {
    /// Makes it at `path`, where nothing is, with the fixture in it.
    pub fn make(path: PathBuf, agent: &Path, with_submount: bool) -> Result<Self> {
        fixture::make(&path, agent).context("make the share")?;
        let mut share = Self {
            submount: None,
            path,
        };
        if with_submount {
            let at = share.path.join(fixture::SUBMOUNT);
            mount(
                "ferryfs-e2e",
                &at,
                "tmpfs",
                MountFlags::empty(),
                SUBMOUNT_SIZE,
            )
            .context("mount a tmpfs in the share")?;
            share.submount = Some(at);
        }
        Ok(share)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether another file system is mounted in it.
    pub fn has_submount(&self) -> bool {
        self.submount.is_some()
    }

    /// Looks for all that the guest says must be there.
    pub fn check(&self, expected: &[Expectation]) -> Result<()> {
        let wrong: Vec<String> = expected
            .iter()
            .filter_map(|e| {
                let error = e.check(&self.path).err()?;
                let name = e.path.display().to_string();
                let end: String = name.chars().rev().take(60).collect();
                let end: String = end.chars().rev().collect();
                Some(format!("{end}: {error}"))
            })
            .collect();
        need(wrong.is_empty(), || {
            format!(
                "the host finds {} of {} objects wrong: {}",
                wrong.len(),
                expected.len(),
                wrong[..wrong.len().min(LISTED)].join("; ")
            )
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(at) = &self.submount {
            // If it fails, it still ends with this process.
            let _ = unmount(at, UnmountFlags::DETACH);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_names_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let agent = std::env::current_exe().unwrap();
        let share = Share::make(dir.path().join("share"), &agent, false).unwrap();
        let good = Expectation::file("fixture/open/0007", b"open file 00007\n");
        let bad = Expectation::file("fixture/open/0008", b"open file 00007\n");
        share.check(std::slice::from_ref(&good)).unwrap();
        let e = share.check(&[good, bad]).unwrap_err().to_string();
        assert!(e.contains("1 of 2") && e.contains("0008"), "{e}");
        let entries = dir.path().join("share/fixture/entries");
        assert_eq!(
            std::fs::read_dir(entries).unwrap().count(),
            fixture::ENTRIES
        );
    }
}
