//! FUSE requests as values: what goes out, how much room the answer gets, and how the
//! answer is understood. [`FsClient`](crate::client::FsClient) sends them, at once or
//! several in flight.

use std::sync::Arc;

use crate::fuse::{
    self, opcode, AttrReply, DirEntry, DirEntryPlus, Entry, Fields, FileLock, InitReply, Opened,
    Short, StatFs, StatxReply,
};
use crate::memory::GuestBuffer;

/// File data of a request, after its arguments.
#[derive(Debug, Clone, Default)]
pub enum Payload {
    /// None.
    #[default]
    None,
    /// Bytes to copy into guest memory.
    Bytes(Vec<u8>),
    /// The first bytes of a buffer that is already there.
    Guest(Arc<GuestBuffer>, usize),
}

/// The answer's body as it came back.
#[derive(Debug)]
pub struct Body {
    /// Bytes of the body.
    pub len: usize,
    /// The bytes; empty when they went into a buffer of the caller's.
    pub bytes: Vec<u8>,
}

/// A request whose answer is an `R`.
#[derive(Debug, Clone)]
pub struct Call<R> {
    /// Request code.
    pub opcode: u32,
    /// Node it is about.
    pub nodeid: u64,
    /// Arguments: the fixed structure and names.
    pub args: Vec<u8>,
    /// File data.
    pub payload: Payload,
    /// Bytes of room for the answer's body.
    pub room: usize,
    /// Where the answer's body shall go, if the caller cares.
    pub sink: Option<Arc<GuestBuffer>>,
    /// Sent on the high-priority queue.
    pub hiprio: bool,
    /// Whether an answer is due at all.
    pub answered: bool,
    /// Makes a new inode: the caller's groups and security context go along.
    pub creates: bool,
    /// Understands the answer's body.
    pub decode: fn(Body) -> Result<R, Short>,
}

impl<R> Call<R> {
    fn new(opcode: u32, nodeid: u64, room: usize, decode: fn(Body) -> Result<R, Short>) -> Self {
        Call {
            opcode,
            nodeid,
            args: Vec::new(),
            payload: Payload::None,
            room,
            sink: None,
            hiprio: false,
            answered: true,
            creates: false,
            decode,
        }
    }

    fn u32(mut self, value: u32) -> Self {
        self.args.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.args.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn name(mut self, name: &[u8]) -> Self {
        self.args.extend_from_slice(name);
        self.args.push(0);
        self
    }

    fn creating(mut self) -> Self {
        self.creates = true;
        self
    }

    fn unanswered(mut self) -> Self {
        self.hiprio = true;
        self.answered = false;
        self
    }
}

fn none(_: Body) -> Result<(), Short> {
    Ok(())
}

fn bytes(body: Body) -> Result<Vec<u8>, Short> {
    Ok(body.bytes)
}

fn entry(body: Body) -> Result<Entry, Short> {
    Entry::read(&mut Fields::new(&body.bytes))
}

fn attr(body: Body) -> Result<AttrReply, Short> {
    AttrReply::read(&mut Fields::new(&body.bytes))
}

fn opened(body: Body) -> Result<Opened, Short> {
    Opened::read(&mut Fields::new(&body.bytes))
}

fn created(body: Body) -> Result<(Entry, Opened), Short> {
    let mut fields = Fields::new(&body.bytes);
    Ok((Entry::read(&mut fields)?, Opened::read(&mut fields)?))
}

fn first_u32(body: Body) -> Result<u32, Short> {
    Fields::new(&body.bytes).u32()
}

fn first_u64(body: Body) -> Result<u64, Short> {
    Fields::new(&body.bytes).u64()
}

/// What FUSE_INIT asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InitRequest {
    /// Protocol major version, 7.
    pub major: u32,
    /// Protocol minor version.
    pub minor: u32,
    /// Bytes of read-ahead.
    pub max_readahead: u32,
    /// [`fuse::init`] flags. The upper half is sent if INIT_EXT is among them.
    pub flags: u64,
}

impl Default for InitRequest {
    /// As a recent Linux guest asks.
    fn default() -> Self {
        InitRequest {
            major: fuse::MAJOR,
            minor: 40,
            max_readahead: 128 << 10,
            flags: fuse::GUEST_FLAGS,
        }
    }
}

/// What SETATTR changes. `valid` says which fields count ([`fuse::fattr`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SetAttr {
    pub valid: u32,
    pub fh: u64,
    pub size: u64,
    pub lock_owner: u64,
    pub atime: u64,
    pub mtime: u64,
    pub ctime: u64,
    pub atimensec: u32,
    pub mtimensec: u32,
    pub ctimensec: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// INIT. Before minor 36 the structure had 16 bytes.
pub fn init(request: &InitRequest) -> Call<InitReply> {
    let decode = |body: Body| InitReply::read(&body.bytes);
    let call = Call::new(opcode::INIT, 0, fuse::INIT_OUT, decode)
        .u32(request.major)
        .u32(request.minor)
        .u32(request.max_readahead)
        .u32(request.flags as u32);
    if request.minor < 36 {
        return call;
    }
    let mut call = call.u32((request.flags >> 32) as u32);
    call.args.resize(64, 0);
    call
}

/// DESTROY.
pub fn destroy() -> Call<()> {
    Call::new(opcode::DESTROY, 0, 0, none)
}

/// LOOKUP.
pub fn lookup(parent: u64, name: &[u8]) -> Call<Entry> {
    Call::new(opcode::LOOKUP, parent, fuse::ENTRY_OUT, entry).name(name)
}

/// FORGET.
pub fn forget(nodeid: u64, nlookup: u64) -> Call<()> {
    Call::new(opcode::FORGET, nodeid, 0, none)
        .u64(nlookup)
        .unanswered()
}

/// BATCH_FORGET of (node id, lookups) pairs.
pub fn batch_forget(forgets: &[(u64, u64)]) -> Call<()> {
    let call = Call::new(opcode::BATCH_FORGET, 0, 0, none);
    let call = call.u32(forgets.len() as u32).u32(0).unanswered();
    forgets.iter().fold(call, |call, (nodeid, nlookup)| {
        call.u64(*nodeid).u64(*nlookup)
    })
}

/// GETATTR, by handle if there is one.
pub fn getattr(nodeid: u64, fh: Option<u64>) -> Call<AttrReply> {
    let flags = u32::from(fh.is_some());
    let call = Call::new(opcode::GETATTR, nodeid, fuse::ATTR_OUT, attr);
    call.u32(flags).u32(0).u64(fh.unwrap_or(0))
}

/// STATX, by handle if there is one, for `mask` (STATX_*).
pub fn statx(nodeid: u64, fh: Option<u64>, mask: u32) -> Call<StatxReply> {
    let flags = u32::from(fh.is_some());
    let call = Call::new(opcode::STATX, nodeid, fuse::STATX_OUT, |body| {
        StatxReply::read(&mut Fields::new(&body.bytes))
    });
    call.u32(flags).u32(0).u64(fh.unwrap_or(0)).u32(0).u32(mask)
}

/// IOCTL of an open file with `input`; the `room` bytes that come back.
pub fn ioctl(at: (u64, u64), command: u32, input: &[u8], room: u32) -> Call<Vec<u8>> {
    let call = Call::new(opcode::IOCTL, at.0, 16 + room as usize, |mut body| {
        let mut fields = Fields::new(&body.bytes);
        // The result, flags and two counts that a file system leaves 0.
        for _ in 0..4 {
            fields.u32()?;
        }
        Ok(body.bytes.split_off(16))
    });
    let mut call = call
        .u64(at.1)
        .u32(0)
        .u32(command)
        .u64(0)
        .u32(input.len() as u32)
        .u32(room);
    call.args.extend_from_slice(input);
    call
}

/// SETATTR.
pub fn setattr(nodeid: u64, set: &SetAttr) -> Call<AttrReply> {
    Call::new(opcode::SETATTR, nodeid, fuse::ATTR_OUT, attr)
        .u32(set.valid)
        .u32(0)
        .u64(set.fh)
        .u64(set.size)
        .u64(set.lock_owner)
        .u64(set.atime)
        .u64(set.mtime)
        .u64(set.ctime)
        .u32(set.atimensec)
        .u32(set.mtimensec)
        .u32(set.ctimensec)
        .u32(set.mode)
        .u32(0)
        .u32(set.uid)
        .u32(set.gid)
        .u32(0)
}

/// READLINK.
pub fn readlink(nodeid: u64) -> Call<Vec<u8>> {
    Call::new(opcode::READLINK, nodeid, 4096, bytes)
}

/// SYMLINK.
pub fn symlink(parent: u64, name: &[u8], target: &[u8]) -> Call<Entry> {
    let call = Call::new(opcode::SYMLINK, parent, fuse::ENTRY_OUT, entry);
    call.name(name).name(target).creating()
}

/// MKNOD.
pub fn mknod(parent: u64, name: &[u8], mode: u32, rdev: u32, umask: u32) -> Call<Entry> {
    let call = Call::new(opcode::MKNOD, parent, fuse::ENTRY_OUT, entry);
    call.u32(mode)
        .u32(rdev)
        .u32(umask)
        .u32(0)
        .name(name)
        .creating()
}

/// MKDIR.
pub fn mkdir(parent: u64, name: &[u8], mode: u32, umask: u32) -> Call<Entry> {
    let call = Call::new(opcode::MKDIR, parent, fuse::ENTRY_OUT, entry);
    call.u32(mode).u32(umask).name(name).creating()
}

/// UNLINK.
pub fn unlink(parent: u64, name: &[u8]) -> Call<()> {
    Call::new(opcode::UNLINK, parent, 0, none).name(name)
}

/// RMDIR.
pub fn rmdir(parent: u64, name: &[u8]) -> Call<()> {
    Call::new(opcode::RMDIR, parent, 0, none).name(name)
}

/// RENAME.
pub fn rename(parent: u64, name: &[u8], newparent: u64, newname: &[u8]) -> Call<()> {
    Call::new(opcode::RENAME, parent, 0, none)
        .u64(newparent)
        .name(name)
        .name(newname)
}

/// RENAME2 with RENAME_* flags.
pub fn rename2(parent: u64, name: &[u8], newparent: u64, newname: &[u8], flags: u32) -> Call<()> {
    let call = Call::new(opcode::RENAME2, parent, 0, none)
        .u64(newparent)
        .u32(flags)
        .u32(0);
    call.name(name).name(newname)
}

/// LINK.
pub fn link(nodeid: u64, newparent: u64, newname: &[u8]) -> Call<Entry> {
    Call::new(opcode::LINK, newparent, fuse::ENTRY_OUT, entry)
        .u64(nodeid)
        .name(newname)
}

fn open_call(opcode: u32, nodeid: u64, flags: u32, open_flags: u32) -> Call<Opened> {
    Call::new(opcode, nodeid, fuse::OPEN_OUT, opened)
        .u32(flags)
        .u32(open_flags)
}

/// OPEN with O_* flags and FUSE_OPEN_* flags.
pub fn open(nodeid: u64, flags: u32, open_flags: u32) -> Call<Opened> {
    open_call(opcode::OPEN, nodeid, flags, open_flags)
}

/// OPENDIR.
pub fn opendir(nodeid: u64, flags: u32) -> Call<Opened> {
    open_call(opcode::OPENDIR, nodeid, flags, 0)
}

fn read_call<R>(
    opcode: u32,
    nodeid: u64,
    fh: u64,
    offset: u64,
    size: u32,
    flags: u32,
    decode: fn(Body) -> Result<R, Short>,
) -> Call<R> {
    let call = Call::new(opcode, nodeid, size as usize, decode)
        .u64(fh)
        .u64(offset)
        .u32(size);
    call.u32(0).u64(0).u32(flags).u32(0)
}

/// READ; `flags` are the file's O_* flags.
pub fn read(nodeid: u64, fh: u64, offset: u64, size: u32, flags: u32) -> Call<Vec<u8>> {
    read_call(opcode::READ, nodeid, fh, offset, size, flags, bytes)
}

/// READ into a buffer of the caller's, filled from its start; the number of bytes.
/// A buffer smaller than `size` limits it.
pub fn read_into(
    nodeid: u64,
    fh: u64,
    offset: u64,
    size: u32,
    flags: u32,
    sink: &Arc<GuestBuffer>,
) -> Call<usize> {
    let size = size.min(u32::try_from(sink.len()).unwrap_or(u32::MAX));
    let mut call = read_call(opcode::READ, nodeid, fh, offset, size, flags, |body| {
        Ok(body.len)
    });
    call.sink = Some(Arc::clone(sink));
    call
}

/// WRITE; `write_flags` are [`fuse::write_flag`]s, `flags` the file's O_* flags.
pub fn write(
    nodeid: u64,
    fh: u64,
    offset: u64,
    payload: Payload,
    write_flags: u32,
    flags: u32,
) -> Call<u32> {
    let size = match &payload {
        Payload::None => 0,
        Payload::Bytes(bytes) => bytes.len(),
        Payload::Guest(_, len) => *len,
    };
    let call = Call::new(opcode::WRITE, nodeid, 8, first_u32)
        .u64(fh)
        .u64(offset);
    let mut call = call
        .u32(size as u32)
        .u32(write_flags)
        .u64(0)
        .u32(flags)
        .u32(0);
    call.payload = payload;
    call
}

/// STATFS.
pub fn statfs(nodeid: u64) -> Call<StatFs> {
    Call::new(opcode::STATFS, nodeid, 80, |body| {
        StatFs::read(&mut Fields::new(&body.bytes))
    })
}

fn release_call(opcode: u32, nodeid: u64, fh: u64, flags: u32, release_flags: u32) -> Call<()> {
    Call::new(opcode, nodeid, 0, none)
        .u64(fh)
        .u32(flags)
        .u32(release_flags)
        .u64(0)
}

/// RELEASE with the file's O_* flags and FUSE_RELEASE_* flags.
pub fn release(nodeid: u64, fh: u64, flags: u32, release_flags: u32) -> Call<()> {
    release_call(opcode::RELEASE, nodeid, fh, flags, release_flags)
}

/// RELEASEDIR.
pub fn releasedir(nodeid: u64, fh: u64) -> Call<()> {
    release_call(opcode::RELEASEDIR, nodeid, fh, 0, 0)
}

fn fsync_call(opcode: u32, nodeid: u64, fh: u64, data_only: bool) -> Call<()> {
    Call::new(opcode, nodeid, 0, none)
        .u64(fh)
        .u32(u32::from(data_only))
        .u32(0)
}

/// FSYNC.
pub fn fsync(nodeid: u64, fh: u64, data_only: bool) -> Call<()> {
    fsync_call(opcode::FSYNC, nodeid, fh, data_only)
}

/// FSYNCDIR.
pub fn fsyncdir(nodeid: u64, fh: u64, data_only: bool) -> Call<()> {
    fsync_call(opcode::FSYNCDIR, nodeid, fh, data_only)
}

/// FLUSH.
pub fn flush(nodeid: u64, fh: u64, lock_owner: u64) -> Call<()> {
    Call::new(opcode::FLUSH, nodeid, 0, none)
        .u64(fh)
        .u64(0)
        .u64(lock_owner)
}

/// READDIR.
pub fn readdir(nodeid: u64, fh: u64, offset: u64, size: u32) -> Call<Vec<DirEntry>> {
    let decode = |body: Body| DirEntry::read_all(&body.bytes);
    read_call(opcode::READDIR, nodeid, fh, offset, size, 0, decode)
}

/// READDIRPLUS.
pub fn readdirplus(nodeid: u64, fh: u64, offset: u64, size: u32) -> Call<Vec<DirEntryPlus>> {
    let decode = |body: Body| DirEntryPlus::read_all(&body.bytes);
    read_call(opcode::READDIRPLUS, nodeid, fh, offset, size, 0, decode)
}

fn create_call(
    opcode: u32,
    parent: u64,
    name: &[u8],
    flags: u32,
    mode: u32,
    umask: u32,
    open_flags: u32,
) -> Call<(Entry, Opened)> {
    let call = Call::new(opcode, parent, fuse::ENTRY_OUT + fuse::OPEN_OUT, created);
    call.u32(flags)
        .u32(mode)
        .u32(umask)
        .u32(open_flags)
        .name(name)
        .creating()
}

/// CREATE with O_* flags, mode, umask and FUSE_OPEN_* flags.
pub fn create(
    parent: u64,
    name: &[u8],
    flags: u32,
    mode: u32,
    umask: u32,
    open_flags: u32,
) -> Call<(Entry, Opened)> {
    create_call(opcode::CREATE, parent, name, flags, mode, umask, open_flags)
}

/// TMPFILE: a file without a name in `parent`. Linux sends "/" as its name.
pub fn tmpfile(parent: u64, flags: u32, mode: u32, umask: u32) -> Call<(Entry, Opened)> {
    create_call(opcode::TMPFILE, parent, b"/", flags, mode, umask, 0)
}

/// ACCESS with R_OK, W_OK, X_OK.
pub fn access(nodeid: u64, mask: u32) -> Call<()> {
    Call::new(opcode::ACCESS, nodeid, 0, none).u32(mask).u32(0)
}

/// FALLOCATE with FALLOC_FL_* mode.
pub fn fallocate(nodeid: u64, fh: u64, offset: u64, length: u64, mode: u32) -> Call<()> {
    let call = Call::new(opcode::FALLOCATE, nodeid, 0, none);
    call.u64(fh).u64(offset).u64(length).u32(mode).u32(0)
}

/// LSEEK with SEEK_* whence; the new offset.
pub fn lseek(nodeid: u64, fh: u64, offset: u64, whence: u32) -> Call<u64> {
    let call = Call::new(opcode::LSEEK, nodeid, 8, first_u64);
    call.u64(fh).u64(offset).u32(whence).u32(0)
}

/// COPY_FILE_RANGE between (node id, handle, offset) places; bytes copied.
pub fn copy_file_range(from: (u64, u64, u64), to: (u64, u64, u64), len: u64) -> Call<u32> {
    let call = Call::new(opcode::COPY_FILE_RANGE, from.0, 8, first_u32);
    call.u64(from.1)
        .u64(from.2)
        .u64(to.0)
        .u64(to.1)
        .u64(to.2)
        .u64(len)
        .u64(0)
}

/// SYNCFS.
pub fn syncfs(nodeid: u64) -> Call<()> {
    Call::new(opcode::SYNCFS, nodeid, 0, none).u64(0)
}

/// SETXATTR with XATTR_* flags. `ext` is the form negotiated by SETXATTR_EXT and
/// carries FUSE_SETXATTR_* flags; without it the shorter, older form is sent.
pub fn setxattr(nodeid: u64, name: &[u8], value: &[u8], flags: u32, ext: Option<u32>) -> Call<()> {
    let mut call = Call::new(opcode::SETXATTR, nodeid, 0, none)
        .u32(value.len() as u32)
        .u32(flags);
    if let Some(setxattr_flags) = ext {
        call = call.u32(setxattr_flags).u32(0);
    }
    let mut call = call.name(name);
    call.args.extend_from_slice(value);
    call
}

/// GETXATTR of at most `size` bytes.
pub fn getxattr(nodeid: u64, name: &[u8], size: u32) -> Call<Vec<u8>> {
    Call::new(opcode::GETXATTR, nodeid, size as usize, bytes)
        .u32(size)
        .u32(0)
        .name(name)
}

/// GETXATTR with size 0: how many bytes the value has.
pub fn getxattr_size(nodeid: u64, name: &[u8]) -> Call<u32> {
    Call::new(opcode::GETXATTR, nodeid, 8, first_u32)
        .u32(0)
        .u32(0)
        .name(name)
}

/// LISTXATTR of at most `size` bytes; names, each ended by a zero byte.
pub fn listxattr(nodeid: u64, size: u32) -> Call<Vec<u8>> {
    Call::new(opcode::LISTXATTR, nodeid, size as usize, bytes)
        .u32(size)
        .u32(0)
}

/// LISTXATTR with size 0: how many bytes the list has.
pub fn listxattr_size(nodeid: u64) -> Call<u32> {
    Call::new(opcode::LISTXATTR, nodeid, 8, first_u32)
        .u32(0)
        .u32(0)
}

/// REMOVEXATTR.
pub fn removexattr(nodeid: u64, name: &[u8]) -> Call<()> {
    Call::new(opcode::REMOVEXATTR, nodeid, 0, none).name(name)
}

/// INTERRUPT of the request `unique`. Whether an answer comes is up to the daemon;
/// room for its header is there.
pub fn interrupt(unique: u64) -> Call<()> {
    let mut call = Call::new(opcode::INTERRUPT, 0, 0, none).u64(unique);
    call.hiprio = true;
    call
}

fn lock_call<R>(
    opcode: u32,
    at: (u64, u64),
    owner: u64,
    lock: &FileLock,
    flock: bool,
    room: usize,
    decode: fn(Body) -> Result<R, Short>,
) -> Call<R> {
    let call = Call::new(opcode, at.0, room, decode).u64(at.1).u64(owner);
    let call = call
        .u64(lock.start)
        .u64(lock.end)
        .u32(lock.kind)
        .u32(lock.pid);
    call.u32(u32::from(flock)).u32(0)
}

/// GETLK at (node id, handle).
pub fn getlk(at: (u64, u64), owner: u64, lock: &FileLock) -> Call<FileLock> {
    let decode = |body: Body| FileLock::read(&mut Fields::new(&body.bytes));
    lock_call(opcode::GETLK, at, owner, lock, false, 24, decode)
}

/// SETLK, or SETLKW if `wait`, at (node id, handle); `flock` for a BSD lock.
pub fn setlk(at: (u64, u64), owner: u64, lock: &FileLock, flock: bool, wait: bool) -> Call<()> {
    let opcode = if wait { opcode::SETLKW } else { opcode::SETLK };
    lock_call(opcode, at, owner, lock, flock, 0, none)
}
