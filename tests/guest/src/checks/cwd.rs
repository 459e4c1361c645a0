//! The working directory of a process lies in the share.

use std::path::PathBuf;

use ferry_guest::Expectation;

use super::{in_share, Live};
use crate::sys::{self, need, At, Result};

struct Cwd {
    dir: PathBuf,
    ino: u64,
    crossings: usize,
}

/// Goes there.
pub fn prepare() -> Result<Box<dyn Live>> {
    let dir = super::own_dir("cwd")?.join("deeper/down");
    std::fs::create_dir_all(&dir).at("mkdir")?;
    std::fs::write(dir.join("../marker"), "above").at("write marker")?;
    std::env::set_current_dir(&dir).at("chdir")?;
    let ino = sys::path_ino(".".as_ref())?;
    Ok(Box::new(Cwd {
        dir,
        ino,
        crossings: 0,
    }))
}

impl Live for Cwd {
    fn verify(&mut self) -> Result<()> {
        self.crossings += 1;
        let now = std::env::current_dir().at("getcwd")?;
        need(now == self.dir, || format!("cwd is {}", now.display()))?;
        let ino = sys::path_ino(".".as_ref())?;
        need(ino == self.ino, || {
            format!("cwd is inode {ino} instead of {}", self.ino)
        })?;
        let marker = std::fs::read("../marker").at("read ../marker")?;
        need(marker == b"above", || "../marker has changed".into())?;
        let name = format!("relative-{}", self.crossings);
        std::fs::write(&name, &name).at(format_args!("write {name}"))?;
        let count = std::fs::read_dir(".").at("readdir .")?.count();
        need(count == self.crossings, || {
            format!("{count} entries instead of {}", self.crossings)
        })
    }

    fn finish(self: Box<Self>) -> Result<Vec<Expectation>> {
        std::env::set_current_dir("/").at("chdir /")?;
        Ok((1..=self.crossings)
            .map(|n| format!("relative-{n}"))
            .map(|name| Expectation::file(in_share(&self.dir.join(&name)), name.as_bytes()))
            .collect())
    }
}
