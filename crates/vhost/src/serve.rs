//! Serving front-ends: one connection, or one after the other.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, TryLockError};
use std::time::Duration;

use ferryfs_core::service::{Crossing, Service};
use rustix::event::PollFlags;
use vhost::vhost_user::{Error as VhostUserError, Listener};
use vhost_user_backend::{Error as HandlerError, VhostUserDaemon};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use crate::coalesce::Keeper;
use crate::device::Device;
use crate::private_socket::listener_with_connection;
use crate::relay::{relay, FrontDoor, Message, RelayEnd, HEADER_LEN};
use crate::rfc_state::StateDoor;
use crate::rings::{RingControl, Rings};
use crate::stop::StopHandle;

/// How long accepting pauses when the process is out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionEnd {
    /// The front-end hung up.
    Disconnected,
    /// The front-end sent what cannot be obeyed; one log line says what.
    Refused,
    /// The stop handle was used.
    Stopped,
}

/// Why [`run`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// The front-end hung up, and no other is waited for.
    Disconnected,
    /// The front-end was hung up on, and no other is waited for.
    Refused,
    /// The stop handle was used. What was being served has been completed.
    Stopped,
}

/// Why a front-end cannot be served at all.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A device serves one front-end at a time.
    #[error("the device is serving a front-end already")]
    Busy,
    /// The listening socket failed.
    #[error("failed to accept a front-end")]
    Accept(#[source] io::Error),
    /// A descriptor, a thread or memory could not be had.
    #[error("failed to prepare for a front-end")]
    Prepare(#[source] io::Error),
    /// The queues' threads could not be started.
    #[error("failed to start the message handler: {0}")]
    Handler(HandlerError),
}

/// Accepts front-ends on `listener` and serves them one at a time: the first
/// only, or with `keep_listening` one after the other, until `stop` is used.
///
/// With `keep_listening` a front-end that could not be served is logged, and the
/// next is waited for. As long as a guest is expected
/// ([`Device::expect_guest`]), front-ends that come without one do not count as the
/// first.
///
/// # Errors
/// The listening socket failed, or there are no resources to serve.
pub fn run<S: Service + Crossing>(
    device: &Arc<Device<S>>,
    listener: &UnixListener,
    keep_listening: bool,
    stop: &StopHandle,
) -> Result<ExitReason, ServeError> {
    listener.set_nonblocking(true).map_err(ServeError::Accept)?;
    loop {
        let Some(stream) = accept(listener, stop)? else {
            return Ok(ExitReason::Stopped);
        };
        let end = match serve_connection(device, stream, stop) {
            Ok(end) => end,
            Err(e) if keep_listening => {
                log::error!("{e}: waiting for another front-end");
                ConnectionEnd::Refused
            }
            Err(e) => return Err(e),
        };
        let go_on = keep_listening || device.expects_guest();
        match end {
            ConnectionEnd::Stopped => return Ok(ExitReason::Stopped),
            ConnectionEnd::Disconnected if !go_on => return Ok(ExitReason::Disconnected),
            ConnectionEnd::Refused if !go_on => return Ok(ExitReason::Refused),
            ConnectionEnd::Disconnected | ConnectionEnd::Refused => {}
        }
    }
}

/// The next front-end, or `None` when the stop handle is used.
pub(crate) fn accept(
    listener: &UnixListener,
    stop: &StopHandle,
) -> Result<Option<UnixStream>, ServeError> {
    loop {
        if !stop
            .wait_for(listener.as_fd(), PollFlags::IN)
            .map_err(ServeError::Accept)?
        {
            return Ok(None);
        }
        match listener.accept() {
            Ok((stream, _)) => return Ok(Some(stream)),
            Err(e) => match e.raw_os_error() {
                // Gone again, or another process with the same socket took it.
                Some(libc::EAGAIN | libc::EINTR | libc::ECONNABORTED) => {}
                Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                    log::error!("failed to accept a front-end, trying again: {e}");
                    std::thread::sleep(ACCEPT_PAUSE);
                }
                _ => return Err(ServeError::Accept(e)),
            },
        }
    }
}

/// Serves one front-end until it hangs up, cannot be understood, or `stop` is
/// used. When it returns, no thread of the connection is left, and nothing is
/// written to the guest's memory any more.
///
/// # Errors
/// The connection could not be served at all; it is closed.
pub fn serve_connection<S: Service + Crossing>(
    device: &Arc<Device<S>>,
    front: UnixStream,
    stop: &StopHandle,
) -> Result<ConnectionEnd, ServeError> {
    serve_with_door(device, front, stop, &StateDoor::new(Arc::clone(device)))
}

/// [`serve_connection`] with a front door that answers messages of its own.
///
/// # Errors
/// As [`serve_connection`].
pub fn serve_with_door<S: Service + Crossing>(
    device: &Arc<Device<S>>,
    front: UnixStream,
    stop: &StopHandle,
    door: &dyn FrontDoor,
) -> Result<ConnectionEnd, ServeError> {
    let _serving = match device.serving.try_lock() {
        Ok(guard) => guard,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        Err(TryLockError::WouldBlock) => return Err(ServeError::Busy),
    };
    device.prepare().map_err(ServeError::Prepare)?;
    let control = RingControl::new(Arc::clone(device.service()) as _, device.config().poll);
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let (rings, daemon) = Rings::collect(control, || {
        VhostUserDaemon::new("vhost-user".into(), Arc::clone(device), memory)
    });
    let mut daemon = daemon.map_err(|e| {
        device.abandon_workers();
        ServeError::Handler(e)
    })?;
    let rings = Arc::new(rings);

    let mut keeper = None;
    let mut last_request = 0;
    let started = Keeper::start(&rings)
        .map_err(ServeError::Prepare)
        .and_then(|started| {
            keeper = Some(started);
            start_handler(device, &mut daemon, &rings)
        });
    let relayed = started.and_then(|handler| {
        let end = relay(&front, &handler, door, stop, &mut last_request, || {
            // The message handler may be waiting for a transfer that ends with this only.
            device.give_up();
        })
        .map_err(ServeError::Prepare);
        // The message handler sees the end behind what it has not read yet.
        let _ = handler.shutdown(std::net::Shutdown::Write);
        device.give_up();
        Ok((end?, handler))
    });
    let handled = daemon.wait();
    rings.stop_all();
    drop(keeper);
    // Joins the queues' threads.
    drop(daemon);
    let ran = rings.have_run();
    drop(rings);
    device.disconnected(ran);
    let (end, _handler) = relayed?;
    Ok(conclude(end, handled, last_request))
}

/// Starts the message handler on a socket of its own and answers the other end.
fn start_handler<S: Service + Crossing>(
    device: &Arc<Device<S>>,
    daemon: &mut VhostUserDaemon<Arc<Device<S>>>,
    rings: &Arc<Rings>,
) -> Result<UnixStream, ServeError> {
    for (index, handler) in daemon.get_epoll_handlers().iter().enumerate() {
        let epoll = dup_epoll(&**handler).map_err(ServeError::Prepare)?;
        rings.set_epoll(index, epoll);
    }
    device.set_rings(Arc::clone(rings));
    let (listener, stream) = listener_with_connection().map_err(ServeError::Prepare)?;
    daemon
        .start(&mut Listener::from(listener))
        .map_err(ServeError::Handler)?;
    introduce(&stream).map_err(ServeError::Prepare)?;
    Ok(stream)
}

/// Asks for the features in the front-end's place.
///
/// The message handler acknowledges nothing (REPLY_ACK) until somebody has asked; a
/// front-end that knows what it wants need not, and would wait forever.
fn introduce(mut handler: &UnixStream) -> io::Result<()> {
    const GET_FEATURES: u32 = 1;
    const VERSION: u32 = 1;
    handler.set_nonblocking(false)?;
    handler.write_all(Message::new(GET_FEATURES, VERSION, &[]).bytes())?;
    handler.read_exact(&mut [0; HEADER_LEN + 8])
}

fn dup_epoll(handler: &impl std::os::fd::AsRawFd) -> io::Result<std::os::fd::OwnedFd> {
    // SAFETY: the handler owns its descriptor and is borrowed.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(handler.as_raw_fd()) };
    fd.try_clone_to_owned()
}

/// What a connection's end means, with one log line where someone is to blame.
fn conclude(end: RelayEnd, handled: Result<(), HandlerError>, last_request: u32) -> ConnectionEnd {
    match end {
        RelayEnd::Stopped => return ConnectionEnd::Stopped,
        RelayEnd::Broken(why) => {
            log::error!("hung up on the front-end: {why}");
            return ConnectionEnd::Refused;
        }
        RelayEnd::FrontEndGone | RelayEnd::HandlerGone => {}
    }
    match handled {
        Ok(()) | Err(HandlerError::HandleRequest(VhostUserError::Disconnected)) => {
            ConnectionEnd::Disconnected
        }
        // Our own hang-up while it was answering a front-end that had gone.
        Err(_) if matches!(end, RelayEnd::FrontEndGone) => ConnectionEnd::Disconnected,
        Err(e) => {
            log::error!(
                "hung up on the front-end: failed to handle its request {last_request}: {e}"
            );
            ConnectionEnd::Refused
        }
    }
}
