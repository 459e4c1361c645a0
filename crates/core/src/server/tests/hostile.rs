//! Requests that no kernel sends. Whatever comes, the answer is a well-formed
//! reply (`send` checks it) or, where none is due or none fits, nothing.

use proptest::prelude::*;

use super::dispatch::{examples, no_reply};
use super::*;

/// What the file system has done must be told to the guest: a lookup or a handle
/// that it does not learn of would never be given back.
fn check_told(server: &Server<Mock>, opcode: u32, reply: &Option<Reply>, what: &str) {
    let asked = server.fs().taken();
    if no_reply(opcode) {
        assert_eq!(*reply, None, "{what}");
    } else if opcode != FUSE_READLINK && !matches!(opcode, FUSE_GETXATTR | FUSE_LISTXATTR) {
        let done = reply.as_ref().is_some_and(|r| r.error == 0);
        assert_eq!(done, !asked.is_empty(), "{what}: {reply:?} {asked:?}");
    }
}

#[test]
fn requests_cut_off_anywhere_are_answered() {
    let server = server();
    for e in examples() {
        let name = opcode_name(e.opcode).unwrap();
        for len in 0..=e.body.len() {
            let body = &e.body[..len];
            // The header knows how short the request is ...
            let reply = call(&server, e.opcode, 5, body);
            check_told(&server, e.opcode, &reply, &format!("{name} of {len} bytes"));
            // ... and it does not, so that it claims bytes that never came.
            if len < e.body.len() {
                let claim = header(e.opcode, 5, IN_HEADER_LEN + e.body.len());
                let request = cat(&[claim.as_slice(), body]);
                let reply = send(&server, &request, 8192);
                let want = (!no_reply(e.opcode)).then(|| Reply::err(Errno::EINVAL).unwrap());
                assert_eq!(reply, want, "{name} of {len} bytes");
                assert!(server.fs().taken().is_empty(), "{name} of {len} bytes");
            }
        }
    }
}

#[test]
fn a_header_shorter_than_a_header_is_ignored() {
    let server = server();
    let request = cat(&[header(FUSE_LOOKUP, 1, 42).as_slice(), b"a\0"]);
    for len in 0..IN_HEADER_LEN {
        let mut reply = [0; 256];
        assert_eq!(server.handle(BufIo::new(&request[..len], &mut reply)), 0);
    }
    assert!(server.fs().taken().is_empty());
}

#[test]
fn a_length_below_the_headers_own_is_refused() {
    let server = server();
    for len in 0..IN_HEADER_LEN {
        let request = cat(&[header(FUSE_STATFS, 1, len).as_slice(), b"a\0"]);
        assert_eq!(send(&server, &request, 256), Reply::err(Errno::EINVAL));
    }
    assert!(server.fs().taken().is_empty());
}

#[test]
fn bytes_behind_the_headers_length_are_no_part_of_the_request() {
    let server = server();
    let request = cat(&[header(FUSE_LOOKUP, 1, 42).as_slice(), b"ab\0"]);
    assert_eq!(send(&server, &request, 256), Reply::err(Errno::EINVAL));
}

#[test]
fn replies_of_any_room_are_whole_or_an_error_or_nothing() {
    let server = server();
    server
        .fs()
        .listing
        .lock()
        .unwrap()
        .push(Ok(b"name".to_vec()));
    for e in examples() {
        let name = opcode_name(e.opcode).unwrap();
        let head = header(e.opcode, 5, IN_HEADER_LEN + e.body.len());
        let request = cat(&[head.as_slice(), &e.body]);
        for room in 0..=300 {
            let reply = send(&server, &request, room);
            let what = format!("{name} with room for {room} bytes");
            if room < OUT_HEADER_LEN {
                assert_eq!(reply, None, "{what}");
                if !no_reply(e.opcode) {
                    assert!(server.fs().taken().is_empty(), "{what}");
                }
                server.fs().taken();
            } else if matches!(e.opcode, FUSE_READDIR | FUSE_READDIRPLUS) {
                // Asked before it is known that not one entry fits.
                server.fs().taken();
                let size = if e.opcode == FUSE_READDIR { 32 } else { 160 };
                let fits = room - OUT_HEADER_LEN >= size;
                let want = if fits { 0 } else { -libc::EINVAL };
                assert_eq!(reply.unwrap().error, want, "{what}");
            } else {
                check_told(&server, e.opcode, &reply, &what);
            }
        }
    }
}

#[test]
fn requests_longer_than_the_session_allows_are_e2big() {
    let server = server();
    let body = vec![0; (1 << 20) + 4096 - IN_HEADER_LEN + 1];
    assert_eq!(
        call(&server, FUSE_WRITE, 1, &body),
        Reply::err(Errno::E2BIG)
    );
    assert_eq!(call(&server, FUSE_FORGET, 1, &body), None);
    assert!(server.fs().taken().is_empty());
    // One byte less is a WRITE, of no bytes.
    assert_eq!(call(&server, FUSE_WRITE, 1, &body[1..]).unwrap().error, 0);
}

#[test]
fn destroy_is_done_even_with_no_room_for_its_reply() {
    let server = server();
    assert_eq!(
        send(&server, header(FUSE_DESTROY, 0, 40).as_slice(), 0),
        None
    );
    assert_eq!(server.fs().taken(), ["destroy"]);
    assert_eq!(server.session(), None);
}

proptest! {
    #[test]
    fn random_requests_do_no_harm(
        opcode in 0u32..60,
        extlen in prop_oneof![Just(0u32), 0u32..8, any::<u32>()],
        body in prop::collection::vec(any::<u8>(), 0..600),
        slack in 0usize..8,
        room in 0usize..700,
        minor in prop_oneof![Just(36u32), Just(45)],
    ) {
        let server = server_with(minor, ALL_FLAGS);
        let mut head = header(opcode, 5, (IN_HEADER_LEN + body.len()).saturating_sub(slack));
        head.padding = extlen;
        let reply = send(&server, &cat(&[head.as_slice(), &body]), room);
        prop_assert!(reply.is_none() || (room >= OUT_HEADER_LEN && !no_reply(opcode)));
    }

    /// The same near the truth: a good request with some bytes changed.
    #[test]
    fn damaged_requests_do_no_harm(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let server = server();
        let examples = examples();
        let e = &examples[which.index(examples.len())];
        // The header but for its opcode and caller, and the body.
        let head = header(e.opcode, 5, IN_HEADER_LEN + e.body.len());
        let mut request = cat(&[head.as_slice(), &e.body]);
        for (at, value) in changes {
            let at = at.index(request.len());
            if !(4..16).contains(&at) && !(24..36).contains(&at) {
                request[at] = value;
            }
        }
        let reply = send(&server, &request, 4096);
        prop_assert_eq!(reply.is_none(), no_reply(e.opcode));
    }
}
