//! The passthrough's part of a crossing.
//!
//! On the source, precopy checks in the background that each remembered name
//! ([`super::names`]) still leads to its inode; the guest's own changes are in the
//! names already, so what is left for the time when the device is stopped is what
//! third parties have renamed, and what changed since. On the destination, a plan
//! is a second set of tables beside the live ones, and what has a name there must be
//! what had it at the source ([`identity`]).

mod collect;
mod identity;
mod lazy;
mod relocate;
mod restore;
mod verify;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use ferryfs_state::FsState;

use super::config::MigrationMode;
use super::inode::{Inode, Inodes, SHARDS};
use super::Passthrough;
use verify::Verdict;

use crate::errno::Errno;
use crate::migrate::MigrateFs;
use crate::types::NodeId;

pub(super) use lazy::Unlocated;
pub use restore::Plan;

/// The background work of a crossing being prepared; none most of the time.
#[derive(Default)]
pub(super) struct Precopy(Mutex<Option<Run>>);

struct Run {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Verdict>,
}

/// What precopy has found.
struct Found {
    /// What the look at all names told.
    verdict: Verdict,
    /// Inodes that are new or have other names since they were looked at.
    changed: HashSet<NodeId>,
}

fn everything(inodes: &Inodes) -> Vec<Arc<Inode>> {
    (0..SHARDS).flat_map(|shard| inodes.shard(shard)).collect()
}

impl Passthrough {
    fn start_verifying(&self) {
        let mut run = self
            .precopy
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if run.is_some() || self.config.migration_mode != MigrationMode::FindPaths {
            return;
        }
        // First the tracking: what changes from here on is looked at again.
        self.names.track(true);
        let stop = Arc::new(AtomicBool::new(false));
        let (inodes, names, stopped) = (self.inodes.clone(), self.names.clone(), stop.clone());
        let spawned = std::thread::Builder::new()
            .name("precopy".into())
            .spawn(move || {
                let nodes = everything(&inodes);
                let verdict = verify::verify(&inodes, &names, &nodes, &stopped);
                log::debug!(
                    "precopy: looked at {} inodes; {} are not where they were",
                    nodes.len(),
                    verdict.suspects.len()
                );
                verdict
            });
        match spawned {
            Ok(thread) => *run = Some(Run { stop, thread }),
            Err(e) => {
                // Everything is looked at when the state is saved, then.
                log::warn!("failed to start a precopy thread: {e}; downtime will be longer");
                self.names.track(false);
            }
        }
    }

    /// Takes the locks back that a destination was to have. The guest goes on here, so
    /// what somebody else has got meanwhile costs it the handle: it must not go on as
    /// if nobody else had been there.
    pub(super) fn take_locks_back(&self) {
        for refused in self.locks.take_back() {
            let node = refused.node;
            log::error!(
                "inode {node} ({}): lost its lock while the state was with the destination: {}; the \
                 guest gets EIO from the handle that it was set through",
                self.last_name(node),
                refused.text
            );
            if let Some(handle) = refused.handle {
                self.handles.spoil(handle, Errno::EIO);
            }
        }
    }

    /// Ends the background work and answers what it found: `None` where there
    /// was none, or it did not get through to its end.
    fn stop_verifying(&self, finish: bool) -> Option<Found> {
        let run = self
            .precopy
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()?;
        if !finish {
            run.stop.store(true, Ordering::Relaxed);
        }
        let verdict = run.thread.join();
        let changed = self.names.take_changed();
        self.names.track(false);
        verdict.ok().map(|verdict| Found { verdict, changed })
    }
}

impl MigrateFs for Passthrough {
    type Plan = Plan;

    fn begin_precopy(&self) {
        self.start_verifying();
    }

    fn cancel_precopy(&self) {
        self.stop_verifying(false);
    }

    fn collect(&self) -> Result<FsState, String> {
        self.collect_state()
    }

    fn let_go(&self) {
        self.locks.let_go();
    }

    fn take_back(&self) {
        self.take_locks_back();
    }

    fn plan_restore(&self, state: FsState, session_flags: u64) -> Result<Plan, String> {
        // An earlier guest's own must not be in the way.
        self.locks.let_go();
        restore::plan(self, state, session_flags).inspect_err(|_| self.take_locks_back())
    }

    fn apply(&self, plan: Plan) -> u64 {
        restore::apply(self, plan)
    }
}
