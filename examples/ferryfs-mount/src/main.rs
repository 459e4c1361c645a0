//! `ferryfs-mount`: the file system of ferryfs without a virtual machine. The same
//! dispatcher and passthrough as in `ferryfsd`, behind `/dev/fuse` instead of a
//! virtqueue, and mounted as Linux mounts a virtio-fs: with `default_permissions`
//! and `allow_other`.
//!
//! It is what the POSIX suites run on (`cargo xtask posix`), and an example of a
//! variant with a transport of its own: options and their meaning come from
//! `ferryfs_daemon`, requests go to `ferryfs_core`.

mod device;
mod mount;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use ferryfs_core::errno::Errno;
use ferryfs_core::passthrough::{Passthrough, SetupError};
use ferryfs_core::readonly::ReadOnly;
use ferryfs_core::server::{Server, ServerConfig};
use ferryfs_core::service::Service;
use ferryfs_daemon::args::ShareArgs;
use ferryfs_daemon::{logging, signals, ConfigError};
use ferryfs_sandbox::{raise_open_file_limit, LimitError};
use ferryfs_state::error_line;
use rustix::fs::{Mode, OFlags};

use mount::{Mount, MountError};

#[derive(Debug, Parser)]
#[command(
    version,
    about = "Mounts a host directory on the host, through the file system of ferryfs",
    after_help = "Stays in the foreground. SIGTERM, SIGINT and SIGHUP unmount it, and so does umount.",
    arg_required_else_help = true,
    max_term_width = 100
)]
struct Args {
    /// Directory (or regular file) to serve
    #[arg(value_name = "SHARED")]
    shared_dir: PathBuf,

    /// Where to mount it: a directory (or regular file) that does not lie in it
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: PathBuf,

    /// Threads that serve requests
    #[arg(long, value_name = "N", default_value_t = 4,
          value_parser = clap::value_parser!(u16).range(2..=64))]
    threads: u16,

    /// What is logged to standard error: off, error, warn, info, debug or trace
    #[arg(long, default_value = "info", value_name = "LEVEL")]
    log_level: log::LevelFilter,

    #[command(flatten)]
    share: ShareArgs,
}

/// Why nothing could be mounted, or served to its end.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("bad arguments")]
    Config(#[source] ConfigError),
    #[error("cannot open the shared directory {path}", path = .path.display())]
    Share {
        path: PathBuf,
        #[source]
        source: Errno,
    },
    #[error("failed to set limits")]
    Limit(#[source] LimitError),
    #[error("failed to set up the file system")]
    FileSystem(#[source] SetupError),
    #[error("failed to mount")]
    Mount(#[source] MountError),
    #[error("failed to start a thread")]
    Start(#[source] io::Error),
    #[error("failed to serve")]
    Serve(#[source] io::Error),
}

fn main() -> ExitCode {
    let args = Args::parse();
    logging::start(args.log_level);
    match run(&args) {
        Ok(()) => {
            log::info!("unmounted");
            ExitCode::SUCCESS
        }
        Err(e) => {
            log::error!("{}", error_line(&e));
            match e {
                Failure::Config(_) => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn run(args: &Args) -> Result<(), Failure> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root: OwnedFd =
        rustix::fs::open(&args.shared_dir, flags, Mode::empty()).map_err(|e| Failure::Share {
            path: args.shared_dir.clone(),
            source: e.into(),
        })?;
    let mut config = args.share.file_system(root).map_err(Failure::Config)?;
    // Only a virtio-fs can have submounts, and a kernel that is asked for what it
    // has not would be complained of.
    config.announce_submounts = false;
    raise_open_file_limit(None).map_err(Failure::Limit)?;
    // The callers' masks are what counts.
    rustix::process::umask(Mode::empty());
    let readonly = args.share.readonly;
    let fs = Passthrough::new(config).map_err(Failure::FileSystem)?;
    let mount = Mount::new(&args.shared_dir, &args.mountpoint).map_err(Failure::Mount)?;
    if readonly {
        serve(
            Server::new(ReadOnly::new(fs), ServerConfig::default()),
            args,
            mount,
        )
    } else {
        serve(Server::new(fs, ServerConfig::default()), args, mount)
    }
}

fn serve<S: Service>(service: S, args: &Args, mount: Mount) -> Result<(), Failure> {
    device::flush_without_waiting_for_ourselves();
    let mount = Arc::new(mount);
    let on_signal = mount.clone();
    let mut asked = false;
    signals::watch(move |number, _| {
        if std::mem::replace(&mut asked, true) {
            log::warn!("signal {number} again: ending at once");
            std::process::exit(1);
        }
        log::info!("signal {number}: unmounting");
        if let Err(e) = on_signal.unmount() {
            log::error!("{}", error_line(&e));
        }
    })
    .map_err(Failure::Start)?;
    log::info!(
        "{} is mounted on {}",
        args.shared_dir.display(),
        args.mountpoint.display()
    );
    // The kernel's first request waits since the mount.
    std::thread::scope(|threads| {
        let serving: Result<Vec<_>, _> = (0..args.threads)
            .map(|n| {
                std::thread::Builder::new()
                    .name(format!("fuse-{n}"))
                    .spawn_scoped(threads, || device::serve(mount.device(), &service))
            })
            .collect();
        if serving.is_err() {
            // What has started ends with the device.
            let _ = mount.unmount();
        }
        let ended: Vec<_> = serving
            .map_err(Failure::Start)?
            .into_iter()
            .map(|thread| thread.join())
            .collect();
        for end in ended {
            match end {
                Ok(served) => served.map_err(Failure::Serve)?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(())
    })
}
