//! The system calls that a serving daemon makes, and no others.
//!
//! Two filters, since one knows only one answer for what it lists. The first makes
//! calls that libc tries before older ones not exist. The second is the list of what
//! is allowed; the rest meets the [`Action`]. The kernel remembers which numbers pass
//! whatever their arguments, so that most calls cost no filter run.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    apply_filter_all_threads, BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Len,
    SeccompCmpOp as Is, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// What happens on a system call that is not in the list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    /// Nothing is restricted.
    None,
    /// The process is killed by SIGSYS.
    #[default]
    Kill,
    /// The call is made, and is logged by the kernel (audit, kernel log).
    Log,
    /// The thread gets SIGSYS, which ends the process with a core file where those
    /// are written.
    Trap,
}

/// Which process the list is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one that serves the guest.
    Serving,
    /// The one that waits for it, outside of its namespaces.
    Waiting,
}

/// Why system calls could not be restricted.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// There is no list for this processor.
    #[error(
        "system calls cannot be restricted on {}; use --seccomp none",
        std::env::consts::ARCH
    )]
    Architecture(#[source] BackendError),
    /// The filter is wrong; every one is built in the tests.
    #[error("failed to build the filter")]
    Build(#[source] BackendError),
    /// The kernel refused it.
    #[error("the kernel does not take the filter; use --seccomp none if it has no seccomp")]
    Apply(#[source] seccompiler::Error),
}

/// Restricts all threads of the process, and those that it will start.
///
/// # Errors
/// See [`SeccompError`]; nothing, or everything but the list, is in force then.
pub fn apply(action: Action, role: Role) -> Result<(), SeccompError> {
    let Some(action) = on_mismatch(action) else {
        return Ok(());
    };
    for filter in [absent()?, allowed(role, action)?] {
        apply_filter_all_threads(&filter).map_err(SeccompError::Apply)?;
    }
    Ok(())
}

fn on_mismatch(action: Action) -> Option<SeccompAction> {
    match action {
        Action::None => None,
        Action::Kill => Some(SeccompAction::KillProcess),
        Action::Log => Some(SeccompAction::Log),
        Action::Trap => Some(SeccompAction::Trap),
    }
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn architecture() -> Result<TargetArch, SeccompError> {
    std::env::consts::ARCH
        .try_into()
        .map_err(SeccompError::Architecture)
}

fn compile(
    rules: Rules,
    otherwise: SeccompAction,
    listed: SeccompAction,
) -> Result<BpfProgram, SeccompError> {
    SeccompFilter::new(rules, otherwise, listed, architecture()?)
        .and_then(BpfProgram::try_from)
        .map_err(SeccompError::Build)
}

/// Calls that are answered with `ENOSYS`.
///
/// What `clone3` is to do lies in memory, where no filter looks. libc takes `clone`
/// where there is none.
fn absent() -> Result<BpfProgram, SeccompError> {
    let rules = Rules::from([(libc::SYS_clone3, Vec::new())]);
    let enosys = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    compile(rules, SeccompAction::Allow, enosys)
}

fn allowed(role: Role, otherwise: SeccompAction) -> Result<BpfProgram, SeccompError> {
    let (groups, restricted): (&[&[c_long]], _) = match role {
        Role::Serving => (
            &[
                RUNTIME,
                FILES,
                NAMES,
                ATTRIBUTES,
                CREDENTIALS,
                EVENTS,
                SOCKETS,
                // Held back by the other filter.
                &[libc::SYS_clone3],
            ],
            restricted().map_err(SeccompError::Build)?,
        ),
        Role::Waiting => (&[RUNTIME, WAITING], Rules::new()),
    };
    let mut rules: Rules = groups
        .iter()
        .flat_map(|group| group.iter())
        .map(|number| (*number, Vec::new()))
        .collect();
    if role == Role::Waiting {
        rules.extend(memory().map_err(SeccompError::Build)?);
        rules.extend(own_signals().map_err(SeccompError::Build)?);
    }
    rules.extend(restricted);
    compile(rules, otherwise, SeccompAction::Allow)
}

/// Memory, threads, time, signals, the end: what libc and the standard library do
/// for any program, a panic's report included.
const RUNTIME: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_prlimit64,
    libc::SYS_getcwd,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Log lines, and descriptors as such.
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_fstat,
];

/// Open files and their data: READ to COPY_FILE_RANGE, and the state's stream.
const FILES: &[c_long] = &[
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_getdents64,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fadvise64,
    libc::SYS_copy_file_range,
    libc::SYS_splice,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_syncfs,
    libc::SYS_flock,
];

/// Names: LOOKUP to RENAME2. All of the kind that takes a directory.
const NAMES: &[c_long] = &[
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    // A thread's own working directory, for calls that take nothing but a path.
    libc::SYS_fchdir,
    libc::SYS_umask,
    // Where `renameat` and `readlink` are still calls of their own.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_renameat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
];

/// One number for every processor, which not every version of libc knows.
const FCHMODAT2: c_long = 452;

/// Attributes: SETATTR and the four of extended attributes.
const ATTRIBUTES: &[c_long] = &[
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_getxattr,
    libc::SYS_setxattr,
    libc::SYS_listxattr,
    libc::SYS_removexattr,
    libc::SYS_lgetxattr,
    libc::SYS_lsetxattr,
    libc::SYS_llistxattr,
    libc::SYS_lremovexattr,
    libc::SYS_fgetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_flistxattr,
    libc::SYS_fremovexattr,
];

/// Acting as the guest's users. What is left to change has been limited by the
/// capabilities.
const CREDENTIALS: &[c_long] = &[
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_getgroups,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_capget,
    libc::SYS_capset,
];

/// Waiting for several things: queues, the front-end, the end.
const EVENTS: &[c_long] = &[
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_pipe2,
    libc::SYS_ppoll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
];

/// The front-end's connection, and the one between relay and message handler.
const SOCKETS: &[c_long] = &[
    libc::SYS_socketpair,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_connect,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_shutdown,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
];

/// Handing signals on, seeing the end, removing the socket's name.
const WAITING: &[c_long] = &[
    libc::SYS_rt_sigqueueinfo,
    // Of whom a queued signal tells.
    libc::SYS_getuid,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_unlinkat,
    // Log lines where the log is a socket.
    libc::SYS_sendto,
    libc::SYS_sendmsg,
];

/// Thread creation by `clone`: these have to be set, ..
const THREAD: libc::c_int = libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND;

/// .. and none of these.
const NAMESPACES: libc::c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

/// Of one type or another by the C library.
#[allow(clippy::unnecessary_cast)]
const FIONBIO: u64 = libc::FIONBIO as u64;
#[allow(clippy::unnecessary_cast)]
const FS_IOC_GETFLAGS: u64 = libc::FS_IOC_GETFLAGS as u64;
#[allow(clippy::unnecessary_cast)]
const FS_IOC_SETFLAGS: u64 = libc::FS_IOC_SETFLAGS as u64;
/// `_IOR('X', 31, struct fsxattr)`, whose 28 bytes are the same everywhere.
const FS_IOC_FSGETXATTR: u64 = 0x801c_581f;
/// `_IOW('X', 32, struct fsxattr)`.
const FS_IOC_FSSETXATTR: u64 = 0x401c_5820;
/// linux/prctl.h; it copies the caller's own auxiliary vector.
const PR_GET_AUXV: libc::c_int = 0x4155_5856;

/// A call whose argument `index` must compare to `value` as `is` says.
fn only(index: u8, is: Is, value: u64) -> Result<SeccompRule, BackendError> {
    // The kernel takes all that is looked at here as 32 bits.
    SeccompRule::new(vec![SeccompCondition::new(index, Len::Dword, is, value)?])
}

fn bits(value: libc::c_int) -> u64 {
    u64::from(value.unsigned_abs())
}

/// Calls that are allowed with some arguments only.
fn restricted() -> Result<Rules, BackendError> {
    let mut rules = Rules::from([
        // Threads, no processes.
        (
            libc::SYS_clone,
            vec![only(
                0,
                Is::MaskedEq(bits(THREAD | NAMESPACES)),
                bits(THREAD),
            )?],
        ),
        // A thread's own working directory, no namespaces.
        (
            libc::SYS_unshare,
            vec![only(0, Is::Eq, bits(libc::CLONE_FS))?],
        ),
        (
            libc::SYS_socket,
            vec![only(0, Is::Eq, bits(libc::AF_UNIX))?],
        ),
        // Names of threads, and of memory, as some C libraries give; and where the kernel's
        // clocks are mapped, which rustix asks for when it first reads one.
        (
            libc::SYS_prctl,
            vec![
                only(0, Is::Eq, bits(libc::PR_SET_NAME))?,
                only(0, Is::Eq, bits(libc::PR_SET_VMA))?,
                only(0, Is::Eq, bits(PR_GET_AUXV))?,
            ],
        ),
        // Not blocking, as the standard library asks it of a socket; and a file's
        // flags.
        (
            libc::SYS_ioctl,
            [
                FIONBIO,
                FS_IOC_GETFLAGS,
                FS_IOC_SETFLAGS,
                FS_IOC_FSGETXATTR,
                FS_IOC_FSSETXATTR,
            ]
            .into_iter()
            .map(|command| only(1, Is::Eq, command))
            .collect::<Result<_, _>>()?,
        ),
    ]);
    rules.extend(memory()?);
    rules.extend(own_signals()?);
    Ok(rules)
}

/// Memory that is no code: all code is there by now.
fn memory() -> Result<Rules, BackendError> {
    let no_code = || only(2, Is::MaskedEq(bits(libc::PROT_EXEC)), 0);
    Ok(Rules::from([
        (libc::SYS_mmap, vec![no_code()?]),
        (libc::SYS_mprotect, vec![no_code()?]),
    ]))
}

/// Signals to this process alone: abort(3).
fn own_signals() -> Result<Rules, BackendError> {
    let own = u64::from(std::process::id());
    Ok(Rules::from([(
        libc::SYS_tgkill,
        vec![only(0, Is::Eq, own)?],
    )]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    /// Runs `act` in a child process under the list; how that ended.
    fn under(action: Action, role: Role, act: impl FnOnce() -> i32) -> libc::c_int {
        // SAFETY: the child makes system calls and allocations only, which glibc
        // makes possible behind fork in a process with several threads.
        match unsafe { libc::fork() } {
            0 => {
                let code = match apply(action, role) {
                    Ok(()) => act(),
                    Err(_) => 99,
                };
                // SAFETY: ends the child.
                unsafe { libc::_exit(code) }
            }
            child => {
                assert!(child > 0, "{}", io::Error::last_os_error());
                let mut status = 0;
                // SAFETY: `status` is valid for writing.
                assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                status
            }
        }
    }

    fn killed_by_sigsys(status: libc::c_int) -> bool {
        libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS
    }

    /// A bare system call with up to three numbers; its errno, or 0.
    fn call(number: c_long, a: libc::c_long, b: libc::c_long, c: libc::c_long) -> i32 {
        // SAFETY: the calls made here take numbers, or null pointers that they
        // refuse.
        match unsafe { libc::syscall(number, a, b, c, 0, 0, 0) } {
            -1 => io::Error::last_os_error().raw_os_error().unwrap_or(98),
            _ => 0,
        }
    }

    #[test]
    fn what_is_not_listed_ends_the_process() {
        let forbidden: [(&str, c_long, [c_long; 3]); 16] = [
            ("execve", libc::SYS_execve, [0; 3]),
            ("ptrace", libc::SYS_ptrace, [0; 3]),
            ("mount", libc::SYS_mount, [0; 3]),
            ("bpf", libc::SYS_bpf, [0; 3]),
            ("io_uring_setup", libc::SYS_io_uring_setup, [0; 3]),
            ("kill", libc::SYS_kill, [1, 0, 0]),
            ("setns", libc::SYS_setns, [-1, 0, 0]),
            ("memfd_create", libc::SYS_memfd_create, [0; 3]),
            ("fork", libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0]),
            (
                "unshare(NEWUSER)",
                libc::SYS_unshare,
                [libc::CLONE_NEWUSER.into(), 0, 0],
            ),
            (
                "unshare(FS|NEWNS)",
                libc::SYS_unshare,
                [(libc::CLONE_FS | libc::CLONE_NEWNS).into(), 0, 0],
            ),
            (
                "socket(INET)",
                libc::SYS_socket,
                [libc::AF_INET.into(), libc::SOCK_STREAM.into(), 0],
            ),
            ("ioctl(TIOCSTI)", libc::SYS_ioctl, [0, 0x5412, 0]),
            (
                "prctl(SET_DUMPABLE)",
                libc::SYS_prctl,
                [libc::PR_SET_DUMPABLE.into(), 1, 0],
            ),
            (
                "mmap(EXEC)",
                libc::SYS_mmap,
                [0, 4096, (libc::PROT_READ | libc::PROT_EXEC).into()],
            ),
            ("tgkill(1)", libc::SYS_tgkill, [1, 1, 0]),
        ];
        for (name, number, [a, b, c]) in forbidden {
            let status = under(Action::Kill, Role::Serving, || call(number, a, b, c));
            assert!(killed_by_sigsys(status), "{name}: {status:#x}");
            let status = under(Action::Trap, Role::Serving, || call(number, a, b, c));
            assert!(killed_by_sigsys(status), "{name}: {status:#x}");
        }
        let status = under(Action::None, Role::Serving, || {
            call(libc::SYS_setns, -1, 0, 0)
        });
        assert_eq!(libc::WEXITSTATUS(status), libc::EBADF);
        let status = under(Action::Log, Role::Serving, || {
            call(libc::SYS_setns, -1, 0, 0)
        });
        assert_eq!(libc::WEXITSTATUS(status), libc::EBADF);
    }

    #[test]
    fn what_serving_needs_works() {
        let status = under(Action::Kill, Role::Serving, || {
            if call(libc::SYS_clone3, 0, 0, 0) != libc::ENOSYS {
                return 1;
            }
            if call(libc::SYS_unshare, libc::CLONE_FS.into(), 0, 0) != 0 {
                return 2;
            }
            // A named thread with a stack of its own, its end, and its memory.
            let thread = std::thread::Builder::new()
                .name("inside".into())
                .spawn(|| vec![1u8; 1 << 20].len());
            let Ok(Ok(1_048_576)) = thread.map(|t| t.join()) else {
                return 3;
            };
            let Ok(listener) = std::os::unix::net::UnixStream::pair() else {
                return 4;
            };
            match listener.0.set_nonblocking(true) {
                Ok(()) => 0,
                Err(_) => 5,
            }
        });
        assert_eq!(status, 0);
    }

    #[test]
    fn a_panic_is_reported_and_survived() {
        let status = under(Action::Kill, Role::Serving, || {
            let quiet = std::panic::catch_unwind(|| {
                if std::hint::black_box(true) {
                    panic!("on purpose");
                }
            });
            match quiet {
                Err(_) => 0,
                Ok(()) => 1,
            }
        });
        assert_eq!(status, 0);
    }

    #[test]
    fn the_waiting_process_can_do_less() {
        let status = under(Action::Kill, Role::Waiting, || {
            call(libc::SYS_openat, 0, 0, 0)
        });
        assert!(killed_by_sigsys(status));
        let status = under(Action::Kill, Role::Waiting, || {
            call(libc::SYS_wait4, -1, 0, 0)
        });
        assert_eq!(libc::WEXITSTATUS(status), libc::ECHILD);
    }
}
