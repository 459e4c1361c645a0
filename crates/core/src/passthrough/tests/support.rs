//! A share in a temporary directory, and what a dispatcher would bring.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use tempfile::TempDir;

use crate::errno::FsResult;
use crate::fs::{Context, DirSink, Entry, FileSystem, InitOffer, Opened, ReadArgs, WriteArgs};
use crate::io::{ReplyWriter, RequestReader};
use crate::passthrough::config::{Config, InodeFileHandles};
use crate::passthrough::Passthrough;
use crate::types::{HandleId, Name, NodeId};

pub const ROOT: NodeId = NodeId::ROOT;

pub struct Share {
    pub dir: TempDir,
    pub fs: Passthrough,
}

/// Every flag that a Linux guest offers, which is good enough here.
const OFFERED: u64 = u64::MAX;

impl Share {
    pub fn new(configure: impl FnOnce(&mut Config)) -> Share {
        let dir = TempDir::new().unwrap();
        let root = OwnedFd::from(std::fs::File::open(dir.path()).unwrap());
        let mut config = Config::new(root);
        configure(&mut config);
        let fs = Passthrough::new(config).unwrap();
        let wish = fs
            .init(&InitOffer {
                minor: 38,
                flags: OFFERED,
                max_readahead: 0,
            })
            .unwrap();
        fs.adopt_session(wish.flags);
        Share { dir, fs }
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    pub fn write_file(&self, path: &str, data: &[u8]) {
        std::fs::write(self.path(path), data).unwrap();
    }

    pub fn read_file(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.path(path)).unwrap()
    }

    pub fn lookup(&self, parent: NodeId, n: &str) -> FsResult<Entry> {
        self.fs.lookup(&root(), parent, name(n))
    }

    pub fn create(&self, n: &str, flags: i32) -> FsResult<(Entry, Opened)> {
        self.fs
            .create(&root(), ROOT, name(n), 0o644, 0, flags as u32, false)
    }

    pub fn open(&self, node: NodeId, flags: i32) -> FsResult<HandleId> {
        Ok(self.fs.open(&root(), node, flags as u32, false)?.handle)
    }

    pub fn write(
        &self,
        node: NodeId,
        handle: HandleId,
        offset: u64,
        data: &[u8],
        flags: i32,
        from_cache: bool,
    ) -> FsResult<usize> {
        let args = WriteArgs {
            offset,
            size: data.len() as u32,
            flags: flags as u32,
            from_cache,
            kill_suidgid: false,
        };
        let mut data = Bytes(data.to_vec());
        self.fs.write(&root(), node, handle, &args, &mut data)
    }

    pub fn read(
        &self,
        node: NodeId,
        handle: HandleId,
        offset: u64,
        size: u32,
    ) -> FsResult<Vec<u8>> {
        let args = ReadArgs {
            offset,
            size,
            flags: 0,
        };
        let mut out = Room(Vec::new(), size as usize);
        let n = self.fs.read(&root(), node, handle, &args, &mut out)?;
        assert_eq!(n, out.0.len());
        Ok(out.0)
    }

    /// The path that the memory of names has for a node.
    pub fn remembered(&self, node: NodeId) -> Option<String> {
        let path = self.fs.names().path(self.fs.inodes(), node)?;
        let parts: Vec<_> = path.iter().map(|c| String::from_utf8_lossy(c)).collect();
        Some(parts.join("/"))
    }
}

/// Runs a test with inodes held by descriptor and, where that is possible here,
/// by handle.
pub fn in_both_modes(test: impl Fn(&Share)) {
    test(&Share::new(|config| {
        config.inode_file_handles = InodeFileHandles::Never;
    }));
    test(&Share::new(|config| {
        config.inode_file_handles = InodeFileHandles::Prefer;
    }));
}

/// The same, configured.
pub fn in_both_modes_with(configure: impl Fn(&mut Config), test: impl Fn(&Share)) {
    for mode in [InodeFileHandles::Never, InodeFileHandles::Prefer] {
        test(&Share::new(|config| {
            configure(config);
            config.inode_file_handles = mode;
        }));
    }
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub fn user(uid: u32, gid: u32) -> Context<'static> {
    Context {
        unique: 1,
        uid,
        gid,
        pid: 1,
        supplementary_groups: None,
        security_context: None,
    }
}

pub fn root() -> Context<'static> {
    user(0, 0)
}

/// A name for as long as the test runs.
pub fn name(text: &str) -> &'static Name {
    name_bytes(text.as_bytes())
}

pub fn name_bytes(bytes: &[u8]) -> &'static Name {
    Name::new(Box::leak(CString::new(bytes).unwrap().into_boxed_c_str())).unwrap()
}

/// Descriptors of this process that lead below `share`; other tests run beside.
pub fn descriptors_in(share: &Share) -> usize {
    let below = share.dir.path().to_owned();
    std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .filter(|target| target.starts_with(&below))
        .count()
}

/// A request's data.
pub struct Bytes(pub Vec<u8>);

impl RequestReader for Bytes {
    fn remaining(&self) -> usize {
        self.0.len()
    }
    fn read_exact(&mut self, buf: &mut [u8]) -> io::Result<()> {
        let rest = self.0.split_off(buf.len());
        buf.copy_from_slice(&self.0);
        self.0 = rest;
        Ok(())
    }
    fn write_to_file(
        &mut self,
        file: BorrowedFd<'_>,
        count: usize,
        offset: u64,
        rwf_flags: i32,
    ) -> io::Result<usize> {
        // A little at a time, so that loops have to loop.
        let count = count.min(self.0.len()).min(1000);
        let iov = libc::iovec {
            iov_base: self.0.as_mut_ptr().cast(),
            iov_len: count,
        };
        // SAFETY: the vector covers `count` bytes of `self.0`.
        let n = unsafe { libc::pwritev2(file.as_raw_fd(), &iov, 1, offset as i64, rwf_flags) };
        if n < 0 {
            return Err(io::Error::last_os_error());
        }
        self.0.drain(..n as usize);
        Ok(n as usize)
    }
}

/// A reply's room.
pub struct Room(pub Vec<u8>, pub usize);

impl ReplyWriter for Room {
    fn remaining(&self) -> usize {
        self.1 - self.0.len()
    }
    fn write_all(&mut self, buf: &[u8]) -> io::Result<()> {
        self.0.extend_from_slice(buf);
        Ok(())
    }
    fn read_from_file(
        &mut self,
        file: BorrowedFd<'_>,
        count: usize,
        offset: u64,
    ) -> io::Result<usize> {
        let mut buf = vec![0; count.min(1000)];
        let n = rustix::io::pread(file, &mut buf[..], offset)?;
        self.0.extend_from_slice(&buf[..n]);
        Ok(n)
    }
}

/// One listed entry.
pub struct Listed {
    pub name: Vec<u8>,
    pub offset: u64,
    pub entry: Option<Entry>,
}

pub type OnEach = Box<dyn FnMut(&[u8])>;

/// A listing with room for some entries.
pub struct Listing {
    pub plus: bool,
    pub room: usize,
    pub got: Vec<Listed>,
    /// Called with each name before the next is listed.
    pub each: OnEach,
}

impl DirSink for Listing {
    fn plus(&self) -> bool {
        self.plus
    }
    fn fits(&self, _: usize) -> bool {
        self.room > 0
    }
    fn add(&mut self, _ino: u64, offset: u64, _dtype: u8, name: &[u8], entry: Option<&Entry>) {
        self.room -= 1;
        (self.each)(name);
        self.got.push(Listed {
            name: name.to_vec(),
            offset,
            entry: entry.copied(),
        });
    }
}

impl Share {
    pub fn list_some(
        &self,
        node: NodeId,
        handle: HandleId,
        offset: u64,
        room: usize,
        plus: bool,
    ) -> FsResult<Vec<Listed>> {
        let mut listing = Listing {
            plus,
            room,
            got: Vec::new(),
            each: Box::new(|_| {}),
        };
        self.fs
            .readdir(&root(), node, handle, offset, &mut listing)?;
        Ok(listing.got)
    }

    pub fn is_by_handle(&self) -> bool {
        self.fs.use_handles
    }
}
