//! Where the programs are that the suites start.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The daemon: by the variable FERRYFSD, or beside the test executable.
///
/// # Panics
/// When it has not been built.
pub fn ferryfsd() -> PathBuf {
    ours("FERRYFSD", "ferryfsd")
}

/// The tool: by the variable FERRYCTL, or beside the test executable.
///
/// # Panics
/// When it has not been built.
pub fn ferryctl() -> PathBuf {
    ours("FERRYCTL", "ferryctl")
}

fn ours(variable: &str, name: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let suite = std::env::current_exe().expect("path of this test");
    // target/<profile>/deps/<suite>
    let profile = suite.ancestors().nth(2).expect("the profile's directory");
    let program = profile.join(name);
    assert!(
        program.is_file(),
        "{} is not there: `cargo xtask test` builds it (or set {variable})",
        program.display()
    );
    program
}

/// virtiofsd, by the variable VIRTIOFSD or in PATH; none after saying so.
pub fn virtiofsd() -> Option<PathBuf> {
    let found = ferryfs_frontend::spawn::find("VIRTIOFSD", "virtiofsd");
    if found.is_none() {
        println!("skipped: no virtiofsd (set VIRTIOFSD or put it into PATH)");
    }
    found
}

/// Whether this runs as root; says so if it does not and `what` is skipped for it.
pub fn is_root(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: {what} needs root");
    }
    root
}

/// Whether new namespaces are given, those of users included if `user`.
fn namespaces_are_given(user: bool, change: impl FnOnce(&mut Command)) -> bool {
    let mut probe = Command::new("unshare");
    if user {
        probe.args(["--user", "--map-root-user"]);
    }
    probe.args(["--pid", "--net", "--mount", "true"]);
    probe.stderr(Stdio::null());
    change(&mut probe);
    probe.status().is_ok_and(|status| status.success())
}

/// Whether the daemon can be confined as it is by default. In a container it often
/// cannot.
pub fn can_be_confined() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| {
        let root = rustix::process::geteuid().is_root();
        let can = namespaces_are_given(!root, |_| ());
        if !can {
            println!("--sandbox none instead of namespace: the kernel gives no namespaces");
        }
        can
    })
}

/// The sandboxes that this user can have.
pub fn sandboxes() -> &'static [&'static str] {
    match (is_root("--sandbox chroot"), can_be_confined()) {
        (true, true) => &["none", "chroot", "namespace"],
        (true, false) => &["none", "chroot"],
        (false, true) => &["none", "namespace"],
        (false, false) => &["none"],
    }
}

/// Whether a user who is not root can have namespaces; says so if not.
pub fn users_have_namespaces() -> bool {
    let can = namespaces_are_given(true, |probe| {
        if rustix::process::geteuid().is_root() {
            probe.uid(65534).gid(65534);
        }
    });
    if !can {
        println!("skipped: the kernel gives users no user namespaces");
    }
    can
}
