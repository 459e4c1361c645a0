//! Attacks on a daemon, by a guest and by a VMM, and what becomes of the daemon: for
//! the suites, which ask for the details, and for a table of daemons side by side.
//!
//! Each attack has a daemon of its own, as it may be the daemon's last.

pub mod chains;
pub mod departures;
pub mod descriptors;
pub mod memory;
pub mod messages;
pub mod requests;
pub mod rings;

use std::fmt;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;

use ferryfs_frontend::client::ClientError;
use ferryfs_frontend::frontend::FrontendError;
use ferryfs_frontend::fuse::ROOT_ID;
use ferryfs_frontend::queue::QueueError;
use ferryfs_frontend::spawn::{Daemon, SpawnError};
use ferryfs_frontend::wire::WireError;
use ferryfs_frontend::{Frontend, Vm, VmConfig};

use crate::script::pattern;
use crate::Host;

/// How long an answer may take before a daemon counts as hung.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// How long a daemon may take to end when its front-end has gone.
const END: Duration = Duration::from_secs(3);

/// Contents of the file in every share.
pub const FILE_LEN: usize = 10_000;

/// A daemon that can be attacked.
#[derive(Clone, Copy)]
pub struct Victim<'a> {
    /// Starts it on a share, listening at a path.
    pub start: &'a dyn Fn(&Host, &Path) -> Result<Daemon, SpawnError>,
}

/// One thing that nobody should send.
pub struct Attack {
    /// What kind of attack it is.
    pub group: &'static str,
    /// What it is, in a few words.
    pub name: String,
    run: Box<dyn Fn(&mut Scene) -> Said + Send + Sync>,
}

impl fmt::Debug for Attack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.group, self.name)
    }
}

impl Attack {
    /// An attack that does as `run`.
    pub fn new(
        group: &'static str,
        name: impl Into<String>,
        run: impl Fn(&mut Scene) -> Said + Send + Sync + 'static,
    ) -> Attack {
        Attack {
            group,
            name: name.into(),
            run: Box::new(run),
        }
    }
}

/// What a daemon said to an attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// It did as it was asked.
    Done,
    /// An errno, or a failure in a vhost-user message (0).
    Error(i32),
    /// A chain came back with no answer in it.
    Unanswered,
    /// Nothing, in time.
    Nothing,
    /// It closed the connection.
    HungUp,
    /// There is nobody to say anything to.
    Nobody,
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Said::Done => f.write_str("done"),
            Said::Error(0) => f.write_str("refused"),
            Said::Error(errno) => match errno_name(*errno) {
                Some(name) => f.write_str(name),
                None => write!(f, "errno {errno}"),
            },
            Said::Unanswered => f.write_str("given back"),
            Said::Nothing => f.write_str("no answer"),
            Said::HungUp => f.write_str("hung up"),
            Said::Nobody => f.write_str("-"),
        }
    }
}

/// The name of an errno that daemons answer with.
fn errno_name(errno: i32) -> Option<&'static str> {
    Some(match errno {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::EIO => "EIO",
        libc::E2BIG => "E2BIG",
        libc::EBADF => "EBADF",
        libc::ENOMEM => "ENOMEM",
        libc::EACCES => "EACCES",
        libc::EEXIST => "EEXIST",
        libc::EINVAL => "EINVAL",
        libc::ERANGE => "ERANGE",
        libc::ENOSYS => "ENOSYS",
        libc::ENODATA => "ENODATA",
        libc::EPROTO => "EPROTO",
        libc::EOVERFLOW => "EOVERFLOW",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::ENOTCONN => "ENOTCONN",
        libc::ENAMETOOLONG => "ENAMETOOLONG",
        libc::ESTALE => "ESTALE",
        _ => return None,
    })
}

/// What became of a daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// The same machine is served on.
    Serves,
    /// The machine is served again when its driver has reset the device, or with a new
    /// connection.
    ServesAfterReset,
    /// It ended by itself, with this status, as a daemon may whose front-end has gone.
    Ended(i32),
    /// It was there and dead to all.
    Hung,
    /// A signal ended it.
    Killed(i32),
    /// It panicked, and went on or not.
    Panicked,
    /// Something beside the share has changed, or a file in it that was not asked for.
    Damage(String),
}

impl Fate {
    /// Whether a VMM could go on with it, or was told in good order.
    pub fn is_good(&self) -> bool {
        match self {
            Fate::Serves | Fate::ServesAfterReset => true,
            Fate::Ended(status) => *status == 0,
            Fate::Hung | Fate::Killed(_) | Fate::Panicked | Fate::Damage(_) => false,
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fate::Serves => f.write_str("up"),
            Fate::ServesAfterReset => f.write_str("up after a reset"),
            Fate::Ended(status) => write!(f, "ended ({status})"),
            Fate::Hung => f.write_str("hung"),
            Fate::Killed(signal) => match *signal {
                libc::SIGABRT => f.write_str("killed by SIGABRT"),
                libc::SIGSEGV => f.write_str("killed by SIGSEGV"),
                libc::SIGBUS => f.write_str("killed by SIGBUS"),
                libc::SIGSYS => f.write_str("killed by SIGSYS"),
                libc::SIGPIPE => f.write_str("killed by SIGPIPE"),
                signal => write!(f, "killed by signal {signal}"),
            },
            Fate::Panicked => f.write_str("panicked"),
            Fate::Damage(what) => write!(f, "damage: {what}"),
        }
    }
}

/// The place of an attack.
pub struct Scene {
    host: Host,
    daemon: Daemon,
    vm: Option<Vm>,
}

/// What came of an attack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What the daemon said.
    pub said: Said,
    /// What became of it.
    pub fate: Fate,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.said, self.fate)
    }
}

impl Scene {
    /// A share with a file and a directory, and a daemon that serves it.
    ///
    /// # Errors
    /// The daemon does not start.
    pub fn new(victim: Victim<'_>) -> Result<Scene, SpawnError> {
        let host = Host::new();
        fs::create_dir(host.at("dir")).expect("mkdir");
        fs::write(host.at("file"), pattern(FILE_LEN)).expect("write");
        fs::write(host.at("scratch"), "0123456789").expect("write");
        let socket = host.socket();
        let daemon = (victim.start)(&host, &socket)?;
        Ok(Scene {
            host,
            daemon,
            vm: None,
        })
    }

    /// The daemon.
    pub fn daemon(&mut self) -> &mut Daemon {
        &mut self.daemon
    }

    /// The share and what is beside it.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The machine on the daemon; boots one with small queues first if there is none.
    ///
    /// # Panics
    /// When the daemon does not serve even a good machine.
    pub fn vm(&mut self) -> &mut Vm {
        if self.vm.is_none() {
            let vm = Vm::boot_with(self.daemon.socket(), config());
            self.vm = Some(vm.expect("a machine boots"));
        }
        self.vm.as_mut().expect("just made")
    }

    /// Gives the machine up: its front-end vanishes.
    pub fn drop_vm(&mut self) {
        self.vm = None;
    }

    /// A front-end that has negotiated, and no more.
    ///
    /// # Errors
    /// What the daemon said instead.
    pub fn front_end(&self) -> Result<Frontend, Said> {
        let mut frontend = self.connect()?;
        frontend.connection().set_timeout(PATIENCE);
        match frontend.negotiate(config().protocol_features) {
            Ok(()) => Ok(frontend),
            Err(error) => Err(stepped(Err::<(), _>(error))),
        }
    }

    /// A front-end that has not said a word.
    ///
    /// # Errors
    /// The daemon takes no connection.
    pub fn connect(&self) -> Result<Frontend, Said> {
        Frontend::connect(self.daemon.socket()).map_err(|_| Said::HungUp)
    }

    /// Runs an attack to its end.
    pub fn attacked(mut self, attack: &Attack) -> Outcome {
        let said = (attack.run)(&mut self);
        let fate = self.fate();
        Outcome { said, fate }
    }

    fn fate(&mut self) -> Fate {
        let fate = self.fate_of_process();
        // What a panic message is in every Rust program.
        let log = self.daemon.stderr();
        if log.contains("panicked at") && !matches!(fate, Fate::Killed(_)) {
            return Fate::Panicked;
        }
        if let Some(what) = self.damage() {
            return Fate::Damage(what);
        }
        fate
    }

    fn fate_of_process(&mut self) -> Fate {
        // Nobody answers for one that has ended.
        if let Some(fate) = self.ended(Duration::ZERO) {
            return fate;
        }
        if let Some(vm) = &mut self.vm {
            if serves(vm) {
                return Fate::Serves;
            }
            if let Some(fate) = self.ended(Duration::from_millis(50)) {
                return fate;
            }
        }
        if let Some(vm) = &mut self.vm {
            // A driver that finds its device dead resets it.
            if vm.reboot().is_ok() && serves(vm) {
                return Fate::ServesAfterReset;
            }
        }
        let had_machine = self.vm.take().is_some();
        if let Some(fate) = self.ended(Duration::from_millis(300)) {
            return fate;
        }
        // One that ends with its front-end does so now; others take another.
        match Vm::boot_with(self.daemon.socket(), config()) {
            Ok(vm) if serves(&vm) => match had_machine {
                true => Fate::ServesAfterReset,
                false => Fate::Serves,
            },
            _ => self.ended(END).unwrap_or(Fate::Hung),
        }
    }

    fn ended(&mut self, within: Duration) -> Option<Fate> {
        let status = self.daemon.wait(within).ok()?;
        // A process that waits for the one that serves says 128 and the signal.
        Some(match (status.signal(), status.code()) {
            (Some(signal), _) => Fate::Killed(signal),
            (None, Some(code)) if code > 128 => Fate::Killed(code - 128),
            (None, code) => Fate::Ended(code.unwrap_or(0)),
        })
    }

    /// What has changed that should not have.
    fn damage(&self) -> Option<String> {
        if fs::read(self.host.at("file")).ok()? != pattern(FILE_LEN) {
            return Some("a file was changed".into());
        }
        self.host.changed_outside()
    }
}

fn config() -> VmConfig {
    VmConfig {
        queue_size: 64,
        timeout: PATIENCE,
        ..VmConfig::default()
    }
}

/// A good request is answered well.
fn serves(vm: &Vm) -> bool {
    let fs = vm.client();
    let Ok(file) = fs.lookup(ROOT_ID, "file") else {
        return false;
    };
    let Ok(opened) = fs.open(file.nodeid, libc::O_RDONLY as u32) else {
        return false;
    };
    let read = fs.read(file.nodeid, opened.fh, 1, 20_000);
    let good = read.is_ok_and(|data| data == pattern(FILE_LEN)[1..]);
    good && fs.release(file.nodeid, opened.fh).is_ok() && fs.forget(file.nodeid, 1).is_ok()
}

/// Runs `attack` on a daemon of its own.
///
/// # Errors
/// The daemon does not start.
pub fn run(attack: &Attack, victim: Victim<'_>) -> Result<Outcome, SpawnError> {
    Ok(Scene::new(victim)?.attacked(attack))
}

/// All attacks.
pub fn all() -> Vec<Attack> {
    [
        requests::attacks(),
        chains::attacks(),
        rings::attacks(),
        messages::attacks(),
        descriptors::attacks(),
        memory::attacks(),
        departures::attacks(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What a request's outcome says.
pub fn said<T>(result: Result<T, ClientError>) -> Said {
    match result {
        Ok(_) => Said::Done,
        Err(error) => match (error.errno(), &error) {
            (Some(errno), _) => Said::Error(errno),
            (
                None,
                ClientError::Queue {
                    source: QueueError::Timeout { .. },
                    ..
                },
            ) => Said::Nothing,
            (None, _) => Said::Unanswered,
        },
    }
}

/// What a message's outcome says.
pub fn told<T>(result: Result<T, WireError>) -> Said {
    match result {
        Ok(_) => Said::Done,
        Err(WireError::Refused { .. }) => Said::Error(0),
        Err(WireError::Timeout { .. }) => Said::Nothing,
        Err(_) => Said::HungUp,
    }
}

/// What a front-end's step says.
pub fn stepped<T>(result: Result<T, FrontendError>) -> Said {
    match result {
        Ok(_) => Said::Done,
        Err(FrontendError::Wire(error)) => told::<T>(Err(error)),
        Err(_) => Said::Error(0),
    }
}
