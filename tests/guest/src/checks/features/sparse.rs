//! A file of terabytes with a few pages of data in it: holes, offsets beyond 32 bits.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use ferry_guest::expectation::Object;
use ferry_guest::{pattern, Expectation};
use rustix::fs::{fallocate, seek, FallocateFlags, SeekFrom};
use rustix::io::Errno;

use crate::checks::{in_share, own_dir, Live};
use crate::sys::{need, need_error, At, Result};

const KIB: u64 = 1 << 10;
const GIB: u64 = 1 << 30;
/// Large for 32 bits, and small enough for any file system with 4 KiB blocks.
const SIZE: u64 = 3 << 40;
/// Bytes at each place: whole blocks of any file system that hosts have.
const LEN: u64 = 64 * KIB;
/// Where there are data at first; each crossing adds a place.
const PLACES: [u64; 4] = [0, GIB, 4 * GIB, 4 * GIB + 512 * KIB];
/// Bytes that the host may spend on them, with all that a file system needs besides.
const MOST: u64 = 2 << 20;

struct Sparse {
    path: PathBuf,
    file: File,
    places: Vec<u64>,
}

/// Makes it.
pub fn prepare() -> Result<Box<dyn Live>> {
    let path = own_dir("sparse")?.join("file");
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .at("create")?;
    file.set_len(SIZE).at("truncate")?;
    let mut sparse = Sparse {
        path,
        file,
        places: Vec::new(),
    };
    PLACES.into_iter().try_for_each(|at| sparse.add(at))?;
    // What is punched out is a hole, and nothing else changes.
    sparse.add(6 * GIB)?;
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&sparse.file, punch, 6 * GIB, LEN).at("punch a hole")?;
    sparse.places.pop();
    let mut gone = vec![1; LEN as usize];
    sparse
        .file
        .read_exact_at(&mut gone, 6 * GIB)
        .at("read a hole")?;
    need(gone.iter().all(|b| *b == 0), || "a hole has data".into())?;
    sparse.verify()?;
    Ok(Box::new(sparse))
}

impl Sparse {
    fn add(&mut self, at: u64) -> Result<()> {
        let data = pattern::bytes(at, 0, LEN as usize);
        self.file
            .write_all_at(&data, at)
            .at(format_args!("write at {at}"))?;
        self.places.push(at);
        Ok(())
    }

    /// Walks from data to hole to data.
    fn walk(&self) -> Result<Vec<(u64, u64)>> {
        let mut found = Vec::new();
        let mut at = 0;
        loop {
            let start = match seek(&self.file, SeekFrom::Data(at)) {
                Err(Errno::NXIO) => return Ok(found),
                other => other.at(format_args!("SEEK_DATA from {at}"))?,
            };
            at = seek(&self.file, SeekFrom::Hole(start))
                .at(format_args!("SEEK_HOLE from {start}"))?;
            need(start < at && found.len() < 100, || {
                format!("data from {start} to {at}")
            })?;
            found.push((start, at));
        }
    }
}

impl Live for Sparse {
    fn verify(&mut self) -> Result<()> {
        let mut want: Vec<_> = self.places.iter().map(|at| (*at, at + LEN)).collect();
        want.sort_unstable();
        let found = self.walk()?;
        need(found == want, || format!("data at {found:?}, not {want:?}"))?;
        for at in &self.places {
            let mut got = vec![0; LEN as usize];
            self.file
                .read_exact_at(&mut got, *at)
                .at(format_args!("read at {at}"))?;
            let wrong = pattern::difference(&got, &pattern::bytes(*at, 0, LEN as usize));
            need(wrong.is_none(), || {
                format!("at {at}: {}", wrong.unwrap_or_default())
            })?;
        }
        let seen = self.file.metadata().at("fstat")?;
        need(seen.len() == SIZE && seen.blocks() * 512 <= MOST, || {
            format!("{} bytes, {} blocks", seen.len(), seen.blocks())
        })?;
        need_error(
            "SEEK_DATA at the end",
            seek(&self.file, SeekFrom::Data(SIZE)),
            Errno::NXIO,
        )?;
        self.add(SIZE - LEN * 2 * self.places.len() as u64)
    }

    fn finish(self: Box<Self>) -> Result<Vec<Expectation>> {
        let expect = |at: &u64| {
            Expectation::new(
                in_share(&self.path),
                Object::Sparse {
                    size: SIZE,
                    most: MOST,
                    at: *at,
                    len: LEN,
                    fnv: pattern::fnv(&pattern::bytes(*at, 0, LEN as usize)),
                },
            )
        };
        Ok(self.places.iter().map(expect).collect())
    }
}
