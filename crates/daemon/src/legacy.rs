//! What older command lines say in other words: `-o`, `-d` and `-f`.
//!
//! libvirt passes one `-o` with everything in it where it does not know a daemon to
//! take single options. As in virtiofsd, what `-o` says counts over those.

use clap::ValueEnum;
use ferryfs_core::passthrough::xattr_map::XattrMap;
use ferryfs_sandbox::CapabilityChanges;

use crate::args::{Args, CachePolicy, LogLevel, Negotiation, SandboxMode};

/// Why a `-o` cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LegacyError {
    /// No such word.
    #[error("-o {0}: there is no such option")]
    Unknown(String),
    /// A word without its value.
    #[error("-o {0} takes a value, as in {0}=VALUE")]
    NoValue(String),
    /// A word with a value that it does not take.
    #[error("-o {0} takes no value")]
    Value(String),
    /// Not one of the values.
    #[error("-o {key}={value}: {why}")]
    Bad {
        /// The word.
        key: String,
        /// Its value.
        value: String,
        /// What would do.
        why: String,
    },
}

/// The words that can have `no_` in front of them.
const SWITCHES: [&str; 11] = [
    "xattr",
    "readdirplus",
    "writeback",
    "allow_direct_io",
    "announce_submounts",
    "killpriv_v2",
    "posix_acl",
    "security_label",
    "readonly",
    "posix_lock",
    "flock",
];

impl Args {
    /// Takes what `-o`, `-d` and `-f` say over into the options that they stand for.
    ///
    /// # Errors
    /// See [`LegacyError`].
    pub fn apply_legacy(&mut self) -> Result<(), LegacyError> {
        for options in std::mem::take(&mut self.legacy.options) {
            for option in options.split(',').filter(|o| !o.is_empty()) {
                match option.split_once('=') {
                    Some((key, value)) => self.set(key, value)?,
                    None => self.switch(option)?,
                }
            }
        }
        if std::mem::take(&mut self.legacy.debug) {
            self.safety.log_level = LogLevel::Debug;
        }
        Ok(())
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), LegacyError> {
        let bad = |why: String| LegacyError::Bad {
            key: key.to_owned(),
            value: value.to_owned(),
            why,
        };
        match key {
            "source" => self.shared_dir = Some(value.into()),
            "cache" => {
                self.share.cache = match value {
                    "none" => CachePolicy::Never,
                    _ => CachePolicy::from_str(value, true)
                        .map_err(|_| bad("use auto, always, metadata, never or none".into()))?,
                }
            }
            "loglevel" => {
                self.safety.log_level = match value {
                    "debug" => LogLevel::Debug,
                    "info" => LogLevel::Info,
                    "warn" => LogLevel::Warn,
                    "err" => LogLevel::Error,
                    _ => return Err(bad("use debug, info, warn or err".into())),
                }
            }
            "sandbox" => {
                let mode = SandboxMode::from_str(value, true)
                    .map_err(|_| bad("use namespace, chroot or none".into()))?;
                self.safety.sandbox = mode;
            }
            "xattrmap" => {
                let map = value.parse::<XattrMap>();
                self.share.xattrmap = Some(map.map_err(|e| bad(e.to_string()))?);
            }
            "modcaps" => {
                let changes = value.parse::<CapabilityChanges>();
                self.safety.modcaps = Some(changes.map_err(|e| bad(e.to_string()))?);
            }
            _ if is_switch(key) => return Err(LegacyError::Value(key.to_owned())),
            _ => return Err(LegacyError::Unknown(key.to_owned())),
        }
        Ok(())
    }

    fn switch(&mut self, word: &str) -> Result<(), LegacyError> {
        let (name, on) = match word.strip_prefix("no_") {
            Some(name) => (name, false),
            None => (word, true),
        };
        let share = &mut self.share;
        let negotiation = if on {
            Negotiation::Always
        } else {
            Negotiation::Never
        };
        match name {
            "xattr" => share.xattr = on,
            "readdirplus" => share.no_readdirplus = !on,
            "writeback" => share.writeback = on,
            "allow_direct_io" => share.allow_direct_io = on,
            "announce_submounts" => share.no_announce_submounts = !on,
            "killpriv_v2" => share.killpriv_v2 = on,
            "posix_acl" => share.posix_acl = negotiation,
            "security_label" => share.security_label = negotiation,
            "readonly" => share.readonly = on,
            "posix_lock" => share.posix_lock = on,
            "flock" => share.flock = on,
            "source" | "cache" | "loglevel" | "sandbox" | "xattrmap" | "modcaps" => {
                return Err(LegacyError::NoValue(word.to_owned()))
            }
            _ => return Err(LegacyError::Unknown(word.to_owned())),
        }
        Ok(())
    }
}

fn is_switch(key: &str) -> bool {
    SWITCHES.contains(&key.strip_prefix("no_").unwrap_or(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches;

    fn parse(line: &str) -> Result<Args, LegacyError> {
        let words = std::iter::once("ferryfsd").chain(line.split_whitespace());
        let matches = crate::settings::command("ferryfsd", "0").get_matches_from(words);
        let mut args = Args::from_arg_matches(&matches).unwrap();
        args.apply_legacy()?;
        Ok(args)
    }

    #[test]
    fn libvirt_s_one_option_says_everything() {
        let a = parse(
            "--fd=3 -o source=/srv/share,cache=always,sandbox=chroot,xattr,no_flock,no_posix_lock \
             --thread-pool-size=16 -d",
        )
        .unwrap();
        assert_eq!(a.shared_dir.as_deref(), Some("/srv/share".as_ref()));
        assert_eq!(a.share.cache, CachePolicy::Always);
        assert_eq!(a.safety.sandbox, SandboxMode::Chroot);
        assert!(a.share.xattr);
        assert_eq!(a.connection.thread_pool_size, Some(16));
        assert_eq!(a.safety.log_level, LogLevel::Debug);
    }

    #[test]
    fn libvirt_s_single_options_are_taken_as_they_come() {
        let a = parse(
            "--fd=27 --shared-dir /srv/share --cache never --sandbox chroot --xattr \
             --thread-pool-size=0 --rlimit-nofile=4096 --log-level debug",
        )
        .unwrap();
        assert_eq!(a.connection.fd, Some(27));
        assert_eq!(a.share.cache, CachePolicy::Never);
        assert_eq!(a.safety.rlimit_nofile, Some(4096));
        let a = parse(
            "--fd=27 --shared-dir /srv/share --sandbox namespace --uid-map=:0:100000:1000: \
             --uid-map=:1000:1000:1: --gid-map=:0:100000:1000: --gid-map=:1000:1000:1:",
        )
        .unwrap();
        assert_eq!((a.safety.uid_map.len(), a.safety.gid_map.len()), (2, 2));
    }

    #[test]
    fn every_word_does_as_the_option_that_it_stands_for() {
        let base = "--shared-dir /x --fd 3 -f";
        let a = parse(&format!(
            "{base} -o cache=none,loglevel=err -o xattrmap=:map::user.v.:,writeback \
             -o no_readdirplus,allow_direct_io,no_announce_submounts,killpriv_v2,posix_acl \
             -o security_label,readonly,modcaps=+sys_admin,posix_lock,flock"
        ))
        .unwrap();
        let share = &a.share;
        assert_eq!(share.cache, CachePolicy::Never);
        assert_eq!(a.safety.log_level, LogLevel::Error);
        assert_eq!(share.xattrmap, Some(":map::user.v.:".parse().unwrap()));
        assert!(share.writeback && share.no_readdirplus && share.allow_direct_io);
        assert!(share.no_announce_submounts && share.killpriv_v2 && share.readonly);
        assert_eq!(share.posix_acl, Negotiation::Always);
        assert_eq!(share.security_label, Negotiation::Always);
        assert!(share.posix_lock && share.flock);
        assert!(a.safety.modcaps.is_some());
        // What -o says counts over the rest, wherever it stands.
        let a = parse(&format!(
            "{base} -o no_xattr,no_posix_acl,source=/y --xattr --posix-acl -o no_flock,no_posix_lock \
             --flock"
        ))
        .unwrap();
        assert!(!a.share.flock && !a.share.posix_lock);
        assert!(!a.share.xattr);
        assert_eq!(a.share.posix_acl, Negotiation::Never);
        assert_eq!(a.shared_dir.as_deref(), Some("/y".as_ref()));
    }

    #[test]
    fn what_cannot_be_followed_is_said() {
        for (options, want) in [
            ("nonsense", "no such option"),
            ("timeout=5", "no such option"),
            ("cache", "takes a value"),
            ("xattr=yes", "takes no value"),
            ("no_xattr=yes", "takes no value"),
            ("cache=some", "use auto"),
            ("loglevel=loud", "use debug"),
            ("sandbox=jail", "use namespace"),
            ("xattrmap=:ok:", "ends before"),
            ("flock=yes", "takes no value"),
            ("no_posix_lock=1", "takes no value"),
        ] {
            let error = parse(&format!("--shared-dir /x --fd 3 -o {options}"));
            let error = error.map(drop).unwrap_err().to_string();
            assert!(error.contains(want), "{options}: {error}");
        }
    }
}
