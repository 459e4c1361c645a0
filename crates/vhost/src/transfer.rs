//! The device-state transfer: `VHOST_USER_SET_DEVICE_STATE_FD` and
//! `VHOST_USER_CHECK_DEVICE_STATE`.
//!
//! A transfer runs in a thread of its own over the front-end's descriptor. It must
//! be able to end when the front-end is gone although the descriptor is not: a
//! front-end may have handed its end to someone who neither reads, writes nor
//! closes. So the descriptor does not block, and waiting for it also waits for the
//! transfer's stop event.

use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::event::PollFlags;
use rustix::fs::{FileType, OFlags};

use crate::crossing::Asker;
use crate::stop::StopHandle;

/// Size asked for the front-end's pipe, in bytes. The default of 64 KiB costs a
/// switch between the two processes for every 64 KiB, in the guest's downtime.
const PIPE_SIZE: usize = 1 << 20;

/// Which way the state goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Save,
    Load,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Direction::Save => "save",
            Direction::Load => "load",
        })
    }
}

/// The one transfer that may run.
#[derive(Default)]
pub(crate) struct Transfers {
    current: Mutex<Option<Current>>,
    /// There is none any more.
    ended: Condvar,
}

struct Current {
    asker: Asker,
    direction: Direction,
    stop: StopHandle,
    /// Taken while someone waits for it.
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Transfers {
    /// Starts `job` over `file` in a thread of its own.
    ///
    /// # Errors
    /// Another transfer runs, or no thread or descriptor is left.
    pub(crate) fn start(
        &self,
        asker: Asker,
        direction: Direction,
        file: File,
        job: impl FnOnce(Channel) -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        let mut current = self.lock();
        if let Some(running) = &*current {
            if !running.thread.as_ref().is_some_and(JoinHandle::is_finished) {
                return Err(io::Error::new(
                    io::ErrorKind::ResourceBusy,
                    format!("a {} is running already", running.direction),
                ));
            }
            log::warn!(
                "nobody asked for the outcome of the last {}: forgotten",
                running.direction
            );
        }
        let stop = StopHandle::new()?;
        let channel = Channel::new(file, stop.clone())?;
        let thread = std::thread::Builder::new()
            .name(format!("state-{direction}"))
            .spawn(move || job(channel))?;
        *current = Some(Current {
            asker,
            direction,
            stop,
            thread: Some(thread),
        });
        Ok(())
    }

    /// Waits for the end of the transfer and answers its outcome, once.
    ///
    /// # Errors
    /// The transfer failed, or there was none.
    pub(crate) fn check(&self) -> io::Result<()> {
        let thread = self.lock().as_mut().and_then(|c| c.thread.take());
        let Some(thread) = thread else {
            return Err(complaint("no state transfer has been started"));
        };
        // Not under the lock: whoever sees the front-end go must be able to abort.
        let outcome = thread
            .join()
            .unwrap_or_else(|_| Err(complaint("the transfer panicked: please report it")));
        *self.lock() = None;
        self.ended.notify_all();
        outcome
    }

    /// Whether a transfer is still at work.
    pub(crate) fn is_running(&self) -> bool {
        let current = self.lock();
        let thread = current.as_ref().and_then(|current| current.thread.as_ref());
        thread.is_some_and(|thread| !thread.is_finished())
    }

    /// Whether there is a transfer that `asker` has asked for.
    pub(crate) fn is_of(&self, asker: Asker) -> bool {
        self.lock()
            .as_ref()
            .is_some_and(|current| current.asker == asker)
    }

    /// Makes a running transfer fail soon; returns at once.
    pub(crate) fn abort(&self) {
        if let Some(current) = &*self.lock() {
            current.stop.stop();
        }
    }

    /// Makes a running transfer fail and waits for its end, whoever else does.
    pub(crate) fn end(&self) {
        self.abort();
        let unasked = self.lock().as_ref().is_some_and(|c| c.thread.is_some());
        if unasked {
            let _ = self.check();
        }
        let mut current = self.lock();
        while current.is_some() {
            current = self
                .ended
                .wait(current)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Current>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An error that nobody else has logged.
fn complaint(why: &str) -> io::Error {
    log::error!("device state: {why}");
    io::Error::other(why)
}

/// The front-end's descriptor. Dropping it is the end of file that the front-end
/// waits for.
pub(crate) struct Channel {
    file: File,
    stop: StopHandle,
}

impl Channel {
    fn new(file: File, stop: StopHandle) -> io::Result<Channel> {
        let flags = rustix::fs::fcntl_getfl(&file)?;
        rustix::fs::fcntl_setfl(&file, flags | OFlags::NONBLOCK)?;
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Fifo {
            // Above fs.pipe-max-size, or over the user's quota: it stays as it is.
            let _ = rustix::pipe::fcntl_setpipe_size(&file, PIPE_SIZE);
        }
        Ok(Channel { file, stop })
    }

    fn retry(
        &self,
        ready: PollFlags,
        mut call: impl FnMut(&File) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            if self.stop.is_stopped() {
                return Err(io::Error::new(
                    io::ErrorKind::ConnectionAborted,
                    "cut short: a front-end came or went, or the daemon is ending",
                ));
            }
            match call(&self.file) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.stop.wait_for(self.file.as_fd(), ready)?;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }
}

impl Read for Channel {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.retry(PollFlags::IN, |mut file| file.read(buf))
    }
}

impl Write for Channel {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.retry(PollFlags::OUT, |mut file| file.write(buf))
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.retry(PollFlags::OUT, |mut file| file.write_vectored(bufs))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    fn pipe() -> (File, File) {
        let (read, write) = rustix::pipe::pipe().unwrap();
        (read.into(), write.into())
    }

    #[test]
    fn a_writer_that_never_ends_does_not_hold_an_aborted_load() {
        let transfers = Transfers::default();
        let (read, mut write) = pipe();
        write.write_all(b"half a state").unwrap();
        let (told, got) = channel();
        transfers
            .start(
                Asker::FrontEnd,
                Direction::Load,
                read,
                move |mut channel| {
                    let mut all = Vec::new();
                    let outcome = channel.read_to_end(&mut all).map(drop);
                    told.send(all).unwrap();
                    outcome
                },
            )
            .unwrap();
        transfers.abort();
        let error = transfers.check().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        assert!(b"half a state".starts_with(&got.recv().unwrap()[..]));
        assert!(transfers.check().is_err(), "an outcome is told once");
    }

    #[test]
    fn a_reader_that_does_not_read_does_not_hold_an_aborted_save() {
        let transfers = Transfers::default();
        let (read, write) = pipe();
        transfers
            .start(Asker::FrontEnd, Direction::Save, write, |mut channel| {
                channel.write_all(&vec![0; 4 * PIPE_SIZE])
            })
            .unwrap();
        let second = transfers.start(Asker::FrontEnd, Direction::Save, pipe().1, |_| Ok(()));
        assert_eq!(second.unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        transfers.end();
        drop(read);
        transfers
            .start(Asker::FrontEnd, Direction::Save, pipe().1, |_| Ok(()))
            .unwrap();
        transfers.check().unwrap();
    }
}
