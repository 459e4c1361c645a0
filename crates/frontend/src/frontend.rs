//! The front-end's half of vhost-user: negotiation, memory, rings, dirty log.
//!
//! [`Frontend`] remembers what was offered and acknowledged, and asks for an
//! acknowledgement of every request where the back-end can give one, so that no
//! refusal goes unseen. What it does not offer, [`Frontend::connection`] does.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::dirty::DirtyLog;
use crate::memory::{GuestMemory, Region};
use crate::queue::Queue;
use crate::wire::{request, Connection, WireError, VERSION};

/// Virtio and vhost feature bits.
pub mod feature {
    /// VHOST_F_LOG_ALL: log writes to guest memory.
    pub const LOG_ALL: u64 = 1 << 26;
    /// VIRTIO_RING_F_INDIRECT_DESC.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// VIRTIO_RING_F_EVENT_IDX.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// VHOST_USER_F_PROTOCOL_FEATURES.
    pub const PROTOCOL_FEATURES: u64 = 1 << 30;
    /// VIRTIO_F_VERSION_1.
    pub const VERSION_1: u64 = 1 << 32;
}

/// VHOST_USER_PROTOCOL_F_* bits.
pub mod protocol {
    /// More than one queue pair; GET_QUEUE_NUM.
    pub const MQ: u64 = 1 << 0;
    /// The dirty log goes by descriptor.
    pub const LOG_SHMFD: u64 = 1 << 1;
    /// Acknowledgements on request.
    pub const REPLY_ACK: u64 = 1 << 3;
    /// A channel for requests of the back-end.
    pub const BACKEND_REQ: u64 = 1 << 5;
    /// GET_CONFIG and SET_CONFIG.
    pub const CONFIG: u64 = 1 << 9;
    /// Descriptors on the back-end's channel.
    pub const BACKEND_SEND_FD: u64 = 1 << 10;
    /// In-flight region.
    pub const INFLIGHT_SHMFD: u64 = 1 << 12;
    /// RESET_DEVICE.
    pub const RESET_DEVICE: u64 = 1 << 13;
    /// ADD_MEM_REG and REM_MEM_REG.
    pub const CONFIGURE_MEM_SLOTS: u64 = 1 << 15;
    /// GET_STATUS and SET_STATUS.
    pub const STATUS: u64 = 1 << 16;
    /// SET_DEVICE_STATE_FD and CHECK_DEVICE_STATE.
    pub const DEVICE_STATE: u64 = 1 << 19;
}

/// What the front-end cannot do, and why.
#[derive(Debug, thiserror::Error)]
pub enum FrontendError {
    /// Nobody listens.
    #[error("cannot connect to {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A request failed.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A feature was asked for that is not offered.
    #[error("the back-end does not offer {what} (asked for {asked:#x}, offered {offered:#x})")]
    NotOffered {
        /// Which kind of bits.
        what: &'static str,
        /// Bits asked for.
        asked: u64,
        /// Bits offered.
        offered: u64,
    },
    /// A message needs a protocol feature that was not negotiated.
    #[error("{request} needs {needs}, which is not negotiated")]
    NotNegotiated {
        /// Name of the request.
        request: &'static str,
        /// Name of the protocol feature.
        needs: &'static str,
    },
}

/// struct virtio_fs_config: the device's configuration space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FsConfig {
    /// Mount tag without its padding.
    pub tag: Vec<u8>,
    /// Number of request queues.
    pub request_queues: u32,
}

/// A connected front-end.
#[derive(Debug)]
pub struct Frontend {
    connection: Connection,
    offered: u64,
    acked: u64,
    protocol_offered: u64,
    protocol_acked: u64,
}

impl Frontend {
    /// Connects to a daemon's socket. One that is bound but not yet listened to is
    /// waited for, up to five seconds.
    ///
    /// # Errors
    /// [`FrontendError::Connect`].
    pub fn connect(path: impl AsRef<Path>) -> Result<Self, FrontendError> {
        let path = path.as_ref();
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            match UnixStream::connect(path) {
                Ok(socket) => return Ok(Self::from_stream(socket)),
                Err(source) => {
                    let early = source.kind() == std::io::ErrorKind::ConnectionRefused;
                    if !early || Instant::now() >= deadline {
                        return Err(FrontendError::Connect {
                            path: path.to_owned(),
                            source,
                        });
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
        }
    }

    /// Wraps a connected socket. Nothing is sent yet.
    pub fn from_stream(socket: UnixStream) -> Self {
        Frontend {
            connection: Connection::new(socket),
            offered: 0,
            acked: 0,
            protocol_offered: 0,
            protocol_acked: 0,
        }
    }

    /// The connection, for messages of one's own.
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Feature bits the back-end offered.
    pub fn offered(&self) -> u64 {
        self.offered
    }

    /// Feature bits acknowledged.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// Protocol feature bits the back-end offered.
    pub fn protocol_offered(&self) -> u64 {
        self.protocol_offered
    }

    /// Protocol feature bits acknowledged.
    pub fn protocol_acked(&self) -> u64 {
        self.protocol_acked
    }

    /// Sends a request that has no reply of its own, and waits for the
    /// acknowledgement if REPLY_ACK is negotiated.
    ///
    /// # Errors
    /// [`FrontendError::Wire`].
    pub fn request(
        &mut self,
        code: u32,
        payload: &[u8],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), FrontendError> {
        if self.protocol_acked & protocol::REPLY_ACK != 0 {
            Ok(self.connection.request_acked(code, payload, fds)?)
        } else {
            Ok(self.connection.send(code, VERSION, payload, fds)?)
        }
    }

    fn needs(&self, bit: u64, needs: &'static str, code: u32) -> Result<(), FrontendError> {
        if self.protocol_acked & bit == 0 {
            let request = crate::wire::request_name(code);
            return Err(FrontendError::NotNegotiated { request, needs });
        }
        Ok(())
    }

    /// GET_FEATURES.
    ///
    /// # Errors
    /// [`FrontendError::Wire`].
    pub fn get_features(&mut self) -> Result<u64, FrontendError> {
        self.offered = self.connection.query_u64(request::GET_FEATURES, &[], &[])?;
        Ok(self.offered)
    }

    /// SET_FEATURES. Which bits the back-end offered is not checked here: it is the
    /// back-end's to refuse.
    ///
    /// # Errors
    /// [`FrontendError::Wire`].
    pub fn set_features(&mut self, features: u64) -> Result<(), FrontendError> {
        self.request(request::SET_FEATURES, &features.to_ne_bytes(), &[])?;
        self.acked = features;
        Ok(())
    }

    /// GET_PROTOCOL_FEATURES.
    ///
    /// # Errors
    /// [`FrontendError::Wire`].
    pub fn get_protocol_features(&mut self) -> Result<u64, FrontendError> {
        let offered = self
            .connection
            .query_u64(request::GET_PROTOCOL_FEATURES, &[], &[])?;
        self.protocol_offered = offered;
        Ok(offered)
    }

    /// SET_PROTOCOL_FEATURES.
    ///
    /// # Errors
    /// [`FrontendError::Wire`].
    pub fn set_protocol_features(&mut self, features: u64) -> Result<(), FrontendError> {
        self.request(request::SET_PROTOCOL_FEATURES, &features.to_ne_bytes(), &[])?;
        self.protocol_acked = features;
        Ok(())
    }

    /// SET_OWNER.
    ///
    /// # Errors
    /// [`FrontendError::Wire`].
    pub fn set_owner(&mut self) -> Result<(), FrontendError> {
        self.request(request::SET_OWNER, &[], &[])
    }

    /// The opening of a session as QEMU does it: features asked for, protocol
    /// features `wanted & offered` acknowledged, the back-end owned. SET_FEATURES is
    /// left for later.
    ///
    /// # Errors
    /// [`FrontendError::NotOffered`] without protocol features; [`FrontendError::Wire`].
    pub fn negotiate(&mut self, wanted: u64) -> Result<(), FrontendError> {
        let offered = self.get_features()?;
        if offered & feature::PROTOCOL_FEATURES == 0 {
            let (what, asked) = ("protocol features", feature::PROTOCOL_FEATURES);
            return Err(FrontendError::NotOffered {
                what,
                asked,
                offered,
            });
        }
        let protocol = self.get_protocol_features()?;
        self.set_protocol_features(protocol & wanted)?;
        self.set_owner()
    }

    /// GET_QUEUE_NUM.
    ///
    /// # Errors
    /// [`FrontendError::NotNegotiated`], [`FrontendError::Wire`].
    pub fn get_queue_num(&mut self) -> Result<u64, FrontendError> {
        self.needs(protocol::MQ, "MQ", request::GET_QUEUE_NUM)?;
        Ok(self
            .connection
            .query_u64(request::GET_QUEUE_NUM, &[], &[])?)
    }

    /// GET_MAX_MEM_SLOTS.
    ///
    /// # Errors
    /// [`FrontendError::NotNegotiated`], [`FrontendError::Wire`].
    pub fn get_max_mem_slots(&mut self) -> Result<u64, FrontendError> {
        let code = request::GET_MAX_MEM_SLOTS;
        self.needs(protocol::CONFIGURE_MEM_SLOTS, "CONFIGURE_MEM_SLOTS", code)?;
        Ok(self.connection.query_u64(code, &[], &[])?)
    }

    /// SET_MEM_TABLE with all regions of `memory`.
    ///
    /// # Errors
    /// [`FrontendError::Wire`].
    pub fn set_mem_table(&mut self, memory: &GuestMemory) -> Result<(), FrontendError> {
        let regions = memory.regions();
        let mut payload = Vec::with_capacity(8 + 32 * regions.len());
        payload.extend_from_slice(&(regions.len() as u32).to_ne_bytes());
        payload.extend_from_slice(&0u32.to_ne_bytes());
        for region in &regions {
            put_region(&mut payload, region);
        }
        let fds: Vec<_> = regions.iter().map(|r| r.fd()).collect();
        self.request(request::SET_MEM_TABLE, &payload, &fds)
    }

    /// ADD_MEM_REG.
    ///
    /// # Errors
    /// [`FrontendError::NotNegotiated`], [`FrontendError::Wire`].
    pub fn add_mem_reg(&mut self, region: &Region) -> Result<(), FrontendError> {
        let code = request::ADD_MEM_REG;
        self.needs(protocol::CONFIGURE_MEM_SLOTS, "CONFIGURE_MEM_SLOTS", code)?;
        let mut payload = vec![0; 8];
        put_region(&mut payload, region);
        self.request(code, &payload, &[region.fd()])
    }

    /// REM_MEM_REG.
    ///
    /// # Errors
    /// [`FrontendError::NotNegotiated`], [`FrontendError::Wire`].
    pub fn rem_mem_reg(&mut self, region: &Region) -> Result<(), FrontendError> {
        let code = request::REM_MEM_REG;
        self.needs(protocol::CONFIGURE_MEM_SLOTS, "CONFIGURE_MEM_SLOTS", code)?;
        let mut payload = vec![0; 8];
        put_region(&mut payload, region);
        self.request(code, &payload, &[])
    }

    /// SET_LOG_BASE.
    ///
    /// # Errors
    /// [`FrontendError::NotNegotiated`], [`FrontendError::Wire`].
    pub fn set_log_base(&mut self, log: &DirtyLog) -> Result<(), FrontendError> {
        let code = request::SET_LOG_BASE;
        self.needs(protocol::LOG_SHMFD, "LOG_SHMFD", code)?;
        let mut payload = log.size().to_ne_bytes().to_vec();
        payload.extend_from_slice(&0u64.to_ne_bytes());
        self.connection.query(code, &payload, &[log.fd()])?;
        Ok(())
    }

    /// Turns VHOST_F_LOG_ALL on or off by another SET_FEATURES.
    ///
    /// # Errors
    /// [`FrontendError::NotOffered`], [`FrontendError::Wire`].
    pub fn set_log_all(&mut self, on: bool) -> Result<(), FrontendError> {
        let (asked, offered) = (feature::LOG_ALL, self.offered);
        if on && offered & asked == 0 {
            return Err(FrontendError::NotOffered {
                what: "LOG_ALL",
                asked,
                offered,
            });
        }
        let acked = self.acked;
        self.set_features(if on { acked | asked } else { acked & !asked })
    }

    /// Hands a ring over and enables it: NUM, ADDR, BASE, CALL, ERR, KICK, ENABLE.
    /// `base` is the next available index the device shall look at.
    ///
    /// # Errors
    /// [`FrontendError::Wire`].
    pub fn start_vring(
        &mut self,
        index: u32,
        queue: &Queue,
        base: u16,
    ) -> Result<(), FrontendError> {
        let ring = queue.ring();
        self.set_vring_num(index, u32::from(ring.size()))?;
        self.set_vring_addr(index, queue)?;
        self.set_vring_base(index, u32::from(base))?;
        self.set_vring_fd(
            request::SET_VRING_CALL,
            index,
            Some(queue.call_fd().as_fd()),
        )?;
        self.set_vring_fd(request::SET_VRING_ERR, index, Some(queue.err_fd().as_fd()))?;
        self.set_vring_fd(
            request::SET_VRING_KICK,
            index,
            Some(queue.kick_fd().as_fd()),
        )?;
        self.set_vring_enable(index, true)
    }

    /// SET_VRING_NUM.
    ///
    /// # Errors
    /// [`FrontendError::Wire`].
    pub fn set_vring_num(&mut self, index: u32, num: u32) -> Result<(), FrontendError> {
        self.request(request::SET_VRING_NUM, &state(index, num), &[])
    }

    /// SET_VRING_ADDR with the queue's rings, without a log of the used ring: pages
    /// of guest memory are logged by address anyway.
    ///
    /// # Errors
    /// [`FrontendError::Wire`].
    pub fn set_vring_addr(&mut self, index: u32, queue: &Queue) -> Result<(), FrontendError> {
        let (desc, used, avail) = queue.ring().user_addrs();
        let mut payload = state(index, 0).to_vec();
        for addr in [desc, used, avail, 0] {
            payload.extend_from_slice(&addr.to_ne_bytes());
        }
        self.request(request::SET_VRING_ADDR, &payload, &[])
    }

    /// SET_VRING_BASE.
    ///
    /// # Errors
    /// [`FrontendError::Wire`].
    pub fn set_vring_base(&mut self, index: u32, base: u32) -> Result<(), FrontendError> {
        self.request(request::SET_VRING_BASE, &state(index, base), &[])
    }

    /// SET_VRING_KICK, SET_VRING_CALL or SET_VRING_ERR; without a descriptor the
    /// "invalid FD" bit is set, which means polling.
    ///
    /// # Errors
    /// [`FrontendError::Wire`].
    pub fn set_vring_fd(
        &mut self,
        code: u32,
        index: u32,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(), FrontendError> {
        let invalid = if fd.is_none() { 0x100 } else { 0 };
        let payload = (u64::from(index) | invalid).to_ne_bytes();
        self.request(code, &payload, fd.as_slice())
    }

    /// SET_VRING_ENABLE.
    ///
    /// # Errors
    /// [`FrontendError::Wire`].
    pub fn set_vring_enable(&mut self, index: u32, on: bool) -> Result<(), FrontendError> {
        self.request(request::SET_VRING_ENABLE, &state(index, u32::from(on)), &[])
    }

    /// GET_VRING_BASE: stops the ring; the next available index.
    ///
    /// # Errors
    /// [`FrontendError::Wire`].
    pub fn get_vring_base(&mut self, index: u32) -> Result<u16, FrontendError> {
        let code = request::GET_VRING_BASE;
        let reply = self.connection.query(code, &state(index, 0), &[])?;
        let unexpected = |why| FrontendError::Wire(reply.unexpected(code, why));
        let Ok(words) = <[u8; 8]>::try_from(reply.payload.as_slice()) else {
            return Err(unexpected("a vring state of 8 bytes was due"));
        };
        let (at, base) = (word(&words, 0), word(&words, 4));
        if at != index {
            return Err(unexpected("it is about another ring"));
        }
        u16::try_from(base).map_err(|_| unexpected("the base is no 16-bit index"))
    }

    /// GET_CONFIG of `size` bytes at `offset`.
    ///
    /// # Errors
    /// [`FrontendError::NotNegotiated`], [`FrontendError::Wire`].
    pub fn get_config_bytes(&mut self, offset: u32, size: u32) -> Result<Vec<u8>, FrontendError> {
        let code = request::GET_CONFIG;
        self.needs(protocol::CONFIG, "CONFIG", code)?;
        let mut payload = Vec::with_capacity(12 + size as usize);
        for word in [offset, size, 0] {
            payload.extend_from_slice(&word.to_ne_bytes());
        }
        payload.resize(12 + size as usize, 0);
        let reply = self.connection.query(code, &payload, &[])?;
        if reply.payload.len() != 12 + size as usize {
            return Err(reply
                .unexpected(code, "it does not have the size asked for")
                .into());
        }
        Ok(reply.payload[12..].to_vec())
    }

    /// GET_CONFIG, understood as a virtio-fs device's.
    ///
    /// # Errors
    /// As [`get_config_bytes`](Self::get_config_bytes).
    pub fn get_config(&mut self) -> Result<FsConfig, FrontendError> {
        let bytes = self.get_config_bytes(0, 40)?;
        let tag = bytes[..36]
            .split(|b| *b == 0)
            .next()
            .unwrap_or_default()
            .to_vec();
        let words = [bytes[36], bytes[37], bytes[38], bytes[39]];
        Ok(FsConfig {
            tag,
            request_queues: u32::from_le_bytes(words),
        })
    }

    /// RESET_DEVICE.
    ///
    /// # Errors
    /// [`FrontendError::NotNegotiated`], [`FrontendError::Wire`].
    pub fn reset_device(&mut self) -> Result<(), FrontendError> {
        self.needs(
            protocol::RESET_DEVICE,
            "RESET_DEVICE",
            request::RESET_DEVICE,
        )?;
        self.request(request::RESET_DEVICE, &[], &[])
    }
}

/// struct vhost_vring_state.
pub fn state(index: u32, num: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[0..4].copy_from_slice(&index.to_ne_bytes());
    bytes[4..8].copy_from_slice(&num.to_ne_bytes());
    bytes
}

fn word(bytes: &[u8; 8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// struct vhost_user_mem_region: one entry of the memory table, with any values.
pub fn mem_region(gpa: u64, size: u64, user_addr: u64, offset: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (at, value) in bytes
        .chunks_exact_mut(8)
        .zip([gpa, size, user_addr, offset])
    {
        at.copy_from_slice(&value.to_ne_bytes());
    }
    bytes
}

fn put_region(payload: &mut Vec<u8>, region: &Region) {
    let entry = mem_region(region.gpa(), region.size(), region.user_addr(), 0);
    payload.extend_from_slice(&entry);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Connection, REPLY};
    use std::os::unix::net::UnixStream;

    /// A front-end, and the back-end's end of its connection.
    fn pair(protocol_acked: u64) -> (Frontend, Connection) {
        let (ours, theirs) = UnixStream::pair().expect("socketpair");
        let mut frontend = Frontend::from_stream(ours);
        frontend.protocol_acked = protocol_acked;
        frontend.connection.set_timeout(Duration::from_millis(200));
        (frontend, Connection::new(theirs))
    }

    #[test]
    fn what_was_not_negotiated_is_not_asked() {
        let (mut frontend, _back_end) = pair(0);
        let error = frontend.get_config().expect_err("no CONFIG");
        assert_eq!(
            error.to_string(),
            "GET_CONFIG needs CONFIG, which is not negotiated"
        );
        frontend.reset_device().expect_err("no RESET_DEVICE");
        frontend.get_queue_num().expect_err("no MQ");
        let log = DirtyLog::new(1 << 20).expect("log");
        frontend.set_log_base(&log).expect_err("no LOG_SHMFD");
        let error = frontend.set_log_all(true).expect_err("not offered");
        assert!(
            error.to_string().contains("does not offer LOG_ALL"),
            "{error}"
        );
    }

    #[test]
    fn a_base_of_another_ring_or_size_is_refused() {
        for (reply, expected) in [
            (state(1, 5).to_vec(), "it is about another ring"),
            (state(0, 0x10000).to_vec(), "the base is no 16-bit index"),
            (vec![0; 4], "a vring state of 8 bytes was due"),
        ] {
            let (mut frontend, mut back_end) = pair(0);
            let code = request::GET_VRING_BASE;
            back_end
                .send(code, VERSION | REPLY, &reply, &[])
                .expect("reply");
            let error = frontend.get_vring_base(0).expect_err("bad base");
            assert!(error.to_string().contains(expected), "{error}");
            let asked = back_end.recv(code).expect("request");
            assert_eq!((asked.code, asked.payload), (code, state(0, 0).to_vec()));
        }
    }

    #[test]
    fn the_memory_table_names_every_region_and_carries_its_memfd() {
        use crate::memory::RegionConfig;
        let regions = [(0, 4096), (1 << 32, 8192)];
        let regions = regions.map(|(gpa, size)| RegionConfig { gpa, size });
        let memory = GuestMemory::new(&regions).expect("memory");
        let (mut frontend, mut back_end) = pair(0);
        frontend.set_mem_table(&memory).expect("sent");
        let sent = back_end.recv(request::SET_MEM_TABLE).expect("request");
        assert_eq!((sent.fds.len(), sent.payload.len()), (2, 8 + 2 * 32));
        assert_eq!(sent.payload[0], 2);
        let second = mem_region(1 << 32, 8192, memory.regions()[1].user_addr(), 0);
        assert_eq!(sent.payload[40..], second);
    }

    #[test]
    fn without_reply_ack_nothing_is_waited_for_and_no_answer_is_asked() {
        let (mut frontend, mut back_end) = pair(0);
        frontend.set_vring_enable(3, true).expect("sent");
        assert_eq!(back_end.recv(18).expect("request").flags, VERSION);
        let (mut frontend, mut back_end) = pair(protocol::REPLY_ACK);
        frontend
            .set_vring_fd(request::SET_VRING_KICK, 2, None)
            .expect_err("no answer");
        let sent = back_end.recv(12).expect("request");
        assert_eq!(sent.flags, VERSION | crate::wire::NEED_REPLY);
        assert_eq!((sent.as_u64(), sent.fds.len()), (Some(0x102), 0));
    }
}
