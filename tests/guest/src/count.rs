//! What one side finds in a directory of many files, to be compared with what the
//! other finds.

use std::fmt;

use crate::pattern;

/// Number and sums, whatever the order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    files: u64,
    sum: u64,
}

impl Count {
    /// Adds a file by its name, inode number and size.
    pub fn add(&mut self, name: &[u8], ino: u64, size: u64) {
        let file = [pattern::fnv(name), ino, size];
        let bytes: Vec<u8> = file.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.files += 1;
        self.sum = self.sum.wrapping_add(pattern::fnv(&bytes));
    }
}

/// As one word.
impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.files, self.sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_does_not_matter_and_all_else_does() {
        let count = |files: &[(&[u8], u64, u64)]| {
            let mut count = Count::default();
            files
                .iter()
                .for_each(|(name, ino, size)| count.add(name, *ino, *size));
            count.to_string()
        };
        let (a, b): (_, (&[u8], u64, u64)) = ((&b"a"[..], 1, 0), (b"b", 2, 0));
        assert_eq!(count(&[a, b]), count(&[b, a]));
        assert_ne!(count(&[a, b]), count(&[a]));
        assert_ne!(count(&[a]), count(&[(b"a", 2, 0)]));
        assert_ne!(count(&[a]), count(&[(b"a", 1, 1)]));
        assert!(count(&[a, b]).starts_with("2-"));
    }
}
