//! Secrets of the registry for tasks that are about to start.
//!
//! The leader is asked for them when a start needs them, and again on each new link until it has
//! answered. No value is kept here, or in the journal.

use argosy_state::ids::OrderIndex;

use super::Core;
use super::effect::ContainerEffect;
use super::facts::Instance;
use super::lifecycle::InstancePhase;
use super::messages::{AgentMessage, TaskSecrets};

impl Core {
    /// Requests the secrets of a task that is being started.
    pub(super) fn secrets_wanted(&mut self, instance: Instance) {
        // A start that ends without them is cancelled.
        if self.phase(instance) != Some(InstancePhase::Starting) {
            return;
        }
        self.wanted_secrets.insert(instance);
        if let Some(link) = self.link.registered() {
            self.request_secrets(link, instance);
        }
    }

    /// Repeats the requests that no earlier link has answered.
    pub(super) fn repeat_secret_requests(&mut self, link: u64) {
        for instance in self.wanted_secrets.clone() {
            self.request_secrets(link, instance);
        }
    }

    fn request_secrets(&mut self, link: u64, instance: Instance) {
        if let Some(task) = self.facts.tasks.get(&instance) {
            let (key, order) = (task.key.clone(), instance.order);
            self.send_message(link, AgentMessage::SecretsWanted { key, order });
        }
    }

    /// Passes secrets to the start that waits for them. An answer to an earlier request is dropped.
    pub(super) fn secrets_arrived(&mut self, secrets: TaskSecrets) {
        let TaskSecrets { key, order, answer } = secrets;
        let Some(instance) = self.instance_of(order) else {
            return;
        };
        let task = self.facts.tasks.get(&instance).map(|task| &task.key);
        if task == key.as_ref() && self.wanted_secrets.remove(&instance) {
            let answer = Box::new(answer);
            self.effects
                .push(ContainerEffect::DeliverSecrets { instance, answer });
        }
    }

    fn instance_of(&self, order: OrderIndex) -> Option<Instance> {
        let agent = self.facts.identity.agent?;
        Some(Instance { agent, order })
    }

    /// Forgets the request of a start that has ended.
    pub(super) fn forget_secrets(&mut self, instance: Instance) {
        self.wanted_secrets.remove(&instance);
    }
}
