//! What is in files: reading, writing, holes, sizes.

use rustix::fs::{self, FallocateFlags, SeekFrom};
use rustix::io::{IoSlice, IoSliceMut, ReadWriteFlags};

use super::Plain;
use crate::sys::*;
use crate::world::World;
use crate::{step, take};

pub const ALL: &[Plain] = &[
    ("data-append", append),
    ("data-append-together", append_together),
    ("data-copy-range", copy_range),
    ("data-direct", direct),
    ("data-fallocate", fallocate),
    ("data-holes", holes),
    ("data-holes-unwritten", holes_unwritten),
    ("data-large-offsets", large_offsets),
    ("data-too-large", too_large),
    ("data-positions", positions),
    ("data-sendfile", sendfile),
    ("data-sizes", sizes),
    ("data-sync", sync),
    ("data-two-writers", two_writers),
    ("data-vectors", vectors),
];

fn append(w: &mut World) {
    step!(w, file(&w.dir, "f", 0o644, b"start"));
    let opened = open(&w.dir, "f", libc::O_RDWR | libc::O_APPEND, 0);
    let Ok(a) = take!(w, opened) else { return };
    let Ok(b) = take!(w, open(&w.dir, "f", libc::O_WRONLY | libc::O_APPEND, 0)) else {
        return;
    };
    let Ok(plain) = take!(w, open(&w.dir, "f", libc::O_RDWR, 0)) else {
        return;
    };
    step!(w, rustix::io::write(&a, b"-a1"));
    step!(w, rustix::io::write(&b, b"-b1"));
    step!(w, rustix::io::write(&a, b"-a2"));
    step!(w, fs::tell(&a));
    step!(w, fs::tell(&b));
    // Linux appends whatever the offset.
    step!(w, rustix::io::pwrite(&a, b"-at0", 0));
    step!(w, content(&w.dir, "f"));
    step!(w, fs::ftruncate(&plain, 2));
    step!(w, rustix::io::write(&b, b"-b2"));
    step!(w, content(&w.dir, "f"));
    step!(w, rustix::io::write(&plain, b"P"));
    step!(w, content(&w.dir, "f"));
    step!(w, fs::fcntl_setfl(&plain, fs::OFlags::APPEND));
    step!(w, rustix::io::write(&plain, b"-end"));
    step!(w, fs::fcntl_setfl(&a, fs::OFlags::empty()));
    step!(w, rustix::io::pwrite(&a, b"A", 0));
    step!(w, content(&w.dir, "f"));
    let iov = [IoSlice::new(b"+one"), IoSlice::new(b"+two")];
    step!(w, rustix::io::pwritev2(&a, &iov, 0, ReadWriteFlags::APPEND));
    step!(w, content(&w.dir, "f"));
    step!(
        w,
        open(
            &w.dir,
            "f",
            libc::O_WRONLY | libc::O_APPEND | libc::O_TRUNC,
            0
        )
        .and_then(|fd| rustix::io::write(fd, b"anew"))
    );
    step!(w, content(&w.dir, "f"));
}

fn append_together(w: &mut World) {
    const RECORDS: u32 = 200;
    step!(w, file(&w.dir, "log", 0o644, b""));
    let path = w.path("log");
    let writers: Vec<_> = (0..4u8)
        .map(|id| {
            let path = path.clone();
            std::thread::spawn(move || {
                use std::io::Write;
                let mut log = std::fs::OpenOptions::new().append(true).open(path)?;
                for n in 0..RECORDS {
                    log.write_all(format!("{id}:{n:07}\n").as_bytes())?;
                }
                std::io::Result::Ok(())
            })
        })
        .collect();
    for writer in writers {
        let done = writer.join().is_ok_and(|written| written.is_ok());
        w.say("a writer", &done);
    }
    let text = content(&w.dir, "log").unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut lines: Vec<_> = text.lines().collect();
    w.say("records", &lines.len());
    lines.sort_unstable();
    lines.dedup();
    w.say("different ones", &lines.len());
    w.say(
        "whole ones",
        &lines.iter().filter(|line| line.len() == 9).count(),
    );
}

fn copy_range(w: &mut World) {
    let pattern: Vec<u8> = (0..100_000u32).map(|n| (n / 1000) as u8).collect();
    let Ok(from) = take!(w, file(&w.dir, "from", 0o644, &pattern)) else {
        return;
    };
    let Ok(to) = take!(w, file(&w.dir, "to", 0o644, b"")) else {
        return;
    };
    let copy = |w: &mut World, a: u64, b: u64, len: usize, same: bool| {
        let (mut in_at, mut out_at) = (a, b);
        let target = if same { &from } else { &to };
        let copied = fs::copy_file_range(&from, Some(&mut in_at), target, Some(&mut out_at), len);
        w.say(format!("{len} from {a} to {b} same {same}"), &copied);
        w.say("  positions", &format!("{in_at} {out_at}"));
    };
    copy(w, 0, 0, 5000, false);
    copy(w, 99_000, 5000, 5000, false);
    copy(w, 100_000, 0, 10, false);
    copy(w, 200_000, 0, 10, false);
    copy(w, 0, 300_000, 100_000, false);
    copy(w, 0, 50_000, 1000, true);
    copy(w, 0, 500, 1000, true);
    copy(w, 500, 0, 0, false);
    copy(w, 1 << 62, 0, 10, false);
    copy(w, 0, (1 << 63) - 5, 10, false);
    step!(w, fs::fstat(&to));
    step!(w, content(&w.dir, "to"));
    step!(w, content(&w.dir, "from"));
    // From where the descriptors are.
    step!(w, fs::seek(&from, SeekFrom::Start(2500)));
    step!(w, fs::seek(&to, SeekFrom::Start(0)));
    step!(w, fs::copy_file_range(&from, None, &to, None, 3000));
    step!(w, fs::tell(&from));
    step!(w, fs::tell(&to));
    let read_only = open(&w.dir, "to", libc::O_RDONLY, 0);
    let appending = open(&w.dir, "to", libc::O_WRONLY | libc::O_APPEND, 0);
    if let (Ok(read_only), Ok(appending)) = (read_only, appending) {
        step!(w, fs::copy_file_range(&from, None, &read_only, None, 1));
        step!(w, fs::copy_file_range(&from, None, &appending, None, 1));
        step!(w, fs::copy_file_range(&appending, None, &to, None, 1));
    }
    step!(w, content(&w.dir, "to"));
}

fn direct(w: &mut World) {
    // Memory that any device takes.
    let mut memory = vec![0u8; 3 * 4096];
    let start = memory.as_ptr().align_offset(4096);
    let block = &mut memory[start..start + 8192];
    block[..4096].fill(b'd');
    block[4096..].fill(b'e');
    let Ok(fd) = take!(w, open(&w.dir, "f", RW_CREATE | libc::O_DIRECT, 0o644)) else {
        return;
    };
    step!(w, rustix::io::pwrite(&fd, block, 0));
    step!(w, content(&w.dir, "f"));
    let Ok(cached) = take!(w, open(&w.dir, "f", libc::O_RDWR, 0)) else {
        return;
    };
    step!(w, write_at(&cached, b"through the cache", 4096));
    step!(w, rustix::io::pread(&fd, &mut block[..], 0));
    step!(w, block.to_vec());
    block.fill(b'z');
    step!(w, rustix::io::pwrite(&fd, &block[..4096], 4096));
    step!(w, read_at(&cached, 8192, 0));
    step!(w, rustix::io::pread(&fd, &mut block[..], 8192));
    step!(w, fs::ftruncate(&fd, 4096 + 100));
    step!(w, rustix::io::pread(&fd, &mut block[..], 4096));
    step!(w, fs::fstat(&fd));
}

fn fallocate(w: &mut World) {
    let Ok(fd) = take!(w, file(&w.dir, "f", 0o644, &[b'x'; 20_000])) else {
        return;
    };
    let modes = [
        ("plain", FallocateFlags::empty()),
        ("keep size", FallocateFlags::KEEP_SIZE),
        (
            "punch",
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        ),
        ("punch alone", FallocateFlags::PUNCH_HOLE),
        ("zero", FallocateFlags::ZERO_RANGE),
        (
            "zero, keep size",
            FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
        ),
    ];
    for (word, mode) in modes {
        for (at, len) in [
            (100, 1000),
            (4096, 8192),
            (30_000, 5000),
            (0, 0),
            (18_000, 9000),
        ] {
            w.say(
                format!("{word} {at}+{len}"),
                &fs::fallocate(&fd, mode, at, len),
            );
            w.say("  is", &fs::fstat(&fd));
            w.say("  has", &content(&w.dir, "f"));
        }
        step!(w, fs::ftruncate(&fd, 0));
        step!(w, write_at(&fd, &[b'y'; 20_000], 0));
    }
    step!(
        w,
        fs::fallocate(&fd, FallocateFlags::empty(), 1 << 62, 1 << 62)
    );
    step!(
        w,
        fs::fallocate(&fd, FallocateFlags::COLLAPSE_RANGE, 0, 4096)
    );
    step!(w, fs::fallocate(&fd, FallocateFlags::INSERT_RANGE, 0, 4096));
    step!(
        w,
        open(&w.dir, "f", libc::O_RDONLY, 0).and_then(|fd| fs::fallocate(
            fd,
            FallocateFlags::empty(),
            0,
            1
        ))
    );
    step!(w, fs::fstat(&fd));
}

fn seek_all(w: &mut World, fd: &std::os::fd::OwnedFd) {
    for at in [
        0,
        1,
        4095,
        4096,
        65_536,
        100_000,
        1 << 20,
        (1 << 20) + 5,
        1 << 30,
    ] {
        w.say(format!("data from {at}"), &fs::seek(fd, SeekFrom::Data(at)));
        w.say(format!("hole from {at}"), &fs::seek(fd, SeekFrom::Hole(at)));
    }
}

fn holes(w: &mut World) {
    let Ok(fd) = take!(w, file(&w.dir, "f", 0o644, b"head")) else {
        return;
    };
    step!(w, write_at(&fd, &[b'm'; 8192], 65_536));
    step!(w, write_at(&fd, b"tail", 1 << 20));
    step!(w, fs::fsync(&fd));
    step!(w, fs::fstat(&fd).map(|s| s.st_blocks < 100));
    seek_all(w, &fd);
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    step!(w, fs::fallocate(&fd, punch, 65_536, 4096));
    step!(w, fs::fsync(&fd));
    seek_all(w, &fd);
    step!(w, fs::ftruncate(&fd, 2 << 20));
    step!(w, fs::fsync(&fd));
    seek_all(w, &fd);
    step!(w, content(&w.dir, "f"));
}

fn holes_unwritten(w: &mut World) {
    // Written and not yet on its way to the disk.
    let Ok(fresh) = take!(w, file(&w.dir, "fresh", 0o644, b"")) else {
        return;
    };
    step!(w, write_at(&fresh, b"late", 100_000));
    step!(w, fs::seek(&fresh, SeekFrom::Data(0)));
    step!(w, fs::seek(&fresh, SeekFrom::Hole(100_000)));
    step!(w, fs::seek(&fresh, SeekFrom::Data(200_000)));
    // The descriptor goes where it has sought.
    step!(w, fs::seek(&fresh, SeekFrom::Data(0)));
    let mut four = [0; 4];
    step!(w, rustix::io::read(&fresh, &mut four[..]));
    step!(w, four.to_vec());
}

fn large_offsets(w: &mut World) {
    let Ok(fd) = take!(w, file(&w.dir, "f", 0o644, b"low")) else {
        return;
    };
    for at in [(1u64 << 31) - 2, 1 << 32, 5 << 30] {
        w.say(format!("write at {at}"), &write_at(&fd, b"high", at));
        w.say("  is", &fs::fstat(&fd));
        w.say("  read", &read_at(&fd, 8, at));
    }
    step!(w, read_at(&fd, 8, (1 << 31) - 4));
    step!(w, read_at(&fd, 8, 6 << 30));
    step!(w, fs::seek(&fd, SeekFrom::End(-4)));
    step!(w, fs::seek(&fd, SeekFrom::End(10)));
    step!(w, fs::ftruncate(&fd, 3 << 30));
    step!(w, fs::fstat(&fd));
    step!(w, rustix::io::pwrite(&fd, b"x", i64::MAX as u64));
    step!(w, rustix::io::pwrite(&fd, b"x", u64::MAX));
    step!(w, fs::ftruncate(&fd, i64::MAX as u64));
    step!(w, fs::ftruncate(&fd, 1 << 60));
    step!(
        w,
        rustix::io::pread(&fd, &mut [0; 8][..], i64::MAX as u64 - 3)
    );
    step!(w, fs::fstat(&fd));
}

fn too_large(w: &mut World) {
    let Ok(fd) = take!(w, file(&w.dir, "f", 0o644, b"low")) else {
        return;
    };
    step!(w, rustix::io::pwrite(&fd, b"x", 1 << 60));
    step!(w, fs::fstat(&fd));
    step!(w, fs::fsync(&fd));
    // Or another case's would tell of it.
    step!(w, fs::syncfs(&fd));
}

fn positions(w: &mut World) {
    let Ok(fd) = take!(w, file(&w.dir, "f", 0o644, b"0123456789")) else {
        return;
    };
    let mut three = [0; 3];
    step!(w, rustix::io::read(&fd, &mut three[..]));
    step!(w, rustix::io::pread(&fd, &mut three[..], 7));
    step!(w, fs::tell(&fd));
    step!(w, fs::seek(&fd, SeekFrom::Current(4)));
    step!(w, fs::seek(&fd, SeekFrom::Current(-100)));
    step!(w, fs::seek(&fd, SeekFrom::End(-1)));
    step!(w, fs::seek(&fd, SeekFrom::Start(1 << 40)));
    step!(w, rustix::io::read(&fd, &mut three[..]));
    step!(w, rustix::io::read(&fd, &mut [0u8; 0][..]));
    step!(w, rustix::io::write(&fd, b""));
    step!(w, fs::fstat(&fd));
}

fn sendfile(w: &mut World) {
    let Ok(from) = take!(w, file(&w.dir, "from", 0o644, &[b's'; 10_000])) else {
        return;
    };
    let Ok(to) = take!(w, file(&w.dir, "to", 0o644, b"")) else {
        return;
    };
    let mut at = 5000;
    step!(w, fs::sendfile(&to, &from, Some(&mut at), 3000));
    step!(w, at);
    step!(w, fs::sendfile(&to, &from, Some(&mut at), 30_000));
    step!(w, content(&w.dir, "to"));
    let mut copied = Vec::new();
    let read = std::fs::File::open(w.path("from"))
        .and_then(|mut file| std::io::copy(&mut file, &mut copied));
    w.say("copy", &read.unwrap_or(0));
}

fn sizes(w: &mut World) {
    let Ok(fd) = take!(w, file(&w.dir, "f", 0o644, &[b'a'; 10_000])) else {
        return;
    };
    for size in [10_000, 5000, 20_000, 4096, 4097, 0, 1, 100_000, 3] {
        w.say(format!("ftruncate {size}"), &fs::ftruncate(&fd, size));
        w.say("  is", &fs::fstat(&fd));
        w.say("  by name", &stat(&w.dir, "f"));
        w.say("  has", &content(&w.dir, "f"));
        w.say("  written", &write_at(&fd, b"b", size));
        w.say("  by name", &stat(&w.dir, "f"));
        w.say("  has", &read_at(&fd, 200_000, 0));
    }
    step!(
        w,
        open(&w.dir, "f", libc::O_RDONLY, 0).and_then(|fd| fs::ftruncate(fd, 0))
    );
    step!(w, truncate(&w.dir, "f", 7));
    step!(w, fs::fstat(&fd));
    step!(w, open(&w.dir, "f", libc::O_RDWR | libc::O_TRUNC, 0));
    step!(w, fs::fstat(&fd));
    step!(
        w,
        std::fs::OpenOptions::new()
            .write(true)
            .open(w.path("f"))
            .is_ok()
    );
    step!(w, read_at(&fd, 10, 0));
}

fn sync(w: &mut World) {
    let Ok(fd) = take!(w, file(&w.dir, "f", 0o644, b"data")) else {
        return;
    };
    step!(w, fs::fsync(&fd));
    step!(w, fs::fdatasync(&fd));
    step!(w, fs::syncfs(&fd));
    step!(w, fs::fadvise(&fd, 0, None, fs::Advice::DontNeed));
    step!(w, fs::fadvise(&fd, 0, None, fs::Advice::WillNeed));
    step!(w, content(&w.dir, "f"));
    let read_only = open(&w.dir, "f", libc::O_RDONLY, 0);
    step!(w, read_only.and_then(fs::fsync));
    step!(w, fs::fsync(&w.dir));
    step!(w, fs::statvfs(&w.path).map(|s| s.f_namemax));
    step!(w, fs::fstatvfs(&fd).map(|s| s.f_bsize));
}

fn two_writers(w: &mut World) {
    let Ok(a) = take!(w, open(&w.dir, "f", RW_CREATE, 0o644)) else {
        return;
    };
    let Ok(b) = take!(w, open(&w.dir, "f", libc::O_RDWR, 0)) else {
        return;
    };
    for n in 0..40u64 {
        let (writer, reader) = if n % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let data = vec![b'A' + (n % 26) as u8; 700 + n as usize * 37];
        let at = (n * 4321) % 30_000;
        w.say(format!("write {n}"), &write_at(writer, &data, at));
        w.say(
            "  read by the other",
            &read_at(reader, 3000, at.saturating_sub(500)),
        );
        if n % 7 == 6 {
            w.say("  cut", &fs::ftruncate(reader, at + 100));
            w.say("  seen by the other", &fs::fstat(writer));
        }
    }
    step!(w, content(&w.dir, "f"));
}

fn vectors(w: &mut World) {
    let Ok(fd) = take!(w, file(&w.dir, "f", 0o644, b"")) else {
        return;
    };
    let parts: Vec<Vec<u8>> = (0..40u8)
        .map(|n| vec![b'a' + n % 26; usize::from(n) * 50])
        .collect();
    let iov: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
    step!(w, rustix::io::pwritev(&fd, &iov, 10));
    step!(w, content(&w.dir, "f"));
    let (mut one, mut two, mut three) = ([0; 7], [0; 5000], [0; 3]);
    let mut iov = [
        IoSliceMut::new(&mut one),
        IoSliceMut::new(&mut two),
        IoSliceMut::new(&mut three),
    ];
    step!(w, rustix::io::preadv(&fd, &mut iov, 0));
    step!(w, two.to_vec());
    let flags = [
        ReadWriteFlags::DSYNC,
        ReadWriteFlags::SYNC,
        ReadWriteFlags::HIPRI,
        ReadWriteFlags::APPEND,
    ];
    for flag in flags {
        let iov = [IoSlice::new(b"flagged")];
        w.say(
            format!("{flag:?}"),
            &rustix::io::pwritev2(&fd, &iov, 3, flag),
        );
    }
    step!(w, content(&w.dir, "f"));
    step!(w, fs::fstat(&fd));
}
