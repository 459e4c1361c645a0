//! `setup-peers`: other projects' daemons below target/peers, where `ferrybench` looks
//! for them. Nothing is installed.

use std::path::{Path, PathBuf};

use super::apt::Apt;
use crate::binaries;
use crate::command::{exists, Cmd};
use crate::fail::{need, Fail, Result};
use crate::{progress, workspace};

/// Package of Debian's that has the virtiofsd in C, and the last series of versions
/// that does: it was taken out of QEMU for 8.0.
const PACKAGE: &str = "qemu-system-common";
const SERIES: &str = "1:7.2";
/// Where it lies in the package.
const PROGRAM: &str = "usr/lib/qemu/virtiofsd";

/// Release of virtiofsd in Rust that is measured.
pub const VIRTIOFSD: &str = "1.14.0";

/// The virtiofsd in C.
pub fn virtiofsd_c() -> Result<PathBuf> {
    Ok(root()?.join("qemu-7.2").join(PROGRAM))
}

fn root() -> Result<PathBuf> {
    Ok(workspace::target()?.join("peers"))
}

/// Fetches and builds what is missing.
pub fn run() -> Result<()> {
    let old = virtiofsd_c()?;
    if !old.is_file() {
        fetch(&old)?;
    }
    say(&old)?;
    let new = match binaries::virtiofsd()?.first() {
        Some(found) => found.clone(),
        None => build()?,
    };
    say(&new)?;
    binaries::build("fuse-backend-fsd", "release").map(drop)
}

/// Whether a daemon runs here at all.
fn say(path: &Path) -> Result<()> {
    let version = binaries::version(path)?;
    let first = version.lines().next().unwrap_or_default();
    progress::step(format_args!("{}: {first}", path.display()));
    Ok(())
}

fn fetch(program: &Path) -> Result<()> {
    let root = rustix::process::geteuid().is_root();
    need(root && exists("apt-get") && exists("dpkg-deb"), || {
        format!(
            "the virtiofsd in C is taken out of Debian's {PACKAGE} {SERIES}, which needs root and \
             apt. By hand: unpack that package so that {} is there, or say where it is in \
             VIRTIOFSD_C",
            program.display()
        )
    })?;
    let dir = program
        .ancestors()
        .nth(Path::new(PROGRAM).components().count())
        .ok_or_else(|| Fail::new("no place for it"))?;
    let apt = Apt::prepare()?;
    let version = apt.newest_version(PACKAGE, SERIES)?;
    apt.unpack(PACKAGE, &version, dir)?;
    need(program.is_file(), || {
        format!("{PACKAGE} {version} has no {PROGRAM}")
    })
}

fn build() -> Result<PathBuf> {
    progress::step(format_args!("build virtiofsd {VIRTIOFSD}"));
    let root = root()?;
    Cmd::cargo()
        .args(["install", "--quiet", "--locked", "virtiofsd"])
        .args(["--version", VIRTIOFSD, "--root"])
        .args([&root])
        .run()?;
    Ok(root.join("bin/virtiofsd"))
}
