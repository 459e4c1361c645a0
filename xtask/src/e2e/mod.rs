//! `e2e`: real guests (Linux under QEMU's emulation) live on a daemon and cross
//! to others.
//!
//! Each scenario boots one guest, whose agent (`tests/guest`) makes every check
//! of its list; then it crosses, and they are verified, from inside and from the
//! host's side.

mod agent;
mod cpio;
mod daemon;
mod furnish;
mod image;
mod journey;
mod lines;
pub mod process;
mod qmp;
mod rings;
mod scenario;
pub mod share;
pub mod vm;
pub mod wait;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::fail::{need, Context, Fail, Result};
use crate::setup::Tools;
use crate::{binaries, progress, setup, workspace};
use daemon::{Kind, Program};
use journey::{Measured, Run};
use scenario::{Journey, Scenario};
use share::Share;
use vm::Machine;

/// As many as a guest counts in a few seconds.
const FILES: usize = 50_000;

/// Options of `e2e`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Run the scenarios whose name contains this (repeatable); all by default
    #[arg(value_name = "NAME")]
    pub filter: Vec<String>,

    /// List the scenarios
    #[arg(long)]
    pub list: bool,

    /// Make only these checks (comma-separated)
    #[arg(long, value_name = "CHECKS", value_delimiter = ',')]
    pub check: Vec<String>,

    /// Cargo profile of the daemon that is built
    #[arg(long, default_value = "release")]
    pub profile: String,

    /// Scenarios at a time
    #[arg(long, value_name = "N", default_value_t = jobs())]
    pub jobs: usize,

    /// Keep the shares of scenarios that passed, too
    #[arg(long)]
    pub keep: bool,

    /// Files that a census counts
    #[arg(long, value_name = "N", default_value_t = FILES)]
    pub files: usize,

    /// Test this daemon (ferryfsd, a variant, or virtiofsd) instead of building one
    #[arg(long, value_name = "PATH")]
    pub daemon: Option<PathBuf>,
}

impl Default for Args {
    /// As without any option.
    fn default() -> Self {
        Self {
            filter: Vec::new(),
            list: false,
            check: Vec::new(),
            profile: "release".to_owned(),
            jobs: jobs(),
            keep: false,
            files: FILES,
            daemon: None,
        }
    }
}

/// One guest with one processor for each of two cores.
fn jobs() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(4))
}

struct Outcome {
    scenario: Scenario,
    measured: Measured,
    seconds: f64,
    /// Why it was not run.
    skipped: Option<String>,
    result: Result<()>,
}

/// Runs what `args` asks for.
pub fn run(args: &Args) -> Result<()> {
    let chosen = chosen(&args.filter)?;
    if args.list {
        for s in chosen {
            println!(
                "{:28} {:13} {}",
                s.name,
                s.mode.name(),
                s.formats.join(", ")
            );
        }
        return Ok(());
    }
    let tools = setup::find()?;
    let program = match &args.daemon {
        Some(path) => path.canonicalize().context(path.display())?,
        None => binaries::build("ferryfsd", &args.profile)?,
    };
    let program = Program::new(program)?;
    let stock = stock(&program);
    let external = chosen.iter().any(|s| s.journey == Journey::External);
    let ferryctl = match external {
        true => Some(binaries::build("ferryctl", &args.profile)?),
        false => None,
    };
    let agent = binaries::guest_agent()?;
    let dir = workspace::target()?.join("e2e");
    std::fs::create_dir_all(&dir).context(dir.display())?;
    let initramfs = dir.join("initramfs.cpio");
    image::make(&initramfs, &agent, &tools.busybox)?;
    let mounts = share::private_mounts();
    progress::step(format_args!(
        "{} scenarios with {}",
        chosen.len(),
        program.version
    ));
    let bench = Bench {
        args,
        tools: &tools,
        program: &program,
        stock: &stock,
        ferryctl: ferryctl.as_deref(),
        agent: &agent,
        initramfs: &initramfs,
        mounts,
    };
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|threads| {
        for _ in 0..args.jobs.clamp(1, chosen.len()) {
            threads.spawn(|| {
                while let Some(scenario) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = bench.run(scenario, &dir);
                    outcomes
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(outcome);
                }
            });
        }
    });
    let mut outcomes = outcomes
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    outcomes.sort_by_key(|o| chosen.iter().position(|s| s.name == o.scenario.name));
    need(outcomes.len() == chosen.len(), || {
        "a scenario did not come to its end".into()
    })?;
    report(&outcomes)
}

fn chosen(filter: &[String]) -> Result<Vec<Scenario>> {
    let all = scenario::all();
    if let Some(f) = filter
        .iter()
        .find(|f| !all.iter().any(|s| s.name.contains(*f)))
    {
        let names: Vec<_> = all.iter().map(|s| s.name.as_str()).collect();
        return Err(Fail::new(format!(
            "no scenario contains {f:?}; there are: {}",
            names.join(", ")
        )));
    }
    let wanted = |s: &Scenario| filter.is_empty() || filter.iter().any(|f| s.name.contains(f));
    Ok(all.into_iter().filter(wanted).collect())
}

/// What all scenarios have in common.
struct Bench<'a> {
    args: &'a Args,
    tools: &'a Tools,
    program: &'a Program,
    /// Stock virtiofsd, or why scenarios that need it are skipped.
    stock: &'a std::result::Result<Program, String>,
    /// Built where a scenario needs it.
    ferryctl: Option<&'a Path>,
    agent: &'a Path,
    initramfs: &'a Path,
    mounts: bool,
}

impl Bench<'_> {
    fn run(&self, scenario: &Scenario, dir: &Path) -> Outcome {
        progress::subject(&scenario.name);
        let start = progress::seconds();
        let own = "only ferryfsd has migration types".to_owned();
        let missing = match scenario.journey {
            Journey::External if self.program.kind != Kind::Ferryfsd => Some(&own),
            journey if journey.needs_stock() => self.stock.as_ref().err(),
            _ => None,
        };
        if let Some(why) = missing {
            progress::step(format_args!("SKIPPED: {why}"));
            return Outcome {
                scenario: scenario.clone(),
                measured: Measured::default(),
                seconds: 0.0,
                skipped: Some(why.clone()),
                result: Ok(()),
            };
        }
        let (measured, result) = self
            .run_in(scenario, &dir.join(&scenario.name))
            .unwrap_or_else(|e| (Measured::default(), Err(e)));
        if let Err(e) = &result {
            progress::step(format_args!("FAILED\n{e}"));
        }
        Outcome {
            scenario: scenario.clone(),
            measured,
            seconds: progress::seconds() - start,
            skipped: None,
            result,
        }
    }

    fn run_in(&self, scenario: &Scenario, dir: &Path) -> Result<(Measured, Result<()>)> {
        let _alone = alone(dir)?;
        clear(dir)?;
        std::fs::create_dir_all(dir).context(dir.display())?;
        let sockets = SocketDir::make(&scenario.name)?;
        let path = dir.join("share");
        let share = Share::make(path.clone(), self.agent, scenario, self.mounts)?;
        let machine = Machine {
            tools: self.tools,
            initramfs: Some(self.initramfs),
            sockets: &sockets.0,
            logs: dir,
        };
        let (measured, result) = journey::run(&Run {
            scenario,
            program: self.program,
            stock: self.stock.as_ref().ok(),
            ferryctl: self.ferryctl,
            machine: &machine,
            share: &share,
            only: &self.args.check,
            files: self.args.files,
        });
        drop(share);
        if result.is_ok() && !self.args.keep {
            clear(&path)?;
            clear(&Share::copy_of(&path))?;
        }
        Ok((measured, result))
    }
}

/// Stock virtiofsd beside `program`, or why there is none to speak of.
fn stock(program: &Program) -> std::result::Result<Program, String> {
    if program.kind == Kind::Virtiofsd {
        return Err("the daemon under test is virtiofsd itself".to_owned());
    }
    let there = binaries::virtiofsd().map_err(|e| e.to_string())?;
    let path = there.into_iter().next().ok_or(
        "no virtiofsd (set VIRTIOFSD, or put it into PATH or target/peers/bin)".to_owned(),
    )?;
    let stock = Program::new(path).map_err(|e| e.to_string())?;
    // 1.11 has another format, and those before cannot migrate.
    let minor = stock.version.strip_prefix("virtiofsd 1.");
    let minor = minor.and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
    match minor {
        Some(12..) => Ok(stock),
        _ => Err(format!(
            "{} is there, and 1.12 or newer is needed",
            stock.version
        )),
    }
}

/// Sees to it that nobody else works in `dir`, as long as the answer lives.
fn alone(dir: &Path) -> Result<File> {
    let path = dir.with_extension("lock");
    let file = File::create(&path).context(path.display())?;
    let operation = FlockOperation::NonBlockingLockExclusive;
    rustix::fs::flock(&file, operation).map_err(|e| match e {
        Errno::WOULDBLOCK => Fail::new(format!("another run is in {}: wait for it", dir.display())),
        e => Fail::new(format!("{}: {e}", path.display())),
    })?;
    Ok(file)
}

fn clear(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).context(dir.display()),
        _ => Ok(()),
    }
}

/// A directory whose name is short, since the names of sockets are limited to
/// 107 bytes.
pub struct SocketDir(pub PathBuf);

impl SocketDir {
    /// Makes it, for `name`.
    pub fn make(name: &str) -> Result<Self> {
        let own = format!("ferryfs-e2e-{}-{name}", std::process::id());
        let dir = std::env::temp_dir().join(own);
        clear(&dir)?;
        std::fs::create_dir(&dir).context(dir.display())?;
        // Also for daemons that are run by others.
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(&dir, all).context(dir.display())?;
        Ok(Self(dir))
    }
}

impl Drop for SocketDir {
    fn drop(&mut self) {
        // What stays behind is a few sockets in the temporary directory.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn report(outcomes: &[Outcome]) -> Result<()> {
    println!(
        "\n{:31} {:45} {:7} {:>7} {:>6}  {:30} state bytes",
        "scenario", "formats", "result", "checks", "s", "downtime ms"
    );
    for o in outcomes {
        let downtimes: Vec<_> = o
            .measured
            .downtimes
            .iter()
            .map(|ms| format!("{ms:.0}"))
            .collect();
        let states: Vec<_> = o.measured.states.iter().map(u64::to_string).collect();
        let or_dash = |list: Vec<String>| {
            if list.is_empty() {
                "-".to_owned()
            } else {
                list.join(" ")
            }
        };
        println!(
            "{:31} {:45} {:7} {:>7} {:>6.1}  {:30} {}",
            o.scenario.name,
            o.scenario.formats.join(" "),
            match (&o.skipped, &o.result) {
                (Some(_), _) => "skipped",
                (None, Ok(())) => "ok",
                (None, Err(_)) => "FAILED",
            },
            o.measured.checks,
            o.seconds,
            or_dash(downtimes),
            or_dash(states)
        );
    }
    for o in outcomes {
        if let Some(why) = &o.skipped {
            println!("skipped: {}: {why}", o.scenario.name);
        }
    }
    let failed = outcomes.iter().filter(|o| o.result.is_err()).count();
    need(failed == 0, || {
        format!("{failed} of {} scenarios failed", outcomes.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_run_at_a_time_is_in_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("hop");
        let first = alone(&dir).unwrap();
        let refused = alone(&dir).unwrap_err().to_string();
        assert!(refused.contains("another run"), "{refused}");
        drop(first);
        alone(&dir).unwrap();
    }
}
