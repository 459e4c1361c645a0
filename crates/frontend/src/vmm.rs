//! A virtual machine as far as a virtio-fs daemon can tell: memory, rings, a guest's
//! session, and the steps of a migration in the order QEMU takes them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::call::InitRequest;
use crate::client::{ClientError, FsClient, Session};
use crate::dirty::DirtyLog;
use crate::frontend::{feature, protocol, Frontend, FrontendError};
use crate::memory::{GuestMemory, MemoryError, Region, RegionConfig};
use crate::queue::{Queue, QueueConfig, QueueError};
use crate::rfc_state::StateChannel;
use crate::shared::SharedQueue;
use crate::state::StateError;
use crate::wire::Connection;

/// How a step of a machine's life can fail.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// The guest's memory.
    #[error("guest memory")]
    Memory(#[from] MemoryError),
    /// A ring.
    #[error("ring {index}")]
    Queue {
        /// Which one.
        index: usize,
        /// Why.
        #[source]
        source: QueueError,
    },
    /// A vhost-user message.
    #[error("{step}")]
    Frontend {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: FrontendError,
    },
    /// The device's state.
    #[error("{step}")]
    State {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: StateError,
    },
    /// FUSE_INIT.
    #[error("starting the session")]
    Init(#[source] ClientError),
    /// A step out of order.
    #[error("cannot {what}: the machine is {is}")]
    WrongState {
        /// What was asked.
        what: &'static str,
        /// What the machine is instead.
        is: &'static str,
    },
}

/// When the device's state is loaded relative to the rest of the set-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LoadOrder {
    /// Right after the connection is negotiated, before SET_FEATURES and the memory
    /// table, as QEMU does on an incoming migration.
    #[default]
    First,
    /// After SET_FEATURES and the memory table, before the rings.
    AfterMemory,
}

/// What a machine is made of.
#[derive(Debug, Clone)]
pub struct VmConfig {
    /// Regions of guest memory.
    pub memory: Vec<RegionConfig>,
    /// Descriptors per ring.
    pub queue_size: u16,
    /// Request queues, beside the high-priority queue.
    pub request_queues: usize,
    /// Negotiate and use VIRTIO_RING_F_INDIRECT_DESC.
    pub indirect: bool,
    /// Negotiate and use VIRTIO_RING_F_EVENT_IDX.
    pub event_idx: bool,
    /// Protocol features acknowledged if offered.
    pub protocol_features: u64,
    /// Signal each kick eventfd once when rings are handed over, as QEMU does, so
    /// that requests already in the ring are looked at.
    pub initial_kick: bool,
    /// When device state is loaded.
    pub load_order: LoadOrder,
    /// By which messages device state is saved and loaded.
    pub state_channel: StateChannel,
    /// What FUSE_INIT asks for; none leaves the session to the caller.
    pub init: Option<InitRequest>,
    /// How long a reply or a completion may take.
    pub timeout: Duration,
}

impl Default for VmConfig {
    /// 64 MiB in one region, one request queue of 128 descriptors, all features.
    fn default() -> Self {
        VmConfig {
            memory: vec![RegionConfig {
                gpa: 0,
                size: 64 << 20,
            }],
            queue_size: 128,
            request_queues: 1,
            indirect: true,
            event_idx: true,
            protocol_features: protocol::MQ
                | protocol::LOG_SHMFD
                | protocol::REPLY_ACK
                | protocol::CONFIG
                | protocol::RESET_DEVICE
                | protocol::CONFIGURE_MEM_SLOTS
                | protocol::DEVICE_STATE,
            initial_kick: true,
            load_order: LoadOrder::default(),
            state_channel: StateChannel::default(),
            init: Some(InitRequest::default()),
            timeout: Connection::DEFAULT_TIMEOUT,
        }
    }
}

/// A machine with one virtio-fs device, attached to a daemon.
///
/// ```no_run
/// use ferryfs_frontend::{fuse::ROOT_ID, vmm::Vm};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut vm = Vm::boot("/run/source.sock")?;
/// let fs = vm.client();
/// let (entry, file) = fs.create(ROOT_ID, "greeting", libc::O_RDWR as u32, 0o644)?;
/// fs.write(entry.nodeid, file.fh, 0, b"hello")?;
///
/// vm.start_precopy()?;
/// vm.stop()?;
/// let state = vm.save_state()?;
/// vm.resume_on("/run/destination.sock", Some(&state))?;
/// assert_eq!(fs.read(entry.nodeid, file.fh, 0, 5)?, b"hello");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Vm {
    config: VmConfig,
    memory: Arc<GuestMemory>,
    queues: Vec<Arc<SharedQueue>>,
    session: Arc<Session>,
    frontend: Frontend,
    log: Option<DirtyLog>,
    /// Next available indices of the stopped rings; none while they run.
    bases: Option<Vec<u16>>,
}

fn step<T>(step: &'static str, result: Result<T, FrontendError>) -> Result<T, VmError> {
    result.map_err(|source| VmError::Frontend { step, source })
}

impl Vm {
    /// Boots a machine with the default configuration on the daemon at `socket`.
    ///
    /// # Errors
    /// Any [`VmError`].
    pub fn boot(socket: impl AsRef<Path>) -> Result<Self, VmError> {
        Self::boot_with(socket, VmConfig::default())
    }

    /// Boots a machine.
    ///
    /// # Errors
    /// Any [`VmError`].
    pub fn boot_with(socket: impl AsRef<Path>, config: VmConfig) -> Result<Self, VmError> {
        let frontend = step("connecting", Frontend::connect(socket))?;
        Self::boot_on(frontend, config)
    }

    /// Boots a machine on a connection on which nothing was sent.
    ///
    /// # Errors
    /// Any [`VmError`].
    pub fn boot_on(mut frontend: Frontend, config: VmConfig) -> Result<Self, VmError> {
        let memory = GuestMemory::new(&config.memory)?;
        let queue_config = QueueConfig {
            size: config.queue_size,
            indirect: config.indirect,
            event_idx: config.event_idx,
        };
        let mut queues = Vec::new();
        for index in 0..=config.request_queues {
            let queue = Queue::new(&memory, queue_config);
            let queue = queue.map_err(|source| VmError::Queue { index, source })?;
            queues.push(SharedQueue::new(queue));
        }
        negotiate(&mut frontend, &config)?;
        let mut vm = Vm {
            bases: Some(vec![0; queues.len()]),
            config,
            memory,
            queues,
            session: Arc::default(),
            frontend,
            log: None,
        };
        vm.set_up_memory()?;
        vm.start_rings()?;
        if let Some(init) = vm.config.init {
            vm.client().init(&init).map_err(VmError::Init)?;
        }
        Ok(vm)
    }

    /// A client on the first request queue.
    pub fn client(&self) -> FsClient {
        self.client_on(1)
    }

    /// A client on request queue `index`, counted from 1 as the device counts; any
    /// index past the last means the last.
    pub fn client_on(&self, index: usize) -> FsClient {
        let queue = &self.queues[index.clamp(1, self.queues.len() - 1)];
        let (memory, hiprio) = (Arc::clone(&self.memory), Arc::clone(&self.queues[0]));
        FsClient::new(memory, hiprio, Arc::clone(queue), Arc::clone(&self.session))
            .with_timeout(self.config.timeout)
    }

    /// Guest memory.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// The rings; the high-priority queue first.
    pub fn queues(&self) -> &[Arc<SharedQueue>] {
        &self.queues
    }

    /// The connection to the daemon.
    pub fn frontend(&mut self) -> &mut Frontend {
        &mut self.frontend
    }

    /// The guest's session.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// The configuration; changes count from the next attachment on.
    pub fn config_mut(&mut self) -> &mut VmConfig {
        &mut self.config
    }

    /// Whether the rings run.
    pub fn is_running(&self) -> bool {
        self.bases.is_none()
    }

    fn features(&self) -> u64 {
        let mut features = feature::VERSION_1 | feature::PROTOCOL_FEATURES;
        if self.config.indirect {
            features |= feature::INDIRECT_DESC;
        }
        if self.config.event_idx {
            features |= feature::EVENT_IDX;
        }
        if self.log.is_some() {
            features |= feature::LOG_ALL;
        }
        features
    }

    fn set_up_memory(&mut self) -> Result<(), VmError> {
        let features = self.features();
        let offered = self.frontend.offered();
        let missing = features & !offered;
        if missing != 0 {
            let (what, asked) = ("a feature the guest uses", features);
            let source = FrontendError::NotOffered {
                what,
                asked,
                offered,
            };
            return Err(VmError::Frontend {
                step: "negotiating features",
                source,
            });
        }
        step("setting features", self.frontend.set_features(features))?;
        step(
            "handing memory over",
            self.frontend.set_mem_table(&self.memory),
        )
    }

    fn start_rings(&mut self) -> Result<(), VmError> {
        let what = "start the rings";
        let bases = self.bases.clone();
        let bases = bases.ok_or(VmError::WrongState {
            what,
            is: "running already",
        })?;
        for (index, (queue, base)) in self.queues.iter().zip(bases).enumerate() {
            let (frontend, kick) = (&mut self.frontend, u32::from(self.config.initial_kick));
            queue.with(|queue| {
                let renewed = queue.renew_kick(kick);
                renewed.map_err(|source| VmError::Queue { index, source })?;
                step(
                    "starting a ring",
                    frontend.start_vring(index as u32, queue, base),
                )
            })?;
        }
        self.bases = None;
        Ok(())
    }

    /// Adds a region of memory while the machine runs (ADD_MEM_REG).
    ///
    /// # Errors
    /// [`VmError::Memory`], [`VmError::Frontend`].
    pub fn hot_add(&mut self, config: RegionConfig) -> Result<Arc<Region>, VmError> {
        let region = self.memory.add_region(config)?;
        let added = self.frontend.add_mem_reg(&region);
        if added.is_err() {
            self.memory.remove_region(config.gpa);
        }
        step("adding memory", added)?;
        if let Some(log) = self.log.take_if(|log| log.end() < config.gpa + config.size) {
            // The log must reach as far as memory does. Nothing already in it is lost.
            let larger = DirtyLog::new(self.memory.end())?;
            let handed = step(
                "handing a larger dirty log over",
                self.frontend.set_log_base(&larger),
            );
            larger.merge(&log);
            self.log = Some(larger);
            handed?;
        }
        Ok(region)
    }

    /// Removes a region of memory (REM_MEM_REG). It must be out of use.
    ///
    /// # Errors
    /// [`VmError::Memory`] without such a region, [`VmError::Frontend`].
    pub fn hot_remove(&mut self, gpa: u64) -> Result<(), VmError> {
        let region = self.memory.region_of(gpa, 1)?;
        step("removing memory", self.frontend.rem_mem_reg(&region))?;
        self.memory.remove_region(region.gpa());
        Ok(())
    }

    /// Begins a migration's precopy phase: the dirty log is handed over and
    /// VHOST_F_LOG_ALL set.
    ///
    /// # Errors
    /// [`VmError::Memory`], [`VmError::Frontend`].
    pub fn start_precopy(&mut self) -> Result<(), VmError> {
        let log = DirtyLog::new(self.memory.end())?;
        step(
            "handing the dirty log over",
            self.frontend.set_log_base(&log),
        )?;
        step("starting to log", self.frontend.set_log_all(true))?;
        self.log = Some(log);
        Ok(())
    }

    /// Ends logging: the migration was cancelled.
    ///
    /// # Errors
    /// [`VmError::Frontend`].
    pub fn cancel_precopy(&mut self) -> Result<(), VmError> {
        step("ending logging", self.frontend.set_log_all(false))?;
        self.log = None;
        Ok(())
    }

    /// The dirty log, during precopy.
    pub fn dirty_log(&self) -> Option<&DirtyLog> {
        self.log.as_ref()
    }

    /// Stops all rings; their next available indices. Requests may stay in them.
    ///
    /// # Errors
    /// [`VmError::WrongState`], [`VmError::Frontend`].
    pub fn stop(&mut self) -> Result<Vec<u16>, VmError> {
        if !self.is_running() {
            return Err(VmError::WrongState {
                what: "stop",
                is: "stopped",
            });
        }
        let mut bases = Vec::new();
        for index in 0..self.queues.len() as u32 {
            step(
                "disabling a ring",
                self.frontend.set_vring_enable(index, false),
            )?;
            bases.push(step(
                "stopping a ring",
                self.frontend.get_vring_base(index),
            )?);
        }
        self.bases = Some(bases.clone());
        Ok(bases)
    }

    /// Takes the rings back from a daemon that is gone and cannot be asked for its
    /// bases. They are set to the used indices, as QEMU does: requests the daemon had
    /// seen but not answered are done again by the next one, if it answers in order.
    ///
    /// # Errors
    /// [`VmError::WrongState`] when the rings are stopped already.
    pub fn take_back(&mut self) -> Result<Vec<u16>, VmError> {
        if !self.is_running() {
            return Err(VmError::WrongState {
                what: "take the rings back",
                is: "stopped",
            });
        }
        let used = self
            .queues
            .iter()
            .map(|queue| queue.with(|queue| queue.ring().used_idx()));
        let bases: Vec<u16> = used.collect();
        self.bases = Some(bases.clone());
        self.log = None;
        Ok(bases)
    }

    /// Lets a stopped machine go on on the daemon it is attached to.
    ///
    /// # Errors
    /// [`VmError::WrongState`], [`VmError::Frontend`].
    pub fn resume(&mut self) -> Result<(), VmError> {
        self.start_rings()
    }

    fn save(&mut self, out: &mut impl std::io::Write) -> Result<usize, VmError> {
        if self.is_running() {
            return Err(VmError::WrongState {
                what: "save its state",
                is: "running",
            });
        }
        let saved = self.frontend.save_state_by(self.config.state_channel, out);
        saved.map_err(|source| VmError::State {
            step: "saving the device's state",
            source,
        })
    }

    /// The device's state. The machine must be stopped.
    ///
    /// # Errors
    /// [`VmError::WrongState`], [`VmError::State`].
    pub fn save_state(&mut self) -> Result<Vec<u8>, VmError> {
        let mut state = Vec::new();
        self.save(&mut state)?;
        Ok(state)
    }

    /// Writes the device's state to `out` as it comes; its bytes.
    ///
    /// # Errors
    /// [`VmError::WrongState`], [`VmError::State`].
    pub fn save_state_to(&mut self, out: &mut impl std::io::Write) -> Result<usize, VmError> {
        self.save(out)
    }

    /// Moves a stopped machine to the daemon at `socket`. With `state` the daemon
    /// loads it; without, it is sent no load at all, as by a VMM that leaves the
    /// daemon's state to others.
    ///
    /// If anything fails, the machine stays attached where it was, stopped:
    /// [`resume`](Self::resume) lets it go on there. Returned is the connection to
    /// the daemon left behind; dropping it hangs up.
    ///
    /// # Errors
    /// Any [`VmError`].
    pub fn resume_on(
        &mut self,
        socket: impl AsRef<Path>,
        state: Option<&[u8]>,
    ) -> Result<Frontend, VmError> {
        let frontend = step("connecting", Frontend::connect(socket))?;
        self.resume_over(frontend, state)
    }

    /// Like [`resume_on`](Self::resume_on) over a connection on which nothing was
    /// sent.
    ///
    /// # Errors
    /// Any [`VmError`].
    pub fn resume_over(
        &mut self,
        mut frontend: Frontend,
        state: Option<&[u8]>,
    ) -> Result<Frontend, VmError> {
        let Some(bases) = self.bases.clone() else {
            return Err(VmError::WrongState {
                what: "move to another daemon",
                is: "running",
            });
        };
        negotiate(&mut frontend, &self.config)?;
        let left = std::mem::replace(&mut self.frontend, frontend);
        let log = self.log.take();
        let attached = self.load_and_start(state);
        match attached {
            Ok(()) => Ok(left),
            Err(error) => {
                self.frontend = left;
                self.log = log;
                self.bases = Some(bases);
                Err(error)
            }
        }
    }

    fn load_and_start(&mut self, state: Option<&[u8]>) -> Result<(), VmError> {
        if self.config.load_order == LoadOrder::AfterMemory {
            self.set_up_memory()?;
        }
        if let Some(mut state) = state {
            let channel = self.config.state_channel;
            let loaded = self.frontend.load_state_by(channel, &mut state);
            loaded.map_err(|source| VmError::State {
                step: "loading the device's state",
                source,
            })?;
        }
        if self.config.load_order == LoadOrder::First {
            self.set_up_memory()?;
        }
        self.start_rings()
    }

    /// A whole migration to the daemon at `socket`: precopy unless it was started,
    /// stop, save, load, go on. If it fails after the stop, the machine goes on where
    /// it was, and the failure is returned.
    ///
    /// # Errors
    /// Any [`VmError`].
    pub fn migrate_to(&mut self, socket: impl AsRef<Path>) -> Result<Frontend, VmError> {
        if self.log.is_none() {
            self.start_precopy()?;
        }
        self.stop()?;
        let state = self.save_state();
        let moved = state.and_then(|state| self.resume_on(socket, Some(&state)));
        if moved.is_err() {
            self.cancel_precopy()?;
            self.resume()?;
        }
        moved
    }

    /// Resets the device as a rebooting guest does, and starts a new session:
    /// RESET_DEVICE, features again, empty rings, FUSE_INIT. Requests in flight are forgotten.
    ///
    /// # Errors
    /// Any [`VmError`].
    pub fn reboot(&mut self) -> Result<(), VmError> {
        if self.is_running() {
            self.stop()?;
        }
        step("resetting the device", self.frontend.reset_device())?;
        for (index, queue) in self.queues.iter().enumerate() {
            let reset = queue.reset();
            reset.map_err(|source| VmError::Queue { index, source })?;
        }
        self.bases = Some(vec![0; self.queues.len()]);
        // A reset device has forgotten its features.
        self.set_up_memory()?;
        self.start_rings()?;
        if let Some(init) = self.config.init {
            self.client().init(&init).map_err(VmError::Init)?;
        }
        Ok(())
    }
}

fn negotiate(frontend: &mut Frontend, config: &VmConfig) -> Result<(), VmError> {
    frontend.connection().set_timeout(config.timeout);
    step("negotiating", frontend.negotiate(config.protocol_features))
}
