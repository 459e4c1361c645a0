//! Writes a stream, frame by frame.

use std::io::{self, IoSlice, Write};
use std::sync::{Mutex, PoisonError};

use crate::convert::{Outline, WriteOptions};
use crate::crc;
use crate::dialect::Losses;
use crate::envelope::{append_frame, split_crc, Header, Totals, WriterInfo, END_PAYLOAD};
use crate::error::StateError;
use crate::format::Format;
use crate::limits::Limits;
use crate::model::{
    Counters, FileSystem, Ghost, GhostData, Handle, Identity, Inode, Lock, Mount, Request, Session,
    State,
};
use crate::parallel::{in_order, threads, FEW_FRAMES};
use crate::pieces::frames_by_range;
use crate::section::{frames, FrameRef, Record, SectionId, RECORDS_PER_FRAME};
use crate::validate::{validate, Checker};
use crate::version::{ContainerVersion, SectionVersion, StateVersion};

/// A frame ready to be written: header, payload, checksum. Made ahead of time or on
/// another thread, it costs nothing but the write when the device has stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedFrame {
    section: SectionId,
    records: u32,
    bytes: Vec<u8>,
}

impl EncodedFrame {
    /// Encodes a frame.
    ///
    /// # Errors
    /// The format cannot say it, or it is beyond 4 GiB.
    pub fn new(format: &dyn Format, frame: FrameRef<'_>) -> Result<Self, StateError> {
        Self::in_buffer(format, frame, Vec::new())
    }

    /// [`EncodedFrame::new`] with a buffer that may have been used before.
    fn in_buffer(
        format: &dyn Format,
        frame: FrameRef<'_>,
        mut bytes: Vec<u8>,
    ) -> Result<Self, StateError> {
        bytes.clear();
        encode_into(format, frame, &mut bytes)?;
        Ok(EncodedFrame {
            section: frame.section(),
            records: frame.records() as u32,
            bytes,
        })
    }

    /// [`EncodedFrame::new`] without a byte of memory too much, by way of `buffer`.
    pub(crate) fn fitted(
        format: &dyn Format,
        frame: FrameRef<'_>,
        buffer: &mut Vec<u8>,
    ) -> Result<Self, StateError> {
        buffer.clear();
        encode_into(format, frame, buffer)?;
        Ok(EncodedFrame {
            section: frame.section(),
            records: frame.records() as u32,
            bytes: buffer.as_slice().to_vec(),
        })
    }

    /// Its length in the stream in bytes.
    pub fn stream_len(&self) -> usize {
        self.bytes.len()
    }
}

fn encode_into(
    format: &dyn Format,
    frame: FrameRef<'_>,
    out: &mut Vec<u8>,
) -> Result<(), StateError> {
    let section = frame.section();
    let failed = |source| StateError::Encode {
        section,
        format: format.name().to_owned(),
        source,
    };
    let too_long = |what: String| failed(crate::CodecError::new(what));
    let records = u32::try_from(frame.records())
        .map_err(|_| too_long(format!("{} records in one frame", frame.records())))?;
    let which = (section, frame.version());
    append_frame(out, which, records, |out| format.encode_frame(frame, out))
        .map_err(failed)?
        .map_err(|length| too_long(format!("{length} bytes in one frame")))
}

/// Writes one stream. The sections go in their order: session (if any), counters,
/// mounts, inodes, handles, file systems, identities, locks, requests, ghosts, their
/// data. A writer that is dropped without [`StreamWriter::finish`] leaves a stream that
/// every reader refuses as truncated.
#[derive(Debug)]
pub struct StreamWriter<'f, W: Write> {
    out: W,
    format: FormatRef<'f>,
    state: StateVersion,
    frame: Vec<u8>,
    written: u64,
    crc: u32,
    totals: Totals,
    last: Option<SectionId>,
    /// `None`: the caller has validated the whole state.
    checker: Option<Checker>,
}

struct FormatRef<'f>(&'f dyn Format);

impl std::fmt::Debug for FormatRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.name())
    }
}

/// Bytes of frames that are written at once: half of what a pipe holds, so that its reader
/// works meanwhile.
const AT_ONCE: usize = 512 << 10;

/// The most slices of one write: UIO_MAXIOV (writev(2)).
const MOST_SLICES: usize = 1024;

/// Writes all of `slices`.
fn write_slices(out: &mut impl Write, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    let mut left = slices;
    // What is empty is not written.
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        match out.write_vectored(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut left, written),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// The end frame, whose shape belongs to the container's version.
const END: (SectionId, SectionVersion) = (SectionId::END, SectionVersion(1));

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Length of the stream in bytes.
    pub bytes: u64,
    /// What it holds.
    pub totals: Totals,
}

impl<'f, W: Write> StreamWriter<'f, W> {
    /// Starts a stream of state version 1, which every release reads: writes its
    /// header.
    ///
    /// # Errors
    /// The channel, or a format with an impossible name.
    pub fn new(out: W, format: &'f dyn Format, writer: &WriterInfo) -> Result<Self, StateError> {
        Self::of_version(out, format, writer, StateVersion::OLDEST)
    }

    /// Starts a stream of state version `state`: what [`State::needs`] says, or more.
    ///
    /// # Errors
    /// As [`StreamWriter::new`].
    pub fn of_version(
        out: W,
        format: &'f dyn Format,
        writer: &WriterInfo,
        state: StateVersion,
    ) -> Result<Self, StateError> {
        let checker = Checker::new(&Limits::default());
        Self::start(out, format, writer, state, Some(checker))
    }

    /// Starts a stream of a state that has been checked, and which is to be written as
    /// `outline` says.
    pub(crate) fn of_checked(
        out: W,
        format: &'f dyn Format,
        writer: &WriterInfo,
        outline: &Outline,
        options: &WriteOptions,
    ) -> Result<Self, StateError> {
        let mut stream = Self::start(out, format, writer, outline.version, None)?;
        if options.forced.is_some() {
            // The header claims what it was told to; what follows is as ever.
            stream.state = StateVersion::CURRENT;
        }
        Ok(stream)
    }

    fn start(
        mut out: W,
        format: &'f dyn Format,
        writer: &WriterInfo,
        state: StateVersion,
        checker: Option<Checker>,
    ) -> Result<Self, StateError> {
        let header = Header {
            container: ContainerVersion::CURRENT,
            state,
            flags: 0,
            format: format.name().to_owned(),
            writer: writer.clone(),
        }
        .to_bytes()?;
        out.write_all(&header)?;
        Ok(StreamWriter {
            out,
            format: FormatRef(format),
            state,
            frame: Vec::new(),
            written: header.len() as u64,
            crc: crc32c::crc32c(&header),
            totals: Totals::default(),
            last: None,
            checker,
        })
    }

    /// Writes the session.
    ///
    /// # Errors
    /// The channel, the order, or a record that no reader would take.
    pub fn session(&mut self, session: &Session) -> Result<(), StateError> {
        self.frame(FrameRef::Session(session))
    }

    /// Writes the counters.
    ///
    /// # Errors
    /// As [`StreamWriter::session`].
    pub fn counters(&mut self, counters: &Counters) -> Result<(), StateError> {
        self.frame(FrameRef::Counters(counters))
    }

    /// Writes mounts, by ascending id, cut into frames. May be called again with
    /// those that follow.
    ///
    /// # Errors
    /// As [`StreamWriter::session`].
    pub fn mounts(&mut self, mounts: &[Mount]) -> Result<(), StateError> {
        self.records(mounts)
    }

    /// Writes inodes, by ascending id, cut into frames. May be called again with
    /// those that follow; for a stream that does not depend on the calls, pass all
    /// at once.
    ///
    /// # Errors
    /// As [`StreamWriter::session`].
    pub fn inodes(&mut self, inodes: &[Inode]) -> Result<(), StateError> {
        self.records(inodes)
    }

    /// Writes handles, by ascending id, cut into frames. May be called again with
    /// those that follow.
    ///
    /// # Errors
    /// As [`StreamWriter::session`].
    pub fn handles(&mut self, handles: &[Handle]) -> Result<(), StateError> {
        self.records(handles)
    }

    /// Writes file systems, by ascending id, cut into frames. May be called again
    /// with those that follow.
    ///
    /// # Errors
    /// As [`StreamWriter::session`].
    pub fn file_systems(&mut self, file_systems: &[FileSystem]) -> Result<(), StateError> {
        self.records(file_systems)
    }

    /// Writes identities, by ascending inode, cut into frames. May be called again
    /// with those that follow.
    ///
    /// # Errors
    /// As [`StreamWriter::session`].
    pub fn identities(&mut self, identities: &[Identity]) -> Result<(), StateError> {
        self.records(identities)
    }

    /// Writes locks, in the order of [`Lock::order`], cut into frames. May be called
    /// again with those that follow. The stream is one of state version 2.
    ///
    /// # Errors
    /// As [`StreamWriter::session`]; [`StateError::SectionBeyond`].
    pub fn locks(&mut self, locks: &[Lock]) -> Result<(), StateError> {
        self.records(locks)
    }

    /// Writes requests, cut into frames. As [`StreamWriter::locks`].
    ///
    /// # Errors
    /// As [`StreamWriter::locks`].
    pub fn requests(&mut self, requests: &[Request]) -> Result<(), StateError> {
        self.records(requests)
    }

    /// Writes ghosts, by ascending inode, cut into frames. May be called again with
    /// those that follow. The stream is one of state version 3.
    ///
    /// # Errors
    /// As [`StreamWriter::locks`].
    pub fn ghosts(&mut self, ghosts: &[Ghost]) -> Result<(), StateError> {
        self.records(ghosts)
    }

    /// Writes contents of ghosts, by ascending inode and offset, cut into frames. As
    /// [`StreamWriter::ghosts`].
    ///
    /// # Errors
    /// As [`StreamWriter::locks`].
    pub fn ghost_data(&mut self, data: &[GhostData]) -> Result<(), StateError> {
        self.records(data)
    }

    fn records<T: Record>(&mut self, records: &[T]) -> Result<(), StateError> {
        frames(records).try_for_each(|frame| self.frame(frame))
    }

    /// Encodes and writes one frame as it is.
    ///
    /// # Errors
    /// As [`StreamWriter::session`].
    pub fn frame(&mut self, frame: FrameRef<'_>) -> Result<(), StateError> {
        if let Some(checker) = &mut self.checker {
            checker.frame(frame).map_err(StateError::Unwritable)?;
        }
        let mut bytes = std::mem::take(&mut self.frame);
        bytes.clear();
        let result = encode_into(self.format.0, frame, &mut bytes)
            .and_then(|()| self.put(frame.section(), frame.records() as u32, &bytes));
        self.frame = bytes;
        result
    }

    /// Writes a frame that was encoded before, with the format of this stream. Its
    /// records are not looked at again.
    ///
    /// # Errors
    /// The channel or the order.
    pub fn encoded(&mut self, frame: &EncodedFrame) -> Result<(), StateError> {
        self.put(frame.section, frame.records, &frame.bytes)
    }

    /// [`StreamWriter::encoded`] for many frames, which are written several at once: whoever
    /// reads the channel is woken for each write, and where that takes a processor out of
    /// its sleep, it costs more than the writing.
    ///
    /// # Errors
    /// As [`StreamWriter::encoded`].
    pub fn encoded_all<'e>(
        &mut self,
        frames: impl IntoIterator<Item = &'e EncodedFrame>,
    ) -> Result<(), StateError> {
        let mut batch = Vec::new();
        let mut size = 0;
        for frame in frames {
            self.counts(frame.section, frame.records, &frame.bytes)?;
            batch.push(IoSlice::new(&frame.bytes));
            size += frame.bytes.len();
            if size >= AT_ONCE || batch.len() == MOST_SLICES {
                write_slices(&mut self.out, &mut batch)?;
                batch.clear();
                size = 0;
            }
        }
        write_slices(&mut self.out, &mut batch)?;
        Ok(())
    }

    fn put(&mut self, section: SectionId, records: u32, bytes: &[u8]) -> Result<(), StateError> {
        self.counts(section, records, bytes)?;
        self.out.write_all(bytes)?;
        Ok(())
    }

    /// Takes a frame that is written next into account.
    fn counts(&mut self, section: SectionId, records: u32, bytes: &[u8]) -> Result<(), StateError> {
        if let Some(after) = self.last {
            let single = matches!(section, SectionId::SESSION | SectionId::COUNTERS);
            if section < after || (single && section == after) {
                return Err(StateError::WriteOrder { section, after });
            }
        }
        if let Some(since) = section.since() {
            if section.is_critical() && since > self.state {
                return Err(StateError::SectionBeyond {
                    section,
                    since,
                    state: self.state,
                });
            }
        }
        self.written += bytes.len() as u64;
        // The frame has a checksum of its own, which is part of the stream.
        let (body, crc) = split_crc(bytes);
        self.crc = crc::join(self.crc, crc, body.len());
        self.crc = crc32c::crc32c_append(self.crc, &bytes[body.len()..]);
        self.totals.count(section, records);
        self.last = Some(section);
        Ok(())
    }

    /// Writes the end frame and flushes. The channel's own end (EOF) must follow.
    ///
    /// # Errors
    /// The channel.
    pub fn finish(mut self) -> Result<(W, Written), StateError> {
        let Totals {
            frames,
            inodes,
            handles,
        } = self.totals;
        let mut bytes = std::mem::take(&mut self.frame);
        bytes.clear();
        let before = self.crc;
        let appended = append_frame(&mut bytes, END, 0, |out| {
            let start = out.len();
            for count in [frames, inodes, handles] {
                out.extend_from_slice(&count.to_le_bytes());
            }
            // The frame's header is filled in after its payload, and the stream's
            // checksum covers it: it is fixed, so it can be said ahead of time.
            let header = crate::envelope::FrameHeader {
                section: SectionId::END,
                version: END.1,
                flags: crate::envelope::FRAME_CRITICAL,
                records: 0,
                length: END_PAYLOAD as u32,
            };
            let crc = crc32c::crc32c_append(before, &header.to_bytes());
            let crc = crc32c::crc32c_append(crc, &out[start..]);
            out.extend_from_slice(&crc.to_le_bytes());
            Ok::<_, std::convert::Infallible>(())
        });
        debug_assert!(matches!(appended, Ok(Ok(()))));
        self.out.write_all(&bytes)?;
        self.out.flush()?;
        let written = Written {
            bytes: self.written + bytes.len() as u64,
            totals: self.totals,
        };
        Ok((self.out, written))
    }
}

/// Writes a whole state. It is validated first: what no destination would take is
/// refused here, where the guest still runs. The stream has the lowest state version
/// that can hold it. Many frames are encoded on several threads; no more than a few
/// are in memory. Answers the stream's length in bytes.
///
/// # Errors
/// An invalid state, the channel, or the format.
pub fn write_state(
    state: &State,
    format: &dyn Format,
    writer: &WriterInfo,
    out: &mut dyn Write,
) -> Result<u64, StateError> {
    write_state_with(state, format, writer, &WriteOptions::default(), out).map(|(bytes, _)| bytes)
}

/// [`write_state`] for readers that `options` describe. Answers also what they will
/// be without.
///
/// # Errors
/// As [`write_state`]; [`StateError::Downgrade`] where the guest would miss it.
pub fn write_state_with(
    state: &State,
    format: &dyn Format,
    writer: &WriterInfo,
    options: &WriteOptions,
    out: &mut dyn Write,
) -> Result<(u64, Losses), StateError> {
    write_state_on_threads(threads(), state, format, writer, options, out)
}

/// [`write_state_with`] on up to `threads` threads beside this one. The bytes do not
/// depend on their number.
///
/// # Errors
/// As [`write_state_with`].
pub fn write_state_on_threads(
    threads: usize,
    state: &State,
    format: &dyn Format,
    writer: &WriterInfo,
    options: &WriteOptions,
    out: &mut dyn Write,
) -> Result<(u64, Losses), StateError> {
    validate(state, &Limits::default()).map_err(StateError::Unwritable)?;
    let outline = Outline::new(state, options)?;
    let mut stream = StreamWriter::of_checked(out, format, writer, &outline, options)?;
    let fs = &state.fs;
    if let Some(session) = &state.session {
        stream.session(session)?;
    }
    stream.counters(&fs.counters())?;
    let (inodes, mut identities) = match options.newest < StateVersion::CURRENT {
        // As those readers' own releases cut them.
        true => (
            frames(&fs.inodes).collect(),
            crate::section::frames_of::<Identity>(&fs.identities, 4 * RECORDS_PER_FRAME).collect(),
        ),
        false => frames_by_range(fs),
    };
    if !outline.has(SectionId::IDENTITIES) {
        identities.clear();
    }
    let mut rest = frames(&fs.mounts)
        .chain(inodes)
        .chain(frames(&fs.handles))
        .chain(frames(match outline.has(SectionId::FILE_SYSTEMS) {
            true => &fs.file_systems,
            false => &[],
        }))
        .chain(identities)
        .chain(frames(&fs.locks))
        .chain(frames(&fs.requests))
        .chain(frames(match outline.has(SectionId::GHOSTS) {
            true => &fs.ghosts,
            false => &[],
        }))
        .chain(frames(match outline.has(SectionId::GHOST_DATA) {
            true => &fs.ghost_data,
            false => &[],
        }));
    for frame in rest.by_ref().take(FEW_FRAMES) {
        stream.frame(frame)?;
    }
    if let Some(next) = rest.next() {
        stream.on_threads(threads, std::iter::once(next).chain(rest))?;
    }
    Ok((stream.finish()?.1.bytes, outline.losses))
}

impl<W: Write> StreamWriter<'_, W> {
    /// Encodes frames on `threads` threads, and writes them in order.
    fn on_threads<'s>(
        &mut self,
        threads: usize,
        mut frames: impl Iterator<Item = FrameRef<'s>>,
    ) -> Result<(), StateError> {
        let format = self.format.0;
        // Buffers of frames that have been written.
        let spare = Mutex::new(Vec::new());
        let spare = || spare.lock().unwrap_or_else(PoisonError::into_inner);
        in_order::<_, _, StateError>(
            threads,
            || Ok(frames.next()),
            |_| 0,
            |frame| {
                let bytes: Vec<u8> = spare().pop().unwrap_or_default();
                EncodedFrame::in_buffer(format, frame, bytes)
            },
            |encoded: Result<EncodedFrame, StateError>| {
                let encoded = encoded?;
                self.encoded(&encoded)?;
                spare().push(encoded.bytes);
                Ok(())
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Takes a few bytes at a time, and is interrupted now and then.
    struct Slow {
        taken: Vec<u8>,
        calls: usize,
    }

    impl Write for Slow {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.write_vectored(&[IoSlice::new(buf)])
        }

        fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
            self.calls += 1;
            if self.calls % 3 == 0 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let before = self.taken.len();
            let bytes = bufs.iter().flat_map(|buf| buf.iter());
            self.taken.extend(bytes.take(self.calls * 5));
            Ok(self.taken.len() - before)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn slices_are_written_whole(
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..40)
        ) {
            let mut slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
            let mut slow = Slow { taken: Vec::new(), calls: 0 };
            write_slices(&mut slow, &mut slices).unwrap();
            prop_assert_eq!(slow.taken, parts.concat());
        }
    }

    #[test]
    fn who_takes_nothing_is_an_error() {
        let error = write_slices(&mut [0; 0].as_mut_slice(), &mut [IoSlice::new(b"x")]);
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::WriteZero);
    }
}
