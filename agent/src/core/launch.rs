//! Launch orders, as the core works on them.

use std::sync::Arc;

use argosy_state::ids::{FrameworkId, TaskKey};
use argosy_state::task::{Code, CommandSpec, Explanation, TaskSpec};

/// Grace period of a task that sets none, in milliseconds. Mesos' default.
pub(crate) const DEFAULT_GRACE_MS: u64 = 3_000;

/// An order to launch a task.
#[derive(Debug, Clone, PartialEq)]
pub struct LaunchOrder {
    pub framework: FrameworkId,
    pub role: String,
    /// The name of the framework, for display.
    pub framework_name: String,
    /// Whether the task was killed before delivery.
    pub never_start: bool,
    pub spec: TaskSpec,
    /// The reason why the task cannot be started: a part of its description is invalid, and has its
    /// default in `spec`. Masters of this release send no such order.
    pub defect: Option<Explanation>,
    /// The form of the order in the journal.
    pub form: OrderForm,
}

/// The form of a launch order in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderForm {
    /// That in which masters of this release send it.
    Canonical,
    /// These bytes, in which it was received, without the limits of the task: the canonical form of
    /// the description would be another one.
    Verbatim(Arc<[u8]>),
    /// The id of the task, its resources and its place in a group. See `space`.
    Stripped,
}

impl LaunchOrder {
    /// Returns the name of the task.
    #[must_use]
    pub fn key(&self) -> TaskKey {
        TaskKey {
            framework: self.framework,
            task: self.spec.task.clone(),
        }
    }

    /// Returns whether files or an image must be fetched before the start.
    pub(super) fn needs_fetch(&self) -> bool {
        !self.spec.uris.is_empty() || !self.spec.container.image.is_empty()
    }

    /// Removes the parts that only the start of a task needs. The rest is small and names the task.
    /// It cannot be started without a command.
    #[must_use]
    pub(crate) fn stripped(self) -> Self {
        let TaskSpec {
            task,
            resources,
            group,
            ..
        } = self.spec;
        Self {
            spec: TaskSpec {
                resources,
                group,
                grace_ms: DEFAULT_GRACE_MS,
                ..TaskSpec::new(task, CommandSpec::Image)
            },
            defect: Some(Explanation::of(Code::CommandMissing, &[])),
            form: OrderForm::Stripped,
            ..self
        }
    }
}
