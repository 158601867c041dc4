//! Access to the task that a request to an agent names, by the rules and tasks that this master
//! has: such a request depends on no leader.

use argosy_proto::ticket::{TicketScope, TicketVerb};
use argosy_state::access::{Action, Policy};
use argosy_state::actor::Actor;
use argosy_state::ids::{AgentId, FrameworkId, TaskId, TaskKey};
use argosy_state::registry::Registry;
use axum::extract::Query;
use tonic::Status;

use super::denied;
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
    decided.map_err(|denial| denied(&denial))
}

/// A request to an agent: the task that it names, if it names one, and the actions of which one is
/// enough.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AgentRequest {
    task: Option<TaskKey>,
    actions: &'static [Action],
}

impl AgentRequest {
    /// Returns the request with this query, which has the parameter `task`, as `FRAMEWORK/TASK`.
    pub(crate) fn of_task(query: &str, actions: &'static [Action]) -> Self {
        let task = parameter(query, "task").and_then(|task| {
            let (framework, task) = task.split_once('/')?;
            key(framework, task)
        });
        Self { task, actions }
    }

    /// Returns the request with this query, which has the parameter `path`, as
    /// `tasks/FRAMEWORK/TASK/FILE`. Other paths name no task.
    pub(crate) fn of_file(query: &str) -> Self {
        let path = parameter(query, "path").unwrap_or_default();
        let parts: Vec<&str> = path.split('/').collect();
        let is_plain = |part: &&str| !["", ".", ".."].contains(part);
        let (task, rest) = match parts.as_slice() {
            ["tasks", framework, task, rest @ ..] if rest.iter().all(is_plain) => {
                (key(framework, task), rest)
            }
            _ => (None, &[][..]),
        };
        let actions: &[Action] = match rest {
            [file] if task.is_some() && is_output(file) => &[Action::ViewLogs, Action::ReadSandbox],
            _ => &[Action::ReadSandbox],
        };
        Self { task, actions }
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
        let task = match scope {
            TicketScope::Task(task) | TicketScope::Path(task, _) => Some(task.clone()),
            TicketScope::Agent => None,
        };
        Self { task, actions }
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
        let objects = match &self.task {
            Some(key) => Object::of_key(registry, key, agent),
            None => vec![agent.map_or(Object::CLUSTER, Object::agent)],
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

fn key(framework: &str, task: &str) -> Option<TaskKey> {
    let framework: FrameworkId = framework.parse().ok()?;
    let task = TaskId::new(task).ok()?;
    Some(TaskKey { framework, task })
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
mod tests {
    use super::*;

    const LOGS: &[Action] = &[Action::ViewLogs, Action::ReadSandbox];

    fn file(query: &str) -> (Option<String>, &'static [Action]) {
        let request = AgentRequest::of_file(query);
        let task = request.task.map(|task| task.to_string());
        (task, request.actions)
    }

    #[test]
    fn a_path_names_its_task_and_whether_it_is_output() {
        let web = Some("framework-1/web".to_owned());
        let path = |path: &str| file(&format!("path={path}&offset=0"));
        for output in ["stdout", "stderr", "stdout.1", "stderr.12"] {
            let found = path(&format!("tasks/framework-1/web/{output}"));
            assert_eq!(found, (web.clone(), LOGS), "{output}");
        }
        for other in [
            "",
            "/a",
            "/stdoutx",
            "/stdout.old",
            "/a/stdout",
            "/stdout/a",
        ] {
            let (task, actions) = path(&format!("tasks/framework-1/web{other}"));
            assert_eq!((task, actions), (web.clone(), &LOGS[1..]), "{other}");
        }
        assert_eq!(path("tasks%2Fframework-1%2Fweb%2Fstdout"), (web, LOGS));
    }

    #[test]
    fn a_path_that_could_mean_another_task_names_none() {
        for query in [
            "",
            "path=",
            "path=tasks",
            "path=tasks/framework-1",
            "path=tasks/framework-1/web/../api/stdout",
            "path=tasks/framework-1/web/./stdout",
            "path=tasks/framework-1/web//stdout",
            "path=tasks//framework-1/web/stdout",
            "path=/tasks/framework-1/web/stdout",
            "path=tasks/framework-x/web/stdout",
            "path=tasks/framework-1/web/stdout&path=tasks/framework-1/api/stdout",
        ] {
            assert_eq!(file(query), (None, &LOGS[1..]), "{query}");
        }
        let two = "task=framework-1/web&task=framework-1/api";
        let request = AgentRequest::of_task(two, &[Action::Exec]);
        assert_eq!(request.task, None);
        let one = AgentRequest::of_task("argument=sh&task=framework-1/web", &[Action::Exec]);
        assert_eq!(one.task.unwrap().to_string(), "framework-1/web");
    }
}
