//! One machine on one stock daemon: operations with their effect on disk.

mod common;

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use common::Share;
use ferryfs_frontend::call::{self, InitRequest, Payload, SetAttr};
use ferryfs_frontend::fuse::{fattr, init, opcode, ROOT_ID};
use ferryfs_frontend::ring::{Descriptor, DESC_F_NEXT};
use ferryfs_frontend::vmm::{Vm, VmConfig};
use ferryfs_frontend::{encode_rdev, Caller};

const RDWR: u32 = libc::O_RDWR as u32;

#[test]
fn boot_and_configuration() {
    let Some(share) = Share::new() else { return };
    let daemon = share.daemon(&[]);
    let mut vm = Vm::boot(daemon.socket()).expect("boot");
    let config = vm.frontend().get_config().expect("config");
    assert_eq!(
        (config.tag.as_slice(), config.request_queues),
        (b"ferry".as_slice(), 1)
    );
    assert_eq!(vm.frontend().get_queue_num().expect("queues"), 2);
    assert!(vm.frontend().get_max_mem_slots().expect("slots") >= 8);
    let reply = vm.session().init().expect("initialized");
    assert_eq!((reply.major, reply.max_write), (7, 1 << 20));
    assert_ne!(reply.flags & init::CREATE_SUPP_GROUP, 0);
    let figures = daemon.figures().expect("figures");
    assert!(figures.rss > 0 && figures.fds > 5);
}

#[test]
fn files_directories_and_links() {
    let Some(share) = Share::new() else { return };
    let daemon = share.daemon(&[]);
    let vm = Vm::boot(daemon.socket()).expect("boot");
    let fs = vm.client();

    let dir = fs.mkdir(ROOT_ID, "dir", 0o750).expect("mkdir");
    assert_eq!(
        share.path().join("dir").metadata().expect("stat").mode() & 0o7777,
        0o750
    );
    let (file, handle) = fs
        .create(dir.nodeid, b"\xffname", RDWR, 0o640)
        .expect("create");
    assert_eq!(
        fs.write(file.nodeid, handle.fh, 3, b"hello")
            .expect("write"),
        5
    );
    use std::os::unix::ffi::OsStrExt;
    let on_disk = share
        .path()
        .join("dir")
        .join(std::ffi::OsStr::from_bytes(b"\xffname"));
    assert_eq!(std::fs::read(&on_disk).expect("read"), b"\0\0\0hello");
    assert_eq!(
        fs.read(file.nodeid, handle.fh, 2, 100).expect("read"),
        b"\0hello"
    );
    let append = Payload::Bytes(b"!".to_vec());
    fs.write_with(file.nodeid, handle.fh, 0, append, 0, libc::O_APPEND as u32)
        .expect("append");
    assert_eq!(std::fs::read(&on_disk).expect("read"), b"\0\0\0hello!");

    let attr = fs
        .getattr(file.nodeid, Some(handle.fh))
        .expect("getattr")
        .attr;
    assert_eq!(
        (attr.size, attr.ino),
        (9, on_disk.metadata().expect("stat").ino())
    );
    let set = SetAttr {
        valid: fattr::SIZE | fattr::MODE,
        size: 4,
        mode: 0o600,
        ..Default::default()
    };
    assert_eq!(fs.setattr(file.nodeid, &set).expect("setattr").attr.size, 4);
    assert_eq!(
        on_disk.metadata().expect("stat").permissions().mode() & 0o7777,
        0o600
    );
    fs.fsync(file.nodeid, handle.fh, true).expect("fsync");
    fs.flush(file.nodeid, handle.fh).expect("flush");
    fs.fallocate(file.nodeid, handle.fh, 0, 8192, 0)
        .expect("fallocate");
    assert_eq!(on_disk.metadata().expect("stat").len(), 8192);
    let hole = fs
        .lseek(file.nodeid, handle.fh, 0, libc::SEEK_END as u32)
        .expect("lseek");
    assert_eq!(hole, 8192);
    fs.release(file.nodeid, handle.fh).expect("release");

    let link = fs.symlink(ROOT_ID, "link", "dir/target").expect("symlink");
    assert_eq!(fs.readlink(link.nodeid).expect("readlink"), b"dir/target");
    fs.link(file.nodeid, ROOT_ID, "hard").expect("link");
    assert_eq!(
        share.path().join("hard").metadata().expect("stat").nlink(),
        2
    );
    fs.mknod(ROOT_ID, "pipe", libc::S_IFIFO | 0o600, 0)
        .expect("mknod");
    assert!(share
        .path()
        .join("pipe")
        .metadata()
        .expect("stat")
        .file_type()
        .is_fifo());
    assert_eq!(encode_rdev(8, 0x123), 0x0010_0823);
    fs.rename(ROOT_ID, "hard", dir.nodeid, "moved")
        .expect("rename");
    let error = fs.rename2(dir.nodeid, "moved", ROOT_ID, "link", libc::RENAME_NOREPLACE);
    assert_eq!(error.expect_err("there is one").errno(), Some(libc::EEXIST));
    assert!(share.path().join("dir/moved").exists());
    fs.unlink(dir.nodeid, "moved").expect("unlink");
    let error = fs.rmdir(ROOT_ID, "dir").expect_err("not empty");
    assert_eq!(
        error.to_string(),
        "RMDIR of node 1 failed: Directory not empty (os error 39)"
    );
    fs.unlink(dir.nodeid, b"\xffname").expect("unlink");
    fs.rmdir(ROOT_ID, "dir").expect("rmdir");
    assert!(!share.path().join("dir").exists());

    fs.access(ROOT_ID, libc::R_OK as u32).expect("access");
    assert!(fs.statfs(ROOT_ID).expect("statfs").blocks > 0);
    fs.syncfs(ROOT_ID).expect("syncfs");
    fs.forget(file.nodeid, 3).expect("forget");
    fs.batch_forget(&[(dir.nodeid, 1), (link.nodeid, 1)])
        .expect("batch forget");
    assert_eq!(
        fs.getattr(dir.nodeid, None).expect_err("forgotten").errno(),
        Some(libc::EBADF)
    );
    fs.interrupt(1234).expect("interrupt");
    let error = fs
        .tmpfile(ROOT_ID, RDWR, 0o600)
        .expect_err("virtiofsd has no TMPFILE");
    assert_eq!(error.errno(), Some(libc::ENOSYS));
    fs.destroy().expect("destroy");
}

#[test]
fn directories_are_listed_whole_in_pieces() {
    let Some(share) = Share::new() else { return };
    for i in 0..100 {
        std::fs::write(share.path().join(format!("file{i:03}")), [i]).expect("write");
    }
    let daemon = share.daemon(&[]);
    let vm = Vm::boot(daemon.socket()).expect("boot");
    let fs = vm.client();
    let dir = fs.opendir(ROOT_ID).expect("opendir");
    let mut plain = Vec::new();
    let mut offset = 0;
    loop {
        let entries = fs.readdir(ROOT_ID, dir.fh, offset, 1000).expect("readdir");
        let Some(last) = entries.last() else { break };
        offset = last.off;
        plain.extend(entries.into_iter().map(|e| e.name));
    }
    let mut plus = Vec::new();
    let mut offset = 0;
    loop {
        let entries = fs
            .readdirplus(ROOT_ID, dir.fh, offset, 4096)
            .expect("readdirplus");
        let Some(last) = entries.last() else { break };
        offset = last.dirent.off;
        for e in entries {
            if e.entry.nodeid != 0 {
                assert_eq!((e.entry.attr.size, e.entry.attr.ino), (1, e.dirent.ino));
            }
            plus.push(e.dirent.name);
        }
    }
    plain.sort();
    plus.sort();
    assert_eq!(plain, plus);
    assert_eq!(plain.len(), 102);
    assert_eq!(plain[2], b"file000");
    fs.fsyncdir(ROOT_ID, dir.fh, false).expect("fsyncdir");
    fs.releasedir(ROOT_ID, dir.fh).expect("releasedir");
}

#[test]
fn extended_attributes() {
    let Some(share) = Share::new() else { return };
    std::fs::write(share.path().join("f"), b"").expect("write");
    for ext in [true, false] {
        // virtiofsd takes the longer form only together with ACLs.
        let acl: &[&str] = if ext { &["--posix-acl"] } else { &[] };
        let daemon = share.daemon(&[&["--xattr"], acl].concat());
        let mut request = InitRequest::default();
        if !ext {
            request.flags &= !init::SETXATTR_EXT;
        }
        let config = VmConfig {
            init: Some(request),
            ..VmConfig::default()
        };
        let vm = Vm::boot_with(daemon.socket(), config).expect("boot");
        let fs = vm.client();
        assert_eq!(vm.session().flags() & init::SETXATTR_EXT != 0, ext);
        let f = fs.lookup(ROOT_ID, "f").expect("lookup").nodeid;
        fs.setxattr(f, "user.a", b"value", 0).expect("setxattr");
        assert_eq!(fs.getxattr_size(f, "user.a").expect("size"), 5);
        assert_eq!(fs.getxattr(f, "user.a", 100).expect("getxattr"), b"value");
        assert_eq!(
            fs.listxattr(f, 100).expect("listxattr"),
            [b"user.a".to_vec()]
        );
        assert_eq!(fs.listxattr_size(f).expect("size"), 7);
        fs.removexattr(f, "user.a").expect("removexattr");
        let error = fs.getxattr(f, "user.a", 100).expect_err("removed");
        assert_eq!(error.errno(), Some(libc::ENODATA));
    }
}

#[test]
fn inodes_belong_to_the_caller_and_its_groups() {
    let Some(share) = Share::new() else { return };
    if !rustix::process::geteuid().is_root() {
        println!("skipped: changing users needs root");
        return;
    }
    let team = share.path().join("team");
    std::fs::create_dir(&team).expect("mkdir");
    std::os::unix::fs::chown(&team, Some(0), Some(4242)).expect("chown");
    std::fs::set_permissions(&team, std::fs::Permissions::from_mode(0o770)).expect("chmod");
    std::fs::set_permissions(share.path(), std::fs::Permissions::from_mode(0o777)).expect("chmod");
    let daemon = share.daemon(&[]);
    let vm = Vm::boot(daemon.socket()).expect("boot");
    let user = vm.client().as_caller(Caller::user(1000, 1000));
    let team = user.lookup(ROOT_ID, "team").expect("lookup").nodeid;
    let error = user
        .create(team, "no", RDWR, 0o600)
        .expect_err("not a member");
    assert_eq!(error.errno(), Some(libc::EACCES));
    let member = user.as_caller(Caller {
        groups: vec![4242],
        ..Caller::user(1000, 1000)
    });
    member.create(team, "yes", RDWR, 0o600).expect("a member");
    let meta = share.path().join("team/yes").metadata().expect("stat");
    assert_eq!((meta.uid(), meta.gid()), (1000, 1000));
}

#[test]
fn many_reads_in_flight_on_every_kind_of_ring() {
    let Some(share) = Share::new() else { return };
    let content: Vec<u8> = (0..32 * 8192u32).map(|i| (i / 8192 + i) as u8).collect();
    std::fs::write(share.path().join("data"), &content).expect("write");
    for (indirect, event_idx) in [(false, false), (true, false), (false, true), (true, true)] {
        let daemon = share.daemon(&["--thread-pool-size", "4"]);
        let config = VmConfig {
            indirect,
            event_idx,
            queue_size: 256,
            ..VmConfig::default()
        };
        let vm = Vm::boot_with(daemon.socket(), config).expect("boot");
        // Pages as a guest's: seven descriptors to a read.
        let fs = vm.client().with_segment(4096);
        let file = fs.lookup(ROOT_ID, "data").expect("lookup").nodeid;
        let fh = fs.open(file, libc::O_RDONLY as u32).expect("open").fh;
        let mut reads = Vec::new();
        for i in 0..32 {
            let read = call::read(file, fh, i * 8192, 8192, 0);
            reads.push(fs.submit(read).expect("submit"));
        }
        for (i, read) in reads.into_iter().enumerate() {
            let bytes = read.wait().expect("read");
            assert!(
                bytes == content[i * 8192..][..8192],
                "read {i} {indirect} {event_idx}"
            );
        }
        let sink = std::sync::Arc::new(vm.memory().alloc(content.len()).expect("alloc"));
        let n = fs
            .read_into(file, fh, 0, content.len() as u32, &sink)
            .expect("read");
        assert_eq!(n, content.len());
        assert!(sink.to_vec(0, n) == content);
    }
}

#[test]
fn threads_share_a_queue() {
    let Some(share) = Share::new() else { return };
    let daemon = share.daemon(&[]);
    let config = VmConfig {
        queue_size: 16,
        ..VmConfig::default()
    };
    let vm = Vm::boot_with(daemon.socket(), config).expect("boot");
    std::thread::scope(|scope| {
        for t in 0..8 {
            let fs = vm.client();
            scope.spawn(move || {
                for i in 0..50 {
                    let (e, h) = fs
                        .create(ROOT_ID, format!("{t}-{i}"), RDWR, 0o600)
                        .expect("create");
                    let bytes = [t as u8, i as u8];
                    fs.write(e.nodeid, h.fh, 0, &bytes).expect("write");
                    assert_eq!(fs.read(e.nodeid, h.fh, 0, 10).expect("read"), bytes);
                    fs.release(e.nodeid, h.fh).expect("release");
                }
            });
        }
    });
    assert_eq!(
        std::fs::read(share.path().join("7-49")).expect("read"),
        [7, 49]
    );
}

#[test]
fn raw_requests_reach_the_daemon_as_they_are() {
    let Some(share) = Share::new() else { return };
    let daemon = share.daemon(&[]);
    let vm = Vm::boot(daemon.socket()).expect("boot");
    let fs = vm.client();
    let reply = fs.raw(4711, ROOT_ID, b"", 100).expect("unknown opcode");
    assert_eq!((reply.errno(), reply.written), (Some(libc::ENOSYS), 16));
    // A LOOKUP in one-byte descriptors, its answer in three.
    std::fs::write(share.path().join("f"), b"").expect("write");
    let header = fs.header(opcode::LOOKUP, ROOT_ID, 2).to_bytes();
    let bytes: Vec<u8> = header.iter().copied().chain(*b"f\0").collect();
    let parts: Vec<&[u8]> = bytes.chunks(1).collect();
    let reply = fs.exchange(&parts, &[10, 6, 128], false).expect("exchange");
    assert_eq!((reply.errno(), reply.body().len()), (Some(0), 128));
}

#[test]
fn a_chain_written_by_hand() {
    let Some(share) = Share::new() else { return };
    let daemon = share.daemon(&[]);
    let vm = Vm::boot(daemon.socket()).expect("boot");
    let fs = vm.client();
    let node = fs.mkdir(ROOT_ID, "d", 0o700).expect("mkdir").nodeid;
    let message = vm.memory().alloc(48).expect("alloc");
    message
        .write_at(0, &fs.header(opcode::FORGET, node, 8).to_bytes())
        .expect("write");
    message.write_at(40, &1u64.to_le_bytes()).expect("write");
    vm.queues()[0].with(|queue| {
        let ring = queue.ring();
        // Two descriptors, last one first in the table.
        let (addr, flags) = (message.gpa(), DESC_F_NEXT);
        let tail = Descriptor {
            addr: addr + 7,
            len: 41,
            flags: 0,
            next: 99,
        };
        ring.write_desc(3, tail).expect("write");
        ring.write_desc(
            9,
            Descriptor {
                addr,
                len: 7,
                flags,
                next: 3,
            },
        )
        .expect("write");
        ring.write_avail(0, 9).expect("write");
        ring.set_avail_idx(1);
        ring.set_used_event(0);
        queue.kick_now().expect("kick");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        assert!(queue.call_fd().wait(deadline).expect("poll"));
        assert_eq!(
            (ring.used_idx(), ring.used_elem(0).expect("read")),
            (1, (9, 0))
        );
    });
    assert_eq!(
        fs.getattr(node, None).expect_err("forgotten").errno(),
        Some(libc::EBADF)
    );
}

#[test]
fn a_message_of_an_unknown_kind_ends_the_connection_with_a_clear_error() {
    let Some(share) = Share::new() else { return };
    let daemon = share.daemon(&[]);
    let mut vm = Vm::boot(daemon.socket()).expect("boot");
    let connection = vm.frontend().connection();
    let error = connection
        .request_acked(4711, &[1, 2, 3], &[])
        .expect_err("unknown");
    assert_eq!(
        error.to_string(),
        "the back-end closed the connection instead of answering unknown request \
         (0 bytes of a message arrived)"
    );
}
