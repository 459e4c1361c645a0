//! Memory that the kernel has at hand.

use std::ptr;

use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::daemon::{own_cpus, pin_thread};
use crate::error::BenchError;

/// The size of a page that the kernel has no other reason to make larger.
const PAGE: usize = 4096;

/// Has `size` bytes of memory on the kernel's list of free pages of each processor. A state
/// goes through as many of a pipe's pages; and where this machine is a virtual one whose
/// host takes back what lies free, getting them costs several times what using them does.
///
/// # Errors
/// There is not so much memory.
pub fn have_ready(size: usize) -> Result<(), BenchError> {
    let use_on = |cpu: usize| {
        pin_thread(&[cpu])?;
        use_once(size).map_err(|e| BenchError::Usage(format!("{size} bytes of memory: {e}")))
    };
    let cpus = own_cpus()?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = cpus
            .iter()
            .map(|cpu| scope.spawn(move || use_on(*cpu)))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("no panic"))
    })
}

/// Writes to each page of `size` bytes of new memory, and gives it back.
fn use_once(size: usize) -> rustix::io::Result<()> {
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: new memory, at an address that the kernel chooses, which nobody else knows.
    let start = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), size, protection, flags)? };
    // SAFETY: it is the mapping from above; nothing of it changes by how it is backed.
    let small = unsafe { rustix::mm::madvise(start, size, Advice::LinuxNoHugepage) };
    // A kernel that knows no huge pages has none to leave out.
    let _ = small;
    for page in (0..size).step_by(PAGE) {
        // SAFETY: it lies within the mapping, which nobody else uses.
        unsafe { start.cast::<u8>().add(page).write_volatile(1) };
    }
    // SAFETY: it is the mapping from above, and nothing points into it any more.
    unsafe { rustix::mm::munmap(start, size) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_there_is_is_an_error() {
        have_ready(1 << 20).expect("a little");
        let error = have_ready(1 << 62)
            .expect_err("beyond any machine")
            .to_string();
        assert!(error.contains("bytes of memory"), "{error}");
        assert!(!own_cpus().expect("CPUs").is_empty());
    }
}
