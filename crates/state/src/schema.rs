//! The structure of the records, version by version, as data: for tools that show
//! it and for whoever writes a reader. A test holds the table against what serde
//! makes of the structs themselves.

use std::fmt;

use crate::section::SectionId;
use crate::version::StateVersion;

/// A field of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name, which formats with names write; empty for a variant's only value.
    pub name: &'static str,
    /// Its type: an integer, `bool`, `bytes`, a record's name, one of these in
    /// brackets for a sequence, or with a question mark where it may be absent.
    pub ty: &'static str,
}

/// A variant of an enumeration. Its index is its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// Its name.
    pub name: &'static str,
    /// Its fields.
    pub fields: &'static [Field],
}

/// What a record is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Fields, in the order in which formats without names write them.
    Fields(&'static [Field]),
    /// One of several.
    Variants(&'static [Variant]),
}

/// A record's structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordSchema {
    /// Its name.
    pub name: &'static str,
    /// The section that carries it; none for a part of another record.
    pub section: Option<SectionId>,
    /// What it is made of.
    pub shape: Shape,
}

/// All records of a state version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schema {
    /// The version.
    pub version: StateVersion,
    /// Its records, those that others are made of behind them.
    pub records: &'static [RecordSchema],
}

const fn field(name: &'static str, ty: &'static str) -> Field {
    Field { name, ty }
}

const fn record(name: &'static str, section: SectionId, fields: &'static [Field]) -> RecordSchema {
    RecordSchema {
        name,
        section: Some(section),
        shape: Shape::Fields(fields),
    }
}

const fn variants(name: &'static str, variants: &'static [Variant]) -> RecordSchema {
    RecordSchema {
        name,
        section: None,
        shape: Shape::Variants(variants),
    }
}

const SESSION: RecordSchema = record(
    "Session",
    SectionId::SESSION,
    &[
        field("guest_minor", "u32"),
        field("minor", "u32"),
        field("offered_flags", "u64"),
        field("flags", "u64"),
        field("max_write", "u32"),
        field("max_pages", "u16"),
        field("max_readahead", "u32"),
        field("max_background", "u16"),
        field("congestion_threshold", "u16"),
        field("time_gran", "u32"),
    ],
);
const COUNTERS: RecordSchema = record(
    "Counters",
    SectionId::COUNTERS,
    &[field("next_inode", "u64"), field("next_handle", "u64")],
);
const MOUNT: RecordSchema = record(
    "Mount",
    SectionId::MOUNTS,
    &[field("id", "u32"), field("path", "[bytes]")],
);
const INODE: RecordSchema = record(
    "Inode",
    SectionId::INODES,
    &[
        field("id", "u64"),
        field("lookups", "u64"),
        field("kind", "u32"),
        field("location", "Location"),
    ],
);
const HANDLE: RecordSchema = record(
    "Handle",
    SectionId::HANDLES,
    &[
        field("id", "u64"),
        field("inode", "u64"),
        field("directory", "bool"),
        field("guest_flags", "u32"),
        field("host_flags", "u32"),
    ],
);
const LOCATION: RecordSchema = variants(
    "Location",
    &[
        Variant {
            name: "Root",
            fields: &[],
        },
        Variant {
            name: "Child",
            fields: &[field("parent", "u64"), field("name", "bytes")],
        },
        Variant {
            name: "Path",
            fields: &[field("from", "u64"), field("components", "[bytes]")],
        },
        Variant {
            name: "Handle",
            fields: &[field("", "FileHandle")],
        },
        Variant {
            name: "Lost",
            fields: &[field("errno", "i32")],
        },
    ],
);
const FILE_HANDLE: RecordSchema = RecordSchema {
    name: "FileHandle",
    section: None,
    shape: Shape::Fields(&[
        field("mount", "u32"),
        field("kind", "i32"),
        field("bytes", "bytes"),
    ]),
};
const FILE_SYSTEM: RecordSchema = record(
    "FileSystem",
    SectionId::FILE_SYSTEMS,
    &[
        field("id", "u32"),
        field("magic", "u64"),
        field("fsid", "u64"),
        field("device", "u64"),
        field("boot", "bytes"),
    ],
);
const IDENTITY: RecordSchema = record(
    "Identity",
    SectionId::IDENTITIES,
    &[
        field("inode", "u64"),
        field("file_system", "u32"),
        field("mark", "Mark"),
    ],
);
const LOCK: RecordSchema = record(
    "Lock",
    SectionId::LOCKS,
    &[
        field("handle", "u64?"),
        field("inode", "u64"),
        field("owner", "u64"),
        field("kind", "LockKind"),
        field("write", "bool"),
        field("start", "u64"),
        field("end", "u64"),
        field("pid", "u32"),
    ],
);
const REQUEST: RecordSchema = record(
    "Request",
    SectionId::REQUESTS,
    &[field("queue", "u16"), field("head", "u16")],
);
const GHOST: RecordSchema = record(
    "Ghost",
    SectionId::GHOSTS,
    &[
        field("inode", "u64"),
        field("directory", "u64"),
        field("number", "u64"),
        field("mode", "u32"),
        field("uid", "u32"),
        field("gid", "u32"),
        field("device", "u64"),
        field("size", "u64"),
        field("accessed", "Time"),
        field("modified", "Time"),
        field("target", "bytes"),
        field("linkable", "bool"),
        field("xattrs", "[Xattr]"),
    ],
);
const GHOST_DATA: RecordSchema = record(
    "GhostData",
    SectionId::GHOST_DATA,
    &[
        field("inode", "u64"),
        field("offset", "u64"),
        field("bytes", "bytes"),
    ],
);
const TIME: RecordSchema = RecordSchema {
    name: "Time",
    section: None,
    shape: Shape::Fields(&[field("seconds", "i64"), field("nanoseconds", "u32")]),
};
const XATTR: RecordSchema = RecordSchema {
    name: "Xattr",
    section: None,
    shape: Shape::Fields(&[field("name", "bytes"), field("value", "bytes")]),
};
const MARK: RecordSchema = variants(
    "Mark",
    &[
        Variant {
            name: "Handle",
            fields: &[field("kind", "i32"), field("bytes", "bytes")],
        },
        Variant {
            name: "Numbers",
            fields: &[field("ino", "u64"), field("born", "i64?")],
        },
    ],
);
const LOCK_KIND: RecordSchema = variants(
    "LockKind",
    &[
        Variant {
            name: "Posix",
            fields: &[],
        },
        Variant {
            name: "Flock",
            fields: &[],
        },
    ],
);

/// Every state version that is known here, oldest first.
pub const SCHEMAS: &[Schema] = &[
    Schema {
        version: StateVersion(1),
        records: &[
            SESSION,
            COUNTERS,
            MOUNT,
            INODE,
            HANDLE,
            LOCATION,
            FILE_HANDLE,
        ],
    },
    Schema {
        version: StateVersion(2),
        records: &[
            SESSION,
            COUNTERS,
            MOUNT,
            INODE,
            HANDLE,
            FILE_SYSTEM,
            IDENTITY,
            LOCK,
            REQUEST,
            LOCATION,
            FILE_HANDLE,
            MARK,
            LOCK_KIND,
        ],
    },
    Schema {
        version: StateVersion(3),
        records: &[
            SESSION,
            COUNTERS,
            MOUNT,
            INODE,
            HANDLE,
            FILE_SYSTEM,
            IDENTITY,
            LOCK,
            REQUEST,
            GHOST,
            GHOST_DATA,
            LOCATION,
            FILE_HANDLE,
            MARK,
            LOCK_KIND,
            TIME,
            XATTR,
        ],
    },
];

fn write_fields(f: &mut fmt::Formatter<'_>, indent: &str, fields: &[Field]) -> fmt::Result {
    for Field { name, ty } in fields {
        writeln!(f, "{indent}{name}: {ty}")?;
    }
    Ok(())
}

impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "state version {}", self.version)?;
        for record in self.records {
            match record.section {
                Some(section) => {
                    writeln!(f, "\n{} (section {}, {section})", record.name, section.0)?
                }
                None => writeln!(f, "\n{}", record.name)?,
            }
            match record.shape {
                Shape::Fields(fields) => write_fields(f, "  ", fields)?,
                Shape::Variants(variants) => {
                    for (index, variant) in variants.iter().enumerate() {
                        match variant.fields {
                            [Field { name: "", ty }] => {
                                writeln!(f, "  {index} {}: {ty}", variant.name)?;
                            }
                            fields => {
                                writeln!(f, "  {index} {}", variant.name)?;
                                write_fields(f, "      ", fields)?;
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    //! Each struct is deserialized from a source that has no data and writes down
    //! what it is asked for.

    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use serde::de::value::{Error, U32Deserializer};
    use serde::de::{
        DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
        VariantAccess, Visitor,
    };
    use serde::{forward_to_deserialize_any, Deserialize};

    use super::*;
    use crate::{v1, v2, v3};

    /// Names and types.
    type Found = Vec<(String, String)>;

    /// Records by name: fields, or variants with fields.
    #[derive(Default)]
    struct Trace {
        structs: BTreeMap<String, Found>,
        variants: BTreeMap<String, BTreeMap<usize, (String, Found)>>,
        /// Which variant enumerations are to be.
        variant: usize,
    }

    type Shared<'t> = &'t RefCell<Trace>;

    /// A value; its type is left in `ty`.
    struct Source<'t> {
        trace: Shared<'t>,
        ty: &'t RefCell<String>,
    }

    macro_rules! leaf {
        ($($method:ident $visit:ident $value:expr, $ty:literal;)*) => {$(
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
                $ty.clone_into(&mut self.ty.borrow_mut());
                visitor.$visit($value)
            }
        )*};
    }

    impl<'de> Deserializer<'de> for Source<'_> {
        type Error = Error;
        leaf! {
            deserialize_u16 visit_u16 0, "u16";
            deserialize_u32 visit_u32 0, "u32";
            deserialize_u64 visit_u64 0, "u64";
            deserialize_i32 visit_i32 0, "i32";
            deserialize_i64 visit_i64 0, "i64";
            deserialize_bool visit_bool false, "bool";
            deserialize_byte_buf visit_bytes &[], "bytes";
        }
        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
            Err(serde::de::Error::custom(
                "a type that the schema has no word for",
            ))
        }
        fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let some = RefCell::new(String::new());
            let value = visitor.visit_some(Source {
                trace: self.trace,
                ty: &some,
            })?;
            *self.ty.borrow_mut() = format!("{}?", some.borrow());
            Ok(value)
        }
        fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let element = RefCell::new(String::new());
            let value = visitor.visit_seq(Elements {
                trace: self.trace,
                ty: &element,
                left: 1,
            })?;
            *self.ty.borrow_mut() = format!("[{}]", element.borrow());
            Ok(value)
        }
        fn deserialize_struct<V: Visitor<'de>>(
            self,
            name: &'static str,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Error> {
            name.clone_into(&mut self.ty.borrow_mut());
            let found = RefCell::new(Vec::new());
            let value = visitor.visit_map(Fields {
                trace: self.trace,
                names: fields.iter(),
                name: "",
                found: &found,
            })?;
            let mut trace = self.trace.borrow_mut();
            trace.structs.insert(name.to_owned(), found.into_inner());
            Ok(value)
        }
        fn deserialize_enum<V: Visitor<'de>>(
            self,
            name: &'static str,
            variants: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Error> {
            name.clone_into(&mut self.ty.borrow_mut());
            let index = self.trace.borrow().variant.min(variants.len() - 1);
            let found = RefCell::new(Vec::new());
            let value = visitor.visit_enum(Chosen {
                trace: self.trace,
                index,
                found: &found,
            })?;
            let mut trace = self.trace.borrow_mut();
            let known = trace.variants.entry(name.to_owned()).or_default();
            known.insert(index, (variants[index].to_owned(), found.into_inner()));
            Ok(value)
        }
        forward_to_deserialize_any! {
            i8 i16 i128 u8 u128 f32 f64 char str string bytes unit unit_struct
            newtype_struct tuple tuple_struct map identifier ignored_any
        }
    }

    struct Elements<'t> {
        trace: Shared<'t>,
        ty: &'t RefCell<String>,
        left: u8,
    }

    impl<'de> SeqAccess<'de> for Elements<'_> {
        type Error = Error;
        fn next_element_seed<T: DeserializeSeed<'de>>(
            &mut self,
            seed: T,
        ) -> Result<Option<T::Value>, Error> {
            if self.left == 0 {
                return Ok(None);
            }
            self.left -= 1;
            let (trace, ty) = (self.trace, self.ty);
            seed.deserialize(Source { trace, ty }).map(Some)
        }
    }

    struct Fields<'t> {
        trace: Shared<'t>,
        names: std::slice::Iter<'static, &'static str>,
        name: &'static str,
        found: &'t RefCell<Found>,
    }

    impl<'de> MapAccess<'de> for Fields<'_> {
        type Error = Error;
        fn next_key_seed<K: DeserializeSeed<'de>>(
            &mut self,
            seed: K,
        ) -> Result<Option<K::Value>, Error> {
            let Some(name) = self.names.next() else {
                return Ok(None);
            };
            self.name = name;
            seed.deserialize((*name).into_deserializer()).map(Some)
        }
        fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
            let ty = RefCell::new(String::new());
            let trace = self.trace;
            let value = seed.deserialize(Source { trace, ty: &ty })?;
            let field = (self.name.to_owned(), ty.into_inner());
            self.found.borrow_mut().push(field);
            Ok(value)
        }
    }

    struct Chosen<'t> {
        trace: Shared<'t>,
        index: usize,
        found: &'t RefCell<Found>,
    }

    impl<'de> EnumAccess<'de> for Chosen<'_> {
        type Error = Error;
        type Variant = Self;
        fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
            let index: U32Deserializer<Error> = (self.index as u32).into_deserializer();
            Ok((seed.deserialize(index)?, self))
        }
    }

    impl<'de> VariantAccess<'de> for Chosen<'_> {
        type Error = Error;
        fn unit_variant(self) -> Result<(), Error> {
            Ok(())
        }
        fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
            let ty = RefCell::new(String::new());
            let trace = self.trace;
            let value = seed.deserialize(Source { trace, ty: &ty })?;
            self.found
                .borrow_mut()
                .push((String::new(), ty.into_inner()));
            Ok(value)
        }
        fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Error> {
            Err(serde::de::Error::custom("a tuple"))
        }
        fn struct_variant<V: Visitor<'de>>(
            self,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Error> {
            visitor.visit_map(Fields {
                trace: self.trace,
                names: fields.iter(),
                name: "",
                found: self.found,
            })
        }
    }

    fn trace<T: for<'de> Deserialize<'de>>(trace: Shared<'_>) {
        let ty = RefCell::new(String::new());
        T::deserialize(Source { trace, ty: &ty }).unwrap();
    }

    fn own(fields: &[Field]) -> Found {
        let pair = |f: &Field| (f.name.to_owned(), f.ty.to_owned());
        fields.iter().map(pair).collect()
    }

    /// Compares the table of one version with what `records` trace.
    fn compare(schema: &Schema, records: impl Fn(Shared<'_>), variants: usize) {
        let traced = RefCell::new(Trace::default());
        for variant in 0..variants {
            traced.borrow_mut().variant = variant;
            records(&traced);
        }
        let mut traced = traced.into_inner();
        for record in schema.records {
            match record.shape {
                Shape::Fields(fields) => {
                    assert_eq!(traced.structs.remove(record.name), Some(own(fields)));
                }
                Shape::Variants(variants) => {
                    let own: BTreeMap<_, _> = variants
                        .iter()
                        .map(|v| (v.name.to_owned(), own(v.fields)))
                        .enumerate()
                        .collect();
                    assert_eq!(traced.variants.remove(record.name), Some(own));
                }
            }
        }
        assert!(traced.structs.is_empty() && traced.variants.is_empty());
    }

    #[test]
    fn the_tables_are_what_serde_makes_of_the_structs() {
        let of_1 = |traced: Shared<'_>| {
            trace::<v1::Session>(traced);
            trace::<v1::Counters>(traced);
            trace::<v1::Mount>(traced);
            trace::<v1::Handle>(traced);
            trace::<v1::Inode>(traced);
        };
        compare(&SCHEMAS[0], of_1, 5);
        let of_2 = |traced: Shared<'_>| {
            trace::<v2::Session>(traced);
            trace::<v2::Counters>(traced);
            trace::<v2::Mount>(traced);
            trace::<v2::Handle>(traced);
            trace::<v2::Inode>(traced);
            trace::<v2::FileSystem>(traced);
            trace::<v2::Identity>(traced);
            trace::<v2::Lock>(traced);
            trace::<v2::Request>(traced);
        };
        compare(&SCHEMAS[1], of_2, 5);
        let of_3 = |traced: Shared<'_>| {
            of_2(traced);
            trace::<v3::Ghost>(traced);
            trace::<v3::GhostData>(traced);
        };
        compare(&SCHEMAS[2], of_3, 5);
    }

    /// The dumps are beside the golden streams, and change as little.
    #[test]
    fn what_is_dumped_of_a_released_version_does_not_change() {
        for schema in SCHEMAS {
            let path = format!(
                "{}/goldens/v{}/schema.txt",
                env!("CARGO_MANIFEST_DIR"),
                schema.version
            );
            if std::env::var_os("FERRYFS_MAKE_GOLDENS").is_some() {
                std::fs::write(&path, schema.to_string()).unwrap();
            }
            let golden = std::fs::read_to_string(&path).unwrap();
            assert_eq!(schema.to_string(), golden, "{path}");
        }
    }

    #[test]
    fn the_newest_version_is_the_current_one() {
        let versions: Vec<_> = SCHEMAS.iter().map(|s| s.version).collect();
        assert_eq!(versions.last(), Some(&StateVersion::CURRENT));
        assert!(versions.is_sorted());
        let released: Vec<_> = crate::RELEASES.iter().map(|r| r.state).collect();
        assert_eq!(versions, released, "each version came with a release");
        let text = SCHEMAS[0].to_string();
        assert!(text
            .starts_with("state version 1\n\nSession (section 1, session)\n  guest_minor: u32\n"));
        assert!(
            text.contains("\n  3 Handle: FileHandle\n  4 Lost\n      errno: i32\n"),
            "{text}"
        );
        assert!(SCHEMAS[1].to_string().contains("\n  handle: u64?\n"));
    }
}
