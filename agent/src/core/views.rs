//! The core's state of tasks and containers, as the agent's API displays it.

use argosy_state::ids::TaskKey;

use super::facts::ContainerName;

/// The core's state of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TaskView {
    /// The name of the directory with its sandboxes: its own, or its executor's.
    pub(crate) sandbox_key: TaskKey,
    /// Its container; `None` if it is not held.
    pub(crate) container: Option<ContainerName>,
    /// Whether no more output will follow.
    pub(crate) ended: bool,
    /// The name of its phase, one of [`PHASES`](super::PHASES); `None` if it is not held.
    pub(crate) phase: Option<&'static str>,
}

/// One container, for display.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct ContainerView {
    pub(crate) container: String,
    pub(crate) framework_id: String,
    pub(crate) task_id: String,
    pub(crate) order: u64,
    pub(crate) state: &'static str,
    pub(crate) pid: Option<i32>,
    pub(crate) held: bool,
    /// Whether the registry of a restored cluster lacks the task. It runs until the operator ends
    /// it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) quarantined: bool,
    /// The last reported results of its checks; empty without checks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) healthy: Option<ReportedCheck>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ready: Option<ReportedCheck>,
    /// The tasks that it runs, if it is an executor's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) tasks: Vec<String>,
    #[serde(skip)]
    pub(crate) name: ContainerName,
    /// The name of the shared resources of its group.
    #[serde(skip)]
    pub(crate) group: Option<ContainerName>,
}

/// The last reported result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub(crate) struct ReportedCheck {
    /// Whether the check passed.
    passed: bool,
    /// The time since which this holds, in milliseconds since 1970; `None` if an older release has
    /// reported it.
    since_ms: Option<i64>,
}

impl ReportedCheck {
    /// Returns `None` if nothing is known.
    pub(super) fn of(passed: Option<bool>, since_ms: Option<i64>) -> Option<Self> {
        passed.map(|passed| Self { passed, since_ms })
    }
}
