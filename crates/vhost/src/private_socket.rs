//! The socket between the relay and the message handler.
//!
//! The message handler takes its connection only from a listening socket. The one
//! it is given lives for an instant in the abstract namespace, so that no file is
//! needed once the process is confined, and accepts exactly one connection, ours.

use std::hash::{BuildHasher, Hasher};
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::io::Errno;
use rustix::net::{
    bind, connect, listen, socket_with, AddressFamily, SocketAddrUnix, SocketFlags, SocketType,
};

/// Attempts before giving up: a name may be taken, and anyone on the host may
/// connect to an abstract name in the moment that it exists.
const ATTEMPTS: usize = 16;

/// A listening socket and the one connection that waits on it.
pub(crate) fn listener_with_connection() -> io::Result<(UnixListener, UnixStream)> {
    let mut error = Errno::ADDRINUSE;
    for _ in 0..ATTEMPTS {
        match attempt() {
            Ok(pair) => return Ok(pair),
            // Somebody else was first, with the name or with a connection.
            Err(e @ (Errno::ADDRINUSE | Errno::AGAIN)) => error = e,
            Err(e) => return Err(e.into()),
        }
    }
    Err(error.into())
}

fn attempt() -> Result<(UnixListener, UnixStream), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let make = |flags| socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    let listener = make(SocketFlags::CLOEXEC)?;
    let random = std::hash::RandomState::new().build_hasher().finish();
    let name = format!("ferryfs-{}-{random:016x}", std::process::id());
    let address = SocketAddrUnix::new_abstract_name(name.as_bytes())?;
    bind(&listener, &address)?;
    // With a backlog of 0, connecting without waiting succeeds for one connection
    // and fails for all others until that one is accepted: success means that the
    // connection accepted next is this one.
    listen(&listener, 0)?;
    let stream = make(flags)?;
    connect(&stream, &address)?;
    Ok((UnixListener::from(listener), UnixStream::from(stream)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn the_accepted_connection_is_ours_and_there_is_no_other() {
        let (listener, mut ours) = listener_with_connection().unwrap();
        let address = listener.local_addr().unwrap();
        let stranger = socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .unwrap();
        let name = std::os::linux::net::SocketAddrExt::as_abstract_name(&address).unwrap();
        let address = SocketAddrUnix::new_abstract_name(name).unwrap();
        assert_eq!(connect(&stranger, &address), Err(Errno::AGAIN));
        let (mut accepted, _) = listener.accept().unwrap();
        ours.write_all(b"x").unwrap();
        let mut byte = [0];
        accepted.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }
}
