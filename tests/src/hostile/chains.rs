//! Descriptor chains that no driver makes.

use ferryfs_frontend::call;
use ferryfs_frontend::fuse::ROOT_ID;
use ferryfs_frontend::memory::GuestBuffer;
use ferryfs_frontend::queue::QueueError;
use ferryfs_frontend::ring::{Descriptor, Ring, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE};
use ferryfs_frontend::Vm;

use super::{requests::bytes, Attack, Said, PATIENCE};
use crate::chains::{desc, offer};

/// Descriptors of the ring that chains are made for.
pub const QUEUE_SIZE: u16 = 64;

/// Memory that chains are made of: a good request, room for an answer, a table.
#[derive(Debug)]
pub struct Kit {
    request: GuestBuffer,
    /// Bytes of the request.
    len: u32,
    /// Room for answers.
    pub reply: GuestBuffer,
    table: GuestBuffer,
    /// End of guest memory.
    end: u64,
}

/// Writes a chain into a ring at a head.
pub type Make = fn(&Kit, &Ring, u16);

impl Kit {
    /// On `vm`'s memory, with a GETATTR of the root as request.
    ///
    /// # Panics
    /// When there is no memory.
    pub fn new(vm: &Vm) -> Kit {
        let memory = vm.memory();
        let getattr = bytes(vm, &call::getattr(ROOT_ID, None));
        let request = memory.alloc(4096).expect("memory");
        request.write_at(0, &getattr).expect("memory");
        Kit {
            request,
            len: getattr.len() as u32,
            reply: memory.alloc(4096).expect("memory"),
            table: memory.alloc(64 << 10).expect("memory"),
            end: memory.end(),
        }
    }

    /// The request, going on at `next`.
    fn ask(&self, next: u16) -> Descriptor {
        desc(self.request.gpa(), self.len, DESC_F_NEXT, next)
    }

    /// Room for the answer.
    fn room(&self) -> Descriptor {
        desc(self.reply.gpa(), 256, DESC_F_WRITE, 0)
    }

    /// A piece of the request.
    fn piece(&self, len: u32, next: u16) -> Descriptor {
        desc(self.request.gpa(), len, DESC_F_NEXT, next)
    }

    fn tabled(&self, len: u32) -> Descriptor {
        desc(self.table.gpa(), len, DESC_F_INDIRECT, 0)
    }

    fn set(&self, at: u16, d: Descriptor) {
        self.table
            .write_at(16 * usize::from(at), &d.to_bytes())
            .expect("memory");
    }

    /// Two descriptors in the ring, of which the first goes on to the second.
    fn pair(&self, ring: &Ring, head: u16, first: Descriptor, second: Descriptor) {
        let other = (head + 1) % QUEUE_SIZE;
        put(ring, head, desc(first.addr, first.len, first.flags, other));
        put(ring, other, second);
    }

    /// Two in a table of `len` bytes.
    fn table(&self, ring: &Ring, head: u16, len: u32, first: Descriptor, second: Descriptor) {
        self.set(0, first);
        self.set(1, second);
        put(ring, head, self.tabled(len));
    }

    /// A chain that is right.
    pub fn good(&self, ring: &Ring, head: u16) {
        self.pair(ring, head, self.ask(1), self.room());
    }
}

fn put(ring: &Ring, at: u16, d: Descriptor) {
    ring.write_desc(at, d).expect("descriptor");
}

/// What is wrong with a chain, and the chain.
#[rustfmt::skip] // one a line, where it fits
pub const CHAINS: [(&str, Make); 33] = [
    ("a loop of one", |kit, ring, head| put(ring, head, kit.ask(head))),
    ("a loop of two", |kit, ring, head| {
        let other = (head + 1) % QUEUE_SIZE;
        put(ring, head, kit.piece(1, other));
        put(ring, other, kit.piece(1, head));
    }),
    ("a loop of writable ones", |kit, ring, head| {
        let other = (head + 1) % QUEUE_SIZE;
        put(ring, head, kit.ask(other));
        put(ring, other, desc(kit.reply.gpa(), 16, DESC_F_NEXT | DESC_F_WRITE, other));
    }),
    ("next out of the table", |kit, ring, head| put(ring, head, kit.ask(QUEUE_SIZE))),
    ("next far out of the table", |kit, ring, head| put(ring, head, kit.ask(u16::MAX))),
    ("nothing but room", |kit, ring, head| put(ring, head, kit.room())),
    ("no room", |kit, ring, head| put(ring, head, desc(kit.request.gpa(), kit.len, 0, 0))),
    ("zero bytes", |kit, ring, head| put(ring, head, desc(kit.request.gpa(), 0, 0, 0))),
    ("zero bytes of room", |kit, ring, head| {
        kit.pair(ring, head, kit.ask(1), desc(kit.reply.gpa(), 0, DESC_F_WRITE, 0));
    }),
    ("room before the request", |kit, ring, head| {
        let room = desc(kit.reply.gpa(), 256, DESC_F_WRITE | DESC_F_NEXT, 0);
        kit.pair(ring, head, room, desc(kit.request.gpa(), kit.len, 0, 0));
    }),
    ("a request behind the end of memory", |kit, ring, head| {
        kit.pair(ring, head, desc(kit.end, kit.len, DESC_F_NEXT, 0), kit.room());
    }),
    ("a request across the end of memory", |kit, ring, head| {
        kit.pair(ring, head, desc(kit.end - 8, kit.len, DESC_F_NEXT, 0), kit.room());
    }),
    ("a request far away", |kit, ring, head| {
        kit.pair(ring, head, desc(1 << 60, kit.len, DESC_F_NEXT, 0), kit.room());
    }),
    ("a request that wraps around", |kit, ring, head| {
        kit.pair(ring, head, desc(u64::MAX - 8, kit.len, DESC_F_NEXT, 0), kit.room());
    }),
    ("a request of 4 GiB", |kit, ring, head| {
        kit.pair(ring, head, desc(0, u32::MAX, DESC_F_NEXT, 0), kit.room());
    }),
    ("room behind the end of memory", |kit, ring, head| {
        kit.pair(ring, head, kit.ask(1), desc(kit.end, 256, DESC_F_WRITE, 0));
    }),
    ("room across the end of memory", |kit, ring, head| {
        kit.pair(ring, head, kit.ask(1), desc(kit.end - 20, 256, DESC_F_WRITE, 0));
    }),
    ("room that wraps around", |kit, ring, head| {
        kit.pair(ring, head, kit.ask(1), desc(u64::MAX, 256, DESC_F_WRITE, 0));
    }),
    ("a table of no entry", |kit, ring, head| kit.table(ring, head, 0, kit.ask(1), kit.room())),
    ("a table of half an entry", |kit, ring, head| kit.table(ring, head, 24, kit.ask(1), kit.room())),
    ("a table of 4 GiB", |kit, ring, head| kit.table(ring, head, !15, kit.ask(1), kit.room())),
    ("a table that ends early", |kit, ring, head| kit.table(ring, head, 16, kit.ask(1), kit.room())),
    ("a loop in a table", |kit, ring, head| {
        kit.table(ring, head, 32, kit.piece(1, 1), kit.piece(1, 0));
    }),
    ("a self-loop in a table", |kit, ring, head| {
        kit.table(ring, head, 32, kit.piece(1, 0), kit.room());
    }),
    ("next out of a table", |kit, ring, head| {
        kit.table(ring, head, 32, kit.piece(1, 2), kit.room());
    }),
    ("a table in a table", |kit, ring, head| {
        kit.table(ring, head, 32, kit.tabled(32), kit.room());
    }),
    ("a table behind the request in a table", |kit, ring, head| {
        kit.table(ring, head, 32, kit.ask(1), kit.tabled(32));
    }),
    ("a table behind the end of memory", |kit, ring, head| {
        put(ring, head, desc(kit.end, 32, DESC_F_INDIRECT, 0));
    }),
    ("a table that wraps around", |_, ring, head| {
        put(ring, head, desc(u64::MAX - 15, 32, DESC_F_INDIRECT, 0));
    }),
    ("a table that is not aligned", |kit, ring, head| {
        put(ring, head, desc(kit.table.gpa() + 8, 32, DESC_F_INDIRECT, 0));
    }),
    ("a table and a next", |kit, ring, head| {
        kit.set(0, kit.ask(1));
        kit.set(1, kit.room());
        let other = (head + 1) % QUEUE_SIZE;
        put(ring, head, desc(kit.table.gpa(), 32, DESC_F_INDIRECT | DESC_F_NEXT, other));
        put(ring, other, kit.tabled(32));
    }),
    ("a table of 4,000 entries of one byte", |kit, ring, head| {
        for i in 0..4000 {
            kit.set(i, kit.piece(1, i + 1));
        }
        kit.set(3999, kit.room());
        put(ring, head, kit.tabled(64_000));
    }),
    ("the ring itself as a request", |kit, ring, head| {
        let other = (head + 1) % QUEUE_SIZE;
        put(ring, head, desc(ring.desc_gpa(), 1024, DESC_F_NEXT, other));
        put(ring, other, kit.room());
    }),
];

/// What a daemon said to a chain.
fn offered(result: Result<u32, QueueError>) -> Said {
    match result {
        Ok(0) => Said::Unanswered,
        Ok(_) => Said::Done,
        Err(QueueError::Timeout { .. }) => Said::Nothing,
        Err(_) => Said::HungUp,
    }
}

/// Each chain as an attack.
pub fn attacks() -> Vec<Attack> {
    let attack = |(name, make): (&'static str, Make)| {
        Attack::new("chain", name, move |scene| {
            let vm = scene.vm();
            let kit = Kit::new(vm);
            offered(offer(vm, PATIENCE, |ring, head| make(&kit, ring, head)))
        })
    };
    CHAINS.into_iter().map(attack).collect()
}
