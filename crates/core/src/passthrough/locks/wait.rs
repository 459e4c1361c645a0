//! Locks that are waited for.
//!
//! Each has a thread that waits in the kernel, which knows best whose turn it is: one
//! of its own where the request can stand over, otherwise that of its caller. When the
//! kernel has granted the lock it is set once more under the table's lock, so that the
//! table and the kernel never disagree about what another request did meanwhile.
//!
//! While the device is stopped nothing is waited for, and nothing is granted: what
//! stands over can cross by being asked again elsewhere.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::host::{self, LockFile, Waiter};
use super::{lock, Request, Shared};
use crate::errno::{Errno, FsResult};
use crate::fs::{LockAnswer, LockKind, LockMode, LockWait};

/// The most locks that one guest can wait for at once: each has a thread.
pub(super) const MAX_WAITS: usize = 1024;

/// Stack of a thread that waits, in bytes. It makes two system calls and a log line.
const STACK: usize = 128 << 10;

/// Until a thread that did not hear a signal is sent another. It was about to wait.
const WAKE_AGAIN: Duration = Duration::from_millis(1);

/// INTERRUPTs remembered that came before what they are about.
const EARLY: usize = 64;

/// All waits.
#[derive(Default)]
pub(super) struct Waits(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    next: u64,
    live: BTreeMap<u64, Arc<Wait>>,
    suspended: bool,
    callers_interrupted: bool,
    early: VecDeque<u64>,
}

/// One lock that is waited for.
pub(super) struct Wait {
    unique: u64,
    request: Request,
    mode: LockMode,
    /// The owner's descriptor, for a lock of `fcntl`.
    file: Option<Arc<LockFile>>,
    /// A thread of the caller's waits.
    in_caller: bool,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    order: Order,
    /// In the kernel.
    blocked: Option<Waiter>,
    /// Has seen [`Order::Stay`] and does nothing.
    quiet: bool,
    done: bool,
}

impl State {
    /// Whether there is nothing more to wait for until it does as ordered.
    fn follows(&self) -> bool {
        let as_ordered = match self.order {
            Order::Go => true,
            Order::Stay => self.quiet,
            Order::End(_) => false,
        };
        self.done || as_ordered
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Go,
    Stay,
    End(Errno),
}

impl Shared {
    pub(super) fn set_or_wait(
        self: &Arc<Shared>,
        request: Request,
        wait: &mut dyn LockWait,
        unique: u64,
    ) -> FsResult<()> {
        let lock = &request.lock;
        let mode = lock.mode.ok_or(Errno::EINVAL)?;
        let file = self.on(request.node, |locks| match self.apply(locks, &request) {
            Err(Errno::EAGAIN) if lock.kind == LockKind::Posix => {
                let owner = self.owner(locks, &request, mode)?;
                owner.waits += 1;
                Ok(Some(Some(owner.file.clone())))
            }
            Err(Errno::EAGAIN) => Ok(Some(None)),
            Ok(()) => Ok(None),
            Err(e) => Err(e),
        })?;
        let Some(file) = file else {
            return Ok(());
        };
        let (node, owner, kind) = (request.node, lock.owner, lock.kind);
        let outcome = self.wait(request, mode, file, wait, unique);
        if outcome.is_err() && kind == LockKind::Posix {
            self.done_waiting(node, owner);
        }
        // Only one that the caller has waited for has ended by now.
        outcome.and_then(|ended| ended.unwrap_or(Ok(())))
    }

    /// Takes an owner's wait back that `set_or_wait` has counted.
    fn done_waiting(&self, node: crate::types::NodeId, owner: u64) {
        self.on_known(node, |locks| {
            if let Some(held) = locks.owners.get_mut(&owner) {
                held.waits = held.waits.saturating_sub(1);
            }
            locks.tidy(owner);
        });
    }

    /// Begins to wait, and where the request cannot stand over also ends it. An error
    /// means that there was no waiting at all.
    fn wait(
        self: &Arc<Shared>,
        request: Request,
        mode: LockMode,
        file: Option<Arc<LockFile>>,
        wait: &mut dyn LockWait,
        unique: u64,
    ) -> FsResult<Option<FsResult<()>>> {
        let mut inner = self.waits.inner();
        if inner.live.len() >= MAX_WAITS {
            self.complain("the guest waits for as many locks as it may", Errno::ENOLCK);
            return Err(Errno::ENOLCK);
        }
        if let Some(at) = inner.early.iter().position(|early| *early == unique) {
            inner.early.remove(at);
            return Err(Errno::EINTR);
        }
        if request.lock.kind == LockKind::Posix && self.would_deadlock(&inner, &request) {
            return Err(Errno::EDEADLK);
        }
        let answer = wait.defer()?;
        let order = match (&answer, inner.callers_interrupted, inner.suspended) {
            (None, true, _) => return Err(Errno::EINTR),
            (Some(_), _, true) => Order::Stay,
            _ => Order::Go,
        };
        let waiting = Arc::new(Wait {
            unique,
            request,
            mode,
            file,
            in_caller: answer.is_none(),
            state: Mutex::new(State {
                order,
                blocked: None,
                quiet: false,
                done: false,
            }),
            changed: Condvar::new(),
        });
        let number = inner.next;
        inner.next += 1;
        inner.live.insert(number, waiting.clone());
        self.active.fetch_add(1, Ordering::Relaxed);
        drop(inner);

        let Some(answer) = answer else {
            let outcome = self.run(&waiting);
            self.end(number, &waiting);
            return Ok(Some(outcome));
        };
        // Where no thread can be had, the answer is still here.
        let answer = Arc::new(Mutex::new(Some(answer)));
        let (shared, in_thread) = (self.clone(), (waiting.clone(), answer.clone()));
        let spawned = std::thread::Builder::new()
            .name("lock-wait".into())
            .stack_size(STACK)
            .spawn(move || {
                let (waiting, answer) = in_thread;
                let outcome = shared.run(&waiting);
                let answer = lock(&answer).take();
                if let Some(answer) = answer {
                    shared.answer(&waiting, answer, outcome);
                }
                shared.end(number, &waiting);
            });
        if let Err(e) = spawned {
            self.complain("failed to start a thread for a lock", e.into());
            if let Some(answer) = lock(&answer).take() {
                self.forget_owner(&waiting);
                self.answer(&waiting, answer, Err(Errno::ENOLCK));
            }
            self.end(number, &waiting);
        }
        Ok(None)
    }

    fn answer(&self, wait: &Wait, answer: Box<dyn LockAnswer>, outcome: FsResult<()>) {
        if !answer.send(outcome) && outcome.is_ok() {
            let mut undo = wait.request.clone();
            undo.lock.mode = None;
            let _ = self.on(undo.node, |locks| self.apply(locks, &undo));
        }
    }

    /// The last of a wait. Whoever waits for that sees it with the answer sent.
    fn end(&self, number: u64, wait: &Wait) {
        let mut state = wait.state();
        state.done = true;
        drop(state);
        wait.changed.notify_all();
        self.waits.inner().live.remove(&number);
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    fn forget_owner(&self, wait: &Wait) {
        if wait.request.lock.kind == LockKind::Posix {
            self.done_waiting(wait.request.node, wait.request.lock.owner);
        }
    }

    /// Waits, and takes what is granted into the table.
    fn run(&self, wait: &Wait) -> FsResult<()> {
        let outcome = loop {
            if let Err(e) = wait.obey() {
                break Err(e);
            }
            let granted = wait.block();
            wait.state().blocked = None;
            match granted {
                Ok(()) => match self.on(wait.request.node, |locks| self.commit(locks, wait)) {
                    Err(Errno::EAGAIN) => {}
                    outcome => break outcome,
                },
                Err(Errno::EINTR) => {}
                Err(e) => break Err(e),
            }
        };
        self.forget_owner(wait);
        outcome
    }

    fn commit(&self, locks: &mut super::NodeLocks, wait: &Wait) -> FsResult<()> {
        if let Some(file) = &wait.file {
            let Some(owner) = locks.owners.get(&wait.request.lock.owner) else {
                // The guest has forgotten the file.
                return Err(Errno::EBADF);
            };
            if !Arc::ptr_eq(file, &owner.file) {
                // The owner has another descriptor by now, for more than reading: what
                // this one has just got is set there, and goes with this one.
                let lock = &wait.request.lock;
                let done = self.apply(locks, &wait.request);
                host::set_range(file.as_fd(), lock.start, lock.end, None)?;
                return done;
            }
        }
        self.apply(locks, &wait.request)
    }

    /// Whether `request` waits for somebody who waits, through however many others,
    /// for its own owner. Its owner may be wrong in having several threads, one of
    /// which would unlock; the kernel's own detection does not know better.
    fn would_deadlock(&self, inner: &Inner, request: &Request) -> bool {
        let me = request.lock.owner;
        let mut seen = HashSet::new();
        let mut next: Vec<u64> = self.owners_before(request);
        while let Some(owner) = next.pop() {
            if owner == me {
                return true;
            }
            if !seen.insert(owner) {
                continue;
            }
            let its = |wait: &&Arc<Wait>| {
                wait.request.lock.kind == LockKind::Posix && wait.request.lock.owner == owner
            };
            for wait in inner.live.values().filter(its) {
                next.extend(self.owners_before(&wait.request));
            }
        }
        false
    }

    /// The owners in this guest that keep `request` waiting.
    fn owners_before(&self, request: &Request) -> Vec<u64> {
        let lock = &request.lock;
        let Some(mode) = lock.mode else {
            return Vec::new();
        };
        self.on_known(request.node, |locks| {
            locks.blockers(lock, mode).map(|(owner, _)| owner).collect()
        })
        .unwrap_or_default()
    }
}

impl Waits {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.0)
    }

    fn where_<'a>(
        inner: &'a Inner,
        which: impl Fn(&Wait) -> bool + 'a,
    ) -> impl Iterator<Item = Arc<Wait>> + 'a {
        inner.live.values().filter(move |w| which(w)).cloned()
    }

    /// Ends waits with an error, and returns when they have ended.
    pub(super) fn end_where(&self, errno: Errno, which: impl Fn(&Request) -> bool) {
        let ending: Vec<_> = Waits::where_(&self.inner(), |w| which(&w.request)).collect();
        order(&ending, Order::End(errno));
    }

    pub(super) fn interrupt(&self, unique: u64) {
        let mut inner = self.inner();
        let found: Vec<_> = Waits::where_(&inner, |w| w.unique == unique).collect();
        if found.is_empty() {
            if inner.early.len() == EARLY {
                inner.early.pop_front();
            }
            inner.early.push_back(unique);
        }
        drop(inner);
        order(&found, Order::End(Errno::EINTR));
    }

    pub(super) fn interrupt_callers(&self, on: bool) {
        let mut inner = self.inner();
        inner.callers_interrupted = on;
        let waiting: Vec<_> = Waits::where_(&inner, |w| on && w.in_caller).collect();
        drop(inner);
        order(&waiting, Order::End(Errno::EINTR));
    }

    /// Makes all that stand over stay as they are.
    pub(super) fn suspend(&self) {
        let mut inner = self.inner();
        inner.suspended = true;
        let waiting: Vec<_> = Waits::where_(&inner, |w| !w.in_caller).collect();
        drop(inner);
        order(&waiting, Order::Stay);
    }

    pub(super) fn resume(&self) {
        let mut inner = self.inner();
        inner.suspended = false;
        for wait in inner.live.values() {
            let mut state = wait.state();
            if state.order == Order::Stay {
                state.order = Order::Go;
                wait.changed.notify_all();
            }
        }
    }
}

/// Gives all of `waits` an order, and returns when they follow it.
fn order(waits: &[Arc<Wait>], order: Order) {
    for wait in waits {
        let mut state = wait.state();
        if !matches!(state.order, Order::End(_)) {
            state.order = order;
        }
        wait.changed.notify_all();
    }
    for wait in waits {
        let mut state = wait.state();
        while !state.follows() {
            if let Some(waiter) = state.blocked {
                waiter.wake();
            }
            state = wait
                .changed
                .wait_timeout(state, WAKE_AGAIN)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Wait {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Does as ordered until the order is to go and wait.
    fn obey(&self) -> FsResult<()> {
        let waiter = Waiter::current()?;
        let mut state = self.state();
        loop {
            match state.order {
                Order::Go => {
                    state.quiet = false;
                    state.blocked = Some(waiter);
                    return Ok(());
                }
                Order::End(errno) => return Err(errno),
                Order::Stay => {
                    if !state.quiet {
                        state.quiet = true;
                        self.changed.notify_all();
                    }
                    state = self
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Waits in the kernel.
    fn block(&self) -> FsResult<()> {
        let lock = &self.request.lock;
        match &self.file {
            Some(file) => host::wait_for_range(file.as_fd(), lock.start, lock.end, self.mode),
            None => host::wait_for_whole(self.request.file.fd()?, self.mode),
        }
    }
}
