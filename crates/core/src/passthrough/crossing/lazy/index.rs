//! Which records of a store may be the object that has a mark: found by the mark's hash.

use std::ops::Range;

use crate::parallel::in_parallel;

/// Records that are hashed by one thread at a time.
const CHUNK: usize = 16 << 10;

/// Stands for a record that has no mark.
const NONE: u32 = u32::MAX;

/// Records by the hash of their mark. Filled once, and by counting: two arrays of
/// numbers, some 6 bytes a record, and nothing that has to grow.
pub(super) struct Index {
    /// Where in `records` those with this hash begin; one more at the end.
    starts: Vec<u32>,
    records: Vec<u32>,
}

impl Index {
    /// Of the records up to `count`, by the hashes that `hash_all` gives of a range of
    /// them, one after the other; those of which it gives none are left out. In several
    /// threads where there are many.
    pub(super) fn new(
        count: u32,
        hash_all: impl Fn(Range<u32>, &mut dyn FnMut(Option<u64>)) + Sync,
    ) -> Index {
        // One and a half records or so have the same; below `NONE`, as `count` is.
        let buckets = (count as usize / 2).next_power_of_two();
        let chunks: Vec<u32> = (0..count).step_by(CHUNK).collect();
        let hashed = in_parallel(&chunks, |first| {
            let end = count.min(first.saturating_add(CHUNK as u32));
            let mut own = Vec::with_capacity(CHUNK);
            hash_all(*first..end, &mut |hash| {
                own.push(hash.map_or(NONE, |hash| bucket(hash, buckets) as u32));
            });
            own
        });
        let all = || hashed.iter().flatten();
        let mut starts = vec![0; buckets + 1];
        for &bucket in all().filter(|bucket| **bucket != NONE) {
            starts[bucket as usize] += 1;
        }
        // From how many there are to where they end; filled from behind, these become
        // where they begin.
        let mut end = 0;
        for start in &mut starts {
            end += *start;
            *start = end;
        }
        let mut records = vec![0; end as usize];
        for (at, &bucket) in all().enumerate() {
            if bucket != NONE {
                let place = &mut starts[bucket as usize];
                *place -= 1;
                records[*place as usize] = at as u32;
            }
        }
        Index { starts, records }
    }

    /// Those that may have this hash.
    pub(super) fn candidates(&self, hash: u64) -> &[u32] {
        let at = bucket(hash, self.starts.len() - 1);
        &self.records[self.starts[at] as usize..self.starts[at + 1] as usize]
    }
}

fn bucket(hash: u64, buckets: usize) -> usize {
    hash as usize & (buckets - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_record_is_among_the_candidates_of_its_hash_and_no_other() {
        let hash = |at: u32| (at % 7 != 3).then(|| u64::from(at).wrapping_mul(0x9e37_79b9));
        for count in [0, 1, 2, 3, 100, CHUNK as u32 + 1, 50_000] {
            let index = Index::new(count, |range, each| range.map(hash).for_each(each));
            let with_hash = (0..count).filter(|at| hash(*at).is_some()).count();
            assert_eq!(index.records.len(), with_hash);
            for at in 0..count {
                let Some(hash) = hash(at) else {
                    assert!(!index.records.contains(&at), "{at} of {count}");
                    continue;
                };
                let found = index.candidates(hash).iter().filter(|one| **one == at);
                assert_eq!(found.count(), 1, "{at} of {count}");
            }
        }
    }

    #[test]
    fn records_of_one_hash_are_all_found() {
        let all =
            |hash: Option<u64>| Index::new(1000, move |range, each| range.for_each(|_| each(hash)));
        assert_eq!(all(Some(42)).candidates(42).len(), 1000);
        assert!(all(None).candidates(42).is_empty());
    }
}
