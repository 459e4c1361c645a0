//! Reads a state as a whole, as records or packed.

use std::io::Read;

use super::{read_full, Packing, StreamReader};
use crate::dialect::read_dialect;
use crate::envelope::{Header, MAGIC};
use crate::error::StateError;
use crate::format::Registry;
use crate::limits::Limits;
use crate::model::{FsState, State};
use crate::packed::{IdentityRef, InodeRef, PackedFrame, PackedState};
use crate::parallel::threads;
use crate::section::Frame;
use crate::validate::{check_links, check_packed};

/// Reads a whole state and validates all of it. A stream without our magic is read
/// by the dialect of `registry` that recognises it; its header then has the
/// dialect's name for a format.
///
/// # Errors
/// Everything that is wrong with the stream; [`StateError::Empty`] for one of 0
/// bytes. Nothing of it is left then.
pub fn read_state(
    input: &mut dyn Read,
    registry: &Registry,
    limits: &Limits,
) -> Result<(Header, State), StateError> {
    read_state_on_threads(threads(), input, registry, limits)
}

/// [`read_state`] on up to `threads` threads beside this one. What comes out, and
/// what is refused in which words, does not depend on their number.
///
/// # Errors
/// As [`read_state`].
pub fn read_state_on_threads(
    threads: usize,
    input: &mut dyn Read,
    registry: &Registry,
    limits: &Limits,
) -> Result<(Header, State), StateError> {
    let mut state = State::default();
    let (header, foreign) = read_into(
        threads,
        Packing::Records,
        input,
        registry,
        limits,
        |frame| match frame.into() {
            Frame::Session(session) => state.session = Some(session),
            Frame::Inodes(inodes) => append(&mut state.fs.inodes, inodes),
            Frame::Identities(identities) => append(&mut state.fs.identities, identities),
            other => take_rest(&mut state.fs, other),
        },
    )?;
    if let Some(state) = foreign {
        return Ok((header, *state));
    }
    check_links(&state).map_err(StateError::Inconsistent)?;
    Ok((header, state))
}

/// [`read_state`] with inodes and identities packed: in a third of the memory, and less
/// time. Accepts and refuses what [`read_state`] does, in the same words.
///
/// # Errors
/// As [`read_state`].
pub fn read_packed(
    input: &mut dyn Read,
    registry: &Registry,
    limits: &Limits,
) -> Result<(Header, PackedState), StateError> {
    read_packed_on_threads(threads(), input, registry, limits)
}

/// [`read_packed`] on up to `threads` threads beside this one.
///
/// # Errors
/// As [`read_state`].
pub fn read_packed_on_threads(
    threads: usize,
    input: &mut dyn Read,
    registry: &Registry,
    limits: &Limits,
) -> Result<(Header, PackedState), StateError> {
    let mut state = PackedState::default();
    let (header, foreign) =
        read_into(
            threads,
            Packing::Packs,
            input,
            registry,
            limits,
            |frame| match frame {
                PackedFrame::Inodes(pack) => state.fs.inodes.append(pack),
                PackedFrame::Identities(pack) => state.fs.identities.append(pack),
                PackedFrame::Other(frame) => match frame {
                    Frame::Session(session) => state.session = Some(session),
                    // A format need not pack, though it should.
                    Frame::Inodes(records) => {
                        let records = records.iter().map(InodeRef::from);
                        records.for_each(|record| state.fs.inodes.push(record));
                    }
                    Frame::Identities(records) => {
                        let records = records.iter().map(IdentityRef::from);
                        records.for_each(|record| state.fs.identities.push(record));
                    }
                    other => take_rest(&mut state.fs.rest, other),
                },
            },
        )?;
    if let Some(state) = foreign {
        return Ok((header, (*state).into()));
    }
    check_packed(&state).map_err(StateError::Inconsistent)?;
    Ok((header, state))
}

/// Gives the frames of a stream of ours to `each`; another daemon's state is read as a
/// whole, and checked.
fn read_into(
    threads: usize,
    packing: Packing,
    input: &mut dyn Read,
    registry: &Registry,
    limits: &Limits,
    each: impl FnMut(PackedFrame),
) -> Result<(Header, Option<Box<State>>), StateError> {
    // What is not ours may be another daemon's.
    let mut first = [0; 12];
    let n = read_full(input, &mut first)?;
    let first = &first[..n];
    let magic = n.min(MAGIC.len());
    let dialect = match first[..magic] == MAGIC[..magic] {
        true => None,
        false => registry.dialect_of(first),
    };
    let mut input = first.chain(input);
    if let Some(dialect) = dialect {
        let (header, state) = read_dialect(dialect.as_ref(), &mut input, limits)?;
        return Ok((header, Some(Box::new(state))));
    }
    let stream = StreamReader::open(input, registry, limits)?;
    Ok((stream.each_frame(threads, packing, each)?, None))
}

/// Takes what is never packed.
fn take_rest(fs: &mut FsState, frame: Frame) {
    match frame {
        Frame::Counters(counters) => {
            fs.next_inode = counters.next_inode;
            fs.next_handle = counters.next_handle;
        }
        Frame::Mounts(mounts) => append(&mut fs.mounts, mounts),
        Frame::Handles(handles) => append(&mut fs.handles, handles),
        Frame::FileSystems(file_systems) => append(&mut fs.file_systems, file_systems),
        Frame::Locks(locks) => append(&mut fs.locks, locks),
        Frame::Requests(requests) => append(&mut fs.requests, requests),
        Frame::Ghosts(ghosts) => append(&mut fs.ghosts, ghosts),
        Frame::GhostData(data) => append(&mut fs.ghost_data, data),
        Frame::Session(_) | Frame::Inodes(_) | Frame::Identities(_) => {}
    }
}

/// Puts a frame's records behind those before it; the first are there already.
fn append<T>(all: &mut Vec<T>, mut records: Vec<T>) {
    match all.is_empty() {
        true => *all = records,
        false => all.append(&mut records),
    }
}
