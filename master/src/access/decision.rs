//! Decisions: a rule that denies takes precedence, and an action that no rule allows is denied.

use argosy_state::access::{Action, Effect, GroupName, Pattern, Policy, Rule};
use argosy_state::actor::{Actor, PrincipalKind};

use super::object::Object;
use super::users::{ANY_USER, is_root};

/// The result of a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    Allowed,
    /// Denied by a rule, or because no rule allows it.
    Denied {
        by: Option<Rule>,
    },
}

impl Decision {
    pub(crate) fn is_allowed(&self) -> bool {
        match self {
            Self::Allowed => true,
            Self::Denied { .. } => false,
        }
    }
}

/// The objects on which one actor may perform one action.
#[derive(Debug, Clone)]
pub(crate) struct Permits {
    action: Action,
    /// Whether the actor is the cluster itself, or a master.
    is_exempt: bool,
    denials: Vec<Rule>,
    grants: Vec<Grant>,
}

/// The objects on which a rule or a group allows the action.
#[derive(Debug, Clone)]
struct Grant {
    objects: Pattern,
    /// Whether it does not cover root among the users of a host.
    excludes_root: bool,
}

impl Permits {
    pub(crate) fn of(policy: &Policy, actor: &Actor, action: Action) -> Self {
        let is_exempt = match actor {
            Actor::Cluster => true,
            Actor::Principal(principal) => principal.kind == PrincipalKind::Master,
            Actor::Unauthenticated => false,
        };
        let mut permits = Self {
            action,
            is_exempt,
            denials: Vec::new(),
            grants: Vec::new(),
        };
        if is_exempt {
            return permits;
        }
        let concerns =
            |rule: &&Rule| rule.covers(action) && policy.is_subject(&rule.subject, actor);
        for rule in policy.rules.iter().filter(concerns) {
            match rule.effect {
                Effect::Deny => permits.denials.push(rule.clone()),
                Effect::Allow => permits.grants.push(Grant {
                    objects: rule.object.clone(),
                    excludes_root: false,
                }),
            }
        }
        for name in policy.groups.keys() {
            if let Some(objects) = name.grants(action)
                && policy.is_member(name, actor)
            {
                let excludes_root = matches!(name, GroupName::Framework(_));
                permits.grants.push(Grant {
                    objects,
                    excludes_root,
                });
            }
        }
        permits
    }

    /// Decides about one object.
    pub(crate) fn decide(&self, object: &Object<'_>) -> Decision {
        if self.is_exempt {
            return Decision::Allowed;
        }
        let is_any_user = self.action == Action::RunAsUser && object.user == Some(ANY_USER);
        let denies = |rule: &&Rule| match &rule.object {
            Pattern::User(user) if is_any_user => !is_root(user),
            objects => object.is_denied_by(objects),
        };
        if let Some(rule) = self.denials.iter().find(denies) {
            let by = Some(rule.clone());
            return Decision::Denied { by };
        }
        let is_root = self.action == Action::RunAsUser && object.user.is_none_or(is_root);
        let allows =
            |grant: &Grant| object.matches(&grant.objects) && !(grant.excludes_root && is_root);
        match self.grants.iter().any(allows) {
            true => Decision::Allowed,
            false => Decision::Denied { by: None },
        }
    }

    /// Returns whether it is allowed on every object that there can be.
    pub(crate) fn has_all(&self) -> bool {
        let is_general = |grant: &Grant| grant.objects == Pattern::Any && !grant.excludes_root;
        self.is_exempt || (self.denials.is_empty() && self.grants.iter().any(is_general))
    }

    /// Returns the reason if it is allowed on no object at all.
    pub(crate) fn nowhere(&self) -> Option<Decision> {
        let denies_all = |rule: &&Rule| rule.object == Pattern::Any;
        if let Some(rule) = self.denials.iter().find(denies_all) {
            let by = Some(rule.clone());
            return Some(Decision::Denied { by });
        }
        let is_nowhere = self.grants.is_empty() && !self.is_exempt;
        is_nowhere.then_some(Decision::Denied { by: None })
    }
}

/// Decides whether an actor may perform an action on one object.
pub(crate) fn decide(
    policy: &Policy,
    actor: &Actor,
    action: Action,
    object: &Object<'_>,
) -> Decision {
    Permits::of(policy, actor, action).decide(object)
}

/// Decides about an object that has several roles: each of them must be allowed. Without roles, the
/// object is the cluster as a whole.
pub(crate) fn decide_all<'a>(
    permits: &Permits,
    objects: impl Iterator<Item = Object<'a>>,
) -> (Decision, Object<'a>) {
    let mut last = Object::CLUSTER;
    let mut is_empty = true;
    for object in objects {
        is_empty = false;
        last = object;
        let decision = permits.decide(&object);
        if !decision.is_allowed() {
            return (decision, object);
        }
    }
    match is_empty {
        true => (permits.decide(&last), last),
        false => (Decision::Allowed, last),
    }
}
