//! What the process-level suites share. The suites themselves lie in `suites/`.
//!
//! Every test runs real daemon processes on real directories of its own, and plays
//! the VMM and its guest with `ferryfs-frontend`. What is on disk is looked at
//! directly, beside the daemon.

pub mod chains;
pub mod guest;
pub mod host;
pub mod hostile;
pub mod mounts;
pub mod programs;
pub mod script;
pub mod writer;

pub use guest::Guest;
pub use host::Host;
pub use writer::Writer;

/// The formats that `--state-format` knows.
pub const FORMATS: [&str; 4] = ["postcard", "msgpack", "postcard+zstd", "msgpack+zstd"];

/// The values of `--migration-mode`.
pub const MODES: [&str; 2] = ["find-paths", "file-handles"];

/// The text of an error with all its sources.
pub fn text(error: &dyn std::error::Error) -> String {
    let mut all = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        all.push_str(": ");
        all.push_str(&error.to_string());
        source = error.source();
    }
    all
}

/// The errno of a request that must fail.
///
/// # Panics
/// When it succeeded, or failed in another way.
#[track_caller]
pub fn errno<T: std::fmt::Debug>(result: Result<T, ferryfs_frontend::ClientError>) -> i32 {
    match result {
        Ok(value) => panic!("succeeded: {value:?}"),
        Err(error) => match error.errno() {
            Some(errno) => errno,
            None => panic!("{}", text(&error)),
        },
    }
}

/// Waits until `done`, at most ten seconds: for what another process does in its own
/// time.
///
/// # Panics
/// When it does not come about; the text says what.
#[track_caller]
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !done() {
        assert!(
            std::time::Instant::now() < deadline,
            "this did not come about: {what}"
        );
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
