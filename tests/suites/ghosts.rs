//! Machines that move while they use what has no name any more: open files and
//! directories, working directories, locks, in every mode and as any user.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{chown, MetadataExt};
use std::os::unix::process::CommandExt;
use std::process::Command;

use ferryfs_frontend::fuse::ROOT_ID;
use ferryfs_frontend::spawn::Daemon;
use ferryfs_frontend::{Caller, Vm};
use ferryfs_tests::script::pattern;
use ferryfs_tests::{errno, eventually, host, programs, text, Guest, Host, FORMATS};

const NOBODY: u32 = 65534;

/// How the daemons of a case are run.
#[derive(Clone, Copy, Debug)]
enum Run {
    FindPaths,
    FileHandles,
    /// Without any capability, as a user of its own.
    Unprivileged,
}

impl Run {
    fn all() -> &'static [Run] {
        match programs::is_root("file handles, and daemons of other users") {
            true => &[Run::FindPaths, Run::FileHandles, Run::Unprivileged],
            false => &[Run::FindPaths],
        }
    }

    fn daemon(self, host: &Host, options: &[&str]) -> Daemon {
        let socket = host.socket();
        let mode = match self {
            Run::FileHandles => "file-handles",
            Run::FindPaths | Run::Unprivileged => "find-paths",
        };
        let options = [&["--migration-mode", mode], options].concat();
        let mut command: Command = host.command(&socket, &options);
        if matches!(self, Run::Unprivileged) {
            // A copy that this user can reach, by a process of its own: a descriptor for
            // writing that another daemon inherits for a moment would make it busy.
            let program = host.base().join("outside/ferryfsd");
            if !program.exists() {
                let mut copy = Command::new("cp");
                copy.arg(programs::ferryfsd()).arg(&program);
                assert!(copy.status().expect("cp").success());
            }
            for dir in [host.share(), &host.base().join("sockets"), host.base()] {
                chown(dir, Some(NOBODY), Some(NOBODY)).expect("chown");
            }
            let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
            command = Command::new(program);
            command.args(args).arg("--sandbox=none");
            command.uid(NOBODY).gid(NOBODY);
        }
        Daemon::start_command(command, &socket).expect("ferryfsd starts")
    }

    fn guest(self, vm: &Vm) -> Guest {
        match self {
            Run::Unprivileged => Guest::of_user(vm, Caller::user(NOBODY, NOBODY)),
            _ => Guest::of(vm),
        }
    }
}

#[track_caller]
fn migrate(vm: &mut Vm, to: &Daemon) {
    if let Err(error) = vm.migrate_to(to.socket()) {
        panic!("{}\ndestination:\n{}", text(&error), to.stderr());
    }
}

#[test]
fn what_has_no_name_crosses_in_every_mode_and_format() {
    for &run in Run::all() {
        for format in FORMATS {
            let host = Host::new();
            let options = ["--keep-listening", "--state-format", format, "--xattr"];
            let daemons: Vec<_> = (0..2).map(|_| run.daemon(&host, &options)).collect();
            let mut vm = Vm::boot(daemons[0].socket()).expect("boot");
            let mut guest = run.guest(&vm);
            let made = guest.mkdir(ROOT_ID, "d", 0o755);
            let d = guest.entry(made).expect("MKDIR").nodeid;
            let made = guest.mkdir(d, "cwd", 0o711);
            let cwd = guest.entry(made).expect("MKDIR").nodeid;
            let made = guest.mkdir(d, "open", 0o755);
            let listed = guest.entry(made).expect("MKDIR").nodeid;
            let listing = guest.opendir(listed);
            let listing = guest.opened_dir(listed, listing).expect("OPENDIR");
            let flags = (libc::O_CREAT | libc::O_RDWR) as u32;
            let made = guest.create(d, "large", flags, 0o640);
            let (large, fh) = guest.created(made).expect("CREATE");
            let large = large.nodeid;
            let contents = pattern(3_000_000);
            for (n, piece) in contents.chunks(100_000).enumerate() {
                // Every other piece, so that there are holes.
                if n % 2 == 0 {
                    let at = n as u64 * 200_000;
                    guest.write(large, fh, at, piece).expect("WRITE");
                }
            }
            let second = guest.open(large, libc::O_RDONLY as u32);
            let second = guest.opened(large, second).expect("OPEN");
            let check = |guest: &Guest, place: &str| {
                let attr = guest.getattr(large, None).expect("GETATTR").attr;
                assert_eq!(attr.nlink, 0, "{place}");
                assert_eq!(attr.mode & 0o7777, 0o640, "{place}");
                assert_eq!(attr.size, 28 * 200_000 + 100_000, "{place}");
                for (n, piece) in contents.chunks(100_000).enumerate() {
                    let at = n as u64 * 200_000;
                    let read = guest.read(large, second, at, 100_000).expect("READ");
                    match n % 2 {
                        0 => assert!(read == piece, "{place}: piece {n}"),
                        _ if n < 28 => assert!(read == vec![0; 100_000], "{place}: hole {n}"),
                        _ => assert_eq!(read, b"", "{place}: end"),
                    }
                }
                let attr = guest.getattr(cwd, None).expect("GETATTR").attr;
                assert_eq!(attr.mode & 0o7777, 0o711, "{place}");
                let made = guest.mkdir(cwd, "no", 0o755);
                assert_eq!(errno(made), libc::ENOENT, "{place}");
            };

            vm.start_precopy().expect("precopy");
            guest.rmdir(d, "cwd").expect("RMDIR");
            guest.rmdir(d, "open").expect("RMDIR");
            guest.unlink(d, "large").expect("UNLINK");
            for hop in 1..=3 {
                migrate(&mut vm, &daemons[hop % 2]);
                check(&guest, &format!("{run:?}, {format}, hop {hop}"));
                let names = fs::read_dir(host.share()).expect("the share").count();
                assert_eq!(names, 1, "only what the guest has made is there");
                assert_eq!(fs::read_dir(host.at("d")).expect("d").count(), 0);
                // What is written goes on to the next.
                guest.write(large, fh, 0, &contents[..10]).expect("WRITE");
                let wrong = host::lines(&daemons[hop % 2], "WARN");
                assert_eq!(wrong, [""; 0]);
            }
            guest.release(large, fh).expect("RELEASE");
            guest.release(large, second).expect("RELEASE");
            guest.releasedir(listed, listing).expect("RELEASEDIR");
        }
    }
}

#[test]
fn precopy_reads_and_little_is_left_for_the_end() {
    let host = Host::new();
    let quiet = pattern(5_000_000);
    fs::write(host.at("quiet"), &quiet).expect("write");
    fs::write(host.at("busy"), pattern(50_000)).expect("write");
    let (source, destination) = (host.daemon(&[]), host.daemon(&[]));
    let mut vm = Vm::boot(source.socket()).expect("boot");
    let mut guest = Guest::of(&vm);
    let (node, fh) = guest.open_path("quiet", libc::O_RDWR);
    let (busy, busy_fh) = guest.open_path("busy", libc::O_RDWR);
    for name in ["quiet", "busy"] {
        guest.unlink(ROOT_ID, name).expect("UNLINK");
    }
    // As old as a file that another write would show of.
    std::thread::sleep(std::time::Duration::from_secs(4));
    vm.start_precopy().expect("precopy");
    std::thread::sleep(std::time::Duration::from_secs(2));
    guest.write(busy, busy_fh, 0, b"late").expect("WRITE");
    migrate(&mut vm, &destination);
    eventually("the source says what it has read", || {
        host::lines(&source, "INFO")
            .iter()
            .any(|line| line.contains("with 5050000 bytes of contents, 50000 of which were read"))
    });
    assert!(guest.read(node, fh, 0, 1_000_000).expect("READ") == quiet[..1_000_000]);
    assert_eq!(guest.read(busy, busy_fh, 0, 4).expect("READ"), b"late");
}

/// What the host removes is as gone as what the guest removes.
#[test]
fn what_others_remove_goes_on_for_the_guest() {
    for &run in Run::all() {
        let host = Host::new();
        fs::create_dir_all(host.at("tree/deep")).expect("mkdir");
        fs::write(host.at("tree/deep/file"), "still here").expect("write");
        for path in ["tree", "tree/deep", "tree/deep/file"] {
            chown(host.at(path), Some(NOBODY), Some(NOBODY)).expect("chown");
        }
        let (source, destination) = (run.daemon(&host, &[]), run.daemon(&host, &[]));
        let mut vm = Vm::boot(source.socket()).expect("boot");
        let mut guest = run.guest(&vm);
        let (node, fh) = guest.open_path("tree/deep/file", libc::O_RDWR);
        let deep = guest.walk("tree/deep").nodeid;
        fs::remove_dir_all(host.at("tree")).expect("rm -r");
        migrate(&mut vm, &destination);
        assert_eq!(guest.read(node, fh, 0, 100).expect("READ"), b"still here");
        let uid = guest.getattr(node, None).expect("GETATTR").attr.uid;
        assert_eq!(uid, NOBODY, "{run:?}");
        if !matches!(run, Run::FileHandles) {
            let attr = guest.getattr(deep, None).expect("GETATTR").attr;
            assert_eq!(attr.mode & libc::S_IFMT, libc::S_IFDIR);
        }
        assert_eq!(fs::metadata(host.share()).expect("stat").nlink(), 2);
    }
}

/// Renames, moves across directories and replacements of what is open, while precopy
/// runs and in the last moment before the stop.
#[test]
fn what_others_move_and_replace_is_followed() {
    for &run in Run::all() {
        let host = Host::new();
        let odd = OsStr::from_bytes(b"odd \xff\xfe");
        fs::create_dir_all(host.at("moved/deep")).expect("mkdir");
        fs::create_dir(host.at("elsewhere")).expect("mkdir");
        for name in ["moved/deep/file", "replaced", "stays"] {
            fs::write(host.at(name), name).expect("write");
        }
        fs::write(host.at(odd), "odd").expect("write");
        for name in ["moved/deep/file", "replaced", "stays"].map(|n| host.at(n)) {
            chown(name, Some(NOBODY), Some(NOBODY)).expect("chown");
        }
        chown(host.at(odd), Some(NOBODY), Some(NOBODY)).expect("chown");
        let (source, destination) = (run.daemon(&host, &[]), run.daemon(&host, &[]));
        let mut vm = Vm::boot(source.socket()).expect("boot");
        let mut guest = run.guest(&vm);
        let moved = guest.open_path("moved/deep/file", libc::O_RDWR);
        let replaced = guest.open_path("replaced", libc::O_RDWR);
        let other = guest.open_path(odd.as_bytes(), libc::O_RDWR);
        let stays = guest.open_path("stays", libc::O_RDWR);
        vm.start_precopy().expect("precopy");
        fs::rename(host.at("moved"), host.at("elsewhere/moved on")).expect("rename");
        let impostor = host.at("impostor");
        fs::write(&impostor, "impostor").expect("write");
        std::thread::sleep(std::time::Duration::from_millis(200));
        fs::rename(&impostor, host.at("replaced")).expect("rename");
        let odder = host.at("elsewhere/moved on").join(odd);
        fs::rename(host.at(odd), &odder).expect("rename");
        migrate(&mut vm, &destination);
        for ((node, fh), text) in [
            (moved, "moved/deep/file"),
            (replaced, "replaced"),
            (other, "odd"),
            (stays, "stays"),
        ] {
            let read = guest.read(node, fh, 0, 100).expect("READ");
            assert_eq!(read, text.as_bytes(), "{run:?}");
            guest.write(node, fh, 0, b"mine").expect("WRITE");
        }
        let content = |path: std::path::PathBuf| fs::read_to_string(path).expect("read");
        assert_eq!(content(host.at("replaced")), "impostor", "{run:?}");
        let deep = host.at("elsewhere/moved on/deep/file");
        assert_eq!(content(deep), "mined/deep/file", "{run:?}");
        assert_eq!(content(odder), "mine", "{run:?}");
        assert_eq!(content(host.at("stays")), "mines", "{run:?}");
        let again = guest.walk("elsewhere/moved on/deep/file").nodeid;
        assert_eq!(again, moved.0, "{run:?}");
        assert_eq!(host::lines(&destination, "ERROR"), [""; 0]);
    }
}
