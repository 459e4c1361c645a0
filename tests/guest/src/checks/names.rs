//! Names that are not UTF-8, or odd in another way: to the kernel a name is
//! bytes without '/' and NUL.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use ferry_guest::Expectation;

use super::held::Held;
use super::Live;
use crate::sys::{need, At, Result};

struct Names {
    dir: PathBuf,
    held: Vec<Held>,
    all: HashSet<OsString>,
    crossings: u8,
}

fn odd() -> Vec<Vec<u8>> {
    vec![
        b"latin-1 caf\xe9".to_vec(),
        b"\xff\xfe\xfd".to_vec(),
        b"cut short \xe2\x82".to_vec(),
        b"surrogate \xed\xa0\x80".to_vec(),
        b"line\nbreak".to_vec(),
        b"-rf".to_vec(),
        b"...".to_vec(),
        b" ".to_vec(),
        b"ends (deleted)".to_vec(),
        b"\\x2f".to_vec(),
        vec![b'n'; 255],
        vec![0x80; 255],
        (1..=255).filter(|b| *b != b'/').collect(),
    ]
}

/// Creates a file of each name, and a directory with a file in it.
pub fn prepare() -> Result<Box<dyn Live>> {
    let dir = super::own_dir("names")?;
    let mut all = HashSet::new();
    let mut held = Vec::new();
    for name in odd() {
        held.push(Held::create(dir.join(OsStr::from_bytes(&name)), 20, 500)?);
        all.insert(OsString::from_vec(name));
    }
    let below = OsStr::from_bytes(b"directory \xfc");
    std::fs::create_dir(dir.join(below)).at("mkdir")?;
    held.push(Held::create(
        dir.join(below).join(OsStr::from_bytes(b"below \xfc")),
        21,
        500,
    )?);
    all.insert(below.to_owned());
    Ok(Box::new(Names {
        dir,
        held,
        all,
        crossings: 0,
    }))
}

impl Live for Names {
    fn verify(&mut self) -> Result<()> {
        self.held.iter_mut().try_for_each(Held::check)?;
        let mut listed = HashSet::new();
        for entry in std::fs::read_dir(&self.dir).at("opendir")? {
            listed.insert(entry.at("readdir")?.file_name());
        }
        need(listed == self.all, || {
            let wrong = listed.symmetric_difference(&self.all).next();
            format!("listed on one side only: {wrong:?}")
        })?;
        self.crossings += 1;
        let name = OsString::from_vec(vec![0xf0, self.crossings]);
        self.held.push(Held::create(self.dir.join(&name), 22, 10)?);
        self.all.insert(name);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Vec<Expectation>> {
        Ok(self.held.iter().map(Held::expectation).collect())
    }
}
