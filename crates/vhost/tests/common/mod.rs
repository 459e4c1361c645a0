//! A front-end reduced to the wire, so that tests can also send what no sane one
//! would; a driver for its virtqueues; and a server that does as its requests say.

#![allow(dead_code)] // each test binary uses its part

pub mod server;

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ferryfs_vhost::{
    run, serve_control, Device, DeviceConfig, ExitReason, ListenSocket, ServeError, StopHandle,
};
use rustix::event::{eventfd, EventfdFlags};
use rustix::net::{sendmsg, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

pub use server::{Op, Scripted};

pub const GET_FEATURES: u32 = 1;
pub const SET_FEATURES: u32 = 2;
pub const SET_OWNER: u32 = 3;
pub const RESET_OWNER: u32 = 4;
pub const SET_MEM_TABLE: u32 = 5;
pub const SET_LOG_BASE: u32 = 6;
pub const SET_VRING_NUM: u32 = 8;
pub const SET_VRING_ADDR: u32 = 9;
pub const SET_VRING_BASE: u32 = 10;
pub const GET_VRING_BASE: u32 = 11;
pub const SET_VRING_KICK: u32 = 12;
pub const SET_VRING_CALL: u32 = 13;
pub const GET_PROTOCOL_FEATURES: u32 = 15;
pub const SET_PROTOCOL_FEATURES: u32 = 16;
pub const GET_QUEUE_NUM: u32 = 17;
pub const SET_VRING_ENABLE: u32 = 18;
pub const SET_BACKEND_REQ_FD: u32 = 21;
pub const GET_CONFIG: u32 = 24;
pub const SET_CONFIG: u32 = 25;
pub const RESET_DEVICE: u32 = 34;
pub const GET_MAX_MEM_SLOTS: u32 = 36;
pub const ADD_MEM_REG: u32 = 37;
pub const REM_MEM_REG: u32 = 38;
pub const SET_DEVICE_STATE_FD: u32 = 42;
pub const CHECK_DEVICE_STATE: u32 = 43;

/// Answers to SET_DEVICE_STATE_FD: no descriptor returned, and no error or one.
pub const ACCEPTED: u64 = 0x100;
pub const REFUSED: u64 = 0x101;

pub const SAVE: u32 = 0;
pub const LOAD: u32 = 1;

pub const F_VERSION_1: u64 = 1 << 32;
pub const F_PROTOCOL: u64 = 1 << 30;
pub const F_EVENT_IDX: u64 = 1 << 29;
pub const F_LOG_ALL: u64 = 1 << 26;
pub const BASIC: u64 = F_VERSION_1 | F_PROTOCOL;

/// MQ, LOG_SHMFD, REPLY_ACK, CONFIG, RESET_DEVICE, CONFIGURE_MEM_SLOTS, DEVICE_STATE.
pub const PROTOCOL: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 9 | 1 << 13 | 1 << 15 | 1 << 19;

const NEED_REPLY: u32 = 8;
const PATIENCE: Duration = Duration::from_secs(20);

/// Where guest memory lies in the front-end's own address space.
const VA: u64 = 0x7000_0000_0000;
pub const MEM_SIZE: u64 = 32 << 20;
/// Memory regions are halves of guest memory.
pub const HALF: u64 = MEM_SIZE / 2;
/// Free for tests: 8 MiB in the first half.
pub const BIG: u64 = 8 << 20;
pub const QUEUE_SIZE: u16 = 16;

/// A daemon in a thread.
pub struct Daemon {
    pub server: Arc<Scripted>,
    pub stop: StopHandle,
    path: PathBuf,
    control: PathBuf,
    thread: Option<JoinHandle<Result<ExitReason, ServeError>>>,
    _dir: tempfile::TempDir,
}

impl Daemon {
    pub fn start(config: DeviceConfig, keep_listening: bool) -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vhost.sock");
        let socket = ListenSocket::bind(&path).unwrap();
        let server = Arc::new(Scripted::default());
        let device = Arc::new(Device::new(Arc::clone(&server), config).unwrap());
        let stop = StopHandle::new().unwrap();
        let stopped = stop.clone();
        let control = dir.path().join("control.sock");
        let operators = ListenSocket::bind(&control).unwrap();
        let (controlled, ended) = (Arc::clone(&device), stop.clone());
        std::thread::spawn(move || serve_control(&controlled, operators.listener(), &ended));
        let thread =
            std::thread::spawn(move || run(&device, socket.listener(), keep_listening, &stopped));
        Daemon {
            server,
            stop,
            path,
            control,
            thread: Some(thread),
            _dir: dir,
        }
    }

    /// Keeps listening, with one request queue.
    pub fn plain() -> Daemon {
        Daemon::start(DeviceConfig::default(), true)
    }

    pub fn socket(&self) -> &Path {
        &self.path
    }

    pub fn connect(&self) -> Vmm {
        Vmm::new(UnixStream::connect(&self.path).unwrap())
    }

    /// An operator on the control socket.
    pub fn operator(&self) -> Vmm {
        let operator = Vmm::new(UnixStream::connect(&self.control).unwrap());
        operator.negotiate(BASIC);
        operator
    }

    /// A front-end with `queues` running rings.
    pub fn boot(&self, queues: u16, features: u64) -> Vmm {
        let mut vmm = self.connect();
        vmm.negotiate(features);
        vmm.set_mem_table(&[(0, MEM_SIZE)]);
        for queue in 0..queues {
            vmm.start_queue(queue, 0);
        }
        vmm
    }

    /// A front-end whose rings are set up but stopped; `queue` has served.
    pub fn paused(&self, queue: u16) -> Vmm {
        let mut vmm = self.boot(2, BASIC);
        vmm.assert_serves(queue);
        vmm.stop_queue(0);
        vmm.stop_queue(queue);
        vmm
    }

    pub fn join(mut self) -> ExitReason {
        self.thread.take().unwrap().join().unwrap().unwrap()
    }

    pub fn stop_and_join(self) -> ExitReason {
        self.stop.stop();
        self.join()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // A test that fails leaves requests waiting; it should fail, not hang.
        self.server.with(|s| {
            s.released += 1000;
            s.cancel_is_slow = false;
            s.save_is_slow = false;
        });
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits until `true`, and fails the test when it never gets so.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Gives something that must not happen the time to happen.
pub fn meanwhile() {
    std::thread::sleep(Duration::from_millis(60));
}

pub fn pipe() -> (File, File) {
    let (read, write) = rustix::pipe::pipe().unwrap();
    (read.into(), write.into())
}

/// Shared memory, mapped.
pub struct Shared {
    pub file: File,
    address: *mut u8,
    len: usize,
}

// SAFETY: the memory is only accessed by volatile reads and writes.
unsafe impl Send for Shared {}

impl Shared {
    pub fn new(len: u64) -> Shared {
        let fd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, len).unwrap();
        Shared::map(fd.into(), len)
    }

    pub fn map(file: File, len: u64) -> Shared {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                std::os::fd::AsRawFd::as_raw_fd(&file),
                0,
            )
        };
        assert_ne!(address, libc::MAP_FAILED);
        Shared {
            file,
            address: address.cast(),
            len: len as usize,
        }
    }

    pub fn write(&self, at: u64, bytes: &[u8]) {
        for (i, &byte) in bytes.iter().enumerate() {
            let at = at as usize + i;
            assert!(at < self.len);
            // SAFETY: within the mapping.
            unsafe { self.address.add(at).write_volatile(byte) };
        }
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    pub fn read(&self, at: u64, len: usize) -> Vec<u8> {
        std::sync::atomic::fence(Ordering::SeqCst);
        assert!(at as usize + len <= self.len);
        (0..len)
            // SAFETY: within the mapping.
            .map(|i| unsafe { self.address.add(at as usize + i).read_volatile() })
            .collect()
    }

    pub fn u16(&self, at: u64) -> u16 {
        let bytes = self.read(at, 2);
        u16::from_le_bytes([bytes[0], bytes[1]])
    }

    pub fn u32(&self, at: u64) -> u32 {
        u32::from(self.u16(at)) | u32::from(self.u16(at + 2)) << 16
    }

    /// Pages whose bit is set, for memory used as a dirty log.
    pub fn pages(&self) -> Vec<u64> {
        let bytes = self.read(0, self.len);
        (0..self.len as u64 * 8)
            .filter(|page| bytes[*page as usize / 8] & (1 << (page % 8)) != 0)
            .collect()
    }

    pub fn clear(&self) {
        self.write(0, &vec![0; self.len]);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing borrows from it.
        unsafe { libc::munmap(self.address.cast(), self.len) };
    }
}

/// The driver's half of a virtqueue.
pub struct DriverQueue {
    index: u16,
    kick: OwnedFd,
    call: OwnedFd,
    /// Index of the next entry of the available ring.
    avail: u16,
    /// Index of the next entry of the used ring to be looked at.
    used: u16,
}

/// A front-end and its guest's memory.
pub struct Vmm {
    stream: UnixStream,
    pub mem: Shared,
    pub queues: Vec<DriverQueue>,
}

fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_ne_bytes()).collect()
}

fn longs(longs: &[u64]) -> Vec<u8> {
    longs.iter().flat_map(|w| w.to_ne_bytes()).collect()
}

/// Ring addresses of a queue: a page each, so that the dirty log tells them apart.
pub fn desc_at(queue: u16) -> u64 {
    0x1_0000 + u64::from(queue) * 0x3000
}
pub fn avail_at(queue: u16) -> u64 {
    desc_at(queue) + 0x1000
}
pub fn used_at(queue: u16) -> u64 {
    desc_at(queue) + 0x2000
}

impl Vmm {
    pub fn new(stream: UnixStream) -> Vmm {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Vmm {
            stream,
            mem: Shared::new(MEM_SIZE),
            queues: Vec::new(),
        }
    }

    // Messages.

    pub fn send_raw(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> rustix::io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        sendmsg(
            &self.stream,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        )
    }

    pub fn send(&self, request: u32, flags: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut bytes = words(&[request, 1 | flags, payload.len() as u32]);
        bytes.extend_from_slice(payload);
        assert_eq!(self.send_raw(&bytes, fds), Ok(bytes.len()));
    }

    /// The next message from the back-end: request, payload; `None` when it hung up.
    pub fn receive(&self) -> Option<(u32, Vec<u8>)> {
        let mut header = [0; 12];
        if (&self.stream).read_exact(&mut header).is_err() {
            return None;
        }
        let word = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|i| header[at + i]));
        assert_eq!(word(4) & 7, 5, "flags of a reply");
        let mut payload = vec![0; word(8) as usize];
        (&self.stream).read_exact(&mut payload).unwrap();
        Some((word(0), payload))
    }

    /// Whether the back-end has hung up (it must, or say something).
    pub fn hung_up_on(&self) -> bool {
        matches!((&self.stream).read(&mut [0]), Ok(0) | Err(_))
    }

    fn long(&self, request: u32) -> Option<u64> {
        let (answered, payload) = self.receive()?;
        assert_eq!(answered, request);
        Some(u64::from_ne_bytes(payload.try_into().unwrap()))
    }

    pub fn get(&self, request: u32) -> u64 {
        self.send(request, 0, &[], &[]);
        self.long(request).unwrap()
    }

    /// Sends and asks for an acknowledgement, and answers whether it was good;
    /// `None` when the back-end hung up instead.
    pub fn ack(&self, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) -> Option<bool> {
        self.send(request, NEED_REPLY, payload, fds);
        self.long(request).map(|code| code == 0)
    }

    pub fn must(&self, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) {
        assert_eq!(self.ack(request, payload, fds), Some(true), "{request}");
    }

    pub fn negotiate(&self, features: u64) {
        self.send(SET_OWNER, 0, &[], &[]);
        let offered = self.get(GET_FEATURES);
        assert_eq!(features & !offered, 0);
        let protocol = self.get(GET_PROTOCOL_FEATURES);
        self.send(
            SET_PROTOCOL_FEATURES,
            0,
            &longs(&[protocol & PROTOCOL]),
            &[],
        );
        self.set_features(features);
    }

    pub fn set_features(&self, features: u64) {
        self.must(SET_FEATURES, &longs(&[features]), &[]);
    }

    /// What the device saves, and the answer to CHECK_DEVICE_STATE.
    pub fn save(&self) -> (Vec<u8>, u64) {
        let (mut read, write) = pipe();
        assert_eq!(self.set_device_state(SAVE, write.as_fd()), ACCEPTED);
        drop(write);
        let mut state = Vec::new();
        read.read_to_end(&mut state).unwrap();
        (state, self.check_device_state())
    }

    /// Has the device load `state`; the answer to CHECK_DEVICE_STATE.
    pub fn load(&self, state: &[u8]) -> u64 {
        let (read, mut write) = pipe();
        assert_eq!(self.set_device_state(LOAD, read.as_fd()), ACCEPTED);
        drop(read);
        let _ = write.write_all(state);
        drop(write);
        self.check_device_state()
    }

    /// Regions by start and length; every one is at its address in the memory file.
    pub fn set_mem_table(&self, regions: &[(u64, u64)]) {
        let file = &self.mem.file;
        assert_eq!(self.try_mem_table(regions, file), Some(true));
    }

    pub fn try_mem_table(&self, regions: &[(u64, u64)], file: &File) -> Option<bool> {
        let mut payload = words(&[regions.len() as u32, 0]);
        for &(start, len) in regions {
            payload.extend(longs(&[start, len, VA.wrapping_add(start), start]));
        }
        let fds = vec![file.as_fd(); regions.len()];
        self.ack(SET_MEM_TABLE, &payload, &fds)
    }

    /// A second voice of this front-end, that sends its memory table again and again
    /// until `enough`. Answers how often.
    pub fn remapper(&self) -> impl FnOnce(&AtomicBool) -> usize + Send {
        let other = Vmm {
            stream: self.stream.try_clone().unwrap(),
            mem: Shared::map(self.mem.file.try_clone().unwrap(), MEM_SIZE),
            queues: Vec::new(),
        };
        move |enough| {
            let mut times = 0;
            while !enough.load(Ordering::SeqCst) {
                other.set_mem_table(&[(0, HALF), (HALF, HALF)]);
                times += 1;
            }
            times
        }
    }

    pub fn add_region(&self, (start, len): (u64, u64)) -> Option<bool> {
        let payload = longs(&[0, start, len, VA + start, start]);
        self.ack(ADD_MEM_REG, &payload, &[self.mem.file.as_fd()])
    }

    pub fn remove_region(&self, (start, len): (u64, u64)) -> Option<bool> {
        self.ack(
            REM_MEM_REG,
            &longs(&[0, start, len, VA + start, start]),
            &[],
        )
    }

    /// `None` when the back-end hung up.
    pub fn set_log(&self, log: &Shared) -> Option<()> {
        self.set_log_of(log, log.len as u64)
    }

    /// With a length that may not be the log's.
    pub fn set_log_of(&self, log: &Shared, len: u64) -> Option<()> {
        let payload = longs(&[len, 0]);
        self.send(SET_LOG_BASE, 0, &payload, &[log.file.as_fd()]);
        self.receive()
            .map(|(request, _)| assert_eq!(request, SET_LOG_BASE))
    }

    // Rings.

    /// Sets a ring up without starting it; `base` is where the device goes on.
    pub fn set_up_queue(&mut self, queue: u16, base: u16) {
        let index = u32::from(queue);
        self.must(SET_VRING_NUM, &words(&[index, u32::from(QUEUE_SIZE)]), &[]);
        self.must(SET_VRING_BASE, &words(&[index, u32::from(base)]), &[]);
        let mut address = words(&[index, 0]);
        address.extend(longs(&[
            VA + desc_at(queue),
            VA + used_at(queue),
            VA + avail_at(queue),
            0,
        ]));
        self.must(SET_VRING_ADDR, &address, &[]);
        let made = DriverQueue {
            index: queue,
            kick: event(),
            call: event(),
            avail: self.mem.u16(avail_at(queue) + 2),
            used: self.mem.u16(used_at(queue) + 2),
        };
        let call = made.call.as_fd();
        self.must(SET_VRING_CALL, &longs(&[u64::from(queue)]), &[call]);
        match self.queues.iter().position(|q| q.index == queue) {
            Some(old) => self.queues[old] = made,
            None => self.queues.push(made),
        }
        self.queues.sort_by_key(|q| q.index);
    }

    pub fn set_kick(&self, queue: u16) {
        let kick = self.queues[usize::from(queue)].kick.as_fd();
        self.must(SET_VRING_KICK, &longs(&[u64::from(queue)]), &[kick]);
    }

    pub fn replace_kick(&mut self, queue: u16) {
        // The old one is kept open, as a hypervisor may.
        std::mem::forget(std::mem::replace(
            &mut self.queues[usize::from(queue)].kick,
            event(),
        ));
        self.set_kick(queue);
    }

    pub fn enable(&self, queue: u16, enable: bool) {
        let payload = words(&[u32::from(queue), u32::from(enable)]);
        self.must(SET_VRING_ENABLE, &payload, &[]);
    }

    pub fn start_queue(&mut self, queue: u16, base: u16) {
        self.set_up_queue(queue, base);
        self.set_kick(queue);
        self.enable(queue, true);
    }

    /// Stops a ring and answers its base.
    pub fn stop_queue(&self, queue: u16) -> u16 {
        let payload = words(&[u32::from(queue), 0]);
        self.send(GET_VRING_BASE, 0, &payload, &[]);
        let (_, answer) = self.receive().unwrap();
        u16::from_ne_bytes([answer[4], answer[5]])
    }

    pub fn get_config(&self, offset: u32, size: u32) -> Option<Vec<u8>> {
        let mut payload = words(&[offset, size, 0]);
        payload.resize(12 + size as usize, 0);
        self.send(GET_CONFIG, 0, &payload, &[]);
        self.receive().map(|(_, payload)| payload[12..].to_vec())
    }

    pub fn set_device_state(&self, direction: u32, fd: BorrowedFd<'_>) -> u64 {
        self.send(SET_DEVICE_STATE_FD, 0, &words(&[direction, 0]), &[fd]);
        self.long(SET_DEVICE_STATE_FD).unwrap()
    }

    pub fn check_device_state(&self) -> u64 {
        self.get(CHECK_DEVICE_STATE)
    }

    // Requests.

    /// Where a request in `slot` lies: its readable and its writable page.
    pub fn buffers(queue: u16, slot: u16) -> (u64, u64) {
        let at = 0x10_0000 + u64::from(queue) * 0x1_0000 + u64::from(slot) * 0x2000;
        (at, at + 0x1000)
    }

    pub fn put_desc(&self, queue: u16, at: u16, (address, len): (u64, u32), flags: u16, next: u16) {
        let mut desc = address.to_le_bytes().to_vec();
        desc.extend(len.to_le_bytes());
        desc.extend(flags.to_le_bytes());
        desc.extend(next.to_le_bytes());
        self.mem.write(desc_at(queue) + u64::from(at) * 16, &desc);
    }

    /// Makes the chain that begins with descriptor `head` available.
    pub fn offer(&mut self, queue: u16, head: u16) {
        let q = &mut self.queues[usize::from(queue)];
        let entry = avail_at(queue) + 4 + u64::from(q.avail % QUEUE_SIZE) * 2;
        self.mem.write(entry, &head.to_le_bytes());
        q.avail = q.avail.wrapping_add(1);
        self.mem.write(avail_at(queue) + 2, &q.avail.to_le_bytes());
    }

    pub fn kick(&self, queue: u16) {
        let kick = &self.queues[usize::from(queue)].kick;
        rustix::io::write(kick, &1u64.to_ne_bytes()).unwrap();
    }

    /// Queues a request with room for a reply of `room` bytes at `room_at`, without
    /// a kick. Answers its head.
    pub fn queue_at(&mut self, queue: u16, op: Op, room: (u64, u32)) -> u16 {
        let slot = self.queues[usize::from(queue)].avail % (QUEUE_SIZE / 2);
        let bytes = op.encode();
        let (at, _) = Vmm::buffers(queue, slot);
        self.mem.write(at, &bytes);
        let head = slot * 2;
        self.put_desc(queue, head, (at, bytes.len() as u32), 1, head + 1);
        self.put_desc(queue, head + 1, room, 2, 0);
        self.offer(queue, head);
        head
    }

    pub fn queue(&mut self, queue: u16, op: Op) -> u16 {
        let slot = self.queues[usize::from(queue)].avail % (QUEUE_SIZE / 2);
        self.queue_at(queue, op, (Vmm::buffers(queue, slot).1, 0x1000))
    }

    /// Number of completions that were not looked at yet.
    pub fn completions(&self, queue: u16) -> u16 {
        let idx = self.mem.u16(used_at(queue) + 2);
        idx.wrapping_sub(self.queues[usize::from(queue)].used)
    }

    /// Waits for the next completion: head and length.
    pub fn completion(&mut self, queue: u16) -> (u16, u32) {
        eventually("a request is completed", || self.completions(queue) > 0);
        let q = &mut self.queues[usize::from(queue)];
        let at = used_at(queue) + 4 + u64::from(q.used % QUEUE_SIZE) * 8;
        q.used = q.used.wrapping_add(1);
        (self.mem.u32(at) as u16, self.mem.u32(at + 4))
    }

    /// Takes the interrupt, if there was one.
    pub fn interrupted(&self, queue: u16) -> bool {
        let call = &self.queues[usize::from(queue)].call;
        rustix::io::read(call, &mut [0; 8]).is_ok()
    }

    /// One request there and back: the reply's error and body.
    pub fn call(&mut self, queue: u16, op: Op) -> (i32, Vec<u8>) {
        let head = self.queue(queue, op);
        self.kick(queue);
        let (done, len) = self.completion(queue);
        assert_eq!(done, head);
        self.reply(queue, head, len)
    }

    pub fn reply(&self, queue: u16, head: u16, len: u32) -> (i32, Vec<u8>) {
        let (_, at) = Vmm::buffers(queue, head / 2);
        let bytes = self.mem.read(at, len as usize);
        assert!(bytes.len() >= 16, "no reply");
        let word = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|i| bytes[at + i]));
        assert_eq!(word(0), len);
        (word(4) as i32, bytes[16..].to_vec())
    }

    /// An echo there and back proves the queue alive.
    pub fn assert_serves(&mut self, queue: u16) {
        let text = format!("are you there, queue {queue}?").into_bytes();
        assert_eq!(self.call(queue, Op::Echo(text.clone())), (0, text));
    }
}
