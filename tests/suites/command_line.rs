//! The command line as libvirt, service managers and packagers use it.

use std::fs;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use ferryfs_frontend::fuse::ROOT_ID;
use ferryfs_frontend::spawn::Daemon;
use ferryfs_frontend::Vm;
use ferryfs_tests::{eventually, programs, Host};

const PATIENCE: Duration = Duration::from_secs(10);

/// A process that does not outlive its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the daemon ends", || {
            status = self.0.try_wait().expect("wait");
            status.is_some()
        });
        status.expect("it ended")
    }

    fn stderr(&mut self) -> String {
        let mut text = String::new();
        let mut pipe = self.0.stderr.take().expect("standard error");
        pipe.read_to_string(&mut text).expect("standard error");
        text
    }
}

/// Hands `listener` over as descriptor `fd`.
fn hand_over(command: &mut Command, listener: &UnixListener, fd: i32) {
    let ours = listener.as_raw_fd();
    // SAFETY: dup2 and fcntl are async-signal-safe; the listener outlives the spawn.
    unsafe {
        command.pre_exec(move || {
            if ours == fd {
                libc::fcntl(fd, libc::F_SETFD, 0);
                return Ok(());
            }
            match libc::dup2(ours, fd) {
                n if n == fd => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
}

fn start(mut command: Command) -> Process {
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    Process(command.spawn().expect("it starts"))
}

/// A guest works through the socket at `path`, and the daemon ends with it.
#[track_caller]
fn serves_and_ends(process: &mut Process, host: &Host, path: &Path) -> String {
    let vm = Vm::boot(path).expect("boot");
    vm.client().mkdir(ROOT_ID, "made", 0o755).expect("MKDIR");
    assert!(host.at("made").is_dir());
    fs::remove_dir(host.at("made")).expect("rmdir");
    drop(vm);
    let status = process.wait();
    let log = process.stderr();
    assert_eq!(status.code(), Some(0), "{log}");
    log
}

/// What libvirt passes, word for word: as root, to a daemon that takes single options
/// and to one that does not, with what a domain can have in it.
#[test]
fn libvirt_s_command_lines_start_it() {
    if !programs::is_root("--sandbox chroot") || !programs::can_be_confined() {
        return;
    }
    let lines: [&[&str]; 6] = [
        &["--fd=27", "--shared-dir", "{share}"],
        &[
            "--fd=27",
            "--shared-dir",
            "{share}",
            "--cache",
            "never",
            "--sandbox",
            "namespace",
            "--xattr",
            "--thread-pool-size=16",
            "--rlimit-nofile=4096",
            "--log-level",
            "debug",
        ],
        &[
            "--fd=27",
            "--shared-dir",
            "{share}",
            "--cache",
            "always",
            "--sandbox",
            "chroot",
            "--thread-pool-size=0",
        ],
        &["--fd=27", "-o", "source={share}"],
        &[
            "--fd=27",
            "-o",
            "source={share},cache=always,sandbox=namespace,xattr,no_flock,no_posix_lock",
            "--thread-pool-size=16",
            "--rlimit-nofile=4096",
            "-d",
        ],
        &[
            "--fd=27",
            "-o",
            "source={share},cache=none,sandbox=chroot,no_xattr",
            "-f",
        ],
    ];
    for line in lines {
        let host = Host::new();
        let path = host.socket();
        let listener = UnixListener::bind(&path).expect("bind");
        let share = host.share().display().to_string();
        let mut command = Command::new(programs::ferryfsd());
        command.args(line.iter().map(|word| word.replace("{share}", &share)));
        hand_over(&mut command, &listener, 27);
        let mut daemon = start(command);
        serves_and_ends(&mut daemon, &host, &path);
        // What libvirt has made it removes; and there is no pid file beside it.
        let left: Vec<_> = fs::read_dir(path.parent().expect("directory"))
            .expect("directory")
            .map(|entry| entry.expect("entry").file_name())
            .collect();
        assert_eq!(left, [path.file_name().expect("name")], "{line:?}");
    }
}

/// And in session mode: a user, with ids of /etc/subuid that libvirt has filled in.
#[test]
fn libvirt_s_command_line_for_users_starts_it() {
    if !programs::is_root("becoming another user") || !programs::users_have_namespaces() {
        return;
    }
    const NOBODY: u32 = 65534;
    let host = Host::new();
    let program = host.base().join("outside/ferryfsd");
    fs::copy(programs::ferryfsd(), &program).expect("copy");
    for dir in ["", "share", "sockets", "outside"] {
        let dir = host.base().join(dir);
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("chmod");
    }
    let path = host.socket();
    let listener = UnixListener::bind(&path).expect("bind");
    let mut command = Command::new(&program);
    command.args(["--fd=27", "--shared-dir"]).arg(host.share());
    command.args(["--uid-map=:0:65534:1:", "--gid-map=:0:65534:1:"]);
    command.uid(NOBODY).gid(NOBODY);
    hand_over(&mut command, &listener, 27);
    let mut daemon = start(command);
    serves_and_ends(&mut daemon, &host, &path);
}

/// As virQEMUVhostUser does it: any JSON object with a type that it knows, and an
/// array of strings, of which those it does not know are passed over.
#[test]
fn libvirt_understands_what_it_can_do() {
    let output = Command::new(programs::ferryfsd())
        .arg("--print-capabilities")
        .output()
        .expect("it runs");
    assert!(output.status.success() && output.stderr.is_empty());
    let parsed: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(parsed["type"], "fs");
    let features = parsed["features"].as_array().expect("an array");
    let features: Vec<_> = features.iter().map(|f| f.as_str().expect("text")).collect();
    for gate in ["migrate-precopy", "separate-options"] {
        assert!(features.contains(&gate), "{features:?}");
    }
    if let Some(virtiofsd) = programs::virtiofsd() {
        let output = Command::new(virtiofsd).arg("--print-capabilities").output();
        let theirs: serde_json::Value =
            serde_json::from_slice(&output.expect("it runs").stdout).expect("JSON");
        assert_eq!(theirs["type"], parsed["type"]);
        for feature in theirs["features"].as_array().expect("an array") {
            assert!(
                features.contains(&feature.as_str().expect("text")),
                "{feature}"
            );
        }
    }
}

#[test]
fn a_service_manager_s_socket_is_taken() {
    let host = Host::new();
    let path = host.socket();
    let listener = UnixListener::bind(&path).expect("bind");
    // The shell's process becomes the daemon's: its id is known in time.
    let shell = |fds: &str| {
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(format!("LISTEN_PID=$$ LISTEN_FDS={fds} exec \"$@\""));
        command.arg("sh").arg(programs::ferryfsd());
        command
            .args(["--sandbox=none", "--shared-dir"])
            .arg(host.share());
        hand_over(&mut command, &listener, 3);
        command
    };
    let mut daemon = start(shell("1"));
    serves_and_ends(&mut daemon, &host, &path);
    assert!(path.exists(), "whoever made it removes it");

    let mut two = start(shell("2"));
    assert_eq!(two.wait().code(), Some(2));
    let log = two.stderr();
    assert!(
        log.contains("LISTEN_FDS") && log.contains("2 sockets"),
        "{log}"
    );

    // Another process' variables are not for this one.
    let mut command = Command::new(programs::ferryfsd());
    command.env("LISTEN_PID", "1").env("LISTEN_FDS", "1");
    command.arg("--shared-dir").arg(host.share());
    let mut daemon = start(command);
    assert_eq!(daemon.wait().code(), Some(2));
    assert!(daemon.stderr().contains("--socket-path"));
}

#[test]
fn the_pid_file_says_whom_to_signal_and_goes() {
    for sandbox in programs::sandboxes() {
        let host = Host::new();
        let socket = host.socket();
        let pid_file = socket.with_extension("sock.pid");
        // Of one that was killed; longer than any process id.
        fs::write(&pid_file, "4000000000\n").expect("write");
        fs::set_permissions(&pid_file, fs::Permissions::from_mode(0o600)).expect("chmod");
        // What the pid file's path and name would be from inside.
        let inside = host.at(pid_file.strip_prefix("/").expect("absolute"));
        fs::create_dir_all(inside.parent().expect("parent")).expect("mkdir");
        let same_name = host.at(pid_file.file_name().expect("name"));
        for file in [&inside, &same_name] {
            fs::write(file, "precious").expect("write");
        }
        let options = ["--keep-listening", "--sandbox", sandbox];
        let command = host.command(&socket, &options);
        let mut daemon = Daemon::start_command(command, &socket).expect("it starts");
        let pid = fs::read_to_string(&pid_file).expect("pid file");
        assert_eq!(pid, format!("{}\n", daemon.pid()));
        let mode = fs::metadata(&pid_file)
            .expect("pid file")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        // flock(1) finds it locked as long as the daemon runs.
        let locked = || {
            let mut flock = Command::new("flock");
            flock.arg("--nonblock").arg(&pid_file).arg("true");
            !flock.status().expect("flock").success()
        };
        assert!(locked());
        let second = host.command(&socket, &options).output().expect("it runs");
        let log = String::from_utf8_lossy(&second.stderr);
        assert_eq!(second.status.code(), Some(1), "{log}");
        assert!(
            log.contains(&format!("(process {})", daemon.pid())),
            "{log}"
        );
        assert!(locked() && socket.exists());
        drop(Vm::boot(&socket).expect("boot"));

        daemon.terminate().expect("SIGTERM");
        let status = daemon.wait(PATIENCE).expect("it ends");
        assert_eq!(status.code(), Some(0), "{}", daemon.stderr());
        assert!(!socket.exists() && !pid_file.exists(), "{sandbox}");
        for file in [&inside, &same_name] {
            assert_eq!(fs::read(file).expect("gone"), b"precious", "{sandbox}");
        }
        // A file that is none stops it.
        fs::write(&pid_file, "precious").expect("write");
        let output = host.command(&socket, &options).output().expect("it runs");
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(fs::read(&pid_file).expect("gone"), b"precious");
        assert!(!socket.exists());
    }
}

#[test]
fn what_libvirt_has_no_word_for_is_in_a_file_or_the_environment() {
    let host = Host::new();
    let share = host.share().display().to_string();
    let file = host.base().join("sockets/ferryfsd.toml");
    fs::write(
        &file,
        format!("xattr = true\n[share.\"{share}\"]\ntag = \"from-file\"\nreadonly = true\n"),
    )
    .expect("write");
    let socket = host.socket();
    let mut command = host.command(&socket, &["--sandbox=none", "--keep-listening"]);
    command.env("FERRYFSD_CONFIG", &file);
    command.env("FERRYFSD_REQUEST_QUEUES", "3");
    let daemon = Daemon::start_command(command, &socket).expect("it starts");
    let mut vm = Vm::boot(&socket).expect("boot");
    let config = vm.frontend().get_config().expect("GET_CONFIG");
    assert_eq!(
        (config.tag.as_slice(), config.request_queues),
        (&b"from-file"[..], 3)
    );
    let refused = vm
        .client()
        .mkdir(ROOT_ID, "made", 0o755)
        .expect_err("read-only");
    assert_eq!(refused.errno(), Some(libc::EROFS));
    let log = daemon.stderr();
    assert!(
        log.contains("--readonly (") && log.contains("line 4)"),
        "{log}"
    );
    drop(vm);
    drop(daemon);

    // The command line counts over both.
    let socket = host.socket();
    let mut command = host.command(
        &socket,
        &[
            "--sandbox=none",
            "--readonly=false",
            "--tag",
            "mine",
            "--config",
        ],
    );
    command.arg(&file).env("FERRYFSD_TAG", "from-environment");
    let _daemon = Daemon::start_command(command, &socket).expect("it starts");
    let mut vm = Vm::boot(&socket).expect("boot");
    assert_eq!(vm.frontend().get_config().expect("GET_CONFIG").tag, b"mine");
    vm.client().mkdir(ROOT_ID, "made", 0o755).expect("MKDIR");
}

#[test]
fn settings_that_make_no_sense_end_it_with_2_and_their_place() {
    let host = Host::new();
    let file = host.base().join("sockets/ferryfsd.toml");
    let run = |text: &str, variable: (&str, &str), options: &[&str]| {
        fs::write(&file, text).expect("write");
        let mut command = host.command(&host.socket(), options);
        command
            .arg("--config")
            .arg(&file)
            .env(variable.0, variable.1);
        let output = command.output().expect("it runs");
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{log}");
        log
    };
    let log = run("\nsandbax = \"none\"", ("UNUSED", ""), &[]);
    assert!(
        log.contains("ferryfsd.toml, line 2") && log.contains("\"sandbox\""),
        "{log}"
    );
    let log = run("", ("FERRYFSD_CACHE", "sometimes"), &[]);
    assert!(
        log.contains("FERRYFSD_CACHE") && log.contains("auto, always"),
        "{log}"
    );
    // What only does not go together says where the one comes from that is not here.
    let log = run(
        "posix-acl = true",
        ("UNUSED", ""),
        &["--translate-uid=map:0:1000:1"],
    );
    assert!(
        log.contains("--posix-acl is set by") && log.contains("line 1"),
        "{log}"
    );
}
