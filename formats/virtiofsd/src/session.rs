//! FUSE_INIT's outcome. virtiofsd's stream has four bits of it, and virtiofsd
//! itself forgets the rest when it loads one.

use ferryfs_state::{DialectError, Losses, Session};

use crate::wire::Options;

// Flags of FUSE_INIT, by their names in linux/fuse.h.
const ASYNC_READ: u64 = 1;
const ATOMIC_O_TRUNC: u64 = 1 << 3;
const BIG_WRITES: u64 = 1 << 5;
const DONT_MASK: u64 = 1 << 6;
const AUTO_INVAL_DATA: u64 = 1 << 12;
const DO_READDIRPLUS: u64 = 1 << 13;
const READDIRPLUS_AUTO: u64 = 1 << 14;
const ASYNC_DIO: u64 = 1 << 15;
const WRITEBACK_CACHE: u64 = 1 << 16;
const NO_OPEN_SUPPORT: u64 = 1 << 17;
const PARALLEL_DIROPS: u64 = 1 << 18;
const HANDLE_KILLPRIV: u64 = 1 << 19;
const POSIX_ACL: u64 = 1 << 20;
const MAX_PAGES: u64 = 1 << 22;
const CACHE_SYMLINKS: u64 = 1 << 23;
const NO_OPENDIR_SUPPORT: u64 = 1 << 24;
const EXPLICIT_INVAL_DATA: u64 = 1 << 25;
const SUBMOUNTS: u64 = 1 << 27;
const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
const SETXATTR_EXT: u64 = 1 << 29;
const INIT_EXT: u64 = 1 << 30;
const SECURITY_CTX: u64 = 1 << 32;
const CREATE_SUPP_GROUP: u64 = 1 << 34;

/// What virtiofsd agrees on with every guest that can, and what changes nothing
/// for one that cannot: it never sends what these allow. `HAS_IOCTL_DIR`, which
/// virtiofsd also offers, is left out: it answers every ioctl by `ENOSYS`, as is
/// done here. `ALLOW_IDMAP` too: this side gives it no meaning of its own.
const ALWAYS: u64 = ASYNC_READ
    | ATOMIC_O_TRUNC
    | BIG_WRITES
    | AUTO_INVAL_DATA
    | DO_READDIRPLUS
    | READDIRPLUS_AUTO
    | ASYNC_DIO
    | PARALLEL_DIROPS
    | MAX_PAGES
    | INIT_EXT;

/// virtiofsd sends these three together or not at all.
const ACL: u64 = POSIX_ACL | DONT_MASK | SETXATTR_EXT;

/// `MAX_BUFFER_SIZE`: the longest write that virtiofsd takes, in bytes.
const MAX_WRITE: u32 = 1 << 20;

/// What virtiofsd breaks a guest by that has it: it knows nothing of the flag once
/// it has loaded a state.
const BREAKS: [(u64, &str); 6] = [
    (
        SETXATTR_EXT,
        "SETXATTR_EXT: after a crossing virtiofsd takes the guest's SETXATTR for malformed, \
         and ends",
    ),
    (
        SECURITY_CTX,
        "SECURITY_CTX: after a crossing virtiofsd makes new files without their security label",
    ),
    (
        HANDLE_KILLPRIV,
        "HANDLE_KILLPRIV: virtiofsd leaves set-user-id bits to the guest",
    ),
    (
        NO_OPEN_SUPPORT,
        "NO_OPEN_SUPPORT: virtiofsd needs an OPEN for each file",
    ),
    (
        NO_OPENDIR_SUPPORT,
        "NO_OPENDIR_SUPPORT: virtiofsd needs an OPENDIR for each directory",
    ),
    (
        EXPLICIT_INVAL_DATA,
        "EXPLICIT_INVAL_DATA: virtiofsd never tells the guest to drop its cache",
    ),
];

/// The flags that the stream's options amount to.
fn flags(options: Options) -> u64 {
    let of = |flags, set| if set { flags } else { 0 };
    ALWAYS
        | of(WRITEBACK_CACHE, options.writeback)
        | of(SUBMOUNTS, options.announce_submounts)
        | of(ACL, options.posix_acl)
        | of(CREATE_SUPP_GROUP, options.sup_group_extension)
}

/// A session as virtiofsd agrees on it with a guest.
pub(crate) fn infer(options: Options) -> Session {
    let flags = flags(options);
    Session {
        // Requests have had one shape from 7.38 on. Of an older guest all that
        // differs for a daemon is a field that it leaves 0.
        guest_minor: 38,
        minor: 38,
        offered_flags: flags,
        flags,
        max_write: MAX_WRITE,
        max_pages: (MAX_WRITE / 4096) as u16,
        // The guest's own proposal, which virtiofsd sends back and forgets; this is
        // what Linux proposes (VM_READAHEAD_PAGES).
        max_readahead: 128 << 10,
        max_background: u16::MAX,
        congestion_threshold: u16::MAX / 4 * 3,
        time_gran: 1,
    }
}

/// Whether writes go through the guest's page cache, at offsets that are right.
pub(crate) fn has_writeback(session: Option<&Session>) -> bool {
    session.is_some_and(|s| s.flags & WRITEBACK_CACHE != 0)
}

/// The stream's options for `session`.
pub(crate) fn options(session: &Session, losses: &mut Losses) -> Result<Options, DialectError> {
    let has = |flag| session.flags & flag != 0;
    let broken: Vec<_> = BREAKS
        .iter()
        .filter(|(flag, _)| has(*flag))
        .map(|(_, why)| *why)
        .collect();
    if !broken.is_empty() {
        return Err(DialectError::Refused(format!(
            "the guest's session uses what virtiofsd would not keep up: {}; a guest that \
             mounts without --posix-acl and --security-label can go to virtiofsd",
            broken.join("; ")
        )));
    }
    if session.max_write > MAX_WRITE {
        return Err(DialectError::Refused(format!(
            "the guest writes up to {} bytes at once, and virtiofsd takes {MAX_WRITE}",
            session.max_write
        )));
    }
    let options = Options {
        writeback: has(WRITEBACK_CACHE),
        announce_submounts: has(SUBMOUNTS),
        posix_acl: has(POSIX_ACL),
        sup_group_extension: has(CREATE_SUPP_GROUP),
    };
    if has(CREATE_SUPP_GROUP) {
        losses.0.push(
            "supplementary groups: virtiofsd ignores those that the guest sends along after a \
             crossing; making a file where only such a group may write fails with EACCES"
                .to_owned(),
        );
    }
    if has(HANDLE_KILLPRIV_V2) {
        losses.0.push(
            "HANDLE_KILLPRIV_V2: virtiofsd clears set-user-id bits for the guest only when it \
             is started with --killpriv-v2"
                .to_owned(),
        );
    }
    // A guest that keeps what links say asks for less, of any daemon.
    let told = flags(options) | HANDLE_KILLPRIV_V2 | CACHE_SYMLINKS;
    let untold = session.flags & !told;
    if untold != 0 {
        losses.0.push(format!(
            "INIT flags {untold:#x}: the stream has no place for them"
        ));
    }
    let inferred = infer(options);
    let numbers = |s: &Session| {
        let limits = (s.max_write, s.max_pages, s.max_readahead);
        let queue = (s.max_background, s.congestion_threshold, s.time_gran);
        (s.guest_minor, s.minor, limits, queue)
    };
    if numbers(session) != numbers(&inferred) {
        losses.0.push(
            "INIT's numbers (protocol minor, max_write and the like): a reader must take those \
             of a session with virtiofsd instead"
                .to_owned(),
        );
    }
    Ok(options)
}
