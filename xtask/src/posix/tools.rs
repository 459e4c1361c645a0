//! The suites' programs.

use std::path::{Path, PathBuf};

use crate::command::Cmd;
use crate::fail::Result;
use crate::{binaries, progress};

const PJDFSTEST: &str = "0.2.2";
const FSX: &str = "0.3.2";
/// The suite of our own.
pub const OWN: &str = "ferry-posix";

/// Where they are.
#[derive(Debug)]
pub struct Tools {
    /// `pjdfstest`.
    pub pjdfstest: PathBuf,
    /// `fsx`.
    pub fsx: PathBuf,
    /// `ferry-posix`.
    pub own: PathBuf,
}

/// Builds what is missing in `dir`. Static, so that the same programs run in a guest.
pub fn find_or_install(dir: &Path, profile: &str) -> Result<Tools> {
    Ok(Tools {
        pjdfstest: install(dir, "pjdfstest", PJDFSTEST)?,
        fsx: install(dir, "fsx", FSX)?,
        own: binaries::build(OWN, profile)?,
    })
}

fn install(dir: &Path, name: &str, version: &str) -> Result<PathBuf> {
    let root = dir.join(format!("{name}-{version}"));
    let path = root.join("bin").join(name);
    if path.is_file() {
        return Ok(path);
    }
    progress::step(format_args!("install {name} {version} (once)"));
    let build = root.join("build");
    Cmd::cargo()
        .args(["install", "--quiet", "--locked", name, "--version", version])
        .args(["--target", binaries::GUEST_TARGET, "--root"])
        .args([&root])
        .args(["--target-dir"])
        .args([&build])
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        // Not this workspace's configuration.
        .dir(dir)
        .output()?;
    // What it was built in is many times its size.
    let _ = std::fs::remove_dir_all(build);
    Ok(path)
}
