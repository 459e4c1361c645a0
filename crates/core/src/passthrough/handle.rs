//! Open files and directories: `fh` to descriptor.

use std::collections::HashSet;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::dir::DirState;
use super::inode::{NumberMap, SHARDS};
use crate::errno::{Errno, FsResult};
use crate::types::{HandleId, NodeId};

/// Flags that act once, at open, and are not kept.
const ONCE: u32 = (libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC) as u32;

/// What a handle was made by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandleKind {
    /// OPEN, CREATE or TMPFILE.
    File,
    /// OPENDIR.
    Dir,
}

/// An open file or directory. Nothing about it changes while it is open but the
/// directory's reading state, so reads and writes wait for nobody.
pub struct OpenFile {
    node: NodeId,
    kind: HandleKind,
    file: Result<OwnedFd, Errno>,
    guest_flags: u32,
    host_flags: u32,
    /// Where the reading of a directory is; made when it is first read.
    pub(super) dir: Mutex<Option<Box<DirState>>>,
}

impl OpenFile {
    /// `guest_flags` are as the guest gave them; `host_flags` those that `file`
    /// was opened with. Those that act only once are dropped from both. A handle
    /// that a crossing could not open has an error in place of a file.
    pub fn new(
        node: NodeId,
        kind: HandleKind,
        file: Result<OwnedFd, Errno>,
        guest_flags: u32,
        host_flags: u32,
    ) -> OpenFile {
        OpenFile {
            node,
            kind,
            file,
            guest_flags: guest_flags & !ONCE,
            host_flags: host_flags & !ONCE,
            dir: Mutex::new(None),
        }
    }

    /// The inode.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// What made it.
    pub fn kind(&self) -> HandleKind {
        self.kind
    }

    /// The guest's `O_*` flags, without those that act only once.
    pub fn guest_flags(&self) -> u32 {
        self.guest_flags
    }

    /// The `O_*` flags in effect on the host, without those that act only once.
    pub fn host_flags(&self) -> u32 {
        self.host_flags
    }

    /// The descriptor.
    ///
    /// # Errors
    /// The error that a crossing has left in its place.
    pub fn fd(&self) -> FsResult<BorrowedFd<'_>> {
        match &self.file {
            Ok(file) => Ok(file.as_fd()),
            Err(errno) => Err(*errno),
        }
    }
}

impl fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenFile")
            .field("node", &self.node)
            .field("kind", &self.kind)
            .field("file", &self.file)
            .field("guest_flags", &format_args!("{:#o}", self.guest_flags))
            .field("host_flags", &format_args!("{:#o}", self.host_flags))
            .finish_non_exhaustive()
    }
}

type Shard = RwLock<NumberMap<Arc<OpenFile>>>;

/// Every open file and directory of the guest. No descriptor is closed under any
/// of its locks: closing can take long.
pub struct Handles {
    shards: Box<[Shard]>,
    next: AtomicU64,
}

impl Default for Handles {
    fn default() -> Handles {
        Handles::new()
    }
}

impl Handles {
    /// None, the next number being 1.
    pub fn new() -> Handles {
        Handles {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            next: AtomicU64::new(1),
        }
    }

    fn shard(&self, id: HandleId) -> &Shard {
        &self.shards[id.0 as usize % SHARDS]
    }

    /// Gives an open file a number.
    pub fn add(&self, file: OpenFile) -> HandleId {
        let id = HandleId(self.next.fetch_add(1, Ordering::Relaxed));
        self.insert(id, file);
        id
    }

    /// Puts an open file under a given number; for tables being filled.
    /// [`Handles::set_next`] must be told of it.
    pub fn insert(&self, id: HandleId, file: OpenFile) {
        let old = self
            .shard(id)
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id.0, Arc::new(file));
        drop(old);
    }

    /// The open file `id` of inode `node`.
    ///
    /// # Errors
    /// `EBADF` when there is none, when it is another inode's or of another kind.
    pub fn find(&self, id: HandleId, node: NodeId, kind: HandleKind) -> FsResult<Arc<OpenFile>> {
        self.find_any(id, node).and_then(|file| {
            if file.kind == kind {
                Ok(file)
            } else {
                Err(Errno::EBADF)
            }
        })
    }

    /// As [`Handles::find`], of either kind.
    ///
    /// # Errors
    /// `EBADF` when there is none, or when it is another inode's.
    pub fn find_any(&self, id: HandleId, node: NodeId) -> FsResult<Arc<OpenFile>> {
        self.shard(id)
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id.0)
            .filter(|file| file.node == node)
            .cloned()
            .ok_or(Errno::EBADF)
    }

    /// Takes an open file out; it is closed when the last request that uses it
    /// is done, at the earliest when the answer is dropped.
    ///
    /// # Errors
    /// As [`Handles::find`].
    pub fn remove(&self, id: HandleId, node: NodeId, kind: HandleKind) -> FsResult<Arc<OpenFile>> {
        let mut shard = self
            .shard(id)
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        match shard.get(&id.0) {
            Some(file) if file.node == node && file.kind == kind => {
                shard.remove(&id.0).ok_or(Errno::EBADF)
            }
            _ => Err(Errno::EBADF),
        }
    }

    /// Leaves an error in place of an open file that must not be used any more.
    pub(super) fn spoil(&self, id: HandleId, errno: Errno) {
        let mut shard = self
            .shard(id)
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let old = shard.get_mut(&id.0).map(|file| {
            let spoilt = OpenFile::new(
                file.node,
                file.kind,
                Err(errno),
                file.guest_flags,
                file.host_flags,
            );
            std::mem::replace(file, Arc::new(spoilt))
        });
        drop(shard);
        drop(old);
    }

    /// Closes all. Numbers go on.
    pub(super) fn clear(&self) {
        for shard in &self.shards {
            let old = std::mem::take(&mut *shard.write().unwrap_or_else(PoisonError::into_inner));
            drop(old);
        }
    }

    /// Takes the contents of `other` over in place of everything there is. No
    /// request may be running.
    pub fn replace_with(&self, other: Handles) {
        for (mine, theirs) in self.shards.iter().zip(&other.shards) {
            let new = std::mem::take(&mut *theirs.write().unwrap_or_else(PoisonError::into_inner));
            let mut mine = mine.write().unwrap_or_else(PoisonError::into_inner);
            let old = std::mem::replace(&mut *mine, new);
            drop(mine);
            drop(old);
        }
        self.set_next(other.next());
    }

    /// The inodes of all of them.
    pub(super) fn nodes(&self) -> HashSet<NodeId> {
        let mut nodes = HashSet::new();
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            nodes.extend(shard.values().map(|file| file.node()));
        }
        nodes
    }

    /// Every open file with its number, by ascending number.
    pub fn all(&self) -> Vec<(HandleId, Arc<OpenFile>)> {
        let mut all: Vec<_> = self
            .shards
            .iter()
            .flat_map(|shard| {
                let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
                let files: Vec<_> = shard
                    .iter()
                    .map(|(&id, file)| (HandleId(id), file.clone()))
                    .collect();
                files
            })
            .collect();
        all.sort_by_key(|(id, _)| *id);
        all
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.read().unwrap_or_else(PoisonError::into_inner).len())
            .sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number that the next open gets.
    pub fn next(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Lets numbers go on from `next`; they never go back.
    pub fn set_next(&self, next: u64) {
        self.next.fetch_max(next, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn open(node: u64, kind: HandleKind) -> OpenFile {
        let file = File::open("/dev/null").unwrap();
        let flags = (libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC) as u32;
        OpenFile::new(NodeId(node), kind, Ok(file.into()), flags, flags)
    }

    #[test]
    fn a_handle_belongs_to_its_inode_and_kind() {
        let handles = Handles::new();
        let id = handles.add(open(5, HandleKind::File));
        assert_eq!(id, HandleId(1));
        assert!(handles.find(id, NodeId(5), HandleKind::File).is_ok());
        for (id, node, kind) in [
            (id, NodeId(6), HandleKind::File),
            (id, NodeId(5), HandleKind::Dir),
            (HandleId(2), NodeId(5), HandleKind::File),
            (HandleId(0), NodeId(5), HandleKind::File),
            (HandleId(u64::MAX), NodeId(5), HandleKind::File),
        ] {
            assert_eq!(handles.find(id, node, kind).unwrap_err(), Errno::EBADF);
            assert_eq!(handles.remove(id, node, kind).unwrap_err(), Errno::EBADF);
        }
        assert!(handles.remove(id, NodeId(5), HandleKind::File).is_ok());
        assert!(handles.is_empty());
        assert_eq!(handles.add(open(5, HandleKind::Dir)), HandleId(2));
    }

    #[test]
    fn flags_that_act_once_are_not_kept() {
        let file = open(5, HandleKind::File);
        assert_eq!(file.guest_flags(), libc::O_RDWR as u32);
        assert_eq!(file.host_flags(), libc::O_RDWR as u32);
    }

    #[test]
    fn a_handle_that_was_lost_answers_its_error() {
        let lost = OpenFile::new(NodeId(5), HandleKind::File, Err(Errno::ESTALE), 0, 0);
        assert_eq!(lost.fd().unwrap_err(), Errno::ESTALE);
    }

    #[test]
    fn other_handles_take_the_place_of_all() {
        let handles = Handles::new();
        handles.add(open(5, HandleKind::File));
        let other = Handles::new();
        other.insert(HandleId(40), open(9, HandleKind::Dir));
        other.insert(HandleId(7), open(8, HandleKind::File));
        other.set_next(41);
        handles.replace_with(other);
        let ids: Vec<_> = handles.all().iter().map(|(id, _)| id.0).collect();
        assert_eq!(ids, [7, 40]);
        assert_eq!(handles.next(), 41);
    }
}
