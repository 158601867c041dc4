//! The text of a denial: who, what, on which object, which rule, and the remedy.

use std::fmt;

use argosy_state::access::{Action, Rule};
use argosy_state::actor::Actor;

use super::decision::Decision;
use super::object::Object;

/// The code of a denial, for machines.
pub(crate) const DENIED: &str = "access-denied";
/// The code of a denial to a caller without a proven identity, who may have to prove one.
pub(crate) const UNPROVEN: &str = "unauthenticated";

/// A denied action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Denial {
    actor: Actor,
    action: Action,
    object: String,
    by: Option<Box<Rule>>,
}

impl Denial {
    /// Returns the denial, if the decision is one.
    pub(crate) fn of(
        decision: Decision,
        actor: &Actor,
        action: Action,
        object: &Object<'_>,
    ) -> Result<(), Self> {
        match decision {
            Decision::Allowed => Ok(()),
            Decision::Denied { by } => Err(Self {
                actor: actor.clone(),
                action,
                object: object.to_string(),
                by: by.map(Box::new),
            }),
        }
    }

    /// Returns the denial of an action to a caller that may do it on no object.
    pub(crate) fn nowhere(actor: &Actor, action: Action, decision: Decision) -> Result<(), Self> {
        let denied = Self::of(decision, actor, action, &Object::CLUSTER);
        denied.map_err(|denial| Self {
            object: "any object".to_owned(),
            ..denial
        })
    }

    /// Returns the same denial with what needs the action.
    pub(super) fn because(self, what: &str) -> Self {
        let object = format!("{}, {what}", self.object);
        Self { object, ..self }
    }

    /// Returns the code for machines.
    pub(crate) fn code(&self) -> &'static str {
        match (&self.actor, &self.by) {
            (Actor::Unauthenticated, None) => UNPROVEN,
            (Actor::Unauthenticated | Actor::Cluster | Actor::Principal(_), _) => DENIED,
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
        } = self;
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
                "no rule allows it to anonymous callers; use a certificate (--tls-cert and --tls-key) or a token (--token-file)",
            ),
            (None, Actor::Cluster | Actor::Principal(_)) => write!(
                out,
                "no rule allows it; an admin can add one with argosy acl set, such as \"allow {subject} {action} *\""
            ),
        }
    }
}
