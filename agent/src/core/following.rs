//! An agent whose cluster is lost follows one that was restored from it, once its operator has
//! confirmed that. Tasks that the restored registry lacks are quarantined: they keep running, and
//! only the operator ends them.

use argosy_state::ids::{ClusterId, Epoch};

use super::effect::LinkEffect;
use super::facts::{AgentIdentity, Instance, JournalRecord};
use super::{Core, SyncMode};

/// The confirmation of an operator that this agent follows a restored cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adoption {
    /// The restored cluster.
    pub cluster: ClusterId,
    /// Whether tasks that its registry lacks are ended, instead of quarantined.
    pub ends_quarantine: bool,
}

impl Core {
    /// Returns the cluster that this agent may follow, unless it belongs to it already.
    pub(super) fn confirmed_successor(&self) -> Option<ClusterId> {
        let adoption = self.config.adoption?;
        let own = self.facts.identity.cluster?;
        (own != adoption.cluster).then_some(adoption.cluster)
    }

    /// Follows a restored cluster, whose epochs start again. This is on disk before the message
    /// that caused it has any other effect. From here on every task counts as one of the former
    /// cluster, until a master commits an update of it.
    pub(super) fn follow(&mut self, cluster: ClusterId, epoch: Epoch) {
        let identity = AgentIdentity {
            cluster: Some(cluster),
            epoch,
            ..self.facts.identity.clone()
        };
        self.persist(JournalRecord::Identity(identity), SyncMode::Awaited);
        // The restored registry may not have what the former masters had committed.
        self.restate();
    }

    /// Keeps a task that the registry lacks, if it is of the former cluster and runs. Returns
    /// whether it is kept.
    pub(super) fn quarantine(&mut self, instance: Instance) -> bool {
        let Some(task) = self.facts.tasks.get(&instance) else {
            return false;
        };
        let state = self.instances.get(&instance);
        let runs = state.is_some_and(|state| !state.has_ended());
        let adoption = self.config.adoption;
        if !task.former || !runs || adoption.is_some_and(|adoption| adoption.ends_quarantine) {
            self.quarantined.remove(&instance);
            return false;
        }
        if self.quarantined.insert(instance) {
            let task = task.key.clone();
            self.effects.push(LinkEffect::Quarantined(task));
        }
        true
    }
}
