//! A file system that is full, and one whose owner has had their share of it: the
//! guest's programs are told which, and go on when there is room again.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use ferry_guest::{fixture, Expectation, MOUNT};
use rustix::fs::{fallocate, FallocateFlags};
use rustix::io::Errno;

use crate::checks::held::Held;
use crate::checks::Live;
use crate::sys::{need, need_error, At, Result};

const CHUNK: usize = 64 << 10;
/// How often what was freed is waited for.
const TRIES: usize = 20;

struct Full {
    dir: PathBuf,
    error: Errno,
    /// Bytes that fit at most.
    room: u64,
    /// Was there before it was full, and stays.
    held: Held,
}

/// On a file system without room.
pub fn prepare_space() -> Result<Box<dyn Live>> {
    prepare(fixture::SMALL, Errno::NOSPC, fixture::SMALL_SIZE)
}

/// In a subvolume with a quota.
pub fn prepare_quota() -> Result<Box<dyn Live>> {
    prepare(fixture::LIMITED, Errno::DQUOT, fixture::QUOTA)
}

fn prepare(dir: &str, error: Errno, room: u64) -> Result<Box<dyn Live>> {
    let dir = Path::new(MOUNT).join(dir);
    let mut full = Full {
        held: Held::create(dir.join("before"), 90, 3_000)?,
        dir,
        error,
        room,
    };
    full.verify()?;
    Ok(Box::new(full))
}

impl Full {
    /// Writes until no more fits; bytes written.
    fn fill(&self, path: &Path) -> Result<u64> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .at("create")?;
        let mut written = 0;
        while written <= self.room {
            match file.write(&[b'x'; CHUNK]) {
                Ok(count) => written += count as u64,
                Err(e) => {
                    let e = Err::<(), _>(Errno::from_io_error(&e).unwrap_or(Errno::IO));
                    need_error(format_args!("write at {written}"), e, self.error)?;
                    return Ok(written);
                }
            }
        }
        Err(crate::sys::Failure::new(format!(
            "{written} bytes fit where there is room for {}",
            self.room
        )))
    }
}

impl Live for Full {
    fn verify(&mut self) -> Result<()> {
        let big = self.dir.join("big");
        let written = self.fill(&big)?;
        need(written > 0, || "nothing fits to begin with".into())?;
        let size = std::fs::metadata(&big).at("stat")?.len();
        need(size == written, || {
            format!("{size} bytes instead of {written}")
        })?;
        let file = OpenOptions::new().write(true).open(&big).at("open")?;
        need_error(
            "fallocate",
            fallocate(&file, FallocateFlags::empty(), 0, self.room * 2),
            self.error,
        )?;
        drop(file);
        std::fs::remove_file(&big).at("unlink")?;
        // Room is there again when the host has really freed it.
        let small = self.dir.join("small");
        let mut tries = 0;
        while let Err(e) = std::fs::write(&small, [b'y'; CHUNK]) {
            tries += 1;
            let late = e.raw_os_error() == Some(self.error.raw_os_error()) && tries < TRIES;
            need(late, || format!("no room after unlink: {e}"))?;
            rustix::fs::syncfs(std::fs::File::open(&self.dir).at("open")?).at("syncfs")?;
        }
        std::fs::remove_file(&small).at("unlink")?;
        self.held.check()
    }

    fn finish(self: Box<Self>) -> Result<Vec<Expectation>> {
        Ok(vec![self.held.expectation()])
    }
}
