//! What can be wrong with a state, in words for an operator.

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
    /// A file system, by id.
    #[error("file system {0}")]
    FileSystem(u32),
    /// The identity of an inode, by nodeid.
    #[error("identity of inode {0}")]
    Identity(u64),
    /// A request that waits.
    #[error("request {head} of queue {queue}")]
    Request {
        /// Index of the virtqueue.
        queue: u16,
        /// Head of the chain.
        head: u16,
    },
    /// An unlinked inode, by nodeid.
    #[error("ghost of inode {0}")]
    Ghost(u64),
    /// A piece of the contents of an unlinked inode.
    #[error("contents of inode {inode} from byte {offset}")]
    GhostData {
        /// Nodeid.
        inode: u64,
        /// First byte.
        offset: u64,
    },
    /// A lock.
    #[error("lock of inode {inode} from byte {start} by owner {owner:#x}")]
    Lock {
        /// Nodeid of the file.
        inode: u64,
        /// `lock_owner`.
        owner: u64,
        /// First byte.
        start: u64,
    },
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
    /// A boot id that is none.
    #[error("a boot id of {0} bytes, not of 16 or none")]
    BootId(usize),
    /// An identity of an inode that is not in the stream.
    #[error("the inode is not in the stream")]
    NoSuchInode,
    /// An identity on a file system that the stream does not have.
    #[error("it is on file system {0}, which is not in the stream")]
    UnknownFileSystem(u32),
    /// A range that ends before it begins, or behind where any file can.
    #[error(
        "bytes {start} to {end} are no range: it must end at or after its start and by 2^63-1"
    )]
    LockRange {
        /// First byte.
        start: u64,
        /// Last byte.
        end: u64,
    },
    /// A lock of a part of a file, of a kind that has none.
    #[error("a flock lock has the whole file, bytes 0 to 2^63-1, not {start} to {end}")]
    LockWhole {
        /// First byte.
        start: u64,
        /// Last byte.
        end: u64,
    },
    /// Not in the order that locks have.
    #[error("not in order: locks stand by inode, kind, owner and first byte")]
    LockOrder,
    /// Two locks of one owner where the second replaces a part of the first.
    #[error("it overlaps the same owner's lock of bytes {start} to {end}")]
    LockOverlap {
        /// The other one's first byte.
        start: u64,
        /// Its last byte.
        end: u64,
    },
    /// Two owners with locks that exclude each other.
    #[error("it excludes a lock that owner {owner:#x} holds on some of the same bytes")]
    LockConflict {
        /// The other owner.
        owner: u64,
    },
    /// Something that has no locks.
    #[error("inode {inode} has file type {kind:#o}; only regular files have locks")]
    LockKind {
        /// The inode.
        inode: u64,
        /// Its `S_IFMT` bits.
        kind: u32,
    },
    /// A lock through a handle that is not in the stream.
    #[error("its handle {0} is not in the stream")]
    MissingHandle(u64),
    /// A lock through a handle of another file.
    #[error("its handle {handle} is of inode {inode}")]
    LockHandle {
        /// The handle.
        handle: u64,
        /// The inode that the handle is of.
        inode: u64,
    },
    /// A mode with more than permissions.
    #[error("{0:#o} are no permissions")]
    Permissions(u32),
    /// A second or more of nanoseconds.
    #[error("a time with {0} nanoseconds behind its second")]
    Nanoseconds(u32),
    /// A size that no file has.
    #[error("a size of {0} bytes, which no file can have")]
    Size(u64),
    /// No target of a symbolic link.
    #[error("a target that no symbolic link can have: too long, or with a NUL byte")]
    LinkTarget,
    /// An extended attribute that no file system takes.
    #[error(
        "an extended attribute \"{name}\" with {value} bytes: names have 1 to 255 without a NUL, \
         values up to 65536"
    )]
    Xattr {
        /// Its name, escaped, at most its first 64 bytes.
        name: String,
        /// Length of its value.
        value: usize,
    },
    /// A ghost of an inode that has a place.
    #[error("the inode has a place in the share, and cannot be unlinked at once")]
    NotUnlinked,
    /// Something that an object of that type has not.
    #[error("{what} does not go with file type {kind:#o}")]
    GhostKind {
        /// What it is.
        what: &'static str,
        /// The inode's `S_IFMT` bits.
        kind: u32,
    },
    /// Nowhere to make a ghost.
    #[error("it is to be made beside inode {0}, which is no directory of the share in the stream")]
    GhostDirectory(u64),
    /// Contents of nothing.
    #[error("the stream has no such ghost")]
    NoGhost,
    /// A piece of no length, or of too much.
    #[error("a piece of {0} bytes, not of 1 to 1048576")]
    PieceLength(usize),
    /// A piece behind where any file can have one.
    #[error("{length} bytes from {start} on go beyond what any file can have")]
    PieceRange {
        /// First byte.
        start: u64,
        /// How many.
        length: u64,
    },
    /// Pieces out of order, or over each other.
    #[error("not in order, or over the piece before it, of inode {inode} up to byte {before}")]
    PieceOrder {
        /// Whose the piece before was.
        inode: u64,
        /// The byte behind that piece.
        before: u64,
    },
    /// A piece behind the file's end.
    #[error("it goes beyond the file's end at byte {0}")]
    PieceBeyond(u64),
    /// More contents than are taken.
    #[error(
        "more than {0} bytes of contents of unlinked files; a higher --ghost-limit takes them"
    )]
    Contents(u64),
}
