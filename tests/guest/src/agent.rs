//! One command per line in, one answer per line out.
//!
//! Requests are `<number> <command> <words>`; answers `<number> ok <text>` or
//! `<number> err <text>`. The number lets the other side tell an answer from
//! what was left in a port that has crossed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use ferry_guest::{fixture, Expectation, MOUNT, READY, TAG};

use crate::census;
use crate::checks::{self, Live};
use crate::programs::Programs;
use crate::rival::Rival;
use crate::sys::{self, At, Failure, Result};

/// A command that has taken so long does not come back: the console is told
/// where everything waits.
const STUCK: Duration = Duration::from_secs(40);

/// Threads that work at once when the guest is to be busy.
const CHURNERS: usize = 8;

#[derive(Default)]
struct Agent {
    live: BTreeMap<&'static str, Box<dyn Live>>,
    rival: Rival,
    programs: Programs,
}

/// Answers on `port` until it closes.
pub fn serve(port: File) -> Result<()> {
    let mut out = port.try_clone().at("dup of the port")?;
    let mut agent = Agent::default();
    let progress = Arc::new(AtomicU64::new(0));
    watch(progress.clone());
    writeln!(out, "{READY}").at("write to the port")?;
    for line in BufReader::new(port).lines() {
        let line = line.at("read from the port")?;
        // Odd while a command runs.
        progress.fetch_add(1, Ordering::Relaxed);
        let mut words = line.splitn(3, ' ');
        let number = words.next().unwrap_or_default();
        let command = words.next().unwrap_or_default();
        let answer = match agent.run(command, words.next().unwrap_or_default()) {
            Ok(text) => format!("{number} ok {text}\n"),
            Err(e) => format!("{number} err {}\n", e.to_string().replace('\n', "\\n")),
        };
        out.write_all(answer.as_bytes()).at("write to the port")?;
        progress.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Has the kernel list all tasks on the console when a command is stuck.
fn watch(progress: Arc<AtomicU64>) {
    std::thread::spawn(move || {
        let mut seen = 0;
        loop {
            std::thread::sleep(STUCK);
            let now = progress.load(Ordering::Relaxed);
            if now == seen && now % 2 == 1 {
                // Whether it worked is seen on the console.
                let _ = std::fs::write("/proc/sysrq-trigger", "t");
                return;
            }
            seen = now;
        }
    });
}

impl Agent {
    fn run(&mut self, command: &str, arg: &str) -> Result<String> {
        match command {
            "ping" => Ok(String::new()),
            "mount" => sys::mount(TAG, MOUNT, "virtiofs").map(|()| String::new()),
            "checks" => {
                let (_, set) = checks::SETS
                    .iter()
                    .find(|(name, _)| *name == arg)
                    .ok_or_else(|| Failure::new(format!("no set of checks {arg:?}")))?;
                let names: Vec<_> = set.iter().map(|(name, _)| *name).collect();
                Ok(names.join(" "))
            }
            "drop-caches" => sys::drop_caches(arg).map(|()| String::new()),
            "prepare" => {
                let (name, prepare) =
                    checks::find(arg).ok_or_else(|| Failure::new(format!("no check {arg:?}")))?;
                self.live.insert(name, prepare()?);
                Ok(String::new())
            }
            "verify" => {
                let live = self
                    .live
                    .get_mut(arg)
                    .ok_or_else(|| Failure::new(format!("{arg:?} is not prepared")))?;
                live.verify().map(|()| String::new())
            }
            "finish" => {
                let live = self
                    .live
                    .remove(arg)
                    .ok_or_else(|| Failure::new(format!("{arg:?} is not prepared")))?;
                let words: Vec<_> = live.finish()?.iter().map(Expectation::to_word).collect();
                rustix::fs::sync();
                Ok(words.join(" "))
            }
            "unmount" => {
                self.live.clear();
                self.rival = Rival::default();
                sys::unmount(MOUNT).map(|()| String::new())
            }
            "start" => self.programs.start(arg).map(|()| String::new()),
            "ended" => self.programs.ended(arg),
            "clock" => sys::set_clock(arg).map(|()| String::new()),
            "census" => census::run(arg),
            "lock" => self.rival.run(arg),
            "churn" => churn().map(|()| String::new()),
            "sh" => shell(arg),
            _ => Err(Failure::new(format!("no command {command:?}"))),
        }
    }
}

/// Looks up and opens all that the fixture has, and closes it at once, in many
/// threads: as much traffic in a queue as a guest of one processor brings about.
fn churn() -> Result<()> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CHURNERS)
            .map(|first| scope.spawn(move || churn_part(first)))
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err(Failure::new("panicked")))
        })
    })
}

fn churn_part(first: usize) -> Result<()> {
    let dir = Path::new(MOUNT).join(fixture::DIR);
    for n in (first..fixture::ENTRIES).step_by(CHURNERS) {
        let path = dir.join("entries").join(fixture::entry_name(n));
        std::fs::symlink_metadata(&path).at(path.display())?;
    }
    let mut files = Vec::new();
    for n in (first..fixture::OPEN_FILES).step_by(CHURNERS) {
        let path = dir.join("open").join(fixture::open_name(n));
        files.push(File::open(&path).at(path.display())?);
    }
    drop(files);
    Ok(())
}

fn shell(script: &str) -> Result<String> {
    let out = std::process::Command::new("/bin/busybox")
        .args(["sh", "-c", script])
        .output()
        .at("run busybox")?;
    let text = String::from_utf8_lossy(&out.stdout)
        .trim_end()
        .replace('\n', "\\n");
    sys::need(out.status.success(), || {
        let said = String::from_utf8_lossy(&out.stderr);
        format!("{}: {text} {}", out.status, said.trim_end())
    })?;
    Ok(text)
}
