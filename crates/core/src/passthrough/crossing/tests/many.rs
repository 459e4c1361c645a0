//! More inodes than one thread looks for.

use super::*;

/// Three levels: directories by two bytes of their names, and files in all of them.
fn many(share: &Path) -> Vec<Vec<Vec<u8>>> {
    let mut paths = Vec::new();
    let mut level = vec![Vec::new()];
    for depth in 0..3 {
        let mut below = Vec::new();
        for path in &level {
            let add = |name: String| {
                let mut path: Vec<Vec<u8>> = Vec::clone(path);
                path.push(name.into_bytes());
                path
            };
            for n in 0..[6, 300, 20][depth] {
                let file = add(format!("file-{n}"));
                fs::write(place(share, &file), format!("{file:?}")).unwrap();
                paths.push(file);
            }
            for n in 0..[4, 5, 0][depth] {
                let directory = add(format!("dir-{n}"));
                fs::create_dir(place(share, &directory)).unwrap();
                paths.push(directory.clone());
                below.push(directory);
            }
        }
        level = below;
    }
    paths
}

fn place(share: &Path, path: &[Vec<u8>]) -> std::path::PathBuf {
    share.join(OsStr::from_bytes(&path.join(&b'/')))
}

/// What the guest knows of `paths`, each by its node and inode number.
fn know(fs: &Passthrough, paths: &[Vec<Vec<u8>>]) -> Vec<(NodeId, u64)> {
    let known = paths.iter().map(|path| {
        let names: Vec<&[u8]> = path.iter().map(Vec::as_slice).collect();
        let entry = walk(fs, &names);
        (entry.node, entry.attr.ino)
    });
    known.collect()
}

#[test]
fn many_are_found_as_one_after_the_other_would_be() {
    for (mode, handles) in ways() {
        let share = tempfile::tempdir().unwrap();
        let paths = many(share.path());
        let source = daemon(share.path(), mode, handles);
        let flags = mount(&source);
        let known = know(&source, &paths);
        let state = collect(&source);

        let destination = daemon_with(share.path(), |config| {
            config.migration_mode = mode;
            config.inode_file_handles = handles;
            config.restore = Restore::Eager;
        });
        assert_eq!(restore(&destination, state, flags).unwrap(), 0);
        for ((node, number), path) in known.iter().zip(&paths) {
            assert_eq!(ino(&destination, *node), Ok(*number), "{path:?}");
        }
        // The names are known as well: that is what the next crossing goes by.
        let there = collect(&destination);
        let here = collect(&source);
        assert!(there.inodes == here.inodes, "{mode:?} {handles:?}");
    }
}

#[test]
fn what_is_wrong_with_many_is_told_of_the_right_ones() {
    for handles in [InodeFileHandles::Never, InodeFileHandles::Prefer] {
        let share = tempfile::tempdir().unwrap();
        let paths = many(share.path());
        let source = daemon(share.path(), FIND, handles);
        let flags = mount(&source);
        let known = know(&source, &paths);
        let state = collect(&source);

        let at = |path: &[&str]| {
            share
                .path()
                .join(path.iter().collect::<std::path::PathBuf>())
        };
        let (missing, replaced) = (at(&["dir-3", "file-7"]), at(&["dir-1", "file-299"]));
        let (gone, typed) = (at(&["dir-2", "dir-4"]), at(&["dir-0", "dir-0", "file-19"]));
        fs::remove_file(&missing).unwrap();
        // Held all the while, lest its number be given to what takes its place.
        let _held = fs::File::open(&replaced).unwrap();
        fs::remove_file(&replaced).unwrap();
        fs::write(&replaced, "another").unwrap();
        fs::remove_dir_all(&gone).unwrap();
        fs::remove_file(&typed).unwrap();
        fs::create_dir(&typed).unwrap();

        let to = |on_error| {
            daemon_with(share.path(), |config| {
                config.migration_mode = FIND;
                config.inode_file_handles = handles;
                config.migration_on_error = on_error;
                config.restore = Restore::Eager;
            })
        };
        let why = restore(&to(MigrationOnError::Abort), state.clone(), flags).unwrap_err();
        assert!(why.contains("dir-1/file-299"), "{why}");

        let destination = to(MigrationOnError::GuestError);
        // What lay in the directory is not counted: its own error has been told.
        assert_eq!(restore(&destination, state, flags), Ok(4));
        for ((node, number), path) in known.iter().zip(&paths) {
            let place = place(share.path(), path);
            let found = ino(&destination, *node);
            if place.starts_with(&gone) || place == missing {
                assert_eq!(found, Err(Errno::ENOENT), "{path:?}");
            } else if place == replaced {
                assert_eq!(found, Err(Errno::ESTALE), "{path:?}");
            } else if place == typed {
                assert_eq!(found, Err(Errno::EISDIR), "{path:?}");
            } else {
                assert_eq!(found, Ok(*number), "{path:?}");
            }
        }
    }
}

#[test]
fn many_open_files_are_each_what_they_were() {
    const FILES: usize = 150;
    for (mode, handles) in ways() {
        let share = tempfile::tempdir().unwrap();
        let source = daemon(share.path(), mode, handles);
        let flags = mount(&source);
        let open: Vec<_> = (0..FILES)
            .map(|n| {
                let name = format!("file-{n}");
                fs::write(share.path().join(&name), &name).unwrap();
                let node = lookup(&source, NodeId::ROOT, name.as_bytes()).unwrap().node;
                (node, open(&source, node, libc::O_RDONLY), name)
            })
            .collect();
        let state = collect(&source);
        let gone = [5, 77, FILES - 1];
        for n in gone {
            fs::remove_file(share.path().join(&open[n].2)).unwrap();
        }

        let destination = daemon_with(share.path(), |config| {
            config.migration_mode = mode;
            config.inode_file_handles = handles;
            config.migration_on_error = MigrationOnError::GuestError;
        });
        // The source still has it open; by handle it is found as long.
        let held = mode == MigrationMode::FileHandles;
        let faulted = restore(&destination, state, flags).unwrap();
        assert_eq!(faulted, if held { 0 } else { gone.len() as u64 });
        for (n, (node, handle, name)) in open.iter().enumerate() {
            let found = read(&destination, *node, *handle);
            match gone.contains(&n) && !held {
                true => assert_eq!(found, Err(Errno::ENOENT), "{name}"),
                false => assert_eq!(found.unwrap(), name.as_bytes(), "{mode:?} {handles:?}"),
            }
        }
    }
}
