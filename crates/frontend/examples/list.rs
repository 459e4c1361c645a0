//! Lists the root of a share with attributes, as `ls -l` in a guest makes the kernel ask.
//!
//! ```sh
//! virtiofsd --socket-path /tmp/fs.sock --shared-dir /srv &
//! cargo run -p ferryfs-frontend --example list -- /tmp/fs.sock
//! ```

use std::error::Error;

use ferryfs_frontend::fuse::ROOT_ID;
use ferryfs_frontend::Vm;

fn main() -> Result<(), Box<dyn Error>> {
    let socket = std::env::args_os().nth(1).ok_or("usage: list SOCKET")?;
    let vm = Vm::boot(socket)?;
    let fs = vm.client();
    let dir = fs.opendir(ROOT_ID)?;
    let mut offset = 0;
    loop {
        let entries = fs.readdirplus(ROOT_ID, dir.fh, offset, 32 << 10)?;
        let Some(last) = entries.last() else { break };
        offset = last.dirent.off;
        for entry in &entries {
            let name = String::from_utf8_lossy(&entry.dirent.name);
            let attr = &entry.entry.attr;
            println!("{:o} {:>10} {name}", attr.mode, attr.size);
            // What was looked up is to be forgotten; "." and ".." were not.
            if entry.entry.nodeid != 0 {
                fs.forget(entry.entry.nodeid, 1)?;
            }
        }
    }
    fs.releasedir(ROOT_ID, dir.fh)?;
    Ok(())
}
