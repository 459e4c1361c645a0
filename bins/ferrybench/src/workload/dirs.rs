//! Directory listings.

use ferryfs_frontend::call;

use super::LaneDir;
use crate::engine::{Answer, Place, Program, Step};
use crate::error::{expect_eq, BenchError};

/// opendir, READDIR or READDIRPLUS to the end, releasedir.
pub struct List {
    node: u64,
    plus: bool,
    entries: u64,
    buffer: u32,
    bytes: Vec<u8>,
    /// Sum over all names of a listing, and what it should be.
    names: Vec<u64>,
    expected: u64,
}

impl List {
    pub fn new(lane: LaneDir, plus: bool) -> Result<Self, BenchError> {
        let mut expected = 0u64;
        for i in 0..lane.sizes.entries {
            let name = format!("entry-{i:06}");
            lane.host_file(&lane.path.join(&name), b"")?;
            expected = expected.wrapping_add(digest(name.as_bytes()));
        }
        Ok(List {
            node: lane.node,
            plus,
            entries: lane.sizes.entries,
            buffer: lane.sizes.dir_buffer,
            bytes: Vec::new(),
            names: vec![0; lane.depth],
            expected,
        })
    }

    fn read(&self, place: &Place) -> Step {
        let (fh, offset) = (place.fh, place.offset);
        // More than a small body holds, so the answer goes to the place's data.
        match self.plus {
            true => Step::send(call::readdirplus(self.node, fh, offset, self.buffer)),
            false => Step::send(call::readdir(self.node, fh, offset, self.buffer)),
        }
    }

    fn parse(&mut self, place: &mut Place, len: usize) -> Result<(), BenchError> {
        self.bytes.resize(len, 0);
        place.data.read_at(0, &mut self.bytes)?;
        let skip = if self.plus { ENTRY } else { 0 };
        let mut rest = self.bytes.as_slice();
        while !rest.is_empty() {
            let short = || BenchError::Wrong("a directory entry is cut short".to_owned());
            let header = rest.get(skip..skip + DIRENT).ok_or_else(short)?;
            let word = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
            let name_len = word(&header[16..24]) as u32 as usize;
            let name = rest.get(skip + DIRENT..skip + DIRENT + name_len);
            let name = name.ok_or_else(short)?;
            place.offset = word(&header[8..16]);
            let dot = name == b"." || name == b"..";
            if self.plus {
                let node = word(&rest[..8]);
                if node != 0 {
                    place.forgets.push((node, 1));
                } else if !dot {
                    let name = String::from_utf8_lossy(name);
                    return Err(BenchError::Wrong(format!("{name} was not looked up")));
                }
            }
            if !dot {
                place.count += 1;
                let sum = &mut self.names[place.slot];
                *sum = sum.wrapping_add(digest(name));
            }
            let whole = skip + (DIRENT + name_len).next_multiple_of(8);
            rest = rest.get(whole..).ok_or_else(short)?;
        }
        Ok(())
    }
}

/// Bytes of struct fuse_entry_out before each entry of READDIRPLUS.
const ENTRY: usize = 128;
/// Bytes of struct fuse_dirent before the name.
const DIRENT: usize = 24;

/// A number that tells names apart whatever their order.
fn digest(name: &[u8]) -> u64 {
    let mix = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
    name.iter().fold(0xcbf2_9ce4_8422_2325, mix)
}

impl Program for List {
    fn step(&mut self, place: &mut Place, answer: Option<&Answer>) -> Result<Step, BenchError> {
        let Some(answer) = answer else {
            (place.offset, place.count) = (0, 0);
            self.names[place.slot] = 0;
            let flags = (libc::O_RDONLY | libc::O_DIRECTORY) as u32;
            return Ok(Step::send(call::opendir(self.node, flags)));
        };
        answer.ok()?;
        match place.stage {
            0 => {
                place.fh = answer.u64(0);
                place.stage = 1;
                Ok(self.read(place))
            }
            1 if answer.len > 0 => {
                self.parse(place, answer.len)?;
                Ok(self.read(place))
            }
            1 => {
                place.stage = 2;
                let found = (place.count, self.names[place.slot]);
                let expected = (self.entries, self.expected);
                let what = || "number and names of entries listed".to_owned();
                expect_eq(what, found, expected)?;
                Ok(Step::send(call::releasedir(self.node, place.fh)))
            }
            _ => Ok(Step::Done),
        }
    }

    fn verify(&mut self) -> Result<u64, BenchError> {
        // Every listing was compared.
        Ok(self.entries)
    }
}
