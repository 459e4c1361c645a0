//! The FUSE protocol's numbers and replies (linux/fuse.h), as a guest kernel sees
//! them. All in little-endian, which is what virtio-fs uses.

/// Protocol major version.
pub const MAJOR: u32 = 7;
/// Bytes of struct fuse_in_header.
pub const IN_HEADER: usize = 40;
/// Bytes of struct fuse_out_header.
pub const OUT_HEADER: usize = 16;
/// Node id of the root directory.
pub const ROOT_ID: u64 = 1;
/// Bytes of struct fuse_entry_out.
pub const ENTRY_OUT: usize = 128;
/// Bytes of struct fuse_attr_out.
pub const ATTR_OUT: usize = 104;
/// Bytes of struct fuse_open_out.
pub const OPEN_OUT: usize = 16;
/// Bytes of struct fuse_statx_out.
pub const STATX_OUT: usize = 288;
/// Bytes of struct fuse_init_out.
pub const INIT_OUT: usize = 64;

macro_rules! opcodes {
    ($($name:ident = $code:literal),* $(,)?) => {
        /// Request codes.
        pub mod opcode {
            $(#[doc = concat!("FUSE_", stringify!($name), ".")] pub const $name: u32 = $code;)*
        }

        /// A request code's name without FUSE_, for messages to people.
        pub fn opcode_name(code: u32) -> &'static str {
            match code {
                $($code => stringify!($name),)*
                _ => "unknown opcode",
            }
        }
    };
}

opcodes! {
    LOOKUP = 1, FORGET = 2, GETATTR = 3, SETATTR = 4, READLINK = 5, SYMLINK = 6, MKNOD = 8,
    MKDIR = 9, UNLINK = 10, RMDIR = 11, RENAME = 12, LINK = 13, OPEN = 14, READ = 15, WRITE = 16,
    STATFS = 17, RELEASE = 18, FSYNC = 20, SETXATTR = 21, GETXATTR = 22, LISTXATTR = 23,
    REMOVEXATTR = 24, FLUSH = 25, INIT = 26, OPENDIR = 27, READDIR = 28, RELEASEDIR = 29,
    FSYNCDIR = 30, GETLK = 31, SETLK = 32, SETLKW = 33, ACCESS = 34, CREATE = 35, INTERRUPT = 36,
    BMAP = 37, DESTROY = 38, IOCTL = 39, POLL = 40, NOTIFY_REPLY = 41, BATCH_FORGET = 42,
    FALLOCATE = 43, READDIRPLUS = 44, RENAME2 = 45, LSEEK = 46, COPY_FILE_RANGE = 47,
    SETUPMAPPING = 48, REMOVEMAPPING = 49, SYNCFS = 50, TMPFILE = 51, STATX = 52,
    COPY_FILE_RANGE_64 = 53,
}

macro_rules! flags {
    ($(#[$outer:meta])* $module:ident: $type:ty { $($name:ident = $bit:literal),* $(,)? }) => {
        $(#[$outer])*
        pub mod $module {
            $(#[doc = concat!("Bit ", stringify!($bit), ".")] pub const $name: $type = 1 << $bit;)*
        }
    };
}

flags! {
    /// FUSE_INIT flags, all 64 bits of them.
    init: u64 {
        ASYNC_READ = 0, POSIX_LOCKS = 1, FILE_OPS = 2, ATOMIC_O_TRUNC = 3, EXPORT_SUPPORT = 4,
        BIG_WRITES = 5, DONT_MASK = 6, SPLICE_WRITE = 7, SPLICE_MOVE = 8, SPLICE_READ = 9,
        FLOCK_LOCKS = 10, HAS_IOCTL_DIR = 11, AUTO_INVAL_DATA = 12, DO_READDIRPLUS = 13,
        READDIRPLUS_AUTO = 14, ASYNC_DIO = 15, WRITEBACK_CACHE = 16, NO_OPEN_SUPPORT = 17,
        PARALLEL_DIROPS = 18, HANDLE_KILLPRIV = 19, POSIX_ACL = 20, ABORT_ERROR = 21,
        MAX_PAGES = 22, CACHE_SYMLINKS = 23, NO_OPENDIR_SUPPORT = 24, EXPLICIT_INVAL_DATA = 25,
        MAP_ALIGNMENT = 26, SUBMOUNTS = 27, HANDLE_KILLPRIV_V2 = 28, SETXATTR_EXT = 29,
        INIT_EXT = 30, SECURITY_CTX = 32, HAS_INODE_DAX = 33, CREATE_SUPP_GROUP = 34,
        HAS_EXPIRE_ONLY = 35, DIRECT_IO_ALLOW_MMAP = 36, PASSTHROUGH = 37,
        NO_EXPORT_SUPPORT = 38, HAS_RESEND = 39, ALLOW_IDMAP = 40,
    }
}

/// The INIT flags of a recent Linux guest.
pub const GUEST_FLAGS: u64 = {
    use init::*;
    ASYNC_READ
        | POSIX_LOCKS
        | ATOMIC_O_TRUNC
        | EXPORT_SUPPORT
        | BIG_WRITES
        | DONT_MASK
        | FLOCK_LOCKS
        | HAS_IOCTL_DIR
        | AUTO_INVAL_DATA
        | DO_READDIRPLUS
        | READDIRPLUS_AUTO
        | ASYNC_DIO
        | WRITEBACK_CACHE
        | NO_OPEN_SUPPORT
        | PARALLEL_DIROPS
        | HANDLE_KILLPRIV
        | POSIX_ACL
        | ABORT_ERROR
        | MAX_PAGES
        | CACHE_SYMLINKS
        | NO_OPENDIR_SUPPORT
        | EXPLICIT_INVAL_DATA
        | SUBMOUNTS
        | HANDLE_KILLPRIV_V2
        | SETXATTR_EXT
        | INIT_EXT
        | SECURITY_CTX
        | CREATE_SUPP_GROUP
        | HAS_EXPIRE_ONLY
        | DIRECT_IO_ALLOW_MMAP
        | NO_EXPORT_SUPPORT
        | HAS_RESEND
        | ALLOW_IDMAP
};

flags! {
    /// FATTR_* bits: which fields of SETATTR count.
    fattr: u32 {
        MODE = 0, UID = 1, GID = 2, SIZE = 3, ATIME = 4, MTIME = 5, FH = 6, ATIME_NOW = 7,
        MTIME_NOW = 8, LOCKOWNER = 9, CTIME = 10, KILL_SUIDGID = 11,
    }
}

flags! {
    /// FOPEN_* bits of an open's reply.
    fopen: u32 {
        DIRECT_IO = 0, KEEP_CACHE = 1, NONSEEKABLE = 2, CACHE_DIR = 3, STREAM = 4, NOFLUSH = 5,
        PARALLEL_DIRECT_WRITES = 6,
    }
}

flags! {
    /// FUSE_WRITE_* bits.
    write_flag: u32 { CACHE = 0, LOCKOWNER = 1, KILL_SUIDGID = 2 }
}

/// FUSE_SETXATTR_ACL_KILL_SGID.
pub const SETXATTR_ACL_KILL_SGID: u32 = 1;
/// FUSE_ATTR_SUBMOUNT in [`Attr::flags`].
pub const ATTR_SUBMOUNT: u32 = 1;
/// FUSE_EXT_GROUPS: the type of the supplementary groups extension.
pub const EXT_GROUPS: u32 = 32;

/// A reply that ends too early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it ends {missing} bytes early")]
pub struct Short {
    /// Bytes missing at least.
    pub missing: usize,
}

/// Reads little-endian fields one after another.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Fields of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Fields(bytes)
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// [`Short`].
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Short> {
        if self.0.len() < n {
            return Err(Short {
                missing: n - self.0.len(),
            });
        }
        let (head, tail) = self.0.split_at(n);
        self.0 = tail;
        Ok(head)
    }

    /// The next two bytes.
    ///
    /// # Errors
    /// [`Short`].
    pub fn u16(&mut self) -> Result<u16, Short> {
        let b = self.take(2)?;
        Ok(u16::from_le_bytes([b[0], b[1]]))
    }

    /// The next four bytes.
    ///
    /// # Errors
    /// [`Short`].
    pub fn u32(&mut self) -> Result<u32, Short> {
        let b = self.take(4)?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    /// The next eight bytes.
    ///
    /// # Errors
    /// [`Short`].
    pub fn u64(&mut self) -> Result<u64, Short> {
        let b = self.take(8)?;
        Ok(u64::from_le_bytes([
            b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7],
        ]))
    }
}

/// struct fuse_attr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct Attr {
    pub ino: u64,
    pub size: u64,
    pub blocks: u64,
    pub atime: u64,
    pub mtime: u64,
    pub ctime: u64,
    pub atimensec: u32,
    pub mtimensec: u32,
    pub ctimensec: u32,
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub blksize: u32,
    pub flags: u32,
}

impl Attr {
    fn read(f: &mut Fields<'_>) -> Result<Self, Short> {
        Ok(Attr {
            ino: f.u64()?,
            size: f.u64()?,
            blocks: f.u64()?,
            atime: f.u64()?,
            mtime: f.u64()?,
            ctime: f.u64()?,
            atimensec: f.u32()?,
            mtimensec: f.u32()?,
            ctimensec: f.u32()?,
            mode: f.u32()?,
            nlink: f.u32()?,
            uid: f.u32()?,
            gid: f.u32()?,
            rdev: f.u32()?,
            blksize: f.u32()?,
            flags: f.u32()?,
        })
    }
}

/// struct fuse_entry_out: an inode under a name, whose lookup count went up by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct Entry {
    pub nodeid: u64,
    pub generation: u64,
    /// Seconds the name may be cached.
    pub entry_valid: u64,
    /// Seconds the attributes may be cached.
    pub attr_valid: u64,
    pub entry_valid_nsec: u32,
    pub attr_valid_nsec: u32,
    pub attr: Attr,
}

impl Entry {
    pub(crate) fn read(f: &mut Fields<'_>) -> Result<Self, Short> {
        Ok(Entry {
            nodeid: f.u64()?,
            generation: f.u64()?,
            entry_valid: f.u64()?,
            attr_valid: f.u64()?,
            entry_valid_nsec: f.u32()?,
            attr_valid_nsec: f.u32()?,
            attr: Attr::read(f)?,
        })
    }
}

/// struct fuse_attr_out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct AttrReply {
    /// Seconds the attributes may be cached.
    pub attr_valid: u64,
    pub attr_valid_nsec: u32,
    pub attr: Attr,
}

impl AttrReply {
    pub(crate) fn read(f: &mut Fields<'_>) -> Result<Self, Short> {
        let (attr_valid, attr_valid_nsec, _) = (f.u64()?, f.u32()?, f.u32()?);
        Ok(AttrReply {
            attr_valid,
            attr_valid_nsec,
            attr: Attr::read(f)?,
        })
    }
}

/// What struct fuse_statx_out has beside struct fuse_attr_out's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StatxReply {
    /// Seconds the attributes may be cached.
    pub attr_valid: u64,
    /// STATX_* that are filled in.
    pub mask: u32,
    /// The attributes; their flags are not told this way.
    pub attr: Attr,
    /// STATX_ATTR_* that are set.
    pub attributes: u64,
    /// When it was made: seconds and nanoseconds.
    pub btime: (i64, u32),
}

impl StatxReply {
    pub(crate) fn read(f: &mut Fields<'_>) -> Result<Self, Short> {
        let mut reply = StatxReply {
            attr_valid: f.u64()?,
            ..StatxReply::default()
        };
        f.take(4 + 4 + 2 * 8)?;
        reply.mask = f.u32()?;
        let attr = &mut reply.attr;
        attr.blksize = f.u32()?;
        reply.attributes = f.u64()?;
        (attr.nlink, attr.uid, attr.gid) = (f.u32()?, f.u32()?, f.u32()?);
        attr.mode = f.u32()? & 0xffff;
        (attr.ino, attr.size, attr.blocks) = (f.u64()?, f.u64()?, f.u64()?);
        let _attributes_mask = f.u64()?;
        let mut time = || -> Result<(u64, u32), Short> {
            let time = (f.u64()?, f.u32()?);
            f.u32()?;
            Ok(time)
        };
        (attr.atime, attr.atimensec) = time()?;
        let (seconds, nanoseconds) = time()?;
        reply.btime = (seconds as i64, nanoseconds);
        (attr.ctime, attr.ctimensec) = time()?;
        (attr.mtime, attr.mtimensec) = time()?;
        let (major, minor) = (f.u32()?, f.u32()?);
        attr.rdev = (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12);
        f.take(8 + 14 * 8)?;
        Ok(reply)
    }
}

/// struct fuse_open_out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Opened {
    /// The handle.
    pub fh: u64,
    /// [`fopen`] flags.
    pub open_flags: u32,
}

impl Opened {
    pub(crate) fn read(f: &mut Fields<'_>) -> Result<Self, Short> {
        let opened = Opened {
            fh: f.u64()?,
            open_flags: f.u32()?,
        };
        f.u32()?;
        Ok(opened)
    }
}

/// struct fuse_kstatfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct StatFs {
    pub blocks: u64,
    pub bfree: u64,
    pub bavail: u64,
    pub files: u64,
    pub ffree: u64,
    pub bsize: u32,
    pub namelen: u32,
    pub frsize: u32,
}

impl StatFs {
    pub(crate) fn read(f: &mut Fields<'_>) -> Result<Self, Short> {
        Ok(StatFs {
            blocks: f.u64()?,
            bfree: f.u64()?,
            bavail: f.u64()?,
            files: f.u64()?,
            ffree: f.u64()?,
            bsize: f.u32()?,
            namelen: f.u32()?,
            frsize: f.u32()?,
        })
    }
}

/// struct fuse_file_lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileLock {
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
    /// F_RDLCK, F_WRLCK or F_UNLCK.
    pub kind: u32,
    /// Process in the guest.
    pub pid: u32,
}

impl FileLock {
    pub(crate) fn read(f: &mut Fields<'_>) -> Result<Self, Short> {
        Ok(FileLock {
            start: f.u64()?,
            end: f.u64()?,
            kind: f.u32()?,
            pid: f.u32()?,
        })
    }
}

/// struct fuse_init_out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)]
pub struct InitReply {
    pub major: u32,
    pub minor: u32,
    pub max_readahead: u32,
    /// [`init`] flags, the upper half from flags2.
    pub flags: u64,
    pub max_background: u16,
    pub congestion_threshold: u16,
    pub max_write: u32,
    pub time_gran: u32,
    pub max_pages: u16,
    pub map_alignment: u16,
}

impl InitReply {
    /// Understands the three sizes there have been: version only (8 bytes), up to
    /// max_write (24), and the full structure.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Short> {
        let f = &mut Fields::new(bytes);
        let mut reply = InitReply {
            major: f.u32()?,
            minor: f.u32()?,
            ..Default::default()
        };
        if bytes.len() <= 8 {
            return Ok(reply);
        }
        reply.max_readahead = f.u32()?;
        reply.flags = f.u32()?.into();
        reply.max_background = f.u16()?;
        reply.congestion_threshold = f.u16()?;
        reply.max_write = f.u32()?;
        if bytes.len() <= 24 {
            return Ok(reply);
        }
        reply.time_gran = f.u32()?;
        reply.max_pages = f.u16()?;
        reply.map_alignment = f.u16()?;
        let flags2 = f.u32()?;
        if reply.flags & init::INIT_EXT != 0 {
            reply.flags |= u64::from(flags2) << 32;
        }
        Ok(reply)
    }
}

/// struct fuse_dirent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Inode number on the host.
    pub ino: u64,
    /// Where to go on reading after this entry.
    pub off: u64,
    /// DT_* value.
    pub kind: u32,
    /// Name, bytes as they are.
    pub name: Vec<u8>,
}

impl DirEntry {
    fn read(f: &mut Fields<'_>) -> Result<Self, Short> {
        let (ino, off, len, kind) = (f.u64()?, f.u64()?, f.u32()? as usize, f.u32()?);
        let name = f.take(len)?.to_vec();
        // The header's 24 bytes are aligned, so padding depends on the name alone.
        f.take(len.next_multiple_of(8) - len)?;
        Ok(DirEntry {
            ino,
            off,
            kind,
            name,
        })
    }

    /// All entries of a READDIR reply.
    pub(crate) fn read_all(bytes: &[u8]) -> Result<Vec<Self>, Short> {
        let mut f = Fields::new(bytes);
        let mut entries = Vec::new();
        while !f.0.is_empty() {
            entries.push(DirEntry::read(&mut f)?);
        }
        Ok(entries)
    }
}

/// struct fuse_direntplus. A node id of 0 means that no lookup was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntryPlus {
    /// The inode; its lookup count went up unless the node id is 0.
    pub entry: Entry,
    /// The directory entry.
    pub dirent: DirEntry,
}

impl DirEntryPlus {
    /// All entries of a READDIRPLUS reply.
    pub(crate) fn read_all(bytes: &[u8]) -> Result<Vec<Self>, Short> {
        let mut f = Fields::new(bytes);
        let mut entries = Vec::new();
        while !f.0.is_empty() {
            let entry = Entry::read(&mut f)?;
            entries.push(DirEntryPlus {
                entry,
                dirent: DirEntry::read(&mut f)?,
            });
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dirent(name: &[u8], off: u64) -> Vec<u8> {
        let mut b = 77u64.to_le_bytes().to_vec();
        b.extend_from_slice(&off.to_le_bytes());
        b.extend_from_slice(&(name.len() as u32).to_le_bytes());
        b.extend_from_slice(&8u32.to_le_bytes());
        b.extend_from_slice(name);
        b.resize(b.len().next_multiple_of(8), 0);
        b
    }

    #[test]
    fn directory_entries_are_split_at_their_padding() {
        let mut bytes = dirent(b"a", 1);
        bytes.extend(dirent(b"12345678", 2));
        bytes.extend(dirent(b"\xff\xfe", 3));
        let entries = DirEntry::read_all(&bytes).expect("entries");
        let names: Vec<_> = entries.iter().map(|e| e.name.as_slice()).collect();
        assert_eq!(names, [b"a".as_slice(), b"12345678", b"\xff\xfe"]);
        assert_eq!(entries[2].off, 3);
        for cut in 1..bytes.len() {
            let whole = [0, 32, 64].contains(&cut);
            assert_eq!(DirEntry::read_all(&bytes[..cut]).is_ok(), whole, "{cut}");
        }
    }

    #[test]
    fn init_replies_of_all_sizes() {
        let mut bytes = Vec::new();
        for word in [7u32, 38, 1 << 17, init::INIT_EXT as u32 | 1] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&[1, 0, 2, 0]);
        bytes.extend_from_slice(&(1u32 << 20).to_le_bytes());
        bytes.extend_from_slice(&1u32.to_le_bytes());
        bytes.extend_from_slice(&[0, 1, 0, 0]);
        bytes.extend_from_slice(&4u32.to_le_bytes());
        bytes.resize(INIT_OUT, 0);
        let reply = InitReply::read(&bytes).expect("full");
        assert_eq!(reply.flags, init::INIT_EXT | 1 | init::CREATE_SUPP_GROUP);
        assert_eq!(
            (reply.max_pages, reply.max_write, reply.max_background),
            (256, 1 << 20, 1)
        );
        assert_eq!(
            InitReply::read(&bytes[..24]).expect("old").max_write,
            1 << 20
        );
        assert_eq!(InitReply::read(&bytes[..8]).expect("oldest").minor, 38);
        InitReply::read(&bytes[..30]).expect_err("cut short");
    }

    proptest::proptest! {
        #[test]
        fn no_reply_makes_a_parser_panic(bytes: Vec<u8>) {
            let _ = DirEntry::read_all(&bytes);
            let _ = DirEntryPlus::read_all(&bytes);
            let _ = InitReply::read(&bytes);
        }

        #[test]
        fn entries_round_trip(names in proptest::collection::vec(
            proptest::collection::vec(1u8.., 1..300), 0..20,
        )) {
            let listed = names.iter().enumerate();
            let bytes: Vec<u8> = listed.flat_map(|(i, n)| dirent(n, i as u64)).collect();
            let entries = DirEntry::read_all(&bytes).expect("entries");
            let read: Vec<_> = entries.into_iter().map(|e| e.name).collect();
            proptest::prop_assert_eq!(read, names);
        }
    }
}
