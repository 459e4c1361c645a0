//! Numbered records of fixed length: what a writer appends while the guest
//! crosses, so that a lost, doubled or torn one can be named afterwards.

use crate::pattern;

/// Bytes of one record.
pub const LEN: usize = 64;

/// Record `n` of the file that `seed` stands for.
pub fn record(seed: u64, n: u64) -> Vec<u8> {
    let mut text = format!("record {n:010} ");
    let fill = pattern::bytes(seed, n as usize * LEN, LEN);
    text.extend(
        fill.iter()
            .take(LEN - 1 - text.len())
            .map(|b| char::from(b'a' + b % 26)),
    );
    text.push('\n');
    text.into_bytes()
}

/// Checks that `data` is the records 0 to `count`, each once and in order.
///
/// # Errors
/// Names the first one that is not as it must be.
pub fn check(seed: u64, data: &[u8], count: u64) -> Result<(), String> {
    for (n, got) in (0u64..).zip(data.chunks(LEN)) {
        if n >= count {
            return Err(format!(
                "{} bytes after the last of {count} records, beginning {:?}",
                data.len() - n as usize * LEN,
                String::from_utf8_lossy(&got[..got.len().min(20)])
            ));
        }
        if got != record(seed, n) {
            return Err(format!(
                "in place of record {n}: {:?}",
                String::from_utf8_lossy(got)
            ));
        }
    }
    let whole = (data.len() / LEN) as u64;
    if whole < count {
        return Err(format!("{whole} records instead of {count}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(numbers: &[u64]) -> Vec<u8> {
        numbers.iter().flat_map(|&n| record(7, n)).collect()
    }

    #[test]
    fn records_have_their_length() {
        assert!([0, 1, u64::from(u32::MAX)]
            .iter()
            .all(|&n| record(1, n).len() == LEN));
    }

    #[test]
    fn lost_doubled_torn_and_surplus_records_are_found() {
        assert_eq!(check(7, &log(&[0, 1, 2]), 3), Ok(()));
        assert!(check(7, &log(&[0, 2]), 2).unwrap_err().contains("record 1"));
        assert!(check(7, &log(&[0, 1, 1]), 3)
            .unwrap_err()
            .contains("record 2"));
        assert!(check(7, &log(&[0, 1]), 3)
            .unwrap_err()
            .contains("2 records instead of 3"));
        assert!(check(7, &log(&[0, 1, 2]), 2)
            .unwrap_err()
            .contains("after the last"));
        assert!(check(7, &log(&[0, 1, 2])[..150], 3)
            .unwrap_err()
            .contains("record 2"));
        assert!(check(8, &log(&[0]), 1).is_err());
    }
}
