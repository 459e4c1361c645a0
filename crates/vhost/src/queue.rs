//! The request loop of a queue's thread.

use std::panic::{catch_unwind, AssertUnwindSafe};

use ferryfs_core::service::Service;
use ferryfs_core::transport::ChainIo;
use virtio_queue::DescriptorChain;

use crate::vring::{GuestMem, Served, Vring};

/// Serves what the driver has queued in `vring`, until nothing is left or the
/// ring is stopped. No error comes out: the queue's thread would end by it.
pub(crate) fn serve_queue<S: Service>(service: &S, vring: &Vring) {
    vring.silence();
    let mut served = None;
    loop {
        // Anew for each request: the front-end may have changed the memory map.
        let mem = vring.memory();
        let Some(chain) = vring.advance(&mem, served.take()) else {
            return;
        };
        let head = chain.head_index();
        let len = serve_chain(service, vring, &mem, chain);
        served = Some(Served { head, len });
    }
}

/// Serves one request and answers how many bytes of its writable half are in use.
fn serve_chain<S: Service>(
    service: &S,
    vring: &Vring,
    mem: &GuestMem,
    chain: DescriptorChain<&GuestMem>,
) -> u32 {
    let io = match ChainIo::<()>::new(mem, chain) {
        Ok(io) => io,
        Err(e) => {
            if vring.may_complain() {
                log::warn!(
                    "queue {}: driver's request is malformed and not answered: {e}",
                    vring.index()
                );
            }
            return 0;
        }
    };
    // The server does not panic on input. Should it have a bug, one request goes
    // unanswered; a dead queue would hang the whole guest.
    let len = catch_unwind(AssertUnwindSafe(|| service.handle(io))).unwrap_or_else(|_| {
        log::error!(
            "queue {}: a request made the server panic and is not answered: please report it",
            vring.index()
        );
        0
    });
    u32::try_from(len).unwrap_or(u32::MAX)
}
