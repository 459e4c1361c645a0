//! After a crossing the session that the guest negotiated still holds: every request
//! is answered as it would have been at the source.

use ferryfs_frontend::spawn::Daemon;
use ferryfs_frontend::Vm;
use ferryfs_tests::script::{self, Transcript};
use ferryfs_tests::{eventually, host, programs, Host, FORMATS, MODES};

fn fds(daemon: &Daemon) -> usize {
    daemon.figures().expect("figures").fds
}

/// Whether FSYNC and SYNCFS are asked: in one of the comparisons.
fn sync(options: &[&str]) -> bool {
    options.contains(&"--inode-file-handles=never")
}

/// The script without a move, with these options.
fn stay(options: &[&str], tmpfile: bool) -> (Transcript, usize) {
    let host = Host::new();
    script::lay_out(host.share());
    let mut daemon = host.daemon(options);
    let vm = Vm::boot(daemon.socket()).expect("boot");
    let at_boot = fds(&daemon);
    let mut held = script::before(&vm);
    if tmpfile {
        held.hold_tmpfile();
    }
    let answers = script::after(held, host.share(), sync(options));
    eventually("descriptors go back to what they were at boot", || {
        // A mount may have been met, which stays known.
        fds(&daemon) <= at_boot + 1
    });
    host::assert_well(&mut daemon);
    (answers, at_boot)
}

/// The script with a move in the middle.
fn cross(options: &[&str], tmpfile: bool, at_boot: usize) -> Transcript {
    let host = Host::new();
    script::lay_out(host.share());
    let source = host.daemon(options);
    let mut destination = host.daemon(options);
    let mut vm = Vm::boot(source.socket()).expect("boot");
    let mut held = script::before(&vm);
    if tmpfile {
        held.hold_tmpfile();
    }
    let left = vm.migrate_to(destination.socket());
    drop(left.unwrap_or_else(|e| {
        panic!(
            "{options:?}: {}\nsource:\n{}\ndestination:\n{}",
            ferryfs_tests::text(&e),
            source.stderr(),
            destination.stderr()
        )
    }));
    let answers = script::after(held, host.share(), sync(options));
    eventually("descriptors go back to what they are at boot", || {
        fds(&destination) <= at_boot + 1
    });
    host::assert_well(&mut destination);
    assert_eq!(host::lines(&destination, "ERROR"), [""; 0]);
    answers
}

fn compare(stayed: &Transcript, crossed: &Transcript, options: &[&str]) {
    for (stayed, crossed) in stayed.0.iter().zip(&crossed.0) {
        assert_eq!(crossed, stayed, "differs after a crossing with {options:?}");
    }
    assert_eq!(stayed.0.len(), crossed.0.len(), "{options:?}");
}

/// What the answers must be, moved or not, for a guest with `--xattr` and a daemon
/// that runs as root.
fn check(t: &Transcript, writeback: bool, acls: bool) {
    assert_eq!(t.line("extended SETXATTR"), acls.to_string());
    assert_eq!(t.line("SETXATTR"), "()");
    assert_eq!(t.line("SETXATTR again"), "File exists (os error 17)");
    assert_eq!(t.line("GETXATTR after"), "[116, 119, 111]");
    assert_eq!(t.line("GETXATTR gone"), "No data available (os error 61)");
    for op in ["CREATE", "MKDIR", "MKNOD", "SYMLINK"] {
        for who in ["stranger", "stranger again", "stranger at last"] {
            let denied = "Permission denied (os error 13)";
            assert_eq!(t.line(&format!("{op} by a {who}")), denied);
        }
        let allowed = t.line(&format!("{op} by a member"));
        assert!(allowed.contains("uid: 1000, gid: 1000"), "{op}: {allowed}");
    }
    assert_eq!(
        t.line("on disk, file of member"),
        "Ok((\"100640\", 1000, 1000))"
    );
    let read = t.line("READ of a write-only file");
    match writeback {
        true => assert_eq!(read, format!("{:?}", b"0123xy6789")),
        false => assert_eq!(read, "Bad file descriptor (os error 9)"),
    }
    let logs: Vec<_> =
        t.0.iter()
            .filter(|l| l.starts_with("on disk, dir/log"))
            .collect();
    assert_eq!(
        logs,
        [
            "on disk, dir/log: AB23456789",
            "on disk, dir/log: AB23456789end"
        ]
    );
    assert_eq!(t.line("LSEEK data"), "1048576");
    assert_eq!(t.line("LSEEK hole"), "1048580");
    assert_eq!(t.line("COPY_FILE_RANGE"), "5000");
    assert_eq!(t.line("names"), "3002, different: 3002");
}

fn compare_all(formats: &[&str], modes: &[&str], handles: &str, more: &[&str]) {
    if !programs::is_root("acting as several users") {
        return;
    }
    let handles = format!("--inode-file-handles={handles}");
    let mut common = vec!["--xattr", handles.as_str()];
    common.extend(more);
    let with = |option| more.contains(&option);
    for mode in modes {
        // A file without a name can only be found by its handle.
        let tmpfile = *mode == "file-handles";
        let (stayed, at_boot) = stay(&common, tmpfile);
        check(&stayed, with("--writeback"), with("--posix-acl"));
        for format in formats {
            let mut options = common.clone();
            options.extend(["--migration-mode", mode, "--state-format", format]);
            let crossed = cross(&options, tmpfile, at_boot);
            compare(&stayed, &crossed, &options);
        }
    }
}

#[test]
fn answers_are_the_same_in_every_format_and_mode() {
    compare_all(&FORMATS, &MODES, "prefer", &["--writeback"]);
}

#[test]
fn answers_are_the_same_without_writeback() {
    compare_all(&FORMATS[..1], &MODES, "prefer", &[]);
}

#[test]
fn answers_are_the_same_where_inodes_are_descriptors() {
    compare_all(&FORMATS[1..2], &MODES, "never", &["--writeback"]);
}

/// With ACLs SETXATTR is longer than without.
#[test]
fn answers_are_the_same_with_acls() {
    compare_all(&FORMATS[2..3], &MODES, "prefer", &["--posix-acl"]);
}
