//! What is used and has no name any more: an open file, an open directory, and the
//! working directory of a process.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use ferry_guest::expectation::Object;
use ferry_guest::Expectation;

use super::held::Held;
use super::{in_share, Live};
use crate::sys::{need, At, Result};

struct Unlinked {
    dir: PathBuf,
    file: Held,
    listed: File,
    listed_ino: u64,
    /// Works in a directory that is gone.
    child: Child,
    cwd_ino: u64,
}

fn links(what: &str, links: u64) -> Result<()> {
    need(links == 0, || format!("{what} has {links} links"))
}

/// Opens, goes there, and removes.
pub fn prepare() -> Result<Box<dyn Live>> {
    let dir = super::own_dir("unlinked")?;
    for name in ["listed", "cwd"] {
        std::fs::create_dir(dir.join(name)).at(format_args!("mkdir {name}"))?;
    }
    let file = Held::create(dir.join("file"), 90, 70_000)?;
    let listed = File::open(dir.join("listed")).at("open listed")?;
    let child = Command::new("/bin/busybox")
        .args(["sleep", "1000000"])
        .current_dir(dir.join("cwd"))
        .stdin(Stdio::null())
        .spawn()
        .at("start a process")?;
    let unlinked = Unlinked {
        listed_ino: listed.metadata().at("fstat listed")?.ino(),
        cwd_ino: std::fs::metadata(dir.join("cwd")).at("stat cwd")?.ino(),
        dir,
        file,
        listed,
        child,
    };
    std::fs::remove_file(unlinked.dir.join("file")).at("unlink file")?;
    for name in ["listed", "cwd"] {
        std::fs::remove_dir(unlinked.dir.join(name)).at(format_args!("rmdir {name}"))?;
    }
    Ok(Box::new(unlinked))
}

impl Unlinked {
    fn cwd(&self) -> PathBuf {
        Path::new("/proc")
            .join(self.child.id().to_string())
            .join("cwd")
    }
}

impl Live for Unlinked {
    fn verify(&mut self) -> Result<()> {
        links(
            "the file",
            self.file.parts().0.metadata().at("fstat file")?.nlink(),
        )?;
        self.file.check_open()?;
        let listed = self.listed.metadata().at("fstat listed")?;
        links("the open directory", listed.nlink())?;
        need(listed.ino() == self.listed_ino, || {
            format!(
                "listed is inode {} instead of {}",
                listed.ino(),
                self.listed_ino
            )
        })?;
        let cwd = std::fs::metadata(self.cwd()).at("stat of the working directory")?;
        links("the working directory", cwd.nlink())?;
        need(cwd.ino() == self.cwd_ino, || {
            format!("cwd is inode {} instead of {}", cwd.ino(), self.cwd_ino)
        })?;
        let entries = std::fs::read_dir(self.cwd()).at("readdir of the working directory")?;
        need(entries.count() == 0, || {
            "something is in a directory that is gone".into()
        })?;
        let made = std::fs::write(self.cwd().join("new"), b"");
        need(made.is_err(), || {
            "something can be made in a directory that is gone".into()
        })
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Expectation>> {
        self.child.kill().at("kill")?;
        self.child.wait().at("wait")?;
        let gone = ["file", "listed", "cwd"].map(|name| Expectation {
            path: in_share(&self.dir.join(name)),
            object: Object::Absent,
        });
        Ok(gone.into())
    }
}
