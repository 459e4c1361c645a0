//! Puts a daemon together: command line, formats, file system, device.
//!
//! `ferryfsd` is [`main`] with the stock formats and the passthrough file system.
//! A variant depends on this crate, and changes what it needs to with a
//! [`Daemon`]:
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! fn main() -> ExitCode {
//!     let registry = ferryfs_daemon::stock_formats();
//!     ferryfs_daemon::Daemon::new("myfsd", env!("CARGO_PKG_VERSION"))
//!         .formats(registry)
//!         .main()
//! }
//! ```
//!
//! For another file system, [`Daemon::file_system`] wraps or replaces the
//! passthrough.

mod activation;
pub mod args;
mod capabilities;
mod config;
mod groups;
mod legacy;
pub mod logging;
mod pid_file;
mod serve;
mod settings;
pub mod signals;

use std::process::ExitCode;

use ferryfs_core::passthrough::{Passthrough, SetupError};
use ferryfs_format_msgpack::MsgPack;
use ferryfs_format_postcard::Postcard;
use ferryfs_format_virtiofsd::{VirtiofsdV1, VirtiofsdV2};
use ferryfs_format_zstd::Zstd;
use ferryfs_state::Registry;

pub use activation::ActivationError;
pub use config::{Config, ConfigError};
pub use legacy::LegacyError;
pub use pid_file::PidFileError;
pub use serve::{DaemonError, Ending};
pub use settings::command;

/// The formats and dialects of a stock daemon.
pub fn stock_formats() -> Registry {
    Registry::new()
        .with(Postcard)
        .with(MsgPack)
        .with(Zstd::new(Postcard))
        .with(Zstd::new(MsgPack))
        .with_dialect(VirtiofsdV1)
        .with_dialect(VirtiofsdV2)
}

/// The passthrough of a stock daemon, as it is.
type Stock = fn(Passthrough) -> Result<Passthrough, SetupError>;

/// A daemon in the making: a name, formats, and what is made of the passthrough.
pub struct Daemon<M = Stock> {
    name: &'static str,
    version: &'static str,
    formats: Registry,
    make: M,
}

impl Daemon<Stock> {
    /// A daemon that calls itself `name` in logs and in the state that it writes.
    pub fn new(name: &'static str, version: &'static str) -> Daemon<Stock> {
        Daemon {
            name,
            version,
            formats: stock_formats(),
            make: Ok,
        }
    }
}

impl<M> Daemon<M> {
    /// Reads and writes these formats in place of the stock ones.
    pub fn formats(mut self, formats: Registry) -> Daemon<M> {
        self.formats = formats;
        self
    }

    /// Serves what `make` makes of the passthrough that the command line describes.
    pub fn file_system<F, N>(self, make: N) -> Daemon<N>
    where
        N: FnOnce(Passthrough) -> Result<F, SetupError>,
    {
        Daemon {
            name: self.name,
            version: self.version,
            formats: self.formats,
            make,
        }
    }
}

impl<F, M> Daemon<M>
where
    F: ferryfs_core::migrate::MigrateFs,
    M: FnOnce(Passthrough) -> Result<F, SetupError>,
{
    /// Parses the process' arguments and serves until the end. Exit codes: 0 for an
    /// orderly end (the front-end hung up, a signal), 1 for an error, which is
    /// logged (a front-end that cannot be understood is one), 2 for arguments that
    /// make no sense.
    pub fn main(self) -> ExitCode {
        serve::main(self.name, self.version, self.formats, self.make)
    }
}

/// A stock daemon called `name`.
pub fn main(name: &'static str, version: &'static str) -> ExitCode {
    Daemon::new(name, version).main()
}
