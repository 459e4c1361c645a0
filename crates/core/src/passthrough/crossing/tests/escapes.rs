//! States that are sound by themselves, and lead out of the share by what lies in it.

use ferryfs_state::{FileHandle, Handle, Inode, Mount};

use super::*;

const FILE: u32 = libc::S_IFREG;
const DIRECTORY: u32 = libc::S_IFDIR;

/// The guest's root, and what `change` adds.
fn state(change: impl FnOnce(&mut FsState)) -> FsState {
    let mut state = FsState {
        next_inode: 10,
        next_handle: 10,
        inodes: vec![inode(1, DIRECTORY, Location::Root)],
        ..FsState::default()
    };
    change(&mut state);
    state
}

fn inode(id: u64, kind: u32, location: Location) -> Inode {
    Inode {
        id,
        lookups: 1,
        kind,
        location,
    }
}

fn child(parent: u64, name: &str) -> Location {
    Location::Child {
        parent,
        name: name.as_bytes().to_vec().into(),
    }
}

fn components(path: &[&str]) -> Vec<serde_bytes::ByteBuf> {
    path.iter().map(|c| c.as_bytes().to_vec().into()).collect()
}

#[test]
fn links_lead_nobody_out_of_the_share() {
    let dir = tempfile::tempdir().unwrap();
    let share = dir.path().join("share");
    fs::create_dir(&share).unwrap();
    fs::create_dir(dir.path().join("outside")).unwrap();
    fs::write(dir.path().join("outside/secret"), "secret").unwrap();
    std::os::unix::fs::symlink("../outside", share.join("out")).unwrap();
    std::os::unix::fs::symlink("../outside/secret", share.join("file")).unwrap();

    let through_a_path = state(|s| {
        let location = Location::Path {
            from: 1,
            components: components(&["out", "secret"]),
        };
        s.inodes.push(inode(2, FILE, location));
    });
    let through_a_directory = state(|s| {
        s.inodes.push(inode(2, DIRECTORY, child(1, "out")));
        s.inodes.push(inode(3, FILE, child(2, "secret")));
    });
    let through_a_file = state(|s| s.inodes.push(inode(2, FILE, child(1, "file"))));
    let through_a_mount = |path: &[&str]| {
        let path = components(path);
        state(|s| {
            s.mounts.push(Mount { id: 0, path });
            let handle = FileHandle {
                mount: 0,
                kind: 1,
                bytes: vec![1; 8].into(),
            };
            s.inodes.push(inode(2, FILE, Location::Handle(handle)));
        })
    };
    for (what, mut state) in [
        ("a path", through_a_path),
        ("a directory", through_a_directory),
        ("a file", through_a_file),
        ("a mount", through_a_mount(&["out"])),
        ("a mount's end", through_a_mount(&["out", "secret"])),
    ] {
        // Whatever it is, the guest has it open.
        let last = state.inodes.last().unwrap().id;
        state.handles.push(Handle {
            id: 1,
            inode: last,
            directory: false,
            guest_flags: libc::O_RDWR as u32,
            host_flags: libc::O_RDWR as u32,
        });
        check(&state);
        let target = daemon(&share, FIND, InodeFileHandles::Prefer);
        restore(&target, state.clone(), 0).expect_err(what);
        assert_eq!(target.inodes().len(), 1, "{what}");

        let target = daemon_with(&share, |config| {
            config.migration_on_error = MigrationOnError::GuestError;
        });
        assert!(restore(&target, state, 0).unwrap() > 0, "{what}");
        read(&target, NodeId(last), HandleId(1)).expect_err(what);
        ino(&target, NodeId(last)).expect_err(what);
    }
    let secret = fs::read(dir.path().join("outside/secret")).unwrap();
    assert_eq!(secret, b"secret");
}
