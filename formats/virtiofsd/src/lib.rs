//! The state streams of virtiofsd: a guest goes from the stock daemon to ferryfs,
//! and back, as it runs.
//!
//! virtiofsd 1.11 writes `V1`; 1.12 to 1.14 write `V2` and read both. The streams
//! have no header and no checksum: a first byte of 0 or 1 is all that tells them.
//! What they say and leave unsaid, and what becomes of it here, is in
//! docs/virtiofsd-dialect.md.
//!
//! - `wire`: the records in the stream, byte by byte.
//! - `import`: a stream as a [`State`], with what must be inferred.
//! - `export`: a [`State`] as a stream, with what must be refused.
//! - `session`: INIT flags, of which the stream has four bits.

mod export;
mod import;
mod input;
mod session;
mod wire;

use std::io::Read;

use ferryfs_state::{Dialect, DialectError, Limits, Losses, State, WriterInfo};

pub use wire::Version;

/// The dialect `virtiofsd-v1`: virtiofsd 1.11.
#[derive(Clone, Copy, Debug, Default)]
pub struct VirtiofsdV1;

/// The dialect `virtiofsd-v2`: virtiofsd 1.12 to 1.14.
#[derive(Clone, Copy, Debug, Default)]
pub struct VirtiofsdV2;

impl Dialect for VirtiofsdV1 {
    fn name(&self) -> &str {
        "virtiofsd-v1"
    }

    fn writer(&self) -> WriterInfo {
        WriterInfo::new("virtiofsd", "1.11")
    }

    fn recognises(&self, first: &[u8]) -> bool {
        first.first() == Some(&0)
    }

    fn read(&self, input: &mut dyn Read, limits: &Limits) -> Result<State, DialectError> {
        read(input, limits)
    }

    fn write(&self, state: &State) -> Result<(Vec<u8>, Losses), DialectError> {
        write(state, Version::V1)
    }
}

impl Dialect for VirtiofsdV2 {
    fn name(&self) -> &str {
        "virtiofsd-v2"
    }

    fn writer(&self) -> WriterInfo {
        WriterInfo::new("virtiofsd", "1.12 to 1.14")
    }

    fn recognises(&self, first: &[u8]) -> bool {
        first.first() == Some(&1)
    }

    fn read(&self, input: &mut dyn Read, limits: &Limits) -> Result<State, DialectError> {
        read(input, limits)
    }

    fn write(&self, state: &State) -> Result<(Vec<u8>, Losses), DialectError> {
        write(state, Version::V2)
    }
}

/// Reads a stream of either version up to the end of `input`. The state has not
/// been through [`validate`](mod@ferryfs_state::validate) yet.
///
/// # Errors
/// The channel; [`DialectError::Malformed`] for what no release of virtiofsd
/// writes; [`DialectError::Refused`] for what contradicts itself.
pub fn read(input: &mut dyn Read, limits: &Limits) -> Result<State, DialectError> {
    let stream = wire::Stream::read(input, limits)?;
    let verify = stream.inodes.iter().filter(|i| i.verify).count();
    if verify > 0 {
        log::info!(
            "state of virtiofsd: the file handles of {verify} inodes are not compared \
             (verify-handles); paths alone decide"
        );
    }
    import::state(stream, limits)
}

/// The stream of `version` for a valid `state`, and what it leaves out.
///
/// # Errors
/// [`DialectError::Refused`]: names that are not UTF-8, INIT flags that the guest
/// relies on and virtiofsd forgets, and what else has no place in the stream.
pub fn write(state: &State, version: Version) -> Result<(Vec<u8>, Losses), DialectError> {
    let (stream, losses) = export::stream(state, version)?;
    Ok((stream.to_bytes(), losses))
}

#[cfg(test)]
mod tests;
