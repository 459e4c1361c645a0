//! `ferryctl state diff`: two states, record by record.

use std::io::{self, Write};

use ferryfs_state::{GhostData, LockKind, LockOrder, State};
use serde_json::Value;

use crate::json;

/// What records are matched by: an id, or all that locks are ordered by.
type Key = LockOrder;

/// Records of one kind by their keys, ascending.
type Records<'s> = Box<dyn Iterator<Item = (Key, Value)> + 's>;

fn id(id: u64) -> Key {
    (id, LockKind::Posix, 0, 0)
}

fn piece(data: &GhostData) -> Key {
    (data.inode, LockKind::Posix, 0, data.offset)
}

fn kinds(state: &State) -> [Records<'_>; 11] {
    let fs = &state.fs;
    let mounts = fs.mounts.iter();
    let file_systems = fs.file_systems.iter();
    let identities = fs.identities.iter();
    // They have nothing but their order.
    let requests = fs.requests.iter().enumerate();
    [
        Box::new(state.session.iter().map(|s| (id(0), json::session(s)))),
        Box::new(std::iter::once((id(0), json::counters(fs)))),
        Box::new(mounts.map(|m| (id(m.id.into()), json::mount(m)))),
        Box::new(fs.inodes.iter().map(|i| (id(i.id), json::inode(i)))),
        Box::new(fs.handles.iter().map(|h| (id(h.id), json::handle(h)))),
        Box::new(file_systems.map(|f| (id(f.id.into()), json::file_system(f)))),
        Box::new(identities.map(|i| (id(i.inode), json::identity(i)))),
        Box::new(fs.locks.iter().map(|l| (l.order(), json::lock(l)))),
        Box::new(requests.map(|(at, r)| (id(at as u64), json::request(r)))),
        Box::new(fs.ghosts.iter().map(|g| (id(g.inode), json::ghost(g)))),
        Box::new(
            fs.ghost_data
                .iter()
                .map(|d| (piece(d), json::ghost_data(d))),
        ),
    ]
}

/// Prints what only `a` has after `-`, what only `b` has after `+`; records of one
/// id that differ are both printed (locks: of one inode, kind, owner and first byte).
/// Answers how many differ. How a state was
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
    use ferryfs_state::testing::{sample, sample_v2, sample_v3};

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

    #[test]
    fn locks_and_identities_are_records_too() {
        let a = sample_v2();
        let mut b = a.clone();
        b.fs.locks[1].write = false;
        b.fs.locks.pop();
        b.fs.identities.remove(0);
        b.fs.file_systems[1].device = 50;
        let (n, lines) = lines(&a, &b);
        assert_eq!(n, 4);
        let told = |line: &str| {
            let value: Value = serde_json::from_str(&line[2..]).unwrap();
            format!("{} {}", &line[..1], value["record"].as_str().unwrap())
        };
        let told: Vec<_> = lines.iter().map(|l| told(l)).collect();
        assert_eq!(
            told,
            [
                "- file-system",
                "+ file-system",
                "- identity",
                "- lock",
                "+ lock",
                "- lock"
            ]
        );
    }

    #[test]
    fn ghosts_and_their_contents_are_records_too() {
        let a = sample_v3();
        let mut b = a.clone();
        b.fs.ghosts[0].mode = 0o600;
        b.fs.ghost_data[1].bytes[3] ^= 1;
        b.fs.ghost_data.pop();
        let (n, lines) = lines(&a, &b);
        assert_eq!(n, 3);
        let told: Vec<_> = lines
            .iter()
            .map(|l| l.split(r#""record""#).count())
            .collect();
        assert_eq!(told, [2; 5]);
        assert!(lines[2].starts_with("- ") && lines[2].contains("ghost-data"));
        assert!(lines[2].contains(r#""offset":12"#), "{}", lines[2]);
    }
}
