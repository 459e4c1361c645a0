//! The state protocol of the QEMU RFC of March 2023, "vhost-user-fs: Implement
//! stateful migration".
//!
//! | message | payload | descriptors | answer |
//! |---|---|---|---|
//! | 41 `FS_SET_STATE_FD` | u64, size of the shared area; 0 detaches | one memfd, none to detach | `REPLY_ACK` if asked for |
//! | 42 `FS_GET_STATE` | u64 offset, u64 size | none | the same: offset, bytes from there to the end |
//! | 43 `FS_SET_STATE` | u64 offset, u64 size | none | `REPLY_ACK` if asked for |
//!
//! The state goes through the shared area piece by piece, each at the area's start.
//! A save is made when its first piece is asked for; a load is applied when the area
//! is detached, which is where its failure shows.
//!
//! The numbers have been given away since: 41 is `GET_SHARED_OBJECT`, 42
//! `SET_DEVICE_STATE_FD` and 43 `CHECK_DEVICE_STATE` today. No feature bit was ever
//! assigned to the older meaning, so a daemon knows it only when told to. The two are
//! told apart by their shape, which differs for each of the three, and what has
//! neither shape is refused.
//!
//! What the RFC leaves open is decided here:
//! - `FS_GET_STATE` has no error; a size above `SSIZE_MAX` is the one answer that its
//!   front-end takes for a failure.
//! - Pieces of a load come in order and without holes; the first that does not fails
//!   the load.
//! - Attaching again exchanges the area; what has gone through stays.
//! - Detaching what is not attached fails.
//! - A load that fails when no acknowledgement was asked for ends the connection: no
//!   guest may go on without its state.
//! - The area is never mapped: a file that shrinks costs an error, not the process.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};

use ferryfs_core::service::{Crossing, Service};
use rustix::fs::{fcntl_get_seals, fstat, SealFlags};
use rustix::pipe::PipeFlags;

use crate::crossing::Asker;
use crate::device::Device;
use crate::relay::{FrontDoor, Message, Verdict};
use crate::transfer::Direction;

const SET_STATE_FD: u32 = 41;
const GET_STATE: u32 = 42;
const SET_STATE: u32 = 43;

/// Version 1 and REPLY.
const REPLY: u32 = 1 | 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// Above `SSIZE_MAX`: the failure of `FS_GET_STATE`.
const FAILED: u64 = u64::MAX;

/// Bytes copied at a time between the area and the state.
const COPY: usize = 256 << 10;

/// The front door of a connection: answers the RFC's messages, or says which option
/// would make it.
pub(crate) struct StateDoor<S> {
    device: Arc<Device<S>>,
    session: Mutex<Session>,
}

#[derive(Default)]
struct Session {
    area: Option<Area>,
    transfer: Transfer,
}

/// The shared area.
struct Area {
    file: File,
    size: u64,
}

#[derive(Default)]
enum Transfer {
    #[default]
    None,
    /// A whole state that waits to be fetched.
    Save { state: Vec<u8> },
    /// The loader reads at the other end of the pipe.
    Load { pipe: File, received: u64 },
    /// A load that cannot become anything any more.
    Failed,
}

/// What a message of one of the three numbers means.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    /// Today's message of this number, or another number.
    Upstream,
    Attach {
        size: u64,
    },
    Detach,
    Get {
        offset: u64,
        size: u64,
    },
    Set {
        offset: u64,
        size: u64,
    },
    /// Neither the older nor today's.
    Neither,
}

impl Meaning {
    /// By number, length of the payload and descriptors.
    fn of(message: &Message) -> Meaning {
        let long = |at: usize| {
            let bytes = message.payload().get(at * 8..at * 8 + 8);
            bytes.map_or(0, |b| {
                u64::from_ne_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])
            })
        };
        let (offset, size) = (long(0), long(1));
        match (
            message.request(),
            message.payload().len(),
            message.fds.len(),
        ) {
            (SET_STATE_FD, 8, 1) if long(0) > 0 => Meaning::Attach { size: long(0) },
            (SET_STATE_FD, 8, 0) if long(0) == 0 => Meaning::Detach,
            (GET_STATE, 16, 0) => Meaning::Get { offset, size },
            (SET_STATE, 16, 0) => Meaning::Set { offset, size },
            // GET_SHARED_OBJECT: a UUID.
            (SET_STATE_FD, 16, 0) => Meaning::Upstream,
            // SET_DEVICE_STATE_FD: direction and phase.
            (GET_STATE, 8, 1) => Meaning::Upstream,
            // CHECK_DEVICE_STATE.
            (SET_STATE, 0, 0) => Meaning::Upstream,
            (SET_STATE_FD..=SET_STATE, _, _) => Meaning::Neither,
            _ => Meaning::Upstream,
        }
    }
}

impl<S: Service + Crossing> FrontDoor for StateDoor<S> {
    fn inspect(&self, message: Message) -> Verdict {
        match Meaning::of(&message) {
            Meaning::Upstream => Verdict::Forward(message),
            Meaning::Neither => Verdict::Refuse(format!(
                "request {} with a payload of {} bytes and {} descriptors: neither today's message \
                 of that number nor the state protocol of 2023",
                message.request(),
                message.payload().len(),
                message.fds.len()
            )),
            _ if !self.device.config().rfc_state_protocol => Verdict::Refuse(format!(
                "request {} of the state protocol of 2023, which is switched off: start the daemon \
                 with --rfc-state-protocol",
                message.request()
            )),
            meaning => self.answer(meaning, message),
        }
    }
}

impl<S: Service + Crossing> StateDoor<S> {
    pub(crate) fn new(device: Arc<Device<S>>) -> Self {
        StateDoor {
            device,
            session: Mutex::default(),
        }
    }

    fn answer(&self, meaning: Meaning, mut message: Message) -> Verdict {
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let (request, acknowledged) = (message.request(), message.flags() & NEED_REPLY != 0);
        let done = match meaning {
            Meaning::Get { offset, size } => {
                let left = session.get(&self.device, offset, size).unwrap_or_else(|e| {
                    log::error!("FS_GET_STATE of {size} bytes at {offset}: {e}");
                    FAILED
                });
                let mut payload = offset.to_ne_bytes().to_vec();
                payload.extend_from_slice(&left.to_ne_bytes());
                return Verdict::Answer(Message::new(request, REPLY, &payload));
            }
            Meaning::Attach { size } => Area::new(message.fds.pop(), size)
                .map(|area| session.area = Some(area))
                .map_err(|e| (format!("FS_SET_STATE_FD of {size} bytes: {e}"), false)),
            Meaning::Set { offset, size } => session.set(&self.device, offset, size).map_err(|e| {
                (
                    format!("FS_SET_STATE of {size} bytes at {offset}: {e}"),
                    false,
                )
            }),
            // What is neither is not answered here.
            Meaning::Detach | Meaning::Upstream | Meaning::Neither => {
                session.detach(&self.device).map_err(|e| (e, true))
            }
        };
        if let Err((why, loses_state)) = &done {
            log::error!("{why}");
            if *loses_state && !acknowledged {
                return Verdict::Refuse(format!(
                    "{why}; nobody asked for an acknowledgement, so this is the only way to say it"
                ));
            }
        }
        if !acknowledged {
            return Verdict::Swallow;
        }
        let code = u64::from(done.is_err());
        Verdict::Answer(Message::new(request, REPLY, &code.to_ne_bytes()))
    }
}

impl Session {
    /// Puts a piece of the state into the area. Bytes from `offset` to the state's end.
    fn get<S: Service + Crossing>(
        &mut self,
        device: &Device<S>,
        offset: u64,
        size: u64,
    ) -> Result<u64, String> {
        let area = self.area.as_ref().ok_or("no shared area is attached")?;
        area.has(size)?;
        if matches!(self.transfer, Transfer::None) {
            let state = save(device).map_err(|e| format!("failed to save: {e}"))?;
            self.transfer = Transfer::Save { state };
        }
        let Transfer::Save { state } = &self.transfer else {
            return Err("a load is under way, or has failed: detach first".into());
        };
        let left = usize::try_from(offset)
            .ok()
            .and_then(|offset| state.get(offset..))
            .ok_or_else(|| format!("the state has {} bytes", state.len()))?;
        let piece = &left[..left.len().min(usize::try_from(size).unwrap_or(usize::MAX))];
        area.file
            .write_all_at(piece, 0)
            .map_err(|e| format!("failed to fill the shared area: {e}"))?;
        Ok(left.len() as u64)
    }

    /// Takes a piece of a state out of the area.
    fn set<S: Service + Crossing>(
        &mut self,
        device: &Device<S>,
        offset: u64,
        size: u64,
    ) -> Result<(), String> {
        let outcome = self.set_piece(device, offset, size);
        // Detaching must not succeed after a piece, be it the first, was refused.
        if outcome.is_err() && !matches!(self.transfer, Transfer::Save { .. }) {
            self.fail(device);
        }
        outcome
    }

    fn set_piece<S: Service + Crossing>(
        &mut self,
        device: &Device<S>,
        offset: u64,
        size: u64,
    ) -> Result<(), String> {
        let area = self.area.as_ref().ok_or("no shared area is attached")?;
        area.has(size)?;
        match &self.transfer {
            Transfer::None => {
                if offset != 0 {
                    return Err("the first piece of a state is at 0".into());
                }
                let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
                    .map_err(|e| format!("no pipe to load through: {e}"))?;
                device
                    .start_transfer(Asker::FrontEnd, Direction::Load, read.into())
                    .map_err(|e| format!("refused to load: {e}"))?;
                self.transfer = Transfer::Load {
                    pipe: write.into(),
                    received: 0,
                };
            }
            Transfer::Load { .. } => {}
            Transfer::Save { .. } => return Err("a state is being saved".into()),
            Transfer::Failed => return Err("the load has failed before".into()),
        }
        let (Some(area), Transfer::Load { pipe, received }) = (&self.area, &mut self.transfer)
        else {
            return Err("no load runs".into());
        };
        if offset != *received {
            return Err(format!("the next piece is at {received}"));
        }
        take(&area.file, size, pipe).map_err(|e| match e.kind() {
            // It has said why.
            io::ErrorKind::BrokenPipe => "the state has been refused already".to_owned(),
            _ => format!("failed to take the piece out of the shared area: {e}"),
        })?;
        *received += size;
        Ok(())
    }

    /// Ends a load that has gone wrong, without an outcome of its own.
    fn fail<S: Service + Crossing>(&mut self, device: &Device<S>) {
        if let Transfer::Load { .. } = std::mem::replace(&mut self.transfer, Transfer::Failed) {
            device.give_up();
            let _ = device.finish_transfer();
        }
    }

    /// Lets the area go; a load is applied now.
    fn detach<S: Service + Crossing>(&mut self, device: &Device<S>) -> Result<(), String> {
        let attached = self.area.take().is_some();
        match std::mem::take(&mut self.transfer) {
            Transfer::Load { pipe, received } => {
                // The end of the state.
                drop(pipe);
                device
                    .finish_transfer()
                    .map_err(|e| format!("state of {received} bytes not loaded: {e}"))
            }
            Transfer::Failed => Err("state not loaded: a piece of it was refused".into()),
            Transfer::None | Transfer::Save { .. } if attached => Ok(()),
            Transfer::None | Transfer::Save { .. } => {
                Err("FS_SET_STATE_FD of 0 bytes: no shared area is attached".into())
            }
        }
    }
}

impl Area {
    fn new(fd: Option<OwnedFd>, size: u64) -> Result<Area, String> {
        let fd = fd.ok_or("no descriptor came with it")?;
        let seals = fcntl_get_seals(&fd).map_err(|e| format!("its descriptor is no memfd: {e}"))?;
        if !seals.contains(SealFlags::SHRINK) {
            return Err("its memfd can still shrink: seal it with F_SEAL_SHRINK".into());
        }
        let has = fstat(&fd).map_err(|e| e.to_string())?.st_size;
        if u64::try_from(has).unwrap_or(0) < size {
            return Err(format!("its memfd has {has} bytes"));
        }
        Ok(Area {
            file: fd.into(),
            size,
        })
    }

    fn has(&self, size: u64) -> Result<(), String> {
        if size > self.size {
            return Err(format!("the shared area has {} bytes", self.size));
        }
        Ok(())
    }
}

/// The device's whole state.
fn save<S: Service + Crossing>(device: &Device<S>) -> io::Result<Vec<u8>> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    device.start_transfer(Asker::FrontEnd, Direction::Save, write.into())?;
    let mut state = Vec::new();
    let read = File::from(read).read_to_end(&mut state);
    // Its failure is the better reason.
    device.finish_transfer()?;
    read?;
    Ok(state)
}

/// Moves the first `size` bytes of the area into the pipe.
fn take(area: &File, size: u64, pipe: &mut File) -> io::Result<()> {
    let mut buf = vec![0; COPY.min(usize::try_from(size).unwrap_or(COPY))];
    let mut at = 0;
    while at < size {
        let n = buf.len().min(usize::try_from(size - at).unwrap_or(COPY));
        area.read_exact_at(&mut buf[..n], at)?;
        pipe.write_all(&buf[..n])?;
        at += n as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(request: u32, payload: &[u8], fds: usize) -> Message {
        let mut message = Message::new(request, 1, payload);
        message.fds = (0..fds)
            .map(|_| tempfile::tempfile().unwrap().into())
            .collect();
        message
    }

    #[test]
    fn old_and_new_meanings_are_told_apart() {
        let meaning = |request, payload: &[u8], fds| Meaning::of(&message(request, payload, fds));
        let long = 7u64.to_ne_bytes();
        let two = [5u64.to_ne_bytes(), 6u64.to_ne_bytes()].concat();
        let (offset, size) = (5, 6);
        assert_eq!(meaning(41, &long, 1), Meaning::Attach { size: 7 });
        assert_eq!(meaning(41, &[0; 8], 0), Meaning::Detach);
        assert_eq!(meaning(42, &two, 0), Meaning::Get { offset, size });
        assert_eq!(meaning(43, &two, 0), Meaning::Set { offset, size });
        for (request, payload, fds) in [
            (41, &two[..], 0),
            (42, &long[..], 1),
            (43, &[][..], 0),
            (40, &long[..], 1),
            (44, &two[..], 0),
        ] {
            assert_eq!(
                meaning(request, payload, fds),
                Meaning::Upstream,
                "{request}"
            );
        }
        for (request, payload, fds) in [
            (41, &long[..], 0),
            (41, &[0; 8][..], 1),
            (41, &two[..], 1),
            (41, &[][..], 0),
            (42, &long[..], 0),
            (42, &two[..], 1),
            (43, &long[..], 0),
            (43, &two[..], 1),
            (43, &[0; 24][..], 0),
        ] {
            assert_eq!(
                meaning(request, payload, fds),
                Meaning::Neither,
                "{request}"
            );
        }
    }
}
