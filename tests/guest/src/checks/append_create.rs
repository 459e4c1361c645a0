//! A file whose CREATE carried O_APPEND, and that is then written in place
//! through a mapping: those writes come with an offset, and must land there.

use std::fs::OpenOptions;

use ferry_guest::{pattern, Expectation};

use super::mapping::Mapping;
use super::{in_share, Live};
use crate::sys::{self, need, At, Result};

const LEN: usize = 3 * 4096;

struct AppendCreate {
    path: std::path::PathBuf,
    map: Mapping,
    content: Vec<u8>,
    crossings: usize,
}

/// Creates and maps it. The mapping alone keeps the file open, as in a database.
pub fn prepare() -> Result<Box<dyn Live>> {
    let path = super::own_dir("append-create")?.join("file");
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create_new(true)
        .open(&path)
        .at("create")?;
    let content = pattern::bytes(5, 0, LEN);
    std::io::Write::write_all(&mut file, &content).at("write")?;
    let map = Mapping::new(&file, LEN)?;
    Ok(Box::new(AppendCreate {
        path,
        map,
        content,
        crossings: 0,
    }))
}

impl Live for AppendCreate {
    fn verify(&mut self) -> Result<()> {
        self.crossings += 1;
        let new = pattern::bytes(6, self.crossings * 100, 50);
        let at = 4096 + self.crossings * 60;
        self.map.write(at, &new)?;
        self.content[at..at + new.len()].copy_from_slice(&new);
        self.map.flush()?;
        sys::drop_caches("1")?;
        let got = std::fs::read(&self.path).at("read")?;
        let wrong = pattern::difference(&got, &self.content);
        need(wrong.is_none(), || wrong.unwrap_or_default())
    }

    fn finish(self: Box<Self>) -> Result<Vec<Expectation>> {
        Ok(vec![Expectation::file(in_share(&self.path), &self.content)])
    }
}
