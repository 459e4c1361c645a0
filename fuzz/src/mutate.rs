//! Changes to bytes that know nothing of what the bytes mean.

use crate::random::Random;

/// Inputs do not grow beyond this: what is slow finds little.
pub const MAX_LENGTH: usize = 1 << 20;

/// Puts a piece of `other` in place of one of `input`.
pub fn splice(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let from = random.below(other.len() + 1);
    let to = from + random.below(other.len() - from + 1);
    let start = random.below(input.len() + 1);
    let end = start + random.below(input.len() - start + 1);
    if input.len() + (to - from) <= MAX_LENGTH {
        input.splice(start..end, other[from..to].iter().copied());
    }
}

/// One change somewhere.
pub fn bytes(input: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(input.len());
    match random.below(9) {
        0 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        1 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = random.next() as u8;
            }
        }
        2 => number(input, at, random),
        3 => input.truncate(at),
        4 => {
            let end = at + random.below(input.len() - at + 1).min(32);
            input.drain(at..end);
        }
        5 => {
            let piece: Vec<u8> = (0..1 + random.below(8))
                .map(|_| random.next() as u8)
                .collect();
            input.splice(at..at, piece);
        }
        6 => {
            let end = at + random.below(input.len() - at + 1).min(256);
            let piece = input[at..end].to_vec();
            if input.len() + piece.len() <= MAX_LENGTH {
                input.splice(at..at, piece);
            }
        }
        7 => varint(input, at, random),
        _ => {
            if let Some(byte) = input.get_mut(at) {
                *byte = byte
                    .wrapping_add(1)
                    .wrapping_sub(2 * (random.below(2) as u8));
            }
        }
    }
}

/// Writes an integer of 1 to 8 bytes, in either order of bytes, over what is there.
fn number(input: &mut [u8], at: usize, random: &mut Random) {
    let value = random.number();
    let width = 1 << random.below(4);
    let bytes = match random.once_in(3) {
        true => (value << (64 - 8 * width)).to_be_bytes(),
        false => value.to_le_bytes(),
    };
    for (to, from) in input[at..].iter_mut().zip(&bytes[..width]) {
        *to = *from;
    }
}

/// Puts a variable-length integer, as postcard writes it, in place of the one that
/// may begin here.
fn varint(input: &mut Vec<u8>, at: usize, random: &mut Random) {
    let length = input[at..].iter().take_while(|b| **b >= 0x80).count() + 1;
    let end = (at + length).min(input.len());
    let mut value = random.number();
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    input.splice(at..end, bytes);
}
