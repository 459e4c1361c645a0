//! Moves a machine with an open file from one daemon to another, as a live migration
//! does, and leaves its state in a file on the way: framed as QEMU frames it in a
//! migration stream (be32 blocks), or as the RFC of 2023 did (a be64 length).
//!
//! ```sh
//! ferryfsd --socket-path /tmp/a.sock --shared-dir /srv &
//! ferryfsd --socket-path /tmp/b.sock --shared-dir /srv &
//! cargo run -p ferryfs-frontend --example migrate -- /tmp/a.sock /tmp/b.sock FILE state
//! ```

use std::error::Error;
use std::fs::File;

use ferryfs_frontend::rfc_state::{read_rfc_framed, write_rfc_framed};
use ferryfs_frontend::state::{read_qemu_framed, write_qemu_framed};
use ferryfs_frontend::{fuse::ROOT_ID, Vm};

/// A state above this is somebody's mistake.
const LIMIT: u64 = 1 << 30;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [source, destination, name, state_file] = args.as_slice() else {
        return Err("usage: migrate SOCKET SOCKET FILE STATE-FILE".into());
    };
    let mut vm = Vm::boot(source)?;
    let fs = vm.client();
    let file = fs.lookup(ROOT_ID, name.as_str())?;
    let handle = fs.open(file.nodeid, libc::O_RDONLY as u32)?;

    // While the guest runs: the dirty log is switched on, and the daemon collects.
    vm.start_precopy()?;
    println!(
        "before: {} bytes",
        fs.read(file.nodeid, handle.fh, 0, 4096)?.len()
    );
    let dirty = vm.dirty_log().map_or_else(Vec::new, |log| log.take());
    println!("{} pages are dirty: they would be sent again", dirty.len());

    // The switch-over.
    let bases = vm.stop()?;
    let state = vm.save_state()?;
    println!(
        "rings stopped at {bases:?}; a state of {} bytes",
        state.len()
    );
    write_qemu_framed(&state, &mut File::create(state_file)?)?;
    let state = read_qemu_framed(&mut File::open(state_file)?, LIMIT)?;
    let rfc_file = format!("{state_file}.rfc");
    write_rfc_framed(&state, &mut File::create(&rfc_file)?)?;
    let state = read_rfc_framed(&mut File::open(&rfc_file)?, LIMIT)?;
    // What comes back is the old connection; dropping it ends the source's service.
    let left = vm.resume_on(destination, Some(&state));
    match left {
        Ok(left) => drop(left),
        Err(error) => {
            // The error says which step failed, what was asked and what came back; the
            // guest goes on where it was.
            vm.cancel_precopy()?;
            vm.resume()?;
            return Err(error.into());
        }
    }
    // The same handle, on another daemon.
    println!(
        "after: {} bytes",
        fs.read(file.nodeid, handle.fh, 0, 4096)?.len()
    );
    Ok(())
}
