//! Typed identifiers and names that every layer of the file system shares.

use std::ffi::CStr;
use std::fmt;

use crate::errno::Errno;

/// A FUSE nodeid: the guest's name for an inode that it looked up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct NodeId(pub u64);

impl NodeId {
    /// `FUSE_ROOT_ID`: the root of the share.
    pub const ROOT: NodeId = NodeId(1);
}

/// A FUSE file handle (`fh`): the guest's name for an open file or directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct HandleId(pub u64);

macro_rules! display_as_number {
    ($($t:ident),*) => {$(
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
        impl fmt::Debug for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($t), "({})"), self.0)
            }
        }
    )*};
}
display_as_number!(NodeId, HandleId);

/// One path component, checked: not empty, not `.` or `..`, no `/`, no NUL, at
/// most [`Name::MAX`] bytes. Bytes, not text: guests may use any encoding.
///
/// Nothing below the dispatcher ever sees a name that is not a `Name`, so no
/// operation can be talked into leaving the directory it was given.
#[derive(PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Name(CStr);

impl Name {
    /// `NAME_MAX`: the longest component Linux file systems take, in bytes.
    pub const MAX: usize = 255;

    /// Checks a component.
    ///
    /// # Errors
    /// `ENAMETOOLONG` above [`Name::MAX`] bytes, `EINVAL` for an empty name, `.`,
    /// `..` or one with a `/`.
    pub fn new(name: &CStr) -> Result<&Name, Errno> {
        let bytes = name.to_bytes();
        if bytes.len() > Name::MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/') {
            return Err(Errno::EINVAL);
        }
        // SAFETY: `Name` is a transparent wrapper of `CStr`, so the reference has
        // the same layout, metadata and lifetime.
        Ok(unsafe { &*(name as *const CStr as *const Name) })
    }

    /// The component with its NUL, as system calls take it.
    pub fn as_c_str(&self) -> &CStr {
        &self.0
    }

    /// The component without its NUL.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.to_bytes()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.as_bytes().escape_ascii(), f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;

    #[test]
    fn names_that_could_leave_a_directory_are_refused() {
        for (bytes, want) in [
            (&b""[..], Errno::EINVAL),
            (b".", Errno::EINVAL),
            (b"..", Errno::EINVAL),
            (b"/", Errno::EINVAL),
            (b"a/b", Errno::EINVAL),
            (b"../x", Errno::EINVAL),
            (&[b'x'; 256], Errno::ENAMETOOLONG),
        ] {
            let c = CString::new(bytes).unwrap();
            assert_eq!(Name::new(&c).unwrap_err(), want, "{:?}", c);
        }
        for bytes in [&b"a"[..], b"...", b"..a", b"\xff\xfe", &[b'x'; 255]] {
            let c = CString::new(bytes).unwrap();
            assert_eq!(Name::new(&c).unwrap().as_bytes(), bytes);
        }
    }
}
