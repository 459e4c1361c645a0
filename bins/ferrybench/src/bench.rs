//! Measures workloads on daemons, in rounds that alternate between them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use crate::bare::{Bare, BareLoop};
use crate::case::{Case, Place};
use crate::daemon::{own_cpus, pin_thread, DaemonSpec};
use crate::engine::Goal;
use crate::error::BenchError;
use crate::machine::Scratch;
use crate::progress::Progress;
use crate::rig::Rig;
use crate::sample::{median, median_sample, ratios, Ratios, Sample};
use crate::workload::Sizes;

/// How everything is measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// Length of a round.
    pub goal: Goal,
    /// What goes before the first round.
    pub warmup: Goal,
    /// Rounds per daemon, each time that it is started.
    pub rounds: usize,
    /// How often everything is made anew.
    pub repeat: usize,
    /// Whether completions are polled for.
    pub polling: bool,
    /// Most bytes of data per descriptor.
    pub segment: usize,
    /// CPUs for this program.
    pub pin: Vec<usize>,
    /// CPUs for the daemons.
    pub pin_daemon: Vec<usize>,
    /// Sizes of files and directories.
    pub sizes: Sizes,
    /// Count system calls with strace.
    pub syscalls: bool,
    /// Run the bare system calls too.
    pub bare: bool,
    /// Where shares are made.
    pub dir: PathBuf,
}

impl Options {
    /// Rounds per daemon altogether.
    pub fn all_rounds(&self) -> usize {
        self.rounds * self.repeat
    }
}

/// A daemon's share of a case.
#[derive(Debug, Clone, Serialize)]
pub struct DaemonReport {
    /// Its name.
    pub daemon: String,
    /// Why there are no figures.
    pub error: Option<String>,
    /// Why it was not asked for any.
    pub skipped: Option<String>,
    /// All rounds.
    pub rounds: Vec<Sample>,
    /// Median of each figure over the rounds.
    pub median: Option<Sample>,
    /// Beside the base daemon.
    pub ratios: Option<Ratios>,
    /// Things on the disk that were compared with what they should be.
    pub verified: u64,
    /// System calls per operation by name.
    pub syscalls: Option<BTreeMap<String, f64>>,
    /// Resident bytes at the end.
    pub rss: u64,
    /// Most resident bytes.
    pub peak_rss: u64,
    /// Descriptors at the end.
    pub fds: usize,
}

/// All about a case.
#[derive(Debug, Clone, Serialize)]
pub struct CaseReport {
    /// What was done.
    pub workload: String,
    /// Operations in flight per queue.
    pub depth: usize,
    /// As whom.
    pub uid: u32,
    /// Request queues.
    pub queues: usize,
    /// Where both sides ran.
    pub place: Place,
    /// The case in a few words.
    pub label: String,
    /// Seconds that a round was to last; none where operations are counted.
    pub round_s: Option<f64>,
    /// By daemon, in order.
    pub daemons: Vec<DaemonReport>,
    /// The bare system calls: median over the rounds.
    pub bare: Option<Bare>,
}

/// A daemon in a case: its rig until it fails.
struct Entrant {
    report: DaemonReport,
    rig: Option<Rig>,
}

impl Entrant {
    fn new(spec: &DaemonSpec, case: &Case) -> Self {
        let most = spec.most_queues();
        let skipped = (case.queues > most).then(|| {
            let queues = if most == 1 { "queue" } else { "queues" };
            format!("has {most} request {queues}")
        });
        Entrant {
            report: DaemonReport {
                daemon: spec.name.clone(),
                error: None,
                skipped,
                rounds: Vec::new(),
                median: None,
                ratios: None,
                verified: 0,
                syscalls: None,
                rss: 0,
                peak_rss: 0,
                fds: 0,
            },
            rig: None,
        }
    }

    /// Starts it, unless it has failed before or is not asked.
    fn start(&mut self, spec: &DaemonSpec, case: &Case, options: &Options) {
        if self.report.error.is_some() || self.report.skipped.is_some() {
            return;
        }
        let made = Rig::new(spec, case, options).and_then(|mut rig| {
            rig.run(options.warmup, &options.pin)?;
            Ok(rig)
        });
        self.rig = self.keep(made);
    }

    /// The value, or none and the reason in the report.
    fn keep<T>(&mut self, result: Result<T, BenchError>) -> Option<T> {
        let error = match result {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        self.report.error = Some(crate::error::chain(&error));
        // What the daemon itself said about it is worth more.
        if let Some(rig) = self.rig.take() {
            let said = rig.daemon.stderr();
            if !said.is_empty() {
                eprintln!("{} said:\n{}", self.report.daemon, said.trim_end());
            }
        }
        None
    }

    /// Has what is dirty written back, where a round would be slowed by it.
    fn settle(&mut self, case: &Case) {
        let Some(rig) = self.rig.as_ref().filter(|_| case.workload.writes()) else {
            return;
        };
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        let share = rustix::fs::open(rig.share.path(), flags, rustix::fs::Mode::empty());
        // A file system that cannot be synced has nothing to write back.
        let _ = share.and_then(rustix::fs::syncfs);
    }

    fn round(&mut self, options: &Options) {
        if let Some(rig) = &mut self.rig {
            let ran = rig.run(options.goal, &options.pin);
            let sample = self.keep(ran);
            self.report.rounds.extend(sample);
        }
    }

    /// Looks at what it has left on the disk, and ends it; `last` is whether it was
    /// started for the last time.
    fn stop(&mut self, options: &Options, last: bool) {
        if let Some(rig) = self.rig.as_mut().filter(|_| last && options.syscalls) {
            let syscalls = rig.syscalls(options);
            self.report.syscalls = self.keep(syscalls).flatten();
        }
        if let Some(rig) = &mut self.rig {
            let verified = rig.verify(&options.pin);
            self.report.verified += self.keep(verified).unwrap_or(0);
        }
        if let Some(rig) = self.rig.take() {
            let figures = rig.daemon.figures().unwrap_or_default();
            self.report.rss = figures.rss;
            self.report.peak_rss = self.report.peak_rss.max(figures.peak_rss);
            self.report.fds = figures.fds;
        }
    }

    fn finish(mut self) -> DaemonReport {
        if self.report.error.is_none() {
            self.report.median = median_sample(&self.report.rounds);
        }
        self.report
    }
}

/// Measures a case on all daemons, a round on each before the next round. `base` is
/// the daemon that ratios are to.
///
/// # Errors
/// What fails on the host; failures of daemons are in the report.
pub fn run_case(
    case: &Case,
    daemons: &[DaemonSpec],
    base: Option<usize>,
    options: &Options,
    progress: &mut Progress,
) -> Result<CaseReport, BenchError> {
    let cpus = own_cpus()?;
    let options = &match case.place.choose(&cpus)? {
        Some((own, daemon)) => Options {
            pin: vec![own],
            pin_daemon: vec![daemon],
            ..options.clone()
        },
        None => options.clone(),
    };
    let mut entrants: Vec<_> = daemons.iter().map(|d| Entrant::new(d, case)).collect();
    let bare_dir = Scratch::new(&options.dir)?;
    let mut bare = None;
    if options.bare {
        let path = bare_dir.path().join("bare");
        let made = BareLoop::new(case.workload, &path, case.uid, options.sizes)?;
        bare = Some((made, Vec::new()));
    }
    for time in 0..options.repeat {
        for (entrant, spec) in entrants.iter_mut().zip(daemons) {
            progress.at(|| format!("{}: preparing {}", case.label(), spec.name));
            entrant.start(spec, case, options);
        }
        for round in 0..options.rounds {
            let round = time * options.rounds + round;
            // Who comes first changes, as what one leaves to be written back is borne by
            // the next.
            let mut order: Vec<usize> = (0..entrants.len()).collect();
            order.rotate_left(round % entrants.len().max(1));
            for index in order {
                let entrant = &mut entrants[index];
                progress.at(|| {
                    let (name, all) = (&entrant.report.daemon, options.all_rounds());
                    format!("{}: {name}, round {}/{all}", case.label(), round + 1)
                });
                entrant.settle(case);
                entrant.round(options);
            }
        }
        progress.at(|| format!("{}: looking at the disk", case.label()));
        for entrant in &mut entrants {
            entrant.stop(options, time + 1 == options.repeat);
        }
    }
    if let Some((bare, rounds)) = &mut bare {
        progress.at(|| format!("{}: bare system calls", case.label()));
        let goal = match options.goal {
            Goal::Ops(n) => Goal::Ops(n),
            Goal::Time(time) => Goal::Time(time / 4),
        };
        pin_thread(&options.pin)?;
        bare.run(options.warmup)?;
        for _ in 0..options.all_rounds() {
            rounds.push(bare.run(goal)?);
        }
        // What is started next inherits it.
        pin_thread(&cpus)?;
    }
    let mut daemons: Vec<DaemonReport> = entrants.into_iter().map(Entrant::finish).collect();
    let base = base.map(|base| (base, daemons[base].rounds.clone()));
    if let Some((base, rounds)) = base.filter(|(base, _)| daemons[*base].error.is_none()) {
        for (index, daemon) in daemons.iter_mut().enumerate() {
            if index != base && daemon.error.is_none() {
                daemon.ratios = ratios(&daemon.rounds, &rounds);
            }
        }
    }
    Ok(CaseReport {
        workload: case.workload.name(),
        depth: case.depth,
        uid: case.uid,
        queues: case.queues,
        place: case.place,
        label: case.label(),
        round_s: match options.goal {
            Goal::Time(time) => Some(time.as_secs_f64()),
            Goal::Ops(_) => None,
        },
        daemons,
        bare: bare.map(|(_, rounds)| Bare {
            ops: rounds.iter().map(|bare: &Bare| bare.ops).sum(),
            us: median(rounds.iter().map(|bare| bare.us)),
            cpu_us: median(rounds.iter().map(|bare| bare.cpu_us)),
        }),
    })
}
