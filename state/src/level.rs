//! The feature level of the cluster: the commands and records that every master uses, whatever its
//! own release supports.
//!
//! The level is replicated. It starts at the newest level that all first members support, and an
//! operator raises it when every master supports the next one. Commands are encoded and applied at
//! the level of the cluster, so that masters of two releases keep the same records, byte for byte.

mod required;

use std::fmt;

use crate::codec::scalars::AsNumber;

pub(crate) use required::role;
pub use required::{LevelRequirement, announced, first_unsupported, reduce, reported};

/// A feature level. Levels are ordered: each one includes all earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Level(pub u32);

impl Level {
    /// The level of a registry that no leader has opened.
    pub const FIRST: Self = Self(1);
    /// The level of release 0.1.0: changes of limits, checks by HTTPS, limits in force after a
    /// refusal.
    pub const RELEASE_0_1: Self = Self(2);
    /// The level of release 0.2.0. It adds digests in the log, the end of `stop_after`, bounds in
    /// bytes, sizes of containers, and refusals stored as codes.
    pub const RELEASE_0_2: Self = Self(3);
    /// The oldest level at which this release leads and follows.
    pub const OLDEST: Self = Self::RELEASE_0_1;
    /// The newest level that this release supports.
    pub const NEWEST: Self = Self::RELEASE_0_2;
}

impl fmt::Display for Level {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// The levels that a master supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Levels {
    /// The oldest level.
    pub oldest: Level,
    /// The newest level.
    pub newest: Level,
}

impl Levels {
    /// The levels of this release.
    pub const OWN: Self = Self {
        oldest: Level::OLDEST,
        newest: Level::NEWEST,
    };
    /// The levels of release 0.1.0, which does not report any.
    pub const OF_0_1_0: Self = Self {
        oldest: Level::FIRST,
        newest: Level::RELEASE_0_1,
    };

    /// Returns whether a master with these levels can work at `level`.
    #[must_use]
    pub fn include(self, level: Level) -> bool {
        (self.oldest..=self.newest).contains(&level)
    }
}

/// Returns the level at which a cluster of these first members begins: the newest that all of them
/// support. Returns `None` until every member has reported its levels.
#[must_use]
pub fn initial(reported: impl IntoIterator<Item = Option<Levels>>) -> Option<Level> {
    let newest = reported
        .into_iter()
        .map(|levels| Some(levels?.newest))
        .try_fold(Level::NEWEST, |lowest, newest| Some(lowest.min(newest?)))?;
    Some(newest.max(Level::OLDEST))
}

impl fmt::Display for Levels {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}-{}", self.oldest, self.newest)
    }
}

impl AsNumber for Level {
    fn number(&self) -> u64 {
        self.0.into()
    }

    fn of(number: u64) -> Option<Self> {
        Some(Self(number as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_starts_at_the_newest_level_that_all_founders_support() {
        let (own, former) = (Some(Levels::OWN), Some(Levels::OF_0_1_0));
        let later = Some(Levels {
            oldest: Level::NEWEST,
            newest: Level(Level::NEWEST.0 + 1),
        });
        assert_eq!(initial([own]), Some(Level::NEWEST));
        assert_eq!(initial([own, later, own]), Some(Level::NEWEST));
        assert_eq!(initial([own, former, own]), Some(Level::RELEASE_0_1));
        assert_eq!(initial([own, None, former]), None);
    }
}
