//! Lines that show that something is happening, with the time since the start.

use std::cell::RefCell;
use std::fmt::Display;
use std::sync::OnceLock;
use std::time::Instant;

static START: OnceLock<Instant> = OnceLock::new();

thread_local! {
    static SUBJECT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Puts `subject` before what this thread says from now on.
pub fn subject(subject: &str) {
    SUBJECT.with_borrow_mut(|s| *s = format!("{subject}: "));
}

/// Starts the clock.
pub fn start() {
    START.get_or_init(Instant::now);
}

/// Seconds since [`start`].
pub fn seconds() -> f64 {
    START.get_or_init(Instant::now).elapsed().as_secs_f64()
}

/// Says what begins now.
pub fn step(what: impl Display) {
    SUBJECT.with_borrow(|subject| println!("[{:6.1} s] {subject}{what}", seconds()));
}
