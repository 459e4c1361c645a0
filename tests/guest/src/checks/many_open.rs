//! 2,000 open files.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ferry_guest::{fixture, Expectation, MOUNT};

use super::Live;
use crate::sys::{self, need, At, Result};

/// Of so many files, one is written to after each crossing.
const STEP: usize = 50;
/// All are looked at after the first crossing; after later ones, one in so many,
/// each time others.
const SHARE: usize = 4;

struct ManyOpen {
    files: Vec<(File, u64)>,
    crossings: usize,
}

fn path(n: usize) -> PathBuf {
    Path::new(fixture::DIR)
        .join("open")
        .join(fixture::open_name(n))
}

/// Opens them.
pub fn prepare() -> Result<Box<dyn Live>> {
    let mut files = Vec::with_capacity(fixture::OPEN_FILES);
    for n in 0..fixture::OPEN_FILES {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(Path::new(MOUNT).join(path(n)))
            .at(format_args!("open file {n}"))?;
        let ino = sys::ino(&file)?;
        files.push((file, ino));
    }
    Ok(Box::new(ManyOpen {
        files,
        crossings: 0,
    }))
}

/// What the file holds after `crossings`.
fn content(n: usize, crossings: usize) -> Vec<u8> {
    let mut content = fixture::open_content(n);
    if n % STEP == 0 {
        content.extend((1..=crossings).flat_map(|c| format!("crossing {c}\n").into_bytes()));
    }
    content
}

impl Live for ManyOpen {
    fn verify(&mut self) -> Result<()> {
        for (n, (file, ino)) in self.files.iter().enumerate() {
            let looked_at = self.crossings == 0 || (n + self.crossings) % SHARE == 0;
            if !looked_at && n % STEP != 0 {
                continue;
            }
            let want = content(n, self.crossings);
            let mut got = vec![0; want.len() + 1];
            let len = file
                .read_at(&mut got, 0)
                .at(format_args!("read file {n}"))?;
            need(got[..len] == want[..], || {
                format!("file {n} holds {:?}", String::from_utf8_lossy(&got[..len]))
            })?;
            let now = sys::ino(file)?;
            need(now == *ino, || {
                format!("file {n} is inode {now} instead of {ino}")
            })?;
            if n % STEP == 0 {
                let more = format!("crossing {}\n", self.crossings + 1);
                file.write_all_at(more.as_bytes(), want.len() as u64)
                    .at(format_args!("write file {n}"))?;
            }
        }
        self.crossings += 1;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Vec<Expectation>> {
        Ok((0..fixture::OPEN_FILES)
            .step_by(STEP / 2)
            .map(|n| Expectation::file(path(n), &content(n, self.crossings)))
            .collect())
    }
}
