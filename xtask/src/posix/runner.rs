//! Where the suites run: on this machine, in a directory of whatever file system.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::suites::Suite;
use super::tools::Tools;
use crate::e2e::process::Process;
use crate::fail::{Context, Result};

/// No suite takes as long, on any mount.
const LIMIT: Duration = Duration::from_secs(900);
/// Who the suites are when they are not root: nobody special, of a group of theirs.
pub const USER: u32 = 2001;
/// Another group of theirs.
pub const GROUP: u32 = 2100;

/// A program with its arguments.
pub struct Line {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Whether it is run by [`USER`].
    pub as_user: bool,
}

impl Line {
    /// Without arguments, by root.
    pub fn new(program: &Path) -> Line {
        Line {
            program: program.to_owned(),
            args: Vec::new(),
            as_user: false,
        }
    }

    /// Appends arguments.
    pub fn args<S: AsRef<OsStr>>(&mut self, args: impl IntoIterator<Item = S>) {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
    }
}

/// Runs programs somewhere. Paths are as these programs see them.
pub trait Runner {
    /// The suites' programs.
    fn tools(&self) -> &Tools;
    /// The directory of a suite.
    fn dir(&self, suite: Suite) -> PathBuf;
    /// Writes a suite's configuration; where.
    fn configure(&mut self, suite: Suite, text: &str) -> Result<PathBuf>;
    /// Runs a program to its end; whether it succeeded, and what it said.
    fn run(&mut self, suite: Suite, line: Line) -> Result<(bool, String)>;
}

/// This machine.
pub struct Here<'a> {
    /// The suites' programs.
    pub tools: &'a Tools,
    /// Where the suites have their directories.
    pub dir: &'a Path,
    /// Beginning of the paths of logs.
    pub logs: PathBuf,
}

impl Here<'_> {
    fn log(&self, suite: Suite, extension: &str) -> PathBuf {
        let mut path = self.logs.clone().into_os_string();
        path.push(format!("-{}.{extension}", suite.name()));
        path.into()
    }
}

impl Runner for Here<'_> {
    fn tools(&self) -> &Tools {
        self.tools
    }

    fn dir(&self, suite: Suite) -> PathBuf {
        self.dir.join(suite.name())
    }

    fn configure(&mut self, suite: Suite, text: &str) -> Result<PathBuf> {
        let path = self.log(suite, "toml");
        std::fs::write(&path, text).context(path.display())?;
        Ok(path)
    }

    fn run(&mut self, suite: Suite, line: Line) -> Result<(bool, String)> {
        let mut command = Command::new(&line.program);
        command.args(&line.args);
        if line.as_user {
            become_user(&mut command);
        }
        let mut process = Process::start(suite.name(), command, &self.log(suite, "log"))?;
        let status = process.wait_end(LIMIT)?;
        Ok((status.success(), process.log()))
    }
}

fn become_user(command: &mut Command) {
    const GROUPS: [u32; 2] = [USER, GROUP];
    let become_it = || {
        // SAFETY: the calls take an array that outlives them, and numbers.
        let rc = unsafe {
            libc::setgroups(GROUPS.len(), GROUPS.as_ptr())
                | libc::setresgid(USER, USER, USER)
                | libc::setresuid(USER, USER, USER)
        };
        match rc {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: three system calls and no allocation, as is required after fork.
    unsafe { command.pre_exec(become_it) };
}
