//! Making, linking, removing and renaming names.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, RenameFlags};

use super::attr::decode_dev;
use super::creds::{self, Acting};
use super::handle::HandleKind;
use super::ids::GuestId;
use super::inode::{Inode, InodeArc, InodeFd};
use super::lookup::{open_path, Object};
use super::sys::{self, Masked};
use super::Passthrough;
use crate::abi;
use crate::errno::{Errno, FsResult};
use crate::fs::{Context, Entry, Opened};
use crate::types::{Name, NodeId};

/// How often CREATE starts over when others remove and make its name meanwhile.
const CREATE_TRIES: usize = 8;

/// The mode to make something with.
pub(super) struct NewMode {
    /// Permission bits.
    pub(super) mode: u32,
    // The file mode mask to make it under.
    mask: Option<u32>,
}

impl NewMode {
    /// For what has no permissions of its own.
    pub(super) const NONE: NewMode = NewMode {
        mode: 0,
        mask: None,
    };
}

/// This thread makes things as the caller as long as this lives.
#[must_use]
pub(super) struct Maker {
    _acting: Acting,
    _masked: Option<Masked>,
}

impl Passthrough {
    /// Makes this thread the caller, for a call that makes something.
    pub(super) fn acting(&self, ctx: &Context<'_>, mode: &NewMode) -> FsResult<Maker> {
        if !self.use_handles {
            // What is made will be held by a descriptor.
            self.room_for_one()?;
        }
        // Where the guest does not tell groups, it alone has checked them.
        let override_dac = !self.negotiated(abi::FUSE_CREATE_SUPP_GROUP);
        let uid = self.config.uids.to_host(GuestId(ctx.uid))?.0;
        let gid = self.config.gids.to_host(GuestId(ctx.gid))?.0;
        let translated = match ctx.supplementary_groups {
            Some(groups) if !self.config.gids.is_empty() => Some(
                groups
                    .iter()
                    .map(|id| Ok(self.config.gids.to_host(GuestId(*id))?.0))
                    .collect::<FsResult<Vec<u32>>>()?,
            ),
            _ => None,
        };
        let groups = translated.as_deref().or(ctx.supplementary_groups);
        let acting = creds::act_as(uid, gid, groups, override_dac)
            .inspect_err(|e| self.tell_of_ids(ctx, *e))?;
        Ok(Maker {
            _acting: acting,
            _masked: mode.mask.and_then(sys::masked),
        })
    }

    /// Says once what to do about users of the guest that this process cannot act as.
    fn tell_of_ids(&self, ctx: &Context<'_>, errno: Errno) {
        let remedy = match errno {
            Errno::EINVAL => {
                "the user namespace has no such id: give it more by --uid-map and --gid-map, or \
                 make all of the guest's one by --translate-uid squash-guest:0:0:4294967295 and \
                 the same --translate-gid"
            }
            Errno::EPERM => {
                "it takes CAP_SETUID and CAP_SETGID: run as root, or with --sandbox namespace"
            }
            _ => return,
        };
        if !self.told_of_ids.swap(true, Ordering::Relaxed) {
            let Context { uid, gid, .. } = ctx;
            log::warn!(
                "the guest's user {uid} of group {gid} can make nothing ({errno}); {remedy}"
            );
        }
    }

    /// The mode to make something with.
    fn new_mode(&self, mode: u32, umask: u32) -> NewMode {
        // A mask of this process must not be applied on top of the guest's. If a
        // sandbox forbids that, it is up to the mask that the process has.
        let own = sys::own_fs(self.proc_self_fd());
        if let Err(e) = own {
            log::debug!("cannot part this thread's file mode mask from the process': {e}");
        }
        if !self.negotiated(abi::FUSE_DONT_MASK) {
            return NewMode { mode, mask: None };
        }
        // Whether the mask counts, or a default ACL of the directory, is best
        // decided by the host's kernel.
        if self.negotiated(abi::FUSE_POSIX_ACL) && own.is_ok() {
            let mask = Some(umask & 0o777).filter(|mask| *mask != 0);
            return NewMode { mode, mask };
        }
        NewMode {
            mode: mode & !(umask & 0o777),
            mask: None,
        }
    }

    /// Makes `name` in `parent` by `make`, as the caller, and looks it up. `kind` is
    /// the `S_IFMT` part of what is made.
    fn make(
        &self,
        ctx: &Context<'_>,
        parent: NodeId,
        name: &Name,
        kind: u32,
        mode: &NewMode,
        make: impl FnOnce(BorrowedFd<'_>) -> FsResult<()>,
    ) -> FsResult<Entry> {
        let parent = self.inode(parent)?;
        let dir = self.kept_fds.get(&parent)?;
        let _hold = self.names.hold_change(parent.id(), name.as_bytes());
        {
            let _acting = self.acting(ctx, mode)?;
            make(dir.as_fd())?;
        }
        if let Some(label) = &ctx.security_context {
            self.label_name(dir.as_fd(), name, kind, label)?;
        }
        self.lookup_in(&parent, dir.as_fd(), name)
    }

    pub(super) fn do_mkdir(
        &self,
        ctx: &Context<'_>,
        parent: NodeId,
        name: &Name,
        mode: u32,
        umask: u32,
    ) -> FsResult<Entry> {
        let mode = self.new_mode(mode & 0o7777, umask);
        self.make(ctx, parent, name, libc::S_IFDIR, &mode, |dir| {
            sys::mkdirat(dir, name.as_c_str(), mode.mode)
        })
    }

    pub(super) fn do_mknod(
        &self,
        ctx: &Context<'_>,
        parent: NodeId,
        name: &Name,
        mode: u32,
        rdev: u32,
        umask: u32,
    ) -> FsResult<Entry> {
        let mode = self.new_mode(mode & (libc::S_IFMT | 0o7777), umask);
        let kind = match mode.mode & libc::S_IFMT {
            0 => libc::S_IFREG,
            kind => kind,
        };
        self.make(ctx, parent, name, kind, &mode, |dir| {
            sys::mknodat(dir, name.as_c_str(), mode.mode, decode_dev(rdev))
        })
    }

    pub(super) fn do_symlink(
        &self,
        ctx: &Context<'_>,
        target: &CStr,
        parent: NodeId,
        name: &Name,
    ) -> FsResult<Entry> {
        self.make(ctx, parent, name, libc::S_IFLNK, &NewMode::NONE, |dir| {
            Ok(rustix::fs::symlinkat(target, dir, name.as_c_str())?)
        })
    }

    pub(super) fn do_link(
        &self,
        node: NodeId,
        new_parent: NodeId,
        new_name: &Name,
    ) -> FsResult<Entry> {
        let inode = self.inode(node)?;
        let parent = self.inode(new_parent)?;
        let fd = self.kept_fds.get(&inode)?;
        let dir = self.kept_fds.get(&parent)?;
        let _hold = self.names.hold_change(parent.id(), new_name.as_bytes());
        sys::link(
            self.proc_self_fd(),
            fd.as_fd(),
            dir.as_fd(),
            new_name.as_c_str(),
        )?;
        self.ghosts.linked(node);
        let stx = sys::statx(fd.as_fd())?;
        if !self.inodes.acquire_again(&inode) {
            // Forgotten while it was being linked: no guest in its right mind.
            return Err(Errno::ESTALE);
        }
        self.remember(&parent, new_name, &inode, &stx);
        Ok(self.entry(Some(&parent), &inode, &stx))
    }

    pub(super) fn do_unlink(&self, parent: NodeId, name: &Name, flags: AtFlags) -> FsResult<()> {
        let parent = self.inode(parent)?;
        let dir = self.kept_fds.get(&parent)?;
        let _hold = self.names.hold_change(parent.id(), name.as_bytes());
        if self.unlocated.any() {
            self.unlocated.find_named(&parent, dir.as_fd(), name);
        }
        let doomed = self.doomed(&parent, name);
        rustix::fs::unlinkat(dir, name.as_c_str(), flags)?;
        if let Some((inode, fd)) = doomed {
            self.inodes.keep(&inode, fd);
        }
        self.names
            .remove(&self.inodes, parent.id(), name.as_bytes());
        Ok(())
    }

    /// What the guest knows as `name`, with a descriptor to keep it by, if it is
    /// held by handle and about to lose its last name: without one the object
    /// could be gone while the guest still refers to it. Where no descriptor can be
    /// had, the guest's own operation goes first.
    ///
    /// A directory can be somebody's working directory, a fifo or socket is open in
    /// the guest's kernel alone, anything can be held with `O_PATH`, and a guest that
    /// writes back has times to write after the name is gone. None of these can be
    /// told from what is forgotten at once.
    fn doomed(&self, parent: &Inode, name: &Name) -> Option<(InodeArc, OwnedFd)> {
        let inode = self
            .names
            .known(&self.inodes, parent.id(), name.as_bytes())?;
        let fd = match inode.fd() {
            Ok(InodeFd::Owned(fd)) => fd,
            _ => return None,
        };
        let last = inode.is_dir() || sys::statx(fd.as_fd()).is_ok_and(|stx| stx.stx_nlink <= 1);
        last.then_some((inode, fd))
    }

    /// Gives the whiteout that a rename has left under `name` to the caller, whose it
    /// is: the daemon has made it.
    fn give_whiteout(&self, ctx: &Context<'_>, dir: BorrowedFd<'_>, name: &Name) -> FsResult<()> {
        let made = open_path(dir, name)?;
        let stx = sys::statx(made.as_fd())?;
        let is_char = u32::from(stx.stx_mode) & libc::S_IFMT == libc::S_IFCHR;
        if !is_char || (stx.stx_rdev_major, stx.stx_rdev_minor) != (0, 0) {
            // Others have put something else there.
            return Ok(());
        }
        let uid = self.config.uids.to_host(GuestId(ctx.uid))?.0;
        // Of a directory with the set-group-id bit it has the group already.
        let gid = match u32::from(sys::statx(dir)?.stx_mode) & libc::S_ISGID {
            0 => self.config.gids.to_host(GuestId(ctx.gid))?.0,
            _ => u32::MAX,
        };
        sys::chown(made.as_fd(), uid, gid)
    }

    pub(super) fn do_rename(
        &self,
        ctx: &Context<'_>,
        (parent, name): (NodeId, &Name),
        (new_parent, new_name): (NodeId, &Name),
        flags: u32,
    ) -> FsResult<()> {
        let from = self.inode(parent)?;
        let to = self.inode(new_parent)?;
        let (from_dir, to_dir) = (self.kept_fds.get(&from)?, self.kept_fds.get(&to)?);
        let _hold = self
            .names
            .hold_changes((from.id(), name.as_bytes()), (to.id(), new_name.as_bytes()));
        if self.unlocated.any() {
            self.unlocated.find_named(&from, from_dir.as_fd(), name);
            self.unlocated.find_named(&to, to_dir.as_fd(), new_name);
        }
        let replaced = match flags & libc::RENAME_EXCHANGE {
            0 => self.doomed(&to, new_name),
            _ => None,
        };
        if flags == 0 {
            // Also where the host file system does not know renameat2's flags.
            rustix::fs::renameat(&from_dir, name.as_c_str(), &to_dir, new_name.as_c_str())?;
        } else {
            let flags = RenameFlags::from_bits_retain(flags);
            rustix::fs::renameat_with(
                &from_dir,
                name.as_c_str(),
                &to_dir,
                new_name.as_c_str(),
                flags,
            )?;
        }
        if flags & libc::RENAME_WHITEOUT != 0 && ctx.uid != 0 {
            // The rename has come about in any case.
            if let Err(e) = self.give_whiteout(ctx, from_dir.as_fd(), name) {
                log::warn!(
                    "the whiteout {name:?} cannot be given to user {}: {e}",
                    ctx.uid
                );
            }
        }
        if let Some((inode, fd)) = replaced {
            self.inodes.keep(&inode, fd);
        }
        if flags & libc::RENAME_EXCHANGE != 0 {
            self.names.exchange(
                &self.inodes,
                (&from, name.as_bytes()),
                (&to, new_name.as_bytes()),
            );
        } else {
            self.names.rename(
                &self.inodes,
                (from.id(), name.as_bytes()),
                &to,
                new_name.as_bytes(),
            );
        }
        Ok(())
    }

    /// CREATE. The inode and the handle are of the same object, whatever others
    /// do with the name meanwhile.
    #[allow(clippy::too_many_arguments)] // those of the request
    pub(super) fn do_create(
        &self,
        ctx: &Context<'_>,
        parent: NodeId,
        name: &Name,
        mode: u32,
        umask: u32,
        flags: u32,
        kill_suidgid: bool,
    ) -> FsResult<(Entry, Opened)> {
        let mode = self.new_mode(mode & 0o7777, umask);
        let host_flags = self.effective_flags(flags, self.session_flags());
        let parent = self.inode(parent)?;
        let dir = self.kept_fds.get(&parent)?;
        self.room_for_one()?;
        let _hold = self.names.hold_change(parent.id(), name.as_bytes());
        for _ in 0..CREATE_TRIES {
            match self.create_new(ctx, dir.as_fd(), name, host_flags as i32, &mode) {
                Ok((file, path)) => {
                    let object = match path {
                        Some(path) => Object::Path(path),
                        None => Object::Open(file.as_fd()),
                    };
                    let (inode, stx) = self.adopt(object)?;
                    self.remember(&parent, name, &inode, &stx);
                    let entry = self.entry(Some(&parent), &inode, &stx);
                    let opened =
                        self.add_handle(inode.id(), HandleKind::File, file, flags, host_flags);
                    return Ok((entry, opened));
                }
                Err(Errno::EEXIST) if flags & libc::O_EXCL as u32 == 0 => {}
                Err(e) => return Err(e),
            }
            let there = match open_path(dir.as_fd(), name) {
                Ok(there) => there,
                Err(Errno::ENOENT) => continue,
                Err(e) => return Err(e),
            };
            let (inode, _) = self.adopt(Object::Path(there))?;
            let kill_suidgid = self.kills_set_ids(ctx, flags, kill_suidgid);
            let answer = self.open_existing(&parent, name, &inode, flags, kill_suidgid);
            if answer.is_err() {
                // The guest is told of no inode, so it will give none back.
                self.names.release(&self.inodes, inode, 1);
            }
            return answer;
        }
        Err(Errno::EAGAIN)
    }

    /// Makes a regular file that was not there, and opens it. With a label, the
    /// second descriptor, if any, is an `O_PATH` one of the file by its name.
    fn create_new(
        &self,
        ctx: &Context<'_>,
        dir: BorrowedFd<'_>,
        name: &Name,
        host_flags: i32,
        mode: &NewMode,
    ) -> FsResult<(OwnedFd, Option<OwnedFd>)> {
        if let Some(label) = &ctx.security_context {
            if let Some(made) = self.create_hidden(ctx, dir, name, host_flags, mode, label)? {
                return Ok(made);
            }
        }
        // Always exclusively: so it is known whether it is new, and nothing but a
        // new regular file is ever opened by this call.
        let once = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
        let file = {
            let _acting = self.acting(ctx, mode)?;
            sys::openat(dir, name.as_c_str(), host_flags | once, mode.mode)?
        };
        if let Some(label) = &ctx.security_context {
            self.label_new_file(dir, name, file.as_fd(), label)?;
        }
        Ok((file, None))
    }

    fn open_existing(
        &self,
        parent: &InodeArc,
        name: &Name,
        inode: &InodeArc,
        flags: u32,
        kill_suidgid: bool,
    ) -> FsResult<(Entry, Opened)> {
        let host_flags = self.effective_flags(flags, self.session_flags());
        let file = self.open_file(inode, host_flags, kill_suidgid)?;
        // After a truncation.
        let stx = sys::statx(file.as_fd())?;
        self.remember(parent, name, inode, &stx);
        let entry = self.entry(Some(parent), inode, &stx);
        let opened = self.add_handle(inode.id(), HandleKind::File, file, flags, host_flags);
        Ok((entry, opened))
    }

    pub(super) fn do_tmpfile(
        &self,
        ctx: &Context<'_>,
        parent: NodeId,
        mode: u32,
        umask: u32,
        flags: u32,
    ) -> FsResult<(Entry, Opened)> {
        let mode = self.new_mode(mode & 0o7777, umask);
        let host_flags = self.effective_flags(flags, self.session_flags());
        let parent = self.inode(parent)?;
        let dir = self.kept_fds.get(&parent)?;
        self.room_for_one()?;
        // With O_EXCL it can never be linked to a name.
        let once = libc::O_TMPFILE | (flags as i32 & libc::O_EXCL);
        let file = {
            let _acting = self.acting(ctx, &mode)?;
            let flags = (host_flags as i32 & !libc::O_TRUNC) | once;
            sys::openat(dir.as_fd(), c".", flags, mode.mode)?
        };
        if let Some(label) = &ctx.security_context {
            // Where that fails, the file is gone with its descriptor.
            self.label_open(file.as_fd(), label)?;
        }
        let (inode, stx) = self.adopt(Object::Open(file.as_fd()))?;
        self.names.note_orphan(&inode);
        if flags & libc::O_EXCL as u32 == 0 {
            self.ghosts.add_linkable(inode.id());
        }
        let entry = self.entry(Some(&parent), &inode, &stx);
        let opened = self.add_handle(inode.id(), HandleKind::File, file, flags, host_flags);
        Ok((entry, opened))
    }

    pub(super) fn do_readlink(&self, node: NodeId) -> FsResult<Vec<u8>> {
        let inode: InodeArc = self.inode(node)?;
        if inode.kind() != libc::S_IFLNK {
            return Err(Errno::EINVAL);
        }
        let target =
            rustix::fs::readlinkat(self.kept_fds.get(&inode)?, c"", Vec::with_capacity(256))?;
        Ok(target.into_bytes())
    }
}
