//! The policy: rules and groups, which are replaced as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{Effect, Group, GroupName, Rule, Subject};
use crate::access::{Action, Pattern};
use crate::actor::{Actor, PrincipalKind};

/// The rules and groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The rules. Their order has no meaning.
    pub rules: Vec<Rule>,
    /// The members of groups. A group that is absent has none.
    pub groups: BTreeMap<GroupName, BTreeSet<Subject>>,
}

impl Policy {
    /// Returns the policy of a cluster whose policy was never set: operators are in the group
    /// `admin`, agents may connect, and nothing else is allowed.
    #[must_use]
    pub fn initial() -> Self {
        let operators = Subject::Kind(PrincipalKind::Operator);
        Self {
            rules: vec![Rule {
                subject: Subject::Kind(PrincipalKind::Agent),
                effect: Effect::Allow,
                action: Some(Action::ConnectAgent),
                object: Pattern::Any,
            }],
            groups: [(GroupName::Admin, [operators].into())].into(),
        }
    }

    /// Returns whether the caller is one of the subject's, directly or as a member of a group.
    #[must_use]
    pub fn is_subject(&self, subject: &Subject, actor: &Actor) -> bool {
        match subject {
            Subject::Group(name) => self.is_member(name, actor),
            Subject::Anonymous | Subject::Everyone | Subject::Kind(_) | Subject::Principal(_) => {
                subject.names(actor)
            }
        }
    }

    /// Returns whether the caller is a member of a group.
    #[must_use]
    pub fn is_member(&self, name: &GroupName, actor: &Actor) -> bool {
        let members = self.groups.get(name);
        members.is_some_and(|members| members.iter().any(|member| member.names(actor)))
    }
}

/// The initial policy.
impl Default for Policy {
    fn default() -> Self {
        Self::initial()
    }
}

/// Writes one group or rule a line.
impl fmt::Display for Policy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, members) in &self.groups {
            let (name, members) = (name.clone(), members.clone());
            writeln!(out, "{}", Group { name, members })?;
        }
        self.rules
            .iter()
            .try_for_each(|rule| writeln!(out, "{rule}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_initial_policy_makes_operators_admins_and_lets_agents_connect() {
        let policy = Policy::default();
        let wanted = "group admin = operator/*\nallow agent/* connect-agent *\n";
        assert_eq!(policy.to_string(), wanted);
        let actor = |text: &str| text.parse::<Actor>().unwrap();
        let admins = Subject::Group(GroupName::Admin);
        assert!(policy.is_subject(&admins, &actor("operator/alice")));
        for other in [
            "agent/a",
            "framework/f",
            "master/m",
            "unauthenticated",
            "cluster",
        ] {
            assert!(!policy.is_subject(&admins, &actor(other)), "{other}");
        }
        let agents = Subject::Kind(PrincipalKind::Agent);
        assert!(policy.is_subject(&agents, &actor("agent/a")));
        assert!(!policy.is_member(&GroupName::Viewer, &actor("operator/alice")));
    }
}
