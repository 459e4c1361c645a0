//! Directories: listing them, while they change; many names.

use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::{self, RawDir, SeekFrom};

use super::Plain;
use crate::sys::*;
use crate::world::World;
use crate::{step, take};

pub const ALL: &[Plain] = &[
    ("dirs-big", big),
    ("dirs-changing", changing),
    ("dirs-links", links),
    ("dirs-making-together", making_together),
    ("dirs-positions", positions),
    ("dirs-removal", removal),
    ("dirs-rewound", rewound),
    ("dirs-small-buffers", small_buffers),
];

/// Up to `most` entries from where `dir` is: names and the positions behind them.
/// `room`: what one system call may fill, in bytes.
fn entries(dir: &OwnedFd, most: usize, room: usize) -> rustix::io::Result<Vec<(String, u64)>> {
    let mut buf = vec![MaybeUninit::uninit(); room];
    let mut all = Vec::new();
    let mut raw = RawDir::new(dir, &mut buf[..]);
    while let Some(entry) = raw.next() {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        all.push((name, entry.next_entry_cookie()));
        if all.len() >= most && raw.is_buffer_empty() {
            break;
        }
    }
    Ok(all)
}

fn fill(w: &mut World, count: usize) {
    let made = (0..count)
        .map(|n| file(&w.dir, &format!("file-{n:05}"), 0o644, b""))
        .filter(Result::is_ok)
        .count();
    w.say(format!("make {count}"), &made);
}

fn big(w: &mut World) {
    const COUNT: usize = 3000;
    fill(w, COUNT);
    let Ok(names) = list(&w.dir, ".") else { return };
    w.say("names", &names.len());
    w.say(
        "all of them",
        &crate::record::hash(names.concat().as_bytes()),
    );
    let stats = names
        .iter()
        .filter_map(|name| stat(&w.dir, name.split(' ').next()?).ok())
        .filter(|s| s.st_size == 0 && s.st_nlink == 1)
        .count();
    w.say("stats", &stats);
    let renamed = (0..COUNT)
        .step_by(3)
        .filter(|n| rename(&w.dir, &format!("file-{n:05}"), &format!("moved-{n:05}"), 0).is_ok())
        .count();
    w.say("renamed", &renamed);
    let removed = (0..COUNT)
        .filter(|n| n % 3 == 1)
        .filter(|n| unlink(&w.dir, &format!("file-{n:05}")).is_ok())
        .count();
    w.say("removed", &removed);
    let names = list(&w.dir, ".").unwrap_or_default();
    w.say("names", &names.len());
    w.say(
        "all of them",
        &crate::record::hash(names.concat().as_bytes()),
    );
}

fn changing(w: &mut World) {
    const COUNT: usize = 900;
    fill(w, COUNT);
    let Ok(dir) = take!(w, open_dir(&w.dir, ".")) else {
        return;
    };
    let mut seen = Vec::new();
    for turn in 0.. {
        let Ok(some) = entries(&dir, 50, 2048) else {
            return w.say("a listing fails", "in its midst");
        };
        if some.is_empty() {
            break;
        }
        seen.extend(some.into_iter().map(|(name, _)| name));
        // Others come and go; those of every third are left alone.
        let n = turn * 5 % COUNT;
        let _ = unlink(&w.dir, &format!("file-{:05}", n / 3 * 3 + 1));
        let _ = rename(
            &w.dir,
            &format!("file-{:05}", n / 3 * 3 + 2),
            &format!("new-{turn}"),
            0,
        );
        let _ = file(&w.dir, &format!("fresh-{turn}"), 0o644, b"");
    }
    let stable = |name: &&String| {
        name.strip_prefix("file-")
            .and_then(|n| n.parse::<usize>().ok())
            .is_some_and(|n| n % 3 == 0)
    };
    let stable_seen: Vec<_> = seen.iter().filter(stable).collect();
    w.say("those that stay", &stable_seen.len());
    let once: BTreeSet<_> = stable_seen.iter().collect();
    w.say("each once", &(once.len() == stable_seen.len()));
}

fn links(w: &mut World) {
    step!(w, mkdir(&w.dir, "d", 0o755));
    step!(w, stat(&w.dir, "d"));
    for n in 0..5 {
        step!(w, mkdir(&w.dir, &format!("d/{n}"), 0o755));
    }
    step!(w, stat(&w.dir, "d"));
    step!(w, rmdir(&w.dir, "d/3"));
    step!(w, stat(&w.dir, "d"));
    step!(w, mkdir(&w.dir, "e", 0o755));
    step!(w, rename(&w.dir, "d/1", "e/1", 0));
    step!(w, stat(&w.dir, "d"));
    step!(w, stat(&w.dir, "e"));
    step!(w, file(&w.dir, "d/f", 0o644, b""));
    step!(w, stat(&w.dir, "d"));
    let same = |a: &str, b: &str| {
        let ino = |name: &str| stat(&w.dir, name).map(|s| s.st_ino);
        ino(a).and_then(|a| Ok(a == ino(b)?))
    };
    let outcomes = [same("d/0/..", "d"), same("d/.", "d"), same("d/0", "d")];
    w.say("where .. leads", &format!("{outcomes:?}"));
}

fn making_together(w: &mut World) {
    // Of several who make one name, one succeeds.
    let path = w.path.clone();
    let makers: Vec<_> = (0..4)
        .map(|id| {
            let path = path.clone();
            std::thread::spawn(move || {
                let made =
                    (0..50).filter(|n| std::fs::create_dir(path.join(format!("dir-{n}"))).is_ok());
                let made = made.count();
                let files = (0..50)
                    .filter(|n| std::fs::File::create_new(path.join(format!("file-{n}"))).is_ok());
                let files = files.count();
                for n in 0..50 {
                    let own = path.join(format!("own-{id}-{n}"));
                    let moved = path.join(format!("moved-{n}"));
                    let _ = std::fs::write(&own, b"x").and_then(|()| std::fs::rename(&own, moved));
                }
                (made, files)
            })
        })
        .collect();
    let (mut dirs, mut files) = (0, 0);
    for maker in makers {
        let (made, files_made) = maker.join().unwrap_or_default();
        dirs += made;
        files += files_made;
    }
    w.say("directories", &dirs);
    w.say("files", &files);
    let names = list(&w.dir, ".").unwrap_or_default();
    w.say("names", &names.len());
    w.say(
        "all of them",
        &crate::record::hash(names.concat().as_bytes()),
    );
}

fn positions(w: &mut World) {
    fill(w, 400);
    let Ok(dir) = take!(w, open_dir(&w.dir, ".")) else {
        return;
    };
    let Ok(all) = entries(&dir, usize::MAX, 4096) else {
        return w.say("list", "fails");
    };
    w.say("entries", &all.len());
    let again = |at: usize| -> rustix::io::Result<bool> {
        fs::seek(&dir, SeekFrom::Start(all[at].1))?;
        let rest = entries(&dir, usize::MAX, 4096)?;
        let expected = &all[at + 1..];
        Ok(rest.iter().map(|e| &e.0).eq(expected.iter().map(|e| &e.0)))
    };
    let mut same = Vec::new();
    for at in [0, 1, 50, 199, 397, 400, 7, 300] {
        same.push((at, again(at)));
    }
    for (at, same) in same {
        w.say(format!("from behind entry {at}"), &same);
    }
    step!(w, fs::seek(&dir, SeekFrom::Start(0)));
    step!(w, entries(&dir, usize::MAX, 4096).map(|e| e.len()));
    step!(w, entries(&dir, usize::MAX, 4096).map(|e| e.len()));
    step!(w, drop_value(fs::seek(&dir, SeekFrom::Current(0))));
    step!(w, fs::seek(&dir, SeekFrom::Current(-1)).is_ok());
    // A position outlives what is removed around it.
    for n in (0..400).step_by(2) {
        let _ = unlink(&w.dir, &format!("file-{n:05}"));
    }
    let left: BTreeSet<_> = all[200..]
        .iter()
        .map(|e| e.0.clone())
        .filter(|name| stat(&w.dir, name).is_ok())
        .collect();
    let seen = fs::seek(&dir, SeekFrom::Start(all[199].1))
        .and_then(|_| entries(&dir, usize::MAX, 4096))
        .map(|e| {
            e.into_iter()
                .map(|e| e.0)
                .filter(|name| left.contains(name))
                .collect()
        })
        // What is gone may still be listed.
        .map(|seen: BTreeSet<_>| seen == left);
    w.say("the rest after removals", &seen);
}

fn removal(w: &mut World) {
    step!(w, mkdir(&w.dir, "d", 0o755));
    step!(w, file(&w.dir, "d/f", 0o644, b"x"));
    step!(w, rmdir(&w.dir, "d"));
    step!(w, unlink(&w.dir, "d"));
    step!(w, rmdir(&w.dir, "d/f"));
    step!(w, unlink(&w.dir, "d/f"));
    step!(w, rmdir(&w.dir, "missing"));
    step!(w, unlink(&w.dir, "missing"));
    let Ok(dir) = take!(w, open_dir(&w.dir, "d")) else {
        return;
    };
    step!(w, rmdir(&dir, "."));
    step!(w, rmdir(&w.dir, "d/."));
    step!(w, rmdir(&w.dir, "d/.."));
    step!(w, rmdir(&w.dir, "d"));
    step!(w, rmdir(&w.dir, "d"));
    step!(w, entries(&dir, 10, 1024).map(|e| e.len()));
    // What is listed and removed at once, as rm does.
    step!(w, mkdir(&w.dir, "tree", 0o755));
    for n in 0..200 {
        let _ = mkdir(&w.dir, &format!("tree/{n}"), 0o755);
        let _ = file(&w.dir, &format!("tree/{n}/f"), 0o644, b"x");
    }
    step!(w, std::fs::remove_dir_all(w.path("tree")).is_ok());
    step!(w, list(&w.dir, "."));
}

fn rewound(w: &mut World) {
    fill(w, 10);
    let Ok(dir) = take!(w, open_dir(&w.dir, ".")) else {
        return;
    };
    step!(w, entries(&dir, usize::MAX, 4096).map(|e| e.len()));
    step!(w, file(&w.dir, "one-more", 0o644, b""));
    step!(w, unlink(&w.dir, "file-00003"));
    step!(w, entries(&dir, usize::MAX, 4096).map(|e| e.len()));
    step!(w, fs::seek(&dir, SeekFrom::Start(0)));
    let mut names: Vec<_> = entries(&dir, usize::MAX, 4096)
        .unwrap_or_default()
        .into_iter()
        .map(|e| e.0)
        .collect();
    names.sort();
    w.say("names", &names);
    // Two descriptors of one opening read on from each other.
    let Ok(copy) = take!(w, rustix::io::dup(&dir)) else {
        return;
    };
    step!(w, fs::seek(&dir, SeekFrom::Start(0)));
    let first = entries(&dir, 1, 64).map(|e| e.len()).unwrap_or(0);
    let rest = entries(&copy, usize::MAX, 4096)
        .map(|e| e.len())
        .unwrap_or(0);
    w.say("together", &(first + rest));
}

fn small_buffers(w: &mut World) {
    for n in [1, 100, 200, 255] {
        step!(w, drop_value(file(&w.dir, &"n".repeat(n), 0o644, b"")));
    }
    let Ok(dir) = take!(w, open_dir(&w.dir, ".")) else {
        return;
    };
    for room in [300, 512, 1024, 32_768] {
        let listed =
            fs::seek(&dir, SeekFrom::Start(0)).and_then(|_| entries(&dir, usize::MAX, room));
        w.say(format!("{room} bytes"), &listed.map(|e| e.len()));
    }
}
