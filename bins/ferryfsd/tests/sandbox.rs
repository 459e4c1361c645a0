//! How far the daemon is confined, as the kernel tells it of the running process.

use std::fs::{self, Metadata};
use std::os::unix::fs::{chown, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ferryfs_frontend::fuse::ROOT_ID;
use ferryfs_frontend::spawn::Daemon;
use ferryfs_frontend::{Caller, Vm};
use rustix::process::{kill_process, Pid, Signal};
use tempfile::TempDir;

const FERRYFSD: &str = env!("CARGO_BIN_EXE_ferryfsd");
const PATIENCE: Duration = Duration::from_secs(20);
/// The user that owns nothing, by convention.
const NOBODY: u32 = 65534;
/// What a daemon that runs as root keeps: capabilities 0, 1, 2, 3, 4, 6, 7, 27, 31.
const CAPABILITIES: u64 = 0x8800_00df;

/// A share, what lies beside it, and a place for sockets.
struct Scene {
    base: TempDir,
}

impl Scene {
    fn new() -> Scene {
        let base = tempfile::tempdir().expect("temporary directory");
        for dir in ["share", "share/sub", "sockets"] {
            fs::create_dir(base.path().join(dir)).expect("directory");
        }
        fs::write(base.path().join("secret"), "not shared").expect("file");
        fs::write(base.path().join("share/file"), "shared").expect("file");
        Scene { base }
    }

    /// Gives everything to `nobody`.
    fn for_nobody(self) -> Scene {
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.base.path(), open).expect("mode");
        for dir in ["share", "share/sub", "share/file", "sockets"] {
            chown(self.base.path().join(dir), Some(NOBODY), Some(NOBODY)).expect("owner");
        }
        self
    }

    fn share(&self) -> PathBuf {
        self.base.path().join("share")
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.base.path().join("sockets").join(name)
    }

    /// A copy of the daemon: users need not reach where it was built.
    fn program(&self) -> PathBuf {
        let copy = self.base.path().join("ferryfsd");
        // By a process of its own: a descriptor that writes to a program, inherited by
        // what another test starts meanwhile, would keep it from being started.
        let copied = Command::new("cp").arg(FERRYFSD).arg(&copy).status();
        assert!(copied.expect("cp").success());
        copy
    }

    fn command(&self, program: &Path, socket: &str, options: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .arg("--shared-dir")
            .arg(self.share())
            .arg("--socket-path")
            .arg(self.socket(socket))
            .args(options);
        command
    }

    /// A daemon that waits for its front-end.
    fn daemon(&self, socket: &str, options: &[&str]) -> Daemon {
        let command = self.command(Path::new(FERRYFSD), socket, options);
        up(command, &self.socket(socket))
    }
}

fn up(command: Command, socket: &Path) -> Daemon {
    let daemon = Daemon::start_command(command, socket).expect("ferryfsd starts");
    // The socket is there before the confinement is.
    eventually("the daemon waits for a front-end", || {
        assert!(!daemon.stderr().contains("ERROR"), "{}", daemon.stderr());
        daemon.stderr().contains("waiting for a front-end")
            && (status(daemon.serving_pid(), "Seccomp") != "0"
                || daemon.stderr().contains("seccomp None"))
    });
    daemon
}

#[track_caller]
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "this did not come about: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_root(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: {what} needs root");
    }
    root
}

/// A field of `/proc/<pid>/status`; nothing when the process is gone.
fn status(pid: u32, field: &str) -> String {
    let all = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    all.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .map(|value| value.trim().to_owned())
        .unwrap_or_default()
}

fn namespace(pid: impl std::fmt::Display, kind: &str) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("namespace")
}

fn same(a: &Metadata, b: &Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// Sees that no directory that `pid` holds open leads anywhere but into the share.
#[track_caller]
fn assert_no_way_out(pid: u32, share: &Path) {
    let share = fs::metadata(share).expect("share");
    let proc = fs::metadata("/proc").expect("/proc").dev();
    let mut seen = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors") {
        let path = entry.expect("descriptor").path();
        let Ok(found) = fs::metadata(&path) else {
            continue;
        };
        if !found.is_dir() {
            continue;
        }
        seen += 1;
        let link = fs::read_link(&path);
        assert!(same(&found, &share) || found.dev() == proc, "{link:?}");
        let above = fs::metadata(path.join("..")).expect("what is above");
        assert!(same(&found, &above), "{link:?} can be climbed from");
    }
    // The share, and /proc/self/fd.
    assert!(seen >= 2, "{seen} directories");
}

#[track_caller]
fn ends_with_0(mut daemon: Daemon) {
    let status = daemon.wait(PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(0), "{}", daemon.stderr());
    assert!(!daemon.stderr().contains("ERROR"), "{}", daemon.stderr());
    assert!(!daemon.socket().exists(), "the socket is left behind");
}

#[test]
fn in_namespaces_there_is_the_share_and_nothing_else() {
    if !is_root("--sandbox namespace without a user namespace") {
        return;
    }
    let scene = Scene::new();
    let daemon = scene.daemon("s", &["--sandbox", "namespace"]);
    let pid = daemon.serving_pid();
    assert_ne!(pid, daemon.pid());
    for kind in ["mnt", "pid", "net"] {
        assert_ne!(namespace(pid, kind), namespace("self", kind), "{kind}");
    }
    assert_eq!(namespace(pid, "user"), namespace("self", "user"));
    assert!(status(pid, "NSpid").ends_with("\t1"));
    let root = fs::metadata(format!("/proc/{pid}/root/")).expect("root");
    assert!(same(&root, &fs::metadata(scene.share()).expect("share")));
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("mounts");
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    assert_no_way_out(pid, &scene.share());

    let vm = Vm::boot(daemon.socket()).expect("boot");
    assert_no_way_out(pid, &scene.share());
    let client = vm.client();
    client.mkdir(ROOT_ID, "made", 0o755).expect("MKDIR");
    assert!(scene.share().join("made").is_dir());
    assert!(client.lookup(ROOT_ID, "../secret").is_err());
    assert!(client.lookup(ROOT_ID, "..").is_err());
    drop(vm);
    ends_with_0(daemon);
}

#[test]
fn both_processes_keep_what_they_need_and_no_more() {
    if !is_root("--sandbox namespace without a user namespace") {
        return;
    }
    let scene = Scene::new();
    let daemon = scene.daemon("s", &["--sandbox", "namespace"]);
    let serving = daemon.serving_pid();
    // To kill, and to remove the socket.
    for (pid, capabilities) in [(serving, CAPABILITIES), (daemon.pid(), 0x2a)] {
        eventually("the waiting process has given up the rest", || {
            status(pid, "Seccomp") == "2"
        });
        for set in ["CapEff", "CapPrm", "CapBnd"] {
            let held = u64::from_str_radix(&status(pid, set), 16).expect("set");
            assert_eq!(held, capabilities, "{set} of {pid}");
        }
        assert_eq!(status(pid, "CapInh"), "0000000000000000");
        assert_eq!(status(pid, "CapAmb"), "0000000000000000");
        assert_eq!(status(pid, "NoNewPrivs"), "1");
    }
}

#[test]
fn capabilities_are_those_of_the_table_with_the_operator_s_changes() {
    if !is_root("capabilities") {
        return;
    }
    let scene = Scene::new();
    for (options, held) in [
        (["--sandbox=chroot", "--seccomp=kill"], CAPABILITIES),
        (["--sandbox=none", "--seccomp=kill"], CAPABILITIES),
        (["--sandbox=none", "--seccomp=none"], CAPABILITIES),
        (["--sandbox=namespace", "--seccomp=kill"], CAPABILITIES),
        // CAP_MKNOD is 27, CAP_SYS_CHROOT 18.
        (
            ["--sandbox=namespace", "--modcaps=-mknod:+sys_chroot"],
            CAPABILITIES & !(1 << 27) | 1 << 18,
        ),
    ] {
        let daemon = scene.daemon("s", &options);
        let found = status(daemon.serving_pid(), "CapEff");
        assert_eq!(u64::from_str_radix(&found, 16), Ok(held), "{options:?}");
        // The same in words, in the order of the alphabet.
        let mut names = vec![
            "chown",
            "dac_override",
            "dac_read_search",
            "fowner",
            "fsetid",
            "mknod",
            "setfcap",
            "setgid",
            "setuid",
        ];
        if held != CAPABILITIES {
            names.retain(|name| *name != "mknod");
            names.push("sys_chroot");
        }
        let told = format!("capabilities {}, at most", names.join(","));
        assert!(daemon.stderr().contains(&told), "{}", daemon.stderr());
        assert_eq!(status(daemon.serving_pid(), "NoNewPrivs"), "1");
    }
}

#[test]
fn each_thread_is_under_the_list() {
    let scene = Scene::new();
    let sandbox = match is_root("--sandbox namespace without a user namespace") {
        true => "--sandbox=namespace",
        false => "--sandbox=none",
    };
    for (action, mode) in [("kill", "2"), ("log", "2"), ("trap", "2"), ("none", "0")] {
        let daemon = scene.daemon("s", &["--seccomp", action, "--request-queues=2", sandbox]);
        let vm = Vm::boot(daemon.socket()).expect("boot");
        vm.client().mkdir(ROOT_ID, action, 0o755).expect("MKDIR");
        let tasks = format!("/proc/{}/task", daemon.serving_pid());
        let mut threads = 0;
        for task in fs::read_dir(tasks).expect("threads") {
            let task = task.expect("thread").file_name();
            let task = task.to_str().and_then(|t| t.parse().ok()).expect("number");
            assert_eq!(status(task, "Seccomp"), mode, "{action}");
            threads += 1;
        }
        // The first one, the one for signals, and those of the queues.
        assert!(threads >= 4, "{threads}");
        drop(vm);
        ends_with_0(daemon);
    }
}

#[test]
fn signals_end_it_and_files_in_the_share_stay() {
    if !is_root("--sandbox namespace without a user namespace") {
        return;
    }
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let scene = Scene::new();
        // What the socket's path and name would be from inside.
        let path = scene.socket("s");
        let inside = scene
            .share()
            .join(path.strip_prefix("/").expect("absolute"));
        fs::create_dir_all(inside.parent().expect("parent")).expect("directories");
        let same_name = scene.share().join("s");
        for file in [&inside, &same_name] {
            fs::write(file, "precious").expect("file");
        }
        let mut daemon = scene.daemon("s", &["--sandbox", "namespace"]);
        let _vm = Vm::boot(daemon.socket()).expect("boot");
        daemon.signal(signal).expect("signal");
        ends_with_0(daemon);
        for file in [&inside, &same_name] {
            assert_eq!(fs::read(file).expect("file"), b"precious", "{signal:?}");
        }
    }
}

#[test]
fn a_signal_to_both_processes_asks_once() {
    if !is_root("--sandbox namespace without a user namespace") {
        return;
    }
    let scene = Scene::new();
    let mut daemon = scene.daemon("s", &["--sandbox", "namespace"]);
    let _vm = Vm::boot(daemon.socket()).expect("boot");
    let inside = Pid::from_raw(daemon.serving_pid() as i32).expect("pid");
    // As a service manager does that ends a service's every process.
    // Outside first: it is there until the one inside has ended.
    daemon.terminate().expect("signal");
    let _ended_already = kill_process(inside, Signal::TERM);
    ends_with_0(daemon);
}

#[test]
fn neither_process_outlives_the_other() {
    if !is_root("--sandbox namespace without a user namespace") {
        return;
    }
    let scene = Scene::new();
    let mut daemon = scene.daemon("s", &["--sandbox", "namespace"]);
    let pid = daemon.serving_pid();
    let number = Pid::from_raw(pid as i32).expect("pid");
    kill_process(number, Signal::KILL).expect("signal");
    let ended = daemon.wait(PATIENCE).expect("it ends");
    assert_eq!(ended.code(), Some(128 + 9), "{}", daemon.stderr());
    eventually("the waiting process says so", || {
        daemon.stderr().contains("killed by signal 9")
    });
    assert!(!daemon.socket().exists(), "the socket is left behind");

    let mut daemon = scene.daemon("s", &["--sandbox", "namespace"]);
    let pid = daemon.serving_pid();
    daemon.kill().expect("kill");
    eventually("the serving process ends with the waiting one", || {
        matches!(status(pid, "State").chars().next(), None | Some('Z' | 'X'))
    });
}

#[test]
fn what_fails_inside_fails_outside() {
    if !is_root("--sandbox namespace without a user namespace") {
        return;
    }
    let scene = Scene::new();
    let socket = scene.socket("s");
    let mut command = Command::new(FERRYFSD);
    command
        .args(["--sandbox=namespace", "--inode-file-handles=mandatory"])
        .args(["--shared-dir=/proc", "--socket-path"])
        .arg(&socket);
    let output = command.output().expect("output");
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert_eq!(log.matches("ERROR").count(), 1, "{log}");
    assert!(log.contains("--inode-file-handles=prefer"), "{log}");
    assert!(!socket.exists(), "the socket is left behind");
}

#[test]
fn one_file_is_shared_from_an_empty_root() {
    if !is_root("--sandbox namespace without a user namespace") {
        return;
    }
    let scene = Scene::new();
    let mut command = Command::new(FERRYFSD);
    let socket = scene.socket("s");
    command
        .args(["--sandbox=namespace", "--socket-path"])
        .arg(&socket)
        .arg("--shared-dir")
        .arg(scene.share().join("file"));
    let daemon = up(command, &socket);
    let pid = daemon.serving_pid();
    let root = fs::read_dir(format!("/proc/{pid}/root/")).expect("root");
    assert_eq!(root.count(), 0);
    let vm = Vm::boot(&socket).expect("boot");
    let client = vm.client();
    let opened = client.open(ROOT_ID, libc::O_RDWR as u32).expect("OPEN");
    let read = client.read(ROOT_ID, opened.fh, 0, 100).expect("READ");
    assert_eq!(read, b"shared");
    client.write(ROOT_ID, opened.fh, 0, b"S").expect("WRITE");
    let written = fs::read(scene.share().join("file")).expect("file");
    assert_eq!(written, b"Shared");
    drop(vm);
    ends_with_0(daemon);
}

fn mount(from: Option<&str>, at: &Path, flags: libc::c_ulong) {
    let text = |s: &str| std::ffi::CString::new(s).expect("text");
    let kind = text("tmpfs");
    let from = from.map(text);
    let at = text(at.to_str().expect("path"));
    let from = from.as_ref().map_or(std::ptr::null(), |s| s.as_ptr());
    // SAFETY: the strings end with NUL and outlive the call; no data is passed.
    let rc = unsafe { libc::mount(from, at.as_ptr(), kind.as_ptr(), flags, std::ptr::null()) };
    assert_eq!(rc, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn what_is_mounted_in_the_share_is_there_now_and_later() {
    if !is_root("mounting") {
        return;
    }
    // A thread of its own, whose mounts nobody else sees.
    let test = || {
        // SAFETY: changes this thread's view of mounts; no memory is concerned.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
        mount(None, Path::new("/"), libc::MS_REC | libc::MS_PRIVATE);
        let scene = Scene::new();
        let share = scene.share();
        for dir in ["early", "late"] {
            fs::create_dir(share.join(dir)).expect("directory");
        }
        // As systemd has "/": what is mounted is passed on.
        mount(share.to_str(), &share, libc::MS_BIND);
        mount(None, &share, libc::MS_SHARED);
        mount(Some("tmpfs"), &share.join("early"), 0);
        fs::write(share.join("early/1"), "").expect("file");

        let daemon = scene.daemon("s", &["--sandbox", "namespace"]);
        let vm = Vm::boot(daemon.socket()).expect("boot");
        let client = vm.client();
        client
            .lookup_path(ROOT_ID, "early/1")
            .expect("a file on a mount made before");
        mount(Some("tmpfs"), &share.join("late"), 0);
        fs::write(share.join("late/2"), "").expect("file");
        client
            .lookup_path(ROOT_ID, "late/2")
            .expect("a file on a mount made after");
        drop(vm);
        ends_with_0(daemon);
        // Nothing has come from inside.
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").expect("mounts");
        let on_share = mounts.matches(share.to_str().expect("path")).count();
        assert!(on_share >= 3, "{mounts}");
    };
    std::thread::spawn(test).join().expect("the test passes");
}

fn as_nobody(mut command: Command) -> Command {
    command.uid(NOBODY).gid(NOBODY);
    command
}

/// Whether `nobody` can have what is tested; says so if not.
fn users_have_namespaces() -> bool {
    if !is_root("becoming another user") {
        return false;
    }
    let mut probe = Command::new("unshare");
    probe.args([
        "--user",
        "--map-root-user",
        "--pid",
        "--net",
        "--mount",
        "true",
    ]);
    let can = as_nobody(probe).status().is_ok_and(|s| s.success());
    if !can {
        println!("skipped: the kernel gives users no user namespaces");
    }
    can
}

/// The first subordinate id of `nobody` in a file such as /etc/subuid, where it has
/// at least ten.
fn subordinate(file: &str) -> Option<u32> {
    let all = fs::read_to_string(file).unwrap_or_default();
    let found = all.lines().find_map(|line| {
        let (first, count) = line.strip_prefix("nobody:")?.split_once(':')?;
        let enough = count.parse::<u32>().ok()? >= 10;
        enough.then(|| first.parse().ok()).flatten()
    });
    if found.is_none() {
        println!("skipped: {file} gives nobody no subordinate ids");
    }
    found
}

#[test]
fn a_user_s_subordinate_ids_are_the_guest_s_users() {
    if !users_have_namespaces() {
        return;
    }
    let (Some(uid), Some(gid)) = (subordinate("/etc/subuid"), subordinate("/etc/subgid")) else {
        return;
    };
    let scene = Scene::new().for_nobody();
    let program = scene.program();
    // As libvirt has them: the user is root, and 1 to 9 are subordinate ones. And with
    // a root who is a subordinate id too, to whom the socket's directory is closed.
    for (root_uid, root_gid, others) in [(NOBODY, NOBODY, 0), (uid, gid, 1)] {
        let open = fs::Permissions::from_mode(0o777);
        fs::set_permissions(scene.share(), open).expect("mode");
        let maps = [
            format!("--uid-map=:0:{root_uid}:1:"),
            format!("--gid-map=:0:{root_gid}:1:"),
            format!("--uid-map=:1:{}:9:", uid + others),
            format!("--gid-map=:1:{}:9:", gid + others),
        ];
        let mut options = vec!["--sandbox=namespace"];
        options.extend(maps.iter().map(String::as_str));
        let command = scene.command(&program, "s", &options);
        let mut daemon = up(as_nobody(command), &scene.socket("s"));
        let pid = daemon.serving_pid();
        assert!(status(pid, "Uid").starts_with(&format!("{root_uid}\t{root_uid}")));
        assert_eq!(status(pid, "Groups"), "");
        assert_no_way_out(pid, &scene.share());

        let vm = Vm::boot(daemon.socket()).expect("boot");
        let name = format!("of-{root_uid}");
        let client = vm.client().as_caller(Caller::user(5, 6));
        let made = client.mkdir(ROOT_ID, &name, 0o700).expect("MKDIR");
        assert_eq!((made.attr.uid, made.attr.gid), (5, 6));
        let on_host = fs::metadata(scene.share().join(&name)).expect("made");
        assert_eq!(on_host.uid(), uid + others + 4);
        assert_eq!(on_host.gid(), gid + others + 5);
        daemon.terminate().expect("signal");
        ends_with_0(daemon);
        drop(vm);
    }
}

#[test]
fn a_user_gets_namespaces_with_a_user_namespace() {
    if !users_have_namespaces() {
        return;
    }
    let scene = Scene::new().for_nobody();
    let program = scene.program();
    let command = scene.command(&program, "s", &["--sandbox=namespace"]);
    let mut daemon = up(as_nobody(command), &scene.socket("s"));
    let pid = daemon.serving_pid();
    for kind in ["mnt", "pid", "net", "user"] {
        assert_ne!(namespace(pid, kind), namespace("self", kind), "{kind}");
    }
    for map in ["uid_map", "gid_map"] {
        let map = fs::read_to_string(format!("/proc/{pid}/{map}")).expect("map");
        let map: Vec<_> = map.split_ascii_whitespace().collect();
        assert_eq!(map, ["0", "65534", "1"]);
    }
    assert!(status(pid, "Uid").starts_with("65534\t65534"));
    assert_eq!(status(pid, "CapEff"), format!("{CAPABILITIES:016x}"));
    assert_no_way_out(pid, &scene.share());

    let vm = Vm::boot(daemon.socket()).expect("boot");
    let client = vm.client();
    // The guest's root is the user, in both directions.
    let made = client.mkdir(ROOT_ID, "made", 0o700).expect("MKDIR");
    assert_eq!((made.attr.uid, made.attr.gid), (0, 0));
    let on_host = fs::metadata(scene.share().join("made")).expect("made");
    assert_eq!((on_host.uid(), on_host.gid()), (NOBODY, NOBODY));
    daemon.terminate().expect("signal");
    ends_with_0(daemon);
    drop(vm);

    // Ids that /etc/subuid does not give this user.
    let options = ["--sandbox=namespace", "--uid-map=:0:1:1:"];
    let command = scene.command(&program, "s", &options);
    let output = as_nobody(command).output().expect("output");
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("newuidmap"), "{log}");
    assert!(!scene.socket("s").exists(), "the socket is left behind");
}

#[test]
fn a_user_without_other_ids_can_be_all_of_the_guest_s_users() {
    if !users_have_namespaces() {
        return;
    }
    let scene = Scene::new().for_nobody();
    let program = scene.program();
    let squash = [
        "--sandbox=namespace",
        "--translate-uid=squash-guest:0:0:4294967295",
        "--translate-gid=squash-guest:0:0:4294967295",
    ];
    for (options, squashed) in [(&squash[..1], false), (&squash[..], true)] {
        let open = fs::Permissions::from_mode(0o777);
        fs::set_permissions(scene.share(), open).expect("mode");
        let command = scene.command(&program, "s", options);
        let mut daemon = up(as_nobody(command), &scene.socket("s"));
        let vm = Vm::boot(daemon.socket()).expect("boot");
        let client = vm.client().as_caller(Caller::user(1000, 1001));
        let made = client.mkdir(ROOT_ID, "made", 0o700);
        let path = scene.share().join("made");
        if squashed {
            made.expect("MKDIR");
            let on_host = fs::metadata(&path).expect("made");
            assert_eq!((on_host.uid(), on_host.gid()), (NOBODY, NOBODY));
        } else {
            // As Linux itself has it, and the log says what to do.
            assert_eq!(made.expect_err("MKDIR").errno(), Some(libc::EINVAL));
            assert!(!path.exists());
            eventually("a word of it", || {
                let log = daemon.stderr();
                log.contains("user 1000 of group 1001")
                    && log.contains("--translate-uid squash-guest:0:0:4294967295")
            });
        }
        daemon.terminate().expect("signal");
        ends_with_0(daemon);
        drop(vm);
    }
}

#[test]
fn a_machine_moves_between_confined_daemons() {
    if !is_root("--sandbox namespace without a user namespace") {
        return;
    }
    for mode in ["find-paths", "file-handles"] {
        let mode = format!("--migration-mode={mode}");
        let options = |sandbox| [mode.as_str(), "--sandbox", sandbox];
        let scene = Scene::new();
        let first = scene.daemon("1", &options("namespace"));
        let second = scene.daemon("2", &options("namespace"));
        let third = scene.daemon("3", &options("chroot"));
        let mut vm = Vm::boot(first.socket()).expect("boot");
        let client = vm.client();
        let sub = client.lookup(ROOT_ID, "sub").expect("LOOKUP");
        let (file, opened) = client
            .create(sub.nodeid, "log", libc::O_RDWR as u32, 0o644)
            .expect("CREATE");
        client
            .write(file.nodeid, opened.fh, 0, b"1")
            .expect("WRITE");
        let mut here = first;
        for (at, next) in [(1, second), (2, third)] {
            drop(vm.migrate_to(next.socket()).unwrap_or_else(|e| {
                panic!("{mode}: {e:?}\n{}\n{}", here.stderr(), next.stderr());
            }));
            ends_with_0(std::mem::replace(&mut here, next));
            client
                .write(file.nodeid, opened.fh, at, b"+")
                .expect("WRITE");
            client.lookup(sub.nodeid, "log").expect("LOOKUP");
        }
        let log = fs::read(scene.share().join("sub/log")).expect("log");
        assert_eq!(log, b"1++", "{mode}");
    }
}
