//! The capabilities that a passthrough file system needs, and no others.

use std::str::FromStr;

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

/// What the operator wants kept beside [`KEPT`], and what not of it.
///
/// Read from text such as `+sys_admin:-mknod`, in the words of capabilities(7) with
/// or without `cap_`. Of one that is named twice the last word counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CapabilityChanges(Vec<(bool, Capability)>);

impl CapabilityChanges {
    /// The capabilities to be kept.
    pub fn apply(&self) -> Vec<Capability> {
        let mut kept = KEPT.to_vec();
        for (add, capability) in &self.0 {
            kept.retain(|c| c != capability);
            if *add {
                kept.push(*capability);
            }
        }
        kept
    }

    /// Whether files can still be found by handle.
    pub fn keep_handles(&self) -> bool {
        self.apply().contains(&Capability::CAP_DAC_READ_SEARCH)
    }
}

impl FromStr for CapabilityChanges {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let change = |word: &str| {
            let (add, name) = match (word.strip_prefix('+'), word.strip_prefix('-')) {
                (Some(name), _) => (true, name),
                (_, Some(name)) => (false, name),
                _ => return Err(format!("\"{word}\" begins with neither + nor -")),
            };
            let name = name.to_ascii_uppercase();
            let name = name.strip_prefix("CAP_").unwrap_or(&name);
            let capability = Capability::from_str(&format!("CAP_{name}"))
                .map_err(|_| format!("there is no capability \"{word}\""))?;
            Ok((add, capability))
        };
        text.split(':')
            .map(change)
            .collect::<Result<_, _>>()
            .map(CapabilityChanges)
    }
}

/// Drops from the calling thread (and those it will start) every capability
/// that is not in `kept`: effective, permitted, inheritable, ambient and bounding
/// set. A process that has none keeps none.
///
/// # Errors
/// The text of the failed step.
pub fn drop_capabilities(kept: &[Capability]) -> Result<(), String> {
    let had = caps::read(None, CapSet::Permitted).map_err(|e| e.to_string())?;
    let kept: CapsHashSet = kept.iter().copied().filter(|c| had.contains(c)).collect();
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
    // The ambient set goes with the inheritable one.
    caps::clear(None, CapSet::Inheritable).map_err(|e| e.to_string())?;
    caps::set(None, CapSet::Effective, &kept).map_err(|e| e.to_string())?;
    caps::set(None, CapSet::Permitted, &kept).map_err(|e| e.to_string())
}

/// The capabilities that are in effect in the calling thread, for logs.
pub fn held_capabilities() -> String {
    match caps::read(None, CapSet::Effective) {
        Ok(held) if held.is_empty() => "none".to_owned(),
        Ok(held) => {
            let mut names: Vec<_> = held.iter().map(Capability::to_string).collect();
            names.sort_unstable();
            names.join(",").to_lowercase().replace("cap_", "")
        }
        Err(e) => format!("unknown ({e})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_the_kept_set_is_left() {
        // Capabilities are a thread's own: what this thread drops, the test
        // runner's other threads keep.
        std::thread::spawn(|| {
            drop_capabilities(&KEPT).unwrap();
            for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
                for cap in caps::read(None, set).unwrap() {
                    assert!(KEPT.contains(&cap), "{cap} left in {set:?}");
                }
            }
        })
        .join()
        .unwrap();
    }

    #[test]
    fn changes_are_read_and_the_last_word_counts() {
        let kept = |text: &str| text.parse::<CapabilityChanges>().map(|c| c.apply());
        let plain = kept("+sys_admin:-mknod").unwrap();
        assert!(plain.contains(&Capability::CAP_SYS_ADMIN));
        assert!(!plain.contains(&Capability::CAP_MKNOD));
        assert_eq!(plain.len(), KEPT.len());
        assert_eq!(kept("+CAP_SYS_ADMIN:-cap_mknod").unwrap(), plain);
        assert!(!kept("-chown:+chown:-chown")
            .unwrap()
            .contains(&Capability::CAP_CHOWN));
        assert!(kept("mknod").unwrap_err().contains("neither + nor -"));
        assert!(kept("+flying").unwrap_err().contains("+flying"));
        assert!(kept("").is_err() && kept("+").is_err() && kept("+mknod:").is_err());
        assert_eq!(CapabilityChanges::default().apply(), KEPT);
    }
}
