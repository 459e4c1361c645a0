//! The process outside of the namespaces, while the one inside serves.
//!
//! It hands on the signals that ask for an end, and comes back when the other one
//! has ended: to remove what has a name on the host, and to end in the same way.

use std::io;
use std::os::fd::OwnedFd;

use caps::Capability;
use rustix::process::{waitpid, Pid, WaitOptions};

use crate::seccomp::{self, SeccompError};

/// The signals that are handed on.
const ENDING: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// What is kept for the end: to signal a process that is another user by then, and to
/// remove the socket from a directory of any owner.
const KEPT: [Capability; 3] = [
    Capability::CAP_KILL,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
];

/// How the process that served ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildEnd {
    /// By itself, with this code.
    Exited(u8),
    /// By this signal.
    Killed(i32),
}

/// Why waiting failed.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// Capabilities could not be dropped.
    #[error("failed to drop capabilities: {0}")]
    Capabilities(String),
    /// System calls could not be restricted.
    #[error("failed to restrict system calls")]
    Seccomp(#[source] SeccompError),
    /// The kernel refused.
    #[error("failed to {what}")]
    System {
        /// The step.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// The waiting process' view of the serving one, which ends with it.
#[derive(Debug)]
pub struct Waiting {
    child: Pid,
    _alive: OwnedFd,
}

impl Waiting {
    pub(crate) fn new(child: Pid, alive: OwnedFd) -> Waiting {
        Waiting {
            child,
            _alive: alive,
        }
    }

    /// The serving process, as the host numbers it.
    pub fn pid(&self) -> i32 {
        self.child.as_raw_nonzero().get()
    }

    /// Gives up what waiting does not need, and waits.
    ///
    /// # Errors
    /// See [`WaitError`]. The serving process ends with this one.
    pub fn wait(self, seccomp: seccomp::Action) -> Result<ChildEnd, WaitError> {
        let failed = |what| move |source: io::Error| WaitError::System { what, source };
        crate::drop_capabilities(&KEPT).map_err(WaitError::Capabilities)?;
        rustix::thread::set_no_new_privs(true)
            .map_err(|e| failed("give up new privileges")(e.into()))?;
        seccomp::apply(seccomp, seccomp::Role::Waiting).map_err(WaitError::Seccomp)?;
        let set = signal_set(&[ENDING.as_slice(), &[libc::SIGCHLD]].concat());
        loop {
            let mut number = 0;
            // SAFETY: both pointers are valid for the call.
            let rc = unsafe { libc::sigwait(&set, &mut number) };
            if rc != 0 {
                return Err(failed("wait for signals")(io::Error::from_raw_os_error(rc)));
            }
            if number != libc::SIGCHLD {
                let value = libc::sigval {
                    sival_ptr: std::ptr::null_mut(),
                };
                // Queued (SI_QUEUE), which tells it from one that was sent to the
                // serving process directly.
                // SAFETY: the pointer is a value that is handed over as it is. The
                // child is not reaped yet, so its number is its own.
                let rc = unsafe { libc::sigqueue(self.pid(), number, value) };
                if rc != 0 {
                    log::warn!(
                        "cannot hand signal {number} on to the serving process: {}",
                        io::Error::last_os_error()
                    );
                }
                continue;
            }
            let ended = waitpid(Some(self.child), WaitOptions::NOHANG)
                .map_err(|e| failed("wait for the serving process")(e.into()))?;
            // None when it was only stopped or continued.
            if let Some((_, status)) = ended {
                if let Some(signal) = status.terminating_signal() {
                    return Ok(ChildEnd::Killed(signal));
                }
                if let Some(code) = status.exit_status() {
                    return Ok(ChildEnd::Exited(code as u8));
                }
            }
        }
    }
}

fn signal_set(numbers: &[libc::c_int]) -> libc::sigset_t {
    // SAFETY: an all-zero sigset_t is valid storage, and sigemptyset sets it up.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is valid for writing; the numbers are valid signals.
    unsafe {
        libc::sigemptyset(&mut set);
        for number in numbers {
            libc::sigaddset(&mut set, *number);
        }
    }
    set
}

fn change_mask(how: libc::c_int, numbers: &[libc::c_int]) -> io::Result<()> {
    let set = signal_set(numbers);
    // SAFETY: `set` is initialised; a null old set is allowed.
    match unsafe { libc::pthread_sigmask(how, &set, std::ptr::null_mut()) } {
        0 => Ok(()),
        rc => Err(io::Error::from_raw_os_error(rc)),
    }
}

/// Before the fork: a signal that comes in between is then not lost to either. The
/// first process of a namespace would not even be ended by one it does not expect.
pub(crate) fn block_signals() -> io::Result<()> {
    // Ignored, as it can have been inherited, children would vanish unseen.
    // SAFETY: the default action runs no code of this process.
    if unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    change_mask(
        libc::SIG_BLOCK,
        &[ENDING.as_slice(), &[libc::SIGCHLD]].concat(),
    )
}

/// In the serving process, which has no children.
pub(crate) fn unblock_child_signal() -> io::Result<()> {
    change_mask(libc::SIG_UNBLOCK, &[libc::SIGCHLD])
}
