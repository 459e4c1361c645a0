//! Doing a cell: real daemons on a share of their own, and a machine that moves from
//! one to the next.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ferryfs_frontend::{Daemon, Vm};
use ferryfs_tests::script::{self, Transcript};
use ferryfs_tests::{host, text, Host};

use super::candidate::{Candidate, Maker};
use super::cell::{self, Cell, Kind, Mode};
use super::outcome::Outcome;
use super::special;
use crate::command::Cmd;

/// Why a crossing did not come about.
#[derive(Debug)]
pub enum Stop {
    /// The writer gave no state.
    Writer(String),
    /// The reader took none.
    Reader(String),
    /// The guest goes on, without this.
    Lost(String),
    /// Something else.
    Failed(String),
}

impl From<Stop> for Outcome {
    fn from(stop: Stop) -> Outcome {
        match stop {
            Stop::Writer(why) => Outcome::WriterRefuses(why),
            Stop::Reader(why) => Outcome::ReaderRefuses(why),
            Stop::Lost(what) => Outcome::Loses(vec![what]),
            Stop::Failed(why) => Outcome::Fails(why),
        }
    }
}

/// What all cells have in common.
pub struct Bench<'a> {
    candidates: &'a [Candidate],
    ferryctl: PathBuf,
    /// Answers that a guest gets which stays, by the daemon's index.
    stayed: Mutex<HashMap<usize, Vec<String>>>,
}

impl<'a> Bench<'a> {
    /// Nothing done yet.
    pub fn new(candidates: &'a [Candidate], ferryctl: PathBuf) -> Bench<'a> {
        Bench {
            candidates,
            ferryctl,
            stayed: Mutex::default(),
        }
    }

    /// Does a cell.
    pub fn run(&self, cell: &Cell) -> Outcome {
        for i in &cell.path {
            let candidate = &self.candidates[*i];
            if let Err(why) = &candidate.program {
                return Outcome::NotBuilt(format!("{}: {why}", candidate.name));
            }
        }
        // What the suites share says by a panic what is wrong.
        let done = quietly(|| match cell.kind {
            Kind::Life => self.life(cell),
            Kind::OddName => special::odd_name(self, cell),
            Kind::External => special::external(self, cell),
            Kind::Damaged => special::damaged(self, cell),
            Kind::Foreign => special::foreign(self, cell),
            Kind::Lock => special::lock(self, cell),
            Kind::Unlinked => special::unlinked(self, cell),
        });
        match done {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(stop)) => stop.into(),
            Err(panicked) => Outcome::Fails(one_line(&panicked)),
        }
    }

    /// Daemon `i`.
    pub fn candidate(&self, i: usize) -> &Candidate {
        &self.candidates[i]
    }

    /// The daemons of a cell, each told to write what the next one reads.
    pub fn daemons(&self, cell: &Cell, host: &Host, more: &[&str]) -> Result<Vec<Daemon>, Stop> {
        let next = cell.path.iter().skip(1).map(Some).chain([None]);
        let start =
            |(i, next): (&usize, Option<&usize>)| self.start(cell, host, *i, next.copied(), more);
        cell.path.iter().zip(next).map(start).collect()
    }

    /// Daemon `i`, which writes for daemon `next`.
    pub fn start(
        &self,
        cell: &Cell,
        host: &Host,
        i: usize,
        next: Option<usize>,
        more: &[&str],
    ) -> Result<Daemon, Stop> {
        let candidate = &self.candidates[i];
        let program = candidate
            .program
            .as_ref()
            .map_err(|e| Stop::Failed(e.clone()))?;
        let options = options(candidate, cell, next.map(|n| &self.candidates[n]));
        let mut options: Vec<_> = options.iter().map(String::as_str).collect();
        options.extend(more);
        host.start(program, &options)
            .map_err(|e| Stop::Failed(format!("{}: {}", candidate.name, one_line(&text(&e)))))
    }

    /// Moves the machine from daemon to daemon. Answers what crossed.
    pub fn cross(&self, vm: &mut Vm, from: &Daemon, to: &Daemon) -> Result<Vec<u8>, Stop> {
        let state = save(vm, from)?;
        let left = vm.resume_on(to.socket(), Some(&state));
        drop(left.map_err(|e| Stop::Reader(words(to, &e)))?);
        Ok(state)
    }

    fn life(&self, cell: &Cell) -> Result<Outcome, Stop> {
        let host = Host::new();
        script::lay_out(host.share());
        let daemons = self.daemons(cell, &host, &[])?;
        let mut vm = Vm::boot(daemons[0].socket()).map_err(|e| Stop::Failed(text(&e)))?;
        let held = script::before(&vm);
        let mut states = Vec::new();
        for pair in daemons.windows(2) {
            states.push(self.cross(&mut vm, &pair[0], &pair[1])?);
        }
        let mut lost = Vec::new();
        if cell.path.len() > 2 {
            lost.extend(self.state_changed(cell, &host, &mut vm, &daemons, &states[0])?);
        }
        let after = script::after(held, host.share(), false);
        host.assert_untouched_outside();
        let (first, last) = (cell.path[0], cell.path[cell.path.len() - 1]);
        lost.extend(different(&after.0, &self.stayed(first), &self.stayed(last)));
        Ok(match lost.is_empty() {
            true => Outcome::Passes,
            false => Outcome::Loses(lost),
        })
    }

    /// Of a chain among ours: what is in the state at the end that was not there at
    /// the beginning, or the other way round.
    fn state_changed(
        &self,
        cell: &Cell,
        host: &Host,
        vm: &mut Vm,
        daemons: &[Daemon],
        first: &[u8],
    ) -> Result<Option<String>, Stop> {
        if !cell.path.iter().all(|i| self.candidates[*i].is_ours()) {
            return Ok(None);
        }
        let failed = |e: std::io::Error| Stop::Failed(e.to_string());
        let last = save(vm, &daemons[daemons.len() - 1])?;
        vm.cancel_precopy().map_err(|e| Stop::Failed(text(&e)))?;
        vm.resume().map_err(|e| Stop::Failed(text(&e)))?;
        let place = host.base().join("sockets");
        let (a, b) = (place.join("first.state"), place.join("last.state"));
        std::fs::write(&a, first).map_err(failed)?;
        std::fs::write(&b, &last).map_err(failed)?;
        let same = Cmd::new(&self.ferryctl)
            .args(["state", "diff"])
            .args([&a, &b])
            .output();
        Ok(same.err().map(|e| one_line(&format!("state: {e}"))))
    }

    /// The answers that a guest of daemon `i` gets that stays there.
    fn stayed(&self, i: usize) -> Vec<String> {
        let known = || self.stayed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answers) = known().get(&i) {
            return answers.clone();
        }
        let host = Host::new();
        script::lay_out(host.share());
        let cell = Cell {
            kind: Kind::Life,
            path: vec![i],
            format: "postcard".to_owned(),
            state_version: None,
            mode: Mode::Paths,
            id: String::new(),
        };
        let answers = match self.start(&cell, &host, i, None, &[]) {
            Ok(daemon) => {
                let vm = Vm::boot(daemon.socket()).unwrap_or_else(|e| panic!("{}", text(&e)));
                script::after(script::before(&vm), host.share(), false)
            }
            Err(stop) => panic!("{}", Outcome::from(stop)),
        };
        let Transcript(answers) = answers;
        known().insert(i, answers.clone());
        answers
    }
}

/// Stops the machine and has its daemon give the state.
pub fn save(vm: &mut Vm, from: &Daemon) -> Result<Vec<u8>, Stop> {
    let failed = |e| Stop::Failed(text(&e));
    vm.start_precopy().map_err(failed)?;
    vm.stop().map_err(failed)?;
    vm.save_state().map_err(|e| Stop::Writer(words(from, &e)))
}

/// A candidate's command line, but for socket and share.
fn options(candidate: &Candidate, cell: &Cell, reader: Option<&Candidate>) -> Vec<String> {
    let mut all: Vec<String> = ["--xattr", "--inode-file-handles=prefer"]
        .into_iter()
        .map(str::to_owned)
        .collect();
    let stock = matches!(candidate.maker, Maker::Stock { .. });
    // The mode is the writer's affair: a reader that does not know it is not asked.
    let mode = match cell.mode {
        mode if cell::writes(candidate, mode) => mode,
        _ => Mode::Paths,
    };
    all.extend(mode.options().iter().map(|s| s.to_string()));
    if stock {
        // As far as containers let it; and with the mounts that ours always tells of.
        let more = ["--sandbox=none", "--seccomp=none", "--announce-submounts"];
        all.extend(more.map(str::to_owned));
        return all;
    }
    let format = match reader.map(|r| &r.maker) {
        Some(Maker::Stock { dialect }) => dialect,
        _ if cell.format.starts_with("virtiofsd") => "postcard",
        _ => &cell.format,
    };
    all.push(format!("--state-format={format}"));
    // The last of a chain is asked for its state to compare it with the first one's.
    let older = reader.is_none_or(|r| matches!(r.maker, Maker::Older { .. }));
    let older = older && candidate.knows("--state-version");
    if let Some(version) = cell.state_version.filter(|_| older) {
        all.push(format!("--state-version={version}"));
    }
    all
}

/// What a daemon said of a refusal: its last error, without time and place.
pub fn words(daemon: &Daemon, error: &dyn std::error::Error) -> String {
    // It is logged before the front-end is told, but read by a thread of its own.
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(2);
    let last = loop {
        let last = host::lines(daemon, "ERROR").pop();
        if last.is_some() || std::time::Instant::now() > patience {
            break last;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    let said = last.as_deref().and_then(|line| line.split_once("] "));
    match said {
        Some((_, said)) => said.to_owned(),
        None => one_line(&text(error)),
    }
}

/// The first line of a text that may have many.
fn one_line(text: &str) -> String {
    let lines: Vec<_> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    lines[..lines.len().min(3)].join(" | ")
}

/// Asks whose answer is neither what the first daemon gives a guest that stays nor
/// what the last one gives.
fn different(answers: &[String], first: &[String], last: &[String]) -> Vec<String> {
    let mut lost: Vec<String> = Vec::new();
    for (i, line) in answers.iter().enumerate() {
        let line = comparable(line);
        let same = |of: &[String]| of.get(i).is_some_and(|known| comparable(known) == line);
        let what = asked(&line);
        if !same(first) && !same(last) && !lost.iter().any(|known| known == what) {
            lost.push(what.to_owned());
        }
    }
    if answers.len() != first.len() && answers.len() != last.len() {
        lost.push("number of answers".to_owned());
    }
    lost
}

/// What was asked in a line.
fn asked(line: &str) -> &str {
    line.split_once(": ").map_or("", |(asked, _)| asked)
}

/// A line without the ids that a daemon chooses for what is new: no two daemons have
/// to choose alike. Those that the guest had before stay in.
fn comparable(line: &str) -> String {
    let new = [
        "CREATE",
        "MKDIR",
        "MKNOD",
        "SYMLINK",
        "TMPFILE",
        "OPEN",
        "LOOKUP of what is not",
    ];
    if !new.iter().any(|of| asked(line).starts_with(of)) {
        return line.to_owned();
    }
    if asked(line) == "OPEN" {
        return line
            .trim_end_matches(|c: char| c.is_ascii_digit())
            .to_owned();
    }
    let (before, after) = line.split_once("nodeid: ").unwrap_or((line, ""));
    let after = after.trim_start_matches(|c: char| c.is_ascii_digit());
    // A handle comes last, behind the entry.
    let after = after.rsplit_once("}, ").map_or(after, |(entry, _)| entry);
    format!("{before}nodeid{after}")
}

/// Runs `what` on a thread whose panics are answered and not printed.
pub fn quietly<T: Send>(what: impl FnOnce() -> T + Send) -> std::result::Result<T, String> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name(CELL.to_owned());
        let running = match thread.spawn_scoped(scope, what) {
            Ok(running) => running,
            Err(e) => return Err(format!("no thread: {e}")),
        };
        running.join().map_err(|panic| {
            let said = panic.downcast_ref::<String>().cloned();
            let said = said.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()));
            said.unwrap_or_else(|| "panicked".to_owned())
        })
    })
}

/// The name of threads whose panics are a cell's outcome.
const CELL: &str = "cell";

/// Keeps panics of cells from being printed: they are told with the cell.
pub fn hush() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if std::thread::current().name() != Some(CELL) {
            usual(info);
        }
    }));
}

/// Where a cell may put a file beside the share.
pub fn beside(host: &Host, name: &str) -> PathBuf {
    let sockets: &Path = host.base();
    sockets.join("sockets").join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(all: &[&str]) -> Vec<String> {
        all.iter().map(|s| s.to_string()).collect()
    }

    #[test]
    fn an_answer_of_either_daemon_is_no_loss() {
        let first = lines(&["READ: 5", "STATFS: a", "LINK: ok"]);
        let last = lines(&["READ: 5", "STATFS: b", "LINK: ok"]);
        let crossed = lines(&["READ: 5", "STATFS: b", "LINK: Permission denied"]);
        assert_eq!(different(&crossed, &first, &last), ["LINK"]);
        assert_eq!(different(&first, &first, &last), [""; 0]);
        assert_eq!(different(&first[..2], &first, &last), ["number of answers"]);
    }

    #[test]
    fn new_ids_are_the_daemon_s_choice() {
        let same = |a: &str, b: &str| comparable(a) == comparable(b);
        assert!(same("OPEN: 5", "OPEN: 17"));
        assert!(!same("OPEN: 5", "OPEN: Permission denied (os error 13)"));
        assert!(same(
            "MKDIR by a member: Entry { nodeid: 5, mode: 7 }",
            "MKDIR by a member: Entry { nodeid: 88, mode: 7 }"
        ));
        assert!(!same(
            "MKDIR by a member: Entry { nodeid: 5, mode: 7 }",
            "MKDIR by a member: Entry { nodeid: 5, mode: 8 }"
        ));
        assert!(same(
            "TMPFILE: (Entry { nodeid: 5, attr: Attr { mode: 7 } }, 9)",
            "TMPFILE: (Entry { nodeid: 6, attr: Attr { mode: 7 } }, 10)"
        ));
        assert!(!same(
            "LINK: Entry { nodeid: 4 }",
            "LINK: Entry { nodeid: 5 }"
        ));
    }

    #[test]
    fn a_panic_is_an_outcome() {
        hush();
        let said = quietly(|| -> () { panic!("WRITE took {} bytes", 3) });
        assert_eq!(said.unwrap_err(), "WRITE took 3 bytes");
        assert_eq!(quietly(|| 5), Ok(5));
    }
}
