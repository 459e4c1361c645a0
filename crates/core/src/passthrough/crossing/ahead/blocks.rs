//! Which nodeids there are, by blocks of neighbours.

use super::super::super::inode::{InodeArc, Inodes};
use super::super::ids::Ids;

/// Ids for each inode in a block up to which it is asked for all of them: beyond, it is
/// remembered which there are.
const SPARSE: usize = 4;

/// Inodes with neighbouring ids.
#[derive(Clone)]
pub(super) struct Block {
    /// What is left of the ids without their low bits.
    number: u64,
    /// What may be there of it; `None`: any.
    members: Option<Box<[u16]>>,
    /// How many there are in the tables, and how many of these the guest knows.
    present: u32,
    records: u32,
}

/// All of them, by ascending number, also such as have become empty.
pub(super) struct Blocks {
    shift: u32,
    /// All ids below have been looked for.
    next: u64,
    all: Vec<Block>,
}

impl Block {
    fn with(number: u64, members: Vec<u16>, shift: u32) -> Block {
        let count = members.len();
        let few = count * SPARSE < 1 << shift;
        Block {
            number,
            members: few.then(|| members.into_boxed_slice()),
            present: count as u32,
            records: count as u32,
        }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// How many of them are in the stream.
    pub(super) fn set_records(&mut self, records: usize) {
        self.records = records as u32;
    }

    /// Those that are in the tables, by ascending id; counts them.
    pub(super) fn inodes(&mut self, inodes: &Inodes, shift: u32) -> Vec<InodeArc> {
        let first = self.number << shift;
        let ids: Vec<u64> = match &self.members {
            Some(members) => members.iter().map(|low| first | u64::from(*low)).collect(),
            None => (first..=first | ((1 << shift) - 1)).collect(),
        };
        let found: Vec<_> = inodes.get_all(&ids).into_iter().flatten().collect();
        self.present = found.len() as u32;
        found
    }
}

impl Blocks {
    pub(super) fn new(shift: u32) -> Blocks {
        debug_assert!(shift <= u16::BITS);
        Blocks {
            shift,
            next: 0,
            all: Vec::new(),
        }
    }

    pub(super) fn shift(&self) -> u32 {
        self.shift
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Asks the tables for everything that there is.
    pub(super) fn enumerate(&mut self, inodes: &Inodes) {
        self.all.clear();
        // Ids that are being given now are looked for by number.
        self.next = inodes.next();
        let ids = Ids::of(inodes);
        let mask = (1 << self.shift) - 1;
        let mut members = Vec::new();
        let mut ids = ids.iter().peekable();
        while let Some(id) = ids.next() {
            members.push((id & mask) as u16);
            let number = id >> self.shift;
            if ids.peek().is_none_or(|next| next >> self.shift != number) {
                let members = std::mem::take(&mut members);
                self.all.push(Block::with(number, members, self.shift));
            }
        }
        // The last one is being filled.
        let last = (self.next - 1) >> self.shift;
        match self.all.last_mut() {
            Some(block) if block.number >= last => block.members = None,
            _ => self.all.push(self.unknown(last)),
        }
    }

    /// A block of which nothing is known yet.
    fn unknown(&self, number: u64) -> Block {
        Block {
            number,
            members: None,
            present: 0,
            records: 1 << self.shift,
        }
    }

    /// Adds blocks of ids that have been given since.
    pub(super) fn add_new(&mut self, inodes: &Inodes) {
        let next = inodes.next();
        let known = self.all.last().map_or(0, |block| block.number + 1);
        for number in known.max((self.next - 1) >> self.shift)..=(next - 1) >> self.shift {
            self.all.push(self.unknown(number));
        }
        self.next = next;
    }

    /// Blocks that had nothing for a stream in them, and may have now.
    pub(super) fn revive(&mut self, has_changed: impl Fn(u64) -> bool) {
        let empty = self.all.iter_mut().filter(|block| block.records == 0);
        for block in empty.filter(|block| has_changed(block.number)) {
            block.records = 1;
        }
    }

    fn position(&self, number: u64) -> usize {
        self.all.partition_point(|block| block.number < number)
    }

    /// Blocks from `first` to `last`.
    pub(super) fn between(&self, (first, last): (u64, u64)) -> &[Block] {
        let end = self.all.partition_point(|block| block.number <= last);
        &self.all[self.position(first)..end]
    }

    /// Takes over what was found in some blocks.
    pub(super) fn count(&mut self, counted: Vec<Block>) {
        for block in counted {
            let at = self.position(block.number);
            if let Some(known) = self.all.get_mut(at).filter(|b| b.number == block.number) {
                (known.present, known.records) = (block.present, block.records);
            }
        }
    }

    /// Those with anything for a stream in them, with how much.
    pub(super) fn counts(&self) -> Vec<(u64, u32)> {
        let counts = self.all.iter().map(|block| (block.number, block.records));
        counts.filter(|(_, records)| *records > 0).collect()
    }

    /// Whether there is nothing in the tables but what has been found in blocks.
    pub(super) fn are_all(&self, inodes: &Inodes) -> bool {
        let found: usize = self.all.iter().map(|block| block.present as usize).sum();
        found == inodes.len()
    }
}
