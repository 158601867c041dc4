//! The policy: rules and groups, which are replaced as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use super::{Action, Effect, Group, GroupName, Pattern, Rule, Subject};
use crate::actor::{Actor, PrincipalKind};
use crate::ids::InvalidId;
use crate::limits;

/// The rules and groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The rules. Their order has no meaning.
    pub rules: Vec<Rule>,
    /// The members of groups. A group that is absent has none.
    pub groups: BTreeMap<GroupName, BTreeSet<Subject>>,
}

/// The error in the text of a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {source}")]
pub struct InvalidPolicy {
    /// The number of the line, from 1.
    pub line: usize,
    /// The error.
    pub source: InvalidId,
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

    /// Returns the groups with their members, ascending by name.
    pub fn groups(&self) -> impl Iterator<Item = Group> {
        self.groups.iter().map(|(name, members)| Group {
            name: name.clone(),
            members: members.clone(),
        })
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

    /// Returns whether the caller is a member of a group. Looks up the members that name the caller
    /// ([`Subject::names`]), because a group may have thousands.
    #[must_use]
    pub fn is_member(&self, name: &GroupName, actor: &Actor) -> bool {
        let Some(members) = self.groups.get(name) else {
            return false;
        };
        let has = |subject: Subject| members.contains(&subject);
        match actor {
            Actor::Cluster => false,
            Actor::Unauthenticated => has(Subject::Anonymous) || has(Subject::Everyone),
            Actor::Principal(principal) => {
                has(Subject::Principal(principal.clone()))
                    || has(Subject::Kind(principal.kind))
                    || has(Subject::Everyone)
            }
        }
    }

    /// Returns whether the caller may replace this policy.
    #[must_use]
    pub fn may_be_set_by(&self, actor: &Actor) -> bool {
        let has = |subject: &&Subject| self.is_subject(subject, actor);
        !self.setters(Effect::Deny).iter().any(has) && self.setters(Effect::Allow).iter().any(has)
    }

    /// Returns whether there can be an operator that may replace this policy. Other callers do not
    /// count: there may be no person who acts as one of them.
    #[must_use]
    pub fn may_be_set(&self) -> bool {
        let denied = self.expanded_setters(Effect::Deny);
        let is_denied = |subject: &Subject| {
            let of_kind = match subject {
                Subject::Principal(principal) => Some(Subject::Kind(principal.kind)),
                _ => None,
            };
            denied.contains(subject) || of_kind.is_some_and(|kind| denied.contains(&kind))
        };
        let is_operator = |subject: &Subject| match subject {
            Subject::Kind(kind) => *kind == PrincipalKind::Operator,
            Subject::Principal(principal) => principal.kind == PrincipalKind::Operator,
            Subject::Anonymous | Subject::Everyone | Subject::Group(_) => false,
        };
        let mut allowed = self.expanded_setters(Effect::Allow).into_iter();
        allowed.any(|subject| is_operator(&subject) && !is_denied(&subject))
    }

    /// Returns the subjects of the rules of this effect that are about replacing the policy, each
    /// once, so that a group is read once.
    fn setters(&self, effect: Effect) -> BTreeSet<&Subject> {
        const ADMINS: &Subject = &Subject::Group(GroupName::Admin);
        let rules = self.rules.iter().filter(|rule| {
            rule.effect == effect && rule.covers(Action::SetAccess) && rule.object == Pattern::Any
        });
        let admins = (effect == Effect::Allow).then_some(ADMINS);
        rules.map(|rule| &rule.subject).chain(admins).collect()
    }

    /// Returns the kinds and principals of these subjects.
    fn expanded_setters(&self, effect: Effect) -> BTreeSet<Subject> {
        let subjects = self.setters(effect).into_iter();
        subjects
            .flat_map(|subject| self.expanded(subject))
            .collect()
    }

    /// Returns the kinds and principals that a subject stands for.
    fn expanded(&self, subject: &Subject) -> Vec<Subject> {
        match subject {
            Subject::Anonymous => Vec::new(),
            Subject::Everyone => PrincipalKind::ALL.map(Subject::Kind).into(),
            Subject::Kind(_) | Subject::Principal(_) => vec![subject.clone()],
            Subject::Group(name) => {
                let members = self.groups.get(name).into_iter().flatten();
                // Members are no groups.
                let members = members.filter(|member| !matches!(member, Subject::Group(_)));
                members.flat_map(|member| self.expanded(member)).collect()
            }
        }
    }

    /// Returns the bound that the policy exceeds, or what a group may not have, as text.
    #[must_use]
    pub fn invalid(&self) -> Option<String> {
        let members: usize = self.groups.values().map(BTreeSet::len).sum();
        for (what, count, most) in [
            ("rules", self.rules.len(), limits::ACCESS_RULES),
            ("groups", self.groups.len(), limits::ACCESS_GROUPS),
            ("members of groups", members, limits::ACCESS_MEMBERS),
        ] {
            if count > most {
                return Some(format!("{count} {what}; at most {most}"));
            }
        }
        let mut members = self.groups.values().flatten();
        if members.any(|member| matches!(member, Subject::Group(_))) {
            return Some("a group has no groups as members".to_owned());
        }
        let bytes = self.to_string().len();
        let most = limits::ACCESS_BYTES;
        (bytes > most).then(|| format!("it takes {bytes} bytes as text; at most {most}"))
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
        self.groups()
            .try_for_each(|group| writeln!(out, "{group}"))?;
        self.rules
            .iter()
            .try_for_each(|rule| writeln!(out, "{rule}"))
    }
}

/// Reads one group or rule a line. Empty lines, and lines that begin with `#`, have no meaning.
impl FromStr for Policy {
    type Err = InvalidPolicy;

    fn from_str(text: &str) -> Result<Self, InvalidPolicy> {
        let (mut rules, mut groups) = (Vec::new(), BTreeMap::new());
        for (at, line) in text.lines().enumerate() {
            let wrong = |source| InvalidPolicy {
                line: at + 1,
                source,
            };
            match line.split_whitespace().next() {
                None => {}
                Some(word) if word.starts_with('#') => {}
                Some("group") => {
                    let group: Group = line.parse().map_err(wrong)?;
                    let name = group.name.to_string();
                    if groups.insert(group.name, group.members).is_some() {
                        let rule = "it is defined on an earlier line too";
                        return Err(wrong(InvalidId::new("group", &name, rule)));
                    }
                }
                Some(_) => rules.push(line.parse().map_err(wrong)?),
            }
        }
        Ok(Self { rules, groups })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Policy {
        text.parse().unwrap()
    }

    #[test]
    fn the_initial_policy_makes_operators_admins_and_lets_agents_connect() {
        let policy = Policy::default();
        let wanted = "group admin = operator/*\nallow agent/* connect-agent *\n";
        assert_eq!(policy.to_string(), wanted);
        assert!(policy.may_be_set() && policy.invalid().is_none());
        let actor = |text: &str| text.parse::<Actor>().unwrap();
        let admins = Subject::Group(GroupName::Admin);
        assert!(policy.is_subject(&admins, &actor("operator/alice")));
        assert!(policy.may_be_set_by(&actor("operator/alice")));
        for other in [
            "agent/a",
            "framework/f",
            "master/m",
            "unauthenticated",
            "cluster",
        ] {
            assert!(!policy.is_subject(&admins, &actor(other)), "{other}");
            assert!(!policy.may_be_set_by(&actor(other)), "{other}");
        }
        let agents = Subject::Kind(PrincipalKind::Agent);
        assert!(policy.is_subject(&agents, &actor("agent/a")));
        assert!(!policy.is_member(&GroupName::Viewer, &actor("operator/alice")));
    }

    #[test]
    fn a_group_has_the_callers_that_one_of_its_members_names() {
        let callers = "unauthenticated cluster operator/a operator/b agent/a framework/a master/a";
        let actor = |text: &str| text.parse::<Actor>().unwrap();
        let callers: Vec<_> = callers.split(' ').map(actor).collect();
        let members = "anonymous everyone operator/* agent/* framework/* master/* operator/a \
                       operator/b agent/a group:other";
        let subject = |text: &str| text.parse::<Subject>().unwrap();
        let members: Vec<_> = members.split(' ').map(subject).collect();
        for chosen in 0..1_usize << members.len() {
            let is_chosen = |(at, _): &(usize, &Subject)| (chosen >> at) & 1 == 1;
            let chosen = members.iter().enumerate().filter(is_chosen);
            let chosen: BTreeSet<Subject> = chosen.map(|(_, member)| member.clone()).collect();
            let mut grouped = policy("");
            grouped.groups = [(GroupName::Viewer, chosen.clone())].into();
            for caller in &callers {
                let is_named = chosen.iter().any(|member| member.names(caller));
                let is_member = grouped.is_member(&GroupName::Viewer, caller);
                assert_eq!(is_member, is_named, "{caller} {chosen:?}");
                assert!(!grouped.is_member(&GroupName::Operator, caller));
            }
        }
    }

    #[test]
    fn a_policy_round_trips_as_text_and_errors_name_the_line() {
        let text =
            "# who may what\n\ngroup ops = operator/bob operator/alice\n  \nallow group:ops * *\n";
        let canonical = "group ops = operator/alice operator/bob\nallow group:ops * *\n";
        assert_eq!(policy(text).to_string(), canonical);
        assert_eq!(policy(canonical), policy(text));
        for (text, wanted) in [
            (
                "\nallow alice * *",
                "line 2: \"alice\" is not a valid subject",
            ),
            ("group a =\ngroup a =", "line 2: \"a\" is not a valid group"),
            ("groups a =", "line 1: \"groups a =\" is not a valid rule"),
        ] {
            let wrong = text.parse::<Policy>().unwrap_err().to_string();
            assert!(wrong.starts_with(wanted), "{wrong}");
        }
    }

    #[test]
    fn a_policy_that_no_operator_could_replace_is_detected() {
        for open in [
            "allow operator/alice set-access *",
            "allow operator/alice * *",
            "allow everyone set-access *",
            "group admin = operator/*\ndeny operator/bob * *",
            "group admin = operator/alice operator/bob\ndeny operator/bob set-access *",
            "group ops = operator/alice\nallow group:ops set-access *\ndeny anonymous * *",
            "group admin = operator/alice\ndeny operator/alice set-access role:eng",
            "allow everyone * *\ndeny framework/* * *\ndeny agent/* * *",
        ] {
            assert!(policy(open).may_be_set(), "{open}");
        }
        for locked in [
            "",
            "allow anonymous * *",
            "group admin =",
            "group admin = anonymous",
            "group operator = operator/*",
            "allow operator/* set-access role:eng",
            "group admin = operator/*\ndeny operator/* set-access *",
            "group admin = operator/*\ndeny everyone * *",
            "group admin = operator/alice\ngroup ex = operator/*\ndeny group:ex set-access *",
            "allow operator/alice set-access *\ndeny operator/* * *",
            "allow group:ops set-access *",
            "allow framework/x set-access *",
            "group admin = agent/* framework/*",
            "allow everyone * *\ndeny operator/* * *\ndeny agent/* * *",
        ] {
            assert!(!policy(locked).may_be_set(), "{locked}");
        }
    }

    #[test]
    fn policies_are_bounded() {
        let rule: Rule = "allow operator/* view-task *".parse().unwrap();
        let mut most = Policy {
            rules: vec![rule.clone(); limits::ACCESS_RULES],
            groups: BTreeMap::new(),
        };
        assert_eq!(most.invalid(), None);
        most.rules.push(rule);
        assert!(most.invalid().unwrap().contains("rules"));
        let members = |count: usize| -> BTreeSet<Subject> {
            let names = (0..count).map(|at| format!("operator/o{at}"));
            names.map(|name| name.parse().unwrap()).collect()
        };
        let mut grouped = policy("");
        let name = |at: usize| format!("g{at}").parse().unwrap();
        grouped.groups = (0..limits::ACCESS_GROUPS)
            .map(|at| {
                (
                    name(at),
                    members(limits::ACCESS_MEMBERS / limits::ACCESS_GROUPS),
                )
            })
            .collect();
        assert_eq!(grouped.invalid(), None);
        grouped.groups.insert(name(0), members(11));
        assert!(grouped.invalid().unwrap().contains("members"));
        grouped
            .groups
            .insert(name(limits::ACCESS_GROUPS), members(0));
        assert!(grouped.invalid().unwrap().contains("groups"));
        let long = format!("deny everyone use-image image:{}", "x".repeat(1_000));
        let mut long = policy(&vec![long; 900].join("\n"));
        assert_eq!(long.invalid(), None);
        long.rules.extend(long.rules.clone());
        assert!(long.invalid().unwrap().contains("bytes"));
        let mut nested = policy("");
        nested.groups = [(name(1), [Subject::Group(name(2))].into())].into();
        assert!(nested.invalid().is_some());
    }
}
