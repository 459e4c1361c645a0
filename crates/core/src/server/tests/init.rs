//! What INIT leads to, and what is left of it behind.

use super::*;
use crate::server::init::{OUR_MINOR, POSSIBLE, SERVED};

fn fresh() -> Server<Mock> {
    Server::new(Mock::default(), ServerConfig::default())
}

fn init_out(reply: Option<Reply>) -> InitOut {
    let reply = reply.unwrap();
    assert_eq!(reply.error, 0);
    let mut out = InitOut::default();
    out.as_mut_slice().copy_from_slice(&reply.body);
    out
}

fn flags(out: &InitOut) -> u64 {
    u64::from(out.flags) | u64::from(out.flags2) << 32
}

#[test]
fn a_current_guest_gets_all_that_both_sides_have() {
    let server = fresh();
    let out = init_out(call(&server, FUSE_INIT, 0, &init_request(45, ALL_FLAGS)));
    assert_eq!((out.major, out.minor), (7, 45));
    assert_eq!(out.max_readahead, 0x20000);
    assert_eq!((out.max_write, out.max_pages), (1 << 20, 256));
    assert_eq!((out.max_background, out.congestion_threshold), (96, 72));
    assert_eq!((out.time_gran, out.map_alignment), (1, 0));
    // The mock wishes everything; what no dispatcher code is behind is kept back.
    assert_eq!(flags(&out), POSSIBLE);
    assert_eq!(
        server.fs().taken(),
        [
            format!("init(7.45, {ALL_FLAGS:#x}, 131072)"),
            format!("adopt({POSSIBLE:#x})"),
        ]
    );
    assert_eq!(
        server.session(),
        Some(Session {
            guest_minor: 45,
            minor: 45,
            offered_flags: ALL_FLAGS,
            flags: POSSIBLE,
            max_write: 1 << 20,
            max_pages: 256,
            max_readahead: 0x20000,
            max_background: 96,
            congestion_threshold: 72,
            time_gran: 1,
        })
    );
}

#[test]
fn the_answer_is_what_is_offered_and_wanted() {
    for (offered, wish, want) in [
        (0, !0, 0),
        (ALL_FLAGS, 0, SERVED),
        (FUSE_BIG_WRITES | FUSE_SUBMOUNTS, 0, FUSE_BIG_WRITES),
        (
            FUSE_SUBMOUNTS,
            FUSE_SUBMOUNTS | FUSE_WRITEBACK_CACHE,
            FUSE_SUBMOUNTS,
        ),
        // Without INIT_EXT nobody looks at the upper half.
        (FUSE_SECURITY_CTX | FUSE_MAX_PAGES, !0, FUSE_MAX_PAGES),
        (
            FUSE_SECURITY_CTX | FUSE_INIT_EXT,
            FUSE_SECURITY_CTX,
            FUSE_SECURITY_CTX | FUSE_INIT_EXT,
        ),
        // Operations that are not there are not promised.
        (FUSE_EXPORT_SUPPORT | FUSE_MAP_ALIGNMENT, !0, 0),
        (FUSE_POSIX_LOCKS, FUSE_FLOCK_LOCKS, 0),
        (FUSE_FLOCK_LOCKS, FUSE_FLOCK_LOCKS, FUSE_FLOCK_LOCKS),
        (FUSE_INIT_EXT | !ALL_FLAGS, !0, FUSE_INIT_EXT),
    ] {
        let server = fresh();
        *server.fs().wish.lock().unwrap() = wish;
        let out = init_out(call(&server, FUSE_INIT, 0, &init_request(38, offered)));
        assert_eq!(flags(&out), want, "{}", init_flag_names(offered));
        let pages = if offered & FUSE_MAX_PAGES != 0 {
            256
        } else {
            0
        };
        assert_eq!(out.max_pages, pages);
        assert_eq!(server.session().unwrap().flags, want);
    }
}

#[test]
fn a_short_init_without_the_extension_is_whole() {
    let server = fresh();
    let body = &init_request(31, FUSE_MAX_PAGES)[..16];
    let out = init_out(call(&server, FUSE_INIT, 0, body));
    assert_eq!(flags(&out), FUSE_MAX_PAGES);
    // With it, the second half must be there.
    let body = &init_request(36, FUSE_INIT_EXT)[..16];
    assert_eq!(call(&server, FUSE_INIT, 0, body), Reply::err(Errno::EINVAL));
}

#[test]
fn versions_that_cannot_be_spoken_are_refused() {
    for (major, minor, errno) in [(6, 45, Errno::EPROTO), (7, 26, Errno::EPROTO)] {
        let server = fresh();
        let mut body = init_request(minor, ALL_FLAGS);
        body[0] = major;
        assert_eq!(call(&server, FUSE_INIT, 0, &body), Reply::err(errno));
        assert!(server.fs().taken().is_empty());
        assert_eq!(server.session(), None);
    }
}

#[test]
fn a_newer_major_is_told_ours_and_comes_again() {
    let server = fresh();
    let mut body = init_request(0, ALL_FLAGS);
    body[0] = 8;
    let out = init_out(call(&server, FUSE_INIT, 0, &body));
    assert_eq!((out.major, out.minor, flags(&out)), (7, OUR_MINOR, 0));
    assert_eq!(server.session(), None);
    assert_eq!(
        call(&server, FUSE_STATFS, 1, &[]),
        Reply::err(Errno::ENOTCONN)
    );
    init_out(call(&server, FUSE_INIT, 0, &init_request(45, ALL_FLAGS)));
    assert!(server.session().is_some());
}

#[test]
fn a_second_init_drops_all_that_was() {
    let server = server();
    init_out(call(&server, FUSE_INIT, 0, &init_request(31, 0)));
    assert_eq!(
        server.fs().taken(),
        ["destroy", "init(7.31, 0x0, 131072)", "adopt(0x0)"]
    );
    assert_eq!(server.session().unwrap().flags, 0);
}

#[test]
fn before_init_and_after_destroy_nothing_is_served() {
    let server = fresh();
    for round in 0..2 {
        assert_eq!(
            call(&server, FUSE_LOOKUP, 1, b"a\0"),
            Reply::err(Errno::ENOTCONN)
        );
        assert_eq!(call(&server, FUSE_FORGET, 1, &[1; 8]), None);
        assert_eq!(call(&server, 9999, 1, &[]), Reply::err(Errno::ENOTCONN));
        assert!(server.fs().taken().is_empty(), "round {round}");
        assert_eq!(call(&server, FUSE_DESTROY, 0, &[]), Reply::ok(&[]));
        assert_eq!(server.fs().taken(), ["destroy"]);
        init_out(call(&server, FUSE_INIT, 0, &init_request(45, ALL_FLAGS)));
        server.fs().taken();
        assert_eq!(call(&server, FUSE_LOOKUP, 1, b"a\0").unwrap().error, 0);
        assert_eq!(call(&server, FUSE_DESTROY, 0, &[]), Reply::ok(&[]));
        server.fs().taken();
    }
    init_out(call(&server, FUSE_INIT, 0, &init_request(45, ALL_FLAGS)));
    server.reset();
    assert_eq!(server.session(), None);
    assert_eq!(
        call(&server, FUSE_STATFS, 1, &[]),
        Reply::err(Errno::ENOTCONN)
    );
}

#[test]
fn an_init_that_the_file_system_refuses_begins_nothing() {
    struct Refuses;
    impl FileSystem for Refuses {
        fn init(&self, _: &InitOffer) -> FsResult<InitWish> {
            Err(Errno::EPROTO)
        }
    }
    let server = Server::new(Refuses, ServerConfig::default());
    let body = init_request(45, ALL_FLAGS);
    let request = cat(&[header(FUSE_INIT, 0, 40 + body.len()).as_slice(), &body]);
    assert_eq!(send(&server, &request, 256), Reply::err(Errno::EPROTO));
    assert_eq!(server.session(), None);
}

#[test]
fn an_init_whose_answer_does_not_fit_begins_nothing() {
    let server = server();
    let body = init_request(45, ALL_FLAGS);
    let request = cat(&[header(FUSE_INIT, 0, 40 + body.len()).as_slice(), &body]);
    assert_eq!(send(&server, &request, 16 + 63), Reply::err(Errno::EINVAL));
    assert!(server.fs().taken().is_empty());
}

#[test]
fn setxattr_has_the_form_that_was_negotiated() {
    let long = cat(&[&[1, 0, 0, 0], &[0; 4], &[1, 0, 0, 0], &[0; 4], b"user.x\0v"]);
    let short = cat(&[&[1, 0, 0, 0], &[0; 4], b"user.x\0v"]);
    for (negotiated, body, want) in [
        (
            FUSE_SETXATTR_EXT,
            &long,
            r#"setxattr(1, "user.x", "v", 0, true)"#,
        ),
        (0, &short, r#"setxattr(1, "user.x", "v", 0, false)"#),
    ] {
        let server = server_with(45, negotiated);
        assert_eq!(call(&server, FUSE_SETXATTR, 1, body), Reply::ok(&[]));
        assert_eq!(server.fs().taken(), [want]);
    }
    // The other form than the negotiated one is not taken for it.
    for (negotiated, body) in [(FUSE_SETXATTR_EXT, &short), (0, &long)] {
        let server = server_with(45, negotiated);
        assert_ne!(call(&server, FUSE_SETXATTR, 1, body).unwrap().error, 0);
        assert!(server.fs().taken().is_empty());
    }
}
