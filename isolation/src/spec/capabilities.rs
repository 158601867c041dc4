//! Sets of capabilities in a container's user namespace.
//!
//! A capability that is held in a user namespace applies to the objects of that namespace: the
//! container's files, users and processes. It gives no power over the host.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The capabilities that a command may keep, by name and by number in linux/capability.h. Excluded
/// are those without a meaning in a user namespace, and those that expose much of the kernel there,
/// such as SYS_ADMIN, NET_ADMIN and SYS_PTRACE.
const KNOWN: [(&str, u32); 12] = [
    ("CHOWN", 0),
    ("DAC_OVERRIDE", 1),
    ("FOWNER", 3),
    ("FSETID", 4),
    ("KILL", 5),
    ("SETGID", 6),
    ("SETUID", 7),
    ("SETPCAP", 8),
    ("NET_BIND_SERVICE", 10),
    ("NET_RAW", 13),
    ("SYS_CHROOT", 18),
    ("SETFCAP", 31),
];

/// A set of capabilities that a command may keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Capabilities(u64);

impl Capabilities {
    /// The empty set.
    pub const NONE: Self = Self(0);

    /// Returns all capabilities that a command may keep.
    #[must_use]
    pub fn all() -> Self {
        Self(KNOWN.iter().fold(0, |mask, (_, number)| mask | 1 << number))
    }

    /// Returns the set of these names, such as `CHOWN`.
    ///
    /// # Errors
    /// If a name is not a capability that a command may keep.
    pub fn named<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, UnknownCapability> {
        names.into_iter().try_fold(Self::NONE, |set, name| {
            let known = KNOWN.iter().find(|(known, _)| *known == name);
            let (_, number) = known.ok_or_else(|| UnknownCapability(name.to_owned()))?;
            Ok(Self(set.0 | 1 << number))
        })
    }

    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether the set contains the capability of this name.
    #[must_use]
    pub fn has(self, name: &str) -> bool {
        self.names().any(|known| known == name)
    }

    /// Returns the set as a kernel mask: bit n is capability n.
    pub(crate) fn mask(self) -> u64 {
        self.0
    }

    fn names(self) -> impl Iterator<Item = &'static str> {
        let held = KNOWN
            .iter()
            .filter(move |(_, number)| self.0 & 1 << number != 0);
        held.map(|(name, _)| *name)
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.names().collect::<Vec<_>>().join(", "))
    }
}

impl TryFrom<Vec<String>> for Capabilities {
    type Error = UnknownCapability;

    fn try_from(names: Vec<String>) -> Result<Self, UnknownCapability> {
        Self::named(names.iter().map(String::as_str))
    }
}

impl From<Capabilities> for Vec<String> {
    fn from(set: Capabilities) -> Self {
        set.names().map(str::to_owned).collect()
    }
}

/// A name that is not a capability that a command may keep.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a capability that a container can have: use a name such as CHOWN or SETUID")]
pub struct UnknownCapability(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_parsed_by_name_and_exclude_dangerous_capabilities() {
        let set = Capabilities::named(["SETUID", "CHOWN"]).unwrap();
        assert_eq!(set.mask(), 0b1000_0001);
        assert_eq!(set.to_string(), "CHOWN, SETUID");
        assert!(set.has("CHOWN") && !set.has("SETGID"));
        assert!(Capabilities::named(["SYS_ADMIN"]).is_err());
        // SYS_MODULE, SYS_PTRACE, SYS_ADMIN, NET_ADMIN, BPF, DAC_READ_SEARCH.
        for number in [16, 19, 21, 12, 39, 2] {
            assert_eq!(Capabilities::all().mask() & 1 << number, 0, "{number}");
        }
    }

    #[test]
    fn sets_round_trip_through_a_launch_request() {
        for set in [Capabilities::NONE, Capabilities::all()] {
            let text = serde_json::to_string(&set).unwrap();
            assert_eq!(serde_json::from_str::<Capabilities>(&text).unwrap(), set);
        }
        assert!(serde_json::from_str::<Capabilities>("[\"SYS_ADMIN\"]").is_err());
    }
}
