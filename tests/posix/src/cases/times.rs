//! Times: set, kept, and moved by what is done.

use rustix::fs::{self, AtFlags, Stat, StatxFlags, Timespec, Timestamps};

use super::Plain;
use crate::sys::*;
use crate::users::{as_anne, as_bert, ANNE};
use crate::world::World;
use crate::{step, take};

pub const ALL: &[Plain] = &[
    ("times-birth", birth),
    ("times-far", far),
    ("times-moved", moved),
    ("times-set", set),
    ("times-set-by-others", by_others),
    ("times-written", written),
];

fn times(a: (i64, i64), m: (i64, i64)) -> Timestamps {
    let time = |(tv_sec, tv_nsec)| Timespec { tv_sec, tv_nsec };
    Timestamps {
        last_access: time(a),
        last_modification: time(m),
    }
}

fn shown(stat: &Stat) -> String {
    let (a, m) = (stat.st_atime, stat.st_mtime);
    format!(
        "{a}.{:09} {m}.{:09}",
        stat.st_atime_nsec, stat.st_mtime_nsec
    )
}

fn set(w: &mut World) {
    step!(w, drop_value(file(&w.dir, "f", 0o644, b"x")));
    step!(w, mkdir(&w.dir, "d", 0o755));
    step!(w, symlink("f", &w.dir, "s"));
    step!(w, mknod(&w.dir, "p", fs::FileType::Fifo, 0o644, (0, 0)));
    let values = [
        ((1, 2), (3, 4)),
        ((1_700_000_000, 999_999_999), (1_600_000_000, 1)),
        ((-5, 0), (-1_000_000, 500)),
        ((i64::from(i32::MAX), 0), (i64::from(i32::MAX) + 1, 0)),
        ((1 << 33, 7), (0, 0)),
        ((5, 1_000_000_000), (5, 0)),
        ((5, -1), (5, 0)),
        ((9, 9), (0, libc::UTIME_OMIT)),
        ((0, libc::UTIME_OMIT), (8, 8)),
        ((0, libc::UTIME_OMIT), (0, libc::UTIME_OMIT)),
    ];
    for name in ["f", "d", "s", "p"] {
        for (a, m) in values {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            let done = fs::utimensat(&w.dir, name, &times(a, m), flags);
            w.say(format!("{name} {a:?} {m:?}"), &done);
            w.say("  is", &stat(&w.dir, name).map(|s| shown(&s)));
        }
        let now = (0, libc::UTIME_NOW);
        let done = fs::utimensat(
            &w.dir,
            name,
            &times((44, 0), now),
            AtFlags::SYMLINK_NOFOLLOW,
        );
        w.say(format!("{name} now"), &done);
        let set = stat(&w.dir, name);
        w.say(
            "  is",
            &set.map(|s| (s.st_atime, s.st_mtime > 1_700_000_000))
                .map(|t| format!("{t:?}")),
        );
    }
    let Ok(fd) = take!(w, open(&w.dir, "f", libc::O_RDONLY, 0)) else {
        return;
    };
    step!(w, fs::futimens(&fd, &times((11, 0), (12, 0))));
    step!(w, fs::fstat(&fd).map(|s| shown(&s)));
    step!(w, stat(&w.dir, "f").map(|s| shown(&s)));
    step!(
        w,
        fs::utimensat(&w.dir, "s", &times((13, 0), (14, 0)), AtFlags::empty())
    );
    step!(w, stat(&w.dir, "f").map(|s| shown(&s)));
}

fn far(w: &mut World) {
    // Beyond what the disk's format has room for.
    step!(w, drop_value(file(&w.dir, "f", 0o644, b"x")));
    let done = fs::utimensat(&w.dir, "f", &times((0, 0), (1 << 40, 0)), AtFlags::empty());
    w.say("far", &done);
    step!(w, stat(&w.dir, "f").map(|s| shown(&s)));
}

fn by_others(w: &mut World) {
    if !w.root {
        return;
    }
    step!(w, drop_value(file(&w.dir, "f", 0o666, b"x")));
    step!(w, chown(&w.dir, "f", i64::from(ANNE), 0));
    step!(w, chmod(&w.dir, "f", 0o464));
    let dir = &w.dir;
    let now = (0, libc::UTIME_NOW);
    let attempts = [
        ("given", (5, 0), (6, 0)),
        ("now", now, now),
        ("mixed", (0, libc::UTIME_OMIT), now),
    ];
    let attempt =
        || attempts.map(|(_, a, m)| fs::utimensat(dir, "f", &times(a, m), AtFlags::empty()));
    let (anne, bert) = (as_anne(attempt), as_bert(attempt));
    for (n, (word, _, _)) in attempts.iter().enumerate() {
        w.say(format!("anne {word}"), &anne[n]);
        w.say(format!("bert {word}"), &bert[n]);
    }
    step!(w, chmod(&w.dir, "f", 0o666));
    let bert = as_bert(|| {
        attempts.map(|(_, a, m)| fs::utimensat(&w.dir, "f", &times(a, m), AtFlags::empty()))
    });
    for (n, (word, _, _)) in attempts.iter().enumerate() {
        w.say(format!("bert, who may write, {word}"), &bert[n]);
    }
    let noatime = as_bert(|| open(&w.dir, "f", libc::O_RDONLY | libc::O_NOATIME, 0));
    w.say("bert O_NOATIME", &noatime);
    step!(
        w,
        as_anne(|| open(&w.dir, "f", libc::O_RDONLY | libc::O_NOATIME, 0))
    );
}

/// Which times have moved.
fn difference(before: &Stat, after: &Stat) -> String {
    let later = |a: (i64, u64), b: (i64, u64)| match a.cmp(&b) {
        std::cmp::Ordering::Less => "later",
        std::cmp::Ordering::Equal => "same",
        std::cmp::Ordering::Greater => "earlier",
    };
    let m = |s: &Stat| (s.st_mtime, s.st_mtime_nsec);
    let c = |s: &Stat| (s.st_ctime, s.st_ctime_nsec);
    format!(
        "mtime {}, ctime {}",
        later(m(before), m(after)),
        later(c(before), c(after))
    )
}

fn moved(w: &mut World) {
    step!(w, drop_value(file(&w.dir, "f", 0o644, b"content")));
    step!(w, mkdir(&w.dir, "d", 0o755));
    type Doing = fn(&World) -> rustix::io::Result<()>;
    let doings: [(&str, Doing); 17] = [
        ("write", |w| {
            open(&w.dir, "f", libc::O_WRONLY, 0)
                .and_then(|fd| write_at(fd, b"x", 0))
                .map(drop)
        }),
        ("read", |w| content(&w.dir, "f").map(drop)),
        ("truncate", |w| truncate(&w.dir, "f", 3)),
        ("truncate to the same", |w| truncate(&w.dir, "f", 3)),
        ("open to truncate", |w| {
            drop_value(open(&w.dir, "f", libc::O_WRONLY | libc::O_TRUNC, 0))
        }),
        ("truncated again", |w| {
            drop_value(open(&w.dir, "f", libc::O_WRONLY | libc::O_TRUNC, 0))
        }),
        ("chmod", |w| chmod(&w.dir, "f", 0o600)),
        ("chmod to the same", |w| chmod(&w.dir, "f", 0o600)),
        ("chown", |w| chown(&w.dir, "f", -1, -1)),
        ("link", |w| link(&w.dir, "f", "l")),
        ("unlink of the other", |w| unlink(&w.dir, "l")),
        ("rename", |w| rename(&w.dir, "f", "g", 0)),
        ("rename back", |w| rename(&w.dir, "g", "f", 0)),
        ("xattr", |w| {
            fs::setxattr(w.path("f"), "user.x", b"y", fs::XattrFlags::empty())
        }),
        ("fallocate", |w| {
            open(&w.dir, "f", libc::O_WRONLY, 0)
                .and_then(|fd| fs::fallocate(fd, fs::FallocateFlags::empty(), 0, 9))
        }),
        ("empty write", |w| {
            open(&w.dir, "f", libc::O_WRONLY, 0)
                .and_then(|fd| rustix::io::write(fd, b""))
                .map(drop)
        }),
        ("entry", |w| drop_value(file(&w.dir, "d/new", 0o644, b""))),
    ];
    for (word, doing) in doings {
        let before = (stat(&w.dir, "f"), stat(&w.dir, "d"), stat(&w.dir, "."));
        w.tick();
        w.say(word, &doing(w));
        let after = (stat(&w.dir, "f"), stat(&w.dir, "d"), stat(&w.dir, "."));
        for (what, before, after) in [
            ("f", before.0, after.0),
            ("d", before.1, after.1),
            (".", before.2, after.2),
        ] {
            if let (Ok(before), Ok(after)) = (before, after) {
                w.say(format!("  {what}"), &difference(&before, &after));
            }
        }
    }
}

fn written(w: &mut World) {
    // What is set stays, also when written data follows later.
    let Ok(fd) = take!(w, file(&w.dir, "f", 0o644, b"")) else {
        return;
    };
    step!(w, write_at(&fd, b"some data", 0));
    step!(w, fs::futimens(&fd, &times((100, 1), (200, 2))));
    step!(w, stat(&w.dir, "f").map(|s| shown(&s)));
    step!(w, fs::fsync(&fd));
    step!(w, stat(&w.dir, "f").map(|s| shown(&s)));
    drop(fd);
    w.tick();
    step!(w, stat(&w.dir, "f").map(|s| shown(&s)));
    step!(w, chmod(&w.dir, "f", 0o600));
    step!(w, stat(&w.dir, "f").map(|s| shown(&s)));
    step!(w, rename(&w.dir, "f", "g", 0));
    step!(w, stat(&w.dir, "g").map(|s| shown(&s)));
    step!(w, content(&w.dir, "g"));
    step!(w, stat(&w.dir, "g").map(|s| s.st_mtime));
    // And what is written later counts again.
    step!(
        w,
        open(&w.dir, "g", libc::O_WRONLY, 0).and_then(|fd| write_at(fd, b"X", 0))
    );
    step!(w, stat(&w.dir, "g").map(|s| s.st_mtime > 1_000_000));
}

fn birth(w: &mut World) {
    let of = |w: &World, name: &str| {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        fs::statx(
            &w.dir,
            name,
            flags,
            StatxFlags::BTIME | StatxFlags::BASIC_STATS,
        )
        .map(|s| {
            let known = s.stx_mask & StatxFlags::BTIME.bits() != 0;
            (known, s.stx_btime.tv_sec, s.stx_btime.tv_nsec)
        })
    };
    step!(w, drop_value(file(&w.dir, "f", 0o644, b"x")));
    step!(w, mkdir(&w.dir, "d", 0o755));
    step!(w, symlink("f", &w.dir, "s"));
    for name in ["f", "d", "s"] {
        let before = of(w, name);
        w.say(
            format!("{name} has one"),
            &before.map(|b| b.0 && b.1 > 1_700_000_000),
        );
        w.tick();
        let _ = chmod(&w.dir, name, 0o700);
        let _ = fs::utimensat(
            &w.dir,
            name,
            &times((1, 0), (2, 0)),
            AtFlags::SYMLINK_NOFOLLOW,
        );
        w.say("  and keeps it", &(before == of(w, name)));
        let moved = format!("{name}-moved");
        let _ = rename(&w.dir, name, &moved, 0);
        w.say("  renamed", &(before == of(w, &moved)));
    }
}
