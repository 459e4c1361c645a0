//! The vhost-user-fs device.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ferryfs_core::service::{Crossing, Service, StandingRequest};
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserProtocolFeatures,
    VhostUserVirtioFeatures,
};
use vhost::vhost_user::Backend;
use vhost_user_backend::VhostUserBackend;
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC,
};
use vm_memory::{GuestAddressSpace, GuestMemory, GuestMemoryRegion};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{
    new_event_consumer_and_notifier, EventConsumer, EventFlag, EventNotifier,
};

use crate::crossing::{Asker, Expected, MigrationType};
use crate::dirty_log::{DirtyLog, LogBitmap};
use crate::precopy::Precopy;
use crate::queue::serve_queue;
use crate::rings::Rings;
use crate::transfer::{Direction, Transfers};
use crate::vring::{Mem, Vring};

/// Length of `virtio_fs_config.tag` in bytes.
const TAG_LEN: usize = 36;

/// Queues that the message handler can tell apart: it keeps them in masks of 64
/// bits.
const MAX_QUEUES: u16 = 64;

/// Largest virtqueue that virtio allows.
const MAX_QUEUE_SIZE: u16 = 1 << 15;

/// What becomes of a guest's inodes and handles when its front-end goes away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDisconnect {
    /// They are forgotten: the next front-end brings a fresh guest.
    #[default]
    Reset,
    /// They are kept for a front-end that comes back.
    Keep,
}

/// What a device is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceConfig {
    /// Name by which a guest mounts the share, 1 to 36 bytes. With it the device
    /// answers reads of its configuration space; most front-ends know the tag
    /// themselves.
    pub tag: Option<String>,
    /// Request queues next to the high-priority queue, 1 to 63. Each has a thread.
    pub request_queues: u16,
    /// Largest size of a queue in descriptors, a power of two up to 32768.
    pub max_queue_size: u16,
    /// How long a queue's thread looks for the next request before it sleeps, as long as
    /// that is seldom in vain. With zero it is for as long as sleeping costs processor
    /// time.
    pub poll: Duration,
    /// Whether the device's state can cross, and which way.
    pub migration: MigrationType,
    /// Whether the state can be had on a control socket
    /// ([`serve_control`](crate::serve_control)).
    pub control_socket: bool,
    /// Whether the state protocol of the QEMU RFC of 2023 is spoken beside today's.
    /// Its message numbers mean other things by now; they are told apart by
    /// their shape.
    pub rfc_state_protocol: bool,
    /// What happens when a front-end goes away.
    pub on_disconnect: OnDisconnect,
}

impl Default for DeviceConfig {
    fn default() -> DeviceConfig {
        DeviceConfig {
            tag: None,
            request_queues: 1,
            max_queue_size: MAX_QUEUE_SIZE,
            poll: Duration::ZERO,
            migration: MigrationType::Internal,
            control_socket: false,
            rfc_state_protocol: false,
            on_disconnect: OnDisconnect::Reset,
        }
    }
}

/// A [`DeviceConfig`] that no device can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Length of the tag.
    #[error("tag is {0} bytes long: 1 to 36 are possible")]
    Tag(usize),
    /// Number of request queues.
    #[error("{0} request queues: 1 to 63 are possible")]
    RequestQueues(u16),
    /// Size of queues.
    #[error("queue size {0}: powers of two up to 32768 are possible")]
    QueueSize(u16),
}

/// The device: a server's virtqueues, dirty log and state channel. It outlives the
/// front-ends that come and go; see [`serve_connection`](crate::serve_connection).
pub struct Device<S> {
    service: Arc<S>,
    config: DeviceConfig,
    log: Arc<DirtyLog>,
    pub(crate) precopy: Arc<Precopy<S>>,
    pub(crate) transfers: Transfers,
    /// The guest that has not come yet, and whose state the service has.
    pub(crate) expected: Arc<Expected>,
    /// Held while a front-end is served.
    pub(crate) serving: Mutex<()>,
    /// Held while a front-end comes or goes, and while a transfer is started.
    gate: Mutex<()>,
    connection: Mutex<Connection>,
}

/// What lives as long as a front-end is connected.
#[derive(Default)]
struct Connection {
    rings: Option<Arc<Rings>>,
    exit: ExitEvents,
    /// Kept open: its end would tell the front-end that the device died.
    backend_channel: Option<Backend>,
}

impl<S: Service + Crossing> Device<S> {
    /// Makes a device in front of `service`.
    ///
    /// # Errors
    /// The configuration is impossible.
    pub fn new(service: Arc<S>, config: DeviceConfig) -> Result<Device<S>, ConfigError> {
        if let Some(tag) = &config.tag {
            if tag.is_empty() || tag.len() > TAG_LEN {
                return Err(ConfigError::Tag(tag.len()));
            }
        }
        if config.request_queues == 0 || config.request_queues >= MAX_QUEUES {
            return Err(ConfigError::RequestQueues(config.request_queues));
        }
        if !config.max_queue_size.is_power_of_two() || config.max_queue_size > MAX_QUEUE_SIZE {
            return Err(ConfigError::QueueSize(config.max_queue_size));
        }
        Ok(Device {
            precopy: Arc::new(Precopy::new(Arc::clone(&service))),
            service,
            config,
            log: DirtyLog::new(),
            transfers: Transfers::default(),
            expected: Arc::default(),
            serving: Mutex::default(),
            gate: Mutex::default(),
            connection: Mutex::default(),
        })
    }

    /// The server behind the device.
    pub fn service(&self) -> &Arc<S> {
        &self.service
    }

    /// What the device is like.
    pub fn config(&self) -> &DeviceConfig {
        &self.config
    }

    /// Says that the service has been given the state of a guest that a front-end is
    /// yet to bring, which will not send the state itself (migration type
    /// `external`).
    ///
    /// Until a ring of some front-end has been started, the state is kept whatever
    /// front-ends come and go, and another state is refused. Afterwards the
    /// configuration says what becomes of it.
    ///
    /// `standing` are the requests that stand over according to the state.
    pub fn expect_guest(&self, standing: Vec<StandingRequest>) {
        self.expected.expect(standing);
    }

    /// Whether the guest of [`Device::expect_guest`] has still to come.
    pub fn expects_guest(&self) -> bool {
        self.expected.waits()
    }

    /// Gets ready for a front-end.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        self.connection().exit = ExitEvents::new(self.num_queues())?;
        Ok(())
    }

    pub(crate) fn gate(&self) -> MutexGuard<'_, ()> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rings of the front-end that is connected.
    pub(crate) fn rings(&self) -> Option<Arc<Rings>> {
        self.connection().rings.clone()
    }

    pub(crate) fn set_rings(&self, rings: Arc<Rings>) {
        let _gate = self.gate();
        // One that an operator began while there was no front-end could not hold these
        // rings; it can be begun again.
        self.transfers.end();
        if self.expects_guest() {
            rings.adopt(&self.expected.standing());
        }
        self.connection().rings = Some(rings);
    }

    /// The front-end has gone, or must go: whatever would wait for it gives up.
    pub(crate) fn give_up(&self) {
        if self.transfers.is_of(Asker::FrontEnd) {
            self.transfers.abort();
        }
    }

    /// Waits for the transfer that runs; see [`Transfers::check`].
    pub(crate) fn finish_transfer(&self) -> io::Result<()> {
        self.transfers.check()
    }

    /// The queues' threads could not all be started: ends those that were.
    pub(crate) fn abandon_workers(&self) {
        // Their descriptors stay open: a thread may still be looking at them.
        std::mem::take(&mut self.connection().exit.given);
        let exit = std::mem::take(&mut self.connection().exit);
        exit.raise();
    }

    /// The connection has ended, its threads are gone: back to the beginning. `ran`:
    /// a ring of it had been started.
    pub(crate) fn disconnected(&self, ran: bool) {
        let _gate = self.gate();
        if ran {
            self.expected.is_over();
        }
        let kept = self.expects_guest() || self.config.on_disconnect == OnDisconnect::Keep;
        // An operator who has the state may go on where it stays.
        if !(kept && self.transfers.is_of(Asker::Operator)) {
            self.transfers.end();
        }
        self.log.detach();
        self.precopy.cancel();
        *self.connection() = Connection::default();
        if self.expects_guest() {
            log::info!("the front-end came without the guest: the guest's state is kept for it");
        } else if self.config.on_disconnect == OnDisconnect::Reset {
            self.service.reset();
        }
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// `struct virtio_fs_config`.
    fn config_space(&self) -> [u8; TAG_LEN + 4] {
        let mut space = [0; TAG_LEN + 4];
        let tag = self.config.tag.as_deref().unwrap_or_default().as_bytes();
        space[..tag.len()].copy_from_slice(tag);
        space[TAG_LEN..].copy_from_slice(&u32::from(self.config.request_queues).to_le_bytes());
        space
    }
}

impl<S: Service + Crossing> VhostUserBackend for Device<S> {
    type Bitmap = LogBitmap;
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        usize::from(self.config.request_queues) + 1
    }

    fn max_queue_size(&self) -> usize {
        usize::from(self.config.max_queue_size)
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        (0..self.num_queues()).map(|queue| 1 << queue).collect()
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
            | match self.config.migration {
                // Front-ends say at once that they cannot migrate, and not at the end.
                MigrationType::None => 0,
                MigrationType::External | MigrationType::Internal => {
                    VhostUserVirtioFeatures::LOG_ALL.bits()
                }
            }
    }

    fn acked_features(&self, features: u64) {
        let on = features & VhostUserVirtioFeatures::LOG_ALL.bits() != 0;
        self.log.set_logging(on);
        if self.config.migration != MigrationType::None {
            self.precopy.set(on);
        }
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        let mut features = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::BACKEND_REQ
            | VhostUserProtocolFeatures::BACKEND_SEND_FD
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | VhostUserProtocolFeatures::LOG_SHMFD
            | VhostUserProtocolFeatures::RESET_DEVICE;
        features.set(VhostUserProtocolFeatures::CONFIG, self.config.tag.is_some());
        features.set(
            VhostUserProtocolFeatures::DEVICE_STATE,
            self.config.migration != MigrationType::None,
        );
        features
    }

    // The message handler has disabled all rings before, and they are drained.
    fn reset_device(&self) {
        let _gate = self.gate();
        self.transfers.end();
        self.precopy.cancel();
        // A VMM resets its devices when it starts, before it goes on with a guest.
        let ran = self.rings().is_some_and(|rings| rings.have_run());
        if self.expects_guest() && !ran {
            log::debug!("reset before the guest has come: its state is kept");
            return;
        }
        self.expected.is_over();
        self.service.reset();
    }

    // The rings know by themselves.
    fn set_event_idx(&self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let space = self.config_space();
        // Zeros behind the end, as a device with a shorter space than the driver
        // knows of has.
        (0..size as usize)
            .map(|i| space.get(offset as usize + i).copied().unwrap_or(0))
            .take(vhost::vhost_user::message::MAX_MSG_SIZE)
            .collect()
    }

    fn set_config(&self, offset: u32, buf: &[u8]) -> io::Result<()> {
        // A guest can make its front-end send this: no reason to hang up on it.
        log::debug!(
            "write of {} bytes at {offset} of the read-only configuration space: ignored",
            buf.len()
        );
        Ok(())
    }

    fn update_memory(&self, mem: Mem) -> io::Result<()> {
        for region in mem.memory().iter() {
            // The region's own bitmap, not a slice of it.
            let bitmap: &LogBitmap = std::ops::Deref::deref(region).bitmap();
            bitmap.place(&self.log, region.start_addr());
            let last = region.last_addr();
            if self.log.is_logging() && !self.log.covers(last.0) {
                log::error!(
                    "refused a memory region up to {:#x}: the dirty log (SET_LOG_BASE) that is in \
                     use does not cover it",
                    last.0
                );
                return Err(io::ErrorKind::InvalidInput.into());
            }
        }
        Ok(())
    }

    fn set_backend_req_fd(&self, backend: Backend) {
        self.connection().backend_channel = Some(backend);
    }

    fn exit_event(&self, _thread_index: usize) -> Option<(EventConsumer, EventNotifier)> {
        self.connection().exit.give()
    }

    fn handle_event(
        &self,
        device_event: u16,
        _evset: EventSet,
        vrings: &[Vring],
        _thread_id: usize,
    ) -> io::Result<()> {
        // An error would end the queue's thread.
        if let Some(vring) = vrings.get(usize::from(device_event)) {
            serve_queue(&*self.service, vring);
        }
        Ok(())
    }

    fn set_device_state_fd(
        &self,
        direction: VhostTransferStateDirection,
        phase: VhostTransferStatePhase,
        file: File,
    ) -> io::Result<Option<File>> {
        let direction = match direction {
            VhostTransferStateDirection::SAVE => Direction::Save,
            VhostTransferStateDirection::LOAD => Direction::Load,
        };
        // The one phase there is; the message handler refuses all other numbers.
        let VhostTransferStatePhase::STOPPED = phase;
        self.start_transfer(Asker::FrontEnd, direction, file)
            .inspect_err(|e| log::error!("refused to {direction} the device state: {e}"))?;
        Ok(None)
    }

    fn check_device_state(&self) -> io::Result<()> {
        // Whoever failed has said why, in one line.
        self.transfers.check()
    }
}

/// What ends the queues' threads. All look at one eventfd, through descriptors of
/// their own.
#[derive(Default)]
struct ExitEvents {
    raiser: Option<EventNotifier>,
    /// Made beforehand: the message handler cannot be told that none is left, and
    /// a thread without one could never be joined.
    ready: Vec<(EventConsumer, EventNotifier)>,
    /// Descriptors that event loops took, which they never close.
    given: Vec<RawFd>,
}

impl ExitEvents {
    fn new(threads: usize) -> io::Result<ExitEvents> {
        let flags = EventFlag::NONBLOCK | EventFlag::CLOEXEC;
        let (consumer, raiser) = new_event_consumer_and_notifier(flags)?;
        let ready = (0..threads)
            .map(|_| Ok((consumer.try_clone()?, raiser.try_clone()?)))
            .collect::<io::Result<_>>()?;
        Ok(ExitEvents {
            raiser: Some(raiser),
            ready,
            given: Vec::with_capacity(threads),
        })
    }

    fn give(&mut self) -> Option<(EventConsumer, EventNotifier)> {
        let pair = self.ready.pop()?;
        self.given.push(pair.0.as_raw_fd());
        Some(pair)
    }

    fn raise(&self) {
        if let Some(raiser) = &self.raiser {
            let _ = raiser.notify();
        }
    }
}

impl Drop for ExitEvents {
    fn drop(&mut self) {
        for fd in self.given.drain(..) {
            // SAFETY: an event loop took the number out of its owner and has ended:
            // the device drops this only when the queues' threads have been joined.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
}
