//! Requests in real descriptor chains in guest memory, against real files.

use std::fs::File;
use std::os::fd::AsFd;

use virtio_queue::desc::{split::Descriptor, RawDescriptor};
use virtio_queue::mock::MockSplitQueue;
use vm_memory::bitmap::{AtomicBitmap, Bitmap};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap, GuestMemoryRegion};

use super::*;

type Memory = GuestMemoryMmap<AtomicBitmap>;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const PAGE: u64 = 4096;
/// Two regions with a hole between them.
const REGIONS: [(u64, usize); 2] = [(0, 8 << 20), (16 << 20, 1 << 20)];
/// Requests begin above the queue.
const REQUEST: u64 = 1 << 20;
const REPLY: u64 = 2 << 20;

fn memory() -> Memory {
    let regions: Vec<_> = REGIONS
        .iter()
        .map(|&(start, len)| (GuestAddress(start), len))
        .collect();
    Memory::from_ranges(&regions).unwrap()
}

fn readable(addr: u64, len: usize) -> RawDescriptor {
    Descriptor::new(addr, len as u32, 0, 0).into()
}

fn writable(addr: u64, len: usize) -> RawDescriptor {
    Descriptor::new(addr, len as u32, WRITE, 0).into()
}

/// Calls `with` with a chain of `descriptors`, linked one to the next.
fn chain<T>(
    mem: &Memory,
    descriptors: &[RawDescriptor],
    with: impl FnOnce(DescriptorChain<&Memory>) -> T,
) -> T {
    let size = descriptors.len().next_power_of_two().max(4) as u16;
    let queue = MockSplitQueue::new(mem, size);
    with(queue.build_desc_chain(descriptors).unwrap())
}

fn dirty_pages(mem: &Memory) -> Vec<u64> {
    let mut pages = Vec::new();
    for region in mem.iter() {
        let start = region.start_addr().0;
        for page in 0..region.len() / PAGE {
            if region.bitmap().dirty_at((page * PAGE) as usize) {
                pages.push((start + page * PAGE) / PAGE);
            }
        }
    }
    pages
}

fn clean(mem: &Memory) {
    mem.iter()
        .for_each(|region| region.deref().bitmap().reset());
}

fn file_of(contents: &[u8]) -> File {
    let file = tempfile::tempfile().unwrap();
    rustix::io::pwrite(&file, contents, 0).unwrap();
    file
}

fn contents_of(file: &File) -> Vec<u8> {
    let mut contents = vec![0; file.metadata().unwrap().len() as usize];
    rustix::io::pread(file, &mut contents, 0).unwrap();
    contents
}

fn header(len: u32) -> [u8; 16] {
    let mut header = [0x55; 16];
    header[..4].copy_from_slice(&len.to_ne_bytes());
    header
}

#[test]
fn bytes_are_read_across_descriptors_and_each_once() {
    let mem = memory();
    mem.write_slice(b"abc", GuestAddress(REQUEST)).unwrap();
    mem.write_slice(b"defgh", GuestAddress(16 << 20)).unwrap();
    let descriptors = [
        readable(REQUEST, 3),
        readable(REQUEST, 0),
        readable(16 << 20, 5),
        writable(REPLY, 20),
    ];
    chain(&mem, &descriptors, |chain| {
        let mut io = ChainIo::<()>::new(&mem, chain).unwrap();
        let reader = io.reader();
        assert_eq!(reader.remaining(), 8);
        let mut buf = [0; 4];
        reader.read_exact(&mut buf).unwrap();
        assert_eq!(&buf, b"abcd");
        assert_eq!(reader.remaining(), 4);
        let error = reader.read_exact(&mut [0; 5]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(reader.remaining(), 4);
        reader.read_exact(&mut buf).unwrap();
        assert_eq!(&buf, b"efgh");
        assert_eq!(io.body().remaining(), 4);
    });
}

#[test]
fn a_reply_lies_behind_its_header_and_marks_what_it_touches() {
    let mem = memory();
    // The header straddles two descriptors, and the body begins in the second.
    let descriptors = [
        readable(REQUEST, 40),
        writable(REPLY, 10),
        writable(REPLY + PAGE, 10),
        writable(REPLY + 2 * PAGE, 4),
    ];
    chain(&mem, &descriptors, |chain| {
        clean(&mem);
        let mut io = ChainIo::<()>::new(&mem, chain).unwrap();
        assert!(io.can_reply());
        assert_eq!(io.body().remaining(), 8);
        let error = io.body().write_all(&[0; 9]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
        io.body().write_all(b"bod").unwrap();
        assert_eq!(io.body().remaining(), 5);
        assert_eq!(dirty_pages(&mem), [(REPLY + PAGE) / PAGE]);
        assert_eq!(io.finish(&header(19)).unwrap(), 19);
        assert_eq!(dirty_pages(&mem), [REPLY / PAGE, REPLY / PAGE + 1]);
    });
    let mut start = [0; 10];
    mem.read_slice(&mut start, GuestAddress(REPLY)).unwrap();
    assert_eq!(start, header(19)[..10]);
    let mut rest = [0; 9];
    mem.read_slice(&mut rest, GuestAddress(REPLY + PAGE))
        .unwrap();
    assert_eq!(rest[..6], header(19)[10..]);
    assert_eq!(&rest[6..], b"bod");
}

#[test]
fn chains_with_no_room_for_a_header_say_so() {
    let mem = memory();
    for room in 0..=17 {
        let descriptors = [readable(REQUEST, 40), writable(REPLY, room)];
        chain(&mem, &descriptors, |chain| {
            let mut io = ChainIo::<()>::new(&mem, chain).unwrap();
            assert_eq!(io.can_reply(), room >= 16);
            assert_eq!(io.body().remaining(), room.saturating_sub(16));
            assert_eq!(io.finish(&header(16)).is_ok(), room >= 16);
        });
    }
    chain(&mem, &[readable(REQUEST, 48)], |chain| {
        let io = ChainIo::<()>::new(&mem, chain).unwrap();
        assert!(!io.can_reply());
    });
}

#[test]
fn file_data_goes_straight_to_guest_memory() {
    let mem = memory();
    let file = file_of(&(0..=255).cycle().take(10_000).collect::<Vec<u8>>());
    let descriptors = [
        readable(REQUEST, 80),
        writable(REPLY, 16),
        writable(REPLY + PAGE, 4096),
        writable(16 << 20, 4096),
    ];
    chain(&mem, &descriptors, |chain| {
        clean(&mem);
        let mut io = ChainIo::<()>::new(&mem, chain).unwrap();
        let body = io.body();
        // A short read marks what came, not what was asked for.
        assert_eq!(body.read_from_file(file.as_fd(), 100, 9_990).unwrap(), 10);
        assert_eq!(body.remaining(), 8182);
        assert_eq!(dirty_pages(&mem), [REPLY / PAGE + 1]);
        // More than there is room for is clamped.
        assert_eq!(
            body.read_from_file(file.as_fd(), usize::MAX, 0).unwrap(),
            8182
        );
        assert_eq!(body.remaining(), 0);
        assert_eq!(body.read_from_file(file.as_fd(), 1, 0).unwrap(), 0);
        assert_eq!(dirty_pages(&mem), [REPLY / PAGE + 1, (16 << 20) / PAGE]);
    });
    let mut bytes = vec![0; 8192];
    mem.read_slice(&mut bytes[..4096], GuestAddress(REPLY + PAGE))
        .unwrap();
    mem.read_slice(&mut bytes[4096..], GuestAddress(16 << 20))
        .unwrap();
    let contents = contents_of(&file);
    assert_eq!(bytes[..10], contents[9_990..]);
    assert_eq!(bytes[10..], contents[..8182]);
}

#[test]
fn guest_memory_goes_straight_to_the_file() {
    let mem = memory();
    mem.write_slice(b"0123456789", GuestAddress(REQUEST))
        .unwrap();
    mem.write_slice(b"abcdef", GuestAddress(16 << 20)).unwrap();
    let descriptors = [
        readable(REQUEST, 10),
        readable(16 << 20, 6),
        writable(REPLY, 16),
    ];
    let file = file_of(b"________________________");
    chain(&mem, &descriptors, |chain| {
        clean(&mem);
        let mut io = ChainIo::<()>::new(&mem, chain).unwrap();
        let reader = io.reader();
        assert_eq!(reader.write_to_file(file.as_fd(), 4, 2, 0).unwrap(), 4);
        assert_eq!(reader.remaining(), 12);
        assert_eq!(
            reader
                .write_to_file(file.as_fd(), usize::MAX, 8, 0)
                .unwrap(),
            12
        );
        assert_eq!(reader.write_to_file(file.as_fd(), 1, 0, 0).unwrap(), 0);
        assert!(dirty_pages(&mem).is_empty());
    });
    assert_eq!(contents_of(&file), b"__0123__456789abcdef____");
}

#[test]
fn an_append_goes_to_the_files_end_whatever_its_offset() {
    let mem = memory();
    mem.write_slice(b"tail", GuestAddress(REQUEST)).unwrap();
    let file = file_of(b"head ");
    let descriptors = [readable(REQUEST, 2), readable(REQUEST + 2, 2)];
    chain(&mem, &descriptors, |chain| {
        let mut io = ChainIo::<()>::new(&mem, chain).unwrap();
        let n = io
            .reader()
            .write_to_file(file.as_fd(), 4, 0, libc::RWF_APPEND)
            .unwrap();
        assert_eq!(n, 4);
    });
    assert_eq!(contents_of(&file), b"head tail");
}

#[test]
fn errors_of_the_file_take_nothing() {
    let mem = memory();
    let dir = File::open(std::env::temp_dir()).unwrap();
    let descriptors = [readable(REQUEST, 8), writable(REPLY, 24)];
    chain(&mem, &descriptors, |chain| {
        clean(&mem);
        let mut io = ChainIo::<()>::new(&mem, chain).unwrap();
        let (reader, body) = io.split();
        let error = reader.write_to_file(dir.as_fd(), 8, 0, 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
        let error = body.read_from_file(dir.as_fd(), 8, 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EISDIR));
        // -1 would be the descriptor's own position.
        for offset in [u64::MAX, 1 << 63] {
            let error = reader.write_to_file(dir.as_fd(), 8, offset, 0).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
            let error = body.read_from_file(dir.as_fd(), 8, offset).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        }
        assert_eq!((reader.remaining(), body.remaining()), (8, 8));
        assert!(dirty_pages(&mem).is_empty());
    });
}

#[test]
fn more_descriptors_than_one_call_takes_are_moved_in_parts() {
    let mem = memory();
    const COUNT: usize = 1500;
    let data: Vec<u8> = (0..COUNT * 2).map(|i| (i % 251) as u8).collect();
    mem.write_slice(&data, GuestAddress(REQUEST)).unwrap();
    let file = file_of(b"");
    let half = |make: fn(u64, usize) -> RawDescriptor, at: u64| {
        (0..COUNT as u64).map(move |i| make(at + i * 2, 2))
    };
    let mut descriptors: Vec<_> = half(readable, REQUEST).collect();
    descriptors.push(writable(REPLY, 16));
    descriptors.extend(half(writable, REPLY + PAGE));
    chain(&mem, &descriptors, |chain| {
        let mut io = ChainIo::<()>::new(&mem, chain).unwrap();
        let (reader, body) = io.split();
        let mut at = 0;
        while reader.remaining() > 0 {
            at += reader
                .write_to_file(file.as_fd(), usize::MAX, at, 0)
                .unwrap() as u64;
        }
        assert_eq!(at as usize, data.len());
        at = 0;
        while body.remaining() > 0 {
            at += body.read_from_file(file.as_fd(), usize::MAX, at).unwrap() as u64;
        }
    });
    assert_eq!(contents_of(&file), data);
    let mut bytes = vec![0; data.len()];
    mem.read_slice(&mut bytes, GuestAddress(REPLY + PAGE))
        .unwrap();
    assert_eq!(bytes, data);
}

#[test]
fn descriptors_outside_memory_are_an_error() {
    let mem = memory();
    let end = REGIONS[0].1 as u64;
    for (addr, len) in [
        (end, 1),
        (end - 1, 2),
        (u64::MAX, 1),
        (u64::MAX - 15, 16),
        (REQUEST, 64 << 20),
    ] {
        let bad = [readable(addr, len), writable(REPLY, 16)];
        chain(&mem, &bad, |chain| {
            let result = ChainIo::<()>::new(&mem, chain);
            assert!(matches!(result, Err(ChainError::Readable(_))), "{addr:#x}");
        });
        let bad = [readable(REQUEST, 40), writable(addr, len)];
        chain(&mem, &bad, |chain| {
            let result = ChainIo::<()>::new(&mem, chain);
            assert!(matches!(result, Err(ChainError::Writable(_))), "{addr:#x}");
        });
    }
}

/// Chains that lead in circles or nowhere end, and what was found until then is
/// a request too short for its header.
#[test]
fn loops_and_broken_links_end() {
    let mem = memory();
    let looped: RawDescriptor = Descriptor::new(REQUEST, 8, NEXT, 0).into();
    let lost: RawDescriptor = Descriptor::new(REQUEST, 8, NEXT, 999).into();
    let nested: RawDescriptor = Descriptor::new(REQUEST, 16, INDIRECT, 0).into();
    let ragged: RawDescriptor = Descriptor::new(REQUEST, 17, INDIRECT, 0).into();
    for (descriptor, at_most) in [(looped, 32), (lost, 8), (nested, 0), (ragged, 0)] {
        // What `nested` points to is a table with a pointer to a table.
        mem.write_obj(nested, GuestAddress(REQUEST)).unwrap();
        let queue = MockSplitQueue::new(&mem, 4);
        let chain = queue.build_multiple_desc_chains(&[descriptor]).unwrap();
        let mut io = ChainIo::<()>::new(&mem, chain).unwrap();
        assert!(io.reader().remaining() <= at_most);
        assert!(!io.can_reply());
    }
}

/// What is kept without an allocation, what is not, and the border between them.
#[test]
fn chains_of_any_number_of_descriptors_are_alike() {
    let mem = memory();
    for count in (0..20).chain([1000]) {
        let bytes: Vec<u8> = (0..count * 3 + 16).map(|i| i as u8).collect();
        mem.write_slice(&bytes, GuestAddress(REQUEST)).unwrap();
        let half = |make: fn(u64, usize) -> RawDescriptor, at: u64| {
            (0..count as u64).map(move |i| make(at + i * 3, 3))
        };
        let mut descriptors: Vec<_> = half(readable, REQUEST).collect();
        descriptors.push(readable(REQUEST + count as u64 * 3, 16));
        descriptors.push(writable(REPLY, 16));
        descriptors.extend(half(writable, REPLY + 16));
        chain(&mem, &descriptors, |chain| {
            clean(&mem);
            let mut io = ChainIo::<()>::new(&mem, chain).unwrap();
            let (reader, body) = io.split();
            assert_eq!(
                (reader.remaining(), body.remaining()),
                (count * 3 + 16, count * 3)
            );
            // By pieces that do not fit descriptors.
            let mut read = Vec::new();
            while reader.remaining() > 0 {
                let mut piece = vec![0; reader.remaining().min(5)];
                reader.read_exact(&mut piece).unwrap();
                read.extend(piece);
            }
            assert_eq!(read, bytes);
            for piece in bytes[..count * 3].chunks(7) {
                body.write_all(piece).unwrap();
            }
            assert_eq!(body.remaining(), 0);
            let len = count * 3 + 16;
            assert_eq!(io.finish(&header(len as u32)).unwrap(), len);
            assert_eq!(dirty_pages(&mem), [REPLY / PAGE]);
        });
        let mut reply = vec![0; count * 3 + 16];
        mem.read_slice(&mut reply, GuestAddress(REPLY)).unwrap();
        assert_eq!(reply[..16], header(reply.len() as u32));
        assert_eq!(reply[16..], bytes[..count * 3]);
    }
}
