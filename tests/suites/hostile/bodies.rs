//! Requests whose lengths, counts and extensions lie.

use std::fs;

use ferryfs_frontend::call;
use ferryfs_frontend::fuse::{opcode, IN_HEADER, OUT_HEADER, ROOT_ID};
use ferryfs_frontend::raw::InHeader;
use ferryfs_tests::hostile::requests::bytes;
use ferryfs_tests::script::pattern;
use ferryfs_tests::Guest;

use crate::scene::{send, Scene, EINVAL};

#[test]
fn bodies_that_lie() {
    let scene = Scene::new(&[]);
    let vm = scene.boot();
    let mut guest = Guest::of(&vm);
    let (node, fh) = guest.open_path("file", libc::O_RDONLY);
    fs::write(scene.host.at("scratch"), "0123456789").expect("write");
    let (scratch, out) = guest.open_path("scratch", libc::O_RDWR);
    let room = 4096;

    // Names without their NUL.
    for mut request in [
        bytes(&vm, &call::lookup(ROOT_ID, b"file")),
        bytes(&vm, &call::mkdir(ROOT_ID, b"made", 0o755, 0)),
        bytes(&vm, &call::unlink(ROOT_ID, b"file")),
        bytes(&vm, &call::symlink(ROOT_ID, b"made", b"target")),
        bytes(&vm, &call::rename(ROOT_ID, b"file", ROOT_ID, b"made")),
        bytes(&vm, &call::getxattr(node, b"user.x", 10)),
        bytes(&vm, &call::removexattr(node, b"user.x")),
    ] {
        request.pop();
        let len = request.len() as u32;
        request[..4].copy_from_slice(&len.to_le_bytes());
        assert_eq!(send(&vm, &request, room), Some(EINVAL), "{}", request[4]);
        scene.serves(&vm);
    }
    // Every operation with every body that is too short for it.
    for code in (1..=53).chain([0, 54, 1000, 4096, u32::MAX]) {
        if [opcode::DESTROY, opcode::INIT].contains(&code) {
            continue;
        }
        for body in 0..48 {
            let body = vec![0xff; body];
            let header = vm.client().header(code, ROOT_ID, body.len()).to_bytes();
            let got = send(&vm, &[&header[..], &body].concat(), room);
            let whole = match code {
                opcode::STATFS => 0,
                opcode::GETATTR => 16,
                opcode::SYNCFS | opcode::ACCESS | opcode::LISTXATTR => 8,
                opcode::OPEN | opcode::OPENDIR => 8,
                _ => usize::MAX,
            };
            assert!(
                got != Some(0) || body.len() >= whole,
                "opcode {code} with {} bytes",
                body.len()
            );
        }
        scene.serves(&vm);
    }
    for code in [0, 54, 1000, 4096, u32::MAX, opcode::POLL, opcode::BMAP] {
        let reply = vm
            .client()
            .raw(code, ROOT_ID, &[0; 64], room)
            .expect("reply");
        assert_eq!(reply.errno(), Some(libc::ENOSYS), "opcode {code}");
    }
    // The header's length, both ways.
    let good = bytes(&vm, &call::lookup(ROOT_ID, b"file"));
    for len in [
        0u32,
        1,
        39,
        40,
        41,
        good.len() as u32 + 1,
        5000,
        1 << 21,
        u32::MAX,
    ] {
        let mut request = good.clone();
        request[..4].copy_from_slice(&len.to_le_bytes());
        let got = send(&vm, &request, room);
        assert!(
            matches!(got, Some(EINVAL | libc::E2BIG)),
            "length {len}: {got:?}"
        );
    }
    for len in [0, 1, 39] {
        assert_eq!(send(&vm, &good[..len.max(1)], room), None);
    }
    // WRITE with more and with less than it says: no byte too many in the file.
    let write = call::write(scratch, out, 0, call::Payload::None, 0, 0);
    for (size, carried, ok) in [(4u32, 16, true), (16, 4, false), (u32::MAX, 4, false)] {
        let mut request = bytes(&vm, &write);
        request[IN_HEADER + 16..IN_HEADER + 20].copy_from_slice(&size.to_le_bytes());
        request.extend(vec![b'W'; carried]);
        let len = request.len() as u32;
        request[..4].copy_from_slice(&len.to_le_bytes());
        let got = send(&vm, &request, room);
        assert_eq!(
            got == Some(0),
            ok,
            "WRITE of {size} with {carried}: {got:?}"
        );
        let disk = fs::read(scene.host.at("scratch")).expect("read");
        assert_eq!(disk, b"WWWW456789");
    }
    // READ of less, and of more, than there is room for.
    let reply = vm.client().exchange(
        &[&bytes(&vm, &call::read(node, fh, 0, 10, 0))],
        &[OUT_HEADER + 4096],
        false,
    );
    assert_eq!(reply.expect("READ").body(), &pattern(10)[..]);
    let reply = vm.client().exchange(
        &[&bytes(&vm, &call::read(node, fh, 0, u32::MAX, 0))],
        &[16, 7, 1, 100],
        false,
    );
    assert_eq!(reply.expect("READ").body(), &pattern(108)[..]);
    // A header in pieces.
    let mut pieces: Vec<_> = good.chunks(3).collect();
    let reply = vm
        .client()
        .exchange(&pieces, &[5, 11, 1, 200], false)
        .expect("LOOKUP");
    assert_eq!(reply.errno(), Some(0));
    pieces.truncate(5);
    assert!(vm
        .client()
        .exchange(&pieces, &[200], false)
        .expect("nothing")
        .is_empty());
    // SETXATTR with a size that is not its value's.
    for size in [0u32, 5, 70_000, u32::MAX] {
        let set = call::setxattr(node, b"user.x", b"abc", 0, Some(0));
        let mut request = bytes(&vm, &set);
        request[IN_HEADER..IN_HEADER + 4].copy_from_slice(&size.to_le_bytes());
        let got = send(&vm, &request, room);
        assert!(
            size == 0 || matches!(got, Some(1..)),
            "size {size}: {got:?}"
        );
    }
    // Sizes that must not be allocated because somebody says so.
    for size in [1 << 20, 1 << 30, u32::MAX] {
        for call in [call::getxattr(node, b"user.y", 0), call::listxattr(node, 0)] {
            let mut request = bytes(&vm, &call);
            request[IN_HEADER..IN_HEADER + 4].copy_from_slice(&size.to_le_bytes());
            assert!(send(&vm, &request, room).is_some());
        }
    }
    scene.serves(&vm);
    scene.ends_well(vm);
}

#[test]
fn extensions_that_lie() {
    let scene = Scene::new(&[]);
    let vm = scene.boot();
    let group = |size: u32, kind: u32, count: u32, groups: usize| {
        let mut ext = Vec::new();
        for word in [size, kind, count] {
            ext.extend_from_slice(&word.to_le_bytes());
        }
        ext.extend(vec![0x11; groups * 4]);
        ext.resize(ext.len().next_multiple_of(8), 0);
        ext
    };
    let kind = ferryfs_frontend::fuse::EXT_GROUPS;
    let cases = [
        ("count beyond the size", group(16, kind, 1000, 1), None),
        ("count beyond all", group(16, kind, u32::MAX, 1), None),
        ("size 0", group(0, kind, 1, 1), None),
        ("size below its header", group(4, kind, 1, 1), None),
        ("size beyond the request", group(4096, kind, 1, 1), None),
        ("size beyond all", group(u32::MAX, kind, 1, 1), None),
        (
            "extlen beyond the body",
            group(16, kind, 1, 1),
            Some(u16::MAX),
        ),
        (
            "extlen of the body and more",
            group(16, kind, 1, 1),
            Some(5),
        ),
        (
            "twice",
            [group(16, kind, 1, 1), group(16, kind, 1, 1)].concat(),
            None,
        ),
        ("an unknown kind", group(16, 99, 1, 1), None),
        ("half an extension", vec![16, 0, 0, 0, 32, 0, 0, 0], None),
    ];
    for (n, (what, ext, extlen)) in cases.into_iter().enumerate() {
        let name = format!("made{n}");
        let call = call::mkdir(ROOT_ID, name.as_bytes(), 0o755, 0);
        let header = InHeader {
            len: (IN_HEADER + call.args.len() + ext.len()) as u32,
            total_extlen: extlen.unwrap_or((ext.len() / 8) as u16),
            uid: 1000,
            gid: 1000,
            ..vm.client().header(call.opcode, ROOT_ID, 0)
        };
        let got = send(
            &vm,
            &[&header.to_bytes()[..], &call.args, &ext].concat(),
            4096,
        );
        assert!(matches!(got, Some(1..)), "{what}: {got:?}");
        assert!(!scene.host.at(&name).exists(), "{what}");
        scene.serves(&vm);
    }
    scene.ends_well(vm);
}
