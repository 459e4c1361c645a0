//! What a state must be like for a daemon to take it over. A stream is hostile
//! input: whatever gets past this has names that lead nowhere else, numbers that
//! collide with nothing, and flags that change nothing on disk.

use serde_bytes::ByteBuf;

use crate::limits::Limits;
use crate::model::{Counters, FileSystem, Handle, Request, Session, State};
use crate::packed::{IdentityRef, InodeRef, MarkRef, PackedFrame, Place};
use crate::section::FrameRef;

mod ghosts;
mod links;
mod locks;
mod problem;
#[cfg(test)]
mod tests;

pub use ghosts::MAX_GHOST_PIECE;
pub use links::check_links;
pub(crate) use links::check_packed;
pub use problem::{Invalid, Problem, Subject};

/// `FUSE_ROOT_ID`.
pub const ROOT_ID: u64 = 1;
/// `NAME_MAX`, in bytes.
pub const NAME_MAX: usize = 255;
/// `MAX_HANDLE_SZ`, in bytes.
pub const MAX_HANDLE_BYTES: usize = 128;
/// Length of a kernel's boot id, in bytes.
pub const BOOT_ID_BYTES: usize = 16;
/// `OFFSET_MAX`: the last byte of a lock that goes on to the file's end.
pub const LOCK_END: u64 = i64::MAX as u64;
/// Ids and counters stay below this, so that counting on cannot wrap.
pub const ID_LIMIT: u64 = 1 << 63;

/// `Inode::kind` where the writer could not say: a dialect has no place for it.
pub const KIND_UNKNOWN: u32 = 0;

const S_IFREG: u32 = 0o100000;
const S_IFDIR: u32 = 0o040000;
/// fifo, character device, directory, block device, regular file, symlink, socket.
const KINDS: [u32; 7] = [
    0o010000, 0o020000, S_IFDIR, 0o060000, S_IFREG, 0o120000, 0o140000,
];

/// Flags that an open file may have. Bits 14 to 17 are O_DIRECT, O_LARGEFILE,
/// O_DIRECTORY and O_NOFOLLOW in one order on x86 and another on arm64; all four
/// are harmless, so the mask is the same everywhere.
pub const HOST_FLAGS: u32 = 0o3 // access mode
    | 0o400 // O_NOCTTY
    | 0o2000 // O_APPEND
    | 0o4000 // O_NONBLOCK
    | 0o10000 // O_DSYNC
    | 0o20000 // FASYNC
    | 0o40000 | 0o100000 | 0o200000 | 0o400000
    | 0o1000000 // O_NOATIME
    | 0o2000000 // O_CLOEXEC
    | 0o4000000; // __O_SYNC, the other half of O_SYNC

/// The same for a guest's own flags, which also show two that its kernel uses
/// within itself: `FMODE_EXEC` (a program that runs) and `FMODE_NONOTIFY`.
pub const GUEST_FLAGS: u32 = HOST_FLAGS | 0x20 | 0x400_0000;

fn invalid(subject: Subject, problem: Problem) -> Invalid {
    Invalid { subject, problem }
}

/// Checks one path component.
///
/// # Errors
/// Empty, `.`, `..`, with `/` or NUL, or above [`NAME_MAX`] bytes.
pub fn check_name(name: &[u8]) -> Result<(), Problem> {
    // Nearly all are good, and told to be by one pass.
    if (3..=NAME_MAX).contains(&name.len()) && !has_slash_or_nul(name) {
        return Ok(());
    }
    let why = match name {
        b"" => "it is empty",
        b"." | b".." => "it is a dot entry",
        _ if name.len() > NAME_MAX => "it is longer than 255 bytes",
        _ if name.contains(&b'/') => "it contains a slash",
        _ if name.contains(&0) => "it contains a NUL byte",
        _ => return Ok(()),
    };
    Err(Problem::Name {
        name: name[..name.len().min(64)].escape_ascii().to_string(),
        why,
    })
}

/// Whether `/` or NUL is among `bytes`, eight of which are looked at at a time: half
/// of what checking a state costs would otherwise be this.
fn has_slash_or_nul(bytes: &[u8]) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const SLASHES: u64 = ONES * b'/' as u64;
    const HIGH: u64 = ONES * 0x80;
    // Borrows set a high bit where a byte is 0, or above one that is.
    let has_zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGH != 0;
    let has = |bytes: &[u8; 8]| {
        let word = u64::from_le_bytes(*bytes);
        has_zero(word) | has_zero(word ^ SLASHES)
    };
    let Some(last) = bytes.last_chunk::<8>() else {
        return bytes.iter().any(|&b| b == b'/' || b == 0);
    };
    // The last eight overlap those before them.
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first_chunk::<8>() {
        if has(first) {
            return true;
        }
        rest = after;
    }
    has(last)
}

fn check_path(components: &[ByteBuf]) -> Result<(), Problem> {
    if components.len() > crate::MAX_COMPONENTS {
        return Err(Problem::PathDepth(components.len()));
    }
    components.iter().try_for_each(|c| check_name(c))
}

fn check_session(s: &Session) -> Result<(), Problem> {
    // Bounds: 27 is the oldest minor that this project serves; 4096 is the kernel's
    // own minimum for max_write; 16 MiB is four times what any kernel asks for.
    let number = |name, value: u64, min: u64, max: u64, must| match (min..=max).contains(&value) {
        true => Ok(()),
        false => Err(Problem::Number { name, value, must }),
    };
    number(
        "guest_minor",
        s.guest_minor.into(),
        27,
        9999,
        "not 27 to 9999",
    )?;
    number("minor", s.minor.into(), 27, 9999, "not 27 to 9999")?;
    number(
        "max_write",
        s.max_write.into(),
        4096,
        16 << 20,
        "not 4 KiB to 16 MiB",
    )?;
    number(
        "time_gran",
        s.time_gran.into(),
        0,
        1_000_000_000,
        "not at most 1 second",
    )?;
    match s.flags & !s.offered_flags {
        0 => Ok(()),
        extra => Err(Problem::NotOffered(extra)),
    }
}

fn check_file_handle(bytes: &[u8]) -> Result<(), Problem> {
    match bytes.len() {
        1..=MAX_HANDLE_BYTES => Ok(()),
        length => Err(Problem::FileHandleLength(length)),
    }
}

fn check_file_system(file_system: &FileSystem) -> Result<(), Problem> {
    match file_system.boot.len() {
        0 | BOOT_ID_BYTES => Ok(()),
        length => Err(Problem::BootId(length)),
    }
}

pub(crate) fn check_mark(mark: &MarkRef<'_>) -> Result<(), Problem> {
    match mark {
        MarkRef::Handle { bytes, .. } => check_file_handle(bytes),
        MarkRef::Numbers { .. } => Ok(()),
    }
}

pub(crate) fn check_inode(inode: &InodeRef<'_>) -> Result<(), Problem> {
    if inode.id == 0 || inode.id >= ID_LIMIT {
        return Err(Problem::IdRange);
    }
    if inode.lookups == 0 {
        return Err(Problem::NoLookups);
    }
    if inode.kind != KIND_UNKNOWN && !KINDS.contains(&inode.kind) {
        return Err(Problem::Kind(inode.kind));
    }
    if (inode.id == ROOT_ID) != (inode.place == Place::Root) {
        return Err(Problem::NotRoot);
    }
    match inode.place {
        Place::Root if inode.kind != S_IFDIR && inode.kind != S_IFREG => Err(Problem::RootKind),
        Place::Root => Ok(()),
        Place::Child { name, .. } => check_name(name),
        Place::Path { components: [], .. } => Err(Problem::EmptyPath),
        Place::Path { components, .. } => check_path(components),
        Place::Handle { bytes, .. } => check_file_handle(bytes),
        Place::Lost { errno: 1..=4095 } => Ok(()),
        Place::Lost { errno } => Err(Problem::Errno(errno)),
    }
}

fn check_handle(handle: &Handle) -> Result<(), Problem> {
    if handle.id >= ID_LIMIT {
        return Err(Problem::IdRange);
    }
    for (field, flags, allowed) in [
        ("guest_flags", handle.guest_flags, GUEST_FLAGS),
        ("host_flags", handle.host_flags, HOST_FLAGS),
    ] {
        let bad = flags & !allowed;
        if bad != 0 {
            return Err(Problem::Flags { field, flags, bad });
        }
    }
    Ok(())
}

/// Checks records one frame after the other: each by itself, and its id against
/// those before. Memory does not depend on their number.
#[derive(Clone, Debug)]
pub struct Checker {
    limits: Limits,
    counters: Option<Counters>,
    mounts: Ids,
    inodes: Ids,
    handles: Ids,
    file_systems: Ids,
    identities: Ids,
    locks: locks::Locks,
    requests: u64,
    ghosts: Ids,
    contents: ghosts::Contents,
}

/// The ids of one section so far.
#[derive(Clone, Copy, Debug, Default)]
struct Ids {
    count: u64,
    first: Option<u64>,
    last: Option<u64>,
}

impl Ids {
    fn next(&mut self, id: u64, limit: u64) -> Result<(), Problem> {
        match self.last {
            Some(last) if id == last => return Err(Problem::Duplicate),
            Some(last) if id < last => return Err(Problem::Order(last)),
            _ => self.last = Some(id),
        }
        self.first.get_or_insert(id);
        self.count += 1;
        match self.count > limit {
            true => Err(Problem::TooMany(limit)),
            false => Ok(()),
        }
    }

    /// Those of a pack that is in order.
    fn of(ids: &[u64]) -> Ids {
        Ids {
            count: ids.len() as u64,
            first: ids.first().copied(),
            last: ids.last().copied(),
        }
    }

    /// These and, behind them, `later`, if they go on in order and within the limit.
    fn then(self, later: Ids, limit: u64) -> Option<Ids> {
        let both = match (self.last, later.first) {
            (Some(last), Some(first)) if first <= last => return None,
            (None, _) => later,
            (_, None) => self,
            _ => Ids {
                count: self.count + later.count,
                first: self.first,
                last: later.last,
            },
        };
        (both.count <= limit).then_some(both)
    }
}

/// A frame that has been checked by itself, on whatever thread.
#[derive(Clone, Debug)]
pub(crate) struct Checked(Result<Checker, Invalid>);

impl Checked {
    /// Checks the records of one frame, all but what those of others have to do with.
    pub(crate) fn new(frame: &PackedFrame, limits: &Limits) -> Self {
        let mut checker = Checker::new(limits);
        Checked(checker.packed(frame).map(|()| checker))
    }
}

impl Checker {
    /// A checker that has seen nothing.
    pub fn new(limits: &Limits) -> Self {
        Checker {
            limits: *limits,
            counters: None,
            mounts: Ids::default(),
            inodes: Ids::default(),
            handles: Ids::default(),
            file_systems: Ids::default(),
            identities: Ids::default(),
            locks: locks::Locks::default(),
            requests: 0,
            ghosts: Ids::default(),
            contents: ghosts::Contents::default(),
        }
    }

    /// Checks the next frame.
    ///
    /// # Errors
    /// The first record that is wrong.
    pub fn frame(&mut self, frame: FrameRef<'_>) -> Result<(), Invalid> {
        match frame {
            FrameRef::Session(session) => {
                check_session(session).map_err(|p| invalid(Subject::Session, p))
            }
            FrameRef::Counters(counters) => {
                self.counters = Some(*counters);
                check_counter("next_inode", counters.next_inode, Some(ROOT_ID))?;
                check_counter("next_handle", counters.next_handle, None)
            }
            FrameRef::Mounts(mounts) => mounts.iter().try_for_each(|mount| {
                self.mounts
                    .next(mount.id.into(), self.limits.mounts)
                    .and_then(|()| check_path(&mount.path))
                    .map_err(|p| invalid(Subject::Mount(mount.id), p))
            }),
            FrameRef::Inodes(inodes) => self.inodes(inodes.iter().map(InodeRef::from)),
            FrameRef::Handles(handles) => {
                for handle in handles {
                    self.handles
                        .next(handle.id, self.limits.handles)
                        .and_then(|()| check_handle(handle))
                        .map_err(|p| invalid(Subject::Handle(handle.id), p))?;
                }
                match self.counters {
                    Some(c) => check_counter("next_handle", c.next_handle, self.handles.last),
                    None => Ok(()),
                }
            }
            FrameRef::FileSystems(file_systems) => file_systems.iter().try_for_each(|fs| {
                self.file_systems
                    .next(fs.id.into(), self.limits.mounts)
                    .and_then(|()| check_file_system(fs))
                    .map_err(|p| invalid(Subject::FileSystem(fs.id), p))
            }),
            FrameRef::Identities(all) => self.identities(all.iter().map(IdentityRef::from)),
            FrameRef::Requests(requests) => requests.iter().try_for_each(|request| {
                self.requests += 1;
                if self.requests <= self.limits.locks {
                    return Ok(());
                }
                let &Request { queue, head } = request;
                let problem = Problem::TooMany(self.limits.locks);
                Err(invalid(Subject::Request { queue, head }, problem))
            }),
            FrameRef::Locks(locks) => locks.iter().try_for_each(|lock| {
                self.locks
                    .next(lock, self.limits.locks)
                    .map_err(|p| locks::fail(lock, p))
            }),
            FrameRef::Ghosts(ghosts) => ghosts.iter().try_for_each(|ghost| {
                self.ghosts
                    .next(ghost.inode, self.limits.ghosts)
                    .and_then(|()| ghosts::check_ghost(ghost))
                    .map_err(|p| invalid(Subject::Ghost(ghost.inode), p))
            }),
            FrameRef::GhostData(data) => data.iter().try_for_each(|piece| {
                self.contents
                    .next(piece, self.limits.ghost_bytes)
                    .map_err(|p| invalid(ghosts::piece(piece), p))
            }),
        }
    }

    /// [`Checker::frame`] for a frame that may be packed.
    ///
    /// # Errors
    /// As [`Checker::frame`].
    pub(crate) fn packed(&mut self, frame: &PackedFrame) -> Result<(), Invalid> {
        match frame {
            PackedFrame::Inodes(pack) => {
                let (ids, limit) = (Ids::of(pack.ids()), self.limits.inodes);
                let then = || self.inodes.then(ids, limit);
                match pack.is_sound().then(then).flatten() {
                    Some(both) => {
                        self.inodes = both;
                        self.inodes_counted()
                    }
                    // Which one it is, and what is wrong with it.
                    None => self.inodes(pack.iter()),
                }
            }
            PackedFrame::Identities(pack) => {
                let (ids, limit) = (Ids::of(pack.ids()), self.limits.inodes);
                let then = || self.identities.then(ids, limit);
                match pack.is_sound().then(then).flatten() {
                    Some(both) => {
                        self.identities = both;
                        Ok(())
                    }
                    None => self.identities(pack.iter()),
                }
            }
            PackedFrame::Other(frame) => self.frame(frame.as_ref()),
        }
    }

    fn inodes<'a>(
        &mut self,
        mut inodes: impl Iterator<Item = InodeRef<'a>>,
    ) -> Result<(), Invalid> {
        inodes.try_for_each(|inode| {
            self.inodes
                .next(inode.id, self.limits.inodes)
                .and_then(|()| check_inode(&inode))
                .map_err(|p| invalid(Subject::Inode(inode.id), p))
        })?;
        self.inodes_counted()
    }

    /// Whether the counter is above all inodes so far.
    fn inodes_counted(&self) -> Result<(), Invalid> {
        match self.counters {
            Some(c) => check_counter("next_inode", c.next_inode, self.inodes.last),
            None => Ok(()),
        }
    }

    fn identities<'a>(
        &mut self,
        mut identities: impl Iterator<Item = IdentityRef<'a>>,
    ) -> Result<(), Invalid> {
        identities.try_for_each(|identity| {
            self.identities
                .next(identity.inode, self.limits.inodes)
                .and_then(|()| check_mark(&identity.mark))
                .map_err(|p| invalid(Subject::Identity(identity.inode), p))
        })
    }
}

impl Checker {
    /// [`Checker::packed`] for a frame that has been checked by itself.
    ///
    /// # Errors
    /// As [`Checker::frame`], to the letter.
    pub(crate) fn checked(&mut self, frame: &PackedFrame, checked: Checked) -> Result<(), Invalid> {
        match checked.0.ok().and_then(|one| self.with(&one)) {
            Some(both) => *self = both,
            // Whichever record it is, and whether it is wrong by itself or with
            // those before it: the slow way tells.
            None => self.packed(frame)?,
        }
        Ok(())
    }

    /// This checker after the frame that `one` has seen, if there is nothing wrong.
    fn with(&self, one: &Checker) -> Option<Checker> {
        let Checker {
            limits,
            counters,
            mounts,
            inodes,
            handles,
            file_systems,
            identities,
            locks,
            requests,
            ghosts,
            contents,
        } = one;
        if !locks.is_empty() || *requests != 0 || !contents.is_empty() {
            // A few, most of the time; what they have to do with those before is
            // more than a number.
            return None;
        }
        let both = Checker {
            limits: *limits,
            counters: counters.or(self.counters),
            mounts: self.mounts.then(*mounts, limits.mounts)?,
            inodes: self.inodes.then(*inodes, limits.inodes)?,
            handles: self.handles.then(*handles, limits.handles)?,
            file_systems: self.file_systems.then(*file_systems, limits.mounts)?,
            identities: self.identities.then(*identities, limits.inodes)?,
            locks: self.locks.clone(),
            requests: self.requests,
            ghosts: self.ghosts.then(*ghosts, limits.ghosts)?,
            contents: self.contents,
        };
        let counters = both.counters.unwrap_or(Counters {
            next_inode: ID_LIMIT - 1,
            next_handle: ID_LIMIT - 1,
        });
        check_counter("next_inode", counters.next_inode, both.inodes.last).ok()?;
        check_counter("next_handle", counters.next_handle, both.handles.last).ok()?;
        Some(both)
    }
}

fn check_counter(name: &'static str, value: u64, last: Option<u64>) -> Result<(), Invalid> {
    if value < ID_LIMIT && last.is_none_or(|last| value > last) {
        return Ok(());
    }
    let above = last.unwrap_or(0);
    Err(invalid(
        Subject::Counters,
        Problem::Counter { name, value, above },
    ))
}

/// Checks a whole state.
///
/// # Errors
/// The first thing that is wrong.
pub fn validate(state: &State, limits: &Limits) -> Result<(), Invalid> {
    let mut checker = Checker::new(limits);
    if let Some(session) = &state.session {
        checker.frame(FrameRef::Session(session))?;
    }
    checker.frame(FrameRef::Counters(&state.fs.counters()))?;
    checker.frame(FrameRef::Mounts(&state.fs.mounts))?;
    checker.frame(FrameRef::Inodes(&state.fs.inodes))?;
    checker.frame(FrameRef::Handles(&state.fs.handles))?;
    checker.frame(FrameRef::FileSystems(&state.fs.file_systems))?;
    checker.frame(FrameRef::Identities(&state.fs.identities))?;
    checker.frame(FrameRef::Locks(&state.fs.locks))?;
    checker.frame(FrameRef::Requests(&state.fs.requests))?;
    checker.frame(FrameRef::Ghosts(&state.fs.ghosts))?;
    checker.frame(FrameRef::GhostData(&state.fs.ghost_data))?;
    check_links(state)
}
