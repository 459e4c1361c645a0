//! How long rounds may be so that a whole run ends in time, whatever else the
//! machine is doing.

use std::time::{Duration, Instant};

/// Shorter rounds tell nothing.
const LEAST: Duration = Duration::from_millis(40);
/// What a case costs beside its rounds until one has been seen, per start of a daemon.
const OVERHEAD: Duration = Duration::from_millis(300);

/// A run's time, given out case by case.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    end: Instant,
    /// Rounds' lengths that a case consists of, bare system calls included.
    rounds: f64,
    /// What a case took beside its rounds: the average so far.
    overhead: Duration,
    seen: u32,
}

impl Budget {
    /// `time` for cases of so many daemons, each of which is started `repeat` times for so
    /// many rounds.
    pub fn new(time: Duration, daemons: usize, rounds: usize, repeat: usize) -> Self {
        let starts = u32::try_from(daemons * repeat).unwrap_or(1);
        Budget {
            end: Instant::now() + time,
            // The bare system calls run for a quarter of a round's time.
            rounds: (rounds * repeat) as f64 * (daemons as f64 + 0.25),
            overhead: OVERHEAD * starts,
            seen: 0,
        }
    }

    /// The length of rounds, at most `longest`, with `cases` still to come.
    pub fn round(&self, cases: usize, longest: Duration) -> Duration {
        let left = self.end.saturating_duration_since(Instant::now());
        share(left, cases, self.overhead, self.rounds, longest)
    }

    /// A case with rounds of length `round` took `took`.
    pub fn took(&mut self, took: Duration, round: Duration) {
        let beside = took.saturating_sub(round.mul_f64(self.rounds));
        self.overhead = match self.seen {
            0 => beside,
            seen => (self.overhead * seen + beside) / (seen + 1),
        };
        self.seen += 1;
    }
}

fn share(
    left: Duration,
    cases: usize,
    overhead: Duration,
    rounds: f64,
    longest: Duration,
) -> Duration {
    let own = left / u32::try_from(cases.max(1)).unwrap_or(u32::MAX);
    let round = own.saturating_sub(overhead).div_f64(rounds.max(1.0));
    round.clamp(LEAST.min(longest), longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_shared_evenly() {
        let second = Duration::from_secs(1);
        let share = |left, cases, overhead| share(left, cases, overhead, 10.0, second);
        // 60 s for 10 cases: 6 s each, of which 1 s is no round's.
        assert_eq!(share(60 * second, 10, second), second / 2);
        // As long as one wants, but no longer.
        assert_eq!(share(600 * second, 10, second), second);
        // Late: as short as makes sense.
        assert_eq!(share(second, 10, second), LEAST);
        assert_eq!(share(Duration::ZERO, 0, second), LEAST);
    }

    #[test]
    fn what_cases_cost_beside_their_rounds_is_learnt() {
        let mut budget = Budget::new(Duration::from_secs(60), 2, 2, 2);
        let round = Duration::from_millis(100);
        budget.took(Duration::from_millis(1400), round);
        assert_eq!(budget.overhead, Duration::from_millis(500));
        budget.took(Duration::from_millis(1600), round);
        assert_eq!(budget.overhead, Duration::from_millis(600));
    }
}
