//! SIGTERM, SIGINT and SIGHUP end the daemon cleanly, after a drain.

use std::io;

/// The signals that ask for an end.
const ENDING: [libc::c_int; 3] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP];

/// Blocks the ending signals in this thread and all that it starts, and starts a
/// thread that waits for one and calls `on_signal` with its number, and whether it
/// came through the process that waits outside of the namespaces. Must be called
/// before other threads are started.
///
/// # Errors
/// The mask could not be set or the thread not be started.
pub fn watch(mut on_signal: impl FnMut(i32, bool) + Send + 'static) -> io::Result<()> {
    // SAFETY: an all-zero sigset_t is valid storage, and sigemptyset sets it up.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is valid for writing; the numbers are valid signals.
    unsafe {
        libc::sigemptyset(&mut set);
        for s in ENDING {
            libc::sigaddset(&mut set, s);
        }
    }
    // SAFETY: `set` is initialised; a null old set is allowed.
    let rc = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
    if rc != 0 {
        return Err(io::Error::from_raw_os_error(rc));
    }
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || loop {
            // SAFETY: siginfo_t is numbers and pointers, for which 0 is a value.
            let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
            // SAFETY: both pointers are valid for the call.
            let number = unsafe { libc::sigwaitinfo(&set, &mut info) };
            if number > 0 {
                on_signal(number, info.si_code == libc::SI_QUEUE);
            }
        })?;
    Ok(())
}
