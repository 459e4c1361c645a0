//! What other processes on the host do to the share while a guest works in it, and
//! what a guest may find there, lead nowhere else.

use std::ffi::{CStr, CString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{symlink, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;

use ferryfs_frontend::call::SetAttr;
use ferryfs_frontend::fuse::{fattr, ROOT_ID};
use ferryfs_frontend::{Caller, Vm};
use ferryfs_tests::{errno, host, mounts, programs, Host};

const RDONLY: u32 = libc::O_RDONLY as u32;
const RDWR: u32 = libc::O_RDWR as u32;

/// A thread of the host that exchanges two names in a share as fast as it can.
struct Flipping {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flipping {
    fn start(host: &Host, a: &str, b: &str) -> Flipping {
        let path = |name: &str| CString::new(host.at(name).as_os_str().as_bytes()).expect("path");
        let (a, b) = (path(a), path(b));
        exchange(&a, &b).expect("RENAME_EXCHANGE");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                exchange(&a, &b).expect("RENAME_EXCHANGE");
            }
        });
        Flipping {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Flipping {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it fails the test, unless this one fails already.
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

fn exchange(a: &CStr, b: &CStr) -> std::io::Result<()> {
    // SAFETY: both paths end with NUL and outlive the call.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            libc::AT_FDCWD,
            a.as_ptr(),
            libc::AT_FDCWD,
            b.as_ptr(),
            libc::RENAME_EXCHANGE,
        )
    };
    match rc {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Both that are exchanged have to have been met this often.
const MET: usize = 40;
/// Rounds at most: one of both may be met seldom on a machine that is busy.
const ROUNDS: usize = 200_000;

#[test]
fn a_directory_flipped_into_a_link_leads_nowhere() {
    for sandbox in programs::sandboxes() {
        let host = Host::new();
        fs::create_dir(host.at("flip")).expect("mkdir");
        fs::write(host.at("flip/sentinel"), "inside").expect("write");
        symlink("../outside", host.at("flop")).expect("symlink");
        let mut daemon = host.daemon(&["--sandbox", sandbox, "--cache=never"]);
        let vm = Vm::boot(daemon.socket()).expect("boot");
        let client = vm.client();
        let inside = fs::metadata(host.at("flip")).expect("stat").ino();
        let flipping = Flipping::start(&host, "flip", "flop");
        let (mut directories, mut links) = (0, 0);
        for round in 0..ROUNDS {
            let found = client.lookup(ROOT_ID, "flip").expect("LOOKUP");
            let node = found.nodeid;
            match found.attr.mode & libc::S_IFMT {
                libc::S_IFDIR => {
                    assert_eq!(found.attr.ino, inside);
                    directories += 1;
                }
                libc::S_IFLNK => {
                    assert_eq!(client.readlink(node).expect("READLINK"), b"../outside");
                    links += 1;
                }
                other => panic!("st_mode {other:o}"),
            }
            // Whatever the name is by now, the inode is what it was.
            let is_dir = found.attr.mode & libc::S_IFMT == libc::S_IFDIR;
            match client.lookup(node, "sentinel") {
                Ok(sentinel) => {
                    let opened = client.open(sentinel.nodeid, RDWR).expect("OPEN");
                    let read = client.read(sentinel.nodeid, opened.fh, 0, 100);
                    assert_eq!(read.expect("READ"), b"inside");
                    client.release(sentinel.nodeid, opened.fh).expect("RELEASE");
                    client.forget(sentinel.nodeid, 1).expect("FORGET");
                    assert!(is_dir);
                }
                Err(e) => assert!(!is_dir, "{e}"),
            }
            let name = format!("made {}", round % 7);
            if let Ok((made, opened)) = client.create(node, &name, RDWR, 0o644) {
                assert!(is_dir);
                client.release(made.nodeid, opened.fh).expect("RELEASE");
                client.forget(made.nodeid, 1).expect("FORGET");
                client.unlink(node, &name).expect("UNLINK");
            } else {
                assert!(!is_dir);
                let all = [
                    errno(client.mkdir(node, &name, 0o755)),
                    errno(client.symlink(node, &name, "x")),
                    errno(client.unlink(node, "sentinel")),
                    errno(client.rename(node, "sentinel", ROOT_ID, "stolen")),
                    errno(client.opendir(node)),
                ];
                assert!(!all.contains(&0), "{all:?}");
                // Permissions, if a link has any, are its own.
                let mode = SetAttr {
                    valid: fattr::MODE,
                    mode: 0o777,
                    ..SetAttr::default()
                };
                let _of_the_link = client.setattr(node, &mode);
            }
            client.forget(node, 1).expect("FORGET");
            if directories.min(links) >= MET {
                break;
            }
        }
        drop(flipping);
        assert!(directories.min(links) >= MET, "{directories}, {links}");
        host.assert_untouched_outside();
        let outside = fs::metadata(host.base().join("outside")).expect("stat");
        assert_ne!(outside.mode() & 0o777, 0o777, "the link was followed");
        host::assert_well(&mut daemon);
    }
}

#[test]
fn a_file_flipped_into_a_link_or_a_pipe_is_never_followed() {
    for sandbox in programs::sandboxes() {
        for other in ["link", "pipe"] {
            let host = Host::new();
            fs::write(host.at("flip"), "inside").expect("write");
            match other {
                "link" => symlink("../outside/sentinel", host.at("flop")).expect("symlink"),
                _ => {
                    let made = std::process::Command::new("mkfifo")
                        .arg(host.at("flop"))
                        .status();
                    assert!(made.expect("mkfifo").success());
                }
            }
            let mut daemon = host.daemon(&["--sandbox", sandbox, "--cache=never"]);
            let vm = Vm::boot(daemon.socket()).expect("boot");
            let client = vm.client();
            let flipping = Flipping::start(&host, "flip", "flop");
            let (mut files, mut others) = (0, 0);
            for _ in 0..ROUNDS {
                // CREATE opens what is there; truncated it must be the file alone.
                let flags = RDWR | libc::O_TRUNC as u32;
                match client.create(ROOT_ID, "flip", flags, 0o644) {
                    Ok((made, opened)) => {
                        files += 1;
                        assert_eq!(made.attr.mode & libc::S_IFMT, libc::S_IFREG);
                        let written = client.write(made.nodeid, opened.fh, 0, b"inside");
                        assert_eq!(written.expect("WRITE"), 6);
                        client.release(made.nodeid, opened.fh).expect("RELEASE");
                        client.forget(made.nodeid, 1).expect("FORGET");
                    }
                    Err(_) => others += 1,
                }
                let found = client.lookup(ROOT_ID, "flip").expect("LOOKUP");
                let regular = found.attr.mode & libc::S_IFMT == libc::S_IFREG;
                match client.open(found.nodeid, RDONLY) {
                    Ok(opened) => {
                        assert!(regular);
                        client.release(found.nodeid, opened.fh).expect("RELEASE");
                    }
                    Err(e) => assert!(!regular, "{e}"),
                }
                client.forget(found.nodeid, 1).expect("FORGET");
                if files.min(others) >= MET {
                    break;
                }
            }
            drop(flipping);
            assert!(files.min(others) >= MET, "{other}: {files}, {others}");
            host.assert_untouched_outside();
            host::assert_well(&mut daemon);
        }
    }
}

/// A device has another name in the share, the guest makes one, and the share is on a
/// mount that knows no devices: none is ever opened, and the host has its own.
#[test]
fn devices_are_never_opened() {
    let test = || {
        if !programs::is_root("making devices") || mounts::own_namespace().is_err() {
            return;
        }
        for flags in [0, libc::MS_NODEV | libc::MS_NOSUID] {
            let host = Host::new();
            mounts::tmpfs_with(host.share(), flags, c"mode=777").expect("tmpfs");
            // As /dev/zero, whose bytes would be readable.
            let device = host.at("device");
            let made = std::process::Command::new("mknod")
                .arg(&device)
                .args(["c", "1", "5"])
                .status();
            assert!(made.expect("mknod").success());
            fs::hard_link(&device, host.at("other name")).expect("link");
            let mut daemon = host.daemon(&[]);
            let vm = Vm::boot(daemon.socket()).expect("boot");
            let client = vm.client();
            let linked = client.lookup(ROOT_ID, "device").expect("LOOKUP");
            client
                .link(linked.nodeid, ROOT_ID, "third name")
                .expect("LINK");
            let zero = ferryfs_frontend::encode_rdev(1, 5);
            client
                .mknod(ROOT_ID, "made", libc::S_IFCHR | 0o666, zero)
                .expect("MKNOD");
            for name in ["device", "other name", "third name", "made"] {
                let found = client.lookup(ROOT_ID, name).expect("LOOKUP");
                assert_eq!(found.attr.mode & libc::S_IFMT, libc::S_IFCHR, "{name}");
                assert_eq!(found.attr.rdev, zero, "{name}");
                for flags in [RDONLY, RDWR] {
                    let refused = errno(client.open(found.nodeid, flags));
                    assert_eq!(refused, libc::EBADF, "{name}");
                    let refused = client.create(ROOT_ID, name, flags, 0o666);
                    assert_eq!(errno(refused), libc::EBADF, "{name}");
                }
                // Nor is it truncated.
                let cut = SetAttr {
                    valid: fattr::SIZE,
                    ..SetAttr::default()
                };
                assert_ne!(errno(client.setattr(found.nodeid, &cut)), 0);
            }
            host::assert_well(&mut daemon);
            drop((vm, daemon));
            mounts::unmount(host.share()).expect("umount");
        }
    };
    std::thread::spawn(test).join().expect("the test passes");
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).expect("stat").permissions().mode() & 0o7777
}

/// The bits go with a write, a truncation, a new owner, and an open that truncates;
/// a user gives no program a right that it has not.
#[test]
fn set_user_id_bits_go_with_what_changes_a_file() {
    if !programs::is_root("files of other users") {
        return;
    }
    let host = Host::new();
    fs::set_permissions(host.share(), fs::Permissions::from_mode(0o777)).expect("chmod");
    let mut daemon = host.daemon(&["--killpriv-v2", "--cache=never"]);
    let vm = Vm::boot(daemon.socket()).expect("boot");
    let user = vm.client().as_caller(Caller::user(1000, 1000));
    let path = host.at("program");
    let (file, opened) = user
        .create(ROOT_ID, "program", RDWR, 0o755)
        .expect("CREATE");
    let node = file.nodeid;
    let on = || fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).expect("chmod");
    let off = |what: &str| assert_eq!(mode_of(&path), 0o755, "{what}");

    on();
    let by_user = ferryfs_frontend::call::write(
        node,
        opened.fh,
        0,
        ferryfs_frontend::call::Payload::Bytes(b"new".to_vec()),
        // FUSE_WRITE_KILL_SUIDGID
        1 << 2,
        0,
    );
    assert_eq!(user.call(by_user).expect("WRITE"), 3);
    off("WRITE");
    on();
    let cut = SetAttr {
        valid: fattr::SIZE | fattr::KILL_SUIDGID,
        size: 1,
        ..SetAttr::default()
    };
    user.setattr(node, &cut).expect("SETATTR");
    off("truncation");
    on();
    let owner = SetAttr {
        valid: fattr::UID,
        uid: 2000,
        ..SetAttr::default()
    };
    user.setattr(node, &owner).expect("SETATTR");
    off("another owner");
    on();
    // FUSE_OPEN_KILL_SUIDGID
    let open = ferryfs_frontend::call::open(node, RDWR | libc::O_TRUNC as u32, 1);
    user.call(open).expect("OPEN");
    off("OPEN with O_TRUNC");
    // A write that does not ask for it, as root's, leaves them.
    on();
    vm.client()
        .write(node, opened.fh, 0, b"by root")
        .expect("WRITE");
    assert_eq!(mode_of(&path), 0o6755);

    // In a directory that hands its group down, a file gets the group; a user who is
    // not in it gets no set-group-id bit.
    fs::create_dir(host.at("shared")).expect("mkdir");
    std::os::unix::fs::chown(host.at("shared"), None, Some(4242)).expect("chown");
    let inherits = fs::Permissions::from_mode(0o2777);
    fs::set_permissions(host.at("shared"), inherits).expect("chmod");
    let shared = user.lookup(ROOT_ID, "shared").expect("LOOKUP").nodeid;
    user.create(shared, "program", RDWR, 0o2755)
        .expect("CREATE");
    let made = fs::metadata(host.at("shared/program")).expect("stat");
    assert_eq!(made.gid(), 4242);
    assert_eq!(made.mode() & 0o7777, 0o755);
    host::assert_well(&mut daemon);
}
