//! Many frames are encoded and decoded on several threads. Nobody can tell: bytes,
//! states and refusals are those of one thread.

mod common;

use std::io::Write;

use common::{encode, registry, writer, FORMATS};
use ferryfs_state::testing::large;
use ferryfs_state::{
    error_line, read_packed_on_threads, read_state_on_threads, write_state_on_threads,
    EnvelopeReader, Inode, Limits, Location, State, WriteOptions,
};

const THREADS: [usize; 4] = [0, 1, 2, 4];

/// 15 frames of inodes.
const INODES: u64 = 60_000;

fn encode_with(state: &State, format: &str, threads: usize) -> Vec<u8> {
    let registry = registry();
    let format = registry.get(format).unwrap();
    let mut out = Vec::new();
    write_state_on_threads(
        threads,
        state,
        format.as_ref(),
        &writer(),
        &WriteOptions::default(),
        &mut out,
    )
    .unwrap();
    out
}

fn decode_with(bytes: &[u8], limits: &Limits, threads: usize) -> Result<State, String> {
    let read = read_state_on_threads(threads, &mut &*bytes, &registry(), limits)
        .map(|(_, state)| state)
        .map_err(|e| error_line(&e));
    let packed = read_packed_on_threads(threads, &mut &*bytes, &registry(), limits)
        .map(|(_, state)| State::from(state))
        .map_err(|e| error_line(&e));
    assert!(packed == read, "packed, it is another: {:?}", packed.err());
    read
}

/// What the reader says to `bytes`, on any number of threads.
fn refusal(bytes: &[u8], limits: &Limits) -> String {
    let texts = THREADS.map(|threads| {
        decode_with(bytes, limits, threads)
            .map(drop)
            .expect_err("it must be refused")
    });
    texts.iter().for_each(|text| assert_eq!(*text, texts[0]));
    texts[0].clone()
}

/// Where each frame of `bytes` begins, the end frame included.
fn offsets(bytes: &[u8]) -> Vec<usize> {
    let mut offsets = Vec::new();
    let mut reader = EnvelopeReader::open(bytes, &Limits::default()).unwrap();
    let mut next = reader.offset();
    while reader.next_frame().unwrap().is_some() {
        offsets.push(next as usize);
        next = reader.offset();
    }
    offsets.push(next as usize - 48);
    offsets
}

#[test]
fn the_same_bytes_and_the_same_state() {
    let state = large(INODES);
    for format in FORMATS {
        let bytes = encode(&state, format);
        for threads in THREADS {
            assert!(encode_with(&state, format, threads) == bytes, "{format}");
            let back = decode_with(&bytes, &Limits::default(), threads).unwrap();
            assert!(back == state, "{format}, {threads} threads");
        }
    }
}

#[test]
fn the_first_thing_that_is_wrong_is_what_is_told() {
    for format in ["postcard", "msgpack+zstd"] {
        let good = encode(&large(INODES), format);
        let offsets = offsets(&good);
        // Damage in frame 11 and, behind it, in 12, 13 and at the end.
        let mut bytes = good.clone();
        for frame in [11, 12, 13, 17] {
            bytes[offsets[frame] + 20] ^= 1;
        }
        let text = refusal(&bytes, &Limits::default());
        let place = format!("damaged section inodes at byte {}:", offsets[11]);
        assert!(text.starts_with(&place), "{text}");
        // A frame that is cut off, and one that is there twice.
        let text = refusal(&good[..offsets[12] + 100], &Limits::default());
        assert!(text.starts_with("truncated in section inodes"), "{text}");
        let twice = [&good[..offsets[12]], &good[offsets[11]..]].concat();
        let text = refusal(&twice, &Limits::default());
        // Frames end below a multiple of 4096.
        assert!(text.ends_with("it comes after 40959"), "{text}");
    }
}

/// A stream of a state that `write_state` would refuse.
fn unchecked(state: &State) -> Vec<u8> {
    use common::{end, RawFrame};
    use ferryfs_format_postcard::Postcard;
    use ferryfs_state::{frames, Format, FrameRef};

    let mut bytes = common::raw_header(1, 1, 0, "postcard");
    let counters = state.fs.counters();
    let all = [
        FrameRef::Session(state.session.as_ref().unwrap()),
        FrameRef::Counters(&counters),
    ]
    .into_iter()
    .chain(frames(&state.fs.inodes))
    .chain(frames(&state.fs.handles));
    let mut count = 0;
    for frame in all {
        let mut payload = Vec::new();
        Postcard.encode_frame(frame, &mut payload).unwrap();
        let raw = RawFrame::new(frame.section().0, frame.records() as u32, payload);
        bytes.extend(raw.bytes());
        count += 1;
    }
    let (inodes, handles) = (state.fs.inodes.len() as u64, state.fs.handles.len() as u64);
    end(bytes, [count, inodes, handles])
}

#[test]
fn what_is_wrong_within_and_between_frames_is_told_alike() {
    let name = |inode: &mut Inode, name: &[u8]| {
        inode.location = Location::Child {
            parent: 1,
            name: name.to_vec().into(),
        };
    };
    let frame = ferryfs_state::RECORDS_PER_FRAME;
    let refused = |change: &dyn Fn(&mut State), text: &str| {
        let mut state = large(INODES);
        change(&mut state);
        let said = refusal(&unchecked(&state), &Limits::default());
        assert!(said.ends_with(text), "{said}");
    };
    // Two wrong records, the first one in a later frame than eight.
    refused(
        &|s| {
            name(&mut s.fs.inodes[10 * frame + 5], b"a/b");
            name(&mut s.fs.inodes[12 * frame], b"..");
        },
        "inode 40966: \"a/b\" is no name: it contains a slash",
    );
    // Wrong by itself, but before that, wrong with the frame before.
    refused(
        &|s| {
            s.fs.inodes[11 * frame].id = 7;
            name(&mut s.fs.inodes[11 * frame + 1], b"a/b");
        },
        "inode 7: not in ascending order: it comes after 45056",
    );
    refused(
        &|s| s.fs.next_inode = 50_000,
        "counters: next_inode is 50000, but must be above 53248 and below 2^63",
    );
    refused(
        &|s| s.fs.next_handle = 17,
        "counters: next_handle is 17, but must be above 599 and below 2^63",
    );
    refused(
        &|s| s.fs.handles[100].host_flags |= 0o100,
        "handle 100: host_flags 0o100102 has bits that no open file may have: 0o100",
    );
}

#[test]
fn limits_are_kept_alike() {
    let bytes = encode(&large(INODES), "postcard+zstd");
    for (limits, text) in [
        (
            Limits {
                inodes: 50_000,
                ..Limits::default()
            },
            "inode 50001: more than 50000 records",
        ),
        (
            Limits {
                handles: 100,
                ..Limits::default()
            },
            "handle 100: more than 100 records",
        ),
        (
            Limits {
                memory_bytes: 5_000_000,
                ..Limits::default()
            },
            "is beyond the limit of 5000000",
        ),
    ] {
        let said = refusal(&bytes, &limits);
        assert!(said.ends_with(text), "{said}");
    }
}

#[test]
fn a_channel_that_fails_ends_a_write_on_threads() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
            self.0 = self
                .0
                .checked_sub(buf.len())
                .ok_or_else(|| std::io::Error::other("no room"))?;
            Ok(buf.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let state = large(INODES);
    let registry = registry();
    let format = registry.get("postcard").unwrap();
    for threads in THREADS {
        let mut out = Full(1_200_000);
        let error = write_state_on_threads(
            threads,
            &state,
            format.as_ref(),
            &writer(),
            &WriteOptions::default(),
            &mut out,
        )
        .unwrap_err();
        assert_eq!(error_line(&error), "the state channel failed: no room");
    }
}
