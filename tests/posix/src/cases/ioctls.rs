//! A file's flags (lsattr, chattr), its project, and reflinks: what ioctl(2) is asked
//! for by programs that copy and keep files.

use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::{self, IFlags};
use rustix::io::Result;

use super::Plain;
use crate::step;
use crate::sys::*;
use crate::users::{as_anne, as_bert, ANNE};
use crate::world::World;

pub const ALL: &[Plain] = &[
    ("ioctls-flags", flags),
    ("ioctls-flags-users", flags_of_users),
    ("ioctls-project", project),
    ("ioctls-clone", clone),
    ("ioctls-unknown", unknown),
];

/// Flags that any file system has that has some; others are its own business.
const COMMON: IFlags = IFlags::NODUMP
    .union(IFlags::NOATIME)
    .union(IFlags::APPEND)
    .union(IFlags::IMMUTABLE);

fn get(fd: impl AsFd) -> Result<String> {
    let flags = fs::ioctl_getflags(fd)? & COMMON;
    Ok(format!("{flags:?}"))
}

/// Changes `flags`, and leaves all others.
fn set(fd: impl AsFd, flags: IFlags, on: bool) -> Result<()> {
    let now = fs::ioctl_getflags(&fd)?;
    let then = if on { now | flags } else { now - flags };
    fs::ioctl_setflags(fd, then)
}

fn flags(w: &mut World) {
    step!(w, drop_value(file(&w.dir, "file", 0o644, b"x")));
    step!(w, mkdir(&w.dir, "dir", 0o755));
    for (name, how) in [
        ("file", libc::O_RDONLY),
        ("file", libc::O_RDWR),
        ("dir", libc::O_RDONLY),
    ] {
        let Ok(fd) = open(&w.dir, name, how, 0) else {
            return;
        };
        w.say(format!("{name} at first"), &get(&fd));
        w.say("no dump", &set(&fd, IFlags::NODUMP, true));
        w.say("is", &get(&fd));
        w.say("no atime", &set(&fd, IFlags::NOATIME, true));
        w.say("is", &get(&fd));
        w.say(
            "neither",
            &set(&fd, IFlags::NODUMP | IFlags::NOATIME, false),
        );
        w.say("is", &get(&fd));
    }
    // What is made in a directory with a flag has it where that is its rule.
    let dir = open(&w.dir, "dir", libc::O_RDONLY, 0);
    step!(w, dir.and_then(|dir| set(dir, IFlags::NODUMP, true)));
    let Ok(made) = file(&w.dir, "dir/made", 0o644, b"x") else {
        return;
    };
    step!(w, get(&made));
    // A link has none, and its descriptor takes no ioctl.
    step!(w, symlink("file", &w.dir, "link"));
    let link = open(&w.dir, "link", libc::O_PATH | libc::O_NOFOLLOW, 0);
    step!(w, link.and_then(get));
}

fn flags_of_users(w: &mut World) {
    if !w.root {
        return;
    }
    step!(w, drop_value(file(&w.dir, "annes", 0o666, b"x")));
    step!(w, chown(&w.dir, "annes", ANNE.into(), ANNE.into()));
    let Ok(fd) = open(&w.dir, "annes", libc::O_RDWR, 0) else {
        return;
    };
    for on in [true, false] {
        step!(w, as_bert(|| set(&fd, IFlags::NODUMP, on)));
        step!(w, as_anne(|| set(&fd, IFlags::NODUMP, on)));
        step!(w, get(&fd));
    }
    step!(w, as_anne(|| set(&fd, IFlags::IMMUTABLE, true)));
    step!(w, as_anne(|| set(&fd, IFlags::APPEND, true)));
    step!(w, get(&fd));
}

/// `struct fsxattr`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extended {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

/// `FS_IOC_FSGETXATTR` and `FS_IOC_FSSETXATTR`.
const GET_EXTENDED: libc::c_ulong = 0x801c_581f;
const SET_EXTENDED: libc::c_ulong = 0x401c_5820;

fn extended(fd: impl AsFd, command: libc::c_ulong, with: Extended) -> Result<Extended> {
    let mut value = with;
    // SAFETY: both commands take a `struct fsxattr`, which outlives the call.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), command as _, &mut value) })?;
    Ok(value)
}

fn project(w: &mut World) {
    let Ok(fd) = file(&w.dir, "f", 0o644, b"x") else {
        return;
    };
    let now = extended(&fd, GET_EXTENDED, Extended::default());
    let shown = |value: Result<Extended>| value.map(|v| format!("{:#x} of {}", v.flags, v.project));
    w.say("at first", &shown(now));
    let Ok(now) = now else {
        return;
    };
    // Done already, and beyond what a file can have.
    w.say("the same", &drop_value(extended(&fd, SET_EXTENDED, now)));
    let no_dump = Extended {
        flags: now.flags | 0x80,
        ..now
    };
    w.say("no dump", &drop_value(extended(&fd, SET_EXTENDED, no_dump)));
    w.say("is", &shown(extended(&fd, GET_EXTENDED, now)));
    w.say("is", &get(&fd));
    let large = Extended {
        extent_size: 7,
        ..now
    };
    w.say("extents", &drop_value(extended(&fd, SET_EXTENDED, large)));
}

fn clone(w: &mut World) {
    let (Ok(from), Ok(to)) = (
        file(&w.dir, "from", 0o644, &[b'x'; 8192]),
        file(&w.dir, "to", 0o644, b""),
    ) else {
        return;
    };
    // Whether it can, is the host's file system's business: programs go on by copying.
    let mut done = 0;
    while let Ok(count @ 1..) = fs::copy_file_range(&from, None, &to, None, 8192) {
        done += count;
    }
    w.say("copied", &done);
    step!(w, content(&w.dir, "to"));
    let Ok(read_only) = open(&w.dir, "to", libc::O_RDONLY, 0) else {
        return;
    };
    step!(w, drop_value(fs::ioctl_ficlone(&read_only, &from)));
    step!(w, drop_value(fs::ioctl_ficlone(&to, &w.dir)));
}

fn unknown(w: &mut World) {
    let Ok(fd) = file(&w.dir, "f", 0o644, b"xyz") else {
        return;
    };
    // Of terminals, of sockets, and of nothing at all.
    for command in [0x5401_u32, 0x8910, 0xffff_ffff, 0] {
        // SAFETY: no command that a regular file knows, so that the argument is not
        // looked at; it is none anyway.
        let rc = unsafe { libc::ioctl(fd.as_raw_fd(), command as _, 0) };
        w.say(format!("{command:#x}"), &check(rc));
    }
    let mut ready: libc::c_int = -1;
    // SAFETY: FIONREAD writes an `int`, which outlives the call.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD as _, &mut ready) };
    w.say("FIONREAD", &check(rc).map(|_| ready));
}
