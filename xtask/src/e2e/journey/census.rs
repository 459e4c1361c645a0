//! A share of very many files: all are listed and looked at, by a daemon that needs no
//! more descriptors for that, and a bounded memory; and then all of them cross. Before
//! that the guest moves the directory that they are in, and while it crosses the host
//! moves it once more.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ferry_guest::count::Count;
use ferry_guest::{fixture, MOUNT};

use super::{Journeying, Living};
use crate::fail::{need, Context, Fail, Result};
use crate::progress::step;

/// Files in each directory.
const IN_EACH: usize = 1_000;
/// Descriptors that a daemon may have besides those that it had to begin with: it keeps
/// as many as 64 directories and 1024 others, and opens some for a moment.
const MORE_DESCRIPTORS: usize = 64 + 1024 + 32;
/// Bytes for each file that the guest knows. A fourth of that is what an inode takes; the
/// rest is what is left of a state that was loaded, and of files that were forgotten.
const MOST_BYTES: u64 = 1 << 10;

/// What a daemon takes.
#[derive(Clone, Copy, Debug)]
struct Taken {
    descriptors: usize,
    /// Of memory.
    bytes: u64,
}

/// What the guest calls the directory of them later on,
const MOVED: &str = "moved by the guest";
/// and what the host does.
const MOVED_AGAIN: &str = "moved by the host";

fn directory(root: &str, n: usize) -> String {
    format!("{root}/{n:04}")
}

/// Makes `files` files in the share; what is to be found in each directory.
fn populate(share: &Path, files: usize) -> Result<Vec<Count>> {
    let mut counts = Vec::new();
    let mut left = files;
    while left > 0 {
        let dir = share.join(directory(fixture::CENSUS, counts.len()));
        std::fs::create_dir_all(&dir).context(dir.display())?;
        let mut count = Count::default();
        for n in 0..left.min(IN_EACH) {
            let name = fixture::entry_name(n);
            let file = std::fs::File::create(dir.join(&name)).context(&name)?;
            let seen = file.metadata().context(&name)?;
            count.add(name.as_bytes(), seen.ino(), seen.len());
        }
        left -= left.min(IN_EACH);
        counts.push(count);
    }
    Ok(counts)
}

impl Living {
    /// What the daemon's processes take, all together.
    fn taken(&mut self) -> Result<Taken> {
        let first = self.daemon.process().id();
        let mut taken = Taken {
            descriptors: 0,
            bytes: 0,
        };
        let mut processes = vec![first];
        while let Some(id) = processes.pop() {
            let dir = Path::new("/proc").join(id.to_string());
            let of = |name: &str| -> Result<String> {
                let path = dir.join(name);
                std::fs::read_to_string(&path).context(path.display())
            };
            taken.descriptors += std::fs::read_dir(dir.join("fd")).context(id)?.count();
            let status = of("status")?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let kib = line.and_then(|l| l.trim().strip_suffix(" kB")?.parse::<u64>().ok());
            taken.bytes += kib.ok_or_else(|| Fail::new(format!("{id} tells no VmRSS")))? << 10;
            // Whoever waits for it, and whoever serves.
            let children = of(&format!("task/{id}/children"))?;
            processes.extend(
                children
                    .split_whitespace()
                    .filter_map(|c| c.parse::<u32>().ok()),
            );
        }
        Ok(taken)
    }
}

impl Journeying<'_> {
    /// The journey's way.
    pub(super) fn census(&mut self) -> Result<()> {
        let files = self.run.files;
        step(format_args!("make {files} files"));
        let counts = populate(self.run.share.path(), files)?;
        let mut living = self.boot()?;
        match self.count_all(&mut living, &counts) {
            Ok(()) => Self::end(living),
            Err(e) => Err(Fail::new(format!("{e}\n{}", living.state()))),
        }
    }

    fn count_all(&mut self, living: &mut Living, counts: &[Count]) -> Result<()> {
        let before = living.taken()?;
        self.count_once(living, fixture::CENSUS, counts, before)?;
        step("move the directory of all files, twice");
        let (from, to) = (fixture::CENSUS, MOVED);
        let rename = format!("sh mv {MOUNT}/{from} '{MOUNT}/{to}'");
        living.vm.agent.call(&rename)?;
        let share = self.share.clone();
        let mut again = || {
            let (from, to) = (share.join(MOVED), share.join(MOVED_AGAIN));
            std::fs::rename(from, &to).context(to.display())
        };
        self.hop_with(living, Some(&mut again))?;
        self.say(living, "after the crossing")?;
        // What has crossed is asked for, and not the guest's memory of it.
        living.vm.agent.call("drop-caches 2")?;
        self.count_once(living, MOVED_AGAIN, counts, before)?;
        living.vm.agent.call("unmount")?;
        self.say(living, "after the end of the mount")
    }

    fn say(&mut self, living: &mut Living, when: &str) -> Result<()> {
        let Taken { descriptors, bytes } = living.taken()?;
        step(format_args!(
            "{when}: {descriptors} descriptors, {} MiB",
            bytes >> 20
        ));
        Ok(())
    }

    /// Has them counted, below `root`.
    fn count_once(
        &mut self,
        living: &mut Living,
        root: &str,
        counts: &[Count],
        before: Taken,
    ) -> Result<()> {
        step(format_args!("list and look at {} files", self.run.files));
        let mut most = before;
        for (n, count) in counts.iter().enumerate() {
            let dir = directory(root, n);
            let got = living.vm.agent.call(&format!("census {dir}"))?;
            need(got == count.to_string(), || {
                format!("{dir}: {got} instead of {count}")
            })?;
            let now = living.taken()?;
            most.descriptors = most.descriptors.max(now.descriptors);
            most.bytes = most.bytes.max(now.bytes);
        }
        self.measured.checks += 1;
        let each = most.bytes.saturating_sub(before.bytes) / self.run.files as u64;
        step(format_args!(
            "{} descriptors at most ({} to begin with), {} MiB ({} to begin with), {each} bytes a file",
            most.descriptors,
            before.descriptors,
            most.bytes >> 20,
            before.bytes >> 20
        ));
        need(
            most.descriptors <= before.descriptors + MORE_DESCRIPTORS,
            || format!("the daemon had {} descriptors", most.descriptors),
        )?;
        need(each <= MOST_BYTES, || format!("{each} bytes for each file"))
    }
}
