//! A socket that carries lines both ways, with time limits on every read.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::wait;
use crate::fail::{Context, Fail, Result};

/// Granularity of the time limits.
const POLL: Duration = Duration::from_millis(100);

/// The near end.
pub struct Lines {
    stream: UnixStream,
    pending: Vec<u8>,
}

impl Lines {
    /// Connects to `path` as soon as somebody listens there.
    pub fn connect(what: &str, path: &Path, limit: Duration) -> Result<Self> {
        let stream = wait::until(what, limit, || Ok(UnixStream::connect(path).ok()))?;
        stream
            .set_read_timeout(Some(POLL))
            .context("set a time limit")?;
        Ok(Self {
            stream,
            pending: Vec::new(),
        })
    }

    /// Sends `line`, which has no newline.
    pub fn send(&mut self, line: &str) -> Result<()> {
        self.stream
            .write_all(format!("{line}\n").as_bytes())
            .context("send a line")
    }

    /// The next line without its end; `None` when `limit` is over.
    pub fn receive(&mut self, limit: Duration) -> Result<Option<String>> {
        let start = Instant::now();
        let mut chunk = [0; 65_536];
        loop {
            if let Some(end) = self.pending.iter().position(|b| *b == b'\n') {
                let rest = self.pending.split_off(end + 1);
                let line = std::mem::replace(&mut self.pending, rest);
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(Fail::new("the other side has closed the connection")),
                Ok(n) => self.pending.extend(&chunk[..n]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if start.elapsed() >= limit {
                        return Ok(None);
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e).context("receive a line"),
            }
        }
    }
}
