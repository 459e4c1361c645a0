//! The FUSE protocol's numbers and structures, as `include/uapi/linux/fuse.h` of
//! protocol 7.45 has them and under its names.
//!
//! Structures that fuse-backend-rs defines are taken from there; this module adds
//! what came later. All are plain bytes in the guest's (little-endian) order.

use vm_memory::ByteValued;

pub use fuse_backend_rs::abi::fuse_abi::{
    AccessIn, Attr, AttrOut, BatchForgetIn, CopyFileRangeIn, CreateIn, Dirent, EntryOut,
    FallocateIn, FileLock, FlushIn, ForgetIn, ForgetOne, FsyncIn, GetattrIn, GetxattrIn,
    GetxattrOut, InHeader, InitIn, InitIn2, InterruptIn, Kstatfs, LinkIn, LkIn, LkOut, LseekIn,
    LseekOut, MkdirIn, MknodIn, OpenIn, OpenOut, OutHeader, ReadIn, ReleaseIn, Rename2In, RenameIn,
    SetattrIn, SetxattrIn, StatfsOut, WriteIn, WriteOut,
};

/// `FUSE_KERNEL_VERSION`.
pub const FUSE_KERNEL_VERSION: u32 = 7;
/// `FUSE_KERNEL_MINOR_VERSION` of the header that this module follows.
pub const FUSE_KERNEL_MINOR_VERSION: u32 = 45;

/// Length of `fuse_in_header` in bytes.
pub const IN_HEADER_LEN: usize = 40;
/// Length of `fuse_out_header` in bytes.
pub const OUT_HEADER_LEN: usize = 16;

macro_rules! opcodes {
    ($($name:ident = $value:literal),* $(,)?) => {
        $(#[allow(missing_docs)] pub const $name: u32 = $value;)*

        /// The name of an opcode, for logs.
        pub fn opcode_name(opcode: u32) -> Option<&'static str> {
            match opcode {
                $($name => Some(stringify!($name)),)*
                _ => None,
            }
        }

        /// All opcodes of the protocol.
        pub const OPCODES: &[u32] = &[$($name),*];
    };
}

opcodes! {
    FUSE_LOOKUP = 1, FUSE_FORGET = 2, FUSE_GETATTR = 3, FUSE_SETATTR = 4, FUSE_READLINK = 5,
    FUSE_SYMLINK = 6, FUSE_MKNOD = 8, FUSE_MKDIR = 9, FUSE_UNLINK = 10, FUSE_RMDIR = 11,
    FUSE_RENAME = 12, FUSE_LINK = 13, FUSE_OPEN = 14, FUSE_READ = 15, FUSE_WRITE = 16,
    FUSE_STATFS = 17, FUSE_RELEASE = 18, FUSE_FSYNC = 20, FUSE_SETXATTR = 21,
    FUSE_GETXATTR = 22, FUSE_LISTXATTR = 23, FUSE_REMOVEXATTR = 24, FUSE_FLUSH = 25,
    FUSE_INIT = 26, FUSE_OPENDIR = 27, FUSE_READDIR = 28, FUSE_RELEASEDIR = 29,
    FUSE_FSYNCDIR = 30, FUSE_GETLK = 31, FUSE_SETLK = 32, FUSE_SETLKW = 33, FUSE_ACCESS = 34,
    FUSE_CREATE = 35, FUSE_INTERRUPT = 36, FUSE_BMAP = 37, FUSE_DESTROY = 38, FUSE_IOCTL = 39,
    FUSE_POLL = 40, FUSE_NOTIFY_REPLY = 41, FUSE_BATCH_FORGET = 42, FUSE_FALLOCATE = 43,
    FUSE_READDIRPLUS = 44, FUSE_RENAME2 = 45, FUSE_LSEEK = 46, FUSE_COPY_FILE_RANGE = 47,
    FUSE_SETUPMAPPING = 48, FUSE_REMOVEMAPPING = 49, FUSE_SYNCFS = 50, FUSE_TMPFILE = 51,
    FUSE_STATX = 52, FUSE_COPY_FILE_RANGE_64 = 53,
}

macro_rules! init_flags {
    ($($name:ident = $bit:literal),* $(,)?) => {
        $(#[allow(missing_docs)] pub const $name: u64 = 1 << $bit;)*

        /// The INIT flags in `flags` by name, for logs; unknown bits as numbers.
        pub fn init_flag_names(flags: u64) -> String {
            let mut names = Vec::new();
            $(if flags & $name != 0 { names.push(stringify!($name).to_owned()); })*
            let known = 0 $(| $name)*;
            for bit in (0..64).filter(|bit| (flags & !known) >> bit & 1 == 1) {
                names.push(format!("bit {bit}"));
            }
            names.join("|")
        }
    };
}

// Bits 32 and up travel in `flags2`, shifted down, when `FUSE_INIT_EXT` is set.
init_flags! {
    FUSE_ASYNC_READ = 0, FUSE_POSIX_LOCKS = 1, FUSE_FILE_OPS = 2, FUSE_ATOMIC_O_TRUNC = 3,
    FUSE_EXPORT_SUPPORT = 4, FUSE_BIG_WRITES = 5, FUSE_DONT_MASK = 6, FUSE_SPLICE_WRITE = 7,
    FUSE_SPLICE_MOVE = 8, FUSE_SPLICE_READ = 9, FUSE_FLOCK_LOCKS = 10, FUSE_HAS_IOCTL_DIR = 11,
    FUSE_AUTO_INVAL_DATA = 12, FUSE_DO_READDIRPLUS = 13, FUSE_READDIRPLUS_AUTO = 14,
    FUSE_ASYNC_DIO = 15, FUSE_WRITEBACK_CACHE = 16, FUSE_NO_OPEN_SUPPORT = 17,
    FUSE_PARALLEL_DIROPS = 18, FUSE_HANDLE_KILLPRIV = 19, FUSE_POSIX_ACL = 20,
    FUSE_ABORT_ERROR = 21, FUSE_MAX_PAGES = 22, FUSE_CACHE_SYMLINKS = 23,
    FUSE_NO_OPENDIR_SUPPORT = 24, FUSE_EXPLICIT_INVAL_DATA = 25, FUSE_MAP_ALIGNMENT = 26,
    FUSE_SUBMOUNTS = 27, FUSE_HANDLE_KILLPRIV_V2 = 28, FUSE_SETXATTR_EXT = 29,
    FUSE_INIT_EXT = 30, FUSE_INIT_RESERVED = 31, FUSE_SECURITY_CTX = 32,
    FUSE_HAS_INODE_DAX = 33, FUSE_CREATE_SUPP_GROUP = 34, FUSE_HAS_EXPIRE_ONLY = 35,
    FUSE_DIRECT_IO_ALLOW_MMAP = 36, FUSE_PASSTHROUGH = 37, FUSE_NO_EXPORT_SUPPORT = 38,
    FUSE_HAS_RESEND = 39, FUSE_ALLOW_IDMAP = 40, FUSE_OVER_IO_URING = 41,
    FUSE_REQUEST_TIMEOUT = 42,
}

macro_rules! bits {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $value:expr;)*) => {
        $($(#[$doc])* pub const $name: $type = $value;)*
    };
}

bits! {
    /// SETATTR: `mode` is valid.
    FATTR_MODE: u32 = 1 << 0;
    /// SETATTR: `uid` is valid.
    FATTR_UID: u32 = 1 << 1;
    /// SETATTR: `gid` is valid.
    FATTR_GID: u32 = 1 << 2;
    /// SETATTR: `size` is valid.
    FATTR_SIZE: u32 = 1 << 3;
    /// SETATTR: `atime` is valid.
    FATTR_ATIME: u32 = 1 << 4;
    /// SETATTR: `mtime` is valid.
    FATTR_MTIME: u32 = 1 << 5;
    /// SETATTR: `fh` is valid.
    FATTR_FH: u32 = 1 << 6;
    /// SETATTR: access time becomes the server's current time.
    FATTR_ATIME_NOW: u32 = 1 << 7;
    /// SETATTR: modification time becomes the server's current time.
    FATTR_MTIME_NOW: u32 = 1 << 8;
    /// SETATTR: `lock_owner` is valid.
    FATTR_LOCKOWNER: u32 = 1 << 9;
    /// SETATTR: `ctime` is valid (no file system can set it).
    FATTR_CTIME: u32 = 1 << 10;
    /// SETATTR: clear set-user-id and set-group-id bits.
    FATTR_KILL_SUIDGID: u32 = 1 << 11;

    /// OPEN reply: bypass the page cache for this open file.
    FOPEN_DIRECT_IO: u32 = 1 << 0;
    /// OPEN reply: keep the data cached by an earlier open.
    FOPEN_KEEP_CACHE: u32 = 1 << 1;
    /// OPEN reply: the file is not seekable.
    FOPEN_NONSEEKABLE: u32 = 1 << 2;
    /// OPENDIR reply: the listing may be cached.
    FOPEN_CACHE_DIR: u32 = 1 << 3;
    /// OPEN reply: the file has no position at all.
    FOPEN_STREAM: u32 = 1 << 4;
    /// OPEN reply: no FLUSH at close (unless `FUSE_WRITEBACK_CACHE`).
    FOPEN_NOFLUSH: u32 = 1 << 5;
    /// OPEN reply: direct writes to one inode may run at the same time.
    FOPEN_PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
    /// OPEN reply: the kernel reads and writes a backing file by itself.
    FOPEN_PASSTHROUGH: u32 = 1 << 7;

    /// OPEN, CREATE: clear set-user-id and set-group-id bits.
    FUSE_OPEN_KILL_SUIDGID: u32 = 1 << 0;
    /// GETATTR: `fh` is valid.
    FUSE_GETATTR_FH: u32 = 1 << 0;
    /// WRITE: from the page cache; the handle is a guess.
    FUSE_WRITE_CACHE: u32 = 1 << 0;
    /// WRITE: `lock_owner` is valid.
    FUSE_WRITE_LOCKOWNER: u32 = 1 << 1;
    /// WRITE: clear set-user-id and set-group-id bits.
    FUSE_WRITE_KILL_SUIDGID: u32 = 1 << 2;
    /// FSYNC: data only.
    FUSE_FSYNC_FDATASYNC: u32 = 1 << 0;
    /// GETLK, SETLK, SETLKW: a lock of `flock`.
    FUSE_LK_FLOCK: u32 = 1 << 0;
    /// SETXATTR: clear set-group-id when `system.posix_acl_access` is set.
    FUSE_SETXATTR_ACL_KILL_SGID: u32 = 1 << 0;
    /// IOCTL: not limited to what the command's number says (CUSE alone).
    FUSE_IOCTL_UNRESTRICTED: u32 = 1 << 1;
    /// `fuse_attr.flags`: the root of a mount inside the share.
    FUSE_ATTR_SUBMOUNT: u32 = 1 << 0;
    /// `fuse_attr.flags`: use DAX for this file.
    FUSE_ATTR_DAX: u32 = 1 << 1;

    /// The most security contexts in one `fuse_secctx_header`; extension types up
    /// to here are such headers, whose second field is the count.
    FUSE_MAX_NR_SECCTX: u32 = 31;
    /// Extension type of `fuse_supp_groups`.
    FUSE_EXT_GROUPS: u32 = 32;
}

macro_rules! abi_struct {
    ($($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default)]
        pub struct $name { $($(#[$fdoc])* pub $field: $type,)* }

        // SAFETY: only integers and arrays of them, laid out by the C rules with
        // no padding between or behind (tested), so any bytes are a valid value.
        unsafe impl ByteValued for $name {}
    )*};
}

abi_struct! {
    /// `struct fuse_ext_header`, in front of each extension; `struct
    /// fuse_secctx_header` has the same form.
    ExtHeader {
        /// Length in bytes, this header and padding included.
        size: u32,
        /// `FUSE_EXT_*`, or the number of security contexts up to
        /// [`FUSE_MAX_NR_SECCTX`].
        kind: u32,
    }

    /// `struct fuse_secctx`, followed by the attribute's name with its NUL and the
    /// context's bytes.
    Secctx {
        /// Length of the context in bytes.
        size: u32,
        /// Unused.
        padding: u32,
    }

    /// `struct fuse_supp_groups`, followed by `nr_groups` times `u32`.
    SuppGroups {
        /// Number of groups.
        nr_groups: u32,
    }

    /// `struct fuse_setxattr_in` in full, used with `FUSE_SETXATTR_EXT`; without
    /// it only the first 8 bytes are sent ([`SetxattrIn`]).
    SetxattrInExt {
        /// Length of the value in bytes.
        size: u32,
        /// `XATTR_*`.
        flags: u32,
        /// `FUSE_SETXATTR_*`.
        setxattr_flags: u32,
        /// Unused.
        padding: u32,
    }

    /// `struct fuse_syncfs_in`.
    SyncfsIn {
        /// Unused.
        padding: u64,
    }

    /// `struct fuse_copy_file_range_out`, the reply to COPY_FILE_RANGE_64.
    CopyFileRangeOut {
        /// Bytes copied.
        bytes_copied: u64,
    }

    /// `struct fuse_statx_in`.
    StatxIn {
        /// `FUSE_GETATTR_*`.
        getattr_flags: u32,
        /// Unused.
        reserved: u32,
        /// The handle, with `FUSE_GETATTR_FH`.
        fh: u64,
        /// `AT_STATX_*`.
        sx_flags: u32,
        /// `STATX_*` that the caller wants.
        sx_mask: u32,
    }

    /// `struct fuse_sx_time`.
    SxTime {
        /// Seconds since 1970.
        tv_sec: i64,
        /// Nanoseconds.
        tv_nsec: u32,
        /// Unused.
        reserved: i32,
    }

    /// `struct fuse_statx`.
    Statx {
        /// `STATX_*` that are filled in.
        mask: u32,
        /// Preferred size of a read or write, in bytes.
        blksize: u32,
        /// `STATX_ATTR_*` that are set.
        attributes: u64,
        /// Hard links.
        nlink: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
        /// Type and permissions.
        mode: u16,
        /// Unused.
        spare0: u16,
        /// Inode number.
        ino: u64,
        /// Size in bytes.
        size: u64,
        /// Blocks of 512 bytes that are in use.
        blocks: u64,
        /// `STATX_ATTR_*` that the file system has.
        attributes_mask: u64,
        /// Last access.
        atime: SxTime,
        /// When it was made.
        btime: SxTime,
        /// Last change of its attributes.
        ctime: SxTime,
        /// Last change of its contents.
        mtime: SxTime,
        /// Of a device, its major number.
        rdev_major: u32,
        /// Of a device, its minor number.
        rdev_minor: u32,
        /// Of the file system's device. The guest's kernel puts its own there.
        dev_major: u32,
        /// As above.
        dev_minor: u32,
        /// Unused.
        spare2: [u64; 14],
    }

    /// `struct fuse_statx_out`.
    StatxOut {
        /// How long the attributes are good, in seconds.
        attr_valid: u64,
        /// And nanoseconds.
        attr_valid_nsec: u32,
        /// None are defined.
        flags: u32,
        /// Unused.
        spare: [u64; 2],
        /// The attributes.
        stat: Statx,
    }

    /// `struct fuse_ioctl_in`, followed by `in_size` bytes.
    IoctlIn {
        /// The handle.
        fh: u64,
        /// `FUSE_IOCTL_*`.
        flags: u32,
        /// The command.
        cmd: u32,
        /// The caller's argument: an address, as a rule.
        arg: u64,
        /// Bytes that come along.
        in_size: u32,
        /// Bytes that are to come back.
        out_size: u32,
    }

    /// `struct fuse_ioctl_out`, followed by the request's `out_size` bytes.
    IoctlOut {
        /// What ioctl(2) returns.
        result: i32,
        /// `FUSE_IOCTL_*`.
        flags: u32,
        /// For `FUSE_IOCTL_RETRY`.
        in_iovs: u32,
        /// As above.
        out_iovs: u32,
    }

    /// `struct fuse_init_out`.
    InitOut {
        /// Protocol major.
        major: u32,
        /// Protocol minor.
        minor: u32,
        /// Read-ahead, in bytes.
        max_readahead: u32,
        /// Lower 32 INIT flags.
        flags: u32,
        /// Background requests at once.
        max_background: u16,
        /// Background requests from which on the guest counts itself congested.
        congestion_threshold: u16,
        /// The longest WRITE, in bytes.
        max_write: u32,
        /// Granularity of time stamps, in nanoseconds.
        time_gran: u32,
        /// Pages of data in one request.
        max_pages: u16,
        /// Logarithm of the alignment of DAX mappings.
        map_alignment: u16,
        /// Upper 32 INIT flags.
        flags2: u32,
        /// Depth of stacked file systems with `FUSE_PASSTHROUGH`.
        max_stack_depth: u32,
        /// Request time-out with `FUSE_REQUEST_TIMEOUT`, in seconds.
        request_timeout: u16,
        /// Unused.
        unused: [u16; 11],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::size_of;

    #[test]
    fn structures_have_the_kernels_sizes() {
        for (got, want, name) in [
            (size_of::<InHeader>(), IN_HEADER_LEN, "fuse_in_header"),
            (size_of::<OutHeader>(), OUT_HEADER_LEN, "fuse_out_header"),
            (size_of::<ExtHeader>(), 8, "fuse_ext_header"),
            (size_of::<Secctx>(), 8, "fuse_secctx"),
            (size_of::<SuppGroups>(), 4, "fuse_supp_groups"),
            (size_of::<SetxattrIn>(), 8, "fuse_setxattr_in (compat)"),
            (size_of::<SetxattrInExt>(), 16, "fuse_setxattr_in"),
            (size_of::<SyncfsIn>(), 8, "fuse_syncfs_in"),
            (size_of::<CopyFileRangeOut>(), 8, "fuse_copy_file_range_out"),
            (size_of::<CopyFileRangeIn>(), 56, "fuse_copy_file_range_in"),
            (size_of::<InitOut>(), 64, "fuse_init_out"),
            (size_of::<StatxIn>(), 24, "fuse_statx_in"),
            (size_of::<SxTime>(), 16, "fuse_sx_time"),
            (size_of::<Statx>(), 256, "fuse_statx"),
            (size_of::<StatxOut>(), 288, "fuse_statx_out"),
            (size_of::<IoctlIn>(), 32, "fuse_ioctl_in"),
            (size_of::<IoctlOut>(), 16, "fuse_ioctl_out"),
            (
                size_of::<InitIn>() + size_of::<InitIn2>(),
                64,
                "fuse_init_in",
            ),
            (size_of::<EntryOut>(), 128, "fuse_entry_out"),
            (size_of::<AttrOut>(), 104, "fuse_attr_out"),
            (size_of::<OpenOut>(), 16, "fuse_open_out"),
            (size_of::<StatfsOut>(), 80, "fuse_statfs_out"),
            (size_of::<SetattrIn>(), 88, "fuse_setattr_in"),
            (size_of::<Dirent>(), 24, "fuse_dirent"),
            (size_of::<LkIn>(), 48, "fuse_lk_in"),
            (size_of::<LkOut>(), 24, "fuse_lk_out"),
        ] {
            assert_eq!(got, want, "{name}");
        }
    }

    #[test]
    fn flag_names_show_unknown_bits() {
        assert_eq!(
            init_flag_names(FUSE_INIT_EXT | FUSE_ALLOW_IDMAP | 1 << 63),
            "FUSE_INIT_EXT|FUSE_ALLOW_IDMAP|bit 63"
        );
        assert_eq!(
            opcode_name(FUSE_COPY_FILE_RANGE_64),
            Some("FUSE_COPY_FILE_RANGE_64")
        );
        assert_eq!(opcode_name(7), None);
    }
}
