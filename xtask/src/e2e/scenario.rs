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
    fn inodes(self) -> &'static str {
        match self {
            Self::FindPaths => "never",
            Self::FileHandles => "mandatory",
        }
    }
}

/// Where the guest goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journey {
    /// To so many other daemons in a row.
    Hops(usize),
    /// Nearly; the migration is cancelled, and then done.
    CancelRetry,
    /// Into a file, and out of it again.
    Snapshot,
    /// To another daemon, and then into files and out of them again, with the state
    /// carried by `ferryctl` and not by QEMU.
    External,
    /// To a daemon that has the wrong directory and must refuse; then to the
    /// right one.
    Refused,
    /// To another daemon, with writes collected by the guest.
    Writeback,
    /// To another daemon, where it mounts and unmounts over and over, with all that
    /// a mount can know.
    Remounts,
    /// To another daemon, while others rename, replace and remove what is open.
    Meddled,
    /// The same with daemons of a user who has no privileges, and none of whose file
    /// handles can be opened.
    Unprivileged,
    /// Nowhere, as long as it has more open without a name than its daemon lets cross; then
    /// to another daemon.
    TooMuch,
    /// Into a file, and out of it again on a copy of the share, in which a directory lies
    /// elsewhere.
    Copy,
    /// Beside another guest on the same share, with locks that exclude each other's; one
    /// crosses, and then the other.
    TwoGuests,
    /// Nowhere before it has seen every file of very many; then to another daemon.
    Census,
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

/// What the guest does, and what that takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// What any share can do.
    Core,
    /// What a share can do whose daemon is told to.
    Features,
    /// Users and groups that are others on the host.
    Ids,
    /// More files than the daemon may have descriptors.
    Descriptors,
    /// What others on the host have a hand in.
    Meddled,
    /// As `Core`, with daemons that locate nothing before it is used.
    Late,
    /// With more that has no name than may cross.
    TooMuch,
    /// What there is to see in a copy of the share.
    Copied,
}

impl Work {
    /// Its set of checks in the guest.
    pub fn checks(self) -> &'static str {
        match self {
            Self::Core | Self::Late => "core",
            Self::Features => "features",
            Self::Ids => "ids",
            Self::Descriptors => "descriptors",
            Self::Meddled => "meddled",
            Self::TooMuch => "too-much",
            Self::Copied => "copied",
        }
    }

    /// Options of a daemon, beside those that it always has.
    pub fn options(self) -> &'static [&'static str] {
        match self {
            Self::Core | Self::Meddled | Self::Late | Self::TooMuch | Self::Copied => &[],
            Self::Features => &["--posix-acl", "--security-label", "--announce-submounts"],
            // As `fixture` has them.
            Self::Ids => &[
                "--translate-uid=map:0:100000:1000",
                "--translate-gid=map:0:200000:1000",
                "--translate-uid=squash-host:0:65534:1",
                "--translate-gid=squash-host:0:65534:1",
                "--translate-uid=forbid-guest:5000:10",
            ],
            Self::Descriptors => &["--rlimit-nofile=1500"],
        }
    }

    /// Options that ferryfsd alone has.
    pub fn own_options(self) -> &'static [&'static str] {
        match self {
            Self::Late => &["--restore-first=0"],
            // As `fixture` has it.
            Self::TooMuch => &["--ghost-limit=128K"],
            _ => &[],
        }
    }

    /// Words for the guest's kernel.
    pub fn kernel_arguments(self) -> &'static str {
        match self {
            // The module that labels; there is no policy, so that it forbids nothing.
            Self::Features => "security=selinux",
            _ => "",
        }
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
    /// What it does there.
    pub work: Work,
}

impl Scenario {
    /// `--inode-file-handles`: each mode with the kind of inodes that stands to lose
    /// most by it, but for very many files the one that takes no descriptor for each.
    pub fn inodes(&self) -> &'static str {
        match self.journey {
            Journey::Census => "prefer",
            _ => self.mode.inodes(),
        }
    }
}

const POSTCARD: &str = "postcard";
const MSGPACK: &str = "msgpack";
const POSTCARD_ZSTD: &str = "postcard+zstd";
const MSGPACK_ZSTD: &str = "msgpack+zstd";

/// The state of virtiofsd 1.12 to 1.14.
const VIRTIOFSD: &str = "virtiofsd-v2";

const JOURNEYS: [(&str, Journey, &[&str]); 12] = [
    ("hop", Journey::Hops(1), &[POSTCARD]),
    (
        "five-hops",
        Journey::Hops(5),
        &[MSGPACK, POSTCARD_ZSTD, MSGPACK_ZSTD, POSTCARD],
    ),
    ("cancel-retry", Journey::CancelRetry, &[POSTCARD_ZSTD]),
    ("snapshot", Journey::Snapshot, &[MSGPACK_ZSTD]),
    ("external", Journey::External, &[POSTCARD, MSGPACK]),
    ("refused", Journey::Refused, &[MSGPACK]),
    ("writeback", Journey::Writeback, &[POSTCARD]),
    ("remounts", Journey::Remounts, &[POSTCARD]),
    ("two-guests", Journey::TwoGuests, &[POSTCARD]),
    ("census", Journey::Census, &[MSGPACK]),
    ("stock-and-back", Journey::StockAndBack, &[VIRTIOFSD]),
    ("to-stock-and-back", Journey::ToStockAndBack, &[VIRTIOFSD]),
];

type Entry = (&'static str, Journey, Work, &'static [&'static str]);

/// What is switched on has to cross as well.
const WORKS: [Entry; 5] = [
    (
        "features",
        Journey::Hops(2),
        Work::Features,
        &[MSGPACK, POSTCARD],
    ),
    ("ids", Journey::Hops(2), Work::Ids, &[POSTCARD]),
    (
        "descriptors",
        Journey::Hops(1),
        Work::Descriptors,
        &[POSTCARD],
    ),
    ("meddled", Journey::Meddled, Work::Meddled, &[POSTCARD]),
    ("late", Journey::Hops(2), Work::Late, &[MSGPACK, POSTCARD]),
];

/// What has one mode alone: no file handles, or nothing that they lead to.
const BY_PATH: [Entry; 3] = [
    (
        "unprivileged",
        Journey::Unprivileged,
        Work::Meddled,
        &[MSGPACK],
    ),
    ("too-much", Journey::TooMuch, Work::TooMuch, &[POSTCARD]),
    ("copy", Journey::Copy, Work::Copied, &[POSTCARD_ZSTD]),
];

/// Every scenario.
pub fn all() -> Vec<Scenario> {
    let scenario = |mode: Mode, (name, journey, work, formats): Entry| Scenario {
        name: format!("{name}-{}", mode.name()),
        mode,
        formats,
        journey,
        work,
    };
    let core = JOURNEYS.map(|(name, journey, formats)| (name, journey, Work::Core, formats));
    Mode::ALL
        .into_iter()
        .flat_map(|mode| {
            let by_path = BY_PATH.into_iter().filter(|_| mode == Mode::FindPaths);
            let entries: Vec<_> = core.into_iter().chain(WORKS).chain(by_path).collect();
            entries.into_iter().map(move |entry| scenario(mode, entry))
        })
        // It takes long, and goes as ferryfsd does by itself: the inodes are handles.
        .filter(|s| s.journey != Journey::Census || s.mode == Mode::FindPaths)
        .collect()
}

/// Why `kind` cannot pass check `name` in a scenario, where that is known and
/// not ours to change.
pub fn known_failure(kind: Kind, scenario: &Scenario, name: &str) -> Option<&'static str> {
    let by_handle = scenario.mode == Mode::FileHandles;
    let source_ends = matches!(scenario.journey, Journey::Snapshot | Journey::External);
    if name == "unlinked" && by_handle && source_ends {
        return Some("what is found by file handle ends with the source, which alone has kept it");
    }
    if kind == Kind::Ferryfsd && !scenario.journey.needs_stock() {
        return None;
    }
    match name {
        "unlinked" | "tmpfile-held" => Some("virtiofsd hands over nothing that has no name"),
        "meddled" => Some("virtiofsd follows nobody's renames but the guest's"),
        "too-much" => Some("virtiofsd has no limit: nothing without a name crosses"),
        "names" if scenario.mode == Mode::FindPaths => {
            Some("virtiofsd cannot write down a name that is not UTF-8")
        }
        "open-files" | "writer" if scenario.journey == Journey::Writeback => {
            Some("virtiofsd does not reopen for reading, and with O_APPEND, what writeback needs")
        }
        "renames" => {
            Some("virtiofsd at times refuses over a file that was removed and not yet forgotten")
        }
        _ if scenario.work == Work::Features => Some(
            "virtiofsd forgets what was negotiated: with --posix-acl it ends at the first SETXATTR",
        ),
        "ids" => Some("virtiofsd answers EIO, and not EACCES, for an id that is forbidden"),
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
