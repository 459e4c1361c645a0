//! What unpacking, compiling and deleting do to a file system.

use std::fs;
use std::sync::Arc;

use ferryfs_frontend::call::{self, Payload};
use ferryfs_frontend::memory::GuestBuffer;

use super::{expect_made, expect_names, LaneDir};
use crate::engine::{Answer, Place, Program, Step};
use crate::error::{expect_eq, BenchError};

/// Bytes of each file.
const SIZE: usize = 4096;
/// open_flags: the daemon wants no FLUSH for this handle.
const FOPEN_NOFLUSH: u32 = 1 << 5;
/// Offset of struct fuse_open_out in the answer to CREATE.
const CREATED_FH: usize = 128;
/// Offset of open_flags in struct fuse_open_out.
const OPEN_FLAGS: usize = 8;

pub struct SmallFiles {
    lane: LaneDir,
    keep: bool,
    kept: Vec<(String, u64)>,
    /// Whether FLUSH is of no use: the daemon does not know it.
    no_flush: bool,
}

impl SmallFiles {
    pub fn new(lane: LaneDir) -> Self {
        SmallFiles {
            lane,
            keep: false,
            kept: Vec::new(),
            no_flush: false,
        }
    }

    fn flush_or_release(&self, place: &mut Place, open_flags: u32, flags: u32) -> Step {
        if self.no_flush || open_flags & FOPEN_NOFLUSH != 0 {
            place.stage += 1;
            return Step::send(call::release(place.node, place.fh, flags, 0));
        }
        Step::send(call::flush(place.node, place.fh, 0))
    }
}

fn name(place: &Place) -> String {
    format!("small-{}-{}", place.slot, place.op)
}

fn content(op: u64) -> Vec<u8> {
    let mut content = vec![b's'; SIZE];
    content[..8].copy_from_slice(&op.to_le_bytes());
    content
}

impl Program for SmallFiles {
    fn step(&mut self, place: &mut Place, answer: Option<&Answer>) -> Result<Step, BenchError> {
        let (dir, name) = (self.lane.node, name(place));
        let writing = (libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL) as u32;
        let reading = libc::O_RDONLY as u32;
        let Some(answer) = answer else {
            return Ok(Step::send(call::lookup(dir, name.as_bytes())));
        };
        place.stage += 1;
        let flushed = matches!(place.stage, 4 | 9);
        if flushed && answer.errno == libc::ENOSYS {
            self.no_flush = true;
        } else if place.stage == 1 {
            let miss = answer.errno == libc::ENOENT || answer.errno == 0 && answer.u64(0) == 0;
            expect_eq(|| format!("{name} is absent"), miss, true)?;
        } else {
            answer.ok()?;
        }
        Ok(match place.stage {
            1 => {
                let mode = libc::S_IFREG | 0o644;
                Step::send(call::create(dir, name.as_bytes(), writing, mode, 0, 0))
            }
            2 => {
                (place.node, place.fh) = (answer.u64(0), answer.u64(CREATED_FH));
                place.count = u64::from(answer.u32(CREATED_FH + OPEN_FLAGS));
                place.data.write_at(0, &place.op.to_le_bytes())?;
                let payload = Payload::Guest(Arc::clone(&place.data), SIZE);
                Step::send(call::write(place.node, place.fh, 0, payload, 0, writing))
            }
            3 => {
                let written = answer.u32(0) as usize;
                expect_eq(|| "bytes of WRITE".to_owned(), written, SIZE)?;
                self.flush_or_release(place, place.count as u32, writing)
            }
            4 => Step::send(call::release(place.node, place.fh, writing, 0)),
            5 => Step::send(call::lookup(dir, name.as_bytes())),
            6 => {
                let node = answer.u64(0);
                expect_eq(|| "node id of LOOKUP".to_owned(), node, place.node)?;
                Step::send(call::open(node, reading, 0))
            }
            7 => {
                place.fh = answer.u64(0);
                place.count = u64::from(answer.u32(OPEN_FLAGS));
                let (node, fh, size) = (place.node, place.fh, SIZE as u32);
                Step::send(call::read_into(node, fh, 0, size, reading, &place.data))
            }
            8 => {
                let mut op = [0; 8];
                place.data.read_at(0, &mut op)?;
                let found = (answer.len, u64::from_le_bytes(op));
                expect_eq(|| "what READ reads".to_owned(), found, (SIZE, place.op))?;
                self.flush_or_release(place, place.count as u32, reading)
            }
            9 => Step::send(call::release(place.node, place.fh, reading, 0)),
            10 if self.keep => {
                self.kept.push((name, place.op));
                Step::Done
            }
            10 => Step::send(call::unlink(dir, name.as_bytes())),
            _ => {
                place.forgets.push((place.node, 2));
                Step::Done
            }
        })
    }

    fn fill(&mut self, _slot: usize, data: &GuestBuffer) -> Result<(), BenchError> {
        Ok(data.write_at(0, &content(0))?)
    }

    fn bytes(&self) -> u64 {
        2 * SIZE as u64
    }

    fn keep(&mut self) {
        self.keep = true;
    }

    fn verify(&mut self) -> Result<u64, BenchError> {
        for (name, op) in &self.kept {
            let path = self.lane.path.join(name);
            expect_made(&path, false, 0o644, self.lane.uid)?;
            let found = fs::read(&path).map_err(BenchError::io("read", &path))?;
            let what = || format!("{} holds what was written", path.display());
            expect_eq(what, found == content(*op), true)?;
        }
        let names = self.kept.iter().map(|(name, _)| name.clone()).collect();
        expect_names(&self.lane.path, names)
    }
}
