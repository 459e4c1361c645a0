//! The file system seam: one method per FUSE operation.
//!
//! The dispatcher has decoded and checked the request: names are [`Name`]s,
//! lengths are within bounds, extensions are parsed. A method answers a value or
//! an [`Errno`]; the reply's bytes are the dispatcher's business. Every method
//! has a default that answers `ENOSYS` (or does nothing where FUSE has no reply),
//! so a file system implements what it has.
//!
//! Lookup counts: each method that answers an [`Entry`] gives the guest one
//! reference, which comes back through `forget`. A method that answers an error
//! has given none.

use std::time::Duration;

use crate::errno::{Errno, FsResult};
use crate::io::{ReplyWriter, RequestReader};
use crate::types::{HandleId, Name, NodeId};

/// `struct fuse_statx`.
pub use crate::abi::Statx;
/// `struct fuse_attr`, with `flags` (`FUSE_ATTR_SUBMOUNT`) in place.
pub use fuse_backend_rs::abi::fuse_abi::Attr;
/// `struct fuse_kstatfs`.
pub use fuse_backend_rs::abi::fuse_abi::Kstatfs;

/// Who asks, as `fuse_in_header` and its extensions say it.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The request's number, for INTERRUPT and logs.
    pub unique: u64,
    /// File system user id of the caller. With `FUSE_ALLOW_IDMAP` it is
    /// `u32::MAX`, and so is `gid`, in requests that make no object.
    pub uid: u32,
    /// File system group id of the caller.
    pub gid: u32,
    /// Thread id of the caller; 0 for the guest kernel itself.
    pub pid: u32,
    /// `FUSE_EXT_GROUPS`: the caller's supplementary groups, as far as the guest
    /// sent them (it sends the one group of the parent directory that matters).
    /// `None` where the extension was not negotiated or not sent.
    pub supplementary_groups: Option<&'a [u32]>,
    /// Security context of an object about to be made (`FUSE_SECURITY_CTX`).
    pub security_context: Option<SecurityContext<'a>>,
}

/// A label to be set on an object as it is made.
#[derive(Clone, Copy, Debug)]
pub struct SecurityContext<'a> {
    /// Extended attribute name, such as `security.selinux`.
    pub name: &'a std::ffi::CStr,
    /// Its value.
    pub value: &'a [u8],
}

/// An inode as the guest is told about it: `struct fuse_entry_out`.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The nodeid; with it the guest holds one more lookup.
    pub node: NodeId,
    /// Told apart reuses of a nodeid; 0 for file systems that never reuse one.
    pub generation: u64,
    /// Attributes.
    pub attr: Attr,
    /// How long the guest may believe the name.
    pub entry_timeout: Duration,
    /// How long the guest may believe the attributes.
    pub attr_timeout: Duration,
}

/// Attributes with how long the guest may believe them: `struct fuse_attr_out`.
#[derive(Clone, Copy, Debug)]
pub struct AttrReply {
    /// Attributes.
    pub attr: Attr,
    /// How long the guest may believe them.
    pub timeout: Duration,
}

/// Attributes with how long the guest may believe them: `struct fuse_statx_out`.
#[derive(Clone, Copy, Debug)]
pub struct StatxReply {
    /// Attributes, `mask` saying which.
    pub stat: Statx,
    /// How long the guest may believe them.
    pub timeout: Duration,
}

/// Answer to OPEN and OPENDIR: `struct fuse_open_out`.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// The handle.
    pub handle: HandleId,
    /// `FOPEN_*` flags.
    pub fopen_flags: u32,
}

/// What SETATTR changes; absent fields stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits (with the file type's, which are ignored).
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<SetTime>,
    /// Modification time.
    pub mtime: Option<SetTime>,
    /// `FATTR_KILL_SUIDGID`: clear set-user-id and set-group-id bits.
    pub kill_suidgid: bool,
}

impl SetAttr {
    /// Whether nothing is to be set.
    pub fn is_nothing(&self) -> bool {
        let nothing = SetAttr {
            kill_suidgid: self.kill_suidgid,
            ..SetAttr::default()
        };
        *self == nothing
    }
}

/// A time to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The server's current time.
    Now,
    /// Seconds (signed, as the guest sent them) and nanoseconds.
    At(i64, u32),
}

/// The guest's half of FUSE_INIT.
#[derive(Clone, Copy, Debug)]
pub struct InitOffer {
    /// Protocol minor the guest speaks (major is 7).
    pub minor: u32,
    /// All 64 `FUSE_*` INIT flag bits the guest is capable of.
    pub flags: u64,
    /// Read-ahead the guest wishes, in bytes.
    pub max_readahead: u32,
}

/// What the file system wants of FUSE_INIT. The dispatcher adds the bits that it
/// serves by itself, and answers the part that the guest offered.
#[derive(Clone, Copy, Debug)]
pub struct InitWish {
    /// `FUSE_*` INIT flag bits; bits the guest did not offer are dropped.
    pub flags: u64,
}

/// READ's arguments.
#[derive(Clone, Copy, Debug)]
pub struct ReadArgs {
    /// Position in the file, in bytes.
    pub offset: u64,
    /// Bytes wanted; never more than the reply has room for.
    pub size: u32,
    /// The open file's current flags in the guest (`O_*`).
    pub flags: u32,
}

/// WRITE's arguments.
#[derive(Clone, Copy, Debug)]
pub struct WriteArgs {
    /// Position in the file, in bytes.
    pub offset: u64,
    /// Bytes to write; never more than the request carries.
    pub size: u32,
    /// The open file's current flags in the guest (`O_*`).
    pub flags: u32,
    /// `FUSE_WRITE_CACHE`: from the page cache, by no process in particular, at
    /// an offset that is right even for an append-only file.
    pub from_cache: bool,
    /// `FUSE_WRITE_KILL_SUIDGID`.
    pub kill_suidgid: bool,
}

/// How a directory is listed: READDIR's and READDIRPLUS' reply in the making.
pub trait DirSink {
    /// Whether the guest asked for READDIRPLUS.
    fn plus(&self) -> bool;

    /// Whether an entry with a name of `name_len` bytes still fits.
    fn fits(&self, name_len: usize) -> bool;

    /// Adds an entry; `fits` has said it may. `offset` is the position *behind*
    /// it. With READDIRPLUS, `entry` is what a lookup of it gave, and `None`
    /// tells the guest the name only (nodeid 0, no reference given).
    fn add(&mut self, ino: u64, offset: u64, dtype: u8, name: &[u8], entry: Option<&Entry>);
}

/// Answer to GETXATTR and LISTXATTR.
#[derive(Clone, Debug)]
pub enum XattrReply {
    /// The guest asked with size 0: the value's length.
    Size(u32),
    /// The value.
    Value(Vec<u8>),
}

/// Whose rules a lock follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockKind {
    /// `fcntl`: ranges of bytes of a file, held by an owner.
    Posix,
    /// `flock` (`FUSE_LK_FLOCK`): a whole file, held by an open file (the handle).
    Flock,
}

/// What a lock keeps others from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LockMode {
    /// Writing, if they lock too (`F_RDLCK`, `LOCK_SH`).
    Read,
    /// Reading and writing, if they lock too (`F_WRLCK`, `LOCK_EX`).
    Write,
}

/// GETLK's and SETLK's arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockArgs {
    /// Whose rules.
    pub kind: LockKind,
    /// The guest's `lock_owner`: a number that means one holder for as long as it
    /// holds or waits for something.
    pub owner: u64,
    /// First byte.
    pub start: u64,
    /// Last byte, `i64::MAX` for the file's end wherever that is. Not below `start`.
    pub end: u64,
    /// What is wanted; `None` unlocks.
    pub mode: Option<LockMode>,
    /// Process in the guest, for whoever asks who is in the way.
    pub pid: u32,
}

/// Answer to GETLK: a lock that is in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockFound {
    /// First byte.
    pub start: u64,
    /// Last byte, inclusive.
    pub end: u64,
    /// What it keeps others from.
    pub mode: LockMode,
    /// Process in the guest that holds it; 0 when nobody in this guest does.
    pub pid: u32,
}

/// How a SETLKW waits for what it cannot have at once.
pub trait LockWait {
    /// Lets the request stand over: it is answered through what this returns, and
    /// whatever the method itself answers then is not looked at. `Ok(None)`: the
    /// transport cannot do that, the method is to wait before it returns. To be
    /// called once at most.
    ///
    /// # Errors
    /// `ENOLCK`: too many requests stand over already.
    fn defer(&mut self) -> FsResult<Option<Box<dyn LockAnswer>>>;
}

/// The answer to a SETLKW that stands over.
pub trait LockAnswer: Send {
    /// Ends the request. `false`: nobody waits for it any more, and what was locked
    /// for it should be unlocked.
    fn send(self: Box<Self>, result: FsResult<()>) -> bool;
}

/// A file system as FUSE sees it. See the module's text for the common rules.
#[allow(unused_variables, clippy::too_many_arguments)]
pub trait FileSystem: Send + Sync + 'static {
    /// FUSE_INIT: a guest mounts. Whatever an earlier guest held has been
    /// dropped by `destroy` before.
    fn init(&self, offer: &InitOffer) -> FsResult<InitWish> {
        Ok(InitWish { flags: 0 })
    }

    /// Whether a session that began on another daemon, with these answered flags,
    /// can be honoured here. Changes nothing.
    ///
    /// # Errors
    /// The text says which flag cannot and which option would help.
    fn check_session(&self, flags: u64) -> Result<(), String> {
        Ok(())
    }

    /// The session as finally negotiated: the answer's flags. Called after `init`,
    /// and on a destination in its place, once `check_session` has agreed and
    /// before the first request.
    fn adopt_session(&self, flags: u64) {}

    /// DESTROY or a reset: the guest has let go of everything.
    fn destroy(&self) {}

    /// INTERRUPT: the guest would rather have request `unique` (see
    /// [`Context::unique`]) fail with `EINTR` than wait for it any longer. A file
    /// system whose operations never wait for another request ignores it. It may come
    /// before the request, by another queue.
    fn interrupt(&self, unique: u64) {}

    /// The device is being stopped: operations that wait for another request in the
    /// thread that called them give up with `EINTR`, and none begins to, until
    /// [`allow_waits`](FileSystem::allow_waits).
    fn interrupt_waits(&self) {}

    /// Ends [`interrupt_waits`](FileSystem::interrupt_waits).
    fn allow_waits(&self) {}

    /// As [`Service::suspend`](crate::service::Service::suspend): requests that stand
    /// over ([`LockWait`]) keep their place, and are not answered until
    /// [`proceed`](FileSystem::proceed).
    fn suspend(&self) {}

    /// As [`Service::proceed`](crate::service::Service::proceed).
    fn proceed(&self) {}

    /// LOOKUP.
    fn lookup(&self, ctx: &Context<'_>, parent: NodeId, name: &Name) -> FsResult<Entry> {
        Err(Errno::ENOSYS)
    }

    /// How long the guest may believe that a name is not there, when LOOKUP has
    /// answered `ENOENT`; `None`: not at all.
    fn absent_for(&self) -> Option<Duration> {
        None
    }

    /// FORGET: the guest gives `count` lookups back. More than it has is clamped.
    fn forget(&self, node: NodeId, count: u64) {}

    /// BATCH_FORGET.
    fn batch_forget(&self, items: &[(NodeId, u64)]) {
        for &(node, count) in items {
            self.forget(node, count);
        }
    }

    /// GETATTR, by handle where the guest names one.
    fn getattr(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: Option<HandleId>,
    ) -> FsResult<AttrReply> {
        Err(Errno::ENOSYS)
    }

    /// STATX, by handle where the guest names one. `flags` are `AT_STATX_*`, `mask`
    /// the `STATX_*` that are wanted; others may be filled in too.
    fn statx(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: Option<HandleId>,
        flags: u32,
        mask: u32,
    ) -> FsResult<StatxReply> {
        Err(Errno::ENOSYS)
    }

    /// SETATTR, by handle where the guest names one.
    fn setattr(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: Option<HandleId>,
        set: &SetAttr,
    ) -> FsResult<AttrReply> {
        Err(Errno::ENOSYS)
    }

    /// READLINK: the target's bytes.
    fn readlink(&self, ctx: &Context<'_>, node: NodeId) -> FsResult<Vec<u8>> {
        Err(Errno::ENOSYS)
    }

    /// SYMLINK: `target` is any bytes but NUL.
    fn symlink(
        &self,
        ctx: &Context<'_>,
        target: &std::ffi::CStr,
        parent: NodeId,
        name: &Name,
    ) -> FsResult<Entry> {
        Err(Errno::ENOSYS)
    }

    /// MKNOD. `rdev` is in the kernel's 32-bit `new_encode_dev` form.
    fn mknod(
        &self,
        ctx: &Context<'_>,
        parent: NodeId,
        name: &Name,
        mode: u32,
        rdev: u32,
        umask: u32,
    ) -> FsResult<Entry> {
        Err(Errno::ENOSYS)
    }

    /// MKDIR.
    fn mkdir(
        &self,
        ctx: &Context<'_>,
        parent: NodeId,
        name: &Name,
        mode: u32,
        umask: u32,
    ) -> FsResult<Entry> {
        Err(Errno::ENOSYS)
    }

    /// UNLINK.
    fn unlink(&self, ctx: &Context<'_>, parent: NodeId, name: &Name) -> FsResult<()> {
        Err(Errno::ENOSYS)
    }

    /// RMDIR.
    fn rmdir(&self, ctx: &Context<'_>, parent: NodeId, name: &Name) -> FsResult<()> {
        Err(Errno::ENOSYS)
    }

    /// RENAME and RENAME2. `flags` are `RENAME_*`, already limited to
    /// `NOREPLACE`, `EXCHANGE` and `WHITEOUT`.
    fn rename(
        &self,
        ctx: &Context<'_>,
        parent: NodeId,
        name: &Name,
        new_parent: NodeId,
        new_name: &Name,
        flags: u32,
    ) -> FsResult<()> {
        Err(Errno::ENOSYS)
    }

    /// LINK.
    fn link(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        new_parent: NodeId,
        new_name: &Name,
    ) -> FsResult<Entry> {
        Err(Errno::ENOSYS)
    }

    /// OPEN. `flags` are the guest's `O_*`; `kill_suidgid` is
    /// `FUSE_OPEN_KILL_SUIDGID`.
    fn open(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        flags: u32,
        kill_suidgid: bool,
    ) -> FsResult<Opened> {
        Err(Errno::ENOSYS)
    }

    /// CREATE: make where absent, and open.
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
        Err(Errno::ENOSYS)
    }

    /// TMPFILE: an open file with no name, in `parent`'s file system.
    fn tmpfile(
        &self,
        ctx: &Context<'_>,
        parent: NodeId,
        mode: u32,
        umask: u32,
        flags: u32,
    ) -> FsResult<(Entry, Opened)> {
        Err(Errno::ENOSYS)
    }

    /// READ: appends up to `args.size` bytes to `out`; fewer only at the file's
    /// end. Answers how many.
    fn read(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        args: &ReadArgs,
        out: &mut dyn ReplyWriter,
    ) -> FsResult<usize> {
        Err(Errno::ENOSYS)
    }

    /// WRITE: takes `args.size` bytes from `data`; answers how many were written.
    fn write(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        args: &WriteArgs,
        data: &mut dyn RequestReader,
    ) -> FsResult<usize> {
        Err(Errno::ENOSYS)
    }

    /// STATFS.
    fn statfs(&self, ctx: &Context<'_>, node: NodeId) -> FsResult<Kstatfs> {
        Err(Errno::ENOSYS)
    }

    /// RELEASE.
    fn release(&self, ctx: &Context<'_>, node: NodeId, handle: HandleId) -> FsResult<()> {
        Err(Errno::ENOSYS)
    }

    /// FSYNC.
    fn fsync(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        datasync: bool,
    ) -> FsResult<()> {
        Err(Errno::ENOSYS)
    }

    /// FLUSH: one of the guest's descriptors of the handle was closed, and with it
    /// all that `lock_owner` has locked of the file by `fcntl`.
    fn flush(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        lock_owner: u64,
    ) -> FsResult<()> {
        Err(Errno::ENOSYS)
    }

    /// OPENDIR.
    fn opendir(&self, ctx: &Context<'_>, node: NodeId, flags: u32) -> FsResult<Opened> {
        Err(Errno::ENOSYS)
    }

    /// READDIR and READDIRPLUS from `offset` (0, or one that `sink` was given)
    /// until the directory ends or `sink` is full. An entry that cannot be
    /// looked up is still listed.
    fn readdir(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        offset: u64,
        sink: &mut dyn DirSink,
    ) -> FsResult<()> {
        Err(Errno::ENOSYS)
    }

    /// RELEASEDIR.
    fn releasedir(&self, ctx: &Context<'_>, node: NodeId, handle: HandleId) -> FsResult<()> {
        Err(Errno::ENOSYS)
    }

    /// FSYNCDIR.
    fn fsyncdir(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        datasync: bool,
    ) -> FsResult<()> {
        Err(Errno::ENOSYS)
    }

    /// ACCESS. `mask` is `R_OK | W_OK | X_OK`.
    fn access(&self, ctx: &Context<'_>, node: NodeId, mask: u32) -> FsResult<()> {
        Err(Errno::ENOSYS)
    }

    /// SETXATTR. `flags` are `XATTR_*`; `acl_kill_sgid` is
    /// `FUSE_SETXATTR_ACL_KILL_SGID`.
    fn setxattr(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        name: &std::ffi::CStr,
        value: &[u8],
        flags: u32,
        acl_kill_sgid: bool,
    ) -> FsResult<()> {
        Err(Errno::ENOSYS)
    }

    /// GETXATTR. `size` 0 asks for the length.
    fn getxattr(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        name: &std::ffi::CStr,
        size: u32,
    ) -> FsResult<XattrReply> {
        Err(Errno::ENOSYS)
    }

    /// LISTXATTR. `size` 0 asks for the length.
    fn listxattr(&self, ctx: &Context<'_>, node: NodeId, size: u32) -> FsResult<XattrReply> {
        Err(Errno::ENOSYS)
    }

    /// REMOVEXATTR.
    fn removexattr(&self, ctx: &Context<'_>, node: NodeId, name: &std::ffi::CStr) -> FsResult<()> {
        Err(Errno::ENOSYS)
    }

    /// FALLOCATE. `mode` is `FALLOC_FL_*`.
    fn fallocate(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> FsResult<()> {
        Err(Errno::ENOSYS)
    }

    /// LSEEK: `SEEK_DATA`, `SEEK_HOLE` and the rest.
    fn lseek(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        offset: u64,
        whence: u32,
    ) -> FsResult<u64> {
        Err(Errno::ENOSYS)
    }

    /// COPY_FILE_RANGE. Answers the bytes copied, no more than fit in the reply
    /// (2^31 - 4096 is what Linux copies at once).
    fn copy_file_range(
        &self,
        ctx: &Context<'_>,
        from: (NodeId, HandleId, u64),
        to: (NodeId, HandleId, u64),
        length: u64,
        flags: u64,
    ) -> FsResult<usize> {
        Err(Errno::ENOSYS)
    }

    /// IOCTL: `command` with `input`; `output`, zeros at first, has the length that
    /// the guest has room for.
    fn ioctl(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        command: u32,
        input: &[u8],
        output: &mut [u8],
    ) -> FsResult<()> {
        Err(Errno::ENOSYS)
    }

    /// GETLK: a lock in the way of what `lock` wants.
    fn getlk(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        lock: &LockArgs,
    ) -> FsResult<Option<LockFound>> {
        Err(Errno::ENOSYS)
    }

    /// SETLK, and SETLKW with `wait`: locks or unlocks.
    fn setlk(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        lock: &LockArgs,
        wait: Option<&mut dyn LockWait>,
    ) -> FsResult<()> {
        Err(Errno::ENOSYS)
    }

    /// SYNCFS.
    fn syncfs(&self, ctx: &Context<'_>, node: NodeId) -> FsResult<()> {
        Err(Errno::ENOSYS)
    }
}
