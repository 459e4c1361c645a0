//! A virtiofsd variant: the stock daemon with one state format more, CBOR, and one
//! less, MessagePack. Its own name is in its logs and in the states that it writes.
//! See docs/variants.md.

use std::process::ExitCode;

use ferryfs_daemon::Daemon;
use ferryfs_format_postcard::Postcard;
use ferryfs_format_virtiofsd::VirtiofsdV2;
use ferryfs_format_zstd::Zstd;
use ferryfs_state::{Codec, CodecError, Registry};
use serde::de::DeserializeOwned;
use serde::Serialize;

#[cfg(test)]
mod tests;

/// Deepest nesting that is decoded. The records need six levels.
const MAX_DEPTH: usize = 16;

/// The format named `cbor`: RFC 8949, structs as maps with field names.
#[derive(Clone, Copy)]
struct Cbor;

impl Codec for Cbor {
    const NAME: &'static str = "cbor";

    fn encode<T: Serialize + ?Sized>(
        &self,
        value: &T,
        out: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        ciborium::into_writer(value, out)
            .map_err(|e| CodecError::with_source("cbor cannot encode it", e))
    }

    fn decode<T: DeserializeOwned>(&self, mut bytes: &[u8]) -> Result<T, CodecError> {
        let value = ciborium::de::from_reader_with_recursion_limit(&mut bytes, MAX_DEPTH)
            .map_err(|e| CodecError::with_source("cbor cannot decode it", e))?;
        // The library would take left-over bytes for granted.
        match bytes.len() {
            0 => Ok(value),
            n => Err(CodecError::new(format!("{n} byte(s) left over"))),
        }
    }
}

/// What this daemon reads and writes.
fn formats() -> Registry {
    Registry::new()
        .with(Postcard)
        .with(Cbor)
        .with(Zstd::new(Postcard))
        .with(Zstd::new(Cbor))
        .with_dialect(VirtiofsdV2)
}

fn main() -> ExitCode {
    Daemon::new("cborfsd", env!("CARGO_PKG_VERSION"))
        .formats(formats())
        .main()
}
