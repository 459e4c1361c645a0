//! Mounts of the host below the share: each is one of the guest's, with whatever name,
//! in another one, and of a directory of the share itself.

use std::path::{Path, PathBuf};

use ferry_guest::{fixture, Expectation, MOUNT};

use crate::checks::held::Held;
use crate::checks::Live;
use crate::sys::{need, At, Result};

/// Mounts, each with the one that it is in.
const PLACES: [(&str, &str); 3] = [
    (fixture::SMALL, fixture::PLACES),
    (fixture::NESTED, fixture::SMALL),
    (fixture::BOUND, fixture::PLACES),
];

struct Mounts {
    held: Vec<Held>,
    devices: Vec<u64>,
}

fn dev(path: &str) -> Result<u64> {
    let path = Path::new(MOUNT).join(path);
    Ok(rustix::fs::stat(&path).at(path.display())?.st_dev)
}

fn devices() -> Result<Vec<u64>> {
    PLACES.iter().map(|(place, _)| dev(place)).collect()
}

fn file(place: &str) -> PathBuf {
    Path::new(MOUNT).join(place).join("in-a-mount")
}

/// Works in each.
pub fn prepare() -> Result<Box<dyn Live>> {
    let held = (40..)
        .zip(PLACES)
        .map(|(n, (place, _))| Held::create(file(place), n, 2_000));
    let mut mounts = Mounts {
        held: held.collect::<Result<_>>()?,
        devices: devices()?,
    };
    mounts.verify()?;
    Ok(Box::new(mounts))
}

impl Live for Mounts {
    fn verify(&mut self) -> Result<()> {
        let now = devices()?;
        need(now == self.devices, || {
            format!("st_dev {now:?} instead of {:?}", self.devices)
        })?;
        for ((place, outer), here) in PLACES.iter().zip(&now) {
            need(*here != dev(outer)?, || {
                format!("{place} has the st_dev of {outer}")
            })?;
        }
        // The kernel mounts them as they are come across.
        let table = std::fs::read_to_string("/proc/self/mountinfo").at("mountinfo")?;
        let count = table.lines().filter(|l| l.contains(" - virtiofs ")).count();
        need(count > PLACES.len(), || {
            format!("{count} mounts of the share, and {} in it", PLACES.len())
        })?;
        self.held.iter_mut().try_for_each(Held::check)?;
        // What is bound is the same file under its first name.
        let content = |place: &str| std::fs::read(file(place)).at("read");
        need(
            content(fixture::BOUND)? == content(fixture::BOUND_FROM)?,
            || "what is mounted once more differs".into(),
        )
    }

    fn finish(self: Box<Self>) -> Result<Vec<Expectation>> {
        Ok(self.held.iter().map(Held::expectation).collect())
    }
}
