//! What the agent in the guest and the runner on the host must agree on: where
//! things lie in the share, what files contain, how a line between them reads.
//!
//! The contents are functions of a name and a number, so that neither side has
//! to send the other any: each computes what must be there.

pub mod count;
pub mod expectation;
pub mod extents;
pub mod fixture;
pub mod meddling;
pub mod pattern;
pub mod records;
pub mod text;

pub use expectation::Expectation;

/// Mount tag of the share.
pub const TAG: &str = "share";
/// Where the guest mounts it.
pub const MOUNT: &str = "/mnt";
/// First words of the agent when it is ready for commands.
pub const READY: &str = "agent ready";
