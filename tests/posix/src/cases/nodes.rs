//! Objects that are neither files nor directories.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::fs::{self, FileType};

use super::Plain;
use crate::sys::*;
use crate::users::as_anne;
use crate::world::World;
use crate::{step, take};

pub const ALL: &[Plain] = &[
    ("nodes-made", made),
    ("nodes-fifo", fifo),
    ("nodes-socket", socket),
    ("nodes-device", device),
];

fn made(w: &mut World) {
    let kinds = [
        ("file", FileType::RegularFile),
        ("fifo", FileType::Fifo),
        ("socket", FileType::Socket),
        ("char", FileType::CharacterDevice),
        ("block", FileType::BlockDevice),
        ("dir", FileType::Directory),
        ("symlink", FileType::Symlink),
    ];
    for (name, kind) in kinds {
        for (mode, dev) in [(0o644, (1, 3)), (0o7777, (259, 70_000)), (0, (0, 0))] {
            let name = format!("{name}{mode:o}");
            w.say(
                format!("mknod {name}"),
                &mknod(&w.dir, &name, kind, mode, dev),
            );
            w.say("  is", &stat(&w.dir, &name));
            w.say(
                "  opened",
                &open(&w.dir, &name, libc::O_RDONLY | libc::O_NONBLOCK, 0),
            );
            w.say("  again", &mknod(&w.dir, &name, kind, mode, dev));
            w.say("  mode", &chmod(&w.dir, &name, 0o600));
            w.say("  linked", &link(&w.dir, &name, &format!("{name}-l")));
            w.say("  renamed", &rename(&w.dir, &name, &format!("{name}-r"), 0));
            w.say("  is", &stat(&w.dir, &format!("{name}-l")));
        }
    }
    step!(w, list(&w.dir, "."));
}

fn fifo(w: &mut World) {
    step!(w, mknod(&w.dir, "p", FileType::Fifo, 0o622, (0, 0)));
    let alone = libc::O_WRONLY | libc::O_NONBLOCK;
    step!(w, open(&w.dir, "p", alone, 0));
    let Ok(reader) = take!(w, open(&w.dir, "p", libc::O_RDONLY | libc::O_NONBLOCK, 0)) else {
        return;
    };
    let Ok(writer) = take!(w, open(&w.dir, "p", alone, 0)) else {
        return;
    };
    step!(w, rustix::io::write(&writer, b"through the pipe"));
    let mut got = [0; 32];
    step!(w, rustix::io::read(&reader, &mut got[..]));
    step!(w, got[..16].to_vec());
    step!(w, rustix::io::read(&reader, &mut got[..]));
    step!(w, fs::ftruncate(&writer, 0));
    step!(w, fs::seek(&writer, fs::SeekFrom::Start(0)));
    step!(w, unlink(&w.dir, "p"));
    step!(w, rustix::io::write(&writer, b"still"));
    step!(w, rustix::io::read(&reader, &mut got[..]));
    step!(w, fs::fstat(&reader));
}

fn socket(w: &mut World) {
    // Names of sockets are short, paths of cases may be long.
    let name = proc_link(&w.dir).join("s");
    let listener = match UnixListener::bind(&name) {
        Ok(listener) => listener,
        Err(e) => return w.say("bind", &e.to_string()),
    };
    step!(
        w,
        stat(&w.dir, "s").map(|s| s.st_mode & libc::S_IFMT == libc::S_IFSOCK)
    );
    let talk = UnixStream::connect(&name).and_then(|mut near| {
        let (mut far, _) = listener.accept()?;
        near.write_all(b"hello")?;
        let mut got = [0; 5];
        far.read_exact(&mut got)?;
        Ok(String::from_utf8_lossy(&got).into_owned())
    });
    w.say("talk", &talk.unwrap_or_else(|e| e.to_string()));
    step!(
        w,
        UnixListener::bind(&name)
            .map(drop)
            .map_err(|e| e.kind())
            .is_err()
    );
    step!(w, open(&w.dir, "s", libc::O_RDWR, 0));
    step!(w, rename(&w.dir, "s", "moved", 0));
    let moved = proc_link(&w.dir).join("moved");
    w.say("connect", &UnixStream::connect(moved).is_ok());
    w.say(
        "connect to the old name",
        &UnixStream::connect(&name).is_ok(),
    );
}

fn device(w: &mut World) {
    if !w.root {
        return;
    }
    step!(
        w,
        mknod(&w.dir, "null", FileType::CharacterDevice, 0o666, (1, 3))
    );
    step!(
        w,
        mknod(&w.dir, "zero", FileType::CharacterDevice, 0o600, (1, 5))
    );
    step!(
        w,
        mknod(&w.dir, "none", FileType::CharacterDevice, 0o666, (250, 77))
    );
    if let Ok(null) = take!(w, open(&w.dir, "null", libc::O_RDWR, 0)) {
        step!(w, rustix::io::write(&null, b"away"));
        step!(w, fs::fstat(&null));
    }
    step!(w, content(&w.dir, "null"));
    step!(
        w,
        open(&w.dir, "zero", libc::O_RDONLY, 0).and_then(|zero| {
            let mut byte = [7];
            rustix::io::read(zero, &mut byte[..]).map(|_| byte.to_vec())
        })
    );
    step!(w, open(&w.dir, "none", libc::O_RDONLY, 0));
    step!(w, as_anne(|| open(&w.dir, "null", libc::O_RDONLY, 0)));
    step!(w, as_anne(|| open(&w.dir, "zero", libc::O_RDONLY, 0)));
    step!(
        w,
        as_anne(|| mknod(&w.dir, "mine", FileType::CharacterDevice, 0o666, (1, 3)))
    );
}
