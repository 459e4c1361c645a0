//! What a state has told of inodes that are not located yet: in little memory, found
//! by nodeid and by what the object is.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};

use ferryfs_state::packed::{InodeRef, MarkRef, PackedIdentities, PackedInodes, Place};

use super::index::Index;

/// States of a record.
const WAITING: u8 = 0;
/// Somebody is at it.
const CLAIMED: u8 = 1;
/// It is in the tables, or forgotten.
const DONE: u8 = 2;

/// A record's place in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct At(u32);

/// The records of one state.
pub(super) struct Store {
    /// All of them, those that have been located before as well.
    inodes: PackedInodes,
    identities: PackedIdentities,
    states: Box<[AtomicU8]>,
    /// Not there before somebody asks for it: see [`Store::prepare`].
    by_mark: OnceLock<Index>,
    hasher: RandomState,
    left: AtomicUsize,
    /// Lookups that the guest has given back meanwhile.
    given_back: Mutex<HashMap<At, u64>>,
    /// Who waits for a claim waits here; how many that are.
    parked: Mutex<usize>,
    freed: Condvar,
}

/// What an object is found by.
#[derive(Clone, Copy)]
pub(super) enum Key<'a> {
    Handle { kind: i32, bytes: &'a [u8] },
    Ino(u64),
}

fn key_of(mark: MarkRef<'_>) -> Key<'_> {
    match mark {
        MarkRef::Handle { kind, bytes } => Key::Handle { kind, bytes },
        MarkRef::Numbers { ino, .. } => Key::Ino(ino),
    }
}

fn hash(hasher: &RandomState, key: Key<'_>) -> u64 {
    match key {
        Key::Handle { kind, bytes } => hasher.hash_one((kind, bytes)),
        Key::Ino(ino) => hasher.hash_one(ino),
    }
}

impl Store {
    /// Of `inodes` with those of `identities` that belong to them. Those that are at `now`, of
    /// which each is there once, are located before and done; the others are found by name or by handle.
    pub(super) fn new(inodes: PackedInodes, identities: PackedIdentities, now: &[usize]) -> Store {
        let count = inodes.len();
        let mut states: Vec<_> = (0..count).map(|_| AtomicU8::new(WAITING)).collect();
        for at in now {
            *states[*at].get_mut() = DONE;
        }
        Store {
            inodes,
            identities,
            states: states.into(),
            by_mark: OnceLock::new(),
            hasher: RandomState::new(),
            left: AtomicUsize::new(count - now.len()),
            given_back: Mutex::default(),
            parked: Mutex::default(),
            freed: Condvar::new(),
        }
    }

    /// Gets everything ready to find records by their marks. What needs that waits for
    /// who is at it, or does it itself: it takes about as long as checking a state, and
    /// is not needed to agree to one.
    pub(super) fn prepare(&self) -> &Index {
        self.by_mark.get_or_init(|| {
            let count = self.len() as u32;
            Index::new(count, |range, each| self.hash_all(range, each))
        })
    }

    /// The hash of each record's mark, of those that are not located.
    fn hash_all(&self, range: Range<u32>, each: &mut dyn FnMut(Option<u64>)) {
        let first = self.inodes.id(range.start as usize);
        let mut identities = self.identities.iter_from(first).peekable();
        for at in range.map(At) {
            if self.is_done(at) {
                each(None);
                continue;
            }
            let record = self.get(at);
            let mark = match record.place {
                Place::Handle { kind, bytes, .. } => Some(MarkRef::Handle { kind, bytes }),
                _ => {
                    while identities
                        .next_if(|identity| identity.inode < record.id)
                        .is_some()
                    {}
                    let own = identities.next_if(|identity| identity.inode == record.id);
                    own.map(|own| own.mark)
                }
            };
            each(mark.map(|mark| hash(&self.hasher, key_of(mark))));
        }
    }

    /// How many records there have been.
    pub(super) fn len(&self) -> usize {
        self.inodes.len()
    }

    /// How many have not been located or forgotten.
    #[cfg(test)]
    pub(super) fn left(&self) -> usize {
        self.left.load(Ordering::Acquire)
    }

    /// All of them, in order.
    pub(super) fn all(&self) -> impl Iterator<Item = At> {
        (0..self.len() as u32).map(At)
    }

    /// Where inode `id` is.
    pub(super) fn position(&self, id: u64) -> Option<At> {
        self.inodes.position(id).map(|at| At(at as u32))
    }

    /// The record.
    pub(super) fn get(&self, at: At) -> InodeRef<'_> {
        self.inodes.get(at.0 as usize)
    }

    /// What tells its object, and on which of the stream's file systems; `None` for
    /// that of a record that says a file handle on a mount.
    pub(super) fn mark(&self, at: At) -> Option<(Option<u32>, MarkRef<'_>)> {
        let record = self.get(at);
        if let Place::Handle { kind, bytes, .. } = record.place {
            return Some((None, MarkRef::Handle { kind, bytes }));
        }
        let own = self.identities.find(record.id)?;
        Some((Some(own.file_system), own.mark))
    }

    /// Lookups that the guest still holds.
    pub(super) fn lookups(&self, at: At) -> u64 {
        let given_back = self
            .given_back
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let back = given_back.get(&at).copied().unwrap_or(0);
        self.get(at).lookups.saturating_sub(back)
    }

    /// Takes note of lookups given back; answers those that are left.
    pub(super) fn give_back(&self, at: At, count: u64) -> u64 {
        let lookups = self.get(at).lookups;
        let mut given_back = self
            .given_back
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let back = given_back.entry(at).or_insert(0);
        *back = back.saturating_add(count);
        lookups.saturating_sub(*back)
    }

    /// Waiting records that may be the object with this key.
    pub(super) fn candidates(&self, key: Key<'_>) -> Vec<At> {
        let hash = hash(&self.hasher, key);
        let same = |at: &u32| match (self.mark(At(*at)).map(|(_, mark)| key_of(mark)), key) {
            (Some(Key::Handle { kind, bytes }), Key::Handle { kind: k, bytes: b }) => {
                (kind, bytes) == (k, b)
            }
            (Some(Key::Ino(a)), Key::Ino(b)) => a == b,
            _ => false,
        };
        let candidates = self.prepare().candidates(hash).iter();
        candidates
            .filter(|at| same(at))
            .map(|at| At(*at))
            .filter(|at| !self.is_done(*at))
            .collect()
    }

    fn state(&self, at: At) -> &AtomicU8 {
        &self.states[at.0 as usize]
    }

    /// Whether it has been located or forgotten.
    pub(super) fn is_done(&self, at: At) -> bool {
        self.state(at).load(Ordering::Acquire) == DONE
    }

    /// Has a record for oneself; waits for who has it. False when it is done.
    pub(super) fn claim(&self, at: At) -> bool {
        let state = self.state(at);
        let claim = || {
            let claimed =
                state.compare_exchange(WAITING, CLAIMED, Ordering::AcqRel, Ordering::Acquire);
            match claimed {
                Ok(_) => Some(true),
                Err(DONE) => Some(false),
                Err(_) => None,
            }
        };
        if let Some(answer) = claim() {
            return answer;
        }
        let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            // Under the lock, which `release` takes before it wakes: none is missed.
            if let Some(answer) = claim() {
                return answer;
            }
            *parked += 1;
            parked = self
                .freed
                .wait(parked)
                .unwrap_or_else(PoisonError::into_inner);
            *parked -= 1;
        }
    }

    /// Lets go of a claim; for good when it is `done`.
    pub(super) fn release(&self, at: At, done: bool) {
        let state = if done { DONE } else { WAITING };
        self.state(at).store(state, Ordering::Release);
        if done {
            self.left.fetch_sub(1, Ordering::AcqRel);
        }
        if *self.parked.lock().unwrap_or_else(PoisonError::into_inner) > 0 {
            self.freed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferryfs_state::packed::IdentityRef;

    fn store(count: u64) -> Store {
        let (mut inodes, mut identities) = <(PackedInodes, PackedIdentities)>::default();
        for n in 0..count {
            let (name, bytes) = (format!("file-{n}"), n.to_le_bytes());
            inodes.push(InodeRef {
                id: 10 + 2 * n,
                lookups: 1 + n % 3,
                kind: libc::S_IFREG,
                place: Place::Child {
                    parent: 1,
                    name: name.as_bytes(),
                },
            });
            identities.push(IdentityRef {
                inode: 10 + 2 * n,
                file_system: 0,
                mark: match n % 2 {
                    0 => MarkRef::Numbers {
                        ino: 5000 + n,
                        born: Some(n as i64),
                    },
                    _ => MarkRef::Handle {
                        kind: 1,
                        bytes: &bytes,
                    },
                },
            });
        }
        // The last one has been located before.
        Store::new(inodes, identities, &[count as usize - 1])
    }

    #[test]
    fn records_are_found_by_id_and_by_mark() {
        let store = store(10_001);
        assert_eq!((store.len(), store.left()), (10_001, 10_000));
        for n in [0, 1, 2, 4095, 4096, 9998, 9999u64] {
            let at = store.position(10 + 2 * n).unwrap();
            let record = store.get(at);
            assert_eq!(record.id, 10 + 2 * n);
            let name = format!("file-{n}");
            assert!(matches!(record.place, Place::Child { parent: 1, name: own }
                if own == name.as_bytes()));
            let bytes = n.to_le_bytes();
            let key = match n % 2 {
                0 => Key::Ino(5000 + n),
                _ => Key::Handle {
                    kind: 1,
                    bytes: &bytes,
                },
            };
            assert_eq!(store.candidates(key), [at]);
            assert_eq!(store.position(11 + 2 * n), None);
        }
        assert_eq!(store.position(9), None);
        assert_eq!(store.position(u64::MAX), None);
        assert!(store.candidates(Key::Ino(5001)).is_empty());
        let located = store.position(10 + 2 * 10_000).unwrap();
        assert!(store.is_done(located) && !store.claim(located));
        assert!(store.candidates(Key::Ino(15_000)).is_empty());
    }

    #[test]
    fn a_record_is_one_callers_at_a_time_and_done_once() {
        let store = store(4);
        let at = store.position(10).unwrap();
        let turns = AtomicUsize::new(0);
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while store.claim(at) {
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        let turn = turns.fetch_add(1, Ordering::SeqCst);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        store.release(at, turn == 99);
                    }
                });
            }
        });
        assert_eq!(turns.load(Ordering::SeqCst), 100);
        assert!(store.is_done(at));
        assert_eq!(store.left(), 2);
    }

    #[test]
    fn lookups_are_given_back_up_to_those_there_were() {
        let store = store(4);
        let at = store.position(14).unwrap();
        assert_eq!(store.lookups(at), 3);
        assert_eq!(store.give_back(at, 1), 2);
        assert_eq!(store.lookups(at), 2);
        assert_eq!(store.give_back(at, u64::MAX), 0);
        assert_eq!(store.lookups(at), 0);
    }
}
