//! When a ring's thread tells its driver, and how long it looks for the next request
//! before it sleeps.
//!
//! To sleep and to be woken costs processor time too: a few microseconds where the other
//! side's processor is awake, ten times as much where it has to be woken by way of a
//! hypervisor. So before it sleeps, the thread looks at the ring for as long as sleeping
//! has lately been seen to cost, and no request that comes in this time has cost more
//! than it would have. Where looking was in vain, the next times are left out, twice as
//! many each time.
//!
//! With `--poll-us` it looks for longer, which is a trade of processor time for latency.

use std::time::{Duration, Instant};

/// The longest time for which a driver is told of nothing while requests are served.
const SPAN: Duration = Duration::from_micros(20);

/// The longest look where none is asked for: what sleeping costs is measured, and can be
/// mismeasured.
const LONGEST_LOOK: Duration = Duration::from_micros(50);

/// Sleeps per one whose cost is measured, which takes two system calls.
const SAMPLE: u32 = 32;

/// How much of the mean a new cost is.
const WEIGHT: u32 = 4;

/// The most sleeps without a look before them.
const MOST_LEFT_OUT: u32 = 64;

/// What the thread of one ring remembers from request to request.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    told: Option<Instant>,
    /// The mean cost of a sleep, in processor time.
    cost: Duration,
    sleeps: u32,
    /// Processor time when the thread went to sleep, where it is measured.
    asleep: Option<Duration>,
    /// Sleeps to come before which is not looked, and how many there are after the next
    /// look in vain.
    left_out: u32,
    penalty: u32,
}

impl Pace {
    /// Whether the driver is to be told now of what it has not been told; it is taken as
    /// told then.
    pub(crate) fn tells(&mut self) -> bool {
        self.tells_at(Instant::now())
    }

    fn tells_at(&mut self, now: Instant) -> bool {
        if self
            .told
            .is_some_and(|told| now.duration_since(told) < SPAN)
        {
            return false;
        }
        self.told = Some(now);
        true
    }

    /// How long to look for a request before sleeping, if at all; `asked` is the least
    /// time that the configuration asks for.
    pub(crate) fn look(&mut self, asked: Duration) -> Option<Duration> {
        if self.left_out > 0 {
            self.left_out -= 1;
            return None;
        }
        let longest = asked.max(self.cost.min(LONGEST_LOOK));
        (!longest.is_zero()).then_some(longest)
    }

    /// A look has found a request, or not.
    pub(crate) fn looked(&mut self, found: bool) {
        if found {
            self.penalty = 0;
            return;
        }
        self.penalty = (self.penalty * 2).clamp(1, MOST_LEFT_OUT);
        self.left_out = self.penalty;
    }

    /// The thread goes to sleep.
    pub(crate) fn sleeps(&mut self) {
        if self.sleeps % SAMPLE == 0 {
            self.asleep = Some(thread_time());
        }
        self.sleeps = self.sleeps.wrapping_add(1);
    }

    /// The thread has been woken.
    pub(crate) fn wakes(&mut self) {
        if let Some(asleep) = self.asleep.take() {
            self.slept_for(thread_time().saturating_sub(asleep));
        }
    }

    fn slept_for(&mut self, cost: Duration) {
        self.cost = match self.cost.is_zero() {
            true => cost,
            false => (self.cost * (WEIGHT - 1) + cost) / WEIGHT,
        };
    }
}

/// Processor time of this thread.
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    #[test]
    fn a_driver_is_told_once_in_a_while() {
        let mut pace = Pace::default();
        let start = Instant::now();
        assert!(pace.tells_at(start), "of the first at once");
        assert!(!pace.tells_at(start + SPAN - US));
        assert!(pace.tells_at(start + SPAN));
        assert!(!pace.tells_at(start + SPAN + US));
    }

    #[test]
    fn looks_last_as_long_as_sleeping_costs() {
        let mut pace = Pace::default();
        let none = Duration::ZERO;
        assert_eq!(pace.look(none), None, "nothing is known");
        pace.slept_for(8 * US);
        assert_eq!(pace.look(none), Some(8 * US));
        pace.slept_for(4 * US);
        assert_eq!(pace.look(none), Some(7 * US));
        assert_eq!(pace.look(100 * US), Some(100 * US), "more is asked for");
        pace.slept_for(Duration::from_secs(1));
        assert_eq!(pace.look(none), Some(LONGEST_LOOK));
    }

    #[test]
    fn looks_in_vain_become_rare_and_one_that_finds_something_makes_up_for_them() {
        let mut pace = Pace::default();
        pace.slept_for(8 * US);
        // How many sleeps there are until the next look.
        let left_out = |pace: &mut Pace| (0..).find(|_| pace.look(US).is_some()).unwrap();
        let mut seen = Vec::new();
        for _ in 0..9 {
            pace.looked(false);
            seen.push(left_out(&mut pace));
        }
        assert_eq!(seen, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
        pace.looked(true);
        assert_eq!(left_out(&mut pace), 0);
        pace.looked(false);
        assert_eq!(left_out(&mut pace), 1);
    }

    #[test]
    fn what_sleeping_costs_is_processor_time() {
        let mut pace = Pace::default();
        pace.sleeps();
        std::thread::sleep(20 * Duration::from_millis(1));
        pace.wakes();
        assert!(!pace.cost.is_zero() && pace.cost < Duration::from_millis(20));
        let seen = pace.cost;
        pace.sleeps();
        pace.wakes();
        assert_eq!(pace.cost, seen, "not each is measured");
    }
}
