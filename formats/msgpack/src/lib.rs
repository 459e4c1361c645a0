//! The MessagePack format: self-describing, structs as maps with field names, so
//! that any MessagePack tool can show a payload.

use ferryfs_state::{Codec, CodecError};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

/// Deepest nesting that is decoded. The records need six levels; the library's own
/// limit of 1024 is one on the stack.
const MAX_DEPTH: usize = 16;

/// The format named `msgpack`.
#[derive(Clone, Copy, Debug, Default)]
pub struct MsgPack;

impl Codec for MsgPack {
    const NAME: &'static str = "msgpack";

    fn encode<T: Serialize + ?Sized>(
        &self,
        value: &T,
        out: &mut Vec<u8>,
    ) -> Result<(), CodecError> {
        let mut serializer = rmp_serde::Serializer::new(out).with_struct_map();
        value
            .serialize(&mut serializer)
            .map_err(|e| CodecError::with_source("msgpack cannot encode it", e))
    }

    fn decode<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, CodecError> {
        let mut deserializer = rmp_serde::Deserializer::from_read_ref(bytes);
        deserializer.set_max_depth(MAX_DEPTH);
        let value = T::deserialize(&mut deserializer)
            .map_err(|e| CodecError::with_source("msgpack cannot decode it", e))?;
        // The library would take left-over bytes for granted, and does not say where
        // it is; but asked for one more value, only a complete payload has not even
        // the first byte of it.
        match IgnoredAny::deserialize(&mut deserializer) {
            Err(rmp_serde::decode::Error::InvalidMarkerRead(_)) => Ok(value),
            _ => Err(CodecError::new("bytes left over")),
        }
    }
}
