//! The outcome of INIT, and the few words of it that every request needs.

use std::ops::Deref;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ferryfs_state::Session;

use crate::abi::FUSE_INIT_RESERVED;

/// Set in the flags word while there is a session. The bit is reserved in the
/// protocol, so it is never part of an answer.
const READY: u64 = FUSE_INIT_RESERVED;

/// Room for headers and names on top of `max_write` in one request, in bytes.
const HEADER_SLACK: u32 = 4096;
/// The longest request without a session, in bytes: INIT takes 104.
const MAX_REQUEST_BEFORE_INIT: u32 = 4096;

/// Holds the session: whole behind a lock for whoever changes or saves it, and in
/// atomics, which requests read without one.
pub(super) struct SessionCell {
    session: Mutex<Option<Session>>,
    flags: AtomicU64,
    guest_minor: AtomicU32,
    /// The longest request, in bytes.
    pub(super) max_request: AtomicU32,
}

impl Default for SessionCell {
    fn default() -> Self {
        SessionCell {
            session: Mutex::new(None),
            flags: AtomicU64::new(0),
            guest_minor: AtomicU32::new(0),
            max_request: AtomicU32::new(MAX_REQUEST_BEFORE_INIT),
        }
    }
}

impl SessionCell {
    /// The negotiated flags and the guest's minor, if there is a session.
    pub(super) fn live(&self) -> Option<(u64, u32)> {
        // Pairs with the store in `set`: who sees the flags sees the rest.
        let word = self.flags.load(Ordering::Acquire);
        (word & READY != 0).then(|| (word & !READY, self.guest_minor.load(Ordering::Relaxed)))
    }

    /// Locks the session for a change, or to read it as a whole.
    pub(super) fn lock(&self) -> Locked<'_> {
        Locked {
            cell: self,
            // A panic elsewhere leaves a whole session or none.
            guard: self.session.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

/// The session under its lock.
pub(super) struct Locked<'a> {
    cell: &'a SessionCell,
    guard: MutexGuard<'a, Option<Session>>,
}

impl Locked<'_> {
    /// Replaces the session; requests see it from here on.
    pub(super) fn set(&mut self, session: Option<Session>) {
        let (word, minor, max_request) = match &session {
            Some(s) => (
                (s.flags & !READY) | READY,
                s.guest_minor,
                s.max_write.saturating_add(HEADER_SLACK),
            ),
            None => (0, 0, MAX_REQUEST_BEFORE_INIT),
        };
        self.cell.guest_minor.store(minor, Ordering::Relaxed);
        self.cell.max_request.store(max_request, Ordering::Relaxed);
        self.cell.flags.store(word, Ordering::Release);
        *self.guard = session;
    }
}

impl Deref for Locked<'_> {
    type Target = Option<Session>;
    fn deref(&self) -> &Option<Session> {
        &self.guard
    }
}
