//! Where things are.

use std::path::{Path, PathBuf};

use crate::command::Cmd;
use crate::fail::{Context, Fail, Result};

/// The root of the workspace.
pub fn root() -> PathBuf {
    // Cargo sets the variable for what it runs; the other is for a binary that
    // was copied and called by hand.
    let member = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    member
        .parent()
        .map_or_else(|| member.clone(), Path::to_owned)
}

/// The directory cargo builds into.
pub fn target() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from) {
        // Cargo takes it relative to where it was called.
        return std::path::absolute(&dir).context(dir.display());
    }
    let text = Cmd::cargo()
        .args(["metadata", "--no-deps", "--format-version=1"])
        .dir(&root())
        .output()?;
    let metadata: serde_json::Value = serde_json::from_str(&text).context("cargo metadata")?;
    metadata["target_directory"]
        .as_str()
        .map(PathBuf::from)
        .ok_or_else(|| Fail::new("cargo metadata names no target directory"))
}

/// Where `setup-e2e` keeps the guest's kernel.
pub fn cache() -> PathBuf {
    root().join(".e2e")
}

/// The files that git tracks or would track, relative to the root.
pub fn files() -> Result<Vec<PathBuf>> {
    let text = Cmd::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .dir(&root())
        .output()?;
    let mut files: Vec<_> = text
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(PathBuf::from)
        .filter(|name| root().join(name).is_file())
        .collect();
    files.sort();
    files.dedup();
    Ok(files)
}
