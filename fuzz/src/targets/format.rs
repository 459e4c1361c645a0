//! One payload in one format, with no envelope. The first byte names the format, the
//! second one the section.

use ferryfs_state::{
    error_line, EnvelopeReader, Frame, FrameSpec, Limits, SectionId, SectionVersion,
};

use super::{limits, registry, streams};
use crate::random::Random;
use crate::{mutate, Target};

pub(crate) const TARGET: Target = Target {
    name: "format",
    about: "a payload in postcard, msgpack, or either of them compressed",
    run,
    seeds,
    mutate: change,
};

const FORMATS: [&str; 4] = ["postcard", "msgpack", "postcard+zstd", "msgpack+zstd"];

fn run(data: &[u8]) {
    let [format, section, payload @ ..] = data else {
        return;
    };
    let registry = registry();
    let name = FORMATS[usize::from(*format) % FORMATS.len()];
    let format = registry.get(name).expect("a format that is built in");
    let spec = FrameSpec {
        section: SectionId(u16::from(*section)),
        version: SectionVersion(1),
        max_plain: limits().frame_bytes as usize,
    };
    let decoded = format.decode_frame(&spec, payload);
    // Packed, it is the same, or refused in the same words.
    let packed = format.decode_packed(&spec, payload).map(Frame::from);
    match (&decoded, &packed) {
        (Ok(frame), Ok(packed)) => assert!(packed == frame, "{name}: another frame when packed"),
        (Err(e), Err(packed)) => assert_eq!(error_line(packed), error_line(e)),
        _ => panic!(
            "{name}: taken {}, and {} when packed",
            decoded.is_ok(),
            packed.is_ok()
        ),
    }
    let Ok(frame) = decoded else {
        return;
    };
    assert_eq!(frame.as_ref().section(), spec.section);
    // What was decoded can be said, and is then the same.
    let mut bytes = Vec::new();
    format
        .encode_frame(frame.as_ref(), &mut bytes)
        .expect("what was decoded");
    let again = format
        .decode_frame(&spec, &bytes)
        .expect("what was encoded");
    assert!(again == frame, "{name}: not what it was");
}

fn seeds() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for stream in streams() {
        let Ok(mut reader) = EnvelopeReader::open(&stream[..], &Limits::default()) else {
            continue;
        };
        let name = reader.header().format.clone();
        let Some(format) = FORMATS.iter().position(|f| *f == name) else {
            continue;
        };
        while let Ok(Some(frame)) = reader.next_frame() {
            let mut seed = vec![format as u8, frame.header.section.0 as u8];
            seed.extend(frame.payload);
            all.push(seed);
        }
    }
    all
}

fn change(input: &mut Vec<u8>, random: &mut Random) {
    let Some((head, payload)) = input.split_first_chunk::<2>() else {
        return mutate::bytes(input, random);
    };
    let head = *head;
    let compressed = head[0] % 4 >= 2 && !random.once_in(4);
    let plain = match compressed {
        true => zstd::bulk::decompress(payload, 1 << 20).ok(),
        false => None,
    };
    let mut bytes = plain.clone().unwrap_or_else(|| payload.to_vec());
    mutate::bytes(&mut bytes, random);
    if plain.is_some() {
        bytes = zstd::bulk::compress(&bytes, 1).unwrap_or_default();
    }
    *input = [&head[..], &bytes].concat();
}
