//! `posix`: suites of POSIX file system calls, on a mount of the file system and on
//! the bare one, compared test by test: nothing may come out differently but what
//! `tests/posix/expected.toml` says, and why.
//!
//! - `pjdfstest` and `fsx`, from their registry, at a fixed version;
//! - `ferry-posix` (`tests/posix`), as root and as an ordinary user, for what these
//!   are silent about.
//!
//! The bare run comes first. Then each setup: `examples/ferryfs-mount` with its
//! options, and the same suites on it; with `--guest` it is `ferryfsd`, and the suites
//! run in a guest that has booted from it.

mod expected;
mod guest;
mod runner;
mod setups;
mod suites;
mod tools;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use crate::e2e::process::Process;
use crate::e2e::share::private_mounts;
use crate::e2e::wait;
use crate::fail::{need, Context, Fail, Result};
use crate::{binaries, progress, workspace};
use expected::{Expected, Place};
use guest::Guests;
use runner::Here;
use setups::Setup;
use suites::{Outcomes, Suite};
use tools::Tools;

/// Options of `posix`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Run the setups whose name contains this (repeatable); all by default
    #[arg(value_name = "SETUP")]
    filter: Vec<String>,

    /// List the setups with their options
    #[arg(long)]
    list: bool,

    /// Fewer setups, fewer random tests: under two minutes
    #[arg(long)]
    quick: bool,

    /// Run the suites in a guest (Debian, made by debootstrap) whose root the file system
    /// is, instead of on a mount
    #[arg(long)]
    guest: bool,

    /// Run this suite only: pjdfstest, fsx, own or own-user (repeatable)
    #[arg(long, value_name = "SUITE")]
    suite: Vec<String>,

    /// Cargo profile of what is built
    #[arg(long, default_value = "dev")]
    profile: String,

    /// Show each line that differs, not only the first of a test
    #[arg(long)]
    verbose: bool,
}

/// From the start of the daemon to the mount.
const MOUNT: Duration = Duration::from_secs(20);
/// From the signal to the end.
const UNMOUNT: Duration = Duration::from_secs(20);

/// What all runs have in common.
struct Bench<'a> {
    args: &'a Args,
    dir: PathBuf,
    tools: Tools,
    suites: Vec<Suite>,
    expected: Expected,
    subject: Subject,
}

/// What is compared with the bare file system.
enum Subject {
    /// Mounts by this program.
    Mount(PathBuf),
    /// The roots of guests.
    Guest(Guests),
}

/// What came of one setup.
struct Row {
    setup: &'static str,
    /// Tests and unexpected differences, by suite.
    suites: Vec<(usize, usize)>,
    seconds: f64,
}

/// Runs them.
pub fn run(args: &Args) -> Result<()> {
    let chosen = setups::chosen(&args.filter, args.quick, args.guest)?;
    if args.list {
        for setup in chosen {
            println!("{:20} {}", setup.name, setup.options.join(" "));
        }
        return Ok(());
    }
    need(rustix::process::geteuid().is_root(), || {
        "the suites change users and mount: they need root".into()
    })?;
    need(args.guest || Path::new("/dev/fuse").exists(), || {
        "there is no /dev/fuse here; load the fuse module".into()
    })?;
    let dir = workspace::target()?.join("posix");
    std::fs::create_dir_all(&dir).context(dir.display())?;
    let tools = tools::find_or_install(&dir, &args.profile)?;
    let subject = if args.guest {
        Subject::Guest(Guests::prepare(&dir, &tools, &args.profile)?)
    } else {
        // Whatever goes wrong, no mount outlives this process.
        need(private_mounts(), || {
            "mounts of one's own are not permitted here".into()
        })?;
        Subject::Mount(binaries::build("ferryfs-mount", &args.profile)?)
    };
    let bench = Bench {
        args,
        suites: suites::chosen(&args.suite)?,
        expected: Expected::read()?,
        dir,
        tools,
        subject,
    };
    progress::step("the bare file system");
    let bare = bench.on_directory("bare")?;
    let mut rows = Vec::new();
    let mut wrong = 0;
    for setup in &chosen {
        progress::subject(setup.name);
        let start = progress::seconds();
        let suites = bench.compare(setup, &bare)?;
        wrong += suites.iter().map(|(_, wrong)| wrong).sum::<usize>();
        rows.push(Row {
            setup: setup.name,
            suites,
            seconds: progress::seconds() - start,
        });
    }
    report(&bench.suites, &rows);
    need(wrong == 0, || {
        format!(
            "{wrong} tests differ from the bare file system, or do not where {} says so",
            expected::FILE
        )
    })
}

/// Makes an empty directory where everybody may pass.
fn fresh(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).context(path.display())
        }
        _ => {}
    }
    std::fs::create_dir(path).context(path.display())
}

impl Bench<'_> {
    /// The outcomes of all suites in a directory of the host.
    fn on_directory(&self, name: &str) -> Result<Vec<Outcomes>> {
        let dir = self.dir.join(name);
        fresh(&dir)?;
        let outcomes = self.in_place(&dir, name);
        std::fs::remove_dir_all(&dir).context(dir.display())?;
        outcomes
    }

    fn in_place(&self, dir: &Path, name: &str) -> Result<Vec<Outcomes>> {
        let mut here = Here {
            tools: &self.tools,
            dir,
            logs: self.dir.join(name),
        };
        let run = |suite: &Suite| {
            progress::step(suite.name());
            suite.make_dir(dir)?;
            suite.run(&mut here, self.args.quick)
        };
        self.suites.iter().map(run).collect()
    }

    /// The outcomes of all suites on a mount.
    fn on_mount(&self, setup: &Setup, daemon: &Path) -> Result<Vec<Outcomes>> {
        let (share, mountpoint) = (self.dir.join("share"), self.dir.join("mount"));
        fresh(&share)?;
        fresh(&mountpoint)?;
        let log = self.dir.join(format!("{}.log", setup.name));
        let mut command = Command::new(daemon);
        command.args([&share, &mountpoint]).args(&setup.options);
        let mut mounted = Mounted::start(command, &mountpoint, &log)?;
        let outcomes = self
            .in_place(&mountpoint, setup.name)
            .map_err(|e| Fail::new(format!("{e}\n{}", mounted.process.log_tail())))?;
        mounted.end()?;
        std::fs::remove_dir_all(&share).context(share.display())?;
        Ok(outcomes)
    }

    /// Runs all suites with a setup; tests and unexpected differences, by suite.
    fn compare(&self, setup: &Setup, bare: &[Outcomes]) -> Result<Vec<(usize, usize)>> {
        let (outcomes, place) = match &self.subject {
            Subject::Mount(daemon) => (self.on_mount(setup, daemon)?, Place::Mount),
            Subject::Guest(guests) => {
                let outcomes = guests.run(setup, &self.suites, self.args.quick)?;
                (outcomes, Place::Guest)
            }
        };
        let compared = self.suites.iter().zip(bare).zip(&outcomes);
        Ok(compared
            .map(|((suite, bare), mount)| {
                let listed = self.expected.of(suite.name(), setup, place);
                let findings = expected::compare(bare, mount, &listed);
                for finding in &findings {
                    let text = finding.text(self.args.verbose);
                    progress::step(format_args!("{}: {text}", suite.name()));
                }
                (bare.len(), findings.len())
            })
            .collect())
    }
}

/// Whether a daemon has ended well, and had nothing to complain of.
fn orderly(process: &Process, status: ExitStatus) -> Result<()> {
    let name = process.name();
    need(status.success(), || {
        format!("{name} ended with {status}\n{}", process.log_tail())
    })?;
    let said = process.log();
    let bad = said
        .lines()
        .find(|l| l.contains(" ERROR ") || l.contains("panicked"));
    need(bad.is_none(), || {
        format!("{name} complains: {}", bad.unwrap_or_default())
    })
}

/// A mounted file system.
struct Mounted {
    process: Process,
}

impl Mounted {
    fn start(command: Command, at: &Path, log: &Path) -> Result<Mounted> {
        use std::os::unix::fs::MetadataExt;
        let device = |path: &Path| {
            std::fs::metadata(path)
                .map(|m| m.dev())
                .context(path.display())
        };
        let before = device(at)?;
        let mut process = Process::start("ferryfs-mount", command, log)?;
        wait::until("the mount", MOUNT, || {
            if let Some(status) = process.ended()? {
                return Err(Fail::new(format!("ferryfs-mount ended at once: {status}")));
            }
            Ok((device(at)? != before).then_some(()))
        })
        .map_err(|e| Fail::new(format!("{e}\n{}", process.log_tail())))?;
        Ok(Mounted { process })
    }

    /// Unmounts it as a service manager would.
    fn end(&mut self) -> Result<()> {
        self.process.terminate()?;
        let status = self.process.wait_end(UNMOUNT)?;
        orderly(&self.process, status)
    }
}

fn report(suites: &[Suite], rows: &[Row]) {
    print!("\n{:20}", "setup");
    for suite in suites {
        print!(" {:>16}", suite.name());
    }
    println!(" {:>7}", "s");
    for row in rows {
        print!("{:20}", row.setup);
        for (tests, wrong) in &row.suites {
            let text = match wrong {
                0 => format!("{tests} the same"),
                _ => format!("{wrong} of {tests} WRONG"),
            };
            print!(" {text:>16}");
        }
        println!(" {:>7.1}", row.seconds);
    }
    println!(
        "\nthe same: as on the bare file system, but for what {} lists",
        expected::FILE
    );
}
