//! Chains and rings that make no sense.

use std::time::Duration;

use ferryfs_frontend::call;
use ferryfs_frontend::queue::QueueError;
use ferryfs_frontend::{Vm, VmConfig};
use ferryfs_tests::chains::offer;
use ferryfs_tests::hostile::chains::{Kit, CHAINS, QUEUE_SIZE};
use ferryfs_tests::hostile::requests::bytes;
use ferryfs_tests::hostile::rings::RINGS;

use crate::scene::Scene;

/// Chains that make no sense, each in a ring that is used on.
#[test]
fn chains_that_make_no_sense() {
    let scene = Scene::new(&[]);
    let config = VmConfig {
        queue_size: QUEUE_SIZE,
        ..VmConfig::default()
    };
    let mut vm = Vm::boot_with(scene.daemon.socket(), config).expect("boot");
    let kit = Kit::new(&vm);
    let patience = Duration::from_secs(10);
    for (what, make) in CHAINS {
        kit.reply.write_at(0, &[0xee; 4096]).expect("memory");
        match offer(&vm, patience, |ring, head| make(&kit, ring, head)) {
            Ok(written) => {
                let bytes = kit.reply.to_vec(0, 4096);
                let touched = bytes
                    .iter()
                    .rposition(|b| *b != 0xee)
                    .map_or(0, |at| at + 1);
                assert!(
                    touched <= written as usize,
                    "{what}: wrote {touched}, said {written}"
                );
            }
            Err(QueueError::Timeout { .. }) => {
                // Left alone: a driver that resets the device gets it back.
                vm.reboot()
                    .unwrap_or_else(|e| panic!("{what}: {}", ferryfs_tests::text(&e)));
            }
            Err(e) => panic!("{what}: {e}"),
        }
        scene.serves(&vm);
    }
    // Replies go where the guest says, if that is memory at all.
    let ok = offer(&vm, patience, |ring, head| kit.good(ring, head)).expect("a good chain");
    assert_eq!(ok, 120);
    scene.serves(&vm);
    scene.ends_well(vm);
}

/// Indices that no driver publishes. A ring that makes no sense may be left alone
/// until the driver resets the device; the other ring must not suffer.
#[test]
fn rings_that_make_no_sense() {
    let scene = Scene::new(&[]);
    let mut vm = scene.boot();
    for (what, spoil) in RINGS {
        vm.queues()[1].with(|queue| {
            spoil(queue.ring(), queue.avail_idx());
            queue.kick_now().expect("kick");
        });
        // The high-priority queue is served as ever.
        let forget = bytes(&vm, &call::forget(99, 1));
        let reply = vm.client().exchange(&[&forget], &[], true);
        reply.unwrap_or_else(|e| panic!("{what}: {}", ferryfs_tests::text(&e)));
        vm.reboot()
            .unwrap_or_else(|e| panic!("{what}: {}", ferryfs_tests::text(&e)));
        scene.serves(&vm);
    }
    scene.ends_well(vm);
}
