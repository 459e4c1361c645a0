//! What a passthrough file system is told to do; no command line here.

use std::os::fd::OwnedFd;
use std::time::Duration;

use super::ids::IdTable;
use super::xattr_map::XattrMap;

/// How long, and what, the guest may cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CachePolicy {
    /// Caches within `timeout` of a check; data as the guest kernel sees fit.
    Auto {
        /// How long names and attributes are believed. Never 0: a timeout of 0
        /// makes the guest look every component up again for each use.
        timeout: Duration,
    },
    /// Only the guest changes the share: everything is kept.
    Always {
        /// As for `Auto`.
        timeout: Duration,
    },
    /// Names, attributes and directories are kept as with `Always`; file data is
    /// never cached.
    Metadata {
        /// As for `Auto`.
        timeout: Duration,
    },
    /// Nothing is cached: every use of a name or an attribute asks again.
    Never,
}

impl CachePolicy {
    /// The shortest timeout that is told to the guest for a policy that caches.
    const SHORTEST: Duration = Duration::from_millis(1);

    /// `Auto` with its usual timeout, 1 s.
    pub const fn auto() -> CachePolicy {
        CachePolicy::Auto {
            timeout: Duration::from_secs(1),
        }
    }

    /// `Always` with its usual timeout, a day.
    pub const fn always() -> CachePolicy {
        CachePolicy::Always {
            timeout: Duration::from_secs(86_400),
        }
    }

    /// `Metadata` with its usual timeout, a day.
    pub const fn metadata() -> CachePolicy {
        CachePolicy::Metadata {
            timeout: Duration::from_secs(86_400),
        }
    }

    /// How long the guest may believe names and attributes.
    pub fn timeout(&self) -> Duration {
        match *self {
            CachePolicy::Auto { timeout }
            | CachePolicy::Always { timeout }
            | CachePolicy::Metadata { timeout } => timeout.max(CachePolicy::SHORTEST),
            CachePolicy::Never => Duration::ZERO,
        }
    }
}

/// Whether something is used that the guest's kernel has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Negotiate {
    /// It is not.
    Never,
    /// Where the guest knows it; otherwise a warning is logged.
    Auto,
    /// A guest that does not know it cannot mount.
    Always,
}

/// How an inode that the guest knows is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InodeFileHandles {
    /// By an `O_PATH` descriptor each.
    Never,
    /// By a kernel file handle where the file system and the daemon's
    /// capabilities (`CAP_DAC_READ_SEARCH`) allow, otherwise by descriptor.
    Prefer,
    /// By a kernel file handle; what has none cannot be looked up.
    Mandatory,
}

/// How an inode's place is written into a crossing's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrationMode {
    /// By name in its parent directory.
    FindPaths,
    /// By kernel file handle: source and destination see the same file system.
    FileHandles,
}

/// What happens with an object that cannot be found on the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrationOnError {
    /// The crossing is refused.
    Abort,
    /// The guest gets an error for that object, and for that object only.
    GuestError,
}

/// When a destination looks for the guest's inodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restore {
    /// All of them before the state is taken over.
    Eager,
    /// What is open, and `first` others, before; the rest when the guest uses it, and
    /// in the background. Only where the share is the source's, so that what is found
    /// later can still be told; otherwise as `Eager`.
    Lazy {
        /// Inodes. With no more than these it is as `Eager`.
        first: u32,
    },
}

impl Restore {
    /// `Lazy`, with what takes some tens of milliseconds before.
    pub const fn lazy() -> Restore {
        Restore::Lazy { first: 4096 }
    }
}

pub use super::crossing::DEFAULT_LIMIT as DEFAULT_GHOST_LIMIT;

/// What is shared, and how.
#[derive(Debug)]
pub struct Config {
    /// The directory (or the one regular file) that is the share's root.
    /// Any kind of descriptor of it will do, `O_PATH` too.
    pub root: OwnedFd,
    /// `/proc/self/fd`, opened as a directory, where `/proc` will not be there
    /// when the file system is made (behind a `chroot`); `None` opens it.
    pub proc_self_fd: Option<OwnedFd>,
    /// The host's boot id ([`boot_id`]), within which device numbers tell file
    /// systems apart; `None` where that is not known.
    pub boot_id: Option<[u8; 16]>,
    /// What the guest may cache.
    pub cache: CachePolicy,
    /// Let the guest kernel collect writes (`FUSE_WRITEBACK_CACHE`).
    pub writeback: bool,
    /// Let the guest list and look up at once (`FUSE_DO_READDIRPLUS`).
    pub readdirplus: bool,
    /// Pass the guest's `O_DIRECT` on to the host.
    pub allow_direct_io: bool,
    /// Allow shared mappings of files that are not cached
    /// (`FUSE_DIRECT_IO_ALLOW_MMAP`).
    pub allow_mmap: bool,
    /// Pass the guest's `O_NOATIME` on; needs the file's ownership or `CAP_FOWNER`.
    pub preserve_noatime: bool,
    /// Tell the guest where another host file system begins
    /// (`FUSE_ATTR_SUBMOUNT`).
    pub announce_submounts: bool,
    /// Serve extended attributes. A map of them, POSIX ACLs and security labels
    /// imply it.
    pub xattr: bool,
    /// Keep the guest's extended attributes under other names.
    pub xattr_map: Option<XattrMap>,
    /// Let the guest have POSIX ACLs (`FUSE_POSIX_ACL`): it checks access by them,
    /// and the host keeps them and hands default ones down.
    pub posix_acl: Negotiate,
    /// Set the labels that the guest's security module gives new objects
    /// (`FUSE_SECURITY_CTX`).
    pub security_label: Negotiate,
    /// User ids that are others on the host. Not together with POSIX ACLs, which
    /// have ids in them that the host's kernel looks at.
    pub uids: IdTable,
    /// The same for group ids.
    pub gids: IdTable,
    /// Clear set-user-id and set-group-id bits on the host instead of in the
    /// guest (`FUSE_HANDLE_KILLPRIV_V2`).
    pub killpriv_v2: bool,
    /// Make the guest's `fcntl` locks real on the host (`FUSE_POSIX_LOCKS`).
    pub posix_lock: bool,
    /// Make the guest's `flock` locks real on the host (`FUSE_FLOCK_LOCKS`).
    pub flock: bool,
    /// How inodes are held.
    pub inode_file_handles: InodeFileHandles,
    /// How inodes are described in a crossing.
    pub migration_mode: MigrationMode,
    /// Check every path when the device is stopped, and not only those that may have
    /// changed.
    pub migration_confirm_paths: bool,
    /// What a crossing does with objects that are not found.
    pub migration_on_error: MigrationOnError,
    /// When a destination looks for the guest's inodes.
    pub restore: Restore,
    /// Most bytes of contents of unlinked files that are open which cross in a state.
    pub ghost_limit: u64,
}

impl Config {
    /// The usual settings for the share whose root `root` is.
    pub fn new(root: OwnedFd) -> Config {
        Config {
            root,
            proc_self_fd: None,
            boot_id: None,
            cache: CachePolicy::auto(),
            writeback: false,
            readdirplus: true,
            allow_direct_io: false,
            allow_mmap: false,
            preserve_noatime: false,
            announce_submounts: true,
            xattr: false,
            xattr_map: None,
            posix_acl: Negotiate::Never,
            security_label: Negotiate::Never,
            uids: IdTable::default(),
            gids: IdTable::default(),
            killpriv_v2: false,
            posix_lock: false,
            flock: false,
            inode_file_handles: InodeFileHandles::Prefer,
            migration_mode: MigrationMode::FindPaths,
            migration_confirm_paths: false,
            migration_on_error: MigrationOnError::Abort,
            restore: Restore::lazy(),
            ghost_limit: DEFAULT_GHOST_LIMIT,
        }
    }
}

/// The kernel's boot id: 16 bytes that are others after each boot, on any host. To
/// be read before a confinement hides `/proc`.
pub fn boot_id() -> Option<[u8; 16]> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    parse_boot_id(text.trim())
}

/// A UUID's bytes.
fn parse_boot_id(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    if digits.len() != 32 {
        return None;
    }
    u128::from_str_radix(&digits, 16)
        .ok()
        .map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_id_is_sixteen_bytes() {
        assert_eq!(
            parse_boot_id("3c5cfcf9-a1dd-4905-a576-38fd43adab45").map(|id| id[..3].to_vec()),
            Some(vec![0x3c, 0x5c, 0xfc])
        );
        for text in ["", "3c5cfcf9", "3c5cfcf9-a1dd-4905-a576-38fd43adab4g"] {
            assert_eq!(parse_boot_id(text), None);
        }
        assert!(boot_id().is_some(), "every Linux has one");
    }

    #[test]
    fn a_policy_that_caches_never_says_zero() {
        let policy = CachePolicy::Auto {
            timeout: Duration::ZERO,
        };
        assert!(policy.timeout() > Duration::ZERO);
        assert_eq!(CachePolicy::Never.timeout(), Duration::ZERO);
        assert_eq!(CachePolicy::always().timeout().as_secs(), 86_400);
    }
}
