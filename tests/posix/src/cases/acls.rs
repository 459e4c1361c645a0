//! POSIX ACLs, as the attributes that they are to the kernel.

use rustix::fs::{self, XattrFlags};
use rustix::io::Result;

use super::Plain;
use crate::step;
use crate::sys::*;
use crate::users::{as_anne, as_bert, as_user, masked, ANNE, BERT, CHOIR, CLUB};
use crate::world::World;

pub const ALL: &[Plain] = &[
    ("acls-access", access),
    ("acls-default", default),
    ("acls-invalid", invalid),
    ("acls-mode", mode),
    ("acls-owners", owners),
];

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
const NOBODY: u32 = u32::MAX;

type Entry = (u16, u16, u32);

fn bytes(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// Owner, one user and one group by name, mask, others.
fn usual(user: (u32, u16), group: (u32, u16), mask: u16, other: u16) -> Vec<u8> {
    bytes(&[
        (USER_OBJ, 6, NOBODY),
        (USER, user.1, user.0),
        (GROUP_OBJ, 4, NOBODY),
        (GROUP, group.1, group.0),
        (MASK, mask, NOBODY),
        (OTHER, other, NOBODY),
    ])
}

fn set(w: &World, name: &str, kind: &str, acl: &[u8]) -> Result<()> {
    fs::setxattr(w.path(name), kind, acl, XattrFlags::empty())
}

fn get(w: &World, name: &str, kind: &str) -> Result<String> {
    let mut value = vec![0; 4096];
    let len = fs::getxattr(w.path(name), kind, &mut value[..])?;
    let entry = |entry: &[u8]| -> Option<String> {
        let tag = u16::from_le_bytes(entry.get(0..2)?.try_into().ok()?);
        let permissions = u16::from_le_bytes(entry.get(2..4)?.try_into().ok()?);
        let id = i32::from_le_bytes(entry.get(4..8)?.try_into().ok()?);
        Some(format!("{tag:#x}:{id}:{permissions}"))
    };
    let entries = value[..len].get(4..).unwrap_or_default().chunks(8);
    Ok(entries.filter_map(entry).collect::<Vec<_>>().join(" "))
}

fn access(w: &mut World) {
    step!(w, drop_value(file(&w.dir, "f", 0o600, b"secret")));
    step!(w, get(w, "f", ACCESS));
    step!(w, set(w, "f", ACCESS, &usual((ANNE, 6), (CHOIR, 4), 7, 0)));
    step!(w, get(w, "f", ACCESS));
    step!(w, stat(&w.dir, "f"));
    if w.root {
        for mask in [7, 4, 0] {
            let acl = usual((ANNE, 6), (CHOIR, 4), mask, 0);
            w.say(format!("mask {mask}"), &set(w, "f", ACCESS, &acl));
            w.say("  is", &stat(&w.dir, "f"));
            let dir = &w.dir;
            let doing = || (content(dir, "f"), open(dir, "f", libc::O_WRONLY, 0));
            for (who, did) in [
                ("anne", as_anne(doing)),
                ("bert", as_bert(doing)),
                ("clubber", as_user(3000, &[CLUB], doing)),
            ] {
                w.say(format!("  {who} reads"), &did.0);
                w.say(format!("  {who} writes"), &did.1);
            }
        }
        step!(
            w,
            as_anne(|| set(w, "f", ACCESS, &usual((BERT, 7), (CHOIR, 7), 7, 7)))
        );
    }
    let minimal = bytes(&[
        (USER_OBJ, 7, NOBODY),
        (GROUP_OBJ, 5, NOBODY),
        (OTHER, 1, NOBODY),
    ]);
    step!(w, set(w, "f", ACCESS, &minimal));
    step!(w, get(w, "f", ACCESS));
    step!(w, stat(&w.dir, "f"));
    step!(w, set(w, "f", ACCESS, &usual((ANNE, 6), (CHOIR, 4), 7, 0)));
    step!(w, fs::removexattr(w.path("f"), ACCESS));
    step!(w, stat(&w.dir, "f"));
    step!(w, get(w, "f", ACCESS));
    step!(w, fs::removexattr(w.path("f"), ACCESS));
    step!(w, set(w, "f", DEFAULT, &minimal));
    // An executable by ACL alone.
    step!(w, set(w, "f", ACCESS, &usual((ANNE, 1), (CHOIR, 1), 1, 0)));
    step!(w, stat(&w.dir, "f"));
}

fn mode(w: &mut World) {
    step!(w, drop_value(file(&w.dir, "f", 0o644, b"x")));
    step!(w, set(w, "f", ACCESS, &usual((ANNE, 7), (CHOIR, 5), 7, 4)));
    for mode in [0o600, 0o777, 0o640, 0o2751, 0] {
        w.say(format!("chmod {mode:o}"), &chmod(&w.dir, "f", mode));
        w.say("  has", &get(w, "f", ACCESS));
        w.say("  is", &stat(&w.dir, "f"));
    }
    step!(w, link(&w.dir, "f", "g"));
    step!(w, get(w, "g", ACCESS));
    step!(w, rename(&w.dir, "f", "h", 0));
    step!(w, get(w, "h", ACCESS));
    step!(w, chmod(&w.dir, "g", 0o640));
}

fn default(w: &mut World) {
    step!(w, mkdir(&w.dir, "d", 0o755));
    step!(w, get(w, "d", DEFAULT));
    step!(w, set(w, "d", DEFAULT, &usual((ANNE, 7), (CHOIR, 5), 7, 1)));
    step!(w, get(w, "d", DEFAULT));
    step!(w, get(w, "d", ACCESS));
    step!(w, stat(&w.dir, "d"));
    for mask in [0, 0o022, 0o077, 0o777] {
        for mode in [0o666, 0o777, 0o640, 0o600] {
            let name = |kind: &str| format!("d/{kind}-{mask:o}-{mode:o}");
            let (file_name, dir_name, fifo) = (name("file"), name("dir"), name("fifo"));
            let made = masked(mask, || {
                (
                    drop_value(file(&w.dir, &file_name, mode, b"")),
                    mkdir(&w.dir, &dir_name, mode),
                    mknod(&w.dir, &fifo, fs::FileType::Fifo, mode, (0, 0)),
                    open(&w.dir, "d", libc::O_TMPFILE | libc::O_RDWR, mode).and_then(fs::fstat),
                )
            });
            w.say(format!("{mask:o} {mode:o} file"), &made.0);
            w.say("  dir", &made.1);
            w.say("  fifo", &made.2);
            w.say("  tmpfile", &made.3);
            for name in [&file_name, &dir_name, &fifo] {
                w.say("  is", &stat(&w.dir, name));
                w.say("  has", &get(w, name, ACCESS));
            }
            w.say("  hands down", &get(w, &dir_name, DEFAULT));
        }
    }
    step!(w, symlink("t", &w.dir, "d/s"));
    step!(w, stat(&w.dir, "d/s"));
    step!(w, rename(&w.dir, "d/dir-0-777", "outside", 0));
    step!(w, get(w, "outside", DEFAULT));
    step!(w, fs::removexattr(w.path("d"), DEFAULT));
    step!(w, masked(0o022, || mkdir(&w.dir, "d/plain", 0o777)));
    step!(w, get(w, "d/plain", DEFAULT));
    step!(w, stat(&w.dir, "d/plain"));
}

fn invalid(w: &mut World) {
    step!(w, drop_value(file(&w.dir, "f", 0o644, b"x")));
    step!(w, symlink("f", &w.dir, "s"));
    let good = usual((ANNE, 7), (CHOIR, 5), 7, 4);
    let mut version = good.clone();
    version[0] = 9;
    for (word, acl) in [
        ("nothing", Vec::new()),
        ("a header", good[..4].to_vec()),
        ("cut", good[..good.len() - 3].to_vec()),
        ("another version", version),
        (
            "no mask",
            bytes(&[
                (USER_OBJ, 7, NOBODY),
                (USER, 7, ANNE),
                (GROUP_OBJ, 5, NOBODY),
                (OTHER, 1, NOBODY),
            ]),
        ),
        (
            "no owner",
            bytes(&[(GROUP_OBJ, 5, NOBODY), (OTHER, 1, NOBODY)]),
        ),
        (
            "out of order",
            bytes(&[
                (OTHER, 1, NOBODY),
                (USER_OBJ, 7, NOBODY),
                (GROUP_OBJ, 5, NOBODY),
            ]),
        ),
        (
            "too much permitted",
            bytes(&[
                (USER_OBJ, 9, NOBODY),
                (GROUP_OBJ, 5, NOBODY),
                (OTHER, 1, NOBODY),
            ]),
        ),
        (
            "an unknown tag",
            bytes(&[(USER_OBJ, 7, NOBODY), (0x40, 5, NOBODY), (OTHER, 1, NOBODY)]),
        ),
    ] {
        w.say(word, &set(w, "f", ACCESS, &acl));
        w.say("  has", &get(w, "f", ACCESS));
        w.say("  is", &stat(&w.dir, "f"));
    }
    step!(
        w,
        fs::lsetxattr(w.path("s"), ACCESS, &good, XattrFlags::empty())
    );
    let mut value = [0; 10];
    step!(w, fs::lgetxattr(w.path("s"), ACCESS, &mut value[..]));
    step!(w, set(w, "f", ACCESS, &good));
    step!(w, fs::getxattr(w.path("f"), ACCESS, &mut value[..]));
    step!(w, fs::getxattr(w.path("f"), ACCESS, &mut [0u8; 0][..]));
}

fn owners(w: &mut World) {
    if !w.root {
        return;
    }
    step!(w, drop_value(file(&w.dir, "f", 0o644, b"x")));
    for (gid, whose) in [(CLUB, "a group of theirs"), (7, "another group")] {
        step!(w, chown(&w.dir, "f", i64::from(ANNE), i64::from(gid)));
        step!(w, chmod(&w.dir, "f", 0o2755));
        let acl = usual((BERT, 7), (CHOIR, 5), 7, 4);
        w.say(whose, &as_anne(|| set(w, "f", ACCESS, &acl)));
        w.say("  is", &stat(&w.dir, "f"));
        w.say("  has", &get(w, "f", ACCESS));
        step!(w, as_bert(|| fs::removexattr(w.path("f"), ACCESS)));
        step!(w, as_bert(|| content(&w.dir, "f")));
        step!(w, as_anne(|| chmod(&w.dir, "f", 0o2750)));
        step!(w, stat(&w.dir, "f"));
        step!(w, fs::removexattr(w.path("f"), ACCESS));
    }
}
