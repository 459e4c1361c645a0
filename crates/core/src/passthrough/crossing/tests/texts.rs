//! What the loader says when it refuses a state, as it is: a change of a text is seen
//! in review. After a change on purpose, `INSTA_UPDATE=always` writes them anew.

use super::*;

/// A share with `d/f`, `d/g` and `e/f`.
fn share() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for d in ["d", "e"] {
        fs::create_dir(dir.path().join(d)).unwrap();
        fs::write(dir.path().join(d).join("f"), "f").unwrap();
    }
    fs::write(dir.path().join("d/g"), "g").unwrap();
    dir
}

/// The state of a guest that has `d/f` open and knows the rest, and its flags.
fn state_of(share: &Path, mode: MigrationMode) -> (FsState, u64) {
    let source = daemon(share, mode, InodeFileHandles::Prefer);
    let flags = mount(&source);
    let file = walk(&source, &[b"d", b"f"]);
    walk(&source, &[b"d", b"g"]);
    walk(&source, &[b"e", b"f"]);
    open(&source, file.node, libc::O_RDWR);
    (collect(&source), flags)
}

/// What a destination says to a state of the share after `change`.
fn refusal(mode: MigrationMode, change: impl FnOnce(&Path, &mut FsState)) -> String {
    let dir = share();
    let (mut state, flags) = state_of(dir.path(), mode);
    change(dir.path(), &mut state);
    let target = daemon(dir.path(), mode, InodeFileHandles::Prefer);
    restore(&target, state, flags).unwrap_err()
}

fn replace(share: &Path, name: &str) {
    fs::write(share.join("new"), "impostor").unwrap();
    fs::rename(share.join("new"), share.join(name)).unwrap();
}

fn remove(share: &Path, name: &str) {
    fs::remove_file(share.join(name)).unwrap();
}

#[test]
fn of_refused_states() {
    let by_handle = MigrationMode::FileHandles;
    let lock = ferryfs_state::Lock {
        handle: None,
        inode: 3,
        owner: 1,
        kind: ferryfs_state::LockKind::Flock,
        write: true,
        start: 0,
        end: ferryfs_state::validate::LOCK_END,
        pid: 1,
    };
    let dir = share();
    let in_place_of = |shared: &Path, mode| {
        let (state, flags) = state_of(dir.path(), mode);
        let target = daemon(shared, mode, InodeFileHandles::Prefer);
        restore(&target, state, flags).unwrap_err()
    };
    let texts = [
        (
            "a file is gone",
            refusal(FIND, |share, _| remove(share, "d/f")),
        ),
        (
            "a file and a directory are gone",
            refusal(FIND, |share, _| {
                remove(share, "d/f");
                fs::remove_dir_all(share.join("e")).unwrap();
            }),
        ),
        (
            "a file is a directory now",
            refusal(FIND, |share, _| {
                remove(share, "d/g");
                fs::create_dir(share.join("d/g")).unwrap();
            }),
        ),
        (
            "a file is another one now",
            refusal(FIND, |share, _| replace(share, "d/f")),
        ),
        (
            "two are, and one is gone",
            refusal(FIND, |share, _| {
                replace(share, "d/f");
                replace(share, "d/g");
                remove(share, "e/f");
            }),
        ),
        (
            "an open file is gone, by file handle",
            refusal(by_handle, |share, _| remove(share, "d/f")),
        ),
        (
            "the guest holds a lock",
            refusal(FIND, |_, state| state.locks.push(lock)),
        ),
        (
            "a directory above is shared, by file handle",
            in_place_of(dir.path().parent().unwrap(), by_handle),
        ),
        (
            "a file is shared in place of a directory",
            in_place_of(&dir.path().join("d/f"), FIND),
        ),
    ];
    let texts = texts.map(|(what, text)| format!("{what}:\n  {text}"));
    insta::assert_snapshot!("loader", texts.join("\n"));
}
