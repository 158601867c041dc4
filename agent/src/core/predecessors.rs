//! Containers whose removal a start waits for.
//!
//! Masters offer the resources of a task once its end is reported, which is before its container is
//! removed. A host port or an exclusive processor has one holder, so the start of its next user
//! waits for that removal.

use argosy_state::resources::{Range, Value};
use argosy_state::task::TaskSpec;

use super::Core;
use super::facts::{ContainerName, Instance};
use super::launch::{LaunchOrder, OrderForm};

impl Core {
    /// Returns the containers and groups that end or are being removed, and may hold host ports or
    /// processors of this task, of its group, or of this executor.
    pub(super) fn predecessors(&self, instance: Instance) -> Vec<ContainerName> {
        let own: Vec<&LaunchOrder> = match self.group(instance) {
            Some(group) => group
                .members()
                .flat_map(|own| self.orders_of(own))
                .collect(),
            None => self.orders_of(instance).collect(),
        };
        let wanted: Vec<Range> = own.iter().flat_map(|order| ports(&order.spec)).collect();
        let is_exclusive = own.iter().any(|order| has_exclusive_cpus(&order.spec));
        if wanted.is_empty() && !is_exclusive {
            return Vec::new();
        }
        let holds_ports = |former: Instance| {
            let mut orders = self.orders_of(former);
            orders.any(|order| ports(&order.spec).any(|port| overlap(&wanted, port)))
        };
        let may_hold = |former: Instance| {
            let mut orders = self.orders_of(former);
            holds_ports(former) || (is_exclusive && orders.any(may_have_exclusive_cpus))
        };
        let mut names: Vec<ContainerName> = Vec::new();
        for (former, state) in &self.instances {
            if !state.has_ended() {
                continue;
            }
            if !state.is_cleaned_up() && may_hold(*former) {
                names.extend(self.facts.container(*former));
            }
            if holds_ports(*former) {
                names.extend(self.ended_group(*former));
            }
        }
        for executor in self.executors.without_tasks() {
            if executor != instance && may_hold(executor) {
                names.extend(self.facts.executor_container(executor));
            }
        }
        // The network of a group is released after its containers are removed.
        let groups = self.groups.releasing();
        let groups = groups.filter(|(_, ports)| ports.iter().any(|port| overlap(&wanted, *port)));
        names.extend(groups.map(|(name, _)| name));
        names
    }

    /// Returns the orders of the task and of the executor with this instance.
    fn orders_of(&self, instance: Instance) -> impl Iterator<Item = &LaunchOrder> {
        let task = self.facts.tasks.get(&instance).map(|task| &task.launch);
        let executor = self.facts.executors.get(&instance);
        let executor = executor.map(|executor| &executor.launch);
        task.into_iter().chain(executor).map(|order| &**order)
    }
}

/// Whether its container may have exclusive processors: a stripped order lacks that setting.
fn may_have_exclusive_cpus(order: &LaunchOrder) -> bool {
    let has_one = order.spec.resources.scalar_milli("cpus") >= 1_000;
    has_exclusive_cpus(&order.spec) || (order.form == OrderForm::Stripped && has_one)
}

fn has_exclusive_cpus(spec: &TaskSpec) -> bool {
    let limits = spec.limits.as_ref();
    limits.is_some_and(|limits| limits.exclusive_cpus)
}

/// Returns the host ports among the resources of a task or executor.
pub(super) fn ports(spec: &TaskSpec) -> impl Iterator<Item = Range> + '_ {
    let named = spec
        .resources
        .iter()
        .filter(|part| &*part.identity.name == "ports");
    named
        .flat_map(|part| match &part.value {
            Value::Ranges(ranges) => ranges.as_slice(),
            Value::Scalar(_) | Value::Set(_) => &[],
        })
        .copied()
}

fn overlap(ports: &[Range], other: Range) -> bool {
    let mut own = ports.iter();
    own.any(|own| own.begin <= other.end && other.begin <= own.end)
}
