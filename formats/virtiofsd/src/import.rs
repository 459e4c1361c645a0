//! A stream as a state: what virtiofsd leaves unsaid is inferred, and what it says
//! in its own way is said in ours.

use std::collections::HashMap;

use ferryfs_state::validate::{HOST_FLAGS, KIND_UNKNOWN, ROOT_ID};
use ferryfs_state::{
    DialectError, FileHandle, FsState, Handle, Inode, Limits, Location, Mount, State,
    MAX_COMPONENTS,
};
use serde_bytes::ByteBuf;

use crate::session::infer;
use crate::wire::{self, Stream};

/// What a guest gets of an inode that virtiofsd had lost.
const ESTALE: i32 = libc::ESTALE;

fn refused(text: String) -> DialectError {
    DialectError::Refused(text)
}

pub(crate) fn state(mut stream: Stream, limits: &Limits) -> Result<State, DialectError> {
    // Order means nothing to virtiofsd. It writes ids ascending, mounts in any order.
    stream.inodes.sort_by_key(|i| i.id);
    stream.handles.sort_by_key(|h| h.id);
    stream.mounts.sort();

    let session = (!stream.inodes.is_empty()).then(|| infer(stream.options));
    let writeback = stream.options.writeback;
    let handles: Vec<_> = stream
        .handles
        .iter()
        .map(|h| handle(h, writeback))
        .collect();
    let mounts = stream.mounts.iter().map(mount).collect::<Result<_, _>>()?;
    let inodes = Table::new(&stream.inodes)?.inodes(&handles, limits)?;
    Ok(State {
        session,
        fs: FsState {
            next_inode: stream.next_inode,
            next_handle: stream.next_handle,
            mounts,
            inodes,
            handles,
            ..FsState::default()
        },
    })
}

/// The recorded flags are the guest's. virtiofsd's own descriptor has others (an
/// upgrade to reading for the write-back cache, no `O_APPEND` at times), and so must
/// the one that is opened here.
fn handle(handle: &wire::Handle, writeback: bool) -> Handle {
    let access = libc::O_ACCMODE as u32;
    let guest_flags = handle.flags as u32;
    let mut host_flags = guest_flags & HOST_FLAGS & !(libc::O_APPEND as u32);
    if writeback && host_flags & access == libc::O_WRONLY as u32 {
        host_flags = (host_flags & !access) | libc::O_RDWR as u32;
    }
    Handle {
        id: handle.id,
        inode: handle.inode,
        // virtiofsd adds the flag to every OPENDIR, and a file never opens with it.
        directory: guest_flags & libc::O_DIRECTORY as u32 != 0,
        guest_flags,
        host_flags,
    }
}

fn components(path: &[u8]) -> Vec<ByteBuf> {
    path.split(|&b| b == b'/').map(ByteBuf::from).collect()
}

fn mount((id, path): &(u64, Vec<u8>)) -> Result<Mount, DialectError> {
    Ok(Mount {
        id: mount_id(*id)?,
        path: match &path[..] {
            // The share's own mount.
            b"." => Vec::new(),
            path => components(path),
        },
    })
}

fn mount_id(id: u64) -> Result<u32, DialectError> {
    // `name_to_handle_at` gives an int.
    u32::try_from(id).map_err(|_| refused(format!("mount {id}: no kernel gives such an id")))
}

/// The stream's inodes by id, with how many others name each as parent.
struct Table<'s> {
    inodes: &'s [wire::Inode],
    children: HashMap<u64, u64>,
}

/// An inode's location once directories that the guest does not hold are left out.
enum Found {
    At(Location),
    /// Below a directory that virtiofsd had lost.
    Lost,
}

impl<'s> Table<'s> {
    fn new(inodes: &'s [wire::Inode]) -> Result<Self, DialectError> {
        let mut children = HashMap::new();
        for inode in inodes {
            if let wire::Location::Path { parent, .. } = inode.location {
                *children.entry(parent).or_insert(0) += 1;
            }
        }
        let table = Table { inodes, children };
        for inode in inodes {
            let children = table.children_of(inode.id);
            if inode.refcount < children.max(1) {
                return Err(refused(format!(
                    "inode {}: {} references, and {children} inodes in the stream name it as \
                     their parent; it would be gone before they are",
                    inode.id, inode.refcount
                )));
            }
        }
        Ok(table)
    }

    fn children_of(&self, id: u64) -> u64 {
        self.children.get(&id).copied().unwrap_or(0)
    }

    fn lookups(&self, inode: &wire::Inode) -> u64 {
        // Not below zero: `new` has seen to it.
        inode.refcount.saturating_sub(self.children_of(inode.id))
    }

    /// The record of `id` if the guest does not hold it: a directory that only what
    /// lies in it keeps.
    fn kept_by_children(&self, id: u64) -> Option<&'s wire::Inode> {
        let at = self.inodes.binary_search_by_key(&id, |i| i.id).ok()?;
        let inode = &self.inodes[at];
        (id != ROOT_ID && self.lookups(inode) == 0).then_some(inode)
    }

    fn inodes(&self, handles: &[Handle], limits: &Limits) -> Result<Vec<Inode>, DialectError> {
        let mut kinds: HashMap<u64, u32> = HashMap::new();
        for handle in handles {
            let kind = match handle.directory {
                true => libc::S_IFDIR,
                false => libc::S_IFREG,
            };
            kinds.insert(handle.inode, kind);
        }
        // Long chains of directories that nobody holds would be said once for each
        // inode below: no real state comes near this.
        let mut budget = 64 * self.inodes.len() as u64 + MAX_COMPONENTS as u64;
        budget = budget.min(limits.stream_bytes);
        let mut out = Vec::with_capacity(self.inodes.len());
        for inode in self.inodes {
            let lookups = self.lookups(inode);
            if inode.id != ROOT_ID && lookups == 0 {
                continue;
            }
            let location = match self.location(inode, &mut budget)? {
                Found::At(location) => location,
                Found::Lost => Location::Lost { errno: ESTALE },
            };
            if let Location::Path { from, .. } = &location {
                kinds.insert(*from, libc::S_IFDIR);
            }
            out.push(Inode {
                id: inode.id,
                lookups,
                kind: KIND_UNKNOWN,
                location,
            });
        }
        for inode in &mut out {
            inode.kind = match kinds.get(&inode.id) {
                // virtiofsd shares nothing but directories.
                _ if inode.id == ROOT_ID || self.children_of(inode.id) > 0 => libc::S_IFDIR,
                Some(kind) => *kind,
                None => KIND_UNKNOWN,
            };
        }
        Ok(out)
    }

    fn location(&self, inode: &wire::Inode, budget: &mut u64) -> Result<Found, DialectError> {
        let (mut parent, name) = match &inode.location {
            wire::Location::Root => return Ok(Found::At(Location::Root)),
            wire::Location::Invalid => return Ok(Found::Lost),
            wire::Location::FileHandle(handle) => {
                return Ok(Found::At(Location::Handle(FileHandle {
                    mount: mount_id(handle.mount)?,
                    kind: handle.kind,
                    bytes: ByteBuf::from(&handle.bytes[..]),
                })))
            }
            wire::Location::FullPath { path } => {
                return Ok(Found::At(below(ROOT_ID, components(path))))
            }
            wire::Location::Path { parent, name } => (*parent, name),
        };
        // From the end of the path to its start.
        let mut path = vec![ByteBuf::from(&name[..])];
        while let Some(above) = self.kept_by_children(parent) {
            *budget = budget.checked_sub(1).ok_or_else(|| {
                refused(format!(
                    "inode {}: its path has no end, or all paths together are longer than any \
                     guest's",
                    inode.id
                ))
            })?;
            match &above.location {
                wire::Location::Path { parent: p, name } => {
                    path.push(ByteBuf::from(&name[..]));
                    parent = *p;
                }
                wire::Location::FullPath { path: full } => {
                    let mut full = components(full);
                    full.extend(path.into_iter().rev());
                    return Ok(Found::At(below(ROOT_ID, full)));
                }
                wire::Location::Invalid => return Ok(Found::Lost),
                wire::Location::Root | wire::Location::FileHandle(_) => {
                    return Err(refused(format!(
                        "inode {}: the guest does not hold its parent {parent}, and that has no \
                         path",
                        inode.id
                    )))
                }
            }
        }
        path.reverse();
        Ok(Found::At(below(parent, path)))
    }
}

fn below(from: u64, mut components: Vec<ByteBuf>) -> Location {
    match components.len() {
        1 => Location::Child {
            parent: from,
            name: components.remove(0),
        },
        _ => Location::Path { from, components },
    }
}
