//! The names of one inode, in little memory: there are as many of these as inodes, and
//! nearly all have one name, which is short.

use super::names::Link;
use crate::types::NodeId;

/// Bytes that are kept without an allocation: a name of up to 16 in a directory with a
/// nodeid below 2^28.
const INLINE: usize = 22;

enum Bytes {
    Inline { len: u8, data: [u8; INLINE] },
    Heap(Box<[u8]>),
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Inline { len, data } => &data[..usize::from(*len)],
            Bytes::Heap(bytes) => bytes,
        }
    }

    fn new(bytes: &[u8]) -> Bytes {
        let mut data = [0; INLINE];
        match data.get_mut(..bytes.len()) {
            Some(inline) => {
                inline.copy_from_slice(bytes);
                Bytes::Inline {
                    len: bytes.len() as u8,
                    data,
                }
            }
            None => Bytes::Heap(bytes.into()),
        }
    }
}

/// One name, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkRef<'a> {
    pub(super) parent: NodeId,
    pub(super) name: &'a [u8],
}

impl LinkRef<'_> {
    pub(super) fn is(&self, parent: NodeId, name: &[u8]) -> bool {
        self.parent == parent && self.name == name
    }

    pub(super) fn to_link(self) -> Link {
        Link {
            parent: self.parent,
            name: self.name.into(),
        }
    }

    /// As they stand in `Links`: the directory as a number of variable length, the
    /// name's length, the name.
    fn write(&self, out: &mut Vec<u8>) {
        let mut parent = self.parent.0;
        while parent >= 0x80 {
            out.push(parent as u8 | 0x80);
            parent >>= 7;
        }
        out.push(parent as u8);
        // A component has 1 to 255 bytes.
        out.push(self.name.len() as u8);
        out.extend_from_slice(self.name);
    }
}

struct Iter<'a>(&'a [u8]);

impl<'a> Iterator for Iter<'a> {
    type Item = LinkRef<'a>;

    fn next(&mut self) -> Option<LinkRef<'a>> {
        let mut parent = 0;
        let mut shift = 0;
        loop {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            parent |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
            shift += 7;
        }
        let (&len, rest) = self.0.split_first()?;
        let (name, rest) = rest.split_at_checked(usize::from(len))?;
        self.0 = rest;
        Some(LinkRef {
            parent: NodeId(parent),
            name,
        })
    }
}

/// An inode's names, the primary one first, and how many names lie in it.
pub(super) struct Links {
    names: Bytes,
    /// Known names that lie in this directory.
    pub(super) children: u32,
    /// Out of the tables: takes no more names.
    pub(super) dead: bool,
}

impl Default for Links {
    fn default() -> Links {
        Links {
            names: Bytes::new(&[]),
            children: 0,
            dead: false,
        }
    }
}

impl Links {
    /// All of them, the primary one first, then the one that was before it.
    pub(super) fn iter(&self) -> impl Iterator<Item = LinkRef<'_>> {
        Iter(self.names.as_slice())
    }

    /// The one under which the inode was last seen.
    pub(super) fn primary(&self) -> Option<LinkRef<'_>> {
        self.iter().next()
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.names.as_slice().is_empty()
    }

    /// Whether there are others beside the primary one.
    pub(super) fn has_more(&self) -> bool {
        self.iter().nth(1).is_some()
    }

    pub(super) fn has(&self, parent: NodeId, name: &[u8]) -> bool {
        self.iter().any(|link| link.is(parent, name))
    }

    /// Makes a name that is not among them the primary one.
    pub(super) fn put_first(&mut self, parent: NodeId, name: &[u8]) {
        let old = self.names.as_slice();
        let mut all = Vec::with_capacity(old.len() + name.len() + 11);
        LinkRef { parent, name }.write(&mut all);
        all.extend_from_slice(old);
        self.names = Bytes::new(&all);
    }

    /// Removes a name; the one that was primary before is so again in its place.
    pub(super) fn take(&mut self, parent: NodeId, name: &[u8]) -> bool {
        if !self.has(parent, name) {
            return false;
        }
        let mut left = Vec::new();
        for link in self.iter().filter(|link| !link.is(parent, name)) {
            link.write(&mut left);
        }
        self.names = Bytes::new(&left);
        true
    }

    /// Takes all but the `most` first ones.
    pub(super) fn take_from(&mut self, most: usize) -> Vec<Link> {
        let taken: Vec<Link> = self.iter().skip(most).map(LinkRef::to_link).collect();
        if !taken.is_empty() {
            let mut left = Vec::new();
            for link in self.iter().take(most) {
                link.write(&mut left);
            }
            self.names = Bytes::new(&left);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_short_name_takes_four_words_with_its_lock() {
        assert_eq!(std::mem::size_of::<Bytes>(), 24);
        assert!(std::mem::size_of::<std::sync::Mutex<Links>>() <= 40);
    }

    proptest! {
        #[test]
        fn names_are_a_list_without_repetitions(
            steps in proptest::collection::vec(
                (0..4usize, prop_oneof![Just(1u64), Just(200), any::<u64>()], 0..6usize),
                0..40,
            ),
        ) {
            let texts: Vec<Vec<u8>> = [1, 2, 8, 17, 20, 255]
                .iter()
                .map(|len| vec![b'x'; *len])
                .collect();
            let mut links = Links::default();
            let mut model: Vec<(u64, usize)> = Vec::new();
            for (step, parent, text) in steps {
                let name = &texts[text];
                let there = model.contains(&(parent, text));
                prop_assert_eq!(links.has(NodeId(parent), name), there);
                match step {
                    0 | 1 if !there => {
                        links.put_first(NodeId(parent), name);
                        model.insert(0, (parent, text));
                    }
                    2 => {
                        prop_assert_eq!(links.take(NodeId(parent), name), there);
                        model.retain(|own| *own != (parent, text));
                    }
                    3 => {
                        let taken = links.take_from(text);
                        let at = text.min(model.len());
                        prop_assert_eq!(taken.len(), model.len() - at);
                        model.truncate(at);
                    }
                    _ => {}
                }
                let all: Vec<_> = links.iter().map(|l| (l.parent.0, l.name.to_vec())).collect();
                let want: Vec<_> = model.iter().map(|(p, t)| (*p, texts[*t].clone())).collect();
                prop_assert_eq!(all, want);
                prop_assert_eq!(links.is_empty(), model.is_empty());
                prop_assert_eq!(links.has_more(), model.len() > 1);
            }
        }
    }
}
