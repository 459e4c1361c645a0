//! What the message handler of `vhost-user-backend` does with a ring.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex};

use rustix::fs::{FileType, OFlags};
use vhost_user_backend::{VringMutex, VringStateGuard, VringStateMutGuard, VringT};
use virtio_queue::{Error as QueueError, QueueT};

use super::{kick_fd, Mem, Ring, Vring};
use crate::pace::Pace;
use crate::rings::Rings;

/// Takes a kick only if it is an eventfd, and makes reading it never block.
///
/// A pipe whose other end is closed would wake the queue's thread forever, and
/// there is nothing to be read from a file. The file's flag is shared with the
/// front-end, which only ever writes to it.
fn accept_kick(file: File, index: usize) -> Option<File> {
    let checked = rustix::fs::fstat(&file).and_then(|stat| {
        // An eventfd, as every anonymous inode, has no file type.
        if FileType::from_raw_mode(stat.st_mode) != FileType::Unknown {
            return Err(rustix::io::Errno::INVAL);
        }
        let flags = rustix::fs::fcntl_getfl(&file)?;
        rustix::fs::fcntl_setfl(&file, flags | OFlags::NONBLOCK)
    });
    match checked {
        Ok(()) => Some(file),
        Err(e) => {
            log::error!("queue {index}: kick descriptor is no eventfd: ring is not started: {e}");
            None
        }
    }
}

impl<'a> VringStateGuard<'a, Mem> for Vring {
    type G = <VringMutex<Mem> as VringStateGuard<'a, Mem>>::G;
}

impl<'a> VringStateMutGuard<'a, Mem> for Vring {
    type G = <VringMutex<Mem> as VringStateMutGuard<'a, Mem>>::G;
}

impl VringT<Mem> for Vring {
    fn new(mem: Mem, max_queue_size: u16) -> Result<Vring, QueueError> {
        let inner = VringMutex::new(mem.clone(), max_queue_size)?;
        Ok(Rings::add(|index, control| Vring {
            inner,
            mem,
            ring: Arc::new(Ring {
                index,
                control: control.cloned(),
                pace: Mutex::new(Pace::of(index)),
                ..Ring::default()
            }),
        }))
    }

    fn get_ref(&self) -> <Self as VringStateGuard<'_, Mem>>::G {
        self.inner.get_ref()
    }

    fn get_mut(&self) -> <Self as VringStateMutGuard<'_, Mem>>::G {
        self.inner.get_mut()
    }

    fn add_used(&self, desc_index: u16, len: u32) -> Result<(), QueueError> {
        self.inner.add_used(desc_index, len)
    }

    fn signal_used_queue(&self) -> io::Result<()> {
        self.inner.signal_used_queue()
    }

    fn enable_notification(&self) -> Result<bool, QueueError> {
        self.inner.enable_notification()
    }

    fn disable_notification(&self) -> Result<(), QueueError> {
        self.inner.disable_notification()
    }

    fn needs_notification(&self) -> Result<bool, QueueError> {
        self.inner.needs_notification()
    }

    fn set_enabled(&self, enabled: bool) {
        if !enabled {
            self.stop_by(|| self.inner.set_enabled(false));
            return;
        }
        if self.inner.get_ref().get_queue().ready() {
            self.starts();
        }
        self.inner.set_enabled(true);
        self.note_start();
        // A kick may have been taken while the ring was disabled.
        self.self_kick();
    }

    fn set_queue_info(
        &self,
        desc_table: u64,
        avail_ring: u64,
        used_ring: u64,
    ) -> Result<(), QueueError> {
        self.inner.set_queue_info(desc_table, avail_ring, used_ring)
    }

    fn queue_next_avail(&self) -> u16 {
        self.inner.queue_next_avail()
    }

    fn set_queue_next_avail(&self, base: u16) {
        self.inner.set_queue_next_avail(base);
    }

    fn set_queue_next_used(&self, idx: u16) {
        self.inner.set_queue_next_used(idx);
    }

    fn queue_used_idx(&self) -> Result<u16, QueueError> {
        self.inner.queue_used_idx()
    }

    fn set_queue_size(&self, num: u16) {
        if !num.is_power_of_two() {
            log::error!(
                "queue {}: size {num} of the front-end is no power of two: ignored",
                self.ring.index
            );
            return;
        }
        self.inner.set_queue_size(num);
    }

    fn set_queue_event_idx(&self, enabled: bool) {
        self.inner.set_queue_event_idx(enabled);
    }

    fn set_queue_ready(&self, ready: bool) {
        if !ready {
            self.stop_by(|| self.inner.set_queue_ready(false));
            return;
        }
        if self.inner.get_ref().is_enabled() {
            self.starts();
        } else {
            self.settle_standing();
        }
        self.inner.set_queue_ready(true);
        self.note_start();
    }

    fn set_kick(&self, file: Option<File>) {
        let file = file.and_then(|f| accept_kick(f, self.ring.index));
        if let Some(file) = &file {
            // Whatever is in the ring already is served as soon as it starts.
            kick_fd(file.as_raw_fd());
        }
        {
            let mut state = self.inner.get_mut();
            if let (Some(old), Some(epoll)) = (state.get_kick(), self.ring.epoll.get()) {
                // The front-end holds the same eventfd, so closing it does not take it
                // out of the queue thread's epoll set: it would wake the thread forever.
                // SAFETY: `state` owns the descriptor and is locked.
                let old = unsafe { BorrowedFd::borrow_raw(old.as_raw_fd()) };
                let _ = rustix::event::epoll::delete(epoll, old);
            }
            // A running ring's new kick is registered only with a start.
            state.get_queue_mut().set_ready(false);
        }
        self.inner.set_kick(file);
    }

    fn read_kick(&self) -> io::Result<bool> {
        let state = self.inner.get_ref();
        if let Some(kick) = state.get_kick() {
            // Nothing to read means that the kick that woke us has been replaced. No
            // error may get out of here: it would end the queue's thread.
            let _ = kick.consume();
        }
        Ok(state.is_enabled())
    }

    fn set_call(&self, file: Option<File>) {
        self.inner.set_call(file);
    }

    fn set_err(&self, file: Option<File>) {
        self.inner.set_err(file);
    }
}
