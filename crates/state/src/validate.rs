//! What a state must be like for a daemon to take it over. A stream is hostile
//! input: whatever gets past this has names that lead nowhere else, numbers that
//! collide with nothing, and flags that change nothing on disk.

use serde_bytes::ByteBuf;

use crate::limits::Limits;
use crate::model::{Counters, FileHandle, Handle, Inode, Location, Session, State};
use crate::section::{FrameRef, SectionId};

/// `FUSE_ROOT_ID`.
pub const ROOT_ID: u64 = 1;
/// `NAME_MAX`, in bytes.
pub const NAME_MAX: usize = 255;
/// `MAX_HANDLE_SZ`, in bytes.
pub const MAX_HANDLE_BYTES: usize = 128;
/// Ids and counters stay below this, so that counting on cannot wrap.
pub const ID_LIMIT: u64 = 1 << 63;

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

/// What an [`Invalid`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Subject {
    /// The session.
    #[error("session")]
    Session,
    /// The counters.
    #[error("counters")]
    Counters,
    /// A mount, by id.
    #[error("mount {0}")]
    Mount(u32),
    /// An inode, by nodeid.
    #[error("inode {0}")]
    Inode(u64),
    /// A handle, by `fh`.
    #[error("handle {0}")]
    Handle(u64),
    /// All records of a section.
    #[error("section {0}")]
    Section(SectionId),
}

/// Why a state cannot be taken over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{subject}: {problem}")]
pub struct Invalid {
    /// What it is about.
    pub subject: Subject,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A path component that could lead elsewhere or that no file system takes.
    #[error("\"{name}\" is no name: {why}")]
    Name {
        /// The name, escaped, at most its first 64 bytes.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A path with no component.
    #[error("an empty path")]
    EmptyPath,
    /// A path of more components than are allowed.
    #[error("a path of {0} components")]
    PathDepth(usize),
    /// Two records with one id.
    #[error("the id is used twice")]
    Duplicate,
    /// An id below the one before it.
    #[error("not in ascending order: it comes after {0}")]
    Order(u64),
    /// An id that nothing can have.
    #[error("the id is out of range")]
    IdRange,
    /// A counter that collides or has no room left.
    #[error("{name} is {value}, but must be above {above} and below 2^63")]
    Counter {
        /// `next_inode` or `next_handle`.
        name: &'static str,
        /// Its value.
        value: u64,
        /// The largest id in use.
        above: u64,
    },
    /// More records than the limits allow.
    #[error("more than {0} records")]
    TooMany(u64),
    /// A number of the session's that cannot be.
    #[error("{name} is {value}, {must}")]
    Number {
        /// Which field.
        name: &'static str,
        /// Its value.
        value: u64,
        /// What it must be.
        must: &'static str,
    },
    /// INIT flags in the answer that were not offered.
    #[error("INIT flags {0:#x} are in use but were not offered")]
    NotOffered(u64),
    /// Not one of the seven file types.
    #[error("{0:#o} is no file type")]
    Kind(u32),
    /// An inode that the guest does not hold.
    #[error("the guest holds no lookup of it")]
    NoLookups,
    /// The root is elsewhere, or something else claims to be it.
    #[error("inode 1 and no other is the root")]
    NotRoot,
    /// The root is not there.
    #[error("there is no root inode")]
    MissingRoot,
    /// A root that cannot be shared.
    #[error("the root is neither a directory nor a regular file")]
    RootKind,
    /// A file handle that is too long.
    #[error("a file handle of {0} bytes")]
    FileHandleLength(usize),
    /// A file handle on a mount that the stream does not have.
    #[error("its file handle is on mount {0}, which is not in the stream")]
    UnknownMount(u32),
    /// Not a positive errno.
    #[error("{0} is no errno")]
    Errno(i32),
    /// A parent that is not in the stream.
    #[error("its parent, inode {0}, is not in the stream")]
    MissingParent(u64),
    /// A parent that cannot have children.
    #[error("its parent, inode {0}, is no directory")]
    ParentKind(u64),
    /// An inode that is its own ancestor.
    #[error("it is its own ancestor")]
    Cycle,
    /// A handle of an inode that is not in the stream.
    #[error("its inode {0} is not in the stream")]
    MissingInode(u64),
    /// A directory handle of a file, or the other way round, or a handle of
    /// something that the daemon never opens.
    #[error("a {handle} handle of inode {inode}, which has file type {kind:#o}")]
    HandleKind {
        /// `file` or `directory`.
        handle: &'static str,
        /// The inode.
        inode: u64,
        /// Its `S_IFMT` bits.
        kind: u32,
    },
    /// Flags that would act again, or that are not known.
    #[error("{field} {flags:#o} has bits that no open file may have: {bad:#o}")]
    Flags {
        /// `guest_flags` or `host_flags`.
        field: &'static str,
        /// The flags.
        flags: u32,
        /// Those that are refused.
        bad: u32,
    },
    /// A guest's table with no session behind it.
    #[error("it belongs to a guest, but there is no session")]
    NoSession,
}

fn invalid(subject: Subject, problem: Problem) -> Invalid {
    Invalid { subject, problem }
}

/// Checks one path component.
///
/// # Errors
/// Empty, `.`, `..`, with `/` or NUL, or above [`NAME_MAX`] bytes.
pub fn check_name(name: &[u8]) -> Result<(), Problem> {
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

fn check_file_handle(handle: &FileHandle) -> Result<(), Problem> {
    match handle.bytes.len() {
        1..=MAX_HANDLE_BYTES => Ok(()),
        length => Err(Problem::FileHandleLength(length)),
    }
}

fn check_inode(inode: &Inode) -> Result<(), Problem> {
    if inode.id == 0 || inode.id >= ID_LIMIT {
        return Err(Problem::IdRange);
    }
    if inode.lookups == 0 {
        return Err(Problem::NoLookups);
    }
    if !KINDS.contains(&inode.kind) {
        return Err(Problem::Kind(inode.kind));
    }
    if (inode.id == ROOT_ID) != (inode.location == Location::Root) {
        return Err(Problem::NotRoot);
    }
    match &inode.location {
        Location::Root if inode.kind != S_IFDIR && inode.kind != S_IFREG => Err(Problem::RootKind),
        Location::Root => Ok(()),
        Location::Child { name, .. } => check_name(name),
        Location::Path { components, .. } if components.is_empty() => Err(Problem::EmptyPath),
        Location::Path { components, .. } => check_path(components),
        Location::Handle(handle) => check_file_handle(handle),
        Location::Lost { errno: 1..=4095 } => Ok(()),
        Location::Lost { errno } => Err(Problem::Errno(*errno)),
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
}

/// The ids of one section so far.
#[derive(Clone, Copy, Debug, Default)]
struct Ids {
    count: u64,
    last: Option<u64>,
}

impl Ids {
    fn next(&mut self, id: u64, limit: u64) -> Result<(), Problem> {
        match self.last {
            Some(last) if id == last => return Err(Problem::Duplicate),
            Some(last) if id < last => return Err(Problem::Order(last)),
            _ => self.last = Some(id),
        }
        self.count += 1;
        match self.count > limit {
            true => Err(Problem::TooMany(limit)),
            false => Ok(()),
        }
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
            FrameRef::Inodes(inodes) => {
                for inode in inodes {
                    self.inodes
                        .next(inode.id, self.limits.inodes)
                        .and_then(|()| check_inode(inode))
                        .map_err(|p| invalid(Subject::Inode(inode.id), p))?;
                }
                match self.counters {
                    Some(c) => check_counter("next_inode", c.next_inode, self.inodes.last),
                    None => Ok(()),
                }
            }
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
        }
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

/// Checks what needs the whole state: root, parents, cycles, mounts, handles'
/// inodes. Takes time and memory in proportion to the number of records. The
/// records themselves have been through a [`Checker`].
///
/// # Errors
/// The first contradiction.
pub fn check_links(state: &State) -> Result<(), Invalid> {
    let inodes = &state.fs.inodes;
    check_root(state)?;
    let index = Index::new(inodes);

    for inode in inodes {
        if let Location::Handle(handle) = &inode.location {
            if state
                .fs
                .mounts
                .binary_search_by_key(&handle.mount, |m| m.id)
                .is_err()
            {
                let problem = Problem::UnknownMount(handle.mount);
                return Err(invalid(Subject::Inode(inode.id), problem));
            }
        }
    }
    check_parents(inodes, &index)?;

    for handle in &state.fs.handles {
        let fail = |problem| Err(invalid(Subject::Handle(handle.id), problem));
        let Some(position) = index.position(handle.inode) else {
            return fail(Problem::MissingInode(handle.inode));
        };
        let kind = inodes[position].kind;
        let (wanted, name) = match handle.directory {
            true => (S_IFDIR, "directory"),
            false => (S_IFREG, "file"),
        };
        if kind != wanted {
            return fail(Problem::HandleKind {
                handle: name,
                inode: handle.inode,
                kind,
            });
        }
    }
    Ok(())
}

fn check_root(state: &State) -> Result<(), Invalid> {
    let fs = &state.fs;
    let root = fs.inodes.first().is_some_and(|i| i.id == ROOT_ID);
    let needed = state.session.is_some() || !fs.inodes.is_empty() || !fs.handles.is_empty();
    if needed && !root {
        return Err(invalid(Subject::Inode(ROOT_ID), Problem::MissingRoot));
    }
    if state.session.is_none() {
        let guest = match (fs.inodes.get(1), fs.handles.first()) {
            (Some(inode), _) => Some(Subject::Inode(inode.id)),
            (None, Some(handle)) => Some(Subject::Handle(handle.id)),
            (None, None) => None,
        };
        if let Some(subject) = guest {
            return Err(invalid(subject, Problem::NoSession));
        }
    }
    Ok(())
}

fn parent_of(location: &Location) -> Option<u64> {
    match location {
        Location::Child { parent, .. } => Some(*parent),
        Location::Path { from, .. } => Some(*from),
        Location::Root | Location::Handle(_) | Location::Lost { .. } => None,
    }
}

fn check_parents(inodes: &[Inode], index: &Index<'_>) -> Result<(), Invalid> {
    const NONE: u32 = u32::MAX;
    let mut parents = vec![NONE; inodes.len()];
    // Ids grow with time, so nearly every parent comes before its children, and a
    // chain that only ever leads backwards ends. Only the others can be cycles.
    let mut forward = false;
    for (position, inode) in inodes.iter().enumerate() {
        let Some(parent) = parent_of(&inode.location) else {
            continue;
        };
        let fail = |problem| Err(invalid(Subject::Inode(inode.id), problem));
        let Some(at) = index.position(parent) else {
            return fail(Problem::MissingParent(parent));
        };
        if inodes[at].kind != S_IFDIR {
            return fail(Problem::ParentKind(parent));
        }
        parents[position] = at as u32;
        forward |= at >= position;
    }
    if !forward {
        return Ok(());
    }
    // Walk up from each inode, marking the way; a chain that meets its own marks is
    // a cycle, one that meets what is done is sound. Each inode is passed once.
    const NEW: u32 = 0;
    const DONE: u32 = u32::MAX;
    let mut marks = vec![NEW; inodes.len()];
    for start in 0..inodes.len() {
        let mark = start as u32 + 1;
        let mut at = start;
        while marks[at] == NEW {
            marks[at] = mark;
            match parents[at] {
                NONE => break,
                parent => at = parent as usize,
            }
        }
        if marks[at] == mark && parents[at] != NONE {
            return Err(invalid(Subject::Inode(inodes[at].id), Problem::Cycle));
        }
        let mut at = start;
        while marks[at] == mark {
            marks[at] = DONE;
            match parents[at] {
                NONE => break,
                parent => at = parent as usize,
            }
        }
    }
    Ok(())
}

/// Finds inodes by id. Ids of a daemon that has not run for long are dense, and
/// then a table of positions is faster than any search.
struct Index<'a> {
    inodes: &'a [Inode],
    table: Vec<u32>,
}

impl<'a> Index<'a> {
    fn new(inodes: &'a [Inode]) -> Self {
        let max = inodes.last().map_or(0, |i| i.id);
        let dense =
            max <= (inodes.len() as u64).saturating_mul(8) && inodes.len() < u32::MAX as usize;
        let mut table = Vec::new();
        if dense {
            table = vec![u32::MAX; max as usize + 1];
            for (position, inode) in inodes.iter().enumerate() {
                table[inode.id as usize] = position as u32;
            }
        }
        Index { inodes, table }
    }

    fn position(&self, id: u64) -> Option<usize> {
        if self.table.is_empty() {
            return self.inodes.binary_search_by_key(&id, |i| i.id).ok();
        }
        let position = *self.table.get(usize::try_from(id).ok()?)?;
        (position != u32::MAX).then_some(position as usize)
    }
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
    check_links(state)
}
