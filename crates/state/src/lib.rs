//! The ferryfs state model: what a daemon must know to go on where another one
//! stopped, and how that becomes a stream of bytes that any later release reads.

pub mod model;

pub use model::*;

/// Why a stream cannot be read or written (grows with the envelope).
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The channel failed.
    #[error("the state channel failed")]
    Io(#[from] std::io::Error),
}
