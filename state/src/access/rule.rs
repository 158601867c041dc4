//! Rules: a subject may or may not perform an action on an object.

use std::fmt;
use std::str::FromStr;

use super::{Action, Pattern, Subject};
use crate::ids::InvalidId;

/// A rule. A denial takes precedence over every rule and group that allows the same.
///
/// Its text form is `allow SUBJECT ACTION OBJECT` or `deny SUBJECT ACTION OBJECT`, such as
/// `allow group:ops kill-task role:eng/%`. `*` as the action stands for every action.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// The callers to which the rule applies.
    pub subject: Subject,
    /// Whether it allows or denies.
    pub effect: Effect,
    /// The action; `None` for every action.
    pub action: Option<Action>,
    /// The objects.
    pub object: Pattern,
}

/// The effect of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// The rule allows the action.
    Allow,
    /// The rule denies the action.
    Deny,
}

impl Rule {
    /// Returns whether the rule is about this action.
    #[must_use]
    pub fn covers(&self, action: Action) -> bool {
        self.action.is_none_or(|one| one == action)
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        })
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = self.action.map_or("*", Action::as_str);
        write!(
            out,
            "{} {} {action} {}",
            self.effect, self.subject, self.object
        )
    }
}

/// The inverse of `Display`; more white space between words is accepted.
impl FromStr for Rule {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let wrong = || {
            let rule = "write allow or deny, SUBJECT, ACTION and OBJECT";
            InvalidId::new("rule", text, rule)
        };
        let words: Vec<_> = text.split_whitespace().take(5).collect();
        let [effect, subject, action, object] = words[..] else {
            return Err(wrong());
        };
        Ok(Self {
            effect: match effect {
                "allow" => Effect::Allow,
                "deny" => Effect::Deny,
                _ => return Err(wrong()),
            },
            subject: subject.parse()?,
            action: match action {
                "*" => None,
                action => Some(action.parse()?),
            },
            object: object.parse()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_round_trip_as_text_and_other_texts_are_rejected() {
        for text in [
            "allow group:ops kill-task role:eng/%",
            "deny operator/bob exec *",
            "allow anonymous view-metrics *",
            "allow agent/* connect-agent *",
            "deny everyone * host-path:/",
        ] {
            let rule: Rule = text.parse().unwrap();
            assert_eq!(rule.to_string(), text);
        }
        let spaced: Rule = " allow\toperator/*  *   * ".parse().unwrap();
        assert_eq!(spaced.to_string(), "allow operator/* * *");
        for text in [
            "",
            "allow",
            "allow operator/* *",
            "allow operator/* * * *",
            "permit operator/* * *",
            "allow alice * *",
            "allow operator/* kill *",
            "allow operator/* kill-task eng",
        ] {
            assert!(text.parse::<Rule>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_rule_without_an_action_covers_every_action() {
        let rule = |text: &str| text.parse::<Rule>().unwrap();
        for action in Action::ALL.iter().copied() {
            assert!(rule("allow operator/* * *").covers(action));
            let is_exec = action == Action::Exec;
            assert_eq!(rule("deny operator/* exec *").covers(action), is_exec);
        }
    }
}
