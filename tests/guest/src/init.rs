//! From process 1 to a guest with the share mounted.

use std::fs::OpenOptions;

use rustix::process::{Resource, Rlimit};

use crate::sys::{self, At, Result};

/// The serial port that the agent answers on; the first one is the console.
const PORT: &str = "/dev/ttyS1";
/// Enough for every check's open files.
const NOFILE: u64 = 65_536;

/// Sets up the system and serves the agent; does not return while it works.
pub fn run() -> Result<()> {
    sys::mount("proc", "/proc", "proc")?;
    sys::mount("sysfs", "/sys", "sysfs")?;
    sys::mount("devtmpfs", "/dev", "devtmpfs")?;
    // A distribution's programs want them, and they are not to be in its root.
    sys::mount("tmpfs", "/run", "tmpfs")?;
    sys::mount("tmpfs", "/tmp", "tmpfs")?;
    rustix::process::umask(rustix::fs::Mode::empty());
    let limit = Rlimit {
        current: Some(NOFILE),
        maximum: Some(NOFILE),
    };
    rustix::process::setrlimit(Resource::Nofile, limit).at("setrlimit")?;
    let port = OpenOptions::new()
        .read(true)
        .write(true)
        .open(PORT)
        .at(format_args!("open {PORT}"))?;
    sys::raw_terminal(&port)?;
    crate::agent::serve(port)
}
