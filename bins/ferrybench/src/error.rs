//! What can go wrong, said so that one knows which daemon and which step.

use std::io;
use std::path::{Path, PathBuf};

use ferryfs_frontend::client::ClientError;
use ferryfs_frontend::frontend::FrontendError;
use ferryfs_frontend::memory::MemoryError;
use ferryfs_frontend::queue::QueueError;
use ferryfs_frontend::spawn::SpawnError;
use ferryfs_frontend::state::StateError;
use ferryfs_frontend::vmm::VmError;
use ferryfs_frontend::FuseError;

/// How a measurement can fail.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The host's file system.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A daemon did not start.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// The machine could not be set up or moved.
    #[error("{}", chain(.0))]
    Vm(#[from] VmError),
    /// A vhost-user message.
    #[error("{}", chain(.0))]
    Frontend(#[from] FrontendError),
    /// A device state.
    #[error("{}", chain(.0))]
    State(#[from] StateError),
    /// A request.
    #[error("{}", chain(.0))]
    Client(#[from] ClientError),
    /// The daemon answered with an errno.
    #[error(transparent)]
    Fuse(#[from] FuseError),
    /// A ring.
    #[error("{}", chain(.0))]
    Queue(#[from] QueueError),
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The daemon did something else than it was asked to.
    #[error("wrong result: {0}")]
    Wrong(String),
}

impl BenchError {
    /// For `map_err` on an operation on `path`.
    pub fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BenchError + use<> {
        let path = path.to_owned();
        move |source| BenchError::Io { what, path, source }
    }
}

/// The error and its sources in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !line.ends_with(&cause_text) {
            line.push_str(": ");
            line.push_str(&cause_text);
        }
        source = cause.source();
    }
    line
}

/// [`BenchError::Wrong`] unless the two agree.
pub fn expect_eq<T: PartialEq + std::fmt::Debug>(
    what: impl FnOnce() -> String,
    found: T,
    expected: T,
) -> Result<(), BenchError> {
    if found == expected {
        return Ok(());
    }
    Err(BenchError::Wrong(format!(
        "{}: {found:?} instead of {expected:?}",
        what()
    )))
}
