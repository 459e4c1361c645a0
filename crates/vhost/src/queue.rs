//! The request loop of a queue's thread.

use std::panic::{catch_unwind, AssertUnwindSafe};

use ferryfs_core::buffer::BufIo;
use ferryfs_core::io::RequestIo;
use ferryfs_core::service::Service;
use ferryfs_core::transport::ChainIo;
use virtio_queue::DescriptorChain;

use crate::standing::InService;
use crate::vring::{GuestMem, Served, Vring};

/// The longest request, and the longest reply, of one that stood over, in bytes. Those
/// that do are small.
const MOST_AGAIN: usize = 4096;

/// Serves what the driver has queued in `vring`, until nothing is left or the
/// ring is stopped. No error comes out: the queue's thread would end by it.
pub(crate) fn serve_queue<S: Service>(service: &S, vring: &Vring) {
    vring.silence();
    while let Some(head) = vring.take_again() {
        serve_again(service, vring, head);
    }
    let mut served = None;
    let mut pace = vring.pace();
    pace.wakes();
    loop {
        // Anew for each request: the front-end may have changed the memory map.
        let mem = vring.memory();
        let Some(chain) = vring.advance(&mem, served.take(), &mut pace) else {
            pace.sleeps();
            return;
        };
        let head = chain.head_index();
        served = serve_chain(service, vring, &mem, chain).map(|len| Served { head, len });
    }
}

/// Serves a request that stood over on another daemon, from its beginning.
fn serve_again<S: Service>(service: &S, vring: &Vring, head: u16) {
    let mem = vring.memory();
    let chain = vring.table().chain(&mem, head);
    let request = chain.and_then(|chain| Some((chain.read(&mem, MOST_AGAIN)?, chain)));
    let Some((request, chain)) = request else {
        log::error!(
            "queue {}: request {head}, which stood over at the source, makes no sense here and \
             is not answered",
            vring.index()
        );
        vring.finish_again(head, &[]);
        return;
    };
    let mut reply = vec![0; chain.room(MOST_AGAIN)];
    let io = BufIo::new(&request, &mut reply);
    if let Some(len) = guarded(service, vring, &mem, head, io) {
        vring.finish_again(head, &reply[..len]);
    }
}

/// Serves one request and answers how many bytes of its writable half are in use;
/// `None` when it stands over.
fn serve_chain<S: Service>(
    service: &S,
    vring: &Vring,
    mem: &GuestMem,
    chain: DescriptorChain<&GuestMem>,
) -> Option<u32> {
    let head = chain.head_index();
    let io = match ChainIo::<()>::new(mem, chain) {
        Ok(io) => io,
        Err(e) => {
            if vring.may_complain() {
                log::warn!(
                    "queue {}: driver's request is malformed and not answered: {e}",
                    vring.index()
                );
            }
            return Some(0);
        }
    };
    let len = guarded(service, vring, mem, head, io)?;
    Some(u32::try_from(len).unwrap_or(u32::MAX))
}

/// The server does not panic on input. Should it have a bug, one request goes
/// unanswered; a dead queue would hang the whole guest.
fn guarded<S: Service, I: RequestIo>(
    service: &S,
    vring: &Vring,
    mem: &GuestMem,
    head: u16,
    io: I,
) -> Option<usize> {
    let later = InService::new(vring, mem, head);
    let serve = AssertUnwindSafe(|| service.handle_or_defer(io, &later));
    catch_unwind(serve).unwrap_or_else(|_| {
        log::error!(
            "queue {}: a request made the server panic and is not answered: please report it",
            vring.index()
        );
        later.revoke().then_some(0)
    })
}
