//! User and group ids that are others on the host.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::support::*;
use crate::errno::Errno;
use crate::fs::{Context, FileSystem, SetAttr};
use crate::passthrough::config::{Config, Negotiate};
use crate::passthrough::ids::{IdTable, Translation};
use crate::passthrough::{Passthrough, SetupError};

fn table(translations: &[&str]) -> IdTable {
    let all: Vec<Translation> = translations.iter().map(|t| t.parse().unwrap()).collect();
    IdTable::new(&all).unwrap()
}

fn translating(config: &mut Config) {
    config.uids = table(&[
        "map:0:100000:2000",
        "forbid-guest:5000:10",
        "host:0:65534:1",
    ]);
    config.gids = table(&[
        "map:0:200000:2000",
        "forbid-guest:5000:10",
        "host:0:65534:1",
    ]);
}

#[test]
fn the_guest_s_ids_and_the_host_s_lead_to_each_other() {
    if !is_root() {
        return;
    }
    in_both_modes_with(translating, |share| {
        let dir = share.dir.path();
        std::fs::set_permissions(dir, PermissionsExt::from_mode(0o777)).unwrap();
        let fs = &share.fs;
        let on_disk = |n: &str| {
            let meta = std::fs::symlink_metadata(share.path(n)).unwrap();
            (meta.uid(), meta.gid())
        };
        let rw = libc::O_RDWR as u32;
        for (ctx, host) in [
            (root(), (100_000, 200_000)),
            (user(1000, 1001), (101_000, 201_001)),
            // Ids that are in no range.
            (user(3000, 3000), (3000, 3000)),
        ] {
            let (made, _) = fs
                .create(&ctx, ROOT, name("f"), 0o644, 0, rw, false)
                .unwrap();
            assert_eq!((made.attr.uid, made.attr.gid), (ctx.uid, ctx.gid));
            assert_eq!(on_disk("f"), host);
            let seen = fs.getattr(&ctx, made.node, None).unwrap().attr;
            assert_eq!((seen.uid, seen.gid), (ctx.uid, ctx.gid));
            let opened = fs.opendir(&ctx, ROOT, 0).unwrap().handle;
            let listed = share.list_some(ROOT, opened, 0, 100, true).unwrap();
            let found = listed.iter().find(|l| l.name == b"f").unwrap();
            let attr = found.entry.unwrap().attr;
            assert_eq!((attr.uid, attr.gid), (ctx.uid, ctx.gid));
            fs.unlink(&ctx, ROOT, name("f")).unwrap();
        }
        share.write_file("host", b"");
        std::fs::set_permissions(share.path("host"), PermissionsExt::from_mode(0o644)).unwrap();
        let entry = share.lookup(ROOT, "host").unwrap();
        assert_eq!((entry.attr.uid, entry.attr.gid), (65534, 65534));
        let chown = |uid, gid| SetAttr {
            uid,
            gid,
            ..SetAttr::default()
        };
        let set = |set: &SetAttr| fs.setattr(&root(), entry.node, None, set);
        let seen = set(&chown(Some(7), None)).unwrap().attr;
        assert_eq!((seen.uid, seen.gid), (7, 65534));
        assert_eq!(on_disk("host"), (100_007, 0));
        set(&chown(None, Some(8))).unwrap();
        assert_eq!(on_disk("host"), (100_007, 200_008));
        // For the owner, as the guest knows it.
        fs.access(&user(7, 1), entry.node, libc::W_OK as u32)
            .unwrap();
        let other = fs.access(&user(100_007, 1), entry.node, libc::W_OK as u32);
        assert_eq!(other.unwrap_err(), Errno::EACCES);
    });
}

#[test]
fn forbidden_ids_make_and_own_nothing() {
    in_both_modes_with(translating, |share| {
        let fs = &share.fs;
        share.write_file("f", b"");
        let node = share.lookup(ROOT, "f").unwrap().node;
        for ctx in [user(5000, 0), user(0, 5009)] {
            let refused = [
                fs.mkdir(&ctx, ROOT, name("d"), 0o755, 0).map(drop),
                fs.symlink(&ctx, c"f", ROOT, name("l")).map(drop),
                fs.create(&ctx, ROOT, name("c"), 0o644, 0, 2, false)
                    .map(drop),
                fs.tmpfile(&ctx, ROOT, 0o644, 0, 2).map(drop),
            ];
            assert!(
                refused.iter().all(|r| *r == Err(Errno::EACCES)),
                "{refused:?}"
            );
        }
        for (uid, gid) in [(Some(5005), None), (None, Some(5000))] {
            let set = SetAttr {
                uid,
                gid,
                ..SetAttr::default()
            };
            let refused = fs.setattr(&root(), node, None, &set);
            assert_eq!(refused.unwrap_err(), Errno::EACCES);
        }
        assert_eq!(std::fs::read_dir(share.dir.path()).unwrap().count(), 1);
    });
}

#[test]
fn groups_that_are_sent_are_translated_too() {
    if !is_root() {
        return;
    }
    in_both_modes_with(translating, |share| {
        let dir = share.path("team");
        std::fs::create_dir(&dir).unwrap();
        std::os::unix::fs::chown(&dir, Some(0), Some(200_042)).unwrap();
        std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o770)).unwrap();
        let team = share.lookup(ROOT, "team").unwrap().node;
        let make = |group: u32| {
            let groups = [group];
            let ctx = Context {
                supplementary_groups: Some(&groups),
                ..user(1000, 1000)
            };
            let made = share.fs.mkdir(&ctx, team, name("d"), 0o755, 0);
            made.map(drop)
        };
        assert_eq!(make(43).unwrap_err(), Errno::EACCES);
        assert_eq!(make(5001).unwrap_err(), Errno::EACCES);
        make(42).unwrap();
    });
}

#[test]
fn acls_and_translation_exclude_each_other() {
    let root = std::fs::File::open("/").unwrap();
    let mut config = Config::new(root.into());
    config.posix_acl = Negotiate::Auto;
    config.gids = table(&["map:0:1:1"]);
    let refused = Passthrough::new(config).map(drop).unwrap_err();
    assert!(matches!(refused, SetupError::AclIds), "{refused}");
}
