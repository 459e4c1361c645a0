//! The rings of one connection together: what they share, and what is done with all of
//! them at once.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ferryfs_core::service::{Service, StandingRequest};

use crate::coalesce::Alarm;
use crate::vring::Vring;

/// What a drain needs of the server, whatever its type.
pub(crate) trait Waiters: Send + Sync {
    fn interrupt(&self);
    fn resume(&self);
    fn suspend(&self);
    fn proceed(&self);
}

impl<S: Service> Waiters for S {
    fn interrupt(&self) {
        Service::interrupt(self);
    }
    fn resume(&self) {
        Service::resume(self);
    }
    fn suspend(&self) {
        Service::suspend(self);
    }
    fn proceed(&self) {
        Service::proceed(self);
    }
}

/// What all rings of a connection share.
pub(crate) struct RingControl {
    waiters: Arc<dyn Waiters>,
    interruptions: Mutex<usize>,
    /// No request is taken while set: the server's state is being saved or loaded.
    /// Changes under the lock of `running` only.
    held: AtomicBool,
    /// A bit for each ring that is started and enabled.
    running: Mutex<u64>,
    /// Wakes who looks after completions that are held back.
    pub(crate) alarm: Alarm,
    /// How long a ring's thread looks for a request before it sleeps, at least.
    pub(crate) poll: Duration,
}

impl RingControl {
    pub(crate) fn new(waiters: Arc<dyn Waiters>, poll: Duration) -> Arc<RingControl> {
        Arc::new(RingControl {
            waiters,
            interruptions: Mutex::new(0),
            held: AtomicBool::new(false),
            running: Mutex::new(0),
            alarm: Alarm::default(),
            poll,
        })
    }

    fn running(&self) -> MutexGuard<'_, u64> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ring `index` is about to run.
    pub(crate) fn starts(&self, index: usize) {
        let mut running = self.running();
        *running |= 1 << index;
        // Otherwise once the transfer is over.
        if !self.held.load(Ordering::SeqCst) {
            self.waiters.proceed();
        }
    }

    /// Ring `index` is about to stop, and nothing shall be answered while it does.
    pub(crate) fn stops(&self, index: usize) -> bool {
        let running = self.running();
        let ran = *running & 1 << index != 0;
        if ran {
            self.waiters.suspend();
        }
        ran
    }

    /// Ring `index`, which ran, has stopped.
    pub(crate) fn stopped(&self, index: usize) {
        let mut running = self.running();
        *running &= !(1 << index);
        // A device of which only one queue is stopped goes on.
        if *running != 0 && !self.held.load(Ordering::SeqCst) {
            self.waiters.proceed();
        }
    }

    /// Whether no request may be taken.
    pub(crate) fn is_held(&self) -> bool {
        self.held.load(Ordering::SeqCst)
    }

    fn hold(&self) {
        let _running = self.running();
        self.held.store(true, Ordering::SeqCst);
    }

    fn release(&self) {
        let running = self.running();
        if *running != 0 {
            self.waiters.proceed();
        }
        self.held.store(false, Ordering::SeqCst);
    }

    /// Makes requests that wait give up until the answer is dropped. Nests.
    pub(crate) fn interrupt(self: &Arc<Self>) -> Interruption {
        let mut depth = self.depth();
        if *depth == 0 {
            self.waiters.interrupt();
        }
        *depth += 1;
        Interruption(Arc::clone(self))
    }

    fn depth(&self) -> MutexGuard<'_, usize> {
        self.interruptions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`RingControl::interrupt`].
pub(crate) struct Interruption(Arc<RingControl>);

impl Drop for Interruption {
    fn drop(&mut self) {
        let mut depth = self.0.depth();
        *depth -= 1;
        if *depth == 0 {
            self.0.waiters.resume();
        }
    }
}

/// The rings of one connection, in the order of their indices.
pub(crate) struct Rings {
    control: Arc<RingControl>,
    rings: Vec<Vring>,
}

thread_local! {
    // The message handler makes its rings itself, with no word of ours but their
    // memory; this is how they learn to which connection they belong.
    static COLLECTOR: RefCell<Option<Rings>> = const { RefCell::new(None) };
}

impl Rings {
    /// Runs `make`, which makes the rings in this thread, and gathers them.
    pub(crate) fn collect<T>(control: Arc<RingControl>, make: impl FnOnce() -> T) -> (Rings, T) {
        COLLECTOR.set(Some(Rings {
            control: Arc::clone(&control),
            rings: Vec::new(),
        }));
        let made = make();
        let rings = COLLECTOR.take().unwrap_or(Rings {
            control,
            rings: Vec::new(),
        });
        (rings, made)
    }

    /// Makes one of the rings that are being gathered in this thread, if any are, of its
    /// index and what it shares with the others.
    pub(crate) fn add(make: impl FnOnce(usize, Option<&Arc<RingControl>>) -> Vring) -> Vring {
        COLLECTOR.with_borrow_mut(|collector| match collector {
            None => make(0, None),
            Some(rings) => {
                let vring = make(rings.rings.len(), Some(&rings.control));
                rings.rings.push(vring.clone());
                vring
            }
        })
    }

    /// All of them.
    pub(crate) fn all(&self) -> &[Vring] {
        &self.rings
    }

    /// See [`RingControl::alarm`].
    pub(crate) fn alarm(&self) -> &Alarm {
        &self.control.alarm
    }

    /// Tells ring `index` where its kicks are registered.
    pub(crate) fn set_epoll(&self, index: usize, epoll: OwnedFd) {
        if let Some(vring) = self.rings.get(index) {
            vring.set_epoll(epoll);
        }
    }

    /// The first ring that is started and enabled.
    pub(crate) fn first_running(&self) -> Option<usize> {
        self.rings.iter().position(Vring::is_running)
    }

    /// Whether any ring has been started and enabled since the connection began: a
    /// guest is there.
    pub(crate) fn have_run(&self) -> bool {
        self.rings.iter().any(Vring::has_run)
    }

    /// Holds all requests back until [`Rings::release`]. Requests in service go on.
    pub(crate) fn hold(&self) {
        self.control.hold();
    }

    /// Ends [`Rings::hold`], and looks at what came meanwhile.
    pub(crate) fn release(&self) {
        self.control.release();
        for vring in &self.rings {
            vring.self_kick();
        }
    }

    /// The requests that stand over.
    pub(crate) fn standing(&self) -> Vec<StandingRequest> {
        let mut all = Vec::new();
        for vring in &self.rings {
            let standing = vring.standing().lock();
            all.extend(standing.heads().map(|head| StandingRequest {
                queue: vring.index() as u16,
                head,
            }));
        }
        all
    }

    /// Takes requests over that stood over on another daemon. The rings are stopped.
    pub(crate) fn adopt(&self, requests: &[StandingRequest]) {
        for vring in &self.rings {
            let queue = vring.index() as u16;
            let heads = requests.iter().filter(|request| request.queue == queue);
            let mut standing = vring.standing().lock();
            standing.adopt(heads.map(|request| request.head));
            vring.standing().ready.store(true, Ordering::Relaxed);
        }
        let beyond = |request: &&StandingRequest| usize::from(request.queue) >= self.rings.len();
        if let Some(lost) = requests.iter().find(beyond) {
            log::error!(
                "a request of queue {} stood over at the source, and this daemon has {} queues: \
                 it is never answered; start it with as many --request-queues",
                lost.queue,
                self.rings.len()
            );
        }
    }

    /// Stops all rings for good: waits for what they are serving, and forgets what
    /// stands over.
    pub(crate) fn stop_all(&self) {
        // All first, so that none starts another request while one is waited for.
        for vring in &self.rings {
            self.control.stops(vring.index());
            vring.unready();
        }
        *self.control.running() = 0;
        for vring in &self.rings {
            vring.drain();
            vring.standing().lock().clear();
        }
    }
}
