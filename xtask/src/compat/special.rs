//! Cells that are about one thing.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::{fs, io};

use ferryfs_frontend::fuse::FileLock;
use ferryfs_frontend::spawn::Daemon;
use ferryfs_frontend::{ClientError, Vm};
use ferryfs_tests::{text, Guest, Host};
use rustix::fs::{fcntl_lock, FlockOperation};
use rustix::io::Errno;

use super::cell::{Cell, LOCKS};
use super::life::{beside, save, words, Bench, Stop};
use super::outcome::Outcome;

/// A machine with one file open.
struct Writer {
    vm: Vm,
    guest: Guest,
    file: (u64, u64),
}

const FILE: &[u8] = b"dir/file";
/// Not UTF-8.
const ODD: &[u8] = b"dir/\xff\xfe";

impl Writer {
    fn boot(host: &Host, daemon: &Daemon, name: &[u8]) -> Writer {
        fs::create_dir(host.at("dir")).expect("mkdir");
        fs::write(host.at(OsStr::from_bytes(name)), "one").expect("write");
        let vm = Vm::boot(daemon.socket()).unwrap_or_else(|e| panic!("{}", text(&e)));
        let mut guest = Guest::of(&vm);
        let file = guest.open_path(name, libc::O_RDWR);
        Writer { vm, guest, file }
    }

    /// Uses what was opened elsewhere; it must be there on disk.
    fn write(&self, host: &Host, name: &[u8]) -> Result<(), Stop> {
        let (node, fh) = self.file;
        let lost = |e: ClientError| match e.errno() {
            Some(errno) => Stop::Lost(format!("the file: {}", io::Error::from_raw_os_error(errno))),
            None => Stop::Failed(format!("after the crossing: {}", text(&e))),
        };
        self.guest.write(node, fh, 3, b"two").map_err(lost)?;
        let read = self.guest.read(node, fh, 0, 64).map_err(lost)?;
        let disk = fs::read(host.at(OsStr::from_bytes(name))).unwrap_or_default();
        match read == b"onetwo" && disk == b"onetwo" {
            true => Ok(()),
            false => Err(Stop::Failed("the file is not as written".to_owned())),
        }
    }
}

/// See [`Kind::OddName`](super::cell::Kind::OddName).
pub fn odd_name(bench: &Bench<'_>, cell: &Cell) -> Result<Outcome, Stop> {
    let host = Host::new();
    let daemons = bench.daemons(cell, &host, &[])?;
    let mut writer = Writer::boot(&host, &daemons[0], ODD);
    bench.cross(&mut writer.vm, &daemons[0], &daemons[1])?;
    writer.write(&host, ODD)?;
    Ok(Outcome::Passes)
}

/// See [`Kind::External`](super::cell::Kind::External).
pub fn external(bench: &Bench<'_>, cell: &Cell) -> Result<Outcome, Stop> {
    for load in [None, Some(&b""[..])] {
        let host = Host::new();
        let source = bench.start(cell, &host, cell.path[0], Some(cell.path[1]), &[])?;
        let mut writer = Writer::boot(&host, &source, FILE);
        let state = save(&mut writer.vm, &source)?;
        let file = beside(&host, "saved.state");
        fs::write(&file, &state).expect("write");
        drop(source);
        let option = format!("--state-file={}", file.display());
        let reader = bench.start(cell, &host, cell.path[1], None, &[&option])?;
        // One state is enough.
        if writer.vm.resume_on(reader.socket(), Some(&state)).is_ok() {
            return Err(Stop::Failed("a second state is taken".to_owned()));
        }
        let moved = writer.vm.resume_on(reader.socket(), load);
        drop(moved.map_err(|e| Stop::Reader(words(&reader, &e)))?);
        writer.write(&host, FILE)?;
    }
    Ok(Outcome::Passes)
}

/// See [`Kind::Damaged`](super::cell::Kind::Damaged).
pub fn damaged(bench: &Bench<'_>, cell: &Cell) -> Result<Outcome, Stop> {
    let host = Host::new();
    let keep = ["--keep-listening"];
    let daemons = bench.daemons(cell, &host, &keep)?;
    let mut writer = Writer::boot(&host, &daemons[0], FILE);
    let state = save(&mut writer.vm, &daemons[0])?;
    for (what, bad) in damages(&state) {
        if writer.vm.resume_on(daemons[1].socket(), Some(&bad)).is_ok() {
            return Err(Stop::Failed(format!("a stream is taken that is {what}")));
        }
    }
    let moved = writer.vm.resume_on(daemons[1].socket(), Some(&state));
    drop(moved.map_err(|e| Stop::Reader(words(&daemons[1], &e)))?);
    writer.write(&host, FILE)?;
    Ok(Outcome::Passes)
}

/// Streams that are nearly `state`.
fn damages(state: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut bad = vec![
        ("empty".to_owned(), Vec::new()),
        ("prolonged by a byte".to_owned(), [state, &[0]].concat()),
        ("there twice".to_owned(), [state, state].concat()),
    ];
    let step = (state.len() / 16).max(1);
    for at in (0..state.len()).step_by(step).chain([state.len() - 1]) {
        if at > 0 {
            bad.push((format!("cut after {at} bytes"), state[..at].to_vec()));
        }
        let mut flipped = state.to_vec();
        flipped[at] ^= 1 << (at % 8);
        bad.push((format!("wrong in a bit of byte {at}"), flipped));
    }
    bad
}

/// See [`Kind::Lock`](super::cell::Kind::Lock).
pub fn lock(bench: &Bench<'_>, cell: &Cell) -> Result<Outcome, Stop> {
    let host = Host::new();
    let start = |n: usize| {
        let i = cell.path[n];
        let locks: &[&str] = match bench.candidate(i).knows(LOCKS) {
            true => &[LOCKS],
            false => &[],
        };
        bench.start(cell, &host, i, cell.path.get(n + 1).copied(), locks)
    };
    let (source, reader) = (start(0)?, start(1)?);
    let mut writer = Writer::boot(&host, &source, FILE);
    let lock = FileLock {
        start: 0,
        end: i64::MAX as u64,
        kind: libc::F_WRLCK as u32,
        pid: 1,
    };
    let locked = writer.guest.setlk(writer.file, 7, &lock, false);
    locked.map_err(|e| Stop::Failed(text(&e)))?;
    bench.cross(&mut writer.vm, &source, &reader)?;
    // What is held now is held by the reader.
    drop(source);
    let file = File::options()
        .write(true)
        .open(host.at(OsStr::from_bytes(FILE)));
    let file = file.expect("the file");
    match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::AGAIN | Errno::ACCESS) => {}
        Err(e) => return Err(Stop::Failed(format!("asking for the lock: {e}"))),
        Ok(()) => return Err(Stop::Lost("the lock".to_owned())),
    }
    writer.write(&host, FILE)?;
    Ok(Outcome::Passes)
}

/// See [`Kind::Unlinked`](super::cell::Kind::Unlinked).
pub fn unlinked(bench: &Bench<'_>, cell: &Cell) -> Result<Outcome, Stop> {
    let host = Host::new();
    let mut daemons = bench.daemons(cell, &host, &[])?;
    let mut writer = Writer::boot(&host, &daemons[0], FILE);
    let failed = |e: ClientError| Stop::Failed(text(&e));
    let dir = writer.guest.lookup(1, "dir").map_err(failed)?.nodeid;
    writer.guest.unlink(dir, "file").map_err(failed)?;
    bench.cross(&mut writer.vm, &daemons[0], &daemons[1])?;
    // What is there now is not kept alive by the source.
    drop(daemons.remove(0));
    let (node, fh) = writer.file;
    let lost = |e: ClientError| Stop::Lost(format!("the file: {}", text(&e)));
    writer.guest.write(node, fh, 3, b"two").map_err(lost)?;
    let read = writer.guest.read(node, fh, 0, 64).map_err(lost)?;
    let links = writer
        .guest
        .getattr(node, Some(fh))
        .map_err(lost)?
        .attr
        .nlink;
    let names = fs::read_dir(host.at("dir")).expect("the directory").count();
    match (&read[..], links, names) {
        (b"onetwo", 0, 0) => Ok(Outcome::Passes),
        _ => Err(Stop::Lost(format!(
            "{} bytes, {links} links, {names} names",
            read.len()
        ))),
    }
}

/// See [`Kind::Foreign`](super::cell::Kind::Foreign).
pub fn foreign(bench: &Bench<'_>, cell: &Cell) -> Result<Outcome, Stop> {
    // CubeSandbox's daemon added the whole path to a path's record and kept the tag.
    let mut stream = vec![0, 2, 1, 3, 0, 0];
    stream.extend(b"\x02\x01\x01\x01\x08file.txt\x08file.txt\x00");
    stream.extend([3, 0, 0, 0, 1, 0, 0]);
    let host = Host::new();
    let (source, reader) = (
        bench.start(cell, &host, cell.path[0], None, &[])?,
        bench.start(cell, &host, cell.path[0], None, &[])?,
    );
    let mut writer = Writer::boot(&host, &source, FILE);
    writer.vm.stop().map_err(|e| Stop::Failed(text(&e)))?;
    match writer.vm.resume_on(reader.socket(), Some(&stream)) {
        Ok(_) => Err(Stop::Failed("it is taken".to_owned())),
        Err(e) => Err(Stop::Reader(words(&reader, &e))),
    }
}
