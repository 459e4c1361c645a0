//! Every kind of record that is refused, one by one.

use proptest::prelude::*;
use serde_bytes::ByteBuf;

use super::*;
use crate::model::{FileHandle, FsState, Ghost, GhostData, Inode, Location, Lock, LockKind, Mark};
use crate::testing::{any_state, large, sample, sample_v2, sample_v3};

/// What `validate` says to the sample after `change`.
fn refusal(change: impl FnOnce(&mut State)) -> String {
    let mut state = sample();
    change(&mut state);
    validate(&state, &Limits::default())
        .expect_err("it must be refused")
        .to_string()
}

fn session(state: &mut State) -> &mut Session {
    state.session.as_mut().unwrap()
}

fn rename(state: &mut State, to: &[u8]) {
    state.fs.inodes[2].location = Location::Child {
        parent: 2,
        name: ByteBuf::from(to),
    };
}

#[test]
fn the_sample_and_states_without_a_guest_are_valid() {
    let limits = Limits::default();
    validate(&sample(), &limits).unwrap();
    validate(&large(5000), &limits).unwrap();
    let fresh = State {
        session: None,
        fs: FsState {
            next_inode: 2,
            ..FsState::default()
        },
    };
    validate(&fresh, &limits).unwrap();

    // A share that is a single file, and a device that is all the guest looked at.
    let mut file = sample();
    file.fs.inodes.truncate(1);
    file.fs.handles.clear();
    file.fs.inodes[0].kind = S_IFREG;
    validate(&file, &limits).unwrap();
}

#[test]
fn a_bad_byte_is_seen_wherever_it_is() {
    for length in 1..40 {
        check_name(&vec![b'n'; length]).unwrap();
        for at in 0..length {
            for bad in 0..=255 {
                let mut name = vec![0xff; length];
                name[at] = bad;
                let dots = name == b"." || name == b"..";
                let good = bad != b'/' && bad != 0 && !dots;
                assert_eq!(check_name(&name).is_ok(), good, "{bad} at {at} of {length}");
            }
        }
    }
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for (name, why) in [
        (&b""[..], "\"\" is no name: it is empty"),
        (b".", "\".\" is no name: it is a dot entry"),
        (b"..", "\"..\" is no name: it is a dot entry"),
        (b"/", "\"/\" is no name: it contains a slash"),
        (
            b"../secret",
            "\"../secret\" is no name: it contains a slash",
        ),
        (b"a\0b", "\"a\\x00b\" is no name: it contains a NUL byte"),
    ] {
        assert_eq!(refusal(|s| rename(s, name)), format!("inode 3: {why}"));
        let path = vec![ByteBuf::from("ok"), ByteBuf::from(name)];
        assert_eq!(
            refusal(|s| s.fs.inodes[3].location = Location::Path {
                from: 1,
                components: path.clone()
            }),
            format!("inode 5: {why}")
        );
        assert_eq!(
            refusal(|s| s.fs.mounts[1].path = path),
            format!("mount 1: {why}")
        );
    }
    let long = refusal(|s| rename(s, &[b'n'; 256]));
    assert!(
        long.ends_with("n\" is no name: it is longer than 255 bytes"),
        "{long}"
    );

    for name in [&[b'n'; 255][..], b"...", b"..a", b"\xff\xfe", b"a\nb"] {
        let mut state = sample();
        rename(&mut state, name);
        validate(&state, &Limits::default()).unwrap();
    }
}

#[test]
fn inodes_that_cannot_be_are_refused() {
    let inode = |n: usize, change: fn(&mut Inode)| refusal(|s| change(&mut s.fs.inodes[n]));
    for (found, expected) in [
        (inode(2, |i| i.id = 2), "inode 2: the id is used twice"),
        (
            refusal(|s| s.fs.inodes.swap(2, 3)),
            "inode 3: not in ascending order: it comes after 5",
        ),
        (inode(0, |i| i.id = 0), "inode 0: the id is out of range"),
        (
            inode(5, |i| i.id = 1 << 63),
            "inode 9223372036854775808: the id is out of range",
        ),
        (
            inode(1, |i| i.lookups = 0),
            "inode 2: the guest holds no lookup of it",
        ),
        (
            inode(1, |i| i.kind = 0o050000),
            "inode 2: 0o50000 is no file type",
        ),
        (
            inode(1, |i| i.kind = 0o100644),
            "inode 2: 0o100644 is no file type",
        ),
        (
            inode(1, |i| i.location = Location::Root),
            "inode 2: inode 1 and no other is the root",
        ),
        (
            inode(0, |i| i.location = Location::Lost { errno: 5 }),
            "inode 1: inode 1 and no other is the root",
        ),
        (
            inode(0, |i| i.kind = 0o120000),
            "inode 1: the root is neither a directory nor a regular file",
        ),
        (
            inode(3, |i| {
                i.location = Location::Path {
                    from: 1,
                    components: vec![],
                }
            }),
            "inode 5: an empty path",
        ),
        (
            inode(5, |i| i.location = Location::Lost { errno: 0 }),
            "inode 8: 0 is no errno",
        ),
        (
            inode(5, |i| i.location = Location::Lost { errno: -5 }),
            "inode 8: -5 is no errno",
        ),
        (
            inode(5, |i| i.location = Location::Lost { errno: 4096 }),
            "inode 8: 4096 is no errno",
        ),
        (
            refusal(|s| {
                s.fs.inodes.remove(0);
            }),
            "inode 1: there is no root inode",
        ),
    ] {
        assert_eq!(found, expected);
    }
}

#[test]
fn file_handles_that_cannot_be_are_refused() {
    let with = |mount, length| {
        refusal(|s| {
            s.fs.inodes[4].location = Location::Handle(FileHandle {
                mount,
                kind: 1,
                bytes: ByteBuf::from(vec![7; length]),
            });
        })
    };
    assert_eq!(with(1, 129), "inode 7: a file handle of 129 bytes");
    assert_eq!(with(1, 0), "inode 7: a file handle of 0 bytes");
    assert_eq!(
        with(2, 128),
        "inode 7: its file handle is on mount 2, which is not in the stream"
    );
}

#[test]
fn mounts_that_cannot_be_are_refused() {
    assert_eq!(
        refusal(|s| s.fs.mounts[1].id = 0),
        "mount 0: the id is used twice"
    );
    assert_eq!(
        refusal(|s| s.fs.mounts.reverse()),
        "mount 0: not in ascending order: it comes after 1"
    );
}

#[test]
fn parents_that_cannot_be_are_refused() {
    let child = |of| Location::Child {
        parent: of,
        name: ByteBuf::from("n"),
    };
    assert_eq!(
        refusal(|s| s.fs.inodes[2].location = child(4)),
        "inode 3: its parent, inode 4, is not in the stream"
    );
    assert_eq!(
        refusal(|s| s.fs.inodes[2].location = child(u64::MAX)),
        "inode 3: its parent, inode 18446744073709551615, is not in the stream"
    );
    assert_eq!(
        refusal(|s| s.fs.inodes[2].location = child(7)),
        "inode 3: its parent, inode 7, is no directory"
    );
    // Itself, and a ring of two behind a tail.
    assert_eq!(
        refusal(|s| s.fs.inodes[1].location = child(2)),
        "inode 2: it is its own ancestor"
    );
    let ring = refusal(|s| {
        s.fs.inodes[5].kind = S_IFDIR;
        s.fs.inodes[5].location = child(2);
        s.fs.inodes[1].location = child(8);
    });
    assert_eq!(ring, "inode 2: it is its own ancestor");
}

#[test]
fn long_chains_of_parents_take_linear_time() {
    // Each inode's parent is the next one: the worst order for a walk upwards. With
    // time in the square of the length this would not end within the test's life.
    let n = 200_000;
    let chain = |end: Location| {
        let mut state = large(n);
        for inode in &mut state.fs.inodes[1..] {
            inode.kind = S_IFDIR;
            inode.location = Location::Child {
                parent: inode.id + 1,
                name: ByteBuf::from("d"),
            };
        }
        state.fs.handles.clear();
        state.fs.inodes.last_mut().unwrap().location = end;
        validate(&state, &Limits::default())
    };
    let last = |parent| Location::Child {
        parent,
        name: ByteBuf::from("d"),
    };
    chain(last(ROOT_ID)).unwrap();
    assert_eq!(chain(last(2)).unwrap_err().problem, Problem::Cycle);
    assert_eq!(chain(last(n / 2)).unwrap_err().problem, Problem::Cycle);
}

#[test]
fn handles_that_cannot_be_are_refused() {
    let handle = |n: usize, change: fn(&mut Handle)| refusal(|s| change(&mut s.fs.handles[n]));
    for (found, expected) in [
        (handle(1, |h| h.id = 0), "handle 0: the id is used twice"),
        (
            handle(0, |h| h.inode = 4),
            "handle 0: its inode 4 is not in the stream",
        ),
        (
            handle(0, |h| h.directory = true),
            "handle 0: a directory handle of inode 3, which has file type 0o100000",
        ),
        (
            handle(1, |h| h.directory = false),
            "handle 4: a file handle of inode 2, which has file type 0o40000",
        ),
        (
            handle(0, |h| h.inode = 8),
            "handle 0: a file handle of inode 8, which has file type 0o10000",
        ),
        (
            handle(0, |h| h.host_flags |= 0o1000),
            "handle 0: host_flags 0o101002 has bits that no open file may have: 0o1000",
        ),
        (
            handle(0, |h| h.guest_flags |= 0o100),
            "handle 0: guest_flags 0o102101 has bits that no open file may have: 0o100",
        ),
    ] {
        assert_eq!(found, expected);
    }
}

#[test]
fn flags_that_act_at_open_are_refused_and_others_are_not() {
    let o_creat_excl_trunc_path_tmpfile = [0o100, 0o200, 0o1000, 0o10000000, 0o20000000];
    for bit in (0..32).map(|n| 1u32 << n) {
        let acts = o_creat_excl_trunc_path_tmpfile.contains(&bit);
        let unknown = bit > 0o4000000 || matches!(bit, 0x4 | 0x8 | 0x10 | 0x20);
        let internal = matches!(bit, 0x20 | 0x400_0000);
        let mut host = sample();
        host.fs.handles[0].host_flags = bit;
        assert_eq!(
            validate(&host, &Limits::default()).is_err(),
            acts || unknown,
            "host {bit:#o}"
        );
        let mut guest = sample();
        guest.fs.handles[0].guest_flags = bit;
        assert_eq!(
            validate(&guest, &Limits::default()).is_err(),
            (acts || unknown) && !internal,
            "guest {bit:#o}"
        );
    }
}

#[test]
fn counters_that_would_collide_are_refused() {
    let above = |name, value: u64, above| {
        format!("counters: {name} is {value}, but must be above {above} and below 2^63")
    };
    assert_eq!(refusal(|s| s.fs.next_inode = 8), above("next_inode", 8, 8));
    assert_eq!(refusal(|s| s.fs.next_inode = 1), above("next_inode", 1, 1));
    assert_eq!(
        refusal(|s| s.fs.next_handle = 4),
        above("next_handle", 4, 4)
    );
    assert_eq!(
        refusal(|s| s.fs.next_handle = 1 << 63),
        above("next_handle", 1 << 63, 0)
    );
    assert_eq!(
        refusal(|s| s.fs.next_inode = u64::MAX),
        above("next_inode", u64::MAX, 1)
    );
}

#[test]
fn sessions_that_cannot_be_are_refused() {
    for (found, expected) in [
        (
            refusal(|s| session(s).minor = 26),
            "session: minor is 26, not 27 to 9999",
        ),
        (
            refusal(|s| session(s).guest_minor = 0),
            "session: guest_minor is 0, not 27 to 9999",
        ),
        (
            refusal(|s| session(s).max_write = 4095),
            "session: max_write is 4095, not 4 KiB to 16 MiB",
        ),
        (
            refusal(|s| session(s).max_write = u32::MAX),
            "session: max_write is 4294967295, not 4 KiB to 16 MiB",
        ),
        (
            refusal(|s| session(s).time_gran = 1_000_000_001),
            "session: time_gran is 1000000001, not at most 1 second",
        ),
        (
            refusal(|s| session(s).offered_flags &= !1),
            "session: INIT flags 0x1 are in use but were not offered",
        ),
        (
            refusal(|s| s.session = None),
            "inode 2: it belongs to a guest, but there is no session",
        ),
    ] {
        assert_eq!(found, expected);
    }
}

#[test]
fn counts_are_limited() {
    let limits = Limits {
        mounts: 1,
        inodes: 6,
        handles: 2,
        ..Limits::default()
    };
    assert_eq!(
        validate(&sample(), &limits).unwrap_err().to_string(),
        "mount 1: more than 1 records"
    );
    let limits = Limits {
        mounts: 2,
        inodes: 5,
        ..limits
    };
    assert_eq!(
        validate(&sample(), &limits).unwrap_err().to_string(),
        "inode 8: more than 5 records"
    );
    let limits = Limits {
        inodes: 6,
        handles: 1,
        ..limits
    };
    assert_eq!(
        validate(&sample(), &limits).unwrap_err().to_string(),
        "handle 4: more than 1 records"
    );
}

/// What `validate` says to the sample of version 2 after `change`.
fn refusal_v2(change: impl FnOnce(&mut State)) -> String {
    let mut state = sample_v2();
    change(&mut state);
    validate(&state, &Limits::default())
        .expect_err("it must be refused")
        .to_string()
}

#[test]
fn identities_that_cannot_be_are_refused() {
    validate(&sample_v2(), &Limits::default()).unwrap();
    for (found, expected) in [
        (
            refusal_v2(|s| s.fs.file_systems[1].id = 0),
            "file system 0: the id is used twice",
        ),
        (
            refusal_v2(|s| s.fs.file_systems.swap(0, 1)),
            "file system 0: not in ascending order: it comes after 4",
        ),
        (
            refusal_v2(|s| s.fs.file_systems[0].boot = ByteBuf::from(vec![0; 15])),
            "file system 0: a boot id of 15 bytes, not of 16 or none",
        ),
        (
            refusal_v2(|s| s.fs.identities[1].inode = 1),
            "identity of inode 1: the id is used twice",
        ),
        (
            refusal_v2(|s| s.fs.identities.swap(0, 2)),
            "identity of inode 2: not in ascending order: it comes after 3",
        ),
        (
            refusal_v2(|s| s.fs.identities[3].inode = 6),
            "identity of inode 6: the inode is not in the stream",
        ),
        (
            refusal_v2(|s| s.fs.identities[2].file_system = 1),
            "identity of inode 3: it is on file system 1, which is not in the stream",
        ),
        (
            refusal_v2(|s| {
                s.fs.identities[0].mark = Mark::Handle {
                    kind: 1,
                    bytes: ByteBuf::new(),
                }
            }),
            "identity of inode 1: a file handle of 0 bytes",
        ),
        (
            refusal_v2(|s| {
                s.fs.identities[0].mark = Mark::Handle {
                    kind: 1,
                    bytes: ByteBuf::from(vec![0; 129]),
                }
            }),
            "identity of inode 1: a file handle of 129 bytes",
        ),
    ] {
        assert_eq!(found, expected);
    }
}

#[test]
fn locks_that_no_kernel_grants_are_refused() {
    let lock = |n: usize, change: fn(&mut Lock)| refusal_v2(|s| change(&mut s.fs.locks[n]));
    let owner = "lock of inode 3 from byte 0 by owner 0x5eed: ";
    for (found, expected) in [
        (
            lock(0, |l| l.inode = 4),
            "lock of inode 3 from byte 10 by owner 0x5eed: not in order",
        ),
        (
            refusal_v2(|s| s.fs.locks.swap(0, 1)),
            &format!("{owner}not in order: locks stand by inode, kind, owner and first byte"),
        ),
        (
            lock(0, |l| l.end = u64::MAX),
            &format!(
                "{owner}bytes 0 to 18446744073709551615 are no range: it must end at or after its \
                 start and by 2^63-1"
            ),
        ),
        (
            lock(1, |l| l.end = 9),
            "lock of inode 3 from byte 10 by owner 0x5eed: bytes 10 to 9 are no range",
        ),
        (
            lock(3, |l| l.end = 9),
            "lock of inode 3 from byte 0 by owner 0x7: a flock lock has the whole file, bytes 0 \
             to 2^63-1, not 0 to 9",
        ),
        (
            lock(1, |l| l.start = 9),
            "lock of inode 3 from byte 9 by owner 0x5eed: it overlaps the same owner's lock of \
             bytes 0 to 9",
        ),
        (
            refusal_v2(|s| s.fs.locks.insert(1, s.fs.locks[0].clone())),
            &format!("{owner}it overlaps the same owner's lock of bytes 0 to 9"),
        ),
        (
            refusal_v2(|s| s.fs.locks[2].end = 10),
            "lock of inode 3 from byte 10 by owner 0x5eed: it excludes a lock that owner \
             0xffffffffffffffff holds on some of the same bytes",
        ),
        (
            refusal_v2(|s| {
                let mut other = s.fs.locks[3].clone();
                other.owner = 8;
                other.write = false;
                s.fs.locks.push(other);
            }),
            "lock of inode 3 from byte 0 by owner 0x8: it excludes a lock that owner 0x7 holds on \
             some of the same bytes",
        ),
        (
            refusal_v2(|s| s.fs.locks.iter_mut().for_each(|l| l.inode = 4)),
            "lock of inode 4 from byte 0 by owner 0x5eed: its inode 4 is not in the stream",
        ),
        (
            refusal_v2(|s| s.fs.locks.iter_mut().for_each(|l| l.inode = 2)),
            "lock of inode 2 from byte 0 by owner 0x5eed: inode 2 has file type 0o40000; only \
             regular files have locks",
        ),
        (
            lock(0, |l| l.handle = Some(3)),
            &format!("{owner}its handle 3 is not in the stream"),
        ),
        (
            lock(0, |l| l.handle = Some(4)),
            &format!("{owner}its handle 4 is of inode 2"),
        ),
    ] {
        assert!(found.starts_with(expected), "{found}\n{expected}");
    }
    let limits = Limits {
        locks: 3,
        ..Limits::default()
    };
    let error = validate(&sample_v2(), &limits).unwrap_err();
    assert!(
        error.to_string().ends_with(": more than 3 records"),
        "{error}"
    );
}

/// Locks of one file as one byte of it each knows them, against the rule itself.
#[test]
fn conflicts_are_found_wherever_they_are() {
    const OWNERS: [u64; 3] = [1, 2, 3];
    let lock = |(owner, write, start, end): (u64, bool, u64, u64)| Lock {
        handle: None,
        inode: 3,
        owner,
        kind: LockKind::Posix,
        write,
        start,
        end,
        pid: 0,
    };
    // Every way in which three owners can have one range of a few bytes each.
    let ranges: Vec<_> = (0..4).flat_map(|a| (a..4).map(move |b| (a, b))).collect();
    let modes: Vec<Vec<bool>> = (0..8u8)
        .map(|bits| (0..3).map(|n| bits >> n & 1 == 1).collect())
        .collect();
    let mut conflicting = 0;
    for (x, y, z) in ranges
        .iter()
        .flat_map(|x| ranges.iter().map(move |y| (x, y)))
        .flat_map(|(x, y)| ranges.iter().map(move |z| (x, y, z)))
    {
        for writes in &modes {
            let mut state = sample_v2();
            let taken = OWNERS.iter().zip([x, y, z]).zip(writes);
            let locks = taken.map(|((owner, (start, end)), write)| (*owner, *write, *start, *end));
            state.fs.locks = locks.map(lock).collect();
            let locks = &state.fs.locks;
            let clash = |a: &Lock, b: &Lock| {
                a.owner != b.owner && (a.write || b.write) && a.start <= b.end && b.start <= a.end
            };
            let expected = locks.iter().any(|a| locks.iter().any(|b| clash(a, b)));
            let found = validate(&state, &Limits::default());
            assert_eq!(found.is_err(), expected, "{locks:?}: {found:?}");
            conflicting += usize::from(expected);
        }
    }
    assert!(conflicting > 1000);
}

/// What `validate` says to the sample of version 3 after `change`.
fn refusal_v3(change: impl FnOnce(&mut FsState)) -> String {
    let mut state = sample_v3();
    change(&mut state.fs);
    validate(&state, &Limits::default())
        .expect_err("it must be refused")
        .to_string()
}

#[test]
fn ghosts_that_cannot_be_are_refused() {
    validate(&sample_v3(), &Limits::default()).unwrap();
    let ghost = |n: usize, change: fn(&mut Ghost)| refusal_v3(|fs| change(&mut fs.ghosts[n]));
    for (found, expected) in [
        (
            ghost(0, |g| g.mode = 0o100640),
            "ghost of inode 9: 0o100640 are no permissions",
        ),
        (
            ghost(0, |g| g.accessed.nanoseconds = 1_000_000_000),
            "ghost of inode 9: a time with 1000000000 nanoseconds behind its second",
        ),
        (
            ghost(0, |g| g.size = 1 << 63),
            "ghost of inode 9: a size of 9223372036854775808 bytes, which no file can have",
        ),
        (
            ghost(2, |g| g.target = ByteBuf::from(vec![b'x'; 4096])),
            "ghost of inode 12: a target that no symbolic link can have",
        ),
        (
            ghost(2, |g| g.target = ByteBuf::from(b"a\0b")),
            "ghost of inode 12: a target that no symbolic link can have",
        ),
        (
            ghost(2, |g| g.target = ByteBuf::new()),
            "ghost of inode 12: a target does not go with file type 0o120000",
        ),
        (
            ghost(1, |g| g.target = ByteBuf::from(b"x")),
            "ghost of inode 10: a target does not go with file type 0o40000",
        ),
        (
            ghost(1, |g| g.size = 1),
            "ghost of inode 10: a size does not go with file type 0o40000",
        ),
        (
            ghost(1, |g| g.linkable = true),
            "ghost of inode 10: a name to come does not go with file type 0o40000",
        ),
        (
            ghost(0, |g| g.device = 1),
            "ghost of inode 9: a device number does not go with file type 0o100000",
        ),
        (
            ghost(0, |g| g.xattrs[0].name = ByteBuf::from(vec![b'n'; 256])),
            "ghost of inode 9: an extended attribute \"nnnn",
        ),
        (
            ghost(0, |g| g.xattrs[1].value = ByteBuf::from(vec![0; 65537])),
            "ghost of inode 9: an extended attribute \"user.tag\" with 65537 bytes: names have",
        ),
        (
            ghost(0, |g| g.xattrs[1].name = ByteBuf::new()),
            "ghost of inode 9: an extended attribute \"\" with 2 bytes",
        ),
        (
            ghost(1, |g| g.inode = 9),
            "ghost of inode 9: the id is used twice",
        ),
        (
            ghost(0, |g| g.inode = 11),
            "ghost of inode 10: not in ascending order: it comes after 11",
        ),
        (
            ghost(2, |g| g.inode = 11),
            "ghost of inode 11: the inode is not in the stream",
        ),
        (
            ghost(0, |g| g.inode = 3),
            "ghost of inode 3: the inode has a place in the share",
        ),
        (
            refusal_v3(|fs| fs.inodes[7].kind = 0),
            "ghost of inode 10: no type does not go with file type 0o0",
        ),
        (
            ghost(0, |g| g.directory = 4),
            "ghost of inode 9: it is to be made beside inode 4, which is no directory",
        ),
        (
            ghost(0, |g| g.directory = 3),
            "ghost of inode 9: it is to be made beside inode 3, which is no directory",
        ),
        (
            ghost(0, |g| g.directory = 10),
            "ghost of inode 9: it is to be made beside inode 10, which is no directory",
        ),
    ] {
        assert!(found.starts_with(expected), "{found}\n{expected}");
    }
}

#[test]
fn contents_that_overlap_overflow_or_exceed_are_refused() {
    let piece =
        |n: usize, change: fn(&mut GhostData)| refusal_v3(|fs| change(&mut fs.ghost_data[n]));
    for (found, expected) in [
        (
            piece(0, |p| p.bytes = ByteBuf::new()),
            "contents of inode 9 from byte 0: a piece of 0 bytes, not of 1 to 1048576",
        ),
        (
            piece(0, |p| p.bytes = ByteBuf::from(vec![0; (1 << 20) + 1])),
            "contents of inode 9 from byte 0: a piece of 1048577 bytes, not of 1 to 1048576",
        ),
        (
            piece(1, |p| p.offset = 11),
            "contents of inode 9 from byte 11: not in order, or over the piece before it, of inode \
             9 up to byte 12",
        ),
        (
            refusal_v3(|fs| fs.ghost_data.swap(0, 2)),
            "contents of inode 9 from byte 12: not in order, or over the piece before it",
        ),
        (
            piece(2, |p| p.offset = u64::MAX - 2),
            "contents of inode 9 from byte 18446744073709551613: 4 bytes from \
             18446744073709551613 on go beyond what any file can have",
        ),
        (
            piece(2, |p| p.offset = (1 << 63) - 4),
            "contents of inode 9 from byte 9223372036854775804: 4 bytes from",
        ),
        (
            piece(2, |p| p.offset += 1),
            "contents of inode 9 from byte 8589934589: it goes beyond the file's end at byte \
             8589934592",
        ),
        (
            refusal_v3(|fs| fs.ghosts[0].size = 8),
            "contents of inode 9 from byte 8589934588: it goes beyond the file's end at byte 8",
        ),
        (
            piece(2, |p| p.inode = 12),
            "contents of inode 12 from byte 8589934588: it goes beyond the file's end at byte 0",
        ),
        (
            piece(2, |p| p.inode = 11),
            "contents of inode 11 from byte 8589934588: the stream has no such ghost",
        ),
        (
            piece(0, |p| p.inode = 8),
            "contents of inode 8 from byte 0: the stream has no such ghost",
        ),
    ] {
        assert!(found.starts_with(expected), "{found}\n{expected}");
    }
    for (ghosts, ghost_bytes, text) in [
        (2, 24, "ghost of inode 12: more than 2 records"),
        (
            3,
            23,
            "contents of inode 9 from byte 8589934588: more than 23 bytes of contents of unlinked \
             files; a higher --ghost-limit takes them",
        ),
    ] {
        let limits = Limits {
            ghosts,
            ghost_bytes,
            ..Limits::default()
        };
        let error = validate(&sample_v3(), &limits).unwrap_err();
        assert_eq!(error.to_string(), text);
    }
    let limits = Limits {
        ghosts: 3,
        ghost_bytes: 24,
        ..Limits::default()
    };
    validate(&sample_v3(), &limits).unwrap();
}

proptest! {
    #[test]
    fn arbitrary_states_of_the_generator_are_valid(state in any_state()) {
        prop_assert_eq!(validate(&state, &Limits::default()), Ok(()));
    }
}
