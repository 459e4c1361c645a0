//! `bench`: figures for the pages in docs/ that have some.

mod daemons;
mod hostile;
mod migrate;
mod page;
mod state;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::Value;

use crate::command::Cmd;
use crate::fail::{need, Context, Result};
use crate::{binaries, progress, setup, workspace};

/// Options of `bench`.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(flatten)]
    daemons: daemons::Args,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Size, time and memory of a state in each format: writes docs/state-bench.md
    State(state::Args),
    /// A crossing over the number of inodes: writes its part of docs/benchmarks.md
    Migrate(migrate::Args),
    /// Attacks on ferryfsd and on others, side by side: writes docs/hostile.md
    Hostile(hostile::Args),
}

/// Measures.
pub fn run(args: &Args) -> Result<()> {
    match &args.what {
        None => daemons::run(&args.daemons),
        Some(What::State(args)) => state::run(args),
        Some(What::Migrate(args)) => migrate::run(args),
        Some(What::Hostile(args)) => hostile::run(args),
    }
}

/// The page with figures of daemons.
const PAGE: &str = "docs/benchmarks.md";

/// What it begins with.
const INTRODUCTION: &str = "\
# Benchmarks

ferryfsd beside other virtio-fs daemons, driven by `ferrybench` as a VMM would: without a
virtual machine, so that what is seen is the daemon. All parts below are made by a command
that stands there; `cargo xtask setup-peers` gets the other daemons.

Rounds alternate between the daemons within one run (A B C, B C A, ...), after a warm-up,
and ratios are medians of rounds with the same number: what else the machine does, it does
to all. Daemons and shares are made anew several times, as where a file lies in memory is
luck and the same in all rounds. At depth 1 both sides sleep most of the time and wake each
other, which costs ten times as much on another processor as on the same one: there, a case
is measured with a processor for each (*apart*) and with one for both (*together*), as where
the scheduler chooses it is luck. `--realtime` keeps away what else the machine has to do, for
which a request may wait milliseconds. Times as such are of one machine at one time. Every
workload is checked on the host's disk after it was measured; a daemon that did something
else than it was asked to has no figures. *depth* is the number of requests in flight per
queue; *uid* who sends them, root where it is absent; *queues* the request queues, one
where it is absent. `ferrybench workloads` says what the workloads do.

Shares are on tmpfs, where a file system costs least. On a disk (`--dir`) its past is
measured along: ext4 without a journal, for one, passes over each inode of a block group
that was deleted in the last minutes before it makes a new one there, so that making files
can take ten times as long in one directory as in another. A file system made for the
occasion has no past.
";

/// Where shares are made.
fn share_dir(given: Option<&Path>) -> PathBuf {
    let memory = Path::new("/dev/shm");
    match given {
        Some(dir) => dir.to_owned(),
        None if memory.is_dir() => memory.to_owned(),
        None => std::env::temp_dir(),
    }
}

/// Other projects' daemons that are here, by their names for ferrybench.
fn peers() -> Result<Vec<&'static str>> {
    need(!binaries::virtiofsd()?.is_empty(), || {
        "there is no virtiofsd to compare with: `cargo xtask setup-peers` gets it, or put it into \
         PATH or VIRTIOFSD"
            .into()
    })?;
    let mut peers = vec!["virtiofsd"];
    let given = std::env::var_os("VIRTIOFSD_C").is_some();
    if given || setup::virtiofsd_c()?.is_file() {
        peers.push("virtiofsd-c");
    } else {
        progress::step("without the virtiofsd in C: `cargo xtask setup-peers` gets it");
    }
    peers.push("fuse-backend-rs");
    Ok(peers)
}

/// Builds what is measured, and what measures.
fn ferrybench() -> Result<PathBuf> {
    binaries::build("ferryfsd", "release")?;
    binaries::build("fuse-backend-fsd", "release")?;
    binaries::build("ferrybench", "release")
}

/// Where reports are kept, for a look at more than the page has; without an extension.
fn kept(name: &str) -> Result<PathBuf> {
    let dir = workspace::target()?.join("bench");
    std::fs::create_dir_all(&dir).context(dir.display())?;
    Ok(dir.join(name))
}

/// Runs ferrybench; its report as JSON. What it writes lies at `kept`, and its progress
/// goes to the terminal.
fn measure(program: &Path, words: &[String], dir: &Path, kept: &Path) -> Result<String> {
    let json = kept.with_extension("json");
    let mut cmd = Cmd::new(program).args(words).args([
        "--dir".as_ref(),
        dir.as_os_str(),
        "--json".as_ref(),
        json.as_os_str(),
        "--html".as_ref(),
        kept.with_extension("html").as_os_str(),
        "--svg".as_ref(),
        kept.with_extension("svg").as_os_str(),
    ]);
    // The daemons that were looked for here.
    if let Some(virtiofsd) = binaries::virtiofsd()?.first() {
        cmd = cmd.env("VIRTIOFSD", virtiofsd);
    }
    cmd.stdout_to(&kept.with_extension("txt"))?;
    std::fs::read_to_string(&json).context(json.display())
}

/// What it was measured on, in a sentence.
fn machine(report: &Value) -> String {
    let machine = &report["machine"];
    let word = |name: &str| machine[name].as_str().unwrap_or("unknown");
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("unknown");
    let priority = match machine["realtime"].as_bool() {
        Some(true) => " at real-time priority;",
        _ => "",
    };
    format!(
        "{}, {} processors; Linux {}; shares on {};{priority} load average at the end {load}.",
        word("cpu"),
        machine["cpus"],
        word("kernel"),
        word("file_system"),
    )
}

/// Which daemons took part.
fn versions(names: &[String]) -> Result<String> {
    let mut all = Vec::new();
    for name in names {
        let of = |path: &Path| {
            let said = binaries::version(path)?;
            let first = said.lines().next().unwrap_or_default();
            // A distribution's own number says nothing to others.
            Ok(first.split(" (").next().unwrap_or_default().to_owned())
        };
        all.push(match name.as_str() {
            "virtiofsd" => match binaries::virtiofsd()?.first() {
                Some(path) => format!("{} (Rust)", of(path)?),
                None => "virtiofsd (Rust)".to_owned(),
            },
            "virtiofsd-c" => {
                let given = std::env::var_os("VIRTIOFSD_C").map(PathBuf::from);
                let path = given.map_or_else(setup::virtiofsd_c, Ok)?;
                format!("virtiofsd-c: {} of QEMU, in C", of(&path)?)
            }
            "fuse-backend-rs" => "the passthrough of fuse-backend-rs 0.14 on vhost-user-backend \
                                  (examples/fuse-backend-fsd)"
                .to_owned(),
            name => format!("{name} {}", env!("CARGO_PKG_VERSION")),
        });
    }
    Ok(format!("Daemons: {}.", all.join("; ")))
}

/// A number with its digits in threes.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
