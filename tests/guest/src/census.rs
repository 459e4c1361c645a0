//! Counting files: each is listed and looked at.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::Path;

use ferry_guest::count::Count;
use ferry_guest::MOUNT;

use crate::sys::{need, At, Result};

/// Counts those of one directory of the share.
pub fn run(dir: &str) -> Result<String> {
    let mut count = Count::default();
    for entry in std::fs::read_dir(Path::new(MOUNT).join(dir)).at("open")? {
        let entry = entry.at("list")?;
        let name = entry.file_name();
        let seen = entry.metadata().at(name.to_string_lossy())?;
        need(seen.is_file() && seen.ino() == entry.ino(), || {
            format!(
                "{name:?}: {:?}, inode {}, listed as {}",
                seen.file_type(),
                seen.ino(),
                entry.ino()
            )
        })?;
        count.add(name.as_bytes(), seen.ino(), seen.len());
    }
    Ok(count.to_string())
}
