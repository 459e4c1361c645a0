//! The guest's initial file system: the agent as process 1, and busybox.

use std::path::Path;

use super::cpio::Archive;
use crate::fail::{Context, Result};

/// Writes it to `path`.
pub fn make(path: &Path, agent: &Path, busybox: &Path) -> Result<()> {
    let read = |file: &Path| std::fs::read(file).context(file.display());
    let mut archive = Archive::default();
    for name in ["bin", "dev", "mnt", "proc", "sys", "tmp"] {
        archive.directory(name);
    }
    // The kernel opens it for process 1 before anything is mounted.
    archive.char_device("dev/console", 5, 1);
    archive.executable("init", &read(agent)?);
    archive.executable("bin/busybox", &read(busybox)?);
    archive.symlink("bin/sh", "busybox");
    std::fs::write(path, archive.finish()).context(path.display())
}
