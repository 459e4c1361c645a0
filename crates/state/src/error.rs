//! Why a stream cannot be read or written.

use std::fmt;

use crate::dialect::DialectError;
use crate::format::CodecError;
use crate::section::SectionId;
use crate::validate::Invalid;
use crate::version::{StateVersion, VersionIncompatible};

/// A place in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// The section, or `None` for the stream's header.
    pub section: Option<SectionId>,
    /// Byte offset from the stream's start: of the frame where the whole frame is
    /// meant, else of the place itself.
    pub offset: u64,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.section {
            Some(section) => write!(f, "section {section} at byte {}", self.offset),
            None => write!(f, "header at byte {}", self.offset),
        }
    }
}

/// Why a stream cannot be read or written. The texts are for an operator; join
/// the sources with `: ` to have all of one.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The channel failed.
    #[error("the state channel failed")]
    Io(#[from] std::io::Error),

    /// Not one byte came. That is a value: the writer has no state to hand over.
    #[error(
        "the stream is empty (0 bytes): its writer says that it has no state of its own to hand \
         over (migration type external or none)"
    )]
    Empty,

    /// The first bytes are not those of a state stream.
    #[error("not a ferryfs state stream: its header at byte 0 begins with {found}{hint}")]
    NotAStream {
        /// The first bytes in hexadecimal.
        found: String,
        /// What it looks like instead, with a leading separator; may be empty.
        hint: &'static str,
    },

    /// The stream ends too early.
    #[error("truncated in {at}: {missing} more byte(s) must follow there")]
    Truncated {
        /// What was being read, and where the stream ends.
        at: At,
        /// Bytes that are missing of the piece that was being read.
        missing: u64,
    },

    /// Bytes follow the end of the stream.
    #[error("bytes follow section end at byte {offset}, where the stream must end")]
    Trailing {
        /// Offset of the first such byte.
        offset: u64,
    },

    /// A checksum does not match.
    #[error(
        "damaged {at}: {what} checksum is {found:08x}, should be {computed:08x}; \
         transfer the stream again"
    )]
    Checksum {
        /// The header or frame.
        at: At,
        /// `header`, `frame` or `stream`.
        what: &'static str,
        /// What the stream says.
        found: u32,
        /// What its bytes amount to.
        computed: u32,
    },

    /// Sound by checksum, but not as the format's description says.
    #[error("malformed {at}: {what}")]
    Malformed {
        /// The header or frame.
        at: At,
        /// What is wrong with it.
        what: String,
    },

    /// Larger than this reader allows.
    #[error("{at}: {what} {found} is beyond the limit of {limit}")]
    Limit {
        /// Where.
        at: At,
        /// What is too large or too many.
        what: &'static str,
        /// What the stream says.
        found: u64,
        /// What is allowed.
        limit: u64,
    },

    /// A state that an older state version has no place for.
    #[error(
        "the state cannot be written as state version {to}: {what}; that takes version {needs}, \
         which {} read: write it without --state-version, or wait until there is nothing of it \
         left", needs.readers()
    )]
    Downgrade {
        /// The version that was asked for.
        to: StateVersion,
        /// The lowest that has a place for it.
        needs: StateVersion,
        /// What it is.
        what: String,
    },

    /// A state version to write that is not known here.
    #[error(
        "state version {version} is not known here; this release writes {} to {}",
        StateVersion::OLDEST,
        StateVersion::CURRENT
    )]
    NoSuchVersion {
        /// The version that was asked for.
        version: StateVersion,
    },

    /// A section that the stream's state version does not have.
    #[error(
        "section {section} came with state version {since}; this stream is of version {state}"
    )]
    SectionBeyond {
        /// What was to be written.
        section: SectionId,
        /// The version that it came with.
        since: StateVersion,
        /// The stream's.
        state: StateVersion,
    },

    /// A newer (or impossible) version.
    #[error(transparent)]
    Version(#[from] VersionIncompatible),

    /// The format that is asked for is not built in.
    #[error("the state format \"{name}\" is not built in here; built in: {known}")]
    UnknownFormat {
        /// The name asked for.
        name: String,
        /// Those that are there, separated by commas.
        known: String,
    },

    /// The stream's format is not built in.
    #[error(
        "the state format \"{name}\" is not built in here; built in: {known}; \
         let {writer} write another one (--state-format)"
    )]
    StreamFormat {
        /// The stream's.
        name: String,
        /// Those that are there, separated by commas.
        known: String,
        /// Who wrote it.
        writer: Box<crate::WriterInfo>,
    },

    /// A format has a name that no header can carry.
    #[error("\"{name}\" cannot name a state format: 1 to 32 characters of a-z 0-9 . _ - +")]
    FormatName {
        /// The name.
        name: String,
    },

    /// A section that this build does not know but must.
    #[error(
        "{at} must be understood to go on, and is not known here; it was written by {writer}: \
         use {writer} or newer here"
    )]
    UnknownSection {
        /// Which section and where.
        at: At,
        /// Who wrote it.
        writer: crate::WriterInfo,
    },

    /// A payload that the format cannot decode.
    #[error("failed to decode {at} as {format}")]
    Decode {
        /// Which frame.
        at: At,
        /// The format's name.
        format: String,
        /// What the format says.
        source: CodecError,
    },

    /// A frame that the format cannot encode.
    #[error("failed to encode section {section} as {format}")]
    Encode {
        /// Which section.
        section: SectionId,
        /// The format's name.
        format: String,
        /// What the format says.
        source: CodecError,
    },

    /// A record that no daemon could have written.
    #[error("refused {at}")]
    Invalid {
        /// Which frame.
        at: At,
        /// What is wrong with the record.
        source: Invalid,
    },

    /// Records that contradict each other.
    #[error("the state contradicts itself")]
    Inconsistent(#[source] Invalid),

    /// The state that should be written would be refused by any reader.
    #[error("refused to write a state that no reader would take")]
    Unwritable(#[source] Invalid),

    /// Another daemon's dialect.
    #[error("failed to {doing} it as {name}")]
    Dialect {
        /// The dialect's name.
        name: String,
        /// `read` or `write`.
        doing: &'static str,
        /// What the dialect says.
        source: DialectError,
    },

    /// The calls to a writer were not in the order of the stream.
    #[error("section {section} cannot be written after section {after}")]
    WriteOrder {
        /// What was to be written.
        section: SectionId,
        /// What had been.
        after: SectionId,
    },
}

/// `error` and its sources on one line, joined by `: `.
pub fn error_line(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(e) = source {
        line.push_str(": ");
        line.push_str(&e.to_string());
        source = e.source();
    }
    line
}
