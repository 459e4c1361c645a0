//! What a transport and a state channel see of a file system server.

use std::io::{Read, Write};

use crate::io::RequestIo;

/// A server of FUSE requests. One request at a time per calling thread, any
/// number of threads.
pub trait Service: Send + Sync + 'static {
    /// Serves one request and answers the number of bytes written to its
    /// writable half, which is 0 where no reply is due or none fits. Never
    /// panics on anything a guest sends.
    fn handle<I: RequestIo>(&self, io: I) -> usize;

    /// Forgets everything a guest has: inodes, handles, the session. For a
    /// device reset and for a front-end that went away.
    fn reset(&self);

    /// Makes requests that wait (for a lock) give up with `EINTR` until
    /// [`Service::resume`]: the device is being stopped and waits for them.
    fn interrupt(&self);

    /// Ends [`Service::interrupt`].
    fn resume(&self);
}

/// The state channel's view: a server whose state can cross.
///
/// Order on the source: [`begin_precopy`](Crossing::begin_precopy) when dirty
/// logging starts, then either [`cancel_precopy`](Crossing::cancel_precopy) or,
/// once the device is stopped, [`save`](Crossing::save), which also works with no
/// precopy before it (a snapshot) and any number of times. On the destination:
/// [`load`](Crossing::load).
pub trait Crossing: Send + Sync + 'static {
    /// Starts to collect in the background and returns at once. Idempotent.
    fn begin_precopy(&self);

    /// Stops collecting; returns once it has stopped. No trace is left.
    /// Idempotent.
    fn cancel_precopy(&self);

    /// Writes the whole state stream. The caller has stopped the device. The
    /// server goes on working as before when the device is started again.
    ///
    /// # Errors
    /// Already logged when returned, with what cannot cross and what to do.
    fn save(&self, out: &mut dyn Write) -> Result<SaveReport, CrossingError>;

    /// Reads a whole state stream to its end and takes it over: all of it or
    /// nothing. After an error the server is as it was and can take another. A stream
    /// of 0 bytes says that the state is here by other means, and is refused where
    /// there is none.
    ///
    /// # Errors
    /// Already logged when returned.
    fn load(&self, input: &mut dyn Read) -> Result<LoadReport, CrossingError>;
}

/// What was saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SaveReport {
    /// Inodes in the stream.
    pub inodes: u64,
    /// Open handles in the stream.
    pub handles: u64,
    /// Length of the stream in bytes.
    pub bytes: u64,
}

/// What was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Inodes taken over.
    pub inodes: u64,
    /// Open handles taken over.
    pub handles: u64,
    /// Inodes and handles that could not be found and answer with an error
    /// (`--migration-on-error guest-error`).
    pub faulted: u64,
}

/// Why a state did not cross. The text is for an operator: it names the section,
/// inode or path, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum CrossingError {
    /// The source has something that cannot cross.
    #[error("failed to collect state: {0}")]
    Collect(String),
    /// The stream could not be written.
    #[error("failed to write the state stream")]
    Write(#[source] ferryfs_state::StateError),
    /// The stream was refused.
    #[error("refused the state stream")]
    Read(#[source] ferryfs_state::StateError),
    /// The stream is sound but does not fit this daemon or its share.
    #[error("failed to restore state: {0}")]
    Restore(String),
}
