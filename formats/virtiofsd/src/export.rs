//! A state as a stream of virtiofsd's.

use std::collections::HashMap;

use ferryfs_state::validate::{HOST_FLAGS, ID_LIMIT, KIND_UNKNOWN, ROOT_ID};
use ferryfs_state::{DialectError, Handle, Inode, Location, Losses, State};
use serde_bytes::ByteBuf;

use crate::session;
use crate::wire::{self, Options, Stream, Version};

/// Inodes named in a message before the rest is only counted.
const NAMED: usize = 5;

pub(crate) fn stream(state: &State, version: Version) -> Result<(Stream, Losses), DialectError> {
    let mut losses = Losses::default();
    let options = match &state.session {
        Some(session) => session::options(session, &mut losses)?,
        None => Options::default(),
    };
    refuse_names(state)?;
    refuse_locks(state)?;
    refuse_ghosts(state)?;
    if version == Version::V1 {
        refuse_file_handles(state)?;
    }
    lost(state, &mut losses);
    if !state.fs.identities.is_empty() {
        losses.0.push(format!(
            "the identities of {} inode(s): virtiofsd takes whatever has the name",
            state.fs.identities.len()
        ));
    }
    let (inodes, next_inode) = Tree::new(state).inodes(&state.fs.inodes)?;
    let mounts = match version {
        Version::V1 => Vec::new(),
        Version::V2 => state.fs.mounts.iter().map(mount).collect(),
    };
    let stream = Stream {
        version,
        inodes,
        next_inode,
        handles: state.fs.handles.iter().map(|h| handle(h, state)).collect(),
        next_handle: state.fs.next_handle,
        options,
        mounts,
    };
    Ok((stream, losses))
}

/// virtiofsd's names are text.
fn refuse_names(state: &State) -> Result<(), DialectError> {
    let is_text = |name: &ByteBuf| std::str::from_utf8(name).is_ok();
    if let Some(mount) = state.fs.mounts.iter().find(|m| !m.path.iter().all(is_text)) {
        return Err(DialectError::Refused(format!(
            "mount {}: its path is not UTF-8, and virtiofsd has no other names",
            mount.id
        )));
    }
    let bad: Vec<&Inode> = state
        .fs
        .inodes
        .iter()
        .filter(|inode| match &inode.location {
            Location::Child { name, .. } => !is_text(name),
            Location::Path { components, .. } => !components.iter().all(is_text),
            Location::Root | Location::Handle(_) | Location::Lost { .. } => false,
        })
        .collect();
    let named: Vec<String> = bad
        .iter()
        .take(NAMED)
        .map(|inode| format!("inode {} (\"{}\")", inode.id, last_name(inode)))
        .collect();
    match bad.len() {
        0 => Ok(()),
        n => Err(DialectError::Refused(format!(
            "{n} names are not UTF-8, and virtiofsd has no others: {}{}",
            named.join(", "),
            if n > NAMED { ", ..." } else { "" }
        ))),
    }
}

/// A lock that is dropped without a word is a lock that two guests hold.
fn refuse_locks(state: &State) -> Result<(), DialectError> {
    match state.fs.locks.first() {
        None if state.fs.requests.is_empty() => Ok(()),
        None => Err(DialectError::Refused(format!(
            "the guest waits for {} file lock(s), and virtiofsd hands none over: let it go on \
             until it has them",
            state.fs.requests.len()
        ))),
        Some(first) => Err(DialectError::Refused(format!(
            "the guest holds {} file lock(s), the first on inode {}, and virtiofsd hands none \
             over: let the guest release them",
            state.fs.locks.len(),
            first.inode
        ))),
    }
}

/// What has no name has no path, and is in no stream of virtiofsd but by file handle.
fn refuse_ghosts(state: &State) -> Result<(), DialectError> {
    let open = |id: u64| state.fs.handles.iter().any(|handle| handle.inode == id);
    let mut ghosts = state.fs.ghosts.iter().filter(|ghost| open(ghost.inode));
    match ghosts.next() {
        None => Ok(()),
        Some(first) => Err(DialectError::Refused(format!(
            "the guest has {} unlinked file(s) or directories open, the first is inode {}, and \
             virtiofsd has nothing that goes without a name: let the guest close them, or start \
             this daemon with --migration-mode file-handles where both share one file system",
            1 + ghosts.count(),
            first.inode
        ))),
    }
}

fn last_name(inode: &Inode) -> String {
    let name = match &inode.location {
        Location::Child { name, .. } => Some(name),
        Location::Path { components, .. } => components.last(),
        _ => None,
    };
    name.map(|n| n.escape_ascii().to_string())
        .unwrap_or_default()
}

fn refuse_file_handles(state: &State) -> Result<(), DialectError> {
    let by_handle = |i: &&Inode| matches!(i.location, Location::Handle(_));
    match state.fs.inodes.iter().find(by_handle) {
        None => Ok(()),
        Some(inode) => Err(DialectError::Refused(format!(
            "inode {} is known by its file handle, and virtiofsd 1.11 finds files by path alone: \
             use virtiofsd-v2, or collect the state with --migration-mode find-paths",
            inode.id
        ))),
    }
}

fn lost(state: &State, losses: &mut Losses) {
    let lost = |i: &&Inode| matches!(i.location, Location::Lost { .. });
    let n = state.fs.inodes.iter().filter(lost).count();
    if n > 0 {
        losses.0.push(format!(
            "{n} inodes that cannot be found: virtiofsd stops at the first of them, unless it is \
             started with --migration-on-error guest-error; the error that the guest gets of \
             them is its own"
        ));
    }
}

/// virtiofsd opens with exactly the flags that it finds. The guest's own would do
/// harm: its `O_APPEND` moves cached writes to the end of the file, and its
/// `O_WRONLY` keeps the write-back cache from reading. So the descriptor's are said;
/// virtiofsd appends for each WRITE that has the flag.
fn handle(handle: &Handle, state: &State) -> wire::Handle {
    let access = libc::O_ACCMODE as u32;
    let directory = libc::O_DIRECTORY as u32;
    let mut flags = handle.host_flags & !(libc::O_APPEND as u32 | directory);
    if handle.directory {
        flags |= directory;
    } else if session::has_writeback(state.session.as_ref())
        && flags & access == libc::O_WRONLY as u32
    {
        flags = (flags & !access) | libc::O_RDWR as u32;
    }
    wire::Handle {
        id: handle.id,
        inode: handle.inode,
        // What only a guest's kernel has means nothing to open(2), and comes back.
        flags: (flags | (handle.guest_flags & !HOST_FLAGS)) as i32,
    }
}

fn mount(mount: &ferryfs_state::Mount) -> (u64, Vec<u8>) {
    let names: Vec<&[u8]> = mount.path.iter().map(|c| &c[..]).collect();
    let path = match names.is_empty() {
        true => b".".to_vec(),
        false => names.join(&b'/'),
    };
    (mount.id.into(), path)
}

/// Where each inode hangs. virtiofsd needs every directory on a path to be an
/// inode: those that the guest has forgotten get new ids.
struct Tree<'s> {
    /// Directories by parent and name.
    known: HashMap<(u64, &'s [u8]), u64>,
    /// References of inodes by those that name them as parent.
    children: HashMap<u64, u64>,
    new: Vec<wire::Inode>,
    next_inode: u64,
}

impl<'s> Tree<'s> {
    fn new(state: &'s State) -> Self {
        let mut known = HashMap::new();
        let paths = |i: &Inode| matches!(i.location, Location::Path { .. });
        if state.fs.inodes.iter().any(paths) {
            for inode in &state.fs.inodes {
                if let Location::Child { parent, name } = &inode.location {
                    if inode.kind == libc::S_IFDIR || inode.kind == KIND_UNKNOWN {
                        known.entry((*parent, &name[..])).or_insert(inode.id);
                    }
                }
            }
        }
        Tree {
            known,
            children: HashMap::new(),
            new: Vec::new(),
            next_inode: state.fs.next_inode,
        }
    }

    fn inodes(mut self, inodes: &'s [Inode]) -> Result<(Vec<wire::Inode>, u64), DialectError> {
        let mut out = Vec::with_capacity(inodes.len());
        for inode in inodes {
            let location = match &inode.location {
                Location::Root => wire::Location::Root,
                Location::Child { parent, name } => self.child(*parent, name),
                Location::Path { from, components } => {
                    let mut at = *from;
                    // A path of no component is none: it has been validated.
                    let Some((last, directories)) = components.split_last() else {
                        continue;
                    };
                    for name in directories {
                        at = self.directory(at, name)?;
                    }
                    self.child(at, last)
                }
                Location::Handle(handle) => wire::Location::FileHandle(wire::FileHandle {
                    mount: handle.mount.into(),
                    kind: handle.kind,
                    bytes: handle.bytes.to_vec(),
                }),
                Location::Lost { .. } => wire::Location::Invalid,
            };
            out.push(wire::Inode {
                id: inode.id,
                // virtiofsd holds its root twice from INIT on.
                refcount: match inode.id {
                    ROOT_ID => inode.lookups.max(2),
                    _ => inode.lookups,
                },
                location,
                verify: false,
            });
        }
        out.append(&mut self.new);
        for inode in &mut out {
            let children = self.children.get(&inode.id).copied().unwrap_or(0);
            inode.refcount = inode.refcount.checked_add(children).ok_or_else(|| {
                DialectError::Refused(format!("inode {}: too many references", inode.id))
            })?;
        }
        Ok((out, self.next_inode))
    }

    fn child(&mut self, parent: u64, name: &[u8]) -> wire::Location {
        *self.children.entry(parent).or_insert(0) += 1;
        wire::Location::Path {
            parent,
            name: name.to_vec(),
        }
    }

    /// The directory `name` in `parent`, which may be new.
    fn directory(&mut self, parent: u64, name: &'s [u8]) -> Result<u64, DialectError> {
        if let Some(id) = self.known.get(&(parent, name)) {
            return Ok(*id);
        }
        let id = self.next_inode;
        if id >= ID_LIMIT - 1 {
            return Err(DialectError::Refused(
                "there are no inode ids left for the directories on a path".to_owned(),
            ));
        }
        self.next_inode += 1;
        let location = self.child(parent, name);
        self.new.push(wire::Inode {
            id,
            // Its children hold it.
            refcount: 0,
            location,
            verify: false,
        });
        self.known.insert((parent, name), id);
        Ok(id)
    }
}
