//! The passthrough's part of a crossing.
//!
//! On the source, precopy checks in the background that each remembered name
//! ([`super::names`]) still leads to its inode; the guest's own changes are in the
//! names already, so what is left for the time when the device is stopped is what
//! third parties have renamed, and what changed since; and most of the state has been
//! encoded by then ([`ahead`]). What has no name any more goes
//! along with its contents ([`ghost`]). On the destination, a plan
//! is a second set of tables beside the live ones, and what has a name there must be
//! what had it at the source ([`identity`]).

mod ahead;
mod collect;
mod describe;
mod ghost;
mod identity;
mod ids;
mod lazy;
mod mounts;
mod precopy;
mod relocate;
mod restore;
mod verify;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use ferryfs_state::packed::PackedFs;
use ferryfs_state::{Format, FsState};

use super::config::MigrationOnError;
use super::inode::{InodeArc, Inodes, SHARDS};
use super::Passthrough;
use crate::errno::Errno;
use crate::migrate::{Collected, MigrateFs};

pub(super) use ghost::Ghosts;
pub use ghost::DEFAULT_LIMIT;
pub(super) use lazy::Unlocated;
pub(super) use precopy::Precopy;
pub use restore::Plan;

fn everything(inodes: &Inodes) -> Vec<InodeArc> {
    (0..SHARDS).flat_map(|shard| inodes.shard(shard)).collect()
}

impl Passthrough {
    /// Whether what cannot cross makes the crossing fail.
    fn refuses(&self) -> bool {
        self.config.migration_on_error == MigrationOnError::Abort
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
}

impl MigrateFs for Passthrough {
    type Plan = Plan;

    fn begin_precopy(&self) {
        self.start_precopy(None);
    }

    fn begin_precopy_in(&self, format: &Arc<dyn Format>) {
        self.start_precopy(Some(format));
    }

    fn cancel_precopy(&self) {
        self.stop_precopy(false);
    }

    fn may_save(&self) -> Result<(), String> {
        match self.known_to_be_too_much() {
            Some(too_much) => Err(too_much.text()),
            None => Ok(()),
        }
    }

    fn collect(&self) -> Result<FsState, String> {
        let collected = self.collect_state();
        self.ghosts.watch.end();
        collected
    }

    fn collect_in(&self, format: &Arc<dyn Format>) -> Result<Collected, String> {
        let collected = self.collect_pieces(format);
        self.ghosts.watch.end();
        self.inodes.marks().end();
        collected
    }

    fn let_go(&self) {
        self.locks.let_go();
    }

    fn take_back(&self) {
        self.take_locks_back();
    }

    fn plan_restore(&self, state: FsState, session_flags: u64) -> Result<Plan, String> {
        self.plan_packed(state.into(), session_flags)
    }

    fn plan_packed(&self, state: PackedFs, session_flags: u64) -> Result<Plan, String> {
        // An earlier guest's own must not be in the way.
        self.locks.let_go();
        restore::plan(self, state, session_flags).inspect_err(|_| self.take_locks_back())
    }

    fn apply(&self, plan: Plan) -> u64 {
        restore::apply(self, plan)
    }
}
