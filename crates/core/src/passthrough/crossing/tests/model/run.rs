//! A daemon and a share, in step with the model.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::super::*;
use super::reference::{Id, Model, What, ROOT};
use super::{Deed, Prank, Step, Way};
use crate::fs::SetAttr;
use proptest::sample::Index;

/// Few, so that they meet; one is no UTF-8, one looks like what the kernel says of names
/// that are gone.
const NAMES: [&[u8]; 5] = [b"a", b"b", b"c (deleted)", b"\xff\xfe", b"#5"];

/// What a step comes to: an error is a difference between guest and model.
type Step_ = Result<(), String>;

/// An open file or directory of the guest's.
#[derive(Clone, Copy, Debug)]
struct Open {
    handle: HandleId,
    node: NodeId,
    id: Id,
    dir: bool,
}

/// A share, the daemon that serves it, and what the guest of it must see.
pub(super) struct Machine {
    share: tempfile::TempDir,
    way: Way,
    daemon: Passthrough,
    flags: u64,
    model: Model,
    /// What the guest holds: nodeid, object, lookups.
    nodes: BTreeMap<u64, (Id, u64)>,
    open: Vec<Open>,
    /// Contents so far, no two of which are the same.
    made: u32,
    /// What others did behind the stopped guest's back, and precopy may not have seen.
    behind: bool,
    /// Inode numbers as the guest has first seen them.
    numbers: BTreeMap<u64, u64>,
    /// What has happened, for whoever reads a failure.
    log: Vec<String>,
}

macro_rules! must {
    ($condition:expr, $($text:tt)*) => {
        if !$condition {
            return Err(format!($($text)*));
        }
    };
}

/// One of `all`.
fn pick<T: Clone>(index: &Index, all: &[T]) -> Option<T> {
    (!all.is_empty()).then(|| index.get(all).clone())
}

fn name(index: &Index) -> &'static [u8] {
    NAMES[index.index(NAMES.len())]
}

impl Machine {
    pub(super) fn new(way: Way) -> Machine {
        let share = tempfile::tempdir().expect("a temporary directory");
        let daemon = daemon(share.path(), way.mode, way.held);
        let flags = mount(&daemon);
        Machine {
            share,
            way,
            daemon,
            flags,
            model: Model::new(),
            nodes: BTreeMap::from([(NodeId::ROOT.0, (ROOT, 1))]),
            open: Vec::new(),
            made: 0,
            behind: false,
            numbers: BTreeMap::new(),
            log: Vec::new(),
        }
    }

    fn content(&mut self) -> Vec<u8> {
        self.made += 1;
        format!("file {}", self.made).into_bytes()
    }

    fn host_path(&self, dir: Id, name: &[u8]) -> PathBuf {
        let mut path = self.share.path().to_owned();
        for component in self.model.path(dir) {
            path.push(OsStr::from_bytes(&component));
        }
        path.join(OsStr::from_bytes(name))
    }

    fn dirs(&self) -> Vec<(NodeId, Id)> {
        self.held(|model, id| model.is_dir(id))
    }

    fn files(&self) -> Vec<(NodeId, Id)> {
        self.held(|model, id| matches!(model.objects[id].what, What::File(_)))
    }

    /// What the guest holds for certain.
    fn held(&self, which: impl Fn(&Model, Id) -> bool) -> Vec<(NodeId, Id)> {
        let nodes = self.nodes.iter();
        nodes
            .filter(|(_, (id, _))| which(&self.model, *id) && !self.model.objects[*id].weak)
            .map(|(node, (id, _))| (NodeId(*node), *id))
            .collect()
    }

    fn is_open(&self, id: Id) -> bool {
        self.open.iter().any(|open| open.id == id)
    }

    /// The guest has been given `entry` for `id`.
    fn gave(&mut self, entry: NodeId, id: Id) -> Step_ {
        let known = self.nodes.iter().find(|(_, (other, _))| *other == id);
        if let Some((node, _)) = known {
            must!(
                *node == entry.0,
                "object {id} is inode {node}, and was answered as {entry}"
            );
        }
        self.note(format_args!("  object {id} is inode {entry}"));
        let slot = self.nodes.entry(entry.0).or_insert((id, 0));
        must!(
            slot.0 == id,
            "inode {entry} is object {}, and was answered for {id}",
            slot.0
        );
        slot.1 += 1;
        Ok(())
    }

    /// An object has lost a name on the host, by whomever.
    fn lost_a_name(&mut self, id: Id, by_guest: bool) {
        let by_handle = self.way.held == InodeFileHandles::Prefer && !unprivileged();
        let gone = !self.model.is_linked(id);
        self.note(format_args!("  object {id} has lost a name, gone: {gone}"));
        if gone && !by_guest && by_handle && !self.is_open(id) {
            self.model.objects[id].weak = true;
        }
    }

    /// A step, and where it fails all that led to it.
    pub(super) fn live(&mut self, steps: &[Step]) -> Step_ {
        let done = steps.iter().try_for_each(|step| self.step(step));
        done.map_err(|e| format!("{e}\n{}", self.log.join("\n")))
    }

    fn note(&mut self, what: std::fmt::Arguments<'_>) {
        self.log.push(what.to_string());
    }

    fn step(&mut self, step: &Step) -> Step_ {
        match step {
            Step::Guest(deed) => self.deed(deed),
            Step::Host(prank) => {
                self.prank(prank);
                Ok(())
            }
            Step::Cancel(beside) => {
                encode_ahead(&self.daemon, 0);
                beside.iter().try_for_each(|step| self.step(step))?;
                self.daemon.cancel_precopy();
                self.compare("after a cancelled migration")
            }
            Step::Cross(beside, behind, blocks) => self.cross(beside, behind, *blocks),
        }
    }

    fn agree<T>(&mut self, what: &str, real: &FsResult<T>, expected: bool) -> Step_ {
        let errno = real.as_ref().err();
        self.note(format_args!("  {what}: {errno:?}"));
        must!(
            real.is_ok() == expected,
            "{what} {} and should {}: {:?}",
            if real.is_ok() { "succeeded" } else { "failed" },
            if expected { "not fail" } else { "not succeed" },
            real.as_ref().err()
        );
        Ok(())
    }

    fn deed(&mut self, deed: &Deed) -> Step_ {
        let kind = format!("{deed:?}");
        let kind = kind.split('(').next().unwrap_or_default().to_owned();
        self.note(format_args!("guest: {kind}"));
        match deed {
            Deed::Lookup(dir, n) => {
                let Some((node, dir)) = pick(dir, &self.dirs()) else {
                    return Ok(());
                };
                let found = lookup(&self.daemon, node, name(n));
                let there = self.model.child(dir, name(n));
                self.agree("LOOKUP", &found, there.is_some())?;
                if let (Ok(entry), Some(id)) = (found, there) {
                    self.model.knows(dir, name(n), id);
                    self.gave(entry.node, id)?;
                }
            }
            Deed::Create(dir, n) => {
                let Some((node, dir)) = pick(dir, &self.dirs()) else {
                    return Ok(());
                };
                let text = c(name(n));
                let flags = (libc::O_RDWR | libc::O_CREAT | libc::O_EXCL) as u32;
                let made = self.daemon.create(
                    &CTX,
                    node,
                    Name::new(&text).unwrap(),
                    0o644,
                    0,
                    flags,
                    false,
                );
                let free = self.model.child(dir, name(n)).is_none() && self.model.is_linked(dir);
                self.agree("CREATE", &made, free)?;
                if let Ok((entry, opened)) = made {
                    let content = self.content();
                    write(&self.daemon, entry.node, opened.handle, 0, &content);
                    let id = self.model.add(What::File(content));
                    self.model.put(dir, name(n), id);
                    self.model.knows(dir, name(n), id);
                    self.gave(entry.node, id)?;
                    self.opened(opened.handle, entry.node, id);
                }
            }
            Deed::Mkdir(dir, n) | Deed::Symlink(dir, n) => {
                let Some((node, dir)) = pick(dir, &self.dirs()) else {
                    return Ok(());
                };
                let text = c(name(n));
                let new = Name::new(&text).unwrap();
                let free = self.model.child(dir, name(n)).is_none() && self.model.is_linked(dir);
                let (made, what) = if let Deed::Mkdir(..) = deed {
                    let made = self.daemon.mkdir(&CTX, node, new, 0o755, 0);
                    (made, What::Dir(BTreeMap::new()))
                } else {
                    let target = self.content();
                    let made = self.daemon.symlink(&CTX, &c(&target), node, new);
                    (made, What::Symlink(target))
                };
                self.agree("MKDIR or SYMLINK", &made, free)?;
                if let Ok(entry) = made {
                    let id = self.model.add(what);
                    self.model.put(dir, name(n), id);
                    self.model.knows(dir, name(n), id);
                    self.gave(entry.node, id)?;
                }
            }
            Deed::Tmpfile(dir, linkable) => {
                let Some((node, dir)) = pick(dir, &self.dirs()) else {
                    return Ok(());
                };
                let exclusive = if *linkable { 0 } else { libc::O_EXCL };
                let flags = (libc::O_RDWR | exclusive) as u32;
                let made = self.daemon.tmpfile(&CTX, node, 0o600, 0, flags);
                if self.model.is_linked(dir) {
                    self.agree("TMPFILE", &made, true)?;
                }
                if let Ok((entry, opened)) = made {
                    let content = self.content();
                    write(&self.daemon, entry.node, opened.handle, 0, &content);
                    let id = self.model.add(What::File(content));
                    self.model.objects[id].linkable = *linkable;
                    self.gave(entry.node, id)?;
                    self.opened(opened.handle, entry.node, id);
                }
            }
            Deed::Open(node) => {
                let mut all = self.files();
                all.extend(self.dirs());
                let Some((node, id)) = pick(node, &all) else {
                    return Ok(());
                };
                let opened = match self.model.is_dir(id) {
                    true => self.daemon.opendir(&CTX, node, 0),
                    false => self.daemon.open(&CTX, node, libc::O_RDWR as u32, false),
                };
                self.agree("OPEN", &opened, true)?;
                self.opened(opened.unwrap().handle, node, id);
            }
            Deed::Read(open) => {
                if let Some(open) = pick(open, &self.open) {
                    self.reads(&open, "a READ")?;
                }
            }
            Deed::Write(open, at, byte) => {
                let Some(open) = pick(open, &self.open) else {
                    return Ok(());
                };
                if open.dir {
                    return Ok(());
                }
                // Behind what tells files apart.
                let at = 16 + usize::from(at % 512);
                write(&self.daemon, open.node, open.handle, at as u64, &[*byte; 7]);
                self.wrote(open.id, at, &[*byte; 7]);
            }
            Deed::Truncate(node, size) => {
                let Some((node, id)) = pick(node, &self.files()) else {
                    return Ok(());
                };
                let size = 16 + u64::from(size % 512);
                let set = SetAttr {
                    size: Some(size),
                    ..SetAttr::default()
                };
                let done = self.daemon.setattr(&CTX, node, None, &set);
                self.agree("SETATTR", &done, true)?;
                if let What::File(content) = &mut self.model.objects[id].what {
                    content.resize(size as usize, 0);
                }
            }
            Deed::Unlink(dir, n) => self.removes(dir, name(n))?,
            Deed::Rename(d1, n1, d2, n2) => {
                let (Some((from, from_dir)), Some((to, to_dir))) =
                    (pick(d1, &self.dirs()), pick(d2, &self.dirs()))
                else {
                    return Ok(());
                };
                self.renames((from, from_dir, name(n1)), (to, to_dir, name(n2)))?;
            }
            Deed::Exchange(d1, n1, d2, n2) => {
                let (Some((from, from_dir)), Some((to, to_dir))) =
                    (pick(d1, &self.dirs()), pick(d2, &self.dirs()))
                else {
                    return Ok(());
                };
                self.exchanges((from, from_dir, name(n1)), (to, to_dir, name(n2)))?;
            }
            Deed::Link(node, dir, n) => {
                let (Some((node, id)), Some((to, dir))) =
                    (pick(node, &self.files()), pick(dir, &self.dirs()))
                else {
                    return Ok(());
                };
                let text = c(name(n));
                let linked = self.daemon.link(&CTX, node, to, Name::new(&text).unwrap());
                let object = &self.model.objects[id];
                let may = (self.model.is_linked(id) || object.linkable)
                    && self.model.is_linked(dir)
                    && self.model.child(dir, name(n)).is_none();
                self.agree("LINK", &linked, may)?;
                if let Ok(entry) = linked {
                    // What had no name may have kept a number of its own until now.
                    self.numbers.remove(&entry.node.0);
                    self.model.put(dir, name(n), id);
                    self.model.knows(dir, name(n), id);
                    self.gave(entry.node, id)?;
                }
            }
            Deed::Release(open) => {
                if self.open.is_empty() {
                    return Ok(());
                }
                let open = self.open.swap_remove(open.index(self.open.len()));
                let released = match open.dir {
                    true => self.daemon.releasedir(&CTX, open.node, open.handle),
                    false => self.daemon.release(&CTX, open.node, open.handle),
                };
                self.agree("RELEASE", &released, true)?;
                self.lost_a_name(open.id, false);
            }
            Deed::Forget(node) => {
                let nodes: Vec<u64> = self.nodes.keys().copied().filter(|n| *n != 1).collect();
                let Some(node) = pick(node, &nodes) else {
                    return Ok(());
                };
                if self.open.iter().any(|open| open.node.0 == node) {
                    return Ok(());
                }
                if let Some((id, lookups)) = self.nodes.remove(&node) {
                    self.daemon.forget(NodeId(node), lookups);
                    self.model.objects[id].known.clear();
                }
            }
        }
        Ok(())
    }

    fn opened(&mut self, handle: HandleId, node: NodeId, id: Id) {
        let dir = self.model.is_dir(id);
        self.open.push(Open {
            handle,
            node,
            id,
            dir,
        });
    }

    fn wrote(&mut self, id: Id, at: usize, bytes: &[u8]) {
        if let What::File(content) = &mut self.model.objects[id].what {
            if content.len() < at + bytes.len() {
                content.resize(at + bytes.len(), 0);
            }
            content[at..at + bytes.len()].copy_from_slice(bytes);
        }
    }

    fn removes(&mut self, dir: &Index, n: &[u8]) -> Step_ {
        let Some((node, dir)) = pick(dir, &self.dirs()) else {
            return Ok(());
        };
        let text = c(n);
        let child = self.model.child(dir, n);
        let is_dir = child.is_some_and(|id| self.model.is_dir(id));
        let done = match is_dir {
            true => self.daemon.rmdir(&CTX, node, Name::new(&text).unwrap()),
            false => self.daemon.unlink(&CTX, node, Name::new(&text).unwrap()),
        };
        let empty = |id: Id| !is_dir || self.model.children(id).is_empty();
        self.agree("UNLINK or RMDIR", &done, child.is_some_and(empty))?;
        if let (Ok(()), Some(id)) = (done, child) {
            // What the guest removes without having looked it up is others' to keep.
            let known = self.model.objects[id].known.contains(&(dir, n.to_vec()));
            self.model.take(dir, n);
            self.lost_a_name(id, known);
        }
        Ok(())
    }

    fn renames(&mut self, from: (NodeId, Id, &[u8]), to: (NodeId, Id, &[u8])) -> Step_ {
        let (old, new) = (c(from.2), c(to.2));
        let done = self.daemon.rename(
            &CTX,
            from.0,
            Name::new(&old).unwrap(),
            to.0,
            Name::new(&new).unwrap(),
            0,
        );
        let moved = self.model.child(from.1, from.2);
        let there = self.model.child(to.1, to.2);
        let may = moved.is_some_and(|id| self.model.can_rename(id, to.1, there));
        self.agree("RENAME", &done, may)?;
        if let (Ok(()), Some(id)) = (done, moved) {
            self.moved((from.1, from.2), (to.1, to.2), id, true);
        }
        Ok(())
    }

    /// A rename has come about.
    fn moved(&mut self, from: (Id, &[u8]), to: (Id, &[u8]), id: Id, by_guest: bool) {
        let there = self.model.child(to.0, to.1);
        if there == Some(id) {
            // Two names of one file: nothing happens, but who has not seen both names does
            // not know that.
            self.model.objects[id].known.clear();
            return;
        }
        let was_known = self.model.objects[id]
            .known
            .contains(&(from.0, from.1.to_vec()));
        let victim_known =
            there.is_some_and(|v| self.model.objects[v].known.contains(&(to.0, to.1.to_vec())));
        self.note(format_args!(
            "  object {id} moves from {}/{} to {}/{}, over {there:?}",
            from.0,
            from.1.escape_ascii(),
            to.0,
            to.1.escape_ascii()
        ));
        self.model.take(to.0, to.1);
        self.model.take(from.0, from.1);
        self.model.put(to.0, to.1, id);
        if was_known && by_guest {
            self.model.knows(to.0, to.1, id);
        }
        if let Some(victim) = there {
            self.lost_a_name(victim, by_guest && victim_known);
        }
    }

    fn exchanges(&mut self, a: (NodeId, Id, &[u8]), b: (NodeId, Id, &[u8])) -> Step_ {
        let (old, new) = (c(a.2), c(b.2));
        let flags = libc::RENAME_EXCHANGE;
        let done = self.daemon.rename(
            &CTX,
            a.0,
            Name::new(&old).unwrap(),
            b.0,
            Name::new(&new).unwrap(),
            flags,
        );
        let (x, y) = (self.model.child(a.1, a.2), self.model.child(b.1, b.2));
        let may = match (x, y) {
            (Some(x), Some(y)) => {
                let into_itself =
                    |id: Id, dir: Id| self.model.is_dir(id) && self.model.contains(id, dir);
                !into_itself(x, b.1) && !into_itself(y, a.1)
            }
            _ => false,
        };
        self.agree("RENAME2", &done, may)?;
        if let (Ok(()), Some(x), Some(y)) = (done, x, y) {
            if x == y {
                return Ok(());
            }
            let known = |model: &Model, id: Id, dir: Id, n: &[u8]| {
                model.objects[id].known.contains(&(dir, n.to_vec()))
            };
            let (kx, ky) = (
                known(&self.model, x, a.1, a.2),
                known(&self.model, y, b.1, b.2),
            );
            self.model.take(a.1, a.2);
            self.model.take(b.1, b.2);
            self.model.put(a.1, a.2, y);
            self.model.put(b.1, b.2, x);
            if kx {
                self.model.knows(b.1, b.2, x);
            }
            if ky {
                self.model.knows(a.1, a.2, y);
            }
        }
        Ok(())
    }

    /// Others do something on the host. What cannot be is left alone.
    fn prank(&mut self, prank: &Prank) {
        self.note(format_args!("host: {prank:?}"));
        let linked = self.model.linked();
        let mut dirs: Vec<Id> = linked.iter().map(|(_, _, id)| *id).collect();
        dirs.retain(|id| self.model.is_dir(*id));
        dirs.insert(0, ROOT);
        match prank {
            Prank::Rename(object, dir, n) => {
                let (Some((from, old, id)), Some(to)) = (pick(object, &linked), pick(dir, &dirs))
                else {
                    return;
                };
                let there = self.model.child(to, name(n));
                if !self.model.can_rename(id, to, there) {
                    return;
                }
                let (old_path, new_path) =
                    (self.host_path(from, &old), self.host_path(to, name(n)));
                fs::rename(old_path, new_path).unwrap();
                self.moved((from, &old), (to, name(n)), id, false);
            }
            Prank::Replace(object) => {
                let Some((dir, n, id)) = pick(object, &linked) else {
                    return;
                };
                if self.model.is_dir(id) {
                    return;
                }
                let content = self.content();
                let hidden = self.share.path().join("on its way");
                fs::write(&hidden, &content).unwrap();
                fs::rename(&hidden, self.host_path(dir, &n)).unwrap();
                let new = self.model.add(What::File(content));
                self.model.take(dir, &n);
                self.model.put(dir, &n, new);
                self.lost_a_name(id, false);
            }
            Prank::Remove(object) => {
                let Some((dir, n, id)) = pick(object, &linked) else {
                    return;
                };
                let path = self.host_path(dir, &n);
                if self.model.is_dir(id) {
                    fs::remove_dir_all(path).unwrap();
                } else {
                    fs::remove_file(path).unwrap();
                }
                self.removed(dir, &n, id);
            }
            Prank::Create(dir, n) | Prank::Mkdir(dir, n) => {
                let Some(dir) = pick(dir, &dirs) else { return };
                if self.model.child(dir, name(n)).is_some() {
                    return;
                }
                let path = self.host_path(dir, name(n));
                let new = if let Prank::Mkdir(..) = prank {
                    fs::create_dir(path).unwrap();
                    self.model.add(What::Dir(BTreeMap::new()))
                } else {
                    let content = self.content();
                    fs::write(path, &content).unwrap();
                    self.model.add(What::File(content))
                };
                self.model.put(dir, name(n), new);
            }
            Prank::Write(object, byte) => {
                let Some((dir, n, id)) = pick(object, &linked) else {
                    return;
                };
                if !matches!(self.model.objects[id].what, What::File(_)) {
                    return;
                }
                let file = fs::File::options()
                    .write(true)
                    .open(self.host_path(dir, &n));
                std::os::unix::fs::FileExt::write_all_at(&file.unwrap(), &[*byte; 5], 20).unwrap();
                self.wrote(id, 20, &[*byte; 5]);
            }
        }
    }

    fn removed(&mut self, dir: Id, n: &[u8], id: Id) {
        if self.model.is_dir(id) {
            for (n, child) in self.model.children(id).clone() {
                self.removed(id, &n, child);
            }
        }
        self.model.take(dir, n);
        self.lost_a_name(id, false);
    }

    fn cross(&mut self, beside: &[Step], behind: &[Prank], blocks: Option<u32>) -> Step_ {
        self.note(format_args!("a crossing begins, blocks: {blocks:?}"));
        match blocks {
            Some(shift) => encode_ahead(&self.daemon, shift),
            None => self.daemon.begin_precopy(),
        }
        for (at, step) in beside.iter().enumerate() {
            match step {
                // One at a time.
                Step::Cross(..) | Step::Cancel(..) => {}
                step => self.step(step)?,
            }
            if blocks.is_some() && at == beside.len() / 2 {
                self.daemon.precopy.encoded();
            }
        }
        // What others did meanwhile shows at the end as far as it is looked at; the rest
        // shows at the destination.
        let meddled = beside.iter().any(|step| matches!(step, Step::Host(_)));
        self.behind = meddled || !behind.is_empty();
        let collected = match blocks {
            Some(_) => self.daemon.collect_in(&format()),
            None => self.daemon.collect().map(Collected::Whole),
        };
        let collected = match collected {
            Ok(collected) => collected,
            Err(e) => {
                must!(self.may_be_refused(), "refused by the source: {e}");
                return self.compare("at the source, which has refused");
            }
        };
        self.note(format_args!("the device is stopped, the state collected"));
        for prank in behind {
            self.prank(prank);
        }
        let bytes = received(written(collected));
        let other = daemon(self.share.path(), self.way.mode, self.way.held);
        match restore(&other, bytes, self.flags) {
            Ok(faulted) => {
                must!(
                    faulted == 0,
                    "{faulted} objects are faulted, and nobody said so"
                );
                // The source ends, and what it alone has kept alive.
                self.daemon = other;
                self.settle();
                self.compare("at the destination")
            }
            Err(e) => {
                must!(
                    self.behind || self.may_be_refused(),
                    "refused by the destination: {e}"
                );
                drop(other);
                self.compare("at the source, after a refusal")
            }
        }
    }

    /// Whether something that the guest holds may be nowhere to be found: it has names,
    /// and none that the guest has seen.
    fn may_be_refused(&self) -> bool {
        self.nodes.values().any(|(id, _)| {
            let object = &self.model.objects[*id];
            // Or it is gone, and the kernel may say so in other words than that.
            let nowhere = self.model.is_linked(*id) && object.known.is_empty();
            *id != ROOT && (nowhere || object.weak)
        })
    }

    /// What only might be there is there or not, from now on.
    fn settle(&mut self) {
        let weak: Vec<(u64, Id)> = self
            .nodes
            .iter()
            .filter(|(_, (id, _))| self.model.objects[*id].weak)
            .map(|(node, (id, _))| (*node, *id))
            .collect();
        for (node, id) in weak {
            if ino(&self.daemon, NodeId(node)).is_err() {
                // The guest will forget it, as it would at the source.
                if let Some((_, lookups)) = self.nodes.remove(&node) {
                    self.daemon.forget(NodeId(node), lookups);
                }
            }
            let _ = id;
        }
    }

    fn reads(&self, open: &Open, place: &str) -> Step_ {
        if open.dir {
            return Ok(());
        }
        let What::File(content) = &self.model.objects[open.id].what else {
            return Ok(());
        };
        let read = read(&self.daemon, open.node, open.handle);
        must!(
            read.as_ref() == Ok(content),
            "{place}: handle {} of inode {} (object {}) has {:?}, not {:?}",
            open.handle,
            open.node,
            open.id,
            read.map(|read| read.escape_ascii().to_string()),
            content.escape_ascii().to_string()
        );
        Ok(())
    }

    /// Everything that the guest holds is what it was.
    fn compare(&mut self, place: &str) -> Step_ {
        for (node, (id, _)) in self.nodes.clone() {
            let node = NodeId(node);
            let object = self.model.objects[id].clone();
            let attr = match self.daemon.getattr(&CTX, node, None) {
                Ok(reply) => reply.attr,
                // Whatever the kernel says of a handle to what is gone.
                Err(_) if object.weak && !self.is_open(id) => continue,
                Err(e) => return Err(format!("{place}: inode {node} (object {id}): {e}")),
            };
            let number = *self.numbers.entry(node.0).or_insert(attr.ino);
            must!(
                number == attr.ino,
                "{place}: inode {node} has number {}, and had {number}",
                attr.ino
            );
            let kind = match &object.what {
                What::File(_) => libc::S_IFREG,
                What::Dir(_) => libc::S_IFDIR,
                What::Symlink(_) => libc::S_IFLNK,
            };
            must!(
                attr.mode & libc::S_IFMT == kind,
                "{place}: inode {node} (object {id}) has mode {:o}",
                attr.mode
            );
            let links = self.model.names(id).len() as u32;
            match &object.what {
                What::Dir(_) => must!(
                    (attr.nlink == 0) != self.model.is_linked(id),
                    "{place}: directory {node} (object {id}) has {} links",
                    attr.nlink
                ),
                _ => must!(
                    attr.nlink == links,
                    "{place}: inode {node} (object {id}) has {} links, not {links}",
                    attr.nlink
                ),
            }
            match &object.what {
                What::File(content) => {
                    let handle = match self.daemon.open(&CTX, node, 0, false) {
                        Ok(opened) => opened.handle,
                        Err(e) => return Err(format!("{place}: OPEN of inode {node}: {e}")),
                    };
                    must!(attr.size == content.len() as u64, "{place}: size of {node}");
                    let open = Open {
                        handle,
                        node,
                        id,
                        dir: false,
                    };
                    let same = self.reads(&open, place);
                    self.daemon.release(&CTX, node, handle).unwrap();
                    same?;
                }
                What::Symlink(target) => {
                    let says = self.daemon.readlink(&CTX, node);
                    must!(
                        says.as_ref() == Ok(target),
                        "{place}: link {node}: {says:?}"
                    );
                }
                What::Dir(children) => {
                    // Each name is what it is, and those that the guest holds are theirs.
                    for n in NAMES {
                        let found = lookup(&self.daemon, node, n);
                        let there = children.get(n).copied();
                        must!(
                            found.is_ok() == there.is_some(),
                            "{place}: {:?} in inode {node}: {:?}",
                            n.escape_ascii().to_string(),
                            found.err()
                        );
                        let (Ok(entry), Some(child)) = (found, there) else {
                            continue;
                        };
                        let held = self.nodes.iter().find(|(_, (held, _))| *held == child);
                        let other = self.nodes.get(&entry.node.0);
                        must!(
                            held.is_none_or(|(held, _)| *held == entry.node.0)
                                && other.is_none_or(|(other, _)| *other == child),
                            "{place}: {:?} in inode {node} is answered as inode {}, held: {held:?}",
                            n.escape_ascii().to_string(),
                            entry.node
                        );
                        self.daemon.forget(entry.node, 1);
                        if held.is_some() {
                            self.model.knows(id, n, child);
                        }
                    }
                }
            }
        }
        self.open
            .iter()
            .try_for_each(|open| self.reads(open, place))
    }

    /// The guest ends; nothing of it is left, in the daemon or in the share.
    pub(super) fn end(mut self) -> Step_ {
        self.compare("at the end")?;
        for open in std::mem::take(&mut self.open) {
            let released = match open.dir {
                true => self.daemon.releasedir(&CTX, open.node, open.handle),
                false => self.daemon.release(&CTX, open.node, open.handle),
            };
            self.agree("RELEASE", &released, true)?;
        }
        for (node, (_, lookups)) in std::mem::take(&mut self.nodes) {
            self.daemon.forget(NodeId(node), lookups);
        }
        must!(
            self.daemon.inodes().len() == 1,
            "{} inodes are left",
            self.daemon.inodes().len()
        );
        must!(self.daemon.handles().is_empty(), "handles are left");
        must!(self.daemon.names().is_empty(), "names are left");
        let expected: HashSet<Vec<u8>> = self.model.children(ROOT).keys().cloned().collect();
        let there = fs::read_dir(self.share.path()).unwrap();
        let there: HashSet<Vec<u8>> = there
            .map(|entry| entry.unwrap().file_name().as_bytes().to_vec())
            .collect();
        must!(
            there == expected,
            "the share has {there:?}, not {expected:?}"
        );
        Ok(())
    }
}

thread_local! {
    static UNPRIVILEGED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

fn unprivileged() -> bool {
    UNPRIVILEGED.get() || !rustix::process::geteuid().is_root()
}

/// Takes all capabilities from this thread and those that it starts.
pub(super) fn drop_privileges() {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    // _LINUX_CAPABILITY_VERSION_3: two times effective, permitted, inheritable.
    let header = Header {
        version: 0x2008_0522,
        pid: 0,
    };
    let none = [0u32; 6];
    // SAFETY: both are as the call wants them, and outlive it; they change this thread
    // alone.
    let rc = unsafe { libc::syscall(libc::SYS_capset, &header, none.as_ptr()) };
    assert_eq!(rc, 0, "{}", std::io::Error::last_os_error());
    UNPRIVILEGED.set(true);
}
