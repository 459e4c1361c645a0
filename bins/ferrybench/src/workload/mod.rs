//! The workloads: what is done, and how one sees that it was done.

mod attrs;
mod data;
mod dirs;
mod mix;
mod names;

use std::fs;
use std::os::unix::fs::{chown, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use ferryfs_frontend::FsClient;

use crate::engine::Program;
use crate::error::{expect_eq, BenchError};

/// What is measured. The name is the one on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Attributes of a file that was looked up
    Getattr,
    /// Look up a name whose inode is known
    Lookup,
    /// Look up a path of 8 components, one by one
    LookupWalk,
    /// Look up a name that is not there
    LookupMiss,
    /// Look up a name, and forget it again
    LookupNew,
    /// Open and release a file
    Open,
    /// Read 4 KiB at random
    #[value(name = "read-4k")]
    Read4k,
    /// Read 128 KiB in sequence
    #[value(name = "read-128k")]
    Read128k,
    /// Read 1 MiB in sequence
    #[value(name = "read-1m")]
    Read1m,
    /// Write 4 KiB at random
    #[value(name = "write-4k")]
    Write4k,
    /// Write 128 KiB in sequence
    #[value(name = "write-128k")]
    Write128k,
    /// Write 1 MiB in sequence
    #[value(name = "write-1m")]
    Write1m,
    /// Open, list and release a directory
    Readdir,
    /// The same with attributes, and forget what was looked up
    Readdirplus,
    /// Create, release, unlink and forget a file
    Create,
    /// Make, remove and forget a directory
    Mkdir,
    /// Rename a file
    Rename,
    /// Change a file's mode
    Chmod,
    /// Change a file's times
    Utimes,
    /// Look up in vain, create, write 4 KiB, flush, release, look up, open, read,
    /// flush, release, unlink, forget
    SmallFiles,
    /// Write 4 KiB and fsync
    Fsync,
    /// Set, get, list and remove an extended attribute
    Xattr,
}

impl Workload {
    /// Its name on the command line and in reports.
    pub fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Bytes of data each place needs.
    pub fn data(self, sizes: &Sizes) -> usize {
        match self {
            Workload::Read128k | Workload::Write128k => 128 << 10,
            Workload::Read1m | Workload::Write1m => 1 << 20,
            Workload::Readdir | Workload::Readdirplus => sizes.dir_buffer as usize,
            _ => 4096,
        }
    }

    /// Whether it leaves much to be written back.
    pub fn writes(self) -> bool {
        use Workload::{Create, Fsync, Mkdir, SmallFiles, Write128k, Write1m, Write4k};
        matches!(
            self,
            Write4k | Write128k | Write1m | Fsync | SmallFiles | Create | Mkdir
        )
    }

    /// Makes its files in `place.dir` and gets ready.
    ///
    /// # Errors
    /// Of making them and looking them up.
    pub fn prepare(self, lane: LaneDir) -> Result<Box<dyn Program>, BenchError> {
        Ok(match self {
            Workload::Getattr => Box::new(attrs::Getattr::new(lane)?),
            Workload::Chmod => Box::new(attrs::Setattr::new(lane, false)?),
            Workload::Utimes => Box::new(attrs::Setattr::new(lane, true)?),
            Workload::Xattr => Box::new(attrs::Xattr::new(lane)?),
            Workload::Lookup => Box::new(names::Lookup::new(lane, names::LookupKind::Hit)?),
            Workload::LookupNew => Box::new(names::Lookup::new(lane, names::LookupKind::New)?),
            Workload::LookupMiss => Box::new(names::Lookup::new(lane, names::LookupKind::Miss)?),
            Workload::LookupWalk => Box::new(names::Walk::new(lane)?),
            Workload::Create => Box::new(names::Make::new(lane, false)),
            Workload::Mkdir => Box::new(names::Make::new(lane, true)),
            Workload::Rename => Box::new(names::Rename::new(lane)?),
            Workload::Open => Box::new(data::Open::new(lane)?),
            Workload::Read4k => Box::new(data::Read::new(lane, 4096, true)?),
            Workload::Read128k => Box::new(data::Read::new(lane, 128 << 10, false)?),
            Workload::Read1m => Box::new(data::Read::new(lane, 1 << 20, false)?),
            Workload::Write4k => Box::new(data::Write::new(lane, 4096, true, false)?),
            Workload::Write128k => Box::new(data::Write::new(lane, 128 << 10, false, false)?),
            Workload::Write1m => Box::new(data::Write::new(lane, 1 << 20, false, false)?),
            Workload::Fsync => Box::new(data::Write::new(lane, 4096, true, true)?),
            Workload::Readdir => Box::new(dirs::List::new(lane, false)?),
            Workload::Readdirplus => Box::new(dirs::List::new(lane, true)?),
            Workload::SmallFiles => Box::new(mix::SmallFiles::new(lane)),
        })
    }
}

/// Sizes of what workloads work on.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Bytes of files that are read or written.
    pub file: u64,
    /// Entries of directories that are listed.
    pub entries: u64,
    /// Bytes asked for by READDIR and READDIRPLUS.
    pub dir_buffer: u32,
}

/// Files per lane that metadata operations go round.
pub const FILES: usize = 64;

/// Where a lane works: an empty directory of its own.
pub struct LaneDir {
    /// On the host.
    pub path: PathBuf,
    /// As the daemon knows it.
    pub node: u64,
    /// Asks as the workload's user.
    pub fs: FsClient,
    /// That user.
    pub uid: u32,
    /// Operations in flight.
    pub depth: usize,
    /// Sizes.
    pub sizes: Sizes,
}

impl LaneDir {
    /// Makes a file on the host.
    pub fn host_file(&self, path: &Path, content: &[u8]) -> Result<u64, BenchError> {
        fs::write(path, content).map_err(BenchError::io("write", path))?;
        own(path, self.uid)?;
        let meta = fs::metadata(path).map_err(BenchError::io("stat", path))?;
        Ok(meta.ino())
    }

    /// Makes [`FILES`] small files and looks them up.
    pub fn files(&self) -> Result<Vec<File>, BenchError> {
        let make = |i| {
            let name = format!("file-{i:04}");
            let path = self.path.join(&name);
            let ino = self.host_file(&path, b"content\n")?;
            let entry = self.fs.lookup(self.node, &name)?;
            expect_eq(|| format!("inode of {name}"), entry.attr.ino, ino)?;
            Ok(File {
                name: name.into_bytes(),
                path,
                ino,
                node: entry.nodeid,
            })
        };
        (0..FILES).map(make).collect()
    }
}

/// Gives a file or directory to `uid`, if we are somebody else.
pub fn own(path: &Path, uid: u32) -> Result<(), BenchError> {
    if rustix::process::geteuid().as_raw() == uid {
        return Ok(());
    }
    chown(path, Some(uid), Some(uid)).map_err(BenchError::io("change the owner of", path))
}

/// A file made for a workload.
pub struct File {
    /// Its name in the lane's directory.
    pub name: Vec<u8>,
    /// Where it is on the host.
    pub path: PathBuf,
    /// Its inode number there.
    pub ino: u64,
    /// Its node id.
    pub node: u64,
}

/// Checks what a file or directory on the host is: permissions and owner.
pub fn expect_made(path: &Path, dir: bool, mode: u32, uid: u32) -> Result<(), BenchError> {
    let meta = fs::symlink_metadata(path).map_err(BenchError::io("find", path))?;
    let found = (
        meta.is_dir(),
        meta.permissions().mode() & 0o7777,
        meta.uid(),
    );
    expect_eq(
        || format!("kind, mode and owner of {}", path.display()),
        found,
        (dir, mode, uid),
    )
}

/// Checks that a directory on the host holds exactly `names`.
pub fn expect_names(dir: &Path, mut names: Vec<String>) -> Result<u64, BenchError> {
    let listed = fs::read_dir(dir).map_err(BenchError::io("list", dir))?;
    let listed = listed.map(|e| Ok(e?.file_name().to_string_lossy().into_owned()));
    let listed: Result<Vec<String>, std::io::Error> = listed.collect();
    let mut listed = listed.map_err(BenchError::io("list", dir))?;
    listed.sort_unstable();
    names.sort_unstable();
    let count = names.len() as u64;
    expect_eq(|| format!("names in {}", dir.display()), listed, names)?;
    Ok(count)
}

/// A small random number generator (xorshift); good enough to pick blocks.
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n.max(1)
    }
}
