//! Sends what no guest and no VMM should: a descriptor chain that loops, and a message
//! that is none. A daemon that is well answers or hangs up, and serves on.
//!
//! ```sh
//! ferryfsd --socket-path /tmp/fs.sock --shared-dir /srv --keep-listening &
//! cargo run -p ferryfs-frontend --example nonsense -- /tmp/fs.sock
//! ```

use std::error::Error;
use std::time::Duration;

use ferryfs_frontend::fuse::ROOT_ID;
use ferryfs_frontend::queue::{QueueError, Segment};
use ferryfs_frontend::ring::{Descriptor, DESC_F_NEXT};
use ferryfs_frontend::{Frontend, Vm};

fn main() -> Result<(), Box<dyn Error>> {
    let socket = std::env::args_os().nth(1).ok_or("usage: nonsense SOCKET")?;
    let mut vm = Vm::boot(&socket)?;
    let queue = std::sync::Arc::clone(&vm.queues()[1]);
    let token = queue.with(|queue| {
        let (gpa, len) = (0, 1);
        let segment = Segment {
            gpa,
            len,
            writable: false,
        };
        let token = queue.submit(&[segment], [None, None, None])?;
        // All descriptors of an idle ring may be written: each now goes on to itself.
        for next in 0..queue.ring().size() {
            let descriptor = Descriptor {
                addr: gpa,
                len,
                flags: DESC_F_NEXT,
                next,
            };
            queue.ring().write_desc(next, descriptor)?;
        }
        queue.kick_now()?;
        Ok::<_, QueueError>(token)
    })?;
    match queue.wait(token, Duration::from_secs(2)) {
        Ok(written) => println!("the loop came back, {written} bytes written"),
        Err(error) => {
            println!("the loop: {error}");
            vm.reboot()?;
        }
    }
    println!(
        "served: {:?}",
        vm.client().getattr(ROOT_ID, None)?.attr.mode
    );
    drop(vm);

    let mut frontend = Frontend::connect(&socket)?;
    if let Err(error) = frontend
        .connection()
        .request_acked(999, b"what is this?", &[])
    {
        println!("{error}");
    }
    drop(frontend);
    Vm::boot(&socket)?;
    println!("and it serves on");
    Ok(())
}
