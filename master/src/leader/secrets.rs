//! Which secrets an agent gets: those of a task that it was ordered to launch, and no others.

use std::collections::BTreeSet;
use std::sync::Arc;

use argosy_state::Registry;
use argosy_state::actor::{Actor, PrincipalKind};
use argosy_state::ids::{OrderIndex, TaskKey};
use argosy_state::secret::{SealedSecret, SecretName};

use super::Leader;
use crate::links::LinkId;
use crate::secret_keys::SecretKeys;

/// A secret that a task uses, and its sealed value, if there is one.
pub(crate) type GrantedSecret = (SecretName, Option<SealedSecret>);

/// The reason for which an agent gets no secrets of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SecretsRefusal {
    #[error(
        "the agent's connection is not authenticated as one of an agent, so nothing shows who would read the values: start masters and agents with --tls required"
    )]
    Unauthenticated,
    #[error("the agent is not registered on this stream")]
    NotRegistered,
    #[error("the task has no launch order for this agent")]
    NotOrdered,
}

impl Leader {
    /// Returns a leader with a file of keys.
    pub(crate) fn with_secret_keys(self, secret_keys: Option<Arc<SecretKeys>>) -> Self {
        Self {
            secret_keys,
            ..self
        }
    }

    /// Returns the secrets of the registry that a task uses, each once, for the agent of a stream.
    pub(crate) fn secrets_for(
        &self,
        registry: &Registry,
        link: LinkId,
        (key, order): (&TaskKey, OrderIndex),
    ) -> Result<Vec<GrantedSecret>, SecretsRefusal> {
        let state = self.agent_links.get(&link);
        let (actor, agent) = state
            .and_then(|state| Some((&state.actor, state.agent?)))
            .filter(|(_, agent)| self.linked_agents.get(agent) == Some(&link))
            .ok_or(SecretsRefusal::NotRegistered)?;
        if !is_agent(actor) {
            return Err(SecretsRefusal::Unauthenticated);
        }
        let task = registry
            .task(key)
            .filter(|task| task.agent == agent && task.order == order && !task.is_terminal())
            .ok_or(SecretsRefusal::NotOrdered)?;
        let names: BTreeSet<_> = task.spec.registry_secrets().collect();
        let names = names.into_iter();
        Ok(names
            .map(|name| {
                let secret = registry.secret(&name).filter(|_| name.is_for(&task.role));
                let secret = secret.cloned();
                (name, secret)
            })
            .collect())
    }
}

fn is_agent(actor: &Actor) -> bool {
    match actor {
        Actor::Principal(principal) => principal.kind == PrincipalKind::Agent,
        Actor::Unauthenticated | Actor::Cluster => false,
    }
}
