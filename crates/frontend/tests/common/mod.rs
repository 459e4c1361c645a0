//! Finding and starting the stock daemon.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use ferryfs_frontend::spawn::Daemon;

/// virtiofsd by the variable VIRTIOFSD or in PATH; none after saying so.
pub fn virtiofsd() -> Option<PathBuf> {
    let found = ferryfs_frontend::spawn::find("VIRTIOFSD", "virtiofsd");
    if found.is_none() {
        println!("skipped: no virtiofsd (set VIRTIOFSD or put it into PATH)");
    }
    found
}

/// A shared directory and whatever daemons serve it.
pub struct Share {
    program: PathBuf,
    sockets: tempfile::TempDir,
    dir: tempfile::TempDir,
    count: AtomicU32,
}

impl Share {
    /// An empty share; none without a daemon to serve it.
    pub fn new() -> Option<Self> {
        Some(Share {
            program: virtiofsd()?,
            sockets: tempfile::tempdir().expect("directory for sockets"),
            dir: tempfile::tempdir().expect("shared directory"),
            count: AtomicU32::new(0),
        })
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Another daemon on the share.
    pub fn daemon(&self, extra: &[&str]) -> Daemon {
        let n = self.count.fetch_add(1, Ordering::Relaxed);
        let socket = self.sockets.path().join(format!("{n}.sock"));
        let mut args: Vec<String> = ["--sandbox", "none", "--seccomp", "none", "--tag", "ferry"]
            .iter()
            .chain(extra)
            .map(|s| s.to_string())
            .collect();
        args.push(format!("--socket-path={}", socket.display()));
        args.push(format!("--shared-dir={}", self.path().display()));
        Daemon::start(&self.program, args, &socket).expect("virtiofsd starts")
    }
}
