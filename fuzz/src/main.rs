//! The bounded run: mutates what is known, from a seed, so that the same command
//! always makes the same inputs. A process of its own runs them, so that whatever
//! ends it (a panic, an abort, a signal, too much memory, no end) is caught.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use clap::Parser;
use ferryfs_fuzz::{Target, TARGETS};

/// One input takes no longer than that.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Address space of the process that runs the inputs, in bytes.
const ADDRESS_SPACE: u64 = 4 << 30;

#[derive(Parser)]
#[command(
    bin_name = "cargo xtask fuzz",
    about = "Run fuzz targets for a while",
    max_term_width = 100
)]
struct Args {
    /// Which target; all of them without one
    target: Option<String>,
    /// For how long each target runs
    #[arg(long, default_value_t = 10, conflicts_with = "runs")]
    seconds: u64,
    /// How many inputs each target runs, in place of a time
    #[arg(long)]
    runs: Option<u64>,
    /// Which series of inputs
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The first input of the series
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Run this file's contents once, in this process, in place of a series
    #[arg(long, requires = "target")]
    input: Option<PathBuf>,
    /// Name the targets
    #[arg(long)]
    list: bool,
    /// Where the number of the input goes: this process is the one that runs them
    #[arg(long, hide = true)]
    progress: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        for target in TARGETS {
            println!("{:12} {}", target.name, target.about);
        }
        return ExitCode::SUCCESS;
    }
    let chosen: Vec<&Target> = match &args.target {
        None => TARGETS.iter().collect(),
        Some(name) => match ferryfs_fuzz::target(name) {
            Some(target) => vec![target],
            None => {
                eprintln!("error: there is no target {name}; --list names them");
                return ExitCode::from(2);
            }
        },
    };
    let mut well = true;
    for target in chosen {
        let outcome = match (&args.input, &args.progress) {
            (Some(input), _) => one(target, input),
            (None, Some(progress)) => series(target, &args, progress),
            (None, None) => watch(target, &args),
        };
        well &= outcome.unwrap_or_else(|e| {
            eprintln!("error: {}: {e}", target.name);
            false
        });
    }
    match well {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn one(target: &Target, input: &Path) -> std::io::Result<bool> {
    (target.run)(&std::fs::read(input)?);
    println!(
        "{}: {} is taken as it should be",
        target.name,
        input.display()
    );
    Ok(true)
}

/// Runs inputs until the count or the time is up.
fn series(target: &Target, args: &Args, progress: &Path) -> std::io::Result<bool> {
    let progress = File::options().write(true).open(progress)?;
    let corpus = target.corpus();
    let start = Instant::now();
    let end = match args.runs {
        Some(runs) => args.from.saturating_add(runs),
        None => u64::MAX,
    };
    let mut n = args.from;
    while n < end && (args.runs.is_some() || start.elapsed().as_secs() < args.seconds) {
        progress.write_all_at(&n.to_le_bytes(), 0)?;
        (target.run)(&target.input(&corpus, args.seed, n));
        n += 1;
    }
    progress.write_all_at(&n.to_le_bytes(), 0)?;
    Ok(true)
}

/// How the process of a series ended.
enum End {
    Status(ExitStatus),
    Hung,
}

/// Runs a series in a process of its own; tells what came of it.
fn watch(target: &Target, args: &Args) -> std::io::Result<bool> {
    let progress = tempfile::NamedTempFile::new()?;
    progress
        .as_file()
        .write_all_at(&args.from.to_le_bytes(), 0)?;
    let start = Instant::now();
    let end = wait(
        &mut start_series(target, args, progress.path())?,
        progress.as_file(),
    )?;
    let at = number(progress.as_file())?;
    let why = match end {
        End::Status(status) if status.success() => {
            println!(
                "{}: {} executions in {:.1} s, from input {} of series {}: nothing found",
                target.name,
                at - args.from,
                start.elapsed().as_secs_f64(),
                args.from,
                args.seed
            );
            return Ok(true);
        }
        End::Status(status) => match status.signal() {
            Some(signal) => format!("was killed by signal {signal}"),
            None => format!("ended with {status}"),
        },
        End::Hung => format!("did not come to an end within {TIMEOUT:?}"),
    };
    let input = target.input(&target.corpus(), args.seed, at);
    let dir = PathBuf::from("fuzz/artifacts").join(target.name);
    std::fs::create_dir_all(&dir)?;
    let path = dir.join(format!("series-{}-input-{at}", args.seed));
    std::fs::write(&path, &input)?;
    println!(
        "{}: input {at} of series {} ({} bytes) {why}\n  it is in {}; again:\n  \
         cargo xtask fuzz {} --input {}",
        target.name,
        args.seed,
        input.len(),
        path.display(),
        target.name,
        path.display()
    );
    Ok(false)
}

fn start_series(target: &Target, args: &Args, progress: &Path) -> std::io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(target.name).arg("--progress").arg(progress);
    command.args(["--seed", &args.seed.to_string()]);
    command.args(["--from", &args.from.to_string()]);
    match args.runs {
        Some(runs) => command.args(["--runs", &runs.to_string()]),
        None => command.args(["--seconds", &args.seconds.to_string()]),
    };
    let limit = || {
        let limit = rustix::process::Rlimit {
            current: Some(ADDRESS_SPACE),
            maximum: Some(ADDRESS_SPACE),
        };
        Ok(rustix::process::setrlimit(
            rustix::process::Resource::As,
            limit,
        )?)
    };
    // SAFETY: between fork and exec there is one system call, which takes no lock
    // and no memory.
    unsafe { command.pre_exec(limit) };
    command.spawn()
}

fn number(progress: &File) -> std::io::Result<u64> {
    let mut bytes = [0; 8];
    progress.read_exact_at(&mut bytes, 0)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Waits for the end, and ends a process that stays with one input.
fn wait(child: &mut Child, progress: &File) -> std::io::Result<End> {
    let mut last = (number(progress)?, Instant::now());
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(End::Status(status));
        }
        std::thread::sleep(Duration::from_millis(50));
        let now = number(progress)?;
        if now != last.0 {
            last = (now, Instant::now());
        } else if last.1.elapsed() > TIMEOUT {
            child.kill()?;
            child.wait()?;
            return Ok(End::Hung);
        }
    }
}
