//! The passthrough on real directories. What counts is what is on disk after it.

mod acls;
mod data;
mod dirs;
mod ids;
mod labels;
mod lookups;
pub(super) mod mounts;
mod names;
mod posix;
pub(super) mod support;
mod users;
mod xattrs;
