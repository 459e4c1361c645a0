//! Every attack of the table, each on a daemon of its own, as `cargo xtask bench
//! hostile` runs them on others.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;

use ferryfs_frontend::spawn::Daemon;
use ferryfs_tests::hostile::{self, Fate, Said, Victim};

/// Attacks at a time: most of their time is spent waiting.
const AT_ONCE: usize = 4;

#[test]
fn no_attack_ends_a_daemon_or_makes_it_hang() {
    let start = |host: &ferryfs_tests::Host, socket: &std::path::Path| {
        let options = ["--keep-listening", "--xattr"];
        Daemon::start_command(host.command(socket, &options), socket)
    };
    let attacks = hostile::all();
    assert!(attacks.len() > 150, "{}", attacks.len());
    let next = AtomicUsize::new(0);
    let bad = Mutex::new(Vec::new());
    std::thread::scope(|threads| {
        for _ in 0..AT_ONCE {
            threads.spawn(|| {
                let victim = Victim { start: &start };
                while let Some(attack) = attacks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = hostile::run(attack, victim).expect("a daemon");
                    let good = matches!(outcome.fate, Fate::Serves | Fate::ServesAfterReset);
                    // Whoever sends a message is told, or hung up on.
                    let told = attack.group != "message" || outcome.said != Said::Nothing;
                    if !(good && told) {
                        let line = format!("{attack:?}: {outcome}");
                        bad.lock().expect("no panic").push(line);
                    }
                }
            });
        }
    });
    let bad = bad.into_inner().expect("no panic");
    assert_eq!(bad, [""; 0]);
}
