//! Building what the tests run.

use std::path::{Path, PathBuf};

use crate::command::Cmd;
use crate::fail::{need, Context, Result};
use crate::{progress, workspace};

/// What runs in a guest is built for, without libraries.
pub const GUEST_TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds package `name`; answers the path of its executable of the same name.
pub fn build(name: &str, profile: &str) -> Result<PathBuf> {
    progress::step(format_args!("build {name} ({profile})"));
    Cmd::cargo()
        .args(["build", "--quiet", "--package", name, "--profile", profile])
        .dir(&workspace::root())
        .run()?;
    let dir = if profile == "dev" { "debug" } else { profile };
    Ok(workspace::target()?.join(dir).join(name))
}

/// Builds the agent that runs in the guest.
pub fn guest_agent() -> Result<PathBuf> {
    static_program("ferry-guest")
}

/// Builds package `name` for a guest, where there are no libraries; answers the path of
/// its executable of the same name.
pub fn static_program(name: &str) -> Result<PathBuf> {
    progress::step(format_args!("build {name} (static)"));
    let target = workspace::target()?.join("guest");
    let given = std::env::var("RUSTFLAGS").unwrap_or_default();
    Cmd::cargo()
        .args(["build", "--quiet", "--release", "--package", name])
        // With a target given, build scripts and macros keep their own flags.
        .args(["--target", GUEST_TARGET, "--target-dir"])
        .args([&target])
        .env(
            "RUSTFLAGS",
            format!("{given} -C target-feature=+crt-static -C strip=symbols"),
        )
        .dir(&workspace::root())
        .run()?;
    let path = target.join(GUEST_TARGET).join("release").join(name);
    let image = std::fs::read(&path).context(path.display())?;
    need(is_static(&image), || {
        format!("{} needs a dynamic linker", path.display())
    })?;
    Ok(path)
}

/// Whether `path` is an executable of this workspace's kind at all.
pub fn version(path: &Path) -> Result<String> {
    Ok(Cmd::new(path)
        .args(["--version"])
        .output()?
        .trim()
        .to_owned())
}

/// Where virtiofsd is: by the variable VIRTIOFSD, in PATH, or where checks put it.
pub fn virtiofsd() -> Result<Vec<PathBuf>> {
    let found = ferryfs_frontend::spawn::find("VIRTIOFSD", "virtiofsd");
    let peers = workspace::target()?.join("peers/bin/virtiofsd");
    let places = found.into_iter().chain([peers]);
    Ok(places.filter(|path| path.is_file()).collect())
}

/// Whether a 64-bit little-endian ELF image has no PT_INTERP segment.
pub fn is_static(image: &[u8]) -> bool {
    const PT_INTERP: u64 = 3;
    let number = |at: usize, len: usize| -> Option<u64> {
        let mut bytes = [0; 8];
        bytes[..len].copy_from_slice(image.get(at..at.checked_add(len)?)?);
        Some(u64::from_le_bytes(bytes))
    };
    let has_interpreter = || -> Option<bool> {
        let (table, entry, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        for n in 0..count {
            let at = usize::try_from(table.checked_add(n * entry)?).ok()?;
            if number(at, 4)? == PT_INTERP {
                return Some(true);
            }
        }
        Some(false)
    };
    image.starts_with(b"\x7fELF\x02\x01") && has_interpreter() == Some(false)
}

#[cfg(test)]
mod tests {
    use super::is_static;

    #[test]
    fn a_dynamic_executable_is_told_from_others() {
        // The test itself is linked dynamically on the hosts that build this.
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert!(!is_static(&own));
        assert!(!is_static(b"\x7fELF"));
        let mut header = vec![0; 64];
        header[..6].copy_from_slice(b"\x7fELF\x02\x01");
        assert!(is_static(&header));
    }
}
