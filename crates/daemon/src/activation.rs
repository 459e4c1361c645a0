//! A socket that a service manager has made: `LISTEN_FDS`, see sd_listen_fds(3).

use std::ffi::{OsStr, OsString};
use std::os::fd::RawFd;

/// Where inherited descriptors begin (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;

/// Why what was handed over cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ActivationError {
    /// More than one, or none.
    #[error(
        "the service manager hands over {0} sockets (LISTEN_FDS), and a daemon takes one; give the \
         unit one ListenStream="
    )]
    Count(String),
}

/// The socket that is handed over to process `pid`, if there is one.
///
/// # Errors
/// See [`ActivationError`].
pub fn socket(
    variables: &[(OsString, OsString)],
    pid: u32,
) -> Result<Option<RawFd>, ActivationError> {
    let variable = |name: &str| {
        let found = variables.iter().find(|(key, _)| key == OsStr::new(name));
        found.map(|(_, value)| value.to_string_lossy().into_owned())
    };
    // The variables are inherited by children, for whom they are not meant.
    let for_us = variable("LISTEN_PID").is_some_and(|text| text.parse() == Ok(pid));
    match variable("LISTEN_FDS") {
        Some(count) if for_us => match count.as_str() {
            "1" => Ok(Some(FIRST)),
            _ => Err(ActivationError::Count(count)),
        },
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_socket_is_taken_if_it_is_for_this_process() {
        let socket = |pid: &str, fds: &str| {
            let variables = [("LISTEN_PID", pid), ("LISTEN_FDS", fds), ("HOME", "/")]
                .map(|(key, value)| (key.into(), value.into()));
            socket(&variables, 42)
        };
        assert_eq!(socket("42", "1"), Ok(Some(3)));
        assert_eq!(socket("41", "1"), Ok(None));
        assert_eq!(socket("", "1"), Ok(None));
        for count in ["2", "0", "many"] {
            let refused = socket("42", count).unwrap_err();
            assert_eq!(refused, ActivationError::Count(count.to_owned()));
        }
        assert_eq!(super::socket(&[], 42), Ok(None));
    }
}
