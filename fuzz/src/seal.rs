//! Streams that have been changed and sealed again: their lengths and checksums are
//! right, so that what was changed gets past them.
//!
//! An own reading of docs/state-format.md, not the library's code.

use crate::mutate;
use crate::random::Random;

const FIXED: usize = 24;
const FRAME: usize = 16;
const CRC: usize = 4;
const END: u16 = 0xffff;
const INODES: u16 = 4;
const HANDLES: u16 = 5;

/// Most bytes that a payload is decompressed to in order to change it.
const MAX_PLAIN: usize = 1 << 20;

fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from(le16(bytes, at)) | u32::from(le16(bytes, at + 2)) << 16
}

/// A stream in pieces, as far as it can be told.
struct Stream {
    /// Without its checksum.
    header: Vec<u8>,
    /// The end frame is not among them.
    frames: Vec<Frame>,
}

#[derive(Clone)]
struct Frame {
    header: [u8; FRAME],
    payload: Vec<u8>,
}

impl Stream {
    fn take_apart(bytes: &[u8]) -> Option<Stream> {
        let length = usize::from(le16(bytes.get(..FIXED)?, 10));
        let header = bytes.get(..length.checked_sub(CRC)?)?.to_vec();
        let mut frames = Vec::new();
        let mut rest = bytes.get(length..)?;
        while let Some((header, behind)) = rest.split_first_chunk::<FRAME>() {
            let length = le32(header, 12) as usize;
            let Some(payload) = behind.get(..length) else {
                break;
            };
            if le16(header, 0) == END {
                break;
            }
            frames.push(Frame {
                header: *header,
                payload: payload.to_vec(),
            });
            rest = behind.get(length + CRC..).unwrap_or_default();
        }
        Some(Stream { header, frames })
    }

    fn put_together(&self) -> Vec<u8> {
        let mut out = self.header.clone();
        let length = (out.len() + CRC) as u16;
        if let Some(field) = out.get_mut(10..12) {
            field.copy_from_slice(&length.to_le_bytes());
        }
        out.extend(crc32c::crc32c(&out).to_le_bytes());
        let mut counts = [self.frames.len() as u64, 0, 0];
        for frame in &self.frames {
            let start = out.len();
            out.extend(&frame.header[..12]);
            out.extend((frame.payload.len() as u32).to_le_bytes());
            out.extend(&frame.payload);
            out.extend(crc32c::crc32c(&out[start..]).to_le_bytes());
            let records = u64::from(le32(&frame.header, 8));
            match le16(&frame.header, 0) {
                INODES => counts[1] += records,
                HANDLES => counts[2] += records,
                _ => {}
            }
        }
        let start = out.len();
        for field in [END, 1, 1, 0, 0, 0, 28, 0] {
            out.extend(field.to_le_bytes());
        }
        counts
            .iter()
            .for_each(|count| out.extend(count.to_le_bytes()));
        out.extend(crc32c::crc32c(&out).to_le_bytes());
        out.extend(crc32c::crc32c(&out[start..]).to_le_bytes());
        out
    }

    /// Whether the payloads are compressed.
    fn is_zstd(&self) -> bool {
        self.header.windows(5).any(|text| text == b"+zstd")
    }
}

/// Changes a stream within its envelope, or the envelope itself, and seals it.
pub fn stream(input: &mut Vec<u8>, random: &mut Random) {
    let Some(mut stream) = Stream::take_apart(input) else {
        return mutate::bytes(input, random);
    };
    let count = stream.frames.len();
    let at = random.below(count);
    match random.below(12) {
        0 => {
            // Beyond the length, which is set.
            let from = 12.min(stream.header.len());
            let mut tail = stream.header.split_off(from);
            mutate::bytes(&mut tail, random);
            stream.header.extend(tail);
        }
        1 if count > 0 => {
            let mut header = stream.frames[at].header.to_vec();
            mutate::bytes(&mut header, random);
            if let Ok(header) = header.try_into() {
                stream.frames[at].header = header;
            }
        }
        2 if count > 0 => {
            let to = random.below(count);
            stream.frames.swap(at, to);
        }
        3 if count > 0 => {
            let frame = stream.frames[at].clone();
            stream.frames.insert(at, frame);
        }
        4 if count > 0 => drop(stream.frames.remove(at)),
        5 if count > 0 => {
            // As many records as one likes to say.
            let records = random.number() as u32;
            stream.frames[at].header[8..12].copy_from_slice(&records.to_le_bytes());
        }
        _ if count > 0 => {
            let compressed = stream.is_zstd();
            payload(&mut stream.frames[at].payload, compressed, random);
        }
        _ => {}
    }
    *input = stream.put_together();
}

fn payload(payload: &mut Vec<u8>, compressed: bool, random: &mut Random) {
    let change = |bytes: &mut Vec<u8>, random: &mut Random| {
        for _ in 0..1 + random.below(3) {
            mutate::bytes(bytes, random);
        }
    };
    let plain = match compressed && !random.once_in(4) {
        true => zstd::bulk::decompress(payload, MAX_PLAIN).ok(),
        false => None,
    };
    match plain {
        Some(mut plain) => {
            change(&mut plain, random);
            if let Ok(bytes) = zstd::bulk::compress(&plain, 1) {
                *payload = bytes;
            }
        }
        None => change(payload, random),
    }
}

/// Sets the checksums right, as far as the lengths lead, without a change of length:
/// for what libFuzzer has changed. Bytes that are no stream are left alone.
pub fn in_place(bytes: &mut [u8]) {
    if !bytes.starts_with(b"\x89FERRY\r\n") || bytes.len() < FIXED {
        return;
    }
    let length = usize::from(le16(bytes, 10));
    let Some(body) = length.checked_sub(CRC).filter(|_| length <= bytes.len()) else {
        return;
    };
    let crc = crc32c::crc32c(&bytes[..body]);
    bytes[body..length].copy_from_slice(&crc.to_le_bytes());
    let mut at = length;
    while at + FRAME + CRC <= bytes.len() {
        let end = at + FRAME + le32(bytes, at + 12) as usize;
        if end + CRC > bytes.len() {
            break;
        }
        if le16(bytes, at) == END && end - at == FRAME + 28 {
            let crc = crc32c::crc32c(&bytes[..end - CRC]);
            bytes[end - CRC..end].copy_from_slice(&crc.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes[at..end]);
        bytes[end..end + CRC].copy_from_slice(&crc.to_le_bytes());
        at = end + CRC;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goldens_come_out_as_they_went_in() {
        let goldens: Vec<_> = crate::files("crates/state/goldens")
            .into_iter()
            .filter(|bytes| bytes.starts_with(b"\x89FERRY"))
            .collect();
        assert!(goldens.len() >= 8);
        for golden in goldens {
            let stream = Stream::take_apart(&golden).unwrap();
            assert!(stream.put_together() == golden);
            let mut damaged = golden.clone();
            for at in [20, golden.len() - 2, golden.len() - 6] {
                damaged[at] ^= 1;
            }
            damaged[20] = golden[20];
            in_place(&mut damaged);
            assert!(damaged == golden);
        }
    }

    #[test]
    fn most_changes_get_past_the_checksums() {
        let golden = crate::files("crates/state/goldens")
            .into_iter()
            .find(|bytes| bytes.starts_with(b"\x89FERRY"))
            .unwrap();
        let (mut sound, mut changed) = (0, 0);
        for n in 0..500 {
            let mut input = golden.clone();
            stream(&mut input, &mut Random::new(1, n));
            changed += usize::from(input != golden);
            let limits = ferryfs_state::Limits::default();
            let reader = ferryfs_state::EnvelopeReader::open(&input[..], &limits);
            let Ok(mut reader) = reader else { continue };
            while let Ok(Some(_)) = reader.next_frame() {}
            sound += usize::from(matches!(reader.next_frame(), Ok(None)));
        }
        assert!(changed > 400 && sound > 300, "{changed} {sound}");
    }
}
