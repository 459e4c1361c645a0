//! Streams that a real virtiofsd has written are taken, and say what the guest held.

use ferryfs_format_virtiofsd::{write, Version, VirtiofsdV1, VirtiofsdV2};
use ferryfs_state::{read_state, Limits, Location, Registry, State};

fn load(bytes: &[u8]) -> State {
    let registry = Registry::new()
        .with_dialect(VirtiofsdV1)
        .with_dialect(VirtiofsdV2);
    let (header, state) = read_state(&mut &*bytes, &registry, &Limits::default()).unwrap();
    assert_eq!(header.format, "virtiofsd-v2");
    state
}

const FIND_PATHS: &[u8] = include_bytes!("../goldens/virtiofsd-1.14.0-find-paths.bin");
const VERIFY: &[u8] = include_bytes!("../goldens/virtiofsd-1.14.0-verify.bin");
const FILE_HANDLES: &[u8] = include_bytes!("../goldens/virtiofsd-1.14.0-file-handles.bin");

#[test]
fn paths_are_those_that_the_guest_held() {
    let state = load(FIND_PATHS);
    let mut paths: Vec<String> = state
        .fs
        .inodes
        .iter()
        .map(|inode| match &inode.location {
            Location::Root => "root".to_owned(),
            Location::Child { parent, name } => {
                format!("{parent}/{}", String::from_utf8_lossy(name))
            }
            Location::Path { from, components } => {
                let names: Vec<_> = components
                    .iter()
                    .map(|c| String::from_utf8_lossy(c))
                    .collect();
                format!("{from}:{}", names.join("/"))
            }
            other => panic!("{other:?}"),
        })
        .collect();
    paths.sort();
    assert_eq!(
        paths,
        ["1/log", "1/sub", "1:deep/er/leaf", "2/file.txt", "root"]
    );
    let open: Vec<_> = state
        .fs
        .handles
        .iter()
        .map(|h| (h.inode, h.directory))
        .collect();
    let files = open.iter().filter(|(_, directory)| !directory).count();
    assert_eq!((open.len(), files), (3, 2));
    let append = libc::O_APPEND as u32;
    assert!(state.fs.handles.iter().any(|h| h.guest_flags & append != 0));
    assert!(state.fs.handles.iter().all(|h| h.host_flags & append == 0));
    // Comparison handles change nothing else.
    assert_eq!(load(VERIFY), state);
}

#[test]
fn file_handles_are_on_the_shares_own_mount() {
    let state = load(FILE_HANDLES);
    assert_eq!(state.fs.mounts.len(), 1);
    assert!(state.fs.mounts[0].path.is_empty());
    let by_handle = |i: &&ferryfs_state::Inode| matches!(i.location, Location::Handle(_));
    assert_eq!(state.fs.inodes.iter().filter(by_handle).count(), 4);
    assert!(write(&state, Version::V1).is_err());
}

#[test]
fn what_is_written_again_reads_the_same() {
    for golden in [FIND_PATHS, VERIFY, FILE_HANDLES] {
        let state = load(golden);
        let mut again = load(&write(&state, Version::V2).unwrap().0);
        // The guest's O_APPEND goes with each of its writes; forgotten directories
        // have new ids.
        for (a, b) in again.fs.handles.iter_mut().zip(&state.fs.handles) {
            assert_eq!(a.host_flags, b.host_flags);
            a.guest_flags = b.guest_flags;
        }
        assert!(again.fs.next_inode >= state.fs.next_inode);
        again.fs.next_inode = state.fs.next_inode;
        assert_eq!(again, state);
    }
}
