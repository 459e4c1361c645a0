//! When a ring's thread tells its driver, and how long it looks for the next request
//! before it sleeps.
//!
//! To sleep and to be woken costs processor time too: a few microseconds where the other
//! side's processor is awake, ten times as much where it has to be woken by way of a
//! hypervisor. So before it sleeps, the thread looks at the ring for as long as sleeping
//! has lately been seen to cost, and no request that comes in this time has cost more
//! than it would have. Where looking was in vain, the next times are left out, twice as
//! many each time. It is also kept count of what looks have saved and what they have cost:
//! as long as that is a loss, one that finds something does not bring the others back.
//!
//! With `--poll-us` it looks for longer, which is a trade of processor time for latency.

use std::time::{Duration, Instant};

use crate::rest::Rest;

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

/// The most that looks are taken to have saved, or to have cost, in sleeps: what was long
/// ago tells nothing.
const MOST_BALANCE: i64 = 4;

/// The virtqueue for FORGET and INTERRUPT (VIRTIO 1.2, section 5.11.2).
const HIGH_PRIORITY: usize = 0;

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
    /// What looks have saved, less what they have cost, in ns of processor time.
    balance: i64,
    /// Where nobody waits for the requests.
    rest: Option<Rest>,
}

impl Pace {
    /// Of the ring that is virtqueue `index`.
    pub(crate) fn of(index: usize) -> Pace {
        Pace {
            rest: (index == HIGH_PRIORITY).then(Rest::default),
            ..Pace::default()
        }
    }

    /// The rests of a queue for whose requests nobody waits: it has them instead of looks.
    pub(crate) fn rest(&mut self) -> Option<&mut Rest> {
        self.rest.as_mut()
    }

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

    /// A look has found a request, or not, and has taken so long; `asked` is as in
    /// [`Pace::look`].
    pub(crate) fn looked(&mut self, found: bool, took: Duration, asked: Duration) {
        let ns = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        let cost = ns(self.cost);
        // This thread may have had no processor for a part of it.
        let took = ns(took).min(ns(LONGEST_LOOK));
        let saved = if found { cost } else { 0 };
        let most = MOST_BALANCE * cost;
        self.balance = (self.balance + saved - took).clamp(-most, most);
        if !found {
            self.penalty = (self.penalty * 2).clamp(1, MOST_LEFT_OUT);
        } else if self.balance >= 0 || asked > self.cost {
            self.penalty = 0;
        }
        self.left_out = self.penalty;
    }

    /// The thread goes to sleep.
    pub(crate) fn sleeps(&mut self) {
        if let Some(rest) = &mut self.rest {
            rest.sleeps();
        }
        if self.sleeps % SAMPLE == 0 {
            self.asleep = Some(thread_time());
        }
        self.sleeps = self.sleeps.wrapping_add(1);
    }

    /// The thread has been woken.
    pub(crate) fn wakes(&mut self) {
        if let Some(rest) = &mut self.rest {
            rest.wakes();
        }
        if let Some(asleep) = self.asleep.take() {
            self.slept_for(thread_time().saturating_sub(asleep));
        }
    }

    fn slept_for(&mut self, cost: Duration) {
        // A sleep after which the thread had to wait for its processor tells little.
        let cost = cost.min(LONGEST_LOOK);
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
        assert_eq!(
            pace.look(none),
            Some((3 * 7 * US + LONGEST_LOOK) / 4),
            "one outlier"
        );
        for _ in 0..99 {
            pace.slept_for(Duration::from_secs(1));
        }
        assert!(pace.look(none).unwrap() <= LONGEST_LOOK);
    }

    /// How many sleeps there are until the next look.
    fn left_out(pace: &mut Pace, asked: Duration) -> usize {
        (0..).find(|_| pace.look(asked).is_some()).unwrap()
    }

    #[test]
    fn looks_in_vain_become_rare_and_one_that_finds_something_makes_up_for_them() {
        let mut pace = Pace::default();
        pace.slept_for(8 * US);
        for asked in [Duration::ZERO, 100 * US] {
            let mut seen = Vec::new();
            for _ in 0..9 {
                pace.looked(false, 8 * US, asked);
                seen.push(left_out(&mut pace, asked));
            }
            assert_eq!(seen, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
            // They have cost four sleeps, as far as is remembered, and save a half each.
            let back = if asked.is_zero() { 8 } else { 1 };
            for _ in 1..back {
                pace.looked(true, 4 * US, asked);
                assert_eq!(left_out(&mut pace, asked), 64);
            }
            pace.looked(true, 4 * US, asked);
            assert_eq!(left_out(&mut pace, asked), 0);
            pace.looked(false, 8 * US, asked);
            assert_eq!(left_out(&mut pace, asked), 1);
            pace.looked(true, Duration::ZERO, asked);
        }
    }

    /// What `requests` cost, in sleeps, of which every `nth` comes while it is looked for
    /// one, after `share` of what a sleep costs.
    fn cost_of(requests: u32, nth: u32, share: f64) -> f64 {
        let mut pace = Pace::default();
        let sleep = 10 * US;
        pace.slept_for(sleep);
        let mut cost = Duration::ZERO;
        for request in 0..requests {
            let comes = request % nth == 0;
            let look = pace.look(Duration::ZERO);
            if let Some(longest) = look {
                let took = if comes { sleep.mul_f64(share) } else { longest };
                pace.looked(comes, took, Duration::ZERO);
                cost += took;
            }
            if look.is_none() || !comes {
                cost += sleep;
            }
        }
        cost.as_secs_f64() / sleep.as_secs_f64() / f64::from(requests)
    }

    #[test]
    fn looks_pay_for_themselves() {
        assert!(cost_of(10_000, 1, 0.2) < 0.21, "all are met");
        for nth in 1..20 {
            for share in [0.1, 0.5, 0.9, 1.0] {
                let cost = cost_of(10_000, nth, share);
                assert!(cost < 1.03, "one of {nth} after {share}: {cost}");
            }
        }
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
