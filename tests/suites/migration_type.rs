//! `--migration-type`: what crosses through the VMM, what by other means, and what
//! not at all. `external.rs` has files without the option.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ferryfs_frontend::frontend::{feature, protocol};
use ferryfs_frontend::rfc_state::StateChannel;
use ferryfs_frontend::spawn::Daemon;
use ferryfs_frontend::state::StateError;
use ferryfs_frontend::vmm::VmError;
use ferryfs_frontend::{Frontend, VmConfig};
use ferryfs_tests::{eventually, host, programs, text, Host, Writer};

const CHANNELS: [StateChannel; 2] = [StateChannel::DeviceState, StateChannel::Rfc];

/// A daemon and the path of its control socket.
struct Controlled {
    daemon: Daemon,
    control: PathBuf,
}

fn start(host: &Host, options: &[&str]) -> Controlled {
    let control = host.socket().with_extension("control");
    let path = control.to_str().expect("UTF-8");
    let all = ["--rfc-state-protocol", "--control-socket", path];
    let daemon = host.daemon(&[&all, options].concat());
    // Who has seen the one socket need not wait for the other.
    assert!(control.exists());
    Controlled { daemon, control }
}

fn external(host: &Host, options: &[&str]) -> Controlled {
    start(host, &[&["--migration-type", "external"], options].concat())
}

fn share() -> Host {
    let host = Host::new();
    fs::write(host.at("file"), "").expect("write");
    host
}

fn boot(daemon: &Daemon, channel: StateChannel) -> Writer {
    let config = VmConfig {
        state_channel: channel,
        ..VmConfig::default()
    };
    Writer::boot(daemon, config, "file", "one ")
}

fn ferryctl(args: &[&str], socket: &Path) -> Output {
    Command::new(programs::ferryctl())
        .args(args)
        .arg("--socket")
        .arg(socket)
        .output()
        .expect("ferryctl runs")
}

/// `ferryctl save ... | ferryctl load ... -`
#[track_caller]
fn carry(from: &Controlled, to: &Controlled) {
    let mut save = Command::new(programs::ferryctl())
        .args(["save", "--socket"])
        .arg(&from.control)
        .stdout(Stdio::piped())
        .spawn()
        .expect("ferryctl runs");
    let load = Command::new(programs::ferryctl())
        .args(["load", "--socket"])
        .arg(&to.control)
        .arg("-")
        .stdin(save.stdout.take().expect("a pipe"))
        .output()
        .expect("ferryctl runs");
    assert!(save.wait().expect("wait").success());
    let said = String::from_utf8_lossy(&load.stderr);
    assert!(load.status.success(), "{said}\n{}", to.daemon.stderr());
}

#[test]
fn with_none_a_vmm_knows_before_it_begins() {
    let host = share();
    let daemon = host.daemon(&[
        "--keep-listening",
        "--rfc-state-protocol",
        "--migration-type",
        "none",
    ]);
    let mut frontend = Frontend::connect(daemon.socket()).expect("connect");
    let features = frontend.get_features().expect("GET_FEATURES");
    assert_eq!(features & feature::LOG_ALL, 0);
    frontend.negotiate(u64::MAX).expect("negotiate");
    assert_eq!(frontend.protocol_acked() & protocol::DEVICE_STATE, 0);
    drop(frontend);
    for channel in CHANNELS {
        let mut writer = boot(&daemon, channel);
        writer.vm.stop().expect("stop");
        let error = writer.vm.save_state().expect_err("nothing crosses");
        assert!(matches!(error, VmError::State { .. }), "{}", text(&error));
        if channel == StateChannel::DeviceState {
            writer.vm.resume().expect("resume");
            writer.write("two");
            writer.check(&host);
        }
        fs::write(host.at("file"), "").expect("write");
    }
    eventually("who asks anyway is told", || {
        daemon.stderr().contains("--migration-type none")
    });
}

#[test]
fn with_external_the_state_goes_from_daemon_to_daemon() {
    for channel in CHANNELS {
        // Where the destination's VMM is connected already, as QEMU is, and where not.
        for connected in [true, false] {
            let host = share();
            let (source, there) = (external(&host, &[]), external(&host, &[]));
            let mut writer = boot(&source.daemon, channel);
            let waiting = connected.then(|| {
                let mut waiting = Frontend::connect(there.daemon.socket()).expect("connect");
                waiting.get_features().expect("GET_FEATURES");
                waiting
            });
            writer.vm.start_precopy().expect("precopy");
            writer.write("two ");
            writer.vm.stop().expect("stop");
            // The VMM carries nothing, before or after the state was fetched.
            assert_eq!(writer.vm.save_state().expect("save"), b"");
            carry(&source, &there);
            assert_eq!(writer.vm.save_state().expect("save"), b"");
            let gone = match waiting {
                Some(waiting) => writer.vm.resume_over(waiting, Some(b"")),
                None => writer.vm.resume_on(there.daemon.socket(), Some(b"")),
            };
            drop(gone.unwrap_or_else(|e| panic!("{}\n{}", text(&e), there.daemon.stderr())));
            writer.write("three");
            writer.check(&host);
            assert_eq!(host::lines(&there.daemon, "ERROR"), [""; 0]);
            host.assert_untouched_outside();
        }
    }
}

#[test]
fn with_external_the_state_goes_by_a_file() {
    for channel in CHANNELS {
        let host = share();
        let source = external(&host, &[]);
        let mut writer = boot(&source.daemon, channel);
        let file = host.base().join("sockets/state");
        let name = file.to_str().expect("UTF-8");
        let save = |socket: &Path| ferryctl(&["save", "--wait", "1", "-o", name], socket);
        // Not while the guest runs; not where the VMM is met.
        assert!(!save(&source.control).status.success());
        assert!(!save(source.daemon.socket()).status.success());
        writer.vm.stop().expect("stop");
        assert!(!file.exists());
        let saved = save(&source.control);
        let said = String::from_utf8_lossy(&saved.stderr);
        assert!(said.contains("2 inodes, 1 handles"), "{said}");

        let there = external(&host, &["--state-file", name]);
        let state = fs::read(&file).expect("read");
        writer.refused(&there.daemon, &state, "takes none through the front-end");
        writer.go_on(&there.daemon, Some(b""));
        writer.write("two");
        writer.check(&host);
    }
}

#[test]
fn what_the_source_says_decides_at_the_destination() {
    for channel in CHANNELS {
        let host = share();
        let source = external(&host, &[]);
        let mut writer = boot(&source.daemon, channel);
        writer.vm.stop().expect("stop");
        let nothing = writer.vm.save_state().expect("save");
        // 0 bytes where nothing was given by other means, whatever the type.
        for there in [
            external(&host, &["--keep-listening"]),
            start(&host, &["--keep-listening"]),
        ] {
            writer.refused(&there.daemon, &nothing, "the stream is empty");
        }
        // A state where the type says that none comes.
        let internal = start(&host, &[]);
        let mut other = boot(&internal.daemon, channel);
        other.vm.stop().expect("stop");
        let state = other.vm.save_state().expect("save");
        let there = external(&host, &["--keep-listening"]);
        other.refused(&there.daemon, &state, "--migration-type external");
        // A daemon of type internal that was given one by its control socket.
        let there = start(&host, &[]);
        carry(&source, &there);
        writer.go_on(&there.daemon, Some(&nothing));
        writer.write("two");
        assert!(fs::read_to_string(host.at("file"))
            .expect("read")
            .ends_with("two"));
    }
}

#[test]
fn a_crossing_that_failed_is_tried_again_with_the_newer_state() {
    let host = share();
    let (source, there) = (external(&host, &[]), external(&host, &[]));
    let mut writer = boot(&source.daemon, StateChannel::DeviceState);
    writer.vm.stop().expect("stop");
    carry(&source, &there);
    // The destination's VMM comes and goes without the guest, which goes on here.
    let mut frontend = Frontend::connect(there.daemon.socket()).expect("connect");
    let features = VmConfig::default().protocol_features;
    frontend.negotiate(features).expect("negotiate");
    frontend.load_state(&mut &b""[..]).expect("nothing to load");
    drop(frontend);
    writer.vm.resume().expect("resume");
    writer.write("two ");
    let made = writer.guest.mkdir(1, "made", 0o755).expect("MKDIR").nodeid;

    writer.vm.stop().expect("stop");
    carry(&source, &there);
    writer.go_on(&there.daemon, Some(b""));
    writer.write("three");
    writer.check(&host);
    // What is newer than the first attempt is there.
    writer.guest.getattr(made, None).expect("GETATTR");
    // Where the guest has been, its state is not replaced.
    writer.vm.stop().expect("stop");
    let file = host.base().join("sockets/state");
    let name = file.to_str().expect("UTF-8");
    assert!(ferryctl(&["save", "-o", name], &there.control)
        .status
        .success());
    let refused = ferryctl(&["load", name], &there.control);
    assert!(!refused.status.success());
    eventually("the reason", || {
        there.daemon.stderr().contains("has a state")
    });
}

#[test]
fn a_save_that_nobody_could_follow_is_refused() {
    let host = share();
    let daemon = host.daemon(&["--migration-type", "external"]);
    let mut writer = boot(&daemon, StateChannel::DeviceState);
    writer.vm.stop().expect("stop");
    let error = writer.vm.save_state().expect_err("the guest would be lost");
    let refused = matches!(
        &error,
        VmError::State {
            source: StateError::Refused { .. },
            ..
        }
    );
    assert!(refused, "{}", text(&error));
    eventually("the remedy is logged", || {
        daemon.stderr().contains("--control-socket")
    });
    writer.vm.resume().expect("resume");
    writer.write("two");
    writer.check(&host);
}

#[test]
fn the_control_socket_is_the_daemon_s_user_s_and_goes_with_it() {
    use std::os::unix::fs::PermissionsExt;
    for sandbox in programs::sandboxes() {
        let host = share();
        let mut kept = external(&host, &["--keep-listening", "--sandbox", sandbox]);
        let mode = fs::metadata(&kept.control).expect("socket").permissions();
        assert_eq!(mode.mode() & 0o077, 0, "{sandbox}");
        let mut writer = boot(&kept.daemon, StateChannel::DeviceState);
        writer.vm.stop().expect("stop");
        // Confined, and with system calls restricted.
        let saved = ferryctl(&["save"], &kept.control);
        assert!(
            saved.status.success() && !saved.stdout.is_empty(),
            "{sandbox}"
        );
        host::assert_well(&mut kept.daemon);
        kept.daemon.terminate().expect("signal");
        let ended = kept.daemon.wait(std::time::Duration::from_secs(10));
        assert!(ended.expect("end").success(), "{}", kept.daemon.stderr());
        assert!(!kept.control.exists(), "{sandbox}");
    }
}
