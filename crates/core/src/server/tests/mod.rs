//! The dispatcher before a file system that records what it is asked, and behind
//! a transport of plain buffers.

mod crossing;
mod dispatch;
mod extensions;
mod hostile;
mod init;
mod listing;
mod locks;

use std::ffi::CStr;
use std::fmt::Debug;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::time::Duration;

use vm_memory::ByteValued;

use super::*;
use crate::buffer::BufIo;
use crate::fs::*;
use crate::migrate::MigrateFs;
use crate::types::{HandleId, Name, NodeId};

/// Everything that Linux 6.18 offers, as far as bits are concerned.
const ALL_FLAGS: u64 = (1 << 43) - 1;
const UNIQUE: u64 = 0x1122_3344_5566_7788;

/// Answers everything with success and notes it down.
struct Mock {
    calls: Mutex<Vec<String>>,
    /// What is answered instead of success.
    fail: Mutex<Option<Errno>>,
    /// What `init` wishes.
    wish: Mutex<u64>,
    /// What `check_session` says.
    refuse_session: Mutex<Option<String>>,
    /// What `collect` answers, and `apply` replaces.
    state: Mutex<FsState>,
    refuse_restore: Mutex<Option<String>>,
    /// How long a name is believed to be absent.
    absent_for: Mutex<Option<Duration>>,
    /// Value of links and attributes.
    value: Mutex<Vec<u8>>,
    /// Names in every directory; `Err` ends the listing.
    listing: Mutex<Vec<Result<Vec<u8>, Errno>>>,
    /// The contents of every file.
    file: File,
    /// How the last lock that was waited for is answered.
    deferred: Mutex<Option<Box<dyn LockAnswer>>>,
}

impl Default for Mock {
    fn default() -> Self {
        Mock {
            calls: Mutex::default(),
            fail: Mutex::default(),
            wish: Mutex::new(!0),
            refuse_session: Mutex::default(),
            state: Mutex::default(),
            refuse_restore: Mutex::default(),
            absent_for: Mutex::default(),
            value: Mutex::new(b"value".to_vec()),
            listing: Mutex::default(),
            file: tempfile::tempfile().unwrap(),
            deferred: Mutex::default(),
        }
    }
}

impl Mock {
    fn note(&self, call: &str, ctx: &Context<'_>, args: impl Debug) -> FsResult<()> {
        let mut line = format!("{call}{args:?}");
        if let Some(groups) = ctx.supplementary_groups {
            line += &format!(" groups={groups:?}");
        }
        if let Some(label) = ctx.security_context {
            line += &format!(" label={:?}={}", label.name, label.value.escape_ascii());
        }
        assert_eq!((ctx.uid, ctx.gid, ctx.pid), (1000, 100, 77));
        assert_eq!(ctx.unique, UNIQUE);
        self.note_plain(line);
        self.fail.lock().unwrap().map_or(Ok(()), Err)
    }

    fn note_plain(&self, line: impl Into<String>) {
        self.calls.lock().unwrap().push(line.into());
    }

    fn taken(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

fn attr() -> Attr {
    Attr {
        ino: 4242,
        size: 5,
        mode: 0o100644,
        uid: 7,
        gid: 8,
        blksize: 4096,
        flags: FUSE_ATTR_SUBMOUNT,
        ..Attr::default()
    }
}

fn entry() -> Entry {
    Entry {
        node: NodeId(42),
        generation: 3,
        attr: attr(),
        entry_timeout: Duration::new(5, 6),
        attr_timeout: Duration::new(7, 8),
    }
}

fn attr_reply() -> AttrReply {
    AttrReply {
        attr: attr(),
        timeout: Duration::from_millis(1500),
    }
}

fn opened() -> Opened {
    Opened {
        handle: HandleId(9),
        fopen_flags: FOPEN_KEEP_CACHE,
    }
}

impl FileSystem for Mock {
    fn init(&self, offer: &InitOffer) -> FsResult<InitWish> {
        self.note_plain(format!(
            "init(7.{}, {:#x}, {})",
            offer.minor, offer.flags, offer.max_readahead
        ));
        Ok(InitWish {
            flags: *self.wish.lock().unwrap(),
        })
    }
    fn check_session(&self, _: u64) -> Result<(), String> {
        self.refuse_session
            .lock()
            .unwrap()
            .clone()
            .map_or(Ok(()), Err)
    }
    fn adopt_session(&self, flags: u64) {
        self.note_plain(format!("adopt({flags:#x})"));
    }
    fn destroy(&self) {
        self.note_plain("destroy");
    }
    fn interrupt(&self, unique: u64) {
        self.note_plain(format!("interrupt({unique})"));
    }
    fn interrupt_waits(&self) {
        self.note_plain("interrupt_waits");
    }
    fn allow_waits(&self) {
        self.note_plain("allow_waits");
    }
    fn lookup(&self, ctx: &Context<'_>, parent: NodeId, name: &Name) -> FsResult<Entry> {
        self.note("lookup", ctx, (parent.0, name))?;
        Ok(entry())
    }
    fn absent_for(&self) -> Option<Duration> {
        *self.absent_for.lock().unwrap()
    }
    fn forget(&self, node: NodeId, count: u64) {
        self.note_plain(format!("forget({node}, {count})"));
    }
    fn getattr(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: Option<HandleId>,
    ) -> FsResult<AttrReply> {
        self.note("getattr", ctx, (node.0, handle))?;
        Ok(attr_reply())
    }
    fn statx(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: Option<HandleId>,
        flags: u32,
        mask: u32,
    ) -> FsResult<StatxReply> {
        self.note("statx", ctx, (node.0, handle, flags, mask))?;
        let stat = Statx {
            mask: 0xfff,
            uid: 7,
            mode: 0o644,
            btime: SxTime {
                tv_sec: -5,
                tv_nsec: 6,
                reserved: 0,
            },
            rdev_minor: 3,
            ..Statx::default()
        };
        let timeout = Duration::from_millis(1500);
        Ok(StatxReply { stat, timeout })
    }
    fn ioctl(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        command: u32,
        input: &[u8],
        output: &mut [u8],
    ) -> FsResult<()> {
        self.note("ioctl", ctx, (node.0, handle.0, command, input, &output))?;
        output.fill(b'!');
        Ok(())
    }
    fn setattr(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: Option<HandleId>,
        set: &SetAttr,
    ) -> FsResult<AttrReply> {
        self.note("setattr", ctx, (node.0, handle, set))?;
        Ok(attr_reply())
    }
    fn readlink(&self, ctx: &Context<'_>, node: NodeId) -> FsResult<Vec<u8>> {
        self.note("readlink", ctx, node.0)?;
        Ok(self.value.lock().unwrap().clone())
    }
    fn symlink(
        &self,
        ctx: &Context<'_>,
        target: &CStr,
        parent: NodeId,
        name: &Name,
    ) -> FsResult<Entry> {
        self.note("symlink", ctx, (target, parent.0, name))?;
        Ok(entry())
    }
    fn mknod(
        &self,
        ctx: &Context<'_>,
        parent: NodeId,
        name: &Name,
        mode: u32,
        rdev: u32,
        umask: u32,
    ) -> FsResult<Entry> {
        self.note("mknod", ctx, (parent.0, name, mode, rdev, umask))?;
        Ok(entry())
    }
    fn mkdir(
        &self,
        ctx: &Context<'_>,
        parent: NodeId,
        name: &Name,
        mode: u32,
        umask: u32,
    ) -> FsResult<Entry> {
        self.note("mkdir", ctx, (parent.0, name, mode, umask))?;
        Ok(entry())
    }
    fn unlink(&self, ctx: &Context<'_>, parent: NodeId, name: &Name) -> FsResult<()> {
        self.note("unlink", ctx, (parent.0, name))
    }
    fn rmdir(&self, ctx: &Context<'_>, parent: NodeId, name: &Name) -> FsResult<()> {
        self.note("rmdir", ctx, (parent.0, name))
    }
    fn rename(
        &self,
        ctx: &Context<'_>,
        parent: NodeId,
        name: &Name,
        new_parent: NodeId,
        new_name: &Name,
        flags: u32,
    ) -> FsResult<()> {
        self.note(
            "rename",
            ctx,
            (parent.0, name, new_parent.0, new_name, flags),
        )
    }
    fn link(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        new_parent: NodeId,
        new_name: &Name,
    ) -> FsResult<Entry> {
        self.note("link", ctx, (node.0, new_parent.0, new_name))?;
        Ok(entry())
    }
    fn open(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        flags: u32,
        kill_suidgid: bool,
    ) -> FsResult<Opened> {
        self.note("open", ctx, (node.0, flags, kill_suidgid))?;
        Ok(opened())
    }
    fn create(
        &self,
        ctx: &Context<'_>,
        parent: NodeId,
        name: &Name,
        mode: u32,
        umask: u32,
        flags: u32,
        kill_suidgid: bool,
    ) -> FsResult<(Entry, Opened)> {
        let args = (parent.0, name, mode, umask, flags, kill_suidgid);
        self.note("create", ctx, args)?;
        Ok((entry(), opened()))
    }
    fn tmpfile(
        &self,
        ctx: &Context<'_>,
        parent: NodeId,
        mode: u32,
        umask: u32,
        flags: u32,
    ) -> FsResult<(Entry, Opened)> {
        self.note("tmpfile", ctx, (parent.0, mode, umask, flags))?;
        Ok((entry(), opened()))
    }
    fn read(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        args: &ReadArgs,
        out: &mut dyn ReplyWriter,
    ) -> FsResult<usize> {
        self.note(
            "read",
            ctx,
            (node.0, handle.0, args.offset, args.size, args.flags),
        )?;
        Ok(out.read_from_file(self.file.as_fd(), args.size as usize, args.offset)?)
    }
    fn write(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        args: &WriteArgs,
        data: &mut dyn RequestReader,
    ) -> FsResult<usize> {
        self.note("write", ctx, (node.0, handle.0, args))?;
        assert_eq!(data.remaining(), args.size as usize);
        // More than is there, as if the count were not known.
        Ok(data.write_to_file(self.file.as_fd(), usize::MAX, args.offset, 0)?)
    }
    fn statfs(&self, ctx: &Context<'_>, node: NodeId) -> FsResult<Kstatfs> {
        self.note("statfs", ctx, node.0)?;
        Ok(Kstatfs {
            blocks: 1,
            bsize: 512,
            namelen: 255,
            ..Kstatfs::default()
        })
    }
    fn release(&self, ctx: &Context<'_>, node: NodeId, handle: HandleId) -> FsResult<()> {
        self.note("release", ctx, (node.0, handle.0))
    }
    fn fsync(&self, ctx: &Context<'_>, n: NodeId, h: HandleId, datasync: bool) -> FsResult<()> {
        self.note("fsync", ctx, (n.0, h.0, datasync))
    }
    fn flush(&self, ctx: &Context<'_>, n: NodeId, h: HandleId, owner: u64) -> FsResult<()> {
        self.note("flush", ctx, (n.0, h.0, owner))
    }
    fn opendir(&self, ctx: &Context<'_>, node: NodeId, flags: u32) -> FsResult<Opened> {
        self.note("opendir", ctx, (node.0, flags))?;
        Ok(opened())
    }
    fn readdir(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        offset: u64,
        sink: &mut dyn DirSink,
    ) -> FsResult<()> {
        let plus = if sink.plus() { "plus" } else { "" };
        self.note(&format!("readdir{plus}"), ctx, (node.0, handle.0, offset))?;
        let listing = self.listing.lock().unwrap();
        for (at, name) in listing.iter().enumerate().skip(offset as usize) {
            let name = name.as_ref().map_err(|e| *e)?;
            if !sink.fits(name.len()) {
                break;
            }
            let known = (sink.plus() && !name.starts_with(b".")).then(entry);
            sink.add(
                at as u64 + 100,
                at as u64 + 1,
                libc::DT_REG,
                name,
                known.as_ref(),
            );
        }
        Ok(())
    }
    fn releasedir(&self, ctx: &Context<'_>, node: NodeId, handle: HandleId) -> FsResult<()> {
        self.note("releasedir", ctx, (node.0, handle.0))
    }
    fn fsyncdir(&self, ctx: &Context<'_>, n: NodeId, h: HandleId, datasync: bool) -> FsResult<()> {
        self.note("fsyncdir", ctx, (n.0, h.0, datasync))
    }
    fn access(&self, ctx: &Context<'_>, node: NodeId, mask: u32) -> FsResult<()> {
        self.note("access", ctx, (node.0, mask))
    }
    fn setxattr(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        name: &CStr,
        value: &[u8],
        flags: u32,
        acl_kill_sgid: bool,
    ) -> FsResult<()> {
        let value = String::from_utf8_lossy(value);
        self.note("setxattr", ctx, (node.0, name, value, flags, acl_kill_sgid))
    }
    fn getxattr(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        name: &CStr,
        size: u32,
    ) -> FsResult<XattrReply> {
        self.note("getxattr", ctx, (node.0, name, size))?;
        self.xattr_reply(size)
    }
    fn listxattr(&self, ctx: &Context<'_>, node: NodeId, size: u32) -> FsResult<XattrReply> {
        self.note("listxattr", ctx, (node.0, size))?;
        self.xattr_reply(size)
    }
    fn removexattr(&self, ctx: &Context<'_>, node: NodeId, name: &CStr) -> FsResult<()> {
        self.note("removexattr", ctx, (node.0, name))
    }
    fn fallocate(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> FsResult<()> {
        self.note("fallocate", ctx, (node.0, handle.0, mode, offset, length))
    }
    fn lseek(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        offset: u64,
        whence: u32,
    ) -> FsResult<u64> {
        self.note("lseek", ctx, (node.0, handle.0, offset as i64, whence))?;
        Ok(0x1_0000_0001)
    }
    fn copy_file_range(
        &self,
        ctx: &Context<'_>,
        from: (NodeId, HandleId, u64),
        to: (NodeId, HandleId, u64),
        length: u64,
        flags: u64,
    ) -> FsResult<usize> {
        self.note("copy_file_range", ctx, (from, to, length, flags))?;
        Ok(length as usize)
    }
    fn getlk(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        lock: &LockArgs,
    ) -> FsResult<Option<LockFound>> {
        self.note("getlk", ctx, lock_args(node, handle, lock))?;
        let found = LockFound {
            start: 12,
            end: 13,
            mode: LockMode::Read,
            pid: 456,
        };
        Ok((lock.owner != 0).then_some(found))
    }
    fn setlk(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        lock: &LockArgs,
        wait: Option<&mut dyn LockWait>,
    ) -> FsResult<()> {
        let name = if wait.is_some() { "setlkw" } else { "setlk" };
        self.note(name, ctx, lock_args(node, handle, lock))?;
        // Unlocking never waits.
        if let (Some(wait), Some(_)) = (wait, lock.mode) {
            *self.deferred.lock().unwrap() = wait.defer()?;
        }
        Ok(())
    }
    fn suspend(&self) {
        self.note_plain("suspend");
    }
    fn proceed(&self) {
        self.note_plain("proceed");
    }
    fn syncfs(&self, ctx: &Context<'_>, node: NodeId) -> FsResult<()> {
        self.note("syncfs", ctx, node.0)
    }
}

fn lock_args(node: NodeId, handle: HandleId, lock: &LockArgs) -> impl Debug {
    let (range, owner) = ((lock.start, lock.end), lock.owner);
    let at = (node.0, handle.0);
    (
        at.0, at.1, lock.kind, owner, range.0, range.1, lock.mode, lock.pid,
    )
}

impl Mock {
    fn xattr_reply(&self, size: u32) -> FsResult<XattrReply> {
        let value = self.value.lock().unwrap().clone();
        Ok(if size == 0 {
            XattrReply::Size(value.len() as u32)
        } else {
            XattrReply::Value(value)
        })
    }
}

impl MigrateFs for Mock {
    type Plan = FsState;
    fn begin_precopy(&self) {
        self.note_plain("begin_precopy");
    }
    fn cancel_precopy(&self) {
        self.note_plain("cancel_precopy");
    }
    fn collect(&self) -> Result<FsState, String> {
        Ok(self.state.lock().unwrap().clone())
    }
    fn let_go(&self) {
        self.note_plain("let_go");
    }
    fn take_back(&self) {
        self.note_plain("take_back");
    }
    fn plan_restore(&self, state: FsState, flags: u64) -> Result<FsState, String> {
        if let Some(text) = &*self.refuse_restore.lock().unwrap() {
            return Err(text.clone());
        }
        self.note_plain(format!("plan({flags:#x})"));
        Ok(state)
    }
    fn apply(&self, plan: FsState) -> u64 {
        self.note_plain("apply");
        *self.state.lock().unwrap() = plan;
        1
    }
}

use ferryfs_state::FsState;

/// A well-formed reply.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Reply {
    error: i32,
    body: Vec<u8>,
}

impl Reply {
    fn ok(body: &[u8]) -> Option<Reply> {
        Some(Reply {
            error: 0,
            body: body.to_vec(),
        })
    }
    fn err(errno: Errno) -> Option<Reply> {
        Some(Reply {
            error: -errno.raw(),
            body: Vec::new(),
        })
    }
}

fn header(opcode: u32, node: u64, len: usize) -> InHeader {
    InHeader {
        len: len as u32,
        opcode,
        unique: UNIQUE,
        nodeid: node,
        uid: 1000,
        gid: 100,
        pid: 77,
        padding: 0,
    }
}

fn cat(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// Sends raw bytes with `room` bytes for the reply, and checks that what comes
/// back is a reply as FUSE has it, or none.
fn send<F: FileSystem>(server: &Server<F>, request: &[u8], room: usize) -> Option<Reply> {
    let mut reply = vec![0xaa; room];
    let len = server.handle(BufIo::new(request, &mut reply));
    if len == 0 {
        return None;
    }
    assert!((OUT_HEADER_LEN..=room).contains(&len), "{len} of {room}");
    let mut header = OutHeader::default();
    header
        .as_mut_slice()
        .copy_from_slice(&reply[..OUT_HEADER_LEN]);
    assert_eq!(header.len as usize, len);
    assert_eq!(header.unique.to_ne_bytes(), request[8..16]);
    assert!((-4095..=0).contains(&header.error));
    assert!(header.error == 0 || len == OUT_HEADER_LEN);
    Some(Reply {
        error: header.error,
        body: reply[OUT_HEADER_LEN..len].to_vec(),
    })
}

fn call(server: &Server<Mock>, opcode: u32, node: u64, body: &[u8]) -> Option<Reply> {
    let header = header(opcode, node, IN_HEADER_LEN + body.len());
    send(server, &cat(&[header.as_slice(), body]), 8192)
}

fn init_request(minor: u32, flags: u64) -> Vec<u8> {
    cat(&[
        InitIn {
            major: 7,
            minor,
            max_readahead: 0x20000,
            flags: flags as u32,
        }
        .as_slice(),
        InitIn2 {
            flags2: (flags >> 32) as u32,
            ..InitIn2::default()
        }
        .as_slice(),
    ])
}

/// A server whose guest has mounted with everything negotiated.
fn server() -> Server<Mock> {
    server_with(45, ALL_FLAGS)
}

fn server_with(minor: u32, flags: u64) -> Server<Mock> {
    let server = Server::new(Mock::default(), ServerConfig::default());
    let reply = call(&server, FUSE_INIT, 0, &init_request(minor, flags)).unwrap();
    assert_eq!(reply.error, 0);
    server.fs().taken();
    server
}
