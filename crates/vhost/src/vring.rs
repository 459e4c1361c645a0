//! One virtqueue as the message handler of `vhost-user-backend` sees it.
//!
//! Wraps the crate's own vring and adds what it lacks:
//! - *Drain*: when a ring is stopped (`GET_VRING_BASE`) or disabled, the request
//!   that its thread is serving is waited for. Afterwards the available and used
//!   indices agree and nothing of this queue is written to guest memory.
//! - *Requests that stand over*: answered later and out of order, maybe after the ring
//!   has been stopped and started, here or on another daemon.
//! - *Self-kick*: a ring that is started finds what the driver had queued before,
//!   such as requests that a migration's source had not yet taken.
//! - *Ring faults*: a ring whose indices make no sense is left alone until it is
//!   set up anew.
//! - A kick that is lost or replaced never blocks, ends or spins the queue's thread.

mod messages;

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use vhost_user_backend::{VringMutex, VringStateMutGuard, VringT};
use virtio_queue::{DescriptorChain, Error as QueueError, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};

use crate::chain::Table;
use crate::coalesce::Untold;
use crate::dirty_log::LogBitmap;
use crate::pace::{Pace, Wait};
use crate::rings::RingControl;
use crate::standing::{How, Standing};

/// Guest memory as the device maps it.
pub type GuestMem = GuestMemoryMmap<LogBitmap>;

/// Guest memory that the front-end may exchange at any time.
pub type Mem = GuestMemoryAtomic<GuestMem>;

/// How long a drain waits for the request in service before waiting requests are
/// told to give up: a request that ends by itself should not see `EINTR`.
const DRAIN_GRACE: Duration = Duration::from_millis(10);

/// Requests that keep a ring's thread busy while its driver wakes up.
const ENOUGH_LEFT: u16 = 4;

/// How often a thread that looks for a request pauses between looks.
const PAUSES: u32 = 4;

/// `VRING_AVAIL_F_NO_INTERRUPT`: the driver polls its used ring.
const AVAIL_F_NO_INTERRUPT: u16 = 1;

/// One virtqueue.
#[derive(Clone)]
pub struct Vring {
    inner: VringMutex<Mem>,
    mem: Mem,
    ring: Arc<Ring>,
}

#[derive(Default)]
struct Ring {
    /// Position among the connection's rings: the virtqueue's index.
    index: usize,
    control: Option<Arc<RingControl>>,
    epoll: OnceLock<OwnedFd>,
    /// A request is in service. Changes under the lock of `inner` only.
    busy: AtomicBool,
    /// Someone waits for `busy` to end.
    draining: AtomicBool,
    idle_lock: Mutex<()>,
    idle: Condvar,
    /// Ends a rest.
    stopping: Condvar,
    /// The ring makes no sense and is left alone until it is set up anew.
    faulty: AtomicBool,
    /// A malformed chain has been logged since the ring was set up.
    complained: AtomicBool,
    /// It was started and enabled at some time.
    ran: AtomicBool,
    standing: Standing,
    untold: Untold,
    pace: Mutex<Pace>,
    /// Whether the ring runs, or ran and was not stopped, so that its indices are its
    /// own business.
    in_use: AtomicBool,
}

/// A request that has been served: its head and how many bytes were written.
#[derive(Clone, Copy)]
pub(crate) struct Served {
    pub(crate) head: u16,
    pub(crate) len: u32,
}

impl Vring {
    /// Index of the virtqueue.
    pub fn index(&self) -> usize {
        self.ring.index
    }

    /// Whether the ring is started and enabled.
    pub fn is_running(&self) -> bool {
        let state = self.inner.get_ref();
        state.is_enabled() && state.get_queue().ready()
    }

    /// Whether it has been started and enabled at some time.
    pub(crate) fn has_run(&self) -> bool {
        self.ring.ran.load(Ordering::SeqCst)
    }

    /// Tells it where its kicks are registered.
    pub(crate) fn set_epoll(&self, epoll: OwnedFd) {
        let _ = self.ring.epoll.set(epoll);
    }

    /// No further request is taken. [`Vring::drain`] waits for the one in service.
    pub(crate) fn unready(&self) {
        self.inner.set_queue_ready(false);
    }

    /// One of the two conditions of running has come to hold.
    fn note_start(&self) {
        if self.is_running() {
            self.ring.ran.store(true, Ordering::SeqCst);
        }
    }

    /// Where its descriptors are.
    pub(crate) fn table(&self) -> Table {
        let state = self.inner.get_ref();
        table_of(state.get_queue())
    }

    /// What its thread, and nobody else, remembers.
    pub(crate) fn pace(&self) -> MutexGuard<'_, Pace> {
        self.ring
            .pace
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Its requests that stand over.
    pub(crate) fn standing(&self) -> &Standing {
        &self.ring.standing
    }

    /// Answers a request that stands over; while the ring is stopped, keeps the answer.
    /// `false`: there is no such request any more.
    pub(crate) fn answer(&self, token: u64, header: [u8; 16]) -> bool {
        let mut state = self.inner.get_mut();
        let mut standing = self.ring.standing.lock();
        if !self.may_take(state.is_enabled(), state.get_queue()) {
            let kept = standing.keep(token, header);
            self.ring.standing.ready.store(true, Ordering::Relaxed);
            return kept;
        }
        let Some(entry) = standing.take(token) else {
            return false;
        };
        drop(standing);
        self.answer_with(&mut state, entry.head, &header);
        true
    }

    /// Completes the request with `head`, which stood over.
    fn answer_with(&self, state: &mut State<'_>, head: u16, reply: &[u8]) {
        let mem = self.mem.memory();
        let chain = table_of(state.get_queue()).chain(&mem, head);
        let len = chain.map_or(0, |chain| chain.write(&mem, reply));
        self.publish(state, &mem, Served { head, len });
    }

    /// Sends answers that came while the ring was stopped, and takes the next request
    /// that is to be served again, which is in service then.
    pub(crate) fn take_again(&self) -> Option<u16> {
        if !self.ring.standing.ready.load(Ordering::Relaxed) {
            return None;
        }
        let mut state = self.inner.get_mut();
        while self.may_take(state.is_enabled(), state.get_queue()) {
            let entry = self.ring.standing.lock().take_ready();
            let Some(entry) = entry else {
                self.ring.standing.ready.store(false, Ordering::Relaxed);
                return None;
            };
            if let How::Answered(header) = entry.how {
                self.answer_with(&mut state, entry.head, &header);
            } else {
                self.ring.busy.store(true, Ordering::SeqCst);
                return Some(entry.head);
            }
        }
        None
    }

    /// Completes what [`Vring::take_again`] gave, unless it stands over again.
    pub(crate) fn finish_again(&self, head: u16, reply: &[u8]) {
        self.answer_with(&mut self.inner.get_mut(), head, reply);
    }

    /// Whether the front-end goes on with the ring where it was left: then as many
    /// requests have been taken and not answered as stand over. A driver that has been
    /// reset begins at 0, and has forgotten them.
    fn settle_standing(&self) {
        if self.ring.in_use.swap(true, Ordering::SeqCst) {
            return;
        }
        let state = self.inner.get_ref();
        let (base, used) = (
            state.get_queue().next_avail(),
            state.get_queue().next_used(),
        );
        let mut standing = self.ring.standing.lock();
        let count = standing.len();
        if count != 0 && usize::from(base.wrapping_sub(used)) != count {
            log::info!(
                "queue {}: {count} requests that stood over are forgotten: the ring goes on at \
                 {base} with {used} used, so its driver has been reset",
                self.ring.index
            );
            standing.clear();
        }
    }

    /// The ring begins to run.
    fn starts(&self) {
        self.settle_standing();
        if let Some(control) = &self.ring.control {
            control.starts(self.ring.index);
        }
    }

    /// Stops the ring by `stop`, and waits for what is in service.
    fn stop_by(&self, stop: impl FnOnce()) {
        let control = self.ring.control.as_ref();
        let ran = control.filter(|control| control.stops(self.ring.index));
        stop();
        self.drain();
        if ran.is_some() {
            self.ask_for_kicks();
        }
        self.ring.in_use.store(false, Ordering::SeqCst);
        if let Some(control) = ran {
            control.stopped(self.ring.index);
        }
    }

    /// Whoever goes on with a ring may sleep until there is a kick, and the driver kicks
    /// only if what is in the ring asks for it. Nobody else has been told yet that the
    /// ring, which ran, is stopped.
    fn ask_for_kicks(&self) {
        let mut state = self.inner.get_mut();
        let queue = state.get_queue_mut();
        let _ = queue.enable_notification(&*self.mem.memory());
    }

    /// The guest's memory now.
    pub(crate) fn memory(&self) -> impl std::ops::Deref<Target = GuestMem> + Clone {
        self.mem.memory()
    }

    /// True once, until the ring is set up anew: one log line per misbehaving driver.
    pub(crate) fn may_complain(&self) -> bool {
        !self.ring.complained.swap(true, Ordering::Relaxed)
    }

    /// Tells a driver without `VIRTIO_RING_F_EVENT_IDX` not to kick for a while.
    pub(crate) fn silence(&self) {
        let mut state = self.inner.get_mut();
        let queue = state.get_queue_mut();
        if queue.ready() && !queue.event_idx_enabled() {
            let _ = queue.disable_notification(&*self.mem.memory());
        }
    }

    /// Completes `served`, and takes the next request; `None` when there is none, or none
    /// may be taken. The driver will then kick for the next, also where somebody else
    /// goes on with the ring.
    ///
    /// The driver is told of the completion, if it wants to know, at once or a little
    /// later: see [`crate::coalesce`].
    pub(crate) fn advance<'m>(
        &self,
        mem: &'m GuestMem,
        served: Option<Served>,
        pace: &mut Pace,
    ) -> Option<DescriptorChain<&'m GuestMem>> {
        let mut state = self.inner.get_mut();
        if let Some(served) = served {
            self.put_used(&mut state, mem, served);
        }
        let mut looked_again = false;
        let mut waited = false;
        while self.may_take(state.is_enabled(), state.get_queue()) {
            let queue = state.get_queue_mut();
            match queue.iter(mem) {
                Ok(mut offered) => {
                    if let Some(chain) = offered.next() {
                        self.ring.busy.store(true, Ordering::SeqCst);
                        pace.takes();
                        if self.ring.untold.any() && !self.holds_back(&state, mem, pace) {
                            self.tell(&mut state, mem);
                        }
                        return Some(chain);
                    }
                }
                Err(e) => {
                    self.fault(&e);
                    break;
                }
            }
            // Before the look that finds what the driver adds when it is told.
            self.tell(&mut state, mem);
            if !waited {
                waited = true;
                if let Some(wait) = pace.wait(self.poll()) {
                    // Nobody is told that the ring is stopped while its thread may go on.
                    self.ring.busy.store(true, Ordering::SeqCst);
                    drop(state);
                    self.wait(mem, wait, pace);
                    state = self.inner.get_mut();
                    continue;
                }
            }
            match state.get_queue_mut().enable_notification(mem) {
                Ok(false) => break,
                Ok(true) if looked_again => {
                    // Something is said to be there, but nothing can be taken.
                    self.fault(&QueueError::InvalidAvailRingIndex);
                    break;
                }
                Ok(true) => looked_again = true,
                Err(e) => {
                    self.fault(&e);
                    break;
                }
            }
        }
        self.tell(&mut state, mem);
        self.ring.busy.store(false, Ordering::SeqCst);
        drop(state);
        if self.ring.draining.load(Ordering::SeqCst) {
            let _guard = self
                .ring
                .idle_lock
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            self.ring.idle.notify_all();
        }
        None
    }

    /// Waits for a request, as `wait` says, and notes whether one has come.
    fn wait(&self, mem: &GuestMem, wait: Wait, pace: &mut Pace) {
        match wait {
            Wait::Look { longest, asked } => {
                let start = Instant::now();
                if let Some(found) = self.look(mem, start, longest) {
                    pace.looked(found, start.elapsed(), asked);
                }
            }
            Wait::Rest(length) => {
                self.rest(length);
                let state = self.inner.get_ref();
                let queue = state.get_queue();
                pace.rested(offered(queue, mem).unwrap_or(0), queue.size());
            }
        }
    }

    /// Does nothing for `length`, or until the ring is stopped.
    fn rest(&self, length: Duration) {
        let guard = self.ring.idle_lock.lock();
        let guard = guard.unwrap_or_else(PoisonError::into_inner);
        if !self.ring.draining.load(Ordering::SeqCst) {
            let _ = self.ring.stopping.wait_timeout(guard, length);
        }
    }

    /// Looks at the ring until there is a request, or it may not be taken any more, for
    /// no longer than `longest` from `start` on; whether there is one. `None`: it may not
    /// be taken.
    fn look(&self, mem: &GuestMem, start: Instant, longest: Duration) -> Option<bool> {
        loop {
            {
                let state = self.inner.get_ref();
                let queue = state.get_queue();
                if !self.may_take(state.is_enabled(), queue) {
                    return None;
                }
                match offered(queue, mem) {
                    Ok(0) => {}
                    // The caller meets the error.
                    _ => return Some(true),
                }
            }
            // Not all the time: whoever stops the ring needs the lock.
            for _ in 0..PAUSES {
                std::hint::spin_loop();
            }
            if start.elapsed() >= longest {
                return Some(false);
            }
        }
    }

    /// Puts a completion into the used ring, and tells the driver if it wants to know.
    fn publish(&self, state: &mut State<'_>, mem: &GuestMem, served: Served) {
        self.put_used(state, mem, served);
        self.tell(state, mem);
    }

    /// Puts a completion into the used ring.
    fn put_used(&self, state: &mut State<'_>, mem: &GuestMem, served: Served) {
        let queue = state.get_queue_mut();
        match queue.add_used(mem, served.head, served.len) {
            Ok(()) => self.ring.untold.add(),
            Err(QueueError::InvalidDescriptorIndex) => {
                if self.may_complain() {
                    log::warn!(
                        "queue {}: driver offers descriptor {}, beyond its table: ignored",
                        self.ring.index,
                        served.head
                    );
                }
            }
            Err(e) => self.fault(&e),
        }
    }

    /// Tells the driver of what is in the used ring, if it has not been told and wants to
    /// know.
    fn tell(&self, state: &mut State<'_>, mem: &GuestMem) {
        if !self.ring.untold.take() {
            return;
        }
        match wants_interrupt(state.get_queue_mut(), mem) {
            Ok(true) => {
                if let Err(e) = state.signal_used_queue() {
                    log::warn!(
                        "queue {}: failed to signal the driver: {e}",
                        self.ring.index
                    );
                }
            }
            Ok(false) => {}
            Err(e) => self.fault(&e),
        }
    }

    /// Whether what is untold is left so while the request that was taken last is served.
    fn holds_back(&self, state: &State<'_>, mem: &GuestMem, pace: &mut Pace) -> bool {
        let more = offered(state.get_queue(), mem).unwrap_or(0);
        let looked_after = || self.ring.control.as_ref().is_some_and(|c| c.alarm.raise());
        more >= ENOUGH_LEFT && !pace.tells() && looked_after()
    }

    /// For how long the configuration asks to look for a request.
    fn poll(&self) -> Duration {
        let control = self.ring.control.as_ref();
        control.map_or(Duration::ZERO, |control| control.poll)
    }

    /// Tells the driver of what was untold already when `seen` was: the number of its
    /// batch, which is replaced by the one that is seen now. Whether it has changed, or
    /// something is untold.
    pub(crate) fn tell_overdue(&self, seen: &mut u32) -> bool {
        let untold = &self.ring.untold;
        let batch = untold.batch();
        if std::mem::replace(seen, batch) != batch {
            return true;
        }
        if !untold.any() {
            return false;
        }
        let mut state = self.inner.get_mut();
        if untold.batch() == batch {
            let mem = self.mem.memory();
            self.tell(&mut state, &mem);
        }
        true
    }

    /// Whether there is something in the used ring of which the driver was not told.
    pub(crate) fn is_untold(&self) -> bool {
        self.ring.untold.any()
    }

    fn may_take(&self, enabled: bool, queue: &Queue) -> bool {
        enabled
            && queue.ready()
            && !self.ring.faulty.load(Ordering::Relaxed)
            && !self.ring.control.as_ref().is_some_and(|c| c.is_held())
    }

    fn fault(&self, error: &QueueError) {
        if !self.ring.faulty.swap(true, Ordering::Relaxed) {
            log::error!(
                "queue {}: driver's ring makes no sense: {error}: left alone until the driver \
                 resets the device",
                self.ring.index
            );
        }
    }

    /// Waits until no request of this queue is in service. The ring has been
    /// stopped or disabled before.
    pub(crate) fn drain(&self) {
        let ring = &*self.ring;
        // Before the lock is taken: a request that ends after it has been released
        // is bound to see this.
        ring.draining.store(true, Ordering::SeqCst);
        drop(self.inner.get_ref());
        let mut interruption = None;
        let mut guard = ring
            .idle_lock
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        ring.stopping.notify_all();
        while ring.busy.load(Ordering::SeqCst) {
            let (g, timeout) = ring
                .idle
                .wait_timeout(guard, DRAIN_GRACE)
                .unwrap_or_else(PoisonError::into_inner);
            guard = g;
            if timeout.timed_out() && interruption.is_none() {
                interruption = ring.control.as_ref().map(RingControl::interrupt);
            }
        }
        drop(guard);
        ring.draining.store(false, Ordering::SeqCst);
        ring.faulty.store(false, Ordering::Relaxed);
        ring.complained.store(false, Ordering::Relaxed);
    }

    /// Wakes the queue's thread as a kick does.
    pub(crate) fn self_kick(&self) {
        let state = self.inner.get_ref();
        if let Some(kick) = state.get_kick() {
            kick_fd(kick.as_raw_fd());
        }
    }
}

/// A ring under its lock.
type State<'a> = <VringMutex<Mem> as VringStateMutGuard<'a, Mem>>::G;

fn table_of(queue: &Queue) -> Table {
    Table {
        address: queue.desc_table(),
        size: queue.size(),
    }
}

/// How many requests lie in the ring that have not been taken.
fn offered(queue: &Queue, mem: &GuestMem) -> Result<u16, QueueError> {
    let index = queue.avail_idx(mem, Ordering::Relaxed)?;
    Ok(index.0.wrapping_sub(queue.next_avail()))
}

/// Whether the driver wants to be told of what was put into the used ring.
fn wants_interrupt(queue: &mut Queue, mem: &GuestMem) -> Result<bool, QueueError> {
    if queue.event_idx_enabled() {
        return queue.needs_notification(mem);
    }
    // The crate does not look at the flag. The fence is between what was put into
    // the used ring and the flag: the driver clears it before it looks there again.
    std::sync::atomic::fence(Ordering::SeqCst);
    let flags: u16 = mem
        .load(GuestAddress(queue.avail_ring()), Ordering::Relaxed)
        .map_err(QueueError::GuestMemory)?;
    Ok(u16::from_le(flags) & AVAIL_F_NO_INTERRUPT == 0)
}

fn kick_fd(fd: RawFd) {
    // SAFETY: the caller holds the owner of `fd` for as long as this call lasts.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    // Full means that it is readable already.
    let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
}
