//! What a share can do if its daemon is told to, or its host's file system knows how.

pub mod acl;
pub mod clones;
pub mod descriptors;
pub mod full;
pub mod ids;
pub mod label;
pub mod mounts;
pub mod sparse;
pub mod synced;
pub mod tmpfile;
