//! The fixed bytes around the payloads: header, frame header, end frame. All
//! integers are little endian. docs/state-format.md has the tables.

use std::fmt;

use crate::error::{At, StateError};
use crate::format::{is_format_name, MAX_FORMAT_NAME};
use crate::section::SectionId;
use crate::version::{ContainerVersion, SectionVersion, StateVersion};

/// The first eight bytes. The first is no plausible index of a postcard enum (so
/// that no virtiofsd stream looks like one of ours) and not ASCII, the last two are
/// CR LF, so that a transfer as text is noticed at once.
pub const MAGIC: [u8; 8] = [0x89, b'F', b'E', b'R', b'R', b'Y', 0x0d, 0x0a];

/// Length of the header's fixed part in bytes.
pub const HEADER_FIXED: usize = 24;
/// Longest header that is read, in bytes. One of version 1 has at most 188.
pub const HEADER_MAX: usize = 1024;
/// Longest vendor or version text of a writer, in bytes.
pub const MAX_WRITER_TEXT: usize = 64;
/// Length of a frame's header in bytes.
pub const FRAME_HEADER: usize = 16;
/// Length of a checksum in bytes.
pub const CRC: usize = 4;
/// Length of the end frame's payload in bytes.
pub const END_PAYLOAD: usize = 28;

/// Frame flag: a reader that does not know the section must refuse the stream.
pub const FRAME_CRITICAL: u16 = 1;

/// Who wrote a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriterInfo {
    vendor: String,
    version: String,
}

impl WriterInfo {
    /// `vendor` names the program or variant (`ferryfsd`), `version` its release.
    /// What is not printable ASCII becomes `?`, what is beyond
    /// [`MAX_WRITER_TEXT`] bytes is cut off.
    pub fn new(vendor: &str, version: &str) -> Self {
        WriterInfo {
            vendor: printable(vendor.as_bytes()),
            version: printable(version.as_bytes()),
        }
    }

    /// The program or variant.
    pub fn vendor(&self) -> &str {
        &self.vendor
    }

    /// Its release.
    pub fn version(&self) -> &str {
        &self.version
    }
}

impl fmt::Display for WriterInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.vendor, self.version)
    }
}

fn printable(bytes: &[u8]) -> String {
    bytes
        .iter()
        .take(MAX_WRITER_TEXT)
        .map(|&b| if is_printable(b) { b as char } else { '?' })
        .collect()
}

fn is_printable(b: u8) -> bool {
    b.is_ascii_graphic() || b == b' '
}

/// A stream's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Version of the envelope.
    pub container: ContainerVersion,
    /// Version of the state model.
    pub state: StateVersion,
    /// None is defined in container version 1.
    pub flags: u32,
    /// Name of the format of all payloads.
    pub format: String,
    /// Who wrote it.
    pub writer: WriterInfo,
}

/// Where something is wrong with the header.
pub(crate) fn in_header(offset: u64) -> At {
    At {
        section: None,
        offset,
    }
}

impl Header {
    /// The header's bytes, checksum included.
    ///
    /// # Errors
    /// [`StateError::FormatName`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, StateError> {
        if !is_format_name(&self.format) {
            return Err(StateError::FormatName {
                name: self.format.clone(),
            });
        }
        // `WriterInfo` keeps its texts below MAX_WRITER_TEXT, so every length fits.
        let texts = [&self.format, &self.writer.vendor, &self.writer.version];
        let len = HEADER_FIXED + texts.iter().map(|t| t.len()).sum::<usize>() + CRC;
        let mut out = Vec::with_capacity(len);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.container.0.to_le_bytes());
        out.extend_from_slice(&(len as u16).to_le_bytes());
        out.extend_from_slice(&self.flags.to_le_bytes());
        out.extend_from_slice(&self.state.0.to_le_bytes());
        for text in texts {
            out.push(text.len() as u8);
        }
        out.push(0);
        for text in texts {
            out.extend_from_slice(text.as_bytes());
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        Ok(out)
    }

    /// The length of a header, from its first 12 bytes (magic already checked).
    ///
    /// # Errors
    /// No header has that length.
    pub(crate) fn length(first: &[u8; 12]) -> Result<usize, StateError> {
        let len = usize::from(u16::from_le_bytes([first[10], first[11]]));
        if !(HEADER_FIXED + CRC..=HEADER_MAX).contains(&len) {
            return Err(StateError::Malformed {
                at: in_header(10),
                what: format!("a header of {len} bytes cannot be"),
            });
        }
        Ok(len)
    }

    /// Parses a whole header whose length and magic have been checked.
    ///
    /// # Errors
    /// Checksum, shape, versions.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Header, StateError> {
        let (body, crc) = split_crc(bytes);
        let computed = crc32c::crc32c(body);
        if computed != crc {
            return Err(StateError::Checksum {
                at: in_header(0),
                what: "header",
                found: crc,
                computed,
            });
        }
        let malformed = |offset: usize, what: String| StateError::Malformed {
            at: in_header(offset as u64),
            what,
        };
        let container = ContainerVersion(le16(body, 8));
        let mut at = HEADER_FIXED;
        let mut text = |field: usize, what: &str, max: usize| {
            let len = usize::from(body[field]);
            let bytes = body.get(at..at + len).filter(|_| len <= max);
            let Some(bytes) = bytes else {
                return Err(malformed(field, format!("{what} of {len} bytes cannot be")));
            };
            if !bytes.iter().all(|&b| is_printable(b)) {
                return Err(malformed(at, format!("{what} is not printable ASCII")));
            }
            at += len;
            Ok(printable(bytes))
        };
        let format = text(20, "a format name", MAX_FORMAT_NAME)?;
        let vendor = text(21, "a vendor name", MAX_WRITER_TEXT)?;
        let version = text(22, "a writer version", MAX_WRITER_TEXT)?;
        let writer = WriterInfo { vendor, version };
        // Everything up to here stays the same in any container version, so that a
        // newer one can be refused with the name of its writer.
        container.check_readable_by(ContainerVersion::CURRENT, &writer)?;
        if at != body.len() {
            let what = format!("{} surplus byte(s)", body.len() - at);
            return Err(malformed(at, what));
        }
        if !is_format_name(&format) {
            return Err(malformed(
                HEADER_FIXED,
                format!("\"{format}\" cannot name a state format"),
            ));
        }
        let flags = le32(body, 12);
        if flags != 0 || body[23] != 0 {
            return Err(malformed(
                12,
                format!(
                    "flags {flags:#010x} and reserved byte {:#04x} must be 0",
                    body[23]
                ),
            ));
        }
        let state = StateVersion(le32(body, 16));
        Ok(Header {
            container,
            state,
            flags,
            format,
            writer,
        })
    }
}

/// What stands before a frame's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Which section the frame belongs to.
    pub section: SectionId,
    /// Version of the records.
    pub version: SectionVersion,
    /// [`FRAME_CRITICAL`] or nothing.
    pub flags: u16,
    /// Number of records in the payload.
    pub records: u32,
    /// Length of the payload in bytes.
    pub length: u32,
}

impl FrameHeader {
    pub(crate) fn to_bytes(self) -> [u8; FRAME_HEADER] {
        let mut out = [0; FRAME_HEADER];
        out[0..2].copy_from_slice(&self.section.0.to_le_bytes());
        out[2..4].copy_from_slice(&self.version.0.to_le_bytes());
        out[4..6].copy_from_slice(&self.flags.to_le_bytes());
        out[8..12].copy_from_slice(&self.records.to_le_bytes());
        out[12..16].copy_from_slice(&self.length.to_le_bytes());
        out
    }

    /// The fields, and the reserved ones, which must be 0.
    pub(crate) fn from_bytes(bytes: &[u8; FRAME_HEADER]) -> (Self, u16) {
        let header = FrameHeader {
            section: SectionId(le16(bytes, 0)),
            version: SectionVersion(le16(bytes, 2)),
            flags: le16(bytes, 4),
            records: le32(bytes, 8),
            length: le32(bytes, 12),
        };
        (header, le16(bytes, 6))
    }

    /// Whether a reader that does not know the section must refuse the stream.
    pub fn is_critical(&self) -> bool {
        self.flags & FRAME_CRITICAL != 0
    }
}

/// Appends one frame to `out`: header, what `payload` appends, checksum.
pub(crate) fn append_frame<E>(
    out: &mut Vec<u8>,
    (section, version): (SectionId, SectionVersion),
    records: u32,
    payload: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<Result<(), u64>, E> {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEADER]);
    payload(out)?;
    let length = out.len() - start - FRAME_HEADER;
    let Ok(length) = u32::try_from(length) else {
        return Ok(Err(length as u64));
    };
    let header = FrameHeader {
        section,
        version,
        flags: match section.is_critical() {
            true => FRAME_CRITICAL,
            false => 0,
        },
        records,
        length,
    };
    out[start..start + FRAME_HEADER].copy_from_slice(&header.to_bytes());
    let crc = crc32c::crc32c(&out[start..]);
    out.extend_from_slice(&crc.to_le_bytes());
    Ok(Ok(()))
}

/// What a stream holds in all; the end frame's first three fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Frames before the end frame.
    pub frames: u64,
    /// Inode records.
    pub inodes: u64,
    /// Handle records.
    pub handles: u64,
}

impl Totals {
    pub(crate) fn count(&mut self, section: SectionId, records: u32) {
        self.frames += 1;
        match section {
            SectionId::INODES => self.inodes += u64::from(records),
            SectionId::HANDLES => self.handles += u64::from(records),
            _ => {}
        }
    }
}

pub(crate) fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(crate) fn le32(bytes: &[u8], at: usize) -> u32 {
    let mut b = [0; 4];
    b.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(b)
}

pub(crate) fn le64(bytes: &[u8], at: usize) -> u64 {
    let mut b = [0; 8];
    b.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(b)
}

/// Splits the checksum off the end. `bytes` is at least that long.
pub(crate) fn split_crc(bytes: &[u8]) -> (&[u8], u32) {
    let (body, crc) = bytes.split_at(bytes.len() - CRC);
    (body, le32(crc, 0))
}
