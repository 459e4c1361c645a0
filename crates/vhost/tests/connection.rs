//! Connections: what front-ends may send, and how they come and go.
//!
//! | trap | test |
//! |---|---|
//! | a second front-end is refused ("already claimed") | `a_front_end_that_comes_back_finds_a_fresh_device` |
//! | an unknown request code | `an_unknown_request_ends_only_the_connection` |
//! | a front-end that skips the GET_* messages | `features_can_be_set_without_being_asked_for` |
//! | reads of the configuration space with no tag, or beyond it | `the_configuration_space_can_be_read_anywhere` |
//! | nothing ends the daemon but the front-end | `stopping_completes_what_is_in_service`, `stopping_needs_no_front_end` |
//! | a front-end that goes while a request waits | `a_front_end_may_go_while_a_request_waits` |
//! | memory that is not there, or twice | `impossible_memory_is_refused_and_the_daemon_stays` |
//! | messages in pieces, too long, or with too many descriptors | `messages_may_come_byte_by_byte`, `oversize_messages_end_only_the_connection` |

mod common;

use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

use common::*;
use ferryfs_vhost::relay::{FrontDoor, Message, Verdict};
use ferryfs_vhost::{
    run, serve_connection, serve_with_door, ConfigError, ConnectionEnd, Device, DeviceConfig,
    ExitReason, MigrationType, OnDisconnect, ServeError, StopHandle,
};

const Q: u16 = 1;

fn with_tag(tag: &str) -> DeviceConfig {
    DeviceConfig {
        tag: Some(tag.into()),
        request_queues: 3,
        ..DeviceConfig::default()
    }
}

#[test]
fn by_default_the_daemon_ends_with_its_front_end() {
    let daemon = Daemon::start(DeviceConfig::default(), false);
    daemon.boot(2, BASIC).assert_serves(Q);
    assert_eq!(daemon.join(), ExitReason::Disconnected);
    let daemon = Daemon::start(DeviceConfig::default(), false);
    let vmm = daemon.connect();
    vmm.send(9999, 0, &[], &[]);
    assert!(vmm.hung_up_on());
    assert_eq!(daemon.join(), ExitReason::Refused);
}

#[test]
fn a_front_end_that_comes_back_finds_a_fresh_device() {
    let daemon = Daemon::plain();
    for _ in 0..3 {
        let mut vmm = daemon.boot(2, BASIC);
        vmm.assert_serves(Q);
    }
    let server = daemon.server.clone();
    assert_eq!(daemon.stop_and_join(), ExitReason::Stopped);
    assert_eq!(server.calls(), ["reset"; 3]);
}

#[test]
fn a_device_may_keep_its_guest_s_state() {
    let config = DeviceConfig {
        on_disconnect: OnDisconnect::Keep,
        ..DeviceConfig::default()
    };
    let daemon = Daemon::start(config, true);
    daemon.boot(2, BASIC).assert_serves(Q);
    daemon.boot(2, BASIC).assert_serves(Q);
    assert_eq!(daemon.server.calls(), [""; 0]);
}

#[test]
fn one_front_end_at_a_time() {
    let server = Arc::new(Scripted::default());
    let device = Arc::new(Device::new(server, DeviceConfig::default()).unwrap());
    let stop = StopHandle::new().unwrap();
    let (theirs, ours) = UnixStream::pair().unwrap();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| serve_connection(&device, ours, &stop));
        let vmm = Vmm::new(theirs);
        vmm.negotiate(BASIC);
        let (_, second) = UnixStream::pair().unwrap();
        let refused = serve_connection(&device, second, &stop);
        assert!(matches!(refused, Err(ServeError::Busy)));
        stop.stop();
        assert_eq!(first.join().unwrap().unwrap(), ConnectionEnd::Stopped);
        assert!(vmm.hung_up_on());
    });
}

#[test]
fn an_unknown_request_ends_only_the_connection() {
    let daemon = Daemon::plain();
    for request in [0, 7, 35, 40, 45, 1 << 20, u32::MAX] {
        let vmm = daemon.connect();
        vmm.negotiate(BASIC);
        vmm.send(request, 0, &[0; 8], &[]);
        assert!(vmm.hung_up_on(), "request {request}");
    }
    daemon.boot(2, BASIC).assert_serves(Q);
}

#[test]
fn features_can_be_set_without_being_asked_for() {
    let daemon = Daemon::plain();
    let mut vmm = daemon.connect();
    vmm.send(SET_OWNER, 0, &[], &[]);
    vmm.send(SET_PROTOCOL_FEATURES, 0, &PROTOCOL.to_ne_bytes(), &[]);
    vmm.send(SET_FEATURES, 0, &BASIC.to_ne_bytes(), &[]);
    vmm.set_mem_table(&[(0, MEM_SIZE)]);
    vmm.start_queue(0, 0);
    vmm.start_queue(Q, 0);
    vmm.assert_serves(Q);
    vmm.assert_serves(0);
}

#[test]
fn features_that_are_not_offered_are_refused() {
    let daemon = Daemon::plain();
    let vmm = daemon.connect();
    vmm.negotiate(BASIC);
    let features = BASIC | 1 << 34; // VIRTIO_F_RING_PACKED
    assert_eq!(
        vmm.ack(SET_FEATURES, &features.to_ne_bytes(), &[]),
        Some(false)
    );
    daemon.connect().negotiate(BASIC);
}

#[test]
fn what_is_not_there_is_not_offered() {
    const CONFIG: u64 = 1 << 9;
    const DEVICE_STATE: u64 = 1 << 19;
    const INFLIGHT: u64 = 1 << 12;
    let protocol = |config: DeviceConfig| {
        let daemon = Daemon::start(config, true);
        daemon.connect().get(GET_PROTOCOL_FEATURES)
    };
    let plain = protocol(DeviceConfig::default());
    assert_eq!(plain & (CONFIG | DEVICE_STATE), DEVICE_STATE);
    assert_eq!(plain & INFLIGHT, 0);
    assert_eq!(plain >> 20, 0, "their meaning has changed over time");
    assert_ne!(protocol(with_tag("t")) & CONFIG, 0);
    let fixed = DeviceConfig {
        migration: MigrationType::None,
        ..DeviceConfig::default()
    };
    assert_eq!(protocol(fixed.clone()) & DEVICE_STATE, 0);
    let features = Daemon::start(fixed, true).connect().get(GET_FEATURES);
    assert_eq!(
        features & F_LOG_ALL,
        0,
        "a front-end would begin to migrate"
    );
    assert_ne!(Daemon::plain().connect().get(GET_FEATURES) & F_LOG_ALL, 0);
}

#[test]
fn the_configuration_space_can_be_read_anywhere() {
    let daemon = Daemon::start(with_tag("the share"), true);
    let vmm = daemon.connect();
    vmm.negotiate(BASIC);
    let all = vmm.get_config(0, 40).unwrap();
    assert_eq!(
        &all[..36],
        b"the share\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
    );
    assert_eq!(&all[36..], 3u32.to_le_bytes());
    for (offset, size) in [(36, 4), (4, 1), (35, 3), (38, 10), (40, 8), (200, 56)] {
        let part = vmm.get_config(offset, size).unwrap();
        let expected: Vec<u8> = (offset..offset + size)
            .map(|at| all.get(at as usize).copied().unwrap_or(0))
            .collect();
        assert_eq!(part, expected, "{size} at {offset}");
    }
    // A guest's write is no reason to hang up.
    let mut write = [0u32, 4, 0].map(u32::to_ne_bytes).concat();
    write.extend(b"evil");
    assert_eq!(vmm.ack(SET_CONFIG, &write, &[]), Some(true));
    assert_eq!(vmm.get_config(0, 40).unwrap(), all);
    drop(vmm);
    // Sizes and offsets that no space has end the connection at worst.
    for (offset, size) in [(u32::MAX, 1), (u32::MAX, 4000), (0, 4084), (4000, 200)] {
        let vmm = daemon.connect();
        vmm.negotiate(BASIC);
        if let Some(part) = vmm.get_config(offset, size) {
            assert!(part.len() <= size as usize);
        }
    }
    daemon.boot(2, BASIC).assert_serves(Q);
}

#[test]
fn impossible_configurations_are_refused() {
    let with = |config| Device::new(Arc::new(Scripted::default()), config).err();
    assert_eq!(with(with_tag("")), Some(ConfigError::Tag(0)));
    assert_eq!(with(with_tag(&"t".repeat(37))), Some(ConfigError::Tag(37)));
    assert_eq!(with(with_tag(&"t".repeat(36))), None);
    for request_queues in [0, 64, u16::MAX] {
        let config = DeviceConfig {
            request_queues,
            ..DeviceConfig::default()
        };
        assert_eq!(
            with(config),
            Some(ConfigError::RequestQueues(request_queues))
        );
    }
    for max_queue_size in [0, 100, 32769] {
        let config = DeviceConfig {
            max_queue_size,
            ..DeviceConfig::default()
        };
        assert_eq!(with(config), Some(ConfigError::QueueSize(max_queue_size)));
    }
}

#[test]
fn stopping_completes_what_is_in_service() {
    let daemon = Daemon::plain();
    let mut vmm = daemon.boot(2, BASIC);
    let head = vmm.queue(Q, Op::Insist);
    vmm.kick(Q);
    let server = daemon.server.clone();
    eventually("the request is in service", || {
        server.with(|s| s.waiting == 1)
    });
    daemon.stop.stop();
    meanwhile();
    assert_eq!(vmm.completions(Q), 0);
    server.with(|s| s.released = 1);
    assert_eq!(daemon.join(), ExitReason::Stopped);
    let (done, len) = vmm.completion(Q);
    assert_eq!((done, vmm.reply(Q, head, len).0), (head, 0));
    assert!(vmm.interrupted(Q));
    assert!(vmm.hung_up_on());
    let calls = server.calls();
    assert_eq!(calls.last(), Some(&"reset"), "{calls:?}");
}

#[test]
fn stopping_needs_no_front_end() {
    let daemon = Daemon::plain();
    assert_eq!(daemon.stop_and_join(), ExitReason::Stopped);
    // Nor does it have to come first.
    let daemon = Daemon::plain();
    daemon.stop.stop();
    daemon.stop.stop();
    assert_eq!(daemon.join(), ExitReason::Stopped);
}

#[test]
fn a_front_end_may_go_while_a_request_waits() {
    let daemon = Daemon::plain();
    let mut vmm = daemon.boot(2, BASIC);
    vmm.queue(Q, Op::Wait);
    vmm.kick(Q);
    let server = daemon.server.clone();
    eventually("the request waits", || server.with(|s| s.waiting == 1));
    drop(vmm);
    eventually("the server is reset", || server.calls().contains(&"reset"));
    assert_eq!(server.calls(), ["interrupt", "resume", "reset"]);
    // Also while it waits for the ring's end.
    let mut vmm = daemon.boot(2, BASIC);
    vmm.queue(Q, Op::Insist);
    vmm.kick(Q);
    eventually("the request waits", || server.with(|s| s.waiting == 1));
    vmm.send(
        GET_VRING_BASE,
        0,
        &[1u32, 0].map(u32::to_ne_bytes).concat(),
        &[],
    );
    drop(vmm);
    meanwhile();
    server.with(|s| s.released = 1);
    daemon.boot(2, BASIC).assert_serves(Q);
}

#[test]
fn impossible_memory_is_refused_and_the_daemon_stays() {
    let daemon = Daemon::plain();
    let small = Shared::new(0x1000);
    let try_table = |regions: &[(u64, u64)], small_file: bool| {
        let vmm = daemon.connect();
        vmm.negotiate(BASIC);
        let file = if small_file {
            &small.file
        } else {
            &vmm.mem.file
        };
        let answer = vmm.try_mem_table(regions, file);
        assert_ne!(answer, Some(true), "{regions:?}");
    };
    try_table(&[(0, HALF)], true);
    try_table(&[(0, HALF), (0, HALF)], false);
    try_table(&[(0, HALF), (HALF - 0x1000, HALF)], false);
    try_table(&[(0, 0)], false);
    try_table(&[(u64::MAX - 0xfff, 0x1000)], false);
    try_table(&[(0, u64::MAX)], false);
    try_table(&[], false);
    // One region at a time, likewise; what was there stays.
    let mut vmm = daemon.connect();
    vmm.negotiate(BASIC);
    assert_eq!(vmm.get(GET_MAX_MEM_SLOTS), 509);
    assert_eq!(vmm.add_region((0, HALF)), Some(true));
    assert_eq!(vmm.add_region((HALF, HALF)), Some(true));
    vmm.start_queue(0, 0);
    vmm.start_queue(Q, 0);
    vmm.assert_serves(Q);
    assert_eq!(vmm.add_region((HALF, HALF)), Some(false));
    drop(vmm);
    let vmm = daemon.connect();
    vmm.negotiate(BASIC);
    assert_ne!(vmm.remove_region((HALF, HALF)), Some(true));
    drop(vmm);
    // A log that is shorter than it claims.
    let vmm = daemon.boot(2, BASIC);
    assert_eq!(vmm.set_log_of(&small, 0x2000), None);
    drop(vmm);
    daemon.boot(2, BASIC).assert_serves(Q);
}

#[test]
fn a_device_reset_forgets_and_serves_again() {
    let daemon = Daemon::plain();
    let mut vmm = daemon.boot(2, BASIC);
    vmm.queue(Q, Op::Wait);
    vmm.kick(Q);
    let server = daemon.server.clone();
    eventually("the request waits", || server.with(|s| s.waiting == 1));
    vmm.must(RESET_DEVICE, &[], &[]);
    assert_eq!(server.calls(), ["interrupt", "resume", "reset"]);
    assert_eq!(vmm.completions(Q), 1, "what was in service is over");
    vmm.queue(Q, Op::Echo(b"hello?".to_vec()));
    vmm.kick(Q);
    meanwhile();
    assert_eq!(vmm.completions(Q), 1, "rings are disabled by a reset");
    vmm.set_features(BASIC);
    vmm.mem.write(avail_at(Q), &[0; 64]);
    vmm.mem.write(used_at(Q), &[0; 256]);
    vmm.stop_queue(Q);
    vmm.start_queue(Q, 0);
    vmm.assert_serves(Q);
}

#[test]
fn the_owner_may_be_reset() {
    let daemon = Daemon::plain();
    let vmm = daemon.connect();
    vmm.negotiate(BASIC);
    vmm.send(RESET_OWNER, 0, &[], &[]);
    vmm.negotiate(BASIC);
    // Twice the owner is once too often.
    vmm.send(SET_OWNER, 0, &[], &[]);
    assert!(vmm.hung_up_on());
    daemon.boot(2, BASIC).assert_serves(Q);
}

#[test]
fn a_channel_to_the_front_end_is_kept_open() {
    const BACKEND_REQ: u64 = 1 << 5;
    let daemon = Daemon::plain();
    let vmm = daemon.connect();
    vmm.negotiate(BASIC);
    let protocol = (PROTOCOL & !(1 << 9)) | BACKEND_REQ;
    vmm.send(SET_PROTOCOL_FEATURES, 0, &protocol.to_ne_bytes(), &[]);
    let (theirs, ours) = UnixStream::pair().unwrap();
    vmm.must(SET_BACKEND_REQ_FD, &[], &[theirs.as_fd()]);
    drop(theirs);
    ours.set_nonblocking(true).unwrap();
    let open = std::io::Read::read(&mut &ours, &mut [0]).unwrap_err();
    assert_eq!(open.kind(), std::io::ErrorKind::WouldBlock);
    drop(vmm);
    eventually("it is closed with the connection", || {
        matches!(std::io::Read::read(&mut &ours, &mut [0]), Ok(0))
    });
}

#[test]
fn messages_may_come_byte_by_byte() {
    let daemon = Daemon::plain();
    let vmm = daemon.connect();
    vmm.negotiate(BASIC);
    let mut message = [SET_MEM_TABLE, 1 | 8, 40].map(u32::to_ne_bytes).concat();
    message.extend([1u32, 0].map(u32::to_ne_bytes).concat());
    message.extend([0, MEM_SIZE, 0x7000_0000, 0].map(u64::to_ne_bytes).concat());
    let fd = vmm.mem.file.as_fd();
    for (i, byte) in message.iter().enumerate() {
        let fds = if i == 0 { &[fd][..] } else { &[] };
        vmm.send_raw(&[*byte], fds).unwrap();
        if i % 8 == 0 {
            std::thread::yield_now();
        }
    }
    assert_eq!(vmm.receive(), Some((SET_MEM_TABLE, vec![0; 8])));
    // Many at once, too.
    let message = [GET_FEATURES, 1, 0].map(u32::to_ne_bytes).concat();
    vmm.send_raw(&message.repeat(100), &[]).unwrap();
    for _ in 0..100 {
        assert_eq!(vmm.receive().unwrap().0, GET_FEATURES);
    }
}

#[test]
fn oversize_messages_end_only_the_connection() {
    let daemon = Daemon::plain();
    for size in [4097, 1 << 20, u32::MAX] {
        let vmm = daemon.connect();
        let header = [GET_FEATURES, 1, size].map(u32::to_ne_bytes).concat();
        vmm.send_raw(&header, &[]).unwrap();
        assert!(vmm.hung_up_on(), "size {size}");
    }
    for count in [33, 40, 60] {
        let vmm = daemon.connect();
        let header = [GET_FEATURES, 1, 0].map(u32::to_ne_bytes).concat();
        vmm.send_raw(&header, &vec![vmm.mem.file.as_fd(); count])
            .unwrap();
        assert!(vmm.hung_up_on(), "{count} descriptors");
    }
    // Cut off in a header, and in a payload.
    for cut in [
        &b"\x01\0\0"[..],
        &[1, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 1][..],
    ] {
        let vmm = daemon.connect();
        vmm.send_raw(cut, &[]).unwrap();
    }
    daemon.boot(2, BASIC).assert_serves(Q);
}

/// A front door that knows message 1000, and turns away 1001.
struct Butler;

impl FrontDoor for Butler {
    fn inspect(&self, message: Message) -> Verdict {
        match message.request() {
            1000 if message.flags() & 8 != 0 => {
                assert_eq!(message.fds.len(), 1);
                Verdict::Answer(Message::new(1000, 5, message.payload()))
            }
            1000 => Verdict::Swallow,
            1001 => Verdict::Refuse("not at home".into()),
            _ => Verdict::Forward(message),
        }
    }
}

#[test]
fn the_front_door_answers_messages_of_its_own() {
    let server = Arc::new(Scripted::default());
    let device = Arc::new(Device::new(server, DeviceConfig::default()).unwrap());
    let stop = StopHandle::new().unwrap();
    let (theirs, ours) = UnixStream::pair().unwrap();
    let served = std::thread::spawn(move || serve_with_door(&device, ours, &stop, &Butler));
    let vmm = Vmm::new(theirs);
    vmm.negotiate(BASIC);
    vmm.send(1000, 0, b"psst", &[]);
    vmm.send(1000, 8, b"hello", &[vmm.mem.file.as_fd()]);
    assert_eq!(vmm.receive(), Some((1000, b"hello".to_vec())));
    assert_ne!(vmm.get(GET_FEATURES), 0);
    vmm.send(1001, 0, &[], &[]);
    assert!(vmm.hung_up_on());
    assert_eq!(served.join().unwrap().unwrap(), ConnectionEnd::Refused);
}

#[test]
fn a_socket_that_does_not_listen_is_an_error() {
    let server = Arc::new(Scripted::default());
    let device = Arc::new(Device::new(server, DeviceConfig::default()).unwrap());
    let stop = StopHandle::new().unwrap();
    let (_other, stream) = UnixStream::pair().unwrap();
    let listener = UnixListener::from(std::os::fd::OwnedFd::from(stream));
    drop(_other); // ready, but nothing can be accepted
    assert!(matches!(
        run(&device, &listener, true, &stop),
        Err(ServeError::Accept(_))
    ));
}
