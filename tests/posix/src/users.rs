//! Acting as other users.

use rustix::fs::{Gid, Uid};
use rustix::thread;

/// An ordinary user's id, and their group's.
pub const ANNE: u32 = 2001;
/// Another's.
pub const BERT: u32 = 2002;
/// A group of both, in addition to their own.
pub const CHOIR: u32 = 2100;
/// A group of Anne's alone.
pub const CLUB: u32 = 2101;

/// Does `work` as user and group `id` with `groups` beside it, on a thread that ends
/// with it; the process stays who it is.
pub fn as_user<T: Send>(id: u32, groups: &[u32], work: impl FnOnce() -> T + Send) -> T {
    let become_and_work = || {
        let groups: Vec<Gid> = groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
        thread::set_thread_groups(&groups).expect("setgroups");
        thread::set_thread_res_gid(gid, gid, gid).expect("setresgid");
        // All three, so that the capabilities go.
        thread::set_thread_res_uid(uid, uid, uid).expect("setresuid");
        work()
    };
    std::thread::scope(|threads| match threads.spawn(become_and_work).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// As Anne, who sings and is in the club.
pub fn as_anne<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    as_user(ANNE, &[CHOIR, CLUB], work)
}

/// As Bert, who sings.
pub fn as_bert<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    as_user(BERT, &[CHOIR], work)
}

/// Does `work` under a file mode mask.
pub fn masked<T>(mask: u32, work: impl FnOnce() -> T) -> T {
    let before = rustix::process::umask(rustix::fs::Mode::from(mask));
    let value = work();
    rustix::process::umask(before);
    value
}
