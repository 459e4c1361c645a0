//! Where the programs are that the suites start.

use std::path::PathBuf;

/// The daemon: by the variable FERRYFSD, or beside the test executable.
///
/// # Panics
/// When it has not been built.
pub fn ferryfsd() -> PathBuf {
    if let Some(path) = std::env::var_os("FERRYFSD") {
        return path.into();
    }
    let suite = std::env::current_exe().expect("path of this test");
    // target/<profile>/deps/<suite>
    let profile = suite.ancestors().nth(2).expect("the profile's directory");
    let daemon = profile.join("ferryfsd");
    assert!(
        daemon.is_file(),
        "{} is not there: `cargo xtask test` builds it (or set FERRYFSD)",
        daemon.display()
    );
    daemon
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

/// Whether a user who is not root can have namespaces; says so if not.
pub fn users_have_namespaces() -> bool {
    let mut probe = std::process::Command::new("unshare");
    probe.args(["--user", "--map-root-user", "--pid", "--net", "--mount"]);
    probe.arg("true").stderr(std::process::Stdio::null());
    if rustix::process::geteuid().is_root() {
        use std::os::unix::process::CommandExt;
        probe.uid(65534).gid(65534);
    }
    let can = probe.status().is_ok_and(|status| status.success());
    if !can {
        println!("skipped: the kernel gives users no user namespaces");
    }
    can
}
