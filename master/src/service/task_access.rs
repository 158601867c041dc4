//! Access to the task that a request to an agent names, by the rules and tasks that this master
//! has: such a request depends on no leader.

use argosy_proto::file_path::{FileTarget, task_key};
use argosy_proto::ticket::{TicketScope, TicketVerb};
use argosy_state::access::{Action, Policy};
use argosy_state::actor::Actor;
use argosy_state::ids::{AgentId, FrameworkId, TaskKey};
use argosy_state::registry::Registry;
use axum::extract::Query;
use tonic::Status;

use super::{denied, refused};
use crate::access::{Denial, Object, Reader};
use crate::owner_handle::OwnerHandle;

/// Decides whether a caller may make a request to an agent.
pub(crate) async fn check(
    owner: &OwnerHandle,
    actor: Actor,
    agent: &str,
    wanted: AgentRequest,
) -> Result<(), Status> {
    let reader = owner.reader(actor);
    if reader == Reader::Unrestricted {
        return Ok(());
    }
    let index = *owner.applied.borrow();
    let view = owner.view(index).await?;
    let policy = &view.registry.access().policy;
    let agent = agent.parse().ok();
    let decided = wanted.decide(&reader, policy, &view.registry, agent);
    decided.map_err(|denial| denied(&denial))?;
    // The rules decided about a task of this agent.
    match (&wanted.named, agent) {
        (Named::Task(task), Some(agent)) if is_elsewhere(&view.registry, task, agent) => {
            Err(elsewhere(task, agent))
        }
        _ => Ok(()),
    }
}

/// Returns whether a known task is at another agent. A sandbox may be kept longer than the record.
pub(super) fn is_elsewhere(registry: &Registry, key: &TaskKey, agent: AgentId) -> bool {
    let ended = || registry.finished_task(key).map(|ended| &ended.task);
    let known = registry.task(key).or_else(ended);
    known.is_some_and(|task| task.agent != agent)
}

/// Returns the refusal of a request for a task at another agent.
pub(super) fn elsewhere(task: &TaskKey, agent: AgentId) -> Status {
    let text = format!("the task {task} is not at {agent}: name the agent of the task");
    refused("unknown-task", &text)
}

/// A request to an agent: what it names, and the actions of which one is enough.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AgentRequest {
    named: Named,
    actions: &'static [Action],
}

/// What a request to an agent names.
#[derive(Debug, PartialEq, Eq)]
enum Named {
    Task(TaskKey),
    /// Any task of a framework: the list of its tasks.
    AnyOf(FrameworkId),
    /// Any task of the agent: a list of frameworks, or a text that the agent refuses.
    Any,
    /// The agent itself, and no task.
    Agent,
}

impl AgentRequest {
    /// Returns the request with this query, which has the parameter `task`, as `FRAMEWORK/TASK`.
    pub(crate) fn of_task(query: &str, actions: &'static [Action]) -> Self {
        let task = parameter(query, "task").and_then(|task| {
            let (framework, task) = task.split_once('/')?;
            task_key(framework, task)
        });
        let named = task.map_or(Named::Any, Named::Task);
        Self { named, actions }
    }

    /// Returns the request with this query, which has the parameter `path`, as
    /// `tasks/FRAMEWORK/TASK/FILE`. The agent parses it by the same function.
    pub(crate) fn of_file(query: &str) -> Self {
        let path = parameter(query, "path").unwrap_or_default();
        let mut actions: &[Action] = &[Action::ReadSandbox];
        let named = match FileTarget::parse(&path) {
            Ok(FileTarget::Sandbox(task, parts)) => {
                if let [file] = parts.as_slice()
                    && is_output(file)
                {
                    actions = &[Action::ViewLogs, Action::ReadSandbox];
                }
                Named::Task(task)
            }
            Ok(FileTarget::Tasks(framework)) => framework.parse().map_or(Named::Any, Named::AnyOf),
            Ok(FileTarget::Frameworks) | Err(_) => Named::Any,
        };
        Self { named, actions }
    }

    /// Returns what a ticket permits: requests of a kind to a task, or to a path of its sandbox.
    pub(super) fn of_ticket(verb: TicketVerb, scope: &TicketScope) -> Self {
        let actions: &[Action] = match (verb, scope) {
            (TicketVerb::ReadFiles, TicketScope::Path(_, path)) if is_output(path.as_str()) => {
                &[Action::ViewLogs, Action::ReadSandbox]
            }
            (TicketVerb::ReadFiles, _) => &[Action::ReadSandbox],
            (TicketVerb::Exec, _) => &[Action::Exec],
            (TicketVerb::Attach, _) => &[Action::Attach],
            (TicketVerb::Metrics, _) => &[Action::ViewMetrics],
        };
        let named = match scope {
            TicketScope::Task(task) | TicketScope::Path(task, _) => Named::Task(task.clone()),
            TicketScope::Agent => Named::Agent,
        };
        Self { named, actions }
    }

    /// Returns the task that it names, for a fuzz target.
    #[cfg(feature = "fuzzing")]
    pub(crate) fn task(&self) -> Option<&TaskKey> {
        match &self.named {
            Named::Task(task) => Some(task),
            Named::AnyOf(_) | Named::Any | Named::Agent => None,
        }
    }

    fn decide(
        &self,
        reader: &Reader,
        policy: &Policy,
        registry: &Registry,
        agent: Option<AgentId>,
    ) -> Result<(), Denial> {
        let mut proof = Ok(());
        for action in self.actions {
            proof = reader.check_proof(policy, *action);
            if proof.is_ok() {
                break;
            }
        }
        proof?;
        let objects = match &self.named {
            Named::Task(key) => Object::of_key(registry, key, agent),
            Named::AnyOf(framework) => Object::any_task_of(registry, *framework, agent),
            Named::Any => vec![Object::any_task(None, agent)],
            Named::Agent => vec![agent.map_or(Object::CLUSTER, Object::agent)],
        };
        let mut last = Ok(());
        for action in self.actions {
            last = reader.check_all(policy, *action, &objects);
            if last.is_ok() {
                break;
            }
        }
        last
    }
}

/// Returns the only value of a parameter.
fn parameter(query: &str, name: &str) -> Option<String> {
    let uri = format!("/?{query}").parse().ok()?;
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(&uri).ok()?;
    let mut values = pairs.into_iter().filter(|(key, _)| key == name);
    let (_, value) = values.next()?;
    values.next().is_none().then_some(value)
}

/// Returns whether a file in a sandbox has output of the task: `stdout`, or an older part of it.
fn is_output(file: &str) -> bool {
    let rest = file
        .strip_prefix("stdout")
        .or_else(|| file.strip_prefix("stderr"));
    rest.is_some_and(|rest| {
        let number = rest.strip_prefix('.');
        rest.is_empty() || number.is_some_and(|number| number.parse::<u32>().is_ok())
    })
}

#[cfg(test)]
mod tests;
