//! The limit on open descriptors: a guest holds many.

use std::io;

use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};

/// Why the limit could not be set.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// More than the kernel ever allows.
    #[error(
        "--rlimit-nofile {asked} is above /proc/sys/fs/nr_open ({max}); ask for less or raise it"
    )]
    AboveKernel {
        /// What was asked for.
        asked: u64,
        /// `fs.nr_open`.
        max: u64,
    },
    /// setrlimit(2) failed.
    #[error("failed to set the limit of open descriptors to {asked}; a process without CAP_SYS_RESOURCE can ask for {hard} at the most")]
    Set {
        /// What was asked for.
        asked: u64,
        /// The hard limit now.
        hard: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// What is asked for where the operator names no number.
const DEFAULT: u64 = 1_000_000;

/// Raises `RLIMIT_NOFILE` and answers the limit in force. `None`: as far as it
/// goes, up to a million, never an error. `Some(0)`: left alone. `Some(n)`: n.
///
/// # Errors
/// Only for an explicit number; see [`LimitError`].
pub fn raise_open_file_limit(asked: Option<u64>) -> Result<u64, LimitError> {
    let now = getrlimit(Resource::Nofile);
    let soft = now.current.unwrap_or(u64::MAX);
    let hard = now.maximum.unwrap_or(u64::MAX);
    if asked == Some(0) {
        return Ok(soft);
    }
    let kernel_max = std::fs::read_to_string("/proc/sys/fs/nr_open")
        .ok()
        .and_then(|s| s.trim().parse().ok());
    let both = |n: u64| Rlimit {
        current: Some(n),
        maximum: Some(n.max(hard)),
    };
    match asked {
        Some(n) => {
            if let Some(max) = kernel_max.filter(|max| n > *max) {
                return Err(LimitError::AboveKernel { asked: n, max });
            }
            setrlimit(Resource::Nofile, both(n)).map_err(|e| LimitError::Set {
                asked: n,
                hard,
                source: e.into(),
            })?;
            Ok(n)
        }
        None => {
            let wish = DEFAULT.min(kernel_max.unwrap_or(DEFAULT));
            if soft >= wish {
                return Ok(soft);
            }
            if setrlimit(Resource::Nofile, both(wish)).is_ok() {
                return Ok(wish);
            }
            let reach = Rlimit {
                current: Some(hard),
                maximum: Some(hard),
            };
            match setrlimit(Resource::Nofile, reach) {
                Ok(()) => Ok(hard),
                Err(_) => Ok(soft),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_changes_nothing_and_too_much_is_refused_with_the_bound() {
        let before = getrlimit(Resource::Nofile);
        assert_eq!(
            raise_open_file_limit(Some(0)).unwrap(),
            before.current.unwrap_or(u64::MAX)
        );
        assert_eq!(getrlimit(Resource::Nofile), before);
        let e = raise_open_file_limit(Some(u64::MAX - 1)).unwrap_err();
        assert!(e.to_string().contains("nr_open"), "{e}");
    }

    #[test]
    fn the_default_never_lowers_the_limit() {
        let before = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let now = raise_open_file_limit(None).unwrap();
        assert!(now >= before);
        assert_eq!(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX), now);
    }
}
