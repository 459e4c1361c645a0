//! Daemon processes: started, watched, ended.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags};
use rustix::fs::{fcntl_getfl, fcntl_setfl, OFlags};
use rustix::io::Errno;

/// How a daemon can fail to come up or go down.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The program did not start.
    #[error("cannot start {}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It ended before its socket was there.
    #[error("{} ended ({status}) before {} was there; it said:\n{stderr}", program.display(), socket.display())]
    Ended {
        /// The program.
        program: PathBuf,
        /// The socket waited for.
        socket: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// Its standard error.
        stderr: String,
    },
    /// The socket or the end did not come in time.
    #[error("{} did not {what} within {timeout:?}; it said:\n{stderr}", program.display())]
    Timeout {
        /// The program.
        program: PathBuf,
        /// What was waited for.
        what: &'static str,
        /// How long.
        timeout: Duration,
        /// Its standard error.
        stderr: String,
    },
    /// The process could not be asked or told something.
    #[error("cannot {what} {}", program.display())]
    Process {
        /// The program.
        program: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// Finds a program by the path in the environment variable `variable`, or by `name`
/// in PATH.
pub fn find(variable: &str, name: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Some(path.into());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

/// What tells a socket from another one at the same path.
fn identity(path: &Path) -> Option<(u64, u64, i64, i64)> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec()))
}

/// Figures of a process from /proc.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProcessFigures {
    /// Resident memory in bytes.
    pub rss: u64,
    /// Peak resident memory in bytes.
    pub peak_rss: u64,
    /// Open descriptors.
    pub fds: usize,
    /// Threads.
    pub threads: u64,
    /// User and system time so far, in clock ticks of 10 ms.
    pub cpu_ticks: u64,
}

impl ProcessFigures {
    /// Figures of process `pid`.
    ///
    /// # Errors
    /// Of reading /proc, as for a process that is gone or another user's.
    pub fn of(pid: u32) -> io::Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|rest| rest.split_ascii_whitespace().next());
            number.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
        };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // Fields 14 and 15; the name, field 2, may hold anything but ends with ')'.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let times = after_name.split_ascii_whitespace().skip(11).take(2);
        Ok(ProcessFigures {
            rss: field("VmRSS:") * 1024,
            peak_rss: field("VmHWM:") * 1024,
            threads: field("Threads:"),
            fds: std::fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
            cpu_ticks: times.filter_map(|t| t.parse::<u64>().ok()).sum(),
        })
    }
}

/// How long a daemon may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// A running daemon. Killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    program: PathBuf,
    socket: PathBuf,
    child: Child,
    stderr: Arc<Mutex<Said>>,
    reader: JoinHandle<()>,
}

/// What comes through a daemon's standard error.
#[derive(Debug, Default)]
struct Said {
    /// Does not block; none once it has ended.
    pipe: Option<ChildStderr>,
    all: Vec<u8>,
}

impl Said {
    /// Takes all that the pipe holds now.
    fn drain(&mut self) {
        let mut chunk = [0; 4096];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut chunk) {
                Ok(0) => self.pipe = None,
                Ok(n) => self.all.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(_) => self.pipe = None,
            }
        }
    }
}

/// Keeps the pipe empty, so that the daemon never waits for somebody to read.
fn read_along(said: &Mutex<Said>, pipe: &OwnedFd) {
    loop {
        let mut fds = [PollFd::new(pipe, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.drain();
        if said.pipe.is_none() {
            return;
        }
    }
}

impl Daemon {
    /// Starts `program` with `args`, which must make it listen on `socket`, and waits
    /// until the socket is there. It is not connected to: some daemons take one
    /// connection only.
    ///
    /// # Errors
    /// [`SpawnError::Start`], [`SpawnError::Ended`], [`SpawnError::Timeout`].
    pub fn start<S: AsRef<OsStr>>(
        program: impl AsRef<Path>,
        args: impl IntoIterator<Item = S>,
        socket: impl AsRef<Path>,
    ) -> Result<Self, SpawnError> {
        let mut command = Command::new(program.as_ref());
        command.args(args);
        Self::start_command(command, socket)
    }

    /// Like [`start`](Self::start) for a command with an environment or directory of
    /// its own. Standard input and error are taken over.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_command(
        mut command: Command,
        socket: impl AsRef<Path>,
    ) -> Result<Self, SpawnError> {
        let program = PathBuf::from(command.get_program());
        let start = |source| SpawnError::Start {
            program: program.clone(),
            source,
        };
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        // A socket left behind by another daemon is not the one waited for.
        let stale = identity(socket.as_ref());
        let mut child = command.spawn().map_err(start)?;
        let pipe = child.stderr.take();
        let watched = pipe.as_ref().map(|pipe| -> io::Result<OwnedFd> {
            let flags = fcntl_getfl(pipe)?;
            fcntl_setfl(pipe, flags | OFlags::NONBLOCK)?;
            pipe.as_fd().try_clone_to_owned()
        });
        let watched = watched.transpose().map_err(start)?;
        let all = Vec::new();
        let stderr = Arc::new(Mutex::new(Said { pipe, all }));
        let said = Arc::clone(&stderr);
        let reader = std::thread::spawn(move || {
            if let Some(pipe) = watched {
                read_along(&said, &pipe);
            }
        });
        let socket = socket.as_ref().to_owned();
        let mut daemon = Daemon {
            program,
            socket,
            child,
            stderr,
            reader,
        };
        daemon.wait_for_socket(stale, START_TIMEOUT)?;
        Ok(daemon)
    }

    fn wait_for_socket(
        &mut self,
        stale: Option<(u64, u64, i64, i64)>,
        timeout: Duration,
    ) -> Result<(), SpawnError> {
        let deadline = Instant::now() + timeout;
        while matches!(identity(&self.socket), found if found.is_none() || found == stale) {
            if let Some(status) = self.try_wait()? {
                return Err(SpawnError::Ended {
                    program: self.program.clone(),
                    socket: self.socket.clone(),
                    status,
                    stderr: self.final_stderr(),
                });
            }
            if Instant::now() >= deadline {
                return Err(self.timed_out("listen", timeout));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn timed_out(&self, what: &'static str, timeout: Duration) -> SpawnError {
        SpawnError::Timeout {
            program: self.program.clone(),
            what,
            timeout,
            stderr: self.stderr(),
        }
    }

    fn process(&self, what: &'static str, source: io::Error) -> SpawnError {
        SpawnError::Process {
            program: self.program.clone(),
            what,
            source,
        }
    }

    /// The socket it listens on.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its process id: that of the process that was started.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The process that serves: its child where it has one, as a daemon that is
    /// confined to a process id namespace does once it has been met by a front-end.
    pub fn serving_pid(&self) -> u32 {
        let pid = self.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.unwrap_or_default();
        let first = children.split_ascii_whitespace().next();
        first.and_then(|pid| pid.parse().ok()).unwrap_or(pid)
    }

    /// What it wrote to standard error so far, to the last byte: what it says before it
    /// answers is there when its answer is.
    pub fn stderr(&self) -> String {
        let mut said = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        said.drain();
        String::from_utf8_lossy(&said.all).into_owned()
    }

    /// All it wrote to standard error, after it ended.
    fn final_stderr(&mut self) -> String {
        // The pipe is closed now, unless a child of its own outlives it.
        let deadline = Instant::now() + Duration::from_secs(1);
        while !self.reader.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.stderr()
    }

    /// The figures of the process that serves, now.
    ///
    /// # Errors
    /// [`SpawnError::Process`].
    pub fn figures(&self) -> Result<ProcessFigures, SpawnError> {
        ProcessFigures::of(self.serving_pid()).map_err(|e| self.process("read figures of", e))
    }

    /// Its exit status, if it has ended.
    ///
    /// # Errors
    /// [`SpawnError::Process`].
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>, SpawnError> {
        let status = self.child.try_wait();
        status.map_err(|e| self.process("wait for", e))
    }

    /// Waits for it to end by itself.
    ///
    /// # Errors
    /// [`SpawnError::Timeout`], [`SpawnError::Process`].
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus, SpawnError> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.try_wait()? {
                // Who waits for the end wants to know all that was said before it.
                self.final_stderr();
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(self.timed_out("end", timeout));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends it SIGTERM, unless it has ended.
    ///
    /// # Errors
    /// [`SpawnError::Process`].
    pub fn terminate(&mut self) -> Result<(), SpawnError> {
        self.signal(rustix::process::Signal::TERM)
    }

    /// Sends it a signal, unless it has ended.
    ///
    /// # Errors
    /// [`SpawnError::Process`].
    pub fn signal(&mut self, signal: rustix::process::Signal) -> Result<(), SpawnError> {
        if self.try_wait()?.is_some() {
            return Ok(());
        }
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).map_err(|e| self.process("signal", e.into()))
    }

    /// Kills it by SIGKILL and waits for the end, that of the process that serves
    /// included.
    ///
    /// # Errors
    /// [`SpawnError::Process`].
    pub fn kill(&mut self) -> Result<ExitStatus, SpawnError> {
        let serving = self.serving_pid();
        // It may have ended already, which is as good.
        let _ = self.child.kill();
        let status = self.child.wait();
        // It goes with its parent, a moment later; a dead one may stay to be reaped.
        let alive = || {
            let threads = std::fs::read_dir(format!("/proc/{serving}/task"));
            // The first thread can be dead while others still hold what is open.
            if threads.is_ok_and(|threads| threads.count() > 1) {
                return true;
            }
            let stat = std::fs::read_to_string(format!("/proc/{serving}/stat"));
            let state = stat.as_ref().ok().and_then(|stat| stat.rsplit_once(") "));
            state.is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
        };
        let deadline = Instant::now() + Duration::from_secs(1);
        while serving != self.pid() && alive() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        status.map_err(|e| self.process("wait for", e))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Nothing can be done about an error here.
        let _ = self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_early_end_carries_status_and_words() {
        let error = Daemon::start(
            "sh",
            ["-c", "echo no such share >&2; exit 3"],
            "/nonexistent/s",
        )
        .expect_err("ends at once");
        let SpawnError::Ended { status, stderr, .. } = error else {
            panic!("{error}")
        };
        assert_eq!(status.code(), Some(3));
        assert_eq!(stderr, "no such share\n");
        let error = Daemon::start("/nonexistent/program", [""; 0], "/x").expect_err("not there");
        assert_eq!(error.to_string(), "cannot start /nonexistent/program");
    }

    #[test]
    fn figures_of_ourselves() {
        let figures = ProcessFigures::of(std::process::id()).expect("figures");
        assert!(figures.rss > 0 && figures.peak_rss >= figures.rss);
        assert!(figures.fds >= 3 && figures.threads >= 1);
    }
}
