//! A state for readers of an older state version: what they would be without, and
//! what nobody may be without.
//!
//! Upwards there is nothing to choose: a reader decodes the frozen structs of each
//! section's version and takes them up step by step, in
//! [`Format::decode_frame`](crate::Format::decode_frame). Downwards each step says
//! which sections fall away with it. What only made the crossing safer is left out
//! and reported; what the guest has and would miss is refused.

use std::collections::HashSet;

use crate::dialect::{Losses, StateWriter};
use crate::error::StateError;
use crate::model::State;
use crate::section::SectionId;
use crate::version::{Release, StateVersion, RELEASES};

/// The variable that forces the state version in a stream's header, for tests of
/// what readers do with streams of the future.
pub const FORCE_VARIABLE: &str = "FERRYFS_FORCE_STATE_VERSION";

/// How a stream is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteOptions {
    /// The newest state version that its reader knows. The stream has the lowest
    /// that can hold the state, and nothing that is newer than this.
    pub newest: StateVersion,
    /// What the header says in place of the true state version, for tests.
    pub forced: Option<StateVersion>,
}

impl Default for WriteOptions {
    fn default() -> Self {
        WriteOptions {
            newest: StateVersion::CURRENT,
            forced: None,
        }
    }
}

impl WriteOptions {
    /// For readers that know state versions up to `version`.
    ///
    /// # Errors
    /// [`StateError::NoSuchVersion`].
    pub fn for_version(version: u32) -> Result<Self, StateError> {
        let newest = StateVersion(version);
        match (StateVersion::OLDEST..=StateVersion::CURRENT).contains(&newest) {
            true => Ok(WriteOptions {
                newest,
                ..WriteOptions::default()
            }),
            false => Err(StateError::NoSuchVersion { version: newest }),
        }
    }

    /// For messages: what a state of `writer` leaves something out of.
    pub fn target(&self, writer: &StateWriter) -> String {
        match writer {
            StateWriter::Format(_) => format!("state version {}", self.newest),
            StateWriter::Dialect(dialect) => dialect.name().to_owned(),
        }
    }

    /// The same with what [`FORCE_VARIABLE`] says, if it is set to a number.
    #[must_use]
    pub fn forced_by_environment(mut self) -> Self {
        let forced = std::env::var(FORCE_VARIABLE).ok();
        self.forced = forced.and_then(|n| n.parse().ok()).map(StateVersion);
        if let Some(version) = self.forced {
            log::warn!("{FORCE_VARIABLE} is set: streams claim state version {version}");
        }
        self
    }
}

impl State {
    /// The lowest state version that can hold everything which the guest would
    /// miss.
    pub fn needs(&self) -> StateVersion {
        match self.fs.ghosts.is_empty() {
            true => self.needs_without_ghosts(),
            false => StateVersion(3),
        }
    }

    fn needs_without_ghosts(&self) -> StateVersion {
        match self.fs.locks.is_empty() && self.fs.requests.is_empty() {
            true => StateVersion(1),
            false => StateVersion(2),
        }
    }
}

/// How a state is written for a reader.
#[derive(Debug)]
pub(crate) struct Outline {
    /// What the header says.
    pub version: StateVersion,
    /// Sections that the reader's version does not have.
    without: Vec<SectionId>,
    /// What falls away with them.
    pub losses: Losses,
}

impl Outline {
    /// Plans a stream of `state`.
    ///
    /// # Errors
    /// [`StateError::Downgrade`].
    pub fn new(state: &State, options: &WriteOptions) -> Result<Outline, StateError> {
        let mut outline = Outline {
            version: state.needs(),
            without: Vec::new(),
            losses: Losses::default(),
        };
        for &Release { state: step, .. } in RELEASES.iter().rev() {
            if step > options.newest {
                outline.step_down_from(step, state)?;
            }
        }
        if let Some(forced) = options.forced {
            outline.version = forced;
        }
        Ok(outline)
    }

    /// Whether the stream has section `id`.
    pub fn has(&self, id: SectionId) -> bool {
        !self.without.contains(&id)
    }

    /// What of `state` falls away with what came in version `step`.
    fn step_down_from(&mut self, step: StateVersion, state: &State) -> Result<(), StateError> {
        let fs = &state.fs;
        if step == StateVersion(3) && !fs.ghosts.is_empty() {
            let handles = fs.handles.iter().map(|handle| handle.inode);
            let used: HashSet<u64> = handles.chain(fs.locks.iter().map(|l| l.inode)).collect();
            let ids = fs.ghosts.iter().map(|ghost| ghost.inode);
            let mut open = ids.filter(|id| used.contains(id));
            if let Some(first) = open.next() {
                return Err(StateError::Downgrade {
                    to: StateVersion(2),
                    needs: step,
                    what: format!(
                        "the guest has {} unlinked file(s) or directories open, the first is inode \
                         {first}",
                        1 + open.count()
                    ),
                });
            }
            self.version = state.needs_without_ghosts();
            self.without
                .extend([SectionId::GHOSTS, SectionId::GHOST_DATA]);
            self.losses.0.push(format!(
                "{} unlinked inode(s) that the guest knows and has not open, the first is inode \
                 {}: it gets ESTALE for them",
                fs.ghosts.len(),
                fs.ghosts[0].inode
            ));
        }
        if step == StateVersion(2) {
            if let Some(first) = fs.locks.first() {
                return Err(StateError::Downgrade {
                    to: StateVersion(1),
                    needs: step,
                    what: format!(
                        "the guest holds {} file lock(s), the first on inode {}",
                        fs.locks.len(),
                        first.inode
                    ),
                });
            }
            if !fs.requests.is_empty() {
                return Err(StateError::Downgrade {
                    to: StateVersion(1),
                    needs: step,
                    what: format!("the guest waits for {} file lock(s)", fs.requests.len()),
                });
            }
            self.without
                .extend([SectionId::FILE_SYSTEMS, SectionId::IDENTITIES]);
            if !fs.identities.is_empty() {
                self.losses.0.push(format!(
                    "the identities of {} inode(s): the destination cannot tell a file that \
                     took a name meanwhile from the guest's own",
                    fs.identities.len()
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{sample, sample_v2, sample_v3};

    #[test]
    fn only_what_the_guest_would_miss_raises_the_version() {
        assert_eq!(sample_v3().needs(), StateVersion(3));
        let mut state = sample_v2();
        assert_eq!(state.needs(), StateVersion(2));
        state.fs.locks.clear();
        assert!(!state.fs.identities.is_empty());
        assert_eq!(state.needs(), StateVersion(1));
        assert_eq!(sample().needs(), StateVersion(1));
    }

    #[test]
    fn every_step_down_drops_refuses_or_keeps_each_section_that_came_with_it() {
        let to_1 = WriteOptions::for_version(1).unwrap();
        let error = Outline::new(&sample_v2(), &to_1).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the state cannot be written as state version 1: the guest holds 4 file lock(s), the \
             first on inode 3; that takes version 2, which ferryfs 0.2.0 and later read: write it \
             without --state-version, or wait until there is nothing of it left"
        );
        let mut state = sample_v2();
        state.fs.locks.clear();
        let outline = Outline::new(&state, &to_1).unwrap();
        assert_eq!(outline.version, StateVersion(1));
        assert!(!outline.has(SectionId::IDENTITIES) && !outline.has(SectionId::FILE_SYSTEMS));
        assert_eq!(
            outline.losses.to_string(),
            "the identities of 4 inode(s): the destination cannot tell a file that took a name \
             meanwhile from the guest's own"
        );
        // By itself it stays as it is.
        let outline = Outline::new(&state, &WriteOptions::default()).unwrap();
        assert!(outline.has(SectionId::IDENTITIES) && outline.losses.is_empty());
        // What came with no later version than 1 stays in all of them.
        for n in 1..=5 {
            let outline = Outline::new(&sample(), &to_1).unwrap();
            assert!(outline.has(SectionId(n)));
            assert_eq!(SectionId(n).since(), Some(StateVersion(1)));
        }
    }

    #[test]
    fn what_is_unlinked_and_open_goes_to_no_older_reader() {
        let to_2 = WriteOptions::for_version(2).unwrap();
        let error = Outline::new(&sample_v3(), &to_2).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the state cannot be written as state version 2: the guest has 1 unlinked file(s) or \
             directories open, the first is inode 9; that takes version 3, which ferryfs 0.3.0 and \
             later read: write it without --state-version, or wait until there is nothing of it left"
        );
        let mut state = sample_v3();
        state.fs.handles.retain(|handle| handle.inode != 9);
        let outline = Outline::new(&state, &to_2).unwrap();
        assert_eq!(outline.version, StateVersion(2));
        assert!(!outline.has(SectionId::GHOSTS) && !outline.has(SectionId::GHOST_DATA));
        assert_eq!(
            outline.losses.to_string(),
            "3 unlinked inode(s) that the guest knows and has not open, the first is inode 9: it \
             gets ESTALE for them"
        );
        state.fs.locks.clear();
        let to_1 = WriteOptions::for_version(1).unwrap();
        let outline = Outline::new(&state, &to_1).unwrap();
        assert_eq!(outline.version, StateVersion(1));
        assert_eq!(outline.losses.0.len(), 2);
        // A lock keeps a file in use as much as a handle does.
        let mut state = sample_v3();
        state.fs.handles.retain(|handle| handle.inode != 9);
        let mut lock = state.fs.locks[0].clone();
        (lock.inode, lock.handle) = (9, None);
        state.fs.locks.push(lock);
        Outline::new(&state, &to_2).unwrap_err();
    }

    #[test]
    fn versions_that_never_were_cannot_be_asked_for() {
        for version in [0, 4, u32::MAX] {
            let error = WriteOptions::for_version(version).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("state version {version} is not known here; this release writes 1 to 3")
            );
        }
        assert_eq!(
            WriteOptions::for_version(3).unwrap(),
            WriteOptions::default()
        );
    }
}
