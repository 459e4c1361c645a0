//! The daemon under test: ferryfsd, or stock virtiofsd for comparison.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::process::Process;
use super::scenario::Mode;
use super::wait;
use crate::binaries;
use crate::fail::{need, Fail, Result};

const START: Duration = Duration::from_secs(20);
/// From the end of its front-end to its own.
const END: Duration = Duration::from_secs(20);

/// Who runs daemons without privileges, and whose the share is then.
pub const NOBODY: u32 = 65534;

/// Which daemon it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ours, or a variant made from it.
    Ferryfsd,
    /// The stock daemon, which has fewer options.
    Virtiofsd,
}

/// An executable.
#[derive(Clone, Debug)]
pub struct Program {
    /// Where it is.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// What it says of its version.
    pub version: String,
}

impl Program {
    /// Looks at the executable at `path`.
    pub fn new(path: PathBuf) -> Result<Self> {
        let version = binaries::version(&path)?;
        let kind = if version.starts_with("virtiofsd") {
            Kind::Virtiofsd
        } else {
            Kind::Ferryfsd
        };
        Ok(Self {
            path,
            kind,
            version,
        })
    }
}

/// How the state comes and goes (ferryfsd).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateBy {
    /// Through the VMM.
    Vmm,
    /// By the control socket.
    ControlSocket,
    /// From a file at the start; and by the control socket later.
    File(PathBuf),
}

/// How a daemon is started.
#[derive(Clone, Debug)]
pub struct Setup {
    /// How its state is to be found again.
    pub mode: Mode,
    /// `--inode-file-handles`.
    pub inodes: &'static str,
    /// What its state is written in (ferryfsd).
    pub format: &'static str,
    /// Whether the guest may collect writes.
    pub writeback: bool,
    /// Whether to survive its front-end (ferryfsd).
    pub keep_listening: bool,
    /// Other options, which both have.
    pub options: &'static [&'static str],
    /// Other options (ferryfsd).
    pub own_options: Vec<String>,
    /// How the state comes and goes.
    pub state_by: StateBy,
    /// Whether it is run by this process' user; otherwise, where that is root, by one who
    /// may do nothing.
    pub privileged: bool,
}

/// A running daemon.
pub struct Daemon {
    process: Process,
    socket: PathBuf,
}

impl Daemon {
    /// Starts one that serves `share` on `socket`.
    pub fn start(
        program: &Program,
        setup: &Setup,
        name: &str,
        share: &Path,
        socket: &Path,
        log: &Path,
    ) -> Result<Self> {
        let mut command = Command::new(&program.path);
        command.arg("--socket-path").arg(socket);
        command.arg("--shared-dir").arg(share);
        command.args(["--cache", "auto", "--xattr", "--log-level", "info"]);
        command.args(["--migration-mode", setup.mode.name()]);
        command.arg(format!("--inode-file-handles={}", setup.inodes));
        if !setup.privileged && rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        if setup.writeback {
            command.arg("--writeback");
        }
        command.args(setup.options);
        match program.kind {
            Kind::Virtiofsd => {
                command.args(["--sandbox", "none", "--seccomp", "none"]);
            }
            Kind::Ferryfsd => {
                command.args(["--state-format", setup.format]);
                // What the guest locks is locked on the host, where every daemon of a
                // journey has to have it in its turn.
                command.args(["--posix-lock", "--flock"]);
                command.args(&setup.own_options);
                if setup.keep_listening {
                    command.arg("--keep-listening");
                }
                if setup.state_by != StateBy::Vmm {
                    command.args(["--migration-type", "external"]);
                    command.arg("--control-socket").arg(control_of(socket));
                }
                if let StateBy::File(path) = &setup.state_by {
                    command.arg("--state-file").arg(path);
                }
            }
        }
        command.env_remove("RUST_LOG");
        let mut daemon = Self {
            process: Process::start(name, command, log)?,
            socket: socket.to_owned(),
        };
        wait::until(&format!("{name}'s socket"), START, || {
            if let Some(status) = daemon.process.ended()? {
                return Err(Fail::new(format!("{name} ended at once: {status}")));
            }
            Ok(daemon.socket.exists().then_some(()))
        })
        .map_err(|e| Fail::new(format!("{e}\n{}", daemon.process.log_tail())))?;
        Ok(daemon)
    }

    /// Where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Where it listens for `ferryctl`, where it does.
    pub fn control(&self) -> PathBuf {
        control_of(&self.socket)
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Waits for it to end as its front-end has, with 0.
    pub fn wait_end(mut self) -> Result<()> {
        let status = self.process.wait_end(END)?;
        need(status.success(), || {
            format!(
                "{} ended with {status}\n{}",
                self.process.name(),
                self.process.log_tail()
            )
        })
    }

    /// The last size of a state that its log tells.
    pub fn state_bytes(&self) -> Option<u64> {
        self.process.log().lines().rev().find_map(state_bytes)
    }
}

fn control_of(socket: &Path) -> PathBuf {
    socket.with_extension("control")
}

/// The bytes in a line such as "state saved: 1234 bytes" or "state bytes=1234".
fn state_bytes(line: &str) -> Option<u64> {
    if !line.contains("state") {
        return None;
    }
    let words: Vec<&str> = line
        .split(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '(' | ')' | ':'))
        .filter(|word| !word.is_empty())
        .collect();
    let unit = words
        .windows(2)
        .find(|pair| pair[1] == "bytes")
        .and_then(|pair| pair[0].parse().ok());
    unit.or_else(|| {
        words
            .iter()
            .find_map(|word| word.strip_prefix("bytes=")?.parse().ok())
    })
}

#[cfg(test)]
mod tests {
    use super::state_bytes;

    #[test]
    fn sizes_of_states_are_found_in_logs() {
        for line in [
            "[INFO vhost] state saved: 1234 bytes in 2 ms",
            "[INFO vhost] saved the state (postcard, 1234 bytes)",
            "[INFO vhost] state bytes=1234 ms=5",
        ] {
            assert_eq!(state_bytes(line), Some(1_234), "{line}");
        }
        assert_eq!(state_bytes("wrote 5 bytes"), None);
        assert_eq!(state_bytes("state is fine"), None);
    }
}
