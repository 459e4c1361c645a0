//! Requests as raw as one likes: any header, any bytes, any split into descriptors.

use std::sync::Arc;

use crate::client::{ClientError, FsClient};
use crate::fuse::{self, Fields, Short};
use crate::queue::{QueueError, Segment};

impl FsClient {
    /// Sends bytes as they are, one descriptor per element of `readable` and
    /// `writable`, on the high-priority queue if `hiprio`. Waits until the chain
    /// comes back.
    ///
    /// # Errors
    /// [`ClientError::Queue`].
    pub fn exchange(
        &self,
        readable: &[&[u8]],
        writable: &[usize],
        hiprio: bool,
    ) -> Result<RawReply, ClientError> {
        let first = readable.first().copied().unwrap_or_default();
        let (opcode, nodeid) = InHeader::peek(first);
        self.try_exchange(readable, writable, hiprio)
            .map_err(|source| ClientError::Queue {
                opcode,
                nodeid,
                source,
            })
    }

    fn try_exchange(
        &self,
        readable: &[&[u8]],
        writable: &[usize],
        hiprio: bool,
    ) -> Result<RawReply, QueueError> {
        let total: usize = readable.iter().map(|part| part.len()).sum();
        let room: usize = writable.iter().sum();
        let request = Arc::new(self.memory().alloc(total)?);
        let reply = Arc::new(self.memory().alloc(room)?);
        reply.write_at(0, &vec![0; room])?;
        let mut chain = Vec::with_capacity(readable.len() + writable.len());
        let mut at = 0;
        for part in readable {
            request.write_at(at, part)?;
            let gpa = request.gpa() + at as u64;
            chain.push(Segment {
                gpa,
                len: part.len() as u32,
                writable: false,
            });
            at += part.len();
        }
        let mut at = 0;
        for len in writable {
            let gpa = reply.gpa() + at as u64;
            chain.push(Segment {
                gpa,
                len: *len as u32,
                writable: true,
            });
            at += len;
        }
        let queue = if hiprio { self.hiprio() } else { self.queue() };
        let keep = [Some(request), Some(Arc::clone(&reply)), None];
        let token = queue.submit(&chain, keep, self.timeout())?;
        let written = queue.wait(token, self.timeout());
        let written = written.inspect_err(|_| queue.abandon(token))?;
        Ok(RawReply {
            written,
            bytes: reply.to_vec(0, room),
        })
    }

    /// Sends a request of any code with any body in two descriptors, header and
    /// body, with `room` bytes for the whole answer. The header is correct; to lie
    /// there, use [`exchange`](Self::exchange) with an [`InHeader`] of one's own.
    ///
    /// # Errors
    /// [`ClientError::Queue`].
    pub fn raw(
        &self,
        opcode: u32,
        nodeid: u64,
        body: &[u8],
        room: usize,
    ) -> Result<RawReply, ClientError> {
        let header = self.header(opcode, nodeid, body.len()).to_bytes();
        let writable = if room == 0 { vec![] } else { vec![room] };
        match body {
            [] => self.exchange(&[&header], &writable, false),
            _ => self.exchange(&[&header, body], &writable, false),
        }
    }

    /// A correct header for a body of `body` bytes, to be sent as it is or not.
    pub fn header(&self, opcode: u32, nodeid: u64, body: usize) -> InHeader {
        InHeader {
            len: (fuse::IN_HEADER + body) as u32,
            opcode,
            unique: self.session().next_unique(),
            nodeid,
            uid: self.caller().uid,
            gid: self.caller().gid,
            pid: self.caller().pid,
            total_extlen: 0,
        }
    }
}

/// struct fuse_in_header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct InHeader {
    pub len: u32,
    pub opcode: u32,
    pub unique: u64,
    pub nodeid: u64,
    pub uid: u32,
    pub gid: u32,
    pub pid: u32,
    /// Length of the extensions in units of 8 bytes.
    pub total_extlen: u16,
}

impl InHeader {
    /// As it lies in memory.
    pub fn to_bytes(self) -> [u8; fuse::IN_HEADER] {
        let mut b = [0; fuse::IN_HEADER];
        b[0..4].copy_from_slice(&self.len.to_le_bytes());
        b[4..8].copy_from_slice(&self.opcode.to_le_bytes());
        b[8..16].copy_from_slice(&self.unique.to_le_bytes());
        b[16..24].copy_from_slice(&self.nodeid.to_le_bytes());
        b[24..28].copy_from_slice(&self.uid.to_le_bytes());
        b[28..32].copy_from_slice(&self.gid.to_le_bytes());
        b[32..36].copy_from_slice(&self.pid.to_le_bytes());
        b[36..38].copy_from_slice(&self.total_extlen.to_le_bytes());
        b
    }

    /// Opcode and node id of what may be a header, for error messages.
    fn peek(bytes: &[u8]) -> (u32, u64) {
        let mut fields = Fields::new(bytes);
        let mut read = || -> Result<_, Short> {
            fields.u32()?;
            let opcode = fields.u32()?;
            fields.u64()?;
            Ok((opcode, fields.u64()?))
        };
        read().unwrap_or((0, 0))
    }
}

/// {len, error, unique} of struct fuse_out_header.
pub(crate) fn out_header(bytes: &[u8]) -> (u32, i32, u64) {
    let mut fields = Fields::new(bytes);
    let mut read =
        || -> Result<_, Short> { Ok((fields.u32()?, fields.u32()? as i32, fields.u64()?)) };
    read().unwrap_or((0, 0, 0))
}

/// What came back for bytes sent as they were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawReply {
    /// Bytes the device says it wrote.
    pub written: u32,
    /// All the room there was, zeroes where nothing was written.
    pub bytes: Vec<u8>,
}

impl RawReply {
    /// {length, error as it stands there, unique} of the reply's header; None without a
    /// whole header.
    pub fn header(&self) -> Option<(u32, i32, u64)> {
        let whole =
            self.written as usize >= fuse::OUT_HEADER && self.bytes.len() >= fuse::OUT_HEADER;
        whole.then(|| out_header(&self.bytes))
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.written == 0
    }

    /// The errno in the reply's header, positive, 0 for success; None without a
    /// whole header.
    pub fn errno(&self) -> Option<i32> {
        self.header().map(|(_, error, _)| error.wrapping_neg())
    }

    /// What follows the header.
    pub fn body(&self) -> &[u8] {
        let end = (self.written as usize).min(self.bytes.len());
        self.bytes.get(fuse::OUT_HEADER..end).unwrap_or_default()
    }
}
