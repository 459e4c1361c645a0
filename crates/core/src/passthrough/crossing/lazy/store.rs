//! What a state has told of inodes that are not located yet: in little memory, found
//! by nodeid and by what the object is.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};

use ferryfs_state::packed::{InodeRef, MarkRef, PackedInodes, PackedMarks, Place};
use ferryfs_state::{Identity, Inode as InodeRecord};

use super::index::Index;
use crate::parallel::{drop_later, in_parallel};

/// Records in a segment.
const SEGMENT: usize = 4096;

/// States of a record.
const WAITING: u8 = 0;
/// Somebody is at it.
const CLAIMED: u8 = 1;
/// It is in the tables, or forgotten.
const DONE: u8 = 2;

/// A record's place in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct At(u32);

struct Segment {
    inodes: PackedInodes,
    marks: PackedMarks,
    states: Box<[AtomicU8]>,
}

/// The records of one state.
pub(super) struct Store {
    /// All but the last have [`SEGMENT`] records.
    segments: Vec<Segment>,
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

fn pack(records: &[InodeRecord], identities: &[Identity]) -> Segment {
    let mut inodes = PackedInodes::with_capacity(records.len());
    let mut marks = PackedMarks::with_capacity(records.len());
    let first = records.first().map_or(0, |record| record.id);
    let from = identities.partition_point(|identity| identity.inode < first);
    let mut identities = identities[from..].iter().peekable();
    for record in records {
        if !inodes.push(record) {
            continue;
        }
        while identities
            .next_if(|identity| identity.inode < record.id)
            .is_some()
        {}
        let own = identities.next_if(|identity| identity.inode == record.id);
        marks.push(own.map(|identity| (identity.file_system, MarkRef::from(&identity.mark))));
    }
    inodes.fit();
    marks.fit();
    let states = (0..inodes.len()).map(|_| AtomicU8::new(WAITING)).collect();
    Segment {
        inodes,
        marks,
        states,
    }
}

/// What an object is found by.
#[derive(Clone, Copy)]
pub(super) enum Key<'a> {
    Handle { kind: i32, bytes: &'a [u8] },
    Ino(u64),
}

impl Segment {
    /// The mark at `index`: where a record says a handle, that is the mark. `None` for
    /// the file system: that of the handle's mount.
    fn mark(&self, index: usize) -> Option<(Option<u32>, MarkRef<'_>)> {
        match self.inodes.get(index).place {
            Place::Handle { kind, bytes, .. } => Some((None, MarkRef::Handle { kind, bytes })),
            Place::Child { .. } => {
                let (file_system, mark) = self.marks.get(index)?;
                Some((Some(file_system), mark))
            }
        }
    }
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
    /// Of `records`, by ascending id and all by name or by handle, with those of
    /// `identities` that belong to them. In several threads where there are many.
    pub(super) fn new(records: Vec<InodeRecord>, identities: Vec<Identity>) -> Store {
        let chunks: Vec<&[InodeRecord]> = records.chunks(SEGMENT).collect();
        let segments = in_parallel(&chunks, |chunk| pack(chunk, &identities));
        drop_later(records.len(), (records, identities));
        let left = segments.iter().map(|segment| segment.inodes.len()).sum();
        Store {
            segments,
            by_mark: OnceLock::new(),
            hasher: RandomState::new(),
            left: AtomicUsize::new(left),
            given_back: Mutex::default(),
            parked: Mutex::default(),
            freed: Condvar::new(),
        }
    }

    /// Gets everything ready to find records by their marks. What needs that waits for
    /// who is at it, or does it itself: it takes about as long as checking a state, and
    /// is not needed to agree to one.
    pub(super) fn prepare(&self) -> &Index {
        self.by_mark
            .get_or_init(|| Index::new(self.len() as u32, |at| self.hash_at(At(at))))
    }

    fn hash_at(&self, at: At) -> Option<u64> {
        let (_, mark) = self.mark(at)?;
        Some(hash(&self.hasher, key_of(mark)))
    }

    fn split(&self, at: At) -> (&Segment, usize) {
        let at = at.0 as usize;
        (&self.segments[at / SEGMENT], at % SEGMENT)
    }

    /// How many records there have been.
    pub(super) fn len(&self) -> usize {
        let full = self.segments.len().saturating_sub(1) * SEGMENT;
        full + self.segments.last().map_or(0, |last| last.inodes.len())
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
        let behind = self
            .segments
            .partition_point(|segment| segment.inodes.ids().first().is_some_and(|f| *f <= id));
        let segment = behind.checked_sub(1)?;
        let index = self.segments[segment]
            .inodes
            .ids()
            .binary_search(&id)
            .ok()?;
        Some(At((segment * SEGMENT + index) as u32))
    }

    /// The record.
    pub(super) fn get(&self, at: At) -> InodeRef<'_> {
        let (segment, index) = self.split(at);
        segment.inodes.get(index)
    }

    /// What tells its object, and on which of the stream's file systems; `None` for
    /// that of a record that says a file handle on a mount.
    pub(super) fn mark(&self, at: At) -> Option<(Option<u32>, MarkRef<'_>)> {
        let (segment, index) = self.split(at);
        segment.mark(index)
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
        let (segment, index) = self.split(at);
        &segment.states[index]
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
    use ferryfs_state::{Location, Mark};
    use serde_bytes::ByteBuf;

    fn store(count: u64) -> Store {
        let records: Vec<_> = (0..count)
            .map(|n| InodeRecord {
                id: 10 + 2 * n,
                lookups: 1 + n % 3,
                kind: libc::S_IFREG,
                location: Location::Child {
                    parent: 1,
                    name: ByteBuf::from(format!("file-{n}").into_bytes()),
                },
            })
            .collect();
        let identities: Vec<_> = (0..count)
            .map(|n| Identity {
                inode: 10 + 2 * n,
                file_system: 0,
                mark: match n % 2 {
                    0 => Mark::Numbers {
                        ino: 5000 + n,
                        born: Some(n as i64),
                    },
                    _ => Mark::Handle {
                        kind: 1,
                        bytes: ByteBuf::from(n.to_le_bytes()),
                    },
                },
            })
            .collect();
        Store::new(records, identities)
    }

    #[test]
    fn records_are_found_by_id_and_by_mark() {
        let store = store(10_000);
        assert_eq!(store.len(), 10_000);
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
    }

    #[test]
    fn a_record_is_one_callers_at_a_time_and_done_once() {
        let store = store(3);
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
        let store = store(3);
        let at = store.position(14).unwrap();
        assert_eq!(store.lookups(at), 3);
        assert_eq!(store.give_back(at, 1), 2);
        assert_eq!(store.lookups(at), 2);
        assert_eq!(store.give_back(at, u64::MAX), 0);
        assert_eq!(store.lookups(at), 0);
    }
}
