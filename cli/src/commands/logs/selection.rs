//! The tasks whose output is shown, and the places of their output.

use argosy_proto::v1;
use tokio_util::sync::CancellationToken;

use crate::args::Logs;
use crate::exit::{Failure, FailureCode};
use crate::files::{FileLocation, executor_of};
use crate::operator::{
    ClusterClient, EndedObjects, is_terminal, of_framework, pick_task, tasks_of_group,
};
use crate::output::{group_of, natural_order, visible_line};

/// The output of a task, or of an executor and all its tasks.
pub(super) struct OutputSource {
    /// Text before each line; empty for a single source.
    pub(super) label: String,
    /// The first task whose output this is.
    pub(super) task: v1::Task,
    /// The ids of all of them.
    pub(super) task_ids: Vec<String>,
    /// Cancelled when all are known to have ended.
    pub(super) ended: CancellationToken,
}

impl OutputSource {
    /// Returns the name for messages.
    pub(super) fn shown(&self) -> String {
        format!("{}/{}", self.task.framework_id, self.task.task_id)
    }

    pub(super) fn location(&self, file: &str) -> FileLocation {
        FileLocation::of(&self.task, file)
    }

    /// Returns the name of the sandbox with the output.
    fn home(&self) -> &str {
        executor_of(&self.task).unwrap_or(&self.task.task_id)
    }
}

/// Returns the tasks that the user names, in the order in which their output is printed.
pub(super) async fn select(
    operator: &ClusterClient,
    arguments: &Logs,
) -> Result<Vec<v1::Task>, Failure> {
    if let Some(wanted) = &arguments.framework {
        return of_whole_framework(operator, wanted, arguments.all).await;
    }
    let wanted = arguments.task.as_deref().unwrap_or_default();
    let (framework_id, name) = operator.find_prefix(wanted).await?;
    // Most often a live task is named by its ids, which needs no list.
    if let Some(framework_id) = &framework_id
        && let Some(task) = operator.task(framework_id, name).await?
        && task.task_id == name
        && !is_terminal(task.state)
    {
        return Ok(vec![task]);
    }
    let filter = of_framework(framework_id.as_deref());
    let tasks = operator.tasks(&filter, EndedObjects::Included).await?.tasks;
    pick(tasks, name)
}

async fn of_whole_framework(
    operator: &ClusterClient,
    wanted: &str,
    all: bool,
) -> Result<Vec<v1::Task>, Failure> {
    let framework = operator.find_framework(wanted).await?;
    let id = framework.framework_id;
    let ended = EndedObjects::from_flag(all);
    let page = operator.tasks(&of_framework(Some(&id)), ended).await?;
    let mut tasks = page.tasks;
    tasks.sort_by(|left, right| natural_order(&left.task_id, &right.task_id));
    if tasks.is_empty() {
        let which = if all { "tasks" } else { "live tasks" };
        let failure = Failure::new(FailureCode::NotFound, format!("{id} has no {which}"));
        return Err(match all {
            true => failure,
            false => failure.advise("--all includes tasks that have ended"),
        });
    }
    Ok(tasks)
}

/// Returns the task of this name, or the tasks of the group of this name. A live task takes
/// precedence over a group, and a live group over a task that has ended.
fn pick(tasks: Vec<v1::Task>, name: &str) -> Result<Vec<v1::Task>, Failure> {
    let is_named = |task: &&v1::Task| task.task_id == name;
    let has_live_task = tasks
        .iter()
        .filter(is_named)
        .any(|task| !is_terminal(task.state));
    let has_task = tasks.iter().any(|task| task.task_id == name);
    let has_group = tasks
        .iter()
        .any(|task| group_of(task).is_some_and(|group| group.group_id == name));
    if has_group && !has_live_task {
        let (members, has_ended) = tasks_of_group(&tasks, name)?;
        if !(has_task && has_ended) {
            return Ok(members);
        }
    }
    let members = tasks_of_group(&tasks, name);
    match pick_task(tasks, name) {
        Err(failure) if failure.code == FailureCode::NotFound => {
            members.map(|(members, _)| members).or(Err(failure))
        }
        task => task.map(|task| vec![task]),
    }
}

/// Returns the sources of the tasks' output. Several tasks of one executor are one source, and so
/// are several tasks that had the same id: an agent serves the output of the last one.
pub(super) fn sources(tasks: Vec<v1::Task>) -> Vec<OutputSource> {
    let mut all: Vec<OutputSource> = Vec::new();
    for task in tasks {
        let source = OutputSource {
            label: String::new(),
            task_ids: vec![task.task_id.clone()],
            task,
            ended: CancellationToken::new(),
        };
        let same = |known: &&mut OutputSource| {
            known.home() == source.home()
                && known.task.framework_id == source.task.framework_id
                && known.task.agent_id == source.task.agent_id
        };
        match all.iter_mut().find(same) {
            Some(known) => known.task_ids.extend(source.task_ids),
            None => all.push(source),
        }
    }
    if all.len() > 1 {
        // Unlike the output, a name must not have an effect on the terminal.
        let names = all.iter().map(|source| visible_line(source.home()));
        let names: Vec<_> = names.collect();
        let width = names.iter().map(|name| name.chars().count()).max();
        let width = width.unwrap_or_default();
        for (source, name) in all.iter_mut().zip(names) {
            source.label = format!("{name:<width$} | ");
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(id: &str, group: &str, state: v1::TaskState) -> v1::Task {
        let group = Some(group).filter(|group| !group.is_empty());
        v1::Task {
            framework_id: "framework-1".to_owned(),
            task_id: id.to_owned(),
            agent_id: "agent-1".to_owned(),
            state: state.into(),
            spec: Some(v1::TaskSpec {
                group: group.map(|group| v1::TaskGroup {
                    group_id: group.to_owned(),
                    place: 0,
                    size: 1,
                }),
                ..v1::TaskSpec::default()
            }),
            ..v1::Task::default()
        }
    }

    fn picked(tasks: &[v1::Task], name: &str) -> String {
        match pick(tasks.to_vec(), name) {
            Ok(found) => {
                let ids: Vec<_> = found.iter().map(|task| task.task_id.as_str()).collect();
                ids.join(" ")
            }
            Err(failure) => failure.message,
        }
    }

    #[test]
    fn live_tasks_come_before_groups_and_groups_before_ended_tasks() {
        use v1::TaskState::{Finished, Running};
        let member = task("reader", "site", Running);
        let site = |state| task("site", "", state);
        assert_eq!(picked(&[member.clone(), site(Running)], "site"), "site");
        assert_eq!(picked(&[member.clone(), site(Finished)], "site"), "reader");
        let ended = task("reader", "site", Finished);
        assert_eq!(picked(&[ended.clone(), site(Finished)], "site"), "site");
        assert_eq!(picked(&[ended], "site"), "reader");
        // A prefix of a task's id comes before that of a group.
        let prefixed = [member.clone(), task("sigma", "", Running)];
        assert_eq!(picked(&prefixed, "si"), "sigma");
        assert_eq!(picked(&[member], "si"), "reader");
        assert_eq!(picked(&prefixed, "blue"), "no task \"blue\"");
    }

    #[test]
    fn tasks_of_one_executor_have_one_output() {
        let mut tasks: Vec<_> = ["a", "b", "web-10"]
            .map(|id| task(id, "", v1::TaskState::Running))
            .into();
        for task in &mut tasks[..2] {
            let spec = task.spec.as_mut().unwrap();
            spec.executor = Some(v1::ExecutorSpec {
                executor_id: "shell".to_owned(),
                ..v1::ExecutorSpec::default()
            });
        }
        let found = sources(tasks.clone());
        let labels: Vec<_> = found.iter().map(|source| source.label.as_str()).collect();
        assert_eq!(labels, ["shell  | ", "web-10 | "]);
        assert_eq!(found[0].task_ids, ["a", "b"]);
        let mut hostile = tasks.clone();
        hostile[2].task_id = "w\u{1b}[2J".to_owned();
        assert_eq!(sources(hostile)[1].label, "w\\u{1b}[2J | ");
        let single = sources(vec![tasks.remove(2)]);
        assert_eq!(single[0].label, "");
    }
}
