//! The format by itself.

use super::*;
use ferryfs_state::testing::{large, sample};
use ferryfs_state::{error_line, read_state, write_state, Limits, State, WriterInfo};

fn encode(state: &State, format: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let registry = formats();
    let format = registry.get(format).unwrap();
    let writer = WriterInfo::new("cborfsd", "1");
    write_state(state, format.as_ref(), &writer, &mut bytes).unwrap();
    bytes
}

#[test]
fn states_survive_in_every_format_and_are_the_same_bytes_again() {
    for format in ["postcard", "cbor", "postcard+zstd", "cbor+zstd"] {
        for state in [sample(), large(10_000)] {
            let bytes = encode(&state, format);
            let limits = Limits::default();
            let (header, back) = read_state(&mut &bytes[..], &formats(), &limits).unwrap();
            assert_eq!(header.format, format);
            assert!(back == state, "{format}");
            assert_eq!(encode(&back, format), bytes);
        }
    }
}

#[test]
fn what_is_no_value_is_refused() {
    let refused = |bytes: &[u8]| error_line(&Cbor.decode::<Vec<u64>>(bytes).unwrap_err());
    assert_eq!(Cbor.decode::<Vec<u64>>(&[0x82, 1, 2]).unwrap(), [1, 2]);
    assert_eq!(refused(&[0x82, 1, 2, 0]), "1 byte(s) left over");
    // Cut off; 2^60 elements; arrays in arrays.
    for bytes in [
        &[0x82, 1][..],
        &[0x9b, 0x10, 0, 0, 0, 0, 0, 0, 0],
        &[0x81; 1_000_000],
    ] {
        let said = refused(bytes);
        assert!(said.starts_with("cbor cannot decode it: "), "{said}");
    }
}
