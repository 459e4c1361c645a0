//! Objects in messages.

use std::fmt;

use serde_bytes::ByteBuf;

use super::super::super::inode::InodeArc;

/// By what an object is looked for.
pub(super) enum What<'a> {
    Handle,
    /// A name in a directory.
    Name(&'a InodeArc, &'a [u8]),
    /// Several components from a directory on.
    Path(&'a InodeArc, &'a [ByteBuf]),
}

impl fmt::Display for What<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Handle => f.write_str("its file handle"),
            What::Name(above, name) => {
                write!(f, "\"{}\" in inode {}", name.escape_ascii(), above.id())
            }
            What::Path(above, components) => {
                write!(
                    f,
                    "\"{}\" below inode {}",
                    path_text(components),
                    above.id()
                )
            }
        }
    }
}

/// A file type.
pub(in super::super) fn kind_name(kind: u32) -> &'static str {
    match kind {
        libc::S_IFREG => "regular file",
        libc::S_IFDIR => "directory",
        libc::S_IFLNK => "symbolic link",
        libc::S_IFIFO => "fifo",
        libc::S_IFSOCK => "socket",
        libc::S_IFCHR => "character device",
        libc::S_IFBLK => "block device",
        _ => "file of unknown type",
    }
}

/// Components of a path.
pub(super) fn path_text(components: &[ByteBuf]) -> String {
    let components: Vec<&[u8]> = components.iter().map(|c| c.as_slice()).collect();
    components.join(&b'/').escape_ascii().to_string()
}
