//! [`FileSystem`] for [`Passthrough`]: the session, and each operation handed to
//! where it is done.

use std::ffi::CStr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::AtFlags;

use super::config::{CachePolicy, Negotiate};
use super::handle::HandleKind;
use super::Passthrough;
use crate::abi;
use crate::errno::{Errno, FsResult};
use crate::fs::{
    AttrReply, Context, DirSink, Entry, FileSystem, InitOffer, InitWish, Kstatfs, LockArgs,
    LockFound, LockWait, Opened, ReadArgs, SetAttr, StatxReply, WriteArgs, XattrReply,
};
use crate::io::{ReplyWriter, RequestReader};
use crate::types::{HandleId, Name, NodeId};

/// What is wished of every session.
const ALWAYS: u64 = abi::FUSE_ASYNC_READ
    | abi::FUSE_ATOMIC_O_TRUNC
    | abi::FUSE_BIG_WRITES
    | abi::FUSE_AUTO_INVAL_DATA
    | abi::FUSE_ASYNC_DIO
    | abi::FUSE_PARALLEL_DIROPS
    | abi::FUSE_CREATE_SUPP_GROUP;

/// What no session can have here, with what it is about.
const NEVER: [(u64, &str); 8] = [
    (abi::FUSE_EXPORT_SUPPORT, "NFS export by the guest"),
    (abi::FUSE_NO_OPEN_SUPPORT, "files without OPEN"),
    (abi::FUSE_NO_OPENDIR_SUPPORT, "directories without OPENDIR"),
    (abi::FUSE_HANDLE_KILLPRIV, "the first form of killpriv"),
    (abi::FUSE_MAP_ALIGNMENT, "DAX"),
    (abi::FUSE_HAS_INODE_DAX, "DAX"),
    (abi::FUSE_PASSTHROUGH, "passthrough by the guest's kernel"),
    (abi::FUSE_OVER_IO_URING, "requests over io_uring"),
];

/// What is used where the guest knows it, or else may keep it from mounting.
struct Negotiable {
    when: Negotiate,
    /// The flag that it is about.
    flag: u64,
    /// Flags that it does not go without.
    with: u64,
    option: &'static str,
}

impl Passthrough {
    fn negotiable(&self) -> [Negotiable; 2] {
        [
            Negotiable {
                when: self.config.posix_acl,
                flag: abi::FUSE_POSIX_ACL,
                // A default ACL takes the place of the caller's mask, which the
                // guest therefore must not have applied. The longer SETXATTR tells
                // when an ACL clears the set-group-id bit; it is of no other use, and
                // virtiofsd loses a guest that has it in a crossing: no session gets
                // it for nothing.
                with: abi::FUSE_DONT_MASK | abi::FUSE_SETXATTR_EXT,
                option: "--posix-acl",
            },
            Negotiable {
                when: self.config.security_label,
                flag: abi::FUSE_SECURITY_CTX,
                with: 0,
                option: "--security-label",
            },
        ]
    }
}

impl FileSystem for Passthrough {
    fn init(&self, offer: &InitOffer) -> FsResult<InitWish> {
        let config = &self.config;
        let mut flags = ALWAYS;
        if config.readdirplus {
            flags |= abi::FUSE_DO_READDIRPLUS | abi::FUSE_READDIRPLUS_AUTO;
        }
        if config.cache != CachePolicy::Never {
            // What a link says never changes; a new link is a new inode.
            flags |= abi::FUSE_CACHE_SYMLINKS;
        }
        // Linux takes its own times of a file for the right ones as soon as it writes
        // back, and does not move them by writes that go past its cache.
        let cached = !matches!(
            config.cache,
            CachePolicy::Never | CachePolicy::Metadata { .. }
        );
        if config.writeback && !cached {
            log::info!("--writeback has no effect: with this --cache policy no data is cached");
        }
        let optional = [
            (
                config.writeback && cached,
                abi::FUSE_WRITEBACK_CACHE,
                "--writeback",
            ),
            (
                config.announce_submounts,
                abi::FUSE_SUBMOUNTS,
                "--announce-submounts",
            ),
            (
                config.killpriv_v2,
                abi::FUSE_HANDLE_KILLPRIV_V2,
                "--killpriv-v2",
            ),
            (
                config.allow_mmap,
                abi::FUSE_DIRECT_IO_ALLOW_MMAP,
                "--allow-mmap",
            ),
            (config.posix_lock, abi::FUSE_POSIX_LOCKS, "--posix-lock"),
            (config.flock, abi::FUSE_FLOCK_LOCKS, "--flock"),
        ];
        for (wished, flag, option) in optional {
            if !wished {
                continue;
            }
            flags |= flag;
            if offer.flags & flag == 0 {
                log::warn!(
                    "the guest's kernel does not know {}: {option} has no effect",
                    abi::init_flag_names(flag)
                );
            }
        }
        for feature in self.negotiable() {
            let option = feature.option;
            let missing = (feature.flag | feature.with) & !offer.flags;
            let names = abi::init_flag_names(missing);
            match feature.when {
                Negotiate::Never => {}
                _ if missing == 0 => flags |= feature.flag | feature.with,
                Negotiate::Auto => log::warn!(
                    "the guest's kernel does not know {names}: {option}=auto has no effect"
                ),
                Negotiate::Always => {
                    log::error!(
                        "INIT refused: the guest's kernel does not know {names}; use a newer \
                         one, or {option}=auto"
                    );
                    return Err(Errno::EPROTO);
                }
            }
        }
        Ok(InitWish { flags })
    }

    fn check_session(&self, flags: u64) -> Result<(), String> {
        if flags & abi::FUSE_WRITEBACK_CACHE != 0 && !self.config.writeback {
            return Err(
                "the guest uses the writeback cache (FUSE_WRITEBACK_CACHE), and this daemon does \
                 not; start it with --writeback"
                    .to_owned(),
            );
        }
        if flags & abi::FUSE_HANDLE_KILLPRIV_V2 != 0 && !self.config.killpriv_v2 {
            return Err("the guest leaves clearing set-user-id bits to the daemon \
                 (FUSE_HANDLE_KILLPRIV_V2); start this one with --killpriv-v2"
                .to_owned());
        }
        for (flag, served, option) in [
            (
                abi::FUSE_POSIX_LOCKS,
                self.config.posix_lock,
                "--posix-lock",
            ),
            (abi::FUSE_FLOCK_LOCKS, self.config.flock, "--flock"),
        ] {
            if flags & flag != 0 && !served {
                return Err(format!(
                    "the guest leaves its locks to the daemon ({}); start this one with {option}",
                    abi::init_flag_names(flag)
                ));
            }
        }
        for feature in self.negotiable() {
            let (name, option) = (abi::init_flag_names(feature.flag), feature.option);
            match (flags & feature.flag != 0, feature.when) {
                (true, Negotiate::Never) => {
                    return Err(format!(
                        "the guest's session uses {name}; start this daemon with {option}=auto"
                    ))
                }
                (false, Negotiate::Always) => {
                    return Err(format!(
                        "the guest's session does without {name}, which {option}=always demands; \
                         start this daemon with {option}=auto"
                    ))
                }
                _ => {}
            }
        }
        for (flag, what) in NEVER {
            if flags & flag != 0 {
                return Err(format!(
                    "the guest uses {what} ({}), which this daemon does not serve; migrate to one \
                     that does, or mount without it",
                    abi::init_flag_names(flag)
                ));
            }
        }
        Ok(())
    }

    fn adopt_session(&self, flags: u64) {
        // A restored state follows: what an earlier guest worked in is done with.
        self.kept_fds.clear();
        self.session.store(flags, Ordering::Relaxed);
    }

    fn destroy(&self) {
        self.unlocated.clear();
        self.locks.clear();
        self.handles.clear();
        self.inodes.clear();
        self.names.clear();
        self.kept_fds.clear();
        self.ghosts.set(Default::default());
        self.session.store(0, Ordering::Relaxed);
    }

    fn lookup(&self, _: &Context<'_>, parent: NodeId, name: &Name) -> FsResult<Entry> {
        self.do_lookup(parent, name)
    }

    fn absent_for(&self) -> Option<Duration> {
        match self.config.cache {
            // Nobody else makes anything.
            CachePolicy::Always { .. } => Some(self.config.cache.timeout()),
            _ => None,
        }
    }

    fn forget(&self, node: NodeId, count: u64) {
        if self.unlocated.any()
            && self.inodes.get_or_pinned(node).is_none()
            && self.unlocated.forget(node, count)
        {
            return;
        }
        if !self.names.forget(&self.inodes, node, count) {
            return;
        }
        if self.use_handles {
            self.kept_fds.forget(node);
        }
        if self.locks.any() {
            self.locks.forget(node);
        }
        if self.ghosts.any() {
            self.ghosts.forget(node);
        }
    }

    fn interrupt(&self, unique: u64) {
        if self.negotiated(abi::FUSE_POSIX_LOCKS | abi::FUSE_FLOCK_LOCKS) {
            self.locks.interrupt(unique);
        }
    }

    fn interrupt_waits(&self) {
        self.locks.interrupt_callers(true);
    }

    fn allow_waits(&self) {
        self.locks.interrupt_callers(false);
    }

    fn suspend(&self) {
        self.locks.suspend();
    }

    fn proceed(&self) {
        self.take_locks_back();
        self.locks.resume();
    }

    fn getattr(
        &self,
        _: &Context<'_>,
        node: NodeId,
        handle: Option<HandleId>,
    ) -> FsResult<AttrReply> {
        self.do_getattr(node, handle)
    }

    fn statx(
        &self,
        _: &Context<'_>,
        node: NodeId,
        handle: Option<HandleId>,
        flags: u32,
        mask: u32,
    ) -> FsResult<StatxReply> {
        self.do_statx(node, handle, flags, mask)
    }

    fn setattr(
        &self,
        _: &Context<'_>,
        node: NodeId,
        handle: Option<HandleId>,
        set: &SetAttr,
    ) -> FsResult<AttrReply> {
        self.do_setattr(node, handle, set)
    }

    fn readlink(&self, _: &Context<'_>, node: NodeId) -> FsResult<Vec<u8>> {
        self.do_readlink(node)
    }

    fn symlink(
        &self,
        ctx: &Context<'_>,
        target: &CStr,
        parent: NodeId,
        name: &Name,
    ) -> FsResult<Entry> {
        self.do_symlink(ctx, target, parent, name)
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
        self.do_mknod(ctx, parent, name, mode, rdev, umask)
    }

    fn mkdir(
        &self,
        ctx: &Context<'_>,
        parent: NodeId,
        name: &Name,
        mode: u32,
        umask: u32,
    ) -> FsResult<Entry> {
        self.do_mkdir(ctx, parent, name, mode, umask)
    }

    fn unlink(&self, _: &Context<'_>, parent: NodeId, name: &Name) -> FsResult<()> {
        self.do_unlink(parent, name, AtFlags::empty())
    }

    fn rmdir(&self, _: &Context<'_>, parent: NodeId, name: &Name) -> FsResult<()> {
        self.do_unlink(parent, name, AtFlags::REMOVEDIR)
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
        self.do_rename(ctx, (parent, name), (new_parent, new_name), flags)
    }

    fn link(
        &self,
        _: &Context<'_>,
        node: NodeId,
        new_parent: NodeId,
        new_name: &Name,
    ) -> FsResult<Entry> {
        self.do_link(node, new_parent, new_name)
    }

    fn open(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        flags: u32,
        kill_suidgid: bool,
    ) -> FsResult<Opened> {
        self.do_open(ctx, node, flags, kill_suidgid)
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
        self.do_create(ctx, parent, name, mode, umask, flags, kill_suidgid)
    }

    fn tmpfile(
        &self,
        ctx: &Context<'_>,
        parent: NodeId,
        mode: u32,
        umask: u32,
        flags: u32,
    ) -> FsResult<(Entry, Opened)> {
        self.do_tmpfile(ctx, parent, mode, umask, flags)
    }

    fn read(
        &self,
        _: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        args: &ReadArgs,
        out: &mut dyn ReplyWriter,
    ) -> FsResult<usize> {
        self.do_read(node, handle, args, out)
    }

    fn write(
        &self,
        _: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        args: &WriteArgs,
        data: &mut dyn RequestReader,
    ) -> FsResult<usize> {
        self.do_write(node, handle, args, data)
    }

    fn statfs(&self, _: &Context<'_>, node: NodeId) -> FsResult<Kstatfs> {
        self.do_statfs(node)
    }

    fn release(&self, _: &Context<'_>, node: NodeId, handle: HandleId) -> FsResult<()> {
        self.do_release(node, handle, HandleKind::File)
    }

    fn fsync(
        &self,
        _: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        datasync: bool,
    ) -> FsResult<()> {
        self.do_fsync(node, handle, HandleKind::File, datasync)
    }

    fn flush(
        &self,
        _: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        lock_owner: u64,
    ) -> FsResult<()> {
        self.do_flush(node, handle, lock_owner)
    }

    fn opendir(&self, _: &Context<'_>, node: NodeId, flags: u32) -> FsResult<Opened> {
        self.do_opendir(node, flags)
    }

    fn readdir(
        &self,
        _: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        offset: u64,
        sink: &mut dyn DirSink,
    ) -> FsResult<()> {
        self.do_readdir(node, handle, offset, sink)
    }

    fn releasedir(&self, _: &Context<'_>, node: NodeId, handle: HandleId) -> FsResult<()> {
        self.do_release(node, handle, HandleKind::Dir)
    }

    fn fsyncdir(
        &self,
        _: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        datasync: bool,
    ) -> FsResult<()> {
        self.do_fsync(node, handle, HandleKind::Dir, datasync)
    }

    fn access(&self, ctx: &Context<'_>, node: NodeId, mask: u32) -> FsResult<()> {
        self.do_access(ctx, node, mask)
    }

    fn setxattr(
        &self,
        _: &Context<'_>,
        node: NodeId,
        name: &CStr,
        value: &[u8],
        flags: u32,
        acl_kill_sgid: bool,
    ) -> FsResult<()> {
        self.do_setxattr(node, name, value, flags, acl_kill_sgid)
    }

    fn getxattr(
        &self,
        _: &Context<'_>,
        node: NodeId,
        name: &CStr,
        size: u32,
    ) -> FsResult<XattrReply> {
        self.do_getxattr(node, name, size)
    }

    fn listxattr(&self, ctx: &Context<'_>, node: NodeId, size: u32) -> FsResult<XattrReply> {
        self.do_listxattr(ctx, node, size)
    }

    fn removexattr(&self, _: &Context<'_>, node: NodeId, name: &CStr) -> FsResult<()> {
        self.do_removexattr(node, name)
    }

    fn fallocate(
        &self,
        _: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> FsResult<()> {
        self.do_fallocate(node, handle, mode, offset, length)
    }

    fn lseek(
        &self,
        _: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        offset: u64,
        whence: u32,
    ) -> FsResult<u64> {
        self.do_lseek(node, handle, offset, whence)
    }

    fn copy_file_range(
        &self,
        _: &Context<'_>,
        from: (NodeId, HandleId, u64),
        to: (NodeId, HandleId, u64),
        length: u64,
        flags: u64,
    ) -> FsResult<usize> {
        self.do_copy_file_range(from, to, length, flags)
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
        self.do_ioctl(ctx, node, handle, command, input, output)
    }

    fn getlk(
        &self,
        _: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        lock: &LockArgs,
    ) -> FsResult<Option<LockFound>> {
        self.locks.find(&self.lock_request(node, handle, lock)?)
    }

    fn setlk(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        lock: &LockArgs,
        wait: Option<&mut dyn LockWait>,
    ) -> FsResult<()> {
        let request = self.lock_request(node, handle, lock)?;
        self.locks.set(request, wait, ctx.unique)
    }

    fn syncfs(&self, _: &Context<'_>, node: NodeId) -> FsResult<()> {
        self.do_syncfs(node)
    }
}
