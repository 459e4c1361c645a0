//! The postcard format: small and fast, no names, no slack.
//!
//! postcard writes structs as their fields in order and nothing else, so it only
//! ever decodes the exact structs that were encoded. That is what the frozen
//! versions of the state model are for; the version is in the envelope, not in the
//! payload.

use ferryfs_state::{Codec, CodecError};
use serde::de::DeserializeOwned;
use serde::Serialize;

/// The format named `postcard`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Postcard;

impl Codec for Postcard {
    const NAME: &'static str = "postcard";

    fn encode<T: Serialize + ?Sized>(
        &self,
        value: &T,
        out: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        let taken = std::mem::take(out);
        *out = postcard::to_extend(value, taken)
            .map_err(|e| CodecError::with_source("postcard cannot encode it", e))?;
        Ok(())
    }

    fn decode<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, CodecError> {
        let (value, rest) = postcard::take_from_bytes(bytes)
            .map_err(|e| CodecError::with_source("postcard cannot decode it", e))?;
        // `from_bytes` would take left-over bytes for granted.
        match rest.len() {
            0 => Ok(value),
            n => Err(CodecError::new(format!("{n} byte(s) left over"))),
        }
    }
}
