//! eventfd: how a ring is kicked and how it calls back.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::{eventfd, EventfdFlags};
use rustix::io::Errno;

/// A non-blocking eventfd.
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// A new one with a first count of `initial`.
    ///
    /// # Errors
    /// Of eventfd(2).
    pub fn new(initial: u32) -> io::Result<Self> {
        Ok(EventFd(eventfd(
            initial,
            EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK,
        )?))
    }

    /// Adds one. A counter that is full already says what is to be said.
    ///
    /// # Errors
    /// Of write(2).
    pub fn signal(&self) -> io::Result<()> {
        match rustix::io::write(&self.0, &1u64.to_ne_bytes()) {
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Takes the count and sets it to zero.
    ///
    /// # Errors
    /// Of read(2).
    pub fn take(&self) -> io::Result<u64> {
        let mut count = [0; 8];
        match rustix::io::read(&self.0, &mut count) {
            Ok(_) => Ok(u64::from_ne_bytes(count)),
            Err(Errno::AGAIN) => Ok(0),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits until the count is not zero; false when the deadline passes.
    ///
    /// # Errors
    /// Of poll(2).
    pub fn wait(&self, deadline: Instant) -> io::Result<bool> {
        crate::wire::wait_readable(&self.0, deadline)
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
