//! The pid file beside the socket, `<socket>.pid`, as virtiofsd has it: locked
//! (flock(2)) as long as the daemon runs, and readable to its user only. It goes with
//! the daemon.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{
    flock, fstat, open, openat, statat, unlinkat, AtFlags, FileType, FlockOperation, Mode, OFlags,
};

/// Longer contents are nobody's process id.
const LONGEST: usize = 32;

/// Why there is no pid file.
#[derive(Debug, thiserror::Error)]
pub enum PidFileError {
    /// It cannot be made or written.
    #[error("failed to {what} the pid file {}", path.display())]
    File {
        /// The step.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Another daemon runs with the same socket.
    #[error(
        "the pid file {} is locked by another daemon{}: stop it, or choose another socket path",
        path.display(),
        pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    Locked {
        /// The file.
        path: PathBuf,
        /// Who, as the file says.
        pid: Option<u32>,
    },
    /// What is there holds no process id.
    #[error(
        "{} is in the way of the pid file and is none: remove it, or choose another socket path",
        .0.display()
    )]
    InTheWay(PathBuf),
}

/// A pid file that removes its name, and nothing else, when dropped.
///
/// The name is remembered by the directory that holds it: after a change of root the
/// same path would name something inside the share.
#[derive(Debug)]
pub struct PidFile {
    place: Option<Place>,
}

#[derive(Debug)]
struct Place {
    directory: OwnedFd,
    name: OsString,
    /// Holds the lock; a process that inherits it holds it too.
    file: std::fs::File,
}

impl PidFile {
    /// Makes the pid file of this process for a daemon that will listen on `socket`.
    /// Call it before the process is confined.
    ///
    /// # Errors
    /// See [`PidFileError`].
    pub fn create(socket: &Path) -> Result<PidFile, PidFileError> {
        let mut path = socket.as_os_str().to_owned();
        path.push(".pid");
        let path = PathBuf::from(path);
        let failed = |what| {
            let path = path.clone();
            move |e: io::Error| PidFileError::File {
                what,
                path,
                source: e,
            }
        };
        let name = path.file_name().unwrap_or(OsStr::new(".pid")).to_owned();
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = open(parent, flags, Mode::empty())
            .map_err(|e| failed("open the directory of")(e.into()))?;
        // Another daemon that ends may remove it between the two steps: that name is
        // then no longer the file that is locked here.
        let mut file = loop {
            let flags = OFlags::RDWR
                | OFlags::CREATE
                | OFlags::NOFOLLOW
                | OFlags::NONBLOCK
                | OFlags::CLOEXEC;
            let file = openat(&directory, &name, flags, Mode::RUSR | Mode::WUSR);
            let file: std::fs::File = file.map_err(|e| failed("open")(e.into()))?.into();
            let stat = fstat(&file).map_err(|e| failed("examine")(e.into()))?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Err(PidFileError::InTheWay(path));
            }
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let pid = read(&file).ok().flatten();
                    return Err(PidFileError::Locked { path, pid });
                }
                Err(e) => return Err(failed("lock")(e.into())),
            }
            if is_at(&directory, &name, &file) {
                break file;
            }
        };
        let old = read(&file).map_err(failed("read"))?;
        let length = file.metadata().map_err(failed("examine"))?.len();
        if old.is_none() && length != 0 {
            return Err(PidFileError::InTheWay(path));
        }
        let write = |file: &mut std::fs::File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(failed("write"))?;
        Ok(PidFile {
            place: Some(Place {
                directory,
                name,
                file,
            }),
        })
    }

    /// Leaves the name for another process to remove: this one holds the directory no
    /// longer.
    pub fn leave_name(&mut self) {
        self.place = None;
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let Some(place) = &self.place else { return };
        // While it is locked; so nobody else takes it over meanwhile.
        if is_at(&place.directory, &place.name, &place.file) {
            if let Err(e) = unlinkat(&place.directory, &place.name, AtFlags::empty()) {
                log::warn!("failed to remove the pid file {:?}: {e}", place.name);
            }
        }
    }
}

fn is_at(directory: &OwnedFd, name: &OsStr, file: &std::fs::File) -> bool {
    let there = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
    match (there, fstat(file)) {
        (Ok(a), Ok(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
        _ => false,
    }
}

/// The process id in a file, if that is what it holds.
fn read(mut file: &std::fs::File) -> io::Result<Option<u32>> {
    let mut text = [0; LONGEST + 1];
    let mut length = 0;
    loop {
        match file.read(&mut text[length..])? {
            0 => break,
            n => length += n,
        }
    }
    let text = std::str::from_utf8(&text[..length]).ok();
    Ok(text.and_then(|text| text.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn place() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s.sock");
        let pid = dir.path().join("s.sock.pid");
        (dir, socket, pid)
    }

    #[test]
    fn it_holds_the_process_id_for_its_user_alone_and_goes() {
        let (_dir, socket, path) = place();
        // An older and longer one.
        std::fs::write(&path, "4000000000\n").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        let file = PidFile::create(&socket).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn there_is_one_daemon_to_a_socket() {
        let (_dir, socket, path) = place();
        let first = PidFile::create(&socket).unwrap();
        let refused = PidFile::create(&socket).unwrap_err().to_string();
        let me = format!("(process {})", std::process::id());
        assert!(refused.contains(&me), "{refused}");
        assert!(path.exists());
        drop(first);
        PidFile::create(&socket).unwrap();
    }

    #[test]
    fn what_is_no_pid_file_is_left_alone() {
        let (_dir, socket, path) = place();
        for precious in ["precious", "12 monkeys", &"1".repeat(100)] {
            std::fs::write(&path, precious).unwrap();
            let refused = PidFile::create(&socket).unwrap_err();
            assert!(matches!(refused, PidFileError::InTheWay(_)), "{refused}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), precious);
        }
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(PidFile::create(&socket).is_err());
        std::fs::remove_file(&path).unwrap();
        // One that has come to its place meanwhile, and one whose name was left.
        let file = PidFile::create(&socket).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "1").unwrap();
        drop(file);
        assert!(path.exists());
        let mut file = PidFile::create(&socket).unwrap();
        file.leave_name();
        drop(file);
        assert!(path.exists());
    }
}
