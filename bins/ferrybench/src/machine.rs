//! What the figures were measured on, and a place to work in.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::BenchError;

/// The machine, as far as it explains figures.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Version of the kernel, without what its builder added.
    pub kernel: String,
    /// Processor.
    pub cpu: String,
    /// Processors this program may use.
    pub cpus: usize,
    /// File system type of the shares.
    pub file_system: String,
    /// Whether it was measured at real-time priority.
    pub realtime: bool,
    /// Seconds since 1970.
    pub time: u64,
    /// How this program was called.
    pub command: String,
}

impl Machine {
    /// The one we are on, with shares in `dir`.
    pub fn here(dir: &Path, realtime: bool) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find(|line| line.starts_with("model name"));
        let cpu = model.and_then(|line| line.split_once(": "));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Machine {
            kernel: version(&rustix::system::uname().release().to_string_lossy()).to_owned(),
            cpu: cpu.map_or_else(|| "unknown".to_owned(), |(_, name)| name.to_owned()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            file_system: file_system(dir).unwrap_or_else(|| "unknown".to_owned()),
            realtime,
            time: now.map_or(0, |since| since.as_secs()),
            command: command_line(),
        }
    }

    /// In one line.
    pub fn line(&self) -> String {
        let priority = if self.realtime {
            "; at real-time priority"
        } else {
            ""
        };
        format!(
            "{}; {} CPUs; Linux {}; shares on {}{priority}",
            self.cpu, self.cpus, self.kernel, self.file_system
        )
    }
}

/// The numbers that a kernel's release begins with.
fn version(release: &str) -> &str {
    let end = release.find(|c: char| !c.is_ascii_digit() && c != '.');
    release[..end.unwrap_or(release.len())].trim_end_matches('.')
}

/// Our arguments, quoted where a shell would want it.
fn command_line() -> String {
    let quote = |arg: String| match arg.contains(char::is_whitespace) {
        true => format!("'{arg}'"),
        false => arg,
    };
    let args = std::env::args().skip(1).map(quote);
    let words: Vec<String> = std::iter::once("ferrybench".to_owned())
        .chain(args)
        .collect();
    words.join(" ")
}

/// Type of the mount that `dir` lies in: the longest mount point above it.
fn file_system(dir: &Path) -> Option<String> {
    let dir = dir.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let above = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (point, kind) = (words.next()?, words.next()?);
        dir.starts_with(point)
            .then(|| (point.len(), kind.to_owned()))
    });
    above.max_by_key(|(len, _)| *len).map(|(_, kind)| kind)
}

/// A directory that goes when dropped.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new one in `dir`.
    ///
    /// # Errors
    /// [`BenchError::Io`].
    pub fn new(dir: &Path) -> Result<Self, BenchError> {
        static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = dir.join(format!("ferrybench-{}-{n}", std::process::id()));
        fs::create_dir(&path).map_err(BenchError::io("make", &path))?;
        let path = path.canonicalize().map_err(BenchError::io("find", &path))?;
        Ok(Scratch(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("ferrybench: cannot remove {}: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn kernels_are_told_by_their_numbers() {
        for release in ["6.1.0", "6.1.0-50-cloud-amd64", "6.1.0+deb12", "6.1.0.fc39"] {
            assert_eq!(version(release), "6.1.0", "{release}");
        }
        assert_eq!(version("next"), "");
    }
}
