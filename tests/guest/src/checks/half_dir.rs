//! A directory of 3,000 entries that has been read in part when the guest
//! crosses: the rest must come afterwards, and each name once.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::ReadDir;
use std::path::Path;

use ferry_guest::{fixture, Expectation, MOUNT};

use super::Live;
use crate::sys::{need, At, Failure, Result};

/// Entries read before the first crossing, and after each one.
const FIRST: usize = 1_100;
const MORE: usize = 250;

struct HalfDir {
    /// Begun before the first crossing.
    reader: ReadDir,
    seen: HashMap<OsString, u32>,
    /// Opened before the first crossing, and not read.
    unread: Option<ReadDir>,
}

fn open() -> Result<ReadDir> {
    std::fs::read_dir(Path::new(MOUNT).join(fixture::DIR).join("entries")).at("opendir")
}

/// Reads the first part.
pub fn prepare() -> Result<Box<dyn Live>> {
    let mut half = HalfDir {
        reader: open()?,
        seen: HashMap::new(),
        unread: Some(open()?),
    };
    half.read(FIRST)?;
    need(half.seen.len() == FIRST, || {
        format!("only {} entries", half.seen.len())
    })?;
    Ok(Box::new(half))
}

impl HalfDir {
    fn read(&mut self, count: usize) -> Result<()> {
        for entry in self.reader.by_ref().take(count) {
            *self
                .seen
                .entry(entry.at("readdir")?.file_name())
                .or_default() += 1;
        }
        Ok(())
    }
}

fn complete(seen: &HashMap<OsString, u32>, which: &str) -> Result<()> {
    for n in 0..fixture::ENTRIES {
        let name = fixture::entry_name(n);
        let times = seen.get(OsString::from(&name).as_os_str()).copied();
        need(times == Some(1), || {
            format!("{which}: {name} came {} times", times.unwrap_or(0))
        })?;
    }
    need(seen.len() == fixture::ENTRIES, || {
        format!("{which}: {} names", seen.len())
    })
}

impl Live for HalfDir {
    fn verify(&mut self) -> Result<()> {
        let before = self.seen.len();
        self.read(MORE)?;
        need(
            self.seen.len() > before || before == fixture::ENTRIES,
            || format!("the directory ends after {before} entries"),
        )?;
        match self.seen.iter().find(|(_, times)| **times > 1) {
            Some((name, _)) => Err(Failure::new(format!("{name:?} came twice"))),
            None => Ok(()),
        }?;
        if let Some(unread) = self.unread.take() {
            let mut seen = HashMap::new();
            for entry in unread {
                *seen.entry(entry.at("readdir")?.file_name()).or_default() += 1;
            }
            complete(&seen, "opened before, read after")?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Expectation>> {
        self.read(usize::MAX)?;
        complete(&self.seen, "read in parts")?;
        Ok(Vec::new())
    }
}
