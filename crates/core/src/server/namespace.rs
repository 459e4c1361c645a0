//! Operations on names, and the references that come and go with them.

use std::mem::size_of;

use super::call::{split_c_str, Call, Scratch};
use super::extensions::{CreateTail, Extensions};
use super::Server;
use crate::abi::*;
use crate::errno::{Errno, FsResult};
use crate::fs::FileSystem;
use crate::types::{Name, NodeId};

/// `PATH_MAX`: the longest symbolic link's target with its NUL, in bytes.
const PATH_MAX: usize = 4096;

/// What RENAME2 may ask for.
const RENAME_FLAGS: u32 = libc::RENAME_NOREPLACE | libc::RENAME_EXCHANGE | libc::RENAME_WHITEOUT;

impl<F: FileSystem> Server<F> {
    pub(super) fn lookup(&self, call: &mut Call<'_>) -> FsResult<()> {
        let mut scratch = Scratch::new();
        let name = call.name(&mut scratch)?;
        call.need_room(size_of::<EntryOut>())?;
        match self.fs.lookup(&call.context(), call.node(), name) {
            Ok(entry) => call.reply_entry(&entry),
            Err(Errno::ENOENT) => match self.fs.absent_for() {
                // No nodeid, which is how FUSE lets the guest keep that.
                Some(time) => call.reply(EntryOut {
                    entry_valid: time.as_secs(),
                    entry_valid_nsec: time.subsec_nanos(),
                    ..EntryOut::default()
                }),
                None => Err(Errno::ENOENT),
            },
            Err(e) => Err(e),
        }
    }

    pub(super) fn forget(&self, call: &mut Call<'_>) -> FsResult<()> {
        let arg: ForgetIn = call.read()?;
        self.fs.forget(call.node(), arg.nlookup);
        Ok(())
    }

    pub(super) fn batch_forget(&self, call: &mut Call<'_>) -> FsResult<()> {
        const CHUNK: usize = 64;
        let arg: BatchForgetIn = call.read()?;
        let mut items = [(NodeId(0), 0); CHUNK];
        let mut used = 0;
        // A count above what the request carries ends where the request does.
        for _ in 0..arg.count {
            let Ok(one) = call.read::<ForgetOne>() else {
                break;
            };
            items[used] = (NodeId(one.nodeid), one.nlookup);
            used += 1;
            if used == CHUNK {
                self.fs.batch_forget(&items);
                used = 0;
            }
        }
        if used > 0 {
            self.fs.batch_forget(&items[..used]);
        }
        Ok(())
    }

    pub(super) fn readlink(&self, call: &mut Call<'_>) -> FsResult<()> {
        let target = self.fs.readlink(&call.context(), call.node())?;
        call.out.write_all(&target).map_err(|_| Errno::ENAMETOOLONG)
    }

    pub(super) fn symlink(&self, call: &mut Call<'_>) -> FsResult<()> {
        call.need_room(size_of::<EntryOut>())?;
        let mut scratch = Scratch::new();
        let tail = CreateTail::read(call, &mut scratch, Name::MAX + 1 + PATH_MAX)?;
        let (name, rest) = split_c_str(tail.names)?;
        let (target, rest) = split_c_str(rest)?;
        if target.count_bytes() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let ext = Extensions::parse(call, tail.extensions(rest))?;
        let entry = self
            .fs
            .symlink(&ext.context(call), target, call.node(), Name::new(name)?)?;
        call.reply_entry(&entry)
    }

    pub(super) fn mknod(&self, call: &mut Call<'_>) -> FsResult<()> {
        let arg: MknodIn = call.read()?;
        call.need_room(size_of::<EntryOut>())?;
        let mut scratch = Scratch::new();
        let (name, ext) = CreateTail::read_named(call, &mut scratch)?;
        let entry = self.fs.mknod(
            &ext.context(call),
            call.node(),
            Name::new(name)?,
            arg.mode,
            arg.rdev,
            arg.umask,
        )?;
        call.reply_entry(&entry)
    }

    pub(super) fn mkdir(&self, call: &mut Call<'_>) -> FsResult<()> {
        let arg: MkdirIn = call.read()?;
        call.need_room(size_of::<EntryOut>())?;
        let mut scratch = Scratch::new();
        let (name, ext) = CreateTail::read_named(call, &mut scratch)?;
        let entry = self.fs.mkdir(
            &ext.context(call),
            call.node(),
            Name::new(name)?,
            arg.mode,
            arg.umask,
        )?;
        call.reply_entry(&entry)
    }

    pub(super) fn create(&self, call: &mut Call<'_>) -> FsResult<()> {
        let arg: CreateIn = call.read()?;
        call.need_room(size_of::<EntryOut>() + size_of::<OpenOut>())?;
        let mut scratch = Scratch::new();
        let (name, ext) = CreateTail::read_named(call, &mut scratch)?;
        let (entry, opened) = self.fs.create(
            &ext.context(call),
            call.node(),
            Name::new(name)?,
            arg.mode,
            arg.umask,
            arg.flags,
            arg.fuse_flags & FUSE_OPEN_KILL_SUIDGID != 0,
        )?;
        call.reply_entry(&entry)?;
        call.reply_opened(&opened)
    }

    pub(super) fn tmpfile(&self, call: &mut Call<'_>) -> FsResult<()> {
        let arg: CreateIn = call.read()?;
        call.need_room(size_of::<EntryOut>() + size_of::<OpenOut>())?;
        let mut scratch = Scratch::new();
        // The name is one that the guest's kernel made up, and means nothing.
        let (_, ext) = CreateTail::read_named(call, &mut scratch)?;
        let (entry, opened) = self.fs.tmpfile(
            &ext.context(call),
            call.node(),
            arg.mode,
            arg.umask,
            arg.flags,
        )?;
        call.reply_entry(&entry)?;
        call.reply_opened(&opened)
    }

    pub(super) fn unlink(&self, call: &mut Call<'_>) -> FsResult<()> {
        let mut scratch = Scratch::new();
        let name = call.name(&mut scratch)?;
        self.fs.unlink(&call.context(), call.node(), name)
    }

    pub(super) fn rmdir(&self, call: &mut Call<'_>) -> FsResult<()> {
        let mut scratch = Scratch::new();
        let name = call.name(&mut scratch)?;
        self.fs.rmdir(&call.context(), call.node(), name)
    }

    pub(super) fn rename(&self, call: &mut Call<'_>) -> FsResult<()> {
        let arg: RenameIn = call.read()?;
        self.rename_with(call, NodeId(arg.newdir), 0)
    }

    pub(super) fn rename2(&self, call: &mut Call<'_>) -> FsResult<()> {
        let arg: Rename2In = call.read()?;
        if arg.flags & !RENAME_FLAGS != 0 {
            return Err(Errno::EINVAL);
        }
        self.rename_with(call, NodeId(arg.newdir), arg.flags)
    }

    fn rename_with(&self, call: &mut Call<'_>, new_parent: NodeId, flags: u32) -> FsResult<()> {
        let mut scratch = Scratch::new();
        let (name, new_name) = call.two_names(&mut scratch)?;
        self.fs.rename(
            &call.context(),
            call.node(),
            name,
            new_parent,
            new_name,
            flags,
        )
    }

    pub(super) fn link(&self, call: &mut Call<'_>) -> FsResult<()> {
        let arg: LinkIn = call.read()?;
        let mut scratch = Scratch::new();
        let name = call.name(&mut scratch)?;
        call.need_room(size_of::<EntryOut>())?;
        let node = NodeId(arg.oldnodeid);
        let entry = self.fs.link(&call.context(), node, call.node(), name)?;
        call.reply_entry(&entry)
    }
}
