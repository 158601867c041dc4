//! The parts of the records that `argosy top` shows. Text is formatted when a row is drawn.

use argosy_proto::v1;

use super::sums::Amounts;
use crate::output::framework_state;

/// A live task.
#[derive(Debug)]
pub(super) struct TaskRow {
    pub(super) id: String,
    pub(super) framework: String,
    pub(super) agent: String,
    pub(super) role: String,
    pub(super) state: v1::TaskState,
    pub(super) healthy: Option<bool>,
    pub(super) ready: Option<bool>,
    pub(super) stopped: bool,
    pub(super) amounts: Amounts,
    /// Wall time of its newest update.
    pub(super) changed_ms: i64,
    pub(super) executor: Option<ExecutorRow>,
}

/// The executor of a task, whose resources count once for all its tasks on an agent.
#[derive(Debug)]
pub(super) struct ExecutorRow {
    pub(super) id: String,
    pub(super) amounts: Amounts,
}

impl From<v1::Task> for TaskRow {
    fn from(task: v1::Task) -> Self {
        let state = task.state();
        let latest = task.latest.unwrap_or_default();
        let spec = task.spec.unwrap_or_default();
        Self {
            id: task.task_id,
            framework: task.framework_id,
            agent: task.agent_id,
            role: task.role,
            state,
            healthy: latest.healthy,
            ready: latest.ready,
            stopped: latest.stopped,
            amounts: Amounts::of(&spec.resources),
            changed_ms: latest.wall_ms,
            executor: spec.executor.map(|executor| ExecutorRow {
                amounts: Amounts::of(&executor.resources),
                id: executor.executor_id,
            }),
        }
    }
}

/// An agent that is not gone.
#[derive(Debug)]
pub(super) struct AgentRow {
    pub(super) id: String,
    pub(super) host: String,
    pub(super) mode: v1::AgentMode,
    pub(super) total: Amounts,
}

impl From<v1::Agent> for AgentRow {
    fn from(agent: v1::Agent) -> Self {
        let mode = agent.mode();
        let info = agent.info.unwrap_or_default();
        Self {
            id: agent.agent_id,
            host: info.host_name,
            mode,
            total: Amounts::of(&info.resources),
        }
    }
}

/// A framework that is not removed.
#[derive(Debug)]
pub(super) struct FrameworkRow {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) roles: Vec<String>,
    pub(super) suppressed: Vec<String>,
    pub(super) state: &'static str,
    pub(super) connected: bool,
}

impl From<v1::Framework> for FrameworkRow {
    fn from(framework: v1::Framework) -> Self {
        let state = framework_state(&framework);
        let info = framework.info.unwrap_or_default();
        Self {
            id: framework.framework_id,
            name: info.name,
            roles: info.roles,
            suppressed: framework.suppressed_roles,
            state,
            connected: framework.connected,
        }
    }
}

impl FrameworkRow {
    /// Returns whether it takes offers, in words; `-` while it is not connected.
    pub(super) fn demand(&self) -> &'static str {
        let waiting = self.roles.iter().filter(|role| self.waits_in(role)).count();
        match (self.connected, waiting) {
            (false, _) => "-",
            (true, 0) => "suppressed",
            (true, count) if count < self.roles.len() => "some roles",
            (true, _) => "offers",
        }
    }

    /// Returns whether it takes offers in this role.
    pub(super) fn waits_in(&self, role: &str) -> bool {
        self.connected && !self.suppressed.iter().any(|suppressed| suppressed == role)
    }
}

/// A role: used, with a weight, or of a framework.
#[derive(Debug, Default)]
pub(super) struct RoleRow {
    pub(super) name: String,
    pub(super) weight_milli: u64,
    pub(super) frameworks: u32,
    /// Frameworks that take offers.
    pub(super) waiting: u32,
    pub(super) tasks: u32,
    /// Used in the role and in those below it.
    pub(super) amounts: Amounts,
}
