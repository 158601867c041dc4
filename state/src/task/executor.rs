//! Executors: programs of a framework that run its tasks, many in one container.

use std::collections::BTreeMap;

use super::{CommandSpec, Container, TaskSpec, Uri};
use crate::codec::canonical::CanonicalWriter;
use crate::codec::stored::stored;
use crate::ids::TaskId;
use crate::resources::{Resource, Resources};

/// A program that runs tasks in place of the agent. Tasks of one framework that name the same id on
/// the same agent share one executor, and all of them must describe it alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutorSpec {
    /// The id within the framework, with the syntax of task ids.
    pub executor: TaskId,
    /// The executor's own resources, counted once on its agent while it has a task that has not
    /// ended. Never empty.
    pub resources: Resources,
    /// The command to run.
    pub run: CommandSpec,
    /// The container of the executor.
    pub container: Container,
    /// The whole environment, in addition to the variables that the agent sets.
    pub environment: BTreeMap<String, String>,
    /// The user; empty means the agent's default.
    pub user: String,
    /// The files that are fetched before its start.
    pub uris: Vec<Uri>,
    /// The milliseconds between the request to end and TERM, and between TERM and KILL.
    pub grace_ms: u64,
}

impl ExecutorSpec {
    /// Returns the executor as a task with a container, by whose rules it is run and validated.
    #[must_use]
    pub fn as_task(&self) -> TaskSpec {
        TaskSpec {
            resources: self.resources.clone(),
            container: self.container.clone(),
            environment: self.environment.clone(),
            user: self.user.clone(),
            uris: self.uris.clone(),
            grace_ms: self.grace_ms,
            ..TaskSpec::new(self.executor.clone(), self.run.clone())
        }
    }
}

// Fields that the description of a task has too have the same numbers as there.
stored!(message ExecutorSpec {
    1 executor: Text or "task id",
    3 resources: Part,
    4 | 5 | 14 run: OneOf or "command to run",
    6 environment: TextMap,
    7 user: Text,
    8 uris: PartList,
    10 grace_ms: Number,
    15 container: PartOrDefault,
});

impl ExecutorSpec {
    /// Appends the fields that the fingerprint of a request covers. The numbers belong to the
    /// fingerprint, not to the wire format.
    pub(crate) fn fingerprint(&self, out: &mut CanonicalWriter) {
        let ExecutorSpec {
            executor,
            resources,
            run,
            container,
            environment,
            user,
            uris,
            grace_ms,
        } = self;
        out.text(1, executor.as_str());
        out.list(2, resources, |out, one: &Resource| one.fingerprint(out));
        out.part(3, |out| run.fingerprint(out));
        out.part(4, |out| container.fingerprint(out));
        out.texts(5, environment);
        out.text(6, user);
        out.list(7, uris, |out, one: &Uri| one.fingerprint(out));
        out.number(8, *grace_ms);
    }
}
