//! vhost-user messages on a Unix stream socket.
//!
//! A message is a header of three 32-bit words {request, flags, size} and `size`
//! bytes of payload, all in the host's byte order; descriptors ride on the first
//! byte of the header ("Message Specification" in QEMU's vhost-user.rst).
//!
//! Everything here takes codes and payloads as plain numbers and bytes, so that a
//! test can say what no library would let it say.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    recvmsg, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// Protocol version 1, the two lowest bits of the header's flags.
pub const VERSION: u32 = 0x1;
/// Header flag: this message answers a request.
pub const REPLY: u32 = 0x4;
/// Header flag: the sender wants a u64 in reply, 0 for success (REPLY_ACK).
pub const NEED_REPLY: u32 = 0x8;
/// Bytes of a header.
pub const HEADER_SIZE: usize = 12;
/// The most descriptors one message may carry.
pub const MAX_FDS: usize = 32;
/// The largest payload accepted in a reply; real ones are far smaller.
pub const MAX_PAYLOAD: usize = 64 << 10;

macro_rules! requests {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        /// Codes of front-end requests, as in vhost-user.rst.
        pub mod request {
            $($(#[$doc])* pub const $name: u32 = $code;)*
        }

        /// The specification's name of a request code, for messages to people.
        pub fn request_name(code: u32) -> &'static str {
            match code {
                $($code => stringify!($name),)*
                _ => "unknown request",
            }
        }
    };
}

requests! {
    /// Ask for the virtio and vhost feature bits.
    GET_FEATURES = 1,
    /// Acknowledge feature bits.
    SET_FEATURES = 2,
    /// Claim the back-end for this connection.
    SET_OWNER = 3,
    /// Give the back-end up (deprecated).
    RESET_OWNER = 4,
    /// Replace the memory table.
    SET_MEM_TABLE = 5,
    /// Hand over the dirty log.
    SET_LOG_BASE = 6,
    /// An eventfd for log updates.
    SET_LOG_FD = 7,
    /// Number of descriptors of a ring.
    SET_VRING_NUM = 8,
    /// Addresses of a ring.
    SET_VRING_ADDR = 9,
    /// Next available index of a ring.
    SET_VRING_BASE = 10,
    /// Stop a ring and ask for its next available index.
    GET_VRING_BASE = 11,
    /// Kick eventfd of a ring.
    SET_VRING_KICK = 12,
    /// Call eventfd of a ring.
    SET_VRING_CALL = 13,
    /// Error eventfd of a ring.
    SET_VRING_ERR = 14,
    /// Ask for vhost-user protocol feature bits.
    GET_PROTOCOL_FEATURES = 15,
    /// Acknowledge protocol feature bits.
    SET_PROTOCOL_FEATURES = 16,
    /// Number of queues the back-end has.
    GET_QUEUE_NUM = 17,
    /// Enable or disable a ring.
    SET_VRING_ENABLE = 18,
    /// Hand over a channel for back-end requests.
    SET_BACKEND_REQ_FD = 21,
    /// Read the device's configuration space.
    GET_CONFIG = 24,
    /// Write the device's configuration space.
    SET_CONFIG = 25,
    /// Ask for the in-flight region.
    GET_INFLIGHT_FD = 31,
    /// Hand the in-flight region over.
    SET_INFLIGHT_FD = 32,
    /// Reset the device's state.
    RESET_DEVICE = 34,
    /// How many memory slots the back-end has.
    GET_MAX_MEM_SLOTS = 36,
    /// Add one memory region.
    ADD_MEM_REG = 37,
    /// Remove one memory region.
    REM_MEM_REG = 38,
    /// Set the virtio status byte.
    SET_STATUS = 39,
    /// Read the virtio status byte.
    GET_STATUS = 40,
    /// Look up a shared object.
    GET_SHARED_OBJECT = 41,
    /// Begin a transfer of device state.
    SET_DEVICE_STATE_FD = 42,
    /// Ask how the transfer of device state went.
    CHECK_DEVICE_STATE = 43,
}

/// What can go wrong between asking and being answered. Every variant says what
/// was asked; those about replies say what came back.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The request could not be sent.
    #[error("sending {request} ({size} bytes, {fds} descriptors) failed")]
    Send {
        /// Name of the request.
        request: &'static str,
        /// Bytes of its payload.
        size: usize,
        /// Descriptors attached.
        fds: usize,
        /// The socket's error.
        #[source]
        source: io::Error,
    },
    /// More descriptors than one message can carry.
    #[error("{request} cannot carry {fds} descriptors, {MAX_FDS} at most")]
    TooManyFds {
        /// Name of the request.
        request: &'static str,
        /// Descriptors given.
        fds: usize,
    },
    /// Nothing, or not all, came in time.
    #[error("no answer to {request} within {timeout:?} ({got} bytes of a message arrived)")]
    Timeout {
        /// Name of the request.
        request: &'static str,
        /// How long was waited.
        timeout: Duration,
        /// Bytes of an incomplete message.
        got: usize,
    },
    /// The back-end hung up.
    #[error("the back-end closed the connection instead of answering {request} ({got} bytes of a message arrived)")]
    Disconnected {
        /// Name of the request.
        request: &'static str,
        /// Bytes of an incomplete message.
        got: usize,
    },
    /// Receiving failed.
    #[error("receiving the answer to {request} failed")]
    Receive {
        /// Name of the request.
        request: &'static str,
        /// The socket's error.
        #[source]
        source: io::Error,
    },
    /// A reply that is no answer to what was asked.
    #[error("{request}: unexpected answer: {answered} (code {code}, flags {flags:#x}, {size} bytes, {fds} descriptors): {why}")]
    UnexpectedReply {
        /// Name of the request.
        request: &'static str,
        /// Name of the request the reply belongs to.
        answered: &'static str,
        /// Code in the reply.
        code: u32,
        /// Flags in the reply.
        flags: u32,
        /// Bytes of its payload.
        size: usize,
        /// Descriptors attached to it.
        fds: usize,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The back-end acknowledged with an error.
    #[error("the back-end refused {request} ({size} bytes sent): it answered {value:#x}")]
    Refused {
        /// Name of the request.
        request: &'static str,
        /// Bytes of the request's payload.
        size: usize,
        /// The u64 that came back.
        value: u64,
    },
}

/// A message as it came in.
#[derive(Debug)]
pub struct Message {
    /// Request code.
    pub code: u32,
    /// Header flags.
    pub flags: u32,
    /// Payload without the header.
    pub payload: Vec<u8>,
    /// Descriptors that came with the header.
    pub fds: Vec<OwnedFd>,
}

impl Message {
    /// The payload as a u64, if it is one.
    pub fn as_u64(&self) -> Option<u64> {
        Some(u64::from_ne_bytes(self.payload.as_slice().try_into().ok()?))
    }

    /// An error that shows this message as a bad answer to `request`.
    pub fn unexpected(&self, request: u32, why: &'static str) -> WireError {
        WireError::UnexpectedReply {
            request: request_name(request),
            answered: request_name(self.code),
            code: self.code,
            flags: self.flags,
            size: self.payload.len(),
            fds: self.fds.len(),
            why,
        }
    }
}

/// Header bytes of a message.
pub fn header(code: u32, flags: u32, size: u32) -> [u8; HEADER_SIZE] {
    let mut bytes = [0; HEADER_SIZE];
    bytes[0..4].copy_from_slice(&code.to_ne_bytes());
    bytes[4..8].copy_from_slice(&flags.to_ne_bytes());
    bytes[8..12].copy_from_slice(&size.to_ne_bytes());
    bytes
}

/// Splits header bytes into {code, flags, size}.
pub fn parse_header(bytes: &[u8; HEADER_SIZE]) -> (u32, u32, u32) {
    let word =
        |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    (word(0), word(4), word(8))
}

/// Sends `bytes` with `fds` on the first of them. Retries until all are out.
///
/// # Errors
/// The socket's error; `EINVAL` for more than [`MAX_FDS`] descriptors.
pub fn send_bytes(socket: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if fds.len() > MAX_FDS {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let mut sent = 0;
    while sent < bytes.len() {
        match sendmsg(
            socket,
            &[IoSlice::new(&bytes[sent..])],
            &mut control,
            SendFlags::NOSIGNAL,
        ) {
            Ok(n) => sent += n,
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        }
        control.clear();
    }
    Ok(())
}

/// Waits until `fd` can be read (or has hung up). False when the deadline passes.
pub(crate) fn wait_readable(fd: impl AsFd, deadline: Instant) -> io::Result<bool> {
    wait_for(fd, PollFlags::IN, deadline)
}

/// Waits until `fd` shows one of `events`, an error or a hang-up.
pub(crate) fn wait_for(fd: impl AsFd, events: PollFlags, deadline: Instant) -> io::Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), events)];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or(Timespec {
            tv_sec: 3600,
            tv_nsec: 0,
        });
        match poll(&mut fds, Some(&left)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        }
    }
}

/// A vhost-user connection: messages out, messages in, with a time limit.
#[derive(Debug)]
pub struct Connection {
    socket: UnixStream,
    timeout: Duration,
}

impl Connection {
    /// How long a reply may take unless told otherwise.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

    /// Wraps a connected socket.
    pub fn new(socket: UnixStream) -> Self {
        Connection {
            socket,
            timeout: Self::DEFAULT_TIMEOUT,
        }
    }

    /// The socket, for what this type does not do.
    pub fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// How long a reply may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Sets how long a reply may take.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Sends a message: any code, any flags, any payload, any descriptors.
    ///
    /// # Errors
    /// [`WireError::Send`] or [`WireError::TooManyFds`].
    pub fn send(
        &mut self,
        code: u32,
        flags: u32,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), WireError> {
        let request = request_name(code);
        if fds.len() > MAX_FDS {
            return Err(WireError::TooManyFds {
                request,
                fds: fds.len(),
            });
        }
        let mut bytes = Vec::with_capacity(HEADER_SIZE + payload.len());
        bytes.extend_from_slice(&header(code, flags, payload.len() as u32));
        bytes.extend_from_slice(payload);
        send_bytes(&self.socket, &bytes, fds).map_err(|source| WireError::Send {
            request,
            size: payload.len(),
            fds: fds.len(),
            source,
        })
    }

    /// Receives one message within the time limit. `asked` only names the request
    /// in errors.
    ///
    /// # Errors
    /// [`WireError::Timeout`], [`WireError::Disconnected`], [`WireError::Receive`],
    /// or [`WireError::UnexpectedReply`] for an absurd size.
    pub fn recv(&mut self, asked: u32) -> Result<Message, WireError> {
        let deadline = Instant::now() + self.timeout;
        let mut fds = Vec::new();
        let mut head = [0; HEADER_SIZE];
        self.fill(asked, &mut head, &mut fds, deadline, 0)?;
        let (code, flags, size) = parse_header(&head);
        let mut message = Message {
            code,
            flags,
            payload: Vec::new(),
            fds,
        };
        if size as usize > MAX_PAYLOAD {
            return Err(message.unexpected(asked, "its header claims an absurd size"));
        }
        message.payload = vec![0; size as usize];
        self.fill(
            asked,
            &mut message.payload,
            &mut message.fds,
            deadline,
            HEADER_SIZE,
        )?;
        Ok(message)
    }

    fn fill(
        &self,
        asked: u32,
        buf: &mut [u8],
        fds: &mut Vec<OwnedFd>,
        deadline: Instant,
        before: usize,
    ) -> Result<(), WireError> {
        let request = request_name(asked);
        let receive = |source: io::Error| WireError::Receive { request, source };
        let mut got = 0;
        while got < buf.len() {
            if !wait_readable(&self.socket, deadline).map_err(receive)? {
                return Err(WireError::Timeout {
                    request,
                    timeout: self.timeout,
                    got: before + got,
                });
            }
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let result = recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(&mut buf[got..])],
                &mut control,
                RecvFlags::CMSG_CLOEXEC,
            );
            match result {
                Ok(message) if message.bytes == 0 => {
                    return Err(WireError::Disconnected {
                        request,
                        got: before + got,
                    });
                }
                Ok(message) => got += message.bytes,
                Err(Errno::INTR) => continue,
                Err(Errno::CONNRESET) => {
                    return Err(WireError::Disconnected {
                        request,
                        got: before + got,
                    });
                }
                Err(e) => return Err(receive(e.into())),
            }
            for part in control.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = part {
                    fds.extend(rights);
                }
            }
        }
        Ok(())
    }

    /// Sends a request that has a reply of its own and returns that reply, checked
    /// to carry the same code and the REPLY flag.
    ///
    /// # Errors
    /// As [`send`](Self::send) and [`recv`](Self::recv), and
    /// [`WireError::UnexpectedReply`].
    pub fn query(
        &mut self,
        code: u32,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<Message, WireError> {
        self.send(code, VERSION, payload, fds)?;
        self.reply_to(code)
    }

    /// Like [`query`](Self::query) for a request answered by one u64.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub fn query_u64(
        &mut self,
        code: u32,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<u64, WireError> {
        let reply = self.query(code, payload, fds)?;
        reply
            .as_u64()
            .ok_or_else(|| reply.unexpected(code, "8 bytes were due"))
    }

    /// Sends a request with NEED_REPLY and waits for the acknowledgement.
    ///
    /// # Errors
    /// [`WireError::Refused`] for a non-zero answer; else as [`query`](Self::query).
    pub fn request_acked(
        &mut self,
        code: u32,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), WireError> {
        self.send(code, VERSION | NEED_REPLY, payload, fds)?;
        let reply = self.reply_to(code)?;
        match reply.as_u64() {
            Some(0) => Ok(()),
            Some(value) => Err(WireError::Refused {
                request: request_name(code),
                size: payload.len(),
                value,
            }),
            None => Err(reply.unexpected(code, "8 bytes were due")),
        }
    }

    /// Receives the reply to `code`.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), and [`WireError::UnexpectedReply`].
    pub fn reply_to(&mut self, code: u32) -> Result<Message, WireError> {
        let reply = self.recv(code)?;
        if reply.code != code {
            return Err(reply.unexpected(code, "it answers another request"));
        }
        if reply.flags & REPLY == 0 || reply.flags & 3 != VERSION {
            return Err(reply.unexpected(code, "its flags are not those of a version 1 reply"));
        }
        Ok(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error;
    use std::io::{Read, Write};

    fn pair() -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("socketpair");
        let mut connection = Connection::new(ours);
        connection.set_timeout(Duration::from_millis(200));
        (connection, theirs)
    }

    #[test]
    fn header_round_trip() {
        assert_eq!(parse_header(&header(42, 9, 8)), (42, 9, 8));
    }

    #[test]
    fn a_message_arrives_whole_with_its_descriptors() {
        let (mut a, b) = pair();
        let mut b = Connection::new(b);
        let (r, w) = rustix::pipe::pipe().expect("pipe");
        a.send(42, VERSION, &[1, 2, 3, 4, 5, 6, 7, 8], &[w.as_fd()])
            .expect("send");
        drop(w);
        let message = b.recv(42).expect("recv");
        assert_eq!(
            (message.code, message.flags, message.fds.len()),
            (42, VERSION, 1)
        );
        assert_eq!(message.payload, [1, 2, 3, 4, 5, 6, 7, 8]);
        rustix::io::write(&message.fds[0], b"x").expect("write");
        let mut buf = [0; 1];
        rustix::io::read(&r, &mut buf).expect("read");
        assert_eq!(&buf, b"x");
    }

    #[test]
    fn a_silent_peer_is_named_in_the_timeout() {
        let (mut a, _b) = pair();
        let error = a
            .query_u64(request::GET_FEATURES, &[], &[])
            .expect_err("nobody answers");
        assert_eq!(
            error.to_string(),
            "no answer to GET_FEATURES within 200ms (0 bytes of a message arrived)"
        );
    }

    #[test]
    fn half_a_reply_and_a_hang_up() {
        let (mut a, mut b) = pair();
        b.write_all(&header(1, VERSION | REPLY, 8)).expect("write");
        b.write_all(&[1, 2]).expect("write");
        b.shutdown(std::net::Shutdown::Write).expect("shutdown");
        let error = a
            .query_u64(request::GET_FEATURES, &[], &[])
            .expect_err("cut short");
        assert!(
            matches!(error, WireError::Disconnected { got: 14, .. }),
            "{error}"
        );
        assert!(error.source().is_none());
    }

    #[test]
    fn wrong_code_size_flags_and_value_are_told_apart() {
        for (reply, payload, expected) in [
            (
                header(2, VERSION | REPLY, 8),
                8,
                "it answers another request",
            ),
            (header(3, VERSION | REPLY, 4), 4, "8 bytes were due"),
            (header(3, VERSION, 8), 8, "its flags are not"),
            (header(3, VERSION | REPLY, 1 << 20), 0, "absurd size"),
        ] {
            let (mut a, mut b) = pair();
            b.write_all(&reply).expect("write");
            b.write_all(&vec![0; payload]).expect("write");
            let error = a
                .request_acked(request::SET_OWNER, &[], &[])
                .expect_err("bad reply");
            assert!(error.to_string().contains(expected), "{error}");
        }
        let (mut a, mut b) = pair();
        b.write_all(&header(3, VERSION | REPLY, 8)).expect("write");
        b.write_all(&22u64.to_ne_bytes()).expect("write");
        let error = a
            .request_acked(request::SET_OWNER, &[], &[])
            .expect_err("refused");
        assert_eq!(
            error.to_string(),
            "the back-end refused SET_OWNER (0 bytes sent): it answered 0x16"
        );
        let mut sent = [0; HEADER_SIZE];
        b.read_exact(&mut sent).expect("read");
        assert_eq!(parse_header(&sent), (3, VERSION | NEED_REPLY, 0));
    }
}
