//! Packages of Debian: QEMU and the kernel come from backports where the release
//! itself is too old.

use std::path::{Path, PathBuf};

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

    /// The newest version of `package` that begins with `prefix`.
    pub fn newest_version(&self, package: &str, prefix: &str) -> Result<String> {
        let text = Cmd::new("apt-cache").args(["show", package]).output()?;
        newest_version(&text, prefix)
            .ok_or_else(|| Fail::new(format!("no package source here has {package} {prefix}*")))
    }

    /// Downloads `package` of `version` and unpacks it into `dir`, which is emptied
    /// before. Nothing of it is installed.
    pub fn unpack(&self, package: &str, version: &str, dir: &Path) -> Result<()> {
        clear(dir)?;
        std::fs::create_dir_all(dir).context(dir.display())?;
        self.download(package, version, dir)?;
        let deb = find(dir, |name| name.ends_with(".deb"))?;
        progress::step(format_args!("unpack {package}"));
        Cmd::new("dpkg-deb")
            .args(["-x".as_ref(), deb.as_os_str(), dir.as_os_str()])
            .output()?;
        std::fs::remove_file(&deb).context(deb.display())
    }

    /// Downloads `package` of `version` into `dir`.
    fn download(&self, package: &str, version: &str, dir: &Path) -> Result<()> {
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

/// Removes a directory, if it is there.
pub fn clear(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).context(dir.display()),
        _ => Ok(()),
    }
}

/// The entry of `dir` whose name is `wanted`.
pub fn find(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    std::fs::read_dir(dir)
        .context(dir.display())?
        .flatten()
        .find(|entry| entry.file_name().to_str().is_some_and(&wanted))
        .map(|entry| entry.path())
        .ok_or_else(|| {
            Fail::new(format!(
                "the package has nothing like it in {}",
                dir.display()
            ))
        })
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
pub fn configured() -> Vec<Source> {
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

/// From the text of `apt-cache show`, which has a stanza per version.
fn newest_version(text: &str, prefix: &str) -> Option<String> {
    text.lines()
        .filter_map(|line| line.strip_prefix("Version: "))
        .filter(|version| version.starts_with(prefix))
        .max_by_key(|version| numbers(version))
        .map(str::to_owned)
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

    #[test]
    fn the_newest_of_an_older_series_is_taken() {
        let text = "\
Package: qemu
Version: 1:10.0.2+ds-2+deb13u1~bpo12+1

Package: qemu
Version: 1:7.2+dfsg-7+deb12u15

Package: qemu
Version: 1:7.2+dfsg-7+deb12u18+b3
";
        let newest = newest_version(text, "1:7.2").unwrap();
        assert_eq!(newest, "1:7.2+dfsg-7+deb12u18+b3");
        assert_eq!(newest_version(text, "1:8.2"), None);
    }
}
