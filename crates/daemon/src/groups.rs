//! Groups by name.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;

/// Why a group cannot be found.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// It does not exist.
    #[error("there is no group {0:?}")]
    Unknown(String),
    /// Nobody could be asked.
    #[error("failed to look for group {name:?}")]
    Ask {
        /// As given.
        name: String,
        /// What the C library said.
        #[source]
        source: io::Error,
    },
}

/// The most that is set aside for a group's members, in bytes.
const MOST: usize = 1 << 20;

/// The id of the group called `name`, or of that number where none is called so.
///
/// # Errors
/// See [`GroupError`].
pub(crate) fn find(name: &str) -> Result<u32, GroupError> {
    let c_name = CString::new(name).map_err(|_| GroupError::Unknown(name.to_owned()))?;
    let mut buf = vec![0u8; 4096];
    loop {
        let mut group = MaybeUninit::<libc::group>::uninit();
        let mut found = std::ptr::null_mut();
        // SAFETY: the name ends with NUL, the buffer has the length given, and all
        // outlive the call.
        let rc = unsafe {
            libc::getgrnam_r(
                c_name.as_ptr(),
                group.as_mut_ptr(),
                buf.as_mut_ptr().cast(),
                buf.len(),
                &mut found,
            )
        };
        match rc {
            0 if !found.is_null() => {
                // SAFETY: the call has said that it filled the structure.
                return Ok(unsafe { group.assume_init() }.gr_gid);
            }
            0 | libc::ENOENT | libc::ESRCH => {
                return name
                    .parse()
                    .map_err(|_| GroupError::Unknown(name.to_owned()))
            }
            libc::ERANGE if buf.len() < MOST => buf.resize(buf.len() * 4, 0),
            libc::EINTR => {}
            e => {
                return Err(GroupError::Ask {
                    name: name.to_owned(),
                    source: io::Error::from_raw_os_error(e),
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_by_name_or_number() {
        assert_eq!(find("root").unwrap(), 0);
        assert_eq!(find("4242").unwrap(), 4242);
        for name in ["no such group", "", "-1", "a\0b"] {
            assert!(
                matches!(find(name), Err(GroupError::Unknown(_))),
                "{name:?}"
            );
        }
    }
}
