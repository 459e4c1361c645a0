//! zstd around any other format: `postcard+zstd`, `msgpack+zstd`.
//!
//! Each payload is one zstd frame of its own, so that frames can be encoded and
//! decoded in parallel and memory stays bounded on both sides. Level 1: what a
//! higher one saves on the wire it loses in downtime.

use std::io::Read;
use std::sync::{Mutex, PoisonError};

use ferryfs_state::{CodecError, Format, Frame, FrameRef, FrameSpec};
use zstd::bulk::Compressor;
use zstd::stream::raw::CParameter;

/// Compression level.
const LEVEL: i32 = 1;

/// Largest window that a payload may ask the reader to set aside: 2^23 is 8 MiB.
/// Level 1 uses 512 KiB.
const WINDOW_LOG_MAX: u32 = 23;

/// Compressors that are kept between frames; more threads than that make new ones.
const KEPT: usize = 16;

/// A format whose payloads are another's, compressed.
pub struct Zstd<F> {
    inner: F,
    name: String,
    /// A compressor is 1 MiB or so to set up, the same as a whole frame.
    compressors: Mutex<Vec<Compressor<'static>>>,
}

impl<F: Format> Zstd<F> {
    /// Compresses what `inner` writes. Its name is that of `inner` with `+zstd`.
    pub fn new(inner: F) -> Self {
        Zstd {
            name: format!("{}+zstd", inner.name()),
            inner,
            compressors: Mutex::default(),
        }
    }

    fn compress(&self, plain: &[u8]) -> std::io::Result<Vec<u8>> {
        let kept = || {
            self.compressors
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        let reused = kept().pop();
        let mut compressor = match reused {
            Some(compressor) => compressor,
            None => {
                let mut fresh = Compressor::new(LEVEL)?;
                fresh.set_parameter(CParameter::ChecksumFlag(true))?;
                fresh
            }
        };
        let bytes = compressor.compress(plain)?;
        let mut kept = kept();
        if kept.len() < KEPT {
            kept.push(compressor);
        }
        Ok(bytes)
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
        let plain = decompress(payload, spec.max_plain)?;
        self.inner.decode_frame(spec, &plain)
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
