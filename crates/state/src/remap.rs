//! The same guest on a share where a directory has another name or place.

use std::collections::HashMap;
use std::fmt;

use crate::model::{FsState, Inode, Location};
use crate::paths::{parse, Components, Paths};
use crate::validate::ROOT_ID;

/// `OLD=NEW`: where a part of the share lies, from its root, at the source and at the
/// destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remap {
    text: String,
    old: Components,
    new: Components,
}

impl fmt::Display for Remap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::str::FromStr for Remap {
    type Err = String;

    /// Two paths from the share's root, with `=` between; bytes are spelled as `\xNN`,
    /// a backslash as `\\`.
    fn from_str(text: &str) -> Result<Remap, String> {
        let (old, new) = text
            .split_once('=')
            .ok_or("a mapping is OLD=NEW, two paths from the share's root")?;
        let (old, new) = (parse(old)?, parse(new)?);
        if old.is_empty() {
            return Err("the share's root cannot move; say its directories".to_owned());
        }
        if new.starts_with(&old) {
            return Err("the new place lies within the old one".to_owned());
        }
        Ok(Remap {
            text: text.to_owned(),
            old,
            new,
        })
    }
}

impl Remap {
    /// Moves what lies at and below the old path to the new one; answers how many records
    /// say another place now, 0 where nothing lies there. What lies below an inode that
    /// moves goes with it.
    ///
    /// # Errors
    /// In words: something lies at the new place, or the state says no paths. The state
    /// is as it was.
    pub fn apply(&self, fs: &mut FsState) -> Result<usize, String> {
        remap(fs, &self.old, &self.new)
    }
}

/// Where an inode lies, seen from a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// So many components of the path lead to it.
    On(usize),
    /// Below the path's end.
    Below,
    /// Elsewhere, or nowhere that is known.
    Off,
}

impl Class {
    fn then(self, path: &Components, component: &[u8]) -> Class {
        match self {
            Class::On(n) if n == path.len() => Class::Below,
            Class::On(n) if path[n] == component => Class::On(n + 1),
            Class::Below => Class::Below,
            _ => Class::Off,
        }
    }

    fn is_at_or_below(self, path: &Components) -> bool {
        self == Class::Below || self == Class::On(path.len())
    }
}

/// The class of each inode, in their order. Each is looked at once.
fn classes(fs: &FsState, path: &Components) -> Vec<Class> {
    let inodes = &fs.inodes;
    let position = |id: u64| inodes.binary_search_by_key(&id, |i| i.id).ok();
    let mut classes: Vec<Option<Class>> = vec![None; inodes.len()];
    for start in 0..inodes.len() {
        // Up to what is known, and down again; a valid state has no cycles.
        let mut way = vec![start];
        while let Some(&at) = way.last() {
            let above = match &inodes[at].location {
                Location::Child { parent, .. } => Some(*parent),
                Location::Path { from, .. } => Some(*from),
                _ => None,
            };
            let above = above.and_then(position);
            let class = match (&inodes[at].location, above.map(|above| classes[above])) {
                (_, Some(None)) => {
                    way.extend(above);
                    continue;
                }
                (Location::Root, _) => Class::On(0),
                (Location::Child { name, .. }, Some(Some(above))) => above.then(path, name),
                (Location::Path { components, .. }, Some(Some(above))) => components
                    .iter()
                    .fold(above, |class, component| class.then(path, component)),
                _ => Class::Off,
            };
            classes[at] = Some(class);
            way.pop();
        }
    }
    classes
        .into_iter()
        .map(|class| class.unwrap_or(Class::Off))
        .collect()
}

fn remap(fs: &mut FsState, old: &Components, new: &Components) -> Result<usize, String> {
    let by_handle = |i: &&Inode| matches!(i.location, Location::Handle(_));
    if let Some(inode) = fs.inodes.iter().find(by_handle) {
        return Err(format!(
            "inode {} is known by its file handle, which no path changes; only states of \
             --migration-mode find-paths have paths",
            inode.id
        ));
    }
    let (at_old, at_new) = (classes(fs, old), classes(fs, new));
    let moves = |at: usize| at_old[at].is_at_or_below(old);
    let staying = Staying::new(fs, new, &at_new, &moves);
    let paths = Paths::new(fs);
    let mut changed = Vec::new();
    for (at, inode) in fs.inodes.iter().enumerate().filter(|(at, _)| moves(*at)) {
        let above = match &inode.location {
            Location::Child { parent, .. } => parent,
            Location::Path { from, .. } => from,
            _ => continue,
        };
        let above = fs.inodes.binary_search_by_key(above, |i| i.id);
        let goes_along = above.is_ok_and(moves);
        if goes_along && staying.beneath.is_empty() {
            continue;
        }
        let Some(path) = paths.of(inode.id) else {
            continue;
        };
        let target: Components = [&new[..], &path[old.len()..]].concat();
        if target.is_empty() {
            return Err(format!("inode {} would become the share's root", inode.id));
        }
        if let Some(other) = staying.at(new, &target) {
            return Err(format!(
                "inode {} would move to where inode {other} is",
                inode.id
            ));
        }
        if !goes_along {
            changed.push((at, staying.below(new, target)));
        }
    }
    let mut count = changed.len();
    for (at, location) in changed {
        fs.inodes[at].location = location;
    }
    for mount in &mut fs.mounts {
        if mount.path.starts_with(old) {
            mount.path.splice(..old.len(), new.iter().cloned());
            count += 1;
        }
    }
    Ok(count)
}

/// What stays where it is, and lies on the way to the new place, or below it.
struct Staying {
    /// By number of components, as far as the new place.
    way: HashMap<usize, u64>,
    beneath: HashMap<Components, u64>,
}

impl Staying {
    fn new(
        fs: &FsState,
        new: &Components,
        at_new: &[Class],
        moves: &impl Fn(usize) -> bool,
    ) -> Staying {
        let paths = Paths::new(fs);
        let (mut way, mut beneath) = (HashMap::new(), HashMap::new());
        for (at, inode) in fs.inodes.iter().enumerate().filter(|(at, _)| !moves(*at)) {
            match at_new[at] {
                Class::On(n) => {
                    way.insert(n, inode.id);
                }
                Class::Below => {
                    if let Some(path) = paths.of(inode.id) {
                        beneath.insert(path, inode.id);
                    }
                }
                Class::Off => {}
            }
        }
        if let Some(id) = way.get(&new.len()) {
            beneath.insert(new.clone(), *id);
        }
        Staying { way, beneath }
    }

    /// What stays at `target`, which is at or below the new place.
    fn at(&self, new: &Components, target: &Components) -> Option<u64> {
        match target.len() == new.len() {
            true => self.way.get(&new.len()).copied(),
            false => self.beneath.get(target).copied(),
        }
    }

    /// A location for `path` from the deepest directory that the guest holds.
    fn below(&self, new: &Components, path: Components) -> Location {
        let known = |n: usize| match n <= new.len() {
            true => self.way.get(&n).copied(),
            false => self.beneath.get(&path[..n]).copied(),
        };
        let (length, from) = (0..path.len())
            .rev()
            .find_map(|n| Some((n, known(n)?)))
            // The root is always held.
            .unwrap_or((0, ROOT_ID));
        let mut components = path[length..].to_vec();
        match components.len() {
            1 => Location::Child {
                parent: from,
                name: components.remove(0),
            },
            _ => Location::Path { from, components },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;
    use crate::model::State;
    use crate::testing::{large, sample};
    use crate::validate::validate;

    fn spelled(path: &str) -> Components {
        parse(path).unwrap()
    }

    fn remap(fs: &mut FsState, mapping: &str) -> Result<usize, String> {
        mapping.parse::<Remap>()?.apply(fs)
    }

    fn by_paths() -> State {
        let mut state = sample();
        state
            .fs
            .inodes
            .retain(|i| !matches!(i.location, Location::Handle(_)));
        state
    }

    #[test]
    fn what_lies_below_goes_along() {
        let mut state = by_paths();
        assert_eq!(remap(&mut state.fs, "sub=new/place").unwrap(), 1);
        validate(&state, &Limits::default()).unwrap();
        let paths = Paths::new(&state.fs);
        assert_eq!(paths.of(2), Some(spelled("new/place")));
        assert_eq!(paths.of(3), Some(spelled("new/place/caf\\xe9")));
        assert_eq!(paths.of(5), Some(spelled("new/place/x/link")));
        assert_eq!(remap(&mut state.fs, "/new/place/=sub").unwrap(), 1);
        assert_eq!(state, by_paths());
    }

    #[test]
    fn directories_that_the_guest_does_not_hold_can_move() {
        let mut state = by_paths();
        assert_eq!(remap(&mut state.fs, "sub/x=y").unwrap(), 1);
        let expected = Location::Path {
            from: 1,
            components: spelled("y/link"),
        };
        assert_eq!(state.fs.inodes[3].location, expected);
        assert_eq!(remap(&mut state.fs, "y=sub").unwrap(), 1);
        let expected = Location::Child {
            parent: 2,
            name: spelled("link").remove(0),
        };
        assert_eq!(state.fs.inodes[3].location, expected);
        assert_eq!(remap(&mut state.fs, "srv/data=elsewhere").unwrap(), 1);
        assert_eq!(state.fs.mounts[1].path, spelled("elsewhere"));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let state = by_paths();
        assert_eq!(remap(&mut state.fs.clone(), "nothing=x"), Ok(0));
        for (mapping, text) in [
            ("sub", "a mapping is OLD=NEW"),
            ("=x", "the share's root cannot move"),
            ("sub=", "inode 2 would become the share's root"),
            ("sub=sub/more", "the new place lies within the old one"),
            ("a=b/../c", "it is a dot entry"),
            (
                "sub/x/link=sub/caf\\xe9",
                "inode 5 would move to where inode 3 is",
            ),
            ("sub=\\y", "write \\\\ for a backslash"),
            ("sub=\\xg0", "two hexadecimal digits"),
        ] {
            let mut fs = state.fs.clone();
            let error = remap(&mut fs, mapping).unwrap_err();
            assert!(error.contains(text), "{mapping}: {error}");
            assert_eq!(fs, state.fs);
        }
        let error = remap(&mut sample().fs, "sub=x").unwrap_err();
        assert!(
            error.contains("inode 7 is known by its file handle"),
            "{error}"
        );
    }

    #[test]
    fn a_large_state_takes_one_record() {
        let mut state = large(5000);
        assert_eq!(remap(&mut state.fs, "directory-2=a/b").unwrap(), 1);
        validate(&state, &Limits::default()).unwrap();
    }
}
