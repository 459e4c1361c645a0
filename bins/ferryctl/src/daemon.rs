//! `ferryctl save` and `ferryctl load`: the state of a daemon that no VMM is
//! connected to, pulled into a file and pushed out of one. This side plays the
//! front-end, which a daemon has one of at a time.

use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use ferryfs_frontend::frontend::{protocol, FrontendError};
use ferryfs_frontend::state::StateError as TransferError;
use ferryfs_frontend::wire::WireError;
use ferryfs_frontend::Frontend;
use ferryfs_state::{error_line, read_state, Limits, State};

use crate::show::size;
use crate::stream::{self, registry};

/// How long one step of a transfer may take: finding a million files on a slow disk
/// is one step.
const STEP: Duration = Duration::from_secs(600);

/// Where a daemon is, and how long it may keep us waiting.
#[derive(Debug, Args)]
pub struct Target {
    /// The daemon's socket: that of --control-socket, or else the one of its VMM
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,

    /// Seconds to wait for the daemon to have time for us
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    wait: u64,
}

/// `ferryctl save`.
#[derive(Debug, Args)]
pub struct Save {
    #[command(flatten)]
    target: Target,

    /// The file to write; "-" is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
}

/// `ferryctl load`.
#[derive(Debug, Args)]
pub struct Load {
    #[command(flatten)]
    target: Target,

    /// The state, or a migration file of QEMU's with one in it; "-" is standard input
    file: PathBuf,
}

/// Why a state did not come or go.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The daemon does not even answer.
    #[error(
        "{}: no answer within {wait} s: the daemon serves one front-end at a time, and most likely \
         a VMM is connected; a state can be saved or loaded while none is (see --keep-state of \
         ferryfsd), or by the socket of --control-socket while the VM is stopped",
        socket.display()
    )]
    Busy {
        /// The daemon's socket.
        socket: PathBuf,
        /// Seconds.
        wait: u64,
    },
    /// It cannot be talked to.
    #[error("{}", socket.display())]
    Daemon {
        /// The daemon's socket.
        socket: PathBuf,
        /// Why not.
        source: Box<FrontendError>,
    },
    /// It does not have the messages.
    #[error(
        "{}: this daemon does not hand its state over (it offers no DEVICE_STATE): migration is \
         switched off, or it is older than that",
        .0.display()
    )]
    NoState(PathBuf),
    /// The transfer failed.
    #[error("{}: see the daemon's log for its reason", socket.display())]
    Transfer {
        /// The daemon's socket.
        socket: PathBuf,
        /// What happened.
        source: Box<TransferError>,
    },
    /// It hands the state to nobody who comes this way.
    #[error(
        "{}: the daemon gave a state of 0 bytes, as one of --migration-type external gives to its \
         VMM: use the socket of its --control-socket",
        .0.display()
    )]
    Elsewhere(PathBuf),
    /// It was taken, and is gone.
    #[error(
        "{}: the daemon took the state, and {what} when this connection ended: for `ferryctl load` \
         it has to run with --keep-state; or start one from the file with --state-file",
        socket.display()
    )]
    NotKept {
        /// The daemon's socket.
        socket: PathBuf,
        /// What became of the state.
        what: &'static str,
    },
    /// A state is nothing to look at.
    #[error("a state is not for a terminal: use --output FILE, or redirect")]
    Terminal,
    /// The file.
    #[error(transparent)]
    File(Box<stream::Error>),
}

impl From<stream::Error> for Error {
    fn from(error: stream::Error) -> Error {
        Error::File(Box::new(error))
    }
}

impl Target {
    /// A connection on which a state can be transferred.
    fn connect(&self) -> Result<Frontend, Error> {
        let failed = |source| Error::Daemon {
            socket: self.socket.clone(),
            source: Box::new(source),
        };
        let mut daemon = Frontend::connect(&self.socket).map_err(failed)?;
        daemon
            .connection()
            .set_timeout(Duration::from_secs(self.wait));
        // A listening socket takes a connection that nobody looks at yet.
        daemon.get_features().map_err(|e| match e {
            FrontendError::Wire(WireError::Timeout { got: 0, .. }) => Error::Busy {
                socket: self.socket.clone(),
                wait: self.wait,
            },
            e => failed(e),
        })?;
        daemon.connection().set_timeout(STEP);
        daemon
            .negotiate(protocol::DEVICE_STATE | protocol::REPLY_ACK)
            .map_err(failed)?;
        match daemon.protocol_acked() & protocol::DEVICE_STATE {
            0 => Err(Error::NoState(self.socket.clone())),
            _ => Ok(daemon),
        }
    }

    fn transfer<T>(&self, result: Result<T, TransferError>) -> Result<T, Error> {
        result.map_err(|source| Error::Transfer {
            socket: self.socket.clone(),
            source: Box::new(source),
        })
    }

    /// All of the daemon's state.
    fn pull(&self, daemon: &mut Frontend) -> Result<Vec<u8>, Error> {
        let mut state = Vec::new();
        self.transfer(daemon.save_state(&mut state))?;
        Ok(state)
    }
}

/// What a state amounts to, for people.
fn summary(bytes: usize, state: &State) -> String {
    format!(
        "{}, {} inodes, {} handles{}",
        size(bytes as u64),
        state.fs.inodes.len(),
        state.fs.handles.len(),
        match state.session {
            Some(_) => "",
            None => ", no guest: the daemon has had none, or let go of it with its front-end",
        }
    )
}

/// Pulls a daemon's state into a file. What came is looked through: the daemon says
/// that it is whole, and a state is wanted when there is no second try.
///
/// # Errors
/// [`Error`]; nothing is then found under the file's name.
pub fn save(args: &Save) -> Result<(), Error> {
    let to_terminal = args.output.as_os_str() == "-" && io::stdout().is_terminal();
    if to_terminal {
        return Err(Error::Terminal);
    }
    let mut daemon = args.target.connect()?;
    let state = args.target.pull(&mut daemon)?;
    if state.is_empty() {
        return Err(Error::Elsewhere(args.target.socket.clone()));
    }
    stream::create(&args.output, |out| {
        out.write_all(&state)?;
        out.flush()?;
        Ok(state.len() as u64)
    })?;
    match read_state(&mut state.as_slice(), &registry(), &Limits::default()) {
        Ok((_, read)) => eprintln!("ferryctl: saved: {}", summary(state.len(), &read)),
        // A variant's own format, it may be: the bytes are all the daemon gave.
        Err(e) => eprintln!(
            "ferryctl: saved: {}, which cannot be checked here: {}",
            size(state.len() as u64),
            error_line(&e)
        ),
    }
    Ok(())
}

/// Pushes a state into a daemon, for a front-end that comes later and brings none.
///
/// # Errors
/// [`Error`]; the daemon is then as it was, except with [`Error::NotKept`].
pub fn load(args: &Load) -> Result<(), Error> {
    let mut input = stream::open(&args.file)?;
    let mut state = Vec::new();
    input
        .read_to_end(&mut state)
        .map_err(|source| stream::Error::Open {
            path: args.file.clone(),
            source,
        })?;
    let read = check(&args.file, &state)?;
    let mut daemon = args.target.connect()?;
    args.target
        .transfer(daemon.load_state(&mut state.as_slice()))?;
    // Who serves no queues is no front-end's daemon but a control socket, and that one
    // keeps what it is given.
    let is_control = daemon.protocol_offered() & protocol::MQ == 0;
    drop(daemon);
    if !is_control {
        kept(&args.target, &read)?;
    }
    eprintln!("ferryctl: loaded: {}", summary(state.len(), &read));
    Ok(())
}

/// Reads a state before it is sent: an empty or damaged file is told by its name.
fn check(path: &Path, state: &[u8]) -> Result<State, Error> {
    let read = read_state(&mut &*state, &registry(), &Limits::default());
    let (_, state) = read.map_err(|source| stream::Error::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(state)
}

/// Asks the daemon for what it has been given, on a connection of its own.
fn kept(target: &Target, given: &State) -> Result<(), Error> {
    let not_kept = |what| Error::NotKept {
        socket: target.socket.clone(),
        what,
    };
    let mut daemon = match target.connect() {
        // The VMM that the state is for was waiting.
        Err(Error::Busy { .. }) => return Ok(()),
        Err(Error::Daemon { .. }) => return Err(not_kept("ended")),
        other => other?,
    };
    let state = target.pull(&mut daemon)?;
    let kept = match read_state(&mut state.as_slice(), &registry(), &Limits::default()) {
        Ok((_, now)) => now.session.is_some() || given.session.is_none(),
        Err(_) => !state.is_empty(),
    };
    match kept {
        true => Ok(()),
        false => Err(not_kept("forgot it")),
    }
}
