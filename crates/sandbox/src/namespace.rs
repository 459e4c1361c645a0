//! Namespaces of the daemon's own: nothing mounted but the share, no other process,
//! no network.
//!
//! A process id namespace begins with a child process, so the daemon is two from
//! then on. The one that was started stays outside and does nothing but wait (see
//! [`crate::waiting`]); the other one serves.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::{fstat, FileType, Mode as FileMode, OFlags, CWD};
use rustix::mount::{
    fsconfig_create, fsmount, fsopen, mount_change, move_mount, open_tree, unmount, FsMountFlags,
    FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags,
};
use rustix::pipe::{pipe_with, PipeFlags};
use rustix::process::{fchdir, geteuid, pivot_root, Pid, Signal};

use crate::idmap::Mapper;
use crate::{open_share, proc_self_fd, Confined, Role, SandboxError, Settings, Waiting};

/// See [`crate::enter`].
pub(crate) fn enter(settings: &Settings, share: &Path) -> Result<Role, SandboxError> {
    let failed = |what| move |source: io::Error| SandboxError::Process { what, source };
    let outside = open_share(share)?;
    crate::waiting::block_signals().map_err(failed("block signals"))?;

    // Root keeps its users as they are; who is not root is given no other
    // namespaces without one of users.
    let mapper = match geteuid().is_root() {
        true => None,
        false => Some(Mapper::prepare(&settings.id_maps).map_err(SandboxError::IdMap)?),
    };
    match mapper {
        None => unshare(libc::CLONE_NEWPID, "process id")?,
        Some(mapper) => {
            unshare(
                libc::CLONE_NEWUSER | libc::CLONE_NEWPID,
                "user and process id",
            )?;
            mapper.write().map_err(SandboxError::IdMap)?;
        }
    }

    // Its other end is closed when the waiting process ends.
    let (alive, hold) = pipe_with(PipeFlags::CLOEXEC)
        .map_err(|e| failed("make a pipe for the serving process")(e.into()))?;
    // SAFETY: this process has one thread (see `enter`), so the child may do
    // whatever this one may.
    match unsafe { libc::fork() } {
        0 => {
            drop(hold);
            become_root()?;
            die_with_parent(&alive)?;
            crate::waiting::unblock_child_signal().map_err(failed("unblock signals"))?;
            // A terminal's Ctrl-C would reach both, and count twice with the one that
            // is handed on.
            rustix::process::setpgid(None, None)
                .map_err(|e| failed("leave the process group")(e.into()))?;
            confine(share, outside).map(Role::Serve)
        }
        pid => match Pid::from_raw(pid) {
            Some(child) if pid > 0 => Ok(Role::Wait(Waiting::new(child, hold))),
            _ => Err(failed("start the serving process")(
                io::Error::last_os_error(),
            )),
        },
    }
}

fn unshare(flags: libc::c_int, what: &'static str) -> Result<(), SandboxError> {
    // SAFETY: takes no pointer, and no flag given here concerns memory or
    // descriptors.
    if unsafe { libc::unshare(flags) } != 0 {
        return Err(SandboxError::Unshare {
            what,
            source: io::Error::last_os_error(),
        });
    }
    Ok(())
}

/// Id 0 of the user namespace, whoever that is on the host. Where no user namespace
/// was made, that is nobody else.
fn become_root() -> Result<(), SandboxError> {
    let failed = |source| SandboxError::Process {
        what: "become user 0 of the namespace",
        source,
    };
    // SAFETY: with size 0 no id is read; the other calls take no pointer. One
    // thread only, whose credentials these are.
    unsafe {
        // Refused where the map is the kernel's simple one; the groups are mapped
        // to nobody then.
        libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>());
        if libc::syscall(libc::SYS_setresgid, 0, 0, 0) != 0
            || libc::syscall(libc::SYS_setresuid, 0, 0, 0) != 0
        {
            return Err(failed(io::Error::last_os_error()));
        }
    }
    Ok(())
}

/// Behind every change of credentials, each of which would undo it.
fn die_with_parent(alive: &OwnedFd) -> Result<(), SandboxError> {
    let failed = |e: rustix::io::Errno| SandboxError::Process {
        what: "bind the serving process' life to the waiting one's",
        source: e.into(),
    };
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(failed)?;
    let mut fds = [PollFd::new(alive, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).map_err(failed)?;
    if !fds[0].revents().is_empty() {
        // It ended before the signal was asked for.
        return Err(failed(rustix::io::Errno::SRCH));
    }
    Ok(())
}

/// Leaves the host: what is not opened here cannot be reached any more.
fn confine(share: &Path, outside: OwnedFd) -> Result<Confined, SandboxError> {
    let failed = |what| {
        move |e: rustix::io::Errno| SandboxError::Mount {
            what,
            source: e.into(),
        }
    };
    unshare(libc::CLONE_NEWNS | libc::CLONE_NEWNET, "mount and network")?;
    // What the host mounts arrives here; nothing gets out.
    mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
    .map_err(failed("part the mounts from the host's"))?;
    // The same kind for every process id namespace: a process finds itself in it.
    let proc_self_fd = proc_self_fd()?;

    let clone = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, share, clone).map_err(failed("take the share's mounts"))?;
    let what = failed("examine the share");
    let (before, now) = (fstat(&outside).map_err(what)?, fstat(&tree).map_err(what)?);
    drop(outside);
    if (before.st_dev, before.st_ino) != (now.st_dev, now.st_ino) {
        return Err(SandboxError::Replaced(share.to_owned()));
    }
    if FileType::from_raw_mode(now.st_mode) == FileType::Directory {
        swap_root(&tree)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, "/", flags, FileMode::empty())
            .map_err(failed("open the share"))?;
        return Ok(Confined {
            root,
            proc_self_fd: Some(proc_self_fd),
        });
    }
    // A file cannot be a root directory. It stays a mount that is attached nowhere,
    // and the root directory is an empty one.
    swap_root(&empty()?)?;
    Ok(Confined {
        root: tree,
        proc_self_fd: Some(proc_self_fd),
    })
}

/// An empty directory, as a mount that is attached nowhere.
fn empty() -> Result<OwnedFd, SandboxError> {
    let failed = |e: rustix::io::Errno| SandboxError::Mount {
        what: "make an empty root directory",
        source: e.into(),
    };
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed)?;
    fsconfig_create(context.as_fd()).map_err(failed)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(failed)
}

/// Makes `tree` (mounts that are attached nowhere) all that there is.
fn swap_root(tree: &OwnedFd) -> Result<(), SandboxError> {
    let failed = |what| {
        move |e: rustix::io::Errno| SandboxError::Mount {
            what,
            source: e.into(),
        }
    };
    move_mount(tree, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(failed("mount the share"))?;
    let what = failed("make the share the root directory (pivot_root)");
    fchdir(tree).map_err(what)?;
    // The old root comes to lie on top of the new one, from where it is taken away.
    pivot_root(".", ".").map_err(what)?;
    unmount(".", UnmountFlags::DETACH).map_err(failed("take the host's mounts away"))?;
    rustix::process::chdir("/").map_err(what)
}
