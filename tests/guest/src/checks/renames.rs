//! Names change before and during the crossing: files and directories are moved
//! back and forth while they are held open, others come and go.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ferry_guest::expectation::Object;
use ferry_guest::{pattern, Expectation};
use rustix::fs::{RenameFlags, CWD};

use super::held::Held;
use super::{in_share, Live};
use crate::sys::{need, At, Failure, Result};

struct Renames {
    dir: PathBuf,
    held: Vec<Held>,
    stop: Arc<AtomicBool>,
    /// Held by the thread while anything is away from its place; counts rounds.
    rounds: Arc<Mutex<Result<u64>>>,
    seen: u64,
    thread: Option<JoinHandle<()>>,
}

fn rename(dir: &Path, from: &str, to: &str) -> Result<()> {
    std::fs::rename(dir.join(from), dir.join(to)).at(format_args!("rename {from} {to}"))
}

fn exchange(dir: &Path, a: &str, b: &str) -> Result<()> {
    rustix::fs::renameat_with(CWD, dir.join(a), CWD, dir.join(b), RenameFlags::EXCHANGE)
        .at(format_args!("exchange {a} {b}"))
}

/// Everything is moved, and moved back.
fn round(dir: &Path, n: u64) -> Result<()> {
    rename(dir, "a/moving", "b/moving")?;
    rename(dir, "b/moving/file", "b/moving/other-name")?;
    let temp = dir.join(format!("temp-{n}"));
    std::fs::write(&temp, b"short-lived").at("write temp")?;
    exchange(dir, "a/one", "b/two")?;
    std::fs::remove_file(&temp).at("unlink temp")?;
    rename(dir, "b/moving/other-name", "b/moving/file")?;
    exchange(dir, "a/one", "b/two")?;
    rename(dir, "b/moving", "a/moving")
}

/// Some changes at once, and a thread that goes on with others.
pub fn prepare() -> Result<Box<dyn Live>> {
    let dir = super::own_dir("renames")?;
    for name in ["a", "b", "a/moving"] {
        std::fs::create_dir(dir.join(name)).at(format_args!("mkdir {name}"))?;
    }
    let create = |name: &str, seed| Held::create(dir.join(name), seed, 2_000);
    let mut renamed = create("old-name", 60)?;
    rename(&dir, "old-name", "new-name")?;
    renamed.moved(dir.join("new-name"));
    let mut linked = create("first-link", 61)?;
    std::fs::hard_link(dir.join("first-link"), dir.join("a/second-link")).at("link")?;
    std::fs::remove_file(dir.join("first-link")).at("unlink")?;
    linked.moved(dir.join("a/second-link"));
    // Another file now has the name that a held one had.
    std::fs::write(dir.join("old-name"), pattern::bytes(62, 0, 50)).at("write old-name")?;
    let held = vec![
        renamed,
        linked,
        create("a/moving/file", 63)?,
        create("a/one", 64)?,
        create("b/two", 65)?,
    ];
    let stop = Arc::new(AtomicBool::new(false));
    let rounds = Arc::new(Mutex::new(Ok(0)));
    let thread = {
        let (dir, stop, rounds) = (dir.clone(), stop.clone(), rounds.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let mut rounds = rounds.lock().unwrap_or_else(PoisonError::into_inner);
                if let Ok(n) = *rounds {
                    *rounds = round(&dir, n).map(|()| n + 1);
                }
                drop(rounds);
                std::thread::sleep(Duration::from_millis(5));
            }
        })
    };
    Ok(Box::new(Renames {
        dir,
        held,
        stop,
        rounds,
        seen: 0,
        thread: Some(thread),
    }))
}

impl Live for Renames {
    fn verify(&mut self) -> Result<()> {
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        loop {
            let rounds = self.rounds.lock().unwrap_or_else(PoisonError::into_inner);
            match &*rounds {
                Err(e) => return Err(Failure::new(e.to_string())),
                // Everything is in its place as long as the lock is held.
                Ok(n) if *n > self.seen => {
                    self.seen = *n;
                    return self.held.iter_mut().try_for_each(Held::check);
                }
                Ok(n) => need(std::time::Instant::now() < deadline, || {
                    format!("the renaming thread stands still after {n} rounds")
                })?,
            }
            drop(rounds);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn finish(mut self: Box<Self>) -> Result<Vec<Expectation>> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread
                .join()
                .map_err(|_| Failure::new("the renaming thread panicked"))?;
        }
        self.verify_stopped()?;
        let mut all: Vec<_> = self.held.iter().map(Held::expectation).collect();
        all.push(Expectation::file(
            in_share(&self.dir.join("old-name")),
            &pattern::bytes(62, 0, 50),
        ));
        for gone in ["first-link", "b/moving", "temp-0"] {
            all.push(Expectation::new(
                in_share(&self.dir.join(gone)),
                Object::Absent,
            ));
        }
        Ok(all)
    }
}

impl Renames {
    fn verify_stopped(&self) -> Result<()> {
        match &*self.rounds.lock().unwrap_or_else(PoisonError::into_inner) {
            Ok(_) => Ok(()),
            Err(e) => Err(Failure::new(e.to_string())),
        }
    }
}
