//! When a ring's thread tells its driver, and how long it looks for the next request
//! before it sleeps.
//!
//! To sleep and to be woken costs processor time too: a few microseconds where the other
//! side's processor is awake, ten times as much where it has to be woken by way of a
//! hypervisor. So before it sleeps, the thread looks at the ring for a while, and whether
//! that pays is found out by doing it: kept count of are what looks cost, and what the
//! sleeps would have cost that they saved. Looks have to be longer than a sleep costs, for
//! whether a driver comes back soon depends on whether it is kept waiting: one whose kicks
//! have to wake somebody takes longer for the next request, too. So looks are tried many
//! in a row, until they have cost a few sleeps more than they saved. Then they are left
//! out, twice as long each time that they fail.
//!
//! A driver with one request at a time has nothing to do until it is answered, so it
//! sleeps, and where it is to run on this thread's processor it does not go on before this
//! thread sleeps, too. There, a sleep costs little; and where it does and there is one
//! request at a time, looks are no longer than it, which meets drivers that are awake.
//! Where a sleep costs much, both sides have a processor each, and looks are worth most. Yet
//! on one processor a request would cost a fraction, and the scheduler chooses one when
//! somebody is woken: so after many requests that were met, a few sleeps have no look.
//!
//! With `--poll-us` it looks for longer, which is a trade of processor time for latency.

use std::time::{Duration, Instant};

use crate::rest::Rest;

/// The longest time for which a driver is told of nothing while requests are served.
const SPAN: Duration = Duration::from_micros(20);

/// The longest look where none is asked for.
const LONGEST_LOOK: Duration = Duration::from_micros(50);

/// The longest look in sleeps: one in vain is not to cost many.
const MOST_SLEEPS: u32 = 4;

/// The same at a driver with one request at a time, where a sleep is [`CHEAP`].
const SLEEPS_FOR_ONE: u32 = 1;

/// What a sleep costs less than where no halted processor has to be woken by either side.
const CHEAP: Duration = Duration::from_micros(6);

/// Requests of a driver with one at a time that had been woken and then were met by looks,
/// before the scheduler may choose anew.
const MET: u32 = 512;

/// Sleeps without a look for it to choose in.
const CHOICES: u32 = 64;

/// Waits after several requests at once for which a driver is taken for one that has them:
/// if it is slower than this daemon, few come together.
const SEVERAL_FOR: u32 = 64;

/// Sleeps per one whose cost is measured, which takes two system calls.
const SAMPLE: u32 = 32;

/// How much of the mean a new cost is.
const WEIGHT: u32 = 4;

/// The most sleeps without a look before them.
const MOST_LEFT_OUT: u32 = 256;

/// What looks may cost more than they save before they are left out, in sleeps.
const ALLOWANCE: i64 = 8;

/// What they must have saved more than they cost to have proved good, in sleeps: what was
/// long ago tells nothing.
const PROVED: i64 = 8;

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
    /// Sleeps to come before which is not looked.
    left_out: u32,
    /// How many that were the last time, since looks have proved good.
    penalty: u32,
    /// What looks have saved, less what they have cost, in ns of processor time, since they
    /// were left out.
    balance: i64,
    /// Requests since the last wait.
    taken: u32,
    /// Waits to come for which the driver is taken for one with several requests at once.
    several: u32,
    /// Requests of a driver with one at a time that were met by long looks.
    met: u32,
    /// Where nobody waits for the requests: it rests instead of looking.
    rest: Option<Rest>,
}

/// What the thread of a ring in which nothing is left does before it sleeps.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wait {
    /// Looks at the ring.
    Look {
        /// For no longer than this.
        longest: Duration,
        /// What the configuration asks for.
        asked: Duration,
    },
    /// Nothing, for so long.
    Rest(Duration),
}

impl Pace {
    /// Of the ring that is virtqueue `index`.
    pub(crate) fn of(index: usize) -> Pace {
        Pace {
            rest: (index == HIGH_PRIORITY).then(Rest::default),
            ..Pace::default()
        }
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

    /// What to do before sleeping, if anything; `asked` is the least time that the
    /// configuration asks to look for a request.
    pub(crate) fn wait(&mut self, asked: Duration) -> Option<Wait> {
        match &self.rest {
            Some(rest) => rest.due().map(Wait::Rest),
            None => {
                let longest = self.look(asked)?;
                Some(Wait::Look { longest, asked })
            }
        }
    }

    /// A rest is over. `offered` requests have come during it, of as many as `size` that
    /// the queue can take.
    pub(crate) fn rested(&mut self, offered: u16, size: u16) {
        if let Some(rest) = &mut self.rest {
            rest.rested(offered, size);
        }
    }

    /// A request has been taken from the ring.
    pub(crate) fn takes(&mut self) {
        self.taken = self.taken.saturating_add(1);
    }

    fn look(&mut self, asked: Duration) -> Option<Duration> {
        self.several = match std::mem::take(&mut self.taken) {
            0 | 1 => self.several.saturating_sub(1),
            _ => SEVERAL_FOR,
        };
        if self.left_out > 0 {
            self.left_out -= 1;
            return None;
        }
        let sleeps = match self.several {
            0 if self.cost < CHEAP => SLEEPS_FOR_ONE,
            _ => MOST_SLEEPS,
        };
        let longest = (self.cost * sleeps).min(LONGEST_LOOK).max(asked);
        (!longest.is_zero()).then_some(longest)
    }

    /// A look has found a request, or not, and has taken so long; `asked` is as in
    /// [`Pace::wait`].
    pub(crate) fn looked(&mut self, found: bool, took: Duration, asked: Duration) {
        let ns = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        let cost = ns(self.cost);
        // This thread may have had no processor for a part of it.
        let took = ns(took).min(ns(LONGEST_LOOK));
        let saved = if found { cost } else { 0 };
        self.balance = (self.balance + saved - took).min(PROVED * cost);
        let pays = match asked > self.cost {
            // What it costs has been weighed by somebody else.
            true => found,
            false => self.balance >= -ALLOWANCE * cost,
        };
        if !pays {
            self.penalty = (self.penalty * 2).clamp(1, MOST_LEFT_OUT);
            self.left_out = self.penalty;
            self.balance = 0;
            return;
        }
        if self.balance >= PROVED * cost || asked > self.cost {
            self.penalty = 0;
        }
        let alone = self.several == 0 && asked <= self.cost;
        if alone && found && took > ns(CHEAP) {
            self.met += 1;
            if self.met == MET {
                self.met = 0;
                self.left_out = CHOICES;
            }
        }
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

    /// Of a ring whose driver has lately had several requests in it, for `waits`.
    fn pace_for_several(waits: u32) -> Pace {
        Pace {
            several: waits,
            ..Pace::default()
        }
    }

    #[test]
    fn looks_for_one_request_at_a_time_are_short_where_sleeps_are_cheap() {
        let mut pace = Pace::default();
        pace.slept_for(5 * US);
        let mut longest = |requests| {
            (0..requests).for_each(|_| pace.takes());
            pace.look(Duration::ZERO)
        };
        assert_eq!(longest(1), Some(5 * US));
        assert_eq!(longest(2), Some(20 * US));
        for wait in 1..SEVERAL_FOR {
            assert_eq!(longest(1), Some(20 * US), "{wait}");
        }
        assert_eq!(longest(1), Some(5 * US));
        assert_eq!(longest(0), Some(5 * US));
        assert_eq!(longest(3), Some(20 * US));
        let mut pace = Pace::default();
        pace.slept_for(CHEAP);
        pace.takes();
        assert_eq!(pace.look(Duration::ZERO), Some(24 * US));
    }

    #[test]
    fn the_scheduler_may_choose_anew_now_and_then() {
        // Sleeps without a look after so many looks that have met something.
        let left_out_after = |looks: u32, took: Duration, requests: u32, asked: Duration| {
            let mut pace = Pace::default();
            pace.slept_for(40 * US);
            for _ in 0..looks {
                (0..requests).for_each(|_| pace.takes());
                pace.look(asked);
                pace.looked(true, took, asked);
            }
            left_out(&mut pace, asked)
        };
        let none = Duration::ZERO;
        assert_eq!(left_out_after(511, 25 * US, 1, none), 0);
        assert_eq!(left_out_after(512, 25 * US, 1, none), 64);
        assert_eq!(left_out_after(512, 2 * US, 1, none), 0, "it is awake");
        assert_eq!(
            left_out_after(512, 25 * US, 2, none),
            0,
            "so it is with more"
        );
        assert_eq!(
            left_out_after(512, 25 * US, 1, 100 * US),
            0,
            "asked to look"
        );
    }

    #[test]
    fn looks_last_as_long_as_a_few_sleeps_cost() {
        let mut pace = pace_for_several(100);
        let none = Duration::ZERO;
        assert_eq!(pace.look(none), None, "nothing is known");
        pace.slept_for(8 * US);
        assert_eq!(pace.look(none), Some(32 * US));
        pace.slept_for(4 * US);
        assert_eq!(pace.look(none), Some(28 * US));
        assert_eq!(pace.look(100 * US), Some(100 * US), "more is asked for");
        pace.slept_for(Duration::from_secs(1));
        assert_eq!(pace.look(none), Some(LONGEST_LOOK), "one outlier");
        for _ in 0..99 {
            pace.slept_for(Duration::from_secs(1));
        }
        assert_eq!(pace.look(none), Some(LONGEST_LOOK));
    }

    /// How many sleeps there are until the next look.
    fn left_out(pace: &mut Pace, asked: Duration) -> usize {
        (0..).find(|_| pace.look(asked).is_some()).unwrap()
    }

    #[test]
    fn looks_that_fail_become_rare() {
        let mut pace = pace_for_several(u32::MAX);
        pace.slept_for(8 * US);
        let none = Duration::ZERO;
        let mut seen = Vec::new();
        for _ in 0..10 {
            // Two cost as much as they may.
            for _ in 0..2 {
                pace.looked(false, 32 * US, none);
                assert_eq!(left_out(&mut pace, none), 0);
            }
            pace.looked(true, 9 * US, none);
            seen.push(left_out(&mut pace, none));
        }
        assert_eq!(seen, [1, 2, 4, 8, 16, 32, 64, 128, 256, 256]);
        // So many have to find something before they are trusted as in the beginning.
        for _ in 0..15 {
            pace.looked(true, 4 * US, none);
        }
        assert_eq!(pace.penalty, 256);
        pace.looked(true, 4 * US, none);
        assert_eq!(pace.penalty, 0);
    }

    #[test]
    fn looks_that_are_asked_for_need_not_pay() {
        let mut pace = Pace::default();
        pace.slept_for(8 * US);
        let asked = 100 * US;
        for times in [1, 2, 4] {
            pace.looked(false, asked, asked);
            assert_eq!(left_out(&mut pace, asked), times);
        }
        pace.looked(true, 99 * US, asked);
        for _ in 0..100 {
            assert_eq!(left_out(&mut pace, asked), 0);
            pace.looked(true, 99 * US, asked);
        }
        pace.looked(false, asked, asked);
        assert_eq!(left_out(&mut pace, asked), 1);
    }

    /// What `requests` cost, in sleeps, of which every `nth` comes while it is looked for
    /// one, after `after` of what a sleep costs.
    fn cost_of(requests: u32, nth: u32, after: f64) -> f64 {
        let mut pace = pace_for_several(u32::MAX);
        let sleep = 10 * US;
        pace.slept_for(sleep);
        let mut cost = Duration::ZERO;
        for request in 0..requests {
            let comes = request % nth == 0;
            let look = pace.look(Duration::ZERO);
            if let Some(longest) = look {
                let took = if comes { sleep.mul_f64(after) } else { longest };
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
            for after in [0.1, 0.5, 0.9, 1.0, 2.0, 4.0] {
                let cost = cost_of(100_000, nth, after);
                assert!(cost < 1.05, "one of {nth} after {after}: {cost}");
            }
        }
    }

    /// A driver that is not kept waiting comes back sooner.
    #[test]
    fn looks_change_what_they_look_at() {
        let mut pace = pace_for_several(u32::MAX);
        pace.slept_for(10 * US);
        let mut comes_after = 35 * US;
        let mut slept = 0;
        for _ in 0..10_000 {
            if pace.look(Duration::ZERO).is_some() {
                pace.looked(true, comes_after, Duration::ZERO);
                comes_after = (comes_after * 3 / 4).max(5 * US);
            } else {
                slept += 1;
                comes_after = 35 * US;
            }
        }
        assert!(slept < 100, "{slept}");
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
