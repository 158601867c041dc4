//! Identifiers: one newtype for each noun, with its text form and its rules.

mod level;
mod stored;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::limits;

pub use level::{Level, LevelRequirement};

/// The error for a text that is not a valid id of the expected kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {what}: {rule}")]
pub struct InvalidId {
    /// The kind of id, such as "task id".
    pub what: &'static str,
    /// The given text, cut to 64 characters.
    pub text: String,
    /// The rule that the text violates.
    pub rule: &'static str,
}

impl InvalidId {
    /// Returns the error for `text`, which may be of any length.
    #[must_use]
    pub fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        Self {
            what,
            text: text.chars().take(64).collect(),
            rule,
        }
    }
}

macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "-{}"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let number = text.strip_prefix(concat!($prefix, "-")).and_then(|rest| rest.parse().ok());
                number.map(Self).ok_or_else(|| InvalidId::new($what, text, concat!("write it as ", $prefix, "-N")))
            }
        }
    };
}

numbered!(
    /// The id of an agent, assigned by the registry and never reused.
    AgentId, "agent", "agent id"
);
numbered!(
    /// The id of a framework, assigned by the registry and never reused.
    FrameworkId, "framework", "framework id"
);
numbered!(
    /// The id of a master in its Raft group.
    NodeId, "master", "master id"
);

/// The epoch of a leader: the log index of its `OpenEpoch` entry. 0 means none yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u64);

/// A cluster time in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Returns the time `ms` milliseconds later; never overflows.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Returns the milliseconds from `earlier` to this time; 0 if it is not earlier.
    #[must_use]
    pub fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// The revision at which a fact became true: log index, and position of the command in that entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision {
    /// The log index.
    pub index: u64,
    /// The position in the entry; it also counts the facts that one command created.
    pub position: u32,
}

/// The number of an order to an agent. Numbers start at 1 for each agent, and have no gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct OrderIndex(pub u64);

/// The identity of one proposal in one epoch, by which the leader finds its own commands again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ticket {
    /// The epoch of the proposal.
    pub epoch: Epoch,
    /// The serial number within the epoch.
    pub serial: u64,
}

/// The id of an offer: the epoch in which it was made, and a serial number in that epoch. Written
/// as "12.7".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct OfferId {
    /// The epoch in which the offer was made.
    pub epoch: Epoch,
    /// The serial number within the epoch.
    pub serial: u64,
}

impl fmt::Display for OfferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch.0, self.serial)
    }
}

impl FromStr for OfferId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let wrong = || InvalidId::new("offer id", text, "write it as EPOCH.SERIAL");
        let (epoch, serial) = text.split_once('.').ok_or_else(wrong)?;
        Ok(Self {
            epoch: Epoch(epoch.parse().map_err(|_| wrong())?),
            serial: serial.parse().map_err(|_| wrong())?,
        })
    }
}

/// The id of a cluster: a random number from its first leader. Written as 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClusterId(pub u128);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for ClusterId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let wrong = || InvalidId::new("cluster id", text, "write 32 hexadecimal digits");
        if text.len() != 32 {
            return Err(wrong());
        }
        u128::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_| wrong())
    }
}

/// The id of a task, chosen by its framework: 1 to 255 bytes of letters, digits and `._-:@`, not
/// `.` or `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(Arc<str>);

impl TaskId {
    /// Validates `text`.
    ///
    /// # Errors
    /// [`InvalidId`] names the text and the rule.
    pub fn new(text: &str) -> Result<Self, InvalidId> {
        let rule = "use 1 to 255 letters, digits and ._-:@, not . or ..";
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:@".contains(&byte);
        if text.is_empty()
            || text.len() > limits::NAME_BYTES
            || text == "."
            || text == ".."
            || !text.bytes().all(known)
        {
            return Err(InvalidId::new("task id", text, rule));
        }
        Ok(Self(text.into()))
    }

    /// Returns an id without applying any rule, such as a defect could create: for tests of
    /// rejections.
    #[cfg(any(test, feature = "builders"))]
    #[must_use]
    pub fn new_unchecked(text: &str) -> Self {
        Self(text.into())
    }

    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id of a task group, chosen by its framework by the rule of [`TaskId`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(TaskId);

impl GroupId {
    /// Validates `text`.
    ///
    /// # Errors
    /// [`InvalidId`] names the text and the rule.
    pub fn new(text: &str) -> Result<Self, InvalidId> {
        let result = TaskId::new(text).map(Self);
        result.map_err(|wrong| InvalidId {
            what: "group id",
            ..wrong
        })
    }

    /// Returns the id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A role: `*`, or a path of components joined by `/`, such as `eng/backend`, of at most 128 bytes
/// in total.
///
/// The rules are those of Mesos (`docs/roles.md` there): no component is empty, `.`, `..` or `*`,
/// or starts with `-`; none contains white space or a backslash. In addition, no component contains
/// a control character.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Role(Arc<str>);

impl Role {
    /// Validates `text`.
    ///
    /// # Errors
    /// [`InvalidId`] names the text and the rule.
    pub fn new(text: &str) -> Result<Self, InvalidId> {
        let rule = "use * or a path as eng/backend, at most 128 bytes: no part is empty, ., .. or *, starts with - or \
                    holds white space, a backslash or a control character";
        let is_plain = text.len() <= limits::ROLE_BYTES && text.split('/').all(is_component);
        if is_plain || text == "*" {
            Ok(Self(text.into()))
        } else {
            Err(InvalidId::new("role", text, rule))
        }
    }

    /// Returns the role as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the parent of this role, or `None` for a role of the top level.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let (parent, _) = self.0.rsplit_once('/')?;
        Some(Self(parent.into()))
    }

    /// Returns the ancestors of this role, the nearest first.
    pub fn ancestors(&self) -> impl Iterator<Item = Self> + use<> {
        std::iter::successors(self.parent(), Self::parent)
    }

    /// Returns whether this role is `other` or one of its ancestors.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        let rest = other.0.strip_prefix(&*self.0);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Returns whether release 0.1.0 accepts the role too: one component of letters, digits and
    /// `._-`, not starting with `.`.
    #[must_use]
    pub fn is_of_level_2(&self) -> bool {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        &*self.0 == "*" || (!self.0.starts_with('.') && self.0.bytes().all(known))
    }
}

/// Returns whether `text` is a valid component of a role's path.
fn is_component(text: &str) -> bool {
    let is_foreign = |c: char| c.is_whitespace() || c.is_control() || c == '\\';
    !["", ".", "..", "*"].contains(&text) && !text.starts_with('-') && !text.contains(is_foreign)
}

impl Default for Role {
    fn default() -> Self {
        Self("*".into())
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The identity of a task in the cluster: its framework and its id there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskKey {
    /// The framework.
    pub framework: FrameworkId,
    /// The id that the framework chose.
    pub task: TaskId,
}

impl fmt::Display for TaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.framework, self.task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_as_text() {
        assert_eq!("agent-12".parse(), Ok(AgentId(12)));
        assert_eq!(
            "12.7".parse(),
            Ok(OfferId {
                epoch: Epoch(12),
                serial: 7
            })
        );
        let cluster = ClusterId(0xabc);
        assert_eq!(cluster.to_string().parse(), Ok(cluster));
    }

    #[test]
    fn names_that_could_leave_a_directory_are_refused() {
        for bad in ["", ".", "..", "a/b", "a b", "a\0", "ü", &"x".repeat(256)] {
            assert!(TaskId::new(bad).is_err(), "{bad:?}");
        }
        assert!(TaskId::new("web-1.a_b:c@d").is_ok());
    }

    #[test]
    fn roles_are_paths_by_the_rules_of_mesos() {
        let longest = format!("a/{}", "x".repeat(126));
        for good in [
            "*",
            "ops",
            "eng/backend",
            "a/b/c",
            ".a",
            "a*",
            "r\u{f6}le",
            "a/_b",
            &longest,
        ] {
            assert!(Role::new(good).is_ok(), "{good:?}");
        }
        let too_long = format!("{longest}x");
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            ".",
            "..",
            "a/.",
            "a/..",
            "../a",
            "-a",
            "a/-b",
            "a/*",
            "*/a",
            "a b",
            "a\tb",
            "a\\b",
            "a\u{a0}b",
            "a\u{1b}[2J",
            "a\u{7f}",
            "a\0",
            &too_long,
        ] {
            assert!(Role::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_role_is_part_of_each_prefix_of_its_path() {
        let role = |text: &str| Role::new(text).unwrap();
        let deep = role("eng/web/front");
        assert_eq!(
            deep.ancestors().collect::<Vec<_>>(),
            [role("eng/web"), role("eng")]
        );
        assert_eq!(role("eng").parent(), None);
        assert!(role("eng").contains(&deep) && deep.contains(&deep));
        assert!(!deep.contains(&role("eng")) && !role("en").contains(&deep));
        assert!(!role("eng/we").contains(&deep) && !role("*").contains(&deep));
    }

    #[test]
    fn role_names_that_release_0_1_0_accepts_are_recognized() {
        let is_known = |text: &str| Role::new(text).unwrap().is_of_level_2();
        assert!(is_known("*") && is_known("a.b_c-1"));
        assert!(!is_known("a/b") && !is_known(".a") && !is_known("r\u{f6}le") && !is_known("a:b"));
    }

    #[test]
    fn an_id_with_another_prefix_is_rejected() {
        assert!("framework-1".parse::<AgentId>().is_err());
        assert!("agent--1".parse::<AgentId>().is_err());
    }
}
