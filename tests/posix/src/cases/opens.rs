//! Opening: flags, modes, what may be opened.

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags};

use super::Plain;
use crate::sys::*;
use crate::users::masked;
use crate::world::World;
use crate::{step, take};

pub const ALL: &[Plain] = &[
    ("open-flags", flags),
    ("open-modes", modes),
    ("open-create", create),
    ("open-directories", directories),
    ("open-reopened", reopened),
    ("open-executed", executed),
    ("open-access", access),
];

fn flags(w: &mut World) {
    step!(w, file(&w.dir, "f", 0o644, b"content"));
    step!(w, symlink("f", &w.dir, "s"));
    step!(w, mknod(&w.dir, "p", FileType::Fifo, 0o644, (0, 0)));
    step!(w, mknod(&w.dir, "k", FileType::Socket, 0o644, (0, 0)));
    let all = [
        ("O_RDONLY", libc::O_RDONLY),
        ("O_WRONLY", libc::O_WRONLY),
        ("O_RDWR", libc::O_RDWR),
        ("O_ACCMODE", libc::O_ACCMODE),
        ("O_NOFOLLOW", libc::O_NOFOLLOW),
        ("O_DIRECTORY", libc::O_DIRECTORY),
        ("O_DIRECTORY|O_CREAT", libc::O_DIRECTORY | libc::O_CREAT),
        ("O_CREAT|O_EXCL", libc::O_CREAT | libc::O_EXCL),
        ("O_CREAT|O_NOFOLLOW", libc::O_CREAT | libc::O_NOFOLLOW),
        ("O_PATH", libc::O_PATH),
        ("O_PATH|O_NOFOLLOW", libc::O_PATH | libc::O_NOFOLLOW),
        ("O_NOATIME", libc::O_NOATIME),
        ("O_SYNC|O_WRONLY", libc::O_SYNC | libc::O_WRONLY),
        ("O_DSYNC|O_RDWR", libc::O_DSYNC | libc::O_RDWR),
        ("O_RDONLY|O_APPEND", libc::O_APPEND),
        ("O_RDONLY|O_TRUNC", libc::O_TRUNC),
    ];
    for name in ["f", "s", ".", "p", "k", "missing", "f/", "f/x"] {
        for (word, flag) in all {
            let opened = open(&w.dir, name, flag | libc::O_NONBLOCK, 0o600);
            w.say(format!("{name} {word}"), &opened);
            if let Ok(fd) = opened {
                let got = fs::fcntl_getfl(&fd).map(|flags| flags & !OFlags::LARGEFILE);
                w.say("  flags", &got.map(|flags| flags.bits()));
                w.say("  is", &fs::fstat(&fd));
                w.say("  read", &drop_value(read_at(&fd, 1, 0)));
                w.say("  written", &write_at(&fd, b"C", 0));
            }
        }
        w.say("left", &list(&w.dir, "."));
    }
}

fn modes(w: &mut World) {
    for mask in [0o022, 0o077, 0o777, 0] {
        for mode in [0o644, 0o777, 0, 0o200, 0o4755, 0o1777] {
            let name = format!("{mask:o}-{mode:o}");
            let fd = masked(mask, || open(&w.dir, &name, RW_CREATE, mode));
            w.say(format!("create {name}"), &fd);
            if let Ok(fd) = fd {
                // What it was made with counts from the next opening on.
                w.say("  written", &write_at(&fd, b"x", 0));
                w.say("  read", &read_at(&fd, 1, 0));
                w.say("  is", &fs::fstat(&fd));
            }
            let dir = format!("d{name}");
            w.say("  dir", &masked(mask, || mkdir(&w.dir, &dir, mode)));
            w.say("  is", &stat(&w.dir, &dir));
            let node = format!("n{name}");
            let made = masked(mask, || mknod(&w.dir, &node, FileType::Fifo, mode, (0, 0)));
            w.say("  fifo", &made);
            w.say("  is", &stat(&w.dir, &node));
        }
    }
    step!(w, masked(0o077, || symlink("t", &w.dir, "s")));
    step!(w, stat(&w.dir, "s"));
}

fn create(w: &mut World) {
    step!(w, file(&w.dir, "f", 0o4755, b"content"));
    step!(w, open(&w.dir, "f", RW_CREATE, 0o600).and_then(fs::fstat));
    step!(w, open(&w.dir, "f", RW_CREATE | libc::O_EXCL, 0o600));
    step!(
        w,
        open(&w.dir, "f", RW_CREATE | libc::O_TRUNC, 0o600).and_then(fs::fstat)
    );
    step!(
        w,
        open(&w.dir, "g", libc::O_CREAT | libc::O_RDONLY, 0o600)
            .and_then(|fd| write_at(fd, b"x", 0))
    );
    step!(
        w,
        open(&w.dir, "h", libc::O_CREAT | libc::O_WRONLY, 0o600).and_then(|fd| read_at(fd, 1, 0))
    );
    step!(
        w,
        open(
            &w.dir,
            "i",
            libc::O_CREAT | libc::O_TRUNC | libc::O_RDONLY,
            0o600
        )
    );
    step!(
        w,
        open(
            &w.dir,
            "j",
            RW_CREATE | libc::O_APPEND | libc::O_SYNC,
            0o600
        )
        .and_then(|fd| write_at(fd, b"xy", 0))
    );
    step!(w, mkdir(&w.dir, "d", 0o755));
    step!(w, open(&w.dir, "d", RW_CREATE, 0o600));
    step!(w, open(&w.dir, "d", libc::O_CREAT | libc::O_RDONLY, 0o600));
    step!(w, open(&w.dir, "d", libc::O_RDWR, 0));
    step!(w, open(&w.dir, "d", libc::O_WRONLY, 0));
    step!(w, open(&w.dir, "d/", RW_CREATE, 0o600));
    step!(w, open(&w.dir, "missing/x", RW_CREATE, 0o600));
    step!(w, list(&w.dir, "."));
}

fn directories(w: &mut World) {
    step!(w, mkdir(&w.dir, "d", 0o755));
    step!(w, file(&w.dir, "d/f", 0o644, b"inside"));
    let Ok(dir) = take!(w, open_dir(&w.dir, "d")) else {
        return;
    };
    let mut byte = [0];
    step!(w, rustix::io::read(&dir, &mut byte[..]));
    step!(w, rustix::io::pread(&dir, &mut byte[..], 0));
    step!(w, rustix::io::write(&dir, b"x"));
    step!(w, fs::ftruncate(&dir, 0));
    step!(w, fs::fsync(&dir));
    step!(w, fs::fdatasync(&dir));
    step!(w, fs::fallocate(&dir, fs::FallocateFlags::empty(), 0, 10));
    step!(w, fs::copy_file_range(&dir, None, &dir, None, 1));
    let Ok(path) = take!(w, open(&w.dir, "d", libc::O_PATH, 0)) else {
        return;
    };
    step!(w, content(&path, "f"));
    step!(w, fs::fchmod(&path, Mode::from(0o700)));
    step!(w, fs::fsync(&path));
    step!(w, open(&path, ".", libc::O_RDONLY, 0));
    for (resolve, name) in [
        (ResolveFlags::BENEATH, "d/f"),
        (ResolveFlags::BENEATH, "d/../d/f"),
        (ResolveFlags::BENEATH, "../x"),
        (ResolveFlags::BENEATH, "/"),
        (ResolveFlags::NO_SYMLINKS, "d/f"),
        (ResolveFlags::NO_XDEV, "d/f"),
        (ResolveFlags::IN_ROOT, "/d/f"),
    ] {
        let opened = fs::openat2(&w.dir, name, OFlags::RDONLY, Mode::empty(), resolve);
        w.say(format!("openat2 {name} {resolve:?}"), &opened);
    }
}

fn reopened(w: &mut World) {
    let Ok(file) = take!(w, file(&w.dir, "f", 0o600, b"0123456789")) else {
        return;
    };
    let Ok(path) = take!(w, open(&w.dir, "f", libc::O_PATH, 0)) else {
        return;
    };
    step!(w, read_at(&path, 1, 0));
    step!(
        w,
        reopen(&path, libc::O_RDWR).and_then(|fd| write_at(fd, b"X", 0))
    );
    step!(
        w,
        reopen(&file, libc::O_RDONLY).and_then(|fd| write_at(fd, b"X", 0))
    );
    step!(w, reopen(&path, libc::O_RDONLY | libc::O_DIRECTORY));
    step!(w, rename(&w.dir, "f", "g", 0));
    step!(
        w,
        reopen(&path, libc::O_RDONLY).and_then(|fd| read_at(fd, 20, 0))
    );
    // Two descriptors of one opening have one position; two openings have two.
    let Ok(copy) = take!(w, rustix::io::dup(&file)) else {
        return;
    };
    step!(w, fs::seek(&file, fs::SeekFrom::Start(4)));
    step!(w, fs::tell(&copy));
    step!(w, reopen(&file, libc::O_RDWR).and_then(fs::tell));
    step!(w, rustix::io::write(&copy, b"DUP"));
    step!(w, fs::tell(&file));
    step!(w, content(&w.dir, "g"));
}

fn executed(w: &mut World) {
    let script = b"#!/bin/sh\necho it ran\n";
    step!(w, drop_value(file(&w.dir, "script", 0o755, script)));
    let run = |w: &World, name: &str| match std::process::Command::new(w.path(name)).output() {
        Ok(out) => String::from_utf8_lossy(&out.stdout).into_owned(),
        Err(e) => crate::record::errno(
            rustix::io::Errno::from_io_error(&e).unwrap_or(rustix::io::Errno::IO),
        ),
    };
    step!(w, run(w, "script"));
    step!(w, chmod(&w.dir, "script", 0o644));
    step!(w, run(w, "script"));
    step!(w, chmod(&w.dir, "script", 0o111));
    step!(w, stat(&w.dir, "script"));
    // A program that is being written is not run.
    let Ok(own) = std::fs::read("/proc/self/exe") else {
        return;
    };
    let written = file(&w.dir, "program", 0o755, &own);
    step!(w, run(w, "program"));
    drop(written);
    let child = std::process::Command::new(w.path("program"))
        .args(["--list"])
        .output();
    w.say("program", &child.is_ok_and(|out| out.status.success()));
}

fn access(w: &mut World) {
    use fs::Access;
    for mode in [0o644, 0o755, 0o000, 0o111, 0o400, 0o222] {
        let name = format!("f{mode:o}");
        step!(w, drop_value(file(&w.dir, &name, mode, b"")));
        let dir = format!("d{mode:o}");
        step!(w, mkdir(&w.dir, &dir, mode));
        for access in [
            Access::EXISTS,
            Access::READ_OK,
            Access::WRITE_OK,
            Access::EXEC_OK,
        ] {
            for flags in [AtFlags::empty(), AtFlags::EACCESS] {
                for name in [&name, &dir] {
                    let may = fs::accessat(&w.dir, name.as_str(), access, flags);
                    w.say(format!("{name} {access:?} {flags:?}"), &may);
                }
            }
        }
        w.say(
            format!("open {name}"),
            &open(&w.dir, &name, libc::O_RDONLY, 0),
        );
        w.say("  to write", &open(&w.dir, &name, libc::O_WRONLY, 0));
        w.say(format!("list {dir}"), &list(&w.dir, &dir));
        w.say("  into", &mkdir(&w.dir, &format!("{dir}/x"), 0o755));
        // Whoever comes to clean up may be nobody special.
        let _ = chmod(&w.dir, &dir, 0o755);
    }
}
