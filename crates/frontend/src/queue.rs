//! Driver of one split virtqueue: chains in, completions out.
//!
//! Nothing the daemon writes is trusted: which descriptors a chain used is kept here,
//! and a used element that names no chain in flight is an error.

use std::io;
use std::sync::atomic::{fence, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::event::EventFd;
use crate::memory::{GuestBuffer, GuestMemory, MemoryError};
use crate::ring::{self, Descriptor, Ring};

/// What can go wrong with a queue.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// An eventfd.
    #[error("cannot {what} the queue's eventfd")]
    Event {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A ring size that virtio does not know.
    #[error("a split ring has a power of two of descriptors, at most 32768, not {size}")]
    BadSize {
        /// The size asked for.
        size: u16,
    },
    /// More segments than descriptors are free.
    #[error("a chain of {segments} segments does not fit: {free} of {size} descriptors are free")]
    Full {
        /// Segments of the chain.
        segments: usize,
        /// Free descriptors.
        free: usize,
        /// All descriptors.
        size: u16,
    },
    /// A chain without segments.
    #[error("a chain needs at least one segment")]
    EmptyChain,
    /// The device gave back what it was not given.
    #[error("used element {index} names head {id}, which is not in flight")]
    BadUsed {
        /// Index in the used ring.
        index: u16,
        /// Head named there.
        id: u32,
    },
    /// The device's used index went somewhere impossible.
    #[error("the used index jumped from {seen} to {index} with {in_flight} chains in flight")]
    BadUsedIndex {
        /// The last index seen.
        seen: u16,
        /// The index found.
        index: u16,
        /// Chains in flight.
        in_flight: usize,
    },
    /// The chain came back, but the device never signalled the call eventfd: a guest
    /// would still be waiting.
    #[error("a chain came back within {timeout:?}, but the device did not call")]
    NotCalled {
        /// How long was waited.
        timeout: Duration,
    },
    /// No completion in time.
    #[error(
        "no completion within {timeout:?}; {in_flight} chains in flight, available index {avail}, \
         used index {used}{}",
        .avail_event.map_or(String::new(), |event| format!(", the device asks for a kick past {event}"))
    )]
    Timeout {
        /// How long was waited.
        timeout: Duration,
        /// Chains in flight.
        in_flight: usize,
        /// The available ring's index.
        avail: u16,
        /// The used ring's index.
        used: u16,
        /// With EVENT_IDX, the available index whose passing the device wants to be
        /// kicked for.
        avail_event: Option<u16>,
    },
}

/// What a queue is made with.
#[derive(Debug, Clone, Copy)]
pub struct QueueConfig {
    /// Number of descriptors, a power of two.
    pub size: u16,
    /// Put chains of more than one segment into an indirect table
    /// (VIRTIO_RING_F_INDIRECT_DESC must be negotiated).
    pub indirect: bool,
    /// Suppress kicks and interrupts by index (VIRTIO_RING_F_EVENT_IDX must be
    /// negotiated).
    pub event_idx: bool,
}

/// One piece of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Guest-physical address.
    pub gpa: u64,
    /// Bytes.
    pub len: u32,
    /// The device writes here.
    pub writable: bool,
}

/// Buffers that must stay allocated while a chain is in flight.
pub type Keep = [Option<Arc<GuestBuffer>>; 3];

/// Names a chain from submission to completion; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(u64);

/// A chain given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// Which one.
    pub token: Token,
    /// Bytes the device says it wrote.
    pub written: u32,
}

#[derive(Debug)]
struct InFlight {
    token: Token,
    last: u16,
    descs: u16,
    _keep: Keep,
}

/// A split virtqueue with the driver's knowledge of it.
#[derive(Debug)]
pub struct Queue {
    ring: Ring,
    config: QueueConfig,
    memory: Arc<GuestMemory>,
    kick: EventFd,
    call: Arc<EventFd>,
    err: EventFd,
    /// Free descriptors as a list through `next`; its head and length.
    next: Vec<u16>,
    free_head: u16,
    free: u16,
    in_flight: Vec<Option<InFlight>>,
    indirect_tables: Vec<Option<GuestBuffer>>,
    avail_idx: u16,
    kicked_idx: u16,
    used_idx: u16,
    next_token: u64,
    polling: bool,
}

impl Queue {
    /// A queue in `memory` with nothing in it.
    ///
    /// # Errors
    /// [`QueueError::BadSize`], [`QueueError::Memory`], [`QueueError::Event`].
    pub fn new(memory: &Arc<GuestMemory>, config: QueueConfig) -> Result<Self, QueueError> {
        let size = config.size;
        if !size.is_power_of_two() || size > 32768 {
            return Err(QueueError::BadSize { size });
        }
        let entries = usize::from(size);
        let mut queue = Queue {
            ring: Ring::new(memory, size)?,
            config,
            memory: Arc::clone(memory),
            kick: event(0)?,
            call: Arc::new(event(0)?),
            err: event(0)?,
            next: vec![0; entries],
            free_head: 0,
            free: 0,
            in_flight: Vec::new(),
            indirect_tables: std::iter::repeat_with(|| None).take(entries).collect(),
            avail_idx: 0,
            kicked_idx: 0,
            used_idx: 0,
            next_token: 0,
            polling: false,
        };
        queue.forget_all();
        Ok(queue)
    }

    fn forget_all(&mut self) {
        let size = self.config.size;
        for (i, next) in self.next.iter_mut().enumerate() {
            *next = (i as u16).wrapping_add(1);
        }
        self.free_head = 0;
        self.free = size;
        self.in_flight = std::iter::repeat_with(|| None)
            .take(usize::from(size))
            .collect();
        self.avail_idx = 0;
        self.kicked_idx = 0;
        self.used_idx = 0;
    }

    /// Empties the queue as a guest driver does when it resets the device. Chains in
    /// flight are forgotten: the device must be stopped.
    ///
    /// # Errors
    /// [`QueueError::Memory`].
    pub fn reset(&mut self) -> Result<(), QueueError> {
        self.ring.clear()?;
        self.forget_all();
        Ok(())
    }

    /// The rings themselves.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// What it was made with.
    pub fn config(&self) -> QueueConfig {
        self.config
    }

    /// The eventfd that wakes the device.
    pub fn kick_fd(&self) -> &EventFd {
        &self.kick
    }

    /// The eventfd by which the device wakes us.
    pub fn call_fd(&self) -> &Arc<EventFd> {
        &self.call
    }

    /// The eventfd by which the device reports a broken ring.
    pub fn err_fd(&self) -> &EventFd {
        &self.err
    }

    /// Replaces the kick eventfd, so that a daemon left behind cannot swallow kicks
    /// meant for its successor. A first count of 1 wakes the new daemon at once, as
    /// QEMU's does.
    ///
    /// # Errors
    /// [`QueueError::Event`].
    pub fn renew_kick(&mut self, initial: u32) -> Result<(), QueueError> {
        self.kick = event(initial)?;
        Ok(())
    }

    /// Chains submitted and not given back.
    pub fn in_flight(&self) -> usize {
        self.in_flight.iter().flatten().count()
    }

    /// The available index as the driver counts it.
    pub fn avail_idx(&self) -> u16 {
        self.avail_idx
    }

    /// The used index up to which completions were taken.
    pub fn used_idx(&self) -> u16 {
        self.used_idx
    }

    /// Whether a chain of `segments` fits now.
    pub fn has_room(&self, segments: usize) -> bool {
        let needed = if self.config.indirect && segments > 1 {
            1
        } else {
            segments
        };
        needed <= usize::from(self.free)
    }

    /// Suppresses interrupts (true) for a caller that polls, or allows them again.
    pub fn set_polling(&mut self, polling: bool) {
        self.polling = polling;
        if polling {
            self.ring.set_avail_flags(ring::AVAIL_F_NO_INTERRUPT);
            self.ring.set_used_event(self.used_idx.wrapping_sub(1));
        } else {
            self.ring.set_avail_flags(0);
            self.ring.set_used_event(self.used_idx);
        }
    }

    /// Puts a chain into the ring and publishes it. [`kick`](Self::kick) tells the
    /// device. Buffers in `keep` stay allocated until the chain comes back.
    ///
    /// # Errors
    /// [`QueueError::EmptyChain`], [`QueueError::Full`], [`QueueError::Memory`].
    pub fn submit(&mut self, chain: &[Segment], keep: Keep) -> Result<Token, QueueError> {
        if chain.is_empty() {
            return Err(QueueError::EmptyChain);
        }
        if !self.has_room(chain.len()) {
            return Err(QueueError::Full {
                segments: chain.len(),
                free: usize::from(self.free),
                size: self.config.size,
            });
        }
        let head = self.free_head;
        let (last, descs) = if self.config.indirect && chain.len() > 1 {
            self.write_indirect(head, chain)?;
            (head, 1)
        } else {
            (self.write_direct(head, chain)?, chain.len() as u16)
        };
        self.free_head = self.next[usize::from(last)];
        self.free -= descs;

        let token = Token(self.next_token);
        self.next_token += 1;
        self.in_flight[usize::from(head)] = Some(InFlight {
            token,
            last,
            descs,
            _keep: keep,
        });
        self.ring.write_avail(self.avail_idx, head)?;
        self.avail_idx = self.avail_idx.wrapping_add(1);
        self.ring.set_avail_idx(self.avail_idx);
        Ok(token)
    }

    /// Writes a chain over the free list from `head` on; its last descriptor.
    fn write_direct(&self, head: u16, chain: &[Segment]) -> Result<u16, QueueError> {
        let mut index = head;
        for (i, segment) in chain.iter().enumerate() {
            let next = self.next[usize::from(index)];
            let more = i + 1 < chain.len();
            self.ring
                .write_desc(index, descriptor(segment, more.then_some(next)))?;
            if more {
                index = next;
            }
        }
        Ok(index)
    }

    fn write_indirect(&mut self, head: u16, chain: &[Segment]) -> Result<(), QueueError> {
        let len = chain.len() * ring::DESC_SIZE;
        let slot = &mut self.indirect_tables[usize::from(head)];
        let table = match slot {
            Some(table) if table.len() >= len => table,
            _ => slot.insert(self.memory.alloc(len)?),
        };
        for (i, segment) in chain.iter().enumerate() {
            let next = (i + 1 < chain.len()).then_some(i as u16 + 1);
            table.write_at(i * ring::DESC_SIZE, &descriptor(segment, next).to_bytes())?;
        }
        let desc = Descriptor {
            addr: table.gpa(),
            len: len as u32,
            flags: ring::DESC_F_INDIRECT,
            next: 0,
        };
        Ok(self.ring.write_desc(head, desc)?)
    }

    /// Kicks the device if it wants to be. True when it was kicked.
    ///
    /// # Errors
    /// [`QueueError::Event`].
    pub fn kick(&mut self) -> Result<bool, QueueError> {
        // The device writes its wish, then looks at the available index; we write
        // the index, then look at the wish.
        fence(Ordering::SeqCst);
        let (new, old) = (self.avail_idx, self.kicked_idx);
        self.kicked_idx = new;
        let wanted = if self.config.event_idx {
            let event = self.ring.avail_event();
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            new != old && self.ring.used_flags() & ring::USED_F_NO_NOTIFY == 0
        };
        if wanted {
            self.kick_now()?;
        }
        Ok(wanted)
    }

    /// Kicks the device, wanted or not.
    ///
    /// # Errors
    /// [`QueueError::Event`].
    pub fn kick_now(&self) -> Result<(), QueueError> {
        self.kick.signal().map_err(|source| QueueError::Event {
            what: "signal",
            source,
        })
    }

    /// Takes one completion if there is one.
    ///
    /// # Errors
    /// [`QueueError::BadUsed`], [`QueueError::BadUsedIndex`].
    pub fn pop(&mut self) -> Result<Option<Completion>, QueueError> {
        let index = self.ring.used_idx();
        if index == self.used_idx {
            return Ok(None);
        }
        if usize::from(index.wrapping_sub(self.used_idx)) > usize::from(self.config.size) {
            let (seen, in_flight) = (self.used_idx, self.in_flight());
            return Err(QueueError::BadUsedIndex {
                seen,
                index,
                in_flight,
            });
        }
        let (id, written) = self.ring.used_elem(self.used_idx)?;
        let done = self.in_flight.get_mut(id as usize).and_then(Option::take);
        let done = done.ok_or(QueueError::BadUsed {
            index: self.used_idx,
            id,
        })?;
        self.next[usize::from(done.last)] = self.free_head;
        self.free_head = id as u16;
        self.free += done.descs;
        self.used_idx = self.used_idx.wrapping_add(1);
        if self.polling && self.config.event_idx {
            self.ring.set_used_event(self.used_idx.wrapping_sub(1));
        }
        Ok(Some(Completion {
            token: done.token,
            written,
        }))
    }

    /// Asks for an interrupt at the next completion; false when one is already
    /// there. After true, waiting for the call eventfd misses nothing.
    ///
    /// # Errors
    /// [`QueueError::Event`].
    pub fn arm(&mut self) -> Result<bool, QueueError> {
        self.call.take().map_err(|source| QueueError::Event {
            what: "read",
            source,
        })?;
        self.polling = false;
        if self.config.event_idx {
            self.ring.set_used_event(self.used_idx);
        } else {
            self.ring.set_avail_flags(0);
        }
        fence(Ordering::SeqCst);
        Ok(self.ring.used_idx() == self.used_idx)
    }

    /// Waits for one completion.
    ///
    /// # Errors
    /// [`QueueError::Timeout`], and those of [`pop`](Self::pop).
    pub fn wait(&mut self, timeout: Duration) -> Result<Completion, QueueError> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(done) = self.pop()? {
                return Ok(done);
            }
            if self.arm()? {
                let wait = self.call.wait(deadline);
                if !wait.map_err(|source| QueueError::Event {
                    what: "poll",
                    source,
                })? {
                    return Err(match self.pop()? {
                        Some(_) => QueueError::NotCalled { timeout },
                        None => self.timed_out(timeout),
                    });
                }
            }
        }
    }

    /// The error for a wait of `timeout` in vain.
    pub fn timed_out(&self, timeout: Duration) -> QueueError {
        QueueError::Timeout {
            timeout,
            in_flight: self.in_flight(),
            avail: self.avail_idx,
            used: self.ring.used_idx(),
            avail_event: self.config.event_idx.then(|| self.ring.avail_event()),
        }
    }
}

fn event(initial: u32) -> Result<EventFd, QueueError> {
    EventFd::new(initial).map_err(|source| QueueError::Event {
        what: "create",
        source,
    })
}

fn descriptor(segment: &Segment, next: Option<u16>) -> Descriptor {
    let write = if segment.writable {
        ring::DESC_F_WRITE
    } else {
        0
    };
    let more = if next.is_some() { ring::DESC_F_NEXT } else { 0 };
    Descriptor {
        addr: segment.gpa,
        len: segment.len,
        flags: write | more,
        next: next.unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::RegionConfig;

    fn queue(size: u16, indirect: bool, event_idx: bool) -> (Arc<GuestMemory>, Queue) {
        let region = RegionConfig {
            gpa: 0,
            size: 4 << 20,
        };
        let memory = GuestMemory::new(&[region]).expect("memory");
        let config = QueueConfig {
            size,
            indirect,
            event_idx,
        };
        let queue = Queue::new(&memory, config).expect("queue");
        (memory, queue)
    }

    fn segments(n: usize) -> Vec<Segment> {
        (0..n as u64)
            .map(|i| Segment {
                gpa: 0x1000 * i,
                len: 16,
                writable: i > 0,
            })
            .collect()
    }

    /// Plays the device: gives `head` back.
    fn complete(queue: &Queue, head: u32, written: u32) {
        let index = queue.ring.used_idx();
        let at = queue.ring.used_gpa() + 4 + 8 * u64::from(index % queue.ring.size());
        let mut elem = head.to_le_bytes().to_vec();
        elem.extend_from_slice(&written.to_le_bytes());
        queue.memory.write(at, &elem).expect("used element");
        queue.ring.set_used_idx(index.wrapping_add(1));
    }

    fn desc(queue: &Queue, table: u64, index: u64) -> (u64, u32, u16, u16) {
        let mut b = [0; 16];
        queue
            .memory
            .read(table + 16 * index, &mut b)
            .expect("descriptor");
        let addr = u64::from_le_bytes(b[0..8].try_into().expect("8"));
        let len = u32::from_le_bytes(b[8..12].try_into().expect("4"));
        let flags = u16::from_le_bytes(b[12..14].try_into().expect("2"));
        (
            addr,
            len,
            flags,
            u16::from_le_bytes(b[14..16].try_into().expect("2")),
        )
    }

    #[test]
    fn direct_chains_are_linked_and_reused_out_of_order() {
        let (_memory, mut q) = queue(8, false, false);
        let a = q.submit(&segments(3), Keep::default()).expect("submit");
        let b = q.submit(&segments(2), Keep::default()).expect("submit");
        let table = q.ring.desc_gpa();
        assert_eq!(desc(&q, table, 0), (0, 16, ring::DESC_F_NEXT, 1));
        assert_eq!(desc(&q, table, 2), (0x2000, 16, ring::DESC_F_WRITE, 0));
        assert_eq!(desc(&q, table, 3), (0, 16, ring::DESC_F_NEXT, 4));
        assert!(matches!(
            q.submit(&segments(4), Keep::default()),
            Err(QueueError::Full {
                segments: 4,
                free: 3,
                size: 8
            })
        ));
        complete(&q, 3, 20);
        complete(&q, 0, 10);
        assert_eq!(
            q.pop().expect("pop"),
            Some(Completion {
                token: b,
                written: 20
            })
        );
        assert_eq!(
            q.pop().expect("pop"),
            Some(Completion {
                token: a,
                written: 10
            })
        );
        assert_eq!(q.pop().expect("pop"), None);
        // All eight are free again, in whatever order.
        q.submit(&segments(8), Keep::default()).expect("submit");
        assert!(!q.has_room(1));
    }

    #[test]
    fn indirect_chains_take_one_descriptor() {
        let (_memory, mut q) = queue(2, true, false);
        q.submit(&segments(5), Keep::default()).expect("submit");
        q.submit(&segments(300), Keep::default()).expect("submit");
        assert!(!q.has_room(2));
        let (table, len, flags, _) = desc(&q, q.ring.desc_gpa(), 0);
        assert_eq!((len, flags), (80, ring::DESC_F_INDIRECT));
        assert_eq!(desc(&q, table, 4), (0x4000, 16, ring::DESC_F_WRITE, 0));
        assert_eq!(desc(&q, table, 3).3, 4);
    }

    #[test]
    fn kicks_are_suppressed_as_the_device_wishes() {
        let (_memory, mut q) = queue(8, false, false);
        q.submit(&segments(1), Keep::default()).expect("submit");
        assert!(q.kick().expect("kick"));
        assert!(!q.kick().expect("kick"), "nothing new");
        q.memory
            .write(q.ring.used_gpa(), &[1, 0])
            .expect("NO_NOTIFY");
        q.submit(&segments(1), Keep::default()).expect("submit");
        assert!(!q.kick().expect("kick"));

        let (_memory, mut q) = queue(8, false, true);
        q.memory
            .write(q.ring.used_gpa() + 4 + 64, &[1, 0])
            .expect("avail_event = 1");
        q.submit(&segments(1), Keep::default()).expect("submit");
        assert!(!q.kick().expect("kick"), "wants to be woken past 1");
        q.submit(&segments(1), Keep::default()).expect("submit");
        assert!(q.kick().expect("kick"));
        assert_eq!(q.kick.take().expect("take"), 1);
    }

    #[test]
    fn lies_in_the_used_ring_are_errors() {
        let (_memory, mut q) = queue(8, false, false);
        q.submit(&segments(2), Keep::default()).expect("submit");
        complete(&q, 1, 0);
        assert!(matches!(
            q.pop(),
            Err(QueueError::BadUsed { index: 0, id: 1 })
        ));
        let (_memory, mut q) = queue(8, false, false);
        complete(&q, 4_000_000_000, 0);
        assert!(matches!(q.pop(), Err(QueueError::BadUsed { .. })));
        q.ring.set_used_idx(100);
        assert!(matches!(
            q.pop(),
            Err(QueueError::BadUsedIndex { index: 100, .. })
        ));
    }

    #[test]
    fn a_wait_in_vain_says_where_things_stand() {
        let (_memory, mut q) = queue(8, false, true);
        q.submit(&segments(1), Keep::default()).expect("submit");
        let error = q.wait(Duration::from_millis(10)).expect_err("no device");
        assert_eq!(
            error.to_string(),
            "no completion within 10ms; 1 chains in flight, available index 1, used index 0, \
             the device asks for a kick past 0"
        );
        complete(&q, 0, 5);
        assert_eq!(q.wait(Duration::ZERO).expect("done").written, 5);
    }

    #[test]
    fn indices_wrap() {
        let (_memory, mut q) = queue(4, false, true);
        for i in 0..70_000u32 {
            q.submit(&segments(2), Keep::default()).expect("submit");
            let head =
                u32::from(q.in_flight.iter().position(Option::is_some).expect("head") as u16);
            complete(&q, head, i);
            assert_eq!(q.pop().expect("pop").expect("one").written, i);
        }
        assert_eq!(q.used_idx(), (70_000 % 65_536) as u16);
    }
}
