//! What the host puts into the share before the guest boots.
//!
//! Thousands of files are made by the host because it does so in milliseconds;
//! a guest under emulation takes seconds.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Directory below the share's root that holds everything of the fixture.
pub const DIR: &str = "fixture";
/// Entries of the directory that is half read when the guest crosses.
pub const ENTRIES: usize = 3_000;
/// Files that are open when the guest crosses.
pub const OPEN_FILES: usize = 2_000;
/// Directory on which the host mounts another file system, where it may.
pub const SUBMOUNT: &str = "fixture/submount";
/// Directory for as many files as a run is to count.
pub const CENSUS: &str = "census";
/// File whose parts two guests lock.
pub const CONTESTED: &str = "fixture/contested";
/// File with a number that two guests add to, under a lock of it.
pub const CONTESTED_COUNT: &str = "fixture/contested-count";

/// The number as it stands in the file: always of the same length.
pub fn contested_number(number: u64) -> String {
    format!("{number:020}\n")
}

/// What may cross of files without a name, in bytes, where that is little.
pub const GHOST_LIMIT: usize = 128 << 10;
/// A directory of a share,
pub const LIES_HERE: &str = "lies-here";
/// and where it is in a copy of that share.
pub const LIES_THERE: &str = "lies-there";

/// Directory in which the host mounts what the checks of features need.
pub const PLACES: &str = "places";
/// A small file system in memory. Its name has to be taken literally.
pub const SMALL: &str = "places/a small\tdisk\\040";
/// Another one, mounted in that one.
pub const NESTED: &str = "places/a small\tdisk\\040/nested";
/// Bytes of either.
pub const SMALL_SIZE: u64 = 1 << 20;
/// A directory of the share itself, mounted once more.
pub const BOUND: &str = "places/bound";
/// And what is mounted there.
pub const BOUND_FROM: &str = "places/bound-from";
/// A file system whose files can have their data in common (btrfs).
pub const CLONING: &str = "places/cloning";
/// The image of its disk, beside the share.
pub const CLONING_IMAGE: &str = "../btrfs.image";
/// A subvolume of it that holds so many bytes at most.
pub const LIMITED: &str = "places/cloning/limited";
/// Bytes that it may hold.
pub const QUOTA: u64 = 4 << 20;
/// Directory for translated ids, with a file of two of them and one of the host's
/// root in it. In the guest the directory is root's.
pub const TRANSLATED: &str = "fixture/translated";
/// What the ids 0 to [`IDS`] of the guest are on the host: users and groups.
pub const HOST_IDS: (u32, u32) = (100_000, 200_000);
/// How many are translated.
pub const IDS: u32 = 1_000;
/// What the host's root is to a guest with translated ids, user and group.
pub const SQUASHED: u32 = 65_534;
/// Ids that such a guest must not use: the first, and how many.
pub const FORBIDDEN: (u32, u32) = (5_000, 10);
/// Owner and group, in the guest, of `of-others` in [`TRANSLATED`].
pub const OTHERS: (u32, u32) = (7, 8);

/// The agent's own executable, to be run from the share.
pub const PROGRAM: &str = "fixture/program";

/// Name of entry `n` of `fixture/entries`.
pub fn entry_name(n: usize) -> String {
    // Lengths differ so that entries do not line up with the kernel's buffers.
    format!("entry-{n:04}{}", "-".repeat(n % 17))
}

/// Name of file `n` of `fixture/open`.
pub fn open_name(n: usize) -> String {
    format!("{n:04}")
}

/// Content of file `n` of `fixture/open`: 16 bytes.
pub fn open_content(n: usize) -> Vec<u8> {
    format!("open file {n:05}\n").into_bytes()
}

/// Makes the fixture under `share`, whose guest will run `program`.
///
/// # Errors
/// As of the file operations.
pub fn make(share: &Path, program: &Path) -> io::Result<()> {
    let dir = share.join(DIR);
    std::fs::create_dir_all(dir.join("entries"))?;
    for n in 0..ENTRIES {
        std::fs::write(dir.join("entries").join(entry_name(n)), b"")?;
    }
    std::fs::create_dir_all(dir.join("open"))?;
    for n in 0..OPEN_FILES {
        std::fs::write(dir.join("open").join(open_name(n)), open_content(n))?;
    }
    std::fs::create_dir_all(share.join(SUBMOUNT))?;
    std::fs::write(share.join(CONTESTED), [b'.'; 100])?;
    std::fs::write(share.join(CONTESTED_COUNT), contested_number(0))?;
    std::fs::copy(program, share.join(PROGRAM))?;
    std::fs::set_permissions(share.join(PROGRAM), std::fs::Permissions::from_mode(0o755))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_distinct_and_contents_have_one_length() {
        let names: HashSet<_> = (0..ENTRIES).map(entry_name).collect();
        assert_eq!(names.len(), ENTRIES);
        assert!((0..OPEN_FILES).all(|n| open_content(n).len() == 16));
    }
}
