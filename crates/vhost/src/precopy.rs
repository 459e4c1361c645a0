//! Start and cancel of precopy, in the order the front-end asked for them, and
//! without making its messages wait.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use ferryfs_core::service::Crossing;

/// Brings a server's precopy to where the front-end wants it, in the background.
pub(crate) struct Precopy<S> {
    shared: Arc<Shared<S>>,
}

struct Shared<S> {
    service: Arc<S>,
    state: Mutex<State>,
    settled: Condvar,
}

#[derive(Default)]
struct State {
    /// What the front-end asked for last.
    wanted: bool,
    /// What the server was told last.
    told: bool,
    /// The front-end has asked for the end of the precopy that the server is in, whether
    /// or not it has asked for another one since: a migration that begins shares nothing
    /// with one that was given up.
    ended: bool,
    /// A thread is about to bring `told` to `wanted`.
    working: bool,
}

impl State {
    /// What the server is to be told now, if anything: to begin, or to cancel.
    fn next(&self) -> Option<bool> {
        match self.told {
            true if self.ended || !self.wanted => Some(false),
            false if self.wanted => Some(true),
            _ => None,
        }
    }
}

impl<S: Crossing> Precopy<S> {
    pub(crate) fn new(service: Arc<S>) -> Precopy<S> {
        Precopy {
            shared: Arc::new(Shared {
                service,
                state: Mutex::default(),
                settled: Condvar::new(),
            }),
        }
    }

    /// Asks for precopy, or for its end; returns at once.
    pub(crate) fn set(&self, wanted: bool) {
        let mut state = self.shared.lock();
        state.wanted = wanted;
        state.ended |= !wanted;
        if state.working || state.next().is_none() {
            return;
        }
        state.working = true;
        drop(state);
        let shared = Arc::clone(&self.shared);
        let spawned = std::thread::Builder::new()
            .name("precopy-control".into())
            .spawn(move || shared.settle());
        if let Err(e) = spawned {
            log::warn!("failed to start a thread, precopy is controlled without: {e}");
            self.shared.settle();
        }
    }

    /// Waits until the server has been told what was asked for.
    pub(crate) fn wait(&self) {
        let mut state = self.shared.lock();
        while state.working {
            state = self
                .shared
                .settled
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends precopy and waits for its end.
    pub(crate) fn cancel(&self) {
        self.set(false);
        self.wait();
    }
}

impl<S: Crossing> Shared<S> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self) {
        let mut state = self.lock();
        while let Some(begin) = state.next() {
            state.ended = false;
            drop(state);
            if begin {
                self.service.begin_precopy();
            } else {
                self.service.cancel_precopy();
            }
            state = self.lock();
            state.told = begin;
        }
        state.working = false;
        drop(state);
        self.settled.notify_all();
    }
}
