//! What is negotiated or translated, in daemons that are confined as usual, before
//! and after a crossing.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;

use ferryfs_frontend::client::SecurityContext;
use ferryfs_frontend::fuse::ROOT_ID;
use ferryfs_frontend::spawn::Daemon;
use ferryfs_frontend::{Caller, Vm};
use tempfile::TempDir;

const FERRYFSD: &str = env!("CARGO_BIN_EXE_ferryfsd");
const RDWR: u32 = libc::O_RDWR as u32;

struct Scene {
    base: TempDir,
}

impl Scene {
    fn new() -> Scene {
        let base = tempfile::tempdir().expect("temporary directory");
        fs::create_dir(base.path().join("share")).expect("directory");
        Scene { base }
    }

    fn share(&self, path: &str) -> PathBuf {
        self.base.path().join("share").join(path)
    }

    fn daemon(&self, socket: &str, options: &[&str]) -> Daemon {
        let socket = self.base.path().join(socket);
        let mut command = Command::new(FERRYFSD);
        command
            .arg("--shared-dir")
            .arg(self.share(""))
            .arg("--socket-path")
            .arg(&socket)
            .args(options);
        if !rustix::process::geteuid().is_root() {
            // Not every kernel gives users namespaces.
            command.arg("--sandbox=none");
        }
        Daemon::start_command(command, &socket).expect("ferryfsd starts")
    }

    fn attribute(&self, path: &str, name: &str) -> Option<Vec<u8>> {
        let mut value = [0u8; 256];
        let n = rustix::fs::lgetxattr(self.share(path), name, &mut value).ok()?;
        Some(value[..n].to_vec())
    }
}

/// Owner, group and others, as given, in `posix_acl_xattr_header`'s form.
fn acl(bits: [u16; 3]) -> Vec<u8> {
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, perm) in [0x01u16, 0x04, 0x20].into_iter().zip(bits) {
        acl.extend(tag.to_le_bytes());
        acl.extend(perm.to_le_bytes());
        acl.extend(u32::MAX.to_le_bytes());
    }
    acl
}

#[test]
fn labels_acls_and_mapped_attributes_cross() {
    let scene = Scene::new();
    let flags = rustix::fs::XattrFlags::empty();
    let default = "system.posix_acl_default";
    if rustix::fs::setxattr(scene.share(""), default, &acl([7, 7, 5]), flags).is_err() {
        println!("skipped: the file system has no ACLs");
        return;
    }
    let options = [
        "--posix-acl",
        "--security-label",
        "--killpriv-v2",
        "--xattrmap",
        "/map/security./user.v./",
    ];
    let source = scene.daemon("source", &options);
    let target = scene.daemon("target", &options);
    let without = scene.daemon("without", &options[1..]);
    let mut vm = Vm::boot(source.socket()).expect("boot");
    let caller = |umask| Caller {
        umask,
        security: Some(SecurityContext {
            name: b"security.test".to_vec(),
            label: b"label".to_vec(),
        }),
        ..Caller::default()
    };
    let check = |vm: &Vm, name: &str| {
        let client = vm.client().as_caller(caller(0o077));
        let (entry, opened) = client.create(ROOT_ID, name, RDWR, 0o666).expect("CREATE");
        client
            .mkdir(ROOT_ID, format!("{name}.d"), 0o777)
            .expect("MKDIR");
        for (path, mode) in [(name.to_owned(), 0o664), (format!("{name}.d"), 0o775)] {
            let label = scene.attribute(&path, "user.v.security.test");
            assert_eq!(label.as_deref(), Some(&b"label"[..]), "{path}");
            let found = fs::metadata(scene.share(&path)).expect("made").mode();
            assert_eq!(found & 0o777, mode, "{path}");
        }
        let access = "system.posix_acl_access";
        client
            .setxattr(entry.nodeid, access, &acl([6, 4, 0]), 0)
            .expect("SETXATTR");
        let mode = fs::metadata(scene.share(name)).expect("made").mode();
        assert_eq!(mode & 0o777, 0o640);
        client
            .write(entry.nodeid, opened.fh, 0, b"data")
            .expect("WRITE");
        assert_eq!(fs::read(scene.share(name)).expect("made"), b"data");
    };
    check(&vm, "before");
    assert!(vm.migrate_to(without.socket()).is_err());
    assert!(
        without.stderr().contains("--posix-acl=auto"),
        "{}",
        without.stderr()
    );
    // It goes on where it was, and then elsewhere.
    check(&vm, "still");
    let _kept = vm.migrate_to(target.socket()).expect("crossing");
    check(&vm, "after");
}

#[test]
fn a_read_only_daemon_takes_readers_over_and_no_writers() {
    let scene = Scene::new();
    fs::write(scene.share("f"), "data").expect("file");
    let source = scene.daemon("source", &["--cache=never"]);
    let readonly = scene.daemon("readonly", &["--readonly"]);
    let mut vm = Vm::boot(source.socket()).expect("boot");
    let client = vm.client();
    let node = client.lookup(ROOT_ID, "f").expect("LOOKUP").nodeid;
    let writer = client.open(node, RDWR).expect("OPEN").fh;
    assert!(vm.migrate_to(readonly.socket()).is_err());
    assert!(
        readonly.stderr().contains("--readonly"),
        "{}",
        readonly.stderr()
    );
    client.write(node, writer, 0, b"D").expect("WRITE");
    client.release(node, writer).expect("RELEASE");
    let reader = client.open(node, 0).expect("OPEN").fh;

    let second = scene.daemon("second", &["--readonly"]);
    let _kept = vm.migrate_to(second.socket()).expect("crossing");
    let client = vm.client();
    assert_eq!(client.read(node, reader, 0, 10).expect("READ"), b"Data");
    let refused = client.mkdir(ROOT_ID, "d", 0o755).expect_err("read-only");
    assert_eq!(refused.errno(), Some(libc::EROFS));
    assert!(client.open(node, RDWR).is_err());
}

#[test]
fn ids_are_translated_behind_the_confinement() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: giving files away needs root");
        return;
    }
    let scene = Scene::new();
    let all = fs::Permissions::from_mode(0o777);
    fs::set_permissions(scene.share(""), all).expect("mode");
    let options = [
        "--translate-uid=map:0:100000:5000",
        "--translate-gid=map:0:200000:5000",
        "--translate-uid=forbid-guest:6000:1",
    ];
    let daemons = [
        scene.daemon("source", &options),
        scene.daemon("target", &options),
    ];
    let mut vm = Vm::boot(daemons[0].socket()).expect("boot");
    let check = |vm: &Vm, name: &str| {
        let client = vm.client().as_caller(Caller::user(1000, 1001));
        let made = client.mkdir(ROOT_ID, name, 0o755).expect("MKDIR");
        assert_eq!((made.attr.uid, made.attr.gid), (1000, 1001));
        let on_disk = fs::metadata(scene.share(name)).expect("made");
        assert_eq!((on_disk.uid(), on_disk.gid()), (101_000, 201_001));
        let client = vm.client().as_caller(Caller::user(6000, 0));
        let refused = client.mkdir(ROOT_ID, "no", 0o755).expect_err("forbidden");
        assert_eq!(refused.errno(), Some(libc::EACCES));
    };
    check(&vm, "before");
    let _kept = vm.migrate_to(daemons[1].socket()).expect("crossing");
    check(&vm, "after");
}
