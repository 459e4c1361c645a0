//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::bench::Options;
use crate::case::{Case, Place, Suite};
use crate::daemon::{self, DaemonSpec};
use crate::engine::Goal;
use crate::error::BenchError;
use crate::preset;
use crate::workload::{Sizes, Workload};

/// Measures virtio-fs daemons (vhost-user-fs back-ends) without a virtual machine, and
/// checks on the host's disk that they did what they were asked to.
#[derive(Debug, Parser)]
#[command(name = "ferrybench", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure workloads: throughput, latency, CPU time of the daemon, beside the bare
    /// system calls
    Run(Bench),
    /// Measure daemons against each other in alternating rounds, and print ratios
    Compare(Compare),
    /// Measure what a live migration costs: collecting, saving, loading, memory
    Migrate(Migrate),
    /// List the workloads
    Workloads,
}

/// Options of `run` and `compare`.
#[derive(Debug, Args)]
pub struct Bench {
    #[command(flatten)]
    pub daemons: Daemons,
    /// A suite of cases instead of workloads
    #[arg(long, value_enum, conflicts_with_all = ["workload", "depth", "uid", "queues", "place"])]
    pub suite: Option<Suite>,
    /// A case as reports call it, such as 'read-4k depth 8 uid 1000 queues 2'; several times for
    /// several
    #[arg(long, value_name = "CASE", conflicts_with_all = ["workload", "depth", "uid", "queues", "place"])]
    pub case: Vec<Case>,
    /// Workloads, separated by commas [default: all]
    #[arg(
        long,
        short,
        value_delimiter = ',',
        value_name = "NAME",
        hide_possible_values = true
    )]
    pub workload: Vec<Workload>,
    /// Operations in flight per queue, several separated by commas
    #[arg(long, short, value_delimiter = ',', default_value = "8", value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=256))]
    pub depth: Vec<u16>,
    /// Users to send requests as, several separated by commas
    #[arg(long, value_delimiter = ',', default_value = "0", value_name = "UID")]
    pub uid: Vec<u32>,
    /// Request queues, each served by a thread here; several numbers separated by commas
    #[arg(long, value_delimiter = ',', default_value = "1", value_name = "N",
          value_parser = clap::value_parser!(u8).range(1..=64))]
    pub queues: Vec<u8>,
    /// Where this program and the daemons run, several separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_value = "free", value_name = "PLACE",
          conflicts_with_all = ["pin", "pin_daemon"])]
    pub place: Vec<Place>,
    /// Seconds per round
    #[arg(long, default_value_t = 1.0, value_name = "SECONDS", value_parser = seconds)]
    pub duration: f64,
    /// Seconds for everything: rounds are shortened so that it is enough
    #[arg(long, value_name = "SECONDS", conflicts_with = "ops", value_parser = seconds)]
    pub budget: Option<f64>,
    /// Operations per round, instead of a duration
    #[arg(long, conflicts_with = "duration", value_parser = clap::value_parser!(u64).range(1..))]
    pub ops: Option<u64>,
    /// Seconds of warm-up before the first round; with --ops a tenth of the operations
    #[arg(long, default_value_t = 0.2, value_name = "SECONDS", value_parser = seconds)]
    pub warmup: f64,
    /// Times that daemons, shares and guest memory are made anew, each time for all rounds:
    /// where files lie in memory or on a disk is luck, which the rounds have in common
    #[arg(long, default_value_t = 1, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..))]
    pub repeat: u16,
    /// Run at real-time priority, daemons included, so that what else the machine does waits,
    /// if need be for long. Not with --poll: who polls would keep the daemons waiting, too
    #[arg(long, conflicts_with = "poll")]
    pub realtime: bool,
    /// Look for completions all the time instead of sleeping until called
    #[arg(long)]
    pub poll: bool,
    /// CPUs for this program's queues
    #[arg(long, value_delimiter = ',', value_name = "CPU")]
    pub pin: Vec<usize>,
    /// CPUs for the daemons
    #[arg(long, value_delimiter = ',', value_name = "CPU")]
    pub pin_daemon: Vec<usize>,
    /// Bytes of file data per descriptor, as a guest's pages
    #[arg(long, default_value_t = 4096, value_name = "BYTES",
          value_parser = clap::value_parser!(u32).range(4096..=1 << 20))]
    pub segment: u32,
    /// MiB of the files that are read and written
    #[arg(long, default_value_t = 64, value_name = "MIB",
          value_parser = clap::value_parser!(u64).range(1..=65536))]
    pub file_size: u64,
    /// Entries of the directories that are listed
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub entries: u64,
    /// Bytes asked for per directory read. Linux asks for a page before 6.16, and later
    /// for as much as the program does, which is 32 KiB with glibc
    #[arg(long, default_value_t = 32768, value_name = "BYTES",
          value_parser = clap::value_parser!(u32).range(1024..=1 << 20))]
    pub dir_buffer: u32,
    /// Count the daemon's system calls per operation with strace, in a round of its own
    #[arg(long)]
    pub syscalls: bool,
    /// Leave the bare system calls out
    #[arg(long)]
    pub no_bare: bool,
    #[command(flatten)]
    pub output: Output,
}

/// The daemons that take part.
#[derive(Debug, Args)]
pub struct Daemons {
    #[arg(long, value_name = "SPEC", help = daemon::help())]
    pub daemon: Vec<String>,
    /// Another project's daemon beside ferryfsd, or beside the daemons given; repeat for several
    #[arg(long, value_name = "NAME",
          value_parser = clap::builder::PossibleValuesParser::new(preset::peer_names()))]
    pub peer: Vec<String>,
}

/// Options of `compare`.
#[derive(Debug, Args)]
pub struct Compare {
    #[command(flatten)]
    pub bench: Bench,
    /// Rounds per daemon, each time that it is started
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: u16,
    /// Daemon that ratios are to [default: virtiofsd if it takes part, or the first --peer,
    /// or the first]
    #[arg(long, value_name = "NAME")]
    pub base: Option<String>,
}

/// Where shares are, and where figures go.
#[derive(Debug, Args)]
pub struct Output {
    /// Directory to make shares in; its file system is measured along
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Write all figures as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a report with plots as HTML
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write the plots as one SVG
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Say nothing while working
    #[arg(long, short)]
    pub quiet: bool,
}

impl Output {
    /// The directory for shares.
    pub fn dir(&self) -> PathBuf {
        self.dir.clone().unwrap_or_else(std::env::temp_dir)
    }
}

/// How the destination finds the guest's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// By name
    FindPaths,
    /// By the kernel's file handles
    FileHandles,
}

impl Mode {
    /// Its name on the daemons' command lines.
    pub fn name(self) -> &'static str {
        match self {
            Mode::FindPaths => "find-paths",
            Mode::FileHandles => "file-handles",
        }
    }
}

/// Options of `migrate`.
#[derive(Debug, Args)]
pub struct Migrate {
    #[command(flatten)]
    pub daemons: Daemons,
    /// Files the guest has looked up, in directories of 1000; several numbers separated
    /// by commas
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,100000", value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub inodes: Vec<u64>,
    /// Files among them that are open
    #[arg(long, default_value_t = 100, value_name = "K")]
    pub handles: u64,
    /// How the destination is to find the files
    #[arg(long, value_delimiter = ',', default_value = "find-paths,file-handles")]
    pub mode: Vec<Mode>,
    /// Format of ferryfsd's state (its --state-format)
    #[arg(long)]
    pub format: Option<String>,
    /// Measure also how long a busy guest's requests take while the source collects, and
    /// without
    #[arg(long)]
    pub busy: bool,
    /// Times each crossing is made; medians are reported
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: u16,
    /// CPUs for the daemons
    #[arg(long, value_delimiter = ',', value_name = "CPU")]
    pub pin_daemon: Vec<usize>,
    #[command(flatten)]
    pub output: Output,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.0..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("not a number of seconds up to a day".to_owned()),
    }
}

impl Daemons {
    /// Those of the command line, or those of `default`.
    ///
    /// # Errors
    /// [`BenchError::Usage`].
    pub fn specs(&self, default: &[&str]) -> Result<Vec<DaemonSpec>, BenchError> {
        let mut texts: Vec<&str> = self.daemon.iter().map(String::as_str).collect();
        if texts.is_empty() {
            texts = match self.peer.is_empty() {
                true => default.to_vec(),
                false => vec!["ferryfsd"],
            };
        }
        texts.extend(self.peer.iter().map(String::as_str));
        let specs: Result<Vec<_>, _> = texts.iter().map(|text| DaemonSpec::parse(text)).collect();
        let specs = specs?;
        for (i, spec) in specs.iter().enumerate() {
            if specs[..i].iter().any(|other| other.name == spec.name) {
                let name = &spec.name;
                return Err(BenchError::Usage(format!("two daemons are called {name}")));
            }
        }
        Ok(specs)
    }

    /// Index of the daemon that ratios are to: the one called `name`, or a good one.
    ///
    /// # Errors
    /// [`BenchError::Usage`].
    pub fn base(&self, specs: &[DaemonSpec], name: Option<&str>) -> Result<usize, BenchError> {
        let position = |name: &str| specs.iter().position(|spec| spec.name == name);
        match name {
            Some(name) => position(name)
                .ok_or_else(|| BenchError::Usage(format!("no daemon is called {name}"))),
            None => {
                let peer = || self.peer.first().and_then(|name| position(name));
                Ok(position("virtiofsd").or_else(peer).unwrap_or(0))
            }
        }
    }
}

impl Bench {
    /// Everything to be measured.
    pub fn cases(&self) -> Vec<Case> {
        if self.suite.is_some() || !self.case.is_empty() {
            let suite = self.suite.map_or_else(Vec::new, Suite::cases);
            return suite.into_iter().chain(self.case.iter().copied()).collect();
        }
        let all = Workload::value_variants();
        let workloads = match self.workload.is_empty() {
            true => all,
            false => self.workload.as_slice(),
        };
        let mut cases = Vec::new();
        for &workload in workloads {
            for depth in self.depth.iter().copied().map(usize::from) {
                for &uid in &self.uid {
                    for queues in self.queues.iter().copied().map(usize::from) {
                        cases.extend(self.place.iter().map(|&place| Case {
                            workload,
                            depth,
                            uid,
                            queues,
                            place,
                        }));
                    }
                }
            }
        }
        cases
    }

    /// How to measure it.
    pub fn options(&self, rounds: usize) -> Options {
        let time = |seconds| Goal::Time(Duration::from_secs_f64(seconds));
        Options {
            goal: self.ops.map_or_else(|| time(self.duration), Goal::Ops),
            warmup: match self.ops {
                Some(ops) => Goal::Ops(ops.div_ceil(10)),
                None => time(self.warmup),
            },
            rounds,
            repeat: usize::from(self.repeat),
            polling: self.poll,
            segment: self.segment as usize,
            pin: self.pin.clone(),
            pin_daemon: self.pin_daemon.clone(),
            sizes: Sizes {
                file: self.file_size << 20,
                entries: self.entries,
                dir_buffer: self.dir_buffer,
            },
            syscalls: self.syscalls,
            bare: !self.no_bare,
            dir: self.output.dir(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
        let cli = Cli::parse_from(["ferrybench", "run", "-w", "read-4k,open", "-d", "1,8"]);
        let Command::Run(bench) = cli.command else {
            panic!("not run")
        };
        let labels: Vec<_> = bench.cases().iter().map(Case::label).collect();
        let expected = [
            "read-4k depth 1",
            "read-4k depth 8",
            "open depth 1",
            "open depth 8",
        ];
        assert_eq!(labels, expected);
        for words in [
            ["--depth", "0"],
            ["--case", "open wide 3"],
            ["--peer", "ferryfsd"],
            ["--poll", "--realtime"],
        ] {
            let line = [&["ferrybench", "run"][..], &words].concat();
            Cli::try_parse_from(line).expect_err(words[1]);
        }
    }

    #[test]
    fn cases_are_given_by_name_or_as_a_suite() {
        let line = [
            "ferrybench",
            "run",
            "--case",
            "open uid 5",
            "--case",
            "getattr depth 1",
        ];
        let Command::Run(bench) = Cli::parse_from(line).command else {
            panic!("not run")
        };
        let labels: Vec<_> = bench.cases().iter().map(Case::label).collect();
        assert_eq!(labels, ["open depth 8 uid 5", "getattr depth 1"]);
        let line = [
            "ferrybench",
            "compare",
            "--suite",
            "quick",
            "--peer",
            "virtiofsd-c",
        ];
        let Command::Compare(compare) = Cli::parse_from(line).command else {
            panic!("not compare")
        };
        assert_eq!(compare.bench.cases(), Suite::Quick.cases());
        assert_eq!(compare.bench.daemons.peer, ["virtiofsd-c"]);
    }
}
