//! A stream is the same state whether its records are packed as they are decoded or not,
//! and refused in the same words, whatever is in it and whatever the format.

mod common;

use std::sync::Arc;

use common::{decode, encode, raw_header, raw_stream, registry, writer, RawFrame, FORMATS};
use ferryfs_format_msgpack::MsgPack;
use ferryfs_state::packed::PackedFrame;
use ferryfs_state::testing::{any_state, large, sample};
use ferryfs_state::{
    error_line, read_packed, write_state, CodecError, EnvelopeReader, Format, Frame, FrameRef,
    FrameSpec, Limits, Registry, SectionId, SectionVersion, State,
};
use proptest::prelude::*;

/// The frames of a stream, to be changed.
fn frames(bytes: &[u8]) -> (Vec<RawFrame>, u32) {
    let mut reader = EnvelopeReader::open(bytes, &Limits::default()).unwrap();
    let state = reader.header().state.0;
    let mut frames = Vec::new();
    while let Some(frame) = reader.next_frame().unwrap() {
        let mut raw = RawFrame::new(frame.header.section.0, frame.header.records, frame.payload);
        raw.flags = frame.header.flags;
        frames.push(raw);
    }
    (frames, state)
}

fn plain(format: &str, payload: &[u8]) -> Vec<u8> {
    match format.ends_with("+zstd") {
        true => zstd::stream::decode_all(payload).unwrap(),
        false => payload.to_vec(),
    }
}

fn sealed(format: &str, plain: &[u8]) -> Vec<u8> {
    match format.ends_with("+zstd") {
        true => zstd::bulk::compress(plain, 1).unwrap(),
        false => plain.to_vec(),
    }
}

/// What may happen to a payload.
#[derive(Clone, Debug)]
enum Change {
    Set(usize, u8),
    Insert(usize, u8),
    Remove(usize),
    Cut(usize),
    Copy(usize, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let at = 0..4000usize;
    prop_oneof![
        4 => (at.clone(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        2 => (at.clone(), 0..8u8).prop_map(|(at, byte)| Change::Set(at, byte)),
        1 => (at.clone(), any::<u8>()).prop_map(|(at, byte)| Change::Insert(at, byte)),
        1 => at.clone().prop_map(Change::Remove),
        1 => at.clone().prop_map(Change::Cut),
        1 => (at.clone(), at).prop_map(|(from, to)| Change::Copy(from, to)),
    ]
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let len = bytes.len();
        if len == 0 {
            return;
        }
        match *self {
            Change::Set(at, byte) => bytes[at % len] = byte,
            Change::Insert(at, byte) => bytes.insert(at % len, byte),
            Change::Remove(at) => {
                bytes.remove(at % len);
            }
            Change::Cut(at) => bytes.truncate(at % len),
            Change::Copy(from, to) => {
                let byte = bytes[from % len];
                bytes[to % len] = byte;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_state_is_the_same_packed(state in any_state()) {
        for format in FORMATS {
            let (_, back) = decode(&encode(&state, format)).unwrap();
            prop_assert!(back == state, "{}", format);
        }
    }

    /// Nearly all of these are refused by their payload or by what is in a record.
    #[test]
    fn any_damage_is_refused_in_the_same_words(
        state in any_state(),
        which in any::<prop::sample::Index>(),
        changes in proptest::collection::vec(change(), 1..4),
        records in proptest::option::weighted(0.1, 0..5u32),
    ) {
        for format in FORMATS {
            let (mut frames, version) = frames(&encode(&state, format));
            let which = which.index(frames.len());
            let frame = &mut frames[which];
            let mut payload = plain(format, &frame.payload);
            changes.iter().for_each(|change| change.apply(&mut payload));
            frame.payload = sealed(format, &payload);
            frame.records = records.unwrap_or(frame.records);
            // Compares the two by itself.
            let _ = decode(&raw_stream(raw_header(1, version, 0, format), &frames));
        }
    }
}

/// A format as somebody else may have written it: records, and nothing of packs.
struct Plain(MsgPack, fn(Frame) -> Frame);

impl Format for Plain {
    fn name(&self) -> &str {
        "plain"
    }
    fn encode_frame(&self, frame: FrameRef<'_>, out: &mut Vec<u8>) -> Result<(), CodecError> {
        self.0.encode_frame(frame, out)
    }
    fn decode_frame(&self, spec: &FrameSpec, payload: &[u8]) -> Result<Frame, CodecError> {
        self.0.decode_frame(spec, payload).map(self.1)
    }
}

/// One that has thought of packs, and decided against them.
struct Unpacked(Plain);

impl Format for Unpacked {
    fn name(&self) -> &str {
        self.0.name()
    }
    fn encode_frame(&self, frame: FrameRef<'_>, out: &mut Vec<u8>) -> Result<(), CodecError> {
        self.0.encode_frame(frame, out)
    }
    fn decode_frame(&self, spec: &FrameSpec, payload: &[u8]) -> Result<Frame, CodecError> {
        self.0.decode_frame(spec, payload)
    }
    fn decode_packed(&self, spec: &FrameSpec, payload: &[u8]) -> Result<PackedFrame, CodecError> {
        self.0.decode_frame(spec, payload).map(PackedFrame::Other)
    }
}

fn read_with(format: Arc<dyn Format>, state: &State) -> Result<State, String> {
    let mut bytes = Vec::new();
    write_state(state, format.as_ref(), &writer(), &mut bytes).unwrap();
    let mut registry = Registry::new();
    registry.register(format);
    read_packed(&mut &bytes[..], &registry, &Limits::default())
        .map(|(_, packed)| packed.into())
        .map_err(|e| error_line(&e))
}

#[test]
fn formats_that_do_not_pack_are_read_packed_all_the_same() {
    let plain = |change| Plain(MsgPack, change);
    for state in [sample(), large(10_000)] {
        let back = read_with(Arc::new(plain(|frame| frame)), &state);
        assert!(back.unwrap() == state);
        let back = read_with(Arc::new(Unpacked(plain(|frame| frame))), &state);
        assert!(back.unwrap() == state);
    }
    // What such a format makes up is checked as well.
    let wrong = |frame| match frame {
        Frame::Inodes(mut inodes) => {
            inodes[1].kind = 0o170000 | 7;
            Frame::Inodes(inodes)
        }
        other => other,
    };
    for format in [
        Arc::new(plain(wrong)) as Arc<dyn Format>,
        Arc::new(Unpacked(plain(wrong))),
    ] {
        let text = read_with(format, &sample()).unwrap_err();
        assert!(text.ends_with("0o170007 is no file type"), "{text}");
    }
}

/// Each record is packed from its payload: nothing else is made of a frame.
#[test]
fn the_formats_that_are_built_in_pack() {
    let state = sample();
    for format in FORMATS {
        let registry = registry();
        let format = registry.get(format).unwrap();
        for (frame, section) in [
            (FrameRef::Inodes(&state.fs.inodes), SectionId::INODES),
            (
                FrameRef::Identities(&state.fs.identities),
                SectionId::IDENTITIES,
            ),
        ] {
            let mut payload = Vec::new();
            format.encode_frame(frame, &mut payload).unwrap();
            let spec = FrameSpec {
                section,
                version: SectionVersion(1),
                max_plain: 1 << 20,
            };
            let packed = format.decode_packed(&spec, &payload).unwrap();
            assert!(!matches!(packed, PackedFrame::Other(_)));
            assert_eq!(packed.section(), section);
            assert_eq!(packed.records(), frame.records());
            assert!(Frame::from(packed).as_ref() == frame);
        }
    }
}
