//! The guest's kernel: taken out of Debian's package, which is not installed, so
//! that the machine's own boot files stay as they are.

use std::path::PathBuf;

use super::apt::{clear, find, Apt};
use crate::fail::{need, Context, Result};
use crate::workspace;

const META: &str = "linux-image-cloud-amd64";
/// What must be built in, since the guest has no modules.
const NEEDED: [&str; 6] = [
    "CONFIG_FUSE_FS",
    "CONFIG_VIRTIO_FS",
    "CONFIG_VIRTIO_PCI",
    "CONFIG_SERIAL_8250",
    "CONFIG_DEVTMPFS",
    "CONFIG_BLK_DEV_INITRD",
];

/// Where the kernel is.
pub fn path() -> PathBuf {
    workspace::cache().join("vmlinuz")
}

/// Where its configuration is.
pub fn config_path() -> PathBuf {
    workspace::cache().join("config")
}

/// Its release, such as 6.12.95, from its configuration.
pub fn version() -> Option<String> {
    let text = std::fs::read_to_string(config_path()).ok()?;
    let line = text
        .lines()
        .find(|line| line.contains("Kernel Configuration"))?;
    line.split_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
        .map(str::to_owned)
}

/// Why the kernel cannot be used; `None` if it can.
pub fn missing() -> Option<String> {
    if !path().is_file() {
        return Some(format!("no guest kernel at {}", path().display()));
    }
    let Ok(config) = std::fs::read_to_string(config_path()) else {
        return Some(format!("no kernel config at {}", config_path().display()));
    };
    let lacks = lacking(&config);
    (!lacks.is_empty()).then(|| format!("the guest kernel lacks {}", lacks.join(", ")))
}

fn lacking(config: &str) -> Vec<&'static str> {
    NEEDED
        .into_iter()
        .filter(|name| !config.lines().any(|line| line == format!("{name}=y")))
        .collect()
}

/// Downloads and unpacks it.
pub fn fetch(apt: &Apt) -> Result<()> {
    let (package, version) = apt.newest_dependency(META, "linux-image-")?;
    let work = workspace::cache().join("unpack");
    apt.unpack(&package, &version, &work)?;
    let boot = work.join("boot");
    let config = find(&boot, |name| name.starts_with("config-"))?;
    let lacks = lacking(&std::fs::read_to_string(&config).context(config.display())?);
    need(lacks.is_empty(), || {
        format!("{package} does not have built in: {}", lacks.join(", "))
    })?;
    // The kernel last: it is what later runs look for.
    for (from, to) in [
        (config, config_path()),
        (find(&boot, |name| name.starts_with("vmlinuz-"))?, path()),
    ] {
        std::fs::rename(&from, &to).context(to.display())?;
    }
    clear(&work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_not_built_in() {
        let all: String = NEEDED.iter().map(|name| format!("{name}=y\n")).collect();
        assert!(lacking(&all).is_empty());
        let module = all.replace("CONFIG_VIRTIO_FS=y", "CONFIG_VIRTIO_FS=m");
        assert_eq!(lacking(&module), ["CONFIG_VIRTIO_FS"]);
    }
}
