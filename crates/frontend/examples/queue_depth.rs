//! Reads a file with several requests in flight, and says how long that took for each
//! depth.
//!
//! ```sh
//! cargo run --release -p ferryfs-frontend --example queue_depth -- /tmp/fs.sock FILE
//! ```

use std::collections::VecDeque;
use std::error::Error;
use std::time::Instant;

use ferryfs_frontend::{call, fuse::ROOT_ID, Vm};

/// Bytes per request.
const BLOCK: u32 = 64 << 10;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: queue_depth SOCKET FILE (a file in the root of the share)";
    let (socket, name) = args.next().zip(args.next()).ok_or(usage)?;
    let vm = Vm::boot(socket)?;
    let fs = vm.client();
    let file = fs.lookup(ROOT_ID, name.as_str())?;
    let handle = fs.open(file.nodeid, libc::O_RDONLY as u32)?;
    for depth in [1, 8, 32] {
        let (start, mut bytes) = (Instant::now(), 0);
        let mut in_flight = VecDeque::new();
        for offset in (0..file.attr.size).step_by(BLOCK as usize) {
            if in_flight.len() == depth {
                let first: ferryfs_frontend::client::Pending<Vec<u8>> =
                    in_flight.pop_front().ok_or("a depth of 0")?;
                bytes += first.wait()?.len();
            }
            let read = call::read(file.nodeid, handle.fh, offset, BLOCK, 0);
            in_flight.push_back(fs.submit(read)?);
        }
        for last in in_flight {
            bytes += last.wait()?.len();
        }
        println!("depth {depth}: {bytes} bytes in {:?}", start.elapsed());
    }
    fs.release(file.nodeid, handle.fh)?;
    Ok(())
}
