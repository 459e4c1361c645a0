//! Indices that no driver publishes, and rings where none can be.

use ferryfs_frontend::ring::Ring;

use super::{Attack, Said};

/// Spoils a ring, at the index that comes next.
pub type Spoil = fn(&Ring, u16);

/// What is wrong with a ring, and how it is made so.
pub const RINGS: [(&str, Spoil); 7] = [
    ("a head out of the table", |ring, at| {
        ring.write_avail(at, 128).expect("slot");
        ring.set_avail_idx(at.wrapping_add(1));
    }),
    ("a head far out of the table", |ring, at| {
        ring.write_avail(at, u16::MAX).expect("slot");
        ring.set_avail_idx(at.wrapping_add(1));
    }),
    ("an index that jumps", |ring, at| {
        ring.set_avail_idx(at.wrapping_add(129));
    }),
    ("an index that jumps far", |ring, at| {
        ring.set_avail_idx(at.wrapping_add(0x8000));
    }),
    ("an index that goes back", |ring, at| {
        ring.set_avail_idx(at.wrapping_sub(1));
    }),
    ("the same head twice", |ring, at| {
        ring.write_avail(at, 0).expect("slot");
        ring.write_avail(at.wrapping_add(1), 0).expect("slot");
        ring.set_avail_idx(at.wrapping_add(2));
    }),
    ("a used index that the driver writes", |ring, at| {
        ring.set_used_idx(at.wrapping_add(1000));
    }),
];

/// Each ring as an attack. There is nobody to say anything to.
pub fn attacks() -> Vec<Attack> {
    let attack = |(name, spoil): (&'static str, Spoil)| {
        Attack::new("ring", name, move |scene| {
            scene.vm().queues()[1].with(|queue| {
                spoil(queue.ring(), queue.avail_idx());
                queue.kick_now().expect("kick");
            });
            Said::Nobody
        })
    };
    RINGS.into_iter().map(attack).collect()
}
