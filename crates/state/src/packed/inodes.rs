//! Inodes, packed.

use serde_bytes::ByteBuf;

use super::strings::{Head, Strings};
use super::{InodeRef, Place, MOST_PACKED};
use crate::memory;
use crate::model::Inode;
use crate::section::RECORDS_PER_FRAME;

/// Records in each piece of [`PackedInodes`] but the last: those that a writer puts into
/// a frame.
pub const PIECE: usize = RECORDS_PER_FRAME;

/// Bytes that are set aside for each record before the first one has come.
const EXPECTED: usize = 20;

/// What the first byte of a record says: how it is found, in the upper half; in the lower
/// one the file type, of which `S_IFMT` is four bits.
const ROOT: u8 = 0 << 4;
const CHILD: u8 = 1 << 4;
const PATH: u8 = 2 << 4;
const HANDLE: u8 = 3 << 4;
const LOST: u8 = 4 << 4;
const PLACE: u8 = 7 << 4;
/// The file type is no `S_IFMT`, and the first number.
const ODD: u8 = 1 << 7;
const KIND: u8 = 0xf;

/// Inodes of one frame, or one piece.
#[derive(Clone, Debug, Default)]
pub struct InodePack {
    ids: Vec<u64>,
    strings: Strings,
    /// Those that are found by more than one component: few.
    paths: Vec<Vec<ByteBuf>>,
    /// Of what was pushed, in bytes; what was put together of packs does not count.
    memory: u64,
}

impl InodePack {
    /// None yet, with room for `records`, at most [`MOST_PACKED`].
    pub fn with_capacity(records: usize) -> InodePack {
        InodePack {
            ids: Vec::with_capacity(records),
            strings: Strings::with_capacity(records, records * EXPECTED),
            paths: Vec::new(),
            memory: 0,
        }
    }

    /// Adds a record. False, and nothing is added, where there is no room.
    pub fn push(&mut self, record: InodeRef<'_>) -> bool {
        if self.ids.len() == MOST_PACKED {
            return false;
        }
        let odd = record.kind & !(u32::from(KIND) << 12) != 0;
        let head = |place: u8| match odd {
            false => Head::new(place | (record.kind >> 12) as u8).number(record.lookups),
            true => Head::new(place | ODD)
                .number(record.kind.into())
                .number(record.lookups),
        };
        let (head, tail) = match record.place {
            Place::Root => (head(ROOT), &[][..]),
            Place::Child { parent, name } => (head(CHILD).number(parent), name),
            Place::Path { from, .. } => (
                head(PATH).number(self.paths.len() as u64).number(from),
                &[][..],
            ),
            Place::Handle { mount, kind, bytes } => (
                head(HANDLE).number((u64::from(mount) << 32) | u64::from(kind as u32)),
                bytes,
            ),
            Place::Lost { errno } => (head(LOST).signed(errno.into()), &[][..]),
        };
        if !self.strings.push(&head, tail) {
            return false;
        }
        if let Place::Path { components, .. } = record.place {
            self.paths.push(components.to_vec());
        }
        self.ids.push(record.id);
        self.memory += memory::of_inode(&record) as u64;
        true
    }

    /// Gives room back that is not needed.
    pub fn fit(&mut self) {
        self.ids.shrink_to_fit();
        self.strings.fit();
        self.paths.shrink_to_fit();
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Their ids.
    pub fn ids(&self) -> &[u64] {
        &self.ids
    }

    /// The record at `at`.
    ///
    /// # Panics
    /// Where there are no more than `at`.
    pub fn get(&self, at: usize) -> InodeRef<'_> {
        let mut cursor = self.strings.get(at);
        let first = cursor.byte();
        let kind = match first & ODD {
            0 => u32::from(first & KIND) << 12,
            _ => cursor.number() as u32,
        };
        let lookups = cursor.number();
        let place = match first & PLACE {
            ROOT => Place::Root,
            CHILD => Place::Child {
                parent: cursor.number(),
                name: cursor.rest(),
            },
            PATH => {
                let path = cursor.number() as usize;
                Place::Path {
                    from: cursor.number(),
                    components: &self.paths[path],
                }
            }
            HANDLE => {
                let both = cursor.number();
                Place::Handle {
                    mount: (both >> 32) as u32,
                    kind: both as i32,
                    bytes: cursor.rest(),
                }
            }
            _ => Place::Lost {
                errno: cursor.signed() as i32,
            },
        };
        InodeRef {
            id: self.ids[at],
            lookups,
            kind,
            place,
        }
    }

    /// The file type of the record at `at`.
    ///
    /// # Panics
    /// As [`InodePack::get`].
    pub fn kind(&self, at: usize) -> u32 {
        let first = self.strings.first(at);
        match first & ODD {
            0 => u32::from(first & KIND) << 12,
            _ => self.get(at).kind,
        }
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = InodeRef<'_>> {
        (0..self.len()).map(|at| self.get(at))
    }

    /// Bytes that they would take up as records.
    pub(crate) fn memory(&self) -> u64 {
        self.memory
    }
}

/// Inodes of a state, by ascending id: in pieces of [`PIECE`], and a last one of as many
/// or less.
#[derive(Clone, Debug, Default)]
pub struct PackedInodes {
    pieces: Vec<InodePack>,
}

impl PackedInodes {
    /// Puts the records of a frame behind those before it. Validated ones: no name is
    /// longer than a name can be.
    pub fn append(&mut self, mut pack: InodePack) {
        let whole = self.pieces.last().is_none_or(|last| last.len() == PIECE);
        if whole && pack.len() <= PIECE {
            pack.fit();
            self.pieces.push(pack);
            return;
        }
        if !pack.paths.is_empty() {
            // Paths are known by their number in the pack.
            return pack.iter().for_each(|record| self.push(record));
        }
        // As much as the last piece has room for, then the rest.
        let mut taken = 0;
        while taken < pack.len() {
            let last = self.room();
            let end = pack.len().min(taken + PIECE - last.len());
            last.strings.extend(&pack.strings, taken..end);
            last.ids.extend_from_slice(&pack.ids[taken..end]);
            taken = end;
        }
    }

    /// A last piece that is not whole.
    fn room(&mut self) -> &mut InodePack {
        let whole = self.pieces.last().is_none_or(|last| last.len() == PIECE);
        if whole {
            self.fit();
            self.pieces.push(InodePack::default());
        }
        let last = self.pieces.len() - 1;
        &mut self.pieces[last]
    }

    /// Adds a validated record, which has a higher id than those before.
    ///
    /// # Panics
    /// Where names, which have 255 bytes at most, come to 4 GiB within a piece.
    pub fn push(&mut self, record: InodeRef<'_>) {
        assert!(self.room().push(record), "names of more than 4 GiB");
    }

    /// Gives room back that is not needed.
    fn fit(&mut self) {
        if let Some(last) = self.pieces.last_mut() {
            last.fit();
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        let full = self.pieces.len().saturating_sub(1) * PIECE;
        full + self.pieces.last().map_or(0, InodePack::len)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The pieces: [`PIECE`] records each, but for the last.
    pub fn pieces(&self) -> &[InodePack] {
        &self.pieces
    }

    /// The record at `at`.
    ///
    /// # Panics
    /// Where there are no more than `at`.
    pub fn get(&self, at: usize) -> InodeRef<'_> {
        self.pieces[at / PIECE].get(at % PIECE)
    }

    /// The id of the record at `at`.
    ///
    /// # Panics
    /// As [`PackedInodes::get`].
    pub fn id(&self, at: usize) -> u64 {
        self.pieces[at / PIECE].ids[at % PIECE]
    }

    /// The file type of the record at `at`.
    ///
    /// # Panics
    /// As [`PackedInodes::get`].
    pub fn kind(&self, at: usize) -> u32 {
        self.pieces[at / PIECE].kind(at % PIECE)
    }

    /// Where inode `id` is.
    pub fn position(&self, id: u64) -> Option<usize> {
        let first = |piece: &InodePack| piece.ids.first().is_some_and(|first| *first <= id);
        let piece = self.pieces.partition_point(first).checked_sub(1)?;
        let at = self.pieces[piece].ids.binary_search(&id).ok()?;
        Some(piece * PIECE + at)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = InodeRef<'_>> {
        self.pieces.iter().flat_map(InodePack::iter)
    }

    /// The records that they were made of. What is packed goes as they come.
    pub fn into_records(self) -> Vec<Inode> {
        let mut records = Vec::with_capacity(self.len());
        for piece in self.pieces {
            records.extend(piece.iter().map(|record| record.to_record()));
        }
        records
    }
}

/// Of validated records, by ascending id.
impl<'a> FromIterator<InodeRef<'a>> for PackedInodes {
    fn from_iter<I: IntoIterator<Item = InodeRef<'a>>>(records: I) -> PackedInodes {
        let mut all = PackedInodes::default();
        records.into_iter().for_each(|record| all.push(record));
        all.fit();
        all
    }
}
