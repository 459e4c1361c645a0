//! A daemon at work: a machine on it, and a workload on each queue.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use ferryfs_frontend::call::InitRequest;
use ferryfs_frontend::client::Caller;
use ferryfs_frontend::fuse::{self, init, ROOT_ID};
use ferryfs_frontend::memory::RegionConfig;
use ferryfs_frontend::{Daemon, Vm, VmConfig};
use hdrhistogram::Histogram;

use crate::bench::Options;
use crate::case::Case;
use crate::daemon::{pin_thread, DaemonSpec};
use crate::engine::{Goal, Lane, LaneConfig, Program};
use crate::error::BenchError;
use crate::machine::Scratch;
use crate::process::Usage;
use crate::sample::Sample;
use crate::strace::Strace;
use crate::workload::{own, LaneDir, Workload};

/// Descriptors per ring: enough for 1 MiB in pages of 4 KiB, in one chain.
const QUEUE_SIZE: u16 = 1024;
/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Time for a daemon to come to rest before its consumption is read.
const REST: Duration = Duration::from_millis(5);

/// A daemon with a machine on it, ready to work.
pub struct Rig {
    /// The daemon.
    pub daemon: Daemon,
    // Holds the connection.
    _vm: Vm,
    lanes: Vec<(Lane, Box<dyn Program>)>,
    /// What it shares.
    pub share: Scratch,
    run: Scratch,
}

impl Rig {
    /// Starts the daemon, boots a machine on it, and makes what the workload needs.
    ///
    /// # Errors
    /// Any [`BenchError`].
    pub fn new(spec: &DaemonSpec, case: &Case, options: &Options) -> Result<Self, BenchError> {
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

    /// Runs all lanes until the goal.
    ///
    /// # Errors
    /// Any [`BenchError`]; the rig is of no more use then.
    pub fn run(&mut self, goal: Goal, pin: &[usize]) -> Result<Sample, BenchError> {
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

    /// Operations that leave their traces, and a look at them: things compared.
    ///
    /// # Errors
    /// [`BenchError::Wrong`], or of a last run.
    pub fn verify(&mut self, pin: &[usize]) -> Result<u64, BenchError> {
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
    ///
    /// # Errors
    /// Any [`BenchError`].
    pub fn syscalls(
        &mut self,
        options: &Options,
    ) -> Result<Option<BTreeMap<String, f64>>, BenchError> {
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
