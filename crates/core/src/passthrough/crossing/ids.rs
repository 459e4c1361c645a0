//! The ids of all inodes, in order and in little memory: those of a million take two to
//! four megabytes while they are gone through.

use std::collections::BTreeMap;

use super::super::inode::{InodeArc, Inodes, SHARDS};

/// Ids, by what is left of them without their low bits.
pub(super) struct Ids(BTreeMap<u64, Vec<u16>>);

impl Ids {
    /// Of everything in the tables, pinned directories too. Shard by shard, so that it stops
    /// nobody for long.
    pub(super) fn of(inodes: &Inodes) -> Ids {
        let mut all: BTreeMap<u64, Vec<u16>> = BTreeMap::new();
        let mut shard_ids = Vec::new();
        for shard in 0..SHARDS {
            inodes.ids_in(shard, &mut shard_ids);
            for id in shard_ids.drain(..) {
                all.entry(id >> u16::BITS).or_default().push(id as u16);
            }
        }
        all.values_mut().for_each(|low| low.sort_unstable());
        Ids(all)
    }

    /// All of them, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        let blocks = self.0.iter();
        blocks.flat_map(|(high, low)| {
            low.iter()
                .map(move |low| high << u16::BITS | u64::from(*low))
        })
    }

    /// Gives the inodes that are still there to `see`, by ascending id and `most` at a time,
    /// until it answers false.
    pub(super) fn visit(
        &self,
        inodes: &Inodes,
        most: usize,
        mut see: impl FnMut(&[InodeArc]) -> bool,
    ) {
        let mut some = Vec::with_capacity(most);
        let mut ids = self.iter().peekable();
        while ids.peek().is_some() {
            some.clear();
            some.extend(ids.by_ref().take(most));
            let found: Vec<_> = inodes.get_all(&some).into_iter().flatten().collect();
            if !see(&found) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::inode::Place;
    use super::super::restore::lost;
    use super::*;
    use crate::errno::Errno;
    use crate::types::NodeId;

    fn tables(ids: &[u64]) -> Inodes {
        let new = || lost(libc::S_IFREG, Errno::ESTALE);
        let inodes = Inodes::new(new());
        for id in ids {
            let inode = inodes.insert(NodeId(*id), 1, new());
            assert!(matches!(inode.place(), Place::Lost(_)));
        }
        inodes
    }

    #[test]
    fn ids_come_in_order_however_far_apart_they_are() {
        let dense = 2..=3000;
        let apart = [
            65_535,
            65_536,
            65_537,
            1 << 20,
            (1 << 40) + 7,
            (1 << 62) + 1,
        ];
        let ids: Vec<u64> = [1].into_iter().chain(dense).chain(apart).collect();
        let shuffled: Vec<u64> = ids[1..].iter().rev().copied().collect();
        let inodes = tables(&shuffled);
        assert!(Ids::of(&inodes).iter().eq(ids.iter().copied()));
    }

    #[test]
    fn inodes_are_given_some_at_a_time_and_those_that_are_gone_are_not() {
        let ids: Vec<u64> = (2..=1000).map(|n| n * 777).collect();
        let inodes = tables(&ids);
        let all = Ids::of(&inodes);
        let gone = inodes.get(NodeId(ids[500])).unwrap();
        inodes.remove(&gone);
        for most in [1, 7, 999, 1000, 5000] {
            let mut seen = Vec::new();
            all.visit(&inodes, most, |some| {
                assert!(some.len() <= most);
                seen.extend(some.iter().map(|inode| inode.id().0));
                true
            });
            let left = ids.iter().filter(|id| **id != gone.id().0);
            assert!(
                seen.iter()
                    .copied()
                    .eq([1].into_iter().chain(left.copied())),
                "{most}"
            );
        }
        let mut calls = 0;
        all.visit(&inodes, 100, |_| {
            calls += 1;
            calls < 3
        });
        assert_eq!(calls, 3);
    }
}
