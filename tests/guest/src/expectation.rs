//! What the guest says must be in the share when it is done, for the host to
//! look for with its own eyes.

use std::fs::FileType;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, CWD};
use rustix::io::Errno;

use crate::{extents, pattern, records, text};

/// One object below the share's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// Relative to the share's root.
    pub path: PathBuf,
    /// What must be there.
    pub object: Object,
}

/// What an [`Expectation`] expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// Nothing of that name.
    Absent,
    /// A directory.
    Directory,
    /// A regular file of this many bytes with this [`pattern::fnv`].
    File {
        /// Bytes.
        len: u64,
        /// Hash of them.
        fnv: u64,
    },
    /// A file of records, see [`records`].
    Records {
        /// Which stream.
        seed: u64,
        /// How many.
        count: u64,
    },
    /// A symbolic link with this target.
    Symlink(Vec<u8>),
    /// A fifo.
    Fifo,
    /// A socket.
    Socket,
    /// A character device, by `st_rdev`.
    CharDevice(u64),
    /// Anything with this owner and group, and these permissions.
    Owned {
        /// `st_uid`.
        uid: u32,
        /// `st_gid`.
        gid: u32,
        /// Permission bits, set-id and sticky bits.
        mode: u32,
    },
    /// Anything with an extended attribute of this value.
    Xattr {
        /// Its full name.
        name: Vec<u8>,
        /// The value.
        value: Vec<u8>,
    },
    /// A regular file that may be larger than a memory: what it has at one place, and
    /// what the host keeps for it at most.
    Sparse {
        /// `st_size`.
        size: u64,
        /// Bytes that are allocated at most.
        most: u64,
        /// Where.
        at: u64,
        /// Bytes there.
        len: u64,
        /// Hash of them.
        fnv: u64,
    },
    /// A regular file whose data are another's, too: one copy on the disk.
    Cloned,
    /// A regular file, the image of a disk, that has a block of this hash somewhere.
    Holds {
        /// Bytes of a block.
        block: u64,
        /// Hash of it.
        fnv: u64,
    },
}

impl Expectation {
    /// A file with `content`.
    pub fn file(path: impl Into<PathBuf>, content: &[u8]) -> Self {
        Self {
            path: path.into(),
            object: Object::File {
                len: content.len() as u64,
                fnv: pattern::fnv(content),
            },
        }
    }

    /// Anything else.
    pub fn new(path: impl Into<PathBuf>, object: Object) -> Self {
        Self {
            path: path.into(),
            object,
        }
    }

    /// As one word of a line.
    pub fn to_word(&self) -> String {
        let path = text::encode(self.path.as_os_str().as_bytes());
        let object = match &self.object {
            Object::Absent => "absent".to_owned(),
            Object::Directory => "directory".to_owned(),
            Object::File { len, fnv } => format!("file|{len}|{fnv:x}"),
            Object::Records { seed, count } => format!("records|{seed}|{count}"),
            Object::Symlink(target) => format!("symlink|{}", text::encode(target)),
            Object::Fifo => "fifo".to_owned(),
            Object::Socket => "socket".to_owned(),
            Object::CharDevice(rdev) => format!("char-device|{rdev}"),
            Object::Owned { uid, gid, mode } => format!("owned|{uid}|{gid}|{mode}"),
            Object::Xattr { name, value } => {
                format!("xattr|{}|{}", text::encode(name), text::encode(value))
            }
            Object::Sparse {
                size,
                most,
                at,
                len,
                fnv,
            } => format!("sparse|{size}|{most}|{at}|{len}|{fnv:x}"),
            Object::Cloned => "cloned".to_owned(),
            Object::Holds { block, fnv } => format!("holds|{block}|{fnv:x}"),
        };
        format!("{path}|{object}")
    }

    /// What [`Self::to_word`] has made; `None` for anything else.
    pub fn from_word(word: &str) -> Option<Self> {
        let mut parts = word.split('|');
        let path = PathBuf::from(std::ffi::OsString::from_vec(text::decode(parts.next()?)?));
        let kind = parts.next()?;
        let mut next = || parts.next();
        let object = match kind {
            "absent" => Object::Absent,
            "directory" => Object::Directory,
            "file" => Object::File {
                len: next()?.parse().ok()?,
                fnv: u64::from_str_radix(next()?, 16).ok()?,
            },
            "records" => Object::Records {
                seed: next()?.parse().ok()?,
                count: next()?.parse().ok()?,
            },
            "symlink" => Object::Symlink(text::decode(next()?)?),
            "fifo" => Object::Fifo,
            "socket" => Object::Socket,
            "char-device" => Object::CharDevice(next()?.parse().ok()?),
            "owned" => Object::Owned {
                uid: next()?.parse().ok()?,
                gid: next()?.parse().ok()?,
                mode: next()?.parse().ok()?,
            },
            "xattr" => Object::Xattr {
                name: text::decode(next()?)?,
                value: text::decode(next()?)?,
            },
            "sparse" => Object::Sparse {
                size: next()?.parse().ok()?,
                most: next()?.parse().ok()?,
                at: next()?.parse().ok()?,
                len: next()?.parse().ok()?,
                fnv: u64::from_str_radix(next()?, 16).ok()?,
            },
            "cloned" => Object::Cloned,
            "holds" => Object::Holds {
                block: next()?.parse().ok().filter(|block| *block > 0)?,
                fnv: u64::from_str_radix(next()?, 16).ok()?,
            },
            _ => return None,
        };
        Some(Self { path, object })
    }

    /// Looks below `root`.
    ///
    /// # Errors
    /// Says what is there instead.
    pub fn check(&self, root: &Path) -> Result<(), String> {
        let parent = match open_parent(root, &self.path) {
            Ok(dir) => dir,
            Err(Errno::NOENT) if self.object == Object::Absent => return Ok(()),
            Err(e) => return Err(format!("its directory: {}", text::error(&e.into()))),
        };
        let name = self.path.file_name().unwrap_or_default();
        let path = Path::new("/proc/self/fd")
            .join(parent.as_raw_fd().to_string())
            .join(name);
        let found = path.symlink_metadata();
        if self.object == Object::Absent {
            return match found {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
                Err(e) => Err(text::error(&e)),
                Ok(_) => Err("is there, though removed".into()),
            };
        }
        let found = found.map_err(|e| text::error(&e))?;
        let is = |yes: bool, wanted: &str| {
            if yes {
                Ok(())
            } else {
                Err(format!("{:?} instead of {wanted}", found.file_type()))
            }
        };
        let kind: FileType = found.file_type();
        match &self.object {
            Object::Absent => Ok(()),
            Object::Directory => is(kind.is_dir(), "a directory"),
            Object::Fifo => is(kind.is_fifo(), "a fifo"),
            Object::Socket => is(kind.is_socket(), "a socket"),
            Object::CharDevice(rdev) => is(
                kind.is_char_device() && found.rdev() == *rdev,
                "the character device",
            ),
            Object::Symlink(target) => {
                let got = std::fs::read_link(&path).map_err(|e| text::error(&e))?;
                is(got.as_os_str().as_bytes() == target, "the symbolic link")
            }
            Object::File { len, fnv } => {
                is(kind.is_file(), "a file")?;
                let data = std::fs::read(&path).map_err(|e| text::error(&e))?;
                if data.len() as u64 != *len {
                    return Err(format!("{} bytes instead of {len}", data.len()));
                }
                if pattern::fnv(&data) != *fnv {
                    return Err(format!("{len} bytes as expected, but not the same ones"));
                }
                Ok(())
            }
            Object::Records { seed, count } => {
                is(kind.is_file(), "a file")?;
                let data = std::fs::read(&path).map_err(|e| text::error(&e))?;
                records::check(*seed, &data, *count)
            }
            Object::Owned { uid, gid, mode } => {
                let got = (found.uid(), found.gid(), found.mode() & 0o7777);
                if got != (*uid, *gid, *mode) {
                    return Err(format!(
                        "{}:{} {:04o} instead of {uid}:{gid} {mode:04o}",
                        got.0, got.1, got.2
                    ));
                }
                Ok(())
            }
            Object::Xattr { name, value } => {
                let shown = |bytes: &[u8]| format!("{:?}", String::from_utf8_lossy(bytes));
                let mut got = vec![0; 65_536];
                let len = rustix::fs::lgetxattr(&path, &name[..], &mut got[..])
                    .map_err(|e| format!("{}: {}", shown(name), text::error(&e.into())))?;
                if got[..len] != value[..] {
                    let (name, got, value) = (shown(name), shown(&got[..len]), shown(value));
                    return Err(format!("{name} is {got} instead of {value}"));
                }
                Ok(())
            }
            Object::Sparse {
                size,
                most,
                at,
                len,
                fnv,
            } => {
                is(kind.is_file(), "a file")?;
                let allocated = found.blocks() * 512;
                if found.len() != *size || allocated > *most {
                    return Err(format!(
                        "{} bytes, {allocated} allocated, instead of {size}, at most {most}",
                        found.len()
                    ));
                }
                let file = std::fs::File::open(&path).map_err(|e| text::error(&e))?;
                let mut data = vec![0; *len as usize];
                file.read_exact_at(&mut data, *at)
                    .map_err(|e| format!("read at {at}: {}", text::error(&e)))?;
                is(pattern::fnv(&data) == *fnv, "other bytes")
                    .map_err(|_| format!("{len} bytes at {at} are not the expected ones"))
            }
            Object::Holds { block, fnv } => {
                is(kind.is_file(), "a file")?;
                let data = std::fs::read(&path).map_err(|e| text::error(&e))?;
                let mut blocks = data.chunks(*block as usize);
                match blocks.any(|block| pattern::fnv(block) == *fnv) {
                    true => Ok(()),
                    false => Err(format!("has no block of {block} bytes that it must have")),
                }
            }
            Object::Cloned => {
                is(kind.is_file(), "a file")?;
                let file = std::fs::File::open(&path).map_err(|e| text::error(&e))?;
                match extents::all_shared(&file) {
                    Ok(true) => Ok(()),
                    Ok(false) => Err("has its own data instead of another's".to_owned()),
                    Err(e) => Err(format!("FIEMAP: {}", text::error(&e))),
                }
            }
        }
    }
}

/// The directory that holds the last component of `path`. Step by step, since
/// the whole may be longer than PATH_MAX.
fn open_parent(root: &Path, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut dir = rustix::fs::openat(CWD, root, flags, Mode::empty())?;
    for component in path.parent().into_iter().flat_map(Path::iter) {
        dir = rustix::fs::openat(&dir, component, flags | OFlags::NOFOLLOW, Mode::empty())?;
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[test]
    fn words_come_back() {
        let odd = PathBuf::from(OsStr::from_bytes(b"a b/\xff|;\n"));
        for object in [
            Object::Absent,
            Object::Directory,
            Object::File { len: 5, fnv: !0 },
            Object::Records { seed: 1, count: 2 },
            Object::Symlink(b"\xfe|".to_vec()),
            Object::Fifo,
            Object::Socket,
            Object::CharDevice(259),
            Object::Owned {
                uid: 1,
                gid: u32::MAX - 1,
                mode: 0o4755,
            },
            Object::Xattr {
                name: b"user.a b".to_vec(),
                value: b"\0|\xff".to_vec(),
            },
            Object::Xattr {
                name: b"user.empty".to_vec(),
                value: Vec::new(),
            },
            Object::Sparse {
                size: 1 << 40,
                most: 4_096,
                at: 1 << 33,
                len: 10,
                fnv: 11,
            },
            Object::Cloned,
            Object::Holds {
                block: 4_096,
                fnv: 1,
            },
        ] {
            let e = Expectation::new(odd.clone(), object);
            assert_eq!(Expectation::from_word(&e.to_word()), Some(e));
        }
        assert_eq!(Expectation::from_word("x|what"), None);
    }

    #[test]
    fn each_kind_is_told_from_the_others() {
        let dir = std::env::temp_dir().join(format!("expectation-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("f"), b"abc").unwrap();
        std::os::unix::fs::symlink("f", dir.join("l")).unwrap();
        let ok = |e: Expectation| e.check(&dir);
        assert_eq!(ok(Expectation::file("f", b"abc")), Ok(()));
        assert!(ok(Expectation::file("f", b"abd")).is_err());
        assert!(ok(Expectation::file("f", b"ab")).is_err());
        assert!(ok(Expectation::file("l", b"abc")).is_err());
        assert_eq!(
            ok(Expectation::new("l", Object::Symlink(b"f".to_vec()))),
            Ok(())
        );
        assert!(ok(Expectation::new("l", Object::Symlink(b"g".to_vec()))).is_err());
        assert_eq!(ok(Expectation::new("no", Object::Absent)), Ok(()));
        assert!(ok(Expectation::new("f", Object::Absent)).is_err());
        assert!(ok(Expectation::new("f", Object::Fifo)).is_err());
        assert_eq!(ok(Expectation::new("no/where", Object::Absent)), Ok(()));
        let holds = |fnv| Object::Holds { block: 2, fnv };
        let (there, not) = (pattern::fnv(b"ab"), pattern::fnv(b"bc"));
        assert_eq!(ok(Expectation::new("f", holds(there))), Ok(()));
        assert!(ok(Expectation::new("f", holds(not))).is_err());
        let sparse = |at, len, fnv| Object::Sparse {
            size: 3,
            most: 8_192,
            at,
            len,
            fnv,
        };
        let hash = pattern::fnv(b"bc");
        assert_eq!(ok(Expectation::new("f", sparse(1, 2, hash))), Ok(()));
        assert!(ok(Expectation::new("f", sparse(0, 2, hash))).is_err());
        assert!(ok(Expectation::new("f", sparse(2, 2, hash))).is_err());
        let seen = dir.join("f").metadata().unwrap();
        let owned = |mode| Object::Owned {
            uid: seen.uid(),
            gid: seen.gid(),
            mode,
        };
        let mode = seen.mode() & 0o7777;
        assert_eq!(ok(Expectation::new("f", owned(mode))), Ok(()));
        assert!(ok(Expectation::new("f", owned(mode ^ 1))).is_err());
        let attribute = Object::Xattr {
            name: b"user.none".to_vec(),
            value: Vec::new(),
        };
        assert!(ok(Expectation::new("f", attribute)).is_err());
        assert!(ok(Expectation::file("no/where", b"")).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
