//! Groups: the built-in ones with their rights, and those that rules name.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use super::{Action, Pattern, Subject};
use crate::ids::{InvalidId, Role};

/// The name of a group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GroupName {
    /// The built-in group with every right: `admin`.
    Admin,
    /// The built-in group that operates the cluster but does not change who has access: `operator`.
    Operator,
    /// The built-in group that reads: `viewer`.
    Viewer,
    /// The built-in group of the schedulers of a role and of the roles below it: `framework:eng`.
    Framework(Role),
    /// A group whose rights are rules.
    Named(NamedGroup),
}

/// The name of a group that is not built in: 1 to 64 letters, digits and `._-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedGroup(String);

/// A group with its members. Its text form is `group NAME = MEMBER MEMBER`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The name.
    pub name: GroupName,
    /// The members: anything but groups.
    pub members: BTreeSet<Subject>,
}

impl NamedGroup {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl GroupName {
    /// The longest name of a group that is not built in, in bytes.
    pub const BYTES: usize = 64;

    /// Returns the objects on which the group may perform the action by itself, without a rule.
    /// Groups that are not built in have no such right.
    ///
    /// [`GroupName::Framework`] may not run tasks as `root`, although the pattern that is returned
    /// for [`Action::RunAsUser`] is its role.
    #[must_use]
    pub fn grants(&self, action: Action) -> Option<Pattern> {
        match self {
            Self::Admin => Some(Pattern::Any),
            Self::Operator => (!is_of_admins(action)).then_some(Pattern::Any),
            Self::Viewer => action.is_view().then_some(Pattern::Any),
            Self::Framework(role) => {
                (action.is_view() || is_of_schedulers(action)).then(|| match role.as_str() {
                    "*" => Pattern::Role(role.clone()),
                    _ => Pattern::Subtree(role.clone()),
                })
            }
            Self::Named(_) => None,
        }
    }
}

/// Returns whether the action changes who has access, or which masters the cluster has and how
/// they work together.
fn is_of_admins(action: Action) -> bool {
    [
        Action::SetAccess,
        Action::CreateToken,
        Action::Revoke,
        Action::SetSecret,
        Action::ChangeMasters,
        Action::RaiseLevel,
    ]
    .contains(&action)
}

fn is_of_schedulers(action: Action) -> bool {
    [
        Action::RegisterFramework,
        Action::TeardownFramework,
        Action::UpdateFramework,
        Action::LaunchTask,
        Action::RunAsUser,
        Action::UseImage,
        Action::KillTask,
        Action::UpdateLimits,
    ]
    .contains(&action)
}

impl fmt::Display for GroupName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admin => out.write_str("admin"),
            Self::Operator => out.write_str("operator"),
            Self::Viewer => out.write_str("viewer"),
            Self::Framework(role) => write!(out, "framework:{role}"),
            Self::Named(NamedGroup(name)) => out.write_str(name),
        }
    }
}

impl FromStr for GroupName {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if let Some(role) = text.strip_prefix("framework:") {
            return Role::new(role).map(Self::Framework);
        }
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        match text {
            "admin" => Ok(Self::Admin),
            "operator" => Ok(Self::Operator),
            "viewer" => Ok(Self::Viewer),
            _ if (1..=Self::BYTES).contains(&text.len()) && text.bytes().all(known) => {
                Ok(Self::Named(NamedGroup(text.to_owned())))
            }
            _ => {
                let rule = "use 1 to 64 letters, digits and ._-, or framework:ROLE";
                Err(InvalidId::new("group", text, rule))
            }
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "group {} =", self.name)?;
        self.members
            .iter()
            .try_for_each(|member| write!(out, " {member}"))
    }
}

/// The inverse of `Display`; more white space between words is accepted.
impl FromStr for Group {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let mut words = text.split_whitespace();
        let head = (words.next(), words.next(), words.next());
        let (Some("group"), Some(name), Some("=")) = head else {
            let rule = "write group NAME = MEMBER MEMBER …";
            return Err(InvalidId::new("group", text, rule));
        };
        let member = |word: &str| match word.parse()? {
            Subject::Group(_) => {
                let rule = "a group has no groups as members";
                Err(InvalidId::new("member of a group", word, rule))
            }
            member => Ok(member),
        };
        Ok(Self {
            name: name.parse()?,
            members: words.map(member).collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_round_trip_as_text_and_other_texts_are_rejected() {
        for text in [
            "group ops = operator/alice operator/bob",
            "group admin = operator/*",
            "group framework:eng/web = framework/batch framework/web",
            "group everyone = everyone",
            "group none =",
        ] {
            let group: Group = text.parse().unwrap();
            assert_eq!(group.to_string(), text);
        }
        let spaced: Group = "group  ops\t=   operator/bob operator/alice "
            .parse()
            .unwrap();
        assert_eq!(
            spaced.to_string(),
            "group ops = operator/alice operator/bob"
        );
        let long = format!("group {} =", "g".repeat(65));
        for text in [
            "",
            "group",
            "group ops",
            "group = operator/alice",
            "ops = operator/alice",
            "group ops = alice",
            "group ops = group:admin",
            "group a:b = operator/alice",
            "group framework: = operator/alice",
            &long,
        ] {
            assert!(text.parse::<Group>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn built_in_groups_have_their_rights() {
        let group = |text: &str| text.parse::<GroupName>().unwrap();
        let eng: Pattern = "role:eng/%".parse().unwrap();
        for action in Action::ALL.iter().copied() {
            assert_eq!(group("admin").grants(action), Some(Pattern::Any));
            assert_eq!(group("ops").grants(action), None);
            let viewer = group("viewer").grants(action);
            assert_eq!(viewer.is_some(), action.is_view(), "{action}");
            if let Some(pattern) = group("framework:eng").grants(action) {
                assert_eq!(pattern, eng, "{action}");
            }
        }
        for action in [Action::SetAccess, Action::CreateToken, Action::SetSecret] {
            assert_eq!(group("operator").grants(action), None);
        }
        assert!(group("operator").grants(Action::MarkGone).is_some());
        assert!(group("framework:eng").grants(Action::LaunchTask).is_some());
        assert_eq!(group("framework:eng").grants(Action::UseHostPath), None);
        assert_eq!(group("framework:eng").grants(Action::Exec), None);
    }
}
