//! Open files and their data: OPEN to RELEASE.

use std::os::fd::{AsFd, OwnedFd};

use super::config::CachePolicy;
use super::handle::{HandleKind, OpenFile};
use super::inode::Inode;
use super::{creds, sys, Passthrough};
use crate::abi;
use crate::errno::{Errno, FsResult};
use crate::fs::{Context, Opened, ReadArgs, WriteArgs};
use crate::io::{ReplyWriter, RequestReader};
use crate::types::{HandleId, NodeId};

/// What Linux copies at once (`MAX_RW_COUNT`), and an answer's 32 bits hold.
const MOST_COPIED: u64 = 0x7fff_f000;

fn position(offset: u64) -> FsResult<i64> {
    i64::try_from(offset).map_err(|_| Errno::EINVAL)
}

impl Passthrough {
    /// `FOPEN_*` for a new handle that the guest opens with `flags`.
    fn fopen_flags(&self, kind: HandleKind, flags: u32) -> u32 {
        // What cannot have been written to has nothing to flush, and no locks on the
        // host that closing would let go.
        let reads = kind == HandleKind::File
            && flags & libc::O_ACCMODE as u32 == libc::O_RDONLY as u32
            && !self.negotiated(abi::FUSE_POSIX_LOCKS);
        let quiet = if reads { abi::FOPEN_NOFLUSH } else { 0 };
        quiet | self.cache_flags(kind)
    }

    /// `FOPEN_*` by cache policy.
    fn cache_flags(&self, kind: HandleKind) -> u32 {
        match (kind, self.config.cache) {
            (HandleKind::File, CachePolicy::Never | CachePolicy::Metadata { .. }) => {
                // The host orders what writes to one file at the same time.
                abi::FOPEN_DIRECT_IO | abi::FOPEN_PARALLEL_DIRECT_WRITES
            }
            (HandleKind::File, CachePolicy::Always { .. }) => abi::FOPEN_KEEP_CACHE,
            (HandleKind::Dir, CachePolicy::Always { .. } | CachePolicy::Metadata { .. }) => {
                abi::FOPEN_CACHE_DIR | abi::FOPEN_KEEP_CACHE
            }
            (HandleKind::Dir, CachePolicy::Never) | (_, CachePolicy::Auto { .. }) => 0,
        }
    }

    pub(super) fn add_handle(
        &self,
        node: NodeId,
        kind: HandleKind,
        file: OwnedFd,
        guest_flags: u32,
        host_flags: u32,
    ) -> Opened {
        self.budget.note(file.as_fd());
        let file = OpenFile::new(node, kind, Ok(file), guest_flags, host_flags);
        Opened {
            handle: self.handles.add(file),
            fopen_flags: self.fopen_flags(kind, guest_flags),
        }
    }

    /// Opens a regular file with flags of [`Passthrough::effective_flags`].
    pub(super) fn open_file(
        &self,
        inode: &Inode,
        host_flags: u32,
        kill_suidgid: bool,
    ) -> FsResult<OwnedFd> {
        if inode.is_dir() {
            return Err(Errno::EISDIR);
        }
        self.room_for_one()?;
        let truncate = host_flags & libc::O_TRUNC as u32 != 0;
        let file = {
            let _without = (truncate && kill_suidgid)
                .then(creds::without_fsetid)
                .transpose()?;
            inode.open(self.proc_self_fd(), host_flags as i32)?
        };
        if truncate {
            self.ghosts.wrote(inode.id());
            self.kill_capability(inode.kind(), file.as_fd(), true)?;
        }
        Ok(file)
    }

    /// Whether set-user-id and set-group-id bits go when a file is opened with
    /// `flags`. A guest without killpriv_v2 clears them itself before it writes or
    /// truncates; but where it leaves truncation to OPEN (`FUSE_ATOMIC_O_TRUNC`) it
    /// does neither, and only the host is there to see to it.
    pub(super) fn kills_set_ids(&self, ctx: &Context<'_>, flags: u32, asked: bool) -> bool {
        let truncates = flags & libc::O_TRUNC as u32 != 0;
        let left_alone = !self.negotiated(abi::FUSE_HANDLE_KILLPRIV_V2);
        asked || (truncates && left_alone && ctx.uid != 0)
    }

    pub(super) fn do_open(
        &self,
        ctx: &Context<'_>,
        node: NodeId,
        flags: u32,
        kill_suidgid: bool,
    ) -> FsResult<Opened> {
        let inode = self.inode(node)?;
        let kill_suidgid = self.kills_set_ids(ctx, flags, kill_suidgid);
        let host_flags = self.effective_flags(flags, self.session_flags());
        let file = self.open_file(&inode, host_flags, kill_suidgid)?;
        Ok(self.add_handle(node, HandleKind::File, file, flags, host_flags))
    }

    pub(super) fn do_read(
        &self,
        node: NodeId,
        handle: HandleId,
        args: &ReadArgs,
        out: &mut dyn ReplyWriter,
    ) -> FsResult<usize> {
        let file = self.handles.find(handle, node, HandleKind::File)?;
        let fd = file.fd()?;
        let size = args.size as usize;
        // The whole range must have positions, not only its beginning.
        position(args.offset)?
            .checked_add(i64::from(args.size))
            .ok_or(Errno::EINVAL)?;
        let mut done = 0;
        while done < size {
            match out.read_from_file(fd, size - done, args.offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                // A short answer would tell the guest that the file ends here.
                Err(e) => return Err(e.into()),
            }
        }
        Ok(done)
    }

    pub(super) fn do_write(
        &self,
        node: NodeId,
        handle: HandleId,
        args: &WriteArgs,
        data: &mut dyn RequestReader,
    ) -> FsResult<usize> {
        let file = self.handles.find(handle, node, HandleKind::File)?;
        let fd = file.fd()?;
        let size = args.size as usize;
        position(args.offset)?
            .checked_add(i64::from(args.size))
            .ok_or(Errno::EFBIG)?;
        // What comes from the guest's page cache is at its right offset, even if
        // the handle that the guest kernel picked for it is an appending one.
        let append = args.flags & libc::O_APPEND as u32 != 0 && !args.from_cache;
        let rwf_flags = if append { libc::RWF_APPEND } else { 0 };
        self.kill_capability(libc::S_IFREG, fd, true)?;
        let _without = args.kill_suidgid.then(creds::without_fsetid).transpose()?;
        let mut done = 0;
        while done < size {
            match data.write_to_file(fd, size - done, args.offset + done as u64, rwf_flags) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) if done == 0 => return Err(e.into()),
                // What is written is written; the guest asks again for the rest.
                Err(_) => break,
            }
        }
        self.ghosts.wrote(node);
        Ok(done)
    }

    pub(super) fn do_release(
        &self,
        node: NodeId,
        handle: HandleId,
        kind: HandleKind,
    ) -> FsResult<()> {
        // Dropped here, behind the table's lock; closed with the last user.
        let file = self.handles.remove(handle, node, kind)?;
        if kind == HandleKind::File && self.locks.any() {
            self.locks.release(node, handle);
        }
        drop(file);
        Ok(())
    }

    pub(super) fn do_fsync(
        &self,
        node: NodeId,
        handle: HandleId,
        kind: HandleKind,
        datasync: bool,
    ) -> FsResult<()> {
        let file = self.handles.find(handle, node, kind)?;
        let fd = file.fd()?;
        if datasync {
            rustix::fs::fdatasync(fd)?;
        } else {
            rustix::fs::fsync(fd)?;
        }
        Ok(())
    }

    pub(super) fn do_flush(&self, node: NodeId, handle: HandleId, lock_owner: u64) -> FsResult<()> {
        let file = self.handles.find(handle, node, HandleKind::File)?;
        if self.locks.any() && self.negotiated(abi::FUSE_POSIX_LOCKS) {
            // As at any close of the file, and whatever else comes of it.
            self.locks.flush(node, lock_owner);
        }
        // Closing any descriptor of the file does what the host file system does
        // at close, such as NFS sending what it has.
        let other = rustix::io::fcntl_dupfd_cloexec(file.fd()?, 0)?;
        sys::close(other)
    }

    pub(super) fn do_fallocate(
        &self,
        node: NodeId,
        handle: HandleId,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> FsResult<()> {
        let file = self.handles.find(handle, node, HandleKind::File)?;
        position(offset)?;
        position(length)?;
        self.kill_capability(libc::S_IFREG, file.fd()?, true)?;
        let mode = rustix::fs::FallocateFlags::from_bits_retain(mode);
        rustix::fs::fallocate(file.fd()?, mode, offset, length)?;
        self.ghosts.wrote(node);
        Ok(())
    }

    pub(super) fn do_lseek(
        &self,
        node: NodeId,
        handle: HandleId,
        offset: u64,
        whence: u32,
    ) -> FsResult<u64> {
        let file = self.handles.find(handle, node, HandleKind::File)?;
        let whence = i32::try_from(whence).map_err(|_| Errno::EINVAL)?;
        // The descriptor's own position, which this moves, is never used. A
        // negative offset counts from the end, for SEEK_END.
        sys::lseek(file.fd()?, offset as i64, whence)
    }

    pub(super) fn do_copy_file_range(
        &self,
        from: (NodeId, HandleId, u64),
        to: (NodeId, HandleId, u64),
        length: u64,
        flags: u64,
    ) -> FsResult<usize> {
        if flags != 0 {
            return Err(Errno::EINVAL);
        }
        let source = self.handles.find(from.1, from.0, HandleKind::File)?;
        let target = self.handles.find(to.1, to.0, HandleKind::File)?;
        position(from.2)?;
        position(to.2)?;
        self.kill_capability(libc::S_IFREG, target.fd()?, true)?;
        let (mut from_at, mut to_at) = (from.2, to.2);
        let length = length.min(MOST_COPIED) as usize;
        let copied = rustix::fs::copy_file_range(
            source.fd()?,
            Some(&mut from_at),
            target.fd()?,
            Some(&mut to_at),
            length,
        )?;
        self.ghosts.wrote(to.0);
        Ok(copied)
    }

    pub(super) fn do_syncfs(&self, node: NodeId) -> FsResult<()> {
        let inode = self.inode(node)?;
        let file = inode.open(self.proc_self_fd(), libc::O_RDONLY | libc::O_NONBLOCK)?;
        rustix::fs::syncfs(file.as_fd())?;
        if !self.negotiated(abi::FUSE_SUBMOUNTS) {
            // To the guest it is one file system; on the host it can be several.
            // Those that are held by handle are known.
            for mount in self.mounts.all() {
                if mount.id() != inode.numbers().mnt_id {
                    rustix::fs::syncfs(mount.fd())?;
                }
            }
        }
        Ok(())
    }
}
