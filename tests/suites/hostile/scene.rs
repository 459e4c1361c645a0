//! A daemon that must go on, and how it is asked.

use std::fs;

use ferryfs_frontend::fuse::{OUT_HEADER, ROOT_ID};
use ferryfs_frontend::spawn::Daemon;
use ferryfs_frontend::Vm;
use ferryfs_tests::script::pattern;
use ferryfs_tests::{host, Host};

pub const EINVAL: i32 = libc::EINVAL;

pub struct Scene {
    pub host: Host,
    pub daemon: Daemon,
    pid: u32,
}

impl Scene {
    pub fn new(options: &[&str]) -> Scene {
        let host = Host::new();
        fs::create_dir(host.at("dir")).expect("mkdir");
        fs::write(host.at("file"), pattern(10_000)).expect("write");
        let mut all = vec!["--keep-listening", "--xattr"];
        all.extend(options);
        let daemon = host.daemon(&all);
        let pid = daemon.pid();
        Scene { host, daemon, pid }
    }

    pub fn boot(&self) -> Vm {
        Vm::boot(self.daemon.socket()).expect("boot")
    }

    /// A good request is answered well.
    #[track_caller]
    pub fn serves(&self, vm: &Vm) {
        let fs = vm.client();
        let file = fs.lookup(ROOT_ID, "file").expect("LOOKUP");
        let opened = fs.open(file.nodeid, libc::O_RDONLY as u32).expect("OPEN");
        let read = fs.read(file.nodeid, opened.fh, 1, 20_000).expect("READ");
        assert!(read == pattern(10_000)[1..], "wrong contents");
        fs.release(file.nodeid, opened.fh).expect("RELEASE");
        fs.forget(file.nodeid, 1).expect("FORGET");
    }

    /// At the end: the same process, well, and nothing has happened that was not
    /// asked for.
    #[track_caller]
    pub fn ends_well<T>(mut self, machine: T) {
        // The daemon has one front-end at a time.
        drop(machine);
        self.serves(&self.boot());
        host::assert_well(&mut self.daemon);
        assert_eq!(self.daemon.pid(), self.pid);
        self.host.assert_untouched_outside();
        assert!(fs::read(self.host.at("file")).expect("read") == pattern(10_000));
    }
}

/// Sends `request` with one piece of room for the answer; the errno, if there was one.
#[track_caller]
pub fn send(vm: &Vm, request: &[u8], room: usize) -> Option<i32> {
    let writable: &[usize] = if room == 0 { &[] } else { &[room] };
    let reply = vm.client().exchange(&[request], writable, false);
    let reply = reply.expect("the chain comes back");
    if let (Some(errno), Some((len, _, _))) = (reply.errno(), reply.header()) {
        assert_eq!(
            len, reply.written,
            "the header's length is not what was written"
        );
        assert!(errno == 0 || len as usize == OUT_HEADER);
        assert!((0..4096).contains(&errno));
    } else {
        assert_eq!(reply.written, 0, "half an answer");
    }
    reply.errno()
}
