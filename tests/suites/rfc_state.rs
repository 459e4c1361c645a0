//! Machines that move between real daemons by the state protocol of the RFC of 2023.

use std::fs;

use ferryfs_frontend::rfc_state::StateChannel;
use ferryfs_frontend::spawn::Daemon;
use ferryfs_frontend::vmm::VmError;
use ferryfs_frontend::{Vm, VmConfig};
use ferryfs_tests::script::pattern;
use ferryfs_tests::{eventually, text, Guest, Host, FORMATS};

const OLD: &str = "--rfc-state-protocol";

fn boot(on: &Daemon) -> Vm {
    let config = VmConfig {
        state_channel: StateChannel::Rfc,
        ..VmConfig::default()
    };
    Vm::boot_with(on.socket(), config).expect("boot")
}

#[track_caller]
fn migrate(vm: &mut Vm, to: &Daemon) {
    if let Err(error) = vm.migrate_to(to.socket()) {
        panic!("{}\ndestination:\n{}", text(&error), to.stderr());
    }
}

#[test]
fn guests_cross_by_shared_memory_and_by_pipe_in_turn() {
    for format in FORMATS {
        let host = Host::new();
        fs::write(host.at("file"), pattern(100_000)).expect("write");
        let options = ["--keep-listening", OLD, "--state-format", format];
        let daemons = [host.daemon(&options), host.daemon(&options)];
        let mut vm = boot(&daemons[0]);
        let mut guest = Guest::of(&vm);
        let file = guest.open_path("file", libc::O_RDWR);
        for hop in 0..4 {
            migrate(&mut vm, &daemons[(hop + 1) % 2]);
            let at = 1000 * hop as u64;
            let read = guest.read(file.0, file.1, at, 500).expect("READ");
            assert_eq!(read, pattern(100_000)[at as usize..][..500], "{format}");
            let text = format!("hop {hop}");
            guest
                .write(file.0, file.1, 90_000 + at, text.as_bytes())
                .expect("WRITE");
            let disk = fs::read(host.at("file")).expect("read");
            assert!(disk[90_000 + at as usize..].starts_with(text.as_bytes()));
            // The same daemon speaks both.
            let channel = &mut vm.config_mut().state_channel;
            *channel = match channel {
                StateChannel::Rfc => StateChannel::DeviceState,
                StateChannel::DeviceState => StateChannel::Rfc,
            };
        }
        host.assert_untouched_outside();
    }
}

#[test]
fn a_refused_load_shows_when_the_area_goes_and_the_machine_goes_on() {
    let host = Host::new();
    fs::write(host.at("file"), "contents").expect("write");
    let source = host.daemon(&["--keep-listening", OLD]);
    let mut vm = boot(&source);
    let mut guest = Guest::of(&vm);
    let file = guest.open_path("file", libc::O_RDWR);
    let other = Host::new();
    let wrong = other.daemon(&["--keep-listening", OLD]);
    match vm.migrate_to(wrong.socket()) {
        Ok(_) => panic!("taken, not refused"),
        Err(VmError::State { .. }) => {}
        Err(error) => panic!("{}", text(&error)),
    }
    assert_eq!(guest.read(file.0, file.1, 0, 8).expect("READ"), b"contents");
    eventually("the reason", || wrong.stderr().contains("state not loaded"));
    // It is up, and can be asked again.
    assert!(vm.migrate_to(wrong.socket()).is_err());
    // And to one that is right.
    let right = host.daemon(&[OLD]);
    migrate(&mut vm, &right);
    assert_eq!(guest.read(file.0, file.1, 0, 8).expect("READ"), b"contents");
}

#[test]
fn a_daemon_that_was_not_told_to_speak_it_names_the_option() {
    let host = Host::new();
    let daemon = host.daemon(&["--keep-listening"]);
    let mut vm = boot(&daemon);
    vm.stop().expect("stop");
    let error = vm.save_state().expect_err("not spoken");
    assert!(matches!(error, VmError::State { .. }), "{}", text(&error));
    eventually("a word on the option", || daemon.stderr().contains(OLD));
}
