//! Subjects of rules: the callers to which a rule or a limit of rate applies.

use std::fmt;
use std::str::FromStr;

use super::GroupName;
use crate::actor::{Actor, Principal, PrincipalKind};
use crate::ids::InvalidId;

/// The callers to which a rule or a limit of rate applies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// Callers without a proven identity: `anonymous`.
    Anonymous,
    /// All callers, with and without an identity: `everyone`.
    Everyone,
    /// All principals of a kind: `operator/*`.
    Kind(PrincipalKind),
    /// One principal: `operator/alice`.
    Principal(Principal),
    /// The members of a group: `group:ops`.
    Group(GroupName),
}

impl Subject {
    /// Returns whether the caller is one of these, without the members of groups: those are in
    /// [`Policy`](super::Policy). The cluster itself is no caller.
    #[must_use]
    pub fn names(&self, actor: &Actor) -> bool {
        match (self, actor) {
            (Self::Everyone, Actor::Unauthenticated | Actor::Principal(_))
            | (Self::Anonymous, Actor::Unauthenticated) => true,
            (Self::Kind(kind), Actor::Principal(principal)) => *kind == principal.kind,
            (Self::Principal(one), Actor::Principal(principal)) => one == principal,
            (
                Self::Anonymous
                | Self::Everyone
                | Self::Kind(_)
                | Self::Principal(_)
                | Self::Group(_),
                _,
            ) => false,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => out.write_str("anonymous"),
            Self::Everyone => out.write_str("everyone"),
            Self::Kind(kind) => write!(out, "{kind}/*"),
            Self::Principal(principal) => principal.fmt(out),
            Self::Group(name) => write!(out, "group:{name}"),
        }
    }
}

impl FromStr for Subject {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match text {
            "anonymous" => return Ok(Self::Anonymous),
            "everyone" => return Ok(Self::Everyone),
            _ => {}
        }
        if let Some(name) = text.strip_prefix("group:") {
            return name.parse().map(Self::Group);
        }
        let wrong = || {
            let rule = "write anonymous, everyone, KIND/*, KIND/NAME or group:NAME, the kind as master, agent, framework \
                        or operator";
            InvalidId::new("subject", text, rule)
        };
        match text.split_once('/') {
            Some((kind, "*")) => kind.parse().map(Self::Kind).map_err(|_| wrong()),
            Some((kind, _)) if kind.parse::<PrincipalKind>().is_ok() => {
                text.parse().map(Self::Principal)
            }
            Some(_) | None => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_round_trip_as_text_and_other_texts_are_rejected() {
        for text in [
            "anonymous",
            "everyone",
            "operator/*",
            "agent/*",
            "operator/alice",
            "framework/web-1",
            "group:admin",
            "group:ops",
            "group:framework:eng/web",
        ] {
            let subject: Subject = text.parse().unwrap();
            assert_eq!(subject.to_string(), text);
        }
        for text in [
            "",
            "*",
            "alice",
            "root/*",
            "operator/",
            "operator/a b",
            "operator/a/b",
            "operator/**",
            "group:",
            "group:a:b",
            "cluster",
            "Everyone",
        ] {
            assert!(text.parse::<Subject>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_subject_names_its_callers() {
        let subject = |text: &str| text.parse::<Subject>().unwrap();
        let alice: Actor = "operator/alice".parse().unwrap();
        let nobody = Actor::Unauthenticated;
        for (text, names_alice, names_nobody) in [
            ("anonymous", false, true),
            ("everyone", true, true),
            ("operator/*", true, false),
            ("agent/*", false, false),
            ("operator/alice", true, false),
            ("operator/bob", false, false),
            ("group:admin", false, false),
        ] {
            assert_eq!(subject(text).names(&alice), names_alice, "{text}");
            assert_eq!(subject(text).names(&nobody), names_nobody, "{text}");
            assert!(!subject(text).names(&Actor::Cluster), "{text}");
        }
    }
}
