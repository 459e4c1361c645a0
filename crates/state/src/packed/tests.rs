//! What is packed comes out as it went in, and no more goes in than there is room for.

use proptest::prelude::*;

use super::*;
use crate::model::State;
use crate::testing::{any_state, large};

fn kinds() -> impl Strategy<Value = u32> {
    proptest::sample::select(vec![
        0u32,
        0o010000,
        0o020000,
        0o040000,
        0o060000,
        0o100000,
        0o120000,
        0o140000,
        // None that is valid, but what a frame has is packed before it is checked.
        0o100644,
        0o200000,
        1,
        u32::MAX,
    ])
}

fn bytes() -> impl Strategy<Value = ByteBuf> {
    proptest::collection::vec(any::<u8>(), 0..300).prop_map(ByteBuf::from)
}

fn location() -> impl Strategy<Value = Location> {
    prop_oneof![
        Just(Location::Root),
        (any::<u64>(), bytes()).prop_map(|(parent, name)| Location::Child { parent, name }),
        (any::<u64>(), proptest::collection::vec(bytes(), 0..5))
            .prop_map(|(from, components)| Location::Path { from, components }),
        (any::<u32>(), any::<i32>(), bytes()).prop_map(|(mount, kind, bytes)| {
            Location::Handle(FileHandle { mount, kind, bytes })
        }),
        any::<i32>().prop_map(|errno| Location::Lost { errno }),
    ]
}

fn mark() -> impl Strategy<Value = Mark> {
    prop_oneof![
        (any::<i32>(), bytes()).prop_map(|(kind, bytes)| Mark::Handle { kind, bytes }),
        (any::<u64>(), any::<Option<i64>>()).prop_map(|(ino, born)| Mark::Numbers { ino, born }),
    ]
}

proptest! {
    #[test]
    fn inodes_come_out_as_they_went_in(
        records in proptest::collection::vec((any::<u64>(), any::<u64>(), kinds(), location()), 1..50),
    ) {
        let records: Vec<Inode> = records
            .into_iter()
            .map(|(id, lookups, kind, location)| Inode { id, lookups, kind, location })
            .collect();
        let mut pack = InodePack::with_capacity(0);
        for record in &records {
            prop_assert!(pack.push(record.into()));
        }
        pack.fit();
        prop_assert_eq!(pack.len(), records.len());
        for (at, record) in records.iter().enumerate() {
            prop_assert_eq!(&pack.get(at).to_record(), record);
            prop_assert_eq!(pack.get(at), record.into());
            prop_assert_eq!(pack.ids()[at], record.id);
            prop_assert_eq!(pack.kind(at), record.kind);
            prop_assert_eq!(pack.lead(at), Lead::from(InodeRef::from(record).place));
            prop_assert_eq!(pack.way(at), match record.location {
                Location::Child { .. } => Way::Child,
                Location::Handle(_) => Way::Handle,
                _ => Way::Other,
            });
        }
    }

    #[test]
    fn identities_come_out_as_they_went_in(
        records in proptest::collection::vec((any::<u64>(), any::<u32>(), mark()), 1..50),
    ) {
        let records: Vec<Identity> = records
            .into_iter()
            .map(|(inode, file_system, mark)| Identity { inode, file_system, mark })
            .collect();
        let mut pack = IdentityPack::with_capacity(0);
        for record in &records {
            prop_assert!(pack.push(record.into()));
        }
        pack.fit();
        for (at, record) in records.iter().enumerate() {
            prop_assert_eq!(&pack.get(at).to_record(), record);
            prop_assert_eq!(pack.get(at), record.into());
        }
    }

    #[test]
    fn a_state_comes_out_as_it_went_in(state in any_state()) {
        let packed = PackedState::from(state.clone());
        prop_assert_eq!(packed.fs.inodes.len(), state.fs.inodes.len());
        prop_assert!(packed.fs.rest.inodes.is_empty() && packed.fs.rest.identities.is_empty());
        for identity in &state.fs.identities {
            let found = packed.fs.identities.find(identity.inode);
            prop_assert_eq!(found, Some(identity.into()));
        }
        prop_assert_eq!(State::from(packed), state);
    }
}

/// Whatever the frames, pieces are large and records are where they should be.
#[test]
fn records_are_where_they_should_be_whatever_the_frames() {
    let state = large(3 * PIECE as u64 + 100);
    let records = &state.fs.inodes;
    let ids: Vec<u64> = records.iter().map(|record| record.id).collect();
    let sizes = [
        vec![1],
        vec![7],
        vec![PIECE - 1],
        // As where the first id is 1.
        vec![PIECE - 1, PIECE],
        vec![PIECE],
        vec![PIECE + 1],
        vec![PIECE, 1, PIECE - 1, 1],
        vec![PIECE / 2 + 1],
        vec![2 * PIECE],
        vec![records.len()],
    ];
    for sizes in sizes {
        let mut inodes = PackedInodes::default();
        let mut rest = &records[..];
        for size in sizes.iter().cycle() {
            let (frame, later) = rest.split_at((*size).min(rest.len()));
            let mut pack = InodePack::default();
            assert!(frame.iter().all(|record| pack.push(record.into())));
            inodes.append(pack);
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        let pieces: Vec<usize> = inodes.pieces().iter().map(InodePack::len).collect();
        assert!(pieces.iter().all(|n| (1..=PIECE).contains(n)), "{pieces:?}");
        // No two neighbours would fit into one.
        assert!(pieces.windows(2).all(|n| n[0] + n[1] > PIECE), "{pieces:?}");
        assert_eq!(inodes.len(), records.len());
        for (at, record) in records.iter().enumerate() {
            assert_eq!(inodes.get(at), record.into());
            assert_eq!(inodes.id(at), record.id);
            assert_eq!(inodes.kind(at), record.kind);
            assert_eq!(inodes.lead(at), inodes.get(at).place.into());
            assert_eq!(inodes.position(record.id), Some(at));
        }
        assert_eq!(inodes.position(0), None);
        assert_eq!(inodes.position(u64::MAX), None);
        for range in [
            0..1,
            0..PIECE,
            5..PIECE + 5,
            PIECE - 1..PIECE + 1,
            0..ids.len(),
        ] {
            assert_eq!(inodes.have_in_a_row(&ids[range.clone()]), Some(range.end));
            let gap = [&ids[range.clone()], &[u64::MAX]].concat();
            assert_eq!(inodes.have_in_a_row(&gap), None);
        }
        assert_eq!(inodes.have_in_a_row(&[ids[0], ids[2]]), None);
        assert!(inodes.into_records() == *records, "{sizes:?}");
    }
}

/// What is not in order, or not as a record must be, is known without another look.
#[test]
fn packs_know_whether_their_records_are_sound() {
    let record = |id: u64, name: &'static [u8]| InodeRef {
        id,
        lookups: 1,
        kind: 0o100000,
        place: Place::Child { parent: 1, name },
    };
    let sound = |records: &[InodeRef<'_>]| {
        let mut pack = InodePack::default();
        assert!(records.iter().all(|record| pack.push(*record)));
        pack.is_sound()
    };
    assert!(sound(&[]) && sound(&[record(2, b"a"), record(3, b"b"), record(9, b"c")]));
    assert!(!sound(&[record(2, b"a"), record(2, b"b"), record(9, b"c")]));
    assert!(!sound(&[record(3, b"a"), record(2, b"b"), record(9, b"c")]));
    assert!(!sound(&[record(2, b"a/b"), record(3, b"b")]));
    assert!(!sound(&[record(2, b"a"), record(3, b"..")]));

    let told = |inode: u64, bytes: &'static [u8]| IdentityRef {
        inode,
        file_system: 0,
        mark: MarkRef::Handle { kind: 1, bytes },
    };
    let sound = |records: &[IdentityRef<'_>]| {
        let mut pack = IdentityPack::default();
        assert!(records.iter().all(|record| pack.push(*record)));
        pack.is_sound()
    };
    assert!(sound(&[told(1, b"a"), told(2, b"b")]));
    assert!(!sound(&[told(1, b"a"), told(1, b"b")]));
    assert!(!sound(&[told(2, b"a"), told(1, b"b")]));
    assert!(!sound(&[told(1, b""), told(2, b"b")]));
}

#[test]
fn identities_are_found_by_their_inodes() {
    let records: Vec<Identity> = (1..=20_000)
        .map(|n| Identity {
            inode: 3 * n,
            // One for long, then another, then by turns.
            file_system: match n {
                ..5000 => 3,
                5000..10_000 => 4,
                _ => n as u32 % 2,
            },
            mark: Mark::Numbers {
                ino: n,
                born: (n % 3 > 0).then_some(n as i64),
            },
        })
        .collect();
    for size in [1, 1000, 4096, 16_384] {
        let mut all = PackedIdentities::default();
        for frame in records.chunks(size) {
            let mut pack = IdentityPack::default();
            assert!(frame.iter().all(|record| pack.push(record.into())));
            all.append(pack);
        }
        assert_eq!(all.len(), records.len());
        assert_eq!(all.first(), Some((&records[0]).into()));
        for record in &records {
            assert_eq!(all.find(record.inode), Some(record.into()));
            assert_eq!(all.find(record.inode + 1), None);
        }
        for from in [0, 1, 3, 4, 3 * 4096, 3 * 4096 + 1, 60_000, 60_001] {
            let expected: Vec<_> = records.iter().filter(|r| r.inode >= from).collect();
            let found: Vec<_> = all.iter_from(from).collect();
            assert_eq!(found.len(), expected.len(), "{size} from {from}");
            assert!(found.iter().zip(&expected).all(|(a, b)| *a == (*b).into()));
            let lasting = expected.iter().map(|r| match r.mark {
                Mark::Numbers { born, .. } => (r.inode, born.is_some()),
                Mark::Handle { .. } => (r.inode, true),
            });
            assert!(all.lasting_from(from).eq(lasting), "{size} from {from}");
        }
        let references: Vec<_> = all.pieces().iter().flat_map(|p| p.references()).collect();
        let expected: Vec<_> = records.iter().map(|r| (r.inode, r.file_system)).collect();
        assert!(references == expected, "{size}");
        assert!(all.into_records() == records);
    }
    assert_eq!(PackedIdentities::default().iter_from(5).count(), 0);
    assert_eq!(PackedIdentities::default().find(5), None);
}

#[test]
fn no_more_are_packed_than_there_is_room_for() {
    let record = InodeRef {
        id: 2,
        lookups: 1,
        kind: 0o100000,
        place: Place::Lost { errno: 116 },
    };
    let mut pack = InodePack::default();
    assert!((0..MOST_PACKED).all(|_| pack.push(record)));
    assert!(!pack.push(record));
    assert_eq!(pack.len(), MOST_PACKED);
}
