//! `setup-e2e`: what the end-to-end tests need of the machine. Quick when all is
//! there already. `setup-peers`: other projects' daemons, to be measured beside ours.

mod apt;
mod debian;
mod kernel;
mod peers;
mod sources;

use std::path::{Path, PathBuf};

pub use debian::root as debian_root;

use crate::command::{exists, Cmd};
use crate::fail::{need, Fail, Result};
use crate::progress;

pub use self::peers::{run as peers, virtiofsd_c};

/// First QEMU whose vhost-user-fs device migrates its back-end's state.
const QEMU_MIN: (u32, u32) = (8, 2);
const QEMU: &str = "qemu-system-x86_64";

/// What the end-to-end tests run.
#[derive(Debug)]
pub struct Tools {
    /// The emulator's name.
    pub qemu: &'static str,
    /// The guest's kernel.
    pub kernel: PathBuf,
    /// The guest's shell and tools, static.
    pub busybox: PathBuf,
}

/// Finds the tools, or says in plain words what is missing.
pub fn find() -> Result<Tools> {
    let missing: Vec<String> = [qemu_missing(), busybox_missing(), kernel::missing()]
        .into_iter()
        .flatten()
        .collect();
    need(missing.is_empty(), || {
        format!(
            "the end-to-end tests cannot run here:\n  - {}\n`cargo xtask setup-e2e` (as root, on Debian) sees to that",
            missing.join("\n  - ")
        )
    })?;
    Ok(Tools {
        qemu: QEMU,
        kernel: kernel::path(),
        busybox: busybox().unwrap_or_default(),
    })
}

/// Installs what is missing.
pub fn run() -> Result<Tools> {
    need(cfg!(target_arch = "x86_64"), || {
        "the end-to-end guest is x86-64, and so must this machine be".into()
    })?;
    let mut packages = Vec::new();
    if let Some(why) = qemu_missing() {
        progress::step(format_args!("QEMU: {why}"));
        packages.push("qemu-system-x86");
    }
    if let Some(why) = busybox_missing() {
        progress::step(format_args!("busybox: {why}"));
        packages.push("busybox-static");
    }
    let kernel = kernel::missing();
    if let Some(why) = &kernel {
        progress::step(format_args!("kernel: {why}"));
    }
    // For some checks only, which are left out elsewhere.
    if !exists("mkfs.btrfs") && can_install() {
        progress::step("btrfs: mkfs.btrfs is not installed");
        packages.push("btrfs-progs");
    }
    if !packages.is_empty() || kernel.is_some() {
        need_debian(&packages)?;
        let apt = apt::Apt::prepare()?;
        apt.install(&packages)?;
        if kernel.is_some() {
            kernel::fetch(&apt)?;
        }
    }
    let tools = find()?;
    progress::step(format_args!(
        "ready: {} {}, kernel {}, {}",
        tools.qemu,
        qemu_version().map_or_else(String::new, |(a, b)| format!("{a}.{b}")),
        kernel::version().unwrap_or_default(),
        tools.busybox.display()
    ));
    Ok(tools)
}

fn can_install() -> bool {
    rustix::process::geteuid().is_root() && exists("apt-get") && exists("dpkg-deb")
}

/// Says what to do by hand where this cannot do it.
fn need_debian(packages: &[&str]) -> Result<()> {
    if can_install() {
        return Ok(());
    }
    let version = format!("{}.{}", QEMU_MIN.0, QEMU_MIN.1);
    Err(Fail::new(format!(
        "this needs root and apt. By hand: install QEMU for x86-64 (>= {version}) and a static \
         busybox{}; put a kernel (>= 6.1, FUSE, virtio-fs and virtio-pci built in) and its config at \
         {} and {}",
        if packages.is_empty() {
            " (both are there)".to_owned()
        } else {
            format!(" (missing: {})", packages.join(" "))
        },
        kernel::path().display(),
        kernel::config_path().display(),
    )))
}

fn qemu_version() -> Option<(u32, u32)> {
    parse_qemu_version(&Cmd::new(QEMU).args(["--version"]).output().ok()?)
}

fn parse_qemu_version(text: &str) -> Option<(u32, u32)> {
    let (_, rest) = text.split_once("version ")?;
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn qemu_missing() -> Option<String> {
    let (major, minor) = QEMU_MIN;
    match qemu_version() {
        None => Some(format!("{QEMU} (>= {major}.{minor}) is not installed")),
        Some(found) if found < QEMU_MIN => Some(format!(
            "{QEMU} is {}.{}, but {major}.{minor} is the first to migrate a virtio-fs back-end",
            found.0, found.1
        )),
        Some(_) => None,
    }
}

fn busybox() -> Option<PathBuf> {
    ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .map(Path::new)
        .find(|path| std::fs::read(path).is_ok_and(|image| crate::binaries::is_static(&image)))
        .map(Path::to_owned)
}

fn busybox_missing() -> Option<String> {
    busybox()
        .is_none()
        .then(|| "a static busybox is not installed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemu_tells_its_version() {
        let text = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright";
        assert_eq!(parse_qemu_version(text), Some((10, 0)));
        assert_eq!(
            parse_qemu_version("QEMU emulator version 8.2"),
            Some((8, 2))
        );
        assert_eq!(parse_qemu_version("something else"), None);
        assert!((7, 2) < QEMU_MIN && (8, 2) >= QEMU_MIN);
    }
}
