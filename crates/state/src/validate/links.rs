//! What needs the whole state: that everything a record points at is there, and of
//! the right kind.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::OnceLock;

use super::{ghosts, invalid, locks, Invalid, Problem, Subject, ROOT_ID, S_IFDIR, S_IFREG};
use crate::model::{FsState, Inode, State};
use crate::packed::{IdentityPack, InodeRef, Lead, PackedInodes, PackedState};
use crate::parallel::in_parts;

/// Checks what needs the whole state: root, parents, cycles, mounts, handles'
/// inodes, identities, locks, ghosts. Takes time in proportion to the number of records
/// (locks of one file a little more), and as much memory. The records themselves
/// have been through a [`Checker`](super::Checker).
///
/// # Errors
/// The first contradiction.
pub fn check_links(state: &State) -> Result<(), Invalid> {
    let fs = &state.fs;
    let check_identities = |identities: &mut Identities<'_, [Inode]>| {
        let all = fs.identities.iter();
        identities.check(all.map(|identity| (identity.inode, identity.file_system)))
    };
    let has_session = state.session.is_some();
    check(has_session, fs, &fs.inodes[..], check_identities)
}

/// [`check_links`] for a packed state.
///
/// # Errors
/// As [`check_links`].
pub(crate) fn check_packed(state: &PackedState) -> Result<(), Invalid> {
    let fs = &state.fs;
    let check_identities = |identities: &mut Identities<'_, PackedInodes>| {
        let mut packs = fs.identities.pieces().iter();
        packs.try_for_each(|pack| identities.check_pack(pack))
    };
    let has_session = state.session.is_some();
    check(has_session, &fs.rest, &fs.inodes, check_identities)
}

/// Inodes by ascending id.
pub(super) trait Inodes: Sync {
    fn len(&self) -> usize;
    fn get(&self, at: usize) -> InodeRef<'_>;
    fn id(&self, at: usize) -> u64;
    fn kind(&self, at: usize) -> u32;
    fn lead(&self, at: usize) -> Lead;
    fn search(&self, id: u64) -> Option<usize>;
}

impl Inodes for [Inode] {
    fn len(&self) -> usize {
        self.len()
    }
    fn get(&self, at: usize) -> InodeRef<'_> {
        InodeRef::from(&self[at])
    }
    fn id(&self, at: usize) -> u64 {
        self[at].id
    }
    fn kind(&self, at: usize) -> u32 {
        self[at].kind
    }
    fn lead(&self, at: usize) -> Lead {
        Lead::from(InodeRef::from(&self[at]).place)
    }
    fn search(&self, id: u64) -> Option<usize> {
        self.binary_search_by_key(&id, |inode| inode.id).ok()
    }
}

impl Inodes for PackedInodes {
    fn len(&self) -> usize {
        self.len()
    }
    fn get(&self, at: usize) -> InodeRef<'_> {
        self.get(at)
    }
    fn id(&self, at: usize) -> u64 {
        self.id(at)
    }
    fn kind(&self, at: usize) -> u32 {
        self.kind(at)
    }
    fn lead(&self, at: usize) -> Lead {
        self.lead(at)
    }
    fn search(&self, id: u64) -> Option<usize> {
        self.position(id)
    }
}

/// Checks a state, of whose file system `rest` has everything but inodes and identities; the
/// latter are given to who checks them by `check_identities`.
fn check<I: Inodes + ?Sized>(
    has_session: bool,
    rest: &FsState,
    inodes: &I,
    check_identities: impl FnOnce(&mut Identities<'_, I>) -> Result<(), Invalid>,
) -> Result<(), Invalid> {
    check_root(has_session, rest, inodes)?;
    let index = Index::new(inodes);
    check_locations(rest, &index)?;
    check_handles(rest, &index)?;
    check_identities(&mut Identities {
        rest,
        index: &index,
        next: 0,
        known: None,
    })?;
    locks::check(rest, &index)?;
    ghosts::check(rest, &index)
}

fn check_handles<I: Inodes + ?Sized>(rest: &FsState, index: &Index<'_, I>) -> Result<(), Invalid> {
    for handle in &rest.handles {
        let fail = |problem| Err(invalid(Subject::Handle(handle.id), problem));
        let Some(position) = index.position(handle.inode) else {
            return fail(Problem::MissingInode(handle.inode));
        };
        let kind = index.inodes.kind(position);
        let (wanted, name) = match handle.directory {
            true => (S_IFDIR, "directory"),
            false => (S_IFREG, "file"),
        };
        if kind != wanted {
            return fail(Problem::HandleKind {
                handle: name,
                inode: handle.inode,
                kind,
            });
        }
    }
    Ok(())
}

/// Checks identities, which come by ascending inode: of each, what inode and file system it
/// refers to.
struct Identities<'a, I: ?Sized> {
    rest: &'a FsState,
    index: &'a Index<'a, I>,
    /// Behind the inode of the one before. Nearly all inodes have one.
    next: usize,
    /// The file system of the one before. Nearly all are on the same.
    known: Option<u32>,
}

impl<I: Inodes + ?Sized> Identities<'_, I> {
    fn check(&mut self, identities: impl Iterator<Item = (u64, u32)>) -> Result<(), Invalid> {
        let inodes = self.index.inodes;
        let file_systems = &self.rest.file_systems;
        for (inode, number) in identities {
            let fail = |problem| Err(invalid(Subject::Identity(inode), problem));
            let position = match self.next < inodes.len() && inodes.id(self.next) == inode {
                true => Some(self.next),
                false => self.index.position(inode),
            };
            let Some(position) = position else {
                return fail(Problem::NoSuchInode);
            };
            self.next = position + 1;
            if self.known == Some(number) {
                continue;
            }
            if file_systems
                .binary_search_by_key(&number, |f| f.id)
                .is_err()
            {
                return fail(Problem::UnknownFileSystem(number));
            }
            self.known = Some(number);
        }
        Ok(())
    }
}

impl Identities<'_, PackedInodes> {
    fn check_pack(&mut self, pack: &IdentityPack) -> Result<(), Invalid> {
        let known = pack.file_system().is_some() && pack.file_system() == self.known;
        let row = known.then(|| self.index.inodes.have_in_a_row(pack.ids()));
        match row.flatten() {
            Some(next) => self.next = next,
            None => self.check(pack.references())?,
        }
        Ok(())
    }
}

fn check_root<I: Inodes + ?Sized>(
    has_session: bool,
    rest: &FsState,
    inodes: &I,
) -> Result<(), Invalid> {
    let id = |at: usize| (at < inodes.len()).then(|| inodes.id(at));
    let needed = has_session || inodes.len() > 0 || !rest.handles.is_empty();
    if needed && id(0) != Some(ROOT_ID) {
        return Err(invalid(Subject::Inode(ROOT_ID), Problem::MissingRoot));
    }
    if !has_session {
        let guest = match (id(1), rest.handles.first()) {
            (Some(inode), _) => Some(Subject::Inode(inode)),
            (None, Some(handle)) => Some(Subject::Handle(handle.id)),
            (None, None) => None,
        };
        if let Some(subject) = guest {
            return Err(invalid(subject, Problem::NoSession));
        }
    }
    Ok(())
}

fn check_locations<I: Inodes + ?Sized>(
    rest: &FsState,
    index: &Index<'_, I>,
) -> Result<(), Invalid> {
    // Ids grow with time, so nearly every parent comes before its children, and a
    // chain that only ever leads backwards ends. Only the others can be cycles.
    let mut forward = false;
    for part in in_parts(index.inodes.len(), |part| check_parents(rest, index, part)) {
        forward |= part?;
    }
    match forward {
        true => check_cycles(index),
        false => Ok(()),
    }
}

/// Checks that each parent and mount of a part of the inodes is there; answers whether a
/// parent comes behind its child.
fn check_parents<I: Inodes + ?Sized>(
    rest: &FsState,
    index: &Index<'_, I>,
    part: Range<usize>,
) -> Result<bool, Invalid> {
    let inodes = index.inodes;
    let mut forward = false;
    // What lies in one directory, or on one mount, mostly comes together.
    let mut last_parent = None;
    let mut last_mount = None;
    for position in part {
        let fail = |problem| Err(invalid(Subject::Inode(inodes.id(position)), problem));
        let parent = match inodes.lead(position) {
            Lead::None => continue,
            Lead::Mount(mount) => {
                if last_mount == Some(mount) {
                    continue;
                }
                if rest.mounts.binary_search_by_key(&mount, |m| m.id).is_err() {
                    return fail(Problem::UnknownMount(mount));
                }
                last_mount = Some(mount);
                continue;
            }
            Lead::Above(parent) => parent,
        };
        let at = match last_parent {
            Some((last, at)) if last == parent => at,
            _ => {
                let Some(at) = index.position(parent) else {
                    return fail(Problem::MissingParent(parent));
                };
                if inodes.kind(at) != S_IFDIR {
                    return fail(Problem::ParentKind(parent));
                }
                last_parent = Some((parent, at));
                at
            }
        };
        forward |= at >= position;
    }
    Ok(forward)
}

/// Checks that each chain of parents, all of which are there, ends.
fn check_cycles<I: Inodes + ?Sized>(index: &Index<'_, I>) -> Result<(), Invalid> {
    const NONE: u32 = u32::MAX;
    let inodes = index.inodes;
    let parent = |position| {
        let above = inodes.get(position).place.above();
        let above = above.and_then(|above| index.position(above));
        above.map_or(NONE, |at| at as u32)
    };
    let parents: Vec<u32> = (0..inodes.len()).map(parent).collect();
    // Walk up from each inode, marking the way; a chain that meets its own marks is
    // a cycle, one that meets what is done is sound. Each inode is passed once.
    const NEW: u32 = 0;
    const DONE: u32 = u32::MAX;
    let mut marks = vec![NEW; inodes.len()];
    for start in 0..inodes.len() {
        let mark = start as u32 + 1;
        let mut at = start;
        while marks[at] == NEW {
            marks[at] = mark;
            match parents[at] {
                NONE => break,
                parent => at = parent as usize,
            }
        }
        if marks[at] == mark && parents[at] != NONE {
            return Err(invalid(Subject::Inode(inodes.id(at)), Problem::Cycle));
        }
        let mut at = start;
        while marks[at] == mark {
            marks[at] = DONE;
            match parents[at] {
                NONE => break,
                parent => at = parent as usize,
            }
        }
    }
    Ok(())
}

/// Finds inodes by id. Ids of a daemon that has not run for long are dense, and
/// then a table of positions is faster than any search; it is made when there is so much to
/// look for that it is worth it. What lies in one directory mostly comes together, and then
/// there is not.
pub(super) struct Index<'a, I: ?Sized> {
    pub(super) inodes: &'a I,
    /// How often it was searched.
    searches: AtomicUsize,
    /// Empty where ids are not dense.
    table: OnceLock<Vec<u32>>,
}

/// One search for so many inodes is done without a table.
const FEW_SEARCHES: usize = 64;

impl<'a, I: Inodes + ?Sized> Index<'a, I> {
    fn new(inodes: &'a I) -> Self {
        Index {
            inodes,
            searches: AtomicUsize::new(0),
            table: OnceLock::new(),
        }
    }

    /// The table, where it is worth it.
    fn table(&self) -> Option<&[u32]> {
        let table = match self.table.get() {
            Some(table) => table,
            None => {
                let searches = self.searches.fetch_add(1, Ordering::Relaxed);
                if searches < self.inodes.len() / FEW_SEARCHES {
                    return None;
                }
                self.table.get_or_init(|| table_of(self.inodes))
            }
        };
        (!table.is_empty()).then_some(table)
    }

    pub(super) fn position(&self, id: u64) -> Option<usize> {
        let Some(table) = self.table() else {
            return self.inodes.search(id);
        };
        let position = *table.get(usize::try_from(id).ok()?)?;
        (position != u32::MAX).then_some(position as usize)
    }

    /// The record of inode `id`.
    pub(super) fn find(&self, id: u64) -> Option<InodeRef<'_>> {
        self.position(id).map(|at| self.inodes.get(at))
    }
}

/// The position of each inode, by its id; empty where ids are not dense.
fn table_of<I: Inodes + ?Sized>(inodes: &I) -> Vec<u32> {
    let count = inodes.len();
    let max = count.checked_sub(1).map_or(0, |last| inodes.id(last));
    let dense = max <= (count as u64).saturating_mul(8) && count < u32::MAX as usize;
    let mut table = Vec::new();
    if dense {
        table = vec![u32::MAX; max as usize + 1];
        for position in 0..count {
            table[inodes.id(position) as usize] = position as u32;
        }
    }
    table
}
