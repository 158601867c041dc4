//! Executors: programs of a framework that run its tasks, many in one container.

use std::collections::BTreeMap;

use super::{Container, Run, TaskSpec, Uri};
use crate::encode::stored::stored;
use crate::fingerprint::Writer;
use crate::ids::TaskId;
use crate::resources::Resources;

/// What runs a task in place of its agent. Tasks of one framework that name the same id on the same agent share one
/// executor; all of them must describe it alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutorSpec {
    /// Its id within the framework; written as task ids are.
    pub executor: TaskId,
    /// What it uses itself, counted once on its agent for as long as it has a task that has not ended. Never empty.
    pub resources: Resources,
    /// What to run.
    pub run: Run,
    /// What its container is made of.
    pub container: Container,
    /// Its whole environment, but for what the agent sets.
    pub environment: BTreeMap<String, String>,
    /// Empty means the agent's default.
    pub user: String,
    /// Brought before its start.
    pub uris: Vec<Uri>,
    /// Milliseconds from the wish that it ends to TERM, and from TERM to KILL.
    pub grace_ms: u64,
}

impl ExecutorSpec {
    /// The same as a task with a container of its own: what an agent makes of it, and what rules it is judged by.
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

// The fields that a task's description has, too, have the numbers of that.
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
    /// Appends what the fingerprint of a request covers. The field numbers are its own.
    pub(crate) fn fingerprint(&self, out: &mut Writer) {
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
        out.resources(2, resources);
        out.part(3, |out| run.fingerprint(out));
        out.part(4, |out| container.fingerprint(out));
        out.texts(5, environment);
        out.text(6, user);
        out.list(7, uris, |out, one: &Uri| one.fingerprint(out));
        out.number(8, *grace_ms);
    }
}
