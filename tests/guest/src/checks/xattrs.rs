//! Extended attributes of a file and a directory.

use std::path::{Path, PathBuf};

use ferry_guest::Expectation;
use rustix::fs::{getxattr, listxattr, setxattr, XattrFlags};

use super::Live;
use crate::sys::{need, At, Result};

struct Xattrs {
    dir: PathBuf,
    crossings: usize,
}

fn set(path: &Path, n: usize) -> Result<()> {
    let value = format!("value {n} \u{0}");
    setxattr(
        path,
        format!("user.ferry-{n}"),
        value.as_bytes(),
        XattrFlags::CREATE,
    )
    .at("setxattr")
}

/// Sets the first ones.
pub fn prepare() -> Result<Box<dyn Live>> {
    let dir = super::own_dir("xattr")?;
    std::fs::write(dir.join("file"), b"").at("create")?;
    set(&dir, 0)?;
    set(&dir.join("file"), 0)?;
    Ok(Box::new(Xattrs { dir, crossings: 0 }))
}

impl Live for Xattrs {
    fn verify(&mut self) -> Result<()> {
        for path in [self.dir.clone(), self.dir.join("file")] {
            for n in 0..=self.crossings {
                let mut value = [0; 64];
                let len =
                    getxattr(&path, format!("user.ferry-{n}"), &mut value[..]).at("getxattr")?;
                need(
                    value[..len] == *format!("value {n} \u{0}").as_bytes(),
                    || {
                        format!(
                            "attribute {n}: {:?}",
                            String::from_utf8_lossy(&value[..len])
                        )
                    },
                )?;
            }
            let mut names = [0; 4_096];
            let len = listxattr(&path, &mut names[..]).at("listxattr")?;
            let count = names[..len]
                .split(|b| *b == 0)
                .filter(|name| name.starts_with(b"user.ferry-"))
                .count();
            need(count == self.crossings + 1, || {
                format!("{count} attributes listed, not {}", self.crossings + 1)
            })?;
            set(&path, self.crossings + 1)?;
        }
        self.crossings += 1;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Vec<Expectation>> {
        Ok(vec![Expectation::file("xattr/file", b"")])
    }
}
