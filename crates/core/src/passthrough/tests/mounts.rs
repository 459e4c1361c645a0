//! Mounts inside the share, and file systems without file handles.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::support::*;
use crate::abi;
use crate::errno::Errno;
use crate::fs::FileSystem;
use crate::passthrough::config::{Config, InodeFileHandles};
use crate::passthrough::inode::Place;
use crate::passthrough::{creds, Passthrough, SetupError};

/// Runs `f` on a thread of its own in a mount namespace of its own; not at all
/// where that is not permitted.
pub(in super::super) fn with_own_mounts(f: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: the paths are constants that end with NUL; the calls change
            // what this thread alone sees.
            let ready = unsafe {
                libc::unshare(libc::CLONE_NEWNS) == 0
                    && libc::mount(
                        c"none".as_ptr(),
                        c"/".as_ptr(),
                        std::ptr::null(),
                        libc::MS_REC | libc::MS_PRIVATE,
                        std::ptr::null(),
                    ) == 0
            };
            if ready {
                f();
            }
        });
    });
}

pub(in super::super) fn mount_tmpfs(at: &Path) {
    let at = CString::new(at.as_os_str().as_bytes()).unwrap();
    // SAFETY: all strings end with NUL and outlive the call.
    let rc = unsafe {
        libc::mount(
            c"tmpfs".as_ptr(),
            at.as_ptr(),
            c"tmpfs".as_ptr(),
            0,
            std::ptr::null(),
        )
    };
    assert_eq!(rc, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_submount_is_announced_and_served_whatever_its_name() {
    if !is_root() {
        return;
    }
    with_own_mounts(|| {
        in_both_modes(|share| {
            // Such a name is escaped in /proc/self/mountinfo.
            let odd: &[u8] = b"m ount\t\\\n\xff";
            let at = share.dir.path().join(std::ffi::OsStr::from_bytes(odd));
            std::fs::create_dir(&at).unwrap();
            std::fs::create_dir(share.path("plain")).unwrap();
            mount_tmpfs(&at);
            std::fs::write(at.join("inside"), b"in").unwrap();
            let handle = share.fs.opendir(&root(), ROOT, 0).unwrap().handle;
            let listed = share.list_some(ROOT, handle, 0, 9, true).unwrap();
            assert_eq!(listed.len(), 4);
            for entry in &listed {
                let submount = entry.entry.map(|e| e.attr.flags & abi::FUSE_ATTR_SUBMOUNT);
                match &entry.name[..] {
                    b"." | b".." => assert_eq!(submount, None),
                    b"plain" => assert_eq!(submount, Some(0)),
                    _ => assert_eq!(submount, Some(abi::FUSE_ATTR_SUBMOUNT)),
                }
            }
            let mount = share.fs.lookup(&root(), ROOT, name_bytes(odd)).unwrap();
            assert_eq!(mount.attr.flags, abi::FUSE_ATTR_SUBMOUNT);
            let inside = share.lookup(mount.node, "inside").unwrap();
            assert_eq!(inside.attr.flags, 0);
            let open = share.open(inside.node, libc::O_RDONLY).unwrap();
            assert_eq!(share.read(inside.node, open, 0, 9).unwrap(), b"in");
            let inode = share.fs.inodes().get(inside.node).unwrap();
            let by_handle = matches!(inode.place(), Place::Handle { .. });
            assert_eq!(by_handle, share.is_by_handle());
            assert_eq!(
                share.fs.mounts().all().len(),
                if by_handle { 2 } else { 0 },
                "the share's own and this one"
            );
            // Another file system: other numbers, and no links between them.
            let st = share.fs.statfs(&root(), inside.node).unwrap();
            assert_ne!(st.blocks, share.fs.statfs(&root(), ROOT).unwrap().blocks);
            let linked = share.fs.link(&root(), inside.node, ROOT, name("x"));
            assert_eq!(linked.unwrap_err(), Errno::EXDEV);
            share.fs.syncfs(&root(), ROOT).unwrap();
            // Not announced to a guest that has not negotiated it.
            let flags = share.fs.session_flags() & !abi::FUSE_SUBMOUNTS;
            share.fs.adopt_session(flags);
            let mount = share.fs.lookup(&root(), ROOT, name_bytes(odd)).unwrap();
            assert_eq!(mount.attr.flags, 0);
            share.fs.syncfs(&root(), ROOT).unwrap();
            drop(inode);
            share.fs.destroy();
            assert!(share.fs.mounts().all().len() <= 1, "it can be unmounted");
            let at = CString::new(at.as_os_str().as_bytes()).unwrap();
            // SAFETY: the path ends with NUL.
            assert_eq!(unsafe { libc::umount2(at.as_ptr(), 0) }, 0);
        });
    });
}

fn setup(root: &str, mode: InodeFileHandles) -> Result<Passthrough, SetupError> {
    let root = std::fs::File::open(root).unwrap();
    let mut config = Config::new(OwnedFd::from(root));
    config.inode_file_handles = mode;
    Passthrough::new(config)
}

#[test]
fn where_there_are_no_handles_prefer_goes_without_and_mandatory_does_not() {
    // proc has none.
    let fs = setup("/proc", InodeFileHandles::Prefer).unwrap();
    let entry = fs.lookup(&root(), ROOT, name("version")).unwrap();
    let inode = fs.inodes().get(entry.node).unwrap();
    assert!(matches!(inode.place(), Place::Fd(_)));
    let refused = setup("/proc", InodeFileHandles::Mandatory).err().unwrap();
    assert!(matches!(refused, SetupError::Handles(_)));
    assert!(refused.to_string().contains("--inode-file-handles"));
}

#[test]
fn without_the_capability_prefer_goes_without_and_mandatory_does_not() {
    if !is_root() {
        return;
    }
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().to_str().unwrap().to_owned();
    std::thread::spawn(move || {
        creds::drop_capability_for_test(2); // CAP_DAC_READ_SEARCH
        let fs = setup(&path, InodeFileHandles::Prefer).unwrap();
        assert!(!fs.use_handles);
        let made = fs.mkdir(&root(), ROOT, name("d"), 0o755, 0).unwrap();
        let inode = fs.inodes().get(made.node).unwrap();
        assert!(matches!(inode.place(), Place::Fd(_)));
        let refused = setup(&path, InodeFileHandles::Mandatory).err().unwrap();
        assert!(matches!(refused, SetupError::Handles(_)));
    })
    .join()
    .unwrap();
}

#[test]
fn a_share_that_cannot_be_is_refused() {
    let refused = setup("/dev/null", InodeFileHandles::Never).err().unwrap();
    assert!(matches!(refused, SetupError::RootKind(_)));
}

#[test]
fn directories_worked_in_are_kept_open_within_bounds() {
    in_both_modes(|share| {
        let base = descriptors_in(share);
        let mut nodes = Vec::new();
        for i in 0..200 {
            let dir = share
                .fs
                .mkdir(&root(), ROOT, name(&format!("d{i}")), 0o755, 0);
            let dir = dir.unwrap().node;
            let sub = share.fs.mkdir(&root(), dir, name("sub"), 0o755, 0).unwrap();
            assert_eq!(share.lookup(dir, "sub").unwrap().node, sub.node);
            nodes.extend([dir, sub.node]);
        }
        if share.is_by_handle() {
            assert!(descriptors_in(share) <= base + 64);
        }
        for node in nodes {
            share.fs.forget(node, 2);
        }
        assert_eq!(share.fs.inodes().len(), 1);
        assert_eq!(descriptors_in(share), base, "forgotten ones are closed");
        // Made anew under the same name, it is not the old one that is used.
        std::fs::remove_dir_all(share.path("d0")).unwrap();
        std::fs::create_dir(share.path("d0")).unwrap();
        std::fs::write(share.path("d0/new"), b"").unwrap();
        let dir = share.lookup(ROOT, "d0").unwrap().node;
        assert!(share.lookup(dir, "new").is_ok());
    });
}

#[test]
fn a_lookup_costs_no_descriptor_by_handle_and_one_otherwise() {
    in_both_modes(|share| {
        let base = descriptors_in(share);
        for i in 0..30 {
            share.write_file(&format!("f{i}"), b"");
            share.lookup(ROOT, &format!("f{i}")).unwrap();
        }
        let held = if share.is_by_handle() { 0 } else { 30 };
        assert_eq!(descriptors_in(share), base + held);
        let inode = share.fs.inode(ROOT).unwrap();
        assert!(inode.fd().unwrap().as_fd().try_clone_to_owned().is_ok());
    });
}
