//! Attributes, plain and extended.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use ferryfs_frontend::call::{self, SetAttr};
use ferryfs_frontend::fuse::{fattr, init};

use super::{File, LaneDir};
use crate::engine::{Answer, Place, Program, Step};
use crate::error::{expect_eq, BenchError};

/// Offset of the inode number in struct fuse_attr_out.
const ATTR_INO: usize = 16;

pub struct Getattr {
    files: Vec<File>,
    next: usize,
}

impl Getattr {
    pub fn new(lane: LaneDir) -> Result<Self, BenchError> {
        let files = lane.files()?;
        Ok(Getattr { files, next: 0 })
    }
}

impl Program for Getattr {
    fn step(&mut self, place: &mut Place, answer: Option<&Answer>) -> Result<Step, BenchError> {
        let Some(answer) = answer else {
            self.next = (self.next + 1) % self.files.len();
            let file = &self.files[self.next];
            place.offset = file.ino;
            return Ok(Step::send(call::getattr(file.node, None)));
        };
        let ino = answer.ok()?.u64(ATTR_INO);
        expect_eq(|| "inode of GETATTR".to_owned(), ino, place.offset)?;
        Ok(Step::Done)
    }

    fn verify(&mut self) -> Result<u64, BenchError> {
        // Every answer was compared.
        Ok(self.files.len() as u64)
    }
}

/// chmod or utimensat. Each place has files of its own, so that the last change is
/// known.
pub struct Setattr {
    files: Vec<File>,
    last: Vec<Option<u64>>,
    depth: usize,
    times: bool,
}

impl Setattr {
    pub fn new(lane: LaneDir, times: bool) -> Result<Self, BenchError> {
        let files = lane.files()?;
        Ok(Setattr {
            last: vec![None; files.len()],
            depth: lane.depth,
            files,
            times,
        })
    }
}

/// A modification time that tells the operation, or its mode.
fn mtime(op: u64) -> u64 {
    1_000_000_000 + op
}

fn mode(op: u64) -> u32 {
    0o600 + (op % 64) as u32
}

impl Program for Setattr {
    fn step(&mut self, place: &mut Place, answer: Option<&Answer>) -> Result<Step, BenchError> {
        if let Some(answer) = answer {
            let ino = answer.ok()?.u64(ATTR_INO);
            expect_eq(|| "inode of SETATTR".to_owned(), ino, place.offset)?;
            return Ok(Step::Done);
        }
        // Places beyond the number of files share them.
        let own = (self.files.len() / self.depth).max(1) as u64;
        let index = (place.slot + self.depth * (place.op % own) as usize) % self.files.len();
        let file = &self.files[index];
        place.offset = file.ino;
        self.last[index] = Some(place.op);
        let set = match self.times {
            true => SetAttr {
                valid: fattr::ATIME | fattr::MTIME,
                atime: mtime(place.op),
                mtime: mtime(place.op),
                mtimensec: 5,
                ..SetAttr::default()
            },
            false => SetAttr {
                valid: fattr::MODE,
                mode: libc::S_IFREG | mode(place.op),
                ..SetAttr::default()
            },
        };
        Ok(Step::send(call::setattr(file.node, &set)))
    }

    fn verify(&mut self) -> Result<u64, BenchError> {
        let mut compared = 0;
        // With more places than files it is open which change came last.
        let shared = self.depth > self.files.len();
        for (file, last) in self.files.iter().zip(&self.last) {
            let Some(op) = last.filter(|_| !shared) else {
                continue;
            };
            let meta = fs::metadata(&file.path).map_err(BenchError::io("stat", &file.path))?;
            let what = || format!("attributes of {}", file.path.display());
            match self.times {
                true => {
                    let found = (meta.mtime() as u64, meta.mtime_nsec());
                    expect_eq(what, found, (mtime(op), 5))?;
                }
                false => expect_eq(what, meta.permissions().mode() & 0o7777, mode(op))?,
            }
            compared += 1;
        }
        Ok(compared)
    }
}

/// Set, get, list, remove. Each place has a file of its own.
pub struct Xattr {
    files: Vec<File>,
    keep: bool,
    kept: Vec<(usize, u64)>,
    ext: Option<u32>,
}

const NAME: &[u8] = b"user.ferrybench";

fn value(op: u64) -> [u8; 32] {
    let mut value = [b'v'; 32];
    value[..8].copy_from_slice(&op.to_le_bytes());
    value
}

impl Xattr {
    pub fn new(lane: LaneDir) -> Result<Self, BenchError> {
        let ext = lane.fs.session().flags() & init::SETXATTR_EXT != 0;
        Ok(Xattr {
            files: lane.files()?,
            keep: false,
            kept: Vec::new(),
            ext: ext.then_some(0),
        })
    }
}

impl Program for Xattr {
    fn step(&mut self, place: &mut Place, answer: Option<&Answer>) -> Result<Step, BenchError> {
        let index = place.slot % self.files.len();
        let node = self.files[index].node;
        // Places that share a file use names of their own.
        let mut name = NAME.to_vec();
        name.extend_from_slice(place.slot.to_string().as_bytes());
        if let Some(answer) = answer {
            answer.ok()?;
        }
        place.stage += 1;
        Ok(match (place.stage, answer) {
            (1, _) => Step::send(call::setxattr(node, &name, &value(place.op), 0, self.ext)),
            (2, _) => Step::send(call::getxattr(node, &name, 64)),
            (3, Some(answer)) => {
                let found = (answer.len, answer.u64(0));
                expect_eq(|| "value of GETXATTR".to_owned(), found, (32, place.op))?;
                Step::send(call::listxattr(node, 4096))
            }
            (4, _) if !self.keep => Step::send(call::removexattr(node, &name)),
            (4, _) => {
                self.kept.push((place.slot, place.op));
                Step::Done
            }
            _ => Step::Done,
        })
    }

    fn keep(&mut self) {
        self.keep = true;
    }

    fn verify(&mut self) -> Result<u64, BenchError> {
        for (slot, op) in &self.kept {
            let path = &self.files[slot % self.files.len()].path;
            let name = format!("user.ferrybench{slot}");
            let mut found = [0; 64];
            let len = rustix::fs::getxattr(path, name.as_str(), &mut found);
            let len = len.map_err(|e| BenchError::io("get an attribute of", path)(e.into()))?;
            let what = || format!("{name} of {}", path.display());
            expect_eq(what, &found[..len], &value(*op)[..])?;
        }
        Ok(self.kept.len() as u64)
    }
}
