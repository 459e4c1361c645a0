//! Bytes that tell where they belong: a wrong offset, file or length shows.

/// `len` bytes of stream `seed`, from byte `offset` on.
pub fn bytes(seed: u64, offset: usize, len: usize) -> Vec<u8> {
    (offset..offset + len).map(|at| byte(seed, at)).collect()
}

/// The byte at `at` of stream `seed`.
pub fn byte(seed: u64, at: usize) -> u8 {
    // One multiplication per byte keeps a guest under emulation quick, and the
    // top byte of the product differs between neighbours, pages and streams.
    let word = (at as u64 + 1)
        .wrapping_add(seed << 32)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (word >> 56) as u8
}

/// FNV-1a over `data`: both sides name a content by it.
pub fn fnv(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &b| {
        (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Where `got` first differs from `want`, in words.
pub fn difference(got: &[u8], want: &[u8]) -> Option<String> {
    if got.len() != want.len() {
        return Some(format!("{} bytes instead of {}", got.len(), want.len()));
    }
    let at = got.iter().zip(want).position(|(g, w)| g != w)?;
    Some(format!(
        "byte {at} is {:#04x} instead of {:#04x}",
        got[at], want[at]
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_the_part_of_the_whole() {
        let whole = bytes(3, 0, 10_000);
        assert_eq!(bytes(3, 4_096, 100), whole[4_096..4_196]);
        assert_ne!(bytes(4, 0, 64), whole[..64]);
        assert_ne!(whole[..4_096], whole[4_096..8_192]);
    }

    #[test]
    fn fnv_is_the_published_one() {
        assert_eq!(fnv(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn differences_are_named() {
        assert_eq!(difference(b"abc", b"abc"), None);
        assert_eq!(difference(b"ab", b"abc").unwrap(), "2 bytes instead of 3");
        assert!(difference(b"abd", b"abc").unwrap().contains("byte 2"));
    }
}
