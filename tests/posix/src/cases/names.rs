//! Names, links and renames.

use rustix::fs::{self, AtFlags, FileType};

use super::Plain;
use crate::sys::*;
use crate::world::World;
use crate::{step, take};

pub const ALL: &[Plain] = &[
    ("renameat2-flags", flags),
    ("rename-kinds", kinds),
    ("rename-links", same_inode),
    ("rename-open", over_open),
    ("rename-trees", trees),
    ("names-odd", odd),
    ("names-long", long),
    ("links-hard", hard_links),
    ("links-symbolic", symbolic_links),
    ("path-deep", deep),
];

const NOREPLACE: u32 = libc::RENAME_NOREPLACE;
const EXCHANGE: u32 = libc::RENAME_EXCHANGE;
const WHITEOUT: u32 = libc::RENAME_WHITEOUT;

fn flags(w: &mut World) {
    for (name, text) in [("a", "A"), ("b", "B")] {
        step!(w, file(&w.dir, name, 0o644, text.as_bytes()));
    }
    step!(w, mkdir(&w.dir, "d", 0o755));
    step!(w, file(&w.dir, "d/inside", 0o600, b"I"));
    step!(w, rename(&w.dir, "a", "b", NOREPLACE));
    step!(w, rename(&w.dir, "a", "d", NOREPLACE));
    step!(w, rename(&w.dir, "a", "new", NOREPLACE));
    step!(w, rename(&w.dir, "missing", "x", NOREPLACE));
    step!(w, list(&w.dir, "."));
    step!(w, rename(&w.dir, "new", "b", EXCHANGE));
    step!(w, content(&w.dir, "new"));
    step!(w, content(&w.dir, "b"));
    step!(w, rename(&w.dir, "new", "d", EXCHANGE));
    step!(w, stat(&w.dir, "new"));
    step!(w, content(&w.dir, "new/inside"));
    step!(w, content(&w.dir, "d"));
    step!(w, rename(&w.dir, "new", "new/inside", EXCHANGE));
    step!(w, rename(&w.dir, "new/inside", "new", EXCHANGE));
    step!(w, rename(&w.dir, "b", "missing", EXCHANGE));
    step!(w, rename(&w.dir, "missing", "b", EXCHANGE));
    step!(w, rename(&w.dir, "b", "b", EXCHANGE));
    step!(w, rename(&w.dir, "b", "b", NOREPLACE));
    step!(w, rename(&w.dir, "b", "x", NOREPLACE | EXCHANGE));
    step!(w, rename(&w.dir, "b", "x", 1 << 5));
    step!(w, rename(&w.dir, "b", "x", WHITEOUT | EXCHANGE));
    step!(w, rename(&w.dir, "b", "moved", WHITEOUT));
    step!(w, stat(&w.dir, "b"));
    step!(w, content(&w.dir, "moved"));
    step!(w, list(&w.dir, "."));
}

fn kinds(w: &mut World) {
    let make = |w: &World, name: &str, kind: usize| match kind {
        0 => drop_value(file(&w.dir, name, 0o644, b"f")),
        1 => mkdir(&w.dir, name, 0o755),
        2 => mkdir(&w.dir, name, 0o755).and_then(|()| mkdir(&w.dir, &format!("{name}/x"), 0o755)),
        3 => symlink("nowhere", &w.dir, name),
        _ => mknod(&w.dir, name, FileType::Fifo, 0o644, (0, 0)),
    };
    const KINDS: [&str; 5] = ["file", "dir", "full dir", "symlink", "fifo"];
    for (from, one) in KINDS.iter().enumerate() {
        for (to, other) in KINDS.iter().enumerate() {
            let (a, b) = (format!("a{from}{to}"), format!("b{from}{to}"));
            let made = make(w, &a, from).and_then(|()| make(w, &b, to));
            let renamed = made.and_then(|()| rename(&w.dir, &a, &b, 0));
            w.say(format!("{one} over {other}"), &renamed);
            w.say("  the one", &stat(&w.dir, &a));
            w.say("  the other", &stat(&w.dir, &b));
        }
    }
}

fn same_inode(w: &mut World) {
    step!(w, file(&w.dir, "a", 0o644, b"both"));
    step!(w, link(&w.dir, "a", "b"));
    // Nothing happens, and it succeeds.
    step!(w, rename(&w.dir, "a", "b", 0));
    step!(w, list(&w.dir, "."));
    step!(w, stat(&w.dir, "a"));
    step!(w, rename(&w.dir, "a", "a", 0));
    step!(w, rename(&w.dir, "a", "b", NOREPLACE));
    step!(w, rename(&w.dir, "a", "b", EXCHANGE));
    step!(w, unlink(&w.dir, "a"));
    step!(w, stat(&w.dir, "b"));
    step!(w, content(&w.dir, "b"));
}

fn over_open(w: &mut World) {
    let old = take!(w, file(&w.dir, "a", 0o644, b"old"));
    let new = take!(w, file(&w.dir, "b", 0o600, b"newer"));
    let (Ok(old), Ok(new)) = (old, new) else {
        return;
    };
    step!(w, rename(&w.dir, "b", "a", 0));
    step!(w, read_at(&old, 10, 0));
    step!(w, fs::fstat(&old));
    step!(w, fs::fstat(&new));
    step!(w, write_at(&new, b" and more", 5));
    step!(w, content(&w.dir, "a"));
    step!(w, stat(&w.dir, "b"));
    step!(w, write_at(&old, b"nobody sees", 0));
    step!(w, content(&w.dir, "a"));
}

fn trees(w: &mut World) {
    for name in ["t", "t/u", "t/u/v", "other"] {
        step!(w, mkdir(&w.dir, name, 0o755));
    }
    step!(w, file(&w.dir, "t/u/v/f", 0o644, b"leaf"));
    let held = take!(w, open_dir(&w.dir, "t/u/v"));
    let leaf = take!(w, open(&w.dir, "t/u/v/f", libc::O_RDWR, 0));
    step!(w, rename(&w.dir, "t", "t/u/x", 0));
    step!(w, rename(&w.dir, "t/u", "t", 0));
    step!(w, rename(&w.dir, "t/u", "other/w", 0));
    step!(w, content(&w.dir, "other/w/v/f"));
    step!(w, stat(&w.dir, "t"));
    step!(w, stat(&w.dir, "other"));
    if let (Ok(held), Ok(leaf)) = (held, leaf) {
        step!(w, content(&held, "f"));
        step!(w, write_at(&leaf, b"LEAF", 0));
        step!(w, content(&w.dir, "other/w/v/f"));
        step!(w, list(&held, ".."));
        step!(w, list(&held, "../.."));
        step!(w, rename(&w.dir, "other", "t/gone", 0));
        step!(w, list(&held, "../../.."));
        step!(w, content(&held, "../../../gone/w/v/f"));
    }
    step!(w, rmdir(&w.dir, "t"));
    step!(w, list(&w.dir, "t/gone/w"));
}

fn odd(w: &mut World) {
    for name in [
        " ", "\n", "a\nb", "...", "-rf", "\u{fffd}", "é", "e\u{301}", "*", "\\", "~", "#",
    ] {
        let made = file(&w.dir, name, 0o644, name.as_bytes());
        w.say(format!("{name:?}"), &made);
        w.say("  content", &content(&w.dir, name));
    }
    step!(
        w,
        fs::mkdirat(&w.dir, &b"\xff\xfe"[..], fs::Mode::from(0o755))
    );
    step!(w, fs::statat(&w.dir, &b"\xff\xfe"[..], AtFlags::empty()));
    step!(w, list(&w.dir, "."));
    step!(w, mkdir(&w.dir, "d", 0o755));
    for name in [
        "", ".", "..", "d/.", "d/..", "d/../d", "d//", "./d/", "f/", "f/.",
    ] {
        w.say(format!("mkdir {name:?}"), &mkdir(&w.dir, name, 0o755));
        w.say(format!("rmdir {name:?}"), &rmdir(&w.dir, name));
        w.say(format!("unlink {name:?}"), &unlink(&w.dir, name));
        w.say(
            format!("create {name:?}"),
            &open(&w.dir, name, RW_CREATE, 0o644),
        );
        w.say(format!("rename {name:?}"), &rename(&w.dir, name, "new", 0));
        w.say(format!("rename to {name:?}"), &rename(&w.dir, "e", name, 0));
        w.say(format!("symlink {name:?}"), &symlink("x", &w.dir, name));
    }
    step!(w, list(&w.dir, "."));
}

fn long(w: &mut World) {
    for len in [254, 255, 256, 1024] {
        let name = "n".repeat(len);
        w.say(format!("{len} create"), &file(&w.dir, &name, 0o644, b"x"));
        w.say(format!("{len} stat"), &stat(&w.dir, &name));
        w.say(format!("{len} mkdir"), &mkdir(&w.dir, &name, 0o755));
        w.say(
            format!("{len} link"),
            &link(&w.dir, &name, &"l".repeat(len)),
        );
        w.say(
            format!("{len} rename"),
            &rename(&w.dir, &name, &"r".repeat(len), 0),
        );
        w.say(format!("{len} unlink"), &unlink(&w.dir, &"r".repeat(len)));
        w.say(format!("{len} rmdir"), &rmdir(&w.dir, &name));
        w.say(format!("{len} symlink"), &symlink("t", &w.dir, &name));
    }
    for len in [59, 60, 1000, 4095, 4096] {
        let target = "t".repeat(len);
        w.say(
            format!("target {len}"),
            &symlink(&target, &w.dir, &format!("s{len}")),
        );
        let read = readlink(&w.dir, &format!("s{len}"));
        w.say("  read", &read.map(|t| t == target.as_bytes()));
        w.say("  stat", &stat(&w.dir, &format!("s{len}")));
    }
}

fn hard_links(w: &mut World) {
    let open_file = take!(w, file(&w.dir, "a", 0o644, b"shared"));
    for n in 0..20 {
        w.say(format!("link {n}"), &link(&w.dir, "a", &format!("l{n}")));
    }
    step!(w, stat(&w.dir, "a"));
    step!(w, stat(&w.dir, "l19"));
    for n in 0..19 {
        w.say(format!("unlink {n}"), &unlink(&w.dir, &format!("l{n}")));
    }
    step!(w, stat(&w.dir, "a"));
    step!(w, chmod(&w.dir, "l19", 0o600));
    step!(w, stat(&w.dir, "a"));
    step!(w, truncate(&w.dir, "l19", 3));
    step!(w, stat(&w.dir, "a"));
    step!(w, content(&w.dir, "a"));
    if let Ok(open_file) = open_file {
        step!(w, write_at(&open_file, b"longer than before", 0));
        step!(w, stat(&w.dir, "l19"));
    }
    step!(w, link(&w.dir, "a", "l19"));
    step!(w, link(&w.dir, "missing", "x"));
    step!(w, mkdir(&w.dir, "d", 0o755));
    step!(w, link(&w.dir, "d", "x"));
    step!(w, link(&w.dir, "a", "d"));
    step!(w, symlink("a", &w.dir, "s"));
    step!(w, link(&w.dir, "s", "s2"));
    step!(w, stat(&w.dir, "s2"));
    step!(
        w,
        fs::linkat(&w.dir, "s", &w.dir, "s3", AtFlags::SYMLINK_FOLLOW)
    );
    step!(w, stat(&w.dir, "s3"));
}

fn symbolic_links(w: &mut World) {
    step!(w, mkdir(&w.dir, "d", 0o755));
    step!(w, file(&w.dir, "d/f", 0o644, b"there"));
    for (target, name) in [
        ("d/f", "to-file"),
        ("d", "to-dir"),
        ("nowhere", "dangling"),
        ("loop", "loop"),
        ("../d/f", "d/up"),
        ("to-dir/f", "through"),
    ] {
        w.say(
            format!("{name} to {target}"),
            &symlink(target, &w.dir, name),
        );
        w.say("  itself", &stat(&w.dir, name));
        w.say("  followed", &fs::statat(&w.dir, name, AtFlags::empty()));
        w.say("  target", &readlink(&w.dir, name));
        w.say("  content", &content(&w.dir, name));
        let flags = libc::O_RDONLY | libc::O_NOFOLLOW;
        w.say("  not followed", &open(&w.dir, name, flags, 0));
        w.say(
            "  made",
            &open(&w.dir, name, RW_CREATE | libc::O_EXCL, 0o644),
        );
        w.say("  with a slash", &stat(&w.dir, &format!("{name}/")));
    }
    step!(w, symlink("", &w.dir, "empty"));
    step!(w, symlink("x", &w.dir, "loop"));
    step!(w, open(&w.dir, "dangling", RW_CREATE, 0o600));
    step!(w, stat(&w.dir, "nowhere"));
    step!(w, readlink(&w.dir, "d"));
    step!(w, readlink(&w.dir, "d/f"));
    step!(w, rmdir(&w.dir, "to-dir"));
    step!(w, unlink(&w.dir, "to-dir/"));
    step!(w, unlink(&w.dir, "to-dir"));
    step!(w, rename(&w.dir, "loop", "to-file", 0));
    step!(w, content(&w.dir, "d/f"));
    step!(w, list(&w.dir, "."));
}

fn deep(w: &mut World) {
    // A path that no call would take in one piece.
    let name = "directory-".repeat(12);
    let Ok(mut dir) = take!(w, open_dir(&w.dir, ".")) else {
        return;
    };
    let mut failed = None;
    for n in 0..60 {
        match mkdir(&dir, &name, 0o755).and_then(|()| open_dir(&dir, &name)) {
            Ok(next) => dir = next,
            Err(e) => {
                failed = Some((n, e));
                break;
            }
        }
    }
    w.say("sixty deep", &failed.map_or(Ok(()), |(_, e)| Err(e)));
    step!(w, file(&dir, "bottom", 0o644, b"far down"));
    step!(w, content(&dir, "bottom"));
    step!(w, list(&dir, ".."));
    for _ in 0..59 {
        match open_dir(&dir, "..") {
            Ok(next) => dir = next,
            Err(e) => return w.say("back up", &Err::<(), _>(e)),
        }
    }
    step!(w, list(&dir, "..").map(|names| names.len()));
}
