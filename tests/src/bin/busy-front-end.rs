//! A front-end that writes without end into the file `busy`: there to be killed.

use ferryfs_frontend::call::{self, Payload};
use ferryfs_frontend::fuse::ROOT_ID;
use ferryfs_frontend::Vm;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let socket = std::env::args_os()
        .nth(1)
        .ok_or("usage: busy-front-end SOCKET")?;
    let vm = Vm::boot(socket)?;
    let fs = vm.client();
    let flags = (libc::O_CREAT | libc::O_RDWR) as u32;
    let (file, opened) = fs.create(ROOT_ID, "busy", flags, 0o644)?;
    let mut block = 0;
    loop {
        let data = Payload::Bytes(vec![7; 64 << 10]);
        let write = call::write(file.nodeid, opened.fh, block << 16, data, 0, 0);
        drop(fs.submit(write)?);
        block = (block + 1) % 64;
    }
}
