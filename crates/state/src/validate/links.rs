//! What needs the whole state: that everything a record points at is there, and of
//! the right kind.

use super::{ghosts, invalid, locks, Invalid, Problem, Subject, ROOT_ID, S_IFDIR, S_IFREG};
use crate::model::{Inode, Location, State};

/// Checks what needs the whole state: root, parents, cycles, mounts, handles'
/// inodes, identities, locks, ghosts. Takes time in proportion to the number of records
/// (locks of one file a little more), and as much memory. The records themselves
/// have been through a [`Checker`](super::Checker).
///
/// # Errors
/// The first contradiction.
pub fn check_links(state: &State) -> Result<(), Invalid> {
    let inodes = &state.fs.inodes;
    check_root(state)?;
    let index = Index::new(inodes);

    check_locations(state, &index)?;

    for handle in &state.fs.handles {
        let fail = |problem| Err(invalid(Subject::Handle(handle.id), problem));
        let Some(position) = index.position(handle.inode) else {
            return fail(Problem::MissingInode(handle.inode));
        };
        let kind = inodes[position].kind;
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
    check_identities(state, &index)?;
    locks::check(state, &index)?;
    ghosts::check(state, &index)
}

fn check_identities(state: &State, index: &Index<'_>) -> Result<(), Invalid> {
    let file_systems = &state.fs.file_systems;
    for identity in &state.fs.identities {
        let fail = |problem| Err(invalid(Subject::Identity(identity.inode), problem));
        if index.position(identity.inode).is_none() {
            return fail(Problem::NoSuchInode);
        }
        let number = identity.file_system;
        if file_systems
            .binary_search_by_key(&number, |f| f.id)
            .is_err()
        {
            return fail(Problem::UnknownFileSystem(number));
        }
    }
    Ok(())
}

fn check_root(state: &State) -> Result<(), Invalid> {
    let fs = &state.fs;
    let root = fs.inodes.first().is_some_and(|i| i.id == ROOT_ID);
    let needed = state.session.is_some() || !fs.inodes.is_empty() || !fs.handles.is_empty();
    if needed && !root {
        return Err(invalid(Subject::Inode(ROOT_ID), Problem::MissingRoot));
    }
    if state.session.is_none() {
        let guest = match (fs.inodes.get(1), fs.handles.first()) {
            (Some(inode), _) => Some(Subject::Inode(inode.id)),
            (None, Some(handle)) => Some(Subject::Handle(handle.id)),
            (None, None) => None,
        };
        if let Some(subject) = guest {
            return Err(invalid(subject, Problem::NoSession));
        }
    }
    Ok(())
}

fn check_locations(state: &State, index: &Index<'_>) -> Result<(), Invalid> {
    let inodes = &state.fs.inodes;
    const NONE: u32 = u32::MAX;
    let mut parents = vec![NONE; inodes.len()];
    // Ids grow with time, so nearly every parent comes before its children, and a
    // chain that only ever leads backwards ends. Only the others can be cycles.
    let mut forward = false;
    for (position, inode) in inodes.iter().enumerate() {
        let fail = |problem| Err(invalid(Subject::Inode(inode.id), problem));
        let parent = match &inode.location {
            Location::Child { parent, .. } => *parent,
            Location::Path { from, .. } => *from,
            Location::Handle(handle) => {
                let mounts = &state.fs.mounts;
                match mounts.binary_search_by_key(&handle.mount, |m| m.id) {
                    Ok(_) => continue,
                    Err(_) => return fail(Problem::UnknownMount(handle.mount)),
                }
            }
            Location::Root | Location::Lost { .. } => continue,
        };
        let Some(at) = index.position(parent) else {
            return fail(Problem::MissingParent(parent));
        };
        if inodes[at].kind != S_IFDIR {
            return fail(Problem::ParentKind(parent));
        }
        parents[position] = at as u32;
        forward |= at >= position;
    }
    if !forward {
        return Ok(());
    }
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
            return Err(invalid(Subject::Inode(inodes[at].id), Problem::Cycle));
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
pub(super) struct Index<'a> {
    inodes: &'a [Inode],
    table: Vec<u32>,
}

impl<'a> Index<'a> {
    fn new(inodes: &'a [Inode]) -> Self {
        let max = inodes.last().map_or(0, |i| i.id);
        let dense =
            max <= (inodes.len() as u64).saturating_mul(8) && inodes.len() < u32::MAX as usize;
        let mut table = Vec::new();
        if dense {
            table = vec![u32::MAX; max as usize + 1];
            for (position, inode) in inodes.iter().enumerate() {
                table[inode.id as usize] = position as u32;
            }
        }
        Index { inodes, table }
    }

    pub(super) fn position(&self, id: u64) -> Option<usize> {
        if self.table.is_empty() {
            return self.inodes.binary_search_by_key(&id, |i| i.id).ok();
        }
        let position = *self.table.get(usize::try_from(id).ok()?)?;
        (position != u32::MAX).then_some(position as usize)
    }
}
