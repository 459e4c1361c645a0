//! What a transport and a state channel see of a file system server.

use std::io::{Read, Write};

use crate::io::RequestIo;

/// How a request is let stand over: answered later than its turn, and out of order.
pub trait Later {
    /// Lets the request that is being served stand over. `None`: as many do as may.
    /// To be called once at most.
    fn defer(&self) -> Option<Box<dyn Answer>>;
}

/// The answer to a request that stands over. Dropped unsent, the request is never
/// answered.
pub trait Answer: Send {
    /// Ends the request with a reply that is nothing but this `fuse_out_header`.
    /// While the device is stopped the answer is kept until it runs again.
    ///
    /// `false`: nobody waits for it any more, the driver has been reset.
    fn send(self: Box<Self>, header: &[u8; 16]) -> bool;
}

/// A request that stands over, as its transport knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StandingRequest {
    /// Index of the virtqueue.
    pub queue: u16,
    /// Head of the descriptor chain, which the driver cannot use for anything else
    /// as long as it has not been answered.
    pub head: u16,
}

/// A server of FUSE requests. One request at a time per calling thread, any
/// number of threads.
pub trait Service: Send + Sync + 'static {
    /// Serves one request and answers the number of bytes written to its
    /// writable half, which is 0 where no reply is due or none fits. Never
    /// panics on anything a guest sends.
    ///
    /// A request that must wait (for a lock) waits in the calling thread.
    fn handle<I: RequestIo>(&self, io: I) -> usize;

    /// As [`Service::handle`], but a request that must wait for another is let stand
    /// over, so that the calling thread can go on with the next. `None` then: its
    /// answer comes through [`Later`], maybe before this returns.
    fn handle_or_defer<I: RequestIo>(&self, io: I, later: &dyn Later) -> Option<usize> {
        let _ = later;
        Some(self.handle(io))
    }

    /// Forgets everything a guest has: inodes, handles, the session. For a
    /// device reset and for a front-end that went away.
    fn reset(&self);

    /// Makes requests that wait in a calling thread give up with `EINTR` until
    /// [`Service::resume`]: the device is being stopped and waits for them.
    fn interrupt(&self);

    /// Ends [`Service::interrupt`].
    fn resume(&self);

    /// The device stops. Requests that stand over go on standing over, but nothing is
    /// done for them until [`Service::proceed`], and no answer is on its way any more
    /// when this returns. Idempotent.
    fn suspend(&self) {}

    /// The device runs, for the first time or again: what stands over is worked on,
    /// and what was let go for the sake of a state's reader is taken back. Called
    /// before the first request is taken. Idempotent.
    fn proceed(&self) {}
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

    /// Whether the state can be saved, as far as precopy knows that it cannot. The device
    /// is stopped; asked before anything is written, so that a front-end that is refused
    /// can let the guest go on here.
    ///
    /// # Errors
    /// What cannot cross and what to do. Not logged yet.
    fn may_save(&self) -> Result<(), CrossingError> {
        Ok(())
    }

    /// Writes the whole state stream, with the requests that stand over. The caller
    /// has stopped the device. The server goes on working as before when the device
    /// is started again ([`Service::proceed`]); until then it holds nothing on the
    /// host that whoever reads the stream must be able to have, such as locks.
    ///
    /// # Errors
    /// Already logged when returned, with what cannot cross and what to do.
    fn save(
        &self,
        standing: &[StandingRequest],
        out: &mut dyn Write,
    ) -> Result<SaveReport, CrossingError>;

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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Inodes taken over.
    pub inodes: u64,
    /// Open handles taken over.
    pub handles: u64,
    /// Inodes and handles that could not be found and answer with an error
    /// (`--migration-on-error guest-error`).
    pub faulted: u64,
    /// Requests that stood over at the source. Whoever has the guest's memory serves
    /// them again when the device runs.
    pub standing: Vec<StandingRequest>,
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
