//! A queue that several threads may use at once.
//!
//! One of the waiting threads polls the call eventfd; the completions it reaps are
//! left for whoever waits for them. Nobody holds the lock while asleep, so a queue can
//! be stopped and moved to another daemon while requests are waited for.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::queue::{Keep, Queue, QueueError, Segment, Token};

#[derive(Debug)]
struct State {
    queue: Queue,
    done: HashMap<Token, u32>,
    /// Chains nobody waits for any more.
    abandoned: HashSet<Token>,
    /// A thread polls the call eventfd.
    polled: bool,
    /// Threads that wait on the condition variable.
    sleepers: usize,
    spin: Duration,
}

/// A [`Queue`] behind a lock, with completions handed out by token.
#[derive(Debug)]
pub struct SharedQueue {
    state: Mutex<State>,
    woken: Condvar,
}

impl SharedQueue {
    /// Shares `queue`.
    pub fn new(queue: Queue) -> Arc<Self> {
        let state = State {
            queue,
            done: HashMap::new(),
            abandoned: HashSet::new(),
            polled: false,
            sleepers: 0,
            spin: Duration::ZERO,
        };
        Arc::new(SharedQueue {
            state: Mutex::new(state),
            woken: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what has come back, and wakes those who may be waiting for it.
    fn reap(&self, state: &mut State) -> Result<(), QueueError> {
        let mut any = false;
        while let Some(done) = state.queue.pop()? {
            if !state.abandoned.remove(&done.token) {
                state.done.insert(done.token, done.written);
                any = true;
            }
        }
        if any && state.sleepers > 0 {
            self.woken.notify_all();
        }
        Ok(())
    }

    /// Runs `f` with the queue to itself.
    pub fn with<R>(&self, f: impl FnOnce(&mut Queue) -> R) -> R {
        f(&mut self.lock().queue)
    }

    /// How long a waiting thread looks at the used ring before it sleeps on the call
    /// eventfd. Zero by default.
    pub fn set_spin(&self, spin: Duration) {
        self.lock().spin = spin;
    }

    /// Submits a chain, waiting for room if the ring is full, and kicks.
    ///
    /// # Errors
    /// Those of [`Queue::submit`] and [`Queue::kick`]; [`QueueError::Timeout`] when
    /// there is no room in time.
    pub fn submit(
        &self,
        chain: &[Segment],
        keep: Keep,
        timeout: Duration,
    ) -> Result<Token, QueueError> {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        // A chain longer than the ring never fits: let `submit` say so.
        while !state.queue.has_room(chain.len()) && state.queue.in_flight() > 0 {
            self.reap(&mut state)?;
            if state.queue.has_room(chain.len()) {
                break;
            }
            if Instant::now() >= deadline {
                return Err(state.queue.timed_out(timeout));
            }
            state = self.sleep(state, deadline)?.0;
        }
        let token = state.queue.submit(chain, keep)?;
        state.queue.kick()?;
        Ok(token)
    }

    /// Bytes written by the chain `token` if it has come back.
    ///
    /// # Errors
    /// Those of [`Queue::pop`].
    pub fn try_take(&self, token: Token) -> Result<Option<u32>, QueueError> {
        let mut state = self.lock();
        self.reap(&mut state)?;
        Ok(state.done.remove(&token))
    }

    /// Whether the chain `token` has come back; it stays to be taken.
    ///
    /// # Errors
    /// Those of [`Queue::pop`].
    pub fn is_done(&self, token: Token) -> Result<bool, QueueError> {
        let mut state = self.lock();
        self.reap(&mut state)?;
        Ok(state.done.contains_key(&token))
    }

    /// Waits for the chain `token` and returns the bytes written.
    ///
    /// # Errors
    /// [`QueueError::Timeout`]; [`QueueError::NotCalled`] when it came back in time
    /// but the device did not say so; those of [`Queue::pop`].
    pub fn wait(&self, token: Token, timeout: Duration) -> Result<u32, QueueError> {
        let start = Instant::now();
        let deadline = start + timeout;
        let mut overslept = false;
        let mut state = self.lock();
        loop {
            self.reap(&mut state)?;
            if let Some(written) = state.done.remove(&token) {
                if overslept {
                    return Err(QueueError::NotCalled { timeout });
                }
                return Ok(written);
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(state.queue.timed_out(timeout));
            }
            if now - start < state.spin {
                drop(state);
                std::hint::spin_loop();
                state = self.lock();
            } else {
                (state, overslept) = self.sleep(state, deadline)?;
            }
        }
    }

    /// Says that nobody will wait for the chain `token`. Its buffers stay allocated
    /// until it comes back.
    pub fn abandon(&self, token: Token) {
        let mut state = self.lock();
        if state.done.remove(&token).is_none() {
            state.abandoned.insert(token);
        }
    }

    /// Empties the queue ([`Queue::reset`]) and forgets what came back from it.
    ///
    /// # Errors
    /// Those of [`Queue::reset`].
    pub fn reset(&self) -> Result<(), QueueError> {
        let mut state = self.lock();
        state.done.clear();
        state.abandoned.clear();
        state.queue.reset()
    }

    /// Sleeps until there may be something new. True when the deadline passed while
    /// the call eventfd stayed silent.
    fn sleep<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        deadline: Instant,
    ) -> Result<(MutexGuard<'a, State>, bool), QueueError> {
        if state.polled {
            let left = deadline.saturating_duration_since(Instant::now());
            state.sleepers += 1;
            let woken = self.woken.wait_timeout(state, left);
            let mut state = woken.unwrap_or_else(PoisonError::into_inner).0;
            state.sleepers -= 1;
            return Ok((state, false));
        }
        if !state.queue.arm()? {
            return Ok((state, false));
        }
        state.polled = true;
        let call = Arc::clone(state.queue.call_fd());
        drop(state);
        let called = call.wait(deadline);
        let mut state = self.lock();
        state.polled = false;
        // Someone else must watch the eventfd now.
        if state.sleepers > 0 {
            self.woken.notify_all();
        }
        let called = called.map_err(|source| QueueError::Event {
            what: "poll",
            source,
        })?;
        Ok((state, !called))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{GuestMemory, RegionConfig};
    use crate::queue::QueueConfig;
    use crate::ring::Ring;

    const LONG: Duration = Duration::from_secs(20);

    fn shared() -> (Arc<GuestMemory>, Arc<SharedQueue>) {
        let memory = GuestMemory::new(&[RegionConfig {
            gpa: 0,
            size: 1 << 20,
        }])
        .expect("memory");
        let config = QueueConfig {
            size: 4,
            indirect: false,
            event_idx: true,
        };
        let queue = Queue::new(&memory, config).expect("queue");
        (memory, SharedQueue::new(queue))
    }

    const ONE: [Segment; 1] = [Segment {
        gpa: 0,
        len: 8,
        writable: true,
    }];

    /// Plays the device for one chain.
    fn complete(memory: &GuestMemory, ring: &Ring, head: u16, written: u8) {
        let index = ring.used_idx();
        let at = ring.used_gpa() + 4 + 8 * u64::from(index % ring.size());
        memory
            .write(at, &[head as u8, 0, 0, 0, written, 0, 0, 0])
            .expect("used element");
        ring.set_used_idx(index.wrapping_add(1));
    }

    #[test]
    fn waiters_get_their_own_whoever_reaps() {
        let (memory, queue) = shared();
        let tokens: Vec<_> = (0..4)
            .map(|_| queue.submit(&ONE, Keep::default(), LONG).expect("submit"))
            .collect();
        std::thread::scope(|scope| {
            for (i, token) in tokens.into_iter().enumerate() {
                let queue = &queue;
                scope.spawn(move || {
                    assert_eq!(queue.wait(token, LONG).expect("done"), 10 + i as u32);
                });
            }
            // In the reverse order, each with its own call.
            for head in (0..4).rev() {
                queue.with(|q| complete(&memory, q.ring(), head, 10 + head as u8));
                queue.with(|q| q.call_fd().signal()).expect("call");
            }
        });
        assert_eq!(queue.with(|q| q.in_flight()), 0);
    }

    #[test]
    fn a_full_ring_makes_room_or_times_out() {
        let (memory, queue) = shared();
        for _ in 0..4 {
            queue.submit(&ONE, Keep::default(), LONG).expect("submit");
        }
        let error = queue.submit(&ONE, Keep::default(), Duration::from_millis(20));
        assert!(matches!(
            error,
            Err(QueueError::Timeout { in_flight: 4, .. })
        ));
        let long = [ONE[0]; 5];
        queue.with(|q| complete(&memory, q.ring(), 2, 0));
        queue
            .submit(&ONE, Keep::default(), Duration::ZERO)
            .expect("there is room again");
        let error = queue.submit(&long, Keep::default(), Duration::from_millis(20));
        assert!(
            matches!(error, Err(QueueError::Timeout { .. })),
            "never fits: {error:?}"
        );
    }

    #[test]
    fn a_device_that_does_not_call_is_found_out() {
        let (memory, queue) = shared();
        let token = queue.submit(&ONE, Keep::default(), LONG).expect("submit");
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| queue.wait(token, Duration::from_millis(300)));
            // Only once the waiter is asleep is the call owed.
            while !queue.lock().polled {
                std::thread::yield_now();
            }
            queue.with(|q| complete(&memory, q.ring(), 0, 1));
            let result = waiter.join().expect("waiter");
            assert!(
                matches!(result, Err(QueueError::NotCalled { .. })),
                "{result:?}"
            );
        });
    }

    #[test]
    fn abandoned_chains_leave_nothing_behind() {
        let (memory, queue) = shared();
        let before = queue.submit(&ONE, Keep::default(), LONG).expect("submit");
        let after = queue.submit(&ONE, Keep::default(), LONG).expect("submit");
        queue.abandon(before);
        queue.with(|q| complete(&memory, q.ring(), 0, 1));
        queue.with(|q| complete(&memory, q.ring(), 1, 1));
        assert!(queue.is_done(after).expect("sane"));
        queue.abandon(after);
        let state = queue.lock();
        assert!(state.done.is_empty() && state.abandoned.is_empty());
    }
}
