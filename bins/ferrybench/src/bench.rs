//! Measures workloads on daemons, in rounds that alternate between them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ferryfs_frontend::call::InitRequest;
use ferryfs_frontend::client::Caller;
use ferryfs_frontend::fuse::{self, init, ROOT_ID};
use ferryfs_frontend::memory::RegionConfig;
use ferryfs_frontend::{Daemon, Vm, VmConfig};
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::bare::{Bare, BareLoop};
use crate::daemon::{pin_thread, DaemonSpec};
use crate::engine::{Goal, Lane, LaneConfig, Program};
use crate::error::BenchError;
use crate::machine::{Progress, Scratch};
use crate::process::Usage;
use crate::strace::Strace;
use crate::workload::{own, LaneDir, Sizes, Workload};

/// Descriptors per ring: enough for 1 MiB in pages of 4 KiB, in one chain.
const QUEUE_SIZE: u16 = 1024;
/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Time for a daemon to come to rest before its consumption is read.
const REST: Duration = Duration::from_millis(5);

/// How everything is measured.
#[derive(Debug, Clone)]
pub struct Options {
    /// Length of a round.
    pub goal: Goal,
    /// What goes before the first round.
    pub warmup: Goal,
    /// Rounds per daemon.
    pub rounds: usize,
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

/// One thing to be measured.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// What is done.
    pub workload: Workload,
    /// Operations in flight per queue.
    pub depth: usize,
    /// As whom.
    pub uid: u32,
    /// Request queues, each with a thread of its own.
    pub queues: usize,
}

impl Case {
    /// In a few words.
    pub fn label(&self) -> String {
        let mut label = format!("{} depth {}", self.workload.name(), self.depth);
        if self.uid != 0 {
            label.push_str(&format!(" uid {}", self.uid));
        }
        if self.queues > 1 {
            label.push_str(&format!(" queues {}", self.queues));
        }
        label
    }
}

/// One round on one daemon.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Sample {
    /// Operations.
    pub ops: u64,
    /// Seconds.
    pub seconds: f64,
    /// Operations per second.
    pub ops_per_s: f64,
    /// Median latency of an operation in us.
    pub p50_us: f64,
    /// 99th percentile in us.
    pub p99_us: f64,
    /// 99.9th percentile in us.
    pub p999_us: f64,
    /// 10^6 bytes of file data per second; 0 where none moves.
    pub mb_per_s: f64,
    /// CPU time of the daemon per operation in us.
    pub cpu_us: f64,
    /// Context switches of the daemon per operation.
    pub switches: f64,
}

/// A ratio of medians' pairs.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Ratio {
    /// Median over the rounds.
    pub median: f64,
    /// Least.
    pub min: f64,
    /// Most.
    pub max: f64,
}

/// A daemon beside the base, round by round.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Ratios {
    /// Operations per second: more is better.
    pub ops: Ratio,
    /// CPU time per operation: less is better.
    pub cpu: Ratio,
    /// Median latency: less is better.
    pub p50: Ratio,
    /// 99th percentile of latency: less is better.
    pub p99: Ratio,
}

/// A daemon's share of a case.
#[derive(Debug, Clone, Serialize)]
pub struct DaemonReport {
    /// Its name.
    pub daemon: String,
    /// Why there are no figures.
    pub error: Option<String>,
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
    /// The case in a few words.
    pub label: String,
    /// By daemon, in order.
    pub daemons: Vec<DaemonReport>,
    /// The bare system calls: median over the rounds.
    pub bare: Option<Bare>,
}

/// A daemon with a machine on it, ready to work.
struct Rig {
    daemon: Daemon,
    // Holds the connection.
    _vm: Vm,
    lanes: Vec<(Lane, Box<dyn Program>)>,
    share: Scratch,
    run: Scratch,
}

impl Rig {
    fn new(spec: &DaemonSpec, case: &Case, options: &Options) -> Result<Self, BenchError> {
        let share = Scratch::new(&options.dir)?;
        let run = Scratch::new(&std::env::temp_dir())?;
        let socket = run.path().join("fs.sock");
        let spec = match case.workload {
            Workload::Xattr => spec.with_xattr(),
            _ => spec.clone(),
        };
        let daemon = spec.start(&socket, share.path(), case.queues, &options.pin_daemon)?;
        let data = case.workload.data(&options.sizes).next_power_of_two();
        let need = case.queues * case.depth * (data + 4096) + (64 << 20);
        let config = VmConfig {
            memory: vec![RegionConfig {
                gpa: 0,
                size: need.next_multiple_of(2 << 20) as u64,
            }],
            queue_size: QUEUE_SIZE,
            request_queues: case.queues,
            // No security context goes with requests that make inodes.
            init: Some(InitRequest {
                flags: fuse::GUEST_FLAGS & !init::SECURITY_CTX,
                ..InitRequest::default()
            }),
            timeout: TIMEOUT,
            ..VmConfig::default()
        };
        let vm = Vm::boot_with(daemon.socket(), config).map_err(|error| match case.queues {
            1 => error.into(),
            n => {
                let why = crate::error::chain(&error);
                BenchError::Usage(format!("with {n} request queues: {why}"))
            }
        })?;
        let mut lanes = Vec::new();
        for index in 0..case.queues {
            let name = format!("lane-{index}");
            let path = share.path().join(&name);
            std::fs::create_dir(&path).map_err(BenchError::io("make", &path))?;
            own(&path, case.uid)?;
            let fs = vm.client_on(index + 1);
            let fs = fs.as_caller(Caller::user(case.uid, case.uid));
            let dir = LaneDir {
                path,
                node: fs.lookup(ROOT_ID, &name)?.nodeid,
                fs,
                uid: case.uid,
                depth: case.depth,
                sizes: options.sizes,
            };
            let mut program = case.workload.prepare(dir)?;
            let config = LaneConfig {
                depth: case.depth,
                data,
                uid: case.uid,
                polling: options.polling,
                segment: options.segment,
                timeout: TIMEOUT,
            };
            let queues = vm.queues();
            let mut lane = Lane::new(vm.memory(), &queues[0], &queues[index + 1], config)?;
            lane.fill(program.as_mut())?;
            lanes.push((lane, program));
        }
        Ok(Rig {
            daemon,
            _vm: vm,
            lanes,
            share,
            run,
        })
    }

    /// Runs all lanes until the goal; none if there was no operation.
    fn run(&mut self, goal: Goal, pin: &[usize]) -> Result<Sample, BenchError> {
        let goal = match goal {
            Goal::Ops(n) => Goal::Ops((n / self.lanes.len() as u64).max(1)),
            Goal::Time(time) => Goal::Time(time),
        };
        std::thread::sleep(REST);
        let before = self.usage()?;
        let ran: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = self
                .lanes
                .iter_mut()
                .enumerate()
                .map(|(index, (lane, program))| {
                    scope.spawn(move || {
                        let own = (!pin.is_empty()).then(|| pin[index % pin.len()]);
                        pin_thread(own.as_slice())?;
                        let mut latencies = new_histogram();
                        let run = lane.run(program.as_mut(), goal, &mut latencies)?;
                        Ok::<_, BenchError>((run, latencies))
                    })
                })
                .collect();
            let panicked = || BenchError::Wrong("a lane's thread panicked".to_owned());
            let join = |t: std::thread::ScopedJoinHandle<'_, _>| t.join();
            let ended = threads.into_iter().map(join);
            ended
                .map(|ran| ran.unwrap_or_else(|_| Err(panicked())))
                .collect()
        });
        std::thread::sleep(REST);
        let used = self.usage()?.since(before);
        let (mut runs, mut latencies) = (Vec::new(), new_histogram());
        for ran in ran {
            let (run, lane) = ran?;
            runs.push(run);
            // Both were made with the same bounds.
            let _ = latencies.add(lane);
        }
        let ops: u64 = runs.iter().map(|run| run.ops).sum();
        let start = runs.iter().map(|run| run.start).min();
        let end = runs.iter().map(|run| run.end).max();
        let time = start.zip(end).map_or(Duration::ZERO, |(s, e)| e - s);
        let seconds = time.as_secs_f64().max(1e-9);
        let bytes = self.lanes.first().map_or(0, |(_, program)| program.bytes());
        let at = |quantile| latencies.value_at_quantile(quantile) as f64 / 1000.0;
        let per_op = |n: u64| n as f64 / ops.max(1) as f64;
        Ok(Sample {
            ops,
            seconds,
            ops_per_s: ops as f64 / seconds,
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            mb_per_s: (ops * bytes) as f64 / seconds / 1e6,
            cpu_us: per_op(used.cpu_ns) / 1000.0,
            switches: per_op(used.switches),
        })
    }

    fn usage(&self) -> Result<Usage, BenchError> {
        let pid = self.daemon.serving_pid();
        let proc = format!("/proc/{pid}");
        Usage::of(pid).map_err(BenchError::io("read figures in", Path::new(&proc)))
    }

    /// Operations that leave their traces, and a look at them.
    fn verify(&mut self, pin: &[usize]) -> Result<u64, BenchError> {
        let mut depth = 0;
        for (lane, program) in &mut self.lanes {
            program.keep();
            depth += lane.depth() as u64;
        }
        self.run(Goal::Ops(depth), pin)?;
        let mut verified = 0;
        for (_, program) in &mut self.lanes {
            verified += program.verify()?;
        }
        Ok(verified)
    }

    /// System calls per operation; none without strace.
    fn syscalls(&mut self, options: &Options) -> Result<Option<BTreeMap<String, f64>>, BenchError> {
        let out = self.run.path().join("strace");
        let Some(strace) = Strace::attach(self.daemon.serving_pid(), &out)? else {
            return Ok(None);
        };
        // Traced, an operation takes ten times as long.
        let goal = Goal::Time(Duration::from_millis(300));
        let ops = self.run(goal, &options.pin)?.ops.max(1);
        let counts = strace.counts()?.into_iter();
        let per_op = counts.map(|(name, n)| (name, n as f64 / ops as f64));
        Ok(Some(per_op.collect()))
    }
}

/// Latencies from 1 ns to a minute, to three digits.
fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("1 <= low, 2 low <= high, 3 <= 5")
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

/// Each figure's median by itself.
fn median_sample(rounds: &[Sample]) -> Option<Sample> {
    let of = |figure: fn(&Sample) -> f64| median(rounds.iter().map(figure));
    (!rounds.is_empty()).then(|| Sample {
        ops: rounds.iter().map(|s| s.ops).sum::<u64>() / rounds.len() as u64,
        seconds: of(|s| s.seconds),
        ops_per_s: of(|s| s.ops_per_s),
        p50_us: of(|s| s.p50_us),
        p99_us: of(|s| s.p99_us),
        p999_us: of(|s| s.p999_us),
        mb_per_s: of(|s| s.mb_per_s),
        cpu_us: of(|s| s.cpu_us),
        switches: of(|s| s.switches),
    })
}

/// Rounds against the base's rounds of the same number.
fn ratios(rounds: &[Sample], base: &[Sample]) -> Option<Ratios> {
    let of = |figure: fn(&Sample) -> f64| {
        let pairs = rounds.iter().zip(base);
        let ratios = pairs.map(|(a, b)| figure(a) / figure(b).max(1e-9));
        let ratios: Vec<f64> = ratios.collect();
        Ratio {
            median: median(ratios.iter().copied()),
            min: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            max: ratios.iter().copied().fold(0.0, f64::max),
        }
    };
    (!rounds.is_empty() && !base.is_empty()).then(|| Ratios {
        ops: of(|s| s.ops_per_s),
        cpu: of(|s| s.cpu_us),
        p50: of(|s| s.p50_us),
        p99: of(|s| s.p99_us),
    })
}

/// A daemon in a case: its rig until it fails.
struct Entrant {
    report: DaemonReport,
    rig: Option<Rig>,
}

impl Entrant {
    fn new(spec: &DaemonSpec, case: &Case, options: &Options) -> Self {
        let mut entrant = Entrant {
            report: DaemonReport {
                daemon: spec.name.clone(),
                error: None,
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
        };
        let made = Rig::new(spec, case, options).and_then(|mut rig| {
            rig.run(options.warmup, &options.pin)?;
            Ok(rig)
        });
        entrant.rig = entrant.keep(made);
        entrant
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

    fn finish(mut self, options: &Options) -> DaemonReport {
        if let Some(rig) = &mut self.rig {
            let syscalls = match options.syscalls {
                true => rig.syscalls(options),
                false => Ok(None),
            };
            self.report.syscalls = self.keep(syscalls).flatten();
        }
        if let Some(rig) = &mut self.rig {
            let verified = rig.verify(&options.pin);
            self.report.verified = self.keep(verified).unwrap_or(0);
        }
        if let Some(rig) = &self.rig {
            let figures = rig.daemon.figures().unwrap_or_default();
            self.report.rss = figures.rss;
            self.report.peak_rss = figures.peak_rss;
            self.report.fds = figures.fds;
        }
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
    let mut entrants = Vec::new();
    for spec in daemons {
        progress.at(|| format!("{}: preparing {}", case.label(), spec.name));
        entrants.push(Entrant::new(spec, case, options));
    }
    let bare_dir = Scratch::new(&options.dir)?;
    let mut bare = None;
    if options.bare {
        let path = bare_dir.path().join("bare");
        let made = BareLoop::new(case.workload, &path, case.uid, options.sizes)?;
        pin_thread(&options.pin)?;
        bare = Some((made, Vec::new()));
    }
    for round in 0..options.rounds {
        // Who comes first changes, as what one leaves to be written back is borne by
        // the next.
        let mut order: Vec<usize> = (0..entrants.len()).collect();
        order.rotate_left(round % entrants.len().max(1));
        for index in order {
            let (entrant, rounds) = (&mut entrants[index], options.rounds);
            progress.at(|| {
                let name = &entrant.report.daemon;
                format!("{}: {name}, round {}/{rounds}", case.label(), round + 1)
            });
            entrant.settle(case);
            entrant.round(options);
        }
    }
    if let Some((bare, rounds)) = &mut bare {
        progress.at(|| format!("{}: bare system calls", case.label()));
        let goal = match options.goal {
            Goal::Ops(n) => Goal::Ops(n),
            Goal::Time(time) => Goal::Time(time / 4),
        };
        bare.run(options.warmup)?;
        for _ in 0..options.rounds {
            rounds.push(bare.run(goal)?);
        }
    }
    progress.at(|| format!("{}: looking at the disk", case.label()));
    let finished = entrants.into_iter().map(|entrant| entrant.finish(options));
    let mut daemons: Vec<DaemonReport> = finished.collect();
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
        label: case.label(),
        daemons,
        bare: bare.map(|(_, rounds)| Bare {
            ops: rounds.iter().map(|bare: &Bare| bare.ops).sum(),
            us: median(rounds.iter().map(|bare| bare.us)),
            cpu_us: median(rounds.iter().map(|bare| bare.cpu_us)),
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(ops_per_s: f64) -> Sample {
        Sample {
            ops: 10,
            seconds: 1.0,
            ops_per_s,
            p50_us: 1.0,
            p99_us: 2.0,
            p999_us: 3.0,
            mb_per_s: 0.0,
            cpu_us: 1000.0 / ops_per_s,
            switches: 0.0,
        }
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // A machine that slows down in the middle slows both.
        let a = [sample(200.0), sample(20.0), sample(210.0)];
        let b = [sample(100.0), sample(10.0), sample(100.0)];
        let ratios = ratios(&a, &b).expect("both have rounds");
        assert_eq!(ratios.ops.median, 2.0);
        assert_eq!((ratios.ops.min, ratios.ops.max), (2.0, 2.1));
        assert_eq!(ratios.cpu.median, 0.5);
        assert_eq!(median_sample(&a).expect("rounds").ops_per_s, 200.0);
        assert_eq!(median([1.0, 4.0, 2.0, 3.0].into_iter()), 2.5);
    }
}
