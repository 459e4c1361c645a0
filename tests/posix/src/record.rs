//! What is said of outcomes.

use std::fmt::{self, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

/// The outcome of a step, in words.
pub trait Outcome {
    /// The words.
    fn words(&self) -> String;
}

impl<T: Outcome> Outcome for Result<T, Errno> {
    fn words(&self) -> String {
        match self {
            Ok(value) => value.words(),
            Err(e) => errno(*e),
        }
    }
}

impl Outcome for () {
    fn words(&self) -> String {
        "done".into()
    }
}

impl Outcome for OwnedFd {
    fn words(&self) -> String {
        "open".into()
    }
}

impl Outcome for Stat {
    fn words(&self) -> String {
        let kind = match FileType::from_raw_mode(self.st_mode) {
            FileType::RegularFile => "file",
            FileType::Directory => "dir",
            FileType::Symlink => "symlink",
            FileType::Fifo => "fifo",
            FileType::Socket => "socket",
            FileType::CharacterDevice => "char",
            FileType::BlockDevice => "block",
            FileType::Unknown => "unknown",
        };
        let mut words = format!(
            "{kind} {:04o} {}:{} links {}",
            self.st_mode & 0o7777,
            self.st_uid,
            self.st_gid,
            self.st_nlink
        );
        // What a directory's size is, is the file system's own business.
        match kind {
            "dir" => {}
            "char" | "block" => {
                let rdev = (
                    rustix::fs::major(self.st_rdev),
                    rustix::fs::minor(self.st_rdev),
                );
                let _ = write!(words, " {}:{}", rdev.0, rdev.1);
            }
            _ => {
                let _ = write!(words, " size {}", self.st_size);
            }
        }
        words
    }
}

impl Outcome for [u8] {
    /// Runs of one byte are counted.
    fn words(&self) -> String {
        let mut words = format!("{} bytes:", self.len());
        let mut shown = 0;
        let mut rest = self;
        while let Some(&first) = rest.first() {
            let run = rest.iter().take_while(|b| **b == first).count();
            rest = &rest[run..];
            shown += 1;
            if shown > 24 {
                let _ = write!(words, " ... hash {:016x}", hash(self));
                break;
            }
            let byte = match first {
                b'!'..=b'~' => char::from(first).to_string(),
                _ => format!("\\x{first:02x}"),
            };
            let _ = match run {
                1 => write!(words, " {byte}"),
                _ => write!(words, " {byte}*{run}"),
            };
        }
        words
    }
}

impl Outcome for Vec<u8> {
    fn words(&self) -> String {
        self.as_slice().words()
    }
}

impl Outcome for String {
    fn words(&self) -> String {
        // One step is one line.
        self.replace('\n', "\\n")
    }
}

impl Outcome for str {
    fn words(&self) -> String {
        self.to_owned()
    }
}

macro_rules! plain {
    ($($type:ty),*) => {
        $(impl Outcome for $type {
            fn words(&self) -> String {
                self.to_string()
            }
        })*
    };
}

plain!(bool, u32, i32, u64, i64, usize);

impl<T: fmt::Debug> Outcome for Vec<T>
where
    T: NotByte,
{
    fn words(&self) -> String {
        format!("{self:?}")
    }
}

/// Lists that are shown as such.
pub trait NotByte {}
impl NotByte for String {}
impl NotByte for bool {}
impl NotByte for u64 {}

/// FNV-1a, 64 bits.
pub fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The name of an error.
pub fn errno(e: Errno) -> String {
    const NAMES: &[(Errno, &str)] = &[
        (Errno::ACCESS, "EACCES"),
        (Errno::AGAIN, "EAGAIN"),
        (Errno::BADF, "EBADF"),
        (Errno::BUSY, "EBUSY"),
        (Errno::DEADLK, "EDEADLK"),
        (Errno::EXIST, "EEXIST"),
        (Errno::FAULT, "EFAULT"),
        (Errno::FBIG, "EFBIG"),
        (Errno::INTR, "EINTR"),
        (Errno::INVAL, "EINVAL"),
        (Errno::IO, "EIO"),
        (Errno::ISDIR, "EISDIR"),
        (Errno::LOOP, "ELOOP"),
        (Errno::MLINK, "EMLINK"),
        (Errno::NAMETOOLONG, "ENAMETOOLONG"),
        (Errno::NODATA, "ENODATA"),
        (Errno::NODEV, "ENODEV"),
        (Errno::NOENT, "ENOENT"),
        (Errno::NOLCK, "ENOLCK"),
        (Errno::NOSPC, "ENOSPC"),
        (Errno::NOSYS, "ENOSYS"),
        (Errno::NOTDIR, "ENOTDIR"),
        (Errno::NOTEMPTY, "ENOTEMPTY"),
        (Errno::NOTTY, "ENOTTY"),
        (Errno::NXIO, "ENXIO"),
        (Errno::OPNOTSUPP, "EOPNOTSUPP"),
        (Errno::OVERFLOW, "EOVERFLOW"),
        (Errno::PERM, "EPERM"),
        (Errno::RANGE, "ERANGE"),
        (Errno::ROFS, "EROFS"),
        (Errno::SPIPE, "ESPIPE"),
        (Errno::STALE, "ESTALE"),
        (Errno::TOOBIG, "E2BIG"),
        (Errno::TXTBSY, "ETXTBSY"),
        (Errno::XDEV, "EXDEV"),
    ];
    NAMES.iter().find(|(errno, _)| *errno == e).map_or_else(
        || format!("errno {}", e.raw_os_error()),
        |(_, name)| (*name).into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_in_runs() {
        assert_eq!(b"aab\0\0\0"[..].words(), "6 bytes: a*2 b \\x00*3");
        let many: Vec<u8> = (0..200).collect();
        assert!(many.words().contains("hash"), "{}", many.words());
    }

    #[test]
    fn errors_have_their_names() {
        assert_eq!(Err::<(), _>(Errno::NOENT).words(), "ENOENT");
        assert_eq!(
            Err::<(), _>(Errno::from_raw_os_error(133)).words(),
            "errno 133"
        );
    }
}
