//! READDIR and READDIRPLUS.

use super::*;

/// A listed entry: nodeid (0 with READDIR), inode number, offset, name.
#[derive(Debug, PartialEq, Eq)]
struct Listed(u64, u64, u64, Vec<u8>);

fn parse(plus: bool, mut body: &[u8]) -> Vec<Listed> {
    let mut entries = Vec::new();
    while !body.is_empty() {
        let start = body.len();
        let mut node = EntryOut::default();
        if plus {
            let (head, rest) = body.split_at(128);
            node.as_mut_slice().copy_from_slice(head);
            body = rest;
        }
        let mut dirent = Dirent::default();
        let (head, rest) = body.split_at(24);
        dirent.as_mut_slice().copy_from_slice(head);
        assert_eq!(dirent.type_, u32::from(libc::DT_REG));
        let (name, rest) = rest.split_at(dirent.namelen as usize);
        let padding = (8 - (start - rest.len()) % 8) % 8;
        assert_eq!(rest[..padding], [0; 8][..padding]);
        body = &rest[padding..];
        entries.push(Listed(node.nodeid, dirent.ino, dirent.off, name.to_vec()));
    }
    entries
}

fn readdir(server: &Server<Mock>, plus: bool, offset: u64, size: u32) -> Option<Reply> {
    let body = ReadIn {
        fh: 9,
        offset,
        size,
        ..ReadIn::default()
    };
    let opcode = if plus { FUSE_READDIRPLUS } else { FUSE_READDIR };
    call(server, opcode, 5, body.as_slice())
}

fn with_names(names: impl IntoIterator<Item = Vec<u8>>) -> Server<Mock> {
    let server = server();
    *server.fs().listing.lock().unwrap() = names.into_iter().map(Ok).collect();
    server
}

#[test]
fn entries_are_whole_and_aligned_whatever_their_names_lengths() {
    let names: Vec<_> = (1..=255).map(|len| vec![b'n'; len]).collect();
    for plus in [false, true] {
        for size in [600, 1000, 4096, 8192 - 16] {
            let server = with_names(names.clone());
            let mut got = Vec::new();
            loop {
                let reply = readdir(&server, plus, got.len() as u64, size).unwrap();
                assert_eq!(reply.error, 0);
                assert!(reply.body.len() <= size as usize);
                assert_eq!(reply.body.len() % 8, 0);
                let entries = parse(plus, &reply.body);
                if entries.is_empty() {
                    break;
                }
                got.extend(entries);
            }
            let node = if plus { 42 } else { 0 };
            let want: Vec<_> = names
                .iter()
                .enumerate()
                .map(|(i, n)| Listed(node, i as u64 + 100, i as u64 + 1, n.clone()))
                .collect();
            assert_eq!(got, want, "plus {plus}, size {size}");
        }
    }
}

#[test]
fn an_entry_that_is_not_looked_up_has_no_nodeid() {
    let server = with_names([b".".to_vec(), b"..".to_vec(), b"a".to_vec()]);
    let reply = readdir(&server, true, 0, 4096).unwrap();
    let nodes: Vec<_> = parse(true, &reply.body).iter().map(|e| e.0).collect();
    assert_eq!(nodes, [0, 0, 42]);
    assert_eq!(reply.body[..128], [0; 128]);
    let entry_out = &reply.body[320..448];
    assert_eq!(entry_out[..8], 42u64.to_ne_bytes());
    assert_eq!(entry_out[16..24], 5u64.to_ne_bytes());
}

#[test]
fn an_error_behind_some_entries_waits_for_the_next_request() {
    let server = with_names([b"a".to_vec()]);
    server.fs().listing.lock().unwrap().push(Err(Errno::EIO));
    for plus in [false, true] {
        let reply = readdir(&server, plus, 0, 4096).unwrap();
        assert_eq!((reply.error, parse(plus, &reply.body).len()), (0, 1));
        assert_eq!(readdir(&server, plus, 1, 4096), Reply::err(Errno::EIO));
    }
}

#[test]
fn a_reply_too_small_for_any_entry_is_not_the_end() {
    let server = with_names([b"a".to_vec()]);
    assert_eq!(readdir(&server, false, 0, 31), Reply::err(Errno::EINVAL));
    assert_eq!(readdir(&server, true, 0, 159), Reply::err(Errno::EINVAL));
    assert_eq!(readdir(&server, false, 0, 32).unwrap().body.len(), 32);
    assert_eq!(readdir(&server, true, 0, 160).unwrap().body.len(), 160);
    assert_eq!(readdir(&server, false, 1, 31), Reply::ok(&[]));
}
