//! Front-ends that vanish in every phase of a machine's life and of a crossing, as
//! they do when they are killed: the kernel closes what they had.

use std::io::Write;

use ferryfs_frontend::call;
use ferryfs_frontend::dirty::DirtyLog;
use ferryfs_frontend::frontend::{feature, protocol, FrontendError};
use ferryfs_frontend::fuse::ROOT_ID;
use ferryfs_frontend::memory::GuestMemory;
use ferryfs_frontend::queue::{Queue, QueueConfig};
use ferryfs_frontend::state::Direction;
use ferryfs_frontend::{Frontend, VmConfig};

use super::{Attack, Said, Scene};

fn attack(name: &str, run: impl Fn(&mut Scene) + Send + Sync + 'static) -> Attack {
    Attack::new("departure", name, move |scene| {
        run(scene);
        Said::Nobody
    })
}

/// The steps of a machine's set-up.
pub const STEPS: [&str; 8] = [
    "GET_FEATURES",
    "SET_PROTOCOL_FEATURES",
    "SET_FEATURES",
    "SET_MEM_TABLE",
    "SET_VRING_NUM",
    "SET_VRING_ADDR",
    "SET_VRING_ENABLE",
    "SET_LOG_BASE",
];

/// Takes the first `steps` of [`STEPS`].
///
/// # Errors
/// Of the first that fails.
///
/// # Panics
/// When there is no memory.
pub fn set_up(frontend: &mut Frontend, steps: usize) -> Result<(), FrontendError> {
    let memory = GuestMemory::new(&VmConfig::default().memory).expect("memory");
    let config = QueueConfig {
        size: 128,
        indirect: true,
        event_idx: true,
    };
    let queue = Queue::new(&memory, config).expect("queue");
    for step in &STEPS[..steps] {
        match *step {
            "GET_FEATURES" => frontend.get_features().map(drop),
            "SET_PROTOCOL_FEATURES" => frontend.negotiate(VmConfig::default().protocol_features),
            "SET_FEATURES" => {
                frontend.set_features(feature::VERSION_1 | feature::PROTOCOL_FEATURES)
            }
            "SET_MEM_TABLE" => frontend.set_mem_table(&memory),
            "SET_VRING_NUM" => frontend.set_vring_num(0, 128),
            "SET_VRING_ADDR" => frontend.set_vring_addr(0, &queue),
            "SET_VRING_ENABLE" => frontend.start_vring(0, &queue, 0),
            _ => {
                let log = DirtyLog::new(memory.end()).expect("log");
                let logged = frontend.set_log_base(&log);
                logged.and_then(|()| frontend.set_log_all(true))
            }
        }?;
    }
    Ok(())
}

/// A front-end that goes in the middle of a state's transfer, with `sent` bytes of it
/// sent, and the pipe left open.
fn in_transfer(scene: &mut Scene, direction: Direction, sent: &[u8]) {
    let (read, write) = rustix::pipe::pipe().expect("pipe");
    let Ok(mut frontend) = scene.front_end() else {
        return;
    };
    let theirs = match direction {
        Direction::Save => &write,
        Direction::Load => &read,
    };
    if frontend.protocol_acked() & protocol::DEVICE_STATE == 0 {
        // Nothing to be in the middle of.
        return;
    }
    let started = frontend.set_device_state_fd(direction, 0, theirs);
    if started.is_ok() && direction == Direction::Load {
        let mut pipe = std::fs::File::from(write);
        let _ = pipe.write_all(sent);
        drop(frontend);
        // Longer than the front-end.
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// All of them.
pub fn attacks() -> Vec<Attack> {
    let mut all = vec![attack("before the first message", |scene| {
        drop(scene.connect());
    })];
    for (n, step) in STEPS.into_iter().enumerate() {
        all.push(attack(&format!("behind {step}"), move |scene| {
            if let Ok(mut frontend) = scene.connect() {
                // One that has no dirty log refuses the last, and it is gone all the same.
                let _ = set_up(&mut frontend, n + 1);
            }
        }));
    }
    all.extend([
        attack("with requests in its rings", |scene| {
            let vm = scene.vm();
            let client = vm.client();
            for _ in 0..16 {
                let _ = client.submit(call::getattr(ROOT_ID, None));
            }
            scene.drop_vm();
        }),
        attack("while the source collects", |scene| {
            // A daemon that has no dirty log has nothing to collect.
            let _ = scene.vm().start_precopy();
            scene.drop_vm();
        }),
        attack("when the rings have stopped", |scene| {
            let _ = scene.vm().start_precopy();
            let _ = scene.vm().stop();
            scene.drop_vm();
        }),
        attack("while the source saves", |scene| {
            in_transfer(scene, Direction::Save, b"");
        }),
        attack("when the source has saved", |scene| {
            let _ = scene.vm().stop();
            let _ = scene.vm().save_state();
            scene.drop_vm();
        }),
        attack("before the destination has a byte", |scene| {
            in_transfer(scene, Direction::Load, b"");
        }),
        attack("while the destination loads", |scene| {
            in_transfer(scene, Direction::Load, &[0x80; 100]);
        }),
        attack("when the destination has been sent noise", |scene| {
            in_transfer(scene, Direction::Load, &[0xa5; 60_000]);
        }),
    ]);
    all
}
