//! States to test with: one that has some of everything, and arbitrary ones.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_bytes::ByteBuf;

use crate::model::{
    FileHandle, FileSystem, FsState, Ghost, GhostData, Handle, Identity, Inode, Location, Lock,
    LockKind, Mark, Mount, Request, Session, State, Time, Xattr,
};
use crate::validate::{check_name, GUEST_FLAGS, HOST_FLAGS, LOCK_END, ROOT_ID};

const DIRECTORY: u32 = 0o040000;
const REGULAR: u32 = 0o100000;

/// A session as a Linux 6.12 guest and this project's daemon agree on it.
pub fn sample_session() -> Session {
    Session {
        guest_minor: 41,
        minor: 38,
        offered_flags: 0x0000_0007_73ff_fffb,
        flags: 0x0000_0004_7069_c079,
        max_write: 1 << 20,
        max_pages: 256,
        max_readahead: 131_072,
        max_background: 64,
        congestion_threshold: 48,
        time_gran: 1,
    }
}

/// A small state with every kind of location, two mounts, a name that is not
/// UTF-8, and an open file and directory. It never changes: the golden streams and
/// the worked example in docs/state-format.md are made of it.
pub fn sample() -> State {
    let bytes = |b: &[u8]| ByteBuf::from(b);
    let inode = |id, lookups, kind, location| Inode {
        id,
        lookups,
        kind,
        location,
    };
    State {
        session: Some(sample_session()),
        fs: FsState {
            next_inode: 9,
            next_handle: 5,
            mounts: vec![
                Mount {
                    id: 0,
                    path: vec![],
                },
                Mount {
                    id: 1,
                    path: vec![bytes(b"srv"), bytes(b"data")],
                },
            ],
            inodes: vec![
                inode(ROOT_ID, 1, DIRECTORY, Location::Root),
                inode(
                    2,
                    3,
                    DIRECTORY,
                    Location::Child {
                        parent: 1,
                        name: bytes(b"sub"),
                    },
                ),
                inode(
                    3,
                    1,
                    REGULAR,
                    Location::Child {
                        parent: 2,
                        name: bytes(b"caf\xe9"),
                    },
                ),
                inode(
                    5,
                    1,
                    0o120000,
                    Location::Path {
                        from: 2,
                        components: vec![bytes(b"x"), bytes(b"link")],
                    },
                ),
                inode(
                    7,
                    200,
                    REGULAR,
                    Location::Handle(FileHandle {
                        mount: 1,
                        kind: 129,
                        bytes: bytes(&[0, 1, 2, 0x7f, 0x80, 0xff]),
                    }),
                ),
                inode(8, 1, 0o010000, Location::Lost { errno: 116 }),
            ],
            handles: vec![
                Handle {
                    id: 0,
                    inode: 3,
                    directory: false,
                    guest_flags: 0o102001,
                    host_flags: 0o100002,
                },
                Handle {
                    id: 4,
                    inode: 2,
                    directory: true,
                    guest_flags: 0o300000,
                    host_flags: 0o200000,
                },
            ],
            ..FsState::default()
        },
    }
}

/// [`sample`] with some of everything that state version 2 added: two file systems,
/// identities of both kinds, locks with and without a handle. It never changes
/// either.
pub fn sample_v2() -> State {
    let mut state = sample();
    let fs = &mut state.fs;
    fs.file_systems = vec![
        FileSystem {
            id: 0,
            magic: 0xef53,
            fsid: 0x3795_c0bc_4150_dec5,
            device: 0xfe01,
            boot: ByteBuf::from(
                *b"\x3c\x5c\xfc\xf9\xa1\xdd\x49\x05\xa5\x76\x38\xfd\x43\xad\xab\x45",
            ),
        },
        FileSystem {
            id: 4,
            magic: 0x6969,
            fsid: 0,
            device: 49,
            boot: ByteBuf::new(),
        },
    ];
    let identity = |inode, file_system, mark| Identity {
        inode,
        file_system,
        mark,
    };
    let handle = |bytes: &[u8]| Mark::Handle {
        kind: 1,
        bytes: ByteBuf::from(bytes),
    };
    fs.identities = vec![
        identity(ROOT_ID, 0, handle(&[2, 0, 0, 0, 0, 0, 0, 0])),
        identity(2, 0, handle(&[0x81, 0x1f, 0, 0, 0x4e, 0xff, 0x80, 0x9a])),
        identity(
            3,
            4,
            Mark::Numbers {
                ino: 8_450_113,
                born: Some(1_764_110_702_123_456_789),
            },
        ),
        identity(
            5,
            4,
            Mark::Numbers {
                ino: 12,
                born: None,
            },
        ),
    ];
    let lock = |handle, owner, kind, write, start, end, pid| Lock {
        handle,
        inode: 3,
        owner,
        kind,
        write,
        start,
        end,
        pid,
    };
    let (posix, flock) = (LockKind::Posix, LockKind::Flock);
    fs.locks = vec![
        lock(Some(0), 0x5eed, posix, false, 0, 9, 1234),
        lock(Some(0), 0x5eed, posix, true, 10, 10, 1234),
        lock(None, 0xffff_ffff_ffff_ffff, posix, false, 0, 9, 0),
        lock(Some(0), 7, flock, true, 0, LOCK_END, 0),
    ];
    state
}

/// [`sample_v2`] with what state version 3 added: an unlinked file that is open, with
/// contents and a hole, an unlinked directory, and a symbolic link that went. It never
/// changes either.
pub fn sample_v3() -> State {
    let mut state = sample_v2();
    let fs = &mut state.fs;
    let inode = |id, kind| Inode {
        id,
        lookups: 1,
        kind,
        location: Location::Lost { errno: 116 },
    };
    fs.inodes
        .extend([inode(9, REGULAR), inode(10, DIRECTORY), inode(12, 0o120000)]);
    fs.next_inode = 13;
    fs.handles.push(Handle {
        id: 6,
        inode: 9,
        directory: false,
        guest_flags: 0o100002,
        host_flags: 0o100002,
    });
    fs.next_handle = 7;
    let time = |seconds, nanoseconds| Time {
        seconds,
        nanoseconds,
    };
    let plain = Ghost {
        inode: 10,
        directory: 2,
        number: 8_450_114,
        mode: 0o1755,
        uid: 1000,
        gid: 100,
        device: 0,
        size: 0,
        accessed: time(1_764_110_702, 999_999_999),
        modified: time(-1, 5),
        target: ByteBuf::new(),
        linkable: false,
        xattrs: vec![],
    };
    let xattr = |name: &[u8], value: &[u8]| Xattr {
        name: ByteBuf::from(name),
        value: ByteBuf::from(value),
    };
    fs.ghosts = vec![
        Ghost {
            inode: 9,
            mode: 0o640,
            size: 1 << 33,
            linkable: true,
            xattrs: vec![xattr(b"user.empty", b""), xattr(b"user.tag", b"\x00\xff")],
            ..plain.clone()
        },
        plain.clone(),
        Ghost {
            inode: 12,
            directory: 1,
            mode: 0o777,
            target: ByteBuf::from(b"../where"),
            ..plain
        },
    ];
    let piece = |offset, bytes: &[u8]| GhostData {
        inode: 9,
        offset,
        bytes: ByteBuf::from(bytes),
    };
    fs.ghost_data = vec![
        piece(0, b"at the start"),
        piece(12, b", and on"),
        piece((1 << 33) - 4, b"tail"),
    ];
    state
}

/// A state of `n` inodes in directories of a thousand files each, as a guest that
/// has walked a large tree leaves it, and an open handle per hundred files.
pub fn large(n: u64) -> State {
    let mut inodes = vec![Inode {
        id: ROOT_ID,
        lookups: 1,
        kind: DIRECTORY,
        location: Location::Root,
    }];
    let mut handles = Vec::new();
    let mut parent = ROOT_ID;
    for id in 2..=n.max(1) {
        let directory = id % 1000 == 2;
        let name = match directory {
            true => format!("directory-{id}"),
            false => format!("file-{id}.txt"),
        };
        inodes.push(Inode {
            id,
            lookups: 1 + id % 3,
            kind: if directory { DIRECTORY } else { REGULAR },
            location: Location::Child {
                parent: if directory { ROOT_ID } else { parent },
                name: ByteBuf::from(name.into_bytes()),
            },
        });
        if directory {
            parent = id;
        } else if id % 100 == 0 {
            handles.push(Handle {
                id: handles.len() as u64,
                inode: id,
                directory: false,
                guest_flags: 0o100002,
                host_flags: 0o100002,
            });
        }
    }
    State {
        session: Some(sample_session()),
        fs: FsState {
            next_inode: n.max(1) + 1,
            next_handle: handles.len() as u64,
            inodes,
            handles,
            ..FsState::default()
        },
    }
}

fn name() -> impl Strategy<Value = ByteBuf> {
    let bytes = prop_oneof![
        4 => vec(any::<u8>(), 1..12),
        1 => vec(any::<u8>(), 250..=255),
    ];
    bytes
        .prop_filter("a file system takes it", |b| check_name(b).is_ok())
        .prop_map(ByteBuf::from)
}

fn session() -> impl Strategy<Value = Session> {
    (
        (27..100u32, 27..100u32, any::<u64>(), any::<u64>()),
        (4096..=16u32 << 20, any::<u16>(), any::<u32>()),
        (any::<u16>(), any::<u16>(), 0..=1_000_000_000u32),
    )
        .prop_map(
            |((guest_minor, minor, offered, flags), (w, p, r), (b, c, t))| Session {
                guest_minor,
                minor,
                offered_flags: offered,
                flags: flags & offered,
                max_write: w,
                max_pages: p,
                max_readahead: r,
                max_background: b,
                congestion_threshold: c,
                time_gran: t,
            },
        )
}

/// What an inode is made of before ids and parents are known.
#[derive(Clone, Debug)]
struct Seed {
    gap: u64,
    lookups: u64,
    kind: u32,
    parent: prop::sample::Index,
    shape: Shape,
}

#[derive(Clone, Debug)]
enum Shape {
    Child(ByteBuf),
    Path(Vec<ByteBuf>),
    Handle(prop::sample::Index, i32, Vec<u8>),
    Lost(i32),
}

fn seed() -> impl Strategy<Value = Seed> {
    let shape = prop_oneof![
        6 => name().prop_map(Shape::Child),
        1 => vec(name(), 1..4).prop_map(Shape::Path),
        2 => (any::<prop::sample::Index>(), any::<i32>(), vec(any::<u8>(), 1..=128))
            .prop_map(|(m, k, b)| Shape::Handle(m, k, b)),
        1 => (1..=4095i32).prop_map(Shape::Lost),
    ];
    let kind = prop::sample::select(vec![
        DIRECTORY, DIRECTORY, REGULAR, REGULAR, 0o010000, 0o020000, 0o060000, 0o120000, 0o140000,
    ]);
    let gap = prop_oneof![4 => Just(1u64), 1 => 1..1u64 << 50];
    (gap, 1..u64::MAX, kind, any::<prop::sample::Index>(), shape).prop_map(
        |(gap, lookups, kind, parent, shape)| Seed {
            gap,
            lookups,
            kind,
            parent,
            shape,
        },
    )
}

/// Any valid state of up to some 40 inodes. Parents come before and after their
/// children, ids are dense or far apart, names are any bytes. Half of them have
/// identities, locks and ghosts.
pub fn any_state() -> impl Strategy<Value = State> {
    prop_oneof![any_state_v1(), (any_state_v1(), additions()).prop_map(add)]
}

/// Any of [`any_state`]'s that state version 1 has a place for, all of it.
pub fn any_state_v1() -> impl Strategy<Value = State> {
    let tree = vec(seed(), 0..40).prop_flat_map(|seeds| {
        let positions: Vec<usize> = (1..=seeds.len()).collect();
        (Just(seeds), Just(positions).prop_shuffle())
    });
    let mounts = vec((0..1000u32, vec(name(), 0..3)), 1..4);
    let handles = vec(
        (
            any::<prop::sample::Index>(),
            1..1000u64,
            any::<u32>(),
            any::<u32>(),
        ),
        0..10,
    );
    (session(), tree, mounts, handles, 1..1000u64).prop_map(
        |(session, (seeds, positions), mounts, handles, room)| {
            build(session, &seeds, &positions, mounts, &handles, room)
        },
    )
}

type HandleSeed = (prop::sample::Index, u64, u32, u32);

fn build(
    session: Session,
    seeds: &[Seed],
    positions: &[usize],
    mounts: Vec<(u32, Vec<ByteBuf>)>,
    handles: &[HandleSeed],
    room: u64,
) -> State {
    let mut next = ROOT_ID;
    let mut ids = vec![ROOT_ID];
    for seed in seeds {
        next += seed.gap;
        ids.push(next);
    }
    let mut mount_id = 0;
    let mounts: Vec<_> = mounts
        .into_iter()
        .map(|(gap, path)| {
            mount_id += gap + 1;
            Mount { id: mount_id, path }
        })
        .collect();

    let mut directories = vec![ROOT_ID];
    let mut inodes = vec![Inode {
        id: ROOT_ID,
        lookups: 1,
        kind: DIRECTORY,
        location: Location::Root,
    }];
    // In the order of the tree, ids as they were shuffled.
    for (seed, &position) in seeds.iter().zip(positions) {
        let parent = *seed.parent.get(&directories);
        let id = ids[position];
        inodes.push(Inode {
            id,
            lookups: seed.lookups,
            kind: seed.kind,
            location: match seed.shape.clone() {
                Shape::Child(name) => Location::Child { parent, name },
                Shape::Path(components) => Location::Path {
                    from: parent,
                    components,
                },
                Shape::Handle(mount, kind, bytes) => Location::Handle(FileHandle {
                    mount: mount.get(&mounts).id,
                    kind,
                    bytes: ByteBuf::from(bytes),
                }),
                Shape::Lost(errno) => Location::Lost { errno },
            },
        });
        if seed.kind == DIRECTORY {
            directories.push(id);
        }
    }
    inodes.sort_by_key(|i| i.id);

    let openable: Vec<_> = inodes
        .iter()
        .filter(|i| i.kind == DIRECTORY || i.kind == REGULAR)
        .collect();
    let mut handle_id = 0;
    let handles: Vec<_> = handles
        .iter()
        .map(|(inode, gap, guest, host)| {
            let inode = inode.get(&openable);
            handle_id += gap;
            Handle {
                id: handle_id,
                inode: inode.id,
                directory: inode.kind == DIRECTORY,
                guest_flags: guest & GUEST_FLAGS,
                host_flags: host & HOST_FLAGS,
            }
        })
        .collect();
    State {
        session: Some(session),
        fs: FsState {
            next_inode: next + room,
            next_handle: handle_id + room,
            mounts,
            inodes,
            handles,
            ..FsState::default()
        },
    }
}

/// What state version 2 adds, before it is known to which inodes.
#[derive(Clone, Debug)]
struct Additions {
    file_systems: Vec<(u32, FileSystem)>,
    marks: Vec<(prop::sample::Index, Mark)>,
    locks: Vec<LockSeed>,
    requests: Vec<(u16, u16)>,
    /// Of lost inodes: permissions and owner, attributes, and pieces of contents with
    /// the gap before each.
    ghosts: Vec<GhostSeed>,
}

type XattrSeed = (Vec<u8>, Vec<u8>);
type GhostSeed = (u32, u32, Vec<XattrSeed>, Vec<(u64, Vec<u8>)>);

/// Gap to the lock before, length, owner (of a few), whether it writes, pid.
type LockSeed = (u64, u64, u64, bool, u32);

fn additions() -> impl Strategy<Value = Additions> {
    let boot = prop_oneof![Just(vec![]), vec(any::<u8>(), 16)];
    let file_system = (any::<u64>(), any::<u64>(), any::<u64>(), boot);
    let file_system = file_system.prop_map(|(magic, fsid, device, boot)| FileSystem {
        id: 0,
        magic,
        fsid,
        device,
        boot: ByteBuf::from(boot),
    });
    let mark = prop_oneof![
        (any::<i32>(), vec(any::<u8>(), 1..=128)).prop_map(|(kind, bytes)| Mark::Handle {
            kind,
            bytes: ByteBuf::from(bytes)
        }),
        (any::<u64>(), any::<Option<i64>>()).prop_map(|(ino, born)| Mark::Numbers { ino, born }),
    ];
    let lock = (
        0..1u64 << 40,
        0..1u64 << 40,
        0..4u64,
        any::<bool>(),
        any::<u32>(),
    );
    let parts = (
        vec((0..100u32, file_system), 1..4),
        vec((any::<prop::sample::Index>(), mark), 0..40),
        vec(lock, 0..12),
        vec(any::<(u16, u16)>(), 0..4),
        vec(
            (
                0..0o10000u32,
                any::<u32>(),
                vec((vec(1..=255u8, 1..20), vec(any::<u8>(), 0..9)), 0..3),
                vec((0..1u64 << 50, vec(any::<u8>(), 1..40)), 0..4),
            ),
            0..4,
        ),
    );
    parts.prop_map(|(file_systems, marks, locks, requests, ghosts)| Additions {
        file_systems,
        marks,
        locks,
        requests,
        ghosts,
    })
}

/// Each inode has an identity as long as there are marks; the locks lie one behind
/// the other on the first file that is open.
fn add((mut state, additions): (State, Additions)) -> State {
    let fs = &mut state.fs;
    let mut next = 0;
    for (gap, mut file_system) in additions.file_systems {
        file_system.id = next + gap;
        next += gap + 1;
        fs.file_systems.push(file_system);
    }
    for (inode, (index, mark)) in fs.inodes.iter().zip(additions.marks) {
        fs.identities.push(Identity {
            inode: inode.id,
            file_system: index.get(&fs.file_systems).id,
            mark,
        });
    }
    let requests = additions.requests.into_iter();
    fs.requests = requests
        .map(|(queue, head)| Request { queue, head })
        .collect();
    add_ghosts(fs, additions.ghosts);
    let Some(handle) = fs.handles.iter().find(|h| !h.directory) else {
        return state;
    };
    let mut start = 0;
    for (n, (gap, length, owner, write, pid)) in additions.locks.into_iter().enumerate() {
        start += gap;
        fs.locks.push(Lock {
            handle: (n % 2 == 0).then_some(handle.id),
            inode: handle.inode,
            owner,
            kind: LockKind::Posix,
            write,
            start,
            end: start + length,
            pid,
        });
        start += length + 1;
    }
    fs.locks.sort_by_key(Lock::order);
    state
}

/// Lost inodes are ghosts as long as there are seeds.
fn add_ghosts(fs: &mut FsState, seeds: Vec<GhostSeed>) {
    let lost = fs
        .inodes
        .iter()
        .filter(|inode| matches!(inode.location, Location::Lost { .. }));
    for (inode, (mode, owner, xattrs, pieces)) in lost.zip(seeds) {
        let mut size = 0;
        if inode.kind == REGULAR {
            for (gap, bytes) in pieces {
                let offset = size + gap;
                size = offset + bytes.len() as u64;
                fs.ghost_data.push(GhostData {
                    inode: inode.id,
                    offset,
                    bytes: ByteBuf::from(bytes),
                });
            }
        }
        let xattrs = xattrs.into_iter().map(|(name, value)| Xattr {
            name: ByteBuf::from(name),
            value: ByteBuf::from(value),
        });
        let time = Time {
            seconds: i64::from(owner) - (1 << 31),
            nanoseconds: mode * 100_000,
        };
        fs.ghosts.push(Ghost {
            inode: inode.id,
            directory: ROOT_ID,
            number: u64::from(owner) << 20,
            mode,
            uid: owner,
            gid: !owner,
            device: 0,
            size,
            accessed: time,
            modified: time,
            target: match inode.kind {
                0o120000 => ByteBuf::from(b"target"),
                _ => ByteBuf::new(),
            },
            linkable: inode.kind == REGULAR && owner % 2 == 0,
            xattrs: xattrs.collect(),
        });
    }
}
