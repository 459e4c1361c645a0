//! A path that this process made and removes when it ends, also after the
//! meaning of paths has changed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{openat, statat, unlinkat, AtFlags, Mode, OFlags, CWD};

/// A socket or pid file of ours. Removed on drop through a descriptor of its
/// directory, so that a chroot in between cannot turn it into the name of a file
/// in the share, and only if it is still the very object that was made.
#[derive(Debug)]
pub struct OwnedPath {
    directory: File,
    name: OsString,
    identity: (u64, u64),
}

impl OwnedPath {
    /// Takes ownership of the object at `path`, which exists. Must be called
    /// before the root directory changes.
    ///
    /// # Errors
    /// Its directory cannot be opened or it is not there.
    pub fn new(path: &Path) -> io::Result<OwnedPath> {
        let name = path.file_name().unwrap_or(OsStr::new(".")).to_owned();
        let parent = match path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        let directory = openat(
            CWD,
            parent,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let stat = statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(OwnedPath {
            directory: directory.into(),
            name,
            identity: (stat.st_dev, stat.st_ino),
        })
    }
}

impl Drop for OwnedPath {
    fn drop(&mut self) {
        let ours = statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|s| (s.st_dev, s.st_ino) == self.identity);
        if ours {
            if let Err(e) = unlinkat(&self.directory, &self.name, AtFlags::empty()) {
                log::warn!(
                    "failed to remove {} at exit: {e}; remove it by hand",
                    self.name.to_string_lossy()
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removes_its_own_object_and_never_a_successor() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        std::fs::write(&path, "").unwrap();
        drop(OwnedPath::new(&path).unwrap());
        assert!(!path.exists());

        std::fs::write(&path, "first").unwrap();
        let owned = OwnedPath::new(&path).unwrap();
        std::fs::write(dir.path().join("other"), "second").unwrap();
        std::fs::rename(dir.path().join("other"), &path).unwrap();
        drop(owned);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "second");
    }

    #[test]
    fn a_missing_object_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(OwnedPath::new(&dir.path().join("absent")).is_err());
    }
}
