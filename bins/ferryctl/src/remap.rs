//! `ferryctl state remap`: the same guest on a share where a directory has another
//! name or place.

use std::collections::HashMap;

use ferryfs_state::{FsState, Inode, Location};

use crate::paths::{parse, Components, Paths};

/// Moves what lies at and below the path before `=` in `mapping` to the path behind
/// it; answers how many records say another place now. What lies below an inode that
/// moves goes with it.
///
/// # Errors
/// In words: nothing lies there, something lies at the new place, or the state says
/// no paths.
pub fn remap(fs: &mut FsState, mapping: &str) -> Result<usize, String> {
    let (old, new) = mapping
        .split_once('=')
        .ok_or("a mapping is OLD=NEW, two paths from the share's root")?;
    let (old, new) = (parse(old)?, parse(new)?);
    if old.is_empty() {
        return Err("the share's root cannot move; say its directories".to_owned());
    }
    if new.starts_with(&old) {
        return Err("the new place lies within the old one".to_owned());
    }
    let by_handle = |i: &&Inode| matches!(i.location, Location::Handle(_));
    if let Some(inode) = fs.inodes.iter().find(by_handle) {
        return Err(format!(
            "inode {} is known by its file handle, which no path changes; only states of \
             --migration-mode find-paths have paths",
            inode.id
        ));
    }
    let paths = Paths::new(fs);
    let all: HashMap<u64, Components> = fs
        .inodes
        .iter()
        .filter_map(|i| Some((i.id, paths.of(i.id)?)))
        .collect();
    let moves = |id: &u64| all.get(id).is_some_and(|p| p.starts_with(&old));
    // What stays, by path: directories that new places are said from.
    let staying: HashMap<&[_], u64> = all
        .iter()
        .filter(|(id, _)| !moves(id))
        .map(|(id, path)| (&path[..], *id))
        .collect();
    let mut changed = Vec::new();
    for inode in fs.inodes.iter().filter(|i| moves(&i.id)) {
        let target: Components = [&new[..], &all[&inode.id][old.len()..]].concat();
        if target.is_empty() {
            return Err(format!("inode {} would become the share's root", inode.id));
        }
        if let Some(other) = staying.get(&target[..]) {
            return Err(format!(
                "inode {} would move to where inode {other} is",
                inode.id
            ));
        }
        let parent = match &inode.location {
            Location::Child { parent, .. } => parent,
            Location::Path { from, .. } => from,
            _ => continue,
        };
        if !moves(parent) {
            changed.push((inode.id, below(&staying, target)));
        }
    }
    let mut count = changed.len();
    let mut changed: HashMap<u64, Location> = changed.into_iter().collect();
    for inode in &mut fs.inodes {
        if let Some(location) = changed.remove(&inode.id) {
            inode.location = location;
        }
    }
    for mount in &mut fs.mounts {
        if mount.path.starts_with(&old) {
            mount.path.splice(..old.len(), new.iter().cloned());
            count += 1;
        }
    }
    match count {
        0 => Err("nothing in the state lies at or below the old place".to_owned()),
        n => Ok(n),
    }
}

/// A location for `path` from the deepest directory that the guest holds.
fn below(staying: &HashMap<&[serde_bytes::ByteBuf], u64>, path: Components) -> Location {
    let (length, from) = (0..path.len())
        .rev()
        .find_map(|n| Some((n, *staying.get(&path[..n])?)))
        // The root is always held.
        .unwrap_or((0, ferryfs_state::validate::ROOT_ID));
    let mut components = path[length..].to_vec();
    match components.len() {
        1 => Location::Child {
            parent: from,
            name: components.remove(0),
        },
        _ => Location::Path { from, components },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferryfs_state::testing::{large, sample};
    use ferryfs_state::validate::validate;
    use ferryfs_state::Limits;

    fn spelled(path: &str) -> Components {
        parse(path).unwrap()
    }

    fn by_paths() -> ferryfs_state::State {
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
        for (mapping, text) in [
            ("sub", "a mapping is OLD=NEW"),
            ("=x", "the share's root cannot move"),
            ("sub=", "inode 2 would become the share's root"),
            ("sub=sub/more", "the new place lies within the old one"),
            ("nothing=x", "nothing in the state lies at or below"),
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
