//! A typed FUSE client over virtqueues: what a guest's kernel is to the daemon.
//!
//! Node ids and handles are the caller's to remember, as they are a guest's: a client
//! goes on working when the daemon behind its queues is replaced.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::call::{self, Body, Call, InitRequest, Payload};
use crate::fuse::{self, opcode_name, InitReply, Short};
use crate::memory::{GuestBuffer, GuestMemory, MemoryError};
use crate::queue::{Keep, QueueError, Segment, Token};
use crate::raw::{out_header, InHeader};
use crate::shared::SharedQueue;

/// An errno from the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{} of node {nodeid} failed: {}", opcode_name(*.opcode), io::Error::from_raw_os_error(*.errno))]
pub struct FuseError {
    /// Request code.
    pub opcode: u32,
    /// Node it was about.
    pub nodeid: u64,
    /// The errno, positive.
    pub errno: i32,
}

/// How a request can fail.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The daemon answered with an errno.
    #[error(transparent)]
    Fuse(#[from] FuseError),
    /// The request did not go through the queue.
    #[error("{} of node {nodeid} got no answer", opcode_name(*.opcode))]
    Queue {
        /// Request code.
        opcode: u32,
        /// Node it was about.
        nodeid: u64,
        /// Why.
        #[source]
        source: QueueError,
    },
    /// The chain came back without an answer.
    #[error("{} of node {nodeid}: the chain came back unanswered ({written} bytes written)", opcode_name(*.opcode))]
    Unanswered {
        /// Request code.
        opcode: u32,
        /// Node it was about.
        nodeid: u64,
        /// Bytes the device says it wrote.
        written: u32,
    },
    /// The answer contradicts itself.
    #[error("{} of node {nodeid}: bad answer: {what} (header says {len} bytes, error {error}, unique {unique}; {written} bytes written)", opcode_name(*.opcode))]
    BadReply {
        /// Request code.
        opcode: u32,
        /// Node it was about.
        nodeid: u64,
        /// What is wrong.
        what: &'static str,
        /// Length in the header.
        len: u32,
        /// Error in the header.
        error: i32,
        /// Unique in the header.
        unique: u64,
        /// Bytes the device says it wrote.
        written: u32,
    },
    /// The answer's body is too short for what it should hold.
    #[error("{} of node {nodeid}: cannot read the answer of {len} bytes", opcode_name(*.opcode))]
    Short {
        /// Request code.
        opcode: u32,
        /// Node it was about.
        nodeid: u64,
        /// Bytes of the body.
        len: usize,
        /// Where it ends.
        #[source]
        source: Short,
    },
}

impl ClientError {
    /// The errno, if the daemon gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            ClientError::Fuse(e) => Some(e.errno),
            _ => None,
        }
    }
}

/// A security context for new inodes, as FUSE_SECURITY_CTX carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecurityContext {
    /// Extended attribute, such as `security.selinux`.
    pub name: Vec<u8>,
    /// Its value.
    pub label: Vec<u8>,
}

/// Who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Process.
    pub pid: u32,
    /// Supplementary groups, sent with requests that make an inode if
    /// CREATE_SUPP_GROUP was negotiated.
    pub groups: Vec<u32>,
    /// Security context, sent with requests that make an inode if SECURITY_CTX was
    /// negotiated.
    pub security: Option<SecurityContext>,
    /// Umask, sent with requests that make an inode.
    pub umask: u32,
}

impl Caller {
    /// A user without supplementary groups.
    pub fn user(uid: u32, gid: u32) -> Self {
        Caller {
            uid,
            gid,
            pid: 1,
            ..Caller::default()
        }
    }

    /// The extensions for a request that makes an inode, padded to 8 bytes.
    fn extensions(&self, flags: u64) -> Vec<u8> {
        let mut out = Vec::new();
        if flags & fuse::init::SECURITY_CTX != 0 {
            let mut contexts = Vec::new();
            if let Some(context) = &self.security {
                contexts.extend_from_slice(&(context.label.len() as u32).to_le_bytes());
                contexts.extend_from_slice(&0u32.to_le_bytes());
                contexts.extend_from_slice(&context.name);
                contexts.push(0);
                contexts.extend_from_slice(&context.label);
                contexts.resize(contexts.len().next_multiple_of(8), 0);
            }
            let size = 8 + contexts.len() as u32;
            out.extend_from_slice(&size.to_le_bytes());
            out.extend_from_slice(&u32::from(self.security.is_some()).to_le_bytes());
            out.extend_from_slice(&contexts);
        }
        if flags & fuse::init::CREATE_SUPP_GROUP != 0 && !self.groups.is_empty() {
            let size = (12 + 4 * self.groups.len()).next_multiple_of(8);
            let end = out.len() + size;
            for word in [size as u32, fuse::EXT_GROUPS, self.groups.len() as u32] {
                out.extend_from_slice(&word.to_le_bytes());
            }
            for group in &self.groups {
                out.extend_from_slice(&group.to_le_bytes());
            }
            out.resize(end, 0);
        }
        out
    }
}

/// What the guest's kernel remembers of a session, whoever the daemon is.
#[derive(Debug)]
pub struct Session {
    unique: AtomicU64,
    init: Mutex<Option<InitReply>>,
    flags: AtomicU64,
}

impl Default for Session {
    fn default() -> Self {
        Session {
            unique: AtomicU64::new(2),
            init: Mutex::new(None),
            flags: AtomicU64::new(0),
        }
    }
}

impl Session {
    /// The outcome of FUSE_INIT, once there is one.
    pub fn init(&self) -> Option<InitReply> {
        *self.init.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn next_unique(&self) -> u64 {
        self.unique.fetch_add(2, Ordering::Relaxed)
    }

    /// The negotiated [`fuse::init`] flags.
    pub fn flags(&self) -> u64 {
        self.flags.load(Ordering::Relaxed)
    }

    /// Sets what extensions are sent from now on, whatever was negotiated.
    pub fn set_flags(&self, flags: u64) {
        self.flags.store(flags, Ordering::Relaxed);
    }
}

/// A client: two queues, a session, and somebody who asks. Cheap to clone; clones
/// may be used by several threads at once.
#[derive(Debug, Clone)]
pub struct FsClient {
    memory: Arc<GuestMemory>,
    hiprio: Arc<SharedQueue>,
    queue: Arc<SharedQueue>,
    session: Arc<Session>,
    caller: Arc<Caller>,
    timeout: Duration,
    segment: usize,
}

/// A request in flight. Dropped without waiting, its answer is thrown away when it
/// comes.
#[derive(Debug)]
pub struct Pending<R> {
    queue: Arc<SharedQueue>,
    token: Token,
    unique: u64,
    opcode: u32,
    nodeid: u64,
    timeout: Duration,
    header: Arc<GuestBuffer>,
    header_at: usize,
    body: Arc<GuestBuffer>,
    body_at: usize,
    sink: bool,
    answered: bool,
    taken: bool,
    decode: fn(Body) -> Result<R, Short>,
}

impl<R> Drop for Pending<R> {
    fn drop(&mut self) {
        if !self.taken {
            self.queue.abandon(self.token);
        }
    }
}

/// Room for bodies up to this many bytes is taken beside the request; larger bodies
/// and all file data get pages of their own, as a guest's do.
const INLINE: usize = 512;

impl FsClient {
    /// A client that sends on `queue`, and FORGET and INTERRUPT on `hiprio`.
    pub fn new(
        memory: Arc<GuestMemory>,
        hiprio: Arc<SharedQueue>,
        queue: Arc<SharedQueue>,
        session: Arc<Session>,
    ) -> Self {
        FsClient {
            memory,
            hiprio,
            queue,
            session,
            caller: Arc::new(Caller::default()),
            timeout: Duration::from_secs(30),
            segment: u32::MAX as usize,
        }
    }

    /// The same client, asking as somebody else.
    pub fn as_caller(&self, caller: Caller) -> Self {
        FsClient {
            caller: Arc::new(caller),
            ..self.clone()
        }
    }

    /// The same client with another time limit per request.
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        FsClient {
            timeout,
            ..self.clone()
        }
    }

    /// The same client, cutting file data into descriptors of at most `segment`
    /// bytes. A Linux guest's are pages of 4096.
    pub fn with_segment(&self, segment: usize) -> Self {
        FsClient {
            segment: segment.clamp(1, u32::MAX as usize),
            ..self.clone()
        }
    }

    /// The session.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Who asks.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// How long a request may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Guest memory, for buffers of one's own.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// The queue requests go to.
    pub fn queue(&self) -> &Arc<SharedQueue> {
        &self.queue
    }

    /// The queue for FORGET and INTERRUPT.
    pub fn hiprio(&self) -> &Arc<SharedQueue> {
        &self.hiprio
    }

    /// Sends a request and returns without waiting. Blocks only while the ring is
    /// full.
    ///
    /// # Errors
    /// [`ClientError::Queue`].
    pub fn submit<R>(&self, call: Call<R>) -> Result<Pending<R>, ClientError> {
        let (opcode, nodeid) = (call.opcode, call.nodeid);
        self.try_submit(call).map_err(|source| ClientError::Queue {
            opcode,
            nodeid,
            source,
        })
    }

    fn try_submit<R>(&self, call: Call<R>) -> Result<Pending<R>, QueueError> {
        let extensions = match call.creates {
            true => self.caller.extensions(self.session.flags()),
            false => Vec::new(),
        };
        let args = call.args.len() + extensions.len();
        let (data_len, data) = match call.payload {
            Payload::None => (0, None),
            Payload::Bytes(bytes) => {
                let buffer = self.memory.alloc(bytes.len())?;
                buffer.write_at(0, &bytes)?;
                (bytes.len(), Some(Arc::new(buffer)))
            }
            Payload::Guest(buffer, len) => {
                let (gpa, bytes) = (buffer.gpa(), len as u64);
                if len > buffer.len() {
                    return Err(MemoryError::OutOfRange { gpa, len: bytes }.into());
                }
                (len, Some(buffer))
            }
        };
        let out_at = (fuse::IN_HEADER + args).next_multiple_of(8);
        let separate = call.sink.is_some() || call.room > INLINE;
        let inline = if separate { 0 } else { call.room };
        let request = Arc::new(self.memory.alloc(out_at + fuse::OUT_HEADER + inline)?);
        let body = match &call.sink {
            Some(sink) => Arc::clone(sink),
            None if separate => Arc::new(self.memory.alloc(call.room)?),
            None => Arc::clone(&request),
        };
        let body_at = if separate {
            0
        } else {
            out_at + fuse::OUT_HEADER
        };

        let unique = self.session.next_unique();
        let header = InHeader {
            len: (fuse::IN_HEADER + args + data_len) as u32,
            opcode: call.opcode,
            unique,
            nodeid: call.nodeid,
            uid: self.caller.uid,
            gid: self.caller.gid,
            pid: self.caller.pid,
            total_extlen: (extensions.len() / 8) as u16,
        };
        request.write_at(0, &header.to_bytes())?;
        request.write_at(fuse::IN_HEADER, &call.args)?;
        request.write_at(fuse::IN_HEADER + call.args.len(), &extensions)?;
        // No stale bytes of an earlier answer may pass for one.
        if call.answered {
            request.write_at(out_at, &[0; fuse::OUT_HEADER])?;
        }

        let mut chain = Chain::new(self.segment);
        chain.push(request.gpa(), fuse::IN_HEADER, false);
        chain.push(request.gpa() + fuse::IN_HEADER as u64, args, false);
        if let Some(data) = &data {
            chain.push_split(data.gpa(), data_len, false);
        }
        if call.answered {
            chain.push(request.gpa() + out_at as u64, fuse::OUT_HEADER, true);
            chain.push_split(body.gpa() + body_at as u64, call.room, true);
        }
        let queue = if call.hiprio {
            &self.hiprio
        } else {
            &self.queue
        };
        let keep: Keep = [
            Some(Arc::clone(&request)),
            data,
            separate.then(|| Arc::clone(&body)),
        ];
        let token = queue.submit(chain.as_slice(), keep, self.timeout)?;
        Ok(Pending {
            queue: Arc::clone(queue),
            token,
            unique,
            opcode: call.opcode,
            nodeid: call.nodeid,
            timeout: self.timeout,
            header: request,
            header_at: out_at,
            body,
            body_at,
            sink: call.sink.is_some(),
            answered: call.answered,
            taken: false,
            decode: call.decode,
        })
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn call<R>(&self, call: Call<R>) -> Result<R, ClientError> {
        self.submit(call)?.wait()
    }

    /// FUSE_INIT; remembers the outcome in the session.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn init(&self, request: &InitRequest) -> Result<InitReply, ClientError> {
        let reply = self.call(call::init(request))?;
        *self
            .session
            .init
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(reply);
        self.session.set_flags(reply.flags & request.flags);
        Ok(reply)
    }
}

impl<R> Pending<R> {
    /// The request's unique id, for INTERRUPT.
    pub fn unique(&self) -> u64 {
        self.unique
    }

    /// Whether the answer is there; [`wait`](Self::wait) then returns at once.
    ///
    /// # Errors
    /// [`ClientError::Queue`].
    pub fn is_done(&self) -> Result<bool, ClientError> {
        self.queue
            .is_done(self.token)
            .map_err(|source| self.queue_error(source))
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// Any [`ClientError`].
    pub fn wait(mut self) -> Result<R, ClientError> {
        let written = self.queue.wait(self.token, self.timeout);
        let written = written.map_err(|source| self.queue_error(source))?;
        self.taken = true;
        let (opcode, nodeid) = (self.opcode, self.nodeid);
        let body = self.body(written)?;
        let len = body.len;
        (self.decode)(body).map_err(|source| ClientError::Short {
            opcode,
            nodeid,
            len,
            source,
        })
    }

    fn queue_error(&self, source: QueueError) -> ClientError {
        ClientError::Queue {
            opcode: self.opcode,
            nodeid: self.nodeid,
            source,
        }
    }

    fn body(&self, written: u32) -> Result<Body, ClientError> {
        let (opcode, nodeid) = (self.opcode, self.nodeid);
        if !self.answered {
            return Ok(Body {
                len: 0,
                bytes: Vec::new(),
            });
        }
        if (written as usize) < fuse::OUT_HEADER {
            return Err(ClientError::Unanswered {
                opcode,
                nodeid,
                written,
            });
        }
        let head = self.header.to_vec(self.header_at, fuse::OUT_HEADER);
        let (len, error, unique) = out_header(&head);
        let bad = |what| ClientError::BadReply {
            opcode,
            nodeid,
            what,
            len,
            error,
            unique,
            written,
        };
        if unique != self.unique {
            return Err(bad("it answers another request"));
        }
        if len != written {
            return Err(bad("its length is not what was written"));
        }
        if error != 0 {
            if error > 0 || error <= -4096 || len as usize != fuse::OUT_HEADER {
                return Err(bad("an error must be a negative errno and nothing else"));
            }
            return Err(FuseError {
                opcode,
                nodeid,
                errno: -error,
            }
            .into());
        }
        let len = len as usize - fuse::OUT_HEADER;
        let bytes = match self.sink {
            true => Vec::new(),
            false => self.body.to_vec(self.body_at, len),
        };
        Ok(Body { len, bytes })
    }
}

/// Segments of a chain; few enough to stay off the heap in the common case.
struct Chain {
    few: [Segment; 8],
    many: Vec<Segment>,
    len: usize,
    segment: usize,
}

impl Chain {
    fn new(segment: usize) -> Self {
        let nothing = Segment {
            gpa: 0,
            len: 0,
            writable: false,
        };
        Chain {
            few: [nothing; 8],
            many: Vec::new(),
            len: 0,
            segment,
        }
    }

    fn push(&mut self, gpa: u64, len: usize, writable: bool) {
        if len == 0 {
            return;
        }
        let segment = Segment {
            gpa,
            len: len as u32,
            writable,
        };
        if self.len < self.few.len() {
            self.few[self.len] = segment;
        } else {
            if self.many.is_empty() {
                self.many.extend_from_slice(&self.few);
            }
            self.many.push(segment);
        }
        self.len += 1;
    }

    fn push_split(&mut self, gpa: u64, len: usize, writable: bool) {
        let mut done = 0;
        while done < len {
            let n = self.segment.min(len - done);
            self.push(gpa + done as u64, n, writable);
            done += n;
        }
    }

    fn as_slice(&self) -> &[Segment] {
        match self.many.is_empty() {
            true => &self.few[..self.len],
            false => &self.many,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_are_padded_and_only_sent_when_negotiated() {
        let caller = Caller {
            groups: vec![100, 101],
            security: Some(SecurityContext {
                name: b"security.selinux".to_vec(),
                label: b"label".to_vec(),
            }),
            ..Caller::user(1000, 1000)
        };
        assert!(caller.extensions(0).is_empty());
        let groups = caller.extensions(fuse::init::CREATE_SUPP_GROUP);
        assert_eq!(groups.len(), 24);
        assert_eq!(groups[0..12], [24, 0, 0, 0, 32, 0, 0, 0, 2, 0, 0, 0]);
        let both = caller.extensions(fuse::init::CREATE_SUPP_GROUP | fuse::init::SECURITY_CTX);
        // Header 8, context 8 + 17 + 5 padded to 32.
        assert_eq!(both.len(), 40 + 24);
        assert_eq!(both[0..8], [40, 0, 0, 0, 1, 0, 0, 0]);
        let nobody = Caller::default().extensions(fuse::init::SECURITY_CTX);
        assert_eq!(nobody, [8, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn long_chains_keep_their_order() {
        let mut chain = Chain::new(4096);
        chain.push(1, 40, false);
        chain.push(2, 0, false);
        chain.push_split(0x10000, 10 * 4096 + 1, true);
        let segments = chain.as_slice();
        assert_eq!(segments.len(), 12);
        assert_eq!(segments[0].len, 40);
        assert_eq!(
            (segments[11].gpa, segments[11].len),
            (0x10000 + 10 * 4096, 1)
        );
        assert_eq!(segments[8].gpa, 0x10000 + 7 * 4096);
    }

    #[test]
    fn errors_name_the_operation() {
        let error = FuseError {
            opcode: 1,
            nodeid: 1,
            errno: libc::ENOENT,
        };
        assert_eq!(
            error.to_string(),
            "LOOKUP of node 1 failed: No such file or directory (os error 2)"
        );
    }
}
