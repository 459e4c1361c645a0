//! Packages of Debian: QEMU and the kernel come from backports where the release
//! itself is too old.

use std::path::Path;

use super::sources::{self, Source};
use crate::command::Cmd;
use crate::fail::{Context, Fail, Result};
use crate::progress;

/// First release whose own QEMU and kernel are new enough.
const FIRST_WITHOUT_BACKPORTS: u32 = 13;
const SOURCES_DIR: &str = "/etc/apt/sources.list.d";

/// The package manager, with its lists fetched.
pub struct Apt {
    /// The release to install from, where it is not the default one.
    release: Option<String>,
}

impl Apt {
    /// Sees to it that backports are known where they are needed, and fetches the
    /// lists.
    pub fn prepare() -> Result<Self> {
        let text = std::fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
        let codename = sources::os_release(&text, "VERSION_CODENAME")
            .ok_or_else(|| Fail::new("/etc/os-release names no codename"))?;
        let old = sources::os_release(&text, "ID").as_deref() == Some("debian")
            && sources::os_release(&text, "VERSION_ID")
                .and_then(|v| v.parse().ok())
                .is_some_and(|v: u32| v < FIRST_WITHOUT_BACKPORTS);
        if old {
            add_backports(&codename)?;
        }
        progress::step("fetch the package lists");
        Cmd::new("apt-get").args(["update", "-q"]).output()?;
        Ok(Self {
            release: old.then(|| format!("{codename}-backports")),
        })
    }

    /// Installs `packages`.
    pub fn install(&self, packages: &[&str]) -> Result<()> {
        if packages.is_empty() {
            return Ok(());
        }
        progress::step(format_args!("install {}", packages.join(" ")));
        let mut cmd = Cmd::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "-y", "-q", "--no-install-recommends"]);
        if let Some(release) = &self.release {
            cmd = cmd.args(["-t", release]);
        }
        cmd.args(packages).output().map(drop)
    }

    /// The newest (package, version) that `meta` depends on and whose name
    /// begins with `prefix`.
    pub fn newest_dependency(&self, meta: &str, prefix: &str) -> Result<(String, String)> {
        let text = Cmd::new("apt-cache").args(["show", meta]).output()?;
        newest_dependency(&text, prefix)
            .ok_or_else(|| Fail::new(format!("{meta} depends on no {prefix}*")))
    }

    /// Downloads `package` of `version` into `dir`.
    pub fn download(&self, package: &str, version: &str, dir: &Path) -> Result<()> {
        progress::step(format_args!("download {package}"));
        Cmd::new("apt-get")
            // Its unprivileged user cannot write to our directory.
            .args(["-q", "-o", "APT::Sandbox::User=root", "download"])
            .args([format!("{package}={version}")])
            .dir(dir)
            .output()
            .map(drop)
    }
}

fn add_backports(codename: &str) -> Result<()> {
    let configured = configured();
    if sources::has_backports(codename, &configured) {
        return Ok(());
    }
    let text = sources::backports(codename, &configured).ok_or_else(|| {
        Fail::new(format!(
            "no package source of {codename} is configured to derive its backports from"
        ))
    })?;
    let path = Path::new(SOURCES_DIR).join("ferryfs-backports.sources");
    progress::step(format_args!("add {codename}-backports: {}", path.display()));
    std::fs::write(&path, text).context(path.display())
}

/// Everything the machine has configured.
fn configured() -> Vec<Source> {
    let mut all = Vec::new();
    if let Ok(text) = std::fs::read_to_string("/etc/apt/sources.list") {
        all.extend(sources::parse_list(&text));
    }
    let files = std::fs::read_dir(SOURCES_DIR)
        .into_iter()
        .flatten()
        .flatten();
    for path in files.map(|entry| entry.path()) {
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        match path.extension().and_then(|e| e.to_str()) {
            Some("sources") => all.extend(sources::parse_deb822(&text)),
            Some("list") => all.extend(sources::parse_list(&text)),
            _ => {}
        }
    }
    all
}

/// From the text of `apt-cache show`, which has a stanza per version.
fn newest_dependency(text: &str, prefix: &str) -> Option<(String, String)> {
    text.split("\n\n")
        .filter_map(|stanza| {
            let value = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name));
            let depends = value("Depends: ")?;
            let dependency = depends
                .split(", ")
                .find(|package| package.starts_with(prefix))?;
            let (name, constraint) = dependency.split_once(' ')?;
            let version = constraint.strip_prefix("(= ")?.strip_suffix(')')?;
            Some((name.to_owned(), version.to_owned()))
        })
        .max_by_key(|(_, version)| numbers(version))
}

/// The numbers in a version: enough to order versions of one kernel package.
fn numbers(version: &str) -> Vec<u64> {
    version
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|n| n.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_is_taken() {
        let text = "\
Package: meta
Version: 6.1.176-1
Depends: linux-image-6.1.0-50-cloud-amd64 (= 6.1.176-1)

Package: meta
Version: 6.12.95-1~bpo12+1
Depends: other, linux-image-6.12.95+deb12-cloud-amd64 (= 6.12.95-1~bpo12+1)

Package: meta
Version: 6.1.192-2
Depends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)
";
        let (name, version) = newest_dependency(text, "linux-image-").unwrap();
        assert_eq!(name, "linux-image-6.12.95+deb12-cloud-amd64");
        assert_eq!(version, "6.12.95-1~bpo12+1");
        assert_eq!(newest_dependency("Package: meta\n", "linux-image-"), None);
    }
}
