//! Files in memory.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs;
use rustix::io::{Errno, Result};
use rustix::mm::{mmap, msync, munmap, MapFlags, MsyncFlags, ProtFlags};

use super::Plain;
use crate::sys::*;
use crate::world::World;
use crate::{step, take};

pub const ALL: &[Plain] = &[
    ("mapping-shared", shared),
    ("mapping-private", private),
    ("mapping-unlinked", unlinked),
    ("mapping-sizes", sizes),
    ("mapping-permissions", permissions),
];

/// Bytes mapped.
const LEN: usize = 16_384;

struct Mapping(*mut u8);

impl Mapping {
    fn new(fd: impl AsFd, protection: ProtFlags, flags: MapFlags) -> Result<Mapping> {
        // SAFETY: a new mapping, where the kernel likes, is nobody else's memory.
        let at = unsafe { mmap(std::ptr::null_mut(), LEN, protection, flags, fd, 0) }?;
        Ok(Mapping(at.cast()))
    }

    fn shared(fd: impl AsFd) -> Result<Mapping> {
        Mapping::new(fd, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED)
    }

    /// Only where the file has pages: beyond its last there is SIGBUS.
    fn read(&self, at: usize, len: usize) -> Vec<u8> {
        assert!(at + len <= LEN);
        // SAFETY: inside the mapping, whose file the case keeps long enough; volatile,
        // as others change it.
        (at..at + len)
            .map(|n| unsafe { self.0.add(n).read_volatile() })
            .collect()
    }

    fn write(&self, at: usize, data: &[u8]) {
        assert!(at + data.len() <= LEN);
        for (n, byte) in data.iter().enumerate() {
            // SAFETY: as in `read`; the mapping is writable where this is called.
            unsafe { self.0.add(at + n).write_volatile(*byte) };
        }
    }

    fn sync(&self, flags: MsyncFlags) -> Result<()> {
        // SAFETY: the whole mapping, no more.
        unsafe { msync(self.0.cast(), LEN, flags) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the whole mapping, which nothing refers to any more.
        let _ = unsafe { munmap(self.0.cast(), LEN) };
    }
}

fn made(w: &mut World) -> Result<OwnedFd> {
    let content: Vec<u8> = (0..12_000u32).map(|n| b'a' + (n / 1000) as u8).collect();
    take!(w, file(&w.dir, "f", 0o644, &content))
}

fn shared(w: &mut World) {
    let Ok(fd) = made(w) else { return };
    let map = Mapping::shared(&fd);
    w.say("map", &map.as_ref().map(drop).map_err(|e: &Errno| *e));
    let Ok(map) = map else { return };
    let Ok(other) = take!(w, open(&w.dir, "f", libc::O_RDWR, 0)) else {
        return;
    };
    let Ok(second) = Mapping::shared(&other) else {
        return w.say("second map", "fails");
    };
    step!(w, map.read(990, 20));
    map.write(100, b"by the first map");
    step!(w, second.read(98, 20));
    step!(w, read_at(&other, 20, 98));
    second.write(5000, b"by the second");
    step!(w, map.read(4998, 20));
    step!(w, write_at(&fd, b"by write", 8000));
    step!(w, map.read(7998, 12));
    step!(w, second.read(7998, 12));
    step!(w, map.sync(MsyncFlags::SYNC));
    step!(w, content(&w.dir, "f"));
    map.write(11_990, b"over the end of the file");
    step!(w, map.sync(MsyncFlags::SYNC));
    step!(w, fs::fstat(&fd));
    drop(fd);
    map.write(0, b"without a descriptor");
    step!(w, map.sync(MsyncFlags::ASYNC));
    drop(map);
    drop(second);
    step!(w, content(&w.dir, "f"));
}

fn private(w: &mut World) {
    let Ok(fd) = made(w) else { return };
    let map = Mapping::new(&fd, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    w.say("map", &map.as_ref().map(drop).map_err(|e: &Errno| *e));
    let Ok(map) = map else { return };
    map.write(10, b"mine alone");
    step!(w, map.read(8, 14));
    step!(w, read_at(&fd, 14, 8));
    step!(w, write_at(&fd, b"page of its own", 9000));
    step!(w, content(&w.dir, "f"));
}

fn unlinked(w: &mut World) {
    let Ok(fd) = made(w) else { return };
    let Ok(map) = Mapping::shared(&fd) else {
        return w.say("map", "fails");
    };
    step!(w, unlink(&w.dir, "f"));
    map.write(0, b"still");
    step!(w, read_at(&fd, 8, 0));
    step!(w, map.sync(MsyncFlags::SYNC));
    step!(w, write_at(&fd, b"both ways", 4096));
    step!(w, map.read(4094, 14));
    drop(fd);
    step!(w, map.read(0, 8));
    step!(w, list(&w.dir, "."));
}

fn sizes(w: &mut World) {
    let Ok(fd) = made(w) else { return };
    let Ok(map) = Mapping::shared(&fd) else {
        return w.say("map", "fails");
    };
    // What lies behind the end within the last page is lost when the file grows.
    step!(w, fs::ftruncate(&fd, 9000));
    step!(w, map.read(8990, 20));
    map.write(9005, b"beyond");
    step!(w, fs::ftruncate(&fd, 12_000));
    step!(w, read_at(&fd, 30, 8990));
    step!(w, map.read(8990, 30));
    step!(w, write_at(&fd, b"end", 14_000));
    step!(w, map.read(13_990, 20));
    step!(w, map.sync(MsyncFlags::SYNC));
    step!(w, content(&w.dir, "f"));
}

fn permissions(w: &mut World) {
    drop(made(w));
    let protections = [
        ("read", ProtFlags::READ),
        ("write", ProtFlags::READ | ProtFlags::WRITE),
        ("run", ProtFlags::READ | ProtFlags::EXEC),
    ];
    for (word, flags) in [
        ("O_RDONLY", libc::O_RDONLY),
        ("O_WRONLY", libc::O_WRONLY),
        ("O_RDWR", libc::O_RDWR),
    ] {
        let Ok(fd) = open(&w.dir, "f", flags, 0) else {
            continue;
        };
        for (what, protection) in protections {
            for (kind, flags) in [("shared", MapFlags::SHARED), ("private", MapFlags::PRIVATE)] {
                let map = Mapping::new(&fd, protection, flags).map(drop);
                w.say(format!("{word}: {kind}, to {what}"), &map);
            }
        }
    }
    let dir = open_dir(&w.dir, ".");
    step!(
        w,
        dir.and_then(|dir| Mapping::new(dir, ProtFlags::READ, MapFlags::SHARED).map(drop))
    );
}
