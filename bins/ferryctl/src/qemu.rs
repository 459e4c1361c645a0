//! A device's state inside a whole migration stream of QEMU's.
//!
//! QEMU puts the back-end's state into the subsection `vhost-user-fs-backend` of
//! its device: byte 5 (`QEMU_VM_SUBSECTION`), the length of the name, the name, a
//! version (be32), and then blocks of a length (be32) and as many bytes, ended by a
//! length of 0.

use std::io::{self, BufRead, Read};

/// What a migration stream of QEMU's begins with.
pub const MAGIC: &[u8; 4] = b"QEVM";

/// Where a back-end's state begins.
const SUBSECTION: &[u8] = b"\x05\x15vhost-user-fs-backend";

/// Longest block; QEMU writes at most 1 MiB.
const MAX_BLOCK: u32 = 64 << 20;

/// Why there is no one state to be had.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    /// The file.
    #[error("failed to read the migration stream")]
    Io(#[from] io::Error),
    /// None.
    #[error(
        "a migration stream of QEMU's without the state of a virtio-fs back-end: the machine \
         has no such device, or its migration type is not internal"
    )]
    None,
    /// It cannot be told which is meant.
    #[error("a migration stream of QEMU's with {0} virtio-fs back-ends; cut one out")]
    Several(usize),
    /// The blocks end too early.
    #[error("the migration stream ends within the state of a virtio-fs back-end")]
    Truncated,
}

/// The back-end's state in a stream of QEMU's.
///
/// # Errors
/// See [`QemuError`].
pub fn extract(input: &mut dyn BufRead) -> Result<Vec<u8>, QemuError> {
    let mut first = None;
    let mut found = 0;
    while find(input)? {
        if let Some(state) = blocks(input)? {
            found += 1;
            first.get_or_insert(state);
        }
    }
    match (first, found) {
        (Some(state), 1) => Ok(state),
        (Some(_), n) => Err(QemuError::Several(n)),
        (None, _) => Err(QemuError::None),
    }
}

/// Reads up to the end of the next [`SUBSECTION`]; whether there is one.
fn find(input: &mut dyn BufRead) -> io::Result<bool> {
    let mut matched = 0;
    loop {
        let chunk = input.fill_buf()?;
        if chunk.is_empty() {
            return Ok(false);
        }
        let mut used = 0;
        for &byte in chunk {
            used += 1;
            // Its first byte is nowhere else in it: a mismatch begins anew.
            matched = match byte {
                _ if byte == SUBSECTION[matched] => matched + 1,
                _ => usize::from(byte == SUBSECTION[0]),
            };
            if matched == SUBSECTION.len() {
                break;
            }
        }
        input.consume(used);
        if matched == SUBSECTION.len() {
            return Ok(true);
        }
    }
}

fn be32(input: &mut dyn BufRead) -> Result<u32, QemuError> {
    let mut bytes = [0; 4];
    input.read_exact(&mut bytes).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => QemuError::Truncated,
        _ => QemuError::Io(e),
    })?;
    Ok(u32::from_be_bytes(bytes))
}

/// The blocks behind a subsection's name, as one; `None` where the bytes are no such
/// thing after all: a guest's memory can hold the name.
fn blocks(input: &mut dyn BufRead) -> Result<Option<Vec<u8>>, QemuError> {
    let version = be32(input)?;
    let mut state = Vec::new();
    loop {
        let length = be32(input)?;
        if version != 0 || length > MAX_BLOCK {
            return Ok(None);
        }
        if length == 0 {
            return Ok(Some(state));
        }
        let read = input.take(length.into()).read_to_end(&mut state)?;
        if read < length as usize {
            return Err(QemuError::Truncated);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(blocks: &[&[u8]]) -> Vec<u8> {
        let mut bytes = [SUBSECTION, &[0; 4]].concat();
        for block in blocks.iter().chain(&[&b""[..]]) {
            bytes.extend((block.len() as u32).to_be_bytes());
            bytes.extend(*block);
        }
        bytes
    }

    fn extracted(parts: &[&[u8]]) -> Result<Vec<u8>, String> {
        let bytes = parts.concat();
        // Small buffers, so that everything lies across two of them at some time.
        let mut input = io::BufReader::with_capacity(7, &bytes[..]);
        extract(&mut input).map_err(|e| e.to_string())
    }

    #[test]
    fn blocks_are_put_together() {
        let noise = [5, 0x15, 5, b'v', b'h', 0];
        let one = section(&[b"sta", b"te"]);
        let found = extracted(&[MAGIC, &noise, &[5], &one, b"\"vhost-user-fs-backend\""]);
        assert_eq!(found.unwrap(), b"state");
        assert_eq!(extracted(&[MAGIC, &section(&[])]).unwrap(), b"");
    }

    #[test]
    fn what_is_not_one_whole_state_is_refused() {
        let one = section(&[b"state"]);
        assert!(extracted(&[MAGIC, &[0; 100]])
            .unwrap_err()
            .contains("without the state"));
        assert!(extracted(&[&one, &one])
            .unwrap_err()
            .contains("with 2 virtio-fs back-ends"));
        for end in SUBSECTION.len()..one.len() {
            assert!(
                extracted(&[&one[..end]])
                    .unwrap_err()
                    .contains("ends within"),
                "{end}"
            );
        }
        // The name in a guest's memory.
        let name = [SUBSECTION, b"; and so on"].concat();
        assert_eq!(extracted(&[&name, &one]).unwrap(), b"state");
    }
}
