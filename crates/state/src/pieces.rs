//! A state whose inodes are encoded before it is written, a piece at a time.
//!
//! A guest knows millions of inodes, and few of them change in the second before it is
//! stopped. So the frames of inodes, and of their identities, are cut by ranges of ids
//! ([`ranges`]): which range an inode belongs to depends on the ids near its own, and a
//! [`Piece`], what the stream has of one range, stays good until an inode in it changes.
//! Whoever has all pieces of a state, however long ago each was encoded, and the rest of
//! it, has its stream ([`write_pieces`]): byte for byte what
//! [`write_state`](crate::write_state) makes of the same state.

use std::io::Write;

use crate::convert::{Outline, WriteOptions};
use crate::envelope::WriterInfo;
use crate::error::StateError;
use crate::format::Format;
use crate::limits::Limits;
use crate::model::{FsState, Identity, Inode, Location, State};
use crate::section::{frames, FrameRef, RECORDS_PER_FRAME};
use crate::validate::{check_links, Checker, Invalid, Problem, Subject, ID_LIMIT, ROOT_ID};
use crate::version::StateVersion;
use crate::writer::{EncodedFrame, StreamWriter};

/// How many low bits of an id its block does not depend on: blocks are the smallest
/// ranges. No more inodes than there are ids in one share a range.
pub const BLOCK_SHIFT: u32 = RECORDS_PER_FRAME.trailing_zeros();

/// Blocks that are in one range, as positions in what was given to [`ranges`].
pub type BlockRange = std::ops::Range<usize>;

/// Which blocks share a range. `blocks` are those with inodes in them, ascending, each
/// with how many; a block is `id >> shift`.
///
/// A range has as many blocks as a power of two says, and begins at a multiple of that. It
/// is the largest such with no more than `1 << shift` inodes. So what is not near changes
/// nothing about a range, and any two ranges that are halves of a larger one have more
/// inodes than one may have.
pub fn ranges(blocks: &[(u64, u32)], shift: u32) -> Vec<BlockRange> {
    let most = 1u64 << shift;
    let mut ranges = Vec::new();
    let mut start = 0;
    while start < blocks.len() {
        let before = start.checked_sub(1).map(|at| blocks[at].0);
        let (block, count) = blocks[start];
        let (mut end, mut total) = (start + 1, u64::from(count));
        let (mut ahead, mut sum) = (end, total);
        for bits in 1..u64::BITS {
            let first = block >> bits << bits;
            if before.is_some_and(|before| before >= first) {
                break;
            }
            let behind = (first | ((1 << bits) - 1)).saturating_add(1);
            while blocks.get(ahead).is_some_and(|(block, _)| *block < behind) {
                sum += u64::from(blocks[ahead].1);
                ahead += 1;
            }
            if sum > most {
                break;
            }
            (end, total) = (ahead, sum);
            if end == blocks.len() && first == 0 {
                break;
            }
        }
        debug_assert!(total <= most.max(u64::from(count)));
        ranges.push(start..end);
        start = end;
    }
    ranges
}

/// Cuts records with these ids, ascending, by ranges; answers where each range's end.
fn cuts(ids: impl Iterator<Item = u64>) -> Vec<usize> {
    let mut blocks: Vec<(u64, u32)> = Vec::new();
    for id in ids {
        let block = id >> BLOCK_SHIFT;
        match blocks.last_mut() {
            Some((last, count)) if *last == block => *count += 1,
            _ => blocks.push((block, 1)),
        }
    }
    let mut end = 0;
    ranges(&blocks, BLOCK_SHIFT)
        .into_iter()
        .map(|range| {
            let counts = blocks[range].iter().map(|(_, count)| *count as usize);
            end += counts.sum::<usize>();
            end
        })
        .collect()
}

/// The frames of a whole state's inodes and identities, cut by ranges.
pub(crate) fn frames_by_range(fs: &FsState) -> (Vec<FrameRef<'_>>, Vec<FrameRef<'_>>) {
    let (mut inodes, mut identities) = (Vec::new(), Vec::new());
    let (mut start, mut told) = (0, 0);
    for end in cuts(fs.inodes.iter().map(|inode| inode.id)) {
        inodes.extend(frames(&fs.inodes[start..end]));
        let last = fs.inodes[end - 1].id;
        let of_these = fs.identities[told..].partition_point(|identity| identity.inode <= last);
        identities.extend(frames(&fs.identities[told..told + of_these]));
        (start, told) = (end, told + of_these);
    }
    // Those of inodes that are not there; refused before it comes to that.
    identities.extend(frames(&fs.identities[told..]));
    (inodes, identities)
}

/// What a stream has of the inodes in one range: frames, and what it takes to check that
/// they and the rest of the state fit together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    inodes: Vec<EncodedFrame>,
    identities: Vec<EncodedFrame>,
    ids: Option<(u64, u64)>,
    records: u64,
    /// Without their names.
    directories: Vec<Inode>,
    /// Inodes that others lie in, mounts and file systems that are referred to: each once,
    /// ascending.
    parents: Vec<u64>,
    mounts: Vec<u32>,
    file_systems: Vec<u32>,
}

/// `inode` without its name.
fn outline(inode: &Inode) -> Inode {
    let location = match &inode.location {
        Location::Child { parent, .. } => Location::Child {
            parent: *parent,
            name: Default::default(),
        },
        Location::Path { from, .. } => Location::Path {
            from: *from,
            components: Vec::new(),
        },
        Location::Handle(handle) => Location::Handle(crate::FileHandle {
            mount: handle.mount,
            kind: handle.kind,
            bytes: Default::default(),
        }),
        other => other.clone(),
    };
    Inode { location, ..*inode }
}

fn unwritable(subject: Subject, problem: Problem) -> StateError {
    StateError::Unwritable(Invalid { subject, problem })
}

/// Puts `list` in order, each element once.
fn settle<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort_unstable();
    list.dedup();
    list.shrink_to_fit();
    list
}

impl Piece {
    /// Checks and encodes the inodes of one range, by ascending id, and those identities
    /// that are theirs, ascending.
    ///
    /// # Errors
    /// A record that no reader would take; an identity of none of the inodes; what the
    /// format cannot say.
    pub fn encode(
        format: &dyn Format,
        inodes: &[Inode],
        identities: &[Identity],
    ) -> Result<Piece, StateError> {
        let mut checker = Checker::new(&Limits::default());
        for frame in [FrameRef::Inodes(inodes), FrameRef::Identities(identities)] {
            checker.frame(frame).map_err(StateError::Unwritable)?;
        }
        let mut rest = inodes.iter();
        for identity in identities {
            if !rest.any(|inode| inode.id == identity.inode) {
                return Err(unwritable(
                    Subject::Identity(identity.inode),
                    Problem::NoSuchInode,
                ));
            }
        }
        let mut piece = Piece {
            inodes: Vec::new(),
            identities: Vec::new(),
            ids: inodes.first().zip(inodes.last()).map(|(a, b)| (a.id, b.id)),
            records: inodes.len() as u64,
            directories: Vec::new(),
            parents: Vec::new(),
            mounts: Vec::new(),
            file_systems: Vec::new(),
        };
        for inode in inodes {
            match &inode.location {
                // Neighbours lie in one directory.
                Location::Child { parent: above, .. } | Location::Path { from: above, .. }
                    if piece.parents.last() != Some(above) =>
                {
                    piece.parents.push(*above);
                }
                Location::Handle(handle) if piece.mounts.last() != Some(&handle.mount) => {
                    piece.mounts.push(handle.mount);
                }
                _ => {}
            }
            if inode.kind == DIRECTORY || inode.id == ROOT_ID {
                piece.directories.push(outline(inode));
            }
        }
        for identity in identities {
            if piece.file_systems.last() != Some(&identity.file_system) {
                piece.file_systems.push(identity.file_system);
            }
        }
        piece.parents = settle(piece.parents);
        piece.mounts = settle(piece.mounts);
        piece.file_systems = settle(piece.file_systems);
        piece.directories.shrink_to_fit();
        let mut buffer = Vec::new();
        for frame in frames(inodes) {
            piece
                .inodes
                .push(EncodedFrame::fitted(format, frame, &mut buffer)?);
        }
        for frame in frames(identities) {
            let encoded = EncodedFrame::fitted(format, frame, &mut buffer)?;
            piece.identities.push(encoded);
        }
        Ok(piece)
    }

    /// How many inodes there are in it.
    pub fn inodes(&self) -> u64 {
        self.records
    }

    /// Nodeids of the directories in it, and of the root.
    pub fn directories(&self) -> impl Iterator<Item = u64> + '_ {
        self.directories.iter().map(|inode| inode.id)
    }

    /// Those records, without names.
    pub fn directory_records(&self) -> &[Inode] {
        &self.directories
    }

    /// Its length in a stream in bytes.
    pub fn stream_len(&self) -> usize {
        let frames = self.inodes.iter().chain(&self.identities);
        frames.map(EncodedFrame::stream_len).sum()
    }
}

/// `S_IFDIR`.
const DIRECTORY: u32 = 0o040000;

/// Checks that pieces and the rest of a state belong together. Of `state`'s own inodes
/// there are those that handles, locks and ghosts are of.
fn check(state: &mut State, pieces: &[Piece]) -> Result<(), StateError> {
    let fs = &state.fs;
    let limits = Limits::default();
    let mut last = None;
    let mut records = 0;
    for piece in pieces {
        let Some((first, end)) = piece.ids else {
            continue;
        };
        if let Some(last) = last.filter(|last| first <= *last) {
            return Err(unwritable(Subject::Inode(first), Problem::Order(last)));
        }
        last = Some(end);
        records += piece.records;
        if records > limits.inodes {
            let problem = Problem::TooMany(limits.inodes);
            return Err(unwritable(Subject::Inode(first), problem));
        }
    }
    if let Some(last) = last.filter(|last| fs.next_inode <= *last || fs.next_inode >= ID_LIMIT) {
        let problem = Problem::Counter {
            name: "next_inode",
            value: fs.next_inode,
            above: last,
        };
        return Err(unwritable(Subject::Counters, problem));
    }

    // Everything that anything else refers to, as a state of its own.
    let referred = std::mem::take(&mut state.fs.inodes);
    let directories = pieces.iter().flat_map(|piece| &piece.directories);
    let mut skeleton: Vec<Inode> = directories.cloned().collect();
    let known = skeleton.len();
    for inode in &referred {
        let found = skeleton[..known].binary_search_by_key(&inode.id, |i| i.id);
        if found.is_err() {
            skeleton.push(outline(inode));
        }
    }
    skeleton.sort_by_key(|inode| inode.id);
    state.fs.inodes = skeleton;
    check_links(state).map_err(StateError::Unwritable)?;
    let fs = &state.fs;
    let directory = |id: &u64| {
        let at = fs.inodes.binary_search_by_key(id, |inode| inode.id);
        at.is_ok_and(|at| fs.inodes[at].kind == DIRECTORY)
    };
    for piece in pieces {
        let subject = Subject::Inode(piece.ids.map_or(0, |(first, _)| first));
        if let Some(parent) = piece.parents.iter().find(|parent| !directory(parent)) {
            return Err(unwritable(subject, Problem::MissingParent(*parent)));
        }
        for mount in &piece.mounts {
            if fs.mounts.binary_search_by_key(mount, |m| m.id).is_err() {
                return Err(unwritable(subject, Problem::UnknownMount(*mount)));
            }
        }
        for number in &piece.file_systems {
            if fs
                .file_systems
                .binary_search_by_key(number, |f| f.id)
                .is_err()
            {
                return Err(unwritable(subject, Problem::UnknownFileSystem(*number)));
            }
        }
    }
    Ok(())
}

/// Writes a state in pieces for readers of today. `state` is the rest of it: of inodes it
/// has those (names may be missing) that its handles, locks and ghosts are of, which are in
/// the pieces as well, and no identities. Everything is checked before the first byte.
/// `forced` is [`WriteOptions::forced`]. Answers the stream's length in bytes.
///
/// # Errors
/// As [`write_state`](crate::write_state).
pub fn write_pieces(
    mut state: State,
    pieces: &[Piece],
    format: &dyn Format,
    writer: &WriterInfo,
    forced: Option<StateVersion>,
    out: &mut dyn Write,
) -> Result<u64, StateError> {
    let options = WriteOptions {
        forced,
        ..WriteOptions::default()
    };
    check(&mut state, pieces)?;
    let outline = Outline::new(&state, &options)?;
    let fs = &state.fs;
    let counters = fs.counters();
    let session = state.session.as_ref().map(FrameRef::Session);
    let before: Vec<FrameRef<'_>> = session
        .into_iter()
        .chain([FrameRef::Counters(&counters)])
        .chain(frames(&fs.mounts))
        .collect();
    let between: Vec<FrameRef<'_>> = frames(&fs.handles)
        .chain(frames(&fs.file_systems))
        .collect();
    let after: Vec<FrameRef<'_>> = frames(&fs.locks)
        .chain(frames(&fs.requests))
        .chain(frames(&fs.ghosts))
        .chain(frames(&fs.ghost_data))
        .collect();
    let mut checker = Checker::new(&Limits::default());
    for frame in before.iter().chain(&between).chain(&after) {
        checker.frame(*frame).map_err(StateError::Unwritable)?;
    }
    let mut stream = StreamWriter::of_checked(out, format, writer, &outline, &options)?;
    for frame in before {
        stream.frame(frame)?;
    }
    stream.encoded_all(pieces.iter().flat_map(|piece| &piece.inodes))?;
    for frame in between {
        stream.frame(frame)?;
    }
    stream.encoded_all(pieces.iter().flat_map(|piece| &piece.identities))?;
    for frame in after {
        stream.frame(frame)?;
    }
    Ok(stream.finish()?.1.bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    /// By the definition: of all ranges around each id, the largest that fits.
    fn by_definition(ids: &[u64], shift: u32) -> Vec<Vec<u64>> {
        let count = |bits: u32, id: u64| {
            let same = ids.iter().filter(|other| *other >> bits == id >> bits);
            same.count() as u64
        };
        let mut ranges: BTreeMap<(u64, u32), Vec<u64>> = BTreeMap::new();
        for id in ids {
            // A range of 2^63 holds everything, as no id is larger.
            let fits = |bits: &u32| *bits == shift || count(*bits, *id) <= 1 << shift;
            let bits = (shift..=63).take_while(fits).last().unwrap();
            ranges
                .entry((id >> bits << bits, bits))
                .or_default()
                .push(*id);
        }
        ranges.into_values().collect()
    }

    fn cut(ids: &[u64], shift: u32) -> Vec<Vec<u64>> {
        let mut blocks: BTreeMap<u64, u32> = BTreeMap::new();
        for id in ids {
            *blocks.entry(id >> shift).or_default() += 1;
        }
        let blocks: Vec<(u64, u32)> = blocks.into_iter().collect();
        let of = |range: BlockRange| {
            let range = &blocks[range];
            let (first, last) = (range[0].0, range[range.len() - 1].0);
            let ids = ids.iter().copied();
            ids.filter(|id| (first..=last).contains(&(id >> shift)))
                .collect()
        };
        ranges(&blocks, shift).into_iter().map(of).collect()
    }

    proptest! {
        #[test]
        fn ranges_are_the_largest_that_fit(
            ids in proptest::collection::btree_set(
                prop_oneof![1..200u64, 1..5000u64, 1..(1u64 << 40)], 0..150,
            ),
            shift in 0..5u32,
        ) {
            let ids: Vec<u64> = ids.into_iter().collect();
            let cut = cut(&ids, shift);
            prop_assert_eq!(&cut.concat(), &ids);
            prop_assert_eq!(cut, by_definition(&ids, shift));
        }
    }

    #[test]
    fn a_guest_whose_ids_have_no_gaps_has_full_pieces() {
        let ends = cuts(1..=100_000);
        assert_eq!(ends[0], 4095);
        let sizes: Vec<usize> = ends.windows(2).map(|w| w[1] - w[0]).collect();
        assert!(sizes[..sizes.len() - 1].iter().all(|n| *n == 4096));
        // And one with few left has few pieces.
        let few = cuts((1..=100_000).filter(|id| id % 100 == 1));
        assert!(few.len() <= 2, "{few:?}");
    }
}
