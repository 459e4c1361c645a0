//! Paths of inodes, as far as a state says them.

use std::collections::HashMap;

use serde_bytes::ByteBuf;

use crate::model::{FsState, Inode, Location};
use crate::validate::check_name;

/// A path from the share's root.
pub type Components = Vec<ByteBuf>;

/// The path in `text`: components between slashes, in the spelling of `show` (`\xNN`
/// for a byte, `\\` for a backslash).
///
/// # Errors
/// In words.
pub fn parse(text: &str) -> Result<Components, String> {
    let text = text.trim_matches('/');
    if text.is_empty() {
        return Ok(Vec::new());
    }
    text.split('/').map(component).collect()
}

fn component(text: &str) -> Result<ByteBuf, String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, more)) = rest.split_first() {
        rest = match (first, more) {
            (b'\\', [b'\\', more @ ..]) => {
                bytes.push(b'\\');
                more
            }
            (b'\\', [b'x', a, b, more @ ..]) => {
                let digits = [*a, *b];
                let value = std::str::from_utf8(&digits)
                    .ok()
                    .and_then(|d| u8::from_str_radix(d, 16).ok())
                    .ok_or_else(|| format!("\"{text}\": \\x needs two hexadecimal digits"))?;
                bytes.push(value);
                more
            }
            (b'\\', _) => return Err(format!("\"{text}\": write \\\\ for a backslash")),
            (other, more) => {
                bytes.push(other);
                more
            }
        };
    }
    check_name(&bytes).map_err(|e| e.to_string())?;
    Ok(ByteBuf::from(bytes))
}

/// Finds paths of a state's inodes.
#[derive(Debug)]
pub struct Paths<'s> {
    by_id: HashMap<u64, &'s Inode>,
}

impl<'s> Paths<'s> {
    /// Of a valid state.
    pub fn new(fs: &'s FsState) -> Self {
        Paths {
            by_id: fs.inodes.iter().map(|i| (i.id, i)).collect(),
        }
    }

    /// The path of inode `id`; `None` where the state does not say one: it is, or
    /// lies below, an inode by file handle or a lost one.
    pub fn of(&self, id: u64) -> Option<Components> {
        let mut path = Vec::new();
        let mut at = self.by_id.get(&id)?;
        // From the end to the start; a valid state has no cycles.
        loop {
            let parent = match &at.location {
                Location::Root => {
                    path.reverse();
                    return Some(path);
                }
                Location::Child { parent, name } => {
                    path.push(name.clone());
                    parent
                }
                Location::Path { from, components } => {
                    path.extend(components.iter().rev().cloned());
                    from
                }
                Location::Handle(_) | Location::Lost { .. } => return None,
            };
            at = self.by_id.get(parent)?;
        }
    }
}
