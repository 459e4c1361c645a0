//! Extended attributes.

use std::path::PathBuf;

use rustix::fs::{self, XattrFlags};
use rustix::io::Result;

use super::Plain;
use crate::sys::*;
use crate::users::{as_anne, as_bert, ANNE};
use crate::world::World;
use crate::{step, take};

pub const ALL: &[Plain] = &[
    ("xattrs-capability", capability),
    ("xattrs-flags", flags),
    ("xattrs-kinds", kinds),
    ("xattrs-sizes", sizes),
    ("xattrs-users", users),
];

fn get(path: PathBuf, name: &str) -> Result<Vec<u8>> {
    let mut value = vec![0; 65_536];
    let len = fs::lgetxattr(path, name, &mut value[..])?;
    value.truncate(len);
    Ok(value)
}

fn names(path: PathBuf) -> Result<Vec<String>> {
    let mut list = vec![0; 65_536];
    let len = fs::llistxattr(path, &mut list[..])?;
    let mut names: Vec<_> = list[..len]
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect();
    names.sort();
    Ok(names)
}

fn kinds(w: &mut World) {
    step!(w, drop_value(file(&w.dir, "file", 0o644, b"x")));
    step!(w, mkdir(&w.dir, "dir", 0o755));
    step!(w, symlink("file", &w.dir, "symlink"));
    step!(w, mknod(&w.dir, "fifo", fs::FileType::Fifo, 0o644, (0, 0)));
    for what in ["file", "dir", "symlink", "fifo", "missing"] {
        for name in [
            "user.a",
            "trusted.a",
            "security.a",
            "system.a",
            "other.a",
            "user.",
            "user",
            "",
            "btrfs.x",
        ] {
            if what == "missing" && name.is_empty() {
                // Which of two errors is found first, Linux 6.13 has changed.
                continue;
            }
            let path = || w.path(what);
            let set = fs::lsetxattr(path(), name, b"value", XattrFlags::empty());
            let (got, listed) = (get(path(), name), names(path()));
            let removed = fs::lremovexattr(path(), name);
            let after = get(path(), name);
            w.say(format!("{what} {name:?}"), &set);
            w.say("  has", &got);
            w.say("  lists", &listed);
            w.say("  removed", &removed);
            w.say("  has", &after);
        }
    }
    // Through the link.
    step!(
        w,
        fs::setxattr(w.path("symlink"), "user.through", b"v", XattrFlags::empty())
    );
    step!(w, get(w.path("file"), "user.through"));
    step!(w, link(&w.dir, "file", "linked"));
    step!(w, get(w.path("linked"), "user.through"));
    step!(w, rename(&w.dir, "file", "renamed", 0));
    step!(w, names(w.path("renamed")));
}

fn flags(w: &mut World) {
    let Ok(fd) = take!(w, file(&w.dir, "f", 0o644, b"x")) else {
        return;
    };
    let (create, replace) = (XattrFlags::CREATE, XattrFlags::REPLACE);
    step!(w, fs::fsetxattr(&fd, "user.a", b"1", replace));
    step!(w, fs::fsetxattr(&fd, "user.a", b"1", create));
    step!(w, fs::fsetxattr(&fd, "user.a", b"2", create));
    step!(w, fs::fsetxattr(&fd, "user.a", b"3", replace));
    step!(w, fs::fsetxattr(&fd, "user.a", b"4", create | replace));
    step!(
        w,
        fs::fsetxattr(&fd, "user.a", b"5", XattrFlags::from_bits_retain(8))
    );
    step!(w, get(w.path("f"), "user.a"));
    step!(w, fs::fremovexattr(&fd, "user.missing"));
    let path_only = open(&w.dir, "f", libc::O_PATH, 0);
    step!(
        w,
        path_only.and_then(|fd| fs::fsetxattr(fd, "user.a", b"6", XattrFlags::empty()))
    );
    for n in 0..12 {
        let set = fs::fsetxattr(&fd, format!("user.n{n}"), &[n; 20], XattrFlags::empty());
        w.say(format!("attribute {n}"), &set);
    }
    step!(w, names(w.path("f")));
}

fn sizes(w: &mut World) {
    let Ok(fd) = take!(w, file(&w.dir, "f", 0o644, b"x")) else {
        return;
    };
    for len in [0, 1, 255, 1000, 3000, 70_000] {
        let value = vec![b'v'; len];
        let set = fs::fsetxattr(&fd, "user.a", &value, XattrFlags::empty());
        w.say(format!("{len} bytes"), &set);
        w.say("  has", &get(w.path("f"), "user.a"));
        for room in [0, 1, len.saturating_sub(1), len, len + 1] {
            let mut value = vec![0; room];
            let got = fs::fgetxattr(&fd, "user.a", &mut value[..]);
            w.say(format!("  into {room}"), &got);
        }
    }
    for len in [1, 200, 249, 250, 251, 300] {
        let name = format!("user.{}", "n".repeat(len));
        let set = fs::fsetxattr(&fd, name.as_str(), b"", XattrFlags::empty());
        w.say(format!("name of {len}"), &set);
        w.say("  has", &get(w.path("f"), &name));
    }
    let mut none = [0; 0];
    let mut few = [0; 5];
    let listed = fs::flistxattr(&fd, &mut few[..]);
    w.say("list into 5", &listed);
    let listed = fs::flistxattr(&fd, &mut none[..]);
    w.say("list into 0", &listed);
}

fn users(w: &mut World) {
    if !w.root {
        return;
    }
    step!(w, drop_value(file(&w.dir, "f", 0o644, b"x")));
    step!(w, mkdir(&w.dir, "sticky", 0o1777));
    step!(w, chmod(&w.dir, "sticky", 0o1777));
    step!(w, chown(&w.dir, "f", i64::from(ANNE), 0));
    for name in ["user.a", "trusted.a", "security.a"] {
        for what in ["f", "sticky"] {
            let doing = || {
                (
                    fs::setxattr(w.path(what), name, b"v", XattrFlags::empty()),
                    get(w.path(what), name),
                    names(w.path(what)),
                    fs::removexattr(w.path(what), name),
                )
            };
            let doings = [
                ("anne", as_anne(doing)),
                ("bert", as_bert(doing)),
                ("root", doing()),
            ];
            for (who, did) in doings {
                w.say(format!("{who} {what} {name}"), &did.0);
                w.say("  has", &did.1);
                w.say("  lists", &did.2);
                w.say("  removed", &did.3);
            }
        }
    }
    step!(
        w,
        fs::setxattr(w.path("f"), "trusted.a", b"v", XattrFlags::empty())
    );
    step!(
        w,
        fs::setxattr(w.path("f"), "user.a", b"v", XattrFlags::empty())
    );
    step!(w, as_anne(|| names(w.path("f"))));
    step!(w, as_anne(|| get(w.path("f"), "trusted.a")));
    step!(w, chmod(&w.dir, "f", 0o600));
    step!(w, as_bert(|| get(w.path("f"), "user.a")));
    step!(w, as_bert(|| names(w.path("f"))));
}

fn capability(w: &mut World) {
    if !w.root {
        return;
    }
    // CAP_NET_RAW, permitted and effective; revision 2.
    let value: Vec<u8> = [0x0200_0001u32, 1 << 13, 0, 0, 0]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    let name = "security.capability";
    type Doing = fn(&World) -> Result<()>;
    let doings: [(&str, Doing); 8] = [
        ("nothing", |_| Ok(())),
        ("chmod", |w| chmod(&w.dir, "f", 0o700)),
        ("rename", |w| {
            rename(&w.dir, "f", "g", 0).and_then(|()| rename(&w.dir, "g", "f", 0))
        }),
        ("write", |w| {
            open(&w.dir, "f", libc::O_WRONLY, 0)
                .and_then(|fd| write_at(fd, b"y", 0))
                .map(drop)
        }),
        ("truncate", |w| truncate(&w.dir, "f", 0)),
        ("open to truncate", |w| {
            drop_value(open(&w.dir, "f", libc::O_WRONLY | libc::O_TRUNC, 0))
        }),
        ("chown", |w| chown(&w.dir, "f", i64::from(ANNE), -1)),
        ("fallocate", |w| {
            open(&w.dir, "f", libc::O_WRONLY, 0)
                .and_then(|fd| fs::fallocate(fd, fs::FallocateFlags::empty(), 0, 9))
        }),
    ];
    step!(w, drop_value(file(&w.dir, "f", 0o755, b"program")));
    for (word, doing) in doings {
        step!(
            w,
            fs::setxattr(w.path("f"), name, &value, XattrFlags::empty())
        );
        w.say(word, &doing(w));
        w.say("  has", &get(w.path("f"), name));
    }
    step!(
        w,
        fs::setxattr(w.path("f"), name, b"nonsense", XattrFlags::empty())
    );
    step!(
        w,
        as_anne(|| fs::setxattr(w.path("f"), name, &value, XattrFlags::empty()))
    );
}
