//! The ferryfs state model: what a daemon must know to go on where another one
//! stopped, and how that becomes a stream of bytes that any later release reads.
//!
//! - [`model`]: the records, under their current names; [`v1`], [`v2`] and [`v3`] have
//!   them frozen as each state version has them.
//! - [`Format`]: how records become bytes. Formats are crates of their own, put
//!   together in a [`Registry`]; most implement [`Codec`]. A [`Dialect`] is another
//!   daemon's whole stream.
//! - [`write_state`] and [`read_state`] for a state as a whole, [`pieces`] for one that is
//!   encoded ahead of time, [`StreamWriter`] and
//!   [`StreamReader`] frame by frame, [`EnvelopeReader`] and [`read_header`] with no
//!   format at all.
//! - [`validate`](mod@validate): what is refused however well formed it is.
//! - [`paths`] and [`Remap`]: where inodes lie, and the same guest on a share where a
//!   directory lies elsewhere.
//!
//! The bytes are described in docs/state-format.md.

mod bounded;
mod convert;
mod crc;
mod dialect;
pub mod envelope;
mod error;
mod format;
mod limits;
mod memory;
pub mod model;
pub mod packed;
mod parallel;
pub mod paths;
pub mod pieces;
mod reader;
mod remap;
pub mod schema;
mod section;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod v1;
pub mod v2;
pub mod v3;
pub mod validate;
mod version;
mod writer;

pub use bounded::{MAX_COMPONENTS, MAX_COMPONENTS_PER_FRAME, MAX_RECORDS_PER_FRAME};
pub use convert::{WriteOptions, FORCE_VARIABLE};
pub use dialect::{Dialect, DialectError, Losses, StateWriter};
pub use envelope::{FrameHeader, Header, Totals, WriterInfo};
pub use error::{error_line, At, StateError};
pub use format::{Codec, CodecError, Format, FrameSpec, Registry, MAX_FORMAT_NAME};
pub use limits::Limits;
pub use model::*;
pub use parallel::processors;
pub use reader::{
    read_header, read_packed, read_packed_on_threads, read_state, read_state_on_threads,
    EnvelopeReader, RawFrame, StreamReader,
};
pub use remap::Remap;
pub use section::{frames, Frame, FrameRef, Record, SectionId, RECORDS_PER_FRAME};
pub use validate::{check_links, Invalid};
pub use version::{
    ContainerVersion, Release, SectionVersion, StateVersion, VersionIncompatible, RELEASES,
};
pub use writer::{
    write_state, write_state_on_threads, write_state_with, EncodedFrame, StreamWriter, Written,
};
