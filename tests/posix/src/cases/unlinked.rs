//! What is open and has no name (any more).

use rustix::fs::{self, AtFlags, Timespec, Timestamps, XattrFlags};

use super::Plain;
use crate::sys::*;
use crate::world::World;
use crate::{step, take};

pub const ALL: &[Plain] = &[
    ("tmpfile", tmpfile),
    ("tmpfile-link", tmpfile_link),
    ("unlinked-file", unlinked_file),
    ("unlinked-by-rename", unlinked_by_rename),
    ("unlinked-other-link", unlinked_other_link),
    ("unlinked-dir", unlinked_dir),
    ("unlinked-held", unlinked_held),
];

fn tmpfile(w: &mut World) {
    let flags = libc::O_TMPFILE | libc::O_RDWR;
    let Ok(file) = take!(w, open(&w.dir, ".", flags, 0o640)) else {
        return;
    };
    step!(w, fs::fstat(&file));
    step!(w, write_at(&file, b"nameless", 3));
    step!(w, fs::fstat(&file));
    step!(w, read_at(&file, 100, 0));
    step!(w, fs::ftruncate(&file, 5));
    step!(w, fchmod(&file, 0o4711));
    step!(w, fs::fstat(&file));
    step!(w, fs::fsync(&file));
    step!(
        w,
        reopen(&file, libc::O_RDONLY).and_then(|file| read_at(file, 100, 0))
    );
    step!(w, list(&w.dir, "."));
    step!(
        w,
        open(&w.dir, ".", libc::O_TMPFILE | libc::O_RDONLY, 0o640)
    );
    step!(
        w,
        open(&w.dir, ".", libc::O_TMPFILE | libc::O_WRONLY, 0o200)
    );
    step!(w, open(&w.dir, "missing", flags, 0o640));
    let _ = file_named(w);
    step!(w, open(&w.dir, "f", flags, 0o640));
}

fn file_named(w: &mut World) -> rustix::io::Result<std::os::fd::OwnedFd> {
    take!(w, file(&w.dir, "f", 0o644, b"content"))
}

fn tmpfile_link(w: &mut World) {
    let flags = libc::O_TMPFILE | libc::O_RDWR;
    let Ok(file) = take!(w, open(&w.dir, ".", flags, 0o600)) else {
        return;
    };
    step!(w, write_at(&file, b"soon named", 0));
    step!(w, link_open(&file, &w.dir, "named"));
    step!(w, stat(&w.dir, "named"));
    step!(w, content(&w.dir, "named"));
    step!(w, link_open(&file, &w.dir, "named"));
    step!(w, link_open(&file, &w.dir, "again"));
    step!(w, fs::fstat(&file));
    step!(w, unlink(&w.dir, "named"));
    step!(w, unlink(&w.dir, "again"));
    step!(w, fs::fstat(&file));
    // As of an inode that has had names and lost them.
    step!(w, link_open(&file, &w.dir, "third"));
    let never = open(&w.dir, ".", flags | libc::O_EXCL, 0o600);
    if let Ok(never) = take!(w, never) {
        step!(w, link_open(&never, &w.dir, "never"));
    }
    step!(w, list(&w.dir, "."));
}

/// All that a program can do with a file that is gone.
fn use_up(w: &mut World, file: &std::os::fd::OwnedFd) {
    step!(w, fs::fstat(file));
    step!(w, read_at(file, 100, 0));
    step!(w, write_at(file, b"more", 10));
    step!(w, fs::fstat(file));
    step!(w, fs::ftruncate(file, 4));
    step!(w, read_at(file, 100, 0));
    step!(w, fchmod(file, 0o751));
    step!(w, fchown(file, -1, -1));
    if w.root {
        step!(w, fchown(file, 77, 88));
    }
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 5,
            tv_nsec: 6,
        },
        last_modification: Timespec {
            tv_sec: 7,
            tv_nsec: 8,
        },
    };
    step!(w, fs::futimens(file, &times));
    let of = |stat: fs::Stat| (stat.st_atime, stat.st_mtime);
    step!(w, fs::fstat(file).map(|s| format!("{:?}", of(s))));
    step!(
        w,
        fs::fsetxattr(file, "user.gone", b"value", XattrFlags::empty())
    );
    let mut value = [0; 100];
    step!(w, fs::fgetxattr(file, "user.gone", &mut value[..]));
    step!(w, fs::fremovexattr(file, "user.gone"));
    step!(w, fs::fallocate(file, fs::FallocateFlags::empty(), 0, 5000));
    step!(w, fs::fstat(file));
    step!(w, fs::fsync(file));
    step!(w, fs::fstatvfs(file).map(|s| s.f_namemax));
    step!(w, reopen(file, libc::O_RDWR).and_then(|f| read_at(f, 4, 0)));
    step!(w, reopen(file, libc::O_RDONLY | libc::O_TRUNC).map(drop));
    step!(w, fs::fstat(file));
    step!(w, link_open(file, &w.dir, "back"));
    step!(w, list(&w.dir, "."));
}

fn unlinked_file(w: &mut World) {
    let Ok(file) = file_named(w) else { return };
    step!(w, unlink(&w.dir, "f"));
    step!(w, stat(&w.dir, "f"));
    use_up(w, &file);
    // Another of that name is another.
    let Ok(other) = file_named(w) else { return };
    step!(w, fs::fstat(&other));
    step!(w, fs::fstat(&file));
    step!(w, content(&w.dir, "f"));
}

fn unlinked_by_rename(w: &mut World) {
    let Ok(file) = file_named(w) else { return };
    step!(w, crate::sys::file(&w.dir, "g", 0o600, b"the other"));
    step!(w, rename(&w.dir, "g", "f", 0));
    step!(w, content(&w.dir, "f"));
    use_up(w, &file);
    step!(w, content(&w.dir, "f"));
    step!(w, stat(&w.dir, "f"));
}

fn unlinked_other_link(w: &mut World) {
    let Ok(file) = file_named(w) else { return };
    step!(w, link(&w.dir, "f", "g"));
    step!(w, fs::fstat(&file));
    step!(w, unlink(&w.dir, "f"));
    step!(w, fs::fstat(&file));
    step!(w, stat(&w.dir, "g"));
    step!(w, write_at(&file, b"through the open one", 0));
    step!(w, content(&w.dir, "g"));
    step!(w, rename(&w.dir, "g", "h", 0));
    step!(w, content(&w.dir, "h"));
    step!(w, link_open(&file, &w.dir, "i"));
    step!(w, stat(&w.dir, "i"));
}

fn unlinked_dir(w: &mut World) {
    step!(w, mkdir(&w.dir, "d", 0o755));
    let Ok(dir) = take!(w, open_dir(&w.dir, "d")) else {
        return;
    };
    step!(w, rmdir(&w.dir, "d"));
    step!(w, fs::fstat(&dir));
    step!(w, list(&dir, "."));
    step!(w, open(&dir, "x", RW_CREATE, 0o644));
    step!(w, mkdir(&dir, "x", 0o755));
    step!(w, symlink("t", &dir, "x"));
    step!(w, stat(&dir, "x"));
    step!(w, stat(&dir, ".."));
    step!(w, fs::statat(&dir, "", AtFlags::EMPTY_PATH));
    step!(w, fchmod(&dir, 0o700));
    step!(w, fs::fstat(&dir));
    step!(w, mkdir(&w.dir, "d", 0o711));
    step!(w, stat(&w.dir, "d"));
    step!(w, fs::fstat(&dir));
    step!(w, mkdir(&w.dir, "e", 0o755));
    let Ok(replaced) = take!(w, open_dir(&w.dir, "e")) else {
        return;
    };
    step!(w, rename(&w.dir, "d", "e", 0));
    step!(w, fs::fstat(&replaced));
    step!(w, open(&replaced, "x", RW_CREATE, 0o644));
}

fn unlinked_held(w: &mut World) {
    use fs::FileType::{Fifo, RegularFile, Socket};
    let kinds = [Fifo, Socket, RegularFile];
    for kind in kinds {
        w.say("kind", &format!("{kind:?}"));
        step!(w, mknod(&w.dir, "s", kind, 0o644, (0, 0)));
        let Ok(path) = take!(w, open(&w.dir, "s", libc::O_PATH, 0)) else {
            continue;
        };
        step!(w, unlink(&w.dir, "s"));
        step!(w, fs::fstat(&path));
        step!(w, fs::chmod(proc_link(&path), fs::Mode::from(0o600)));
        step!(w, fs::fstat(&path));
        step!(w, link_open(&path, &w.dir, "s2"));
    }
    step!(w, symlink("target", &w.dir, "l"));
    let Ok(path) = take!(w, open(&w.dir, "l", libc::O_PATH | libc::O_NOFOLLOW, 0)) else {
        return;
    };
    step!(w, unlink(&w.dir, "l"));
    step!(w, fs::fstat(&path));
    step!(w, readlink(&path, ""));
}
