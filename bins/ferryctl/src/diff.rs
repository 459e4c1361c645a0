//! `ferryctl state diff`: two states, record by record.

use std::io::{self, Write};

use ferryfs_state::State;
use serde_json::Value;

use crate::json;

/// Records of one kind by their ids, ascending.
type Records<'s> = Box<dyn Iterator<Item = (u64, Value)> + 's>;

fn kinds(state: &State) -> [Records<'_>; 5] {
    let fs = &state.fs;
    [
        Box::new(state.session.iter().map(|s| (0, json::session(s)))),
        Box::new(std::iter::once((0, json::counters(fs)))),
        Box::new(fs.mounts.iter().map(|m| (m.id.into(), json::mount(m)))),
        Box::new(fs.inodes.iter().map(|i| (i.id, json::inode(i)))),
        Box::new(fs.handles.iter().map(|h| (h.id, json::handle(h)))),
    ]
}

/// Prints what only `a` has after `-`, what only `b` has after `+`; records of one
/// id that differ are both printed. Answers how many ids differ. How a state was
/// written (format, writer) is no difference.
///
/// # Errors
/// The output's.
pub fn run(a: &State, b: &State, out: &mut dyn Write) -> io::Result<u64> {
    let mut different = 0;
    for (a, b) in kinds(a).into_iter().zip(kinds(b)) {
        let (mut a, mut b) = (a.peekable(), b.peekable());
        loop {
            let (left, right) = match (a.peek(), b.peek()) {
                (None, None) => break,
                (Some((x, _)), Some((y, _))) => (x <= y, y <= x),
                (x, y) => (x.is_some(), y.is_some()),
            };
            let left = a.next_if(|_| left);
            let right = b.next_if(|_| right);
            if left == right {
                continue;
            }
            different += 1;
            for (sign, record) in [('-', left), ('+', right)] {
                if let Some((_, record)) = record {
                    writeln!(out, "{sign} {record}")?;
                }
            }
        }
    }
    Ok(different)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferryfs_state::testing::sample;

    fn lines(a: &State, b: &State) -> (u64, Vec<String>) {
        let mut out = Vec::new();
        let n = run(a, b, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        (n, text.lines().map(str::to_owned).collect())
    }

    #[test]
    fn records_are_matched_by_id() {
        let a = sample();
        assert_eq!(lines(&a, &a), (0, vec![]));
        let mut b = a.clone();
        b.fs.inodes.remove(2);
        b.fs.inodes[1].lookups += 1;
        b.fs.handles[1].id += 1;
        b.session = None;
        let (n, lines) = lines(&a, &b);
        assert_eq!(n, 1 + 2 + 2);
        let starts = [
            ("-", "session"),
            ("-", "inode"),
            ("+", "inode"),
            ("-", "inode"),
            ("-", "handle"),
            ("+", "handle"),
        ];
        assert_eq!(lines.len(), starts.len());
        for (line, (sign, record)) in lines.iter().zip(starts) {
            let value: Value = serde_json::from_str(&line[2..]).unwrap();
            assert_eq!((&line[..1], value["record"].as_str()), (sign, Some(record)));
        }
    }
}
