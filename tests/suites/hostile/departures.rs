//! Front-ends and daemons that vanish in the middle.

use std::fs;
use std::io::Write;
use std::time::Duration;

use ferryfs_frontend::call;
use ferryfs_frontend::frontend::protocol;
use ferryfs_frontend::fuse::ROOT_ID;
use ferryfs_frontend::spawn::Daemon;
use ferryfs_frontend::state::Direction;
use ferryfs_frontend::vmm::VmError;
use ferryfs_frontend::{Frontend, Vm, VmConfig};
use ferryfs_tests::hostile::departures::{set_up, STEPS};
use ferryfs_tests::{eventually, host, text, Guest, Host};

use crate::scene::Scene;

#[test]
fn front_ends_that_leave_in_the_middle() {
    let scene = Scene::new(&[]);
    let features = VmConfig::default().protocol_features;
    // A machine's set-up, message by message, and gone after each.
    for steps in 0..=STEPS.len() {
        drop(scene.boot());
        let mut frontend = Frontend::connect(scene.daemon.socket()).expect("connect");
        set_up(&mut frontend, steps).unwrap_or_else(|e| panic!("{steps}: {}", text(&e)));
        drop(frontend);
        scene.serves(&scene.boot());
    }
    // In the middle of a state's transfer, both ways, with the pipe left open.
    for direction in [Direction::Save, Direction::Load] {
        let (read, write) = rustix::pipe::pipe().expect("pipe");
        let mut frontend = Frontend::connect(scene.daemon.socket()).expect("connect");
        frontend
            .negotiate(features | protocol::DEVICE_STATE)
            .expect("negotiate");
        let theirs = if direction == Direction::Save {
            &write
        } else {
            &read
        };
        frontend
            .set_device_state_fd(direction, 0, theirs)
            .expect("SET_DEVICE_STATE_FD");
        drop(frontend);
        scene.serves(&scene.boot());
    }
    // With requests in its rings.
    for _ in 0..10 {
        let vm = scene.boot();
        let client = vm.client();
        for _ in 0..20 {
            let call = call::getattr(ROOT_ID, None);
            drop(client.submit(call).expect("submit"));
        }
        drop(vm);
    }
    let fds = || scene.daemon.figures().expect("figures").fds;
    let vm = scene.boot();
    drop(vm);
    eventually("descriptors are closed", || fds() < 60);
    scene.ends_well(());
}

/// A machine with an open file on the first of two daemons, of which one is going to
/// be killed.
struct Crossing {
    host: Host,
    source: Daemon,
    destination: Daemon,
    vm: Vm,
    guest: Guest,
    file: (u64, u64),
}

impl Crossing {
    fn begin() -> Crossing {
        let host = Host::new();
        fs::write(host.at("file"), "contents").expect("write");
        let source = host.daemon(&["--keep-listening"]);
        let destination = host.daemon(&["--keep-listening"]);
        let config = VmConfig {
            timeout: Duration::from_secs(20),
            ..VmConfig::default()
        };
        let mut vm = Vm::boot_with(source.socket(), config).expect("boot");
        let mut guest = Guest::of(&vm);
        let file = guest.open_path("file", libc::O_RDWR);
        vm.start_precopy().expect("precopy");
        Crossing {
            host,
            source,
            destination,
            vm,
            guest,
            file,
        }
    }

    /// The state of the stopped machine.
    fn saved(&mut self) -> Vec<u8> {
        self.vm.stop().expect("stop");
        self.vm.save_state().expect("save")
    }

    /// The guest goes on where it is served now.
    #[track_caller]
    fn goes_on(&self) {
        let (node, fh) = self.file;
        assert_eq!(self.guest.read(node, fh, 0, 8).expect("READ"), b"contents");
        let made = self.guest.mkdir(ROOT_ID, "made", 0o755);
        made.unwrap_or_else(|e| panic!("MKDIR: {}", text(&e)));
        assert!(self.host.at("made").is_dir());
        self.host.assert_untouched_outside();
    }

    /// It goes on at the source, whatever became of the destination.
    #[track_caller]
    fn stays(&mut self) {
        self.vm.cancel_precopy().expect("cancel");
        self.vm.resume().expect("resume");
        self.goes_on();
        host::assert_well(&mut self.source);
    }
}

/// Nothing hangs on a daemon that is dead.
#[track_caller]
fn failed<T>(result: Result<T, VmError>) {
    let error = result.err().expect("the daemon is dead");
    let words = text(&error);
    assert!(!words.contains("within"), "waited for the dead: {words}");
}

#[test]
fn sources_that_are_killed() {
    // While it collects, when the rings have stopped, and in the middle of its state.
    let mut crossing = Crossing::begin();
    crossing.source.kill().expect("kill");
    failed(crossing.vm.stop());

    let mut crossing = Crossing::begin();
    crossing.vm.stop().expect("stop");
    crossing.source.kill().expect("kill");
    failed(crossing.vm.save_state());

    let mut crossing = Crossing::begin();
    let whole = crossing.saved();
    let (read, write) = rustix::pipe::pipe().expect("pipe");
    let frontend = crossing.vm.frontend();
    frontend
        .set_device_state_fd(Direction::Save, 0, &write)
        .expect("SET_DEVICE_STATE_FD");
    drop(write);
    crossing.source.kill().expect("kill");
    assert!(crossing.vm.frontend().check_device_state().is_err());
    drop(read);
    // What came of it is no state, and the destination takes the next that is one.
    for cut in [1, whole.len() / 2, whole.len() - 1] {
        let moved = crossing
            .vm
            .resume_on(crossing.destination.socket(), Some(&whole[..cut]));
        assert!(moved.is_err(), "{cut} bytes of {} were taken", whole.len());
    }
    let moved = crossing
        .vm
        .resume_on(crossing.destination.socket(), Some(&whole));
    drop(moved.unwrap_or_else(|e| panic!("{}", text(&e))));
    crossing.goes_on();
    host::assert_well(&mut crossing.destination);
}

#[test]
fn destinations_that_are_killed() {
    // Before it has a byte.
    let mut crossing = Crossing::begin();
    let state = crossing.saved();
    crossing.destination.kill().expect("kill");
    failed(
        crossing
            .vm
            .resume_on(crossing.destination.socket(), Some(&state)),
    );
    crossing.stays();

    // In the middle of the state, and with all of it.
    for sent in [state.len() / 2, state.len()] {
        let mut crossing = Crossing::begin();
        let state = crossing.saved();
        let mut frontend = Frontend::connect(crossing.destination.socket()).expect("connect");
        frontend
            .negotiate(VmConfig::default().protocol_features)
            .expect("negotiate");
        let (read, write) = rustix::pipe::pipe().expect("pipe");
        frontend
            .set_device_state_fd(Direction::Load, 0, &read)
            .expect("SET_DEVICE_STATE_FD");
        drop(read);
        let mut pipe = fs::File::from(write);
        pipe.write_all(&state[..sent.min(state.len())])
            .expect("write");
        crossing.destination.kill().expect("kill");
        drop(pipe);
        assert!(frontend.check_device_state().is_err());
        crossing.stays();
    }

    // When the guest has resumed there: it has lost its device, and its VMM knows.
    let mut crossing = Crossing::begin();
    let state = crossing.saved();
    let moved = crossing
        .vm
        .resume_on(crossing.destination.socket(), Some(&state));
    drop(moved.unwrap_or_else(|e| panic!("{}", text(&e))));
    crossing.goes_on();
    crossing.destination.kill().expect("kill");
    failed(crossing.vm.stop());
    // Its place can be taken: socket and pid file are left, and nobody has them.
    let socket = crossing.destination.socket().to_owned();
    let again = crossing.host.command(&socket, &[]);
    let again = Daemon::start_command(again, &socket).expect("another daemon starts");
    Vm::boot(again.socket()).expect("boot");
}
