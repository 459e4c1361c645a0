//! Files open in each mode, with the offsets their descriptors stand at.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use ferry_guest::{pattern, Expectation};
use rustix::fs::{Mode, OFlags};

use super::held::Held;
use super::{in_share, Live};
use crate::sys::{need, At, Result};

const LEN: usize = 200_000;

struct Files {
    dir: PathBuf,
    crossings: usize,
    /// Read and written by position.
    both: Held,
    /// Read and written by its own offset.
    stream: File,
    stream_at: u64,
    stream_content: Vec<u8>,
    append: File,
    append_content: Vec<u8>,
    write_only: File,
    write_content: Vec<u8>,
    read_only: File,
    read_at: usize,
    dir_fd: File,
}

/// Opens them.
pub fn prepare() -> Result<Box<dyn Live>> {
    let dir = super::own_dir("open-files")?;
    let content = pattern::bytes(1, 0, LEN);
    for name in ["stream", "append", "read-only"] {
        std::fs::write(dir.join(name), &content).at(format_args!("write {name}"))?;
    }
    let mut stream = OpenOptions::new()
        .read(true)
        .write(true)
        .open(dir.join("stream"))
        .at("open stream")?;
    stream.seek(SeekFrom::Start(10_001)).at("seek")?;
    let append = OpenOptions::new()
        .append(true)
        .open(dir.join("append"))
        .at("open append")?;
    let mut write_only = File::create(dir.join("write-only")).at("create write-only")?;
    write_only
        .write_all(&content[..77])
        .at("write write-only")?;
    let mut read_only = File::open(dir.join("read-only")).at("open read-only")?;
    let mut head = [0; 5_000];
    read_only.read_exact(&mut head).at("read read-only")?;
    Ok(Box::new(Files {
        both: Held::create(dir.join("both"), 2, LEN)?,
        stream,
        stream_at: 10_001,
        stream_content: content.clone(),
        append,
        append_content: content.clone(),
        write_only,
        write_content: content[..77].to_vec(),
        read_only,
        read_at: head.len(),
        dir_fd: File::open(&dir).at("open the directory")?,
        dir,
        crossings: 0,
    }))
}

impl Files {
    /// Reads on where the offset stands, then writes there.
    fn check_stream(&mut self) -> Result<()> {
        let at = self.stream.stream_position().at("lseek of stream")?;
        need(at == self.stream_at, || {
            format!("stream: offset {at} instead of {}", self.stream_at)
        })?;
        let mut got = [0; 3_000];
        self.stream.read_exact(&mut got).at("read stream")?;
        let from = at as usize;
        let wrong = pattern::difference(&got, &self.stream_content[from..from + got.len()]);
        need(wrong.is_none(), || {
            format!("stream at {at}: {}", wrong.unwrap_or_default())
        })?;
        let new = pattern::bytes(3, from, 500);
        self.stream.write_all(&new).at("write stream")?;
        let from = from + got.len();
        self.stream_content[from..from + new.len()].copy_from_slice(&new);
        self.stream_at = (from + new.len()) as u64;
        Ok(())
    }

    fn check_append(&mut self) -> Result<()> {
        let line = format!("after crossing {}\n", self.crossings);
        // O_APPEND must win over the offset.
        self.append.seek(SeekFrom::Start(0)).at("seek append")?;
        self.append.write_all(line.as_bytes()).at("append")?;
        self.append_content.extend(line.as_bytes());
        let got = std::fs::read(self.dir.join("append")).at("read append")?;
        let wrong = pattern::difference(&got, &self.append_content);
        need(wrong.is_none(), || {
            format!("append: {}", wrong.unwrap_or_default())
        })
    }

    fn check_one_way(&mut self) -> Result<()> {
        let new = pattern::bytes(4, self.write_content.len(), 333);
        self.write_only.write_all(&new).at("write write-only")?;
        self.write_content.extend(&new);
        let got = std::fs::read(self.dir.join("write-only")).at("read write-only")?;
        let wrong = pattern::difference(&got, &self.write_content);
        need(wrong.is_none(), || {
            format!("write-only: {}", wrong.unwrap_or_default())
        })?;
        let mut got = [0; 5_000];
        self.read_only.read_exact(&mut got).at("read read-only")?;
        let want = pattern::bytes(1, self.read_at, got.len());
        self.read_at += got.len();
        let wrong = pattern::difference(&got, &want);
        need(wrong.is_none(), || {
            format!("read-only: {}", wrong.unwrap_or_default())
        })
    }
}

impl Live for Files {
    fn verify(&mut self) -> Result<()> {
        self.crossings += 1;
        self.both.check()?;
        self.check_stream()?;
        self.check_append()?;
        self.check_one_way()?;
        let name = format!("new-{}", self.crossings);
        rustix::fs::openat(
            &self.dir_fd,
            &name,
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY,
            Mode::from_raw_mode(0o644),
        )
        .at(format_args!("create {name} by the open directory"))?;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Vec<Expectation>> {
        let file =
            |name: &str, content: &[u8]| Expectation::file(in_share(&self.dir.join(name)), content);
        let mut all = vec![
            self.both.expectation(),
            file("stream", &self.stream_content),
            file("append", &self.append_content),
            file("write-only", &self.write_content),
            file("read-only", &pattern::bytes(1, 0, LEN)),
        ];
        all.extend((1..=self.crossings).map(|n| file(&format!("new-{n}"), b"")));
        Ok(all)
    }
}
