//! What a daemon's processes consumed, from /proc.

use std::fs;
use std::io;

/// Consumption of a process, its threads and its children so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time on a CPU, in ns.
    pub cpu_ns: u64,
    /// Context switches, voluntary or not.
    pub switches: u64,
}

impl Usage {
    /// Of process `pid` and its descendants.
    ///
    /// # Errors
    /// Of reading /proc, as when the process is gone.
    pub fn of(pid: u32) -> io::Result<Usage> {
        let mut usage = Usage {
            cpu_ns: cpu_ns(pid)?,
            switches: 0,
        };
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?.path();
            // Threads may end while they are looked at; their switches are lost then.
            let read = |name: &str| fs::read_to_string(task.join(name)).unwrap_or_default();
            usage.switches += switches(&read("status"));
            for child in read("children").split_ascii_whitespace() {
                if let Some(child) = child.parse().ok().and_then(|pid| Usage::of(pid).ok()) {
                    usage.cpu_ns += child.cpu_ns;
                    usage.switches += child.switches;
                }
            }
        }
        Ok(usage)
    }

    /// What came on top since `earlier`.
    pub fn since(self, earlier: Usage) -> Usage {
        Usage {
            cpu_ns: self.cpu_ns.saturating_sub(earlier.cpu_ns),
            switches: self.switches.saturating_sub(earlier.switches),
        }
    }
}

/// CPU time of a process in ns, ended threads and running ones included: its CPU clock,
/// as /proc has nothing that is both this complete and this fine.
fn cpu_ns(pid: u32) -> io::Result<u64> {
    let mut clock = 0;
    // SAFETY: writes one clockid_t to the address of a live one.
    match unsafe { libc::clock_getcpuclockid(pid as libc::pid_t, &mut clock) } {
        0 => {}
        errno => return Err(io::Error::from_raw_os_error(errno)),
    }
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes one timespec to the address of a live one.
    if unsafe { libc::clock_gettime(clock, &mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// Real-time priority: above everything ordinary, below what the kernel itself may want.
const PRIORITY: i32 = 10;

/// Puts the calling thread, and what it starts from now on, at real-time priority.
///
/// # Errors
/// It is not allowed.
pub fn be_realtime() -> io::Result<()> {
    let param = libc::sched_param {
        sched_priority: PRIORITY,
    };
    // SAFETY: reads one sched_param at the address of a live one.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &param) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether a thread of process `pid` runs, wants to run, or waits for a disk.
pub fn is_busy(pid: u32) -> bool {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    let busy = |stat: &str| {
        // The name before the state may hold anything.
        let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes());
        state.is_some_and(|rest| matches!(rest.first(), Some(b'R' | b'D')))
    };
    let stats = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("stat")).ok());
    stats.into_iter().any(|stat| busy(&stat))
}

fn switches(status: &str) -> u64 {
    let counts = status.lines().filter_map(|line| {
        let (name, count) = line.split_once(':')?;
        name.ends_with("_ctxt_switches").then_some(count)
    });
    counts.filter_map(|n| n.trim().parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_counts_after_its_thread_has_ended() {
        let before = Usage::of(std::process::id()).expect("usage");
        let cpu = || {
            let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            now.tv_sec * 1_000_000_000 + now.tv_nsec
        };
        let work = std::thread::spawn(move || while cpu() < 50_000_000 {});
        while !work.is_finished() {
            assert!(is_busy(std::process::id()), "we are running");
        }
        work.join().expect("work");
        let used = Usage::of(std::process::id()).expect("usage").since(before);
        assert!(used.cpu_ns >= 50_000_000, "{used:?}");
    }

    #[test]
    fn the_sleeping_are_not_busy() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn();
        let child = child.as_mut().expect("sleep");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while is_busy(child.id()) {
            assert!(
                std::time::Instant::now() < deadline,
                "it does not fall asleep"
            );
        }
        child.kill().expect("kill");
        child.wait().expect("wait");
        Usage::of(0x7fff_fff0).expect_err("no such process");
    }

    #[test]
    fn fields_are_found() {
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t5\nnonvoluntary_ctxt_switches:\t2\n";
        assert_eq!(switches(status), 7);
    }
}
