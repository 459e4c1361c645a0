//! The background work of a crossing being prepared.
//!
//! One thread: first it looks at all names and encodes all inodes ([`super::ahead`]); then,
//! as long as the guest goes on, it keeps copies of what has no name any more, encodes what
//! has changed, and now and then looks at all names again, since others may have renamed
//! meanwhile. By file handle there are no names to look at.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ferryfs_state::pieces::BLOCK_SHIFT;
use ferryfs_state::Format;

use super::super::config::MigrationMode;
use super::super::handle::Handles;
use super::super::inode::{InodeArc, Inodes};
use super::super::names::Names;
use super::super::Passthrough;
use super::ahead::Ahead;
use super::describe::Describer;
use super::everything;
use super::ghost::gather::{is_unlinked, Candidate, Gathered, Gatherer, TooMuch};
use super::ghost::Ghosts;
use super::ids::Ids;
use super::verify::{self, Suspects};
use crate::types::NodeId;

/// Between two looks at what has no name.
const PAUSE: Duration = Duration::from_millis(500);

/// Of its time, the part that the thread spends on looking at names again, and the part
/// that it spends on encoding again.
const SHARE_OF_TIME: u32 = 10;

/// Before the first look at what requests change. Whoever has begun with a request before
/// marks were switched on, and leaves none, has shown its changes by then.
const SETTLE: Duration = Duration::from_millis(2);

/// Between two looks at all names, at least.
const BETWEEN_LOOKS: Duration = Duration::from_secs(2);

/// Inodes whose names are put in order and looked at, at a time: so many that directories
/// are opened once, most of the time, and so few that a processor has them at hand.
const AT_A_TIME: usize = if cfg!(test) { 100 } else { 1 << 15 };

/// The background work; none most of the time.
#[derive(Default)]
pub(in super::super) struct Precopy {
    run: Mutex<Option<Run>>,
    /// Where not 0: inodes are encoded in blocks of `1 << (this - 1)` ids.
    #[cfg(test)]
    pub(super) blocks: std::sync::atomic::AtomicU32,
    /// How many ranges were encoded after the last stop.
    #[cfg(test)]
    pub(super) late: std::sync::atomic::AtomicUsize,
}

#[cfg(test)]
impl Precopy {
    pub(super) fn is_running(&self) -> bool {
        lock(&self.run).is_some()
    }

    /// Waits until everything has been encoded once more, as long as precopy runs.
    pub(super) fn encoded(&self) {
        let run = lock(&self.run);
        let Some(run) = &*run else { return };
        let shared = &run.shared;
        let rounds = || shared.rounds.load(Ordering::SeqCst);
        // One may be under way.
        let wanted = rounds() + 2;
        while rounds() < wanted && !run.thread.is_finished() {
            shared.hurry.store(true, Ordering::SeqCst);
            let _awake = lock(&shared.too_much);
            shared.wake.notify_all();
            drop(_awake);
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

struct Run {
    shared: Arc<Shared>,
    thread: JoinHandle<Found>,
}

/// What the thread and who ends it have in common.
#[derive(Default)]
struct Shared {
    /// Nobody wants to know what the names are like any more.
    cancelled: AtomicBool,
    /// The device is stopped, or precopy cancelled.
    ending: AtomicBool,
    /// What more is open than may cross, at the last look.
    too_much: Mutex<Option<TooMuch>>,
    /// Goes with `too_much`: `ending` has been set.
    wake: Condvar,
    /// How often all that had changed has been encoded.
    #[cfg(test)]
    rounds: std::sync::atomic::AtomicU64,
    /// No pauses are made.
    #[cfg(test)]
    hurry: AtomicBool,
}

/// What precopy has found.
pub(super) struct Found {
    /// What the look at all names told.
    pub(super) suspects: Suspects,
    /// Inodes that are new or have other names since they were looked at.
    pub(super) changed: HashSet<NodeId>,
    /// What has been copied.
    pub(super) gathered: Gathered,
    /// What has been encoded.
    pub(super) ahead: Option<Ahead>,
}

/// What the thread works with.
struct Worker {
    shared: Arc<Shared>,
    mode: MigrationMode,
    ahead: Option<Ahead>,
    /// Whether there are inodes that have not been located.
    any_unlocated: Box<dyn Fn() -> bool + Send>,
    inodes: Arc<Inodes>,
    names: Arc<Names>,
    handles: Arc<Handles>,
    ghosts: Arc<Ghosts>,
    proc_self_fd: Arc<OwnedFd>,
    root: InodeArc,
    limit: u64,
    /// Whether what is too much makes the crossing fail.
    refuses: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    fn end(&self) {
        // Under the lock, so that nobody goes to sleep in between.
        let _awake = lock(&self.too_much);
        self.ending.store(true, Ordering::Relaxed);
        self.wake.notify_all();
    }

    /// Whether a test is waiting.
    fn is_hurried(&self) -> bool {
        #[cfg(test)]
        return self.hurry.swap(false, Ordering::SeqCst);
        #[cfg(not(test))]
        false
    }

    fn pause(&self) {
        let too_much = lock(&self.too_much);
        #[cfg(test)]
        if self.hurry.load(Ordering::SeqCst) {
            return;
        }
        if !self.is_ending() {
            let _ = self.wake.wait_timeout(too_much, PAUSE);
        }
    }
}

impl Worker {
    fn run(mut self) -> Found {
        let by_name = self.mode == MigrationMode::FindPaths;
        std::thread::sleep(SETTLE);
        let (mut suspects, mut took, mut encoding) = self.begin(by_name);
        let mut unlinked = self.unlinked(&suspects);
        let mut gathered = Gathered::default();
        let mut looked = Instant::now();
        let mut encoded = Instant::now();
        while !self.shared.is_ending() {
            if by_name {
                self.gather(&mut gathered, &unlinked);
            }
            self.shared.pause();
            if self.shared.is_hurried() || encoded.elapsed() >= encoding * (SHARE_OF_TIME - 1) {
                encoding = self.keep_up();
                encoded = Instant::now();
            }
            if !by_name || looked.elapsed() < BETWEEN_LOOKS.max(took * (SHARE_OF_TIME - 1)) {
                continue;
            }
            let begun = Instant::now();
            let again = self.look(&self.shared.ending);
            if self.shared.is_ending() {
                // What there is of it counts as well.
                suspects.extend(again);
                break;
            }
            suspects = again;
            unlinked = self.unlinked(&suspects);
            (took, looked) = (begun.elapsed(), Instant::now());
        }
        Found {
            suspects,
            changed: HashSet::new(),
            gathered,
            ahead: self.ahead,
        }
    }

    /// Looks at all names, and encodes everything for the first time. Answers what is not
    /// where it was, and how long each took.
    fn begin(&mut self, by_name: bool) -> (Suspects, Duration, Duration) {
        let shared = self.shared.clone();
        // The first look is finished even when the device has been stopped meanwhile.
        let begun = Instant::now();
        if !by_name || !self.can_encode() {
            let suspects = match by_name {
                true => self.look(&shared.cancelled),
                false => Suspects::new(),
            };
            let looked = begun.elapsed();
            return (suspects, looked, self.keep_up());
        }
        // Both of a range at a time: what has been looked at is at hand when it is encoded.
        let (inodes, names) = (self.inodes.clone(), self.names.clone());
        let (mut suspects, mut looked) = (Suspects::new(), Duration::ZERO);
        let mut see = |nodes: &[InodeArc]| {
            let begun = Instant::now();
            suspects.extend(verify::verify(&inodes, &names, nodes, &shared.cancelled));
            looked += begun.elapsed();
            !shared.is_ending()
        };
        let go_on = || !shared.cancelled.load(Ordering::Relaxed);
        let all = self.encode(&go_on, &mut see);
        log::debug!(
            "precopy: looked at all names in {looked:?}; {} are not where they were",
            suspects.len()
        );
        (suspects, looked, all - looked)
    }

    /// Whether there is anything to encode ahead: what has not been located is in no table.
    fn can_encode(&self) -> bool {
        self.ahead.is_some() && !self.shared.is_ending() && !(self.any_unlocated)()
    }

    /// Encodes what has changed since the last time; answers how long it took.
    fn keep_up(&mut self) -> Duration {
        let shared = self.shared.clone();
        match self.can_encode() {
            true => self.encode(&|| !shared.is_ending(), &mut |_| true),
            false => Duration::ZERO,
        }
    }

    /// As [`Ahead::keep_up`]; answers how long it took.
    fn encode(
        &mut self,
        go_on: &dyn Fn() -> bool,
        see: &mut dyn FnMut(&[InodeArc]) -> bool,
    ) -> Duration {
        let begun = Instant::now();
        let Some(ahead) = &mut self.ahead else {
            return Duration::ZERO;
        };
        let taken = self.inodes.marks().take();
        let nowhere = HashSet::new();
        let describer = Describer {
            inodes: &self.inodes,
            names: &self.names,
            mode: self.mode,
            lost: &nowhere,
        };
        let made = ahead.keep_up(&describer, &taken, go_on, see);
        let took = begun.elapsed();
        if made > 0 {
            log::debug!("precopy: encoded {made} ranges of inodes in {took:?}");
        }
        #[cfg(test)]
        self.shared.rounds.fetch_add(1, Ordering::SeqCst);
        took
    }

    /// Looks at all names.
    fn look(&self, stop: &AtomicBool) -> Suspects {
        let (mut suspects, mut looked_at) = (Suspects::new(), 0);
        // Neighbours by number have been looked up one after the other, and lie in one
        // directory most of the time.
        Ids::of(&self.inodes).visit(&self.inodes, AT_A_TIME, |nodes| {
            looked_at += nodes.len();
            suspects.extend(verify::verify(&self.inodes, &self.names, nodes, stop));
            !stop.load(Ordering::Relaxed)
        });
        log::debug!(
            "precopy: looked at {looked_at} inodes; {} are not where they were",
            suspects.len()
        );
        suspects
    }

    /// Of those that are not where they were, what is unlinked: it stays so.
    fn unlinked(&self, suspects: &Suspects) -> Vec<InodeArc> {
        suspects
            .iter()
            .take_while(|_| !self.shared.is_ending())
            .filter_map(|node| self.inodes.get(*node))
            .filter(|inode| is_unlinked(inode))
            .collect()
    }

    fn gather(&self, gathered: &mut Gathered, unlinked: &[InodeArc]) {
        let orphans = self.names.orphans(&self.inodes);
        if orphans.is_empty() && unlinked.is_empty() {
            return;
        }
        let Ok(root) = self.root.fd() else { return };
        let gatherer = Gatherer {
            proc_self_fd: self.proc_self_fd.as_fd(),
            root: root.as_fd(),
            handles: &self.handles,
            watch: &self.ghosts.watch,
            limit: self.limit,
        };
        let orphans = orphans.into_iter().filter(|inode| is_unlinked(inode));
        let mut all: HashMap<NodeId, InodeArc> = HashMap::new();
        for inode in unlinked.iter().cloned().chain(orphans) {
            if inode.lookups() > 0 {
                all.insert(inode.id(), inode);
            }
        }
        let candidates = candidates(all.into_values(), &self.handles, &self.names);
        let ending = || self.shared.is_ending();
        let too_much = gatherer.round(gathered, &candidates, &ending);
        if ending() {
            return;
        }
        let mut last = lock(&self.shared.too_much);
        if *last == too_much {
            return;
        }
        match &too_much {
            Some(too_much) if self.refuses => {
                log::warn!(
                    "this migration will be refused, and the VM go on here: {}",
                    too_much.text()
                );
            }
            Some(too_much) => log::warn!("some of it will be lost: {}", too_much.text()),
            None => log::info!("the guest's unlinked files can cross now"),
        }
        *last = too_much;
    }
}

/// `inodes` with what is to be known of each.
pub(super) fn candidates(
    inodes: impl Iterator<Item = InodeArc>,
    handles: &Handles,
    names: &Names,
) -> Vec<Candidate> {
    let mut inodes = inodes.peekable();
    if inodes.peek().is_none() {
        return Vec::new();
    }
    let open = handles.nodes();
    inodes
        .map(|inode| Candidate {
            open: open.contains(&inode.id()),
            named: names.primary_of(&inode).is_some(),
            inode,
        })
        .collect()
}

impl Passthrough {
    /// Starts the background work, if it is not under way: also to encode inodes in
    /// `format`, if there is one.
    pub(super) fn start_precopy(&self, format: Option<&Arc<dyn Format>>) {
        let mut run = lock(&self.precopy.run);
        let mode = self.config.migration_mode;
        if run.is_some() || (mode != MigrationMode::FindPaths && format.is_none()) {
            return;
        }
        let Ok(root) = self.inode(NodeId::ROOT) else {
            return;
        };
        // First the tracking: what changes from here on is looked at again.
        if mode == MigrationMode::FindPaths {
            self.names.track(true);
        }
        let ahead = format.map(|format| self.nothing_ahead(format));
        if ahead.is_some() {
            self.inodes.marks().begin(self.block_shift());
        }
        let shared = Arc::new(Shared::default());
        let worker = Worker {
            shared: shared.clone(),
            mode,
            ahead,
            any_unlocated: Box::new(self.unlocated.asker()),
            inodes: self.inodes.clone(),
            names: self.names.clone(),
            handles: self.handles.clone(),
            ghosts: self.ghosts.clone(),
            proc_self_fd: self.proc_self_fd.clone(),
            root,
            limit: self.config.ghost_limit,
            refuses: self.refuses(),
        };
        let spawned = std::thread::Builder::new()
            .name("precopy".into())
            .spawn(move || worker.run());
        match spawned {
            Ok(thread) => *run = Some(Run { shared, thread }),
            Err(e) => {
                // Everything is looked at when the state is saved, then.
                log::warn!("failed to start a precopy thread: {e}; downtime will be longer");
                self.names.track(false);
                self.inodes.marks().end();
            }
        }
    }

    /// No inodes encoded in `format`.
    pub(super) fn nothing_ahead(&self, format: &Arc<dyn Format>) -> Ahead {
        Ahead::new(format.clone(), self.block_shift(), self.config.boot_id)
    }

    fn block_shift(&self) -> u32 {
        #[cfg(test)]
        if let Some(shift) = self.precopy.blocks.load(Ordering::SeqCst).checked_sub(1) {
            return shift;
        }
        BLOCK_SHIFT
    }

    /// Ends the background work and answers what it found: `None` where there was none, or
    /// it did not get through to its end. If it is to `finish`, marks are still left.
    pub(super) fn stop_precopy(&self, finish: bool) -> Option<Found> {
        let run = lock(&self.precopy.run).take()?;
        if !finish {
            run.shared.cancelled.store(true, Ordering::Relaxed);
        }
        run.shared.end();
        let found = run.thread.join();
        let changed = self.names.take_changed();
        self.names.track(false);
        if !finish {
            self.ghosts.watch.end();
            self.inodes.marks().end();
        }
        found.ok().map(|found| Found { changed, ..found })
    }

    /// What precopy knows already that the state cannot be saved for, looked at again.
    pub(super) fn known_to_be_too_much(&self) -> Option<TooMuch> {
        let known = match &*lock(&self.precopy.run) {
            Some(run) => lock(&run.shared.too_much).is_some(),
            None => false,
        };
        if !known || !self.refuses() {
            return None;
        }
        // A guest that has closed its files in the last moment can go.
        let unlinked = everything(&self.inodes).into_iter();
        let open = self.handles.nodes();
        let unlinked = unlinked.filter(|inode| open.contains(&inode.id()) && is_unlinked(inode));
        let candidates = candidates(unlinked, &self.handles, &self.names);
        self.gatherer()
            .measure_again(&mut Gathered::default(), &candidates)
    }

    pub(super) fn gatherer(&self) -> Gatherer<'_> {
        Gatherer {
            proc_self_fd: self.proc_self_fd(),
            root: self.config.root.as_fd(),
            handles: &self.handles,
            watch: &self.ghosts.watch,
            limit: self.config.ghost_limit,
        }
    }
}
