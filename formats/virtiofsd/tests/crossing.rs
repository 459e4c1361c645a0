//! A guest with open files goes from virtiofsd to ferryfsd and back, between real
//! processes.

mod common;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use ferryfs_frontend::{Daemon, Vm};

fn ferryfsd() -> PathBuf {
    if let Some(path) = std::env::var_os("FERRYFSD") {
        return path.into();
    }
    let test = std::env::current_exe().expect("path of this test");
    // target/<profile>/deps/<test>
    let daemon = test.ancestors().nth(2).expect("profile").join("ferryfsd");
    assert!(
        daemon.is_file(),
        "{} is not there: build it first (or set FERRYFSD)",
        daemon.display()
    );
    daemon
}

fn told(from: &Daemon, to: &Daemon, error: &dyn std::error::Error) -> ! {
    panic!(
        "{}\nsource:\n{}\ndestination:\n{}",
        ferryfs_state::error_line(error),
        from.stderr(),
        to.stderr()
    )
}

/// Stops the machine, and lets it go on on `to`. Answers what crossed.
fn cross(vm: &mut Vm, from: &Daemon, to: &Daemon) -> Vec<u8> {
    vm.start_precopy().expect("precopy");
    vm.stop().expect("stop");
    let state = vm.save_state().unwrap_or_else(|e| told(from, to, &e));
    let left = vm.resume_on(to.socket(), Some(&state));
    drop(left.unwrap_or_else(|e| told(from, to, &e)));
    state
}

fn there_and_back(mode: &str) {
    let Some(stock) = common::virtiofsd() else {
        return;
    };
    let share = tempfile::tempdir().unwrap();
    let sockets = tempfile::tempdir().unwrap();
    let start = |program: &PathBuf, name: &str, more: &[&str]| {
        let mode = ["--migration-mode", mode];
        common::start(
            program,
            share.path(),
            sockets.path(),
            name,
            &[&mode, more].concat(),
        )
    };
    let ferry = ferryfsd();
    let there = start(&stock, "1", &[]);
    let here = start(&ferry, "2", &["--state-format", "virtiofsd-v2"]);
    let here_too = start(&ferry, "3", &["--state-format", "virtiofsd-v2"]);
    let back = start(&stock, "4", &[]);
    let there_too = start(&stock, "5", &[]);

    let mut vm = Vm::boot(there.socket()).unwrap();
    let mut held = common::Held::new(&vm);
    cross(&mut vm, &there, &here);
    held.go_on("-ferry");
    let ours = cross(&mut vm, &here, &here_too);
    assert_eq!(ours[0], 1, "a V2 stream");
    held.go_on("-ferry-again");
    cross(&mut vm, &here_too, &back);
    held.go_on("-back");
    cross(&mut vm, &back, &there_too);
    held.go_on("-on");
    held.check(share.path());
}

#[test]
fn a_guest_goes_to_ferryfsd_and_back_by_paths() {
    there_and_back("find-paths");
}

#[test]
fn a_guest_goes_to_ferryfsd_and_back_by_file_handles() {
    there_and_back("file-handles");
}

/// A session that began here has nothing that virtiofsd forgets.
fn from_here(mode: &str) {
    let Some(stock) = common::virtiofsd() else {
        return;
    };
    let share = tempfile::tempdir().unwrap();
    let sockets = tempfile::tempdir().unwrap();
    let options = ["--migration-mode", mode, "--state-format", "virtiofsd-v2"];
    let start = |program: &PathBuf, name: &str, more: &[&str]| {
        common::start(program, share.path(), sockets.path(), name, more)
    };
    let here = start(&ferryfsd(), "1", &options);
    let there = start(&stock, "2", &options[..2]);
    let again = start(&ferryfsd(), "3", &options);
    let mut vm = Vm::boot(here.socket()).unwrap();
    let mut held = common::Held::new(&vm);
    cross(&mut vm, &here, &there);
    held.go_on("-there");
    cross(&mut vm, &there, &again);
    held.go_on("-again");
    held.check(share.path());
}

#[test]
fn a_guest_of_ferryfsd_goes_to_virtiofsd_by_paths() {
    from_here("find-paths");
}

#[test]
fn a_guest_of_ferryfsd_goes_to_virtiofsd_by_file_handles() {
    from_here("file-handles");
}

/// With ACLs a session uses an INIT flag that virtiofsd forgets: the source says so
/// while the guest still runs on it.
#[test]
fn a_guest_that_virtiofsd_would_fail_is_kept() {
    let share = tempfile::tempdir().unwrap();
    let sockets = tempfile::tempdir().unwrap();
    let options = ["--state-format", "virtiofsd-v2", "--posix-acl"];
    let here = common::start(&ferryfsd(), share.path(), sockets.path(), "1", &options);
    let mut vm = Vm::boot(here.socket()).unwrap();
    let mut held = common::Held::new(&vm);
    vm.stop().unwrap();
    vm.save_state().unwrap_err();
    let why = "failed to write it as virtiofsd-v2: the guest's session uses what virtiofsd would \
               not keep up: SETXATTR_EXT";
    // Said before the front-end is told, but read by a thread of its own.
    let deadline = Instant::now() + Duration::from_secs(10);
    while !here.stderr().contains(why) {
        assert!(Instant::now() < deadline, "{}", here.stderr());
        std::thread::sleep(Duration::from_millis(5));
    }
    vm.resume().unwrap();
    held.go_on("-still-here");
    held.check(share.path());
}
