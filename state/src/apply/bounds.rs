//! Bounds of the whole registry: rejections when a bound is reached, and evictions that free space.

use std::collections::BTreeSet;

use super::CommandContext;
use crate::Registry;
use crate::agent::{Agent, AgentInfo};
use crate::command::Rejection;
use crate::framework::{Framework, SchedulerConnection};
use crate::ids::{FrameworkId, TaskKey};
use crate::level::Level;
use crate::limits;
use crate::registry::usage;
use crate::resources::Value;
use crate::task::{TaskLimits, TaskSpec};

/// The bytes that the bounds leave for tasks.
#[derive(Debug, Clone, Copy)]
pub(super) struct TaskBytes {
    framework: u64,
    all: u64,
}

impl TaskBytes {
    /// Subtracts the cost of a new task.
    pub(super) fn charge(
        &mut self,
        framework: FrameworkId,
        spec: &TaskSpec,
    ) -> Result<(), Rejection> {
        self.take_bytes(framework, usage::of_spec(spec) + usage::TRANSITION_BYTES)
    }

    fn take_bytes(&mut self, framework: FrameworkId, bytes: u64) -> Result<(), Rejection> {
        let full = |whose: &str, most: u64| {
            Err(Rejection::Full(format!(
                "the tasks of {whose} may take {} MiB, and no {bytes} bytes of that are left: end tasks, acknowledge their ends, or bring data with uris",
                most >> 20
            )))
        };
        if self.framework < bytes {
            return full(&framework.to_string(), limits::TASK_BYTES_PER_FRAMEWORK);
        }
        if self.all < bytes {
            return full("all frameworks", limits::TASK_BYTES);
        }
        self.framework -= bytes;
        self.all -= bytes;
        Ok(())
    }
}

/// Returns the names of the resources that fair sharing counts.
fn countable(info: &AgentInfo) -> impl Iterator<Item = &str> {
    let resources = info.resources.iter();
    let resources = resources.filter(|resource| matches!(resource.value, Value::Scalar(_)));
    resources.map(|resource| &*resource.identity.name)
}

impl Registry {
    /// Returns whether the whole registry is bounded, as it is since level 3.
    pub(super) fn is_bounded(&self) -> bool {
        self.level() >= Level::RELEASE_0_2
    }

    pub(super) fn task_bytes_left(&self, framework: FrameworkId) -> TaskBytes {
        let of_framework = self.task_bytes_of(framework);
        TaskBytes {
            framework: limits::TASK_BYTES_PER_FRAMEWORK.saturating_sub(of_framework),
            all: limits::TASK_BYTES.saturating_sub(self.index.bytes.tasks),
        }
    }

    /// Checks whether the registry has space for new limits of a task. The former limits are kept
    /// until the agent has answered.
    pub(super) fn check_limits_bytes(
        &self,
        key: &TaskKey,
        new: &TaskLimits,
    ) -> Result<(), Rejection> {
        if !self.is_bounded() {
            return Ok(());
        }
        let mut left = self.task_bytes_left(key.framework);
        left.take_bytes(key.framework, usage::of_limits(new))
    }

    /// Validates a new framework, or a new description of one, against the bounds.
    pub(super) fn check_framework_bytes(&self, framework: &Framework) -> Result<(), Rejection> {
        if !self.is_bounded() {
            return Ok(());
        }
        let former = self.frameworks.get(&framework.id);
        if former.is_none() && self.frameworks.len() >= limits::FRAMEWORKS {
            return Err(Rejection::Full(format!(
                "there are {} frameworks, which is the most: tear down some that are not needed",
                limits::FRAMEWORKS
            )));
        }
        let labels = &framework.info.labels;
        let is_known = former.is_some_and(|former| former.info.labels == *labels);
        if labels.len() > limits::LABELS_PER_FRAMEWORK && !is_known {
            return Err(Rejection::Invalid {
                field: "info.labels".to_owned(),
                text: format!(
                    "{} of them; at most {}",
                    labels.len(),
                    limits::LABELS_PER_FRAMEWORK
                ),
            });
        }
        let present = usage::of_framework(framework);
        let former = former.map_or(0, usage::of_framework);
        let most = limits::FRAMEWORK_BYTES;
        if present > former && self.index.bytes.frameworks - former + present > most {
            return Err(Rejection::Full(format!(
                "the descriptions of frameworks take {} MiB, which is the most: give fewer labels, or tear down some",
                most >> 20
            )));
        }
        Ok(())
    }

    /// Validates a new agent, or a new description of one, against the bounds.
    pub(super) fn check_agent_bytes(&self, agent: &Agent) -> Result<(), Rejection> {
        if !self.is_bounded() {
            return Ok(());
        }
        let former = self.agents.get(&agent.id);
        if former.is_none() && self.agents.len() >= limits::AGENTS {
            return Err(Rejection::Full(format!(
                "there are {} agents, which is the most: declare lost ones gone",
                limits::AGENTS
            )));
        }
        let present = usage::of_agent(agent);
        let former = former.map_or(0, usage::of_agent);
        let most = limits::AGENT_BYTES;
        if present > former && self.index.bytes.agents - former + present > most {
            return Err(Rejection::Full(format!(
                "the descriptions of agents take {} MiB, which is the most: give fewer attributes",
                most >> 20
            )));
        }
        Ok(())
    }

    /// Validates the kinds of resources that an agent adds to those of `former`, its present
    /// description. Fair sharing counts each kind. An agent may return with the kinds that it had:
    /// others may have used up the bound while it was unreachable.
    pub(super) fn check_resource_kinds(
        &self,
        info: &AgentInfo,
        former: Option<&AgentInfo>,
    ) -> Result<(), Rejection> {
        if self.cluster.level < Level::RELEASE_0_2 {
            return Ok(());
        }
        let had =
            |name: &str| former.is_some_and(|former| countable(former).any(|kind| kind == name));
        if former.is_some() && countable(info).all(had) {
            return Ok(());
        }
        let known = self
            .index
            .total
            .iter()
            .map(|resource| &*resource.identity.name);
        let kinds: BTreeSet<&str> = known.chain(countable(info)).collect();
        if kinds.len() > limits::RESOURCE_KINDS {
            return Err(Rejection::Full(format!(
                "the agents would have {} kinds of countable resources; at most {}: use names that other agents use",
                kinds.len(),
                limits::RESOURCE_KINDS
            )));
        }
        Ok(())
    }

    /// Checks whether a principal may have one more framework, and removes one if necessary. A
    /// scheduler that crashes repeatedly and does not keep its id leaves a framework each time. The
    /// framework that has been disconnected longest and has no tasks is removed. A framework with
    /// tasks or a connection never is.
    pub(super) fn make_room_for_framework(
        &mut self,
        context: &mut CommandContext,
        principal: &str,
    ) -> Result<(), Rejection> {
        let all = self.index.principals.get(principal);
        let count = all.map_or(0, crate::collections::persistent::Set::len);
        if count < limits::FRAMEWORKS_PER_PRINCIPAL || !self.is_bounded() {
            return Ok(());
        }
        let idle = all.into_iter().flatten().filter_map(|id| {
            let SchedulerConnection::Disconnected { since } = self.frameworks.get(id)?.connection
            else {
                return None;
            };
            let has_tasks = !self.index.frameworks.get(id)?.tasks.is_empty();
            (!has_tasks).then_some((since, *id))
        });
        let Some((_, oldest)) = idle.min() else {
            return Err(Rejection::Full(format!(
                "{principal:?} has {count} frameworks, all of them connected or with tasks, which is the most: tear down some"
            )));
        };
        self.begin_removal(context, oldest);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
