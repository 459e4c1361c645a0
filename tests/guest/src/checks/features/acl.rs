//! POSIX ACLs: set, kept, enforced, and inherited by whatever is made, under any umask.

use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{chown, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ferry_guest::expectation::Object;
use ferry_guest::Expectation;
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::checks::{in_share, own_dir, Live};
use crate::sys::{self, need, need_error, At, Result};

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// Version of the form that the kernel takes (include/uapi/linux/posix_acl_xattr.h).
const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
/// Of entries that are nobody's in particular.
const NO_ID: u32 = u32::MAX;

const ANNE: u32 = 2_001;
const BERT: u32 = 2_002;
const CHOIR: u32 = 2_100;

/// An ACL for Anne and the choir, as setfacl(1) would write it, with these
/// permissions of the owner, Anne, the group, the choir, the mask and all others.
fn acl([owner, anne, group, choir, mask, other]: [u16; 6]) -> Vec<u8> {
    let entries = [
        (USER_OBJ, owner, NO_ID),
        (USER, anne, ANNE),
        (GROUP_OBJ, group, NO_ID),
        (GROUP, choir, CHOIR),
        (MASK, mask, NO_ID),
        (OTHER, other, NO_ID),
    ];
    let mut bytes = VERSION.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// What everything in the directory inherits.
const INHERITED: [u16; 6] = [7, 7, 5, 5, 7, 0];
/// What becomes of it in a file that is made with mode 0666: the mask and the owner
/// lose what the mode does not have.
const OF_FILE: [u16; 6] = [6, 7, 5, 5, 6, 0];
/// And after chmod 0640.
const READ_ONLY: [u16; 6] = [6, 7, 5, 5, 4, 0];
/// What the file of its own has.
const OWN: [u16; 6] = [6, 4, 0, 6, 6, 0];

struct Acls {
    dir: PathBuf,
    rounds: usize,
    expected: Vec<Expectation>,
}

fn set(path: &Path, name: &str, value: &[u8]) -> rustix::io::Result<()> {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty())
}

fn make(path: &Path, mode: u32) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(mode);
    options
        .open(path)
        .at(format_args!("create {}", path.display()))
}

fn is(path: &Path, name: &str, want: Option<[u16; 6]>) -> Result<()> {
    let (got, want) = (sys::xattr(path, name)?, want.map(acl));
    need(got == want, || {
        format!(
            "{name} of {} is {got:02x?} instead of {want:02x?}",
            path.display()
        )
    })
}

fn mode(path: &Path) -> Result<u32> {
    Ok(path.symlink_metadata().at("lstat")?.mode() & 0o7777)
}

fn open_as(uid: u32, gid: u32, path: &Path, write: bool) -> rustix::io::Result<()> {
    let flags = if write {
        libc::O_WRONLY
    } else {
        libc::O_RDONLY
    };
    let flags = rustix::fs::OFlags::from_bits_retain(flags as u32);
    sys::as_ids(uid, gid, || {
        rustix::fs::open(path, flags, rustix::fs::Mode::empty()).map(drop)
    })
}

/// Sets the first ones.
pub fn prepare() -> Result<Box<dyn Live>> {
    let dir = own_dir("acl")?;
    set(&dir, DEFAULT, &acl(INHERITED)).at("set a default ACL")?;
    let mut acls = Acls {
        dir,
        rounds: 0,
        expected: Vec::new(),
    };
    acls.expect(&acls.dir.clone(), DEFAULT, INHERITED);
    let own = acls.dir.with_file_name("acl-own");
    drop(make(&own, 0o600)?);
    set(&own, ACCESS, &acl(OWN)).at("set an ACL")?;
    acls.expect(&own, ACCESS, OWN);
    acls.verify()?;
    Ok(Box::new(acls))
}

impl Acls {
    fn expect(&mut self, path: &Path, name: &str, value: [u16; 6]) {
        self.expected.push(Expectation::new(
            in_share(path),
            Object::Xattr {
                name: name.into(),
                value: acl(value),
            },
        ));
    }

    /// What is made in a directory with a default ACL has its part of it, and the
    /// umask has no say; anywhere else it has.
    fn inherit(&mut self) -> Result<()> {
        let n = self.rounds;
        let (file, below) = (
            self.dir.join(format!("file-{n}")),
            self.dir.join(format!("dir-{n}")),
        );
        let plain = self.dir.with_file_name(format!("acl-plain-{n}"));
        sys::masked(0o077, || {
            make(&file, 0o666)?;
            make(&plain, 0o666)?;
            std::fs::create_dir(&below).at("mkdir")?;
            make(&below.join("file"), 0o666).map(drop)
        })?;
        std::os::unix::fs::symlink("file", below.join("link")).at("symlink")?;
        // As the daemon has it, not as the guest's cache.
        sys::drop_caches("3")?;
        is(&file, ACCESS, Some(OF_FILE))?;
        is(&file, DEFAULT, None)?;
        is(&below, ACCESS, Some(INHERITED))?;
        is(&below, DEFAULT, Some(INHERITED))?;
        is(&below.join("file"), ACCESS, Some(OF_FILE))?;
        is(&plain, ACCESS, None)?;
        let modes = (mode(&file)?, mode(&below)?, mode(&plain)?);
        need(modes == (0o660, 0o770, 0o600), || {
            format!("modes {:04o} {:04o} {:04o}", modes.0, modes.1, modes.2)
        })?;
        for path in [file, below.join("file")] {
            self.expect(&path, ACCESS, OF_FILE);
        }
        self.expect(&below, DEFAULT, INHERITED);
        Ok(())
    }

    /// A file's ACL decides, down to the mask that chmod sets.
    fn enforce(&mut self) -> Result<()> {
        let file = self
            .dir
            .with_file_name(format!("acl-enforced-{}", self.rounds));
        drop(make(&file, 0o600)?);
        set(&file, ACCESS, &acl(OF_FILE)).at("set an ACL")?;
        open_as(ANNE, ANNE, &file, true).at("Anne, whom the ACL lets write")?;
        need_error("Bert", open_as(BERT, BERT, &file, false), Errno::ACCESS)?;
        open_as(BERT, CHOIR, &file, false).at("Bert, in the choir, that may read")?;
        need_error(
            "and write",
            open_as(BERT, CHOIR, &file, true),
            Errno::ACCESS,
        )?;
        std::fs::set_permissions(&file, Permissions::from_mode(0o640)).at("chmod")?;
        sys::drop_caches("3")?;
        is(&file, ACCESS, Some(READ_ONLY))?;
        open_as(ANNE, ANNE, &file, false).at("Anne, reading under the mask")?;
        need_error(
            "Anne, writing",
            open_as(ANNE, ANNE, &file, true),
            Errno::ACCESS,
        )?;
        self.expect(&file, ACCESS, READ_ONLY);
        Ok(())
    }

    /// Whoever is not in the file's group loses its set-group-id bit by setting an ACL.
    fn set_group_id(&mut self) -> Result<()> {
        let file = self
            .dir
            .with_file_name(format!("acl-set-id-{}", self.rounds));
        drop(make(&file, 0o600)?);
        for (setter, want) in [((ANNE, CHOIR), 0o2760), ((ANNE, ANNE), 0o760)] {
            chown(&file, Some(ANNE), Some(CHOIR)).at("chown")?;
            std::fs::set_permissions(&file, Permissions::from_mode(0o2770)).at("chmod")?;
            let value = acl([7, 7, 5, 5, 6, 0]);
            sys::as_ids(setter.0, setter.1, || set(&file, ACCESS, &value)).at("set an ACL")?;
            sys::drop_caches("3")?;
            let mode = mode(&file)?;
            need(mode == want, || {
                format!("mode {mode:04o} instead of {want:04o} after an ACL of {setter:?}")
            })?;
        }
        self.expected.push(Expectation::new(
            in_share(&file),
            Object::Owned {
                uid: ANNE,
                gid: CHOIR,
                mode: 0o760,
            },
        ));
        Ok(())
    }
}

impl Live for Acls {
    fn verify(&mut self) -> Result<()> {
        is(&self.dir, DEFAULT, Some(INHERITED))?;
        is(&self.dir.with_file_name("acl-own"), ACCESS, Some(OWN))?;
        self.inherit()?;
        self.enforce()?;
        self.set_group_id()?;
        self.rounds += 1;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Vec<Expectation>> {
        Ok(self.expected)
    }
}
