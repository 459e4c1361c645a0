//! The passthrough file system of fuse-backend-rs behind vhost-user-backend, as it comes:
//! no sandbox, no migration, nothing of ferryfs. It is here to be measured beside
//! ferryfsd (`ferrybench compare --peer fuse-backend-rs`), and shows how little a
//! daemon needs that is made of these two crates.

mod backend;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, ValueEnum};
use fuse_backend_rs::passthrough::{CachePolicy, Config, PassthroughFs};
use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
use vhost_user_backend::VhostUserDaemon;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use crate::backend::FsBackend;

/// Serves a directory through fuse-backend-rs' passthrough file system (a vhost-user-fs
/// back-end). Not confined: for measurements and experiments.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Listen on a new socket at this path
    #[arg(long, value_name = "PATH")]
    socket_path: PathBuf,
    /// Directory to share
    #[arg(long, value_name = "PATH")]
    shared_dir: String,
    /// How long the guest may trust what it was told
    #[arg(long, value_enum, default_value = "auto")]
    cache: Cache,
    /// Serve extended attributes
    #[arg(long)]
    xattr: bool,
    /// Refer to inodes by file handle instead of holding a descriptor for each
    #[arg(long)]
    inode_file_handles: bool,
    /// Request queues to offer, each with a thread of its own
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=31))]
    request_queues: u16,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Cache {
    Never,
    Metadata,
    Auto,
    Always,
}

/// Why the daemon ended with an error.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("failed to open {dir}: {source}")]
    Share { dir: String, source: std::io::Error },
    #[error("failed to start: {0}")]
    Start(vhost_user_backend::Error),
    #[error("failed to serve on {socket}: {why}")]
    Serve {
        socket: String,
        why: vhost_user_backend::Error,
    },
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fuse-backend-fsd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Error> {
    // One descriptor per inode, and the usual limit is 1024. Where it cannot be raised,
    // the guest will be told.
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    let _ = setrlimit(Resource::Nofile, raised);
    // The guest applies its own.
    rustix::process::umask(rustix::fs::Mode::empty());

    let share = |source| Error::Share {
        dir: args.shared_dir.clone(),
        source,
    };
    let fs = PassthroughFs::new(config(args)).map_err(share)?;
    fs.import().map_err(share)?;
    let backend = Arc::new(FsBackend::new(fs, args.request_queues));
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let mut daemon = VhostUserDaemon::new("fuse-backend-fsd".to_owned(), backend, memory)
        .map_err(Error::Start)?;
    daemon.serve(&args.socket_path).map_err(|why| Error::Serve {
        socket: args.socket_path.display().to_string(),
        why,
    })
}

fn config(args: &Args) -> Config {
    Config {
        root_dir: args.shared_dir.clone(),
        cache_policy: match args.cache {
            Cache::Never => CachePolicy::Never,
            Cache::Metadata => CachePolicy::Metadata,
            Cache::Auto => CachePolicy::Auto,
            Cache::Always => CachePolicy::Always,
        },
        xattr: args.xattr,
        inode_file_handles: args.inode_file_handles,
        ..Config::default()
    }
}
