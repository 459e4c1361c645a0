//! An event that stays: once raised, everyone who waits for it, now or later, is
//! woken.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use rustix::event::{eventfd, poll, EventfdFlags, PollFd, PollFlags};

/// Ends [`run`](crate::run) from another thread, such as one that waits for
/// SIGTERM. Clones are the same handle.
#[derive(Clone, Debug)]
pub struct StopHandle(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    stopped: AtomicBool,
    event: OwnedFd,
}

impl StopHandle {
    /// A handle that nothing has been stopped by.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<StopHandle> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(StopHandle(Arc::new(Inner {
            stopped: AtomicBool::new(false),
            event,
        })))
    }

    /// Asks for the end; returns at once. Any number of times, and from a signal
    /// handler too.
    pub fn stop(&self) {
        self.0.stopped.store(true, Ordering::SeqCst);
        let _ = rustix::io::write(&self.0.event, &1u64.to_ne_bytes());
    }

    /// Whether the end has been asked for.
    pub fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::SeqCst)
    }

    /// Waits until `fd` is ready for `events`, or is broken; false when the end has
    /// been asked for instead.
    pub(crate) fn wait_for(&self, fd: BorrowedFd<'_>, events: PollFlags) -> io::Result<bool> {
        loop {
            if self.is_stopped() {
                return Ok(false);
            }
            let mut fds = [
                PollFd::from_borrowed_fd(fd, events),
                PollFd::new(self, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) if !fds[0].revents().is_empty() && !self.is_stopped() => return Ok(true),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl AsFd for StopHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}
