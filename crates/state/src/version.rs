//! The version numbers of a stream, each a type of its own, and what a reader
//! says when one is beyond it.

use std::fmt;

use crate::envelope::WriterInfo;

macro_rules! version_newtype {
    ($(#[$doc:meta])* $name:ident($int:ty), current $current:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $int);

        impl $name {
            /// The newest version that this build knows, and what it writes.
            pub const CURRENT: $name = $name($current);
            /// The oldest version that this build reads.
            pub const OLDEST: $name = $name(1);
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

version_newtype! {
    /// Version of the envelope: magic, header, frames, end frame.
    ///
    /// - 1: ferryfs 0.1.
    ContainerVersion(u16), current 1
}
version_newtype! {
    /// Version of the state model as a whole: which sections in which versions a
    /// reader must understand.
    ///
    /// - 1: ferryfs 0.1. Sections session, counters, mounts, inodes, handles, each
    ///   in section version 1.
    /// - 2: ferryfs 0.2. The section locks as well. The sections file-systems and
    ///   identities came with it, but need no understanding: a stream of version 1
    ///   may have them.
    /// - 3: ferryfs 0.3. The sections ghosts and ghost-data as well.
    StateVersion(u32), current 3
}
version_newtype! {
    /// Version of one section's records.
    ///
    /// - 1: all sections ([`v1`](crate::v1), and [`v2`](crate::v2) and
    ///   [`v3`](crate::v3) for what is new there).
    SectionVersion(u16), current 1
}

/// Which release was the first to know a state version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// The state version.
    pub state: StateVersion,
    /// The release of the workspace, as in its manifest.
    pub release: &'static str,
}

/// The first release for each state version, oldest first. Every later release
/// reads it as well.
pub const RELEASES: &[Release] = &[
    Release {
        state: StateVersion(1),
        release: "0.1.0",
    },
    Release {
        state: StateVersion(2),
        release: "0.2.0",
    },
    Release {
        state: StateVersion(3),
        release: "0.3.0",
    },
];

impl StateVersion {
    /// The first release of ferryfs that reads this version; `None` for one that
    /// is not known here.
    pub fn first_release(self) -> Option<&'static str> {
        RELEASES.iter().find(|r| r.state == self).map(|r| r.release)
    }

    /// For messages: who reads this version.
    pub(crate) fn readers(self) -> String {
        match self.first_release() {
            Some(release) => format!("ferryfs {release} and later"),
            None => "a later release of ferryfs than this one".to_owned(),
        }
    }
}

/// A version that this build does not read, and what would.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VersionIncompatible {
    /// The envelope is newer.
    #[error(
        "written in container version {found} by {writer}; this reader knows up to {newest}: \
         use {writer} or newer here"
    )]
    ContainerTooNew {
        /// The stream's version.
        found: ContainerVersion,
        /// The newest one known here.
        newest: ContainerVersion,
        /// Who wrote the stream.
        writer: WriterInfo,
    },
    /// The state model is newer.
    #[error(
        "written as state version {found} by {writer}; this reader knows up to {newest}: \
         use {writer} or newer here, or write with --state-version {newest} there"
    )]
    StateTooNew {
        /// The stream's version.
        found: StateVersion,
        /// The newest one known here.
        newest: StateVersion,
        /// Who wrote the stream.
        writer: WriterInfo,
    },
    /// One section is newer than the state version promises.
    #[error(
        "section {section} is in version {found}, written by {writer}; this reader knows up to \
         {newest}: use {writer} or newer here"
    )]
    SectionTooNew {
        /// Which section.
        section: crate::SectionId,
        /// The stream's version.
        found: SectionVersion,
        /// The newest one known here.
        newest: SectionVersion,
        /// Who wrote the stream.
        writer: WriterInfo,
    },
    /// A version below the first one there ever was.
    #[error("{what} version {found} never existed (written by {writer})")]
    NeverExisted {
        /// `container`, `state` or `section`.
        what: &'static str,
        /// The stream's version.
        found: u32,
        /// Who wrote the stream.
        writer: WriterInfo,
    },
}

impl ContainerVersion {
    /// Whether a reader that knows versions up to `newest` reads this one.
    ///
    /// # Errors
    /// Says what would read it.
    pub fn check_readable_by(
        self,
        newest: ContainerVersion,
        writer: &WriterInfo,
    ) -> Result<(), VersionIncompatible> {
        if self < Self::OLDEST {
            return Err(VersionIncompatible::NeverExisted {
                what: "container",
                found: self.0.into(),
                writer: writer.clone(),
            });
        }
        if self > newest {
            return Err(VersionIncompatible::ContainerTooNew {
                found: self,
                newest,
                writer: writer.clone(),
            });
        }
        Ok(())
    }
}

impl StateVersion {
    /// Whether a reader that knows versions up to `newest` reads this one.
    ///
    /// # Errors
    /// Says what would read it.
    pub fn check_readable_by(
        self,
        newest: StateVersion,
        writer: &WriterInfo,
    ) -> Result<(), VersionIncompatible> {
        if self < Self::OLDEST {
            return Err(VersionIncompatible::NeverExisted {
                what: "state",
                found: self.0,
                writer: writer.clone(),
            });
        }
        if self > newest {
            return Err(VersionIncompatible::StateTooNew {
                found: self,
                newest,
                writer: writer.clone(),
            });
        }
        Ok(())
    }
}

impl SectionVersion {
    /// Whether a reader that knows versions of `section` up to `newest` reads this
    /// one.
    ///
    /// # Errors
    /// Says what would read it.
    pub fn check_readable_by(
        self,
        newest: SectionVersion,
        section: crate::SectionId,
        writer: &WriterInfo,
    ) -> Result<(), VersionIncompatible> {
        if self < Self::OLDEST {
            return Err(VersionIncompatible::NeverExisted {
                what: "section",
                found: self.0.into(),
                writer: writer.clone(),
            });
        }
        if self > newest {
            return Err(VersionIncompatible::SectionTooNew {
                section,
                found: self,
                newest,
                writer: writer.clone(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_state_is_refused_with_what_would_read_it() {
        let writer = WriterInfo::new("ferryfsd", "0.9.0");
        assert_eq!(
            StateVersion(3)
                .check_readable_by(StateVersion(1), &writer)
                .unwrap_err()
                .to_string(),
            "written as state version 3 by ferryfsd 0.9.0; this reader knows up to 1: \
             use ferryfsd 0.9.0 or newer here, or write with --state-version 1 there"
        );
        assert_eq!(
            ContainerVersion(2)
                .check_readable_by(ContainerVersion(1), &writer)
                .unwrap_err()
                .to_string(),
            "written in container version 2 by ferryfsd 0.9.0; this reader knows up to 1: \
             use ferryfsd 0.9.0 or newer here"
        );
        assert_eq!(
            SectionVersion(2)
                .check_readable_by(SectionVersion(1), crate::SectionId::INODES, &writer)
                .unwrap_err()
                .to_string(),
            "section inodes is in version 2, written by ferryfsd 0.9.0; this reader knows up to 1: \
             use ferryfsd 0.9.0 or newer here"
        );
    }

    #[test]
    fn versions_from_the_oldest_to_the_newest_are_read_and_zero_is_not() {
        let writer = WriterInfo::new("w", "1");
        let newest = StateVersion(3);
        for v in 1..=3 {
            StateVersion(v).check_readable_by(newest, &writer).unwrap();
        }
        assert_eq!(
            StateVersion(0)
                .check_readable_by(newest, &writer)
                .unwrap_err()
                .to_string(),
            "state version 0 never existed (written by w 1)"
        );
    }
}
