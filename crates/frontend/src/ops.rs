//! [`FsClient`]'s methods, one per FUSE operation: send, wait, understand.

use std::sync::Arc;

use crate::call::{self, Payload, SetAttr};
use crate::client::{ClientError, FsClient};
use crate::fuse::{
    init, AttrReply, DirEntry, DirEntryPlus, Entry, FileLock, Opened, StatFs, StatxReply,
};
use crate::memory::GuestBuffer;

type Result<T> = std::result::Result<T, ClientError>;

/// What the kernel sends as rdev: the 32-bit encoding of a device number.
pub fn encode_rdev(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// Each sends one request and waits for its answer. All fail with
/// [`ClientError::Fuse`] if the daemon answers with an errno, and otherwise as
/// [`FsClient::call`] does.
#[allow(clippy::missing_errors_doc)]
impl FsClient {
    /// LOOKUP of a name; its lookup count goes up by one.
    pub fn lookup(&self, parent: u64, name: impl AsRef<[u8]>) -> Result<Entry> {
        self.call(call::lookup(parent, name.as_ref()))
    }

    /// LOOKUP of a path, component by component. Every directory on the way is looked
    /// up once more, and stays so.
    pub fn lookup_path(&self, parent: u64, path: impl AsRef<[u8]>) -> Result<Entry> {
        let components = path
            .as_ref()
            .split(|b| *b == b'/')
            .filter(|c| !c.is_empty());
        let mut entry = Entry {
            nodeid: parent,
            ..Entry::default()
        };
        for component in components {
            entry = self.lookup(entry.nodeid, component)?;
        }
        Ok(entry)
    }

    /// FORGET on the high-priority queue; returns when the daemon gave it back.
    pub fn forget(&self, nodeid: u64, nlookup: u64) -> Result<()> {
        self.call(call::forget(nodeid, nlookup))
    }

    /// BATCH_FORGET of (node id, lookups) pairs.
    pub fn batch_forget(&self, forgets: &[(u64, u64)]) -> Result<()> {
        self.call(call::batch_forget(forgets))
    }

    /// GETATTR, by handle if there is one.
    pub fn getattr(&self, nodeid: u64, fh: Option<u64>) -> Result<AttrReply> {
        self.call(call::getattr(nodeid, fh))
    }

    /// STATX, by handle if there is one.
    pub fn statx(&self, nodeid: u64, fh: Option<u64>, mask: u32) -> Result<StatxReply> {
        self.call(call::statx(nodeid, fh, mask))
    }

    /// IOCTL of (node id, handle).
    pub fn ioctl(&self, at: (u64, u64), command: u32, input: &[u8], room: u32) -> Result<Vec<u8>> {
        self.call(call::ioctl(at, command, input, room))
    }

    /// SETATTR.
    pub fn setattr(&self, nodeid: u64, set: &SetAttr) -> Result<AttrReply> {
        self.call(call::setattr(nodeid, set))
    }

    /// READLINK.
    pub fn readlink(&self, nodeid: u64) -> Result<Vec<u8>> {
        self.call(call::readlink(nodeid))
    }

    /// SYMLINK called `name` that points to `target`.
    pub fn symlink(
        &self,
        parent: u64,
        name: impl AsRef<[u8]>,
        target: impl AsRef<[u8]>,
    ) -> Result<Entry> {
        self.call(call::symlink(parent, name.as_ref(), target.as_ref()))
    }

    /// MKNOD; `rdev` as [`encode_rdev`] makes it.
    pub fn mknod(
        &self,
        parent: u64,
        name: impl AsRef<[u8]>,
        mode: u32,
        rdev: u32,
    ) -> Result<Entry> {
        self.call(call::mknod(
            parent,
            name.as_ref(),
            mode,
            rdev,
            self.caller().umask,
        ))
    }

    /// MKDIR.
    pub fn mkdir(&self, parent: u64, name: impl AsRef<[u8]>, mode: u32) -> Result<Entry> {
        self.call(call::mkdir(
            parent,
            name.as_ref(),
            mode,
            self.caller().umask,
        ))
    }

    /// UNLINK.
    pub fn unlink(&self, parent: u64, name: impl AsRef<[u8]>) -> Result<()> {
        self.call(call::unlink(parent, name.as_ref()))
    }

    /// RMDIR.
    pub fn rmdir(&self, parent: u64, name: impl AsRef<[u8]>) -> Result<()> {
        self.call(call::rmdir(parent, name.as_ref()))
    }

    /// RENAME.
    pub fn rename(
        &self,
        parent: u64,
        name: impl AsRef<[u8]>,
        newparent: u64,
        newname: impl AsRef<[u8]>,
    ) -> Result<()> {
        self.call(call::rename(
            parent,
            name.as_ref(),
            newparent,
            newname.as_ref(),
        ))
    }

    /// RENAME2 with RENAME_* flags.
    pub fn rename2(
        &self,
        parent: u64,
        name: impl AsRef<[u8]>,
        newparent: u64,
        newname: impl AsRef<[u8]>,
        flags: u32,
    ) -> Result<()> {
        self.call(call::rename2(
            parent,
            name.as_ref(),
            newparent,
            newname.as_ref(),
            flags,
        ))
    }

    /// LINK: another name for `nodeid`.
    pub fn link(&self, nodeid: u64, newparent: u64, newname: impl AsRef<[u8]>) -> Result<Entry> {
        self.call(call::link(nodeid, newparent, newname.as_ref()))
    }

    /// OPEN with O_* flags.
    pub fn open(&self, nodeid: u64, flags: u32) -> Result<Opened> {
        self.call(call::open(nodeid, flags, 0))
    }

    /// READ of at most `size` bytes.
    pub fn read(&self, nodeid: u64, fh: u64, offset: u64, size: u32) -> Result<Vec<u8>> {
        self.call(call::read(nodeid, fh, offset, size, 0))
    }

    /// READ into a buffer of the caller's; the number of bytes.
    pub fn read_into(
        &self,
        nodeid: u64,
        fh: u64,
        offset: u64,
        size: u32,
        sink: &Arc<GuestBuffer>,
    ) -> Result<usize> {
        self.call(call::read_into(nodeid, fh, offset, size, 0, sink))
    }

    /// WRITE of bytes; how many were written.
    pub fn write(&self, nodeid: u64, fh: u64, offset: u64, bytes: &[u8]) -> Result<u32> {
        self.write_with(nodeid, fh, offset, Payload::Bytes(bytes.to_vec()), 0, 0)
    }

    /// WRITE with FUSE_WRITE_* flags and the file's O_* flags, such as O_APPEND.
    pub fn write_with(
        &self,
        nodeid: u64,
        fh: u64,
        offset: u64,
        payload: Payload,
        write_flags: u32,
        flags: u32,
    ) -> Result<u32> {
        self.call(call::write(nodeid, fh, offset, payload, write_flags, flags))
    }

    /// STATFS.
    pub fn statfs(&self, nodeid: u64) -> Result<StatFs> {
        self.call(call::statfs(nodeid))
    }

    /// RELEASE of a file's handle.
    pub fn release(&self, nodeid: u64, fh: u64) -> Result<()> {
        self.call(call::release(nodeid, fh, 0, 0))
    }

    /// FSYNC.
    pub fn fsync(&self, nodeid: u64, fh: u64, data_only: bool) -> Result<()> {
        self.call(call::fsync(nodeid, fh, data_only))
    }

    /// FLUSH.
    pub fn flush(&self, nodeid: u64, fh: u64) -> Result<()> {
        self.call(call::flush(nodeid, fh, 0))
    }

    /// OPENDIR.
    pub fn opendir(&self, nodeid: u64) -> Result<Opened> {
        self.call(call::opendir(
            nodeid,
            (libc::O_RDONLY | libc::O_DIRECTORY) as u32,
        ))
    }

    /// READDIR from `offset`, with room for `size` bytes. Empty at the end.
    pub fn readdir(&self, nodeid: u64, fh: u64, offset: u64, size: u32) -> Result<Vec<DirEntry>> {
        self.call(call::readdir(nodeid, fh, offset, size))
    }

    /// READDIRPLUS from `offset`. Every entry with a node id was looked up once.
    pub fn readdirplus(
        &self,
        nodeid: u64,
        fh: u64,
        offset: u64,
        size: u32,
    ) -> Result<Vec<DirEntryPlus>> {
        self.call(call::readdirplus(nodeid, fh, offset, size))
    }

    /// RELEASEDIR.
    pub fn releasedir(&self, nodeid: u64, fh: u64) -> Result<()> {
        self.call(call::releasedir(nodeid, fh))
    }

    /// FSYNCDIR.
    pub fn fsyncdir(&self, nodeid: u64, fh: u64, data_only: bool) -> Result<()> {
        self.call(call::fsyncdir(nodeid, fh, data_only))
    }

    /// CREATE with O_* flags.
    pub fn create(
        &self,
        parent: u64,
        name: impl AsRef<[u8]>,
        flags: u32,
        mode: u32,
    ) -> Result<(Entry, Opened)> {
        self.call(call::create(
            parent,
            name.as_ref(),
            flags,
            mode,
            self.caller().umask,
            0,
        ))
    }

    /// TMPFILE: a file without a name.
    pub fn tmpfile(&self, parent: u64, flags: u32, mode: u32) -> Result<(Entry, Opened)> {
        self.call(call::tmpfile(parent, flags, mode, self.caller().umask))
    }

    /// ACCESS with R_OK, W_OK, X_OK.
    pub fn access(&self, nodeid: u64, mask: u32) -> Result<()> {
        self.call(call::access(nodeid, mask))
    }

    /// FALLOCATE with FALLOC_FL_* mode.
    pub fn fallocate(
        &self,
        nodeid: u64,
        fh: u64,
        offset: u64,
        length: u64,
        mode: u32,
    ) -> Result<()> {
        self.call(call::fallocate(nodeid, fh, offset, length, mode))
    }

    /// LSEEK with SEEK_* whence; the new offset.
    pub fn lseek(&self, nodeid: u64, fh: u64, offset: u64, whence: u32) -> Result<u64> {
        self.call(call::lseek(nodeid, fh, offset, whence))
    }

    /// COPY_FILE_RANGE between (node id, handle, offset) places; bytes copied.
    pub fn copy_file_range(
        &self,
        from: (u64, u64, u64),
        to: (u64, u64, u64),
        len: u64,
    ) -> Result<u32> {
        self.call(call::copy_file_range(from, to, len))
    }

    /// SYNCFS.
    pub fn syncfs(&self, nodeid: u64) -> Result<()> {
        self.call(call::syncfs(nodeid))
    }

    /// SETXATTR with XATTR_* flags, in the form that was negotiated.
    pub fn setxattr(
        &self,
        nodeid: u64,
        name: impl AsRef<[u8]>,
        value: &[u8],
        flags: u32,
    ) -> Result<()> {
        let ext = (self.session().flags() & init::SETXATTR_EXT != 0).then_some(0);
        self.call(call::setxattr(nodeid, name.as_ref(), value, flags, ext))
    }

    /// GETXATTR of at most `size` bytes.
    pub fn getxattr(&self, nodeid: u64, name: impl AsRef<[u8]>, size: u32) -> Result<Vec<u8>> {
        self.call(call::getxattr(nodeid, name.as_ref(), size))
    }

    /// How many bytes an extended attribute has.
    pub fn getxattr_size(&self, nodeid: u64, name: impl AsRef<[u8]>) -> Result<u32> {
        self.call(call::getxattr_size(nodeid, name.as_ref()))
    }

    /// LISTXATTR: the names.
    pub fn listxattr(&self, nodeid: u64, size: u32) -> Result<Vec<Vec<u8>>> {
        let list = self.call(call::listxattr(nodeid, size))?;
        let names = list.split(|b| *b == 0).filter(|name| !name.is_empty());
        Ok(names.map(<[u8]>::to_vec).collect())
    }

    /// How many bytes the list of names has.
    pub fn listxattr_size(&self, nodeid: u64) -> Result<u32> {
        self.call(call::listxattr_size(nodeid))
    }

    /// REMOVEXATTR.
    pub fn removexattr(&self, nodeid: u64, name: impl AsRef<[u8]>) -> Result<()> {
        self.call(call::removexattr(nodeid, name.as_ref()))
    }

    /// INTERRUPT of a request by its unique id, on the high-priority queue. A chain
    /// given back unanswered is as good as an answer.
    pub fn interrupt(&self, unique: u64) -> Result<()> {
        lenient(self.call(call::interrupt(unique)))
    }

    /// GETLK at (node id, handle): the lock in the way, or one of kind F_UNLCK.
    pub fn getlk(&self, at: (u64, u64), owner: u64, lock: &FileLock) -> Result<FileLock> {
        self.call(call::getlk(at, owner, lock))
    }

    /// SETLK at (node id, handle) without waiting; `flock` for a BSD lock.
    pub fn setlk(&self, at: (u64, u64), owner: u64, lock: &FileLock, flock: bool) -> Result<()> {
        self.call(call::setlk(at, owner, lock, flock, false))
    }

    /// DESTROY: the session is over. Daemons differ on whether to answer; a chain
    /// given back unanswered will do.
    pub fn destroy(&self) -> Result<()> {
        lenient(self.call(call::destroy()))
    }
}

fn lenient(result: Result<()>) -> Result<()> {
    match result {
        Err(ClientError::Unanswered { written: 0, .. }) => Ok(()),
        other => other,
    }
}
