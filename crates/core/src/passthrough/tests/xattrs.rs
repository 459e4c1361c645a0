//! Extended attributes under other names.

use rustix::fs::XattrFlags;

use super::support::*;
use crate::errno::Errno;
use crate::fs::{Context, FileSystem, SecurityContext, SetAttr, XattrReply};
use crate::passthrough::config::{Config, Negotiate};

fn mapped(config: &mut Config) {
    config.xattr_map = Some(":map::user.virtiofs.:".parse().unwrap());
}

fn has_user_xattrs(share: &Share) -> bool {
    rustix::fs::setxattr(share.dir.path(), c"user.t", b"", XattrFlags::empty()).is_ok()
}

fn on_disk(share: &Share, path: &str, name: &std::ffi::CStr) -> Option<Vec<u8>> {
    let mut value = [0u8; 256];
    let n = rustix::fs::lgetxattr(share.path(path), name, &mut value).ok()?;
    Some(value[..n].to_vec())
}

fn list(share: &Share, node: crate::types::NodeId) -> Vec<u8> {
    let fs = &share.fs;
    let XattrReply::Value(list) = fs.listxattr(&root(), node, 1000).unwrap() else {
        panic!("not a list");
    };
    let XattrReply::Size(size) = fs.listxattr(&root(), node, 0).unwrap() else {
        panic!("not a size");
    };
    assert_eq!(size as usize, list.len());
    list
}

#[test]
fn the_guest_s_attributes_are_kept_under_other_names() {
    in_both_modes_with(mapped, |share| {
        if !has_user_xattrs(share) {
            return;
        }
        share.write_file("f", b"");
        let flags = XattrFlags::empty();
        rustix::fs::setxattr(share.path("f"), c"user.host", b"h", flags).unwrap();
        let (fs, ctx) = (&share.fs, root());
        let node = share.lookup(ROOT, "f").unwrap().node;
        // The guest's root may have any, whoever the daemon is.
        for attribute in [c"trusted.t", c"security.s", c"user.u"] {
            fs.setxattr(&ctx, node, attribute, b"value", 0, false)
                .unwrap();
            assert_eq!(on_disk(share, "f", attribute), None);
            let XattrReply::Value(value) = fs.getxattr(&ctx, node, attribute, 10).unwrap() else {
                panic!("not a value");
            };
            assert_eq!(value, b"value");
        }
        let kept = on_disk(share, "f", c"user.virtiofs.trusted.t");
        assert_eq!(kept.as_deref(), Some(&b"value"[..]));
        let mut names: Vec<Vec<u8>> = list(share, node)
            .split_inclusive(|b| *b == 0)
            .map(<[u8]>::to_vec)
            .collect();
        names.sort();
        assert_eq!(names, [&b"security.s\0"[..], b"trusted.t\0", b"user.u\0"]);
        let other = fs.getxattr(&ctx, node, c"user.host", 10).unwrap_err();
        assert_eq!(other, Errno::ENODATA);
        fs.removexattr(&ctx, node, c"trusted.t").unwrap();
        assert_eq!(on_disk(share, "f", c"user.virtiofs.trusted.t"), None);
    });
}

#[test]
fn what_a_map_denies_is_denied_by_name() {
    let rules = ":bad:all:trusted.:trusted.::unsupported:all:security.:security.::ok:all:::";
    let share = Share::new(|config| config.xattr_map = Some(rules.parse().unwrap()));
    let (fs, ctx) = (&share.fs, root());
    for (name, set, get) in [
        (c"trusted.t", Errno::EPERM, Errno::ENODATA),
        (c"security.s", Errno::EOPNOTSUPP, Errno::EOPNOTSUPP),
    ] {
        let refused = fs.setxattr(&ctx, ROOT, name, b"x", 0, false);
        assert_eq!(refused.unwrap_err(), set);
        assert_eq!(fs.removexattr(&ctx, ROOT, name).unwrap_err(), set);
        assert_eq!(fs.getxattr(&ctx, ROOT, name, 9).unwrap_err(), get);
    }
    let flags = XattrFlags::empty();
    if rustix::fs::setxattr(share.dir.path(), c"trusted.t", b"", flags).is_ok() {
        assert_eq!(list(&share, ROOT), b"");
    }
}

#[test]
fn no_map_leads_to_the_host_s_acls() {
    let rules = ":prefix:client:posix_acl:system.::ok:all:::";
    let share = Share::new(|config| config.xattr_map = Some(rules.parse().unwrap()));
    let refused = share
        .fs
        .setxattr(&root(), ROOT, c"posix_acl_access", b"", 0, false);
    assert_eq!(refused.unwrap_err(), Errno::EOPNOTSUPP);
}

#[test]
fn labels_go_by_the_map_as_well() {
    in_both_modes_with(
        |config| {
            mapped(config);
            config.security_label = Negotiate::Auto;
        },
        |share| {
            if !has_user_xattrs(share) {
                return;
            }
            let ctx = Context {
                security_context: Some(SecurityContext {
                    name: c"security.selinux",
                    value: b"label",
                }),
                ..root()
            };
            let (fs, flags) = (&share.fs, libc::O_RDWR as u32);
            fs.mkdir(&ctx, ROOT, name("d"), 0o755, 0).unwrap();
            fs.create(&ctx, ROOT, name("f"), 0o644, 0, flags, false)
                .unwrap();
            for made in ["d", "f"] {
                let label = on_disk(share, made, c"user.virtiofs.security.selinux");
                assert_eq!(label.as_deref(), Some(&b"label"[..]));
            }
        },
    );
}

#[test]
fn file_capabilities_go_with_any_change_wherever_they_are_kept() {
    in_both_modes_with(mapped, |share| {
        if !has_user_xattrs(share) || !is_root() {
            return;
        }
        share.write_file("f", b"12345678");
        let (fs, ctx) = (&share.fs, root());
        let node = share.lookup(ROOT, "f").unwrap().node;
        let handle = share.open(node, libc::O_RDWR).unwrap();
        let chown = SetAttr {
            uid: Some(1000),
            ..SetAttr::default()
        };
        let truncate = SetAttr {
            size: Some(4),
            ..SetAttr::default()
        };
        let chmod = SetAttr {
            mode: Some(0o600),
            ..SetAttr::default()
        };
        let capability = c"security.capability";
        let changes: [(&str, bool, &dyn Fn()); 7] = [
            ("chmod", false, &|| {
                fs.setattr(&ctx, node, None, &chmod).map(drop).unwrap()
            }),
            ("open", false, &|| {
                share.open(node, libc::O_RDWR).map(drop).unwrap()
            }),
            ("write", true, &|| {
                share
                    .write(node, handle, 0, b"x", libc::O_RDWR, false)
                    .map(drop)
                    .unwrap()
            }),
            ("truncate", true, &|| {
                fs.setattr(&ctx, node, None, &truncate).map(drop).unwrap()
            }),
            ("truncate by handle", true, &|| {
                fs.setattr(&ctx, node, Some(handle), &truncate)
                    .map(drop)
                    .unwrap()
            }),
            ("chown", true, &|| {
                fs.setattr(&ctx, node, None, &chown).map(drop).unwrap()
            }),
            ("O_TRUNC", true, &|| {
                share
                    .open(node, libc::O_WRONLY | libc::O_TRUNC)
                    .map(drop)
                    .unwrap()
            }),
        ];
        for (what, goes, change) in changes {
            fs.setxattr(&ctx, node, capability, b"caps", 0, false)
                .unwrap();
            change();
            let left = fs.getxattr(&ctx, node, capability, 100);
            assert_eq!(left.is_err(), goes, "{what}");
        }
        // Directories have none.
        fs.setattr(&ctx, ROOT, None, &chown).unwrap();
    });
}
