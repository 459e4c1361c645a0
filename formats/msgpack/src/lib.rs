//! The MessagePack format: self-describing, structs as maps with field names, so
//! that any MessagePack tool can show a payload.

use std::fmt;

use ferryfs_state::{Codec, CodecError};
use serde::de::{DeserializeOwned, Deserializer, Visitor};
use serde::Serialize;

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
        // The library would take left-over bytes for granted.
        match deserializer.deserialize_option(OneMore) {
            Err(_) => Ok(value),
            Ok(()) => Err(CodecError::new("bytes left over")),
        }
    }
}

/// Asks for one more value but takes none: an optional one needs its first byte to
/// be there, whatever that byte is. The library does not tell in any other way
/// whether its slice is used up.
struct OneMore;

impl<'de> Visitor<'de> for OneMore {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("one more byte")
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, _: D) -> Result<(), D::Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferryfs_state::testing::{any_state, sample};
    use ferryfs_state::{error_line, Format, FrameRef, FrameSpec, Handle, Inode, SectionId};
    use proptest::prelude::*;
    use serde::de::IgnoredAny;
    use serde_bytes::ByteBuf;

    fn decode_inodes(bytes: &[u8]) -> Result<ferryfs_state::Frame, CodecError> {
        let spec = FrameSpec {
            section: SectionId::INODES,
            version: ferryfs_state::SectionVersion::CURRENT,
            max_plain: 1 << 20,
        };
        MsgPack.decode_frame(&spec, bytes)
    }

    #[test]
    fn bytes_after_the_value_are_refused() {
        let mut bytes = Vec::new();
        MsgPack.encode(&[1u64, 2], &mut bytes).unwrap();
        assert_eq!(bytes, [0x92, 1, 2]);
        assert_eq!(MsgPack.decode::<Vec<u64>>(&bytes).unwrap(), [1, 2]);
        for trailing in 0..=255 {
            let bytes = [&bytes[..], &[trailing]].concat();
            let error = MsgPack.decode::<Vec<u64>>(&bytes).unwrap_err();
            assert_eq!(error_line(&error), "bytes left over", "{trailing:#x}");
        }
    }

    #[test]
    fn structs_are_maps_and_names_are_bytes() {
        let mut bytes = Vec::new();
        MsgPack
            .encode(&sample().fs.inodes[2].location, &mut bytes)
            .unwrap();
        let expected = [
            &b"\x81\xa5Child\x82\xa6parent\x02\xa4name\xc4\x04"[..],
            b"caf\xe9",
        ]
        .concat();
        assert_eq!(bytes, expected);
    }

    #[test]
    fn fields_that_the_version_does_not_have_are_refused() {
        #[derive(Serialize)]
        struct Extended {
            id: u64,
            inode: u64,
            directory: bool,
            guest_flags: u32,
            host_flags: u32,
            offset: u64,
        }
        let mut bytes = Vec::new();
        let extended = Extended {
            id: 1,
            inode: 1,
            directory: true,
            guest_flags: 0,
            host_flags: 0,
            offset: 7,
        };
        MsgPack.encode(&extended, &mut bytes).unwrap();
        let error = MsgPack.decode::<Handle>(&bytes).unwrap_err();
        assert!(
            error_line(&error).starts_with("msgpack cannot decode it: unknown field `offset`"),
            "{}",
            error_line(&error)
        );
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        for bytes in [
            &b"\xdd\xff\xff\xff\xff"[..],
            b"\x91\xdf\xff\xff\xff\xff",
            b"\x91\x81\xdb\xff\xff\xff\xff",
        ] {
            decode_inodes(bytes).unwrap_err();
        }
        let bin = b"\xc6\xff\xff\xff\xffx";
        MsgPack.decode::<ByteBuf>(bin).unwrap_err();
    }

    #[test]
    fn deep_nesting_is_refused() {
        // An unknown field's value is skipped whatever its shape: the one place where
        // nesting could go as deep as the input likes.
        let nested = |depth: usize| [&vec![0x91; depth][..], &[0xc0]].concat();
        MsgPack
            .decode::<IgnoredAny>(&nested(MAX_DEPTH - 1))
            .unwrap();
        let error = MsgPack
            .decode::<IgnoredAny>(&nested(MAX_DEPTH + 1))
            .unwrap_err();
        assert_eq!(
            error_line(&error),
            "msgpack cannot decode it: depth limit exceeded"
        );
        MsgPack
            .decode::<IgnoredAny>(&nested(1_000_000))
            .unwrap_err();
    }

    proptest! {
        #[test]
        fn inodes_survive(state in any_state()) {
            let mut bytes = Vec::new();
            MsgPack.encode_frame(FrameRef::Inodes(&state.fs.inodes), &mut bytes).unwrap();
            let back: Vec<Inode> = MsgPack.decode(&bytes).unwrap();
            prop_assert_eq!(back, state.fs.inodes);
        }

        #[test]
        fn no_input_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_inodes(&bytes);
        }
    }
}
