//! Requests of a ring that stand over: taken from it, and answered later.
//!
//! They are not in service, so a drain does not wait for them. A ring that is stopped
//! with `n` of them has a base that is `n` ahead of its used index. The front-end need
//! not know: whoever goes on with the ring, this daemon or the one that has read its
//! state, answers them.

use std::cell::Cell;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ferryfs_core::service::{Answer, Later};

use crate::chain::Table;
use crate::vring::{GuestMem, Vring};

/// The requests of one ring that stand over, in the order in which they came.
#[derive(Default)]
pub(crate) struct Standing {
    inner: Mutex<Inner>,
    /// Something may have to be done for one: looked at with each kick, without a lock.
    pub(crate) ready: AtomicBool,
}

#[derive(Default)]
pub(crate) struct Inner {
    next: u64,
    entries: Vec<Entry>,
}

pub(crate) struct Entry {
    /// Tells requests with the same head apart.
    token: u64,
    pub(crate) head: u16,
    descriptors: u16,
    pub(crate) how: How,
}

/// What is to be done for a request.
pub(crate) enum How {
    /// Its answer will come.
    Waits,
    /// Its answer came while the ring was stopped.
    Answered([u8; 16]),
    /// It stood over on another daemon and is to be served again.
    Again,
}

impl Standing {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Lets one more stand over, if that leaves the driver at least half of its
    /// descriptors: whatever they wait for comes through the same queue.
    fn add(&mut self, head: u16, descriptors: u16, size: u16) -> Option<u64> {
        let taken: u32 = self.entries.iter().map(|e| u32::from(e.descriptors)).sum();
        if taken + u32::from(descriptors) > u32::from((size / 2).max(1)) {
            return None;
        }
        Some(self.push(head, descriptors, How::Waits))
    }

    fn push(&mut self, head: u16, descriptors: u16, how: How) -> u64 {
        let token = self.next;
        self.next += 1;
        self.entries.push(Entry {
            token,
            head,
            descriptors,
            how,
        });
        token
    }

    /// Replaces all by requests that are to be served again.
    pub(crate) fn adopt(&mut self, heads: impl Iterator<Item = u16>) {
        self.entries.clear();
        for head in heads {
            self.push(head, 1, How::Again);
        }
    }

    pub(crate) fn heads(&self) -> impl Iterator<Item = u16> + '_ {
        self.entries.iter().map(|entry| entry.head)
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }

    /// Takes the next out that has something to be done for it.
    pub(crate) fn take_ready(&mut self) -> Option<Entry> {
        let ready = |entry: &Entry| !matches!(entry.how, How::Waits);
        let at = self.entries.iter().position(ready)?;
        Some(self.entries.remove(at))
    }

    fn find(&self, token: u64) -> Option<usize> {
        self.entries.iter().position(|entry| entry.token == token)
    }

    /// Takes request `token` out.
    pub(crate) fn take(&mut self, token: u64) -> Option<Entry> {
        self.find(token).map(|at| self.entries.remove(at))
    }

    /// Keeps an answer until the ring runs. `false`: there is no such request.
    pub(crate) fn keep(&mut self, token: u64, header: [u8; 16]) -> bool {
        let Some(at) = self.find(token) else {
            return false;
        };
        self.entries[at].how = How::Answered(header);
        true
    }
}

/// The request in service, which may come to stand over.
pub(crate) struct InService<'a> {
    vring: &'a Vring,
    mem: &'a GuestMem,
    head: u16,
    token: Cell<Option<u64>>,
}

impl<'a> InService<'a> {
    pub(crate) fn new(vring: &'a Vring, mem: &'a GuestMem, head: u16) -> InService<'a> {
        InService {
            vring,
            mem,
            head,
            token: Cell::new(None),
        }
    }

    /// The server failed in the middle: the request does not stand over after all.
    /// `false` when it has been answered already.
    pub(crate) fn revoke(&self) -> bool {
        match self.token.get() {
            Some(token) => self.vring.standing().lock().take(token).is_some(),
            None => true,
        }
    }
}

impl Later for InService<'_> {
    fn defer(&self) -> Option<Box<dyn Answer>> {
        let table: Table = self.vring.table();
        let chain = table.chain(self.mem, self.head)?;
        let token = self
            .vring
            .standing()
            .lock()
            .add(self.head, chain.descriptors, table.size)?;
        self.token.set(Some(token));
        Some(Box::new(RingAnswer {
            vring: self.vring.clone(),
            token,
        }))
    }
}

/// See [`Answer`].
struct RingAnswer {
    vring: Vring,
    token: u64,
}

impl Answer for RingAnswer {
    fn send(self: Box<Self>, header: &[u8; 16]) -> bool {
        self.vring.answer(self.token, *header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_descriptors_stay_free() {
        let mut standing = Inner::default();
        let first = standing.add(0, 3, 16).unwrap();
        standing.add(3, 5, 16).unwrap();
        assert!(standing.add(8, 1, 16).is_none());
        assert_eq!(standing.take(first).unwrap().head, 0);
        assert!(standing.take(first).is_none());
        assert!(standing.add(8, 1, 16).is_some());
        // The smallest queue can have one.
        assert!(Inner::default().add(0, 1, 1).is_some());
    }

    #[test]
    fn what_is_ready_comes_in_its_order() {
        let mut standing = Inner::default();
        let tokens = [0, 1, 2].map(|head| standing.add(head, 1, 16).unwrap());
        assert!(standing.take_ready().is_none());
        assert!(standing.keep(tokens[2], [2; 16]) && standing.keep(tokens[1], [1; 16]));
        assert_eq!(standing.take_ready().unwrap().head, 1);
        assert_eq!(standing.take_ready().unwrap().head, 2);
        standing.adopt([7, 5].into_iter());
        assert!(!standing.keep(tokens[0], [0; 16]), "replaced");
        assert_eq!(standing.heads().collect::<Vec<_>>(), [7, 5]);
        assert_eq!(standing.take_ready().unwrap().head, 7);
    }
}
