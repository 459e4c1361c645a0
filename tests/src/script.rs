//! A guest's life in two halves: what it holds, and what it asks afterwards. The
//! answers are written down without what differs between two shares (times, inode
//! numbers, blocks), so that those of a guest that moved in between can be compared
//! with those of one that stayed.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs;
use std::os::unix::fs::{chown, FileExt, MetadataExt, PermissionsExt};
use std::path::Path;

use ferryfs_frontend::call::{Payload, SetAttr};
use ferryfs_frontend::fuse::{fattr, init, write_flag, Entry, ROOT_ID};
use ferryfs_frontend::{encode_rdev, Caller, ClientError, Vm};

use crate::Guest;

/// The group of the directory `team`.
const TEAM: u32 = 4242;
/// Entries of the directory `many`.
const MANY: usize = 3000;

/// Lays out the share that the script works in.
///
/// # Panics
/// When that fails.
pub fn lay_out(share: &Path) {
    fs::set_permissions(share, fs::Permissions::from_mode(0o755)).expect("chmod");
    let team = share.join("team");
    fs::create_dir(&team).expect("mkdir");
    chown(&team, Some(0), Some(TEAM)).expect("chown");
    fs::set_permissions(&team, fs::Permissions::from_mode(0o770)).expect("chmod");
    fs::create_dir(share.join("dir")).expect("mkdir");
    fs::write(share.join("dir/old"), pattern(100_000)).expect("write");
    fs::write(share.join("dir/other"), "").expect("write");
    fs::write(share.join("dir/doomed"), "still here").expect("write");
    let sparse = fs::File::create(share.join("dir/sparse")).expect("create");
    sparse.write_all_at(b"data", 1 << 20).expect("write");
    std::os::unix::fs::symlink("old", share.join("dir/link")).expect("symlink");
    fs::create_dir(share.join("many")).expect("mkdir");
    for i in 0..MANY {
        // Names are what is listed; files are dear on a busy disk.
        let name = share.join(format!("many/{i:04}"));
        match i % 10 {
            0 => fs::write(name, "").expect("write"),
            _ => {
                let file = share.join(format!("many/{:04}", i / 10 * 10));
                fs::hard_link(file, name).expect("link");
            }
        }
    }
}

/// Bytes that tell where they belong.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 7 + i * 13) as u8).collect()
}

/// What the guest holds when it may be moved.
#[derive(Debug)]
pub struct Held {
    guest: Guest,
    dir: u64,
    team: u64,
    old: (u64, u64),
    other: (u64, u64),
    sparse: (u64, u64),
    link: u64,
    written: (u64, u64),
    log: (u64, u64),
    tmp: Option<(u64, u64)>,
    many: (u64, u64),
    seen: Vec<String>,
    next: u64,
}

/// Linux sends one group along, where it matters: that of the directory. More would be
/// the end of virtiofsd.
fn member() -> Caller {
    Caller {
        groups: vec![TEAM],
        ..Caller::user(1000, 1000)
    }
}

/// The first half.
///
/// # Panics
/// When any of it fails.
pub fn before(vm: &Vm) -> Held {
    let mut guest = Guest::of(vm);
    let dir = guest.walk("dir").nodeid;
    let team = guest.walk("team").nodeid;
    let old = guest.open_path("dir/old", libc::O_RDWR);
    let other = guest.open_path("dir/other", libc::O_RDWR);
    let sparse = guest.open_path("dir/sparse", libc::O_RDONLY);
    let link = guest.walk("dir/link").nodeid;
    guest
        .setxattr(old.0, "user.before", b"1", 0)
        .expect("SETXATTR");

    let mut create = |name: &str, flags: i32| {
        let made = guest.create(dir, name, flags as u32, 0o644);
        let (entry, fh) = guest.created(made).expect("CREATE");
        (entry.nodeid, fh)
    };
    let written = create("written", libc::O_CREAT | libc::O_WRONLY);
    let log = create("log", libc::O_CREAT | libc::O_WRONLY | libc::O_APPEND);
    for (node, fh) in [written, log] {
        let text = Payload::Bytes(b"0123456789".to_vec());
        let append = if fh == log.1 { libc::O_APPEND } else { 0 } as u32;
        guest
            .write_with(node, fh, 0, text, 0, append)
            .expect("WRITE");
    }
    // A second lookup and one that is given back.
    guest.walk("dir/old");
    let again = guest.lookup(dir, "old").expect("LOOKUP");
    guest.forget(again.nodeid, 1).expect("FORGET");

    let node = guest.walk("many").nodeid;
    let opened = guest.opendir(node);
    let fh = guest.opened_dir(node, opened).expect("OPENDIR");
    let (mut seen, mut next) = (Vec::new(), 0);
    while seen.len() < MANY / 2 {
        let some = guest
            .readdirplus(node, fh, next, 64 << 10)
            .expect("READDIRPLUS");
        guest.listed(&some);
        next = some.last().expect("more entries").dirent.off;
        seen.extend(names(some.into_iter().map(|plus| plus.dirent.name)));
    }
    Held {
        guest,
        dir,
        team,
        old,
        other,
        sparse,
        link,
        written,
        log,
        tmp: None,
        many: (node, fh),
        seen,
        next,
    }
}

impl Held {
    /// Adds a file without a name to what is held. It cannot be found by path.
    ///
    /// # Panics
    /// When TMPFILE fails.
    pub fn hold_tmpfile(&mut self) {
        let made = self
            .guest
            .tmpfile(self.dir, (libc::O_TMPFILE | libc::O_RDWR) as u32, 0o600);
        let (entry, fh) = self.guest.created(made).expect("TMPFILE");
        self.guest
            .write(entry.nodeid, fh, 0, b"nameless")
            .expect("WRITE");
        self.tmp = Some((entry.nodeid, fh));
    }
}

fn names(names: impl Iterator<Item = Vec<u8>>) -> impl Iterator<Item = String> {
    names.map(|name| String::from_utf8(name).expect("a name of ours"))
}

/// Answers, one line each.
#[derive(Debug, Default)]
pub struct Transcript(pub Vec<String>);

impl Transcript {
    #[track_caller]
    fn put<T: Debug>(&mut self, what: &str, result: Result<T, ClientError>) -> Option<T> {
        match result {
            Ok(value) => {
                self.0.push(format!("{what}: {value:?}"));
                Some(value)
            }
            Err(error) => {
                // A daemon that does not answer will not answer the rest either.
                let Some(errno) = error.errno() else {
                    panic!("{what}: {}", crate::text(&error));
                };
                let told = std::io::Error::from_raw_os_error(errno);
                self.0.push(format!("{what}: {told}"));
                None
            }
        }
    }

    fn entry(&mut self, what: &str, result: Result<Entry, ClientError>) -> Option<Entry> {
        let found = result.as_ref().ok().copied();
        self.put(what, result.map(stable))?;
        found
    }

    /// The line of `what`.
    ///
    /// # Panics
    /// When it was not asked.
    #[track_caller]
    pub fn line(&self, what: &str) -> &str {
        let start = format!("{what}: ");
        let line = self.0.iter().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("{what} was not asked:\n{}", self.0.join("\n")))
    }
}

/// The fields of an entry that two shares have in common.
fn stable(mut entry: Entry) -> Entry {
    let attr = &mut entry.attr;
    (attr.ino, attr.blocks) = (0, 0);
    (attr.atime, attr.mtime, attr.ctime) = (0, 0, 0);
    (attr.atimensec, attr.mtimensec, attr.ctimensec) = (0, 0, 0);
    if attr.mode & libc::S_IFMT == libc::S_IFDIR {
        // Up to the file system's block allocation.
        attr.size = 0;
    }
    entry
}

/// The second half: asks, and writes the answers down. Gives everything back at the
/// end. FSYNC and SYNCFS are part of it only with `sync`: a busy disk takes its time.
///
/// # Panics
/// When what is held does not work at all, or there is no answer.
pub fn after(held: Held, share: &Path, sync: bool) -> Transcript {
    let mut t = Transcript::default();
    let Held {
        mut guest,
        dir,
        team,
        old,
        other,
        sparse,
        link,
        written,
        log,
        tmp,
        many,
        mut seen,
        mut next,
    } = held;
    let flags = guest.session().flags();
    t.0.push(format!(
        "extended SETXATTR: {}",
        flags & init::SETXATTR_EXT != 0
    ));

    // Extended attributes, in the form that was negotiated.
    let set = guest.setxattr(old.0, "user.after", b"two", libc::XATTR_CREATE as u32);
    t.put("SETXATTR", set);
    let again = guest.setxattr(old.0, "user.after", b"x", libc::XATTR_CREATE as u32);
    t.put("SETXATTR again", again);
    t.put("GETXATTR before", guest.getxattr(old.0, "user.before", 64));
    t.put("GETXATTR after", guest.getxattr(old.0, "user.after", 64));
    t.put("GETXATTR short", guest.getxattr(old.0, "user.after", 2));
    t.put("GETXATTR size", guest.getxattr_size(old.0, "user.after"));
    t.put("LISTXATTR", guest.listxattr(old.0, 4096).map(sorted));
    t.put("REMOVEXATTR", guest.removexattr(old.0, "user.before"));
    t.put("GETXATTR gone", guest.getxattr(old.0, "user.before", 64));

    // Supplementary groups.
    for (who, caller) in [
        ("stranger", Caller::user(1000, 1000)),
        ("member", member()),
        ("stranger again", Caller::user(1000, 1000)),
        (
            "guest's root",
            Caller {
                groups: vec![TEAM],
                ..Caller::user(0, 0)
            },
        ),
        ("stranger at last", Caller::user(1000, 1000)),
    ] {
        let user = guest.as_caller(caller);
        let name = |kind: &str| format!("{kind} of {who}");
        let made = user.create(
            team,
            name("file"),
            (libc::O_CREAT | libc::O_RDWR) as u32,
            0o640,
        );
        let made = guest.created(made).map(|(entry, fh)| (stable(entry), fh));
        t.put(&format!("CREATE by a {who}"), made);
        let made = guest.entry(user.mkdir(team, name("dir"), 0o750));
        t.entry(&format!("MKDIR by a {who}"), made);
        let made = guest.entry(user.mknod(team, name("fifo"), libc::S_IFIFO | 0o600, 0));
        t.entry(&format!("MKNOD by a {who}"), made);
        let made = guest.entry(user.symlink(team, name("link"), "target"));
        t.entry(&format!("SYMLINK by a {who}"), made);
        for kind in ["file", "dir", "fifo", "link"] {
            let meta = fs::symlink_metadata(share.join("team").join(name(kind)));
            let meta = meta.map(|m| (format!("{:o}", m.mode()), m.uid(), m.gid()));
            t.0.push(format!(
                "on disk, {}: {:?}",
                name(kind),
                meta.map_err(|e| e.kind())
            ));
        }
    }

    // A file made write-only: a guest with a writeback cache reads from it all the same.
    let cached = |bytes: &[u8]| Payload::Bytes(bytes.to_vec());
    let wrote = guest.write_with(written.0, written.1, 4, cached(b"xy"), write_flag::CACHE, 0);
    t.put("WRITE from the cache", wrote);
    t.put(
        "READ of a write-only file",
        guest.read(written.0, written.1, 0, 64),
    );
    t.0.push(on_disk(share, "dir/written"));
    // An append file: pages go where they belong, direct writes to the end.
    let append = libc::O_APPEND as u32;
    let wrote = guest.write_with(log.0, log.1, 0, cached(b"AB"), write_flag::CACHE, append);
    t.put("WRITE from the cache to an append file", wrote);
    t.0.push(on_disk(share, "dir/log"));
    let wrote = guest.write_with(log.0, log.1, 0, cached(b"end"), 0, append);
    t.put("WRITE to an append file", wrote);
    t.0.push(on_disk(share, "dir/log"));

    // Old handles and node ids.
    t.put(
        "READ",
        guest
            .read(old.0, old.1, 99_000, 4096)
            .map(|b| (b.len(), sum(&b))),
    );
    t.put(
        "LSEEK data",
        guest.lseek(sparse.0, sparse.1, 0, libc::SEEK_DATA as u32),
    );
    t.put(
        "LSEEK hole",
        guest.lseek(sparse.0, sparse.1, 1 << 20, libc::SEEK_HOLE as u32),
    );
    t.put(
        "LSEEK past the end",
        guest.lseek(sparse.0, sparse.1, 1 << 40, libc::SEEK_DATA as u32),
    );
    let copied = guest.copy_file_range((old.0, old.1, 1000), (other.0, other.1, 50), 5000);
    t.put("COPY_FILE_RANGE", copied);
    t.put("FALLOCATE", guest.fallocate(other.0, other.1, 0, 9000, 0));
    let keep = (libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE) as u32;
    t.put(
        "FALLOCATE hole",
        guest.fallocate(other.0, other.1, 100, 10, keep),
    );
    t.0.push(on_disk(share, "dir/other"));
    t.put(
        "WRITE to a read-only file",
        guest.write(sparse.0, sparse.1, 0, b"no"),
    );
    t.put("READLINK", guest.readlink(link));
    for (what, node, fh) in [("by node", old.0, None), ("by handle", old.0, Some(old.1))] {
        let attr = guest
            .getattr(node, fh)
            .map(|reply| (reply.attr.size, reply.attr.mode));
        t.put(&format!("GETATTR {what}"), attr);
    }
    let truncated = guest.setattr(
        old.0,
        &SetAttr {
            valid: fattr::SIZE | fattr::FH | fattr::MODE,
            fh: old.1,
            size: 1234,
            mode: libc::S_IFREG | 0o604,
            ..SetAttr::default()
        },
    );
    t.put("SETATTR", truncated.map(|r| (r.attr.size, r.attr.mode)));
    t.0.push(on_disk(share, "dir/old"));
    t.put("FLUSH", guest.flush(old.0, old.1));
    if sync {
        t.put("FSYNC", guest.fsync(old.0, old.1, true));
        t.put("SYNCFS", guest.syncfs(ROOT_ID));
    }
    t.put("ACCESS", guest.access(old.0, libc::R_OK as u32));
    let statfs = guest
        .statfs(ROOT_ID)
        .map(|s| (s.blocks, s.files, s.bsize, s.namelen, s.frsize));
    t.put("STATFS", statfs);
    if let Some((node, fh)) = tmp {
        t.put("READ of a nameless file", guest.read(node, fh, 0, 64));
        let linked = guest.entry(guest.link(node, dir, "named"));
        t.entry("LINK of a nameless file", linked);
        t.0.push(on_disk(share, "dir/named"));
    }
    let made = guest.tmpfile(dir, (libc::O_TMPFILE | libc::O_RDWR) as u32, 0o600);
    let made = guest.created(made).map(|(entry, fh)| (stable(entry), fh));
    if let Some((entry, fh)) = t.put("TMPFILE", made) {
        t.put(
            "WRITE to a nameless file",
            guest.write(entry.nodeid, fh, 3, b"tmp"),
        );
        t.put(
            "READ of a new nameless file",
            guest.read(entry.nodeid, fh, 0, 64),
        );
    }

    // The namespace.
    let found = guest.entry(guest.lookup(dir, "old"));
    t.entry("LOOKUP of what is known", found);
    let found = guest.entry(guest.lookup(dir, "doomed"));
    let doomed = t
        .entry("LOOKUP of what is not", found)
        .expect("it is there")
        .nodeid;
    t.entry("LOOKUP of nothing", guest.lookup(dir, "absent"));
    let opened = guest.opened(doomed, guest.open(doomed, libc::O_RDONLY as u32));
    t.put("OPEN", opened);
    t.put("UNLINK", guest.unlink(dir, "doomed"));
    t.put(
        "GETATTR unlinked",
        guest
            .getattr(doomed, None)
            .map(|r| (r.attr.size, r.attr.nlink)),
    );
    t.put("RENAME", guest.rename(dir, "log", ROOT_ID, "journal"));
    let exchange = libc::RENAME_EXCHANGE;
    t.put(
        "RENAME2",
        guest.rename2(dir, "written", dir, "other", exchange),
    );
    t.put(
        "RENAME2 refused",
        guest.rename2(dir, "old", dir, "other", libc::RENAME_NOREPLACE),
    );
    let linked = guest.entry(guest.link(old.0, ROOT_ID, "hard"));
    t.entry("LINK", linked);
    let made = guest.entry(guest.mknod(dir, "null", libc::S_IFCHR | 0o666, encode_rdev(1, 3)));
    t.entry("MKNOD of a device", made);
    t.put("RMDIR refused", guest.rmdir(ROOT_ID, "dir"));
    t.0.push(on_disk(share, "journal"));
    t.0.push(on_disk(share, "dir/written"));

    // The rest of the half-read directory.
    loop {
        let some = guest
            .readdirplus(many.0, many.1, next, 64 << 10)
            .expect("READDIRPLUS");
        guest.listed(&some);
        let Some(last) = some.last() else { break };
        next = last.dirent.off;
        seen.extend(names(some.into_iter().map(|plus| plus.dirent.name)));
    }
    let all: BTreeSet<_> = seen.iter().cloned().collect();
    t.0.push(format!("names: {}, different: {}", seen.len(), all.len()));
    for i in 0..MANY {
        assert!(all.contains(&format!("{i:04}")), "{i:04} was not listed");
    }

    guest.let_go();
    t.put(
        "GETATTR forgotten",
        guest.getattr(old.0, None).map(|r| r.attr.size),
    );
    t.put(
        "READ released",
        guest.read(old.0, old.1, 0, 1).map(|b| b.len()),
    );
    t
}

fn sorted<T: Ord>(mut all: Vec<T>) -> Vec<T> {
    all.sort();
    all
}

fn sum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(7, |sum, b| sum * 31 % 1_000_003 + u64::from(*b))
}

fn on_disk(share: &Path, path: &str) -> String {
    match fs::read(share.join(path)) {
        Ok(bytes) if bytes.len() <= 64 => {
            format!("on disk, {path}: {}", bytes.escape_ascii())
        }
        Ok(bytes) => format!("on disk, {path}: {} bytes, {}", bytes.len(), sum(&bytes)),
        Err(error) => format!("on disk, {path}: {error}"),
    }
}
