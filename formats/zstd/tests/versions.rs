//! Streams of every state version: goldens that never change, and what newer states
//! are for older readers.

mod common;

use std::path::PathBuf;

use common::{
    decode, encode, encode_as, encode_for, raw_header, raw_stream, refusal, registry, writer,
    RawFrame, FORMATS,
};
use ferryfs_format_postcard::Postcard;
use ferryfs_state::testing::{any_state, any_state_v1, sample, sample_v2, sample_v3};
use ferryfs_state::{
    read_header, write_state, write_state_with, Codec, FsState, GhostData, Request, SectionId,
    State, StateVersion, WriteOptions, WriterInfo,
};
use proptest::prelude::*;

fn fresh() -> State {
    State {
        session: None,
        fs: FsState {
            next_inode: 2,
            ..FsState::default()
        },
    }
}

/// What a daemon writes whose guest holds no locks.
fn lockless() -> State {
    let mut state = sample_v2();
    state.fs.locks.clear();
    state
}

/// What version 1 has a place for.
fn as_version_1(mut state: State) -> State {
    state.fs.file_systems.clear();
    state.fs.identities.clear();
    state.fs.ghosts.clear();
    state.fs.ghost_data.clear();
    state
}

fn version_of(stream: &[u8]) -> u32 {
    read_header(&mut &stream[..]).unwrap().state.0
}

/// The golden streams of one state version, as the release that brought it wrote
/// them. They are made once, with `FERRYFS_MAKE_GOLDENS=1`, and never again after a
/// release: a change of any byte is a change of what released daemons read and write.
fn goldens(version: u32, release: &str, states: &[(&str, State)]) {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join(format!("../../crates/state/goldens/v{version}"));
    let make = std::env::var_os("FERRYFS_MAKE_GOLDENS").is_some();
    let writer = WriterInfo::new("ferryfsd", release);
    for (name, state) in states {
        for format in FORMATS {
            let path = dir.join(format!("{name}.{format}.ferry"));
            let now = encode_as(state, format, &writer);
            if make {
                std::fs::write(&path, &now).unwrap();
            }
            let golden = std::fs::read(&path).unwrap();
            let shown = path.display();
            assert!(golden == now, "{shown} is not what is written now");
            let (header, back) = decode(&golden).unwrap();
            assert_eq!(&back, state, "{shown}");
            assert_eq!(header.writer, writer);
            assert!(header.state <= StateVersion(version), "{shown}");
            // And again from what was read, word for word.
            assert_eq!(encode_as(&back, format, &header.writer), golden);
        }
    }
    // Nothing lies there that is not looked at: streams, and the schema's dump.
    let there = std::fs::read_dir(dir).unwrap().count();
    assert_eq!(there, states.len() * FORMATS.len() + 1);
}

#[test]
fn goldens_of_version_1_are_read_and_written_byte_for_byte() {
    goldens(1, "0.1.0", &[("sample", sample()), ("fresh", fresh())]);
}

#[test]
fn goldens_of_version_2_are_read_and_written_byte_for_byte() {
    let states = [("sample", sample_v2()), ("lockless", lockless())];
    goldens(2, "0.2.0", &states);
}

#[test]
fn goldens_of_version_3_are_read_and_written_byte_for_byte() {
    goldens(3, "0.3.0", &[("sample", sample_v3())]);
}

#[test]
fn a_stream_has_the_lowest_version_that_holds_the_state() {
    for format in FORMATS {
        assert_eq!(version_of(&encode(&sample(), format)), 1);
        assert_eq!(version_of(&encode(&lockless(), format)), 1);
        assert_eq!(version_of(&encode(&sample_v2(), format)), 2);
        assert_eq!(version_of(&encode(&sample_v3(), format)), 3);
    }
}

#[test]
fn down_and_up_again_loses_what_was_reported_and_nothing_else() {
    for format in FORMATS {
        let (bytes, losses) = encode_for(&lockless(), format, 1).unwrap();
        assert_eq!(losses.0.len(), 1, "{losses}");
        let (header, back) = decode(&bytes).unwrap();
        assert_eq!(header.state, StateVersion(1));
        assert_eq!(back, sample());
        // To the byte what the older release would have written.
        assert_eq!(bytes, encode(&sample(), format));
        // Up again it is the same state, and stays a stream of version 1.
        let (again, losses) = encode_for(&back, format, 2).unwrap();
        assert!(losses.is_empty());
        assert_eq!(again, bytes);

        let error = encode_for(&sample_v2(), format, 1).unwrap_err();
        assert!(error.contains("the guest holds 4 file lock(s)"), "{error}");
    }
}

#[test]
fn nothing_is_written_of_a_state_that_cannot_go_down() {
    let mut bytes = Vec::new();
    let options = WriteOptions::for_version(1).unwrap();
    let result = write_state_with(&sample_v2(), &Postcard, &writer(), &options, &mut bytes);
    result.unwrap_err();
    assert_eq!(bytes, []);
}

#[test]
fn streams_of_the_future_can_be_made_and_are_refused() {
    let forced = WriteOptions {
        forced: Some(StateVersion(9)),
        ..WriteOptions::default()
    };
    for state in [sample(), sample_v2(), sample_v3()] {
        let mut bytes = Vec::new();
        write_state_with(&state, &Postcard, &writer(), &forced, &mut bytes).unwrap();
        assert_eq!(version_of(&bytes), 9);
        assert_eq!(
            refusal(&bytes),
            "written as state version 9 by ferryfsd 0.1.0; this reader knows up to 3: use \
             ferryfsd 0.1.0 or newer here, or write with --state-version 3 there"
        );
    }
}

#[test]
fn the_environment_forces_a_version_in_the_daemon_that_is_tested_alone() {
    // Not set here: what other tests write must not change.
    let options = WriteOptions::default().forced_by_environment();
    assert_eq!(options, WriteOptions::default());
}

/// How a release that knows no such section sees them.
#[test]
fn optional_sections_are_skipped_by_readers_that_do_not_know_them() {
    for format in FORMATS {
        let bytes = encode(&lockless(), format);
        let foreign = renumbered(&bytes, &[(6, 0x9006), (7, 0x9007)]);
        let (header, back) = decode(&foreign).unwrap();
        assert_eq!(header.state, StateVersion(1));
        assert_eq!(back, as_version_1(lockless()));
        // Locks are nothing that a reader may do without.
        let foreign = renumbered(&encode(&sample_v2(), format), &[(8, 0x9008)]);
        let error = refusal(&foreign);
        assert!(
            error.starts_with("section 36872 (unknown) at byte ")
                && error.ends_with(
                    "must be understood to go on, and is not known here; it was \
                                    written by ferryfsd 0.9.0: use ferryfsd 0.9.0 or newer here"
                ),
            "{error}"
        );
    }
}

/// The same stream, some of its sections under other numbers.
fn renumbered(stream: &[u8], numbers: &[(u16, u16)]) -> Vec<u8> {
    let header = read_header(&mut &stream[..]).unwrap();
    let mut reader =
        ferryfs_state::EnvelopeReader::open(stream, &ferryfs_state::Limits::default()).unwrap();
    let mut frames = Vec::new();
    while let Some(frame) = reader.next_frame().unwrap() {
        let number = frame.header.section.0;
        let other = numbers.iter().find(|(from, _)| *from == number);
        frames.push(RawFrame {
            section: other.map_or(number, |(_, to)| *to),
            version: frame.header.version.0,
            flags: frame.header.flags,
            reserved: 0,
            records: frame.header.records,
            payload: frame.payload.to_vec(),
        });
    }
    raw_stream(raw_header(1, header.state.0, 0, &header.format), &frames)
}

#[test]
fn a_header_that_claims_less_than_the_stream_has_is_refused() {
    let bytes = encode(&sample_v2(), "postcard");
    let mut frames = Vec::new();
    let mut reader =
        ferryfs_state::EnvelopeReader::open(&bytes[..], &ferryfs_state::Limits::default()).unwrap();
    while let Some(frame) = reader.next_frame().unwrap() {
        let mut raw = RawFrame::new(frame.header.section.0, frame.header.records, frame.payload);
        raw.flags = frame.header.flags;
        frames.push(raw);
    }
    let error = refusal(&raw_stream(raw_header(1, 1, 0, "postcard"), &frames));
    assert!(
        error.starts_with("malformed section locks at byte ")
            && error.ends_with("it came with state version 2, and the header claims version 1"),
        "{error}"
    );
    decode(&raw_stream(raw_header(1, 2, 0, "postcard"), &frames)).unwrap();
}

#[test]
fn sections_of_version_2_made_by_hand_from_the_description_are_read() {
    // Field by field as the page has them, with no struct of the library's.
    let postcard = |value: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        value(&mut out);
        out
    };
    let locks = postcard(&|out| {
        let lock = (Some(0u64), 3u64, 0x5eedu64, 0u32, true, 10u64, 19u64, 77u32);
        Postcard.encode(&[lock][..], out).unwrap();
    });
    let identities = postcard(&|out| {
        let numbers = (1u32, 12u64, Some(-5i64));
        Postcard.encode(&[(2u64, 4u32, numbers)][..], out).unwrap();
    });
    let plain = encode(&as_version_1(lockless()), "postcard");
    let mut reader =
        ferryfs_state::EnvelopeReader::open(&plain[..], &ferryfs_state::Limits::default()).unwrap();
    let mut frames = Vec::new();
    while let Some(frame) = reader.next_frame().unwrap() {
        frames.push(RawFrame::new(
            frame.header.section.0,
            frame.header.records,
            frame.payload,
        ));
    }
    let file_systems = postcard(&|out| {
        let boot: &[u8] = &[];
        let file_system = (4u32, 0x6969u64, 0u64, 49u64, boot);
        Postcard.encode(&[file_system][..], out).unwrap();
    });
    frames.push(RawFrame::new(6, 1, file_systems));
    frames.push(RawFrame::new(7, 1, identities));
    frames.push(RawFrame::new(8, 1, locks));
    let requests = postcard(&|out| Postcard.encode(&[(1u16, 40u16)][..], out).unwrap());
    frames.push(RawFrame::new(9, 1, requests));
    let (_, state) = decode(&raw_stream(raw_header(1, 2, 0, "postcard"), &frames)).unwrap();
    assert_eq!(state.fs.file_systems[0].magic, 0x6969);
    assert_eq!(state.fs.identities[0].inode, 2);
    assert_eq!(state.fs.locks[0].end, 19);
    assert_eq!(state.fs.locks[0].pid, 77);
    assert_eq!(state.fs.requests, [Request { queue: 1, head: 40 }]);
}

#[test]
fn sections_of_version_3_made_by_hand_from_the_description_are_read() {
    let plain = encode(&sample(), "postcard");
    let mut reader =
        ferryfs_state::EnvelopeReader::open(&plain[..], &ferryfs_state::Limits::default()).unwrap();
    let mut frames = Vec::new();
    while let Some(frame) = reader.next_frame().unwrap() {
        let header = frame.header;
        frames.push(RawFrame::new(
            header.section.0,
            header.records,
            frame.payload,
        ));
    }
    // The sample's lost inode is a fifo.
    let times = ((-2i64, 7u32), (1i64, 999_999_999u32));
    let target: &[u8] = &[];
    let xattrs: [(&[u8], &[u8]); 0] = [];
    let numbers = (8u64, 2u64, 77u64, 0o600u32, 1000u32, 100u32, 0u64, 0u64);
    let mut ghosts = Vec::new();
    Postcard
        .encode(
            &[(numbers, times, target, false, &xattrs[..])][..],
            &mut ghosts,
        )
        .unwrap();
    frames.push(RawFrame::new(10, 1, ghosts));
    let stream = raw_stream(raw_header(1, 3, 0, "postcard"), &frames);
    let (_, state) = decode(&stream).unwrap();
    let ghost = &state.fs.ghosts[0];
    assert_eq!((ghost.inode, ghost.directory, ghost.mode), (8, 2, 0o600));
    assert_eq!((ghost.number, ghost.uid, ghost.gid), (77, 1000, 100));
    assert_eq!(
        (ghost.accessed.seconds, ghost.accessed.nanoseconds),
        (-2, 7)
    );
    assert_eq!(ghost.modified.nanoseconds, 999_999_999);
    assert!(!ghost.linkable && ghost.xattrs.is_empty());
    let mut data = Vec::new();
    Postcard
        .encode(&[(8u64, 0u64, &b"x"[..])][..], &mut data)
        .unwrap();
    frames.push(RawFrame::new(11, 1, data));
    let error = refusal(&raw_stream(raw_header(1, 3, 0, "postcard"), &frames));
    assert!(
        error.ends_with("contents of inode 8 from byte 0: it goes beyond the file's end at byte 0"),
        "{error}"
    );
    // A reader of version 2 knows neither.
    let error = refusal(&raw_stream(raw_header(1, 2, 0, "postcard"), &frames));
    assert!(
        error.ends_with("it came with state version 3, and the header claims version 2"),
        "{error}"
    );
}

#[test]
fn requests_that_wait_go_nowhere_without_their_section() {
    let mut state = lockless();
    state.fs.requests = vec![Request { queue: 1, head: 7 }; 3];
    for format in FORMATS {
        let bytes = encode(&state, format);
        assert_eq!(version_of(&bytes), 2);
        assert_eq!(decode(&bytes).unwrap().1, state);
        let text = encode_for(&state, format, 1).unwrap_err();
        assert!(
            text.contains("the guest waits for 3 file lock(s)"),
            "{text}"
        );
    }
}

/// Contents that are more than one frame can have go in several, and come back.
#[test]
fn large_contents_take_several_frames() {
    let mut state = sample_v3();
    state.fs.ghost_data = (0..9u64)
        .map(|n| GhostData {
            inode: 9,
            offset: n << 21,
            bytes: vec![n as u8; 1 << 20].into(),
        })
        .collect();
    for format in FORMATS {
        let bytes = encode(&state, format);
        let mut reader =
            ferryfs_state::EnvelopeReader::open(&bytes[..], &ferryfs_state::Limits::default())
                .unwrap();
        let mut records = Vec::new();
        while let Some(frame) = reader.next_frame().unwrap() {
            if frame.header.section == SectionId::GHOST_DATA {
                records.push(frame.header.records);
            }
        }
        assert_eq!(records, [4, 4, 1], "{format}");
        assert_eq!(decode(&bytes).unwrap().1, state);
    }
}

proptest! {
    #[test]
    fn states_without_anything_new_are_streams_of_version_1(state in any_state_v1()) {
        for format in FORMATS {
            let bytes = encode(&state, format);
            prop_assert_eq!(version_of(&bytes), 1);
            let (older, losses) = encode_for(&state, format, 1).unwrap();
            prop_assert!(losses.is_empty());
            prop_assert_eq!(older, bytes);
        }
    }

    #[test]
    fn states_go_down_or_are_refused_and_come_back(state in any_state()) {
        let registry = registry();
        for format in FORMATS {
            match encode_for(&state, format, 1) {
                Ok((bytes, losses)) => {
                    prop_assert!(state.fs.locks.is_empty() && state.fs.requests.is_empty());
                    let fs = &state.fs;
                    prop_assert_eq!(
                        losses.is_empty(),
                        fs.identities.is_empty() && fs.ghosts.is_empty()
                    );
                    let (_, back) = decode(&bytes).unwrap();
                    prop_assert_eq!(&back, &as_version_1(state.clone()));
                    let mut again = Vec::new();
                    let format = registry.get(format).unwrap().as_ref();
                    write_state(&back, format, &writer(), &mut again).unwrap();
                    prop_assert_eq!(again, bytes);
                }
                Err(_) => {
                    let fs = &state.fs;
                    let open = |id| fs.handles.iter().any(|h| h.inode == id);
                    prop_assert!(
                        !fs.locks.is_empty()
                            || !fs.requests.is_empty()
                            || fs.ghosts.iter().any(|g| open(g.inode))
                    );
                }
            }
        }
    }
}

#[test]
fn the_sections_of_a_version_are_known_by_it() {
    let came = |n| SectionId(n).since().map(|v| v.0);
    assert_eq!([1, 2, 3, 4, 5].map(came), [Some(1); 5]);
    assert_eq!([6, 7, 8, 9].map(came), [Some(2); 4]);
    assert_eq!([10, 11].map(came), [Some(3); 2]);
    assert_eq!(came(12), None);
    assert_eq!(came(0x9000), None);
}
