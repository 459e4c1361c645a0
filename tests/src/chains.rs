//! Descriptor chains that no driver would make.

use std::time::Duration;

use ferryfs_frontend::queue::{QueueError, Segment};
use ferryfs_frontend::ring::{Descriptor, Ring};
use ferryfs_frontend::shared::SharedQueue;
use ferryfs_frontend::Vm;

/// Puts a chain into request queue 1 whose descriptors `write` makes: it gets the
/// ring, and the index of the head that is in the available ring already. Answers
/// the bytes that the device says it wrote.
///
/// The queue must be idle: all other descriptors are free to be written.
///
/// # Errors
/// When the chain does not come back within `patience`, or comes back wrongly.
///
/// # Panics
/// When the queue is not idle.
pub fn offer(
    vm: &Vm,
    patience: Duration,
    write: impl FnOnce(&Ring, u16),
) -> Result<u32, QueueError> {
    let queue: &SharedQueue = &vm.queues()[1];
    let token = queue.with(|queue| {
        assert_eq!(queue.in_flight(), 0, "the queue must be idle");
        // Published, but the device sleeps until it is kicked.
        let dummy = Segment {
            gpa: 0,
            len: 0,
            writable: false,
        };
        let slot = queue.avail_idx() % queue.config().size;
        let token = queue.submit(&[dummy], [None, None, None])?;
        let mut head = [0; 2];
        let at = queue.ring().avail_gpa() + 4 + 2 * u64::from(slot);
        vm.memory().read(at, &mut head)?;
        write(queue.ring(), u16::from_le_bytes(head));
        queue.kick_now()?;
        Ok::<_, QueueError>(token)
    })?;
    queue.wait(token, patience)
}

/// A descriptor.
pub fn desc(addr: u64, len: u32, flags: u16, next: u16) -> Descriptor {
    Descriptor {
        addr,
        len,
        flags,
        next,
    }
}
