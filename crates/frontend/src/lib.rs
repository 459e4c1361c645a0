//! The VMM's side of vhost-user-fs, without a VM.
//!
//! Drives any virtio-fs daemon that speaks vhost-user, and shares no code with one:
//! a misunderstanding common to both sides would go unseen. From the bottom up:
//!
//! - [`wire`]: messages with any code, payload and descriptors.
//! - [`frontend`]: negotiation, memory table, rings, dirty log, configuration.
//! - [`memory`], [`ring`], [`queue`], [`shared`]: guest memory and split virtqueues,
//!   to be used properly or abused.
//! - [`fuse`], [`call`], [`client`]: the FUSE protocol, requests as values, and a
//!   client that sends them, synchronously or several in flight; [`raw`]: bytes of
//!   one's own instead.
//! - [`state`], [`rfc_state`], [`dirty`]: what a migration needs.
//! - [`vmm`]: all of it put together: boot, stop, save, go on elsewhere.
//! - [`spawn`]: daemon processes.
//!
//! ```no_run
//! use ferryfs_frontend::{call, fuse::ROOT_ID, spawn::Daemon, vmm::Vm};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let args = ["--socket-path", "/run/fs.sock", "--shared-dir", "/srv", "--sandbox", "none"];
//! let daemon = Daemon::start("virtiofsd", args, "/run/fs.sock")?;
//! let vm = Vm::boot(daemon.socket())?;
//! let fs = vm.client();
//! let file = fs.lookup(ROOT_ID, "motd")?;
//! let handle = fs.open(file.nodeid, libc::O_RDONLY as u32)?;
//!
//! // Sixteen reads in flight.
//! let mut reads = Vec::new();
//! for i in 0..16 {
//!     reads.push(fs.submit(call::read(file.nodeid, handle.fh, i * 4096, 4096, 0))?);
//! }
//! for read in reads {
//!     println!("{} bytes", read.wait()?.len());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Every failure says what was asked and what came back: a refused message its name, its
//! size and the value that came back, a state that did not load how many bytes of it went
//! through, a chain that came back unanswered the operation and the node.
//!
//! `examples/` has whole programs: `list`, `queue_depth`, `migrate` (with the state in
//! files, framed as QEMU frames it in be32 blocks and as the RFC of 2023 did by a be64
//! length) and `nonsense`.

pub mod call;
pub mod client;
pub mod dirty;
pub mod event;
pub mod frontend;
pub mod fuse;
pub mod memory;
mod ops;
pub mod queue;
pub mod raw;
pub mod rfc_state;
pub mod ring;
pub mod shared;
pub mod spawn;
pub mod state;
pub mod vmm;
pub mod wire;

pub use call::Call;
pub use client::{Caller, ClientError, FsClient, FuseError};
pub use frontend::Frontend;
pub use ops::encode_rdev;
pub use spawn::Daemon;
pub use vmm::{Vm, VmConfig};
