//! Writes the streams of a real virtiofsd into a directory: the goldens.
//!
//! `cargo run --example capture -- DIRECTORY`, with virtiofsd in PATH or by the
//! variable VIRTIOFSD, as root.

#[path = "../tests/common/mod.rs"]
mod common;

use std::path::Path;

use ferryfs_frontend::Vm;

fn main() {
    let out = std::env::args().nth(1).expect("a directory to write to");
    let program = common::virtiofsd().expect("virtiofsd");
    for (name, options) in [
        ("find-paths", &["--migration-mode=find-paths"][..]),
        (
            "verify",
            &["--migration-mode=find-paths", "--migration-verify-handles"],
        ),
        ("file-handles", &["--migration-mode=file-handles"]),
    ] {
        let share = tempfile::tempdir().expect("share");
        let sockets = tempfile::tempdir().expect("sockets");
        let daemon = common::start(&program, share.path(), sockets.path(), "s", options);
        let mut vm = Vm::boot(daemon.socket()).expect("boot");
        let held = common::Held::new(&vm);
        vm.start_precopy().expect("precopy");
        vm.stop().expect("stop");
        let state = vm.save_state().expect("state");
        held.check(share.path());
        let file = Path::new(&out).join(format!("virtiofsd-1.14.0-{name}.bin"));
        std::fs::write(&file, &state).expect("write");
        println!("{}: {} bytes", file.display(), state.len());
    }
}
