//! The ranges of one file that one owner has locked by `fcntl`.

use crate::fs::LockMode;
use crate::types::HandleId;

/// A locked range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    /// First byte.
    pub(crate) start: u64,
    /// Last byte, inclusive.
    pub(crate) end: u64,
    /// What it keeps others from.
    pub(crate) mode: LockMode,
    /// Process in the guest that set it.
    pub(crate) pid: u32,
    /// The open file that it was set through.
    pub(crate) handle: HandleId,
}

impl Range {
    /// Whether a lock of another owner on `start` to `end` cannot be beside this one.
    pub(crate) fn conflicts(&self, start: u64, end: u64, mode: LockMode) -> bool {
        let overlap = self.start <= end && start <= self.end;
        overlap && (self.mode == LockMode::Write || mode == LockMode::Write)
    }

    fn joins(&self, next: &Range) -> bool {
        self.end.checked_add(1) == Some(next.start)
            && (self.mode, self.pid, self.handle) == (next.mode, next.pid, next.handle)
    }
}

/// Ranges in ascending order that do not overlap. A later one replaces what it
/// covers of earlier ones, as it does in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges(Vec<Range>);

impl Ranges {
    /// Sets a range over whatever was there.
    pub(crate) fn set(&mut self, new: Range) {
        let at = self.cut(new.start, new.end);
        self.0.insert(at, new);
        self.join(at);
        if at > 0 {
            self.join(at - 1);
        }
    }

    /// Makes one of the range at `at` and the next, if they are alike and adjacent.
    fn join(&mut self, at: usize) {
        if let [first, second, ..] = &self.0[at..] {
            if first.joins(second) {
                self.0[at].end = second.end;
                self.0.remove(at + 1);
            }
        }
    }

    /// Takes `start` to `end` out of all ranges. Answers where in the order a range
    /// that fills it belongs.
    pub(crate) fn cut(&mut self, start: u64, end: u64) -> usize {
        let first = self.0.partition_point(|range| range.end < start);
        let behind = self.0.partition_point(|range| range.start <= end);
        let mut rest = [None, None];
        if let Some(range) = self.0[first..behind].first().filter(|r| r.start < start) {
            rest[0] = Some(Range {
                end: start - 1,
                ..*range
            });
        }
        if let Some(range) = self.0[first..behind].last().filter(|r| r.end > end) {
            rest[1] = Some(Range {
                start: end + 1,
                ..*range
            });
        }
        let at = first + usize::from(rest[0].is_some());
        self.0.splice(first..behind, rest.into_iter().flatten());
        at
    }

    /// All, in ascending order.
    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Range> {
        self.0.iter()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LAST: u64 = i64::MAX as u64;

    fn range(start: u64, end: u64, write: bool, pid: u32) -> Range {
        Range {
            start,
            end,
            mode: match write {
                true => LockMode::Write,
                false => LockMode::Read,
            },
            pid,
            handle: HandleId(u64::from(pid)),
        }
    }

    #[test]
    fn a_range_to_the_end_of_the_file_is_split_and_joined_again() {
        let mut ranges = Ranges::default();
        ranges.set(range(0, LAST, true, 1));
        ranges.cut(10, 19);
        let all: Vec<_> = ranges.iter().map(|r| (r.start, r.end)).collect();
        assert_eq!(all, [(0, 9), (20, LAST)]);
        ranges.set(range(10, 19, true, 1));
        assert_eq!(ranges, Ranges(vec![range(0, LAST, true, 1)]));
        ranges.cut(0, LAST);
        assert!(ranges.is_empty());
    }

    #[test]
    fn readers_stand_beside_each_other_and_writers_alone() {
        let held = range(10, 19, false, 1);
        assert!(!held.conflicts(10, 19, LockMode::Read));
        assert!(held.conflicts(19, 30, LockMode::Write));
        assert!(!held.conflicts(20, 30, LockMode::Write));
        assert!(range(10, 19, true, 1).conflicts(0, 10, LockMode::Read));
    }

    proptest! {
        #[test]
        fn ranges_are_what_each_byte_says(
            steps in proptest::collection::vec((0u64..40, 0u64..12, any::<Option<bool>>(), 1u32..3), 1..40)
        ) {
            let mut bytes = [None; 64];
            let mut ranges = Ranges::default();
            for (start, more, write, pid) in steps {
                let end = start + more;
                let value = write.map(|write| (write, pid));
                bytes[start as usize..=end as usize].fill(value);
                match write {
                    Some(write) => ranges.set(range(start, end, write, pid)),
                    None => {
                        ranges.cut(start, end);
                    }
                }
                let mut now = [None; 64];
                let mut last: Option<Range> = None;
                for r in ranges.iter() {
                    prop_assert!(r.start <= r.end);
                    if let Some(last) = last {
                        prop_assert!(last.end < r.start && !last.joins(r), "{ranges:?}");
                    }
                    last = Some(*r);
                    let value = Some((r.mode == LockMode::Write, r.pid));
                    now[r.start as usize..=r.end as usize].fill(value);
                }
                prop_assert_eq!(now, bytes);
            }
        }
    }
}
