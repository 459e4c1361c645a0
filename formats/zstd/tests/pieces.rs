//! States whose inodes were encoded before: the same bytes as if they had not been, and
//! refused for the same reasons, before the first byte.

mod common;

use common::{decode, encode, encode_for, registry, writer, FORMATS};
use ferryfs_state::pieces::{ranges, write_pieces, Piece, BLOCK_SHIFT};
use ferryfs_state::testing::{any_state, large, sample_v3};
use ferryfs_state::{
    error_line, EnvelopeReader, FileHandle, FileSystem, FsState, Identity, Inode, Limits, Location,
    Mark, SectionId, State,
};
use proptest::prelude::*;

/// The pieces of `state`, by the rule that the page on the format gives.
fn pieces(state: &State, format: &str) -> Result<Vec<Piece>, String> {
    let registry = registry();
    let format = registry.get(format).unwrap();
    let mut blocks: Vec<(u64, u32)> = Vec::new();
    for inode in &state.fs.inodes {
        match blocks.last_mut() {
            Some((block, count)) if *block == inode.id >> BLOCK_SHIFT => *count += 1,
            _ => blocks.push((inode.id >> BLOCK_SHIFT, 1)),
        }
    }
    ranges(&blocks, BLOCK_SHIFT)
        .into_iter()
        .map(|range| {
            let (first, last) = (blocks[range.start].0, blocks[range.end - 1].0);
            let here = |id: u64| (first..=last).contains(&(id >> BLOCK_SHIFT));
            let inodes: Vec<Inode> = state
                .fs
                .inodes
                .iter()
                .filter(|i| here(i.id))
                .cloned()
                .collect();
            let identities = state.fs.identities.iter().filter(|i| here(i.inode));
            let identities: Vec<Identity> = identities.cloned().collect();
            Piece::encode(format.as_ref(), &inodes, &identities).map_err(|e| error_line(&e))
        })
        .collect()
}

/// Writes `state` in `pieces`; what there is of a stream, and what was said.
fn write(state: &State, pieces: &[Piece], format: &str) -> (Vec<u8>, Result<u64, String>) {
    let fs = &state.fs;
    let mut used: Vec<u64> = fs.handles.iter().map(|h| h.inode).collect();
    used.extend(fs.locks.iter().map(|lock| lock.inode));
    used.extend(fs.ghosts.iter().map(|ghost| ghost.inode));
    let rest = State {
        session: state.session.clone(),
        fs: FsState {
            inodes: fs
                .inodes
                .iter()
                .filter(|i| used.contains(&i.id))
                .cloned()
                .collect(),
            identities: Vec::new(),
            ..fs.clone()
        },
    };
    let mut bytes = Vec::new();
    let registry = registry();
    let format = registry.get(format).unwrap();
    let said = write_pieces(rest, pieces, format.as_ref(), &writer(), None, &mut bytes);
    (bytes, said.map_err(|e| error_line(&e)))
}

fn written(state: &State, format: &str) -> Vec<u8> {
    let (bytes, said) = write(state, &pieces(state, format).unwrap(), format);
    assert_eq!(said, Ok(bytes.len() as u64));
    bytes
}

/// As after a long time in which most files were forgotten, with identities.
fn thinned() -> State {
    let mut state = large(60_000);
    let used: Vec<u64> = state.fs.handles.iter().map(|h| h.inode).collect();
    state.fs.inodes.retain(|inode| {
        let stays = match inode.id {
            0..20_000 => inode.id % 97 == 0,
            20_000..30_000 => true,
            _ => inode.id % 2 == 0,
        };
        stays || inode.kind == 0o040000 || used.contains(&inode.id)
    });
    state.fs.file_systems = vec![FileSystem {
        id: 0,
        magic: 0xef53,
        fsid: 1,
        device: 2,
        boot: Vec::new().into(),
    }];
    let told = state.fs.inodes.iter().filter(|inode| inode.id % 3 != 0);
    state.fs.identities = told
        .map(|inode| Identity {
            inode: inode.id,
            file_system: 0,
            mark: Mark::Numbers {
                ino: inode.id << 20,
                born: Some(7),
            },
        })
        .collect();
    state
}

#[test]
fn a_large_state_is_the_same_in_pieces() {
    for state in [large(60_000), large(1), thinned(), sample_v3()] {
        for format in FORMATS {
            let bytes = encode(&state, format);
            assert!(written(&state, format) == bytes, "{format}");
            assert!(decode(&bytes).unwrap().1 == state, "{format}");
        }
    }
}

#[test]
fn older_readers_get_frames_as_their_own_releases_cut_them() {
    let frames = |bytes: &[u8], section: SectionId| {
        let mut reader = EnvelopeReader::open(bytes, &Limits::default()).unwrap();
        let mut records = Vec::new();
        while let Some(frame) = reader.next_frame().unwrap() {
            if frame.header.section == section {
                records.push(frame.header.records);
            }
        }
        records
    };
    let state = thinned();
    let now = encode(&state, "postcard");
    let then = encode_for(&state, "postcard", 2).unwrap().0;
    let inodes = state.fs.inodes.len() as u32;
    let full = |frames: &[u32], most: u32| frames[..frames.len() - 1].iter().all(|n| *n == most);
    assert!(full(&frames(&then, SectionId::INODES), 4096));
    assert!(full(&frames(&then, SectionId::IDENTITIES), 16384));
    assert!(!full(&frames(&now, SectionId::INODES), 4096));
    // Where there are few, there are few frames all the same.
    let few = frames(&now, SectionId::INODES);
    assert!(few.len() as u32 <= 2 * inodes.div_ceil(4096) + 1, "{few:?}");
    assert!(few.len() >= frames(&now, SectionId::IDENTITIES).len());
    assert_eq!(decode(&then).unwrap().1, state);
}

#[test]
fn what_does_not_belong_together_is_refused_before_the_first_byte() {
    let refused = |state: &State, pieces: &[Piece], text: &str| {
        let (bytes, said) = write(state, pieces, "postcard");
        let said = said.unwrap_err();
        assert!(said.contains(text), "{said}");
        assert!(bytes.is_empty(), "{said}");
    };
    let good = thinned();
    let all = pieces(&good, "postcard").unwrap();
    let twice: Vec<Piece> = all[..2].iter().chain(&all[1..]).cloned().collect();
    refused(&good, &twice, "not in ascending order");

    let mut state = good.clone();
    state.fs.next_inode = 10;
    refused(&state, &all, "must be above 60000 and below 2^63");
    let mut state = good.clone();
    state.fs.file_systems.clear();
    refused(&state, &all, "file system 0, which is not");
    // Pieces without the first: there is no root, and nothing to lie in.
    refused(&good, &all[1..], "there is no root inode");
    // A directory that nobody knows.
    let mut state = good.clone();
    let orphan = state.fs.inodes.last_mut().unwrap();
    orphan.location = Location::Child {
        parent: 3,
        name: b"x".to_vec().into(),
    };
    refused(
        &state,
        &pieces(&state, "postcard").unwrap(),
        "its parent, inode 3, is not",
    );
    let mut state = good.clone();
    state.fs.inodes.last_mut().unwrap().location = Location::Handle(FileHandle {
        mount: 5,
        kind: 1,
        bytes: vec![1].into(),
    });
    refused(
        &state,
        &pieces(&state, "postcard").unwrap(),
        "mount 5, which is not",
    );
    // Two directories in each other.
    let mut state = large(60_000);
    let dirs: Vec<usize> = (0..state.fs.inodes.len())
        .filter(|at| *at > 0 && state.fs.inodes[*at].kind == 0o040000)
        .collect();
    let (a, b) = (dirs[0], dirs[dirs.len() - 1]);
    for (at, parent) in [(a, b), (b, a)] {
        let parent = state.fs.inodes[parent].id;
        state.fs.inodes[at].location = Location::Child {
            parent,
            name: b"x".to_vec().into(),
        };
    }
    let (bytes, said) = write(&state, &pieces(&state, "postcard").unwrap(), "postcard");
    assert!(said.is_err() && bytes.is_empty(), "{said:?}");
    // A handle of a directory as a file.
    let mut state = large(60_000);
    state.fs.handles[0].inode = state.fs.inodes[a].id;
    let (bytes, said) = write(&state, &pieces(&state, "postcard").unwrap(), "postcard");
    assert!(said.is_err() && bytes.is_empty(), "{said:?}");
}

#[test]
fn records_that_no_reader_takes_become_no_piece() {
    let mut state = large(100);
    state.fs.inodes[50].location = Location::Child {
        parent: 1,
        name: b"a/b".to_vec().into(),
    };
    let said = pieces(&state, "postcard").unwrap_err();
    assert!(said.ends_with("it contains a slash"), "{said}");
    let mut state = large(100);
    state.fs.identities = thinned().fs.identities;
    let registry = registry();
    let format = registry.get("postcard").unwrap();
    let said = Piece::encode(format.as_ref(), &state.fs.inodes, &state.fs.identities);
    assert!(said.is_err(), "identities of other inodes");
}

proptest! {
    #[test]
    fn any_state_is_the_same_in_pieces(state in any_state()) {
        for format in FORMATS {
            prop_assert_eq!(written(&state, format), encode(&state, format));
        }
    }
}
