//! POSIX ACLs, on a file system that has them.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::XattrFlags;

use super::support::*;
use crate::abi;
use crate::errno::Errno;
use crate::fs::{FileSystem, InitOffer, XattrReply};
use crate::passthrough::config::{Config, Negotiate};

const ACCESS: &std::ffi::CStr = c"system.posix_acl_access";
const DEFAULT: &std::ffi::CStr = c"system.posix_acl_default";

fn acls(config: &mut Config) {
    config.posix_acl = Negotiate::Always;
}

/// An ACL as the kernel's interface has it (`posix_acl_xattr_header`): owner `rwx`,
/// user 1000 as given, group `r-x`, mask `rwx`, others none.
pub fn acl(user_1000: u16) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in [
        (0x01u16, 7u16, u32::MAX),
        (0x02, user_1000, 1000),
        (0x04, 5, u32::MAX),
        (0x10, 7, u32::MAX),
        (0x20, 0, u32::MAX),
    ] {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(perm.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn has_acls(dir: &Path) -> bool {
    rustix::fs::setxattr(dir, DEFAULT, &acl(7), XattrFlags::empty()).is_ok()
}

fn mode(share: &Share, name: &str) -> u32 {
    std::fs::symlink_metadata(share.path(name)).unwrap().mode() & 0o7777
}

#[test]
fn a_default_acl_takes_the_place_of_the_mask() {
    in_both_modes_with(acls, |share| {
        std::fs::create_dir(share.path("with")).unwrap();
        std::fs::create_dir(share.path("without")).unwrap();
        if !has_acls(&share.path("with")) {
            return;
        }
        let (fs, ctx, umask) = (&share.fs, root(), 0o077);
        let flags = libc::O_RDWR as u32;
        for (dir, file_mode, dir_mode) in [("with", 0o660, 0o770), ("without", 0o600, 0o700)] {
            let node = share.lookup(ROOT, dir).unwrap().node;
            fs.create(&ctx, node, name("c"), 0o666, umask, flags, false)
                .unwrap();
            fs.mknod(&ctx, node, name("n"), libc::S_IFIFO | 0o666, 0, umask)
                .unwrap();
            fs.mkdir(&ctx, node, name("d"), 0o777, umask).unwrap();
            let (tmp, _) = fs.tmpfile(&ctx, node, 0o666, umask, flags).unwrap();
            fs.link(&ctx, tmp.node, node, name("t")).unwrap();
            for made in ["c", "n", "t"] {
                let path = format!("{dir}/{made}");
                assert_eq!(mode(share, &path), file_mode, "{path}");
            }
            assert_eq!(mode(share, &format!("{dir}/d")), dir_mode);
        }
        let inherited = share.path("with/d");
        let mut value = [0; 256];
        let n = rustix::fs::getxattr(&inherited, DEFAULT, &mut value).unwrap();
        assert_eq!(value[..n], acl(7));
        // The mask was for those requests only.
        fs.mkdir(&ctx, ROOT, name("all"), 0o777, 0).unwrap();
        assert_eq!(mode(share, "all"), 0o777);
    });
}

#[test]
fn the_guest_sets_and_sees_acls() {
    in_both_modes_with(acls, |share| {
        share.write_file("f", b"");
        if !has_acls(share.dir.path()) {
            return;
        }
        let (fs, ctx) = (&share.fs, root());
        let node = share.lookup(ROOT, "f").unwrap().node;
        fs.setxattr(&ctx, node, ACCESS, &acl(4), 0, false).unwrap();
        assert_eq!(mode(share, "f"), 0o770, "the mask is the group's bits");
        let XattrReply::Value(value) = fs.getxattr(&ctx, node, ACCESS, 1000).unwrap() else {
            panic!("not a value");
        };
        assert_eq!(value, acl(4));
        let XattrReply::Value(list) = fs.listxattr(&ctx, node, 1000).unwrap() else {
            panic!("not a list");
        };
        assert_eq!(list, ACCESS.to_bytes_with_nul());
        fs.removexattr(&ctx, node, ACCESS).unwrap();
        let gone = fs.getxattr(&ctx, node, ACCESS, 1000).unwrap_err();
        assert_eq!(gone, Errno::ENODATA);
    });
}

#[test]
fn a_stranger_s_acl_takes_the_set_group_id_bit_away() {
    if !is_root() {
        return;
    }
    in_both_modes_with(acls, |share| {
        if !has_acls(share.dir.path()) {
            return;
        }
        let (fs, ctx) = (&share.fs, root());
        // The daemon's own group, and another.
        for gid in [0, 4242] {
            for (kill, want) in [(false, 0o2770), (true, 0o770)] {
                share.write_file("f", b"");
                let path = share.path("f");
                std::os::unix::fs::chown(&path, Some(1000), Some(gid)).unwrap();
                std::fs::set_permissions(&path, PermissionsExt::from_mode(0o2770)).unwrap();
                let node = share.lookup(ROOT, "f").unwrap().node;
                fs.setxattr(&ctx, node, ACCESS, &acl(4), 0, kill).unwrap();
                assert_eq!(mode(share, "f"), want, "group {gid}, kill {kill}");
                // One that is refused changes nothing.
                std::fs::set_permissions(&path, PermissionsExt::from_mode(0o2770)).unwrap();
                let bad = fs.setxattr(&ctx, node, ACCESS, b"junk", 0, true);
                assert_eq!(bad.unwrap_err(), Errno::EOPNOTSUPP);
                assert_eq!(mode(share, "f"), 0o2770);
                std::fs::remove_file(&path).unwrap();
            }
        }
    });
}

#[test]
fn without_a_guest_that_knows_acls_exactly_they_are_out_of_reach() {
    let share = Share::new(|config| config.posix_acl = Negotiate::Auto);
    if !has_acls(share.dir.path()) {
        return;
    }
    let (fs, ctx) = (&share.fs, root());
    for missing in [
        abi::FUSE_POSIX_ACL,
        abi::FUSE_DONT_MASK,
        abi::FUSE_SETXATTR_EXT,
    ] {
        let offer = InitOffer {
            minor: 38,
            flags: !missing,
            max_readahead: 0,
        };
        let wish = fs.init(&offer).unwrap().flags;
        assert_eq!(wish & (abi::FUSE_POSIX_ACL | abi::FUSE_DONT_MASK), 0);
        let strict = Share::new(acls);
        assert_eq!(strict.fs.init(&offer).unwrap_err(), Errno::EPROTO);
    }
    fs.adopt_session(fs.session_flags() & !(abi::FUSE_POSIX_ACL | abi::FUSE_DONT_MASK));
    for acl_name in [ACCESS, DEFAULT] {
        let refused = fs.getxattr(&ctx, ROOT, acl_name, 1000).unwrap_err();
        assert_eq!(refused, Errno::EOPNOTSUPP);
        let refused = fs.setxattr(&ctx, ROOT, acl_name, &acl(7), 0, false);
        assert_eq!(refused.unwrap_err(), Errno::EOPNOTSUPP);
        let refused = fs.removexattr(&ctx, ROOT, acl_name);
        assert_eq!(refused.unwrap_err(), Errno::EOPNOTSUPP);
    }
    let XattrReply::Size(length) = fs.listxattr(&ctx, ROOT, 0).unwrap() else {
        panic!("not a size");
    };
    assert_eq!(length, 0);
    // Neither shorter names nor longer ones.
    if is_root() {
        for other in [c"user.s", c"trusted.system.posix_acl_access"] {
            fs.setxattr(&ctx, ROOT, other, b"x", 0, false).unwrap();
        }
    }
    let prefix = fs.getxattr(&ctx, ROOT, c"system.posix_acl", 10);
    assert_ne!(prefix.unwrap_err(), Errno::ENOSYS);
}
