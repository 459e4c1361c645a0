//! What unlinked inodes that cross with their contents must be like.

use super::links::{Index, Inodes};
use super::{invalid, Invalid, Problem, Subject, S_IFDIR, S_IFREG};
use crate::model::{FsState, Ghost, GhostData, Time};
use crate::packed::Place;

/// Most bytes in one piece of a ghost's contents.
pub const MAX_GHOST_PIECE: usize = 1 << 20;
/// `PATH_MAX` without the NUL: the longest target of a symbolic link.
const MAX_TARGET: usize = 4095;
/// `XATTR_NAME_MAX`, in bytes.
const MAX_XATTR_NAME: usize = 255;
/// `XATTR_SIZE_MAX`, in bytes.
const MAX_XATTR_VALUE: usize = 64 << 10;
/// The largest size of a file, in bytes.
const MAX_SIZE: u64 = i64::MAX as u64;

const S_IFCHR: u32 = 0o020000;
const S_IFBLK: u32 = 0o060000;
const S_IFLNK: u32 = 0o120000;

/// Checks a ghost by itself.
pub(super) fn check_ghost(ghost: &Ghost) -> Result<(), Problem> {
    if ghost.mode & !0o7777 != 0 {
        return Err(Problem::Permissions(ghost.mode));
    }
    for Time { nanoseconds, .. } in [ghost.accessed, ghost.modified] {
        if nanoseconds >= 1_000_000_000 {
            return Err(Problem::Nanoseconds(nanoseconds));
        }
    }
    if ghost.size > MAX_SIZE {
        return Err(Problem::Size(ghost.size));
    }
    if ghost.target.len() > MAX_TARGET || ghost.target.contains(&0) {
        return Err(Problem::LinkTarget);
    }
    for xattr in &ghost.xattrs {
        let (name, value) = (&xattr.name, &xattr.value);
        let good = (1..=MAX_XATTR_NAME).contains(&name.len()) && !name.contains(&0);
        if !good || value.len() > MAX_XATTR_VALUE {
            return Err(Problem::Xattr {
                name: name[..name.len().min(64)].escape_ascii().to_string(),
                value: value.len(),
            });
        }
    }
    Ok(())
}

/// The contents so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Contents {
    bytes: u64,
    /// Of the last piece: its inode, and the byte behind it.
    last: Option<(u64, u64)>,
}

impl Contents {
    /// Whether there has been none.
    pub(super) fn is_empty(&self) -> bool {
        self.last.is_none()
    }

    /// Checks the next piece by itself, and against the one before.
    pub(super) fn next(&mut self, piece: &GhostData, limit: u64) -> Result<(), Problem> {
        let length = piece.bytes.len();
        if !(1..=MAX_GHOST_PIECE).contains(&length) {
            return Err(Problem::PieceLength(length));
        }
        let (start, length) = (piece.offset, length as u64);
        let end = match start.checked_add(length) {
            Some(end) if end <= MAX_SIZE => end,
            _ => return Err(Problem::PieceRange { start, length }),
        };
        if let Some((inode, before)) = self.last {
            if piece.inode < inode || piece.inode == inode && start < before {
                return Err(Problem::PieceOrder { inode, before });
            }
        }
        self.last = Some((piece.inode, end));
        self.bytes += length;
        match self.bytes > limit {
            true => Err(Problem::Contents(limit)),
            false => Ok(()),
        }
    }
}

/// For messages.
pub(super) fn piece(piece: &GhostData) -> Subject {
    Subject::GhostData {
        inode: piece.inode,
        offset: piece.offset,
    }
}

/// Checks ghosts and their contents against the rest of the state.
pub(super) fn check<I: Inodes + ?Sized>(
    rest: &FsState,
    index: &Index<'_, I>,
) -> Result<(), Invalid> {
    for ghost in &rest.ghosts {
        let fail = |problem| Err(invalid(Subject::Ghost(ghost.inode), problem));
        let Some(inode) = index.find(ghost.inode) else {
            return fail(Problem::NoSuchInode);
        };
        if !matches!(inode.place, Place::Lost { .. }) {
            return fail(Problem::NotUnlinked);
        }
        let is_device = matches!(inode.kind, S_IFCHR | S_IFBLK);
        let is_link = inode.kind == S_IFLNK;
        for (what, wrong) in [
            ("no type", inode.kind == 0),
            ("a size", ghost.size != 0 && inode.kind != S_IFREG),
            ("a device number", ghost.device != 0 && !is_device),
            ("a target", ghost.target.is_empty() == is_link),
            ("a name to come", ghost.linkable && inode.kind != S_IFREG),
        ] {
            if wrong {
                let kind = inode.kind;
                return fail(Problem::GhostKind { what, kind });
            }
        }
        match index.find(ghost.directory) {
            Some(directory)
                if directory.kind == S_IFDIR && !matches!(directory.place, Place::Lost { .. }) => {}
            _ => return fail(Problem::GhostDirectory(ghost.directory)),
        }
    }
    for of_one in rest.ghost_data.chunk_by(|a, b| a.inode == b.inode) {
        let (first, last) = (&of_one[0], &of_one[of_one.len() - 1]);
        let at = rest.ghosts.binary_search_by_key(&first.inode, |g| g.inode);
        let Some(ghost) = at.ok().map(|at| &rest.ghosts[at]) else {
            return Err(invalid(piece(first), Problem::NoGhost));
        };
        if last.offset + last.bytes.len() as u64 > ghost.size {
            return Err(invalid(piece(last), Problem::PieceBeyond(ghost.size)));
        }
    }
    Ok(())
}
