//! A machine that appends to one file, which it opened at the start, for suites in which
//! a guest must go on as though nothing had been.

use std::fs;

use ferryfs_frontend::frontend::FrontendError;
use ferryfs_frontend::spawn::Daemon;
use ferryfs_frontend::state::StateError;
use ferryfs_frontend::vmm::VmError;
use ferryfs_frontend::wire::WireError;
use ferryfs_frontend::{Vm, VmConfig};

use crate::{eventually, host, text, Guest, Host};

/// The machine.
pub struct Writer {
    /// Its VMM.
    pub vm: Vm,
    /// Its guest.
    pub guest: Guest,
    /// The file's inode and handle.
    pub file: (u64, u64),
    /// The file's path in the share.
    path: &'static str,
    /// What the file must hold.
    pub written: String,
}

impl Writer {
    /// Boots on `daemon`, opens `path`, which is there and empty, and writes `first`.
    ///
    /// # Panics
    /// When it cannot, as all of this does where the guest would notice.
    #[track_caller]
    pub fn boot(daemon: &Daemon, config: VmConfig, path: &'static str, first: &str) -> Writer {
        let vm = Vm::boot_with(daemon.socket(), config).expect("boot");
        let mut guest = Guest::of(&vm);
        let file = guest.open_path(path, libc::O_RDWR);
        let mut writer = Writer {
            vm,
            guest,
            file,
            path,
            written: String::new(),
        };
        writer.write(first);
        writer
    }

    /// Appends `word`, and reads all of the file.
    #[track_caller]
    pub fn write(&mut self, word: &str) {
        let (node, fh) = self.file;
        let at = self.written.len() as u64;
        let wrote = self.guest.write(node, fh, at, word.as_bytes());
        wrote.unwrap_or_else(|e| panic!("WRITE of {word}: {}", text(&e)));
        self.written += word;
        let read = self.guest.read(node, fh, 0, 4096).expect("READ");
        assert_eq!(read, self.written.as_bytes());
    }

    /// Goes on on `daemon`, as a VMM does that sends `state`.
    #[track_caller]
    pub fn go_on(&mut self, daemon: &Daemon, state: Option<&[u8]>) {
        let moved = self.vm.resume_on(daemon.socket(), state);
        drop(moved.unwrap_or_else(|e| panic!("{}\n{}", text(&e), daemon.stderr())));
    }

    /// The state cannot go on there, for the reason that the daemon's log gives.
    #[track_caller]
    pub fn refused(&mut self, daemon: &Daemon, state: &[u8], why: &str) {
        let error = self.vm.resume_on(daemon.socket(), Some(state));
        let error = error.err().unwrap_or_else(|| panic!("taken: {why}"));
        let of_the_daemon = matches!(
            &error,
            VmError::State {
                source: StateError::Failed { .. }
                    | StateError::Frontend(FrontendError::Wire(WireError::Refused {
                        request: "FS_SET_STATE_FD",
                        ..
                    })),
                ..
            }
        );
        assert!(of_the_daemon, "{}", text(&error));
        eventually("the refusal is logged", || {
            host::lines(daemon, "ERROR").iter().any(|l| l.contains(why))
        });
    }

    /// The file on disk holds what has been written.
    #[track_caller]
    pub fn check(&self, host: &Host) {
        let disk = fs::read_to_string(host.at(self.path)).expect("read");
        assert_eq!(disk, self.written);
    }
}
