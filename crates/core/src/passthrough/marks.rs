//! What a crossing says of an inode may have changed since it was encoded ahead: requests
//! leave a mark where it may have.
//!
//! Marks are of blocks of nodeids, in a table of fixed size: two blocks that share a slot
//! are only ever encoded once too often. They cost one relaxed load as long as no crossing
//! is being prepared, and then one atomic write; there is no lock.
//!
//! Who changes anything does that first and marks it then; who encodes takes the marks
//! first and looks then. So a change is in what was encoded, or its mark is still there.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::OnceLock;

use crate::types::NodeId;

/// Slots of a table; a power of two.
const SLOTS: usize = 1 << 16;
/// Slots of a word.
const WORD: usize = u64::BITS as usize;

/// A bit for each slot.
type Table = OnceLock<Box<[AtomicU64]>>;

/// The marks of one file system.
#[derive(Debug, Default)]
pub(super) struct Marks {
    on: AtomicBool,
    /// Ids are of one block that are the same without so many low bits.
    shift: AtomicU32,
    /// All inodes are others.
    all: AtomicBool,
    /// By block: inodes of which something is said otherwise now.
    blocks: Table,
    /// By nodeid: directories by which what lies in them is described otherwise now.
    above: Table,
}

/// Marks as they were at one time.
pub(super) struct Taken {
    /// Nothing is as it was.
    pub(super) all: bool,
    blocks: Box<[u64]>,
    above: Box<[u64]>,
    any_above: bool,
}

/// Where the slot of a number is: the word, and the bit in it.
fn slot(number: u64) -> (usize, u64) {
    let slot = number as usize % SLOTS;
    (slot / WORD, 1 << (slot % WORD))
}

impl Marks {
    /// What is said of `node` has changed.
    #[inline]
    pub(super) fn changed(&self, node: NodeId) {
        if self.on.load(Ordering::Relaxed) {
            let shift = self.shift.load(Ordering::Relaxed);
            set(&self.blocks, node.0 >> shift);
        }
    }

    /// What is said of inodes that lie in `directory` may have changed.
    #[inline]
    pub(super) fn changed_above(&self, directory: NodeId) {
        if self.on.load(Ordering::Relaxed) {
            set(&self.above, directory.0);
        }
    }

    /// The guest has other inodes now.
    pub(super) fn changed_all(&self) {
        self.all.store(true, Ordering::SeqCst);
    }

    /// Starts marking blocks of `1 << shift` ids. Everything counts as changed.
    pub(super) fn begin(&self, shift: u32) {
        let table = || (0..SLOTS / WORD).map(|_| AtomicU64::new(0)).collect();
        self.blocks.get_or_init(table);
        self.above.get_or_init(table);
        self.shift.store(shift, Ordering::SeqCst);
        self.all.store(true, Ordering::SeqCst);
        self.on.store(true, Ordering::SeqCst);
    }

    /// Whether changes leave marks.
    #[cfg(test)]
    pub(super) fn are_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Ends it.
    pub(super) fn end(&self) {
        self.on.store(false, Ordering::SeqCst);
    }

    /// Takes the marks: what changes from here on leaves new ones.
    pub(super) fn take(&self) -> Taken {
        let all = self.all.swap(false, Ordering::SeqCst);
        let above = take(&self.above);
        Taken {
            all,
            blocks: take(&self.blocks),
            any_above: above.iter().any(|word| *word != 0),
            above,
        }
    }
}

#[cold]
fn set(table: &Table, number: u64) {
    if let Some(table) = table.get() {
        let (word, bit) = slot(number);
        // A write, though it is set most of the time: it comes after the change in the
        // order that all threads see.
        table[word].fetch_or(bit, Ordering::SeqCst);
    }
}

fn take(table: &Table) -> Box<[u64]> {
    // Nearly all words are empty, and a guest may stand still while they are exchanged. What
    // is set in one just now is taken the next time.
    let taken = |word: &AtomicU64| match word.load(Ordering::Relaxed) {
        0 => 0,
        _ => word.swap(0, Ordering::SeqCst),
    };
    let words = table.get().into_iter().flatten();
    words.map(taken).collect()
}

fn is_set(words: &[u64], number: u64) -> bool {
    let (word, bit) = slot(number);
    words.get(word).is_some_and(|word| word & bit != 0)
}

impl Taken {
    /// Whether anything in `block` has changed.
    pub(super) fn block(&self, block: u64) -> bool {
        self.all || is_set(&self.blocks, block)
    }

    /// Whether any of these directories describes what lies in it otherwise.
    pub(super) fn any_of(&self, directories: &[NodeId]) -> bool {
        self.any_above && directories.iter().any(|node| is_set(&self.above, node.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_left_between_begin_and_end_and_taken_once() {
        let marks = Marks::default();
        marks.changed(NodeId(5000));
        marks.begin(12);
        assert!(marks.take().all, "what was before is not known");
        let none = marks.take();
        assert!(!none.all && !none.block(1) && !none.any_of(&[NodeId(7)]));
        marks.changed(NodeId(5000));
        marks.changed_above(NodeId(7));
        let taken = marks.take();
        assert!(taken.block(1) && !taken.block(0) && !taken.block(2));
        assert!(taken.any_of(&[NodeId(8), NodeId(7)]) && !taken.any_of(&[NodeId(8)]));
        assert!(!marks.take().block(1));
        // Far apart, and in the same slot.
        marks.changed(NodeId((SLOTS as u64 + 1) << 12));
        assert!(marks.take().block(1));
        marks.end();
        marks.changed(NodeId(5000));
        assert!(!marks.take().block(1));
        marks.changed_all();
        assert!(marks.take().block(1));
    }
}
