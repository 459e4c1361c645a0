//! The seam for serialization formats.
//!
//! A new format implements [`Codec`] (two methods over serde) and is a [`Format`]
//! by that. Something that wraps any format, such as compression, implements
//! [`Format`] itself.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::Serialize;

use crate::bounded::{OneFrame, Records};
use crate::dialect::Dialect;
use crate::error::StateError;
use crate::packed::PackedFrame;
use crate::section::{Frame, FrameRef, SectionId};
use crate::version::SectionVersion;

/// Why a payload cannot be encoded or decoded.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CodecError {
    message: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl CodecError {
    /// An error of the format's own.
    pub fn new(message: impl Into<String>) -> Self {
        CodecError {
            message: message.into(),
            source: None,
        }
    }

    /// An error of the library underneath.
    pub fn with_source(
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        CodecError {
            message: message.into(),
            source: Some(source.into()),
        }
    }
}

/// What the envelope knows about a payload before it is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameSpec {
    /// The section it belongs to: one that this build knows.
    pub section: SectionId,
    /// The version of its records: one that this build knows.
    pub version: SectionVersion,
    /// Most bytes that the payload may have once it is no longer compressed.
    pub max_plain: usize,
}

/// A serialization format over serde. Everybody who implements this has a
/// [`Format`].
pub trait Codec: Send + Sync + 'static {
    /// Name in the stream's header and on the command line: 1 to 32 characters of
    /// `a-z 0-9 . _ - +`.
    const NAME: &'static str;

    /// Appends `value` to `out`. The same value always gives the same bytes.
    ///
    /// # Errors
    /// The value cannot be said in this format.
    fn encode<T: Serialize + ?Sized>(&self, value: &T, out: &mut Vec<u8>)
        -> Result<(), CodecError>;

    /// Decodes one value that takes up all of `bytes`.
    ///
    /// # Errors
    /// The bytes are no such value, or go on after it. Never panics, and never sets
    /// aside memory that the bytes do not account for.
    fn decode<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, CodecError>;
}

/// Turns what a frame carries into its payload and back.
pub trait Format: Send + Sync {
    /// Name in the stream's header and on the command line: 1 to 32 characters of
    /// `a-z 0-9 . _ - +`.
    fn name(&self) -> &str;

    /// Appends the payload for `frame` to `out`.
    ///
    /// # Errors
    /// As [`Codec::encode`].
    fn encode_frame(&self, frame: FrameRef<'_>, out: &mut Vec<u8>) -> Result<(), CodecError>;

    /// Decodes a payload, all of it.
    ///
    /// # Errors
    /// As [`Codec::decode`].
    fn decode_frame(&self, spec: &FrameSpec, payload: &[u8]) -> Result<Frame, CodecError>;

    /// The same, with inodes and identities packed: for who reads a state of very many.
    /// Accepts what [`decode_frame`](Format::decode_frame) accepts, and refuses the rest
    /// in the same words. What wraps another format passes this on to it, lest a record of
    /// its own be made of each inode.
    ///
    /// # Errors
    /// As [`Codec::decode`].
    fn decode_packed(&self, spec: &FrameSpec, payload: &[u8]) -> Result<PackedFrame, CodecError> {
        self.decode_frame(spec, payload).map(PackedFrame::from)
    }
}

impl<C: Codec> Format for C {
    fn name(&self) -> &str {
        C::NAME
    }

    fn encode_frame(&self, frame: FrameRef<'_>, out: &mut Vec<u8>) -> Result<(), CodecError> {
        match frame {
            FrameRef::Session(session) => self.encode(session, out),
            FrameRef::Counters(counters) => self.encode(counters, out),
            FrameRef::Mounts(mounts) => self.encode(mounts, out),
            FrameRef::Inodes(inodes) => self.encode(inodes, out),
            FrameRef::Handles(handles) => self.encode(handles, out),
            FrameRef::FileSystems(file_systems) => self.encode(file_systems, out),
            FrameRef::Identities(identities) => self.encode(identities, out),
            FrameRef::Locks(locks) => self.encode(locks, out),
            FrameRef::Requests(requests) => self.encode(requests, out),
            FrameRef::Ghosts(ghosts) => self.encode(ghosts, out),
            FrameRef::GhostData(data) => self.encode(data, out),
        }
    }

    fn decode_frame(&self, spec: &FrameSpec, payload: &[u8]) -> Result<Frame, CodecError> {
        check_plain(spec, payload)?;
        let _one = OneFrame::begin();
        // Sections that a state version adds have arms of their own here. One whose
        // records change gets a second arm, which decodes the frozen struct of the
        // older version and takes it up step by step.
        Ok(match (spec.section, spec.version.0) {
            (SectionId::SESSION, 1) => Frame::Session(self.decode(payload)?),
            (SectionId::COUNTERS, 1) => Frame::Counters(self.decode(payload)?),
            (SectionId::MOUNTS, 1) => Frame::Mounts(self.decode::<Records<_>>(payload)?.0),
            (SectionId::INODES, 1) => Frame::Inodes(self.decode::<Records<_>>(payload)?.0),
            (SectionId::HANDLES, 1) => Frame::Handles(self.decode::<Records<_>>(payload)?.0),
            (SectionId::FILE_SYSTEMS, 1) => {
                Frame::FileSystems(self.decode::<Records<_>>(payload)?.0)
            }
            (SectionId::IDENTITIES, 1) => Frame::Identities(self.decode::<Records<_>>(payload)?.0),
            (SectionId::LOCKS, 1) => Frame::Locks(self.decode::<Records<_>>(payload)?.0),
            (SectionId::REQUESTS, 1) => Frame::Requests(self.decode::<Records<_>>(payload)?.0),
            (SectionId::GHOSTS, 1) => Frame::Ghosts(self.decode::<Records<_>>(payload)?.0),
            (SectionId::GHOST_DATA, 1) => Frame::GhostData(self.decode::<Records<_>>(payload)?.0),
            (section, version) => {
                return Err(CodecError::new(format!(
                    "no schema for section {section} in version {version}"
                )))
            }
        })
    }

    fn decode_packed(&self, spec: &FrameSpec, payload: &[u8]) -> Result<PackedFrame, CodecError> {
        check_plain(spec, payload)?;
        let one = OneFrame::begin();
        let packed = match (spec.section, spec.version.0) {
            (SectionId::INODES, 1) => self.decode(payload).map(PackedFrame::Inodes),
            (SectionId::IDENTITIES, 1) => self.decode(payload).map(PackedFrame::Identities),
            _ => return self.decode_frame(spec, payload).map(PackedFrame::Other),
        };
        drop(one);
        // What is wrong is said in the words of who decodes records.
        packed.or_else(|_| self.decode_frame(spec, payload).map(PackedFrame::from))
    }
}

fn check_plain(spec: &FrameSpec, payload: &[u8]) -> Result<(), CodecError> {
    match payload.len() > spec.max_plain {
        true => Err(CodecError::new(format!(
            "{} bytes, more than the limit of {}",
            payload.len(),
            spec.max_plain
        ))),
        false => Ok(()),
    }
}

/// Whether `name` can stand in a header.
pub(crate) fn is_format_name(name: &str) -> bool {
    (1..=MAX_FORMAT_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'+'))
}

/// Longest name of a format, in bytes.
pub const MAX_FORMAT_NAME: usize = 32;

/// The formats that are built in, by name, and the dialects.
#[derive(Clone, Default)]
pub struct Registry {
    formats: Vec<Arc<dyn Format>>,
    pub(crate) dialects: Vec<Arc<dyn Dialect>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.names())
            .entries(self.dialect_names())
            .finish()
    }
}

impl Registry {
    /// A registry with no format.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a format. One of the same name is replaced.
    pub fn register(&mut self, format: Arc<dyn Format>) {
        match self.formats.iter_mut().find(|f| f.name() == format.name()) {
            Some(slot) => *slot = format,
            None => self.formats.push(format),
        }
    }

    /// [`Registry::register`], for chaining.
    #[must_use]
    pub fn with(mut self, format: impl Format + 'static) -> Self {
        self.register(Arc::new(format));
        self
    }

    /// The format of that name.
    ///
    /// # Errors
    /// [`StateError::UnknownFormat`] names it and those that are built in.
    pub fn get(&self, name: &str) -> Result<&Arc<dyn Format>, StateError> {
        self.formats
            .iter()
            .find(|f| f.name() == name)
            .ok_or_else(|| StateError::UnknownFormat {
                name: name.to_owned(),
                known: match self.formats.len() {
                    0 => "none".to_owned(),
                    _ => self.names().collect::<Vec<_>>().join(", "),
                },
            })
    }

    /// The names of the formats, in the order of registration.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.formats.iter().map(|f| f.name())
    }
}
