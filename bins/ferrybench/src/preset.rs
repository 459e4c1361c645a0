//! The daemons that are known by name: how they are found, and how they are told
//! what to do.

use std::path::{Path, PathBuf};
use std::process::Command;

use ferryfs_frontend::spawn;

use crate::error::BenchError;

/// What is known about a daemon's options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Ours.
    Ferryfsd,
    /// virtiofsd in Rust.
    Virtiofsd,
    /// virtiofsd in C, as it was part of QEMU up to 7.2.
    VirtiofsdC,
    /// The passthrough of fuse-backend-rs: examples/fuse-backend-fsd.
    FuseBackend,
    /// Any command.
    Unknown,
}

/// A daemon known by name.
#[derive(Debug)]
pub struct Preset {
    /// Its name on the command line and in reports.
    pub name: &'static str,
    /// What it is, for people.
    pub about: &'static str,
    family: Family,
    /// What tells it from the others of its family.
    options: &'static [&'static str],
    confined: bool,
}

impl Preset {
    const fn new(name: &'static str, family: Family, about: &'static str) -> Self {
        Preset {
            name,
            about,
            family,
            options: &[],
            confined: false,
        }
    }

    const fn with(mut self, options: &'static [&'static str]) -> Self {
        self.options = options;
        self
    }

    const fn confined(mut self) -> Self {
        self.confined = true;
        self
    }

    /// Whether it is another project's.
    pub fn is_peer(&self) -> bool {
        self.family != Family::Ferryfsd
    }
}

/// All of them.
pub const PRESETS: [Preset; 9] = [
    Preset::new(
        "ferryfsd",
        Family::Ferryfsd,
        "beside this program, in FERRYFSD or PATH; without a sandbox",
    ),
    Preset::new(
        "ferryfsd-fds",
        Family::Ferryfsd,
        "the same with a descriptor per inode instead of file handles",
    )
    .with(&["--inode-file-handles=never"]),
    Preset::new(
        "ferryfsd-confined",
        Family::Ferryfsd,
        "with the sandbox it chooses itself",
    )
    .confined(),
    Preset::new(
        "virtiofsd",
        Family::Virtiofsd,
        "in VIRTIOFSD or PATH; --sandbox none --seccomp none",
    ),
    Preset::new(
        "virtiofsd-fds",
        Family::Virtiofsd,
        "the same with --inode-file-handles=never",
    )
    .with(&["--inode-file-handles=never"]),
    Preset::new(
        "virtiofsd-confined",
        Family::Virtiofsd,
        "with the sandbox and seccomp filter it chooses itself",
    )
    .confined(),
    Preset::new(
        "virtiofsd-c",
        Family::VirtiofsdC,
        "the one in C that QEMU had up to 7.2, in VIRTIOFSD_C or where Debian or `cargo xtask \
         setup-peers` puts it; chroot and seccomp, as it knows no less",
    ),
    Preset::new(
        "fuse-backend-rs",
        Family::FuseBackend,
        "examples/fuse-backend-fsd, in FUSE_BACKEND_FSD, beside this program or in PATH",
    ),
    Preset::new(
        "fuse-backend-rs-handles",
        Family::FuseBackend,
        "the same with file handles instead of a descriptor per inode",
    )
    .with(&["--inode-file-handles"]),
];

/// The preset of this name.
pub fn named(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}

/// Names of all presets.
pub fn names() -> String {
    let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
    names.join(", ")
}

/// Names of other projects' presets.
pub fn peer_names() -> impl Iterator<Item = &'static str> {
    let peers = PRESETS.iter().filter(|preset| preset.is_peer());
    peers.map(|preset| preset.name)
}

/// A daemon's command, and what is known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Program and arguments, with placeholders.
    pub words: Vec<String>,
    /// Whose options it knows.
    pub family: Family,
    /// Most request queues it serves.
    pub most_queues: usize,
}

/// The directory this program was built into, such as target/release.
fn own_dir() -> Option<PathBuf> {
    Some(std::env::current_exe().ok()?.parent()?.to_owned())
}

/// A program by its variable, or else in the first of `places`, or else in PATH.
fn find(variable: &str, places: &[Option<PathBuf>], name: &str) -> Option<PathBuf> {
    if std::env::var_os(variable).is_none() {
        let place = places.iter().flatten().find(|path| path.is_file());
        if let Some(path) = place {
            return Some(path.clone());
        }
    }
    spawn::find(variable, name)
}

/// A place that setup-peers or the checks put programs in: target/peers.
fn peers(path: &str) -> Option<PathBuf> {
    Some(own_dir()?.parent()?.join("peers").join(path))
}

impl Family {
    /// The variable that says where its program is, the program, and how to get it.
    fn program(self) -> (Option<PathBuf>, &'static str, &'static str) {
        let beside = |name: &str| own_dir().map(|dir| dir.join(name));
        match self {
            Family::Ferryfsd => (
                find("FERRYFSD", &[beside("ferryfsd")], "ferryfsd"),
                "FERRYFSD",
                "`cargo build -p ferryfsd` makes it",
            ),
            Family::Virtiofsd => (
                // The one of the system first: it is what this machine's guests have.
                spawn::find("VIRTIOFSD", "virtiofsd")
                    .or_else(|| peers("bin/virtiofsd").filter(|path| path.is_file())),
                "VIRTIOFSD",
                "`cargo install virtiofsd` makes it, with libcap-ng and libseccomp",
            ),
            Family::VirtiofsdC => (
                find(
                    "VIRTIOFSD_C",
                    &[
                        peers("qemu-7.2/usr/lib/qemu/virtiofsd"),
                        Some("/usr/lib/qemu/virtiofsd".into()),
                        Some("/usr/libexec/virtiofsd".into()),
                    ],
                    // In PATH it would be the one in Rust.
                    "virtiofsd-c",
                ),
                "VIRTIOFSD_C",
                "`cargo xtask setup-peers` fetches it from Debian's QEMU 7.2",
            ),
            Family::FuseBackend => (
                find(
                    "FUSE_BACKEND_FSD",
                    &[beside("fuse-backend-fsd")],
                    "fuse-backend-fsd",
                ),
                "FUSE_BACKEND_FSD",
                "`cargo build -p fuse-backend-fsd` makes it",
            ),
            Family::Unknown => (None, "PATH", "it has no name here"),
        }
    }

    /// The options that make it serve extended attributes.
    pub fn xattr(self) -> &'static [&'static str] {
        match self {
            Family::Ferryfsd | Family::Virtiofsd | Family::FuseBackend => &["--xattr"],
            Family::VirtiofsdC => &["-o", "xattr"],
            Family::Unknown => &[],
        }
    }

    /// Whether it knows `--migration-mode`.
    pub fn migrates(self) -> bool {
        matches!(self, Family::Ferryfsd | Family::Virtiofsd)
    }
}

/// Whether a program's --help speaks of `option`.
fn knows(program: &Path, option: &str) -> bool {
    let help = Command::new(program).arg("--help").output();
    help.is_ok_and(|help| String::from_utf8_lossy(&help.stdout).contains(option))
}

/// Whether root may have a chroot only, as in most containers.
fn namespaces_are_given() -> bool {
    let mut probe = Command::new("unshare");
    probe.args(["--pid", "--net", "--mount", "true"]);
    probe.stderr(std::process::Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

impl Preset {
    /// Its command on this machine.
    ///
    /// # Errors
    /// [`BenchError::Usage`] where its program is not there.
    pub fn resolve(&self) -> Result<Resolved, BenchError> {
        let (program, variable, how) = self.family.program();
        let Some(program) = program else {
            return Err(BenchError::Usage(format!(
                "no {} found: {how}; or say where it is in the environment variable {variable}",
                self.name
            )));
        };
        let mut words = vec![program.to_string_lossy().into_owned()];
        let mut add = |options: &[&str]| words.extend(options.iter().map(|o| (*o).to_owned()));
        let mut most_queues = 1;
        match self.family {
            Family::Ferryfsd | Family::Virtiofsd => {
                add(&["--socket-path", "{socket}", "--shared-dir", "{share}"]);
                add(&["--log-level", "error"]);
                if !self.confined {
                    add(&["--sandbox", "none"]);
                    if knows(&program, "--seccomp") {
                        add(&["--seccomp", "none"]);
                    }
                }
                if knows(&program, "--request-queues") {
                    add(&["--request-queues", "{queues}"]);
                    most_queues = 63;
                }
            }
            Family::VirtiofsdC => {
                add(&["--socket-path={socket}", "-o", "source={share}"]);
                add(&["-o", "log_level=err"]);
                let sandbox = match namespaces_are_given() {
                    true => "sandbox=namespace",
                    false => "sandbox=chroot",
                };
                add(&["-o", sandbox]);
            }
            Family::FuseBackend => {
                add(&["--socket-path={socket}", "--shared-dir={share}"]);
                add(&["--request-queues={queues}"]);
                most_queues = 31;
            }
            Family::Unknown => {}
        }
        add(self.options);
        Ok(Resolved {
            words,
            family: self.family,
            most_queues,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        for (i, preset) in PRESETS.iter().enumerate() {
            assert_eq!(named(preset.name).map(|p| p.about), Some(preset.about));
            assert!(PRESETS[..i].iter().all(|other| other.name != preset.name));
        }
        assert!(named("other").is_none());
        let peers: Vec<_> = peer_names().collect();
        assert!(peers.contains(&"virtiofsd-c") && peers.contains(&"fuse-backend-rs"));
        assert!(!peers.iter().any(|name| name.starts_with("ferryfsd")));
    }
}
