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
