//! What the host mounts inside a share, so that the guest meets it there.

use std::ffi::CStr;
use std::os::unix::fs::{chown, PermissionsExt};
use std::path::{Path, PathBuf};

use ferry_guest::fixture;
use rustix::mount::{mount, mount_bind, unmount, MountFlags, UnmountFlags};

use crate::command::{exists, Cmd};
use crate::fail::{need, Context, Result};

/// Size of the file system that is mounted in any share.
const SUBMOUNT_SIZE: &CStr = c"size=16m,mode=755";
/// Of the small ones: [`fixture::SMALL_SIZE`].
const SMALL_SIZE: &CStr = c"size=1m,mode=755";
/// btrfs takes no less.
const IMAGE_SIZE: u64 = 128 << 20;

/// What is mounted, until it is dropped; and what could not be.
#[derive(Default)]
pub struct Furniture {
    mounts: Vec<PathBuf>,
    /// The image of a disk that is mounted.
    image: Option<PathBuf>,
    /// Checks that cannot be made, and why.
    missing: Vec<(&'static str, String)>,
}

impl Furniture {
    /// Why check `name` cannot be made.
    pub fn lacks(&self, name: &str) -> Option<&str> {
        let missing = self.missing.iter().find(|(check, _)| *check == name);
        missing.map(|(_, why)| why.as_str())
    }

    /// Says that `checks` cannot be made.
    pub fn without(&mut self, checks: &[&'static str], why: &str) {
        self.missing
            .extend(checks.iter().map(|check| (*check, why.to_owned())));
    }

    fn tmpfs(&mut self, at: PathBuf, size: &CStr) -> Result<()> {
        std::fs::create_dir_all(&at).context(at.display())?;
        mount("ferryfs-e2e", &at, "tmpfs", MountFlags::empty(), size)
            .context(format_args!("mount a tmpfs at {}", at.display()))?;
        self.mounts.push(at);
        Ok(())
    }

    /// Mounts a file system in the share at `root`.
    pub fn submount(&mut self, root: &Path) -> Result<()> {
        self.tmpfs(root.join(fixture::SUBMOUNT), SUBMOUNT_SIZE)
    }

    /// Mounts what the checks of features look at.
    pub fn places(&mut self, root: &Path) -> Result<()> {
        self.tmpfs(root.join(fixture::SMALL), SMALL_SIZE)?;
        self.tmpfs(root.join(fixture::NESTED), SMALL_SIZE)?;
        let (from, at) = (root.join(fixture::BOUND_FROM), root.join(fixture::BOUND));
        for dir in [&from, &at] {
            std::fs::create_dir_all(dir).context(dir.display())?;
        }
        mount_bind(&from, &at).context(format_args!("bind {}", at.display()))?;
        self.mounts.push(at);
        if let Err(e) = self.cloning(root) {
            self.without(
                &["clones", "quota", "synced"],
                &format!("no btrfs can be made and mounted here: {e}"),
            );
        }
        Ok(())
    }

    /// Mounts an image of btrfs, which knows clones and quotas.
    fn cloning(&mut self, root: &Path) -> Result<()> {
        need(exists("mkfs.btrfs") && exists("btrfs"), || {
            "mkfs.btrfs and btrfs are not installed (in Debian, btrfs-progs)".into()
        })?;
        let image = root.join(fixture::CLONING_IMAGE);
        let at = root.join(fixture::CLONING);
        std::fs::create_dir_all(&at).context(at.display())?;
        let file = std::fs::File::create(&image).context(image.display())?;
        file.set_len(IMAGE_SIZE).context(image.display())?;
        Cmd::new("mkfs.btrfs")
            .args(["-q".as_ref(), image.as_os_str()])
            .output()?;
        Cmd::new("mount")
            .args(["-t", "btrfs", "-o", "loop"])
            .args([&image, &at])
            .output()?;
        self.mounts.push(at.clone());
        self.image = Some(image);
        let limited = root.join(fixture::LIMITED);
        let btrfs = |words: &[&str], path: &Path| {
            let command = Cmd::new("btrfs").args(words).args([path]);
            command.output().map(drop)
        };
        btrfs(&["subvolume", "create"], &limited)?;
        btrfs(&["quota", "enable"], &at)?;
        let quota = fixture::QUOTA.to_string();
        btrfs(&["qgroup", "limit", &quota], &limited)
    }

    /// Gives the share at `root` to `user`, where this process may; otherwise it is its
    /// own user's anyway.
    pub fn given_away(&mut self, root: &Path, user: u32) -> Result<()> {
        if rustix::process::geteuid().is_root() {
            chown(root, Some(user), Some(user)).context(root.display())?;
        }
        Ok(())
    }

    /// Gives what a guest with translated ids works in to whom it belongs.
    pub fn translated(&mut self, root: &Path) -> Result<()> {
        let dir = root.join(fixture::TRANSLATED);
        let (uid, gid) = fixture::HOST_IDS;
        let (other_uid, other_gid) = fixture::OTHERS;
        std::fs::create_dir_all(&dir).context(dir.display())?;
        for (path, owner) in [
            (dir.clone(), Some((uid, gid))),
            (
                dir.join("of-others"),
                Some((uid + other_uid, gid + other_gid)),
            ),
            (dir.join("of-the-host"), None),
        ] {
            if path != dir {
                std::fs::write(&path, b"").context(path.display())?;
            }
            if let Some((uid, gid)) = owner {
                chown(&path, Some(uid), Some(gid)).context(path.display())?;
            }
        }
        let all = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(&dir, all).context(dir.display())
    }
}

impl Drop for Furniture {
    fn drop(&mut self) {
        // The last is in the first. What stays mounted ends with this process.
        for at in self.mounts.iter().rev() {
            let _ = unmount(at, UnmountFlags::DETACH);
        }
        if let Some(image) = &self.image {
            // If it fails, the next run of this scenario does it.
            let _ = std::fs::remove_file(image);
        }
    }
}
