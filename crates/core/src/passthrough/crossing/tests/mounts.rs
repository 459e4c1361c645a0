//! Crossings of what lies on mounts inside the share.

use std::fs;

use ferryfs_state::Location;

use super::super::super::config::{InodeFileHandles, MigrationMode};
use super::super::super::tests::mounts::{mount_tmpfs, with_own_mounts};
use super::super::super::tests::support::is_root;
use super::{collect, daemon, ino, mount, restore, walk};

#[test]
fn a_mount_is_found_again_by_what_only_handles_lead_to() {
    if !is_root() {
        return;
    }
    with_own_mounts(|| {
        for held in [InodeFileHandles::Never, InodeFileHandles::Prefer] {
            let dir = tempfile::tempdir().unwrap();
            let at = dir.path().join("a mount");
            fs::create_dir(&at).unwrap();
            mount_tmpfs(&at);
            fs::write(at.join("file"), "f").unwrap();
            let here = || daemon(dir.path(), MigrationMode::FileHandles, held);
            let first = here();
            let flags = mount(&first);
            let file = walk(&first, &[b"a mount", b"file"]);
            let state = collect(&first);
            // On the second hop nothing has been looked up, and there are no names at all.
            let second = here();
            assert_eq!(restore(&second, state, flags).unwrap(), 0);
            let state = collect(&second);
            let mounts: Vec<_> = state.mounts.iter().map(|m| m.path.clone()).collect();
            assert_eq!(mounts.concat(), [b"a mount"]);
            let record = state.inodes.iter().find(|i| i.id == file.node.0).unwrap();
            assert!(matches!(record.location, Location::Handle(_)));
            let third = here();
            assert_eq!(restore(&third, state, flags).unwrap(), 0);
            assert_eq!(ino(&third, file.node), Ok(file.attr.ino));
        }
    });
}
