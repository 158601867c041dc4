//! `group run|list|kill`: groups, computed from their tasks.

use std::time::{Duration, Instant};

use argosy_proto::v1;
use argosy_proto::v1::write_operation::Operation;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::tasks::POLL_INTERVAL;
use super::{ObjectCommand, calls, two_threads};
use crate::args::{ConnectionArguments, GroupRun, ListView, OutputArguments, WriteArguments};
use crate::exit::{DONE, Failure, FailureCode, VerbResult};
use crate::lookup::{self, Candidate};
use crate::operator::{ClusterClient, EndedObjects, is_terminal, of_framework};
use crate::output::{self, ListLayout, Row, group_of, note, resources, state_word};
use crate::{parsers, run};

#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// Run the tasks of a file as one group, show their output, and exit when all have ended
    #[command(after_help = "Examples:
  argosy group run site.json
  argosy group run --detach --role web site.json

The file is JSON. The fields of a task are named as the flags of argosy run:
  {\"group\": \"site\", \"tasks\": [
    {\"name\": \"web\", \"mem\": \"64M\", \"env\": [\"A=1\", \"B=2\"], \"command\": [\"serve\", \"--port\", \"80\"]},
    {\"name\": \"reader\", \"command\": [\"sh\", \"-c\", \"tail -F /group/access.log\"]}
  ]}

Tasks start in this order once all can start. They share a network and the directory /group. When
one fails or is killed, they end one by one, the last one first. Ctrl-C ends the group.
The exit code is that of the first task that failed by itself, else 0.")]
    Run(GroupRun),
    /// List the groups that have tasks
    #[command(after_help = "Examples:
  argosy group list
  argosy group list --all -o wide")]
    List(GroupList),
    /// Kill all tasks of a group, the last one first
    #[command(after_help = "Examples:
  argosy group kill site
  argosy group kill framework-7/site --detach")]
    Kill(GroupKill),
}

#[derive(Debug, Args)]
pub(crate) struct GroupList {
    /// Include finished groups
    #[arg(short, long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) view: ListView,
    #[command(flatten)]
    pub(crate) show: OutputArguments,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
}

#[derive(Debug, Args)]
pub(crate) struct GroupKill {
    /// GROUP or FRAMEWORK/GROUP: id, or unique prefix of an id
    pub(crate) group: String,
    /// Grace period between TERM and KILL of its first task [default: as launched]
    #[arg(long, value_name = "TIME", value_parser = parsers::duration)]
    pub(crate) grace: Option<Duration>,
    /// Do not wait until it has ended
    #[arg(short, long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) write: WriteArguments,
    #[command(flatten)]
    pub(crate) reach: ConnectionArguments,
}

impl ObjectCommand for GroupCommand {
    const ABOUT: &str = "Task groups: run, list, kill";
    const EXAMPLES: &str = "Examples:
  argosy group run site.json
  argosy group kill site";

    fn run(&self) -> VerbResult {
        match self {
            Self::Run(arguments) => two_threads()?.block_on(run::run_group(arguments)),
            Self::List(arguments) => calls(list(arguments)),
            Self::Kill(arguments) => calls(kill(arguments)),
        }
    }

    fn output(&self) -> Option<OutputArguments> {
        match self {
            Self::List(arguments) => Some(arguments.show),
            Self::Run(_) | Self::Kill(_) => None,
        }
    }
}

/// One group, as its tasks describe it.
#[derive(Debug, Serialize)]
struct ListedGroup {
    group_id: String,
    framework_id: String,
    agent_id: String,
    /// The order of its first task, which identifies it permanently on its agent.
    order_index: u64,
    /// The tasks in the order of their start.
    tasks: Vec<GroupTask>,
    #[serde(skip)]
    sum: Vec<v1::Resource>,
    /// The log index of the last change of one of its tasks.
    #[serde(skip)]
    changed_at: u64,
}

#[derive(Debug, Serialize)]
struct GroupTask {
    task_id: String,
    state: String,
    #[serde(skip)]
    has_ended: bool,
    #[serde(skip)]
    place: u32,
}

#[derive(Debug, Serialize)]
struct Page<'a> {
    groups: &'a [ListedGroup],
}

impl ListedGroup {
    fn has_ended(&self) -> bool {
        self.tasks.iter().all(|task| task.has_ended)
    }

    fn shown(&self) -> String {
        format!("{}/{}", self.framework_id, self.group_id)
    }
}

impl Row for ListedGroup {
    const HEADINGS: &'static [&'static str] = &["GROUP", "TASKS", "AGENT", "FRAMEWORK"];
    const WIDE: &'static [&'static str] = &["RESOURCES"];

    fn cells(&self) -> Vec<String> {
        let tasks = self.tasks.iter();
        let tasks: Vec<_> = tasks
            .map(|task| format!("{} {}", task.task_id, task.state))
            .collect();
        vec![
            self.group_id.clone(),
            tasks.join(", "),
            self.agent_id.clone(),
            self.framework_id.clone(),
        ]
    }

    fn wide_cells(&self) -> Vec<String> {
        vec![resources(&self.sum)]
    }

    fn name(&self) -> String {
        self.shown()
    }
}

/// Returns the groups of these tasks. An id may have been used before.
fn groups(tasks: &[v1::Task]) -> Vec<ListedGroup> {
    let mut all: Vec<ListedGroup> = Vec::new();
    for task in tasks {
        let Some(own) = group_of(task) else { continue };
        let member = GroupTask {
            task_id: task.task_id.clone(),
            state: state_word(task.state),
            has_ended: is_terminal(task.state),
            place: own.place,
        };
        let order_index = task.order_index.saturating_sub(u64::from(own.place));
        let wants = task.spec.iter().flat_map(|spec| spec.resources.clone());
        let changed_at = task.revision.unwrap_or_default().index;
        let known = all.iter_mut().find(|group| {
            group.framework_id == task.framework_id
                && group.agent_id == task.agent_id
                && group.order_index == order_index
        });
        match known {
            Some(group) => {
                group.tasks.push(member);
                group.sum.extend(wants);
                group.changed_at = group.changed_at.max(changed_at);
            }
            None => all.push(ListedGroup {
                group_id: own.group_id.clone(),
                framework_id: task.framework_id.clone(),
                agent_id: task.agent_id.clone(),
                order_index,
                tasks: vec![member],
                sum: wants.collect(),
                changed_at,
            }),
        }
    }
    for group in &mut all {
        group.tasks.sort_by_key(|task| task.place);
    }
    all
}

async fn list_groups(
    operator: &ClusterClient,
    framework_id: Option<&str>,
) -> Result<Vec<ListedGroup>, Failure> {
    let filter = of_framework(framework_id);
    let page = operator.tasks(&filter, EndedObjects::Included).await?;
    Ok(groups(&page.tasks))
}

pub(crate) async fn list(arguments: &GroupList) -> VerbResult {
    let format = arguments.show.output;
    let layout = ListLayout::new::<ListedGroup>(format, &arguments.view)?;
    let operator = ClusterClient::open(&arguments.reach);
    let mut groups = list_groups(&operator, None).await?;
    groups.retain(|group| arguments.all || !group.has_ended());
    groups.sort_by_key(|group| std::cmp::Reverse(group.changed_at));
    layout.arrange(&mut groups);
    if groups.is_empty() && !format.is_json() {
        note(match arguments.all {
            true => "no groups",
            false => "no live groups; finished ones: --all",
        });
    }
    let page = Page { groups: &groups };
    output::list_as(format, &layout, &page, &groups)
}

pub(crate) async fn kill(arguments: &GroupKill) -> VerbResult {
    let operator = ClusterClient::open(&arguments.reach);
    let group = find(&operator, &arguments.group).await?;
    let shown = group.shown();
    let mut live = group.tasks.iter().filter(|task| !task.has_ended);
    // The end of one task ends all: the agent ends the others in turn.
    let Some(first) = live.next() else {
        note(&format!("{shown} has already ended"));
        return Ok(DONE);
    };
    if arguments.write.dry_run {
        let count = live.count() + 1;
        note(&format!(
            "would kill {count} tasks of {shown} on {}",
            group.agent_id
        ));
        return Ok(DONE);
    }
    let order = v1::KillTask {
        framework_id: group.framework_id.clone(),
        task_id: first.task_id.clone(),
        grace_ms: arguments.grace.map(|grace| grace.as_millis() as u64),
    };
    let request_id = arguments.write.request_id.as_ref();
    operator
        .write(request_id, Operation::KillTask(order))
        .await?;
    if arguments.detach {
        note(&format!("{shown} is being killed"));
        return Ok(DONE);
    }
    wait_for_end(&operator, &group).await
}

/// Returns the group that the user names. A live one takes precedence over one that has ended.
async fn find(operator: &ClusterClient, wanted: &str) -> Result<ListedGroup, Failure> {
    let (framework_id, name) = match wanted.split_once('/') {
        Some((framework, name)) => {
            let framework = operator.find_framework(framework).await?;
            (Some(framework.framework_id), name)
        }
        None => (None, wanted),
    };
    let mut groups = list_groups(operator, framework_id.as_deref()).await?;
    let is_live = |group: &ListedGroup| group.group_id == name && !group.has_ended();
    if groups.iter().any(is_live) {
        groups.retain(|group| !group.has_ended());
    } else {
        keep_newest(&mut groups, name);
    }
    let candidates: Vec<_> = groups.iter().map(candidate).collect();
    let at = lookup::find("group", name, &candidates)?;
    Ok(groups.swap_remove(at))
}

/// Removes all groups with this id but the newest, which is the one that is meant after the end of
/// all.
fn keep_newest(groups: &mut Vec<ListedGroup>, name: &str) {
    let named = groups.iter().filter(|group| group.group_id == name);
    let newest = named.max_by_key(|group| group.changed_at);
    let Some(newest) = newest.map(|group| (group.framework_id.clone(), group.order_index)) else {
        return;
    };
    groups.retain(|group| {
        group.group_id != name || (group.framework_id.clone(), group.order_index) == newest
    });
}

fn candidate(group: &ListedGroup) -> Candidate {
    Candidate {
        id: group.group_id.clone(),
        name: group.group_id.clone(),
        label: group.shown(),
    }
}

async fn wait_for_end(operator: &ClusterClient, group: &ListedGroup) -> VerbResult {
    let shown = group.shown();
    let deadline = Instant::now() + operator.timeout();
    let mut live = Vec::new();
    while Instant::now() < deadline {
        live.clear();
        for task in &group.tasks {
            let now = operator.task(&group.framework_id, &task.task_id).await?;
            live.extend(now.filter(|now| !is_terminal(now.state)));
        }
        if live.is_empty() {
            note(&format!("{shown} has ended"));
            return Ok(DONE);
        }
        let unreachable = v1::TaskState::Unreachable as i32;
        if live.iter().all(|task| task.state == unreachable) {
            let agent = &group.agent_id;
            note(&format!(
                "{shown} is on {agent}, which is unreachable; it is killed when that agent returns"
            ));
            return Ok(DONE);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    let waited = output::span_ms(operator.timeout().as_millis() as u64);
    let left: Vec<_> = live.iter().map(|task| task.task_id.as_str()).collect();
    let left = left.join(", ");
    Err(Failure::new(
        FailureCode::Failed,
        format!(
            "the kill of {shown} was requested, but after {waited} these have not ended: {left}"
        ),
    )
    .advise("argosy group list shows their state; --timeout waits longer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(id: &str, order_index: u64, place: u32, state: v1::TaskState) -> v1::Task {
        v1::Task {
            order_index,
            framework_id: "framework-1".to_owned(),
            task_id: id.to_owned(),
            agent_id: "agent-1".to_owned(),
            state: state.into(),
            spec: Some(v1::TaskSpec {
                group: Some(v1::TaskGroup {
                    group_id: "site".to_owned(),
                    place,
                    size: 2,
                }),
                ..v1::TaskSpec::default()
            }),
            ..v1::Task::default()
        }
    }

    #[test]
    fn groups_are_derived_from_tasks_in_start_order() {
        use v1::TaskState::{Killed, Running};
        let tasks = [
            task("reader", 8, 1, Running),
            v1::Task::default(),
            task("old", 3, 0, Killed),
            task("web", 7, 0, Running),
        ];
        let all = groups(&tasks);
        let cells: Vec<_> = all.iter().map(|group| group.cells()[1].clone()).collect();
        assert_eq!(cells, ["web running, reader running", "old killed"]);
        assert!(!all[0].has_ended() && all[1].has_ended());
    }

    #[test]
    fn of_groups_that_have_ended_the_newest_is_meant() {
        let ended = |framework: &str, order_index, changed_at| ListedGroup {
            group_id: "site".to_owned(),
            framework_id: framework.to_owned(),
            agent_id: "agent-1".to_owned(),
            order_index,
            tasks: Vec::new(),
            sum: Vec::new(),
            changed_at,
        };
        let mut all = vec![ended("framework-1", 7, 90), ended("framework-2", 3, 100)];
        keep_newest(&mut all, "other");
        assert_eq!(all.len(), 2);
        keep_newest(&mut all, "site");
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].framework_id, "framework-2");
    }
}
