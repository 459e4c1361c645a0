//! Rests of the queue for whose requests nobody waits.
//!
//! A guest that drops a tree from its caches, or looks many names up, sends a FORGET every
//! few microseconds, and each would wake the high-priority queue's thread: to wake it costs
//! several times what the request does, and the processor that it takes may be that on
//! which somebody waits for an answer. So where the driver is seen to be busy the thread
//! rests for a moment before it asks for kicks, and finds what has come meanwhile all at
//! once. It goes on to do so for as long as it finds something. INTERRUPT comes on this
//! queue too, and can wait so long.

use std::time::{Duration, Instant};

/// The longest rest, and the shortest sleep of which the driver of a quiet queue does not
/// come off.
const LONGEST: Duration = Duration::from_micros(200);

/// What the thread remembers between its rests.
#[derive(Debug)]
pub(crate) struct Rest {
    slept: Option<Instant>,
    /// The driver has lately been busy.
    busy: bool,
    length: Duration,
}

impl Default for Rest {
    fn default() -> Self {
        Rest {
            slept: None,
            busy: false,
            length: LONGEST,
        }
    }
}

impl Rest {
    /// How long to rest, now that nothing is left to do; `None`: not at all.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.busy.then_some(self.length)
    }

    /// A rest is over. `offered` requests have come during it, of as many as `size` that
    /// the queue can take.
    pub(crate) fn rested(&mut self, offered: u16, size: u16) {
        self.busy = offered > 0;
        // A driver that finds no room has to try again.
        if offered > size / 2 {
            self.length /= 2;
        } else if offered < size / 8 {
            self.length = (self.length * 2).min(LONGEST);
        }
    }

    /// The thread goes to sleep.
    pub(crate) fn sleeps(&mut self) {
        self.sleeps_at(Instant::now());
    }

    fn sleeps_at(&mut self, now: Instant) {
        self.slept = Some(now);
    }

    /// The thread has been woken.
    pub(crate) fn wakes(&mut self) {
        self.wakes_at(Instant::now());
    }

    fn wakes_at(&mut self, now: Instant) {
        let slept = self.slept.take();
        self.busy = slept.is_some_and(|slept| now.duration_since(slept) < LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    #[test]
    fn it_rests_while_the_driver_is_busy() {
        let mut rest = Rest::default();
        let start = Instant::now();
        rest.wakes_at(start);
        assert_eq!(rest.due(), None, "nothing is known");
        rest.sleeps_at(start);
        rest.wakes_at(start + LONGEST);
        assert_eq!(rest.due(), None, "a quiet driver");
        rest.sleeps_at(start);
        rest.wakes_at(start + LONGEST - US);
        assert_eq!(rest.due(), Some(LONGEST));
        rest.rested(30, 128);
        assert_eq!(rest.due(), Some(LONGEST));
        rest.rested(0, 128);
        assert_eq!(rest.due(), None, "one in vain");
    }

    #[test]
    fn rests_are_shorter_than_it_takes_to_fill_the_queue() {
        let mut rest = Rest::default();
        rest.rested(65, 128);
        assert_eq!(rest.due(), Some(LONGEST / 2));
        rest.rested(64, 128);
        rest.rested(16, 128);
        assert_eq!(rest.due(), Some(LONGEST / 2), "as it should be");
        rest.rested(128, 128);
        assert_eq!(rest.due(), Some(LONGEST / 4));
        for _ in 0..9 {
            rest.rested(15, 128);
        }
        assert_eq!(rest.due(), Some(LONGEST));
    }
}
