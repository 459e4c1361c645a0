//! Users, groups and what they may; set-id bits.

use rustix::fs;

use super::Plain;
use crate::step;
use crate::sys::*;
use crate::users::{as_anne, as_bert, as_user, masked, ANNE, BERT, CHOIR, CLUB};
use crate::world::World;

pub const ALL: &[Plain] = &[
    ("owners-chmod", chmods),
    ("owners-chown", chowns),
    ("owners-groups", groups),
    ("owners-made", made),
    ("owners-set-ids", |w| set_ids(w, &[0o6777, 0o4766, 0o2775])),
    ("owners-set-ids-locking", |w| set_ids(w, &[0o2767, 0o2747])),
    ("owners-setgid-dirs", setgid_dirs),
    ("owners-sticky", sticky),
    ("owners-walk", walk),
];

/// Who can be others: these cases say nothing for a user without privileges.
fn none_here(w: &World) -> bool {
    !w.root
}

fn made(w: &mut World) {
    if none_here(w) {
        return;
    }
    step!(w, mkdir(&w.dir, "open", 0o777));
    let dir = open_dir(&w.dir, "open");
    let Ok(dir) = dir else { return };
    for (who, id, groups) in [
        ("anne", ANNE, &[CHOIR, CLUB][..]),
        ("bert", BERT, &[CHOIR]),
        ("nobody", 65_534, &[]),
    ] {
        let outcome = as_user(id, groups, || {
            let name = |kind: &str| format!("{who}-{kind}");
            (
                drop_value(file(&dir, &name("file"), 0o644, b"mine")),
                mkdir(&dir, &name("dir"), 0o755),
                symlink("t", &dir, &name("symlink")),
                mknod(&dir, &name("fifo"), fs::FileType::Fifo, 0o644, (0, 0)),
                open(&dir, ".", libc::O_TMPFILE | libc::O_RDWR, 0o600).and_then(fs::fstat),
                file(&dir, &name("none"), 0, b"written before it is closed")
                    .and_then(|f| read_at(f, 7, 0)),
                content(&dir, &name("none")),
                link(&dir, &name("file"), &name("link")),
            )
        });
        w.say(format!("{who} file"), &outcome.0);
        w.say(format!("{who} dir"), &outcome.1);
        w.say(format!("{who} symlink"), &outcome.2);
        w.say(format!("{who} fifo"), &outcome.3);
        w.say(format!("{who} tmpfile"), &outcome.4);
        w.say(format!("{who} none"), &outcome.5);
        w.say(format!("{who} none again"), &outcome.6);
        w.say(format!("{who} link"), &outcome.7);
        for kind in ["file", "dir", "symlink", "fifo", "none", "link"] {
            w.say(
                format!("{who} {kind}"),
                &stat(&dir, &format!("{who}-{kind}")),
            );
        }
    }
    // Links to what others own.
    step!(w, as_bert(|| link(&dir, "anne-file", "taken")));
    step!(w, as_bert(|| link(&dir, "anne-fifo", "taken")));
    step!(w, list(&dir, "."));
}

fn groups(w: &mut World) {
    if none_here(w) {
        return;
    }
    for (name, group) in [("choir", CHOIR), ("club", CLUB), ("roots", 0)] {
        step!(w, mkdir(&w.dir, name, 0o770));
        step!(w, chown(&w.dir, name, 0, i64::from(group)));
        let path = format!("{name}/f");
        step!(w, drop_value(file(&w.dir, &path, 0o640, name.as_bytes())));
        step!(w, chown(&w.dir, &path, 0, i64::from(group)));
        step!(w, chmod(&w.dir, &path, 0o660));
        let dir = &w.dir;
        let doing = || {
            (
                content(dir, &path),
                open(dir, &path, libc::O_RDWR, 0),
                file(
                    dir,
                    &format!("{name}/{}", rustix::process::geteuid().as_raw()),
                    0o644,
                    b"",
                ),
                mkdir(
                    dir,
                    &format!("{name}/d{}", rustix::process::geteuid().as_raw()),
                    0o755,
                ),
                list(dir, name),
                rename(dir, &path, &format!("{path}-moved"), 0),
                rename(dir, &format!("{path}-moved"), &path, 0),
                chmod(dir, &path, 0o666),
            )
        };
        for (who, did) in [("anne", as_anne(doing)), ("bert", as_bert(doing))] {
            w.say(format!("{who} reads {name}"), &did.0);
            w.say("  opens", &did.1);
            w.say("  creates", &did.2);
            w.say("  makes a directory", &did.3);
            w.say("  lists", &did.4);
            w.say("  renames", &did.5);
            w.say("  and back", &did.6);
            w.say("  changes the mode", &did.7);
        }
        for made in ["2001", "d2001", "2002", "d2002", "f"] {
            w.say(
                format!("{name}/{made}"),
                &stat(&w.dir, &format!("{name}/{made}")),
            );
        }
    }
}

fn chowns(w: &mut World) {
    for name in ["f", "g"] {
        step!(w, drop_value(file(&w.dir, name, 0o6755, b"x")));
    }
    step!(w, mkdir(&w.dir, "d", 0o2775));
    step!(w, symlink("f", &w.dir, "s"));
    step!(w, chown(&w.dir, "f", -1, -1));
    step!(w, stat(&w.dir, "f"));
    step!(w, chown(&w.dir, "f", i64::from(ANNE), i64::from(CHOIR)));
    step!(w, stat(&w.dir, "f"));
    step!(w, chown(&w.dir, "s", i64::from(BERT), -1));
    step!(w, stat(&w.dir, "s"));
    step!(w, stat(&w.dir, "f"));
    step!(w, chown(&w.dir, "d", i64::from(ANNE), i64::from(ANNE)));
    step!(w, stat(&w.dir, "d"));
    if none_here(w) {
        return;
    }
    let changes = [
        (-1, CHOIR),
        (-1, CLUB),
        (-1, BERT),
        (i64::from(ANNE), CHOIR),
        (i64::from(BERT), CHOIR),
        (0, 0),
    ];
    for (uid, gid) in changes {
        let gid = i64::from(gid);
        step!(w, chmod(&w.dir, "f", 0o6755));
        w.say(
            format!("anne {uid}:{gid}"),
            &as_anne(|| chown(&w.dir, "f", uid, gid)),
        );
        w.say("  is", &stat(&w.dir, "f"));
        w.say(
            format!("bert {uid}:{gid}"),
            &as_bert(|| chown(&w.dir, "f", uid, gid)),
        );
        w.say("  is", &stat(&w.dir, "f"));
        w.say(
            format!("anne, dir {uid}:{gid}"),
            &as_anne(|| chown(&w.dir, "d", uid, gid)),
        );
        w.say("  is", &stat(&w.dir, "d"));
    }
    step!(w, chown(&w.dir, "g", (1 << 31) + 5, (1 << 32) - 2));
    step!(w, stat(&w.dir, "g"));
}

fn chmods(w: &mut World) {
    step!(w, drop_value(file(&w.dir, "f", 0o644, b"x")));
    step!(w, mkdir(&w.dir, "d", 0o755));
    for mode in [0o7777, 0o4711, 0o2600, 0o2610, 0o1644, 0, 0o644] {
        for name in ["f", "d"] {
            w.say(format!("{name} {mode:o}"), &chmod(&w.dir, name, mode));
            w.say("  is", &stat(&w.dir, name));
        }
        if w.root {
            for (gid, whose) in [(CHOIR, "a group of theirs"), (5, "another group")] {
                let ids = (i64::from(ANNE), i64::from(gid));
                w.say(whose, &chown(&w.dir, "f", ids.0, ids.1));
                w.say("  anne", &as_anne(|| chmod(&w.dir, "f", mode)));
                w.say("  is", &stat(&w.dir, "f"));
                w.say("  bert", &as_bert(|| chmod(&w.dir, "f", 0o777)));
            }
        }
    }
}

/// Without permission to execute for the group, the set-group-id bit once was about
/// locks, and is treated in another way.
fn set_ids(w: &mut World, modes: &[u32]) {
    let change = |dir: &std::os::fd::OwnedFd, how: usize| match how {
        0 => open(dir, "f", libc::O_WRONLY, 0)
            .and_then(|fd| write_at(fd, b"w", 0))
            .map(drop),
        1 => truncate(dir, "f", 1),
        2 => drop_value(open(dir, "f", libc::O_WRONLY | libc::O_TRUNC, 0)),
        3 => open(dir, "f", libc::O_WRONLY | libc::O_APPEND, 0)
            .and_then(|fd| rustix::io::write(fd, b"a"))
            .map(drop),
        4 => open(dir, "f", libc::O_RDWR, 0)
            .and_then(|fd| fs::fallocate(fd, fs::FallocateFlags::empty(), 0, 100)),
        5 => drop_value(open(dir, "f", libc::O_WRONLY, 0)),
        6 => open(dir, "f", libc::O_RDWR, 0)
            .and_then(|fd| fs::copy_file_range(&fd, Some(&mut 0), &fd, Some(&mut 10), 2))
            .map(drop),
        _ => Ok(()),
    };
    const HOW: [&str; 8] = [
        "write",
        "truncate",
        "open to truncate",
        "append",
        "fallocate",
        "open",
        "copy",
        "rename",
    ];
    for &mode in modes {
        for (how, word) in HOW.iter().enumerate() {
            for who in ["self", "anne", "bert"] {
                let _ = unlink(&w.dir, "f");
                let _ = drop_value(file(&w.dir, "f", 0o600, b"content"));
                if w.root {
                    let _ = chown(&w.dir, "f", i64::from(ANNE), i64::from(CLUB));
                }
                let _ = chmod(&w.dir, "f", mode);
                let dir = &w.dir;
                let done = match who {
                    "self" => change(dir, how),
                    _ if !w.root => continue,
                    "anne" => as_anne(|| change(dir, how)),
                    _ => as_bert(|| change(dir, how)),
                };
                w.say(format!("{mode:o} {word} by {who}"), &done);
                w.say("  is", &stat(&w.dir, "f"));
            }
        }
    }
}

fn setgid_dirs(w: &mut World) {
    step!(w, mkdir(&w.dir, "d", 0o777));
    if w.root {
        step!(w, chown(&w.dir, "d", 0, i64::from(CHOIR)));
    }
    step!(w, chmod(&w.dir, "d", 0o2777));
    let make = |dir: &std::os::fd::OwnedFd, who: &str| {
        let name = |kind: &str| format!("d/{who}-{kind}");
        let _ = file(dir, &name("file"), 0o644, b"");
        let _ = file(dir, &name("runs"), 0o2755, b"");
        let _ = file(dir, &name("locks"), 0o2644, b"");
        let _ = mkdir(dir, &name("dir"), 0o755);
        let _ = symlink("t", dir, &name("symlink"));
        let _ = mknod(dir, &name("fifo"), fs::FileType::Fifo, 0o2755, (0, 0));
        let flags = libc::O_TMPFILE | libc::O_RDWR;
        open(dir, "d", flags, 0o2755).and_then(fs::fstat)
    };
    let mut whom = vec![("self", make(&w.dir, "self"))];
    if w.root {
        let dir = &w.dir;
        whom.push(("anne", as_anne(|| make(dir, "anne"))));
        whom.push(("nobody", as_user(65_534, &[], || make(dir, "nobody"))));
    }
    for (who, tmpfile) in whom {
        w.say(format!("{who} tmpfile"), &tmpfile);
        for kind in ["file", "runs", "locks", "dir", "symlink", "fifo"] {
            w.say(
                format!("{who} {kind}"),
                &stat(&w.dir, &format!("d/{who}-{kind}")),
            );
        }
    }
    step!(w, masked(0o027, || mkdir(&w.dir, "d/masked", 0o777)));
    step!(w, stat(&w.dir, "d/masked"));
}

fn sticky(w: &mut World) {
    step!(w, mkdir(&w.dir, "tmp", 0o777));
    step!(w, chmod(&w.dir, "tmp", 0o1777));
    if none_here(w) {
        return;
    }
    let dir = &w.dir;
    let a = as_anne(|| {
        (
            file(dir, "tmp/anne", 0o666, b"a"),
            mkdir(dir, "tmp/annes", 0o777),
        )
    });
    w.say("anne makes", &a.0);
    let dir = &w.dir;
    let b = as_bert(|| {
        (
            unlink(dir, "tmp/anne"),
            rename(dir, "tmp/anne", "tmp/x", 0),
            rmdir(dir, "tmp/annes"),
            drop_value(file(dir, "tmp/bert", 0o600, b"b")),
            rename(dir, "tmp/bert", "tmp/anne", 0),
            rename(dir, "tmp/bert", "tmp/anne", libc::RENAME_EXCHANGE),
            // Sticky directories protect what others would write by mistake.
            drop_value(open(dir, "tmp/anne", libc::O_CREAT | libc::O_WRONLY, 0o600)),
            drop_value(open(dir, "tmp/anne", libc::O_WRONLY, 0)),
        )
    });
    w.say("unlink", &b.0);
    w.say("rename", &b.1);
    w.say("rmdir", &b.2);
    w.say("create", &b.3);
    w.say("rename over", &b.4);
    w.say("exchange", &b.5);
    w.say("open to create", &b.6);
    w.say("open", &b.7);
    step!(w, as_anne(|| unlink(&w.dir, "tmp/bert")));
    step!(w, as_anne(|| rename(&w.dir, "tmp/anne", "tmp/mine", 0)));
    step!(w, chown(&w.dir, "tmp", i64::from(BERT), 0));
    step!(w, as_bert(|| unlink(&w.dir, "tmp/mine")));
    step!(w, list(&w.dir, "tmp"));
    // Links in it are followed by their owners only.
    step!(w, drop_value(file(&w.dir, "tmp/target", 0o666, b"t")));
    step!(w, as_anne(|| symlink("target", &w.dir, "tmp/annes-link")));
    step!(
        w,
        as_user(65_534, &[], || content(&w.dir, "tmp/annes-link"))
    );
    step!(w, as_anne(|| content(&w.dir, "tmp/annes-link")));
}

fn walk(w: &mut World) {
    for name in ["a", "a/b", "a/b/c"] {
        step!(w, mkdir(&w.dir, name, 0o755));
    }
    step!(w, drop_value(file(&w.dir, "a/b/c/f", 0o644, b"deep")));
    let held = open(&w.dir, "a/b/c/f", libc::O_RDONLY, 0);
    for mode in [0o755, 0o744, 0o711, 0o700, 0o000] {
        step!(w, chmod(&w.dir, "a/b", mode));
        w.say(format!("{mode:o} by oneself"), &content(&w.dir, "a/b/c/f"));
        w.say("  list", &list(&w.dir, "a/b"));
        w.say("  stat", &stat(&w.dir, "a/b/c"));
        if w.root {
            let dir = &w.dir;
            let seen = as_anne(|| {
                (
                    content(dir, "a/b/c/f"),
                    list(dir, "a/b"),
                    stat(dir, "a/b/c"),
                    stat(dir, "a/b"),
                    mkdir(dir, "a/b/new", 0o755),
                )
            });
            w.say("  anne reads", &seen.0);
            w.say("  lists", &seen.1);
            w.say("  looks in", &seen.2);
            w.say("  looks at", &seen.3);
            w.say("  makes", &seen.4);
        }
    }
    if let Ok(held) = held {
        step!(w, read_at(&held, 10, 0));
    }
    step!(w, chmod(&w.dir, "a/b", 0o755));
}
