//! Names: looked up, made, renamed, removed.

use std::path::PathBuf;

use ferryfs_frontend::call;

use super::{expect_made, expect_names, own, File, LaneDir, FILES};
use crate::engine::{Answer, Place, Program, Step};
use crate::error::{expect_eq, BenchError};

/// Offset of the inode number in struct fuse_entry_out; the node id is at 0.
const ENTRY_INO: usize = 40;
/// Offset of struct fuse_open_out in the answer to CREATE.
const CREATED_FH: usize = 128;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum LookupKind {
    /// The inode is known to the daemon already.
    Hit,
    /// It is not, and is forgotten afterwards.
    New,
    /// There is none.
    Miss,
}

pub struct Lookup {
    kind: LookupKind,
    dir: u64,
    files: Vec<File>,
    next: usize,
    path: PathBuf,
}

impl Lookup {
    pub fn new(lane: LaneDir, kind: LookupKind) -> Result<Self, BenchError> {
        let mut files = lane.files()?;
        for (i, file) in files.iter_mut().enumerate() {
            if kind == LookupKind::New {
                lane.fs.forget(file.node, 1)?;
            }
            if kind == LookupKind::Miss {
                file.name = format!("absent-{i:04}").into_bytes();
            }
        }
        Ok(Lookup {
            kind,
            dir: lane.node,
            files,
            next: 0,
            path: lane.path,
        })
    }
}

impl Program for Lookup {
    fn step(&mut self, place: &mut Place, answer: Option<&Answer>) -> Result<Step, BenchError> {
        let Some(answer) = answer else {
            self.next = (self.next + 1) % self.files.len();
            place.count = self.next as u64;
            let name = &self.files[self.next].name;
            return Ok(Step::send(call::lookup(self.dir, name)));
        };
        let file = &self.files[place.count as usize];
        if self.kind == LookupKind::Miss {
            // A node id of 0 says the same, and lets the guest remember it.
            let miss = answer.errno == libc::ENOENT || answer.errno == 0 && answer.u64(0) == 0;
            expect_eq(|| "LOOKUP of an absent name fails".to_owned(), miss, true)?;
            return Ok(Step::Done);
        }
        let ino = answer.ok()?.u64(ENTRY_INO);
        expect_eq(|| "inode of LOOKUP".to_owned(), ino, file.ino)?;
        if self.kind == LookupKind::New {
            place.forgets.push((answer.u64(0), 1));
        } else {
            let node = answer.u64(0);
            expect_eq(|| "node id of LOOKUP".to_owned(), node, file.node)?;
        }
        Ok(Step::Done)
    }

    fn verify(&mut self) -> Result<u64, BenchError> {
        let names = (0..FILES).map(|i| format!("file-{i:04}")).collect();
        expect_names(&self.path, names)
    }
}

/// Components of the path that is walked.
const DEPTH: usize = 8;

pub struct Walk {
    start: u64,
    nodes: Vec<u64>,
    names: Vec<Vec<u8>>,
}

impl Walk {
    pub fn new(lane: LaneDir) -> Result<Self, BenchError> {
        let (mut nodes, mut names) = (Vec::new(), Vec::new());
        let (mut path, mut node) = (lane.path.clone(), lane.node);
        for level in 0..DEPTH {
            let name = format!("component-{level}");
            path.push(&name);
            std::fs::create_dir(&path).map_err(BenchError::io("make", &path))?;
            own(&path, lane.uid)?;
            node = lane.fs.lookup(node, &name)?.nodeid;
            nodes.push(node);
            names.push(name.into_bytes());
        }
        Ok(Walk {
            start: lane.node,
            nodes,
            names,
        })
    }
}

impl Program for Walk {
    fn step(&mut self, place: &mut Place, answer: Option<&Answer>) -> Result<Step, BenchError> {
        let level = place.stage as usize;
        place.stage += 1;
        let mut parent = self.start;
        if let Some(answer) = answer {
            parent = answer.ok()?.u64(0);
            let expected = self.nodes[level - 1];
            expect_eq(|| "node id of LOOKUP".to_owned(), parent, expected)?;
        }
        Ok(match self.names.get(level) {
            Some(name) => Step::send(call::lookup(parent, name)),
            None => Step::Done,
        })
    }

    fn verify(&mut self) -> Result<u64, BenchError> {
        // Every answer was compared.
        Ok(self.nodes.len() as u64)
    }
}

/// A file or directory made and removed again.
pub struct Make {
    lane: LaneDir,
    dir: bool,
    keep: bool,
    kept: Vec<String>,
}

impl Make {
    pub fn new(lane: LaneDir, dir: bool) -> Self {
        Make {
            lane,
            dir,
            keep: false,
            kept: Vec::new(),
        }
    }
}

fn made_name(place: &Place) -> String {
    format!("made-{}-{}", place.slot, place.op)
}

impl Program for Make {
    fn step(&mut self, place: &mut Place, answer: Option<&Answer>) -> Result<Step, BenchError> {
        let parent = self.lane.node;
        let flags = (libc::O_RDWR | libc::O_CREAT | libc::O_EXCL) as u32;
        let name = made_name(place);
        let Some(answer) = answer else {
            return Ok(match self.dir {
                true => Step::send(call::mkdir(parent, name.as_bytes(), 0o755, 0)),
                false => Step::send(call::create(
                    parent,
                    name.as_bytes(),
                    flags,
                    libc::S_IFREG | 0o644,
                    0,
                    0,
                )),
            });
        };
        answer.ok()?;
        place.stage += 1;
        if place.stage == 1 {
            place.node = answer.u64(0);
            if !self.dir {
                let fh = answer.u64(CREATED_FH);
                return Ok(Step::send(call::release(place.node, fh, flags, 0)));
            }
            place.stage += 1;
        }
        if place.stage == 2 {
            if self.keep {
                self.kept.push(name);
                return Ok(Step::Done);
            }
            return Ok(match self.dir {
                true => Step::send(call::rmdir(parent, name.as_bytes())),
                false => Step::send(call::unlink(parent, name.as_bytes())),
            });
        }
        place.forgets.push((place.node, 1));
        Ok(Step::Done)
    }

    fn keep(&mut self) {
        self.keep = true;
    }

    fn verify(&mut self) -> Result<u64, BenchError> {
        let mode = if self.dir { 0o755 } else { 0o644 };
        for name in &self.kept {
            expect_made(&self.lane.path.join(name), self.dir, mode, self.lane.uid)?;
        }
        expect_names(&self.lane.path, self.kept.clone())
    }
}

/// Each place renames a file of its own to and fro.
pub struct Rename {
    lane: LaneDir,
    /// Operations done per place.
    done: Vec<u64>,
}

impl Rename {
    pub fn new(lane: LaneDir) -> Result<Self, BenchError> {
        for slot in 0..lane.depth {
            let name = rename_name(slot, 0);
            lane.host_file(&lane.path.join(&name), b"content\n")?;
            lane.fs.lookup(lane.node, &name)?;
        }
        let done = vec![0; lane.depth];
        Ok(Rename { lane, done })
    }
}

fn rename_name(slot: usize, op: u64) -> String {
    let side = if op % 2 == 0 { "here" } else { "there" };
    format!("{side}-{slot}")
}

impl Program for Rename {
    fn step(&mut self, place: &mut Place, answer: Option<&Answer>) -> Result<Step, BenchError> {
        if let Some(answer) = answer {
            answer.ok()?;
            self.done[place.slot] = place.op + 1;
            return Ok(Step::Done);
        }
        let dir = self.lane.node;
        let from = rename_name(place.slot, place.op);
        let to = rename_name(place.slot, place.op + 1);
        let call = call::rename(dir, from.as_bytes(), dir, to.as_bytes());
        Ok(Step::send(call))
    }

    fn verify(&mut self) -> Result<u64, BenchError> {
        let done = self.done.iter().enumerate();
        let names = done.map(|(slot, op)| rename_name(slot, *op)).collect();
        expect_names(&self.lane.path, names)
    }
}
