//! The command line, in the words of virtiofsd 1.14 where it has them.

use std::os::fd::RawFd;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, ValueEnum};
use ferryfs_core::passthrough::ids::Translation;
use ferryfs_core::passthrough::xattr_map::XattrMap;
use ferryfs_sandbox::{CapabilityChanges, IdMap};
use ferryfs_state::Remap;

/// Longest tag in bytes: `struct virtio_fs_config` has a field of 36.
const TAG_MAX: usize = 36;

/// What the command line says, before it is checked as a whole; see
/// [`Config`](crate::Config).
#[derive(Clone, Debug, Parser)]
#[command(
    about = "Serves a host directory to a virtual machine over virtio-fs (a vhost-user-fs back-end)",
    after_help = "The state of a running daemon crosses to another one in the VM's live migration; \
                  see --migration-mode and --state-format.",
    args_override_self = true,
    max_term_width = 100
)]
pub struct Args {
    /// Directory (or regular file) to share
    #[arg(long, value_name = "PATH")]
    pub shared_dir: Option<PathBuf>,

    /// Read options from this TOML file, such as cache = "always", in place of
    /// /etc/ferryfs/<this program>.toml, which is read where it exists; an option of the command
    /// line counts over a variable such as FERRYFSD_CACHE, and that over the file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Print the capabilities of this program as JSON, and end
    #[arg(long)]
    pub print_capabilities: bool,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub connection: ConnectionArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub share: ShareArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub safety: SafetyArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub migration: MigrationArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub legacy: LegacyArgs,
}

/// How the front-end is met.
#[derive(Clone, Debug, ClapArgs)]
#[command(next_help_heading = "Connection")]
pub struct ConnectionArgs {
    /// Listen on a new socket at this path
    #[arg(long, alias = "socket", value_name = "PATH")]
    pub socket_path: Option<PathBuf>,

    /// Let this group connect to the new socket, and not only the daemon's user
    #[arg(long, value_name = "GROUP", conflicts_with = "fd")]
    pub socket_group: Option<String>,

    /// Take an inherited descriptor that is already listening [default: the one that a service
    /// manager hands over by LISTEN_FDS, if it does]
    #[arg(long, value_name = "FD", conflicts_with = "socket_path")]
    pub fd: Option<RawFd>,

    /// Announce this tag in the device's configuration space (where the VMM gives none itself)
    #[arg(long, value_name = "TAG", value_parser = parse_tag)]
    pub tag: Option<String>,

    /// Go on listening when a front-end disconnects, instead of ending with 0
    #[arg(long)]
    pub keep_listening: bool,

    /// Keep the guest's inodes and open files when its front-end disconnects: for the guest that
    /// comes back, or for `ferryctl save` (implies --keep-listening)
    #[arg(long)]
    pub keep_state: bool,

    /// Request queues to offer, each with a thread of its own
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=63))]
    pub request_queues: u16,

    /// Microseconds for which a queue's thread looks for the next request before it sleeps, unless
    /// it mostly does so in vain: less latency for more CPU time
    #[arg(long, value_name = "N", default_value_t = 0,
          value_parser = clap::value_parser!(u32).range(..=10_000))]
    pub poll_us: u32,

    /// Accepted for older command lines: each request queue has a thread of its own
    #[arg(long, value_name = "N")]
    pub thread_pool_size: Option<u32>,
}

/// How the share looks to the guest.
#[derive(Clone, Debug, ClapArgs)]
#[command(next_help_heading = "File system")]
pub struct ShareArgs {
    /// How long the guest may trust what it was told: "never" asks each time, "auto" for a second,
    /// "metadata" a day for all but file contents, "always" a day
    #[arg(
        long,
        value_enum,
        ignore_case = true,
        default_value = "auto",
        value_name = "POLICY"
    )]
    pub cache: CachePolicy,

    /// Let the guest collect writes in its page cache
    #[arg(long)]
    pub writeback: bool,

    /// Do not let the guest fetch attributes along with directory listings
    #[arg(long)]
    pub no_readdirplus: bool,

    /// Pass O_DIRECT on to the host instead of dropping it
    #[arg(long)]
    pub allow_direct_io: bool,

    /// Allow shared mmap with --cache=never and --cache=metadata
    #[arg(long)]
    pub allow_mmap: bool,

    /// Pass O_NOATIME on to the host instead of dropping it
    #[arg(long)]
    pub preserve_noatime: bool,

    /// Serve extended attributes
    #[arg(long)]
    pub xattr: bool,

    /// Keep the guest's extended attributes under other names, such as :map::user.virtiofs.: or
    /// :prefix:all:trusted.:user.virtiofs.::ok:all::: (implies --xattr)
    #[arg(long, value_name = "RULES")]
    pub xattrmap: Option<XattrMap>,

    /// Serve POSIX ACLs (implies --xattr); "always" [default where no value is given] refuses guests
    /// that do not know them
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_value = "never",
          default_missing_value = "always", value_name = "WHEN")]
    pub posix_acl: Negotiation,

    /// Set security labels on what the guest makes (implies --xattr); as for --posix-acl
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_value = "never",
          default_missing_value = "always", value_name = "WHEN")]
    pub security_label: Negotiation,

    /// Refuse every change
    #[arg(long)]
    pub readonly: bool,

    /// Clear set-user-id bits on the host when files change, instead of in the guest
    #[arg(long, overrides_with = "no_killpriv_v2")]
    pub killpriv_v2: bool,

    /// Let the guest clear set-user-id bits (default)
    #[arg(long, overrides_with = "killpriv_v2")]
    pub no_killpriv_v2: bool,

    /// Make fcntl locks of the guest real on the host, so that other guests and the host itself see
    /// them; they cross in a migration
    #[arg(long, overrides_with = "no_posix_lock")]
    pub posix_lock: bool,

    /// Keep fcntl locks within the guest (default)
    #[arg(long, overrides_with = "posix_lock")]
    pub no_posix_lock: bool,

    /// The same as --posix-lock for flock locks
    #[arg(long, overrides_with = "no_flock")]
    pub flock: bool,

    /// Keep flock locks within the guest (default)
    #[arg(long, overrides_with = "flock")]
    pub no_flock: bool,

    /// Let user ids be others on the host (may be given several times): guest:FROM:TO:COUNT,
    /// host:FROM:TO:COUNT, map:GUEST:HOST:COUNT for both, squash-guest:FROM:TO:COUNT,
    /// squash-host:FROM:TO:COUNT, forbid-guest:FROM:COUNT
    #[arg(long, value_name = "TYPE:...")]
    pub translate_uid: Vec<Translation>,

    /// The same for group ids
    #[arg(long, value_name = "TYPE:...")]
    pub translate_gid: Vec<Translation>,

    /// Tell the guest which directories are mount points (default)
    #[arg(long, overrides_with = "no_announce_submounts")]
    pub announce_submounts: bool,

    /// Do not tell the guest which directories are mount points
    #[arg(long, overrides_with = "announce_submounts")]
    pub no_announce_submounts: bool,

    /// Refer to inodes by file handle instead of holding a descriptor for each
    #[arg(
        long,
        value_enum,
        require_equals = true,
        default_value = "prefer",
        value_name = "WHEN"
    )]
    pub inode_file_handles: FileHandles,
}

/// What the daemon can reach, and what it says.
#[derive(Clone, Debug, ClapArgs)]
#[command(next_help_heading = "Safety and logs")]
pub struct SafetyArgs {
    /// Confine the daemon
    #[arg(
        long,
        value_enum,
        ignore_case = true,
        default_value = "namespace",
        value_name = "MODE"
    )]
    pub sandbox: SandboxMode,

    /// What happens when the daemon makes a system call that serving does not need
    #[arg(long, value_enum, default_value = "kill", value_name = "ACTION")]
    pub seccomp: Seccomp,

    /// Keep capabilities beside the usual ones, or not keep some of them, such as
    /// +sys_admin:-mknod
    #[arg(long, value_name = "CHANGES", allow_hyphen_values = true)]
    pub modcaps: Option<CapabilityChanges>,

    /// With --sandbox namespace and not as root: map COUNT users of the host from OUTSIDE on to
    /// those from INSIDE on that the guest sees (may be given several times) [default: the
    /// daemon's user to root]
    #[arg(long, value_name = ":INSIDE:OUTSIDE:COUNT:")]
    pub uid_map: Vec<IdMap>,

    /// The same for groups
    #[arg(long, value_name = ":INSIDE:OUTSIDE:COUNT:")]
    pub gid_map: Vec<IdMap>,

    /// Limit of open descriptors; 0 leaves it alone [default: 1000000, or as far as permitted]
    #[arg(long, value_name = "N")]
    pub rlimit_nofile: Option<u64>,

    /// What is logged to standard error
    #[arg(long, value_enum, default_value = "info", value_name = "LEVEL")]
    pub log_level: LogLevel,

    /// Log to the system's log instead of standard error
    #[arg(long)]
    pub syslog: bool,
}

/// How the state crosses.
#[derive(Clone, Debug, ClapArgs)]
#[command(next_help_heading = "Migration")]
pub struct MigrationArgs {
    /// How the guest's state crosses when its VM migrates: "internal" through the VMM; "external"
    /// by other means, and the VMM is given, and may bring, a state of 0 bytes; "none" not at all,
    /// and the VMM refuses to migrate
    #[arg(long, value_enum, default_value = "internal", value_name = "TYPE")]
    pub migration_type: MigrationType,

    /// As the source: how the destination is to find the guest's files
    #[arg(long, value_enum, default_value = "find-paths", value_name = "MODE")]
    pub migration_mode: MigrationMode,

    /// As the destination: what to do with a file that cannot be found
    #[arg(long, value_enum, default_value = "abort", value_name = "WHAT")]
    pub migration_on_error: OnError,

    /// As the destination: when to look for the files that the guest knows and has not open.
    /// What is open is always opened before the state is taken over
    #[arg(long, value_enum, default_value = "lazy", value_name = "WHEN")]
    pub restore: RestoreWhen,

    /// As the destination, with --restore=lazy: how many of them are looked for before all the
    /// same, so that a wrong share is refused; a state with no more is restored eagerly
    #[arg(long, default_value_t = 4096, value_name = "N")]
    pub restore_first: u32,

    /// As the source, in find-paths mode: make sure that the destination opens the very files that
    /// are open here. They cross by file handle then, which both sides' shares must have
    #[arg(long)]
    pub migration_verify_handles: bool,

    /// As the source, in find-paths mode: check every path when the VM is stopped, and not only
    /// those that may have changed
    #[arg(long)]
    pub migration_confirm_paths: bool,

    /// Most bytes of unlinked files that the guest has open which cross with the state (find-paths
    /// mode, and what has no file handle), with suffixes K, M and G: as the source, with more of them
    /// the migration is refused; as the destination, so is a state with more
    #[arg(long, default_value = "64M", value_name = "BYTES", value_parser = parse_bytes)]
    pub ghost_limit: u64,

    /// As the destination: what lies at path OLD of the source's share, and below it, lies at NEW
    /// here; may be given again. Bytes that are not printable ASCII as \\xNN
    #[arg(long, value_name = "OLD=NEW")]
    pub remap_path: Vec<Remap>,

    /// As the source: format of the state; a destination recognises each one that is built in.
    /// Where this is not said: postcard+zstd if it is built in, else postcard, else the first that is
    #[arg(long, value_name = "FORMAT")]
    pub state_format: Option<String>,

    /// Speak the state protocol of the QEMU RFC of 2023, too (FS_SET_STATE_FD, FS_GET_STATE,
    /// FS_SET_STATE through shared memory), whose message numbers mean other things today
    #[arg(long)]
    pub rfc_state_protocol: bool,

    /// As the source: write a state for readers that know state versions up to N, and refuse to
    /// where the guest would lose something [default: the lowest version that holds the state]
    #[arg(long, value_name = "N")]
    pub state_version: Option<u32>,

    /// As the destination: load the guest's state from this file at the start; the front-end then
    /// sends none, or 0 bytes
    #[arg(long, value_name = "PATH")]
    pub state_file: Option<PathBuf>,

    /// Listen on another new socket at this path, for `ferryctl save` and `ferryctl load` while a
    /// VMM is connected, whose VM is stopped
    #[arg(long, value_name = "PATH")]
    pub control_socket: Option<PathBuf>,
}

/// Words of older command lines; see [`Args::apply_legacy`].
#[derive(Clone, Debug, ClapArgs)]
#[command(next_help_heading = "Older command lines")]
pub struct LegacyArgs {
    /// Options in one: source=PATH, cache=, sandbox=, xattrmap=, modcaps=, loglevel=, and xattr,
    /// no_xattr and so on
    #[arg(short = 'o', value_name = "OPTION[=VALUE],...")]
    pub options: Vec<String>,

    /// The same as --log-level debug
    #[arg(short = 'd')]
    pub debug: bool,

    /// Accepted, and always so: stay in the foreground
    #[arg(short = 'f')]
    pub foreground: bool,
}

/// `--posix-acl` and `--security-label`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Negotiation {
    /// Not at all
    Never,
    /// Where the guest's kernel knows it
    Auto,
    /// Or the guest cannot mount
    Always,
}

/// `--cache`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum CachePolicy {
    Auto,
    Always,
    Metadata,
    Never,
}

/// `--inode-file-handles`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum FileHandles {
    Never,
    #[value(alias = "fallback")]
    Prefer,
    Mandatory,
}

/// `--sandbox`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SandboxMode {
    /// Namespaces of its own, with nothing in them but the share; for a user who is not root, with
    /// a user namespace
    Namespace,
    /// The share is the root directory; needs root
    Chroot,
    /// The daemon sees the whole host, and serves the share alone
    None,
}

/// `--seccomp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Seccomp {
    /// It is made
    None,
    /// The daemon is killed
    Kill,
    /// It is made, and logged by the kernel
    Log,
    /// The daemon ends by SIGSYS, leaving a core file where those are written
    Trap,
}

/// `--log-level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum LogLevel {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// `--migration-type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MigrationType {
    /// Not at all
    None,
    /// By a file, or from daemon to daemon over their control sockets
    External,
    /// Through the VMM
    Internal,
}

/// `--migration-mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MigrationMode {
    /// By name, from the share's root down: works between copies of a share
    FindPaths,
    /// By the kernel's file handles: the same file system on both sides, and CAP_DAC_READ_SEARCH
    /// on the destination
    FileHandles,
}

/// `--migration-on-error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnError {
    /// Refuse the whole state; the VM goes on at the source
    Abort,
    /// Take the rest; the guest gets an error whenever it uses that file
    GuestError,
}

/// `--restore`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RestoreWhen {
    /// All before the state is taken over: downtime grows with their number
    Eager,
    /// When the guest uses them, and in the background, where the share is the source's and
    /// its files can be told; otherwise as eager
    Lazy,
}

fn parse_tag(tag: &str) -> Result<String, String> {
    match tag.len() {
        1..=TAG_MAX => Ok(tag.to_owned()),
        n => Err(format!("a tag has 1 to {TAG_MAX} bytes, this one has {n}")),
    }
}

/// Most that `--ghost-limit` can be: what one state may carry.
const GHOST_LIMIT_MAX: u64 = 4 << 30;

/// A number of bytes: `K`, `M` and `G` (or `KiB` and so on) stand for powers of 1024.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" | "k" | "KiB" => 10,
        "M" | "m" | "MiB" => 20,
        "G" | "g" | "GiB" => 30,
        other => return Err(format!("\"{other}\" is no unit: K, M or G")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "a number of bytes, as 67108864 or 64M".to_owned())?;
    match number.checked_mul(1 << shift) {
        Some(bytes) if bytes <= GHOST_LIMIT_MAX => Ok(bytes),
        _ => Err("more than 4G, the most that a state may carry".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches;

    fn parse(line: &str) -> Result<Args, String> {
        let words = std::iter::once("ferryfsd").chain(line.split_whitespace());
        crate::settings::command("ferryfsd", "0")
            .try_get_matches_from(words)
            .and_then(|matches| Args::from_arg_matches(&matches))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn the_definition_is_sound() {
        crate::settings::command("ferryfsd", "0").debug_assert();
    }

    #[test]
    fn a_socket_is_made_or_inherited() {
        assert!(parse("--print-capabilities").is_ok());
        assert!(parse("--shared-dir /x --fd 3").is_ok());
        assert!(parse("--shared-dir /x --fd 3 --socket-path /s")
            .unwrap_err()
            .contains("cannot be used with"));
    }

    #[test]
    fn switches_can_be_undone() {
        let base = "--shared-dir /x --fd 3";
        assert!(parse(&format!("{base} --xattr")).unwrap().share.xattr);
        assert!(parse(&format!("{base} --xattr=true")).unwrap().share.xattr);
        let a = parse(&format!("{base} --xattr --xattr=false")).unwrap();
        assert!(!a.share.xattr);
        assert!(parse(&format!("{base} --xattr=perhaps")).is_err());
    }

    #[test]
    fn negotiations_take_their_value_behind_an_equals_sign() {
        let base = "--shared-dir /x --fd 3";
        let acl = |more: &str| parse(&format!("{base} {more}")).map(|a| a.share.posix_acl);
        assert_eq!(acl("").unwrap(), Negotiation::Never);
        assert_eq!(acl("--posix-acl").unwrap(), Negotiation::Always);
        assert_eq!(acl("--posix-acl=auto").unwrap(), Negotiation::Auto);
        assert_eq!(acl("--posix-acl=never").unwrap(), Negotiation::Never);
        assert!(acl("--posix-acl auto").is_err());
        let a = parse(&format!("{base} --security-label --xattr")).unwrap();
        assert_eq!(a.share.security_label, Negotiation::Always);
    }

    #[test]
    fn rules_and_ranges_are_checked_where_they_are_given() {
        let base = "--shared-dir /x --fd 3";
        for (options, want) in [
            ("--xattrmap :ok:client:user.::", "terminating rule"),
            ("--translate-uid map:1:2", "three numbers"),
            ("--translate-gid forbid-guest:4294967295:10", "go beyond"),
            ("--socket-group kvm", "cannot be used with"),
        ] {
            let error = parse(&format!("{base} {options}")).unwrap_err();
            assert!(error.contains(want), "{options}: {error}");
        }
        let a = parse(&format!(
            "{base} --translate-uid map:0:1000:1 --translate-uid host:0:65534:1"
        ));
        assert_eq!(a.unwrap().share.translate_uid.len(), 2);
    }

    #[test]
    fn older_words_are_taken() {
        let a = parse("--shared-dir /x --socket /s --socket-group kvm -f -d").unwrap();
        assert_eq!(a.connection.socket_path.as_deref(), Some("/s".as_ref()));
        assert_eq!(a.connection.socket_group.as_deref(), Some("kvm"));
        let a = parse("--shared-dir /x --fd 3 --killpriv-v2 --no-killpriv-v2").unwrap();
        assert!(!a.share.killpriv_v2);
        let a = parse("--shared-dir /x --fd 3 --no-killpriv-v2 --killpriv-v2").unwrap();
        assert!(a.share.killpriv_v2);
    }

    #[test]
    fn sizes_have_units() {
        let base = "--shared-dir /x --fd 3";
        let limit = |more: &str| parse(&format!("{base} {more}")).map(|a| a.migration.ghost_limit);
        assert_eq!(limit("").unwrap(), 64 << 20);
        for (text, bytes) in [
            ("0", 0),
            ("1000", 1000),
            ("5K", 5 << 10),
            ("64M", 64 << 20),
            ("2MiB", 2 << 20),
            ("4G", 4 << 30),
        ] {
            assert_eq!(limit(&format!("--ghost-limit {text}")).unwrap(), bytes);
        }
        for (text, want) in [
            ("5T", "is no unit"),
            ("M", "a number of bytes"),
            ("-1", "unexpected argument"),
            ("1.5G", "a number of bytes"),
            ("5G", "the most that a state may carry"),
            ("99999999999999999999", "a number of bytes"),
            ("18446744073709551615G", "the most that a state may carry"),
        ] {
            let error = limit(&format!("--ghost-limit {text}")).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
    }

    #[test]
    fn tags_fit_the_configuration_space() {
        let base = "--shared-dir /x --fd 3 --tag";
        assert!(parse(&format!("{base} {}", "t".repeat(36))).is_ok());
        assert!(parse(&format!("{base} {}", "t".repeat(37)))
            .unwrap_err()
            .contains("this one has 37"));
    }

    #[test]
    fn the_last_of_announce_and_no_announce_counts() {
        let base = "--shared-dir /x --fd 3";
        let a = parse(&format!(
            "{base} --no-announce-submounts --announce-submounts"
        ))
        .unwrap();
        assert!(!a.share.no_announce_submounts);
        let a = parse(&format!(
            "{base} --announce-submounts --no-announce-submounts"
        ))
        .unwrap();
        assert!(a.share.no_announce_submounts);
    }
}
