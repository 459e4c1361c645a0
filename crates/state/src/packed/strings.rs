//! Byte strings one behind the other, with numbers in them.

use std::ops::Range;

/// Byte strings one behind the other.
#[derive(Clone, Debug, Default)]
pub(super) struct Strings {
    ends: Vec<u32>,
    bytes: Vec<u8>,
}

impl Strings {
    pub(super) fn with_capacity(strings: usize, bytes: usize) -> Strings {
        Strings {
            ends: Vec::with_capacity(strings),
            bytes: Vec::with_capacity(bytes),
        }
    }

    /// The string at `at`.
    ///
    /// # Panics
    /// Where there is none.
    pub(super) fn get(&self, at: usize) -> Cursor<'_> {
        let start = match at {
            0 => 0,
            _ => self.ends[at - 1],
        };
        Cursor(&self.bytes[start as usize..self.ends[at] as usize])
    }

    /// The first byte of the string at `at`, which is not empty.
    pub(super) fn first(&self, at: usize) -> u8 {
        match at {
            0 => self.bytes[0],
            _ => self.bytes[self.ends[at - 1] as usize],
        }
    }

    /// Adds a string: `head`, and `tail` behind it. False, and nothing is added, where it
    /// would be beyond 4 GiB.
    pub(super) fn push(&mut self, head: &Head, tail: &[u8]) -> bool {
        let Ok(end) = u32::try_from(self.bytes.len() + head.length + tail.len()) else {
            return false;
        };
        // All of the head and then less of it: so many bytes are copied at once, where a
        // few would be one by one.
        let start = self.bytes.len();
        self.bytes.reserve(HEAD + tail.len());
        self.bytes.extend_from_slice(&head.bytes);
        self.bytes.truncate(start + head.length);
        self.bytes.extend_from_slice(tail);
        self.ends.push(end);
        true
    }

    /// Adds those of `other` in `range`, which is not empty.
    ///
    /// # Panics
    /// Where they would be beyond 4 GiB.
    pub(super) fn extend(&mut self, other: &Strings, range: Range<usize>) {
        let start = match range.start {
            0 => 0,
            at => other.ends[at - 1],
        };
        let ends = &other.ends[range];
        let end = ends[ends.len() - 1];
        let before = u32::try_from(self.bytes.len()).ok();
        let room = before.and_then(|before| before.checked_add(end - start));
        assert!(room.is_some(), "strings of more than 4 GiB");
        let before = self.bytes.len() as u32;
        let bytes = &other.bytes[start as usize..end as usize];
        self.bytes.extend_from_slice(bytes);
        self.ends
            .extend(ends.iter().map(|end| end - start + before));
    }

    /// Gives room back that is not needed.
    pub(super) fn fit(&mut self) {
        self.ends.shrink_to_fit();
        self.bytes.shrink_to_fit();
    }
}

/// Most bytes of a number.
const NUMBER: usize = 10;

/// Most bytes of a head: a byte, and four numbers.
const HEAD: usize = 1 + 4 * NUMBER;

/// The beginning of a string: a byte, and up to four numbers.
pub(super) struct Head {
    bytes: [u8; HEAD],
    length: usize,
}

impl Head {
    #[inline]
    pub(super) fn new(first: u8) -> Head {
        let mut bytes = [0; HEAD];
        bytes[0] = first;
        Head { bytes, length: 1 }
    }

    /// Adds a number: seven bits a byte, the lowest first.
    #[inline]
    pub(super) fn number(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.bytes[self.length] = n as u8 | 0x80;
            self.length += 1;
            n >>= 7;
        }
        self.bytes[self.length] = n as u8;
        self.length += 1;
    }

    /// Adds a number that may be negative.
    #[inline]
    pub(super) fn signed(&mut self, n: i64) {
        self.number((n << 1 ^ n >> 63) as u64);
    }
}

/// Reads what a `Head` says, then the rest.
pub(super) struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    #[inline]
    pub(super) fn byte(&mut self) -> u8 {
        let (&first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        first
    }

    #[inline]
    pub(super) fn number(&mut self) -> u64 {
        let first = self.byte();
        if first < 0x80 {
            return u64::from(first);
        }
        let mut n = u64::from(first & 0x7f);
        let mut shift = 7;
        loop {
            let byte = self.byte();
            n |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 || shift > 63 {
                return n;
            }
        }
    }

    pub(super) fn signed(&mut self) -> i64 {
        let n = self.number();
        (n >> 1) as i64 ^ -((n & 1) as i64)
    }

    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }
}
