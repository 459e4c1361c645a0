//! The share as the root directory of the process.

use std::io;
use std::path::Path;

use crate::SandboxError;

/// Makes `share` the root directory and the working directory.
pub(crate) fn chroot(share: &Path) -> Result<(), SandboxError> {
    let failed = |source: io::Error| SandboxError::Chroot {
        path: share.to_owned(),
        source,
    };
    if !share.metadata().map_err(failed)?.is_dir() {
        return Err(SandboxError::NotADirectory(share.to_owned()));
    }
    rustix::process::chroot(share).map_err(|e| match e {
        rustix::io::Errno::PERM => SandboxError::ChrootNotPermitted(e.into()),
        e => failed(e.into()),
    })?;
    rustix::process::chdir("/").map_err(|e| failed(e.into()))
}
