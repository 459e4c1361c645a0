//! The part of a crossing that a file system does itself: collect and restore.

use std::sync::Arc;

use ferryfs_state::packed::PackedFs;
use ferryfs_state::pieces::Piece;
use ferryfs_state::{Format, FsState};

use crate::fs::FileSystem;

/// What a file system has collected.
#[derive(Debug)]
pub enum Collected {
    /// Its state.
    Whole(FsState),
    /// Its state with the inodes and identities encoded already, as
    /// [`write_pieces`](ferryfs_state::pieces::write_pieces) takes it.
    Pieces {
        /// All but those.
        rest: FsState,
        /// They, by ascending id.
        pieces: Vec<Piece>,
    },
}

/// A file system whose state can cross. Called by the dispatcher, which owns the
/// session and the stream.
pub trait MigrateFs: FileSystem {
    /// A restored state that has been checked and found, opened where it must
    /// be, but not taken over: dropping it undoes everything.
    type Plan: Send;

    /// Starts to collect in the background; returns at once. Idempotent.
    fn begin_precopy(&self);

    /// [`begin_precopy`](MigrateFs::begin_precopy) for a state that will be asked for by
    /// [`collect_in`](MigrateFs::collect_in): what is not likely to change can be encoded in
    /// `format` while the guest goes on.
    fn begin_precopy_in(&self, format: &Arc<dyn Format>) {
        let _ = format;
        self.begin_precopy();
    }

    /// Stops collecting and waits until it has stopped. Idempotent.
    fn cancel_precopy(&self);

    /// Whether the state can be saved, as far as that is known already: the device is
    /// stopped, and nothing of the state has gone anywhere. Costs little;
    /// [`collect`](MigrateFs::collect) may fail all the same.
    ///
    /// # Errors
    /// As `collect`; nothing has been logged.
    fn may_save(&self) -> Result<(), String> {
        Ok(())
    }

    /// The file system's state now. The device is stopped; what precopy found is
    /// used, and only what changed since is done again.
    ///
    /// # Errors
    /// Something cannot cross. The text names it and says what to do; one log
    /// line per object has been written.
    fn collect(&self) -> Result<FsState, String>;

    /// [`collect`](MigrateFs::collect), with as much of it encoded in `format` as the file
    /// system likes: it need not have a record of each inode at any time. A file system
    /// that has a `collect` of its own and wraps one that encodes has to have its own of
    /// this, too, or none.
    ///
    /// # Errors
    /// As `collect`; something cannot be said in `format`.
    fn collect_in(&self, format: &Arc<dyn Format>) -> Result<Collected, String> {
        let _ = format;
        self.collect().map(Collected::Whole)
    }

    /// Finds and opens everything in `state` (already validated) without touching
    /// what is live. `session_flags` are those that
    /// [`FileSystem::check_session`] has agreed to and that
    /// [`FileSystem::adopt_session`] will get right before `apply`.
    ///
    /// # Errors
    /// Something cannot be found and the policy is to abort. As `collect`.
    fn plan_restore(&self, state: FsState, session_flags: u64) -> Result<Self::Plan, String>;

    /// [`plan_restore`](MigrateFs::plan_restore) for a state whose inodes are packed, as
    /// they come out of a stream. For who makes no record of each of a million; what wraps
    /// another file system passes this on to it.
    ///
    /// # Errors
    /// As `plan_restore`.
    fn plan_packed(&self, state: PackedFs, session_flags: u64) -> Result<Self::Plan, String> {
        self.plan_restore(state.into(), session_flags)
    }

    /// Lets go of what this file system holds on the host and the reader of its state
    /// must be able to have: locks. The device is stopped; what is let go stays known,
    /// and is taken back by [`take_back`](MigrateFs::take_back) or
    /// [`FileSystem::proceed`]. Idempotent.
    fn let_go(&self) {}

    /// Takes back what [`let_go`](MigrateFs::let_go) gave up: the state went nowhere.
    /// What cannot be had any more is logged. Idempotent.
    fn take_back(&self) {}

    /// Takes a plan over in place of everything live. Cannot fail. Answers how
    /// many objects answer with an error from now on.
    fn apply(&self, plan: Self::Plan) -> u64;
}
