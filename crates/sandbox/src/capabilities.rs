//! The capabilities that a passthrough file system needs, and no others.

use caps::{CapSet, Capability, CapsHashSet};

/// What is kept: acting as the guest's users, on files of any owner, and finding
/// files by handle. Nothing that reaches beyond files.
pub const KEPT: [Capability; 9] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_DAC_READ_SEARCH,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_SETGID,
    Capability::CAP_SETUID,
    Capability::CAP_MKNOD,
    Capability::CAP_SETFCAP,
];

/// Drops from the calling thread (and those it will start) every capability
/// that is not in [`KEPT`]: effective, permitted, inheritable and bounding set.
/// A process that has none keeps none.
///
/// # Errors
/// The text of the failed step.
pub fn drop_capabilities() -> Result<(), String> {
    let had = caps::read(None, CapSet::Permitted).map_err(|e| e.to_string())?;
    let kept: CapsHashSet = KEPT.iter().copied().filter(|c| had.contains(c)).collect();
    if had.contains(&Capability::CAP_SETPCAP) {
        // The bounding set only matters across execve, which this process never
        // does; emptying it keeps an exploited one from regaining by a
        // set-user-id program.
        for cap in caps::read(None, CapSet::Bounding).map_err(|e| e.to_string())? {
            if !kept.contains(&cap) {
                caps::drop(None, CapSet::Bounding, cap).map_err(|e| e.to_string())?;
            }
        }
    }
    caps::clear(None, CapSet::Inheritable).map_err(|e| e.to_string())?;
    caps::set(None, CapSet::Effective, &kept).map_err(|e| e.to_string())?;
    caps::set(None, CapSet::Permitted, &kept).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_the_kept_set_is_left() {
        // Capabilities are a thread's own: what this thread drops, the test
        // runner's other threads keep.
        std::thread::spawn(|| {
            drop_capabilities().unwrap();
            for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
                for cap in caps::read(None, set).unwrap() {
                    assert!(KEPT.contains(&cap), "{cap} left in {set:?}");
                }
            }
        })
        .join()
        .unwrap();
    }
}
