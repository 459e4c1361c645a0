//! The daemon as a process: how it starts, ends, and what it leaves behind.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{chown, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use ferryfs_frontend::call::{self, Payload};
use ferryfs_frontend::fuse::ROOT_ID;
use ferryfs_frontend::spawn::Daemon;
use ferryfs_frontend::Vm;
use ferryfs_tests::{errno, eventually, host, programs, Guest, Host};

const PATIENCE: Duration = Duration::from_secs(10);

#[track_caller]
fn ends_with_0(daemon: &mut Daemon) {
    let status = daemon.wait(PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(0), "{status}:\n{}", daemon.stderr());
    let log = daemon.stderr();
    assert!(!log.contains("panic"), "{log}");
    assert_eq!(host::lines(daemon, "ERROR"), [""; 0]);
}

/// A guest makes a directory; it is there.
#[track_caller]
fn serves(vm: &Vm, host: &Host, name: &str) {
    vm.client().mkdir(ROOT_ID, name, 0o755).expect("MKDIR");
    assert!(host.at(name).is_dir());
}

#[test]
fn it_ends_with_its_front_end() {
    for sandbox in programs::sandboxes() {
        let host = Host::new();
        let mut daemon = host.daemon(&["--sandbox", sandbox]);
        let vm = Vm::boot(daemon.socket()).expect("boot");
        serves(&vm, &host, "made");
        assert!(daemon.try_wait().expect("wait").is_none());
        drop(vm);
        ends_with_0(&mut daemon);
        assert!(!daemon.socket().exists(), "the socket is left behind");
    }
}

/// A table of descriptors that grows while threads run stops the one that needs it for
/// milliseconds, each time that it doubles.
#[test]
fn it_has_room_for_descriptors_before_a_guest_needs_them() {
    let host = Host::new();
    for sandbox in ["none", "namespace"] {
        let daemon = host.daemon(&["--sandbox", sandbox]);
        // Once it has been met, the process that serves is there.
        let _vm = Vm::boot(daemon.socket()).expect("boot");
        let figure = |file: &str, name: &str, word: usize| -> u64 {
            let path = format!("/proc/{}/{file}", daemon.serving_pid());
            let text = fs::read_to_string(&path).expect(&path);
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let words = line.map(|line| line.split_whitespace().nth(word));
            words.flatten().expect(name).parse().expect(name)
        };
        let limit = figure("limits", "Max open files", 0);
        let room = figure("status", "FDSize:", 0);
        assert!(room >= limit.min(16_384), "{sandbox}: {room} of {limit}");
    }
}

#[test]
fn it_keeps_listening_if_asked_to() {
    let host = Host::new();
    fs::write(host.at("file"), "contents").expect("write");
    let mut daemon = host.daemon(&["--keep-listening"]);
    let fds = |daemon: &Daemon| daemon.figures().expect("figures").fds;
    // Once it has been met, the process that serves is there.
    drop(Vm::boot(daemon.socket()).expect("boot"));
    let idle = fds(&daemon);
    let mut after_one = None;
    for round in 0..20 {
        let vm = Vm::boot(daemon.socket()).expect("boot");
        let mut guest = Guest::of(&vm);
        // Left open: it goes with the guest.
        let (node, fh) = guest.open_path("file", libc::O_RDONLY);
        assert_eq!(guest.read(node, fh, 0, 100).expect("READ"), b"contents");
        serves(&vm, &host, &format!("made {round}"));
        let more = fds(&daemon);
        drop(vm);
        eventually("descriptors are closed", || fds(&daemon) <= idle + 1);
        let first = *after_one.get_or_insert(more);
        assert!(
            more <= first + 1,
            "round {round}: {more} descriptors, {first} at first"
        );
        // The next guest knows nothing of this one's.
        let next = Vm::boot(daemon.socket()).expect("boot");
        assert_ne!(errno(next.client().read(node, fh, 0, 1)), 0);
    }
    let threads = daemon.figures().expect("figures").threads;
    assert!(threads < 10, "{threads} threads");
    host::assert_well(&mut daemon);
    daemon.terminate().expect("SIGTERM");
    ends_with_0(&mut daemon);
    assert!(!daemon.socket().exists());
}

#[test]
fn a_front_end_that_is_killed_is_one_that_hangs_up() {
    let host = Host::new();
    fs::write(host.at("file"), "contents").expect("write");
    let daemon = host.daemon(&["--keep-listening"]);
    for _ in 0..3 {
        let mut front_end = Kill(
            Command::new(env!("CARGO_BIN_EXE_busy-front-end"))
                .arg(daemon.socket())
                .spawn()
                .expect("a front-end"),
        );
        let busy = host.at("busy");
        eventually("the front-end is at work", || {
            fs::metadata(&busy).is_ok_and(|m| m.size() > 1 << 20)
        });
        front_end.0.kill().expect("SIGKILL");
        front_end.0.wait().expect("wait");
        let vm = Vm::boot(daemon.socket()).expect("boot");
        let mut guest = Guest::of(&vm);
        let (node, fh) = guest.open_path("file", libc::O_RDONLY);
        assert_eq!(guest.read(node, fh, 0, 100).expect("READ"), b"contents");
        guest.unlink(ROOT_ID, "busy").expect("UNLINK");
    }
    let mut daemon = daemon;
    host::assert_well(&mut daemon);
}

#[test]
fn sigterm_completes_what_is_under_way() {
    for sandbox in programs::sandboxes() {
        let host = Host::new();
        let mut daemon = host.daemon(&["--keep-listening", "--sandbox", sandbox]);
        let vm = Vm::boot(daemon.socket()).expect("boot");
        let fs = vm.client();
        let flags = (libc::O_CREAT | libc::O_RDWR) as u32;
        let (file, opened) = fs.create(ROOT_ID, "file", flags, 0o644).expect("CREATE");
        let size = 256 << 10;
        let mut writes = Vec::new();
        for at in 0..40u64 {
            let data = Payload::Bytes(vec![at as u8 + 1; size]);
            let write = call::write(file.nodeid, opened.fh, at * size as u64, data, 0, 0);
            writes.push(fs.submit(write).expect("submit"));
        }
        daemon.terminate().expect("SIGTERM");
        ends_with_0(&mut daemon);
        // What was answered is whole and on disk, what was not is not there in part.
        let disk = fs::read(host.at("file")).expect("read");
        let mut answered = 0;
        for (at, write) in writes.into_iter().enumerate() {
            let part = disk.get(at * size..(at + 1) * size).unwrap_or_default();
            if write.is_done().expect("ring") {
                assert_eq!(write.wait().expect("WRITE"), size as u32);
                assert!(part.len() == size && part.iter().all(|b| *b == at as u8 + 1));
                answered += 1;
            } else {
                assert!(
                    part.iter().all(|b| *b == 0),
                    "write {at} was done and not answered"
                );
            }
        }
        println!("{answered} of 40 writes were answered before the end");
        assert!(!daemon.socket().exists());
    }
}

/// A daemon that has changed its root must not take a file of the share for its
/// socket.
#[test]
fn a_file_of_the_socket_s_name_stays_in_the_share() {
    for sandbox in programs::sandboxes() {
        for by_signal in [false, true] {
            let host = Host::new();
            let socket = host.socket();
            // The same absolute path, as seen with the share as the root; and the
            // same name right in the share.
            let inside = host.at(socket.strip_prefix("/").expect("absolute"));
            fs::create_dir_all(inside.parent().expect("parent")).expect("mkdir");
            let name = socket.file_name().expect("name");
            for file in [&inside, &host.at(name)] {
                fs::write(file, "precious").expect("write");
            }
            let options = ["--sandbox", sandbox];
            // Once by a relative path.
            let mut command = match by_signal {
                true => host.command(&socket, &options),
                false => {
                    let mut command = host.command(name.as_ref(), &options);
                    command.current_dir(socket.parent().expect("parent"));
                    command
                }
            };
            command.stdout(Stdio::null());
            let mut daemon = Daemon::start_command(command, &socket).expect("it starts");
            let vm = Vm::boot(daemon.socket()).expect("boot");
            if by_signal {
                daemon.terminate().expect("SIGTERM");
            } else {
                drop(vm);
            }
            ends_with_0(&mut daemon);
            assert!(!socket.exists(), "the socket is left behind ({sandbox})");
            for file in [&inside, &host.at(name)] {
                assert_eq!(fs::read(file).expect("gone"), b"precious", "{sandbox}");
            }
        }
    }
}

#[test]
fn sockets_of_others_are_respected() {
    let host = Host::new();
    let socket = host.socket();
    fs::write(&socket, "no socket").expect("write");
    let output = host.command(&socket, &[]).output().expect("it runs");
    assert!(!output.status.success());
    assert_eq!(fs::read(&socket).expect("read"), b"no socket");
    // In use.
    let mut first = host.daemon(&["--keep-listening"]);
    let output = host.command(first.socket(), &[]).output().expect("it runs");
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains(&first.socket().display().to_string()),
        "{text}"
    );
    drop(Vm::boot(first.socket()).expect("boot"));
    host::assert_well(&mut first);
    // Left behind by one that was killed.
    first.kill().expect("SIGKILL");
    assert!(first.socket().exists());
    let command = host.command(first.socket(), &[]);
    let place = first.socket().to_owned();
    let before = fs::metadata(&place).expect("stat").ctime_nsec();
    let mut second = Daemon::start_command(command, &place).expect("it starts");
    eventually("the new socket is there", || {
        fs::metadata(&place).is_ok_and(|m| m.ctime_nsec() != before)
    });
    drop(Vm::boot(&place).expect("boot"));
    ends_with_0(&mut second);
}

/// A process that does not outlive its test.
struct Kill(std::process::Child);

impl Drop for Kill {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn it_takes_a_listening_socket_over() {
    for sandbox in programs::sandboxes() {
        let host = Host::new();
        let path = host.socket();
        let listener = UnixListener::bind(&path).expect("bind");
        let fd = listener.as_raw_fd();
        let mut command = Command::new(programs::ferryfsd());
        command.args(["--fd", "117", "--sandbox", sandbox, "--shared-dir"]);
        command.arg(host.share());
        // SAFETY: dup2 is async-signal-safe; `listener` outlives the spawn.
        unsafe {
            command.pre_exec(move || match libc::dup2(fd, 117) {
                117 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        // It listens already: there is nothing to wait for.
        command.stderr(Stdio::null());
        let mut daemon = Kill(command.spawn().expect("it starts"));
        let vm = Vm::boot(&path).expect("boot");
        serves(&vm, &host, "made");
        drop(vm);
        let mut status = None;
        eventually("it ends with its front-end", || {
            status = daemon.0.try_wait().expect("wait");
            status.is_some()
        });
        assert_eq!(status.and_then(|status| status.code()), Some(0));
        // Whoever made it removes it.
        assert!(path.exists());
    }
}

#[test]
fn it_says_what_it_can_do() {
    let output = Command::new(programs::ferryfsd())
        .arg("--print-capabilities")
        .output();
    let output = output.expect("it runs");
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let dense: String = text.split_whitespace().collect();
    assert!(dense.starts_with('{') && dense.ends_with('}'), "{text}");
    assert!(dense.contains("\"type\":\"fs\""), "{text}");
    assert!(dense.contains("\"features\":["), "{text}");
    assert!(dense.contains("\"migrate-precopy\""), "{text}");
    let balance =
        |open: char, close: char| dense.matches(open).count() == dense.matches(close).count();
    assert!(balance('{', '}') && balance('[', ']') && dense.matches('"').count() % 2 == 0);
    for option in ["--help", "--version"] {
        let output = Command::new(programs::ferryfsd()).arg(option).output();
        let output = output.expect("it runs");
        assert_eq!(output.status.code(), Some(0));
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(
            text.contains("ferryfsd") && output.stderr.is_empty(),
            "{text}"
        );
    }
}

#[test]
fn bad_options_end_with_2_and_say_why() {
    let host = Host::new();
    let share = host.share().display().to_string();
    let socket = host.socket().display().to_string();
    let cases: &[(&[&str], &str)] = &[
        (&[], "shared-dir"),
        (&["--socket-path", &socket], "shared-dir"),
        (&["--shared-dir", &share], "socket"),
        (
            &[
                "--shared-dir",
                &share,
                "--socket-path",
                &socket,
                "--fd",
                "3",
            ],
            "--fd",
        ),
        (&["--shared-dir", &share, "--fd", "1"], "1"),
        (
            &[
                "--shared-dir",
                &share,
                "--socket-path",
                &socket,
                "--state-format",
                "xml",
            ],
            "xml",
        ),
        (
            &[
                "--shared-dir",
                &share,
                "--socket-path",
                &socket,
                "--cache",
                "sometimes",
            ],
            "sometimes",
        ),
        (
            &[
                "--shared-dir",
                &share,
                "--socket-path",
                &socket,
                "--sandbox",
                "glass",
            ],
            "glass",
        ),
        (
            &[
                "--shared-dir",
                &share,
                "--socket-path",
                &socket,
                "--request-queues",
                "0",
            ],
            "request-queues",
        ),
        (
            &[
                "--shared-dir",
                &share,
                "--socket-path",
                &socket,
                "--migration-mode",
                "hope",
            ],
            "hope",
        ),
        (
            &[
                "--shared-dir",
                &share,
                "--socket-path",
                &socket,
                "--tag",
                "",
            ],
            "tag",
        ),
        (
            &[
                "--shared-dir",
                &share,
                "--socket-path",
                &socket,
                "--no-such-option",
            ],
            "--no-such-option",
        ),
    ];
    for (options, why) in cases {
        let output = Command::new(programs::ferryfsd()).args(*options).output();
        let output = output.expect("it runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{options:?}: {text}");
        assert!(text.contains(why), "{options:?}: {text}");
        assert!(!text.contains("panic"), "{options:?}: {text}");
        assert!(!host.socket().exists());
    }
    // What can only be found out by trying is a failure, not a misuse.
    let absent = host.at("absent").display().to_string();
    let output = Command::new(programs::ferryfsd())
        .args(["--shared-dir", &absent, "--socket-path", &socket])
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(matches!(output.status.code(), Some(1 | 2)), "{text}");
    assert!(text.contains("absent"), "{text}");
}

#[test]
fn it_announces_its_tag_and_queues() {
    let host = Host::new();
    let daemon = host.daemon(&["--tag", "myfs", "--request-queues", "3"]);
    let config = ferryfs_frontend::VmConfig {
        request_queues: 3,
        ..Default::default()
    };
    let mut vm = Vm::boot_with(daemon.socket(), config).expect("boot");
    let config = vm.frontend().get_config().expect("GET_CONFIG");
    assert_eq!(config.tag, b"myfs");
    assert_eq!(config.request_queues, 3);
    assert_eq!(vm.frontend().get_queue_num().expect("GET_QUEUE_NUM"), 4);
    for queue in 1..=3 {
        let name = format!("by queue {queue}");
        vm.client_on(queue)
            .mkdir(ROOT_ID, &name, 0o755)
            .expect("MKDIR");
        assert!(host.at(&name).is_dir());
    }
}

#[test]
fn anybody_may_run_it() {
    // In a user namespace of its own the daemon's user is the guest's root.
    anybody_runs_it("none", |me| me);
    if programs::users_have_namespaces() {
        anybody_runs_it("namespace", |_| 0);
    }
}

fn anybody_runs_it(sandbox: &str, seen_as: fn(u32) -> u32) {
    const NOBODY: u32 = 65534;
    let host = Host::new();
    let mut command = host.command(&host.socket(), &["--sandbox", sandbox]);
    let root = programs::is_root("becoming another user");
    if root {
        // A copy that this user can reach.
        let program = host.base().join("outside/ferryfsd");
        // By a process of its own: a descriptor for writing that a daemon of another
        // test inherits for a moment would make the copy busy.
        let mut copy = Command::new("cp");
        copy.arg(programs::ferryfsd()).arg(&program);
        assert!(copy.status().expect("cp").success());
        for dir in ["", "share", "sockets"] {
            let dir = host.base().join(dir);
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("chmod");
            if !dir.ends_with("outside") {
                chown(&dir, Some(NOBODY), Some(NOBODY)).expect("chown");
            }
        }
        let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        command = Command::new(program);
        command.args(args).uid(NOBODY).gid(NOBODY);
    }
    let socket = host.base().join("sockets/0.sock");
    let mut daemon = Daemon::start_command(command, &socket).expect("it starts");
    let mut vm = Vm::boot(&socket).expect("boot");
    let me = match root {
        true => NOBODY,
        false => rustix::process::geteuid().as_raw(),
    };
    {
        let guest = Guest::of(&vm);
        let as_guest = ferryfs_frontend::Caller::user(seen_as(me), seen_as(me));
        let user = guest.as_caller(as_guest);
        let flags = (libc::O_CREAT | libc::O_RDWR) as u32;
        let made = user.create(ROOT_ID, "file", flags, 0o644);
        let (entry, opened) = made.expect("CREATE");
        guest
            .write(entry.nodeid, opened.fh, 0, b"mine")
            .expect("WRITE");
        assert_eq!(fs::read(host.at("file")).expect("read"), b"mine");
        assert_eq!(fs::metadata(host.at("file")).expect("stat").uid(), me);
    }
    // Its state crosses, too: to root's daemon here, or to one of the same user.
    let to = host.daemon(&[]);
    drop(vm.migrate_to(to.socket()).expect("migrate"));
    let file = vm.client().lookup(ROOT_ID, "file").expect("LOOKUP");
    assert_eq!(file.attr.size, 4);
    ends_with_0(&mut daemon);
}
