//! All four formats together, and streams made by hand: an envelope written from
//! its description, not with the library's own code.
#![allow(dead_code)] // each test program uses its own part

use ferryfs_format_msgpack::MsgPack;
use ferryfs_format_postcard::Postcard;
use ferryfs_format_zstd::Zstd;
use ferryfs_state::{
    error_line, read_packed, read_state, write_state, write_state_with, Header, Limits, Losses,
    Registry, State, StateError, WriteOptions, WriterInfo,
};

pub const FORMATS: [&str; 4] = ["postcard", "msgpack", "postcard+zstd", "msgpack+zstd"];

pub fn registry() -> Registry {
    Registry::new()
        .with(Postcard)
        .with(MsgPack)
        .with(Zstd::new(Postcard))
        .with(Zstd::new(MsgPack))
}

pub fn writer() -> WriterInfo {
    WriterInfo::new("ferryfsd", "0.1.0")
}

pub fn encode(state: &State, format: &str) -> Vec<u8> {
    encode_as(state, format, &writer())
}

pub fn encode_as(state: &State, format: &str, writer: &WriterInfo) -> Vec<u8> {
    let mut bytes = Vec::new();
    let registry = registry();
    let format = registry.get(format).unwrap();
    let length = write_state(state, format.as_ref(), writer, &mut bytes).unwrap();
    assert_eq!(length, bytes.len() as u64);
    bytes
}

/// The stream for readers of state version `version`, and what it leaves out.
pub fn encode_for(state: &State, format: &str, version: u32) -> Result<(Vec<u8>, Losses), String> {
    let mut bytes = Vec::new();
    let registry = registry();
    let format = registry.get(format).unwrap();
    let options = WriteOptions::for_version(version).unwrap();
    write_state_with(state, format.as_ref(), &writer(), &options, &mut bytes)
        .map(|(length, losses)| {
            assert_eq!(length, bytes.len() as u64);
            (bytes, losses)
        })
        .map_err(|e| error_line(&e))
}

/// What is read from `bytes`: packed, it is the same, and so is what is refused.
pub fn decode(bytes: &[u8]) -> Result<(Header, State), StateError> {
    let (registry, limits) = (registry(), Limits::default());
    let read = read_state(&mut &*bytes, &registry, &limits);
    let packed = read_packed(&mut &*bytes, &registry, &limits);
    match (&read, packed) {
        (Ok((header, state)), Ok((own, packed))) => {
            assert_eq!(own, *header);
            assert!(State::from(packed) == *state, "packed, it is another state");
        }
        (Err(e), Err(packed)) => assert_eq!(error_line(&packed), error_line(e)),
        (Ok(_), Err(e)) => panic!("refused when packed: {}", error_line(&e)),
        (Err(e), Ok(_)) => panic!("taken when packed: {}", error_line(e)),
    }
    read
}

/// What the reader says to `bytes`, which it must refuse.
pub fn refusal(bytes: &[u8]) -> String {
    error_line(&decode(bytes).expect_err("it must be refused"))
}

/// A frame made by hand.
pub struct RawFrame {
    pub section: u16,
    pub version: u16,
    pub flags: u16,
    pub reserved: u16,
    pub records: u32,
    pub payload: Vec<u8>,
}

impl RawFrame {
    pub fn new(section: u16, records: u32, payload: impl Into<Vec<u8>>) -> Self {
        RawFrame {
            section,
            version: 1,
            flags: 1,
            reserved: 0,
            records,
            payload: payload.into(),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for field in [self.section, self.version, self.flags, self.reserved] {
            out.extend(field.to_le_bytes());
        }
        out.extend(self.records.to_le_bytes());
        out.extend((self.payload.len() as u32).to_le_bytes());
        out.extend(&self.payload);
        out.extend(crc32c::crc32c(&out).to_le_bytes());
        out
    }
}

/// A header made by hand, with any versions.
pub fn raw_header(container: u16, state: u32, flags: u32, format: &str) -> Vec<u8> {
    let mut out = b"\x89FERRY\r\n".to_vec();
    let texts = [format, "ferryfsd", "0.9.0"];
    let length = 24 + texts.iter().map(|t| t.len()).sum::<usize>() + 4;
    out.extend(container.to_le_bytes());
    out.extend((length as u16).to_le_bytes());
    out.extend(flags.to_le_bytes());
    out.extend(state.to_le_bytes());
    out.extend(texts.map(|t| t.len() as u8));
    out.push(0);
    texts.iter().for_each(|t| out.extend(t.as_bytes()));
    out.extend(crc32c::crc32c(&out).to_le_bytes());
    out
}

/// A whole stream made by hand; the end frame counts what is there.
pub fn raw_stream(header: Vec<u8>, frames: &[RawFrame]) -> Vec<u8> {
    let count = |section| {
        frames
            .iter()
            .filter(|f| f.section == section)
            .map(|f| u64::from(f.records))
            .sum::<u64>()
    };
    let mut out = header;
    frames.iter().for_each(|f| out.extend(f.bytes()));
    end(out, [frames.len() as u64, count(4), count(5)])
}

/// `out` with an end frame of these counts.
pub fn end(mut out: Vec<u8>, counts: [u64; 3]) -> Vec<u8> {
    let start = out.len();
    for field in [0xffffu16, 1, 1, 0] {
        out.extend(field.to_le_bytes());
    }
    out.extend(0u32.to_le_bytes());
    out.extend(28u32.to_le_bytes());
    counts.iter().for_each(|c| out.extend(c.to_le_bytes()));
    out.extend(crc32c::crc32c(&out).to_le_bytes());
    let frame = crc32c::crc32c(&out[start..]);
    out.extend(frame.to_le_bytes());
    out
}
