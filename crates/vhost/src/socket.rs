//! The listening socket and its place in the file system.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{chmodat, chownat, open, statat, unlinkat, AtFlags, FileType, Mode, OFlags, Stat};

/// Why there is no listening socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The path names no place a socket could be.
    #[error("{0}: not a path for a socket")]
    Path(PathBuf),
    /// The path's directory cannot be opened.
    #[error("failed to open the directory of socket {0}")]
    Directory(PathBuf, #[source] io::Error),
    /// Something that is no socket is in the way.
    #[error("{0} exists and is no socket: remove it, or choose another path")]
    InTheWay(PathBuf),
    /// Another process listens there.
    #[error("another process listens on {0}: stop it, or choose another path")]
    InUse(PathBuf),
    /// The socket cannot be made.
    #[error("failed to listen on {0}")]
    Bind(PathBuf, #[source] io::Error),
    /// The socket cannot be given to a group.
    #[error("failed to give the socket to group {0}: is the daemon a member of it?")]
    Group(u32, #[source] io::Error),
}

/// A listening Unix socket that removes its name, and nothing else, when dropped.
///
/// The name is remembered by the directory that holds it: after a change of root
/// the same path would name something inside the share.
#[derive(Debug)]
pub struct ListenSocket {
    listener: UnixListener,
    place: Option<Place>,
}

#[derive(Debug)]
struct Place {
    directory: OwnedFd,
    name: OsString,
    /// Device and inode number.
    identity: (u64, u64),
}

impl ListenSocket {
    /// Listens on `path`. A socket that nobody listens on any more is replaced.
    /// Call it before the process is confined.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub fn bind(path: &Path) -> Result<ListenSocket, SocketError> {
        let name = path
            .file_name()
            .ok_or_else(|| SocketError::Path(path.into()))?
            .to_owned();
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let directory = open(
            parent,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|e| SocketError::Directory(path.into(), e.into()))?;
        if let Ok(stat) = identify(&directory, &name) {
            clear_away(path, &directory, &name, &stat)?;
        }
        let bind_error = |e| SocketError::Bind(path.into(), e);
        let listener = UnixListener::bind(path).map_err(bind_error)?;
        let stat = identify(&directory, &name).map_err(|e| bind_error(e.into()))?;
        Ok(ListenSocket {
            listener,
            place: Some(Place {
                directory,
                name,
                identity: (stat.st_dev, stat.st_ino),
            }),
        })
    }

    /// Lets the members of a group connect, beside the user whose process this is.
    ///
    /// # Errors
    /// [`SocketError::Group`].
    pub fn share_with_group(&self, gid: u32) -> Result<(), SocketError> {
        let Some(place) = &self.place else {
            return Ok(());
        };
        let failed = |e: rustix::io::Errno| SocketError::Group(gid, e.into());
        let group = Some(rustix::fs::Gid::from_raw(gid));
        // The group before the mode: nobody else's group is ever let in.
        chownat(
            &place.directory,
            &place.name,
            None,
            group,
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(failed)?;
        let mode = Mode::RUSR | Mode::WUSR | Mode::XUSR | Mode::RGRP | Mode::WGRP | Mode::XGRP;
        chmodat(&place.directory, &place.name, mode, AtFlags::empty()).map_err(failed)
    }

    /// Takes a socket that listens already, whose name is another's to remove.
    pub fn inherited(listener: UnixListener) -> ListenSocket {
        ListenSocket {
            listener,
            place: None,
        }
    }

    /// Leaves the name for another process to remove: this one goes on listening, and
    /// holds the directory no longer.
    pub fn leave_name(&mut self) {
        self.place = None;
    }

    /// The socket itself.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for ListenSocket {
    fn drop(&mut self) {
        let Some(place) = &self.place else { return };
        // Another daemon may have taken the name over.
        let ours = identify(&place.directory, &place.name)
            .is_ok_and(|stat| (stat.st_dev, stat.st_ino) == place.identity);
        if ours {
            if let Err(e) = unlinkat(&place.directory, &place.name, AtFlags::empty()) {
                log::warn!("failed to remove socket {:?}: {e}", place.name);
            }
        }
    }
}

fn identify(directory: &OwnedFd, name: &OsStr) -> rustix::io::Result<Stat> {
    statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
}

fn clear_away(
    path: &Path,
    directory: &OwnedFd,
    name: &OsStr,
    stat: &Stat,
) -> Result<(), SocketError> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(SocketError::InTheWay(path.into()));
    }
    match UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            unlinkat(directory, name, AtFlags::empty())
                .map_err(|e| SocketError::Bind(path.into(), e.into()))
        }
        _ => Err(SocketError::InUse(path.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_goes_with_the_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let socket = ListenSocket::bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        assert!(matches!(
            ListenSocket::bind(&path),
            Err(SocketError::InUse(_))
        ));
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_group_can_be_let_in() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let socket = ListenSocket::bind(&path).unwrap();
        let own = std::fs::metadata(&path).unwrap().gid();
        let gid = if rustix::process::geteuid().is_root() {
            4242
        } else {
            own
        };
        socket.share_with_group(gid).unwrap();
        let meta = std::fs::metadata(&path).unwrap();
        assert_eq!((meta.gid(), meta.mode() & 0o777), (gid, 0o770));
        if !rustix::process::geteuid().is_root() {
            let refused = socket.share_with_group(0).unwrap_err();
            assert!(matches!(refused, SocketError::Group(0, _)), "{refused}");
        }
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_name_that_is_another_s_by_now_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let socket = ListenSocket::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        drop(socket);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        assert!(matches!(
            ListenSocket::bind(&path),
            Err(SocketError::InTheWay(_))
        ));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_name_that_is_left_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let mut socket = ListenSocket::bind(&path).unwrap();
        socket.leave_name();
        UnixStream::connect(&path).unwrap();
        drop(socket);
        assert!(path.exists());
    }

    #[test]
    fn a_dead_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "the standard library leaves it");
        drop(ListenSocket::bind(&path).unwrap());
        assert!(!path.exists());
    }

    #[test]
    fn the_directory_may_be_moved_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let (before, after) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::create_dir(&before).unwrap();
        let socket = ListenSocket::bind(&before.join("s.sock")).unwrap();
        std::fs::rename(&before, &after).unwrap();
        std::fs::create_dir(&before).unwrap();
        std::fs::write(before.join("s.sock"), "a file in the share").unwrap();
        drop(socket);
        assert!(before.join("s.sock").exists());
        assert!(!after.join("s.sock").exists());
    }
}
