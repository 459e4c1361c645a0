//! The daemon as a process: what a guest does through it is on the disk.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::Duration;

use ferryfs_frontend::fuse::ROOT_ID;
use ferryfs_frontend::spawn::Daemon;
use ferryfs_frontend::{Vm, VmConfig};
use ferryfs_tests::{errno, Host};

fn start(host: &Host, options: &[&str]) -> Daemon {
    let socket = host.socket();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fuse-backend-fsd"));
    command
        .arg(format!("--socket-path={}", socket.display()))
        .arg(format!("--shared-dir={}", host.share().display()))
        .args(options);
    Daemon::start_command(command, &socket).expect("fuse-backend-fsd starts")
}

#[test]
fn a_guest_works_on_the_share() {
    let host = Host::new();
    fs::write(host.at("file"), "contents").expect("write");
    let mut daemon = start(&host, &["--request-queues", "2", "--xattr"]);
    let config = VmConfig {
        request_queues: 2,
        ..VmConfig::default()
    };
    let vm = Vm::boot_with(daemon.socket(), config).expect("boot");
    for queue in [1, 2] {
        let guest = vm.client_on(queue);
        let file = guest.lookup(ROOT_ID, "file").expect("LOOKUP");
        let inode = fs::metadata(host.at("file")).expect("stat").ino();
        assert_eq!(file.attr.ino, inode);
        let opened = guest.open(file.nodeid, libc::O_RDWR as u32).expect("OPEN");
        let read = guest.read(file.nodeid, opened.fh, 0, 100).expect("READ");
        assert_eq!(read, fs::read(host.at("file")).expect("read"));
        let text = format!("written through queue {queue}");
        let wrote = guest.write(file.nodeid, opened.fh, 0, text.as_bytes());
        assert_eq!(wrote.expect("WRITE") as usize, text.len());
        assert_eq!(fs::read(host.at("file")).expect("read"), text.as_bytes());
        guest.release(file.nodeid, opened.fh).expect("RELEASE");
    }
    let guest = vm.client();
    assert_eq!(errno(guest.lookup(ROOT_ID, "absent")), libc::ENOENT);
    guest.mkdir(ROOT_ID, "made", 0o750).expect("MKDIR");
    assert_eq!(
        fs::metadata(host.at("made")).expect("stat").mode() & 0o777,
        0o750
    );
    host.assert_untouched_outside();
    // It goes with its front-end.
    drop(vm);
    let ended = daemon.wait(Duration::from_secs(10)).expect("end");
    assert!(ended.success(), "{ended}\n{}", daemon.stderr());
}

#[test]
fn a_share_that_is_not_there_is_named() {
    let run = Command::new(env!("CARGO_BIN_EXE_fuse-backend-fsd"))
        .args([
            "--socket-path=/nonexistent/socket",
            "--shared-dir=/nonexistent/share",
        ])
        .output()
        .expect("it runs");
    assert_eq!(run.status.code(), Some(1));
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(said.contains("/nonexistent/share"), "{said}");
}
