//! The control socket: an operator has and gives the guest's state, beside the
//! front-end that has the rings.
//!
//! It speaks those vhost-user messages by which a state crosses, and no others, so
//! that any front-end's code can be used on it: `GET_FEATURES`, `SET_FEATURES`,
//! `SET_OWNER`, `GET_PROTOCOL_FEATURES`, `SET_PROTOCOL_FEATURES`,
//! `SET_DEVICE_STATE_FD`, `CHECK_DEVICE_STATE`. A state can be had whenever no ring is
//! running: while the VM is stopped and its front-end still connected, and when the
//! front-end has gone from a device that keeps its state. One can be given until the
//! guest has been here.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use ferryfs_core::service::{Crossing, Service};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;

use crate::crossing::Asker;
use crate::device::Device;
use crate::relay::{Message, Received, Receiver};
use crate::serve::{accept, ServeError};
use crate::stop::StopHandle;
use crate::transfer::Direction;

const GET_FEATURES: u32 = 1;
const SET_FEATURES: u32 = 2;
const SET_OWNER: u32 = 3;
const GET_PROTOCOL_FEATURES: u32 = 15;
const SET_PROTOCOL_FEATURES: u32 = 16;
const SET_DEVICE_STATE_FD: u32 = 42;
const CHECK_DEVICE_STATE: u32 = 43;

/// Version 1 and REPLY.
const REPLY: u32 = 1 | 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// Answers to `SET_DEVICE_STATE_FD`: no descriptor comes back.
const NO_FD: u64 = 0x100;

/// How long an operator may leave an answer unread.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between two looks whether the operator is still there, while a transfer runs.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Serves operators on `listener`, one at a time, until `stop` is used.
///
/// # Errors
/// The listening socket failed.
pub fn serve_control<S: Service + Crossing>(
    device: &Arc<Device<S>>,
    listener: &UnixListener,
    stop: &StopHandle,
) -> Result<(), ServeError> {
    listener.set_nonblocking(true).map_err(ServeError::Accept)?;
    while let Some(stream) = accept(listener, stop)? {
        if let Err(e) = serve_operator(device, &stream, stop) {
            log::error!("control socket: hung up on an operator: {e}");
        }
    }
    Ok(())
}

/// One connection, to its end.
fn serve_operator<S: Service + Crossing>(
    device: &Arc<Device<S>>,
    mut stream: &UnixStream,
    stop: &StopHandle,
) -> io::Result<()> {
    stream.set_write_timeout(Some(SEND_TIMEOUT))?;
    let mut receiver = Receiver::default();
    // Its own transfer, whose outcome has not been asked for.
    let mut pending = false;
    let ended = loop {
        match stop.wait_for(stream.as_fd(), PollFlags::IN) {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(e) => break Err(e),
        }
        let message = match receiver.receive(stream.as_fd()) {
            Ok(Received::Message(message)) => message,
            Ok(Received::NotYet) => continue,
            Ok(Received::End) => break Ok(()),
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => break Ok(()),
            Err(e) => break Err(e),
        };
        let answered = answer(device, stream, message, &mut pending);
        let sent = answered.and_then(|answer| match answer {
            Some(answer) => stream.write_all(answer.bytes()),
            None => Ok(()),
        });
        if let Err(e) = sent {
            break Err(e);
        }
    };
    if pending {
        // Nobody will ask what became of it.
        device.transfers.abort();
        let _ = device.finish_transfer();
    }
    ended
}

/// What is answered to a message, if anything is.
fn answer<S: Service + Crossing>(
    device: &Arc<Device<S>>,
    stream: &UnixStream,
    mut message: Message,
    pending: &mut bool,
) -> io::Result<Option<Message>> {
    let request = message.request();
    let number = |value: u64| Ok(Some(Message::new(request, REPLY, &value.to_ne_bytes())));
    let acknowledged = message.flags() & NEED_REPLY != 0;
    let features = 1 << VIRTIO_F_VERSION_1 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
    let protocol = VhostUserProtocolFeatures::DEVICE_STATE | VhostUserProtocolFeatures::REPLY_ACK;
    match (request, message.payload().len(), message.fds.len()) {
        (GET_FEATURES, 0, 0) => number(features),
        (GET_PROTOCOL_FEATURES, 0, 0) => number(protocol.bits()),
        (SET_OWNER, 0, 0) | (SET_FEATURES | SET_PROTOCOL_FEATURES, 8, 0) => {
            let acked = message
                .payload()
                .first_chunk()
                .map(|n| u64::from_ne_bytes(*n));
            let unknown = match request {
                SET_FEATURES => acked.unwrap_or(0) & !features,
                SET_PROTOCOL_FEATURES => acked.unwrap_or(0) & !protocol.bits(),
                _ => 0,
            };
            if unknown != 0 {
                return Err(refused(format!("features {unknown:#x} were not offered")));
            }
            if acknowledged {
                return number(0);
            }
            Ok(None)
        }
        (SET_DEVICE_STATE_FD, 8, 1) => {
            let started = start(device, &mut message);
            *pending = *pending || started.is_ok();
            number(NO_FD | u64::from(started.is_err()))
        }
        (CHECK_DEVICE_STATE, 0, 0) => {
            while device.transfers.is_running() {
                if has_gone(stream)? {
                    device.transfers.abort();
                    break;
                }
            }
            *pending = false;
            // Whoever failed has said why, in one line.
            number(u64::from(device.finish_transfer().is_err()))
        }
        (_, len, fds) => Err(refused(format!(
            "request {request} with a payload of {len} bytes and {fds} descriptors: the control \
             socket is for states only; a VMM belongs to --socket-path"
        ))),
    }
}

fn start<S: Service + Crossing>(device: &Arc<Device<S>>, message: &mut Message) -> io::Result<()> {
    let word = |at: usize| {
        let bytes = message.payload().get(at..at + 4)?;
        bytes.first_chunk().map(|n| u32::from_ne_bytes(*n))
    };
    let direction = match (word(0), word(4)) {
        (Some(0), Some(0)) => Ok(Direction::Save),
        (Some(1), Some(0)) => Ok(Direction::Load),
        (direction, phase) => Err(refused(format!(
            "SET_DEVICE_STATE_FD in direction {} and phase {}",
            direction.unwrap_or(0),
            phase.unwrap_or(0)
        ))),
    };
    let file = message.fds.pop().map(File::from);
    let started = direction.and_then(|direction| {
        let file = file.ok_or_else(|| refused("no descriptor came with it".into()))?;
        device.start_transfer(Asker::Operator, direction, file)
    });
    started.inspect_err(|e| log::error!("control socket: refused a state transfer: {e}"))
}

/// Waits a moment; whether the operator hung up in it.
fn has_gone(stream: &UnixStream) -> io::Result<bool> {
    let moment = Timespec {
        tv_sec: 0,
        tv_nsec: LOOK_EVERY.subsec_nanos().into(),
    };
    // Both halves closed; one that has nothing more to ask may still want the answer.
    let mut fds = [PollFd::new(stream, PollFlags::empty())];
    match poll(&mut fds, Some(&moment)) {
        Ok(_) => Ok(fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn refused(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
