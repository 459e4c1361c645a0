//! Source side: what unlinked files contain, copied beside the guest's requests.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{SystemTime, UNIX_EPOCH};

use ferryfs_state::validate::MAX_GHOST_PIECE;
use rustix::fs::Statx;
use serde_bytes::ByteBuf;

use super::super::super::handle::Handles;
use super::super::super::inode::{Inode, InodeArc};
use super::super::super::sys;
use super::super::relocate::path_below;
use super::Watch;
use crate::errno::{Errno, FsResult};
use crate::types::NodeId;

/// Most objects that are carried although nothing of them is open: what others removed
/// from a large tree that the guest has in its cache is not worth its downtime.
const MOST_IDLE: usize = 1024;

/// A file whose `ctime` is this many seconds old will get another one when it is written
/// again, however coarse the file system's clock is.
const SETTLED: i64 = 2;

/// What changes with the contents of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: (i64, u32),
    changed: (i64, u32),
}

impl Stamp {
    fn of(stx: &Statx) -> Stamp {
        Stamp {
            size: stx.stx_size,
            modified: (stx.stx_mtime.tv_sec, stx.stx_mtime.tv_nsec),
            changed: (stx.stx_ctime.tv_sec, stx.stx_ctime.tv_nsec),
        }
    }

    /// Whether the next write is certain to show.
    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_secs() as i64);
        self.changed.0.saturating_add(SETTLED) < now
    }
}

/// Contents as they were at one time: pieces by ascending offset.
type Pieces = Vec<(u64, ByteBuf)>;

/// A file that has been looked at.
struct File {
    /// At the last look.
    seen: Stamp,
    /// Bytes that are no hole, at the last look.
    bytes: u64,
    /// Its contents, and the stamp from before they were read.
    copied: Option<(Stamp, Pieces)>,
}

/// An unlinked object that may cross.
#[derive(Clone)]
pub(in super::super) struct Candidate {
    pub(in super::super) inode: InodeArc,
    /// Whether the guest has it open.
    pub(in super::super) open: bool,
    /// Whether a name of it is still remembered: not the guest has removed it.
    pub(in super::super) named: bool,
}

/// More is open than may cross.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct TooMuch {
    /// Bytes in all unlinked files that are open.
    bytes: u64,
    limit: u64,
    /// How many files those are.
    files: usize,
    /// The largest: its inode, its size in the sense of `bytes`, and the path that it had.
    largest: (NodeId, u64, Option<String>),
}

impl TooMuch {
    /// What and how much it is, and what to do, for an operator.
    pub(in super::super) fn text(&self) -> String {
        let TooMuch {
            bytes,
            limit,
            files,
            largest: (node, most, path),
        } = self;
        let was = match path {
            Some(path) => format!("\"{path}\" before it was unlinked"),
            None => "of which no path is known".to_owned(),
        };
        format!(
            "the guest has {files} unlinked file(s) open with {bytes} bytes of contents, more than \
             --ghost-limit {limit} lets cross; the largest is inode {node} ({was}) with {most} \
             bytes; raise --ghost-limit here and at the destination, let the guest close it, use \
             --migration-mode file-handles where both sides share the file system, or let it be \
             lost with --migration-on-error guest-error"
        )
    }
}

/// Unlinked objects and what has been copied of them.
#[derive(Default)]
pub(in super::super) struct Gathered {
    files: HashMap<NodeId, File>,
}

/// What is to cross, and what cannot.
#[derive(Default)]
pub(in super::super) struct Selection {
    /// Those that cross, by inode, with the contents of those that are files.
    pub(in super::super) ghosts: Vec<(InodeArc, Pieces)>,
    /// Those that are left behind, with why.
    pub(in super::super) left: Vec<(Candidate, &'static str)>,
    /// Bytes of contents in all, and how many of them were read now.
    pub(in super::super) bytes: u64,
    pub(in super::super) read_now: u64,
}

/// What it takes to look at objects.
pub(in super::super) struct Gatherer<'a> {
    pub(in super::super) proc_self_fd: BorrowedFd<'a>,
    pub(in super::super) root: BorrowedFd<'a>,
    pub(in super::super) handles: &'a Handles,
    pub(in super::super) watch: &'a Watch,
    pub(in super::super) limit: u64,
}

/// Whether no name leads to `inode` any more.
pub(in super::super) fn is_unlinked(inode: &Inode) -> bool {
    let stx = inode.fd().and_then(|fd| sys::statx(fd.as_fd()));
    inode.id() != NodeId::ROOT && stx.is_ok_and(|stx| stx.stx_nlink == 0)
}

impl Gatherer<'_> {
    /// Looks at `candidates`, and copies what is not copied and does not change all the
    /// time. Answers whether more is open than may cross. Ends early once `ending`.
    pub(in super::super) fn round(
        &self,
        gathered: &mut Gathered,
        candidates: &[Candidate],
        ending: &dyn Fn() -> bool,
    ) -> Option<TooMuch> {
        let files = files_of(candidates);
        let there: HashSet<NodeId> = files.iter().map(|file| file.inode.id()).collect();
        gathered.files.retain(|node, _| there.contains(node));
        let mut total = 0u64;
        for candidate in &files {
            if ending() {
                return None;
            }
            let Ok(quiet) = self.look(gathered, &candidate.inode) else {
                continue;
            };
            let node = candidate.inode.id();
            let Some(file) = gathered.files.get_mut(&node) else {
                continue;
            };
            let fits = total.saturating_add(file.bytes) <= self.limit;
            if candidate.open || fits {
                total = total.saturating_add(file.bytes);
            }
            if !fits {
                file.copied = None;
            } else if quiet && !self.is_fresh(node, file) {
                let copied = self.copy(&candidate.inode, file.bytes, ending);
                file.copied = copied.ok();
            }
        }
        self.too_much(gathered, candidates)
    }

    /// Notes what `inode` is like now. Answers whether it is as it was at the last look,
    /// or this is the first.
    fn look(&self, gathered: &mut Gathered, inode: &Inode) -> FsResult<bool> {
        let seen = Stamp::of(&sys::statx(inode.fd()?.as_fd())?);
        match gathered.files.get_mut(&inode.id()) {
            Some(file) if file.seen == seen => Ok(true),
            Some(file) => {
                file.seen = seen;
                file.bytes = self.measure(inode, seen.size)?;
                Ok(false)
            }
            None => {
                let file = File {
                    seen,
                    bytes: self.measure(inode, seen.size)?,
                    copied: None,
                };
                gathered.files.insert(inode.id(), file);
                Ok(true)
            }
        }
    }

    fn is_fresh(&self, node: NodeId, file: &File) -> bool {
        let same = |(stamp, _): &(Stamp, Pieces)| *stamp == file.seen && stamp.is_settled();
        file.copied.as_ref().is_some_and(same) && self.watch.is_clean(node)
    }

    /// Whether the open ones are more than may cross, by the last looks.
    pub(in super::super) fn too_much(
        &self,
        gathered: &Gathered,
        candidates: &[Candidate],
    ) -> Option<TooMuch> {
        let files = files_of(candidates);
        let open: Vec<(&Candidate, u64)> = files
            .iter()
            .filter(|candidate| candidate.open)
            .filter_map(|candidate| {
                let file = gathered.files.get(&candidate.inode.id())?;
                Some((*candidate, file.bytes))
            })
            .collect();
        let bytes = open.iter().map(|(_, bytes)| bytes).sum();
        if bytes <= self.limit {
            return None;
        }
        let (largest, most) = open.iter().max_by_key(|(_, bytes)| *bytes)?;
        Some(TooMuch {
            bytes,
            limit: self.limit,
            files: open.len(),
            largest: (largest.inode.id(), *most, self.was(&largest.inode)),
        })
    }

    /// Looks again, without copying anything: is it still too much?
    pub(in super::super) fn measure_again(
        &self,
        gathered: &mut Gathered,
        candidates: &[Candidate],
    ) -> Option<TooMuch> {
        for candidate in files_of(candidates) {
            // What cannot be looked at is told when the state is collected.
            let _ = self.look(gathered, &candidate.inode);
        }
        self.too_much(gathered, candidates)
    }

    /// The device is stopped: takes what crosses, reading what has changed. Answers also
    /// whether more is open than may cross.
    pub(in super::super) fn select(
        &self,
        gathered: &mut Gathered,
        mut candidates: Vec<Candidate>,
    ) -> (Selection, Option<TooMuch>) {
        // What is open first; then what the guest itself has removed and still holds.
        candidates.sort_by_key(|c| (!c.open, c.named, c.inode.id()));
        let too_much = self.measure_again(gathered, &candidates);
        let mut selection = Selection::default();
        let mut idle = 0;
        for candidate in candidates {
            let inode = &candidate.inode;
            idle += usize::from(!candidate.open);
            if idle > MOST_IDLE && !candidate.open {
                let why = "it has been unlinked, and so have many more of which nothing is open";
                selection.left.push((candidate, why));
                continue;
            }
            if inode.kind() != libc::S_IFREG {
                selection.ghosts.push((inode.clone(), Pieces::new()));
                continue;
            }
            let room = self.limit.saturating_sub(selection.bytes);
            match self.contents(gathered, inode, room) {
                Ok((pieces, read_now)) => {
                    let bytes: u64 = pieces.iter().map(|(_, bytes)| bytes.len() as u64).sum();
                    selection.bytes += bytes;
                    selection.read_now += if read_now { bytes } else { 0 };
                    selection.ghosts.push((inode.clone(), pieces));
                }
                Err(Errno::EFBIG) => {
                    let why = "it has been unlinked, and its contents are beyond --ghost-limit";
                    selection.left.push((candidate, why));
                }
                Err(e) => {
                    let node = inode.id();
                    log::warn!("inode {node}: failed to read its contents: {e}");
                    let why = "it has been unlinked, and its contents cannot be read";
                    selection.left.push((candidate, why));
                }
            }
        }
        selection.ghosts.sort_by_key(|(inode, _)| inode.id());
        (selection, too_much)
    }

    /// The contents of a file now, `EFBIG` where they are more than `room`. Answers
    /// whether they had to be read.
    fn contents(
        &self,
        gathered: &mut Gathered,
        inode: &Inode,
        room: u64,
    ) -> FsResult<(Pieces, bool)> {
        let node = inode.id();
        if let Some(file) = gathered.files.get_mut(&node) {
            if file.bytes > room {
                return Err(Errno::EFBIG);
            }
            if self.is_fresh(node, file) {
                if let Some((_, pieces)) = file.copied.take() {
                    return Ok((pieces, false));
                }
            }
            file.copied = None;
        }
        let (_, pieces) = self.copy(inode, room, &|| false)?;
        Ok((pieces, true))
    }

    /// Reads a file of up to `most` bytes that are no hole.
    fn copy(
        &self,
        inode: &Inode,
        most: u64,
        ending: &dyn Fn() -> bool,
    ) -> FsResult<(Stamp, Pieces)> {
        self.watch.begin(inode.id());
        let fd = self.open(inode)?;
        let stamp = Stamp::of(&sys::statx(fd.as_fd())?);
        let mut pieces = Pieces::new();
        let mut left = most;
        segments(fd.as_fd(), stamp.size, |mut at, end| {
            while at < end {
                if ending() {
                    return Err(Errno::EINTR);
                }
                let mut piece = vec![0; (end - at).min(MAX_GHOST_PIECE as u64) as usize];
                let n = read_at(fd.as_fd(), &mut piece, at)?;
                if n == 0 {
                    // It has become shorter meanwhile.
                    break;
                }
                left = left.checked_sub(n as u64).ok_or(Errno::EFBIG)?;
                piece.truncate(n);
                pieces.push((at, ByteBuf::from(piece)));
                at += n as u64;
            }
            Ok(())
        })?;
        Ok((stamp, pieces))
    }

    fn measure(&self, inode: &Inode, size: u64) -> FsResult<u64> {
        if size == 0 {
            return Ok(0);
        }
        let fd = self.open(inode)?;
        let mut bytes = 0;
        segments(fd.as_fd(), size, |start, end| {
            bytes += end - start;
            Ok(())
        })?;
        Ok(bytes)
    }

    /// The file, for reading, by what right there is: its own, or that of a handle of the
    /// guest's.
    fn open(&self, inode: &Inode) -> FsResult<OwnedFd> {
        let flags = libc::O_RDONLY | libc::O_NONBLOCK;
        match inode.open(self.proc_self_fd, flags | libc::O_NOATIME) {
            Err(Errno::EPERM) => {}
            other => return other,
        }
        match inode.open(self.proc_self_fd, flags) {
            Err(Errno::EACCES) => {}
            other => return other,
        }
        let reads = |flags: u32| flags & libc::O_ACCMODE as u32 != libc::O_WRONLY as u32;
        let handles = self.handles.all();
        let open = handles
            .iter()
            .find(|(_, file)| file.node() == inode.id() && reads(file.host_flags()));
        let (_, file) = open.ok_or(Errno::EACCES)?;
        Ok(file.fd()?.try_clone_to_owned()?)
    }

    /// The path that `inode` had, spelled for a message.
    pub(in super::super) fn was(&self, inode: &Inode) -> Option<String> {
        let path = self.components(inode)?;
        Some(path.join(&b'/').escape_ascii().to_string())
    }

    /// The path that `inode` had in the share.
    pub(in super::super) fn components(&self, inode: &Inode) -> Option<Vec<Vec<u8>>> {
        const DELETED: &[u8] = b" (deleted)";
        let below = |fd: BorrowedFd<'_>| {
            let path = path_below(self.proc_self_fd, self.root, fd).ok()??;
            let (last, above) = path.split_last()?;
            let last = last.strip_suffix(DELETED)?;
            Some([above, &[last.to_vec()]].concat())
        };
        let own = inode.fd().ok().and_then(|fd| below(fd.as_fd()));
        own.or_else(|| {
            // What was found by handle has forgotten its name; what was opened by it has
            // not.
            let handles = self.handles.all();
            let mut open = handles.iter().filter(|(_, file)| file.node() == inode.id());
            open.find_map(|(_, file)| below(file.fd().ok()?))
        })
    }
}

/// Those that have contents, the open ones first.
fn files_of(candidates: &[Candidate]) -> Vec<&Candidate> {
    let mut files: Vec<&Candidate> = candidates
        .iter()
        .filter(|candidate| candidate.inode.kind() == libc::S_IFREG)
        .collect();
    files.sort_by_key(|candidate| (!candidate.open, candidate.inode.id()));
    files
}

/// Gives what of a file is no hole, up to `size`, to `each`: first byte, and the one
/// behind the last.
fn segments(
    fd: BorrowedFd<'_>,
    size: u64,
    mut each: impl FnMut(u64, u64) -> FsResult<()>,
) -> FsResult<()> {
    let mut at = 0;
    while at < size {
        let start = match sys::lseek(fd, at as i64, libc::SEEK_DATA) {
            Ok(start) => start,
            // Nothing but a hole up to the end.
            Err(Errno::ENXIO) => break,
            // A file system that knows of no holes.
            Err(Errno::EINVAL) => return each(at, size),
            Err(e) => return Err(e),
        };
        let end = match sys::lseek(fd, start as i64, libc::SEEK_HOLE) {
            Ok(end) => end.min(size),
            // It has become shorter meanwhile.
            Err(Errno::ENXIO) => break,
            Err(e) => return Err(e),
        };
        if start >= end {
            break;
        }
        each(start, end)?;
        at = end;
    }
    Ok(())
}

fn read_at(fd: BorrowedFd<'_>, buf: &mut [u8], offset: u64) -> FsResult<usize> {
    let mut n = 0;
    while n < buf.len() {
        match rustix::io::pread(fd, &mut buf[n..], offset + n as u64) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(n)
}
