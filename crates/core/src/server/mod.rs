//! The FUSE dispatcher: decodes and checks a request, calls the [`FileSystem`],
//! encodes the reply.
//!
//! What a guest sends is believed in nothing: every request gets either a
//! well-formed reply (an errno for anything malformed) or none where FUSE has
//! none, the daemon goes on, and nothing panics. Each field is read from guest
//! memory once.
//!
//! Errors that are the dispatcher's own:
//! - `EINVAL`: a body shorter than the operation's structure, a name without NUL
//!   or one that is no single component, an offset of 2^63 or more, a reply
//!   buffer too short for the operation's fixed reply, malformed extensions.
//! - `E2BIG`: a request longer than the session's `max_write` and a page of
//!   headers, or than the operation can need.
//! - `ENOTCONN`: a request before INIT or after DESTROY. It is what Linux itself
//!   answers on a dead FUSE connection; programs get it as it is, and unlike
//!   `ENOSYS` the kernel remembers nothing of it.
//! - `ENOSYS`: an operation that is not served. Linux remembers that one.
//!
//! A request whose writable half has no room for a reply header, although a reply
//! is due, is not executed.

mod attributes;
mod call;
mod crossing;
mod data;
mod directory;
mod extensions;
mod init;
mod lock;
mod namespace;
mod session;
mod xattr;

#[cfg(test)]
mod tests;

use std::sync::atomic::Ordering;

use ferryfs_state::Session;
use vm_memory::ByteValued;

use crate::abi::*;
use crate::errno::{Errno, FsResult};
use crate::fs::FileSystem;
use crate::io::{ReplyWriter, RequestIo, RequestReader};
use crate::service::{Later, Service};

use call::Call;
pub use crossing::CrossingConfig;
use session::SessionCell;

/// What a server answers to INIT besides flags, and how its state crosses.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The longest WRITE, in bytes.
    pub max_write: u32,
    /// Pages (of the guest) of data in one request.
    pub max_pages: u16,
    /// Background requests that the guest may have under way.
    pub max_background: u16,
    /// Background requests from which on the guest counts itself congested.
    pub congestion_threshold: u16,
    /// How state is written and read; without it, it cannot cross.
    pub crossing: Option<CrossingConfig>,
}

impl Default for ServerConfig {
    /// 1 MiB in 256 pages, and 96 background requests.
    ///
    /// Background requests (RELEASE, read-ahead, write-back) are the only ones of
    /// which one process can have any number under way, and 96 of them leave room
    /// in the smallest queue that VMMs set up, of 128. By its source Linux 6.12 can
    /// lose track of a request that finds the queue full just as the device empties
    /// it: it is then never sent, and its process waits forever.
    fn default() -> Self {
        ServerConfig {
            max_write: 1 << 20,
            max_pages: 256,
            max_background: 96,
            // Three quarters, the proportion of Linux' own defaults.
            congestion_threshold: 72,
            crossing: None,
        }
    }
}

/// A FUSE server of the file system `F`. Shared by all threads that have
/// requests to serve.
pub struct Server<F> {
    fs: F,
    config: ServerConfig,
    session: SessionCell,
}

impl<F: FileSystem> Server<F> {
    /// A server that waits for INIT, or for a state to be loaded.
    pub fn new(fs: F, config: ServerConfig) -> Server<F> {
        Server {
            fs,
            config,
            session: SessionCell::default(),
        }
    }

    /// The file system.
    pub fn fs(&self) -> &F {
        &self.fs
    }

    /// The outcome of the guest's INIT; `None` before it and after DESTROY.
    pub fn session(&self) -> Option<Session> {
        self.session.lock().clone()
    }

    /// Lets go of everything the guest has.
    fn drop_session(&self, session: &mut session::Locked<'_>) {
        session.set(None);
        self.fs.destroy();
    }

    /// Decodes the header and serves the request.
    fn serve(
        &self,
        reader: &mut dyn RequestReader,
        out: &mut dyn ReplyWriter,
        can_reply: bool,
        later: Option<&dyn Later>,
    ) -> Outcome {
        let mut header = InHeader::default();
        if reader.read_exact(header.as_mut_slice()).is_err() {
            log::debug!("request ignored: shorter than a fuse_in_header");
            return Outcome::NoReply;
        }
        let reply_due = !matches!(
            header.opcode,
            FUSE_FORGET | FUSE_BATCH_FORGET | FUSE_INTERRUPT | FUSE_NOTIFY_REPLY
        );
        // A guest that shuts down may not care for DESTROY's reply; all else is
        // left undone rather than done behind the guest's back.
        if reply_due && !can_reply && header.opcode != FUSE_DESTROY {
            log::debug!(
                "request {} ignored: no room for a reply header (opcode {})",
                header.unique,
                header.opcode
            );
            return Outcome::NoReply;
        }
        let mut stands_over = false;
        let result = self.check_and_dispatch(header, reader, out, later, &mut stands_over);
        if stands_over {
            return Outcome::StandsOver;
        }
        if let Err(errno @ (Errno::EINVAL | Errno::E2BIG | Errno::ENOTCONN)) = result {
            log::trace!(
                "request {}: {} of nodeid {} fails: {errno:?}",
                header.unique,
                opcode_name(header.opcode).unwrap_or("unknown opcode"),
                header.nodeid
            );
        }
        match reply_due && can_reply {
            true => Outcome::Reply(header.unique, result),
            false => Outcome::NoReply,
        }
    }

    fn check_and_dispatch(
        &self,
        header: InHeader,
        reader: &mut dyn RequestReader,
        out: &mut dyn ReplyWriter,
        later: Option<&dyn Later>,
        stands_over: &mut bool,
    ) -> FsResult<()> {
        let body = (header.len as usize)
            .checked_sub(IN_HEADER_LEN)
            .filter(|body| *body <= reader.remaining())
            .ok_or(Errno::EINVAL)?;
        if header.len > self.session.max_request.load(Ordering::Relaxed) {
            return Err(Errno::E2BIG);
        }
        let (flags, guest_minor) = match self.session.live() {
            Some(live) => live,
            None if matches!(header.opcode, FUSE_INIT | FUSE_DESTROY) => (0, 0),
            None => return Err(Errno::ENOTCONN),
        };
        let mut call = Call::new(header, reader, body, out, flags, guest_minor);
        match header.opcode {
            // The one operation that waits for another request.
            FUSE_SETLKW => self.setlkw(&mut call, later, stands_over),
            _ => self.dispatch(&mut call),
        }
    }

    fn dispatch(&self, call: &mut Call<'_>) -> FsResult<()> {
        match call.header.opcode {
            FUSE_LOOKUP => self.lookup(call),
            FUSE_FORGET => self.forget(call),
            FUSE_GETATTR => self.getattr(call),
            FUSE_SETATTR => self.setattr(call),
            FUSE_READLINK => self.readlink(call),
            FUSE_SYMLINK => self.symlink(call),
            FUSE_MKNOD => self.mknod(call),
            FUSE_MKDIR => self.mkdir(call),
            FUSE_UNLINK => self.unlink(call),
            FUSE_RMDIR => self.rmdir(call),
            FUSE_RENAME => self.rename(call),
            FUSE_LINK => self.link(call),
            FUSE_OPEN => self.open(call),
            FUSE_READ => self.read(call),
            FUSE_WRITE => self.write(call),
            FUSE_STATFS => self.statfs(call),
            FUSE_RELEASE => self.release(call),
            FUSE_FSYNC => self.fsync(call),
            FUSE_SETXATTR => self.setxattr(call),
            FUSE_GETXATTR => self.getxattr(call),
            FUSE_LISTXATTR => self.listxattr(call),
            FUSE_REMOVEXATTR => self.removexattr(call),
            FUSE_FLUSH => self.flush(call),
            FUSE_INIT => self.init(call),
            FUSE_OPENDIR => self.opendir(call),
            FUSE_READDIR => self.readdir(call, false),
            FUSE_RELEASEDIR => self.releasedir(call),
            FUSE_FSYNCDIR => self.fsyncdir(call),
            FUSE_GETLK => self.getlk(call),
            FUSE_SETLK => self.setlk(call),
            FUSE_ACCESS => self.access(call),
            FUSE_CREATE => self.create(call),
            FUSE_INTERRUPT => {
                let arg: InterruptIn = call.read()?;
                self.fs.interrupt(arg.unique);
                Ok(())
            }
            FUSE_DESTROY => {
                self.drop_session(&mut self.session.lock());
                Ok(())
            }
            FUSE_BATCH_FORGET => self.batch_forget(call),
            FUSE_FALLOCATE => self.fallocate(call),
            FUSE_READDIRPLUS => self.readdir(call, true),
            FUSE_RENAME2 => self.rename2(call),
            FUSE_LSEEK => self.lseek(call),
            FUSE_COPY_FILE_RANGE => self.copy_file_range(call),
            FUSE_COPY_FILE_RANGE_64 => self.copy_file_range_64(call),
            FUSE_SYNCFS => self.syncfs(call),
            FUSE_STATX => self.statx(call),
            FUSE_IOCTL => self.ioctl(call),
            FUSE_TMPFILE => self.tmpfile(call),
            _ => Err(Errno::ENOSYS),
        }
    }
}

/// What became of a request.
enum Outcome {
    NoReply,
    Reply(u64, FsResult<()>),
    /// It is answered later.
    StandsOver,
}

/// The header of a reply with `body` bytes behind it.
fn out_header(unique: u64, result: FsResult<()>, body: usize) -> [u8; OUT_HEADER_LEN] {
    let (body, error) = match result {
        Ok(()) => (body, 0),
        Err(errno) => (0, -errno.raw()),
    };
    let mut header = [0; OUT_HEADER_LEN];
    header.copy_from_slice(
        OutHeader {
            // A reply is in guest memory that one chain names, at most 4 GiB;
            // what the file system may put there is bounded far below.
            len: (OUT_HEADER_LEN + body) as u32,
            error,
            unique,
        }
        .as_slice(),
    );
    header
}

impl<F: FileSystem> Server<F> {
    fn serve_io<I: RequestIo>(&self, mut io: I, later: Option<&dyn Later>) -> Option<usize> {
        let can_reply = io.can_reply();
        let (reader, out) = io.split();
        let room = out.remaining();
        match self.serve(reader, out, can_reply, later) {
            Outcome::NoReply => Some(0),
            Outcome::StandsOver => None,
            Outcome::Reply(unique, result) => {
                let body = room - io.body().remaining();
                let header = out_header(unique, result, body);
                Some(io.finish(&header).unwrap_or(0))
            }
        }
    }
}

impl<F: FileSystem> Service for Server<F> {
    fn handle<I: RequestIo>(&self, io: I) -> usize {
        self.serve_io(io, None).unwrap_or(0)
    }

    fn handle_or_defer<I: RequestIo>(&self, io: I, later: &dyn Later) -> Option<usize> {
        self.serve_io(io, Some(later))
    }

    fn reset(&self) {
        self.drop_session(&mut self.session.lock());
    }

    fn interrupt(&self) {
        self.fs.interrupt_waits();
    }

    fn resume(&self) {
        self.fs.allow_waits();
    }

    fn suspend(&self) {
        self.fs.suspend();
    }

    fn proceed(&self) {
        self.fs.proceed();
    }
}
