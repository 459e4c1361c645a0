//! Two threads that write numbered records all the time, one by O_APPEND and one
//! by position.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ferry_guest::expectation::Object;
use ferry_guest::{records, Expectation};

use super::{in_share, Live};
use crate::sys::{self, need, At, Failure, Result};

/// Records between two calls of fsync.
const SYNC_EVERY: u64 = 32;
/// So long that the writers leave the processor to the rest of the guest.
const PAUSE: Duration = Duration::from_millis(3);
/// A writer that adds nothing for so long is stuck.
const PATIENCE: Duration = Duration::from_secs(60);

struct Writer {
    path: PathBuf,
    seed: u64,
    count: Arc<AtomicU64>,
    seen: u64,
    thread: Option<JoinHandle<Result<()>>>,
}

struct Writers {
    stop: Arc<AtomicBool>,
    all: Vec<Writer>,
}

type Put = fn(&File, &[u8], u64) -> std::io::Result<()>;

fn by_append(mut file: &File, record: &[u8], _: u64) -> std::io::Result<()> {
    file.write_all(record)
}

fn by_position(file: &File, record: &[u8], n: u64) -> std::io::Result<()> {
    file.write_all_at(record, n * records::LEN as u64)
}

/// Starts them.
pub fn prepare() -> Result<Box<dyn Live>> {
    let dir = super::own_dir("writer")?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut append = OpenOptions::new();
    append.append(true).create_new(true);
    let mut position = OpenOptions::new();
    position.write(true).create_new(true);
    let start = |name: &str, seed: u64, options: &OpenOptions, put: Put| {
        let path = dir.join(name);
        let file = options.open(&path).at(format_args!("create {name}"))?;
        let count = Arc::new(AtomicU64::new(0));
        let (stop, counter) = (stop.clone(), count.clone());
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let n = counter.load(Ordering::Relaxed);
                put(&file, &records::record(seed, n), n).at(format_args!("write record {n}"))?;
                counter.store(n + 1, Ordering::Relaxed);
                if n % SYNC_EVERY == 0 {
                    file.sync_all().at(format_args!("fsync after record {n}"))?;
                }
                std::thread::sleep(PAUSE);
            }
            file.sync_all().at("last fsync")
        });
        Ok(Writer {
            path,
            seed,
            count,
            seen: 0,
            thread: Some(thread),
        })
    };
    let mut writers = Writers {
        all: vec![
            start("append", 70, &append, by_append)?,
            start("position", 71, &position, by_position)?,
        ],
        stop: stop.clone(),
    };
    writers.verify()?;
    Ok(Box::new(writers))
}

impl Writer {
    fn join(&mut self) -> Result<()> {
        match self.thread.take() {
            None => Ok(()),
            Some(thread) => thread
                .join()
                .map_err(|_| Failure::new("a writer panicked"))?,
        }
    }
}

impl Live for Writers {
    fn verify(&mut self) -> Result<()> {
        for writer in &mut self.all {
            let deadline = Instant::now() + PATIENCE;
            // Still writing: each of them gets on by a few records.
            while writer.count.load(Ordering::Relaxed) < writer.seen + 10 {
                if writer.thread.as_ref().is_some_and(JoinHandle::is_finished) {
                    writer.join()?;
                }
                need(Instant::now() < deadline, || {
                    format!("{:?} stands still", writer.path.file_name())
                })?;
                std::thread::sleep(Duration::from_millis(5));
            }
            writer.seen = writer.count.load(Ordering::Relaxed);
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Expectation>> {
        self.stop.store(true, Ordering::Relaxed);
        self.all.iter_mut().try_for_each(Writer::join)?;
        sys::drop_caches("1")?;
        let mut expected = Vec::new();
        for writer in &self.all {
            let count = writer.count.load(Ordering::Relaxed);
            let got = std::fs::read(&writer.path).at("read the records")?;
            records::check(writer.seed, &got, count).at(format_args!(
                "{:?}",
                writer.path.file_name().unwrap_or_default()
            ))?;
            expected.push(Expectation::new(
                in_share(&writer.path),
                Object::Records {
                    seed: writer.seed,
                    count,
                },
            ));
        }
        Ok(expected)
    }
}
