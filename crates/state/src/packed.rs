//! Records of many inodes in little memory: some 25 bytes each instead of a hundred
//! and an allocation. For who keeps them and looks at a few at a time.
//!
//! What is packed is what nearly all records are: inodes by name in a directory or by
//! file handle, and marks. No wire format; it can be another in each release.

use crate::model::{FileHandle, Inode, Location, Mark};
use serde_bytes::ByteBuf;

/// Most records that one pack may have: their bytes stay below 4 GiB.
pub const MOST_PACKED: usize = 1 << 16;

/// How a packed inode is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// [`Location::Child`].
    Child {
        /// Nodeid of the directory.
        parent: u64,
        /// One component.
        name: &'a [u8],
    },
    /// [`Location::Handle`].
    Handle {
        /// [`Mount::id`](crate::Mount::id).
        mount: u32,
        /// `handle_type`.
        kind: i32,
        /// `f_handle`.
        bytes: &'a [u8],
    },
}

/// A packed [`Inode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InodeRef<'a> {
    /// FUSE nodeid.
    pub id: u64,
    /// Lookups that the guest holds.
    pub lookups: u64,
    /// File type: the `S_IFMT` part of `st_mode`.
    pub kind: u32,
    /// How to find it.
    pub place: Place<'a>,
}

impl InodeRef<'_> {
    /// The record that it was made of.
    pub fn to_record(&self) -> Inode {
        Inode {
            id: self.id,
            lookups: self.lookups,
            kind: self.kind,
            location: match self.place {
                Place::Child { parent, name } => Location::Child {
                    parent,
                    name: ByteBuf::from(name),
                },
                Place::Handle { mount, kind, bytes } => Location::Handle(FileHandle {
                    mount,
                    kind,
                    bytes: ByteBuf::from(bytes),
                }),
            },
        }
    }
}

/// A [`Mark`], borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkRef<'a> {
    /// [`Mark::Handle`].
    Handle {
        /// `handle_type`.
        kind: i32,
        /// `f_handle`.
        bytes: &'a [u8],
    },
    /// [`Mark::Numbers`].
    Numbers {
        /// Inode number.
        ino: u64,
        /// Time of birth in nanoseconds since 1970.
        born: Option<i64>,
    },
}

impl<'a> From<&'a Mark> for MarkRef<'a> {
    fn from(mark: &'a Mark) -> MarkRef<'a> {
        match mark {
            Mark::Handle { kind, bytes } => MarkRef::Handle { kind: *kind, bytes },
            Mark::Numbers { ino, born } => MarkRef::Numbers {
                ino: *ino,
                born: *born,
            },
        }
    }
}

impl MarkRef<'_> {
    /// The same, owned.
    pub fn to_mark(self) -> Mark {
        match self {
            MarkRef::Handle { kind, bytes } => Mark::Handle {
                kind,
                bytes: ByteBuf::from(bytes),
            },
            MarkRef::Numbers { ino, born } => Mark::Numbers { ino, born },
        }
    }
}

/// Byte strings one behind the other.
#[derive(Clone, Debug, Default)]
struct Strings {
    ends: Vec<u32>,
    bytes: Vec<u8>,
}

impl Strings {
    fn with_capacity(records: usize) -> Strings {
        Strings {
            ends: Vec::with_capacity(records),
            bytes: Vec::with_capacity(records * 20),
        }
    }

    fn get(&self, at: usize) -> Cursor<'_> {
        let start = match at {
            0 => 0,
            _ => self.ends[at - 1],
        };
        Cursor(&self.bytes[start as usize..self.ends[at] as usize])
    }

    fn end(&mut self) {
        // Below `MOST_PACKED` records of a few hundred bytes.
        self.ends.push(self.bytes.len() as u32);
    }

    fn number(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.bytes.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.bytes.push(n as u8);
    }

    fn signed(&mut self, n: i64) {
        self.number((n << 1 ^ n >> 63) as u64);
    }

    fn fit(&mut self) {
        self.ends.shrink_to_fit();
        self.bytes.shrink_to_fit();
    }
}

/// Reads what `Strings` wrote.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn byte(&mut self) -> u8 {
        let (&first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        first
    }

    fn number(&mut self) -> u64 {
        let mut n = 0;
        let mut shift = 0;
        loop {
            let byte = self.byte();
            n |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 || shift > 63 {
                return n;
            }
        }
    }

    fn signed(&mut self) -> i64 {
        let n = self.number();
        (n >> 1) as i64 ^ -((n & 1) as i64)
    }
}

const CHILD: u8 = 0;
const HANDLE: u8 = 1 << 4;

/// Inodes by ascending id.
#[derive(Clone, Debug, Default)]
pub struct PackedInodes {
    ids: Vec<u64>,
    strings: Strings,
}

impl PackedInodes {
    /// None yet, with room for `records`, at most [`MOST_PACKED`].
    pub fn with_capacity(records: usize) -> PackedInodes {
        PackedInodes {
            ids: Vec::with_capacity(records),
            strings: Strings::with_capacity(records),
        }
    }

    /// Adds a validated record, which has a higher id than those before. False, and
    /// nothing is added, where it is neither by name nor by handle, or there is no room.
    pub fn push(&mut self, record: &Inode) -> bool {
        if self.ids.len() == MOST_PACKED {
            return false;
        }
        // `S_IFMT` is four bits.
        let kind = (record.kind >> 12) as u8 & 0xf;
        match &record.location {
            Location::Child { parent, name } => {
                self.strings.bytes.push(CHILD | kind);
                self.strings.number(record.lookups);
                self.strings.number(*parent);
                self.strings.bytes.extend_from_slice(name);
            }
            Location::Handle(FileHandle {
                mount,
                kind: handle_kind,
                bytes,
            }) => {
                self.strings.bytes.push(HANDLE | kind);
                self.strings.number(record.lookups);
                self.strings.number(u64::from(*mount));
                self.strings.signed(i64::from(*handle_kind));
                self.strings.bytes.extend_from_slice(bytes);
            }
            _ => return false,
        }
        self.strings.end();
        self.ids.push(record.id);
        true
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
        let lookups = cursor.number();
        let place = match first & HANDLE {
            0 => Place::Child {
                parent: cursor.number(),
                name: cursor.0,
            },
            _ => Place::Handle {
                mount: cursor.number() as u32,
                kind: cursor.signed() as i32,
                bytes: cursor.0,
            },
        };
        InodeRef {
            id: self.ids[at],
            lookups,
            kind: u32::from(first & 0xf) << 12,
            place,
        }
    }
}

/// Marks, each with the number of its file system, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub struct PackedMarks(Strings);

impl PackedMarks {
    /// None yet, with room for `records`, at most [`MOST_PACKED`].
    pub fn with_capacity(records: usize) -> PackedMarks {
        PackedMarks(Strings::with_capacity(records))
    }

    /// Adds a validated one; `None` keeps a place.
    pub fn push(&mut self, mark: Option<(u32, MarkRef<'_>)>) {
        if let Some((file_system, mark)) = mark {
            match mark {
                MarkRef::Handle { kind, bytes } => {
                    self.0.bytes.push(0);
                    self.0.number(u64::from(file_system));
                    self.0.signed(i64::from(kind));
                    self.0.bytes.extend_from_slice(bytes);
                }
                MarkRef::Numbers { ino, born } => {
                    self.0.bytes.push(1 + u8::from(born.is_some()));
                    self.0.number(u64::from(file_system));
                    self.0.number(ino);
                    if let Some(born) = born {
                        self.0.bytes.extend_from_slice(&born.to_le_bytes());
                    }
                }
            }
        }
        self.0.end();
    }

    /// Gives room back that is not needed.
    pub fn fit(&mut self) {
        self.0.fit();
    }

    /// How many places there are.
    pub fn len(&self) -> usize {
        self.0.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.ends.is_empty()
    }

    /// The mark at `at`, with the number of its file system.
    ///
    /// # Panics
    /// Where there are no more than `at`.
    pub fn get(&self, at: usize) -> Option<(u32, MarkRef<'_>)> {
        let mut cursor = self.0.get(at);
        if cursor.0.is_empty() {
            return None;
        }
        let first = cursor.byte();
        let file_system = cursor.number() as u32;
        let mark = match first {
            0 => MarkRef::Handle {
                kind: cursor.signed() as i32,
                bytes: cursor.0,
            },
            _ => MarkRef::Numbers {
                ino: cursor.number(),
                born: cursor.0.first_chunk().map(|born| i64::from_le_bytes(*born)),
            },
        };
        Some((file_system, mark))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kinds() -> impl Strategy<Value = u32> {
        proptest::sample::select(vec![
            0u32, 0o010000, 0o020000, 0o040000, 0o060000, 0o100000, 0o120000, 0o140000,
        ])
    }

    fn bytes() -> impl Strategy<Value = ByteBuf> {
        proptest::collection::vec(any::<u8>(), 1..128).prop_map(ByteBuf::from)
    }

    fn location() -> impl Strategy<Value = Location> {
        prop_oneof![
            (any::<u64>(), bytes()).prop_map(|(parent, name)| Location::Child { parent, name }),
            (any::<u32>(), any::<i32>(), bytes()).prop_map(|(mount, kind, bytes)| {
                Location::Handle(FileHandle { mount, kind, bytes })
            }),
        ]
    }

    proptest! {
        #[test]
        fn inodes_come_out_as_they_went_in(
            records in proptest::collection::vec((any::<u64>(), kinds(), location()), 1..50),
        ) {
            let records: Vec<Inode> = records
                .into_iter()
                .enumerate()
                .map(|(at, (lookups, kind, location))| Inode {
                    id: at as u64 * 3,
                    lookups,
                    kind,
                    location,
                })
                .collect();
            let mut packed = PackedInodes::with_capacity(0);
            for record in &records {
                prop_assert!(packed.push(record));
            }
            packed.fit();
            prop_assert_eq!(packed.len(), records.len());
            for (at, record) in records.iter().enumerate() {
                prop_assert_eq!(&packed.get(at).to_record(), record);
                prop_assert_eq!(packed.ids()[at], record.id);
            }
        }

        #[test]
        fn marks_come_out_as_they_went_in(
            marks in proptest::collection::vec(
                proptest::option::of((
                    any::<u32>(),
                    prop_oneof![
                        (any::<i32>(), bytes())
                            .prop_map(|(kind, bytes)| Mark::Handle { kind, bytes }),
                        (any::<u64>(), any::<Option<i64>>())
                            .prop_map(|(ino, born)| Mark::Numbers { ino, born }),
                    ],
                )),
                1..50,
            ),
        ) {
            let mut packed = PackedMarks::with_capacity(0);
            for mark in &marks {
                packed.push(mark.as_ref().map(|(fs, mark)| (*fs, mark.into())));
            }
            packed.fit();
            for (at, mark) in marks.iter().enumerate() {
                let found = packed.get(at).map(|(fs, mark)| (fs, mark.to_mark()));
                prop_assert_eq!(&found, mark);
            }
        }
    }

    #[test]
    fn what_is_found_otherwise_is_not_packed() {
        let mut packed = PackedInodes::default();
        for location in [
            Location::Root,
            Location::Lost { errno: 116 },
            Location::Path {
                from: 1,
                components: vec![ByteBuf::from(b"a".to_vec())],
            },
        ] {
            let record = Inode {
                id: 1,
                lookups: 1,
                kind: 0o040000,
                location,
            };
            assert!(!packed.push(&record));
        }
        assert!(packed.is_empty());
    }
}
