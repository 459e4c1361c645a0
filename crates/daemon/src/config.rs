//! The command line, checked as a whole.

use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;

use ferryfs_core::passthrough::config as fs;
use ferryfs_core::passthrough::ids::{IdTable, Translation, TranslationError};
use ferryfs_sandbox::{seccomp, CapabilityChanges, Confined, IdMaps, Mode, Settings};
use ferryfs_state::{Registry, StateError, StateWriter, WriteOptions};

use crate::args::{
    Args, CachePolicy, FileHandles, LogLevel, MigrationMode, MigrationType, Negotiation, OnError,
    RestoreWhen, SandboxMode, Seccomp, ShareArgs,
};
use crate::legacy::LegacyError;

/// Where the front-end is met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Socket {
    /// A socket to be made.
    Path(PathBuf),
    /// An inherited descriptor that listens.
    Fd(RawFd),
}

/// What the daemon is to do.
#[derive(Clone, Debug)]
pub struct Config {
    /// The share.
    pub shared_dir: PathBuf,
    /// Where the front-end is met.
    pub socket: Socket,
    /// The rest of the command line, each checked by itself.
    pub args: Args,
    /// How the process is confined.
    pub sandbox: Settings,
    /// What happens on system calls that are not needed.
    pub seccomp: seccomp::Action,
    /// User ids that are others on the host.
    pub uids: IdTable,
    /// Group ids that are.
    pub gids: IdTable,
    /// How a state is written: a format or dialect that is built in.
    pub state_format: String,
    /// For which readers it is.
    pub state_options: WriteOptions,
}

/// Formats that a state is written in, where none is named and the first of them is built in:
/// every release reads both. The compressed one is less to be kept at the source until the
/// guest stops, and less to be sent then, for little time.
const PREFERRED_FORMATS: [&str; 2] = ["postcard+zstd", "postcard"];

/// The format of who does not name one.
fn preferred_format(formats: &Registry) -> &str {
    let built_in = |name: &&str| formats.get(name).is_ok();
    let preferred = PREFERRED_FORMATS.into_iter().find(built_in);
    // With none at all it is refused by name.
    preferred
        .or_else(|| formats.names().next())
        .unwrap_or(PREFERRED_FORMATS[0])
}

/// Why a command line makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is nothing to share.
    #[error("no shared directory; use --shared-dir PATH")]
    NoShare,
    /// There is nowhere to meet a front-end.
    #[error("no socket; use --socket-path PATH or --fd FD")]
    NoSocket,
    /// A file handle says all.
    #[error("{0} is for --migration-mode find-paths")]
    FindPathsOnly(&'static str),
    /// Nothing crosses.
    #[error("{0} has no use with --migration-type none")]
    NoMigration(&'static str),
    /// Standard streams are no sockets.
    #[error("--fd {0} is no descriptor of a listening socket; pass 3 or more")]
    Fd(RawFd),
    /// Ids are mapped by a user namespace.
    #[error(
        "--uid-map and --gid-map are for --sandbox namespace and for users other than root; root \
         translates ids with neither"
    )]
    IdMaps,
    /// The daemon is user 0 of its namespace.
    #[error("--uid-map and --gid-map have to map an id to 0, as in :0:1000:1:")]
    NoRoot,
    /// A handle cannot be opened without.
    #[error("--modcaps -dac_read_search takes what --inode-file-handles=mandatory needs")]
    Handles,
    /// `-o` cannot be followed.
    #[error("older options")]
    Legacy(#[source] LegacyError),
    /// Ids are translated twice.
    #[error("{option}")]
    Ids {
        /// `--translate-uid` or `--translate-gid`.
        option: &'static str,
        /// Which.
        #[source]
        source: TranslationError,
    },
    /// The ids in ACLs would not be translated.
    #[error("--translate-uid and --translate-gid cannot be used with --posix-acl")]
    AclIds,
    /// The format is not built in.
    #[error("--state-format")]
    Format(#[source] StateError),
    /// There is no such version.
    #[error("--state-version")]
    StateVersion(#[source] StateError),
    /// Another daemon's streams have versions of their own.
    #[error("--state-version is for ferryfs' own streams, not for --state-format {0}")]
    DialectVersion(String),
}

impl Config {
    /// Checks `args` for a process that is root (`privileged`) or not, with
    /// `formats` built in.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn new(
        mut args: Args,
        formats: &Registry,
        privileged: bool,
    ) -> Result<Config, ConfigError> {
        args.apply_legacy().map_err(ConfigError::Legacy)?;
        let (uids, gids) = args.share.ids()?;
        let state_format = match args.migration.state_format.take() {
            Some(named) => named,
            None => preferred_format(formats).to_owned(),
        };
        let writer = formats.writer(&state_format).map_err(ConfigError::Format)?;
        let state_options = match args.migration.state_version {
            None => WriteOptions::default(),
            Some(_) if matches!(writer, StateWriter::Dialect(_)) => {
                return Err(ConfigError::DialectVersion(state_format));
            }
            Some(version) => {
                WriteOptions::for_version(version).map_err(ConfigError::StateVersion)?
            }
        };
        let socket = match (args.connection.fd, &args.connection.socket_path) {
            (Some(fd), _) if fd < 3 => return Err(ConfigError::Fd(fd)),
            (Some(fd), _) => Socket::Fd(fd),
            (None, Some(path)) => Socket::Path(path.clone()),
            (None, None) => return Err(ConfigError::NoSocket),
        };
        let migration = &args.migration;
        if migration.migration_type == MigrationType::None {
            for (given, option) in [
                (&migration.state_file, "--state-file"),
                (&migration.control_socket, "--control-socket"),
            ] {
                if given.is_some() {
                    return Err(ConfigError::NoMigration(option));
                }
            }
        }
        if migration.migration_mode == MigrationMode::FileHandles {
            for (given, option) in [
                (
                    migration.migration_verify_handles,
                    "--migration-verify-handles",
                ),
                (
                    migration.migration_confirm_paths,
                    "--migration-confirm-paths",
                ),
            ] {
                if given {
                    return Err(ConfigError::FindPathsOnly(option));
                }
            }
        }
        let sandbox = sandbox(&args, privileged)?;
        let seccomp = match args.safety.seccomp {
            Seccomp::None => seccomp::Action::None,
            Seccomp::Kill => seccomp::Action::Kill,
            Seccomp::Log => seccomp::Action::Log,
            Seccomp::Trap => seccomp::Action::Trap,
        };
        Ok(Config {
            shared_dir: args.shared_dir.clone().ok_or(ConfigError::NoShare)?,
            socket,
            sandbox,
            seccomp,
            uids,
            gids,
            state_format,
            state_options,
            args,
        })
    }

    /// What the passthrough is told, for the share as it is seen behind the
    /// confinement.
    pub(crate) fn passthrough(&self, confined: Confined) -> fs::Config {
        let migration = &self.args.migration;
        let ids = (self.uids.clone(), self.gids.clone());
        let mut config = self.args.share.with_ids(ids, confined.root);
        config.proc_self_fd = confined.proc_self_fd;
        config.migration_mode = match migration.migration_mode {
            // What is opened by its handle is what it was.
            MigrationMode::FindPaths if migration.migration_verify_handles => {
                fs::MigrationMode::FileHandles
            }
            MigrationMode::FindPaths => fs::MigrationMode::FindPaths,
            MigrationMode::FileHandles => fs::MigrationMode::FileHandles,
        };
        config.migration_confirm_paths = migration.migration_confirm_paths;
        config.ghost_limit = migration.ghost_limit;
        config.migration_on_error = match migration.migration_on_error {
            OnError::Abort => fs::MigrationOnError::Abort,
            OnError::GuestError => fs::MigrationOnError::GuestError,
        };
        config.restore = match migration.restore {
            RestoreWhen::Eager => fs::Restore::Eager,
            RestoreWhen::Lazy => fs::Restore::Lazy {
                first: migration.restore_first,
            },
        };
        config
    }

    pub(crate) fn log_level(&self) -> log::LevelFilter {
        level(self.args.safety.log_level)
    }
}

impl ShareArgs {
    /// User and group ids that are others on the host.
    fn ids(&self) -> Result<(IdTable, IdTable), ConfigError> {
        let table = |option, translations: &[Translation]| {
            IdTable::new(translations).map_err(|source| ConfigError::Ids { option, source })
        };
        let uids = table("--translate-uid", &self.translate_uid)?;
        let gids = table("--translate-gid", &self.translate_gid)?;
        let translates = !uids.is_empty() || !gids.is_empty();
        if translates && self.posix_acl != Negotiation::Never {
            return Err(ConfigError::AclIds);
        }
        Ok((uids, gids))
    }

    /// What a passthrough of `root` is told, for a program that has these options
    /// and no device, such as `examples/ferryfs-mount`. [`ShareArgs::readonly`] is
    /// only half of it: the other is [`ReadOnly`](ferryfs_core::readonly::ReadOnly).
    ///
    /// # Errors
    /// [`ConfigError::Ids`] and [`ConfigError::AclIds`].
    pub fn file_system(&self, root: OwnedFd) -> Result<fs::Config, ConfigError> {
        Ok(self.with_ids(self.ids()?, root))
    }

    fn with_ids(&self, (uids, gids): (IdTable, IdTable), root: OwnedFd) -> fs::Config {
        let share = self;
        let mut config = fs::Config::new(root);
        config.cache = match share.cache {
            CachePolicy::Auto => fs::CachePolicy::auto(),
            CachePolicy::Always => fs::CachePolicy::always(),
            CachePolicy::Metadata => fs::CachePolicy::metadata(),
            CachePolicy::Never => fs::CachePolicy::Never,
        };
        config.writeback = share.writeback;
        config.readdirplus = !share.no_readdirplus && share.cache != CachePolicy::Never;
        config.allow_direct_io = share.allow_direct_io;
        config.allow_mmap = share.allow_mmap;
        config.preserve_noatime = share.preserve_noatime;
        config.announce_submounts = !share.no_announce_submounts;
        config.xattr = share.xattr;
        config.xattr_map = share.xattrmap.clone();
        config.posix_acl = negotiate(share.posix_acl);
        config.security_label = negotiate(share.security_label);
        config.killpriv_v2 = share.killpriv_v2;
        config.posix_lock = share.posix_lock;
        config.flock = share.flock;
        config.uids = uids;
        config.gids = gids;
        // Reading changes nothing either.
        config.preserve_noatime |= share.readonly;
        config.inode_file_handles = match share.inode_file_handles {
            FileHandles::Never => fs::InodeFileHandles::Never,
            FileHandles::Prefer => fs::InodeFileHandles::Prefer,
            FileHandles::Mandatory => fs::InodeFileHandles::Mandatory,
        };
        config
    }
}

fn sandbox(args: &Args, privileged: bool) -> Result<Settings, ConfigError> {
    let safety = &args.safety;
    let mode = match safety.sandbox {
        SandboxMode::Namespace => Mode::Namespace,
        SandboxMode::Chroot => Mode::Chroot,
        SandboxMode::None => Mode::None,
    };
    let id_maps = IdMaps {
        users: safety.uid_map.clone(),
        groups: safety.gid_map.clone(),
    };
    if !id_maps.is_empty() && (privileged || mode != Mode::Namespace) {
        return Err(ConfigError::IdMaps);
    }
    if !id_maps.have_root() {
        return Err(ConfigError::NoRoot);
    }
    let capabilities: CapabilityChanges = safety.modcaps.clone().unwrap_or_default();
    if args.share.inode_file_handles == FileHandles::Mandatory && !capabilities.keep_handles() {
        return Err(ConfigError::Handles);
    }
    Ok(Settings {
        mode,
        id_maps,
        capabilities,
    })
}

fn negotiate(when: Negotiation) -> fs::Negotiate {
    match when {
        Negotiation::Never => fs::Negotiate::Never,
        Negotiation::Auto => fs::Negotiate::Auto,
        Negotiation::Always => fs::Negotiate::Always,
    }
}

pub(crate) fn level(level: LogLevel) -> log::LevelFilter {
    match level {
        LogLevel::Off => log::LevelFilter::Off,
        LogLevel::Error => log::LevelFilter::Error,
        LogLevel::Warn => log::LevelFilter::Warn,
        LogLevel::Info => log::LevelFilter::Info,
        LogLevel::Debug => log::LevelFilter::Debug,
        LogLevel::Trace => log::LevelFilter::Trace,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches;
    use ferryfs_format_msgpack::MsgPack;
    use ferryfs_format_postcard::Postcard;
    use ferryfs_format_zstd::Zstd;

    fn config(line: &str, privileged: bool) -> Result<Config, ConfigError> {
        let words = std::iter::once("ferryfsd").chain(line.split_whitespace());
        let matches = crate::settings::command("ferryfsd", "0").get_matches_from(words);
        let args = Args::from_arg_matches(&matches).unwrap();
        Config::new(args, &crate::stock_formats(), privileged)
    }

    #[test]
    fn a_share_and_a_socket_are_needed() {
        let refused = config("--fd 3", true).unwrap_err();
        assert!(matches!(refused, ConfigError::NoShare), "{refused}");
        let refused = config("--shared-dir /x", true).unwrap_err();
        assert!(matches!(refused, ConfigError::NoSocket), "{refused}");
        assert!(config("-o source=/x --fd 3", true).is_ok());
    }

    #[test]
    fn paths_are_verified_and_confirmed_where_there_are_paths() {
        let base = "--shared-dir /x --fd 3";
        let root = || Confined {
            root: std::fs::File::open("/").unwrap().into(),
            proc_self_fd: None,
        };
        for option in ["--migration-verify-handles", "--migration-confirm-paths"] {
            let refused = config(
                &format!("{base} {option} --migration-mode=file-handles"),
                true,
            );
            let refused = refused.unwrap_err().to_string();
            assert!(refused.starts_with(option), "{refused}");
        }
        let verify = config(&format!("{base} --migration-verify-handles"), true).unwrap();
        let mode = verify.passthrough(root()).migration_mode;
        assert_eq!(mode, fs::MigrationMode::FileHandles);
        let confirm = config(&format!("{base} --migration-confirm-paths"), true).unwrap();
        assert!(confirm.passthrough(root()).migration_confirm_paths);
    }

    #[test]
    fn without_migration_no_state_comes_or_goes() {
        let base = "--shared-dir /x --fd 3 --migration-type none";
        assert!(config(base, true).is_ok());
        for option in ["--state-file", "--control-socket"] {
            let refused = config(&format!("{base} {option} /y"), true).unwrap_err();
            assert!(refused.to_string().starts_with(option), "{refused}");
        }
    }

    #[test]
    fn it_is_confined_unless_told_otherwise() {
        let line = "--shared-dir /x --fd 3";
        for privileged in [true, false] {
            let mode = config(line, privileged).unwrap().sandbox.mode;
            assert_eq!(mode, Mode::Namespace);
        }
        let line = "--shared-dir /x --fd 3 --sandbox none";
        assert_eq!(config(line, true).unwrap().sandbox.mode, Mode::None);
    }

    #[test]
    fn system_calls_are_restricted_unless_told_otherwise() {
        let line = "--shared-dir /x --fd 3";
        assert_eq!(config(line, true).unwrap().seccomp, seccomp::Action::Kill);
        for (word, action) in [
            ("none", seccomp::Action::None),
            ("log", seccomp::Action::Log),
            ("trap", seccomp::Action::Trap),
        ] {
            let line = format!("{line} --seccomp {word}");
            assert_eq!(config(&line, true).unwrap().seccomp, action);
        }
    }

    #[test]
    fn ids_are_mapped_where_a_user_namespace_is_made() {
        let line = "--shared-dir /x --fd 3 --uid-map :0:1000:1: --uid-map /1/100000/9/";
        let namespace = format!("{line} --sandbox namespace");
        let maps = config(&namespace, false).unwrap().sandbox.id_maps;
        assert_eq!((maps.users.len(), maps.groups.len()), (2, 0));
        let chroot = format!("{line} --sandbox chroot");
        for (line, privileged) in [(namespace, true), (chroot, false)] {
            let refused = config(&line, privileged).unwrap_err();
            assert!(matches!(refused, ConfigError::IdMaps), "{refused}");
        }
        let line = "--shared-dir /x --fd 3 --sandbox namespace --gid-map :1:1000:1:";
        let refused = config(line, false).unwrap_err();
        assert!(matches!(refused, ConfigError::NoRoot), "{refused}");
    }

    #[test]
    fn capabilities_are_changed_as_told() {
        let line = "--shared-dir /x --fd 3 --modcaps";
        for form in ["=-mknod:+sys_admin", " -mknod:+sys_admin"] {
            let kept = config(&format!("{line}{form}"), true).unwrap().sandbox;
            let kept = kept.capabilities.apply();
            let kept: Vec<_> = kept.iter().map(ToString::to_string).collect();
            assert!(kept.contains(&"CAP_SYS_ADMIN".into()), "{kept:?}");
            assert!(!kept.contains(&"CAP_MKNOD".into()), "{kept:?}");
        }
        let line = format!("{line}=-dac_read_search");
        assert!(config(&line, true).is_ok());
        let refused = config(&format!("{line} --inode-file-handles=mandatory"), true);
        assert!(matches!(refused, Err(ConfigError::Handles)));
    }

    #[test]
    fn formats_that_are_not_built_in_are_refused_by_name() {
        let line = "--shared-dir /x --fd 3 --state-format";
        for name in [
            "postcard",
            "msgpack",
            "postcard+zstd",
            "msgpack+zstd",
            "virtiofsd-v1",
            "virtiofsd-v2",
        ] {
            assert!(config(&format!("{line} {name}"), true).is_ok());
        }
        let error = config(&format!("{line} xml"), true).unwrap_err();
        let text = ferryfs_state::error_line(&error);
        assert!(
            text.contains("xml") && text.contains("msgpack+zstd"),
            "{text}"
        );
    }

    #[test]
    fn who_names_no_format_gets_the_one_that_takes_least_of_those_that_all_read() {
        let stock = crate::stock_formats();
        let chosen = |formats: &Registry| preferred_format(formats).to_owned();
        assert_eq!(chosen(&stock), "postcard+zstd");
        let config = config("--shared-dir /x --fd 3", true).unwrap();
        assert_eq!(config.state_format, "postcard+zstd");
        let msgpack = || Registry::new().with(MsgPack);
        assert_eq!(chosen(&msgpack().with(Postcard)), "postcard");
        assert_eq!(chosen(&msgpack().with(Zstd::new(MsgPack))), "msgpack");
        let zstd = chosen(&Registry::new());
        assert!(matches!(
            Registry::new().get(&zstd),
            Err(StateError::UnknownFormat { .. })
        ));
    }

    #[test]
    fn states_are_written_for_the_readers_that_are_named() {
        let line = "--shared-dir /x --fd 3";
        let newest = |line: &str| config(line, true).map(|c| c.state_options.newest.0);
        assert_eq!(newest(line).unwrap(), 3);
        let line = format!("{line} --state-version");
        assert_eq!(newest(&format!("{line} 1")).unwrap(), 1);
        for (options, text) in [
            (
                "9",
                "--state-version: state version 9 is not known here; this release writes 1 to 3",
            ),
            (
                "1 --state-format virtiofsd-v2",
                "--state-version is for ferryfs' own streams, not for --state-format virtiofsd-v2",
            ),
        ] {
            let error = newest(&format!("{line} {options}")).unwrap_err();
            assert_eq!(ferryfs_state::error_line(&error), text);
        }
    }

    #[test]
    fn what_the_guest_owns_and_may_reaches_the_file_system() {
        let confined = || Confined {
            root: std::fs::File::open("/").unwrap().into(),
            proc_self_fd: None,
        };
        let base = "--shared-dir /x --fd 3";
        let line = format!(
            "{base} --xattrmap :map::user.v.: --security-label=auto --killpriv-v2 --readonly \
             --posix-lock --no-flock --flock \
             --translate-uid map:0:1000:10 --translate-gid squash-guest:0:7:10"
        );
        let config = config(&line, true).unwrap().passthrough(confined());
        assert!(config.xattr_map.is_some() && config.killpriv_v2 && config.preserve_noatime);
        assert!(config.posix_lock && config.flock);
        assert_eq!(config.security_label, fs::Negotiate::Auto);
        assert_eq!(config.posix_acl, fs::Negotiate::Never);
        assert!(!config.uids.is_empty() && !config.gids.is_empty());
        let refused = self::config(
            &format!("{base} --translate-uid map:0:1000:10 --translate-uid map:5:0:1"),
            true,
        );
        let text = ferryfs_state::error_line(&refused.unwrap_err());
        assert!(
            text.contains("--translate-uid") && text.contains("id 5"),
            "{text}"
        );
        let acl = format!("{base} --posix-acl --translate-gid map:0:1:1");
        assert!(matches!(self::config(&acl, true), Err(ConfigError::AclIds)));
        let legacy = format!("{base} -o nonsense");
        let refused = self::config(&legacy, true);
        assert!(matches!(refused, Err(ConfigError::Legacy(_))));
    }

    #[test]
    fn standard_streams_are_no_sockets() {
        assert!(matches!(
            config("--shared-dir /x --fd 0", true),
            Err(ConfigError::Fd(0))
        ));
    }

    #[test]
    fn options_reach_the_file_system() {
        let root = || Confined {
            root: std::fs::File::open("/").unwrap().into(),
            proc_self_fd: None,
        };
        let c = config("--shared-dir /x --fd 3", true)
            .unwrap()
            .passthrough(root());
        assert!(c.readdirplus && c.announce_submounts && !c.writeback && !c.xattr);
        assert_eq!(c.inode_file_handles, fs::InodeFileHandles::Prefer);
        let line =
            "--shared-dir /x --fd 3 --cache never --writeback --xattr --no-announce-submounts \
                    --allow-direct-io --allow-mmap --preserve-noatime \
                    --inode-file-handles=mandatory --migration-mode file-handles \
                    --migration-on-error guest-error --restore eager --ghost-limit 1G";
        let c = config(line, true).unwrap().passthrough(root());
        assert_eq!(c.cache, fs::CachePolicy::Never);
        assert!(!c.readdirplus && !c.announce_submounts && c.writeback && c.xattr);
        assert!(c.allow_direct_io && c.allow_mmap && c.preserve_noatime);
        assert_eq!(c.inode_file_handles, fs::InodeFileHandles::Mandatory);
        assert_eq!(c.migration_mode, fs::MigrationMode::FileHandles);
        assert_eq!(c.migration_on_error, fs::MigrationOnError::GuestError);
        assert_eq!(c.restore, fs::Restore::Eager);
        for (words, first) in [("", 4096), ("--restore lazy --restore-first 0", 0)] {
            let c = config(&format!("--shared-dir /x --fd 3 {words}"), true).unwrap();
            let restore = c.passthrough(root()).restore;
            assert_eq!(restore, fs::Restore::Lazy { first });
        }
        assert_eq!(c.ghost_limit, 1 << 30);
    }
}
