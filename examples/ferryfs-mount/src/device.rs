//! Requests from `/dev/fuse`: one `read` each, and one `write` for each reply.
//!
//! The kernel copies a request into the reader's buffer and a reply out of it, so
//! file data passes through two buffers here; a virtqueue needs neither.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;

use ferryfs_core::buffer::BufIo;
use ferryfs_core::server::ServerConfig;
use ferryfs_core::service::Service;
use rustix::io::Errno;

/// What goes with a request's data, or a reply's, in bytes.
const HEADERS: usize = 4096;
/// What file data is aligned to, for files that are opened with `O_DIRECT`.
const PAGE: usize = 4096;
/// What is in front of a WRITE's data: `fuse_in_header` and `fuse_write_in`.
const BEFORE_WRITTEN: usize = 40 + 40;
/// What is in front of a READ's data: `fuse_out_header`.
const BEFORE_READ: usize = 16;
/// `PR_SET_IO_FLUSHER`, since Linux 5.6.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// Serves requests until the file system is unmounted.
///
/// # Errors
/// The device's.
pub fn serve<S: Service>(device: BorrowedFd<'_>, service: &S) -> io::Result<()> {
    // The kernel refuses to read into less than the session's longest WRITE.
    let most = ServerConfig::default().max_write as usize + HEADERS;
    let (mut request, mut reply) = (vec![0; most + PAGE], vec![0; most + PAGE]);
    let request = {
        let range = aligned_behind(&request, BEFORE_WRITTEN, most);
        &mut request[range]
    };
    let reply = {
        let range = aligned_behind(&reply, BEFORE_READ, most);
        &mut reply[range]
    };
    loop {
        let len = match rustix::io::read(device, &mut *request) {
            Ok(len) => len,
            // A request that its caller has given up before it was read; a signal.
            Err(Errno::NOENT | Errno::INTR | Errno::AGAIN) => continue,
            // Unmounted, or the connection was aborted by hand.
            Err(Errno::NODEV) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let used = service.handle(BufIo::new(&request[..len], reply));
        if used == 0 {
            continue;
        }
        match rustix::io::write(device, &reply[..used]) {
            // Its caller has not waited, as when the connection ends.
            Ok(_) | Err(Errno::NOENT) => {}
            Err(Errno::NODEV) => return Ok(()),
            // Only that caller is hurt by a reply that the kernel does not take.
            Err(e) => log::error!("the kernel refused a reply of {used} bytes: {e}"),
        }
    }
}

/// Where in `buf` to begin so that what comes `front` bytes behind it is aligned.
fn aligned_behind(buf: &[u8], front: usize, len: usize) -> Range<usize> {
    let misaligned = (buf.as_ptr() as usize + front) % PAGE;
    let start = (PAGE - misaligned) % PAGE;
    start..start + len
}

/// Keeps the kernel from making this process wait, when it needs memory or writes
/// too fast, for pages that this process itself has to write back. For the calling
/// thread and those that it starts.
pub fn flush_without_waiting_for_ourselves() {
    // SAFETY: the call takes no pointer.
    let rc = unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
    if rc < 0 {
        log::debug!(
            "cannot be marked as a flusher ({}): --writeback can be slow under memory pressure",
            io::Error::last_os_error()
        );
    }
}
