//! The directory that is shared with the guest.

use std::path::{Path, PathBuf};

use ferry_guest::{fixture, Expectation};
use rustix::mount::{mount_change, MountPropagationFlags};
use rustix::thread::UnshareFlags;

use super::daemon::NOBODY;
use super::furnish::Furniture;
use super::scenario::{Journey, Scenario, Work};
use crate::command::Cmd;
use crate::fail::{need, Context, Result};

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
    furniture: Furniture,
}

impl Share {
    /// Makes it at `path`, where nothing is, with the fixture in it, and mounted in it
    /// what `scenario` takes. `mounts`: whether that is permitted.
    pub fn make(path: PathBuf, agent: &Path, scenario: &Scenario, mounts: bool) -> Result<Self> {
        fixture::make(&path, agent).context("make the share")?;
        let mut share = Self {
            furniture: Furniture::default(),
            path,
        };
        share.furnish(scenario, mounts)?;
        Ok(share)
    }

    fn furnish(&mut self, scenario: &Scenario, mounts: bool) -> Result<()> {
        let Self { path, furniture } = self;
        let not_root = "mounts of one's own are not permitted here";
        match scenario.work {
            // A directory that must be refused must not be so for a missing submount.
            Work::Core if scenario.journey == Journey::Refused => {
                furniture.without(&["submount"], "not part of this journey");
            }
            Work::Core | Work::Late if mounts => furniture.submount(path)?,
            Work::Core | Work::Late => furniture.without(&["submount"], not_root),
            Work::Features if mounts => furniture.places(path)?,
            Work::Features => {
                furniture.without(
                    &["mounts", "no-space", "quota", "clones", "synced"],
                    not_root,
                );
            }
            Work::Ids if rustix::process::geteuid().is_root() => furniture.translated(path)?,
            Work::Ids => furniture.without(&["ids"], "only root can give files to others"),
            Work::Descriptors | Work::TooMuch | Work::Copied => {}
            Work::Meddled if scenario.journey == Journey::Unprivileged => {
                furniture.given_away(path, NOBODY)?;
            }
            Work::Meddled => {}
        }
        Ok(())
    }

    /// Why check `name` cannot be made in it.
    pub fn lacks(&self, name: &str) -> Option<&str> {
        self.furniture.lacks(name)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where [`Self::copy`] makes the copy of the one at `path`.
    pub fn copy_of(path: &Path) -> PathBuf {
        path.with_extension("copy")
    }

    /// Makes another directory of the same files, as `cp -a` does, and with directory
    /// [`fixture::LIES_HERE`] at [`fixture::LIES_THERE`]. What is looked at from now on is
    /// that one.
    pub fn copy(&self) -> Result<PathBuf> {
        let copy = Self::copy_of(&self.path);
        Cmd::new("cp")
            .args(["-a", "--"])
            .args([&self.path, &copy])
            .output()?;
        let (here, there) = (
            copy.join(fixture::LIES_HERE),
            copy.join(fixture::LIES_THERE),
        );
        std::fs::rename(&here, there).context(here.display())?;
        // Who looks for anything in the first one finds nothing.
        std::fs::remove_dir_all(&self.path).context(self.path.display())?;
        Ok(copy)
    }

    /// Looks in the directory at `path` for all that the guest says must be there.
    pub fn check(path: &Path, expected: &[Expectation]) -> Result<()> {
        let wrong: Vec<String> = expected
            .iter()
            .filter_map(|e| {
                let error = e.check(path).err()?;
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

#[cfg(test)]
mod tests {
    use super::super::scenario;
    use super::*;

    #[test]
    fn the_host_names_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let agent = std::env::current_exe().unwrap();
        let scenario = scenario::all().swap_remove(0);
        let share = Share::make(dir.path().join("share"), &agent, &scenario, false).unwrap();
        assert!(share.lacks("submount").is_some());
        let good = Expectation::file("fixture/open/0007", b"open file 00007\n");
        let bad = Expectation::file("fixture/open/0008", b"open file 00007\n");
        let check = |expected: &[Expectation]| Share::check(share.path(), expected);
        check(std::slice::from_ref(&good)).unwrap();
        let e = check(&[good, bad]).unwrap_err().to_string();
        assert!(e.contains("1 of 2") && e.contains("0008"), "{e}");
        let entries = dir.path().join("share/fixture/entries");
        assert_eq!(
            std::fs::read_dir(entries).unwrap().count(),
            fixture::ENTRIES
        );
    }
}
