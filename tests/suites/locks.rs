//! Locks of guests on the host: two guests on one share, the host itself beside them,
//! waiting, and locks in crossings. The daemons run under their list of system calls.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use ferryfs_frontend::call;
use ferryfs_frontend::client::{ClientError, FsClient, Pending};
use ferryfs_frontend::fuse::{init, FileLock};
use ferryfs_frontend::spawn::Daemon;
use ferryfs_frontend::Vm;
use ferryfs_tests::{errno, eventually, host, text, Guest, Host};

const LOCKS: [&str; 3] = ["--posix-lock", "--flock", "--keep-listening"];
const LAST: u64 = i64::MAX as u64;

/// A guest with the share's file open.
struct Locker {
    vm: Vm,
    client: FsClient,
    at: (u64, u64),
}

impl Locker {
    fn of(daemon: &Daemon) -> Locker {
        let vm = Vm::boot(daemon.socket()).expect("boot");
        let mut guest = Guest::of(&vm);
        let at = guest.open_path("f", libc::O_RDWR);
        Locker {
            client: vm.client(),
            vm,
            at,
        }
    }

    fn open(&self) -> (u64, u64) {
        let opened = self.client.open(self.at.0, libc::O_RDWR as u32);
        (self.at.0, opened.expect("OPEN").fh)
    }

    fn set(&self, owner: u64, range: (u64, u64), kind: i32) -> Result<(), ClientError> {
        self.client.setlk(self.at, owner, &lock(range, kind), false)
    }

    fn flock(&self, at: (u64, u64), kind: i32) -> Result<(), ClientError> {
        self.client.setlk(at, at.1, &lock((0, LAST), kind), true)
    }

    fn wait(&self, owner: u64, range: (u64, u64), kind: i32) -> Pending<()> {
        let lock = lock(range, kind);
        let call = call::setlk(self.at, owner, &lock, false, true);
        self.client.submit(call).expect("SETLKW")
    }
}

fn lock((start, end): (u64, u64), kind: i32) -> FileLock {
    FileLock {
        start,
        end,
        kind: kind as u32,
        pid: 4711,
    }
}

fn host_with_file() -> Host {
    let host = Host::new();
    std::fs::write(host.at("f"), "0123456789").expect("write");
    host
}

fn open(path: &Path) -> File {
    let mut options = File::options();
    options.read(true).write(true).open(path).expect("open")
}

/// As a process of the host locks; its errno.
fn host_lock(file: &File, (start, end): (u64, u64), kind: i32) -> i32 {
    let lock = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start as i64,
        l_len: if end == LAST {
            0
        } else {
            (end - start + 1) as i64
        },
        l_pid: 0,
    };
    // SAFETY: the command takes a `struct flock`, which outlives the call.
    let rc = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) };
    match rc {
        0 => 0,
        _ => std::io::Error::last_os_error()
            .raw_os_error()
            .expect("errno"),
    }
}

fn host_flock(file: &File, operation: i32) -> i32 {
    // SAFETY: the call takes no pointer.
    let rc = unsafe { libc::flock(file.as_raw_fd(), operation | libc::LOCK_NB) };
    match rc {
        0 => 0,
        _ => std::io::Error::last_os_error()
            .raw_os_error()
            .expect("errno"),
    }
}

#[track_caller]
fn assert_waits(pending: &Pending<()>) {
    std::thread::sleep(std::time::Duration::from_millis(60));
    assert!(!pending.is_done().expect("queue"), "it is answered");
}

#[test]
fn two_guests_and_the_host_keep_each_other_out() {
    let host = host_with_file();
    let mut daemons = [host.daemon(&LOCKS), host.daemon(&LOCKS)];
    let (a, b) = (Locker::of(&daemons[0]), Locker::of(&daemons[1]));
    let here = open(&host.at("f"));
    let flags = a.client.session().flags();
    let both = init::POSIX_LOCKS | init::FLOCK_LOCKS;
    assert_eq!(flags & both, both);

    a.set(1, (0, 9), libc::F_WRLCK).expect("SETLK");
    assert_eq!(errno(b.set(1, (9, 9), libc::F_RDLCK)), libc::EAGAIN);
    assert_eq!(host_lock(&here, (0, 0), libc::F_RDLCK), libc::EAGAIN);
    b.set(1, (10, 19), libc::F_RDLCK).expect("SETLK");
    assert_eq!(host_lock(&here, (10, 19), libc::F_RDLCK), 0);
    assert_eq!(errno(a.set(1, (10, 10), libc::F_WRLCK)), libc::EAGAIN);
    let wanted = lock((0, LAST), libc::F_WRLCK);
    let seen = b.client.getlk(b.at, 1, &wanted).expect("GETLK");
    assert_eq!(seen.kind, libc::F_WRLCK as u32);
    assert_eq!(
        (seen.start, seen.end, seen.pid),
        (0, 9, 0),
        "nobody in there"
    );
    let seen = a.client.getlk(a.at, 2, &wanted).expect("GETLK");
    assert_eq!((seen.start, seen.end, seen.pid), (0, 9, 4711));

    let (one, two) = (a.open(), b.open());
    a.flock(one, libc::F_WRLCK).expect("flock");
    assert_eq!(errno(b.flock(two, libc::F_RDLCK)), libc::EAGAIN);
    assert_eq!(host_flock(&here, libc::LOCK_SH), libc::EAGAIN);
    a.client
        .call(call::release(one.0, one.1, 0, 1 << 1))
        .expect("RELEASE");
    b.flock(two, libc::F_WRLCK).expect("flock");

    // close() in the guest, of any of its open files.
    let at = a.open();
    a.client.call(call::flush(at.0, at.1, 1)).expect("FLUSH");
    b.set(1, (0, 9), libc::F_WRLCK).expect("SETLK");
    // A guest that goes lets go.
    drop(b);
    eventually("the daemon has let go", || {
        host_lock(&here, (0, 9), libc::F_WRLCK) == 0
    });
    daemons.iter_mut().for_each(host::assert_well);
}

#[test]
fn a_guest_waits_for_another_and_goes_on_meanwhile() {
    let host = host_with_file();
    let mut daemons = [host.daemon(&LOCKS), host.daemon(&LOCKS)];
    let (a, b) = (Locker::of(&daemons[0]), Locker::of(&daemons[1]));
    a.set(1, (0, 9), libc::F_WRLCK).expect("SETLK");
    let first = b.wait(1, (0, 9), libc::F_WRLCK);
    let second = b.wait(2, (5, 5), libc::F_RDLCK);
    assert_waits(&first);
    // Its queue is nobody's.
    assert_eq!(
        b.client.read(b.at.0, b.at.1, 0, 100).expect("READ"),
        b"0123456789"
    );
    b.client.interrupt(second.unique()).expect("INTERRUPT");
    assert_eq!(errno(second.wait()), libc::EINTR);
    assert_waits(&first);
    a.set(1, (0, 9), libc::F_UNLCK).expect("SETLK");
    first.wait().expect("the lock");
    assert_eq!(errno(a.set(1, (0, 9), libc::F_RDLCK)), libc::EAGAIN);

    // One that is gone wakes others as well.
    let waiting = a.wait(1, (0, 9), libc::F_RDLCK);
    assert_waits(&waiting);
    drop(b);
    waiting.wait().expect("the lock");
    daemons.iter_mut().for_each(host::assert_well);
}

#[test]
fn a_guest_that_waits_without_end_gets_an_answer() {
    let host = host_with_file();
    let mut daemon = host.daemon(&LOCKS);
    let a = Locker::of(&daemon);
    let here = open(&host.at("f"));
    assert_eq!(host_lock(&here, (0, LAST), libc::F_WRLCK), 0);
    // As many as the queue leaves room for wait; the others are told.
    let mut waiting = Vec::new();
    let refused = loop {
        let next = a.wait(waiting.len() as u64, (0, 0), libc::F_WRLCK);
        std::thread::sleep(std::time::Duration::from_millis(2));
        match next.is_done().expect("queue") {
            true => break next.wait(),
            false => waiting.push(next),
        }
        assert!(waiting.len() < 10_000);
    };
    assert_eq!(errno(refused), libc::ENOLCK);
    assert!(!waiting.is_empty());
    assert_eq!(
        a.client.getattr(a.at.0, None).expect("GETATTR").attr.size,
        10
    );
    drop(waiting);
    drop(a);
    let b = Locker::of(&daemon);
    drop(here);
    b.set(1, (0, LAST), libc::F_WRLCK).expect("SETLK");
    host::assert_well(&mut daemon);
}

#[test]
fn locks_and_those_who_wait_for_them_cross() {
    for mode in ["find-paths", "file-handles"] {
        if mode == "file-handles" && !ferryfs_tests::programs::is_root("file handles") {
            continue;
        }
        let host = host_with_file();
        let options = [&LOCKS[..], &["--migration-mode", mode]].concat();
        let mut daemons = [host.daemon(&options), host.daemon(&options)];
        let here = open(&host.at("f"));
        let mut a = Locker::of(&daemons[0]);
        let whole = a.open();
        a.set(1, (0, 9), libc::F_WRLCK).expect("SETLK");
        a.set(1, (20, 29), libc::F_RDLCK).expect("SETLK");
        a.flock(whole, libc::F_WRLCK).expect("flock");
        let own = a.wait(2, (5, 5), libc::F_WRLCK);
        assert_eq!(host_lock(&here, (40, 49), libc::F_WRLCK), 0);
        let other = a.wait(3, (45, 45), libc::F_RDLCK);
        assert_waits(&own);
        // There and back: the source is the same process as before.
        for (hop, to) in [1, 0, 1].into_iter().enumerate() {
            let left = match a.vm.migrate_to(daemons[to].socket()) {
                Ok(left) => left,
                Err(e) => panic!("hop {hop}: {}\n{}", text(&e), daemons[to].stderr()),
            };
            assert_eq!(host_lock(&here, (9, 9), libc::F_RDLCK), libc::EAGAIN);
            assert_eq!(host_lock(&here, (29, 29), libc::F_WRLCK), libc::EAGAIN);
            assert_eq!(host_flock(&here, libc::LOCK_SH), libc::EAGAIN);
            assert!(!own.is_done().expect("queue") && !other.is_done().expect("queue"));
            drop(left);
            assert_eq!(host_lock(&here, (9, 9), libc::F_RDLCK), libc::EAGAIN);
            let wanted = lock((0, LAST), libc::F_WRLCK);
            let seen = a.client.getlk(a.at, 9, &wanted).expect("GETLK");
            assert_eq!((seen.start, seen.end, seen.pid), (0, 9, 4711));
        }
        assert_waits(&own);
        a.set(1, (5, 5), libc::F_UNLCK).expect("SETLK");
        own.wait().expect("the lock");
        assert_eq!(host_lock(&here, (40, 49), libc::F_UNLCK), 0);
        other.wait().expect("the lock");
        assert_eq!(host_lock(&here, (45, 45), libc::F_WRLCK), libc::EAGAIN);
        // The handle that it was set through is still whose it was.
        a.client
            .call(call::release(whole.0, whole.1, 0, 1 << 1))
            .expect("RELEASE");
        assert_eq!(host_flock(&here, libc::LOCK_EX), 0);
        daemons.iter_mut().for_each(host::assert_well);
    }
}

#[test]
fn a_stopped_guest_keeps_its_locks_and_its_place() {
    let host = host_with_file();
    let mut daemon = host.daemon(&LOCKS);
    let here = open(&host.at("f"));
    let mut a = Locker::of(&daemon);
    a.set(1, (0, 9), libc::F_WRLCK).expect("SETLK");
    assert_eq!(host_lock(&here, (20, 29), libc::F_WRLCK), 0);
    let waiting = a.wait(1, (20, 20), libc::F_WRLCK);
    assert_waits(&waiting);
    a.vm.stop().expect("stop");
    assert_eq!(host_lock(&here, (0, 0), libc::F_RDLCK), libc::EAGAIN);
    assert_eq!(host_lock(&here, (20, 29), libc::F_UNLCK), 0);
    assert_waits(&waiting);
    a.vm.resume().expect("resume");
    waiting.wait().expect("the lock");
    assert_eq!(host_lock(&here, (20, 20), libc::F_RDLCK), libc::EAGAIN);
    host::assert_well(&mut daemon);
}

#[test]
fn a_guest_that_goes_on_at_the_source_has_its_locks_back() {
    let host = host_with_file();
    let mut source = host.daemon(&LOCKS);
    // It does not do locks, and says so.
    let destination = host.daemon(&["--keep-listening"]);
    let here = open(&host.at("f"));
    let mut a = Locker::of(&source);
    a.set(1, (0, 9), libc::F_WRLCK).expect("SETLK");
    let waiting = a.wait(2, (0, 0), libc::F_WRLCK);
    assert_waits(&waiting);
    a.vm.migrate_to(destination.socket()).expect_err("no locks");
    eventually("the destination says which option is missing", || {
        let said = destination.stderr();
        said.contains("start this one with --posix-lock")
    });
    assert_eq!(host_lock(&here, (0, 0), libc::F_RDLCK), libc::EAGAIN);
    assert_waits(&waiting);
    a.set(1, (0, 0), libc::F_UNLCK).expect("SETLK");
    waiting.wait().expect("the lock");

    // A snapshot: saved, and gone on with. In between, anybody can be quicker, and
    // the guest must not go on as if it had kept the lock.
    a.vm.stop().expect("stop");
    a.vm.save_state().expect("save");
    assert_eq!(host_lock(&here, (5, 5), libc::F_WRLCK), 0, "let go");
    a.vm.resume().expect("resume");
    let lost = a.client.write(a.at.0, a.at.1, 0, b"as if locked");
    assert_eq!(errno(lost), libc::EIO);
    eventually("the source says what was lost", || {
        let said = host::lines(&source, "ERROR").join("\n");
        said.contains("\"f\"") && said.contains("lost its lock")
    });
    // Another handle is none of its business.
    let at = a.open();
    a.client.write(at.0, at.1, 0, b"fine").expect("WRITE");
    host::assert_well(&mut source);
}

#[test]
fn a_lock_that_is_taken_meanwhile_stops_the_crossing_or_costs_the_handle() {
    let host = host_with_file();
    let mut source = host.daemon(&LOCKS);
    let careful = host.daemon(&LOCKS);
    let lax = host.daemon(&[&LOCKS[..], &["--migration-on-error", "guest-error"]].concat());
    let here = open(&host.at("f"));
    let mut a = Locker::of(&source);
    let whole = a.open();
    let plain = a.open();
    a.set(1, (0, 9), libc::F_WRLCK).expect("SETLK");
    a.flock(whole, libc::F_RDLCK).expect("flock");
    let bases = a.vm.stop().expect("stop");
    assert!(!bases.is_empty());
    let state = a.vm.save_state().expect("save");
    assert_eq!(host_lock(&here, (5, 5), libc::F_RDLCK), 0);
    assert_eq!(host_flock(&here, libc::LOCK_EX), 0);
    let refused = a.vm.resume_on(careful.socket(), Some(&state));
    assert!(refused.is_err());
    eventually("the destination says which locks", || {
        let said = careful.stderr();
        said.contains("write lock on bytes 0 to 9") && said.contains("lock of flock")
    });
    drop(a.vm.resume_on(lax.socket(), Some(&state)).expect("resume"));
    for at in [a.at, whole] {
        assert_eq!(errno(a.client.read(at.0, at.1, 0, 1)), libc::EIO);
        assert_eq!(
            errno(a.client.setlk(at, 1, &lock((0, 9), libc::F_WRLCK), false)),
            libc::EIO
        );
    }
    a.client.read(plain.0, plain.1, 0, 1).expect("READ");
    host::assert_well(&mut source);
}

#[test]
fn locks_stay_in_the_guest_unless_told_otherwise() {
    let host = host_with_file();
    let daemon = host.daemon(&["--keep-listening", "-o", "no_posix_lock,no_flock"]);
    let a = Locker::of(&daemon);
    let both = init::POSIX_LOCKS | init::FLOCK_LOCKS;
    assert_eq!(a.client.session().flags() & both, 0);
    assert_eq!(errno(a.set(1, (0, 9), libc::F_WRLCK)), libc::ENOSYS);
    let daemon = host.daemon(&["-o", "flock"]);
    let b = Locker::of(&daemon);
    assert_eq!(b.client.session().flags() & both, init::FLOCK_LOCKS);
    assert_eq!(errno(b.set(1, (0, 9), libc::F_WRLCK)), libc::ENOSYS);
    b.flock(b.at, libc::F_WRLCK).expect("flock");
}

#[test]
fn a_daemon_out_of_descriptors_says_so_and_goes_on() {
    let host = host_with_file();
    let mut daemon = host.daemon(&[&LOCKS[..], &["--rlimit-nofile", "200"]].concat());
    let a = Locker::of(&daemon);
    let mut owners = 0;
    let refused = loop {
        match a.set(owners, (owners, owners), libc::F_WRLCK) {
            Ok(()) => owners += 1,
            refused => break refused,
        }
        assert!(owners < 200);
    };
    assert_eq!(errno(refused), libc::ENOLCK);
    assert!(owners > 10, "{owners}");
    let at = a.open();
    assert_eq!(a.client.read(at.0, at.1, 0, 4).expect("READ"), b"0123");
    a.set(0, (0, 0), libc::F_UNLCK).expect("SETLK");
    a.set(1000, (0, 0), libc::F_WRLCK).expect("SETLK");
    host::assert_well(&mut daemon);
}
