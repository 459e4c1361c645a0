//! Descriptors of wrong kinds, where an eventfd, a memfd or a pipe belongs.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use ferryfs_frontend::frontend::{mem_region, state};
use ferryfs_frontend::wire::request;

use super::messages::{small_file, table};
use super::{told, Attack, Said};

/// A kind of descriptor, and one of it.
pub type Kind = (&'static str, fn() -> OwnedFd);

fn opened(path: &str) -> OwnedFd {
    File::open(path).expect(path).into()
}

/// All kinds. None is what any message wants, but for the ends of pipes, which are the
/// wrong ones, and a memfd that is too small.
pub const KINDS: [Kind; 9] = [
    ("a plain file", || small_file().into()),
    ("a directory", || opened("/")),
    ("/dev/null", || opened("/dev/null")),
    ("/dev/full", || opened("/dev/full")),
    ("the reading end of a pipe", || {
        // Its writing end is closed.
        rustix::pipe::pipe().expect("pipe").0
    }),
    ("the writing end of a pipe", || {
        rustix::pipe::pipe().expect("pipe").1
    }),
    ("a socket", || {
        let pair = std::os::unix::net::UnixStream::pair();
        pair.expect("sockets").0.into()
    }),
    ("a descriptor for its path alone", || {
        let flags = rustix::fs::OFlags::PATH;
        rustix::fs::open("/", flags, rustix::fs::Mode::empty()).expect("open")
    }),
    ("an epoll instance", || {
        rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).expect("epoll")
    }),
];

/// A message that carries one descriptor: its name, number and payload.
pub type Carrier = (&'static str, u32, fn() -> Vec<u8>);

/// All that do.
pub const CARRIERS: [Carrier; 7] = [
    ("SET_VRING_KICK", request::SET_VRING_KICK, || {
        0u64.to_ne_bytes().to_vec()
    }),
    ("SET_VRING_CALL", request::SET_VRING_CALL, || {
        1u64.to_ne_bytes().to_vec()
    }),
    ("SET_VRING_ERR", request::SET_VRING_ERR, || {
        1u64.to_ne_bytes().to_vec()
    }),
    ("SET_MEM_TABLE", request::SET_MEM_TABLE, || {
        table(&[mem_region(0, 1 << 20, 0x1000_0000, 0)])
    }),
    ("SET_LOG_BASE", request::SET_LOG_BASE, || {
        [1u64 << 20, 0].map(u64::to_ne_bytes).concat()
    }),
    (
        "SET_DEVICE_STATE_FD to save",
        request::SET_DEVICE_STATE_FD,
        || state(0, 0).to_vec(),
    ),
    (
        "SET_DEVICE_STATE_FD to load",
        request::SET_DEVICE_STATE_FD,
        || state(1, 0).to_vec(),
    ),
];

/// Every message with every kind, as an attack each.
pub fn attacks() -> Vec<Attack> {
    let mut all = Vec::new();
    for (carrier, code, payload) in CARRIERS {
        for (kind, make) in KINDS {
            let name = format!("{carrier} with {kind}");
            all.push(Attack::new("descriptor", name, move |scene| {
                let mut frontend = match scene.front_end() {
                    Ok(frontend) => frontend,
                    Err(said) => return said,
                };
                let fd = make();
                let connection = frontend.connection();
                if code != request::SET_DEVICE_STATE_FD {
                    return told(connection.request_acked(code, &payload(), &[fd.as_fd()]));
                }
                match connection.query_u64(code, &payload(), &[fd.as_fd()]) {
                    Ok(answer) if answer & 0xff != 0 => Said::Error(0),
                    Ok(_) => told(
                        connection
                            .query_u64(request::CHECK_DEVICE_STATE, &[], &[])
                            .and_then(|code| match code {
                                0 => Ok(()),
                                value => Err(ferryfs_frontend::wire::WireError::Refused {
                                    request: "CHECK_DEVICE_STATE",
                                    size: 0,
                                    value,
                                }),
                            }),
                    ),
                    Err(error) => told::<()>(Err(error)),
                }
            }));
        }
    }
    all
}
