//! Inodes, packed.

use serde_bytes::ByteBuf;

use super::strings::{Head, Strings};
use super::{search, InodeRef, Place, MOST_PACKED};
use crate::memory;
use crate::model::Inode;
use crate::section::RECORDS_PER_FRAME;
use crate::validate::check_inode;

/// Most records in a piece of [`PackedInodes`]: those that a writer puts into a frame.
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
    /// Not all that was pushed is as a record must be by itself, and behind the one before.
    unsound: bool,
}

impl InodePack {
    /// None yet, with room for `records`, at most [`MOST_PACKED`].
    pub fn with_capacity(records: usize) -> InodePack {
        InodePack {
            ids: Vec::with_capacity(records),
            strings: Strings::with_capacity(records, records * EXPECTED),
            paths: Vec::new(),
            memory: 0,
            unsound: false,
        }
    }

    /// Adds a record. False, and nothing is added, where there is no room.
    pub fn push(&mut self, record: InodeRef<'_>) -> bool {
        if self.ids.len() == MOST_PACKED {
            return false;
        }
        let odd = record.kind & !(u32::from(KIND) << 12) != 0;
        let (place, tail) = match record.place {
            Place::Root => (ROOT, &[][..]),
            Place::Child { name, .. } => (CHILD, name),
            Place::Path { .. } => (PATH, &[][..]),
            Place::Handle { bytes, .. } => (HANDLE, bytes),
            Place::Lost { .. } => (LOST, &[][..]),
        };
        let mut head = match odd {
            false => Head::new(place | (record.kind >> 12) as u8),
            true => Head::new(place | ODD),
        };
        if odd {
            head.number(record.kind.into());
        }
        head.number(record.lookups);
        match record.place {
            Place::Root => {}
            Place::Child { parent, .. } => head.number(parent),
            Place::Path { from, .. } => {
                head.number(self.paths.len() as u64);
                head.number(from);
            }
            Place::Handle { mount, kind, .. } => {
                head.number((u64::from(mount) << 32) | u64::from(kind as u32));
            }
            Place::Lost { errno } => head.signed(errno.into()),
        }
        if !self.strings.push(&head, tail) {
            return false;
        }
        if let Place::Path { components, .. } = record.place {
            self.paths.push(components.to_vec());
        }
        // Looked at now that it is at hand: to take it apart again takes longer than that.
        if !self.unsound {
            let ascends = self.ids.last().is_none_or(|last| *last < record.id);
            self.unsound = !ascends || check_inode(&record).is_err();
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

    /// What the record at `at` is found from.
    ///
    /// # Panics
    /// As [`InodePack::get`].
    pub(crate) fn lead(&self, at: usize) -> Lead {
        let mut cursor = self.strings.get(at);
        let first = cursor.byte();
        let place = first & PLACE;
        if place == ROOT || place == LOST {
            return Lead::None;
        }
        if first & ODD != 0 {
            cursor.number();
        }
        // Lookups.
        cursor.number();
        match place {
            CHILD => Lead::Above(cursor.number()),
            PATH => {
                cursor.number();
                Lead::Above(cursor.number())
            }
            _ => Lead::Mount((cursor.number() >> 32) as u32),
        }
    }

    /// In which way the record at `at` is found.
    ///
    /// # Panics
    /// As [`InodePack::get`].
    pub fn way(&self, at: usize) -> Way {
        match self.strings.first(at) & PLACE {
            CHILD => Way::Child,
            HANDLE => Way::Handle,
            _ => Way::Other,
        }
    }

    /// Bytes that they would take up as records.
    pub(crate) fn memory(&self) -> u64 {
        self.memory
    }

    /// Whether all of them are as they must be by themselves, and by ascending id.
    pub(crate) fn is_sound(&self) -> bool {
        !self.unsound
    }
}

/// What an inode is found from, which must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lead {
    /// Nothing.
    None,
    /// The directory with this id.
    Above(u64),
    /// The mount with this number.
    Mount(u32),
}

impl From<Place<'_>> for Lead {
    fn from(place: Place<'_>) -> Lead {
        match place {
            Place::Handle { mount, .. } => Lead::Mount(mount),
            _ => place.above().map_or(Lead::None, Lead::Above),
        }
    }
}

/// In which way an inode is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// [`Place::Child`].
    Child,
    /// [`Place::Handle`].
    Handle,
    /// Any other.
    Other,
}

/// Inodes of a state, by ascending id: in pieces of [`PIECE`] at most, and of half as many
/// on the average, or more.
#[derive(Clone, Debug, Default)]
pub struct PackedInodes {
    pieces: Vec<InodePack>,
    /// How many records there are in all pieces before each.
    starts: Vec<usize>,
}

impl PackedInodes {
    /// Puts the records of a frame behind those before it. Validated ones: no name is
    /// longer than a name can be.
    pub fn append(&mut self, mut pack: InodePack) {
        if pack.is_empty() {
            return;
        }
        let fits = |last: &InodePack| last.len() + pack.len() <= PIECE;
        if pack.len() <= PIECE && !self.pieces.last().is_some_and(fits) {
            pack.fit();
            return self.begin(pack);
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
            // Nobody has looked.
            last.unsound = true;
            taken = end;
        }
    }

    /// Puts a piece behind those before it.
    fn begin(&mut self, pack: InodePack) {
        self.starts.push(self.len());
        self.pieces.push(pack);
    }

    /// A last piece that is not whole.
    fn room(&mut self) -> &mut InodePack {
        let whole = self.pieces.last().is_none_or(|last| last.len() >= PIECE);
        if whole {
            self.fit();
            self.begin(InodePack::default());
        }
        let last = self.pieces.len() - 1;
        &mut self.pieces[last]
    }

    /// Which piece the record at `at` is in, and where.
    fn find(&self, at: usize) -> (usize, usize) {
        // Nearly all pieces are whole, most of the time.
        let guess = at / PIECE;
        let is_it = |piece: usize| {
            self.starts.get(piece).is_some_and(|start| *start <= at)
                && self.starts.get(piece + 1).is_none_or(|next| at < *next)
        };
        let piece = match is_it(guess) {
            true => guess,
            false => self.starts.partition_point(|start| *start <= at) - 1,
        };
        (piece, at - self.starts[piece])
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
        let before = self.starts.last().copied().unwrap_or(0);
        before + self.pieces.last().map_or(0, InodePack::len)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The pieces, of [`PIECE`] records at most.
    pub fn pieces(&self) -> &[InodePack] {
        &self.pieces
    }

    /// The record at `at`.
    ///
    /// # Panics
    /// Where there are no more than `at`.
    pub fn get(&self, at: usize) -> InodeRef<'_> {
        let (piece, at) = self.find(at);
        self.pieces[piece].get(at)
    }

    /// The id of the record at `at`.
    ///
    /// # Panics
    /// As [`PackedInodes::get`].
    pub fn id(&self, at: usize) -> u64 {
        let (piece, at) = self.find(at);
        self.pieces[piece].ids[at]
    }

    /// The file type of the record at `at`.
    ///
    /// # Panics
    /// As [`PackedInodes::get`].
    pub fn kind(&self, at: usize) -> u32 {
        let (piece, at) = self.find(at);
        self.pieces[piece].kind(at)
    }

    /// What the record at `at` is found from.
    ///
    /// # Panics
    /// As [`PackedInodes::get`].
    pub(crate) fn lead(&self, at: usize) -> Lead {
        let (piece, at) = self.find(at);
        self.pieces[piece].lead(at)
    }

    /// Where inode `id` is.
    pub fn position(&self, id: u64) -> Option<usize> {
        let first = |piece: &InodePack| piece.ids.first().is_some_and(|first| *first <= id);
        let piece = self.pieces.partition_point(first).checked_sub(1)?;
        let at = search(&self.pieces[piece].ids, id)?;
        Some(self.starts[piece] + at)
    }

    /// Where the inodes with these ids end, which ascend, if all of them are there and no
    /// others are between them.
    pub(crate) fn have_in_a_row(&self, ids: &[u64]) -> Option<usize> {
        let at = self.position(*ids.first()?)?;
        let (mut piece, from) = self.find(at);
        let mut rest = ids;
        let mut own = &self.pieces[piece].ids[from..];
        loop {
            let both = own.len().min(rest.len());
            if own[..both] != rest[..both] {
                return None;
            }
            rest = &rest[both..];
            if rest.is_empty() {
                return Some(at + ids.len());
            }
            piece += 1;
            own = &self.pieces.get(piece)?.ids;
        }
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
