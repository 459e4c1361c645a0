//! The device: what vhost-user-backend calls, and what the FUSE server is given.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fuse_backend_rs::api::server::Server;
use fuse_backend_rs::passthrough::PassthroughFs;
use fuse_backend_rs::transport::{Reader, VirtioFsWriter, Writer};
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackend, VringMutex, VringT};
use virtio_bindings::bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC,
};
use virtio_queue::{DescriptorChain, QueueOwnedT};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryLoadGuard, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{
    new_event_consumer_and_notifier, EventConsumer, EventFlag, EventNotifier,
};

/// Largest size of a queue in descriptors.
const QUEUE_SIZE: usize = 1024;

type Memory = GuestMemoryMmap<()>;
type Chain = DescriptorChain<GuestMemoryLoadGuard<Memory>>;

/// One share, and the queues in front of it.
pub struct FsBackend {
    server: Server<Arc<PassthroughFs>>,
    request_queues: u16,
    memory: Mutex<GuestMemoryAtomic<Memory>>,
    event_idx: AtomicBool,
}

impl FsBackend {
    /// Serves `fs`, which has been imported, on so many request queues beside the
    /// high-priority queue.
    pub fn new(fs: PassthroughFs, request_queues: u16) -> Self {
        FsBackend {
            server: Server::new(Arc::new(fs)),
            request_queues,
            memory: Mutex::new(GuestMemoryAtomic::new(Memory::new())),
            event_idx: AtomicBool::new(false),
        }
    }

    /// Serves all that is in the queue.
    fn serve(&self, vring: &VringMutex<GuestMemoryAtomic<Memory>>) -> io::Result<()> {
        // Not held: the other queues' threads want it too.
        let memory = self
            .memory
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .memory();
        let mut state = vring.get_mut();
        while let Some(chain) = next(&mut state, &memory)? {
            let head = chain.head_index();
            let written = self.handle(&memory, chain);
            state.add_used(head, written).map_err(io::Error::other)?;
            let wanted = match self.event_idx.load(Ordering::Relaxed) {
                true => state.needs_notification().map_err(io::Error::other)?,
                false => true,
            };
            if wanted {
                state.signal_used_queue()?;
            }
        }
        Ok(())
    }

    /// Bytes of the answer. What makes no sense is given back without one.
    fn handle(&self, memory: &GuestMemoryLoadGuard<Memory>, chain: Chain) -> u32 {
        let reader = Reader::from_descriptor_chain(&**memory, chain.clone());
        let writer = VirtioFsWriter::new(&**memory, chain);
        let (Ok(reader), Ok(writer)) = (reader, writer) else {
            return 0;
        };
        let handled = self
            .server
            .handle_message(reader, Writer::VirtioFs(writer), None, None);
        handled.map_or(0, |written| written as u32)
    }
}

fn next(
    state: &mut vhost_user_backend::VringState<GuestMemoryAtomic<Memory>>,
    memory: &GuestMemoryLoadGuard<Memory>,
) -> io::Result<Option<Chain>> {
    let queue = state.get_queue_mut();
    Ok(queue.iter(memory.clone()).map_err(io::Error::other)?.next())
}

impl VhostUserBackend for FsBackend {
    type Bitmap = ();
    type Vring = VringMutex<GuestMemoryAtomic<Memory>>;

    fn num_queues(&self) -> usize {
        usize::from(self.request_queues) + 1
    }

    fn max_queue_size(&self) -> usize {
        QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
    }

    fn set_event_idx(&self, enabled: bool) {
        self.event_idx.store(enabled, Ordering::Relaxed);
    }

    fn update_memory(&self, memory: GuestMemoryAtomic<Memory>) -> io::Result<()> {
        *self.memory.lock().unwrap_or_else(PoisonError::into_inner) = memory;
        Ok(())
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        (0..self.num_queues()).map(|queue| 1 << queue).collect()
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC).ok()
    }

    fn handle_event(
        &self,
        queue: u16,
        _events: EventSet,
        vrings: &[Self::Vring],
        _thread: usize,
    ) -> io::Result<()> {
        let Some(vring) = vrings.get(usize::from(queue)) else {
            return Ok(());
        };
        if !self.event_idx.load(Ordering::Relaxed) {
            return self.serve(vring);
        }
        // With EVENT_IDX the driver says nothing of what it adds while we are at it.
        loop {
            vring.disable_notification().map_err(io::Error::other)?;
            self.serve(vring)?;
            if !vring.enable_notification().map_err(io::Error::other)? {
                return Ok(());
            }
        }
    }
}
