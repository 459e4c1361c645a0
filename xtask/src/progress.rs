//! Lines that show that something is happening, with the time since the start.

use std::fmt::Display;
use std::sync::OnceLock;
use std::time::Instant;

static START: OnceLock<Instant> = OnceLock::new();

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
    println!("[{:6.1} s] {what}", seconds());
}

/// Says a detail of the step that runs.
pub fn detail(what: impl Display) {
    println!("[{:6.1} s]   {what}", seconds());
}
