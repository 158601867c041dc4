//! A cache of the rights of callers under one policy. A policy may have thousands of rules, and a
//! leader decides on the thread of the registry's owner.

use std::collections::HashMap;
use std::sync::Arc;

use argosy_state::access::{Action, Policy};
use argosy_state::actor::Actor;
use argosy_state::planted_bug;

use super::decision::{Decision, Permits};
use super::denial::Denial;
use super::object::Object;

/// Maximum number of cached rights. When it is reached, the cache is cleared.
const ENTRIES: usize = 4_096;

/// A cache of the rights of callers under one policy.
#[derive(Debug, Default)]
pub(crate) struct PermitCache {
    policy: Arc<Policy>,
    known: HashMap<Actor, HashMap<Action, Arc<Permits>>>,
    entries: usize,
}

impl PermitCache {
    /// Sets the policy. Another policy clears the cache.
    pub(crate) fn follow(&mut self, policy: &Arc<Policy>) {
        planted_bug!(StaleRules if self.entries % 2 == 1 => return);
        if !Arc::ptr_eq(&self.policy, policy) {
            self.policy = Arc::clone(policy);
            self.clear();
        }
    }

    fn clear(&mut self) {
        self.known.clear();
        self.entries = 0;
    }

    /// Returns the objects on which an actor may perform an action.
    pub(crate) fn permits(&mut self, actor: &Actor, action: Action) -> Arc<Permits> {
        let known = self.known.get(actor).and_then(|of| of.get(&action));
        if let Some(known) = known {
            return Arc::clone(known);
        }
        if self.entries >= ENTRIES {
            self.clear();
        }
        self.entries += 1;
        let permits = Arc::new(Permits::of(&self.policy, actor, action));
        let of = self.known.entry(actor.clone()).or_default();
        of.insert(action, Arc::clone(&permits));
        permits
    }

    /// Returns whether an actor may perform an action on one object.
    pub(crate) fn may(&mut self, actor: &Actor, action: Action, object: &Object<'_>) -> bool {
        self.permits(actor, action).decide(object).is_allowed()
    }

    /// Returns the denial if the decision about an actor denies.
    pub(crate) fn denial(
        &mut self,
        decision: Decision,
        actor: &Actor,
        action: Action,
        object: &Object<'_>,
    ) -> Result<(), Denial> {
        Denial::of(decision, actor, action, object, |action, object| {
            self.may(actor, action, object)
        })
    }

    /// Checks whether an actor may perform an action on one object.
    pub(crate) fn check(
        &mut self,
        actor: &Actor,
        action: Action,
        object: &Object<'_>,
    ) -> Result<(), Denial> {
        let decision = self.permits(actor, action).decide(object);
        self.denial(decision, actor, action, object)
    }

    /// Denies an action to a caller without an identity that may perform it on no object, before
    /// any record is read.
    pub(crate) fn check_proof(&mut self, actor: &Actor, action: Action) -> Result<(), Denial> {
        match actor {
            Actor::Unauthenticated => {
                let denied = self.permits(actor, action).nowhere();
                denied.map_or(Ok(()), |denied| Denial::nowhere(actor, action, denied))
            }
            Actor::Cluster | Actor::Principal(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Arc<Policy> {
        Arc::new(text.parse().unwrap())
    }

    #[test]
    fn another_policy_is_in_force_at_once() {
        let mut cache = PermitCache::default();
        let bob: Actor = "operator/bob".parse().unwrap();
        let may = |cache: &mut PermitCache| {
            let permits = cache.permits(&bob, Action::Exec);
            permits.decide(&Object::CLUSTER).is_allowed()
        };
        cache.follow(&policy("allow operator/bob exec *"));
        assert!(may(&mut cache) && may(&mut cache));
        cache.follow(&policy("deny operator/bob exec *"));
        assert!(!may(&mut cache));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut cache = PermitCache::default();
        for number in 0..3 * ENTRIES {
            let actor = format!("framework/{number}").parse().unwrap();
            cache.permits(&actor, Action::Exec);
            let kept: usize = cache.known.values().map(HashMap::len).sum();
            assert!(kept == cache.entries && kept <= ENTRIES);
        }
    }
}
