//! The model: what there is, and what of it the guest knows.

use std::collections::{BTreeMap, BTreeSet};

/// An object of the model.
pub(super) type Id = usize;

/// The share's root.
pub(super) const ROOT: Id = 0;

/// What an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    File(Vec<u8>),
    Dir(BTreeMap<Vec<u8>, Id>),
    Symlink(Vec<u8>),
}

/// An object, linked or not.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) what: What,
    /// Names that the guest has had of it, as directory and name; others that it has are
    /// known to nobody but the host.
    pub(super) known: BTreeSet<(Id, Vec<u8>)>,
    /// The host removed its last name while nothing of it was open: by file handle it may
    /// have gone with that.
    pub(super) weak: bool,
    /// Without a name so far, and may be given one.
    pub(super) linkable: bool,
}

/// What there is.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) objects: Vec<Object>,
}

impl Model {
    pub(super) fn new() -> Model {
        let mut model = Model {
            objects: Vec::new(),
        };
        model.add(What::Dir(BTreeMap::new()));
        model
    }

    pub(super) fn add(&mut self, what: What) -> Id {
        self.objects.push(Object {
            what,
            known: BTreeSet::new(),
            weak: false,
            linkable: false,
        });
        self.objects.len() - 1
    }

    pub(super) fn children(&self, dir: Id) -> &BTreeMap<Vec<u8>, Id> {
        match &self.objects[dir].what {
            What::Dir(children) => children,
            other => panic!("{other:?} has no children"),
        }
    }

    pub(super) fn is_dir(&self, id: Id) -> bool {
        matches!(self.objects[id].what, What::Dir(_))
    }

    pub(super) fn child(&self, dir: Id, name: &[u8]) -> Option<Id> {
        self.children(dir).get(name).copied()
    }

    fn children_mut(&mut self, dir: Id) -> &mut BTreeMap<Vec<u8>, Id> {
        match &mut self.objects[dir].what {
            What::Dir(children) => children,
            other => panic!("{other:?} has no children"),
        }
    }

    pub(super) fn put(&mut self, dir: Id, name: &[u8], id: Id) {
        self.children_mut(dir).insert(name.to_vec(), id);
        self.objects[id].linkable = false;
    }

    pub(super) fn take(&mut self, dir: Id, name: &[u8]) {
        if let Some(id) = self.children_mut(dir).remove(name) {
            self.objects[id].known.remove(&(dir, name.to_vec()));
        }
    }

    /// The guest has seen, or made, that name.
    pub(super) fn knows(&mut self, dir: Id, name: &[u8], id: Id) {
        self.objects[id].known.insert((dir, name.to_vec()));
    }

    /// Every name of an object.
    pub(super) fn names(&self, id: Id) -> Vec<(Id, Vec<u8>)> {
        let dirs = (0..self.objects.len()).filter(|dir| self.is_dir(*dir));
        dirs.flat_map(|dir| {
            let names = self.children(dir).iter();
            names
                .filter(|(_, child)| **child == id)
                .map(move |(name, _)| (dir, name.clone()))
                .collect::<Vec<_>>()
        })
        .collect()
    }

    /// Whether a directory, or an object at all, has a name.
    pub(super) fn is_linked(&self, id: Id) -> bool {
        id == ROOT || !self.names(id).is_empty()
    }

    /// The components from the root to a directory that is linked.
    pub(super) fn path(&self, dir: Id) -> Vec<Vec<u8>> {
        let mut path = Vec::new();
        let mut at = dir;
        while at != ROOT {
            let (parent, name) = self.names(at).remove(0);
            path.push(name);
            at = parent;
        }
        path.reverse();
        path
    }

    /// Whether `above` is `below`, or a directory above it.
    pub(super) fn contains(&self, above: Id, below: Id) -> bool {
        let mut at = below;
        loop {
            if at == above {
                return true;
            }
            match self.names(at).first() {
                Some((parent, _)) => at = *parent,
                None => return false,
            }
        }
    }

    /// Everything that has a name, with its first one; directories before what is in them.
    pub(super) fn linked(&self) -> Vec<(Id, Vec<u8>, Id)> {
        let mut all = Vec::new();
        let mut dirs = vec![ROOT];
        while let Some(dir) = dirs.pop() {
            for (name, child) in self.children(dir) {
                all.push((dir, name.clone(), *child));
                if self.is_dir(*child) {
                    dirs.push(*child);
                }
            }
        }
        all
    }

    /// Whether renaming `from` to where `there` is comes about, by the kernel's rules.
    pub(super) fn can_rename(&self, from: Id, to_dir: Id, there: Option<Id>) -> bool {
        if !self.is_linked(to_dir) || self.is_dir(from) && self.contains(from, to_dir) {
            return false;
        }
        match there {
            None => true,
            Some(there) if there == from => true,
            Some(there) => match (self.is_dir(from), self.is_dir(there)) {
                (true, true) => self.children(there).is_empty(),
                (false, false) => true,
                _ => false,
            },
        }
    }
}
