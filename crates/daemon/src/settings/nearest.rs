//! The name that was meant.

/// The one of `names` that is nearest to `name`, if it is near enough to be meant.
pub(super) fn nearest(name: &str, names: impl Iterator<Item = String>) -> Option<String> {
    let plain = |text: &str| text.to_lowercase().replace('_', "-");
    let wanted = plain(name);
    names
        .map(|candidate| (distance(&wanted, &plain(&candidate)), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= 3 && distance * 2 <= candidate.len())
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's: letters to insert, remove or change.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let names = || ["cache", "xattr", "xattrmap", "shared-dir"].map(str::to_owned);
        let nearest = |name| nearest(name, names().into_iter());
        for (name, meant) in [
            ("cahce", Some("cache")),
            ("xatr", Some("xattr")),
            ("Shared_Dir", Some("shared-dir")),
            ("xattr-map", Some("xattrmap")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(name).as_deref(), meant, "{name}");
        }
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }
}
