//! An open file together with what must be in it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ferry_guest::{pattern, Expectation};

use super::in_share;
use crate::sys::{self, need, At, Result};

/// A file that is held open for reading and writing over the crossings.
pub struct Held {
    path: PathBuf,
    file: File,
    ino: u64,
    seed: u64,
    content: Vec<u8>,
}

impl Held {
    /// Creates `path` with `len` bytes of stream `seed`, and keeps it open.
    pub fn create(path: PathBuf, seed: u64, len: usize) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .at(format_args!("create {:?}", path.file_name()))?;
        Self::fill(path, file, seed, len)
    }

    /// Writes the first content into `file`, which is new and open as `path`.
    pub fn fill(path: PathBuf, file: File, seed: u64, len: usize) -> Result<Self> {
        let content = pattern::bytes(seed, 0, len);
        file.write_all_at(&content, 0).at("first write")?;
        let ino = sys::ino(&file)?;
        Ok(Self {
            path,
            file,
            ino,
            seed,
            content,
        })
    }

    /// The open file, and its content as it must be.
    pub fn parts(&mut self) -> (&File, &mut Vec<u8>) {
        (&self.file, &mut self.content)
    }

    /// Says that the file is now at `path`.
    pub fn moved(&mut self, path: PathBuf) {
        self.path = path;
    }

    /// Takes the inode number that the file has now, by its descriptor and its path alike.
    pub fn renumbered(&mut self) -> Result<()> {
        // In this order: what a path leads to is asked for, and may be news to the kernel.
        let named = sys::path_ino(&self.path)?;
        let open = sys::ino(&self.file)?;
        need(open == named, || {
            format!(
                "{:?}: its path leads to inode {named}, its descriptor to {open}",
                self.path.file_name().unwrap_or_default()
            )
        })?;
        self.ino = open;
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Checks content and inode through the descriptor, then appends a little
    /// and overwrites a little.
    pub fn check_open(&mut self) -> Result<()> {
        let name = format!("{:?}", self.path.file_name().unwrap_or_default());
        let mut got = vec![0; self.content.len() + 1];
        let mut len = 0;
        while len < got.len() {
            match self.file.read_at(&mut got[len..], len as u64) {
                Ok(0) => break,
                Ok(n) => len += n,
                Err(e) => return Err(e).at(format_args!("read {name}")),
            }
        }
        let wrong = pattern::difference(&got[..len], &self.content);
        need(wrong.is_none(), || {
            format!("{name}: {}", wrong.unwrap_or_default())
        })?;
        let now = sys::ino(&self.file)?;
        need(now == self.ino, || {
            format!("{name}: inode {now} instead of {}", self.ino)
        })?;
        let more = pattern::bytes(self.seed + 1, self.content.len(), 100);
        self.file
            .write_all_at(&more, self.content.len() as u64)
            .at(format_args!("append to {name}"))?;
        let over = pattern::bytes(self.seed + 2, self.content.len(), 10);
        self.file
            .write_all_at(&over, 0)
            .at(format_args!("overwrite {name}"))?;
        self.content.extend(more);
        self.content[..10].copy_from_slice(&over);
        Ok(())
    }

    /// As [`Self::check_open`], and that the path leads to the same file.
    pub fn check(&mut self) -> Result<()> {
        let found = sys::path_ino(&self.path)?;
        need(found == self.ino, || {
            format!(
                "{:?}: its path leads to inode {found} instead of {}",
                self.path.file_name().unwrap_or_default(),
                self.ino
            )
        })?;
        self.check_open()
    }

    /// What the host must find.
    pub fn expectation(&self) -> Expectation {
        Expectation::file(in_share(&self.path), &self.content)
    }
}
