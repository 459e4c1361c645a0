//! Source side: inodes encoded before the device is stopped.
//!
//! What a stream has of the inodes is made a range of ids at a time
//! ([`ferryfs_state::pieces`]). Precopy makes all of it while the guest goes on, and makes
//! again what has changed since ([`marks`](super::super::marks)); after the stop there is
//! nothing left to do for what has not changed in the last moment. Without precopy, as for
//! a snapshot, all of it is made then, on all processors. In no case is there a record of
//! each inode: those of one range are made, encoded and dropped.
//!
//! A piece depends on its inodes, and on the directories that they lie in as far as the
//! guest knows these or not. The numbers that the stream has for file systems and mounts
//! are those of the order in which they are met, going up by id; where that turns out to
//! be another one, what has the old numbers is made again. So pieces do not tell when they
//! were made: together they are what they would be had all been made after the stop.

mod blocks;
mod numbers;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferryfs_state::pieces::{ranges, Piece};
use ferryfs_state::{error_line, FileSystem, Format, Location, Mount, StateError};

use super::super::inode::{InodeArc, Inodes};
use super::super::marks::Taken;
use super::super::Passthrough;
use super::describe::{Described, Describer, Loss};
use crate::parallel::in_parallel;
use crate::types::NodeId;
use blocks::{Block, Blocks};
use numbers::Numbers;

/// How often what is known is made again because it does not fit together. Twice is
/// enough as long as nobody changes anything.
const MOST_ROUNDS: usize = 10;

/// Inodes encoded so far.
pub(super) struct Ahead {
    format: Arc<dyn Format>,
    blocks: Blocks,
    chunks: Vec<Chunk>,
    numbers: Mutex<Numbers>,
    /// How many ranges were encoded after the stop.
    late: usize,
    /// The memory of ranges described before; one for each thread that does that.
    spare: Mutex<Vec<Described>>,
}

/// The inodes of one range.
struct Chunk {
    /// The first and the last block.
    blocks: (u64, u64),
    /// `None`: to be made.
    made: Option<Made>,
}

/// What was made of a range, and what of.
struct Made {
    piece: Piece,
    /// Directories that it depends on beside its own inodes, ascending.
    above: Vec<NodeId>,
    /// File systems and mounts that it has numbers of, in the order in which they are met.
    devices: Vec<u64>,
    mounts: Vec<u32>,
    losses: Vec<Loss>,
    /// Only good for as long as nothing on the host changes.
    fleeting: bool,
}

/// The inodes of a range as they are in the tables.
#[derive(Default)]
struct Found {
    inodes: Vec<InodeArc>,
    /// Its blocks, and where those of each end.
    blocks: Vec<(Block, usize)>,
}

/// What has come of it.
pub(super) struct Whole {
    pub(super) pieces: Vec<Piece>,
    pub(super) file_systems: Vec<FileSystem>,
    pub(super) mounts: Vec<Mount>,
    pub(super) losses: Vec<Loss>,
    /// How many pieces had to be made after the stop, some of them twice.
    pub(super) late: usize,
}

impl Whole {
    /// What each crossing of each test must show: whenever its pieces were made, they are
    /// what they would be now.
    #[cfg(test)]
    pub(super) fn is_as_if_made_now(&self, now: Whole) {
        let lost = |whole: &Whole| -> Vec<_> {
            let losses = whole.losses.iter();
            losses.map(|loss| (loss.inode.id(), loss.why)).collect()
        };
        assert_eq!(lost(self), lost(&now));
        assert_eq!(self.file_systems, now.file_systems);
        assert_eq!(self.mounts, now.mounts);
        assert_eq!(self.pieces.len(), now.pieces.len());
        for (ahead, now) in self.pieces.iter().zip(&now.pieces) {
            assert_eq!(ahead, now, "a change has left no mark");
        }
    }

    /// Nodeids of directories that are somewhere.
    pub(super) fn directories(&self) -> HashSet<u64> {
        let records = self.pieces.iter().flat_map(Piece::directory_records);
        records
            .filter(|record| record.kind == libc::S_IFDIR)
            .filter(|record| !matches!(record.location, Location::Lost { .. }))
            .map(|record| record.id)
            .collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ahead {
    /// Nothing encoded yet. Blocks are of `1 << shift` ids; `boot` is the host's boot id.
    pub(super) fn new(format: Arc<dyn Format>, shift: u32, boot: Option<[u8; 16]>) -> Ahead {
        Ahead {
            format,
            blocks: Blocks::new(shift),
            chunks: Vec::new(),
            numbers: Mutex::new(Numbers::new(boot)),
            late: 0,
            spare: Mutex::default(),
        }
    }

    /// Whether it has been encoded in `format`.
    pub(super) fn is_in(&self, format: &dyn Format) -> bool {
        self.format.name() == format.name()
    }

    /// Whether there is nothing that it knows of.
    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Gives `see` the directories that there were when it was last brought up to date, and
    /// those that others are described by, which the guest need not know any more; some of
    /// them repeatedly.
    pub(super) fn directories(&self, inodes: &Inodes, see: &mut dyn FnMut(NodeId)) {
        for chunk in &self.chunks {
            if let Some(made) = &chunk.made {
                made.piece.directories().map(NodeId).for_each(&mut *see);
                made.above.iter().copied().for_each(&mut *see);
                continue;
            }
            for block in self.blocks.between(chunk.blocks) {
                let inodes = block.clone().inodes(inodes, self.blocks.shift());
                let directories = inodes.iter().filter(|inode| inode.is_dir());
                directories.for_each(|inode| see(inode.id()));
            }
        }
    }

    /// Encodes what has changed since the last time, while the guest goes on; as long as
    /// `go_on` says so. The inodes of each range go by `see` before, which says whether to
    /// encode them. Answers how many pieces were made.
    pub(super) fn keep_up(
        &mut self,
        describer: &Describer<'_>,
        taken: &Taken,
        go_on: &dyn Fn() -> bool,
        see: &mut dyn FnMut(&[InodeArc]) -> bool,
    ) -> usize {
        self.note(describer.inodes, taken);
        self.arrange();
        let mut made = 0;
        for at in 0..self.chunks.len() {
            if self.chunks[at].made.is_some() {
                continue;
            }
            if !go_on() {
                break;
            }
            let found = self.inodes_of(&self.chunks[at], describer.inodes);
            if !see(&found.inodes) {
                continue;
            }
            match self.make(found, describer, None) {
                Ok((new, counted)) => {
                    self.chunks[at].made = Some(new);
                    self.blocks.count(counted);
                    made += 1;
                }
                // Told when it is tried again after the stop.
                Err(e) => log::debug!("not encoded ahead: {}", error_line(&e)),
            }
        }
        // Not kept until the next time.
        lock(&self.spare).clear();
        made
    }

    /// The device is stopped: encodes what is still to be encoded. `describer` knows what
    /// is lost; `fs` finds mounts.
    ///
    /// # Errors
    /// In words: a record cannot be written.
    pub(super) fn finish(
        mut self,
        fs: &Passthrough,
        describer: &Describer<'_>,
        taken: &Taken,
    ) -> Result<Whole, String> {
        self.note(describer.inodes, taken);
        self.forget_some(describer);
        if !lock(&self.numbers).find_mounts(fs) {
            self.forget_numbered();
        }
        for _ in 0..MOST_ROUNDS {
            let left = self.make_all(fs, describer)?;
            if !self.blocks.are_all(describer.inodes) {
                self.enumerate(describer.inodes);
                continue;
            }
            if !left && self.renumber() {
                return Ok(self.into_whole());
            }
        }
        Err("inodes come and go while the device is stopped: please report it".to_owned())
    }

    /// Forgets what was made of what has changed.
    fn note(&mut self, inodes: &Inodes, taken: &Taken) {
        if taken.all || self.blocks.is_empty() {
            return self.enumerate(inodes);
        }
        self.blocks.add_new(inodes);
        self.blocks.revive(|block| taken.block(block));
        for chunk in &mut self.chunks {
            let Some(made) = &chunk.made else { continue };
            let changed = self.blocks.between(chunk.blocks).iter();
            if changed.map(Block::number).any(|block| taken.block(block))
                || taken.any_of(&made.above)
            {
                chunk.made = None;
            }
        }
    }

    fn enumerate(&mut self, inodes: &Inodes) {
        self.blocks.enumerate(inodes);
        self.chunks.clear();
    }

    /// Forgets what was made before it was known what is lost, and what others may have
    /// changed meanwhile.
    fn forget_some(&mut self, describer: &Describer<'_>) {
        let shift = self.blocks.shift();
        let lost: HashSet<u64> = describer.lost.iter().map(|id| id.0 >> shift).collect();
        for chunk in &mut self.chunks {
            let mut blocks = self.blocks.between(chunk.blocks).iter();
            let stays = chunk.made.as_ref().is_some_and(|made| {
                !made.fleeting
                    && made.losses.is_empty()
                    && !blocks.any(|block| lost.contains(&block.number()))
            });
            if !stays {
                chunk.made = None;
            }
        }
    }

    /// Forgets everything that has numbers in it.
    fn forget_numbered(&mut self) {
        for chunk in &mut self.chunks {
            let numbered = |made: &Made| !made.devices.is_empty() || !made.mounts.is_empty();
            if chunk.made.as_ref().is_some_and(numbered) {
                chunk.made = None;
            }
        }
    }

    /// Brings the chunks to where the ranges are.
    fn arrange(&mut self) {
        let counts = self.blocks.counts();
        let mut old = std::mem::take(&mut self.chunks).into_iter().peekable();
        for range in ranges(&counts, self.blocks.shift()) {
            let blocks = (counts[range.start].0, counts[range.end - 1].0);
            while old.next_if(|chunk| chunk.blocks.0 < blocks.0).is_some() {}
            let same = old.next_if(|chunk| chunk.blocks == blocks);
            let made = same.and_then(|chunk| chunk.made);
            self.chunks.push(Chunk { blocks, made });
        }
    }

    /// Makes what is to be made, on all processors. Answers whether the ranges are others
    /// now.
    fn make_all(&mut self, fs: &Passthrough, describer: &Describer<'_>) -> Result<bool, String> {
        self.arrange();
        let left: Vec<usize> = (0..self.chunks.len())
            .filter(|at| self.chunks[*at].made.is_none())
            .collect();
        self.late += left.len();
        // Numbers are given in order, as far as they can be, lest it is all done twice.
        let (first, rest) = left.split_at(left.len().min(1));
        for part in [first, rest] {
            let made = in_parallel(part, |at| {
                let found = self.inodes_of(&self.chunks[*at], describer.inodes);
                self.make(found, describer, Some(fs))
            });
            for (at, made) in part.iter().zip(made) {
                let (made, counted) = made.map_err(|e: StateError| error_line(&e))?;
                self.chunks[*at].made = Some(made);
                self.blocks.count(counted);
            }
        }
        self.arrange();
        Ok(self.chunks.iter().any(|chunk| chunk.made.is_none()))
    }

    /// What is in the tables of `chunk`.
    fn inodes_of(&self, chunk: &Chunk, tables: &Inodes) -> Found {
        let mut found = Found::default();
        for block in self.blocks.between(chunk.blocks) {
            let mut block = block.clone();
            let mut inodes = block.inodes(tables, self.blocks.shift());
            found.inodes.append(&mut inodes);
            found.blocks.push((block, found.inodes.len()));
        }
        found
    }

    /// Describes and encodes what was found of a chunk. Answers also how many of them there
    /// are in each block.
    fn make(
        &self,
        found: Found,
        describer: &Describer<'_>,
        fs: Option<&Passthrough>,
    ) -> Result<(Made, Vec<Block>), StateError> {
        let mut described = lock(&self.spare).pop().unwrap_or_default();
        described.clear();
        let mut counted = Vec::with_capacity(found.blocks.len());
        let mut start = 0;
        for (mut block, end) in found.blocks {
            let before = described.records.len();
            for inode in &found.inodes[start..end] {
                describer.describe(inode, &mut described);
            }
            block.set_records(described.records.len() - before);
            counted.push(block);
            start = end;
        }
        let numbers = || lock(&self.numbers);
        let mounts: Vec<_> = described
            .mounts
            .iter()
            .map(|(id, inode)| numbers().mount(*id, inode, fs))
            .collect();
        let devices: Vec<_> = described
            .devices
            .iter()
            .map(|inode| numbers().device(inode))
            .collect();
        described.number(describer.inodes, &mounts, &devices);
        let mut above = std::mem::take(&mut described.above);
        above.sort_unstable();
        above.dedup();
        above.shrink_to_fit();
        let used = |number: &Option<u32>| number.is_some();
        let made = Made {
            piece: Piece::encode(&*self.format, &described.records, &described.identities)?,
            above,
            devices: described
                .devices
                .iter()
                .zip(&devices)
                .filter(|(_, number)| used(number))
                .map(|(inode, _)| inode.numbers().dev)
                .collect(),
            mounts: described
                .mounts
                .iter()
                .zip(&mounts)
                .filter(|(_, number)| used(number))
                .map(|((id, _), _)| *id)
                .collect(),
            losses: std::mem::take(&mut described.losses),
            fleeting: described.fleeting,
        };
        lock(&self.spare).push(described);
        Ok((made, counted))
    }

    /// Whether file systems and mounts have the numbers that they should have. Gives them
    /// these, and forgets what was made with others.
    fn renumber(&mut self) -> bool {
        let made = || self.chunks.iter().filter_map(|chunk| chunk.made.as_ref());
        let devices = in_order(made().flat_map(|made| made.devices.iter().copied()));
        let mounts = in_order(made().flat_map(|made| made.mounts.iter().copied()));
        let same = lock(&self.numbers).set_order(&devices, &mounts);
        if !same {
            self.forget_numbered();
        }
        same
    }

    fn into_whole(self) -> Whole {
        let mut pieces = Vec::with_capacity(self.chunks.len());
        let mut losses = Vec::new();
        for made in self.chunks.into_iter().filter_map(|chunk| chunk.made) {
            pieces.push(made.piece);
            losses.extend(made.losses);
        }
        let numbers = self
            .numbers
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let (file_systems, mounts) = numbers.into_records();
        Whole {
            pieces,
            file_systems,
            mounts,
            losses,
            late: self.late,
        }
    }
}

/// Each of `all` once, in the order of the first time.
fn in_order<T: Copy + Eq + std::hash::Hash>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = HashSet::new();
    all.filter(|one| seen.insert(*one)).collect()
}
