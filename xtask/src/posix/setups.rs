//! How the file system is mounted.

use crate::fail::{Fail, Result};

/// A set of options.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Its name.
    pub name: &'static str,
    /// Of `ferryfs-mount`.
    pub options: Vec<&'static str>,
}

impl Setup {
    /// Whether an option is given.
    #[cfg(test)]
    pub fn has(&self, option: &str) -> bool {
        self.options.contains(&option)
    }
}

/// Name, whether it is one of the quick run, options.
const SETUPS: [(&str, bool, &str); 12] = [
    ("auto", true, "--cache=auto"),
    ("auto-fds", false, "--cache=auto --inode-file-handles=never"),
    ("auto-writeback", false, "--cache=auto --writeback"),
    (
        "auto-writeback-fds",
        true,
        "--cache=auto --writeback --inode-file-handles=never",
    ),
    ("never", false, "--cache=never --allow-mmap"),
    (
        "never-fds",
        true,
        "--cache=never --allow-mmap --inode-file-handles=never",
    ),
    (
        "never-writeback",
        false,
        "--cache=never --allow-mmap --writeback",
    ),
    (
        "never-writeback-fds",
        false,
        "--cache=never --allow-mmap --writeback --inode-file-handles=never",
    ),
    ("always", false, "--cache=always --writeback"),
    ("metadata", false, "--cache=metadata --allow-mmap"),
    ("killpriv", false, "--cache=auto --killpriv-v2"),
    (
        "direct",
        false,
        "--cache=never --allow-mmap --allow-direct-io --preserve-noatime --no-readdirplus",
    ),
];

/// Given in each.
const ALWAYS: [&str; 2] = ["--xattr", "--posix-acl"];

fn all(quick: bool) -> Vec<Setup> {
    SETUPS
        .iter()
        .filter(|(_, is_quick, _)| !quick || *is_quick)
        .map(|(name, _, options)| Setup {
            name,
            options: options.split(' ').chain(ALWAYS).collect(),
        })
        .collect()
}

/// The one that runs in a guest when there is little time.
const QUICK_GUEST: &str = "auto";

/// Those whose name contains one of `filter`.
pub fn chosen(filter: &[String], quick: bool, guest: bool) -> Result<Vec<Setup>> {
    // Whoever names one has said what to run.
    let quick = quick && filter.is_empty();
    let mut all = all(quick);
    if quick && guest {
        all.retain(|setup| setup.name == QUICK_GUEST);
    }
    if let Some(f) = filter
        .iter()
        .find(|f| !all.iter().any(|s| s.name.contains(f.as_str())))
    {
        let names: Vec<_> = all.iter().map(|s| s.name).collect();
        return Err(Fail::new(format!(
            "no setup contains {f:?}; there are: {}",
            names.join(", ")
        )));
    }
    let wanted =
        |s: &Setup| filter.is_empty() || filter.iter().any(|f| s.name.contains(f.as_str()));
    Ok(all.into_iter().filter(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_writeback_and_handles_meet_in_every_combination() {
        let all = all(false);
        for cache in ["--cache=auto", "--cache=never"] {
            for writeback in [true, false] {
                for fds in [true, false] {
                    assert!(all.iter().any(|s| s.has(cache)
                        && s.has("--writeback") == writeback
                        && s.has("--inode-file-handles=never") == fds));
                }
            }
        }
        assert!(super::all(true).len() < all.len());
        let e = chosen(&["nonsense".to_owned()], false, false)
            .unwrap_err()
            .to_string();
        assert!(e.contains("auto-writeback-fds"), "{e}");
        let metadata = chosen(&["metadata".to_owned()], true, true);
        assert_eq!(metadata.unwrap().len(), 1);
        assert_eq!(chosen(&[], true, true).unwrap().len(), 1);
        assert_eq!(chosen(&[], false, true).unwrap().len(), SETUPS.len());
    }
}
