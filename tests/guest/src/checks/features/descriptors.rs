//! A guest that opens more files than its daemon may have descriptors: it is told, what
//! it has open stays as it is, and when some are closed there is room for others.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ferry_guest::{fixture, Expectation, MOUNT};
use rustix::io::Errno;

use crate::checks::{own_dir, Live};
use crate::sys::{self, need, need_error, At, Result};

/// How often a close that nobody waits for is given time.
const TRIES: usize = 100;

struct Descriptors {
    dir: PathBuf,
    open: Vec<(usize, File)>,
    rounds: usize,
}

fn path(n: usize) -> PathBuf {
    let dir = Path::new(MOUNT).join(fixture::DIR).join("open");
    dir.join(fixture::open_name(n))
}

/// Opens as many as it gets.
pub fn prepare() -> Result<Box<dyn Live>> {
    let mut descriptors = Descriptors {
        dir: own_dir("descriptors")?,
        open: Vec::new(),
        rounds: 0,
    };
    descriptors.exhaust()?;
    let got = descriptors.open.len();
    need((100..fixture::OPEN_FILES).contains(&got), || {
        format!("{got} of {} files could be opened", fixture::OPEN_FILES)
    })?;
    descriptors.verify()?;
    Ok(Box::new(descriptors))
}

impl Descriptors {
    /// Opens files until that is refused, which must be for want of descriptors.
    fn exhaust(&mut self) -> Result<()> {
        let taken: Vec<usize> = self.open.iter().map(|(n, _)| *n).collect();
        for n in (0..fixture::OPEN_FILES).filter(|n| !taken.contains(n)) {
            match File::open(path(n)) {
                Ok(file) => self.open.push((n, file)),
                Err(e) => {
                    let e = Err::<(), _>(Errno::from_io_error(&e).unwrap_or(Errno::IO));
                    return need_error(format_args!("open file {n}"), e, Errno::NFILE);
                }
            }
        }
        Ok(())
    }

    fn read_all(&self) -> Result<()> {
        for (n, file) in &self.open {
            let mut got = [0; 16];
            file.read_exact_at(&mut got, 0)
                .at(format_args!("read file {n}"))?;
            need(got[..] == fixture::open_content(*n), || {
                format!("file {n} holds {:?}", String::from_utf8_lossy(&got))
            })?;
        }
        Ok(())
    }
}

impl Live for Descriptors {
    fn verify(&mut self) -> Result<()> {
        let before = self.open.len();
        self.read_all()?;
        std::fs::metadata(MOUNT).at("stat of the root")?;
        // A part is closed and forgotten, and all goes on.
        self.open.truncate(before / 2);
        let mut tries = 0;
        let made = self.dir.join(self.rounds.to_string());
        loop {
            sys::drop_caches("3")?;
            match std::fs::write(&made, b"room again") {
                Ok(()) => break,
                Err(e) => {
                    tries += 1;
                    need(tries < TRIES, || format!("no room after closing half: {e}"))?;
                }
            }
        }
        self.exhaust()?;
        let now = self.open.len();
        need(now >= before / 4 * 3, || {
            format!("{now} files could be opened, and before {before}")
        })?;
        self.read_all()?;
        self.rounds += 1;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Expectation>> {
        self.open.clear();
        sys::drop_caches("3")?;
        let made = |n: usize| Expectation::file(format!("descriptors/{n}"), b"room again");
        Ok((0..self.rounds).map(made).collect())
    }
}
