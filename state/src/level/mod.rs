//! The feature level of the cluster: the commands and records that every master uses, whatever its
//! own release supports.
//!
//! The level is replicated. It starts at the newest level that all first members support, and an
//! operator raises it when every master supports the next one. Commands are encoded and applied at
//! the level of the cluster, so that masters of two releases keep the same records, byte for byte.

mod required;

use std::fmt;

pub use crate::ids::{Level, LevelRequirement};
pub use required::{announced, first_unsupported, reduce, reported};

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
