//! Memory tables that overlap, shrink, or go, under a machine that runs.

use std::os::fd::AsFd;

use ferryfs_frontend::frontend::mem_region;
use ferryfs_frontend::fuse::ROOT_ID;
use ferryfs_frontend::wire::request;
use ferryfs_frontend::Vm;

use super::messages::{small_file, table};
use super::{said, told, Attack, Said, Scene};

fn attack(name: &str, run: impl Fn(&mut Scene) -> Said + Send + Sync + 'static) -> Attack {
    Attack::new("memory", name, run)
}

/// Sends a table of regions of the machine's own memory, given as (address, size,
/// offset).
fn remap(vm: &mut Vm, regions: &[(u64, u64, u64)]) -> Said {
    let region = vm.memory().regions().remove(0);
    let user = region.user_addr();
    let entries: Vec<[u8; 32]> = regions
        .iter()
        .map(|(gpa, size, offset)| mem_region(*gpa, *size, user.wrapping_add(*gpa), *offset))
        .collect();
    let fds = vec![region.fd(); regions.len()];
    let connection = vm.frontend().connection();
    told(connection.request_acked(request::SET_MEM_TABLE, &table(&entries), &fds))
}

/// What the machine's requests come to after what was done to its memory.
fn then_ask(vm: &Vm, told: Said) -> Said {
    match said(vm.client().getattr(ROOT_ID, None)) {
        Said::Done => told,
        other => other,
    }
}

/// All of them.
pub fn attacks() -> Vec<Attack> {
    vec![
        attack("regions that overlap", |scene| {
            let vm = scene.vm();
            remap(vm, &[(0, 1 << 20, 0), (1 << 19, 1 << 20, 1 << 19)])
        }),
        attack("the same region twice", |scene| {
            remap(scene.vm(), &[(0, 1 << 20, 0), (0, 1 << 20, 0)])
        }),
        attack("a table without the rings, while they run", |scene| {
            let vm = scene.vm();
            let told = remap(vm, &[(0, 4096, 0)]);
            then_ask(vm, told)
        }),
        attack("an empty table, while rings run", |scene| {
            let vm = scene.vm();
            let told = remap(vm, &[]);
            then_ask(vm, told)
        }),
        attack(
            "another file in the memory's place, while rings run",
            |scene| {
                let vm = scene.vm();
                let other = small_file();
                let region = vm.memory().regions().remove(0);
                let entry = mem_region(region.gpa(), 4096, region.user_addr(), 0);
                let connection = vm.frontend().connection();
                let told = told(connection.request_acked(
                    request::SET_MEM_TABLE,
                    &table(&[entry]),
                    &[other.as_fd()],
                ));
                then_ask(vm, told)
            },
        ),
        attack("a region removed under the rings (REM_MEM_REG)", |scene| {
            let vm = scene.vm();
            let region = vm.memory().regions().remove(0);
            let told = super::stepped(vm.frontend().rem_mem_reg(&region));
            then_ask(vm, told)
        }),
        attack("the same region added again (ADD_MEM_REG)", |scene| {
            let vm = scene.vm();
            let region = vm.memory().regions().remove(0);
            super::stepped(vm.frontend().add_mem_reg(&region))
        }),
        attack("a dirty log that is too small", |scene| {
            let vm = scene.vm();
            let log = small_file();
            let payload = [8u64, 0].map(u64::to_ne_bytes).concat();
            let connection = vm.frontend().connection();
            let told =
                told(connection.request_acked(request::SET_LOG_BASE, &payload, &[log.as_fd()]));
            let logged = super::stepped(vm.frontend().set_log_all(true));
            match logged {
                Said::Done => then_ask(vm, told),
                other => other,
            }
        }),
    ]
}
