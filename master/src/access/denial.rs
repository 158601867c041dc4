//! The text of a denial: the caller, the action, the object and the remedy.
//!
//! It contains only what its caller may view. Otherwise it shows no rule, no property of a record,
//! and not whether the record exists.

use std::fmt;

use argosy_state::access::{Action, Rule};
use argosy_state::actor::Actor;

use super::decision::Decision;
use super::object::{Object, Record};

/// The code of a denial, for machines.
pub(crate) const DENIED: &str = "access-denied";
/// The code of a denial to a caller without a proven identity, who may have to prove one.
pub(crate) const UNPROVEN: &str = "unauthenticated";

/// A denied action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Denial {
    actor: Actor,
    action: Action,
    /// As the caller has named it, or with its properties if the caller may view it.
    object: String,
    by: Option<Box<Rule>>,
    /// Whether the caller may view the rules.
    shows_rules: bool,
}

impl Denial {
    /// Returns the denial if the decision denies. `may` returns whether the same actor may perform
    /// another action.
    pub(crate) fn of(
        decision: Decision,
        actor: &Actor,
        action: Action,
        object: &Object<'_>,
        mut may: impl FnMut(Action, &Object<'_>) -> bool,
    ) -> Result<(), Self> {
        let Decision::Denied { by } = decision else {
            return Ok(());
        };
        let is_seen = match object.record {
            None => true,
            Some(_) if object.is_unknown => false,
            Some(Record::Task(_)) => may(Action::ViewTask, object),
            Some(Record::Framework(_)) => may(Action::ViewFramework, object),
        };
        let named = object.record.filter(|_| !is_seen);
        Err(Self {
            actor: actor.clone(),
            action,
            object: named.map_or_else(|| object.to_string(), |record| record.to_string()),
            by: by.map(Box::new),
            shows_rules: may(Action::ViewAccess, &Object::CLUSTER),
        })
    }

    /// Returns the denial of an action that a caller may perform on no object.
    pub(crate) fn nowhere(actor: &Actor, action: Action, decision: Decision) -> Result<(), Self> {
        let denied = Self::of(decision, actor, action, &Object::CLUSTER, |_, _| false);
        denied.map_err(|denial| Self {
            object: "any object".to_owned(),
            ..denial
        })
    }

    /// Returns the same denial, with the part of the request that needs the action.
    pub(super) fn because(self, what: &str) -> Self {
        let object = format!("{}, {what}", self.object);
        Self { object, ..self }
    }

    /// Returns the code for machines.
    pub(crate) fn code(&self) -> &'static str {
        match self.actor {
            Actor::Unauthenticated => UNPROVEN,
            Actor::Cluster | Actor::Principal(_) => DENIED,
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            actor,
            action,
            object,
            by,
            shows_rules,
        } = self;
        let by = by.as_ref().filter(|_| *shows_rules);
        let subject = match actor {
            Actor::Unauthenticated => "anonymous".to_owned(),
            Actor::Cluster | Actor::Principal(_) => actor.to_string(),
        };
        match actor {
            Actor::Unauthenticated => {
                out.write_str("this caller has not proved its identity, and")?
            }
            Actor::Cluster | Actor::Principal(_) => out.write_str(&subject)?,
        }
        write!(out, " may not {action} on {object}: ")?;
        match (by, actor) {
            (Some(rule), _) => write!(
                out,
                "the rule \"{rule}\" denies it; an admin can change the rules with argosy acl set"
            ),
            (None, Actor::Unauthenticated) => out.write_str(
                "the rules do not allow it to anonymous callers; use a certificate (--tls-cert and --tls-key) or a token (--token-file)",
            ),
            // The same text whether a rule denies it or none allows it.
            (None, Actor::Cluster | Actor::Principal(_)) if !shows_rules => out.write_str(
                "the rules do not allow it; an admin can change them with argosy acl set",
            ),
            (None, Actor::Cluster | Actor::Principal(_)) => write!(
                out,
                "no rule allows it; an admin can add one with argosy acl set, such as \"allow {subject} {action} *\""
            ),
        }
    }
}
