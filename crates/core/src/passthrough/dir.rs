//! Directories: OPENDIR to RELEASEDIR.

/// Where the reading of a directory handle is.
pub(super) struct DirState {}
