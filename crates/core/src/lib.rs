//! The file system half of ferryfs: FUSE dispatch, the passthrough file system,
//! and how their state is collected for a crossing and restored after it.
//!
//! Seams, from the outside in:
//! - [`service::Service`] is what a transport (the vhost-user device, a test)
//!   calls with one request at a time; [`service::Crossing`] is what a state
//!   channel calls. [`server::Server`] is both.
//! - [`io::RequestIo`] is how a request's bytes are reached:
//!   [`transport::ChainIo`] in a virtqueue, [`buffer::BufIo`] in plain memory.
//! - [`fs::FileSystem`] has one method per FUSE operation; a variant implements,
//!   wraps or replaces it, as [`readonly::ReadOnly`] does. [`migrate::MigrateFs`] is
//!   added by a file system whose state can cross.

pub mod abi;
pub mod buffer;
pub mod errno;
pub mod fs;
pub mod io;
pub mod migrate;
mod parallel;
pub mod passthrough;
pub mod readonly;
pub mod server;
pub mod service;
pub mod transport;
pub mod types;
