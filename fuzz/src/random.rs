//! Numbers that look random and are always the same.

/// A generator (splitmix64) for one input.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator for input `n` of series `seed`.
    pub fn new(seed: u64, n: u64) -> Self {
        let mut first = Random(seed);
        Random(first.next() ^ n.wrapping_mul(0xd134_2543_de82_ef95))
    }

    /// Any number.
    #[allow(clippy::should_implement_trait)] // it never ends
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, or 0.
    pub fn below(&mut self, end: usize) -> usize {
        match end {
            0 => 0,
            end => (self.next() % end as u64) as usize,
        }
    }

    /// True once in `of` times.
    pub fn once_in(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    /// One of `all`.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        all.get(self.below(all.len()))
    }

    /// A number of a kind that programs get wrong: near 0, near a power of two, near
    /// the end, or any.
    pub fn number(&mut self) -> u64 {
        let near = (self.below(5) as u64).wrapping_sub(2);
        match self.below(4) {
            0 => near,
            1 => (1u64 << self.below(64)).wrapping_add(near),
            2 => self.next() >> self.below(64),
            _ => self.below(300) as u64,
        }
    }
}
