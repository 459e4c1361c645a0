//! Security contexts and groups behind the names.

use super::*;

const BOTH: u64 = FUSE_INIT_EXT | FUSE_SECURITY_CTX | FUSE_CREATE_SUPP_GROUP;

fn ext(kind: u32, payload: &[u8]) -> Vec<u8> {
    let size = (8 + payload.len()).next_multiple_of(8);
    let mut bytes = cat(&[&(size as u32).to_ne_bytes(), &kind.to_ne_bytes(), payload]);
    bytes.resize(size, 0);
    bytes
}

fn label(name: &[u8], value: &[u8]) -> Vec<u8> {
    let size = (value.len() as u32).to_ne_bytes();
    ext(1, &cat(&[&size, &[0; 4], name, b"\0", value]))
}

fn groups(ids: &[u32]) -> Vec<u8> {
    let mut payload = (ids.len() as u32).to_ne_bytes().to_vec();
    ids.iter().for_each(|id| payload.extend(id.to_ne_bytes()));
    ext(FUSE_EXT_GROUPS, &payload)
}

/// Sends a request with `extensions` announced in the header.
fn call_ext(server: &Server<Mock>, opcode: u32, body: &[u8], extensions: &[u8]) -> Option<Reply> {
    let len = IN_HEADER_LEN + body.len() + extensions.len();
    let mut head = header(opcode, 5, len);
    head.padding = (extensions.len() / 8) as u32;
    send(server, &cat(&[head.as_slice(), body, extensions]), 4096)
}

#[test]
fn every_operation_that_makes_an_object_takes_them() {
    let extensions = cat(&[&label(b"security.selinux", b"sys:x\0"), &groups(&[12, 13])]);
    let tail = r#" groups=[12, 13] label="security.selinux"=sys:x\x00"#;
    for (opcode, body, want) in [
        (
            FUSE_MKDIR,
            cat(&[&[0; 8], b"d\0"]),
            r#"mkdir(5, "d", 0, 0)"#,
        ),
        (
            FUSE_MKNOD,
            cat(&[&[0; 16], b"n\0"]),
            r#"mknod(5, "n", 0, 0, 0)"#,
        ),
        (
            FUSE_CREATE,
            cat(&[&[0; 16], b"c\0"]),
            r#"create(5, "c", 0, 0, 0, false)"#,
        ),
        (
            FUSE_TMPFILE,
            cat(&[&[0; 16], b"#1\0"]),
            "tmpfile(5, 0, 0, 0)",
        ),
        (
            FUSE_SYMLINK,
            b"l\0to\0".to_vec(),
            r#"symlink("to", 5, "l")"#,
        ),
    ] {
        let server = server_with(45, BOTH);
        assert_eq!(
            call_ext(&server, opcode, &body, &extensions).unwrap().error,
            0
        );
        assert_eq!(server.fs().taken(), [format!("{want}{tail}")]);
        // None at all is as good.
        assert_eq!(call_ext(&server, opcode, &body, &[]).unwrap().error, 0);
        assert_eq!(server.fs().taken(), [want]);
    }
}

#[test]
fn what_was_not_negotiated_is_not_believed() {
    let body = cat(&[&[0; 8], b"d\0"]);
    let extensions = cat(&[&label(b"security.selinux", b"x"), &groups(&[12])]);
    for (flags, want) in [
        (0, ""),
        (FUSE_CREATE_SUPP_GROUP, " groups=[12]"),
        (FUSE_SECURITY_CTX, r#" label="security.selinux"=x"#),
    ] {
        let server = server_with(45, flags | FUSE_INIT_EXT);
        assert_eq!(
            call_ext(&server, FUSE_MKDIR, &body, &extensions)
                .unwrap()
                .error,
            0
        );
        assert_eq!(
            server.fs().taken(),
            [format!(r#"mkdir(5, "d", 0, 0){want}"#)]
        );
    }
}

#[test]
fn unknown_extensions_are_skipped() {
    let server = server_with(45, BOTH);
    let extensions = cat(&[&ext(99, b"whatever"), &groups(&[12])]);
    let body = cat(&[&[0; 8], b"d\0"]);
    assert_eq!(
        call_ext(&server, FUSE_MKDIR, &body, &extensions)
            .unwrap()
            .error,
        0
    );
    assert_eq!(server.fs().taken(), [r#"mkdir(5, "d", 0, 0) groups=[12]"#]);
}

#[test]
fn a_kernel_with_no_label_to_give_says_so() {
    let server = server_with(45, BOTH);
    let body = cat(&[&[0; 8], b"d\0"]);
    assert_eq!(
        call_ext(&server, FUSE_MKDIR, &body, &ext(0, b""))
            .unwrap()
            .error,
        0
    );
    assert_eq!(server.fs().taken(), [r#"mkdir(5, "d", 0, 0)"#]);
}

#[test]
fn before_7_38_a_label_follows_the_names_unannounced() {
    let context = label(b"security.selinux", b"x");
    let with = r#" label="security.selinux"=x"#;
    for (opcode, body, want) in [
        (
            FUSE_MKDIR,
            cat(&[&[0; 8], b"d\0", &context]),
            r#"mkdir(5, "d", 0, 0)"#,
        ),
        (
            FUSE_SYMLINK,
            cat(&[b"l\0to\0", &context]),
            r#"symlink("to", 5, "l")"#,
        ),
    ] {
        let server = server_with(36, BOTH);
        // The header's field was padding then.
        let mut head = header(opcode, 5, IN_HEADER_LEN + body.len());
        head.padding = 0xffff_ffff;
        let reply = send(&server, &cat(&[head.as_slice(), &body]), 4096);
        assert_eq!(reply.unwrap().error, 0);
        assert_eq!(server.fs().taken(), [format!("{want}{with}")]);
        // A newer guest's bytes there mean nothing.
        let server = server_with(45, BOTH);
        assert_eq!(call(&server, opcode, 5, &body).unwrap().error, 0);
        assert_eq!(server.fs().taken(), [want]);
    }
}

#[test]
fn malformed_extensions_are_refused() {
    let server = server_with(45, BOTH);
    let good = label(b"security.selinux", b"x");
    let resized = |size: u32| {
        let mut bytes = good.clone();
        bytes[..4].copy_from_slice(&size.to_ne_bytes());
        bytes
    };
    let counted = |count: u32, groups: usize| {
        ext(
            FUSE_EXT_GROUPS,
            &cat(&[&count.to_ne_bytes(), &vec![0; groups * 4]]),
        )
    };
    let sized = |size: u32| {
        ext(
            1,
            &cat(&[&size.to_ne_bytes(), &[0; 4], b"security.selinux\0x"]),
        )
    };
    for (what, bytes) in [
        ("size 0", resized(0)),
        ("size below its header", resized(7)),
        ("size beyond the end", resized(good.len() as u32 + 8)),
        ("size of 4 GiB", resized(u32::MAX)),
        ("half a header behind", resized(good.len() as u32 - 4)),
        ("two labels in one", ext(2, &good[8..])),
        ("one label twice", cat(&[&good, &good])),
        ("groups twice", cat(&[&groups(&[1]), &groups(&[2])])),
        ("no payload", ext(1, b"")),
        ("name without NUL", ext(1, &[1; 16])),
        ("label longer than its room", sized(100)),
        ("empty label", sized(0)),
        ("label of 4 GiB", sized(u32::MAX)),
        ("an attribute that is no label", label(b"user.x", b"x")),
        ("a label without a module", label(b"security.", b"x")),
        (
            "a name too long",
            label(&[b"security.".as_slice(), &[b'x'; 250]].concat(), b"x"),
        ),
        ("groups without a count", ext(FUSE_EXT_GROUPS, b"")),
        ("fewer groups than counted", counted(4, 1)),
        ("more groups than any request has", counted(33, 33)),
        ("groups counted to 2^32", counted(u32::MAX, 4)),
    ] {
        for (opcode, body) in [
            (FUSE_MKDIR, cat(&[&[0; 8], b"d\0"])),
            (FUSE_CREATE, cat(&[&[0; 16], b"c\0"])),
            (FUSE_SYMLINK, b"l\0to\0".to_vec()),
        ] {
            let reply = call_ext(&server, opcode, &body, &bytes);
            assert_eq!(reply, Reply::err(Errno::EINVAL), "{what}");
        }
    }
    assert!(server.fs().taken().is_empty());
}

#[test]
fn a_length_that_reaches_into_the_name_or_before_is_refused() {
    let server = server_with(45, BOTH);
    let body = cat(&[&[0; 8], b"a name\0"]);
    for blocks in [1, 2, 0xffff] {
        let mut head = header(FUSE_MKDIR, 5, IN_HEADER_LEN + body.len());
        head.padding = blocks;
        let reply = send(&server, &cat(&[head.as_slice(), &body]), 4096);
        assert_eq!(reply, Reply::err(Errno::EINVAL), "{blocks}");
    }
    // The other half of the word is padding.
    let mut head = header(FUSE_MKDIR, 5, IN_HEADER_LEN + body.len());
    head.padding = 0xffff_0000;
    let reply = send(&server, &cat(&[head.as_slice(), &body]), 4096);
    assert_eq!(reply.unwrap().error, 0);
}

#[test]
fn extensions_longer_than_any_are_refused_unread() {
    let server = server_with(45, BOTH);
    let mut head = header(FUSE_MKDIR, 5, IN_HEADER_LEN + 10 + 0xffff * 8);
    head.padding = 0xffff;
    let request = cat(&[head.as_slice(), &[0; 8], b"d\0", &vec![0; 0xffff * 8]]);
    assert_eq!(send(&server, &request, 4096), Reply::err(Errno::E2BIG));
}
