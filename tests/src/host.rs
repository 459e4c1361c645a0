//! A host: a share, what lies beside it, and daemons.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use ferryfs_frontend::spawn::{Daemon, SpawnError};
use tempfile::TempDir;

use crate::programs;

/// A shared directory between things that are nobody's business, and daemons that
/// serve it.
#[derive(Debug)]
pub struct Host {
    base: TempDir,
    share: PathBuf,
    sockets: AtomicU32,
}

/// More options for every daemon, in the environment, before those that a test gives.
const OPTIONS: &str = "FERRYFS_TEST_OPTIONS";

/// What lies beside every share.
const SENTINEL: &[u8] = b"not shared";

impl Default for Host {
    fn default() -> Self {
        Host::new()
    }
}

impl Host {
    /// A host with an empty share.
    ///
    /// # Panics
    /// When no temporary directory can be made.
    pub fn new() -> Host {
        let base = tempfile::tempdir().expect("temporary directory");
        let share = base.path().join("share");
        for dir in [
            &share,
            &base.path().join("sockets"),
            &base.path().join("outside"),
        ] {
            fs::create_dir(dir).expect("directory");
        }
        fs::write(base.path().join("outside/sentinel"), SENTINEL).expect("sentinel");
        fs::write(base.path().join("sentinel"), SENTINEL).expect("sentinel");
        Host {
            base,
            share,
            sockets: AtomicU32::new(0),
        }
    }

    /// The shared directory.
    pub fn share(&self) -> &Path {
        &self.share
    }

    /// A place in the shared directory.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.share.join(path)
    }

    /// The directory that holds the share and what is beside it.
    pub fn base(&self) -> &Path {
        self.base.path()
    }

    /// A path for a socket that no daemon had before.
    pub fn socket(&self) -> PathBuf {
        let n = self.sockets.fetch_add(1, Ordering::Relaxed);
        self.base.path().join("sockets").join(format!("{n}.sock"))
    }

    /// A daemon's command line on this share, listening on `socket`; confined as by
    /// default, where it can be.
    pub fn command(&self, socket: &Path, options: &[&str]) -> Command {
        self.command_of(&programs::ferryfsd(), socket, options)
    }

    fn command_of(&self, program: &Path, socket: &Path, options: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .arg("--socket-path")
            .arg(socket)
            .arg("--shared-dir")
            .arg(&self.share);
        if !programs::can_be_confined() {
            command.arg("--sandbox=none");
        }
        // Suites are run again with other defaults, such as "--restore-first 0".
        if let Ok(words) = std::env::var(OPTIONS) {
            command.args(words.split_whitespace());
        }
        // What is said last counts.
        command.args(options);
        command
    }

    /// Another daemon on this share.
    ///
    /// # Panics
    /// When it does not start.
    pub fn daemon(&self, options: &[&str]) -> Daemon {
        let socket = self.socket();
        Daemon::start_command(self.command(&socket, options), &socket).expect("ferryfsd starts")
    }

    /// Another daemon on this share, whichever it is.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(&self, program: &Path, options: &[&str]) -> Result<Daemon, SpawnError> {
        let socket = self.socket();
        Daemon::start_command(self.command_of(program, &socket, options), &socket)
    }

    /// Sees that nothing beside the share has changed.
    ///
    /// # Panics
    /// When something has.
    #[track_caller]
    pub fn assert_untouched_outside(&self) {
        if let Some(what) = self.changed_outside() {
            panic!("{what}");
        }
    }

    /// What has changed beside the share.
    pub fn changed_outside(&self) -> Option<String> {
        let names = |dir: &Path| {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
            names.sort();
            names
        };
        let outside = self.base.path().join("outside");
        for (dir, expected) in [
            (
                self.base.path(),
                &["outside", "sentinel", "share", "sockets"][..],
            ),
            (&outside, &["sentinel"][..]),
        ] {
            let found = names(dir);
            if found != expected {
                return Some(format!("beside the share there is {found:?}"));
            }
        }
        for sentinel in ["sentinel", "outside/sentinel"] {
            let path = self.base.path().join(sentinel);
            let links = fs::metadata(&path).map(|meta| meta.nlink()).ok();
            if fs::read(&path).ok().as_deref() != Some(SENTINEL) || links != Some(1) {
                return Some(format!("{} is not what it was", path.display()));
            }
        }
        None
    }
}

/// The lines of `level` (`ERROR`, `WARN`, ..) in a daemon's log.
pub fn lines(daemon: &Daemon, level: &str) -> Vec<String> {
    let level = format!(" {level} ");
    let log = daemon.stderr();
    // A line begins with "[time LEVEL crate]".
    let marked = |line: &&str| line.split(']').next().unwrap_or_default().contains(&level);
    log.lines().filter(marked).map(str::to_owned).collect()
}

/// Sees that a daemon is up, and has neither panicked nor caught a panic.
///
/// # Panics
/// When it is not.
#[track_caller]
pub fn assert_well(daemon: &mut Daemon) {
    let ended = daemon.try_wait().expect("asking for the daemon's end");
    let log = daemon.stderr();
    assert!(ended.is_none(), "ended ({ended:?}):\n{log}");
    assert!(!log.contains("panic"), "panicked:\n{log}");
}
