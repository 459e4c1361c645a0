//! What was negotiated with the guest goes on at a destination that has it too,
//! and keeps the guest away from one that does not.

use super::super::super::config::Negotiate;
use super::*;
use crate::fs::SecurityContext;

#[test]
fn labels_go_on_or_the_state_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    if rustix::fs::setxattr(dir.path(), c"security.test", b"x", flags).is_err() {
        return;
    }
    let make = |when| daemon_with(dir.path(), |config| config.security_label = when);
    let source = make(Negotiate::Auto);
    let flags = mount(&source);
    assert_ne!(flags & abi::FUSE_SECURITY_CTX, 0);
    let why = make(Negotiate::Never).check_session(flags).unwrap_err();
    assert!(why.contains("--security-label=auto"), "{why}");
    let bare = flags & !abi::FUSE_SECURITY_CTX;
    let why = make(Negotiate::Always).check_session(bare).unwrap_err();
    assert!(why.contains("--security-label=auto"), "{why}");
    make(Negotiate::Auto).check_session(bare).unwrap();

    let target = make(Negotiate::Always);
    target.check_session(flags).unwrap();
    restore(&target, collect(&source), flags).unwrap();
    let ctx = Context {
        security_context: Some(SecurityContext {
            name: c"security.test",
            value: b"label",
        }),
        ..CTX
    };
    let name = c(b"new");
    target
        .mkdir(&ctx, NodeId::ROOT, Name::new(&name).unwrap(), 0o755, 0)
        .unwrap();
    let mut value = [0u8; 16];
    let n = rustix::fs::getxattr(dir.path().join("new"), c"security.test", &mut value).unwrap();
    assert_eq!(&value[..n], b"label");
}

#[test]
fn acls_go_on_or_the_state_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let default = c"system.posix_acl_default";
    // Owner rwx, group rwx, others r-x.
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, perm) in [(0x01u16, 7u16), (0x04, 7), (0x20, 5)] {
        acl.extend(tag.to_le_bytes());
        acl.extend(perm.to_le_bytes());
        acl.extend(u32::MAX.to_le_bytes());
    }
    let flags = rustix::fs::XattrFlags::empty();
    if rustix::fs::setxattr(dir.path(), default, &acl, flags).is_err() {
        return;
    }
    let make = |when| daemon_with(dir.path(), |config| config.posix_acl = when);
    let source = make(Negotiate::Always);
    let flags = mount(&source);
    let why = make(Negotiate::Never).check_session(flags).unwrap_err();
    assert!(why.contains("--posix-acl=auto"), "{why}");
    let bare = flags & !abi::FUSE_POSIX_ACL;
    let why = make(Negotiate::Always).check_session(bare).unwrap_err();
    assert!(why.contains("--posix-acl=auto"), "{why}");

    let target = make(Negotiate::Auto);
    target.check_session(flags).unwrap();
    restore(&target, collect(&source), flags).unwrap();
    let n = c(b"new");
    target
        .mkdir(&CTX, NodeId::ROOT, Name::new(&n).unwrap(), 0o777, 0o077)
        .unwrap();
    let mode = fs::metadata(dir.path().join("new")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o775, "the default ACL counts, not the mask");
    let size = target.getxattr(&CTX, NodeId::ROOT, default, 0).unwrap();
    assert!(matches!(size, crate::fs::XattrReply::Size(n) if n as usize == acl.len()));
}

#[test]
fn attributes_are_found_under_their_other_names_after_a_crossing() {
    let dir = tempfile::tempdir().unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    if rustix::fs::setxattr(dir.path(), c"user.t", b"", flags).is_err() {
        return;
    }
    let make = || {
        daemon_with(dir.path(), |config| {
            config.xattr_map = Some(":map::user.virtiofs.:".parse().unwrap());
        })
    };
    fs::write(dir.path().join("f"), "").unwrap();
    let source = make();
    let flags = mount(&source);
    let node = walk(&source, &[b"f"]).node;
    source
        .setxattr(&CTX, node, c"trusted.t", b"value", 0, false)
        .unwrap();
    let target = make();
    target.check_session(flags).unwrap();
    restore(&target, collect(&source), flags).unwrap();
    let value = target.getxattr(&CTX, node, c"trusted.t", 100).unwrap();
    assert!(matches!(value, crate::fs::XattrReply::Value(v) if v == b"value"));
}

#[test]
fn ids_are_translated_after_a_crossing_as_before() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "").unwrap();
    std::os::unix::fs::chown(dir.path().join("f"), Some(101_000), None).unwrap();
    fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let make = || {
        daemon_with(dir.path(), |config| {
            let map = "map:0:100000:2000".parse().unwrap();
            config.uids = super::super::super::ids::IdTable::new(&[map]).unwrap();
        })
    };
    let source = make();
    let flags = mount(&source);
    let node = walk(&source, &[b"f"]).node;
    let uid = |fs: &Passthrough| fs.getattr(&CTX, node, None).unwrap().attr.uid;
    assert_eq!(uid(&source), 1000);
    let target = make();
    restore(&target, collect(&source), flags).unwrap();
    assert_eq!(uid(&target), 1000);
    let n = c(b"new");
    target
        .mkdir(&CTX, NodeId::ROOT, Name::new(&n).unwrap(), 0o755, 0)
        .unwrap();
    let made = fs::metadata(dir.path().join("new")).unwrap();
    assert_eq!(made.uid(), 100_000);
}
