//! Memory stays within bounds, whatever is written and whatever a stream says.
//! Counted by an allocator of this program's own, so all of it is one test.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{encode, raw_header, raw_stream, registry, writer, RawFrame, FORMATS};
use ferryfs_format_msgpack::MsgPack;
use ferryfs_format_postcard::Postcard;
use ferryfs_state::testing::large;
use ferryfs_state::{
    error_line, read_packed_on_threads, read_state_on_threads, write_state_on_threads, Codec,
    Counters, Limits, State, WriteOptions,
};
use serde::Serialize;

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn more(bytes: usize) {
    let now = NOW.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(now, Ordering::Relaxed);
}

fn less(bytes: usize) {
    NOW.fetch_sub(bytes, Ordering::Relaxed);
}

// SAFETY: everything is the system allocator's; this only counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        // SAFETY: as the caller has promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        less(layout.size());
        // SAFETY: as the caller has promised.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        // SAFETY: as the caller has promised.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Large pieces are moved by the kernel, without a second copy.
        more(size.saturating_sub(layout.size()));
        less(layout.size().saturating_sub(size));
        // SAFETY: as the caller has promised.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `act` answers, and the most memory that it had at a time beyond what was
/// there before, in bytes.
fn measured<T>(act: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let answer = act();
    (answer, PEAK.load(Ordering::Relaxed) - before)
}

const MIB: usize = 1 << 20;
const THREADS: usize = 4;

/// What the links of an inode are checked with: its place by its id, its parent's.
const LINKS: usize = 8;

/// A packed inode of the state below: its id, where its record ends, and the record, which
/// is a few bytes and a name.
const PACKED: usize = 8 + 4 + 20;

/// Most that one legitimate frame needs for a moment, with its buffers.
const FRAME: usize = 2 * MIB;

fn nothing_is_held_twice(inodes: u64) {
    let (state, records) = measured(|| large(inodes));
    for format in FORMATS {
        let registry = registry();
        let by_name = registry.get(format).unwrap();
        let mut out = Counted(0);
        let (_, peak) = measured(|| {
            write_state_on_threads(
                THREADS,
                &state,
                by_name.as_ref(),
                &writer(),
                &WriteOptions::default(),
                &mut out,
            )
            .unwrap();
        });
        let bound = inodes as usize * LINKS + (2 * THREADS + 1) * FRAME;
        assert!(peak < bound, "{format}: {peak} to write, not {bound}");

        let bytes = encode(&state, format);
        let ((), peak) = measured(|| {
            let back =
                read_state_on_threads(THREADS, &mut &bytes[..], &registry, &Limits::default());
            drop(back.unwrap());
        });
        let beside = bound;
        let bound = records + beside;
        assert!(peak < bound, "{format}: {peak} to read, not {bound}");

        let (packed, peak) = measured(|| {
            let limits = Limits::default();
            let back = read_packed_on_threads(THREADS, &mut &bytes[..], &registry, &limits);
            back.unwrap()
        });
        let bound = inodes as usize * PACKED + beside;
        assert!(peak < bound, "{format}: {peak} to read packed, not {bound}");
        drop(packed);
    }
}

struct Counted(usize);

impl Write for Counted {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0 += buf.len();
        Ok(buf.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn encoded<T: Serialize + ?Sized>(codec: &impl Codec, value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    codec.encode(value, &mut out).unwrap();
    out
}

/// A payload of `codec` with `claim` records at its start and `rest` behind that.
fn claiming(claim: u64, rest: &[u8]) -> Vec<u8> {
    [&encoded(&Postcard, &claim), rest].concat()
}

/// Reads `bytes`, which must be refused, with no more memory than `bound` for it.
fn refused_within(what: &str, bytes: &[u8], limits: &Limits, bound: usize) {
    for threads in [0, THREADS] {
        let (text, peak) = measured(|| {
            let read = read_state_on_threads(threads, &mut &bytes[..], &registry(), limits);
            error_line(&read.map(drop).expect_err(what))
        });
        assert!(
            peak < bound,
            "{what}: {peak} bytes, not {bound}, to say: {text}"
        );
        let (packed, peak) = measured(|| {
            let read = read_packed_on_threads(threads, &mut &bytes[..], &registry(), limits);
            error_line(&read.map(drop).expect_err(what))
        });
        assert!(peak < bound, "{what}, packed: {peak} bytes, not {bound}");
        assert_eq!(packed, text);
    }
}

/// `frames` of the same payload of inodes, behind counters.
fn stream(format: &str, records: u32, payload: &[u8], frames: usize) -> Vec<u8> {
    let counters = Counters {
        next_inode: 1 << 40,
        next_handle: 9,
    };
    let counters = match format.starts_with("postcard") {
        true => encoded(&Postcard, &counters),
        false => encoded(&MsgPack, &counters),
    };
    let compress = |bytes: &[u8]| match format.ends_with("+zstd") {
        true => zstd::bulk::compress(bytes, 1).unwrap(),
        false => bytes.to_vec(),
    };
    let mut all = vec![RawFrame::new(2, 1, compress(&counters))];
    let payload = compress(payload);
    all.extend((0..frames).map(|_| RawFrame::new(4, records, payload.clone())));
    raw_stream(raw_header(1, 1, 0, format), &all)
}

fn claims_are_not_believed() {
    let limits = Limits::default();
    // Of a frame's length, with nothing behind it.
    let mut bytes = stream("postcard", 1, &[], 1);
    let frame = bytes.len() - 48 - 20;
    bytes[frame + 12..frame + 16].copy_from_slice(&(64u32 << 20).to_le_bytes());
    refused_within("a length", &bytes, &limits, MIB);
    // Of records, and of a name, a path and a file handle.
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    for (what, payload) in [
        ("records", claiming(65_536, &[])),
        ("too many records", huge.to_vec()),
        (
            "a name",
            claiming(1, &[&[1, 1, 1, 1, 1][..], &huge].concat()),
        ),
        (
            "a path",
            claiming(1, &[&[1, 1, 1, 2, 1][..], &huge].concat()),
        ),
        (
            "a handle",
            claiming(1, &[&[1, 1, 1, 3, 1, 1][..], &huge].concat()),
        ),
    ] {
        for format in ["postcard", "postcard+zstd"] {
            let bytes = stream(format, 65_536, &payload, 1);
            refused_within(what, &bytes, &limits, 2 * MIB);
        }
    }
    for payload in [
        &b"\xdd\x00\x01\x00\x00"[..],
        b"\x91\x84\xa2id\xc6\xff\xff\xff\xff",
        b"\x91\xdf\xff\xff\xff\xff",
    ] {
        for format in ["msgpack", "msgpack+zstd"] {
            let bytes = stream(format, 65_536, payload, 1);
            refused_within("msgpack", &bytes, &limits, 2 * MIB);
        }
    }
}

/// Frames of some kilobytes that would be gigabytes.
fn bombs_do_not_go_off() {
    let limits = Limits::default();
    // What the largest payload takes up, with the buffer that it grows in.
    const LARGEST: usize = 2 * (64 * MIB) + FRAME;

    let zeros = vec![0; 64 * MIB + 1];
    let bytes = stream("postcard+zstd", 1, &zeros, 1);
    refused_within("zeros", &bytes, &limits, LARGEST);

    // Paths of empty components, which are a byte here and 24 in memory.
    let depth = 65_536;
    let path = [
        &[1, 1, 1, 2, 1][..],
        &encoded(&Postcard, &depth),
        &vec![0; depth],
    ]
    .concat();
    let paths = claiming(900, &path.repeat(900));
    assert!(paths.len() < 64 * MIB);
    let bytes = stream("postcard+zstd", 900, &paths, 1);
    assert!(bytes.len() < 16 << 10);
    refused_within("paths", &bytes, &limits, LARGEST + 64 * MIB);

    // All threads have one in their hands, and the queue is full of them.
    let many = stream("postcard+zstd", 900, &paths, 40);
    refused_within("many paths", &many, &limits, LARGEST + 64 * MIB);

    // Frames that are sound, so that many come to be decoded at a time.
    let names = |from: u64| {
        let mut payload = encoded(&Postcard, &65_536u64);
        for id in from..from + 65_536 {
            payload.extend(encoded(&Postcard, &id));
            payload.extend([1, 0x80, 0x80, 2, 1, 1, 0xff, 1]);
            payload.extend([b'n'; 255]);
        }
        payload
    };
    let mut frames = Vec::new();
    for n in 0..12u64 {
        let payload = zstd::bulk::compress(&names(2 + n * 65_536), 1).unwrap();
        frames.push(RawFrame::new(4, 65_536, payload));
    }
    let counters = encoded(
        &Postcard,
        &Counters {
            next_inode: 1 << 40,
            next_handle: 0,
        },
    );
    frames.insert(
        0,
        RawFrame::new(2, 1, zstd::bulk::compress(&counters, 1).unwrap()),
    );
    let bytes = raw_stream(raw_header(1, 1, 0, "postcard+zstd"), &frames);
    let limits = Limits {
        memory_bytes: 64 << 20,
        ..limits
    };
    // Each frame: the plain payload in its buffer, and its records.
    let frame = 2 * 17 * MIB + 22 * MIB;
    refused_within(
        "names",
        &bytes,
        &limits,
        64 * MIB + (2 * THREADS + 1) * frame,
    );
}

/// A stream that never ends is read no further than its limit.
fn an_endless_stream_is_given_up() {
    struct Endless(Vec<u8>, usize);
    impl Read for Endless {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            let n = buf.len().min(self.0.len() - self.1);
            buf[..n].copy_from_slice(&self.0[self.1..self.1 + n]);
            self.1 += n;
            if self.1 == self.0.len() {
                // The same optional frame again.
                self.1 -= 16 + 4096 + 4;
            }
            Ok(n)
        }
    }
    let mut frame = RawFrame::new(0x8001, 1, vec![7; 4096]);
    frame.flags = 0;
    let bytes = [raw_header(1, 1, 0, "postcard"), frame.bytes()].concat();
    let limits = Limits {
        stream_bytes: 32 << 20,
        ..Limits::default()
    };
    let (text, peak) = measured(|| {
        let mut endless = Endless(bytes, 0);
        let read: Result<(_, State), _> =
            read_state_on_threads(THREADS, &mut endless, &registry(), &limits);
        error_line(&read.map(drop).unwrap_err())
    });
    assert!(text.contains("is beyond the limit of 33554432"), "{text}");
    assert!(peak < MIB, "{peak}");
}

#[test]
fn memory_stays_within_bounds() {
    nothing_is_held_twice(200_000);
    claims_are_not_believed();
    bombs_do_not_go_off();
    an_endless_stream_is_given_up();
}
