//! What is run: each journey in each mode, every format at least once.

use super::daemon::Kind;

/// `--migration-mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Files are found again by their names.
    FindPaths,
    /// Files are found again by the kernel's file handles.
    FileHandles,
}

impl Mode {
    const ALL: [Self; 2] = [Self::FindPaths, Self::FileHandles];

    /// As on the daemon's command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::FindPaths => "find-paths",
            Self::FileHandles => "file-handles",
        }
    }

    /// The `--inode-file-handles` that goes with it.
    pub fn inodes(self) -> &'static str {
        match self {
            Self::FindPaths => "never",
            Self::FileHandles => "mandatory",
        }
    }
}

/// Where the guest goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journey {
    /// To another daemon.
    Hop,
    /// To five others in a row.
    FiveHops,
    /// Nearly; the migration is cancelled, and then done.
    CancelRetry,
    /// Into a file, and out of it again.
    Snapshot,
    /// To a daemon that has the wrong directory and must refuse; then to the
    /// right one.
    Refused,
    /// To another daemon, with writes collected by the guest.
    Writeback,
    /// To another daemon, where it mounts and unmounts over and over, with all that
    /// a mount can know.
    Remounts,
    /// From stock virtiofsd to ours and back.
    StockAndBack,
    /// From ours to stock virtiofsd and back.
    ToStockAndBack,
}

impl Journey {
    /// Whether the `n`th daemon of the journey, from 0, is stock virtiofsd.
    pub fn is_stock(self, n: usize) -> bool {
        match self {
            Self::StockAndBack => n % 2 == 0,
            Self::ToStockAndBack => n % 2 == 1,
            _ => false,
        }
    }

    /// Whether any daemon of the journey is.
    pub fn needs_stock(self) -> bool {
        self.is_stock(0) || self.is_stock(1)
    }
}

/// One guest's life.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Unique; a directory name.
    pub name: String,
    /// How the state is found again.
    pub mode: Mode,
    /// The formats of the crossings, in turn.
    pub formats: &'static [&'static str],
    /// Where it goes.
    pub journey: Journey,
}

const POSTCARD: &str = "postcard";
const MSGPACK: &str = "msgpack";
const POSTCARD_ZSTD: &str = "postcard+zstd";
const MSGPACK_ZSTD: &str = "msgpack+zstd";

/// The state of virtiofsd 1.12 to 1.14.
const VIRTIOFSD: &str = "virtiofsd-v2";

const JOURNEYS: [(&str, Journey, &[&str]); 9] = [
    ("hop", Journey::Hop, &[POSTCARD]),
    (
        "five-hops",
        Journey::FiveHops,
        &[MSGPACK, POSTCARD_ZSTD, MSGPACK_ZSTD, POSTCARD],
    ),
    ("cancel-retry", Journey::CancelRetry, &[POSTCARD_ZSTD]),
    ("snapshot", Journey::Snapshot, &[MSGPACK_ZSTD]),
    ("refused", Journey::Refused, &[MSGPACK]),
    ("writeback", Journey::Writeback, &[POSTCARD]),
    ("remounts", Journey::Remounts, &[POSTCARD]),
    ("stock-and-back", Journey::StockAndBack, &[VIRTIOFSD]),
    ("to-stock-and-back", Journey::ToStockAndBack, &[VIRTIOFSD]),
];

/// Every scenario.
pub fn all() -> Vec<Scenario> {
    let scenario = |mode: Mode, (name, journey, formats): (&str, Journey, &'static [_])| Scenario {
        name: format!("{name}-{}", mode.name()),
        mode,
        formats,
        journey,
    };
    Mode::ALL
        .into_iter()
        .flat_map(|mode| JOURNEYS.map(|j| scenario(mode, j)))
        .collect()
}

/// Why `kind` cannot pass check `name` in a scenario, where that is known and
/// not ours to change.
pub fn known_failure(kind: Kind, scenario: &Scenario, name: &str) -> Option<&'static str> {
    if kind == Kind::Ferryfsd && !scenario.journey.needs_stock() {
        return None;
    }
    match name {
        "names" if scenario.mode == Mode::FindPaths => {
            Some("virtiofsd cannot write down a name that is not UTF-8")
        }
        "open-files" | "writer" if scenario.journey == Journey::Writeback => {
            Some("virtiofsd does not reopen for reading, and with O_APPEND, what writeback needs")
        }
        "renames" => {
            Some("virtiofsd at times refuses over a file that was removed and not yet forgotten")
        }
        // Ours leaves O_APPEND out of what it writes for virtiofsd.
        "append-create" if kind == Kind::Virtiofsd => {
            Some("virtiofsd reopens with O_APPEND, so that writes in place go to the end")
        }
        "made-at" => Some("virtiofsd serves neither STATX nor the ioctls of file flags"),
        "locks" if scenario.journey == Journey::ToStockAndBack => {
            Some("virtiofsd has no locks on the host, and takes none over")
        }
        "groups" => Some("virtiofsd forgets that supplementary groups were negotiated"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_format_crosses_in_every_mode() {
        let all = all();
        let names: HashSet<_> = all.iter().map(|s| &s.name).collect();
        assert_eq!(names.len(), all.len());
        for mode in Mode::ALL {
            let formats: HashSet<_> = all
                .iter()
                .filter(|s| s.mode == mode)
                .flat_map(|s| s.formats)
                .collect();
            assert_eq!(formats.len(), 5, "{mode:?}");
        }
    }

    #[test]
    fn nothing_is_excused_for_our_own_daemon() {
        for s in all() {
            if !s.journey.needs_stock() {
                assert_eq!(known_failure(Kind::Ferryfsd, &s, "groups"), None);
            }
            assert!(known_failure(Kind::Virtiofsd, &s, "groups").is_some());
        }
    }
}
