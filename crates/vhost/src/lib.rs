//! The vhost-user-fs device of ferryfs: virtqueues, dirty log, state channels,
//! and how a front-end is served.
//!
//! The device knows a file system server only by the two traits of
//! [`ferryfs_core::service`]: requests go to `Service::handle`, the device's state
//! crosses by `Crossing`. Parts, from the socket inwards:
//!
//! - [`ListenSocket`] owns the path of the listening socket; [`run`] accepts
//!   front-ends on it and [`serve_connection`] serves one.
//! - [`relay`] stands between the front-end's socket and the message handler of
//!   `vhost-user-backend`: it sees whole messages with their descriptors, notices
//!   the front-end's end at once, ends a connection from our side, and is where
//!   private messages are answered.
//! - [`Device`] is the back-end that the message handler calls. It outlives
//!   connections.
//! - [`serve_control`] lets an operator have and give the guest's state, beside the
//!   front-end.
//! - [`Vring`] is one queue: its thread's request loop, and its drain, after which
//!   nothing of this queue is written to guest memory any more.
//! - [`LogBitmap`] is the dirty bitmap of a guest memory region.
//!
//! Nothing that a guest or a front-end sends ends the process: a malformed
//! chain is completed with length 0, a ring with an impossible index stays stopped
//! until the driver sets it up again, and a message that cannot be obeyed ends the
//! connection at worst.

mod chain;
mod coalesce;
mod control;
mod crossing;
mod device;
mod dirty_log;
mod pace;
mod precopy;
mod private_socket;
mod queue;
pub mod relay;
mod rest;
mod rfc_state;
mod rings;
mod serve;
mod socket;
mod standing;
mod stop;
mod transfer;
mod vet;
mod vring;

pub use control::serve_control;
pub use crossing::MigrationType;
pub use device::{ConfigError, Device, DeviceConfig, OnDisconnect};
pub use dirty_log::{DirtyLog, LogBitmap, RegionLog};
pub use serve::{run, serve_connection, serve_with_door, ConnectionEnd, ExitReason, ServeError};
pub use socket::{ListenSocket, SocketError};
pub use stop::StopHandle;
pub use vring::{GuestMem, Mem, Vring};
