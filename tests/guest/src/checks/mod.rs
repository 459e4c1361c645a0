//! What the guest does before it crosses and looks at afterwards, each check in
//! a directory of its own in the share.

mod append_create;
mod copied;
mod cwd;
mod features;
mod files;
pub mod groups;
mod half_dir;
mod held;
mod locks;
mod long_path;
mod made_at;
mod many_open;
mod mapping;
mod meddled;
mod mode_zero;
mod names;
mod program;
mod renames;
mod shell;
mod specials;
mod submount;
mod too_much;
mod unlinked;
mod writer;
mod xattrs;

use std::path::PathBuf;

use ferry_guest::{Expectation, MOUNT};

use crate::sys::{At, Result};

/// A check between its preparation and its end.
pub trait Live {
    /// Looks at everything, and goes on working with it. Called after each
    /// crossing, and after each one that failed.
    fn verify(&mut self) -> Result<()>;

    /// Ends the work; says what must now be in the share.
    fn finish(self: Box<Self>) -> Result<Vec<Expectation>>;
}

type Prepare = fn() -> Result<Box<dyn Live>>;

/// Checks by name.
pub type Set = &'static [(&'static str, Prepare)];

/// What any share can do. The writers come last, so that as little as possible stands
/// between their start and the crossing.
const CORE: Set = &[
    ("open-files", files::prepare),
    ("append-create", append_create::prepare),
    ("cwd", cwd::prepare),
    ("half-dir", half_dir::prepare),
    ("mmap", mapping::prepare),
    ("many-open", many_open::prepare),
    ("program", program::prepare),
    ("shell", shell::prepare),
    ("names", names::prepare),
    ("long-path", long_path::prepare),
    ("specials", specials::prepare),
    ("mode-zero", mode_zero::prepare),
    ("submount", submount::prepare),
    ("xattr", xattrs::prepare),
    ("made-at", made_at::prepare),
    ("locks", locks::prepare),
    ("unlinked", unlinked::prepare),
    ("groups", groups::prepare),
    ("renames", renames::prepare),
    ("writer", writer::prepare),
];

/// What a share can do whose daemon is told to, on a host that can.
const FEATURES: Set = &[
    ("xattr", xattrs::prepare),
    ("acl", features::acl::prepare),
    ("label", features::label::prepare),
    ("tmpfile", features::tmpfile::prepare),
    ("tmpfile-held", features::tmpfile::prepare_nameless),
    ("sparse", features::sparse::prepare),
    ("mounts", features::mounts::prepare),
    ("no-space", features::full::prepare_space),
    ("quota", features::full::prepare_quota),
    ("clones", features::clones::prepare),
    ("synced", features::synced::prepare),
];

/// With other users and groups on the host.
const IDS: Set = &[("ids", features::ids::prepare)];

/// With a daemon that may have few descriptors.
const DESCRIPTORS: Set = &[("descriptors", features::descriptors::prepare)];

/// What others on the host have a hand in.
const MEDDLED: Set = &[
    ("meddled", meddled::prepare),
    ("unlinked", unlinked::prepare),
    ("cwd", cwd::prepare),
];

/// With more that has no name than may cross.
const TOO_MUCH: Set = &[
    ("too-much", too_much::prepare),
    ("unlinked", unlinked::prepare),
    ("open-files", files::prepare),
];

/// What there is to see in a copy of the share, whose files have other numbers.
const COPIED: Set = &[
    ("copied", copied::prepare),
    ("shell", shell::prepare),
    ("xattr", xattrs::prepare),
    ("locks", locks::prepare),
    ("unlinked", unlinked::prepare),
];

/// Which checks belong together.
pub const SETS: [(&str, Set); 7] = [
    ("core", CORE),
    ("features", FEATURES),
    ("ids", IDS),
    ("descriptors", DESCRIPTORS),
    ("meddled", MEDDLED),
    ("too-much", TOO_MUCH),
    ("copied", COPIED),
];

/// The check of this name.
pub fn find(name: &str) -> Option<&'static (&'static str, Prepare)> {
    let all = SETS.iter().flat_map(|(_, set)| set.iter());
    all.into_iter().find(|(n, _)| *n == name)
}

/// Makes the directory of check `name`; answers its path in the guest.
fn own_dir(name: &str) -> Result<PathBuf> {
    let dir = PathBuf::from(MOUNT).join(name);
    std::fs::create_dir(&dir).at(format_args!("mkdir {}", dir.display()))?;
    Ok(dir)
}

/// `path` relative to the share's root.
fn in_share(path: &std::path::Path) -> PathBuf {
    path.strip_prefix(MOUNT).unwrap_or(path).to_owned()
}
