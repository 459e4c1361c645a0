//! Migration type `external`: the state goes by a file, and the front-end brings
//! none.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use ferryfs_frontend::spawn::Daemon;
use ferryfs_frontend::{Frontend, Vm, VmConfig};
use ferryfs_tests::{host, programs, Host, Writer, FORMATS};

const PATIENCE: Duration = Duration::from_secs(10);

fn ferryctl(args: &[&str], socket: &Path) -> Output {
    Command::new(programs::ferryctl())
        .args(args)
        .arg("--socket")
        .arg(socket)
        .output()
        .expect("ferryctl runs")
}

/// What a `ferryctl` that succeeded said.
#[track_caller]
fn told(output: Output) -> String {
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(output.status.success(), "{said}");
    said
}

/// The one line of a `ferryctl` that failed.
#[track_caller]
fn failed(output: Output) -> String {
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

fn boot(daemon: &Daemon) -> Writer {
    Writer::boot(daemon, VmConfig::default(), "dir/file", "one")
}

/// Lets the front-end vanish; the machine and its rings stay.
fn hang_up(writer: &mut Writer) {
    writer.vm.stop().expect("stop");
    let socket = writer.vm.frontend().connection().socket();
    socket.shutdown(std::net::Shutdown::Both).expect("hang up");
}

fn share() -> Host {
    let host = Host::new();
    fs::create_dir(host.at("dir")).expect("mkdir");
    fs::write(host.at("dir/file"), "").expect("write");
    host
}

fn state_path(host: &Host, name: &str) -> PathBuf {
    host.base().join("sockets").join(name)
}

/// Starts a daemon from a file.
fn from_file(host: &Host, file: &Path, options: &[&str]) -> Daemon {
    let file = file.to_str().expect("UTF-8");
    host.daemon(&[&["--state-file", file], options].concat())
}

fn sandboxes() -> &'static [&'static str] {
    match programs::is_root("--sandbox chroot and namespace") {
        true => &["none", "chroot", "namespace"],
        false => &["none"],
    }
}

#[test]
fn a_saved_guest_goes_on_on_a_daemon_that_starts_from_the_file() {
    let cases = FORMATS.iter().zip(sandboxes().iter().cycle());
    // No load at all, or one of nothing: front-ends of both kinds are there.
    for ((format, sandbox), load) in cases.zip([None, Some(&b""[..])].into_iter().cycle()) {
        let host = share();
        let options = [
            "--keep-state",
            "--state-format",
            format,
            "--sandbox",
            sandbox,
        ];
        let mut source = host.daemon(&options);
        let mut writer = boot(&source);
        hang_up(&mut writer);
        let file = state_path(&host, "saved");
        let output = ferryctl(
            &["save", "-o", file.to_str().expect("UTF-8")],
            source.socket(),
        );
        let said = told(output);
        assert!(said.starts_with("ferryctl: saved: "), "{said}");
        assert!(said.contains(" 3 inodes, 1 handles\n"), "{said}");
        // Whatever became of the daemon that had it.
        source.kill().expect("kill");

        let mut daemon = from_file(&host, &file, &["--sandbox", sandbox]);
        // Who comes and brings no guest takes nothing away, nor does the daemon end.
        drop(Frontend::connect(daemon.socket()).expect("connect"));
        let again = file.with_extension("again");
        let output = ferryctl(&["save"], daemon.socket());
        fs::write(&again, &output.stdout).expect("write");
        told(output);
        same(&file, &again);
        writer.go_on(&daemon, load);
        writer.write("two");
        assert_eq!(fs::read(host.at("dir/file")).expect("read"), b"onetwo");
        assert_eq!(host::lines(&daemon, "ERROR"), [""; 0]);
        drop(writer);
        // The guest has been there: now the daemon ends with its front-end.
        let status = daemon.wait(PATIENCE).expect("end");
        assert_eq!(status.code(), Some(0), "{}", daemon.stderr());
        assert!(!daemon.socket().exists());
    }
}

/// Sees that two states hold the same, whatever they are written in.
#[track_caller]
fn same(a: &Path, b: &Path) {
    let output = Command::new(programs::ferryctl())
        .args(["state", "diff"])
        .args([a, b])
        .output()
        .expect("ferryctl runs");
    let differs = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{differs}");
}

#[test]
fn a_file_that_cannot_be_loaded_ends_the_start() {
    let host = share();
    let source = host.daemon(&["--keep-state"]);
    hang_up(&mut boot(&source));
    let good = state_path(&host, "good");
    told(ferryctl(
        &["save", "-o", good.to_str().expect("UTF-8")],
        source.socket(),
    ));
    let state = fs::read(&good).expect("read");
    let other = Host::new();
    let put = |name: &str, bytes: &[u8]| {
        let path = state_path(&host, name);
        fs::write(&path, bytes).expect("write");
        path
    };
    let mut flipped = state.clone();
    flipped[state.len() / 2] ^= 1;
    let cases = [
        (state_path(&host, "absent"), &host, "No such file"),
        (host.base().to_owned(), &host, "directory"),
        (put("empty", b""), &host, "the stream is empty"),
        (put("cut", &state[..state.len() - 1]), &host, "truncated in"),
        (put("flipped", &flipped), &host, "checksum"),
        (
            put("noise", b"nothing of the kind"),
            &host,
            "not a ferryfs state stream",
        ),
        (good, &other, "--shared-dir"),
    ];
    for sandbox in sandboxes() {
        for (file, host, why) in &cases {
            let socket = host.socket();
            let file = file.to_str().expect("UTF-8");
            let options = ["--state-file", file, "--sandbox", sandbox];
            let output = host.command(&socket, &options).output().expect("it runs");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{sandbox}: {said}");
            let errors: Vec<_> = said.lines().filter(|l| l.contains(" ERROR ")).collect();
            let outcome = errors.iter().filter(|l| l.contains("--state-file"));
            let outcome: Vec<_> = outcome.collect();
            assert_eq!(outcome.len(), 1, "{sandbox}: {said}");
            assert!(
                outcome[0].contains(why) && outcome[0].contains(file),
                "{said}"
            );
            assert!(!socket.exists(), "{sandbox}: the socket of {file} is left");
        }
    }
}

#[test]
fn a_daemon_takes_its_guest_s_state_from_one_place() {
    let host = share();
    let source = host.daemon(&["--keep-state"]);
    let mut writer = boot(&source);
    writer.vm.stop().expect("stop");
    let state = writer.vm.save_state().expect("save");
    let file = state_path(&host, "saved");
    fs::write(&file, &state).expect("write");

    // Without a file, nothing is no state.
    let without = host.daemon(&["--keep-listening"]);
    writer.refused(&without, b"", "the stream is empty");
    // With one, another state is one too many; and the first is still there.
    let mut with = from_file(&host, &file, &[]);
    writer.refused(&with, &state, "the front-end sends another");
    writer.go_on(&with, None);
    writer.write("two");
    host::assert_well(&mut with);
    assert_eq!(fs::read(host.at("dir/file")).expect("read"), b"onetwo");
}

#[test]
fn a_guest_comes_back_to_the_daemon_that_kept_its_state() {
    let host = share();
    let mut daemon = host.daemon(&["--keep-state"]);
    let mut writer = boot(&daemon);
    for (load, word) in [(None, "two"), (Some(&b""[..]), "three"), (None, "four")] {
        hang_up(&mut writer);
        writer.go_on(&daemon, load);
        writer.write(word);
    }
    assert_eq!(
        fs::read(host.at("dir/file")).expect("read"),
        b"onetwothreefour"
    );
    // Another guest begins anew.
    let (node, fh) = writer.file;
    hang_up(&mut writer);
    let fresh = Vm::boot(daemon.socket()).expect("boot");
    assert_eq!(
        ferryfs_tests::errno(fresh.client().read(node, fh, 0, 1)),
        libc::EBADF
    );
    host::assert_well(&mut daemon);
    assert_eq!(host::lines(&daemon, "ERROR"), [""; 0]);
}

#[test]
fn a_state_is_loaded_into_a_daemon_that_keeps_it() {
    let host = share();
    let source = host.daemon(&["--keep-state"]);
    let mut writer = boot(&source);
    hang_up(&mut writer);
    let file = state_path(&host, "saved");
    let name = file.to_str().expect("UTF-8");
    told(ferryctl(&["save", "-o", name], source.socket()));

    let daemon = host.daemon(&["--keep-state"]);
    let said = told(ferryctl(&["load", name], daemon.socket()));
    assert!(said.starts_with("ferryctl: loaded: "), "{said}");
    writer.go_on(&daemon, None);
    writer.write("two");
    assert_eq!(fs::read(host.at("dir/file")).expect("read"), b"onetwo");

    // Daemons that let go of a state with the front-end that brought it.
    let forgets = host.daemon(&["--keep-listening"]);
    let said = failed(ferryctl(&["load", name], forgets.socket()));
    assert!(
        said.contains("forgot it") && said.contains("--keep-state"),
        "{said}"
    );
    let ends = host.daemon(&[]);
    let said = failed(ferryctl(&["load", name], ends.socket()));
    assert!(
        said.contains("ended") && said.contains("--keep-state"),
        "{said}"
    );
    // And what no daemon would take.
    let bad = state_path(&host, "bad");
    fs::write(&bad, b"").expect("write");
    let said = failed(ferryctl(
        &["load", bad.to_str().expect("UTF-8")],
        daemon.socket(),
    ));
    assert!(said.contains("bad") && said.contains("0 bytes"), "{said}");
}

#[test]
fn a_daemon_that_serves_a_machine_has_no_time() {
    let host = share();
    let daemon = host.daemon(&["--keep-state"]);
    let mut writer = boot(&daemon);
    let said = failed(ferryctl(&["save", "--wait", "1"], daemon.socket()));
    assert!(said.contains("one front-end at a time"), "{said}");
    writer.write("two");
    // It was not served later, in nobody's interest.
    hang_up(&mut writer);
    writer.go_on(&daemon, None);
    writer.write("three");
    let absent = failed(ferryctl(&["save"], &state_path(&host, "absent")));
    assert!(absent.contains("cannot connect"), "{absent}");
}

#[test]
fn a_daemon_without_a_guest_says_so() {
    let host = share();
    let daemon = host.daemon(&["--keep-listening"]);
    let output = ferryctl(&["save"], daemon.socket());
    assert!(!output.stdout.is_empty());
    assert!(told(output).contains("no guest"));
}
