//! States that must not be taken, and those that must not be given: the daemon says
//! why in one line, is as it was, and the machine goes on where it was.

use std::fs;
use std::time::Duration;

use ferryfs_frontend::call::InitRequest;
use ferryfs_frontend::fuse::{init, ROOT_ID};
use ferryfs_frontend::spawn::Daemon;
use ferryfs_frontend::state::StateError;
use ferryfs_frontend::vmm::VmError;
use ferryfs_frontend::{Frontend, Vm, VmConfig};
use ferryfs_tests::{errno, eventually, host, programs, text, Guest, Host, FORMATS};

/// A machine with an open file, stopped, and its state.
struct Stopped {
    source: Daemon,
    vm: Vm,
    guest: Guest,
    file: (u64, u64),
    state: Vec<u8>,
}

fn share() -> Host {
    let host = Host::new();
    fs::create_dir(host.at("dir")).expect("mkdir");
    fs::write(host.at("dir/file"), "contents").expect("write");
    host
}

fn stop(host: &Host, options: &[&str]) -> Stopped {
    let source = host.daemon(options);
    let mut vm = Vm::boot(source.socket()).expect("boot");
    let mut guest = Guest::of(&vm);
    let file = guest.open_path("dir/file", libc::O_RDWR);
    vm.start_precopy().expect("precopy");
    vm.stop().expect("stop");
    let state = vm.save_state().expect("save");
    Stopped {
        source,
        vm,
        guest,
        file,
        state,
    }
}

impl Stopped {
    /// Offers a state that must be refused, for a reason in which `why` occurs.
    #[track_caller]
    fn refused(&mut self, by: &mut Daemon, state: &[u8], why: &str) {
        let before = outcomes(by).len();
        let error = self.vm.resume_on(by.socket(), Some(state));
        let error = error
            .err()
            .unwrap_or_else(|| panic!("taken, not refused: {why}"));
        let VmError::State { source, .. } = &error else {
            panic!("{}", text(&error))
        };
        let StateError::Failed { value, .. } = source else {
            panic!("{}", text(&error))
        };
        assert_ne!(*value, 0);
        eventually("the refusal is logged", || outcomes(by).len() > before);
        let said = outcomes(by).split_off(before);
        let [line] = said.as_slice() else {
            panic!("one line was due:\n{}", said.join("\n"))
        };
        assert!(line.contains(why), "not about \"{why}\": {line}");
        host::assert_well(by);
    }

    /// Lets the machine go on at the source, which must serve as before.
    #[track_caller]
    fn goes_on_at_the_source(&mut self) {
        self.vm.cancel_precopy().expect("cancel");
        self.vm.resume().expect("resume");
        self.works("at the source");
        host::assert_well(&mut self.source);
    }

    #[track_caller]
    fn works(&self, place: &str) {
        let (node, fh) = self.file;
        self.guest.write(node, fh, 0, b"Contents").expect("WRITE");
        assert_eq!(
            self.guest.read(node, fh, 0, 100).expect("READ"),
            b"Contents",
            "{place}"
        );
        self.guest.lookup_path(ROOT_ID, "dir/file").expect("LOOKUP");
    }

    /// Moves the machine to a daemon that has refused other states before.
    #[track_caller]
    fn moves_to(&mut self, to: &mut Daemon) {
        let state = self.state.clone();
        let moved = self.vm.resume_on(to.socket(), Some(&state));
        if let Err(error) = moved {
            panic!("{}\ndestination:\n{}", text(&error), to.stderr());
        }
        self.works("at the destination");
        host::assert_well(to);
    }
}

/// The lines that tell how a transfer failed: all errors but those about one file.
fn outcomes(daemon: &Daemon) -> Vec<String> {
    let mut errors = host::lines(daemon, "ERROR");
    errors.retain(|line| !line.contains("] inode ") && !line.contains("] handle "));
    errors
}

#[test]
fn damaged_streams() {
    for format in FORMATS {
        let host = share();
        let mut stopped = stop(&host, &["--state-format", format]);
        let mut destination = host.daemon(&["--keep-listening"]);
        let state = stopped.state.clone();
        let loaded = "state not loaded";
        // One bit, in the magic, the header, the frames, the end.
        for at in [
            0,
            1,
            9,
            20,
            40,
            state.len() / 2,
            state.len() - 20,
            state.len() - 1,
        ] {
            let mut damaged = state.clone();
            damaged[at] ^= 1 << (at % 8);
            stopped.refused(&mut destination, &damaged, loaded);
        }
        for len in [1, 7, 30, state.len() / 3, state.len() - 1] {
            stopped.refused(&mut destination, &state[..len], "truncated");
        }
        let mut longer = state.clone();
        longer.push(0);
        stopped.refused(&mut destination, &longer, "must end");
        stopped.refused(
            &mut destination,
            &[state.clone(), state.clone()].concat(),
            "must end",
        );
        stopped.refused(&mut destination, &[], "empty (0 bytes)");
        stopped.refused(&mut destination, &[0; 4096], "refused the state stream");
        stopped.refused(
            &mut destination,
            &vec![0xff; 1 << 20],
            "not a ferryfs state stream",
        );
        stopped.moves_to(&mut destination);
    }
}

#[test]
fn a_flipped_bit_is_named_with_its_place() {
    let host = share();
    let mut stopped = stop(&host, &[]);
    let mut destination = host.daemon(&["--keep-listening"]);
    let mut damaged = stopped.state.clone();
    let name = damaged
        .windows(4)
        .position(|w| w == b"file")
        .expect("the file's name");
    damaged[name] ^= 1;
    stopped.refused(&mut destination, &damaged, "checksum");
    let line = outcomes(&destination).pop().expect("a line");
    assert!(line.contains("inodes") && line.contains("byte"), "{line}");
    stopped.goes_on_at_the_source();
}

#[test]
fn a_format_that_is_not_built_in() {
    // The stream names its format; a future one is refused by that name.
    let host = share();
    let mut stopped = stop(&host, &["--state-format", "msgpack"]);
    let mut destination = host.daemon(&["--keep-listening"]);
    let mut other = stopped.state.clone();
    let at = other
        .windows(7)
        .position(|w| w == b"msgpack")
        .expect("the format's name");
    other[at..at + 7].copy_from_slice(b"futurex");
    // The header's checksum would speak first.
    let end = header_end(&other);
    let sum = crc32c(&other[..end - 4]);
    other[end - 4..end].copy_from_slice(&sum.to_le_bytes());
    stopped.refused(&mut destination, &other, "\"futurex\" is not built in");
    let line = outcomes(&destination).pop().expect("a line");
    assert!(
        line.contains("postcard") && line.contains("msgpack"),
        "{line}"
    );
    stopped.moves_to(&mut destination);
}

/// Where the header ends: at the first place behind the format's name where its
/// checksum fits.
fn header_end(stream: &[u8]) -> usize {
    let mut original = stream.to_vec();
    let at = original
        .windows(7)
        .position(|w| w == b"futurex")
        .expect("the format's name");
    original[at..at + 7].copy_from_slice(b"msgpack");
    (at + 11..stream.len())
        .find(|end| original[end - 4..*end] == crc32c(&original[..end - 4]).to_le_bytes())
        .expect("the header's checksum")
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & 0u32.wrapping_sub(crc & 1))
        })
    })
}

/// virtiofsd's stream has no checksum: what can be seen of damage is refused, and the
/// whole is taken.
#[test]
fn a_stream_of_the_stock_daemon() {
    let host = share();
    let mut stopped = stop(&host, &[]);
    let mut destination = host.daemon(&["--keep-listening"]);
    let refused = "refused the state stream";
    // The smallest there is, as virtiofsd 1.14 writes it without a guest, and a byte
    // too few and too many; then a version that it does not have.
    let smallest = [1, 0, 2, 0, 0, 0, 0, 0, 0, 0];
    stopped.refused(&mut destination, &smallest[..9], refused);
    stopped.refused(&mut destination, &[&smallest[..], &[0]].concat(), refused);
    stopped.refused(&mut destination, &[2, 0, 2, 0, 0, 0, 0, 0, 0, 0], refused);
    stopped.goes_on_at_the_source();

    let Some(program) = programs::virtiofsd() else {
        return;
    };
    let socket = host.socket();
    let mut args = vec!["--sandbox=none".to_owned(), "--seccomp=none".to_owned()];
    args.push(format!("--socket-path={}", socket.display()));
    args.push(format!("--shared-dir={}", host.share().display()));
    let source = Daemon::start(program, args, &socket).expect("virtiofsd starts");
    let mut vm = Vm::boot(source.socket()).expect("boot");
    let mut guest = Guest::of(&vm);
    let file = guest.open_path("dir/file", libc::O_RDWR);
    vm.start_precopy().expect("precopy");
    vm.stop().expect("stop");
    let state = vm.save_state().expect("save");
    assert_eq!(state[0], 1);
    let mut stopped = Stopped {
        source,
        vm,
        guest,
        file,
        state,
    };
    let state = stopped.state.clone();
    for len in [1, 2, state.len() / 2, state.len() - 1] {
        stopped.refused(&mut destination, &state[..len], refused);
    }
    stopped.refused(
        &mut destination,
        &[&state[..], &state[..]].concat(),
        refused,
    );
    stopped.moves_to(&mut destination);
    assert_eq!(fs::read(host.at("dir/file")).expect("read"), b"Contents");
}

#[test]
fn the_wrong_directory() {
    for format in FORMATS {
        let (host, other) = (share(), Host::new());
        fs::write(other.at("dir"), "a file where a directory should be").expect("write");
        let mut stopped = stop(&host, &["--state-format", format]);
        let mut wrong = other.daemon(&["--keep-listening"]);
        let state = stopped.state.clone();
        stopped.refused(&mut wrong, &state, "--shared-dir");
        // Now it is the right one.
        fs::remove_file(other.at("dir")).expect("rm");
        fs::create_dir(other.at("dir")).expect("mkdir");
        stopped.refused(&mut wrong, &state, "\"file\"");
        fs::write(other.at("dir/file"), "contents").expect("write");
        stopped.goes_on_at_the_source();
        stopped.vm.stop().expect("stop");
        stopped.state = stopped.vm.save_state().expect("save");
        stopped.moves_to(&mut wrong);
        assert_eq!(fs::read(other.at("dir/file")).expect("read"), b"Contents");
    }
}

#[test]
fn what_is_missing_gives_errors_where_the_operator_allows_it() {
    let (host, other) = (share(), Host::new());
    fs::create_dir(other.at("dir")).expect("mkdir");
    let mut stopped = stop(&host, &[]);
    let destination = other.daemon(&["--migration-on-error", "guest-error"]);
    let state = stopped.state.clone();
    let moved = stopped.vm.resume_on(destination.socket(), Some(&state));
    moved.expect("resume on");
    let (node, fh) = stopped.file;
    let guest = &stopped.guest;
    for errno in [
        errno(guest.getattr(node, None)),
        errno(guest.read(node, fh, 0, 10)),
        errno(guest.write(node, fh, 0, b"x")),
        errno(guest.open(node, libc::O_RDONLY as u32)),
    ] {
        assert!(
            [libc::ENOENT, libc::ESTALE, libc::EIO].contains(&errno),
            "{errno}"
        );
    }
    // All else works, and what is lost can be given back.
    guest.mkdir(ROOT_ID, "new", 0o755).expect("MKDIR");
    guest.release(node, fh).expect("RELEASE");
    guest.forget(node, 1).expect("FORGET");
    assert!(other.at("new").is_dir() && !other.at("dir/file").exists());
}

#[test]
fn a_session_that_this_daemon_cannot_go_on_with() {
    let host = share();
    let mut stopped = stop(&host, &["--writeback"]);
    let flags = stopped.guest.session().flags();
    assert_ne!(flags & init::WRITEBACK_CACHE, 0);
    let mut without = host.daemon(&["--keep-listening"]);
    let state = stopped.state.clone();
    stopped.refused(&mut without, &state, "--writeback");
    stopped.goes_on_at_the_source();
    stopped.vm.stop().expect("stop");
    stopped.state = stopped.vm.save_state().expect("save");
    stopped.moves_to(&mut host.daemon(&["--writeback"]));

    // A guest without the cache may go to a daemon that would have allowed it.
    let config = VmConfig {
        init: Some(InitRequest {
            flags: InitRequest::default().flags & !init::WRITEBACK_CACHE,
            ..InitRequest::default()
        }),
        ..VmConfig::default()
    };
    let source = host.daemon(&[]);
    let mut vm = Vm::boot_with(source.socket(), config).expect("boot");
    let to = host.daemon(&["--writeback"]);
    vm.migrate_to(to.socket()).expect("migrate");
}

/// A second state on the same connection, after one was refused.
#[test]
fn the_same_connection_takes_another_state() {
    let host = share();
    let stopped = stop(&host, &[]);
    let destination = host.daemon(&[]);
    let mut frontend = Frontend::connect(destination.socket()).expect("connect");
    frontend
        .negotiate(VmConfig::default().protocol_features)
        .expect("negotiate");
    let mut damaged = stopped.state.clone();
    *damaged.last_mut().expect("bytes") ^= 1;
    for _ in 0..3 {
        let refused = frontend.load_state(&mut damaged.as_slice());
        assert!(
            matches!(refused, Err(StateError::Failed { value: 1.., .. })),
            "{refused:?}"
        );
        // Asked once more, there is nothing to tell but that.
        assert_ne!(
            frontend.check_device_state().expect("CHECK_DEVICE_STATE"),
            0
        );
    }
    frontend
        .load_state(&mut stopped.state.as_slice())
        .expect("load");
    eventually("all refusals are logged", || {
        outcomes(&destination).len() >= 6
    });
    assert_eq!(outcomes(&destination).len(), 6, "{}", destination.stderr());
}

/// In find-paths mode an open file without a name goes along with its contents, up to a
/// limit: more is known before anything of the state is written.
#[test]
fn an_unlinked_open_file_keeps_the_machine_at_the_source() {
    let host = share();
    let mut source = host.daemon(&["--migration-mode", "find-paths", "--ghost-limit", "5"]);
    let destination = host.daemon(&["--keep-listening"]);
    let mut vm = Vm::boot(source.socket()).expect("boot");
    let mut guest = Guest::of(&vm);
    let (node, fh) = guest.open_path("dir/file", libc::O_RDWR);
    let dir = guest.walk("dir").nodeid;
    guest.unlink(dir, "file").expect("UNLINK");
    for round in 1..=3 {
        // Once without precopy, as a snapshot is taken.
        let precopy = round > 1;
        if precopy {
            let told = host::lines(&source, "WARN").len();
            vm.start_precopy().expect("precopy");
            eventually("the source says in time that it will refuse", || {
                host::lines(&source, "WARN").len() > told
            });
        }
        vm.stop().expect("stop");
        let error = vm.save_state().expect_err("it is too much");
        let VmError::State { source: why, .. } = &error else {
            panic!("{}", text(&error))
        };
        match precopy {
            true => assert!(
                matches!(why, StateError::Refused { .. }),
                "{}",
                text(&error)
            ),
            false => assert!(matches!(why, StateError::Failed { .. }), "{}", text(&error)),
        }
        eventually("the refusal is logged", || outcomes(&source).len() >= round);
        let said = outcomes(&source);
        assert_eq!(said.len(), round, "{}", said.join("\n"));
        let line = said.last().expect("a line");
        for words in [
            "1 unlinked file(s) open with 8 bytes of contents, more than --ghost-limit 5 lets",
            "(\"dir/file\" before it was unlinked) with 8 bytes",
            "raise --ghost-limit here and at the destination",
        ] {
            assert!(line.contains(words), "{words}: {line}");
        }
        if precopy {
            vm.cancel_precopy().expect("cancel");
        }
        vm.resume().expect("resume");
        guest.write(node, fh, 0, b"Contents").expect("WRITE");
        assert_eq!(guest.read(node, fh, 0, 100).expect("READ"), b"Contents");
    }
    // Closed, it is no obstacle.
    guest.release(node, fh).expect("RELEASE");
    vm.migrate_to(destination.socket()).expect("migrate");
    guest.mkdir(dir, "made", 0o755).expect("MKDIR");
    assert!(host.at("dir/made").is_dir());
    source
        .wait(Duration::from_secs(10))
        .expect("the source ends");
}

/// The destination has a limit of its own, and knows it before it agrees.
#[test]
fn a_destination_refuses_more_contents_than_it_is_to_take() {
    let host = share();
    let source = host.daemon(&[]);
    let mut vm = Vm::boot(source.socket()).expect("boot");
    let mut guest = Guest::of(&vm);
    let (node, fh) = guest.open_path("dir/file", libc::O_RDWR);
    let dir = guest.walk("dir").nodeid;
    guest.unlink(dir, "file").expect("UNLINK");
    vm.start_precopy().expect("precopy");
    vm.stop().expect("stop");
    let state = vm.save_state().expect("save");
    let mut stopped = Stopped {
        source,
        vm,
        guest,
        file: (node, fh),
        state: state.clone(),
    };
    let mut small = host.daemon(&["--keep-listening", "--ghost-limit", "5"]);
    stopped.refused(
        &mut small,
        &state,
        "more than 5 bytes of contents of unlinked files; a higher",
    );
    let left = fs::read_dir(host.share()).expect("the share").count();
    assert_eq!(left, 1, "nothing of it has been made");
    stopped.vm.cancel_precopy().expect("cancel");
    stopped.vm.resume().expect("resume");
    let destination = host.daemon(&[]);
    stopped
        .vm
        .migrate_to(destination.socket())
        .expect("migrate");
    let read = stopped.guest.read(node, fh, 0, 100).expect("READ");
    assert_eq!(read, b"contents");
}
