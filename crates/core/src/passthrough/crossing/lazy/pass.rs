//! The background pass: locates everything, a little at a time.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::super::super::fd_table;
use super::{At, Locator, Shared};

/// Inodes between two looks at the clock.
const BATCH: usize = 32;

/// The pass rests this many times as long as it works, so that requests have three
/// quarters of a processor that they share with it, and of the disk.
const REST: u32 = 3;

/// How long it waits for a crossing to be over, or for what failed to pass.
const RETRY: Duration = Duration::from_millis(500);

/// A pass that runs. Stopped, and waited for, when dropped.
pub(super) struct Pass {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    /// Sleeps; true when it is to end.
    fn rest(&self, time: Duration) -> bool {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let (stopped, _) = self
            .changed
            .wait_timeout_while(stopped, time, |stopped| !*stopped)
            .unwrap_or_else(PoisonError::into_inner);
        *stopped
    }
}

impl Pass {
    /// Starts one; none where no thread can be had: requests locate what they need.
    pub(super) fn start(shared: Arc<Shared>, locator: Arc<Locator>) -> Option<Pass> {
        let stop = Arc::new(Stop::default());
        let own = stop.clone();
        let spawned = std::thread::Builder::new()
            .name("locate".into())
            .spawn(move || run(&shared, &locator, &own));
        match spawned {
            Ok(thread) => Some(Pass {
                stop,
                thread: Some(thread),
            }),
            Err(e) => {
                log::warn!(
                    "failed to start a thread that looks for the guest's inodes: {e}; they are \
                     looked for one by one when the guest uses them"
                );
                None
            }
        }
    }

    /// Tells it to end soon.
    pub(super) fn stop(&self) {
        *self
            .stop
            .stopped
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.changed.notify_all();
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(shared: &Shared, locator: &Arc<Locator>, stop: &Stop) {
    let began = Instant::now();
    // Whatever the guest looks up needs it, and it has not asked yet.
    locator.store.prepare();
    if !locator.holding.use_handles {
        fd_table::make_room_for(locator.holding.proc_self_fd.as_fd(), locator.store.len());
    }
    let mut todo: Vec<At> = locator.store.all().collect();
    while !todo.is_empty() {
        let mut again = Vec::new();
        for batch in todo.chunks(BATCH) {
            // What has not been located by now crosses as it was received; looking for it
            // meanwhile would only be noted as a change.
            while locator.names.is_tracking() {
                if stop.rest(RETRY) {
                    return;
                }
            }
            let start = Instant::now();
            for &at in batch {
                let forgotten = locator.store.lookups(at) == 0;
                if !locator.store.is_done(at) && !forgotten && locator.locate_at(at).is_err() {
                    again.push(at);
                }
            }
            locator.add_names();
            if stop.rest(start.elapsed() * REST) {
                return;
            }
        }
        todo = again;
        if !todo.is_empty() && stop.rest(RETRY) {
            return;
        }
    }
    shared.done(locator);
    locator.let_go();
    log::info!(
        "all of {} inodes have been looked for in {:.1} s; {} not found",
        locator.store.len(),
        began.elapsed().as_secs_f64(),
        locator.faulted.load(Ordering::Relaxed)
    );
}
