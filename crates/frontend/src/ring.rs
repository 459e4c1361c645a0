//! The split virtqueue as it lies in guest memory (virtio 1.2, section 2.7), with
//! access to every field. The driver in [`queue`](crate::queue) uses it properly; a
//! hostile test may write anything through it.

use std::sync::atomic::Ordering;
use std::sync::Arc;

use crate::memory::{GuestBuffer, GuestMemory, MemoryError, PAGE_SIZE};

/// Descriptor flag: `next` names another descriptor of the chain.
pub const DESC_F_NEXT: u16 = 1;
/// Descriptor flag: the device writes here (else it reads).
pub const DESC_F_WRITE: u16 = 2;
/// Descriptor flag: the buffer holds a table of descriptors.
pub const DESC_F_INDIRECT: u16 = 4;
/// Flag of the available ring: the driver wants no interrupts (without EVENT_IDX).
pub const AVAIL_F_NO_INTERRUPT: u16 = 1;
/// Flag of the used ring: the device wants no kicks (without EVENT_IDX).
pub const USED_F_NO_NOTIFY: u16 = 1;
/// Bytes of a descriptor.
pub const DESC_SIZE: usize = 16;

/// struct virtq_desc.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Descriptor {
    /// Guest-physical address.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// `DESC_F_*`.
    pub flags: u16,
    /// Next descriptor if [`DESC_F_NEXT`].
    pub next: u16,
}

impl Descriptor {
    /// As it lies in memory, little-endian.
    pub fn to_bytes(self) -> [u8; DESC_SIZE] {
        let mut bytes = [0; DESC_SIZE];
        bytes[0..8].copy_from_slice(&self.addr.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..14].copy_from_slice(&self.flags.to_le_bytes());
        bytes[14..16].copy_from_slice(&self.next.to_le_bytes());
        bytes
    }
}

/// The three parts of a split virtqueue. What is written here behind the driver's
/// back, the driver does not know of: use a queue for one or the other. Each part is
/// on pages of its own, so that the dirty log tells them apart.
#[derive(Debug)]
pub struct Ring {
    size: u16,
    desc: GuestBuffer,
    avail: GuestBuffer,
    used: GuestBuffer,
}

impl Ring {
    /// Zeroed rings of `size` descriptors.
    ///
    /// # Errors
    /// [`MemoryError::Full`].
    pub fn new(memory: &Arc<GuestMemory>, size: u16) -> Result<Self, MemoryError> {
        let entries = usize::from(size);
        let pages = |bytes: usize| memory.alloc(bytes.next_multiple_of(PAGE_SIZE as usize));
        let ring = Ring {
            size,
            desc: pages(DESC_SIZE * entries)?,
            avail: pages(6 + 2 * entries)?,
            used: pages(6 + 8 * entries)?,
        };
        ring.clear()?;
        Ok(ring)
    }

    /// Zeroes all three parts, as a driver does when it sets a device up.
    ///
    /// # Errors
    /// None in practice: the ranges are the ring's own.
    pub fn clear(&self) -> Result<(), MemoryError> {
        for part in [&self.desc, &self.avail, &self.used] {
            part.write_at(0, &vec![0; part.len()])?;
        }
        Ok(())
    }

    /// Number of descriptors.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Guest-physical address of the descriptor table.
    pub fn desc_gpa(&self) -> u64 {
        self.desc.gpa()
    }

    /// Guest-physical address of the available ring.
    pub fn avail_gpa(&self) -> u64 {
        self.avail.gpa()
    }

    /// Guest-physical address of the used ring.
    pub fn used_gpa(&self) -> u64 {
        self.used.gpa()
    }

    /// User addresses of {descriptor table, used ring, available ring}, as
    /// SET_VRING_ADDR wants them.
    pub fn user_addrs(&self) -> (u64, u64, u64) {
        let user =
            |part: &GuestBuffer| part.region().user_addr() + (part.gpa() - part.region().gpa());
        (user(&self.desc), user(&self.used), user(&self.avail))
    }

    /// Writes descriptor `index`.
    ///
    /// # Errors
    /// [`MemoryError::OutOfRange`] for an index past the table.
    pub fn write_desc(&self, index: u16, desc: Descriptor) -> Result<(), MemoryError> {
        self.desc
            .write_at(usize::from(index) * DESC_SIZE, &desc.to_bytes())
    }

    /// Writes the head in slot `index % size` of the available ring. Does not
    /// publish it.
    ///
    /// # Errors
    /// None in practice: the slot is in the ring.
    pub fn write_avail(&self, index: u16, head: u16) -> Result<(), MemoryError> {
        let slot = usize::from(index % self.size);
        self.avail.write_at(4 + 2 * slot, &head.to_le_bytes())
    }

    /// Sets the available ring's index, after everything written before.
    pub fn set_avail_idx(&self, index: u16) {
        self.store(&self.avail, 2, index);
    }

    /// The available ring's index.
    pub fn avail_idx(&self) -> u16 {
        self.load(&self.avail, 2)
    }

    /// Sets the available ring's flags.
    pub fn set_avail_flags(&self, flags: u16) {
        self.store(&self.avail, 0, flags);
    }

    /// Sets used_event: the used index whose passing is worth an interrupt.
    pub fn set_used_event(&self, index: u16) {
        self.store(&self.avail, 4 + 2 * usize::from(self.size), index);
    }

    /// The used ring's index, before everything read after.
    pub fn used_idx(&self) -> u16 {
        self.load(&self.used, 2)
    }

    /// Sets the used ring's index, which is the device's to write.
    pub fn set_used_idx(&self, index: u16) {
        self.store(&self.used, 2, index);
    }

    /// The used ring's flags.
    pub fn used_flags(&self) -> u16 {
        self.load(&self.used, 0)
    }

    /// avail_event: the available index whose passing is worth a kick.
    pub fn avail_event(&self) -> u16 {
        self.load(&self.used, 4 + 8 * usize::from(self.size))
    }

    /// Element in slot `index % size` of the used ring: {head, bytes written}.
    ///
    /// # Errors
    /// None in practice: the slot is in the ring.
    pub fn used_elem(&self, index: u16) -> Result<(u32, u32), MemoryError> {
        let slot = usize::from(index % self.size);
        let mut elem = [0; 8];
        self.used.read_at(4 + 8 * slot, &mut elem)?;
        let word =
            |at: usize| u32::from_le_bytes([elem[at], elem[at + 1], elem[at + 2], elem[at + 3]]);
        Ok((word(0), word(4)))
    }

    fn store(&self, part: &GuestBuffer, offset: usize, value: u16) {
        // Offsets are within the part, and even: `new` sized it.
        if let Ok(word) = part.region().atomic_u16(part.gpa() + offset as u64) {
            word.store(value.to_le(), Ordering::Release);
        }
    }

    fn load(&self, part: &GuestBuffer, offset: usize) -> u16 {
        match part.region().atomic_u16(part.gpa() + offset as u64) {
            Ok(word) => u16::from_le(word.load(Ordering::Acquire)),
            Err(_) => 0,
        }
    }
}
