//! From the command line to the end of the last connection.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use ferryfs_core::migrate::MigrateFs;
use ferryfs_core::passthrough::config::boot_id;
use ferryfs_core::passthrough::{Passthrough, SetupError};
use ferryfs_core::readonly::ReadOnly;
use ferryfs_core::server::{CrossingConfig, Server, ServerConfig};
use ferryfs_core::service::CrossingError;
use ferryfs_core::service::StandingRequest;
use ferryfs_sandbox::seccomp::{self, SeccompError};
use ferryfs_sandbox::{raise_open_file_limit, ChildEnd, LimitError, Role, SandboxError, WaitError};
use ferryfs_state::{error_line, Limits, Registry, StateError, WriterInfo};
use ferryfs_vhost::{
    ConfigError as DeviceConfigError, Device, DeviceConfig, ExitReason, ListenSocket,
    MigrationType, OnDisconnect, ServeError, SocketError, StopHandle,
};
use rustix::fs::Mode;

use crate::activation::{self, ActivationError};
use crate::args::{self, Args};
use crate::config::{level, Config, ConfigError, Socket};
use crate::groups::{self, GroupError};
use crate::pid_file::{PidFile, PidFileError};
use crate::settings::{self, GatherError, Sources};
use crate::{capabilities, logging, signals};

/// How a daemon ended, having served what it was to serve.
pub type Ending = ExitReason;

/// Why a daemon could not serve.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The command line makes no sense.
    #[error("bad arguments")]
    Config(#[source] ConfigError),
    /// The service manager hands over something else than a socket.
    #[error("socket activation")]
    Activation(#[source] ActivationError),
    /// There is no pid file.
    #[error("failed to start")]
    PidFile(#[source] PidFileError),
    /// The socket cannot be had.
    #[error("failed to listen")]
    Socket(#[source] SocketError),
    /// There is no such group.
    #[error("--socket-group")]
    Group(#[source] GroupError),
    /// The inherited descriptor does not listen.
    #[error("--fd {fd} is not a listening Unix socket")]
    Inherited {
        /// As given.
        fd: i32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The limit of descriptors.
    #[error("failed to set limits")]
    Limit(#[source] LimitError),
    /// The file system cannot be made.
    #[error("failed to set up the file system")]
    FileSystem(#[source] SetupError),
    /// The state format.
    #[error("failed to set up the state format")]
    Format(#[source] StateError),
    /// The file of `--state-file` cannot be opened.
    #[error("--state-file: failed to open {}", path.display())]
    OpenState {
        /// As given.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The state in the file of `--state-file` cannot be taken over.
    #[error("--state-file {}: no guest could go on with it here", path.display())]
    LoadState {
        /// As given.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Box<CrossingError>,
    },
    /// The device cannot be made.
    #[error("failed to set up the device")]
    Device(#[source] DeviceConfigError),
    /// The process cannot be confined.
    #[error("failed to confine the daemon")]
    Sandbox(#[source] SandboxError),
    /// The process' system calls cannot be restricted.
    #[error("failed to confine the daemon")]
    Seccomp(#[source] SeccompError),
    /// The process inside of the namespaces cannot be waited for.
    #[error("failed to watch over the serving process")]
    Wait(#[source] WaitError),
    /// Threads or descriptors are short.
    #[error("failed to start")]
    Start(#[source] io::Error),
    /// A front-end cannot be served.
    #[error("failed to serve")]
    Serve(#[source] ServeError),
}

/// What is read of a state file at once, in bytes.
const STATE_BUFFER: usize = 1 << 20;

/// See [`crate::Daemon::main`].
pub(crate) fn main<F: MigrateFs>(
    name: &'static str,
    version: &'static str,
    formats: Registry,
    make: impl FnOnce(Passthrough) -> Result<F, SetupError>,
) -> ExitCode {
    let sources = Sources::of_process(name);
    let (bare, variables) = (sources.words.is_empty(), sources.variables.clone());
    let mut gathered = match settings::gather(name, version, sources) {
        Ok(gathered) => gathered,
        Err(GatherError::CommandLine(e)) => {
            // Help and version are "errors" that go to standard output.
            let code = if e.use_stderr() { 2 } else { 0 };
            let _ = e.print();
            return ExitCode::from(code);
        }
        Err(GatherError::Settings(e)) => {
            eprintln!("error: {}", error_line(&e));
            return ExitCode::from(2);
        }
    };
    if gathered.args.print_capabilities {
        println!("{}", capabilities::json());
        return ExitCode::SUCCESS;
    }
    if bare && gathered.args.shared_dir.is_none() {
        eprint!("{}", settings::command(name, version).render_help());
        return ExitCode::from(2);
    }
    logging::start(level(gathered.args.safety.log_level));
    if gathered.args.safety.syslog {
        logging::to_system_log(name);
    }
    if let Some(line) = gathered.origins.summary() {
        log::info!("{line}");
    }
    let writer = WriterInfo::new(name, version);
    let privileged = rustix::process::geteuid().is_root();
    let ended = take_socket(&mut gathered.args, &variables)
        .and_then(|()| {
            Config::new(gathered.args, &formats, privileged).map_err(DaemonError::Config)
        })
        .and_then(|config| run(config, formats, writer, make));
    match ended {
        // What there is to say has been said inside.
        Ok(Ended::Inside(ChildEnd::Exited(code))) => ExitCode::from(code),
        Ok(Ended::Inside(ChildEnd::Killed(signal))) => {
            let why = match signal {
                libc::SIGSYS => ": it made a system call that --seccomp forbids",
                _ => "",
            };
            log::error!("the serving process was killed by signal {signal}{why}");
            ExitCode::from(128 + (signal & 0x7f) as u8)
        }
        Ok(Ended::Served(ending)) => {
            log::info!("ended: {}", ending_text(ending));
            match ending {
                ExitReason::Disconnected | ExitReason::Stopped => ExitCode::SUCCESS,
                ExitReason::Refused => ExitCode::FAILURE,
            }
        }
        Err(e) => {
            log::error!("{}", gathered.origins.explain(&error_line(&e)));
            match e {
                DaemonError::Config(_) | DaemonError::Activation(_) => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// Takes what a service manager hands over, where nothing else is said.
fn take_socket(args: &mut Args, variables: &[(OsString, OsString)]) -> Result<(), DaemonError> {
    let socket = activation::socket(variables, std::process::id());
    let Some(fd) = socket.map_err(DaemonError::Activation)? else {
        return Ok(());
    };
    let connection = &mut args.connection;
    if connection.fd.is_some() || connection.socket_path.is_some() {
        log::warn!("LISTEN_FDS is ignored: --fd or --socket-path says where to listen");
        return Ok(());
    }
    if connection.socket_group.is_some() {
        log::warn!(
            "--socket-group has no effect on the service manager's socket; see SocketGroup="
        );
    }
    connection.fd = Some(fd);
    Ok(())
}

/// How [`run`] ended, in the process that served or in the one that waited for it.
enum Ended {
    Served(Ending),
    Inside(ChildEnd),
}

fn ending_text(ending: Ending) -> &'static str {
    match ending {
        ExitReason::Disconnected => "the front-end hung up",
        ExitReason::Refused => "the front-end was hung up on",
        ExitReason::Stopped => "asked to by a signal",
    }
}

/// Lets the C library free what an inode takes without a lock.
///
/// One thread makes inodes as the guest looks names up, another drops them as it forgets
/// them. Both would wait for the lock of the heap that they came from, and listing
/// directories would cost a third more processor time. Up to this size glibc puts what is
/// freed into a list by one atomic exchange.
fn free_without_locks() {
    #[cfg(target_env = "gnu")]
    {
        /// The most that glibc takes, in bytes: 160 with words of 8.
        const MOST: usize = 80 * size_of::<usize>() / 4;
        // SAFETY: the call takes no pointer, and no other thread runs yet.
        if unsafe { libc::mallopt(libc::M_MXFAST, MOST as libc::c_int) } == 0 {
            log::debug!("the C library does not take {MOST} for M_MXFAST");
        }
    }
}

/// Serves as `config` says until the end.
///
/// The order matters: what needs the host's name space first, then the
/// confinement, and threads only behind it, since capabilities are a thread's own.
/// The file system comes behind it too: descriptors of the share, and the mounts
/// they are on, are those that the confined process sees.
fn run<F: MigrateFs>(
    config: Config,
    formats: Registry,
    writer: WriterInfo,
    make: impl FnOnce(Passthrough) -> Result<F, SetupError>,
) -> Result<Ended, DaemonError> {
    logging::start(config.log_level());
    free_without_locks();
    let limit =
        raise_open_file_limit(config.args.safety.rlimit_nofile).map_err(DaemonError::Limit)?;
    // First, so that of two daemons that start at once one has the socket.
    let mut pid_file = match &config.socket {
        Socket::Path(path) => Some(PidFile::create(path).map_err(DaemonError::PidFile)?),
        Socket::Fd(_) => None,
    };
    // Before the front-end's, which is what whoever started the daemon waits for.
    let control = config.args.migration.control_socket.as_deref();
    let mut control = control.map(bind_private).transpose()?;
    let mut socket = listen(
        &config.socket,
        config.args.connection.socket_group.as_deref(),
    )?;
    let state_file = config.args.migration.state_file.as_deref();
    let state_file = state_file.map(open_state).transpose()?;
    // From here on the guest's modes are what counts; it applies its own umask.
    rustix::process::umask(Mode::empty());

    let crossing = CrossingConfig::new(
        formats,
        &config.state_format,
        writer,
        Limits {
            ghost_bytes: config.args.migration.ghost_limit,
            ..Limits::default()
        },
    )
    .map_err(DaemonError::Format)?
    .with_options(config.state_options.forced_by_environment())
    .with_remaps(config.args.migration.remap_path.clone());
    let boot_id = boot_id();
    let confined = match ferryfs_sandbox::enter(&config.sandbox, &config.shared_dir)
        .map_err(DaemonError::Sandbox)?
    {
        Role::Serve(confined) => confined,
        Role::Wait(serving) => {
            let ended = serving.wait(config.seccomp).map_err(DaemonError::Wait)?;
            // Removed from here: inside, its directory cannot be reached.
            drop(socket);
            drop(control);
            drop(pid_file);
            return Ok(Ended::Inside(ended));
        }
    };
    if config.sandbox.mode == ferryfs_sandbox::Mode::Namespace {
        socket.leave_name();
        if let Some(control) = &mut control {
            control.leave_name();
        }
        if let Some(pid_file) = &mut pid_file {
            pid_file.leave_name();
        }
    }
    let mut settings = config.passthrough(confined);
    settings.boot_id = boot_id;
    let passthrough = Passthrough::new(settings).map_err(DaemonError::FileSystem)?;
    let fs = make(passthrough).map_err(DaemonError::FileSystem)?;
    if let Some(n) = config.args.connection.thread_pool_size.filter(|n| *n > 0) {
        log::info!(
            "--thread-pool-size {n} has no effect: each of the {} request queues has a thread of \
             its own; see --request-queues",
            config.args.connection.request_queues
        );
    }
    let sockets = Sockets {
        front_end: socket,
        control,
    };
    if config.args.share.readonly {
        let fs = ReadOnly::new(fs);
        serve(fs, &config, crossing, sockets, state_file, limit)
    } else {
        serve(fs, &config, crossing, sockets, state_file, limit)
    }
}

/// Where others meet the daemon.
struct Sockets {
    front_end: ListenSocket,
    control: Option<ListenSocket>,
}

/// A state in a file, and the name that the operator has for it.
struct StateFile {
    path: PathBuf,
    file: File,
}

/// Opens the file while its path means what the operator means.
fn open_state(path: &Path) -> Result<StateFile, DaemonError> {
    let failed = |source| DaemonError::OpenState {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.is_dir() {
        return Err(failed(io::ErrorKind::IsADirectory.into()));
    }
    Ok(StateFile {
        path: path.to_owned(),
        file,
    })
}

/// Has `server` go on with the guest whose state is in the file. Answers the guest's
/// requests that stand over.
fn restore<F: MigrateFs>(
    server: &Server<F>,
    from: StateFile,
) -> Result<Vec<StandingRequest>, DaemonError> {
    let StateFile { path, file } = from;
    let report = server.restore(&mut BufReader::with_capacity(STATE_BUFFER, file));
    match report {
        Ok(report) => {
            log::info!(
                "state loaded from {}: {} inodes, {} handles, {} not found; the guest is expected \
                 to go on here",
                path.display(),
                report.inodes,
                report.handles,
                report.faulted
            );
            Ok(report.standing)
        }
        Err(source) => Err(DaemonError::LoadState {
            path,
            source: Box::new(source),
        }),
    }
}

/// Serves a file system from within the confinement.
fn serve<F: MigrateFs>(
    fs: F,
    config: &Config,
    crossing: CrossingConfig,
    sockets: Sockets,
    state_file: Option<StateFile>,
    limit: u64,
) -> Result<Ended, DaemonError> {
    let server = Server::new(
        fs,
        ServerConfig {
            crossing: Some(crossing),
            ..ServerConfig::default()
        },
    );
    let expected = state_file
        .map(|state_file| restore(&server, state_file))
        .transpose()?;
    let connection = &config.args.connection;
    let migration = &config.args.migration;
    let device = Device::new(
        Arc::new(server),
        DeviceConfig {
            tag: connection.tag.clone(),
            request_queues: connection.request_queues,
            poll: Duration::from_micros(connection.poll_us.into()),
            on_disconnect: match connection.keep_state {
                true => OnDisconnect::Keep,
                false => OnDisconnect::Reset,
            },
            migration: match migration.migration_type {
                args::MigrationType::None => MigrationType::None,
                args::MigrationType::External => MigrationType::External,
                args::MigrationType::Internal => MigrationType::Internal,
            },
            control_socket: sockets.control.is_some(),
            rfc_state_protocol: migration.rfc_state_protocol,
            ..DeviceConfig::default()
        },
    )
    .map_err(DaemonError::Device)?;
    if let Some(standing) = expected {
        device.expect_guest(standing);
    }
    let device = Arc::new(device);

    let stop = StopHandle::new().map_err(DaemonError::Start)?;
    let on_signal = stop.clone();
    // A service manager signals the process outside of the namespaces, which hands it
    // on, and this one too: asked once. Counted for each way by itself.
    let mut asked = [false; 2];
    signals::watch(move |number, handed_on| {
        if std::mem::replace(&mut asked[usize::from(handed_on)], true) {
            // A request can be stuck in the kernel, as on a file server that is
            // gone; who asks again does not want to wait for it.
            log::warn!("signal {number} again: ending at once");
            std::process::exit(1);
        }
        if !on_signal.is_stopped() {
            log::info!("signal {number}: completing what is under way, then ending");
            on_signal.stop();
        }
    })
    .map_err(DaemonError::Start)?;

    if let Some(control) = &sockets.control {
        listen_to_operators(control, &device, &stop).map_err(DaemonError::Start)?;
    }

    log::info!(
        "sharing {}: sandbox {:?}, seccomp {:?}, capabilities {}, at most {limit} open \
         descriptors, waiting for a front-end",
        config.shared_dir.display(),
        config.sandbox.mode,
        config.seccomp,
        ferryfs_sandbox::held_capabilities()
    );
    seccomp::apply(config.seccomp, seccomp::Role::Serving).map_err(DaemonError::Seccomp)?;
    ferryfs_vhost::run(
        &device,
        sockets.front_end.listener(),
        connection.keep_listening || connection.keep_state,
        &stop,
    )
    .map(Ended::Served)
    .map_err(DaemonError::Serve)
}

/// Serves the control socket in a thread of its own.
fn listen_to_operators<F: MigrateFs>(
    socket: &ListenSocket,
    device: &Arc<Device<Server<F>>>,
    stop: &StopHandle,
) -> io::Result<()> {
    let listener = socket.listener().try_clone()?;
    let (device, stop) = (Arc::clone(device), stop.clone());
    std::thread::Builder::new()
        .name("control".into())
        .spawn(move || {
            if let Err(e) = ferryfs_vhost::serve_control(&device, &listener, &stop) {
                log::error!(
                    "control socket: nobody is served there any more: {}",
                    error_line(&e)
                );
            }
        })?;
    Ok(())
}

/// A new socket for the daemon's user alone: who can connect can read and write the
/// share as the daemon, or have the guest's state.
fn bind_private(path: &Path) -> Result<ListenSocket, DaemonError> {
    let before = rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let socket = ListenSocket::bind(path);
    rustix::process::umask(before);
    socket.map_err(DaemonError::Socket)
}

fn listen(socket: &Socket, group: Option<&str>) -> Result<ListenSocket, DaemonError> {
    match socket {
        Socket::Path(path) => {
            let group = group.map(groups::find).transpose();
            let group = group.map_err(DaemonError::Group)?;
            let socket = bind_private(path)?;
            if let Some(group) = group {
                socket
                    .share_with_group(group)
                    .map_err(DaemonError::Socket)?;
            }
            Ok(socket)
        }
        Socket::Fd(fd) => {
            let failed = |source| DaemonError::Inherited { fd: *fd, source };
            // SAFETY: fcntl with F_GETFD takes no pointer; it tells whether the
            // number is an open descriptor.
            if unsafe { libc::fcntl(*fd, libc::F_GETFD) } < 0 {
                return Err(failed(io::Error::last_os_error()));
            }
            // SAFETY: the descriptor is open, and was handed to this process to
            // be its own; nothing else in it knows the number.
            let fd = unsafe { OwnedFd::from_raw_fd(*fd) };
            // Not for newuidmap and newgidmap.
            rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)
                .map_err(|e| failed(e.into()))?;
            let listening = rustix::net::sockopt::socket_acceptconn(fd.as_fd())
                .map_err(|e| failed(e.into()))?;
            if !listening {
                return Err(failed(io::Error::from_raw_os_error(libc::EINVAL)));
            }
            Ok(ListenSocket::inherited(UnixListener::from(fd)))
        }
    }
}
