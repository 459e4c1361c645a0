//! What needs the whole state: that everything a record points at is there, and of
//! the right kind.

use std::ops::Range;

use super::{ghosts, invalid, locks, Invalid, Problem, Subject, ROOT_ID, S_IFDIR, S_IFREG};
use crate::model::{FsState, Inode, State};
use crate::packed::{InodeRef, PackedInodes, PackedState, Place};
use crate::parallel::in_parts;

/// Checks what needs the whole state: root, parents, cycles, mounts, handles'
/// inodes, identities, locks, ghosts. Takes time in proportion to the number of records
/// (locks of one file a little more), and as much memory. The records themselves
/// have been through a [`Checker`](super::Checker).
///
/// # Errors
/// The first contradiction.
pub fn check_links(state: &State) -> Result<(), Invalid> {
    let identities = state.fs.identities.iter();
    let identities = identities.map(|identity| (identity.inode, identity.file_system));
    let has_session = state.session.is_some();
    check(has_session, &state.fs, &state.fs.inodes[..], identities)
}

/// [`check_links`] for a packed state.
///
/// # Errors
/// As [`check_links`].
pub(crate) fn check_packed(state: &PackedState) -> Result<(), Invalid> {
    let fs = &state.fs;
    let has_session = state.session.is_some();
    check(
        has_session,
        &fs.rest,
        &fs.inodes,
        fs.identities.references(),
    )
}

/// Inodes by ascending id.
pub(super) trait Inodes: Sync {
    fn len(&self) -> usize;
    fn get(&self, at: usize) -> InodeRef<'_>;
    fn id(&self, at: usize) -> u64;
    fn kind(&self, at: usize) -> u32;
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
    fn search(&self, id: u64) -> Option<usize> {
        self.position(id)
    }
}

/// Checks a state, of whose file system `rest` has everything but inodes and identities; of
/// the latter, what inode and file system they refer to is enough.
fn check<I: Inodes + ?Sized>(
    has_session: bool,
    rest: &FsState,
    inodes: &I,
    identities: impl Iterator<Item = (u64, u32)>,
) -> Result<(), Invalid> {
    check_root(has_session, rest, inodes)?;
    let index = Index::new(inodes);
    check_locations(rest, &index)?;
    check_handles(rest, &index)?;
    check_identities(rest, identities, &index)?;
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

fn check_identities<I: Inodes + ?Sized>(
    rest: &FsState,
    identities: impl Iterator<Item = (u64, u32)>,
    index: &Index<'_, I>,
) -> Result<(), Invalid> {
    let inodes = index.inodes;
    let file_systems = &rest.file_systems;
    // Nearly all inodes have one, on the same file system as the one before.
    let mut next = 0;
    let mut known = None;
    for (inode, number) in identities {
        let fail = |problem| Err(invalid(Subject::Identity(inode), problem));
        let position = match next < inodes.len() && inodes.id(next) == inode {
            true => Some(next),
            false => index.position(inode),
        };
        let Some(position) = position else {
            return fail(Problem::NoSuchInode);
        };
        next = position + 1;
        if known == Some(number) {
            continue;
        }
        if file_systems
            .binary_search_by_key(&number, |f| f.id)
            .is_err()
        {
            return fail(Problem::UnknownFileSystem(number));
        }
        known = Some(number);
    }
    Ok(())
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
        let inode = inodes.get(position);
        let fail = |problem| Err(invalid(Subject::Inode(inode.id), problem));
        if let Place::Handle { mount, .. } = inode.place {
            if last_mount == Some(mount) {
                continue;
            }
            if rest.mounts.binary_search_by_key(&mount, |m| m.id).is_err() {
                return fail(Problem::UnknownMount(mount));
            }
            last_mount = Some(mount);
        }
        let Some(parent) = inode.place.above() else {
            continue;
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
/// then a table of positions is faster than any search.
pub(super) struct Index<'a, I: ?Sized> {
    pub(super) inodes: &'a I,
    table: Vec<u32>,
}

impl<'a, I: Inodes + ?Sized> Index<'a, I> {
    fn new(inodes: &'a I) -> Self {
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
        Index { inodes, table }
    }

    pub(super) fn position(&self, id: u64) -> Option<usize> {
        if self.table.is_empty() {
            return self.inodes.search(id);
        }
        let position = *self.table.get(usize::try_from(id).ok()?)?;
        (position != u32::MAX).then_some(position as usize)
    }

    /// The record of inode `id`.
    pub(super) fn find(&self, id: u64) -> Option<InodeRef<'_>> {
        self.position(id).map(|at| self.inodes.get(at))
    }
}
