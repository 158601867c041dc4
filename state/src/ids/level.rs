//! The feature level of the cluster, as a number. Its rules are in [`level`](mod@crate::level).

use std::fmt;

use super::Role;
use crate::codec::scalars::AsNumber;

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

impl AsNumber for Level {
    fn number(&self) -> u64 {
        self.0.into()
    }

    fn of(number: u64) -> Option<Self> {
        Some(Self(number as u32))
    }
}

/// A part of a command that not every level has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LevelRequirement {
    /// The lowest level that has it.
    pub level: Level,
    /// The name of the part, such as `kill_policy.signal`.
    pub what: &'static str,
}

impl LevelRequirement {
    /// Returns the requirement of a role that is invalid by the rules of release 0.1.0, if any.
    pub(crate) fn of_roles<'a>(roles: impl IntoIterator<Item = &'a Role>) -> Option<Self> {
        let is_new = roles.into_iter().any(|role| !role.is_of_level_2());
        is_new.then_some(Self {
            level: Level::RELEASE_0_2,
            what: "a role that is a path",
        })
    }
}
