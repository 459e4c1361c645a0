//! Whole streams in all four formats: they round-trip, they never change, and
//! nothing that happened to their bytes goes unnoticed.

mod common;

use common::{decode, encode, encode_for, refusal, registry, writer, FORMATS};
use ferryfs_state::testing::{any_state, large, sample, sample_v2, sample_v3};
use ferryfs_state::{
    EncodedFrame, EnvelopeReader, FrameRef, Limits, SectionId, State, StateVersion, StreamReader,
    StreamWriter,
};
use proptest::prelude::*;

/// The samples of each state version.
fn samples() -> [State; 3] {
    [sample(), sample_v2(), sample_v3()]
}

proptest! {
    #[test]
    fn arbitrary_states_survive_and_encode_to_the_same_bytes_again(state in any_state()) {
        for format in FORMATS {
            let bytes = encode(&state, format);
            let (header, back) = decode(&bytes).unwrap();
            prop_assert_eq!(&back, &state);
            prop_assert_eq!(&header.format, format);
            prop_assert_eq!(&header.writer, &writer());
            prop_assert_eq!(encode(&back, format), bytes);
        }
    }
}

#[test]
fn every_single_bit_flip_is_refused_with_its_place() {
    for (format, state) in FORMATS.into_iter().flat_map(|f| samples().map(|s| (f, s))) {
        let good = encode(&state, format);
        let mut bytes = good.clone();
        for at in 0..good.len() {
            for bit in 0..8 {
                bytes[at] ^= 1 << bit;
                let text = refusal(&bytes);
                let place = text.contains("header at byte ")
                    || text.contains("section ") && text.contains(" at byte ");
                assert!(place, "{format}, byte {at}, bit {bit}: {text}");
                bytes[at] = good[at];
            }
        }
        decode(&bytes).unwrap();
    }
}

#[test]
fn every_truncation_is_refused_with_its_place() {
    for (format, state) in FORMATS.into_iter().flat_map(|f| samples().map(|s| (f, s))) {
        let good = encode(&state, format);
        assert!(refusal(&[]).starts_with("the stream is empty (0 bytes)"));
        for length in 1..good.len() {
            let text = refusal(&good[..length]);
            assert!(
                text.starts_with("truncated in "),
                "{format} {length}: {text}"
            );
            assert!(
                text.contains(&format!(" at byte {length}:")),
                "{format} {length}: {text}"
            );
        }
    }
}

#[test]
fn every_trailing_byte_is_refused_with_its_place() {
    for (format, state) in FORMATS.into_iter().flat_map(|f| samples().map(|s| (f, s))) {
        let good = encode(&state, format);
        for trailing in 0..=255 {
            let bytes = [&good[..], &[trailing]].concat();
            assert_eq!(
                refusal(&bytes),
                format!(
                    "bytes follow section end at byte {}, where the stream must end",
                    good.len()
                )
            );
        }
        // A second stream behind the first is no better.
        assert!(refusal(&[&good[..], &good].concat()).starts_with("bytes follow section end"));
    }
}

#[test]
fn flips_in_a_large_stream_are_refused() {
    for format in FORMATS {
        let good = encode(&large(20_000), format);
        let mut bytes = good.clone();
        for at in (0..good.len()).step_by(good.len() / 100) {
            bytes[at] ^= 0x10;
            refusal(&bytes);
            bytes[at] = good[at];
        }
    }
}

#[test]
fn frames_cannot_be_left_out_swapped_or_repeated() {
    // Each frame is sound by itself; only the whole tells.
    for format in FORMATS {
        let good = encode(&large(3 * 4096 - 1), format);
        let mut cuts = Vec::new();
        let mut reader = EnvelopeReader::open(&good[..], &Limits::default()).unwrap();
        while let Some(frame) = reader.next_frame().unwrap() {
            cuts.push(frame.offset as usize);
        }
        // session, counters, inodes, inodes, inodes, handles
        assert_eq!(cuts.len(), 6);
        let frame = |n: usize| &good[cuts[n]..cuts[n + 1]];
        let head = &good[..cuts[2]];
        let tail = &good[cuts[5]..];
        let build = |frames: &[usize]| {
            let middle: Vec<_> = frames.iter().map(|&n| frame(n)).collect();
            [head, &middle.concat(), tail].concat()
        };
        assert_eq!(build(&[2, 3, 4]), good);
        for frames in [&[2, 3][..], &[2, 4, 3], &[2, 3, 3, 4], &[3, 4], &[]] {
            refusal(&build(frames));
            // Even with no format, by the envelope alone.
            let bytes = build(frames);
            let mut reader = EnvelopeReader::open(&bytes[..], &Limits::default()).unwrap();
            let end = loop {
                match reader.next_frame() {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("{format} {frames:?} went unnoticed"),
                    Err(e) => break e.to_string(),
                }
            };
            assert!(end.contains("stream checksum"), "{end}");
        }
    }
}

#[test]
fn frames_encoded_ahead_make_the_same_stream() {
    let state = large(10_000);
    for name in FORMATS {
        let registry = registry();
        let format = registry.get(name).unwrap().as_ref();
        let ahead: Vec<_> = ferryfs_state::frames(&state.fs.inodes)
            .map(|frame| EncodedFrame::new(format, frame).unwrap())
            .collect();
        let mut stream = StreamWriter::new(Vec::new(), format, &writer()).unwrap();
        stream.session(state.session.as_ref().unwrap()).unwrap();
        stream.counters(&state.fs.counters()).unwrap();
        stream.mounts(&state.fs.mounts).unwrap();
        // One for one, and the rest at once.
        let (first, rest) = ahead.split_at(1);
        for frame in first {
            stream.encoded(frame).unwrap();
        }
        stream.encoded_all(rest).unwrap();
        stream.handles(&state.fs.handles).unwrap();
        let (bytes, written) = stream.finish().unwrap();
        assert_eq!(written.bytes, bytes.len() as u64);
        assert_eq!(written.totals.inodes, 10_000);
        // Cut by number, as for older readers; see pieces.rs for those of today.
        assert_eq!(bytes, encode_for(&state, name, 1).unwrap().0);
    }
}

/// Counts how often it is written to.
#[derive(Default)]
struct Counting {
    writes: usize,
    bytes: Vec<u8>,
}

impl std::io::Write for Counting {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.writes += 1;
        self.bytes.write(buf)
    }

    fn write_vectored(&mut self, bufs: &[std::io::IoSlice<'_>]) -> std::io::Result<usize> {
        self.writes += 1;
        self.bytes.write_vectored(bufs)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn many_frames_encoded_ahead_take_few_writes() {
    let state = large(50_000);
    let registry = registry();
    let format = registry.get("postcard").unwrap().as_ref();
    let ahead: Vec<_> = ferryfs_state::frames(&state.fs.inodes)
        .map(|frame| EncodedFrame::new(format, frame).unwrap())
        .collect();
    let written = |at_once: bool| {
        let mut stream = StreamWriter::new(Counting::default(), format, &writer()).unwrap();
        match at_once {
            true => stream.encoded_all(&ahead).unwrap(),
            false => ahead.iter().for_each(|one| stream.encoded(one).unwrap()),
        }
        stream.finish().unwrap().0
    };
    let (single, at_once) = (written(false), written(true));
    assert_eq!(single.bytes, at_once.bytes);
    // The header and the end take one each.
    assert_eq!(single.writes, ahead.len() + 2);
    let most = at_once.bytes.len().div_ceil(512 << 10) + 2;
    assert!(at_once.writes <= most, "{} of {most}", at_once.writes);
    assert!(most < single.writes, "there is something to gather");
}

#[test]
fn a_writer_keeps_the_order_of_sections() {
    let state = sample();
    let registry = registry();
    let format = registry.get("postcard").unwrap().as_ref();
    let mut stream = StreamWriter::new(Vec::new(), format, &writer()).unwrap();
    stream.counters(&state.fs.counters()).unwrap();
    for (result, text) in [
        (
            stream.session(state.session.as_ref().unwrap()),
            "section session cannot be written after section counters",
        ),
        (
            stream.counters(&state.fs.counters()),
            "section counters cannot be written after section counters",
        ),
    ] {
        assert_eq!(result.unwrap_err().to_string(), text);
    }
    stream.inodes(&state.fs.inodes).unwrap();
    let error = stream.mounts(&state.fs.mounts).unwrap_err();
    assert_eq!(
        error.to_string(),
        "section mounts cannot be written after section inodes"
    );
    // Nor what its header has not announced.
    let state = sample_v2();
    stream.file_systems(&state.fs.file_systems).unwrap();
    let error = stream.locks(&state.fs.locks).unwrap_err();
    assert_eq!(
        error.to_string(),
        "section locks came with state version 2; this stream is of version 1"
    );
    let version = state.needs();
    assert_eq!(version, StateVersion(2));
    let mut stream = StreamWriter::of_version(Vec::new(), format, &writer(), version).unwrap();
    stream.counters(&state.fs.counters()).unwrap();
    stream.locks(&state.fs.locks).unwrap();
}

#[test]
fn a_state_that_no_reader_would_take_is_not_written() {
    let mut state = sample();
    state.fs.handles[0].host_flags |= 0o1000;
    let mut bytes = Vec::new();
    let registry = registry();
    let format = registry.get("postcard").unwrap().as_ref();
    let error = ferryfs_state::write_state(&state, format, &writer(), &mut bytes).unwrap_err();
    assert_eq!(
        ferryfs_state::error_line(&error),
        "refused to write a state that no reader would take: handle 0: host_flags 0o101002 has \
         bits that no open file may have: 0o1000"
    );
    assert_eq!(bytes, [], "it was refused before the first byte");
}

#[test]
fn a_stream_is_read_frame_by_frame_from_a_slow_pipe() {
    // One byte at a time, with interruptions: as bad as a pipe can be.
    struct Slow<'a>(&'a [u8], bool);
    impl std::io::Read for Slow<'_> {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(std::io::ErrorKind::Interrupted.into());
            }
            let n = buf.len().min(1);
            self.0.read(&mut buf[..n])
        }
    }
    let bytes = encode(&sample_v2(), "msgpack+zstd");
    let mut stream =
        StreamReader::open(Slow(&bytes, false), &registry(), &Limits::default()).unwrap();
    let mut sections = Vec::new();
    while let Some(frame) = stream.next_frame().unwrap() {
        sections.push((frame.as_ref().section(), frame.as_ref().records()));
    }
    assert_eq!(
        sections,
        [
            (SectionId::SESSION, 1),
            (SectionId::COUNTERS, 1),
            (SectionId::MOUNTS, 2),
            (SectionId::INODES, 6),
            (SectionId::HANDLES, 2),
            (SectionId::FILE_SYSTEMS, 2),
            (SectionId::IDENTITIES, 4),
            (SectionId::LOCKS, 4),
        ]
    );
    assert_eq!(stream.offset(), bytes.len() as u64);
    assert!(
        stream.next_frame().unwrap().is_none(),
        "the end stays the end"
    );
}

#[test]
fn many_records_become_many_frames() {
    let state = large(4096 * 2 + 1);
    let bytes = encode(&state, "postcard");
    let mut reader = EnvelopeReader::open(&bytes[..], &Limits::default()).unwrap();
    let mut inodes = Vec::new();
    while let Some(frame) = reader.next_frame().unwrap() {
        if frame.header.section == SectionId::INODES {
            inodes.push(frame.header.records);
        }
    }
    // Ids 1 to 4095, 4096 to 8191, and what is left.
    assert_eq!(inodes, [4095, 4096, 2]);
    assert_eq!(reader.totals().inodes, 4096 * 2 + 1);
    assert_eq!(decode(&bytes).unwrap().1, state);
}

#[test]
fn payloads_are_self_contained() {
    // What lets frames be decoded in parallel: any frame decodes by itself.
    let state = large(5000);
    for name in FORMATS {
        let registry = registry();
        let format = registry.get(name).unwrap();
        let mut payload = Vec::new();
        format
            .encode_frame(FrameRef::Inodes(&state.fs.inodes[4096..]), &mut payload)
            .unwrap();
        let spec = ferryfs_state::FrameSpec {
            section: SectionId::INODES,
            version: ferryfs_state::SectionVersion::CURRENT,
            max_plain: 1 << 20,
        };
        let frame = format.decode_frame(&spec, &payload).unwrap();
        assert_eq!(frame.as_ref(), FrameRef::Inodes(&state.fs.inodes[4096..]));
    }
}
