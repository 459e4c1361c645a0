//! The directory in which a case lives, and the record of its steps.

use std::fmt::{Display, Write};
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use crate::record::Outcome;

/// Longer than the granularity of a file system's time, in any of its caches.
const TICK: Duration = Duration::from_millis(12);

/// A case.
pub type Case = Box<dyn Fn(&mut World)>;

/// See the module's text.
pub struct World {
    /// The directory.
    pub dir: OwnedFd,
    /// Its path, for calls that take no descriptor.
    pub path: PathBuf,
    /// Whether the case may do everything.
    pub root: bool,
    text: String,
}

/// Takes a step and records it by its own source; its outcome.
#[macro_export]
macro_rules! take {
    ($world:expr, $call:expr) => {{
        let outcome = $call;
        $world.say(stringify!($call), &outcome);
        outcome
    }};
}

/// Takes a step and records it by its own source, whatever comes of it.
#[macro_export]
macro_rules! step {
    ($world:expr, $call:expr) => {
        let _ = $crate::take!($world, $call);
    };
}

impl World {
    /// Makes directory `name` in `dir`.
    pub fn new(dir: &Path, name: &str) -> io::Result<World> {
        let path = dir.join(name);
        std::fs::create_dir(&path)?;
        rustix::fs::chmod(&path, Mode::from(0o755))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(World {
            dir: rustix::fs::open(&path, flags, Mode::empty())?,
            path,
            root: rustix::process::geteuid().is_root(),
            text: String::new(),
        })
    }

    /// Records what came of a step.
    pub fn say(&mut self, what: impl Display, outcome: &(impl Outcome + ?Sized)) {
        // Calls that take several lines in the source.
        let what = what.to_string();
        let what: Vec<_> = what.split_whitespace().collect();
        let _ = writeln!(self.text, "  {}: {}", what.join(" "), outcome.words());
    }

    /// The path of `name`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Lets so much time pass that it shows in a file's.
    pub fn tick(&self) {
        std::thread::sleep(TICK);
    }

    /// Runs `case`; what it says, also if it panics.
    pub fn run(mut self, case: Case) -> String {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| case(&mut self))) {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            self.say("panics", &text.unwrap_or_default());
        }
        self.text
    }
}
