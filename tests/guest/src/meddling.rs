//! What others do on the host to the files of check `meddled`, while the guest crosses.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Where the files are, from the share's root.
pub const DIR: &str = "meddled";
/// A directory that is moved, with what is in it,
pub const MOVED: &str = "moved";
/// into this one.
pub const ELSEWHERE: &str = "elsewhere";
/// A file whose name another one takes.
pub const REPLACED: &str = "replaced";
/// What that one has in it.
pub const IMPOSTOR: &[u8] = b"not the guest's";
/// A file that is removed.
pub const REMOVED: &str = "removed";

/// A name that is not UTF-8.
pub fn odd() -> PathBuf {
    OsString::from_vec(b"odd \xff\xfe".to_vec()).into()
}

/// What the file of that name is called later.
pub fn odder() -> PathBuf {
    OsString::from_vec(b"odder \xc3\x28 (deleted)".to_vec()).into()
}

/// Does it, in `share`.
///
/// # Errors
/// Those of the host's file system.
pub fn meddle(share: &Path) -> io::Result<()> {
    let dir = share.join(DIR);
    std::fs::rename(dir.join(MOVED), dir.join(ELSEWHERE).join(MOVED))?;
    let hidden = share.join("impostor");
    std::fs::write(&hidden, IMPOSTOR)?;
    std::fs::rename(hidden, dir.join(REPLACED))?;
    std::fs::remove_file(dir.join(REMOVED))?;
    std::fs::rename(dir.join(odd()), dir.join(odder()))
}
