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

#[cfg(test)]
mod tests {
    use super::*;
    use ferryfs_state::testing::any_state;
    use ferryfs_state::{error_line, Format, FrameRef, FrameSpec, Inode, SectionId};
    use proptest::prelude::*;

    fn decode_inodes(bytes: &[u8]) -> Result<ferryfs_state::Frame, CodecError> {
        let spec = FrameSpec {
            section: SectionId::INODES,
            version: ferryfs_state::SectionVersion::CURRENT,
            max_plain: 1 << 20,
        };
        Postcard.decode_frame(&spec, bytes)
    }

    #[test]
    fn bytes_after_the_value_are_refused() {
        let mut bytes = Vec::new();
        Postcard.encode(&[1u64, 2][..], &mut bytes).unwrap();
        assert_eq!(bytes, [2, 1, 2]);
        assert_eq!(Postcard.decode::<Vec<u64>>(&bytes).unwrap(), [1, 2]);
        bytes.push(0);
        let error = Postcard.decode::<Vec<u64>>(&bytes).unwrap_err();
        assert_eq!(error_line(&error), "1 byte(s) left over");
    }

    #[test]
    fn output_is_appended() {
        let mut bytes = vec![0xaa];
        Postcard.encode(&7u8, &mut bytes).unwrap();
        assert_eq!(bytes, [0xaa, 7]);
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        // 2^56 records, a name of 2^56 bytes, and a path of as many components.
        let huge = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01];
        for start in [&[][..], &[1, 5, 1, 1, 1, 1], &[1, 5, 1, 1, 2, 1]] {
            let bytes = [start, &huge].concat();
            let error = decode_inodes(&bytes).unwrap_err();
            assert!(
                error_line(&error).starts_with("postcard cannot decode it: "),
                "{error}"
            );
        }
    }

    #[test]
    fn more_records_than_a_frame_may_have_are_refused() {
        // Records of five bytes each, which become 80 bytes in memory.
        let n = ferryfs_state::MAX_RECORDS_PER_FRAME;
        let frame = |n: usize| {
            let mut bytes = Vec::new();
            Postcard.encode(&(n as u64), &mut bytes).unwrap();
            bytes.extend([5, 1, 1, 4, 2].repeat(n));
            bytes
        };
        decode_inodes(&frame(n)).unwrap();
        decode_inodes(&frame(n + 1)).unwrap_err();
    }

    proptest! {
        #[test]
        fn inodes_survive(state in any_state()) {
            let mut bytes = Vec::new();
            Postcard.encode_frame(FrameRef::Inodes(&state.fs.inodes), &mut bytes).unwrap();
            let back: Vec<Inode> = Postcard.decode(&bytes).unwrap();
            prop_assert_eq!(back, state.fs.inodes);
        }

        #[test]
        fn no_input_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_inodes(&bytes);
        }
    }
}
