//! File data. Every block tells on its first and last bytes which block it is and
//! which write it comes from.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use ferryfs_frontend::call::{self, Payload};
use ferryfs_frontend::memory::GuestBuffer;

use super::{own, File, LaneDir, Random};
use crate::engine::{Answer, Place, Program, Step};
use crate::error::{expect_eq, BenchError};

pub struct Open {
    files: Vec<File>,
    next: usize,
}

impl Open {
    pub fn new(lane: LaneDir) -> Result<Self, BenchError> {
        let files = lane.files()?;
        Ok(Open { files, next: 0 })
    }
}

impl Program for Open {
    fn step(&mut self, place: &mut Place, answer: Option<&Answer>) -> Result<Step, BenchError> {
        let Some(answer) = answer else {
            self.next = (self.next + 1) % self.files.len();
            place.node = self.files[self.next].node;
            return Ok(Step::send(call::open(place.node, libc::O_RDWR as u32, 0)));
        };
        answer.ok()?;
        place.stage += 1;
        if place.stage == 1 {
            let fh = answer.u64(0);
            return Ok(Step::send(call::release(
                place.node,
                fh,
                libc::O_RDWR as u32,
                0,
            )));
        }
        Ok(Step::Done)
    }

    fn verify(&mut self) -> Result<u64, BenchError> {
        for file in &self.files {
            let content = fs::read(&file.path).map_err(BenchError::io("read", &file.path))?;
            let what = || format!("content of {}", file.path.display());
            expect_eq(what, content.as_slice(), b"content\n")?;
        }
        Ok(self.files.len() as u64)
    }
}

/// Bytes of a mark: block and write number.
const MARK: usize = 16;

fn mark(block: u64, write: u64) -> [u8; MARK] {
    let mut mark = [0; MARK];
    mark[..8].copy_from_slice(&block.to_le_bytes());
    mark[8..].copy_from_slice(&write.to_le_bytes());
    mark
}

/// What lies between the marks.
fn filling(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

/// A file of marked blocks of `size`, opened through the daemon.
struct Blocks {
    path: PathBuf,
    node: u64,
    fh: u64,
    size: usize,
    count: u64,
}

impl Blocks {
    fn new(lane: &LaneDir, size: usize) -> Result<Self, BenchError> {
        let path = lane.path.join("data");
        // Each place needs a block of its own.
        let count = (lane.sizes.file / size as u64).max(lane.depth as u64);
        let open = BenchError::io("write", &path);
        let write = || {
            let mut file = std::io::BufWriter::with_capacity(1 << 20, fs::File::create(&path)?);
            let mut block = filling(size);
            for index in 0..count {
                block[..MARK].copy_from_slice(&mark(index, 0));
                block[size - MARK..].copy_from_slice(&mark(index, 0));
                file.write_all(&block)?;
            }
            file.flush()
        };
        write().map_err(open)?;
        own(&path, lane.uid)?;
        let node = lane.fs.lookup(lane.node, "data")?.nodeid;
        let fh = lane.fs.open(node, libc::O_RDWR as u32)?.fh;
        Ok(Blocks {
            path,
            node,
            fh,
            size,
            count,
        })
    }
}

pub struct Read {
    blocks: Blocks,
    random: Option<Random>,
    next: u64,
}

impl Read {
    pub fn new(lane: LaneDir, size: usize, random: bool) -> Result<Self, BenchError> {
        Ok(Read {
            blocks: Blocks::new(&lane, size)?,
            random: random.then(|| Random::new(lane.node)),
            next: 0,
        })
    }
}

impl Program for Read {
    fn step(&mut self, place: &mut Place, answer: Option<&Answer>) -> Result<Step, BenchError> {
        let size = self.blocks.size;
        let Some(answer) = answer else {
            place.count = match &mut self.random {
                Some(random) => random.below(self.blocks.count),
                None => self.next % self.blocks.count,
            };
            self.next += 1;
            let offset = place.count * size as u64;
            let (node, fh) = (self.blocks.node, self.blocks.fh);
            let flags = libc::O_RDWR as u32;
            let call = call::read_into(node, fh, offset, size as u32, flags, &place.data);
            return Ok(Step::send(call));
        };
        expect_eq(|| "bytes of READ".to_owned(), answer.ok()?.len, size)?;
        let expected = mark(place.count, 0);
        for at in [0, size - MARK] {
            let mut found = [0; MARK];
            place.data.read_at(at, &mut found)?;
            let what = || format!("byte {at} of block {}", place.count);
            expect_eq(what, found, expected)?;
        }
        Ok(Step::Done)
    }

    fn bytes(&self) -> u64 {
        self.blocks.size as u64
    }

    fn verify(&mut self) -> Result<u64, BenchError> {
        // Every answer was compared.
        Ok(self.next)
    }
}

/// Writes, followed by an fsync each if `sync`. Blocks belong to places, so that the
/// last write of each block is known.
pub struct Write {
    blocks: Blocks,
    random: Option<Random>,
    /// Number of the last write per block.
    written: Vec<u64>,
    writes: u64,
    depth: u64,
    sync: bool,
}

impl Write {
    pub fn new(lane: LaneDir, size: usize, random: bool, sync: bool) -> Result<Self, BenchError> {
        let blocks = Blocks::new(&lane, size)?;
        Ok(Write {
            written: vec![0; blocks.count as usize],
            blocks,
            random: random.then(|| Random::new(lane.node)),
            writes: 0,
            depth: lane.depth as u64,
            sync,
        })
    }
}

impl Program for Write {
    fn step(&mut self, place: &mut Place, answer: Option<&Answer>) -> Result<Step, BenchError> {
        let (node, fh, size) = (self.blocks.node, self.blocks.fh, self.blocks.size);
        let flags = libc::O_RDWR as u32;
        let Some(answer) = answer else {
            let own = self.blocks.count / self.depth;
            let turn = match &mut self.random {
                Some(random) => random.below(own),
                None => place.op % own,
            };
            let block = turn * self.depth + place.slot as u64;
            self.writes += 1;
            self.written[block as usize] = self.writes;
            let mark = mark(block, self.writes);
            place.data.write_at(0, &mark)?;
            place.data.write_at(size - MARK, &mark)?;
            let payload = Payload::Guest(Arc::clone(&place.data), size);
            let offset = block * size as u64;
            return Ok(Step::send(call::write(node, fh, offset, payload, 0, flags)));
        };
        answer.ok()?;
        place.stage += 1;
        if place.stage == 1 {
            let written = answer.u32(0) as usize;
            expect_eq(|| "bytes of WRITE".to_owned(), written, size)?;
            if self.sync {
                return Ok(Step::send(call::fsync(node, fh, false)));
            }
        }
        Ok(Step::Done)
    }

    fn fill(&mut self, _slot: usize, data: &GuestBuffer) -> Result<(), BenchError> {
        Ok(data.write_at(0, &filling(self.blocks.size))?)
    }

    fn bytes(&self) -> u64 {
        self.blocks.size as u64
    }

    fn verify(&mut self) -> Result<u64, BenchError> {
        let (path, size) = (&self.blocks.path, self.blocks.size);
        let file = fs::File::open(path).map_err(BenchError::io("open", path))?;
        let mut expected = filling(size);
        let mut found = vec![0; size];
        for (block, write) in self.written.iter().enumerate() {
            let offset = block as u64 * size as u64;
            let read = file.read_exact_at(&mut found, offset);
            read.map_err(BenchError::io("read", path))?;
            let mark = mark(block as u64, *write);
            expected[..MARK].copy_from_slice(&mark);
            expected[size - MARK..].copy_from_slice(&mark);
            if found != expected {
                let path = path.display();
                return Err(BenchError::Wrong(format!(
                    "block {block} of {path} does not hold write {write}"
                )));
            }
        }
        Ok(self.written.len() as u64)
    }
}
