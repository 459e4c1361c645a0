//! Crossings over and over: to and fro under load, cancelled, refused, with destinations
//! that are killed in the middle. Nothing piles up, and nothing is forgotten.

use std::fs;
use std::io::Read;
use std::time::Duration;

use ferryfs_frontend::call::{self, Payload};
use ferryfs_frontend::client::FsClient;
use ferryfs_frontend::fuse::{FileLock, ROOT_ID};
use ferryfs_frontend::spawn::{Daemon, ProcessFigures};
use ferryfs_frontend::{Frontend, Vm, VmConfig};
use ferryfs_tests::{errno, eventually, host, text, Guest, Host};

const OPTIONS: [&str; 3] = ["--keep-listening", "--posix-lock", "--flock"];

/// A guest with a bit of everything: files by name, unlinked ones, a directory that it
/// works in and that is gone, a half-read directory, a lock.
struct Life {
    guest: Guest,
    named: (u64, u64),
    ghost: (u64, u64),
    cwd: u64,
    written: u64,
}

const LAST: u64 = i64::MAX as u64;

fn lock(kind: i32) -> FileLock {
    FileLock {
        start: 0,
        end: LAST,
        kind: kind as u32,
        pid: 1,
    }
}

impl Life {
    fn of(vm: &Vm) -> Life {
        let mut guest = Guest::of(vm);
        let flags = (libc::O_CREAT | libc::O_RDWR) as u32;
        let mut create = |name: &str| {
            let made = guest.create(ROOT_ID, name, flags, 0o644);
            let (entry, fh) = guest.created(made).expect("CREATE");
            (entry.nodeid, fh)
        };
        let (named, ghost) = (create("named"), create("ghost"));
        let made = guest.mkdir(ROOT_ID, "cwd", 0o755);
        let cwd = guest.entry(made).expect("MKDIR").nodeid;
        guest.unlink(ROOT_ID, "ghost").expect("UNLINK");
        guest.rmdir(ROOT_ID, "cwd").expect("RMDIR");
        for n in 0..200 {
            guest
                .create(ROOT_ID, format!("many-{n}"), flags, 0o644)
                .map_or_else(
                    |e| panic!("CREATE: {}", text(&e)),
                    |(entry, opened)| guest.release(entry.nodeid, opened.fh).expect("RELEASE"),
                );
        }
        for at in [named, ghost] {
            guest
                .setlk(at, 1, &lock(libc::F_WRLCK), false)
                .expect("SETLK");
        }
        Life {
            guest,
            named,
            ghost,
            cwd,
            written: 0,
        }
    }

    /// Everything is there, and as it was left; then it is changed.
    #[track_caller]
    fn goes_on(&mut self, place: &str) {
        let guest = &self.guest;
        for (node, fh) in [self.named, self.ghost] {
            if self.written > 0 {
                let read = guest.read(node, fh, 0, 8).expect("READ");
                assert_eq!(read, self.written.to_le_bytes(), "{place}");
            }
            let next = (self.written + 1).to_le_bytes();
            guest.write(node, fh, 0, &next).expect("WRITE");
            let locked = guest.setlk((node, fh), 2, &lock(libc::F_WRLCK), false);
            assert_eq!(errno(locked), libc::EAGAIN, "{place}: the lock is gone");
        }
        self.written += 1;
        assert_eq!(
            guest
                .getattr(self.ghost.0, None)
                .expect("GETATTR")
                .attr
                .nlink,
            0
        );
        let made = guest.mkdir(self.cwd, "no", 0o755);
        assert_eq!(errno(made), libc::ENOENT, "{place}");
    }
}

/// Writes that nobody waits for until [`Load::check`].
struct Load {
    client: FsClient,
    at: (u64, u64),
    n: u64,
    pending: Vec<ferryfs_frontend::client::Pending<u32>>,
}

impl Load {
    fn some(&mut self) {
        for _ in 0..8 {
            let bytes = Payload::Bytes(vec![self.n as u8; 4096]);
            let call = call::write(self.at.0, self.at.1, self.n * 4096, bytes, 0, 0);
            self.pending.push(self.client.submit(call).expect("submit"));
            self.n += 1;
        }
    }

    fn check(&mut self) {
        for write in self.pending.drain(..) {
            assert_eq!(write.wait().expect("WRITE"), 4096);
        }
    }
}

fn figures(daemon: &Daemon) -> ProcessFigures {
    daemon.figures().expect("figures")
}

/// Figures of a daemon that waits for a guest. One that has just been started may still
/// be at it, so that it serves one first.
fn between_guests(daemon: &Daemon) -> ProcessFigures {
    drop(Vm::boot(daemon.socket()).expect("boot"));
    let (mut now, mut still) = (figures(daemon), 0);
    while still < 20 {
        std::thread::sleep(Duration::from_millis(10));
        let next = figures(daemon);
        still = if next.fds == now.fds { still + 1 } else { 0 };
        now = next;
    }
    now
}

/// Waits until as many descriptors are open as at some other time.
#[track_caller]
fn same_fds(daemon: &Daemon, before: ProcessFigures) {
    let mut now = 0;
    for _ in 0..500 {
        now = figures(daemon).fds;
        if now <= before.fds {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{now} descriptors, {} before", before.fds);
}

#[test]
fn to_and_fro_fifty_times_under_load_leaves_nothing_behind() {
    const WARM: usize = 10;
    let host = Host::new();
    let daemons = [host.daemon(&OPTIONS), host.daemon(&OPTIONS)];
    let fresh = daemons.each_ref().map(between_guests);
    let mut vm = Vm::boot(daemons[0].socket()).expect("boot");
    let mut life = Life::of(&vm);
    let flags = (libc::O_CREAT | libc::O_WRONLY) as u32;
    let made = life.guest.create(ROOT_ID, "load", flags, 0o644);
    let (entry, fh) = life.guest.created(made).expect("CREATE");
    let mut load = Load {
        client: vm.client(),
        at: (entry.nodeid, fh),
        n: 0,
        pending: Vec::new(),
    };
    let mut warm = fresh;
    for round in 0..50 {
        let to = &daemons[(round + 1) % 2];
        load.some();
        if round % 3 == 0 {
            // While another has just been cancelled.
            vm.start_precopy().expect("precopy");
            vm.cancel_precopy().expect("cancel");
        }
        vm.start_precopy().expect("precopy");
        load.some();
        vm.stop().expect("stop");
        load.some();
        let state = vm.save_state().expect("save");
        if round % 5 == 0 {
            // Nearly: it goes on at the source first.
            vm.cancel_precopy().expect("cancel");
            vm.resume().expect("resume");
            life.goes_on(&format!("round {round}, at the source"));
            load.check();
            vm.migrate_to(to.socket()).expect("migrate");
        } else {
            vm.resume_on(to.socket(), Some(&state)).expect("resume on");
        }
        load.check();
        life.goes_on(&format!("round {round}"));
        if round == WARM {
            warm = daemons.each_ref().map(figures);
        }
    }
    assert_eq!(life.written, 60);
    let bytes = fs::read(host.at("load")).expect("read");
    assert_eq!(bytes.len() as u64, load.n * 4096);
    for (n, block) in bytes.chunks(4096).enumerate() {
        assert!(block.iter().all(|&b| b == n as u8), "block {n}");
    }
    for (daemon, warm) in daemons.iter().zip(warm) {
        let now = figures(daemon);
        assert!(
            now.rss < warm.rss + warm.rss / 2 + (16 << 20),
            "{} bytes resident, {} after {WARM} rounds",
            now.rss,
            warm.rss
        );
        assert_eq!(host::lines(daemon, "ERROR"), [""; 0]);
        assert_eq!(host::lines(daemon, "WARN"), [""; 0]);
    }
    // The one that it has left has nothing of it; nor has the other, once it ends.
    same_fds(&daemons[1], fresh[1]);
    drop((life, load, vm));
    eventually("the guest's end is seen", || {
        figures(&daemons[0]).fds <= fresh[0].fds
    });
    let names = fs::read_dir(host.share()).expect("the share");
    assert_eq!(names.count(), 202, "nothing hidden is left in the share");
}

#[test]
fn fifty_cancelled_migrations_change_nothing_at_the_source() {
    let host = Host::new();
    let source = host.daemon(&OPTIONS);
    let mut vm = Vm::boot(source.socket()).expect("boot");
    let mut life = Life::of(&vm);
    life.goes_on("at first");
    let cancel = |vm: &mut Vm, round: usize| {
        vm.start_precopy().expect("precopy");
        if round % 2 == 0 {
            vm.stop().expect("stop");
            if round % 4 == 0 {
                assert!(!vm.save_state().expect("save").is_empty());
            }
            vm.cancel_precopy().expect("cancel");
            vm.resume().expect("resume");
        } else {
            vm.cancel_precopy().expect("cancel");
        }
    };
    for round in 0..5 {
        cancel(&mut vm, round);
    }
    let before = figures(&source);
    for round in 0..50 {
        cancel(&mut vm, round);
        life.goes_on(&format!("round {round}"));
    }
    same_fds(&source, before);
    let now = figures(&source);
    assert!(
        now.rss < before.rss + (16 << 20),
        "{} {}",
        now.rss,
        before.rss
    );
    eventually("the threads of precopy are gone", || {
        figures(&source).threads <= before.threads
    });
    assert_eq!(host::lines(&source, "ERROR"), [""; 0]);
    assert_eq!(host::lines(&source, "WARN"), [""; 0]);
    let destination = host.daemon(&OPTIONS);
    vm.migrate_to(destination.socket()).expect("migrate");
    life.goes_on("at the destination");
}

/// Reads up to a point, and kills a daemon there.
struct KillsAt<'a> {
    state: &'a [u8],
    at: usize,
    victim: &'a mut Daemon,
}

impl Read for KillsAt<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        if self.at == 0 {
            self.victim.kill().map_err(std::io::Error::other)?;
            // What comes after it meets nobody.
            self.at = usize::MAX;
        }
        let n = self.state.len().min(buf.len()).min(self.at);
        buf[..n].copy_from_slice(&self.state[..n]);
        self.state = &self.state[n..];
        self.at -= n;
        Ok(n)
    }
}

#[test]
fn a_destination_killed_at_any_step_costs_nothing() {
    let host = Host::new();
    let mut source = host.daemon(&OPTIONS);
    let mut vm = Vm::boot(source.socket()).expect("boot");
    let mut life = Life::of(&vm);
    life.goes_on("at first");
    let steps = ["connected", "negotiated", "half", "all", "loaded", "memory"];
    for (round, step) in steps.iter().cycle().take(2 * steps.len()).enumerate() {
        let place = format!("round {round}, {step}");
        let mut victim = host.daemon(&OPTIONS);
        vm.start_precopy().expect("precopy");
        vm.stop().expect("stop");
        let state = vm.save_state().expect("save");
        let mut frontend = Frontend::connect(victim.socket()).expect("connect");
        if *step != "connected" {
            let features = VmConfig::default().protocol_features;
            frontend.negotiate(features).expect("negotiate");
        }
        match *step {
            "half" | "all" => {
                let at = match *step {
                    "half" => state.len() / 2,
                    _ => state.len(),
                };
                let mut input = KillsAt {
                    state: &state,
                    at,
                    victim: &mut victim,
                };
                frontend.load_state(&mut input).expect_err("it is dead");
            }
            "loaded" | "memory" => {
                frontend.load_state(&mut state.as_slice()).expect("load");
                if *step == "memory" {
                    let features = frontend.get_features().expect("GET_FEATURES");
                    frontend.set_features(features).expect("SET_FEATURES");
                }
            }
            _ => {}
        }
        let _ = victim.kill();
        drop(frontend);
        vm.cancel_precopy().expect("cancel");
        vm.resume().expect("resume");
        // The locks have come back, too.
        life.goes_on(&place);
        host::assert_well(&mut source);
    }
    assert_eq!(host::lines(&source, "ERROR"), [""; 0]);
    let names = fs::read_dir(host.share()).expect("the share");
    assert_eq!(names.count(), 201, "nothing hidden is left in the share");
    let destination = host.daemon(&OPTIONS);
    vm.migrate_to(destination.socket()).expect("migrate");
    life.goes_on("at the destination");
}

/// One snapshot, two machines: each has its own copy of what has no name.
#[test]
fn a_snapshot_restored_twice_is_two_guests() {
    let host = Host::new();
    let source = host.daemon(&["--keep-listening"]);
    let mut vm = Vm::boot(source.socket()).expect("boot");
    let mut guest = Guest::of(&vm);
    let flags = (libc::O_CREAT | libc::O_RDWR) as u32;
    let made = guest.create(ROOT_ID, "ghost", flags, 0o600);
    let (entry, fh) = guest.created(made).expect("CREATE");
    guest
        .write(entry.nodeid, fh, 0, b"as it was")
        .expect("WRITE");
    guest.unlink(ROOT_ID, "ghost").expect("UNLINK");
    vm.stop().expect("stop");
    let state = vm.save_state().expect("save");
    let mut left = Vec::new();
    for round in 0..3 {
        let daemon = host.daemon(&[]);
        vm.resume_on(daemon.socket(), Some(&state))
            .expect("resume on");
        let read = guest.read(entry.nodeid, fh, 0, 100).expect("READ");
        assert_eq!(read, b"as it was", "round {round}");
        let ino = guest.getattr(entry.nodeid, None).expect("GETATTR").attr.ino;
        guest
            .write(entry.nodeid, fh, 0, b"changed!!")
            .expect("WRITE");
        vm.stop().expect("stop");
        left.push((daemon, ino));
    }
    assert_eq!(fs::read_dir(host.share()).expect("the share").count(), 0);
}
