//! GETLK, SETLK and SETLKW: what is refused, and what stands over.

use std::sync::{Arc, Mutex};

use super::*;
use crate::service::{Answer, Later};

/// A transport that lets requests stand over, or none.
#[derive(Default)]
struct Queue {
    full: bool,
    /// Headers that were sent.
    sent: Arc<Mutex<Vec<[u8; 16]>>>,
}

struct Place(Arc<Mutex<Vec<[u8; 16]>>>);

impl Later for Queue {
    fn defer(&self) -> Option<Box<dyn Answer>> {
        (!self.full).then(|| Box::new(Place(self.sent.clone())) as Box<dyn Answer>)
    }
}

impl Answer for Place {
    fn send(self: Box<Self>, header: &[u8; 16]) -> bool {
        self.0.lock().unwrap().push(*header);
        // The second is for nobody.
        self.0.lock().unwrap().len() == 1
    }
}

fn lk_in(owner: u64, (start, end): (u64, u64), kind: i32, flags: u32) -> Vec<u8> {
    LkIn {
        fh: 9,
        owner,
        lk: FileLock {
            start,
            end,
            type_: kind as u32,
            pid: 1,
        },
        lk_flags: flags,
        padding: 0,
    }
    .as_slice()
    .to_vec()
}

/// Serves a SETLKW; its reply, if it is answered at once.
fn setlkw(server: &Server<Mock>, queue: &Queue, body: &[u8]) -> Option<i32> {
    let header = header(FUSE_SETLKW, 5, IN_HEADER_LEN + body.len());
    let request = cat(&[header.as_slice(), body]);
    let mut reply = [0xaa; 16];
    let len = server.handle_or_defer(BufIo::new(&request, &mut reply), queue);
    match len {
        None => {
            assert_eq!(reply, [0xaa; 16], "not written to");
            None
        }
        Some(len) => {
            assert_eq!(len, 16);
            Some(i32::from_ne_bytes([4, 5, 6, 7].map(|i| reply[i])))
        }
    }
}

#[test]
fn a_lock_that_is_waited_for_is_answered_later() {
    let server = server();
    let queue = Queue::default();
    let body = lk_in(7, (0, 9), libc::F_WRLCK, 0);
    for (result, error, heard) in [
        (Ok(()), 0, true),
        (Err(Errno::EDEADLK), -libc::EDEADLK, false),
    ] {
        assert_eq!(setlkw(&server, &queue, &body), None);
        let answer = server.fs().deferred.lock().unwrap().take().unwrap();
        assert_eq!(answer.send(result), heard);
        let sent = *queue.sent.lock().unwrap().last().unwrap();
        let want = OutHeader {
            len: 16,
            error,
            unique: UNIQUE,
        };
        assert_eq!(sent, want.as_slice());
    }
}

#[test]
fn what_need_not_or_cannot_stand_over_is_answered_at_once() {
    let server = server();
    let queue = Queue::default();
    let unlock = lk_in(7, (0, 9), libc::F_UNLCK, 0);
    assert_eq!(setlkw(&server, &queue, &unlock), Some(0));
    let lock = lk_in(7, (0, 9), libc::F_WRLCK, 0);
    *server.fs().fail.lock().unwrap() = Some(Errno::EBADF);
    assert_eq!(setlkw(&server, &queue, &lock), Some(-libc::EBADF));
    *server.fs().fail.lock().unwrap() = None;
    let full = Queue {
        full: true,
        ..Queue::default()
    };
    assert_eq!(setlkw(&server, &full, &lock), Some(-libc::ENOLCK));
    // A transport that knows no such thing.
    assert_eq!(call(&server, FUSE_SETLKW, 5, &lock), Reply::ok(&[]));
    assert!(server.fs().deferred.lock().unwrap().is_none());
}

#[test]
fn locks_that_make_no_sense_are_refused() {
    let server = server();
    let last = i64::MAX as u64;
    for opcode in [FUSE_GETLK, FUSE_SETLK, FUSE_SETLKW] {
        for body in [
            lk_in(7, (10, 9), libc::F_WRLCK, 0),
            lk_in(7, (0, last + 1), libc::F_WRLCK, 0),
            lk_in(7, (u64::MAX, u64::MAX), libc::F_RDLCK, 0),
            lk_in(7, (0, 9), 3, 0),
            lk_in(7, (0, 9), -1, 0),
            lk_in(7, (0, 9), libc::F_WRLCK, 0)[..47].to_vec(),
        ] {
            assert_eq!(call(&server, opcode, 5, &body), Reply::err(Errno::EINVAL));
        }
    }
    for body in [
        lk_in(7, (0, 9), libc::F_UNLCK, 0),
        lk_in(7, (0, last), libc::F_WRLCK, FUSE_LK_FLOCK),
    ] {
        assert_eq!(
            call(&server, FUSE_GETLK, 5, &body),
            Reply::err(Errno::EINVAL)
        );
    }
    assert!(server.fs().taken().is_empty());
    // Nobody in the way.
    let found = call(&server, FUSE_GETLK, 5, &lk_in(0, (3, 9), libc::F_WRLCK, 0));
    let body = found.unwrap().body;
    assert_eq!(body[..16], cat(&[&3u64.to_ne_bytes(), &9u64.to_ne_bytes()]));
    assert_eq!(body[16], libc::F_UNLCK as u8);
}

#[test]
fn locks_that_were_not_negotiated_are_not_served() {
    for (flags, posix, flock) in [
        (0, Errno::ENOSYS, Errno::ENOSYS),
        (FUSE_POSIX_LOCKS, Errno::EDQUOT, Errno::ENOSYS),
        (FUSE_FLOCK_LOCKS, Errno::ENOSYS, Errno::EDQUOT),
    ] {
        let server = server_with(45, flags);
        *server.fs().fail.lock().unwrap() = Some(Errno::EDQUOT);
        for opcode in [FUSE_SETLK, FUSE_SETLKW] {
            for (lk_flags, want) in [(0, posix), (FUSE_LK_FLOCK, flock)] {
                let body = lk_in(7, (0, i64::MAX as u64), libc::F_WRLCK, lk_flags);
                assert_eq!(call(&server, opcode, 5, &body), Reply::err(want));
            }
        }
    }
}

#[test]
fn a_stop_and_a_start_reach_the_file_system() {
    let server = server();
    server.suspend();
    server.proceed();
    assert_eq!(server.fs().taken(), ["suspend", "proceed"]);
}
