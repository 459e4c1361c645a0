//! Packs decoded straight from a payload: each record is borrowed from it for as long as
//! it takes to pack it.
//!
//! The structs here are those of [`v1`](crate::v1) and [`v2`](crate::v2), borrowed: serde
//! must see the same names and fields in them.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use serde_bytes::ByteBuf;

use super::{IdentityPack, IdentityRef, InodePack, InodeRef, MarkRef, Place};
use crate::bounded::{self, INITIAL_CAPACITY, MAX_RECORDS_PER_FRAME};
use crate::section::RECORDS_PER_FRAME;

/// A `ByteBuf` that is borrowed where the format can lend it.
struct Bytes<'a>(Cow<'a, [u8]>);

impl<'de: 'a, 'a> Deserialize<'de> for Bytes<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        // Not a buffer, as `ByteBuf` asks for: a format may lend bytes only to who wants no
        // more. Where it takes less for one than for the other, the frame is decoded into
        // records after all.
        d.deserialize_bytes(BytesVisitor)
    }
}

struct BytesVisitor;

impl<'de> Visitor<'de> for BytesVisitor {
    type Value = Bytes<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("byte array")
    }

    fn visit_borrowed_bytes<E: Error>(self, bytes: &'de [u8]) -> Result<Bytes<'de>, E> {
        Ok(Bytes(Cow::Borrowed(bytes)))
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Bytes<'de>, E> {
        self.visit_byte_buf(bytes.to_vec())
    }

    fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Bytes<'de>, E> {
        Ok(Bytes(Cow::Owned(bytes)))
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Bytes<'de>, E> {
        self.visit_borrowed_bytes(text.as_bytes())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Bytes<'de>, E> {
        self.visit_bytes(text.as_bytes())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Bytes<'de>, A::Error> {
        let mut bytes = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(INITIAL_CAPACITY));
        while let Some(byte) = seq.next_element()? {
            bytes.push(byte);
        }
        self.visit_byte_buf(bytes)
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, rename = "FileHandle")]
struct FileHandleIn<'a> {
    mount: u32,
    kind: i32,
    #[serde(borrow)]
    bytes: Bytes<'a>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, rename = "Location")]
enum LocationIn<'a> {
    Root,
    Child {
        parent: u64,
        #[serde(borrow)]
        name: Bytes<'a>,
    },
    Path {
        from: u64,
        #[serde(deserialize_with = "bounded::components")]
        components: Vec<ByteBuf>,
    },
    Handle(#[serde(borrow)] FileHandleIn<'a>),
    Lost {
        errno: i32,
    },
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, rename = "Inode")]
struct InodeIn<'a> {
    id: u64,
    lookups: u64,
    kind: u32,
    #[serde(borrow)]
    location: LocationIn<'a>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, rename = "Mark")]
enum MarkIn<'a> {
    Handle {
        kind: i32,
        #[serde(borrow)]
        bytes: Bytes<'a>,
    },
    Numbers {
        ino: u64,
        born: Option<i64>,
    },
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, rename = "Identity")]
struct IdentityIn<'a> {
    inode: u64,
    file_system: u32,
    #[serde(borrow)]
    mark: MarkIn<'a>,
}

/// Most records that are made room for before the first one has been decoded: as many as a
/// writer puts into a frame.
const EXPECTED: usize = RECORDS_PER_FRAME;

/// What many records are packed into.
trait Pack: Sized {
    type Record<'a>: Deserialize<'a>;

    fn with_capacity(records: usize) -> Self;

    /// False where there is no room.
    fn take(&mut self, record: Self::Record<'_>) -> bool;

    /// There are no more: gives room back, in the thread that had it.
    fn finish(&mut self);
}

impl Pack for InodePack {
    type Record<'a> = InodeIn<'a>;

    fn with_capacity(records: usize) -> Self {
        InodePack::with_capacity(records)
    }

    fn finish(&mut self) {
        self.fit();
    }

    fn take(&mut self, record: InodeIn<'_>) -> bool {
        self.push(InodeRef {
            id: record.id,
            lookups: record.lookups,
            kind: record.kind,
            place: match &record.location {
                LocationIn::Root => Place::Root,
                LocationIn::Child { parent, name } => Place::Child {
                    parent: *parent,
                    name: &name.0,
                },
                LocationIn::Path { from, components } => Place::Path {
                    from: *from,
                    components,
                },
                LocationIn::Handle(FileHandleIn { mount, kind, bytes }) => Place::Handle {
                    mount: *mount,
                    kind: *kind,
                    bytes: &bytes.0,
                },
                LocationIn::Lost { errno } => Place::Lost { errno: *errno },
            },
        })
    }
}

impl Pack for IdentityPack {
    type Record<'a> = IdentityIn<'a>;

    fn with_capacity(records: usize) -> Self {
        IdentityPack::with_capacity(records)
    }

    fn finish(&mut self) {
        self.fit();
    }

    fn take(&mut self, record: IdentityIn<'_>) -> bool {
        self.push(IdentityRef {
            inode: record.inode,
            file_system: record.file_system,
            mark: match &record.mark {
                MarkIn::Handle { kind, bytes } => MarkRef::Handle {
                    kind: *kind,
                    bytes: &bytes.0,
                },
                MarkIn::Numbers { ino, born } => MarkRef::Numbers {
                    ino: *ino,
                    born: *born,
                },
            },
        })
    }
}

struct PackVisitor<P>(std::marker::PhantomData<P>);

impl<'de, P: Pack> Visitor<'de> for PackVisitor<P> {
    type Value = P;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a sequence of at most {MAX_RECORDS_PER_FRAME} elements")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<P, A::Error> {
        let hint = seq.size_hint().unwrap_or(0);
        if hint > MAX_RECORDS_PER_FRAME {
            return Err(A::Error::invalid_length(hint, &self));
        }
        let mut pack = P::with_capacity(hint.min(EXPECTED));
        while let Some(record) = seq.next_element::<P::Record<'de>>()? {
            // No more than a pack has room for are taken of a frame.
            if !pack.take(record) {
                return Err(A::Error::invalid_length(MAX_RECORDS_PER_FRAME + 1, &self));
            }
        }
        pack.finish();
        Ok(pack)
    }
}

/// The records of one frame, at most [`MAX_RECORDS_PER_FRAME`].
impl<'de> Deserialize<'de> for InodePack {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_seq(PackVisitor(std::marker::PhantomData))
    }
}

/// The records of one frame, at most [`MAX_RECORDS_PER_FRAME`].
impl<'de> Deserialize<'de> for IdentityPack {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_seq(PackVisitor(std::marker::PhantomData))
    }
}
