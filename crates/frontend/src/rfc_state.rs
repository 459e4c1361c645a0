//! Transfer of device state as the QEMU RFC of March 2023 had it ("vhost-user-fs:
//! Implement stateful migration"): a shared memfd through which the state goes chunk
//! by chunk, and the RFC's framing of the same bytes in a migration stream or file.
//!
//! The RFC's message numbers 41 to 43 mean other things today, and it had no feature
//! bit to ask for: who uses this must know that the back-end speaks it (ferryfsd does
//! with `--rfc-state-protocol`).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use memfd::{FileSeal, MemfdOptions};

use crate::frontend::{Frontend, FrontendError};
use crate::state::{Direction, StateError};
use crate::wire::WireError;

/// Size of the shared area in bytes, and the most that goes through at a time.
pub const CHUNK: usize = 4 << 20;

/// Attach (size of the area, and its descriptor) or detach (0, and none).
pub const FS_SET_STATE_FD: u32 = 41;
/// Fetch a chunk of the state: offset and size; answered by offset and the bytes from
/// there to the state's end.
pub const FS_GET_STATE: u32 = 42;
/// Hand over a chunk of the state: offset and size.
pub const FS_SET_STATE: u32 = 43;

/// By which messages device state is transferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StateChannel {
    /// SET_DEVICE_STATE_FD, a pipe, CHECK_DEVICE_STATE: QEMU 8.2 and later.
    #[default]
    DeviceState,
    /// FS_SET_STATE_FD, FS_GET_STATE, FS_SET_STATE: the RFC of 2023.
    Rfc,
}

/// A refusal with the name that the message has here: its number has another one today.
fn refused(mut error: FrontendError, name: &'static str) -> FrontendError {
    if let FrontendError::Wire(WireError::Refused { request, .. }) = &mut error {
        *request = name;
    }
    error
}

impl Frontend {
    /// Has the back-end save its state by `channel` and writes it to `out` as it comes.
    /// Bytes of the state.
    ///
    /// # Errors
    /// Any [`StateError`].
    pub fn save_state_by(
        &mut self,
        channel: StateChannel,
        out: &mut impl Write,
    ) -> Result<usize, StateError> {
        match channel {
            StateChannel::DeviceState => self.save_state(out),
            StateChannel::Rfc => self.save_state_rfc(out),
        }
    }

    /// Has the back-end load, by `channel`, the state read from `input`, to its end.
    /// Bytes of the state.
    ///
    /// # Errors
    /// Any [`StateError`].
    pub fn load_state_by(
        &mut self,
        channel: StateChannel,
        input: &mut impl Read,
    ) -> Result<usize, StateError> {
        match channel {
            StateChannel::DeviceState => self.load_state(input),
            StateChannel::Rfc => self.load_state_rfc(input),
        }
    }

    /// FS_SET_STATE_FD with an area of `size` bytes.
    ///
    /// # Errors
    /// [`StateError::Frontend`].
    pub fn attach_state_area(&mut self, area: impl AsFd, size: u64) -> Result<(), StateError> {
        let asked = self.request(FS_SET_STATE_FD, &size.to_ne_bytes(), &[area.as_fd()]);
        Ok(asked.map_err(|e| refused(e, "FS_SET_STATE_FD"))?)
    }

    /// FS_SET_STATE_FD with nothing: the back-end lets the area go, and applies what it
    /// was handed.
    ///
    /// # Errors
    /// [`StateError::Frontend`]; for a load, the back-end's refusal.
    pub fn detach_state_area(&mut self) -> Result<(), StateError> {
        let asked = self.request(FS_SET_STATE_FD, &[0; 8], &[]);
        Ok(asked.map_err(|e| refused(e, "FS_SET_STATE_FD"))?)
    }

    /// FS_GET_STATE: bytes of the state from `offset` to its end, of which as many as
    /// `size` allows are now in the area.
    ///
    /// # Errors
    /// [`StateError::Frontend`]; [`StateError::NotSaved`] where the back-end answers
    /// with a size that none can have.
    pub fn get_state_chunk(&mut self, offset: u64, size: u64) -> Result<u64, StateError> {
        let reply = self
            .connection()
            .query(FS_GET_STATE, &range(offset, size), &[])
            .map_err(FrontendError::from)?;
        let unexpected =
            |why| StateError::from(FrontendError::from(reply.unexpected(FS_GET_STATE, why)));
        let (Some(at), Some(left)) = (long(&reply.payload, 0), long(&reply.payload, 1)) else {
            return Err(unexpected("16 bytes were due"));
        };
        if at != offset || reply.payload.len() != 16 {
            return Err(unexpected(
                "it is of another offset, or has more than 16 bytes",
            ));
        }
        if left > i64::MAX as u64 {
            return Err(StateError::NotSaved { offset, size: left });
        }
        Ok(left)
    }

    /// FS_SET_STATE: the first `size` bytes of the area are the state's from `offset`.
    ///
    /// # Errors
    /// [`StateError::Frontend`].
    pub fn set_state_chunk(&mut self, offset: u64, size: u64) -> Result<(), StateError> {
        let asked = self.request(FS_SET_STATE, &range(offset, size), &[]);
        Ok(asked.map_err(|e| refused(e, "FS_SET_STATE"))?)
    }

    fn save_state_rfc(&mut self, out: &mut impl Write) -> Result<usize, StateError> {
        let area = self.new_area(Direction::Save)?;
        let mut chunk = vec![0; CHUNK];
        let mut done = 0;
        let mut total = None;
        let outcome = loop {
            let left = match self.get_state_chunk(done as u64, CHUNK as u64) {
                Ok(left) => left,
                Err(e) => break Err(e),
            };
            // The RFC's stream begins with the first answer: it must hold.
            let all = *total.get_or_insert(left);
            if done as u64 + left != all {
                break Err(StateError::Framing {
                    offset: done as u64,
                    why: "the back-end's state has another size than it first said",
                });
            }
            let n = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let moved = area.read_exact_at(&mut chunk[..n], 0);
            let moved = moved.map_err(|source| StateError::File {
                what: "read from the shared area",
                source,
            });
            let moved = moved.and_then(|()| {
                out.write_all(&chunk[..n])
                    .map_err(|source| StateError::File {
                        what: "write",
                        source,
                    })
            });
            if let Err(e) = moved {
                break Err(e);
            }
            done += n;
            if n < CHUNK {
                break Ok(done);
            }
        };
        // Detached in either case; the first failure is the one to tell of.
        let detached = self.detach_state_area();
        let done = outcome?;
        detached?;
        Ok(done)
    }

    fn load_state_rfc(&mut self, input: &mut impl Read) -> Result<usize, StateError> {
        let area = self.new_area(Direction::Load)?;
        let mut chunk = Vec::with_capacity(CHUNK);
        let mut done = 0;
        loop {
            chunk.clear();
            let got = input.by_ref().take(CHUNK as u64).read_to_end(&mut chunk);
            let n = got.map_err(|source| StateError::File {
                what: "read",
                source,
            })?;
            // An empty state is one empty chunk.
            if n > 0 || done == 0 {
                area.write_all_at(&chunk, 0)
                    .map_err(|source| StateError::File {
                        what: "write to the shared area",
                        source,
                    })?;
                self.set_state_chunk(done as u64, n as u64)?;
            }
            done += n;
            if n < CHUNK {
                break;
            }
        }
        self.detach_state_area()?;
        Ok(done)
    }

    fn new_area(&mut self, direction: Direction) -> Result<File, StateError> {
        let make = || -> Result<File, Box<dyn std::error::Error + Send + Sync>> {
            let area = MemfdOptions::default()
                .allow_sealing(true)
                .create("vhost-fs-state")?;
            area.as_file().set_len(CHUNK as u64)?;
            area.add_seals(&[FileSeal::SealShrink, FileSeal::SealGrow, FileSeal::SealSeal])?;
            Ok(area.into_file())
        };
        let area = make().map_err(|source| StateError::Pipe {
            direction,
            done: 0,
            source: io::Error::other(source),
        })?;
        self.attach_state_area(&area, CHUNK as u64)?;
        Ok(area)
    }
}

fn range(offset: u64, size: u64) -> [u8; 16] {
    let mut payload = [0; 16];
    payload[..8].copy_from_slice(&offset.to_ne_bytes());
    payload[8..].copy_from_slice(&size.to_ne_bytes());
    payload
}

fn long(payload: &[u8], at: usize) -> Option<u64> {
    let bytes = payload.get(at * 8..at * 8 + 8)?;
    Some(u64::from_ne_bytes(bytes.try_into().ok()?))
}

/// Writes state as the RFC's QEMU frames it: be64 length and bytes.
///
/// # Errors
/// [`StateError::File`].
pub fn write_rfc_framed(state: &[u8], out: &mut impl Write) -> Result<(), StateError> {
    out.write_all(&(state.len() as u64).to_be_bytes())
        .and_then(|()| out.write_all(state))
        .map_err(|source| StateError::File {
            what: "write",
            source,
        })
}

/// Reads state framed as by [`write_rfc_framed`], at most `limit` bytes of it. What
/// follows is left unread.
///
/// # Errors
/// [`StateError::Framing`] for a stream cut short or above the limit,
/// [`StateError::File`].
pub fn read_rfc_framed(input: &mut impl Read, limit: u64) -> Result<Vec<u8>, StateError> {
    let mut length = [0; 8];
    crate::state::read_exactly(
        input,
        &mut length,
        0,
        "the stream ends where a length is due",
    )?;
    let length = u64::from_be_bytes(length);
    if length > limit {
        return Err(StateError::Framing {
            offset: 0,
            why: "the state is larger than allowed",
        });
    }
    // Grow as bytes arrive, not as a length claims.
    let mut state = Vec::new();
    let got = input.take(length).read_to_end(&mut state);
    got.map_err(|source| StateError::File {
        what: "read",
        source,
    })?;
    if state.len() as u64 != length {
        return Err(StateError::Framing {
            offset: 8 + state.len() as u64,
            why: "the stream ends within the state",
        });
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn framing_round_trip_and_every_truncation() {
        for state in [&b""[..], b"x", b"a state"] {
            let mut bytes = Vec::new();
            write_rfc_framed(state, &mut bytes).expect("to a Vec");
            assert_eq!(bytes[..8], (state.len() as u64).to_be_bytes());
            let mut input = [&bytes[..], b"more"].concat();
            let mut rest = input.as_slice();
            assert_eq!(read_rfc_framed(&mut rest, 7).expect("framed"), state);
            assert_eq!(rest, b"more");
            for len in 0..bytes.len() {
                input.truncate(len);
                let cut = read_rfc_framed(&mut &bytes[..len], 7).expect_err("cut short");
                assert!(matches!(cut, StateError::Framing { .. }), "{len}: {cut}");
            }
        }
        let mut bytes = Vec::new();
        write_rfc_framed(b"a state", &mut bytes).expect("to a Vec");
        read_rfc_framed(&mut bytes.as_slice(), 6).expect_err("above the limit");
    }

    proptest::proptest! {
        #[test]
        fn framing_takes_any_bytes(bytes: Vec<u8>, limit in 0u64..100) {
            if let Ok(state) = read_rfc_framed(&mut bytes.as_slice(), limit) {
                proptest::prop_assert!(state.len() as u64 <= limit);
            }
        }
    }
}
