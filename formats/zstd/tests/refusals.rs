//! What a reader says to streams that are sound by checksum and still wrong. The
//! texts are compared as a whole: an operator acts on them.

mod common;

use common::{decode, encode, end, raw_header, raw_stream, refusal, registry, writer, RawFrame};
use ferryfs_format_postcard::Postcard;
use ferryfs_format_zstd::Zstd;
use ferryfs_state::testing::sample;
use ferryfs_state::{
    error_line, read_header, read_state, Codec, Counters, EnvelopeReader, Format, FrameRef, Handle,
    Inode, Limits, Location, Registry, StateError, StreamWriter,
};

fn header() -> Vec<u8> {
    raw_header(1, 1, 0, "postcard")
}

fn postcard<T: serde::Serialize>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    Postcard.encode(value, &mut out).unwrap();
    out
}

fn counters() -> RawFrame {
    let counters = Counters {
        next_inode: 9,
        next_handle: 9,
    };
    RawFrame::new(2, 1, postcard(&counters))
}

fn session() -> RawFrame {
    RawFrame::new(1, 1, postcard(&sample().session.unwrap()))
}

fn root() -> Inode {
    sample().fs.inodes[0].clone()
}

#[test]
fn a_stream_made_by_hand_from_the_description_is_read() {
    let inodes = RawFrame::new(4, 1, postcard(&vec![root()]));
    let bytes = raw_stream(header(), &[session(), counters(), inodes]);
    let (header, state) = decode(&bytes).unwrap();
    assert_eq!(header.writer.to_string(), "ferryfsd 0.9.0");
    assert_eq!(state.fs.inodes, [root()]);
    assert_eq!(state.fs.next_inode, 9);
}

#[test]
fn no_bytes_are_a_value_of_their_own() {
    assert!(matches!(decode(&[]), Err(StateError::Empty)));
    assert!(matches!(read_header(&mut &[][..]), Err(StateError::Empty)));
    assert_eq!(
        refusal(&[]),
        "the stream is empty (0 bytes): its writer says that it has no state of its own to hand \
         over (migration type external or none)"
    );
}

#[test]
fn other_kinds_of_streams_are_recognised() {
    for (bytes, text) in [
        (
            &b"\x01\x03\x01\x03\x00\x00\x02\x02\x01\x01\x03sub\x00"[..],
            "not a ferryfs state stream: its header at byte 0 begins with 01 03 01 03 00 00 02 \
             02 01 01 03 73; this looks like a state of virtiofsd, which has no header",
        ),
        (
            b"\x00",
            "not a ferryfs state stream: its header at byte 0 begins with 00; this looks like a \
             state of virtiofsd, which has no header",
        ),
        (
            b"QEVM\0\0\0\x03",
            "not a ferryfs state stream: its header at byte 0 begins with 51 45 56 4d 00 00 00 \
             03; this is a migration stream of QEMU's",
        ),
        (
            b"\x89FERRY\n",
            "not a ferryfs state stream: its header at byte 0 begins with 89 46 45 52 52 59 0a; \
             it is one that was transferred as text, which damages it",
        ),
        (
            b"hello",
            "not a ferryfs state stream: its header at byte 0 begins with 68 65 6c 6c 6f",
        ),
    ] {
        assert_eq!(refusal(bytes), text);
    }
}

#[test]
fn newer_versions_are_refused_with_what_would_read_them() {
    // A later container may have a longer header; its writer is still named.
    let mut later = raw_header(2, 7, 1, "postcard");
    later.truncate(later.len() - 4);
    later.extend([0xee; 10]);
    let length = later.len() as u16 + 4;
    later[10..12].copy_from_slice(&length.to_le_bytes());
    later.extend(crc32c::crc32c(&later).to_le_bytes());
    assert_eq!(
        refusal(&later),
        "written in container version 2 by ferryfsd 0.9.0; this reader knows up to 1: \
         use ferryfsd 0.9.0 or newer here"
    );

    let state_4 = raw_stream(raw_header(1, 4, 0, "postcard"), &[counters()]);
    assert_eq!(
        refusal(&state_4),
        "written as state version 4 by ferryfsd 0.9.0; this reader knows up to 3: \
         use ferryfsd 0.9.0 or newer here, or write with --state-version 3 there"
    );
    // The header itself is readable all the same.
    assert_eq!(read_header(&mut &state_4[..]).unwrap().state.0, 4);

    let mut frame = counters();
    frame.version = 2;
    assert_eq!(
        refusal(&raw_stream(header(), &[frame])),
        "section counters is in version 2, written by ferryfsd 0.9.0; this reader knows up to \
         1: use ferryfsd 0.9.0 or newer here"
    );
    let mut frame = counters();
    frame.version = 0;
    assert_eq!(
        refusal(&raw_stream(header(), &[frame])),
        "section version 0 never existed (written by ferryfsd 0.9.0)"
    );
}

#[test]
fn a_format_that_is_not_built_in_is_named() {
    let bytes = raw_stream(raw_header(1, 1, 0, "cbor"), &[counters()]);
    assert_eq!(
        refusal(&bytes),
        "the state format \"cbor\" is not built in here; built in: postcard, msgpack, \
         postcard+zstd, msgpack+zstd; let ferryfsd 0.9.0 write another one (--state-format)"
    );
    let bare = Registry::new();
    let error = read_state(&mut &bytes[..], &bare, &Limits::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the state format \"cbor\" is not built in here; built in: none; let ferryfsd 0.9.0 \
         write another one (--state-format)"
    );
}

#[test]
fn headers_that_cannot_be_are_refused() {
    for (bytes, text) in [
        (
            raw_header(1, 1, 0, "post card"),
            "malformed header at byte 24: \"post card\" cannot name a state format",
        ),
        (
            raw_header(1, 1, 0, ""),
            "malformed header at byte 24: \"\" cannot name a state format",
        ),
        (
            raw_header(1, 1, 0, "line\nfeed"),
            "malformed header at byte 24: a format name is not printable ASCII",
        ),
        (
            raw_header(1, 1, 0, &"x".repeat(33)),
            "malformed header at byte 20: a format name of 33 bytes cannot be",
        ),
        (
            raw_header(1, 1, 0x10, "postcard"),
            "malformed header at byte 12: flags 0x00000010 and reserved byte 0x00 must be 0",
        ),
        (
            raw_header(1, 0, 0, "postcard"),
            "state version 0 never existed (written by ferryfsd 0.9.0)",
        ),
        (
            b"\x89FERRY\r\n\x01\x00\xff\xff".to_vec(),
            "malformed header at byte 10: a header of 65535 bytes cannot be",
        ),
    ] {
        assert_eq!(refusal(&raw_stream(bytes, &[counters()])), text);
    }
}

#[test]
fn unknown_sections_are_refused_or_skipped_as_they_ask() {
    let unknown = |flags| {
        let mut frame = RawFrame::new(0x8001, 3, "anything");
        frame.flags = flags;
        raw_stream(header(), &[counters(), frame])
    };
    assert_eq!(
        refusal(&unknown(1)),
        "section 32769 (unknown) at byte 71 must be understood to go on, and is not known here; \
         it was written by ferryfsd 0.9.0: use ferryfsd 0.9.0 or newer here"
    );
    assert_eq!(decode(&unknown(0)).unwrap().1.fs.next_inode, 9);
    assert_eq!(
        refusal(&unknown(2)),
        "malformed section 32769 (unknown) at byte 71: flags 0x0002 or reserved field 0x0000 are \
         not known"
    );
}

#[test]
fn frames_in_the_wrong_place_or_number_are_refused() {
    let bad = |frames: &[RawFrame]| refusal(&raw_stream(header(), frames));
    assert_eq!(
        bad(&[counters(), session()]),
        "malformed section session at byte 71: it must not come after section counters"
    );
    assert_eq!(
        bad(&[counters(), counters()]),
        "malformed section counters at byte 71: it must not come after section counters"
    );
    assert_eq!(
        bad(&[]),
        "malformed section end at byte 97: the stream has no section counters"
    );
    let mut reserved = counters();
    reserved.reserved = 9;
    assert_eq!(
        bad(&[reserved]),
        "malformed section counters at byte 49: flags 0x0001 or reserved field 0x0009 are not \
         known"
    );
    let two = RawFrame::new(4, 2, postcard(&vec![root()]));
    assert_eq!(
        bad(&[counters(), two]),
        "malformed section inodes at byte 71: its header counts 2 record(s), its payload has 1"
    );
    let none = RawFrame::new(4, 0, postcard(&Vec::<Inode>::new()));
    assert_eq!(
        bad(&[counters(), none]),
        "malformed section inodes at byte 71: its header counts 0 record(s), its payload has 0"
    );
    let many = RawFrame::new(4, 65537, "");
    assert_eq!(
        bad(&[counters(), many]),
        "section inodes at byte 71: a number of records of 65537 is beyond the limit of 65536"
    );
}

#[test]
fn payloads_that_do_not_decode_are_refused() {
    let mut long = counters();
    long.payload.push(0);
    assert_eq!(
        refusal(&raw_stream(header(), &[long])),
        "failed to decode section counters at byte 49 as postcard: 1 byte(s) left over"
    );
    let mut short = counters();
    short.payload.pop();
    assert_eq!(
        refusal(&raw_stream(header(), &[short])),
        "failed to decode section counters at byte 49 as postcard: postcard cannot decode it: \
         Hit the end of buffer, expected more data"
    );
}

#[test]
fn a_payload_that_decompresses_beyond_the_limit_is_refused() {
    let zeros = vec![0; (64 << 20) + 1];
    let bomb = RawFrame::new(4, 1, zstd::bulk::compress(&zeros, 1).unwrap());
    assert!(bomb.payload.len() < 16 << 10);
    let format = Zstd::new(Postcard);
    let counters = Counters {
        next_inode: 9,
        next_handle: 9,
    };
    let mut payload = Vec::new();
    format
        .encode_frame(FrameRef::Counters(&counters), &mut payload)
        .unwrap();
    let frames = [RawFrame::new(2, 1, payload), bomb];
    let header = raw_header(1, 1, 0, "postcard+zstd");
    let at = header.len() + frames[0].bytes().len();
    assert_eq!(
        refusal(&raw_stream(header, &frames)),
        format!(
            "failed to decode section inodes at byte {at} as postcard+zstd: it decompresses to \
             more than the limit of 67108864 bytes"
        )
    );
}

#[test]
fn invalid_records_are_refused_with_section_and_place() {
    let evil = Inode {
        id: 3,
        lookups: 1,
        kind: 0o100000,
        location: Location::Child {
            parent: 1,
            name: "../secret".as_bytes().to_vec().into(),
        },
    };
    let frame = RawFrame::new(4, 2, postcard(&vec![root(), evil]));
    assert_eq!(
        refusal(&raw_stream(header(), &[counters(), frame])),
        "refused section inodes at byte 71: inode 3: \"../secret\" is no name: it contains a slash"
    );

    // The second of two frames begins with an id of the first.
    let frames = [
        session(),
        counters(),
        RawFrame::new(4, 1, postcard(&vec![root()])),
        RawFrame::new(4, 1, postcard(&vec![root()])),
    ];
    let at = 49 + frames[..3].iter().map(|f| f.bytes().len()).sum::<usize>();
    assert_eq!(
        refusal(&raw_stream(header(), &frames)),
        format!("refused section inodes at byte {at}: inode 1: the id is used twice")
    );

    let handle = Handle {
        id: 1,
        inode: 5,
        directory: false,
        guest_flags: 0,
        host_flags: 0,
    };
    let frames = [
        session(),
        counters(),
        RawFrame::new(4, 1, postcard(&vec![root()])),
        RawFrame::new(5, 1, postcard(&vec![handle])),
    ];
    assert_eq!(
        refusal(&raw_stream(header(), &frames)),
        "the state contradicts itself: handle 1: its inode 5 is not in the stream"
    );
}

#[test]
fn an_end_frame_that_counts_wrong_is_refused() {
    let mut bytes = header();
    bytes.extend(counters().bytes());
    let bytes = end(bytes, [1, 5, 0]);
    assert_eq!(
        refusal(&bytes),
        "malformed section end at byte 71: it counts 1 frames, 5 inodes, 0 handles, but 1, 0, 0 \
         came"
    );
}

#[test]
fn lengths_beyond_the_limits_are_refused_before_the_bytes_come() {
    // A frame that claims 4 GiB, in a stream that has not a byte of it.
    let mut bytes = header();
    let mut frame = counters().bytes();
    frame[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    bytes.extend(&frame[..16]);
    assert_eq!(
        refusal(&bytes),
        "section counters at byte 49: a frame length in bytes of 4294967295 is beyond the limit \
         of 67108864"
    );
    // Just within the limit it is merely truncated.
    bytes[49 + 12..].copy_from_slice(&(64u32 << 20).to_le_bytes());
    assert_eq!(
        refusal(&bytes),
        "truncated in section counters at byte 65: 67108868 more byte(s) must follow there"
    );

    let good = encode(&sample(), "postcard");
    let limits = Limits {
        stream_bytes: 100,
        ..Limits::default()
    };
    let error = read_state(&mut &good[..], &registry(), &limits).unwrap_err();
    assert_eq!(
        error.to_string(),
        "section counters at byte 92: a stream length in bytes of 114 is beyond the limit of 100"
    );
    let limits = Limits {
        frame_bytes: 10,
        ..Limits::default()
    };
    let error = EnvelopeReader::open(&good[..], &limits)
        .unwrap()
        .next_frame()
        .unwrap_err();
    assert!(
        error.to_string().contains("beyond the limit of 10"),
        "{error}"
    );
}

#[test]
fn damage_is_told_with_the_remedy() {
    let good = encode(&sample(), "postcard");
    let mut bytes = good.clone();
    bytes[70] ^= 1;
    let text = refusal(&bytes);
    assert!(
        text.starts_with("damaged section session at byte 49: frame checksum is ")
            && text.ends_with("; transfer the stream again"),
        "{text}"
    );
    let mut bytes = good;
    bytes[30] ^= 1;
    let text = refusal(&bytes);
    assert!(
        text.starts_with("damaged header at byte 0: header checksum is "),
        "{text}"
    );
}

#[test]
fn a_stream_that_was_never_finished_is_refused() {
    let registry = registry();
    let format = registry.get("postcard").unwrap().as_ref();
    let mut bytes = Vec::new();
    let mut stream = StreamWriter::new(&mut bytes, format, &writer()).unwrap();
    stream.counters(&sample().fs.counters()).unwrap();
    drop(stream);
    assert_eq!(
        refusal(&bytes),
        "truncated in section end at byte 71: 48 more byte(s) must follow there"
    );
}

#[test]
fn a_channel_that_fails_is_told_with_its_cause() {
    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("the pipe burst"))
        }
    }
    impl std::io::Write for Broken {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("the pipe burst"))
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let read = read_state(&mut Broken, &registry(), &Limits::default()).unwrap_err();
    let registry = registry();
    let format = registry.get("postcard").unwrap().as_ref();
    let written =
        ferryfs_state::write_state(&sample(), format, &writer(), &mut Broken).unwrap_err();
    for error in [read, written] {
        assert_eq!(
            error_line(&error),
            "the state channel failed: the pipe burst"
        );
    }
}
