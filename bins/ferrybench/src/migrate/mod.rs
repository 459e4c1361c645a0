//! What a live migration costs: the source collects while the guest runs, saves while
//! it stands still, the destination loads, and the guest goes on.

mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ferryfs_frontend::call;
use ferryfs_frontend::fuse::{self, init, ROOT_ID};
use ferryfs_frontend::spawn::ProcessFigures;
use ferryfs_frontend::vmm::LoadOrder;
use ferryfs_frontend::{Daemon, Frontend, FsClient, Vm, VmConfig};
use serde::Serialize;

use crate::cli::{Migrate, Mode};
use crate::daemon::DaemonSpec;
use crate::error::{expect_eq, BenchError};
use crate::machine::{Machine, Scratch};
use crate::memory;
use crate::process::{is_busy, Usage};
use crate::progress::Progress;
use crate::sample;

use self::report::Report;

/// Files per directory.
const PER_DIR: u64 = 1000;
/// Requests in flight while the guest's inodes are looked up.
const IN_FLIGHT: usize = 64;
/// Inodes looked at again after the crossing, at most.
const CHECKED: u64 = 10_000;
/// A daemon that used less CPU than this between two looks did nothing of its own.
const IDLE_NS: u64 = 100_000;
/// At rest is who did nothing for so long.
const QUIET: Duration = Duration::from_millis(60);
/// A guest is busy for so long at least, and as long as collecting takes, but for no more
/// than that.
const BUSY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(20));
/// How long a step of a crossing may take.
const TIMEOUT: Duration = Duration::from_secs(600);

/// One crossing. Times in seconds, memory in bytes.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Crossing {
    /// From VHOST_F_LOG_ALL until the source was at rest.
    pub collect_s: f64,
    /// CPU time of the source for that.
    pub collect_cpu_s: f64,
    /// 99th percentile of how long a busy guest's requests take, without a migration.
    pub busy_p99_s: f64,
    /// The same while the source collects.
    pub collecting_p99_s: f64,
    /// From the first GET_VRING_BASE until the rings stood still.
    pub stop_s: f64,
    /// From the first GET_VRING_BASE to the answer to CHECK_DEVICE_STATE.
    pub save_s: f64,
    /// Bytes of the state.
    pub state_bytes: u64,
    /// On a destination that does nothing else: from SET_DEVICE_STATE_FD to the answer
    /// to CHECK_DEVICE_STATE.
    pub load_s: f64,
    /// On the destination: from connecting to the answer to the guest's first request.
    pub first_answer_s: f64,
    /// Source: resident memory before anything was looked up.
    pub source_idle_rss: u64,
    /// Source: with all inodes looked up.
    pub source_rss: u64,
    /// Source: most, over the whole crossing.
    pub source_peak_rss: u64,
    /// Source: most that it had more than when idle.
    pub source_peak_grown: u64,
    /// Source: descriptors with all inodes looked up.
    pub source_fds: usize,
    /// Source: resident bytes per inode.
    pub source_per_inode: f64,
    /// Destination: resident memory before the load.
    pub destination_idle_rss: u64,
    /// Destination: after the load.
    pub destination_rss: u64,
    /// Destination: most.
    pub destination_peak_rss: u64,
    /// Destination: most that it had more than when idle.
    pub destination_peak_grown: u64,
    /// Destination: descriptors.
    pub destination_fds: usize,
    /// Destination: resident bytes per inode.
    pub destination_per_inode: f64,
    /// Inodes and handles compared after the crossing.
    pub verified: u64,
}

impl Crossing {
    /// How much longer a busy guest's slowest requests take while the source collects.
    fn slowdown(&self) -> f64 {
        self.collecting_p99_s / self.busy_p99_s
    }

    /// The guest's standstill as far as the daemons cause it.
    fn downtime_s(&self) -> f64 {
        self.save_s + self.first_answer_s
    }
}

/// Crossings of one daemon in one mode with one number of inodes.
#[derive(Debug, Clone, Serialize)]
pub struct Point {
    /// Its name.
    pub daemon: String,
    /// Its migration mode.
    pub mode: &'static str,
    /// Files looked up; their directories come on top.
    pub inodes: u64,
    /// Files open.
    pub handles: u64,
    /// Why there are no figures.
    pub error: Option<String>,
    /// Medians over the rounds.
    pub crossing: Option<Crossing>,
}

/// The share: directories of [`PER_DIR`] files, as many as asked for so far.
struct Population {
    share: Scratch,
    files: u64,
}

fn dir_name(dir: u64) -> String {
    format!("dir-{dir:06}")
}

fn file_name(file: u64) -> String {
    format!("file-{:03}", file % PER_DIR)
}

impl Population {
    fn path(&self, file: u64) -> PathBuf {
        let dir = self.share.path().join(dir_name(file / PER_DIR));
        dir.join(file_name(file))
    }

    fn grow(&mut self, files: u64, progress: &mut Progress) -> Result<(), BenchError> {
        for file in self.files..files {
            let path = self.path(file);
            if file % PER_DIR == 0 {
                let dir = self.share.path().join(dir_name(file / PER_DIR));
                fs::create_dir(&dir).map_err(BenchError::io("make", &dir))?;
                progress.at(|| format!("making files: {file} of {files}"));
            }
            fs::File::create(&path).map_err(BenchError::io("make", &path))?;
            self.files = file + 1;
        }
        Ok(())
    }
}

/// What the guest knows.
struct Guest {
    /// Node ids and inode numbers of files, in order.
    files: Vec<(u64, u64)>,
    /// Open files: index among the files, and handle.
    handles: Vec<(u64, u64)>,
}

fn look_up(
    fs: &FsClient,
    inodes: u64,
    handles: u64,
    progress: &mut Progress,
) -> Result<Guest, BenchError> {
    let mut files = Vec::with_capacity(inodes as usize);
    for dir in 0..inodes.div_ceil(PER_DIR) {
        progress.at(|| format!("looking up: {} of {inodes}", files.len()));
        let node = fs.lookup(ROOT_ID, dir_name(dir))?.nodeid;
        let last = inodes.min((dir + 1) * PER_DIR);
        let mut pending = std::collections::VecDeque::new();
        for file in dir * PER_DIR..last {
            if pending.len() == IN_FLIGHT {
                take_entry(&mut pending, &mut files)?;
            }
            let call = call::lookup(node, file_name(file).as_bytes());
            pending.push_back(fs.submit(call)?);
        }
        while !pending.is_empty() {
            take_entry(&mut pending, &mut files)?;
        }
    }
    let mut open = Vec::new();
    for k in 0..handles.min(inodes) {
        // Spread over all of them.
        let file = k * inodes / handles.min(inodes);
        let handle = fs.open(files[file as usize].0, libc::O_RDWR as u32)?;
        open.push((file, handle.fh));
    }
    Ok(Guest {
        files,
        handles: open,
    })
}

type PendingEntry = ferryfs_frontend::client::Pending<fuse::Entry>;

fn take_entry(
    pending: &mut std::collections::VecDeque<PendingEntry>,
    files: &mut Vec<(u64, u64)>,
) -> Result<(), BenchError> {
    if let Some(first) = pending.pop_front() {
        let entry = first.wait()?;
        files.push((entry.nodeid, entry.attr.ino));
    }
    Ok(())
}

impl Guest {
    /// Looks whether inodes and handles are still what they were.
    fn verify(&self, fs: &FsClient, population: &Population) -> Result<u64, BenchError> {
        let step = (self.files.len() as u64).div_ceil(CHECKED).max(1);
        let mut verified = 0;
        for (node, ino) in self.files.iter().step_by(step as usize) {
            let found = fs.getattr(*node, None)?.attr.ino;
            expect_eq(|| format!("inode of node {node}"), found, *ino)?;
            verified += 1;
        }
        for (file, fh) in &self.handles {
            let node = self.files[*file as usize].0;
            let path = population.path(*file);
            let text = format!("written after the crossing to {file}");
            let written = fs.write(node, *fh, 0, text.as_bytes())? as usize;
            expect_eq(|| "bytes of WRITE".to_owned(), written, text.len())?;
            let found = fs::read(&path).map_err(BenchError::io("read", &path))?;
            let what = || format!("content of {}", path.display());
            expect_eq(what, found.as_slice(), text.as_bytes())?;
            // Empty again for the next crossing.
            fs::write(&path, b"").map_err(BenchError::io("write", &path))?;
            verified += 1;
        }
        Ok(verified)
    }
}

/// Keeps one request after the other on its way for `time`: GETATTR of all files that the
/// guest knows, and LOOKUP of each tenth, by turns. Answers the 99th percentile of their
/// latencies in seconds.
fn keep_busy(fs: &FsClient, guest: &Guest, time: Duration) -> Result<f64, BenchError> {
    let files = guest.files.len() as u64;
    let mut latencies = Vec::new();
    let begun = Instant::now();
    // All over them, in no order that anything is kept in.
    let mut at = 0;
    while begun.elapsed() < time {
        at = (at + 514_229) % files;
        let start = Instant::now();
        if latencies.len() % 10 == 0 {
            let node = fs.lookup(ROOT_ID, dir_name(at / PER_DIR))?.nodeid;
            latencies.push(start.elapsed());
            fs.forget(node, 1)?;
        } else {
            fs.getattr(guest.files[at as usize].0, None)?;
            latencies.push(start.elapsed());
        }
    }
    latencies.sort_unstable();
    let at = latencies.len() * 99 / 100;
    Ok(latencies.get(at).map_or(0.0, Duration::as_secs_f64))
}

fn usage(daemon: &Daemon) -> Result<Usage, BenchError> {
    let pid = daemon.serving_pid();
    let path = format!("/proc/{pid}");
    Usage::of(pid).map_err(BenchError::io("read figures in", Path::new(&path)))
}

/// Waits until the daemon is at rest; seconds since `start` of its last work, and the
/// CPU time it used since `before`.
fn wait_for_rest(daemon: &Daemon, start: Instant, before: Usage) -> Result<(f64, f64), BenchError> {
    let (mut seen, mut last) = (before, Instant::now());
    let mut ended = start;
    loop {
        std::thread::sleep(Duration::from_millis(2));
        let now = usage(daemon)?;
        if now.since(seen).cpu_ns >= IDLE_NS || is_busy(daemon.serving_pid()) {
            (seen, last) = (now, Instant::now());
            ended = last;
        } else if last.elapsed() >= QUIET {
            break;
        }
        if start.elapsed() >= TIMEOUT {
            return Err(BenchError::Wrong(format!(
                "the source was not at rest within {TIMEOUT:?} of VHOST_F_LOG_ALL"
            )));
        }
    }
    let used = usage(daemon)?.since(before);
    Ok(((ended - start).as_secs_f64(), used.cpu_ns as f64 / 1e9))
}

struct Bench<'a> {
    spec: DaemonSpec,
    population: &'a Population,
    inodes: u64,
    handles: u64,
    busy: bool,
    pin: &'a [usize],
}

impl Bench<'_> {
    fn start(&self, run: &Scratch, name: &str) -> Result<Daemon, BenchError> {
        let socket = run.path().join(name);
        let share = self.population.share.path();
        self.spec.start(&socket, share, 1, self.pin)
    }

    fn cross(&self, progress: &mut Progress) -> Result<Crossing, BenchError> {
        let run = Scratch::new(&std::env::temp_dir())?;
        let mut result = Crossing::default();
        let source = self.start(&run, "source.sock")?;
        let config = VmConfig {
            load_order: LoadOrder::First,
            timeout: TIMEOUT,
            init: Some(call::InitRequest {
                flags: fuse::GUEST_FLAGS & !init::SECURITY_CTX,
                ..call::InitRequest::default()
            }),
            ..VmConfig::default()
        };
        let features = config.protocol_features;
        let mut vm = Vm::boot_with(source.socket(), config)?;
        let fs = vm.client();
        result.source_idle_rss = source.figures()?.rss;
        let guest = look_up(&fs, self.inodes, self.handles, progress)?;
        let figures = source.figures()?;
        result.source_rss = figures.rss;
        result.source_fds = figures.fds;
        let grown = figures.rss.saturating_sub(result.source_idle_rss);
        result.source_per_inode = grown as f64 / self.inodes as f64;

        progress.at(|| format!("{}: collecting", self.spec.name));
        std::thread::sleep(Duration::from_millis(10));
        let (before, start) = (usage(&source)?, Instant::now());
        vm.start_precopy()?;
        (result.collect_s, result.collect_cpu_s) = wait_for_rest(&source, start, before)?;

        if self.busy {
            progress.at(|| format!("{}: collecting beside a busy guest", self.spec.name));
            vm.cancel_precopy()?;
            wait_for_rest(&source, Instant::now(), usage(&source)?)?;
            let time = Duration::from_secs_f64(result.collect_s).clamp(BUSY.0, BUSY.1);
            result.busy_p99_s = keep_busy(&fs, &guest, time)?;
            vm.start_precopy()?;
            result.collecting_p99_s = keep_busy(&fs, &guest, time)?;
            wait_for_rest(&source, Instant::now(), usage(&source)?)?;
        }

        progress.at(|| format!("{}: saving", self.spec.name));
        let mut state = room_for(self.inodes)?;
        let start = Instant::now();
        vm.stop()?;
        result.stop_s = start.elapsed().as_secs_f64();
        result.state_bytes = vm.save_state_to(&mut state)? as u64;
        result.save_s = start.elapsed().as_secs_f64();

        // One destination that only loads, so that nothing else is in its time, and
        // one where the guest goes on.
        progress.at(|| format!("{}: loading", self.spec.name));
        result.load_s = self.load_alone(&run, features, &state)?;
        let destination = self.start(&run, "destination.sock")?;
        let idle = destination.figures()?.rss;
        let start = Instant::now();
        let left = vm.resume_on(destination.socket(), Some(&state))?;
        let fs = vm.client();
        fs.getattr(ROOT_ID, None)?;
        result.first_answer_s = start.elapsed().as_secs_f64();
        let figures = destination.figures()?;
        result.destination_rss = figures.rss;
        result.destination_peak_rss = figures.peak_rss;
        result.destination_fds = figures.fds;
        result.destination_idle_rss = idle;
        result.destination_peak_grown = figures.peak_rss.saturating_sub(idle);
        let grown = figures.rss.saturating_sub(idle);
        result.destination_per_inode = grown as f64 / self.inodes as f64;
        result.source_peak_rss = ProcessFigures::of(source.serving_pid())
            .map(|figures| figures.peak_rss)
            .unwrap_or(result.source_rss);
        result.source_peak_grown = result
            .source_peak_rss
            .saturating_sub(result.source_idle_rss);
        drop(left);
        progress.at(|| format!("{}: comparing", self.spec.name));
        result.verified = guest.verify(&fs, self.population)?;
        Ok(result)
    }

    fn load_alone(
        &self,
        run: &Scratch,
        features: u64,
        mut state: &[u8],
    ) -> Result<f64, BenchError> {
        let destination = self.start(run, "load.sock")?;
        let mut frontend = Frontend::connect(destination.socket())?;
        frontend.connection().set_timeout(TIMEOUT);
        frontend.negotiate(features)?;
        let start = Instant::now();
        frontend.load_state(&mut state)?;
        Ok(start.elapsed().as_secs_f64())
    }
}

/// More bytes of state per inode than any daemon has been seen to write.
const STATE_PER_INODE: u64 = 64;

/// Memory for a state, which the process has already, as the kernel has what the state
/// goes through: a VMM sends on what it gets from a buffer that it has, and that memory
/// comes a page at a time would be measured.
fn room_for(inodes: u64) -> Result<Vec<u8>, BenchError> {
    let size = (inodes * STATE_PER_INODE).next_multiple_of(1 << 20) as usize;
    memory::have_ready(size)?;
    // All but zero, for which no memory would be taken.
    let mut room = vec![1; size];
    room.clear();
    Ok(room)
}

fn median(rounds: &[Crossing]) -> Option<Crossing> {
    let first = rounds.first()?;
    let float = |figure: fn(&Crossing) -> f64| sample::median(rounds.iter().map(figure));
    let most = |figure: fn(&Crossing) -> u64| rounds.iter().map(figure).max().unwrap_or(0);
    // What is not a time hardly differs between rounds.
    Some(Crossing {
        collect_s: float(|c| c.collect_s),
        collect_cpu_s: float(|c| c.collect_cpu_s),
        busy_p99_s: float(|c| c.busy_p99_s),
        collecting_p99_s: float(|c| c.collecting_p99_s),
        stop_s: float(|c| c.stop_s),
        save_s: float(|c| c.save_s),
        load_s: float(|c| c.load_s),
        first_answer_s: float(|c| c.first_answer_s),
        source_peak_rss: most(|c| c.source_peak_rss),
        destination_peak_rss: most(|c| c.destination_peak_rss),
        source_peak_grown: most(|c| c.source_peak_grown),
        destination_peak_grown: most(|c| c.destination_peak_grown),
        ..*first
    })
}

/// Measures all that the command line asks for; whether none failed.
///
/// # Errors
/// What fails on the host.
pub fn run(options: &Migrate) -> Result<bool, BenchError> {
    let daemons = options.daemons.specs(&["ferryfsd", "virtiofsd"])?;
    let dir = options.output.dir();
    let mut population = Population {
        share: Scratch::new(&dir)?,
        files: 0,
    };
    let mut report = Report {
        machine: Machine::here(&dir, false),
        daemons: daemons
            .iter()
            .map(|spec| (spec.name.clone(), spec.command_line()))
            .collect(),
        points: Vec::new(),
    };
    let mut sizes = options.inodes.clone();
    sizes.sort_unstable();
    sizes.dedup();
    let crossings = sizes.len() * options.mode.len() * daemons.len();
    let steps = crossings * usize::from(options.rounds);
    let mut progress = Progress::new(options.output.quiet, steps);
    for inodes in sizes {
        population.grow(inodes, &mut progress)?;
        for mode in &options.mode {
            let benches: Vec<Bench<'_>> = daemons
                .iter()
                .map(|spec| Bench {
                    spec: spec.with_migration(mode.name(), options.format.as_deref()),
                    population: &population,
                    inodes,
                    handles: options.handles.min(inodes),
                    busy: options.busy,
                    pin: &options.pin_daemon,
                })
                .collect();
            // Rounds alternate between the daemons.
            let mut rounds: Vec<Result<Vec<Crossing>, BenchError>> =
                benches.iter().map(|_| Ok(Vec::new())).collect();
            for _ in 0..options.rounds {
                for (bench, rounds) in benches.iter().zip(&mut rounds) {
                    if let Ok(done) = rounds {
                        match bench.cross(&mut progress) {
                            Ok(crossing) => done.push(crossing),
                            Err(error) => *rounds = Err(error),
                        }
                    }
                    progress.step();
                }
            }
            for (bench, rounds) in benches.iter().zip(rounds) {
                report
                    .points
                    .push(point(bench, *mode, rounds, &mut progress));
            }
        }
    }
    drop(progress);
    report.write(&options.output)?;
    Ok(report.points.iter().all(|point| point.error.is_none()))
}

fn point(
    bench: &Bench<'_>,
    mode: Mode,
    rounds: Result<Vec<Crossing>, BenchError>,
    progress: &mut Progress,
) -> Point {
    let daemon = bench.spec.name.clone();
    let (error, crossing) = match rounds {
        Ok(rounds) => (None, median(&rounds)),
        Err(error) => {
            let error = crate::error::chain(&error);
            let inodes = bench.inodes;
            let mode = mode.name();
            progress.say(&format!("ferrybench: {daemon} {mode} {inodes}: {error}"));
            (Some(error), None)
        }
    };
    Point {
        daemon,
        mode: mode.name(),
        inodes: bench.inodes,
        handles: bench.handles,
        error,
        crossing,
    }
}
