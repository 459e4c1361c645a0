//! The wire against the worked examples, against structures for postcard itself,
//! and against damage.

use ferryfs_state::testing::{any_state_v1, sample_v2, sample_v3};
use ferryfs_state::validate::{validate, GUEST_FLAGS, HOST_FLAGS, KIND_UNKNOWN};
use ferryfs_state::{
    error_line, read_state, FileHandle, FsState, Handle, Inode, Location, Mount, Registry,
};
use proptest::prelude::*;
use serde_bytes::ByteBuf;

use super::*;

/// The records once more, for postcard's own encoder.
mod peer {
    use serde::Serialize;
    use std::collections::BTreeMap;

    #[derive(Serialize)]
    pub enum Stream {
        V1(V1),
        V2(V2),
    }
    #[derive(Serialize)]
    pub struct V1 {
        pub inodes: Vec<Inode>,
        pub next_inode: u64,
        pub handles: Vec<Handle>,
        pub next_handle: u64,
        pub options: (bool, bool, bool, bool),
    }
    #[derive(Serialize)]
    pub struct V2 {
        pub v1: V1,
        pub mounts: BTreeMap<u64, String>,
    }
    #[derive(Serialize)]
    pub struct Inode {
        pub id: u64,
        pub refcount: u64,
        pub location: Location,
        pub file_handle: Option<FileHandle>,
    }
    #[derive(Serialize)]
    pub enum Location {
        Root,
        Path { parent: u64, filename: String },
        Invalid,
        FullPath { filename: String },
        FileHandle { handle: FileHandle },
    }
    #[derive(Serialize)]
    pub struct FileHandle {
        pub mount: u64,
        pub kind: i32,
        pub bytes: Vec<u8>,
    }
    #[derive(Serialize)]
    pub struct Handle {
        pub id: u64,
        pub inode: u64,
        pub source: Source,
    }
    #[derive(Serialize)]
    pub enum Source {
        OpenInode { flags: i32 },
    }
}

fn registry() -> Registry {
    Registry::new()
        .with_dialect(VirtiofsdV1)
        .with_dialect(VirtiofsdV2)
}

/// Reads and validates, as a daemon does.
fn load(bytes: &[u8]) -> Result<State, String> {
    read_state(&mut &*bytes, &registry(), &Limits::default())
        .map(|(_, state)| state)
        .map_err(|e| error_line(&e))
}

fn bytes(b: &[u8]) -> ByteBuf {
    ByteBuf::from(b)
}

fn child(id: u64, lookups: u64, kind: u32, parent: u64, name: &[u8]) -> Inode {
    let name = bytes(name);
    Inode {
        id,
        lookups,
        kind,
        location: Location::Child { parent, name },
    }
}

/// root/sub/file.txt, open for reading and writing.
const FIND_PATHS: &[u8] = b"\x01\x03\x01\x03\x00\x00\x02\x02\x01\x01\x03sub\x00\
    \x03\x01\x01\x02\x08file.txt\x00\x04\x01\x00\x03\x00\x04\x01\x00\x01\x00\x01\x00";

#[test]
fn the_worked_example_is_read_and_written_again() {
    let state = load(FIND_PATHS).unwrap();
    let root = Inode {
        id: 1,
        lookups: 2,
        kind: libc::S_IFDIR,
        location: Location::Root,
    };
    assert_eq!(
        state.fs,
        FsState {
            next_inode: 4,
            next_handle: 1,
            mounts: vec![],
            inodes: vec![
                root,
                child(2, 1, libc::S_IFDIR, 1, b"sub"),
                child(3, 1, libc::S_IFREG, 2, b"file.txt"),
            ],
            handles: vec![Handle {
                id: 0,
                inode: 3,
                directory: false,
                guest_flags: 2,
                host_flags: 2,
            }],
            ..FsState::default()
        }
    );
    let session = state.session.clone().unwrap();
    assert_eq!(session.flags, 0x0000_0004_4844_f029);
    assert_eq!(session.max_write, 1 << 20);

    let (written, losses) = write(&state, Version::V2).unwrap();
    assert_eq!(written, FIND_PATHS);
    assert_eq!(losses.0.len(), 1, "{losses}");
    assert!(losses.0[0].starts_with("supplementary groups"), "{losses}");
    // V1 is the same without the mounts.
    let (written, _) = write(&state, Version::V1).unwrap();
    assert_eq!(written[0], 0);
    assert_eq!(written[1..], FIND_PATHS[1..FIND_PATHS.len() - 1]);
    assert_eq!(load(&written).unwrap(), state);
}

#[test]
fn an_empty_share_and_a_daemon_without_a_guest() {
    let bytes = [1, 1, 1, 2, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
    let state = load(&bytes).unwrap();
    assert_eq!(state.fs.inodes.len(), 1);
    assert_eq!(write(&state, Version::V2).unwrap().0, bytes);
    // As virtiofsd 1.14 wrote it with ACLs. They come with SETXATTR_EXT, which is
    // what cannot go back.
    let acl = [1, 1, 1, 2, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0];
    let state = load(&acl).unwrap();
    assert_eq!(
        state.session.as_ref().unwrap().flags & 0x2010_0040,
        0x2010_0040
    );
    let error = write(&state, Version::V2).unwrap_err().to_string();
    assert!(
        error.contains("SETXATTR_EXT: after a crossing virtiofsd"),
        "{error}"
    );

    let none = [1, 0, 2, 0, 0, 0, 0, 0, 0, 0];
    let state = load(&none).unwrap();
    assert_eq!(state.session, None);
    assert_eq!(state.fs.next_inode, 2);
    let (written, losses) = write(&state, Version::V2).unwrap();
    assert_eq!(written, none);
    assert!(losses.is_empty());
}

fn v1(inodes: Vec<peer::Inode>, handles: Vec<peer::Handle>) -> peer::V1 {
    peer::V1 {
        inodes,
        next_inode: 100,
        handles,
        next_handle: 50,
        options: (false, true, false, false),
    }
}

fn inode(id: u64, refcount: u64, location: peer::Location) -> peer::Inode {
    peer::Inode {
        id,
        refcount,
        location,
        file_handle: None,
    }
}

fn path(parent: u64, filename: &str) -> peer::Location {
    let filename = filename.to_owned();
    peer::Location::Path { parent, filename }
}

fn open(id: u64, inode: u64, flags: i32) -> peer::Handle {
    let source = peer::Source::OpenInode { flags };
    peer::Handle { id, inode, source }
}

fn encode(stream: &peer::Stream) -> Vec<u8> {
    postcard::to_stdvec(stream).unwrap()
}

fn as_v1(inodes: Vec<peer::Inode>) -> Vec<u8> {
    encode(&peer::Stream::V1(v1(inodes, vec![])))
}

#[test]
fn every_location_of_both_versions_is_read() {
    let handle = |mount| peer::FileHandle {
        mount,
        kind: -7,
        bytes: vec![1, 2, 0xff],
    };
    let mut verified = inode(2, 3, path(1, "dir"));
    verified.file_handle = Some(handle(77));
    let full = |p: &str| peer::Location::FullPath {
        filename: p.to_owned(),
    };
    let inodes = vec![
        inode(1, 3, peer::Location::Root),
        verified,
        inode(300, 1, full("a/b")),
        inode(301, 1, full("c")),
        inode(302, 1, peer::Location::Invalid),
        inode(303, 4, path(2, "é")),
    ];
    let flags = libc::O_WRONLY | libc::O_APPEND;
    let handles = vec![open(3, 2, libc::O_DIRECTORY), open(4, 303, flags)];
    let mut one = v1(inodes, handles);
    one.next_inode = 400;
    let state = load(&encode(&peer::Stream::V1(one))).unwrap();
    let find = |id| state.fs.inodes.iter().find(|i| i.id == id).unwrap();
    assert_eq!(*find(2), child(2, 2, libc::S_IFDIR, 1, b"dir"));
    assert_eq!(
        find(300).location,
        Location::Path {
            from: 1,
            components: vec![bytes(b"a"), bytes(b"b")],
        }
    );
    assert_eq!(*find(301), child(301, 1, KIND_UNKNOWN, 1, b"c"));
    assert_eq!(find(302).location, Location::Lost { errno: 116 });
    assert_eq!(*find(303), child(303, 4, libc::S_IFREG, 2, "é".as_bytes()));
    assert!(state.fs.handles[0].directory);
    assert_eq!(state.fs.handles[1].guest_flags, flags as u32);
    // virtiofsd's descriptor appends write by write.
    assert_eq!(state.fs.handles[1].host_flags, libc::O_WRONLY as u32);

    let by_handle = peer::Location::FileHandle { handle: handle(77) };
    let inodes = vec![inode(1, 2, peer::Location::Root), inode(2, 1, by_handle)];
    let mounts = [(77, "srv/data".to_owned()), (3, ".".to_owned())];
    let two = encode(&peer::Stream::V2(peer::V2 {
        v1: v1(inodes, vec![]),
        mounts: mounts.into_iter().collect(),
    }));
    let state = load(&two).unwrap();
    assert_eq!(
        state.fs.mounts,
        [
            Mount {
                id: 3,
                path: vec![]
            },
            Mount {
                id: 77,
                path: vec![bytes(b"srv"), bytes(b"data")]
            },
        ]
    );
    let expected = FileHandle {
        mount: 77,
        kind: -7,
        bytes: bytes(&[1, 2, 0xff]),
    };
    assert_eq!(state.fs.inodes[1].location, Location::Handle(expected));
    assert_eq!(write(&state, Version::V2).unwrap().0, two);
    let error = write(&state, Version::V1).unwrap_err().to_string();
    assert!(
        error.contains("inode 2 is known by its file handle"),
        "{error}"
    );
}

#[test]
fn directories_that_the_guest_does_not_hold_become_paths_and_inodes_again() {
    let stream = as_v1(vec![
        inode(1, 3, peer::Location::Root),
        inode(5, 1, path(1, "a")),
        inode(6, 2, path(5, "b")),
        inode(7, 2, path(6, "x")),
        inode(8, 1, path(6, "y")),
    ]);
    let state = load(&stream).unwrap();
    let ids: Vec<_> = state.fs.inodes.iter().map(|i| i.id).collect();
    assert_eq!(ids, [1, 7, 8]);
    let at = |last: &[u8]| Location::Path {
        from: 1,
        components: vec![bytes(b"a"), bytes(b"b"), bytes(last)],
    };
    assert_eq!(state.fs.inodes[1].location, at(b"x"));
    assert_eq!(state.fs.inodes[1].lookups, 2);
    assert_eq!(state.fs.inodes[2].location, at(b"y"));

    let (written, _) = write(&state, Version::V1).unwrap();
    let mut expected = v1(
        vec![
            inode(1, 3, peer::Location::Root),
            inode(7, 2, path(101, "x")),
            inode(8, 1, path(101, "y")),
            inode(100, 1, path(1, "a")),
            inode(101, 2, path(100, "b")),
        ],
        vec![],
    );
    expected.next_inode = 102;
    assert_eq!(written, encode(&peer::Stream::V1(expected)));
    let again = load(&written).unwrap();
    assert_eq!(again.fs.inodes, state.fs.inodes);
}

#[test]
fn a_directory_on_a_path_that_the_guest_holds_is_used() {
    let mut state = load(FIND_PATHS).unwrap();
    state.fs.inodes.push(Inode {
        id: 4,
        lookups: 1,
        kind: libc::S_IFREG,
        location: Location::Path {
            from: 1,
            components: vec![bytes(b"sub"), bytes(b"other")],
        },
    });
    state.fs.next_inode = 5;
    let again = load(&write(&state, Version::V2).unwrap().0).unwrap();
    assert_eq!(again.fs.next_inode, 5);
    assert_eq!(again.fs.inodes[3], child(4, 1, KIND_UNKNOWN, 2, b"other"));
}

#[test]
fn flags_that_would_do_harm_in_virtiofsd_are_set_right() {
    let mut state = load(FIND_PATHS).unwrap();
    let append = libc::O_APPEND as u32;
    state.fs.handles[0].guest_flags = libc::O_WRONLY as u32 | append | 0x20;
    state.fs.handles[0].host_flags = libc::O_WRONLY as u32;
    let flags = |state: &State| {
        let written = write(state, Version::V2).unwrap().0;
        load(&written).unwrap().fs.handles[0].guest_flags
    };
    assert_eq!(flags(&state), libc::O_WRONLY as u32 | 0x20);
    state.session.as_mut().unwrap().offered_flags |= 1 << 16;
    state.session.as_mut().unwrap().flags |= 1 << 16;
    assert_eq!(flags(&state), libc::O_RDWR as u32 | 0x20);
}

#[test]
fn hostile_streams_are_refused_in_words() {
    let root = || inode(1, 3, peer::Location::Root);
    let many = [
        &[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f][..],
        &[0; 8],
    ]
    .concat();
    let handle = |mount, length| peer::Location::FileHandle {
        handle: peer::FileHandle {
            mount,
            kind: 1,
            bytes: vec![0; length],
        },
    };
    let unknown = "failed to read it as virtiofsd-v1: unknown virtiofsd dialect, or damaged: ";
    for (stream, text) in [
        (
            as_v1(vec![root(), inode(2, 0, path(1, "a"))]),
            "inode 2: 0 references, and 0 inodes",
        ),
        (
            as_v1(vec![
                inode(1, 1, peer::Location::Root),
                inode(2, 1, path(1, "a")),
                inode(3, 1, path(1, "b")),
            ]),
            "inode 1: 1 references, and 2 inodes in the stream name it as their parent",
        ),
        (
            as_v1(vec![root(), inode(2, 1, path(9, "a"))]),
            "inode 2: its parent, inode 9, is not in the stream",
        ),
        (
            as_v1(vec![inode(2, 1, path(2, "a"))]),
            "there is no root inode",
        ),
        (
            as_v1(vec![root(), inode(2, 1, path(1, "../a"))]),
            "\"../a\" is no name: it contains a slash",
        ),
        (
            as_v1(vec![root(), inode(2, 1, path(1, ".."))]),
            "\"..\" is no name: it is a dot entry",
        ),
        (
            as_v1(vec![
                root(),
                inode(
                    2,
                    1,
                    peer::Location::FullPath {
                        filename: "/etc".to_owned(),
                    },
                ),
            ]),
            "\"\" is no name: it is empty",
        ),
        (
            as_v1(vec![
                root(),
                inode(
                    2,
                    1,
                    peer::Location::FullPath {
                        filename: "a/../../b".to_owned(),
                    },
                ),
            ]),
            "\"..\" is no name",
        ),
        (
            as_v1(vec![
                root(),
                inode(2, 2, path(3, "a")),
                inode(3, 2, path(2, "b")),
            ]),
            "its own ancestor",
        ),
        // Nobody holds either: there is no path to say.
        (
            as_v1(vec![
                root(),
                inode(2, 1, path(3, "a")),
                inode(3, 2, path(2, "b")),
                inode(4, 1, path(3, "c")),
            ]),
            "inode 4: its path has no end",
        ),
        (
            as_v1(vec![
                root(),
                inode(2, 1, path(1, "a")),
                inode(2, 1, path(1, "b")),
            ]),
            "inode 2: the id is used twice",
        ),
        (
            as_v1(vec![root(), inode(100, 1, path(1, "a"))]),
            "next_inode is 100, but must be above 100",
        ),
        (
            as_v1(vec![root(), inode(2, 1, peer::Location::Root)]),
            "inode 1 and no other is the root",
        ),
        (
            as_v1(vec![root(), inode(2, 1, handle(5, 3))]),
            "on mount 5, which is not in the stream",
        ),
        (
            as_v1(vec![root(), inode(2, 1, handle(5, 129))]),
            "a file handle is 129, beyond the limit of 128 at byte",
        ),
        (
            encode(&peer::Stream::V1(v1(
                vec![root(), inode(2, 1, path(1, "a"))],
                vec![open(0, 2, libc::O_TRUNC)],
            ))),
            "guest_flags 0o1000 has bits that no open file may have",
        ),
        (
            encode(&peer::Stream::V1(v1(vec![root()], vec![open(0, 9, 0)]))),
            "handle 0: its inode 9 is not in the stream",
        ),
        (
            encode(&peer::Stream::V1(v1(
                vec![root()],
                vec![open(50, 1, libc::O_DIRECTORY)],
            ))),
            "next_handle is 50, but must be above 50",
        ),
        (
            many,
            "the number of inodes is 72057594037927935, beyond the limit of 100000000 at byte 1",
        ),
        (
            vec![0, 0x81, 0],
            &format!("{unknown}the number of inodes is padded with zeroes at byte 1"),
        ),
        (
            vec![0, 1, 1, 3, 9],
            &format!("{unknown}location index 9 where 0 to 4 are known at byte 4"),
        ),
        (vec![0x81, 1], "as virtiofsd-v1"),
    ] {
        match load(&stream) {
            Ok(state) => panic!("taken: {state:?}, not {text}"),
            Err(error) if stream[0] == 0x81 => {
                assert!(error.starts_with("not a ferryfs state stream"), "{error}");
            }
            Err(error) => assert!(error.contains(text), "{error}\nnot {text}"),
        }
    }
    let mut two = FIND_PATHS.to_vec();
    two.push(0);
    assert_eq!(
        load(&two).unwrap_err(),
        "failed to read it as virtiofsd-v2: unknown virtiofsd dialect, or damaged: bytes follow \
         where the stream must end at byte 41"
    );
}

#[test]
fn the_limit_on_the_whole_stream_holds() {
    let limits = Limits {
        stream_bytes: FIND_PATHS.len() as u64 - 1,
        ..Limits::default()
    };
    let error = read(&mut &*FIND_PATHS, &limits).unwrap_err().to_string();
    assert_eq!(error, "the stream is longer than the limit of 40 bytes");
    let limits = Limits {
        stream_bytes: FIND_PATHS.len() as u64,
        ..Limits::default()
    };
    read(&mut &*FIND_PATHS, &limits).unwrap();
}

/// CubeSandbox's daemon added the whole path to `Path` and kept the tag.
#[test]
fn a_forks_changed_v1_is_refused_as_what_it_is() {
    let mut stream = vec![0, 2, 1, 3, 0, 0];
    stream.extend(b"\x02\x01\x01\x01\x08file.txt\x08file.txt\x00");
    stream.extend([3, 0, 0, 0, 1, 0, 0]);
    let error = load(&stream).unwrap_err();
    assert_eq!(
        error,
        "failed to read it as virtiofsd-v1: unknown virtiofsd dialect, or damaged: 0x08 where 0 \
         or 1 must say whether a file handle to compare with follows at byte 19"
    );
}

#[test]
fn every_truncation_is_refused() {
    for length in 1..FIND_PATHS.len() {
        let error = load(&FIND_PATHS[..length]).unwrap_err();
        let end = "the stream ends within ";
        assert!(
            error.contains(end) && error.ends_with(&format!("at byte {length}")),
            "{error}"
        );
    }
}

#[test]
fn chains_of_directories_that_nobody_holds_are_bounded() {
    // Each of n files would say a path of n components.
    let n = 3000;
    let mut inodes = vec![inode(1, 3, peer::Location::Root)];
    for id in 2..n {
        inodes.push(inode(id, 1, path(id - 1, "d")));
    }
    for id in n..2 * n {
        inodes.push(inode(id, 1, path(n - 1, "f")));
    }
    inodes[n as usize - 2].refcount = n;
    let mut stream = v1(inodes, vec![]);
    stream.next_inode = 2 * n;
    let error = load(&encode(&peer::Stream::V1(stream))).unwrap_err();
    assert!(error.contains("longer than any guest's"), "{error}");
}

#[test]
fn what_cannot_be_said_is_refused_or_listed() {
    let base = load(FIND_PATHS).unwrap();
    let with = |change: &dyn Fn(&mut State)| {
        let mut state = base.clone();
        change(&mut state);
        validate(&state, &Limits::default()).unwrap();
        write(&state, Version::V2)
            .map(|(_, losses)| losses.to_string())
            .map_err(|e| e.to_string())
    };
    let flag = |bit: u32| {
        with(&|s| {
            let session = s.session.as_mut().unwrap();
            session.offered_flags |= 1 << bit;
            session.flags |= 1 << bit;
        })
    };
    for (bit, name) in [
        (17, "NO_OPEN_SUPPORT"),
        (24, "NO_OPENDIR_SUPPORT"),
        (29, "SETXATTR_EXT"),
        (32, "SECURITY_CTX"),
    ] {
        let error = flag(bit).unwrap_err();
        assert!(error.contains(name), "{error}");
    }
    assert!(flag(28).unwrap().contains("HANDLE_KILLPRIV_V2"));
    assert!(flag(40).unwrap().contains("INIT flags 0x10000000000"));
    let error = with(&|s| s.session.as_mut().unwrap().max_write = 2 << 20).unwrap_err();
    assert!(
        error.contains("writes up to 2097152 bytes at once"),
        "{error}"
    );
    assert!(with(&|s| s.session.as_mut().unwrap().guest_minor = 31)
        .unwrap()
        .contains("INIT's numbers"));
    let lost = with(&|s| s.fs.inodes[2].location = Location::Lost { errno: 5 }).unwrap();
    assert!(lost.contains("1 inodes that cannot be found"), "{lost}");
    let error = with(&|s| {
        s.fs.inodes[2].location = Location::Child {
            parent: 2,
            name: bytes(b"caf\xe9"),
        }
    })
    .unwrap_err();
    assert_eq!(
        error,
        "1 names are not UTF-8, and virtiofsd has no others: inode 3 (\"caf\\xe9\")"
    );
}

/// What is left of a state once it has been through the dialect.
fn after_crossing(state: &State) -> State {
    let mut state = state.clone();
    let writeback = state
        .session
        .as_ref()
        .is_some_and(|s| s.flags & (1 << 16) != 0);
    let mut kinds: std::collections::HashMap<u64, u32> = Default::default();
    for handle in &mut state.fs.handles {
        let host = handle.host_flags;
        let acc = libc::O_ACCMODE as u32;
        let mut flags = host & !(libc::O_APPEND | libc::O_DIRECTORY) as u32;
        let mut kind = libc::S_IFREG;
        if handle.directory {
            flags |= libc::O_DIRECTORY as u32;
            kind = libc::S_IFDIR;
        } else if writeback && flags & acc == 1 {
            flags = flags & !acc | 2;
        }
        kinds.insert(handle.inode, kind);
        handle.guest_flags = flags | handle.guest_flags & GUEST_FLAGS & !HOST_FLAGS;
        handle.host_flags = match writeback && flags & acc == 1 {
            true => flags & !acc | 2,
            false => flags,
        };
    }
    for inode in &state.fs.inodes {
        if let Location::Child { parent: p, .. } | Location::Path { from: p, .. } = inode.location {
            kinds.insert(p, libc::S_IFDIR);
        }
    }
    for inode in &mut state.fs.inodes {
        inode.kind = kinds.get(&inode.id).copied().unwrap_or(KIND_UNKNOWN);
        if inode.id == 1 {
            inode.kind = libc::S_IFDIR;
            inode.lookups = inode.lookups.max(2);
        }
        match &mut inode.location {
            Location::Lost { errno } => *errno = 116,
            Location::Path { from, components } if components.len() == 1 => {
                inode.location = Location::Child {
                    parent: *from,
                    name: components.remove(0),
                };
            }
            _ => {}
        }
    }
    state
}

/// Makes a state one that the dialect can say.
fn sayable(mut state: State) -> State {
    let text = |name: &mut ByteBuf| {
        for byte in name.iter_mut() {
            if !byte.is_ascii() {
                *byte = b'a' + *byte % 26;
            }
        }
    };
    for mount in &mut state.fs.mounts {
        mount.path.iter_mut().for_each(text);
    }
    for inode in &mut state.fs.inodes {
        inode.lookups = inode.lookups.min(1 << 60);
        match &mut inode.location {
            Location::Child { name, .. } => text(name),
            Location::Path { components, .. } => components.iter_mut().for_each(text),
            _ => {}
        }
    }
    let session = state.session.as_mut().unwrap();
    session.flags &= 1 << 16 | 1 << 27 | 1 << 34;
    session.max_write = session.max_write.min(1 << 20);
    state
}

#[test]
fn locks_are_refused_and_identities_listed_as_left_out() {
    let mut state = sayable(sample_v2());
    let error = write(&state, Version::V2).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the guest holds 4 file lock(s), the first on inode 3, and virtiofsd hands none over: let \
         the guest release them"
    );
    state.fs.locks.clear();
    let (written, losses) = write(&state, Version::V2).unwrap();
    let listed = "the identities of 4 inode(s): virtiofsd takes whatever has the name";
    assert!(losses.iter().any(|loss| loss == listed), "{losses}");
    state.fs.identities.clear();
    let (without, losses) = write(&state, Version::V2).unwrap();
    assert_eq!(written, without);
    assert!(!losses.iter().any(|loss| loss == listed), "{losses}");
}

#[test]
fn what_is_unlinked_and_open_is_refused() {
    let mut state = sayable(sample_v3());
    state.fs.locks.clear();
    let error = write(&state, Version::V2).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the guest has 1 unlinked file(s) or directories open, the first is inode 9, and \
         virtiofsd has nothing that goes without a name: let the guest close them, or start \
         this daemon with --migration-mode file-handles where both share one file system"
    );
    // What is not open is lost, as it is without its contents.
    state.fs.handles.retain(|handle| handle.inode != 9);
    let (written, _) = write(&state, Version::V2).unwrap();
    state.fs.ghosts.clear();
    state.fs.ghost_data.clear();
    let (without, _) = write(&state, Version::V2).unwrap();
    assert_eq!(written, without);
}

proptest! {
    #[test]
    fn states_survive(state in any_state_v1()) {
        let state = sayable(state);
        let (written, _) = write(&state, Version::V2).unwrap();
        let mut back = load(&written).unwrap();
        let mut expected = after_crossing(&state);
        prop_assert!(back.fs.next_inode >= expected.fs.next_inode);
        let options = |s: &State| s.session.as_ref().unwrap().flags & (1 << 16 | 1 << 27 | 1 << 34);
        prop_assert_eq!(options(&back), options(&expected));
        // Paths may lead through an inode that the guest holds.
        for state in [&mut back, &mut expected] {
            state.fs.next_inode = 0;
            state.session = None;
        }
        for (a, b) in back.fs.inodes.iter_mut().zip(&mut expected.fs.inodes) {
            let paths = matches!(b.location, Location::Path { .. });
            if paths && matches!(a.location, Location::Path { .. } | Location::Child { .. }) {
                a.location = b.location.clone();
            }
        }
        prop_assert_eq!(&back, &expected);
        prop_assert_eq!(write(&state, Version::V2).unwrap().0, written);
    }

    #[test]
    fn no_input_makes_it_panic(
        version in 0..2u8,
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let stream = [&[version][..], &bytes].concat();
        let _ = load(&stream);
    }

    #[test]
    fn no_damage_makes_it_panic(state in any_state_v1(), at in any::<prop::sample::Index>(), bit in 0..8) {
        let (mut written, _) = write(&sayable(state), Version::V2).unwrap();
        let at = at.index(written.len());
        written[at] ^= 1u8 << bit;
        if let Ok(state) = load(&written) {
            // Whatever was taken is a state that goes on.
            validate(&state, &Limits::default()).unwrap();
        }
    }
}
