//! Reads a stream, frame by frame: first the envelope alone, then with a format.

use std::io::{ErrorKind, Read};
use std::sync::{Arc, Mutex, PoisonError};

use crate::bounded::MAX_RECORDS_PER_FRAME;
use crate::crc;
use crate::envelope::{
    in_header, le32, le64, split_crc, FrameHeader, Header, Totals, CRC, END_PAYLOAD,
    FRAME_CRITICAL, FRAME_HEADER, MAGIC,
};
use crate::error::{At, StateError};
use crate::format::{CodecError, Format, FrameSpec, Registry};
use crate::limits::Limits;
use crate::memory;
use crate::packed::PackedFrame;
use crate::parallel::{in_order, FEW_FRAMES};
use crate::section::{Frame, SectionId};
use crate::validate::{Checked, Checker};
use crate::version::{SectionVersion, StateVersion};

mod whole;

pub use whole::{read_packed, read_packed_on_threads, read_state, read_state_on_threads};

/// Bytes of a payload for which there is room before they come: a frame of usual
/// size is read at once, and one that claims to be large gets no more for it.
const AHEAD: usize = 256 << 10;

/// Reads until `buf` is full or the input ends; answers how many bytes came.
fn read_full<R: Read + ?Sized>(input: &mut R, buf: &mut [u8]) -> std::io::Result<usize> {
    let mut n = 0;
    while n < buf.len() {
        match input.read(&mut buf[n..]) {
            Ok(0) => break,
            Ok(k) => n += k,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(n)
}

/// Reads a stream's header and nothing behind it. No format is needed, and a newer
/// state version is no error.
///
/// # Errors
/// The channel; [`StateError::Empty`]; not a stream; damaged; a newer container.
pub fn read_header<R: Read + ?Sized>(input: &mut R) -> Result<Header, StateError> {
    read_header_bytes(input).map(|(header, _)| header)
}

fn read_header_bytes<R: Read + ?Sized>(input: &mut R) -> Result<(Header, Vec<u8>), StateError> {
    let mut first = [0; 12];
    let n = read_full(input, &mut first)?;
    if n == 0 {
        return Err(StateError::Empty);
    }
    let magic = n.min(MAGIC.len());
    if first[..magic] != MAGIC[..magic] {
        return Err(not_a_stream(&first[..n]));
    }
    let truncated = |n: usize, of: usize| StateError::Truncated {
        at: in_header(n as u64),
        missing: (of - n) as u64,
    };
    if n < first.len() {
        return Err(truncated(n, first.len()));
    }
    let mut bytes = vec![0; Header::length(&first)?];
    bytes[..first.len()].copy_from_slice(&first);
    let n = first.len() + read_full(input, &mut bytes[first.len()..])?;
    if n < bytes.len() {
        return Err(truncated(n, bytes.len()));
    }
    Ok((Header::parse(&bytes)?, bytes))
}

fn not_a_stream(first: &[u8]) -> StateError {
    let found: Vec<_> = first.iter().map(|b| format!("{b:02x}")).collect();
    StateError::NotAStream {
        found: found.join(" "),
        hint: match first {
            [0x00 | 0x01, ..] => "; this looks like a state of virtiofsd, which has no header",
            [0x28, 0xb5, 0x2f, 0xfd, ..] => "; this is a zstd file: decompress it first",
            [0x1f, 0x8b, ..] => "; this is a gzip file: decompress it first",
            [b'Q', b'E', b'V', b'M', ..] => "; this is a migration stream of QEMU's",
            [0x89, b'F', b'E', b'R', b'R', b'Y', ..] => {
                "; it is one that was transferred as text, which damages it"
            }
            _ => "",
        },
    }
}

/// One frame as it is in the stream, its checksum verified.
#[derive(Clone, Copy, Debug)]
pub struct RawFrame<'a> {
    /// Where the frame's header begins.
    pub offset: u64,
    /// Its header.
    pub header: FrameHeader,
    /// Its payload, in the stream's format.
    pub payload: &'a [u8],
}

/// Reads the envelope alone: header, frames with their checksums, end. Needs no
/// format, and memory for one frame.
#[derive(Debug)]
pub struct EnvelopeReader<R> {
    input: R,
    limits: Limits,
    header: Header,
    offset: u64,
    crc: u32,
    totals: Totals,
    payload: Vec<u8>,
    ended: bool,
}

impl<R: Read> EnvelopeReader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// As [`read_header`].
    pub fn open(mut input: R, limits: &Limits) -> Result<Self, StateError> {
        let (header, bytes) = read_header_bytes(&mut input)?;
        Ok(EnvelopeReader {
            input,
            limits: *limits,
            header,
            offset: bytes.len() as u64,
            crc: crc32c::crc32c(&bytes),
            totals: Totals::default(),
            payload: Vec::new(),
            ended: false,
        })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Bytes read so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// What was read so far; after the end, what the whole stream holds.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The next frame, or `None` when the end frame and the end of the input have
    /// been seen and all counts and checksums match.
    ///
    /// # Errors
    /// The channel; truncated, damaged, malformed or too large; trailing bytes.
    pub fn next_frame(&mut self) -> Result<Option<RawFrame<'_>>, StateError> {
        if self.ended {
            return Ok(None);
        }
        let start = self.offset;
        let mut head = [0; FRAME_HEADER];
        let n = read_full(&mut self.input, &mut head)?;
        if n < FRAME_HEADER {
            return Err(self.truncated_between_frames(n));
        }
        let (header, reserved) = FrameHeader::from_bytes(&head);
        let at = At {
            section: Some(header.section),
            offset: start,
        };
        let length = u64::from(header.length);
        self.check_size(at, length)?;
        self.offset += FRAME_HEADER as u64;

        let want = length as usize + CRC;
        let n = self.read_payload(want)?;
        if n < want {
            return Err(StateError::Truncated {
                at: At {
                    section: Some(header.section),
                    offset: self.offset + n as u64,
                },
                missing: (want - n) as u64,
            });
        }
        self.offset += want as u64;
        let (payload, found) = split_crc(&self.payload);
        let computed = crc32c::crc32c_append(crc32c::crc32c(&head), payload);
        if found != computed {
            return Err(StateError::Checksum {
                at,
                what: "frame",
                found,
                computed,
            });
        }
        let malformed = |what: String| StateError::Malformed { at, what };
        if reserved != 0 || header.flags & !FRAME_CRITICAL != 0 {
            let flags = header.flags;
            return Err(malformed(format!(
                "flags {flags:#06x} or reserved field {reserved:#06x} are not known"
            )));
        }

        if header.section == SectionId::END {
            self.crc = crc32c::crc32c_append(self.crc, &head);
            // Its shape belongs to the container's version.
            if header.version != SectionVersion(1)
                || header.records != 0
                || payload.len() != END_PAYLOAD
            {
                return Err(malformed("not the shape of an end frame".to_owned()));
            }
            let crc = crc32c::crc32c_append(self.crc, &payload[..END_PAYLOAD - CRC]);
            self.check_end(at, crc)?;
            return Ok(None);
        }
        let length = FRAME_HEADER + payload.len();
        self.crc = crc::join(self.crc, computed, length);
        self.crc = crc32c::crc32c_append(self.crc, &found.to_le_bytes());
        self.totals.count(header.section, header.records);
        let (payload, _) = split_crc(&self.payload);
        Ok(Some(RawFrame {
            offset: start,
            header,
            payload,
        }))
    }

    /// Reads `want` bytes of payload, or as many as there are; answers how many came. What is
    /// in the buffer from before is written over, so that nothing need be cleared.
    fn read_payload(&mut self, want: usize) -> Result<usize, StateError> {
        let mut n = 0;
        loop {
            let room = want.min(n + AHEAD);
            if self.payload.len() < room {
                self.payload.resize(room, 0);
            }
            n += read_full(&mut self.input, &mut self.payload[n..room])?;
            if n < room || n == want {
                self.payload.truncate(n);
                return Ok(n);
            }
        }
    }

    fn truncated_between_frames(&self, n: usize) -> StateError {
        // The section is not known before its header is complete; what is missing
        // for certain is an end frame.
        StateError::Truncated {
            at: At {
                section: Some(SectionId::END),
                offset: self.offset + n as u64,
            },
            missing: (FRAME_HEADER + END_PAYLOAD + CRC - n) as u64,
        }
    }

    fn check_size(&self, at: At, length: u64) -> Result<(), StateError> {
        let frame_limit = u64::from(self.limits.frame_bytes);
        let stream = self.offset + (FRAME_HEADER + CRC) as u64 + length;
        for (what, found, limit) in [
            ("a frame length in bytes of", length, frame_limit),
            (
                "a stream length in bytes of",
                stream,
                self.limits.stream_bytes,
            ),
        ] {
            if found > limit {
                return Err(StateError::Limit {
                    at,
                    what,
                    found,
                    limit,
                });
            }
        }
        Ok(())
    }

    fn check_end(&mut self, at: At, computed: u32) -> Result<(), StateError> {
        let said = Totals {
            frames: le64(&self.payload, 0),
            inodes: le64(&self.payload, 8),
            handles: le64(&self.payload, 16),
        };
        let found = le32(&self.payload, 24);
        if found != computed {
            return Err(StateError::Checksum {
                at,
                what: "stream",
                found,
                computed,
            });
        }
        if said != self.totals {
            let Totals {
                frames,
                inodes,
                handles,
            } = self.totals;
            return Err(StateError::Malformed {
                at,
                what: format!(
                    "it counts {} frames, {} inodes, {} handles, but {frames}, {inodes}, {handles} came",
                    said.frames, said.inodes, said.handles
                ),
            });
        }
        if read_full(&mut self.input, &mut [0])? != 0 {
            return Err(StateError::Trailing {
                offset: self.offset,
            });
        }
        self.ended = true;
        Ok(())
    }
}

/// Reads and decodes a stream frame by frame, with memory for one frame. Each
/// record is validated by itself and against those before it; what needs the whole
/// (parents, handles' inodes) is up to [`check_links`].
pub struct StreamReader<R> {
    envelope: EnvelopeReader<R>,
    format: Arc<dyn Format>,
    intake: Intake,
    last: Option<SectionId>,
    skipped: Option<SectionId>,
    counters_seen: bool,
}

impl<R: std::fmt::Debug> std::fmt::Debug for StreamReader<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamReader")
            .field("envelope", &self.envelope)
            .finish_non_exhaustive()
    }
}

impl<R: Read> StreamReader<R> {
    /// Reads the header, and finds its format in `registry`.
    ///
    /// # Errors
    /// As [`read_header`]; a newer state version; a format that is not built in.
    pub fn open(input: R, registry: &Registry, limits: &Limits) -> Result<Self, StateError> {
        let envelope = EnvelopeReader::open(input, limits)?;
        let header = envelope.header();
        header
            .state
            .check_readable_by(StateVersion::CURRENT, &header.writer)?;
        let format = registry.get(&header.format).map_err(|e| match e {
            StateError::UnknownFormat { name, known } => StateError::StreamFormat {
                name,
                known,
                writer: Box::new(header.writer.clone()),
            },
            other => other,
        });
        let format = Arc::clone(format?);
        Ok(StreamReader {
            envelope,
            format,
            intake: Intake {
                checker: Checker::new(limits),
                memory: 0,
                memory_limit: limits.memory_bytes,
            },
            last: None,
            skipped: None,
            counters_seen: false,
        })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        self.envelope.header()
    }

    /// Bytes read so far.
    pub fn offset(&self) -> u64 {
        self.envelope.offset()
    }

    /// The next frame of a section that is known here, or `None` at the stream's
    /// proper end.
    ///
    /// # Errors
    /// As [`EnvelopeReader::next_frame`]; unknown or newer sections; payloads that
    /// cannot be decoded; invalid records.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, StateError> {
        let Some(sealed) = self.next_sealed()? else {
            return Ok(None);
        };
        self.open_here(sealed, Packing::Records)
            .map(|frame| Some(frame.into()))
    }

    fn open_here(&mut self, sealed: Sealed, packing: Packing) -> Result<PackedFrame, StateError> {
        let opened = sealed.open(self.format.as_ref(), packing, &self.envelope.limits);
        self.envelope.payload = opened.payload;
        let (at, records) = (opened.at, opened.records);
        self.intake
            .take(at, records, self.format.name(), opened.result)
    }

    /// The next frame, not yet decoded. All that it takes to know that it is one of
    /// a known section in its place has been checked.
    fn next_sealed(&mut self) -> Result<Option<Sealed>, StateError> {
        let max_plain = self.envelope.limits.frame_bytes as usize;
        let state = self.envelope.header.state;
        loop {
            let Some(raw) = self.envelope.next_frame()? else {
                if !self.counters_seen {
                    return Err(StateError::Malformed {
                        at: At {
                            section: Some(SectionId::END),
                            offset: self.envelope.offset(),
                        },
                        what: "the stream has no section counters".to_owned(),
                    });
                }
                return Ok(None);
            };
            let RawFrame { offset, header, .. } = raw;
            let writer = &self.envelope.header.writer;
            let section = header.section;
            let at = At {
                section: Some(section),
                offset,
            };
            let (Some(newest), Some(since)) = (section.newest(), section.since()) else {
                if header.is_critical() {
                    let writer = writer.clone();
                    return Err(StateError::UnknownSection { at, writer });
                }
                // Once for a section, however many frames it has.
                if self.skipped.replace(section) != Some(section) {
                    log::warn!(
                        "state stream: skipped optional {at}, written by {writer}; what it \
                         holds is lost here"
                    );
                }
                continue;
            };
            let malformed = |what: String| StateError::Malformed { at, what };
            if section.is_critical() && since > state {
                return Err(malformed(format!(
                    "it came with state version {since}, and the header claims version {state}"
                )));
            }
            header.version.check_readable_by(newest, section, writer)?;
            let single = matches!(section, SectionId::SESSION | SectionId::COUNTERS);
            match self.last {
                Some(after) if section < after || (single && section == after) => {
                    return Err(malformed(format!("it must not come after section {after}")));
                }
                _ => self.last = Some(section),
            }
            let records = header.records as usize;
            if records > MAX_RECORDS_PER_FRAME {
                return Err(StateError::Limit {
                    at,
                    what: "a number of records of",
                    found: records as u64,
                    limit: MAX_RECORDS_PER_FRAME as u64,
                });
            }
            self.counters_seen |= section == SectionId::COUNTERS;
            let spec = FrameSpec {
                section,
                version: header.version,
                max_plain,
            };
            return Ok(Some(Sealed {
                at,
                spec,
                records,
                payload: std::mem::take(&mut self.envelope.payload),
            }));
        }
    }

    /// Gives every frame that is left to `each`, in order. Where there are many, they
    /// are decoded and checked on up to `threads` threads, a few ahead of `each`.
    fn each_frame(
        mut self,
        threads: usize,
        packing: Packing,
        mut each: impl FnMut(PackedFrame),
    ) -> Result<Header, StateError> {
        for _ in 0..FEW_FRAMES {
            match self.next_sealed()? {
                Some(sealed) => each(self.open_here(sealed, packing)?),
                None => return Ok(self.envelope.header),
            }
        }
        let format = Arc::clone(&self.format);
        let limits = self.envelope.limits;
        let mut intake = self.intake.clone();
        // Payloads that have been decoded, to be read into again.
        let spare = Mutex::new(Vec::new());
        let spare = || spare.lock().unwrap_or_else(PoisonError::into_inner);
        in_order(
            threads,
            || {
                self.envelope.payload = spare().pop().unwrap_or_default();
                self.next_sealed()
            },
            |sealed| sealed.payload.len(),
            |sealed| {
                let Opened {
                    at,
                    records,
                    payload,
                    result,
                } = sealed.open(format.as_ref(), packing, &limits);
                spare().push(payload);
                (at, records, result)
            },
            |(at, records, result)| {
                each(intake.take(at, records, format.name(), result)?);
                Ok(())
            },
        )?;
        Ok(self.envelope.header)
    }
}

/// A frame that is known to be in its place, and is not decoded.
struct Sealed {
    at: At,
    spec: FrameSpec,
    /// As its header counts them.
    records: usize,
    /// With the checksum behind it.
    payload: Vec<u8>,
}

/// A frame that is decoded and checked by itself, on whatever thread.
struct Opened {
    at: At,
    records: usize,
    payload: Vec<u8>,
    result: Result<Content, CodecError>,
}

/// What inodes and identities become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Records,
    Packs,
}

/// What was in a frame.
struct Content {
    frame: PackedFrame,
    checked: Checked,
    /// What its records take up in memory, or would if they were not packed: a stream is
    /// refused whichever way it is read.
    memory: u64,
}

impl Sealed {
    fn open(self, format: &dyn Format, packing: Packing, limits: &Limits) -> Opened {
        let (payload, _) = split_crc(&self.payload);
        let result = match packing {
            Packing::Packs => format.decode_packed(&self.spec, payload),
            Packing::Records => format
                .decode_frame(&self.spec, payload)
                .map(PackedFrame::Other),
        };
        Opened {
            at: self.at,
            records: self.records,
            result: result.map(|frame| Content {
                checked: Checked::new(&frame, limits),
                memory: match &frame {
                    PackedFrame::Inodes(pack) => pack.memory(),
                    PackedFrame::Identities(pack) => pack.memory(),
                    PackedFrame::Other(frame) => memory::of_frame(frame.as_ref()),
                },
                frame,
            }),
            payload: self.payload,
        }
    }
}

/// What is checked with the frames in their order.
#[derive(Clone)]
struct Intake {
    checker: Checker,
    memory: u64,
    memory_limit: u64,
}

impl Intake {
    fn take(
        &mut self,
        at: At,
        records: usize,
        format: &str,
        result: Result<Content, CodecError>,
    ) -> Result<PackedFrame, StateError> {
        let Content {
            frame,
            checked,
            memory,
        } = result.map_err(|source| StateError::Decode {
            at,
            format: format.to_owned(),
            source,
        })?;
        let came = frame.records();
        if Some(frame.section()) != at.section || came != records || came == 0 {
            return Err(StateError::Malformed {
                at,
                what: format!("its header counts {records} record(s), its payload has {came}"),
            });
        }
        self.checker
            .checked(&frame, checked)
            .map_err(|source| StateError::Invalid { at, source })?;
        self.memory += memory;
        if self.memory > self.memory_limit {
            return Err(StateError::Limit {
                at,
                what: "memory in bytes for the records up to here of",
                found: self.memory,
                limit: self.memory_limit,
            });
        }
        Ok(frame)
    }
}
