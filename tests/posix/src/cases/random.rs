//! Journeys: some hundred steps at random, of several users with open files, over a
//! few names, so that they meet each other's. The same seed makes the same steps;
//! at the end the whole tree is told.

use std::os::fd::OwnedFd;

use rustix::fs::{self, FileType, SeekFrom, XattrFlags};
use rustix::io::Result;

use crate::record::Outcome;
use crate::sys::*;
use crate::users::{as_anne, as_bert, masked, ANNE, BERT, CHOIR, CLUB};
use crate::world::World;

const STEPS: usize = 500;
/// Files open at a time.
const OPEN: usize = 6;
const COMPONENTS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// Numbers at random (xorshift64*).
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.roll(from.len() as u64) as usize]
    }

    /// A path of one to three components.
    fn path(&mut self) -> String {
        let mut path = self.pick(&COMPONENTS).to_owned();
        for _ in 0..self.pick(&[0, 0, 1, 1, 2]) {
            path.push('/');
            path.push_str(self.pick(&COMPONENTS));
        }
        path
    }

    fn mode(&mut self) -> u32 {
        self.pick(&[
            0o644, 0o755, 0o777, 0o600, 0o700, 0o2775, 0o1777, 0o4755, 0o664, 0o040,
        ])
    }

    fn offset(&mut self) -> u64 {
        self.pick(&[0, 1, 100, 4095, 4096, 10_000, 70_000])
    }

    fn data(&mut self) -> Vec<u8> {
        let len = self.pick(&[1, 10, 500, 4096, 9000]);
        vec![b'a' + self.roll(26) as u8; len]
    }
}

/// Who takes a step.
#[derive(Clone, Copy, Debug)]
enum Who {
    Oneself,
    Anne,
    Bert,
}

impl Who {
    fn does<T: Send>(self, work: impl FnOnce() -> T + Send) -> T {
        match self {
            Who::Oneself => work(),
            Who::Anne => as_anne(work),
            Who::Bert => as_bert(work),
        }
    }
}

/// Takes the steps of `seed`.
pub fn journey(w: &mut World, seed: u64) {
    let mut dice = Dice::new(seed);
    let mut open_files: Vec<OwnedFd> = Vec::new();
    // Where all may do something, or there is little to see.
    let _ = chmod(&w.dir, ".", 0o777);
    for n in 0..STEPS {
        let who = match w.root {
            true => dice.pick(&[Who::Oneself, Who::Anne, Who::Anne, Who::Bert]),
            false => Who::Oneself,
        };
        let (what, outcome) = if !open_files.is_empty() && dice.roll(3) == 0 {
            on_open_file(&mut dice, &mut open_files)
        } else {
            on_names(&mut dice, &w.dir, who, &mut open_files)
        };
        w.say(format!("{n} {who:?} {what}"), &outcome);
    }
    drop(open_files);
    tell(w, ".", 0);
}

fn on_names(
    dice: &mut Dice,
    dir: &OwnedFd,
    who: Who,
    open_files: &mut Vec<OwnedFd>,
) -> (String, String) {
    let (path, other) = (dice.path(), dice.path());
    let mode = dice.mode();
    match dice.roll(19) {
        0..=2 => {
            let flags = dice.pick(&[
                libc::O_RDWR,
                libc::O_RDWR | libc::O_EXCL,
                libc::O_WRONLY | libc::O_TRUNC,
                libc::O_RDWR | libc::O_APPEND,
                libc::O_RDONLY,
            ]);
            let mask = dice.pick(&[0, 0o022, 0o077]);
            let flags = flags | libc::O_CREAT | libc::O_NONBLOCK;
            // The set-group-id bit where the mask takes the group's permissions has a
            // case of its own.
            let mode = mode & !0o2000;
            let opened = who.does(|| masked(mask, || open(dir, &path, flags, mode)));
            let words = opened.words();
            keep(dice, open_files, opened);
            (
                format!("create {path} {mode:o} &~{mask:o} {flags:#x}"),
                words,
            )
        }
        3 => {
            let flags = dice.pick(&[libc::O_RDWR, libc::O_RDONLY, libc::O_WRONLY, libc::O_PATH]);
            let opened = who.does(|| open(dir, &path, flags | libc::O_NONBLOCK, 0));
            let words = opened.words();
            keep(dice, open_files, opened);
            (format!("open {path} {flags:#x}"), words)
        }
        4..=6 => (
            format!("mkdir {path} {mode:o}"),
            who.does(|| mkdir(dir, &path, mode)).words(),
        ),
        7 => (
            format!("unlink {path}"),
            who.does(|| unlink(dir, &path)).words(),
        ),
        8 => (
            format!("rmdir {path}"),
            who.does(|| rmdir(dir, &path)).words(),
        ),
        9..=11 => {
            let flags = dice.pick(&[0, 0, 0, libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE]);
            let renamed = who.does(|| rename(dir, &path, &other, flags));
            (format!("rename {path} {other} {flags}"), renamed.words())
        }
        12 => (
            format!("link {path} {other}"),
            who.does(|| link(dir, &path, &other)).words(),
        ),
        13 => (
            format!("symlink {other} {path}"),
            who.does(|| symlink(&other, dir, &path)).words(),
        ),
        14 => (
            format!("chmod {path} {mode:o}"),
            who.does(|| chmod(dir, &path, mode)).words(),
        ),
        15 => {
            let ids = [
                -1,
                i64::from(ANNE),
                i64::from(BERT),
                i64::from(CHOIR),
                i64::from(CLUB),
            ];
            let (uid, gid) = (dice.pick(&ids[..3]), dice.pick(&ids));
            let done = who.does(|| chown(dir, &path, uid, gid));
            (format!("chown {path} {uid}:{gid}"), done.words())
        }
        16 => (
            format!("content {path}"),
            who.does(|| content(dir, &path)).words(),
        ),
        17 => (
            format!("list {path}"),
            who.does(|| list(dir, &path)).words(),
        ),
        _ => {
            let made = who.does(|| mknod(dir, &path, FileType::Fifo, mode, (0, 0)));
            (format!("mkfifo {path} {mode:o}"), made.words())
        }
    }
}

fn keep(dice: &mut Dice, open_files: &mut Vec<OwnedFd>, opened: Result<OwnedFd>) {
    let Ok(opened) = opened else { return };
    if open_files.len() < OPEN {
        open_files.push(opened);
    } else {
        open_files[dice.roll(OPEN as u64) as usize] = opened;
    }
}

fn on_open_file(dice: &mut Dice, open_files: &mut Vec<OwnedFd>) -> (String, String) {
    let at = dice.roll(open_files.len() as u64) as usize;
    let fd = &open_files[at];
    let offset = dice.offset();
    let is_file =
        fs::fstat(fd).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::RegularFile);
    let (what, outcome) = match dice.roll(9) {
        // Of fifos nothing is said: they would have to be waited for. Nor of positions
        // in directories, which each file system counts in its own way.
        0..=3 | 7 if !is_file => ("fstat".into(), fs::fstat(fd).words()),
        0 | 1 => {
            let data = dice.data();
            let written = write_at(fd, &data, offset);
            (format!("write {} at {offset}", data.len()), written.words())
        }
        2 => (
            format!("read at {offset}"),
            read_at(fd, 5000, offset).words(),
        ),
        3 => (
            format!("truncate {offset}"),
            fs::ftruncate(fd, offset).words(),
        ),
        4 => ("fstat".into(), fs::fstat(fd).words()),
        5 => {
            let mode = dice.mode();
            (format!("fchmod {mode:o}"), fchmod(fd, mode).words())
        }
        6 => {
            let set = fs::fsetxattr(fd, "user.journey", &dice.data()[..1], XattrFlags::empty());
            ("fsetxattr".into(), set.words())
        }
        7 => {
            // What is on its way to the disk may or may not be data yet.
            let _ = fs::fsync(fd);
            let found = fs::seek(fd, SeekFrom::Data(offset));
            (format!("data from {offset}"), found.words())
        }
        _ => {
            drop(open_files.swap_remove(at));
            return (format!("close {at}"), "done".into());
        }
    };
    (format!("{what} [{at}]"), outcome)
}

/// All that is below `path`.
fn tell(w: &mut World, path: &str, depth: usize) {
    let is = stat(&w.dir, path);
    w.say(path, &is);
    let Ok(is) = is else { return };
    match FileType::from_raw_mode(is.st_mode) {
        FileType::RegularFile => {
            w.say("  content", &content(&w.dir, path));
            let mut value = [0; 8];
            let got = fs::getxattr(w.path(path), "user.journey", &mut value[..]);
            w.say("  attribute", &got.map(|len| value[..len].to_vec()));
        }
        FileType::Symlink => w.say("  target", &readlink(&w.dir, path)),
        // Deeper than any path of a journey, but for renames into each other.
        FileType::Directory if depth < 12 => {
            let Ok(names) = list(&w.dir, path) else {
                return w.say("  cannot be listed", &list(&w.dir, path));
            };
            for name in names {
                let name = name.split(' ').next().unwrap_or_default().to_owned();
                tell(w, &format!("{path}/{name}"), depth + 1);
            }
        }
        _ => {}
    }
}
