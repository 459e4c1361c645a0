//! What a guest sends behind the names of MKNOD, MKDIR, CREATE, SYMLINK and
//! TMPFILE: security context and supplementary groups.
//!
//! Since protocol 7.38 the header's `total_extlen` says how long the extensions
//! are; they end where the request does. Guests of 7.36 and 7.37 know the
//! security context alone, and send it, when negotiated, right behind the names
//! with no word of it in the header.

use std::ffi::CStr;
use std::mem::size_of;

use vm_memory::ByteValued;

use super::call::{split_c_str, Call, Scratch};
use crate::abi::*;
use crate::errno::{Errno, FsResult};
use crate::fs::{Context, SecurityContext};
use crate::types::Name;

/// The protocol minor that brought `total_extlen`.
const MINOR_EXT_HEADER: u32 = 38;
/// The longest extensions that are read, in bytes: the longest value that an
/// extended attribute can have, and room for the rest.
const MAX_EXTENSIONS: usize = 65536 + 4096;
/// Groups that a request may bring. Linux sends one: the parent directory's.
const MAX_GROUPS: usize = 32;

/// The end of a request that makes an object.
pub(super) struct CreateTail<'s> {
    /// The names, with whatever a guest of 7.36 sends behind them.
    pub(super) names: &'s [u8],
    announced: &'s [u8],
    legacy: bool,
}

impl<'s> CreateTail<'s> {
    /// Reads the rest of the body, with at most `max_names` bytes of names.
    pub(super) fn read(
        call: &mut Call<'_>,
        scratch: &'s mut Scratch,
        max_names: usize,
    ) -> FsResult<CreateTail<'s>> {
        let legacy = call.guest_minor < MINOR_EXT_HEADER && call.flags & FUSE_SECURITY_CTX != 0;
        let [low, high, ..] = call.header.padding.to_ne_bytes();
        let announced = if call.guest_minor < MINOR_EXT_HEADER {
            0
        } else {
            usize::from(u16::from_ne_bytes([low, high])) * 8
        };
        let names = call.body.left.checked_sub(announced).ok_or(Errno::EINVAL)?;
        if announced > MAX_EXTENSIONS {
            return Err(Errno::E2BIG);
        }
        // Some slack for guests whose structures are padded.
        let max_names = max_names + 8 + if legacy { MAX_EXTENSIONS } else { 0 };
        if names > max_names {
            return Err(Errno::ENAMETOOLONG);
        }
        let bytes = call.rest(scratch, max_names + announced, Errno::E2BIG)?;
        let (names, announced) = bytes.split_at(names);
        Ok(CreateTail {
            names,
            announced,
            legacy,
        })
    }

    /// Reads the rest of the body of a request with one name.
    pub(super) fn read_named(
        call: &mut Call<'_>,
        scratch: &'s mut Scratch,
    ) -> FsResult<(&'s CStr, Extensions<'s>)> {
        let tail = CreateTail::read(call, scratch, Scratch::INLINE)?;
        let (name, rest) = split_c_str(tail.names)?;
        let extensions = Extensions::parse(call, tail.extensions(rest))?;
        Ok((name, extensions))
    }

    /// The extensions' bytes; `behind` is what lies behind the last name.
    pub(super) fn extensions(&self, behind: &'s [u8]) -> &'s [u8] {
        if self.legacy {
            behind
        } else {
            self.announced
        }
    }
}

/// Parsed extensions.
#[derive(Default)]
pub(super) struct Extensions<'s> {
    groups: Option<([u32; MAX_GROUPS], usize)>,
    security_context: Option<SecurityContext<'s>>,
}

impl<'s> Extensions<'s> {
    /// Parses `bytes`. Extensions that were not negotiated, or are unknown, are
    /// skipped.
    pub(super) fn parse(call: &Call<'_>, mut bytes: &'s [u8]) -> FsResult<Extensions<'s>> {
        let mut parsed = Extensions::default();
        let (mut seen_groups, mut seen_context) = (false, false);
        while !bytes.is_empty() {
            let (header, _): (ExtHeader, _) = split_object(bytes)?;
            let (payload, rest) = bytes
                .split_at_checked(header.size as usize)
                .ok_or(Errno::EINVAL)?;
            let payload = payload.get(size_of::<ExtHeader>()..).ok_or(Errno::EINVAL)?;
            bytes = rest;
            if header.kind <= FUSE_MAX_NR_SECCTX && call.flags & FUSE_SECURITY_CTX != 0 {
                if std::mem::replace(&mut seen_context, true) {
                    return Err(Errno::EINVAL);
                }
                parsed.security_context = security_context(header.kind, payload)?;
            } else if header.kind == FUSE_EXT_GROUPS && call.flags & FUSE_CREATE_SUPP_GROUP != 0 {
                if std::mem::replace(&mut seen_groups, true) {
                    return Err(Errno::EINVAL);
                }
                parsed.groups = Some(groups(payload)?);
            }
        }
        Ok(parsed)
    }

    /// Who asks, with these extensions.
    pub(super) fn context<'c>(&'c self, call: &Call<'_>) -> Context<'c> {
        Context {
            supplementary_groups: self.groups.as_ref().map(|(groups, n)| &groups[..*n]),
            security_context: self.security_context,
            ..call.context()
        }
    }
}

/// `fuse_secctx_header`'s payload. A kernel with no label to give sends a count
/// of 0; none sends more than one.
fn security_context(count: u32, payload: &[u8]) -> FsResult<Option<SecurityContext<'_>>> {
    match count {
        0 => return Ok(None),
        1 => {}
        _ => return Err(Errno::EINVAL),
    }
    let (header, rest): (Secctx, _) = split_object(payload)?;
    let (name, rest) = split_c_str(rest)?;
    let value = rest.get(..header.size as usize).ok_or(Errno::EINVAL)?;
    // Labels of security modules only: this is no way to set just any attribute.
    let label = name.to_bytes().strip_prefix(b"security.");
    if label.is_none_or(|l| l.is_empty()) || name.count_bytes() > Name::MAX || value.is_empty() {
        return Err(Errno::EINVAL);
    }
    Ok(Some(SecurityContext { name, value }))
}

/// `fuse_supp_groups`.
fn groups(payload: &[u8]) -> FsResult<([u32; MAX_GROUPS], usize)> {
    let (header, mut rest): (SuppGroups, _) = split_object(payload)?;
    let count = header.nr_groups as usize;
    let mut groups = [0; MAX_GROUPS];
    for group in groups.get_mut(..count).ok_or(Errno::EINVAL)? {
        (*group, rest) = split_object(rest)?;
    }
    Ok((groups, count))
}

/// Takes a structure off the front of bytes that may be aligned to nothing.
fn split_object<T: ByteValued + Default>(bytes: &[u8]) -> FsResult<(T, &[u8])> {
    let (head, rest) = bytes
        .split_at_checked(size_of::<T>())
        .ok_or(Errno::EINVAL)?;
    let mut value = T::default();
    value.as_mut_slice().copy_from_slice(head);
    Ok((value, rest))
}
