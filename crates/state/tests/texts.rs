//! Every text that an operator can get of a stream, as it is: a change of one is seen
//! in review. After a change on purpose, `INSTA_UPDATE=always` writes them anew.

use std::collections::BTreeSet;
use std::io;

use ferryfs_state::validate::{Problem, Subject};
use ferryfs_state::{
    error_line, At, CodecError, ContainerVersion, DialectError, Invalid, SectionId, SectionVersion,
    StateError, StateVersion, VersionIncompatible, WriterInfo,
};

/// A function that names the variant of a value, and all names. It does not compile
/// with a variant that it does not have.
macro_rules! variants {
    ($name:ident, $all:ident, $enum:ident { $($variant:ident),* $(,)? }) => {
        const $all: &[&str] = &[$(stringify!($variant)),*];
        fn $name(value: &$enum) -> &'static str {
            match value {
                $($enum::$variant { .. } => stringify!($variant),)*
            }
        }
    };
}

variants!(
    state_error,
    STATE_ERRORS,
    StateError {
        Io,
        Empty,
        NotAStream,
        Truncated,
        Trailing,
        Checksum,
        Malformed,
        Limit,
        Downgrade,
        NoSuchVersion,
        SectionBeyond,
        Version,
        UnknownFormat,
        StreamFormat,
        FormatName,
        UnknownSection,
        Decode,
        Encode,
        Invalid,
        Inconsistent,
        Unwritable,
        Dialect,
        WriteOrder,
    }
);
variants!(
    version,
    VERSIONS,
    VersionIncompatible {
        ContainerTooNew,
        StateTooNew,
        SectionTooNew,
        NeverExisted,
    }
);
variants!(
    problem,
    PROBLEMS,
    Problem {
        Name,
        EmptyPath,
        PathDepth,
        Duplicate,
        Order,
        IdRange,
        Counter,
        TooMany,
        Number,
        NotOffered,
        Kind,
        NoLookups,
        NotRoot,
        MissingRoot,
        RootKind,
        FileHandleLength,
        UnknownMount,
        Errno,
        MissingParent,
        ParentKind,
        Cycle,
        MissingInode,
        HandleKind,
        Flags,
        NoSession,
        BootId,
        NoSuchInode,
        UnknownFileSystem,
        LockRange,
        LockWhole,
        LockOrder,
        LockOverlap,
        LockConflict,
        LockKind,
        MissingHandle,
        LockHandle,
        Permissions,
        Nanoseconds,
        Size,
        LinkTarget,
        Xattr,
        NotUnlinked,
        GhostKind,
        GhostDirectory,
        NoGhost,
        PieceLength,
        PieceRange,
        PieceOrder,
        PieceBeyond,
        Contents,
    }
);
variants!(
    subject,
    SUBJECTS,
    Subject {
        Session,
        Counters,
        Mount,
        Inode,
        Handle,
        FileSystem,
        Identity,
        Lock,
        Request,
        Ghost,
        GhostData,
    }
);

/// One line for each value, its variant before it; all variants must be there.
fn texts<T>(
    values: &[T],
    name: fn(&T) -> &'static str,
    all: &[&'static str],
    text: fn(&T) -> String,
) -> String {
    let named: BTreeSet<_> = values.iter().map(name).collect();
    assert_eq!(named, all.iter().copied().collect::<BTreeSet<_>>());
    let lines: Vec<_> = values
        .iter()
        .map(|value| format!("{}: {}", name(value), text(value)))
        .collect();
    lines.join("\n")
}

fn writer() -> WriterInfo {
    WriterInfo::new("ferryfsd", "0.9.0")
}

fn at(section: SectionId) -> At {
    At {
        section: Some(section),
        offset: 1234,
    }
}

fn invalid() -> Invalid {
    Invalid {
        subject: Subject::Inode(7),
        problem: Problem::MissingParent(5),
    }
}

#[test]
fn of_streams() {
    let codec = || CodecError::with_source("postcard cannot decode it", io::Error::other("end"));
    let errors = [
        StateError::Io(io::Error::from_raw_os_error(32)),
        StateError::Empty,
        StateError::NotAStream {
            found: "01 03".to_owned(),
            hint: "; this looks like a state of virtiofsd, which has no header",
        },
        StateError::Truncated {
            at: at(SectionId::INODES),
            missing: 40,
        },
        StateError::Truncated {
            at: At {
                section: None,
                offset: 7,
            },
            missing: 5,
        },
        StateError::Trailing { offset: 1234 },
        StateError::Checksum {
            at: at(SectionId::LOCKS),
            what: "frame",
            found: 0xdead_beef,
            computed: 0x0000_0001,
        },
        StateError::Malformed {
            at: at(SectionId::LOCKS),
            what: "it came with state version 2, and the header claims version 1".to_owned(),
        },
        StateError::Limit {
            at: at(SectionId::IDENTITIES),
            what: "a frame length in bytes of",
            found: 99_999_999,
            limit: 67_108_864,
        },
        StateError::Downgrade {
            to: StateVersion(1),
            needs: StateVersion(2),
            what: "the guest holds 3 file lock(s), the first on inode 7".to_owned(),
        },
        StateError::NoSuchVersion {
            version: StateVersion(9),
        },
        StateError::SectionBeyond {
            section: SectionId::LOCKS,
            since: StateVersion(2),
            state: StateVersion(1),
        },
        StateError::Version(VersionIncompatible::StateTooNew {
            found: StateVersion(9),
            newest: StateVersion::CURRENT,
            writer: writer(),
        }),
        StateError::UnknownFormat {
            name: "cbor".to_owned(),
            known: "postcard, msgpack".to_owned(),
        },
        StateError::StreamFormat {
            name: "cbor".to_owned(),
            known: "postcard, msgpack".to_owned(),
            writer: Box::new(writer()),
        },
        StateError::FormatName {
            name: "C B O R".to_owned(),
        },
        StateError::UnknownSection {
            at: at(SectionId(99)),
            writer: writer(),
        },
        StateError::Decode {
            at: at(SectionId::HANDLES),
            format: "postcard".to_owned(),
            source: codec(),
        },
        StateError::Encode {
            section: SectionId::MOUNTS,
            format: "msgpack".to_owned(),
            source: CodecError::new("5000000000 bytes in one frame"),
        },
        StateError::Invalid {
            at: at(SectionId::INODES),
            source: invalid(),
        },
        StateError::Inconsistent(invalid()),
        StateError::Unwritable(invalid()),
        StateError::Dialect {
            name: "virtiofsd-v2".to_owned(),
            doing: "read",
            source: DialectError::Malformed {
                what: "an unknown virtiofsd dialect, or damaged".to_owned(),
                offset: 17,
            },
        },
        StateError::WriteOrder {
            section: SectionId::SESSION,
            after: SectionId::COUNTERS,
        },
    ];
    let line = |error: &StateError| error_line(error);
    insta::assert_snapshot!("streams", texts(&errors, state_error, STATE_ERRORS, line));
}

#[test]
fn of_versions() {
    let newer = [
        VersionIncompatible::ContainerTooNew {
            found: ContainerVersion(2),
            newest: ContainerVersion::CURRENT,
            writer: writer(),
        },
        VersionIncompatible::StateTooNew {
            found: StateVersion(9),
            newest: StateVersion::CURRENT,
            writer: writer(),
        },
        VersionIncompatible::SectionTooNew {
            section: SectionId::INODES,
            found: SectionVersion(2),
            newest: SectionVersion::CURRENT,
            writer: WriterInfo::new("variantd", "3.1"),
        },
        VersionIncompatible::NeverExisted {
            what: "state",
            found: 0,
            writer: writer(),
        },
    ];
    let line = |error: &VersionIncompatible| error.to_string();
    insta::assert_snapshot!("versions", texts(&newer, version, VERSIONS, line));
}

#[test]
fn of_records() {
    let problems = [
        Problem::Name {
            name: "../x".to_owned(),
            why: "it contains a slash",
        },
        Problem::EmptyPath,
        Problem::PathDepth(70_000),
        Problem::Duplicate,
        Problem::Order(9),
        Problem::IdRange,
        Problem::Counter {
            name: "next_inode",
            value: 5,
            above: 9,
        },
        Problem::TooMany(100),
        Problem::Number {
            name: "minor",
            value: 12,
            must: "not 27 to 9999",
        },
        Problem::NotOffered(0x40),
        Problem::Kind(0o050000),
        Problem::NoLookups,
        Problem::NotRoot,
        Problem::MissingRoot,
        Problem::RootKind,
        Problem::FileHandleLength(129),
        Problem::UnknownMount(3),
        Problem::Errno(-5),
        Problem::MissingParent(5),
        Problem::ParentKind(5),
        Problem::Cycle,
        Problem::MissingInode(5),
        Problem::HandleKind {
            handle: "directory",
            inode: 5,
            kind: 0o100000,
        },
        Problem::Flags {
            field: "host_flags",
            flags: 0o1001,
            bad: 0o1000,
        },
        Problem::NoSession,
        Problem::BootId(3),
        Problem::NoSuchInode,
        Problem::UnknownFileSystem(2),
        Problem::LockRange { start: 9, end: 8 },
        Problem::LockWhole { start: 0, end: 8 },
        Problem::LockOrder,
        Problem::LockOverlap { start: 0, end: 8 },
        Problem::LockConflict { owner: 0x5eed },
        Problem::LockKind {
            inode: 5,
            kind: 0o040000,
        },
        Problem::MissingHandle(4),
        Problem::LockHandle {
            handle: 4,
            inode: 2,
        },
        Problem::Permissions(0o100644),
        Problem::Nanoseconds(1_000_000_000),
        Problem::Size(u64::MAX),
        Problem::LinkTarget,
        Problem::Xattr {
            name: "user.x".to_owned(),
            value: 70_000,
        },
        Problem::NotUnlinked,
        Problem::GhostKind {
            what: "a size",
            kind: 0o040000,
        },
        Problem::GhostDirectory(3),
        Problem::NoGhost,
        Problem::PieceLength(0),
        Problem::PieceRange {
            start: u64::MAX,
            length: 4,
        },
        Problem::PieceOrder {
            inode: 9,
            before: 4096,
        },
        Problem::PieceBeyond(4096),
        Problem::Contents(67_108_864),
    ];
    let line = |problem: &Problem| problem.to_string();
    insta::assert_snapshot!("records", texts(&problems, problem, PROBLEMS, line));
    let subjects = [
        Subject::Session,
        Subject::Counters,
        Subject::Mount(1),
        Subject::Inode(7),
        Subject::Handle(4),
        Subject::FileSystem(0),
        Subject::Identity(7),
        Subject::Lock {
            inode: 7,
            owner: 0x5eed,
            start: 10,
        },
        Subject::Ghost(9),
        Subject::GhostData {
            inode: 9,
            offset: 4096,
        },
        Subject::Request { queue: 1, head: 40 },
    ];
    let line = |subject: &Subject| subject.to_string();
    insta::assert_snapshot!("subjects", texts(&subjects, subject, SUBJECTS, line));
}
