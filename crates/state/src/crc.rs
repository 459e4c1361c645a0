//! The checksum of what stands one behind the other, of the checksums of both: so bytes
//! that have one of their own need not be gone through twice.

/// CRC-32C's polynomial, the highest power in the lowest bit. So is every other one here.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// 1 as a polynomial.
const ONE: u32 = 1 << 31;

/// The product of two polynomials, modulo [`POLYNOMIAL`].
const fn product(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut power = ONE;
    while power != 0 {
        if a & power != 0 {
            product ^= b;
        }
        b = match b & 1 {
            0 => b >> 1,
            _ => (b >> 1) ^ POLYNOMIAL,
        };
        power >>= 1;
    }
    product
}

/// By position, x to the power of eight times two to that: by what a checksum is multiplied
/// when so many bytes follow.
const BYTES: [u32; 64] = {
    let mut powers = [0; 64];
    // x to the 8th.
    powers[0] = ONE >> 8;
    let mut at = 1;
    while at < powers.len() {
        powers[at] = product(powers[at - 1], powers[at - 1]);
        at += 1;
    }
    powers
};

/// The checksum of bytes of which the first have checksum `first`, and the `length` last
/// ones `last`.
pub(crate) fn join(first: u32, last: u32, length: usize) -> u32 {
    let mut shifted = first;
    let mut left = length;
    while left != 0 {
        shifted = product(BYTES[left.trailing_zeros() as usize], shifted);
        left &= left - 1;
    }
    shifted ^ last
}

#[cfg(test)]
mod tests {
    use super::*;
    use crc32c::{crc32c, crc32c_append};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn joined_it_is_that_of_the_whole(
            first in proptest::collection::vec(any::<u8>(), 0..300),
            last in proptest::collection::vec(any::<u8>(), 0..3000),
        ) {
            let whole = crc32c(&[&first[..], &last].concat());
            prop_assert_eq!(join(crc32c(&first), crc32c(&last), last.len()), whole);
            prop_assert_eq!(crc32c_append(crc32c(&first), &last), whole);
        }
    }

    #[test]
    fn lengths_of_any_size_are_passed_over() {
        let first = crc32c(b"first");
        for shift in 0..24 {
            let zeros = vec![0; (1 << shift) + 3];
            let joined = join(first, crc32c(&zeros), zeros.len());
            assert_eq!(joined, crc32c_append(first, &zeros), "{shift}");
        }
    }
}
