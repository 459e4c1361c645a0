//! zstd around any other format: `postcard+zstd`, `msgpack+zstd`.
//!
//! Each payload is one zstd frame of its own, so that frames can be encoded and
//! decoded in parallel and memory stays bounded on both sides. Level 1: what a
//! higher one saves on the wire it loses in downtime.

use std::io::Read;
use std::sync::{Mutex, PoisonError};

use ferryfs_state::packed::PackedFrame;
use ferryfs_state::{CodecError, Format, Frame, FrameRef, FrameSpec};
use zstd::bulk::{Compressor, Decompressor};
use zstd::stream::raw::CParameter;
use zstd::zstd_safe;

/// Compression level.
const LEVEL: i32 = 1;

/// Largest window that a payload may ask the reader to set aside: 2^23 is 8 MiB.
/// Level 1 uses 512 KiB.
const WINDOW_LOG_MAX: u32 = 23;

/// Compressors, and decompressors, that are kept between frames; more threads than that make
/// new ones.
const KEPT: usize = 16;

/// What a zstd frame begins with.
const MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();

/// In the byte behind that: the window is what comes out, and its size is said.
const SINGLE_SEGMENT: u8 = 1 << 5;

/// Most bytes for which there is room before they have come out: the window of level 1, so that
/// what is larger has one anyway.
const AT_ONCE: usize = 512 << 10;

/// A format whose payloads are another's, compressed.
pub struct Zstd<F> {
    inner: F,
    name: String,
    /// A compressor is 1 MiB or so to set up, the same as a whole frame.
    compressors: Mutex<Vec<Compressor<'static>>>,
    decompressors: Mutex<Vec<Decompressor<'static>>>,
}

impl<F: Format> Zstd<F> {
    /// Compresses what `inner` writes. Its name is that of `inner` with `+zstd`.
    pub fn new(inner: F) -> Self {
        Zstd {
            name: format!("{}+zstd", inner.name()),
            inner,
            compressors: Mutex::default(),
            decompressors: Mutex::default(),
        }
    }

    fn compress(&self, plain: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut compressor = match take(&self.compressors) {
            Some(compressor) => compressor,
            None => {
                let mut fresh = Compressor::new(LEVEL)?;
                fresh.set_parameter(CParameter::ChecksumFlag(true))?;
                fresh
            }
        };
        let bytes = compressor.compress(plain)?;
        keep(&self.compressors, compressor);
        Ok(bytes)
    }

    /// What `payload` decompresses to: at most `limit` bytes.
    fn decompress(&self, payload: &[u8], limit: usize) -> Result<Vec<u8>, CodecError> {
        match self.decompress_at_once(payload, limit) {
            Some(plain) => Ok(plain),
            None => decompress(payload, limit),
        }
    }

    /// The same without a window that everything is copied out of, where the payload is as
    /// [`Zstd::compress`] makes it, and claims no more than anybody gets at once. `None`
    /// where it takes a closer look, if only to say what is wrong.
    fn decompress_at_once(&self, payload: &[u8], limit: usize) -> Option<Vec<u8>> {
        let flags = payload.strip_prefix(&MAGIC)?.first()?;
        let length = zstd_safe::get_frame_content_size(payload).ok()??;
        let length = usize::try_from(length).ok()?;
        let whole = zstd_safe::find_frame_compressed_size(payload).ok()? == payload.len();
        if flags & SINGLE_SEGMENT == 0 || length > limit.min(AT_ONCE) || !whole {
            return None;
        }
        let mut decompressor = match take(&self.decompressors) {
            Some(decompressor) => decompressor,
            None => Decompressor::new().ok()?,
        };
        let plain = decompressor.decompress(payload, length).ok()?;
        keep(&self.decompressors, decompressor);
        Some(plain)
    }
}

fn take<T>(kept: &Mutex<Vec<T>>) -> Option<T> {
    kept.lock().unwrap_or_else(PoisonError::into_inner).pop()
}

fn keep<T>(kept: &Mutex<Vec<T>>, one: T) {
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.len() < KEPT {
        kept.push(one);
    }
}

impl<F: Format> std::fmt::Debug for Zstd<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl<F: Format> Format for Zstd<F> {
    fn name(&self) -> &str {
        &self.name
    }

    fn encode_frame(&self, frame: FrameRef<'_>, out: &mut Vec<u8>) -> Result<(), CodecError> {
        let mut plain = Vec::new();
        self.inner.encode_frame(frame, &mut plain)?;
        let bytes = self
            .compress(&plain)
            .map_err(|e| CodecError::with_source("zstd cannot compress it", e))?;
        out.extend_from_slice(&bytes);
        Ok(())
    }

    fn decode_frame(&self, spec: &FrameSpec, payload: &[u8]) -> Result<Frame, CodecError> {
        let plain = self.decompress(payload, spec.max_plain)?;
        self.inner.decode_frame(spec, &plain)
    }

    fn decode_packed(&self, spec: &FrameSpec, payload: &[u8]) -> Result<PackedFrame, CodecError> {
        let plain = self.decompress(payload, spec.max_plain)?;
        self.inner.decode_packed(spec, &plain)
    }
}

/// The one zstd frame that `payload` is, decompressed to at most `limit` bytes. The
/// memory for it grows with what comes out, not with what the payload claims.
fn decompress(payload: &[u8], limit: usize) -> Result<Vec<u8>, CodecError> {
    let failed = |e| CodecError::with_source("zstd cannot decompress it", e);
    let mut decoder = zstd::stream::read::Decoder::with_buffer(payload)
        .map_err(failed)?
        .single_frame();
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(failed)?;
    let mut plain = Vec::new();
    (&mut decoder)
        .take(limit as u64 + 1)
        .read_to_end(&mut plain)
        .map_err(failed)?;
    if plain.len() > limit {
        return Err(CodecError::new(format!(
            "it decompresses to more than the limit of {limit} bytes"
        )));
    }
    match decoder.finish().len() {
        0 => Ok(plain),
        n => Err(CodecError::new(format!(
            "{n} byte(s) left over after the zstd frame"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferryfs_format_postcard::Postcard;
    use ferryfs_state::testing::{any_state, large};
    use ferryfs_state::{error_line, SectionId, SectionVersion};
    use proptest::prelude::*;

    fn spec(max_plain: usize) -> FrameSpec {
        FrameSpec {
            section: SectionId::INODES,
            version: SectionVersion::CURRENT,
            max_plain,
        }
    }

    #[test]
    fn its_name_is_the_inner_one_with_a_suffix() {
        let twice = Zstd::new(Zstd::new(Postcard));
        assert_eq!(twice.name(), "postcard+zstd+zstd");
    }

    #[test]
    fn each_payload_is_one_checked_frame_of_known_size() {
        let state = large(3000);
        let format = Zstd::new(Postcard);
        let mut plain = Vec::new();
        let mut bytes = vec![0xaa];
        let frame = FrameRef::Inodes(&state.fs.inodes);
        Postcard.encode_frame(frame, &mut plain).unwrap();
        // Twice: the second time with the compressor of the first.
        format.encode_frame(frame, &mut bytes).unwrap();
        let mut again = vec![0xaa];
        format.encode_frame(frame, &mut again).unwrap();
        assert_eq!(bytes, again);

        assert_eq!(bytes[0], 0xaa, "output is appended");
        let bytes = &bytes[1..];
        assert!(
            bytes.len() * 2 < plain.len(),
            "{} of {}",
            bytes.len(),
            plain.len()
        );
        assert_eq!(bytes[..4], [0x28, 0xb5, 0x2f, 0xfd]);
        assert_eq!(bytes[4] & 0b100, 0b100, "checksum flag");
        assert_eq!(decompress(bytes, plain.len()).unwrap(), plain);
    }

    #[test]
    fn bombs_are_refused_at_the_limit() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).unwrap();
        assert!(bomb.len() < 16 << 10);
        let error = Zstd::new(Postcard)
            .decode_frame(&spec(1 << 20), &bomb)
            .unwrap_err();
        assert_eq!(
            error_line(&error),
            "it decompresses to more than the limit of 1048576 bytes"
        );
    }

    #[test]
    fn a_window_beyond_the_limit_is_refused() {
        let compress = |window_log| {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(window_log).unwrap();
            std::io::Write::write_all(&mut encoder, &[7; 100]).unwrap();
            encoder.finish().unwrap()
        };
        assert_eq!(
            decompress(&compress(WINDOW_LOG_MAX), 100).unwrap(),
            [7; 100]
        );
        let error = decompress(&compress(WINDOW_LOG_MAX + 1), 100).unwrap_err();
        assert!(
            error_line(&error).starts_with("zstd cannot decompress it: "),
            "{error}"
        );
    }

    #[test]
    fn what_is_not_exactly_one_frame_is_refused() {
        let one = zstd::bulk::compress(b"hello", 1).unwrap();
        assert_eq!(decompress(&one, 5).unwrap(), b"hello");
        for n in 0..one.len() {
            decompress(&one[..n], 5).unwrap_err();
        }
        let error = decompress(&[&one[..], &one].concat(), 10).unwrap_err();
        assert_eq!(
            error_line(&error),
            format!("{} byte(s) left over after the zstd frame", one.len())
        );
        decompress(&[&one[..], &[0]].concat(), 10).unwrap_err();
        decompress(b"hello", 10).unwrap_err();
    }

    /// What decompresses at once, and to the same.
    fn at_once(payload: &[u8], limit: usize) -> bool {
        let plain = Zstd::new(Postcard).decompress_at_once(payload, limit);
        if let Some(plain) = &plain {
            assert_eq!(*plain, decompress(payload, limit).unwrap());
        }
        plain.is_some()
    }

    #[test]
    fn what_is_written_here_decompresses_at_once_and_nothing_odd_does() {
        let format = Zstd::new(Postcard);
        for length in [0, 1, 5, 255, 256, 70_000, AT_ONCE] {
            let plain: Vec<u8> = (0..length).map(|n| (n * n / 7) as u8).collect();
            let bytes = format.compress(&plain).unwrap();
            assert!(at_once(&bytes, length), "{length}");
            assert!(length == 0 || !at_once(&bytes, length - 1), "{length}");
            assert!(
                !at_once(&[&bytes[..], &bytes].concat(), 2 * length),
                "two frames"
            );
            assert!(!at_once(&bytes[..bytes.len() - 1], length), "cut off");
            let mut damaged = bytes.clone();
            *damaged.last_mut().unwrap() ^= 1;
            assert!(!at_once(&damaged, length), "checksum");
        }
        let large = format.compress(&vec![7; AT_ONCE + 1]).unwrap();
        assert!(!at_once(&large, usize::MAX), "claims too much");
        assert_eq!(
            format.decompress(&large, AT_ONCE + 1).unwrap().len(),
            AT_ONCE + 1
        );
        // A frame that decoders skip, and one that has a window.
        let skipped = [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0];
        assert!(!at_once(&skipped, 10));
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        for part in ["hel", "lo"] {
            std::io::Write::write_all(&mut encoder, part.as_bytes()).unwrap();
            std::io::Write::flush(&mut encoder).unwrap();
        }
        let windowed = encoder.finish().unwrap();
        assert!(!at_once(&windowed, 10) && decompress(&windowed, 10).is_ok());
    }

    proptest! {
        #[test]
        fn damaged_or_not_it_decompresses_to_the_same(
            plain in proptest::collection::vec(0..4u8, 0..2000),
            at in any::<proptest::sample::Index>(),
            flip in any::<u8>(),
        ) {
            let mut bytes = Zstd::new(Postcard).compress(&plain).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            at_once(&bytes, 1 << 16);
        }

        #[test]
        fn inodes_survive(state in any_state()) {
            let format = Zstd::new(Postcard);
            let mut bytes = Vec::new();
            format.encode_frame(FrameRef::Inodes(&state.fs.inodes), &mut bytes).unwrap();
            let back = format.decode_frame(&spec(1 << 20), &bytes).unwrap();
            prop_assert_eq!(back, Frame::Inodes(state.fs.inodes));
        }

        #[test]
        fn no_input_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let bytes = [&[0x28, 0xb5, 0x2f, 0xfd][..], &bytes].concat();
            let _ = Zstd::new(Postcard).decode_frame(&spec(1 << 20), &bytes);
        }
    }
}
