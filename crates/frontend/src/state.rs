//! Transfer of device state: SET_DEVICE_STATE_FD, the pipe, CHECK_DEVICE_STATE; and
//! QEMU's framing of the same bytes in a migration stream or file.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::{pipe_with, PipeFlags};

use crate::frontend::{protocol, Frontend, FrontendError};
use crate::wire::{request, wait_for};

/// Direction in SET_DEVICE_STATE_FD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The back-end writes its state.
    Save = 0,
    /// The back-end reads its state.
    Load = 1,
}

/// How a transfer of state can fail.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A message failed.
    #[error(transparent)]
    Frontend(#[from] FrontendError),
    /// The back-end refused SET_DEVICE_STATE_FD.
    #[error(
        "the back-end refused to {direction:?} its state: SET_DEVICE_STATE_FD answered {value:#x}"
    )]
    Refused {
        /// Save or load.
        direction: Direction,
        /// The u64 that came back.
        value: u64,
    },
    /// The pipe broke or could not be made.
    #[error("the state's pipe failed after {done} bytes ({direction:?})")]
    Pipe {
        /// Save or load.
        direction: Direction,
        /// Bytes that went through.
        done: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The back-end neither reads nor writes.
    #[error("the state's pipe stood still for {timeout:?} after {done} bytes ({direction:?})")]
    Stalled {
        /// Save or load.
        direction: Direction,
        /// Bytes that went through.
        done: usize,
        /// How long nothing moved.
        timeout: Duration,
    },
    /// CHECK_DEVICE_STATE says no.
    #[error("the back-end failed to {direction:?} its state ({done} bytes went through): CHECK_DEVICE_STATE answered {value:#x}")]
    Failed {
        /// Save or load.
        direction: Direction,
        /// Bytes that went through.
        done: usize,
        /// The u64 that came back.
        value: u64,
    },
    /// FS_GET_STATE of the protocol of 2023, which has no other way to say no.
    #[error("the back-end failed to save its state: FS_GET_STATE at {offset} answered {size:#x}")]
    NotSaved {
        /// Asked for.
        offset: u64,
        /// What came back as the bytes that are left.
        size: u64,
    },
    /// State went to or came from somewhere that failed.
    #[error("cannot {what} the state")]
    File {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A framed stream that is none.
    #[error("bad framing at byte {offset}: {why}")]
    Framing {
        /// Where.
        offset: u64,
        /// What is wrong.
        why: &'static str,
    },
}

/// Most bytes of a block in QEMU's framing, as QEMU writes them.
pub const QEMU_BLOCK: usize = 1 << 20;

impl Frontend {
    /// SET_DEVICE_STATE_FD. Returns the descriptor the back-end wants to be used
    /// instead, if any.
    ///
    /// # Errors
    /// [`StateError::Refused`], [`StateError::Frontend`].
    pub fn set_device_state_fd(
        &mut self,
        direction: Direction,
        phase: u32,
        fd: impl AsFd,
    ) -> Result<Option<OwnedFd>, StateError> {
        let code = request::SET_DEVICE_STATE_FD;
        self.needs_device_state(code)?;
        let payload = crate::frontend::state(direction as u32, phase);
        let reply = self.connection().query(code, &payload, &[fd.as_fd()]);
        let mut reply = reply.map_err(FrontendError::from)?;
        let Some(value) = reply.as_u64() else {
            return Err(FrontendError::from(reply.unexpected(code, "8 bytes were due")).into());
        };
        if value & 0xff != 0 {
            return Err(StateError::Refused { direction, value });
        }
        let own = reply.fds.pop();
        if own.is_some() != (value & 0x100 == 0) {
            let why = "its invalid-FD bit and its descriptor contradict each other";
            return Err(FrontendError::from(reply.unexpected(code, why)).into());
        }
        Ok(own)
    }

    /// CHECK_DEVICE_STATE: the bare answer, 0 for success.
    ///
    /// # Errors
    /// [`StateError::Frontend`].
    pub fn check_device_state(&mut self) -> Result<u64, StateError> {
        let code = request::CHECK_DEVICE_STATE;
        self.needs_device_state(code)?;
        let value = self.connection().query_u64(code, &[], &[]);
        Ok(value.map_err(FrontendError::from)?)
    }

    fn needs_device_state(&self, code: u32) -> Result<(), StateError> {
        if self.protocol_acked() & protocol::DEVICE_STATE == 0 {
            let request = crate::wire::request_name(code);
            let needs = "DEVICE_STATE";
            return Err(FrontendError::NotNegotiated { request, needs }.into());
        }
        Ok(())
    }

    fn checked(&mut self, direction: Direction, done: usize) -> Result<(), StateError> {
        match self.check_device_state()? {
            0 => Ok(()),
            value => Err(StateError::Failed {
                direction,
                done,
                value,
            }),
        }
    }

    /// Has the back-end save its state and writes it to `out` as it comes. Bytes of
    /// the state.
    ///
    /// # Errors
    /// Any [`StateError`].
    pub fn save_state(&mut self, out: &mut impl Write) -> Result<usize, StateError> {
        let direction = Direction::Save;
        let (ours, theirs) = state_pipe(direction)?;
        let own = self.set_device_state_fd(direction, 0, &theirs)?;
        drop(theirs);
        let ours = own.unwrap_or(ours);
        let timeout = self.connection().timeout();
        let mut chunk = vec![0; QEMU_BLOCK];
        let mut done = 0;
        loop {
            match transfer(&ours, direction, done, timeout, |fd| {
                rustix::io::read(fd, &mut *chunk)
            })? {
                0 => break,
                n => {
                    let written = out.write_all(&chunk[..n]);
                    written.map_err(|source| StateError::File {
                        what: "write",
                        source,
                    })?;
                    done += n;
                }
            }
        }
        self.checked(direction, done)?;
        Ok(done)
    }

    /// Has the back-end load the state read from `input`, to its end. Bytes of the
    /// state.
    ///
    /// A back-end that stops reading early has its say in CHECK_DEVICE_STATE, which
    /// is then the error returned.
    ///
    /// # Errors
    /// Any [`StateError`].
    pub fn load_state(&mut self, input: &mut impl Read) -> Result<usize, StateError> {
        let direction = Direction::Load;
        let (theirs, ours) = state_pipe(direction)?;
        let own = self.set_device_state_fd(direction, 0, &theirs)?;
        drop(theirs);
        let ours = own.unwrap_or(ours);
        let timeout = self.connection().timeout();
        let mut chunk = vec![0; QEMU_BLOCK];
        let mut done = 0;
        'input: loop {
            let n = match input.read(&mut chunk) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    return Err(StateError::File {
                        what: "read",
                        source,
                    })
                }
            };
            let mut from = 0;
            while from < n {
                let rest = &chunk[from..n];
                match transfer(&ours, direction, done, timeout, |fd| {
                    rustix::io::write(fd, rest)
                }) {
                    Ok(moved) => {
                        from += moved;
                        done += moved;
                    }
                    Err(StateError::Pipe { source, .. })
                        if source.kind() == io::ErrorKind::BrokenPipe =>
                    {
                        break 'input;
                    }
                    Err(e) => return Err(e),
                }
            }
        }
        drop(ours);
        self.checked(direction, done)?;
        Ok(done)
    }
}

/// A pipe as {reading end, writing end}.
fn state_pipe(direction: Direction) -> Result<(OwnedFd, OwnedFd), StateError> {
    let pipe = pipe_with(PipeFlags::CLOEXEC);
    pipe.map_err(|e| StateError::Pipe {
        direction,
        done: 0,
        source: e.into(),
    })
}

/// One read or write on our end of the pipe, after waiting until it can be done.
fn transfer(
    fd: &OwnedFd,
    direction: Direction,
    done: usize,
    timeout: Duration,
    mut io: impl FnMut(&OwnedFd) -> Result<usize, Errno>,
) -> Result<usize, StateError> {
    let failed = |source: io::Error| StateError::Pipe {
        direction,
        done,
        source,
    };
    // Only our end becomes non-blocking: the two ends are open files of their own.
    let flags = rustix::fs::fcntl_getfl(fd).map_err(|e| failed(e.into()))?;
    if !flags.contains(OFlags::NONBLOCK) {
        let set = rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK);
        set.map_err(|e| failed(e.into()))?;
    }
    let events = match direction {
        Direction::Save => PollFlags::IN,
        Direction::Load => PollFlags::OUT,
    };
    let deadline = Instant::now() + timeout;
    loop {
        match io(fd) {
            Ok(n) => return Ok(n),
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => {
                if !wait_for(fd, events, deadline).map_err(failed)? {
                    return Err(StateError::Stalled {
                        direction,
                        done,
                        timeout,
                    });
                }
            }
            Err(e) => return Err(failed(e.into())),
        }
    }
}

/// Writes state as QEMU frames it: blocks of be32 length and bytes, ended by a
/// length of 0.
///
/// # Errors
/// [`StateError::File`].
pub fn write_qemu_framed(state: &[u8], out: &mut impl Write) -> Result<(), StateError> {
    let write = || -> io::Result<()> {
        for block in state.chunks(QEMU_BLOCK) {
            out.write_all(&(block.len() as u32).to_be_bytes())?;
            out.write_all(block)?;
        }
        out.write_all(&0u32.to_be_bytes())
    };
    let mut write = write;
    write().map_err(|source| StateError::File {
        what: "write",
        source,
    })
}

/// Reads state framed as by [`write_qemu_framed`], at most `limit` bytes of it.
/// What follows the end is left unread.
///
/// # Errors
/// [`StateError::Framing`] for a stream cut short or above the limit,
/// [`StateError::File`].
pub fn read_qemu_framed(input: &mut impl Read, limit: u64) -> Result<Vec<u8>, StateError> {
    let mut state = Vec::new();
    let mut offset = 0;
    loop {
        let mut length = [0; 4];
        read_exactly(
            input,
            &mut length,
            offset,
            "the stream ends where a length is due",
        )?;
        offset += 4;
        let length = u32::from_be_bytes(length) as usize;
        if length == 0 {
            return Ok(state);
        }
        if state.len() as u64 + length as u64 > limit {
            return Err(StateError::Framing {
                offset,
                why: "the state is larger than allowed",
            });
        }
        // Grow as bytes arrive, not as a length claims.
        let before = state.len();
        let got = input.take(length as u64).read_to_end(&mut state);
        got.map_err(|source| StateError::File {
            what: "read",
            source,
        })?;
        if state.len() - before != length {
            return Err(StateError::Framing {
                offset,
                why: "the stream ends within a block",
            });
        }
        offset += length as u64;
    }
}

pub(crate) fn read_exactly(
    input: &mut impl Read,
    buf: &mut [u8],
    offset: u64,
    why: &'static str,
) -> Result<(), StateError> {
    input.read_exact(buf).map_err(|source| match source.kind() {
        io::ErrorKind::UnexpectedEof => StateError::Framing { offset, why },
        _ => StateError::File {
            what: "read",
            source,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(state: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write_qemu_framed(state, &mut out).expect("to a Vec");
        out
    }

    #[test]
    fn framing_round_trip() {
        for size in [
            0,
            1,
            QEMU_BLOCK - 1,
            QEMU_BLOCK,
            QEMU_BLOCK + 1,
            3 * QEMU_BLOCK,
        ] {
            let state: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            let mut bytes = framed(&state);
            assert_eq!(bytes.len(), 4 + size + 4 * size.div_ceil(QEMU_BLOCK));
            bytes.extend_from_slice(b"more");
            let mut input = bytes.as_slice();
            assert_eq!(
                read_qemu_framed(&mut input, 1 << 30).expect("framed"),
                state
            );
            assert_eq!(input, b"more");
        }
    }

    #[test]
    fn every_truncation_and_a_limit_are_refused() {
        let bytes = framed(b"hello");
        for len in 0..bytes.len() {
            let error = read_qemu_framed(&mut &bytes[..len], 100).expect_err("cut short");
            assert!(
                matches!(error, StateError::Framing { .. }),
                "{len}: {error}"
            );
        }
        read_qemu_framed(&mut bytes.as_slice(), 4).expect_err("above the limit");
        read_qemu_framed(&mut bytes.as_slice(), 5).expect("at the limit");
    }

    proptest::proptest! {
        #[test]
        fn framing_takes_any_bytes(bytes: Vec<u8>, limit in 0u64..100) {
            if let Ok(state) = read_qemu_framed(&mut bytes.as_slice(), limit) {
                proptest::prop_assert!(state.len() as u64 <= limit);
            }
        }
    }
}
