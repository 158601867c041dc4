//! `group run|list|kill`.

use std::time::{Duration, Instant};

use argosy_proto::v1;
use argosy_proto::v1::watch_record::Record;
use argosy_proto::v1::write_operation::Operation;
use clap::{Args, Subcommand};
use serde::Serialize;

use super::tasks::POLL_INTERVAL;
use super::{ObjectCommand, calls, in_a_task};
use crate::args::{ConnectionArguments, GroupRun, ListView, OutputArguments, WriteArguments};
use crate::exit::{DONE, Failure, FailureCode, VerbResult};
use crate::operator::{ClusterClient, EndedObjects, GroupTracker, ListedGroup, is_terminal};
use crate::output::{self, ListLayout, Row, RowPrinter, StatusLine, StatusMode, note, resources};
use crate::watching::{ListChange, ListFeed, WatchedList};
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
  argosy group list --watch
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
    /// Include groups that have ended
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Keep printing a line for each change of the state of a task, until Ctrl-C; the last one of a
    /// group shows that all have ended
    #[arg(short, long)]
    pub(crate) watch: bool,
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

impl GroupList {
    /// Removes the groups that are not listed, and sorts the others: the last change comes first.
    fn arrange(&self, groups: &mut Vec<ListedGroup>, layout: &ListLayout) {
        groups.retain(|group| self.all || !group.has_ended());
        groups.sort_by_key(|group| std::cmp::Reverse(group.changed_at));
        layout.arrange(groups);
    }
}

impl ObjectCommand for GroupCommand {
    const ABOUT: &str = "Task groups: run, list, kill";
    const EXAMPLES: &str = "Examples:
  argosy group run site.json
  argosy group kill site";

    fn run(&self) -> VerbResult {
        match self {
            Self::Run(arguments) => in_a_task(run::run_group(arguments)),
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

#[derive(Debug, Serialize)]
struct Page<'a> {
    groups: &'a [ListedGroup],
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

pub(crate) async fn list(arguments: &GroupList) -> VerbResult {
    let format = arguments.show.output;
    let layout = ListLayout::new::<ListedGroup>(format, &arguments.view)?;
    let operator = ClusterClient::open(&arguments.reach)?;
    if arguments.watch {
        return follow(&operator, arguments, &layout).await;
    }
    let mut groups = operator.groups(None).await?;
    arguments.arrange(&mut groups, &layout);
    if groups.is_empty() && !format.is_json() {
        note(match arguments.all {
            true => "no groups",
            false => "no live groups; ended ones: --all",
        });
    }
    let page = Page { groups: &groups };
    output::list_as(format, &layout, &page, &groups)
}

/// Prints the groups, and then each one whose tasks change, until a master rejects the stream or
/// the reader of the output is gone.
async fn follow(
    operator: &ClusterClient,
    arguments: &GroupList,
    layout: &ListLayout,
) -> VerbResult {
    let mut printer = RowPrinter::new(arguments.show.output, layout)?;
    let (mut tracker, revision) = tracked(operator).await?;
    let mut printed = tracker.all();
    arguments.arrange(&mut printed, layout);
    // Groups are computed from their tasks, and the feed has these.
    let list = WatchedList {
        kind: "task",
        filter: Vec::new(),
        revision,
    };
    let mut feed = ListFeed::new(operator, list);
    loop {
        if printer.rows(&printed)?.is_gone() {
            return Ok(DONE);
        }
        printed = loop {
            let (record, removed) = match feed.next().await? {
                ListChange::Record { record, removed } => (record, removed),
                ListChange::SnapshotBegin => continue,
                // It does not have ended tasks.
                ListChange::SnapshotEnd => {
                    (tracker, _) = tracked(operator).await?;
                    let mut all = tracker.all();
                    arguments.arrange(&mut all, layout);
                    break all;
                }
            };
            match record.record {
                Some(Record::Task(task)) => {
                    if let Some(changed) = tracker.change(task, removed) {
                        break vec![changed];
                    }
                }
                Some(_) => {}
                None => tracker.forget(&record.id),
            }
        };
    }
}

/// Returns the groups of all tasks, and the log index of the list.
async fn tracked(operator: &ClusterClient) -> Result<(GroupTracker, u64), Failure> {
    let page = operator.tasks(&[], EndedObjects::Included).await?;
    let revision = page.revision.unwrap_or_default().index;
    Ok((GroupTracker::new(page.tasks), revision))
}

pub(crate) async fn kill(arguments: &GroupKill) -> VerbResult {
    let operator = ClusterClient::open(&arguments.reach)?;
    let group = operator.find_group(&arguments.group).await?;
    let shown = group.shown();
    let mut live = group.tasks.iter().filter(|task| !task.has_ended);
    // The end of one task ends all: the agent ends the others in turn.
    let Some(first) = live.next() else {
        note(&format!("{shown} has already ended"));
        return Ok(DONE);
    };
    if arguments.write.dry_run {
        let tasks = match live.count() {
            0 => "1 task".to_owned(),
            others => format!("{} tasks", others + 1),
        };
        note(&format!(
            "would kill {tasks} of {shown} on {}",
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

async fn wait_for_end(operator: &ClusterClient, group: &ListedGroup) -> VerbResult {
    let shown = group.shown();
    let deadline = Instant::now() + operator.timeout();
    let mut live = Vec::new();
    let mut line = StatusLine::new(StatusMode::Shown);
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
        let (left, all) = (live.len(), group.tasks.len());
        line.show(|_| format!("waiting for the end of {shown}: {left} of {all} tasks left"));
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
