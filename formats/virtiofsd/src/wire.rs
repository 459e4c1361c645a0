//! The records as they are in the stream, in the order of their fields.
//!
//! Structures are their fields one after the other, without names. Numbers are
//! varints, texts and sequences begin with their length, variants with their index,
//! options with 0 or 1 (postcard).

use std::io::Read;

use ferryfs_state::{DialectError, Limits};

use crate::input::Input;

/// Longest text: a path can have 4096 bytes; beyond twice that nothing is real.
const MAX_TEXT: u64 = 8192;
/// `MAX_HANDLE_SZ`, in bytes.
const MAX_HANDLE: u64 = 128;

/// Which of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// virtiofsd 1.11: no mounts, no file handles as locations.
    V1,
    /// virtiofsd 1.12 to 1.14: V1 and mounts.
    V2,
}

/// A whole stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stream {
    pub(crate) version: Version,
    pub(crate) inodes: Vec<Inode>,
    pub(crate) next_inode: u64,
    pub(crate) handles: Vec<Handle>,
    pub(crate) next_handle: u64,
    pub(crate) options: Options,
    /// Mount id to path from the share's root; none in V1.
    pub(crate) mounts: Vec<(u64, Vec<u8>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Inode {
    pub(crate) id: u64,
    /// The guest's lookups, and one for each inode that names this one as parent.
    pub(crate) refcount: u64,
    pub(crate) location: Location,
    /// Whether a file handle to compare with came along (verify-handles).
    pub(crate) verify: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Location {
    Root,
    Path { parent: u64, name: Vec<u8> },
    Invalid,
    FullPath { path: Vec<u8> },
    FileHandle(FileHandle),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileHandle {
    pub(crate) mount: u64,
    pub(crate) kind: i32,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handle {
    pub(crate) id: u64,
    pub(crate) inode: u64,
    pub(crate) flags: i32,
}

/// All that the stream says of FUSE_INIT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) writeback: bool,
    pub(crate) announce_submounts: bool,
    pub(crate) posix_acl: bool,
    pub(crate) sup_group_extension: bool,
}

impl Stream {
    pub(crate) fn read(input: &mut dyn Read, limits: &Limits) -> Result<Stream, DialectError> {
        let mut input = Input::new(input, limits.stream_bytes);
        let version = match input.number("the version")? {
            0 => Version::V1,
            1 => Version::V2,
            other => {
                let what = format!("version index {other} where 0 (V1) and 1 (V2) are known");
                return Err(input.complain(0, what));
            }
        };
        let inodes = sequence(&mut input, "the number of inodes", limits.inodes, inode)?;
        let next_inode = input.number("the next inode id")?;
        let handles = sequence(&mut input, "the number of handles", limits.handles, handle)?;
        let next_handle = input.number("the next handle id")?;
        let options = Options {
            writeback: input.flag("whether there is a writeback cache")?,
            announce_submounts: input.flag("whether submounts are announced")?,
            posix_acl: input.flag("whether there are POSIX ACLs")?,
            sup_group_extension: input.flag("whether supplementary groups are sent")?,
        };
        let mounts = match version {
            Version::V1 => Vec::new(),
            Version::V2 => sequence(&mut input, "the number of mounts", limits.mounts, |input| {
                Ok((
                    input.number("a mount's id")?,
                    input.text("a mount's path", MAX_TEXT)?,
                ))
            })?,
        };
        input.end()?;
        Ok(Stream {
            version,
            inodes,
            next_inode,
            handles,
            next_handle,
            options,
            mounts,
        })
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32 * self.inodes.len() + 64);
        out.push(match self.version {
            Version::V1 => 0,
            Version::V2 => 1,
        });
        put(&mut out, self.inodes.len() as u64);
        for inode in &self.inodes {
            put(&mut out, inode.id);
            put(&mut out, inode.refcount);
            put_location(&mut out, &inode.location);
            // Nothing to compare with is known here.
            out.push(0);
        }
        put(&mut out, self.next_inode);
        put(&mut out, self.handles.len() as u64);
        for handle in &self.handles {
            put(&mut out, handle.id);
            put(&mut out, handle.inode);
            out.push(0);
            put_signed(&mut out, handle.flags);
        }
        put(&mut out, self.next_handle);
        let Options {
            writeback,
            announce_submounts,
            posix_acl,
            sup_group_extension,
        } = self.options;
        for option in [
            writeback,
            announce_submounts,
            posix_acl,
            sup_group_extension,
        ] {
            out.push(option.into());
        }
        if self.version == Version::V2 {
            put(&mut out, self.mounts.len() as u64);
            for (id, path) in &self.mounts {
                put(&mut out, *id);
                put_bytes(&mut out, path);
            }
        }
        out
    }
}

fn sequence<T>(
    input: &mut Input<'_>,
    what: &str,
    limit: u64,
    mut item: impl FnMut(&mut Input<'_>) -> Result<T, DialectError>,
) -> Result<Vec<T>, DialectError> {
    let count = input.count(what, limit)?;
    // No memory for what has not come.
    let mut items = Vec::with_capacity(count.min(4096) as usize);
    for _ in 0..count {
        items.push(item(input)?);
    }
    Ok(items)
}

fn inode(input: &mut Input<'_>) -> Result<Inode, DialectError> {
    Ok(Inode {
        id: input.number("an inode's id")?,
        refcount: input.number("an inode's reference count")?,
        location: location(input)?,
        verify: match input.flag("whether a file handle to compare with follows")? {
            true => file_handle(input).map(|_| true)?,
            false => false,
        },
    })
}

fn location(input: &mut Input<'_>) -> Result<Location, DialectError> {
    let start = input.offset();
    Ok(match input.number("a location")? {
        0 => Location::Root,
        1 => Location::Path {
            parent: input.number("a parent's id")?,
            name: input.text("a name", MAX_TEXT)?,
        },
        2 => Location::Invalid,
        3 => Location::FullPath {
            path: input.text("a path", MAX_TEXT)?,
        },
        4 => Location::FileHandle(file_handle(input)?),
        other => {
            let what = format!("location index {other} where 0 to 4 are known");
            return Err(input.complain(start, what));
        }
    })
}

fn file_handle(input: &mut Input<'_>) -> Result<FileHandle, DialectError> {
    Ok(FileHandle {
        mount: input.number("a file handle's mount id")?,
        kind: input.signed("a file handle's type")?,
        bytes: input.bytes("a file handle", MAX_HANDLE)?,
    })
}

fn handle(input: &mut Input<'_>) -> Result<Handle, DialectError> {
    let id = input.number("a handle's id")?;
    let inode = input.number("a handle's inode id")?;
    let start = input.offset();
    match input.number("a handle's source")? {
        0 => Ok(Handle {
            id,
            inode,
            flags: input.signed("a handle's flags")?,
        }),
        other => {
            let what = format!("handle source index {other} where 0 is known");
            Err(input.complain(start, what))
        }
    }
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_signed(out: &mut Vec<u8>, value: i32) {
    put(out, ((value << 1) ^ (value >> 31)) as u32 as u64);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_location(out: &mut Vec<u8>, location: &Location) {
    match location {
        Location::Root => out.push(0),
        Location::Path { parent, name } => {
            out.push(1);
            put(out, *parent);
            put_bytes(out, name);
        }
        Location::Invalid => out.push(2),
        Location::FullPath { path } => {
            out.push(3);
            put_bytes(out, path);
        }
        Location::FileHandle(handle) => {
            out.push(4);
            put(out, handle.mount);
            put_signed(out, handle.kind);
            put_bytes(out, &handle.bytes);
        }
    }
}
