//! Identities, packed.

use super::strings::{Head, Strings};
use super::{search, IdentityRef, MarkRef, MOST_PACKED};
use crate::memory;
use crate::model::Identity;
use crate::validate::check_mark;

/// Bytes that are set aside for each record before the first one has come.
const EXPECTED: usize = 16;

/// Packs of fewer records than this are put together.
const FEW: usize = 4096;

/// What the first byte of a record says: by what it is told.
const HANDLE: u8 = 0;
const NUMBER: u8 = 1;
const NUMBER_AND_BIRTH: u8 = 2;

/// Identities of one frame, or one piece, by ascending inode.
#[derive(Clone, Debug, Default)]
pub struct IdentityPack {
    ids: Vec<u64>,
    strings: Strings,
    /// Of all of them, where it is one: nearly always.
    file_system: Option<u32>,
    memory: u64,
    /// Not all that was pushed is as a record must be by itself, and behind the one before.
    unsound: bool,
}

impl IdentityPack {
    /// None yet, with room for `records`, at most [`MOST_PACKED`].
    pub fn with_capacity(records: usize) -> IdentityPack {
        IdentityPack {
            ids: Vec::with_capacity(records),
            strings: Strings::with_capacity(records, records * EXPECTED),
            file_system: None,
            memory: 0,
            unsound: false,
        }
    }

    /// Adds a record. False, and nothing is added, where there is no room.
    pub fn push(&mut self, record: IdentityRef<'_>) -> bool {
        if self.ids.len() == MOST_PACKED {
            return false;
        }
        let (by, born) = match record.mark {
            MarkRef::Handle { .. } => (HANDLE, [0; 8]),
            MarkRef::Numbers { born: None, .. } => (NUMBER, [0; 8]),
            MarkRef::Numbers {
                born: Some(born), ..
            } => (NUMBER_AND_BIRTH, born.to_le_bytes()),
        };
        let mut head = Head::new(by);
        head.number(record.file_system.into());
        match record.mark {
            MarkRef::Handle { kind, .. } => head.signed(kind.into()),
            MarkRef::Numbers { ino, .. } => head.number(ino),
        }
        let tail = match record.mark {
            MarkRef::Handle { bytes, .. } => bytes,
            MarkRef::Numbers { born: None, .. } => &[],
            MarkRef::Numbers { .. } => &born[..],
        };
        let pushed = self.strings.push(&head, tail);
        if pushed {
            let own = Some(record.file_system);
            if self.ids.is_empty() || self.file_system != own {
                self.file_system = own.filter(|_| self.ids.is_empty());
            }
            if !self.unsound {
                let ascends = self.ids.last().is_none_or(|last| *last < record.inode);
                self.unsound = !ascends || check_mark(&record.mark).is_err();
            }
            self.ids.push(record.inode);
            self.memory += memory::of_identity(&record) as u64;
        }
        pushed
    }

    /// Gives room back that is not needed.
    pub fn fit(&mut self) {
        self.ids.shrink_to_fit();
        self.strings.fit();
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The record at `at`.
    ///
    /// # Panics
    /// Where there are no more than `at`.
    pub fn get(&self, at: usize) -> IdentityRef<'_> {
        let mut cursor = self.strings.get(at);
        let first = cursor.byte();
        let file_system = cursor.number() as u32;
        let mark = match first {
            HANDLE => MarkRef::Handle {
                kind: cursor.signed() as i32,
                bytes: cursor.rest(),
            },
            _ => MarkRef::Numbers {
                ino: cursor.number(),
                born: cursor
                    .rest()
                    .first_chunk()
                    .map(|born| i64::from_le_bytes(*born)),
            },
        };
        IdentityRef {
            inode: self.ids[at],
            file_system,
            mark,
        }
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = IdentityRef<'_>> {
        (0..self.len()).map(|at| self.get(at))
    }

    /// Of each in order, the inode and the number of the file system: what it takes to
    /// check them against others.
    pub(crate) fn references(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        let file_system = |at| match self.file_system {
            Some(one) => one,
            None => self.get(at).file_system,
        };
        let all = self.ids.iter().enumerate();
        all.map(move |(at, inode)| (*inode, file_system(at)))
    }

    /// Bytes that they would take up as records.
    pub(crate) fn memory(&self) -> u64 {
        self.memory
    }

    /// Whether all of them are as they must be by themselves, and by ascending inode.
    pub(crate) fn is_sound(&self) -> bool {
        !self.unsound
    }

    /// Of which inodes they are.
    pub(crate) fn ids(&self) -> &[u64] {
        &self.ids
    }

    /// The number of the file system that all of them have to do with, if it is one.
    pub(crate) fn file_system(&self) -> Option<u32> {
        self.file_system
    }

    /// Whether the one at `at` tells its object however long nobody has held it: by a file
    /// handle, or with the time of its birth.
    ///
    /// # Panics
    /// As [`IdentityPack::get`].
    fn is_lasting(&self, at: usize) -> bool {
        self.strings.first(at) != NUMBER
    }
}

/// Identities of a state, by ascending inode.
#[derive(Clone, Debug, Default)]
pub struct PackedIdentities {
    pieces: Vec<IdentityPack>,
}

impl PackedIdentities {
    /// Puts the records of a frame behind those before it. Validated ones: no file handle
    /// is longer than one can be.
    ///
    /// # Panics
    /// Where file handles, which have 128 bytes at most, come to 4 GiB in few frames.
    pub fn append(&mut self, mut pack: IdentityPack) {
        match self.pieces.last() {
            Some(last) if last.len() + pack.len() <= FEW => {
                pack.iter().for_each(|record| self.push(record));
            }
            _ if pack.is_empty() => {}
            _ => {
                pack.fit();
                self.pieces.push(pack);
            }
        }
    }

    /// Adds a validated record, of a higher inode than those before.
    ///
    /// # Panics
    /// As [`PackedIdentities::append`].
    pub fn push(&mut self, record: IdentityRef<'_>) {
        if self.pieces.last().is_none_or(|last| last.len() >= FEW) {
            self.fit();
            self.pieces.push(IdentityPack::default());
        }
        if let Some(last) = self.pieces.last_mut() {
            assert!(last.push(record), "file handles of more than 4 GiB");
        }
    }

    /// Gives room back that is not needed.
    fn fit(&mut self) {
        if let Some(last) = self.pieces.last_mut() {
            last.fit();
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(IdentityPack::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The first one.
    pub fn first(&self) -> Option<IdentityRef<'_>> {
        self.iter().next()
    }

    /// That of inode `id`.
    pub fn find(&self, id: u64) -> Option<IdentityRef<'_>> {
        let piece = &self.pieces[self.piece(id)?];
        let at = search(&piece.ids, id)?;
        Some(piece.get(at))
    }

    /// The piece in which that of inode `id` would be.
    fn piece(&self, id: u64) -> Option<usize> {
        let first = |piece: &IdentityPack| piece.ids.first().is_some_and(|first| *first <= id);
        self.pieces.partition_point(first).checked_sub(1)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = IdentityRef<'_>> {
        self.pieces.iter().flat_map(IdentityPack::iter)
    }

    /// The packs, of records of ascending inodes.
    pub(crate) fn pieces(&self) -> &[IdentityPack] {
        &self.pieces
    }

    /// Those of inode `id` and of all with higher ids, in order.
    pub fn iter_from(&self, id: u64) -> impl Iterator<Item = IdentityRef<'_>> {
        let mut pieces = self.pieces[self.piece(id).unwrap_or(0)..].iter();
        let piece = pieces.next();
        Onward {
            at: piece.map_or(0, |piece| piece.ids.partition_point(|own| *own < id)),
            piece,
            pieces,
        }
    }

    /// Of inode `id` and of all with higher ids, in order, the inode and whether its mark
    /// tells the object however long nobody has held it.
    pub fn lasting_from(&self, id: u64) -> impl Iterator<Item = (u64, bool)> + '_ {
        let from = self.piece(id).unwrap_or(0);
        let pieces = self.pieces[from..].iter().enumerate();
        pieces.flat_map(move |(n, piece)| {
            let start = match n {
                0 => piece.ids.partition_point(|own| *own < id),
                _ => 0,
            };
            (start..piece.len()).map(|at| (piece.ids[at], piece.is_lasting(at)))
        })
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.pieces = Vec::new();
    }

    /// The records that they were made of. What is packed goes as they come.
    pub fn into_records(self) -> Vec<Identity> {
        let mut records = Vec::with_capacity(self.len());
        for piece in self.pieces {
            records.extend(piece.iter().map(|record| record.to_record()));
        }
        records
    }
}

/// Identities from one on.
struct Onward<'a> {
    piece: Option<&'a IdentityPack>,
    at: usize,
    /// Those behind it.
    pieces: std::slice::Iter<'a, IdentityPack>,
}

impl<'a> Iterator for Onward<'a> {
    type Item = IdentityRef<'a>;

    fn next(&mut self) -> Option<IdentityRef<'a>> {
        loop {
            let piece = self.piece?;
            if self.at < piece.len() {
                self.at += 1;
                return Some(piece.get(self.at - 1));
            }
            (self.piece, self.at) = (self.pieces.next(), 0);
        }
    }
}

/// Of validated records, by ascending inode.
impl<'a> FromIterator<IdentityRef<'a>> for PackedIdentities {
    fn from_iter<I: IntoIterator<Item = IdentityRef<'a>>>(records: I) -> PackedIdentities {
        let mut all = PackedIdentities::default();
        records.into_iter().for_each(|record| all.push(record));
        all.fit();
        all
    }
}
