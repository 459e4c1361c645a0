//! What takes a name on the host while a state is on its way is never served as the
//! guest's, and what is on disk shows it.

use std::fs;
use std::path::Path;

use ferryfs_frontend::spawn::Daemon;
use ferryfs_frontend::vmm::VmError;
use ferryfs_frontend::Vm;
use ferryfs_tests::{errno, host, programs, text, Guest, Host};

const INODES: [&str; 2] = ["--inode-file-handles=prefer", "--inode-file-handles=never"];

fn share() -> Host {
    let host = Host::new();
    fs::create_dir(host.at("dir")).expect("mkdir");
    fs::write(host.at("dir/file"), "the guest's").expect("write");
    fs::write(host.at("stays"), "stays").expect("write");
    host
}

/// A machine with two open files, stopped, and its state.
struct Stopped {
    source: Daemon,
    vm: Vm,
    guest: Guest,
    file: (u64, u64),
    stays: (u64, u64),
    state: Vec<u8>,
}

fn stop(host: &Host, options: &[&str]) -> Stopped {
    let source = host.daemon(options);
    let mut vm = Vm::boot(source.socket()).expect("boot");
    let mut guest = Guest::of(&vm);
    let file = guest.open_path("dir/file", libc::O_RDWR);
    let stays = guest.open_path("stays", libc::O_RDWR);
    vm.start_precopy().expect("precopy");
    vm.stop().expect("stop");
    let state = vm.save_state().expect("save");
    Stopped {
        source,
        vm,
        guest,
        file,
        stays,
        state,
    }
}

impl Stopped {
    /// Offers the state to a daemon that must refuse it; answers its errors.
    #[track_caller]
    fn refused(&mut self, by: &mut Daemon) -> String {
        let state = self.state.clone();
        match self.vm.resume_on(by.socket(), Some(&state)) {
            Ok(_) => panic!("taken, not refused:\n{}", by.stderr()),
            Err(VmError::State { .. }) => {}
            Err(error) => panic!("{}", text(&error)),
        }
        host::assert_well(by);
        host::lines(by, "ERROR").join("\n")
    }

    #[track_caller]
    fn taken(&mut self, by: &mut Daemon) {
        let state = self.state.clone();
        if let Err(error) = self.vm.resume_on(by.socket(), Some(&state)) {
            panic!("{}\ndestination:\n{}", text(&error), by.stderr());
        }
        host::assert_well(by);
    }

    #[track_caller]
    fn goes_on_at_the_source(&mut self) {
        self.vm.cancel_precopy().expect("cancel");
        self.vm.resume().expect("resume");
        host::assert_well(&mut self.source);
    }
}

fn content(path: &Path) -> String {
    fs::read_to_string(path).expect("read")
}

#[test]
fn a_file_replaced_on_the_way_is_refused_and_the_machine_goes_on_at_the_source() {
    for inodes in INODES {
        let host = share();
        let mut stopped = stop(&host, &[inodes]);
        fs::rename(host.at("dir/file"), host.at("dir/moved")).expect("rename");
        fs::write(host.at("dir/file"), "an impostor").expect("write");
        let mut destination = host.daemon(&[inodes, "--keep-listening"]);
        let said = stopped.refused(&mut destination);
        let (node, fh) = stopped.file;
        let named = format!("inode {node} (regular file): \"dir/file\" is another object than");
        assert!(said.contains(&named), "{said}");
        assert!(said.contains("migrate again"), "{said}");

        // At the source its file is the one that it was, wherever that is now.
        stopped.goes_on_at_the_source();
        stopped
            .guest
            .write(node, fh, 0, b"THE GUEST")
            .expect("WRITE");
        assert_eq!(content(&host.at("dir/moved")), "THE GUEST's");
        assert_eq!(content(&host.at("dir/file")), "an impostor");

        // And as the refusal says, the next time it is followed.
        stopped
            .vm
            .migrate_to(destination.socket())
            .expect("migrate");
        stopped
            .guest
            .write(node, fh, 0, b"and there")
            .expect("WRITE");
        assert_eq!(content(&host.at("dir/moved")), "and there's");
        assert_eq!(content(&host.at("dir/file")), "an impostor");
        host.assert_untouched_outside();
    }
}

#[test]
fn with_guest_error_what_was_replaced_is_faulted_and_nothing_else() {
    for inodes in INODES {
        let host = share();
        let mut stopped = stop(&host, &[inodes]);
        // Nobody holds it any more, so that its number may be used again.
        let options = [inodes, "--migration-on-error", "guest-error"];
        let mut destination = host.daemon(&options);
        fs::write(host.at("new"), "an impostor").expect("write");
        fs::rename(host.at("new"), host.at("dir/file")).expect("rename");
        stopped.taken(&mut destination);
        let ((node, fh), (stays, stays_fh)) = (stopped.file, stopped.stays);
        let guest = &mut stopped.guest;
        assert_eq!(errno(guest.read(node, fh, 0, 100)), libc::ESTALE);
        assert_eq!(errno(guest.write(node, fh, 0, b"harm")), libc::ESTALE);
        assert_eq!(errno(guest.getattr(node, None)), libc::ESTALE);
        assert_eq!(errno(guest.open(node, libc::O_RDWR as u32)), libc::ESTALE);
        guest.write(stays, stays_fh, 0, b"STAYS").expect("WRITE");
        assert_eq!(content(&host.at("stays")), "STAYS");
        assert_eq!(content(&host.at("dir/file")), "an impostor");
        // By name it is found, as what it is.
        let now = guest.walk("dir/file");
        assert_ne!(now.nodeid, node);
        host::assert_well(&mut destination);
    }
}

#[test]
fn a_source_that_writes_for_older_readers_says_nothing_of_identities() {
    let host = share();
    let newer = stop(&host, &[]).state;
    let mut stopped = stop(&host, &["--state-version", "1"]);
    let state_version = |state: &[u8]| state[16..20].to_vec();
    // Neither needs a reader of version 2.
    assert_eq!(state_version(&newer), [1, 0, 0, 0]);
    assert_eq!(state_version(&stopped.state), [1, 0, 0, 0]);
    assert!(stopped.state.len() < newer.len());
    let warned = host::lines(&stopped.source, "WARN").join("\n");
    assert!(
        warned.contains("left out of state version 1: the identities of 4 inode(s)"),
        "{warned}"
    );
    // So whatever has the name is taken, as 0.1.0 did.
    fs::write(host.at("new"), "a namesake").expect("write");
    fs::rename(host.at("new"), host.at("dir/file")).expect("rename");
    let mut destination = host.daemon(&[]);
    stopped.taken(&mut destination);
    let (node, fh) = stopped.file;
    let read = stopped.guest.read(node, fh, 0, 100).expect("READ");
    assert_eq!(read, b"a namesake");
}

#[test]
fn a_version_of_the_future_is_refused_by_name() {
    let host = share();
    let socket = host.socket();
    let mut command = host.command(&socket, &[]);
    command.env("FERRYFS_FORCE_STATE_VERSION", "99");
    let source = Daemon::start_command(command, &socket).expect("ferryfsd starts");
    let mut vm = Vm::boot(source.socket()).expect("boot");
    let mut guest = Guest::of(&vm);
    let (node, fh) = guest.open_path("dir/file", libc::O_RDWR);
    let destination = host.daemon(&[]);
    vm.migrate_to(destination.socket()).expect_err("refused");
    let said = host::lines(&destination, "ERROR").join("\n");
    assert!(
        said.contains("written as state version 99 by ferryfsd ")
            && said.contains("this reader knows up to 3: use ferryfsd "),
        "{said}"
    );
    assert_eq!(guest.read(node, fh, 0, 100).expect("READ"), b"the guest's");
}

#[test]
fn a_directory_above_the_share_is_refused_by_file_handle_whatever_the_policy() {
    if !programs::is_root("--migration-mode file-handles") {
        return;
    }
    let host = share();
    let mut stopped = stop(&host, &["--migration-mode", "file-handles"]);
    let above = host.base().to_str().expect("UTF-8").to_owned();
    for policy in ["abort", "guest-error"] {
        let options = [
            "--shared-dir",
            &above,
            "--migration-on-error",
            policy,
            "--keep-listening",
        ];
        let mut wrong = host.daemon(&options);
        let said = stopped.refused(&mut wrong);
        assert!(
            said.contains("the source shares another directory"),
            "{said}"
        );
    }
    let mut right = host.daemon(&[]);
    stopped.taken(&mut right);
    let (node, fh) = stopped.file;
    stopped.guest.write(node, fh, 0, b"THE").expect("WRITE");
    assert_eq!(content(&host.at("dir/file")), "THE guest's");
    host.assert_untouched_outside();
}

#[test]
fn a_copy_of_the_share_is_taken_by_name() {
    let (here, there) = (share(), share());
    fs::write(there.at("dir/file"), "the copy's!").expect("write");
    let mut stopped = stop(&here, &[]);
    let mut destination = there.daemon(&[]);
    stopped.taken(&mut destination);
    let (node, fh) = stopped.file;
    stopped.guest.write(node, fh, 0, b"THE").expect("WRITE");
    assert_eq!(content(&there.at("dir/file")), "THE copy's!");
    assert_eq!(content(&here.at("dir/file")), "the guest's");
    let told = host::lines(&destination, "INFO").join("\n");
    assert!(told.contains("as where it is a copy"), "{told}");
}

/// Another host's copy of the share, in which a directory lies elsewhere.
#[test]
fn a_copy_with_a_directory_elsewhere_is_found_by_its_mapping() {
    let (here, there) = (share(), Host::new());
    fs::create_dir_all(there.at("other/place")).expect("mkdir");
    fs::write(there.at("other/place/file"), "the guest's").expect("write");
    fs::write(there.at("stays"), "stays").expect("write");
    let mut stopped = stop(&here, &[]);
    let mut without = there.daemon(&["--keep-listening"]);
    let said = stopped.refused(&mut without);
    assert!(said.contains("\"dir\" in inode 1"), "{said}");
    let mut onto = there.daemon(&["--keep-listening", "--remap-path", "dir=stays"]);
    let said = stopped.refused(&mut onto);
    assert!(said.contains("--remap-path dir=stays: inode "), "{said}");
    let mut to = there.daemon(&["--remap-path", "none=x", "--remap-path", "dir=other/place"]);
    stopped.taken(&mut to);
    let (node, fh) = stopped.file;
    let guest = &mut stopped.guest;
    guest.write(node, fh, 0, b"THE").expect("WRITE");
    assert_eq!(content(&there.at("other/place/file")), "THE guest's");
    assert_eq!(content(&here.at("dir/file")), "the guest's");
    assert_eq!(guest.walk("other/place/file").nodeid, node);
    assert_eq!(guest.walk("stays").nodeid, stopped.stays.0);
}
