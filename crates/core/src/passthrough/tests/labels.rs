//! Security labels. Where the tests may not set one, or the file system has none,
//! they end early.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::support::*;
use crate::abi;
use crate::errno::Errno;
use crate::fs::{Context, FileSystem, InitOffer, SecurityContext};
use crate::passthrough::config::{Config, Negotiate};

const LABEL: &[u8] = b"system_u:object_r:t:s0\0";

fn labelled(config: &mut Config) {
    config.security_label = Negotiate::Always;
}

fn with(name: &'static std::ffi::CStr) -> Context<'static> {
    Context {
        security_context: Some(SecurityContext { name, value: LABEL }),
        ..root()
    }
}

fn label_of(path: &Path) -> Option<Vec<u8>> {
    let mut value = [0u8; 256];
    let n = rustix::fs::lgetxattr(path, c"security.test", &mut value).ok()?;
    Some(value[..n].to_vec())
}

fn can_label(share: &Share) -> bool {
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::lsetxattr(share.dir.path(), c"security.test", LABEL, flags).is_ok()
}

#[test]
fn everything_that_is_made_has_its_label() {
    in_both_modes_with(labelled, |share| {
        if !can_label(share) {
            return;
        }
        let (fs, ctx) = (&share.fs, with(c"security.test"));
        assert_ne!(fs.session_flags() & abi::FUSE_SECURITY_CTX, 0);
        fs.mkdir(&ctx, ROOT, name("dir"), 0o755, 0).unwrap();
        fs.mknod(&ctx, ROOT, name("fifo"), libc::S_IFIFO | 0o600, 0, 0)
            .unwrap();
        fs.mknod(&ctx, ROOT, name("node"), 0o600, 0, 0).unwrap();
        fs.symlink(&ctx, c"dir", ROOT, name("link")).unwrap();
        for (n, flags) in [
            ("rw", libc::O_RDWR),
            ("w", libc::O_WRONLY | libc::O_TRUNC),
            ("r", libc::O_RDONLY),
        ] {
            let (entry, opened) = fs
                .create(&ctx, ROOT, name(n), 0o640, 0, flags as u32, false)
                .unwrap();
            assert_eq!(entry.attr.mode, libc::S_IFREG | 0o640);
            assert_eq!(entry.attr.nlink, 1);
            assert_eq!(share.remembered(entry.node).as_deref(), Some(n));
            if flags != libc::O_RDONLY {
                share
                    .write(entry.node, opened.handle, 0, b"data", flags, false)
                    .unwrap();
                assert_eq!(share.read_file(n), b"data");
            }
            assert_eq!(share.lookup(ROOT, n).unwrap().node, entry.node);
        }
        for made in ["dir", "fifo", "node", "link", "rw", "w", "r"] {
            assert_eq!(
                label_of(&share.path(made)).as_deref(),
                Some(LABEL),
                "{made}"
            );
        }
        let (entry, _) = fs
            .tmpfile(&ctx, ROOT, 0o600, 0, libc::O_RDWR as u32)
            .unwrap();
        fs.link(&ctx, entry.node, ROOT, name("tmp")).unwrap();
        assert_eq!(label_of(&share.path("tmp")).as_deref(), Some(LABEL));
    });
}

#[test]
fn what_exists_keeps_its_label_and_is_not_made_again() {
    in_both_modes_with(labelled, |share| {
        if !can_label(share) {
            return;
        }
        share.write_file("old", b"old");
        let ctx = with(c"security.test");
        let create = |flags: i32| {
            let flags = flags as u32;
            let fs = &share.fs;
            fs.create(&ctx, ROOT, name("old"), 0o640, 0, flags, false)
        };
        assert_eq!(
            create(libc::O_RDWR | libc::O_EXCL).unwrap_err(),
            Errno::EEXIST
        );
        create(libc::O_RDWR).unwrap();
        assert_eq!(label_of(&share.path("old")), None);
        assert_eq!(share.read_file("old"), b"old");
    });
}

#[test]
fn what_cannot_be_labelled_is_not_made_and_nothing_leaks() {
    in_both_modes_with(labelled, |share| {
        // No name of the host's; a guest's dispatcher lets only labels through.
        let (fs, ctx) = (&share.fs, with(c"nonsense.label"));
        let before = descriptors_in(share);
        for _ in 0..20 {
            let refused = [
                fs.mkdir(&ctx, ROOT, name("dir"), 0o755, 0).map(drop),
                fs.mknod(&ctx, ROOT, name("fifo"), libc::S_IFIFO | 0o600, 0, 0)
                    .map(drop),
                fs.symlink(&ctx, c"dir", ROOT, name("link")).map(drop),
                fs.create(&ctx, ROOT, name("rw"), 0o6, 0, libc::O_RDWR as u32, false)
                    .map(drop),
                fs.create(&ctx, ROOT, name("r"), 0o6, 0, libc::O_RDONLY as u32, false)
                    .map(drop),
                fs.tmpfile(&ctx, ROOT, 0o6, 0, libc::O_RDWR as u32)
                    .map(drop),
            ];
            for result in refused {
                assert_eq!(result.unwrap_err(), Errno::EOPNOTSUPP);
            }
        }
        assert_eq!(std::fs::read_dir(share.dir.path()).unwrap().count(), 0);
        // One directory descriptor may be kept for the next request.
        assert!(descriptors_in(share) <= before + 1);
        assert_eq!(fs.inodes().len(), 1);
    });
}

#[test]
fn a_label_gives_no_right_to_a_directory() {
    if !is_root() {
        return;
    }
    in_both_modes_with(labelled, |share| {
        if !can_label(share) {
            return;
        }
        std::fs::set_permissions(share.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let ctx = Context {
            uid: 1000,
            gid: 1000,
            ..with(c"security.test")
        };
        let flags = libc::O_RDWR as u32;
        let refused = share
            .fs
            .create(&ctx, ROOT, name("no"), 0o600, 0, flags, false);
        assert_eq!(refused.unwrap_err(), Errno::EACCES);
        std::fs::set_permissions(share.dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let (entry, _) = share
            .fs
            .create(&ctx, ROOT, name("yes"), 0o600, 0, flags, false)
            .unwrap();
        assert_eq!((entry.attr.uid, entry.attr.gid), (1000, 1000));
        assert_eq!(label_of(&share.path("yes")).as_deref(), Some(LABEL));
    });
}

#[test]
fn a_guest_without_labels_is_refused_only_where_they_are_demanded() {
    let offer = InitOffer {
        minor: 31,
        flags: !abi::FUSE_SECURITY_CTX,
        max_readahead: 0,
    };
    let init = |when| {
        let share = Share::new(|config| config.security_label = when);
        share.fs.init(&offer).map(|wish| wish.flags)
    };
    assert_eq!(init(Negotiate::Always).unwrap_err(), Errno::EPROTO);
    assert_eq!(init(Negotiate::Auto).unwrap() & abi::FUSE_SECURITY_CTX, 0);
}
