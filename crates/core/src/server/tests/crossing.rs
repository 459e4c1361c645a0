//! State that leaves one server and arrives in another.

use std::io::{self, Read, Write};

use ferryfs_format_postcard::Postcard;
use ferryfs_state::{error_line, Handle, Inode, Limits, Location, Registry, WriterInfo};

use super::*;
use crate::service::{Crossing, CrossingError, LoadReport, SaveReport};

fn config() -> ServerConfig {
    let registry = Registry::new().with(Postcard);
    let writer = WriterInfo::new("test", "1");
    ServerConfig {
        crossing: Some(
            CrossingConfig::new(registry, "postcard", writer, Limits::default()).unwrap(),
        ),
        ..ServerConfig::default()
    }
}

fn fresh() -> Server<Mock> {
    Server::new(Mock::default(), config())
}

fn sample() -> FsState {
    FsState {
        next_inode: 3,
        next_handle: 8,
        inodes: vec![
            Inode {
                id: 1,
                lookups: 2,
                kind: libc::S_IFDIR,
                location: Location::Root,
            },
            Inode {
                id: 2,
                lookups: 1,
                kind: libc::S_IFREG,
                location: Location::Child {
                    parent: 1,
                    name: b"a\xff".to_vec().into(),
                },
            },
        ],
        handles: vec![Handle {
            id: 7,
            inode: 2,
            directory: false,
            guest_flags: libc::O_RDWR as u32,
            host_flags: libc::O_RDWR as u32,
        }],
        ..FsState::default()
    }
}

fn source(flags: u64) -> Server<Mock> {
    let server = fresh();
    let reply = call(&server, FUSE_INIT, 0, &init_request(45, flags)).unwrap();
    assert_eq!(reply.error, 0);
    *server.fs().state.lock().unwrap() = sample();
    server.fs().taken();
    server
}

fn saved(server: &Server<Mock>) -> Vec<u8> {
    let mut stream = Vec::new();
    let report = server.save(&[], &mut stream).unwrap();
    assert_eq!(report.bytes, stream.len() as u64);
    stream
}

#[test]
fn session_and_file_system_arrive_as_they_were() {
    for flags in [0, FUSE_SETXATTR_EXT, ALL_FLAGS] {
        let source = source(flags);
        let stream = saved(&source);
        let destination = fresh();
        let report = destination.load(&mut &stream[..]).unwrap();
        assert_eq!(
            report,
            LoadReport {
                inodes: 2,
                handles: 1,
                faulted: 1,
                standing: Vec::new(),
            }
        );
        let session = source.session().unwrap();
        assert_eq!(destination.session(), Some(session.clone()));
        assert_eq!(*destination.fs().state.lock().unwrap(), sample());
        let f = session.flags;
        assert_eq!(
            destination.fs().taken(),
            [
                format!("plan({f:#x})"),
                format!("adopt({f:#x})"),
                "apply".into()
            ]
        );
        // And on it goes, byte for byte.
        assert_eq!(saved(&destination), stream);
    }
}

/// Request by request, a destination answers as the source would have.
#[test]
fn every_request_is_parsed_on_as_it_was_negotiated() {
    let label = cat(&[
        &40u32.to_ne_bytes(),
        &1u32.to_ne_bytes(),
        &1u32.to_ne_bytes(),
        &[0; 4],
        b"security.selinux\0x",
        &[0; 6],
    ]);
    let groups = cat(&[
        &16u32.to_ne_bytes(),
        &FUSE_EXT_GROUPS.to_ne_bytes(),
        &1u32.to_ne_bytes(),
        &12u32.to_ne_bytes(),
    ]);
    assert_eq!((label.len(), groups.len()), (40, 16));
    let mkdir = cat(&[&[0; 8], b"d\0", &label, &groups]);
    let mut head = header(FUSE_MKDIR, 5, IN_HEADER_LEN + mkdir.len());
    head.padding = 7;
    let mkdir = cat(&[head.as_slice(), &mkdir]);
    let long = cat(&[&[1, 0, 0, 0], &[0; 4], &[1, 0, 0, 0], &[0; 4], b"user.x\0v"]);
    let short = cat(&[&[1, 0, 0, 0], &[0; 4], b"user.x\0v"]);

    for (minor, flags) in [(45, ALL_FLAGS), (45, 0), (36, ALL_FLAGS), (31, 0)] {
        let source = fresh();
        call(&source, FUSE_INIT, 0, &init_request(minor, flags)).unwrap();
        *source.fs().state.lock().unwrap() = sample();
        let destination = fresh();
        destination.load(&mut &saved(&source)[..]).unwrap();
        for server in [&source, &destination] {
            server.fs().taken();
        }
        let answers = |server: &Server<Mock>| {
            let replies = [
                send(server, &mkdir, 4096),
                call(server, FUSE_SETXATTR, 2, &long),
                call(server, FUSE_SETXATTR, 2, &short),
                call(server, FUSE_WRITE, 2, &vec![0; (1 << 20) + 4096]),
            ];
            (replies, server.fs().taken())
        };
        let want = answers(&source);
        assert_eq!(answers(&destination), want, "7.{minor} with {flags:#x}");
        let both = want.1[0].contains("groups=[12]") && want.1[0].contains("security.selinux");
        assert_eq!(both, flags == ALL_FLAGS, "{:?}", want.1);
    }
}

/// All that a refused load may leave is a log line.
fn assert_refused(server: &Server<Mock>, stream: &[u8], text: &str) {
    let before = (server.session(), server.fs().state.lock().unwrap().clone());
    server.fs().taken();
    let error = server.load(&mut &stream[..]).unwrap_err();
    assert!(error_line(&error).contains(text), "{}", error_line(&error));
    assert!(!server
        .fs()
        .taken()
        .iter()
        .any(|c| c == "apply" || c == "destroy"));
    let after = (server.session(), server.fs().state.lock().unwrap().clone());
    assert_eq!(after, before);
}

#[test]
fn a_refused_load_changes_nothing_and_another_may_follow() {
    let stream = saved(&source(ALL_FLAGS));
    for destination in [fresh(), source(0)] {
        for len in 1..stream.len() {
            assert_refused(&destination, &stream[..len], "refused the state stream");
        }
        for at in 0..stream.len() {
            let mut damaged = stream.clone();
            damaged[at] ^= 1 << (at % 8);
            assert_refused(&destination, &damaged, "refused the state stream");
        }
        assert_refused(&destination, &cat(&[&stream, b"x"]), "bytes follow");

        let fs = destination.fs();
        *fs.refuse_session.lock().unwrap() = Some("needs --writeback".into());
        assert_refused(&destination, &stream, "needs --writeback");
        *fs.refuse_session.lock().unwrap() = None;
        *fs.refuse_restore.lock().unwrap() = Some("inode 2 is gone".into());
        assert_refused(&destination, &stream, "inode 2 is gone");
        *fs.refuse_restore.lock().unwrap() = None;

        destination.load(&mut &stream[..]).unwrap();
        assert_eq!(*fs.state.lock().unwrap(), sample());
    }
}

#[test]
fn a_session_that_nothing_here_serves_is_refused() {
    let source = source(ALL_FLAGS);
    let mut session = source.session.lock();
    let mut newer = (*session).clone().unwrap();
    newer.flags |= FUSE_EXPORT_SUPPORT;
    session.set(Some(newer));
    drop(session);
    assert_refused(&fresh(), &saved(&source), "uses FUSE_EXPORT_SUPPORT");
}

#[test]
fn an_empty_stream_says_that_the_source_had_nothing_to_give() {
    assert_refused(&fresh(), b"", "0 bytes");
    // Where the guest is already, there is nothing to be given.
    let server = source(ALL_FLAGS);
    let before = saved(&server);
    assert_eq!(
        server.load(&mut io::empty()).unwrap(),
        LoadReport::default()
    );
    assert_eq!(saved(&server), before);
    // A file of 0 bytes is another matter.
    let error = server.restore(&mut io::empty()).unwrap_err();
    assert!(matches!(error, CrossingError::Read(_)));
}

#[test]
fn no_guest_on_the_source_means_none_on_the_destination() {
    let idle = fresh();
    *idle.fs().state.lock().unwrap() = FsState {
        next_inode: 50,
        next_handle: 60,
        ..sample()
    };
    let stream = saved(&idle);
    for destination in [fresh(), source(ALL_FLAGS)] {
        assert_eq!(
            destination.load(&mut &stream[..]).unwrap(),
            LoadReport::default()
        );
        assert_eq!(destination.session(), None);
        assert_eq!(destination.fs().taken(), ["destroy"]);
        // The guest mounts there.
        let reply = call(&destination, FUSE_INIT, 0, &init_request(45, 0)).unwrap();
        assert_eq!(reply.error, 0);
    }
}

#[test]
fn a_state_that_no_reader_would_take_does_not_leave() {
    let source = source(ALL_FLAGS);
    source.fs().state.lock().unwrap().handles[0].inode = 99;
    let mut stream = Vec::new();
    let error = source.save(&[], &mut stream).unwrap_err();
    assert!(matches!(error, CrossingError::Write(_)));
    assert!(error_line(&error).contains("99"), "{}", error_line(&error));
    assert!(stream.is_empty());
}

#[test]
fn a_channel_that_breaks_fails_the_save_and_the_load() {
    struct Broken;
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
    let server = source(ALL_FLAGS);
    assert!(matches!(
        server.save(&[], &mut Broken),
        Err(CrossingError::Write(_))
    ));
    assert!(matches!(
        server.load(&mut Broken),
        Err(CrossingError::Read(_))
    ));
    let report = server.save(&[], &mut io::sink()).unwrap();
    assert!(matches!(
        report,
        SaveReport {
            inodes: 2,
            handles: 1,
            ..
        }
    ));
}

#[test]
fn a_server_without_a_format_says_so() {
    let server = server();
    assert!(server.save(&[], &mut io::sink()).is_err());
    assert!(server.load(&mut io::empty()).is_err());
    let registry = Registry::new().with(Postcard);
    let writer = WriterInfo::new("test", "1");
    let error = CrossingConfig::new(registry, "json", writer, Limits::default()).unwrap_err();
    assert!(error.to_string().contains("built in: postcard"), "{error}");
}

#[test]
fn precopy_is_the_file_systems() {
    let server = source(0);
    server.begin_precopy();
    server.cancel_precopy();
    assert_eq!(server.fs().taken(), ["begin_precopy", "cancel_precopy"]);
}
