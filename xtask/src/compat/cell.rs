//! The cells of the matrix: who hands a guest to whom, how.

use super::candidate::{Candidate, Maker};

/// The formats of our own.
const FORMATS: [&str; 4] = ["postcard", "msgpack", "postcard+zstd", "msgpack+zstd"];

/// The option for locks on the host.
pub const LOCKS: &str = "--posix-lock";

/// How files are found again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By name.
    Paths,
    /// By name, and then compared by file handle, as virtiofsd can.
    VerifiedPaths,
    /// By file handle.
    Handles,
}

impl Mode {
    /// As in the matrix.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Paths => "find-paths",
            Mode::VerifiedPaths => "find-paths and verify",
            Mode::Handles => "file-handles",
        }
    }

    /// Options of a daemon.
    pub fn options(self) -> &'static [&'static str] {
        match self {
            Mode::Paths => &["--migration-mode", "find-paths"],
            Mode::VerifiedPaths => &[
                "--migration-mode",
                "find-paths",
                "--migration-verify-handles",
            ],
            Mode::Handles => &["--migration-mode", "file-handles"],
        }
    }
}

/// What is done in a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A guest lives its life, crossing in the middle; its answers are those of one
    /// that stayed.
    Life,
    /// A guest has a file with a name that is not UTF-8.
    OddName,
    /// The state goes by a file, and the front-end brings none or 0 bytes.
    External,
    /// Streams that are cut, prolonged, empty or have a flipped bit are refused, and
    /// the whole one is taken then.
    Damaged,
    /// A stream of CubeSandbox's changed virtiofsd is refused.
    Foreign,
    /// A guest holds a lock on the host, for which the state needs version 2.
    Lock,
    /// A guest has a file open that it has unlinked, for which the state needs version 3
    /// where files are found by path.
    Unlinked,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Life => "",
            Kind::OddName => "name not UTF-8: ",
            Kind::External => "by a file: ",
            Kind::Damaged => "damaged: ",
            Kind::Foreign => "a fork's stream: ",
            Kind::Lock => "a lock held: ",
            Kind::Unlinked => "unlinked and open: ",
        }
    }
}

/// One cell.
#[derive(Clone, Debug)]
pub struct Cell {
    /// What is done.
    pub kind: Kind,
    /// Indices of the daemons that the guest lives on, in turn.
    pub path: Vec<usize>,
    /// `--state-format` of ours between ours.
    pub format: String,
    /// `--state-version`, where a writer is told one.
    pub state_version: Option<u32>,
    /// How files are found again.
    pub mode: Mode,
    /// Its name in the matrix and the expectations.
    pub id: String,
}

/// All cells for these daemons, in the order of the matrix.
pub fn all(candidates: &[Candidate]) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (w, writer) in candidates.iter().enumerate() {
        for (r, reader) in candidates.iter().enumerate() {
            crossings(candidates, (w, writer), (r, reader), &mut cells);
        }
    }
    chains(candidates, &mut cells);
    specials(candidates, &mut cells);
    cells
}

fn cell(
    candidates: &[Candidate],
    kind: Kind,
    path: &[usize],
    format: &str,
    state_version: Option<u32>,
    mode: Mode,
) -> Cell {
    let names: Vec<_> = path.iter().map(|i| candidates[*i].name.as_str()).collect();
    let at = state_version.map_or_else(String::new, |n| format!(" at state version {n}"));
    Cell {
        kind,
        path: path.to_vec(),
        format: format.to_owned(),
        state_version,
        mode,
        id: format!(
            "{}{}, {format}{at}, {}",
            kind.word(),
            names.join(" -> "),
            mode.name()
        ),
    }
}

/// Whether `writer` can be told this mode. The first virtiofsd with migration had no
/// file handles but those to compare with, and ours compares in any mode.
pub fn writes(writer: &Candidate, mode: Mode) -> bool {
    match (&writer.maker, mode) {
        (Maker::Stock { dialect }, Mode::Handles) => dialect != "virtiofsd-v1",
        (Maker::Stock { .. }, _) => true,
        (_, mode) => mode != Mode::VerifiedPaths,
    }
}

/// The formats in which `writer` can speak to `reader`.
fn formats(writer: &Candidate, reader: &Candidate) -> Vec<String> {
    match (&writer.maker, &reader.maker) {
        (Maker::Stock { dialect }, _) => vec![dialect.clone()],
        (_, Maker::Stock { dialect }) => vec![dialect.clone()],
        _ => FORMATS.map(str::to_owned).to_vec(),
    }
}

/// The `--state-version` that `writer` has to be told for `reader`.
fn older_version(writer: &Candidate, reader: &Candidate) -> Option<u32> {
    match reader.maker {
        Maker::Older { state_version } if writer.knows("--state-version") => Some(state_version),
        _ => None,
    }
}

fn crossings(
    candidates: &[Candidate],
    (w, writer): (usize, &Candidate),
    (r, reader): (usize, &Candidate),
    cells: &mut Vec<Cell>,
) {
    for mode in [Mode::Paths, Mode::VerifiedPaths, Mode::Handles] {
        if !writes(writer, mode) {
            continue;
        }
        for format in formats(writer, reader) {
            let mut versions = vec![None];
            versions.extend(older_version(writer, reader).map(Some));
            for version in versions {
                let path = [w, r];
                cells.push(cell(candidates, Kind::Life, &path, &format, version, mode));
            }
        }
    }
}

/// Two crossings in a row.
fn chains(candidates: &[Candidate], cells: &mut Vec<Cell>) {
    let this = 0;
    let mut chain = |path: &[usize], format: &str, version| {
        let writers = &path[..path.len() - 1];
        for mode in [Mode::Paths, Mode::Handles] {
            if writers.iter().all(|i| writes(&candidates[*i], mode)) {
                cells.push(cell(candidates, Kind::Life, path, format, version, mode));
            }
        }
    };
    let of = |ours: bool| {
        let wanted = move |i: &usize| candidates[*i].is_ours() == ours;
        (1..candidates.len()).filter(wanted)
    };
    for old in of(true) {
        for format in FORMATS {
            let version = older_version(&candidates[this], &candidates[old]);
            chain(&[this, old, this], format, version);
            chain(&[old, this, old], format, version);
        }
    }
    for stock in of(false) {
        chain(&[stock, this, stock], "postcard", None);
        chain(&[this, stock, this], "postcard", None);
    }
    let (first, last) = (of(false).next(), of(false).next_back());
    if let (Some(first), Some(last)) = (first, last) {
        if first != last {
            chain(&[first, this, last], "postcard", None);
        }
        if let Some(old) = of(true).next_back() {
            let version = older_version(&candidates[this], &candidates[old]);
            chain(&[last, old, this], "postcard", version);
        }
    }
}

/// What is not about a guest's whole life.
fn specials(candidates: &[Candidate], cells: &mut Vec<Cell>) {
    let this = 0;
    for (i, other) in candidates.iter().enumerate() {
        let mut paths = vec![[this, i]];
        if i != this {
            paths.push([i, this]);
        }
        for path in paths {
            for mode in [Mode::Paths, Mode::Handles] {
                let (writer, reader) = (&candidates[path[0]], &candidates[path[1]]);
                if !writes(writer, mode) {
                    continue;
                }
                let version = older_version(writer, reader);
                let format = &formats(writer, reader)[0];
                let id = |kind| cell(candidates, kind, &path, format, version, mode);
                cells.push(id(Kind::OddName));
                if path[1] == this {
                    cells.push(id(Kind::External));
                }
            }
        }
        if other.is_ours() && candidates[this].knows(LOCKS) {
            let mut versions = vec![None];
            versions.extend(older_version(&candidates[this], other).map(Some));
            for version in versions {
                for mode in [Mode::Paths, Mode::Handles] {
                    let (kind, path) = (Kind::Lock, [this, i]);
                    cells.push(cell(candidates, kind, &path, FORMATS[0], version, mode));
                }
            }
        }
        let mut versions = vec![None];
        versions.extend(older_version(&candidates[this], other).map(Some));
        for version in versions {
            let (path, mode) = ([this, i], Mode::Paths);
            let format = &formats(&candidates[this], other)[0];
            cells.push(cell(
                candidates,
                Kind::Unlinked,
                &path,
                format,
                version,
                mode,
            ));
        }
        if other.is_ours() {
            for format in FORMATS {
                let path = [i, i];
                let mode = Mode::Paths;
                cells.push(cell(candidates, Kind::Damaged, &path, format, None, mode));
            }
            let path = [i];
            let (kind, mode) = (Kind::Foreign, Mode::Paths);
            cells.push(cell(candidates, kind, &path, "virtiofsd-v1", None, mode));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn candidates() -> Vec<Candidate> {
        let stock = |dialect: &str| Maker::Stock {
            dialect: dialect.to_owned(),
        };
        vec![
            Candidate::fake("this", Maker::This),
            Candidate::fake("0.1.0", Maker::Older { state_version: 1 }),
            Candidate::fake("virtiofsd 1.11.1", stock("virtiofsd-v1")),
            Candidate::fake("virtiofsd 1.14.0", stock("virtiofsd-v2")),
        ]
    }

    #[test]
    fn cells_have_names_of_their_own() {
        let cells = all(&candidates());
        let ids: HashSet<_> = cells.iter().map(|c| &c.id).collect();
        assert_eq!(ids.len(), cells.len());
        for wanted in [
            "this -> 0.1.0, msgpack+zstd, file-handles",
            "this -> 0.1.0, msgpack+zstd at state version 1, file-handles",
            "this -> 0.1.0 -> this, postcard at state version 1, find-paths",
            "a lock held: this -> 0.1.0, postcard, find-paths",
            "a lock held: this -> 0.1.0, postcard at state version 1, find-paths",
            "unlinked and open: this -> 0.1.0, postcard at state version 1, find-paths",
            "unlinked and open: this -> virtiofsd 1.14.0, virtiofsd-v2, find-paths",
            "virtiofsd 1.11.1 -> this -> virtiofsd 1.14.0, postcard, find-paths",
            "virtiofsd 1.14.0 -> this, virtiofsd-v2, find-paths and verify",
            "this -> virtiofsd 1.11.1, virtiofsd-v1, find-paths",
            "name not UTF-8: this -> virtiofsd 1.14.0, virtiofsd-v2, find-paths",
            "by a file: 0.1.0 -> this, postcard, file-handles",
            "damaged: 0.1.0 -> 0.1.0, msgpack, find-paths",
            "a fork's stream: this, virtiofsd-v1, find-paths",
        ] {
            assert!(ids.contains(&wanted.to_owned()), "{wanted}");
        }
        let impossible = "virtiofsd 1.11.1 -> this, virtiofsd-v1, file-handles";
        assert!(!ids.contains(&impossible.to_owned()));
    }
}
