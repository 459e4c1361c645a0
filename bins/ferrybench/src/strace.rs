//! System calls per operation, counted by strace while a daemon works.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::BenchError;

/// A strace attached to a daemon.
pub struct Strace {
    child: Child,
    out: PathBuf,
}

fn traced(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    tasks.is_ok_and(|mut tasks| {
        tasks.all(|task| {
            let status = task.map(|task| fs::read_to_string(task.path().join("status")));
            let status = status.and_then(|s| s).unwrap_or_default();
            !status.contains("TracerPid:\t0\n")
        })
    })
}

impl Strace {
    /// Attaches to all threads of `pid`; none if there is no strace.
    ///
    /// # Errors
    /// [`BenchError::Usage`] when strace may not.
    pub fn attach(pid: u32, out: &Path) -> Result<Option<Self>, BenchError> {
        let mut command = Command::new("strace");
        command.args(["-c", "-f", "-q", "-o"]).arg(out);
        command.args(["-p", &pid.to_string()]);
        let spawned = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        let Ok(child) = spawned else {
            return Ok(None);
        };
        let mut strace = Strace {
            child,
            out: out.to_owned(),
        };
        let deadline = Instant::now() + Duration::from_secs(5);
        while !traced(pid) {
            if strace.child.try_wait().is_ok_and(|ended| ended.is_some())
                || Instant::now() >= deadline
            {
                let why = format!("strace could not attach to process {pid}");
                return Err(BenchError::Usage(why));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(Some(strace))
    }

    /// Detaches; calls by name.
    ///
    /// # Errors
    /// [`BenchError::Io`] when strace left no counts.
    pub fn counts(mut self) -> Result<BTreeMap<String, u64>, BenchError> {
        let pid = rustix::process::Pid::from_child(&self.child);
        let interrupted = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        let ended = interrupted.map_err(Into::into).and_then(|()| {
            self.child.wait()?;
            fs::read_to_string(&self.out)
        });
        Ok(parse(&ended.map_err(BenchError::io("read", &self.out))?))
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // It detaches when it ends, however it does.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lines are: % time, seconds, usecs/call, calls, maybe errors, syscall.
fn parse(table: &str) -> BTreeMap<String, u64> {
    let counts = table.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        words.first()?.parse::<f64>().ok()?;
        let name = *words.last()?;
        let calls = words.get(3)?.parse().ok()?;
        (name != "total").then(|| (name.to_owned(), calls))
    });
    counts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read() {
        let table = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 80.00    0.000412           1       400           statx
 20.00    0.000100           1       100        50 openat
------ ----------- ----------- --------- --------- ----------------
100.00    0.000512           1       500        50 total
";
        let counts = parse(table);
        let expected = [("openat".to_owned(), 100), ("statx".to_owned(), 400)];
        assert_eq!(counts, BTreeMap::from(expected));
    }
}
