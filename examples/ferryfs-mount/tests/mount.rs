//! A real mount: what is written through it is in the shared directory, and SIGTERM
//! takes it away again.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{kill_process, Pid, Signal};

/// Nothing here takes so long.
const LIMIT: Duration = Duration::from_secs(30);

/// Why there can be no mount here.
fn cannot_mount() -> bool {
    let can = rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists();
    if !can {
        eprintln!("skipped: mounting needs root and /dev/fuse");
    }
    !can
}

fn start(shared: &Path, at: &Path, options: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_ferryfs-mount"))
        .args([shared, at])
        .args(options)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn wait<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(start.elapsed() < LIMIT, "waited for {what} in vain");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn end(child: &mut Child) -> ExitStatus {
    kill_process(Pid::from_child(child), Signal::TERM).unwrap();
    wait("the end", || child.try_wait().unwrap())
}

fn device(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().dev()
}

#[test]
fn what_is_done_in_the_mount_is_done_in_the_share() {
    if cannot_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (shared, at) = (dir.path().join("shared"), dir.path().join("at"));
    std::fs::create_dir(&shared).unwrap();
    std::fs::create_dir(&at).unwrap();
    std::fs::write(shared.join("there"), b"already").unwrap();
    let bare = device(&at);
    for options in [&[][..], &["--cache=never"], &["--writeback", "--xattr"]] {
        let mut child = start(&shared, &at, options);
        wait("the mount", || (device(&at) != bare).then_some(()));
        assert_eq!(std::fs::read(at.join("there")).unwrap(), b"already");
        std::fs::write(at.join("new"), b"through the mount").unwrap();
        let file = std::fs::File::options()
            .write(true)
            .open(at.join("new"))
            .unwrap();
        file.write_at(b"THROUGH", 0).unwrap();
        file.sync_all().unwrap();
        drop(file);
        assert_eq!(
            std::fs::read(shared.join("new")).unwrap(),
            b"THROUGH the mount"
        );
        std::fs::remove_file(at.join("new")).unwrap();
        assert!(!shared.join("new").exists());
        assert!(end(&mut child).success(), "{options:?}");
        assert_eq!(device(&at), bare, "{options:?}");
    }
}

#[test]
fn a_mount_in_use_is_served_until_it_no_longer_is() {
    if cannot_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (shared, at) = (dir.path().join("shared"), dir.path().join("at"));
    std::fs::create_dir(&shared).unwrap();
    std::fs::create_dir(&at).unwrap();
    std::fs::write(shared.join("f"), b"in use").unwrap();
    let bare = device(&at);
    let mut child = start(&shared, &at, &[]);
    wait("the mount", || (device(&at) != bare).then_some(()));
    let file = std::fs::File::open(at.join("f")).unwrap();
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    wait("the unmount", || (device(&at) == bare).then_some(()));
    let mut content = [0; 6];
    file.read_exact_at(&mut content, 0).unwrap();
    assert_eq!(&content, b"in use");
    assert!(child.try_wait().unwrap().is_none());
    drop(file);
    assert!(wait("the end", || child.try_wait().unwrap()).success());
}

#[test]
fn a_mount_within_what_is_served_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    let child = start(dir.path(), &inside, &[]);
    let out = child.wait_with_output().unwrap();
    assert!(!out.status.success());
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(said.contains("would wait for itself"), "{said}");
}
