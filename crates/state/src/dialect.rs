//! The seam for other daemons' state streams.
//!
//! A [`Format`] says how records become payloads inside this project's envelope. A
//! [`Dialect`] is a stream of another daemon's from its first byte to its last: no
//! envelope, no sections, records of its own, which it converts from and to
//! [`State`].

use std::fmt;
use std::io::{Read, Write};
use std::sync::Arc;

use crate::convert::WriteOptions;
use crate::envelope::{Header, WriterInfo};
use crate::error::StateError;
use crate::format::{Format, Registry};
use crate::limits::Limits;
use crate::model::State;
use crate::validate::validate;
use crate::version::{ContainerVersion, StateVersion};
use crate::writer::write_state_with;

/// Why a stream is not of a dialect, or a state cannot be said in it.
#[derive(Debug, thiserror::Error)]
pub enum DialectError {
    /// The channel failed.
    #[error("the state channel failed")]
    Io(#[from] std::io::Error),
    /// The bytes are not what the dialect's writers write.
    #[error("{what} at byte {offset}")]
    Malformed {
        /// What is wrong.
        what: String,
        /// Byte offset from the stream's start.
        offset: u64,
    },
    /// Well formed, but nothing that can be taken over, or handed over.
    #[error("{0}")]
    Refused(String),
}

/// What a dialect has no words for, one text for each kind of thing that stays
/// behind. What a guest would break without is refused instead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses(pub Vec<String>);

impl Losses {
    /// Whether everything was said.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The texts.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl fmt::Display for Losses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

/// Another daemon's way to write its state.
pub trait Dialect: Send + Sync {
    /// Name on the command line; the rules are those of a format's name.
    fn name(&self) -> &str;

    /// Whose dialect it is, for messages: program and releases.
    fn writer(&self) -> WriterInfo;

    /// Whether a stream that begins with `first`, at least one and at most 12 bytes,
    /// is to be read by this dialect.
    fn recognises(&self, first: &[u8]) -> bool;

    /// Reads a whole stream up to the end of `input`. The state is validated by the
    /// caller.
    ///
    /// # Errors
    /// The channel; bytes that are not of this dialect; what cannot be taken over.
    fn read(&self, input: &mut dyn Read, limits: &Limits) -> Result<State, DialectError>;

    /// The stream for a valid `state`, and what it leaves out. The same state always
    /// gives the same bytes.
    ///
    /// # Errors
    /// [`DialectError::Refused`]: a guest would break without what cannot be said.
    fn write(&self, state: &State) -> Result<(Vec<u8>, Losses), DialectError>;
}

/// What a state can be written as: the project's own stream in some format, or
/// another daemon's dialect.
#[derive(Clone)]
pub enum StateWriter {
    /// A stream with an envelope.
    Format(Arc<dyn Format>),
    /// A stream of another daemon's.
    Dialect(Arc<dyn Dialect>),
}

impl fmt::Debug for StateWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StateWriter").field(&self.name()).finish()
    }
}

impl StateWriter {
    /// The name on the command line.
    pub fn name(&self) -> &str {
        match self {
            StateWriter::Format(format) => format.name(),
            StateWriter::Dialect(dialect) => dialect.name(),
        }
    }

    /// The format in which a state for readers that `options` describe can be encoded
    /// [ahead of time](crate::pieces); `None` where it has to be there as a whole.
    pub fn ahead(&self, options: &WriteOptions) -> Option<&Arc<dyn Format>> {
        match self {
            StateWriter::Format(format) if options.newest == StateVersion::CURRENT => Some(format),
            _ => None,
        }
    }

    /// Writes a whole state, which is validated first, as `writer` where the stream
    /// says who wrote it. Answers the stream's length in bytes and what was left
    /// out: nothing where the stream is our own.
    ///
    /// # Errors
    /// As [`write_state`](crate::write_state); [`StateError::Dialect`].
    pub fn write(
        &self,
        state: &State,
        writer: &WriterInfo,
        out: &mut dyn Write,
    ) -> Result<(u64, Losses), StateError> {
        self.write_with(state, writer, &WriteOptions::default(), out)
    }

    /// [`StateWriter::write`] for readers that `options` describe. A dialect knows
    /// nothing of our state versions.
    ///
    /// # Errors
    /// As [`StateWriter::write`]; [`StateError::Downgrade`].
    pub fn write_with(
        &self,
        state: &State,
        writer: &WriterInfo,
        options: &WriteOptions,
        out: &mut dyn Write,
    ) -> Result<(u64, Losses), StateError> {
        match self {
            StateWriter::Format(format) => {
                write_state_with(state, format.as_ref(), writer, options, out)
            }
            StateWriter::Dialect(dialect) => {
                validate(state, &Limits::default()).map_err(StateError::Unwritable)?;
                let (bytes, losses) = dialect
                    .write(state)
                    .map_err(|source| failed(dialect.as_ref(), "write", source))?;
                out.write_all(&bytes)?;
                out.flush()?;
                Ok((bytes.len() as u64, losses))
            }
        }
    }
}

fn failed(dialect: &dyn Dialect, doing: &'static str, source: DialectError) -> StateError {
    StateError::Dialect {
        name: dialect.name().to_owned(),
        doing,
        source,
    }
}

/// Reads and validates a stream of another daemon's. The header is what an own
/// stream of that writer would have had.
pub(crate) fn read_dialect(
    dialect: &dyn Dialect,
    input: &mut dyn Read,
    limits: &Limits,
) -> Result<(Header, State), StateError> {
    let state = dialect
        .read(input, limits)
        .map_err(|source| failed(dialect, "read", source))?;
    validate(&state, limits).map_err(StateError::Inconsistent)?;
    let header = Header {
        container: ContainerVersion::CURRENT,
        state: state.needs(),
        flags: 0,
        format: dialect.name().to_owned(),
        writer: dialect.writer(),
    };
    Ok((header, state))
}

impl Registry {
    /// Adds a dialect. One of the same name is replaced.
    pub fn register_dialect(&mut self, dialect: Arc<dyn Dialect>) {
        let known = &mut self.dialects;
        match known.iter_mut().find(|d| d.name() == dialect.name()) {
            Some(slot) => *slot = dialect,
            None => known.push(dialect),
        }
    }

    /// [`Registry::register_dialect`], for chaining.
    #[must_use]
    pub fn with_dialect(mut self, dialect: impl Dialect + 'static) -> Self {
        self.register_dialect(Arc::new(dialect));
        self
    }

    /// The dialect that a stream which begins with `first` is read by.
    pub fn dialect_of(&self, first: &[u8]) -> Option<&Arc<dyn Dialect>> {
        self.dialects.iter().find(|d| d.recognises(first))
    }

    /// The names of the dialects, in the order of registration.
    pub fn dialect_names(&self) -> impl Iterator<Item = &str> {
        self.dialects.iter().map(|d| d.name())
    }

    /// What writes a state as `name`: a format or a dialect.
    ///
    /// # Errors
    /// [`StateError::UnknownFormat`] names it and all that are built in.
    pub fn writer(&self, name: &str) -> Result<StateWriter, StateError> {
        if let Some(dialect) = self.dialects.iter().find(|d| d.name() == name) {
            return Ok(StateWriter::Dialect(Arc::clone(dialect)));
        }
        match self.get(name) {
            Ok(format) => Ok(StateWriter::Format(Arc::clone(format))),
            Err(StateError::UnknownFormat { name, .. }) => {
                let known: Vec<_> = self.names().chain(self.dialect_names()).collect();
                let known = match known.is_empty() {
                    true => "none".to_owned(),
                    false => known.join(", "),
                };
                Err(StateError::UnknownFormat { name, known })
            }
            Err(other) => Err(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::error_line;
    use crate::model::FsState;
    use crate::reader::read_state;

    /// One byte: `x`, or `X` for a state that contradicts itself.
    struct Letter;

    impl Dialect for Letter {
        fn name(&self) -> &str {
            "letter"
        }
        fn writer(&self) -> WriterInfo {
            WriterInfo::new("letterd", "1")
        }
        fn recognises(&self, first: &[u8]) -> bool {
            first[0].eq_ignore_ascii_case(&b'x')
        }
        fn read(&self, input: &mut dyn Read, _: &Limits) -> Result<State, DialectError> {
            let mut bytes = Vec::new();
            input.read_to_end(&mut bytes)?;
            if bytes.len() > 1 {
                let what = "a letter too many".to_owned();
                return Err(DialectError::Malformed { what, offset: 1 });
            }
            let next_inode = if bytes == b"x" { 2 } else { 0 };
            Ok(State {
                session: None,
                fs: FsState {
                    next_inode,
                    ..FsState::default()
                },
            })
        }
        fn write(&self, state: &State) -> Result<(Vec<u8>, Losses), DialectError> {
            match state.fs.next_inode {
                2 => Ok((b"x".to_vec(), Losses(vec!["the rest".to_owned()]))),
                _ => Err(DialectError::Refused("no letter for it".to_owned())),
            }
        }
    }

    fn read(bytes: &[u8]) -> Result<(Header, State), String> {
        let registry = Registry::new().with_dialect(Letter);
        read_state(&mut &*bytes, &registry, &Limits::default()).map_err(|e| error_line(&e))
    }

    #[test]
    fn streams_without_our_magic_go_to_who_recognises_them() {
        let (header, state) = read(b"x").unwrap();
        assert_eq!(header.format, "letter");
        assert_eq!(header.writer.to_string(), "letterd 1");
        assert_eq!(state.fs.next_inode, 2);
        for (bytes, text) in [
            (
                &b"xy"[..],
                "failed to read it as letter: a letter too many at byte 1",
            ),
            (
                b"X",
                "the state contradicts itself: counters: next_inode is 0, but must be above 1 \
                 and below 2^63",
            ),
            (
                b"z",
                "not a ferryfs state stream: its header at byte 0 begins with 7a",
            ),
        ] {
            assert_eq!(read(bytes).unwrap_err(), text);
        }
        assert!(read(b"").unwrap_err().starts_with("the stream is empty"));
    }

    #[test]
    fn writers_are_found_by_name_and_say_what_they_leave_out() {
        let registry = Registry::new().with_dialect(Letter).with_dialect(Letter);
        assert_eq!(registry.dialect_names().collect::<Vec<_>>(), ["letter"]);
        let writer = registry.writer("letter").unwrap();
        let (header, mut state) = read(b"x").unwrap();
        let mut out = Vec::new();
        let (bytes, losses) = writer.write(&state, &header.writer, &mut out).unwrap();
        assert_eq!((bytes, &out[..]), (1, &b"x"[..]));
        assert_eq!(losses.to_string(), "the rest");

        let mut fail = |state: &State| {
            let error = writer.write(state, &header.writer, &mut out).unwrap_err();
            error_line(&error)
        };
        state.fs.next_inode = 3;
        assert_eq!(
            fail(&state),
            "failed to write it as letter: no letter for it"
        );
        state.fs.next_inode = 0;
        assert!(fail(&state).starts_with("refused to write a state that no reader would take"));
        assert_eq!(
            registry.writer("digit").unwrap_err().to_string(),
            "the state format \"digit\" is not built in here; built in: letter"
        );
    }
}
