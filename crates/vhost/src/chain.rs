//! A descriptor chain read again: of a request that stands over, whose driver has not
//! got it back yet, nothing is kept but its head.

use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress};

use crate::vring::GuestMem;

/// Length of a descriptor in bytes.
const DESCRIPTOR: u64 = 16;

/// Where the parts of a request are in guest memory.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    readable: Vec<(GuestAddress, usize)>,
    writable: Vec<(GuestAddress, usize)>,
    /// Descriptors that the chain takes in the queue's table.
    pub(crate) descriptors: u16,
}

/// A queue's descriptor table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    pub(crate) address: u64,
    pub(crate) size: u16,
}

impl Table {
    fn read(self, mem: &GuestMem, index: u16) -> Option<Descriptor> {
        if index >= self.size {
            return None;
        }
        let at = self
            .address
            .checked_add(u64::from(index) * DESCRIPTOR)
            .map(GuestAddress)?;
        mem.read_obj(at).ok()
    }

    /// The chain that begins with descriptor `head`; `None` when it makes no sense.
    pub(crate) fn chain(self, mem: &GuestMem, head: u16) -> Option<Segments> {
        let first = self.read(mem, head)?;
        let mut segments = Segments::default();
        if first.refers_to_indirect_table() {
            let entries = u64::from(first.len()) / DESCRIPTOR;
            let inner = Table {
                address: first.addr().0,
                size: u16::try_from(entries).ok()?,
            };
            inner.walk(mem, 0, &mut segments)?;
            segments.descriptors = 1;
        } else {
            segments.descriptors = self.walk(mem, head, &mut segments)?;
        }
        Some(segments)
    }

    /// Adds the parts of a chain; answers how many descriptors it has.
    fn walk(self, mem: &GuestMem, head: u16, segments: &mut Segments) -> Option<u16> {
        let mut at = head;
        // A chain cannot be longer than its table; a loop would be.
        for count in 1..=self.size {
            let descriptor = self.read(mem, at)?;
            if descriptor.refers_to_indirect_table() {
                return None;
            }
            let half = match descriptor.is_write_only() {
                true => &mut segments.writable,
                false => &mut segments.readable,
            };
            half.push((descriptor.addr(), descriptor.len() as usize));
            if !descriptor.has_next() {
                return Some(count);
            }
            at = descriptor.next();
        }
        None
    }
}

impl Segments {
    /// The request's bytes; `None` when there are more than `most`, or they are not in
    /// guest memory.
    pub(crate) fn read(&self, mem: &GuestMem, most: usize) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        for &(address, len) in &self.readable {
            let start = bytes.len();
            if len > most - start {
                return None;
            }
            bytes.resize(start + len, 0);
            mem.read_slice(&mut bytes[start..], address).ok()?;
        }
        Some(bytes)
    }

    /// Room for a reply in bytes, as far as `most`.
    pub(crate) fn room(&self, most: usize) -> usize {
        let room = |sum: usize, (_, len): &(_, usize)| sum.saturating_add(*len);
        self.writable.iter().fold(0, room).min(most)
    }

    /// Writes a reply; answers how many bytes of it are there, 0 when there is no room
    /// for it.
    pub(crate) fn write(&self, mem: &GuestMem, mut reply: &[u8]) -> u32 {
        let len = reply.len();
        if self.room(len) < len {
            return 0;
        }
        for &(address, room) in &self.writable {
            let (head, rest) = reply.split_at(room.min(reply.len()));
            if mem.write_slice(head, address).is_err() {
                return 0;
            }
            reply = rest;
        }
        len as u32
    }
}
