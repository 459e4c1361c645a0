//! Any file system, with everything that would change it refused (`--readonly`).
//!
//! FUSE has no way to tell a guest that a file system is read-only, so it learns
//! from `EROFS`, request by request, as from a disk that has become so.

use std::ffi::CStr;
use std::sync::Arc;

use ferryfs_state::packed::PackedFs;
use ferryfs_state::{Format, FsState, Handle};

use crate::abi;
use crate::errno::{Errno, FsResult};
use crate::fs::{
    AttrReply, Context, DirSink, Entry, FileSystem, InitOffer, InitWish, Kstatfs, LockArgs,
    LockFound, LockWait, Opened, ReadArgs, SetAttr, StatxReply, WriteArgs, XattrReply,
};
use crate::io::{ReplyWriter, RequestReader};
use crate::migrate::{Collected, MigrateFs};
use crate::types::{HandleId, Name, NodeId};

const O_ACCMODE: u32 = libc::O_ACCMODE as u32;
const O_TRUNC: u32 = libc::O_TRUNC as u32;
const O_EXCL: u32 = libc::O_EXCL as u32;
const O_NOATIME: u32 = libc::O_NOATIME as u32;

/// A file system that nothing is changed in. Reading does not set access times
/// either, where the file system inside passes `O_NOATIME` on and its owner or
/// `CAP_FOWNER` allows that.
#[derive(Debug)]
pub struct ReadOnly<F> {
    inner: F,
}

impl<F> ReadOnly<F> {
    /// `inner`, to be read only.
    pub fn new(inner: F) -> ReadOnly<F> {
        ReadOnly { inner }
    }

    /// The file system inside.
    pub fn inner(&self) -> &F {
        &self.inner
    }
}

/// Whether opening with `flags` could change the file.
fn changes(flags: u32) -> bool {
    flags & O_ACCMODE != libc::O_RDONLY as u32 || flags & O_TRUNC != 0
}

/// Opens by `open`, with access times left alone if that is allowed.
fn quietly<T>(flags: u32, open: impl Fn(u32) -> FsResult<T>) -> FsResult<T> {
    match open(flags | O_NOATIME) {
        Err(Errno::EPERM) if flags & O_NOATIME == 0 => open(flags),
        opened => opened,
    }
}

impl<F: FileSystem> FileSystem for ReadOnly<F> {
    fn init(&self, offer: &InitOffer) -> FsResult<InitWish> {
        let wish = self.inner.init(offer)?;
        Ok(InitWish {
            // There is nothing to write back.
            flags: wish.flags & !abi::FUSE_WRITEBACK_CACHE,
        })
    }

    fn check_session(&self, flags: u64) -> Result<(), String> {
        self.inner.check_session(flags)
    }

    fn adopt_session(&self, flags: u64) {
        self.inner.adopt_session(flags);
    }

    fn destroy(&self) {
        self.inner.destroy();
    }

    fn interrupt(&self, unique: u64) {
        self.inner.interrupt(unique);
    }

    fn interrupt_waits(&self) {
        self.inner.interrupt_waits();
    }

    fn allow_waits(&self) {
        self.inner.allow_waits();
    }

    fn suspend(&self) {
        self.inner.suspend();
    }

    fn proceed(&self) {
        self.inner.proceed();
    }

    fn lookup(&self, ctx: &Context<'_>, parent: NodeId, name: &Name) -> FsResult<Entry> {
        self.inner.lookup(ctx, parent, name)
    }

    fn absent_for(&self) -> Option<std::time::Duration> {
        self.inner.absent_for()
    }

    fn forget(&self, node: NodeId, count: u64) {
        self.inner.forget(node, count);
    }

    fn batch_forget(&self, items: &[(NodeId, u64)]) {
        self.inner.batch_forget(items);
    }

    fn getattr(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: Option<HandleId>,
    ) -> FsResult<AttrReply> {
        self.inner.getattr(ctx, node, handle)
    }

    fn statx(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: Option<HandleId>,
        flags: u32,
        mask: u32,
    ) -> FsResult<StatxReply> {
        self.inner.statx(ctx, node, handle, flags, mask)
    }

    fn setattr(
        &self,
        _: &Context<'_>,
        _: NodeId,
        _: Option<HandleId>,
        _: &SetAttr,
    ) -> FsResult<AttrReply> {
        Err(Errno::EROFS)
    }

    fn readlink(&self, ctx: &Context<'_>, node: NodeId) -> FsResult<Vec<u8>> {
        self.inner.readlink(ctx, node)
    }

    fn symlink(&self, _: &Context<'_>, _: &CStr, _: NodeId, _: &Name) -> FsResult<Entry> {
        Err(Errno::EROFS)
    }

    fn mknod(
        &self,
        _: &Context<'_>,
        _: NodeId,
        _: &Name,
        _mode: u32,
        _rdev: u32,
        _umask: u32,
    ) -> FsResult<Entry> {
        Err(Errno::EROFS)
    }

    fn mkdir(
        &self,
        _: &Context<'_>,
        _: NodeId,
        _: &Name,
        _mode: u32,
        _umask: u32,
    ) -> FsResult<Entry> {
        Err(Errno::EROFS)
    }

    fn unlink(&self, _: &Context<'_>, _: NodeId, _: &Name) -> FsResult<()> {
        Err(Errno::EROFS)
    }

    fn rmdir(&self, _: &Context<'_>, _: NodeId, _: &Name) -> FsResult<()> {
        Err(Errno::EROFS)
    }

    fn rename(
        &self,
        _: &Context<'_>,
        _: NodeId,
        _: &Name,
        _: NodeId,
        _: &Name,
        _flags: u32,
    ) -> FsResult<()> {
        Err(Errno::EROFS)
    }

    fn link(&self, _: &Context<'_>, _: NodeId, _: NodeId, _: &Name) -> FsResult<Entry> {
        Err(Errno::EROFS)
    }

    fn open(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        flags: u32,
        kill_suidgid: bool,
    ) -> FsResult<Opened> {
        if changes(flags) {
            return Err(Errno::EROFS);
        }
        quietly(flags, |flags| {
            self.inner.open(ctx, node, flags, kill_suidgid)
        })
    }

    /// As on a disk that is read-only: what is there can be opened for reading,
    /// and what is not cannot be made.
    fn create(
        &self,
        ctx: &Context<'_>,
        parent: NodeId,
        name: &Name,
        _mode: u32,
        _umask: u32,
        flags: u32,
        kill_suidgid: bool,
    ) -> FsResult<(Entry, Opened)> {
        let entry = match self.inner.lookup(ctx, parent, name) {
            Err(Errno::ENOENT) => return Err(Errno::EROFS),
            entry => entry?,
        };
        let opened = if flags & O_EXCL != 0 {
            Err(Errno::EEXIST)
        } else {
            self.open(ctx, entry.node, flags, kill_suidgid)
        };
        match opened {
            Ok(opened) => Ok((entry, opened)),
            Err(e) => {
                // The guest is told of no inode, so it will give none back.
                self.inner.forget(entry.node, 1);
                Err(e)
            }
        }
    }

    fn tmpfile(
        &self,
        _: &Context<'_>,
        _: NodeId,
        _mode: u32,
        _umask: u32,
        _flags: u32,
    ) -> FsResult<(Entry, Opened)> {
        Err(Errno::EROFS)
    }

    fn read(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        args: &ReadArgs,
        out: &mut dyn ReplyWriter,
    ) -> FsResult<usize> {
        self.inner.read(ctx, node, handle, args, out)
    }

    fn write(
        &self,
        _: &Context<'_>,
        _: NodeId,
        _: HandleId,
        _: &WriteArgs,
        _: &mut dyn RequestReader,
    ) -> FsResult<usize> {
        Err(Errno::EROFS)
    }

    fn statfs(&self, ctx: &Context<'_>, node: NodeId) -> FsResult<Kstatfs> {
        self.inner.statfs(ctx, node)
    }

    fn release(&self, ctx: &Context<'_>, node: NodeId, handle: HandleId) -> FsResult<()> {
        self.inner.release(ctx, node, handle)
    }

    fn fsync(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        datasync: bool,
    ) -> FsResult<()> {
        self.inner.fsync(ctx, node, handle, datasync)
    }

    fn flush(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        lock_owner: u64,
    ) -> FsResult<()> {
        self.inner.flush(ctx, node, handle, lock_owner)
    }

    fn opendir(&self, ctx: &Context<'_>, node: NodeId, flags: u32) -> FsResult<Opened> {
        quietly(flags, |flags| self.inner.opendir(ctx, node, flags))
    }

    fn readdir(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        offset: u64,
        sink: &mut dyn DirSink,
    ) -> FsResult<()> {
        self.inner.readdir(ctx, node, handle, offset, sink)
    }

    fn releasedir(&self, ctx: &Context<'_>, node: NodeId, handle: HandleId) -> FsResult<()> {
        self.inner.releasedir(ctx, node, handle)
    }

    fn fsyncdir(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        datasync: bool,
    ) -> FsResult<()> {
        self.inner.fsyncdir(ctx, node, handle, datasync)
    }

    fn access(&self, ctx: &Context<'_>, node: NodeId, mask: u32) -> FsResult<()> {
        if mask & libc::W_OK as u32 != 0 {
            // What is written to a device or fifo does not go to this file system.
            let kind = self.inner.getattr(ctx, node, None)?.attr.mode & libc::S_IFMT;
            if matches!(kind, libc::S_IFREG | libc::S_IFDIR | libc::S_IFLNK) {
                return Err(Errno::EROFS);
            }
        }
        self.inner.access(ctx, node, mask)
    }

    fn setxattr(
        &self,
        _: &Context<'_>,
        _: NodeId,
        _name: &CStr,
        _value: &[u8],
        _flags: u32,
        _acl_kill_sgid: bool,
    ) -> FsResult<()> {
        Err(Errno::EROFS)
    }

    fn getxattr(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        name: &CStr,
        size: u32,
    ) -> FsResult<XattrReply> {
        self.inner.getxattr(ctx, node, name, size)
    }

    fn listxattr(&self, ctx: &Context<'_>, node: NodeId, size: u32) -> FsResult<XattrReply> {
        self.inner.listxattr(ctx, node, size)
    }

    fn removexattr(&self, _: &Context<'_>, _: NodeId, _name: &CStr) -> FsResult<()> {
        Err(Errno::EROFS)
    }

    fn fallocate(
        &self,
        _: &Context<'_>,
        _: NodeId,
        _: HandleId,
        _mode: u32,
        _offset: u64,
        _length: u64,
    ) -> FsResult<()> {
        Err(Errno::EROFS)
    }

    fn lseek(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        offset: u64,
        whence: u32,
    ) -> FsResult<u64> {
        self.inner.lseek(ctx, node, handle, offset, whence)
    }

    fn copy_file_range(
        &self,
        _: &Context<'_>,
        _from: (NodeId, HandleId, u64),
        _to: (NodeId, HandleId, u64),
        _length: u64,
        _flags: u64,
    ) -> FsResult<usize> {
        Err(Errno::EROFS)
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
        // What takes nothing from its caller changes nothing.
        if !input.is_empty() {
            return Err(Errno::EROFS);
        }
        self.inner.ioctl(ctx, node, handle, command, input, output)
    }

    // Locks change nothing in the share.

    fn getlk(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        lock: &LockArgs,
    ) -> FsResult<Option<LockFound>> {
        self.inner.getlk(ctx, node, handle, lock)
    }

    fn setlk(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        handle: HandleId,
        lock: &LockArgs,
        wait: Option<&mut dyn LockWait>,
    ) -> FsResult<()> {
        self.inner.setlk(ctx, node, handle, lock, wait)
    }

    fn syncfs(&self, ctx: &Context<'_>, node: NodeId) -> FsResult<()> {
        self.inner.syncfs(ctx, node)
    }
}

/// Sees to it that nothing is opened for writing because a state says so.
fn only_reads(handles: &mut [Handle]) -> Result<(), String> {
    let writers = handles.iter().filter(|h| changes(h.guest_flags));
    if let Some(first) = writers.clone().next() {
        return Err(format!(
            "the guest has {} files open for writing, the first as handle {} of inode {}, and \
             this daemon is --readonly; start it without",
            writers.count(),
            first.id,
            first.inode
        ));
    }
    for handle in handles {
        handle.host_flags &= !(O_ACCMODE | O_TRUNC);
    }
    Ok(())
}

impl<F: MigrateFs> MigrateFs for ReadOnly<F> {
    type Plan = F::Plan;

    fn begin_precopy(&self) {
        self.inner.begin_precopy();
    }

    fn begin_precopy_in(&self, format: &Arc<dyn Format>) {
        self.inner.begin_precopy_in(format);
    }

    fn cancel_precopy(&self) {
        self.inner.cancel_precopy();
    }

    fn may_save(&self) -> Result<(), String> {
        self.inner.may_save()
    }

    fn collect(&self) -> Result<FsState, String> {
        self.inner.collect()
    }

    fn collect_in(&self, format: &Arc<dyn Format>) -> Result<Collected, String> {
        self.inner.collect_in(format)
    }

    fn let_go(&self) {
        self.inner.let_go();
    }

    fn take_back(&self) {
        self.inner.take_back();
    }

    fn plan_restore(&self, mut state: FsState, session_flags: u64) -> Result<F::Plan, String> {
        only_reads(&mut state.handles)?;
        self.inner.plan_restore(state, session_flags)
    }

    fn plan_packed(&self, mut state: PackedFs, session_flags: u64) -> Result<F::Plan, String> {
        only_reads(&mut state.rest.handles)?;
        self.inner.plan_packed(state, session_flags)
    }

    fn apply(&self, plan: F::Plan) -> u64 {
        self.inner.apply(plan)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::{symlink, MetadataExt};
    use std::path::Path;

    use super::*;
    use crate::io::RequestIo;
    use crate::passthrough::config::Config;
    use crate::passthrough::Passthrough;
    use ferryfs_state::Handle;

    const CTX: Context<'static> = Context {
        unique: 1,
        uid: 0,
        gid: 0,
        pid: 1,
        supplementary_groups: None,
        security_context: None,
    };
    const ROOT: NodeId = NodeId::ROOT;

    fn name(text: &CStr) -> &Name {
        Name::new(text).unwrap()
    }

    fn passthrough(share: &Path) -> Passthrough {
        let root = std::fs::File::open(share).unwrap();
        let mut config = Config::new(root.into());
        config.xattr = true;
        config.writeback = true;
        config.preserve_noatime = true;
        Passthrough::new(config).unwrap()
    }

    fn mount(fs: &impl FileSystem) -> u64 {
        let offer = InitOffer {
            minor: 38,
            flags: u64::MAX,
            max_readahead: 0,
        };
        let flags = fs.init(&offer).unwrap().flags;
        fs.adopt_session(flags);
        flags
    }

    fn readonly(share: &Path) -> ReadOnly<Passthrough> {
        let fs = ReadOnly::new(passthrough(share));
        mount(&fs);
        fs
    }

    fn share() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "data").unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        symlink("f", dir.path().join("l")).unwrap();
        dir
    }

    /// Everything about the share that a change would show in.
    fn picture(share: &Path) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        for entry in std::fs::read_dir(share).unwrap() {
            let entry = entry.unwrap();
            let m = entry.metadata().unwrap();
            let text = format!(
                "{:o} {} {} {} {} {}.{} {}.{}",
                m.mode(),
                m.nlink(),
                m.uid(),
                m.gid(),
                m.size(),
                m.mtime(),
                m.mtime_nsec(),
                m.ctime(),
                m.ctime_nsec()
            );
            all.insert(entry.file_name().to_string_lossy().into_owned(), text);
        }
        all
    }

    #[test]
    fn every_change_is_refused_and_nothing_changes() {
        let dir = share();
        let fs = readonly(dir.path());
        let before = picture(dir.path());
        let f = fs.lookup(&CTX, ROOT, name(c"f")).unwrap().node;
        let handle = fs.open(&CTX, f, 0, false).unwrap().handle;
        let (new, old) = (name(c"new"), name(c"f"));
        let write = WriteArgs {
            offset: 0,
            size: 0,
            flags: 0,
            from_cache: false,
            kill_suidgid: false,
        };
        let mut io = crate::buffer::BufIo::new(&[], &mut []);
        let set = SetAttr {
            mode: Some(0o777),
            ..SetAttr::default()
        };
        let wr = libc::O_RDWR as u32;
        let refused = [
            fs.setattr(&CTX, f, None, &set).map(drop),
            fs.symlink(&CTX, c"x", ROOT, new).map(drop),
            fs.mknod(&CTX, ROOT, new, libc::S_IFREG, 0, 0).map(drop),
            fs.mkdir(&CTX, ROOT, new, 0o755, 0).map(drop),
            fs.unlink(&CTX, ROOT, old),
            fs.rmdir(&CTX, ROOT, name(c"d")),
            fs.rename(&CTX, ROOT, old, ROOT, new, 0),
            fs.link(&CTX, f, ROOT, new).map(drop),
            fs.create(&CTX, ROOT, new, 0o644, 0, 0, false).map(drop),
            fs.create(&CTX, ROOT, old, 0o644, 0, wr, false).map(drop),
            fs.tmpfile(&CTX, ROOT, 0o644, 0, wr).map(drop),
            fs.write(&CTX, f, handle, &write, io.reader()).map(drop),
            fs.setxattr(&CTX, f, c"user.x", b"", 0, false),
            fs.removexattr(&CTX, f, c"user.x"),
            fs.fallocate(&CTX, f, handle, 0, 0, 10),
            fs.copy_file_range(&CTX, (f, handle, 0), (f, handle, 2), 1, 0)
                .map(drop),
            fs.access(&CTX, f, libc::W_OK as u32),
            fs.access(&CTX, ROOT, libc::W_OK as u32),
        ];
        for (i, result) in refused.into_iter().enumerate() {
            assert_eq!(result, Err(Errno::EROFS), "operation {i}");
        }
        for flags in [
            libc::O_WRONLY,
            libc::O_RDWR,
            libc::O_ACCMODE,
            libc::O_RDONLY | libc::O_TRUNC,
        ] {
            let opened = fs.open(&CTX, f, flags as u32, true);
            assert_eq!(opened.unwrap_err(), Errno::EROFS, "{flags:#o}");
        }
        assert_eq!(picture(dir.path()), before);
        let left = fs.inner().inodes().get(f).unwrap().lookups();
        assert_eq!(left, 1, "a refused CREATE gives no reference");
    }

    #[test]
    fn reading_goes_on_and_sets_no_times() {
        let dir = share();
        // Older than a day, so that the kernel would set it at the next reading.
        let old = rustix::fs::Timestamps {
            last_access: rustix::fs::Timespec {
                tv_sec: 1_000_000,
                tv_nsec: 0,
            },
            last_modification: rustix::fs::Timespec {
                tv_sec: 2_000_000,
                tv_nsec: 0,
            },
        };
        let file = std::fs::File::open(dir.path().join("f")).unwrap();
        rustix::fs::futimens(&file, &old).unwrap();
        let fs = readonly(dir.path());
        let create = |flags: i32| {
            let flags = flags as u32;
            fs.create(&CTX, ROOT, name(c"f"), 0o644, 0, flags, false)
        };
        assert_eq!(create(libc::O_EXCL).unwrap_err(), Errno::EEXIST);
        let (entry, opened) = create(libc::O_RDONLY).unwrap();
        let mut reply = [0u8; 64];
        let mut io = crate::buffer::BufIo::new(&[], &mut reply);
        let args = ReadArgs {
            offset: 0,
            size: 10,
            flags: 0,
        };
        let n = fs.read(&CTX, entry.node, opened.handle, &args, io.body());
        assert_eq!(n.unwrap(), 4);
        assert_eq!(&reply[16..20], b"data");
        assert_eq!(
            std::fs::metadata(dir.path().join("f")).unwrap().atime(),
            1_000_000
        );
        let link = fs.lookup(&CTX, ROOT, name(c"l")).unwrap().node;
        assert_eq!(fs.readlink(&CTX, link).unwrap(), b"f");
        let d = fs.lookup(&CTX, ROOT, name(c"d")).unwrap().node;
        let listing = fs.opendir(&CTX, d, 0).unwrap().handle;
        fs.fsyncdir(&CTX, d, listing, false).unwrap();
        fs.releasedir(&CTX, d, listing).unwrap();
        fs.access(&CTX, d, libc::R_OK as u32).unwrap();
        fs.statfs(&CTX, d).unwrap();
    }

    #[test]
    fn readers_cross_and_writers_are_refused() {
        let dir = share();
        let source = readonly(dir.path());
        let flags = source.inner().session_flags();
        assert_eq!(flags & abi::FUSE_WRITEBACK_CACHE, 0);
        let f = source.lookup(&CTX, ROOT, name(c"f")).unwrap().node;
        let handle = source.open(&CTX, f, 0, false).unwrap().handle;
        let mut state = source.collect().unwrap();

        let target = ReadOnly::new(passthrough(dir.path()));
        target.check_session(flags).unwrap();
        // A descriptor that the source had for both is for reading here.
        state.handles[0].host_flags |= libc::O_RDWR as u32;
        let plan = target.plan_restore(state.clone(), flags).unwrap();
        target.adopt_session(flags);
        assert_eq!(target.apply(plan), 0);
        let mut handles = target.inner().handles().all();
        let (id, file) = handles.pop().unwrap();
        assert_eq!((id, handles.len()), (handle, 0));
        let mode = rustix::fs::fcntl_getfl(file.fd().unwrap()).unwrap();
        assert_eq!(mode.bits() & O_ACCMODE, 0);
        target.fsync(&CTX, f, handle, false).unwrap();

        for guest_flags in [libc::O_WRONLY, libc::O_RDWR] {
            let mut state = state.clone();
            state.handles.push(Handle {
                id: handle.0 + 1,
                guest_flags: guest_flags as u32,
                ..state.handles[0].clone()
            });
            let refused = target.plan_restore(state, flags).map(drop).unwrap_err();
            assert!(refused.contains("--readonly"), "{refused}");
        }
    }
}
