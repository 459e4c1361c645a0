//! The front door: whole vhost-user messages between the front-end's socket and
//! the message handler's.
//!
//! The message handler of `vhost-user-backend` knows a closed set of messages,
//! cannot be told to stop, and while it works on one message it does not notice
//! that the front-end has gone. The relay gives all three, and costs nothing where
//! it matters: requests go through the virtqueues, not through here.
//!
//! A message is a header of 12 bytes (request, flags, size of the payload), a
//! payload and up to 32 descriptors that ride on its first byte. Flags, among them
//! NEED_REPLY, are passed as they are.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::net::{
    recvmsg, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

use crate::stop::StopHandle;
use crate::vet::vet;

/// How long it is looked for the next message, or the answer, before the relay sleeps.
const LOOK: Duration = Duration::from_micros(100);

/// Length of a message's header in bytes.
pub const HEADER_LEN: usize = 12;

/// Largest payload in bytes, as the message handler's own limit.
pub const MAX_PAYLOAD: usize = 4096;

/// Most descriptors with one message.
pub const MAX_FDS: usize = 32;

/// One vhost-user message.
#[derive(Debug)]
pub struct Message {
    bytes: Vec<u8>,
    /// Descriptors that came, or go, with it.
    pub fds: Vec<OwnedFd>,
}

impl Message {
    /// A message with a payload and no descriptors.
    ///
    /// # Panics
    /// The payload is longer than [`MAX_PAYLOAD`].
    pub fn new(request: u32, flags: u32, payload: &[u8]) -> Message {
        assert!(
            payload.len() <= MAX_PAYLOAD,
            "payload of {} bytes",
            payload.len()
        );
        let mut bytes = Vec::with_capacity(HEADER_LEN + payload.len());
        for word in [request, flags, payload.len() as u32] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(payload);
        Message {
            bytes,
            fds: Vec::new(),
        }
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_ne_bytes([0, 1, 2, 3].map(|i| self.bytes[at + i]))
    }

    /// Request code.
    pub fn request(&self) -> u32 {
        self.word(0)
    }

    /// Flags: version in bits 0 and 1, REPLY in bit 2, NEED_REPLY in bit 3.
    pub fn flags(&self) -> u32 {
        self.word(4)
    }

    /// The message as it is on the wire.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What follows the header.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[HEADER_LEN..]
    }
}

/// What becomes of a front-end's message.
#[derive(Debug)]
pub enum Verdict {
    /// It goes on to the message handler.
    Forward(Message),
    /// It goes no further, and this is the answer.
    Answer(Message),
    /// It goes no further, and no answer is due.
    Swallow,
    /// The connection ends. The text says why.
    Refuse(String),
}

/// Looks at every message of the front-end before the message handler does.
///
/// A message that is not forwarded may be acted on before messages that were
/// forwarded earlier without being answered yet.
pub trait FrontDoor: Send + Sync {
    /// Decides about one message.
    fn inspect(&self, message: Message) -> Verdict;
}

/// The front door that forwards everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenDoor;

impl FrontDoor for OpenDoor {
    fn inspect(&self, message: Message) -> Verdict {
        Verdict::Forward(message)
    }
}

/// Why a relay ended.
#[derive(Debug)]
pub(crate) enum RelayEnd {
    /// The front-end closed its socket between two messages.
    FrontEndGone,
    /// The message handler hung up.
    HandlerGone,
    /// The stop handle was used.
    Stopped,
    /// The front-end did not speak the protocol, or its socket failed.
    Broken(String),
}

/// Passes messages until one side ends. `front_end_gone` is called as soon as the
/// front-end has hung up, even while the message handler works on its last message.
pub(crate) fn relay(
    front: &UnixStream,
    handler: &UnixStream,
    door: &dyn FrontDoor,
    stop: &StopHandle,
    last_request: &mut u32,
    front_end_gone: impl FnOnce(),
) -> io::Result<RelayEnd> {
    let mut front_end_gone = Some(front_end_gone);
    let (mut from_front, mut from_handler) = (Receiver::default(), Receiver::default());
    let (mut to_front, mut to_handler) = (Outbox::default(), Outbox::default());
    let mut handler_ended = false;
    let mut lately = false;
    loop {
        if handler_ended && to_front.is_empty() {
            return Ok(RelayEnd::HandlerGone);
        }
        // One message at a time each way: whoever does not read is not read from.
        let mut front_events = PollFlags::empty();
        front_events.set(PollFlags::IN, to_handler.is_empty() && !handler_ended);
        front_events.set(PollFlags::OUT, !to_front.is_empty());
        let mut handler_events = PollFlags::empty();
        handler_events.set(PollFlags::IN, to_front.is_empty() && !handler_ended);
        handler_events.set(PollFlags::OUT, !to_handler.is_empty());

        let mut fds = Vec::with_capacity(3);
        fds.push(PollFd::new(stop, PollFlags::IN));
        // A hang-up is reported whether asked for or not: a front-end known to be
        // gone is not looked at while there is nothing to be done about it.
        let front_at = (front_end_gone.is_some() || !front_events.is_empty()).then(|| {
            fds.push(PollFd::new(front, front_events));
            fds.len() - 1
        });
        let handler_at = (!handler_events.is_empty()).then(|| {
            fds.push(PollFd::new(handler, handler_events));
            fds.len() - 1
        });
        match wait(&mut fds, lately) {
            Ok(()) => lately = true,
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        }
        if stop.is_stopped() {
            return Ok(RelayEnd::Stopped);
        }
        let revents =
            |at: Option<usize>| at.map_or(PollFlags::empty(), |i: usize| fds[i].revents());
        let (front_ready, handler_ready) = (revents(front_at), revents(handler_at));
        let broken = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;

        if front_ready.intersects(broken) {
            if let Some(gone) = front_end_gone.take() {
                gone();
            }
        }
        // Answers first: the last one of a message handler that hangs up counts.
        if handler_events.contains(PollFlags::IN)
            && handler_ready.intersects(PollFlags::IN | broken)
        {
            match from_handler.receive(handler.as_fd()) {
                Ok(Received::Message(message)) => to_front.push(message),
                Ok(Received::NotYet) => {}
                Ok(Received::End) | Err(_) => handler_ended = true,
            }
        }
        if !to_handler.is_empty() && to_handler.flush(handler.as_fd()).is_err() {
            // Hung up; an answer may still be waiting to be read.
            to_handler = Outbox::default();
        }
        if !to_front.is_empty() {
            if let Err(e) = to_front.flush(front.as_fd()) {
                return Ok(match e.kind() {
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                        RelayEnd::FrontEndGone
                    }
                    _ => RelayEnd::Broken(format!("failed to send to the front-end: {e}")),
                });
            }
        }
        if front_events.contains(PollFlags::IN) && front_ready.intersects(PollFlags::IN | broken) {
            let message = match from_front.receive(front.as_fd()) {
                Ok(Received::Message(message)) => message,
                Ok(Received::NotYet) => continue,
                Ok(Received::End) => return Ok(RelayEnd::FrontEndGone),
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {
                    return Ok(RelayEnd::FrontEndGone)
                }
                Err(e) => return Ok(RelayEnd::Broken(e.to_string())),
            };
            *last_request = message.request();
            match door.inspect(message) {
                Verdict::Forward(message) => {
                    if let Err(why) = vet(&message) {
                        return Ok(RelayEnd::Broken(why));
                    }
                    to_handler.push(message);
                    let _ = to_handler.flush(handler.as_fd());
                }
                Verdict::Answer(message) => {
                    to_front.push(message);
                }
                Verdict::Swallow => {}
                Verdict::Refuse(why) => return Ok(RelayEnd::Broken(why)),
            }
        }
    }
}

/// Waits until there is something to do. Where there `lately` was, it looks for a while
/// before it sleeps: most messages are answered in less time than it takes to wake this
/// thread, and a guest may be standing still until the last of them is.
fn wait(fds: &mut [PollFd<'_>], lately: bool) -> rustix::io::Result<()> {
    if lately {
        let start = Instant::now();
        while start.elapsed() < LOOK {
            if poll(fds, Some(&Timespec::default()))? > 0 {
                return Ok(());
            }
            // Whoever answers may need this processor.
            std::thread::yield_now();
        }
    }
    poll(fds, None).map(drop)
}

pub(crate) enum Received {
    Message(Message),
    /// The rest has not come yet.
    NotYet,
    /// The other side hung up between two messages.
    End,
}

/// A message in the making.
#[derive(Default)]
pub(crate) struct Receiver {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Receiver {
    /// What has come, without waiting.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<Received> {
        loop {
            let wanted = match self.wanted()? {
                0 => {
                    return Ok(Received::Message(Message {
                        bytes: std::mem::take(&mut self.bytes),
                        fds: std::mem::take(&mut self.fds),
                    }))
                }
                wanted => wanted,
            };
            let have = self.bytes.len();
            self.bytes.resize(have + wanted, 0);
            let got = receive_some(socket, &mut self.bytes[have..], &mut self.fds);
            self.bytes
                .truncate(have + got.as_ref().map_or(0, |&got| got));
            match got {
                Ok(0) if self.bytes.is_empty() => return Ok(Received::End),
                Ok(0) => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "hung up in the middle of a message",
                    ))
                }
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Received::NotYet),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Bytes that are missing, of the header first and then of the payload. No
    /// more are ever asked for: descriptors of the next message stay with it.
    fn wanted(&self) -> io::Result<usize> {
        let Some(size) = self.bytes.get(8..HEADER_LEN) else {
            return Ok(HEADER_LEN - self.bytes.len());
        };
        let size = u32::from_ne_bytes([size[0], size[1], size[2], size[3]]) as usize;
        if size > MAX_PAYLOAD {
            return Err(invalid(format!(
                "message with a payload of {size} bytes: {MAX_PAYLOAD} are possible"
            )));
        }
        if self.fds.len() > MAX_FDS {
            return Err(invalid(format!(
                "message with {} descriptors: {MAX_FDS} are possible",
                self.fds.len()
            )));
        }
        Ok(HEADER_LEN + size - self.bytes.len())
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn receive_some(
    socket: BorrowedFd<'_>,
    buf: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    // Room for one more than allowed, to tell too many from just enough.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS + 1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(
        socket,
        &mut [IoSliceMut::new(buf)],
        &mut control,
        RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
    )?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    if got.flags.contains(ReturnFlags::CTRUNC) {
        return Err(invalid(format!(
            "message with too many descriptors: {MAX_FDS} are possible, and the process may be \
             out of descriptors"
        )));
    }
    Ok(got.bytes)
}

/// Messages on their way out.
#[derive(Default)]
struct Outbox {
    messages: VecDeque<Message>,
    /// Bytes of the first one that are out.
    sent: usize,
}

impl Outbox {
    fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    fn push(&mut self, message: Message) {
        self.messages.push_back(message);
    }

    /// Sends as much as the other side takes now.
    fn flush(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        while let Some(message) = self.messages.front() {
            let fds: Vec<BorrowedFd<'_>> = match self.sent {
                // With the first byte, and so with all that go out with it.
                0 => message.fds.iter().map(AsFd::as_fd).collect(),
                _ => Vec::new(),
            };
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS + 1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
                return Err(invalid(format!("{} descriptors to send", fds.len())));
            }
            match sendmsg(
                socket,
                &[IoSlice::new(&message.bytes[self.sent..])],
                &mut control,
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            ) {
                Ok(sent) => self.sent += sent,
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            if self.sent == message.bytes.len() {
                self.messages.pop_front();
                self.sent = 0;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn what_comes_is_met_by_a_look_and_after_it() {
        for pause in [Duration::ZERO, LOOK * 100] {
            for lately in [true, false] {
                let (own, mut other) = UnixStream::pair().unwrap();
                let writer = std::thread::spawn(move || {
                    std::thread::sleep(pause);
                    other.write_all(b"x").map(|()| other)
                });
                let mut fds = [PollFd::new(&own, PollFlags::IN)];
                wait(&mut fds, lately).unwrap();
                assert_eq!(fds[0].revents(), PollFlags::IN, "{pause:?} {lately}");
                writer.join().unwrap().unwrap();
            }
        }
    }
}
