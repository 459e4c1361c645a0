//! Interrupt coalescing: a driver is not told of each completion by itself while more
//! requests lie in its ring.
//!
//! To tell it is a system call that wakes somebody up, which takes longer than most
//! requests do, and a driver that is told of each of eight completions is woken eight
//! times where it could have found all eight. Completions are in the used ring at once in
//! any case, and a driver that polls sees them.
//!
//! Nothing may depend on a completion being told only when a later request is through: the
//! host can be slow, or wait (of all things) for the guest. So a driver is told
//! - before the ring's thread waits for the next request,
//! - of the first completion of a batch, and again when [`pace`](crate::pace) says so,
//! - when few requests are left: it takes time until it is awake and adds others,
//! - and, where a request in service takes longer than a [`TICK`], by a thread that looks
//!   after all rings of the connection. It sleeps as long as nothing is held back.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use crate::rings::Rings;

/// How often is looked after completions that are held back; none is for longer than two
/// of these.
const TICK: Duration = Duration::from_millis(5);

/// Ticks with nothing held back, after which the thread sleeps.
const QUIET_TICKS: u32 = 20;

/// What the driver of one ring has not been told of.
#[derive(Debug, Default)]
pub(crate) struct Untold {
    /// Completions. Changes under the ring's lock only.
    count: AtomicU32,
    /// Goes up with the first completion after the driver has been told: tells that what
    /// is untold is something else than before.
    batch: AtomicU32,
}

impl Untold {
    /// One completion more.
    pub(crate) fn add(&self) {
        let count = self.count.load(Ordering::Relaxed);
        if count == 0 {
            let batch = self.batch.load(Ordering::Relaxed);
            self.batch.store(batch.wrapping_add(1), Ordering::Relaxed);
        }
        // Before `Alarm::asleep` is looked at, see there.
        self.count.store(count + 1, Ordering::SeqCst);
    }

    /// The driver is told now; whether there is something to tell.
    pub(crate) fn take(&self) -> bool {
        let any = self.any();
        if any {
            self.count.store(0, Ordering::SeqCst);
        }
        any
    }

    /// Whether there is something to tell.
    pub(crate) fn any(&self) -> bool {
        self.count.load(Ordering::SeqCst) != 0
    }

    /// Which completions are untold, if any are; tells them apart from later ones.
    pub(crate) fn batch(&self) -> u32 {
        self.batch.load(Ordering::Relaxed)
    }
}

/// How the thread that looks after all rings is woken.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    thread: OnceLock<Thread>,
    /// It sleeps until it is woken. It looks at each [`Untold`] after it has set this, and
    /// a ring's thread looks here after it has held something back: one sees the other.
    asleep: AtomicBool,
    ended: AtomicBool,
}

impl Alarm {
    /// Something is held back. Whether anybody looks after it.
    pub(crate) fn raise(&self) -> bool {
        let Some(thread) = self.thread.get() else {
            return false;
        };
        if self.asleep.load(Ordering::SeqCst) && self.asleep.swap(false, Ordering::SeqCst) {
            thread.unpark();
        }
        true
    }
}

/// The thread that looks after completions that are held back, until this is dropped.
pub(crate) struct Keeper {
    rings: Arc<Rings>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts it for a connection's rings.
    ///
    /// # Errors
    /// There is no room for another thread.
    pub(crate) fn start(rings: &Arc<Rings>) -> io::Result<Keeper> {
        let kept = Arc::clone(rings);
        let thread = std::thread::Builder::new()
            .name("vring_keeper".into())
            .spawn(move || look_after(&kept))?;
        let _ = rings.alarm().thread.set(thread.thread().clone());
        Ok(Keeper {
            rings: Arc::clone(rings),
            thread: Some(thread),
        })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.rings.alarm().ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                log::error!("the thread that looks after the queues panicked: please report it");
            }
        }
    }
}

fn look_after(rings: &Rings) {
    let alarm = rings.alarm();
    let ended = || alarm.ended.load(Ordering::SeqCst);
    let mut seen = vec![0; rings.all().len()];
    let mut quiet = 0;
    while !ended() {
        let mut busy = false;
        for (vring, seen) in rings.all().iter().zip(&mut seen) {
            busy |= vring.tell_overdue(seen);
        }
        quiet = if busy { 0 } else { quiet + 1 };
        if quiet < QUIET_TICKS {
            std::thread::park_timeout(TICK);
            continue;
        }
        alarm.asleep.store(true, Ordering::SeqCst);
        if rings.all().iter().any(|vring| vring.is_untold()) {
            alarm.asleep.store(false, Ordering::SeqCst);
        }
        while alarm.asleep.load(Ordering::SeqCst) && !ended() {
            std::thread::park();
        }
        quiet = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_untold_is_told_once() {
        let untold = Untold::default();
        assert!(!untold.take());
        for n in 1..=3 {
            untold.add();
            assert_eq!((untold.any(), untold.batch()), (true, 1), "{n}");
        }
        assert!(untold.take() && !untold.take() && !untold.any());
        untold.add();
        assert_eq!(untold.batch(), 2);
    }

    #[test]
    fn nothing_is_held_back_where_nobody_looks_after_it() {
        assert!(!Alarm::default().raise());
    }
}
